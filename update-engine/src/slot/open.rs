//! Opening a slot: every reason not to, checked before and after.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::aio::{Queue, Read};
use super::buffer::{ALIGNMENT, AlignedBuf, is_aligned};
use super::disk::{Disk, DiskIdentity, Place, SlotName, Target};
use super::esp::{self, Room};
use super::ioctl::{self, DeviceAccess};
use super::medium::{Access, Kind, RawFile, Transfer};
use super::running::RunningSlot;
use super::system::{LoopDevice, SystemView};
use super::{SlotError, disk};
use crate::boot::gpt::{Table, TableEntry};
use crate::durable;

/// The largest single transfer, and the size of every buffer, in bytes.
pub(super) const TRANSFER_BYTES: usize = 1 << 20;
/// Spare buffers kept for writers that cannot write from the memory they are given.
const SPARE_BUFFERS: usize = 4;
/// How much may wait in the page cache where transfers cannot be direct.
const UNFLUSHED_MAX: u64 = 16 << 20;

/// What a slot is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To write the slot that does not run, and read it back.
    Write,
    /// To read back the slot that does not run; nobody else may use it meanwhile.
    Prove,
    /// To look at any slot, also one that runs.
    Look,
}

/// The opened images of one slot.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) slot: SlotName,
    pub(super) disk: DiskIdentity,
    pub(super) images: Vec<OpenImage>,
}

/// One opened image of a slot.
#[derive(Debug)]
pub(super) struct OpenImage {
    target: Target,
    file: RawFile,
    base: u64,
    image_size: u64,
    slot_size: u64,
    unflushed: AtomicU64,
    lost: AtomicBool,
    spare: Mutex<Vec<AlignedBuf>>,
}

impl Held {
    /// Opens every image of a slot that does not run. `sizes` are the images to expect and their sizes in bytes.
    pub(super) fn open_inactive(
        disk: &Disk,
        slot: &SlotName,
        running: &RunningSlot,
        sizes: &[(&str, u64)],
        purpose: Purpose,
    ) -> Result<Self, SlotError> {
        for target in disk.targets_of(slot) {
            if slot == running.name() {
                return Err(refused(target, "it runs now"));
            }
            if !running.is_on(disk.identity()) {
                return Err(refused(target, "the running slot was found on another disk"));
            }
        }
        Self::open(disk, slot, sizes, purpose)
    }

    /// Opens every image of a slot.
    pub(super) fn open(disk: &Disk, slot: &SlotName, sizes: &[(&str, u64)], purpose: Purpose) -> Result<Self, SlotError> {
        let targets: Vec<&Target> = disk.targets_of(slot).collect();
        if targets.is_empty() {
            return Err(SlotError::Spec(format!("there is no slot {slot}")));
        }
        check_images(slot, &targets, sizes)?;
        if purpose == Purpose::Write {
            check_room(disk.esp(), &targets, sizes)?;
        }
        let open = |target: &Target| {
            let size = sizes.iter().find(|(image, _)| *image == target.image).map_or(0, |(_, size)| *size);
            OpenImage::open(disk, target, size, purpose)
        };
        let images = targets.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { slot: slot.clone(), disk: disk.identity().clone(), images })
    }

    pub(super) fn image(&self, name: &str) -> Result<&OpenImage, SlotError> {
        self.images.iter().find(|image| image.target.image == name).ok_or_else(|| SlotError::Request {
            slot: self.slot.clone(),
            image: name.to_owned(),
            why: "the slot has no such image".to_owned(),
        })
    }

    /// How the slot is read: cached if any image is.
    pub(super) fn transfer(&self) -> Transfer {
        let cached = self.images.iter().any(|image| image.file.transfer() == Transfer::Cached);
        if cached { Transfer::Cached } else { Transfer::Direct }
    }

    /// Lets nobody write to the slot's block devices, or lets them again.
    pub(super) fn set_access(&self, access: DeviceAccess) -> Result<(), SlotError> {
        for image in &self.images {
            if let Kind::BlockDevice(_) = image.file.kind() {
                let set = ioctl::set_access(image.file.file(), access);
                set.map_err(|e| SlotError::io(format!("make {access:?}"), image.file.path(), e))?;
            }
        }
        Ok(())
    }
}

