//! What a person asks for, and whether it can be done now.

use manifests::limits::MAX_NAME_CHARS;
use manifests::release::SlotName;
use manifests::version::Version;

use crate::engine::cause::Cause;
use crate::engine::command::{Accepted, Command, Rejected, Rejection};
use crate::engine::effect::{Effect, Row};
use crate::engine::event::Fault;
use crate::engine::facts::FloorFacts;
use crate::engine::model::Pause;
use crate::engine::policy::{StartedBy, Strategy};
use crate::engine::state::{
    ArmedStep, GivingUp, Kind, LockedStep, Origin, Plan, Request, SlotMayBe, State, Target, UNKNOWN_VERSION, Waiting, WayBack,
};
use crate::engine::time::{Mono, Now, Wall};
use crate::engine::unseen::{Leaving, Unseen};
use crate::engine::{Engine, row};

const HOUR_MS: u64 = 3_600_000;
/// Longest reason of a pause: it is shown in one line, and journalled with every step.
const MAX_REASON_BYTES: usize = 500;
const NOT_SIGHTED: &str = "it is not known which slot runs, or the boot table cannot be read: see `updatectl status`";
const LEAVING: &str = "the host is rebooting, because it could not be seen which slot runs: try again when it has";
const PAUSED: &str = "this host is paused: `updatectl resume` first";
const CHECKING: &str = "a check is under way already";
const NOTHING_TO_REBOOT: &str =
    "no update is ready: `updatectl update` brings one; to reboot without one, use the system's own command";

/// An answer to a command, and what is to be done.
pub type Answer = (Result<Accepted, Rejected>, Vec<Effect>);

impl Engine {
    /// Takes a command up, or says why not. `verify` and `adopt` are the daemon's own and never come here.
    pub fn command(&mut self, command: Command, now: &Now) -> Answer {
        self.end_pause_if_over(now);
        match command {
            Command::Check => self.command_check(Request { check_only: true, origin: Origin::Person, ..Request::timer() }, now),
            Command::Update { version, allow_older, no_reboot } => {
                self.command_check(Request { origin: Origin::Person, check_only: false, version, allow_older, no_reboot }, now)
            }
            Command::Install { payload: None, delta: None, .. } => {
                reject(Rejection::BadRequest, "install: expected a payload, a delta or both, got neither")
            }
            Command::Install { release, payload, delta, allow_older, no_reboot } => {
                let origin = Origin::Files { release, payload, delta };
                self.command_check(Request { origin, check_only: false, version: None, allow_older, no_reboot }, now)
            }
            Command::Reboot { force } => self.command_reboot(force, now),
            Command::Rollback => self.command_rollback(now),
            Command::Confirm => self.command_confirm(now),
            Command::Pause { until, reason } => self.command_pause(until, reason, now),
            Command::Resume => self.command_resume(now),
            Command::Cancel => self.command_cancel(now),
            Command::Channel { name } => self.command_channel(name),
            Command::Verify | Command::Adopt { .. } | Command::Limit { .. } => {
                reject(Rejection::NotHere, "this is done by the daemon itself")
            }
        }
    }

    fn command_check(&mut self, request: Request, now: &Now) -> Answer {
        let from_files = matches!(request.origin, Origin::Files { .. });
        if !self.policy.has_server && !from_files {
            return reject(
                Rejection::NoServer,
                "no update server is configured: set [server] url, or use `updatectl install RELEASE PAYLOAD`",
            );
        }
        if !request.check_only && self.model.pause.is_some() {
            return reject(Rejection::Paused, PAUSED);
        }
        match self.model.state.clone() {
            State::Idle | State::Failed { .. } => self.ask(request, now),
            State::Checking { request: running } => self.join_check(&running, request),
            State::Deferred { .. } | State::Proven { .. } if request.check_only => match self.soft.background_check {
                Some(_) => accept(None, CHECKING),
                None => self.ask(request, now),
            },
            State::Trial { plan, .. } => {
                reject(Rejection::Busy, &format!("the trial of {} is not over: try again when it is", plan.version))
            }
            State::Committed { .. } | State::RolledBack { .. } => reject(Rejection::Busy, &self.end_of_trial(now)),
            State::Deferred { plan, .. }
            | State::Fetching { plan, .. }
            | State::Written { plan, .. }
            | State::Proven { plan, .. }
            | State::Locked { plan, .. }
            | State::Armed { plan, .. } => {
                let other = from_files || request.version.as_deref().is_some_and(|version| version != plan.version.as_str());
                match (other, request.check_only) {
                    (true, _) => reject(
                        Rejection::Busy,
                        &format!("the update to {} is under way: `updatectl cancel` ends it", plan.version),
                    ),
                    (false, true) => reject(
                        Rejection::Busy,
                        &format!("the update to {} is under way: the server is asked again when it has ended", plan.version),
                    ),
                    (false, false) => self.join_update(request.no_reboot, now),
                }
            }
        }
    }

