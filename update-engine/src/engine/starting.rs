//! After a start: what the world says is believed, what the journal says is explained by it.

use manifests::digest::Sha256Digest;
use manifests::release::SlotName;
use manifests::version::{Sequence, Version};

use crate::boot::Standing;
use crate::engine::Engine;
use crate::engine::cause::Cause;
use crate::engine::effect::{Effect, Outcome, Row};
use crate::engine::event::{Fault, Orphan};
use crate::engine::facts::Facts;
use crate::engine::model::{About, NeverShown};
use crate::engine::policy::{LONGEST_WAIT_MS, MAX_NEVER_SHOWN, StartedBy};
use crate::engine::row;
use crate::engine::state::{
    Alarm, ArmedStep, GivingUp, Kind, LockedStep, Origin, Plan, Request, SlotMayBe, State, Target, UNKNOWN_VERSION, WayBack,
};
use crate::engine::time::{BootId, Now};

/// Checks in a row that a start may repeat because a person asked for them: an answer that kills the daemon must not be asked
/// for for ever.
const MAX_REPEATED_CHECKS: u32 = 3;

impl Engine {
    pub(super) fn on_started(&mut self, facts: Facts, orphans: Vec<Orphan>, now: &Now) -> Vec<Effect> {
        self.facts = facts;
        self.soft.orphans = orphans;
        let counted = self.model.bad_boots.as_ref().filter(|known| known.boot_id.is_same(&self.facts.boot_id) == Some(true));
        self.soft.boot_was_counted = counted.map(|known| known.attempt.clone());
        if self.policy.has_server {
            self.model.check.since.get_or_insert(now.wall);
        }
        self.forget_wait();
        self.settle(now)
    }

    /// Waits of a state are earned again; only the pause after a failure is kept, within its boot.
    fn forget_wait(&mut self) {
        if !matches!(self.model.state, State::Failed { .. }) {
            self.model.alarm = None;
        }
    }

    /// Takes up what the journal says was under way, as far as the world bears it out.
    pub(super) fn settle(&mut self, now: &Now) -> Vec<Effect> {
        self.schedule_after_start(now);
        let Some(running) = self.ready() else {
            // Nothing may be written or marked before the world is seen.
            if matches!(self.model.state, State::Checking { .. }) {
                self.enter(State::Idle);
            }
            self.watch(now);
            return Vec::new();
        };
        // What was waited for while nothing was seen is over, and must not be done a second time beside what is done now.
        self.forget_wait();
        self.stop_watching();
        self.remember_running(running);
        let mut effects = self.take_in_orphans(running, now);
        effects.extend(self.settle_state(running, now));
        effects
    }

    fn settle_state(&mut self, running: SlotName, now: &Now) -> Vec<Effect> {
        match self.model.state.clone() {
            State::Idle => self.settle_idle(running, now),
            State::Checking { request } => self.settle_checking(request, running, now),
            State::Failed { .. } => self.settle_failed(running, now),
            State::Deferred { .. } => {
                let mut effects = self.settle_idle(running, now);
                effects.extend(self.leave_deferred(now));
                effects
            }
            State::Fetching { plan, .. } | State::Written { plan, .. } | State::Proven { plan, .. } if plan.slot == running => {
                self.wrong_slot_runs(&plan, running, now)
            }
            State::Fetching { plan, .. } => self.write_again(plan),
            State::Written { plan, rewrites } => self.prove_again(plan, rewrites),
            State::Proven { plan, .. } if plan.giving_up.is_some() => self.give_up_as_decided(plan, now),
            State::Proven { plan, .. } => self.prove_again(plan, 0),
            State::Locked { plan, .. } | State::Armed { plan, .. } if plan.slot == running => self.start_trial(plan, now),
            State::Locked { plan, boot_id, step } => self.restart_locked(plan, boot_id, step, now),
            State::Armed { plan, old_slot, boot_id, step } => self.restart_armed(plan, old_slot, boot_id, step, now),
            State::Trial { plan, verdict } if plan.slot != running => {
                let why = verdict.unwrap_or_else(|| self.why_it_went_back(&plan));
                self.roll_back(&plan, &why, now)
            }
            State::Committed { plan } if plan.slot != running => self.settle_committed_elsewhere(&plan, now),
            State::RolledBack { plan, .. } if plan.slot == running => {
                // The loader came back to it before it was disarmed: it is judged anew, as an attempt of its own.
                self.enter(State::Idle);
                self.settle_idle(running, now)
            }
            State::Trial { .. } | State::Committed { .. } | State::RolledBack { .. } => self.resume_trial(now),
        }
    }

