//! Reading the frame table in one pass. Every rule of the format is checked here and nowhere else.

use manifests::digest::Sha256Digest;
use manifests::limits::{MAX_IMAGES, MAX_NAME_CHARS, MAX_WINDOWS};
use manifests::release::{SlotName, WindowTable};

use super::cursor::Cursor;
use super::frame::{Extent, Extents, FrameName, Kind, Source};
use super::header::Header;
use super::table::{Entry, ImageEntry};
use crate::error::Error;
use crate::limits::{MAX_BLOB_EXCESS_BYTES, MAX_EXTENTS, MAX_OUTPUT_BYTES, MAX_PREFIX_BYTES};

/// Fewest bytes a frame takes in the table: kind, windows, blob length, number of extents.
const MIN_FRAME_BYTES: usize = 4;

/// What a sound table says.
pub(super) struct Parsed {
    pub(super) images: Vec<ImageEntry>,
    pub(super) sources: Vec<ImageEntry>,
    pub(super) entries: Vec<Entry>,
    /// Index of the first frame of each image, then the number of frames.
    pub(super) starts: Vec<u32>,
}

/// The table's bytes, and what was read of them so far.
pub(super) struct Parser<'b> {
    cursor: Cursor<'b>,
    header: Header,
    images: Vec<ImageEntry>,
    sources: Vec<ImageEntry>,
    entries: Vec<Entry>,
    blob_offset: u64,
}

impl<'b> Parser<'b> {
    pub(super) fn new(header: Header, bytes: &'b [u8]) -> Self {
        Self {
            cursor: Cursor::new(bytes, 0),
            header,
            images: Vec::new(),
            sources: Vec::new(),
            entries: Vec::new(),
            blob_offset: header.table_range().end,
        }
    }

    pub(super) fn run(mut self) -> Result<Parsed, Error> {
        self.images = self.read_images("image", 0, 1)?;
        // Extents count them from 1.
        self.sources = self.read_images("source image", 1, 0)?;
        let promised = self.reserve_frames()?;
        let mut starts = Vec::with_capacity(self.images.len() + 1);
        for image in 0..self.images.len() {
            starts.push(self.frame_count());
            self.read_frames_of(image, promised)?;
        }
        starts.push(self.frame_count());
        self.check_end(promised)?;
        let Self { images, sources, entries, .. } = self;
        Ok(Parsed { images, sources, entries, starts })
    }

    /// Images, the first of which is called `what` `first` in messages.
    fn read_images(&mut self, what: &str, first: usize, fewest: usize) -> Result<Vec<ImageEntry>, Error> {
        let count = self.cursor.varint(&format!("number of {what}s"))?;
        let count = usize::try_from(count)
            .ok()
            .filter(|count| (fewest..=MAX_IMAGES).contains(count))
            .ok_or_else(|| Error::field(format!("number of {what}s"), format!("{fewest} to {MAX_IMAGES}"), count))?;
        let images =
            (first..first + count).map(|number| self.read_image(&format!("{what} {number}"))).collect::<Result<Vec<_>, _>>()?;
        let windows = images.iter().fold(0_u64, |sum, image| sum.saturating_add(image.window_count()));
        if windows > MAX_WINDOWS {
            return Err(Error::field(format!("windows of all {what}s"), format!("at most {MAX_WINDOWS}"), windows));
        }
        Ok(images)
    }

    fn read_image(&mut self, what: &str) -> Result<ImageEntry, Error> {
        let name = self.read_name(what)?;
        let slot = match self.cursor.byte(&format!("{what}: slot"))? {
            0 => None,
            1 => Some(SlotName::A),
            2 => Some(SlotName::B),
            other => return Err(Error::field(format!("{what}: slot"), "0, 1 or 2", other)),
        };
        let size = u64::from_le_bytes(self.cursor.array(&format!("{what}: size"))?);
        let window_size = u32::from_le_bytes(self.cursor.array(&format!("{what}: window size"))?);
        let table_sha256 = Sha256Digest::from_bytes(self.cursor.array(&format!("{what}: sha256 of its window table"))?);
        if size == 0 {
            return Err(Error::field(format!("{what}: size"), "1 or more", size));
        }
        let standard = WindowTable::standard_window_size(size);
        if window_size != standard {
            let expected = format!("{standard} for {size} bytes");
            return Err(Error::field(format!("{what}: window size"), expected, window_size));
        }
        Ok(ImageEntry { name, slot, size, window_size, table_sha256 })
    }

