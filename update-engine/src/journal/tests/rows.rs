//! Every kind of row, and what a kill leaves of a step.

use super::{claim, open, plan, report};
use crate::engine::cause::Cause;
use crate::engine::effect::{LockOutcome, Outcome, ReportKind, Row};
use crate::engine::event::{Fault, Orphan};
use crate::engine::model::Refusal;
use crate::engine::state::{Claim, Kind, Plan, State};
use crate::engine::time::Wall;
use crate::journal::{Attempt, Journal, MAX_ATTEMPTS, Message};
use manifests::digest::Sha256Digest;
use manifests::version::Sequence;

fn refusal(number: u64) -> Refusal {
    Refusal {
        digest: Sha256Digest::of(&number.to_le_bytes()),
        sequence: Sequence::new(number).unwrap(),
        version: format!("{number}.0"),
        reason: "it did not come up".to_owned(),
        at: Wall(9),
    }
}

fn close(attempt: &str, outcome: Outcome) -> Row {
    Row::Close { attempt: attempt.into(), outcome, fault: Some(Fault::new(Cause::Download, "because")) }
}

#[test]
fn an_attempt_is_read_back_with_everything_that_was_written_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, model) = open(&dir);
    let warnings = vec!["20-disk exited with 1".to_owned(), "30-net exited with 2".to_owned()];
    let forced = Plan { forced: true, allow_older: true, claim: Some(claim()), warnings, ..plan("one") };
    let rows = [
        Row::Open(plan("one")),
        Row::Downloaded { attempt: "one".into(), bytes: 40 },
        Row::Downloaded { attempt: "one".into(), bytes: 2 },
        Row::Update(forced),
    ];
    journal.commit(&model, &rows.iter().collect::<Vec<_>>(), Wall(2000)).unwrap();
    let running = Attempt {
        id: "one".into(),
        kind: "update".into(),
        slot: "b".into(),
        from_version: "1.0.0".into(),
        to_version: "2.0.0".into(),
        to_sequence: 2,
        started_at: Wall(1000),
        ended_at: None,
        outcome: None,
        code: String::new(),
        reason: String::new(),
        bytes_downloaded: 42,
        notes:
            "an older release, permitted by a person; reboot forced: lock and inhibitors skipped; wanted health check: 20-disk \
                exited with 1; wanted health check: 30-net exited with 2"
                .into(),
    };
    assert_eq!(journal.history().unwrap(), std::slice::from_ref(&running));
    journal.commit(&model, &[&close("one", Outcome::Abandoned)], Wall(3000)).unwrap();
    drop(journal);
    let ended = Attempt {
        ended_at: Some(Wall(3000)),
        outcome: Some("abandoned".into()),
        code: "download".into(),
        reason: "because".into(),
        ..running
    };
    assert_eq!(open(&dir).0.history().unwrap(), [ended]);
}

#[test]
fn every_kind_of_attempt_and_every_outcome_has_its_word() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, model) = open(&dir);
    let kinds = [(Kind::Update, "update"), (Kind::Rollback, "rollback"), (Kind::Found, "found")];
    let outcomes = [
        (Outcome::Committed, "committed"),
        (Outcome::RolledBack, "rolled-back"),
        (Outcome::Failed, "failed"),
        (Outcome::Abandoned, "abandoned"),
    ];
    for (kind, kind_word) in kinds {
        for (outcome, outcome_word) in outcomes {
            let id = format!("{kind_word}-{outcome_word}");
            let rows = [Row::Open(Plan { kind, ..plan(&id) }), close(&id, outcome)];
            journal.commit(&model, &rows.iter().collect::<Vec<_>>(), Wall(1)).unwrap();
            let newest = journal.history().unwrap().remove(0);
            assert_eq!((newest.kind.as_str(), newest.outcome.as_deref()), (kind_word, Some(outcome_word)));
        }
    }
}

#[test]
fn every_report_and_every_release_comes_back_word_for_word() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, model) = open(&dir);
    use ReportKind::{Abandoned, Committed, DownloadFinished, DownloadStarted, Failed, Installed, RolledBack};
    let kinds = [DownloadStarted, DownloadFinished, Installed, Committed, RolledBack, Failed, Abandoned];
    let mut rows: Vec<Row> = Vec::new();
    let mut expected = Vec::new();
    for kind in kinds {
        let report = crate::engine::effect::Report { kind, ..report("one") };
        rows.push(Row::Report(report.clone()));
        expected.push(Message::Report(report));
    }
    for outcome in [LockOutcome::Ok, LockOutcome::RolledBack, LockOutcome::Aborted] {
        let claim = Claim { fence: None, granted: false, ..claim() };
        rows.push(Row::Release { attempt: "one".into(), claim: claim.clone(), outcome });
        expected.push(Message::Release { claim, outcome });
    }
    journal.commit(&model, &rows.iter().collect::<Vec<_>>(), Wall(1)).unwrap();
    drop(journal);
    let got: Vec<Message> = open(&dir).0.outbox().unwrap().into_iter().map(|row| row.message).collect();
    assert_eq!(got, expected);
}