    /// Timers of this boot go on; in another boot the first check comes soon, spread over the fleet.
    fn schedule_after_start(&mut self, now: &Now) {
        let stands = |alarm: &Alarm| alarm.boot_id == self.facts.boot_id && now.mono.until(alarm.at) <= LONGEST_WAIT_MS;
        if !self.model.check.next.as_ref().is_some_and(stands) {
            let delay_ms = self.policy.first_check_ms(now);
            self.model.check.next = Some(self.alarm(delay_ms, now));
        }
    }

    /// What a person asked for is asked again; the timer's own check waits for the timer.
    fn settle_checking(&mut self, request: Request, running: SlotName, now: &Now) -> Vec<Effect> {
        self.model.check.errors = self.model.check.errors.saturating_add(1);
        self.enter(State::Idle);
        let mut effects = self.settle_idle(running, now);
        let repeats = request.origin != Origin::Timer && self.model.check.errors <= MAX_REPEATED_CHECKS;
        if matches!(self.model.state, State::Idle) && repeats {
            effects.extend(self.start_check(request, now));
        }
        effects
    }

    /// The pause after a failure goes on in the boot it began in.
    fn settle_failed(&mut self, running: SlotName, now: &Now) -> Vec<Effect> {
        let stands = |alarm: &Alarm| alarm.boot_id == self.facts.boot_id && now.mono.until(alarm.at) <= LONGEST_WAIT_MS;
        if !self.model.alarm.as_ref().is_some_and(stands) {
            self.enter(State::Idle);
        }
        self.settle_idle(running, now)
    }

    /// No attempt is known. A running slot on trial is judged all the same; an armed slot nobody can vouch for is disarmed (P3).
    pub(super) fn settle_idle(&mut self, running: SlotName, now: &Now) -> Vec<Effect> {
        if self.is_on_trial(running) {
            return self.open_found_trial(running, now);
        }
        let standing = |slot| self.facts.standing(slot).unwrap_or_default();
        let other = running.other();
        if standing(other).is_pending() && standing(running).is_good() {
            let message =
                format!("slot {other} was armed and nothing here knows by whom: the host disarms it and stays on slot {running}");
            self.remember_error(&Fault::new(Cause::UnknownArmed, message), About::Offer, now);
            return self.disarm(other);
        }
        Vec::new()
    }

    /// The running slot is not good, another one may be booted for it, and its health decides which.
    pub(super) fn is_on_trial(&self, running: SlotName) -> bool {
        let standing = self.facts.standing(running).unwrap_or_default();
        (standing.is_pending() || standing.is_out_of_tries()) && self.facts.started_by_hand().is_none()
    }

    /// A trial whose attempt this journal does not know, as an attempt of its own.
    pub(super) fn open_found_trial(&mut self, running: SlotName, now: &Now) -> Vec<Effect> {
        let plan = self.found_plan(running, now);
        let mut effects = vec![row(Row::Open(plan.clone()))];
        effects.extend(self.start_trial(plan, now));
        effects
    }

    fn found_plan(&self, slot: SlotName, now: &Now) -> Plan {
        let content = self.facts.slots.get(slot).clone();
        let label = content.version.as_deref().and_then(|text| Version::parse(text).ok());
        let other = self.facts.slots.get(slot.other()).version.clone();
        orphan_plan(Orphan {
            attempt: now.attempt_id(),
            slot,
            from_version: other.unwrap_or_else(|| UNKNOWN_VERSION.to_owned()),
            version: label.unwrap_or_else(Version::unknown),
            sequence: content.sequence.unwrap_or(Sequence::ZERO),
            digest: content.digest.unwrap_or(Sha256Digest::from_bytes([0; 32])),
            started_at: now.wall,
            claim: None,
        })
    }

