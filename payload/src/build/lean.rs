//! What a frame leans on: bytes of the sources that its windows hold unchanged, and places with content like the rest of them, in the
//! sources and in what the image itself has further up.
//!
//! # What it costs a host
//!
//! Bytes of the image itself have to be in the slot, and right, before the frame can be made, and are read back from there. So they are taken
//! where they bring most, and all frames together take at most [`OWN_SHARE`] of the images' bytes ([`Leanings::of`] finds how much a place has to
//! bring for that). What the running slot has is there anyway.
//!
//! # What it costs the frame table
//!
//! A table has a longest length ([`MAX_TABLE_BYTES`](crate::limits::MAX_TABLE_BYTES)), and extents take most of it. [`Shares`] says how many bytes of it
//! those of a frame may take: all frames together never more than there are, so that an image of any size that a record may have can be built. Up
//! to 16 GiB that is what they want, as a rule; above, those that want most lean on less.

use std::cmp::Reverse;
use std::num::NonZeroUsize;

use manifests::digest::is_zero;

use super::blocks::Blocks;
use super::corpus::{Corpus, PLACE_BYTES};
use super::plan::{Piece, Plan};
use super::similar::{Found, Similar};
use super::{Image, Phase, Progress};
use crate::error::Error;
use crate::format::{Extent, Source, extents_len};
use crate::limits::{MAX_EXTENTS, MAX_OUTPUT_BYTES, MAX_PREFIX_BYTES};
use crate::parallel;
use crate::window::read_piece;

/// Two extents so near to each other are one, if what lies between is no longer than what is read before it: it costs a host less than another read,
/// and as often as not it is of use. Measured on a 1 GiB ext4 image and its security updates, with gaps of 8 KiB at most and with this: a delta of 28.3
/// and of 27.8 MB, and a full payload as long as before, whose frame table is a quarter shorter.
const MAX_GAP_BYTES: u64 = 64 * 1024;

/// A gap so short is always closed: two blocks more are read sooner than two reads are done, and the frame table has an extent less.
const MIN_GAP_BYTES: u64 = 8 * 1024;

/// Fewest samples that a place of a source must add to be taken.
const MIN_GAIN: usize = 2;

/// Bytes of the images themselves that all frames together lean on, with those between them: one in so many. Measured on the full payload of a 1 GiB
/// ext4 image, level 12: 180.7 MB with a quarter; and before near extents were one, 239 MB with none, 202 MB with a tenth, 180.1 MB with a quarter, 174 MB
/// with as many as it has. Each is read back by every host.
const OWN_SHARE: u64 = 4;

/// Gains that are told apart when places of the image itself are counted.
const GAINS: usize = 1024;

/// Where places bring the same in all frames, and not all can have them, so many parts of the frames are told apart.
const PARTS: usize = 16;

/// Most bytes that a frame takes in the table beside its extents: a byte of kind, one of windows, three of the blob's length, two of the extents' number.
const FRAME_HEAD_BYTES: usize = 7;

/// Most bytes of a table that are no frame's: two lists of 16 images of at most 110 bytes each, and the number of frames.
const TABLE_HEAD_BYTES: usize = 4096;

/// What the frames of a payload may take.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Bytes that a frame leans on beside what it holds unchanged.
    pub(super) similar_bytes: u64,
    /// Bytes of the frame table.
    pub(super) table_bytes: u32,
}

/// Everything that frames may lean on, and how it is found.
pub(super) struct Leanings<'a> {
    corpus: Corpus<'a>,
    blocks: Blocks<'a>,
    similar: Similar,
    /// Most places that are taken for a frame beside what it holds unchanged.
    most_places: usize,
    /// The last [`rank`] that a place of the image itself may have to be taken.
    own_rank: usize,
    shares: Shares,
}

/// What was found for a frame, before it is decided what of it is taken.
struct Finds {
    /// Where sources hold its bytes unchanged, in its order.
    held: Vec<Extent>,
    /// They hold all of it.
    are_whole: bool,
    /// Places like the rest of it, best first.
    likes: Vec<Like>,
}

