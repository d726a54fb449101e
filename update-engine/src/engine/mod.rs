//! The pure engine: `(model, event, now) → (model, effects)`.
//!
//! Promises: no clock, no dice, no I/O — everything comes in by [`Event`]s and a [`Now`], everything goes out as [`Effect`]s.
//! What must survive a crash is in [`Model`], which the daemon journals after every step and *before* it runs the effects.
//! After a restart nothing is believed from the journal that can be earned again: a proven slot is read back anew.
//!
//! Never: writing, arming or disarming the slot that runs, or any slot while it is not known which one runs; rebooting meanwhile, but
//! to leave an image on trial in which that cannot be seen ([`unseen`]); arming without a read-back in this run of the daemon and,
//! where configured, without the lock; asking for the lock before the claim is written down; giving it back while the slot may still
//! be armed; marking a slot good that has not shown that it is healthy.
//!
//! ```text
//! let effects = engine.step(Event::Started { facts }, &now);
//! journal.commit(engine.model(), rows_of(&effects));   // durable first
//! for effect in effects { run(effect) }                // each answers with an event
//! sleep until engine.next_wake() or the next event
//! ```

pub mod amount;
pub mod cause;
pub mod command;
pub mod effect;
pub mod event;
pub mod facts;
pub mod model;
pub mod plan;
pub mod policy;
pub mod state;
pub mod time;
pub mod unseen;

mod checking;
mod commands;
mod giving_up;
mod installing;
mod rebooting;
mod standstill;
mod starting;
mod trial;

#[cfg(test)]
pub(crate) mod tests;

pub use commands::Answer;
pub use effect::Effect;
pub use event::Event;
pub use installing::AfterProof;
pub use model::Model;
pub use rebooting::LEFT_BY_A_PERSON;
pub use time::Now;

use cause::Cause;
use effect::{LockOutcome, Outcome, Report, ReportKind, Row};
use event::{Fault, Gate, LockRefusal, Orphan, Probing};
use facts::Facts;
use manifests::omaha::MAX_TEXT_CHARS;
use manifests::release::SlotName;
use model::{About, CommittedSlot, Failures, LastError, Progress};
use policy::Policy;
use state::{Alarm, Claim, Kind, Plan, Request, State};
use time::{Mono, Wall};
use unseen::Leaving;

/// The engine. One task owns it.
#[derive(Clone, Debug)]
pub struct Engine {
    model: Model,
    facts: Facts,
    policy: Policy,
    soft: Soft,
}

/// What may be forgotten in a restart.
#[derive(Clone, Debug, Default)]
pub struct Soft {
    /// How far the work under way is.
    pub progress: Option<Progress>,
    /// How far the probe of the slot on trial is.
    pub probing: Option<Probing>,
    /// The last look at the gates, all of them.
    pub looked: Vec<Gate>,
    /// Closed gates of the last look, each with the time since when.
    pub closed: Vec<(Gate, Wall)>,
    /// The last refusal of the lock, and since when it is refused.
    pub lock_refusal: Option<(LockRefusal, Wall)>,
    /// Lock releases of older attempts that the server has not acknowledged yet.
    pub releases_waiting: u32,
    /// Why the last try to give one back failed.
    pub release_trouble: Option<String>,
    /// A check runs beside a pending update.
    pub background_check: Option<Request>,
    /// When the slot was read back, while that proof can still be used to arm it.
    pub proven_at: Option<Mono>,
    /// While it cannot be seen which slot runs: when the world is looked at again.
    pub look_at: Option<Mono>,
    /// It is being looked at.
    pub looks: bool,
    /// While it cannot be seen which slot runs: from when on an image on trial is left.
    pub leaves_at: Option<Mono>,
    /// How far the host is in leaving what it cannot see.
    pub leaving: Leaving,
    /// That reboot was refused, and is asked for again.
    pub leave_refused: bool,
    /// The slot on trial was marked bad in this run of the daemon.
    pub marked_bad: bool,
    /// The present boot was counted as one into a bad slot.
    pub boot_is_counted: bool,
    /// The attempt for which the journal had counted the present boot when the daemon was started.
    pub boot_was_counted: Option<String>,
    /// An overdue reboot is being asked for again: its command has not answered yet.
    pub asks_reboot_again: bool,
    /// The reboot command that was accepted had not ended by itself when that was last looked at.
    pub reboot_command_runs: bool,
    /// When a reboot was accepted.
    pub reboot_accepted_at: Option<Wall>,
    /// An accepted reboot is overdue: from then on it can be cancelled.
    pub reboot_is_late: bool,
    /// What the slot held that is about to be opened for writing; if it cannot be opened, it holds it still.
    pub before_writing: Option<CommittedSlot>,
    /// The host is being undrained. Its hooks do not run twice at once.
    pub undraining: bool,
    /// A slot is being disarmed. One at a time: a late one must not undo what came after it.
    pub disarming: bool,
    /// Attempts without an end, until the world can be seen and tells how they ended.
    pub orphans: Vec<Orphan>,
}