    fn ask(&mut self, request: Request, now: &Now) -> Answer {
        let what = if matches!(request.origin, Origin::Files { .. }) { "reading the release" } else { "asking the server" };
        let effects = self.start_check(request, now);
        (Ok(Accepted { attempt: None, message: what.to_owned() }), effects)
    }

    /// A check is under way: its answer serves this request too, if it asks the same server.
    fn join_check(&mut self, running: &Request, request: Request) -> Answer {
        let files = |request: &Request| matches!(request.origin, Origin::Files { .. });
        if files(running) || files(&request) {
            return reject(Rejection::Busy, "another check is under way: try again when it has ended");
        }
        if !request.check_only {
            self.model.state = State::Checking { request };
        }
        accept(None, CHECKING)
    }

    /// An update is under way: `update` says only how far it is to go.
    fn join_update(&mut self, no_reboot: bool, now: &Now) -> Answer {
        if self.ready().is_none() {
            return self.not_ready();
        }
        let Some(plan) = self.model.state.plan_mut() else { return reject(Rejection::Busy, "something else is under way") };
        let (attempt, version) = (plan.attempt.clone(), plan.version.clone());
        let already = accept(Some(attempt.clone()), &format!("the update to {version} is under way already"));
        match &self.model.state {
            State::Deferred { .. } | State::Fetching { .. } | State::Written { .. } => (),
            State::Proven { step: Waiting::Person | Waiting::GateClosed | Waiting::LockRefused, .. } => (),
            _ => return already,
        }
        if let Some(plan) = self.model.state.plan_mut() {
            plan.no_reboot = no_reboot;
        }
        let effects = match self.model.state.clone() {
            State::Deferred { .. } => self.leave_deferred(now),
            State::Proven { plan, step } => self.proven_for_person(plan, step, now),
            _ => return already,
        };
        let attempt = self.model.state.plan().map(|plan| plan.attempt.clone());
        (Ok(Accepted { attempt, message: format!("going on with the update to {version}") }), effects)
    }

    /// Whether a proven slot waits for a person was changed.
    fn proven_for_person(&mut self, plan: Plan, step: Waiting, now: &Now) -> Vec<Effect> {
        match (self.waits_for_person(&plan), step == Waiting::Person) {
            (true, false) => {
                self.give_up(plan, Fault::new(Cause::StepBack, "a person has to ask for the reboot"), WayBack::Waits, now)
            }
            (false, true) => {
                self.enter(State::Proven { plan, step: Waiting::GateClosed });
                self.look_at_gates_again(now)
            }
            _ => Vec::new(),
        }
    }

    fn command_reboot(&mut self, force: bool, now: &Now) -> Answer {
        if self.ready().is_none() {
            return self.not_ready();
        }
        if self.model.pause.is_some() && !force {
            return reject(Rejection::Paused, PAUSED);
        }
        let Some(plan) = self.model.state.plan() else { return reject(Rejection::NothingToReboot, NOTHING_TO_REBOOT) };
        if plan.giving_up.as_ref().is_some_and(|why| why.end != WayBack::Waits) {
            return reject(Rejection::GivingUp, "the update is being given up");
        }
        let message = match &self.model.state {
            State::Armed { step: ArmedStep::Rebooting, .. } => "the host is rebooting already".to_owned(),
            State::Fetching { .. } | State::Written { .. } => "the host will reboot when the slot is proven".to_owned(),
            State::Proven { plan, .. } | State::Locked { plan, .. } | State::Armed { plan, .. } => {
                format!("rebooting into {} as soon as {} allow", plan.version, if force { "hooks" } else { "gates and lock" })
            }
            _ => return reject(Rejection::NothingToReboot, NOTHING_TO_REBOOT),
        };
        self.ask_for_reboot(force, message, now)
    }

