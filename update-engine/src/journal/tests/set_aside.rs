//! Journals that are set aside, and power cuts while that is done.

use std::path::Path;

use super::{claim, open, plan, report};
use crate::engine::effect::{LockOutcome, Outcome, Row};
use crate::engine::model::Ended;
use crate::engine::time::Wall;
use crate::journal::{Journal, MAX_SET_ASIDE, SCHEMA};

/// A journal with one of everything, written by a daemon of another age.
fn newer(dir: &Path) {
    let (mut journal, mut model) = Journal::open(dir, Wall(1)).unwrap();
    model.check.count = 7;
    let rows = [
        Row::Open(plan("done")),
        Row::Close { attempt: "done".into(), outcome: Outcome::Committed, fault: None },
        Row::Open(plan("open")),
        Row::Report(report("done")),
        Row::Release { attempt: "done".into(), claim: claim(), outcome: LockOutcome::Ok },
    ];
    journal.commit(&model, &rows.iter().collect::<Vec<_>>(), Wall(2)).unwrap();
    // As INTERFACES allow: columns and tables are added; the model's form is another.
    let changes = "ALTER TABLE attempt ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue';
                   ALTER TABLE outbox ADD COLUMN urgency INTEGER;
                   CREATE TABLE novelty (id INTEGER PRIMARY KEY, what TEXT);
                   UPDATE model SET json = '{\"state\":\"hovering\"}';
                   UPDATE meta SET value = 99";
    journal.db.execute_batch(changes).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    names.sort();
    names
}

fn assert_carried(journal: &Journal) {
    let attempts: Vec<String> = journal.history().unwrap().into_iter().map(|attempt| attempt.id).collect();
    assert_eq!(attempts, ["open", "done"]);
    assert_eq!(journal.outbox().unwrap().len(), 2);
    assert_eq!(journal.orphans(None).unwrap().len(), 1);
}

#[test]
fn design_11_1_what_never_changes_form_is_carried_over_and_the_rest_is_said_to_be_aside() {
    let dir = tempfile::tempdir().unwrap();
    newer(dir.path());
    let (journal, model) = Journal::open(dir.path(), Wall(77)).unwrap();
    assert_carried(&journal);
    assert_eq!(model.check.count, 0);
    assert_eq!(model.ended, Ended { committed: 1, ..Ended::default() });
    let note = model.journal_note.clone().unwrap();
    for part in [
        "was written by a newer daemon (schema 99, this one reads 1)",
        "journal.db.newer-77",
        "2 attempts, 2 messages to servers, 0 refusals",
    ] {
        assert!(note.contains(part), "{note}");
    }
    assert_eq!(names(dir.path()), ["journal.db", "journal.db.newer-77"]);
    // It is an ordinary journal from now on, and the note stays until an update commits.
    drop(journal);
    let (journal, again) = open(&dir);
    assert_eq!(again, model);
    assert_carried(&journal);
    assert_eq!(names(dir.path()), ["journal.db", "journal.db.newer-77"]);
}

#[test]
fn design_11_1_a_newer_journal_that_this_build_can_read_is_used_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, mut model) = open(&dir);
    model.check.count = 7;
    journal.commit(&model, &[&Row::Open(plan("one"))], Wall(2)).unwrap();
    let added = "ALTER TABLE attempt ADD COLUMN colour TEXT; UPDATE meta SET value = 99 WHERE key = 'schema'";
    journal.db.execute_batch(added).unwrap();
    drop(journal);
    let (mut journal, read) = open(&dir);
    assert_eq!(read, model);
    journal.commit(&model, &[&Row::Open(plan("two"))], Wall(3)).unwrap();
    // Its schema number is not lowered.
    let schema: i64 = journal.db.query_row("SELECT value FROM meta WHERE key = 'schema'", [], |row| row.get(0)).unwrap();
    assert_eq!((schema, SCHEMA), (99, 1));
}

#[test]
fn design_11_1_a_power_cut_at_any_moment_of_setting_aside_loses_nothing() {
    // Before anything was renamed: half a new journal lies beside the old one.
    let dir = tempfile::tempdir().unwrap();
    newer(dir.path());
    std::fs::write(dir.path().join("journal.db.new"), b"half a journal").unwrap();
    assert_carried(&Journal::open(dir.path(), Wall(77)).unwrap().0);
    assert_eq!(names(dir.path()), ["journal.db", "journal.db.newer-77"]);

    // Between the two renames; the old one's log may still lie there.
    let dir = tempfile::tempdir().unwrap();
    newer(dir.path());
    let (done, _) = Journal::open(dir.path(), Wall(77)).unwrap();
    drop(done);
    let at = |name: &str| dir.path().join(name);
    std::fs::rename(at("journal.db"), at("journal.db.new")).unwrap();
    std::fs::write(at("journal.db-wal"), [7; 4096]).unwrap();
    let (journal, model) = Journal::open(dir.path(), Wall(78)).unwrap();
    assert_carried(&journal);
    assert!(model.journal_note.unwrap().contains("journal.db.newer-77"));
    assert_eq!(names(dir.path()), ["journal.db", "journal.db.newer-77"]);
}

#[test]
fn a_journal_whose_model_alone_is_unreadable_keeps_its_tables() {
    let dir = tempfile::tempdir().unwrap();
    newer(dir.path());
    let (journal, _) = Journal::open(dir.path(), Wall(77)).unwrap();
    journal.db.execute_batch("UPDATE model SET json = '{\"state\":{\"state\":\"hovering\"}}'").unwrap();
    drop(journal);
    let (journal, model) = Journal::open(dir.path(), Wall(78)).unwrap();
    assert_carried(&journal);
    let note = model.journal_note.unwrap();
    assert!(note.contains("the model is unreadable") && note.contains("hovering"), "{note}");
}

#[test]
fn only_the_newest_few_are_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..6 {
        std::fs::write(dir.path().join("journal.db"), format!("garbage {number}, and not little of it")).unwrap();
        drop(Journal::open(dir.path(), Wall(number)).unwrap());
    }
    assert_eq!(names(dir.path()).len(), MAX_SET_ASIDE + 1);
}
