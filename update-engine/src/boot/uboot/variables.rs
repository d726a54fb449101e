//! How the facts of two slots are spelled in U-Boot's variables: RAUC's, so that `dist/u-boot/boot.cmd`, RAUC's own scripts and U-Boot's
//! `rauc` boot method read them alike, and three of ours for what those do not tell.
//!
//! ```text
//! BOOT_ORDER=B A        the slots that may be started, the preferred one first; names are configured
//! BOOT_A_LEFT=3         boots left, hexadecimal: one that has none is passed over
//! BOOT_B_LEFT=3
//! ota_pending=B         the slot on trial: the only one whose boots `boot.cmd` counts
//! ota_bad=A             it ran and was marked bad
//! ota_armed=1           a slot was armed at some time
//! ota_loader=1          written by `boot.cmd`: it reads this environment, and can write it
//! ```
//!
//! A slot that must not be started is taken out of `BOOT_ORDER`: scripts that give all slots their tries back when none has any leave the
//! order alone. Its count is zero besides. Where all tries are gone, `boot.cmd` starts the first slot of the order; RAUC's scripts give all
//! tries back and start anew, with the same end; and so does U-Boot's boot method with `CONFIG_BOOTMETH_RAUC_RESET_ALL_ZERO_TRIES`. Without
//! that option it starts nothing, and no count is given back but by hand.
//!
//! A slot on trial that stands behind another one that may be started was put there by somebody else, and counts as given up; one that was
//! taken out of the order, as RAUC's `mark-bad` does it, counts as bad.

use super::environment::Environment;
use crate::boot::pair::{Loaded, Pair, TRIES};
use crate::boot::{BootError, Standing};
use crate::slot::SlotName;

const ORDER: &str = "BOOT_ORDER";
const PENDING: &str = "ota_pending";
const BAD: &str = "ota_bad";
const ARMED: &str = "ota_armed";
/// What `boot.cmd` sets.
pub(super) const CANARY: &str = "ota_loader";
/// Longest count that is read.
const MAX_DIGITS: usize = 8;

/// What an environment says of the slots that it calls by these names.
pub(super) fn read(environment: &Environment, slots: &[SlotName; 2], names: &[String; 2]) -> Result<Loaded, BootError> {
    let order = order(environment, names)?;
    let left = [left(environment, &names[0])?, left(environment, &names[1])?].map(|left| left.unwrap_or(TRIES));
    let (pending, bad) = (named(environment, PENDING, names)?, named(environment, BAD, names)?);
    // Without an order the loaders have their own, which stands for it once anything is marked.
    let looked_at = if text(environment, ORDER)?.is_empty() { &[0, 1][..] } else { &order };
    let order = if pending.or(bad).is_some() { looked_at } else { &order };
    let choice = looked_at.iter().find(|&&slot| left[slot] > 0).or(looked_at.first()).copied();
    let standing = |slot: usize| match (order.contains(&slot), pending == Some(slot)) {
        (true, true) if left[slot] > 0 && choice == Some(slot) => Standing::Pending { tries_left: left[slot] },
        (true, true) => Standing::Spent,
        (true, false) => Standing::Good,
        (false, true) => Standing::Bad,
        (false, false) if bad == Some(slot) => Standing::Bad,
        (false, false) => Standing::Blank,
    };
    let mut pair = Pair::factory(slots.clone(), TRIES);
    for (slot, known) in pair.slots.iter_mut().enumerate() {
        known.1 = standing(slot);
    }
    let is_good = |slot: usize| standing(slot).is_good();
    if let Some(&primary) = order.iter().find(|&&slot| is_good(slot)).or(order.first()) {
        pair.primary = slots[primary].clone();
    }
    pair.was_armed = text(environment, ARMED)? == "1";
    let good_was_counted = (0..2).any(|slot| is_good(slot) && left[slot] < TRIES);
    let next = choice.filter(|slot| good_was_counted || slots[*slot] != *pair.next()).map(|slot| slots[slot].clone());
    Ok(Loaded { pair, next, weakness: None })
}

