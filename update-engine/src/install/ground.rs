//! What frames lean on: the images of the slot that runs, and what the slot that is written holds already.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use manifests::digest::Sha256Digest;
use manifests::release::{Record, Release, SlotName, WindowTable};
use payload::apply::{Part, Sources};
use payload::format::{Frame, ImageEntry, Source};

use crate::slot::aio::Queue;
use crate::slot::buffer::{ALIGNMENT, AlignedBuf};
use crate::slot::readback::SlotView;
use crate::slot::{self, Disk, InactiveSlot, SlotError};
use crate::world::chain;

/// What a decoder asks for at once, but for the blocks at both ends of each part: 16 parts have room in a piece.
const AT_ONCE_BYTES: usize = 256 * 1024;
const PIECE_BYTES: usize = AT_ONCE_BYTES + 2 * 16 * ALIGNMENT;

/// The slot that runs: what a delta may lean on. It is only ever read (P2).
#[derive(Debug)]
pub struct Base {
    /// The disk.
    pub disk: Disk,
    /// The slot.
    pub slot: SlotName,
    /// The record of what was installed in it, if that is known.
    pub record: Option<Record>,
}

/// The images of the running slot that a delta names, opened.
pub(super) struct Running {
    slot: SlotName,
    view: SlotView,
    /// By the order of the delta's sources; nothing where an image is not in this slot.
    images: Vec<Option<RunningImage>>,
}

struct RunningImage {
    name: String,
    /// By its record, if that is known.
    table: Option<WindowTable>,
}

/// Whose fault it is that a frame came out wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// What it leans on is what it should be, so its blob is not.
    Blob,
    /// The running slot, in these words.
    RunningSlot(String),
    /// Nobody knows, in these words.
    Unknown(String),
}

impl Running {
    /// Opens what `entries` name, and says in words why this slot cannot be leant on.
    pub(super) fn open(base: &Base, entries: &[ImageEntry]) -> Result<Self, String> {
        let is_here = |entry: &&ImageEntry| entry.slot.is_none_or(|slot| slot == base.slot);
        for entry in entries.iter().filter(is_here) {
            if let Some(record) = &base.record
                && table_of(record, entry).is_none_or(|table| table.sha256() != entry.table_sha256)
            {
                return Err(format!(
                    "it leans on another image {:?} than that of release {}, which runs",
                    entry.name, record.version
                ));
            }
        }
        let sizes: Vec<(&str, u64)> = entries.iter().filter(is_here).map(|entry| (entry.name.as_str(), entry.size)).collect();
        let name = match base.slot {
            SlotName::A => "a",
            SlotName::B => "b",
        };
        let name = name.parse::<slot::SlotName>().map_err(|error| error.to_string())?;
        let view =
            SlotView::open(&base.disk, &name, &sizes).map_err(|error| format!("the running slot cannot be read: {error}"))?;
        let image = |entry: &ImageEntry| {
            let table = base.record.as_ref().and_then(|record| table_of(record, entry)).cloned();
            is_here(&entry).then(|| RunningImage { name: entry.name.clone(), table })
        };
        Ok(Self { slot: base.slot, view, images: entries.iter().map(image).collect() })
    }

    /// Hashes what `frame`, which came out wrong, leans on in the running slot; once `stop` is set the answer is worth nothing. Blocks.
    pub(super) fn fault(&self, frame: &Frame<'_>, stop: &AtomicBool) -> Fault {
        let mut windows = BTreeSet::new();
        for extent in frame.extents() {
            let Source::Image(index) = extent.source else { continue };
            let Some(image) = self.image(index) else {
                return Fault::RunningSlot(format!("slot {}, which runs, has no such image", self.slot));
            };
            let Some(table) = &image.table else {
                let slot = self.slot;
                return Fault::Unknown(format!(
                    "slot {slot}, which runs, may not be what it leans on: its record is not known (`updatectl adopt RELEASE` names it)"
                ));
            };
            let size = u64::from(table.window_size());
            windows.extend((extent.offset / size..(extent.offset + extent.length).div_ceil(size)).map(|window| (index, window)));
        }
        let mut buffer = AlignedBuf::zeroed(0);
        windows
            .into_iter()
            .take_while(|_| !stop.load(Ordering::Relaxed))
            .find_map(|(index, window)| self.difference(index, window, &mut buffer))
            .map_or(Fault::Blob, Fault::RunningSlot)
    }