    fn read_name(&mut self, what: &str) -> Result<String, Error> {
        let length = usize::from(self.cursor.byte(&format!("{what}: length of its name"))?);
        let expected = format!("1 to {MAX_NAME_CHARS} printable ASCII characters without blanks");
        if length == 0 || length > MAX_NAME_CHARS {
            return Err(Error::field(format!("{what}: name"), expected, format!("{length} bytes")));
        }
        let bytes = self.cursor.take(length, &format!("{what}: name"))?;
        match std::str::from_utf8(bytes) {
            Ok(name) if name.bytes().all(|c| c.is_ascii_graphic()) => Ok(name.to_owned()),
            _ => Err(Error::field(format!("{what}: name"), expected, format!("{:?}", String::from_utf8_lossy(bytes)))),
        }
    }

    /// Reads the number of frames and makes room for them: never more than the windows there are or the bytes that are left.
    fn reserve_frames(&mut self) -> Result<usize, Error> {
        let count = self.cursor.varint("number of frames")?;
        let windows = self.images.iter().fold(0_u64, |sum, image| sum.saturating_add(image.window_count()));
        let by_bytes = self.cursor.left() / MIN_FRAME_BYTES;
        let count = usize::try_from(count)
            .ok()
            .filter(|frames| *frames <= by_bytes && u64::try_from(*frames).is_ok_and(|frames| frames <= windows))
            .ok_or_else(|| {
                let expected = format!("at most {windows} (the windows of all images) and {by_bytes} (the bytes left)");
                Error::field("number of frames", expected, count)
            })?;
        self.entries.reserve_exact(count);
        Ok(count)
    }

    fn read_frames_of(&mut self, image: usize, promised: usize) -> Result<(), Error> {
        let windows = self.images.get(image).map_or(0, ImageEntry::window_count);
        let mut next = 0_u32;
        while u64::from(next) < windows {
            if self.entries.len() >= promised {
                return Err(Error::field("number of frames", "a frame for every window", format!("{promised}, too few")));
            }
            let entry = self.read_frame(image, next, windows)?;
            next = next.saturating_add(entry.windows);
            self.entries.push(entry);
        }
        Ok(())
    }

    fn read_frame(&mut self, image: usize, first_window: u32, image_windows: u64) -> Result<Entry, Error> {
        let (kind, [windows, blob_len, extents]) =
            self.read_frame_head().map_err(|error| error.at(format_args!("frame {}", self.entries.len())))?;
        let at = |what: &str| format!("frame {} (from window {first_window} of image {image}): {what}", self.entries.len());
        let left = image_windows - u64::from(first_window);
        let Some(windows) = u32::try_from(windows).ok().filter(|count| *count > 0 && u64::from(*count) <= left) else {
            return Err(Error::field(at("windows"), format!("1 to {left}"), windows));
        };
        let Some(output_len) = self.output_len(image, first_window, windows) else {
            return Err(Error::field(at("output"), format!("at most {MAX_OUTPUT_BYTES} bytes"), format!("{windows} windows")));
        };
        let most = output_len + MAX_BLOB_EXCESS_BYTES;
        let Some(blob_len) = u32::try_from(blob_len).ok().filter(|len| *len <= most) else {
            return Err(Error::field(at("blob"), format!("at most {most} bytes"), blob_len));
        };
        let Some(extents) = u16::try_from(extents).ok().filter(|count| *count <= MAX_EXTENTS) else {
            return Err(Error::field(at("extents"), format!("at most {MAX_EXTENTS}"), extents));
        };
        let extents_at = u32::try_from(self.cursor.position()).unwrap_or(u32::MAX);
        let blob_offset = self.blob_offset;
        let entry = Entry { blob_offset, blob_len, output_len, first_window, windows, extents_at, extents, kind };
        let name = FrameName {
            index: self.frame_count(),
            image: self.images.get(image).map_or_else(String::new, |image| image.name.clone()),
            windows: first_window..first_window + windows,
        };
        let prefix = self.read_extents(image, &entry, &name)?;
        check_shape(&entry, prefix, &name)?;
        self.blob_offset = blob_offset.saturating_add(u64::from(blob_len));
        Ok(entry)
    }