/// The images given must be the images of the slot, no more and no fewer.
fn check_images(slot: &SlotName, targets: &[&Target], sizes: &[(&str, u64)]) -> Result<(), SlotError> {
    let mut expected: Vec<&str> = targets.iter().map(|target| target.image.as_str()).collect();
    let mut got: Vec<&str> = sizes.iter().map(|(image, _)| *image).collect();
    expected.sort_unstable();
    got.sort_unstable();
    if expected == got {
        return Ok(());
    }
    Err(SlotError::Spec(format!("slot {slot} takes the images {}, got {}", expected.join(", "), got.join(", "))))
}

/// Blocks of the ESP that stay free: for a small file, and for its folder.
const KEPT_BLOCKS: u64 = 2;

/// All files of a slot on the ESP have to find room there together.
fn check_room(mount_point: &Path, targets: &[&Target], sizes: &[(&str, u64)]) -> Result<(), SlotError> {
    let (mut missing, mut free) = (0_u64, None);
    for target in targets {
        let Place::File { file, .. } = &target.place else { continue };
        let room = Room::of(file, mount_point).map_err(|e| SlotError::io("look up the room for", file, e))?;
        let size = sizes.iter().find(|(image, _)| *image == target.image).map_or(0, |(_, size)| *size);
        let takes = size.checked_next_multiple_of(room.block).unwrap_or(u64::MAX);
        missing = missing.saturating_add(takes.saturating_sub(room.taken));
        // The boot control writes an entry when the slot is armed, beside the one that is there.
        free = Some((target, room.free.saturating_sub(KEPT_BLOCKS * room.block)));
    }
    match free {
        Some((target, free)) if missing > free => {
            Err(refused(target, &format!("the files of the slot need {missing} more bytes on the ESP, {free} are free")))
        }
        _ => Ok(()),
    }
}

