//! How far an install is, how fast it goes, and when it will be done.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use manifests::release::{Record, SlotName};

use super::ledger::Amount;

/// What is being done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Windows of the slot are hashed, to see which are right already, and nothing else is to be done before that.
    Scanning,
    /// Windows are fetched, verified and written.
    Fetching,
}

/// How far an install is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Windows of the slot that are right.
    pub windows_done: u64,
    /// Windows of the slot.
    pub windows_total: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes of the slot's images.
    pub bytes_total: u64,
    /// Bytes that came over the network.
    pub bytes_downloaded: u64,
    /// Bytes that were in the slot already.
    pub bytes_reused: u64,
    /// Bytes of images a second, over the last few seconds.
    pub rate_bytes_per_s: u64,
    /// Seconds left at that rate.
    pub eta_s: Option<u64>,
    /// Why nothing comes just now: the source and what it did. It is asked again, or another one is.
    pub trouble: Option<String>,
}

/// A rate is measured over at least this long.
const RATE_EVERY: Duration = Duration::from_millis(500);

/// Counts, and tells the caller.
pub(super) struct Meter {
    total: Amount,
    is_looking: AtomicBool,
    windows_done: AtomicU64,
    written: AtomicU64,
    reused: AtomicU64,
    downloaded: AtomicU64,
    pace: Mutex<Pace>,
    trouble: Mutex<Option<String>>,
    tell: Arc<dyn Fn(Progress) + Send + Sync>,
}

struct Pace {
    since: Instant,
    bytes: u64,
    rate: u64,
}

impl Meter {
    pub(super) fn new(record: &Record, slot: SlotName, tell: Arc<dyn Fn(Progress) + Send + Sync>) -> Self {
        let mut total = Amount::default();
        for (_, image) in record.images_for(slot) {
            total += Amount { windows: u64::from(image.table.count()), bytes: image.table.image_size() };
        }
        Self {
            total,
            is_looking: AtomicBool::new(false),
            windows_done: AtomicU64::new(0),
            written: AtomicU64::new(0),
            reused: AtomicU64::new(0),
            downloaded: AtomicU64::new(0),
            pace: Mutex::new(Pace { since: Instant::now(), bytes: 0, rate: 0 }),
            trouble: Mutex::default(),
            tell,
        }
    }

    /// Nothing is done but looking at what the slot holds; or something is.
    pub(super) fn looking(&self, is_looking: bool) {
        self.is_looking.store(is_looking, Ordering::Relaxed);
    }

    /// These were in the slot already.
    pub(super) fn reused(&self, amount: Amount) {
        self.reused.fetch_add(amount.bytes, Ordering::Relaxed);
        self.windows_done.fetch_add(amount.windows, Ordering::Relaxed);
        self.report();
    }

    /// These were written.
    pub(super) fn written(&self, amount: Amount) {
        self.written.fetch_add(amount.bytes, Ordering::Relaxed);
        self.windows_done.fetch_add(amount.windows, Ordering::Relaxed);
        self.report();
    }

    /// These, which were written or found, are missing again.
    pub(super) fn lost(&self, amount: Amount) {
        self.windows_done.fetch_sub(amount.windows, Ordering::Relaxed);
    }

    /// So much came over the network in all: told also where it is not enough yet for anything to be made of it.
    pub(super) fn downloaded(&self, bytes: u64) {
        if self.downloaded.swap(bytes, Ordering::Relaxed) != bytes {
            self.report();
        }
    }

    /// Nothing comes, and why; or bytes come again.
    pub(super) fn trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        self.report();
    }

    /// Bytes written and bytes reused.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.reused.load(Ordering::Relaxed))
    }

    /// Tells how far it is.
    pub(super) fn report(&self) {
        let (written, reused) = self.totals();
        let done = written.saturating_add(reused);
        let rate = self.rate_of(done);
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let left = self.total.bytes.saturating_sub(done);
        let is_looking = self.is_looking.load(Ordering::Relaxed);
        (self.tell)(Progress {
            phase: if is_looking { Phase::Scanning } else { Phase::Fetching },
            windows_done: self.windows_done.load(Ordering::Relaxed),
            windows_total: self.total.windows,
            bytes_written: written,
            bytes_total: self.total.bytes,
            bytes_downloaded: self.downloaded.load(Ordering::Relaxed),
            bytes_reused: reused,
            rate_bytes_per_s: rate,
            eta_s: eta(left, rate).filter(|_| trouble.is_none()),
            trouble,
        });
    }

    /// Bytes a second, when `bytes` are done in this phase.
    fn rate_of(&self, bytes: u64) -> u64 {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = pace.since.elapsed();
        if elapsed >= RATE_EVERY {
            let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            let now = bytes.saturating_sub(pace.bytes).saturating_mul(1000) / millis;
            // Half old, half new: a rate that jumps makes an estimate that nobody believes.
            let rate = if pace.rate == 0 { now } else { (pace.rate / 2).saturating_add(now / 2) };
            *pace = Pace { since: Instant::now(), bytes, rate };
        }
        pace.rate
    }
}

fn eta(left: u64, rate: u64) -> Option<u64> {
    (rate > 0).then(|| left.div_ceil(rate))
}
