//! The chain of gates between this host and its next release: passed, waiting, refused, with since when, until when, and when it is asked again.

use crate::engine::model::{About, CheckOutcome, Refusal};
use crate::engine::state::{Plan, State, Waiting as Step};
use crate::status::json::{GateState, Waiting, WhyEntry};
use crate::status::sentence;
use crate::status::view::{self, Input};

/// The gates in the order they are asked.
pub fn why(input: &Input<'_>) -> Vec<WhyEntry> {
    vec![
        host(input),
        server(input),
        offer(input),
        fetch(input),
        proof(input),
        pause(input),
        gates(input),
        lock(input),
        reboot(input),
        health(input),
    ]
}

fn entry(gate: &str, state: GateState, detail: impl Into<String>) -> WhyEntry {
    WhyEntry { gate: gate.to_owned(), state, detail: detail.into(), since: None, until: None, retry_at: None }
}

fn host(input: &Input<'_>) -> WhyEntry {
    match view::troubles(input).first() {
        Some(trouble) if view::forbids_updates(input) => entry("host", GateState::Refused, trouble.message.clone()),
        Some(trouble) => entry("host", GateState::Passed, trouble.message.clone()),
        None => entry("host", GateState::Passed, "slots, boot table, keys and floor are in order"),
    }
}

fn server(input: &Input<'_>) -> WhyEntry {
    let check = &input.engine.model().check;
    let last_at = check.last_at.map(crate::engine::time::Wall::timestamp);
    let has_server = input.engine.policy().has_server;
    let retry_at = check.next.as_ref().filter(|_| has_server).map(|alarm| input.time_of(alarm));
    let found = match (&check.hold, &check.last_result) {
        _ if !has_server => entry("server", GateState::Skipped, "no update server is configured"),
        (Some(hold), _) => {
            WhyEntry { until: hold.until.clone(), ..entry("server", GateState::Waiting, format!("held: {}", hold.reason)) }
        }
        (None, None) => entry("server", GateState::Pending, "not asked yet"),
        (None, Some(result)) if check.errors > 0 => entry("server", GateState::Waiting, result.clone()),
        (None, Some(result)) => entry("server", GateState::Passed, result.clone()),
    };
    WhyEntry { since: last_at, retry_at, ..found }
}

fn offer(input: &Input<'_>) -> WhyEntry {
    let model = input.engine.model();
    let about_offer = model.last_error.as_ref().filter(|error| error.about == About::Offer);
    // A release whose record could not be had or kept, say, is refused by nobody: it is asked for again.
    let is_refused = model.check.last_outcome == Some(CheckOutcome::Refused);
    // A release that rolled back is still the plan for a moment, and will not be installed.
    let plan = input.state().plan().filter(|_| !matches!(input.state(), State::RolledBack { .. }));
    match (plan, about_offer) {
        (Some(plan), _) => {
            entry("release", GateState::Passed, format!("{} (sequence {}) may be installed", plan.version, plan.sequence))
        }
        (None, Some(error)) => {
            let state = if is_refused { GateState::Refused } else { GateState::Waiting };
            WhyEntry { since: Some(error.at.timestamp()), ..entry("release", state, error.message.clone()) }
        }
        (None, None) => match refusal(input) {
            Some(refusal) => WhyEntry {
                since: Some(refusal.at.timestamp()),
                ..entry(
                    "release",
                    GateState::Refused,
                    format!(
                        "{} was given up on this host ({}): a newer release, or `updatectl update {}`, is tried",
                        refusal.version, refusal.reason, refusal.version
                    ),
                )
            },
            None => entry("release", GateState::Pending, "no newer release is known"),
        },
    }
}

/// The newest release that is not installed because it was given up here; what is not newer than the running one is history.
fn refusal<'a>(input: &Input<'a>) -> Option<&'a Refusal> {
    let running = input.facts().running_content().sequence;
    let newer = input.engine.model().refusals.iter().filter(|refusal| running.is_none_or(|running| refusal.sequence > running));
    newer.max_by_key(|refusal| refusal.sequence)
}

fn fetch(input: &Input<'_>) -> WhyEntry {
    match input.state() {
        State::Deferred { reason, until, .. } => WhyEntry {
            until: until.map(|until| until.timestamp().to_string()),
            ..entry("write", GateState::Waiting, reason.clone())
        },
        State::Fetching { plan, .. } => entry("write", GateState::Waiting, format!("slot {} is being written", plan.slot)),
        State::Failed { code, .. } => WhyEntry {
            retry_at: input.engine.model().alarm.as_ref().map(|alarm| input.time_of(alarm)),
            ..entry("write", GateState::Waiting, format!("the last attempt failed ({code}): {}", code.meaning()))
        },
        state => reached(state, "write", 1, "every window is written"),
    }
}

