//! Full payloads: every frame stands alone, as zeros, as stored bytes or as a zstd frame, whatever is smallest.

use std::io::{Read, Seek, SeekFrom, Write};

use manifests::digest::{Sha256Digest, is_zero};
use manifests::limits::{MAX_IMAGES, MAX_WINDOWS};
use manifests::release::WindowTable;
use zstd::zstd_safe::{CCtx, CParameter, compress_bound, get_error_name};

use super::{Built, Image, Options, Progress};
use crate::apply::ZstdDecoder;
use crate::error::Error;
use crate::format::{ImageEntry, Kind, NewFrame, encode_payload_front};
use crate::limits::MAX_OUTPUT_BYTES;
use crate::parallel;
use crate::window::{checked_count, read_piece};

/// Builds the full payload of `images`, which become the record's images in this order, and writes it to `out` front to back.
/// `spool` is empty and takes the blobs meanwhile. Each byte of an image is read once.
pub fn full<S: Read + Write + Seek, W: Write>(
    images: &[Image<'_>],
    options: &Options,
    spool: &mut S,
    out: &mut W,
    progress: &mut dyn FnMut(Progress),
) -> Result<Built, Error> {
    let plan = Plan::new(images, options)?;
    let mut collected = Collected::new(&plan);
    parallel::ordered(
        plan.count,
        options.threads,
        || Encoder::new(options.level),
        |encoder, index| encoder.encode(&plan.piece(index)?),
        |index, piece| {
            spool.write_all(&piece.blob).map_err(|source| Error::Write { step: "blobs to the spool", source })?;
            collected.add(&plan.piece(index)?, piece);
            progress(collected.progress);
            Ok(())
        },
    )?;
    let (built, front) = collected.finish(images)?;
    write_payload(&front, spool, out)?;
    Ok(built)
}

fn write_payload<S: Read + Seek, W: Write>(front: &[u8], spool: &mut S, out: &mut W) -> Result<(), Error> {
    let write = |step| move |source| Error::Write { step, source };
    out.write_all(front).map_err(write("frame table"))?;
    spool.seek(SeekFrom::Start(0)).map_err(write("rewinding the spool"))?;
    std::io::copy(spool, out).map_err(write("blobs from the spool"))?;
    out.flush().map_err(write("the last bytes"))
}

/// How the images are cut into frames: each image from its start, `frame_windows` at a time.
struct Plan<'a> {
    images: Vec<PlannedImage<'a>>,
    count: u64,
}

struct PlannedImage<'a> {
    image: Image<'a>,
    /// Number of its first frame.
    first: u64,
    windows: u64,
    window_size: u32,
    frame_windows: u32,
}

/// One frame to be made.
struct Piece<'a> {
    image: Image<'a>,
    image_index: usize,
    offset: u64,
    length: u64,
    windows: u32,
    window_size: u32,
}

impl<'a> Plan<'a> {
    fn new(images: &[Image<'a>], options: &Options) -> Result<Self, Error> {
        if images.is_empty() || images.len() > MAX_IMAGES {
            return Err(Error::field("number of images", format!("1 to {MAX_IMAGES}"), images.len()));
        }
        let (mut planned, mut count, mut windows) = (Vec::new(), 0_u64, 0_u64);
        for image in images {
            let image = PlannedImage::new(*image, count, options)?;
            count += image.frames();
            windows += image.windows;
            planned.push(image);
        }
        if windows > MAX_WINDOWS {
            return Err(Error::field("windows of all images", format!("at most {MAX_WINDOWS}"), windows));
        }
        Ok(Self { images: planned, count })
    }

    fn piece(&self, index: u64) -> Result<Piece<'a>, Error> {
        let at = self.images.partition_point(|image| image.first <= index).checked_sub(1);
        at.and_then(|at| self.images.get(at)?.piece(at, index))
            .ok_or_else(|| Error::field("frame", format!("below {}", self.count), index))
    }
}

impl<'a> PlannedImage<'a> {
    fn new(image: Image<'a>, first: u64, options: &Options) -> Result<Self, Error> {
        let windows = checked_count(image.name, image.size)?;
        let window_size = WindowTable::standard_window_size(image.size);
        let frame_windows = options.frame_windows.get().min(MAX_OUTPUT_BYTES / window_size);
        Ok(Self { image, first, windows, window_size, frame_windows })
    }

    fn frames(&self) -> u64 {
        self.windows.div_ceil(u64::from(self.frame_windows))
    }

