//! What frames lean on cannot be read, or is something else: those that lean there fail, and no other.
//!
//! Fault model: one place of one source. Reads that touch it are an error of the device, or come back with one byte changed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::error::Error as _;
use std::io;
use std::num::NonZeroUsize;

use super::*;
use crate::error::Error;
use crate::format::{Extent, Kind, NewFrame};
use crate::testing::{self, Dice, Slots, WINDOW, by_hand, disk_like, entry, options, record, release};
use crate::window::{ReadAt, Verified};

/// What becomes of a read that touches the place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ill {
    Refused,
    Changed,
}

/// Slots of which one byte is ill.
struct IllSlots<'a> {
    slots: Slots<'a>,
    place: (Source, u64),
    ill: Ill,
    touched: Cell<u32>,
}

impl Sources for IllSlots<'_> {
    fn read(&self, source: Source, image: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.slots.read(source, image, offset, buffer)?;
        let (ill_source, place) = self.place;
        let at = place.checked_sub(offset).filter(|at| source == ill_source && *at < buffer.len() as u64);
        let Some(at) = at else { return Ok(()) };
        self.touched.set(self.touched.get() + 1);
        match self.ill {
            Ill::Refused => Err(io::Error::other("medium error")),
            Ill::Changed => {
                buffer[at as usize] ^= 0x40;
                Ok(())
            }
        }
    }
}

/// Images of the release that runs, and of the next: every kind of frame that leans on something.
fn images() -> ([Vec<u8>; 2], Vec<u8>) {
    let (root, kernel) = (disk_like(7, 4 * WINDOW + 77), Dice::new(9).bytes(WINDOW + 5));
    let mut new = root.clone();
    new[WINDOW..2 * WINDOW].iter_mut().step_by(37).for_each(|byte| *byte = byte.wrapping_add(16));
    new[2 * WINDOW + 5000] ^= 1;
    let noise = Dice::new(10).bytes(WINDOW);
    let mut again = noise.clone();
    (0..20).for_each(|n| again[n * 1000] ^= 1);
    new.truncate(4 * WINDOW);
    new.extend([kernel[..WINDOW].to_vec(), noise, again].concat());
    ([root, kernel], new)
}

/// Frames whose extents cover the place.
fn leaning_there(table: &FrameTable, (source, place): (Source, u64)) -> BTreeSet<u32> {
    let covers = |frame: &Frame<'_>| {
        frame.extents().any(|extent| extent.source == source && (extent.offset..extent.offset + extent.length).contains(&place))
    };
    table.frames().filter(covers).map(|frame| frame.index()).collect()
}

#[test]
fn exactly_the_frames_that_lean_on_an_ill_place_fail_and_say_where_it_is() {
    let ([root, kernel], new) = images();
    let old: [(&str, &[u8]); 2] = [("root", &root), ("kernel", &kernel)];
    let made: [(&str, &[u8]); 1] = [("root", &new)];
    let (payload, built) = testing::delta(&old, &made, &options(2, 1));
    let release = release(&made);
    // Both ends of what frames lean on, and what lies beside it.
    let around = |extent: Extent| {
        let (first, end) = (extent.offset, extent.offset + extent.length);
        [first.saturating_sub(1), first, first + extent.length / 2, end - 1, end].map(|place| (extent.source, place))
    };
    let places: BTreeSet<_> = built.table.frames().flat_map(|frame| frame.extents()).flat_map(around).collect();
    let (mut failed, mut origins, mut harmless, mut copies) = (BTreeSet::new(), BTreeSet::new(), 0, 0);
    for place in places {
        let there = leaning_there(&built.table, place);
        for ill in [Ill::Refused, Ill::Changed] {
            let slots = IllSlots { slots: Slots { old: &old, new: &made }, place, ill, touched: Cell::new(0) };
            let mut decoder = Decoder::new().unwrap();
            for frame in built.table.frames() {
                let blob = &payload[frame.blob().start as usize..frame.blob().end as usize];
                let mut out = vec![0; frame.output_len()];
                slots.touched.set(0);
                let outcome = decoder.decode(&frame, blob, &slots, &mut out);
                let leans = there.contains(&frame.index());
                assert_eq!(slots.touched.get() > 0, leans, "{frame:?} {place:?}");
                let is_right = outcome.is_ok() && Verified::check(&release, 0, frame.windows(), out).is_ok();
                match (leans, ill) {
                    (false, _) => assert!(is_right, "{frame:?} does not lean on {place:?} and fails"),
                    (true, Ill::Refused) => {
                        let error = outcome.unwrap_err();
                        assert_names(&error, &frame, place, &old);
                        origins.insert(place.0);
                        failed.insert(frame.index());
                    }
                    // A byte that is only part of a prefix may never be used; what is made of it is wrong or right, and never half.
                    (true, Ill::Changed) if frame.kind() != Kind::Copy => harmless += u32::from(is_right),
                    (true, Ill::Changed) => {
                        assert!(!is_right, "{frame:?} is a copy of {place:?}, which is another byte");
                        copies += 1;
                    }
                }
            }
        }
    }
    assert_eq!(origins.len(), 3, "every source was ill: {origins:?}");
    assert!(failed.len() > 4 && copies > 0, "{failed:?}, {copies} copies of a changed byte");
    println!("{} frames failed; {harmless} times a changed byte was in a prefix and not used", failed.len());
}

