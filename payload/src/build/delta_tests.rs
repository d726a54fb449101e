use proptest::prelude::*;

use crate::build::Options;
use crate::format::{FrameTable, Kind};
use crate::testing::{self, Dice, WINDOW, disk_like, options, record, release};

type Images<'a> = [(&'a str, &'a [u8])];

/// The delta's bytes and its table, after every window of it was found to be the release's.
fn round_trip(old: &Images<'_>, new: &Images<'_>, options: &Options) -> (usize, FrameTable) {
    let (payload, built) = testing::delta(old, new, options);
    let table = FrameTable::read(&payload, payload.len() as u64, &record(new)).unwrap();
    let checked = testing::check(&record(new), &table, &payload, old, options.threads, &mut |_| {});
    assert_eq!((checked.wrong, checked.faults.len()), (0, 0), "{:?}", checked.faults);
    for (made, image) in built.windows.iter().zip(&release(new).record().images) {
        assert_eq!(*made, image.table);
    }
    (payload.len(), table)
}

/// Something that people and programs do to an image.
#[derive(Clone, Debug)]
enum Edit {
    Insert {
        at: usize,
        bytes: usize,
    },
    Remove {
        at: usize,
        bytes: usize,
    },
    Move {
        from: usize,
        to: usize,
        bytes: usize,
    },
    Zero {
        at: usize,
        bytes: usize,
    },
    Noise {
        at: usize,
        bytes: usize,
    },
    /// Every so many bytes, one becomes another.
    Relocate {
        at: usize,
        bytes: usize,
        step: usize,
    },
}

fn edit() -> impl Strategy<Value = Edit> {
    let (place, length) = (0..3 * WINDOW, prop_oneof![0..100_usize, 0..20_000_usize, Just(4096), Just(WINDOW)]);
    prop_oneof![
        (place.clone(), length.clone()).prop_map(|(at, bytes)| Edit::Insert { at, bytes }),
        (place.clone(), length.clone()).prop_map(|(at, bytes)| Edit::Remove { at, bytes }),
        (place.clone(), place.clone(), length.clone()).prop_map(|(from, to, bytes)| Edit::Move { from, to, bytes }),
        (place.clone(), length.clone()).prop_map(|(at, bytes)| Edit::Zero { at, bytes }),
        (place.clone(), length.clone()).prop_map(|(at, bytes)| Edit::Noise { at, bytes }),
        (place, length, 1..200_usize).prop_map(|(at, bytes, step)| Edit::Relocate { at, bytes, step }),
    ]
}

fn apply(image: &mut Vec<u8>, edit: &Edit, dice: &mut Dice) {
    let range = |image: &Vec<u8>, at: usize, bytes: usize| {
        let at = at.min(image.len());
        at..(at + bytes).min(image.len())
    };
    match *edit {
        Edit::Insert { at, bytes } => {
            let at = at.min(image.len());
            image.splice(at..at, dice.bytes(bytes));
        }
        Edit::Remove { at, bytes } => drop(image.drain(range(image, at, bytes))),
        Edit::Move { from, to, bytes } => {
            let taken: Vec<u8> = image.drain(range(image, from, bytes)).collect();
            let to = to.min(image.len());
            image.splice(to..to, taken);
        }
        Edit::Zero { at, bytes } => {
            let range = range(image, at, bytes);
            image[range].fill(0);
        }
        Edit::Noise { at, bytes } => {
            let range = range(image, at, bytes);
            let noise = dice.bytes(range.len());
            image[range].copy_from_slice(&noise);
        }
        Edit::Relocate { at, bytes, step } => {
            let range = range(image, at, bytes);
            image[range].iter_mut().step_by(step).for_each(|byte| *byte = byte.wrapping_add(17));
        }
    }
    if image.is_empty() {
        image.push(1);
    }
}

#[test]
fn a_delta_of_an_image_to_itself_is_nothing_but_copies_and_zeros() {
    for size in [1, 4096, WINDOW + 1, 9 * WINDOW - 3] {
        let image = disk_like(7, size);
        let (_, table) = round_trip(&[("root", &image)], &[("root", &image)], &options(2, 1));
        assert!(table.totals().keys().all(|kind| matches!(kind, Kind::Copy | Kind::Zero)), "{size}: {:?}", table.totals());
        assert!(u64::from(table.len()) <= (size as u64).div_ceil(1 << 20) * 4, "{} frames", table.len());
    }
}

