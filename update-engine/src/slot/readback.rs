//! Reading a slot back, from the medium, window by window: the only way to a [`Proven`] slot.
//!
//! [`prove`] hashes every window of every image in parallel and compares it with the release record's table, and checks that the
//! ends of the space behind each image are zero. While it reads, and for as long as the [`Proven`] lives, the slot stays open
//! exclusively and block devices are read-only for everyone (`BLKROSET`), so that what was proven is what will be booted.
//! [`scan`] tells which windows are right already (resume by content), [`audit`] looks at any slot, also the one that runs.
//!
//! A `Proven` cannot be made otherwise, copied, or stored:
//!
//! ```compile_fail
//! # fn proven() -> update_engine::slot::Proven { unimplemented!() }
//! let copy = proven().clone();
//! ```
//! ```compile_fail
//! # fn proven() -> update_engine::slot::Proven { unimplemented!() }
//! fn store(value: impl serde::Serialize) {}
//! store(proven());
//! ```

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use manifests::digest::Sha256Digest;

use super::SlotError;
use super::aio::Queue;
use super::buffer::AlignedBuf;
use super::disk::{Disk, DiskIdentity, SlotName};
use super::ioctl::DeviceAccess;
use super::medium::Transfer;
use super::open::{Held, OpenImage, Purpose};
use super::sweep;
pub use super::sweep::{ImageTable, Progress, Scanned, Watch, thread_count};
use super::writer::sealed::Opened;
use super::writer::{InactiveSlot, Reopened, Written, is_zero_in, tail_ranges};

/// What must be right for a slot to count as proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// Every byte is as the release says. What an update needs.
    EveryWindow,
    /// Windows may differ: the slot was booted and committed before, and its file system may have been mounted for writing since. Only
    /// for going back to such a slot (design 11.6); what differs is kept in [`Proven::changed`].
    CommittedBefore,
}

/// How one image differs from its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageMismatch {
    /// The image.
    pub image: String,
    /// The windows that differ, ascending.
    pub windows: Vec<u64>,
    /// Whether the space behind the image is not zero where it should be.
    pub tail: bool,
}

/// A slot that is not what the release says. The slot stays open, to be repaired.
#[derive(Debug)]
pub struct Mismatch {
    images: Vec<ImageMismatch>,
    slot: SlotName,
    writer: Option<InactiveSlot>,
}

impl Mismatch {
    /// What differs, by image.
    #[must_use]
    pub fn images(&self) -> &[ImageMismatch] {
        &self.images
    }

    /// The slot, still open for writing if it was before.
    #[must_use]
    pub fn into_writer(self) -> Option<InactiveSlot> {
        self.writer
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {} is not what the release says:", self.slot)?;
        for image in &self.images {
            write!(f, " image \"{}\" differs in {} windows", image.image, image.windows.len())?;
            if let Some(first) = image.windows.first() {
                write!(f, " (the first is {first})")?;
            }
            if image.tail {
                write!(f, " and is not followed by zeros")?;
            }
        }
        Ok(())
    }
}

/// Why a slot could not be proven.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// It was read, and is not what the release says.
    #[error("{0}")]
    Differs(Box<Mismatch>),
    /// It is what the release says, and the release contradicts itself: the kernel would refuse the image at the first boot.
    #[error(
        "image \"{image}\" has the dm-verity root hash {got}, expected {expected} as the release says: it was built wrong, and the kernel would refuse it"
    )]
    Verity {
        /// The image.
        image: String,
        /// What the release says.
        expected: Sha256Digest,
        /// What was found.
        got: Sha256Digest,
    },
    /// It could not be read, or the reading was cancelled ([`SlotError::Cancelled`]).
    #[error(transparent)]
    Slot(#[from] SlotError),
}

/// A slot that may be asked to prove itself: [`Written`] or [`Reopened`].
pub trait Provable: sealed::IntoHeld {}

impl Provable for Written {}
impl Provable for Reopened {}

