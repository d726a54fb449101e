//! Journals that are none: set aside or refused in words, never a panic.

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use serde_json::{Value, json};

use super::{open, plan};
use crate::engine::cause::Cause;
use crate::engine::effect::Row;
use crate::engine::facts::PerSlot;
use crate::engine::model::{CommittedSlot, Failures, Model, Pause};
use crate::engine::state::{Alarm, ArmedStep, Claim, GivingUp, Plan, State, WayBack};
use crate::engine::time::{Mono, Wall};
use crate::journal::{Journal, JournalError};
use manifests::release::SlotName;
use manifests::version::Sequence;

fn set_aside(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("journal.db"), bytes).unwrap();
    let (journal, model) = Journal::open(dir.path(), Wall(1)).unwrap();
    assert_eq!(journal.history().unwrap(), []);
    model.journal_note.unwrap_or_default()
}

fn filled() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, model) = open(&dir);
    let rows: Vec<Row> = (0..50).map(|number| Row::Open(plan(&format!("attempt-{number}")))).collect();
    journal.commit(&model, &rows.iter().collect::<Vec<_>>(), Wall(1)).unwrap();
    journal.db.close().unwrap();
    std::fs::read(dir.path().join("journal.db")).unwrap()
}

#[test]
fn an_empty_file_is_said_to_have_been_empty() {
    for bytes in [&b""[..], b"S"] {
        assert_eq!(set_aside(bytes), "the journal was empty: nothing that was under way is known");
    }
}

#[test]
fn a_file_that_was_cut_or_scribbled_on_is_set_aside_or_still_read_and_never_a_panic() {
    let whole = filled();
    let open_bytes = |bytes: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("journal.db"), bytes).unwrap();
        let (mut journal, model) = Journal::open(dir.path(), Wall(1)).unwrap();
        let attempts = journal.history();
        let works = journal.commit(&Model::default(), &[&Row::Open(plan("new"))], Wall(2)).is_ok();
        (model.journal_note, attempts.map_or(0, |attempts| attempts.len()), works)
    };
    for length in (2..whole.len()).step_by(997) {
        let (note, _, works) = open_bytes(&whole[..length]);
        assert!(note.is_some_and(|note| note.contains("unreadable")) && works, "cut to {length}");
    }
    let mut aside = 0;
    for at in (0..whole.len()).step_by(613) {
        let mut bytes = whole.clone();
        let end = (at + 64).min(bytes.len());
        bytes[at..end].fill(0xA5);
        let (note, ..) = open_bytes(&bytes);
        aside += u32::from(note.is_some());
    }
    assert!(aside > 0, "no damage was noticed");
}

#[test]
fn tables_of_another_shape_are_set_aside_with_what_can_be_read() {
    let shapes = [
        "DROP TABLE attempt; CREATE TABLE attempt (colour TEXT)",
        "DROP TABLE model; CREATE TABLE model (json BLOB)",
        "DROP TABLE refusal; CREATE TABLE refusal (digest TEXT)",
        "DROP TABLE meta; CREATE TABLE meta (key TEXT, value TEXT); INSERT INTO meta VALUES ('schema', 'one')",
        "UPDATE model SET json = x'FF00FF'",
        "DROP TABLE outbox; CREATE VIEW outbox AS SELECT 1 AS id",
    ];
    for shape in shapes {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, model) = open(&dir);
        journal.commit(&model, &[&Row::Open(plan("one"))], Wall(1)).unwrap();
        journal.db.execute_batch(shape).unwrap();
        drop(journal);
        // Some shapes show only when they are written to: then the step is refused in words.
        match Journal::open(dir.path(), Wall(2)) {
            Ok((mut journal, model)) if model.journal_note.is_none() => {
                let report = Row::Report(super::report("one"));
                let error = journal.commit(&Model::default(), &[&Row::Open(plan("two")), &report], Wall(3)).unwrap_err();
                assert!(error.to_string().contains("journal.db: "), "{shape}: {error}");
            }
            Ok((_, model)) => assert!(model.journal_note.unwrap().contains("unreadable"), "{shape}"),
            Err(error) => panic!("{shape}: {error}"),
        }
    }
}

#[test]
fn a_row_with_a_value_of_another_kind_is_left_out_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, model) = open(&dir);
    let rows = [Row::Open(plan("one")), Row::Open(plan("two")), Row::Report(super::report("one"))];
    journal.commit(&model, &rows.iter().collect::<Vec<_>>(), Wall(1)).unwrap();
    let odd = "UPDATE attempt SET started_at_ms = 'yesterday' WHERE id = 'one';
               INSERT INTO refusal VALUES ('no digest', 1, '1', 'r', 1), (x'00', 'x', '1', 'r', 1);
               INSERT INTO outbox (kind, attempt, created_at_ms, body) VALUES ('report', 'x', 1, '{}'), ('report', 'x', 1, x'FF')";
    journal.db.execute_batch(odd).unwrap();
    drop(journal);
    let (journal, model) = open(&dir);
    assert_eq!(model.journal_note, None);
    assert_eq!(model.refusals, []);
    assert_eq!(journal.outbox().unwrap().len(), 1);
    let ids = |rows: Vec<String>| rows;
    assert_eq!(ids(journal.history().unwrap().into_iter().map(|attempt| attempt.id).collect()), ["two"]);
    assert_eq!(ids(journal.orphans(None).unwrap().into_iter().map(|orphan| orphan.attempt).collect()), ["two"]);
}

