//! A host that does not see which slot runs: when it leaves an image on trial, when it stays, and how it goes on when it sees.

use crate::boot::Standing;
use crate::engine::command::Command;
use crate::engine::effect::Effect;
use crate::engine::event::{Event, RebootAccepted};
use crate::engine::facts::{BootTable, Facts, PerSlot};
use crate::engine::policy::Strategy;
use crate::engine::time::{BootId, Mono};
use crate::engine::unseen::{Stays, Unseen};
use manifests::release::SlotName;

use super::host::{BAD, BLANK, GOOD, Host, SPENT, TRIES, armed, fault, in_new_slot, in_old_slot, list, policy, table};

const MINUTE_MS: u64 = 60_000;

/// The new slot was booted, and its image hides which one runs.
fn hidden(b: Standing) -> impl Fn(&mut Facts) {
    move |facts| {
        in_new_slot(facts, b);
        facts.running = None;
    }
}

impl Host {
    /// The look that is due is made and finds this.
    fn look(&mut self, facts: Facts) -> Vec<String> {
        assert_eq!(self.wake(), list("look"));
        self.step(Event::Looked { facts: Box::new(facts) })
    }

    /// The boot is counted, and the look before leaving finds this.
    fn look_to_leave(&mut self, facts: Facts) -> Vec<String> {
        self.step(Event::LookedToLeave { facts: Box::new(facts) })
    }

    /// Minutes pass in which every look finds what the start found; all that is done meanwhile, but for the looks.
    fn pass_minutes(&mut self, minutes: u64) -> Vec<String> {
        let until = self.mono + minutes * MINUTE_MS;
        let mut done = Vec::new();
        while self.engine.next_wake().is_some_and(|at| at.0 <= until) {
            let mut effects = self.wake();
            if effects.iter().any(|effect| effect == "look") {
                effects.retain(|effect| effect != "look");
                effects.extend(self.step(Event::Looked { facts: Box::new(self.facts.clone()) }));
            }
            if effects.iter().any(|effect| effect == "look to leave") {
                effects.retain(|effect| effect != "look to leave");
                effects.extend(self.look_to_leave(self.facts.clone()));
            }
            done.extend(effects);
        }
        self.pass_ms(until.saturating_sub(self.mono));
        done
    }
}

#[test]
fn p8_a_host_that_is_blind_after_its_reboot_goes_back_by_the_loaders_tries() {
    let mut host = Host::at("armed/rebooting");
    for tries in [2, 1] {
        let boot = |facts: &mut Facts| {
            hidden(armed(tries))(facts);
            facts.boot_id = BootId::new(format!("boot-{}", 9 - tries));
        };
        assert_eq!(host.restart(boot), list(""));
        assert_eq!(host.pass_minutes(9), list(""));
        assert_eq!(host.pass_minutes(1), list("reboot"));
        assert_eq!(host.last_error(), "running-slot-unknown");
        host.reboot(Ok(()));
    }
    // The loader went back, and the old slot sees.
    let effects = host.restart(|facts| in_old_slot(facts, SPENT));
    assert_eq!(host.state(), "rolled-back", "{effects:?}");
}

#[test]
fn the_time_a_host_may_be_blind_is_the_policys() {
    let mut policy = policy(Strategy::Immediate, false);
    policy.blind = std::time::Duration::from_secs(90);
    let mut host = Host::with(policy);
    host.wake();
    host.offered(2);
    host.drive_until_reboot();
    host.restart(hidden(armed(2)));
    assert_eq!((host.pass_minutes(1), host.pass_minutes(1)), (list(""), list("reboot")));
}

