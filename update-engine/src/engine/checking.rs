//! Asking for updates, and what becomes of the answers.

use manifests::digest::Sha256Digest;

use crate::engine::cause::Cause;
use crate::engine::effect::{Effect, Report, ReportKind, Row, Scan};
use crate::engine::event::{AskAgain, CheckAnswer, Fault, Lack, Offer};
use crate::engine::facts::Facts;
use crate::engine::model::{About, CheckOutcome, Hold, NewestRecord, ReportedRefusal};
use crate::engine::plan::{Decision, check_target, decide};
use crate::engine::policy::{MAX_REFUSALS_REPORTED, SUPERSEDE_EVERY_MS};
use crate::engine::state::{Origin, Plan, Request, State, Waiting, WayBack};
use crate::engine::time::{Now, Wall};
use crate::engine::{Engine, row};

/// A release that was offered, as far as it is known.
struct Offered<'a> {
    version: &'a str,
    /// None where its record could not be had or believed.
    digest: Option<Sha256Digest>,
}

impl<'a> Offered<'a> {
    const fn by_label(version: &'a str) -> Self {
        Self { version, digest: None }
    }

    fn identity(&self) -> String {
        self.digest.map_or_else(|| self.version.to_owned(), |digest| digest.to_string())
    }
}

impl Engine {
    /// The schedule may start a check: nothing is under way, or an update waits and may be superseded.
    pub(super) const fn may_check(&self) -> bool {
        let waits =
            matches!(self.model.state, State::Idle | State::Failed { .. } | State::Deferred { .. } | State::Proven { .. });
        waits && self.soft.background_check.is_none() && self.policy.has_server
    }

    /// Starts a check, in front or beside an update.
    pub(super) fn start_check(&mut self, request: Request, now: &Now) -> Vec<Effect> {
        self.model.check.count = self.model.check.count.saturating_add(1);
        // Whatever becomes of this check, even a crash, the next one is not sooner than an error's.
        let at_least = self.policy.check_error_ms(self.model.check.errors.saturating_add(1), None, now);
        self.model.check.next = Some(self.alarm(at_least, now));
        match self.model.state {
            State::Idle | State::Failed { .. } => self.enter(State::Checking { request: request.clone() }),
            _ => self.soft.background_check = Some(request.clone()),
        }
        vec![Effect::Check(request)]
    }

    pub(super) fn on_checked(&mut self, facts: Facts, answer: CheckAnswer, now: &Now) -> Vec<Effect> {
        let (request, mut beside) = match (&self.model.state, self.soft.background_check.take()) {
            (_, Some(request)) => (request, true),
            (State::Checking { request }, None) => (request.clone(), false),
            _ => return Vec::new(),
        };
        let was_blind = self.facts.is_blind();
        // Beside an update that has gone on meanwhile the facts are older than what the engine knows.
        if !beside || was_blind || self.may_be_superseded() {
            self.take_facts(facts);
        }
        self.schedule_next(&answer, &request, now);
        let mut effects = Vec::new();
        if was_blind && self.ready().is_some() {
            if !beside {
                self.enter(State::Idle);
            }
            effects = self.settle(now);
            beside = !matches!(self.model.state, State::Idle);
        }
        effects.extend(self.on_answer(answer, &request, beside, now));
        // Facts are fresh: what nobody vouches for is put right now, not at the next start.
        if let (State::Idle, Some(running)) = (&self.model.state, self.ready()) {
            self.remember_running(running);
            effects.extend(self.settle_idle(running, now));
        }
        effects
    }

    fn on_answer(&mut self, answer: CheckAnswer, request: &Request, beside: bool, now: &Now) -> Vec<Effect> {
        match answer {
            CheckAnswer::Failed { fault, .. } => self.check_failed(&fault, now),
            CheckAnswer::NoRecord { version, fault, lack, .. } => self.record_missing(&version, fault, lack, request, now),
            CheckAnswer::BadRecord { version, fault, .. } => {
                self.refuse_offer(&Offered::by_label(&version), &fault, request, now)
            }
            CheckAnswer::NoUpdate { hold, .. } => self.no_update(hold, now),
            CheckAnswer::Offer { offer, .. } => self.on_offer(&offer, request, beside, now),
        }
    }

