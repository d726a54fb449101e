//! Killed in every state: the journal as JSON, and several worlds the daemon may wake up in.

use crate::engine::effect::GateStage;
use crate::engine::event::Proof;
use crate::engine::facts::Facts;

use super::host::{BAD, BLANK, GOOD, Host, SPENT, TRIES, armed, fault, in_new_slot, in_old_slot, list};
use super::words::EVERY_STATE;

/// What the world may be when the daemon starts again.
fn world(name: &str) -> fn(&mut Facts) {
    match name {
        "as it was" => |_| (),
        "b armed" => |facts| facts.boot.as_mut().unwrap().standing.b = armed(TRIES),
        "rebooted, not tried" => |facts| in_old_slot(facts, armed(TRIES)),
        "rebooted, tried once" => |facts| in_old_slot(facts, armed(TRIES - 1)),
        "rebooted, spent" => |facts| in_old_slot(facts, SPENT),
        "rebooted, disarmed" => |facts| in_old_slot(facts, BLANK),
        "b runs" => |facts| in_new_slot(facts, armed(TRIES - 1)),
        "b runs its last try" => |facts| in_new_slot(facts, SPENT),
        "rebooted, marked bad" => |facts| in_old_slot(facts, BAD),
        "b runs, marked bad" => |facts| in_new_slot(facts, BAD),
        "b runs, good" => |facts| in_new_slot(facts, GOOD),
        "rebooted, b is good" => |facts| in_old_slot(facts, GOOD),
        other => panic!("no such world: {other}"),
    }
}

/// Worlds in which the daemon of the old slot may be started again.
const BEFORE_TRIAL: [&str; 10] = [
    "as it was",
    "b armed",
    "rebooted, not tried",
    "rebooted, tried once",
    "rebooted, spent",
    "rebooted, marked bad",
    "rebooted, disarmed",
    "b runs",
    "b runs its last try",
    "b runs, marked bad",
];
/// The same for the new slot.
const IN_TRIAL: [&str; 9] = [
    "as it was",
    "b runs",
    "b runs its last try",
    "b runs, marked bad",
    "b runs, good",
    "rebooted, spent",
    "rebooted, marked bad",
    "rebooted, disarmed",
    "rebooted, b is good",
];

const IDLE: &[&str] = &["idle", "checking"];
const WAITS: &[&str] = &["deferred"];
const FETCHES: &[&str] = &["fetching", "fetching/again"];
const FREE: &[&str] = &["written", "proven/person", "proven/gates", "proven/gate-closed"];
const CLAIMS: &[&str] = &["proven/lock", "proven/lock-refused"];
const CANCELLED: &[&str] = &["proven/cancelled"];
const LOCKED: &[&str] = &["locked/draining", "locked/gates-again", "locked/acknowledging", "locked/arming"];
const GIVES_UP: &[&str] = &["locked/giving-up"];
const RESTS: &[&str] = &["armed/resting"];
const ARMED_FREE: &[&str] = &["armed/gate-closed", "armed/draining"];
const ARMED: &[&str] = &["armed/gates", "armed/lock", "armed/lock-refused", "armed/acknowledging", "armed/rebooting"];
const ARMED_GIVES_UP: &[&str] = &["armed/giving-up"];
const TRIAL: &[&str] = &["trial"];
const VERDICT: &[&str] = &["trial/verdict"];
const COMMITTED: &[&str] = &["committed"];
const ROLLED_BACK: &[&str] = &["rolled-back"];
const FAILED: &[&str] = &["failed"];
const ROLLBACK: &[&str] = &["written/rollback"];

const REBOOTED: &[&str] =
    &["rebooted, not tried", "rebooted, tried once", "rebooted, spent", "rebooted, marked bad", "rebooted, disarmed"];
const TRIED: &[&str] = &["rebooted, tried once", "rebooted, spent", "rebooted, marked bad"];
const NEW_SLOT: &[&str] = &["b runs", "b runs its last try"];

const FAIL_FREE: &str = "close failed running-slot, report failed, open found 1.1.0, health";
const FAIL_CLAIM: &str = "close failed running-slot, report failed, release aborted, open found 1.1.0, health";
const BACK: &str = "close rolled-back rolled-back, report rolled back, release rolled back, refuse 1.1.0, disarm b";
const BACK_FREE: &str = "close rolled-back rolled-back, report rolled back, refuse 1.1.0, disarm b";
const NOT_TRIED: &str = "close failed not-attempted, report failed";
const END_CANCELLED: &str = "close abandoned cancelled, report abandoned, release aborted";