impl OpenImage {
    fn open(disk: &Disk, target: &Target, image_size: u64, purpose: Purpose) -> Result<Self, SlotError> {
        if image_size > target.size_bytes || image_size == 0 {
            let why = format!("the image has {image_size} bytes, the slot has room for {}", target.size_bytes);
            return Err(refused(target, &why));
        }
        if let (Purpose::Write, Place::File { file, .. }) = (purpose, &target.place) {
            let made = esp::create(file).map_err(|error| durable::in_words(error, file));
            made.map_err(|e| SlotError::io(format!("make a file of slot {}", target.slot), file, e))?;
        }
        check_kind(target, Kind::of_path(target.place.path()))?;
        if purpose != Purpose::Look {
            check_unused(disk.view(), target)?;
        }
        if purpose == Purpose::Write {
            lift_read_only(disk.view(), target)?;
        }
        let access = match purpose {
            Purpose::Look => Access::Read,
            Purpose::Prove => Access::ReadExclusive,
            Purpose::Write => Access::WriteExclusive,
        };
        let file = RawFile::open(target.place.path(), access).map_err(|error| {
            match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                Errno::EBUSY => refused(target, "something else uses the device (mounted, swap, or held by another program)"),
                _ => SlotError::io(format!("open slot {}", target.slot), target.place.path(), error),
            }
        })?;
        check_same(disk, target, &file)?;
        let is_file = matches!(target.place, Place::File { .. });
        let slot_size = if is_file { image_size } else { target.size_bytes };
        if purpose != Purpose::Look {
            lock_region(target, &file, purpose)?;
        }
        let base = target.range().start;
        let opened = Self {
            target: target.clone(),
            file,
            base,
            image_size,
            slot_size,
            unflushed: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            spare: Mutex::new(Vec::new()),
        };
        opened.try_direct();
        // A file that is about to be written gets its length later, and may be empty until then.
        if !is_file || purpose != Purpose::Write {
            opened.check_length()?;
            opened.probe()?;
        }
        Ok(opened)
    }

    fn is_file(&self) -> bool {
        matches!(self.target.place, Place::File { .. })
    }

    /// A file of another length is not the image.
    pub(super) fn check_length(&self) -> Result<(), SlotError> {
        if !self.is_file() {
            return Ok(());
        }
        let length = self.file.size_bytes().map_err(|e| SlotError::io("look up the length of", self.file.path(), e))?;
        if length == self.image_size {
            return Ok(());
        }
        Err(refused(&self.target, &format!("it has {length} bytes, the image has {}", self.image_size)))
    }

    /// Makes its place as large as the image. Only a file on the ESP is not that from the start.
    ///
    /// One of another length is made anew, and not a byte of it is read. On vfat the clusters of one that is cut short are free on the medium
    /// while its entry still has them. One of any other length may be what a power cut left, with fewer clusters than that length takes: whoever
    /// reads past them has the kernel mount the partition read-only. The price: what such a file holds already is fetched again.
    pub(super) fn make_place(&mut self) -> Result<(), SlotError> {
        if !self.is_file() {
            return Ok(());
        }
        let (path, size) = (self.file.path().to_path_buf(), self.image_size);
        let words = |error| SlotError::io(format!("make room for {size} bytes in"), &path, durable::in_words(error, &path));
        if self.file.size_bytes().map_err(words)? != size {
            esp::make_anew(&path).map_err(words)?;
            let new = RawFile::open(&path, Access::WriteExclusive).map_err(words)?;
            lock_region(&self.target, &new, Purpose::Write)?;
            // The old one was held open by this until now.
            durable::free(std::mem::replace(&mut self.file, new), &path).map_err(words)?;
            self.try_direct();
        }
        esp::set_length(self.file.file(), &path, size).map_err(words)?;
        self.probe()
    }

    /// A slot that does not lie on block boundaries of its file cannot be transferred directly.
    fn try_direct(&self) {
        if self.base.is_multiple_of(ALIGNMENT as u64) && self.slot_size.is_multiple_of(512) {
            self.file.try_direct();
        }
    }

    /// Finds out with one read whether transfers are direct, so that it is known from the start.
    ///
    /// What the medium says of its first block is for whoever reads it: one that cannot be read may be written anew, and the rest of a slot that
    /// is leant on is of use without it.
    fn probe(&self) -> Result<(), SlotError> {
        let mut buffer = AlignedBuf::zeroed(ALIGNMENT);
        let length = self.padded_length(0, 1);
        match self.read_at(0, &mut buffer.as_mut_slice()[..length]) {
            Err(SlotError::Transfer { source, .. }) if source.raw_os_error().is_some() => Ok(()),
            read => read,
        }
    }

    /// The image's name.
    pub(super) fn name(&self) -> &str {
        &self.target.image
    }

    /// Size of the image in bytes.
    pub(super) fn image_size(&self) -> u64 {
        self.image_size
    }

    /// Size of the slot in bytes.
    pub(super) fn slot_size(&self) -> u64 {
        self.slot_size
    }

    /// Length of `length` bytes at `offset` when rounded up to whole blocks, but never past the end of the slot.
    pub(super) fn padded_length(&self, offset: u64, length: usize) -> usize {
        let room = self.slot_size().saturating_sub(offset);
        let padded = length.next_multiple_of(ALIGNMENT);
        usize::try_from(room).map_or(padded, |room| padded.min(room))
    }

    /// Fills `buffer` (aligned, whole blocks or up to the end of the slot) from `offset` (a multiple of a block) of the slot.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), SlotError> {
        self.check_inside(offset, buffer.len())?;
        self.file.read_exact_at(buffer, self.base + offset).map_err(|e| self.transfer_error("read", offset, e))
    }

    /// Reads `length` bytes at `offset` (a multiple of a block) into `buffer`, and returns them.
    pub(super) fn read_into<'b>(&self, offset: u64, buffer: &'b mut AlignedBuf, length: usize) -> Result<&'b [u8], SlotError> {
        let padded = self.padded_length(offset, length);
        if length > padded || padded > buffer.capacity() {
            return Err(self.request(&format!("cannot read {length} bytes at offset {offset} into {}", buffer.capacity())));
        }
        self.read_at(offset, &mut buffer.as_mut_slice()[..padded])?;
        Ok(&buffer.as_slice()[..length])
    }

    /// Reads several parts, each from a multiple of a block on, into `buffer`, one behind the other, each from a block of it on; many at once. An error
    /// comes with the number of the part that it is about.
    pub(super) fn read_each(
        &self,
        parts: impl Iterator<Item = (u64, usize)>,
        buffer: &mut AlignedBuf,
        queue: Option<&mut Queue>,
    ) -> Result<(), (usize, SlotError)> {
        let (mut reads, mut rest) = (Vec::new(), buffer.as_mut_slice());
        for (number, (offset, length)) in parts.enumerate() {
            let padded = self.padded_length(offset, length);
            let Some((place, behind)) =
                rest.split_at_mut_checked(length.next_multiple_of(ALIGNMENT)).filter(|_| length <= padded)
            else {
                let why = format!("cannot read {length} bytes at offset {offset}: there is no room for them");
                return Err((number, self.request(&why)));
            };
            self.check_inside(offset, padded).map_err(|error| (number, error))?;
            let buffer = place.get_mut(..padded).unwrap_or_default();
            reads.push(Read { offset: self.base + offset, buffer });
            rest = behind;
        }
        let base = self.base;
        let offsets: Vec<u64> = reads.iter().map(|read| read.offset - base).collect();
        self.file
            .read_each(queue, &mut reads)
            .map_err(|(number, error)| (number, self.transfer_error("read", offsets.get(number).copied().unwrap_or(0), error)))
    }

    /// Writes verified bytes at `offset`, zero-padded to whole blocks.
    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), SlotError> {
        self.check_flushable()?;
        for (number, piece) in bytes.chunks(TRANSFER_BYTES).enumerate() {
            self.write_piece(offset + (number * TRANSFER_BYTES) as u64, piece)?;
        }
        self.bound_unflushed(offset, bytes.len() as u64)
    }

    /// The same, but for blocks that the medium holds already. What cannot be read is written.
    pub(super) fn write_changed(&self, offset: u64, bytes: &[u8]) -> Result<(), SlotError> {
        self.check_flushable()?;
        for (number, piece) in bytes.chunks(TRANSFER_BYTES).enumerate() {
            let at = offset + (number * TRANSFER_BYTES) as u64;
            let padded = self.padded_length(at, piece.len());
            let mut buffer = self.take_spare();
            let read = self.read_at(at, &mut buffer.as_mut_slice()[..padded]);
            let runs = match read {
                Ok(()) => changed_runs(piece, &buffer.as_slice()[..padded]),
                Err(_) => std::iter::once(0..piece.len()).collect(),
            };
            self.give_back(buffer);
            for run in runs {
                let from = at + run.start as u64;
                self.write_piece(from, &piece[run])?;
            }
        }
        self.bound_unflushed(offset, bytes.len() as u64)
    }

    fn write_piece(&self, offset: u64, piece: &[u8]) -> Result<(), SlotError> {
        let padded = self.padded_length(offset, piece.len());
        self.check_inside(offset, padded)?;
        let write = |bytes: &[u8]| {
            let written = self.file.write_all_at(bytes, self.base + offset);
            written.map_err(|e| self.transfer_error("write", offset, e))
        };
        if is_aligned(piece) {
            return write(piece);
        }
        let mut buffer = self.take_spare();
        let answer = match buffer.fill_padded(piece, padded) {
            Some(bytes) => write(bytes),
            None => Err(self.request("a piece is longer than a buffer")),
        };
        self.give_back(buffer);
        answer
    }

    /// Where writes are cached, little may wait there: memory stays free, and a crash loses little.
    fn bound_unflushed(&self, offset: u64, length: u64) -> Result<(), SlotError> {
        if self.file.transfer() == Transfer::Direct {
            return Ok(());
        }
        if self.unflushed.fetch_add(length, Ordering::AcqRel) + length >= UNFLUSHED_MAX {
            self.flush()?;
        }
        self.file.forget(self.base + offset, length);
        Ok(())
    }

    /// Waits until everything written is on the medium. After a failure no write since the last flush counts.
    pub(super) fn flush(&self) -> Result<(), SlotError> {
        self.check_flushable()?;
        self.unflushed.store(0, Ordering::Release);
        self.file.flush().map_err(|source| {
            self.lost.store(true, Ordering::Release);
            SlotError::FlushLost { slot: self.target.slot.clone(), image: self.target.image.clone(), source }
        })
    }

    /// Once a flush failed the kernel may have dropped dirty pages, and would answer the next flush with success.
    fn check_flushable(&self) -> Result<(), SlotError> {
        if self.lost.load(Ordering::Acquire) {
            return Err(SlotError::FlushLost {
                slot: self.target.slot.clone(),
                image: self.target.image.clone(),
                source: std::io::Error::other("an earlier flush failed"),
            });
        }
        Ok(())
    }

    /// Drops what the kernel caches of the slot, so that reads come from the medium.
    pub(super) fn forget_cache(&self) -> Result<(), SlotError> {
        let dropped = self.file.forget_all();
        dropped.map_err(|e| SlotError::io("drop the page cache of", self.file.path(), e))
    }

    fn check_inside(&self, offset: u64, length: usize) -> Result<(), SlotError> {
        let end = offset.checked_add(length as u64);
        if end.is_some_and(|end| end <= self.slot_size()) && offset.is_multiple_of(ALIGNMENT as u64) {
            return Ok(());
        }
        Err(self.request(&format!(
            "{length} bytes at offset {offset} do not start on a block of {ALIGNMENT} or reach past {} bytes",
            self.slot_size()
        )))
    }

    pub(super) fn request(&self, why: &str) -> SlotError {
        SlotError::Request { slot: self.target.slot.clone(), image: self.target.image.clone(), why: why.to_owned() }
    }

    fn transfer_error(&self, action: &'static str, offset: u64, source: std::io::Error) -> SlotError {
        SlotError::Transfer { action, slot: self.target.slot.clone(), image: self.target.image.clone(), offset, source }
    }

    fn take_spare(&self) -> AlignedBuf {
        let spare = self.spare.lock().ok().and_then(|mut spare| spare.pop());
        spare.unwrap_or_else(|| AlignedBuf::zeroed(TRANSFER_BYTES))
    }

    fn give_back(&self, buffer: AlignedBuf) {
        if let Ok(mut spare) = self.spare.lock()
            && spare.len() < SPARE_BUFFERS
        {
            spare.push(buffer);
        }
    }
}

