//! A world in small for the property test: two slots, a loader, a lock server, an update server, a journal, a clock, and faults.
//!
//! Fault model, each switched on or off by the seed:
//! - the daemon is killed between a step and its journal, between the journal and its effects, between an effect and its event;
//! - power is cut at the same moments; the loader then boots by its rule and counts tries;
//! - an effect fails before it did anything, or after it did everything;
//! - answers of the lock server are lost after they took effect; its administrator frees a draining holder; others hold it;
//! - releases are good, unhealthy, or do not boot at all; downloads fail; slots rot before they are proven;
//! - the journal cannot be written for a while, or not even be read: what cannot wait goes on without it after ten minutes;
//! - the journal is lost but for its tables that never change form; the running slot, the boot table or the id of the boot cannot be
//!   seen, by one look or by any from that image;
//! - the wall clock jumps by ten years either way; a person gives any command at any moment, or starts the other slot by hand.
//!
//! It checks after every step what must never happen, and panics with the seed when it does.

mod machine;
mod oracle;
mod outage;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use manifests::release::SlotName;

use crate::engine::cause::Cause;
use crate::engine::effect::{Effect, LockOutcome, Outcome, ReportKind, Row};
use crate::engine::event::{Event, Orphan};
use crate::engine::facts::{Facts, Floor, PerSlot};
use crate::engine::policy::Policy;
use crate::engine::state::{Origin, Plan, Request, State};
use crate::engine::time::{Mono, Now, Wall};
use crate::engine::{Engine, Model};

use self::outage::Outage;
use super::host::{self, sequence};
use super::words;

/// How a release behaves once it is in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    Good,
    Unhealthy,
    DoesNotBoot,
    /// From it nobody sees which slot runs.
    HidesSlot,
    /// From it nobody sees anything of the disk.
    HidesDisk,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Release(u64),
    Rubbish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bits {
    priority: u8,
    tries: u8,
    good: bool,
}

/// Lines of the trace that are printed with a failure.
const TRACE_LINES: usize = 120;

const BLANK: Bits = Bits { priority: 0, tries: 0, good: false };
/// Marked bad: told from one that was disarmed.
const BAD: Bits = Bits { priority: 1, tries: 0, good: false };

/// A small fast generator: the seed is the whole test.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One time in `n`.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(u64::try_from(of.len()).unwrap())).unwrap()]
    }
}

/// Which faults there are in this run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) kills: bool,
    pub(super) power_cuts: bool,
    pub(super) effects_fail: bool,
    pub(super) lost_answers: bool,
    pub(super) others_hold: bool,
    pub(super) bad_releases: bool,
    pub(super) clock_jumps: bool,
    pub(super) commands: bool,
    pub(super) closed_gates: bool,
    pub(super) lost_journals: bool,
    pub(super) blind: bool,
    pub(super) full_disks: bool,
    pub(super) boots_by_hand: bool,
}

impl Faults {
    pub(super) fn from(dice: &mut Dice) -> Self {
        let mut on = || dice.one_in(2);
        Self {
            kills: on(),
            power_cuts: on(),
            effects_fail: on(),
            lost_answers: on(),
            others_hold: on(),
            bad_releases: on(),
            clock_jumps: on(),
            commands: on(),
            closed_gates: on(),
            lost_journals: on() && on(),
            blind: on() && on(),
            full_disks: on() && on(),
            boots_by_hand: on() && on(),
        }
    }

    const NONE: Self = Self {
        kills: false,
        power_cuts: false,
        effects_fail: false,
        lost_answers: false,
        others_hold: false,
        bad_releases: false,
        clock_jumps: false,
        commands: false,
        closed_gates: false,
        lost_journals: false,
        blind: false,
        full_disks: false,
        boots_by_hand: false,
    };
}

/// One attempt as the journal's table has it.
#[derive(Clone, Debug)]
struct Attempt {
    plan: Plan,
    ended: Option<Outcome>,
    reports_of_end: u32,
}

/// What survives a kill and a power cut.
#[derive(Debug)]
struct Disk {
    bits: PerSlot<Bits>,
    held: PerSlot<Held>,
    records: PerSlot<Option<u64>>,
    /// What the slot holds was armed, with a proof and what else that takes, or was there from the beginning.
    was_armed: PerSlot<bool>,
    floor: Floor,
    model: Model,
    refusals: Vec<crate::engine::model::Refusal>,
    attempts: BTreeMap<String, Attempt>,
    outbox: Vec<(String, LockOutcome)>,
}

