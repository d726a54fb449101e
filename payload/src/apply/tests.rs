use std::num::NonZeroUsize;

use proptest::prelude::*;
use zstd::zstd_safe::{CCtx, compress_bound};

use super::*;
use crate::error::Error;
use crate::format::{Extent, Kind, NewFrame};
use crate::testing::{self, Dice, Slots, WINDOW, by_hand, disk_like, entry, full, options, record, release, reseal};
use crate::window::Verified;

fn read(payload: &[u8], images: &[(&str, &[u8])]) -> Result<FrameTable, Error> {
    FrameTable::read(&payload, payload.len() as u64, &record(images))
}

fn blob<'p>(frame: &Frame<'_>, payload: &'p [u8]) -> &'p [u8] {
    &payload[frame.blob().start as usize..frame.blob().end as usize]
}

fn decode(frame: &Frame<'_>, payload: &[u8], sources: &dyn Sources) -> Result<Vec<u8>, Error> {
    let mut out = vec![0xaa; frame.output_len()];
    Decoder::new()?.decode(frame, blob(frame, payload), sources, &mut out)?;
    Ok(out)
}

fn leaning(kind: Kind, window: u64, extents: Vec<Extent>) -> NewFrame {
    NewFrame { kind, output_offset: window * WINDOW as u64, windows: 1, blob_len: 0, extents }
}

/// A delta of four windows: copied, made with a prefix, copied from the target itself, and a kind nobody knows.
fn delta(new: &[u8], old: &[u8], last: Kind) -> Vec<u8> {
    let window = WINDOW as u64;
    let mut context = CCtx::create();
    context.ref_prefix(&old[..WINDOW]).unwrap();
    let mut prefixed = Vec::with_capacity(compress_bound(WINDOW));
    context.compress2(&mut prefixed, &new[WINDOW..2 * WINDOW]).unwrap();
    let old_extent = |offset, length| Extent { source: Source::Image(0), offset, length };
    let frames = vec![
        (leaning(Kind::Copy, 0, vec![old_extent(100, window - 100), old_extent(0, 100)]), vec![]),
        (leaning(Kind::ZstdPrefix, 1, vec![old_extent(0, window)]), prefixed),
        (leaning(Kind::Copy, 2, vec![Extent { source: Source::Target, offset: 0, length: window }]), vec![]),
        (leaning(last, 3, vec![old_extent(0, 1)]), vec![1, 2, 3]),
    ];
    by_hand(&[entry("root", new)], &[entry("old", old)], frames)
}

fn old_and_new() -> (Vec<u8>, Vec<u8>) {
    let old = disk_like(7, 2 * WINDOW);
    let copied = [&old[100..WINDOW], &old[..100]].concat();
    let mut changed = old[..WINDOW].to_vec();
    changed[5000] ^= 0x55;
    let new = [&copied[..], &changed, &copied, &[6; WINDOW]].concat();
    (old, new)
}

#[test]
fn any_frame_decodes_alone_and_in_any_order() {
    let image = disk_like(2, 9 * WINDOW + 5);
    let (payload, built) = full(&[("root", &image)], &options(1, 2));
    let release = release(&[("root", &image)]);
    let made = Slots { old: &[], new: &[("root", &image)] };
    let mut decoder = Decoder::new().unwrap();
    for index in [4, 0, 3, 1, 2, 4] {
        let frame = built.table.frame(index).unwrap();
        let mut out = vec![0; frame.output_len()];
        decoder.decode(&frame, blob(&frame, &payload), &made, &mut out).unwrap();
        let verified = Verified::check(&release, frame.image(), frame.windows(), out).unwrap();
        let offset = frame.image_offset() as usize;
        assert!(verified.bytes() == &image[offset..offset + frame.output_len()]);
    }
}

#[test]
fn frames_that_lean_on_sources_are_made_from_them() {
    let (old, new) = old_and_new();
    let payload = delta(&new, &old, Kind::Difference);
    let table = read(&payload, &[("root", &new)]).unwrap();
    let slots = Slots { old: &[("old", &old)], new: &[("root", &new[..2 * WINDOW])] };
    for frame in table.frames().take(3) {
        let offset = frame.image_offset() as usize;
        assert!(decode(&frame, &payload, &slots).unwrap() == new[offset..offset + WINDOW], "{frame:?}");
    }
    let error = decode(&table.frame(1).unwrap(), &payload, &NoSources).unwrap_err();
    let words = "frame 1 (window 1 of image \"root\"): cannot read 262144 bytes at byte 0 of source image 1 (\"old\")";
    assert_eq!(error.to_string(), words);
}

