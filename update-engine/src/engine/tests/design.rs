//! The hard cases that the design settles (its section 11), as far as they are the engine's; each named by its number.

use std::time::Duration;

use manifests::release::SlotName;

use crate::boot::{Past, Weakness};
use crate::engine::cause::Cause;
use crate::engine::command::Command;
use crate::engine::effect::{Effect, GateStage, LockOutcome, Row};
use crate::engine::event::{Event, Marked, Orphan, Proof};
use crate::engine::facts::{Content, Facts, Floor, FloorFacts, LastWords, LeftTrial, Trouble};
use crate::engine::model::{CommittedSlot, NeverShown};
use crate::engine::policy::{Policy, Strategy};
use crate::engine::state::Claim;
use crate::engine::time::Mono;
use crate::engine::{Engine, Model};
use manifests::version::{Sequence, Version};

use super::host::{
    BAD, BLANK, GOOD, Host, NOON, SPENT, TRIES, armed, closed, content, digest, fault, in_new_slot, in_old_slot, list, offer,
    policy, sequence,
};

const TEN_YEARS_MS: i64 = 10 * 366 * 86_400_000;

fn orphan() -> Orphan {
    let claim = Claim {
        url: "http://locks.example/".into(),
        group: "default".into(),
        id: "4f3c".into(),
        fence: Some("3".into()),
        granted: true,
    };
    Orphan {
        attempt: "0b0b".into(),
        slot: SlotName::B,
        from_version: "1.0.0".into(),
        version: Version::parse("1.1.0").unwrap(),
        sequence: sequence(2),
        digest: digest(2),
        started_at: NOON,
        claim: Some(claim),
    }
}

/// A start with an empty journal of which only this attempt is left.
fn start_with_orphan(change: impl FnOnce(&mut crate::engine::facts::Facts)) -> (Host, Vec<String>) {
    let mut host = Host::new();
    change(&mut host.facts);
    let effects = host.start(vec![orphan()]);
    (host, effects)
}

#[test]
fn design_11_1_an_attempt_of_a_journal_that_was_set_aside_is_judged_when_its_slot_runs() {
    let (mut host, effects) = start_with_orphan(|facts| in_new_slot(facts, armed(TRIES - 1)));
    assert_eq!((host.state(), effects), ("trial", list("health")));
    assert_eq!(host.attempt(), "0b0b");
    host.health(Ok(()));
    assert_eq!(host.commit_done(Ok(())), list("close committed, report committed, release ok"));
}

#[test]
fn design_11_1_an_attempt_of_a_journal_that_was_set_aside_ends_by_what_the_boot_table_says() {
    let (host, effects) = start_with_orphan(|facts| in_old_slot(facts, SPENT));
    let back = "close rolled-back rolled-back, report rolled back, release rolled back, refuse 1.1.0, disarm b";
    assert_eq!((host.state(), effects), ("rolled-back", list(back)));

    // Hooks may have drained the host: it is undrained before the lock is given back.
    let (mut host, effects) = start_with_orphan(|facts| in_old_slot(facts, BLANK));
    assert_eq!((host.state(), effects), ("locked/giving-up", list("undrain")));
    assert_eq!(host.undrained(), list("close abandoned journal-lost, report abandoned, release aborted"));
    assert_eq!(host.state(), "idle");

    // Armed and not tried: it is disarmed before that.
    let (mut host, effects) = start_with_orphan(|facts| in_old_slot(facts, armed(TRIES)));
    assert_eq!((host.state(), effects), ("locked/giving-up", list("disarm b")));
    assert_eq!(host.disarmed(Ok(())), list("undrain"));
}

#[test]
fn design_11_1_a_running_slot_on_trial_is_judged_even_without_any_journal() {
    let mut host = Host::new();
    in_new_slot(&mut host.facts, SPENT);
    assert_eq!(host.start(vec![]), list("open found 1.1.0, health"));
    host.health(Err("nginx is down"));
    assert_eq!(host.marked_bad(Ok(())), list("reboot"));
    let effects = host.restart(|facts| {
        in_old_slot(facts, BLANK);
        facts.boot_id = "boot-3".into();
    });
    assert_eq!(effects, list("close rolled-back rolled-back, report rolled back, refuse 1.1.0, disarm b"));
}

#[test]
fn design_11_1_a_running_slot_that_was_marked_bad_is_not_taken_for_steady_after_a_lost_journal() {
    let mut host = Host::new();
    in_new_slot(&mut host.facts, BAD);
    assert_eq!(host.start(vec![]), list("open found 1.1.0, health"));
    assert_eq!(host.health(Err("nginx is down")), list("reboot"));
}

/// Makes the world one in which a slot runs that nobody has asked the loader to start.
type ByHand = fn(&mut Facts);

/// What such a slot is, and what is said of it.
const BY_HAND: [(&str, ByHand, &str); 5] = [
    ("disarmed", |facts| in_new_slot(facts, BLANK), "disarmed, or never armed"),
    (
        "half-written",
        |facts| {
            in_new_slot(facts, BLANK);
            facts.slots.b = Content::default();
        },
        "disarmed, or never armed",
    ),
    (
        "marked bad, of no known record",
        |facts| {
            in_new_slot(facts, BAD);
            facts.slots.b = Content::default();
        },
        "`updatectl adopt RELEASE` names it",
    ),
    (
        "marked bad, below the floor",
        |facts| {
            in_new_slot(facts, BAD);
            facts.floor = FloorFacts::Known(Floor { floor: sequence(3), highest: sequence(3) });
        },
        "its sequence 2 is below the floor 3",
    ),
    (
        "marked bad, floor lost",
        |facts| {
            in_new_slot(facts, BAD);
            facts.floor = FloorFacts::Lost { image: sequence(0) };
        },
        "is not known",
    ),
];