/// Says it. Variables of others stay, and so do names of other slots in the order, behind ours.
pub(super) fn write(environment: &mut Environment, pair: &Pair, names: &[String; 2]) -> Result<(), BootError> {
    let others = other_names(environment, names)?;
    let mut slots: Vec<(&SlotName, Standing, &String)> =
        pair.slots.iter().zip(names).map(|((slot, standing), name)| (slot, *standing, name)).collect();
    let is_factory = slots.iter().all(|(_, standing, _)| standing.is_blank());
    for (_, standing, name) in slots.iter().filter(|_| !is_factory) {
        let left = match standing {
            Standing::Good => left(environment, name)?.unwrap_or(TRIES).max(TRIES),
            _ => standing.tries_left(),
        };
        environment.set(&left_of(name), &format!("{left:x}"));
    }
    slots.sort_by_key(|(slot, _, _)| (*slot != pair.next(), **slot != pair.primary));
    let name_of = |wanted: fn(Standing) -> bool| {
        let found = slots.iter().find(|(_, standing, _)| wanted(*standing));
        found.map(|(_, _, name)| (*name).clone())
    };
    let startable = slots.iter().filter(|(_, standing, _)| standing.is_good() || standing.is_on_trial());
    let order: Vec<&str> = startable.map(|(_, _, name)| name.as_str()).chain(others.iter().map(String::as_str)).collect();
    let mut say = |name: &str, value: Option<String>| match value {
        Some(value) => environment.set(name, &value),
        None => environment.unset(name),
    };
    say(ORDER, Some(order.join(" ")).filter(|order| !order.is_empty()));
    say(PENDING, name_of(Standing::is_on_trial));
    say(BAD, name_of(|standing| standing == Standing::Bad));
    say(ARMED, pair.was_armed.then(|| "1".to_owned()));
    Ok(())
}

/// Whether anything says that a loader which reads these variables reads this environment.
pub(super) fn is_read_by_a_loader(environment: &Environment) -> bool {
    environment.get(CANARY).is_some() || environment.get(ORDER).is_some()
}

/// The slots in the order in which the loader looks at them, each once.
fn order(environment: &Environment, names: &[String; 2]) -> Result<Vec<usize>, BootError> {
    let mut order = Vec::new();
    for word in text(environment, ORDER)?.split_whitespace() {
        if let Some(slot) = names.iter().position(|name| name == word)
            && !order.contains(&slot)
        {
            order.push(slot);
        }
    }
    Ok(order)
}

fn other_names(environment: &Environment, names: &[String; 2]) -> Result<Vec<String>, BootError> {
    let words = text(environment, ORDER)?.split_whitespace().map(str::to_owned);
    Ok(words.filter(|word| !names.contains(word)).collect())
}

fn left_of(name: &str) -> String {
    format!("BOOT_{name}_LEFT")
}

/// Boots left; `None` where nothing says so, which all loaders take for [`TRIES`].
fn left(environment: &Environment, name: &str) -> Result<Option<u8>, BootError> {
    let variable = left_of(name);
    let got = text(environment, &variable)?;
    if got.is_empty() {
        return Ok(None);
    }
    let is_count = got.len() <= MAX_DIGITS && got.bytes().all(|byte| byte.is_ascii_hexdigit());
    let count = u32::from_str_radix(got, 16).ok().filter(|_| is_count);
    let count = count.ok_or_else(|| unexpected(&variable, "a hexadecimal number", got))?;
    Ok(Some(u8::try_from(count).unwrap_or(u8::MAX)))
}

fn named(environment: &Environment, variable: &str, names: &[String; 2]) -> Result<Option<usize>, BootError> {
    let got = text(environment, variable)?;
    if got.is_empty() {
        return Ok(None);
    }
    let found = names.iter().position(|name| name == got);
    found.map(Some).ok_or_else(|| unexpected(variable, &names.join(" or "), got))
}

/// The value of a variable; nothing if it is not there.
fn text<'a>(environment: &'a Environment, name: &str) -> Result<&'a str, BootError> {
    let value = environment.get(name).unwrap_or_default();
    std::str::from_utf8(value).map_err(|_| unexpected(name, "text", &String::from_utf8_lossy(value)))
}

