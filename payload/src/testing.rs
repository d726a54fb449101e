//! What the tests of this crate share: images that look like disks, releases signed for them, payloads made by hand.

use std::io::Cursor;
use std::num::{NonZeroU32, NonZeroUsize};

use manifests::digest::Sha256Digest;
use manifests::keyring::{Keyring, SecretKey};
use manifests::release::{Envelope, Image, Record, Release, WindowTable};
use manifests::version::{Sequence, Version};

use crate::apply::{self, Checked, Keep, Sources};
use crate::build::{self, Built, Options};
use crate::format::{FrameTable, ImageEntry, NewFrame, Source, encode_payload_front};
use crate::window::ReadAt as _;

pub(crate) const WINDOW: usize = 256 * 1024;

/// Numbers that look random and are the same each time.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(count).collect()
    }
}

/// An image of `size` bytes in stretches of 64 KiB: holes, text that compresses, and noise that does not.
pub(crate) fn disk_like(seed: u64, size: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut image = Vec::with_capacity(size);
    while image.len() < size {
        match dice.below(4) {
            0 => image.extend(vec![0; 64 * 1024]),
            1 => image.extend(dice.bytes(64 * 1024)),
            _ => (0..4096).for_each(|_| image.extend(format!("line {:010}\n", dice.below(1000)).bytes())),
        }
    }
    image.truncate(size);
    image
}

pub(crate) fn table_of(image: &[u8]) -> WindowTable {
    let window = WindowTable::standard_window_size(image.len() as u64) as usize;
    WindowTable::new(image.len() as u64, image.chunks(window).map(Sha256Digest::of).collect()).unwrap()
}

pub(crate) fn record(images: &[(&str, &[u8])]) -> Record {
    let image = |(name, bytes): &(&str, &[u8])| Image { name: (*name).into(), slot: None, table: table_of(bytes), verity: None };
    Record {
        product: "{test}".into(),
        arch: "x86_64".into(),
        board: "test".into(),
        version: Version::parse("1.0.0").unwrap(),
        sequence: Sequence::new(1).unwrap(),
        created: "2026-01-01T00:00:00Z".parse().unwrap(),
        not_below: Sequence::ZERO,
        minimum_source: None,
        channels: vec![],
        urgent: false,
        revoked_keys: vec![],
        payload_table_sha256: None,
        notes: None,
        images: images.iter().map(image).collect(),
    }
}

/// A release of these images whose signature was checked.
pub(crate) fn release(images: &[(&str, &[u8])]) -> Release {
    let key = SecretKey::from_seed(&[3; 32]);
    let mut envelope = Envelope::unsigned(&record(images)).unwrap();
    envelope.sign(&key).unwrap();
    envelope.verify(&Keyring::new([("test.pub".into(), key.public())], NonZeroU32::MIN, &[]).unwrap()).unwrap()
}

pub(crate) fn options(threads: usize, frame_windows: u32) -> Options {
    Options { level: 3, threads: NonZeroUsize::new(threads).unwrap(), frame_windows: NonZeroU32::new(frame_windows).unwrap() }
}

/// A full payload of these images.
pub(crate) fn full(images: &[(&str, &[u8])], options: &Options) -> (Vec<u8>, Built) {
    let data: Vec<Vec<u8>> = images.iter().map(|(_, bytes)| bytes.to_vec()).collect();
    let sources: Vec<build::Image<'_>> = images
        .iter()
        .zip(&data)
        .map(|((name, _), data)| build::Image { name, slot: None, size: data.len() as u64, data })
        .collect();
    let (mut spool, mut out) = (Cursor::new(Vec::new()), Vec::new());
    let built = build::full(&sources, options, &mut spool, &mut out, &mut |_| {}).unwrap();
    (out, built)
}

/// What frames lean on: source images by their order, and the images that are made as if they were done.
pub(crate) struct Slots<'a> {
    pub(crate) old: &'a [(&'a str, &'a [u8])],
    pub(crate) new: &'a [(&'a str, &'a [u8])],
}

impl Sources for Slots<'_> {
    fn read(&self, source: Source, image: usize, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let bytes = match source {
            Source::Target => self.new.get(image),
            Source::Image(index) => self.old.get(usize::from(index)),
        };
        bytes.ok_or(std::io::ErrorKind::NotFound)?.1.read_exact_at(buffer, offset)
    }
}

/// Checks a payload that is made of these bytes, as [`crate::apply::check`] does.
pub(crate) fn check(
    record: &Record,
    table: &FrameTable,
    payload: &[u8],
    old: &[(&str, &[u8])],
    threads: NonZeroUsize,
    progress: &mut dyn FnMut(u64),
) -> Checked {
    let scratch = tempfile::tempfile().unwrap();
    apply::check(record, table, &payload, &Slots { old, new: &[] }, (&scratch, Keep::LeanedOn), threads, progress).unwrap()
}

/// A delta from one set of images to another.
pub(crate) fn delta(old: &[(&str, &[u8])], new: &[(&str, &[u8])], options: &Options) -> (Vec<u8>, Built) {
    let tables: Vec<WindowTable> = old.iter().map(|(_, bytes)| table_of(bytes)).collect();
    fn image<'a>((name, bytes): &(&'a str, &'a [u8]), data: &'a &'a [u8]) -> build::Image<'a> {
        build::Image { name, slot: None, size: bytes.len() as u64, data }
    }
    let sources: Vec<_> = old.iter().zip(&tables).map(|(named, table)| (image(named, &named.1), table)).collect();
    let images: Vec<_> = new.iter().map(|named| image(named, &named.1)).collect();
    let (mut spool, mut out) = (Cursor::new(Vec::new()), Vec::new());
    let built = build::delta(&sources, &images, options, &mut spool, &mut out, &mut |_| {}).unwrap();
    (out, built)
}

pub(crate) fn entry(name: &str, image: &[u8]) -> ImageEntry {
    let table = table_of(image);
    ImageEntry {
        name: name.into(),
        slot: None,
        size: table.image_size(),
        window_size: table.window_size(),
        table_sha256: table.sha256(),
    }
}

/// A payload of hand-made frames, each with its blob.
pub(crate) fn by_hand(images: &[ImageEntry], sources: &[ImageEntry], frames: Vec<(NewFrame, Vec<u8>)>) -> Vec<u8> {
    let (frames, blobs): (Vec<_>, Vec<_>) =
        frames.into_iter().map(|(frame, blob)| (NewFrame { blob_len: blob.len() as u64, ..frame }, blob)).unzip();
    let (mut bytes, _) = encode_payload_front(images, sources, &frames).unwrap();
    bytes.extend(blobs.concat());
    bytes
}

/// Writes the digest of the frame table into the header again, as a hostile maker would after changing the table.
pub(crate) fn reseal(payload: &mut [u8]) {
    let length = u64::from_le_bytes(payload[16..24].try_into().unwrap()) as usize;
    let digest = payload.get(64..64_usize.saturating_add(length)).map(Sha256Digest::of);
    if let Some(digest) = digest {
        payload[32..64].copy_from_slice(digest.as_bytes());
    }
}
