//! Every state and step of the pure engine, as a person reads it: what, why, what next and when.

use std::time::Duration;

use jiff::Timestamp;
use manifests::release::SlotName;
use manifests::version::Sequence;
use serde_json::Value;

use crate::boot::{Standing, Weakness};
use crate::engine::cause::Cause;
use crate::engine::command::Command;
use crate::engine::effect::{GateStage, Row};
use crate::engine::event::{AskAgain, CheckAnswer, Event, Fault, Gate, LockHolder, LockRefusal, Marked, Probing, Proof};
use crate::engine::facts::{Facts, FloorFacts, PerSlot, Trouble};
use crate::engine::model::{Hold, Progress};
use crate::engine::policy::{Policy, StartedBy, Strategy};
use crate::engine::tests::host::{BLANK, GOOD, Host, SPENT, armed, closed, fault, in_new_slot, list, policy};
use crate::engine::tests::words::EVERY_STATE;
use crate::engine::time::{BootId, Mono};
use crate::engine::{Effect, Engine};
use crate::status::contract::assert_contract;
use crate::status::json::{ExitClass, GateState, Status, WhyEntry};
use crate::status::view::{Input, status};
use crate::status::why::why;

const SENTENCES: [(&str, &str); 32] = [
    ("idle", "1.0.0 runs from slot a; next check in 5 min (at 12:05 UTC)."),
    ("checking", "Asking https://updates.example/ for an update; one that is new is then installed; 1.0.0 runs from slot a."),
    (
        "deferred",
        "Paused by a person (demo) until `updatectl resume`; 1.1.0 is available and is installed after that; 1.0.0 runs from slot a.",
    ),
    (
        "fetching",
        "Writing 1.1.0 to slot b, downloading about 4.0 KiB; then it is read back to prove it; 1.0.0 runs from slot a meanwhile.",
    ),
    (
        "fetching/again",
        "Writing 1.1.0 to slot b again, because reading it back found differences, downloading about 4.0 KiB; then it is read back to prove it; 1.0.0 runs from slot a meanwhile.",
    ),
    (
        "written",
        "Reading 1.1.0 in slot b back to prove it; then comes the reboot (strategy lock); 1.0.0 runs from slot a meanwhile.",
    ),
    (
        "written/rollback",
        "Reading 1.0.0 in slot a back to prove it; then comes the reboot (strategy lock); 1.1.0 runs from slot b meanwhile.",
    ),
    ("proven/person", "1.1.0 is written and proven, and waits for `updatectl reboot`."),
    ("proven/gates", "1.1.0 is written and proven; asking whether the host may reboot now; then it does."),
    (
        "proven/gate-closed",
        "1.1.0 is written and proven, and waits to reboot: hook hook says no; asked again in 60 s (at 12:06 UTC).",
    ),
    ("proven/lock", "1.1.0 is written and proven; asking for the reboot lock of group default; then the host reboots."),
    (
        "proven/lock-refused",
        "1.1.0 is written and proven, and waits to reboot: held by host-7; asked again in 55 s (at 12:06 UTC).",
    ),
    (
        "proven/cancelled",
        "The update to 1.1.0 is given up (a person cancelled it): taking back what was done for the reboot; then nothing is under way; 1.0.0 runs from slot a.",
    ),
    ("locked/draining", "About to reboot into 1.1.0: running the drain hooks; then the slot is armed, and the host reboots."),
    (
        "locked/gates-again",
        "About to reboot into 1.1.0: asking once more whether it may; then the slot is armed, and the host reboots.",
    ),
    (
        "locked/acknowledging",
        "About to reboot into 1.1.0: telling the lock service so; then the slot is armed, and the host reboots.",
    ),
    ("locked/arming", "About to reboot into 1.1.0: arming the slot; then the host reboots."),
    (
        "locked/giving-up",
        "The update to 1.1.0 is given up (it broke: boot-control): taking back what was done for the reboot; then it is tried again later; 1.0.0 runs from slot a.",
    ),
    ("armed/resting", "1.1.0 is armed: the next reboot starts it, whoever reboots the host; `updatectl reboot` does so now."),
    ("armed/gates", "1.1.0 is armed: asking whether the host may reboot now; then it does."),
    ("armed/gate-closed", "1.1.0 is armed and waits to reboot: hook hook says no; asked again in 58 s (at 12:06 UTC)."),
    ("armed/draining", "1.1.0 is armed: running the drain hooks; then the host reboots."),
    ("armed/lock", "1.1.0 is armed: asking for the reboot lock of group default once more; then the host reboots."),
    ("armed/lock-refused", "1.1.0 is armed and waits to reboot: held by host-7; asked again in 55 s (at 12:06 UTC)."),
    ("armed/acknowledging", "1.1.0 is armed: asking for the reboot lock of group default once more; then the host reboots."),
    ("armed/rebooting", "Rebooting into 1.1.0; then its health is checked."),
    (
        "armed/giving-up",
        "The update to 1.1.0 is given up (it broke: reboot): taking back what was done for the reboot; then it is tried again later; 1.0.0 runs from slot a.",
    ),
    (
        "trial",
        "1.1.0 runs from slot b on trial (2 tries left): its health is being checked; if it is healthy it is kept, otherwise the host goes back to 1.0.0.",
    ),
    ("trial/verdict", "1.1.0 is unhealthy (nginx does not answer): rebooting, going back to 1.0.0."),
    ("committed", "1.1.0 is healthy: it is being marked good; then the update is done."),
    (
        "rolled-back",
        "1.1.0 rolled back to 1.0.0 (it did not come up: the loader spent its tries and went back); its slot is being disarmed, then the host rests.",
    ),
    (
        "failed",
        "The update to 1.1.0 failed (it broke: download); 1.0.0 runs from slot a; it is tried again in 66 s (at 12:06 UTC).",
    ),
];

fn document(host: &mut Host) -> Status {
    document_with(host, None)
}

fn document_with(host: &mut Host, journal_fault: Option<&Fault>) -> Status {
    let now = host.now();
    status(&Input {
        engine: &host.engine,
        server: "https://updates.example/",
        journal_fault,
        standstill_until: journal_fault.map(|_| now.mono.after(540_000)),
        reports_waiting: 0,
        now,
    })
}

#[track_caller]
fn assert_says(host: &mut Host, expected: &str) {
    let document = document(host);
    assert_eq!(document.summary, expected);
    // Whoever watches many hosts reads the exit code and no sentence.
    let calls = document.summary.contains("eeds attention");
    assert!(!calls || document.exit_class() == ExitClass::Attention, "{expected}: {:?}", document.exit_class());
}

fn at(text: &str) -> Timestamp {
    format!("2026-11-{text}:00Z").parse().unwrap()
}

fn pause(until: Option<Timestamp>, reason: Option<&str>) -> Command {
    Command::Pause { until, reason: reason.map(str::to_owned) }
}

