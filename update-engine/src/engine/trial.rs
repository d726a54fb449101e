//! The first boots of a new slot: health, commit, rollback.

use manifests::release::SlotName;
use manifests::version::{Sequence, Version};

use crate::boot::Standing;
use crate::engine::cause::Cause;
use crate::engine::effect::{Effect, Outcome, Row};
use crate::engine::event::{Fault, Marked, Probing};
use crate::engine::facts::BootTable;
use crate::engine::giving_up::rolled_back;
use crate::engine::model::{About, BadBoots, CheckOutcome, CommittedSlot, Refusal, Warnings};
use crate::engine::policy::{MAX_BAD_BOOTS, MAX_REFUSALS, millis};
use crate::engine::state::{Kind, Plan, State};
use crate::engine::time::{Mono, Now};
use crate::engine::{Engine, row};

/// What came of a slot that is healthy, and why in brackets behind it.
const NOT_MARKED: &str = "healthy but could not be marked good";

impl Engine {
    /// The slot of the plan runs: it is judged, however the host came to boot it.
    pub(super) fn start_trial(&mut self, mut plan: Plan, now: &Now) -> Vec<Effect> {
        plan.giving_up = None;
        // The loader has shown that it starts what is armed.
        self.model.never_shown = None;
        self.enter(State::Trial { plan, verdict: None });
        self.resume_trial(now)
    }

    /// Takes up what a restart or an error interrupted.
    pub(super) fn resume_trial(&mut self, now: &Now) -> Vec<Effect> {
        match self.model.state.clone() {
            State::Trial { plan, verdict: None } => match self.verdict_of_marks(&plan) {
                Some(reason) => self.judge_unhealthy(plan, reason, now),
                None => vec![Effect::Health(plan)],
            },
            State::Trial { plan, verdict: Some(_) } if self.soft.reboot_accepted_at.is_some() => self.reboot_is_late(plan, now),
            State::Trial { plan, verdict: Some(_) } => self.leave_bad_slot(plan, now),
            State::Committed { plan } => vec![Effect::Commit(plan)],
            State::RolledBack { plan, .. } => self.disarm(plan.slot),
            _ => Vec::new(),
        }
    }

    /// The time since boot from which a slot on trial is kept if it is healthy; `None` = that has come. In image mode this machine's
    /// uptime is not that of what is updated.
    pub fn kept_from(&self, now: &Now) -> Option<Mono> {
        let at = Mono(millis(self.policy.min_uptime));
        (!self.facts.image_mode && now.mono < at).then_some(at)
    }

    /// When the slot on trial is left without this daemon, unless it is good by then; `None` = it is not, or nobody knows when.
    pub fn left_at(&self, now: &Now) -> Option<Mono> {
        let plan = match &self.model.state {
            State::Trial { plan, .. } | State::Committed { plan } => plan,
            _ => return None,
        };
        let is_on_trial = self.facts.running == Some(plan.slot) && !self.facts.standing(plan.slot).is_some_and(Standing::is_good);
        self.facts.trial_ends.filter(|at| is_on_trial && self.can_boot(plan.slot.other()) && now.mono < *at)
    }

    /// What its marks say of a slot on trial. Of a trial that was only found it is not known who marked it bad, or why: its health
    /// decides, if it has a right to that.
    fn verdict_of_marks(&self, plan: &Plan) -> Option<String> {
        let has_a_say = plan.kind != Kind::Found || self.facts.started_by_hand().is_some();
        let is_judged = has_a_say && self.was_marked_bad(plan.slot) && !self.stays_all_the_same(plan);
        let why = self.why_it_was_left(plan).unwrap_or("it was marked bad before it had shown that it is healthy");
        is_judged.then(|| why.to_owned())
    }

    /// By whoever keeps the deadline of trials.
    pub(super) fn why_it_was_left(&self, plan: &Plan) -> Option<&str> {
        self.facts.left.as_ref().filter(|left| left.attempt == plan.attempt).map(|left| left.why.as_str())
    }

    /// The running slot was marked bad, or has lost its marks, while another one can be booted.
    pub(super) fn was_marked_bad(&self, running: SlotName) -> bool {
        matches!(self.facts.standing(running), Some(Standing::Bad | Standing::Blank)) && self.can_boot(running.other())
    }

