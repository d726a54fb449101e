//! Reading and hashing the windows of an image with several threads, in bounded memory.

use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use manifests::digest::Sha256Digest;
use manifests::release::{Image, Verity};
use payload::verity::{SPAN, SpanHash, Spans};
use sha2::{Digest, Sha256};

use super::SlotError;
use super::buffer::{ALIGNMENT, AlignedBuf};
use super::open::{Held, OpenImage, TRANSFER_BYTES};

/// More readers than this gain nothing on any disk, and each takes a buffer of 1 MiB.
const THREADS_MAX: usize = 16;
/// Beyond one for each processor. Measured on two processors.
const EXTRA_THREADS: usize = 2;
/// More outrun any network and most disks.
const THREADS_ENOUGH: usize = 6;

/// Threads for work that both reads or writes the medium and computes: a few more than there are processors, because each of them
/// waits for the medium at times.
#[must_use]
pub fn thread_count() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    processors.saturating_add(EXTRA_THREADS).min(THREADS_ENOUGH)
}

/// What one image of a release has to be: the SHA-256 of each of its windows.
#[derive(Clone, Copy, Debug)]
pub struct ImageTable<'a> {
    image: &'a str,
    image_size: u64,
    window_size: u64,
    digests: &'a [Sha256Digest],
    verity: Option<&'a Verity>,
}

impl<'a> ImageTable<'a> {
    /// A table for the image of that name. `image_size` and `window_size` in bytes; the last window may be shorter.
    ///
    /// # Errors
    /// [`SlotError::Spec`] if windows are not a multiple of 4096 bytes, or there is not exactly one digest for each.
    pub fn new(image: &'a str, image_size: u64, window_size: u64, digests: &'a [Sha256Digest]) -> Result<Self, SlotError> {
        let whole_blocks = window_size > 0 && window_size.is_multiple_of(ALIGNMENT as u64);
        if !whole_blocks || image_size.div_ceil(window_size) != digests.len() as u64 || image_size == 0 {
            return Err(SlotError::Spec(format!(
                "image \"{image}\": {} digests of windows of {window_size} bytes do not make {image_size} bytes",
                digests.len()
            )));
        }
        Ok(Self { image, image_size, window_size, digests, verity: None })
    }

    /// The table that a record has of an image.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of(image: &'a Image) -> Result<Self, SlotError> {
        let table = &image.table;
        let of = Self::new(&image.name, table.image_size(), u64::from(table.window_size()), table.digests())?;
        Ok(Self { verity: image.verity.as_ref(), ..of })
    }

    /// What the kernel is told of the image's tree of hashes, if it has one.
    pub(super) fn verity(&self) -> Option<&'a Verity> {
        self.verity
    }

    fn spans(&self) -> Result<Option<Spans>, SlotError> {
        let Some(verity) = self.verity else { return Ok(None) };
        let wrong = |why: String| SlotError::Spec(format!("image \"{}\": {why}", self.image));
        let salt = hex(&verity.salt).ok_or_else(|| wrong(format!("{:?} is no salt in hexadecimal digits", verity.salt)))?;
        Spans::new(self.image_size, &salt).map(Some).map_err(|error| wrong(error.to_string()))
    }

    /// The image's name.
    #[must_use]
    pub fn image(&self) -> &str {
        self.image
    }

    /// How many windows it has.
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.digests.len() as u64
    }

    fn bytes_of(&self, windows: &Range<u64>) -> Range<u64> {
        windows.start * self.window_size..self.image_size.min(windows.end * self.window_size)
    }

    fn matches(&self, window: u64, digest: &[u8; 32]) -> bool {
        usize::try_from(window).ok().and_then(|window| self.digests.get(window)).is_some_and(|wanted| wanted.as_bytes() == digest)
    }
}

/// How far a reading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Windows read and hashed.
    pub windows_done: u64,
    /// Windows there are.
    pub windows_total: u64,
    /// Bytes read and hashed.
    pub bytes_done: u64,
    /// Bytes there are.
    pub bytes_total: u64,
}