#[test]
fn every_state_and_step_has_its_sentence() {
    assert_eq!(SENTENCES.map(|row| row.0), EVERY_STATE);
    for (state, expected) in SENTENCES {
        println!("{state}: {expected}");
        assert_says(&mut Host::at(state), expected);
    }
}

/// A version in a slot.
type Held = [&'static str; 2];

/// State and step, what the attempt brings where, what runs, and whether the lock is held.
const DOCUMENTS: [(&str, Option<Held>, Held, bool); 32] = [
    ("idle", None, OLD, false),
    ("checking", None, OLD, false),
    ("deferred", NEW, OLD, false),
    ("fetching", NEW, OLD, false),
    ("fetching/again", NEW, OLD, false),
    ("written", NEW, OLD, false),
    ("written/rollback", Some(OLD), ["1.1.0", "b"], false),
    ("proven/person", NEW, OLD, false),
    ("proven/gates", NEW, OLD, false),
    ("proven/gate-closed", NEW, OLD, false),
    ("proven/lock", NEW, OLD, false),
    ("proven/lock-refused", NEW, OLD, false),
    ("proven/cancelled", NEW, OLD, false),
    ("locked/draining", NEW, OLD, true),
    ("locked/gates-again", NEW, OLD, true),
    ("locked/acknowledging", NEW, OLD, true),
    ("locked/arming", NEW, OLD, true),
    ("locked/giving-up", NEW, OLD, true),
    ("armed/resting", NEW, OLD, false),
    ("armed/gates", NEW, OLD, true),
    ("armed/gate-closed", NEW, OLD, false),
    ("armed/draining", NEW, OLD, false),
    ("armed/lock", NEW, OLD, true),
    ("armed/lock-refused", NEW, OLD, false),
    ("armed/acknowledging", NEW, OLD, true),
    ("armed/rebooting", NEW, OLD, true),
    ("armed/giving-up", NEW, OLD, true),
    ("trial", NEW, ["1.1.0", "b"], true),
    ("trial/verdict", NEW, ["1.1.0", "b"], true),
    ("committed", NEW, ["1.1.0", "b"], true),
    // Its end is written down, and with it that the lock is to be given back: from here on that is the outbox's.
    ("rolled-back", NEW, OLD, false),
    ("failed", NEW, OLD, false),
];
const OLD: Held = ["1.0.0", "a"];
const NEW: Option<Held> = Some(["1.1.0", "b"]);

#[test]
fn the_document_of_every_state_keeps_the_contract_and_says_what_runs_what_comes_and_who_holds_the_lock() {
    assert_eq!(DOCUMENTS.map(|row| row.0), EVERY_STATE);
    for (state, target, booted, held) in DOCUMENTS {
        let mut host = Host::at(state);
        if let "fetching" | "written" = state {
            let attempt = host.attempt();
            let phase = if state == "written" { "proving" } else { "fetching" };
            let progress = Progress { phase, windows_done: 1, windows_total: 4, ..Progress::default() };
            host.step(Event::Progressed { attempt, progress });
        }
        let document = serde_json::to_value(document(&mut host)).unwrap();
        assert_contract(&document);
        assert_eq!(document["state"].as_str(), state.split('/').next(), "{state}");
        let pair = |of: &Value| [of["version"].clone(), of["slot"].clone()].map(|word| word.as_str().unwrap().to_owned());
        let found = document["target"].as_object().map(|_| pair(&document["target"]));
        assert_eq!(found, target.map(|words| words.map(str::to_owned)), "target in {state}: {document:#}");
        assert_eq!(pair(&document["booted"]), booted, "booted in {state}: {document:#}");
        assert_eq!(document["reboot"]["lock"]["held"], held, "{state}: {document:#}");
        assert_eq!(document["progress"].is_object(), matches!(state, "fetching" | "written"), "{state}: {document:#}");
        for slot in document["slots"].as_array().unwrap() {
            assert_eq!(slot["booted"], slot["name"] == booted[1], "{state}: {document:#}");
        }
    }
}

#[test]
fn where_something_is_waited_for_its_time_is_in_the_document() {
    for state in EVERY_STATE {
        let document = document(&mut Host::at(state));
        let waits = document.summary.contains("asked again in ");
        assert_eq!(waits, !document.reboot.waiting_for.is_empty(), "{state}");
        assert!(document.reboot.waiting_for.iter().all(|gate| gate.since.is_some() && gate.retry_at.is_some()), "{state}");
        assert!(document.check.next_at.is_some(), "{state}");
    }
}

#[test]
fn a_step_that_failed_says_what_and_when_it_is_tried_again() {
    let mut host = Host::at("committed");
    host.commit_done(Err(fault("boot-control")));
    assert_says(
        &mut host,
        "Needs attention: 1.1.0 is healthy but could not be marked good (it broke: boot-control); tried again in 55 s (at 12:06 UTC); 1.1.0 runs from slot b.",
    );
    let mut host = Host::at("locked/giving-up");
    host.disarmed(Err(fault("boot-control")));
    assert_says(
        &mut host,
        "Needs attention: a slot could not be disarmed: it broke: boot-control; a lock that is held is kept; tried again in 63 s (at 12:06 UTC); the update to 1.1.0 is given up (it broke: boot-control): taking back what was done for the reboot; then it is tried again later; 1.0.0 runs from slot a.",
    );
    let mut host = Host::at("trial/verdict");
    host.marked_bad(Ok(()));
    host.reboot(Err(fault("reboot")));
    assert_says(
        &mut host,
        "Needs attention: 1.1.0 is unhealthy (nginx does not answer) and cannot be left: it broke: reboot; tried again in 55 s (at 12:06 UTC); 1.1.0 runs from slot b.",
    );
}

/// A host in this state, whose trial ends without its daemon after so long.
fn ending(state: &str, after_ms: u64) -> Host {
    let mut host = Host::at(state);
    let facts = Facts { trial_ends: Some(Mono(host.mono + after_ms)), ..host.engine.facts().clone() };
    host.step(Event::FactsChanged { facts: Box::new(facts) });
    host
}

#[test]
fn a_trial_that_update_engine_trial_ends_sooner_than_the_daemon_says_when_in_every_state_of_it() {
    let full = Fault::new(Cause::StateDir, "/var/lib: no space left");
    for state in ["trial", "committed"] {
        let said = document_with(&mut ending(state, 240_000), Some(&full)).summary;
        assert!(said.contains("if that lasts until 12:09 UTC, the host goes back to 1.0.0;"), "{said}");
        let said = document_with(&mut ending(state, 900_000), Some(&full)).summary;
        assert!(said.contains("if that lasts until 12:14 UTC, the host goes back to 1.0.0;"), "{said}");
    }

    // Its health is being probed, later than that.
    let mut host = ending("trial", 240_000);
    let deadline = Timestamp::from_millisecond(host.wall + 240_000).unwrap();
    let otherwise = "otherwise the host goes back to 1.0.0 in 4 min (at 12:09 UTC).";
    assert!(document(&mut host).summary.ends_with(otherwise));
    for failing in [None, Some("10-service exited with 1".to_owned())] {
        let probing = Probing { until: Mono(host.mono + 300_000), failing: failing.clone() };
        let attempt = host.attempt();
        host.step(Event::Probing { attempt, probing });
        let shown = document(&mut host);
        let words = if failing.is_some() { "if it is healthy by 12:09 UTC it is kept, otherwise" } else { otherwise };
        assert!(shown.summary.contains(words), "{}", shown.summary);
        assert_eq!(shown.trial.unwrap().deadline_at, Some(deadline));
        let health = chain(&mut host).into_iter().find(|entry| entry.gate == "health").unwrap();
        assert_eq!(health.until, Some(deadline.to_string()));
    }

    // It is healthy, and cannot be marked good.
    let mut host = ending("committed", 240_000);
    assert_eq!(document(&mut host).trial, None);
    host.commit_done(Err(fault("boot-control")));
    assert_says(
        &mut host,
        "Needs attention: 1.1.0 is healthy but could not be marked good (it broke: boot-control); tried again in 64 s (at 12:06 UTC), and if it is not good by 12:09 UTC, update-engine-trial reboots the host, which goes back to 1.0.0 once slot b can be marked bad, or its tries are spent (2 tries left); 1.1.0 runs from slot b.",
    );
    // Where any reboot goes back, and where nothing is known of tries.
    let (model, facts) = (host.engine.model().clone(), host.engine.facts().clone());
    for (started_by, standing, ends) in [
        (StartedBy::OurReboot, armed(2), "reboots the host, which goes back to 1.0.0;"),
        (StartedBy::AnyReboot, SPENT, "once slot b can be marked bad, or its tries are spent (its last try);"),
        (StartedBy::AnyReboot, BLANK, "once slot b can be marked bad;"),
    ] {
        let policy = Policy { started_by, ..host.engine.policy().clone() };
        let mut host =
            Host::from(model.clone(), Facts { boot: Some(crate::engine::tests::host::table(standing)), ..facts.clone() }, policy);
        host.commit_done(Err(fault("boot-control")));
        let said = document(&mut host).summary;
        assert!(said.contains(ends), "{said}");
    }
    let shown = document(&mut host);
    assert_contract(&serde_json::to_value(&shown).unwrap());
    let error = "healthy but could not be marked good (it broke: boot-control)";
    let trial = shown.trial.unwrap();
    assert_eq!((trial.deadline_at, trial.failing.as_deref(), trial.tries_left), (Some(deadline), Some(error), Some(2)));
    let health = chain(&mut host).into_iter().find(|entry| entry.gate == "health").unwrap();
    assert_eq!((health.state, health.detail.as_str()), (GateState::Waiting, error));
    assert_eq!((health.until, health.retry_at.is_some()), (Some(deadline.to_string()), true));

    // Where there is no way back nobody leaves it, nor when that time has passed.
    host.pass_ms(240_000);
    assert!(!document(&mut host).summary.contains("update-engine-trial"));
    let mut host = ending("committed", 240_000);
    let mut facts = host.engine.facts().clone();
    facts.boot.as_mut().unwrap().standing.a = BLANK;
    host.step(Event::FactsChanged { facts: Box::new(facts) });
    host.commit_done(Err(fault("boot-control")));
    assert!(!document(&mut host).summary.contains("update-engine-trial"));
}

#[test]
fn while_nothing_comes_the_source_and_what_it_did_are_named() {
    let mut host = Host::at("fetching");
    let attempt = host.engine.model().state.plan().unwrap().attempt.clone();
    let trouble = Some("http://files.example/1.payload: status 503".to_owned());
    let progress = Progress { phase: "fetching", windows_done: 1, windows_total: 4, trouble, ..Progress::default() };
    host.step(Event::Progressed { attempt, progress });
    assert_says(
        &mut host,
        "Writing 1.1.0 to slot b (25 %; nothing comes, trying again: http://files.example/1.payload: status 503), downloading about 4.0 KiB; then it is read back to prove it; 1.0.0 runs from slot a meanwhile.",
    );
}

#[test]
fn a_slot_on_trial_says_from_when_on_it_is_kept() {
    let trial = Host::at("trial");
    let settings = Policy { min_uptime: Duration::from_secs(1_087), ..policy(Strategy::Lock, true) };
    let mut host = Host::from(trial.engine.model().clone(), trial.engine.facts().clone(), settings);
    assert_says(
        &mut host,
        "1.1.0 runs from slot b on trial (2 tries left): its health is being checked; if it is healthy it is kept in 87 s (at 12:01 UTC), when the host will have been up for 1087 s, otherwise the host goes back to 1.0.0.",
    );
    let shown = document(&mut host);
    assert_eq!(shown.trial.as_ref().unwrap().kept_from, Some("2026-11-21T12:01:27Z".parse().unwrap()));
    assert_contract(&serde_json::to_value(&shown).unwrap());
    host.pass_ms(87_000);
    assert_eq!(document(&mut host).trial.unwrap().kept_from, None);
}

#[test]
fn a_slot_on_trial_says_what_fails_until_when_it_may_and_how_many_tries_are_left() {
    let mut host = Host::at("trial");
    let until = Mono(host.mono + 300_000);
    let deadline = Timestamp::from_millisecond(host.wall + 300_000).unwrap();
    let probing = |host: &mut Host, failing: Option<&str>| {
        let probing = Probing { until, failing: failing.map(str::to_owned) };
        let attempt = host.attempt();
        assert_eq!(host.step(Event::Probing { attempt, probing }), Vec::<String>::new());
    };
    let health = |host: &mut Host| {
        let now = host.now();
        let input =
            Input { engine: &host.engine, server: "", journal_fault: None, standstill_until: None, reports_waiting: 0, now };
        let entry = why(&input).into_iter().find(|entry| entry.gate == "health").unwrap();
        (entry.detail, entry.until.unwrap())
    };
    probing(&mut host, None);
    assert_says(
        &mut host,
        "1.1.0 runs from slot b on trial (2 tries left): its health is being checked; if it is healthy it is kept, otherwise the host goes back to 1.0.0 in 5 min (at 12:10 UTC).",
    );
    let shown = document(&mut host).trial.unwrap();
    assert_eq!((shown.deadline_at, shown.failing, shown.tries_left), (Some(deadline), None, Some(2)));
    assert_eq!(health(&mut host), ("health is being checked; 2 tries left".to_owned(), deadline.to_string()));

    host.pass_ms(60_000);
    probing(&mut host, Some("10-service exited with 1: the service is down"));
    assert_says(
        &mut host,
        "1.1.0 runs from slot b on trial (2 tries left) and is not healthy yet (10-service exited with 1: the service is down): if it is healthy by 12:10 UTC it is kept, otherwise the host goes back to 1.0.0.",
    );
    let document = document(&mut host);
    assert_contract(&serde_json::to_value(&document).unwrap());
    let shown = document.trial.unwrap();
    assert_eq!(shown.failing.as_deref(), Some("10-service exited with 1: the service is down"));
    assert_eq!(shown.deadline_at, Some(deadline));
    let words = "not healthy yet: 10-service exited with 1: the service is down; 2 tries left";
    assert_eq!(health(&mut host), (words.to_owned(), deadline.to_string()));

    // What was found is of that probe: once it is over, and in another attempt, it says nothing.
    host.health(Err("nginx does not answer"));
    probing(&mut host, Some("late"));
    assert_eq!(document_of_trial(&mut host), (None, Some("nginx does not answer".to_owned())));
}

fn document_of_trial(host: &mut Host) -> (Option<Timestamp>, Option<String>) {
    let trial = document(host).trial.unwrap();
    (trial.deadline_at, trial.failing)
}

#[test]
fn a_slot_on_its_last_try_says_so_and_one_without_a_way_back_promises_none() {
    let mut host = Host::at("armed/rebooting");
    host.restart(|facts| {
        in_new_slot(facts, SPENT);
        facts.boot.as_mut().unwrap().standing.a = BLANK;
    });
    assert_says(
        &mut host,
        "1.1.0 runs from slot b on trial (its last try): its health is being checked; if it is healthy it is kept, otherwise it stays all the same, because slot a cannot be booted.",
    );
    assert_eq!(document(&mut host).trial.unwrap().tries_left, Some(0));
}

#[test]
fn what_wanted_checks_found_is_shown_while_that_release_runs_and_told_to_the_server() {
    let mut host = Host::at("trial");
    let attempt = host.attempt();
    let found = "20-disk exited with 1: 3 % left".to_owned();
    let effects = host.step(Event::Health { attempt, result: Ok(vec![found.clone()]) });
    assert_eq!(effects, list("update, commit"));
    assert_eq!(document(&mut host).health_warnings, [found.as_str()]);
    // A restart in the middle forgets nothing.
    host.restart(|_| ());
    let effects = host.step_raw(commit_done(&host));
    let reason = effects.iter().find_map(|effect| match effect {
        Effect::Row(Row::Report(report)) => report.reason.clone(),
        _ => None,
    });
    assert_eq!(reason.unwrap(), format!("kept, and its wanted health checks found: {found}"));
    let shown = document(&mut host);
    assert_eq!((shown.health_warnings.as_slice(), shown.exit_class()), ([found.clone()].as_slice(), ExitClass::Current));
    host.restart(|_| ());
    assert_eq!(document(&mut host).health_warnings, [found]);
    host.restart(|facts| facts.running = Some(SlotName::A));
    assert_eq!(document(&mut host).health_warnings, Vec::<String>::new(), "the other slot runs");
}

fn commit_done(host: &Host) -> Event {
    let mut facts = host.engine.facts().clone();
    facts.boot.as_mut().unwrap().standing.b = GOOD;
    Event::CommitDone { attempt: host.attempt(), result: Ok(Marked { facts: Box::new(facts), floor: Ok(()) }) }
}

#[test]
fn a_rival_of_the_trial_needs_attention_and_forbids_nothing() {
    let mut host = Host::new();
    host.facts.rival = Some("x.service is not masked".into());
    host.start(vec![]);
    let document = document(&mut host);
    assert_eq!((document.troubles[0].code.as_str(), document.exit_class()), ("boot-rival", ExitClass::Attention));
    assert_says(
        &mut host,
        "Needs attention: x.service is not masked; 1.0.0 runs from slot a; next check in 5 min (at 12:05 UTC).",
    );
}

#[test]
fn a_deadline_that_nobody_keeps_needs_attention_and_forbids_nothing() {
    let mut host = Host::new();
    host.facts.no_deadline = Some("x.service is not enabled".into());
    host.start(vec![]);
    assert_eq!(document(&mut host).troubles[0].code, "trial-unit");
    assert_says(
        &mut host,
        "Needs attention: x.service is not enabled; 1.0.0 runs from slot a; next check in 5 min (at 12:05 UTC).",
    );
    assert_eq!(host.wake(), list("check"));
    assert!(host.offered(2).contains(&"install b".to_owned()));
}

#[test]
fn a_slot_that_cannot_be_left_says_why_and_when_its_health_is_checked_again() {
    let mut host = Host::at("armed/rebooting");
    host.restart(|facts| {
        in_new_slot(facts, armed(2));
        facts.boot.as_mut().unwrap().standing.a = BLANK;
    });
    host.health(Err("nginx does not answer"));
    assert_says(
        &mut host,
        "Needs attention: 1.1.0 is unhealthy: nginx does not answer; slot a cannot be booted, so there is no way back; its health is checked again in 59 s (at 12:06 UTC); 1.1.0 runs from slot b.",
    );
}

#[test]
fn a_reboot_says_when_it_was_accepted_and_that_it_is_late() {
    let mut host = Host::at("armed/rebooting");
    host.reboot(Ok(()));
    assert_says(&mut host, "Rebooting into 1.1.0: the reboot was accepted at 12:05 UTC; then its health is checked.");
    host.wake();
    assert_says(
        &mut host,
        "Needs attention: the host should have rebooted into 1.1.0: the reboot was accepted but has not happened: something holds the shutdown up (systemd: `systemctl list-jobs`); it is asked for again every 5 minutes; `updatectl cancel` disarms the slot and gives the lock back: end what is left of the shutdown first.",
    );
    host.reboot(Err(fault("reboot")));
    assert_says(
        &mut host,
        "Needs attention: the host should have rebooted into 1.1.0: the reboot was accepted but has not happened, and was refused when it was asked for again (it broke: reboot): something holds the shutdown up (systemd: `systemctl list-jobs`); it is asked for again every 5 minutes; `updatectl cancel` disarms the slot and gives the lock back: end what is left of the shutdown first.",
    );
    let mut host = Host::at("trial/verdict");
    host.marked_bad(Ok(()));
    host.reboot(Ok(()));
    assert_says(
        &mut host,
        "1.1.0 is unhealthy (nginx does not answer): rebooting, going back to 1.0.0: the reboot was accepted at 12:05 UTC.",
    );
    assert_eq!(host.wake(), ["reboot"]);
    assert_says(
        &mut host,
        "Needs attention: 1.1.0 is unhealthy (nginx does not answer) and the host should have gone back to 1.0.0: the reboot was accepted but has not happened: something holds the shutdown up (systemd: `systemctl list-jobs`); it is asked for again every 5 minutes; a person may have to reboot it, by force if need be (systemd: `systemctl reboot --force`).",
    );
}

#[test]
fn a_release_that_rolled_back_is_not_tried_again_by_itself_and_says_so() {
    let mut host = Host::at("rolled-back");
    host.disarmed(Ok(()));
    assert_says(
        &mut host,
        "Needs attention: 1.1.0 rolled back to 1.0.0: it did not come up: the loader spent its tries and went back; 1.0.0 runs from slot a; 1.1.0 is installed again only by `updatectl update 1.1.0`, a newer release by itself; next check in 7 min (at 12:12 UTC).",
    );
}

#[test]
fn a_rollback_that_failed_is_no_failed_update() {
    let mut host = Host::at("written/rollback");
    host.read_back(Err(fault("read-back")));
    assert_says(
        &mut host,
        "The way back to 1.0.0 failed (it broke: read-back); 1.1.0 runs from slot b; `updatectl rollback` tries it again.",
    );
}

#[test]
fn a_pause_comes_first_and_its_end_is_told_as_people_tell_times() {
    let mut host = Host::at("idle");
    host.order(pause(Some(at("21T18:30")), Some("release night.")));
    assert_says(
        &mut host,
        "Paused by a person (release night) until 18:30 UTC (`updatectl resume` ends it sooner); 1.0.0 runs from slot a; next check in 5 min (at 12:05 UTC).",
    );
    host.order(pause(Some(at("24T06:00")), None));
    assert_says(
        &mut host,
        "Paused by a person until 2026-11-24 06:00 UTC (`updatectl resume` ends it sooner); 1.0.0 runs from slot a; next check in 5 min (at 12:05 UTC).",
    );
    assert_eq!(document(&mut host).exit_class(), ExitClass::Held);
}

#[test]
fn the_pause_is_not_told_twice_where_it_closes_a_gate() {
    let mut host = Host::at("proven/gates");
    host.order(pause(None, Some("release night")));
    let hook = Gate { gate: "hook".into(), closed: Some("10-backup: the backup runs".into()), until: None };
    host.gates(GateStage::BeforeLock, vec![hook]);
    assert_says(
        &mut host,
        "Paused by a person (release night) until `updatectl resume`; 1.1.0 is written and proven, and waits to reboot: hook 10-backup: the backup runs; asked again in 55 s (at 12:06 UTC).",
    );
    let mut host = Host::at("proven/gates");
    host.order(pause(None, None));
    host.gates(GateStage::BeforeLock, vec![]);
    assert_says(
        &mut host,
        "Paused by a person until `updatectl resume`; 1.1.0 is written and proven, and waits to reboot: the pause has to end.",
    );
}

#[test]
fn a_full_lock_names_its_holders_but_not_all_of_many() {
    let holder = |n: u32| LockHolder { id: format!("web-{n}"), since: Some(format!("2026-11-21T11:0{n}:00Z")), phase: None };
    let mut host = Host::at("proven/lock");
    let attempt = host.attempt();
    let refusal = LockRefusal {
        kind: "lock".into(),
        message: "a long story".into(),
        holders: (1..=5).map(holder).collect(),
        ..LockRefusal::default()
    };
    host.step(Event::Lock { attempt, result: Err(refusal) });
    assert_says(
        &mut host,
        "1.1.0 is written and proven, and waits to reboot: the reboot lock of group default is held by web-1 (since 11:01 UTC), web-2 (since 11:02 UTC), web-3 (since 11:03 UTC), 2 more; asked again in 55 s (at 12:06 UTC).",
    );
    assert_eq!(document(&mut host).reboot.lock.holders.len(), 5);
}

#[test]
fn a_servers_hold_says_why_and_until_when() {
    let mut host = Host::at("checking");
    let hold = Hold { reason: "outside the window".into(), until: Some("2026-11-22T02:00:00.5Z".into()), since: None };
    host.checked(CheckAnswer::NoUpdate { again: AskAgain::default(), hold: Some(hold) });
    let summary = document(&mut host).summary;
    let expected = "Held by the update server until 02:00 UTC (outside the window); 1.0.0 runs from slot a; next check in ";
    assert!(summary.starts_with(expected), "{summary}");
}

#[test]
fn a_trouble_that_forbids_updates_says_that_what_runs_and_when_it_is_looked_at_again() {
    let trouble = Trouble { code: Cause::NoIdentity, message: "no machine id.".into() };
    let mut host = Host::at("idle");
    host.restart(|facts| facts.troubles = vec![trouble]);
    assert_says(
        &mut host,
        "Needs attention: no machine id; 1.0.0 runs from slot a; no update is installed before that is mended; looked at again in 5 min (at 12:05 UTC).",
    );
    let mut host = Host::at("idle");
    host.restart(|facts| facts.floor = FloorFacts::Lost { image: Sequence::ZERO });
    let summary = document(&mut host).summary;
    assert!(summary.contains("`updatectl adopt RELEASE`") && summary.contains("no update is installed before"), "{summary}");
}

#[test]
fn a_trouble_does_not_hide_what_is_under_way() {
    let mut host = Host::at("fetching");
    let full = Fault::new(Cause::StateDir, "/var/lib: no space left");
    let summary = document_with(&mut host, Some(&full)).summary;
    assert_eq!(
        summary,
        "Needs attention: /var/lib: no space left: nothing is done before the state folder can be written again (is its disk full, read-only, failing, or not mounted?); writing 1.1.0 to slot b, downloading about 4.0 KiB; then it is read back to prove it; 1.0.0 runs from slot a meanwhile."
    );
}

#[test]
fn where_somebody_waits_a_journal_that_fails_says_what_happens_all_the_same() {
    let full = Fault::new(Cause::StateDir, "/var/lib: no space left");
    let prefix = "Needs attention: /var/lib: no space left: nothing is done before the state folder can be written again (is its disk full, read-only, failing, or not mounted?); if that lasts until 12:14 UTC, ";
    for (state, then) in [
        ("trial", "the host goes back to 1.0.0; 1.1.0 runs from slot b on trial, and cannot be kept while that lasts."),
        ("committed", "the host goes back to 1.0.0; 1.1.0 runs from slot b, healthy, and cannot be kept while that lasts."),
        (
            "locked/draining",
            "what was done for the reboot is taken back, and the lock given back; about to reboot into 1.1.0: running the drain hooks; then the slot is armed, and the host reboots.",
        ),
    ] {
        let document = document_with(&mut Host::at(state), Some(&full));
        assert_eq!(document.summary, format!("{prefix}{then}"), "{state}");
        assert_eq!(document.exit_class(), ExitClass::Attention);
    }
}

#[test]
fn a_host_that_stays_in_a_slot_that_was_marked_bad_while_nothing_can_be_journalled_promises_no_way_back() {
    let full = Fault::new(Cause::StateDir, "/var/lib: no space left");
    let mut host = Host::new();
    in_new_slot(&mut host.facts, Standing::Bad);
    host.start(vec![]);
    host.step(Event::StandsStill { fault: full.clone(), unstarted: true });
    let said = document_with(&mut host, Some(&full)).summary;
    let stays = "1.1.0 was marked bad before, and runs: it is not left before its boots can be counted (/var/lib: no space left); \
                 a person can reboot the host (systemd: `systemctl reboot`)";
    assert!(said.contains(stays) && said.ends_with("1.1.0 runs from slot b."), "{said}");
    assert!(!said.contains("goes back") && !said.contains("its health is checked again"), "{said}");
}

#[test]
fn a_host_that_does_not_leave_an_unhealthy_slot_says_so_before_and_after_it_was_tried() {
    let full = Fault::new(Cause::StateDir, "/var/lib: no space left");
    for state in ["armed/rebooting", "trial/verdict"] {
        let mut host = Host::at(state);
        host.restart(|facts| {
            in_new_slot(facts, Standing::Bad);
            facts.boot_id = "boot-3".into();
        });
        let said = document_with(&mut host, Some(&full)).summary;
        assert!(
            said.contains("was marked bad before, and is not left while that lasts") && !said.contains("going back"),
            "{said}"
        );
        host.step(Event::StandsStill { fault: full.clone(), unstarted: true });
        let said = document_with(&mut host, Some(&full)).summary;
        let cannot = "and cannot be left: 1.1.0 was marked bad before, and runs: it is not left before its boots can be counted";
        assert!(said.contains(cannot) && said.contains("tried again in"), "{said}");
        host.wake();
        let said = document_with(&mut host, Some(&full)).summary;
        assert!(said.contains("is not left while that lasts") && !said.contains("going back"), "{said}");
    }
}

#[test]
fn under_manual_without_a_lock_no_sentence_promises_a_reboot() {
    let mut host = Host::with(policy(Strategy::Manual, false));
    host.wake();
    host.offered(2);
    host.installed(Ok(()));
    assert_says(
        &mut host,
        "Reading 1.1.0 in slot b back to prove it; then it is armed for whoever reboots the host (strategy manual); 1.0.0 runs from slot a meanwhile.",
    );
    host.read_back(Ok(Proof::Equal));
    assert_says(
        &mut host,
        "1.1.0 is written and proven; asking whether it may be armed now; then it is, for whoever reboots the host.",
    );
    host.gates(GateStage::BeforeLock, vec![closed("hook")]);
    assert_says(
        &mut host,
        "1.1.0 is written and proven, and waits to be armed: hook hook says no; asked again in 63 s (at 12:06 UTC).",
    );
    host.wake();
    host.gates(GateStage::BeforeLock, vec![]);
    assert_says(&mut host, "Arming 1.1.0 in slot b; then it waits for whoever reboots the host.");
    host.armed(Ok(()));
    assert!(document(&mut host).summary.starts_with("1.1.0 is armed: the next reboot starts it, whoever reboots the host"));
}

#[test]
fn where_only_a_reboot_that_asks_for_it_starts_an_armed_slot_nobody_is_told_that_any_does() {
    let mut host = Host::with(Policy { started_by: StartedBy::OurReboot, ..policy(Strategy::Manual, false) });
    host.wake();
    host.offered(2);
    host.installed(Ok(()));
    assert_says(
        &mut host,
        "Reading 1.1.0 in slot b back to prove it; then it is armed, and waits for `updatectl reboot` (strategy manual); 1.0.0 runs from slot a meanwhile.",
    );
    host.read_back(Ok(Proof::Equal));
    assert_says(
        &mut host,
        "1.1.0 is written and proven; asking whether it may be armed now; then it is, and waits for `updatectl reboot`.",
    );
    host.gates(GateStage::BeforeLock, vec![]);
    assert_says(&mut host, "Arming 1.1.0 in slot b; then it waits for `updatectl reboot`.");
    host.armed(Ok(()));
    assert_says(
        &mut host,
        "1.1.0 is armed, and waits for `updatectl reboot`: a reboot without the argument that [reboot] command passes starts the old slot again, and ends this attempt.",
    );
    let said = host.answer(Command::Pause { until: None, reason: None });
    assert!(
        said.contains("a reboot with the argument that [reboot] command passes starts it (`updatectl cancel` disarms it)"),
        "{said}"
    );
    // Somebody reboots the host by its own command.
    host.restart(|facts| facts.boot_id = "boot-2".into());
    let error = host.engine.model().last_error.clone().unwrap();
    assert_eq!(
        (error.code, error.message.as_str()),
        (
            Cause::NotAttempted,
            "the host was rebooted without the argument that [reboot] command passes, or lost power: its loader rightly started the \
             old slot, and slot b was not tried"
        )
    );
}

#[test]
fn a_lock_that_is_held_under_this_hosts_own_id_is_told_in_the_services_words() {
    let own_id = policy(Strategy::Lock, true).lock.unwrap().id;
    let mut host = Host::at("proven/lock");
    let refusal = LockRefusal {
        kind: "lock".into(),
        message: format!("{own_id} is held by ada@vm in group \"default\" since 12:00"),
        holders: vec![LockHolder { id: own_id.clone(), ..LockHolder::default() }],
        ..LockRefusal::default()
    };
    host.step(Event::Lock { attempt: host.attempt(), result: Err(refusal) });
    let summary = document(&mut host).summary;
    let expected = format!("and waits to reboot: {own_id} is held by ada@vm in group \"default\" since 12:00; asked again in ");
    assert!(summary.contains(&expected), "{summary}");
}

#[test]
fn under_manual_with_a_lock_the_proof_is_followed_by_a_person() {
    let mut host = Host::with(policy(Strategy::Manual, true));
    host.wake();
    host.offered(2);
    host.installed(Ok(()));
    assert_says(
        &mut host,
        "Reading 1.1.0 in slot b back to prove it; then it waits for `updatectl reboot`; 1.0.0 runs from slot a meanwhile.",
    );
}

#[test]
fn a_disarm_that_fails_after_a_late_reboot_was_cancelled_is_said() {
    let mut host = Host::at("armed/rebooting");
    host.reboot(Ok(()));
    host.wake();
    host.reboot(Ok(()));
    host.order(Command::Cancel);
    host.disarmed(Err(fault("boot-control")));
    let document = document(&mut host);
    assert!(
        document.summary.starts_with("Needs attention: a slot could not be disarmed: it broke: boot-control"),
        "{document:?}"
    );
    assert_eq!(document.exit_class(), ExitClass::Attention);
}

/// What is said of a host that was rebooted into slot b and sees as little as this, after the trouble that says why.
fn said_of_blind(host: &mut Host, change: impl FnOnce(&mut Facts)) -> String {
    host.restart(|facts| {
        in_new_slot(facts, armed(2));
        facts.running = None;
        facts.troubles = vec![Trouble { code: Cause::RunningSlotUnknown, message: "no root= on the command line".into() }];
        change(facts);
    });
    says_blind(host)
}

fn says_blind(host: &mut Host) -> String {
    let document = document(host);
    assert_eq!(document.exit_class(), ExitClass::Attention);
    let said = document.summary.strip_prefix("Needs attention: no root= on the command line; ");
    said.unwrap_or_else(|| panic!("{}", document.summary)).to_owned()
}

const BLIND: &str = "the host was rebooted into 1.1.0, and it cannot be seen whether that runs";

/// Ten looks that find nothing new; the last one is when the host is left.
fn ten_minutes(host: &mut Host) -> Vec<String> {
    let mut effects = Vec::new();
    for _ in 0..10 {
        host.wake();
        effects = host.step(Event::Looked { facts: Box::new(host.facts.clone()) });
    }
    if effects == ["look to leave"] {
        effects = host.step(Event::LookedToLeave { facts: Box::new(host.facts.clone()) });
    }
    effects
}

#[test]
fn a_host_that_is_blind_after_its_reboot_says_that_it_goes_back_and_when() {
    let mut host = Host::at("armed/rebooting");
    assert_eq!(
        said_of_blind(&mut host, |_| ()),
        format!(
            "{BLIND}: unless it can, it reboots in 10 min (at 12:15 UTC), so that the boot loader goes back to 1.0.0 (`updatectl pause` keeps it as it is)."
        )
    );
    let full = Fault::new(Cause::StateDir, "/var/lib: no space left");
    let waits = document_with(&mut host, Some(&full)).summary;
    assert!(waits.contains("it reboots in 10 min (at 12:15 UTC), or when that can be written down, so that"), "{waits}");
    assert_eq!(ten_minutes(&mut host), ["reboot"]);
    let waits = document_with(&mut host, Some(&full)).summary;
    let expected = "it could not be seen whether 1.1.0 runs: the host reboots as soon as that can be written down, so that the boot loader goes back to 1.0.0.";
    assert!(waits.ends_with(expected), "{waits}");
    assert_eq!(
        says_blind(&mut host),
        "it could not be seen whether 1.1.0 runs: rebooting, so that the boot loader goes back to 1.0.0."
    );
    host.reboot(Ok(()));
    assert_eq!(
        says_blind(&mut host),
        "it could not be seen whether 1.1.0 runs: rebooting, so that the boot loader goes back to 1.0.0: the reboot was accepted at 12:15 UTC."
    );
    host.wake();
    let late = says_blind(&mut host);
    assert!(
        late.starts_with("needs attention: it could not be seen whether 1.1.0 runs, and the host should have gone back to 1.0.0: the reboot was accepted but has not happened")
            && late.ends_with("a person may have to reboot it, by force if need be (systemd: `systemctl reboot --force`)."),
        "{late}"
    );
}

#[test]
fn a_blind_host_whose_reboot_is_refused_says_how_and_when_it_is_asked_for_again() {
    let mut host = Host::at("armed/rebooting");
    said_of_blind(&mut host, |_| ());
    ten_minutes(&mut host);
    host.reboot(Err(fault("reboot")));
    assert_eq!(
        says_blind(&mut host),
        format!(
            "{BLIND}: it was to reboot, so that the boot loader goes back to 1.0.0, and it broke: reboot; it is asked for again in 5 min (at 12:20 UTC), and a person can reboot it, too."
        )
    );
    assert_eq!(host.last_error(), "reboot");
}

#[test]
fn a_blind_host_that_is_left_no_more_says_so_and_what_a_person_can_do() {
    let mut host = Host::at("armed/rebooting");
    for boot in ["boot-2", "boot-3", "boot-4"] {
        said_of_blind(&mut host, |facts| facts.boot_id = boot.into());
        assert_eq!(ten_minutes(&mut host), ["reboot"]);
    }
    assert_eq!(
        said_of_blind(&mut host, |facts| facts.boot_id = "boot-5".into()),
        format!(
            "{BLIND}: in 3 boots it was left for 1.0.0, which did not come, and it is left no more: a person has to see what boots there, and choose slot a in the boot loader; it keeps its reboot lock, which `locksmithctl unlock` frees; looked at again in 60 s (at 12:36 UTC)."
        )
    );
}

#[test]
fn a_blind_host_that_stays_says_why_and_what_a_person_can_do() {
    type Change = fn(&mut Facts);
    let when_read = "it is kept when its boot state can be read (the error says what keeps it from that), or left at the deadline of its trial: update-engine-trial reboots it then, so that the boot loader goes back to 1.0.0, but not where the boot state is the partition table of the disk, without which nothing may boot";
    let cases: [(&str, Change, String); 9] = [
        ("armed/rebooting", |facts| facts.boot = None, format!("{BLIND}: {when_read}")),
        (
            "armed/rebooting",
            |facts| (facts.running, facts.boot) = (Some(SlotName::A), None),
            "slot a runs instead of 1.1.0: nothing is taken back before its boot state can be read (the error says why not)"
                .to_owned(),
        ),
        (
            "trial",
            |facts| (facts.running, facts.boot) = (Some(SlotName::B), None),
            format!("1.1.0 runs from slot b: {when_read}"),
        ),
        (
            "committed",
            |_| (),
            format!("{BLIND}: it is healthy, and a reboot would start it again; the update is done when it is seen"),
        ),
        (
            "armed/rebooting",
            |facts| {
                facts.boot_id = BootId::default();
                facts.boot.as_mut().unwrap().standing.b = armed(3);
            },
            format!(
                "{BLIND}: it does not reboot by itself, because without the id of its boot it is not known whether it was rebooted since the slot was armed; a person can reboot it (systemd: `systemctl reboot`), until the boot loader goes back to 1.0.0"
            ),
        ),
        (
            "armed/rebooting",
            |facts| facts.boot.as_mut().unwrap().standing.b = armed(3),
            format!(
                "{BLIND}: by the boot table (`updatectl slots`) 1.0.0 runs, and a reboot would not help; what was done is taken back when it is seen"
            ),
        ),
        (
            "trial",
            |facts| facts.boot.as_mut().unwrap().standing.a = BLANK,
            format!("{BLIND}: slot a is not good (`updatectl slots`), so there is nothing to go back to by a reboot"),
        ),
        (
            "fetching",
            |_| (),
            "1.1.0 waits: it goes on when it can be seen which slot runs, and what the boot table says".to_owned(),
        ),
        (
            "armed/rebooting",
            |facts| facts.boot_id = "boot-1".into(),
            "1.1.0 waits: it goes on when it can be seen which slot runs, and what the boot table says".to_owned(),
        ),
    ];
    for (state, change, expected) in cases {
        let mut host = Host::at(state);
        let waits = expected.contains(" waits: ") || state == "fetching";
        let lock = if waits { "" } else { "; it keeps its reboot lock, which `locksmithctl unlock` frees" };
        let said = said_of_blind(&mut host, change);
        assert!(said.starts_with(&format!("{expected}{lock}; looked at again in 60 s (at 12:0")), "{state}: {said}");
    }
    let said = said_of_blind(&mut Host::at("rolled-back"), |_| ());
    let begins = "1.1.0 rolled back to 1.0.0 (it did not come up: the loader spent its tries and went back); its slot is disarmed when it can be seen which slot runs; looked at again in 60 s";
    assert!(said.starts_with(begins), "{said}");
    let said = said_of_blind(&mut Host::at("failed"), |facts| facts.boot_id = "boot-1".into());
    assert!(said.starts_with("the update to 1.1.0 failed (it broke: download); it is not known which slot runs;"), "{said}");
    let mut host = Host::at("armed/rebooting");
    said_of_blind(&mut host, |_| ());
    host.order(Command::Pause { until: None, reason: None });
    let said = says_blind(&mut host);
    let expected = format!(
        "paused by a person until `updatectl resume`; {BLIND}: it stays as it is while it is paused; after `updatectl resume` it reboots, so that the boot loader goes back to 1.0.0."
    );
    assert_eq!(said, expected);
}

#[test]
fn a_blind_host_says_that_an_update_under_way_was_not_booted() {
    for state in ["locked/draining", "locked/arming", "locked/giving-up"] {
        let said = said_of_blind(&mut Host::at(state), |facts| facts.boot.as_mut().unwrap().standing.b = GOOD);
        let begins = "1.1.0 was not booted: by the boot table (`updatectl slots`) 1.0.0 runs, and a reboot would not help; what was done for its reboot is taken back when it is seen";
        assert!(said.starts_with(begins), "{state}: {said}");
    }
}

#[test]
fn a_blind_host_without_the_journal_of_its_trial_says_what_the_boot_table_says() {
    let mut host = Host::new();
    host.start(vec![]);
    let said = said_of_blind(&mut host, |facts| facts.boot.as_mut().unwrap().standing.b = armed(2));
    let expected = "it is not known which slot runs; by the boot table (`updatectl slots`) slot b was tried and is not good, and slot a is: if b runs, a reboot by a person (systemd: `systemctl reboot`) brings a back once its tries are spent";
    assert!(said.contains(expected), "{said}");
    for (a, b) in [(GOOD, BLANK), (GOOD, GOOD), (GOOD, armed(3)), (BLANK, SPENT)] {
        let mut host = Host::new();
        host.start(vec![]);
        let said = said_of_blind(&mut host, |facts| facts.boot.as_mut().unwrap().standing = PerSlot { a, b });
        assert!(!said.contains("brings a back"), "{a:?} {b:?}: {said}");
    }
}

#[test]
fn a_way_back_that_is_given_up_is_no_update() {
    let mut host = Host::at("written/rollback");
    host.read_back(Ok(Proof::Equal));
    host.gates(GateStage::BeforeLock, vec![]);
    host.granted();
    host.drained(Ok(()));
    host.gates(GateStage::BeforeFlip, vec![]);
    host.acknowledged(Ok(()));
    host.step(Event::Armed { attempt: host.attempt(), result: Err(fault("boot-control")) });
    assert_says(
        &mut host,
        "The way back to 1.0.0 is given up (it broke: boot-control): taking back what was done for the reboot; then `updatectl rollback` tries it again; 1.1.0 runs from slot b.",
    );
}

#[test]
fn a_boot_table_with_one_good_copy_is_said_and_forbids_nothing_until_a_change_mends_it() {
    let mut host = Host::at("idle");
    host.restart(|facts| facts.boot.as_mut().unwrap().weakness = Some(Weakness::until_next_change("the backup is not valid")));
    let weak = document(&mut host);
    let words = "the backup is not valid: further damage may leave this host without a boot table; the next update mends it, or says why it cannot";
    assert_eq!(weak.troubles, [crate::status::json::Trouble { code: "boot-weakness".into(), message: words.into() }]);
    let begins = format!("Needs attention: {words}; 1.0.0 runs from slot a; next check in ");
    assert!(weak.summary.starts_with(&begins), "{}", weak.summary);
    host.wake();
    assert_eq!(host.offered(2).last().unwrap(), "install b");
    host.installed(Ok(()));
    assert_eq!(document(&mut host).troubles, []);
}

#[test]
fn news_that_are_old_forbid_nothing() {
    let mut host = Host::at("checking");
    host.nothing_new();
    host.pass_ms(61 * 86_400_000);
    let summary = document(&mut host).summary;
    assert!(summary.starts_with("Needs attention: no update server was reached for 61 days: "), "{summary}");
    assert!(summary.ends_with("; up to date: 1.0.0 runs from slot a; next check now."), "{summary}");
}

#[test]
fn p12_what_comes_next_is_told_by_the_clock_of_this_moment_and_not_by_the_one_it_was_set_with() {
    const TEN_YEARS_MS: i64 = 10 * 366 * 86_400_000;
    for jump_ms in [TEN_YEARS_MS, -TEN_YEARS_MS] {
        for state in ["idle", "proven/gate-closed", "armed/lock-refused", "failed"] {
            let mut host = Host::at(state);
            let next = |host: &mut Host, of_alarm: bool| {
                let model = host.engine.model();
                let alarm = if of_alarm { model.alarm.clone() } else { model.check.next.clone() };
                i64::try_from(alarm.unwrap().at.0 - host.mono).unwrap()
            };
            host.pass_ms(1_000);
            host.wall += jump_ms;
            let due = |host: &mut Host, of_alarm| Timestamp::from_millisecond(host.wall + next(host, of_alarm)).unwrap();
            let (check, alarm) = (due(&mut host, false), (state != "idle").then(|| due(&mut host, true)));
            let (shown, chain) = (document(&mut host), chain(&mut host));
            assert_eq!(shown.check.next_at, Some(check), "{state}");
            assert_eq!(chain.iter().find(|entry| entry.gate == "server").unwrap().retry_at, Some(check), "{state}");
            let waiting: Vec<_> = shown.reboot.waiting_for.iter().map(|waiting| waiting.retry_at).collect();
            assert!(waiting.iter().all(|retry_at| *retry_at == alarm), "{state}: {waiting:?}");
            assert_eq!(waiting.is_empty(), matches!(state, "idle" | "failed"), "{state}");
            let write = chain.iter().find(|entry| entry.gate == "write").unwrap();
            assert_eq!(write.retry_at, alarm.filter(|_| state == "failed"), "{state}");

            // What was set in another boot is due.
            host.facts = Facts { boot_id: "boot-2".into(), ..host.engine.facts().clone() };
            host.engine = Engine::new(host.engine.model().clone(), host.facts.clone(), host.engine.policy().clone());
            let now = Timestamp::from_millisecond(host.wall).unwrap();
            assert_eq!(document(&mut host).check.next_at, Some(now), "{state}");
        }
    }
}

fn chain(host: &mut Host) -> Vec<WhyEntry> {
    let now = host.now();
    why(&Input { engine: &host.engine, server: "", journal_fault: None, standstill_until: None, reports_waiting: 0, now })
}
