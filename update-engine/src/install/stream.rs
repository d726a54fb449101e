//! The stream of frames: fetched in order, made by the threads in any order, fetched again where they came out wrong.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use manifests::release::{Record, Release};
use payload::apply::batches;
use payload::format::{Frame, FrameTable};
use payload::window as verify;

use super::MAX_IN_FLIGHT;
use super::error::{InstallError, WrongWindow};
use super::front::{self, Front};
use super::ledger::Ledger;
use super::meter::Meter;
use super::pool::{Made, Order, Outcome, Pool, right_windows};
use crate::fetch::limits::{MAX_GAP_BYTES, MAX_TRIES_PER_FRAME};
use crate::fetch::{Fault, FetchError, SourceId, Sources};

/// Makes every window that `ledger` misses.
pub(super) async fn all(
    release: &Release,
    ledger: &mut Ledger,
    sources: &mut Sources,
    payload_size: Option<u64>,
    pool: &mut Pool,
    meter: &Meter,
) -> Result<(), InstallError> {
    while !ledger.is_complete() {
        let front = front::fetch(sources, release.record(), payload_size).await?;
        let mut round = Round {
            record: release.record(),
            ledger: &mut *ledger,
            sources: &mut *sources,
            pool: &mut *pool,
            meter,
            front: &front,
            in_flight: 0,
            waiting: Vec::new(),
            spare: Vec::new(),
            repairs: VecDeque::new(),
            wrong_from: BTreeMap::new(),
        };
        let outcome = round.run().await;
        let failure = match outcome {
            Ok(None) => continue,
            Ok(Some(wrong)) => wrong,
            Err(InstallError::Fetch(error @ FetchError::Exhausted { .. })) => error.into(),
            Err(error) => return Err(error),
        };
        round.drain().await?;
        // What no source can satisfy may be the table's fault: whoever gave it is not believed again, if the record does not name it.
        if front.is_vouched || sources.drop_source(front.giver).is_err() {
            return Err(failure);
        }
        tracing::info!(reason = %failure, "the frame table is dropped together with the source that gave it");
    }
    Ok(())
}

/// One frame table, followed to its end.
struct Round<'a> {
    record: &'a Record,
    ledger: &'a mut Ledger,
    sources: &'a mut Sources,
    pool: &'a mut Pool,
    meter: &'a Meter,
    front: &'a Front,
    /// Frames handed to the pool and not settled.
    in_flight: usize,
    /// Frames that were made and are not settled.
    waiting: Vec<Made>,
    /// Memory of blobs, to be used again.
    spare: Vec<Vec<u8>>,
    /// Frames to be fetched again.
    repairs: VecDeque<u32>,
    /// Who gave which frame wrong, once for each time.
    wrong_from: BTreeMap<u32, Vec<SourceId>>,
}

/// What is wrong when no source is left that might have a frame right.
type Wrong = Option<InstallError>;