    fn ask_for_reboot(&mut self, force: bool, message: String, now: &Now) -> Answer {
        let Some(plan) = self.model.state.plan_mut() else { return reject(Rejection::NothingToReboot, NOTHING_TO_REBOOT) };
        plan.reboot_asked = true;
        plan.no_reboot = false;
        plan.forced |= force;
        let (attempt, mut effects) = (plan.attempt.clone(), vec![row(Row::Update(plan.clone()))]);
        // Where an answer is awaited it comes, and goes on by what was asked for now.
        match self.model.state.clone() {
            State::Proven { plan, step: Waiting::Person | Waiting::GateClosed | Waiting::LockRefused | Waiting::Gates } => {
                self.enter(State::Proven { plan, step: Waiting::GateClosed });
                effects.extend(self.look_at_gates_again(now));
            }
            State::Armed {
                plan,
                old_slot,
                boot_id,
                step: ArmedStep::Resting | ArmedStep::Gates | ArmedStep::GateClosed | ArmedStep::LockRefused,
            } => {
                self.enter(State::Armed { plan, old_slot, boot_id, step: ArmedStep::Gates });
                effects.extend(self.look_at_gates_again(now));
            }
            _ => (),
        }
        (Ok(Accepted { attempt: Some(attempt), message }), effects)
    }

    fn command_rollback(&mut self, now: &Now) -> Answer {
        let Some(running) = self.ready() else { return self.not_ready() };
        if self.model.pause.is_some() {
            return reject(Rejection::Paused, PAUSED);
        }
        match &self.model.state {
            State::Idle | State::Checking { .. } | State::Failed { .. } | State::Deferred { .. } => (),
            State::Trial { plan, verdict: Some(_) } => {
                return reject(
                    Rejection::Trial,
                    &format!(
                        "{} is unhealthy: the host goes back to {} as soon as that can be done",
                        plan.version,
                        plan.way_back()
                    ),
                );
            }
            State::Committed { .. } | State::RolledBack { .. } => return reject(Rejection::Busy, &self.end_of_trial(now)),
            State::Trial { plan, verdict: None } => {
                return reject(
                    Rejection::Trial,
                    &format!(
                        "{} is on trial: if it is unhealthy it goes back by itself; `updatectl confirm` keeps it",
                        plan.version
                    ),
                );
            }
            _ => return reject(Rejection::Busy, "an update is under way: `updatectl cancel` first"),
        }
        match self.rollback_plan(running, now) {
            Err(rejected) => (Err(rejected), Vec::new()),
            Ok(plan) => self.start_rollback(plan),
        }
    }

    fn rollback_plan(&self, running: SlotName, now: &Now) -> Result<Plan, Rejected> {
        if let Some(fault) = self.facts.started_by_hand() {
            return Err(Rejected::new(Rejection::NothingToRollBackTo, fault.message));
        }
        let slot = running.other();
        let Some(old) = self.model.committed.get(slot) else {
            return Err(Rejected::new(
                Rejection::NothingToRollBackTo,
                format!(
                    "slot {slot} holds nothing that was committed before and not written since (what the factory wrote counts once \
                     `updatectl adopt RELEASE` has named its record, while it runs)"
                ),
            ));
        };
        match &self.facts.floor {
            FloorFacts::Known(floor) if old.sequence >= floor.floor => (),
            FloorFacts::Known(floor) => {
                let message =
                    format!("{} (sequence {}) is below the floor {} of this host", old.version, old.sequence, floor.floor);
                return Err(Rejected::new(Rejection::BelowFloor, message));
            }
            FloorFacts::Lost { .. } => {
                return Err(Rejected::new(
                    Rejection::FloorLost,
                    "the lowest release this host may run is not known: `updatectl adopt RELEASE` first",
                ));
            }
        }
        let version = Version::parse(&old.version).map_err(|error| Rejected::new(Rejection::Version, error.to_string()))?;
        let from_version = self.facts.slots.get(running).version.clone().unwrap_or_else(|| UNKNOWN_VERSION.to_owned());
        let target = Target { slot, version, sequence: old.sequence, digest: old.digest };
        let plan = Plan::without_payload(now.attempt_id(), Kind::Rollback, target, from_version, now.wall);
        // Who rolls back does not wait for a window; under `manual` a person says when.
        Ok(Plan { reboot_asked: self.policy.strategy != Strategy::Manual, ..plan })
    }

