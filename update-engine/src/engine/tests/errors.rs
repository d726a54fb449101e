//! Error in every state: what comes of it, and where the host goes on.

use crate::engine::Event;
use crate::engine::effect::GateStage;
use crate::engine::event::CheckAnswer;

use super::host::{Host, closed, fault, list};
use super::words::EVERY_STATE;

/// What goes wrong in a state.
type Error = fn(&mut Host) -> Vec<String>;

fn server_gone(host: &mut Host) -> Vec<String> {
    host.checked(CheckAnswer::Failed { fault: fault("server-unreachable"), retry_after_s: None })
}

/// A check beside an update that waits fails.
fn server_gone_beside(host: &mut Host) -> Vec<String> {
    let at = host.engine.model().check.next.clone().unwrap().at.0;
    host.pass_ms(at.saturating_sub(host.mono));
    assert!(host.step(Event::Woke).contains(&"check".to_owned()));
    server_gone(host)
}

/// State, what goes wrong, state after, effects, code of the error that `status` shows.
const ERRORS: [(&str, Error, &str, &str, &str); 32] = [
    ("idle", |host| host.disarmed(Err(fault("boot-control"))), "idle", "", "disarm"),
    ("checking", server_gone, "idle", "", "server-unreachable"),
    ("deferred", server_gone_beside, "deferred", "", "server-unreachable"),
    ("fetching", |host| host.installed(Err(fault("download"))), "failed", "close failed download, report failed", "download"),
    (
        "fetching/again",
        |host| host.installed(Err(fault("download"))),
        "failed",
        "close failed download, report failed",
        "download",
    ),
    ("written", |host| host.read_back(Err(fault("slots"))), "failed", "close failed slots, report failed", "slots"),
    ("written/rollback", Host::differs, "failed", "close failed read-back, report failed", "read-back"),
    ("proven/person", server_gone_beside, "proven/person", "", "server-unreachable"),
    ("proven/gates", |host| host.gates(GateStage::BeforeLock, vec![closed("hook")]), "proven/gate-closed", "", ""),
    ("proven/gate-closed", |host| host.gates(GateStage::BeforeLock, vec![closed("hook")]), "proven/gate-closed", "", ""),
    ("proven/lock", Host::lock_refused, "proven/lock-refused", "", ""),
    ("proven/lock-refused", server_gone_beside, "proven/gates", "", "server-unreachable"),
    ("proven/cancelled", Host::lock_refused, "idle", "close abandoned cancelled, report abandoned, release aborted", ""),
    ("locked/draining", |host| host.drained(Err(fault("drain"))), "locked/giving-up", "undrain", ""),
    ("locked/gates-again", |host| host.gates(GateStage::BeforeFlip, vec![closed("hook")]), "locked/giving-up", "undrain", ""),
    ("locked/acknowledging", |host| host.acknowledged(Err(fault("lock"))), "locked/giving-up", "undrain", ""),
    ("locked/arming", |host| host.armed(Err(fault("boot-control"))), "locked/giving-up", "disarm b", "boot-control"),
    ("locked/giving-up", |host| host.disarmed(Err(fault("boot-control"))), "locked/giving-up", "", "disarm"),
    ("armed/resting", server_gone, "armed/resting", "", ""),
    ("armed/gates", |host| host.gates(GateStage::BeforeReboot, vec![closed("hook")]), "armed/giving-up", "disarm b", ""),
    ("armed/gate-closed", server_gone, "armed/gate-closed", "", ""),
    ("armed/draining", |host| host.drained(Err(fault("drain"))), "armed/giving-up", "disarm b", ""),
    ("armed/lock", Host::lock_refused, "armed/lock-refused", "", ""),
    ("armed/lock-refused", server_gone, "armed/lock-refused", "", ""),
    ("armed/acknowledging", |host| host.acknowledged(Err(fault("lock"))), "armed/giving-up", "disarm b", ""),
    ("armed/rebooting", |host| host.reboot(Err(fault("reboot"))), "armed/giving-up", "disarm b", "reboot"),
    ("armed/giving-up", |host| host.disarmed(Err(fault("boot-control"))), "armed/giving-up", "", "disarm"),
    ("trial", |host| host.health(Err("nginx is down")), "trial/verdict", "mark bad", "unhealthy"),
    ("trial/verdict", |host| host.marked_bad(Err(fault("boot-control"))), "trial/verdict", "reboot", "unhealthy"),
    ("committed", |host| host.commit_done(Err(fault("state-dir"))), "committed", "", "mark-good"),
    ("rolled-back", |host| host.disarmed(Err(fault("boot-control"))), "idle", "", "rolled-back"),
    ("failed", server_gone, "failed", "", "download"),
];

