//! The machine and what the daemon's adapters do to it: loader, slots, lock server, update server.

use crate::boot::{Past, Standing};
use crate::engine::cause::Cause;
use crate::engine::effect::Effect;
use crate::engine::event::{
    AskAgain, CheckAnswer, Event, Fault, Fetched, Gate, LockGrant, LockHolder, LockRefusal, Marked, Proof, RebootAccepted,
};
use crate::engine::facts::{BootTable, Content, Facts, Floor, FloorFacts, PerSlot};
use crate::engine::state::{Kind, Origin, Plan, Request};
use crate::engine::time::BootId;

use super::{BAD, BLANK, Bits, Held, Nature, Phase, Survival, World};
use crate::engine::tests::host::{self, TRIES, digest, sequence, version};
use manifests::release::SlotName;
use manifests::version::Sequence;

impl World {
    pub(super) fn power_cycle(&mut self, why: &str) {
        if let Some(attempt) = self.going_down.take() {
            assert!(self.holders.contains_key(&attempt), "P5: the host goes down without the lock it took for that");
        }
        self.check_choice();
        let slot = self.load();
        self.boot(slot, why);
    }

    fn boot(&mut self, slot: SlotName, why: &str) {
        self.reboot_at = None;
        self.boots += 1;
        // A reboot undrains by itself: services start anew.
        self.drained = false;
        self.running = slot;
        self.note(|world| format!("{why}: slot {} boots, {:?}", world.running, world.disk.bits));
        // Time since boot starts over.
        self.began = self.began.wrapping_sub(self.mono).wrapping_add(20_000);
        self.mono = 20_000;
        self.start_daemon();
    }

    /// The loader: the highest priority that is good or has tries left, the first of equals; a try is spent on one that is not good.
    pub(super) fn load(&mut self) -> SlotName {
        for _ in 0..64 {
            let choice = self.choice();
            let bits = self.disk.bits.get_mut(choice);
            if !bits.good && bits.tries > 0 {
                bits.tries -= 1;
            }
            if let Held::Release(number) = *self.disk.held.get(choice) {
                self.tried.insert(number);
            }
            match *self.disk.held.get(choice) {
                Held::Rubbish => panic!("P1: the loader starts slot {choice}, which holds no complete image"),
                Held::Release(number) if self.nature(number) == Nature::DoesNotBoot => drop(self.came_back.insert(number)),
                Held::Release(_) => return choice,
            }
        }
        panic!("P1: nothing boots")
    }

    fn choice(&self) -> SlotName {
        let eligible = |bits: &Bits| bits.good || bits.tries > 0;
        let (a, b) = (self.disk.bits.a, self.disk.bits.b);
        match (eligible(&a), eligible(&b)) {
            (true, true) if b.priority > a.priority => SlotName::B,
            (true, _) | (false, false) => SlotName::A,
            (false, true) => SlotName::B,
        }
    }

    /// A person picks the other slot in the loader's menu, which counts no try of that. What it holds comes up.
    pub(super) fn boot_by_hand(&mut self) {
        let other = self.running.other();
        match *self.disk.held.get(other) {
            Held::Release(number) if self.nature(number) != Nature::DoesNotBoot => drop(self.tried.insert(number)),
            _ => return,
        }
        self.going_down = None;
        self.boot(other, "a person starts the other slot");
    }

    /// The world as a look at it shows it.
    pub(super) fn seen(&mut self) -> Facts {
        let mut facts = self.facts();
        let runs = match *self.disk.held.get(self.running) {
            Held::Release(number) => self.nature(number),
            Held::Rubbish => Nature::Good,
        };
        if matches!(runs, Nature::HidesSlot | Nature::HidesDisk) {
            facts.running = None;
        }
        if runs == Nature::HidesDisk {
            facts.boot = None;
        }
        if self.faults.blind && self.dice.one_in(3) {
            if self.dice.one_in(2) {
                facts.running = None;
            } else {
                facts.boot = None;
            }
        }
        facts
    }

    pub(super) fn boot_id(&self) -> BootId {
        if self.boot_id_is_hidden { BootId::default() } else { BootId::new(format!("boot-{}", self.boots)) }
    }

    pub(super) fn facts(&self) -> Facts {
        let content = |slot: SlotName| match *self.disk.records.get(slot) {
            Some(number) => {
                Content { version: Some(version(number)), sequence: Some(sequence(number)), digest: Some(digest(number)) }
            }
            None => Content::default(),
        };
        Facts {
            boot_id: self.boot_id(),
            running: Some(self.running),
            boot: Some(self.table()),
            slots: PerSlot { a: content(SlotName::A), b: content(SlotName::B) },
            floor: FloorFacts::Known(self.raised_floor()),
            ..host::facts()
        }
    }