/// What does not.
#[derive(Debug)]
struct Process {
    engine: Engine,
    in_flight: Vec<Effect>,
    events: Vec<Event>,
    proven: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Draining,
    Rebooting,
}

/// How the daemon goes on after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Survival {
    Lives,
    Killed,
    PowerCut,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) faults: Faults,
    policy: Policy,
    disk: Disk,
    process: Process,
    natures: Vec<Nature>,
    /// Ours by attempt; `other` for other hosts.
    holders: BTreeMap<String, Phase>,
    other_holds: bool,
    running: SlotName,
    drained: bool,
    boots: u64,
    /// This run of the daemon cannot read the id of the boot.
    boot_id_is_hidden: bool,
    /// Boots that an attempt's slot was left in because nothing was seen from it.
    left_unseen: BTreeMap<String, BTreeSet<u64>>,
    mono: u64,
    wall: i64,
    reboot_at: Option<u64>,
    /// The attempt whose reboot was accepted while it held the lock, until the daemon is started again.
    going_down: Option<String>,
    timer_checks: u64,
    starts: u64,
    began: u64,
    journal_was_lost: bool,
    /// The journal cannot be written.
    outage: Option<Outage>,
    forced: BTreeSet<String>,
    /// Attempts whose slot was seen to be healthy, or was confirmed by a person.
    vouched: BTreeSet<String>,
    /// Releases that a loader has tried to start.
    tried: BTreeSet<u64>,
    /// Releases that came back, by what really happened.
    came_back: BTreeSet<u64>,
    /// Refused offers that the update server heard of, by version and cause.
    refusals_heard: BTreeSet<(String, String)>,
    trace: Option<Trace>,
}

/// The last lines of what happened.
pub(super) type Trace = Rc<RefCell<Vec<String>>>;

impl World {
    pub(super) fn new(seed: u64, trace: Option<Trace>) -> Self {
        let mut dice = Dice::new(seed);
        use crate::engine::policy::Strategy::{Immediate, Lock, Manual};
        let (strategy, with_lock) =
            dice.pick(&[(Immediate, false), (Lock, true), (Lock, true), (Lock, true), (Manual, false), (Manual, true)]);
        let policy = host::policy(strategy, with_lock);
        let faults = Faults::from(&mut dice);
        let from_the_factory = if dice.one_in(3) { BLANK } else { Bits { priority: 1, tries: 0, good: true } };
        let disk = Disk {
            bits: PerSlot { a: from_the_factory, b: BLANK },
            held: PerSlot { a: Held::Release(1), b: Held::Rubbish },
            records: PerSlot { a: Some(1), b: None },
            was_armed: PerSlot { a: true, b: false },
            floor: Floor { floor: sequence(0), highest: sequence(1) },
            model: Model::default(),
            refusals: vec![],
            attempts: BTreeMap::new(),
            outbox: vec![],
        };
        let engine = Engine::new(Model::default(), host::facts(), policy.clone());
        let process = Process { engine, in_flight: vec![], events: vec![], proven: None };
        let mut world = Self {
            dice,
            faults,
            policy,
            disk,
            process,
            natures: vec![Nature::Good, Nature::Good],
            holders: BTreeMap::new(),
            other_holds: false,
            running: SlotName::A,
            drained: false,
            boots: 1,
            boot_id_is_hidden: false,
            left_unseen: BTreeMap::new(),
            mono: 1_000,
            wall: host::NOON.0,
            reboot_at: None,
            going_down: None,
            timer_checks: 0,
            starts: 0,
            began: 1_000,
            journal_was_lost: false,
            outage: None,
            forced: BTreeSet::new(),
            vouched: BTreeSet::new(),
            tried: BTreeSet::from([1]),
            came_back: BTreeSet::new(),
            refusals_heard: BTreeSet::new(),
            trace,
        };
        world.start_daemon();
        world
    }

