//! Finding a byte difference: which old bytes a window is made of, give or take a few.
//!
//! As in bsdiff, a match is extended to both sides over bytes that mostly agree, because in code that was compiled again every
//! address differs while all around it is the same. Old bytes are found by a hash of eight of them, with a bounded number of places
//! looked at, so that time grows with the window and not with what it is compared with.

use std::ops::Range;

use crate::varint::{push, zigzag};

/// Bytes that are looked up at once; a shorter match is not found.
const SEED_BYTES: usize = 8;

/// Places of one hash that are looked at, newest first.
const MAX_PLACES: usize = 24;

/// A match has to be so many bytes longer than what agrees without it to be worth a step.
const MIN_GAIN: usize = 8;

/// A match so long is taken without a look at others.
const GOOD_ENOUGH: usize = 4096;

/// What a window is made of, before compression.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// As the format has them: way to go, bytes to add, bytes to bring.
    pub(super) steps: Vec<u8>,
    pub(super) added: Vec<u8>,
    pub(super) literal: Vec<u8>,
}

/// Places of the old bytes by the hash of the eight that begin there. Used again for one window after the other.
#[derive(Default)]
pub(super) struct Seeds {
    heads: Vec<u32>,
    next: Vec<u32>,
    bits: u32,
}

/// No place.
const NOWHERE: u32 = u32::MAX;

impl Seeds {
    fn fill(&mut self, old: &[u8]) {
        let count = old.len().saturating_sub(SEED_BYTES - 1);
        self.bits = usize::BITS - count.leading_zeros();
        self.bits = self.bits.clamp(8, 22);
        self.heads.clear();
        self.heads.resize(1 << self.bits, NOWHERE);
        self.next.clear();
        self.next.resize(count, NOWHERE);
        for (at, seed) in (0_u32..).zip(old.array_windows::<SEED_BYTES>()) {
            let slot = slot_of(seed, self.bits);
            let (Some(head), Some(next)) =
                (self.heads.get_mut(slot), usize::try_from(at).ok().and_then(|at| self.next.get_mut(at)))
            else {
                continue;
            };
            *next = *head;
            *head = at;
        }
    }

    /// The longest match of the front of `new` that was found in `old`: its place and length.
    fn longest(&self, old: &[u8], new: &[u8]) -> (usize, usize) {
        let mut best = (0, 0);
        let Some(seed) = new.first_chunk::<SEED_BYTES>() else { return best };
        let mut place = self.heads.get(slot_of(seed, self.bits)).copied().unwrap_or(NOWHERE);
        for _ in 0..MAX_PLACES {
            let Some(at) = usize::try_from(place).ok().filter(|at| *at < self.next.len()) else { break };
            let length = agreeing(old.get(at..).unwrap_or_default(), new);
            if length > best.1 {
                best = (at, length);
            }
            if length >= GOOD_ENOUGH {
                break;
            }
            place = self.next.get(at).copied().unwrap_or(NOWHERE);
        }
        best
    }
}

fn slot_of(seed: &[u8; SEED_BYTES], bits: u32) -> usize {
    let hash = u64::from_le_bytes(*seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(hash >> (u64::BITS - bits)).unwrap_or(0)
}

/// Bytes by which both begin alike.
fn agreeing(left: &[u8], right: &[u8]) -> usize {
    let words =
        left.as_chunks::<8>().0.iter().zip(right.as_chunks::<8>().0).take_while(|(left, right)| left == right).count() * 8;
    let tail = left.iter().skip(words).zip(right.iter().skip(words)).take_while(|(left, right)| left == right).count();
    words + tail
}

/// Finds what `new` is made of, by `old`.
pub(super) fn difference(seeds: &mut Seeds, old: &[u8], new: &[u8]) -> Difference {
    seeds.fill(old);
    let mut search = Search { seeds, old, new, made: Difference::default(), old_at: 0, scanned: 0 };
    search.run();
    search.made
}

struct Search<'s> {
    seeds: &'s Seeds,
    old: &'s [u8],
    new: &'s [u8],
    made: Difference,
    /// Where in `old` the steps that are made end.
    old_at: usize,
    /// Up to here `new` was searched.
    scanned: usize,
}

/// Bytes of `new` from `at` that stand in `old` from `old_at`.
#[derive(Clone, Copy)]
struct Match {
    at: usize,
    old_at: usize,
}

