//! Resume by content: which windows of the slot are right already, found out just ahead of what is fetched.
//!
//! Batches of windows are hashed in the order of the payload. While one is fetched and written, the next is hashed; so a slot that is right costs
//! one read of it, one that was half written costs what was written, and in one that holds something else the looking gives itself up: at once, if
//! none of a few windows from all over the image is right.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use manifests::digest::Sha256Digest;
use manifests::release::{Image, Record, Release, SlotName};
use payload::window::WindowSet;
use tokio::task::JoinHandle;

use super::error::InstallError;
use super::threads;
use crate::slot::readback::{self, Scanned, Watch};
use crate::slot::{ImageTable, InactiveSlot, SlotError};
use crate::world::chain;

/// Windows of an image that are looked at in a row without one that is right, before the rest of the image is taken for something else.
const MISSES_ENOUGH: usize = 256;

/// Windows that are tried first in an image of which nothing is known: half of them at its beginning, where writing begins, and half all over it.
const PROBES: usize = 32;

/// Bytes that are hashed in one go.
const BATCH_BYTES: u64 = 64 << 20;

/// Which windows may be in the slot already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scan {
    /// Any: nobody knows what it holds, or this release was being written to it.
    Any,
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

    /// The windows to look at in one image.
    fn of(&self, index: usize, image: &Image) -> WindowSet {
        match self {
            Self::Any => WindowSet::all(image.table.count()),
            Self::Candidates(images) => {
                let windows = images.iter().find(|(candidate, _)| *candidate == index);
                windows.map_or_else(WindowSet::new, |(_, windows)| windows.clone())
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

/// Looks at the slot, one batch ahead of whoever asks.
pub(super) struct Ahead {
    slot: Arc<InactiveSlot>,
    release: Arc<Release>,
    images: VecDeque<Pending>,
    /// What is hashed just now: of the first image.
    batch: Option<Batch>,
    /// Windows that may be right and were not looked at yet.
    left: u64,
    is_guess: bool,
    stop: Arc<AtomicBool>,
}

/// What is to be looked at in an image.
struct Pending {
    /// Its index in the record.
    image: usize,
    windows: WindowSet,
    /// Windows to be looked at before any other.
    probes: Vec<u64>,
    /// All below it are looked at or being looked at.
    next: u32,
    /// Windows in a row that were not right.
    misses: usize,
}

struct Batch {
    windows: Vec<u64>,
    is_probe: bool,
    found: JoinHandle<Result<Scanned, SlotError>>,
}

/// What a batch has shown: the image, and those of its windows that are right.
pub(super) type Right = (usize, Vec<u32>);

impl Ahead {
    pub(super) fn new(scan: &Scan, slot: &Arc<InactiveSlot>, release: &Arc<Release>, slot_name: SlotName) -> Self {
        let is_guess = matches!(scan, Scan::Any);
        let pending = |(index, image): (usize, &Image)| Pending {
            image: index,
            windows: scan.of(index, image),
            probes: if is_guess { probes(image) } else { Vec::new() },
            next: 0,
            misses: 0,
        };
        let images: VecDeque<Pending> = release.record().images_for(slot_name).map(pending).collect();
        Self {
            left: images.iter().map(|pending| u64::from(pending.windows.len())).sum(),
            slot: Arc::clone(slot),
            release: Arc::clone(release),
            images,
            batch: None,
            is_guess,
            stop: Arc::default(),
        }
    }

    /// Whether it is more likely than not that all these windows of `image`, which are not looked at yet, are right.
    pub(super) fn is_likely(&self, image: usize, mut windows: impl Iterator<Item = u32>) -> bool {
        let pending = self.images.iter().find(|pending| pending.image == image).filter(|_| !self.is_guess);
        pending.is_some_and(|pending| {
            // What was looked at before is known: what of it is right is not missing, and the rest is not right.
            let unknown = if self.images.front().is_some_and(|first| first.image == image) {
                pending.first_unknown(&self.batch)
            } else {
                0
            };
            windows.all(|window| window >= unknown && pending.windows.contains(window))
        })
    }

    /// Windows that may be right and were not looked at yet.
    pub(super) const fn left(&self) -> u64 {
        self.left
    }

    /// Goes on until window `last` of `image`, and every candidate before it, is looked at; `None` if that is so already.
    pub(super) async fn reach(&mut self, image: usize, last: u32) -> Result<Option<Right>, InstallError> {
        let is_ahead =
            |pending: &Pending| pending.image > image || (pending.image == image && pending.first_unknown(&self.batch) > last);
        if self.images.front().is_none_or(is_ahead) {
            return Ok(None);
        }
        self.next().await
    }

    /// Waits for the batch under way, and begins the next one; `None` if there is nothing more to look at.
    pub(super) async fn next(&mut self) -> Result<Option<Right>, InstallError> {
        if self.batch.is_none() {
            self.begin()?;
        }
        // It stays where it is while it is waited for: whoever goes away meanwhile leaves it to be stopped.
        let Some(batch) = &mut self.batch else { return Ok(None) };
        let found = (&mut batch.found).await.map_err(|_panic_or_shutdown| InstallError::Broken("a blocking work died"))?;
        let (Some(batch), Some(pending)) = (self.batch.take(), self.images.front_mut()) else { return Ok(None) };
        let found = match found {
            Ok(Scanned { right, unreadable }) => {
                // Whether writing it mends it, reading back will show.
                if let Some(error) = unreadable {
                    tracing::warn!(error = %chain(&error), "a part of the slot cannot be read: it is written anew");
                }
                right
            }
            Err(SlotError::Cancelled) => return Err(InstallError::Cancelled),
            Err(error) => return Err(InstallError::Disk(error)),
        };
        let image = pending.image;
        self.left = self.left.saturating_sub(pending.take_in(&batch.windows, batch.is_probe, &found));
        self.begin()?;
        Ok(Some((image, found.into_iter().filter_map(|window| u32::try_from(window).ok()).collect())))
    }

    /// Begins to hash the next batch, if one is left.
    fn begin(&mut self) -> Result<(), InstallError> {
        while let Some(pending) = self.images.front_mut() {
            let Some(image) = self.release.record().images.get(pending.image) else {
                return Err(InstallError::Broken("an image that is none"));
            };
            let is_probe = !pending.probes.is_empty();
            let windows = match is_probe {
                true => std::mem::take(&mut pending.probes),
                false => pending.take(BATCH_BYTES / u64::from(image.table.window_size()).max(1)),
            };
            if windows.is_empty() {
                self.images.pop_front();
                continue;
            }
            let (slot, release, stop) = (Arc::clone(&self.slot), Arc::clone(&self.release), Arc::clone(&self.stop));
            let (index, candidates) = (pending.image, windows.clone());
            let work = move || match release.record().images.get(index) {
                Some(image) => {
                    let watch = Watch::new(threads(), &stop, &|_| {});
                    readback::scan(&*slot, &ImageTable::of(image)?, Some(&candidates), &watch)
                }
                None => Ok(Scanned { right: Vec::new(), unreadable: None }),
            };
            self.batch = Some(Batch { windows, is_probe, found: tokio::task::spawn_blocking(work) });
            return Ok(());
        }
        Ok(())
    }

    /// Ends what is under way, and waits for it.
    pub(super) async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(batch) = self.batch.take() {
            let _found = batch.found.await;
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Pending {
    /// The next windows to be looked at, at most `count`.
    fn take(&mut self, count: u64) -> Vec<u64> {
        let count = usize::try_from(count.max(1)).unwrap_or(usize::MAX);
        let windows: Vec<u64> = self.windows.iter_from(self.next).take(count).map(u64::from).collect();
        if let Some(last) = windows.last().and_then(|last| u32::try_from(*last).ok()) {
            self.next = last.saturating_add(1);
        }
        windows
    }

    /// Takes in which of the `windows` of a batch were `found` right. How many windows are not to be looked at any more, those included.
    fn take_in(&mut self, windows: &[u64], is_probe: bool, found: &[u64]) -> u64 {
        let misses = trailing_misses(windows, found);
        let is_foreign = if is_probe {
            misses == windows.len()
        } else {
            let before = if misses == windows.len() { self.misses } else { 0 };
            self.misses = before.saturating_add(misses);
            self.misses >= MISSES_ENOUGH
        };
        // Probes come once more in their turn.
        let done = if is_probe { 0 } else { windows.len() };
        let given_up = if is_foreign { std::mem::take(&mut self.windows).iter_from(self.next).count() } else { 0 };
        u64::try_from(done.saturating_add(given_up)).unwrap_or(u64::MAX)
    }

    /// The first window that may be right and that nobody has looked at to the end.
    fn first_unknown(&self, batch: &Option<Batch>) -> u32 {
        let under_way = batch.as_ref().filter(|batch| !batch.is_probe);
        let under_way = under_way.and_then(|batch| u32::try_from(*batch.windows.first()?).ok());
        under_way.or_else(|| self.windows.iter_from(self.next).next()).unwrap_or(u32::MAX)
    }
}

/// The windows of an image to be looked at first, ascending. Zeros are no sign of anything. None, if there are hardly more windows than that.
fn probes(image: &Image) -> Vec<u64> {
    let table = &image.table;
    let zeros = Sha256Digest::of_window(&vec![0; usize::try_from(table.window_size()).unwrap_or(0)]);
    let telling: Vec<u64> =
        (0..).zip(table.digests()).filter(|(_, digest)| **digest != zeros).map(|(window, _)| window).collect();
    if telling.len() < 4 * PROBES {
        return Vec::new();
    }
    let (first, rest) = telling.split_at(PROBES / 2);
    let step = rest.len() / (PROBES / 2);
    first.iter().chain(rest.iter().skip(step - 1).step_by(step)).copied().collect()
}

/// Windows at the end of `looked_at` that are not in `found`; both ascend.
fn trailing_misses(looked_at: &[u64], found: &[u64]) -> usize {
    found.last().map_or(looked_at.len(), |last| looked_at.iter().rev().take_while(|window| *window > last).count())
}

#[cfg(test)]
mod tests {
    use manifests::release::WindowTable;

    use super::*;

    const WINDOW: u64 = 256 * 1024;

    /// An image whose windows are zeros where `is_zero` says so.
    fn image(windows: u32, is_zero: impl Fn(u32) -> bool) -> Image {
        let zeros = Sha256Digest::of_window(&vec![0; usize::try_from(WINDOW).unwrap()]);
        let digest = |window: u32| if is_zero(window) { zeros } else { Sha256Digest::of(&window.to_le_bytes()) };
        let table = WindowTable::new(u64::from(windows) * WINDOW, (0..windows).map(digest).collect()).unwrap();
        Image { name: "root".into(), slot: None, table, verity: None }
    }

    #[test]
    fn probes_are_the_first_windows_and_some_all_over_the_image_but_no_zeros() {
        let probes = probes(&image(4096, |window| window % 3 == 0));
        assert_eq!(probes.len(), PROBES);
        assert!(probes.is_sorted_by(|one, next| one < next) && probes.iter().all(|window| window % 3 != 0));
        assert_eq!(probes[..4], [1, 2, 4, 5]);
        let spread = &probes[PROBES / 2..];
        assert!(spread.windows(2).all(|pair| (200..300).contains(&(pair[1] - pair[0]))), "{spread:?}");
        assert!(*spread.last().unwrap() > 3900, "{spread:?}");
    }

    #[test]
    fn an_image_of_few_windows_or_of_zeros_is_not_probed() {
        assert_eq!(probes(&image(100, |_| false)), [0; 0]);
        assert_eq!(probes(&image(4096, |window| window > 100)), [0; 0]);
    }

    /// An image of so many windows of which nothing is known, and none of which was looked at.
    fn unknown(windows: u32) -> Pending {
        Pending { image: 0, windows: WindowSet::all(windows), probes: Vec::new(), next: 0, misses: 0 }
    }

    /// Looks at all of it in batches; `is_right` says what is found. The windows that were looked at.
    fn look(pending: &mut Pending, batch: u64, is_right: impl Fn(u64) -> bool) -> u64 {
        let (mut looked_at, mut done) = (0, 0);
        let all = u64::from(pending.windows.len());
        loop {
            let windows = pending.take(batch);
            if windows.is_empty() {
                assert_eq!(done, all, "what is given up is not left to be looked at");
                return looked_at;
            }
            looked_at += windows.len() as u64;
            let found: Vec<u64> = windows.iter().copied().filter(|window| is_right(*window)).collect();
            done += pending.take_in(&windows, false, &found);
        }
    }

    #[test]
    fn the_rest_of_an_image_is_given_up_after_256_windows_in_a_row_without_one_that_is_right() {
        assert_eq!(look(&mut unknown(4096), 64, |_| false), 256);
        assert_eq!(look(&mut unknown(4096), 100, |_| false), 300, "to the end of the batch");
        assert_eq!(
            look(&mut unknown(4096), 64, |window| window == 0),
            320,
            "those of the first batch count from the one that is right"
        );
        // What an install that was killed has left: all up to some window.
        assert_eq!(look(&mut unknown(4096), 64, |window| window < 1000), 1000_u64.next_multiple_of(64) + 192 + 64);
        // One in every 256 is enough to go on.
        assert_eq!(look(&mut unknown(4096), 64, |window| window % 256 == 255), 4096);
        assert_eq!(look(&mut unknown(4096), 64, |window| window % 300 == 299), 256);
        assert_eq!(look(&mut unknown(100), 64, |_| false), 100);
    }

    #[test]
    fn an_image_none_of_whose_probes_is_right_is_not_looked_at() {
        let mut foreign = unknown(4096);
        assert_eq!(foreign.take_in(&[1, 2, 3000], true, &[]), 4096);
        assert_eq!(foreign.take(64), [0_u64; 0]);
        let mut known = unknown(4096);
        assert_eq!(known.take_in(&[1, 2, 3000], true, &[2]), 0, "they come once more in their turn");
        assert_eq!((known.take(64).len(), known.misses), (64, 0));
    }

    #[test]
    fn misses_are_counted_from_the_last_window_that_was_right() {
        assert_eq!(trailing_misses(&[1, 2, 5, 9], &[2]), 2);
        assert_eq!(trailing_misses(&[1, 2, 5, 9], &[1, 9]), 0);
        assert_eq!(trailing_misses(&[1, 2, 5, 9], &[]), 4);
    }
}
