//! What came out wrong, whose fault it is, and who makes it instead.

use std::collections::BTreeSet;
use std::sync::Arc;

use manifests::release::Record;
use payload::format::{Frame, Source};
use payload::window as verify;

use super::aside;
use super::error::{InstallError, WrongWindow};
use super::front::Front;
use super::ground;
use super::pool::{Made, Outcome, Task, Which};
use super::round::{Again, Round, Stop};
use crate::fetch::limits::MAX_TRIES_PER_FRAME;
use crate::fetch::{Fault, SourceId};

/// Frames that the delta cannot make, whoever gives it, after which it is given up: each costs a request of its own.
const MAX_UNSOUND_FRAMES: u32 = 64;

/// Times that windows which were right may turn out wrong when others lean on them.
const MAX_LOSSES: u32 = 3;

impl Round<'_> {
    /// Books a frame, hands over what waited for it, and sees to it that what came out wrong is made by somebody else.
    pub(super) async fn settle(&mut self, made: Made) -> Result<Option<Stop>, InstallError> {
        let front = self.book(&made)?;
        let frame = front.table.frame(made.task.frame).ok_or(InstallError::Broken("a frame came back that is none"))?;
        let Made { task, source, blob, outcome, wanted: _ } = made;
        self.blobs.give_back(blob);
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
            self.again.insert(Again::frame(&frame, task));
            self.busy.insert(task);
            return Ok(None);
        }
        match self.fault(task.which, &front, &frame).await? {
            ground::Fault::Blob => {}
            ground::Fault::RunningSlot(why) => return self.made_otherwise(&frame, &cannot_be_made(&frame, &why)),
            // Nobody is blamed for it; but another blob may make it, and is asked for first.
            ground::Fault::Unknown(why) => {
                if let Some(source) = source
                    && self.is_tried_again(task, &frame, source)
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
        let stop = self.pool.stopping();
        let lost = aside(move || ground::lost(&slot, &name, &table, needed, &stop)).await?.map_err(InstallError::Disk)?;
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
                    self.again.insert(Again::frame(&maker, task));
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
        // With the slot, which an install waits for when it ends.
        let (stop, slot) = (self.pool.stopping(), Arc::clone(self.slot));
        aside(move || {
            let fault = front.table.frame(index).map_or(ground::Fault::Blob, |frame| running.fault(&frame, &stop));
            drop(slot);
            fault
        })
        .await
    }

    /// The full payload makes a frame's windows, because the delta cannot, whoever gives it.
    pub(super) fn made_otherwise(&mut self, frame: &Frame<'_>, why: &str) -> Result<Option<Stop>, InstallError> {
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
        self.again.extend(missing.map(|window| Again::window_beside(frame.image(), window)));
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
        if !giver_is_gone && self.is_tried_again(task, frame, source) {
            return None;
        }
        self.give_up(task.which, frame, error, giver_is_gone)
    }

    /// A frame came out wrong of what `source` gave: it is asked for again, unless all have given it often enough.
    fn is_tried_again(&mut self, task: Task, frame: &Frame<'_>, source: SourceId) -> bool {
        self.wrong_from.entry(task).or_default().push(source);
        let usable: Vec<SourceId> = self.sources(task.which).usable().collect();
        let is_left = usable.into_iter().any(|id| self.tries(task, id) < MAX_TRIES_PER_FRAME);
        if is_left {
            self.busy.insert(task);
            self.again.insert(Again::frame(frame, task));
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
    pub(super) fn least_trusted(&mut self, task: Task) -> Vec<SourceId> {
        let usable: Vec<SourceId> = self.sources(task.which).usable().collect();
        let fewest = usable.iter().map(|id| self.tries(task, *id)).min().unwrap_or(0);
        usable.into_iter().filter(|id| self.tries(task, *id) > fewest).collect()
    }
}

fn cannot_be_made(frame: &Frame<'_>, why: &str) -> String {
    format!("{} cannot be made: {why}", frame.name())
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
