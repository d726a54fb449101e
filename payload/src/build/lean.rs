//! What a frame leans on: bytes of the sources that its windows hold unchanged, and places with content like the rest of them, in the
//! sources and in what the image itself has further up.
//!
//! # What it costs a host
//!
//! Bytes of the image itself have to be in the slot, and right, before the frame can be made, and are read back from there. So they are taken
//! where they bring most, and all frames together take at most [`OWN_SHARE`] of the images' bytes ([`Leanings::of`] finds how much a place has to
//! bring for that). What the running slot has is there anyway.

use std::num::NonZeroUsize;

use manifests::digest::is_zero;

use super::blocks::{Blocks, Stretch};
use super::corpus::{Corpus, PLACE_BYTES};
use super::plan::{Piece, Plan};
use super::similar::Similar;
use super::{Image, Phase, Progress};
use crate::error::Error;
use crate::format::{Extent, Source};
use crate::limits::{MAX_EXTENTS, MAX_PREFIX_BYTES};
use crate::parallel;
use crate::window::read_piece;

/// Two extents so near to each other are one: what lies between costs less than another extent in the frame table.
const MAX_GAP_BYTES: u64 = 8 * 1024;

/// Fewest samples that a place of a source must add to be taken.
const MIN_GAIN: usize = 2;

/// Bytes of the images themselves that all frames together lean on: one in so many. Measured on the full payload of a 1 GiB ext4 image, level 12:
/// 239.4 MB with none, 202.4 MB with a tenth of its bytes, 180.1 MB with a quarter, 173.9 MB with as many as it has; each is read back by every host.
const OWN_SHARE: u64 = 4;

/// Gains that are told apart when places of the image itself are counted.
const GAINS: usize = 1024;

/// Everything that frames may lean on, and how it is found.
pub(super) struct Leanings<'a> {
    corpus: Corpus<'a>,
    blocks: Blocks<'a>,
    similar: Similar,
    /// Most places that are taken for a frame beside what it holds unchanged.
    most_places: usize,
    /// Fewest samples that a place of the image itself must add to be taken.
    own_gain: usize,
}

/// What one frame may lean on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Leaning {
    /// Its whole output, if sources hold it unchanged.
    pub(super) copy: Option<Vec<Extent>>,
    /// Bytes that make its output short to tell, ascending.
    pub(super) prefix: Vec<Extent>,
}

/// A place with content like a frame's.
struct Like {
    extent: Extent,
    /// Samples of the frame that no place before it has.
    gain: usize,
}

