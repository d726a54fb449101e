//! From frames in order to the file: neighbours of a kind are one, blobs wait in the spool, and the frame table goes before them.

use std::io::{Read, Seek, SeekFrom, Write};

use manifests::digest::Sha256Digest;
use manifests::release::WindowTable;

use super::encode::{Encoded, Encoder};
use super::lean::Leanings;
use super::plan::{Piece, Plan};
use super::{Built, Image, Options, Phase, Progress};
use crate::error::Error;
use crate::format::{Extent, ImageEntry, Kind, NewFrame, encode_payload_front};
use crate::limits::{MAX_EXTENTS, MAX_OUTPUT_BYTES};
use crate::parallel;

/// What is to be made, and of what.
pub(super) struct Work<'w, 'a> {
    pub(super) images: &'w [Image<'a>],
    pub(super) sources: &'w [ImageEntry],
    pub(super) plan: &'w Plan<'a>,
    pub(super) leanings: &'w Leanings<'a>,
    pub(super) options: &'w Options,
}

/// Encodes every piece of the plan and writes the payload to `out`, front to back.
pub(super) fn payload<S: Read + Write + Seek, W: Write>(
    work: &Work<'_, '_>,
    spool: &mut S,
    out: &mut W,
    progress: &mut dyn FnMut(Progress),
) -> Result<Built, Error> {
    let mut collected = Collected::new(work.images);
    parallel::ordered(
        work.plan.count,
        work.options.threads,
        || Encoder::new(work.options.level),
        |encoder, index| encoder.encode(&work.plan.piece(index)?, work.leanings),
        |index, made| {
            spool.write_all(&made.blob).map_err(|source| Error::Write { step: "blobs to the spool", source })?;
            collected.add(&work.plan.piece(index)?, made);
            progress(collected.progress);
            Ok(())
        },
    )?;
    let (built, front) = collected.finish(work.images, work.sources)?;
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

/// Frames and digests in order, as the pieces come in.
struct Collected {
    frames: Vec<NewFrame>,
    /// Image of the last frame, and bytes it makes.
    last: (usize, u64),
    digests: Vec<Vec<Sha256Digest>>,
    progress: Progress,
}

impl Collected {
    fn new(images: &[Image<'_>]) -> Self {
        let total = images.iter().map(|image| image.size).sum();
        let digests = images.iter().map(|_| Vec::new()).collect();
        Self { frames: Vec::new(), last: (0, 0), digests, progress: Progress { phase: Phase::Making, done: 0, total, blobs: 0 } }
    }

    fn add(&mut self, piece: &Piece<'_>, made: Encoded) {
        let blob_len = u64::try_from(made.blob.len()).unwrap_or(u64::MAX);
        if let Some(digests) = self.digests.get_mut(piece.image_index) {
            digests.extend(made.digests);
        }
        self.progress.done += piece.length;
        self.progress.blobs += blob_len;
        if self.goes_on(piece, made.kind, &made.extents) {
            return;
        }
        self.last = (piece.image_index, piece.length);
        self.frames.push(NewFrame {
            kind: made.kind,
            output_offset: piece.offset,
            windows: piece.windows,
            blob_len,
            extents: made.extents,
        });
    }

    /// Zeros behind zeros and copies behind copies are one frame, as far as that goes.
    fn goes_on(&mut self, piece: &Piece<'_>, kind: Kind, extents: &[Extent]) -> bool {
        let (image, length) = self.last;
        let fits = image == piece.image_index && length + piece.length <= u64::from(MAX_OUTPUT_BYTES);
        let Some(last) = self.frames.last_mut().filter(|last| fits && last.kind == kind) else { return false };
        if !matches!(kind, Kind::Zero | Kind::Copy) || last.extents.len() + extents.len() > usize::from(MAX_EXTENTS) {
            return false;
        }
        last.windows += piece.windows;
        for extent in extents {
            match last.extents.last_mut() {
                Some(before) if before.source == extent.source && before.offset + before.length == extent.offset => {
                    before.length += extent.length;
                }
                _ => last.extents.push(*extent),
            }
        }
        self.last.1 += piece.length;
        true
    }

    fn finish(self, images: &[Image<'_>], sources: &[ImageEntry]) -> Result<(Built, Vec<u8>), Error> {
        let (mut windows, mut entries) = (Vec::new(), Vec::new());
        for (image, digests) in images.iter().zip(self.digests) {
            let table = WindowTable::new(image.size, digests)
                .map_err(|error| Error::field(format!("image {:?}", image.name), "a size within the limits", error))?;
            entries.push(ImageEntry::new(image, &table));
            windows.push(table);
        }
        let (front, table) = encode_payload_front(&entries, sources, &self.frames)?;
        Ok((Built { windows, table }, front))
    }
}
