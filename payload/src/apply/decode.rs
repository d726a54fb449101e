//! A frame's blob becomes its output.

use std::collections::VecDeque;

use super::difference::DifferenceDecoder;
use super::zstd_frame::{Refusal, ZstdDecoder, decode_with_prefix};
use super::{Part, Sources};
use crate::error::Error;
use crate::format::{Extent, Frame, Kind, Source};
use crate::limits::MAX_PREFIX_BYTES;

/// Decodes blobs, one after the other, whatever they belong to; one per thread. It holds a zstd context (about 160 KB) and, from the first
/// difference on, room for what that is made of (at most 2 MiB).
///
/// It sees nothing but the bytes it is given, so that it can run where nothing else can be reached.
pub struct Codec {
    zstd: ZstdDecoder,
    differences: DifferenceDecoder,
    leans_on: Vec<u8>,
}

impl Codec {
    /// Sets it up.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { zstd: ZstdDecoder::new()?, differences: DifferenceDecoder::default(), leans_on: Vec::new() })
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
    /// Gets what the next blob leans on, piece by piece: `bytes` stand at `at`, where the piece before ended; the first one stands at 0.
    fn lean_on(&mut self, at: usize, bytes: &[u8]) -> Result<(), Refusal>;

    /// As [`Codec::decode`]; the blob leans on the first `leans_on` bytes that [`Blobs::lean_on`] got.
    fn decode(&mut self, kind: Kind, blob: &[u8], leans_on: usize, out: &mut [u8]) -> Result<(), Refusal>;

    /// Begins to decode, and goes on while something else is done; [`Blobs::finish`] comes next. False: not here, [`Blobs::decode`] does it all.
    fn begin(&mut self, kind: Kind, blob: &[u8], leans_on: usize, output_len: usize) -> Result<bool, Refusal> {
        let _not_here = (kind, blob, leans_on, output_len);
        Ok(false)
    }

    /// Waits for what was begun, and puts it into `out`, which has the length that was said.
    fn finish(&mut self, out: &mut [u8]) -> Result<(), Refusal> {
        Err(Refusal::new("output", out.len(), "nothing that was begun"))
    }
}

impl Blobs for Codec {
    fn lean_on(&mut self, at: usize, bytes: &[u8]) -> Result<(), Refusal> {
        self.leans_on.truncate(at);
        let (length, most) = (self.leans_on.len(), usize::try_from(MAX_PREFIX_BYTES).unwrap_or(usize::MAX));
        if self.leans_on.capacity() - length < bytes.len() {
            // A vector that grows by itself doubles, which may be twice the most that is ever in it.
            self.leans_on.reserve_exact(bytes.len().max(length.min(most.saturating_sub(length))));
        }
        self.leans_on.extend_from_slice(bytes);
        Ok(())
    }

    fn decode(&mut self, kind: Kind, blob: &[u8], leans_on: usize, out: &mut [u8]) -> Result<(), Refusal> {
        let kept = std::mem::take(&mut self.leans_on);
        let decoded = match kept.get(..leans_on) {
            Some(leans_on) => Self::decode(self, kind, blob, leans_on, out),
            None => Err(Refusal::new("bytes to lean on", leans_on, kept.len())),
        };
        self.leans_on = kept;
        decoded
    }
}

/// Sources are read in pieces of at most this.
const PIECE_BYTES: usize = 256 * 1024;

/// Parts of such a piece that are read together: a disk takes hardly longer for them than for one.
const PARTS_TOGETHER: usize = 16;

/// Of a source that names a part which it was not asked for.
const NOWHERE: Extent = Extent { source: Source::Target, offset: 0, length: 0 };

/// How far a frame is that [`Decoder::begin`] began with.
#[derive(Debug)]
#[must_use = "what was begun is finished, or what decodes blobs is asked to begin anew"]
pub enum Begun {
    /// Its blob is being decoded.
    Blob,
    /// What its blob leans on is there: so many bytes.
    LeaningOn(usize),
    /// It needs no decoding.
    Nothing,
}

