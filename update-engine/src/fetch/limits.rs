//! Every cap and every patience of a transfer, in one place, each with its reason.

use std::time::Duration;

/// Longest answer of an update server: what is parsed at all.
pub const MAX_OMAHA_BYTES: u64 = manifests::omaha::MAX_RESPONSE_BYTES as u64;

/// Most redirects of one request: a mirror redirector and a CDN need two or three.
pub const MAX_REDIRECTS: usize = 5;

/// Most header fields of one answer; a CDN sends about 30.
pub const MAX_HEADERS: usize = 96;

/// Longest URL: the longest codebase and a package name, whose every byte may need three.
pub const MAX_URL_BYTES: usize = 8192;

/// Most sources of one file that are kept; a server that lists more has its first ones used.
pub const MAX_SOURCES: usize = 12;

/// A server is never obeyed for longer than this when it says "come back later".
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Passing faults in a row after which the next source is tried.
pub const MAX_FAULTS_PER_SOURCE: u32 = 10;

/// Faults in a row, over all sources and without progress, after which an attempt is given up: about ten minutes of a dead network.
pub const MAX_FRUITLESS_FAULTS: u32 = 24;

/// Times the list of sources is gone through without progress before an attempt is given up.
pub const MAX_FRUITLESS_LAPS: u32 = 3;

/// Bytes after which a transfer counts as progress. One byte would let a server that cuts every answer be asked for ever.
pub const PROGRESS_BYTES: u64 = 64 * 1024;

/// Wrong windows after which a source is dropped for the attempt (design 11.14).
pub const MAX_WRONG_WINDOWS: u32 = 8;

/// Times one frame is fetched from one source: once, and once more in case the bytes were damaged on their way.
pub const MAX_TRIES_PER_FRAME: usize = 2;

/// What an attempt may download beyond twice the payload (design 11.14).
pub const BUDGET_EXTRA_BYTES: u64 = 16 * 1024 * 1024;

/// Longest stretch that is read and thrown away, rather than asking anew, when a server ignores ranges and another source is left.
pub const MAX_SKIP_BYTES: u64 = 1024 * 1024;

/// Longest gap between two wanted stretches that is read rather than asked around. About what arrives during one round trip.
pub const MAX_GAP_BYTES: u64 = 16 * 1024;

/// Longest wait for a source that said when to come back, within an attempt; beyond it the attempt ends and names the time.
pub const MAX_WAIT_IN_ATTEMPT: Duration = Duration::from_secs(300);

/// Patience of a [`super::Fetcher`]. The defaults are the product's; tests shorten them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection to be made, TLS included.
    pub connect: Duration,
    /// For the head of an answer, once connected.
    pub answer: Duration,
    /// Over which the least rate is measured; only time spent waiting for the network counts.
    pub rate_window: Duration,
    /// Bytes that must arrive within `rate_window`.
    pub rate_floor_bytes: u64,
    /// First pause between tries, before jitter.
    pub first_pause: Duration,
    /// Longest pause between tries, before jitter.
    pub longest_pause: Duration,
}

impl Default for Patience {
    /// 30 s to connect, 60 s for an answer, 1 KiB/s over 60 s, pauses of 1 to 30 s.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            answer: Duration::from_secs(60),
            rate_window: Duration::from_secs(60),
            rate_floor_bytes: 60 * 1024,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
        }
    }
}
