//! Blocks of the source images that a window holds unchanged, at whatever place.
//!
//! File systems place content at multiples of 4 KiB, so what they hold unchanged is found by the digests of whole blocks, wherever a
//! builder has put it. Memory: 24 bytes for each block of the sources, 6 MiB for each GiB.

use std::num::NonZeroUsize;
use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::Image;
use super::corpus::{Corpus, Member, Role};
use crate::error::Error;
use crate::format::{Extent, Source};
use crate::parallel;

/// Bytes of a block.
pub(super) const BLOCK_BYTES: u64 = 4096;

/// Blocks that are hashed in one go.
const CHUNK_BLOCKS: u64 = 1024;

/// The blocks of all source images.
pub(super) struct Blocks<'a> {
    sources: Vec<SourceBlocks<'a>>,
    /// Digest, and number among the blocks of all sources; ascending. Of equal blocks of one source only the first: looking for one that is there
    /// takes no more steps than there are sources.
    by_digest: Vec<(u64, u32)>,
    /// The digest of each block.
    digests: Vec<u64>,
}

struct SourceBlocks<'a> {
    member: Member<'a>,
    index: u8,
    first: u32,
}

/// A stretch of a window.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stretch {
    /// Bytes of the window.
    pub(super) bytes: Range<usize>,
    /// Where a source holds the same; `None` = nowhere in whole blocks.
    pub(super) held: Option<Extent>,
}

impl<'a> Blocks<'a> {
    /// Hashes every block of the sources of `corpus`. `progress` gets the bytes done.
    pub(super) fn of(corpus: &Corpus<'a>, threads: NonZeroUsize, progress: &mut dyn FnMut(u64)) -> Result<Self, Error> {
        let (mut sources, mut digests, mut done) = (Vec::new(), Vec::new(), 0);
        for member in corpus.members() {
            let Role::Source(index) = member.role else { continue };
            let first = number(digests.len())?;
            sources.push(SourceBlocks { member: *member, index, first });
            let hash = |buffer: &mut Vec<u8>, chunk: u64| {
                let length = CHUNK_BLOCKS * BLOCK_BYTES;
                member.read_up_to(chunk * length, length, buffer)?;
                Ok(digests_of(buffer))
            };
            let chunks = member.image.size.div_ceil(CHUNK_BLOCKS * BLOCK_BYTES);
            parallel::ordered(
                chunks,
                threads,
                || Ok(Vec::new()),
                hash,
                |chunk, found| {
                    digests.extend(found);
                    progress(done + ((chunk + 1) * CHUNK_BLOCKS * BLOCK_BYTES).min(member.image.size));
                    Ok(())
                },
            )?;
            done += member.image.size;
        }
        number(digests.len())?;
        let mut by_digest: Vec<(u64, u32)> = digests.iter().copied().zip(0..).collect();
        by_digest.sort_unstable();
        by_digest.dedup_by_key(|(digest, number)| (*digest, sources.partition_point(|source| source.first <= *number)));
        by_digest.shrink_to_fit();
        Ok(Self { sources, by_digest, digests })
    }

    /// Cuts `window`, which stands at `offset` of `image`, into stretches that a source holds and stretches that none does. Of several places
    /// the one that goes on where the stretch before ended is taken, then the same offset of the image of that name, then the first.
    pub(super) fn stretches(&self, image: &Image<'_>, offset: u64, window: &[u8]) -> Vec<Stretch> {
        let size = usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
        let (mut stretches, mut after) = (Vec::<Stretch>::new(), None);
        for (at, (digest, block)) in digests_of(window).into_iter().zip(window.chunks(size)).enumerate() {
            let place = offset + u64::try_from(at * size).unwrap_or(0);
            let found = self.find(image, digest, after, || self.same_place(image, place));
            after = found.and_then(|block| block.checked_add(1));
            let held = found.and_then(|number| self.extent(number, block.len()));
            let bytes = at * size..at * size + block.len();
            match stretches.last_mut() {
                Some(last) if joins(last.held, held) => {
                    last.bytes.end = bytes.end;
                    if let (Some(last), Some(held)) = (&mut last.held, held) {
                        last.length += held.length;
                    }
                }
                _ => stretches.push(Stretch { bytes, held }),
            }
        }
        stretches
    }