#[test]
fn a_place_where_no_journal_can_be_is_refused_in_words_and_left_as_it_is() {
    let words = |dir: &std::path::Path| match Journal::open(dir, Wall(1)) {
        Err(error @ (JournalError::Sqlite { .. } | JournalError::Io { .. })) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened in {}", dir.display()),
    };
    // A folder in its place.
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("journal.db")).unwrap();
    assert!(words(dir.path()).contains("journal.db: "));
    assert!(dir.path().join("journal.db").is_dir());
    // No folder at all, and one in which not even root can write.
    assert!(words(&dir.path().join("nowhere")).contains("nowhere/journal.db"));
    assert!(words(std::path::Path::new("/proc")).contains("/proc/journal.db"));
}

/// A model with everything in it.
fn rich_model() -> Model {
    let alarm = Alarm { boot_id: "boot-1".into(), at: Mono(1_000), at_wall: Wall(2_000) };
    let giving_up =
        GivingUp { code: Cause::StepBack, message: "m".into(), retry_after_s: None, end: WayBack::Waits, disarm: true };
    let claim = Claim { url: "http://l/".into(), group: "g".into(), id: "h".into(), fence: Some("1".into()), granted: true };
    let plan = Plan { claim: Some(claim), giving_up: Some(giving_up), drained: true, ..plan("one") };
    let committed = CommittedSlot { digest: plan.digest, sequence: plan.sequence, version: "2".into() };
    Model {
        state: State::Armed { plan: plan.clone(), old_slot: SlotName::A, boot_id: "boot-1".into(), step: ArmedStep::Gates },
        alarm: Some(alarm.clone()),
        pause: Some(Pause { until: None, reason: Some("r".into()), since: Wall(1) }),
        failures: Some(Failures { digest: plan.digest, sequence: Sequence::ZERO, count: 3, retry: Some(alarm) }),
        committed: PerSlot { a: Some(committed), b: None },
        channel: Some("beta".into()),
        superseded_at: Some(Wall(3)),
        ..Model::default()
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        prop_oneof![Just("armed"), Just("trial"), Just("idle"), Just("committed"), Just("proven")]
            .prop_map(|state| json!({ "state": state })),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z_]{1,10}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Replaces the `at`-th value of the tree.
fn replace(value: &mut Value, at: &mut usize, with: &Value) -> bool {
    if *at == 0 {
        *value = with.clone();
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| replace(item, at, with)),
        Value::Object(fields) => fields.iter_mut().any(|(_, field)| replace(field, at, with)),
        _ => false,
    }
}

/// Opens a journal with this model row, and starts an engine on what came of it.
fn open_with_model(json: &str) {
    use crate::engine::policy::Strategy as RebootStrategy;
    use crate::engine::tests::host::{NOON, facts, policy};
    let now = crate::engine::Now { wall: NOON, mono: Mono(1_000_000), dice: 1 };
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&dir);
    journal.db.execute("INSERT INTO model VALUES (1, ?1)", [json]).unwrap();
    drop(journal);
    let (mut journal, model) = Journal::open(dir.path(), Wall(9)).unwrap();
    let mut engine = crate::engine::Engine::new(model, facts(), policy(RebootStrategy::Lock, true));
    let started = crate::engine::Event::Started { facts: Box::new(facts()), orphans: vec![] };
    for event in [started, crate::engine::Event::Woke, crate::engine::Event::Woke] {
        let effects = engine.step(event, &now);
        assert!(effects.len() < 20);
        let _wake = engine.next_wake();
    }
    journal.commit(engine.model(), &[], Wall(10)).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_in_the_model_row_is_read_or_set_aside_and_the_engine_lives_with_it(value in any_json()) {
        open_with_model(&value.to_string());
    }

    #[test]
    fn a_model_with_any_value_changed_is_read_or_set_aside_and_the_engine_lives_with_it(at in 0_usize..90, with in any_json()) {
        let mut value = serde_json::to_value(rich_model()).unwrap();
        replace(&mut value, &mut { at }, &with);
        open_with_model(&value.to_string());
    }

    #[test]
    fn any_bytes_in_the_model_row_are_read_or_set_aside(text in "\\PC{0,64}") {
        open_with_model(&text);
    }
}