#[test]
fn p3_a_slot_that_a_person_started_by_hand_is_not_marked_good_and_nothing_is_updated_from_it() {
    for (what, change, words) in BY_HAND {
        let mut host = Host::new();
        change(&mut host.facts);
        assert_eq!((host.start(vec![]), host.state()), (list(""), "idle"), "{what}");
        let fault = host.engine.facts().started_by_hand().unwrap();
        assert!(fault.message.contains(words) && fault.message.contains("the next boot starts slot a"), "{what}: {fault}");
        let mut weak = host.engine.facts().clone();
        weak.boot.as_mut().unwrap().weakness = Some(Weakness::of_a_slot("its entry is none of ours"));
        let unsure = weak.started_by_hand().unwrap().message;
        assert!(
            unsure.contains("starts is not certain (its entry is none of ours;") && !unsure.contains("boot starts slot a"),
            "{unsure}"
        );
        assert_eq!(host.refused(Command::Confirm), "not-on-trial", "{what}");
        assert_eq!(host.refused(Command::Rollback), "nothing-to-roll-back-to", "{what}");
        assert_eq!(host.wake(), list("check"), "{what}");
        let ended = (host.offered(3), host.state(), host.last_error());
        assert_eq!(ended, (list("report refused"), "idle", "running-slot"), "{what}");
    }
}

#[test]
fn a_factory_disk_whose_loader_starts_the_second_slot_is_updated() {
    let mut host = Host::new();
    in_new_slot(&mut host.facts, BLANK);
    // The first slot counts as the loader's choice.
    host.facts.boot.as_mut().unwrap().past = Past::NothingMarked;
    assert_eq!((host.start(vec![]), host.state()), (list(""), "idle"));
    assert_eq!(host.engine.facts().started_by_hand(), None);
    assert_eq!(host.wake(), list("check"));
    host.offered(3);
    assert_eq!(host.state(), "fetching", "arming marks the running slot as well");
}

#[test]
fn a_look_that_is_older_than_a_commit_opens_no_second_trial() {
    let mut host = Host::new();
    in_new_slot(&mut host.facts, GOOD);
    host.start(vec![]);
    let mut before = host.facts.clone();
    in_new_slot(&mut before, armed(2));
    assert_eq!((host.step(Event::FactsChanged { facts: Box::new(before.clone()) }), host.state()), (list(""), "idle"));
    // Whoever knows that the table was written since leaves it out.
    let mut host = Host::new();
    in_new_slot(&mut host.facts, GOOD);
    host.start(vec![]);
    host.step(Event::FactsChanged { facts: Box::new(Facts { boot: None, ..before }) });
    assert_eq!(host.answer(Command::Confirm), "the running slot is good already");
}

#[test]
fn marks_that_a_person_mended_by_hand_count_from_the_next_look() {
    let mut host = Host::new();
    in_new_slot(&mut host.facts, BLANK);
    host.start(vec![]);
    assert!(host.engine.facts().started_by_hand().is_some());
    let mut mended = host.facts.clone();
    in_new_slot(&mut mended, GOOD);
    host.step(Event::FactsChanged { facts: Box::new(mended) });
    assert_eq!(host.engine.facts().started_by_hand(), None);
}

#[test]
fn p3_a_slot_that_is_started_by_hand_while_it_is_written_is_left_alone() {
    for (state, close) in [("fetching", ""), ("written", ""), ("proven/lock", "release aborted")] {
        let mut host = Host::at(state);
        let effects = host.restart(|facts| in_new_slot(facts, BLANK));
        let expected = list("close failed running-slot, report failed").into_iter().chain(list(close)).collect::<Vec<_>>();
        assert_eq!((effects, host.state()), (expected, "failed"), "{state}");
        assert!(host.engine.facts().started_by_hand().is_some(), "{state}");
    }
}

#[test]
fn an_attempt_of_a_lost_journal_whose_disarmed_slot_is_started_by_hand_is_left_and_not_kept() {
    let (mut host, effects) = start_with_orphan(|facts| in_old_slot(facts, BLANK));
    assert_eq!((host.state(), effects), ("locked/giving-up", list("undrain")));
    let effects = host.restart(|facts| {
        in_new_slot(facts, BLANK);
        facts.boot_id = "boot-3".into();
    });
    assert_eq!((host.state(), effects), ("trial/verdict", list("reboot")));
}

#[test]
fn a_slot_that_was_marked_bad_is_judged_once_its_record_is_adopted() {
    let mut host = Host::new();
    in_new_slot(&mut host.facts, BAD);
    host.facts.slots.b = Content::default();
    assert_eq!(host.start(vec![]), list(""));
    host.facts.slots.b = content(2);
    let facts = Box::new(host.facts.clone());
    assert_eq!((host.step(Event::FactsChanged { facts }), host.state()), (list("open found 1.1.0, health"), "trial"));
}

#[test]
fn design_11_2_a_slot_that_the_deadline_unit_marked_bad_is_left_and_not_marked_good() {
    let mut host = Host::at("trial");
    let effects = host.restart(|facts| in_new_slot(facts, BLANK));
    assert_eq!((host.state(), effects), ("trial/verdict", list("reboot")));
    assert_eq!(host.refused(Command::Confirm), "unhealthy");
}

#[test]
fn design_11_2_a_slot_that_the_deadline_unit_has_left_says_so_also_where_the_daemon_starts_before_the_reboot() {
    for (attempt, expected) in [(None, "not kept within 600 s"), (Some("another"), "it was marked bad before it had shown")] {
        let mut host = Host::at("trial");
        let attempt = attempt.map_or_else(|| host.attempt(), str::to_owned);
        host.restart(|facts| {
            in_new_slot(facts, BAD);
            facts.left = Some(LeftTrial { attempt, why: "it was not kept within 600 s".into() });
        });
        assert_eq!(host.state(), "trial/verdict");
        // The old slot tells what was written down here.
        host.restart(|facts| in_old_slot(facts, BAD));
        let message = &host.engine.model().last_error.as_ref().unwrap().message;
        assert!(host.state() == "rolled-back" && message.contains(expected), "{message}");
    }
}