    /// Why a window is not what the record of the running slot says.
    fn difference(&self, index: u8, window: u64, buffer: &mut AlignedBuf) -> Option<String> {
        let image = self.image(index)?;
        let table = image.table.as_ref()?;
        let number = u32::try_from(window).ok()?;
        let (offset, length) = table.range(number)?;
        let length = usize::try_from(length).unwrap_or(0);
        if buffer.capacity() < length.next_multiple_of(ALIGNMENT) {
            *buffer = AlignedBuf::zeroed(length.next_multiple_of(ALIGNMENT));
        }
        let found = match self.view.read_at(&image.name, offset, buffer, length) {
            Ok(bytes) => Sha256Digest::of_window(bytes),
            Err(error) => return Some(chain(&error)),
        };
        let (slot, name) = (self.slot, &image.name);
        (table.digest(number) != Some(found)).then(|| {
            format!("it leans on slot {slot}, which runs, and window {number} (at byte {offset}) of image {name:?} there is not what its release says")
        })
    }

    fn image(&self, index: u8) -> Option<&RunningImage> {
        self.images.get(usize::from(index))?.as_ref()
    }
}

fn table_of<'r>(record: &'r Record, entry: &ImageEntry) -> Option<&'r WindowTable> {
    let image = record.images.iter().find(|image| image.name == entry.name && image.slot == entry.slot);
    image.map(|image| &image.table)
}

/// What one thread reads for the frames that it makes.
pub(super) struct Ground {
    release: Arc<Release>,
    slot: Arc<InactiveSlot>,
    pub(super) running: Option<Arc<Running>>,
    piece: RefCell<AlignedBuf>,
    /// Where the kernel has one.
    queue: RefCell<Option<Queue>>,
    /// Set when nothing more is to be read.
    stopping: Arc<AtomicBool>,
}

impl Ground {
    pub(super) fn new(release: &Arc<Release>, slot: &Arc<InactiveSlot>, stopping: &Arc<AtomicBool>) -> Self {
        let piece = RefCell::new(AlignedBuf::zeroed(0));
        let queue =
            RefCell::new(Queue::new().map_err(|error| tracing::debug!(%error, "extents are read one after the other")).ok());
        Self { release: Arc::clone(release), slot: Arc::clone(slot), running: None, piece, queue, stopping: Arc::clone(stopping) }
    }

    /// Reads parts of one source, all at once.
    fn read_parts(&self, source: Source, image: usize, parts: &mut [Part<'_>]) -> Result<(), (usize, io::Error)> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err((0, io::Error::other("the install ends")));
        }
        let block = u64::try_from(ALIGNMENT).unwrap_or(1);
        let skipped = |part: &Part<'_>| usize::try_from(part.offset % block).unwrap_or(0);
        let places: Vec<(u64, usize)> =
            parts.iter().map(|part| (part.offset - part.offset % block, skipped(part) + part.buffer.len())).collect();
        let room: usize = places.iter().map(|(_, length)| length.next_multiple_of(ALIGNMENT)).sum();
        let mut piece = self.piece.borrow_mut();
        if piece.capacity() < room {
            *piece = AlignedBuf::zeroed(room.max(PIECE_BYTES));
        }
        let queue = &mut *self.queue.borrow_mut();
        let read = match source {
            Source::Target => {
                let name = self.name_of(image).map_err(|error| (0, error))?;
                self.slot.read_each(name, places.iter().copied(), &mut piece, queue.as_mut())
            }
            Source::Image(index) => {
                let (running, name) = self.source_image(index).map_err(|error| (0, error))?;
                running.view.read_each(name, places.iter().copied(), &mut piece, queue.as_mut())
            }
        };
        read.map_err(|(number, error)| (number, io::Error::other(error)))?;
        let mut at = 0;
        for (part, (_, length)) in parts.iter_mut().zip(&places) {
            let from = at + skipped(part);
            let bytes =
                piece.as_slice().get(from..from + part.buffer.len()).ok_or_else(|| (0, io::ErrorKind::UnexpectedEof.into()))?;
            part.buffer.copy_from_slice(bytes);
            at += length.next_multiple_of(ALIGNMENT);
        }
        Ok(())
    }

