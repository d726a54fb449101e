//! Installing: fetch → decode → verify → write, until every window of the slot is what the signed record says.
//!
//! ```text
//!                 one task (async)                           a few threads
//!  Sources ─► front (header, frame table) ─► blobs ─► queue ─► decode ─► Verified ─► InactiveSlot::write_window
//!     ▲              ≤ 16 frames in flight            │            │ wrong
//!     └────────── fetched again, from another source ◄┴────────────┘
//! ```
//!
//! # Promises
//!
//! * Not one byte is written that is not part of a window whose digest the record signs ([`payload::window::Verified`] is the only
//!   thing a slot takes), and what was hashed is what is written.
//! * What is in the slot already is kept: only windows that differ are fetched ([`Scan`]: resume by content). A kill loses
//!   what was in flight, at most [`MAX_IN_FLIGHT`] frames, and no file can lie about the rest.
//! * A wrong byte costs its window: the frame is fetched again from another source, or its windows are made by the full payload where a delta
//!   cannot. If no source has it right, the error names image, window, offset and both digests, and the slot holds nothing wrong.
//! * A frame is made when all that it leans on is verified, and not before.
//! * Memory is bounded: the frame table, blobs of 2 MiB and the one that comes, and for each of two threads an output of 1 MiB and a process that
//!   decodes.
//! * A write that fails ends the install at once. Cancelling takes effect within a fraction of a second, and when [`run`] has
//!   returned, no thread works and, unless it succeeded, the slot is closed: but for a disk that does not answer, which is waited for a minute.
//!
//! Never: a look at the boot table (the caller has disarmed the slot), trust in a frame table, a wait on the caller's thread.
//!
//! # One request for each run of frames
//!
//! Neighbouring blobs are asked for with one range, however long, and read at the pace of the writers: a round trip for every few
//! MiB would idle a long line, and nothing is gained by it, since a transfer that breaks goes on where it stopped.

mod blobs;
mod error;
mod faults;
mod front;
mod ground;
mod ledger;
mod meter;
mod origin;
mod pool;
mod round;
mod scan;
mod stream;
mod walk;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use manifests::release::{Record, Release, SlotName};

pub use error::{InstallError, WrongWindow};
pub use ground::Base;
pub use meter::{Phase, Progress};
pub use pool::Decoding;
pub use scan::Scan;

use crate::fetch::limits::BUDGET_EXTRA_BYTES;
use crate::fetch::{Budget, Fetcher, Source, Sources};
use crate::slot::{InactiveSlot, Written};
use front::{Offered, Role};
use ledger::Ledger;
use meter::Meter;
use origin::Origins;
use pool::Pool;
use scan::Ahead;

/// Frames that were fetched and are not written yet; what a kill may lose.
pub const MAX_IN_FLIGHT: usize = 16;

/// Threads that decode, verify and write. Each takes up to 8 MiB with the process that decodes for it, and two of them write some hundred MiB a
/// second: more than comes over a network.
const MAX_THREADS: usize = 2;

/// How often a cancelled install is noticed, and what has come is told.
const CANCEL_EVERY: Duration = Duration::from_millis(50);

/// So long what an install has begun is waited for when it ends: in it a disk that answers at all has answered.
const DISK_PATIENCE: Duration = Duration::from_secs(60);

/// What to install, where, and from whom.
#[derive(Debug)]
pub struct Job {
    /// The verified release.
    pub release: Arc<Release>,
    /// Which of its images: those for this slot, and those for either.
    pub slot_name: SlotName,
    /// The slot, disarmed, opened for those images.
    pub slot: InactiveSlot,
    /// The daemon's client.
    pub fetcher: Fetcher,
    /// Who offers the full payload, in the order to be asked.
    pub sources: Vec<Source>,
    /// Length of the full payload, if the update server named it.
    pub payload_size: Option<u64>,
    /// Who offers a delta from the slot that runs, and its length.
    pub delta: Option<(Vec<Source>, Option<u64>)>,
    /// The slot that runs, if it can be leant on.
    pub base: Option<Base>,
    /// Where blobs are decoded.
    pub decoding: Decoding,
    /// Which windows may be in the slot already.
    pub scan: Scan,
}