fn proof(input: &Input<'_>) -> WhyEntry {
    match input.state() {
        State::Written { plan, .. } => entry("proof", GateState::Waiting, format!("slot {} is being read back", plan.slot)),
        state => reached(state, "proof", 2, "the slot was read back"),
    }
}

fn pause(input: &Input<'_>) -> WhyEntry {
    match &input.engine.model().pause {
        None => entry("pause", GateState::Passed, "not paused"),
        Some(pause) => WhyEntry {
            since: Some(pause.since.timestamp()),
            until: pause.until.map(|until| until.to_string()),
            ..entry("pause", GateState::Waiting, pause.reason.clone().unwrap_or_else(|| "paused by a person".to_owned()))
        },
    }
}

fn closed(gate: &str, waiting: Waiting) -> WhyEntry {
    let Waiting { detail, since, until, retry_at, .. } = waiting;
    WhyEntry { since, until, retry_at, ..entry(gate, GateState::Waiting, detail) }
}

fn gates(input: &Input<'_>) -> WhyEntry {
    let found = view::waiting_for(input)
        .into_iter()
        .find(|waiting| waiting.gate != "lock" && waiting.gate != "breaker" && waiting.gate != "pause");
    match (found, input.state()) {
        (Some(gate), _) => closed("hooks", gate),
        (None, State::Proven { step: Step::Person, .. }) => {
            entry("hooks", GateState::Refused, "waits for a person: `updatectl reboot`")
        }
        (None, State::Proven { step: Step::Gates, .. }) => entry("hooks", GateState::Waiting, "gate hooks are being asked"),
        (None, state) => reached(state, "hooks", 3, "every gate hook said go"),
    }
}

fn lock(input: &Input<'_>) -> WhyEntry {
    if input.engine.policy().lock.is_none() {
        return entry("lock", GateState::Skipped, "no reboot lock is configured");
    }
    let found = view::waiting_for(input).into_iter().find(|waiting| waiting.gate == "lock" || waiting.gate == "breaker");
    match (found, input.state()) {
        (Some(gate), _) => closed("lock", gate),
        (None, State::Proven { step: Step::Lock, .. }) => entry("lock", GateState::Waiting, "the lock is being asked for"),
        (None, state) => reached(state, "lock", 4, "the lock is held"),
    }
}

fn reboot(input: &Input<'_>) -> WhyEntry {
    match input.state() {
        State::Armed { plan, .. } => entry("reboot", GateState::Waiting, format!("slot {} is armed", plan.slot)),
        state => reached(state, "reboot", 5, "the new slot runs"),
    }
}

fn health(input: &Input<'_>) -> WhyEntry {
    match input.state() {
        State::Trial { verdict: Some(reason), .. } => entry("health", GateState::Refused, reason.clone()),
        State::Trial { plan, .. } => on_trial(input, plan),
        State::Committed { plan } => match input.engine.mark_good_error(plan) {
            None => entry("health", GateState::Passed, "healthy"),
            Some(error) => WhyEntry {
                until: view::trial(input).and_then(|trial| trial.deadline_at).map(|at| at.to_string()),
                retry_at: input.engine.model().alarm.as_ref().map(|alarm| input.time_of(alarm)),
                ..entry("health", GateState::Waiting, error)
            },
        },
        _ => entry("health", GateState::Pending, "after the reboot"),
    }
}

fn on_trial(input: &Input<'_>, plan: &Plan) -> WhyEntry {
    let trial = view::trial(input).unwrap_or_default();
    let checked =
        trial.failing.map_or_else(|| "health is being checked".to_owned(), |failing| format!("not healthy yet: {failing}"));
    let tries = sentence::tries(input, plan).map_or_else(String::new, |tries| format!("; {tries}"));
    let until = trial.deadline_at.map(|at| at.to_string());
    WhyEntry { until, ..entry("health", GateState::Waiting, format!("{checked}{tries}")) }
}

