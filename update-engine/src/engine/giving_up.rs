//! The way back from a proven slot: disarm, undrain, give the lock back, in this order, whatever interrupts it.
//!
//! It ends an attempt as failed or abandoned, or only steps back to a proven slot that waits ([`WayBack`]). A failed disarm keeps
//! the lock: a slot that may be armed may change the fleet at the next power cut.

use manifests::release::SlotName;

use crate::boot::Standing;
use crate::engine::cause::Cause;
use crate::engine::effect::{Effect, LockOutcome, Outcome, Row};
use crate::engine::event::Fault;
use crate::engine::facts::BootTable;
use crate::engine::model::About;
use crate::engine::state::{ArmedStep, GivingUp, LockedStep, Plan, SlotMayBe, State, Waiting, WayBack};
use crate::engine::time::Now;
use crate::engine::{Engine, row};

impl Engine {
    /// Takes the way back. Right now for what needs none of its steps.
    pub(super) fn give_up(&mut self, mut plan: Plan, fault: Fault, end: WayBack, now: &Now) -> Vec<Effect> {
        if end == WayBack::Failed {
            self.remember_error(&fault, About::Attempt, now);
        }
        // Behind `Arming` the slot may be armed whatever the last look at the table said.
        let slot = match &self.model.state {
            State::Armed { .. } | State::Locked { step: LockedStep::Arming, .. } => SlotMayBe::Armed,
            _ => SlotMayBe::armed_if(self.facts.standing(plan.slot).is_some_and(Standing::is_pending)),
        };
        plan.giving_up = Some(GivingUp::over(fault, end, slot));
        self.take_way_back(plan, now)
    }

    /// The way back was decided while an answer was awaited; it has come.
    pub(super) fn give_up_as_decided(&mut self, plan: Plan, now: &Now) -> Vec<Effect> {
        match plan.giving_up.clone() {
            Some(why) => self.give_up(plan, why.fault(), why.end, now),
            None => Vec::new(),
        }
    }

    /// A start in the middle of it: the table has just been read, and tells whether there is something to disarm.
    pub(super) fn restart_way_back(&mut self, mut plan: Plan, standing: Standing, now: &Now) -> Vec<Effect> {
        if let Some(why) = plan.giving_up.as_mut() {
            why.disarm = standing.is_pending();
        }
        self.take_way_back(plan, now)
    }

    fn take_way_back(&mut self, plan: Plan, now: &Now) -> Vec<Effect> {
        self.soft.reboot_accepted_at = None;
        let state = match self.model.state.clone() {
            State::Armed { old_slot, boot_id, .. } => {
                State::Armed { plan: plan.clone(), old_slot, boot_id, step: ArmedStep::GivingUp }
            }
            State::Locked { boot_id, .. } => State::Locked { plan: plan.clone(), boot_id, step: LockedStep::GivingUp },
            _ => State::Locked { plan: plan.clone(), boot_id: self.facts.boot_id.clone(), step: LockedStep::GivingUp },
        };
        self.enter(state);
        self.go_on_giving_up(plan, now)
    }

    /// The next step of the way back.
    pub(super) fn go_on_giving_up(&mut self, plan: Plan, now: &Now) -> Vec<Effect> {
        let may_be_armed = plan.giving_up.as_ref().is_some_and(|why| why.disarm) && self.facts.running != Some(plan.slot);
        match (may_be_armed, plan.drained) {
            (true, _) => self.disarm(plan.slot),
            (false, true) => self.undrain(plan),
            (false, false) => self.given_up(plan, now),
        }
    }

    /// Undrains the host, unless that is being done.
    pub(super) fn undrain(&mut self, plan: Plan) -> Vec<Effect> {
        let under_way = std::mem::replace(&mut self.soft.undraining, true);
        if under_way { Vec::new() } else { vec![Effect::Undrain(plan)] }
    }

    /// Disarms a slot, unless that is being done: its answer comes, and what waits for it goes on then.
    pub(super) fn disarm(&mut self, slot: SlotName) -> Vec<Effect> {
        let under_way = std::mem::replace(&mut self.soft.disarming, true);
        if under_way { Vec::new() } else { vec![Effect::Disarm(slot)] }
    }

    pub(super) fn on_disarmed(&mut self, result: Result<BootTable, Fault>, now: &Now) -> Vec<Effect> {
        self.soft.disarming = false;
        match result {
            Err(fault) => self.disarm_failed(&fault, now),
            Ok(boot) => {
                self.facts.boot = Some(boot);
                self.after_disarm(now)
            }
        }
    }

