//! What a person may ask for, in every state.

use crate::engine::Event;
use crate::engine::command::Command;
use crate::engine::effect::GateStage;
use crate::engine::event::{AskAgain, CheckAnswer, Marked, Proof, RebootAccepted};
use crate::engine::facts::{Content, Facts, PerSlot};
use crate::engine::policy::Strategy;
use crate::engine::state::{DeltaSource, Source};
use crate::engine::time::Mono;

use super::host::{
    BAD, GOOD, Host, SPENT, TRIES, armed, closed, content, fault, in_new_slot, in_old_slot, list, offer, policy, table,
};
use super::words::EVERY_STATE;

fn update() -> Command {
    Command::Update { version: None, allow_older: false, no_reboot: false }
}

fn pause() -> Command {
    Command::Pause { until: None, reason: Some("fair".into()) }
}

/// State, what `cancel` answers, state after, effects. `!` = refused with this code.
const CANCEL: [(&str, &str, &str); 32] = [
    ("idle", "!nothing-to-cancel", ""),
    ("checking", "checking", ""),
    ("deferred", "idle", ""),
    ("fetching", "idle", "stop, close abandoned cancelled, report abandoned"),
    ("fetching/again", "idle", "stop, close abandoned cancelled, report abandoned"),
    ("written", "idle", "stop, close abandoned cancelled, report abandoned"),
    ("written/rollback", "idle", "stop, close abandoned cancelled, report abandoned"),
    ("proven/person", "idle", "stop, close abandoned cancelled, report abandoned"),
    ("proven/gates", "idle", "stop, close abandoned cancelled, report abandoned"),
    ("proven/gate-closed", "idle", "stop, close abandoned cancelled, report abandoned"),
    ("proven/lock", "proven/cancelled", ""),
    ("proven/lock-refused", "idle", "stop, close abandoned cancelled, report abandoned, release aborted"),
    ("proven/cancelled", "proven/cancelled", ""),
    ("locked/draining", "locked/draining", "stop"),
    ("locked/gates-again", "locked/giving-up", "stop, undrain"),
    ("locked/acknowledging", "locked/acknowledging", ""),
    ("locked/arming", "locked/arming", ""),
    ("locked/giving-up", "locked/giving-up", ""),
    ("armed/resting", "armed/giving-up", "stop, disarm b"),
    ("armed/gates", "armed/giving-up", "stop, disarm b"),
    ("armed/gate-closed", "armed/giving-up", "stop, disarm b"),
    ("armed/draining", "armed/draining", "stop"),
    ("armed/lock", "armed/lock", ""),
    ("armed/lock-refused", "armed/giving-up", "stop, disarm b"),
    ("armed/acknowledging", "armed/acknowledging", ""),
    ("armed/rebooting", "!too-late", ""),
    ("armed/giving-up", "armed/giving-up", ""),
    ("trial", "!too-late", ""),
    ("trial/verdict", "!too-late", ""),
    ("committed", "!too-late", ""),
    ("rolled-back", "!too-late", ""),
    ("failed", "!nothing-to-cancel", ""),
];

#[test]
fn cancel_in_a_state_does_what_the_table_says() {
    assert_eq!(CANCEL.map(|row| row.0), EVERY_STATE);
    for (state, expected, effects) in CANCEL {
        let mut host = Host::at(state);
        match expected.strip_prefix('!') {
            Some(code) => assert_eq!(host.refused(Command::Cancel), code, "cancel in {state}"),
            None => {
                let got = host.order(Command::Cancel);
                assert_eq!((host.state(), got), (expected, list(effects)), "cancel in {state}");
            }
        }
    }
}

