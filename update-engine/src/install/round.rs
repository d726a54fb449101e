//! One frame table, followed to its end: frames are fetched in order, made by the threads as soon as what they lean on is there, and booked.
//!
//! # Order
//!
//! A frame may lean on windows of its image below it. They are asked for before it, so that it waits for frames that are under way, or for one that
//! came out wrong and is then made again before anything else, the lowest first. So whatever waits, the lowest of all frames waits for nobody, and
//! what is fetched while nothing else is under way is never held: memory stays bounded out of turn, too.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use manifests::release::Record;
use payload::format::{Frame, Kind};

use super::MAX_IN_FLIGHT;
use super::blobs::BlobMemory;
use super::error::InstallError;
use super::front::{Front, Offered};
use super::ground::Running;
use super::ledger::Ledger;
use super::meter::Meter;
use super::origin::{Origin, Origins, windows_in_words};
use super::pool::{Made, Order, Outcome, Pool, Task, Which, right_windows};
use super::scan::Ahead;
use super::walk::Walk;
use crate::fetch::{Budget, FetchError, SourceId, Sources};
use crate::slot::InactiveSlot;

/// Why a payload is followed no further.
pub(super) enum Stop {
    /// It is a delta that leads nowhere.
    Delta(String),
    /// Nobody can make a window.
    Wrong(InstallError),
}

/// One frame table, followed to its end.
pub(super) struct Round<'a> {
    pub(super) record: &'a Record,
    pub(super) slot: &'a Arc<InactiveSlot>,
    pub(super) ledger: &'a mut Ledger,
    pub(super) ahead: &'a mut Ahead,
    pub(super) followed: &'a mut Offered,
    pub(super) beside: Option<&'a mut Offered>,
    pub(super) front: &'a Arc<Front>,
    pub(super) running: Option<Arc<Running>>,
    pub(super) pool: &'a mut Pool,
    pub(super) meter: &'a Meter,
    pub(super) budget: &'a Budget,
    pub(super) origins: &'a mut Origins,
    /// Frames that are fetched, held, made, or to be made again.
    pub(super) busy: BTreeSet<Task>,
    /// Frames handed to the pool and not settled.
    pub(super) in_flight: usize,
    /// Frames that were made and are not settled.
    pub(super) waiting: Vec<Made>,
    /// Frames that were fetched, and lean on windows that are not there yet.
    pub(super) held: Vec<Order>,
    /// Memory of the blobs of all these.
    pub(super) blobs: BlobMemory,
    /// What is to be fetched and made out of turn, lowest first.
    pub(super) again: BTreeSet<Again>,
    /// Who gave which frame wrong, once for each time.
    pub(super) wrong_from: BTreeMap<Task, Vec<SourceId>>,
    /// Frames that the delta cannot make: the running slot is not what it should be, or they are of a kind that this build lacks.
    pub(super) unsound: u32,
    /// Windows that were right and turned out wrong.
    pub(super) losses: u32,
}

/// What is to be made out of turn, in the order of its place.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Again {
    image: usize,
    /// Its first window.
    window: u32,
    by: By,
}

/// Who makes it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum By {
    /// This frame, which came out wrong or was lost.
    Frame(Task),
    /// The full payload.
    Beside,
}

impl Again {
    pub(super) fn frame(frame: &Frame<'_>, task: Task) -> Self {
        Self { image: frame.image(), window: frame.windows().start, by: By::Frame(task) }
    }

    pub(super) const fn window_beside(image: usize, window: u32) -> Self {
        Self { image, window, by: By::Beside }
    }
}

