//! Power cuts: which writes of a log a disk holds afterwards.
//!
//! A disk may keep what was not flushed in any order, in part, or not at all. So after a cut it holds everything that was written before
//! the last flush (an *epoch* is what was written between two), and of the epoch of the cut any subset, in which one write may be torn:
//! of its sectors any may be missing; only those count that hold something else than the disk held before.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::log::Entry;

/// Epochs of so many writes are enumerated: every subset of them.
const ALL_SUBSETS_UP_TO: usize = 10;
/// Subsets drawn of a larger one.
const RANDOM_SUBSETS: usize = 64;
/// A write that changes so many sectors is torn in all ways.
const ALL_TEARS_UP_TO: usize = 5;
/// One that changes so many is torn after each, and misses each.
const EACH_SECTOR_UP_TO: usize = 64;
/// What a disk writes in one piece.
pub const SECTOR: u64 = 512;

/// Writes and discards between two flushes, by their places in the log.
pub type Epoch = Vec<usize>;

/// The epochs of a log, in order.
#[must_use]
pub fn epochs(entries: &[Entry]) -> Vec<Epoch> {
    let mut epochs = vec![Epoch::new()];
    for (index, entry) in entries.iter().enumerate() {
        match (entry, epochs.last_mut()) {
            (Entry::Flush, Some(last)) if !last.is_empty() => epochs.push(Epoch::new()),
            (Entry::Flush, _) => {}
            (_, Some(last)) => last.push(index),
            (_, None) => {}
        }
    }
    epochs
}

/// One power cut.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cut {
    /// In which epoch.
    pub epoch: usize,
    /// Which of its writes the disk holds.
    pub kept: Vec<bool>,
    /// One of those it holds in part.
    pub torn: Option<Torn>,
}

/// A write that reached the disk in part.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Torn {
    /// Its place in the epoch.
    pub write: usize,
    /// Its sectors that did not, counted from its first: ascending, not empty, apart.
    pub missing: Vec<Range<u64>>,
}

/// A write, as far as cuts depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its sectors that change something, if all that was written before reached the disk: ascending.
    pub sectors: Vec<u64>,
    /// What it changes is what others than the update read: every way in which it may be torn counts.
    pub is_fine: bool,
}

/// A sequence of dice that is the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}

/// The cuts of an epoch of these writes that are always tried.
#[must_use]
pub fn systematic(epoch: usize, writes: &[Change], dice: &mut Dice) -> Vec<Cut> {
    let count = writes.len();
    let cut = |kept: Vec<bool>| Cut { epoch, kept, torn: None };
    let prefix = |length: usize| (0..count).map(|index| index < length).collect::<Vec<bool>>();
    let mut cuts = Vec::new();
    if count <= ALL_SUBSETS_UP_TO {
        cuts.extend((0..1_u32 << count).map(|bits| cut((0..count).map(|index| bits >> index & 1 == 1).collect())));
    } else {
        cuts.extend((0..=count).map(|length| cut(prefix(length))));
        cuts.extend((0..count).map(|missing| cut((0..count).map(|index| index != missing).collect())));
        cuts.extend((0..RANDOM_SUBSETS).map(|_| cut((0..count).map(|_| dice.below(2) == 1).collect())));
    }
    // The last write to arrive is torn.
    for (index, write) in writes.iter().enumerate() {
        let torn = |missing: Vec<u64>| Torn { write: index, missing: ranges(&missing) };
        cuts.extend(tears(write, dice).into_iter().map(|missing| Cut {
            epoch,
            kept: prefix(index + 1),
            torn: Some(torn(missing)),
        }));
    }
    cuts
}