    /// An update that only waits. Where an answer is awaited (gates, lock, hooks), it is too late.
    const fn may_be_superseded(&self) -> bool {
        matches!(
            self.model.state,
            State::Deferred { .. } | State::Proven { step: Waiting::Person | Waiting::GateClosed | Waiting::LockRefused, .. }
        )
    }

    fn schedule_next(&mut self, answer: &CheckAnswer, request: &Request, now: &Now) {
        if matches!(request.origin, Origin::Files { .. }) {
            self.check_not_before_interval(now);
            return;
        }
        let delay_ms = match answer {
            CheckAnswer::Failed { retry_after_s, .. } => self.after_error_ms(*retry_after_s, now),
            CheckAnswer::NoRecord { again, .. } => {
                self.model.check.reached_at = Some(now.wall);
                self.after_error_ms(again.retry_after_s, now)
            }
            CheckAnswer::NoUpdate { again, .. } | CheckAnswer::Offer { again, .. } | CheckAnswer::BadRecord { again, .. } => {
                self.model.check.errors = 0;
                self.model.check.reached_at = Some(now.wall);
                self.policy.next_check_ms(*again, now)
            }
        };
        let next = self.alarm(delay_ms, now);
        // A check beside an attempt that has failed meanwhile does not shorten its pause.
        let paused = matches!(self.model.state, State::Failed { .. })
            && self.model.check.next.as_ref().is_some_and(|pause| pause.boot_id == next.boot_id && pause.at > next.at);
        if !paused {
            self.model.check.next = Some(next);
        }
    }

    fn after_error_ms(&mut self, retry_after_s: Option<u64>, now: &Now) -> u64 {
        self.model.check.errors = self.model.check.errors.saturating_add(1);
        self.policy.check_error_ms(self.model.check.errors, retry_after_s, now)
    }

    /// The next check is a whole interval away.
    pub(super) fn check_not_before_interval(&mut self, now: &Now) {
        let delay_ms = self.policy.next_check_ms(AskAgain::default(), now);
        self.model.check.next = Some(self.alarm(delay_ms, now));
    }

    fn check_failed(&mut self, fault: &Fault, now: &Now) -> Vec<Effect> {
        self.check_failed_about(About::Check, fault, now)
    }

    fn check_failed_about(&mut self, about: About, fault: &Fault, now: &Now) -> Vec<Effect> {
        // Without a server a check is only a look at the world.
        if self.policy.has_server {
            self.remember_error(fault, about, now);
        }
        self.check_ended(CheckOutcome::Failed, format!("failed: {}", fault.message), now)
    }

    /// A server of files that is down says nothing about the release: no alarm, as with an update server that is. Of a release
    /// whose record will never come, or is of no use here, nobody would ever hear otherwise.
    fn record_missing(&mut self, version: &str, fault: Fault, lack: Lack, request: &Request, now: &Now) -> Vec<Effect> {
        self.model.check.hold = None;
        let (about, missed) = match lack {
            Lack::Passing => (About::Check, "fetched"),
            Lack::Lasting => (About::Offer, "fetched"),
            Lack::Here => (About::Offer, "checked and kept here"),
        };
        let message = format!("{version} is offered, but its record could not be {missed}: {}", fault.message);
        let fault = Fault { message, ..fault };
        let mut effects = self.check_failed_about(about, &fault, now);
        if about == About::Offer {
            effects.extend(self.report_refused(&Offered::by_label(version), &fault, request));
        }
        effects
    }

    fn no_update(&mut self, hold: Option<Hold>, now: &Now) -> Vec<Effect> {
        let known_since = self.model.check.hold.as_ref().and_then(|known| known.since);
        let (outcome, result) = match &hold {
            Some(hold) => (CheckOutcome::Held, format!("held by the server: {}", hold.reason)),
            None => (CheckOutcome::NoUpdate, "no update".to_owned()),
        };
        self.model.check.hold = hold.map(|hold| Hold { since: known_since.or(Some(now.wall)), ..hold });
        self.clear_check_error();
        self.check_ended(outcome, result, now)
    }

