//! A host that cannot see which slot runs, or cannot read its boot table.
//!
//! Promises: it looks again every minute, by looks of their own, and goes on where it was as soon as it sees. An image on trial may
//! itself be what makes the host blind: then the host leaves it by a reboot that nobody asked for, because the loader counts the boots
//! of a slot on trial and its tries bring the old one back.
//!
//! Never: reboots unless that is known to help. The host was rebooted since the slot was armed (by the boot's id, or by a try that was
//! spent), the running slot is not known, and the table says that the tried slot is not good and the old one is. Each such boot is
//! counted and journalled before it is left, which may take long; then the world is looked at once more, and only what that look says
//! makes the host reboot. There are no more such boots than the slot has tries. A person's pause holds it.

use manifests::release::SlotName;

use crate::boot::Standing;
use crate::engine::Engine;
use crate::engine::cause::Cause;
use crate::engine::effect::Effect;
use crate::engine::event::{Fault, RebootAccepted};
use crate::engine::facts::Facts;
use crate::engine::model::About;
use crate::engine::rebooting::REBOOT_LATE_MS;
use crate::engine::state::{LockedStep, Plan, State};
use crate::engine::time::{BootId, Mono, Now};

/// What a host that does not see does about what is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// It waits until it sees: nothing of what is under way was booted.
    Waits,
    /// It reboots at that time, unless it sees before, so that the loader goes back.
    Leaves {
        /// When.
        at: Mono,
    },
    /// Its reboot was asked for.
    Leaving,
    /// It was rebooted so often for that, and the old slot did not come.
    GivenUp {
        /// How often.
        boots: u32,
    },
    /// It stays: a reboot would not help, or is not known to.
    Stays(Stays),
}

/// How far a host is in leaving what it cannot see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Leaving {
    /// It is not being left.
    #[default]
    No,
    /// This boot is counted; when that is journalled, the world is looked at once more. What is seen meanwhile calls it off.
    Decided,
    /// The reboot was asked for: until that comes, or is refused, nothing else begins.
    Asked,
}

impl Leaving {
    /// What was only decided is no longer wanted. A reboot that was asked for may be under way.
    pub(super) const fn withdraw(&mut self) {
        if matches!(self, Self::Decided) {
            *self = Self::No;
        }
    }
}

/// Why a reboot would not bring the old slot back, or is not known to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// The boot table cannot be read: it may boot nothing the next time.
    NoTable,
    /// The slot is good, or is being marked good: the loader stays with it.
    Kept,
    /// The id of this boot is not known, or that of the boot in which the slot was armed, and no try was spent.
    NoBootId,
    /// The loader has not tried the slot, or does not start it any more: the old one runs.
    NotTried,
    /// The old slot is not good.
    NoWayBack,
    /// A person paused the host.
    Paused,
}

impl Engine {
    /// What becomes of what is under way while the host does not see; `None` = it sees, or nothing is under way. Whoever does not see
    /// and can read the boot table does not know what runs.
    pub fn unseen(&self) -> Option<Unseen> {
        if self.soft.leaving == Leaving::Asked {
            return Some(Unseen::Leaving);
        }
        let under_way = self.facts.is_blind() && !matches!(self.model.state, State::Failed { .. });
        let plan = self.model.state.plan().filter(|_| under_way)?;
        Some(match self.was_booted(plan) {
            None => Unseen::Waits,
            Some(Err(why)) => Unseen::Stays(why),
            Some(Ok(())) if self.boots_of(plan) > self.most_boots() => Unseen::GivenUp { boots: self.boots_of(plan) - 1 },
            Some(Ok(())) if self.model.pause.is_some() => Unseen::Stays(Stays::Paused),
            Some(Ok(())) if self.soft.leaving == Leaving::Decided => Unseen::Leaving,
            Some(Ok(())) => Unseen::Leaves { at: self.soft.leaves_at.unwrap_or(Mono(0)) },
        })
    }

