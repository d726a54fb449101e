//! Bytes of a frame become its blob: of all ways to tell them the shortest.

use manifests::digest::{Sha256Digest, is_zero};
use zstd::zstd_safe::{CCtx, CParameter, compress_bound, get_error_name};

use super::difference::{Seeds, difference};
use super::lean::{Leaning, Leanings};
use super::plan::Piece;
use crate::apply::{DifferenceDecoder, ZstdDecoder, decode_with_prefix};
use crate::error::Error;
use crate::format::{Extent, Kind, extents_len};
use crate::limits::MAX_ZSTD_WINDOW_LOG;
use crate::varint;
use crate::window::read_piece;

/// A frame that leans on others and still takes this part of its output is tried without, too.
const WORTH_A_TRY_ALONE: usize = 2;

/// What a frame takes in the table beside its extents, about.
const FRAME_BYTES: usize = 8;

/// A blob so short is not worth a look for a shorter one.
const SHORT_BYTES: usize = 64;

/// What a worker made of a piece.
pub(super) struct Encoded {
    pub(super) kind: Kind,
    pub(super) blob: Vec<u8>,
    pub(super) extents: Vec<Extent>,
    pub(super) digests: Vec<Sha256Digest>,
}

/// A way to tell a frame.
struct Way {
    kind: Kind,
    blob: Vec<u8>,
    extents: Vec<Extent>,
}

impl Way {
    fn cost(&self, offset: u64) -> usize {
        FRAME_BYTES + self.blob.len() + extents_len(&self.extents, offset)
    }
}

/// A worker's codecs and buffers.
pub(super) struct Encoder {
    level: i32,
    zstd: CCtx<'static>,
    decoder: ZstdDecoder,
    differences: DifferenceDecoder,
    seeds: Seeds,
    input: Vec<u8>,
    prefix: Vec<u8>,
    decoded: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(level: i32) -> Result<Self, Error> {
        if !(1..=22).contains(&level) {
            return Err(Error::codec(format!("expected a level from 1 to 22, got {level}")));
        }
        Ok(Self {
            level,
            zstd: context(level)?,
            decoder: ZstdDecoder::new()?,
            differences: DifferenceDecoder::default(),
            seeds: Seeds::default(),
            input: Vec::new(),
            prefix: Vec::new(),
            decoded: Vec::new(),
        })
    }

    /// Makes the frame of `piece`, which may lean on what `leanings` finds. Every way is decoded again before it counts.
    pub(super) fn encode(&mut self, piece: &Piece<'_>, leanings: &Leanings<'_>) -> Result<Encoded, Error> {
        let mut input = std::mem::take(&mut self.input);
        read_piece(piece.image.name, piece.image.data, piece.offset, piece.length, &mut input)?;
        let made = self.shortest(piece, &input, leanings);
        let window_size = usize::try_from(piece.window_size).unwrap_or(usize::MAX);
        let digests = input.chunks(window_size).map(Sha256Digest::of_window).collect();
        self.input = input;
        let Way { kind, mut blob, extents } = made?;
        blob.shrink_to_fit();
        Ok(Encoded { kind, blob, extents, digests })
    }

    fn shortest(&mut self, piece: &Piece<'_>, input: &[u8], leanings: &Leanings<'_>) -> Result<Way, Error> {
        if is_zero(input) {
            return Ok(Way { kind: Kind::Zero, blob: Vec::new(), extents: Vec::new() });
        }
        let mut best = Way { kind: Kind::Raw, blob: input.to_vec(), extents: Vec::new() };
        let offer = |best: &mut Way, way: Way| {
            if way.cost(piece.offset) < best.cost(piece.offset) {
                *best = way;
            }
        };
        let Leaning { copy, prefix } = leanings.of_piece(piece, input);
        if let Some(extents) = copy {
            leanings.read(&extents, piece.image_index, &mut self.prefix)?;
            // Blocks are found by a part of their digest: what is another one all the same is no copy.
            if self.prefix == *input {
                let way = Way { kind: Kind::Copy, blob: Vec::new(), extents };
                // What is there already is not sent, however short.
                if way.cost(piece.offset) <= SHORT_BYTES {
                    return Ok(way);
                }
                offer(&mut best, way);
            }
        }
        if best.cost(piece.offset) > SHORT_BYTES && !prefix.is_empty() {
            leanings.read(&prefix, piece.image_index, &mut self.prefix)?;
            let blob = self.with_prefix(piece, input)?;
            let is_short = blob.len() <= SHORT_BYTES;
            offer(&mut best, Way { kind: Kind::ZstdPrefix, blob, extents: prefix.clone() });
            if !is_short {
                let blob = self.as_difference(piece, input)?;
                offer(&mut best, Way { kind: Kind::Difference, blob, extents: prefix });
            }
        }
        if best.cost(piece.offset) > input.len() / WORTH_A_TRY_ALONE {
            let blob = compress(&mut self.zstd, input)?;
            let mut decoded = std::mem::take(&mut self.decoded);
            decoded.resize(input.len(), 0);
            let is_right = self.decoder.decode(&blob, &mut decoded).is_ok() && decoded == *input;
            self.decoded = decoded;
            self.check(piece, is_right)?;
            offer(&mut best, Way { kind: Kind::Zstd, blob, extents: Vec::new() });
        }
        Ok(best)
    }