/// Worlds in which a reboot would not bring the old slot back, or is not known to.
#[test]
fn p1_a_host_is_left_unseen_only_where_that_brings_the_old_slot_back() {
    type Change = fn(&mut Facts);
    let cases: [(&str, &str, Change, Unseen); 11] = [
        ("the table cannot be read", "armed/rebooting", |facts| facts.boot = None, Unseen::Stays(Stays::NoTable)),
        (
            "the old slot runs, and the table cannot be read",
            "armed/rebooting",
            |facts| (facts.running, facts.boot) = (Some(SlotName::A), None),
            Unseen::Stays(Stays::NoTable),
        ),
        (
            "the new slot runs, and the table cannot be read",
            "trial",
            |facts| (facts.running, facts.boot) = (Some(SlotName::B), None),
            Unseen::Stays(Stays::NoTable),
        ),
        ("the slot was healthy", "committed", |_| (), Unseen::Stays(Stays::Kept)),
        ("the slot is good", "trial", |facts| standing(facts).b = GOOD, Unseen::Stays(Stays::Kept)),
        ("the old slot is not good", "trial", |facts| standing(facts).a = BLANK, Unseen::Stays(Stays::NoWayBack)),
        ("it was not tried", "armed/rebooting", |facts| standing(facts).b = armed(TRIES), Unseen::Stays(Stays::NotTried)),
        ("it was disarmed", "armed/giving-up", |facts| standing(facts).b = BLANK, Unseen::Stays(Stays::NotTried)),
        ("it was marked bad in another boot", "trial/verdict", |facts| standing(facts).b = BAD, Unseen::Stays(Stays::NotTried)),
        (
            "no boot id, and no try was spent",
            "armed/rebooting",
            |facts| {
                facts.boot_id = BootId::default();
                standing(facts).b = armed(TRIES);
            },
            Unseen::Stays(Stays::NoBootId),
        ),
        ("it was not rebooted", "armed/rebooting", |facts| facts.boot_id = "boot-1".into(), Unseen::Waits),
    ];
    for (world, state, change, expected) in cases {
        let mut host = Host::at(state);
        host.restart(|facts| {
            hidden(armed(2))(facts);
            facts.boot_id = "boot-9".into();
            change(facts);
        });
        assert_eq!((host.engine.unseen(), host.state()), (Some(expected), state), "{world}");
        assert_eq!(host.pass_minutes(24 * 60), list(""), "{world}");
    }
}

fn standing(facts: &mut Facts) -> &mut PerSlot<Standing> {
    &mut facts.boot.as_mut().unwrap().standing
}

#[test]
fn a_table_that_an_earlier_look_read_is_no_reason_to_leave() {
    let mut host = Host::at("armed/rebooting");
    host.restart(hidden(armed(2)));
    host.pass_minutes(9);
    let unread = Facts { boot: None, ..host.facts.clone() };
    host.pass_ms(MINUTE_MS);
    assert_eq!(host.look(unread), list(""));
    assert_eq!(host.engine.unseen(), Some(Unseen::Stays(Stays::NoTable)));
}

#[test]
fn p10_a_boot_whose_id_is_unknown_is_another_one_only_where_a_try_was_spent() {
    for state in super::words::EVERY_STATE {
        let mut host = Host::at(state);
        host.restart(|facts| {
            hidden(armed(TRIES))(facts);
            facts.boot_id = BootId::default();
        });
        let done = host.pass_minutes(24 * 60);
        assert!(done.iter().all(|effect| effect == "check"), "{state}: {done:?}");
    }
}

#[test]
fn p8_an_image_that_hides_the_id_of_its_boot_as_well_goes_back_by_the_loaders_tries() {
    let mut host = Host::at("armed/rebooting");
    for tried in [armed(2), armed(1), SPENT] {
        host.restart(|facts| {
            hidden(tried)(facts);
            facts.boot_id = BootId::default();
        });
        assert_eq!(host.pass_minutes(10), list("reboot"), "{tried:?}");
    }
    host.restart(|_| ());
    assert_eq!(host.engine.unseen(), Some(Unseen::GivenUp { boots: 3 }), "a loader that does not obey its marks");
    assert_eq!(host.pass_minutes(24 * 60), list(""));
}

