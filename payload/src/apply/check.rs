//! Applies a whole payload to a file, or to nowhere: every frame decoded, every window compared with the record.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Condvar, Mutex, PoisonError};

use manifests::release::Record;

use super::{Decoder, Sources};
use crate::error::Error;
use crate::format::{Frame, FrameName, FrameTable, Source};
use crate::parallel;
use crate::window::{Compared, ReadAt, WindowSet, compare};

/// Most faults that are kept in words; the rest is counted.
const MAX_FAULTS: usize = 64;

/// What was found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Windows that equal the record.
    pub right: u64,
    /// Windows that do not, or could not be made.
    pub wrong: u64,
    /// The first faulty frames.
    pub faults: Vec<Fault>,
}

/// A frame that does not make what the record says.
#[derive(Debug)]
pub struct Fault {
    /// The frame.
    pub frame: FrameName,
    /// What is wrong.
    pub reason: String,
}

/// Which windows are written to the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Those that other frames lean on.
    LeanedOn,
    /// All that are right.
    All,
}

/// Decodes every frame of the payload in `file` and compares every window with `record`, which whoever calls may trust or not. Windows go to
/// `made`, an empty file in which the images stand one after the other. Faulty frames are findings, not errors; an error is a file that
/// cannot be read or written. `progress` gets the bytes of images done so far.
pub fn check(
    record: &Record,
    table: &FrameTable,
    file: &dyn ReadAt,
    sources: &(dyn Sources + Sync),
    made: (&File, Keep),
    threads: NonZeroUsize,
    progress: &mut dyn FnMut(u64),
) -> Result<Checked, Error> {
    let kept = Kept::new(table, made);
    let mut checked = Checked::default();
    let mut done = 0_u64;
    let worker = || {
        let ending = Ending { kept: &kept };
        let decoder = Decoder::new()?;
        ending.goes_on();
        Ok(Worker { decoder, blob: Vec::new(), output: Vec::new(), record, file, sources, kept: &kept })
    };
    let outcome = parallel::ordered(
        u64::from(table.len()),
        threads,
        worker,
        |worker, index| {
            let frame = u32::try_from(index).ok().and_then(|index| table.frame(index));
            let frame = frame.ok_or_else(|| Error::field("frame", format!("below {}", table.len()), index))?;
            let ending = Ending { kept: &kept };
            let outcome = worker.try_frame(&frame)?;
            kept.change(|state| state.settle(frame.image(), frame.windows()));
            ending.goes_on();
            Ok((frame, outcome))
        },
        |_, (frame, outcome)| {
            checked.add(&frame, outcome);
            done += u64::try_from(frame.output_len()).unwrap_or(u64::MAX);
            progress(done);
            Ok(())
        },
    );
    outcome.map(|()| checked)
}

impl Checked {
    fn add(&mut self, frame: &Frame<'_>, outcome: Outcome) {
        let windows = u64::try_from(frame.windows().len()).unwrap_or(u64::MAX);
        self.wrong += outcome.wrong;
        self.right += windows.saturating_sub(outcome.wrong);
        if let Some(reason) = outcome.reason.filter(|_| self.faults.len() < MAX_FAULTS) {
            self.faults.push(Fault { frame: frame.name(), reason });
        }
    }
}

struct Outcome {
    wrong: u64,
    reason: Option<String>,
}

struct Worker<'a> {
    decoder: Decoder,
    blob: Vec<u8>,
    output: Vec<u8>,
    record: &'a Record,
    file: &'a dyn ReadAt,
    sources: &'a (dyn Sources + Sync),
    kept: &'a Kept<'a>,
}

impl Worker<'_> {
    fn try_frame(&mut self, frame: &Frame<'_>) -> Result<Outcome, Error> {
        let all = u64::try_from(frame.windows().len()).unwrap_or(u64::MAX);
        let range = frame.blob();
        let length = range.end - range.start;
        self.blob.resize(usize::try_from(length).unwrap_or(0), 0);
        let name = |source| Error::Read { what: "payload".to_owned(), offset: range.start, length, source };
        self.file.read_exact_at(&mut self.blob, range.start).map_err(name)?;
        self.output.resize(frame.output_len(), 0);

        if let Err(window) = self.kept.wait_for(frame) {
            let reason = format!("{}: it leans on window {window}, which could not be made", frame.name());
            return Ok(Outcome { wrong: all, reason: Some(reason) });
        }
        let sources = WithKept { sources: self.sources, kept: self.kept };
        if let Err(error) = self.decoder.decode(frame, &self.blob, &sources, &mut self.output) {
            return Ok(Outcome { wrong: all, reason: Some(error.with_cause()) });
        }
        let Compared { wrong, windows, image_offset, .. } = compare(self.record, frame.image(), frame.windows(), &self.output);
        let is_right = |window: &u32| wrong.iter().all(|wrong| wrong.window != *window);
        self.kept.keep(frame.image(), windows.filter(is_right), image_offset, &self.output)?;
        let reason = wrong
            .first()
            .map(|first| format!("{}: {} of {all} windows differ from the record; {first}", frame.name(), wrong.len()));
        Ok(Outcome { wrong: u64::try_from(wrong.len()).unwrap_or(u64::MAX), reason })
    }
}