    /// Attempts of a journal that was set aside, each ended once: by what the boot table says became of it.
    fn take_in_orphans(&mut self, running: SlotName, now: &Now) -> Vec<Effect> {
        let orphans = std::mem::take(&mut self.soft.orphans);
        orphans.into_iter().flat_map(|orphan| self.take_in_orphan(orphan_plan(orphan), running, now)).collect()
    }

    fn take_in_orphan(&mut self, mut plan: Plan, running: SlotName, now: &Now) -> Vec<Effect> {
        let standing = self.facts.standing(plan.slot).unwrap_or_default();
        let runs = plan.slot == running;
        let free = matches!(self.model.state, State::Idle | State::Checking { .. } | State::Deferred { .. });
        let lost = Fault::new(Cause::JournalLost, "the journal that knew this attempt was set aside");
        if runs && free && self.is_on_trial(running) {
            self.enter(State::Trial { plan, verdict: None });
            return Vec::new();
        }
        if !runs && self.facts.was_tried(standing) {
            let why = self.why_it_went_back(&plan);
            let rows = self.went_back(&plan, &why, now);
            if free {
                self.enter(State::RolledBack { plan: plan.ended(), why });
            }
            return rows;
        }
        if !runs && free {
            // It may be armed, and hooks may have drained the host: its lock is given back only after both are undone.
            plan.drained = true;
            plan.giving_up = Some(GivingUp::over(lost, WayBack::Abandoned, SlotMayBe::armed_if(standing.is_pending())));
            self.enter(State::Locked { plan, boot_id: self.facts.boot_id.clone(), step: LockedStep::GivingUp });
            return Vec::new();
        }
        self.end_attempt(&plan, Outcome::Abandoned, Some(&lost))
    }

    fn why_it_went_back(&self, plan: &Plan) -> String {
        if let Some(why) = self.why_it_was_left(plan) {
            return why.to_owned();
        }
        match self.facts.standing(plan.slot).unwrap_or_default() {
            Standing::Bad => "it was marked bad before it had shown that it is healthy, and left no reason in the state folder: it may not have seen it".to_owned(),
            Standing::Spent => "it did not come up: the loader spent its tries and went back".to_owned(),
            Standing::Pending { tries_left } => {
                format!("it was left before it had shown that it is healthy, with {tries_left} tries left")
            }
            Standing::Good | Standing::Blank => "it was left and its marks are gone".to_owned(),
        }
    }

    fn wrong_slot_runs(&mut self, plan: &Plan, running: SlotName, now: &Now) -> Vec<Effect> {
        let message = format!("slot {} runs although it was being written: somebody booted it by hand", plan.slot);
        let mut effects = self.fail(plan, &Fault::new(Cause::RunningSlot, message), now);
        if plan.drained {
            effects.extend(self.undrain(plan.clone()));
        }
        effects.extend(self.settle_idle(running, now));
        effects
    }

    /// A read-back counts only in the run of the daemon that made it.
    fn prove_again(&mut self, plan: Plan, rewrites: u32) -> Vec<Effect> {
        self.enter(State::Written { plan, rewrites });
        self.resume_written()
    }

    /// The journal stands between the grant and the flip: the boot table knows whether the flip happened.
    fn restart_locked(&mut self, plan: Plan, boot_id: BootId, step: LockedStep, now: &Now) -> Vec<Effect> {
        let standing = self.facts.standing(plan.slot).unwrap_or_default();
        // A slot that is to be gone back to may bear the marks of an earlier trial until it is armed.
        let was_to_be_armed = step == LockedStep::Arming || plan.giving_up.as_ref().is_some_and(|why| why.disarm);
        let may_be_armed = plan.kind != Kind::Rollback || was_to_be_armed;
        if plan.giving_up.is_some() && !may_be_armed {
            return self.restart_way_back(plan, standing, now);
        }
        let flipped = may_be_armed && (standing.is_pending() || standing.is_out_of_tries());
        if flipped || plan.giving_up.is_some() || step == LockedStep::GivingUp {
            let old_slot = plan.slot.other();
            let step = if self.rests_when_armed(&plan) { ArmedStep::Resting } else { ArmedStep::Gates };
            return self.restart_armed(plan, old_slot, boot_id, step, now);
        }
        self.prove_again(plan, 0)
    }

