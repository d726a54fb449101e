//! How the facts of two slots are spelled in GRUB's variables.
//!
//! Ours ([`Spelling::Ota`]), which `dist/grub/ota.cfg` reads:
//!
//! ```text
//! ota_primary=a     the slot that is started when none is on trial
//! ota_pending=b     the slot on trial; not there when none is
//! ota_left=3        boots it still gets, 0 to 9: the only one that the loader writes
//! ota_a=good        what is known of each slot: good, bad, or nothing
//! ota_b=bad
//! ota_armed=1       a slot was armed at some time
//! ota_loader=1      written by the loader: it reads this file, and can write it
//! ```
//!
//! Those of RAUC ([`Spelling::Rauc`]), for hosts whose `grub.cfg` was made for it: the first slot of `ORDER` with `OK=1` and `TRY=0` is
//! started, and `TRY=1` is set before that, also for a slot that is good. So a slot on trial gets one boot, and a good one has to be given
//! its try back in each boot ([`crate::boot::BootControl::renew`]); a power cut before that starts the other slot, if that is good. Where no
//! slot is left, RAUC's script forgets the tries of good ones and starts the first entry of its menu, which in its example is a rescue
//! system and no slot. It reads no copy of the block: where that is damaged, it starts that entry as well.
//!
//! ```text
//! ORDER="B A"  A_OK=1  A_TRY=0  B_OK=1  B_TRY=0      the names of the slots are configured
//! ota_pending=B  ota_bad=A  ota_armed=1              what RAUC's variables do not tell, and its scripts pass over
//! ```

use std::path::Path;

use super::block::Block;
use crate::boot::pair::{Loaded, Pair, TRIES};
use crate::boot::{BootError, Standing, Weakness};
use crate::slot::SlotName;

/// Most boots that one digit counts.
const MAX_LEFT: u8 = 9;

/// Whose variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Ours.
    Ota,
    /// Those of RAUC, with its names of the slots, in the order of ours.
    Rauc {
        /// Such as `A` and `B`.
        names: [String; 2],
    },
}

impl Spelling {
    /// What a block says.
    pub(crate) fn read(&self, block: &Block, slots: &[SlotName; 2]) -> Result<Loaded, BootError> {
        match self {
            Self::Ota => read_ota(block, slots).map(Loaded::from),
            Self::Rauc { names } => read_rauc(block, slots, names),
        }
    }

    /// Says it. Variables of others stay.
    pub(crate) fn write(&self, block: &mut Block, pair: &Pair) {
        match self {
            Self::Ota => write_ota(block, pair),
            Self::Rauc { names } => write_rauc(block, pair, names),
        }
    }

    /// What the loader does while the block is damaged, where this is what its copy says.
    pub(super) fn without_the_block(&self, copy: &Path, said: &Pair) -> String {
        let copy = copy.display();
        match self {
            Self::Ota => format!("the boot loader goes by its copy {copy} and starts slot {}", said.primary),
            Self::Rauc { .. } => format!(
                "a configuration for RAUC knows no copy and starts the first entry of its menu, which need not be a slot; the state of the \
                 slots is that of the copy {copy}"
            ),
        }
    }

    /// Variables of a new block, and what has to be put into them.
    pub(super) fn of_a_new_block(&self) -> String {
        match self {
            Self::Ota => "ota_primary=SLOT ota_SLOT=good ota_armed=1`, with the slot that runs for SLOT".to_owned(),
            Self::Rauc { names: [a, b] } => {
                let good = |good: &String, other: &String| {
                    format!("ORDER=\"{good} {other}\" {good}_OK=1 {good}_TRY=0 {other}_OK=0 {other}_TRY=0 ota_armed=1`")
                };
                format!("{} where slot {a} runs; where slot {b} does, `{}", good(a, b), good(b, a))
            }
        }
    }
}

fn read_ota(block: &Block, slots: &[SlotName; 2]) -> Result<Pair, BootError> {
    let mut pair = Pair::factory(slots.clone(), TRIES);
    let pending = slot_in(block, "ota_pending", slots)?;
    for (slot, standing) in &mut pair.slots {
        *standing = match text(block, &format!("ota_{slot}"))? {
            _ if pending.as_ref() == Some(slot) => on_trial(left(block)?),
            "good" => Standing::Good,
            "bad" => Standing::Bad,
            "" => Standing::Blank,
            got => return Err(unexpected(&format!("ota_{slot}"), "good, bad or nothing", got)),
        };
    }
    if let Some(primary) = slot_in(block, "ota_primary", slots)? {
        pair.primary = primary;
    }
    pair.was_armed = text(block, "ota_armed")? == "1";
    Ok(pair)
}

