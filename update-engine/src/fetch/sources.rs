//! One file that several sources offer, read piece by piece until every wanted byte has come, or with an error that names
//! each source and what it did.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Bytes;
use reqwest::header::{HeaderMap, HeaderValue, IF_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode};

use super::address::{Address, Source};
use super::budget::Budget;
use super::client::Fetcher;
use super::error::{Fault, FetchError};
use super::file::{LocalFile, read_aside};
use super::limits::{MAX_GAP_BYTES, MAX_SKIP_BYTES, PROGRESS_BYTES};
use super::pace::Pace;
use super::range::Asked;
use super::roster::{Roster, SourceId, Turn};

/// Most of a local file that is read in one go.
const FILE_CHUNK_BYTES: u64 = 1024 * 1024;

/// Most memory taken for a piece before its bytes come.
const MAX_RESERVED_BYTES: u64 = 2 * 1024 * 1024;

/// One file and everyone who offers it. See the [module](super) for what it does about faults.
pub struct Sources {
    fetcher: Fetcher,
    roster: Roster,
    expected_size: Option<u64>,
    horizon: Range<u64>,
    body: Option<Body>,
    downloaded: u64,
    budget: Budget,
    /// Most of the budget that this file may take.
    share: u64,
    since_progress: u64,
    /// Told what is wrong while nothing comes, and `None` when bytes come again.
    on_trouble: Option<Arc<OnTrouble>>,
    in_trouble: bool,
}

/// Called with the source and what it did, or with `None`.
type OnTrouble = dyn Fn(Option<String>) + Send + Sync;

/// A body under way: bytes `at..end` of the file are still to come from it.
struct Body {
    from: SourceId,
    at: u64,
    end: u64,
    /// The server ignores ranges: what is not wanted has to be read past.
    whole_file: bool,
    stream: Stream,
}

enum Stream {
    Http(Box<HttpBody>),
    File(Arc<LocalFile>),
}

struct HttpBody {
    response: Response,
    pace: Pace,
    /// What came and was not taken yet.
    chunk: Bytes,
}

/// What ends a step of reading.
enum Stop {
    Fault(Fault),
    Budget,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("downloaded", &self.downloaded).field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl Sources {
    /// The file that `sources` offer, asked in this order. No more is downloaded than `budget` has left, wasted bytes included.
    pub fn new(fetcher: Fetcher, sources: Vec<Source>, budget: Budget) -> Result<Self, FetchError> {
        let roster = Roster::new(sources, fetcher.patience())?;
        Ok(Self {
            fetcher,
            roster,
            expected_size: None,
            horizon: 0..0,
            body: None,
            downloaded: 0,
            budget,
            share: u64::MAX,
            since_progress: 0,
            on_trouble: None,
            in_trouble: false,
        })
    }

    /// From now on a source whose file has another length is at fault.
    pub fn expect_size(&mut self, bytes: Option<u64>) {
        self.expected_size = bytes;
    }

    /// From now on no more than this much of the budget is for this file, what was downloaded of it before included.
    pub fn limit_share(&mut self, bytes: u64) {
        self.share = self.share.min(bytes);
    }

    /// What all files of the attempt may take together.
    pub const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// From now on `tell` hears what is wrong when a source fails ("URL: what it did"), and `None` once bytes come again.
    pub fn on_trouble(&mut self, tell: impl Fn(Option<String>) + Send + Sync + 'static) {
        self.on_trouble = Some(Arc::new(tell));
    }

    /// Bytes that came over the network so far, wasted ones included.
    pub const fn downloaded(&self) -> u64 {
        self.downloaded
    }

    /// Announces the stretch that the next reads will walk through in order, so that it is asked for in one request.
    pub fn announce(&mut self, run: Range<u64>) {
        self.horizon = run;
    }

    /// Fills `out` with the bytes of `range`, all of them from the one source that is named.
    ///
    /// Passing faults are waited out, others lead to the next source. Cancel by dropping the future; the next read goes on.
    pub async fn read(&mut self, range: Range<u64>, out: &mut Vec<u8>) -> Result<SourceId, FetchError> {
        out.clear();
        // Grown at once, because growing by doubling wastes as much again; capped, because a length is only a claim.
        let expected = range.end.saturating_sub(range.start).min(MAX_RESERVED_BYTES);
        out.reserve(usize::try_from(expected).unwrap_or(0));
        if self.roster.usable().next().is_none() {
            return Err(self.exhausted());
        }
        loop {
            let from = self.roster.current();
            let at = range.start.saturating_add(length_of(out));
            if at >= range.end {
                self.count_progress(PROGRESS_BYTES);
                return Ok(from);
            }
            let changed = match self.step(at, range.end, out).await {
                Ok(()) => false,
                Err(Stop::Budget) => {
                    return Err(FetchError::Budget { limit: self.budget.limit().min(self.share), tried: self.roster.tried() });
                }
                Err(Stop::Fault(fault)) => {
                    let changed = matches!(fault, Fault::Changed { .. });
                    self.recover(fault).await?;
                    changed
                }
            };
            if changed || self.roster.current() != from {
                out.clear();
            }
        }
    }

    /// Whoever is asked next should be none of `avoid`; where nobody else is left, the turn stays.
    pub fn turn_from(&mut self, avoid: &[SourceId]) {
        if avoid.contains(&self.roster.current()) {
            self.roster.turn_from(avoid);
        }
    }

    /// A window that came from `id` differs from the record. Says whether the source is dropped for it.
    pub fn wrong_window(&mut self, id: SourceId) -> bool {
        self.roster.wrong_window(id)
    }

    /// What the current source gave is not the file that is wanted: the next one is asked, and the second time it is dropped.
    pub async fn garbage(&mut self, why: String) -> Result<(), FetchError> {
        self.body = None;
        let (now, dice) = (self.fetcher.timing().now(), self.fetcher.timing().dice());
        let turn = self.roster.garbage(Fault::Garbage { why }, now, dice);
        self.take(turn).await
    }

    /// Never asks `id` again; an error when it was the last one.
    pub fn drop_source(&mut self, id: SourceId) -> Result<(), FetchError> {
        self.roster.drop_source(id);
        if self.roster.usable().next().is_none() { Err(self.exhausted()) } else { Ok(()) }
    }

    /// Whether `id` is never asked again.
    pub fn is_dropped(&self, id: SourceId) -> bool {
        self.roster.is_dropped(id)
    }

    /// Sources that are still asked, in their order.
    pub fn usable(&self) -> impl Iterator<Item = SourceId> + '_ {
        self.roster.usable()
    }

