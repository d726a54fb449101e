mod fixture;
mod hostile;
mod rows;
mod set_aside;

use super::*;
use crate::engine::cause::Cause;
use crate::engine::effect::ReportKind;
use crate::engine::state::Target;
use manifests::digest::Sha256Digest;

fn plan(attempt: &str) -> Plan {
    let target = Target {
        slot: SlotName::B,
        version: Version::parse("2.0.0").unwrap(),
        sequence: Sequence::new(2).unwrap(),
        digest: Sha256Digest::of(b"2"),
    };
    Plan::without_payload(attempt.to_owned(), Kind::Update, target, "1.0.0".to_owned(), Wall(1000))
}

fn report(attempt: &str) -> Report {
    Report {
        kind: ReportKind::RolledBack,
        attempt: attempt.to_owned(),
        running_version: "1.0.0".to_owned(),
        from_version: "1.0.0".to_owned(),
        to_version: "2.0.0".to_owned(),
        code: Some(Cause::RolledBack),
        reason: Some("it did not come up".to_owned()),
    }
}

fn claim() -> Claim {
    Claim { url: "http://l/".to_owned(), group: "g".to_owned(), id: "h".to_owned(), fence: Some("7".to_owned()), granted: true }
}

fn open(dir: &tempfile::TempDir) -> (Journal, Model) {
    Journal::open(dir.path(), Wall(5000)).unwrap()
}

#[test]
fn every_message_of_the_outbox_comes_back_as_it_was_posted_until_it_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, model) = open(&dir);
    let release = Row::Release { attempt: "one".to_owned(), claim: claim(), outcome: LockOutcome::RolledBack };
    journal.commit(&model, &[&Row::Report(report("one")), &release], Wall(2000)).unwrap();
    drop(journal);
    let (mut journal, _) = open(&dir);
    let rows = journal.outbox().unwrap();
    let messages: Vec<Message> = rows.iter().map(|row| row.message.clone()).collect();
    assert_eq!(messages, [Message::Report(report("one")), Message::Release { claim: claim(), outcome: LockOutcome::RolledBack }]);
    assert!(rows.iter().all(|row| row.attempt == "one" && row.created_at == Wall(2000)));
    journal.delivered(rows[0].id).unwrap();
    assert_eq!(journal.outbox().unwrap().len(), 1);
}

#[test]
fn an_attempt_ends_once_and_keeps_how() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, model) = open(&dir);
    journal.commit(&model, &[&Row::Open(plan("one"))], Wall(1000)).unwrap();
    let downloaded = Row::Downloaded { attempt: "one".to_owned(), bytes: 40 };
    let close = |outcome, reason: &str| Row::Close {
        attempt: "one".to_owned(),
        outcome,
        fault: Some(Fault::new(Cause::RolledBack, reason)),
    };
    journal.commit(&model, &[&downloaded, &downloaded, &close(Outcome::RolledBack, "first")], Wall(3000)).unwrap();
    journal.commit(&model, &[&close(Outcome::Committed, "second")], Wall(4000)).unwrap();
    let history = journal.history().unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!(
        (history[0].outcome.as_deref(), history[0].reason.as_str(), history[0].ended_at),
        (Some("rolled-back"), "first", Some(Wall(3000)))
    );
    assert_eq!(history[0].bytes_downloaded, 80);
    assert_eq!(journal.orphans(None).unwrap(), []);
}

#[test]
fn reports_and_attempts_are_bounded_and_lock_releases_are_never_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, model) = open(&dir);
    let mut rows = vec![Row::Release { attempt: "old".to_owned(), claim: claim(), outcome: LockOutcome::Ok }];
    for number in 0..MAX_REPORTS + 50 {
        let attempt = format!("attempt{number}");
        rows.push(Row::Open(plan(&attempt)));
        rows.push(Row::Close { attempt: attempt.clone(), outcome: Outcome::Failed, fault: None });
        rows.push(Row::Report(report(&attempt)));
    }
    journal.commit(&model, &rows.iter().collect::<Vec<_>>(), Wall(1)).unwrap();
    assert_eq!(journal.history().unwrap().len(), usize::try_from(MAX_ATTEMPTS).unwrap());
    let outbox = journal.outbox().unwrap();
    assert_eq!(outbox.len(), usize::try_from(MAX_REPORTS).unwrap() + 1);
    assert!(matches!(outbox[0].message, Message::Release { .. }));
}

