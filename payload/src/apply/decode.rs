//! A frame's blob becomes its output.

use super::Sources;
use super::difference::DifferenceDecoder;
use super::zstd_frame::{Refusal, ZstdDecoder, decode_with_prefix};
use crate::error::Error;
use crate::format::{Frame, Kind};

/// Decodes blobs, one after the other, whatever they belong to; one per thread. It holds a zstd context (about 160 KB) and, from the first
/// difference on, room for what that is made of (at most 2 MiB).
///
/// It sees nothing but the bytes it is given, so that it can run where nothing else can be reached.
pub struct Codec {
    zstd: ZstdDecoder,
    differences: DifferenceDecoder,
}

impl Codec {
    /// Sets it up.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { zstd: ZstdDecoder::new()?, differences: DifferenceDecoder::default() })
    }

    /// Makes exactly `out` of a blob of this kind and of what it leans on, joined. After an error `out` holds anything.
    pub fn decode(&mut self, kind: Kind, blob: &[u8], leans_on: &[u8], out: &mut [u8]) -> Result<(), Refusal> {
        match kind {
            Kind::Zstd => self.zstd.decode(blob, out),
            Kind::ZstdPrefix => decode_with_prefix(blob, leans_on, out),
            Kind::Difference => self.differences.decode(&mut self.zstd, blob, leans_on, out),
            kind => Err(Refusal::new("kind of frame", "one with a codec", kind)),
        }
    }
}

/// Whoever decodes blobs: a [`Codec`] here, or a process that can reach nothing else.
pub trait Blobs {
    /// As [`Codec::decode`].
    fn decode(&mut self, kind: Kind, blob: &[u8], leans_on: &[u8], out: &mut [u8]) -> Result<(), Refusal>;
}

impl Blobs for Codec {
    fn decode(&mut self, kind: Kind, blob: &[u8], leans_on: &[u8], out: &mut [u8]) -> Result<(), Refusal> {
        Self::decode(self, kind, blob, leans_on, out)
    }
}

/// Decodes frames, one after the other; one per thread. Beside what decodes its blobs it holds, from the first frame that leans on others,
/// room for the longest prefix seen (at most 4 MiB).
pub struct Decoder<B = Codec> {
    blobs: B,
    prefix: Vec<u8>,
}

impl Decoder {
    /// With a codec of its own.
    pub fn new() -> Result<Self, Error> {
        Ok(Self::with(Codec::new()?))
    }
}

impl<B: Blobs> Decoder<B> {
    /// With this for its blobs.
    pub const fn with(blobs: B) -> Self {
        Self { blobs, prefix: Vec::new() }
    }

    /// What decodes its blobs.
    pub const fn blobs(&mut self) -> &mut B {
        &mut self.blobs
    }

    /// Makes the output of `frame` from its blob, straight into `out`, which is exactly [`Frame::output_len`] long. After an error `out`
    /// holds anything.
    pub fn decode(&mut self, frame: &Frame<'_>, blob: &[u8], sources: &dyn Sources, out: &mut [u8]) -> Result<(), Error> {
        check_lengths(frame, blob, out)?;
        match frame.kind() {
            Kind::Zero => out.fill(0),
            Kind::Raw => out.copy_from_slice(blob),
            Kind::Copy => read_extents(frame, sources, out)?,
            kind @ (Kind::Zstd | Kind::ZstdPrefix | Kind::Difference) => {
                let length = frame.extents().map(|extent| extent.length).sum::<u64>();
                // At most MAX_PREFIX_BYTES: the table was refused otherwise.
                self.prefix.resize(usize::try_from(length).unwrap_or(0), 0);
                read_extents(frame, sources, &mut self.prefix)?;
                self.blobs.decode(kind, blob, &self.prefix, out).map_err(|refusal| name(frame, refusal))?;
            }
            kind @ Kind::Unknown(_) => return Err(Error::NotAvailable { frame: frame.name(), kind }),
        }
        Ok(())
    }
}

fn check_lengths(frame: &Frame<'_>, blob: &[u8], out: &[u8]) -> Result<(), Error> {
    let range = frame.blob();
    let expected = range.end - range.start;
    if u64::try_from(blob.len()).is_ok_and(|got| got != expected) {
        return Err(wrong(frame, "length of the blob", expected, blob.len()));
    }
    if out.len() != frame.output_len() {
        return Err(wrong(frame, "length of the output buffer", frame.output_len(), out.len()));
    }
    Ok(())
}

/// Joins the extents of a frame in `out`, which is as long as they are together.
fn read_extents(frame: &Frame<'_>, sources: &dyn Sources, out: &mut [u8]) -> Result<(), Error> {
    let mut rest = out;
    for extent in frame.extents() {
        let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
        let Some((piece, after)) = rest.split_at_mut_checked(length) else {
            return Err(wrong(frame, "bytes of all extents", "no more than the room for them", extent.length));
        };
        let name = |source| Error::Source {
            frame: frame.name(),
            origin: extent.source,
            offset: extent.offset,
            length: extent.length,
            source,
        };
        sources.read(extent.source, frame.image(), extent.offset, piece).map_err(name)?;
        rest = after;
    }
    Ok(())
}

fn name(frame: &Frame<'_>, refusal: Refusal) -> Error {
    Error::Blob { frame: frame.name(), what: refusal.what, expected: refusal.expected, got: refusal.got }
}

fn wrong(frame: &Frame<'_>, what: &'static str, expected: impl ToString, got: impl ToString) -> Error {
    Error::Blob { frame: frame.name(), what, expected: expected.to_string(), got: got.to_string() }
}
