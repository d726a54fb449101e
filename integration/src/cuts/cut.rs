//! Power cuts: which writes of a log a disk holds afterwards.
//!
//! A disk may keep what was not flushed in any order, in part, or not at all. So after a cut it holds everything that was written before
//! the last flush (an *epoch* is what was written between two), and of the epoch of the cut any subset, in which one write may be torn.

use std::fmt;
use std::str::FromStr;

use super::log::Entry;

/// Epochs of so many writes are enumerated: every subset of them.
const ALL_SUBSETS_UP_TO: usize = 10;
/// Subsets drawn of a larger one.
const RANDOM_SUBSETS: usize = 64;
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
    /// One of them holds only so many of its first sectors: its place in the epoch, and how many.
    pub torn: Option<(usize, u64)>,
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

/// The cuts of an epoch of these writes (their lengths in bytes) that are always tried, in an order in which the next is near the last.
#[must_use]
pub fn systematic(epoch: usize, lengths: &[u64], dice: &mut Dice) -> Vec<Cut> {
    let count = lengths.len();
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
    // The last write to arrive is torn: after its first sector, and somewhere.
    for (index, length) in lengths.iter().enumerate() {
        let sectors = length / SECTOR;
        if sectors > 1 {
            let places = [1, 1 + dice.below(sectors - 1)];
            let places = &places[..1 + usize::from(places[0] != places[1])];
            cuts.extend(places.iter().map(|kept| Cut { epoch, kept: prefix(index + 1), torn: Some((index, *kept)) }));
        }
    }
    cuts
}

/// A cut of this epoch, drawn.
#[must_use]
pub fn random(epoch: usize, lengths: &[u64], dice: &mut Dice) -> Cut {
    // Cuts early and late in an epoch are as likely as those in its middle.
    let missing = dice.below(8);
    let kept: Vec<bool> = lengths.iter().map(|_| dice.below(8) >= missing).collect();
    let present: Vec<usize> = (0..lengths.len()).filter(|index| kept[*index] && lengths[*index] > SECTOR).collect();
    let torn = (!present.is_empty() && dice.below(2) == 0).then(|| {
        let index = present[usize::try_from(dice.below(present.len() as u64)).unwrap_or(0)];
        (index, 1 + dice.below(lengths[index] / SECTOR - 1))
    });
    Cut { epoch, kept, torn }
}

impl fmt::Display for Cut {
    /// `EPOCH/BITS[/WRITE:SECTORS]`, the bits as digits 0 and 1: what `--replay` takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits: String = self.kept.iter().map(|kept| if *kept { '1' } else { '0' }).collect();
        write!(f, "{}/{bits}", self.epoch)?;
        self.torn.map_or(Ok(()), |(write, sectors)| write!(f, "/{write}:{sectors}"))
    }
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("expected EPOCH/BITS or EPOCH/BITS/WRITE:SECTORS, got {text:?}");
        let mut parts = text.split('/');
        let epoch = parts.next().and_then(|part| part.parse().ok()).ok_or_else(error)?;
        let bit = |c| match c {
            '0' => Some(false),
            '1' => Some(true),
            _ => None,
        };
        let kept: Vec<bool> = parts.next().and_then(|bits| bits.chars().map(bit).collect()).ok_or_else(error)?;
        let torn = parts.next().map(|part| -> Result<(usize, u64), String> {
            let (write, sectors) = part.split_once(':').ok_or_else(error)?;
            let write = write.parse().ok().filter(|write| *write < kept.len()).ok_or_else(error)?;
            Ok((write, sectors.parse().map_err(|_| error())?))
        });
        let torn = torn.transpose()?;
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

    #[test]
    fn a_small_epoch_is_enumerated_and_of_a_large_one_every_prefix_and_every_omission() {
        let mut dice = Dice::new(1);
        let small = systematic(3, &[512; 10], &mut dice);
        let subsets: HashSet<_> = small.iter().map(|cut| cut.kept.clone()).collect();
        assert_eq!((small.len(), subsets.len()), (1024, 1024));
        let large = systematic(0, &[4096; 11], &mut dice);
        for length in 0..=11 {
            assert!(large.iter().any(|cut| cut.torn.is_none() && cut.kept.iter().take_while(|kept| **kept).count() == length));
        }
        for missing in 0..11 {
            assert!(large.iter().any(|cut| cut.kept.iter().enumerate().all(|(index, kept)| *kept == (index != missing))));
        }
        assert!((0..11).all(|write| large.iter().any(|cut| cut.torn == Some((write, 1)))));
    }

    #[test]
    fn a_cut_can_be_named_and_played_again() {
        let mut dice = Dice::new(7);
        for epoch in 0..200 {
            let lengths: Vec<u64> = (0..dice.below(20)).map(|_| 512 * (1 + dice.below(8))).collect();
            let cut = random(epoch, &lengths, &mut dice);
            assert_eq!(cut.to_string().parse::<Cut>().unwrap(), cut);
            assert!(cut.torn.is_none_or(|(write, sectors)| cut.kept[write] && sectors * SECTOR < lengths[write]));
        }
        for wrong in ["", "1", "1/2", "1/01/2:1", "1/01/1", "1/01/1:1/2", "x/01"] {
            assert!(wrong.parse::<Cut>().is_err(), "{wrong}");
        }
    }
}