/// How a reading is done, watched and stopped.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    threads: usize,
    cancel: &'a AtomicBool,
    progress: &'a (dyn Fn(Progress) + Sync),
}

impl<'a> Watch<'a> {
    /// Reads with `threads` threads (1 to 16, each with a buffer of 1 MiB; twice the cores keeps disk and cores both busy), stops
    /// soon after `cancel` becomes true, and calls `progress` about once a MiB, from any of the threads.
    pub fn new(threads: usize, cancel: &'a AtomicBool, progress: &'a (dyn Fn(Progress) + Sync)) -> Self {
        Self { threads: threads.clamp(1, THREADS_MAX), cancel, progress }
    }
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// What looking for right windows has shown.
#[derive(Debug)]
pub struct Scanned {
    /// The windows that hold the right bytes, ascending.
    pub right: Vec<u64>,
    /// The first part that could not be read, if there was one: nothing in it counts as right.
    pub unreadable: Option<SlotError>,
}

/// Which of the `candidates` (ascending; all windows if `None`) of an image hold the right bytes.
pub(super) fn equal_windows(
    held: &Held,
    table: &ImageTable<'_>,
    candidates: Option<&[u64]>,
    watch: &Watch<'_>,
) -> Result<Scanned, SlotError> {
    let image = checked_image(held, table)?;
    let runs = match candidates {
        Some(windows) => runs_of(table, windows),
        None => all_runs(table),
    };
    let total = Totals::of(std::iter::once((table, runs.as_slice())));
    let (right, unreadable) = read(image, table, &runs, Wanted::Equal, None, &Counter::new(total, watch), watch)?;
    Ok(Scanned { right, unreadable })
}

/// What a whole image was found to be.
pub(super) struct Found {
    /// Windows that hold other bytes, ascending.
    pub(super) differing: Vec<u64>,
    /// The root of its tree of hashes, where the record names one.
    pub(super) root: Option<Sha256Digest>,
}

/// Reads the images of the tables whole, in order.
pub(super) fn read_whole(held: &Held, tables: &[ImageTable<'_>], watch: &Watch<'_>) -> Result<Vec<Found>, SlotError> {
    let runs: Vec<_> = tables.iter().map(all_runs).collect();
    let total = Totals::of(tables.iter().zip(runs.iter().map(Vec::as_slice)));
    let counter = Counter::new(total, watch);
    let one = |(table, runs): (&ImageTable<'_>, &Vec<Range<u64>>)| {
        let rooted = table.spans()?.map(|spans| Rooted { spans, hashes: Mutex::default() });
        let image = checked_image(held, table)?;
        let (differing, _) = read(image, table, runs, Wanted::Different, rooted.as_ref(), &counter, watch)?;
        let root = rooted.map(|rooted| rooted.root(image)).transpose()?;
        Ok(Found { differing, root })
    };
    tables.iter().zip(&runs).map(one).collect()
}

fn checked_image<'h>(held: &'h Held, table: &ImageTable<'_>) -> Result<&'h OpenImage, SlotError> {
    let image = held.image(table.image)?;
    if image.image_size() == table.image_size {
        return Ok(image);
    }
    Err(image.request(&format!("opened for {} bytes, the table has {}", image.image_size(), table.image_size)))
}

/// Windows that are read in one go: as many as fit a buffer, at least one.
fn windows_per_run(table: &ImageTable<'_>) -> u64 {
    (TRANSFER_BYTES as u64 / table.window_size).max(1)
}

fn all_runs(table: &ImageTable<'_>) -> Vec<Range<u64>> {
    let step = windows_per_run(table);
    let count = table.windows().div_ceil(step);
    (0..count).map(|run| run * step..table.windows().min((run + 1) * step)).collect()
}

fn runs_of(table: &ImageTable<'_>, windows: &[u64]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for &window in windows.iter().filter(|&&window| window < table.windows()) {
        match runs.last_mut() {
            Some(run) if run.end == window && run.end - run.start < windows_per_run(table) => run.end += 1,
            _ => runs.push(window..window + 1),
        }
    }
    runs
}

/// Which windows a reading is to name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Equal,
    Different,
}