    /// Where nothing is known of an attempt: the slot that, by the boot table, is on trial or was given up, while the other one is good.
    /// It is not known whether it runs, so the host is not left for it.
    pub fn tried_unseen(&self) -> Option<SlotName> {
        if self.facts.running.is_some() || self.model.state.plan().is_some() {
            return None;
        }
        let is_tried = |slot: &SlotName| {
            let standing = |slot| self.facts.standing(slot);
            standing(*slot).is_some_and(|tried| self.facts.was_tried(tried))
                && standing(slot.other()).is_some_and(Standing::is_good)
        };
        [SlotName::A, SlotName::B].into_iter().find(is_tried)
    }

    /// The host may have booted the plan's slot, and a reboot brings the old one back, or why not; `None` = it was not rebooted.
    fn was_booted(&self, plan: &Plan) -> Option<Result<(), Stays>> {
        let known_as_another = match &self.model.state {
            State::Locked { boot_id, .. } | State::Armed { boot_id, .. } => match boot_id.is_same(&self.facts.boot_id) {
                Some(true) => return None,
                same => same.is_some(),
            },
            State::Trial { .. } | State::Committed { .. } => self.facts.boot_id.is_known(),
            _ => return None,
        };
        let (Some(tried), Some(old)) = (self.facts.standing(plan.slot), self.facts.standing(plan.slot.other())) else {
            return Some(Err(Stays::NoTable));
        };
        // Where a slot was marked bad in this very boot, the reboot that was to follow is still to come.
        let starts_it =
            tried != Standing::Bad || self.counted_boot(plan).is_some_and(|id| id.is_same(&self.facts.boot_id) == Some(true));
        // A try that was spent tells that it was booted, also where the image hides the boot's id.
        let rebooted = known_as_another || self.facts.was_tried(tried);
        let kept = tried.is_good() || matches!(self.model.state, State::Committed { .. });
        // Arming takes away that a slot is good: one that still is was not armed.
        let unarmed = match &self.model.state {
            State::Locked { step: LockedStep::Arming | LockedStep::GivingUp, .. } => tried.is_good(),
            State::Locked { .. } => true,
            _ => false,
        };
        Some(match () {
            () if unarmed => Err(Stays::NotTried),
            () if kept => Err(Stays::Kept),
            () if !rebooted => Err(Stays::NoBootId),
            () if !self.facts.was_tried(tried) || !starts_it => Err(Stays::NotTried),
            () if !old.is_good() => Err(Stays::NoWayBack),
            () => Ok(()),
        })
    }

    /// A slot on trial has so many boots; after the last one the loader goes back.
    fn most_boots(&self) -> u32 {
        self.facts.boot.as_ref().map_or(0, |boot| u32::from(boot.tries))
    }

    fn counted_boot(&self, plan: &Plan) -> Option<&BootId> {
        self.model.bad_boots.as_ref().filter(|known| known.attempt == plan.attempt).map(|known| &known.boot_id)
    }

    /// From now on the world is looked at again, until it is seen.
    pub(super) fn watch(&mut self, now: &Now) {
        let leaves_at = *self.soft.leaves_at.get_or_insert(now.mono.after(self.policy.blind_ms()));
        if !self.soft.looks {
            let soon = now.mono.after(self.policy.look_ms());
            let at = if now.mono < leaves_at { soon.min(leaves_at) } else { soon };
            self.soft.look_at = Some(at);
        }
    }

    pub(super) const fn stop_watching(&mut self) {
        self.soft.look_at = None;
        self.soft.leaves_at = None;
        self.soft.leave_refused = false;
    }

    /// The look is due, and no reboot is awaited.
    pub(super) fn look_if_due(&mut self, now: &Now) -> Option<Effect> {
        self.soft.look_at.take_if(|at| *at <= now.mono)?;
        if self.soft.leaving == Leaving::Asked || !self.facts.is_blind() {
            return None;
        }
        self.soft.looks = true;
        Some(Effect::Look)
    }