/// What one frame may lean on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Leaning {
    /// Its whole output, if sources hold it unchanged.
    pub(super) copy: Option<Vec<Extent>>,
    /// Bytes that make its output short to tell, ascending.
    pub(super) prefix: Vec<Extent>,
}

impl Leaning {
    /// Bytes of the frame table that it takes at most, whichever way the frame of `piece` is told.
    fn table_bytes(&self, piece: &Piece<'_>) -> usize {
        let copy = self.copy.as_ref().map_or(0, |extents| extents_len(extents, piece.offset));
        copy.max(extents_len(&self.prefix, piece.offset))
    }
}

/// Bytes of the frame table for the extents of each frame. Every frame has the same part of one half, and of what the others leave of the second half
/// as much as it wants, up to a bound that is the same for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shares {
    each: usize,
    beyond: usize,
}

impl Shares {
    /// No bound, while it is looked what frames want.
    const ALL: Self = Self { each: usize::MAX, beyond: 0 };

    /// By what each frame wants, in a table of so many bytes.
    fn of(wants: &[usize], table_bytes: u32) -> Self {
        let heads = wants.len().saturating_mul(FRAME_HEAD_BYTES).saturating_add(TABLE_HEAD_BYTES);
        let room = usize::try_from(table_bytes).unwrap_or(usize::MAX).saturating_sub(heads);
        let each = room / 2 / wants.len().max(1);
        let left = room - each * wants.len();
        let fits =
            |beyond: usize| wants.iter().map(|want| want.saturating_sub(each).min(beyond)).fold(0, usize::saturating_add) <= left;
        let (mut beyond, mut too_much) = (0, wants.iter().max().map_or(0, |most| most + 1));
        while beyond + 1 < too_much {
            let middle = beyond.midpoint(too_much);
            *(if fits(middle) { &mut beyond } else { &mut too_much }) = middle;
        }
        Self { each, beyond }
    }

    /// Of a frame that wants so many.
    fn of_frame(self, want: usize) -> usize {
        self.each.saturating_add(want.saturating_sub(self.each).min(self.beyond))
    }
}

/// A place with content like a frame's.
struct Like {
    extent: Extent,
    /// Samples of the frame that no place before it has.
    gain: usize,
}

