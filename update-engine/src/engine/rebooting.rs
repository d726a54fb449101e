//! From a proven slot to the reboot: gates, lock, drain, gates once more, acknowledgement, arm, reboot.

use manifests::release::SlotName;

use crate::engine::cause::Cause;
use crate::engine::effect::{Effect, GateStage, LockOutcome, Row};
use crate::engine::event::{Fault, Gate, LockGrant, LockRefusal, RebootAccepted};
use crate::engine::facts::BootTable;
use crate::engine::model::About;
use crate::engine::policy::{PROOF_MAX_AGE_MS, Strategy};
use crate::engine::state::{ArmedStep, Claim, Kind, LockedStep, Plan, State, Waiting, WayBack};
use crate::engine::time::{BootId, Now};
use crate::engine::unseen::Leaving;
use crate::engine::{Engine, row};

/// After this long an accepted reboot that has not come is said aloud.
pub(super) const REBOOT_LATE_MS: u64 = 5 * 60_000;

/// What a drain waits for: hooks that drain and hooks that undrain must not run beside each other.
const STILL_UNDRAINING: &str = "undrain hooks are still running";

/// What is left to do about a reboot that cannot be taken back.
const BY_FORCE: &str = "a person may have to reboot it, by force if need be (systemd: `systemctl reboot --force`)";

/// Why a release is refused that a person went back from.
pub const LEFT_BY_A_PERSON: &str = "a person rolled it back";

impl Engine {
    /// Looks at the gates, from whatever step waits for them; takes up the way back where it was interrupted.
    pub(super) fn look_at_gates_again(&mut self, now: &Now) -> Vec<Effect> {
        if self.ready().is_none() {
            return Vec::new();
        }
        match self.model.state.clone() {
            State::Proven { plan, step: Waiting::Gates | Waiting::GateClosed | Waiting::LockRefused } => {
                self.gates_before_lock(plan)
            }
            State::Locked { plan, step: LockedStep::GivingUp, .. } | State::Armed { plan, step: ArmedStep::GivingUp, .. } => {
                self.go_on_giving_up(plan, now)
            }
            State::Armed { plan, old_slot, boot_id, step: ArmedStep::Gates | ArmedStep::GateClosed | ArmedStep::LockRefused } => {
                let effect = Effect::Gates { plan: plan.clone(), stage: GateStage::BeforeReboot };
                self.enter(State::Armed { plan, old_slot, boot_id, step: ArmedStep::Gates });
                vec![effect]
            }
            State::Armed { plan, step: ArmedStep::Rebooting, .. } => self.reboot_is_late(plan, now),
            _ => Vec::new(),
        }
    }

    fn gates_before_lock(&mut self, plan: Plan) -> Vec<Effect> {
        self.enter(State::Proven { plan: plan.clone(), step: Waiting::Gates });
        vec![Effect::Gates { plan, stage: GateStage::BeforeLock }]
    }

    fn proof_is_fresh(&self, now: &Now) -> bool {
        self.soft.proven_at.is_some_and(|at| at.until(now.mono) <= PROOF_MAX_AGE_MS)
    }

    pub(super) fn on_gates(&mut self, attempt: &str, stage: GateStage, gates: Vec<Gate>, now: &Now) -> Vec<Effect> {
        let Some(plan) = self.model.state.plan().filter(|plan| plan.attempt == attempt).cloned() else { return Vec::new() };
        let gates = self.gates_that_count(gates, &plan);
        match (self.model.state.clone(), stage) {
            // An answer to a look that was asked for again (a person said `reboot` meanwhile) counts as well.
            (State::Proven { plan, step: Waiting::Gates | Waiting::GateClosed }, GateStage::BeforeLock) => {
                if self.all_open(gates, now) { self.ask_lock_or_arm(plan, now) } else { self.wait_for_gates(plan, now) }
            }
            (State::Locked { plan, boot_id, step: LockedStep::GatesAgain }, GateStage::BeforeFlip) => {
                if self.all_open(gates, now) { self.acknowledge(plan, boot_id, now) } else { self.step_back(plan, now) }
            }
            (State::Armed { plan, old_slot, boot_id, step: ArmedStep::Gates }, GateStage::BeforeReboot) => {
                if self.soft.undraining {
                    self.note_closed("hook", STILL_UNDRAINING.to_owned(), now);
                    self.wait_armed(plan, old_slot, boot_id, now)
                } else if self.all_open(gates, now) {
                    self.drain_before_reboot(plan, old_slot, boot_id)
                } else {
                    self.wait_armed(plan, old_slot, boot_id, now)
                }
            }
            _ => Vec::new(),
        }
    }