    fn on_offer(&mut self, offer: &Offer, request: &Request, beside: bool, now: &Now) -> Vec<Effect> {
        self.model.check.hold = None;
        // A record for somebody else says nothing about how fresh this host is.
        if check_target(offer, &self.facts).is_ok() {
            self.remember_newest(offer);
        }
        match decide(offer, request, &self.facts, &self.model, now) {
            Decision::UpToDate => {
                self.clear_check_error();
                self.check_ended(CheckOutcome::UpToDate, format!("up to date: {} runs", offer.record.version), now)
            }
            Decision::Refuse(fault) => {
                let offered = Offered { version: offer.record.version.as_str(), digest: Some(offer.digest) };
                self.refuse_offer(&offered, &fault, request, now)
            }
            Decision::Install(plan) => {
                self.clear_check_error();
                self.on_plan(*plan, offer, request, beside, now)
            }
        }
    }

    fn on_plan(&mut self, plan: Plan, offer: &Offer, request: &Request, beside: bool, now: &Now) -> Vec<Effect> {
        let result = format!("update to {} available", plan.version);
        if let Some(wait) = self.pause_after_failures(&plan, request, now) {
            return self.check_ended(CheckOutcome::Paused, format!("{result}; {wait}"), now);
        }
        if request.check_only {
            let download = plan.source.in_words().map_or_else(String::new, |words| format!("; would download {words}"));
            return self.check_ended(CheckOutcome::Available, result + &download, now);
        }
        if beside {
            return match self.model.state.plan().filter(|_| self.may_be_superseded()).cloned() {
                Some(pending) if pending.digest != plan.digest && self.may_supersede(&pending, offer, now) => {
                    self.supersede(pending, plan, now)
                }
                _ => self.check_ended(CheckOutcome::Available, result, now),
            };
        }
        let mut effects = self.check_ended(CheckOutcome::Available, result, now);
        effects.extend(self.take_up(plan, now));
        effects
    }

    /// The timer waits out the pause after failures, whatever else made it ask in the meantime; a person need not.
    fn pause_after_failures(&self, plan: &Plan, request: &Request, now: &Now) -> Option<String> {
        let failures = self.model.failures.as_ref().filter(|failures| plan.sequence <= failures.sequence)?;
        let retry = failures.retry.as_ref().filter(|retry| request.origin == Origin::Timer && !self.is_due(retry, now))?;
        let left_min = now.mono.until(retry.at) / 60_000 + 1;
        Some(format!("failed {} times in a row, tried again in about {left_min} min", failures.count))
    }

    /// A newer release may take the place of one that waits, but a stream of them must not starve the update. One that was
    /// not even fetched loses nothing.
    fn may_supersede(&self, pending: &Plan, offer: &Offer, now: &Now) -> bool {
        let newer = offer.record.sequence > pending.sequence;
        let long_ago = self
            .model
            .superseded_at
            .is_none_or(|at| now.wall.0.saturating_sub(at.0).unsigned_abs() >= SUPERSEDE_EVERY_MS.unsigned_abs());
        newer && (long_ago || offer.record.urgent || matches!(self.model.state, State::Deferred { .. }))
    }

    fn supersede(&mut self, old: Plan, new: Plan, now: &Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        // A release that was only deferred was never opened as an attempt.
        if matches!(self.model.state, State::Deferred { .. }) {
            self.enter(State::Idle);
        } else {
            self.model.superseded_at = Some(now.wall);
            effects.push(Effect::Stop(old.attempt.clone()));
            let fault = Fault::new(Cause::Superseded, format!("overtaken by {} before it was armed", new.version));
            effects.extend(self.give_up(old, fault, WayBack::Abandoned, now));
        }
        effects.extend(self.check_ended(CheckOutcome::Available, format!("update to {} available", new.version), now));
        if matches!(self.model.state, State::Idle) {
            effects.extend(self.take_up(new, now));
        }
        effects
    }