/// The error says which frame, of which source which bytes, and why.
fn assert_names(error: &Error, frame: &Frame<'_>, (source, place): (Source, u64), old: &[(&str, &[u8])]) {
    let Error::Source { offset, length, .. } = error else { panic!("{error:?}") };
    assert!((*offset..offset + length).contains(&place), "{error} does not cover byte {place}");
    let origin = match source {
        Source::Target => "the image itself".to_owned(),
        Source::Image(index) => format!("source image {} ({:?})", index + 1, old[usize::from(index)].0),
    };
    assert_eq!(error.to_string(), format!("{}: cannot read {length} bytes at byte {offset} of {origin}", frame.name()));
    assert_eq!(error.source().unwrap().to_string(), "medium error");
}

#[test]
fn a_byte_that_is_copied_shows_in_the_window_that_holds_it_and_nowhere_else() {
    let old = Dice::new(3).bytes(4 * WINDOW);
    let images: [(&str, &[u8]); 1] = [("root", &old)];
    let (payload, built) = testing::delta(&images, &images, &options(1, 1));
    let slots = Slots { old: &images, new: &[] };
    let ill = IllSlots { slots, place: (Source::Image(0), 2 * WINDOW as u64 + 9), ill: Ill::Changed, touched: Cell::new(0) };
    let frame = built.table.frame(0).unwrap();
    assert_eq!(frame.windows(), 0..4, "copies are joined");
    let mut out = vec![0; frame.output_len()];
    Decoder::new().unwrap().decode(&frame, &payload[..0], &ill, &mut out).unwrap();
    let mismatch = Verified::check(&release(&images), 0, 0..4, out).unwrap_err();
    assert_eq!(mismatch.wrong().iter().map(|wrong| wrong.window).collect::<Vec<_>>(), [2]);
    assert_eq!(mismatch.right().iter().map(Verified::windows).collect::<Vec<_>>(), [0..2, 3..4]);
}

#[test]
fn a_whole_payload_is_checked_over_a_source_that_cannot_be_read_and_the_cause_is_told() {
    struct Gone;
    impl Sources for Gone {
        fn read(&self, _: Source, _: usize, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::Error::other("medium error"))
        }
    }
    let ([root, kernel], new) = images();
    let made: [(&str, &[u8]); 1] = [("root", &new)];
    let (payload, built) = testing::delta(&[("root", &root), ("kernel", &kernel)], &made, &options(2, 1));
    let scratch = tempfile::tempfile().unwrap();
    let kept = (&scratch, Keep::LeanedOn);
    let checked = check(&record(&made), &built.table, &payload, &Gone, kept, NonZeroUsize::MIN, &mut |_| {}).unwrap();
    let leans = |frame: &Frame<'_>| frame.extents().any(|extent| extent.source != Source::Target);
    assert_eq!(checked.faults.len(), built.table.frames().filter(leans).count(), "{:?}", checked.faults);
    for fault in &checked.faults {
        assert!(
            fault.reason.starts_with(&fault.frame.to_string()) && fault.reason.ends_with("\"): medium error"),
            "{}",
            fault.reason
        );
    }
}

/// A payload of which one blob cannot be read.
struct Broken {
    payload: Vec<u8>,
    blob: u64,
}

impl ReadAt for Broken {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if offset == self.blob { Err(io::Error::other("medium error")) } else { self.payload.read_exact_at(buffer, offset) }
    }
}

#[test]
fn a_payload_that_cannot_be_read_ends_the_check_though_frames_wait_for_others() {
    let window = WINDOW as u64;
    let image = Dice::new(1).bytes(WINDOW).repeat(9);
    let frame = |index: u64| {
        let below = Extent { source: Source::Target, offset: index.saturating_sub(1) * window, length: window };
        let (kind, extents, blob) = match index {
            0..3 => (Kind::Raw, vec![], image[..WINDOW].to_vec()),
            _ => (Kind::Copy, vec![below], vec![]),
        };
        (NewFrame { kind, output_offset: index * window, windows: 1, blob_len: 0, extents }, blob)
    };
    let payload = by_hand(&[entry("root", &image)], &[], (0..9).map(frame).collect());
    let record = record(&[("root", &image)]);
    for threads in 1..5 {
        for broken in 0..3 {
            let (payload, record) = (payload.clone(), record.clone());
            let (sender, receiver) = std::sync::mpsc::channel();
            // A check that does not end must not keep the test from it.
            std::thread::spawn(move || {
                let table = FrameTable::read(&payload, payload.len() as u64, &record).unwrap();
                let blob = table.frame(broken).unwrap().blob().start;
                let (file, scratch) = (Broken { payload, blob }, tempfile::tempfile().unwrap());
                let threads = NonZeroUsize::new(threads).unwrap();
                let checked = check(&record, &table, &file, &NoSources, (&scratch, Keep::LeanedOn), threads, &mut |_| {});
                sender.send((checked.map(|checked| checked.faults.len()).map_err(|error| error.to_string()), blob)).unwrap();
            });
            let patience = std::time::Duration::from_secs(30);
            let (outcome, blob) = receiver.recv_timeout(patience).expect("it waits for what will never be made");
            assert_eq!(outcome, Err(format!("payload: cannot read {window} bytes at byte {blob}")), "{threads} threads");
        }
    }
}