#[test]
fn why_a_slot_that_was_healthy_went_back_is_told_by_who_left_it_and_by_what_kept_it_from_being_marked() {
    let left = "it was not kept within 600 s";
    let not_marked = "it was healthy but could not be marked good (it broke: boot-control)";
    for (was_left, error, expected) in [
        (true, true, format!("{left}; {not_marked}")),
        (true, false, left.to_owned()),
        (false, true, format!("{not_marked}, and the loader went back")),
        (false, false, "power was lost before the slot was marked good, and the loader went back".to_owned()),
    ] {
        let mut host = Host::at("committed");
        let attempt = host.attempt();
        if error {
            host.step(Event::CommitDone { attempt: attempt.clone(), result: Err(fault("boot-control")) });
        }
        host.restart(|facts| {
            in_old_slot(facts, BAD);
            facts.left = was_left.then(|| LeftTrial { attempt, why: left.into() });
        });
        assert_eq!(host.state(), "rolled-back");
        let message = &host.engine.model().last_error.as_ref().unwrap().message;
        assert!(message.ends_with(&expected), "{message}");
    }
}

#[test]
fn design_11_2_why_the_deadline_unit_left_a_slot_is_told_by_the_old_one() {
    for (attempt, expected) in [(None, "not kept within 600 s"), (Some("another"), "it was marked bad before it had shown")] {
        let mut host = Host::at("armed/rebooting");
        let attempt = attempt.map_or_else(|| host.attempt(), str::to_owned);
        host.restart(|facts| {
            in_old_slot(facts, BAD);
            facts.left = Some(LeftTrial { attempt, why: "it was not kept within 600 s".into() });
        });
        assert_eq!(host.state(), "rolled-back");
        let message = &host.engine.model().last_error.as_ref().unwrap().message;
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_rollback_is_reported_with_what_its_kernel_said_and_only_with_that() {
    let panic = "Kernel panic - not syncing: no init found";
    for (attempt, is_told) in [(None, true), (Some("another"), false)] {
        let mut host = Host::at("armed/rebooting");
        let attempt = attempt.map_or_else(|| host.attempt(), str::to_owned);
        host.facts = host.engine.facts().clone();
        in_old_slot(&mut host.facts, SPENT);
        host.facts.last_words = Some(LastWords { attempt, line: panic.into() });
        let facts = Box::new(host.facts.clone());
        let effects = host.step_raw(Event::Started { facts, orphans: vec![] });
        let reported = effects.iter().find_map(|effect| match effect {
            Effect::Row(Row::Report(report)) => report.reason.clone(),
            _ => None,
        });
        let why = "1.1.0 rolled back to 1.0.0: it did not come up: the loader spent its tries and went back";
        let told = if is_told { format!("{why}; its kernel said: {panic}") } else { why.to_owned() };
        assert_eq!(reported, Some(told));
        // What is shown here has it beside the sentence, not in it.
        assert_eq!(host.engine.model().last_error.as_ref().unwrap().message, why);
    }
}

#[test]
fn the_longest_reason_leaves_room_for_what_the_kernel_said() {
    let mut host = Host::at("trial/verdict");
    let mut model = host.engine.model().clone();
    if let crate::engine::state::State::Trial { verdict, .. } = &mut model.state {
        *verdict = Some("\u{1F980}".repeat(5000));
    }
    host.facts = host.engine.facts().clone();
    in_old_slot(&mut host.facts, BAD);
    host.facts.last_words = Some(LastWords { attempt: host.attempt(), line: "BUG: here".into() });
    host.engine = crate::engine::Engine::new(model, host.facts.clone(), policy(Strategy::Lock, true));
    let effects = host.step_raw(Event::Started { facts: Box::new(host.facts.clone()), orphans: vec![] });
    let reason = effects.iter().find_map(|effect| match effect {
        Effect::Row(Row::Report(report)) => report.reason.clone(),
        _ => None,
    });
    let reason = reason.unwrap();
    assert!(reason.chars().count() == manifests::omaha::MAX_TEXT_CHARS && reason.ends_with("; its kernel said: BUG: here"));
}

#[test]
fn a_slot_on_trial_is_judged_and_kept_where_updates_are_switched_off() {
    let without_server = Policy { has_server: false, ..policy(Strategy::Lock, true) };
    let pause = Command::Pause { until: None, reason: Some("no updates".into()) };
    for (what, settings, pauses) in [("no server", without_server, false), ("paused", policy(Strategy::Lock, true), true)] {
        let mut model = Host::at("armed/rebooting").engine.model().clone();
        if pauses {
            let mut host = Host::at("armed/rebooting");
            host.order(pause.clone());
            model = host.engine.model().clone();
        }
        let mut facts = super::host::facts();
        in_new_slot(&mut facts, armed(TRIES - 1));
        let mut host = Host::from(model, facts, settings);
        assert_eq!(host.state(), "trial", "{what}");
        assert_eq!(host.health(Ok(())), list("commit"), "{what}");
        assert_eq!(host.commit_done(Ok(())), list("close committed, report committed, release ok"), "{what}");
        assert_eq!((host.state(), host.engine.model().pause.is_some()), ("idle", pauses), "{what}");
    }
}

#[test]
fn a_slot_on_trial_is_kept_from_its_least_uptime_on_and_an_image_has_none() {
    let settings = Policy { min_uptime: Duration::from_secs(1_200), ..policy(Strategy::Lock, true) };
    let mut host = Host::with(settings);
    let now = host.now();
    assert_eq!(host.engine.kept_from(&now), Some(Mono(1_200_000)));
    host.pass_ms(1_200_000 - host.mono);
    let now = host.now();
    assert_eq!(host.engine.kept_from(&now), None);
    let mut image =
        Host::from(host.engine.model().clone(), Facts { image_mode: true, ..host.facts.clone() }, host.engine.policy().clone());
    let now = image.now();
    assert_eq!(image.engine.kept_from(&now), None);
}

#[test]
fn design_11_2_without_a_key_the_daemon_runs_and_never_updates() {
    let mut host = Host::new();
    host.facts.troubles.push(Trouble { code: Cause::NoKey, message: "there is no *.pub file".into() });
    assert_eq!(host.start(vec![]), list(""));
    assert_eq!(host.wake(), list("check"));
    assert_eq!((host.offered(2), host.state(), host.last_error()), (list("report refused"), "idle", "no-key"));
}

#[test]
fn design_11_3_the_floor_is_absolute_for_the_timer_a_person_a_file_and_a_rollback() {
    let floor = |host: &mut Host| {
        let mut facts = host.engine.facts().clone();
        facts.floor = FloorFacts::Known(crate::engine::facts::Floor { floor: sequence(4), highest: sequence(5) });
        facts.slots.a = content(5);
        host.facts = facts;
        host.start(vec![]);
    };
    let permit = |version: &str| Command::Update { version: Some(version.into()), allow_older: true, no_reboot: false };
    let mut host = Host::new();
    floor(&mut host);
    host.wake();
    assert_eq!((host.offered(3), host.state(), host.last_error()), (list("report refused"), "idle", "below-floor"));
    host.order(permit("1.2.0"));
    assert_eq!((host.offered(3), host.state(), host.last_error()), (list(""), "idle", "below-floor"));
    let files =
        Command::Install { release: "/r".into(), payload: Some("/p".into()), delta: None, allow_older: true, no_reboot: false };
    host.order(files);
    assert_eq!((host.offered(3), host.state(), host.last_error()), (list(""), "idle", "below-floor"));
    let mut model = host.engine.model().clone();
    model.committed.b = Some(CommittedSlot { digest: digest(3), sequence: sequence(3), version: "1.2.0".into() });
    let mut host = Host::from(model, host.facts.clone(), policy(Strategy::Lock, true));
    assert_eq!(host.refused(Command::Rollback), "below-floor");
}

#[test]
fn design_11_3_below_the_highest_only_by_explicit_permission_which_is_recorded() {
    let mut host = Host::new();
    host.facts.floor = FloorFacts::Known(crate::engine::facts::Floor { floor: sequence(1), highest: sequence(5) });
    host.facts.slots.a = content(2);
    host.start(vec![]);
    host.wake();
    assert_eq!((host.offered(3), host.state()), (list("report refused"), "idle"));
    assert!(host.engine.model().check.last_result.as_ref().unwrap().contains("--allow-older"));
    host.order(Command::Update { version: Some("1.2.0".into()), allow_older: true, no_reboot: false });
    assert_eq!(host.offered(3), list("open update 1.2.0, report download started, install b"));
    assert!(host.plan().allow_older);
    // What is not below needs no permission, and none is recorded.
    let mut host = Host::at("checking");
    host.order(Command::Update { version: None, allow_older: true, no_reboot: false });
    host.offered(2);
    assert!(!host.plan().allow_older);
}

#[test]
fn design_11_3_a_lost_floor_is_never_floor_0_until_a_person_names_the_running_release() {
    let mut host = Host::new();
    host.facts.floor = FloorFacts::Lost { image: Sequence::ZERO };
    host.start(vec![]);
    host.wake();
    assert_eq!((host.offered(2), host.state(), host.last_error()), (list("report refused"), "idle", "floor-lost"));
    let mut facts = host.facts.clone();
    facts.floor = super::host::facts().floor;
    host.step(Event::FactsChanged { facts: Box::new(facts) });
    assert_eq!(host.last_error(), "");
    host.wake();
    assert_eq!((host.offered(2).len(), host.state()), (3, "fetching"));
}

#[test]
fn design_11_3_the_fall_back_inside_the_pair_stays_possible_after_the_floor_rose() {
    let mut host = Host::at("committed");
    // The commit raised the floor; then power was lost before the slot was good.
    let effects = host.restart(|facts| {
        in_old_slot(facts, SPENT);
        facts.floor = FloorFacts::Known(crate::engine::facts::Floor { floor: sequence(2), highest: sequence(2) });
    });
    assert_eq!((host.state(), effects.last().unwrap().as_str()), ("rolled-back", "disarm b"));
}

#[test]
fn design_11_6_rollback_takes_what_was_committed_before_and_not_written_since() {
    let mut host = Host::committed_on_b();
    assert_eq!(host.order(Command::Rollback), list("open rollback 1.0.0, read back a"));
    // A slot that was written to since holds nothing to go back to, even if that was given up.
    let mut host = Host::committed_on_b();
    host.wake();
    host.offered(3);
    host.order(Command::Cancel);
    assert_eq!(host.refused(Command::Rollback), "nothing-to-roll-back-to");
    // One that could not even be opened still holds it.
    let mut host = Host::committed_on_b();
    host.wake();
    host.offered(3);
    let (attempt, result) = (host.attempt(), Err(fault("running-slot")));
    host.step(Event::Installed { attempt, boot: None, result });
    assert_eq!(host.order(Command::Rollback), list("open rollback 1.0.0, read back a"));
    // Nor does one of which nothing is known.
    assert_eq!(Host::new().refused(Command::Rollback), "nothing-to-roll-back-to");
}

#[test]
fn design_11_6_a_slot_to_roll_back_to_that_differs_is_left_as_it_is() {
    let mut host = Host::at("written/rollback");
    assert_eq!(host.differs(), list("close failed read-back, report failed"));
    assert_eq!(host.engine.model().refusals, vec![]);
}

#[test]
fn design_11_7_a_release_that_rolled_back_is_refused_until_a_newer_one_or_a_person_names_it() {
    let mut host = Host::at("rolled-back");
    host.disarmed(Ok(()));
    host.wake();
    assert_eq!((host.offered(2), host.state(), host.last_error()), (list("report refused"), "idle", "rolled-back"));
    // Another record with the same sequence is no newer release.
    host.wake();
    let mut twin = offer(2);
    twin.digest = digest(99);
    assert_eq!((host.offered_as(twin), host.state()), (list("report refused"), "idle"));
    // Survives the journal.
    assert_eq!(host.restart(|_| ()), list(""));
    host.wake();
    assert_eq!((host.offered(2), host.state()), (list(""), "idle"));
    // A newer one is taken.
    let mut newer = host.clone();
    newer.wake();
    assert_eq!(newer.offered(3), list("open update 1.2.0, report download started, install b"));
    // A person names it.
    host.order(Command::Update { version: Some("1.1.0".into()), allow_older: false, no_reboot: false });
    assert_eq!(host.offered(2), list("open update 1.1.0, report download started, install b"));
}

#[test]
fn design_11_7_what_a_person_rolled_back_from_is_refused_from_the_flip_on() {
    let mut host = Host::at("written/rollback");
    host.read_back(Ok(Proof::Equal));
    host.gates(GateStage::BeforeLock, vec![]);
    host.granted();
    host.drained(Ok(()));
    host.gates(GateStage::BeforeFlip, vec![]);
    assert_eq!(host.acknowledged(Ok(())), list("refuse 1.1.0, arm a"));
}

#[test]
fn design_11_7_a_refusal_is_lifted_when_the_release_is_committed_after_all() {
    let mut host = Host::at("rolled-back");
    host.disarmed(Ok(()));
    host.order(Command::Update { version: Some("1.1.0".into()), allow_older: false, no_reboot: false });
    host.offered(2);
    let effects = host.drive_to_commit();
    assert_eq!(effects, list("close committed, report committed, release ok, forgive"));
    assert_eq!(host.engine.model().refusals, vec![]);
}

#[test]
fn design_11_7_the_pause_after_failures_grows_and_the_timer_cannot_be_talked_out_of_it() {
    let mut host = Host::new();
    let mut pauses = Vec::new();
    for _ in 0..14 {
        host.wake();
        host.nothing_new_or(2);
        let before = host.mono;
        host.installed(Err(fault("download")));
        pauses.push((host.engine.next_wake().unwrap().0 - before) / 60_000);
        // A check by a person meanwhile ends the state, not the pause.
        host.order(Command::Check);
        host.nothing_new();
        let retry = host.engine.model().failures.as_ref().unwrap().retry.clone().unwrap();
        assert_eq!(host.state(), "idle");
        host.wake();
        if host.mono < retry.at.0 {
            assert_eq!((host.offered(2), host.state()), (list(""), "idle"));
            host.pass_ms(retry.at.0 - host.mono);
        } else {
            host.nothing_new();
        }
    }
    assert!(pauses.windows(2).take(9).all(|pair| pair[1] > pair[0]), "{pauses:?}");
    assert!(pauses.last().unwrap() / 60 <= 27, "{pauses:?}");
}

#[test]
fn design_11_7_a_server_that_alternates_between_two_broken_releases_gains_nothing() {
    let mut host = Host::new();
    for round in 0..6_u32 {
        host.wake();
        let number = if round % 2 == 0 { 3 } else { 2 };
        host.nothing_new_or(number);
        host.installed(Err(fault("download")));
        assert_eq!(host.engine.model().failures.as_ref().unwrap().count, round + 1);
        let retry = host.engine.model().failures.as_ref().unwrap().retry.clone().unwrap();
        host.pass_ms(retry.at.0 - host.mono);
    }
    // A release that is newer than all that failed starts from one.
    host.wake();
    host.nothing_new_or(4);
    host.installed(Err(fault("download")));
    assert_eq!(host.engine.model().failures.as_ref().unwrap().count, 1);
}

/// The host was rebooted for the armed slot b, and slot a came up with no try spent; then everything is undone.
fn come_up_untried(host: &mut Host, boot: u32) -> Vec<String> {
    host.reboot(Ok(()));
    let effects = host.restart(|facts| {
        in_old_slot(facts, armed(TRIES));
        facts.boot_id = format!("boot-{boot}").as_str().into();
    });
    host.disarmed(Ok(()));
    assert_eq!(host.undrained(), list("close failed not-attempted, report failed, release aborted"));
    host.step(Event::Outbox { releases_waiting: 0 });
    effects
}

/// The same with a loader that gives the slot up after its last try and leaves no marks of it.
fn come_up_without_marks(host: &mut Host, boot: u32) -> Vec<String> {
    host.reboot(Ok(()));
    let effects = host.restart(|facts| {
        in_old_slot(facts, BLANK);
        facts.boot_id = format!("boot-{boot}").as_str().into();
    });
    assert_eq!(host.undrained(), list("close failed not-attempted, report failed, release aborted"));
    host.step(Event::Outbox { releases_waiting: 0 });
    effects
}

/// The pause after a failure is over and release `number` is offered again.
fn try_again(host: &mut Host, number: u64) {
    while host.state() != "checking" {
        host.wake();
    }
    host.nothing_new_or(number);
    host.drive_to_armed();
}

#[test]
fn design_11_7_a_release_whose_slot_the_loader_never_shows_running_is_refused_after_three_reboots_in_a_row() {
    let mut host = Host::at("armed/rebooting");
    let mut pauses = Vec::new();
    for boot in 2..4 {
        assert_eq!(come_up_untried(&mut host, boot), list("disarm b"));
        pauses.push(host.engine.next_wake().unwrap().0 - host.mono);
        try_again(&mut host, 2);
    }
    assert!(pauses[1] > pauses[0], "{pauses:?}");
    assert_eq!(come_up_untried(&mut host, 4), list("refuse 1.1.0, disarm b"));
    let refusals = host.engine.model().refusals.clone();
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0].reason, "the boot loader never showed slot b running, in 3 reboots in a row");
    let message = host.engine.model().last_error.as_ref().unwrap().message.clone();
    assert!(
        message.ends_with("1.1.0 is installed again only by `updatectl update 1.1.0`, a newer release by itself"),
        "{message}"
    );
    // A start of the daemon counts nothing twice, and the timer does not install it.
    host.restart(|_| ());
    assert_eq!(host.engine.model().never_shown.as_ref().unwrap().count, 3);
    while host.state() != "checking" {
        host.wake();
    }
    assert_eq!((host.offered(2), host.state()), (list("report refused"), "idle"));
    // A newer one is tried, and starts from one.
    let mut newer = host.clone();
    newer.wake();
    newer.nothing_new_or(3);
    newer.drive_to_armed();
    assert_eq!(come_up_untried(&mut newer, 5), list("disarm b"));
    // A person names it: it is tried, and refused once more when that goes the same way.
    host.order(Command::Update { version: Some("1.1.0".into()), allow_older: false, no_reboot: false });
    host.offered(2);
    host.drive_to_armed();
    let mut kept = host.clone();
    assert_eq!(come_up_untried(&mut host, 5), list("refuse 1.1.0, disarm b"));
    // A loader that shows it running is one that reads the table.
    kept.boot_into_b(armed(TRIES - 1));
    assert_eq!(kept.engine.model().never_shown, None);
}

