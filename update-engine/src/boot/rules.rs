//! The rules that hold for every boot loader, as pure functions over a [`BootState`].

use super::{BootError, BootState, Standing};
use crate::slot::SlotName;

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
    let on_trial = own.is_pending() || own.is_out_of_tries();
    match state.slots.iter().find(|slot| slot.name != *running && slot.standing.is_pending()) {
        Some(armed) if !on_trial => Err(refused(
            "mark good",
            running,
            format!("slot {} is armed and waits for its trial ({} tries left)", armed.name, armed.standing.tries_left()),
        )),
        _ => Ok(()),
    }
}

/// P1: marking the running slot bad must leave another one to boot. An image that marks itself good, and then shows that it is not, is
/// left all the same.
pub(crate) fn may_mark_bad(state: &BootState, running: &SlotName) -> Result<(), BootError> {
    known(state, "mark bad", running)?;
    if state.slots.iter().any(|slot| slot.name != *running && slot.standing.is_bootable()) {
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

fn known(state: &BootState, verb: &'static str, slot: &SlotName) -> Result<Standing, BootError> {
    state.standing(slot).ok_or_else(|| refused(verb, slot, "the boot loader does not know it".to_owned()))
}

fn refused(verb: &'static str, slot: &SlotName, why: String) -> BootError {
    BootError::Refused { verb, slot: slot.clone(), why }
}

#[cfg(test)]
mod tests {
    use super::super::{Past, SlotBoot};
    use super::*;

    const BLANK: Standing = Standing::Blank;
    const GOOD: Standing = Standing::Good;
    const SPENT: Standing = Standing::Spent;
    const BAD: Standing = Standing::Bad;

    fn armed(tries_left: u8) -> Standing {
        Standing::Pending { tries_left }
    }

    fn name(text: &str) -> SlotName {
        text.parse().unwrap()
    }

    fn state(a: Standing, b: Standing) -> BootState {
        let slots = [("a", a), ("b", b)].map(|(slot, standing)| SlotBoot { name: name(slot), standing });
        BootState { slots: slots.into(), next: name("a"), past: Past::Armed, tries: 3, weakness: None }
    }

    #[test]
    fn a_slot_that_is_not_known_and_the_running_slot_are_refused() {
        let factory = state(BLANK, BLANK);
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
        let trial = state(GOOD, armed(2));
        assert_eq!(
            may_disarm(&trial, &a, &b).unwrap_err().to_string(),
            "refused to disarm slot a: the running slot b is not marked good, so there would be nothing to go back to"
        );
        assert!(may_arm(&trial, &a, &b).is_err());
        assert!(may_disarm(&state(GOOD, BAD), &a, &b).is_err(), "b was marked bad and waits for its reboot");
        assert!(may_disarm(&state(GOOD, BLANK), &a, &b).is_err(), "the marks of b were taken away");
    }

    #[test]
    fn design_8_r1_the_old_slot_is_not_marked_good_while_the_new_one_is_armed() {
        let (a, b) = (name("a"), name("b"));
        let armed_b = state(GOOD, armed(3));
        assert_eq!(
            may_mark_good(&armed_b, &a).unwrap_err().to_string(),
            "refused to mark good slot a: slot b is armed and waits for its trial (3 tries left)"
        );
        may_mark_good(&armed_b, &b).unwrap();
        may_mark_good(&state(GOOD, SPENT), &b).unwrap();
        may_mark_good(&state(armed(2), armed(3)), &a).unwrap();
    }

    #[test]
    fn the_running_slot_is_marked_bad_only_if_another_can_boot() {
        let b = name("b");
        may_mark_bad(&state(GOOD, armed(1)), &b).unwrap();
        assert_eq!(
            may_mark_bad(&state(BLANK, armed(1)), &b).unwrap_err().to_string(),
            "refused to mark bad slot b: no other slot is bootable"
        );
        may_mark_bad(&state(GOOD, GOOD), &b).unwrap();
    }
}