#[test]
fn a_cancel_waits_for_the_answer_that_may_still_change_the_world() {
    let end = "close abandoned cancelled, report abandoned, release aborted";
    // The lock may be granted: it is given back then.
    let mut host = Host::at("proven/cancelled");
    assert_eq!((host.granted(), host.state()), (list(end), "idle"));
    // Hooks that still run must not drain a host that was undrained.
    let mut host = Host::at("locked/draining");
    host.order(Command::Cancel);
    assert_eq!(host.drained(Err(fault("drain"))), list("undrain"));
    assert_eq!((host.undrained(), host.state()), (list(end), "idle"));
    // The acknowledgement is not yet the flip.
    let mut host = Host::at("locked/acknowledging");
    host.order(Command::Cancel);
    assert_eq!(host.acknowledged(Ok(())), list("undrain"));
    assert_eq!((host.undrained(), host.state()), (list(end), "idle"));
    // The slot may be armed by now: it is disarmed before the lock is given back.
    for result in [Ok(()), Err(fault("boot-control"))] {
        let mut host = Host::at("locked/arming");
        host.order(Command::Cancel);
        assert_eq!(host.armed(result), list("disarm b"));
        assert_eq!(host.disarmed(Ok(())), list("undrain"));
        assert_eq!((host.undrained(), host.state()), (list(end), "idle"));
    }
    for state in ["armed/lock", "armed/acknowledging"] {
        let mut host = Host::at(state);
        host.order(Command::Cancel);
        let effects = if state == "armed/lock" { host.granted() } else { host.acknowledged(Ok(())) };
        assert_eq!(effects, list("disarm b"), "{state}");
    }
}

#[test]
fn a_cancelled_check_only_tells_what_it_found() {
    let mut host = Host::at("checking");
    host.order(Command::Cancel);
    assert_eq!((host.offered(2), host.state()), (list(""), "idle"));
    assert_eq!(host.engine.model().check.last_result.as_deref(), Some("update to 1.1.0 available; would download 4.0 KiB"));
}

#[test]
fn an_error_is_not_left_behind_by_a_cancel() {
    let mut host = Host::at("fetching");
    host.order(Command::Cancel);
    assert_eq!(host.last_error(), "");
}

/// State, what `update` answers (`!` = refused with this code), state after.
const UPDATE: [(&str, &str, &str); 32] = [
    ("idle", "checking", "check for a person"),
    ("checking", "checking", ""),
    ("deferred", "!paused", ""),
    ("fetching", "fetching", ""),
    ("fetching/again", "fetching/again", ""),
    ("written", "written", ""),
    ("written/rollback", "written/rollback", ""),
    ("proven/person", "proven/gates", "gates before the lock"),
    ("proven/gates", "proven/gates", ""),
    ("proven/gate-closed", "proven/gate-closed", ""),
    ("proven/lock", "proven/lock", ""),
    ("proven/lock-refused", "proven/lock-refused", ""),
    ("proven/cancelled", "proven/cancelled", ""),
    ("locked/draining", "locked/draining", ""),
    ("locked/gates-again", "locked/gates-again", ""),
    ("locked/acknowledging", "locked/acknowledging", ""),
    ("locked/arming", "locked/arming", ""),
    ("locked/giving-up", "locked/giving-up", ""),
    ("armed/resting", "armed/resting", ""),
    ("armed/gates", "armed/gates", ""),
    ("armed/gate-closed", "armed/gate-closed", ""),
    ("armed/draining", "armed/draining", ""),
    ("armed/lock", "armed/lock", ""),
    ("armed/lock-refused", "armed/lock-refused", ""),
    ("armed/acknowledging", "armed/acknowledging", ""),
    ("armed/rebooting", "armed/rebooting", ""),
    ("armed/giving-up", "armed/giving-up", ""),
    ("trial", "!busy", ""),
    ("trial/verdict", "!busy", ""),
    ("committed", "!busy", ""),
    ("rolled-back", "!busy", ""),
    ("failed", "checking", "check for a person"),
];

#[test]
fn update_in_a_state_does_what_the_table_says() {
    assert_eq!(UPDATE.map(|row| row.0), EVERY_STATE);
    for (state, expected, effects) in UPDATE {
        let mut host = Host::at(state);
        match expected.strip_prefix('!') {
            Some(code) => assert_eq!(host.refused(update()), code, "update in {state}"),
            None => {
                let got = host.order(update());
                assert_eq!((host.state(), got), (expected, list(effects)), "update in {state}");
            }
        }
    }
}