mod sealed {
    use super::{Held, Reopened, Written};

    /// Taking the opened images; not for other modules to implement.
    pub trait IntoHeld {
        #[doc(hidden)]
        #[allow(private_interfaces, reason = "the trait cannot be named outside this module")]
        fn into_held(self) -> (Held, WasWritten);
    }

    #[doc(hidden)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum WasWritten {
        Here,
        Before,
    }

    impl IntoHeld for Written {
        #[allow(private_interfaces, reason = "the trait cannot be named outside this module")]
        fn into_held(self) -> (Held, WasWritten) {
            (Self::into_held(self), WasWritten::Here)
        }
    }

    impl IntoHeld for Reopened {
        #[allow(private_interfaces, reason = "the trait cannot be named outside this module")]
        fn into_held(self) -> (Held, WasWritten) {
            (Self::into_held(self), WasWritten::Before)
        }
    }
}

use sealed::WasWritten;

/// A slot that was read back whole and equals its release; still open, exclusively, and read-only for everyone.
///
/// Dropping it lets go of the slot: then it has to be proven again before it may be armed (design 11.9).
#[derive(Debug)]
pub struct Proven {
    hold: ReadOnlyHold,
    release: [u8; 32],
    changed: Vec<ImageMismatch>,
    transfer: Transfer,
    proven_at: SystemTime,
    since: Instant,
}

impl Proven {
    /// The slot's name.
    #[must_use]
    pub fn slot(&self) -> &SlotName {
        &self.hold.held.slot
    }

    /// The digest of the release that it equals.
    #[must_use]
    pub fn release_digest(&self) -> &[u8; 32] {
        &self.release
    }

    /// When the proof was made, for people.
    #[must_use]
    pub fn proven_at(&self) -> SystemTime {
        self.proven_at
    }

    /// How old the proof is; the wall clock has no say.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether the medium was read past the page cache.
    #[must_use]
    pub fn transfer(&self) -> Transfer {
        self.transfer
    }

    /// What differs from the release; empty unless [`Acceptance::CommittedBefore`] was asked for.
    #[must_use]
    pub fn changed(&self) -> &[ImageMismatch] {
        &self.changed
    }

    /// Whether it is a slot of that disk.
    pub(crate) fn is_on(&self, disk: &DiskIdentity) -> bool {
        self.hold.held.disk == *disk
    }
}

/// Opened images whose devices nobody may write, until this is dropped.
#[derive(Debug)]
struct ReadOnlyHold {
    held: Held,
}

impl ReadOnlyHold {
    fn new(held: Held) -> Result<Self, SlotError> {
        // Made first, so that a failure half-way is undone as well.
        let hold = Self { held };
        hold.held.set_access(DeviceAccess::ReadOnly)?;
        Ok(hold)
    }

    /// Lets go of the devices' read-only flag and hands the images on.
    fn release(mut self) -> Held {
        // As in `drop`, which then finds nothing left to do.
        let _ = self.held.set_access(DeviceAccess::Writable);
        let images = std::mem::take(&mut self.held.images);
        Held { slot: self.held.slot.clone(), disk: self.held.disk.clone(), images }
    }
}

impl Drop for ReadOnlyHold {
    fn drop(&mut self) {
        // A device that stays read-only is writable again when the slot is next opened for writing.
        let _ = self.held.set_access(DeviceAccess::Writable);
    }
}

/// Any slot, opened for reading only and shared with whoever uses it; also the one that runs.
#[derive(Debug)]
pub struct SlotView {
    held: Held,
}