impl Round<'_> {
    /// Makes everything that is missing; answers what cannot be made with this table.
    async fn run(&mut self) -> Result<Wrong, InstallError> {
        match self.first_pass().await? {
            None => self.repair().await,
            wrong => Ok(wrong),
        }
    }

    /// Books what is still in flight, so that the next round gets its own frames only.
    async fn drain(&mut self) -> Result<(), InstallError> {
        while self.in_flight > 0 {
            let made = self.next_made().await?;
            self.settle(made)?;
        }
        Ok(())
    }

    async fn first_pass(&mut self) -> Result<Wrong, InstallError> {
        let table = Arc::clone(&self.front.table);
        let frames = self.ledger.frames(&table);
        for (bytes, run) in runs(&frames) {
            self.sources.announce(bytes);
            for frame in frames.get(run).unwrap_or_default() {
                if let Some(wrong) = self.feed(frame).await? {
                    return Ok(Some(wrong));
                }
            }
        }
        Ok(None)
    }

    /// Fetches frames again that came out wrong, until none does.
    async fn repair(&mut self) -> Result<Wrong, InstallError> {
        let table = Arc::clone(&self.front.table);
        loop {
            if let Some(frame) = self.repairs.pop_front().and_then(|index| table.frame(index)) {
                self.sources.announce(frame.blob());
                let avoid = self.least_trusted(frame.index());
                self.sources.turn_from(&avoid);
                if let Some(wrong) = self.feed(&frame).await? {
                    return Ok(Some(wrong));
                }
                continue;
            }
            if self.in_flight == 0 {
                return Ok(None);
            }
            let made = self.next_made().await?;
            if let Some(wrong) = self.settle(made)? {
                return Ok(Some(wrong));
            }
        }
    }

    /// Fetches a frame and hands it to the pool, once there is room for it.
    async fn feed(&mut self, frame: &Frame<'_>) -> Result<Wrong, InstallError> {
        while let Some(made) = self.made_already_or_in_the_way().await? {
            if let Some(wrong) = self.settle(made)? {
                return Ok(Some(wrong));
            }
        }
        let mut blob = self.spare.pop().unwrap_or_default();
        blob.clear();
        let source = if frame.blob().is_empty() { None } else { Some(self.fetch(frame.blob(), &mut blob).await?) };
        self.pool.order(Order { table: Arc::clone(&self.front.table), frame: frame.index(), blob, source })?;
        self.in_flight = self.in_flight.saturating_add(1);
        Ok(None)
    }

    /// Reads a blob, and meanwhile listens to the pool: a slot that fails ends the install, however slow the network is.
    async fn fetch(&mut self, range: Range<u64>, blob: &mut Vec<u8>) -> Result<SourceId, InstallError> {
        let Self { sources, pool, waiting, in_flight, .. } = self;
        let mut read = pin!(sources.read(range, blob));
        loop {
            tokio::select! {
                biased;
                source = &mut read => return Ok(source?),
                made = pool.made(), if waiting.len() < *in_flight => match made? {
                    Made { outcome: Outcome::Failed(error), .. } => return Err(InstallError::Disk(error)),
                    made => waiting.push(made),
                },
            }
        }
    }

    async fn made_already_or_in_the_way(&mut self) -> Result<Option<Made>, InstallError> {
        if self.in_flight >= MAX_IN_FLIGHT {
            return self.next_made().await.map(Some);
        }
        Ok(self.waiting.pop().or_else(|| self.pool.made_already()))
    }

    async fn next_made(&mut self) -> Result<Made, InstallError> {
        match self.waiting.pop() {
            Some(made) => Ok(made),
            None => self.pool.made().await,
        }
    }

    /// Books a frame that was made.
    fn settle(&mut self, made: Made) -> Result<Wrong, InstallError> {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.spare.push(made.blob);
        let table = Arc::clone(&self.front.table);
        let frame = table.frame(made.frame).ok_or(InstallError::Broken("a frame came back that is none"))?;
        let right = right_windows(frame.windows(), &made.outcome);
        let written = self.ledger.right(frame.image(), right);
        self.meter.downloaded(self.sources.downloaded());
        self.meter.written(written);
        match made.outcome {
            Outcome::Written => Ok(None),
            Outcome::Failed(error) => Err(InstallError::Disk(error)),
            Outcome::Died => Err(InstallError::Broken("a thread panicked")),
            Outcome::Undecodable(error) => Ok(self.wrong(&frame, made.source, 1, |tried| InstallError::WrongFrame {
                image: name_of(&table, frame.image()),
                offset: frame.image_offset(),
                reason: error.to_string(),
                tried,
            })),
            Outcome::Differs(windows) => {
                let record = self.record;
                Ok(self.wrong(&frame, made.source, windows.len(), |tried| wrong_window(record, &frame, &windows, tried)))
            }
        }
    }

    /// Books a frame that came out wrong: it is fetched again, unless nobody is left to ask.
    fn wrong(
        &mut self,
        frame: &Frame<'_>,
        source: Option<SourceId>,
        windows: usize,
        error: impl FnOnce(Tried) -> InstallError,
    ) -> Wrong {
        // Without a blob there is no source to blame: the table is wrong.
        let Some(source) = source else { return Some(error(self.sources.tried())) };
        for _ in 0..windows {
            self.sources.wrong_window(source);
        }
        self.wrong_from.entry(frame.index()).or_default().push(source);
        let error = error(self.sources.tried());
        tracing::info!(frame = %frame.name(), reason = %error, "a frame came out wrong");
        let giver_is_gone = !self.front.is_vouched && self.sources.is_dropped(self.front.giver);
        let someone_is_left = self.sources.usable().any(|id| self.tries(frame.index(), id) < MAX_TRIES_PER_FRAME);
        if giver_is_gone || !someone_is_left {
            return Some(error);
        }
        self.repairs.push_back(frame.index());
        None
    }

    fn tries(&self, frame: u32, source: SourceId) -> usize {
        self.wrong_from.get(&frame).map_or(0, |givers| givers.iter().filter(|giver| **giver == source).count())
    }

    /// Sources that gave this frame wrong more often than another one.
    fn least_trusted(&self, frame: u32) -> Vec<SourceId> {
        let fewest = self.sources.usable().map(|id| self.tries(frame, id)).min().unwrap_or(0);
        self.sources.usable().filter(|id| self.tries(frame, *id) > fewest).collect()
    }
}

type Tried = Vec<(String, Option<Fault>)>;

/// Frames to be fetched with one request each: neighbours, and those so near that reading what lies between is quicker than asking.
fn runs(frames: &[Frame<'_>]) -> Vec<(Range<u64>, Range<usize>)> {
    let mut runs: Vec<(Range<u64>, Range<usize>)> = Vec::new();
    for batch in batches(frames, u64::MAX) {
        match runs.last_mut() {
            Some((bytes, frames)) if batch.bytes.start.saturating_sub(bytes.end) <= MAX_GAP_BYTES && !bytes.is_empty() => {
                bytes.end = bytes.end.max(batch.bytes.end);
                frames.end = batch.frames.end;
            }
            _ => runs.push((batch.bytes, batch.frames)),
        }
    }
    runs
}

fn wrong_window(record: &Record, frame: &Frame<'_>, windows: &[verify::WrongWindow], tried: Tried) -> InstallError {
    let image = record.images.get(frame.image());
    let name = image.map_or_else(String::new, |image| image.name.clone());
    let first = windows.first();
    match first.and_then(|wrong| Some((wrong.window, wrong.expected?, wrong.got?))) {
        Some((window, expected, got)) => {
            let offset = image.and_then(|image| image.table.range(window)).map_or(0, |(offset, _)| offset);
            InstallError::WrongWindow(Box::new(WrongWindow { image: name, window, offset, expected, got, tried }))
        }
        None => {
            let reason = first.map_or_else(|| "it makes no window of the record".to_owned(), verify::WrongWindow::to_string);
            InstallError::WrongFrame { image: name, offset: frame.image_offset(), reason, tried }
        }
    }
}

fn name_of(table: &FrameTable, image: usize) -> String {
    table.images().get(image).map_or_else(String::new, |image| image.name.clone())
}
