//! From the engine to the status document: pure.

use jiff::Timestamp;
use manifests::release::SlotName;

use crate::boot::Standing;
use crate::engine::Engine;
use crate::engine::cause::Cause;
use crate::engine::event::Fault;
use crate::engine::facts::{Facts, FloorFacts};
use crate::engine::model::About;
use crate::engine::policy::millis;
use crate::engine::state::{Alarm, ArmedStep, State as EngineState, Waiting as Step};
use crate::engine::time::{Mono, Now};
use crate::health;
use crate::status::json::{
    Attempts, Booted, Check, Hold, Holder, Host, LastError, Limit, Lock, Mode, Pause, Phase, Progress, Reboot, SCHEMA, Slot,
    State, Status, Target, Trial, Trouble, Waiting,
};
use crate::status::sentence;

/// Everything the view is made of.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The engine.
    pub engine: &'a Engine,
    /// The update server, without credentials; empty = none.
    pub server: &'a str,
    /// The journal cannot be written: nothing is done until it can.
    pub journal_fault: Option<&'a Fault>,
    /// Until when a host that somebody waits for bears that.
    pub standstill_until: Option<Mono>,
    /// Reports that no server has taken yet.
    pub reports_waiting: usize,
    /// Now.
    pub now: Now,
}

impl Input<'_> {
    pub(super) fn facts(&self) -> &Facts {
        self.engine.facts()
    }

    pub(super) fn state(&self) -> &EngineState {
        &self.engine.model().state
    }

    /// When that will be, by the wall clock of this moment, whatever it was when the alarm was set. What was set in another boot is due.
    pub(super) fn time_of(&self, alarm: &Alarm) -> Timestamp {
        let is_of_this_boot = alarm.boot_id == self.facts().boot_id;
        self.wall_at(if is_of_this_boot { alarm.at } else { self.now.mono })
    }

    /// A time since the start of the host on the wall clock of this moment; what has passed is now.
    pub(super) fn wall_at(&self, at: Mono) -> Timestamp {
        self.now.wall_after(self.now.mono.until(at)).timestamp()
    }
}

/// The whole document.
pub fn status(input: &Input<'_>) -> Status {
    let model = input.engine.model();
    let identity = &input.facts().identity;
    Status {
        schema: SCHEMA,
        state: state_of(input.state()),
        summary: sentence::summary(input),
        host: Host {
            id: identity.id.clone(),
            alias: identity.alias.clone(),
            app_id: identity.app_id.clone(),
            channel: identity.channel.clone(),
            board: identity.board.clone(),
            arch: identity.arch.clone(),
        },
        booted: booted(input),
        slots: [SlotName::A, SlotName::B].into_iter().map(|slot| slot_of(input, slot)).collect(),
        target: input.state().plan().map(|plan| Target {
            version: plan.version.to_string(),
            slot: plan.slot.to_string(),
            attempt: plan.attempt.clone(),
            notes_url: plan.notes_url.clone(),
        }),
        progress: input.engine.soft().progress.as_ref().map(progress),
        trial: trial(input),
        // The engine knows nothing of these.
        inspection: None,
        kernel_log: None,
        limit: Limit::default(),
        mode: if input.facts().image_mode { Mode::Image } else { Mode::Host },
        check: check(input),
        reboot: reboot(input),
        pause: model.pause.as_ref().map(|pause| Pause {
            reason: pause.reason.clone(),
            since: pause.since.timestamp(),
            until: pause.until,
        }),
        last_error: model.last_error.as_ref().map(|error| LastError {
            code: error.code.to_string(),
            message: error.message.clone(),
            at: error.at.timestamp(),
            attention: error.about != About::Check && (has_ended(input.state()) || sentence::is_stuck(input)),
        }),
        attempts: Attempts { committed: model.ended.committed, rolled_back: model.ended.rolled_back, failed: model.ended.failed },
        health_warnings: health_warnings(input),
        troubles: troubles(input),
    }
}