/// Reads the runs with several threads and names the wanted windows, ascending. Where equal ones are wanted, one that cannot be read is none, and
/// the first such error comes with them.
fn read(
    image: &OpenImage,
    table: &ImageTable<'_>,
    runs: &[Range<u64>],
    wanted: Wanted,
    rooted: Option<&Rooted>,
    counter: &Counter<'_>,
    watch: &Watch<'_>,
) -> Result<(Vec<u64>, Option<SlotError>), SlotError> {
    image.forget_cache()?;
    let job = Job {
        image,
        table,
        runs,
        wanted,
        rooted,
        counter,
        cancel: watch.cancel,
        next: AtomicUsize::new(0),
        found: Mutex::default(),
        unreadable: Mutex::default(),
    };
    let outcome = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..watch.threads.min(runs.len())).map(|_| scope.spawn(|| job.work())).collect();
        let mine = job.work();
        let theirs = helpers.into_iter().map(|helper| helper.join().unwrap_or_else(|_| Err(job.broken())));
        theirs.fold(mine, Result::and)
    });
    outcome?;
    let mut found = job.found.into_inner().map_err(|_| image.request("a reading thread panicked"))?;
    found.sort_unstable();
    Ok((found, job.unreadable.into_inner().unwrap_or_default()))
}

/// One image's reading, shared by its threads.
struct Job<'a> {
    image: &'a OpenImage,
    table: &'a ImageTable<'a>,
    runs: &'a [Range<u64>],
    wanted: Wanted,
    rooted: Option<&'a Rooted>,
    counter: &'a Counter<'a>,
    cancel: &'a AtomicBool,
    next: AtomicUsize,
    found: Mutex<Vec<u64>>,
    unreadable: Mutex<Option<SlotError>>,
}

impl Job<'_> {
    /// Takes runs until none is left. The first error stops all threads.
    fn work(&self) -> Result<(), SlotError> {
        let mut buffer = AlignedBuf::zeroed(TRANSFER_BYTES);
        while let Some(run) = self.runs.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(SlotError::Cancelled);
            }
            let outcome = match self.hash_run(run, &mut buffer) {
                // Whoever looks for what is right finds nothing there; writing it may mend it.
                Err(error @ SlotError::Transfer { .. }) if self.wanted == Wanted::Equal => {
                    self.unreadable.lock().map_err(|_| self.broken())?.get_or_insert(error);
                    Ok(())
                }
                outcome => outcome,
            };
            if outcome.is_err() {
                self.next.store(self.runs.len(), Ordering::Relaxed);
            }
            outcome?;
            let bytes = self.table.bytes_of(run);
            self.counter.add(run.end - run.start, bytes.end - bytes.start);
        }
        Ok(())
    }

    fn hash_run(&self, run: &Range<u64>, buffer: &mut AlignedBuf) -> Result<(), SlotError> {
        let bytes = self.table.bytes_of(run);
        let mut hasher =
            WindowHasher { job: self, window: run.start, hasher: Sha256::new(), left: self.window_length(run.start) };
        let mut at = bytes.start;
        while at < bytes.end {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(SlotError::Cancelled);
            }
            let length = usize::try_from(bytes.end - at).unwrap_or(TRANSFER_BYTES).min(TRANSFER_BYTES);
            let padded = self.image.padded_length(at, length);
            self.image.read_at(at, &mut buffer.as_mut_slice()[..padded])?;
            hasher.feed(&buffer.as_slice()[..length])?;
            if let Some(rooted) = self.rooted {
                rooted.feed(self.image, at, &buffer.as_slice()[..length])?;
            }
            at += length as u64;
        }
        Ok(())
    }

    fn window_length(&self, window: u64) -> u64 {
        let bytes = self.table.bytes_of(&(window..window + 1));
        bytes.end.saturating_sub(bytes.start)
    }

    fn judge(&self, window: u64, digest: &[u8; 32]) -> Result<(), SlotError> {
        if self.table.matches(window, digest) == (self.wanted == Wanted::Equal) {
            self.found.lock().map_err(|_| self.broken())?.push(window);
        }
        Ok(())
    }

    fn broken(&self) -> SlotError {
        self.image.request("a reading thread panicked")
    }
}