#[test]
fn a_damaged_source_costs_its_own_frame_only() {
    let (old, new) = old_and_new();
    let payload = delta(&new, &old, Kind::Difference);
    let table = read(&payload, &[("root", &new)]).unwrap();
    let release = release(&[("root", &new)]);
    let mut damaged = old;
    damaged[50] ^= 1;
    let slots = Slots { old: &[("old", &damaged)], new: &[("root", &new[..2 * WINDOW])] };
    let right = |index: u32| {
        let frame = table.frame(index).unwrap();
        decode(&frame, &payload, &slots).is_ok_and(|out| Verified::check(&release, 0, frame.windows(), out).is_ok())
    };
    assert_eq!([right(0), right(2)], [false, true]);
}

#[test]
fn a_kind_this_build_lacks_is_named_and_costs_its_own_frame_only() {
    let (old, new) = old_and_new();
    let slots = Slots { old: &[("old", &old)], new: &[("root", &new[..2 * WINDOW])] };
    let payload = delta(&new, &old, Kind::Unknown(77));
    let table = read(&payload, &[("root", &new)]).unwrap();
    let error = decode(&table.frame(3).unwrap(), &payload, &slots).unwrap_err();
    let words = "frame 3 (window 3 of image \"root\"): frame kind 77 (unknown) is not available in this build";
    assert_eq!(error.to_string(), words);
    assert!(decode(&table.frame(0).unwrap(), &payload, &slots).is_ok());
}

#[test]
fn buffers_and_blobs_of_another_length_are_refused() {
    let image = disk_like(2, 2 * WINDOW);
    let (payload, built) = full(&[("root", &image)], &options(1, 2));
    let frame = built.table.frame(0).unwrap();
    let blob = blob(&frame, &payload);
    let mut decoder = Decoder::new().unwrap();
    let mut refusal =
        |blob: &[u8], length: usize| decoder.decode(&frame, blob, &NoSources, &mut vec![0; length]).unwrap_err().to_string();
    assert!(refusal(&blob[1..], 2 * WINDOW).contains("length of the blob: expected"));
    assert!(refusal(blob, 2 * WINDOW + 1).contains("length of the output buffer: expected 524288, got 524289"));
    assert!(refusal(blob, 0).contains("length of the output buffer: expected 524288, got 0"));
}

#[test]
fn only_frames_of_missing_windows_are_needed() {
    let (first, second) = (disk_like(1, 9 * WINDOW), disk_like(2, 2 * WINDOW));
    let (_, built) = full(&[("root", &first), ("boot", &second)], &options(2, 4));
    let needed = |image, windows: &[u32]| -> Vec<u32> {
        super::needed(&built.table, image, &windows.iter().copied().collect()).iter().map(Frame::index).collect()
    };
    assert_eq!(needed(0, &[]), [0; 0]);
    assert_eq!(needed(0, &[3]), [0]);
    assert_eq!(needed(0, &[8, 3, 2]), [0, 2]);
    assert_eq!(needed(0, &[100]), [0; 0]);
    assert_eq!(needed(1, &[0, 1]), [3]);
    assert_eq!(needed(2, &[0]), [0; 0]);
}

#[test]
fn a_whole_payload_is_checked_and_each_fault_named() {
    let image = disk_like(3, 6 * WINDOW);
    let (mut payload, built) = full(&[("root", &image)], &options(2, 2));
    let release = release(&[("root", &image)]);
    let check = |payload: &Vec<u8>| {
        let mut seen = 0;
        let threads = NonZeroUsize::new(2).unwrap();
        let checked = testing::check(release.record(), &built.table, payload, &[], threads, &mut |done| seen = done);
        assert_eq!(seen, image.len() as u64);
        checked
    };
    let good = check(&payload);
    assert_eq!((good.right, good.wrong, good.faults.len()), (6, 0, 0));
    let at = |frame| built.table.frame(frame).unwrap().blob().start as usize;
    payload[at(2)] ^= 0xff;
    let bad = check(&payload);
    assert_eq!((bad.right, bad.wrong, bad.faults.len()), (4, 2, 1));
    assert_eq!(bad.faults[0].frame.windows, 4..6);
    // What leans on it goes with it, and says so.
    payload[at(2)] ^= 0xff;
    payload[at(0)] ^= 0xff;
    let bad = check(&payload);
    assert!(built.table.frame(1).unwrap().needs().next().is_some());
    assert_eq!((bad.right, bad.wrong, bad.faults[0].frame.windows.clone()), (0, 6, 0..2));
    assert!(bad.faults[1].reason.contains("frame 1 (windows 2 to 3 of image \"root\"): it leans on window"), "{:?}", bad.faults);
}