impl Search<'_> {
    /// Goes from match to match. Between two of them lies what the first one is extended to, what the second one is extended back to, and
    /// what is neither's.
    fn run(&mut self) {
        let mut current = Match { at: 0, old_at: 0 };
        loop {
            let next = self.next_match(current);
            let limit = next.map_or(self.new.len(), |next| next.at);
            let mut forward = self.forward(current, limit);
            let mut backward = next.map_or(0, |next| self.backward(current.at, next));
            if let Some(next) = next.filter(|next| current.at + forward > next.at - backward) {
                let overlap = current.at + forward - (next.at - backward);
                let kept = self.best_cut(current, forward - overlap, next, backward, overlap);
                forward -= overlap - kept;
                backward -= kept;
            }
            self.step(current, forward, current.at + forward..limit - backward);
            match next {
                Some(next) => current = Match { at: next.at - backward, old_at: next.old_at - backward },
                None => return,
            }
        }
    }

    /// The next place from which another match is worth more than to go on with this one.
    fn next_match(&mut self, current: Match) -> Option<Match> {
        let agrees = |at: usize| {
            let old = (at + current.old_at).checked_sub(current.at).and_then(|old| self.old.get(old));
            old.is_some() && old == self.new.get(at)
        };
        // How many bytes from `at` up to `scored` the current match has right.
        let (mut at, mut scored, mut score) = (self.scanned, self.scanned, 0_usize);
        while at < self.new.len() {
            let (old_at, length) = self.seeds.longest(self.old, self.new.get(at..).unwrap_or_default());
            while scored < at + length {
                score += usize::from(agrees(scored));
                scored += 1;
            }
            if length > score + MIN_GAIN {
                self.scanned = at + length;
                return Some(Match { at, old_at });
            }
            if length > 0 && length == score {
                // It is what the current one has.
                (at, scored, score) = (at + length, at + length, 0);
                continue;
            }
            if scored > at {
                score -= usize::from(agrees(at));
            }
            at += 1;
            scored = scored.max(at);
        }
        self.scanned = at;
        None
    }

    /// How far a match reaches forward: where most bytes agree.
    fn forward(&self, from: Match, limit: usize) -> usize {
        let pairs = self.new.get(from.at..limit).unwrap_or_default().iter().zip(self.old.get(from.old_at..).unwrap_or_default());
        furthest(pairs)
    }

    /// How far a match reaches back, at most to `limit`.
    fn backward(&self, limit: usize, to: Match) -> usize {
        let new = self.new.get(limit..to.at).unwrap_or_default().iter().rev();
        let old = self.old.get(..to.old_at).unwrap_or_default().iter().rev();
        furthest(new.zip(old))
    }

    /// Of `overlap` bytes that both could make, how many the first one should.
    fn best_cut(&self, first: Match, first_has: usize, second: Match, backward: usize, overlap: usize) -> usize {
        let (mut score, mut best, mut cut) = (0_i64, 0_i64, 0);
        for offset in 0..overlap {
            let new = self.new.get(first.at + first_has + offset);
            let by_first = self.old.get(first.old_at + first_has + offset) == new;
            let by_second = self.old.get(second.old_at - backward + offset) == new;
            score += i64::from(by_first) - i64::from(by_second);
            if score > best {
                (best, cut) = (score, offset + 1);
            }
        }
        cut
    }

    fn step(&mut self, from: Match, add: usize, literal: Range<usize>) {
        let own = self.new.get(literal).unwrap_or_default();
        if add == 0 && own.is_empty() {
            return;
        }
        push(&mut self.made.steps, zigzag(signed(from.old_at) - signed(self.old_at)));
        push(&mut self.made.steps, to_u64(add));
        push(&mut self.made.steps, to_u64(own.len()));
        let new = self.new.get(from.at..from.at + add).unwrap_or_default();
        let old = self.old.get(from.old_at..from.old_at + add).unwrap_or_default();
        self.made.added.extend(new.iter().zip(old).map(|(new, old)| new.wrapping_sub(*old)));
        self.made.literal.extend(own);
        self.old_at = from.old_at + add;
    }
}

/// The length at which the bytes that agree outnumber the others most.
fn furthest<'b>(pairs: impl Iterator<Item = (&'b u8, &'b u8)>) -> usize {
    let (mut score, mut best, mut length) = (0_i64, 0_i64, 0);
    for (at, (new, old)) in pairs.enumerate() {
        score += if new == old { 1 } else { -1 };
        if score > best {
            (best, length) = (score, at + 1);
        }
    }
    length
}

fn signed(place: usize) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}

fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