/// The parts of `piece`, in whole blocks but for its end, that are not what `held` has there; behind the end of `piece` it has to have zeros.
pub(super) fn changed_runs(piece: &[u8], held: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (number, (wanted, held)) in piece.chunks(ALIGNMENT).zip(held.chunks(ALIGNMENT)).enumerate() {
        let (same, rest) = held.split_at(wanted.len().min(held.len()));
        if same == wanted && rest.iter().all(|&byte| byte == 0) {
            continue;
        }
        let block = number * ALIGNMENT..number * ALIGNMENT + wanted.len();
        match runs.last_mut() {
            Some(run) if run.end == block.start => run.end = block.end,
            _ => runs.push(block),
        }
    }
    runs
}

fn refused(target: &Target, why: &str) -> SlotError {
    SlotError::Refused {
        slot: target.slot.clone(),
        image: target.image.clone(),
        path: target.place.path().to_path_buf(),
        why: why.to_owned(),
    }
}

/// Refuses a target that anything on this machine uses now.
fn check_unused(view: &SystemView, target: &Target) -> Result<(), SlotError> {
    let used = match target.place {
        Place::Device { device, .. } => use_of_device(view, Kind::BlockDevice(device)),
        Place::Region { .. } => use_of_region(view, target),
        // It lies on a mounted file system; its name says whose it is.
        Place::File { .. } => Ok(None),
    };
    match used {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(refused(target, &why)),
        Err(error) => Err(SlotError::io("find out what uses", target.place.path(), error)),
    }
}