#[test]
fn p10_a_loader_that_ignores_its_marks_is_not_fed_with_reboots_where_boots_cannot_be_told_apart() {
    let mut host = Host::at("trial/verdict");
    host.marked_bad(Ok(()));
    let mut reboots = 1;
    for _ in 2..100 {
        let effects = host.restart(|facts| {
            in_new_slot(facts, BLANK);
            facts.boot_id = BootId::default();
        });
        // The command is refused, and asked for again in the same boot: that is one boot all the same.
        host.reboot(Err(fault("reboot")));
        if !effects.contains(&"reboot".to_owned()) {
            break;
        }
        assert_eq!(host.wake(), list("reboot"));
        reboots += 1;
    }
    assert_eq!(reboots, crate::engine::policy::MAX_BAD_BOOTS);
}

#[test]
fn an_armed_slot_is_taken_back_where_it_is_not_known_whether_the_host_was_rebooted() {
    let unknown = |b| {
        move |facts: &mut Facts| {
            in_old_slot(facts, b);
            facts.boot_id = BootId::default();
        }
    };
    let mut host = Host::at("armed/rebooting");
    assert_eq!(host.restart(unknown(armed(TRIES))), list("disarm b"));
    assert_eq!((host.state(), host.last_error()), ("armed/giving-up", "no-identity"));
    // A try that was spent tells that it was booted.
    let mut host = Host::at("armed/rebooting");
    host.restart(unknown(armed(TRIES - 1)));
    assert_eq!((host.state(), host.last_error()), ("rolled-back", "rolled-back"));
}

#[test]
fn p10_a_blind_reboot_waits_for_the_journal_and_every_other_one_of_a_trial_does_not() {
    let mut host = Host::at("trial");
    host.restart(hidden(armed(2)));
    host.pass_minutes(9);
    host.pass_ms(MINUTE_MS);
    assert_eq!(host.look(host.facts.clone()), list("look to leave"));
    let look = Effect::LookToLeave(host.plan());
    assert!(!host.engine.cannot_wait(&look), "the count of the boot has to be durable first");
    assert!(crate::engine::Engine::still_counts_on(&look));
    assert_eq!(host.look_to_leave(host.facts.clone()), list("reboot"));
    let reboot = Effect::Reboot(host.plan());
    assert!(host.engine.cannot_wait(&reboot), "the journal has the count");
    host.reboot(Ok(()));
    assert!(host.engine.cannot_wait(&reboot), "it was accepted, so the journal has it");
    assert!(host.engine.cannot_wait(&Effect::Look) && crate::engine::Engine::still_counts_on(&Effect::Look));
    assert!(Host::at("trial/verdict").engine.cannot_wait(&reboot));
}

/// A blind host whose boot was counted; the look before leaving waits for the journal.
fn about_to_leave() -> Host {
    let mut host = Host::at("armed/rebooting");
    host.restart(hidden(armed(2)));
    host.pass_minutes(9);
    host.pass_ms(MINUTE_MS);
    assert_eq!(host.look(host.facts.clone()), list("look to leave"));
    assert_eq!(host.engine.unseen(), Some(Unseen::Leaving));
    host
}

#[test]
fn p1_what_the_last_look_before_leaving_says_decides() {
    type Change = fn(&mut Facts);
    let changes: [(Change, Stays); 4] = [
        (|facts| facts.boot = None, Stays::NoTable),
        (|facts| standing(facts).b = GOOD, Stays::Kept),
        (|facts| standing(facts).a = BLANK, Stays::NoWayBack),
        (|facts| standing(facts).b = BLANK, Stays::NotTried),
    ];
    for (change, why) in changes {
        let mut host = about_to_leave();
        let mut facts = host.facts.clone();
        change(&mut facts);
        host.facts = facts.clone();
        assert_eq!((host.look_to_leave(facts), host.engine.unseen()), (list(""), Some(Unseen::Stays(why))));
        assert_eq!(host.pass_minutes(24 * 60), list(""), "{why:?}");
    }
    let mut host = about_to_leave();
    host.order(Command::Pause { until: None, reason: None });
    assert_eq!(host.look_to_leave(host.facts.clone()), list(""), "a person paused it meanwhile");
    assert_eq!(host.engine.unseen(), Some(Unseen::Stays(Stays::Paused)));
}

