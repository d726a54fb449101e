//! Two slots for a loader that knows a preferred one and counts the boots of the other while it is on trial.
//!
//! GRUB, U-Boot, systemd-boot and others keep the same few facts, each spelled its own way. Here are the facts, what each verb makes of
//! them, and what the loader makes of them; a backend only spells them. Pure.
//!
//! The loader's rule: a slot on trial with tries left is started, and one of its tries is spent before that; else the primary is.

use std::fmt;

use super::{BootState, Past, SlotBoot, Standing, Weakness};
use crate::slot::SlotName;

mod control;

pub(crate) use control::{Loaded, PairControl, PairStore, Rewrite};

/// Boots that a slot on trial gets: two of them may end in a power cut that is nobody's fault (design 11.18).
pub(crate) const TRIES: u8 = 3;

/// What a loader keeps of two slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// How they stand, in the order in which they are configured.
    pub(crate) slots: [(SlotName, Standing); 2],
    /// The one that is started when none is on trial. Of a factory disk it is the first.
    pub(crate) primary: SlotName,
    /// A slot was armed at some time.
    pub(crate) was_armed: bool,
    /// Boots that a slot on trial gets: [`TRIES`], or what the loader can count to.
    pub(crate) tries: u8,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slots.iter().try_for_each(|(slot, standing)| write!(f, "slot {slot} {standing}, "))?;
        write!(f, "{} preferred", self.primary)
    }
}

impl Pair {
    /// Two slots of which nothing is marked.
    pub(crate) fn factory(names: [SlotName; 2], tries: u8) -> Self {
        let primary = names[0].clone();
        Self { slots: names.map(|name| (name, Standing::Blank)), primary, was_armed: false, tries }
    }

    /// How a slot stands; one that is not known is blank.
    pub(crate) fn standing(&self, name: &SlotName) -> Standing {
        self.slots.iter().find(|(slot, _)| slot == name).map(|(_, standing)| *standing).unwrap_or_default()
    }

    /// The slot on trial: armed, or out of the tries it was armed with.
    pub(crate) fn on_trial(&self) -> Option<(&SlotName, Standing)> {
        self.slots.iter().find(|(_, standing)| standing.is_on_trial()).map(|(slot, standing)| (slot, *standing))
    }

    /// The slot that the loader starts now.
    pub(crate) fn next(&self) -> &SlotName {
        self.slots.iter().find(|(_, standing)| standing.is_pending()).map_or(&self.primary, |(slot, _)| slot)
    }

    /// What is said of it to whoever asks.
    pub(crate) fn state(&self, weakness: Option<Weakness>) -> BootState {
        let is_blank = self.slots.iter().all(|(_, standing)| standing.is_blank());
        let past = match (self.was_armed, is_blank) {
            (true, _) => Past::Armed,
            (false, true) => Past::NothingMarked,
            (false, false) => Past::NeverArmed,
        };
        let slots = self.slots.iter().map(|(name, standing)| SlotBoot { name: name.clone(), standing: *standing });
        BootState { slots: slots.collect(), next: self.next().clone(), past, tries: self.tries, weakness }
    }

    /// Nothing is marked of it any more. What runs is what is started from now on.
    pub(crate) fn disarm(mut self, slot: &SlotName, running: &SlotName) -> Self {
        self.set(slot, Standing::Blank);
        self.keep(running);
        if self.primary == *slot {
            self.primary = running.clone();
        }
        self
    }

    /// It is started next, as often as it has tries; then what runs now is.
    pub(crate) fn arm(mut self, slot: &SlotName, running: &SlotName) -> Self {
        self.set(slot, Standing::Pending { tries_left: self.tries });
        self.keep(running);
        self.primary = running.clone();
        self.was_armed = true;
        self
    }

    /// It is counted no more. Where the primary is good, only what was armed becomes it by that.
    pub(crate) fn mark_good(mut self, running: &SlotName) -> Self {
        let before = self.standing(running);
        self.set(running, Standing::Good);
        if before.is_on_trial() || before == Standing::Bad || !self.standing(&self.primary).is_good() {
            self.primary = running.clone();
        }
        self
    }

    /// The other one is started from now on.
    pub(crate) fn mark_bad(mut self, running: &SlotName) -> Self {
        self.set(running, Standing::Bad);
        if let Some((other, _)) = self.slots.iter().find(|(slot, _)| slot != running) {
            self.primary = other.clone();
        }
        self
    }

    /// What the loader does with it: the slot that it starts, after a try of it was spent.
    #[cfg(test)]
    pub(crate) fn boot(mut self) -> (SlotName, Self) {
        let slot = self.next().clone();
        match self.standing(&slot) {
            Standing::Pending { tries_left: 1 } => self.set(&slot, Standing::Spent),
            Standing::Pending { tries_left } => self.set(&slot, Standing::Pending { tries_left: tries_left - 1 }),
            _ => (),
        }
        (slot, self)
    }

    fn set(&mut self, name: &SlotName, to: Standing) {
        for (slot, standing) in &mut self.slots {
            if slot == name {
                *standing = to;
            }
        }
    }

    /// A running slot that bears no mark (factory disk) is what there is to go back to.
    fn keep(&mut self, running: &SlotName) {
        if self.standing(running).is_blank() {
            self.set(running, Standing::Good);
        }
    }
}