/// What may be missing of a write that is torn: each time some of the sectors that it changes, never all.
fn tears(write: &Change, dice: &mut Dice) -> Vec<Vec<u64>> {
    let sectors = &write.sectors;
    let count = sectors.len();
    let missing = |is_missing: &dyn Fn(usize) -> bool| -> Vec<u64> {
        sectors.iter().enumerate().filter(|(index, _)| is_missing(*index)).map(|(_, sector)| *sector).collect()
    };
    let mut place = || usize::try_from(dice.below(count.max(1) as u64)).unwrap_or(0);
    match count {
        0 | 1 => Vec::new(),
        2..=ALL_TEARS_UP_TO => (1..(1_u32 << count) - 1).map(|bits| missing(&|index| bits >> index & 1 == 1)).collect(),
        _ if write.is_fine && count <= EACH_SECTOR_UP_TO => {
            let after = (1..count).map(|first| missing(&|index| index >= first));
            // Without the last one it is torn after the others.
            let without = (0..count - 1).map(|only| missing(&|index| index == only));
            after.chain(without).collect()
        }
        _ => {
            let (first, only) = (1 + place() % (count - 1), place());
            vec![missing(&|index| index >= 1), missing(&|index| index >= first), missing(&|index| index == only)]
        }
    }
}

/// A cut of this epoch, drawn.
#[must_use]
pub fn random(epoch: usize, writes: &[Change], dice: &mut Dice) -> Cut {
    // Cuts early and late in an epoch are as likely as those in its middle.
    let missing = dice.below(8);
    let kept: Vec<bool> = writes.iter().map(|_| dice.below(8) >= missing).collect();
    let present: Vec<usize> = (0..writes.len()).filter(|index| kept[*index] && writes[*index].sectors.len() > 1).collect();
    let torn = (!present.is_empty() && dice.below(2) == 0).then(|| {
        let write = present[usize::try_from(dice.below(present.len() as u64)).unwrap_or(0)];
        Torn { write, missing: ranges(&some_of(&writes[write].sectors, dice)) }
    });
    Cut { epoch, kept, torn }
}

/// Some of them, neither none nor all: the last ones, or any.
fn some_of(sectors: &[u64], dice: &mut Dice) -> Vec<u64> {
    let bound = sectors.len() as u64;
    let first = usize::try_from(1 + dice.below(bound - 1)).unwrap_or(1);
    if dice.below(2) == 0 {
        return sectors[first..].to_vec();
    }
    let one = sectors[usize::try_from(dice.below(bound)).unwrap_or(0)];
    let drawn: Vec<u64> = sectors.iter().copied().filter(|sector| *sector == one || dice.below(2) == 0).collect();
    if drawn.len() == sectors.len() { vec![one] } else { drawn }
}

/// Neighbours are one range.
fn ranges(sectors: &[u64]) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    for sector in sectors {
        match found.last_mut() {
            Some(last) if last.end == *sector => last.end += 1,
            _ => found.push(*sector..sector + 1),
        }
    }
    found
}

