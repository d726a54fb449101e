//! The way to a steady host when nothing can be journalled any more.
//!
//! The journal comes first, and without it nothing new begins. But a slot on trial that is neither kept nor left, and a lock that
//! a host holds without rebooting, are worse than a step that only the boot table and the lock server remember: both are asked
//! anew at every start, and every effect of the way back is safe to run again. One host stays: where the slot on trial was marked bad
//! before, only the number of its boots tells whether the loader obeys, and that cannot be written down.

use crate::boot::Standing;
use crate::engine::effect::{Effect, LockOutcome, Row};
use crate::engine::event::Fault;
use crate::engine::state::{ArmedStep, GivingUp, LockedStep, Plan, SlotMayBe, State, WayBack};
use crate::engine::time::Now;
use crate::engine::unseen::Leaving;
use crate::engine::{Engine, row};

impl Engine {
    /// Somebody waits for this host: it is on trial, holds the lock or is drained. Who cannot see which slot runs takes nothing back.
    pub fn must_not_stand_still(&self) -> bool {
        if self.ready().is_none() {
            return false;
        }
        match &self.model.state {
            State::Trial { .. } | State::Locked { .. } => true,
            State::Committed { plan } => !self.facts.standing(plan.slot).is_some_and(Standing::is_good),
            State::Armed { step: ArmedStep::Rebooting, .. } => self.soft.reboot_accepted_at.is_none(),
            State::Armed { step, plan, .. } => *step != ArmedStep::Resting || burdens_others(plan),
            State::Fetching { plan, .. } | State::Written { plan, .. } | State::Proven { plan, .. } => burdens_others(plan),
            State::Idle | State::Checking { .. } | State::Deferred { .. } | State::RolledBack { .. } | State::Failed { .. } => {
                false
            }
        }
    }

    /// The way back of whoever must not stand still: it goes on when the journal has failed for long. Everything else waits.
    pub fn cannot_wait(&self, effect: &Effect) -> bool {
        let state = &self.model.state;
        let on_trial = matches!(state, State::Trial { plan, .. } if !self.was_bad_before(plan));
        let burdened = matches!(state, State::Fetching { .. } | State::Locked { .. } | State::Armed { .. });
        match effect {
            Effect::Disarm(_) => true,
            Effect::Undrain(_) | Effect::Stop(_) => burdened,
            Effect::MarkBad(_) => on_trial,
            // A reboot that was accepted and got lost is asked for again, and one that leaves what is not seen was counted: the journal
            // has both steps.
            Effect::Reboot(_) => on_trial || self.soft.leaving == Leaving::Asked || self.soft.reboot_accepted_at.is_some(),
            Effect::Look => true,
            _ => false,
        }
    }

    /// What the engine goes on to count on when it leaves a step that could not be journalled.
    pub const fn still_counts_on(effect: &Effect) -> bool {
        matches!(effect, Effect::Check(_) | Effect::Look | Effect::LookToLeave(_) | Effect::Install { .. } | Effect::Undrain(_))
    }

    /// Back to the old slot from a trial; undrained and without the lock from everything before the reboot.
    pub(super) fn on_stands_still(&mut self, fault: Fault, unstarted: bool, now: &Now) -> Vec<Effect> {
        if !self.must_not_stand_still() {
            return Vec::new();
        }
        if unstarted {
            self.soft.disarming = false;
        }
        match self.model.state.clone() {
            State::Trial { plan, verdict } if unstarted && self.was_bad_before(&plan) => {
                self.stay_uncounted(plan, verdict, &fault, now)
            }
            // It was found healthy: that is not forgotten because it cannot be kept yet.
            State::Committed { plan } if unstarted && self.was_bad_before(&plan) => self.resume_trial(now),
            State::Trial { plan, verdict: None } | State::Committed { plan } if unstarted => {
                self.judge_unhealthy(plan, fault.message, now)
            }
            State::Trial { .. } if unstarted => self.resume_trial(now),
            State::Trial { .. } | State::Committed { .. } => Vec::new(),
            State::Locked { plan, step: LockedStep::GivingUp, .. } | State::Armed { plan, step: ArmedStep::GivingUp, .. } => {
                if unstarted {
                    self.go_on_giving_up(plan, now)
                } else {
                    Vec::new()
                }
            }
            State::Armed { step: ArmedStep::Rebooting, .. } if !unstarted => Vec::new(),
            State::Fetching { plan, .. } => self.unburden(plan),
            state => match state.plan().cloned() {
                Some(plan) => self.step_out(plan, fault, unstarted, now),
                None => Vec::new(),
            },
        }
    }