/// The hashes over the spans of an image, as its threads find them: 32 bytes for each 512 KiB.
struct Rooted {
    spans: Spans,
    hashes: Mutex<Vec<(u64, SpanHash)>>,
}

impl Rooted {
    fn feed(&self, image: &OpenImage, at: u64, bytes: &[u8]) -> Result<(), SlotError> {
        let span = SPAN as u64;
        // Windows of records are 256 KiB or 1 MiB, and are read in pieces of 1 MiB.
        if !at.is_multiple_of(span) {
            return Err(image.request(&format!("cannot hash the tree of windows that begin at offset {at}")));
        }
        let hashes: Vec<_> = bytes.chunks(SPAN).zip(at / span..).map(|(bytes, at)| (at, self.spans.over(bytes))).collect();
        self.hashes.lock().map_err(|_| image.request("a reading thread panicked"))?.extend(hashes);
        Ok(())
    }

    fn root(self, image: &OpenImage) -> Result<Sha256Digest, SlotError> {
        let mut hashes = self.hashes.into_inner().map_err(|_| image.request("a reading thread panicked"))?;
        hashes.sort_unstable_by_key(|(at, _)| *at);
        let hashes: Vec<SpanHash> = hashes.into_iter().map(|(_, hash)| hash).collect();
        self.spans.root(&hashes).map_err(|error| image.request(&error.to_string()))
    }
}

/// Bytes of hexadecimal digits.
fn hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2));
    pairs.map(|pair| pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())).collect()
}

/// Cuts a run of bytes into windows.
struct WindowHasher<'a> {
    job: &'a Job<'a>,
    window: u64,
    hasher: Sha256,
    left: u64,
}

impl WindowHasher<'_> {
    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), SlotError> {
        while !bytes.is_empty() {
            let length = usize::try_from(self.left).unwrap_or(bytes.len()).min(bytes.len());
            let (now, later) = bytes.split_at(length);
            bytes = later;
            let is_whole = length as u64 == self.job.window_length(self.window);
            self.left -= length as u64;
            if is_whole {
                self.end_window(Sha256Digest::of_window(now).as_bytes())?;
                continue;
            }
            self.hasher.update(now);
            if self.left == 0 {
                let digest = self.hasher.finalize_reset().into();
                self.end_window(&digest)?;
            }
        }
        Ok(())
    }

    fn end_window(&mut self, digest: &[u8; 32]) -> Result<(), SlotError> {
        self.job.judge(self.window, digest)?;
        self.window += 1;
        self.left = self.job.window_length(self.window);
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Totals {
    windows: u64,
    bytes: u64,
}

impl Totals {
    fn of<'a>(parts: impl Iterator<Item = (&'a ImageTable<'a>, &'a [Range<u64>])>) -> Self {
        let mut totals = Self { windows: 0, bytes: 0 };
        for (table, runs) in parts {
            for run in runs {
                let bytes = table.bytes_of(run);
                totals.windows += run.end - run.start;
                totals.bytes += bytes.end - bytes.start;
            }
        }
        totals
    }
}

/// Adds up what all threads have done and reports it.
struct Counter<'a> {
    total: Totals,
    windows: AtomicU64,
    bytes: AtomicU64,
    progress: &'a (dyn Fn(Progress) + Sync),
}

impl<'a> Counter<'a> {
    fn new(total: Totals, watch: &Watch<'a>) -> Self {
        Self { total, windows: AtomicU64::new(0), bytes: AtomicU64::new(0), progress: watch.progress }
    }

    fn add(&self, windows: u64, bytes: u64) {
        (self.progress)(Progress {
            windows_done: self.windows.fetch_add(windows, Ordering::Relaxed) + windows,
            windows_total: self.total.windows,
            bytes_done: self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes,
            bytes_total: self.total.bytes,
        });
    }
}