    /// Its kind, and how many windows, bytes of a blob and extents it says it has.
    fn read_frame_head(&mut self) -> Result<(Kind, [u64; 3]), Error> {
        let kind = Kind::from_number(self.cursor.byte("kind")?);
        let windows = self.cursor.varint("windows")?;
        let blob_len = self.cursor.varint("length of its blob")?;
        Ok((kind, [windows, blob_len, self.cursor.varint("number of extents")?]))
    }

    fn output_len(&self, image: usize, first_window: u32, windows: u32) -> Option<u32> {
        let image = self.images.get(image)?;
        let end = image.window_start(first_window.checked_add(windows)?);
        let bytes = end.checked_sub(image.window_start(first_window))?;
        u32::try_from(bytes).ok().filter(|bytes| *bytes <= MAX_OUTPUT_BYTES)
    }

    /// Walks over the extents of a frame and adds up their bytes.
    fn read_extents(&mut self, image: usize, entry: &Entry, name: &FrameName) -> Result<u64, Error> {
        let output_offset = self.images.get(image).map_or(0, |image| image.window_start(entry.first_window));
        let mut extents = Extents::new(self.cursor, entry.extents, output_offset);
        let mut sum = 0_u64;
        while let Some(extent) = extents.read().map_err(|error| error.at(name))? {
            self.check_extent(&extent, output_offset, name)?;
            sum = sum.saturating_add(extent.length);
        }
        if sum > MAX_PREFIX_BYTES {
            return Err(Error::field(format!("{name}: bytes of all extents"), format!("at most {MAX_PREFIX_BYTES}"), sum));
        }
        self.cursor = extents.cursor();
        Ok(sum)
    }

    fn check_extent(&self, extent: &Extent, output_offset: u64, name: &FrameName) -> Result<(), Error> {
        let (limit, origin) = match extent.source {
            Source::Target => (output_offset, extent.source.to_string()),
            Source::Image(index) => {
                let Some(source) = self.sources.get(usize::from(index)) else {
                    let expected = match self.sources.len() {
                        0 => "0 (the image itself; the payload has no source images)".to_owned(),
                        count => format!("0 (the image itself) to {count} (the last source image)"),
                    };
                    return Err(Error::field(format!("{name}: source of an extent"), expected, u16::from(index) + 1));
                };
                (source.size, format!("{} ({:?})", extent.source, source.name))
            }
        };
        let fits = extent.offset.checked_add(extent.length).is_some_and(|end| end <= limit);
        if extent.length == 0 || !fits {
            let expected = format!("1 or more bytes below byte {limit} of {origin}");
            let got = format!("{} at byte {}", extent.length, extent.offset);
            return Err(Error::field(format!("{name}: extent"), expected, got));
        }
        Ok(())
    }

    fn frame_count(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    fn check_end(&self, promised: usize) -> Result<(), Error> {
        if self.entries.len() != promised {
            return Err(Error::field("number of frames", self.entries.len(), promised));
        }
        if self.cursor.left() != 0 {
            return Err(Error::field("frame table", "no bytes after the last frame", self.cursor.left()));
        }
        if self.blob_offset != self.header.total_len() {
            return Err(Error::field("header: length of the payload", self.blob_offset, self.header.total_len()));
        }
        Ok(())
    }
}

/// What each kind must have; a kind without a name here may have any shape within the caps.
fn check_shape(entry: &Entry, prefix: u64, name: &FrameName) -> Result<(), Error> {
    let (output, blob) = (entry.output_len, entry.blob_len);
    let rule = match entry.kind {
        Kind::Zero => (blob == 0 && entry.extents == 0, "no blob and no extents"),
        Kind::Raw => (blob == output && entry.extents == 0, "a blob as long as its output and no extents"),
        Kind::Zstd => (blob > 0 && entry.extents == 0, "a blob and no extents"),
        Kind::Copy => (blob == 0 && prefix == u64::from(output), "no blob and extents as long as its output"),
        Kind::ZstdPrefix | Kind::Difference => (blob > 0 && prefix > 0, "a blob and extents"),
        Kind::Unknown(_) => (true, ""),
    };
    if rule.0 {
        return Ok(());
    }
    let got = format!("a blob of {blob} bytes and {} extents of {prefix} bytes for {output} bytes of output", entry.extents);
    Err(Error::field(format!("{name}: kind {}", entry.kind), rule.1, got))
}