    /// A source as it is shown: without its secrets.
    pub fn name(&self, id: SourceId) -> String {
        self.roster.name(id)
    }

    /// Every source with its last fault, in the order of the list; for messages.
    pub fn tried(&self) -> Vec<(String, Option<Fault>)> {
        self.roster.tried()
    }

    /// Appends what can be had in one go, at most up to `end`.
    async fn step(&mut self, at: u64, end: u64, out: &mut Vec<u8>) -> Result<(), Stop> {
        if !self.leads_to(at) {
            self.body = None;
            self.body = Some(self.open(at, end).await?);
        }
        let before = out.len();
        match &mut self.body {
            Some(Body { stream: Stream::Http(_), .. }) => self.read_http(at..end, out).await?,
            Some(Body { stream: Stream::File(file), at: place, .. }) => {
                let length = (end - at).min(FILE_CHUNK_BYTES);
                *out = read_aside(file, at, usize::try_from(length).unwrap_or(0), std::mem::take(out)).await?;
                *place = at + length;
            }
            None => {}
        }
        self.count_progress(u64::try_from(out.len().saturating_sub(before)).unwrap_or(0));
        Ok(())
    }

    /// Takes what `wanted` covers of the next chunk.
    async fn read_http(&mut self, wanted: Range<u64>, out: &mut Vec<u8>) -> Result<(), Stop> {
        let Some(Body { at, end, stream: Stream::Http(http), .. }) = &mut self.body else { return Ok(()) };
        if http.chunk.is_empty() {
            http.chunk = http.pace.chunk(&mut http.response).await?.ok_or_else(|| cut_short(*at))?;
            let came = length_of(&http.chunk);
            self.downloaded = self.downloaded.saturating_add(came);
            let timing = self.fetcher.timing();
            self.fetcher.rate().took(came, timing.now());
            // Meanwhile the connection fills up, and the server waits.
            while let Some(pause) = self.fetcher.rate().pause(timing.now()) {
                timing.pause(pause).await;
            }
            if !self.budget.spend(came) || self.downloaded > self.share {
                return Err(Stop::Budget);
            }
            if length_of(&http.chunk) > *end - *at {
                return Err(Fault::TooLarge { cap: *end }.into());
            }
        }
        take_wanted(&mut http.chunk, at, wanted, out);
        Ok(())
    }

    /// Whether reading on in the open body is the best way to byte `at`.
    fn leads_to(&self, at: u64) -> bool {
        let Some(body) = &self.body else { return false };
        let near = at.saturating_sub(body.at) <= MAX_GAP_BYTES || body.whole_file;
        body.from == self.roster.current() && body.at <= at && at < body.end && near
    }

    async fn open(&mut self, at: u64, end: u64) -> Result<Body, Fault> {
        match self.roster.entry().source.clone() {
            Source::File(file) => self.open_file(file, at, end),
            Source::Http(address) => self.open_http(&address, at, end).await,
        }
    }

    fn open_file(&self, file: Arc<LocalFile>, at: u64, end: u64) -> Result<Body, Fault> {
        let size = file.size();
        let expected = self.expected_size.unwrap_or(size).max(end);
        if size != expected {
            return Err(Fault::WrongSize { expected, got: size });
        }
        Ok(Body { from: self.roster.current(), at, end: size, whole_file: false, stream: Stream::File(file) })
    }