#[test]
fn design_11_7_a_release_whose_marks_the_loader_clears_is_refused_after_three_reboots_in_a_row() {
    let mut host = Host::at("armed/rebooting");
    for boot in 2..4 {
        assert_eq!(come_up_without_marks(&mut host, boot), list("undrain"));
        try_again(&mut host, 2);
    }
    assert_eq!(come_up_without_marks(&mut host, 4), list("refuse 1.1.0, undrain"));
    let reason = &host.engine.model().refusals[0].reason;
    assert_eq!(reason, "slot b was armed and never seen to run, and its marks were gone, in 3 reboots in a row");
    assert_eq!(
        host.engine.model().last_error.as_ref().unwrap().message,
        "the host was rebooted, and slot b is no longer armed, 3 times in a row: its loader gives it up and leaves no marks, so the image \
         does not come up; 1.1.0 is installed again only by `updatectl update 1.1.0`, a newer release by itself"
    );
    while host.state() != "checking" {
        host.wake();
    }
    assert_eq!((host.offered(2), host.state()), (list("report refused"), "idle"));
    // Both ways in which a loader shows nothing of it count together.
    let mut host = Host::at("armed/rebooting");
    come_up_untried(&mut host, 2);
    try_again(&mut host, 2);
    come_up_without_marks(&mut host, 3);
    assert_eq!(host.engine.model().never_shown.as_ref().unwrap().count, 2);
    // What was not rebooted for is not held against it.
    for state in ["armed/resting", "armed/gates"] {
        let mut host = Host::at(state);
        let model = Model { asked_reboot: None, ..host.engine.model().clone() };
        host.engine = Engine::new(model, host.engine.facts().clone(), host.engine.policy().clone());
        host.restart(|facts| in_old_slot(facts, BLANK));
        assert_eq!(host.engine.model().never_shown, None, "{state}");
        let message = &host.engine.model().last_error.as_ref().unwrap().message;
        assert_eq!(message, "the host was rebooted after slot b had been disarmed: it was not tried", "{state}");
    }
}