/// State, what `reboot` answers (`!` = refused with this code), effects.
const REBOOT: [(&str, &str, &str); 32] = [
    ("idle", "!nothing-to-reboot", ""),
    ("checking", "!nothing-to-reboot", ""),
    ("deferred", "!paused", ""),
    ("fetching", "fetching", "update"),
    ("fetching/again", "fetching/again", "update"),
    ("written", "written", "update"),
    ("written/rollback", "written/rollback", "update"),
    ("proven/person", "proven/gates", "update, gates before the lock"),
    ("proven/gates", "proven/gates", "update, gates before the lock"),
    ("proven/gate-closed", "proven/gates", "update, gates before the lock"),
    ("proven/lock", "proven/lock", "update"),
    ("proven/lock-refused", "proven/gates", "update, gates before the lock"),
    ("proven/cancelled", "!giving-up", ""),
    ("locked/draining", "locked/draining", "update"),
    ("locked/gates-again", "locked/gates-again", "update"),
    ("locked/acknowledging", "locked/acknowledging", "update"),
    ("locked/arming", "locked/arming", "update"),
    ("locked/giving-up", "!giving-up", ""),
    ("armed/resting", "armed/gates", "update, gates before the reboot"),
    ("armed/gates", "armed/gates", "update, gates before the reboot"),
    ("armed/gate-closed", "armed/gates", "update, gates before the reboot"),
    ("armed/draining", "armed/draining", "update"),
    ("armed/lock", "armed/lock", "update"),
    ("armed/lock-refused", "armed/gates", "update, gates before the reboot"),
    ("armed/acknowledging", "armed/acknowledging", "update"),
    ("armed/rebooting", "armed/rebooting", "update"),
    ("armed/giving-up", "!giving-up", ""),
    ("trial", "!nothing-to-reboot", ""),
    ("trial/verdict", "!nothing-to-reboot", ""),
    ("committed", "!nothing-to-reboot", ""),
    ("rolled-back", "!nothing-to-reboot", ""),
    ("failed", "!nothing-to-reboot", ""),
];

#[test]
fn reboot_in_a_state_does_what_the_table_says() {
    assert_eq!(REBOOT.map(|row| row.0), EVERY_STATE);
    for (state, expected, effects) in REBOOT {
        let mut host = Host::at(state);
        let command = Command::Reboot { force: false };
        match expected.strip_prefix('!') {
            Some(code) => assert_eq!(host.refused(command), code, "reboot in {state}"),
            None => {
                let got = host.order(command);
                assert_eq!((host.state(), got), (expected, list(effects)), "reboot in {state}");
            }
        }
    }
}

#[test]
fn a_second_answer_of_the_gates_is_not_lost_when_a_person_asks_meanwhile() {
    let mut host = Host::at("proven/gates");
    host.order(Command::Reboot { force: false });
    // The answer to the first look comes late and says no; the second says go.
    host.gates(GateStage::BeforeLock, vec![closed("hook")]);
    assert_eq!(host.gates(GateStage::BeforeLock, vec![]), list("update, lock"));
}

#[test]
fn a_reboot_of_a_resting_slot_drains_before_it() {
    let mut host = Host::at("armed/resting");
    host.order(Command::Reboot { force: false });
    assert_eq!(host.gates(GateStage::BeforeReboot, vec![]), list("drain"));
    assert_eq!(host.drained(Ok(())), list("reboot"));
    // Killed after draining, it is not drained twice.
    assert_eq!(host.restart(|_| ()), list("gates before the reboot"));
    assert_eq!(host.gates(GateStage::BeforeReboot, vec![]), list("reboot"));
}

#[test]
fn update_with_no_reboot_stops_at_proven_and_without_it_goes_on() {
    let mut host = Host::at("proven/lock-refused");
    let stop = Command::Update { version: None, allow_older: false, no_reboot: true };
    assert_eq!(host.order(stop), list("release aborted, update"));
    assert_eq!(host.state(), "proven/person");
    assert_eq!(host.order(update()), list("gates before the lock"));
}

#[test]
fn update_names_a_version_or_nothing_is_started() {
    let named = |version: &str| Command::Update { version: Some(version.into()), allow_older: false, no_reboot: false };
    let mut host = Host::new();
    host.order(named("1.2.0"));
    assert_eq!((host.offered(2), host.state(), host.last_error()), (list(""), "idle", ""));
    host.order(named("1.1.0"));
    assert_eq!(host.offered(2).len(), 3);
    assert_eq!(host.refused(named("1.2.0")), "busy");
    assert_eq!(host.order(named("1.1.0")), list(""));
}

