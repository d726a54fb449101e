//! From a proven slot to the reboot: gates, lock, drain, gates once more, acknowledgement, arm, reboot. And the way back.

use crate::engine::effect::{Effect, GateStage, Outcome, Row};
use crate::engine::event::{Fault, Gate, LockGrant, LockRefusal};
use crate::engine::facts::BootTable;
use crate::engine::model::About;
use crate::engine::policy::{PROOF_MAX_AGE_MS, Strategy};
use crate::engine::state::{ArmedStep, Claim, GivingUp, LockedStep, Plan, State, Waiting};
use crate::engine::time::Now;
use crate::engine::{Engine, row};

impl Engine {
    /// Looks at the gates, from whatever step waits for them; takes up giving up where that was interrupted.
    pub(super) fn look_at_gates_again(&mut self, now: &Now) -> Vec<Effect> {
        match self.model.state.clone() {
            State::Proven { plan, step } if step != Waiting::Person => self.gates_before_lock(plan, now),
            State::Locked { plan, step: LockedStep::GivingUp, .. } | State::Armed { plan, step: ArmedStep::GivingUp, .. } => {
                vec![Effect::Disarm(plan.slot)]
            }
            State::Armed { plan, old_slot, boot_id, step: ArmedStep::GateClosed | ArmedStep::LockRefused | ArmedStep::Gates } => {
                let effect = Effect::Gates { plan: plan.clone(), stage: GateStage::BeforeReboot };
                self.enter(State::Armed { plan, old_slot, boot_id, step: ArmedStep::Gates });
                vec![effect]
            }
            State::Armed { step: ArmedStep::Rebooting, .. } => {
                self.reboot_is_late(now);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn gates_before_lock(&mut self, plan: Plan, now: &Now) -> Vec<Effect> {
        let fresh = self.soft.proven_at.is_some_and(|at| at.until(now.mono) <= PROOF_MAX_AGE_MS);
        if !fresh {
            self.enter(State::Written { plan: plan.clone(), rewrites: 0 });
            return vec![Effect::ReadBack(plan)];
        }
        self.enter(State::Proven { plan: plan.clone(), step: Waiting::Gates });
        vec![Effect::Gates { plan, stage: GateStage::BeforeLock }]
    }

    pub(super) fn on_gates(&mut self, attempt: &str, stage: GateStage, gates: Vec<Gate>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        let closed: Vec<Gate> = gates.into_iter().filter(|gate| gate.closed.is_some()).collect();
        let open = closed.is_empty();
        self.remember_closed(closed, now);
        match (self.model.state.clone(), stage) {
            (State::Proven { plan, step: Waiting::Gates }, GateStage::BeforeLock) if open => self.ask_lock_or_arm(plan, now),
            (State::Proven { plan, step: Waiting::Gates }, GateStage::BeforeLock) => {
                self.enter(State::Proven { plan, step: Waiting::GateClosed });
                self.wait_for_gates(None, now)
            }
            (State::Locked { plan, boot_id, step: LockedStep::GatesAgain }, GateStage::BeforeFlip) if open => {
                self.acknowledge(plan, boot_id)
            }
            (State::Locked { plan, step: LockedStep::GatesAgain, .. }, GateStage::BeforeFlip) => self.step_back(plan, now),
            (State::Armed { plan, old_slot, boot_id, step: ArmedStep::Gates }, GateStage::BeforeReboot) if open => {
                self.lock_again_or_reboot(plan, old_slot, boot_id)
            }
            (State::Armed { plan, old_slot, boot_id, step: ArmedStep::Gates }, GateStage::BeforeReboot) => {
                self.enter(State::Armed { plan, old_slot, boot_id, step: ArmedStep::GateClosed });
                self.wait_for_gates(None, now)
            }
            _ => Vec::new(),
        }
    }

    fn remember_closed(&mut self, closed: Vec<Gate>, now: &Now) {
        let before = std::mem::take(&mut self.soft.closed);
        let since = |gate: &Gate| before.iter().find(|(old, _)| old.gate == gate.gate).map_or(now.wall, |(_, since)| *since);
        self.soft.closed = closed.into_iter().map(|gate| (gate.clone(), since(&gate))).collect();
    }

    fn wait_for_gates(&mut self, retry_after_s: Option<u64>, now: &Now) -> Vec<Effect> {
        let delay_ms = self.policy.gate_retry_ms(retry_after_s, now);
        self.set_alarm(delay_ms, now);
        Vec::new()
    }

    /// Gates are open before the lock: ask for it, or go straight on where none is configured or a person forced it.
    fn ask_lock_or_arm(&mut self, mut plan: Plan, now: &Now) -> Vec<Effect> {
        let Some(lock) = self.policy.lock.clone().filter(|_| !plan.forced) else {
            let boot_id = self.facts.boot_id.clone();
            return self.start_drain(plan, boot_id);
        };
        if self.soft.releases_waiting > 0 && plan.claim.is_none() {
            let message = "the lock of an earlier attempt is not given back yet: its server does not answer".to_owned();
            return self.lock_refused(plan, LockRefusal { kind: "lock".to_owned(), message, ..LockRefusal::default() }, now);
        }
        // The claim is durable before the lock is asked for: a grant whose answer is lost can always be given back.
        if plan.claim.is_none() {
            plan.claim = Some(Claim { url: lock.url, group: lock.group, id: lock.id, fence: None, granted: false });
        }
        self.enter(State::Proven { plan: plan.clone(), step: Waiting::Lock });
        vec![row(Row::Update(plan.clone())), Effect::Lock(plan)]
    }

    pub(super) fn on_lock(&mut self, attempt: &str, result: Result<LockGrant, LockRefusal>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        match (self.model.state.clone(), result) {
            (State::Proven { mut plan, step: Waiting::Lock }, Ok(grant)) => {
                grant_to(&mut plan, grant);
                self.soft.lock_refusal = None;
                let boot_id = self.facts.boot_id.clone();
                self.start_drain(plan, boot_id)
            }
            (State::Proven { plan, step: Waiting::Lock }, Err(refusal)) => self.lock_refused(plan, refusal, now),
            (State::Armed { mut plan, old_slot, boot_id, step: ArmedStep::Lock }, Ok(grant)) => {
                grant_to(&mut plan, grant);
                self.soft.lock_refusal = None;
                self.enter(State::Armed { plan: plan.clone(), old_slot, boot_id, step: ArmedStep::Acknowledging });
                vec![row(Row::Update(plan.clone())), Effect::AcknowledgeReboot(plan)]
            }
            (State::Armed { plan, old_slot, boot_id, step: ArmedStep::Lock }, Err(refusal)) => {
                self.enter(State::Armed { plan, old_slot, boot_id, step: ArmedStep::LockRefused });
                self.wait_for_lock(refusal, now)
            }
            _ => Vec::new(),
        }
    }

    fn lock_refused(&mut self, plan: Plan, refusal: LockRefusal, now: &Now) -> Vec<Effect> {
        self.enter(State::Proven { plan, step: Waiting::LockRefused });
        self.wait_for_lock(refusal, now)
    }

    fn wait_for_lock(&mut self, refusal: LockRefusal, now: &Now) -> Vec<Effect> {
        let retry_after_s = refusal.retry_after_s;
        let since = self.soft.lock_refusal.as_ref().map_or(now.wall, |(_, since)| *since);
        self.soft.lock_refusal = Some((refusal, since));
        self.wait_for_gates(retry_after_s, now)
    }

    /// `manual` without a lock drains nothing: nobody knows when the reboot will come.
    fn start_drain(&mut self, mut plan: Plan, boot_id: String) -> Vec<Effect> {
        if self.rests_when_armed(&plan) {
            self.enter(State::Locked { plan: plan.clone(), boot_id, step: LockedStep::Arming });
            return vec![Effect::Arm(plan)];
        }
        plan.drained = true;
        self.enter(State::Locked { plan: plan.clone(), boot_id, step: LockedStep::Draining });
        vec![row(Row::Update(plan.clone())), Effect::Drain(plan)]
    }

    fn rests_when_armed(&self, plan: &Plan) -> bool {
        self.policy.strategy == Strategy::Manual && self.policy.lock.is_none() && !plan.reboot_asked
    }

    pub(super) fn on_drained(&mut self, attempt: &str, result: Result<(), Fault>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        let State::Locked { plan, boot_id, step: LockedStep::Draining } = self.model.state.clone() else { return Vec::new() };
        match result {
            Ok(()) => {
                self.enter(State::Locked { plan: plan.clone(), boot_id, step: LockedStep::GatesAgain });
                vec![Effect::Gates { plan, stage: GateStage::BeforeFlip }]
            }
            Err(fault) => {
                let gate = Gate { gate: "hook".to_owned(), closed: Some(fault.message), until: None };
                self.remember_closed(vec![gate], now);
                self.step_back(plan, now)
            }
        }
    }

    /// Undrains, gives the lock back and waits, without giving up the proven slot: a gate closed while draining.
    fn step_back(&mut self, mut plan: Plan, now: &Now) -> Vec<Effect> {
        let mut effects = vec![Effect::Undrain(plan.clone())];
        if let Some(claim) = plan.claim.take() {
            self.soft.releases_waiting += 1;
            effects.push(row(Row::Release {
                attempt: plan.attempt.clone(),
                claim,
                outcome: crate::engine::effect::LockOutcome::Aborted,
            }));
        }
        plan.drained = false;
        effects.push(row(Row::Update(plan.clone())));
        let closed = std::mem::take(&mut self.soft.closed);
        self.enter(State::Proven { plan, step: Waiting::GateClosed });
        self.soft.closed = closed;
        effects.extend(self.wait_for_gates(None, now));
        effects
    }

    fn acknowledge(&mut self, plan: Plan, boot_id: String) -> Vec<Effect> {
        if plan.claim.is_none() {
            self.enter(State::Locked { plan: plan.clone(), boot_id, step: LockedStep::Arming });
            return vec![Effect::Arm(plan)];
        }
        self.enter(State::Locked { plan: plan.clone(), boot_id, step: LockedStep::Acknowledging });
        vec![Effect::AcknowledgeReboot(plan)]
    }

    pub(super) fn on_reboot_acknowledged(&mut self, attempt: &str, result: Result<(), Fault>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        match (self.model.state.clone(), result) {
            (State::Locked { plan, boot_id, step: LockedStep::Acknowledging }, Ok(())) => {
                self.enter(State::Locked { plan: plan.clone(), boot_id, step: LockedStep::Arming });
                vec![Effect::Arm(plan)]
            }
            (State::Locked { plan, step: LockedStep::Acknowledging, .. }, Err(fault)) => {
                let gate = Gate { gate: "lock".to_owned(), closed: Some(fault.message), until: None };
                self.remember_closed(vec![gate], now);
                self.step_back(plan, now)
            }
            (State::Armed { plan, old_slot, boot_id, step: ArmedStep::Acknowledging }, Ok(())) => {
                self.reboot(plan, old_slot, boot_id)
            }
            (State::Armed { plan, old_slot, boot_id, step: ArmedStep::Acknowledging }, Err(fault)) => {
                self.enter(State::Armed { plan, old_slot, boot_id, step: ArmedStep::LockRefused });
                self.wait_for_lock(LockRefusal { kind: "lock".to_owned(), message: fault.message, ..LockRefusal::default() }, now)
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn on_armed(&mut self, attempt: &str, result: Result<BootTable, Fault>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        let State::Locked { plan, boot_id, step: LockedStep::Arming } = self.model.state.clone() else { return Vec::new() };
        match result {
            Err(fault) => self.give_up(plan, fault, false, now),
            Ok(boot) => {
                self.facts.boot = Some(boot);
                let Some(old_slot) = self.facts.running else { return Vec::new() };
                if self.rests_when_armed(&plan) {
                    self.enter(State::Armed { plan, old_slot, boot_id, step: ArmedStep::Resting });
                    return Vec::new();
                }
                self.reboot(plan, old_slot, boot_id)
            }
        }
    }

    fn lock_again_or_reboot(&mut self, plan: Plan, old_slot: manifests::release::SlotName, boot_id: String) -> Vec<Effect> {
        if plan.claim.is_none() {
            return self.reboot(plan, old_slot, boot_id);
        }
        self.enter(State::Armed { plan: plan.clone(), old_slot, boot_id, step: ArmedStep::Lock });
        vec![Effect::Lock(plan)]
    }

    fn reboot(&mut self, plan: Plan, old_slot: manifests::release::SlotName, boot_id: String) -> Vec<Effect> {
        self.enter(State::Armed { plan: plan.clone(), old_slot, boot_id, step: ArmedStep::Rebooting });
        vec![Effect::Reboot(plan)]
    }

    pub(super) fn on_reboot(&mut self, attempt: &str, result: Result<(), Fault>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        match (self.model.state.clone(), result) {
            (State::Armed { step: ArmedStep::Rebooting, .. }, Ok(())) => {
                self.soft.reboot_accepted_at = Some(now.wall);
                self.set_alarm(REBOOT_LATE_MS, now);
                Vec::new()
            }
            (State::Armed { plan, step: ArmedStep::Rebooting, .. }, Err(fault)) => self.give_up(plan, fault, false, now),
            (State::Trial { .. }, Err(fault)) => {
                self.remember_error(&fault, About::Attempt, now);
                self.set_alarm(self.policy.gate_retry_ms(None, now), now);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A reboot that was accepted and does not come keeps slot and lock: a shutdown may be under way. It is said aloud.
    fn reboot_is_late(&mut self, now: &Now) {
        let message = "the reboot was accepted but has not happened: something holds the shutdown up (systemd: `systemctl list-jobs`); `updatectl cancel` disarms the slot and gives the lock back";
        self.remember_error(&Fault::new("reboot-late", message), About::Attempt, now);
    }

    /// Gives an attempt up after the lock: disarm, undrain, release, in this order. A failed disarm keeps the lock.
    pub(super) fn give_up(&mut self, mut plan: Plan, fault: Fault, abandoned: bool, now: &Now) -> Vec<Effect> {
        self.remember_error(&fault, About::Attempt, now);
        let slot = plan.slot;
        plan.giving_up = Some(GivingUp { code: fault.code, message: fault.message, abandoned });
        match self.model.state.clone() {
            State::Armed { old_slot, boot_id, .. } => {
                self.enter(State::Armed { plan, old_slot, boot_id, step: ArmedStep::GivingUp })
            }
            State::Locked { boot_id, .. } => self.enter(State::Locked { plan, boot_id, step: LockedStep::GivingUp }),
            _ => return Vec::new(),
        }
        vec![Effect::Disarm(slot)]
    }

    pub(super) fn on_disarmed(&mut self, result: Result<BootTable, Fault>, now: &Now) -> Vec<Effect> {
        match (self.model.state.clone(), result) {
            (_, Err(fault)) => {
                let message = format!(
                    "the slot could not be disarmed ({}): it stays as it is and the lock is kept; tried again soon",
                    fault.message
                );
                self.remember_error(&Fault::new("disarm", message), About::Attempt, now);
                self.set_alarm(self.policy.gate_retry_ms(None, now), now);
                Vec::new()
            }
            (
                State::Locked { plan, step: LockedStep::GivingUp, .. } | State::Armed { plan, step: ArmedStep::GivingUp, .. },
                Ok(boot),
            ) => {
                self.facts.boot = Some(boot);
                if plan.drained { vec![Effect::Undrain(plan)] } else { self.given_up(&plan, now) }
            }
            (State::RolledBack { .. }, Ok(boot)) => {
                self.facts.boot = Some(boot);
                self.enter(State::Idle);
                Vec::new()
            }
            (_, Ok(boot)) => {
                self.facts.boot = Some(boot);
                Vec::new()
            }
        }
    }

    pub(super) fn on_undrained(&mut self, attempt: &str, now: &Now) -> Vec<Effect> {
        match self.model.state.clone() {
            State::Locked { plan, step: LockedStep::GivingUp, .. } | State::Armed { plan, step: ArmedStep::GivingUp, .. }
                if plan.attempt == attempt =>
            {
                self.given_up(&plan, now)
            }
            _ => Vec::new(),
        }
    }

    fn given_up(&mut self, plan: &Plan, now: &Now) -> Vec<Effect> {
        let Some(why) = plan.giving_up.clone() else { return Vec::new() };
        let fault = Fault { code: why.code, message: why.message };
        if !why.abandoned {
            return self.fail(plan, &fault, now);
        }
        let rows = self.end_attempt(plan, Outcome::Abandoned, &fault);
        self.model.last_error = None;
        self.enter(State::Idle);
        rows
    }
}

/// After this long an accepted reboot that has not come is said aloud.
const REBOOT_LATE_MS: u64 = 5 * 60_000;

fn grant_to(plan: &mut Plan, grant: LockGrant) {
    if let Some(claim) = plan.claim.as_mut() {
        claim.granted = true;
        claim.fence = grant.fence;
    }
}