    /// Starts to fetch, or waits with a reason.
    pub(super) fn take_up(&mut self, plan: Plan, now: &Now) -> Vec<Effect> {
        if self.facts.target() != Some(plan.slot) {
            self.enter(State::Idle);
            return Vec::new();
        }
        if let Some(pause) = self.model.pause.clone() {
            let reason = pause.gate().closed.unwrap_or_default();
            self.enter(State::Deferred { plan, reason, until: pause.until.map(|at| Wall(at.as_millisecond())) });
            self.alarm_at_pause_end(now);
            return Vec::new();
        }
        let open = row(Row::Open(plan.clone()));
        let report = row(Row::Report(self.report(ReportKind::DownloadStarted, &plan, None)));
        // From the first byte on the slot holds nothing that was committed.
        self.soft.before_writing = self.model.committed.get_mut(plan.slot).take();
        self.enter(State::Fetching { plan: plan.clone(), rewrites: 0 });
        vec![open, report, Effect::Install { plan, scan: Scan::Shared }]
    }

    /// Looks again whether a deferred update may be fetched.
    pub(super) fn leave_deferred(&mut self, now: &Now) -> Vec<Effect> {
        let State::Deferred { plan, .. } = self.model.state.clone() else { return Vec::new() };
        // Whoever sees again takes it up then.
        if self.ready().is_none() {
            return Vec::new();
        }
        self.take_up(plan, now)
    }

    fn refuse_offer(&mut self, offered: &Offered<'_>, fault: &Fault, request: &Request, now: &Now) -> Vec<Effect> {
        self.model.check.hold = None;
        // What is refused as a matter of course is a result of the check, not an error of this host.
        if matches!(fault.code, Cause::OlderRelease | Cause::RefusedRelease | Cause::OtherVersion) {
            self.clear_check_error();
        } else {
            self.remember_error(fault, About::Offer, now);
        }
        let mut effects = self.check_ended(CheckOutcome::Refused, format!("{} refused: {}", offered.version, fault.message), now);
        effects.extend(self.report_refused(offered, fault, request));
        effects
    }

    /// Whoever made an offer hears once why nothing comes of it: they would wait for this host otherwise. Not at every check,
    /// nor after a restart. Files that a person named are nobody's offer.
    fn report_refused(&mut self, offered: &Offered<'_>, fault: &Fault, request: &Request) -> Option<Effect> {
        let refusal = ReportedRefusal { release: offered.identity(), code: fault.code.clone() };
        let reported = &mut self.model.check.refusals_reported;
        if matches!(request.origin, Origin::Files { .. }) || !fault.code.is_reported() || reported.contains(&refusal) {
            return None;
        }
        reported.push(refusal);
        reported.drain(..reported.len().saturating_sub(MAX_REFUSALS_REPORTED));
        let running_version = self.facts.running_content().version.unwrap_or_default();
        Some(row(Row::Report(Report {
            kind: ReportKind::Failed,
            attempt: String::new(),
            from_version: running_version.clone(),
            running_version,
            to_version: offered.version.to_owned(),
            code: Some(fault.code.clone()),
            reason: Some(fault.message.clone()),
        })))
    }

    fn check_ended(&mut self, outcome: CheckOutcome, result: String, now: &Now) -> Vec<Effect> {
        self.model.check.last_at = Some(now.wall);
        self.model.check.last_outcome = Some(outcome);
        self.model.check.last_result = Some(result);
        if matches!(self.model.state, State::Checking { .. }) {
            self.enter(State::Idle);
        }
        Vec::new()
    }

    /// An error of an earlier check is over; one of an attempt stays until an attempt succeeds.
    fn clear_check_error(&mut self) {
        if self.model.last_error.as_ref().is_some_and(|error| error.about != About::Attempt) {
            self.model.last_error = None;
        }
    }

    fn remember_newest(&mut self, offer: &Offer) {
        let newer = self.model.check.newest_record.as_ref().is_none_or(|known| offer.record.sequence > known.sequence);
        if newer {
            self.model.check.newest_record =
                Some(NewestRecord { sequence: offer.record.sequence, created: offer.record.created });
        }
    }
}