    pub(super) fn table(&self) -> BootTable {
        let (a, b) = (self.disk.bits.a, self.disk.bits.b);
        let past = match (a.priority.max(b.priority), a.priority.min(b.priority)) {
            (0, _) if (a, b) == (BLANK, BLANK) => Past::NothingMarked,
            (0 | 1, 0) if a != BAD && b != BAD => Past::NeverArmed,
            _ => Past::Armed,
        };
        let mut standing = PerSlot { a: standing(a), b: standing(b) };
        if past == Past::NothingMarked {
            *standing.get_mut(self.choice()) = Standing::Good;
        }
        BootTable { standing, next: self.choice(), past, tries: TRIES, weakness: None }
    }

    pub(super) fn running_is_good(&self) -> bool {
        let other = *self.disk.bits.get(self.running.other());
        let nothing_else_boots = !other.good && other.tries == 0;
        let bits = *self.disk.bits.get(self.running);
        bits.good || bits == BLANK && nothing_else_boots
    }

    /// A slot is made not bootable, and in the same write a running slot that bears no mark gets one.
    fn blank(&mut self, slot: SlotName) {
        *self.disk.bits.get_mut(slot) = BLANK;
        self.lift_running();
    }

    fn lift_running(&mut self) {
        let bits = self.disk.bits.get_mut(self.running);
        if bits.priority == 0 && (bits.good || *bits == BLANK) {
            *bits = Bits { priority: 1, tries: 0, good: true };
        }
    }

    // ---- effects

    pub(super) fn run_effect(&mut self) {
        let slot_work = |effect: &Effect| matches!(effect, Effect::Install { .. } | Effect::ReadBack(_));
        let mut at = usize::try_from(self.dice.below(u64::try_from(self.process.in_flight.len()).unwrap())).unwrap();
        // Works on the slot take turns, in the order they were asked for.
        if slot_work(&self.process.in_flight[at]) {
            at = self.process.in_flight.iter().position(slot_work).unwrap();
        }
        let effect = self.process.in_flight.remove(at);
        let fails_before = self.faults.effects_fail && self.dice.one_in(10);
        let answer = if fails_before { self.failed(&effect) } else { self.do_effect(&effect) };
        // A reboot command that ends with an error has begun no shutdown.
        let fails_after = self.faults.effects_fail && self.dice.one_in(25) && !matches!(effect, Effect::Reboot(_));
        let answer = if fails_after { self.failed(&effect) } else { answer };
        match self.survival() {
            Survival::Lives => self.process.events.extend(answer),
            Survival::Killed => self.kill(),
            Survival::PowerCut => self.power_cycle("power cut after an effect"),
        }
    }

    fn nothing_seen(&self) -> Box<Facts> {
        Box::new(Facts { running: None, boot: None, ..self.facts() })
    }

