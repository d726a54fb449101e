//! What each verb means in attribute bits: pure, from a table to the entries to change.

use super::attributes::{Attributes, Priority, Tries};
use super::error::GptError;
use super::table::{Table, TableEntry};
use crate::boot::{BootState, SlotBoot, loader_choice};
use crate::slot::SlotName;

/// Entries and their new attributes.
pub(super) type Changes = Vec<(u32, Attributes)>;

/// A slot and the entry that carries its bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotEntry {
    pub(super) name: SlotName,
    pub(super) index: u32,
}

/// A table and whose entries are slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots<'a> {
    pub(super) table: &'a Table,
    /// In the order of the table, as the loader visits them.
    pub(super) slots: &'a [SlotEntry],
}

impl Slots<'_> {
    /// What the loader knows, with `changes` applied.
    pub(super) fn state(&self, changes: &[(u32, Attributes)]) -> Result<BootState, GptError> {
        let slots = self.slots.iter().map(|slot| {
            let changed = changes.iter().find(|(index, _)| *index == slot.index);
            let attributes = changed.map_or_else(|| self.table.attributes(slot.index), |(_, attributes)| Ok(*attributes))?;
            Ok(slot_boot(&slot.name, attributes))
        });
        Ok(BootState { slots: slots.collect::<Result<_, GptError>>()?, weakness: None })
    }

    /// disarm = P 0, T 0, S 0. A blank running slot that the loader would not fall back to is marked, or nothing is left to boot.
    pub(super) fn disarm(&self, slot: &SlotEntry, running: &SlotEntry) -> Result<Changes, GptError> {
        let mut changes = vec![(slot.index, blank(self.table.attributes(slot.index)?))];
        let after = self.state(&changes)?;
        if loader_choice(&after) != Some(&running.name) {
            changes.extend(self.lifted(running)?);
        }
        Ok(changes)
    }

    /// arm = top priority, T 3, S 0, and in the same write a blank running slot becomes one that the loader can go back to.
    pub(super) fn arm(&self, slot: &SlotEntry, running: &SlotEntry) -> Result<Changes, GptError> {
        let (priority, mut changes) = self.top(slot.index, self.lifted(running)?)?;
        let armed = self.table.attributes(slot.index)?.with_priority(priority).with_tries(Tries::ARMED).without_success();
        changes.push((slot.index, armed));
        Ok(changes)
    }

    /// The priority that puts an entry before all others, and `changes` with what that takes: renumbered rivals, if they are at
    /// the maximum.
    fn top(&self, index: u32, mut changes: Changes) -> Result<(Priority, Changes), GptError> {
        let rivals = self.rivals(index, &changes)?;
        let top = rivals.iter().map(|(_, attributes)| attributes.priority()).max().unwrap_or(Priority::ZERO);
        let priority = match Priority::new(top.get() + 1) {
            Some(next) => next.max(Priority::LOWEST_ARMED),
            None => {
                for (index, attributes) in below_the_top(&rivals) {
                    changes.retain(|(changed, _)| *changed != index);
                    changes.push((index, attributes));
                }
                Priority::MAX
            }
        };
        Ok((priority, changes))
    }

    /// mark_good = S 1, T 0, and the rank stays; but a slot that was marked bad has lost the one it was armed with, and gets it back, or
    /// the next boot would take the other one. A slot that was never armed, or was disarmed, gets none: only arming gives rank.
    pub(super) fn mark_good(&self, running: &SlotEntry) -> Result<Changes, GptError> {
        let attributes = self.table.attributes(running.index)?;
        let good = attributes.with_success().with_tries(Tries::ZERO);
        let changes = vec![(running.index, good)];
        if !is_marked_bad(attributes) || loader_choice(&self.state(&changes)?) == Some(&running.name) {
            return Ok(changes);
        }
        let (priority, mut changes) = self.top(running.index, Vec::new())?;
        changes.push((running.index, good.with_priority(priority)));
        Ok(changes)
    }

    /// mark_bad = P 1, T 0, S 0: no loader chooses it, and it is told from a slot that was disarmed (P 0) and from one whose tries
    /// are spent (P 2 or more).
    pub(super) fn mark_bad(&self, running: &SlotEntry) -> Result<Changes, GptError> {
        let attributes = self.table.attributes(running.index)?;
        Ok(vec![(running.index, blank(attributes).with_priority(Priority::LOWEST))])
    }

    /// A running slot that is blank (factory disk) is marked P 1, S 1; a good one of priority 0 gets P 1, as some loaders skip 0.
    fn lifted(&self, running: &SlotEntry) -> Result<Changes, GptError> {
        let attributes = self.table.attributes(running.index)?;
        let lifted = if attributes.is_blank() { attributes.with_success() } else { attributes };
        if lifted.priority() > Priority::ZERO || !lifted.successful() {
            return Ok(Vec::new());
        }
        Ok(vec![(running.index, lifted.with_priority(Priority::LOWEST))])
    }

    /// The loader compares all entries of one type, not only those that are configured: all of them with `changes` applied, but
    /// without the entry `index` itself.
    fn rivals(&self, index: u32, changes: &[(u32, Attributes)]) -> Result<Changes, GptError> {
        let entries = self.table.entries();
        let own = entries.iter().find(|entry| entry.index == index).ok_or(GptError::NoEntry(index))?;
        let is_slot = |entry: &TableEntry| self.slots.iter().any(|slot| slot.index == entry.index);
        let rivals = entries.iter().filter(|entry| entry.index != index);
        let rivals = rivals.filter(|entry| entry.type_guid == own.type_guid || is_slot(entry));
        Ok(rivals
            .map(|entry| {
                let changed = changes.iter().find(|(changed, _)| *changed == entry.index);
                (entry.index, changed.map_or(entry.attributes, |(_, attributes)| *attributes))
            })
            .collect())
    }
}