impl Round<'_> {
    /// Makes everything that is missing; answers why that cannot be done with this table.
    pub(super) async fn run(&mut self) -> Result<Option<Stop>, InstallError> {
        let front = Arc::clone(self.front);
        let frames = self.ledger.frames(&front.table);
        let mut walk = Walk { frames: &frames, next: 0, asked: 0 };
        loop {
            while let Some(made) = self.waiting.pop().or_else(|| self.pool.made_already()) {
                if let Some(stop) = self.settle(made).await? {
                    return Ok(Some(stop));
                }
            }
            let frames = self.in_flight.saturating_add(self.held.len());
            let has_room = frames < MAX_IN_FLIGHT && self.blobs.have_room();
            // Somebody may wait for what came out wrong, and for nothing else.
            let urgent = !self.again.is_empty() && (!self.held.is_empty() || walk.is_at_end());
            // Out of turn no more is in flight than in turn; with nothing in flight one always goes on.
            let stop = if urgent && (has_room || self.in_flight == 0) {
                walk.asked = 0;
                self.make_again().await?
            } else if let Some(frame) = has_room.then(|| walk.next()).flatten() {
                self.look_at(frame).await?;
                let task = Task { which: Which::Followed, frame: frame.index() };
                // The slot may hold it, or a frame beside has made it meanwhile.
                if self.is_missing(frame) && matches!(frame.kind(), Kind::Unknown(_)) {
                    let why = payload::Error::NotAvailable { frame: frame.name(), kind: frame.kind() };
                    self.made_otherwise(frame, &why.to_string())?
                } else if self.is_missing(frame) && self.busy.insert(task) {
                    let is_wanted = |frame: &Frame<'_>| {
                        let is_of_use = self.is_missing(frame) && !matches!(frame.kind(), Kind::Unknown(_));
                        is_of_use && !self.ahead.is_likely(frame.image(), frame.windows())
                    };
                    if let Some(bytes) = walk.announce(frame, is_wanted) {
                        self.followed.sources.announce(bytes);
                    }
                    self.feed(task, &front, frame).await?
                } else {
                    None
                }
            } else if self.in_flight > 0 {
                let made = self.next_made().await?;
                self.settle(made).await?
            } else if self.held.is_empty() {
                return Ok(None);
            } else {
                return Err(InstallError::Broken("frames wait for windows that nobody makes"));
            };
            if stop.is_some() {
                return Ok(stop);
            }
        }
    }

    fn is_missing(&self, frame: &Frame<'_>) -> bool {
        frame.windows().any(|window| self.ledger.misses(frame.image(), window))
    }

    /// Finds out which windows of `frame` the slot holds already.
    async fn look_at(&mut self, frame: &Frame<'_>) -> Result<(), InstallError> {
        self.meter.looking(self.in_flight == 0);
        let last = frame.windows().end.saturating_sub(1);
        while let Some((image, windows)) = self.ahead.reach(frame.image(), last).await? {
            self.meter.reused(self.ledger.right(image, windows));
        }
        self.meter.looking(false);
        Ok(())
    }

    /// Books what is still in flight, and makes what was fetched and can be made, so that the next round gets its own frames only.
    pub(super) async fn drain(&mut self) -> Result<(), InstallError> {
        while self.in_flight > 0 {
            let made = self.next_made().await?;
            self.book(&made)?;
            match made.outcome {
                Outcome::Failed(error) => return Err(InstallError::Disk(error)),
                Outcome::NotDecoded(error) => return Err(InstallError::NotDecoded(error)),
                _ => self.hand_over_held()?,
            }
        }
        self.held.clear();
        Ok(())
    }

    /// Hands over what was held, and has all that it leans on now.
    pub(super) fn hand_over_held(&mut self) -> Result<(), InstallError> {
        let (held, ready): (Vec<Order>, Vec<Order>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|order| order.table.frame(order.task.frame).is_some_and(|frame| !self.ledger.bears(&frame)));
        self.held = held;
        ready.into_iter().try_for_each(|order| self.hand_over(order))
    }

    /// Fetches what came out wrong once more, from whoever gave it wrong least often.
    async fn make_again(&mut self) -> Result<Option<Stop>, InstallError> {
        let Some(Again { image, window, by }) = self.again.pop_first() else { return Ok(None) };
        let (task, front) = match by {
            By::Frame(task @ Task { which: Which::Followed, .. }) => (task, Arc::clone(self.front)),
            By::Frame(task) => match self.front_beside().await? {
                Ok(front) => (task, front),
                Err(stop) => return Ok(Some(stop)),
            },
            By::Beside => {
                let front = match self.front_beside().await? {
                    Ok(front) => front,
                    Err(stop) => return Ok(Some(stop)),
                };
                let maker = front.table.frame_of(image, window).map(|frame| frame.index());
                let task =
                    Task { which: Which::Beside, frame: maker.ok_or(InstallError::Broken("a window that no frame makes"))? };
                // A frame makes several windows: whoever asked first has asked for all.
                if !self.ledger.misses(image, window) || !self.busy.insert(task) {
                    return Ok(None);
                }
                (task, front)
            }
        };
        let frame = front.table.frame(task.frame).ok_or(InstallError::Broken("a frame that is none"))?;
        let avoid = self.least_trusted(task);
        let sources = self.sources(task.which);
        sources.announce(frame.blob());
        sources.turn_from(&avoid);
        let (is_alone, held) = (self.in_flight == 0, self.held.len());
        let stop = self.feed(task, &front, &frame).await?;
        debug_assert!(!is_alone || self.held.len() <= held, "the lowest of all frames waits: {}", frame.name());
        Ok(stop)
    }

    /// The full payload's front; if that is not to be had, the delta is given up, and the full payload followed for all the rest with all that is
    /// done about faults there.
    async fn front_beside(&mut self) -> Result<Result<Arc<Front>, Stop>, InstallError> {
        let Some(beside) = &mut self.beside else { return Err(InstallError::Broken("no full payload is there")) };
        match beside.front(self.record).await {
            Ok(front) => Ok(Ok(front)),
            Err(error @ InstallError::Fetch(_)) => Ok(Err(Stop::Delta(error.to_string()))),
            Err(error) => Err(error),
        }
    }

    pub(super) fn sources(&mut self, which: Which) -> &mut Sources {
        match (which, &mut self.beside) {
            (Which::Beside, Some(beside)) => &mut beside.sources,
            _ => &mut self.followed.sources,
        }
    }

    /// Fetches a frame, and hands it to the pool or holds it.
    async fn feed(&mut self, task: Task, front: &Arc<Front>, frame: &Frame<'_>) -> Result<Option<Stop>, InstallError> {
        // At most a frame's own length and a little more: the table was refused otherwise.
        let mut blob = self.blobs.take(usize::try_from(frame.blob().end - frame.blob().start).unwrap_or(0));
        let source = if frame.blob().is_empty() {
            None
        } else {
            match self.fetch(task.which, frame.blob(), &mut blob).await {
                Ok(source) => Some(source),
                Err(InstallError::Fetch(error @ (FetchError::Exhausted { .. } | FetchError::Budget { .. }))) => {
                    self.blobs.give_back(blob);
                    return self.nobody_has_it(error);
                }
                Err(error) => return Err(error),
            }
        };
        let running = if task.which == Which::Followed { self.running.clone() } else { None };
        let order = Order { task, table: Arc::clone(&front.table), running, wanted: self.ledger.missing_of(frame), blob, source };
        if self.ledger.bears(frame) {
            self.hand_over(order)?
        } else {
            self.held.push(order)
        }
        Ok(None)
    }

    fn nobody_has_it(&self, error: FetchError) -> Result<Option<Stop>, InstallError> {
        match (&self.beside, error) {
            (Some(_), error) => Ok(Some(Stop::Delta(error.to_string()))),
            (None, error @ FetchError::Exhausted { .. }) => Ok(Some(Stop::Wrong(error.into()))),
            (None, error) => Err(error.into()),
        }
    }

    fn hand_over(&mut self, order: Order) -> Result<(), InstallError> {
        self.pool.order(order)?;
        self.in_flight = self.in_flight.saturating_add(1);
        Ok(())
    }

    /// Reads a blob, and meanwhile listens to the pool: a slot that fails ends the install, however slow the network is.
    async fn fetch(&mut self, which: Which, range: Range<u64>, blob: &mut Vec<u8>) -> Result<SourceId, InstallError> {
        let Self { followed, beside, pool, waiting, in_flight, .. } = self;
        let sources = match (which, beside) {
            (Which::Beside, Some(beside)) => &mut beside.sources,
            _ => &mut followed.sources,
        };
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

    async fn next_made(&mut self) -> Result<Made, InstallError> {
        match self.waiting.pop() {
            Some(made) => Ok(made),
            None => self.pool.made().await,
        }
    }

    /// Counts a frame that was made: what of it is right is there.
    pub(super) fn book(&mut self, made: &Made) -> Result<Arc<Front>, InstallError> {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.busy.remove(&made.task);
        let beside = self.beside.as_ref().and_then(|beside| beside.front.clone());
        let front = match made.task.which {
            Which::Followed => Some(Arc::clone(self.front)),
            Which::Beside => beside,
        };
        let front = front.ok_or(InstallError::Broken("a frame came back of a payload that is none"))?;
        let frame = front.table.frame(made.task.frame).ok_or(InstallError::Broken("a frame came back that is none"))?;
        let missing = self.ledger.missing_of(&frame);
        if matches!(made.outcome, Outcome::NoFrame) {
            return Err(InstallError::Broken("a frame was ordered that is none"));
        }
        let written = self.ledger.right(frame.image(), right_windows(&made.wanted, &made.outcome));
        self.meter.downloaded(self.budget.spent());
        self.meter.written(written);
        let origin = self.origin(made.task.which, made.source);
        let is_made_up_for = made.task.which == Which::Beside || self.wrong_from.contains_key(&made.task);
        if is_made_up_for && matches!(made.outcome, Outcome::Written) {
            let image = front.table.images().get(frame.image()).map_or("", |image| &image.name);
            for windows in missing {
                tracing::info!(image, "{} made by {origin}", windows_in_words(&windows));
            }
        }
        self.origins.made(origin, written);
        match &made.outcome {
            Outcome::Died => Err(InstallError::Broken("a thread panicked")),
            _ => Ok(front),
        }
    }

    fn origin(&self, which: Which, source: Option<SourceId>) -> Origin {
        let offered = match (which, &self.beside) {
            (Which::Beside, Some(beside)) => &**beside,
            _ => &*self.followed,
        };
        match source {
            Some(source) => Origin::Blob(offered.role, offered.sources.name(source)),
            None => Origin::Table(offered.role),
        }
    }
}
