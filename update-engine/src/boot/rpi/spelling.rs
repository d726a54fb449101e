//! How the facts of two slots are spelled in `autoboot.txt`.
//!
//! ```text
//! boot_partition of [all]        that of the preferred slot
//! boot_partition of [tryboot]    that of the armed slot; when none is armed, that of the preferred one
//! #ota a=good b=pending armed    of each slot: good, pending, tried, bad, or nothing; a slot was armed at some time
//! ```
//!
//! While a slot is on trial `[all]` names the other one, unless that was marked bad meanwhile. A slot that is `pending` and that
//! `[tryboot]` does not name was taken back by somebody else, and counts as given up.

use super::autoboot::Autoboot;
use crate::boot::pair::Pair;
use crate::boot::{BootError, Standing};
use crate::slot::SlotName;

/// The firmware's flag starts a slot once.
pub(super) const TRIES: u8 = 1;
const ARMED: &str = "armed";

/// What a file says of the slots on these partitions.
pub(super) fn read(file: &Autoboot, slots: &[SlotName; 2], partitions: [u32; 2]) -> Result<Pair, BootError> {
    let slot_on = |partition: u32| partitions.iter().position(|known| *known == partition).map(|slot| &slots[slot]);
    let expected =
        || format!("boot_partition={} (slot {}) or {} (slot {}) in [all]", partitions[0], slots[0], partitions[1], slots[1]);
    let primary = match file.partition {
        None => return Err(unexpected(&expected(), "none")),
        Some(number) => slot_on(number).ok_or_else(|| unexpected(&expected(), &number.to_string()))?,
    };
    let mut pair = Pair::factory(slots.clone(), TRIES);
    pair.primary = primary.clone();
    for word in file.marks.split_whitespace() {
        if word == ARMED {
            pair.was_armed = true;
            continue;
        }
        let known = word.split_once('=').and_then(|(slot, mark)| {
            let slot = slots.iter().position(|known| known.as_str() == slot)?;
            let is_named = file.tryboot_partition == Some(partitions[slot]);
            Some((slot, standing(mark, is_named)?))
        });
        let (slot, standing) = known
            .ok_or_else(|| unexpected("SLOT=good, pending, tried or bad, or armed, behind \"#ota\"", &format!("{word:?}")))?;
        pair.slots[slot].1 = standing;
    }
    Ok(pair)
}

/// Says it. Lines of others stay.
pub(super) fn write(file: &mut Autoboot, pair: &Pair, partitions: [u32; 2]) {
    let partition_of = |wanted: &SlotName| {
        let found = pair.slots.iter().zip(partitions).find(|((slot, _), _)| slot == wanted);
        found.map(|(_, partition)| partition)
    };
    file.partition = partition_of(&pair.primary);
    file.tryboot_partition = partition_of(pair.next());
    file.tryboot_a_b = true;
    let marks = pair.slots.iter().filter_map(|(slot, standing)| Some(format!("{slot}={}", mark(*standing)?)));
    let marks: Vec<String> = marks.chain(pair.was_armed.then(|| ARMED.to_owned())).collect();
    file.marks = marks.join(" ");
}

fn standing(mark: &str, is_named: bool) -> Option<Standing> {
    match mark {
        "good" => Some(Standing::Good),
        "pending" if is_named => Some(Standing::Pending { tries_left: TRIES }),
        "pending" | "tried" => Some(Standing::Spent),
        "bad" => Some(Standing::Bad),
        _ => None,
    }
}

const fn mark(standing: Standing) -> Option<&'static str> {
    match standing {
        Standing::Blank => None,
        Standing::Good => Some("good"),
        Standing::Pending { .. } => Some("pending"),
        Standing::Spent => Some("tried"),
        Standing::Bad => Some("bad"),
    }
}

fn unexpected(expected: &str, got: &str) -> BootError {
    BootError::Unsuitable(format!("autoboot.txt: expected {expected}, got {got}"))
}

#[cfg(test)]
mod tests {
    use super::super::autoboot::FILE_BYTES;
    use super::*;
    use crate::boot::pair::every_pair;

    const PARTITIONS: [u32; 2] = [2, 3];

    fn slots() -> [SlotName; 2] {
        ["a", "b"].map(|name| name.parse().unwrap())
    }

    fn file(text: &str) -> Autoboot {
        Autoboot::parse(text.as_bytes()).unwrap()
    }

    fn pair(text: &str) -> Pair {
        read(&file(text), &slots(), PARTITIONS).unwrap()
    }

    fn error(text: &str) -> String {
        read(&file(text), &slots(), PARTITIONS).unwrap_err().to_string()
    }

    #[test]
    fn every_pair_is_spelled_and_read_again_and_fits_beside_lines_of_others() {
        let others = format!("# {}\n[tryboot]\nboot_partition=3\n# {}\n", "x".repeat(120), "y".repeat(120));
        for pair in every_pair(TRIES) {
            let mut written = file(&others);
            write(&mut written, &pair, PARTITIONS);
            let read_again = Autoboot::parse(&written.to_bytes(FILE_BYTES).unwrap()).unwrap();
            assert_eq!(read(&read_again, &slots(), PARTITIONS).unwrap(), pair, "{read_again:?}");
            let partition = |slot: &SlotName| PARTITIONS[usize::from(slot.as_str() == "b")];
            assert_eq!(read_again.partition, Some(partition(&pair.primary)), "an ordinary boot starts what is not on trial");
            assert_eq!(read_again.tryboot_partition, Some(partition(pair.next())), "nor does the flag start another one");
            assert!(read_again.tryboot_a_b);
        }
    }

    #[test]
    fn a_file_without_our_words_is_a_factory_disk_whose_slot_it_names() {
        let documented = "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n";
        assert_eq!(pair(documented), Pair::factory(slots(), TRIES));
        assert_eq!(pair("boot_partition=3"), Pair { primary: slots()[1].clone(), ..Pair::factory(slots(), TRIES) });
    }

    #[test]
    fn an_armed_slot_that_somebody_else_took_back_counts_as_given_up() {
        let (a, b) = (&slots()[0], &slots()[1]);
        let armed = pair("boot_partition=2\n[tryboot]\nboot_partition=3\n#ota a=good b=pending armed\n");
        assert_eq!((armed.standing(b), armed.next()), (Standing::Pending { tries_left: 1 }, b));
        let taken_back = pair("boot_partition=2\n#ota a=good b=pending armed\n");
        assert_eq!((taken_back.standing(b), taken_back.next()), (Standing::Spent, a));
        let committed_by_hand = pair("boot_partition=3\n[tryboot]\nboot_partition=2\n#ota a=good b=pending armed\n");
        assert_eq!((committed_by_hand.standing(b), committed_by_hand.next()), (Standing::Spent, b), "never taken for good");
    }

    #[test]
    fn values_that_make_no_sense_are_errors_with_words() {
        let expected = "autoboot.txt: expected boot_partition=2 (slot a) or 3 (slot b) in [all], got ";
        assert_eq!(error(""), format!("{expected}none"));
        assert_eq!(error("[tryboot]\nboot_partition=3"), format!("{expected}none"));
        assert_eq!(error("boot_partition=1"), format!("{expected}1"));
        for word in ["c=good", "a=fine", "a", "armed=1"] {
            assert_eq!(
                error(&format!("boot_partition=2\n#ota {word}\n")),
                format!("autoboot.txt: expected SLOT=good, pending, tried or bad, or armed, behind \"#ota\", got {word:?}")
            );
        }
    }
}