    /// The slot is written once more, after the lock was granted: that goes on, undrained and without the lock.
    pub(super) fn unburden(&mut self, mut plan: Plan) -> Vec<Effect> {
        if plan.drained {
            return self.undrain(plan);
        }
        let mut effects = Vec::new();
        if let Some(claim) = plan.claim.take() {
            effects.push(self.release(&plan.attempt, claim, LockOutcome::Aborted));
        }
        effects.push(row(Row::Update(plan.clone())));
        if let Some(known) = self.model.state.plan_mut() {
            *known = plan;
        }
        effects
    }

    fn step_out(&mut self, mut plan: Plan, fault: Fault, unstarted: bool, now: &Now) -> Vec<Effect> {
        if unstarted || !self.awaits_answer() {
            return match plan.giving_up {
                Some(_) => self.give_up_as_decided(plan, now),
                None => self.give_up(plan, fault, WayBack::Waits, now),
            };
        }
        let stop = Effect::Stop(plan.attempt.clone());
        plan.giving_up.get_or_insert(GivingUp::over(fault, WayBack::Waits, SlotMayBe::NotArmed));
        if let Some(known) = self.model.state.plan_mut() {
            *known = plan;
        }
        if self.is_draining() { vec![stop] } else { Vec::new() }
    }
}

pub(super) fn burdens_others(plan: &Plan) -> bool {
    plan.drained || plan.claim.as_ref().is_some_and(|claim| claim.granted)
}

#[cfg(test)]
mod tests {
    use manifests::release::SlotName;

    use super::*;
    use crate::engine::Event;
    use crate::engine::cause::Cause;
    use crate::engine::effect::GateStage;
    use crate::engine::event::Proof;
    use crate::engine::facts::Facts;
    use crate::engine::tests::host::{BAD, BLANK, Host, armed, in_new_slot, in_old_slot, list, table};
    use crate::engine::tests::words::EVERY_STATE;

    fn told(unstarted: bool) -> Event {
        Event::StandsStill { fault: Fault::new(Cause::StateDir, "nothing could be written down"), unstarted }
    }

    #[test]
    fn whoever_is_waited_for_goes_back_and_everybody_else_stands_still() {
        for state in EVERY_STATE {
            let mut host = Host::at(state);
            let must_move = host.engine.must_not_stand_still();
            let effects = host.step_raw(told(true));
            if !must_move {
                assert_eq!((effects.as_slice(), host.state()), ([].as_slice(), state));
                continue;
            }
            let way_back = |effect: &Effect| {
                matches!(
                    effect,
                    Effect::MarkBad(_)
                        | Effect::Reboot(_)
                        | Effect::Disarm(_)
                        | Effect::Undrain(_)
                        | Effect::ReadBack(_)
                        | Effect::Row(_)
                )
            };
            assert!(!effects.is_empty() && effects.iter().all(way_back), "{state}: {effects:?}");
            let rebooting = effects.iter().any(|effect| matches!(effect, Effect::Reboot(_)));
            assert!(!rebooting || host.state().starts_with("trial"), "{state} reboots into what cannot be written down");
        }
    }

    #[test]
    fn p10_without_the_journal_a_slot_that_was_marked_bad_and_is_started_all_the_same_is_left_no_more() {
        let mut host = Host::new();
        in_new_slot(&mut host.facts, BAD);
        assert_eq!(host.start(vec![]), list("open found 1.1.0, health"));
        assert_eq!((host.step(told(true)), host.state()), (list(""), "trial"));
        let message = &host.engine.model().last_error.as_ref().unwrap().message;
        let expected = "1.1.0 was marked bad before, and runs: it is not left before its boots can be counted (nothing could be \
                        written down); a person can reboot the host (systemd: `systemctl reboot`)";
        assert_eq!(message, expected);
        // Nor where the journal can be read, and tells of the trial.
        let again = |facts: &mut Facts| {
            in_new_slot(facts, BAD);
            facts.boot_id = "boot-3".into();
        };
        for state in ["armed/rebooting", "trial/verdict"] {
            let mut host = Host::at(state);
            let effects = host.restart(again);
            assert_eq!((effects, host.state()), (list("reboot"), "trial/verdict"), "{state}");
            let reboot = Effect::Reboot(host.plan());
            assert!(!host.engine.cannot_wait(&reboot), "{state}: with the count of the boot, or not at all");
            assert_eq!((host.step(told(true)), host.state()), (list(""), "trial/verdict"), "{state}");
        }
        // It was found healthy, and waits to be kept.
        let mut host = Host::at("committed");
        assert_eq!(host.restart(|facts| in_new_slot(facts, BAD)), list("commit"));
        assert_eq!((host.step(told(true)), host.state()), (list("commit"), "committed"));
        // It was to be left in this very boot, and the journal knows: should it be started again, that is another one.
        let mut host = Host::new();
        in_new_slot(&mut host.facts, armed(2));
        host.start(vec![]);
        host.health(Err("nginx does not answer"));
        assert_eq!(host.restart(|facts| facts.boot = Some(table(BAD))), list("reboot"));
        assert!(host.engine.cannot_wait(&Effect::Reboot(host.plan())));
        assert_eq!(host.restart(again), list("reboot"));
        assert!(!host.engine.cannot_wait(&Effect::Reboot(host.plan())));
        // One that was not marked yet is, and is left.
        let mut host = Host::new();
        in_new_slot(&mut host.facts, armed(2));
        host.start(vec![]);
        assert_eq!(host.step(told(true)), list("mark bad"));
        assert_eq!(host.marked_bad(Ok(())), list("reboot"));
    }

