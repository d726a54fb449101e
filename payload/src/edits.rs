//! What people and programs do to images, for property tests.

use std::fmt;

use proptest::prelude::*;

use crate::testing::{Dice, WINDOW, disk_like};

/// Bytes of a block of a file system.
const BLOCK: usize = 4096;

/// Something that is done to an image.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Insert {
        at: usize,
        bytes: usize,
    },
    Remove {
        at: usize,
        bytes: usize,
    },
    Move {
        from: usize,
        to: usize,
        bytes: usize,
    },
    /// The same bytes once more, over what was there.
    Copy {
        from: usize,
        to: usize,
        bytes: usize,
    },
    Zero {
        at: usize,
        bytes: usize,
    },
    Noise {
        at: usize,
        bytes: usize,
    },
    /// Every so many bytes, one becomes another.
    Relocate {
        at: usize,
        bytes: usize,
        step: usize,
    },
    /// One bit.
    Flip {
        at: usize,
    },
    /// Whole blocks in another order.
    Shuffle {
        at: usize,
        blocks: usize,
    },
    /// Half of the image, from its middle on or up to there.
    Half {
        upper: bool,
    },
    Truncate {
        bytes: usize,
    },
    Grow {
        bytes: usize,
    },
}

pub(crate) fn edit() -> impl Strategy<Value = Edit> {
    let place = || prop_oneof![0..3 * WINDOW, (0..3 * WINDOW / BLOCK).prop_map(|block| block * BLOCK)];
    let length = || prop_oneof![0..100_usize, 0..20_000_usize, Just(BLOCK), Just(WINDOW)];
    prop_oneof![
        (place(), length()).prop_map(|(at, bytes)| Edit::Insert { at, bytes }),
        (place(), length()).prop_map(|(at, bytes)| Edit::Remove { at, bytes }),
        (place(), place(), length()).prop_map(|(from, to, bytes)| Edit::Move { from, to, bytes }),
        (place(), place(), length()).prop_map(|(from, to, bytes)| Edit::Copy { from, to, bytes }),
        (place(), length()).prop_map(|(at, bytes)| Edit::Zero { at, bytes }),
        (place(), length()).prop_map(|(at, bytes)| Edit::Noise { at, bytes }),
        (place(), length(), 1..200_usize).prop_map(|(at, bytes, step)| Edit::Relocate { at, bytes, step }),
        place().prop_map(|at| Edit::Flip { at }),
        (place(), 2..64_usize).prop_map(|(at, blocks)| Edit::Shuffle { at, blocks }),
        any::<bool>().prop_map(|upper| Edit::Half { upper }),
        place().prop_map(|bytes| Edit::Truncate { bytes }),
        length().prop_map(|bytes| Edit::Grow { bytes }),
    ]
}

/// Does it. An image never becomes empty, since none may be.
pub(crate) fn apply(image: &mut Vec<u8>, edit: &Edit, dice: &mut Dice) {
    let range = |image: &Vec<u8>, at: usize, bytes: usize| {
        let at = at.min(image.len());
        at..(at + bytes).min(image.len())
    };
    match *edit {
        Edit::Insert { at, bytes } => {
            let at = at.min(image.len());
            image.splice(at..at, dice.bytes(bytes));
        }
        Edit::Remove { at, bytes } => drop(image.drain(range(image, at, bytes))),
        Edit::Move { from, to, bytes } => {
            let taken: Vec<u8> = image.drain(range(image, from, bytes)).collect();
            let to = to.min(image.len());
            image.splice(to..to, taken);
        }
        Edit::Copy { from, to, bytes } => {
            let taken = image[range(image, from, bytes)].to_vec();
            let range = range(image, to, taken.len());
            image[range.clone()].copy_from_slice(&taken[..range.len()]);
        }
        Edit::Zero { at, bytes } => {
            let range = range(image, at, bytes);
            image[range].fill(0);
        }
        Edit::Noise { at, bytes } => {
            let range = range(image, at, bytes);
            overwrite(&mut image[range], dice);
        }
        Edit::Relocate { at, bytes, step } => {
            let range = range(image, at, bytes);
            image[range].iter_mut().step_by(step).for_each(|byte| *byte = byte.wrapping_add(17));
        }
        Edit::Flip { at } => {
            let range = range(image, at, 1);
            image[range].iter_mut().for_each(|byte| *byte ^= 1 << dice.below(8));
        }
        Edit::Shuffle { at, blocks } => {
            let range = range(image, at, blocks * BLOCK);
            shuffle(&mut image[range], dice);
        }
        Edit::Half { upper } => {
            let middle = image.len() / 2;
            let (low, high) = image.split_at_mut(middle);
            overwrite(if upper { high } else { low }, dice);
        }
        Edit::Truncate { bytes } => image.truncate(bytes),
        Edit::Grow { bytes } => image.extend(dice.bytes(bytes)),
    }
    if image.is_empty() {
        image.push(1);
    }
}

fn overwrite(bytes: &mut [u8], dice: &mut Dice) {
    let noise = dice.bytes(bytes.len());
    bytes.copy_from_slice(&noise);
}

/// Fisher-Yates, by whole blocks.
fn shuffle(bytes: &mut [u8], dice: &mut Dice) {
    for last in (1..bytes.len() / BLOCK).rev() {
        let (head, tail) = bytes.split_at_mut(last * BLOCK);
        let other = dice.below(last + 1) * BLOCK;
        if let Some(other) = head.get_mut(other..other + BLOCK) {
            other.swap_with_slice(&mut tail[..BLOCK]);
        }
    }
}

/// An image, and what became of it.
#[derive(Clone)]
pub(crate) struct Edited {
    pub(crate) old: Vec<u8>,
    pub(crate) new: Vec<u8>,
    seed: u64,
    edits: Vec<Edit>,
}

/// What a failure prints: how it was made, and not half a megabyte of numbers.
impl fmt::Debug for Edited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of seed {}, then {} by {:?}", self.old.len(), self.seed, self.new.len(), self.edits)
    }
}

impl Edited {
    fn new(old: Vec<u8>, seed: u64, mut dice: Dice, edits: Vec<Edit>) -> Self {
        let mut new = old.clone();
        edits.iter().for_each(|edit| apply(&mut new, edit, &mut dice));
        Self { old, new, seed, edits }
    }
}

/// An image of up to `most` bytes that looks like a disk, with up to so many edits.
pub(crate) fn edited(most: usize, edits: usize) -> impl Strategy<Value = Edited> {
    let parts = (any::<u64>(), 1..most, proptest::collection::vec(edit(), 0..edits));
    parts.prop_map(|(seed, size, edits)| Edited::new(disk_like(seed, size), seed, Dice::new(seed), edits))
}

/// An image that has the same noise again and again, each time edited a little, so that its frames lean on those before them.
pub(crate) fn repeating(windows: std::ops::Range<usize>) -> impl Strategy<Value = Edited> {
    (any::<u64>(), 1..=WINDOW, windows, proptest::collection::vec(edit(), 0..6)).prop_map(|(seed, once, windows, edits)| {
        let mut dice = Dice::new(seed);
        let once = dice.bytes(once.max(WINDOW / 4));
        let mut image: Vec<u8> = Vec::new();
        while image.len() < windows * WINDOW {
            let mut again = once.clone();
            (0..5).for_each(|_| again[dice.below(once.len())] ^= 0x21);
            image.extend(again);
        }
        Edited::new(image, seed, dice, edits)
    })
}
