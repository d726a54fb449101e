//! The stream of frames: fetched in order, made by the threads as soon as what they lean on is there, fetched again where they came out wrong.
//!
//! # Two payloads
//!
//! A delta is followed as long as anybody has it. What it cannot make, because the running slot is not what the delta was made for, or because
//! nobody has a blob that makes it, the full payload beside it makes, window by window. With no delta the full payload is followed.
//!
//! # Order
//!
//! A frame may lean on windows of its image below it. They are asked for before it, so that it waits for frames that are under way, or for one that
//! came out wrong and is then made again before anything else. So whatever waits, the lowest of all frames waits for nobody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use manifests::release::{Record, Release};
use payload::format::{Frame, Kind, Source};
use payload::window as verify;

use super::MAX_IN_FLIGHT;
use super::aside;
use super::error::{InstallError, WrongWindow};
use super::front::{Front, Offered};
use super::ground::{self, Base, Running};
use super::ledger::Ledger;
use super::meter::Meter;
use super::origin::{Origin, Origins, windows_in_words};
use super::pool::{Made, Order, Outcome, Pool, Task, Which, right_windows};
use super::scan::Ahead;
use crate::fetch::limits::{MAX_GAP_BYTES, MAX_TRIES_PER_FRAME};
use crate::fetch::{Budget, Fault, FetchError, SourceId, Sources};
use crate::slot::InactiveSlot;

/// Bytes of blobs that were fetched and are not made yet, beside the one that comes just now: enough to keep the threads busy while a frame of
/// 1 MiB comes.
const MAX_BYTES_IN_FLIGHT: u64 = 2 << 20;

/// Frames that the delta cannot make, whoever gives it, after which it is given up: each costs a request of its own.
const MAX_UNSOUND_FRAMES: u32 = 64;

/// Times that windows which were right may turn out wrong when others lean on them.
const MAX_LOSSES: u32 = 3;

/// What an install is made of.
pub(super) struct Install<'a> {
    pub(super) release: &'a Release,
    pub(super) slot: &'a Arc<InactiveSlot>,
    pub(super) base: Option<&'a Base>,
    pub(super) ledger: Ledger,
    pub(super) ahead: Ahead,
    pub(super) delta: Option<Offered>,
    pub(super) full: Option<Offered>,
    pub(super) pool: &'a mut Pool,
    pub(super) meter: &'a Meter,
    /// What came over the network, for all payloads together.
    pub(super) budget: &'a Budget,
    /// Which windows came from where.
    pub(super) origins: Origins,
}

impl Install<'_> {
    /// Makes every window that the ledger misses.
    pub(super) async fn run(&mut self) -> Result<(), InstallError> {
        // As long as all that is missing may be there, nobody is asked for anything.
        while !self.ledger.is_complete() && self.ledger.missing() <= self.ahead.left() {
            self.meter.looking(true);
            let Some((image, windows)) = self.ahead.next().await? else { break };
            self.meter.reused(self.ledger.right(image, windows));
        }
        while !self.ledger.is_complete() {
            match self.round().await? {
                Ended::Done => {}
                Ended::Without(why) => {
                    tracing::warn!(reason = %why, "the delta is of no use: the full payload is fetched");
                    self.delta = None;
                }
                Ended::TableDropped(why) => {
                    tracing::info!(reason = %why, "the frame table is dropped together with the source that gave it");
                }
            }
        }
        Ok(())
    }

    /// Follows one payload as far as it leads.
    async fn round(&mut self) -> Result<Ended, InstallError> {
        let (followed, beside) = match (&mut self.delta, &mut self.full) {
            (Some(delta), full) => (delta, full.as_mut()),
            (None, Some(full)) => (full, None),
            (None, None) => return Err(FetchError::NoSource.into()),
        };
        let record = self.release.record();
        let front = match followed.front(record).await {
            Ok(front) => front,
            Err(error @ InstallError::Fetch(_)) if beside.is_some() => return Ok(Ended::Without(error.to_string())),
            Err(error) => return Err(error),
        };
        let running = match open_running(&front, self.base) {
            Ok(running) => running,
            Err(why) if beside.is_some() => return Ok(Ended::Without(why)),
            Err(why) => return Err(InstallError::NoBase(why)),
        };
        let mut round = Round {
            record,
            slot: self.slot,
            ledger: &mut self.ledger,
            ahead: &mut self.ahead,
            followed,
            beside,
            front: &front,
            running,
            pool: &mut *self.pool,
            meter: self.meter,
            budget: self.budget,
            origins: &mut self.origins,
            busy: BTreeSet::new(),
            in_flight: 0,
            waiting: Vec::new(),
            held: Vec::new(),
            bytes_in_flight: 0,
            spare: Vec::new(),
            again: VecDeque::new(),
            wrong_from: BTreeMap::new(),
            unsound: 0,
            losses: 0,
        };
        let ended = round.run().await;
        let ended = match ended {
            Ok(None) => return Ok(Ended::Done),
            Ok(Some(ended)) => ended,
            Err(error) => return Err(error),
        };
        round.drain().await?;
        match ended {
            Stop::Delta(why) => Ok(Ended::Without(why)),
            // What no source can satisfy may be the table's fault: whoever gave it is not believed again, if the record does not name it.
            Stop::Wrong(failure) => {
                if front.is_vouched || followed.sources.drop_source(front.giver).is_err() {
                    return Err(failure);
                }
                followed.front = None;
                Ok(Ended::TableDropped(failure.to_string()))
            }
        }
    }
}