/// Of what runs: of what is just being committed, or was when it was committed.
fn health_warnings(input: &Input<'_>) -> Vec<String> {
    if let EngineState::Committed { plan } = input.state() {
        return plan.warnings.clone();
    }
    let of_what_runs = input.engine.model().warnings.as_ref().filter(|known| Some(known.slot) == input.facts().running);
    of_what_runs.map(|known| known.found.clone()).unwrap_or_default()
}

/// What a slot on trial waits for, and what keeps it from being kept.
pub(super) fn trial(input: &Input<'_>) -> Option<Trial> {
    let (plan, failing) = match input.state() {
        EngineState::Trial { plan, verdict } => {
            let failing = input.engine.soft().probing.as_ref().and_then(|probing| probing.failing.clone());
            (plan, failing.or_else(|| verdict.as_deref().map(health::brief)))
        }
        EngineState::Committed { plan } => (plan, Some(health::brief(input.engine.mark_good_error(plan)?))),
        _ => return None,
    };
    let is_judged = matches!(input.state(), EngineState::Trial { .. });
    Some(Trial {
        kept_from: input.engine.kept_from(&input.now).filter(|_| is_judged).map(|at| input.wall_at(at)),
        deadline_at: trial_ends(input).map(|at| input.wall_at(at)),
        failing,
        tries_left: input.facts().standing(plan.slot).map(Standing::tries_left),
    })
}

/// By the daemon's own judgement, or without the daemon, whichever comes first.
pub(super) fn trial_ends(input: &Input<'_>) -> Option<Mono> {
    let judged_at = input.engine.soft().probing.as_ref().map(|probing| probing.until);
    [judged_at, input.engine.left_at(&input.now)].into_iter().flatten().min()
}

/// No attempt is under way, or it is over: its error still stands.
const fn has_ended(state: &EngineState) -> bool {
    matches!(
        state,
        EngineState::Idle | EngineState::Checking { .. } | EngineState::RolledBack { .. } | EngineState::Failed { .. }
    )
}

/// Everything that calls for a person whatever the state is, most important first.
pub(super) fn troubles(input: &Input<'_>) -> Vec<Trouble> {
    let mut troubles: Vec<Trouble> = Vec::new();
    let mut say = |cause: &Cause, message: String| troubles.push(Trouble { code: cause.to_string(), message });
    if let Some(fault) = input.journal_fault {
        say(
            &fault.code,
            format!(
                "{}: nothing is done before the state folder can be written again (is its disk full, read-only, failing, or not mounted?){}",
                fault.message,
                sentence::without_journal(input)
            ),
        );
    }
    // What is wrong with the state folder as a whole is said once, and what is missing in it is not lost.
    let folder = input.journal_fault.map(|fault| fault.message.as_str()).unwrap_or_default();
    for trouble in input.facts().troubles.iter().filter(|trouble| !folder.contains(&trouble.message)) {
        say(&trouble.code, trouble.message.clone());
    }
    // A slot whose attempt is known is left by that.
    let is_known = input.state().plan().is_some_and(|plan| Some(plan.slot) == input.facts().running);
    if let Some(fault) = input.facts().started_by_hand().filter(|_| !is_known) {
        say(&fault.code, fault.message);
    }
    let is_lost = matches!(input.facts().floor, FloorFacts::Lost { .. }) && input.journal_fault.is_none();
    if is_lost && !input.facts().is_blind() {
        say(&Cause::FloorLost, "the state folder of this host was lost, and with it the lowest release it may run: `updatectl adopt RELEASE` with the record of the running release begins it anew".to_owned());
    }
    if let Some(weakness) = input.facts().boot.as_ref().and_then(|boot| boot.weakness.as_ref()) {
        say(&Cause::BootWeakness, weakness.to_string());
    }
    if let Some(rival) = &input.facts().rival {
        say(&Cause::BootRival, rival.clone());
    }
    if let Some(why) = &input.facts().no_deadline {
        say(&Cause::TrialUnit, why.clone());
    }
    if let Some(words) = stale(input) {
        say(&Cause::Stale, words);
    }
    if let Some(note) = &input.engine.model().journal_note {
        say(&Cause::Journal, format!("{note} (nothing has to be done; this is said until an update is committed)"));
    }
    troubles
}