/// The windows that frames lean on, once they are made.
struct Kept<'a> {
    file: &'a File,
    images: Vec<KeptImage>,
    state: Mutex<State>,
    changed: Condvar,
}

/// Where an image's windows are kept, and which of them.
struct KeptImage {
    base: u64,
    size: u64,
    window_size: u64,
    wanted: WindowSet,
}

/// How far the images are.
#[derive(Default)]
struct State {
    images: Vec<Windows>,
    /// A thread has ended before its frames were made: some are never settled.
    has_ended: bool,
}

impl State {
    /// Of these windows no more comes than has come.
    fn settle(&mut self, image: usize, windows: Range<u32>) {
        if let Some(known) = self.images.get_mut(image) {
            windows.for_each(|window| {
                known.settled.insert(window);
            });
        }
    }
}

/// What is known of an image's windows.
#[derive(Default)]
struct Windows {
    right: WindowSet,
    settled: WindowSet,
}

impl KeptImage {
    fn range(&self, window: u32) -> (u64, u64) {
        let offset = u64::from(window).saturating_mul(self.window_size);
        (offset, self.size.saturating_sub(offset).min(self.window_size))
    }
}

impl<'a> Kept<'a> {
    fn new(table: &FrameTable, (file, keep): (&'a File, Keep)) -> Self {
        let (mut images, mut base) = (Vec::new(), 0_u64);
        for (index, image) in table.images().iter().enumerate() {
            let wanted = match keep {
                Keep::LeanedOn => table.frames_of(index).flat_map(|frame| frame.needs()).flatten().collect(),
                Keep::All => (0..u32::try_from(image.window_count()).unwrap_or(u32::MAX)).collect(),
            };
            images.push(KeptImage { base, size: image.size, window_size: u64::from(image.window_size), wanted });
            base = base.saturating_add(image.size);
        }
        let state = State { images: images.iter().map(|_| Windows::default()).collect(), has_ended: false };
        Self { file, images, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits until every window that `frame` needs is settled; the first one that is not right is the error. Frames need lower ones only, and the
    /// lowest one that is under way waits for nobody. Once a thread has ended early, nobody waits: then the check ends in an error.
    fn wait_for(&self, frame: &Frame<'_>) -> Result<(), u32> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for window in frame.needs().flatten() {
            loop {
                let known = state.images.get(frame.image());
                if known.is_some_and(|known| known.right.contains(window)) {
                    break;
                }
                if state.has_ended || known.is_none_or(|known| known.settled.contains(window)) {
                    return Err(window);
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        Ok(())
    }

    /// Writes `windows`, which are right, out of the output of a frame whose first byte is byte `start` of its image.
    fn keep(&self, image: usize, windows: impl Iterator<Item = u32>, start: u64, output: &[u8]) -> Result<(), Error> {
        let Some(kept) = self.images.get(image) else { return Ok(()) };
        let windows: Vec<u32> = windows.collect();
        for window in windows.iter().filter(|window| kept.wanted.contains(**window)) {
            let (offset, length) = kept.range(*window);
            let place = offset.checked_sub(start).and_then(|from| usize::try_from(from).ok());
            let bytes = place.and_then(|from| output.get(from..from.checked_add(usize::try_from(length).ok()?)?));
            let written = self.file.write_all_at(bytes.unwrap_or_default(), kept.base.saturating_add(offset));
            written.map_err(|source| Error::Write { step: "windows that were made", source })?;
        }
        self.change(|state| {
            if let Some(known) = state.images.get_mut(image) {
                windows.iter().for_each(|window| {
                    known.right.insert(*window);
                });
            }
        });
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

/// Tells those who wait that a thread has ended, by an error or a panic, unless it goes on.
struct Ending<'a> {
    kept: &'a Kept<'a>,
}

impl Ending<'_> {
    fn goes_on(self) {
        std::mem::forget(self);
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.kept.change(|state| state.has_ended = true);
    }
}

/// The sources, and the image that is made as far as it is.
struct WithKept<'a> {
    sources: &'a (dyn Sources + Sync),
    kept: &'a Kept<'a>,
}

impl Sources for WithKept<'_> {
    fn read(&self, source: Source, image: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match (source, self.kept.images.get(image)) {
            (Source::Target, Some(kept)) => ReadAt::read_exact_at(self.kept.file, buffer, kept.base.saturating_add(offset)),
            _ => self.sources.read(source, image, offset, buffer),
        }
    }
}