/// Decodes frames, one after the other; one per thread. Beside what decodes its blobs, which keeps what they lean on (at most 4 MiB), it holds
/// a piece of 256 KiB from the first frame on that leans on others.
pub struct Decoder<B = Codec> {
    blobs: B,
    piece: Vec<u8>,
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
        Self { blobs, piece: Vec::new() }
    }

    /// What decodes its blobs.
    pub const fn blobs(&mut self) -> &mut B {
        &mut self.blobs
    }

    /// Makes the output of `frame` from its blob, straight into `out`, which is exactly [`Frame::output_len`] long. After an error `out`
    /// holds anything.
    pub fn decode(&mut self, frame: &Frame<'_>, blob: &[u8], sources: &dyn Sources, out: &mut [u8]) -> Result<(), Error> {
        check_output(frame, out)?;
        let begun = self.begin(frame, blob, sources)?;
        self.finish(begun, frame, blob, sources, out)
    }

    /// Begins with `frame`, so that its blob is decoded while something else is done, where that can be. [`Decoder::finish`] of the same comes next; or,
    /// where [`Decoder::blobs`] were made to forget it, another beginning.
    pub fn begin(&mut self, frame: &Frame<'_>, blob: &[u8], sources: &dyn Sources) -> Result<Begun, Error> {
        check_blob(frame, blob)?;
        match frame.kind() {
            Kind::Zero | Kind::Raw | Kind::Copy => Ok(Begun::Nothing),
            kind @ (Kind::Zstd | Kind::ZstdPrefix | Kind::Difference) => {
                let leans_on = self.lean_on(frame, sources)?;
                let is_begun =
                    self.blobs.begin(kind, blob, leans_on, frame.output_len()).map_err(|refusal| name(frame, refusal))?;
                Ok(if is_begun { Begun::Blob } else { Begun::LeaningOn(leans_on) })
            }
            kind @ Kind::Unknown(_) => Err(Error::NotAvailable { frame: frame.name(), kind }),
        }
    }

    /// The rest of [`Decoder::decode`], with what [`Decoder::begin`] answered of the same frame.
    pub fn finish(
        &mut self,
        begun: Begun,
        frame: &Frame<'_>,
        blob: &[u8],
        sources: &dyn Sources,
        out: &mut [u8],
    ) -> Result<(), Error> {
        check_output(frame, out)?;
        match (begun, frame.kind()) {
            (Begun::Blob, _) => self.blobs.finish(out).map_err(|refusal| name(frame, refusal)),
            (Begun::LeaningOn(bytes), kind) => self.blobs.decode(kind, blob, bytes, out).map_err(|refusal| name(frame, refusal)),
            (Begun::Nothing, Kind::Raw) => {
                out.copy_from_slice(blob);
                Ok(())
            }
            (Begun::Nothing, Kind::Copy) => read_extents(frame, sources, out),
            (Begun::Nothing, Kind::Zero) => {
                out.fill(0);
                Ok(())
            }
            (Begun::Nothing, kind) => Err(Error::codec(format!("a frame of kind {kind} was not begun with"))),
        }
    }

    /// Hands over what a frame leans on, joined: its length, at most MAX_PREFIX_BYTES, since the table was refused otherwise.
    fn lean_on(&mut self, frame: &Frame<'_>, sources: &dyn Sources) -> Result<usize, Error> {
        let (mut at, mut left) = (0, frame.extents().collect::<VecDeque<Extent>>());
        while !left.is_empty() {
            self.piece.resize(PIECE_BYTES, 0);
            let filled = read_together(frame, &mut left, sources, &mut self.piece)?;
            let piece = self.piece.get(..filled).unwrap_or_default();
            self.blobs.lean_on(at, piece).map_err(|refusal| name(frame, refusal))?;
            at += filled;
        }
        Ok(at)
    }
}