    fn start_rollback(&mut self, plan: Plan) -> Answer {
        let attempt = plan.attempt.clone();
        let message = format!("going back to {} in slot {}", plan.version, plan.slot);
        let mut effects = vec![row(Row::Open(plan.clone()))];
        self.enter(State::Written { plan, rewrites: 0 });
        effects.extend(self.resume_written());
        (Ok(Accepted { attempt: Some(attempt), message }), effects)
    }

    fn command_confirm(&mut self, now: &Now) -> Answer {
        let Some(running) = self.ready() else { return self.not_ready() };
        match self.model.state.clone() {
            State::Trial { plan, verdict: None } => {
                let attempt = plan.attempt.clone();
                let message = format!("{} is confirmed", plan.version);
                let effects = self.start_commit(plan);
                (Ok(Accepted { attempt: Some(attempt), message }), effects)
            }
            State::Trial { .. } => reject(Rejection::Unhealthy, "the slot was judged unhealthy and is being left"),
            State::Committed { plan } => {
                let is_stuck = self.mark_good_error(&plan).is_some();
                let message = if is_stuck { self.end_of_trial(now) } else { "it is being confirmed already".to_owned() };
                accept(Some(plan.attempt), &message)
            }
            _ => self.confirm_steady(running, now),
        }
    }

    fn confirm_steady(&mut self, running: SlotName, now: &Now) -> Answer {
        let standing = self.facts.standing(running).unwrap_or_default();
        if standing.is_good() {
            return accept(None, "the running slot is good already");
        }
        // R1: a mark on the running slot would undo an armed update.
        if !matches!(self.model.state, State::Idle | State::Checking { .. } | State::Failed { .. } | State::Deferred { .. }) {
            return reject(Rejection::Busy, "an update is under way: marking the running slot would undo it");
        }
        if !self.is_on_trial(running) {
            let why = self.facts.started_by_hand().map(|fault| fault.message);
            let why = why.unwrap_or_else(|| "the running slot is neither good nor on trial: see `updatectl slots`".to_owned());
            return reject(Rejection::NotOnTrial, &why);
        }
        let mut effects = self.open_found_trial(running, now);
        let State::Trial { plan, .. } = self.model.state.clone() else {
            return reject(Rejection::Busy, "something else is under way");
        };
        effects.retain(|effect| matches!(effect, Effect::Row(_)));
        let attempt = plan.attempt.clone();
        effects.extend(self.start_commit(plan));
        (Ok(Accepted { attempt: Some(attempt), message: "the running slot is confirmed".to_owned() }), effects)
    }

    /// It is decided how the trial ends, and only marks are still to be written: no command would help with that.
    fn end_of_trial(&self, now: &Now) -> String {
        let at = |at: Mono| now.moment(now.wall_after(now.mono.until(at)).timestamp());
        let again = self
            .model
            .alarm
            .as_ref()
            .map_or_else(|| "is being tried again".to_owned(), |alarm| format!("is tried again at {}", at(alarm.at)));
        match &self.model.state {
            State::Committed { plan } => match self.mark_good_error(plan) {
                None => format!("{} is healthy and is being marked good: try again when that is done", plan.version),
                Some(error) => {
                    let left = self
                        .left_at(now)
                        .map(|left_at| format!("; update-engine-trial reboots the host at {} otherwise", at(left_at)));
                    format!("{} is {error}: that {again}{}", plan.version, left.unwrap_or_default())
                }
            },
            State::RolledBack { plan, .. } => match self.model.last_error.as_ref().filter(|error| error.code == Cause::Disarm) {
                None => format!("{} rolled back, and its slot is being disarmed: try again when that is done", plan.version),
                Some(error) => {
                    format!("{} rolled back, and its slot is still to be disarmed ({}): that {again}", plan.version, error.what())
                }
            },
            _ => "nothing of a trial is left to do".to_owned(),
        }
    }