    fn source_image(&self, index: u8) -> io::Result<(&Running, &str)> {
        let no_slot = || io::Error::new(io::ErrorKind::Unsupported, "no slot to lean on");
        let running = self.running.as_ref().ok_or_else(no_slot)?;
        let image = running.image(index);
        let image = image.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the running slot has no such image"))?;
        Ok((running, &image.name))
    }

    fn name_of(&self, image: usize) -> io::Result<&str> {
        let image = self.release.record().images.get(image).ok_or(io::ErrorKind::NotFound)?;
        Ok(&image.name)
    }
}

impl Sources for Ground {
    fn read(&self, source: Source, image: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        for (buffer, offset) in buffer.chunks_mut(AT_ONCE_BYTES).zip((offset..).step_by(AT_ONCE_BYTES)) {
            self.read_parts(source, image, &mut [Part { source, offset, buffer }]).map_err(|(_, error)| error)?;
        }
        Ok(())
    }

    fn read_each(&self, image: usize, parts: &mut [Part<'_>]) -> Result<(), (usize, io::Error)> {
        let (mut first, mut rest) = (0, parts);
        while !rest.is_empty() {
            let count = of_one_source(rest);
            let (these, others) = std::mem::take(&mut rest).split_at_mut(count);
            if let Some(source) = these.first().map(|part| part.source) {
                self.read_parts(source, image, these).map_err(|(number, error)| (first + number, error))?;
            }
            first += these.len();
            rest = others;
        }
        Ok(())
    }
}

/// How many parts from the first on are of one source.
fn of_one_source(parts: &[Part<'_>]) -> usize {
    parts.first().map_or(0, |first| parts.iter().take_while(|part| part.source == first.source).count())
}

/// Of windows that were right, those that are not what the record says when they are read from the slot now; not all of them, once `stop` is set. Blocks.
pub(super) fn lost(
    slot: &InactiveSlot,
    image: &str,
    table: &WindowTable,
    windows: impl IntoIterator<Item = u32>,
    stop: &AtomicBool,
) -> Result<Vec<u32>, SlotError> {
    let mut lost = Vec::new();
    let mut buffer = AlignedBuf::zeroed(usize::try_from(table.window_size()).unwrap_or(0).next_multiple_of(ALIGNMENT));
    for window in windows.into_iter().take_while(|_| !stop.load(Ordering::Relaxed)) {
        let Some((offset, length)) = table.range(window) else { continue };
        let bytes = slot.read_at(image, offset, &mut buffer, usize::try_from(length).unwrap_or(0))?;
        if table.digest(window) != Some(Sha256Digest::of_window(bytes)) {
            lost.push(window);
        }
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use manifests::keyring::{Keyring, SecretKey};
    use manifests::release::Envelope;

    use super::*;
    use crate::engine::tests::host;
    use crate::slot::rig::{Rig, name};

    const SLOT: usize = 1 << 20;

    /// No two of 512 bytes in a row are like any others, and no byte of the one image is where the other has it.
    fn image(seed: u64) -> Vec<u8> {
        (0..SLOT as u64 / 32).flat_map(|at| *Sha256Digest::of(&(seed << 32 | at).to_le_bytes()).as_bytes()).collect()
    }

    /// A release with one image, of which only its name counts here.
    fn release() -> Release {
        let (record, key) = (host::record(2), SecretKey::from_seed(&[1; 32]));
        let mut envelope = Envelope::unsigned(&record).unwrap();
        envelope.sign(&key).unwrap();
        envelope.verify(&Keyring::new([("test.pub".to_owned(), key.public())], NonZeroU32::MIN, &[]).unwrap()).unwrap()
    }

    fn ground(rig: &Rig, size: usize) -> Ground {
        let (disk, entry) = (
            rig.disk(),
            ImageEntry {
                name: "root".into(),
                slot: None,
                size: size as u64,
                window_size: 4096,
                table_sha256: Sha256Digest::of(b""),
            },
        );
        let slot = InactiveSlot::open(&disk, &name("b"), &rig.running(), &[("root", size as u64)]).unwrap();
        let mut ground = Ground::new(&Arc::new(release()), &Arc::new(slot), &Arc::new(AtomicBool::new(false)));
        ground.running = Some(Arc::new(Running::open(&Base { disk, slot: SlotName::A, record: None }, &[entry]).unwrap()));
        ground
    }

    #[test]
    fn parts_of_both_slots_from_any_byte_on_come_as_they_were_asked_for() {
        // The last block is not whole.
        let size = SLOT - 100;
        let (rig, images) = (Rig::with_slots_of(SLOT / 512), [image(1), image(2)]);
        rig.poke(0, 0, &images[0]);
        rig.poke(1, 0, &images[1]);
        let mut ground = ground(&rig, size);
        let (running, target) = (Source::Image(0), Source::Target);
        let wanted = [
            (running, 0, 4096),
            (running, 4095, 2),
            (target, 1, 70_000),
            (running, 300_001, 511),
            (target, 4096, 4096),
            (target, 8191, 300_000),
            (target, size - 1, 1),
            (running, size - 4097, 4097),
            (running, 0, 0),
        ];
        for is_alone in [false, true] {
            if is_alone {
                ground.queue = RefCell::new(None);
            }
            let mut buffers: Vec<Vec<u8>> = wanted.iter().map(|(_, _, length)| vec![0xAA; *length]).collect();
            let mut parts: Vec<Part<'_>> = wanted
                .iter()
                .zip(&mut buffers)
                .map(|((source, offset, _), buffer)| Part { source: *source, offset: *offset as u64, buffer })
                .collect();
            ground.read_each(0, &mut parts).unwrap();
            for ((source, offset, length), buffer) in wanted.iter().zip(&buffers) {
                let image = &images[usize::from(*source == target)];
                assert!(*buffer == image[*offset..offset + length], "{source:?} {offset} {length}, alone: {is_alone}");
                let mut by_itself = vec![0xAA; *length];
                ground.read(*source, 0, *offset as u64, &mut by_itself).unwrap();
                assert!(by_itself == *buffer, "{source:?} {offset} {length}, by itself");
            }
        }
    }

    #[test]
    fn a_part_that_cannot_be_read_is_named_by_its_number() {
        let rig = Rig::with_slots_of(SLOT / 512);
        let ground = ground(&rig, SLOT);
        let mut buffers = [[0; 512]; 4];
        let beyond = |sources: [Source; 4], number: usize| {
            move |at: usize| (sources[at], if at == number { 2 * SLOT as u64 } else { 4096 })
        };
        for (sources, number) in [
            ([Source::Image(0), Source::Image(0), Source::Target, Source::Target], 3),
            ([Source::Target, Source::Image(0), Source::Image(0), Source::Target], 2),
        ] {
            let places = (0..4).map(beyond(sources, number));
            let mut parts: Vec<Part<'_>> =
                places.zip(&mut buffers).map(|((source, offset), buffer)| Part { source, offset, buffer }).collect();
            let (found, error) = ground.read_each(0, &mut parts).unwrap_err();
            assert_eq!(found, number, "{error}");
        }
        let mut parts = [Part { source: Source::Image(1), offset: 0, buffer: &mut buffers[0] }];
        assert_eq!(ground.read_each(0, &mut parts).unwrap_err().1.to_string(), "the running slot has no such image");
        // An install that ends waits for no more than one read.
        ground.stopping.store(true, Ordering::Relaxed);
        let mut parts = [Part { source: Source::Image(0), offset: 0, buffer: &mut buffers[0] }];
        assert_eq!(ground.read_each(0, &mut parts).unwrap_err().1.to_string(), "the install ends");
    }
}
