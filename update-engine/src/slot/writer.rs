//! Writing the slot that does not run.
//!
//! [`InactiveSlot::open`] is the only way in; it refuses the running slot, a device that anything uses, and a slot too small for
//! its image. [`InactiveSlot::write_window`] takes verified bytes only. [`InactiveSlot::finish`] is the only way out to
//! [`Written`]: it cleans the tail of the slot, flushes, and drops the page cache.
//!
//! It never writes outside the slot, and changes no file but those that are the slot's on the EFI system partition. It does not touch
//! the boot table: the caller has disarmed the slot before the first byte (R8).

use std::ops::Range;

use super::SlotError;
use super::aio::Queue;
use super::buffer::{ALIGNMENT, AlignedBuf};
use super::disk::{Disk, SlotName};
use super::medium::Transfer;
use super::open::{Held, OpenImage, Purpose, TRANSFER_BYTES};
use super::running::RunningSlot;

/// How much is zeroed at both ends of the space behind an image: no stale superblock or verity tree is found there.
pub(super) const TAIL_BYTES: u64 = 1 << 20;

/// Bytes of an image whose digest was compared with the signed record's, and that nobody else can change any more.
///
/// Implement it for the one type whose only constructor is that comparison, and for nothing else.
pub trait VerifiedBytes {
    /// Where the bytes stand in the image.
    fn image_offset(&self) -> u64;
    /// The bytes.
    fn bytes(&self) -> &[u8];
}

/// The slot that does not run, opened for writing, exclusively.
#[derive(Debug)]
pub struct InactiveSlot {
    held: Held,
    writes: Writes,
}

/// What of a window is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// All of it.
    #[default]
    All,
    /// The blocks of 4 KiB that are not what the medium holds already: it is read first. For flash that bears few writes, where windows differ in
    /// little from what the slot held before.
    Changed,
}

impl Writes {
    /// The word of `[disk] writes`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Changed => "changed",
        }
    }
}

/// A slot whose every byte was handed to the medium and flushed; still open, exclusively. Not proven: [`super::readback`] does that.
#[derive(Debug)]
pub struct Written {
    held: Held,
}

/// A slot that was written earlier, opened exclusively for proving and not for writing.
#[derive(Debug)]
pub struct Reopened {
    held: Held,
}

impl InactiveSlot {
    /// Opens all images of a slot for writing. `sizes` names the images of the release and their sizes in bytes.
    ///
    /// # Errors
    /// [`SlotError::Refused`] if the slot runs, is mounted, swap, held, read-only, on another disk, changed since it was found, or
    /// smaller than its image. [`SlotError::Spec`] if the images are not the slot's.
    pub fn open(disk: &Disk, slot: &SlotName, running: &RunningSlot, sizes: &[(&str, u64)]) -> Result<Self, SlotError> {
        let held = Held::open_inactive(disk, slot, running, sizes, Purpose::Write)?;
        Ok(Self::from_held(held))
    }

    pub(super) fn from_held(held: Held) -> Self {
        Self { held, writes: Writes::All }
    }

    /// From now on just this much of a window is written.
    #[must_use]
    pub fn writing(self, writes: Writes) -> Self {
        Self { writes, ..self }
    }

    /// The slot's name.
    #[must_use]
    pub fn name(&self) -> &SlotName {
        &self.held.slot
    }

    /// Whether the slot is written and read past the page cache.
    #[must_use]
    pub fn transfer(&self) -> Transfer {
        self.held.transfer()
    }

    /// Gives every image's place its size, where a partition does not: to be done once the slot is disarmed, before anything is
    /// read or written.
    ///
    /// # Errors
    /// [`SlotError::Io`] if there is no room any more.
    pub fn make_places(&mut self) -> Result<(), SlotError> {
        self.held.images.iter_mut().try_for_each(OpenImage::make_place)
    }

