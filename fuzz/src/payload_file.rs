//! Payloads: a table that is accepted is sound and has one spelling only; whatever verifies is the image that was signed.

use std::io;
use std::sync::{Arc, LazyLock};

use manifests::digest::Sha256Digest;
use manifests::release::{Image, Record, Release, SlotName, WindowTable};
use payload::Error;
use payload::apply::{Decoder, Sources, needed};
use payload::format::{Extent, Frame, FrameTable, Header, ImageEntry, Source};
use payload::limits::{HEADER_BYTES, MAX_OUTPUT_BYTES, MAX_PREFIX_BYTES};
use payload::window::{ReadAt, Verified, WindowSet};

use crate::record;

/// Longest payload that is filled up with zeros when its blobs are cut short.
const MAX_FILLED_BYTES: u64 = 1 << 20;

/// A frame as this encoder writes it.
#[derive(Clone, Debug)]
pub struct PlainFrame {
    /// Kind, as on disk.
    pub kind: u8,
    /// First byte of its output in its image.
    pub output_offset: u64,
    /// Windows it makes.
    pub windows: u64,
    /// Bytes of its blob.
    pub blob_len: u64,
    /// What it leans on.
    pub extents: Vec<Extent>,
}

/// A whole front of a payload or, without the magic, a frame table whose header is made for it.
pub fn frame_table(data: &[u8]) {
    let table = if data.starts_with(b"OTAPAYLD") {
        let Ok(header) = Header::parse(data) else { return };
        assert!(header.total_len() >= header.table_range().end);
        let bytes = data.get(HEADER_BYTES..).unwrap_or_default().to_vec();
        let length = u64::try_from(data.len()).expect("a length");
        if let Ok(table) = FrameTable::read(&data.to_vec(), length, RELEASE.record()) {
            assert_eq!(table.header().total_len(), length);
            check_sound(&table);
        }
        FrameTable::parse_unbound(header, bytes).ok()
    } else {
        parse_mended(data, FrameTable::parse_unbound)
    };
    let Some(table) = table else { return };
    check_sound(&table);
    let range = table.header().table_range();
    let start = if data.starts_with(b"OTAPAYLD") { HEADER_BYTES } else { 0 };
    let length = usize::try_from(range.end - range.start).expect("at most 8 MiB");
    assert!(
        encode_table(table.images(), table.sources(), &plain(&table)) == data[start..start + length],
        "two spellings of one table"
    );
}

/// The frames and blobs of a payload for a fixed release: two bytes for the length of the frames, frames, blobs. Images and
/// header are put before them, so that only what a host decodes is fuzzed.
pub fn decode(data: &[u8]) {
    let _verified = verified_frames(data);
}

/// How many frames of such a payload verify; `None` when its table is refused.
pub fn verified_frames(data: &[u8]) -> Option<usize> {
    let (table, file) = whole_file(data, &SOURCE_ENTRIES)?;
    check_sound(&table);
    let mut decoder = Decoder::new().expect("memory for a decoder");
    Some(table.frames().filter(|frame| verifies(&mut decoder, frame, &file)).count())
}

/// The payload that such frames and blobs make together with these sources; `None` when its table is refused.
pub fn whole_file(data: &[u8], sources: &[ImageEntry]) -> Option<(FrameTable, Vec<u8>)> {
    let (length, rest) = data.split_first_chunk()?;
    let (frames, blobs) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
    let bytes = [&encode_images(&IMAGE_ENTRIES, sources), frames].concat();
    let table = parse_mended(&bytes, |header, table| FrameTable::parse(header, table, RELEASE.record()))?;
    let total = table.header().total_len();
    if total - table.header().table_range().end > MAX_FILLED_BYTES {
        return None;
    }
    let mut file = [header(&bytes, total), bytes, blobs.to_vec()].concat();
    file.resize(usize::try_from(total).expect("at most 9 MiB"), 0);
    Some((table, file))
}

/// One blob of a frame that makes the whole second image: a byte for the kind, four for a prefix, then the blob.
pub fn blob(data: &[u8]) {
    let Some((&[which, a, b, c, d], blob)) = data.split_first_chunk() else { return };
    let image = &IMAGES[1];
    let old = u64::try_from(OLD.len()).expect("a length");
    let offset = u64::from(u16::from_be_bytes([a, b])) % old;
    let extent =
        Extent { source: Source::Image(0), offset, length: (u64::from(u16::from_be_bytes([c, d])) + 1).min(old - offset) };
    let (kind, extents) = match which % 4 {
        0 => (2, Vec::new()),
        1 => (4, vec![extent]),
        _ => (5, vec![extent]),
    };
    let blob_len = u64::try_from(blob.len()).expect("a length");
    let zeros = PlainFrame { kind: 0, output_offset: 0, windows: 2, blob_len: 0, extents: Vec::new() };
    let frame = PlainFrame { kind, output_offset: 0, windows: 1, blob_len, extents };
    let bytes = encode_table(&IMAGE_ENTRIES, &SOURCE_ENTRIES, &[zeros, frame]);
    let Some(table) = parse_mended(&bytes, |header, table| FrameTable::parse(header, table, RELEASE.record())) else { return };
    let frame = table.frame(1).expect("the second frame");
    let mut out = vec![0xA5; frame.output_len()];
    if Decoder::new().expect("memory for a decoder").decode(&frame, blob, &Honest, &mut out).is_err() {
        return;
    }
    let is_right = out == *image;
    assert_eq!(Verified::check(&RELEASE, 1, 0..1, out).is_ok(), is_right);
}