#[test]
fn update_joins_a_check_that_was_only_to_tell() {
    let mut host = Host::new();
    host.order(Command::Check);
    host.order(update());
    assert_eq!(host.offered(2).last().unwrap(), "install b");
    // Files are another question: they do not join.
    let files =
        Command::Install { release: "/r".into(), payload: Some("/p".into()), delta: None, allow_older: false, no_reboot: false };
    let mut host = Host::at("checking");
    assert_eq!(host.refused(files.clone()), "busy");
    let mut host = Host::new();
    host.order(files);
    assert_eq!(host.refused(update()), "busy");
}

#[test]
fn a_check_that_only_tells_starts_nothing_beside_an_update_that_waits() {
    let mut host = Host::at("proven/gate-closed");
    assert_eq!(host.order(Command::Check), list("check for a person"));
    assert_eq!((host.offered(3), host.state()), (list(""), "proven/gate-closed"));
    assert_eq!(host.plan().version.as_str(), "1.1.0");
}

#[test]
fn without_a_server_only_files_are_installed() {
    let mut settings = policy(Strategy::Immediate, false);
    settings.has_server = false;
    let mut host = Host::with(settings);
    assert_eq!(host.engine.next_wake(), None);
    assert_eq!(host.refused(Command::Check), "no-server");
    assert_eq!(host.refused(update()), "no-server");
    let files =
        Command::Install { release: "/r".into(), payload: Some("/p".into()), delta: None, allow_older: false, no_reboot: false };
    assert_eq!(host.order(files), list("read files"));
    let mut offer = offer(2);
    offer.announced_version = None;
    assert_eq!(host.offered_as(offer).last().unwrap(), "install b");
}

#[test]
fn a_pause_starts_nothing_and_reboots_nothing_until_it_is_over() {
    let mut host = Host::new();
    host.order(pause());
    assert_eq!(host.refused(update()), "paused");
    assert_eq!(host.refused(Command::Rollback), "paused");
    assert_eq!(host.wake(), list("check"));
    assert_eq!((host.offered(2), host.state()), (list(""), "deferred"));
    assert_eq!(host.order(Command::Resume), list("open update 1.1.0, report download started, install b"));
    // What is written already is proven, and then waits.
    host.installed(Ok(()));
    host.order(pause());
    host.read_back(Ok(Proof::Equal));
    assert_eq!(host.gates(GateStage::BeforeLock, vec![]), list(""));
    assert_eq!((host.state(), host.refused(Command::Reboot { force: false }).as_str()), ("proven/gate-closed", "paused"));
    assert_eq!(host.order(Command::Resume), list("gates before the lock"));
    // A pause while draining steps back.
    host.gates(GateStage::BeforeLock, vec![]);
    host.granted();
    host.order(pause());
    host.drained(Ok(()));
    assert_eq!(host.gates(GateStage::BeforeFlip, vec![]), list("undrain"));
}

#[test]
fn a_pause_ends_by_itself_at_its_time_and_survives_a_restart() {
    let mut host = Host::new();
    let until = host.now().wall_after(3 * 3_600_000).timestamp();
    host.order(Command::Pause { until: Some(until), reason: None });
    host.wake();
    host.offered(2);
    host.restart(|_| ());
    assert_eq!(host.state(), "deferred");
    let mut effects = vec![];
    for _ in 0..8 {
        effects = host.wake();
        if host.state() == "fetching" {
            break;
        }
        if host.engine.soft().background_check.is_some() {
            host.offered(2);
        }
    }
    assert_eq!(effects.last().unwrap(), "install b");
    assert!(host.now().wall.timestamp() >= until);
}

#[test]
fn a_pause_in_the_past_or_with_a_novel_for_a_reason_is_refused() {
    let mut host = Host::new();
    let past = host.now().wall.timestamp();
    assert_eq!(host.refused(Command::Pause { until: Some(past), reason: None }), "past");
    assert_eq!(host.refused(Command::Pause { until: None, reason: Some("x".repeat(501)) }), "too-long");
}

