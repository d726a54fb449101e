//! The states of the design's section 4.3 at work: superseding, claims, blindness, and loops that end.

use crate::engine::command::Command;
use crate::engine::effect::{Effect, GateStage, Row};
use crate::engine::event::{Event, Proof};
use crate::engine::facts::Facts;
use crate::engine::model::Ended;
use crate::engine::policy::Strategy;

use manifests::release::SlotName;

use super::host::{BLANK, Host, SPENT, TRIES, armed, closed, facts, fault, in_new_slot, in_old_slot, list, offer, policy};

#[test]
fn design_4_3_a_new_boot_of_the_old_slot_without_a_spent_try_is_not_held_against_the_release() {
    let mut host = Host::at("armed/rebooting");
    assert_eq!(host.restart(|facts| in_old_slot(facts, armed(TRIES))), list("disarm b"));
    host.disarmed(Ok(()));
    assert_eq!(host.undrained(), list("close failed not-attempted, report failed, release aborted"));
    assert_eq!(host.engine.model().refusals, vec![]);
}

#[test]
fn design_4_3_nothing_is_done_while_it_is_not_known_which_slot_runs() {
    for state in super::words::EVERY_STATE {
        let mut host = Host::at(state);
        let effects = host.restart(|facts| facts.running = None);
        assert_eq!(effects, list(""), "blind in {state}");
        assert!(host.wake().iter().all(|effect| effect == "check" || effect == "look"), "blind in {state}");
        for command in [Command::Rollback, Command::Confirm, Command::Reboot { force: true }] {
            assert_eq!(host.refused(command), "running-slot-unknown", "blind in {state}");
        }
    }
}

#[test]
fn design_4_3_nothing_is_installed_while_the_boot_table_cannot_be_read() {
    let mut host = Host::new();
    host.facts.boot = None;
    let mut host = Host::from(crate::engine::Model::default(), host.facts, policy(Strategy::Lock, true));
    while host.state() != "checking" {
        host.wake();
    }
    assert_eq!((host.offered(2), host.state(), host.last_error()), (list("report refused"), "idle", "running-slot-unknown"));
}

#[test]
fn design_4_3_a_host_that_sees_again_goes_on_where_it_was() {
    let mut host = Host::at("locked/draining");
    host.restart(|facts| facts.boot = None);
    assert_eq!(host.wake(), list("look"));
    let effects = host.step(Event::Looked { facts: Box::new(facts()) });
    assert_eq!((host.state(), effects), ("written", list("read back b")));
}