/// Every pair that the loader and the verbs can make, as far as the rules allow them, starting from a factory disk: a backend has to
/// spell each of them.
#[cfg(test)]
pub(crate) fn every_pair(tries: u8) -> Vec<Pair> {
    let mut found = vec![Pair::factory(["a", "b"].map(|name| name.parse().unwrap()), tries)];
    let mut at = 0;
    while let Some(pair) = found.get(at).cloned() {
        let verbs =
            [0, 1].map(|running| every_verb(&pair, running).into_iter().map(|verb| verb(pair.clone())).collect::<Vec<_>>());
        for made in verbs.into_iter().flatten().chain([pair.boot().1]) {
            if !found.contains(&made) {
                found.push(made);
            }
        }
        at += 1;
    }
    found
}

#[cfg(test)]
pub(crate) type Verb = Box<dyn Fn(Pair) -> Pair>;

/// What may be done to a pair while this one of its slots runs.
#[cfg(test)]
pub(crate) fn every_verb(pair: &Pair, running: usize) -> Vec<Verb> {
    use super::rules;
    let (state, running, other) = (pair.state(None), pair.slots[running].0.clone(), pair.slots[1 - running].0.clone());
    let mut verbs: Vec<Verb> = Vec::new();
    if rules::may_disarm(&state, &other, &running).is_ok() {
        let (other, running) = (other.clone(), running.clone());
        verbs.push(Box::new(move |pair| pair.disarm(&other, &running)));
    }
    if rules::may_arm(&state, &other, &running).is_ok() {
        let (other, running) = (other.clone(), running.clone());
        verbs.push(Box::new(move |pair| pair.arm(&other, &running)));
    }
    if rules::may_mark_good(&state, &running).is_ok() {
        let running = running.clone();
        verbs.push(Box::new(move |pair| pair.mark_good(&running)));
    }
    if rules::may_mark_bad(&state, &running).is_ok() {
        verbs.push(Box::new(move |pair| pair.mark_bad(&running)));
    }
    verbs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SlotName {
        text.parse().unwrap()
    }

    fn factory() -> Pair {
        Pair::factory([name("a"), name("b")], TRIES)
    }

    #[test]
    fn an_update_that_is_healthy_is_started_from_then_on_and_no_longer_counted() {
        let (a, b) = (name("a"), name("b"));
        let armed = factory().disarm(&b, &a).arm(&b, &a);
        assert_eq!(armed.state(None).next, b);
        let (booted, trial) = armed.boot();
        assert_eq!((booted, trial.standing(&b)), (b.clone(), Standing::Pending { tries_left: 2 }));
        let good = trial.mark_good(&b);
        for _ in 0..5 {
            assert_eq!(good.clone().boot(), (b.clone(), good.clone()), "a power cut in an ordinary boot costs nothing");
        }
        assert_eq!(good.state(None).past, Past::Armed);
    }

    #[test]
    fn an_update_that_does_not_come_up_is_left_after_its_tries() {
        let (a, b) = (name("a"), name("b"));
        let mut pair = factory().arm(&b, &a);
        for _ in 0..TRIES {
            let (booted, after) = pair.boot();
            assert_eq!(booted, b);
            pair = after;
        }
        assert_eq!((pair.standing(&b), pair.next()), (Standing::Spent, &a));
        assert_eq!(pair.clone().boot(), (a.clone(), pair.clone()));
        // On its last try it may still show that it is healthy.
        assert_eq!(pair.mark_good(&b).next(), &b);
    }

    #[test]
    fn marked_bad_the_other_one_is_next_and_a_second_trial_may_still_end_well() {
        let (a, b) = (name("a"), name("b"));
        let bad = factory().arm(&b, &a).boot().1.mark_bad(&b);
        assert_eq!((bad.standing(&b), bad.next()), (Standing::Bad, &a));
        assert_eq!(bad.mark_good(&b).next(), &b);
    }

    #[test]
    fn only_what_was_armed_becomes_the_primary_by_being_marked_good() {
        let (a, b) = (name("a"), name("b"));
        let by_hand = factory().disarm(&b, &a).mark_good(&b);
        assert_eq!((by_hand.standing(&b), by_hand.next()), (Standing::Good, &a));
        let second_of_a_factory = factory().mark_good(&b);
        assert_eq!(second_of_a_factory.next(), &b, "nothing else is good");
    }

    #[test]
    fn disarming_the_primary_leaves_what_runs() {
        let (a, b) = (name("a"), name("b"));
        let b_is_primary = factory().arm(&b, &a).boot().1.mark_good(&b);
        assert_eq!(b_is_primary.disarm(&b, &a).next(), &a);
        assert_eq!(factory().disarm(&a, &b).next(), &b, "a factory disk whose second slot runs");
    }

    #[test]
    fn done_twice_is_done_once() {
        for pair in every_pair(TRIES) {
            for verb in [0, 1].into_iter().flat_map(|running| every_verb(&pair, running)) {
                let once = verb(pair.clone());
                assert_eq!(verb(once.clone()), once, "{pair:?}");
            }
        }
    }

    #[test]
    fn at_most_one_slot_is_on_trial() {
        for pair in every_pair(TRIES) {
            let on_trial = pair.slots.iter().filter(|(_, standing)| standing.is_on_trial()).count();
            assert!(on_trial <= 1, "{pair:?}");
        }
    }

    #[test]
    fn what_the_loader_starts_is_the_slot_on_trial_or_the_primary() {
        let pairs = every_pair(TRIES);
        assert!(pairs.len() > 20, "{}", pairs.len());
        for pair in pairs {
            let next = pair.next().clone();
            let trial = pair.on_trial().filter(|(_, standing)| standing.is_pending()).map(|(slot, _)| slot.clone());
            assert_eq!(next, trial.unwrap_or(pair.primary.clone()));
            assert_eq!(pair.clone().boot().0, next);
        }
    }
}