    /// A person's `reboot` skips windows, `--force` also inhibitors, users and a pause; hooks are never skipped.
    fn gates_that_count(&self, mut gates: Vec<Gate>, plan: &Plan) -> Vec<Gate> {
        if let Some(pause) = &self.model.pause
            && !gates.iter().any(|gate| gate.gate == "pause" && gate.closed.is_some())
        {
            gates.retain(|gate| gate.gate != "pause");
            gates.push(pause.gate());
        }
        for gate in &mut gates {
            let skipped = match gate.gate.as_str() {
                "window" => plan.reboot_asked || plan.forced,
                "inhibitor" | "users" | "pause" => plan.forced,
                _ => false,
            };
            if skipped {
                gate.closed = None;
            }
        }
        gates
    }

    /// Keeps what the gates said for `status`; `true` when none is closed.
    fn all_open(&mut self, gates: Vec<Gate>, now: &Now) -> bool {
        let closed: Vec<Gate> = gates.iter().filter(|gate| gate.closed.is_some()).cloned().collect();
        let open = closed.is_empty();
        self.soft.looked = gates;
        self.remember_closed(closed, now);
        open
    }

    fn remember_closed(&mut self, closed: Vec<Gate>, now: &Now) {
        let before = std::mem::take(&mut self.soft.closed);
        let since = |gate: &Gate| before.iter().find(|(old, _)| old.gate == gate.gate).map_or(now.wall, |(_, since)| *since);
        self.soft.closed = closed.into_iter().map(|gate| (gate.clone(), since(&gate))).collect();
    }

    /// A gate is closed: waits without the lock and undrained.
    fn wait_for_gates(&mut self, plan: Plan, now: &Now) -> Vec<Effect> {
        self.soft.lock_refusal = None;
        if plan.claim.is_some() || plan.drained {
            return self.step_back(plan, now);
        }
        self.enter(State::Proven { plan, step: Waiting::GateClosed });
        self.set_alarm(self.policy.gate_retry_ms(None, now), now);
        Vec::new()
    }

    /// Where any reboot activates the slot it stays armed, otherwise it must not stay so while the reboot has to wait.
    fn wait_armed(&mut self, plan: Plan, old_slot: SlotName, boot_id: BootId, now: &Now) -> Vec<Effect> {
        if !self.arms_without_reboot() || plan.claim.is_some() || plan.drained {
            return self.step_back(plan, now);
        }
        self.enter(State::Armed { plan, old_slot, boot_id, step: ArmedStep::GateClosed });
        self.set_alarm(self.policy.gate_retry_ms(None, now), now);
        Vec::new()
    }

    /// Undrains, gives the lock back and waits, without giving up the proven slot.
    fn step_back(&mut self, plan: Plan, now: &Now) -> Vec<Effect> {
        let reason = self.soft.closed.first().and_then(|(gate, _)| gate.closed.clone());
        let fault = Fault::new(Cause::StepBack, reason.unwrap_or_else(|| "the reboot lock was refused".to_owned()));
        self.give_up(plan, fault, WayBack::Waits, now)
    }

    fn step_back_because(&mut self, gate: &str, why: String, plan: Plan, now: &Now) -> Vec<Effect> {
        self.note_closed(gate, why, now);
        self.step_back(plan, now)
    }

    fn note_closed(&mut self, gate: &str, why: String, now: &Now) {
        let gate = Gate { gate: gate.to_owned(), closed: Some(why), until: None };
        self.soft.looked.retain(|known| known.gate != gate.gate);
        self.soft.looked.push(gate.clone());
        self.remember_closed(vec![gate], now);
    }