/// Some trouble stands against every update, and is not only to be said.
pub(super) fn forbids_updates(input: &Input<'_>) -> bool {
    let facts = input.facts();
    input.journal_fault.is_some()
        || !facts.troubles.is_empty()
        || matches!(facts.floor, FloorFacts::Lost { .. })
        || facts.started_by_hand().is_some()
}

/// Design 11.5: a host that is served old news, or none, says so; it is never stopped by it.
fn stale(input: &Input<'_>) -> Option<String> {
    let limit_ms = i64::try_from(millis(input.engine.policy().stale_after)).unwrap_or(i64::MAX);
    let check = &input.engine.model().check;
    let age_ms = |at: Timestamp| input.now.wall.0.saturating_sub(at.as_millisecond());
    let days = |age_ms: i64| age_ms / 86_400_000;
    let today = input.now.wall.timestamp().strftime("%Y-%m-%d");
    if let Some(newest) = check.newest_record.as_ref().filter(|newest| age_ms(newest.created) > limit_ms) {
        return Some(format!(
            "the newest release this host was ever offered is {} days old: none was published since, or its update server has old news, or its clock (today is {today}) is wrong",
            days(age_ms(newest.created))
        ));
    }
    let alone = check.reached_at.or(check.since).map(|at| age_ms(at.timestamp())).filter(|age| *age > limit_ms)?;
    Some(format!(
        "no update server was reached for {} days: see [server] url, the network, the server itself, and this host's clock (today is {today})",
        days(alone)
    ))
}

const fn state_of(state: &EngineState) -> State {
    match state {
        EngineState::Idle => State::Idle,
        EngineState::Checking { .. } => State::Checking,
        EngineState::Deferred { .. } => State::Deferred,
        EngineState::Fetching { .. } => State::Fetching,
        EngineState::Written { .. } => State::Written,
        EngineState::Proven { .. } => State::Proven,
        EngineState::Locked { .. } => State::Locked,
        EngineState::Armed { .. } => State::Armed,
        EngineState::Trial { .. } => State::Trial,
        EngineState::Committed { .. } => State::Committed,
        EngineState::RolledBack { .. } => State::RolledBack,
        EngineState::Failed { .. } => State::Failed,
    }
}

fn booted(input: &Input<'_>) -> Booted {
    let facts = input.facts();
    let good = facts.running.and_then(|slot| facts.standing(slot)).is_some_and(Standing::is_good);
    Booted {
        slot: facts.running.map(|slot| slot.to_string()),
        version: facts.running_content().version,
        confirmed: good,
        boot_id: facts.boot_id.as_str().to_owned(),
    }
}

fn slot_of(input: &Input<'_>, slot: SlotName) -> Slot {
    let facts = input.facts();
    let standing = facts.standing(slot).unwrap_or_default();
    let content = facts.slots.get(slot);
    // While a slot is written its old content is gone and the new one not proven.
    let being_written =
        matches!(input.state(), EngineState::Fetching { plan, .. } | EngineState::Written { plan, .. } if plan.slot == slot);
    let proven_now = matches!(input.state(), EngineState::Proven { plan, .. } | EngineState::Locked { plan, .. } | EngineState::Armed { plan, .. } if plan.slot == slot);
    let planned = input.state().plan().filter(|plan| plan.slot == slot && proven_now).map(|plan| plan.version.to_string());
    Slot {
        name: slot.to_string(),
        version: if being_written { None } else { planned.or_else(|| content.version.clone()) },
        booted: facts.running == Some(slot),
        next: facts.boot.as_ref().is_some_and(|boot| boot.next == slot),
        bootable: standing.is_bootable(),
        good: standing.is_good(),
        tries_left: standing.tries_left(),
        proven: !being_written && (proven_now || content.digest.is_some()),
        read_back: None,
    }
}