#[test]
fn confirm_marks_a_trial_good_and_never_touches_an_armed_update() {
    let mut host = Host::at("trial");
    assert_eq!((host.order(Command::Confirm), host.state()), (list("commit"), "committed"));
    let mut host = Host::at("armed/resting");
    host.restart(|facts| facts.boot.as_mut().unwrap().standing = PerSlot { a: armed(1), b: armed(TRIES) });
    assert_eq!((host.state(), host.refused(Command::Confirm)), ("armed/resting", "busy".to_owned()));
    // A good slot needs nothing.
    assert_eq!(Host::new().order(Command::Confirm), list(""));
}

#[test]
fn confirm_keeps_a_running_slot_of_which_no_attempt_is_known() {
    let mut host = Host::at("failed");
    host.restart(|facts| {
        in_new_slot(facts, BAD);
        facts.boot_id = "boot-1".into();
        facts.slots.b = Content { version: Some("1.1.0".into()), sequence: None, digest: None };
    });
    assert_eq!((host.state(), host.refused(Command::Confirm)), ("failed", "not-on-trial".to_owned()));
    // A person adopts its record.
    let facts = Facts { slots: PerSlot { b: content(2), ..host.facts.slots.clone() }, ..host.facts.clone() };
    host.step(Event::FactsChanged { facts: Box::new(facts) });
    assert_eq!(host.order(Command::Confirm), list("open found 1.1.0, commit"));
    assert_eq!(host.commit_done(Ok(())), list("close committed, report committed"));
    assert_eq!(host.engine.model().committed.b.as_ref().unwrap().version, "1.1.0");
}

#[test]
fn what_was_confirmed_without_a_record_is_nothing_to_roll_back_to() {
    let mut host = Host::new();
    in_new_slot(&mut host.facts, SPENT);
    host.facts.slots.b = Content { version: Some("1.1.0".into()), sequence: None, digest: None };
    host.start(vec![]);
    assert_eq!(host.order(Command::Confirm), list("commit"));
    host.commit_done(Ok(()));
    assert_eq!(host.engine.model().committed.b, None);
}

/// No command may name another one that cannot be obeyed either.
#[test]
fn whoever_commands_a_host_whose_trial_has_ended_is_told_what_it_waits_for_and_until_when() {
    let said = |host: &mut Host, command: Command| match host.command(command).0 {
        Ok(accepted) => accepted.message,
        Err(rejected) => rejected.message,
    };
    let busy = "1.1.0 is healthy and is being marked good: try again when that is done";
    let mut host = Host::at("committed");
    for command in [Command::Rollback, Command::Cancel, update()] {
        assert_eq!(said(&mut host, command), busy);
    }
    assert_eq!(said(&mut host, Command::Confirm), "it is being confirmed already");

    host.commit_done(Err(fault("boot-control")));
    let facts = Facts { trial_ends: Some(Mono(host.mono + 600_000)), ..host.engine.facts().clone() };
    for (ends, left) in [(false, ""), (true, "; update-engine-trial reboots the host at 12:15 UTC otherwise")] {
        if ends {
            host.step(Event::FactsChanged { facts: Box::new(facts.clone()) });
        }
        let stuck = format!(
            "1.1.0 is healthy but could not be marked good (it broke: boot-control): that is tried again at 12:06 UTC{left}"
        );
        for command in [Command::Rollback, Command::Cancel, update(), Command::Confirm] {
            assert_eq!(said(&mut host, command), stuck);
        }
    }

    let mut host = Host::at("armed/rebooting");
    host.restart(|facts| in_old_slot(facts, armed(1)));
    assert_eq!(host.state(), "rolled-back");
    for command in [Command::Rollback, Command::Cancel, update()] {
        assert_eq!(said(&mut host, command), "1.1.0 rolled back, and its slot is being disarmed: try again when that is done");
    }
    host.disarmed(Err(fault("boot-control")));
    let stuck = "1.1.0 rolled back, and its slot is still to be disarmed (a slot could not be disarmed: it broke: boot-control; a lock that \
                 is held is kept): that is tried again at 12:06 UTC";
    for command in [Command::Rollback, Command::Cancel, update()] {
        assert_eq!(said(&mut host, command), stuck);
    }

    let mut host = Host::at("trial/verdict");
    for command in [Command::Rollback, Command::Cancel] {
        assert_eq!(said(&mut host, command), "1.1.0 is unhealthy: the host goes back to 1.0.0 as soon as that can be done");
    }
}