#[test]
fn a_host_that_sees_while_its_leaving_waits_for_the_journal_goes_on() {
    let mut host = about_to_leave();
    let still_blind = host.facts.clone();
    let mut seen = host.facts.clone();
    in_new_slot(&mut seen, armed(2));
    host.pass_ms(MINUTE_MS);
    assert_eq!((host.look(seen), host.state()), (list("health"), "trial"));
    assert_eq!(host.look_to_leave(still_blind), list(""), "the look of what is no longer wanted");
    assert_eq!((host.pass_minutes(30), host.engine.unseen()), (list(""), None));
}

#[test]
fn an_attempt_that_had_not_armed_its_slot_was_not_booted_whatever_its_marks_are() {
    for state in ["locked/draining", "locked/acknowledging", "locked/arming", "locked/giving-up"] {
        let mut host = Host::at(state);
        host.restart(hidden(GOOD));
        assert_eq!(host.engine.unseen(), Some(Unseen::Stays(Stays::NotTried)), "{state}");
        assert_eq!(host.pass_minutes(60), list(""), "{state}");
    }
}

#[test]
fn a_refused_reboot_is_kept_and_asked_for_again() {
    let mut host = Host::at("armed/rebooting");
    host.restart(hidden(armed(2)));
    assert_eq!(host.pass_minutes(10), list("reboot"));
    assert_eq!(host.engine.unseen(), Some(Unseen::Leaving));
    assert_eq!(host.reboot(Err(fault("reboot"))), list(""));
    let again = Mono(host.mono + 5 * MINUTE_MS);
    assert_eq!((host.last_error(), host.engine.unseen()), ("reboot", Some(Unseen::Leaves { at: again })));
    assert_eq!((host.pass_minutes(4), host.pass_minutes(1)), (list(""), list("reboot")));
    assert_eq!(host.engine.model().bad_boots.as_ref().unwrap().count, 1, "it is one boot");
}

#[test]
fn a_host_that_sees_after_its_reboot_was_refused_goes_on() {
    let mut host = Host::at("armed/rebooting");
    host.restart(hidden(armed(2)));
    host.pass_minutes(10);
    let mut seen = host.facts.clone();
    in_new_slot(&mut seen, armed(2));
    assert_eq!(host.step(Event::FactsChanged { facts: Box::new(seen) }), list(""), "a reboot may be under way");
    assert_eq!(host.reboot(Err(fault("reboot"))), list("health"));
    assert_eq!((host.state(), host.engine.unseen()), ("trial", None));
}

#[test]
fn p8_it_is_given_up_after_as_many_boots_as_the_slot_has_tries() {
    let mut host = Host::at("armed/rebooting");
    for boot in 2..=4 {
        host.restart(|facts| {
            hidden(SPENT)(facts);
            facts.boot_id = BootId::new(format!("boot-{boot}"));
        });
        assert_eq!(host.pass_minutes(10), list("reboot"), "boot {boot}");
    }
    host.restart(|facts| facts.boot_id = "boot-5".into());
    assert_eq!(host.engine.unseen(), Some(Unseen::GivenUp { boots: 3 }));
    assert_eq!(host.pass_minutes(24 * 60), list(""));
}

#[test]
fn p5_a_reboot_that_was_accepted_is_awaited_even_if_the_host_sees_again() {
    let mut host = Host::at("armed/rebooting");
    host.restart(hidden(armed(2)));
    host.pass_minutes(10);
    host.reboot(Ok(()));
    let mut seen = host.facts.clone();
    in_new_slot(&mut seen, armed(2));
    assert_eq!(host.step(Event::FactsChanged { facts: Box::new(seen) }), list(""));
    for command in [Command::Confirm, Command::Cancel, Command::Reboot { force: true }] {
        assert_eq!(host.refused(command), "busy");
    }
    // It has not come: it is asked for again, whatever the answer.
    assert_eq!((host.wake(), host.last_error()), (list("reboot"), "reboot-late"));
    assert_eq!(host.reboot(Err(fault("reboot"))), list(""));
    assert_eq!((host.wake(), host.engine.unseen()), (list("reboot"), Some(Unseen::Leaving)));
}