    /// The loader has shown that it does not obey the marks: they say nothing any more, health does.
    fn stays_all_the_same(&self, plan: &Plan) -> bool {
        self.model.bad_boots.as_ref().is_some_and(|known| known.attempt == plan.attempt && known.count > MAX_BAD_BOOTS)
    }

    fn can_boot(&self, slot: SlotName) -> bool {
        self.facts.standing(slot).is_some_and(Standing::is_bootable)
    }

    pub(super) fn on_probing(&mut self, attempt: &str, probing: Probing) -> Vec<Effect> {
        if matches!(self.model.state, State::Trial { verdict: None, .. }) && self.is_current(attempt) {
            self.soft.probing = Some(probing);
        }
        Vec::new()
    }

    pub(super) fn on_health(&mut self, attempt: &str, result: Result<Vec<String>, String>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        let State::Trial { mut plan, verdict: None } = self.model.state.clone() else { return Vec::new() };
        match result {
            Ok(warnings) if warnings.is_empty() => self.start_commit(plan),
            Ok(warnings) => {
                plan.warnings = warnings;
                let mut effects = vec![row(Row::Update(plan.clone()))];
                effects.extend(self.start_commit(plan));
                effects
            }
            Err(reason) => self.judge_unhealthy(plan, reason, now),
        }
    }

    pub(super) fn judge_unhealthy(&mut self, plan: Plan, reason: String, now: &Now) -> Vec<Effect> {
        self.remember_error(&unhealthy(&plan, &reason), About::Attempt, now);
        self.enter(State::Trial { plan: plan.clone(), verdict: Some(reason) });
        self.leave_bad_slot(plan, now)
    }

    /// Marks the slot bad and reboots, as long as there is somewhere to go and the loader goes there.
    fn leave_bad_slot(&mut self, plan: Plan, now: &Now) -> Vec<Effect> {
        let boots = self.count_bad_boot(&plan);
        if !self.can_boot(plan.slot.other()) {
            let why = format!("slot {} cannot be booted, so there is no way back", plan.slot.other());
            return self.stay_unhealthy(plan, &why, boots, now);
        }
        if boots > MAX_BAD_BOOTS {
            let why = format!("the loader has started it {boots} times all the same: it does not obey its marks");
            return self.stay_unhealthy(plan, &why, boots, now);
        }
        let marked = self.facts.standing(plan.slot).is_some_and(|standing| !standing.is_bootable());
        if marked { vec![Effect::Reboot(plan)] } else { vec![Effect::MarkBad(plan)] }
    }

    /// Once for each boot, however often the daemon is started in it.
    pub(super) fn count_bad_boot(&mut self, plan: &Plan) -> u32 {
        let count = self.boots_of(plan);
        self.model.bad_boots = Some(BadBoots { attempt: plan.attempt.clone(), boot_id: self.facts.boot_id.clone(), count });
        self.soft.boot_is_counted = true;
        count
    }

    /// Boots into the plan's slot that went badly, with this one. Where boots cannot be told apart, each start of the daemon counts:
    /// too many stop a host from rebooting for ever, too few would not.
    pub(super) fn boots_of(&self, plan: &Plan) -> u32 {
        let Some(known) = self.model.bad_boots.as_ref().filter(|known| known.attempt == plan.attempt) else { return 1 };
        let same = known.boot_id.is_same(&self.facts.boot_id).unwrap_or(self.soft.boot_is_counted);
        known.count.saturating_add(u32::from(!same))
    }

    fn stay_unhealthy(&mut self, plan: Plan, why: &str, boots: u32, now: &Now) -> Vec<Effect> {
        let reason = match &self.model.state {
            State::Trial { verdict: Some(reason), .. } => reason.clone(),
            _ => String::new(),
        };
        let fault = unhealthy(&plan, &reason);
        let fault = Fault { message: format!("{}; {why}", fault.message), ..fault };
        self.stay(State::Trial { plan, verdict: None }, &fault, boots, now)
    }

    /// It was marked bad before this run of the daemon, and the journal knows nothing of this boot of it. Either it was to be left in
    /// this very boot, or the loader has started it all the same: only the number of its boots tells, and that cannot be written down.
    pub fn was_bad_before(&self, plan: &Plan) -> bool {
        let is_counted = self.soft.boot_was_counted.as_ref() == Some(&plan.attempt);
        self.facts.standing(plan.slot) == Some(Standing::Bad) && !self.soft.marked_bad && !is_counted
    }

