//! From blobs to bytes: which frames are needed, and one decoder per thread.
//!
//! Output of a [`Decoder`] is nothing but bytes: only [`Verified::check`] says that they are the release's.
//!
//! Never: a read of the network or a write of a slot. The order of fetching, retries and buffers belong to the host.

mod check;
mod decode;
mod difference;
mod zstd_frame;

use std::io;

pub use check::{Checked, Fault, Keep, check};
pub use decode::{Begun, Blobs, Codec, Decoder};
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

    /// Reads several parts, in any order or at once. An error comes with the number of the part that it is about.
    fn read_each(&self, image: usize, parts: &mut [Part<'_>]) -> Result<(), (usize, io::Error)> {
        for (number, part) in parts.iter_mut().enumerate() {
            self.read(part.source, image, part.offset, part.buffer).map_err(|error| (number, error))?;
        }
        Ok(())
    }
}

/// A part of a source, and where it goes.
#[derive(Debug)]
pub struct Part<'b> {
    /// The source.
    pub source: Source,
    /// Its first byte there.
    pub offset: u64,
    /// As long as the part is.
    pub buffer: &'b mut [u8],
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

#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod source_tests;
#[cfg(test)]
mod tests;
