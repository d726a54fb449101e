//! The rules that hold for every boot loader, as pure functions over a [`BootState`].

use super::{BootError, BootState, SlotBoot};
use crate::slot::SlotName;

/// The slot that a loader would start: the highest priority among slots that are good or have tries left; of equals the first.
///
/// If there is none, the first slot: where loaders end up that find nothing marked, as on a factory disk. `None` without any slot.
#[must_use]
pub fn loader_choice(state: &BootState) -> Option<&SlotName> {
    let mut choice: Option<&SlotBoot> = None;
    for slot in state.slots.iter().filter(|slot| slot.bootable) {
        if choice.is_none_or(|best| slot.priority > best.priority) {
            choice = Some(slot);
        }
    }
    choice.or(state.slots.first()).map(|slot| &slot.name)
}

/// R6, R8: the running slot stays, and stays bootable.
pub(crate) fn may_disarm(state: &BootState, slot: &SlotName, running: &SlotName) -> Result<(), BootError> {
    check_other(state, "disarm", slot, running)?;
    check_running_good(state, "disarm", slot, running)
}

/// R6: an armed slot needs a good one to go back to.
pub(crate) fn may_arm(state: &BootState, slot: &SlotName, running: &SlotName) -> Result<(), BootError> {
    check_other(state, "arm", slot, running)?;
    check_running_good(state, "arm", slot, running)
}

/// R1: marking the old slot good while the new one is armed once undid updates; the slot on trial itself may be marked.
pub(crate) fn may_mark_good(state: &BootState, running: &SlotName) -> Result<(), BootError> {
    let own = known(state, "mark good", running)?;
    let on_trial = own.pending || own.is_spent();
    match state.slots.iter().find(|slot| slot.name != *running && slot.pending) {
        Some(armed) if !on_trial => Err(refused(
            "mark good",
            running,
            format!("slot {} is armed and waits for its trial ({} tries left)", armed.name, armed.tries_left),
        )),
        _ => Ok(()),
    }
}

/// P1: marking the running slot bad must leave another one to boot. An image that marks itself good, and then shows that it is not, is
/// left all the same.
pub(crate) fn may_mark_bad(state: &BootState, running: &SlotName) -> Result<(), BootError> {
    known(state, "mark bad", running)?;
    if state.slots.iter().any(|slot| slot.name != *running && slot.bootable) {
        return Ok(());
    }
    Err(refused("mark bad", running, "no other slot is bootable".to_owned()))
}

fn check_other(state: &BootState, verb: &'static str, slot: &SlotName, running: &SlotName) -> Result<(), BootError> {
    known(state, verb, slot)?;
    if slot == running {
        return Err(refused(verb, slot, "it runs now".to_owned()));
    }
    Ok(())
}

fn check_running_good(state: &BootState, verb: &'static str, slot: &SlotName, running: &SlotName) -> Result<(), BootError> {
    known(state, verb, running)?;
    if state.running_is_good(running) {
        return Ok(());
    }
    Err(refused(verb, slot, format!("the running slot {running} is not marked good, so there would be nothing to go back to")))
}

fn known<'a>(state: &'a BootState, verb: &'static str, slot: &SlotName) -> Result<&'a SlotBoot, BootError> {
    state.slot(slot).ok_or_else(|| refused(verb, slot, "the boot loader does not know it".to_owned()))
}