    /// Writes verified bytes of an image at their place. Several threads may do so at once.
    ///
    /// The bytes have to start on a multiple of 4096 and, unless they are the end of the image, be a multiple long; what follows
    /// the end of an image up to the next block is zeroed.
    ///
    /// # Errors
    /// [`SlotError::Request`] if they do not fit the image (nothing is written then), [`SlotError::Transfer`] if the medium refuses,
    /// [`SlotError::FlushLost`] if writes were lost: then the slot has to be started over.
    pub fn write_window(&self, image: &str, window: &impl VerifiedBytes) -> Result<(), SlotError> {
        let image = self.held.image(image)?;
        let (offset, bytes) = (window.image_offset(), window.bytes());
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= image.image_size());
        let block = ALIGNMENT as u64;
        let fits = end.is_some_and(|end| end.is_multiple_of(block) || end == image.image_size());
        if bytes.is_empty() || !offset.is_multiple_of(block) || !fits {
            return Err(image.request(&format!(
                "{} bytes at offset {offset} are no window of an image of {} bytes",
                bytes.len(),
                image.image_size()
            )));
        }
        match self.writes {
            Writes::All => image.write_at(offset, bytes),
            Writes::Changed => image.write_changed(offset, bytes),
        }
    }

    /// Reads `length` bytes of an image from the medium into `buffer`, and returns them. `offset` is a multiple of 4096.
    ///
    /// # Errors
    /// [`SlotError::Request`] if that does not fit the slot or the buffer, [`SlotError::Transfer`] if the medium fails.
    pub fn read_at<'b>(
        &self,
        image: &str,
        offset: u64,
        buffer: &'b mut AlignedBuf,
        length: usize,
    ) -> Result<&'b [u8], SlotError> {
        self.held.image(image)?.read_into(offset, buffer, length)
    }

    /// Reads several parts of an image (from where, and how long) into `buffer`: each begins on a block of it, one behind the other. Many are under way
    /// at once, where `queue` is one.
    ///
    /// # Errors
    /// As [`Self::read_at`], of the first part that cannot be read, with its number.
    pub(crate) fn read_each(
        &self,
        image: &str,
        parts: impl Iterator<Item = (u64, usize)>,
        buffer: &mut AlignedBuf,
        queue: Option<&mut Queue>,
    ) -> Result<(), (usize, SlotError)> {
        self.held.image(image).map_err(|error| (0, error))?.read_each(parts, buffer, queue)
    }

    /// Flushes what was written so far, so that a crash later loses none of it.
    ///
    /// # Errors
    /// [`SlotError::FlushLost`]: everything since the last flush counts as lost, and the slot has to be started over.
    pub fn flush(&self) -> Result<(), SlotError> {
        self.held.images.iter().try_for_each(OpenImage::flush)
    }

    /// Finishes the slot: zeroes the rest of an image's last block and both ends of the space behind it, flushes, and drops the page
    /// cache. Finishing a slot that was finished before changes nothing.
    ///
    /// # Errors
    /// [`SlotError::FlushLost`] if the medium did not take everything: the slot has to be started over.
    pub fn finish(self) -> Result<Written, SlotError> {
        for image in &self.held.images {
            image.check_length()?;
            clean_tail(image)?;
            image.flush()?;
            image.forget_cache()?;
        }
        Ok(Written { held: self.held })
    }
}

impl Written {
    /// The slot's name.
    #[must_use]
    pub fn name(&self) -> &SlotName {
        &self.held.slot
    }

    pub(super) fn into_held(self) -> Held {
        self.held
    }
}

impl Reopened {
    /// Opens a slot that does not run and was written before, to prove it. Nothing in it changes.
    ///
    /// # Errors
    /// As [`InactiveSlot::open`].
    pub fn open(disk: &Disk, slot: &SlotName, running: &RunningSlot, sizes: &[(&str, u64)]) -> Result<Self, SlotError> {
        let held = Held::open_inactive(disk, slot, running, sizes, Purpose::Prove)?;
        Ok(Self { held })
    }

    pub(super) fn into_held(self) -> Held {
        self.held
    }
}