    fn restart_armed(&mut self, mut plan: Plan, old_slot: SlotName, boot_id: BootId, step: ArmedStep, now: &Now) -> Vec<Effect> {
        let standing = self.facts.standing(plan.slot).unwrap_or_default();
        let same_boot = boot_id.is_same(&self.facts.boot_id);
        // Where nobody can tell the boots apart, a try that was spent tells that there was another one.
        if same_boot != Some(true) && self.facts.was_tried(standing) {
            let why = self.why_it_went_back(&plan);
            return self.roll_back(&plan, &why, now);
        }
        if plan.giving_up.is_some() {
            return self.restart_way_back(plan, standing, now);
        }
        self.enter(State::Armed { plan: plan.clone(), old_slot, boot_id: boot_id.clone(), step });
        if same_boot == Some(true) {
            return self.armed_in_this_boot(plan, old_slot, boot_id, step, standing, now);
        }
        if same_boot.is_none() {
            let message = "it is not known whether the host was rebooted, because the id of its boot could not be read";
            let fault = Fault::new(Cause::NoIdentity, message);
            self.remember_error(&fault, About::Attempt, now);
            plan.giving_up = Some(GivingUp::over(fault, WayBack::Failed, SlotMayBe::armed_if(standing.is_pending())));
            return self.restart_way_back(plan, standing, now);
        }
        if standing.is_pending() {
            return self.not_attempted(plan, step, now);
        }
        self.marks_are_gone(plan, step, standing, now)
    }

    /// Somebody disarmed it before the reboot, or the loader tried it and cleared the marks when it gave it up: some firmware leaves none
    /// of a slot whose last try it has spent. Both look the same.
    fn marks_are_gone(&mut self, mut plan: Plan, step: ArmedStep, standing: Standing, now: &Now) -> Vec<Effect> {
        let slot = plan.slot;
        let mut effects = Vec::new();
        let times = self.reboots_in_vain(&plan, step);
        let message = if times == 0 {
            format!("the host was rebooted after slot {slot} had been disarmed: it was not tried")
        } else if times < MAX_NEVER_SHOWN {
            format!(
                "the host was rebooted, and slot {slot} is no longer armed: it was disarmed, or its loader gave it up and left no marks"
            )
        } else {
            let why =
                format!("slot {slot} was armed and never seen to run, and its marks were gone, in {times} reboots in a row");
            effects.push(self.refuse(plan.digest, plan.sequence, &plan.version, &why, now));
            format!(
                "the host was rebooted, and slot {slot} is no longer armed, {times} times in a row: its loader gives it up and leaves no \
                 marks, so the image does not come up; {}",
                only_by_a_person(&plan)
            )
        };
        let fault = Fault::new(Cause::NotAttempted, message);
        self.remember_error(&fault, About::Attempt, now);
        plan.giving_up = Some(GivingUp::over(fault, WayBack::Failed, SlotMayBe::NotArmed));
        effects.extend(self.restart_way_back(plan, standing, now));
        effects
    }

    fn not_attempted(&mut self, plan: Plan, step: ArmedStep, now: &Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        let times = self.reboots_in_vain(&plan, step);
        let mut message = self.why_not_attempted(&plan, step, times);
        if times >= MAX_NEVER_SHOWN {
            let why = format!("the boot loader never showed slot {} running, in {times} reboots in a row", plan.slot);
            effects.push(self.refuse(plan.digest, plan.sequence, &plan.version, &why, now));
            message = format!("{message}; {}", only_by_a_person(&plan));
        }
        effects.extend(self.give_up(plan, Fault::new(Cause::NotAttempted, message), WayBack::Failed, now));
        effects
    }