#[test]
fn a_commit_that_does_not_read_back_as_good_is_none() {
    let mut host = Host::at("committed");
    let facts = host.engine.facts().clone();
    let effects =
        host.step(Event::CommitDone { attempt: host.attempt(), result: Ok(Marked { facts: Box::new(facts), floor: Ok(()) }) });
    assert_eq!((effects, host.state(), host.last_error()), (list(""), "committed", "mark-good"));
}

#[test]
fn a_slot_that_is_good_is_kept_though_the_floor_could_not_be_raised_and_nothing_can_be_journalled() {
    let mut host = Host::at("committed");
    let mut facts = host.engine.facts().clone();
    facts.boot.as_mut().unwrap().standing.b = GOOD;
    let floor = Err(fault("state-dir"));
    let effects = host.step(Event::CommitDone { attempt: host.attempt(), result: Ok(Marked { facts: Box::new(facts), floor }) });
    assert_eq!((effects, host.state()), (list("close committed, report committed, release ok"), "idle"));
    let error = host.engine.model().last_error.clone().unwrap();
    assert!(
        error.message.starts_with("1.1.0 is kept, but the floor of this host could not be raised: it broke: state-dir"),
        "{}",
        error.message
    );
    assert!(!host.engine.must_not_stand_still(), "it would be marked bad and left");
}

#[test]
fn a_late_reboot_whose_command_hangs_is_called_that_and_cancelling_it_ends_the_command_first() {
    let mut host = Host::at("armed/rebooting");
    host.reboot_answered(Ok(RebootAccepted::StillRuns));
    assert_eq!(host.wake(), list("reboot"));
    host.reboot_answered(Ok(RebootAccepted::StillRuns));
    let said = host.engine.model().last_error.clone().unwrap().message;
    assert!(
        said.contains("the reboot command itself has not ended") && said.contains("`updatectl cancel` ends the command"),
        "{said}"
    );
    assert_eq!(host.order(Command::Cancel), list("stop, disarm b"));

    // One that has ended since is not waited for any more.
    let mut host = Host::at("armed/rebooting");
    host.reboot_answered(Ok(RebootAccepted::StillRuns));
    host.wake();
    host.reboot_answered(Ok(RebootAccepted::Ended));
    host.wake();
    let said = host.engine.model().last_error.clone().unwrap().message;
    assert!(said.contains("something holds the shutdown up"), "{said}");
}

#[test]
fn rollback_goes_through_gates_and_lock_like_an_update() {
    let mut host = Host::at("written/rollback");
    assert_eq!(host.read_back(Ok(Proof::Equal)), list("gates before the lock"));
    assert_eq!(host.gates(GateStage::BeforeLock, vec![closed("window")]), list("update, lock"));
    // Under `manual` it is made the next one, and a person reboots.
    let committed = Host::committed_on_b();
    let mut host =
        Host::from(committed.engine.model().clone(), committed.engine.facts().clone(), policy(Strategy::Manual, false));
    host.order(Command::Rollback);
    host.read_back(Ok(Proof::Equal));
    assert_eq!(host.gates(GateStage::BeforeLock, vec![]), list("refuse 1.1.0, arm a"));
}

#[test]
fn rollback_is_not_for_a_trial_nor_for_the_middle_of_an_update() {
    assert_eq!(Host::at("trial").refused(Command::Rollback), "trial");
    assert_eq!(Host::at("fetching").refused(Command::Rollback), "busy");
    // A check under way is no reason to wait.
    let mut host = Host::committed_on_b();
    host.wake();
    assert_eq!(host.order(Command::Rollback), list("open rollback 1.0.0, read back a"));
    assert_eq!((host.offered(3), host.state()), (list(""), "written/rollback"));
}