impl Engine {
    /// An engine with what the journal remembers. Nothing happens before [`Event::Started`].
    pub fn new(model: Model, facts: Facts, policy: Policy) -> Self {
        Self { model, facts, policy, soft: Soft::default() }
    }

    /// What must be journalled.
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// The world as last seen.
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The settings it decides by.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What is known only until the next restart.
    pub const fn soft(&self) -> &Soft {
        &self.soft
    }

    /// Takes an event, changes the model, and says what is to be done. Late answers to work that was given up change nothing.
    #[must_use]
    pub fn step(&mut self, event: Event, now: &Now) -> Vec<Effect> {
        self.end_pause_if_over(now);
        match event {
            Event::Started { facts, orphans } => self.on_started(*facts, orphans, now),
            Event::Woke => self.on_woke(now),
            Event::Checked { facts, answer } => self.on_checked(*facts, *answer, now),
            Event::Progressed { attempt, progress } => self.on_progressed(&attempt, progress),
            Event::Installed { attempt, boot, result } => self.on_installed(&attempt, boot, result, now),
            Event::ReadBack { attempt, result } => self.on_read_back(&attempt, result, now),
            Event::Gates { attempt, stage, gates } => self.on_gates(&attempt, stage, gates, now),
            Event::Lock { attempt, result } => self.on_lock(&attempt, result, now),
            Event::Drained { attempt, result } => self.on_drained(&attempt, result, now),
            Event::RebootAcknowledged { attempt, result } => self.on_reboot_acknowledged(&attempt, result, now),
            Event::Armed { attempt, result } => self.on_armed(&attempt, result, now),
            Event::Reboot { attempt, result } => self.on_reboot(&attempt, result, now),
            Event::Disarmed { result } => self.on_disarmed(result, now),
            Event::Undrained { attempt } => self.on_undrained(&attempt, now),
            Event::Probing { attempt, probing } => self.on_probing(&attempt, probing),
            Event::Health { attempt, result } => self.on_health(&attempt, result, now),
            Event::CommitDone { attempt, result } => self.on_commit_done(&attempt, result, now),
            Event::MarkedBad { attempt, result } => self.on_marked_bad(&attempt, result, now),
            Event::Outbox { releases_waiting } => self.on_outbox(releases_waiting, now),
            Event::ReleaseFailed { message } => self.on_release_failed(message, now),
            Event::StandsStill { fault, unstarted } => self.on_stands_still(fault, unstarted, now),
            Event::FactsChanged { facts } => self.on_facts_changed(*facts, now),
            Event::Looked { facts } => self.on_looked(*facts, now),
            Event::LookedToLeave { facts } => self.on_looked_to_leave(*facts, now),
        }
    }

    /// When [`Event::Woke`] is wanted next; `None` = only an event can change anything.
    pub fn next_wake(&self) -> Option<Mono> {
        let check = self.model.check.next.as_ref().filter(|_| self.may_check());
        // A time of another boot means nothing in this one: what it waited for is over.
        let at = |alarm: &Alarm| if alarm.boot_id == self.facts.boot_id { alarm.at } else { Mono(0) };
        let alarms = [check, self.model.alarm.as_ref()].into_iter().flatten().map(at);
        alarms.chain(self.soft.look_at).min()
    }

    fn on_woke(&mut self, now: &Now) -> Vec<Effect> {
        let mut effects = Vec::from_iter(self.look_if_due(now));
        if self.model.alarm.as_ref().is_some_and(|alarm| self.is_due(alarm, now)) {
            self.model.alarm = None;
            effects.extend(self.on_alarm(now));
        }
        if self.may_check() && self.model.check.next.as_ref().is_some_and(|alarm| self.is_due(alarm, now)) {
            effects.extend(self.start_check(Request::timer(), now));
        }
        effects
    }

    /// The pause or wait of the present state is over.
    fn on_alarm(&mut self, now: &Now) -> Vec<Effect> {
        if self.soft.leaving == Leaving::Asked {
            return self.leave_again(now);
        }
        // The look that sees goes on with it.
        let Some(running) = self.ready() else { return Vec::new() };
        match &self.model.state {
            State::Idle => self.settle_idle(running, now),
            State::Deferred { .. } => self.leave_deferred(now),
            State::Written { .. } => self.resume_written(),
            State::Proven { .. } | State::Locked { .. } | State::Armed { .. } => self.look_at_gates_again(now),
            State::Trial { .. } | State::Committed { .. } | State::RolledBack { .. } => self.resume_trial(now),
            State::Failed { .. } => {
                self.enter(State::Idle);
                Vec::new()
            }
            State::Checking { .. } | State::Fetching { .. } => Vec::new(),
        }
    }