/// How a payload was followed.
enum Ended {
    /// To its end.
    Done,
    /// The delta is of no use, for this reason.
    Without(String),
    /// Its table is of no use, for this reason, and another source may have a better one.
    TableDropped(String),
}

/// Why a payload is followed no further.
enum Stop {
    /// It is a delta that leads nowhere.
    Delta(String),
    /// Nobody can make a window.
    Wrong(InstallError),
}

fn open_running(front: &Front, base: Option<&Base>) -> Result<Option<Arc<Running>>, String> {
    if front.table.sources().is_empty() {
        return Ok(None);
    }
    let base = base.ok_or_else(|| "the slot that runs is not known".to_owned())?;
    Running::open(base, front.table.sources()).map(|running| Some(Arc::new(running)))
}

/// One frame table, followed to its end.
struct Round<'a> {
    record: &'a Record,
    slot: &'a Arc<InactiveSlot>,
    ledger: &'a mut Ledger,
    ahead: &'a mut Ahead,
    followed: &'a mut Offered,
    beside: Option<&'a mut Offered>,
    front: &'a Arc<Front>,
    running: Option<Arc<Running>>,
    pool: &'a mut Pool,
    meter: &'a Meter,
    budget: &'a Budget,
    origins: &'a mut Origins,
    /// Frames that are fetched, held, made, or to be made again.
    busy: BTreeSet<Task>,
    /// Frames handed to the pool and not settled.
    in_flight: usize,
    /// Frames that were made and are not settled.
    waiting: Vec<Made>,
    /// Frames that were fetched, and lean on windows that are not there yet.
    held: Vec<Order>,
    /// Bytes of the blobs of all these.
    bytes_in_flight: u64,
    /// Memory of blobs, to be used again.
    spare: Vec<Vec<u8>>,
    /// What is to be fetched and made out of turn.
    again: VecDeque<Again>,
    /// Who gave which frame wrong, once for each time.
    wrong_from: BTreeMap<Task, Vec<SourceId>>,
    /// Frames that the delta cannot make: the running slot is not what it should be, or they are of a kind that this build lacks.
    unsound: u32,
    /// Windows that were right and turned out wrong.
    losses: u32,
}

/// What is to be made out of turn.
enum Again {
    /// A frame that came out wrong.
    Frame(Task),
    /// A window, by image and number, that the full payload has to make.
    Window(usize, u32),
}

/// Where in the followed payload the next frame is.
struct Walk<'f> {
    frames: &'f [Frame<'f>],
    next: usize,
    /// The blobs up to here are asked for.
    asked: u64,
}

impl<'f> Walk<'f> {
    fn next(&mut self) -> Option<&'f Frame<'f>> {
        let frame = self.frames.get(self.next)?;
        self.next = self.next.saturating_add(1);
        Some(frame)
    }

