//! Frames are made in any order in which what they lean on is there before them, and ask for nothing else.

use std::cell::RefCell;
use std::io;

use proptest::prelude::*;

use super::*;
use crate::edits::{edited, repeating};
use crate::format::{Extent, Kind, NewFrame};
use crate::testing::{self, Dice, WINDOW, options};
use crate::window::ReadAt as _;

/// Slots in the middle of an install: of the images that are made it has what was made so far, and hands out nothing else.
struct SoFar<'a> {
    old: &'a [(&'a str, &'a [u8])],
    made: Vec<Vec<u8>>,
    there: Vec<WindowSet>,
    /// Reads of bytes that are not there.
    early: RefCell<Vec<(usize, u64)>>,
    own_bytes: RefCell<usize>,
}

impl<'a> SoFar<'a> {
    fn new(old: &'a [(&'a str, &'a [u8])], table: &FrameTable) -> Self {
        let poisoned = table.images().iter().map(|image| vec![0xdb; image.size as usize]).collect();
        let there = table.images().iter().map(|_| WindowSet::new()).collect();
        Self { old, made: poisoned, there, early: RefCell::default(), own_bytes: RefCell::default() }
    }

    fn is_ready(&self, frame: &Frame<'_>) -> bool {
        frame.needs().flatten().all(|window| self.there[frame.image()].contains(window))
    }

    fn put(&mut self, frame: &Frame<'_>, output: &[u8]) {
        let offset = frame.image_offset() as usize;
        self.made[frame.image()][offset..offset + output.len()].copy_from_slice(output);
        frame.windows().for_each(|window| {
            self.there[frame.image()].insert(window);
        });
    }
}

impl Sources for SoFar<'_> {
    fn read(&self, source: Source, image: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let Source::Image(index) = source else {
            let window = WINDOW as u64;
            let mut windows = offset / window..(offset + buffer.len() as u64).div_ceil(window);
            if !windows.all(|window| self.there[image].contains(window as u32)) {
                self.early.borrow_mut().push((image, offset));
            }
            *self.own_bytes.borrow_mut() += buffer.len();
            return self.made[image].read_exact_at(buffer, offset);
        };
        self.old[usize::from(index)].1.read_exact_at(buffer, offset)
    }
}

/// Makes every frame, each time any one of those whose windows are there; some may be there from the beginning. Returns how many bytes of
/// the images themselves were read.
fn apply_in_some_order(
    payload: &[u8],
    table: &FrameTable,
    old: &[(&str, &[u8])],
    new: &[(&str, &[u8])],
    there_already: usize,
    dice: &mut Dice,
) -> Result<usize, TestCaseError> {
    let mut slots = SoFar::new(old, table);
    let mut left: Vec<Frame<'_>> = table.frames().collect();
    let output = |frame: &Frame<'_>| {
        let offset = frame.image_offset() as usize;
        &new[frame.image()].1[offset..offset + frame.output_len()]
    };
    for _ in 0..there_already.min(left.len()) {
        let frame = left.swap_remove(dice.below(left.len()));
        slots.put(&frame, output(&frame));
    }
    let mut decoder = Decoder::new().unwrap();
    while !left.is_empty() {
        let ready: Vec<usize> = (0..left.len()).filter(|at| slots.is_ready(&left[*at])).collect();
        prop_assert!(!ready.is_empty(), "no frame is ready, {} are left", left.len());
        let frame = left.swap_remove(ready[dice.below(ready.len())]);
        let mut made = vec![0xaa; frame.output_len()];
        let blob = &payload[frame.blob().start as usize..frame.blob().end as usize];
        decoder.decode(&frame, blob, &slots, &mut made).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert!(made == output(&frame), "{:?} makes something else", frame);
        prop_assert_eq!(slots.early.take(), [], "{:?} read what is not made", frame);
        slots.put(&frame, &made);
    }
    for (made, (name, image)) in slots.made.iter().zip(new) {
        prop_assert!(made == image, "image {}", name);
    }
    Ok(slots.own_bytes.into_inner())
}

#[test]
fn frames_that_lean_on_others_are_made_after_them_in_a_hundred_orders() {
    let noise = Dice::new(7).bytes(WINDOW);
    let mut dice = Dice::new(8);
    let mut image = Vec::new();
    for _ in 0..8 {
        let mut again = noise.clone();
        (0..20).for_each(|_| again[dice.below(WINDOW)] ^= 0x21);
        image.extend(again);
    }
    let new: [(&str, &[u8]); 1] = [("root", &image)];
    let old: [(&str, &[u8]); 1] = [("root", &Dice::new(9).bytes(WINDOW))];
    let payloads = [(testing::full(&new, &options(2, 1)), &[][..]), (testing::delta(&old, &new, &options(2, 1)), &old[..])];
    for ((payload, built), old) in payloads {
        for _ in 0..100 {
            let own = apply_in_some_order(&payload, &built.table, old, &new, 0, &mut dice).unwrap();
            assert!(own > 0, "nothing leans on what is made");
        }
    }
}