/// Joins the extents of a frame in `out`, which is as long as they are together.
fn read_extents(frame: &Frame<'_>, sources: &dyn Sources, out: &mut [u8]) -> Result<(), Error> {
    let (mut left, mut rest) = (frame.extents().collect::<VecDeque<Extent>>(), out);
    while !left.is_empty() {
        let most = rest.len().min(PIECE_BYTES);
        let filled = read_together(frame, &mut left, sources, rest.get_mut(..most).unwrap_or_default())?;
        rest = rest.split_at_mut_checked(filled).filter(|_| filled > 0).map(|(_, behind)| behind).ok_or_else(|| {
            wrong(
                frame,
                "bytes of all extents",
                "no more than the room for them",
                frame.extents().map(|extent| extent.length).sum::<u64>(),
            )
        })?;
    }
    Ok(())
}

/// Reads the first of the extents that are left, as many together as fit, one behind the other; what does not fit stays. How many bytes they are.
fn read_together(frame: &Frame<'_>, left: &mut VecDeque<Extent>, sources: &dyn Sources, out: &mut [u8]) -> Result<usize, Error> {
    let (mut rest, mut filled) = (out, 0);
    let (mut parts, mut extents) = (Vec::with_capacity(PARTS_TOGETHER), Vec::with_capacity(PARTS_TOGETHER));
    while let Some(extent) = left.pop_front() {
        if rest.is_empty() || parts.len() == PARTS_TOGETHER {
            left.push_front(extent);
            break;
        }
        let length = usize::try_from(extent.length).unwrap_or(usize::MAX).min(rest.len());
        let bytes = u64::try_from(length).unwrap_or(u64::MAX);
        if bytes < extent.length {
            left.push_front(Extent { offset: extent.offset.saturating_add(bytes), length: extent.length - bytes, ..extent });
        }
        let (buffer, behind) = std::mem::take(&mut rest).split_at_mut(length);
        parts.push(Part { source: extent.source, offset: extent.offset, buffer });
        extents.push(Extent { length: bytes, ..extent });
        (rest, filled) = (behind, filled + length);
    }
    let unreadable = |(number, source): (usize, std::io::Error)| {
        let Extent { source: origin, offset, length } = extents.get(number).copied().unwrap_or(NOWHERE);
        Error::Source { frame: frame.name(), origin: frame.origin(origin), offset, length, source }
    };
    sources.read_each(frame.image(), &mut parts).map_err(unreadable)?;
    Ok(filled)
}

fn check_blob(frame: &Frame<'_>, blob: &[u8]) -> Result<(), Error> {
    let range = frame.blob();
    let expected = range.end - range.start;
    if u64::try_from(blob.len()).is_ok_and(|got| got != expected) {
        return Err(wrong(frame, "length of the blob", expected, blob.len()));
    }
    Ok(())
}

fn check_output(frame: &Frame<'_>, out: &[u8]) -> Result<(), Error> {
    if out.len() != frame.output_len() {
        return Err(wrong(frame, "length of the output buffer", frame.output_len(), out.len()));
    }
    Ok(())
}

fn name(frame: &Frame<'_>, refusal: Refusal) -> Error {
    Error::Blob { frame: frame.name(), what: refusal.what, expected: refusal.expected, got: refusal.got }
}

fn wrong(frame: &Frame<'_>, what: &str, expected: impl ToString, got: impl ToString) -> Error {
    Error::Blob { frame: frame.name(), what: what.to_owned(), expected: expected.to_string(), got: got.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_blob_leans_on_no_more_is_kept_than_there_may_be() {
        let most = usize::try_from(MAX_PREFIX_BYTES).unwrap();
        for first in [1, 1000, 140_000, PIECE_BYTES] {
            let (mut codec, mut at) = (Codec::new().unwrap(), 0);
            while at < most {
                let length = if at == 0 { first } else { PIECE_BYTES.min(most - at) };
                codec.lean_on(at, &vec![7; length]).unwrap();
                at += length;
            }
            assert!(codec.leans_on.len() == most && codec.leans_on.capacity() == most, "{first}: {}", codec.leans_on.capacity());
        }
    }
}