    /// Asks for the announced stretch from `at` on, at least up to `end`.
    async fn open_http(&mut self, address: &Address, at: u64, end: u64) -> Result<Body, Fault> {
        let announced = if self.horizon.contains(&at) { self.horizon.end } else { end };
        let until = self.expected_size.map_or(announced, |size| announced.min(size)).max(end);
        let etag = self.roster.entry().etag.clone();
        let asked = Asked { range: at..until, size: self.expected_size, etag: etag.as_deref() };
        let reply = self.fetcher.send(Method::GET, address, asked.headers(), None).await?;
        let status = reply.response.status();
        if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE) {
            return Err(reply.status_fault("206 or 200"));
        }
        let granted = asked.judge(status, reply.response.headers())?;
        let whole_file = status == StatusCode::OK;
        self.check_skip(&asked, whole_file)?;
        self.roster.entry().etag = etag.or(granted.etag);
        let pace = Pace::new(self.fetcher.patience());
        let http = HttpBody { response: reply.response, pace, chunk: Bytes::new() };
        Ok(Body {
            from: self.roster.current(),
            at: granted.body.start,
            end: granted.body.end,
            whole_file,
            stream: Stream::Http(Box::new(http)),
        })
    }

    /// A whole file where a part was asked for is read past what is not wanted if that is short, or if nobody can do better.
    fn check_skip(&mut self, asked: &Asked<'_>, whole_file: bool) -> Result<(), Fault> {
        self.roster.entry().ignores_ranges |= whole_file;
        if whole_file && asked.range.start > MAX_SKIP_BYTES && self.roster.someone_may_know_ranges() {
            return Err(Fault::NoRanges { asked: asked.to_string() });
        }
        Ok(())
    }

    fn count_progress(&mut self, bytes: u64) {
        if bytes > 0 && self.in_trouble {
            self.tell_trouble(None);
        }
        self.since_progress = self.since_progress.saturating_add(bytes);
        if self.since_progress >= PROGRESS_BYTES {
            self.since_progress = 0;
            self.roster.progress();
        }
    }

    async fn recover(&mut self, fault: Fault) -> Result<(), FetchError> {
        self.body = None;
        self.since_progress = 0;
        let source = self.roster.entry().source.to_string();
        tracing::info!(source, fault = %fault, code = fault.code(), "a transfer failed");
        self.tell_trouble(Some(format!("{source}: {fault}")));
        let (now, dice) = (self.fetcher.timing().now(), self.fetcher.timing().dice());
        let turn = self.roster.fault(fault, now, dice);
        self.take(turn).await
    }

    fn tell_trouble(&mut self, trouble: Option<String>) {
        self.in_trouble = trouble.is_some();
        if let Some(tell) = &self.on_trouble {
            tell(trouble);
        }
    }

    async fn take(&mut self, turn: Turn) -> Result<(), FetchError> {
        match turn {
            Turn::GiveUp => Err(self.exhausted()),
            Turn::Ask(pause) => {
                if !pause.is_zero() {
                    self.fetcher.timing().pause(pause).await;
                }
                Ok(())
            }
        }
    }

    fn exhausted(&self) -> FetchError {
        let last = self.roster.last_fault();
        let retry_after = self.roster.retry_after(self.fetcher.timing().now());
        match last {
            Some(last) => FetchError::Exhausted { tried: self.roster.tried(), last, retry_after },
            None => FetchError::NoSource,
        }
    }
}

impl Asked<'_> {
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        // Digits and an ETag that came in a header are always valid header values.
        if let Ok(value) = HeaderValue::from_str(&format!("bytes={self}")) {
            headers.insert(RANGE, value);
        }
        if let Some(value) = self.etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            headers.insert(IF_RANGE, value);
        }
        headers
    }
}

fn cut_short(at: u64) -> Fault {
    Fault::Transfer { cause: format!("the body ended at byte {at} of the file, before all had come") }
}

/// Moves what `wanted` covers from `chunk`, which begins at byte `at` of the file, to `out`; drops what lies before it.
fn take_wanted(chunk: &mut Bytes, at: &mut u64, wanted: Range<u64>, out: &mut Vec<u8>) {
    let cut = |chunk: &mut Bytes, bytes: u64| chunk.split_to(usize::try_from(bytes).unwrap_or(usize::MAX).min(chunk.len()));
    let skipped = cut(chunk, wanted.start.saturating_sub(*at));
    *at = at.saturating_add(length_of(&skipped));
    if *at < wanted.start {
        return;
    }
    let taken = cut(chunk, wanted.end.saturating_sub(*at));
    *at = at.saturating_add(length_of(&taken));
    out.extend_from_slice(&taken);
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