fn refused(verb: &'static str, slot: &SlotName, why: String) -> BootError {
    BootError::Refused { verb, slot: slot.clone(), why }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> SlotName {
        text.parse().unwrap()
    }

    /// P, T and S of slots a, b, … in the loader's order.
    fn state(bits: &[(u8, u8, bool)]) -> BootState {
        let slots = bits.iter().zip(["a", "b", "c"]).map(|(&(priority, tries_left, good), slot)| SlotBoot {
            name: name(slot),
            bootable: good || tries_left > 0,
            good,
            priority,
            tries_left,
            pending: tries_left > 0 && !good,
        });
        BootState { slots: slots.collect(), weakness: None }
    }

    fn choice(bits: &[(u8, u8, bool)]) -> String {
        loader_choice(&state(bits)).unwrap().to_string()
    }

    #[test]
    fn the_loader_takes_the_highest_priority_that_is_good_or_has_tries() {
        assert_eq!(choice(&[(1, 0, true), (2, 3, false)]), "b");
        assert_eq!(choice(&[(1, 0, true), (2, 0, false)]), "a", "tries spent");
        assert_eq!(choice(&[(1, 0, true), (1, 0, true)]), "a", "the first wins a tie");
        assert_eq!(choice(&[(0, 0, false), (0, 0, true)]), "b", "priority 0 counts if it is good");
        assert_eq!(choice(&[(0, 0, false), (15, 0, false)]), "a", "nothing is eligible: the first");
        assert_eq!(loader_choice(&state(&[])), None);
    }

    #[test]
    fn a_slot_that_is_not_known_and_the_running_slot_are_refused() {
        let factory = state(&[(0, 0, false), (0, 0, false)]);
        let (a, b, c) = (name("a"), name("b"), name("c"));
        assert_eq!(may_disarm(&factory, &a, &a).unwrap_err().to_string(), "refused to disarm slot a: it runs now");
        assert_eq!(may_arm(&factory, &b, &b).unwrap_err().to_string(), "refused to arm slot b: it runs now");
        assert_eq!(may_arm(&factory, &c, &a).unwrap_err().to_string(), "refused to arm slot c: the boot loader does not know it");
        assert!(may_mark_good(&factory, &c).is_err());
        assert!(may_mark_bad(&factory, &c).is_err());
        may_disarm(&factory, &b, &a).unwrap();
        may_arm(&factory, &a, &b).unwrap();
    }

    #[test]
    fn the_fallback_of_a_trial_is_not_taken_away() {
        let (a, b) = (name("a"), name("b"));
        let trial = state(&[(1, 0, true), (2, 2, false)]);
        assert_eq!(
            may_disarm(&trial, &a, &b).unwrap_err().to_string(),
            "refused to disarm slot a: the running slot b is not marked good, so there would be nothing to go back to"
        );
        assert!(may_arm(&trial, &a, &b).is_err());
        let marked_bad = state(&[(1, 0, true), (1, 0, false)]);
        assert!(may_disarm(&marked_bad, &a, &b).is_err(), "b was marked bad and waits for its reboot");
        let blank = state(&[(1, 0, true), (0, 0, false)]);
        assert!(may_disarm(&blank, &a, &b).is_err(), "the marks of b were taken away");
    }

    #[test]
    fn design_8_r1_the_old_slot_is_not_marked_good_while_the_new_one_is_armed() {
        let (a, b) = (name("a"), name("b"));
        let armed = state(&[(1, 0, true), (2, 3, false)]);
        assert_eq!(
            may_mark_good(&armed, &a).unwrap_err().to_string(),
            "refused to mark good slot a: slot b is armed and waits for its trial (3 tries left)"
        );
        may_mark_good(&armed, &b).unwrap();
        may_mark_good(&state(&[(1, 0, true), (2, 0, false)]), &b).unwrap();
        may_mark_good(&state(&[(1, 2, false), (1, 3, false)]), &a).unwrap();
    }

    #[test]
    fn the_running_slot_is_marked_bad_only_if_another_can_boot() {
        let b = name("b");
        may_mark_bad(&state(&[(1, 0, true), (2, 1, false)]), &b).unwrap();
        assert_eq!(
            may_mark_bad(&state(&[(0, 0, false), (2, 1, false)]), &b).unwrap_err().to_string(),
            "refused to mark bad slot b: no other slot is bootable"
        );
        may_mark_bad(&state(&[(1, 0, true), (2, 0, true)]), &b).unwrap();
    }

    proptest! {
        #[test]
        fn what_the_loader_takes_is_never_beaten_by_another_slot(
            bits in proptest::collection::vec((0u8..16, 0u8..16, any::<bool>()), 1..4)
        ) {
            let state = state(&bits);
            let chosen = state.slot(loader_choice(&state).unwrap()).unwrap();
            for slot in state.slots.iter().filter(|slot| slot.bootable) {
                prop_assert!(chosen.bootable && chosen.priority >= slot.priority);
            }
        }
    }
}