    fn piece(&self, image_index: usize, index: u64) -> Option<Piece<'a>> {
        let first_window = index.checked_sub(self.first)?.checked_mul(u64::from(self.frame_windows))?;
        let left = self.windows.checked_sub(first_window).filter(|left| *left > 0)?;
        let windows = u32::try_from(left).map_or(self.frame_windows, |left| left.min(self.frame_windows));
        let offset = first_window * u64::from(self.window_size);
        let length = (u64::from(windows) * u64::from(self.window_size)).min(self.image.size - offset);
        Some(Piece { image: self.image, image_index, offset, length, windows, window_size: self.window_size })
    }
}

/// What a worker made of a piece.
struct Encoded {
    kind: Kind,
    blob: Vec<u8>,
    digests: Vec<Sha256Digest>,
}

/// A worker's codec and buffers.
struct Encoder {
    zstd: CCtx<'static>,
    decoder: ZstdDecoder,
    input: Vec<u8>,
    decoded: Vec<u8>,
}

impl Encoder {
    fn new(level: i32) -> Result<Self, Error> {
        if !(1..=22).contains(&level) {
            return Err(Error::codec(format!("expected a level from 1 to 22, got {level}")));
        }
        let mut zstd = CCtx::try_create().ok_or_else(|| Error::codec("cannot allocate a compression context"))?;
        for parameter in [CParameter::CompressionLevel(level), CParameter::ContentSizeFlag(true), CParameter::ChecksumFlag(false)]
        {
            zstd.set_parameter(parameter).map_err(|code| Error::codec(get_error_name(code)))?;
        }
        Ok(Self { zstd, decoder: ZstdDecoder::new()?, input: Vec::new(), decoded: Vec::new() })
    }

    fn encode(&mut self, piece: &Piece<'_>) -> Result<Encoded, Error> {
        read_piece(piece.image.name, piece.image.data, piece.offset, piece.length, &mut self.input)?;
        let window_size = usize::try_from(piece.window_size).unwrap_or(usize::MAX);
        let digests = self.input.chunks(window_size).map(Sha256Digest::of_window).collect();
        if is_zero(&self.input) {
            return Ok(Encoded { kind: Kind::Zero, blob: Vec::new(), digests });
        }
        let mut blob = Vec::with_capacity(compress_bound(self.input.len()));
        self.zstd.compress2(&mut blob, &self.input).map_err(|code| Error::codec(get_error_name(code)))?;
        self.check(piece, &blob)?;
        if blob.len() >= self.input.len() {
            return Ok(Encoded { kind: Kind::Raw, blob: self.input.clone(), digests });
        }
        blob.shrink_to_fit();
        Ok(Encoded { kind: Kind::Zstd, blob, digests })
    }

    /// Decodes what was just made: a blob that a host could not use never reaches it.
    fn check(&mut self, piece: &Piece<'_>, blob: &[u8]) -> Result<(), Error> {
        self.decoded.resize(self.input.len(), 0);
        if self.decoder.decode(blob, &mut self.decoded).is_ok() && self.decoded == self.input {
            return Ok(());
        }
        Err(Error::SelfCheck { image: piece.image.name.to_owned(), offset: piece.offset })
    }
}

/// Frames and digests in order, as the pieces come in.
struct Collected {
    frames: Vec<NewFrame>,
    digests: Vec<Vec<Sha256Digest>>,
    progress: Progress,
}

impl Collected {
    fn new(plan: &Plan<'_>) -> Self {
        let total = plan.images.iter().map(|image| image.image.size).sum();
        let digests = plan.images.iter().map(|_| Vec::new()).collect();
        Self { frames: Vec::new(), digests, progress: Progress { done: 0, total, blobs: 0 } }
    }

    fn add(&mut self, piece: &Piece<'_>, made: Encoded) {
        let blob_len = u64::try_from(made.blob.len()).unwrap_or(u64::MAX);
        if let Some(digests) = self.digests.get_mut(piece.image_index) {
            digests.extend(made.digests);
        }
        self.frames.push(NewFrame {
            kind: made.kind,
            output_offset: piece.offset,
            windows: piece.windows,
            blob_len,
            extents: Vec::new(),
        });
        self.progress.done += piece.length;
        self.progress.blobs += blob_len;
    }

    fn finish(self, images: &[Image<'_>]) -> Result<(Built, Vec<u8>), Error> {
        let (mut windows, mut entries) = (Vec::new(), Vec::new());
        for (image, digests) in images.iter().zip(self.digests) {
            let table = WindowTable::new(image.size, digests)
                .map_err(|error| Error::field(format!("image {:?}", image.name), "a size within the limits", error))?;
            entries.push(ImageEntry {
                name: image.name.to_owned(),
                slot: image.slot,
                size: image.size,
                window_size: table.window_size(),
                table_sha256: table.sha256(),
            });
            windows.push(table);
        }
        let (front, table) = encode_payload_front(&entries, &[], &self.frames)?;
        Ok((Built { windows, table }, front))
    }
}