impl<'a> Leanings<'a> {
    /// Looks through `sources`, and through `images`, which `plan` cuts; a frame leans on at most `similar_bytes` beside what it holds
    /// unchanged. Reads every image twice; `progress` gets how far that is.
    pub(super) fn of(
        sources: &[Image<'a>],
        images: &[Image<'a>],
        plan: &Plan<'a>,
        similar_bytes: u64,
        threads: NonZeroUsize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        let corpus = Corpus::new(sources, images)?;
        let source_bytes: u64 = sources.iter().map(|image| image.size).sum();
        let total = corpus.bytes() * 2;
        let mut progress = |done| progress(Progress { phase: Phase::Looking, done, total, blobs: 0 });
        let blocks = Blocks::of(&corpus, threads, &mut progress)?;
        let similar = Similar::of(&corpus, threads, &mut |done| progress(source_bytes + done))?;
        let before = source_bytes + corpus.bytes();
        let most_places = usize::try_from(similar_bytes / PLACE_BYTES).unwrap_or(0);
        let mut leanings = Self { corpus, blocks, similar, most_places, own_gain: MIN_GAIN };
        leanings.own_gain = leanings.affordable_gain(plan, threads, &mut |done| progress(before + done))?;
        Ok(leanings)
    }

    /// The fewest samples that a place of the image itself has to add, so that all that are taken are no more than [`OWN_SHARE`] of the images' bytes.
    fn affordable_gain(&self, plan: &Plan<'_>, threads: NonZeroUsize, progress: &mut dyn FnMut(u64)) -> Result<usize, Error> {
        let (mut bytes_by_gain, mut image_bytes) = (vec![0_u64; GAINS], 0);
        let look = |window: &mut Vec<u8>, index: u64| {
            let piece = plan.piece(index)?;
            read_piece(piece.image.name, piece.image.data, piece.offset, piece.length, window)?;
            let own = |like: &Like| like.extent.source == Source::Target;
            let likes = if is_zero(window) { Vec::new() } else { self.likes(&piece, window, &self.stretches(&piece, window)) };
            Ok((piece.length, likes.into_iter().filter(own).collect::<Vec<_>>()))
        };
        parallel::ordered(
            plan.count,
            threads,
            || Ok(Vec::new()),
            look,
            |_, (length, likes)| {
                image_bytes += length;
                for like in likes {
                    if let Some(bytes) = bytes_by_gain.get_mut(like.gain.min(GAINS - 1)) {
                        *bytes += like.extent.length;
                    }
                }
                progress(image_bytes);
                Ok(())
            },
        )?;
        let mut taken = 0_u64;
        let affordable = |(_, bytes): &(usize, &u64)| {
            taken += **bytes;
            taken <= image_bytes / OWN_SHARE
        };
        let least = bytes_by_gain.iter().enumerate().rev().take_while(affordable).last();
        Ok(least.map_or(usize::MAX, |(gain, _)| gain.max(MIN_GAIN)))
    }

    /// What the frame of `piece`, whose output is `window`, may lean on.
    pub(super) fn of_piece(&self, piece: &Piece<'_>, window: &[u8]) -> Leaning {
        let stretches = self.stretches(piece, window);
        let held: Vec<Extent> = stretches.iter().filter_map(|stretch| stretch.held).collect();
        if held.len() == stretches.len() && held.len() <= usize::from(MAX_EXTENTS) {
            return Leaning { copy: Some(held.clone()), prefix: joined(held) };
        }
        let likes = self.likes(piece, window, &stretches).into_iter();
        let is_worth_it = |like: &Like| like.extent.source != Source::Target || like.gain >= self.own_gain;
        let mut similar: Vec<Extent> = likes.filter(is_worth_it).map(|like| like.extent).collect();
        // What is changed everywhere is not found by its content, but as a rule it stands where it stood.
        if similar.is_empty() {
            similar.extend(self.blocks.same_bytes(&piece.image, piece.offset, piece.length));
        }
        loop {
            let prefix = joined(held.iter().chain(&similar).copied().collect());
            let bytes: u64 = prefix.iter().map(|extent| extent.length).sum();
            let fits = bytes <= MAX_PREFIX_BYTES && prefix.len() <= usize::from(MAX_EXTENTS);
            if fits || similar.pop().is_none() {
                return Leaning { copy: None, prefix: if fits { prefix } else { Vec::new() } };
            }
        }
    }

    fn stretches(&self, piece: &Piece<'_>, window: &[u8]) -> Vec<Stretch> {
        self.blocks.stretches(&piece.image, piece.offset, window)
    }

    /// Places with content like what of `window` no source holds, best first.
    fn likes(&self, piece: &Piece<'_>, window: &[u8], stretches: &[Stretch]) -> Vec<Like> {
        let new: Vec<_> =
            stretches.iter().filter(|stretch| stretch.held.is_none()).map(|stretch| stretch.bytes.clone()).collect();
        let extent_of = |place| self.corpus.extent(place, piece);
        let found = self.similar.places(window, &new, self.most_places, MIN_GAIN, |place| extent_of(place).is_some());
        found.into_iter().filter_map(|found| Some(Like { extent: extent_of(found.place)?, gain: found.gain })).collect()
    }

    /// Reads `extents` one after the other.
    pub(super) fn read(&self, extents: &[Extent], image: usize, joined: &mut Vec<u8>) -> Result<(), Error> {
        joined.clear();
        for extent in extents {
            let start = joined.len();
            joined.resize(start + usize::try_from(extent.length).unwrap_or(0), 0);
            self.corpus.read(extent.source, image, extent.offset, joined.get_mut(start..).unwrap_or_default())?;
        }
        Ok(())
    }
}

/// The same bytes, each once, ascending, with those between two that are near. (Places of the image itself are never near: they touch, or another one
/// lies between.)
fn joined(mut extents: Vec<Extent>) -> Vec<Extent> {
    extents.sort_unstable_by_key(|extent| (extent.source, extent.offset));
    let mut all: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        match all.last_mut() {
            Some(last) if last.source == extent.source && extent.offset <= last.offset + last.length + MAX_GAP_BYTES => {
                last.length = last.length.max(extent.offset + extent.length - last.offset);
            }
            _ => all.push(extent),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::build::encode::Encoder;
    use crate::format::Kind;
    use crate::testing::{Dice, WINDOW};

    fn image<'a>(data: &'a Vec<u8>) -> Image<'a> {
        Image { name: "root", slot: None, size: data.len() as u64, data }
    }

    #[test]
    fn a_block_that_only_has_the_digest_of_another_is_no_copy_of_it() {
        let (old, new) = (Dice::new(1).bytes(WINDOW), Dice::new(2).bytes(4096));
        let plan = Plan::new(&[image(&new)], NonZeroU32::MIN).unwrap();
        let mut leanings = Leanings::of(&[image(&old)], &[image(&new)], &plan, 1 << 20, NonZeroUsize::MIN, &mut |_| {}).unwrap();
        leanings.blocks.collide(&new);
        let piece = plan.piece(0).unwrap();
        let same_digest = Extent { source: Source::Image(0), offset: 0, length: 4096 };
        assert_eq!(leanings.of_piece(&piece, &new).copy, Some(vec![same_digest]));
        let made = Encoder::new(3).unwrap().encode(&piece, &leanings).unwrap();
        assert_eq!((made.kind, made.blob == new), (Kind::Raw, true));
    }
}
