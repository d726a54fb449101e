//! What the firmware's variables say of two slots, and which writes in which order make them say something else. Pure.

use super::variables::{EntryNumber, Mark, Memory};
use crate::boot::pair::{Loaded, Pair};
use crate::boot::{Standing, Weakness};
use crate::slot::SlotName;

/// `BootNext` is one boot.
pub(super) const TRIES: u8 = 1;

/// The variables as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nvram {
    /// Entries of the slots, in the order in which those are configured.
    pub(super) entries: [EntryNumber; 2],
    pub(super) order: Vec<EntryNumber>,
    pub(super) next: Option<EntryNumber>,
    /// Ours, if it was ever written.
    pub(super) memory: Option<Memory>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Order(Vec<EntryNumber>),
    Next(EntryNumber),
    RemoveNext,
    Memory(Memory),
}

impl Nvram {
    /// What the variables say while this slot runs, if that is known.
    pub(super) fn read(&self, slots: &[SlotName; 2], running: Option<&SlotName>) -> Loaded {
        let first = self.order.iter().find_map(|number| self.slot_of(*number));
        // In an order without both, what runs is what can be gone back to.
        let primary = first.or_else(|| slots.iter().position(|slot| Some(slot) == running)).unwrap_or_default();
        let pair = Pair {
            slots: [0, 1].map(|slot| (slots[slot].clone(), self.standing(slot, running == Some(&slots[slot])))),
            primary: slots[primary].clone(),
            was_armed: self.memory().was_armed,
            tries: TRIES,
        };
        let named = self.next.and_then(|number| self.slot_of(number)).map(|slot| slots[slot].clone());
        let next = named.filter(|slot| slot != pair.next());
        Loaded { weakness: self.weakness(&pair), pair, next }
    }

    fn standing(&self, slot: usize, runs: bool) -> Standing {
        let memory = self.memory();
        let (is_open, mark) = (memory.open == Some(slot), memory.marks[slot]);
        match mark {
            _ if self.is_next(slot) && (is_open || mark == Mark::Armed) => Standing::Pending { tries_left: TRIES },
            _ if is_open && runs => Standing::Spent,
            Mark::Armed => Standing::Spent,
            Mark::Good if self.order.contains(&self.entries[slot]) => Standing::Good,
            Mark::Bad => Standing::Bad,
            Mark::Good | Mark::None => Standing::Blank,
        }
    }

    fn weakness(&self, pair: &Pair) -> Option<Weakness> {
        let first = self.order.first()?;
        if self.slot_of(*first).is_none() {
            return Some(Weakness::that_may_return(format!(
                "BootOrder begins with {first}, which starts neither slot: the firmware tries it before slot {}",
                pair.primary
            )));
        }
        let lost = |slot: &usize| self.memory().marks[*slot] == Mark::Good && !self.order.contains(&self.entries[*slot]);
        let slot = (0..2).find(lost)?;
        let (name, entry) = (&pair.slots[slot].0, self.entries[slot]);
        Some(Weakness::until_next_change(format!(
            "slot {name} was marked good, and its entry {entry} is not in BootOrder: the firmware does not start it"
        )))
    }

    /// The writes that make a pair of what is there. None, where it is there.
    pub(super) fn steps_to(&self, pair: &Pair) -> Vec<Step> {
        let (order, memory) = (self.order_of(pair), memory_of(pair));
        let reorder = (order != self.order).then_some(Step::Order(order));
        let is_new = |slot: &usize| memory.marks[*slot] == Mark::Bad && self.memory().marks[*slot] != Mark::Bad;
        let marked = self.steps_of_marks(pair, memory);
        if (0..2).any(|slot| is_new(&slot)) {
            // What failed is known to have failed before anything else is started.
            marked.into_iter().chain(reorder).collect()
        } else {
            // Whatever is tried, there is something to go back to first.
            reorder.into_iter().chain(marked).collect()
        }
    }