fn verifies(decoder: &mut Decoder, frame: &Frame<'_>, file: &[u8]) -> bool {
    let blob = frame.blob();
    let (start, end) = (usize::try_from(blob.start).expect("in the file"), usize::try_from(blob.end).expect("in the file"));
    let mut out = vec![0xA5; frame.output_len()];
    if decoder.decode(frame, &file[start..end], &Honest, &mut out).is_err() {
        return false;
    }
    let image = &IMAGES[frame.image()];
    let place = usize::try_from(frame.image_offset()).expect("in the image");
    let is_right = out == image[place..place + out.len()];
    match Verified::check(&RELEASE, frame.image(), frame.windows(), out) {
        Ok(verified) => {
            assert!(is_right, "wrong bytes of {} verified", frame.name());
            assert_eq!((verified.image_offset(), verified.windows()), (frame.image_offset(), frame.windows()));
        }
        Err(mismatch) => {
            assert!(!is_right, "right bytes of {} refused: {mismatch}", frame.name());
            assert!(!mismatch.wrong().is_empty());
            for right in mismatch.right() {
                let place = usize::try_from(right.image_offset()).expect("in the image");
                assert!(right.bytes() == &image[place..place + right.bytes().len()], "wrong bytes among the right ones");
            }
        }
    }
    is_right
}

/// Whatever was accepted obeys the format's promises to its users.
fn check_sound(table: &FrameTable) {
    let mut next_blob = table.header().table_range().end;
    let mut index = 0;
    for (number, image) in table.images().iter().enumerate() {
        let mut next_window = 0;
        for frame in table.frames_of(number) {
            assert_eq!((frame.index(), frame.image()), (index, number));
            assert_eq!((frame.windows().start, frame.blob().start), (next_window, next_blob));
            assert!((1..=MAX_OUTPUT_BYTES as usize).contains(&frame.output_len()));
            assert!(frame.extents().map(|extent| extent.length).sum::<u64>() <= MAX_PREFIX_BYTES);
            frame.extents().for_each(|extent| check_extent(table, &frame, extent));
            for window in frame.windows() {
                assert_eq!(table.frame_of(number, window).map(|found| found.index()), Some(index));
            }
            (next_window, next_blob, index) = (frame.windows().end, frame.blob().end, index + 1);
        }
        assert_eq!(u64::from(next_window), image.window_count());
        assert!(table.frame_of(number, next_window).is_none());
    }
    assert_eq!((next_blob, index), (table.header().total_len(), table.len()));
    check_needed(table);
}

fn check_extent(table: &FrameTable, frame: &Frame<'_>, extent: Extent) {
    let limit = match extent.source {
        Source::Target => frame.image_offset(),
        Source::Image(source) => table.sources()[usize::from(source)].size,
    };
    assert!(extent.length > 0 && extent.offset.checked_add(extent.length).is_some_and(|end| end <= limit), "{extent:?}");
}

/// Frames are needed for their windows, and in order.
fn check_needed(table: &FrameTable) {
    for (number, image) in table.images().iter().enumerate() {
        let count = u32::try_from(image.window_count()).expect("at most 131,072");
        let missing: WindowSet = (0..count).filter(|window| window % 3 != 1).collect();
        let frames: Vec<u32> = needed(table, number, &missing).iter().map(Frame::index).collect();
        let makes_one = |frame: &Frame<'_>| frame.windows().any(|window| window % 3 != 1);
        assert_eq!(frames, table.frames_of(number).filter(makes_one).map(|frame| frame.index()).collect::<Vec<_>>());
    }
}

/// A frame table by the format's documentation.
pub fn encode_table(images: &[ImageEntry], sources: &[ImageEntry], frames: &[PlainFrame]) -> Vec<u8> {
    let mut table = encode_images(images, sources);
    table.extend(encode_frames(frames));
    table
}

/// The part of it that a payload for [`decode`] has: the number of frames, and the frames.
pub fn encode_frames(frames: &[PlainFrame]) -> Vec<u8> {
    let mut out = Vec::new();
    push_varint(&mut out, frames.len() as u64);
    for frame in frames {
        out.push(frame.kind);
        push_varint(&mut out, frame.windows);
        push_varint(&mut out, frame.blob_len);
        push_varint(&mut out, frame.extents.len() as u64);
        let mut expected = i128::from(frame.output_offset);
        for extent in &frame.extents {
            let source = match extent.source {
                Source::Target => 0,
                Source::Image(index) => u64::from(index) + 1,
            };
            push_varint(&mut out, source);
            let step = i128::from(extent.offset) - expected;
            let zigzag = if step < 0 { -2 * step - 1 } else { 2 * step };
            push_varint(&mut out, u64::try_from(zigzag).expect("a step of 64 bits"));
            push_varint(&mut out, extent.length);
            expected = i128::from(extent.offset) + i128::from(extent.length);
        }
    }
    out
}