    const fn is_at_end(&self) -> bool {
        self.next >= self.frames.len()
    }

    /// What to ask for together with the blob of `frame`, the last that was given out: with the blobs of its neighbours, and of those so near that
    /// reading what lies between is quicker than asking, as long as they `are_wanted`. Nothing, if it is asked for already.
    fn announce(&mut self, frame: &Frame<'_>, is_wanted: impl Fn(&Frame<'_>) -> bool) -> Option<Range<u64>> {
        let mut bytes = frame.blob();
        if bytes.is_empty() || bytes.end <= self.asked {
            return None;
        }
        for later in self.frames.get(self.next..).unwrap_or_default() {
            let blob = later.blob();
            if blob.is_empty() || !is_wanted(later) {
                continue;
            }
            if blob.start < bytes.start || blob.start.saturating_sub(bytes.end) > MAX_GAP_BYTES {
                break;
            }
            bytes.end = bytes.end.max(blob.end);
        }
        self.asked = bytes.end;
        Some(bytes)
    }
}

impl Round<'_> {
    /// Makes everything that is missing; answers why that cannot be done with this table.
    async fn run(&mut self) -> Result<Option<Stop>, InstallError> {
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
            let has_room = frames < MAX_IN_FLIGHT && self.bytes_in_flight < MAX_BYTES_IN_FLIGHT;
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
    async fn drain(&mut self) -> Result<(), InstallError> {
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
    fn hand_over_held(&mut self) -> Result<(), InstallError> {
        let (held, ready): (Vec<Order>, Vec<Order>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|order| order.table.frame(order.task.frame).is_some_and(|frame| !self.ledger.bears(&frame)));
        self.held = held;
        ready.into_iter().try_for_each(|order| self.hand_over(order))
    }

    /// Fetches what came out wrong once more, from whoever gave it wrong least often.
    async fn make_again(&mut self) -> Result<Option<Stop>, InstallError> {
        let (task, front) = match self.again.pop_front() {
            Some(Again::Frame(task @ Task { which: Which::Followed, .. })) => (task, Arc::clone(self.front)),
            Some(Again::Frame(task)) => match self.front_beside().await? {
                Ok(front) => (task, front),
                Err(stop) => return Ok(Some(stop)),
            },
            Some(Again::Window(image, window)) => {
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
            None => return Ok(None),
        };
        let frame = front.table.frame(task.frame).ok_or(InstallError::Broken("a frame that is none"))?;
        let avoid = self.least_trusted(task);
        let sources = self.sources(task.which);
        sources.announce(frame.blob());
        sources.turn_from(&avoid);
        self.feed(task, &front, &frame).await
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

    fn sources(&mut self, which: Which) -> &mut Sources {
        match (which, &mut self.beside) {
            (Which::Beside, Some(beside)) => &mut beside.sources,
            _ => &mut self.followed.sources,
        }
    }

    /// Fetches a frame, and hands it to the pool or holds it.
    async fn feed(&mut self, task: Task, front: &Arc<Front>, frame: &Frame<'_>) -> Result<Option<Stop>, InstallError> {
        let mut blob = self.spare.pop().unwrap_or_default();
        blob.clear();
        // At most a frame's own length and a little more: the table was refused otherwise.
        blob.reserve_exact(usize::try_from(frame.blob().end - frame.blob().start).unwrap_or(0));
        let source = if frame.blob().is_empty() {
            None
        } else {
            match self.fetch(task.which, frame.blob(), &mut blob).await {
                Ok(source) => Some(source),
                Err(InstallError::Fetch(error @ (FetchError::Exhausted { .. } | FetchError::Budget { .. }))) => {
                    return self.nobody_has_it(error);
                }
                Err(error) => return Err(error),
            }
        };
        self.bytes_in_flight = self.bytes_in_flight.saturating_add(bytes_of(&blob));
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
    fn book(&mut self, made: &Made) -> Result<Arc<Front>, InstallError> {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(bytes_of(&made.blob));
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

    /// Books a frame, hands over what waited for it, and sees to it that what came out wrong is made by somebody else.
    async fn settle(&mut self, made: Made) -> Result<Option<Stop>, InstallError> {
        let front = self.book(&made)?;
        let frame = front.table.frame(made.task.frame).ok_or(InstallError::Broken("a frame came back that is none"))?;
        let Made { task, source, blob, outcome, wanted: _ } = made;
        let kept: usize = self.spare.iter().map(Vec::capacity).sum();
        let kept = u64::try_from(kept.saturating_add(blob.capacity())).unwrap_or(u64::MAX);
        if kept.saturating_add(self.bytes_in_flight) <= MAX_BYTES_IN_FLIGHT {
            self.spare.push(blob);
        }
        self.hand_over_held()?;
        let image = front.table.images().get(frame.image()).map_or_else(String::new, |image| image.name.clone());
        let (windows, reason) = match outcome {
            Outcome::Written | Outcome::Died | Outcome::NoFrame => return Ok(None),
            Outcome::Failed(error) => return Err(InstallError::Disk(error)),
            Outcome::NotDecoded(error) => return Err(InstallError::NotDecoded(error)),
            Outcome::Undecodable(error) => (Vec::new(), error.to_string()),
            Outcome::Differs(windows) => (windows, String::new()),
        };
        let (record, offset) = (self.record, frame.image_offset());
        let error = |tried| match windows.as_slice() {
            [] => InstallError::WrongFrame { image: image.clone(), offset, reason: reason.clone(), tried },
            windows => wrong_window(record, &frame, windows, tried),
        };
        if self.remake_what_was_lost(&frame).await? {
            self.again.push_back(Again::Frame(task));
            self.busy.insert(task);
            return Ok(None);
        }
        match self.fault(task.which, &front, &frame).await? {
            ground::Fault::Blob => {}
            ground::Fault::RunningSlot(why) => return self.made_otherwise(&frame, &cannot_be_made(&frame, &why)),
            // Nobody is blamed for it; but another blob may make it, and is asked for first.
            ground::Fault::Unknown(why) => {
                if let Some(source) = source
                    && self.is_tried_again(task, source)
                {
                    return Ok(None);
                }
                return self.made_otherwise(&frame, &cannot_be_made(&frame, &why));
            }
        }
        Ok(self.wrong(task, &front, &frame, source, windows.len(), error))
    }

    /// Windows that the frame leans on were right when they were written, and may not be what is read. Such ones are made again; says whether
    /// there are any.
    async fn remake_what_was_lost(&mut self, frame: &Frame<'_>) -> Result<bool, InstallError> {
        let needed: BTreeSet<u32> = frame.needs().flatten().collect();
        if needed.is_empty() {
            return Ok(false);
        }
        let Some(image) = self.record.images.get(frame.image()) else { return Ok(false) };
        let (slot, name, table) = (Arc::clone(self.slot), image.name.clone(), image.table.clone());
        let lost = aside(move || ground::lost(&slot, &name, &table, needed)).await?.map_err(InstallError::Disk)?;
        let Some(first) = lost.first().copied() else { return Ok(false) };
        let amount = self.ledger.lost(frame.image(), lost.iter().copied());
        self.meter.lost(amount);
        // Of several frames that lean on one that was lost, the first to notice has it made again.
        if amount.windows > 0 {
            tracing::warn!(image = image.name, window = first, "what was written does not read back: it is made again");
            self.losses = self.losses.saturating_add(1);
            if self.losses > MAX_LOSSES {
                return Err(InstallError::Fading { image: image.name.clone(), window: first });
            }
        }
        for window in lost {
            let table = &self.front.table;
            if let Some(maker) = table.frame_of(frame.image(), window) {
                let task = Task { which: Which::Followed, frame: maker.index() };
                if self.busy.insert(task) {
                    self.again.push_front(Again::Frame(task));
                }
            }
        }
        Ok(true)
    }

    /// Whose fault it is that a frame came out wrong.
    async fn fault(&self, which: Which, front: &Arc<Front>, frame: &Frame<'_>) -> Result<ground::Fault, InstallError> {
        let leans = frame.extents().any(|extent| extent.source != Source::Target);
        let (Which::Followed, Some(running), true) = (which, &self.running, leans) else { return Ok(ground::Fault::Blob) };
        let (running, front, index) = (Arc::clone(running), Arc::clone(front), frame.index());
        aside(move || front.table.frame(index).map_or(ground::Fault::Blob, |frame| running.fault(&frame))).await
    }

    /// The full payload makes a frame's windows, because the delta cannot, whoever gives it.
    fn made_otherwise(&mut self, frame: &Frame<'_>, why: &str) -> Result<Option<Stop>, InstallError> {
        if self.beside.is_none() {
            return Err(InstallError::NoBase(why.to_owned()));
        }
        self.unsound = self.unsound.saturating_add(1);
        if self.unsound > MAX_UNSOUND_FRAMES {
            return Ok(Some(Stop::Delta(why.to_owned())));
        }
        tracing::warn!(reason = %why, "the full payload makes these windows");
        self.beside_makes(frame);
        Ok(None)
    }

    /// Asks the full payload for what of a frame's windows is missing.
    fn beside_makes(&mut self, frame: &Frame<'_>) {
        let missing = frame.windows().filter(|window| self.ledger.misses(frame.image(), *window));
        self.again.extend(missing.map(|window| Again::Window(frame.image(), window)));
    }

    /// Books a frame that came out wrong by its blob: it is fetched again, unless nobody is left to ask.
    fn wrong(
        &mut self,
        task: Task,
        front: &Front,
        frame: &Frame<'_>,
        source: Option<SourceId>,
        windows: usize,
        error: impl Fn(Tried) -> InstallError,
    ) -> Option<Stop> {
        let sources = self.sources(task.which);
        let tried = sources.tried();
        // Without a blob there is no source to blame: the table is wrong.
        let Some(source) = source else { return self.give_up(task.which, frame, error(tried), false) };
        for _ in 0..windows.max(1) {
            sources.wrong_window(source);
        }
        let giver_is_gone = !front.is_vouched && sources.is_dropped(front.giver);
        let error = error(sources.tried());
        tracing::info!(frame = %frame.name(), reason = %error, "a frame came out wrong");
        if !giver_is_gone && self.is_tried_again(task, source) {
            return None;
        }
        self.give_up(task.which, frame, error, giver_is_gone)
    }

    /// A frame came out wrong of what `source` gave: it is asked for again, unless all have given it often enough.
    fn is_tried_again(&mut self, task: Task, source: SourceId) -> bool {
        self.wrong_from.entry(task).or_default().push(source);
        let usable: Vec<SourceId> = self.sources(task.which).usable().collect();
        let is_left = usable.into_iter().any(|id| self.tries(task, id) < MAX_TRIES_PER_FRAME);
        if is_left {
            self.busy.insert(task);
            self.again.push_back(Again::Frame(task));
        }
        is_left
    }

    /// Nobody has a blob that makes a frame.
    fn give_up(&mut self, which: Which, frame: &Frame<'_>, error: InstallError, giver_is_gone: bool) -> Option<Stop> {
        match (which, &self.beside) {
            (_, None) => Some(Stop::Wrong(error)),
            (Which::Followed, Some(_)) if !giver_is_gone => {
                self.beside_makes(frame);
                None
            }
            (_, Some(_)) => Some(Stop::Delta(error.to_string())),
        }
    }

    fn tries(&self, task: Task, source: SourceId) -> usize {
        self.wrong_from.get(&task).map_or(0, |givers| givers.iter().filter(|giver| **giver == source).count())
    }

    /// Sources that gave this frame wrong more often than another one.
    fn least_trusted(&mut self, task: Task) -> Vec<SourceId> {
        let usable: Vec<SourceId> = self.sources(task.which).usable().collect();
        let fewest = usable.iter().map(|id| self.tries(task, *id)).min().unwrap_or(0);
        usable.into_iter().filter(|id| self.tries(task, *id) > fewest).collect()
    }
}

fn cannot_be_made(frame: &Frame<'_>, why: &str) -> String {
    format!("{} cannot be made: {why}", frame.name())
}

fn bytes_of(blob: &[u8]) -> u64 {
    u64::try_from(blob.len()).unwrap_or(u64::MAX)
}

type Tried = Vec<(String, Option<Fault>)>;

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