pub(super) mod sealed {
    use super::super::open::Held;

    /// Access to the opened images; not for other modules to implement.
    pub trait Opened {
        #[doc(hidden)]
        #[allow(private_interfaces, reason = "the trait cannot be named outside this crate")]
        fn held(&self) -> &Held;
    }
}

impl sealed::Opened for InactiveSlot {
    #[allow(private_interfaces, reason = "the trait cannot be named outside this crate")]
    fn held(&self) -> &Held {
        &self.held
    }
}

/// The parts of the space behind an image that are zeroed and proven: its first and last MiB, or all of it.
pub(super) fn tail_ranges(image_size: u64, slot_size: u64) -> Vec<Range<u64>> {
    let first = image_size..slot_size.min(image_size + TAIL_BYTES);
    let last = first.end.max(slot_size.saturating_sub(TAIL_BYTES))..slot_size;
    [first, last].into_iter().filter(|range| !range.is_empty()).collect()
}

/// What is clean already is not written: a slot that holds its image stays as it is to the last byte. What cannot be read is written, too: that
/// often mends it, and if not, reading back says so. Only the block in which an image ends was just written, and has to be readable.
fn clean_tail(image: &OpenImage) -> Result<(), SlotError> {
    for range in tail_ranges(image.image_size(), image.slot_size()) {
        if !is_zero_in(image, &range).unwrap_or(false) {
            let start = clean_partial_block(image, range.start)?;
            zero(image, start..range.end)?;
        }
    }
    Ok(())
}

/// Whether there is nothing but zeros in this part of a slot.
pub(super) fn is_zero_in(image: &OpenImage, range: &Range<u64>) -> Result<bool, SlotError> {
    let mut buffer = AlignedBuf::zeroed(TRANSFER_BYTES);
    let mut at = range.start - range.start % ALIGNMENT as u64;
    while at < range.end {
        let length = usize::try_from(range.end - at).unwrap_or(TRANSFER_BYTES).min(TRANSFER_BYTES);
        let padded = image.padded_length(at, length);
        image.read_at(at, &mut buffer.as_mut_slice()[..padded])?;
        let skip = usize::try_from(range.start.saturating_sub(at)).unwrap_or(length);
        if buffer.as_slice()[skip..length].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        at += length as u64;
    }
    Ok(true)
}

/// The last block of an image may hold old bytes behind the image's end. Returns where whole blocks begin.
fn clean_partial_block(image: &OpenImage, start: u64) -> Result<u64, SlotError> {
    let block = ALIGNMENT as u64;
    let used = start % block;
    if used == 0 {
        return Ok(start);
    }
    let offset = start - used;
    let length = image.padded_length(offset, ALIGNMENT);
    let mut buffer = AlignedBuf::zeroed(ALIGNMENT);
    let bytes = &mut buffer.as_mut_slice()[..length];
    image.read_at(offset, bytes)?;
    let keep = usize::try_from(used).unwrap_or(length).min(length);
    bytes[keep..].fill(0);
    image.write_at(offset, &buffer.as_slice()[..length])?;
    Ok(offset + block)
}