impl SlotView {
    /// Opens all images of a slot to look at them. `sizes` names the images and their sizes in bytes.
    ///
    /// # Errors
    /// [`SlotError::Refused`] if the slot changed since it was found or is smaller than its image.
    pub fn open(disk: &Disk, slot: &SlotName, sizes: &[(&str, u64)]) -> Result<Self, SlotError> {
        Ok(Self { held: Held::open(disk, slot, sizes, Purpose::Look)? })
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
}

impl Opened for SlotView {
    #[allow(private_interfaces, reason = "the trait cannot be named outside this crate")]
    fn held(&self) -> &Held {
        &self.held
    }
}

/// Reads a slot back whole and compares it with the tables of the release whose digest is `release`.
///
/// # Errors
/// [`ProveError::Differs`] with what differs, and the slot to repair; [`ProveError::Slot`] if it could not be read.
pub fn prove(
    slot: impl Provable,
    release: [u8; 32],
    tables: &[ImageTable<'_>],
    acceptance: Acceptance,
    watch: &Watch<'_>,
) -> Result<Proven, ProveError> {
    let (held, was) = sealed::IntoHeld::into_held(slot);
    let hold = ReadOnlyHold::new(held)?;
    let Comparison { differing, wrong_root } = compare(&hold.held, tables, watch)?;
    if acceptance == Acceptance::EveryWindow && !differing.is_empty() {
        let held = hold.release();
        let slot = held.slot.clone();
        let writer = (was == WasWritten::Here).then(|| InactiveSlot::from_held(held));
        return Err(ProveError::Differs(Box::new(Mismatch { images: differing, slot, writer })));
    }
    if let Some(wrong) = wrong_root {
        return Err(wrong);
    }
    let transfer = hold.held.transfer();
    let (proven_at, since) = (SystemTime::now(), Instant::now());
    Ok(Proven { hold, release, changed: differing, transfer, proven_at, since })
}

/// Compares any slot with the tables of a release and tells what differs; proves nothing.
///
/// # Errors
/// If it cannot be read, or the tables are not of its images.
pub fn audit(slot: &SlotView, tables: &[ImageTable<'_>], watch: &Watch<'_>) -> Result<Vec<ImageMismatch>, SlotError> {
    Ok(compare(&slot.held, tables, watch)?.differing)
}

/// Which of the `candidates` (ascending; all windows if `None`) of an image hold the right bytes already. A part that cannot be read does not.
///
/// # Errors
/// If the table is not of one of its images, or the reading was cancelled.
pub fn scan(
    slot: &impl Opened,
    table: &ImageTable<'_>,
    candidates: Option<&[u64]>,
    watch: &Watch<'_>,
) -> Result<Scanned, SlotError> {
    sweep::equal_windows(slot.held(), table, candidates, watch)
}

/// A slot beside its release.
struct Comparison {
    /// What differs in each image; nothing if everything is right.
    differing: Vec<ImageMismatch>,
    /// [`ProveError::Verity`] of the first image that is right, window by window, and has another root than the release says.
    wrong_root: Option<ProveError>,
}

fn compare(held: &Held, tables: &[ImageTable<'_>], watch: &Watch<'_>) -> Result<Comparison, SlotError> {
    // One table for each image and no more: an image without a table would count as proven unread.
    let has_one = |image: &OpenImage| tables.iter().filter(|table| table.image() == image.name()).count() == 1;
    if held.images.len() != tables.len() || !held.images.iter().all(has_one) {
        let names = |names: Vec<&str>| names.join(", ");
        return Err(SlotError::Spec(format!(
            "slot {} holds the images {}, the tables are of {}",
            held.slot,
            names(held.images.iter().map(OpenImage::name).collect()),
            names(tables.iter().map(ImageTable::image).collect())
        )));
    }
    let (mut differing, mut wrong_root) = (Vec::new(), None);
    for (table, found) in tables.iter().zip(sweep::read_whole(held, tables, watch)?) {
        let windows = found.differing;
        if let (Some(got), Some(verity), true) = (found.root, table.verity(), windows.is_empty())
            && got != verity.root_hash
        {
            let (image, expected) = (table.image().to_owned(), verity.root_hash);
            wrong_root.get_or_insert(ProveError::Verity { image, expected, got });
        }
        let tail = !is_tail_zero(held.image(table.image())?)?;
        if tail || !windows.is_empty() {
            differing.push(ImageMismatch { image: table.image().to_owned(), windows, tail });
        }
    }
    Ok(Comparison { differing, wrong_root })
}

fn is_tail_zero(image: &OpenImage) -> Result<bool, SlotError> {
    for range in tail_ranges(image.image_size(), image.slot_size()) {
        if !is_zero_in(image, &range)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use manifests::release::{Image, Verity, WindowTable};
    use payload::verity::Tree;
    use proptest::prelude::*;

    use super::super::rig::{Rig, Window, digests, image, name};
    use super::*;
    use crate::boot::gpt::fixture::DiskBuilder;

    const SLOT: usize = 3 << 20;
    const WINDOW: usize = 65_536;

    fn go() -> AtomicBool {
        AtomicBool::new(false)
    }

    fn rig_with(bytes: &[u8]) -> Rig {
        let rig = Rig::with_slots_of(SLOT / 512);
        rig.poke(1, 0, bytes);
        rig
    }

    fn finished(rig: &Rig, size: usize) -> Written {
        InactiveSlot::open(&rig.disk(), &name("b"), &rig.running(), &[("root", size as u64)]).unwrap().finish().unwrap()
    }

    fn prove_windows(slot: impl Provable, bytes: &[u8], window: usize, threads: usize) -> Result<Proven, ProveError> {
        let (digests, cancel) = (digests(bytes, window), go());
        let table = ImageTable::new("root", bytes.len() as u64, window as u64, &digests).unwrap();
        let watch = Watch::new(threads, &cancel, &|_| {});
        prove(slot, [7; 32], &[table], Acceptance::EveryWindow, &watch)
    }

    fn mismatch(outcome: Result<Proven, ProveError>) -> Mismatch {
        match outcome.unwrap_err() {
            ProveError::Differs(mismatch) => *mismatch,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_root_of_the_tree_is_found_from_what_was_read_and_compared_with_the_releases() {
        for length in [4096, 7 * 4096, 128 * 4096, 611 * 4096] {
            let bytes = image(length);
            let windows = WindowTable::new(length as u64, digests(&bytes, 262_144)).unwrap();
            let tree = Tree::of(bytes.as_slice(), length as u64, &[7; 32]).unwrap();
            let of = |root_hash| {
                let verity = Some(Verity { root_hash, salt: "07".repeat(32) });
                Image { name: "root".into(), slot: None, table: windows.clone(), verity }
            };
            let prove = |record: &Image| {
                let rig = rig_with(&bytes);
                let table = ImageTable::of(record).unwrap();
                let cancel = go();
                prove(finished(&rig, length), [7; 32], &[table], Acceptance::EveryWindow, &Watch::new(3, &cancel, &|_| {}))
            };
            assert!(prove(&of(tree.root)).is_ok(), "{length}");
            let wrong = prove(&of(Sha256Digest::from_bytes([9; 32]))).unwrap_err().to_string();
            let expected = format!("image \"root\" has the dm-verity root hash {}, expected 0909", tree.root);
            assert!(wrong.starts_with(&expected), "{wrong}");
        }
    }

    #[test]
    fn a_right_slot_is_proven_whatever_its_size_window_and_threads() {
        for (length, window, threads) in
            [(SLOT, 262_144, 2), (SLOT - 1, 65_536, 1), (2_500_000, 2 << 20, 3), (2_500_000, 4096, 16), (1, 4096, 2)]
        {
            let bytes = image(length);
            let rig = rig_with(&bytes);
            let proven = prove_windows(finished(&rig, length), &bytes, window, threads).unwrap();
            assert_eq!(proven.slot(), &name("b"));
            assert_eq!(proven.release_digest(), &[7; 32]);
            assert_eq!(proven.changed(), []);
            assert!(proven.age() < Duration::from_secs(60) && proven.proven_at() <= SystemTime::now());
        }
    }

    #[test]
    fn a_slot_is_repaired_where_it_differs_and_then_proven_without_opening_it_again() {
        let bytes = image(1_000_000);
        let rig = rig_with(&bytes);
        let written = finished(&rig, bytes.len());
        rig.poke(1, 3 * WINDOW + 17, &[0xFF]);
        rig.poke(1, 999_999, &[0xFF]);
        let mismatch = mismatch(prove_windows(written, &bytes, WINDOW, 2));
        assert_eq!(mismatch.images(), [ImageMismatch { image: "root".to_owned(), windows: vec![3, 15], tail: false }]);
        assert_eq!(
            mismatch.to_string(),
            "slot b is not what the release says: image \"root\" differs in 2 windows (the first is 3)"
        );
        let slot = mismatch.into_writer().unwrap();
        for window in [3, 15] {
            let start = window * WINDOW;
            let bytes = &bytes[start..bytes.len().min(start + WINDOW)];
            slot.write_window("root", &Window { offset: start as u64, bytes }).unwrap();
        }
        prove_windows(slot.finish().unwrap(), &bytes, WINDOW, 2).unwrap();
    }

    #[test]
    fn bytes_behind_the_image_are_proven_to_be_zero() {
        let bytes = image(100_001);
        for at in [100_001, 100_001 + (1 << 20) - 1, SLOT - 1, SLOT - (1 << 20)] {
            let rig = rig_with(&bytes);
            let written = finished(&rig, bytes.len());
            rig.poke(1, at, &[1]);
            let mismatch = mismatch(prove_windows(written, &bytes, WINDOW, 2));
            assert_eq!(mismatch.images(), [ImageMismatch { image: "root".to_owned(), windows: vec![], tail: true }], "at {at}");
            assert!(mismatch.to_string().ends_with("and is not followed by zeros"));
        }
        let rig = rig_with(&bytes);
        let written = finished(&rig, bytes.len());
        rig.poke(1, 1_500_000, &[1]);
        prove_windows(written, &bytes, WINDOW, 2).unwrap();
    }

    #[test]
    fn a_reopened_slot_is_proven_without_a_byte_changing() {
        let bytes = image(100_000);
        let rig = rig_with(&bytes);
        let before = rig.bytes();
        let reopen = || Reopened::open(&rig.disk(), &name("b"), &rig.running(), &[("root", 100_000)]).unwrap();
        prove_windows(reopen(), &bytes, WINDOW, 2).unwrap();
        assert!(before == rig.bytes());
        rig.poke(1, 70_000, &[1, 2, 3]);
        let mismatch = mismatch(prove_windows(reopen(), &bytes, WINDOW, 2));
        assert_eq!(mismatch.images()[0].windows, [1]);
        assert!(mismatch.into_writer().is_none());
    }

    #[test]
    fn design_11_6_a_slot_committed_before_may_differ_and_says_where() {
        let bytes = image(100_000);
        let rig = rig_with(&bytes);
        rig.poke(1, 5, b"mounted read-write");
        let slot = Reopened::open(&rig.disk(), &name("b"), &rig.running(), &[("root", 100_000)]).unwrap();
        let (digests, cancel) = (digests(&bytes, WINDOW), go());
        let table = ImageTable::new("root", 100_000, WINDOW as u64, &digests).unwrap();
        let watch = Watch::new(2, &cancel, &|_| {});
        let proven = prove(slot, [7; 32], &[table], Acceptance::CommittedBefore, &watch).unwrap();
        assert_eq!(proven.changed()[0].windows, [0]);
    }

    #[test]
    fn design_11_9_a_proven_slot_stays_taken_until_it_is_dropped() {
        let bytes = image(100_000);
        let rig = rig_with(&bytes);
        let proven = prove_windows(finished(&rig, bytes.len()), &bytes, WINDOW, 2).unwrap();
        let open = || InactiveSlot::open(&rig.disk(), &name("b"), &rig.running(), &[("root", 100_000)]);
        assert!(matches!(open(), Err(SlotError::Refused { .. })));
        drop(proven);
        open().unwrap();
    }

    #[test]
    fn scanning_names_the_windows_that_are_right() {
        let bytes = image(10 * WINDOW + 1);
        let rig = rig_with(&bytes);
        for window in [2, 3, 7, 10] {
            rig.poke(1, window * WINDOW, &[0xFF]);
        }
        let slot = InactiveSlot::open(&rig.disk(), &name("b"), &rig.running(), &[("root", bytes.len() as u64)]).unwrap();
        let (digests, cancel) = (digests(&bytes, WINDOW), go());
        let table = ImageTable::new("root", bytes.len() as u64, WINDOW as u64, &digests).unwrap();
        let watch = Watch::new(3, &cancel, &|_| {});
        assert_eq!(scan(&slot, &table, None, &watch).unwrap().right, [0, 1, 4, 5, 6, 8, 9]);
        assert_eq!(scan(&slot, &table, Some(&[1, 2, 5, 6, 10, 99]), &watch).unwrap().right, [1, 5, 6]);
        assert_eq!(scan(&slot, &table, Some(&[]), &watch).unwrap().right, [0; 0]);
    }

    #[test]
    fn any_slot_can_be_looked_at_even_the_running_one() {
        let bytes = image(100_000);
        let rig = rig_with(&[]);
        rig.poke(0, 0, &bytes);
        rig.poke(0, 4, &[0xFF]);
        let view = SlotView::open(&rig.disk(), &name("a"), &[("root", 100_000)]).unwrap();
        let (digests, cancel) = (digests(&bytes, WINDOW), go());
        let table = ImageTable::new("root", 100_000, WINDOW as u64, &digests).unwrap();
        let watch = Watch::new(2, &cancel, &|_| {});
        assert_eq!(audit(&view, &[table], &watch).unwrap()[0].windows, [0]);
        assert_eq!(scan(&view, &table, None, &watch).unwrap().right, [1]);
        let mut buffer = AlignedBuf::zeroed(4096);
        assert!(view.read_at("root", 8192, &mut buffer, 4096).unwrap() == &bytes[8192..12_288]);
    }

    #[test]
    fn a_slot_of_several_images_is_proven_as_one() {
        let mut disk = DiskBuilder::new(512);
        let sizes = [("root-a", 256), ("root-b", 256), ("usr-a", 128), ("usr-b", 128)];
        disk.partitions = sizes.map(|(label, sectors)| (label.to_owned(), sectors, 0)).to_vec();
        disk.sectors = 1024;
        let rig = Rig::new(&disk, 0);
        let mut spec = rig.spec();
        for slot in &mut spec.slots {
            slot.images.push(("usr".to_owned(), format!("partlabel:usr-{}", slot.name).parse().unwrap()));
        }
        let found = Disk::discover(&spec).unwrap();
        let (root, usr) = (image(100_000), image(50_000));
        let slot = InactiveSlot::open(&found, &name("b"), &rig.running(), &[("usr", 50_000), ("root", 100_000)]).unwrap();
        slot.write_window("root", &Window { offset: 0, bytes: &root }).unwrap();
        slot.write_window("usr", &Window { offset: 0, bytes: &usr }).unwrap();
        let written = slot.finish().unwrap();
        rig.poke(3, 4096, &[0xFF]);
        let (root_digests, usr_digests, cancel) = (digests(&root, WINDOW), digests(&usr, WINDOW), go());
        let tables = [("root", 100_000, &root_digests), ("usr", 50_000, &usr_digests)]
            .map(|(image, size, digests)| ImageTable::new(image, size, WINDOW as u64, digests).unwrap());
        let watch = Watch::new(2, &cancel, &|_| {});
        let twice = [tables[0], tables[0]];
        let mismatch = mismatch(prove(written, [7; 32], &tables, Acceptance::EveryWindow, &watch));
        assert_eq!(mismatch.images(), [ImageMismatch { image: "usr".to_owned(), windows: vec![0], tail: false }]);
        let slot = mismatch.into_writer().unwrap();
        slot.write_window("usr", &Window { offset: 0, bytes: &usr }).unwrap();
        let written = slot.finish().unwrap();
        let outcome = prove(written, [7; 32], &twice, Acceptance::EveryWindow, &watch);
        let words = outcome.unwrap_err().to_string();
        assert_eq!(words, "slot b holds the images root, usr, the tables are of root, root");
        let slot = Reopened::open(&found, &name("b"), &rig.running(), &[("usr", 50_000), ("root", 100_000)]).unwrap();
        prove(slot, [7; 32], &tables, Acceptance::EveryWindow, &watch).unwrap();
    }

    #[test]
    fn progress_ends_at_its_total_and_cancelling_stops() {
        let bytes = image(SLOT - 10_000);
        let rig = rig_with(&bytes);
        let digests = digests(&bytes, WINDOW);
        let table = ImageTable::new("root", bytes.len() as u64, WINDOW as u64, &digests).unwrap();
        let (cancel, last) = (go(), Mutex::new(None));
        let note = |progress: Progress| {
            let mut last = last.lock().unwrap();
            let newest = last.is_none_or(|seen: Progress| seen.bytes_done < progress.bytes_done);
            *last = if newest { Some(progress) } else { *last };
        };
        let watch = Watch::new(2, &cancel, &note);
        prove(finished(&rig, bytes.len()), [7; 32], &[table], Acceptance::EveryWindow, &watch).unwrap();
        let total = (bytes.len() as u64, digests.len() as u64);
        let expected = Progress { windows_done: total.1, windows_total: total.1, bytes_done: total.0, bytes_total: total.0 };
        assert_eq!(*last.lock().unwrap(), Some(expected));

        cancel.store(true, Ordering::Relaxed);
        let outcome = prove(finished(&rig, bytes.len()), [7; 32], &[table], Acceptance::EveryWindow, &watch);
        assert!(matches!(outcome, Err(ProveError::Slot(SlotError::Cancelled))));
    }

    #[test]
    fn tables_that_do_not_add_up_are_refused() {
        let digests = [Sha256Digest::from_bytes([0; 32]); 3];
        for (image_size, window_size) in
            [(0, 4096), (3 * 4096 + 1, 4096), (2 * 4096, 4096), (100, 0), (300, 100), (u64::MAX, 4096)]
        {
            assert!(ImageTable::new("root", image_size, window_size, &digests).is_err(), "{image_size} / {window_size}");
        }
        let rig = rig_with(&[]);
        let cancel = go();
        let watch = Watch::new(1, &cancel, &|_| {});
        let table = ImageTable::new("root", 3 * 4096, 4096, &digests).unwrap();
        let other = ImageTable::new("usr", 3 * 4096, 4096, &digests).unwrap();
        for tables in [&[][..], &[table], &[other], &[table, table]] {
            let outcome = prove(finished(&rig, 100_000), [7; 32], tables, Acceptance::EveryWindow, &watch);
            assert!(matches!(outcome, Err(ProveError::Slot(SlotError::Spec(_) | SlotError::Request { .. }))), "{outcome:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn exactly_the_damaged_windows_are_named(
            length in 1usize..400_000, blocks in 1usize..40, threads in 1usize..5,
            damage in proptest::collection::vec(any::<prop::sample::Index>(), 0..6)
        ) {
            let (bytes, window) = (image(length), blocks * 4096);
            let rig = rig_with(&bytes);
            let written = finished(&rig, length);
            let places: std::collections::BTreeSet<usize> = damage.iter().map(|place| place.index(length)).collect();
            for &at in &places {
                rig.poke(1, at, &[!bytes[at]]);
            }
            let mut expected: Vec<u64> = places.iter().map(|at| (at / window) as u64).collect();
            expected.dedup();
            match prove_windows(written, &bytes, window, threads) {
                Ok(_) => prop_assert_eq!(expected, Vec::<u64>::new()),
                Err(ProveError::Differs(mismatch)) => prop_assert_eq!(&mismatch.images()[0].windows, &expected),
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }
}