#[test]
fn design_11_7_a_reboot_that_was_asked_for_counts_also_where_the_daemon_is_started_again_before_it_comes() {
    type ComeUp = fn(&mut Host, u32) -> Vec<String>;
    let come_up: [ComeUp; 2] = [come_up_untried, come_up_without_marks];
    for come_up in come_up {
        let mut host = Host::at("armed/rebooting");
        host.restart(|_| ());
        assert_eq!(host.state(), "armed/gates");
        come_up(&mut host, 2);
        assert_eq!(host.engine.model().never_shown.as_ref().unwrap().count, 1);
    }
    // One that was taken back is not one that was in vain.
    let mut host = Host::at("armed/rebooting");
    host.restart(|_| ());
    host.gates(GateStage::BeforeReboot, vec![closed("hook")]);
    host.disarmed(Ok(()));
    host.undrained();
    assert_eq!((host.state(), host.engine.model().asked_reboot.clone()), ("written", None));
}

#[test]
fn design_11_7_a_boot_of_the_old_slot_that_nobody_rebooted_for_is_not_held_against_the_release() {
    for state in ["armed/resting", "armed/gates", "armed/gate-closed", "locked/arming"] {
        let mut host = Host::at(state);
        let twice = Some(NeverShown { sequence: sequence(2), count: 2 });
        let model = Model { never_shown: twice.clone(), asked_reboot: None, ..host.engine.model().clone() };
        host.engine = Engine::new(model, host.engine.facts().clone(), host.engine.policy().clone());
        assert_eq!(host.restart(|facts| in_old_slot(facts, armed(TRIES))), list("disarm b"), "{state}");
        assert_eq!((host.state().ends_with("giving-up"), &host.engine.model().never_shown), (true, &twice), "{state}");
    }
}

