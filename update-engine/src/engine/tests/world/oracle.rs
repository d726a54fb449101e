//! What people do, what must never happen, and what must happen when faults stop.

use crate::engine::command::Command;
use crate::engine::effect::{Effect, LockOutcome, Outcome, Row};
use crate::engine::event::Event;
use crate::engine::state::{ArmedStep, Kind, Origin, Plan, Request, State, Waiting};
use crate::engine::unseen::{Leaving, Unseen};

use super::{Faults, Nature, World};
use crate::engine::tests::{host, words};

impl World {
    pub(super) fn command(&mut self) {
        let version = || Some(host::version(1));
        let command = match self.dice.below(12) {
            0 => Command::Check,
            1 => Command::Update { version: None, allow_older: false, no_reboot: false },
            2 => Command::Update { version: Some(host::version(self.newest())), allow_older: false, no_reboot: false },
            3 => Command::Update { version: version(), allow_older: true, no_reboot: self.dice.one_in(2) },
            4 => Command::Reboot { force: self.dice.one_in(4) },
            5 => Command::Rollback,
            6 => Command::Confirm,
            7 => Command::Pause { until: None, reason: None },
            8 | 9 => Command::Resume,
            10 => Command::Install {
                release: "/r".into(),
                payload: Some("/p".into()),
                delta: None,
                allow_older: false,
                no_reboot: false,
            },
            _ => Command::Cancel,
        };
        self.order(command);
    }

    pub(super) fn order(&mut self, command: Command) {
        // What cannot be written down is refused, and never began.
        if self.outage.is_some() {
            return;
        }
        let now = self.now();
        let (forced, confirms) = (command == Command::Reboot { force: true }, command == Command::Confirm);
        let shown = if self.trace.is_some() { format!("{command:?}") } else { String::new() };
        let cancels_late_reboot = command == Command::Cancel && self.process.engine.soft().reboot_is_late;
        let (answer, effects) = self.process.engine.command(command, &now);
        if let Ok(accepted) = &answer {
            if cancels_late_reboot {
                // Whoever cancels a late reboot was told to end what is left of the shutdown first.
                self.going_down = None;
                self.reboot_at = None;
            }
            if forced {
                self.forced.extend(accepted.attempt.clone());
            }
            if confirms {
                self.vouched.extend(accepted.attempt.clone());
            }
        }
        self.note(|world| format!("{shown} => {answer:?} {} {:?}", world.state(), words::effects(&effects)));
        self.after_step(effects, None);
    }

    // ---- what must never happen

    pub(super) fn check_effects(&self, effects: &[Effect], request: Option<&Request>) {
        for effect in effects {
            match effect {
                Effect::Install { plan, .. } | Effect::Arm(plan) => {
                    assert_ne!(plan.slot, self.running, "P2: {effect:?}");
                }
                Effect::Disarm(slot) => assert_ne!(*slot, self.running, "P2: {effect:?}"),
                _ => (),
            }
            let by_timer = request.is_some_and(|request| request.origin == Origin::Timer);
            if let (Effect::Row(Row::Open(plan)), true) = (effect, by_timer && !self.journal_was_lost) {
                let refused = self.disk.refusals.iter().any(|refusal| refusal.digest == plan.digest);
                let came_back = self.came_back.contains(&plan.sequence.get());
                assert!(!refused && !came_back || plan.kind == Kind::Found, "P8: the timer installs a release that was given up");
            }
        }
    }

    /// P3, P4: what the loader starts next was armed for that once, or was there from the beginning.
    pub(super) fn check_choice(&self) {
        let choice = self.table().next;
        assert!(self.disk.was_armed.get(choice), "P3: slot {choice} is the next one, and nobody has armed it");
    }

    /// P6: every lock that this host holds will be given back: by an attempt under way, or by the outbox.
    pub(super) fn check_claims(&self) {
        let plan = self.process.engine.model().state.plan();
        for attempt in self.holders.keys() {
            let claimed = plan.is_some_and(|plan| plan.attempt == *attempt && plan.claim.is_some());
            let queued = self.disk.outbox.iter().any(|(queued, _)| queued == attempt);
            // Not looked after yet: its world cannot be seen.
            let orphans = &self.process.engine.soft().orphans;
            let orphan = orphans.iter().any(|orphan| orphan.attempt == *attempt && orphan.claim.is_some());
            assert!(claimed || queued || orphan, "P6: the lock of {attempt} is held and nobody will give it back");
        }
        let rests = matches!(
            self.process.engine.model().state,
            State::Idle | State::Checking { .. } | State::Deferred { .. } | State::Failed { .. }
        );
        assert!(!rests || plan.is_none_or(|plan| plan.claim.is_none()), "P6: a resting host has a claim");
    }