/// Every frame either fails or makes windows; each window that verifies must equal the image.
fn assert_nothing_false_comes_out(
    table: &FrameTable,
    payload: &[u8],
    images: &[(&str, &[u8])],
    release: &manifests::release::Release,
    frames: impl IntoIterator<Item = u32>,
) -> u64 {
    let mut right = 0;
    let mut decoder = Decoder::new().unwrap();
    for index in frames {
        let frame = table.frame(index).unwrap();
        let range = frame.blob();
        let Some(blob) = payload.get(range.start as usize..range.end as usize) else { continue };
        let mut out = vec![0; frame.output_len()];
        if decoder.decode(&frame, blob, &Slots { old: &[], new: images }, &mut out).is_err() {
            continue;
        }
        let same = |verified: &Verified<&[u8]>| {
            let offset = verified.image_offset() as usize;
            assert!(
                images[verified.image()].1[offset..offset + verified.bytes().len()] == *verified.bytes(),
                "false bytes came out"
            );
            verified.windows().len() as u64
        };
        right += match Verified::check(release, frame.image(), frame.windows(), out.as_slice()) {
            Ok(verified) => same(&verified),
            Err(mismatch) => mismatch.right().iter().map(same).sum(),
        };
    }
    right
}

#[test]
fn no_changed_byte_of_header_or_table_yields_bytes_that_differ_from_the_record() {
    let (first, second) = (disk_like(8, 3 * WINDOW + 9), disk_like(9, WINDOW));
    let images: [(&str, &[u8]); 2] = [("root", &first), ("boot", &second)];
    let release = release(&images);
    let (payload, built) = full(&images, &options(1, 1));
    let end = built.table.header().table_range().end as usize;
    let read = |payload: &[u8]| FrameTable::read(&payload, payload.len() as u64, release.record());
    let (mut flips, mut refused, mut harmless) = (0, 0, 0);
    for at in 0..end {
        for flip in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff] {
            let mut changed = payload.clone();
            changed[at] ^= flip;
            flips += 1;
            assert!(read(&changed).is_err(), "byte {at} ^ {flip:#x} passed");
            reseal(&mut changed);
            match read(&changed) {
                Err(_) => refused += 1,
                Ok(table) => {
                    assert_nothing_false_comes_out(&table, &changed, &images, &release, 0..table.len());
                    harmless += 1;
                }
            }
        }
    }
    println!(
        "flips of header and table: {flips} made, each plain one refused; resealed: {refused} refused, {harmless} applied without a false byte"
    );
    assert!(flips >= 1000 && refused > 0 && harmless > 0);
}

#[test]
fn no_changed_byte_of_a_blob_yields_bytes_that_differ_from_the_record() {
    let image = disk_like(8, 16 * WINDOW + 9);
    let images: [(&str, &[u8]); 1] = [("root", &image)];
    let release = release(&images);
    let (mut payload, built) = full(&images, &options(2, 1));
    let end = built.table.header().table_range().end as usize;
    let mut dice = Dice::new(10_000);
    let (mut lost, mut kept) = (0, 0);
    for _ in 0..10_000 {
        let at = end + dice.below(payload.len() - end);
        let flip = 1 << dice.below(8);
        payload[at] ^= flip;
        let frame = built.table.frames().find(|frame| frame.blob().contains(&(at as u64))).unwrap();
        match assert_nothing_false_comes_out(&built.table, &payload, &images, &release, [frame.index()]) {
            0 => lost += 1,
            _ => kept += 1,
        }
        payload[at] ^= flip;
    }
    println!("flips of blobs: 10000 made, {lost} cost their frame, {kept} changed nothing, 0 false bytes");
    assert!(lost > 9_000, "a changed blob must show: {lost}");
}

proptest! {
    #[test]
    fn any_blob_is_refused_or_fills_the_output(bytes in proptest::collection::vec(any::<u8>(), 1..500), kind in 0_u8..3) {
        let image = vec![1; WINDOW];
        let kind = [Kind::Zstd, Kind::Raw, Kind::Unknown(9)][usize::from(kind)];
        let bytes = if kind == Kind::Raw { bytes.repeat(WINDOW / bytes.len() + 1)[..WINDOW].to_vec() } else { bytes };
        let frame = NewFrame { kind, output_offset: 0, windows: 1, blob_len: 0, extents: vec![] };
        let payload = by_hand(&[entry("root", &image)], &[], vec![(frame, bytes)]);
        let table = read(&payload, &[("root", &image)]).unwrap();
        let release = release(&[("root", &image)]);
        assert_nothing_false_comes_out(&table, &payload, &[("root", &image)], &release, [0]);
    }
}
