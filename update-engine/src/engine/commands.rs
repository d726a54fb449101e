//! What a person asks for, and whether it can be done now.

use manifests::release::SlotName;
use manifests::version::Version;

use crate::engine::command::{Accepted, Command, Rejected};
use crate::engine::effect::{Effect, Row};
use crate::engine::event::Fault;
use crate::engine::facts::FloorFacts;
use crate::engine::model::Pause;
use crate::engine::state::{ArmedStep, Kind, LockedStep, Origin, Plan, Request, State, Target, Waiting};
use crate::engine::time::{Now, Wall};
use crate::engine::{Engine, row};

/// An answer to a command, and what is to be done.
pub type Answer = (Result<Accepted, Rejected>, Vec<Effect>);

impl Engine {
    /// Takes a command up, or says why not. `verify` and `adopt` are the daemon's own and never come here.
    #[must_use]
    pub fn command(&mut self, command: Command, now: &Now) -> Answer {
        match command {
            Command::Check => self.command_check(Request { check_only: true, origin: Origin::Person, ..Request::timer() }, now),
            Command::Update { version, allow_older, no_reboot } => {
                self.command_check(Request { origin: Origin::Person, check_only: false, version, allow_older, no_reboot }, now)
            }
            Command::Install { release, payload, allow_older, no_reboot } => {
                let origin = Origin::Files { release, payload };
                self.command_check(Request { origin, check_only: false, version: None, allow_older, no_reboot }, now)
            }
            Command::Reboot { force } => self.command_reboot(force, now),
            Command::Rollback => self.command_rollback(now),
            Command::Confirm => self.command_confirm(now),
            Command::Pause { until, reason } => self.command_pause(until, reason, now),
            Command::Resume => self.command_resume(now),
            Command::Cancel => self.command_cancel(now),
            Command::Channel { name } => self.command_channel(name, now),
            Command::Verify | Command::Adopt { .. } => reject("not-here", "this is done by the daemon itself"),
        }
    }

    fn command_check(&mut self, request: Request, now: &Now) -> Answer {
        if !self.policy.has_server && !matches!(request.origin, Origin::Files { .. }) {
            return reject(
                "no-server",
                "no update server is configured: set [server] url, or use `updatectl install RELEASE PAYLOAD`",
            );
        }
        if self.soft.background_check.is_some() || matches!(self.model.state, State::Checking { .. }) {
            return accept(None, "a check is under way already");
        }
        if !request.check_only && self.model.pause.is_some() {
            return reject("paused", "this host is paused: `updatectl resume` first");
        }
        match &self.model.state {
            State::Idle | State::Failed { .. } => (),
            State::Deferred { .. } | State::Proven { .. } if request.check_only => (),
            State::Deferred { .. } => self.enter(State::Idle),
            State::Proven { plan, .. } => {
                return accept(Some(plan.attempt.clone()), &format!("{} is written and proven already", plan.version));
            }
            other => {
                let Some(plan) = other.plan() else { return reject("busy", "something else is under way") };
                if request.check_only {
                    return reject(
                        "busy",
                        &format!("the update to {} is under way: the server is asked again when it has ended", plan.version),
                    );
                }
                return accept(Some(plan.attempt.clone()), &format!("the update to {} is under way already", plan.version));
            }
        }
        let what = if matches!(request.origin, Origin::Files { .. }) { "reading the release" } else { "asking the server" };
        let effects = self.start_check(request, now);
        (Ok(Accepted { attempt: None, message: what.to_owned() }), effects)
    }

    fn command_reboot(&mut self, force: bool, now: &Now) -> Answer {
        let ask = |plan: &mut Plan| {
            plan.reboot_asked = true;
            plan.no_reboot = false;
            plan.forced |= force;
        };
        match self.model.state.clone() {
            State::Proven { mut plan, .. } => {
                ask(&mut plan);
                let attempt = plan.attempt.clone();
                let message = format!("rebooting into {} as soon as gates and lock allow", plan.version);
                let mut effects = vec![row(Row::Update(plan.clone()))];
                self.model.state = State::Proven { plan, step: Waiting::Gates };
                effects.extend(self.look_at_gates_again(now));
                (Ok(Accepted { attempt: Some(attempt), message }), effects)
            }
            State::Armed { step: ArmedStep::Rebooting, plan, .. } => accept(Some(plan.attempt), "the host is rebooting already"),
            State::Armed { mut plan, old_slot, boot_id, step } if step != ArmedStep::GivingUp => {
                ask(&mut plan);
                let attempt = plan.attempt.clone();
                let message = format!("rebooting into {}", plan.version);
                let mut effects = vec![row(Row::Update(plan.clone()))];
                self.model.state = State::Armed { plan, old_slot, boot_id, step: ArmedStep::Gates };
                effects.extend(self.look_at_gates_again(now));
                (Ok(Accepted { attempt: Some(attempt), message }), effects)
            }
            State::Fetching { mut plan, rewrites } => {
                ask(&mut plan);
                let attempt = plan.attempt.clone();
                self.model.state = State::Fetching { plan, rewrites };
                accept(Some(attempt), "the host will reboot when the slot is written and proven")
            }
            State::Written { mut plan, rewrites } => {
                ask(&mut plan);
                let attempt = plan.attempt.clone();
                self.model.state = State::Written { plan, rewrites };
                accept(Some(attempt), "the host will reboot when the slot is proven")
            }
            State::Locked { plan, .. } => accept(Some(plan.attempt), "the host is about to reboot already"),
            _ => reject(
                "nothing-to-reboot",
                "no update is ready: `updatectl update` brings one; to reboot without one, use the system's own command",
            ),
        }
    }