fn slot_boot(name: &SlotName, attributes: Attributes) -> SlotBoot {
    let (tries_left, good) = (attributes.tries().get(), attributes.successful());
    SlotBoot {
        name: name.clone(),
        bootable: good || tries_left > 0,
        good,
        priority: attributes.priority().get(),
        tries_left,
        pending: tries_left > 0 && !good,
    }
}

/// As [`Slots::mark_bad`] leaves it.
fn is_marked_bad(attributes: Attributes) -> bool {
    attributes == blank(attributes).with_priority(Priority::LOWEST)
}

fn blank(attributes: Attributes) -> Attributes {
    attributes.with_priority(Priority::ZERO).with_tries(Tries::ZERO).without_success()
}

/// Renumbers rivals to 2, 3, 4 … in their order, equals staying equal and 0 staying 0, so that all are below the maximum; 1 is left
/// to slots that nobody ever armed, which is how a host that was never updated is told. If there are too many steps, the lowest
/// ones become one.
fn below_the_top(rivals: &[(u32, Attributes)]) -> Changes {
    let mut steps: Vec<Priority> = rivals.iter().map(|(_, attributes)| attributes.priority()).collect();
    steps.retain(|step| *step > Priority::ZERO);
    steps.sort_unstable();
    steps.dedup();
    let first = Priority::LOWEST_ARMED.get();
    let room = usize::from(Priority::MAX.get() - first);
    let merged = steps.len().saturating_sub(room);
    let renumbered = |attributes: Attributes| {
        let rank = steps.iter().position(|step| *step == attributes.priority())?;
        let priority = u8::try_from(rank.saturating_sub(merged)).ok().and_then(|step| Priority::new(step + first))?;
        Some(attributes.with_priority(priority))
    };
    rivals.iter().filter_map(|&(index, attributes)| Some((index, renumbered(attributes)?))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::DiskBuilder;
    use super::super::table::parse;
    use super::*;

    fn bits(priority: u8, tries: u8, good: bool) -> u64 {
        let attributes =
            Attributes::from_bits(1 << 60).with_priority(Priority::new(priority).unwrap()).with_tries(Tries::new(tries).unwrap());
        if good { attributes.with_success().to_bits() } else { attributes.to_bits() }
    }

    fn disk(a: (u8, u8, bool), b: (u8, u8, bool), third: (u8, u8, bool)) -> Table {
        let builder = DiskBuilder::new(512).bits(0, bits(a.0, a.1, a.2)).bits(1, bits(b.0, b.1, b.2));
        parse(&builder.bits(2, bits(third.0, third.1, third.2)).build()).unwrap()
    }

    fn entries() -> [SlotEntry; 2] {
        [("a", 0), ("b", 1)].map(|(name, index)| SlotEntry { name: name.parse().unwrap(), index })
    }

    const BLANK: (u8, u8, bool) = (0, 0, false);

    /// P, T, S of all three partitions after a verb; unknown bits must have stayed.
    fn after(table: &Table, verb: impl FnOnce(Slots<'_>, &[SlotEntry; 2]) -> Changes) -> Vec<(u8, u8, bool)> {
        let slots = entries();
        let changes = verb(Slots { table, slots: &slots }, &slots);
        let changed = table.with_attributes(&changes).unwrap();
        let attributes = changed.entries().into_iter().map(|entry| entry.attributes);
        attributes
            .map(|attributes| {
                assert_eq!(attributes.to_bits() & !(0x1FF << 48), 1 << 60);
                (attributes.priority().get(), attributes.tries().get(), attributes.successful())
            })
            .collect()
    }

    fn arm_b(table: &Table) -> Vec<(u8, u8, bool)> {
        after(table, |slots, [a, b]| slots.arm(b, a).unwrap())
    }

    #[test]
    fn arming_on_a_factory_disk_marks_the_running_slot_in_the_same_write() {
        assert_eq!(arm_b(&disk(BLANK, BLANK, BLANK)), [(1, 0, true), (2, 3, false), BLANK]);
    }

    #[test]
    fn arming_goes_just_above_all_others_and_again_changes_nothing() {
        let table = disk((4, 0, true), (1, 0, true), (0, 0, false));
        assert_eq!(arm_b(&table), [(4, 0, true), (5, 3, false), BLANK]);
        assert_eq!(arm_b(&disk((4, 0, true), (5, 3, false), BLANK)), [(4, 0, true), (5, 3, false), BLANK]);
        assert_eq!(arm_b(&disk((4, 0, true), (5, 1, false), BLANK)), [(4, 0, true), (5, 3, false), BLANK], "all tries again");
        assert_eq!(arm_b(&disk((0, 0, true), BLANK, BLANK)), [(1, 0, true), (2, 3, false), BLANK]);
    }

    #[test]
    fn arming_resets_every_trace_of_an_earlier_failure() {
        assert_eq!(arm_b(&disk((1, 0, true), (7, 0, false), BLANK))[1], (2, 3, false));
        assert_eq!(arm_b(&disk((1, 0, true), (0, 0, true), BLANK))[1], (2, 3, false));
    }

    #[test]
    fn at_the_top_the_others_are_renumbered_in_the_same_write() {
        assert_eq!(arm_b(&disk((15, 0, true), (15, 0, false), BLANK)), [(2, 0, true), (15, 3, false), BLANK]);
        assert_eq!(arm_b(&disk((15, 0, true), BLANK, (9, 0, true))), [(3, 0, true), (15, 3, false), (2, 0, true)]);
        assert_eq!(arm_b(&disk((15, 0, true), BLANK, (15, 0, true))), [(2, 0, true), (15, 3, false), (2, 0, true)]);
    }

    #[test]
    fn disarm_blanks_the_slot_and_keeps_something_to_boot() {
        let disarm_b = |table: &Table| after(table, |slots, [a, b]| slots.disarm(b, a).unwrap());
        let disarm_a = |table: &Table| after(table, |slots, [a, b]| slots.disarm(a, b).unwrap());
        assert_eq!(disarm_b(&disk((1, 0, true), (2, 3, false), BLANK)), [(1, 0, true), BLANK, BLANK]);
        assert_eq!(disarm_b(&disk(BLANK, (0, 0, false), BLANK)), [BLANK; 3], "the loader falls back to the first");
        assert_eq!(disarm_a(&disk(BLANK, BLANK, BLANK)), [BLANK, (1, 0, true), BLANK], "the second has to be marked");
    }

    #[test]
    fn mark_good_sets_success_clears_tries_and_touches_nothing_else() {
        let mark = |table: &Table| after(table, |slots, [_, b]| slots.mark_good(b).unwrap());
        assert_eq!(mark(&disk((3, 0, true), (9, 2, false), (2, 1, true))), [(3, 0, true), (9, 0, true), (2, 1, true)]);
    }

    #[test]
    fn a_slot_that_is_marked_good_after_it_was_marked_bad_is_the_next_one_again() {
        let mark = |table: &Table| after(table, |slots, [_, b]| slots.mark_good(b).unwrap());
        assert_eq!(mark(&disk((1, 0, true), (1, 0, false), BLANK)), [(1, 0, true), (2, 0, true), BLANK]);
        assert_eq!(mark(&disk((15, 0, true), (1, 0, false), BLANK)), [(2, 0, true), (15, 0, true), BLANK]);
    }

    #[test]
    fn a_slot_that_nobody_armed_is_not_made_the_next_one_by_being_marked_good() {
        let mark = |table: &Table| after(table, |slots, [_, b]| slots.mark_good(b).unwrap());
        assert_eq!(mark(&disk((1, 0, true), BLANK, BLANK)), [(1, 0, true), (0, 0, true), BLANK], "started by hand");
        assert_eq!(
            mark(&disk((3, 0, true), (2, 0, false), BLANK)),
            [(3, 0, true), (2, 0, true), BLANK],
            "given up by the loader"
        );
        assert_eq!(
            mark(&disk((3, 0, true), (1, 0, true), BLANK)),
            [(3, 0, true), (1, 0, true), BLANK],
            "good, and not the choice"
        );
        assert_eq!(mark(&disk(BLANK, BLANK, BLANK)), [BLANK, (0, 0, true), BLANK]);
    }

    #[test]
    fn mark_bad_changes_the_running_slot_only_and_is_told_from_disarmed_and_from_spent() {
        let mark = |table: &Table| after(table, |slots, [_, b]| slots.mark_bad(b).unwrap());
        assert_eq!(mark(&disk((1, 0, true), (2, 2, false), (2, 1, true))), [(1, 0, true), (1, 0, false), (2, 1, true)]);
    }

    #[test]
    fn sixteen_levels_are_squeezed_below_the_top_without_changing_who_leads() {
        let rivals: Changes = (1..=15u8)
            .map(|priority| (u32::from(priority), Attributes::from_bits(0).with_priority(Priority::new(priority).unwrap())))
            .collect();
        let squeezed: Vec<u8> = below_the_top(&rivals).iter().map(|(_, attributes)| attributes.priority().get()).collect();
        assert_eq!(squeezed, [2, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    }

    proptest! {
        #[test]
        fn after_arming_the_loader_takes_the_armed_slot_and_else_goes_back_to_the_running_one(
            running_priority in 0u8..16, target in (0u8..16, 0u8..16, any::<bool>()),
            third in (0u8..16, 0u8..16, any::<bool>()), blank: bool
        ) {
            let running = if blank { BLANK } else { (running_priority, 0, true) };
            let table = disk(running, target, third);
            let slots = entries();
            let view = Slots { table: &table, slots: &slots };
            let changes = view.arm(&slots[1], &slots[0]).unwrap();
            let state = view.state(&changes).unwrap();
            prop_assert_eq!(loader_choice(&state).unwrap().as_str(), "b");
            let armed = table.with_attributes(&changes).unwrap();
            let third = armed.attributes(2).unwrap();
            prop_assert!(armed.attributes(1).unwrap().priority() > third.priority(), "above others of its type");

            let spent = Slots { table: &armed, slots: &slots };
            let given_up = armed.attributes(1).unwrap().with_tries(Tries::ZERO);
            let state = spent.state(&[(1, given_up)]).unwrap();
            prop_assert_eq!(loader_choice(&state).unwrap().as_str(), "a");
        }
    }
}