    fn on_progressed(&mut self, attempt: &str, progress: Progress) -> Vec<Effect> {
        // The last word of one phase may arrive when the next has begun.
        let belongs = match &self.model.state {
            State::Fetching { .. } => progress.phase != "proving",
            State::Written { .. } => progress.phase == "proving",
            _ => false,
        };
        if belongs && self.is_current(attempt) {
            self.soft.progress = Some(progress);
        }
        Vec::new()
    }

    fn on_outbox(&mut self, releases_waiting: u32, now: &Now) -> Vec<Effect> {
        let was_waiting = std::mem::replace(&mut self.soft.releases_waiting, releases_waiting) > 0;
        if releases_waiting == 0 {
            self.soft.release_trouble = None;
        }
        let waits_for_it = was_waiting
            && releases_waiting == 0
            && matches!(self.model.state, State::Proven { step: state::Waiting::LockRefused, .. });
        if waits_for_it { self.look_at_gates_again(now) } else { Vec::new() }
    }

    fn on_facts_changed(&mut self, facts: Facts, now: &Now) -> Vec<Effect> {
        let was_blind = self.facts.is_blind();
        self.take_facts(facts);
        if !self.facts.is_blind() {
            self.soft.leaving.withdraw();
        }
        if self.model.last_error.as_ref().is_some_and(|error| error.code == Cause::FloorLost)
            && matches!(self.facts.floor, facts::FloorFacts::Known(_))
        {
            self.model.last_error = None;
        }
        match self.ready() {
            Some(_) if was_blind => self.settle(now),
            Some(running) => {
                self.remember_running(running);
                // A slot that was marked bad may be judged once its record is known.
                let may_be_judged = matches!(self.model.state, State::Idle) && self.was_marked_bad(running);
                if may_be_judged { self.settle_idle(running, now) } else { Vec::new() }
            }
            None => Vec::new(),
        }
    }

    /// The slot that runs, when something may begin: that and the boot table are known, and the host is not being left.
    fn ready(&self) -> Option<SlotName> {
        self.facts.running.filter(|_| !self.facts.is_blind() && self.soft.leaving != Leaving::Asked)
    }

    /// Within a boot neither its id nor the running slot changes: a look that fails does not make them unknown again. A table that was
    /// read counts as long as it is known what runs; whoever does not know that goes by what can be read now.
    fn take_facts(&mut self, mut facts: Facts) {
        if self.facts.boot_id.is_same(&facts.boot_id) != Some(false) {
            if !facts.boot_id.is_known() {
                facts.boot_id = self.facts.boot_id.clone();
            }
            facts.running = facts.running.or(self.facts.running);
            if facts.running.is_some() {
                facts.boot = facts.boot.or_else(|| self.facts.boot.take());
            }
        }
        self.facts = facts;
    }

    /// Changes the state. Timers and progress belong to the state that is left.
    fn enter(&mut self, state: State) {
        let same_attempt = self.model.state.plan().map(|plan| &plan.attempt) == state.plan().map(|plan| &plan.attempt);
        self.model.alarm = None;
        self.soft.progress = None;
        self.soft.probing = None;
        if !same_attempt {
            self.soft.looked.clear();
            self.soft.closed.clear();
            self.soft.lock_refusal = None;
            self.soft.proven_at = None;
            self.soft.reboot_accepted_at = None;
        }
        self.soft.reboot_is_late = false;
        if !matches!(state, State::Armed { .. }) {
            self.model.asked_reboot = None;
        }
        self.model.state = state;
    }

    fn is_current(&self, attempt: &str) -> bool {
        self.model.state.plan().is_some_and(|plan| plan.attempt == attempt)
    }

    fn set_alarm(&mut self, delay_ms: u64, now: &Now) {
        self.model.alarm = Some(self.alarm(delay_ms, now));
    }

    fn alarm(&self, delay_ms: u64, now: &Now) -> Alarm {
        Alarm { boot_id: self.facts.boot_id.clone(), at: now.mono.after(delay_ms), at_wall: now.wall_after(delay_ms) }
    }

    fn is_due(&self, alarm: &Alarm, now: &Now) -> bool {
        alarm.boot_id != self.facts.boot_id || alarm.at <= now.mono
    }