    /// Gates are open before the lock: ask for it, or go straight on where none is configured or a person forced it.
    fn ask_lock_or_arm(&mut self, mut plan: Plan, now: &Now) -> Vec<Effect> {
        if !self.proof_is_fresh(now) {
            self.enter(State::Written { plan, rewrites: 0 });
            return self.resume_written();
        }
        if self.soft.undraining {
            return self.step_back_because("hook", STILL_UNDRAINING.to_owned(), plan, now);
        }
        let mut effects = self.give_back_useless_claim(&mut plan);
        let Some(lock) = self.policy.lock.clone().filter(|_| !plan.forced) else {
            let boot_id = self.facts.boot_id.clone();
            effects.extend(self.start_drain(plan, boot_id, now));
            return effects;
        };
        if self.soft.releases_waiting > 0 && plan.claim.is_none() {
            effects.extend(self.lock_refused(plan, self.earlier_release_waits(), now));
            return effects;
        }
        // The claim is durable before the lock is asked for: a grant whose answer is lost can always be given back.
        if plan.claim.is_none() {
            plan.claim = Some(Claim { url: lock.url, group: lock.group, id: lock.id, fence: None, granted: false });
        }
        self.enter(State::Proven { plan: plan.clone(), step: Waiting::Lock });
        effects.extend([row(Row::Update(plan.clone())), Effect::Lock(plan)]);
        effects
    }

    /// A lock that was asked for under other settings does not protect this reboot; one that a forced reboot does not wait for
    /// may have been granted all the same.
    fn give_back_useless_claim(&mut self, plan: &mut Plan) -> Vec<Effect> {
        let Some(claim) = plan.claim.take() else { return Vec::new() };
        let fits = self
            .policy
            .lock
            .as_ref()
            .is_some_and(|lock| lock.url == claim.url && lock.group == claim.group && lock.id == claim.id);
        if fits && (claim.granted || !plan.forced) {
            plan.claim = Some(claim);
            return Vec::new();
        }
        vec![self.release(&plan.attempt, claim, LockOutcome::Aborted), row(Row::Update(plan.clone()))]
    }

    pub(super) fn on_lock(&mut self, attempt: &str, result: Result<LockGrant, LockRefusal>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        if result.is_ok() {
            self.soft.lock_refusal = None;
        }
        match (self.model.state.clone(), result) {
            (State::Proven { plan, step: Waiting::Lock } | State::Armed { plan, step: ArmedStep::Lock, .. }, result)
                if plan.giving_up.is_some() =>
            {
                self.give_up_as_decided(with_grant(plan, result.ok()), now)
            }
            (State::Proven { plan, step: Waiting::Lock }, Ok(grant)) => {
                let boot_id = self.facts.boot_id.clone();
                self.start_drain(with_grant(plan, Some(grant)), boot_id, now)
            }
            (State::Proven { plan, step: Waiting::Lock }, Err(_)) if plan.forced => {
                let mut plan = without_grant(plan);
                let boot_id = self.facts.boot_id.clone();
                let mut effects = self.give_back_useless_claim(&mut plan);
                effects.extend(self.start_drain(plan, boot_id, now));
                effects
            }
            (State::Proven { plan, step: Waiting::Lock }, Err(refusal)) => self.lock_refused(plan, refusal, now),
            (State::Armed { plan, old_slot, boot_id, step: ArmedStep::Lock }, Ok(grant)) => {
                let plan = with_grant(plan, Some(grant));
                self.enter(State::Armed { plan: plan.clone(), old_slot, boot_id, step: ArmedStep::Acknowledging });
                vec![row(Row::Update(plan.clone())), Effect::AcknowledgeReboot(plan)]
            }
            (State::Armed { plan, old_slot, boot_id, step: ArmedStep::Lock }, Err(_)) if plan.forced => {
                self.reboot(plan, old_slot, boot_id)
            }
            (State::Armed { plan, old_slot, boot_id, step: ArmedStep::Lock }, Err(refusal)) => {
                self.lock_lost(plan, old_slot, boot_id, refusal, now)
            }
            _ => Vec::new(),
        }
    }

    /// Armed, and the lock is not confirmed. A server may be out of reach for a moment; a slot must not stay armed without it.
    fn lock_lost(&mut self, plan: Plan, old_slot: SlotName, boot_id: BootId, refusal: LockRefusal, now: &Now) -> Vec<Effect> {
        let asked_before = self.soft.lock_refusal.is_some();
        let plan = without_grant(plan);
        self.remember_refusal(refusal, now);
        if asked_before {
            return self.step_back(plan, now);
        }
        self.enter(State::Armed { plan, old_slot, boot_id, step: ArmedStep::LockRefused });
        self.set_alarm(self.policy.gate_retry_ms(None, now), now);
        Vec::new()
    }

