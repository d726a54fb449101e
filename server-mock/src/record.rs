//! What clients asked for, and what they were really sent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::http::Request;

/// Most requests kept; the oldest go first.
pub const MAX_RECORDED: usize = 100_000;
/// Bytes of a request's body that are kept.
pub const MAX_RECORDED_BODY_BYTES: usize = 256 << 10;
/// Bytes of all that is kept, roughly; the oldest go first.
const MAX_TOTAL_BYTES: usize = 128 << 20;

/// A request and its answer, as `GET /_recorded` shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Counts up from 1 over the life of the server.
    pub number: u64,
    /// When its head and body had come.
    pub at: Timestamp,
    /// `GET`, `POST`, …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Header fields, names in lower case; values of a repeated name are joined with `, `.
    pub headers: BTreeMap<String, String>,
    /// The `Range` header.
    pub range: Option<String>,
    /// Its body, cut to [`MAX_RECORDED_BODY_BYTES`]; what is not UTF-8 is replaced.
    pub body: String,
    /// The status it was answered with; none while nothing was sent.
    pub status: Option<u16>,
    /// Bytes of the answer's body given to the network so far.
    pub bytes_sent: u64,
    /// Whether the answer is over, one way or the other.
    pub finished: bool,
    /// The fault that struck.
    pub fault: Option<String>,
}

impl Recorded {
    /// The request in Omaha's terms.
    pub fn omaha(&self) -> Result<manifests::omaha::Request, manifests::omaha::Error> {
        manifests::omaha::Request::read(self.body.as_bytes())
    }
}

/// What is told of an answer while it is sent.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// 0 while nothing was sent.
    status: AtomicU16,
    bytes_sent: AtomicU64,
    is_finished: AtomicBool,
    fault: OnceLock<&'static str>,
}

impl Progress {
    pub(crate) fn begin(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    pub(crate) fn strike(&self, fault: &'static str) {
        // One answer has one fault, so this is the first.
        let _ = self.fault.set(fault);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn finish(&self) {
        self.is_finished.store(true, Ordering::Release);
    }
}

struct Entry {
    request: Recorded,
    progress: Arc<Progress>,
    weight: usize,
}

impl Entry {
    fn now(&self) -> Recorded {
        let finished = self.progress.is_finished.load(Ordering::Acquire);
        let status = self.progress.status.load(Ordering::Relaxed);
        Recorded {
            status: (status != 0).then_some(status),
            bytes_sent: self.progress.bytes_sent.load(Ordering::Relaxed),
            finished,
            fault: self.progress.fault.get().map(|fault| (*fault).to_owned()),
            ..self.request.clone()
        }
    }
}

/// Everything recorded.
#[derive(Default)]
pub(crate) struct Recorder {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    entries: VecDeque<Entry>,
    weight: usize,
    count: u64,
}

impl Recorder {
    /// Records a request; the answer is told to what is returned.
    pub(crate) fn record(&self, request: &Request) -> Arc<Progress> {
        let progress = Arc::new(Progress::default());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.count += 1;
        let recorded = recorded(kept.count, request);
        let headers: usize = recorded.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let weight = size_of::<Entry>() + recorded.path.len() + recorded.body.len() + headers;
        kept.weight += weight;
        kept.entries.push_back(Entry { request: recorded, progress: Arc::clone(&progress), weight });
        while kept.entries.len() > MAX_RECORDED || kept.weight > MAX_TOTAL_BYTES {
            let Some(oldest) = kept.entries.pop_front() else { break };
            kept.weight -= oldest.weight;
        }
        progress
    }

    /// All that is kept, oldest first, as it stands now.
    pub(crate) fn all(&self) -> Vec<Recorded> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).entries.iter().map(Entry::now).collect()
    }

    /// Forgets everything but the count.
    pub(crate) fn clear(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entries.clear();
        kept.weight = 0;
    }
}

fn recorded(number: u64, request: &Request) -> Recorded {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &request.headers {
        headers.entry(name.clone()).and_modify(|all| all.push_str(&format!(", {value}"))).or_insert_with(|| value.clone());
    }
    let body = &request.body[..request.body.len().min(MAX_RECORDED_BODY_BYTES)];
    Recorded {
        number,
        at: Timestamp::now(),
        method: request.method.clone(),
        path: request.target.clone(),
        headers,
        range: request.header("range").map(str::to_owned),
        body: String::from_utf8_lossy(body).into_owned(),
        status: None,
        bytes_sent: 0,
        finished: false,
        fault: None,
    }
}