    fn find(&self, image: &Image<'_>, digest: u64, after: Option<u32>, same: impl FnOnce() -> Option<u32>) -> Option<u32> {
        let is_there = |number: &u32| self.source_of(*number).is_some_and(|source| source.member.image.is_there_for(image));
        let is_it =
            |number: &u32| usize::try_from(*number).ok().and_then(|at| self.digests.get(at)) == Some(&digest) && is_there(number);
        after.filter(is_it).or_else(|| {
            let first = self.by_digest.partition_point(|(known, _)| *known < digest);
            let equal = self.by_digest.get(first..).unwrap_or_default().iter().take_while(|(known, _)| *known == digest);
            let first = equal.map(|(_, number)| *number).find(is_there)?;
            same().filter(is_it).or(Some(first))
        })
    }

    fn source_of(&self, number: u32) -> Option<&SourceBlocks<'a>> {
        self.sources.get(self.sources.partition_point(|source| source.first <= number).checked_sub(1)?)
    }

    /// The source image of the same name.
    fn namesake(&self, image: &Image<'_>) -> Option<&SourceBlocks<'a>> {
        self.sources.iter().find(|source| source.member.image.name == image.name && source.member.image.is_there_for(image))
    }

    /// The bytes of the source image of the same name that stand where these stand, as far as it has them.
    pub(super) fn same_bytes(&self, image: &Image<'_>, offset: u64, length: u64) -> Option<Extent> {
        let source = self.namesake(image)?;
        let end = offset.saturating_add(length).min(source.member.image.size);
        (offset < end).then(|| Extent { source: Source::Image(source.index), offset, length: end - offset })
    }

    /// The block of the source image of the same name that stands where this one stands.
    fn same_place(&self, image: &Image<'_>, offset: u64) -> Option<u32> {
        let source = self.namesake(image)?;
        let block = u32::try_from(offset / BLOCK_BYTES).ok()?;
        (offset < source.member.image.size).then(|| source.first.checked_add(block))?
    }

    fn extent(&self, number: u32, length: usize) -> Option<Extent> {
        let source = self.source_of(number)?;
        let offset = u64::from(number - source.first) * BLOCK_BYTES;
        Some(Extent { source: Source::Image(source.index), offset, length: u64::try_from(length).ok()? })
    }
}

fn joins(last: Option<Extent>, next: Option<Extent>) -> bool {
    match (last, next) {
        (None, None) => true,
        (Some(last), Some(next)) => last.source == next.source && last.offset + last.length == next.offset,
        _ => false,
    }
}

/// The first 8 bytes of each block's SHA-256. Whatever is made of a match is compared with the image before it counts.
fn digests_of(bytes: &[u8]) -> Vec<u64> {
    let size = usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
    let digest = |block: &[u8]| {
        let digest = Sha256::digest(block);
        digest.first_chunk().copied().map_or(0, u64::from_le_bytes)
    };
    bytes.chunks(size).map(digest).collect()
}

fn number(blocks: usize) -> Result<u32, Error> {
    u32::try_from(blocks).map_err(|_too_many| Error::field("blocks of all source images", "below 2^32", blocks))
}

#[cfg(test)]
impl Blocks<'_> {
    /// Makes the first block of the sources one that has the digest of `block`.
    pub(super) fn collide(&mut self, block: &[u8]) {
        let digest = digests_of(block)[0];
        self.digests[0] = digest;
        self.by_digest.retain(|(known, number)| *known != digest && *number != 0);
        self.by_digest.push((digest, 0));
        self.by_digest.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use manifests::release::SlotName;

    use super::*;

    #[test]
    fn of_many_equal_blocks_the_first_of_each_source_is_looked_at() {
        let ones = vec![1; 500 * 4096];
        let image = |slot, data| Image { name: "root", slot, size: 500 * 4096, data };
        let sources: Vec<_> = (0..8)
            .map(|number| image(if number < 7 { Some(SlotName::A) } else { None }, &ones as &dyn crate::window::ReadAt))
            .collect();
        let corpus = Corpus::new(&sources, &[]).unwrap();
        let blocks = Blocks::of(&corpus, NonZeroUsize::MIN, &mut |_| {}).unwrap();
        assert_eq!(
            blocks.by_digest.iter().map(|(_, number)| *number).collect::<Vec<_>>(),
            [0, 500, 1000, 1500, 2000, 2500, 3000, 3500]
        );
        // Whoever writes slot a has none of the first seven.
        let found = blocks.stretches(&Image { name: "other", ..image(Some(SlotName::A), &ones) }, 0, &ones[..8192]);
        let held = Extent { source: Source::Image(7), offset: 0, length: 8192 };
        assert_eq!(found, [Stretch { bytes: 0..8192, held: Some(held) }]);
    }
}
