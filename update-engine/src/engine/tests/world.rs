//! A world in small for the property test: two slots, a loader, a lock server, an update server, a journal, a clock, and faults.
//!
//! Fault model, each switched on or off by the seed:
//! - the daemon is killed between a step and its journal, between the journal and its effects, between an effect and its event;
//! - power is cut at the same moments; the loader then boots by its rule and counts tries;
//! - an effect fails before it did anything, or after it did everything;
//! - answers of the lock server are lost after they took effect; its administrator frees a draining holder; others hold it;
//! - releases are good, unhealthy, or do not boot at all; downloads fail; slots rot before they are proven;
//! - the journal is lost but for its tables that never change form; the running slot or the boot table cannot be seen;
//! - the wall clock jumps by ten years either way; a person gives any command at any moment.
//!
//! It checks after every step what must never happen, and panics with the seed when it does.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use manifests::release::SlotName;

use crate::engine::command::Command;
use crate::engine::effect::{Effect, LockOutcome, Outcome, ReportKind, Row};
use crate::engine::event::{CheckAnswer, Event, Fault, Fetched, Gate, LockGrant, LockHolder, LockRefusal, Orphan, Proof};
use crate::engine::facts::{BootTable, Content, Facts, Floor, FloorFacts, Marks, PerSlot};
use crate::engine::policy::Policy;
use crate::engine::state::{Kind, Origin, Plan, Request, State, Waiting};
use crate::engine::time::{Mono, Now, Wall};
use crate::engine::{Engine, Model};

use super::host::{self, TRIES, digest, sequence, version};
use super::words;