#[test]
fn who_reboots_blindly_and_sees_again_ends_the_command_before_anything_else() {
    let mut host = Host::at("armed/rebooting");
    host.restart(hidden(armed(2)));
    assert_eq!(host.pass_minutes(10), list("reboot"));
    host.reboot_answered(Ok(RebootAccepted::StillRuns));
    assert_eq!(host.wake(), list("reboot"), "who still sees nothing waits for it");
    host.reboot_answered(Ok(RebootAccepted::StillRuns));
    let facts = Box::new(Facts { running: Some(SlotName::B), ..host.facts.clone() });
    assert_eq!(host.step(Event::FactsChanged { facts }), list(""), "it may go down any moment");
    assert_eq!((host.wake(), host.engine.unseen()), (list("stop, health"), None));
    assert_eq!(host.pass_minutes(30), list(""));
}

#[test]
fn a_device_that_appears_late_is_seen_within_a_minute_and_judged_once() {
    for state in ["armed/rebooting", "trial"] {
        let mut host = Host::at(state);
        host.restart(|facts| {
            in_new_slot(facts, armed(2));
            (facts.running, facts.boot) = (None, None);
        });
        let mut seen = host.facts.clone();
        in_new_slot(&mut seen, armed(2));
        host.pass_ms(MINUTE_MS);
        assert_eq!((host.look(seen), host.state()), (list("health"), "trial"));
        assert_eq!(host.pass_minutes(30), list(""), "one health check, and no reboot");
    }
}

#[test]
fn a_pause_holds_a_host_that_would_leave() {
    let mut host = Host::at("armed/rebooting");
    host.restart(hidden(armed(2)));
    let said = host.answer(Command::Pause { until: None, reason: None });
    assert_eq!(
        said,
        "paused until `updatectl resume`; what is under way waits until it can be seen which slot runs, and the host is not left for that"
    );
    assert_eq!((host.pass_minutes(60), host.engine.unseen()), (list(""), Some(Unseen::Stays(Stays::Paused))));
    host.order(Command::Resume);
    assert_eq!(host.pass_minutes(1), list("reboot"));
}

#[test]
fn nothing_begins_while_it_is_not_known_which_slot_runs() {
    let mut host = Host::at("deferred");
    host.restart(|facts| facts.boot = None);
    assert_eq!((host.order(Command::Resume), host.state()), (list(""), "deferred"));
    // Also what is heard of a lock that was given back is no reason.
    let mut host = Host::at("proven/lock-refused");
    host.restart(|facts| facts.running = None);
    host.step(Event::Outbox { releases_waiting: 1 });
    assert_eq!((host.step(Event::Outbox { releases_waiting: 0 }), host.state()), (list(""), "proven/lock-refused"));
    let mut host = Host::at("proven/person");
    host.restart(|facts| facts.running = None);
    let update = Command::Update { version: None, allow_older: false, no_reboot: false };
    assert_eq!((host.refused(update), host.state()), ("running-slot-unknown".to_owned(), "proven/person"));
}

/// Somebody else's table is none of ours.
#[test]
fn a_table_that_is_read_while_nobody_knows_what_runs_is_that_of_the_last_look() {
    let mut host = Host::at("trial");
    host.restart(hidden(armed(2)));
    let table = BootTable { next: SlotName::A, ..table(SPENT) };
    host.pass_ms(MINUTE_MS);
    host.look(Facts { boot: Some(table.clone()), ..host.facts.clone() });
    assert_eq!(host.engine.facts().boot, Some(table));
}
