//! The frame table: read once, checked whole, then walked without another look at its rules.

use std::collections::BTreeMap;

use manifests::digest::Sha256Digest;
use manifests::release::{Image, Record, SlotName, WindowTable};

use super::cursor::Cursor;
use super::frame::{Frame, Kind};
use super::header::{Header, len_u64};
use super::parse::{Parsed, Parser};
use crate::error::Error;
use crate::limits::HEADER_BYTES;
use crate::window::ReadAt;

/// An image as the payload describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageEntry {
    /// Its name.
    pub name: String,
    /// Only for this slot.
    pub slot: Option<SlotName>,
    /// Bytes.
    pub size: u64,
    /// Bytes of a window but the last.
    pub window_size: u32,
    /// Digest of its window table.
    pub table_sha256: Sha256Digest,
}

impl ImageEntry {
    /// Windows it has.
    pub const fn window_count(&self) -> u64 {
        WindowTable::count_for(self.size, self.window_size)
    }

    pub(super) fn window_start(&self, window: u32) -> u64 {
        u64::from(window).saturating_mul(u64::from(self.window_size)).min(self.size)
    }

    /// An image that has this table.
    pub(crate) fn new(image: &crate::build::Image<'_>, table: &WindowTable) -> Self {
        Self {
            name: image.name.to_owned(),
            slot: image.slot,
            size: image.size,
            window_size: table.window_size(),
            table_sha256: table.sha256(),
        }
    }

    /// The same image in the words of a record.
    pub(crate) fn of(image: &Image) -> Self {
        Self {
            name: image.name.clone(),
            slot: image.slot,
            size: image.table.image_size(),
            window_size: image.table.window_size(),
            table_sha256: image.table.sha256(),
        }
    }
}

/// A frame as it is kept in memory: 32 bytes, 4 MiB for the longest table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) blob_offset: u64,
    pub(super) blob_len: u32,
    pub(super) output_len: u32,
    pub(super) first_window: u32,
    pub(super) windows: u32,
    pub(super) extents_at: u32,
    pub(super) extents: u16,
    pub(super) kind: Kind,
}

/// A frame table that obeys every rule of the format. Nothing in it is trusted: it is a recipe.
pub struct FrameTable {
    header: Header,
    images: Vec<ImageEntry>,
    sources: Vec<ImageEntry>,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Index of the first frame of each image, then the number of frames.
    starts: Vec<u32>,
}

/// Sums over all frames of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KindTotals {
    /// Frames.
    pub frames: u64,
    /// Windows they make.
    pub windows: u64,
    /// Bytes they make.
    pub output_bytes: u64,
    /// Bytes of their blobs.
    pub blob_bytes: u64,
}

impl FrameTable {
    /// Reads a frame table and holds it against a record: it must make exactly the record's images.
    pub fn parse(header: Header, bytes: Vec<u8>, record: &Record) -> Result<Self, Error> {
        let table = Self::parse_unbound(header, bytes)?;
        table.check_images(&record.images)?;
        Ok(table)
    }

    /// Reads a frame table without a record, for showing it. Sound in itself; whose images it makes is not known.
    pub fn parse_unbound(header: Header, bytes: Vec<u8>) -> Result<Self, Error> {
        let range = header.table_range();
        let expected = range.end - range.start;
        if len_u64(&bytes) != expected {
            return Err(Error::Length { part: "the frame table", expected, got: len_u64(&bytes) });
        }
        let got = Sha256Digest::of(&bytes);
        if got != header.table_sha256() {
            return Err(Error::TableDigest { expected: header.table_sha256(), got });
        }
        let Parsed { images, sources, entries, starts } = Parser::new(header, &bytes).run()?;
        Ok(Self { header, images, sources, bytes, entries, starts })
    }

    /// Reads header and frame table of a payload file of `length` bytes, and holds them against a record.
    pub fn read(file: &dyn ReadAt, length: u64, record: &Record) -> Result<Self, Error> {
        let (header, bytes) = read_front(file, length)?;
        Self::parse(header, bytes, record)
    }

    /// Reads header and frame table of a payload file of `length` bytes, for showing them.
    pub fn read_unbound(file: &dyn ReadAt, length: u64) -> Result<Self, Error> {
        let (header, bytes) = read_front(file, length)?;
        Self::parse_unbound(header, bytes)
    }

    /// The header it was read with.
    pub const fn header(&self) -> Header {
        self.header
    }

    /// The images it makes, in the order of the record.
    pub fn images(&self) -> &[ImageEntry] {
        &self.images
    }

    /// The images its frames lean on; empty for a full payload.
    pub fn sources(&self) -> &[ImageEntry] {
        &self.sources
    }