    /// Without the journal its boots cannot be counted, and leaving it again could go on for ever.
    pub(super) fn stay_uncounted(&mut self, plan: Plan, verdict: Option<String>, fault: &Fault, now: &Now) -> Vec<Effect> {
        let message = format!(
            "{} was marked bad before, and runs: it is not left before its boots can be counted ({}); a person can reboot the host \
             (systemd: `systemctl reboot`)",
            plan.version, fault.message
        );
        let boots = self.boots_of(&plan);
        let verdict = verdict.or_else(|| self.verdict_of_marks(&plan));
        self.stay(State::Trial { plan, verdict }, &Fault::new(Cause::Unhealthy, message), boots, now)
    }

    /// A reboot would help nobody, or nobody knows whether it would: the host stays reachable, says so, and goes on from there later.
    fn stay(&mut self, state: State, fault: &Fault, boots: u32, now: &Now) -> Vec<Effect> {
        self.remember_error(fault, About::Attempt, now);
        self.enter(state);
        self.set_alarm(self.policy.failed_ms(boots, None, now), now);
        Vec::new()
    }

    pub(super) fn start_commit(&mut self, plan: Plan) -> Vec<Effect> {
        self.enter(State::Committed { plan: plan.clone() });
        vec![Effect::Commit(plan)]
    }

    pub(super) fn on_commit_done(&mut self, attempt: &str, result: Result<Marked, Fault>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        let State::Committed { plan } = self.model.state.clone() else { return Vec::new() };
        let marked = result.and_then(|Marked { facts, floor }| {
            self.take_facts(*facts);
            let good = self.facts.standing(plan.slot).is_some_and(Standing::is_good);
            let not_good = || Fault::new(Cause::MarkGood, format!("slot {} does not read back as good", plan.slot));
            if good { Ok(floor) } else { Err(not_good()) }
        });
        match marked {
            Err(fault) => {
                let message = format!("{} is {NOT_MARKED} ({}): tried again soon", plan.version, fault.message);
                self.remember_error(&Fault::new(Cause::MarkGood, message), About::Attempt, now);
                self.set_alarm(self.policy.gate_retry_ms(None, now), now);
                Vec::new()
            }
            Ok(floor) => {
                let effects = self.committed(&plan);
                if let Err(fault) = floor {
                    let message = format!(
                        "{} is kept, but the floor of this host could not be raised: {}; it is tried again at every check and start, \
                         and nothing is installed before",
                        plan.version, fault.message
                    );
                    self.remember_error(&Fault { message, ..fault }, About::Offer, now);
                }
                effects
            }
        }
    }

    /// "healthy but could not be marked good (…)", where the last try to keep the plan's slot ended so.
    pub fn mark_good_error(&self, plan: &Plan) -> Option<&str> {
        let error = self.model.last_error.as_ref().filter(|error| error.code == Cause::MarkGood)?;
        error.what().strip_prefix(plan.version.as_str())?.strip_prefix(" is ")
    }

    /// The marks are good and read back: history, report, lock and memory in one transaction.
    pub(super) fn committed(&mut self, plan: &Plan) -> Vec<Effect> {
        let mut effects = self.end_attempt(plan, Outcome::Committed, None);
        if self.model.refusal_of(plan.digest).is_some() {
            self.model.refusals.retain(|known| known.digest != plan.digest);
            effects.push(row(Row::Forgive(plan.digest)));
        }
        self.remember_committed(plan);
        let has_some = !plan.warnings.is_empty();
        self.model.warnings = has_some.then(|| Warnings { slot: plan.slot, found: plan.warnings.clone() });
        // What the check brought is done: "available" would be yesterday's news. No check says that one gone back is up to date.
        let is_new = plan.kind != Kind::Rollback;
        self.model.check.last_outcome = is_new.then_some(CheckOutcome::UpToDate);
        self.model.check.last_result = is_new.then(|| format!("up to date: {} runs", plan.version));
        self.model.failures = None;
        self.model.bad_boots = None;
        self.model.last_error = None;
        self.model.journal_note = None;
        self.enter(State::Idle);
        effects
    }