    /// A lock is given back for what really happened, and never while its slot may still be booted.
    pub(super) fn check_release(&self, attempt: &str, outcome: LockOutcome) {
        let known = &self.disk.attempts[attempt];
        let slot = known.plan.slot;
        match outcome {
            LockOutcome::Ok => {
                assert_eq!(known.ended, Some(Outcome::Committed), "the lock is given back before health");
                assert!(self.disk.bits.get(slot).good, "committed and not good");
            }
            LockOutcome::RolledBack => assert_eq!(known.ended, Some(Outcome::RolledBack)),
            LockOutcome::Aborted => {
                let armed = !self.disk.bits.get(slot).good && self.disk.bits.get(slot).tries > 0;
                assert!(!armed || slot == self.running, "P4: the lock is given back while slot {slot} is armed");
            }
        }
    }

    /// A host that is not about to reboot is not left drained.
    pub(super) fn check_drained(&self, effects: &[Effect]) {
        let state = &self.process.engine.model().state;
        let known = state.plan().is_some_and(|plan| plan.drained);
        let undrains = effects.iter().chain(&self.process.in_flight).any(|effect| matches!(effect, Effect::Undrain(_)));
        let later = matches!(state, State::Trial { .. }) || !self.process.engine.soft().orphans.is_empty();
        assert!(!self.drained || known || undrains || later, "the host is left drained");
    }

    /// A host that only writes a slot has nobody wait for it: what it was drained and locked for is taken back, or being so.
    pub(super) fn check_burden(&self, effects: &[Effect]) {
        let engine = &self.process.engine;
        let State::Fetching { plan, .. } = &engine.model().state else { return };
        if engine.facts().is_blind() {
            return;
        }
        let under_way = effects.iter().chain(&self.process.in_flight).any(|effect| matches!(effect, Effect::Undrain(_)))
            || self.process.events.iter().any(|event| matches!(event, Event::Undrained { .. }));
        let granted = plan.claim.as_ref().is_some_and(|claim| claim.granted);
        assert!(under_way || !(plan.drained || granted), "a host that writes a slot stays drained, or keeps the lock");
    }

    /// A reboot that leaves what is not seen brings the old slot back, was counted before, and comes as often as there are tries.
    pub(super) fn check_left(&mut self, plan: &Plan) {
        let engine = &self.process.engine;
        let first = engine.soft().leaving == Leaving::Asked && engine.soft().reboot_accepted_at.is_none();
        if !first {
            return;
        }
        let facts = engine.facts();
        assert!(facts.running.is_none() && facts.boot.is_some(), "left although it is known what runs, or no table can be read");
        assert!(self.disk.bits.get(plan.slot.other()).good, "P1: left for a slot that is not good");
        assert!(!self.disk.bits.get(plan.slot).good, "left although the loader starts it again");
        let counted = self.disk.model.bad_boots.as_ref().filter(|known| known.attempt == plan.attempt);
        // Where the boots have no ids, their number has to say it.
        let is_durable = counted.is_some_and(|known| known.boot_id.is_same(&facts.boot_id) != Some(false));
        assert!(is_durable, "left before it was written down that this boot counts");
        let counted = counted.map_or(0, |known| usize::try_from(known.count).unwrap());
        let boots = self.left_unseen.entry(plan.attempt.clone()).or_default();
        boots.insert(self.boots);
        assert!(counted >= boots.len() || self.journal_was_lost, "left in {} boots, and {counted} written down", boots.len());
        let most = usize::from(host::TRIES);
        assert!(boots.len() <= most || self.journal_was_lost, "left in {} boots", boots.len());
    }