    /// Number of frames.
    pub fn len(&self) -> u32 {
        // At most MAX_WINDOWS: each frame makes a window of its own.
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    /// Never true for a table that was parsed; here because `len` is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Frame `index`.
    pub fn frame(&self, index: u32) -> Option<Frame<'_>> {
        let entry = *self.entries.get(usize::try_from(index).ok()?)?;
        let image = self.starts.partition_point(|start| *start <= index).checked_sub(1)?;
        Some(Frame { table: self, index, image, entry })
    }

    /// All frames in order.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        (0..self.len()).filter_map(|index| self.frame(index))
    }

    /// The frames of one image, in order; none for an index that is no image.
    pub fn frames_of(&self, image: usize) -> impl Iterator<Item = Frame<'_>> {
        let bound = |at: usize| self.starts.get(at).copied().unwrap_or(self.len());
        (bound(image)..bound(image.saturating_add(1))).filter_map(|index| self.frame(index))
    }

    /// The frame that makes `window` of `image`.
    pub fn frame_of(&self, image: usize, window: u32) -> Option<Frame<'_>> {
        let first = usize::try_from(*self.starts.get(image)?).ok()?;
        let end = usize::try_from(*self.starts.get(image + 1)?).ok()?;
        let at = self.entries.get(first..end)?.partition_point(|entry| entry.first_window <= window).checked_sub(1)?;
        self.frame(u32::try_from(first + at).ok()?).filter(|frame| frame.windows().contains(&window))
    }

    /// Sums by kind of frame, in the order of the kinds' numbers.
    pub fn totals(&self) -> BTreeMap<Kind, KindTotals> {
        let mut totals: BTreeMap<Kind, KindTotals> = BTreeMap::new();
        for entry in &self.entries {
            let sum = totals.entry(entry.kind).or_default();
            sum.frames += 1;
            sum.windows += u64::from(entry.windows);
            sum.output_bytes += u64::from(entry.output_len);
            sum.blob_bytes += u64::from(entry.blob_len);
        }
        totals
    }

    pub(super) fn entry_of(&self, image: usize) -> Option<&ImageEntry> {
        self.images.get(image)
    }

    pub(super) fn cursor_at(&self, at: u32) -> Cursor<'_> {
        Cursor::new(&self.bytes, usize::try_from(at).unwrap_or(usize::MAX))
    }

    fn check_images(&self, expected: &[Image]) -> Result<(), Error> {
        if self.images.len() != expected.len() {
            return Err(foreign("number of images", expected.len(), self.images.len()));
        }
        for (entry, image) in self.images.iter().zip(expected) {
            let expected = ImageEntry::of(image);
            let name = &expected.name;
            if entry.name != *name || entry.slot != expected.slot {
                return Err(foreign("image", describe(&expected), describe(entry)));
            }
            if entry.size != expected.size {
                return Err(foreign(&format!("size of image {name:?}"), expected.size, entry.size));
            }
            if entry.window_size != expected.window_size {
                return Err(foreign(&format!("window size of image {name:?}"), expected.window_size, entry.window_size));
            }
            if entry.table_sha256 != expected.table_sha256 {
                let what = format!("sha256 of the window table of image {name:?}");
                return Err(foreign(&what, expected.table_sha256, entry.table_sha256));
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for FrameTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FrameTable({} images, {} frames)", self.images.len(), self.entries.len())
    }
}

fn read_front(file: &dyn ReadAt, length: u64) -> Result<(Header, Vec<u8>), Error> {
    let mut first = [0; HEADER_BYTES];
    let available = usize::try_from(length).map_or(HEADER_BYTES, |length| length.min(HEADER_BYTES));
    read_payload(file, &mut first[..available], 0)?;
    let header = Header::parse(&first[..available])?;
    if header.total_len() != length {
        return Err(Error::Length { part: "the payload", expected: header.total_len(), got: length });
    }
    let range = header.table_range();
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
    read_payload(file, &mut bytes, range.start)?;
    Ok((header, bytes))
}

fn read_payload(file: &dyn ReadAt, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
    let length = len_u64(buffer);
    let name = |source| Error::Read { what: "payload".to_owned(), offset, length, source };
    file.read_exact_at(buffer, offset).map_err(name)
}

fn foreign(what: &str, expected: impl ToString, got: impl ToString) -> Error {
    Error::Foreign { what: what.to_owned(), expected: expected.to_string(), got: got.to_string() }
}

fn describe(image: &ImageEntry) -> String {
    match image.slot {
        None => format!("{:?}", image.name),
        Some(slot) => format!("{:?} for slot {slot}", image.name),
    }
}