/// States, worlds, state after (`=`: the same), effects.
type Row = (&'static [&'static str], &'static [&'static str], &'static str, &'static str);

const KILLED: &[Row] = &[
    // Nothing was under way. What nobody vouches for is disarmed; what runs on trial is judged.
    (IDLE, &["as it was", "rebooted, spent", "rebooted, marked bad", "rebooted, disarmed"], "idle", ""),
    (IDLE, &["b armed", "rebooted, not tried", "rebooted, tried once"], "idle", "disarm b"),
    (IDLE, NEW_SLOT, "trial", "open found 1.1.0, health"),
    (IDLE, &["b runs, marked bad"], "trial", "open found 1.1.0, health"),
    (WAITS, &["as it was", "rebooted, spent", "rebooted, marked bad", "rebooted, disarmed"], "deferred", ""),
    (WAITS, &["b armed", "rebooted, not tried", "rebooted, tried once"], "deferred", "disarm b"),
    (WAITS, NEW_SLOT, "trial", "open found 1.1.0, health"),
    (WAITS, &["b runs, marked bad"], "trial", "open found 1.1.0, health"),
    // Writing goes on where it was; the install disarms first, whatever the table says.
    (FETCHES, &["as it was", "b armed"], "=", "install b again"),
    (FETCHES, REBOOTED, "=", "install b again"),
    (FETCHES, NEW_SLOT, "trial", FAIL_FREE),
    (FETCHES, &["b runs, marked bad"], "trial", FAIL_FREE),
    // A proof is earned again; a slot that is armed without one is disarmed before.
    (FREE, &["as it was", "rebooted, spent", "rebooted, marked bad", "rebooted, disarmed"], "written", "read back b"),
    (FREE, &["b armed", "rebooted, not tried", "rebooted, tried once"], "written", "disarm b"),
    (FREE, NEW_SLOT, "trial", FAIL_FREE),
    (FREE, &["b runs, marked bad"], "trial", FAIL_FREE),
    (CLAIMS, &["as it was", "rebooted, spent", "rebooted, marked bad", "rebooted, disarmed"], "written", "read back b"),
    (CLAIMS, &["b armed", "rebooted, not tried", "rebooted, tried once"], "written", "disarm b"),
    (CLAIMS, NEW_SLOT, "trial", FAIL_CLAIM),
    (CLAIMS, &["b runs, marked bad"], "trial", FAIL_CLAIM),
    (CANCELLED, &["as it was", "rebooted, spent", "rebooted, marked bad", "rebooted, disarmed"], "idle", END_CANCELLED),
    (CANCELLED, &["b armed", "rebooted, not tried", "rebooted, tried once"], "locked/giving-up", "disarm b"),
    (CANCELLED, NEW_SLOT, "trial", FAIL_CLAIM),
    (CANCELLED, &["b runs, marked bad"], "trial", FAIL_CLAIM),
    // Between the grant and the flip the boot table says whether the flip happened.
    (LOCKED, &["as it was", "rebooted, disarmed"], "written", "read back b"),
    (LOCKED, &["b armed"], "armed/gates", "gates before the reboot"),
    (LOCKED, &["rebooted, not tried"], "armed/giving-up", "disarm b"),
    (LOCKED, TRIED, "rolled-back", BACK),
    (LOCKED, NEW_SLOT, "trial", "health"),
    (LOCKED, &["b runs, marked bad"], "trial/verdict", "reboot"),
    (GIVES_UP, &["as it was", "rebooted, disarmed"], "locked/giving-up", "undrain"),
    (GIVES_UP, &["b armed", "rebooted, not tried"], "locked/giving-up", "disarm b"),
    (GIVES_UP, TRIED, "rolled-back", BACK),
    (GIVES_UP, NEW_SLOT, "trial", "health"),
    (GIVES_UP, &["b runs, marked bad"], "trial/verdict", "reboot"),
    // Armed: in the same boot gates and lock are asked again, in another the tries tell what became of it.
    (RESTS, &["as it was", "b armed"], "armed/resting", ""),
    (RESTS, &["rebooted, not tried"], "armed/giving-up", "disarm b"),
    (RESTS, &["rebooted, disarmed"], "failed", NOT_TRIED),
    (RESTS, &["rebooted, tried once", "rebooted, spent", "rebooted, marked bad"], "rolled-back", BACK_FREE),
    (ARMED_FREE, &["as it was", "b armed"], "armed/gates", "gates before the reboot"),
    (ARMED_FREE, &["rebooted, not tried"], "armed/giving-up", "disarm b"),
    (&["armed/gate-closed"], &["rebooted, disarmed"], "failed", NOT_TRIED),
    (&["armed/draining"], &["rebooted, disarmed"], "armed/giving-up", "undrain"),
    (ARMED_FREE, &["rebooted, tried once", "rebooted, spent", "rebooted, marked bad"], "rolled-back", BACK_FREE),
    (ARMED, &["as it was", "b armed"], "armed/gates", "gates before the reboot"),
    (ARMED, &["rebooted, not tried"], "armed/giving-up", "disarm b"),
    (ARMED, &["rebooted, disarmed"], "armed/giving-up", "undrain"),
    (ARMED, &["rebooted, tried once", "rebooted, spent", "rebooted, marked bad"], "rolled-back", BACK),
    (ARMED_GIVES_UP, &["as it was", "b armed", "rebooted, not tried"], "armed/giving-up", "disarm b"),
    (ARMED_GIVES_UP, &["rebooted, disarmed"], "armed/giving-up", "undrain"),
    (ARMED_GIVES_UP, TRIED, "rolled-back", BACK),
    (RESTS, NEW_SLOT, "trial", "health"),
    (ARMED_FREE, NEW_SLOT, "trial", "health"),
    (ARMED, NEW_SLOT, "trial", "health"),
    (ARMED_GIVES_UP, NEW_SLOT, "trial", "health"),
    (RESTS, &["b runs, marked bad"], "trial/verdict", "reboot"),
    (ARMED_FREE, &["b runs, marked bad"], "trial/verdict", "reboot"),
    (ARMED, &["b runs, marked bad"], "trial/verdict", "reboot"),
    (ARMED_GIVES_UP, &["b runs, marked bad"], "trial/verdict", "reboot"),
    // On trial: judged anew in the new slot, over in the old one.
    (TRIAL, &["as it was", "b runs", "b runs its last try", "b runs, good"], "trial", "health"),
    (TRIAL, &["b runs, marked bad"], "trial/verdict", "reboot"),
    (TRIAL, &["rebooted, spent", "rebooted, marked bad", "rebooted, disarmed", "rebooted, b is good"], "rolled-back", BACK),
    (VERDICT, &["as it was", "b runs", "b runs, good"], "trial/verdict", "mark bad"),
    (VERDICT, &["b runs its last try", "b runs, marked bad"], "trial/verdict", "reboot"),
    (VERDICT, &["rebooted, spent", "rebooted, marked bad", "rebooted, disarmed", "rebooted, b is good"], "rolled-back", BACK),
    (COMMITTED, &["as it was", "b runs", "b runs its last try", "b runs, marked bad", "b runs, good"], "committed", "commit"),
    (COMMITTED, &["rebooted, spent", "rebooted, marked bad", "rebooted, disarmed"], "rolled-back", BACK),
    (COMMITTED, &["rebooted, b is good"], "idle", "close committed, report committed, release ok"),
    // Over.
    (ROLLED_BACK, &["as it was", "b armed"], "rolled-back", "disarm b"),
    (ROLLED_BACK, REBOOTED, "rolled-back", "disarm b"),
    (ROLLED_BACK, NEW_SLOT, "trial", "open found 1.1.0, health"),
    (ROLLED_BACK, &["b runs, marked bad"], "trial", "open found 1.1.0, health"),
    (FAILED, &["as it was"], "failed", ""),
    (FAILED, &["b armed"], "failed", "disarm b"),
    (FAILED, &["rebooted, spent", "rebooted, marked bad", "rebooted, disarmed"], "idle", ""),
    (FAILED, &["b runs, marked bad"], "trial", "open found 1.1.0, health"),
    (FAILED, &["rebooted, not tried", "rebooted, tried once"], "idle", "disarm b"),
    (FAILED, NEW_SLOT, "trial", "open found 1.1.0, health"),
    // A rollback from b to a: the record of slot a is read back again.
    (ROLLBACK, &["as it was", "b runs, good"], "written/rollback", "read back a"),
    (ROLLBACK, &["rebooted, b is good"], "failed", "close failed running-slot, report failed"),
];