    fn command_rollback(&mut self, now: &Now) -> Answer {
        if let State::Trial { plan, .. } = &self.model.state {
            return reject(
                "trial",
                &format!("{} is on trial: if it is unhealthy it goes back by itself; `updatectl confirm` keeps it", plan.version),
            );
        }
        if !matches!(self.model.state, State::Idle | State::Failed { .. } | State::Deferred { .. }) {
            return reject("busy", "an update is under way: `updatectl cancel` first");
        }
        let (Some(running), Some(slot)) = (self.facts.running, self.facts.target()) else {
            return reject("running-slot-unknown", "it is not known which slot runs");
        };
        match self.rollback_plan(running, slot, now) {
            Err(rejected) => (Err(rejected), Vec::new()),
            Ok(plan) => self.start_rollback(plan, running, now),
        }
    }

    fn rollback_plan(&self, running: SlotName, slot: SlotName, now: &Now) -> Result<Plan, Rejected> {
        let Some(old) = self.model.committed.get(slot) else {
            return Err(rejected(
                "nothing-to-roll-back-to",
                &format!("slot {slot} holds nothing that was committed before and not written since"),
            ));
        };
        match &self.facts.floor {
            FloorFacts::Known(floor) if old.sequence >= floor.floor => (),
            FloorFacts::Known(floor) => {
                let message =
                    format!("{} (sequence {}) is below the floor {} of this host", old.version, old.sequence, floor.floor);
                return Err(rejected("below-floor", &message));
            }
            FloorFacts::Lost { .. } => {
                return Err(rejected(
                    "floor-lost",
                    "the lowest release this host may run is not known: `updatectl adopt RELEASE` first",
                ));
            }
        }
        let version = Version::parse(&old.version).map_err(|error| rejected("version", &error.to_string()))?;
        let from_version = self.facts.slots.get(running).version.clone().unwrap_or_else(|| "unknown".to_owned());
        let target = Target { slot, version, sequence: old.sequence, digest: old.digest };
        let plan = Plan::without_payload(now.attempt_id(), Kind::Rollback, target, from_version, now.wall);
        Ok(Plan { reboot_asked: true, ..plan })
    }

    fn start_rollback(&mut self, plan: Plan, running: SlotName, now: &Now) -> Answer {
        let mut effects = vec![row(Row::Open(plan.clone()))];
        // What is left behind on purpose must not come back by itself.
        if let Some(left) = self.model.committed.get(running).clone() {
            let refused = Plan {
                digest: left.digest,
                sequence: left.sequence,
                version: Version::parse(&left.version).unwrap_or_else(|_| plan.version.clone()),
                ..plan.clone()
            };
            effects.push(self.refuse(&refused, "a person rolled it back", now));
        }
        let attempt = plan.attempt.clone();
        let message = format!("going back to {} in slot {}", plan.version, plan.slot);
        self.enter(State::Written { plan: plan.clone(), rewrites: 0 });
        effects.push(Effect::ReadBack(plan));
        (Ok(Accepted { attempt: Some(attempt), message }), effects)
    }

    fn command_confirm(&mut self, now: &Now) -> Answer {
        match self.model.state.clone() {
            State::Trial { plan, verdict: None } => {
                let attempt = plan.attempt.clone();
                let message = format!("{} is confirmed", plan.version);
                let effects = self.start_commit(plan);
                (Ok(Accepted { attempt: Some(attempt), message }), effects)
            }
            State::Trial { .. } => reject("unhealthy", "the slot was judged unhealthy and is being left"),
            State::Committed { plan } => accept(Some(plan.attempt), "it is being confirmed already"),
            _ => self.confirm_steady(now),
        }
    }