fn write_ota(block: &mut Block, pair: &Pair) {
    let trial = pair.on_trial();
    let mut say = |name: &str, value: Option<String>| match value {
        Some(value) => block.set(name, &value),
        None => block.unset(name),
    };
    for (slot, standing) in pair.slots.iter().rev() {
        let known = match standing {
            Standing::Good => Some("good"),
            Standing::Bad => Some("bad"),
            Standing::Blank | Standing::Pending { .. } | Standing::Spent => None,
        };
        say(&format!("ota_{slot}"), known.map(str::to_owned));
    }
    say("ota_armed", pair.was_armed.then(|| "1".to_owned()));
    say("ota_left", trial.map(|(_, standing)| standing.tries_left().min(MAX_LEFT).to_string()));
    say("ota_pending", trial.map(|(slot, _)| slot.to_string()));
    let is_blank = pair.slots.iter().all(|(_, standing)| standing.is_blank());
    let is_factory = is_blank && pair.primary == pair.slots[0].0;
    say("ota_primary", (!is_factory).then(|| pair.primary.to_string()));
}

fn left(block: &Block) -> Result<u8, BootError> {
    let got = text(block, "ota_left")?;
    match got.as_bytes() {
        [digit @ b'0'..=b'9'] => Ok(digit - b'0'),
        _ => Err(unexpected("ota_left", "one digit", got)),
    }
}

const fn on_trial(tries_left: u8) -> Standing {
    if tries_left == 0 { Standing::Spent } else { Standing::Pending { tries_left } }
}

fn read_rauc(block: &Block, slots: &[SlotName; 2], names: &[String; 2]) -> Result<Loaded, BootError> {
    let said = RaucSays::read(block, names)?;
    let mut pair = Pair::factory(slots.clone(), 1);
    for (slot, (_, standing)) in pair.slots.iter_mut().enumerate() {
        *standing = said.standing(slot);
    }
    pair.primary = slots[said.primary()].clone();
    pair.was_armed = said.was_armed;
    let next = said.good_one_is_tried().then(|| slots[said.choice()].clone());
    let weakness = said.none_is_startable().then(|| {
        Weakness::that_may_return(
            "no slot has OK=1 and TRY=0: a GRUB configuration for RAUC starts the first entry of its menu then (in RAUC's example a rescue \
             system, and no slot), and forgets the tries of good slots with that",
        )
    });
    Ok(Loaded { pair, next, weakness })
}

/// What RAUC's variables say, and ours beside them; a slot is its place among the names.
struct RaucSays {
    pending: Option<usize>,
    bad: Option<usize>,
    /// Without the names of others.
    order: Vec<usize>,
    /// The order has names of others, of which nothing is known.
    has_others: bool,
    ok: [bool; 2],
    tried: [bool; 2],
    was_armed: bool,
}

impl RaucSays {
    fn read(block: &Block, names: &[String; 2]) -> Result<Self, BootError> {
        let flags = |what: &str| -> Result<[bool; 2], BootError> {
            Ok([flag(block, &format!("{}_{what}", names[0]))?, flag(block, &format!("{}_{what}", names[1]))?])
        };
        let words: Vec<&str> = text(block, "ORDER")?.split_whitespace().collect();
        let order: Vec<usize> = words.iter().filter_map(|word| names.iter().position(|name| name == word)).collect();
        Ok(Self {
            pending: named(block, "ota_pending", names)?,
            bad: named(block, "ota_bad", names)?,
            has_others: order.len() < words.len(),
            order,
            ok: flags("OK")?,
            tried: flags("TRY")?,
            was_armed: text(block, "ota_armed")? == "1",
        })
    }

    /// The first of the order that is good and not tried.
    fn started(&self) -> Option<usize> {
        self.first(|slot| self.ok[slot] && !self.tried[slot])
    }

    /// RAUC's script finds no slot that it may start. Without an order it has its own, which has both.
    fn none_is_startable(&self) -> bool {
        let order = if self.order.is_empty() { &[0, 1][..] } else { &self.order };
        !self.has_others && order.iter().all(|&slot| !self.ok[slot] || self.tried[slot])
    }

