//! One frame of the table, and what it leans on.

use std::fmt;
use std::ops::Range;

use manifests::limits::MAX_IMAGES;

use super::cursor::Cursor;
use super::table::{Entry, FrameTable};
use crate::error::Error;
use crate::varint::unzigzag;

/// How a frame's blob becomes output. The numbers are on disk and never change their meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Kind {
    /// 0: nothing but zeros.
    Zero,
    /// 1: the blob is the output.
    Raw,
    /// 2: the blob is a zstd frame.
    Zstd,
    /// 3: the output stands in the sources.
    Copy,
    /// 4: a zstd frame with the extents as prefix.
    ZstdPrefix,
    /// 5: a byte difference against the extents.
    Difference,
    /// A number that this build has no name for.
    Unknown(u8),
}

impl Kind {
    /// The kind of this number on disk.
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Zero,
            1 => Self::Raw,
            2 => Self::Zstd,
            3 => Self::Copy,
            4 => Self::ZstdPrefix,
            5 => Self::Difference,
            other => Self::Unknown(other),
        }
    }

    /// The number on disk.
    pub const fn number(self) -> u8 {
        match self {
            Self::Zero => 0,
            Self::Raw => 1,
            Self::Zstd => 2,
            Self::Copy => 3,
            Self::ZstdPrefix => 4,
            Self::Difference => 5,
            Self::Unknown(number) => number,
        }
    }

    /// The name in the table of the format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Raw => "raw",
            Self::Zstd => "zstd",
            Self::Copy => "copy",
            Self::ZstdPrefix => "zstd with prefix",
            Self::Difference => "difference",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// `2 (zstd)`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number(), self.name())
    }
}

/// Where an extent's bytes come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Source {
    /// The image that the frame makes: bytes below the frame's first window, which must be verified before they are used.
    Target,
    /// Source image of this index (counted from 0) in [`FrameTable::sources`].
    Image(u8),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target => f.write_str("the image itself"),
            // As the extents of the format count them: 0 is the image itself.
            Self::Image(index) => write!(f, "source image {}", u16::from(*index) + 1),
        }
    }
}

/// A run of bytes that a frame leans on; inside its source, and below the frame when the source is the target itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Which source.
    pub source: Source,
    /// First byte in it.
    pub offset: u64,
    /// Number of bytes, 1 or more.
    pub length: u64,
}

/// Reads the extents of one frame, in the order in which they are joined.
#[derive(Clone)]
pub struct Extents<'t> {
    cursor: Cursor<'t>,
    left: u16,
    expected_offset: u64,
}

impl<'t> Extents<'t> {
    pub(super) const fn new(cursor: Cursor<'t>, count: u16, output_offset: u64) -> Self {
        Self { cursor, left: count, expected_offset: output_offset }
    }

    pub(super) const fn cursor(&self) -> Cursor<'t> {
        self.cursor
    }

    /// The next extent as it stands; its bounds are the table's business.
    pub(super) fn read(&mut self) -> Result<Option<Extent>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let number = self.cursor.varint("source of an extent")?;
        let source = match u8::try_from(number) {
            Ok(0) => Source::Target,
            Ok(number) => Source::Image(number - 1),
            Err(_) => return Err(Error::field("source of an extent", format!("0 to {MAX_IMAGES}"), number)),
        };
        let step = unzigzag(self.cursor.varint("offset of an extent")?);
        let offset = self.expected_offset.checked_add_signed(step);
        let length = self.cursor.varint("length of an extent")?;
        let end = offset.and_then(|offset| offset.checked_add(length));
        let (Some(offset), Some(end)) = (offset, end) else {
            let got = i128::from(self.expected_offset) + i128::from(step);
            return Err(Error::field("extent", "bytes from 0 to 2^64", format!("{length} at byte {got}")));
        };
        self.expected_offset = end;
        Ok(Some(Extent { source, offset, length }))
    }
}

impl Iterator for Extents<'_> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        self.read().ok().flatten()
    }
}

/// One frame: a run of windows of one image, and how to make them.
#[derive(Clone, Copy)]
pub struct Frame<'t> {
    pub(super) table: &'t FrameTable,
    pub(super) index: u32,
    pub(super) image: usize,
    pub(super) entry: Entry,
}

impl<'t> Frame<'t> {
    /// Place in the table.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// How it is made.
    pub const fn kind(&self) -> Kind {
        self.entry.kind
    }

    /// Index of its image, in the record and in [`FrameTable::images`].
    pub const fn image(&self) -> usize {
        self.image
    }

    /// The windows it makes, in its image.
    pub const fn windows(&self) -> Range<u32> {
        // The table keeps `first_window + windows` within the image's count, which is a u32.
        self.entry.first_window..self.entry.first_window + self.entry.windows
    }

    /// First byte of its output in the image.
    pub fn image_offset(&self) -> u64 {
        self.table.entry_of(self.image).map_or(0, |image| image.window_start(self.entry.first_window))
    }

    /// Bytes it makes: 1 to 1 MiB.
    pub fn output_len(&self) -> usize {
        usize::try_from(self.entry.output_len).unwrap_or(usize::MAX)
    }

    /// Where its blob is in the payload; an empty range when it has none.
    pub const fn blob(&self) -> Range<u64> {
        // Checked when the table was read: the last blob ends at the payload's total length.
        self.entry.blob_offset..self.entry.blob_offset + self.entry.blob_len as u64
    }

    /// What it leans on: empty for zero, raw and zstd.
    pub fn extents(&self) -> Extents<'t> {
        Extents::new(self.table.cursor_at(self.entry.extents_at), self.entry.extents, self.image_offset())
    }

    /// Windows of its own image that have to be right before it can be made, a run for each extent. They all lie below it.
    pub fn needs(&self) -> impl Iterator<Item = Range<u32>> + use<'t> {
        let window_size = self.table.entry_of(self.image).map_or(1, |image| u64::from(image.window_size));
        let window = move |offset: u64| u32::try_from(offset / window_size).unwrap_or(u32::MAX);
        let own = self.extents().filter(|extent| extent.source == Source::Target);
        own.map(move |extent| window(extent.offset)..window(extent.offset + extent.length - 1).saturating_add(1))
    }

    /// A source of its extents in messages: `source image 1 ("root")`.
    pub(crate) fn origin(&self, source: Source) -> String {
        let image = match source {
            Source::Target => None,
            Source::Image(index) => self.table.sources().get(usize::from(index)),
        };
        image.map_or_else(|| source.to_string(), |image| format!("{source} ({:?})", image.name))
    }

    /// Its name in messages.
    pub fn name(&self) -> FrameName {
        let image = self.table.entry_of(self.image).map_or_else(String::new, |image| image.name.clone());
        FrameName { index: self.index, image, windows: self.windows() }
    }
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of kind {}, blob {:?}", self.name(), self.kind(), self.blob())
    }
}

/// Names a frame in messages: `frame 3 (windows 12 to 15 of image "root")`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameName {
    /// Place in the table.
    pub index: u32,
    /// Image it belongs to.
    pub image: String,
    /// Windows it makes.
    pub windows: Range<u32>,
}

impl fmt::Display for FrameName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.windows.start, self.windows.end.saturating_sub(1));
        if first == last {
            write!(f, "frame {} (window {first} of image {:?})", self.index, self.image)
        } else {
            write!(f, "frame {} (windows {first} to {last} of image {:?})", self.index, self.image)
        }
    }
}