    fn confirm_steady(&mut self, now: &Now) -> Answer {
        let Some(running) = self.facts.running else { return reject("running-slot-unknown", "it is not known which slot runs") };
        if self.facts.marks(running).is_some_and(|marks| marks.good) {
            return accept(None, "the running slot is good already");
        }
        // R1: a mark on the running slot would undo an armed update.
        if !matches!(self.model.state, State::Idle | State::Failed { .. } | State::Deferred { .. }) {
            return reject("busy", "an update is under way: marking the running slot would undo it");
        }
        let effects = self.settle_idle(running, now);
        match self.model.state.clone() {
            State::Trial { plan, .. } => {
                let mut all: Vec<Effect> = effects.into_iter().filter(|effect| matches!(effect, Effect::Row(_))).collect();
                let attempt = plan.attempt.clone();
                all.extend(self.start_commit(plan));
                (Ok(Accepted { attempt: Some(attempt), message: "the running slot is confirmed".to_owned() }), all)
            }
            _ => reject("not-on-trial", "the running slot is neither good nor on trial: see `updatectl slots`"),
        }
    }

    fn command_pause(&mut self, until: Option<jiff::Timestamp>, reason: Option<String>, now: &Now) -> Answer {
        if until.is_some_and(|until| until <= now.wall.timestamp()) {
            return reject("past", "the pause would end before it begins");
        }
        self.model.pause = Some(Pause { until, reason, since: now.wall });
        if let State::Deferred { .. } = self.model.state {
            self.alarm_at_pause_end(now);
        }
        let message = until.map_or_else(|| "paused until `updatectl resume`".to_owned(), |until| format!("paused until {until}"));
        accept(None, &message)
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
        (
            Ok(Accepted { attempt: self.model.state.plan().map(|plan| plan.attempt.clone()), message: "resumed".to_owned() }),
            effects,
        )
    }

    fn command_cancel(&mut self, now: &Now) -> Answer {
        let fault = Fault::new("cancelled", "a person cancelled it");
        match self.model.state.clone() {
            State::Deferred { plan, .. } => {
                self.enter(State::Idle);
                accept(None, &format!("the update to {} is no longer waiting; the next check may find it again", plan.version))
            }
            State::Fetching { plan, .. } | State::Written { plan, .. } | State::Proven { plan, .. } => {
                let mut effects = vec![Effect::Stop(plan.attempt.clone())];
                effects.extend(self.abandon(&plan, &fault));
                self.check_not_before_interval(now);
                (
                    Ok(Accepted {
                        attempt: Some(plan.attempt),
                        message: "cancelled; the next check may find it again (`updatectl pause` prevents that)".to_owned(),
                    }),
                    effects,
                )
            }
            State::Locked { plan, step, .. } if step != LockedStep::GivingUp => self.cancel_late(plan, fault, now),
            State::Armed { plan, step, .. } if step != ArmedStep::GivingUp => self.cancel_late(plan, fault, now),
            State::Locked { .. } | State::Armed { .. } => accept(None, "it is being given up already"),
            State::Checking { .. } => {
                self.enter(State::Idle);
                accept(None, "the check is cancelled")
            }
            State::Trial { .. } | State::Committed { .. } | State::RolledBack { .. } => {
                reject("too-late", "the host has booted the new slot: `updatectl confirm` keeps it, otherwise its health decides")
            }
            State::Idle | State::Failed { .. } => reject("nothing-to-cancel", "nothing is under way"),
        }
    }

    fn cancel_late(&mut self, plan: Plan, fault: Fault, now: &Now) -> Answer {
        let attempt = plan.attempt.clone();
        let mut effects = vec![Effect::Stop(attempt.clone())];
        effects.extend(self.give_up(plan, fault, true, now));
        self.check_not_before_interval(now);
        (
            Ok(Accepted { attempt: Some(attempt), message: "cancelled: disarming, undraining, giving the lock back".to_owned() }),
            effects,
        )
    }

    fn check_not_before_interval(&mut self, now: &Now) {
        let delay_ms = self.policy.next_check_ms(None, now);
        self.model.check.next = Some(self.alarm(delay_ms, now));
    }

    fn command_channel(&mut self, name: String, _now: &Now) -> Answer {
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

const HOUR_MS: u64 = 3_600_000;

fn accept(attempt: Option<String>, message: &str) -> Answer {
    (Ok(Accepted { attempt, message: message.to_owned() }), Vec::new())
}

fn reject(code: &str, message: &str) -> Answer {
    (Err(rejected(code, message)), Vec::new())
}

fn rejected(code: &str, message: &str) -> Rejected {
    Rejected { code: code.to_owned(), message: message.to_owned() }
}