    fn steps_of_marks(&self, pair: &Pair, memory: Memory) -> Vec<Step> {
        let mut steps = Vec::new();
        let pending = (0..2).find(|slot| pair.slots[*slot].1.is_pending());
        if let Some(slot) = pending.filter(|slot| !self.is_next(*slot)) {
            let mut open = Memory { open: Some(slot), ..memory };
            // Until BootNext names it, it stands as it did.
            open.marks[slot] = self.memory().marks[slot];
            steps.extend([Step::Memory(open), Step::Next(self.entries[slot])]);
        }
        let must_not_be_next = |slot: &usize| {
            let standing = pair.slots[*slot].1;
            self.is_next(*slot) && !standing.is_pending() && !standing.is_good()
        };
        if let Some(slot) = (0..2).find(must_not_be_next).filter(|_| pending.is_none()) {
            steps.extend([Step::Memory(Memory { open: Some(slot), ..memory }), Step::RemoveNext]);
        }
        let before = steps.iter().find_map(|step| if let Step::Memory(open) = step { Some(*open) } else { None });
        if before.unwrap_or_else(|| self.memory()) != memory {
            steps.push(Step::Memory(memory));
        }
        steps
    }

    /// The primary first, and of ours only what the firmware may start; the others as they stand.
    fn order_of(&self, pair: &Pair) -> Vec<EntryNumber> {
        if pair.slots.iter().all(|(_, standing)| standing.is_blank()) {
            return self.order.clone();
        }
        let mut order: Vec<EntryNumber> = Vec::new();
        for number in &self.order {
            let stays = match self.slot_of(*number).map(|slot| &pair.slots[slot]) {
                None => true,
                Some((slot, standing)) => *slot != pair.primary && may_stay(*standing) && !order.contains(number),
            };
            if stays {
                order.push(*number);
            }
        }
        for (slot, (name, standing)) in pair.slots.iter().enumerate() {
            if *name != pair.primary && standing.is_good() && !order.contains(&self.entries[slot]) {
                order.insert(0, self.entries[slot]);
            }
        }
        let primary = pair.slots.iter().position(|(slot, _)| *slot == pair.primary);
        order.splice(0..0, primary.map(|slot| self.entries[slot]));
        order
    }

    pub(super) fn memory(&self) -> Memory {
        self.memory.unwrap_or_default()
    }

    fn is_next(&self, slot: usize) -> bool {
        self.next == Some(self.entries[slot])
    }

    pub(super) fn slot_of(&self, number: EntryNumber) -> Option<usize> {
        self.entries.iter().position(|entry| *entry == number)
    }

    /// As a write leaves it.
    #[cfg(test)]
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Order(order) => self.order.clone_from(order),
            Step::Next(number) => self.next = Some(*number),
            Step::RemoveNext => self.next = None,
            Step::Memory(memory) => self.memory = Some(*memory),
        }
    }
}

/// Behind the primary: what is on trial stands where it stood, because its marks are not settled.
const fn may_stay(standing: Standing) -> bool {
    matches!(standing, Standing::Good | Standing::Pending { .. } | Standing::Spent)
}