    fn after_disarm(&mut self, now: &Now) -> Vec<Effect> {
        match self.model.state.clone() {
            State::Locked { mut plan, boot_id, step: LockedStep::GivingUp } => {
                self.note_disarmed(&mut plan);
                self.model.state = State::Locked { plan: plan.clone(), boot_id, step: LockedStep::GivingUp };
                self.go_on_giving_up(plan, now)
            }
            State::Armed { mut plan, old_slot, boot_id, step: ArmedStep::GivingUp } => {
                self.note_disarmed(&mut plan);
                self.model.state = State::Armed { plan: plan.clone(), old_slot, boot_id, step: ArmedStep::GivingUp };
                self.go_on_giving_up(plan, now)
            }
            State::Written { .. } => self.resume_written(),
            State::RolledBack { plan, why } => {
                self.forget_disarm_error();
                self.remember_error(&rolled_back(&plan, &why), About::Attempt, now);
                self.enter(State::Idle);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn disarm_failed(&mut self, fault: &Fault, now: &Now) -> Vec<Effect> {
        let message = format!("slot could not be disarmed: {}", fault.message);
        match self.model.state.clone() {
            // The loader has given the slot up by itself: the marks are untidy, not dangerous.
            State::RolledBack { plan, why } if !self.facts.standing(plan.slot).is_some_and(Standing::is_pending) => {
                let told = rolled_back(&plan, &why);
                self.remember_error(&Fault { message: format!("{}; its {message}", told.message), ..told }, About::Attempt, now);
                self.enter(State::Idle);
            }
            _ => {
                let message = format!("a {message}; a lock that is held is kept, and it is tried again soon");
                self.remember_error(&Fault::new(Cause::Disarm, message), About::Attempt, now);
                self.set_alarm(self.policy.gate_retry_ms(None, now), now);
            }
        }
        Vec::new()
    }

    pub(super) fn on_undrained(&mut self, attempt: &str, now: &Now) -> Vec<Effect> {
        self.soft.undraining = false;
        match self.model.state.clone() {
            State::Locked { plan, step: LockedStep::GivingUp, .. } | State::Armed { plan, step: ArmedStep::GivingUp, .. }
                if plan.attempt == attempt =>
            {
                self.given_up(Plan { drained: false, ..plan }, now)
            }
            // An earlier attempt's hooks were still running when this one's were to begin.
            State::Locked { plan, step: LockedStep::GivingUp, .. } | State::Armed { plan, step: ArmedStep::GivingUp, .. } => {
                self.go_on_giving_up(plan, now)
            }
            // The slot is written once more meanwhile, and may even be proven already.
            State::Fetching { plan, .. } | State::Written { plan, .. } | State::Proven { plan, .. }
                if plan.attempt == attempt && plan.drained =>
            {
                self.unburden(Plan { drained: false, ..plan })
            }
            _ => Vec::new(),
        }
    }

    fn given_up(&mut self, plan: Plan, now: &Now) -> Vec<Effect> {
        let Some(why) = plan.giving_up.clone() else { return Vec::new() };
        self.forget_disarm_error();
        let fault = why.fault();
        match why.end {
            WayBack::Failed => self.fail(&plan, &fault, now),
            WayBack::Abandoned => {
                let rows = self.end_attempt(&plan, Outcome::Abandoned, Some(&fault));
                self.enter(State::Idle);
                rows
            }
            WayBack::Waits => self.wait_again(plan, now),
        }
    }

    /// Gives the lock back and waits. A proof that was used up by arming is earned again first.
    fn wait_again(&mut self, mut plan: Plan, now: &Now) -> Vec<Effect> {
        plan.giving_up = None;
        let mut effects = Vec::new();
        if let Some(claim) = plan.claim.take() {
            effects.push(self.release(&plan.attempt, claim, LockOutcome::Aborted));
        }
        effects.push(row(Row::Update(plan.clone())));
        if self.soft.proven_at.is_none() {
            self.enter(State::Written { plan, rewrites: 0 });
            effects.extend(self.resume_written());
            return effects;
        }
        if self.waits_for_person(&plan) {
            self.enter(State::Proven { plan, step: Waiting::Person });
            return effects;
        }
        let step = if self.soft.lock_refusal.is_some() { Waiting::LockRefused } else { Waiting::GateClosed };
        self.enter(State::Proven { plan, step });
        let retry_after_s = self.soft.lock_refusal.as_ref().and_then(|(refusal, _)| refusal.retry_after_s);
        self.set_alarm(self.policy.gate_retry_ms(retry_after_s, now), now);
        effects
    }

    /// By the table that was read back, not by the answer's coming.
    fn note_disarmed(&self, plan: &mut Plan) {
        let armed = self.facts.standing(plan.slot).is_some_and(Standing::is_pending);
        if let Some(why) = plan.giving_up.as_mut() {
            why.disarm = armed;
        }
    }

    fn forget_disarm_error(&mut self) {
        if self.model.last_error.as_ref().is_some_and(|error| error.code == Cause::Disarm) {
            self.model.last_error = None;
        }
    }
}

/// What is said of a release that went back.
pub(super) fn rolled_back(plan: &Plan, why: &str) -> Fault {
    Fault::new(Cause::RolledBack, format!("{} rolled back to {}: {why}", plan.version, plan.way_back()))
}