#[test]
fn design_11_1_a_newer_journal_is_set_aside_and_its_attempts_outbox_and_refusals_are_carried_over() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, mut model) = open(&dir);
    model.check.count = 7;
    let refusal = Refusal {
        digest: Sha256Digest::of(b"3"),
        sequence: Sequence::new(3).unwrap(),
        version: "3.0.0".to_owned(),
        reason: "bad".to_owned(),
        at: Wall(9),
    };
    let rows = [Row::Open(plan("one")), Row::Report(report("one")), Row::Refuse(refusal.clone())];
    journal.commit(&model, &rows.iter().collect::<Vec<_>>(), Wall(1)).unwrap();
    let newer = "ALTER TABLE attempt ADD COLUMN colour TEXT; CREATE TABLE new_thing (x); UPDATE meta SET value = 99;";
    journal.db.execute_batch(newer).unwrap();
    drop(journal);
    let (journal, model) = open(&dir);
    assert_eq!(model.check.count, 0, "the model of a newer daemon is not read");
    assert!(
        model.journal_note.as_deref().is_some_and(|note| note.contains("newer daemon (schema 99")),
        "{:?}",
        model.journal_note
    );
    assert_eq!(model.refusals, [refusal]);
    assert_eq!(journal.outbox().unwrap().len(), 1);
    let orphans = journal.orphans(None).unwrap();
    assert_eq!((orphans.len(), orphans[0].attempt.as_str(), orphans[0].slot), (1, "one", SlotName::B));
}

#[test]
fn a_journal_that_is_no_journal_is_set_aside_and_said() {
    for garbage in [&b"not a database, but long enough to look like a file somebody wrote"[..], &[0xFF; 8192][..]] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("journal.db"), garbage).unwrap();
        let (journal, model) = open(&dir);
        assert!(model.journal_note.as_deref().is_some_and(|note| note.contains("unreadable")), "{:?}", model.journal_note);
        assert_eq!(journal.history().unwrap(), []);
    }
}

#[test]
fn a_file_that_the_medium_does_not_give_back_is_damage_and_a_full_or_read_only_disk_is_none() {
    use rusqlite::ffi;
    let is_damage = |code| {
        let source = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        JournalError::Sqlite { path: "journal.db".into(), source }.is_damage()
    };
    for code in [ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_IOERR_CORRUPTFS, ffi::SQLITE_CORRUPT] {
        assert!(is_damage(code), "{code}");
    }
    for code in [ffi::SQLITE_FULL, ffi::SQLITE_READONLY, ffi::SQLITE_CANTOPEN, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_SHMSIZE]
    {
        assert!(!is_damage(code), "{code}");
    }
}

#[test]
fn a_stand_in_is_empty_and_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::stand_in(dir.path(), "state folder /x: read-only".into()).unwrap();
    assert_eq!(journal.commit(&Model::default(), &[], Wall(0)).unwrap_err().to_string(), "state folder /x: read-only");
    assert_eq!((journal.history().unwrap(), journal.outbox().unwrap()), (Vec::new(), Vec::new()));
    assert!(!dir.path().join("journal.db").exists());
}

#[test]
fn a_journal_that_is_left_takes_nothing_away_that_lies_where_it_was_opened() {
    let dir = tempfile::tempdir().unwrap();
    let [state, below] = ["state", "below"].map(|name| dir.path().join(name));
    std::fs::create_dir(&state).unwrap();
    let (mut journal, model) = Journal::open(&state, Wall(5000)).unwrap();
    journal.commit(&model, &[&Row::Open(plan("one"))], Wall(1000)).unwrap();
    // Another file system comes there, in which the number of the journal's inode is the same.
    std::fs::rename(&state, &below).unwrap();
    std::fs::create_dir(&state).unwrap();
    std::fs::hard_link(below.join("journal.db"), state.join("journal.db")).unwrap();
    let parts = ["journal.db-wal", "journal.db-shm"];
    parts.iter().for_each(|part| std::fs::write(state.join(part), "theirs").unwrap());
    journal.leave();
    for part in parts {
        assert_eq!(std::fs::read_to_string(state.join(part)).unwrap(), "theirs");
    }
    let (journal, _) = Journal::open(&below, Wall(5000)).unwrap();
    assert_eq!(journal.history().unwrap().len(), 1, "what was written here stays");
}