    /// One thing happens.
    pub(super) fn turn(&mut self) {
        if self.faults.clock_jumps && self.dice.one_in(40) {
            let ten_years = 10 * 366 * 86_400_000;
            self.wall += if self.dice.one_in(2) { ten_years } else { -ten_years };
        }
        if self.faults.bad_releases && self.dice.one_in(60) {
            use Nature::{DoesNotBoot, Good, HidesDisk, HidesSlot, Unhealthy};
            let nature = self.dice.pick(&[Good, Unhealthy, DoesNotBoot, HidesSlot, HidesDisk]);
            self.publish(nature);
        }
        if self.faults.others_hold && self.dice.one_in(12) && self.holders.is_empty() {
            self.other_holds = !self.other_holds;
        }
        if self.faults.others_hold && self.dice.one_in(80) {
            // The administrator frees a holder that only drains.
            self.holders.retain(|_, phase| *phase == Phase::Rebooting);
        }
        if self.outage.is_some() && (!self.faults.full_disks || self.dice.one_in(30)) {
            return self.end_outage();
        }
        if self.faults.full_disks && self.outage.is_none() && self.dice.one_in(60) {
            self.begin_outage();
        }
        if self.faults.power_cuts && self.dice.one_in(60) {
            return self.power_cycle("power cut");
        }
        if self.faults.boots_by_hand && self.dice.one_in(60) {
            return self.boot_by_hand();
        }
        if self.faults.kills && self.dice.one_in(40) {
            return self.kill();
        }
        if self.faults.commands && self.dice.one_in(12) {
            return self.command();
        }
        if self.reboot_at.is_some_and(|at| at <= self.mono) {
            return self.power_cycle("reboot");
        }
        match (self.process.events.is_empty(), self.process.in_flight.is_empty()) {
            (false, true) => self.deliver_event(),
            (true, false) => self.run_effect(),
            (false, false) if self.dice.one_in(2) => self.deliver_event(),
            (false, false) => self.run_effect(),
            (true, true) if !self.disk.outbox.is_empty() && self.dice.one_in(2) => self.deliver_release(),
            (true, true) => self.pass_time(),
        }
    }

    /// Keeps the last lines of what happened, when somebody will read them.
    fn note(&self, what: impl FnOnce(&Self) -> String) {
        if let Some(trace) = self.trace.clone() {
            let line = what(self);
            let mut trace = trace.borrow_mut();
            trace.push(line);
            let surplus = trace.len().saturating_sub(TRACE_LINES);
            trace.drain(..surplus);
        }
    }

    pub(super) fn publish(&mut self, nature: Nature) {
        self.natures.push(nature);
        self.note(|world| format!("release {} is out: {nature:?}", world.newest()));
    }