#[test]
fn refusals_come_back_in_their_order_and_a_forgiven_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, model) = open(&dir);
    let rows = [Row::Refuse(refusal(1)), Row::Refuse(refusal(2)), Row::Refuse(refusal(3)), Row::Refuse(refusal(1))];
    journal.commit(&model, &rows.iter().collect::<Vec<_>>(), Wall(1)).unwrap();
    journal.commit(&model, &[&Row::Forgive(refusal(2).digest)], Wall(1)).unwrap();
    drop(journal);
    assert_eq!(open(&dir).1.refusals, [refusal(3), refusal(1)]);
}

#[test]
fn refusals_are_bounded_and_the_newest_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, model) = open(&dir);
    let most = crate::engine::policy::MAX_REFUSALS;
    let rows: Vec<Row> = (1..=u64::from(most) + 20).map(|number| Row::Refuse(refusal(number))).collect();
    journal.commit(&model, &rows.iter().collect::<Vec<_>>(), Wall(1)).unwrap();
    drop(journal);
    let kept = open(&dir).1.refusals;
    assert_eq!(kept.len(), usize::try_from(most).unwrap());
    assert_eq!(kept.first(), Some(&refusal(21)));
}

#[test]
fn an_attempt_made_while_the_clock_was_ten_years_slow_is_not_the_first_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, model) = open(&dir);
    for number in 0..MAX_ATTEMPTS {
        let id = format!("attempt-{number}");
        let started_at = Wall(1_000_000 + i64::from(number));
        let rows = [Row::Open(Plan { started_at, ..plan(&id) }), close(&id, Outcome::Failed)];
        journal.commit(&model, &rows.iter().collect::<Vec<_>>(), Wall(1)).unwrap();
    }
    let rows = [Row::Open(Plan { started_at: Wall(5), ..plan("slow") }), close("slow", Outcome::Committed)];
    journal.commit(&model, &rows.iter().collect::<Vec<_>>(), Wall(6)).unwrap();
    let history = journal.history().unwrap();
    assert_eq!((history.len(), history[0].id.as_str()), (usize::try_from(MAX_ATTEMPTS).unwrap(), "slow"));
    assert_eq!(history.last().unwrap().id, "attempt-1");
}

#[test]
fn attempts_that_never_ended_are_orphans_with_their_lock_except_the_one_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, model) = open(&dir);
    let claimed = Plan { claim: Some(claim()), ..plan("one") };
    let rows = [
        Row::Open(plan("one")),
        Row::Update(claimed),
        Row::Open(plan("two")),
        Row::Open(plan("three")),
        close("three", Outcome::Failed),
    ];
    journal.commit(&model, &rows.iter().collect::<Vec<_>>(), Wall(1)).unwrap();
    let known = plan("one");
    let expected = Orphan {
        attempt: "one".into(),
        slot: known.slot,
        from_version: known.from_version,
        version: known.version,
        sequence: known.sequence,
        digest: known.digest,
        started_at: known.started_at,
        claim: Some(claim()),
    };
    assert_eq!(journal.orphans(Some("two")).unwrap(), [expected]);
    assert_eq!(journal.orphans(None).unwrap().len(), 2);
}

#[test]
fn a_step_is_whole_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, mut model) = open(&dir);
    model.check.count = 41;
    model.state = State::Written { plan: plan("one"), rewrites: 1 };
    journal.commit(&model, &[&Row::Open(plan("one"))], Wall(1)).unwrap();
    // Killed: nothing is closed, the write-ahead log is left as it is.
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    std::mem::forget(journal);
    for place in [&dir, &copy] {
        let (journal, read) = open(place);
        assert_eq!(read, model);
        assert_eq!(journal.history().unwrap().len(), 1);
    }
}

#[test]
fn a_log_that_was_cut_anywhere_leaves_the_step_before_or_after_and_never_half_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, mut model) = open(&dir);
    journal.commit(&model, &[], Wall(1)).unwrap();
    for step in 1..=3 {
        model.check.count = step;
        let id = format!("attempt-{step}");
        journal.commit(&model, &[&Row::Open(plan(&id))], Wall(1)).unwrap();
    }
    let db = std::fs::read(dir.path().join("journal.db")).unwrap();
    let log = std::fs::read(dir.path().join("journal.db-wal")).unwrap();
    std::mem::forget(journal);
    let mut seen = std::collections::BTreeSet::new();
    for length in (0..=log.len()).step_by(512).chain([log.len()]) {
        let cut = tempfile::tempdir().unwrap();
        std::fs::write(cut.path().join("journal.db"), &db).unwrap();
        std::fs::write(cut.path().join("journal.db-wal"), &log[..length]).unwrap();
        let (journal, model) = Journal::open(cut.path(), Wall(5)).unwrap();
        let attempts = journal.history().unwrap().len();
        assert_eq!(u64::try_from(attempts).unwrap(), model.check.count, "cut at {length}");
        seen.insert(attempts);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn nothing_new_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, model) = open(&dir);
    journal.commit(&model, &[], Wall(1)).unwrap();
    let length = || std::fs::metadata(dir.path().join("journal.db-wal")).unwrap().len();
    let before = length();
    for _ in 0..10 {
        journal.commit(&model, &[], Wall(2)).unwrap();
    }
    assert_eq!(length(), before);
}
