//! Which windows of a slot are still to be made.

use std::ops::Range;

use manifests::release::{Record, SlotName, WindowTable};
use payload::apply::needed;
use payload::format::{Frame, FrameTable};
use payload::window::WindowSet;

/// Windows that are not known to be right, image by image.
#[derive(Debug)]
pub(super) struct Ledger {
    images: Vec<Missing>,
}

#[derive(Debug)]
struct Missing {
    /// Index of the image in the record.
    image: usize,
    table: WindowTable,
    windows: WindowSet,
}

/// Windows and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Amount {
    pub(super) windows: u64,
    pub(super) bytes: u64,
}

impl Ledger {
    /// All windows of the images for a slot.
    pub(super) fn new(record: &Record, slot: SlotName) -> Self {
        let missing = |(image, entry): (usize, &manifests::release::Image)| Missing {
            image,
            table: entry.table.clone(),
            windows: WindowSet::all(entry.table.count()),
        };
        Self { images: record.images_for(slot).map(missing).collect() }
    }

    /// These windows are right; answers those that were not known to be.
    pub(super) fn right(&mut self, image: usize, windows: impl IntoIterator<Item = u32>) -> Amount {
        let Some(missing) = self.images.iter_mut().find(|missing| missing.image == image) else { return Amount::default() };
        let mut amount = Amount::default();
        for window in windows {
            if missing.windows.remove(window) {
                let length = missing.table.range(window).map_or(0, |(_, length)| u64::from(length));
                amount += Amount { windows: 1, bytes: length };
            }
        }
        amount
    }

    /// These windows were found to be wrong after all.
    pub(super) fn lost(&mut self, image: usize, windows: impl IntoIterator<Item = u32>) -> Amount {
        let Some(missing) = self.images.iter_mut().find(|missing| missing.image == image) else { return Amount::default() };
        let mut amount = Amount::default();
        for window in windows {
            if let Some((_, length)) = missing.table.range(window).filter(|_| missing.windows.insert(window)) {
                amount += Amount { windows: 1, bytes: u64::from(length) };
            }
        }
        amount
    }

    /// Whether a window is still to be made.
    pub(super) fn misses(&self, image: usize, window: u32) -> bool {
        self.images.iter().any(|missing| missing.image == image && missing.windows.contains(window))
    }

    /// Runs of windows of `frame` that are still to be made.
    pub(super) fn missing_of(&self, frame: &Frame<'_>) -> Vec<Range<u32>> {
        let mut runs: Vec<Range<u32>> = Vec::new();
        for window in frame.windows().filter(|window| self.misses(frame.image(), *window)) {
            match runs.last_mut() {
                Some(run) if run.end == window => run.end = window + 1,
                _ => runs.push(window..window + 1),
            }
        }
        runs
    }

    /// Whether what `frame` needs of its own image is there.
    pub(super) fn bears(&self, frame: &Frame<'_>) -> bool {
        let image = frame.image();
        frame.needs().flatten().all(|window| !self.misses(image, window))
    }

    /// How many windows are missing.
    pub(super) fn missing(&self) -> u64 {
        self.images.iter().map(|missing| u64::from(missing.windows.len())).sum()
    }

    /// Whether nothing is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.images.iter().all(|missing| missing.windows.is_empty())
    }

    /// The frames that make what is missing, in the order of the payload.
    pub(super) fn frames<'t>(&self, table: &'t FrameTable) -> Vec<Frame<'t>> {
        self.images.iter().flat_map(|missing| needed(table, missing.image, &missing.windows)).collect()
    }
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.windows = self.windows.saturating_add(other.windows);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}