    fn state(&self) -> &'static str {
        words::state(&self.process.engine.model().state)
    }

    fn newest(&self) -> u64 {
        u64::try_from(self.natures.len()).unwrap()
    }

    fn nature(&self, number: u64) -> Nature {
        self.natures[usize::try_from(number - 1).unwrap()]
    }

    // ---- time

    fn now(&mut self) -> Now {
        let dice = u128::from(self.dice.next()) << 64 | u128::from(self.dice.next());
        Now { wall: Wall(self.wall), mono: Mono(self.mono), dice }
    }

    /// To whatever comes next: a timer, a reboot, or a while.
    fn pass_time(&mut self) {
        let wake = self.process.engine.next_wake().map(|at| at.0);
        let tries_again = self.outage.is_some().then(|| self.mono + 120_000);
        let next = [wake, self.reboot_at, tries_again].into_iter().flatten().min();
        let span = match next {
            Some(at) => at.saturating_sub(self.mono),
            None => 60_000 + self.dice.below(600_000),
        };
        self.mono += span;
        self.wall += i64::try_from(span).unwrap();
        if wake.is_some_and(|at| at <= self.mono) {
            self.step(Event::Woke);
        }
        self.end_standstill();
    }

    // ---- the daemon

    fn deliver_event(&mut self) {
        let at = usize::try_from(self.dice.below(u64::try_from(self.process.events.len()).unwrap())).unwrap();
        let event = match self.process.events.remove(at) {
            // The daemon counts when it tells.
            Event::Outbox { .. } => Event::Outbox { releases_waiting: u32::try_from(self.disk.outbox.len()).unwrap() },
            event => event,
        };
        self.step(event);
    }

    fn step(&mut self, event: Event) {
        let request = match (&event, &self.process.engine.model().state) {
            (Event::Checked { .. }, State::Checking { request }) => Some(request.clone()),
            (Event::Checked { .. }, _) => self.process.engine.soft().background_check.clone(),
            _ => None,
        };
        let now = self.now();
        let shown = if self.trace.is_some() { format!("{event:?}").chars().take(60).collect() } else { String::new() };
        let effects = self.process.engine.step(event, &now);
        self.note(|world| format!("{shown} => {} {:?}", world.state(), words::effects(&effects)));
        self.after_step(effects, request.as_ref());
    }

    fn after_step(&mut self, effects: Vec<Effect>, request: Option<&Request>) {
        self.check_effects(&effects, request);
        match self.survival() {
            Survival::Lives => (),
            // Between the step and its journal: none of it ever happened.
            Survival::Killed => return self.kill(),
            Survival::PowerCut => return self.power_cycle("power cut before the journal"),
        }
        if self.outage.is_some() {
            return self.hold(effects);
        }
        self.journal(&effects);
        self.check_claims();
        self.check_drained(&effects);
        self.check_burden(&effects);
        match self.survival() {
            Survival::Lives => (),
            Survival::Killed => return self.kill(),
            Survival::PowerCut => return self.power_cycle("power cut after the journal"),
        }
        self.start_effects(effects);
    }

    fn start_effects(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Check(request) = &effect {
                self.timer_checks += u64::from(request.origin == Origin::Timer);
            }
            if !matches!(effect, Effect::Row(_)) {
                self.process.in_flight.push(effect);
            }
        }
        self.check_in_flight();
    }

    fn survival(&mut self) -> Survival {
        if self.faults.kills && self.dice.one_in(50) {
            return Survival::Killed;
        }
        if self.faults.power_cuts && self.dice.one_in(80) {
            return Survival::PowerCut;
        }
        Survival::Lives
    }

    fn journal(&mut self, effects: &[Effect]) {
        self.disk.model.clone_from(self.process.engine.model());
        for effect in effects {
            if let Effect::Row(row) = effect {
                self.write_row(row);
            }
        }
        assert_eq!(self.disk.refusals, self.process.engine.model().refusals, "the table of refusals and the model differ");
    }

    fn write_row(&mut self, row: &Row) {
        match row {
            Row::Open(plan) => {
                let attempt = Attempt { plan: plan.clone(), ended: None, reports_of_end: 0 };
                assert!(self.disk.attempts.insert(plan.attempt.clone(), attempt).is_none(), "opened twice");
            }
            Row::Update(plan) => self.attempt(&plan.attempt).plan = plan.clone(),
            Row::Close { attempt, outcome, .. } => self.close(attempt, *outcome),
            Row::Report(report) => {
                assert!(report.code.as_ref().is_none_or(Cause::is_reported), "docs/omaha.md says never sent: {report:?}");
                if report.attempt.is_empty() {
                    let refusal = (report.to_version.clone(), report.code.as_ref().unwrap().to_string());
                    let is_new = self.refusals_heard.insert(refusal);
                    assert!(is_new || self.journal_was_lost, "the server is told twice: {report:?}");
                    return;
                }
                let ends = matches!(
                    report.kind,
                    ReportKind::Committed | ReportKind::RolledBack | ReportKind::Failed | ReportKind::Abandoned
                );
                self.attempt(&report.attempt).reports_of_end += u32::from(ends);
            }
            Row::Release { attempt, outcome, .. } => {
                self.check_release(attempt, *outcome);
                self.disk.outbox.push((attempt.clone(), *outcome));
            }
            Row::Refuse(refusal) => {
                self.disk.refusals.retain(|known| known.digest != refusal.digest);
                self.disk.refusals.push(refusal.clone());
            }
            Row::Forgive(digest) => self.disk.refusals.retain(|known| known.digest != *digest),
            Row::Downloaded { .. } => (),
        }
    }

    fn close(&mut self, id: &str, outcome: Outcome) {
        let known = self.attempt(id);
        assert_eq!(known.ended, None, "P7: closed twice");
        known.ended = Some(outcome);
        let number = known.plan.sequence.get();
        match outcome {
            Outcome::Committed => drop(self.came_back.remove(&number)),
            Outcome::RolledBack if number > 0 => {
                // Of an attempt whose journal was lost only the slot's marks are left, which may be those of the one before it.
                let was_tried = self.tried.contains(&number) || self.journal_was_lost;
                assert!(was_tried, "P7: a release that was never booted is called rolled back");
                self.came_back.insert(number);
            }
            _ => (),
        }
    }

    fn attempt(&mut self, id: &str) -> &mut Attempt {
        self.disk.attempts.get_mut(id).expect("P7: an attempt that was never opened")
    }

    fn kill(&mut self) {
        // A request that was on its way may still arrive.
        let lock = self.process.in_flight.iter().find_map(|effect| match effect {
            Effect::Lock(plan) => Some(plan.attempt.clone()),
            _ => None,
        });
        if let Some(attempt) = lock.filter(|_| self.dice.one_in(2)) {
            self.grant(&attempt);
        }
        // So may a write to the boot table.
        let written = self.process.in_flight.iter().position(|effect| matches!(effect, Effect::Arm(_) | Effect::Disarm(_)));
        if let Some(at) = written.filter(|_| self.dice.one_in(2)) {
            let effect = self.process.in_flight.remove(at);
            self.do_effect(&effect);
        }
        self.note(|_| "killed".into());
        self.start_daemon();
    }

    fn start_daemon(&mut self) {
        self.starts += 1;
        // A daemon that knows of no shutdown asks gates and lock again, and may take the reboot back.
        self.going_down = None;
        let lost = self.faults.lost_journals && self.dice.one_in(4);
        if lost {
            self.note(|_| "the journal is lost".into());
            self.disk.model = Model::default();
            self.journal_was_lost = true;
        }
        let blank = self.outage_at_start();
        if !blank {
            self.raise_floor();
        }
        self.boot_id_is_hidden = self.faults.blind && self.dice.one_in(6);
        let model = if blank { Model::default() } else { self.read_journal() };
        let facts = self.seen();
        let current = model.state.plan().map(|plan| plan.attempt.clone());
        let orphans = if blank { vec![] } else { self.orphans(current.as_deref()) };
        assert!(self.journal_was_lost || orphans.is_empty(), "P7: an attempt that nobody will end");
        self.process = Process {
            engine: Engine::new(model, facts.clone(), self.policy.clone()),
            in_flight: vec![],
            events: vec![],
            proven: None,
        };
        let releases_waiting = u32::try_from(self.disk.outbox.len()).unwrap();
        if orphans.is_empty() && self.dice.one_in(4) {
            self.start_twice(&facts);
        }
        // Before anything else the daemon tells what its outbox holds.
        let now = self.now();
        let effects = self.process.engine.step(Event::Outbox { releases_waiting }, &now);
        assert_eq!(words::effects(&effects), Vec::<String>::new());
        self.step(Event::Started { facts: Box::new(facts), orphans });
    }

    /// As JSON, as the journal does; not every time, because that is most of the work of a sequence.
    fn read_journal(&mut self) -> Model {
        let mut model = self.disk.model.clone();
        if self.dice.one_in(4) {
            model = serde_json::from_str(&serde_json::to_string(&model).unwrap()).unwrap();
        }
        model.refusals.clone_from(&self.disk.refusals);
        model
    }

    /// P11: recovery run twice gives the same state as run once.
    fn start_twice(&mut self, facts: &Facts) {
        let now = self.now();
        let event = || Event::Started { facts: Box::new(facts.clone()), orphans: vec![] };
        let mut once = self.process.engine.clone();
        let _effects = once.step(event(), &now);
        let mut twice = Engine::new(once.model().clone(), facts.clone(), self.policy.clone());
        let effects = twice.step(event(), &now);
        let rows = effects.iter().filter(|effect| matches!(effect, Effect::Row(_))).count();
        assert_eq!(rows, 0, "P11: the second start wrote {:?}", words::effects(&effects));
        // A person's check is repeated a few times only.
        let checks = |engine: &Engine| matches!(engine.model().state, State::Checking { .. });
        if !checks(&once) && !checks(&twice) {
            assert_eq!(twice.model().state, once.model().state, "P11");
        }
    }

    fn orphans(&self, current: Option<&str>) -> Vec<Orphan> {
        let open = self.disk.attempts.values().filter(|attempt| attempt.ended.is_none());
        open.filter(|attempt| Some(attempt.plan.attempt.as_str()) != current)
            .map(|attempt| Orphan {
                attempt: attempt.plan.attempt.clone(),
                slot: attempt.plan.slot,
                from_version: attempt.plan.from_version.clone(),
                version: attempt.plan.version.clone(),
                sequence: attempt.plan.sequence,
                digest: attempt.plan.digest,
                started_at: attempt.plan.started_at,
                claim: attempt.plan.claim.clone(),
            })
            .collect()
    }
}