    /// Keeps an error for `status`. One about an attempt is not hidden by a later one about a mere check.
    fn remember_error(&mut self, fault: &Fault, about: About, now: &Now) {
        let keeps_older =
            about != About::Attempt && self.model.last_error.as_ref().is_some_and(|error| error.about == About::Attempt);
        if !keeps_older {
            self.model.last_error =
                Some(LastError { code: fault.code.clone(), message: fault.message.clone(), at: now.wall, about });
        }
    }

    /// Ends an attempt, once: the rows that make it so.
    fn end_attempt(&mut self, plan: &Plan, outcome: Outcome, fault: Option<&Fault>) -> Vec<Effect> {
        let (kind, lock_outcome) = match outcome {
            Outcome::Committed => (ReportKind::Committed, LockOutcome::Ok),
            Outcome::RolledBack => (ReportKind::RolledBack, LockOutcome::RolledBack),
            Outcome::Failed => (ReportKind::Failed, LockOutcome::Aborted),
            Outcome::Abandoned => (ReportKind::Abandoned, LockOutcome::Aborted),
        };
        self.model.ended.count(outcome);
        let close = Row::Close { attempt: plan.attempt.clone(), outcome, fault: fault.cloned() };
        let mut rows = vec![Effect::Row(close), Effect::Row(Row::Report(self.report(kind, plan, fault)))];
        rows.extend(plan.claim.clone().map(|claim| self.release(&plan.attempt, claim, lock_outcome)));
        rows
    }

    /// Gives a lock back: it is told to its server until that acknowledges it.
    fn release(&mut self, attempt: &str, claim: Claim, outcome: LockOutcome) -> Effect {
        self.soft.releases_waiting = self.soft.releases_waiting.saturating_add(1);
        row(Row::Release { attempt: attempt.to_owned(), claim, outcome })
    }

    fn report(&self, kind: ReportKind, plan: &Plan, fault: Option<&Fault>) -> Report {
        Report {
            kind,
            attempt: plan.attempt.clone(),
            running_version: self.facts.running_content().version.unwrap_or_else(|| plan.from_version.clone()),
            from_version: plan.from_version.clone(),
            to_version: plan.version.to_string(),
            code: fault.map(|fault| fault.code.clone()),
            reason: fault.map(|fault| self.reason(kind, plan, fault)).or_else(|| warnings(kind, plan)),
        }
    }

    /// Whoever publishes an image that goes back wants to know what its kernel said, and has no other way to learn it.
    fn reason(&self, kind: ReportKind, plan: &Plan, fault: &Fault) -> String {
        let words = self.facts.last_words.as_ref().filter(|words| words.attempt == plan.attempt);
        let Some(words) = words.filter(|_| kind == ReportKind::RolledBack) else { return fault.message.clone() };
        let said = format!("; its kernel said: {}", words.line);
        let room = MAX_TEXT_CHARS.saturating_sub(said.chars().count());
        fault.message.chars().take(room).chain(said.chars()).collect()
    }

    /// The attempt failed: rows, a pause that grows with each failure in a row, then Idle.
    fn fail(&mut self, plan: &Plan, fault: &Fault, now: &Now) -> Vec<Effect> {
        let rows = self.end_attempt(plan, Outcome::Failed, Some(fault));
        let failures = self.count_failure(plan, fault.retry_after_s, now);
        self.remember_error(fault, About::Attempt, now);
        self.enter(State::Failed { plan: Some(plan.ended()), code: fault.code.clone(), failures: failures.count });
        self.model.alarm.clone_from(&failures.retry);
        self.model.check.next.clone_from(&failures.retry);
        rows
    }

    /// A release that is newer than all that failed starts from one: their number is the publisher's, who cannot be
    /// impersonated. A rollback that fails says nothing about releases.
    fn count_failure(&mut self, plan: &Plan, retry_after_s: Option<u64>, now: &Now) -> Failures {
        let before = self.model.failures.as_ref().filter(|before| plan.kind == Kind::Update && plan.sequence <= before.sequence);
        let count = before.map_or(0, |before| before.count).saturating_add(1);
        let failures = Failures {
            digest: plan.digest,
            sequence: before.map_or(plan.sequence, |before| before.sequence),
            count,
            retry: Some(self.alarm(self.policy.failed_ms(count, retry_after_s, now), now)),
        };
        if plan.kind == Kind::Update {
            self.model.failures = Some(failures.clone());
        }
        failures
    }
}

/// What is kept with findings of its wanted checks is no failure, and whoever publishes it wants to know.
fn warnings(kind: ReportKind, plan: &Plan) -> Option<String> {
    let has_some = kind == ReportKind::Committed && !plan.warnings.is_empty();
    has_some.then(|| format!("kept, and its wanted health checks found: {}", plan.warnings.join("; ")))
}

/// An effect that belongs to the step's transaction.
fn row(row: Row) -> Effect {
    Effect::Row(row)
}