    fn with_prefix(&mut self, piece: &Piece<'_>, input: &[u8]) -> Result<Vec<u8>, Error> {
        let blob = self.leaning(input)?;
        self.decoded.resize(input.len(), 0);
        let is_right = decode_with_prefix(&blob, &self.prefix, &mut self.decoded).is_ok() && self.decoded == *input;
        self.check(piece, is_right)?;
        Ok(blob)
    }

    fn leaning(&self, input: &[u8]) -> Result<Vec<u8>, Error> {
        let mut zstd: CCtx<'_> = context(self.level)?;
        // As far back as the prefix begins.
        let reach = usize::BITS - (self.prefix.len() + input.len()).leading_zeros();
        let reach = CParameter::WindowLog(reach.clamp(10, MAX_ZSTD_WINDOW_LOG));
        zstd.set_parameter(reach)
            .and_then(|_| zstd.ref_prefix(&self.prefix))
            .map_err(|code| Error::codec(get_error_name(code)))?;
        compress(&mut zstd, input)
    }

    fn as_difference(&mut self, piece: &Piece<'_>, input: &[u8]) -> Result<Vec<u8>, Error> {
        let made = difference(&mut self.seeds, &self.prefix, input);
        let [steps, added] = [&made.steps, &made.added].map(|bytes| match bytes.as_slice() {
            [] => Ok(Vec::new()),
            bytes => compress(&mut self.zstd, bytes),
        });
        let literal = if made.literal.is_empty() { Ok(Vec::new()) } else { self.leaning(&made.literal) };
        let (steps, added, literal) = (steps?, added?, literal?);
        let mut blob = Vec::with_capacity(steps.len() + added.len() + literal.len() + 8);
        for section in [&steps, &added] {
            varint::push(&mut blob, u64::try_from(section.len()).unwrap_or(u64::MAX));
        }
        [steps, added, literal].iter().for_each(|section| blob.extend(section));
        self.decoded.resize(input.len(), 0);
        let decoded = self.differences.decode(&mut self.decoder, &blob, &self.prefix, &mut self.decoded);
        let is_right = decoded.is_ok() && self.decoded == *input;
        self.check(piece, is_right)?;
        Ok(blob)
    }

    /// A blob that a host could not use never reaches it.
    fn check(&self, piece: &Piece<'_>, is_right: bool) -> Result<(), Error> {
        if is_right { Ok(()) } else { Err(Error::SelfCheck { image: piece.image.name.to_owned(), offset: piece.offset }) }
    }
}

fn context<'p>(level: i32) -> Result<CCtx<'p>, Error> {
    let mut zstd = CCtx::try_create().ok_or_else(|| Error::codec("cannot allocate a compression context"))?;
    for parameter in [CParameter::CompressionLevel(level), CParameter::ContentSizeFlag(true), CParameter::ChecksumFlag(false)] {
        zstd.set_parameter(parameter).map_err(|code| Error::codec(get_error_name(code)))?;
    }
    Ok(zstd)
}

fn compress(zstd: &mut CCtx<'_>, content: &[u8]) -> Result<Vec<u8>, Error> {
    let mut blob = Vec::with_capacity(compress_bound(content.len()));
    zstd.compress2(&mut blob, content).map_err(|code| Error::codec(get_error_name(code)))?;
    Ok(blob)
}
