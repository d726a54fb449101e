//! Journals of every schema there ever was: they must open for ever.

use crate::engine::effect::LockOutcome;
use crate::engine::model::{Ended, Model};
use crate::engine::state::{ArmedStep, State};
use crate::engine::time::Wall;
use crate::journal::{Journal, Message};
use manifests::release::SlotName;

const V1: &str = include_str!("../../../testdata/journal/v1.sql");

fn restore(sql: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    rusqlite::Connection::open(dir.path().join("journal.db")).unwrap().execute_batch(sql).unwrap();
    dir
}

#[test]
fn a_journal_of_schema_1_is_read_whole() {
    let dir = restore(V1);
    let (journal, model) = Journal::open(dir.path(), Wall(9)).unwrap();
    assert_eq!(model.journal_note, None);
    let State::Armed { plan, old_slot: SlotName::A, boot_id, step: ArmedStep::Rebooting } = &model.state else {
        panic!("{:?}", model.state)
    };
    assert_eq!((boot_id.as_str(), plan.attempt.as_str()), ("boot-1", "22222222-2222-4222-8222-222222222222"));
    assert_eq!((plan.version.as_str(), plan.sequence.get(), plan.drained), ("1.2.0", 3, true));
    let claim = plan.claim.as_ref().unwrap();
    assert_eq!((claim.group.as_str(), claim.fence.as_deref(), claim.granted), ("default", Some("17"), true));
    assert_eq!(model.ended, Ended { committed: 1, rolled_back: 1, failed: 0 });
    assert_eq!((model.check.count, model.check.errors), (12, 0));
    assert_eq!(model.committed.a.as_ref().unwrap().version, "1.0.0");
    let refused: Vec<&str> = model.refusals.iter().map(|refusal| refusal.version.as_str()).collect();
    assert_eq!(refused, ["1.1.0"]);
    let history: Vec<(String, Option<String>, u64)> = journal
        .history()
        .unwrap()
        .into_iter()
        .map(|attempt| (attempt.to_version, attempt.outcome, attempt.bytes_downloaded))
        .collect();
    let words = |text: &str| Some(text.to_owned());
    assert_eq!(
        history,
        [("1.2.0".into(), None, 4096), ("1.1.0".into(), words("rolled-back"), 2048), ("1.0.0".into(), words("committed"), 1024)]
    );
    let outbox = journal.outbox().unwrap();
    assert!(matches!(&outbox[0].message, Message::Report(report) if report.to_version == "1.1.0"));
    assert!(matches!(&outbox[1].message, Message::Release { outcome: LockOutcome::RolledBack, .. }));
    assert_eq!(outbox.len(), 2);
    assert_eq!(journal.orphans(Some(&plan.attempt)).unwrap(), []);
}

#[test]
fn the_tables_of_this_build_are_those_of_the_newest_fixture() {
    let tables = |journal: &Journal| -> Vec<String> {
        let mut statement = journal
            .db
            .prepare("SELECT type || ' ' || name || ': ' || sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
            .unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        rows.map(|row| row.unwrap().split_whitespace().collect::<Vec<_>>().join(" ").replace("IF NOT EXISTS ", "")).collect()
    };
    let old = restore(V1);
    let fresh = tempfile::tempdir().unwrap();
    let (old, _) = Journal::open(old.path(), Wall(1)).unwrap();
    let (fresh, model) = Journal::open(fresh.path(), Wall(1)).unwrap();
    assert_eq!(tables(&fresh), tables(&old), "a change of the schema needs a number and a fixture of its own");
    assert_eq!(model, Model::default());
}
