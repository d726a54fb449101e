use proptest::prelude::*;

use super::delta::delta_within;
use super::full::full_within;
use crate::build::Options;
use crate::edits::{apply, edit, edited, repeating};
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
    let old = disk_like(5, 5 * WINDOW + 9);
    let mut new = disk_like(6, 5 * WINDOW);
    new[3 * WINDOW..4 * WINDOW].copy_from_slice(&old[WINDOW + 100..2 * WINDOW + 100]);
    let of = |threads| testing::delta(&[("root", &old)], &[("root", &new)], &options(threads, 1)).0;
    let one = of(1);
    assert!(one == of(2) && one == of(5));
}

/// A delta, or without old bytes a full payload, whose frame table has at most so many bytes: the table and the length of the payload.
fn within(table_bytes: u32, old: &[u8], new: &[u8], threads: usize) -> (FrameTable, Vec<u8>) {
    let image = |data| crate::build::Image { name: "root", slot: None, size: new.len() as u64, data };
    let (mut spool, mut out, options) = (std::io::Cursor::new(Vec::new()), Vec::new(), options(threads, 1));
    let source = testing::table_of(if old.is_empty() { new } else { old });
    let built = if old.is_empty() {
        full_within(table_bytes, &[image(&new)], &options, &mut spool, &mut out, &mut |_| {})
    } else {
        delta_within(table_bytes, &[(image(&old), &source)], &[image(&new)], &options, &mut spool, &mut out, &mut |_| {})
    };
    let (table, images) = (built.unwrap().table, [("root", new)]);
    let checked = testing::check(&record(&images), &table, &out, &[("root", old)], options.threads, &mut |_| {});
    assert_eq!((checked.wrong, checked.faults.len()), (0, 0), "{:?}", checked.faults);
    (table, out)
}

#[test]
fn a_frame_table_is_never_longer_than_it_may_be_whatever_there_is_to_lean_on() {
    const FRAMES: usize = 16;
    // Every block stands somewhere else: each is an extent of its own.
    let (mut dice, old) = (Dice::new(5), Dice::new(6).bytes(FRAMES * WINDOW));
    let mut blocks: Vec<&[u8]> = old.chunks(4096).collect();
    (1..blocks.len()).for_each(|at| blocks.swap(at, dice.below(at + 1)));
    let new = blocks.concat();
    let own: Vec<u8> = (0..FRAMES)
        .flat_map(|frame| if frame < 8 { &old[frame * WINDOW..][..WINDOW] } else { &new[..WINDOW] })
        .copied()
        .collect();
    for (old, new) in [(&old[..], &new), (&[], &own)] {
        let built = |bytes_a_frame: usize| {
            let most = (4096 + FRAMES * (7 + bytes_a_frame)) as u32;
            let (table, payload) = within(most, old, new, 1);
            assert!(payload == within(most, old, new, 3).1, "threads change nothing");
            let bytes = table.header().table_range().end - table.header().table_range().start;
            assert!(bytes <= u64::from(most) - 3800, "{bytes} of {most}");
            payload.len()
        };
        let (none, some, all) = (built(0), built(100), built(5000));
        assert!(none > FRAMES * WINDOW && some < none && all <= some, "{none} {some} {all}");
        assert!(old.is_empty() || all < some && all < 10_000, "{none} {some} {all}");
        assert_eq!(all, within(crate::limits::MAX_TABLE_BYTES, old, new, 2).1.len());
    }
}

/// Names of images, in order.
const NAMES: [&str; 3] = ["root", "boot", "data"];

fn named(images: &[Vec<u8>]) -> Vec<(&'static str, &[u8])> {
    NAMES.into_iter().zip(images.iter().map(Vec::as_slice)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_done_to_images_they_come_back(
        images in proptest::collection::vec(edited(2 * WINDOW, 8), 1..4), without in 0..4_usize, threads in 1..4_usize,
    ) {
        let old: Vec<Vec<u8>> = images.iter().map(|image| image.old.clone()).collect();
        let new: Vec<Vec<u8>> = images.iter().map(|image| image.new.clone()).collect();
        // One of the old images may be gone, and then what has its name leans on the others.
        let old: Vec<_> = named(&old).into_iter().enumerate().filter(|(at, _)| *at != without).map(|(_, image)| image).collect();
        round_trip(&old, &named(&new), &options(threads, 1));
    }

    #[test]
    fn images_that_stay_as_they_are_are_nothing_but_copies_and_zeros(
        images in proptest::collection::vec(edited(3 * WINDOW, 8), 1..4), repeated in repeating(1..3), threads in 1..4_usize,
    ) {
        let mut images: Vec<Vec<u8>> = images.into_iter().map(|image| image.new).collect();
        images[0] = if images.len() == 1 { repeated.new } else { images[0].clone() };
        let (bytes, table) = round_trip(&named(&images), &named(&images), &options(threads, 1));
        prop_assert!(table.totals().keys().all(|kind| matches!(kind, Kind::Copy | Kind::Zero)), "{:?}", table.totals());
        prop_assert_eq!(bytes as u64, table.header().table_range().end, "no blob");
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_built_is_the_same_on_any_number_of_threads(
        image in edited(WINDOW, 6), repeated in repeating(2..4), frame_windows in 1..3_u32, threads in 2..5_usize,
    ) {
        let (old, new) = ([image.old, repeated.old], [repeated.new, image.new]);
        let full = |threads| testing::full(&named(&new), &options(threads, frame_windows)).0;
        let delta = |threads| testing::delta(&named(&old), &named(&new), &options(threads, 1)).0;
        prop_assert!(full(threads) == full(1), "full, {} threads", threads);
        prop_assert!(delta(threads) == delta(1), "delta, {} threads", threads);
    }
}