    /// Where a reboot has to ask for the slot, one that did not rightly started the old one.
    fn why_not_attempted(&self, plan: &Plan, step: ArmedStep, times: u32) -> String {
        let slot = plan.slot;
        let in_a_row = if times < MAX_NEVER_SHOWN { String::new() } else { format!(", {times} times in a row") };
        match self.policy.started_by {
            StartedBy::OurReboot if self.was_asked_for(plan, step) => format!(
                "the host was rebooted to start slot {slot}, and that was not seen to run{in_a_row}: the argument that [reboot] command \
                 passes was lost (by a power cut, say), or the image died before it could write anything"
            ),
            StartedBy::OurReboot => format!(
                "the host was rebooted without the argument that [reboot] command passes, or lost power: its loader rightly started the \
                 old slot, and slot {slot} was not tried"
            ),
            StartedBy::AnyReboot => {
                let or_dies = if times < MAX_NEVER_SHOWN { "" } else { ", or the image dies before it can write to it" };
                format!(
                    "the host was rebooted, but its loader did not try slot {slot}{in_a_row}: it does not read this boot table{or_dies}"
                )
            }
        }
    }

    /// Reboots in a row that were to start the plan's slot and did not show it, with this one. Only a reboot that was asked for counts:
    /// after a power cut before it, some loaders rightly start the old slot.
    fn reboots_in_vain(&mut self, plan: &Plan, step: ArmedStep) -> u32 {
        if self.was_asked_for(plan, step) && plan.kind == Kind::Update { self.count_never_shown(plan) } else { 0 }
    }

    /// A daemon that was started again before the reboot came looked at the gates once more.
    fn was_asked_for(&self, plan: &Plan, step: ArmedStep) -> bool {
        step == ArmedStep::Rebooting || self.model.asked_reboot.as_ref() == Some(&plan.attempt)
    }

    /// A release that is newer than all of them starts from one.
    fn count_never_shown(&mut self, plan: &Plan) -> u32 {
        let before = self.model.never_shown.take().filter(|before| plan.sequence <= before.sequence);
        let count = before.as_ref().map_or(0, |before| before.count).saturating_add(1);
        self.model.never_shown = Some(NeverShown { sequence: before.map_or(plan.sequence, |before| before.sequence), count });
        count
    }

    /// Only the daemon was started again. What could have happened meanwhile is asked again: gates and lock before the reboot.
    fn armed_in_this_boot(
        &mut self,
        plan: Plan,
        old_slot: SlotName,
        boot_id: BootId,
        step: ArmedStep,
        standing: Standing,
        now: &Now,
    ) -> Vec<Effect> {
        if !standing.is_pending() {
            // Somebody disarmed it by hand, or the write was lost: the slot is proven and armed once more.
            return self.prove_again(plan, 0);
        }
        let step = if step == ArmedStep::Resting { ArmedStep::Resting } else { ArmedStep::Gates };
        self.enter(State::Armed { plan, old_slot, boot_id, step });
        self.look_at_gates_again(now)
    }

    /// Its marks were good before the journal could say so: that is a commit. Otherwise the host went back.
    fn settle_committed_elsewhere(&mut self, plan: &Plan, now: &Now) -> Vec<Effect> {
        if self.facts.standing(plan.slot).is_some_and(Standing::is_good) {
            return self.committed(plan);
        }
        let not_kept = self.mark_good_error(plan).map(|error| format!("it was {error}"));
        let why = match (self.why_it_was_left(plan), not_kept) {
            (Some(left), Some(not_kept)) => format!("{left}; {not_kept}"),
            (Some(left), None) => left.to_owned(),
            (None, Some(not_kept)) => format!("{not_kept}, and the loader went back"),
            (None, None) => "power was lost before the slot was marked good, and the loader went back".to_owned(),
        };
        self.roll_back(plan, &why, now)
    }
}

fn only_by_a_person(plan: &Plan) -> String {
    format!("{0} is installed again only by `updatectl update {0}`, a newer release by itself", plan.version)
}

/// The plan of an attempt of which only the rows that never change form are left.
fn orphan_plan(orphan: Orphan) -> Plan {
    let target = Target { slot: orphan.slot, version: orphan.version, sequence: orphan.sequence, digest: orphan.digest };
    Plan {
        claim: orphan.claim,
        ..Plan::without_payload(orphan.attempt, Kind::Found, target, orphan.from_version, orphan.started_at)
    }
}