    /// Waits for the lock, undrained.
    fn lock_refused(&mut self, plan: Plan, refusal: LockRefusal, now: &Now) -> Vec<Effect> {
        let retry_after_s = refusal.retry_after_s;
        let plan = without_grant(plan);
        self.remember_refusal(refusal, now);
        if plan.drained {
            return self.step_back(plan, now);
        }
        self.enter(State::Proven { plan, step: Waiting::LockRefused });
        self.set_alarm(self.policy.gate_retry_ms(retry_after_s, now), now);
        Vec::new()
    }

    fn earlier_release_waits(&self) -> LockRefusal {
        let why = match &self.soft.release_trouble {
            Some(why) => {
                format!("{}; it is tried again, and `updatectl reboot --force` reboots without a lock", why.trim_end_matches('.'))
            }
            None => "its server has not answered yet".to_owned(),
        };
        let message = format!("the lock of an earlier attempt is not given back yet: {why}");
        LockRefusal { kind: "lock".to_owned(), message, ..LockRefusal::default() }
    }

    /// Who waits for it is told why.
    pub(super) fn on_release_failed(&mut self, message: String, now: &Now) -> Vec<Effect> {
        self.soft.release_trouble = Some(message);
        let waits_for_it =
            matches!(&self.model.state, State::Proven { plan, step: Waiting::LockRefused } if plan.claim.is_none());
        if waits_for_it && self.soft.releases_waiting > 0 {
            let refusal = self.earlier_release_waits();
            self.remember_refusal(refusal, now);
        }
        Vec::new()
    }

    fn remember_refusal(&mut self, refusal: LockRefusal, now: &Now) {
        let since = self.soft.lock_refusal.as_ref().map_or(now.wall, |(_, since)| *since);
        self.soft.lock_refusal = Some((refusal, since));
    }

    /// `manual` without a lock drains nothing: nobody knows when the reboot will come.
    fn start_drain(&mut self, mut plan: Plan, boot_id: BootId, now: &Now) -> Vec<Effect> {
        if self.rests_when_armed(&plan) {
            return self.arm(plan, boot_id, now);
        }
        plan.drained = true;
        self.enter(State::Locked { plan: plan.clone(), boot_id, step: LockedStep::Draining });
        vec![row(Row::Update(plan.clone())), Effect::Drain(plan)]
    }

    /// Arming is not yet the decision to reboot: any reboot of the host activates the slot.
    fn arms_without_reboot(&self) -> bool {
        self.policy.strategy == Strategy::Manual && self.policy.lock.is_none()
    }

    /// Armed, and nobody has asked for the reboot.
    pub(super) fn rests_when_armed(&self, plan: &Plan) -> bool {
        self.arms_without_reboot() && !plan.reboot_asked
    }

    pub(super) fn on_drained(&mut self, attempt: &str, result: Result<(), Fault>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        match (self.model.state.clone(), result) {
            (
                State::Locked { plan, step: LockedStep::Draining, .. } | State::Armed { plan, step: ArmedStep::Draining, .. },
                _,
            ) if plan.giving_up.is_some() => self.give_up_as_decided(plan, now),
            (State::Locked { plan, boot_id, step: LockedStep::Draining }, Ok(())) => {
                self.enter(State::Locked { plan: plan.clone(), boot_id, step: LockedStep::GatesAgain });
                vec![Effect::Gates { plan, stage: GateStage::BeforeFlip }]
            }
            (State::Armed { plan, old_slot, boot_id, step: ArmedStep::Draining }, Ok(())) => {
                self.lock_again_or_reboot(plan, old_slot, boot_id)
            }
            (
                State::Locked { plan, step: LockedStep::Draining, .. } | State::Armed { plan, step: ArmedStep::Draining, .. },
                Err(fault),
            ) => {
                let gate = if fault.code == Cause::LockLost { "lock" } else { "hook" };
                self.step_back_because(gate, fault.message, plan, now)
            }
            _ => Vec::new(),
        }
    }