#[test]
fn what_moved_is_found_wherever_it_went() {
    let old = Dice::new(3).bytes(6 * WINDOW);
    let mut moved = old.clone();
    moved.rotate_left(5 * 4096);
    let (bytes, table) = round_trip(&[("root", &old)], &[("root", &moved)], &options(2, 1));
    assert_eq!(table.totals().keys().copied().collect::<Vec<_>>(), [Kind::Copy], "by whole blocks");
    assert!(bytes < 1000, "{bytes}");
    moved.rotate_left(1);
    let (bytes, _) = round_trip(&[("root", &old)], &[("root", &moved)], &options(2, 1));
    assert!(bytes < 3000, "by single bytes: {bytes}");
}

#[test]
fn code_whose_addresses_moved_is_a_difference() {
    let old = Dice::new(4).bytes(2 * WINDOW);
    let mut new = old.clone();
    new.iter_mut().step_by(23).for_each(|byte| *byte = byte.wrapping_add(16));
    let (bytes, table) = round_trip(&[("root", &old)], &[("root", &new)], &options(2, 1));
    assert_eq!(table.totals().keys().copied().collect::<Vec<_>>(), [Kind::Difference]);
    assert!(bytes < WINDOW / 8, "{bytes}");
}

#[test]
fn an_image_may_lean_on_another_one_that_was_there() {
    let (root, kernel) = (disk_like(1, 3 * WINDOW), Dice::new(2).bytes(WINDOW));
    let old: [(&str, &[u8]); 2] = [("root", &root), ("kernel", &kernel)];
    let joined = [&root[..], &kernel].concat();
    let (bytes, _) = round_trip(&old, &[("root", &joined)], &options(2, 1));
    assert!(bytes < 1000, "{bytes}");
}

#[test]
fn what_fits_one_slot_leans_only_on_what_a_host_has_that_writes_that_slot() {
    use manifests::release::SlotName;
    let (kernel, noise) = (Dice::new(2).bytes(WINDOW), Dice::new(3).bytes(WINDOW));
    let table = testing::table_of(&kernel);
    let image = |slot| crate::build::Image { name: "kernel", slot, size: WINDOW as u64, data: &kernel };
    let other = crate::build::Image { name: "kernel", slot: Some(SlotName::B), size: WINDOW as u64, data: &noise };
    let noise_table = testing::table_of(&noise);
    let leans = |sources: &[(crate::build::Image<'_>, &_)], target| {
        let (mut spool, mut out) = (std::io::Cursor::new(Vec::new()), Vec::new());
        let built = crate::build::delta(sources, &[target], &options(1, 1), &mut spool, &mut out, &mut |_| {}).unwrap();
        built.table.frames().flat_map(|frame| frame.extents()).count() > 0
    };
    let only_a: [(crate::build::Image<'_>, &_); 2] = [(image(Some(SlotName::A)), &table), (other, &noise_table)];
    assert!(leans(&only_a, image(Some(SlotName::B))), "whoever writes b runs a");
    assert!(!leans(&only_a, image(Some(SlotName::A))), "whoever writes a runs b, and has no image of a");
    assert!(!leans(&only_a, image(None)), "not every host has it");
    assert!(leans(&[(image(None), &table)], image(Some(SlotName::A))), "every host has it");
}

#[test]
fn the_bytes_of_a_delta_do_not_depend_on_the_number_of_threads() {
    let old = disk_like(5, 20 * WINDOW + 9);
    let mut new = disk_like(6, 20 * WINDOW);
    new[3 * WINDOW..12 * WINDOW].copy_from_slice(&old[WINDOW + 100..10 * WINDOW + 100]);
    let of = |threads| testing::delta(&[("root", &old)], &[("root", &new)], &options(threads, 1)).0;
    let one = of(1);
    assert!(one == of(2) && one == of(5));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_done_to_an_image_it_comes_back(
        seed in any::<u64>(), size in 1..3 * WINDOW, edits in proptest::collection::vec(edit(), 0..12), threads in 1..3_usize,
    ) {
        let mut dice = Dice::new(seed);
        let old = disk_like(seed, size);
        let mut new = old.clone();
        edits.iter().for_each(|edit| apply(&mut new, edit, &mut dice));
        round_trip(&[("root", &old)], &[("root", &new)], &options(threads, 1));
    }

    #[test]
    fn a_difference_is_what_it_was_made_of(seed in any::<u64>(), edits in proptest::collection::vec(edit(), 0..12)) {
        let mut dice = Dice::new(seed);
        let old = dice.bytes(100_000);
        let mut new = old.clone();
        edits.iter().for_each(|edit| apply(&mut new, edit, &mut dice));
        new.truncate(WINDOW);
        round_trip(&[("root", &old)], &[("root", &new)], &options(1, 1));
    }
}