fn unexpected(name: &str, expected: &str, got: &str) -> BootError {
    BootError::Unsuitable(format!("U-Boot's variable {name}: expected {expected}, got {got:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::pair::every_pair;

    fn slots() -> [SlotName; 2] {
        ["a", "b"].map(|name| name.parse().unwrap())
    }

    fn names() -> [String; 2] {
        ["A".to_owned(), "B".to_owned()]
    }

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let mut environment = Environment::default();
        variables.iter().for_each(|(name, value)| environment.set(name, value));
        environment
    }

    fn loaded(variables: &[(&str, &str)]) -> Loaded {
        read(&environment(variables), &slots(), &names()).unwrap()
    }

    fn standings(loaded: &Loaded) -> [Standing; 2] {
        [0, 1].map(|slot| loaded.pair.slots[slot].1)
    }

    /// What `boot.cmd` does, and with `counts_all` what RAUC's scripts and U-Boot's boot method do.
    fn boot(environment: &mut Environment, counts_all: bool) -> String {
        let value = |environment: &Environment, name: &str| {
            String::from_utf8(environment.get(name).unwrap_or_default().to_vec()).unwrap()
        };
        let order = Some(value(environment, ORDER)).filter(|order| !order.is_empty()).unwrap_or_else(|| "A B".to_owned());
        let pending = value(environment, PENDING);
        for name in order.split(' ') {
            let left = Some(value(environment, &left_of(name))).filter(|left| !left.is_empty());
            let left = u32::from_str_radix(&left.unwrap_or_else(|| "3".to_owned()), 16).unwrap();
            if left > 0 {
                if counts_all || name == pending {
                    environment.set(&left_of(name), &format!("{:x}", left - 1));
                }
                return name.to_owned();
            }
        }
        if counts_all {
            ["A", "B"].iter().for_each(|name| environment.set(&left_of(name), "3"));
            return boot(environment, true);
        }
        order.split(' ').next().unwrap().to_owned()
    }

    #[test]
    fn every_pair_is_spelled_and_read_again_from_what_others_left() {
        let before = [
            environment(&[]),
            environment(&[("BOOT_ORDER", "B A R"), ("BOOT_A_LEFT", "0"), ("BOOT_B_LEFT", "1"), ("ota_bad", "B")]),
            environment(&[("BOOT_ORDER", "A"), ("BOOT_A_LEFT", "ff"), ("ota_pending", "A"), ("ota_armed", "1")]),
        ];
        for pair in every_pair(TRIES) {
            for (case, before) in before.iter().enumerate() {
                let mut after = before.clone();
                write(&mut after, &pair, &names()).unwrap();
                assert_eq!(read(&after, &slots(), &names()).unwrap(), Loaded::from(pair.clone()), "{case}: {after:?}");
                let mut again = after.clone();
                write(&mut again, &pair, &names()).unwrap();
                assert_eq!(again, after);
            }
        }
    }

    #[test]
    fn the_script_starts_what_the_pair_says_and_leaves_what_the_pair_says() {
        for pair in every_pair(TRIES) {
            let mut after = environment(&[]);
            write(&mut after, &pair, &names()).unwrap();
            let started = boot(&mut after, false);
            let (slot, expected) = pair.boot();
            assert_eq!(started.to_lowercase(), slot.as_str(), "{after:?}");
            assert_eq!(read(&after, &slots(), &names()).unwrap(), Loaded::from(expected), "{after:?}");
        }
    }

    #[test]
    fn loaders_that_count_every_slot_start_the_same_and_a_good_one_gets_its_tries_back() {
        for pair in every_pair(TRIES) {
            let mut after = environment(&[]);
            write(&mut after, &pair, &names()).unwrap();
            let started = boot(&mut after, true);
            let (slot, expected) = pair.clone().boot();
            assert_eq!(started.to_lowercase(), slot.as_str(), "{after:?}");
            let read_again = read(&after, &slots(), &names()).unwrap();
            if pair.standing(&slot).is_good() {
                assert_eq!((read_again.pair, read_again.next), (expected.clone(), Some(slot)));
                write(&mut after, &expected, &names()).unwrap();
                assert_eq!(read(&after, &slots(), &names()).unwrap(), Loaded::from(expected));
            }
        }
    }

    #[test]
    fn a_good_slot_that_was_cut_off_in_every_boot_is_passed_over_until_its_tries_are_given_back() {
        let mut counted = environment(&[]);
        let good = Pair::factory(slots(), TRIES).mark_good(&slots()[1]).mark_good(&slots()[0]);
        write(&mut counted, &good, &names()).unwrap();
        let started: Vec<String> = (0..4).map(|_| boot(&mut counted, true)).collect();
        assert_eq!(started, ["B", "B", "B", "A"]);
        let read_again = read(&counted, &slots(), &names()).unwrap();
        assert_eq!((&read_again.pair, read_again.next), (&good, Some(slots()[0].clone())));
    }

    #[test]
    fn a_slot_that_is_written_stays_out_of_the_order_when_all_tries_are_given_back() {
        let mut fenced = environment(&[("BOOT_ORDER", "A B R"), ("BOOT_A_LEFT", "3"), ("BOOT_B_LEFT", "3")]);
        let pair = read(&fenced, &slots(), &names()).unwrap().pair.disarm(&slots()[1], &slots()[0]);
        write(&mut fenced, &pair, &names()).unwrap();
        assert_eq!((fenced.get(ORDER), fenced.get("BOOT_B_LEFT")), (Some(b"A R".as_slice()), Some(b"0".as_slice())));
        ["BOOT_A_LEFT", "BOOT_B_LEFT"].iter().for_each(|name| fenced.set(name, "3"));
        assert!(read(&fenced, &slots(), &names()).unwrap().pair.standing(&slots()[1]).is_blank());
    }

    #[test]
    fn an_environment_without_an_order_is_a_factory_disk() {
        let factory = Pair::factory(slots(), TRIES);
        assert_eq!(loaded(&[("bootdelay", "2"), ("BOOT_A_LEFT", "3")]), Loaded::from(factory.clone()));
        let mut untouched = environment(&[("bootdelay", "2"), ("BOOT_A_LEFT", "3")]);
        write(&mut untouched, &factory, &names()).unwrap();
        assert_eq!(untouched, environment(&[("bootdelay", "2"), ("BOOT_A_LEFT", "3")]));
    }

    #[test]
    fn a_slot_on_trial_whose_order_is_lost_is_what_the_loaders_own_order_makes_of_it() {
        for (left_of_a, expected, started) in
            [("0", [Standing::Good, Standing::Pending { tries_left: 2 }], "b"), ("3", [Standing::Good, Standing::Spent], "a")]
        {
            let lost = [("BOOT_A_LEFT", left_of_a), ("BOOT_B_LEFT", "2"), ("ota_pending", "B")];
            let before = loaded(&lost);
            assert_eq!((standings(&before), before.next.as_ref().unwrap_or(before.pair.next()).as_str()), (expected, started));
            let mut written = environment(&lost);
            write(&mut written, &before.pair, &names()).unwrap();
            assert_eq!(read(&written, &slots(), &names()).unwrap(), Loaded::from(before.pair));
            assert_eq!(boot(&mut written, false).to_lowercase(), started);
        }
    }

    #[test]
    fn what_raucs_tools_wrote_is_read_as_they_meant_it() {
        let both = loaded(&[("BOOT_ORDER", "B A"), ("BOOT_A_LEFT", "3"), ("BOOT_B_LEFT", "a")]);
        assert_eq!((standings(&both), both.pair.next().as_str(), both.next.as_ref()), ([Standing::Good; 2], "b", None));
        let marked_bad = loaded(&[("BOOT_ORDER", "A"), ("BOOT_A_LEFT", "3"), ("BOOT_B_LEFT", "0"), ("ota_pending", "B")]);
        assert_eq!(standings(&marked_bad), [Standing::Good, Standing::Bad]);
        let put_behind = loaded(&[("BOOT_ORDER", "A B"), ("BOOT_A_LEFT", "3"), ("BOOT_B_LEFT", "2"), ("ota_pending", "B")]);
        assert_eq!((standings(&put_behind), put_behind.pair.next().as_str()), ([Standing::Good, Standing::Spent], "a"));
        let without_order = loaded(&[("BOOT_A_LEFT", "0"), ("BOOT_B_LEFT", "3")]);
        assert_eq!(without_order.next.as_ref().map(SlotName::as_str), Some("b"), "the loaders have an order of their own");
        let hexadecimal = loaded(&[("BOOT_ORDER", "B A"), ("BOOT_B_LEFT", "10"), ("ota_pending", "B")]);
        assert_eq!(standings(&hexadecimal)[1], Standing::Pending { tries_left: 16 });
        let many = loaded(&[("BOOT_ORDER", "B A"), ("BOOT_B_LEFT", "ffffffff"), ("ota_pending", "B")]);
        assert_eq!(standings(&many)[1], Standing::Pending { tries_left: 255 });
    }

    #[test]
    fn values_that_make_no_sense_are_errors_with_words() {
        let error = |variables: &[(&str, &str)]| read(&environment(variables), &slots(), &names()).unwrap_err().to_string();
        for got in ["three", "0x3", "-1", "+1", "123456789"] {
            assert_eq!(
                error(&[("BOOT_B_LEFT", got)]),
                format!("U-Boot's variable BOOT_B_LEFT: expected a hexadecimal number, got \"{got}\"")
            );
        }
        assert_eq!(error(&[("ota_pending", "C")]), "U-Boot's variable ota_pending: expected A or B, got \"C\"");
        assert_eq!(error(&[("ota_bad", "b")]), "U-Boot's variable ota_bad: expected A or B, got \"b\"");
        let mut odd = b"BOOT_ORDER=\xFF\0\0".to_vec();
        odd.resize(32, 0);
        let bytes = [crc32fast::hash(&odd).to_ne_bytes().to_vec(), odd].concat();
        let odd = crate::boot::uboot::Stored::parse(&bytes, crate::boot::uboot::Layout::Single).unwrap().environment;
        assert_eq!(
            read(&odd, &slots(), &names()).unwrap_err().to_string(),
            "U-Boot's variable BOOT_ORDER: expected text, got \"\u{FFFD}\""
        );
    }
}