fn worlds_of(state: &str) -> &'static [&'static str] {
    match state {
        "trial" | "trial/verdict" | "committed" => &IN_TRIAL,
        "written/rollback" => &["as it was", "b runs, good", "rebooted, b is good"],
        _ => &BEFORE_TRIAL,
    }
}

#[test]
fn marks_that_a_slot_bore_before_it_was_to_be_gone_back_to_are_no_trial_of_it() {
    for standing in [SPENT, BAD] {
        let mut host = Host::at("written/rollback");
        host.read_back(Ok(Proof::Equal));
        host.gates(GateStage::BeforeLock, vec![]);
        host.granted();
        assert_eq!(host.state(), "locked/draining");
        let effects = host.restart(|facts| {
            facts.boot_id = "boot-9".into();
            facts.boot.as_mut().unwrap().standing.a = standing;
        });
        assert_eq!((host.state(), effects), ("written/rollback", list("read back a")), "{standing:?}");
        let mut host = Host::at("written/rollback");
        host.read_back(Ok(Proof::Equal));
        host.gates(GateStage::BeforeLock, vec![]);
        host.granted();
        host.drained(Err(fault("drain")));
        assert_eq!(host.state(), "locked/giving-up");
        let effects = host.restart(|facts| {
            facts.boot_id = "boot-9".into();
            facts.boot.as_mut().unwrap().standing.a = standing;
        });
        assert_eq!((host.state(), effects), ("locked/giving-up", list("undrain")), "{standing:?}");
    }
}