#[test]
fn an_error_in_a_state_leads_where_the_table_says() {
    for (state, act, expected_state, expected_effects, expected_error) in ERRORS {
        let mut host = Host::at(state);
        let effects = act(&mut host);
        assert_eq!((host.state(), effects), (expected_state, list(expected_effects)), "error in {state}");
        assert_eq!(host.last_error(), expected_error, "error in {state}");
    }
}

#[test]
fn no_state_is_forgotten_in_the_table_of_errors() {
    assert_eq!(ERRORS.map(|row| row.0).to_vec(), EVERY_STATE.to_vec());
}

#[test]
fn what_an_error_left_to_be_done_is_tried_again() {
    let again = [
        ("proven/gate-closed", "proven/gates", "gates before the lock"),
        ("proven/lock-refused", "proven/gates", "gates before the lock"),
        ("locked/giving-up", "locked/giving-up", "disarm b"),
        ("armed/gate-closed", "armed/gates", "gates before the reboot"),
        ("armed/lock-refused", "armed/gates", "gates before the reboot"),
        ("armed/giving-up", "armed/giving-up", "disarm b"),
        ("committed", "committed", "commit"),
        ("failed", "checking", "check"),
    ];
    for (state, expected_state, expected_effects) in again {
        let mut host = Host::at(state);
        match state {
            "locked/giving-up" | "armed/giving-up" => drop(host.disarmed(Err(fault("boot-control")))),
            "committed" => drop(host.commit_done(Err(fault("state-dir")))),
            _ => (),
        }
        let effects = host.wake();
        assert_eq!((host.state(), effects), (expected_state, list(expected_effects)), "after {state}");
    }
}

#[test]
fn an_unknown_slot_that_could_not_be_disarmed_is_disarmed_later() {
    let mut host = Host::at("idle");
    let effects = host.restart(|facts| facts.boot.as_mut().unwrap().standing.b = super::host::armed(3));
    assert_eq!(effects, list("disarm b"));
    host.disarmed(Err(fault("boot-control")));
    assert_eq!(host.wake(), list("disarm b"));
    host.disarmed(Ok(()));
    assert_eq!(host.wake(), list("check"));
    assert_eq!(host.nothing_new(), list(""));
}

#[test]
fn the_way_back_ends_where_it_was_meant_to() {
    // A gate that closes only makes the slot wait, without lock and undrained.
    let mut host = Host::at("locked/gates-again");
    host.gates(GateStage::BeforeFlip, vec![closed("hook")]);
    assert_eq!(host.undrained(), list("release aborted, update"));
    assert_eq!(host.state(), "proven/gate-closed");
    assert_eq!((host.plan().claim, host.plan().drained), (None, false));
    // An arming that failed ends the attempt, after disarm and undrain.
    let mut host = Host::at("locked/giving-up");
    assert_eq!(host.disarmed(Ok(())), list("undrain"));
    assert_eq!(host.undrained(), list("close failed boot-control, report failed, release aborted"));
    assert_eq!(host.state(), "failed");
    // A reboot that was refused likewise (design 11.10).
    let mut host = Host::at("armed/giving-up");
    assert_eq!(host.disarmed(Ok(())), list("undrain"));
    assert_eq!(host.undrained(), list("close failed reboot, report failed, release aborted"));
    // An armed slot that may not be rebooted into now is disarmed, and proven anew while it waits.
    let mut host = Host::at("armed/acknowledging");
    host.acknowledged(Err(fault("lock")));
    assert_eq!(host.disarmed(Ok(())), list("undrain"));
    assert_eq!(host.undrained(), list("release aborted, update, read back b"));
    assert_eq!(host.state(), "written");
}

#[test]
fn a_lock_that_is_not_confirmed_twice_disarms_the_armed_slot() {
    let mut host = Host::at("armed/lock-refused");
    assert_eq!(host.wake(), list("gates before the reboot"));
    host.gates(GateStage::BeforeReboot, vec![]);
    assert_eq!(host.lock_refused(), list("disarm b"));
    assert_eq!(host.state(), "armed/giving-up");
}