    fn remember_committed(&mut self, plan: &Plan) {
        if plan.kind == Kind::Found && plan.sequence == Sequence::ZERO {
            return;
        }
        let slot = CommittedSlot { digest: plan.digest, sequence: plan.sequence, version: plan.version.to_string() };
        *self.model.committed.get_mut(plan.slot) = Some(slot);
    }

    /// A slot that runs, is good and whose record is known has shown that it is healthy: it may be rolled back to later.
    pub(super) fn remember_running(&mut self, running: SlotName) {
        let content = self.facts.slots.get(running);
        let known = content.digest.zip(content.sequence).zip(content.version.clone());
        let good = self.facts.standing(running).is_some_and(Standing::is_good);
        if let Some(((digest, sequence), version)) = known.filter(|_| good) {
            *self.model.committed.get_mut(running) = Some(CommittedSlot { digest, sequence, version });
        }
    }

    pub(super) fn on_marked_bad(&mut self, attempt: &str, result: Result<BootTable, Fault>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        let State::Trial { plan, verdict: Some(reason) } = self.model.state.clone() else { return Vec::new() };
        match result {
            Ok(boot) => {
                self.facts.boot = Some(boot);
                self.soft.marked_bad = true;
            }
            // The loader's tries still bring the old slot back: reboot all the same.
            Err(fault) => {
                let told = unhealthy(&plan, &reason);
                let message = format!("{}; its slot could not be marked bad: {}", told.message, fault.message);
                self.remember_error(&Fault { message, ..told }, About::Attempt, now);
            }
        }
        vec![Effect::Reboot(plan)]
    }

    /// The old slot runs again: history, report, release, refusal in one transaction. The failed slot is still to be disarmed.
    pub(super) fn roll_back(&mut self, plan: &Plan, why: &str, now: &Now) -> Vec<Effect> {
        let mut effects = self.went_back(plan, why, now);
        self.enter(State::RolledBack { plan: plan.ended(), why: why.to_owned() });
        effects.extend(self.resume_trial(now));
        effects
    }

    /// The rows of a rollback.
    pub(super) fn went_back(&mut self, plan: &Plan, why: &str, now: &Now) -> Vec<Effect> {
        let fault = rolled_back(plan, why);
        self.remember_error(&fault, About::Attempt, now);
        self.model.bad_boots = None;
        self.model.never_shown = None;
        let mut effects = self.end_attempt(plan, Outcome::RolledBack, Some(&fault));
        // A slot of which no record is known names no release that could be refused.
        if plan.sequence != Sequence::ZERO {
            effects.push(self.refuse(plan.digest, plan.sequence, &plan.version, why, now));
        }
        effects
    }

    /// Refuses what is in a slot, as far as its record is known.
    pub(super) fn refuse_content(&mut self, slot: SlotName, why: &str, now: &Now) -> Option<Effect> {
        let content = self.facts.slots.get(slot).clone();
        let remembered = self.model.committed.get(slot).clone();
        let (digest, sequence) =
            content.digest.zip(content.sequence).or_else(|| remembered.as_ref().map(|slot| (slot.digest, slot.sequence)))?;
        let label = content.version.or_else(|| remembered.map(|slot| slot.version));
        let version = label.and_then(|label| Version::parse(&label).ok()).unwrap_or_else(Version::unknown);
        Some(self.refuse(digest, sequence, &version, why, now))
    }

    pub(super) fn refuse(
        &mut self,
        digest: manifests::digest::Sha256Digest,
        sequence: Sequence,
        version: &Version,
        why: &str,
        now: &Now,
    ) -> Effect {
        let refusal = Refusal { digest, sequence, version: version.to_string(), reason: why.to_owned(), at: now.wall };
        self.model.refusals.retain(|known| known.digest != refusal.digest);
        self.model.refusals.push(refusal.clone());
        let most = usize::try_from(MAX_REFUSALS).unwrap_or(usize::MAX);
        let surplus = self.model.refusals.len().saturating_sub(most);
        self.model.refusals.drain(..surplus);
        row(Row::Refuse(refusal))
    }
}

fn unhealthy(plan: &Plan, reason: &str) -> Fault {
    Fault::new(Cause::Unhealthy, format!("{} is unhealthy: {reason}", plan.version))
}