/// How a release behaves once it is in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    Good,
    Unhealthy,
    DoesNotBoot,
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
    mono: u64,
    wall: i64,
    reboot_at: Option<u64>,
    timer_checks: u64,
    starts: u64,
    began: u64,
    journal_was_lost: bool,
    forced: BTreeSet<String>,
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
        let good = Bits { priority: 1, tries: 0, good: true };
        let disk = Disk {
            bits: PerSlot { a: good, b: BLANK },
            held: PerSlot { a: Held::Release(1), b: Held::Rubbish },
            records: PerSlot { a: Some(1), b: None },
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
            mono: 1_000,
            wall: host::NOON.0,
            reboot_at: None,
            timer_checks: 0,
            starts: 0,
            began: 1_000,
            journal_was_lost: false,
            forced: BTreeSet::new(),
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
            let nature = self.dice.pick(&[Nature::Good, Nature::Unhealthy, Nature::DoesNotBoot]);
            self.publish(nature);
        }
        if self.faults.others_hold && self.dice.one_in(12) && self.holders.is_empty() {
            self.other_holds = !self.other_holds;
        }
        if self.faults.others_hold && self.dice.one_in(80) {
            // The administrator frees a holder that only drains.
            self.holders.retain(|_, phase| *phase == Phase::Rebooting);
        }
        if self.faults.power_cuts && self.dice.one_in(60) {
            return self.power_cycle("power cut");
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
        let next = [wake, self.reboot_at].into_iter().flatten().min();
        let span = match next {
            Some(at) => at.saturating_sub(self.mono),
            None => 60_000 + self.dice.below(600_000),
        };
        self.mono += span;
        self.wall += i64::try_from(span).unwrap();
        if wake.is_some_and(|at| at <= self.mono) {
            self.step(Event::Woke);
        }
    }

    // ---- the daemon

    fn deliver_event(&mut self) {
        let at = usize::try_from(self.dice.below(u64::try_from(self.process.events.len()).unwrap())).unwrap();
        let event = self.process.events.remove(at);
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
        self.journal(&effects);
        self.check_claims();
        match self.survival() {
            Survival::Lives => (),
            Survival::Killed => return self.kill(),
            Survival::PowerCut => return self.power_cycle("power cut after the journal"),
        }
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
            Row::Close { attempt, outcome, .. } => {
                let known = self.attempt(attempt);
                assert_eq!(known.ended, None, "P7: closed twice");
                known.ended = Some(*outcome);
            }
            Row::Report(report) => {
                let ends = matches!(
                    report.kind,
                    ReportKind::Committed | ReportKind::RolledBack | ReportKind::Failed | ReportKind::Abandoned
                );
                self.attempt(&report.attempt).reports_of_end += u32::from(ends);
            }
            Row::Release { attempt, outcome, .. } => self.disk.outbox.push((attempt.clone(), *outcome)),
            Row::Refuse(refusal) => {
                self.disk.refusals.retain(|known| known.digest != refusal.digest);
                self.disk.refusals.push(refusal.clone());
            }
            Row::Forgive(digest) => self.disk.refusals.retain(|known| known.digest != *digest),
            Row::Downloaded { .. } => (),
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
        let lost = self.faults.lost_journals && self.dice.one_in(4);
        if lost {
            self.note(|_| "the journal is lost".into());
            self.disk.model = Model::default();
            self.journal_was_lost = true;
        }
        let model = self.read_journal();
        let facts = self.seen();
        let current = model.state.plan().map(|plan| plan.attempt.clone());
        let orphans = self.orphans(current.as_deref());
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
        self.step(Event::Started { facts: Box::new(facts), orphans });
        // The start itself may have been killed: then another one has told it.
        self.process.events.push(Event::Outbox { releases_waiting });
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

    // ---- the machine

    fn power_cycle(&mut self, why: &str) {
        self.reboot_at = None;
        self.boots += 1;
        // A reboot undrains by itself: services start anew.
        self.drained = false;
        self.running = self.load();
        self.note(|world| format!("{why}: slot {} boots, {:?}", world.running, world.disk.bits));
        // Time since boot starts over.
        self.began = self.began.wrapping_sub(self.mono).wrapping_add(20_000);
        self.mono = 20_000;
        self.start_daemon();
    }

    /// The loader: the highest priority that is good or has tries left, the first of equals; a try is spent on one that is not good.
    fn load(&mut self) -> SlotName {
        for _ in 0..64 {
            let eligible = |bits: &Bits| bits.good || bits.tries > 0;
            let (a, b) = (self.disk.bits.a, self.disk.bits.b);
            let choice = match (eligible(&a), eligible(&b)) {
                (true, true) if b.priority > a.priority => SlotName::B,
                (true, _) | (false, false) => SlotName::A,
                (false, true) => SlotName::B,
            };
            let bits = self.disk.bits.get_mut(choice);
            if !bits.good && bits.tries > 0 {
                bits.tries -= 1;
            }
            match *self.disk.held.get(choice) {
                Held::Rubbish => panic!("P1: the loader starts slot {choice}, which holds no complete image"),
                Held::Release(number) if self.nature(number) == Nature::DoesNotBoot => (),
                Held::Release(_) => return choice,
            }
        }
        panic!("P1: nothing boots")
    }

    /// The world as a look at it shows it.
    fn seen(&mut self) -> Facts {
        let mut facts = self.facts();
        if self.faults.blind && self.dice.one_in(3) {
            if self.dice.one_in(2) {
                facts.running = None;
            } else {
                facts.boot = None;
            }
        }
        facts
    }

    fn facts(&self) -> Facts {
        let content = |slot: SlotName| match *self.disk.records.get(slot) {
            Some(number) => {
                Content { version: Some(version(number)), sequence: Some(sequence(number)), digest: Some(digest(number)) }
            }
            None => Content::default(),
        };
        Facts {
            boot_id: format!("boot-{}", self.boots),
            running: Some(self.running),
            boot: Some(self.table()),
            slots: PerSlot { a: content(SlotName::A), b: content(SlotName::B) },
            floor: FloorFacts::Known(self.disk.floor.clone()),
            ..host::facts()
        }
    }

    fn table(&self) -> BootTable {
        let marks = |bits: Bits| Marks {
            bootable: bits.good || bits.tries > 0,
            good: bits.good,
            tries_left: bits.tries,
            spent: !bits.good && bits.priority > 0 && bits.tries == 0,
            priority: bits.priority,
        };
        let (a, b) = (self.disk.bits.a, self.disk.bits.b);
        let next = if b.priority > a.priority { SlotName::B } else { SlotName::A };
        BootTable { marks: PerSlot { a: marks(a), b: marks(b) }, next, tries: TRIES }
    }

    fn running_is_good(&self) -> bool {
        self.disk.bits.get(self.running).good
    }

    // ---- effects

    fn run_effect(&mut self) {
        let slot_work = |effect: &Effect| matches!(effect, Effect::Install { .. } | Effect::ReadBack(_));
        let mut at = usize::try_from(self.dice.below(u64::try_from(self.process.in_flight.len()).unwrap())).unwrap();
        // Works on the slot take turns, in the order they were asked for.
        if slot_work(&self.process.in_flight[at]) {
            at = self.process.in_flight.iter().position(slot_work).unwrap();
        }
        let effect = self.process.in_flight.remove(at);
        let fails_before = self.faults.effects_fail && self.dice.one_in(10);
        let answer = if fails_before { self.failed(&effect) } else { self.do_effect(&effect) };
        let fails_after = self.faults.effects_fail && self.dice.one_in(25);
        let answer = if fails_after { self.failed(&effect) } else { answer };
        match self.survival() {
            Survival::Lives => self.process.events.extend(answer),
            Survival::Killed => self.kill(),
            Survival::PowerCut => self.power_cycle("power cut after an effect"),
        }
    }

    /// The answer of an effect that says it failed.
    fn failed(&mut self, effect: &Effect) -> Option<Event> {
        let fault = || Fault::new("broken", "it broke");
        let event = match effect {
            Effect::Check(_) => {
                let retry_after_s = self.dice.pick(&[None, None, Some(7200), Some(u64::MAX)]);
                Event::Checked {
                    facts: Box::new(self.seen()),
                    answer: Box::new(CheckAnswer::Failed { fault: fault(), retry_after_s }),
                }
            }
            Effect::Install { plan, .. } => {
                // It may have failed in the middle: the slot was disarmed and holds half an image.
                *self.disk.held.get_mut(plan.slot) = Held::Rubbish;
                *self.disk.bits.get_mut(plan.slot) = BLANK;
                *self.disk.records.get_mut(plan.slot) = None;
                self.process.proven = None;
                Event::Installed { attempt: plan.attempt.clone(), boot: Some(self.table()), result: Err(fault()) }
            }
            Effect::ReadBack(plan) => Event::ReadBack { attempt: plan.attempt.clone(), result: Err(fault()) },
            Effect::Gates { plan, stage } => Event::Gates {
                attempt: plan.attempt.clone(),
                stage: *stage,
                gates: vec![Gate { gate: "hook".into(), closed: Some("no".into()), until: None }],
            },
            Effect::Lock(plan) => Event::Lock { attempt: plan.attempt.clone(), result: Err(refusal("no answer")) },
            Effect::Drain(plan) => Event::Drained { attempt: plan.attempt.clone(), result: Err(fault()) },
            Effect::AcknowledgeReboot(plan) => Event::RebootAcknowledged { attempt: plan.attempt.clone(), result: Err(fault()) },
            Effect::Arm(plan) => {
                self.process.proven = None;
                Event::Armed { attempt: plan.attempt.clone(), result: Err(fault()) }
            }
            Effect::Reboot(plan) => {
                self.reboot_at = None;
                Event::Reboot { attempt: plan.attempt.clone(), result: Err(fault()) }
            }
            Effect::Disarm(_) => Event::Disarmed { result: Err(fault()) },
            Effect::Undrain(plan) => {
                self.drained = false;
                Event::Undrained { attempt: plan.attempt.clone() }
            }
            Effect::Health(plan) => Event::Health { attempt: plan.attempt.clone(), result: Err("it flapped".into()) },
            Effect::Commit(plan) => Event::CommitDone { attempt: plan.attempt.clone(), result: Err(fault()) },
            Effect::MarkBad(plan) => Event::MarkedBad { attempt: plan.attempt.clone(), result: Err(fault()) },
            Effect::Stop(_) | Effect::Row(_) => return None,
        };
        Some(event)
    }

    /// Does it, as the daemon's adapters would.
    fn do_effect(&mut self, effect: &Effect) -> Option<Event> {
        match effect {
            Effect::Check(request) => Some(self.check(request)),
            Effect::Install { plan, .. } => Some(self.install(plan)),
            Effect::ReadBack(plan) => Some(self.read_back(plan)),
            Effect::Gates { plan, stage } => {
                let closed = self.faults.closed_gates && self.dice.one_in(3);
                let name = self.dice.pick(&["hook", "window", "inhibitor"]);
                let gate = Gate { gate: name.into(), closed: closed.then(|| "not now".into()), until: None };
                Some(Event::Gates { attempt: plan.attempt.clone(), stage: *stage, gates: vec![gate] })
            }
            Effect::Lock(plan) => Some(self.lock(plan)),
            Effect::Drain(plan) => {
                self.drained = true;
                Some(Event::Drained { attempt: plan.attempt.clone(), result: Ok(()) })
            }
            Effect::Undrain(plan) => {
                self.drained = false;
                Some(Event::Undrained { attempt: plan.attempt.clone() })
            }
            Effect::AcknowledgeReboot(plan) => Some(self.acknowledge(plan)),
            Effect::Arm(plan) => Some(self.arm(plan)),
            Effect::Disarm(slot) => Some(self.disarm(*slot)),
            Effect::Reboot(plan) => {
                self.reboot_at = Some(self.mono + 5_000 + self.dice.below(20_000));
                Some(Event::Reboot { attempt: plan.attempt.clone(), result: Ok(()) })
            }
            Effect::Health(plan) => {
                let healthy = *self.disk.held.get(self.running) != Held::Rubbish
                    && matches!(*self.disk.held.get(self.running), Held::Release(number) if self.nature(number) == Nature::Good);
                let result = if healthy { Ok(vec![]) } else { Err("nginx is down".into()) };
                Some(Event::Health { attempt: plan.attempt.clone(), result })
            }
            Effect::Commit(plan) => Some(self.commit(plan)),
            Effect::MarkBad(plan) => Some(self.mark_bad(plan)),
            Effect::Stop(_) | Effect::Row(_) => None,
        }
    }

    fn check(&mut self, request: &Request) -> Event {
        let offered =
            if self.faults.effects_fail && self.dice.one_in(12) { self.dice.below(self.newest()) + 1 } else { self.newest() };
        let runs = *self.disk.records.get(self.running) == Some(offered);
        let answer = match &request.origin {
            Origin::Files { .. } | Origin::Person | Origin::Timer if !runs || self.dice.one_in(4) => {
                CheckAnswer::Offer { poll_interval_s: None, offer: Box::new(host::offer(offered)) }
            }
            _ => CheckAnswer::NoUpdate { poll_interval_s: Some(self.dice.below(1 << 20)), hold: None },
        };
        Event::Checked { facts: Box::new(self.seen()), answer: Box::new(answer) }
    }

    fn install(&mut self, plan: &Plan) -> Event {
        assert_ne!(plan.slot, self.running, "P2: the running slot is written");
        let attempt = plan.attempt.clone();
        if !self.running_is_good() {
            return Event::Installed {
                attempt,
                boot: None,
                result: Err(Fault::new("boot-control", "the running slot is not good")),
            };
        }
        self.process.proven = None;
        *self.disk.bits.get_mut(plan.slot) = BLANK;
        *self.disk.records.get_mut(plan.slot) = None;
        *self.disk.held.get_mut(plan.slot) = Held::Release(plan.sequence.get());
        let rots = self.faults.effects_fail && self.dice.one_in(10);
        if rots {
            *self.disk.held.get_mut(plan.slot) = Held::Rubbish;
        }
        let fetched = Fetched { bytes_downloaded: 1, bytes_reused: 0 };
        Event::Installed { attempt, boot: Some(self.table()), result: Ok(fetched) }
    }

    fn read_back(&mut self, plan: &Plan) -> Event {
        let equal = *self.disk.held.get(plan.slot) == Held::Release(plan.sequence.get());
        if equal {
            self.process.proven = Some(plan.attempt.clone());
            *self.disk.records.get_mut(plan.slot) = Some(plan.sequence.get());
        }
        let proof = if equal { Proof::Equal } else { Proof::Differs { detail: "window 1".into() } };
        Event::ReadBack { attempt: plan.attempt.clone(), result: Ok(proof) }
    }

    fn lock(&mut self, plan: &Plan) -> Event {
        let attempt = plan.attempt.clone();
        let claim = plan.claim.as_ref().expect("a lock without a claim");
        assert!(claim.url.starts_with("http://locks"));
        let granted = self.grant(&attempt);
        let lost = self.faults.lost_answers && self.dice.one_in(5);
        let result = match (granted, lost) {
            (_, true) => Err(refusal("no answer")),
            (true, false) => Ok(LockGrant { fence: Some("1".into()) }),
            (false, false) => Err(LockRefusal {
                holders: vec![LockHolder { id: "host-7".into(), ..LockHolder::default() }],
                ..refusal("held by host-7")
            }),
        };
        Event::Lock { attempt, result }
    }

    fn grant(&mut self, attempt: &str) -> bool {
        let free = self.holders.is_empty() && !self.other_holds;
        if free {
            self.holders.insert(attempt.to_owned(), Phase::Draining);
        }
        self.holders.contains_key(attempt)
    }

    fn acknowledge(&mut self, plan: &Plan) -> Event {
        let held = self.holders.get_mut(&plan.attempt).map(|phase| *phase = Phase::Rebooting);
        let lost = self.faults.lost_answers && self.dice.one_in(8);
        let result = match (held, lost) {
            (Some(()), false) => Ok(()),
            _ => Err(Fault::new("lock", "not acknowledged")),
        };
        Event::RebootAcknowledged { attempt: plan.attempt.clone(), result }
    }

    fn arm(&mut self, plan: &Plan) -> Event {
        let attempt = plan.attempt.clone();
        assert_ne!(plan.slot, self.running, "P2: the running slot is armed");
        assert_eq!(self.process.proven.take().as_deref(), Some(attempt.as_str()), "P3: armed without a read-back in this run");
        assert_eq!(*self.disk.held.get(plan.slot), Held::Release(plan.sequence.get()), "P3: armed something else");
        assert!(plan.sequence >= self.disk.floor.floor, "P3: below the floor");
        if self.policy.lock.is_some() && !plan.forced {
            assert_eq!(self.holders.get(&attempt), Some(&Phase::Rebooting), "P4: armed without an acknowledged lock");
            assert!(plan.claim.as_ref().is_some_and(|claim| claim.granted), "P4: armed without a grant");
        }
        if plan.forced {
            assert!(self.forced.contains(&attempt), "forced by nobody");
        }
        if !self.running_is_good() {
            return Event::Armed { attempt, result: Err(Fault::new("boot-control", "the running slot is not good")) };
        }
        let top = self.disk.bits.get(self.running).priority.max(self.disk.bits.get(plan.slot).priority) + 1;
        let top = if top > 14 {
            self.disk.bits.get_mut(self.running).priority = 1;
            2
        } else {
            top
        };
        *self.disk.bits.get_mut(plan.slot) = Bits { priority: top, tries: TRIES, good: false };
        Event::Armed { attempt, result: Ok(self.table()) }
    }

    fn disarm(&mut self, slot: SlotName) -> Event {
        assert_ne!(slot, self.running, "P2: the running slot is disarmed");
        if !self.running_is_good() {
            return Event::Disarmed { result: Err(Fault::new("boot-control", "the running slot is not good")) };
        }
        *self.disk.bits.get_mut(slot) = BLANK;
        Event::Disarmed { result: Ok(self.table()) }
    }

    fn commit(&mut self, plan: &Plan) -> Event {
        let attempt = plan.attempt.clone();
        if plan.slot != self.running {
            return Event::CommitDone { attempt, result: Err(Fault::new("running-slot", "another slot runs")) };
        }
        if plan.sequence.get() > 0 {
            self.disk.floor.highest = self.disk.floor.highest.max(plan.sequence);
        }
        if self.faults.effects_fail && self.dice.one_in(12) {
            return Event::CommitDone { attempt, result: Err(Fault::new("io", "the disk is full")) };
        }
        let bits = self.disk.bits.get_mut(self.running);
        bits.good = true;
        bits.tries = 0;
        Event::CommitDone { attempt, result: Ok(Box::new(self.facts())) }
    }

    fn mark_bad(&mut self, plan: &Plan) -> Event {
        let attempt = plan.attempt.clone();
        let other = self.running.other();
        let other_boots = self.disk.bits.get(other).good || self.disk.bits.get(other).tries > 0;
        if plan.slot != self.running || !other_boots {
            return Event::MarkedBad { attempt, result: Err(Fault::new("boot-control", "no other slot is bootable")) };
        }
        *self.disk.bits.get_mut(self.running) = BLANK;
        Event::MarkedBad { attempt, result: Ok(self.table()) }
    }

    fn deliver_release(&mut self) {
        if self.faults.effects_fail && self.dice.one_in(4) {
            return;
        }
        let (attempt, _) = self.disk.outbox.remove(0);
        self.holders.remove(&attempt);
        let releases_waiting = u32::try_from(self.disk.outbox.len()).unwrap();
        self.process.events.push(Event::Outbox { releases_waiting });
    }

    // ---- people

    fn command(&mut self) {
        let version = || Some(version(1));
        let command = match self.dice.below(12) {
            0 => Command::Check,
            1 => Command::Update { version: None, allow_older: false, no_reboot: false },
            2 => Command::Update { version: Some(super::host::version(self.newest())), allow_older: false, no_reboot: false },
            3 => Command::Update { version: version(), allow_older: true, no_reboot: self.dice.one_in(2) },
            4 => Command::Reboot { force: self.dice.one_in(4) },
            5 => Command::Rollback,
            6 => Command::Confirm,
            7 => Command::Pause { until: None, reason: None },
            8 | 9 => Command::Resume,
            10 => Command::Install { release: "/r".into(), payload: "/p".into(), allow_older: false, no_reboot: false },
            _ => Command::Cancel,
        };
        self.order(command);
    }

    fn order(&mut self, command: Command) {
        let now = self.now();
        let forced = command == Command::Reboot { force: true };
        let shown = if self.trace.is_some() { format!("{command:?}") } else { String::new() };
        let (answer, effects) = self.process.engine.command(command, &now);
        if let (true, Ok(accepted)) = (forced, &answer) {
            self.forced.extend(accepted.attempt.clone());
        }
        self.note(|world| format!("{shown} => {answer:?} {} {:?}", world.state(), words::effects(&effects)));
        self.after_step(effects, None);
    }

    // ---- what must never happen

    fn check_effects(&self, effects: &[Effect], request: Option<&Request>) {
        for effect in effects {
            match effect {
                Effect::Install { plan, .. } | Effect::Arm(plan) => {
                    assert_ne!(plan.slot, self.running, "P2: {effect:?}");
                }
                Effect::Disarm(slot) => assert_ne!(*slot, self.running, "P2: {effect:?}"),
                _ => (),
            }
            let by_timer = request.is_some_and(|request| request.origin == Origin::Timer);
            if let (Effect::Row(Row::Open(plan)), true) = (effect, by_timer) {
                let refused = self.disk.refusals.iter().any(|refusal| refusal.digest == plan.digest);
                assert!(!refused || plan.kind == Kind::Found, "P8: the timer installs a release that was given up");
            }
        }
    }

    /// P6: every lock that this host holds will be given back: by an attempt under way, or by the outbox.
    fn check_claims(&self) {
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

    /// Works that must not run beside each other.
    fn check_in_flight(&self) {
        let count = |is: fn(&Effect) -> bool| self.process.in_flight.iter().filter(|effect| is(effect)).count();
        let table = count(|effect| matches!(effect, Effect::Arm(_) | Effect::Disarm(_) | Effect::Commit(_) | Effect::MarkBad(_)));
        let arms = count(|effect| matches!(effect, Effect::Arm(_)));
        let hooks = count(|effect| matches!(effect, Effect::Drain(_) | Effect::Undrain(_)));
        let writes = count(|effect| matches!(effect, Effect::Install { .. }));
        assert!(table <= 1, "two writes to the boot table at once: {:?}", words::effects(&self.process.in_flight));
        assert!(arms == 0 || writes == 0, "armed while written");
        assert!(hooks <= 1, "drained and undrained at once: {:?}", words::effects(&self.process.in_flight));
    }

    /// P10: the timer's checks in the time that passed. A failed attempt brings one check sooner; its pause doubles.
    pub(super) fn check_rate(&self) {
        let shortest = u64::try_from(self.policy.check_interval.as_millis()).unwrap() / 4 * 9 / 10;
        let failed = self.disk.attempts.values().filter(|attempt| attempt.ended == Some(Outcome::Failed)).count();
        let most = self.elapsed_ms() / shortest + self.boots + self.starts + u64::try_from(failed).unwrap() + 2;
        assert!(self.timer_checks <= most, "P10: {} checks, at most {most}", self.timer_checks);
    }

    // ---- when faults stop

    /// P9: a good release comes out, all faults stop, and the host reaches it within three days.
    pub(super) fn calm(&mut self) {
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
        assert!(!self.table().marks.get(self.running.other()).pending(), "the old slot is armed");
    }

    fn elapsed_ms(&self) -> u64 {
        self.mono.wrapping_sub(self.began)
    }

    /// What only a person can do, a person does.
    fn order_if_waiting(&mut self) {
        if self.process.engine.model().pause.is_some() {
            self.order(Command::Resume);
        }
        let person = matches!(
            self.process.engine.model().state,
            State::Proven { step: Waiting::Person, .. } | State::Armed { step: crate::engine::state::ArmedStep::Resting, .. }
        );
        if person && self.process.in_flight.is_empty() && self.process.events.is_empty() {
            self.order(Command::Reboot { force: false });
        }
    }

    fn has_arrived(&self) -> bool {
        *self.disk.records.get(self.running) == Some(self.newest())
            && matches!(self.process.engine.model().state, State::Idle)
            && self.running_is_good()
            && self.disk.outbox.is_empty()
            && self.process.in_flight.is_empty()
            && self.process.events.is_empty()
    }
}

fn refusal(message: &str) -> LockRefusal {
    LockRefusal { kind: "lock".into(), message: message.into(), ..LockRefusal::default() }
}