    #[test]
    fn what_was_begun_is_waited_for() {
        for state in EVERY_STATE {
            let mut host = Host::at(state);
            let awaits = host.engine.awaits_answer() || host.state().starts_with("trial");
            let effects = host.step_raw(told(false));
            let only_stops = effects.iter().all(|effect| matches!(effect, Effect::Stop(_)));
            assert!(!awaits || (only_stops && host.state() == state), "{state}: {effects:?}");
            // Its answer comes; a second one beside it would be taken for that of what comes after.
            let under_way = state.ends_with("giving-up") || state == "armed/rebooting";
            assert!(!under_way || effects.is_empty(), "{state}: {effects:?}");
        }
    }

    #[test]
    fn what_was_taken_back_without_the_journal_is_not_taken_for_a_rollback_after_a_reboot() {
        for state in EVERY_STATE {
            let effects = Host::at(state).step_raw(told(true));
            let disarms = |effect: &Effect| matches!(effect, Effect::Disarm(slot) if *slot == SlotName::B);
            let marks_bad = |effect: &Effect| matches!(effect, Effect::MarkBad(_));
            let left = match (effects.iter().any(disarms), effects.iter().any(marks_bad)) {
                (true, _) => BLANK,
                (_, true) => BAD,
                _ => continue,
            };
            // The journal has nothing of the way back.
            let told = Host::at(state).restart(|facts| in_old_slot(facts, left));
            let refused = told.iter().any(|effect| effect.starts_with("refuse"));
            assert_eq!(refused, left == BAD, "{state}: {told:?}");
        }
    }

    /// Rewritten after a restart in the middle of the way to the reboot, and still being undrained.
    fn undraining_beside_the_proof() -> Host {
        let mut host = Host::at("locked/draining");
        host.restart(|_| ());
        assert_eq!(host.differs(), list("install b again, undrain"));
        assert_eq!(host.installed(Ok(())), list("downloaded 7, read back b"));
        host
    }

    #[test]
    fn a_host_is_not_drained_while_it_is_still_being_undrained() {
        let mut host = undraining_beside_the_proof();
        assert_eq!(host.read_back(Ok(Proof::Equal)), list("gates before the lock"));
        assert_eq!((host.gates(GateStage::BeforeLock, vec![]), host.state()), (list(""), "locked/giving-up"));
        let undrained = host.undrained();
        assert_eq!((undrained, host.state()), (list("release aborted, update"), "proven/gate-closed"));
        assert!(!host.plan().drained && host.plan().claim.is_none());
        assert_eq!(host.wake(), list("gates before the lock"));
    }

    #[test]
    fn undrain_hooks_that_end_late_give_the_lock_back_wherever_the_proof_is_by_then() {
        let mut host = undraining_beside_the_proof();
        assert_eq!((host.undrained(), host.state()), (list("release aborted, update"), "written"));
        assert!(!host.plan().drained && host.plan().claim.is_none());
        let mut host = undraining_beside_the_proof();
        host.read_back(Ok(Proof::Equal));
        assert_eq!((host.undrained(), host.state()), (list("release aborted, update"), "proven/gates"));
        assert!(!host.plan().drained && host.plan().claim.is_none());
    }

    #[test]
    fn a_slot_that_is_written_once_more_goes_on_without_the_lock() {
        let mut host = Host::at("locked/draining");
        host.restart(|_| ());
        assert!(host.plan().drained && host.plan().claim.is_some_and(|claim| claim.granted));
        assert_eq!(host.differs(), list("install b again, undrain"));
        assert_eq!(host.step(told(false)), list(""), "that is under way");
        assert_eq!(host.undrained(), list("release aborted, update"));
        assert_eq!((host.state(), host.plan().claim, host.engine.must_not_stand_still()), ("fetching/again", None, false));
    }

    #[test]
    fn a_daemon_that_is_killed_while_it_writes_again_takes_back_drain_and_lock() {
        let mut host = Host::at("locked/draining");
        host.restart(|_| ());
        assert_eq!(host.differs(), list("install b again, undrain"));
        assert_eq!(host.restart(|_| ()), list("install b again, undrain"));
        assert_eq!(host.undrained(), list("release aborted, update"));
        assert_eq!(host.restart(|_| ()), list("install b again"));
    }
}