    fn standing(&self, slot: usize) -> Standing {
        let is_pending = self.pending == Some(slot);
        match (self.ok[slot], self.tried[slot]) {
            (true, false) if is_pending && self.started() == Some(slot) => Standing::Pending { tries_left: 1 },
            // Behind another one that is started it was put by somebody else.
            (true, false) | (_, true) if is_pending => Standing::Spent,
            // RAUC's script starts none that does not stand in the order.
            (true, _) if self.order.is_empty() || self.order.contains(&slot) => Standing::Good,
            (_, _) if self.bad == Some(slot) => Standing::Bad,
            (_, _) => Standing::Blank,
        }
    }

    /// The first of the order that is good; where none is, there is nothing to go back to but what is started, or comes first.
    fn primary(&self) -> usize {
        let is_good = |slot: usize| self.standing(slot).is_good();
        // Without an order RAUC's script has its own.
        let good = self.first(is_good).or_else(|| (0..2).find(|&slot| is_good(slot)));
        good.or_else(|| self.started()).or(self.order.first().copied()).unwrap_or(0)
    }

    /// Whether the loader counted a boot of a slot that is good.
    fn good_one_is_tried(&self) -> bool {
        (0..2).any(|slot| self.tried[slot] && self.standing(slot).is_good())
    }

    /// The first of the order that can be booted and was not tried. Where there is none, RAUC's script starts the first entry of its menu, and
    /// forgets the tries of good slots: the boot after that one starts the first that can be booted.
    fn choice(&self) -> usize {
        let can = |slot: usize| self.standing(slot).is_bootable();
        self.first(|slot| can(slot) && !self.tried[slot]).or_else(|| self.first(can)).unwrap_or(self.primary())
    }

    /// The first of the order of which that is true.
    fn first(&self, is: impl Fn(usize) -> bool) -> Option<usize> {
        self.order.iter().copied().find(|&slot| is(slot))
    }
}

fn write_rauc(block: &mut Block, pair: &Pair, names: &[String; 2]) {
    let name_of =
        |slot: &SlotName| pair.slots.iter().zip(names).find(|((known, _), _)| known == slot).map(|(_, name)| name.clone());
    let mut order: Vec<&SlotName> = pair.slots.iter().map(|(slot, _)| slot).collect();
    order.sort_by_key(|slot| (**slot != *pair.next(), **slot != pair.primary));
    let trial = pair.on_trial();
    let bad = pair.slots.iter().find(|(_, standing)| *standing == Standing::Bad);
    let mut say = |name: &str, value: Option<String>| match value {
        Some(value) => block.set(name, &value),
        None => block.unset(name),
    };
    say("ota_armed", pair.was_armed.then(|| "1".to_owned()));
    say("ota_bad", bad.and_then(|(slot, _)| name_of(slot)));
    say("ota_pending", trial.and_then(|(slot, _)| name_of(slot)));
    for ((_, standing), name) in pair.slots.iter().zip(names).rev() {
        let (ok, tried) = match standing {
            Standing::Good | Standing::Pending { .. } => (true, false),
            Standing::Spent => (true, true),
            Standing::Blank | Standing::Bad => (false, false),
        };
        say(&format!("{name}_TRY"), Some(u8::from(tried).to_string()));
        say(&format!("{name}_OK"), Some(u8::from(ok).to_string()));
    }
    let order: Vec<String> = order.into_iter().filter_map(name_of).collect();
    say("ORDER", Some(order.join(" ")));
}

fn flag(block: &Block, name: &str) -> Result<bool, BootError> {
    match text(block, name)? {
        "1" => Ok(true),
        "0" | "" => Ok(false),
        got => Err(unexpected(name, "0 or 1", got)),
    }
}

/// The slot whose name a variable holds.
fn named(block: &Block, variable: &str, names: &[String; 2]) -> Result<Option<usize>, BootError> {
    let got = text(block, variable)?;
    if got.is_empty() {
        return Ok(None);
    }
    let found = names.iter().position(|name| name == got);
    found.map(Some).ok_or_else(|| unexpected(variable, &names.join(" or "), got))
}

fn slot_in(block: &Block, name: &str, slots: &[SlotName; 2]) -> Result<Option<SlotName>, BootError> {
    let got = text(block, name)?;
    if got.is_empty() {
        return Ok(None);
    }
    let found = slots.iter().find(|slot| slot.as_str() == got).cloned();
    found.map(Some).ok_or_else(|| unexpected(name, &format!("slot {} or {}", slots[0], slots[1]), got))
}