#[test]
fn a_host_killed_in_a_state_goes_on_as_the_table_says_and_a_second_start_changes_nothing() {
    let mut wrong = Vec::new();
    for (states, worlds, expected_state, expected_effects) in KILLED {
        for (state, name) in states.iter().flat_map(|state| worlds.iter().map(move |name| (state, name))) {
            let mut host = Host::at(state);
            let effects = host.restart(world(name));
            let expected_state = if *expected_state == "=" { state } else { expected_state };
            let got = (host.state(), effects);
            if got != (expected_state, list(expected_effects)) {
                wrong.push(format!("killed in {state}, then {name}: {got:?}"));
            }
            started_again(host, &format!("killed in {state}, then: {name}"));
        }
    }
    assert!(wrong.is_empty(), "{} of the table: {wrong:#?}", wrong.len());
}

/// P11: recovery run twice gives the same state as run once. Rows are not written twice.
fn started_again(mut host: Host, what: &str) {
    let before = host.engine.model().clone();
    let effects = host.restart(|_| ());
    let rows: Vec<&String> = effects.iter().filter(|effect| is_row(effect)).collect();
    assert!(rows.is_empty(), "{what}; a second start wrote {rows:?}");
    let mut model = host.engine.model().clone();
    model.check.clone_from(&before.check);
    model.alarm.clone_from(&before.alarm);
    assert_eq!(model, before, "{what}; started twice");
}

fn is_row(effect: &str) -> bool {
    ["open", "close", "report", "release", "refuse", "update"].iter().any(|word| effect.starts_with(word))
}

#[test]
fn no_state_and_no_world_is_forgotten_in_the_table_of_kills() {
    let mut missing = Vec::new();
    for state in EVERY_STATE {
        for world in worlds_of(state) {
            let rows = KILLED.iter().filter(|row| row.0.contains(&state) && row.1.contains(world)).count();
            if rows != 1 {
                missing.push(format!("{state}, {world}: {rows} rows"));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn a_journal_that_says_nothing_about_a_way_back_under_way_takes_it_up_from_the_table() {
    // A reboot while undraining: the slot is disarmed, the lock still held.
    let mut host = Host::at("armed/giving-up");
    host.disarmed(Ok(()));
    let effects = host.restart(|facts| in_old_slot(facts, BLANK));
    assert_eq!((host.state(), effects), ("armed/giving-up", list("undrain")));
    assert_eq!(host.undrained(), list("close failed reboot, report failed, release aborted"));
}