fn encode_images(images: &[ImageEntry], sources: &[ImageEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    for list in [images, sources] {
        push_varint(&mut out, list.len() as u64);
        for image in list {
            out.push(u8::try_from(image.name.len()).expect("at most 64"));
            out.extend(image.name.bytes());
            out.push(match image.slot {
                None => 0,
                Some(SlotName::A) => 1,
                Some(SlotName::B) => 2,
            });
            out.extend(image.size.to_le_bytes());
            out.extend(image.window_size.to_le_bytes());
            out.extend(image.table_sha256.as_bytes());
        }
    }
    out
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn plain(table: &FrameTable) -> Vec<PlainFrame> {
    let frame = |frame: Frame<'_>| PlainFrame {
        kind: frame.kind().number(),
        output_offset: frame.image_offset(),
        windows: u64::from(frame.windows().end - frame.windows().start),
        blob_len: frame.blob().end - frame.blob().start,
        extents: frame.extents().collect(),
    };
    table.frames().map(frame).collect()
}

/// Parses table bytes under a header made for them. Its last number, the length of the payload, only the parser knows; it says
/// what it expected.
fn parse_mended(table: &[u8], parse: impl Fn(Header, Vec<u8>) -> Result<FrameTable, Error>) -> Option<FrameTable> {
    let parse = |total| Some(parse(Header::parse(&header(table, total)).ok()?, table.to_vec()));
    match parse(u64::try_from(HEADER_BYTES + table.len()).expect("a length"))? {
        Ok(table) => Some(table),
        Err(Error::Field { what, expected, .. }) if what == "header: length of the payload" => {
            parse(expected.parse().ok()?)?.ok()
        }
        Err(_) => None,
    }
}

/// A header by the format's documentation.
pub fn header(table: &[u8], total: u64) -> Vec<u8> {
    let mut bytes = b"OTAPAYLD\x01\0\0\0\0\0\0\0".to_vec();
    bytes.extend((table.len() as u64).to_le_bytes());
    bytes.extend(total.to_le_bytes());
    bytes.extend(Sha256Digest::of(table).as_bytes());
    bytes
}

/// The images of the release: one of two windows with text, zeros and noise, and a small one.
pub static IMAGES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let mut root = text(70_000);
    root.resize(262_144, 0);
    root.extend(noise(3_000));
    root.extend(text(4_000));
    [root, [noise(500), text(4_500)].concat()]
});

/// The source image that frames may lean on: much of both images, elsewhere.
pub static OLD: LazyLock<Vec<u8>> =
    LazyLock::new(|| [&noise(500), &IMAGES[1][..], &IMAGES[0][262_000..], &IMAGES[0][..30_000]].concat());

static IMAGE_ENTRIES: LazyLock<Vec<ImageEntry>> = LazyLock::new(|| RELEASE.record().images.iter().map(entry_of).collect());

static SOURCE_ENTRIES: LazyLock<Vec<ImageEntry>> = LazyLock::new(|| vec![entry_of(&image("root", &OLD))]);

/// The release whose payloads these are.
pub static RELEASE: LazyLock<Arc<Release>> = LazyLock::new(|| {
    let images = ["root", "boot"].into_iter().zip(IMAGES.iter()).map(|(name, bytes)| image(name, bytes)).collect();
    let record = Record { images, ..record::samples().remove(0) };
    Arc::new(record::signed(&record).verify(&record::keyring()).expect("signed by both keys"))
});

/// The entries that stand before the frames of [`decode`]: images, then sources.
pub fn entries() -> (&'static [ImageEntry], &'static [ImageEntry]) {
    (&IMAGE_ENTRIES, &SOURCE_ENTRIES)
}

fn image(name: &str, bytes: &[u8]) -> Image {
    let size = bytes.len() as u64;
    let window = WindowTable::standard_window_size(size) as usize;
    let table = WindowTable::new(size, bytes.chunks(window).map(Sha256Digest::of).collect()).expect("a table");
    Image { name: name.into(), slot: None, table, verity: None }
}

fn entry_of(image: &Image) -> ImageEntry {
    ImageEntry {
        name: image.name.clone(),
        slot: image.slot,
        size: image.table.image_size(),
        window_size: image.table.window_size(),
        table_sha256: image.table.sha256(),
    }
}

fn text(length: usize) -> Vec<u8> {
    (0..).flat_map(|line: u32| format!("line {} of a file\n", line * line % 97).into_bytes()).take(length).collect()
}

/// Bytes that look random and are the same each time (an xorshift generator).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

/// The true bytes of whatever a frame leans on.
struct Honest;

impl Sources for Honest {
    fn read(&self, source: Source, image: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match source {
            Source::Target => IMAGES[image].read_exact_at(buffer, offset),
            Source::Image(_) => OLD.read_exact_at(buffer, offset),
        }
    }
}