impl<'a> Leanings<'a> {
    /// Looks through `sources`, and through `images`, which `plan` cuts, for frames that take no more than `room`. Reads every image twice; `progress` gets how far that is.
    pub(super) fn of(
        sources: &[Image<'a>],
        images: &[Image<'a>],
        plan: &Plan<'a>,
        room: Room,
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
        let most_places = usize::try_from(room.similar_bytes / PLACE_BYTES).unwrap_or(0);
        let mut leanings = Self { corpus, blocks, similar, most_places, own_rank: 0, shares: Shares::ALL };
        (leanings.own_rank, leanings.shares) =
            leanings.affordable(plan, room.table_bytes, threads, &mut |done| progress(before + done))?;
        Ok(leanings)
    }

    /// The last [`rank`] of places of the image itself, so that all down to it are no more than [`OWN_SHARE`] of the images' bytes; and how the frame
    /// table is shared.
    fn affordable(
        &self,
        plan: &Plan<'_>,
        table_bytes: u32,
        threads: NonZeroUsize,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(usize, Shares), Error> {
        let (mut bytes_by_rank, mut wants, mut image_bytes) = (vec![0_u64; GAINS * PARTS], Vec::new(), 0);
        let look = |window: &mut Vec<u8>, index: u64| {
            let piece = plan.piece(index)?;
            read_piece(piece.image.name, piece.image.data, piece.offset, piece.length, window)?;
            if is_zero(window) {
                return Ok((piece.length, Vec::new(), 0));
            }
            let finds = self.finds(&piece, window);
            Ok((piece.length, own_bytes(&piece, &finds.likes), self.wanted(&piece, &finds)))
        };
        parallel::ordered(
            plan.count,
            threads,
            || Ok(Vec::new()),
            look,
            |_, (length, own, want)| {
                image_bytes += length;
                wants.push(want);
                for (rank, bytes) in own {
                    if let Some(sum) = bytes_by_rank.get_mut(rank) {
                        *sum += bytes;
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
        let last = bytes_by_rank.iter().enumerate().rev().take_while(affordable).last();
        let own_rank = last.map_or(usize::MAX, |(rank, _)| rank);
        Ok((own_rank, Shares::of(&wants, table_bytes)))
    }

    /// What the frame of `piece`, whose output is `window`, may lean on.
    pub(super) fn of_piece(&self, piece: &Piece<'_>, window: &[u8]) -> Leaning {
        let finds = self.finds(piece, window);
        let share = self.shares.of_frame(self.wanted(piece, &finds));
        self.choose(piece, &finds, self.own_rank, share)
    }

    /// Bytes of the frame table that a frame takes which leans on all that was found.
    fn wanted(&self, piece: &Piece<'_>, finds: &Finds) -> usize {
        self.choose(piece, finds, 0, usize::MAX).table_bytes(piece)
    }

    /// What of `finds` a frame leans on, so that it takes no more than `table_bytes` of the frame table.
    fn choose(&self, piece: &Piece<'_>, finds: &Finds, own_rank: usize, table_bytes: usize) -> Leaning {
        let fits = |extents: &[Extent]| {
            let bytes: u64 = extents.iter().map(|extent| extent.length).sum();
            bytes <= MAX_PREFIX_BYTES
                && extents.len() <= usize::from(MAX_EXTENTS)
                && extents_len(extents, piece.offset) <= table_bytes
        };
        let mut held = finds.held.clone();
        let copy = Some(held.clone()).filter(|held| finds.are_whole && fits(held));
        let is_worth_it = |like: &&Like| like.extent.source != Source::Target || rank(like.gain, piece) >= own_rank;
        let mut similar: Vec<Extent> = finds.likes.iter().filter(is_worth_it).map(|like| like.extent).collect();
        // What is changed everywhere is not found by its content, but as a rule it stands where it stood.
        if similar.is_empty() && copy.is_none() {
            similar.extend(self.blocks.same_bytes(&piece.image, piece.offset, piece.length));
        }
        held.sort_by_key(|extent| Reverse(extent.length));
        loop {
            let prefix = joined(held.iter().chain(&similar).copied().collect());
            if fits(&prefix) {
                return Leaning { copy, prefix };
            }
            if similar.pop().is_none() {
                held.truncate(held.len() * 3 / 4);
            }
        }
    }

    /// Where sources hold what `window` holds, and places with content like the rest of it.
    fn finds(&self, piece: &Piece<'_>, window: &[u8]) -> Finds {
        let stretches = self.blocks.stretches(&piece.image, piece.offset, window);
        let held: Vec<Extent> = stretches.iter().filter_map(|stretch| stretch.held).collect();
        let new: Vec<_> =
            stretches.iter().filter(|stretch| stretch.held.is_none()).map(|stretch| stretch.bytes.clone()).collect();
        let extent_of = |place| self.corpus.extent(place, piece);
        let found = self.similar.places(window, &new, self.most_places, MIN_GAIN, |place| extent_of(place).is_some());
        let like = |found: Found| Some(Like { extent: extent_of(found.place)?, gain: found.gain });
        Finds { are_whole: held.len() == stretches.len(), held, likes: found.into_iter().filter_map(like).collect() }
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

/// How early a place of the image itself is taken that brings so much to the frame of this piece: higher ones are earlier.
fn rank(gain: usize, piece: &Piece<'_>) -> usize {
    let part = piece.offset / u64::from(MAX_OUTPUT_BYTES) % PARTS as u64;
    gain.min(GAINS - 1) * PARTS + usize::try_from(part).unwrap_or(0)
}

/// Of places, best first, those of the image itself: the [`rank`] of each, and how many bytes more are read with it than with those before it.
fn own_bytes(piece: &Piece<'_>, likes: &[Like]) -> Vec<(usize, u64)> {
    let (mut places, mut before) = (Vec::new(), 0);
    let own = likes.iter().filter(|like| like.extent.source == Source::Target);
    own.map(|like| {
        places.push(like.extent);
        let bytes: u64 = joined(places.clone()).iter().map(|extent| extent.length).sum();
        (rank(like.gain, piece), bytes.saturating_sub(std::mem::replace(&mut before, bytes)))
    })
    .collect()
}

/// The same bytes, each once, ascending, with those between two that are near.
fn joined(mut extents: Vec<Extent>) -> Vec<Extent> {
    extents.sort_unstable_by_key(|extent| (extent.source, extent.offset));
    let mut all: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        let near = |last: &Extent| last.length.saturating_add(last.length.clamp(MIN_GAP_BYTES, MAX_GAP_BYTES));
        match all.last_mut() {
            Some(last) if last.source == extent.source && extent.offset - last.offset <= near(last) => {
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

    use manifests::limits::MAX_WINDOWS;

    use super::*;
    use crate::build::encode::Encoder;
    use crate::format::Kind;
    use crate::limits::MAX_TABLE_BYTES;
    use crate::testing::{Dice, WINDOW};

    fn image<'a>(data: &'a Vec<u8>) -> Image<'a> {
        Image { name: "root", slot: None, size: data.len() as u64, data }
    }

    const ROOM: Room = Room { similar_bytes: 1 << 20, table_bytes: MAX_TABLE_BYTES };

    #[test]
    fn shares_of_the_frame_table_are_never_more_than_it_has() {
        let total = |wants: &[usize]| {
            let shares = Shares::of(wants, MAX_TABLE_BYTES);
            let taken: usize = wants.iter().map(|want| shares.of_frame(*want)).sum();
            let all = TABLE_HEAD_BYTES + wants.len() * FRAME_HEAD_BYTES + taken;
            assert!(all <= MAX_TABLE_BYTES as usize, "{all} of {} frames", wants.len());
            (shares, all)
        };
        let most = MAX_WINDOWS as usize;
        // Of the most frames there may be each wants more than it can have: what there is goes to them all the same.
        let (shares, all) = total(&vec![5000; most]);
        assert!(shares.of_frame(5000) >= 56 && all > MAX_TABLE_BYTES as usize * 98 / 100, "{shares:?}");
        // Half of them want nothing, and the others have it.
        let halves: Vec<usize> = (0..most).map(|frame| frame % 2 * 5000).collect();
        assert!(total(&halves).0.of_frame(5000) >= 80);
        // Most frames of a delta of 1 GiB want some 30 bytes, and a few as many as there can be.
        let usual: Vec<usize> = (0..4096).map(|frame| if frame % 50 == 0 { 5600 } else { 30 }).collect();
        let (shares, _) = total(&usual);
        assert_eq!((shares.of_frame(5600), shares.of_frame(30) >= 30), (5600, true));
        assert_eq!(Shares::of(&[], MAX_TABLE_BYTES).of_frame(0), Shares::of(&[], MAX_TABLE_BYTES).each);
        assert_eq!(Shares::of(&[100; 100], 100).of_frame(100), 0, "no room at all");
    }

    #[test]
    fn a_block_that_only_has_the_digest_of_another_is_no_copy_of_it() {
        let (old, new) = (Dice::new(1).bytes(WINDOW), Dice::new(2).bytes(4096));
        let plan = Plan::new(&[image(&new)], NonZeroU32::MIN).unwrap();
        let mut leanings = Leanings::of(&[image(&old)], &[image(&new)], &plan, ROOM, NonZeroUsize::MIN, &mut |_| {}).unwrap();
        leanings.blocks.collide(&new);
        let piece = plan.piece(0).unwrap();
        let same_digest = Extent { source: Source::Image(0), offset: 0, length: 4096 };
        assert_eq!(leanings.of_piece(&piece, &new).copy, Some(vec![same_digest]));
        let made = Encoder::new(3).unwrap().encode(&piece, &leanings).unwrap();
        assert_eq!((made.kind, made.blob == new), (Kind::Raw, true));
    }
}