#[test]
fn design_11_8_no_lock_is_asked_for_while_an_older_one_is_not_given_back() {
    let mut host = Host::at("written");
    host.step(Event::Outbox { releases_waiting: 1 });
    host.read_back(Ok(Proof::Equal));
    assert_eq!((host.gates(GateStage::BeforeLock, vec![]), host.state()), (list(""), "proven/lock-refused"));
    assert_eq!(host.plan().claim, None);
    let why = |host: &Host| host.engine.soft().lock_refusal.as_ref().unwrap().0.message.clone();
    assert!(why(&host).ends_with("its server has not answered yet"), "{}", why(&host));
    let refused = "group default: the lock service at http://locks.example/ refused (403 not_allowed): no such token";
    assert_eq!(host.step(Event::ReleaseFailed { message: refused.into() }), list(""));
    assert!(why(&host).contains(refused) && why(&host).contains("`updatectl reboot --force`"), "{}", why(&host));
    // Delivered: asked at once.
    assert_eq!(host.step(Event::Outbox { releases_waiting: 0 }), list("gates before the lock"));
    assert_eq!(host.gates(GateStage::BeforeLock, vec![]), list("update, lock"));
}

#[test]
fn design_11_8_a_server_that_is_down_blocks_neither_checks_nor_commits() {
    let mut host = Host::at("committed");
    host.step(Event::Outbox { releases_waiting: 3 });
    host.commit_done(Ok(()));
    assert_eq!((host.state(), host.wake()), ("idle", list("check")));
    assert_eq!(host.offered(3), list("open update 1.2.0, report download started, install a"));
}

