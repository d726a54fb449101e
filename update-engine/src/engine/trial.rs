//! The first boots of a new slot: health, commit, rollback.

use manifests::version::Sequence;

use crate::engine::effect::{Effect, Outcome, Row};
use crate::engine::event::Fault;
use crate::engine::facts::{BootTable, Facts};
use crate::engine::model::{About, CommittedSlot, Refusal};
use crate::engine::state::{Kind, Plan, State};
use crate::engine::time::Now;
use crate::engine::{Engine, row};

impl Engine {
    pub(super) fn start_trial(&mut self, plan: Plan) -> Vec<Effect> {
        self.enter(State::Trial { plan: plan.clone(), verdict: None });
        vec![Effect::Health(plan)]
    }

    /// Takes up what a restart, an error or a late answer interrupted.
    pub(super) fn resume_trial(&mut self, now: &Now) -> Vec<Effect> {
        match self.model.state.clone() {
            State::Trial { plan, verdict: None } => vec![Effect::Health(plan)],
            State::Trial { plan, verdict: Some(_) } => {
                let marked_bad = self.facts.marks(plan.slot).is_some_and(|marks| !marks.bootable);
                if marked_bad { vec![Effect::Reboot(plan)] } else { vec![Effect::MarkBad(plan)] }
            }
            State::Committed { plan } => vec![Effect::Commit(plan)],
            State::RolledBack { plan, .. } => self.disarm_failed(&plan, now),
            _ => Vec::new(),
        }
    }

    pub(super) fn on_health(&mut self, attempt: &str, result: Result<Vec<String>, String>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        let State::Trial { plan, verdict: None } = self.model.state.clone() else { return Vec::new() };
        match result {
            Ok(_warnings) => self.start_commit(plan),
            Err(reason) => {
                self.remember_error(
                    &Fault::new("unhealthy", format!("{} is unhealthy: {reason}", plan.version)),
                    About::Attempt,
                    now,
                );
                self.enter(State::Trial { plan: plan.clone(), verdict: Some(reason) });
                vec![Effect::MarkBad(plan)]
            }
        }
    }

    pub(super) fn start_commit(&mut self, plan: Plan) -> Vec<Effect> {
        self.enter(State::Committed { plan: plan.clone() });
        vec![Effect::Commit(plan)]
    }

    pub(super) fn on_commit_done(&mut self, attempt: &str, result: Result<Box<Facts>, Fault>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        let State::Committed { plan } = self.model.state.clone() else { return Vec::new() };
        match result {
            Err(fault) => {
                let message =
                    format!("{} is healthy but could not be marked good ({}): tried again soon", plan.version, fault.message);
                self.remember_error(&Fault::new("mark-good", message), About::Attempt, now);
                self.set_alarm(self.policy.gate_retry_ms(None, now), now);
                Vec::new()
            }
            Ok(facts) => {
                self.facts = *facts;
                let effects = self.end_attempt(&plan, Outcome::Committed, &Fault::new("", ""));
                self.remember_committed(&plan);
                self.model.failures = None;
                self.model.last_error = None;
                self.model.journal_note = None;
                self.enter(State::Idle);
                effects
            }
        }
    }

    fn remember_committed(&mut self, plan: &Plan) {
        if plan.kind == Kind::Found && plan.sequence == Sequence::ZERO {
            return;
        }
        let slot = CommittedSlot { digest: plan.digest, sequence: plan.sequence, version: plan.version.to_string() };
        *self.model.committed.get_mut(plan.slot) = Some(slot);
    }

    pub(super) fn on_marked_bad(&mut self, attempt: &str, result: Result<BootTable, Fault>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        let State::Trial { plan, verdict: Some(_) } = self.model.state.clone() else { return Vec::new() };
        match result {
            Ok(boot) => self.facts.boot = Some(boot),
            // The loader's tries still bring the old slot back: reboot all the same.
            Err(fault) => self.remember_error(
                &Fault::new("mark-bad", format!("the unhealthy slot could not be marked bad: {}", fault.message)),
                About::Attempt,
                now,
            ),
        }
        vec![Effect::Reboot(plan)]
    }

    /// The old slot runs again: history, report, release, refusal in one transaction; then the failed slot is disarmed.
    pub(super) fn roll_back(&mut self, plan: &Plan, why: &str, now: &Now) -> Vec<Effect> {
        let fault = Fault::new("rolled-back", format!("{} rolled back to {}: {why}", plan.version, plan.from_version));
        self.remember_error(&fault, About::Attempt, now);
        let mut effects = self.end_attempt(plan, Outcome::RolledBack, &fault);
        if plan.sequence != Sequence::ZERO {
            effects.push(self.refuse(plan, why, now));
        }
        self.enter(State::RolledBack { plan: plan.clone(), why: why.to_owned() });
        effects.extend(self.disarm_failed(plan, now));
        effects
    }

    fn disarm_failed(&mut self, plan: &Plan, _now: &Now) -> Vec<Effect> {
        if self.facts.running == Some(plan.slot) {
            self.enter(State::Idle);
            return Vec::new();
        }
        vec![Effect::Disarm(plan.slot)]
    }

    pub(super) fn refuse(&mut self, plan: &Plan, why: &str, now: &Now) -> Effect {
        let refusal = Refusal {
            digest: plan.digest,
            sequence: plan.sequence,
            version: plan.version.to_string(),
            reason: why.to_owned(),
            at: now.wall,
        };
        self.model.refusals.retain(|known| known.digest != refusal.digest);
        self.model.refusals.push(refusal.clone());
        // Old refusals are of releases that are long overtaken; the table must not grow for ever.
        let surplus = self.model.refusals.len().saturating_sub(MAX_REFUSALS);
        self.model.refusals.drain(..surplus);
        row(Row::Refuse(refusal))
    }
}

/// Refusals kept.
pub(super) const MAX_REFUSALS: usize = 100;
