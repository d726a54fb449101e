//! From blobs to bytes: which frames are needed, which ranges hold their blobs, and one decoder per thread.
//!
//! Output of a [`Decoder`] is nothing but bytes: only [`Verified::check`] says that they are the release's.
//!
//! Never: a read of the network or a write of a slot. The order of fetching, retries and buffers belong to the host.

mod check;
mod decode;
mod difference;
mod zstd_frame;

use std::io;
use std::ops::Range;

pub use check::{Checked, Fault, Keep, check};
pub use decode::{Blobs, Codec, Decoder};
pub(crate) use difference::DifferenceDecoder;
pub use zstd_frame::Refusal;
pub(crate) use zstd_frame::{ZstdDecoder, decode_with_prefix};

use crate::format::{Frame, FrameTable, Source};
#[cfg(doc)]
use crate::window::Verified;
use crate::window::WindowSet;

/// Where the bytes come from that frames lean on.
pub trait Sources {
    /// Fills `buffer` from byte `offset` of a source; `image` is the image that the frame makes. Bytes of [`Source::Target`] must come
    /// from windows that are verified. Wrong bytes do no harm beyond their frame: its output will not verify.
    fn read(&self, source: Source, image: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// For full payloads whose frames stand alone: any read is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSources;

impl Sources for NoSources {
    fn read(&self, _: Source, _: usize, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "no source image was given to apply this payload with"))
    }
}

/// The frames that make the `missing` windows of `image`, in order. A frame of several windows comes if any of them is missing.
pub fn needed<'t>(table: &'t FrameTable, image: usize, missing: &WindowSet) -> Vec<Frame<'t>> {
    table.frames_of(image).filter(|frame| frame.windows().any(|window| missing.contains(window))).collect()
}

/// Frames whose blobs follow each other in the payload, to be fetched with one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// The range to ask for; empty when no frame of it has a blob.
    pub bytes: Range<u64>,
    /// Which of the frames given to [`batches`].
    pub frames: Range<usize>,
}

/// Joins neighbours: each batch is one range of at most `max_bytes`, or a single frame with a longer blob. Frames without a blob join the
/// batch they stand in. `frames` are in the order of the table.
pub fn batches(frames: &[Frame<'_>], max_bytes: u64) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for (at, frame) in frames.iter().enumerate() {
        let blob = frame.blob();
        match batches.last_mut() {
            Some(batch) if blob.is_empty() => batch.frames.end = at + 1,
            Some(batch) if batch.bytes.is_empty() => *batch = Batch { bytes: blob, frames: batch.frames.start..at + 1 },
            Some(batch) if batch.bytes.end == blob.start && blob.end - batch.bytes.start <= max_bytes => {
                batch.bytes.end = blob.end;
                batch.frames.end = at + 1;
            }
            _ => batches.push(Batch { bytes: blob, frames: at..at + 1 }),
        }
    }
    batches
}

#[cfg(test)]
mod tests;