#[test]
fn design_11_8_the_release_names_the_lock_that_was_asked_for_whatever_is_configured_now() {
    let mut host = Host::at("trial");
    let mut other = policy(Strategy::Lock, true);
    other.lock.as_mut().unwrap().url = "http://elsewhere.example/".into();
    host = Host::from(host.engine.model().clone(), host.engine.facts().clone(), other);
    host.health(Ok(()));
    let mut facts = host.engine.facts().clone();
    facts.boot.as_mut().unwrap().standing.b = GOOD;
    let effects = host
        .step_raw(Event::CommitDone { attempt: host.attempt(), result: Ok(Marked { facts: Box::new(facts), floor: Ok(()) }) });
    let released = effects.iter().find_map(|effect| match effect {
        Effect::Row(Row::Release { claim, outcome: LockOutcome::Ok, .. }) => Some(claim.clone()),
        _ => None,
    });
    assert_eq!(released.unwrap().url, "http://locks.example/");
}

#[test]
fn design_11_8_a_claim_under_other_settings_is_given_back_before_the_lock_is_asked_for() {
    let waiting = Host::at("proven/lock-refused");
    let mut other = policy(Strategy::Lock, true);
    other.lock.as_mut().unwrap().group = "elsewhere".into();
    let mut host = Host::from(waiting.engine.model().clone(), waiting.engine.facts().clone(), other);
    host.read_back(Ok(Proof::Equal));
    assert_eq!(host.gates(GateStage::BeforeLock, vec![]), list("release aborted, update"));
    assert_eq!(host.state(), "proven/lock-refused");
    host.step(Event::Outbox { releases_waiting: 0 });
    assert_eq!(host.gates(GateStage::BeforeLock, vec![]), list("update, lock"));
    assert_eq!(host.plan().claim.unwrap().group, "elsewhere");
}

#[test]
fn design_11_9_a_proof_older_than_a_day_is_earned_again_before_the_lock() {
    let mut host = Host::at("proven/gate-closed");
    host.pass_ms(24 * 3_600_000 + 1);
    assert_eq!(host.step(Event::Woke).first().unwrap(), "gates before the lock");
    assert_eq!((host.gates(GateStage::BeforeLock, vec![]), host.state()), (list("read back b"), "written"));
    host.read_back(Ok(Proof::Equal));
    assert_eq!(host.gates(GateStage::BeforeLock, vec![]), list("update, lock"));
}

#[test]
fn design_11_10_a_refused_reboot_disarms_undrains_and_releases_in_this_order() {
    let mut host = Host::at("armed/rebooting");
    assert_eq!(host.reboot(Err(fault("reboot"))), list("disarm b"));
    assert_eq!(host.disarmed(Ok(())), list("undrain"));
    assert_eq!(host.undrained(), list("close failed reboot, report failed, release aborted"));
}

#[test]
fn design_11_10_a_failed_disarm_keeps_the_lock_and_says_so() {
    let mut host = Host::at("armed/giving-up");
    assert_eq!(host.disarmed(Err(fault("boot-control"))), list(""));
    assert!(host.plan().claim.is_some_and(|claim| claim.granted));
    assert_eq!(host.last_error(), "disarm");
    assert_eq!(host.wake(), list("disarm b"));
}

#[test]
fn design_11_10_a_shutdown_under_way_keeps_the_lock_for_the_next_boot() {
    let mut host = Host::at("armed/rebooting");
    host.reboot(Ok(()));
    assert_eq!(host.refused(Command::Cancel), "too-late");
    assert!(host.plan().claim.is_some_and(|claim| claim.granted));
    // It does not come: said aloud, asked for again and again, and from then on a person may end it.
    assert_eq!((host.wake(), host.last_error()), (list("reboot"), "reboot-late"));
    host.reboot(Ok(()));
    assert_eq!((host.wake(), host.last_error()), (list("reboot"), "reboot-late"));
    // A shutdown that is under way refuses another one: nothing is taken back in the middle of it.
    assert_eq!(host.reboot(Err(fault("reboot"))), list(""));
    assert!(host.state() == "armed/rebooting" && host.plan().claim.is_some_and(|claim| claim.granted));
    assert_eq!((host.wake(), host.last_error()), (list("reboot"), "reboot-late"));
    // Nothing is taken back beside a reboot command that runs.
    assert_eq!(host.refused(Command::Cancel), "busy");
    host.reboot(Err(fault("reboot")));
    assert_eq!(host.order(Command::Cancel), list("stop, disarm b"));
}