fn memory_of(pair: &Pair) -> Memory {
    let mark = |slot: usize| match pair.slots[slot].1 {
        Standing::Blank => Mark::None,
        Standing::Good => Mark::Good,
        Standing::Bad => Mark::Bad,
        Standing::Pending { .. } | Standing::Spent => Mark::Armed,
    };
    Memory { was_armed: pair.was_armed, open: None, marks: [mark(0), mark(1)] }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::boot::pair::{every_pair, every_verb};

    const A: EntryNumber = EntryNumber(3);
    const B: EntryNumber = EntryNumber(1);
    const USB: EntryNumber = EntryNumber(0);
    const SETUP: EntryNumber = EntryNumber(0x10);

    fn slots() -> [SlotName; 2] {
        ["a", "b"].map(|name| name.parse().unwrap())
    }

    fn fresh(order: &[EntryNumber]) -> Nvram {
        Nvram { entries: [A, B], order: order.to_vec(), next: None, memory: None }
    }

    /// Firmware: it removes `BootNext` before it starts what that names, and walks `BootOrder` past what cannot be started.
    pub(crate) fn firmware_starts(nvram: &mut Nvram, can_start: impl Fn(EntryNumber) -> bool) -> Option<EntryNumber> {
        let named = nvram.next.take();
        named.into_iter().chain(nvram.order.iter().copied()).find(|number| can_start(*number))
    }

    /// What is started next, and the variables in that boot; `None` if nothing of ours can be.
    fn boots(mut nvram: Nvram) -> Option<(SlotName, Nvram)> {
        let started = firmware_starts(&mut nvram, |number| number == A || number == B)?;
        let slot = nvram.slot_of(started)?;
        Some((slots()[slot].clone(), nvram))
    }

    fn with(mut nvram: Nvram, steps: &[Step]) -> Nvram {
        steps.iter().for_each(|step| nvram.apply(step));
        nvram
    }

    fn orders() -> [Vec<EntryNumber>; 5] {
        [vec![A, B], vec![USB, A, SETUP, B], vec![B, USB, A], vec![A], vec![USB]]
    }

    /// Every pair in every kind of order that there may have been before, as it is stored then.
    fn every_nvram() -> Vec<(Pair, Nvram)> {
        let mut found = Vec::new();
        for order in orders() {
            for pair in every_pair(TRIES) {
                let base = fresh(&order);
                let nvram = with(base.clone(), &base.steps_to(&pair));
                found.push((pair, nvram));
            }
        }
        found
    }

    #[test]
    fn every_pair_is_spelled_and_read_again_whatever_stood_in_the_order() {
        let mut seen = 0;
        for (pair, nvram) in every_nvram() {
            let is_factory = pair.slots.iter().all(|(_, standing)| standing.is_blank());
            for running in slots() {
                let read = nvram.read(&slots(), Some(&running)).pair;
                // The factory's order is the factory's.
                let primary = if is_factory { &read.primary } else { &pair.primary }.clone();
                assert_eq!(read, Pair { primary, ..pair.clone() }, "{nvram:?}");
            }
            assert_eq!(nvram.steps_to(&pair), [], "what is there is not written: {nvram:?}");
            let others = |order: &[EntryNumber]| order.iter().filter(|n| **n == USB || **n == SETUP).count();
            assert!(others(&nvram.order) <= 2);
            seen += 1;
        }
        assert!(seen > 60, "{seen}");
    }

    #[test]
    fn what_the_firmware_starts_is_what_is_said_to_be_next() {
        for (pair, nvram) in every_nvram() {
            let loaded = nvram.read(&slots(), None);
            if nvram.order.contains(&A) || nvram.order.contains(&B) || nvram.next.is_some() {
                let next = loaded.next.as_ref().unwrap_or(loaded.pair.next());
                let (started, after) = boots(nvram.clone()).unwrap();
                assert_eq!(&started, next, "{nvram:?}");
                let (_, expected) = pair.clone().boot();
                assert_eq!(after.read(&slots(), Some(&started)).pair.slots, expected.slots, "{nvram:?}");
            }
        }
    }

    #[test]
    fn foreign_entries_keep_their_order_behind_the_slot_that_is_started() {
        let nvram = fresh(&[USB, A, SETUP, B]);
        let [a, b] = slots();
        let factory = nvram.read(&slots(), Some(&a));
        assert_eq!(
            factory.weakness.unwrap(),
            Weakness::that_may_return(
                "BootOrder begins with Boot0000, which starts neither slot: the firmware tries it before slot a"
            )
        );
        let disarmed = with(nvram.clone(), &nvram.steps_to(&factory.pair.disarm(&b, &a)));
        assert_eq!(disarmed.order, [A, USB, SETUP]);
        let pair = disarmed.read(&slots(), Some(&a));
        assert_eq!(pair.weakness, None);
        let armed = with(disarmed.clone(), &disarmed.steps_to(&pair.pair.arm(&b, &a)));
        assert_eq!((armed.order.as_slice(), armed.next), ([A, USB, SETUP].as_slice(), Some(B)));
        let (_, trial) = boots(armed).unwrap();
        let good = with(trial.clone(), &trial.steps_to(&trial.read(&slots(), Some(&b)).pair.mark_good(&b)));
        assert_eq!(good.order, [B, A, USB, SETUP]);
    }

    #[test]
    fn an_entry_that_somebody_took_out_of_the_order_is_not_told_as_bootable() {
        let [a, b] = slots();
        let mut nvram = fresh(&[A, B]);
        let pair = Pair::factory(slots(), TRIES).arm(&b, &a).mark_good(&b);
        nvram = with(nvram.clone(), &nvram.steps_to(&pair));
        nvram.order = vec![B];
        let loaded = nvram.read(&slots(), Some(&b));
        assert_eq!(loaded.pair.standing(&a), Standing::Blank);
        assert_eq!(
            loaded.weakness.unwrap(),
            Weakness::until_next_change(
                "slot a was marked good, and its entry Boot0003 is not in BootOrder: the firmware does not start it"
            )
        );
    }

    #[test]
    fn what_somebody_else_named_for_the_next_boot_is_said_and_is_no_trial() {
        let [a, b] = slots();
        let pair = Pair::factory(slots(), TRIES).disarm(&b, &a);
        let base = fresh(&[A, B]);
        let mut nvram = with(base.clone(), &base.steps_to(&pair));
        nvram.next = Some(B);
        let loaded = nvram.read(&slots(), Some(&a));
        assert_eq!((loaded.pair.standing(&b), loaded.next.as_ref()), (Standing::Blank, Some(&b)));
        // Before its first byte is written, it is next no more.
        let disarmed = with(nvram.clone(), &nvram.steps_to(&loaded.pair.disarm(&b, &a)));
        assert_eq!((disarmed.next, disarmed.memory), (None, base_memory(&pair)));
        // What is no slot's is left to whoever asked for it.
        nvram.next = Some(SETUP);
        assert_eq!((nvram.read(&slots(), Some(&a)).next, nvram.steps_to(&pair)), (None, vec![]));
    }

    fn base_memory(pair: &Pair) -> Option<Memory> {
        Some(memory_of(pair))
    }

    #[test]
    fn armed_and_not_next_any_more_is_tried_and_open_and_not_next_is_not_armed() {
        let [a, b] = slots();
        let base = fresh(&[A]);
        let pair = Pair::factory(slots(), TRIES).disarm(&b, &a);
        let nvram = with(base.clone(), &base.steps_to(&pair));
        let steps = nvram.steps_to(&pair.clone().arm(&b, &a));
        let memory = |step: &Step| matches!(step, Step::Memory(_));
        assert!(memory(&steps[0]) && steps[1] == Step::Next(B) && memory(&steps[2]), "{steps:?}");
        let opened = with(nvram.clone(), &steps[..1]);
        assert_eq!(opened.read(&slots(), Some(&a)).pair.slots, pair.slots, "not armed");
        let (_, started) = boots(with(nvram.clone(), &steps[..2])).unwrap();
        assert_eq!(started.read(&slots(), Some(&b)).pair.standing(&b), Standing::Spent, "cut before 4: b runs its try");
        assert_eq!(started.read(&slots(), Some(&a)).pair.slots, pair.slots, "cut before 4, and b failed: one more try");
        let (_, started) = boots(with(nvram, &steps)).unwrap();
        assert_eq!(started.read(&slots(), Some(&a)).pair.standing(&b), Standing::Spent, "tried");
    }

    /// What is wrong with a state that a power cut in a verb left, as whoever reads it finds it.
    fn flaw(cut: &Nvram, was: &Nvram, after: &Pair, running: &SlotName) -> Option<String> {
        let (before, loaded) = (was.read(&slots(), Some(running)).pair, cut.read(&slots(), Some(running)));
        let next = loaded.next.as_ref().unwrap_or(loaded.pair.next());
        let Some((started, booted)) = boots(cut.clone()) else { return Some("nothing is started".to_owned()) };
        let is_started = |slot: &SlotName| *slot == started || booted_reaches(&booted, slot);
        if *next != started {
            return Some(format!("{next} is told as next, and {started} is started"));
        }
        for (slot, standing) in &loaded.pair.slots {
            let known = [before.standing(slot), after.standing(slot)];
            // It runs while its BootNext is there (kexec), and then that is gone.
            let runs_its_try = before.standing(slot).is_pending() && slot == running && *standing == Standing::Spent;
            if !known.contains(standing) && !runs_its_try {
                return Some(format!("{slot} is {standing:?}"));
            }
            // Or it runs, and is about to be marked good.
            let becomes_good = slot == running && after.standing(slot).is_good();
            let was_like_that = before.standing(slot).is_blank() && booted_reaches(was, slot) || becomes_good;
            if standing.is_blank() && is_started(slot) && !was_like_that {
                return Some(format!("{slot} is blank, and is started"));
            }
        }
        let is_lost = after.standing(running) != Standing::Bad && !is_started(running);
        is_lost.then(|| format!("{running} runs, and cannot be started again"))
    }

    /// It is started where the others cannot be.
    fn booted_reaches(nvram: &Nvram, slot: &SlotName) -> bool {
        let wanted = slots().iter().position(|name| name == slot).map(|slot| nvram.entries[slot]);
        nvram.order.iter().any(|number| Some(*number) == wanted)
    }

    #[test]
    fn a_power_cut_between_any_two_writes_of_any_verb_leaves_a_state_that_is_told_as_it_is() {
        let (mut verbs, mut cuts) = (0, 0);
        for (_, nvram) in every_nvram() {
            for (index, running) in slots().iter().enumerate() {
                let before = nvram.read(&slots(), Some(running)).pair;
                for verb in every_verb(&before, index) {
                    let after = verb(before.clone());
                    let steps = nvram.steps_to(&after);
                    assert!(steps.len() <= 4, "{steps:?}");
                    for end in 0..=steps.len() {
                        let cut = with(nvram.clone(), &steps[..end]);
                        let what = format!("{end} of {steps:?} on {nvram:?} while {running} runs");
                        if end > 0 {
                            assert_eq!(flaw(&cut, &nvram, &after, running), None, "{what}");
                        }
                        // P11: the same verb again leads to where it led.
                        let read = cut.read(&slots(), Some(running)).pair;
                        let again = with(cut.clone(), &cut.steps_to(&verb(read)));
                        assert_eq!(again.read(&slots(), Some(running)).pair, after, "{what}");
                        cuts += 1;
                    }
                    verbs += 1;
                }
            }
        }
        println!("efi: {verbs} changes, {cuts} states between their writes, all told as they are");
        assert!(verbs > 100 && cuts > 200);
    }

    #[test]
    fn the_same_check_catches_writes_in_another_order_and_one_that_is_left_out() {
        let flaws = |spoil: &dyn Fn(Vec<Step>) -> Vec<Step>| {
            let mut found = 0;
            for (_, nvram) in every_nvram() {
                for (index, running) in slots().iter().enumerate() {
                    let before = nvram.read(&slots(), Some(running)).pair;
                    for verb in every_verb(&before, index) {
                        let after = verb(before.clone());
                        let steps = spoil(nvram.steps_to(&after));
                        let bad = |end: &usize| flaw(&with(nvram.clone(), &steps[..*end]), &nvram, &after, running).is_some();
                        found += (1..=steps.len()).filter(bad).count();
                    }
                }
            }
            found
        };
        let reversed = flaws(&|steps| steps.into_iter().rev().collect());
        let is_open = |step: &Step| matches!(step, Step::Memory(Memory { open: Some(_), .. }));
        let never_open = flaws(&|steps| steps.into_iter().filter(|step| !is_open(step)).collect());
        let order_first = flaws(&|mut steps| {
            steps.sort_by_key(|step| !matches!(step, Step::Order(_)));
            steps
        });
        println!(
            "efi planted: {reversed} flaws in reverse, {never_open} without the open mark, {order_first} with the order first"
        );
        assert!(reversed > 0 && never_open > 0 && order_first > 0);
    }

    #[test]
    fn the_table_of_states_in_the_words_of_the_module() {
        let [a, b] = slots();
        let base = fresh(&[A, B]);
        let disarmed = Pair::factory(slots(), TRIES).disarm(&b, &a);
        let armed = disarmed.clone().arm(&b, &a);
        let spent = armed.clone().boot().1;
        let good = spent.clone().mark_good(&b);
        let b_of = |from: &Pair, to: &Pair, running: &SlotName| -> Vec<(Standing, SlotName)> {
            let nvram = with(base.clone(), &base.steps_to(from));
            let steps = nvram.steps_to(to);
            let read = |end: usize| with(nvram.clone(), &steps[..end]).read(&slots(), Some(running)).pair;
            (1..=steps.len()).map(|end| (read(end).standing(&b), read(end).next().clone())).collect()
        };
        let (blank, pending) = (Standing::Blank, Standing::Pending { tries_left: 1 });
        let said = |states: &[(Standing, &SlotName)]| states.iter().map(|(s, n)| (*s, (*n).clone())).collect::<Vec<_>>();
        assert_eq!(b_of(&disarmed, &armed, &a), said(&[(blank, &a), (pending, &b), (pending, &b)]), "arm");
        assert_eq!(b_of(&spent, &good, &b), said(&[(Standing::Spent, &b), (Standing::Good, &b)]), "mark good");
        let bad = good.clone().mark_bad(&b);
        assert_eq!(b_of(&good, &bad, &b), said(&[(Standing::Bad, &b), (Standing::Bad, &a)]), "mark bad");
        let a_again = bad.disarm(&b, &a);
        let both_good = Pair { primary: a.clone(), ..good };
        assert_eq!(b_of(&both_good, &a_again, &a), said(&[(blank, &a), (blank, &a)]), "disarm");
        let called_off = armed.clone().disarm(&b, &a);
        assert_eq!(
            b_of(&armed, &called_off, &a),
            said(&[(pending, &b), (pending, &b), (blank, &a), (blank, &a)]),
            "disarm, armed"
        );
    }
}
