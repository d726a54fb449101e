//! Resume by content: which windows of the slot are right already.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use manifests::release::{Image, Record, Release, SlotName};
use payload::window::WindowSet;

use super::aside;
use super::error::InstallError;
use super::ledger::Amount;
use super::meter::Meter;
use crate::slot::readback::{self, Watch};
use crate::slot::{ImageTable, InactiveSlot, SlotError};

/// Which windows of a slot are looked at before anything is fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scan {
    /// None: nobody knows anything good of the slot, and reading it would cost more than it saves.
    Nothing,
    /// Every window: this release was being written to the slot before.
    All,
    /// These windows, by the image's index in the record.
    Candidates(Vec<(usize, WindowSet)>),
}

impl Scan {
    /// The windows that a slot shares with `release` if it holds what `previous` says.
    pub fn shared(previous: &Record, release: &Record, slot: SlotName) -> Self {
        let candidates = release.images_for(slot).map(|(index, image)| {
            let old = previous.images_for(slot).find(|(_, old)| old.name == image.name).map(|(_, old)| old);
            (index, old.map_or_else(WindowSet::new, |old| shared_windows(old, image)))
        });
        Self::Candidates(candidates.filter(|(_, windows)| !windows.is_empty()).collect())
    }

    /// The windows to look at in one image, ascending; `None` for all.
    fn of(&self, image: usize) -> Option<Vec<u64>> {
        match self {
            Self::All => None,
            Self::Nothing => Some(Vec::new()),
            Self::Candidates(images) => {
                let windows = images.iter().find(|(index, _)| *index == image).map(|(_, windows)| windows);
                Some(windows.map_or_else(Vec::new, |windows| windows.iter().map(u64::from).collect()))
            }
        }
    }
}

fn shared_windows(old: &Image, new: &Image) -> WindowSet {
    if old.table.window_size() != new.table.window_size() {
        return WindowSet::new();
    }
    // The last window of a longer image may be shorter in the other: then the digests differ.
    let equal = |window: &u32| old.table.digest(*window) == new.table.digest(*window);
    (0..new.table.count().min(old.table.count())).filter(equal).collect()
}

/// Hashes what `scan` asks for; the windows that are right, by image.
pub(super) async fn run(
    slot: &Arc<InactiveSlot>,
    release: &Arc<Release>,
    slot_name: SlotName,
    scan: Scan,
    meter: &Arc<Meter>,
    cancel: &Arc<AtomicBool>,
) -> Result<Vec<(usize, Vec<u32>)>, InstallError> {
    let cancel_here = Arc::clone(cancel);
    let (slot, release, meter, cancel) = (Arc::clone(slot), Arc::clone(release), Arc::clone(meter), Arc::clone(cancel));
    let work = move || {
        let images: Vec<_> =
            release.record().images_for(slot_name).map(|(index, image)| (index, image, scan.of(index))).collect();
        let total = images.iter().map(|(_, image, windows)| amount(image, windows.as_deref())).fold(Amount::default(), sum);
        let mut found = Vec::new();
        let mut before = Amount::default();
        for (index, image, windows) in &images {
            let here = amount(image, windows.as_deref());
            if here.windows > 0 {
                let tell = |done: Amount| meter.scanned(sum(before, done), total);
                found.push((*index, right_windows(&slot, image, windows.as_deref(), &tell, &cancel)?));
            }
            before = sum(before, here);
        }
        Ok(found)
    };
    let guard = StopOnDrop(Some(cancel_here));
    let found = aside(work).await;
    guard.defuse();
    found?.map_err(|error| match error {
        SlotError::Cancelled => InstallError::Cancelled,
        error => InstallError::Disk(error),
    })
}

/// Stops a scan whose caller went away without waiting for it.
struct StopOnDrop(Option<Arc<AtomicBool>>);

impl StopOnDrop {
    fn defuse(mut self) {
        self.0 = None;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(cancel) = &self.0 {
            cancel.store(true, Ordering::Relaxed);
        }
    }
}

fn right_windows(
    slot: &InactiveSlot,
    image: &Image,
    windows: Option<&[u64]>,
    tell: &(dyn Fn(Amount) + Sync),
    cancel: &AtomicBool,
) -> Result<Vec<u32>, SlotError> {
    let table = ImageTable::of(image)?;
    let told = |progress: readback::Progress| tell(Amount { windows: progress.windows_done, bytes: progress.bytes_done });
    let right = readback::scan(slot, &table, windows, &Watch::new(readback::thread_count(), cancel, &told))?;
    Ok(right.into_iter().filter_map(|window| u32::try_from(window).ok()).collect())
}

fn amount(image: &Image, windows: Option<&[u64]>) -> Amount {
    match windows {
        None => Amount { windows: u64::from(image.table.count()), bytes: image.table.image_size() },
        Some(windows) => {
            let count = u64::try_from(windows.len()).unwrap_or(u64::MAX);
            Amount { windows: count, bytes: count.saturating_mul(u64::from(image.table.window_size())) }
        }
    }
}

fn sum(mut left: Amount, right: Amount) -> Amount {
    left += right;
    left
}
