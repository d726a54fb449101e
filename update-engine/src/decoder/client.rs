//! The daemon's side: starts the process, hands it blobs, and never believes it more than a server.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use payload::apply::{Blobs, Refusal};
use payload::format::Kind;

use super::memory::Shared;
use super::{ARGUMENT, BLOB_AT, MAX_WORDS, NOT_READY, OUTPUT_AT, READY, Request};

/// Longest wait for one blob, all of its answer together. The longest takes some milliseconds; a host that is busy or asleep may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often whoever waits looks whether that is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is kept of the memory for what a blob leans on, from one to the next: most lean on less.
const KEPT_BYTES: usize = 1 << 20;

const PAGE_BYTES: usize = 4096;

/// The program that decodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// The one that runs here, whatever has become of its file.
    Own,
    /// This one, which has to know [`ARGUMENT`].
    At(PathBuf),
}

/// Why no process decodes.
#[derive(Debug, thiserror::Error)]
#[error("no confined process could be started to decode the payload: {step}")]
pub struct DecoderError {
    step: &'static str,
    #[source]
    source: io::Error,
}

/// A confined process that decodes for one thread. One that has ended, by whatever a blob has done to it, is started again for the next blob.
pub struct Confined {
    program: Program,
    running: Option<Running>,
    /// Why it could not be started again.
    failure: Option<DecoderError>,
    /// What it is at: how many bytes its blob leans on.
    at: Option<usize>,
    wait: Wait,
}

/// How long an answer is waited for.
#[derive(Clone)]
struct Wait {
    patience: Duration,
    /// Nobody wants it any more.
    stop: Arc<AtomicBool>,
}

struct Running {
    child: Child,
    socket: UnixStream,
    shared: Shared,
}

impl Confined {
    /// One that is started for the first blob.
    pub fn new(program: Program) -> Self {
        Self { program, running: None, failure: None, at: None, wait: Wait { patience: PATIENCE, stop: Arc::default() } }
    }

    /// Starts the process, and waits until it is confined.
    pub fn start(program: Program) -> Result<Self, DecoderError> {
        let mut process = Self::new(program);
        process.running = Some(Running::start(&process.program, &process.wait)?);
        Ok(process)
    }

    /// From now on no answer is waited for once `stop` is set, and none for longer than this.
    #[must_use]
    pub fn waiting(mut self, patience: Duration, stop: Arc<AtomicBool>) -> Self {
        self.wait = Wait { patience, stop };
        self
    }

    /// The same, with the usual patience.
    #[must_use]
    pub fn stopped_by(self, stop: Arc<AtomicBool>) -> Self {
        self.waiting(PATIENCE, stop)
    }

    /// Ends the process: a blob may have taken it over, and the next one gets a new one.
    pub fn distrust(&mut self) {
        self.at = None;
        self.running = None;
    }

    /// Why no process could be started any more: then no blob is to blame.
    pub const fn take_failure(&mut self) -> Option<DecoderError> {
        self.failure.take()
    }

    fn running(&mut self) -> Option<&mut Running> {
        if self.running.is_none() {
            match Running::start(&self.program, &self.wait) {
                Ok(running) => self.running = Some(running),
                Err(error) => self.failure = Some(error),
            }
        }
        self.running.as_mut()
    }
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer that is none")
}

fn refusal(got: String) -> Refusal {
    Refusal::new("blob", "one that decodes", got)
}

impl Blobs for Confined {
    fn lean_on(&mut self, at: usize, bytes: &[u8]) -> Result<(), Refusal> {
        // The process reads that memory until it has answered.
        if self.at.is_some() {
            return Err(refusal("a blob that is begun and not finished".to_owned()));
        }
        let Some(running) = self.running() else { return Err(refusal("no process that decodes".to_owned())) };
        let fits = at.checked_add(bytes.len()).is_some_and(|end| end <= BLOB_AT) && running.shared.write(at, bytes);
        if fits { Ok(()) } else { Err(Refusal::new("bytes to lean on", format!("at most {BLOB_AT}"), "more")) }
    }

    fn decode(&mut self, kind: Kind, blob: &[u8], leans_on: usize, out: &mut [u8]) -> Result<(), Refusal> {
        self.begin(kind, blob, leans_on, out.len())?;
        self.finish(out)
    }

    fn begin(&mut self, kind: Kind, blob: &[u8], leans_on: usize, output_len: usize) -> Result<bool, Refusal> {
        if self.at.is_some() {
            return Err(refusal("a blob that is begun and not finished".to_owned()));
        }
        let Some(running) = self.running() else { return Err(refusal("no process that decodes".to_owned())) };
        let asked = running.ask(kind, blob, leans_on, output_len);
        asked.map_err(|error| self.end_it(&error))?;
        self.at = Some(leans_on);
        Ok(true)
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<(), Refusal> {
        let (Some(leans_on), Some(running)) = (self.at.take(), &mut self.running) else {
            return Err(refusal("nothing that was begun".to_owned()));
        };
        match running.answer(leans_on, out, &self.wait) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(words)) => {
                self.distrust();
                Err(refusal(words))
            }
            Err(error) => Err(self.end_it(&error)),
        }
    }
}