impl fmt::Display for Cut {
    /// `EPOCH/BITS[/WRITE:FIRST-LAST[,FIRST-LAST…]]`, the bits as digits 0 and 1, then the sectors that a write misses: what `--replay` takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits: String = self.kept.iter().map(|kept| if *kept { '1' } else { '0' }).collect();
        write!(f, "{}/{bits}", self.epoch)?;
        let Some(Torn { write, missing }) = &self.torn else { return Ok(()) };
        let missing: Vec<String> = missing.iter().map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
        write!(f, "/{write}:{}", missing.join(","))
    }
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("expected EPOCH/BITS or EPOCH/BITS/WRITE:FIRST-LAST,…, got {text:?}");
        let mut parts = text.split('/');
        let epoch = parts.next().and_then(|part| part.parse().ok()).ok_or_else(error)?;
        let bit = |c| match c {
            '0' => Some(false),
            '1' => Some(true),
            _ => None,
        };
        let kept: Vec<bool> = parts.next().and_then(|bits| bits.chars().map(bit).collect()).ok_or_else(error)?;
        let range = |part: &str| -> Option<Range<u64>> {
            let (first, last) = part.split_once('-')?;
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(first..last.checked_add(1)?)
        };
        let torn = |part: &str| -> Option<Torn> {
            let (write, missing) = part.split_once(':')?;
            let write = write.parse().ok().filter(|write| kept.get(*write) == Some(&true))?;
            let missing = missing.split(',').map(range).collect::<Option<Vec<_>>>()?;
            Some(Torn { write, missing })
        };
        let torn = parts.next().map(|part| torn(part).ok_or_else(error)).transpose()?;
        if parts.next().is_some() { Err(error()) } else { Ok(Self { epoch, kept, torn }) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const WRITE: Entry = Entry::Write { at: 0, length: 512, data_at: 0 };

    #[test]
    fn what_lies_between_two_flushes_is_an_epoch() {
        let entries = [Entry::Flush, WRITE, WRITE, Entry::Flush, Entry::Flush, WRITE];
        assert_eq!(epochs(&entries), [vec![1, 2], vec![5]]);
        assert_eq!(epochs(&entries[..4]), [vec![1, 2], vec![]], "nothing is cut after the last flush");
    }

    fn changes(count: usize, sectors: u64) -> Vec<Change> {
        vec![Change { sectors: (0..sectors).collect(), is_fine: true }; count]
    }

    #[test]
    fn a_small_epoch_is_enumerated_and_of_a_large_one_every_prefix_and_every_omission() {
        let mut dice = Dice::new(1);
        let small = systematic(3, &changes(10, 1), &mut dice);
        let subsets: HashSet<_> = small.iter().map(|cut| cut.kept.clone()).collect();
        assert_eq!((small.len(), subsets.len()), (1024, 1024));
        let large = systematic(0, &changes(40, 8), &mut dice);
        let whole: HashSet<Vec<bool>> = large.into_iter().filter(|cut| cut.torn.is_none()).map(|cut| cut.kept).collect();
        let prefixes: HashSet<Vec<bool>> = (0..=40).map(|length| (0..40).map(|index| index < length).collect()).collect();
        let omissions: HashSet<Vec<bool>> = (0..40).map(|missing| (0..40).map(|index| index != missing).collect()).collect();
        assert!(prefixes.is_subset(&whole) && omissions.is_subset(&whole));
        // Without the last write it is a prefix, too.
        assert_eq!((prefixes.union(&omissions).count(), whole.len()), (80, 80 + RANDOM_SUBSETS));
    }

    #[test]
    fn what_changes_few_sectors_is_torn_in_all_ways_and_what_changes_more_at_each() {
        let torn = |sectors: &[u64], is_fine| -> HashSet<Vec<Range<u64>>> {
            let writes = [Change { sectors: sectors.to_vec(), is_fine }];
            let cuts = systematic(0, &writes, &mut Dice::new(1));
            let torn: Vec<_> = cuts.into_iter().filter_map(|cut| cut.torn).map(|torn| torn.missing).collect();
            let different: HashSet<_> = torn.iter().cloned().collect();
            assert!(different.len() == torn.len() || !is_fine, "one twice: {torn:?}");
            different
        };
        assert!(torn(&[], true).is_empty() && torn(&[7], true).is_empty(), "a sector is there or not");
        assert_eq!(torn(&[1, 7], false), HashSet::from([ranges(&[1]), ranges(&[7])]));
        assert_eq!(torn(&[0, 1, 2, 3, 4], false).len(), 30);
        let each = torn(&[0, 1, 2, 3, 4, 6], true);
        assert!((1..6).all(|first| each.contains(&ranges(&[0, 1, 2, 3, 4, 6][first..]))), "{each:?}");
        assert!([0..1, 3..4, 6..7].iter().all(|only| each.contains(&vec![only.clone()])), "{each:?}");
        let large: Vec<u64> = (0..2048).collect();
        assert!((2..=3).contains(&torn(&large, true).len()) && torn(&large, false).contains(&ranges(&large[1..])));
    }

    #[test]
    fn a_cut_can_be_named_and_played_again() {
        let mut dice = Dice::new(7);
        for epoch in 0..200 {
            let writes: Vec<Change> = (0..dice.below(20)).flat_map(|_| changes(1, dice.below(9))).collect();
            let cut = random(epoch, &writes, &mut dice);
            assert_eq!(cut.to_string().parse::<Cut>().unwrap(), cut);
            assert!(cut.torn.is_none_or(|Torn { write, missing }| {
                let length: u64 = missing.iter().map(|range| range.end - range.start).sum();
                cut.kept[write] && (1..writes[write].sectors.len() as u64).contains(&length)
            }));
        }
        for wrong in ["", "1", "1/2", "1/01/0:1-1", "1/01/2:1-1", "1/01/1", "1/01/1:2-1", "1/01/1:1", "1/01/1:1-1/2", "x/01"] {
            assert!(wrong.parse::<Cut>().is_err(), "{wrong}");
        }
    }
}