fn use_of_device(view: &SystemView, kind: Kind) -> std::io::Result<Option<String>> {
    let Kind::BlockDevice(device) = kind else { return Ok(None) };
    if let Some(mount) = view.mounts()?.iter().find(|mount| mount.device == device) {
        return Ok(Some(format!("it is mounted at {}", mount.mount_point.display())));
    }
    if view.swaps()?.iter().any(|path| names(path, kind)) {
        return Ok(Some("it is in use as swap".to_owned()));
    }
    if let Some(holder) = view.holders(device)?.first() {
        return Ok(Some(format!("{holder} is stacked on it")));
    }
    if let Some(bound) = view.loop_devices()?.iter().find(|bound| names(&bound.backing_file, kind)) {
        return Ok(Some(format!("the loop device {} is bound to it", bound.device)));
    }
    Ok(None)
}

/// A file region is in use if it is swap, or if a loop device shows it and that is in use.
fn use_of_region(view: &SystemView, target: &Target) -> std::io::Result<Option<String>> {
    let Some(kind) = target.kind else { return Ok(None) };
    if view.swaps()?.iter().any(|path| names(path, kind)) {
        return Ok(Some("it is in use as swap".to_owned()));
    }
    for bound in view.loop_devices()?.iter().filter(|bound| names(&bound.backing_file, kind)) {
        for (device, range) in shown_by(view, bound)? {
            let ours = target.range();
            if range.start < ours.end && ours.start < range.end {
                let used = use_of_device(view, Kind::BlockDevice(device))?;
                if let Some(why) = used {
                    return Ok(Some(format!("the loop device {device} shows it, and {why}")));
                }
            }
        }
    }
    Ok(None)
}