    /// The server has to acknowledge the durable change to `rebooting` before the flip. A forced reboot tells it, too, where it holds the
    /// lock, and goes on whatever is answered.
    fn acknowledge(&mut self, plan: Plan, boot_id: BootId, now: &Now) -> Vec<Effect> {
        if plan.claim.is_none() {
            return self.arm(plan, boot_id, now);
        }
        self.enter(State::Locked { plan: plan.clone(), boot_id, step: LockedStep::Acknowledging });
        vec![Effect::AcknowledgeReboot(plan)]
    }

    pub(super) fn on_reboot_acknowledged(&mut self, attempt: &str, result: Result<(), Fault>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        match (self.model.state.clone(), result) {
            (
                State::Locked { plan, step: LockedStep::Acknowledging, .. }
                | State::Armed { plan, step: ArmedStep::Acknowledging, .. },
                _,
            ) if plan.giving_up.is_some() => self.give_up_as_decided(plan, now),
            (State::Locked { plan, boot_id, step: LockedStep::Acknowledging }, result) if result.is_ok() || plan.forced => {
                self.arm(plan, boot_id, now)
            }
            (State::Armed { plan, old_slot, boot_id, step: ArmedStep::Acknowledging }, result)
                if result.is_ok() || plan.forced =>
            {
                self.reboot(plan, old_slot, boot_id)
            }
            (
                State::Locked { plan, step: LockedStep::Acknowledging, .. }
                | State::Armed { plan, step: ArmedStep::Acknowledging, .. },
                Err(fault),
            ) => self.step_back_because("lock", fault.message, plan, now),
            _ => Vec::new(),
        }
    }

    fn arm(&mut self, plan: Plan, boot_id: BootId, now: &Now) -> Vec<Effect> {
        let mut effects = Vec::from_iter(self.refuse_what_is_left(&plan, now));
        self.enter(State::Locked { plan: plan.clone(), boot_id, step: LockedStep::Arming });
        effects.push(Effect::Arm(plan));
        effects
    }

    /// What a person rolls back from must not come back by itself, even if a daemon without this journal runs next.
    fn refuse_what_is_left(&mut self, plan: &Plan, now: &Now) -> Option<Effect> {
        if plan.kind == Kind::Rollback { self.refuse_content(plan.slot.other(), LEFT_BY_A_PERSON, now) } else { None }
    }

    pub(super) fn on_armed(&mut self, attempt: &str, result: Result<BootTable, Fault>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        let State::Locked { plan, boot_id, step: LockedStep::Arming } = self.model.state.clone() else { return Vec::new() };
        // The proof is used up, whatever came of it.
        self.soft.proven_at = None;
        let boot = match result {
            Err(fault) if plan.giving_up.is_none() => return self.give_up(plan, fault, WayBack::Failed, now),
            Err(_) => return self.give_up_as_decided(plan, now),
            Ok(boot) => boot,
        };
        self.facts.boot = Some(boot);
        let old_slot = plan.slot.other();
        if plan.giving_up.is_some() {
            return self.give_up_as_decided(plan, now);
        }
        if self.rests_when_armed(&plan) {
            self.enter(State::Armed { plan, old_slot, boot_id, step: ArmedStep::Resting });
            return Vec::new();
        }
        self.reboot(plan, old_slot, boot_id)
    }

    /// A slot that was armed without draining is drained before the reboot that a person asked for.
    fn drain_before_reboot(&mut self, mut plan: Plan, old_slot: SlotName, boot_id: BootId) -> Vec<Effect> {
        if plan.drained {
            return self.lock_again_or_reboot(plan, old_slot, boot_id);
        }
        plan.drained = true;
        self.enter(State::Armed { plan: plan.clone(), old_slot, boot_id, step: ArmedStep::Draining });
        vec![Effect::Drain(plan)]
    }

    fn lock_again_or_reboot(&mut self, plan: Plan, old_slot: SlotName, boot_id: BootId) -> Vec<Effect> {
        if plan.claim.is_none() || plan.forced {
            return self.reboot(plan, old_slot, boot_id);
        }
        self.enter(State::Armed { plan: plan.clone(), old_slot, boot_id, step: ArmedStep::Lock });
        vec![Effect::Lock(plan)]
    }