    /// A look of its own was made. Only such a look decides that a host that does not see is left.
    pub(super) fn on_looked(&mut self, facts: Facts, now: &Now) -> Vec<Effect> {
        self.soft.looks = false;
        // Who sees knows more than a look that began before.
        if !self.facts.is_blind() {
            return Vec::new();
        }
        let effects = self.on_facts_changed(facts, now);
        if self.soft.leaving == Leaving::Asked || !self.facts.is_blind() {
            return effects;
        }
        self.watch(now);
        match (self.unseen(), self.model.state.plan().cloned()) {
            (Some(Unseen::Leaves { at }), Some(plan)) if at <= now.mono => self.leave_unseen(plan, now),
            _ => effects,
        }
    }

    fn leave_unseen(&mut self, plan: Plan, now: &Now) -> Vec<Effect> {
        self.count_bad_boot(&plan);
        let message = format!("the host was rebooted into {}, and it could not be seen which slot runs", plan.version);
        self.remember_error(&Fault::new(Cause::RunningSlotUnknown, message), About::Attempt, now);
        self.soft.leaving = Leaving::Decided;
        self.soft.leave_refused = false;
        vec![Effect::LookToLeave(plan)]
    }

    /// The boot is counted, and the world was looked at once more. What has changed since that was decided is no reason to leave.
    pub(super) fn on_looked_to_leave(&mut self, facts: Facts, now: &Now) -> Vec<Effect> {
        if self.soft.leaving != Leaving::Decided {
            return Vec::new();
        }
        let effects = self.on_facts_changed(facts, now);
        match (self.unseen(), self.model.state.plan().cloned()) {
            (Some(Unseen::Leaving), Some(plan)) => {
                self.soft.leaving = Leaving::Asked;
                self.soft.look_at = None;
                vec![Effect::Reboot(plan)]
            }
            _ => {
                self.soft.leaving.withdraw();
                effects
            }
        }
    }

    /// A shutdown that was begun is awaited, whatever is seen meanwhile: it is under way, or got lost and is asked for again.
    pub(super) fn on_left(&mut self, result: Result<RebootAccepted, Fault>, now: &Now) -> Vec<Effect> {
        match result {
            Ok(accepted) => {
                self.soft.reboot_accepted_at.get_or_insert(now.wall);
                self.soft.reboot_command_runs = accepted == RebootAccepted::StillRuns;
            }
            Err(fault) if self.soft.reboot_accepted_at.is_some() => {
                self.soft.reboot_command_runs = false;
                self.say_reboot_is_late(Some(&fault), now);
            }
            Err(fault) => return self.leave_was_refused(&fault, now),
        }
        self.set_alarm(REBOOT_LATE_MS, now);
        Vec::new()
    }

    fn leave_was_refused(&mut self, fault: &Fault, now: &Now) -> Vec<Effect> {
        self.soft.leaving = Leaving::No;
        self.remember_error(fault, About::Attempt, now);
        if self.ready().is_some() {
            return self.settle(now);
        }
        self.soft.leave_refused = true;
        self.soft.leaves_at = Some(now.mono.after(REBOOT_LATE_MS));
        self.watch(now);
        Vec::new()
    }

    /// It has not come. A command that has not even ended is ended where the host sees again: it would reboot one that stays.
    pub(super) fn leave_again(&mut self, now: &Now) -> Vec<Effect> {
        let Some(plan) = self.model.state.plan().cloned() else { return Vec::new() };
        if self.facts.is_blind() || !self.soft.reboot_command_runs {
            return self.reboot_is_late(plan, now);
        }
        self.soft.leaving = Leaving::No;
        self.soft.reboot_accepted_at = None;
        self.soft.reboot_command_runs = false;
        self.soft.reboot_is_late = false;
        let mut effects = vec![Effect::Stop(plan.attempt)];
        effects.extend(self.settle(now));
        effects
    }
}