/// How far a work is, as it is shown.
pub fn progress(progress: &crate::engine::model::Progress) -> Progress {
    Progress {
        phase: match progress.phase {
            "scanning" => Phase::Scanning,
            "proving" => Phase::Proving,
            _ => Phase::Fetching,
        },
        windows_done: progress.windows_done,
        windows_total: progress.windows_total,
        bytes_written: progress.bytes_written,
        bytes_total: progress.bytes_total,
        bytes_downloaded: progress.bytes_downloaded,
        bytes_reused: progress.bytes_reused,
        rate_bytes_per_s: progress.rate_bytes_per_s,
        eta_s: progress.eta_s,
        trouble: progress.trouble.clone(),
    }
}

fn check(input: &Input<'_>) -> Check {
    let check = &input.engine.model().check;
    let hold = check.hold.as_ref().map(|hold| Hold {
        reason: hold.reason.clone(),
        until: hold.until.clone(),
        since: hold.since.map(crate::engine::time::Wall::timestamp),
    });
    Check {
        last_at: check.last_at.map(crate::engine::time::Wall::timestamp),
        last_outcome: check.last_outcome,
        last_result: check.last_result.clone(),
        next_at: check.next.as_ref().filter(|_| input.engine.policy().has_server).map(|alarm| input.time_of(alarm)),
        server: input.server.to_owned(),
        newest_record_created: check.newest_record.as_ref().map(|newest| newest.created),
        hold,
    }
}

fn reboot(input: &Input<'_>) -> Reboot {
    let policy = input.engine.policy();
    let soft = input.engine.soft();
    let claim = input.state().plan().and_then(|plan| plan.claim.as_ref());
    let refusal = soft.lock_refusal.as_ref().map(|(refusal, _)| refusal);
    let holders = refusal.map(|refusal| {
        refusal
            .holders
            .iter()
            .map(|holder| Holder { id: holder.id.clone(), since: holder.since.clone(), phase: holder.phase.clone() })
            .collect()
    });
    Reboot {
        strategy: policy.strategy.as_str().to_owned(),
        waiting_for: waiting_for(input),
        lock: Lock {
            backend: if policy.lock.is_some() { "fleetlock".to_owned() } else { "none".to_owned() },
            group: policy.lock.as_ref().map(|lock| lock.group.clone()).unwrap_or_default(),
            held: claim.is_some_and(|claim| claim.granted),
            holders: holders.unwrap_or_default(),
            max: refusal.and_then(|refusal| refusal.max),
        },
    }
}

/// The closed gates of a slot that is ready, each with since when, until when, and when it is asked again.
pub(super) fn waiting_for(input: &Input<'_>) -> Vec<Waiting> {
    let soft = input.engine.soft();
    let waits = matches!(
        input.state(),
        EngineState::Proven { step: Step::GateClosed | Step::LockRefused, .. }
            | EngineState::Armed { step: ArmedStep::GateClosed | ArmedStep::LockRefused, .. }
    );
    if !waits {
        return Vec::new();
    }
    let retry_at = input.engine.model().alarm.as_ref().map(|alarm| input.time_of(alarm));
    let mut waiting: Vec<Waiting> = soft
        .closed
        .iter()
        .map(|(gate, since)| Waiting {
            gate: gate.gate.clone(),
            detail: gate.closed.clone().unwrap_or_default(),
            since: Some(since.timestamp()),
            until: gate.until.clone(),
            retry_at,
        })
        .collect();
    if let Some((refusal, since)) = &soft.lock_refusal {
        waiting.push(Waiting {
            gate: refusal.kind.clone(),
            detail: refusal.message.clone(),
            since: Some(since.timestamp()),
            until: None,
            retry_at,
        });
    }
    waiting
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::host::Host;
    use crate::engine::time::Wall;

    #[test]
    fn design_11_5_a_host_that_never_reached_a_server_says_so_as_one_that_lost_it() {
        let mut host = Host::new();
        let mut later = |days: i64| {
            let mut now = host.now();
            now.wall = Wall(now.wall.0 + days * 86_400_000);
            stale(&Input {
                engine: &host.engine,
                server: "",
                journal_fault: None,
                standstill_until: None,
                reports_waiting: 0,
                now,
            })
        };
        assert_eq!(later(59), None);
        let words = later(61).unwrap();
        assert!(words.starts_with("no update server was reached for 6"), "{words}");
    }
}
