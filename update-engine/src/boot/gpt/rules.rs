//! What each verb means in attribute bits: pure, from a table to the entries to change.

use super::attributes::{Attributes, Priority, Tries};
use super::error::GptError;
use super::table::{Table, TableEntry};
use crate::boot::{BootState, Past, SlotBoot, Standing};
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
        let marks = self.marks(changes)?;
        let slots = marks.iter().map(|(slot, marks)| SlotBoot { name: slot.name.clone(), standing: standing(*marks) });
        Ok(BootState {
            slots: slots.collect(),
            next: loader_choice(&marks)?.clone(),
            past: past(&marks),
            tries: Tries::ARMED.get(),
            weakness: None,
        })
    }

    /// The attributes of the slots in the order of the table, with `changes` applied.
    fn marks(&self, changes: &[(u32, Attributes)]) -> Result<Vec<(&SlotEntry, Attributes)>, GptError> {
        let marks = self.slots.iter().map(|slot| {
            let changed = changes.iter().find(|(index, _)| *index == slot.index);
            let attributes = changed.map_or_else(|| self.table.attributes(slot.index), |(_, attributes)| Ok(*attributes))?;
            Ok((slot, attributes))
        });
        marks.collect()
    }

    /// disarm = P 0, T 0, S 0, and in the same write a blank running slot (factory disk) becomes P 1, S 1, and a good one of priority 0
    /// gets P 1: what is written to the other slot from now on is told from what the factory left there.
    pub(super) fn disarm(&self, slot: &SlotEntry, running: &SlotEntry) -> Result<Changes, GptError> {
        let mut changes = self.lifted(running)?;
        changes.push((slot.index, blank(self.table.attributes(slot.index)?)));
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
        if !is_marked_bad(attributes) || self.state(&changes)?.next == running.name {
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

/// The slot that a loader would start: the highest priority among slots that are good or have tries left; of equals the first.
///
/// If there is none, the first slot: where loaders end up that find nothing marked, as on a factory disk.
fn loader_choice<'a>(marks: &[(&'a SlotEntry, Attributes)]) -> Result<&'a SlotName, GptError> {
    let mut choice: Option<&(&SlotEntry, Attributes)> = None;
    for slot in marks.iter().filter(|(_, marks)| standing(*marks).is_bootable()) {
        if choice.is_none_or(|best| slot.1.priority() > best.1.priority()) {
            choice = Some(slot);
        }
    }
    choice.or(marks.first()).map(|(slot, _)| &slot.name).ok_or(GptError::NoEntry(0))
}

/// A slot of priority 1 without tries was marked bad; one whose tries the loader spent keeps the rank that arming gave it.
fn standing(attributes: Attributes) -> Standing {
    match attributes.tries().get() {
        _ if attributes.successful() => Standing::Good,
        0 if attributes.priority() == Priority::ZERO => Standing::Blank,
        0 if attributes.priority() < Priority::LOWEST_ARMED => Standing::Bad,
        0 => Standing::Spent,
        tries_left => Standing::Pending { tries_left },
    }
}

/// Arming gives priority 2 or more, and leaves its mark on the slot that ran or on the one that was armed.
fn past(marks: &[(&SlotEntry, Attributes)]) -> Past {
    let of = |wanted: &dyn Fn(&Attributes) -> bool| marks.iter().filter(|(_, marks)| wanted(marks)).count();
    let ranked = of(&|marks| marks.priority() > Priority::ZERO);
    let was_armed = of(&|marks| marks.priority() >= Priority::LOWEST_ARMED || standing(*marks).is_out_of_tries());
    match ranked {
        0 if of(&|marks| !standing(*marks).is_blank()) == 0 => Past::NothingMarked,
        0 | 1 if was_armed == 0 => Past::NeverArmed,
        _ => Past::Armed,
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

    fn state(a: (u8, u8, bool), b: (u8, u8, bool)) -> BootState {
        let table = disk(a, b, BLANK);
        Slots { table: &table, slots: &entries() }.state(&[]).unwrap()
    }

    fn choice(a: (u8, u8, bool), b: (u8, u8, bool)) -> String {
        state(a, b).next.to_string()
    }

    #[test]
    fn the_loader_takes_the_highest_priority_that_is_good_or_has_tries() {
        assert_eq!(choice((1, 0, true), (2, 3, false)), "b");
        assert_eq!(choice((1, 0, true), (2, 0, false)), "a", "tries spent");
        assert_eq!(choice((1, 0, true), (1, 0, true)), "a", "the first wins a tie");
        assert_eq!(choice((0, 0, false), (0, 0, true)), "b", "priority 0 counts if it is good");
        assert_eq!(choice((0, 0, false), (15, 0, false)), "a", "nothing is eligible: the first");
        let (table, slots) = (disk(BLANK, BLANK, BLANK), []);
        assert!(Slots { table: &table, slots: &slots }.state(&[]).is_err());
    }

    #[test]
    fn priority_tells_a_slot_that_was_marked_bad_from_one_whose_tries_were_spent() {
        let standings = |a, b| state(a, b).slots.iter().map(|slot| slot.standing).collect::<Vec<_>>();
        assert_eq!(standings((1, 0, true), (2, 3, false)), [Standing::Good, Standing::Pending { tries_left: 3 }]);
        assert_eq!(standings((2, 0, false), (1, 0, false)), [Standing::Spent, Standing::Bad]);
        assert_eq!(standings(BLANK, (3, 2, true)), [Standing::Blank, Standing::Good], "good, whatever tries it has");
    }

    #[test]
    fn design_11_3_priority_tells_whether_a_slot_was_ever_armed() {
        let past = |a, b| state((a, 0, a > 0), (b, 0, b > 0)).past;
        assert_eq!(past(0, 0), Past::NothingMarked);
        for (a, b) in [(1, 0), (0, 1)] {
            assert_eq!(past(a, b), Past::NeverArmed, "priorities {a} and {b}");
        }
        for (a, b) in [(2, 0), (1, 2), (2, 1), (1, 1), (15, 0)] {
            assert_eq!(past(a, b), Past::Armed, "priorities {a} and {b}");
        }
        assert_eq!(state(BLANK, (0, 0, true)).past, Past::NeverArmed);
        assert_eq!(state(BLANK, (1, 0, false)).past, Past::Armed, "marked bad");
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
        assert_eq!(disarm_b(&disk(BLANK, BLANK, BLANK)), [(1, 0, true), BLANK, BLANK], "a factory disk");
        assert_eq!(disarm_a(&disk(BLANK, BLANK, BLANK)), [BLANK, (1, 0, true), BLANK], "or one whose second slot runs");
        let started_by_hand = state((1, 0, true), BLANK);
        assert!(
            !started_by_hand.running_is_good(&"b".parse().unwrap()),
            "what was written on a factory disk is not the factory's"
        );
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
            prop_assert_eq!(state.next.as_str(), "b");
            let armed = table.with_attributes(&changes).unwrap();
            let third = armed.attributes(2).unwrap();
            prop_assert!(armed.attributes(1).unwrap().priority() > third.priority(), "above others of its type");

            let spent = Slots { table: &armed, slots: &slots };
            let given_up = armed.attributes(1).unwrap().with_tries(Tries::ZERO);
            let state = spent.state(&[(1, given_up)]).unwrap();
            prop_assert_eq!(state.next.as_str(), "a");
        }
    }
}