/// A slot whose every window is right and flushed, and what that took.
#[derive(Debug)]
pub struct Installed {
    /// The slot, still open.
    pub written: Written,
    /// Bytes that came over the network, wasted ones included.
    pub bytes_downloaded: u64,
    /// Bytes that were in the slot already.
    pub bytes_reused: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

/// Installs. `progress` is called often and from several threads: it must be quick. `cancel` ends the work soon after it is set.
pub async fn run(
    job: Job,
    cancel: Arc<AtomicBool>,
    progress: Arc<dyn Fn(Progress) + Send + Sync>,
) -> Result<Installed, InstallError> {
    let Job { release, slot_name, slot, fetcher, sources, payload_size, delta, base, decoding, scan } = job;
    let slot = make_places(slot).await?;
    let meter = Arc::new(Meter::new(release.record(), slot_name, progress));
    // Whoever looks sees at once that something is done.
    meter.looking(true);
    meter.report();
    let ledger = Ledger::new(release.record(), slot_name);
    let ahead = Ahead::new(&scan, &slot, &release, slot_name);

    let budget = Budget::new(first_budget(release.record(), payload_size));
    let offered = |role, sources, size| {
        let mut sources = Sources::new(fetcher.clone(), sources, budget.clone())?;
        let troubled = meter.clone();
        sources.on_trouble(move |trouble| troubled.trouble(trouble));
        Ok::<_, InstallError>(Offered { role, sources, size, front: None })
    };
    // A delta that nobody offers properly is none.
    let mut delta = delta.and_then(|(sources, size)| offered(Role::Delta, sources, size).ok());
    let full = if sources.is_empty() && delta.is_some() { None } else { Some(offered(Role::Full, sources, payload_size)?) };
    // Whatever a delta wastes, the full payload can still be fetched once.
    if let (Some(delta), Some(_)) = (&mut delta, &full) {
        delta.sources.limit_share(budget.limit() / 2);
    }
    let mut pool = Pool::start(threads(), &decoding, &release, &slot)?;
    let mut install = stream::Install {
        release: &release,
        slot: &slot,
        base: base.as_ref(),
        ledger,
        ahead,
        delta,
        full,
        pool: &mut pool,
        meter: &meter,
        budget: &budget,
        origins: Origins::default(),
    };
    let streamed = tokio::select! {
        biased;
        () = is_set(&cancel, || meter.downloaded(budget.spent())) => Err(InstallError::Cancelled),
        streamed = install.run() => streamed,
    };
    let stream::Install { mut ahead, origins, .. } = install;
    let ended = tokio::time::timeout(DISK_PATIENCE, async {
        tokio::join!(ahead.stop(), pool.stop());
        drop(ahead);
        // What reads aside keeps the slot open: it ends when the disk answers it.
        while Arc::strong_count(&slot) > 1 {
            tokio::time::sleep(CANCEL_EVERY).await;
        }
    });
    if ended.await.is_err() {
        let patience_s = DISK_PATIENCE.as_secs();
        tracing::error!(slot = %slot_name, "the disk has not answered for {patience_s} s: the slot stays open until it does");
    }
    streamed?;
    let written = finish(slot).await?;
    let (bytes_written, bytes_reused) = meter.totals();
    let (slot, bytes_downloaded) = (slot_name, budget.spent());
    tracing::info!(%slot, bytes_reused, bytes_written, bytes_downloaded, made = origins.in_words(), "every window is right");
    Ok(Installed { written, bytes_downloaded, bytes_reused, bytes_written })
}

/// One thread for each processor, and no more than [`MAX_THREADS`].
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

async fn make_places(mut slot: InactiveSlot) -> Result<Arc<InactiveSlot>, InstallError> {
    let made = aside(move || slot.make_places().map(|()| Arc::new(slot)));
    made.await?.map_err(InstallError::Disk)
}

/// Takes the slot back from the threads, which have ended, and finishes it.
async fn finish(slot: Arc<InactiveSlot>) -> Result<Written, InstallError> {
    let slot = Arc::into_inner(slot).ok_or(InstallError::Broken("a thread still holds the slot"))?;
    aside(move || slot.finish()).await?.map_err(InstallError::Disk)
}

/// Runs what blocks on a thread that may.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, InstallError> {
    tokio::task::spawn_blocking(work).await.map_err(|_panic_or_shutdown| InstallError::Broken("a blocking work died"))
}

/// Ends when `cancel` is set: looked at whenever the task wakes, and at least every [`CANCEL_EVERY`]; then `meanwhile` is called, too.
async fn is_set(cancel: &AtomicBool, meanwhile: impl Fn()) {
    let mut tick = tokio::time::interval(CANCEL_EVERY);
    poll_fn(|context| {
        while tick.poll_tick(context).is_ready() {
            meanwhile();
        }
        if cancel.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Until the full payload's header is read: its length by the update server's word, but no payload is worth more than the images themselves.
fn first_budget(record: &Record, payload_size: Option<u64>) -> u64 {
    let images = bytes_of_images(record);
    budget_for(payload_size.map_or(images, |size| size.min(images)))
}

fn bytes_of_images(record: &Record) -> u64 {
    record.images.iter().map(|image| image.table.image_size()).fold(0, u64::saturating_add)
}

/// What an attempt may download where the full payload is so long (design 11.14).
fn budget_for(payload_bytes: u64) -> u64 {
    payload_bytes.saturating_mul(2).saturating_add(BUDGET_EXTRA_BYTES)
}