/// The value of a variable; nothing if it is not there.
fn text<'a>(block: &'a Block, name: &str) -> Result<&'a str, BootError> {
    let value = block.get(name).unwrap_or_default();
    std::str::from_utf8(value).map_err(|_| unexpected(name, "text", &String::from_utf8_lossy(value)))
}

fn unexpected(name: &str, expected: &str, got: &str) -> BootError {
    BootError::Unsuitable(format!("GRUB's variable {name}: expected {expected}, got {got:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::pair::every_pair;

    fn slots() -> [SlotName; 2] {
        ["a", "b"].map(|name| name.parse().unwrap())
    }

    fn rauc() -> Spelling {
        Spelling::Rauc { names: ["A".to_owned(), "B".to_owned()] }
    }

    fn block(variables: &[(&str, &str)]) -> Block {
        let mut block = Block::empty();
        variables.iter().for_each(|(name, value)| block.set(name, value));
        block
    }

    #[test]
    fn every_pair_is_spelled_and_read_again_and_fits_beside_the_variables_of_others() {
        for pair in every_pair(TRIES) {
            let mut block = block(&[("saved_entry", "0"), ("next_entry", "")]);
            Spelling::Ota.write(&mut block, &pair);
            let block = Block::parse(&block.to_bytes().unwrap()).unwrap();
            assert_eq!(Spelling::Ota.read(&block, &slots()).unwrap(), Loaded::from(pair));
            assert_eq!(block.get("saved_entry"), Some(b"0".as_slice()));
        }
    }

    #[test]
    fn every_pair_is_spelled_in_raucs_variables_and_read_again() {
        for pair in every_pair(1) {
            let mut block = Block::empty();
            rauc().write(&mut block, &pair);
            let block = Block::parse(&block.to_bytes().unwrap()).unwrap();
            assert_eq!(rauc().read(&block, &slots()).unwrap().pair, pair, "{block:?}");
        }
    }

    #[test]
    fn a_block_without_our_variables_is_a_factory_disk() {
        let factory = Pair::factory(slots(), TRIES);
        assert_eq!(Spelling::Ota.read(&block(&[("saved_entry", "0")]), &slots()).unwrap().pair, factory);
    }

    #[test]
    fn the_slot_of_a_disk_that_came_with_its_second_slot_preferred_is_kept() {
        let second = block(&[("ota_primary", "b")]);
        let pair = Spelling::Ota.read(&second, &slots()).unwrap().pair;
        let mut written = second.clone();
        Spelling::Ota.write(&mut written, &pair);
        assert_eq!((pair.next().as_str(), written), ("b", second));
    }

    #[test]
    fn a_try_is_one_digit_that_changes_in_place() {
        let b = &slots()[1];
        let armed = Pair::factory(slots(), TRIES).arm(b, &slots()[0]);
        let mut block = block(&[("saved_entry", "0")]);
        Spelling::Ota.write(&mut block, &armed);
        let before = block.to_bytes().unwrap();
        // As the loader does it.
        block.set("ota_left", "2");
        let after = block.to_bytes().unwrap();
        assert_eq!(before.iter().zip(&after).filter(|(before, after)| before != after).count(), 1);
        let read = Spelling::Ota.read(&block, &slots()).unwrap().pair;
        assert_eq!(read.standing(b), Standing::Pending { tries_left: 2 });
        block.set("ota_left", "0");
        let read = Spelling::Ota.read(&block, &slots()).unwrap().pair;
        assert_eq!((read.standing(b), read.next()), (Standing::Spent, &slots()[0]));
    }

    #[test]
    fn values_that_make_no_sense_are_errors_with_words() {
        let error = |variables: &[(&str, &str)]| Spelling::Ota.read(&block(variables), &slots()).unwrap_err().to_string();
        assert_eq!(error(&[("ota_primary", "c")]), "GRUB's variable ota_primary: expected slot a or b, got \"c\"");
        assert_eq!(error(&[("ota_pending", "b")]), "GRUB's variable ota_left: expected one digit, got \"\"");
        assert_eq!(
            error(&[("ota_pending", "b"), ("ota_left", "12")]),
            "GRUB's variable ota_left: expected one digit, got \"12\""
        );
        assert_eq!(error(&[("ota_a", "fine")]), "GRUB's variable ota_a: expected good, bad or nothing, got \"fine\"");
        let error = |variables: &[(&str, &str)]| rauc().read(&block(variables), &slots()).unwrap_err().to_string();
        assert_eq!(error(&[("A_OK", "yes")]), "GRUB's variable A_OK: expected 0 or 1, got \"yes\"");
        assert_eq!(error(&[("ota_pending", "C")]), "GRUB's variable ota_pending: expected A or B, got \"C\"");
    }

    #[test]
    fn what_rauc_itself_wrote_is_read_as_it_meant_it() {
        let both_good = [("ORDER", "B A"), ("A_OK", "1"), ("A_TRY", "0"), ("B_OK", "1"), ("B_TRY", "0")];
        let read = rauc().read(&block(&both_good), &slots()).unwrap();
        assert_eq!((read.pair.next().as_str(), read.pair.standing(&slots()[0])), ("b", Standing::Good));
        let marked_bad = [("ORDER", "A B"), ("A_OK", "1"), ("A_TRY", "0"), ("B_OK", "0"), ("B_TRY", "0")];
        let read = rauc().read(&block(&marked_bad), &slots()).unwrap();
        assert_eq!((read.pair.next().as_str(), read.pair.standing(&slots()[1])), ("a", Standing::Blank));
        let put_behind = [("ORDER", "A B"), ("A_OK", "1"), ("A_TRY", "0"), ("B_OK", "1"), ("B_TRY", "0"), ("ota_pending", "B")];
        let read = rauc().read(&block(&put_behind), &slots()).unwrap();
        assert_eq!((read.pair.next().as_str(), read.pair.standing(&slots()[1])), ("a", Standing::Spent));
        let old_marked_bad = [("ORDER", "A B"), ("A_OK", "0"), ("B_OK", "1"), ("B_TRY", "0"), ("ota_pending", "B")];
        let read = rauc().read(&block(&old_marked_bad), &slots()).unwrap();
        assert_eq!((read.pair.next().as_str(), read.pair.standing(&slots()[1])), ("b", Standing::Pending { tries_left: 1 }));
        let mut written = block(&old_marked_bad);
        rauc().write(&mut written, &read.pair);
        assert_eq!(rauc().read(&written, &slots()).unwrap(), read);
        let without_order = rauc().read(&block(&[("B_OK", "1")]), &slots()).unwrap();
        assert_eq!((without_order.pair.next().as_str(), without_order.pair.standing(&slots()[1])), ("b", Standing::Good));
        let left_out = [("ORDER", "A"), ("A_OK", "1"), ("A_TRY", "0"), ("B_OK", "1"), ("B_TRY", "0")];
        let read = rauc().read(&block(&left_out), &slots()).unwrap();
        assert_eq!((read.pair.next().as_str(), read.pair.standing(&slots()[1])), ("a", Standing::Blank));
    }

    #[test]
    fn where_rauc_would_start_no_slot_that_is_said_and_renewing_the_good_one_ends_it() {
        let cut_off = [("ORDER", "B A"), ("A_OK", "0"), ("A_TRY", "0"), ("B_OK", "1"), ("B_TRY", "1")];
        let read = rauc().read(&block(&cut_off), &slots()).unwrap();
        let words = read.weakness.unwrap().to_string();
        assert!(
            words.starts_with("no slot has OK=1 and TRY=0: ") && words.contains("starts the first entry of its menu"),
            "{words}"
        );
        let mut renewed = block(&cut_off);
        rauc().write(&mut renewed, &read.pair);
        assert_eq!(rauc().read(&renewed, &slots()).unwrap(), Loaded::from(read.pair));
        for startable in [vec![("B_OK", "1")], vec![("ORDER", "A B rescue"), ("A_OK", "1"), ("A_TRY", "1")]] {
            assert_eq!(rauc().read(&block(&startable), &slots()).unwrap().weakness, None, "{startable:?}");
        }
    }

    #[test]
    fn a_good_slot_whose_boot_rauc_counted_is_not_the_next_one_until_its_try_is_given_back() {
        let counted = [("ORDER", "B A"), ("A_OK", "1"), ("A_TRY", "0"), ("B_OK", "1"), ("B_TRY", "1")];
        let read = rauc().read(&block(&counted), &slots()).unwrap();
        assert_eq!((read.pair.standing(&slots()[1]), read.next.as_ref()), (Standing::Good, Some(&slots()[0])));
        assert_eq!(read.weakness, None);
        let mut block = block(&counted);
        rauc().write(&mut block, &read.pair);
        assert_eq!(rauc().read(&block, &slots()).unwrap(), Loaded::from(read.pair));
    }
}