fn zero(image: &OpenImage, range: Range<u64>) -> Result<(), SlotError> {
    let zeros = AlignedBuf::zeroed(TRANSFER_BYTES);
    let mut at = range.start;
    while at < range.end {
        let length = usize::try_from(range.end - at).unwrap_or(TRANSFER_BYTES).min(TRANSFER_BYTES);
        image.write_at(at, &zeros.as_slice()[..length])?;
        at += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::super::rig::{Rig, Window, image, name};
    use super::*;
    use crate::boot::gpt::fixture::DiskBuilder;

    const SLOT: usize = 3 << 20;

    fn open(rig: &Rig, size: u64) -> Result<InactiveSlot, SlotError> {
        InactiveSlot::open(&rig.disk(), &name("b"), &rig.running(), &[("root", size)])
    }

    fn write_all(slot: &InactiveSlot, bytes: &[u8], window: usize) {
        for (number, bytes) in bytes.chunks(window).enumerate() {
            slot.write_window("root", &Window { offset: (number * window) as u64, bytes }).unwrap();
        }
    }

    fn refusal<T: std::fmt::Debug>(outcome: Result<T, SlotError>) -> String {
        match outcome.unwrap_err() {
            SlotError::Refused { why, .. } => why,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    /// A disk whose slots have a kernel each on an ESP beside it.
    fn with_kernels() -> (Rig, super::super::DiskSpec) {
        let rig = Rig::with_slots_of(SLOT / 512);
        std::fs::create_dir(rig.folder.path().join("efi")).unwrap();
        let mut spec = rig.spec();
        for slot in &mut spec.slots {
            slot.images.push(("kernel".to_owned(), "esp:/ota/{slot}.efi".parse().unwrap()));
        }
        (rig, spec)
    }

    #[test]
    fn a_file_on_the_esp_is_made_anew_for_another_length_once_the_slot_is_disarmed() {
        let (rig, spec) = with_kernels();
        let kernel = |slot: &str| rig.folder.path().join(format!("efi/ota/{slot}.efi"));
        std::fs::create_dir(rig.folder.path().join("efi/ota")).unwrap();
        std::fs::write(kernel("a"), b"running").unwrap();
        let sizes = |kernel: u64| [("root", 4096), ("kernel", kernel)];
        let image: Vec<u8> = (0..9000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for length in [9000, 5120, 9000, 9000] {
            let disk = Disk::discover(&spec).unwrap();
            let before = std::fs::read(kernel("b")).unwrap_or_default();
            let mut slot = InactiveSlot::open(&disk, &name("b"), &disk.running_slot().unwrap(), &sizes(length as u64)).unwrap();
            assert_eq!(std::fs::read(kernel("b")).unwrap(), before, "not a byte changes before");
            let mut old = std::fs::File::open(kernel("b")).unwrap();
            slot.make_places().unwrap();
            for (number, bytes) in image[..length].chunks(4096).enumerate() {
                slot.write_window("kernel", &Window { offset: number as u64 * 4096, bytes }).unwrap();
            }
            slot.finish().unwrap();
            assert_eq!(std::fs::read(kernel("b")).unwrap(), &image[..length]);
            assert_eq!(std::fs::read(kernel("a")).unwrap(), b"running");
            // It became neither shorter nor longer in its place.
            let (mut kept, is_same) = (Vec::new(), old.metadata().unwrap().ino() == kernel("b").metadata().unwrap().ino());
            old.read_to_end(&mut kept).unwrap();
            assert!(kept == before, "of {} bytes for {length}", before.len());
            assert_eq!(is_same, before.len() == length, "of {} bytes for {length}", before.len());
        }
        let disk = Disk::discover(&spec).unwrap();
        let again = Reopened::open(&disk, &name("b"), &disk.running_slot().unwrap(), &sizes(5120));
        assert_eq!(refusal(again), "it has 9000 bytes, the image has 5120");
    }

    #[test]
    fn files_that_find_no_room_on_the_esp_are_refused_and_none_is_made() {
        let (rig, spec) = with_kernels();
        let disk = Disk::discover(&spec).unwrap();
        let huge = [("root", 4096), ("kernel", 1 << 60)];
        let why = refusal(InactiveSlot::open(&disk, &name("b"), &disk.running_slot().unwrap(), &huge));
        assert!(why.contains("more bytes on the ESP"), "{why}");
        assert!(!rig.folder.path().join("efi/ota").exists());
    }

    #[test]
    fn p2_only_bytes_of_the_inactive_slot_ever_change() {
        for length in [SLOT, SLOT - 1, 2 * 262_144 + 100, 4096, 1] {
            let rig = Rig::with_slots_of(SLOT / 512);
            let slot_b = rig.range_of(1);
            let noise: Vec<u8> = vec![0xEE; SLOT];
            rig.poke(0, 0, &noise);
            rig.poke(1, 0, &noise);
            rig.poke(2, 0, &[0xEE; 4 * 512]);
            let before = rig.bytes();
            let bytes = image(length);
            let slot = open(&rig, length as u64).unwrap();
            write_all(&slot, &bytes, 262_144);
            let written = slot.finish().unwrap();
            assert_eq!(written.name(), &name("b"));
            let after = rig.bytes();
            assert!(before[..slot_b.start] == after[..slot_b.start], "before the slot, image of {length}");
            assert!(before[slot_b.end..] == after[slot_b.end..], "behind the slot, image of {length}");
            assert!(after[slot_b.clone()][..length] == bytes, "image of {length}");
            for range in tail_ranges(length as u64, SLOT as u64) {
                let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                assert!(after[slot_b.clone()][range].iter().all(|&byte| byte == 0), "tail, image of {length}");
            }
        }
    }

    #[test]
    fn a_slot_off_the_block_boundaries_of_its_file_is_written_through_the_page_cache_and_says_so() {
        let mut disk = DiskBuilder::new(512);
        (disk.first, disk.partitions[1].1) = (35, 64);
        disk.sectors = 256;
        let rig = Rig::new(&disk, 0);
        let before = rig.bytes();
        let (slot_b, bytes) = (rig.range_of(1), image(20_000));
        let slot = open(&rig, 20_000).unwrap();
        assert_eq!(slot.transfer(), Transfer::Cached);
        write_all(&slot, &bytes, 4096);
        slot.finish().unwrap();
        let after = rig.bytes();
        assert!(after[slot_b.clone()][..20_000] == bytes);
        assert!(before[..slot_b.start] == after[..slot_b.start] && before[slot_b.end..] == after[slot_b.end..]);
        assert_eq!(open(&Rig::with_slots_of(64), 4096).unwrap().transfer(), Transfer::Direct);
    }

    #[test]
    fn the_middle_of_a_long_tail_is_left_alone() {
        assert_eq!(tail_ranges(100, 100), []);
        assert_eq!(tail_ranges(100, 5000), vec![Range { start: 100, end: 5000 }]);
        let mib = TAIL_BYTES;
        assert_eq!(tail_ranges(10, 10 * mib), [10..10 + mib, 9 * mib..10 * mib]);
        assert_eq!(tail_ranges(10, mib + 11), [10..mib + 10, mib + 10..mib + 11]);
    }

    #[test]
    fn a_slot_that_is_no_multiple_of_a_block_is_filled_to_its_last_byte() {
        let rig = Rig::with_slots_of(13);
        let before = rig.bytes();
        let (slot_b, bytes) = (rig.range_of(1), image(13 * 512));
        let slot = open(&rig, 13 * 512).unwrap();
        write_all(&slot, &bytes, 4096);
        slot.finish().unwrap();
        let after = rig.bytes();
        assert!(after[slot_b.clone()] == bytes);
        assert!(before[..slot_b.start] == after[..slot_b.start] && before[slot_b.end..] == after[slot_b.end..]);
    }

    #[test]
    fn the_rest_of_the_last_block_is_cleaned_even_if_its_window_was_kept() {
        let rig = Rig::with_slots_of(64);
        let bytes = image(5000);
        rig.poke(1, 0, &[0xEE; 64 * 512]);
        rig.poke(1, 0, &bytes);
        open(&rig, 5000).unwrap().finish().unwrap();
        let after = rig.bytes();
        assert!(after[rig.range_of(1)][..5000] == bytes);
        assert!(after[rig.range_of(1)][5000..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn finishing_again_changes_nothing() {
        let rig = Rig::with_slots_of(64);
        let slot = open(&rig, 5000).unwrap();
        write_all(&slot, &image(5000), 4096);
        slot.finish().unwrap();
        let before = rig.bytes();
        open(&rig, 5000).unwrap().finish().unwrap();
        assert!(before == rig.bytes());
    }

    #[test]
    fn what_is_no_window_of_the_image_is_refused_and_nothing_written() {
        let rig = Rig::with_slots_of(64);
        let before = rig.bytes();
        let slot = open(&rig, 10_000).unwrap();
        let bytes = image(20_000);
        for (offset, length) in [
            (0, 0),
            (1, 4096),
            (512, 4096),
            (0, 100),
            (4096, 4000),
            (8192, 4096),
            (0, 20_000),
            (u64::MAX - 4095, 4096),
            (12_288, 1),
        ] {
            let outcome = slot.write_window("root", &Window { offset, bytes: &bytes[..length] });
            assert!(matches!(outcome, Err(SlotError::Request { .. })), "{length} bytes at {offset}");
        }
        assert!(matches!(slot.write_window("usr", &Window { offset: 0, bytes: &bytes[..4096] }), Err(SlotError::Request { .. })));
        drop(slot);
        assert!(before == rig.bytes());
    }

    #[test]
    fn threads_write_one_slot_together_and_read_it_back() {
        let rig = Rig::with_slots_of(SLOT / 512);
        let bytes = image(SLOT - 777);
        let slot = open(&rig, bytes.len() as u64).unwrap();
        std::thread::scope(|scope| {
            for lane in 0..3 {
                let (slot, bytes) = (&slot, &bytes);
                scope.spawn(move || {
                    for (number, bytes) in bytes.chunks(65_536).enumerate().skip(lane).step_by(3) {
                        slot.write_window("root", &Window { offset: (number * 65_536) as u64, bytes }).unwrap();
                    }
                });
            }
        });
        let mut buffer = AlignedBuf::zeroed(8192);
        let offset = (bytes.len() - 2000) / 4096 * 4096;
        let length = bytes.len() - offset;
        assert!(slot.read_at("root", offset as u64, &mut buffer, length).unwrap() == &bytes[offset..]);
        assert!(slot.read_at("root", 1, &mut buffer, 10).is_err());
        assert!(slot.read_at("root", 0, &mut buffer, 8193).is_err());
        slot.flush().unwrap();
        slot.finish().unwrap();
        assert!(rig.bytes()[rig.range_of(1)][..bytes.len()] == bytes);
    }

    #[test]
    fn the_running_slot_is_refused() {
        let rig = Rig::with_slots_of(64);
        let outcome = InactiveSlot::open(&rig.disk(), &name("a"), &rig.running(), &[("root", 4096)]);
        assert_eq!(refusal(outcome), "it runs now");
        assert_eq!(refusal(Reopened::open(&rig.disk(), &name("a"), &rig.running(), &[("root", 4096)])), "it runs now");
        let elsewhere = Rig::with_slots_of(64).running();
        let outcome = InactiveSlot::open(&rig.disk(), &name("b"), &elsewhere, &[("root", 4096)]);
        assert_eq!(refusal(outcome), "the running slot was found on another disk");
    }

    #[test]
    fn an_image_that_does_not_fit_is_refused() {
        let rig = Rig::with_slots_of(64);
        assert_eq!(refusal(open(&rig, 64 * 512 + 1)), "the image has 32769 bytes, the slot has room for 32768");
        assert!(refusal(open(&rig, 0)).starts_with("the image has 0 bytes"));
        for images in [&[][..], &[("usr", 10)], &[("root", 10), ("usr", 10)], &[("root", 10), ("root", 10)]] {
            let error = InactiveSlot::open(&rig.disk(), &name("b"), &rig.running(), images).unwrap_err().to_string();
            assert!(error.starts_with("slot b takes the images root, got"), "{error}");
        }
    }

    #[test]
    fn writing_only_what_changed_makes_the_same_slot() {
        let image: Vec<u8> = (0..2 * TRANSFER_BYTES + 9000).map(|n| (n / 4096 * 31 + n % 7).to_le_bytes()[0]).collect();
        let blocks = image.len().div_ceil(4096);
        // Nothing, all, one block, runs at the ends and in the middle, and what lies behind the end of the image.
        for differing in
            [vec![], (0..blocks).collect(), vec![0], vec![255, 256, 257], vec![blocks - 1], (0..blocks).step_by(3).collect()]
        {
            let rig = Rig::with_slots_of(SLOT / 512);
            let mut before = image.clone();
            before.resize(SLOT, 0);
            for block in &differing {
                before[block * 4096..(block + 1) * 4096].iter_mut().for_each(|byte| *byte ^= 0xff);
            }
            rig.poke(1, 0, &before);
            let slot = open(&rig, image.len() as u64).unwrap().writing(Writes::Changed);
            write_all(&slot, &image, 300 * 4096);
            slot.finish().unwrap();
            let after = &rig.bytes()[rig.range_of(1)];
            assert!(after[..image.len()] == image && after[image.len()..].iter().all(|&byte| byte == 0), "{differing:?}");
        }
    }

    #[test]
    fn runs_of_blocks_that_differ_are_found_to_the_byte() {
        use super::super::open::changed_runs;
        let held: Vec<u8> = (0..5 * 4096).map(|n: usize| n.to_le_bytes()[1]).collect();
        let runs = |at: &[usize], length: usize| {
            let mut wanted = held.clone();
            at.iter().for_each(|&at| wanted[at] ^= 1);
            changed_runs(&wanted[..length], &held).into_iter().map(|run| (run.start, run.end)).collect::<Vec<_>>()
        };
        assert_eq!(runs(&[], 5 * 4096), []);
        assert_eq!(runs(&[0, 4096], 5 * 4096), [(0, 8192)]);
        assert_eq!(runs(&[4095, 3 * 4096], 5 * 4096), [(0, 4096), (3 * 4096, 4 * 4096)]);
        assert_eq!(runs(&[5 * 4096 - 1], 5 * 4096), [(4 * 4096, 5 * 4096)]);
        // Behind the end of a piece has to be nothing.
        assert_eq!(runs(&[], 4 * 4096 + 100), [(4 * 4096, 4 * 4096 + 100)]);
    }

    #[test]
    fn a_slot_that_someone_else_writes_is_refused() {
        let rig = Rig::with_slots_of(64);
        let first = open(&rig, 4096).unwrap();
        assert_eq!(refusal(open(&rig, 4096)), "another program holds it");
        let written = first.finish().unwrap();
        assert_eq!(refusal(open(&rig, 4096)), "another program holds it");
        drop(written);
        open(&rig, 4096).unwrap();
    }

    #[test]
    fn a_disk_that_changed_since_its_slots_were_found_is_refused() {
        let rig = Rig::with_slots_of(64);
        let (disk, running) = (rig.disk(), rig.running());
        let open = || InactiveSlot::open(&disk, &name("b"), &running, &[("root", 4096)]);

        let mut moved = DiskBuilder::new(512);
        moved.partitions[0].1 = 32;
        moved.partitions[1].1 = 64;
        moved.sectors = 2 * 64 + 2048;
        std::fs::write(rig.path(), moved.build()).unwrap();
        assert_eq!(refusal(open()), "the partition table changed since the slot was found");

        let bytes = rig.bytes();
        std::fs::write(rig.folder.path().join("new"), bytes).unwrap();
        std::fs::rename(rig.folder.path().join("new"), rig.path()).unwrap();
        assert_eq!(refusal(open()), "it is another device or file than the one that was found");
    }

    #[test]
    fn a_file_that_shrank_is_refused() {
        let rig = Rig::with_slots_of(64);
        let (disk, running) = (rig.disk(), rig.running());
        std::fs::File::options().write(true).open(rig.path()).unwrap().set_len(20_000).unwrap();
        let outcome = InactiveSlot::open(&disk, &name("b"), &running, &[("root", 4096)]);
        assert!(refusal(outcome).starts_with("its size changed to 20000 bytes"));
    }
}