#[test]
fn a_frame_that_is_made_too_early_reads_only_where_it_leans() {
    let noise = Dice::new(7).bytes(WINDOW);
    let image = [noise.clone(), noise].concat();
    let new: [(&str, &[u8]); 1] = [("root", &image)];
    let (payload, built) = testing::full(&new, &options(1, 1));
    let slots = SoFar::new(&[], &built.table);
    let frame = built.table.frames().find(|frame| frame.needs().next().is_some()).unwrap();
    let blob = &payload[frame.blob().start as usize..frame.blob().end as usize];
    let mut made = vec![0; frame.output_len()];
    let outcome = Decoder::new().unwrap().decode(&frame, blob, &slots, &mut made);
    assert!(outcome.is_err() || made != image[WINDOW..], "it was made of nothing");
    let needed: Vec<u32> = frame.needs().flatten().collect();
    let early = slots.early.into_inner();
    assert!(!early.is_empty(), "what is not there is noticed");
    assert!(early.iter().all(|(_, offset)| needed.contains(&((offset / WINDOW as u64) as u32))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_full_payload_is_applied_in_any_order_that_its_leanings_allow(
        repeated in repeating(2..5), other in edited(2 * WINDOW, 6), frame_windows in 1..4_u32, there in 0..4_usize, seed in any::<u64>(),
    ) {
        let new: [(&str, &[u8]); 2] = [("root", &repeated.new), ("boot", &other.new)];
        let (payload, built) = testing::full(&new, &options(2, frame_windows));
        let mut dice = Dice::new(seed);
        for _ in 0..4 {
            apply_in_some_order(&payload, &built.table, &[], &new, there, &mut dice)?;
        }
    }

    #[test]
    fn a_delta_is_applied_in_any_order_that_its_leanings_allow(
        repeated in repeating(2..5), other in edited(2 * WINDOW, 6), there in 0..4_usize, seed in any::<u64>(),
    ) {
        // What is new leans on itself, what was there on the sources.
        let new: [(&str, &[u8]); 2] = [("root", &repeated.new), ("boot", &other.new)];
        let old: [(&str, &[u8]); 1] = [("boot", &other.old)];
        let (payload, built) = testing::delta(&old, &new, &options(2, 1));
        let mut dice = Dice::new(seed);
        for _ in 0..4 {
            apply_in_some_order(&payload, &built.table, &old, &new, there, &mut dice)?;
        }
    }
}

/// A frame that brings its window, right or wrong, or copies one below it.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Brings { right: bool },
    Copies { below: usize },
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let plan = prop_oneof![
        1 => any::<bool>().prop_map(|right| Plan::Brings { right }),
        4 => any::<usize>().prop_map(|below| Plan::Copies { below }),
    ];
    proptest::collection::vec(plan, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_check_ends_on_any_number_of_threads_and_counts_what_leans_on_what_is_wrong(plans in plans(), threads in 1..5_usize) {
        let once = Dice::new(1).bytes(WINDOW);
        let image = once.repeat(plans.len());
        let mut right: Vec<bool> = Vec::new();
        let mut frames = Vec::new();
        for (index, plan) in plans.iter().enumerate() {
            let (kind, extents, blob, is_right) = match *plan {
                Plan::Copies { below } if index > 0 => {
                    let window = below % index;
                    let extent = Extent { source: Source::Target, offset: (window * WINDOW) as u64, length: WINDOW as u64 };
                    (Kind::Copy, vec![extent], vec![], right[window])
                }
                Plan::Brings { right: false } => (Kind::Raw, vec![], vec![0x5a; WINDOW], false),
                _ => (Kind::Raw, vec![], once.clone(), true),
            };
            right.push(is_right);
            frames.push((NewFrame { kind, output_offset: (index * WINDOW) as u64, windows: 1, blob_len: 0, extents }, blob));
        }
        let payload = testing::by_hand(&[testing::entry("root", &image)], &[], frames);
        let record = testing::record(&[("root", &image)]);
        let table = FrameTable::read(&payload, payload.len() as u64, &record).unwrap();
        let threads = std::num::NonZeroUsize::new(threads).unwrap();
        let checked = testing::check(&record, &table, &payload, &[], threads, &mut |_| {});
        let wrong: Vec<u32> = (0..).zip(&right).filter(|(_, right)| !**right).map(|(index, _)| index).collect();
        prop_assert_eq!(checked.faults.iter().map(|fault| fault.frame.index).collect::<Vec<_>>(), wrong.clone());
        prop_assert_eq!((checked.right + checked.wrong, checked.wrong), (right.len() as u64, wrong.len() as u64));
    }
}