    /// The answer of an effect that says it failed.
    pub(super) fn failed(&mut self, effect: &Effect) -> Option<Event> {
        let fault = || Fault::new(Cause::StateDir, "it broke");
        let event = match effect {
            Effect::Check(_) => {
                let retry_after_s = self.retry_after_s();
                Event::Checked {
                    facts: Box::new(self.seen()),
                    answer: Box::new(CheckAnswer::Failed { fault: fault(), retry_after_s }),
                }
            }
            Effect::Look => Event::Looked { facts: self.nothing_seen() },
            Effect::LookToLeave(_) => Event::LookedToLeave { facts: self.nothing_seen() },
            Effect::Install { plan, .. } => {
                // It may have failed in the middle: the slot was disarmed and holds half an image.
                *self.disk.held.get_mut(plan.slot) = Held::Rubbish;
                self.blank(plan.slot);
                *self.disk.was_armed.get_mut(plan.slot) = false;
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
                // A shutdown that is under way refuses another one, and goes on.
                if self.going_down.is_none() {
                    self.reboot_at = None;
                }
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
    pub(super) fn do_effect(&mut self, effect: &Effect) -> Option<Event> {
        match effect {
            Effect::Check(request) => Some(self.check(request)),
            Effect::Look => Some(Event::Looked { facts: Box::new(self.seen()) }),
            Effect::LookToLeave(_) => Some(Event::LookedToLeave { facts: Box::new(self.seen()) }),
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
                self.check_left(plan);
                // One in eight that are accepted never comes.
                let comes = !(self.faults.effects_fail && self.dice.one_in(8));
                // Some shutdowns are held up for longer than the daemon waits before it asks again.
                let longest = self.dice.pick(&[20_000, 20_000, 1_200_000]);
                self.reboot_at = comes.then(|| self.mono + 5_000 + self.dice.below(longest));
                let takes_lock = !plan.forced && self.holders.get(&plan.attempt) == Some(&Phase::Rebooting);
                self.going_down = (comes && takes_lock).then(|| plan.attempt.clone());
                let accepted = if comes { RebootAccepted::Ended } else { RebootAccepted::StillRuns };
                Some(Event::Reboot { attempt: plan.attempt.clone(), result: Ok(accepted) })
            }
            Effect::Health(plan) => {
                let healthy = *self.disk.held.get(self.running) != Held::Rubbish
                    && matches!(*self.disk.held.get(self.running), Held::Release(number) if self.nature(number) == Nature::Good);
                if healthy {
                    self.vouched.insert(plan.attempt.clone());
                }
                let result = if healthy { Ok(vec![]) } else { Err("nginx is down".into()) };
                Some(Event::Health { attempt: plan.attempt.clone(), result })
            }
            Effect::Commit(plan) => Some(self.commit(plan)),
            Effect::MarkBad(plan) => Some(self.mark_bad(plan)),
            Effect::Stop(_) | Effect::Row(_) => None,
        }
    }

    fn retry_after_s(&mut self) -> Option<u64> {
        if self.faults.effects_fail { self.dice.pick(&[None, None, Some(7200), Some(u64::MAX)]) } else { None }
    }

    pub(super) fn check(&mut self, request: &Request) -> Event {
        self.raise_floor();
        let offered =
            if self.faults.effects_fail && self.dice.one_in(12) { self.dice.below(self.newest()) + 1 } else { self.newest() };
        let runs = *self.disk.records.get(self.running) == Some(offered);
        let answer = match &request.origin {
            Origin::Files { .. } | Origin::Person | Origin::Timer if !runs || self.dice.one_in(4) => {
                CheckAnswer::Offer { again: AskAgain::default(), offer: Box::new(host::offer(offered)) }
            }
            _ => {
                let retry_after_s = self.retry_after_s();
                let again = AskAgain { poll_interval_s: Some(self.dice.below(1 << 20)), retry_after_s };
                CheckAnswer::NoUpdate { again, hold: None }
            }
        };
        Event::Checked { facts: Box::new(self.seen()), answer: Box::new(answer) }
    }

    pub(super) fn install(&mut self, plan: &Plan) -> Event {
        assert_ne!(plan.slot, self.running, "P2: the running slot is written");
        let attempt = plan.attempt.clone();
        if !self.running_is_good() {
            return Event::Installed {
                attempt,
                boot: None,
                result: Err(Fault::new(Cause::BootControl, "the running slot is not good")),
            };
        }
        self.process.proven = None;
        self.blank(plan.slot);
        *self.disk.was_armed.get_mut(plan.slot) = false;
        *self.disk.records.get_mut(plan.slot) = None;
        *self.disk.held.get_mut(plan.slot) = Held::Release(plan.sequence.get());
        let rots = self.faults.effects_fail && self.dice.one_in(10);
        if rots {
            *self.disk.held.get_mut(plan.slot) = Held::Rubbish;
        }
        let fetched = Fetched { bytes_downloaded: 1, bytes_reused: 0 };
        Event::Installed { attempt, boot: Some(self.table()), result: Ok(fetched) }
    }

    pub(super) fn read_back(&mut self, plan: &Plan) -> Event {
        if plan.kind == Kind::Update && self.faults.effects_fail && self.dice.one_in(12) {
            *self.disk.held.get_mut(plan.slot) = Held::Rubbish;
        }
        let equal = *self.disk.held.get(plan.slot) == Held::Release(plan.sequence.get());
        if equal {
            self.process.proven = Some(plan.attempt.clone());
            *self.disk.records.get_mut(plan.slot) = Some(plan.sequence.get());
        }
        let proof = if equal { Proof::Equal } else { Proof::Differs { detail: "window 1".into() } };
        Event::ReadBack { attempt: plan.attempt.clone(), result: Ok(proof) }
    }

    pub(super) fn lock(&mut self, plan: &Plan) -> Event {
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

    pub(super) fn grant(&mut self, attempt: &str) -> bool {
        let free = self.holders.is_empty() && !self.other_holds;
        if free {
            self.holders.insert(attempt.to_owned(), Phase::Draining);
        }
        self.holders.contains_key(attempt)
    }

    pub(super) fn acknowledge(&mut self, plan: &Plan) -> Event {
        let held = self.holders.get_mut(&plan.attempt).map(|phase| *phase = Phase::Rebooting);
        let lost = self.faults.lost_answers && self.dice.one_in(8);
        let result = match (held, lost) {
            (Some(()), false) => Ok(()),
            _ => Err(Fault::new(Cause::Lock, "not acknowledged")),
        };
        Event::RebootAcknowledged { attempt: plan.attempt.clone(), result }
    }

    pub(super) fn arm(&mut self, plan: &Plan) -> Event {
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
            return Event::Armed { attempt, result: Err(Fault::new(Cause::BootControl, "the running slot is not good")) };
        }
        self.lift_running();
        *self.disk.bits.get_mut(plan.slot) = Bits { priority: self.top(plan.slot), tries: TRIES, good: false };
        *self.disk.was_armed.get_mut(plan.slot) = true;
        Event::Armed { attempt, result: Ok(self.table()) }
    }

    /// The rank that puts a slot before the other one.
    fn top(&mut self, slot: SlotName) -> u8 {
        let top = self.disk.bits.a.priority.max(self.disk.bits.b.priority) + 1;
        if top <= 15 {
            return top;
        }
        self.disk.bits.get_mut(slot.other()).priority = 2;
        15
    }

    pub(super) fn disarm(&mut self, slot: SlotName) -> Event {
        assert_ne!(slot, self.running, "P2: the running slot is disarmed");
        if !self.running_is_good() {
            return Event::Disarmed { result: Err(Fault::new(Cause::BootControl, "the running slot is not good")) };
        }
        self.blank(slot);
        Event::Disarmed { result: Ok(self.table()) }
    }

    pub(super) fn commit(&mut self, plan: &Plan) -> Event {
        let attempt = plan.attempt.clone();
        if plan.slot != self.running {
            return Event::CommitDone { attempt, result: Err(Fault::new(Cause::RunningSlot, "another slot runs")) };
        }
        assert!(self.vouched.contains(&attempt), "marked good without health");
        if self.faults.effects_fail && self.dice.one_in(12) {
            return Event::CommitDone { attempt, result: Err(Fault::new(Cause::StateDir, "the disk is full")) };
        }
        let bits = *self.disk.bits.get(self.running);
        *self.disk.bits.get_mut(self.running) = Bits { good: true, tries: 0, ..bits };
        if bits == BAD && self.choice() != self.running {
            self.disk.bits.get_mut(self.running).priority = self.top(self.running);
        }
        self.check_choice();
        let floor = if self.faults.effects_fail && self.dice.one_in(12) {
            Err(Fault::new(Cause::StateDir, "the floor cannot be written"))
        } else {
            self.raise_floor();
            Ok(())
        };
        Event::CommitDone { attempt, result: Ok(Marked { facts: Box::new(self.facts()), floor }) }
    }

    /// To what the slots that are good stand for: after marking one, at every start and before every check.
    pub(super) fn raise_floor(&mut self) {
        self.disk.floor = self.raised_floor();
    }

    fn raised_floor(&self) -> Floor {
        let good = |slot: &SlotName| self.table().standing.get(*slot).is_good();
        let held = [SlotName::A, SlotName::B].into_iter().filter(good).filter_map(|slot| *self.disk.records.get(slot));
        Floor { highest: held.map(sequence).fold(self.disk.floor.highest, Sequence::max), ..self.disk.floor.clone() }
    }

    pub(super) fn mark_bad(&mut self, plan: &Plan) -> Event {
        let attempt = plan.attempt.clone();
        let other = self.running.other();
        let other_boots = self.disk.bits.get(other).good || self.disk.bits.get(other).tries > 0;
        if plan.slot != self.running || !other_boots || self.running_is_good() {
            return Event::MarkedBad { attempt, result: Err(Fault::new(Cause::BootControl, "no other slot is bootable")) };
        }
        *self.disk.bits.get_mut(self.running) = BAD;
        Event::MarkedBad { attempt, result: Ok(self.table()) }
    }

    pub(super) fn deliver_release(&mut self) {
        if self.faults.effects_fail && self.dice.one_in(4) {
            return;
        }
        let (attempt, _) = self.disk.outbox.remove(0);
        self.holders.remove(&attempt);
        let releases_waiting = u32::try_from(self.disk.outbox.len()).unwrap();
        self.process.events.push(Event::Outbox { releases_waiting });
    }
}

fn refusal(message: &str) -> LockRefusal {
    LockRefusal { kind: "lock".into(), message: message.into(), ..LockRefusal::default() }
}

const fn standing(bits: Bits) -> Standing {
    match bits {
        Bits { good: true, .. } => Standing::Good,
        Bits { tries: 1.., .. } => Standing::Pending { tries_left: bits.tries },
        Bits { priority: 0, .. } => Standing::Blank,
        Bits { priority: 1, .. } => Standing::Bad,
        Bits { .. } => Standing::Spent,
    }
}
