//! The daemon's side: starts the process, hands it blobs, and never believes it more than a server.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use payload::apply::{Blobs, Refusal};
use payload::format::Kind;

use super::memory::Shared;
use super::{ARGUMENT, BLOB_AT, MAX_WORDS, OUTPUT_AT, READY, Request};

/// Longest wait for one blob. The longest takes some milliseconds; a host that is busy or asleep may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

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
}

struct Running {
    child: Child,
    socket: UnixStream,
    shared: Shared,
}

impl Confined {
    /// One that is started for the first blob.
    pub const fn new(program: Program) -> Self {
        Self { program, running: None, failure: None, at: None }
    }

    /// Starts the process, and waits until it is confined.
    pub fn start(program: Program) -> Result<Self, DecoderError> {
        let running = Running::start(&program)?;
        Ok(Self { running: Some(running), ..Self::new(program) })
    }

    /// Why no process could be started any more: then no blob is to blame.
    pub const fn take_failure(&mut self) -> Option<DecoderError> {
        self.failure.take()
    }

    fn running(&mut self) -> Option<&mut Running> {
        if self.running.is_none() {
            match Running::start(&self.program) {
                Ok(running) => self.running = Some(running),
                Err(error) => self.failure = Some(error),
            }
        }
        self.running.as_mut()
    }
}

fn refusal(got: String) -> Refusal {
    Refusal::new("blob", "one that decodes", got)
}

impl Blobs for Confined {
    fn lean_on(&mut self, at: usize, bytes: &[u8]) -> Result<(), Refusal> {
        let Some(running) = self.running() else { return Err(refusal("no process that decodes".to_owned())) };
        let fits = at.checked_add(bytes.len()).is_some_and(|end| end <= BLOB_AT) && running.shared.write(at, bytes);
        if fits { Ok(()) } else { Err(Refusal::new("bytes to lean on", format!("at most {BLOB_AT}"), "more")) }
    }

    fn decode(&mut self, kind: Kind, blob: &[u8], leans_on: usize, out: &mut [u8]) -> Result<(), Refusal> {
        self.begin(kind, blob, leans_on, out.len())?;
        self.finish(out)
    }

    fn begin(&mut self, kind: Kind, blob: &[u8], leans_on: usize, output_len: usize) -> Result<bool, Refusal> {
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
        match running.answer(leans_on, out) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(words)) => Err(refusal(words)),
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
    fn start(program: &Program) -> Result<Self, DecoderError> {
        let failed = |step| move |source| DecoderError { step, source };
        let (shared, memory) = Shared::create().map_err(failed("memory to share"))?;
        let (socket, theirs) = UnixStream::pair().map_err(failed("a socket"))?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(failed("a patience for its answers"))?;
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
        let mut ready = [0];
        match running.socket.read_exact(&mut ready) {
            Ok(()) if ready == [READY] => Ok(running),
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
    fn answer(&mut self, leans_on: usize, out: &mut [u8]) -> io::Result<Result<(), String>> {
        let mut head = [0; 3];
        self.socket.read_exact(&mut head)?;
        let words = usize::from(u16::from_le_bytes([head[1], head[2]]));
        if leans_on > KEPT_BYTES {
            self.shared.give_back(KEPT_BYTES, leans_on.next_multiple_of(PAGE_BYTES));
        }
        match head[0] {
            0 if words == 0 => {
                let fits = self.shared.read(OUTPUT_AT, out);
                if fits { Ok(Ok(())) } else { Err(io::ErrorKind::InvalidInput.into()) }
            }
            1 if words <= MAX_WORDS => {
                let mut text = vec![0; words];
                self.socket.read_exact(&mut text)?;
                // Words of a process that a blob may have taken over: they go into a log.
                let text =
                    String::from_utf8_lossy(&text).chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect();
                Ok(Err(text))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "an answer that is none")),
        }
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