#[test]
fn a_factory_slot_with_a_known_record_can_be_rolled_back_to_after_the_first_update() {
    let mut host = Host::new();
    host.wake();
    host.offered(2);
    host.drive_to_commit();
    assert_eq!(host.order(Command::Rollback), list("open rollback 1.0.0, read back a"));
}

#[test]
fn a_channel_is_a_name_a_record_may_carry() {
    let mut host = Host::new();
    for name in ["", "a b", "a/b", "<x>", &"x".repeat(65)] {
        assert_eq!(host.refused(Command::Channel { name: name.into() }), "channel", "{name:?}");
    }
    host.order(Command::Channel { name: "beta".into() });
    assert_eq!(host.engine.facts().identity.channel, "beta");
    assert_eq!(host.engine.model().channel.as_deref(), Some("beta"));
}

#[test]
fn a_late_answer_of_another_attempt_is_not_taken_for_that_of_this_one() {
    let mut host = Host::at("written");
    let late = host.attempt();
    host.order(Command::Cancel);
    host.order(update());
    host.offered(2);
    host.installed(Ok(()));
    assert_ne!(host.attempt(), late);
    assert_eq!(host.step(Event::ReadBack { attempt: late.clone(), result: Ok(Proof::Equal) }), list(""));
    assert_eq!(host.state(), "written");
    host.read_back(Ok(Proof::Equal));
    assert_eq!(host.step(Event::Gates { attempt: late.clone(), stage: GateStage::BeforeLock, gates: vec![] }), list(""));
    host.gates(GateStage::BeforeLock, vec![]);
    let grant = Ok(crate::engine::event::LockGrant { fence: None });
    assert_eq!(host.step(Event::Lock { attempt: late, result: grant }), list(""));
    assert_eq!(host.state(), "proven/lock");
}

#[test]
fn a_late_answer_of_an_attempt_that_is_over_changes_nothing() {
    let mut host = Host::at("fetching");
    let attempt = host.attempt();
    host.order(Command::Cancel);
    let before = host.engine.model().clone();
    let table = table(armed(TRIES));
    let late = [
        Event::Installed { attempt: attempt.clone(), boot: Some(table.clone()), result: Ok(Default::default()) },
        Event::ReadBack { attempt: attempt.clone(), result: Ok(Proof::Equal) },
        Event::Gates { attempt: attempt.clone(), stage: GateStage::BeforeLock, gates: vec![] },
        Event::Drained { attempt: attempt.clone(), result: Ok(()) },
        Event::RebootAcknowledged { attempt: attempt.clone(), result: Ok(()) },
        Event::Armed { attempt: attempt.clone(), result: Ok(table.clone()) },
        Event::Reboot { attempt: attempt.clone(), result: Err(fault("reboot")) },
        Event::Undrained { attempt: attempt.clone() },
        Event::Health { attempt: attempt.clone(), result: Ok(vec![]) },
        Event::MarkedBad { attempt, result: Ok(table) },
    ];
    for event in late {
        assert_eq!(host.step(event), list(""));
    }
    assert_eq!(host.engine.model(), &before);
    let answer = CheckAnswer::Offer { again: AskAgain::default(), offer: Box::new(offer(2)) };
    assert_eq!(host.checked(answer), list(""));
    assert_eq!(host.engine.model(), &before);
    assert_eq!(host.engine.facts().boot.as_ref().unwrap().standing.a, GOOD);
}

#[test]
fn what_would_be_downloaded_is_said_as_far_as_it_is_known() {
    let source = |size, delta: Option<u64>| Source {
        size,
        delta: delta.map(|size| DeltaSource { urls: vec!["http://h/d".to_owned()], size }),
        ..Source::default()
    };
    let words = |size, delta| source(size, delta).in_words();
    assert_eq!(words(242_221_056, Some(13_400_000)).as_deref(), Some("12.7 MiB (full: 231 MiB)"));
    assert_eq!(words(242_221_056, None).as_deref(), Some("231 MiB"));
    assert_eq!(words(242_221_056, Some(0)).as_deref(), Some("231 MiB"));
    assert_eq!(words(0, Some(13_400_000)).as_deref(), Some("12.7 MiB"));
    assert_eq!(words(0, None), None);
}