/// A gate that is passed once the state is beyond it.
fn reached(state: &State, gate: &str, stage: u8, passed: &str) -> WhyEntry {
    let at = match state {
        State::Idle | State::Checking { .. } | State::Deferred { .. } | State::Failed { .. } | State::RolledBack { .. } => 0,
        State::Fetching { .. } => 1,
        State::Written { .. } => 2,
        State::Proven { step: Step::Lock | Step::LockRefused, .. } => 4,
        State::Proven { .. } => 3,
        State::Locked { .. } | State::Armed { .. } => 5,
        State::Trial { .. } | State::Committed { .. } => 6,
    };
    if at > stage { entry(gate, GateState::Passed, passed) } else { entry(gate, GateState::Pending, "its turn has not come") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::event::{AskAgain, CheckAnswer, Lack};
    use crate::engine::tests::host::{BLANK, Host, fault, in_new_slot};

    #[test]
    fn a_release_that_was_given_up_is_named_with_what_would_be_tried() {
        let mut host = Host::at("rolled-back");
        let now = host.now();
        let input =
            Input { engine: &host.engine, server: "", journal_fault: None, standstill_until: None, reports_waiting: 0, now };
        let chain = why(&input);
        let release = chain.iter().find(|entry| entry.gate == "release").unwrap();
        assert_eq!(release.state, GateState::Refused);
        assert_eq!(
            release.detail,
            "1.1.0 was given up on this host (it did not come up: the loader spent its tries and went back): \
             a newer release, or `updatectl update 1.1.0`, is tried"
        );
    }

    #[test]
    fn a_slot_that_was_started_by_hand_says_what_it_is_and_what_to_do() {
        let mut host = Host::new();
        let now = host.now();
        let chain = |host: &Host| {
            let input =
                Input { engine: &host.engine, server: "", journal_fault: None, standstill_until: None, reports_waiting: 0, now };
            why(&input).into_iter().find(|entry| entry.gate == "host").unwrap()
        };
        assert_eq!(chain(&host).state, GateState::Passed);
        in_new_slot(&mut host.facts, BLANK);
        host.start(vec![]);
        let said = chain(&host);
        assert_eq!(said.state, GateState::Refused);
        assert_eq!(
            said.detail,
            "slot b runs, and the boot table did not ask for it (it was disarmed, or never armed): it is not kept, nothing is \
             updated from it, and the next boot starts slot a; from there `updatectl install RELEASE PAYLOAD` brings what is wanted"
        );
        // One whose attempt is known is left because of that, and not for want of a person.
        let mut host = Host::at("trial");
        host.restart(|facts| in_new_slot(facts, BLANK));
        assert_eq!((host.state(), chain(&host).detail.contains("did not ask for it")), ("trial/verdict", false));
    }

    #[test]
    fn a_release_whose_record_is_not_to_be_had_is_waited_for_and_not_refused() {
        let told = |answer: CheckAnswer| {
            let mut host = Host::at("checking");
            host.checked(answer);
            let now = host.now();
            let input =
                Input { engine: &host.engine, server: "", journal_fault: None, standstill_until: None, reports_waiting: 0, now };
            why(&input).into_iter().find(|entry| entry.gate == "release").unwrap()
        };
        let (again, version) = (AskAgain::default(), "1.1.0".to_owned());
        let missing =
            CheckAnswer::NoRecord { again, version: version.clone(), fault: fault("record-fetch"), lack: Lack::Lasting };
        let missing = told(missing);
        assert_eq!(missing.state, GateState::Waiting);
        assert!(missing.detail.starts_with("1.1.0 is offered, but its record could not be fetched"), "{}", missing.detail);
        let bad = told(CheckAnswer::BadRecord { again, version, fault: fault("record-signature") });
        assert_eq!(bad.state, GateState::Refused);
    }

    #[test]
    fn a_lock_that_is_lost_while_draining_is_waited_for_at_its_own_gate() {
        let mut host = Host::at("locked/draining");
        host.drained(Err(fault("lock-lost")));
        host.undrained();
        let now = host.now();
        let input =
            Input { engine: &host.engine, server: "", journal_fault: None, standstill_until: None, reports_waiting: 0, now };
        let waiting: Vec<_> = why(&input).into_iter().filter(|entry| entry.state == GateState::Waiting).collect();
        let waiting: Vec<_> = waiting.iter().map(|entry| (entry.gate.as_str(), entry.detail.as_str())).collect();
        assert_eq!(waiting, [("lock", "it broke: lock-lost")]);
    }

    #[test]
    fn a_failed_attempt_says_its_cause_and_what_that_means() {
        let mut host = Host::at("failed");
        let now = host.now();
        let input =
            Input { engine: &host.engine, server: "", journal_fault: None, standstill_until: None, reports_waiting: 0, now };
        let chain = why(&input);
        let write = chain.iter().find(|entry| entry.gate == "write").unwrap();
        assert_eq!(write.detail, "the last attempt failed (download): no source gave the whole payload");
    }
}