/// A loop device and its partitions, with the bytes of the backing file that each shows.
fn shown_by(view: &SystemView, bound: &LoopDevice) -> std::io::Result<Vec<(super::DeviceId, std::ops::Range<u64>)>> {
    let whole = bound.offset_bytes..bound.offset_bytes.saturating_add(view.size_bytes(bound.device)?);
    let mut shown = vec![(bound.device, whole)];
    for node in view.partitions_of(bound.device)? {
        let start = bound.offset_bytes.saturating_add(node.start_bytes);
        shown.push((node.device, start..start.saturating_add(node.size_bytes)));
    }
    Ok(shown)
}

fn names(path: &Path, kind: Kind) -> bool {
    Kind::of_path(path).is_ok_and(|found| found == kind)
}

/// A proof that was killed leaves its slot read-only (`BLKROSET` outlives the process); that is lifted, and must have worked.
fn lift_read_only(view: &SystemView, target: &Target) -> Result<(), SlotError> {
    let Place::Device { device, .. } = target.place else { return Ok(()) };
    let path = target.place.path();
    let is_read_only = || view.is_read_only(device).map_err(|e| SlotError::io("look up the facts of", path, e));
    if !is_read_only()? {
        return Ok(());
    }
    let file = RawFile::open(path, Access::ReadExclusive).map_err(|e| SlotError::io("open", path, e))?;
    ioctl::set_access(file.file(), DeviceAccess::Writable).map_err(|e| SlotError::io("make writable", path, e))?;
    if is_read_only()? {
        return Err(refused(target, "the device is read-only and stays so"));
    }
    Ok(())
}

fn check_kind(target: &Target, kind: std::io::Result<Kind>) -> Result<(), SlotError> {
    let kind = kind.map_err(|e| SlotError::io(format!("look up slot {}", target.slot), target.place.path(), e))?;
    if !target.is(kind) {
        return Err(refused(target, "it is another device or file than the one that was found"));
    }
    Ok(())
}

/// What was opened must be what was found: names are reused by hot-plugged disks and edited tables.
fn check_same(disk: &Disk, target: &Target, file: &RawFile) -> Result<(), SlotError> {
    let io_error = |e| SlotError::io("look up the facts of", target.place.path(), e);
    check_kind(target, Ok(file.kind()))?;
    let size = file.size_bytes().map_err(io_error)?;
    let fits = match target.place {
        Place::Device { .. } => size == target.size_bytes,
        Place::Region { .. } => size >= target.range().end,
        Place::File { .. } => true,
    };
    if !fits {
        return Err(refused(target, &format!("its size changed to {size} bytes, {} were found", target.size_bytes)));
    }
    if let (Kind::BlockDevice(whole), Some(device)) = (disk.identity().kind, target.place.device()) {
        let view = disk.view();
        if view.disk_of(device).map_err(io_error)? != whole
            || view.disk_sequence(whole).map_err(io_error)? != disk.identity().sequence
        {
            return Err(refused(target, "its disk was replaced by another one"));
        }
    }
    let Some(partition) = &target.partition else { return Ok(()) };
    let table = disk::read_table(disk.device(), Some(disk.sector_size()))?;
    let same = |entry: &&TableEntry| disk::Partition::from(*entry) == *partition && entry.size_bytes == target.size_bytes;
    let found = table.entries();
    let found = found.iter().find(same).filter(|entry| is_at(target, entry));
    if found.is_none() || Some(Table::disk_guid(&table)) != disk.identity().guid {
        return Err(refused(target, "the partition table changed since the slot was found"));
    }
    Ok(())
}

fn is_at(target: &Target, entry: &TableEntry) -> bool {
    match target.place {
        Place::Device { .. } | Place::File { .. } => true,
        Place::Region { offset_bytes, .. } => entry.start_bytes == offset_bytes,
    }
}

/// In image mode no kernel guards the slot, so its bytes of the file are locked: one writer at a time, or several provers.
fn lock_region(target: &Target, file: &RawFile, purpose: Purpose) -> Result<(), SlotError> {
    if matches!(target.place, Place::Device { .. }) {
        return Ok(());
    }
    let range = target.range();
    let number = |value: u64| libc::off_t::try_from(value).map_err(|_| refused(target, "it lies past the end of any file"));
    let kind = if purpose == Purpose::Write { libc::F_WRLCK } else { libc::F_RDLCK };
    let request = libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: number(range.start)?,
        l_len: number(range.end - range.start)?,
        l_pid: 0,
    };
    match fcntl(file.file(), FcntlArg::F_OFD_SETLK(&request)) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(refused(target, "another program holds it")),
        Err(error) => Err(SlotError::io("lock a slot of", file.path(), error.into())),
    }
}
