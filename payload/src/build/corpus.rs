//! Everything that frames may lean on, cut into numbered places.

use super::Image;
use super::plan::Piece;
use crate::error::Error;
use crate::format::{Extent, Source};
use crate::window::read_piece;

/// Bytes of a place: small enough that of a megabyte of prefix little is in vain, large enough that an extent pays for its bytes
/// in the frame table.
pub(super) const PLACE_BYTES: u64 = 16 * 1024;

/// Bits of a place's number.
pub(super) const PLACE_BITS: u32 = 24;

/// Images that frames lean on: those of the release that the host runs, and those that are made themselves.
pub(super) struct Corpus<'a> {
    members: Vec<Member<'a>>,
}

/// One image of a corpus.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) image: Image<'a>,
    pub(super) role: Role,
    /// Number of its first place.
    first: u32,
}

/// What an image is to the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Source image of this index.
    Source(u8),
    /// Image of this index, which the payload makes.
    Target(usize),
}

impl<'a> Corpus<'a> {
    /// `sources`, and behind them those of `targets` that may lean on themselves.
    pub(super) fn new(sources: &[Image<'a>], targets: &[Image<'a>]) -> Result<Self, Error> {
        let sources = (0..).zip(sources).map(|(index, image)| (*image, Role::Source(index)));
        let targets = (0..).zip(targets).map(|(index, image)| (*image, Role::Target(index)));
        let (mut members, mut places) = (Vec::new(), 0_u64);
        for (image, role) in sources.chain(targets) {
            let first = number(places)?;
            places += image.size.div_ceil(PLACE_BYTES);
            members.push(Member { image, role, first });
        }
        number(places)?;
        Ok(Self { members })
    }

    pub(super) fn members(&self) -> &[Member<'a>] {
        &self.members
    }

    /// Bytes of all images.
    pub(super) fn bytes(&self) -> u64 {
        self.members.iter().map(|member| member.image.size).fold(0, u64::saturating_add)
    }

    /// What `place` is to the frame of `piece`; nothing if it may not lean on it.
    pub(super) fn extent(&self, place: u32, piece: &Piece<'_>) -> Option<Extent> {
        let at = self.members.partition_point(|member| member.first <= place).checked_sub(1)?;
        let member = self.members.get(at)?;
        let start = u64::from(place - member.first) * PLACE_BYTES;
        let (source, limit) = match member.role {
            Role::Source(index) if member.image.is_there_for(&piece.image) => (Source::Image(index), member.image.size),
            Role::Target(index) if index == piece.image_index => (Source::Target, piece.offset),
            Role::Source(_) | Role::Target(_) => return None,
        };
        let end = start.saturating_add(PLACE_BYTES).min(limit);
        (start < end).then(|| Extent { source, offset: start, length: end - start })
    }

    /// Reads bytes that a frame of image `image` leans on.
    pub(super) fn read(&self, source: Source, image: usize, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let role = match source {
            Source::Target => Role::Target(image),
            Source::Image(index) => Role::Source(index),
        };
        let member = self.members.iter().find(|member| member.role == role);
        let member = member.ok_or_else(|| Error::field("source of an extent", "an image of the corpus", source))?;
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let name = |source| Error::Read { what: format!("image {:?}", member.image.name), offset, length, source };
        member.image.data.read_exact_at(buffer, offset).map_err(name)
    }
}

impl Image<'_> {
    /// Whether a host has this image of the running release when it makes `other`: what fits only one slot is never there for what
    /// fits only the same, nor always for what fits either.
    pub(super) fn is_there_for(&self, other: &Image<'_>) -> bool {
        self.slot.is_none() || (other.slot.is_some() && self.slot != other.slot)
    }
}

impl Member<'_> {
    /// Number of the place that byte `offset` lies in.
    pub(super) fn place_at(&self, offset: u64) -> u32 {
        // The sum was seen to fit when the corpus was made.
        self.first.saturating_add(u32::try_from(offset / PLACE_BYTES).unwrap_or(u32::MAX))
    }

    /// Reads up to `length` bytes from `offset`, fewer at the end of the image.
    pub(super) fn read_up_to(&self, offset: u64, length: u64, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let length = self.image.size.saturating_sub(offset).min(length);
        read_piece(self.image.name, self.image.data, offset, length, buffer)
    }
}

fn number(places: u64) -> Result<u32, Error> {
    u32::try_from(places).ok().filter(|places| *places <= 1 << PLACE_BITS).ok_or_else(|| {
        let most = (1_u64 << PLACE_BITS) * PLACE_BYTES / (1 << 30);
        Error::field("bytes of all images to lean on", format!("at most {most} GiB"), places.saturating_mul(PLACE_BYTES))
    })
}