    fn command_pause(&mut self, until: Option<jiff::Timestamp>, reason: Option<String>, now: &Now) -> Answer {
        if until.is_some_and(|until| until <= now.wall.timestamp()) {
            return reject(Rejection::Past, "the pause would end before it begins");
        }
        if reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON_BYTES) {
            return reject(Rejection::TooLong, &format!("the reason may have {MAX_REASON_BYTES} bytes"));
        }
        self.model.pause = Some(Pause { until, reason, since: now.wall });
        let effects = self.leave_deferred(now);
        let how_long =
            until.map_or_else(|| "paused until `updatectl resume`".to_owned(), |until| format!("paused until {until}"));
        let message = match &self.model.state {
            _ if self.unseen().is_some_and(|unseen| unseen != Unseen::Leaving) => {
                format!(
                    "{how_long}; what is under way waits until it can be seen which slot runs, and the host is not left for that"
                )
            }
            _ if self.soft.leaving == Leaving::Asked => format!("{how_long}; the reboot that is under way is not stopped"),
            State::Armed { step: ArmedStep::Rebooting, .. } => format!("{how_long}; the reboot that is under way is not stopped"),
            // The gates were asked for the last time.
            State::Locked { step: LockedStep::Acknowledging | LockedStep::Arming, .. } => {
                format!("{how_long}; the reboot that is being prepared is not stopped by it (`updatectl cancel` does that)")
            }
            State::Armed { step: ArmedStep::Resting, .. } => {
                let reboot = match self.policy.started_by {
                    StartedBy::AnyReboot => "any reboot",
                    StartedBy::OurReboot => "a reboot with the argument that [reboot] command passes",
                };
                format!("{how_long}; the other slot is armed: {reboot} starts it (`updatectl cancel` disarms it)")
            }
            _ => how_long,
        };
        (Ok(Accepted { attempt: self.current_attempt(), message }), effects)
    }

    fn command_resume(&mut self, now: &Now) -> Answer {
        if self.model.pause.take().is_none() {
            return accept(None, "this host is not paused");
        }
        let effects = match self.model.state {
            State::Deferred { .. } => self.leave_deferred(now),
            State::Proven { step: Waiting::GateClosed, .. } | State::Armed { step: ArmedStep::GateClosed, .. } => {
                self.look_at_gates_again(now)
            }
            _ => Vec::new(),
        };
        (Ok(Accepted { attempt: self.current_attempt(), message: "resumed".to_owned() }), effects)
    }

    fn not_ready(&self) -> Answer {
        if self.soft.leaving == Leaving::Asked {
            reject(Rejection::Busy, LEAVING)
        } else {
            reject(Rejection::RunningSlotUnknown, NOT_SIGHTED)
        }
    }

    fn current_attempt(&self) -> Option<String> {
        self.model.state.plan().map(|plan| plan.attempt.clone())
    }

    fn command_cancel(&mut self, now: &Now) -> Answer {
        match self.model.state.clone() {
            State::Idle | State::Failed { .. } => reject(Rejection::NothingToCancel, "nothing is under way"),
            State::Checking { request } => {
                // The answer is still to come; nothing is started by it.
                self.model.state = State::Checking { request: Request { check_only: true, ..request } };
                accept(None, "nothing will be fetched: the check under way only tells")
            }
            State::Deferred { plan, .. } => {
                self.enter(State::Idle);
                self.check_not_before_interval(now);
                accept(None, &format!("the update to {} is no longer waiting; the next check may find it again", plan.version))
            }
            State::Trial { verdict: None, .. } => reject(
                Rejection::TooLate,
                "the host has booted the new slot: `updatectl confirm` keeps it, otherwise its health decides",
            ),
            State::Trial { plan, verdict: Some(_) } => reject(
                Rejection::TooLate,
                &format!("{} is unhealthy: the host goes back to {} as soon as that can be done", plan.version, plan.way_back()),
            ),
            State::Committed { .. } | State::RolledBack { .. } => reject(Rejection::TooLate, &self.end_of_trial(now)),
            _ if self.ready().is_none() => self.not_ready(),
            State::Armed { step: ArmedStep::Rebooting, .. } if !self.soft.reboot_is_late => reject(
                Rejection::TooLate,
                "the host is rebooting: if it still has not in five minutes, the reboot can be cancelled here",
            ),
            State::Armed { step: ArmedStep::Rebooting, .. } if self.soft.asks_reboot_again => {
                reject(Rejection::Busy, "the reboot is being asked for once more just now: try again in a minute")
            }
            State::Fetching { plan, .. } | State::Written { plan, .. } | State::Proven { plan, .. } => self.cancel(plan, now),
            State::Locked { plan, .. } | State::Armed { plan, .. } => self.cancel(plan, now),
        }
    }

    fn cancel(&mut self, mut plan: Plan, now: &Now) -> Answer {
        let attempt = plan.attempt.clone();
        if plan.giving_up.as_ref().is_some_and(|why| why.end != WayBack::Waits) {
            return accept(Some(attempt), "it is being given up already");
        }
        self.check_not_before_interval(now);
        let fault = Fault::new(Cause::Cancelled, "a person cancelled it");
        if self.is_on_the_way_back() || self.awaits_answer() {
            let slot = plan.giving_up.as_ref().map_or(SlotMayBe::NotArmed, GivingUp::slot);
            plan.giving_up = Some(GivingUp::over(fault, WayBack::Abandoned, slot));
            if let Some(known) = self.model.state.plan_mut() {
                *known = plan;
            }
            // Hooks end sooner when they are told to; lock server and boot table answer in their own time.
            let effects = if self.is_draining() { vec![Effect::Stop(attempt.clone())] } else { Vec::new() };
            let message = "cancelled: it ends as soon as the step under way has answered".to_owned();
            return (Ok(Accepted { attempt: Some(attempt), message }), effects);
        }
        let mut effects = vec![Effect::Stop(attempt.clone())];
        effects.extend(self.give_up(plan, fault, WayBack::Abandoned, now));
        let message = match &self.model.state {
            State::Idle => "cancelled; the next check may find it again (`updatectl pause` prevents that)",
            _ => "cancelled: disarming, undraining, giving the lock back",
        };
        (Ok(Accepted { attempt: Some(attempt), message: message.to_owned() }), effects)
    }

    fn is_on_the_way_back(&self) -> bool {
        matches!(
            self.model.state,
            State::Locked { step: LockedStep::GivingUp, .. } | State::Armed { step: ArmedStep::GivingUp, .. }
        )
    }

    pub(super) const fn is_draining(&self) -> bool {
        matches!(
            self.model.state,
            State::Locked { step: LockedStep::Draining, .. } | State::Armed { step: ArmedStep::Draining, .. }
        )
    }

    /// What was asked for may still change the world: lock, acknowledgement, hooks, boot table.
    pub(super) fn awaits_answer(&self) -> bool {
        self.is_draining()
            || matches!(
                self.model.state,
                State::Proven { step: Waiting::Lock, .. }
                    | State::Locked { step: LockedStep::Acknowledging | LockedStep::Arming, .. }
                    | State::Armed { step: ArmedStep::Lock | ArmedStep::Acknowledging, .. }
            )
    }

    fn command_channel(&mut self, name: String) -> Answer {
        // What a record may name as a channel.
        let fine = |byte: u8| byte.is_ascii_graphic() && !b"/\\\"'<>&`".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME_CHARS || !name.bytes().all(fine) {
            let expected = format!("1 to {MAX_NAME_CHARS} printable ASCII characters without spaces, quotes, slashes or <>&");
            return reject(Rejection::Channel, &format!("channel: expected {expected}, got {name:?}"));
        }
        self.facts.identity.channel.clone_from(&name);
        let message = format!("this host follows channel {name} from the next check on");
        self.model.channel = Some(name);
        accept(None, &message)
    }

    pub(super) fn end_pause_if_over(&mut self, now: &Now) {
        let over = |pause: &Pause| pause.until.is_some_and(|until| until <= now.wall.timestamp());
        if self.model.pause.as_ref().is_some_and(over) {
            self.model.pause = None;
        }
    }

    /// A deferred update looks again when the pause ends, and at least every hour: the wall clock may jump meanwhile.
    pub(super) fn alarm_at_pause_end(&mut self, now: &Now) {
        let until = self.model.pause.as_ref().and_then(|pause| pause.until);
        let left_ms =
            until.map_or(HOUR_MS, |until| u64::try_from(until.as_millisecond().saturating_sub(now.wall.0)).unwrap_or(0));
        self.set_alarm(left_ms.clamp(1000, HOUR_MS), now);
        if let (State::Deferred { until: shown, .. }, Some(until)) = (&mut self.model.state, until) {
            *shown = Some(Wall(until.as_millisecond()));
        }
    }
}

fn accept(attempt: Option<String>, message: &str) -> Answer {
    (Ok(Accepted { attempt, message: message.to_owned() }), Vec::new())
}

fn reject(code: Rejection, message: &str) -> Answer {
    (Err(Rejected::new(code, message)), Vec::new())
}
