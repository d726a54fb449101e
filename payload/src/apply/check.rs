//! Applies a whole payload to nowhere: every frame decoded, every window compared with the record.

use std::num::NonZeroUsize;

use manifests::release::Release;

use super::{Decoder, Sources};
use crate::error::Error;
use crate::format::{Frame, FrameName, FrameTable};
use crate::parallel;
use crate::window::{ReadAt, Verified};

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

/// Decodes every frame of the payload in `file` and compares every window with `release`. Faulty frames are findings, not errors; an
/// error is a file that cannot be read. `progress` gets the bytes of images done so far.
pub fn check(
    release: &Release,
    table: &FrameTable,
    file: &dyn ReadAt,
    sources: &(dyn Sources + Sync),
    threads: NonZeroUsize,
    progress: &mut dyn FnMut(u64),
) -> Result<Checked, Error> {
    let mut checked = Checked::default();
    let mut done = 0_u64;
    parallel::ordered(
        u64::from(table.len()),
        threads,
        Worker::new,
        |worker, index| {
            let frame = u32::try_from(index).ok().and_then(|index| table.frame(index));
            let frame = frame.ok_or_else(|| Error::field("frame", format!("below {}", table.len()), index))?;
            Ok((frame, worker.try_frame(release, &frame, file, sources)?))
        },
        |_, (frame, outcome)| {
            checked.add(&frame, outcome);
            done += u64::try_from(frame.output_len()).unwrap_or(u64::MAX);
            progress(done);
            Ok(())
        },
    )?;
    Ok(checked)
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

struct Worker {
    decoder: Decoder,
    blob: Vec<u8>,
    output: Vec<u8>,
}

impl Worker {
    fn new() -> Result<Self, Error> {
        Ok(Self { decoder: Decoder::new()?, blob: Vec::new(), output: Vec::new() })
    }

    fn try_frame(
        &mut self,
        release: &Release,
        frame: &Frame<'_>,
        file: &dyn ReadAt,
        sources: &dyn Sources,
    ) -> Result<Outcome, Error> {
        let range = frame.blob();
        let length = range.end - range.start;
        self.blob.resize(usize::try_from(length).unwrap_or(0), 0);
        let name = |source| Error::Read { what: "payload".to_owned(), offset: range.start, length, source };
        file.read_exact_at(&mut self.blob, range.start).map_err(name)?;
        self.output.resize(frame.output_len(), 0);

        if let Err(error) = self.decoder.decode(frame, &self.blob, sources, &mut self.output) {
            let wrong = u64::try_from(frame.windows().len()).unwrap_or(u64::MAX);
            return Ok(Outcome { wrong, reason: Some(error.to_string()) });
        }
        Ok(match Verified::check(release, frame.image(), frame.windows(), self.output.as_slice()) {
            Ok(_) => Outcome { wrong: 0, reason: None },
            Err(mismatch) => Outcome {
                wrong: u64::try_from(mismatch.wrong().len()).unwrap_or(u64::MAX),
                reason: Some(format!("{}: {mismatch}", frame.name())),
            },
        })
    }
}