#[test]
fn design_4_3_the_claim_is_journalled_before_the_lock_is_asked_for() {
    let mut host = Host::at("proven/gates");
    let attempt = host.attempt();
    let effects = host.step_raw(Event::Gates { attempt, stage: GateStage::BeforeLock, gates: vec![] });
    let [Effect::Row(Row::Update(written)), Effect::Lock(asked)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(written, asked);
    let claim = asked.claim.clone().unwrap();
    assert_eq!((claim.url.as_str(), claim.group.as_str(), claim.granted), ("http://locks.example/", "default", false));
    assert_eq!(host.plan().claim, Some(claim));
}

#[test]
fn p4_a_slot_that_was_written_is_read_back_before_anything_is_asked_or_armed() {
    let mut host = Host::at("fetching");
    assert_eq!((host.installed(Ok(())).last().unwrap().as_str(), host.state()), ("read back b", "written"));
    let effects = host.read_back(Ok(Proof::Equal));
    assert_eq!((effects, host.state()), (list("report installed, gates before the lock"), "proven/gates"));
}

#[test]
fn p6_the_lock_is_given_back_when_the_new_slot_is_marked_good_and_not_before_its_health_is_known() {
    let mut host = Host::at("armed/rebooting");
    assert_eq!((host.boot_into_b(armed(TRIES - 1)), host.state()), (list("health"), "trial"));
    assert_eq!(host.health(Ok(())), list("commit"));
    let effects = host.commit_done(Ok(()));
    assert_eq!(effects, list("close committed, report committed, release ok"));
}

#[test]
fn design_4_3_a_stream_of_releases_does_not_starve_the_update() {
    let mut host = Host::at("proven/gate-closed");
    host.check_beside();
    assert_eq!(
        host.offered(3),
        list("stop, close abandoned superseded, report abandoned, open update 1.2.0, report download started, install b")
    );
    host.installed(Ok(()));
    host.read_back(Ok(Proof::Equal));
    host.gates(GateStage::BeforeLock, vec![closed("hook")]);
    // A second one on the same day waits, unless it is urgent.
    host.check_beside();
    assert_eq!((host.offered(4), host.state()), (list(""), "proven/gate-closed"));
    host.check_beside();
    let mut urgent = offer(4);
    urgent.record.urgent = true;
    assert_eq!(host.offered_as(urgent).first().unwrap(), "stop");
}

#[test]
fn design_4_3_a_newer_release_does_not_take_the_place_of_one_that_is_past_waiting() {
    let mut host = Host::at("proven/gate-closed");
    host.check_beside();
    // Before its answer comes, the gate opens and the lock is asked for.
    host.step(Event::Woke);
    for state in [
        "proven/gates",
        "proven/lock",
        "locked/draining",
        "locked/gates-again",
        "locked/acknowledging",
        "locked/arming",
        "armed/rebooting",
    ] {
        match state {
            "proven/lock" => drop(host.gates(GateStage::BeforeLock, vec![])),
            "locked/draining" => drop(host.granted()),
            "locked/gates-again" => drop(host.drained(Ok(()))),
            "locked/acknowledging" => drop(host.gates(GateStage::BeforeFlip, vec![])),
            "locked/arming" => drop(host.acknowledged(Ok(()))),
            "armed/rebooting" => drop(host.armed(Ok(()))),
            _ => {
                host.wake_gates();
            }
        }
        let mut late = host.clone();
        assert_eq!(late.offered(3), list(""), "in {state}");
        assert_eq!(late.state(), state);
        assert_eq!(late.plan().version.as_str(), "1.1.0");
    }
}

#[test]
fn a_loader_that_ignores_its_marks_does_not_make_the_host_reboot_for_ever() {
    let mut host = Host::at("trial/verdict");
    host.marked_bad(Ok(()));
    let mut reboots = 1;
    for boot in 2..100 {
        let effects = host.restart(|facts| {
            in_new_slot(facts, BLANK);
            facts.boot_id = format!("again-{boot}").as_str().into();
        });
        if !effects.contains(&"reboot".to_owned()) {
            break;
        }
        reboots += 1;
    }
    assert_eq!(reboots, crate::engine::policy::MAX_BAD_BOOTS);
    assert!(host.engine.model().last_error.as_ref().unwrap().message.contains("does not obey its marks"));
    // It stays reachable and looks after its health again: when that is good, it stays.
    assert_eq!(host.wake(), list("health"));
    host.health(Ok(()));
    assert_eq!(host.commit_done(Ok(())), list("close committed, report committed, release ok"));
}

#[test]
fn what_is_done_when_the_world_is_seen_again_is_not_done_a_second_time_by_the_alarm_of_before() {
    let mut host = Host::at("trial/verdict");
    let effects = host.restart(|facts| {
        in_new_slot(facts, armed(TRIES - 2));
        facts.boot_id = "boot-3".into();
        facts.running = None;
    });
    assert_eq!(effects, list(""));
    let facts = Box::new(Facts { running: Some(SlotName::B), ..host.facts.clone() });
    assert_eq!(host.step(Event::FactsChanged { facts }), list("mark bad"));
    assert_eq!(host.engine.model().alarm, None, "it would ask for a second `mark bad`");
}

#[test]
fn a_slot_without_a_way_back_is_not_left() {
    let mut host = Host::at("trial");
    host.restart(|facts| facts.boot.as_mut().unwrap().standing.a = BLANK);
    assert_eq!(host.health(Err("nginx is down")), list(""));
    assert!(host.engine.model().last_error.as_ref().unwrap().message.contains("no way back"));
    assert_eq!(host.wake(), list("health"));
}

#[test]
fn a_journal_that_counted_attempts_to_the_end_counts_no_further() {
    const FULL: Ended = Ended { committed: u64::MAX, rolled_back: u64::MAX, failed: u64::MAX };
    type End = fn(&mut Host) -> Vec<String>;
    let ends: [(&str, End, &str); 3] = [
        ("committed", |host| host.commit_done(Ok(())), "close committed"),
        ("armed/rebooting", |host| host.restart(|facts| in_old_slot(facts, SPENT)), "close rolled-back rolled-back"),
        ("fetching", |host| host.installed(Err(fault("download"))), "close failed download"),
    ];
    for (state, end, expected) in ends {
        let mut host = Host::at(state);
        host.engine.model.ended = FULL;
        let effects = end(&mut host);
        assert!(effects.iter().any(|effect| effect == expected), "{effects:?}");
        assert_eq!(host.engine.model.ended, FULL, "{expected}");
    }
}

#[test]
fn what_went_back_to_a_system_without_a_version_is_told_by_its_slot() {
    let mut plan = Host::at("trial").plan();
    plan.from_version = "unknown".into();
    let crate::engine::event::Fault { message, .. } = crate::engine::giving_up::rolled_back(&plan, "it flapped");
    assert_eq!(message, "1.1.0 rolled back to slot a: it flapped");
}