#[test]
fn design_11_12_manual_without_a_lock_arms_when_proven_and_rests() {
    let mut host = Host::at("armed/resting");
    assert!(host.engine.next_wake().is_none());
    // Any reboot activates it.
    assert_eq!((host.boot_into_b(armed(2)), host.state()), (list("health"), "trial"));
    // Killed while arming, it rests too: nobody has asked for a reboot.
    let mut host = Host::with(policy(Strategy::Manual, false));
    host.wake();
    host.offered(2);
    host.installed(Ok(()));
    host.read_back(Ok(Proof::Equal));
    assert_eq!(host.gates(GateStage::BeforeLock, vec![]), list("arm b"));
    let effects = host.restart(|facts| facts.boot.as_mut().unwrap().standing.b = armed(TRIES));
    assert_eq!((host.state(), effects), ("armed/resting", list("")));
}

#[test]
fn design_11_12_manual_with_a_lock_rests_proven_until_a_person_says_reboot() {
    let mut host = Host::with(policy(Strategy::Manual, true));
    host.wake();
    host.offered(2);
    host.installed(Ok(()));
    assert_eq!((host.read_back(Ok(Proof::Equal)), host.state()), (list("report installed"), "proven/person"));
    assert_eq!(host.order(Command::Reboot { force: false }), list("update, gates before the lock"));
    assert_eq!(host.gates(GateStage::BeforeLock, vec![]), list("update, lock"));
}

#[test]
fn design_11_12_reboot_bypasses_windows_but_never_lock_or_inhibitors() {
    let mut host = Host::at("proven/person");
    host.order(Command::Reboot { force: false });
    assert_eq!(host.gates(GateStage::BeforeLock, vec![closed("window"), closed("inhibitor")]), list(""));
    let shown: Vec<&str> = host.engine.soft().closed.iter().map(|(gate, _)| gate.gate.as_str()).collect();
    assert_eq!(shown, ["inhibitor"]);
    host.wake();
    assert_eq!(host.gates(GateStage::BeforeLock, vec![closed("window")]), list("update, lock"));
}

#[test]
fn design_11_12_force_skips_lock_and_inhibitors_but_not_hooks_and_is_recorded() {
    let mut host = Host::at("proven/person");
    assert_eq!(host.order(Command::Reboot { force: true }), list("update, gates before the lock"));
    assert!(host.plan().forced);
    assert_eq!(host.gates(GateStage::BeforeLock, vec![closed("hook")]), list(""));
    host.wake();
    assert_eq!(host.gates(GateStage::BeforeLock, vec![closed("inhibitor")]), list("update, drain"));
    host.drained(Ok(()));
    assert_eq!(host.gates(GateStage::BeforeFlip, vec![]), list("arm b"));
}

#[test]
fn design_11_12_force_tells_the_lock_it_holds_and_goes_on_whatever_is_answered() {
    for answer in [Ok(()), Err(fault("lock"))] {
        let mut host = Host::at("locked/draining");
        assert_eq!(host.order(Command::Reboot { force: true }), list("update"));
        host.drained(Ok(()));
        assert_eq!(host.gates(GateStage::BeforeFlip, vec![]), list("acknowledge"));
        assert_eq!(host.acknowledged(answer), list("arm b"));
    }
}

#[test]
fn design_11_12_force_gives_back_a_lock_that_was_asked_for_and_not_granted() {
    let mut host = Host::at("proven/lock-refused");
    host.order(Command::Reboot { force: true });
    assert_eq!(host.gates(GateStage::BeforeLock, vec![]), list("release aborted, update, update, drain"));
    // While it is being asked for, the answer is awaited.
    let mut host = Host::at("proven/lock");
    assert_eq!(host.order(Command::Reboot { force: true }), list("update"));
    assert_eq!(host.lock_refused(), list("release aborted, update, update, drain"));
}

#[test]
fn design_11_13_images_for_one_slot_fit_only_that_slot() {
    let mut only_b = offer(2);
    only_b.record.images[0].slot = Some(SlotName::B);
    let mut host = Host::at("checking");
    assert_eq!(host.offered_as(only_b.clone()).last().unwrap(), "install b");
    only_b.record.images[0].slot = Some(SlotName::A);
    let mut host = Host::at("checking");
    assert_eq!((host.offered_as(only_b), host.last_error()), (list("report refused"), "image-set"));
}

#[test]
fn design_11_17_durations_do_not_depend_on_the_wall_clock() {
    for jump_ms in [TEN_YEARS_MS, -TEN_YEARS_MS] {
        let mut host = Host::at("failed");
        let wake = host.engine.next_wake();
        host.wall += jump_ms;
        assert_eq!(host.step(Event::Woke), list(""), "nothing is due because the clock jumped");
        assert_eq!(host.engine.next_wake(), wake);
        assert_eq!(host.wake(), list("check"));
    }
}

#[test]
fn design_11_18_two_innocent_power_cuts_during_the_trial_do_not_roll_back() {
    let mut host = Host::at("trial");
    for b in [armed(1), SPENT] {
        assert_eq!((host.boot_into_b(b), host.state()), (list("health"), "trial"));
    }
    host.health(Ok(()));
    assert_eq!(host.commit_done(Ok(())), list("close committed, report committed, release ok"));
}
