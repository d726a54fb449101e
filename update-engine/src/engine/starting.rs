//! After a start: what the world says is believed, what the journal says is explained by it.

use manifests::digest::Sha256Digest;
use manifests::release::SlotName;
use manifests::version::{Sequence, Version};

use crate::engine::Engine;
use crate::engine::effect::{Effect, Outcome, Row, Scan};
use crate::engine::event::{Fault, Orphan};
use crate::engine::facts::{Facts, Marks};
use crate::engine::model::About;
use crate::engine::row;
use crate::engine::state::{ArmedStep, Kind, LockedStep, Plan, State, Target};
use crate::engine::time::Now;

impl Engine {
    pub(super) fn on_started(&mut self, facts: Facts, orphans: Vec<Orphan>, now: &Now) -> Vec<Effect> {
        self.facts = facts;
        let mut effects = self.end_orphans(orphans, now);
        effects.extend(self.settle(now));
        effects
    }

    /// Takes up what the journal says was under way, as far as the world bears it out.
    fn settle(&mut self, now: &Now) -> Vec<Effect> {
        self.schedule_after_start(now);
        self.end_pause_if_over(now);
        let Some(running) = self.facts.running.filter(|_| self.facts.boot.is_some()) else {
            // Nothing may be written or marked; the daemon looks again before each check.
            self.set_alarm_if_none(now);
            return Vec::new();
        };
        match self.model.state.clone() {
            State::Idle => self.settle_idle(running, now),
            State::Checking { request } => {
                self.enter(State::Idle);
                let mut effects = self.settle_idle(running, now);
                if matches!(self.model.state, State::Idle) && request.origin != crate::engine::state::Origin::Timer {
                    effects.extend(self.start_check(request, now));
                }
                effects
            }
            State::Failed { .. } => {
                if self.model.alarm.as_ref().is_none_or(|alarm| alarm.boot_id != self.facts.boot_id) {
                    self.enter(State::Idle);
                }
                self.settle_idle(running, now)
            }
            State::Deferred { .. } => self.leave_deferred(now),
            State::Fetching { plan, .. } | State::Written { plan, .. } | State::Proven { plan, .. } if plan.slot == running => {
                self.wrong_slot_runs(&plan, now)
            }
            State::Fetching { plan, .. } => vec![Effect::Install { plan, scan: Scan::All }],
            State::Written { plan, rewrites } => self.prove_again(plan, rewrites),
            State::Proven { plan, .. } => self.prove_again(plan, 0),
            State::Locked { plan, boot_id, step } => self.restart_locked(plan, boot_id, step, running, now),
            State::Armed { plan, old_slot, boot_id, step } => self.restart_armed(plan, old_slot, boot_id, step, running, now),
            State::Trial { plan, verdict } if plan.slot != running => {
                let why = verdict.unwrap_or_else(|| "the loader spent its tries: the slot stopped booting".to_owned());
                self.roll_back(&plan, &why, now)
            }
            State::Committed { plan } if plan.slot != running => {
                self.roll_back(&plan, "power was lost before the slot was marked good, and the loader went back", now)
            }
            State::Trial { .. } | State::Committed { .. } | State::RolledBack { .. } => self.resume_trial(now),
        }
    }

    /// Attempts of a journal that was set aside end here, each once: on trial in its slot it is judged, otherwise it is over.
    fn end_orphans(&mut self, orphans: Vec<Orphan>, now: &Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        for orphan in orphans {
            let marks = self.facts.marks(orphan.slot).unwrap_or_default();
            let runs = self.facts.running == Some(orphan.slot);
            let plan = orphan_plan(orphan);
            if runs && (marks.pending() || marks.spent) && matches!(self.model.state, State::Idle) {
                self.enter(State::Trial { plan, verdict: None });
            } else if !runs && marks.spent {
                let fault = Fault::new("rolled-back", "the new slot did not come up: the loader spent its tries and went back");
                effects.push(self.refuse(&plan, &fault.message, now));
                self.remember_error(&fault, About::Attempt, now);
                effects.extend(self.end_attempt(&plan, Outcome::RolledBack, &fault));
            } else {
                let fault = Fault::new("journal-lost", "the journal that knew this attempt was set aside");
                effects.extend(self.end_attempt(&plan, Outcome::Abandoned, &fault));
            }
        }
        effects
    }

    /// Timers of this boot go on; in another boot the first check comes soon, spread over the fleet.
    fn schedule_after_start(&mut self, now: &Now) {
        let same_boot = self.model.check.next.as_ref().is_some_and(|alarm| alarm.boot_id == self.facts.boot_id);
        if !same_boot {
            let delay_ms = self.policy.first_check_ms(now);
            self.model.check.next = Some(self.alarm(delay_ms, now));
        }
    }

    fn set_alarm_if_none(&mut self, now: &Now) {
        if self.model.alarm.is_none() {
            let delay_ms = self.policy.gate_retry_ms(None, now);
            self.set_alarm(delay_ms, now);
        }
    }

