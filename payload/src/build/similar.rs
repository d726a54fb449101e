//! Which places of a corpus hold content like that of a window.
//!
//! Content is sampled: of all shingles of [`SHINGLE_BYTES`] bytes those are kept whose first eight bytes hash to one value in `2^k`,
//! so that the same bytes give the same samples wherever they stand. Each sample is one word: 40 bits of a hash of the shingle
//! and the number of its place. The sorted words are the index. A window's samples are looked up in it, and places are taken
//! greedily: always the one that holds most of the samples that no place taken before holds.
//!
//! Memory: 8 bytes a sample, at most [`MAX_SAMPLES`] as a rule (512 MiB; content made of one repeated shingle is one sample a place).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroUsize;
use std::ops::Range;

use super::corpus::{Corpus, PLACE_BITS};
use crate::error::Error;
use crate::parallel;

/// Bytes of a shingle.
const SHINGLE_BYTES: usize = 24;

/// Of so many shingles one is sampled, as a power of two, as long as that makes no more than [`MAX_SAMPLES`].
const MIN_SPARSITY: u32 = 5;

/// Samples of an index, about: sparser sampling keeps larger images within it.
const MAX_SAMPLES: u64 = 1 << 26;

/// Of a shingle that stands in more places, the first ones are kept: those of the sources before those of the image itself. Measured on full
/// payloads of a 300 MB ext4 image: 84.1 MB if none of them is kept, 78.5 MB with 4, 78.2 MB with 8, 77.9 MB with 16.
const MAX_PLACES: usize = 16;

/// Bytes that are sampled in one go.
const CHUNK_BYTES: u64 = 4 << 20;

/// Bits of a sample's hash that the directory tells apart.
const DIRECTORY_BITS: u32 = 20;

/// The index over a corpus.
pub(super) struct Similar {
    sparsity: u32,
    /// `hash << PLACE_BITS | place`, ascending.
    samples: Vec<u64>,
    /// Where the samples begin whose hash begins with these bits.
    directory: Vec<u32>,
}

impl Similar {
    /// Samples every image of `corpus`, each byte once. `progress` gets the bytes done.
    pub(super) fn of(corpus: &Corpus<'_>, threads: NonZeroUsize, progress: &mut dyn FnMut(u64)) -> Result<Self, Error> {
        let sparsity = sparsity_for(corpus.bytes());
        let expected = usize::try_from(corpus.bytes() >> sparsity).unwrap_or(0);
        let mut samples = Vec::with_capacity(expected.saturating_add(expected / 8));
        let mut done = 0;
        for member in corpus.members() {
            let sample = |buffer: &mut Vec<u8>, index: u64| {
                let start = index * CHUNK_BYTES;
                let overlap = u64::try_from(SHINGLE_BYTES).unwrap_or(0) - 1;
                member.read_up_to(start, CHUNK_BYTES + overlap, buffer)?;
                let mut found = Vec::new();
                each_sample(buffer, sparsity, |at, hash| {
                    let place = member.place_at(start + u64::try_from(at).unwrap_or(0));
                    found.push(hash << PLACE_BITS | u64::from(place));
                });
                found.sort_unstable();
                found.dedup();
                Ok(found)
            };
            let chunks = member.image.size.div_ceil(CHUNK_BYTES);
            parallel::ordered(
                chunks,
                threads,
                || Ok(Vec::new()),
                sample,
                |index, found| {
                    samples.extend(found);
                    progress(done + (index * CHUNK_BYTES + CHUNK_BYTES).min(member.image.size));
                    Ok(())
                },
            )?;
            done += member.image.size;
        }
        samples.sort_unstable();
        drop_common(&mut samples);
        let directory = directory_of(&samples)?;
        Ok(Self { sparsity, samples, directory })
    }

    /// The places that hold most of the content of `ranges` of `window`, best first: at most `limit` of those that are `allowed` and each add
    /// `min_gain` samples.
    pub(super) fn places(
        &self,
        window: &[u8],
        ranges: &[Range<usize>],
        limit: usize,
        min_gain: usize,
        allowed: impl Fn(u32) -> bool,
    ) -> Vec<Found> {
        let (mut hits, mut count) = (Vec::new(), 0_u32);
        for range in ranges {
            each_sample(window.get(range.clone()).unwrap_or_default(), self.sparsity, |_, hash| {
                let before = hits.len();
                hits.extend(self.places_of(hash).filter(|place| allowed(*place)).map(|place| (place, count)));
                count += u32::from(hits.len() > before);
            });
        }
        hits.sort_unstable();
        hits.dedup();
        cover(&hits, count, limit, min_gain)
    }