    fn reboot(&mut self, plan: Plan, old_slot: SlotName, boot_id: BootId) -> Vec<Effect> {
        self.enter(State::Armed { plan: plan.clone(), old_slot, boot_id, step: ArmedStep::Rebooting });
        self.model.asked_reboot = Some(plan.attempt.clone());
        vec![Effect::Reboot(plan)]
    }

    pub(super) fn on_reboot(&mut self, attempt: &str, result: Result<RebootAccepted, Fault>, now: &Now) -> Vec<Effect> {
        self.soft.asks_reboot_again = false;
        if !self.is_current(attempt) {
            return Vec::new();
        }
        if self.soft.leaving == Leaving::Asked {
            return self.on_left(result, now);
        }
        match (self.model.state.clone(), result) {
            (State::Armed { step: ArmedStep::Rebooting, .. } | State::Trial { verdict: Some(_), .. }, Ok(accepted)) => {
                self.soft.reboot_accepted_at = Some(now.wall);
                self.soft.reboot_command_runs = accepted == RebootAccepted::StillRuns;
                self.set_alarm(REBOOT_LATE_MS, now);
                Vec::new()
            }
            // A shutdown that is under way refuses another one: what was accepted once is never taken back by itself.
            (State::Armed { step: ArmedStep::Rebooting, .. } | State::Trial { verdict: Some(_), .. }, Err(fault))
                if self.soft.reboot_accepted_at.is_some() =>
            {
                self.soft.reboot_command_runs = false;
                self.say_reboot_is_late(Some(&fault), now);
                self.set_alarm(REBOOT_LATE_MS, now);
                Vec::new()
            }
            (State::Armed { plan, step: ArmedStep::Rebooting, .. }, Err(fault)) => {
                self.give_up(plan, fault, WayBack::Failed, now)
            }
            (State::Trial { verdict: Some(_), .. }, Err(fault)) => {
                self.remember_error(&fault, About::Attempt, now);
                self.set_alarm(self.policy.gate_retry_ms(None, now), now);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A reboot that was accepted and does not come keeps slot and lock: a shutdown may be under way. It is said aloud, and asked for
    /// again: a shutdown that goes on is not disturbed by that, and one that got lost would hold the fleet's lock for ever.
    pub(super) fn reboot_is_late(&mut self, plan: Plan, now: &Now) -> Vec<Effect> {
        self.say_reboot_is_late(None, now);
        self.soft.asks_reboot_again = true;
        vec![Effect::Reboot(plan)]
    }

    pub(super) fn say_reboot_is_late(&mut self, refused: Option<&Fault>, now: &Now) {
        self.soft.reboot_is_late = true;
        let refused = refused.map(|fault| format!(", and was refused when it was asked for again ({})", fault.message));
        let way_out = match self.model.state {
            _ if self.soft.leaving == Leaving::Asked => BY_FORCE,
            State::Trial { .. } => BY_FORCE,
            _ if self.soft.reboot_command_runs => {
                "`updatectl cancel` ends the command, disarms the slot and gives the lock back: end what is left of the shutdown first"
            }
            _ => "`updatectl cancel` disarms the slot and gives the lock back: end what is left of the shutdown first",
        };
        let held_up = if self.soft.reboot_command_runs {
            "the reboot command itself has not ended, and no shutdown need be under way (systemd: `systemctl list-jobs` shows one that is); it is waited for, and not started a second time"
        } else {
            "something holds the shutdown up (systemd: `systemctl list-jobs`); it is asked for again every 5 minutes"
        };
        let message =
            format!("the reboot was accepted but has not happened{}: {held_up}; {way_out}", refused.unwrap_or_default());
        self.remember_error(&Fault::new(Cause::RebootLate, message), About::Attempt, now);
    }
}

/// What was granted once is so no longer when it is refused.
fn without_grant(mut plan: Plan) -> Plan {
    if let Some(claim) = plan.claim.as_mut() {
        claim.granted = false;
        claim.fence = None;
    }
    plan
}

fn with_grant(mut plan: Plan, grant: Option<LockGrant>) -> Plan {
    if let (Some(claim), Some(grant)) = (plan.claim.as_mut(), grant) {
        claim.granted = true;
        claim.fence = grant.fence;
    }
    plan
}