    /// Works that must not run beside each other.
    pub(super) fn check_in_flight(&self) {
        let count = |is: fn(&Effect) -> bool| self.process.in_flight.iter().filter(|effect| is(effect)).count();
        let table = count(|effect| matches!(effect, Effect::Arm(_) | Effect::Disarm(_) | Effect::Commit(_) | Effect::MarkBad(_)));
        let arms = count(|effect| matches!(effect, Effect::Arm(_)));
        let hooks = count(|effect| matches!(effect, Effect::Drain(_) | Effect::Undrain(_)));
        let writes = count(|effect| matches!(effect, Effect::Install { .. }));
        let health = count(|effect| matches!(effect, Effect::Health(_)));
        let looks = count(|effect| matches!(effect, Effect::Look));
        let last_looks = count(|effect| matches!(effect, Effect::LookToLeave(_)));
        assert!(table <= 1, "two writes to the boot table at once: {:?}", words::effects(&self.process.in_flight));
        assert!(arms == 0 || writes == 0, "armed while written");
        assert!(health <= 1 && looks <= 1 && last_looks <= 1, "twice at once: {:?}", words::effects(&self.process.in_flight));
        assert!(hooks <= 1, "drained and undrained at once: {:?}", words::effects(&self.process.in_flight));
    }

    /// P10: the timer's checks in the time that passed. A failed attempt brings one check sooner; its pause doubles.
    pub(in crate::engine::tests) fn check_rate(&self) {
        let shortest = u64::try_from(self.policy.check_interval.as_millis()).unwrap() / 4 * 9 / 10;
        let failed = self.disk.attempts.values().filter(|attempt| attempt.ended == Some(Outcome::Failed)).count();
        let most = self.elapsed_ms() / shortest + self.boots + self.starts + u64::try_from(failed).unwrap() + 2;
        assert!(self.timer_checks <= most, "P10: {} checks, at most {most}", self.timer_checks);
    }

    // ---- when faults stop

    /// P9: a good release comes out, all faults stop, and the host reaches it within three days.
    pub(in crate::engine::tests) fn calm(&mut self) {
        self.faults = Faults::NONE;
        self.other_holds = false;
        self.publish(Nature::Good);
        self.note(|_| "calm".into());
        let deadline_ms = self.elapsed_ms() + 3 * 86_400_000;
        for turn in 0..20_000 {
            self.order_if_waiting();
            self.turn();
            if self.has_arrived() {
                break;
            }
            assert!(turn < 19_999, "P9: a storm of turns; the lock is held by {:?}, other {}", self.holders, self.other_holds);
            assert!(self.elapsed_ms() < deadline_ms, "P9: not there within three days");
        }
        for attempt in self.disk.attempts.values() {
            assert!(attempt.ended.is_some(), "P7: an attempt never ended");
            assert_eq!(attempt.reports_of_end, 1, "P7: reported {} times", attempt.reports_of_end);
        }
        assert_eq!(self.holders.len(), 0, "P6: a steady healthy host holds a lock");
        assert!(!self.drained, "the host stays drained");
        assert!(self.running_is_good());
        assert!(!self.table().standing.get(self.running.other()).is_pending(), "the old slot is armed");
    }

    /// In how many boots a host was left because nothing was seen from there.
    pub(in crate::engine::tests) fn left_unseen(&self) -> u64 {
        self.left_unseen.values().map(|boots| u64::try_from(boots.len()).unwrap()).sum()
    }

    pub(super) fn elapsed_ms(&self) -> u64 {
        self.mono.wrapping_sub(self.began)
    }

    /// What only a person can do, a person does.
    pub(super) fn order_if_waiting(&mut self) {
        if self.process.engine.model().pause.is_some() {
            self.order(Command::Resume);
        }
        let is_idle = matches!(self.process.engine.model().state, State::Idle);
        if is_idle && self.process.engine.facts().started_by_hand().is_some() {
            self.power_cycle("a person does what status says");
        }
        // Also one whose journal was lost, so that it does not know that the image it cannot see from is on trial.
        let leaves = matches!(self.process.engine.unseen(), Some(Unseen::Leaves { .. } | Unseen::Leaving));
        if self.process.engine.facts().is_blind() && !leaves && self.dice.one_in(20) {
            return self.power_cycle("a person reboots it");
        }
        let person = matches!(
            self.process.engine.model().state,
            State::Proven { step: Waiting::Person, .. } | State::Armed { step: ArmedStep::Resting, .. }
        );
        if person && self.process.in_flight.is_empty() && self.process.events.is_empty() {
            self.order(Command::Reboot { force: false });
        }
    }

    pub(super) fn has_arrived(&self) -> bool {
        *self.disk.records.get(self.running) == Some(self.newest())
            && matches!(self.process.engine.model().state, State::Idle)
            && self.running_is_good()
            && self.disk.outbox.is_empty()
            && self.process.in_flight.is_empty()
            && self.process.events.is_empty()
    }
}