impl Confined {
    /// Whatever it is at now, nothing of it is waited for.
    fn end_it(&mut self, error: &io::Error) -> Refusal {
        let ended = self.running.take().map_or_else(String::new, Running::end);
        refusal(format!("one that ends the process that decodes it ({error}; {ended})"))
    }
}

impl Running {
    fn start(program: &Program, wait: &Wait) -> Result<Self, DecoderError> {
        let failed = |step| move |source| DecoderError { step, source };
        let (shared, memory) = Shared::create().map_err(failed("memory to share"))?;
        let (socket, theirs) = UnixStream::pair().map_err(failed("a socket"))?;
        socket.set_read_timeout(Some(LOOK_EVERY)).map_err(failed("a limit of the wait for its answers"))?;
        let path = match program {
            Program::Own => PathBuf::from("/proc/self/exe"),
            Program::At(path) => path.clone(),
        };
        let mut command = Command::new(path);
        command.arg(ARGUMENT).env_clear().current_dir("/").stderr(Stdio::null());
        let child = command.stdin(OwnedFd::from(theirs)).stdout(memory).spawn().map_err(failed("a new process"))?;
        // It keeps their end of the socket open: a process that ends would not be noticed.
        drop(command);
        let mut running = Self { child, socket, shared };
        let deadline = Instant::now() + wait.patience;
        let mut ready = [0];
        match running.read(&mut ready, deadline, wait) {
            Ok(()) if ready == [READY] => Ok(running),
            Ok(()) if ready == [NOT_READY] => {
                let words = running.words(deadline, wait).map_err(failed("it cannot confine itself, and does not say why"))?;
                Err(failed("it cannot confine itself")(io::Error::other(words)))
            }
            Ok(()) => Err(failed("it answers something else")(io::ErrorKind::InvalidData.into())),
            Err(error) => {
                let ended = running.end();
                Err(failed("it ends before it is confined")(io::Error::new(error.kind(), format!("{error}; {ended}"))))
            }
        }
    }

    /// Hands it a blob; an error if the process is of no more use.
    fn ask(&mut self, kind: Kind, blob: &[u8], leans_on: usize, output_len: usize) -> io::Result<()> {
        let length = |bytes: usize| u32::try_from(bytes).map_err(|_too_long| io::Error::from(io::ErrorKind::InvalidInput));
        let request =
            Request { kind: kind.number(), blob: length(blob.len())?, leans_on: length(leans_on)?, output: length(output_len)? };
        if !self.shared.write(BLOB_AT, blob) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.socket.write_all(&request.to_bytes())
    }

    /// The output, or the words of a refusal; an error if the process is of no more use.
    fn answer(&mut self, leans_on: usize, out: &mut [u8], wait: &Wait) -> io::Result<Result<(), String>> {
        let deadline = Instant::now() + wait.patience;
        let mut verdict = [0];
        self.read(&mut verdict, deadline, wait)?;
        let words = self.words(deadline, wait)?;
        if leans_on > KEPT_BYTES {
            self.shared.give_back(KEPT_BYTES, leans_on.next_multiple_of(PAGE_BYTES));
        }
        match verdict {
            [0] if words.is_empty() => {
                let fits = self.shared.read(OUTPUT_AT, out);
                if fits { Ok(Ok(())) } else { Err(io::ErrorKind::InvalidInput.into()) }
            }
            [1] => Ok(Err(words)),
            _ => Err(no_answer()),
        }
    }

    /// Words, and their length before them.
    fn words(&mut self, deadline: Instant, wait: &Wait) -> io::Result<String> {
        let mut length = [0; 2];
        self.read(&mut length, deadline, wait)?;
        let length = usize::from(u16::from_le_bytes(length));
        if length > MAX_WORDS {
            return Err(no_answer());
        }
        let mut text = vec![0; length];
        self.read(&mut text, deadline, wait)?;
        // Words of a process that a blob may have taken over: they go into a log.
        Ok(String::from_utf8_lossy(&text).chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect())
    }

    /// Fills `buffer`, however slowly it comes, until the deadline or until nobody wants it any more.
    fn read(&mut self, buffer: &mut [u8], deadline: Instant, wait: &Wait) -> io::Result<()> {
        let mut rest = buffer;
        while !rest.is_empty() {
            match self.socket.read(rest) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
            if rest.is_empty() {
                return Ok(());
            }
            if wait.stop.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its answer is not wanted any more"));
            }
            if Instant::now() >= deadline {
                let words = format!("no whole answer within {} s", wait.patience.as_secs_f32());
                return Err(io::Error::new(io::ErrorKind::TimedOut, words));
            }
        }
        Ok(())
    }

    /// Ends the process; says how it ended.
    fn end(mut self) -> String {
        let ended = match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => self.child.kill().and_then(|()| self.child.wait()),
        };
        ended.map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends by itself when the socket closes; one that does not is ended.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
