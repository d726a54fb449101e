//! What a frame leans on: bytes of the sources that its windows hold unchanged, and places with content like the rest of them.

use std::num::NonZeroUsize;

use super::blocks::Blocks;
use super::corpus::{Corpus, PLACE_BYTES};
use super::plan::Piece;
use super::similar::Similar;
use crate::error::Error;
use crate::format::Extent;
use crate::limits::{MAX_EXTENTS, MAX_PREFIX_BYTES};

/// Bytes of places that are taken for a frame beside what it holds unchanged. Measured: 1 MiB for windows of 256 KiB is as good as 4.
const MAX_SIMILAR_BYTES: u64 = 1 << 20;

/// Two extents so near to each other are one: what lies between costs less than another extent in the frame table.
const MAX_GAP_BYTES: u64 = 8 * 1024;

/// Everything that frames may lean on, and how it is found.
pub(super) struct Leanings<'a> {
    corpus: Corpus<'a>,
    blocks: Blocks<'a>,
    similar: Similar,
}

/// What one frame may lean on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Leaning {
    /// Its whole output, if sources hold it unchanged.
    pub(super) copy: Option<Vec<Extent>>,
    /// Bytes that make its output short to tell, ascending.
    pub(super) prefix: Vec<Extent>,
}

impl<'a> Leanings<'a> {
    /// Reads every image of `corpus`, the sources twice. `progress` gets the bytes read.
    pub(super) fn of(corpus: Corpus<'a>, threads: NonZeroUsize, progress: &mut dyn FnMut(u64)) -> Result<Self, Error> {
        let mut before = 0;
        let blocks = Blocks::of(&corpus, threads, &mut |done| {
            before = done;
            progress(done);
        })?;
        let similar = Similar::of(&corpus, threads, &mut |done| progress(before.saturating_add(done)))?;
        Ok(Self { corpus, blocks, similar })
    }

    /// What the frame of `piece`, whose output is `window`, may lean on.
    pub(super) fn of_piece(&self, piece: &Piece<'_>, window: &[u8]) -> Leaning {
        let stretches = self.blocks.stretches(&piece.image, piece.offset, window);
        let held: Vec<Extent> = stretches.iter().filter_map(|stretch| stretch.held).collect();
        if held.len() == stretches.len() && held.len() <= usize::from(MAX_EXTENTS) {
            return Leaning { copy: Some(held.clone()), prefix: joined(held) };
        }
        let new: Vec<_> = stretches.iter().filter(|stretch| stretch.held.is_none()).map(|stretch| stretch.bytes.clone()).collect();
        let as_extent = |place| self.corpus.extent(place, piece.image_index, piece.offset);
        let knob = |name: &str, or: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(or);
        let most = usize::try_from(knob("SIMILAR", MAX_SIMILAR_BYTES) / PLACE_BYTES).unwrap_or(0);
        let min_gain = usize::try_from(knob("GAIN", 2)).unwrap_or(2);
        let own_gain = usize::try_from(knob("OWNGAIN", 2)).unwrap_or(2);
        let mut own = knob("OWN", 0);
        let recent = knob("RECENT", 0).min(own).min(piece.offset);
        own -= recent;
        let mut similar: Vec<Extent> = self
            .similar
            .places(window, &new, most, |place| as_extent(place).is_some_and(|e| e.source != crate::format::Source::Target || (own > 0 && e.offset + e.length <= piece.offset - recent)))
            .into_iter()
            .filter(|found| found.gain >= min_gain)
            .filter_map(|found| {
                let e = as_extent(found.place)?;
                if e.source == crate::format::Source::Target {
                    if found.gain < own_gain { return None }
                    own = own.checked_sub(e.length)?;
                }
                Some(e)
            })
            .collect();
        if recent > 0 {
            similar.insert(0, Extent { source: crate::format::Source::Target, offset: piece.offset - recent, length: recent });
        }
        // What is changed everywhere is not found by its content, but as a rule it stands where it stood.
        if similar.is_empty() {
            similar.extend(self.blocks.same_bytes(&piece.image, piece.offset, piece.length));
        }
        loop {
            let prefix = joined(held.iter().chain(&similar).copied().collect());
            let bytes: u64 = prefix.iter().map(|extent| extent.length).sum();
            if (bytes <= MAX_PREFIX_BYTES && prefix.len() <= usize::from(MAX_EXTENTS)) || similar.pop().is_none() {
                let fits = bytes <= MAX_PREFIX_BYTES && prefix.len() <= usize::from(MAX_EXTENTS);
                return Leaning { copy: None, prefix: if fits { prefix } else { Vec::new() } };
            }
        }
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

/// The same bytes, each once, ascending, with those between two that are near.
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