    /// No attempt is known. A running slot on trial is judged all the same; an armed slot nobody can vouch for is disarmed (P3).
    pub(super) fn settle_idle(&mut self, running: SlotName, now: &Now) -> Vec<Effect> {
        let marks = |slot| self.facts.marks(slot).unwrap_or_default();
        if marks(running).pending() || marks(running).spent {
            let plan = self.found_plan(running, now);
            let mut effects = vec![row(Row::Open(plan.clone()))];
            effects.extend(self.start_trial(plan));
            return effects;
        }
        let other = running.other();
        if marks(other).pending() {
            let message = format!(
                "slot {other} was armed and nothing here knows by whom: it was disarmed, the host stays on slot {running}"
            );
            self.remember_error(&Fault::new("unknown-armed", message), About::Offer, now);
            return vec![Effect::Disarm(other)];
        }
        Vec::new()
    }

    fn found_plan(&self, slot: SlotName, now: &Now) -> Plan {
        let content = self.facts.slots.get(slot).clone();
        let label = content.version.as_deref().and_then(|text| Version::parse(text).ok());
        let other = self.facts.slots.get(slot.other()).version.clone();
        orphan_plan(Orphan {
            attempt: now.attempt_id(),
            slot,
            from_version: other.unwrap_or_else(|| "unknown".to_owned()),
            version: label.unwrap_or_else(Version::unknown),
            sequence: content.sequence.unwrap_or(Sequence::ZERO),
            digest: content.digest.unwrap_or(Sha256Digest::from_bytes([0; 32])),
            started_at: now.wall,
            claim: None,
        })
    }

    fn wrong_slot_runs(&mut self, plan: &Plan, now: &Now) -> Vec<Effect> {
        let message = format!("slot {} runs although it was being written: somebody booted it by hand", plan.slot);
        self.fail(plan, &Fault::new("running-slot", message), now)
    }

    /// A read-back counts only in the run of the daemon that made it. A slot that is armed without having been is disarmed first.
    fn prove_again(&mut self, plan: Plan, rewrites: u32) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.facts.marks(plan.slot).is_some_and(Marks::pending) {
            effects.push(Effect::Disarm(plan.slot));
        }
        self.enter(State::Written { plan: plan.clone(), rewrites });
        effects.push(Effect::ReadBack(plan));
        effects
    }

    /// The journal stands between the grant and the flip: the boot table knows whether the flip happened.
    fn restart_locked(&mut self, plan: Plan, boot_id: String, step: LockedStep, running: SlotName, now: &Now) -> Vec<Effect> {
        if plan.slot == running {
            return self.start_trial(plan);
        }
        let marks = self.facts.marks(plan.slot).unwrap_or_default();
        if step == LockedStep::GivingUp {
            return vec![Effect::Disarm(plan.slot)];
        }
        if marks.pending() || marks.spent {
            return self.restart_armed(plan, running, boot_id, ArmedStep::Rebooting, running, now);
        }
        self.prove_again(plan, 0)
    }

    fn restart_armed(
        &mut self,
        plan: Plan,
        old_slot: SlotName,
        boot_id: String,
        step: ArmedStep,
        running: SlotName,
        now: &Now,
    ) -> Vec<Effect> {
        if plan.slot == running {
            return self.start_trial(plan);
        }
        if step == ArmedStep::GivingUp {
            self.enter(State::Armed { plan: plan.clone(), old_slot, boot_id, step });
            return vec![Effect::Disarm(plan.slot)];
        }
        let marks = self.facts.marks(plan.slot).unwrap_or_default();
        if boot_id == self.facts.boot_id {
            return self.armed_in_this_boot(plan, old_slot, boot_id, step, marks, now);
        }
        let full = self.facts.boot.as_ref().is_some_and(|boot| marks.tries_left >= boot.tries);
        if marks.pending() && full {
            let message =
                format!("the host was rebooted, but its loader did not try slot {}: it does not read this boot table", plan.slot);
            self.enter(State::Armed { plan: plan.clone(), old_slot, boot_id, step });
            return self.give_up(plan, Fault::new("not-attempted", message), false, now);
        }
        self.roll_back(&plan, "the new slot did not come up: the loader spent its tries and went back", now)
    }

    /// Only the daemon was started again. What could have happened meanwhile is asked again: gates and lock before the reboot.
    fn armed_in_this_boot(
        &mut self,
        plan: Plan,
        old_slot: SlotName,
        boot_id: String,
        step: ArmedStep,
        marks: Marks,
        now: &Now,
    ) -> Vec<Effect> {
        if !marks.pending() {
            // Somebody disarmed it by hand, or the write was lost: the slot is proven and armed once more.
            return self.prove_again(plan, 0);
        }
        let step = if step == ArmedStep::Resting { ArmedStep::Resting } else { ArmedStep::Gates };
        self.enter(State::Armed { plan, old_slot, boot_id, step });
        if step == ArmedStep::Gates { self.look_at_gates_again(now) } else { Vec::new() }
    }
}

/// The plan of an attempt of which only the rows that never change form are left.
fn orphan_plan(orphan: Orphan) -> Plan {
    let target = Target { slot: orphan.slot, version: orphan.version, sequence: orphan.sequence, digest: orphan.digest };
    Plan {
        claim: orphan.claim,
        ..Plan::without_payload(orphan.attempt, Kind::Found, target, orphan.from_version, orphan.started_at)
    }
}
