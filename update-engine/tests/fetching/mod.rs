//! What the tests of fetching share: a server with two codebases of the same file, and time that passes at once.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use server_mock::{Fault, FaultKind, Mock, Recorded, Script};
use update_engine::fetch::{Address, Budget, Fetcher, Options, Patience, Pause, Source, Sources, Timing};

/// Time in which every pause is over at once, and is written down.
pub(crate) struct NoTime {
    start: Instant,
    paused: Mutex<Vec<Duration>>,
}

impl NoTime {
    pub(crate) fn shared() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), paused: Mutex::default() })
    }

    pub(crate) fn pauses(&self) -> Vec<Duration> {
        self.paused.lock().unwrap().clone()
    }
}

impl Timing for NoTime {
    fn now(&self) -> Instant {
        self.start + self.paused.lock().unwrap().iter().sum::<Duration>()
    }

    fn wall(&self) -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn pause(&self, duration: Duration) -> Pause {
        self.paused.lock().unwrap().push(duration);
        Box::pin(async {})
    }

    fn dice(&self) -> f64 {
        0.5
    }
}

/// A server, a file on it, and a client.
pub(crate) struct Bench {
    pub(crate) mock: Mock,
    pub(crate) file: Vec<u8>,
    pub(crate) timing: Arc<NoTime>,
    pub(crate) fetcher: Fetcher,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// The same with a client that takes a silent server for stalled.
    pub(crate) fn impatient(size: usize, faults: impl IntoIterator<Item = Fault>) -> Self {
        let mut bench = Self::new(size, faults);
        bench.fetcher = fetcher(Arc::clone(&bench.timing), Temper::Impatient);
        bench
    }

    /// A file of that many bytes, offered under `/one/file`, `/two/file` and `/three/file`, with these faults.
    pub(crate) fn new(size: usize, faults: impl IntoIterator<Item = Fault>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = noise(size);
        std::fs::write(folder.path().join("file"), &file).unwrap();
        let script = Script {
            codebases: ["/one/", "/two/", "/three/"].map(str::to_owned).to_vec(),
            faults: faults.into_iter().collect(),
            ..Script::serving(folder.path())
        };
        let mock = Mock::start(script).unwrap();
        let timing = NoTime::shared();
        let fetcher = fetcher(Arc::clone(&timing), Temper::Patient);
        Self { mock, file, timing, fetcher, _folder: folder }
    }

    pub(crate) fn address(&self, path: &str) -> Address {
        Address::parse(&format!("{}{path}", self.mock.url())).unwrap()
    }

    pub(crate) fn source(&self, codebase: &str) -> Source {
        self.address(&format!("/{codebase}/file")).into()
    }

    /// The file as these codebases offer it, with the budget of an attempt.
    pub(crate) fn sources(&self, codebases: &[&str]) -> Sources {
        let list = codebases.iter().map(|codebase| self.source(codebase)).collect();
        let budget = 2 * u64::try_from(self.file.len()).unwrap() + 16 * 1024 * 1024;
        let mut sources = Sources::new(self.fetcher.clone(), list, Budget::new(budget)).unwrap();
        sources.expect_size(Some(u64::try_from(self.file.len()).unwrap()));
        sources
    }

    /// Requests for files so far, as `codebase range`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.mock.recorded().iter().map(describe).collect()
    }
}

fn describe(request: &Recorded) -> String {
    let codebase = request.path.trim_start_matches('/').split('/').next().unwrap_or_default();
    format!("{codebase} {}", request.range.as_deref().unwrap_or("whole"))
}

/// How soon a client takes a silent server for stalled.
#[derive(Clone, Copy)]
pub(crate) enum Temper {
    /// Not within a test, however busy the machine is.
    Patient,
    /// After a quarter of a second: for tests of servers that fall silent.
    Impatient,
}

/// A client of that temper.
pub(crate) fn fetcher(timing: Arc<NoTime>, temper: Temper) -> Fetcher {
    let patience = match temper {
        Temper::Patient => Patience::default(),
        Temper::Impatient => Patience { rate_window: Duration::from_millis(250), rate_floor_bytes: 1000, ..Patience::default() },
    };
    Fetcher::new(Options { patience, timing, ..Options::default() }).unwrap()
}

/// A fault of everything under one codebase.
pub(crate) fn fault(codebase: &str, kind: FaultKind) -> Fault {
    Fault::on(&format!("/{codebase}/*"), kind)
}

/// Bytes that look random and are the same at every run.
pub(crate) fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).take(size.div_ceil(8)).flatten().take(size).collect()
}

/// Runs a future on a runtime like the daemon's.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