    fn places_of(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        let bucket = usize::try_from(hash >> (HASH_BITS - DIRECTORY_BITS)).unwrap_or(usize::MAX);
        let bound =
            |at: usize| self.directory.get(at).and_then(|start| usize::try_from(*start).ok()).unwrap_or(self.samples.len());
        let samples = self.samples.get(bound(bucket)..bound(bucket.saturating_add(1))).unwrap_or_default();
        let first = samples.partition_point(|sample| sample >> PLACE_BITS < hash);
        let found = samples.get(first..).unwrap_or_default().iter().take_while(move |sample| *sample >> PLACE_BITS == hash);
        // The lower bits are the place's number, which is a u32.
        found.map(|sample| (sample & ((1 << PLACE_BITS) - 1)) as u32)
    }
}

/// A place that holds some of a window's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) place: u32,
    /// Samples that no place before it holds.
    pub(super) gain: usize,
}

const HASH_BITS: u32 = u64::BITS - PLACE_BITS;

fn sparsity_for(bytes: u64) -> u32 {
    (MIN_SPARSITY..u64::BITS - 1).find(|sparsity| bytes >> sparsity <= MAX_SAMPLES).unwrap_or(MIN_SPARSITY)
}

/// Tells of each shingle of `bytes` that is sampled: its place in `bytes` and its hash of 40 bits.
fn each_sample(bytes: &[u8], sparsity: u32, mut found: impl FnMut(usize, u64)) {
    for (at, shingle) in bytes.array_windows::<SHINGLE_BYTES>().enumerate() {
        let word = |from: usize| shingle.get(from..from + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes);
        let first = word(0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Zeros hash to zero, and are no sample.
        if first >> (u64::BITS - sparsity) == 1 {
            let second = (first ^ word(8)).wrapping_mul(0xff51_afd7_ed55_8ccd);
            let third = (second ^ second >> 32 ^ word(16)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
            found(at, (third ^ third >> 29) >> PLACE_BITS);
        }
    }
}

/// Takes samples out that stand there twice, and of shingles in many places all but the first ones. `samples` are ascending.
fn drop_common(samples: &mut Vec<u64>) {
    samples.dedup();
    let (mut hash, mut count) = (u64::MAX, 0);
    samples.retain(|sample| {
        count = if sample >> PLACE_BITS == hash { count + 1 } else { 1 };
        hash = sample >> PLACE_BITS;
        count <= MAX_PLACES
    });
}

fn directory_of(samples: &[u64]) -> Result<Vec<u32>, Error> {
    let mut directory = Vec::with_capacity((1 << DIRECTORY_BITS) + 1);
    let mut at = 0;
    for bucket in 0..1_u64 << DIRECTORY_BITS {
        directory.push(u32::try_from(at).map_err(|_too_many| Error::field("samples", "at most 2^32", samples.len()))?);
        at += samples.iter().skip(at).take_while(|sample| *sample >> (u64::BITS - DIRECTORY_BITS) == bucket).count();
    }
    Ok(directory)
}

/// Takes places that each add `min_gain` samples, until `limit` are taken. `hits` are (place, sample), ascending.
fn cover(hits: &[(u32, u32)], count: u32, limit: usize, min_gain: usize) -> Vec<Found> {
    let mut covered = vec![false; usize::try_from(count).unwrap_or(0)];
    let runs: Vec<&[(u32, u32)]> = hits.chunk_by(|left, right| left.0 == right.0).collect();
    let mut heap: BinaryHeap<_> = runs.iter().enumerate().map(|(at, run)| (run.len(), Reverse(at))).collect();
    let mut found = Vec::new();
    while let Some((promised, Reverse(at))) = heap.pop().filter(|_| found.len() < limit) {
        let run = runs.get(at).copied().unwrap_or_default();
        let new =
            |sample: u32| usize::try_from(sample).ok().and_then(|sample| covered.get(sample)).is_some_and(|covered| !covered);
        let gain = run.iter().filter(|(_, sample)| new(*sample)).count();
        if gain < min_gain {
            continue;
        }
        if gain < promised {
            heap.push((gain, Reverse(at)));
            continue;
        }
        for (place, sample) in run {
            if let Some(covered) = usize::try_from(*sample).ok().and_then(|sample| covered.get_mut(sample)) {
                *covered = true;
            }
            if found.last().is_none_or(|last: &Found| last.place != *place) {
                found.push(Found { place: *place, gain });
            }
        }
    }
    found
}
