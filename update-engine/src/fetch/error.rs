//! What can go wrong on the way of a byte, in words and as stable code words.

use std::error::Error as StdError;
use std::time::Duration;

/// What one source did wrong. Its `code` is a stable word for tables and programs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The name of the host leads nowhere.
    #[error("cannot find the host: {cause}")]
    Dns {
        /// The resolver's words.
        cause: String,
    },
    /// No connection.
    #[error("cannot connect: {cause}")]
    Connect {
        /// The system's words.
        cause: String,
    },
    /// A connection, but not to whom the URL names.
    #[error("TLS: {cause}")]
    Tls {
        /// The library's words.
        cause: String,
    },
    /// Connected, but no answer came.
    #[error("no answer within {} s", within.as_secs())]
    NoAnswer {
        /// How long was waited.
        within: Duration,
    },
    /// The connection broke, or what came was no HTTP.
    #[error("the transfer broke off: {cause}")]
    Transfer {
        /// The library's words.
        cause: String,
    },
    /// Too little came for too long.
    #[error("stalled: {got} bytes in {} s, expected at least {floor}", window.as_secs())]
    Stalled {
        /// Bytes that came.
        got: u64,
        /// Bytes that had to come.
        floor: u64,
        /// Within this time.
        window: Duration,
    },
    /// The server refused.
    #[error("HTTP status {status}{}, expected {expected}", retry_words(*retry_after))]
    Status {
        /// Its status.
        status: u16,
        /// What would have been right, in words.
        expected: &'static str,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// A redirect that is not followed.
    #[error("redirect refused: {why}")]
    Redirect {
        /// Why not.
        why: String,
    },
    /// The body is compressed in transit.
    #[error("the body has Content-Encoding {got:?}, expected none: a proxy or server changes files on their way")]
    Encoded {
        /// The encoding's name.
        got: String,
    },
    /// More bytes than anyone may send here.
    #[error("the body is longer than {cap} bytes")]
    TooLarge {
        /// The cap.
        cap: u64,
    },
    /// An answer to another range than the one asked for.
    #[error("asked for bytes {asked}, got {got}")]
    WrongRange {
        /// As in the request.
        asked: String,
        /// What the answer says.
        got: String,
    },
    /// The file is longer or shorter than it has to be.
    #[error("the file is {got} bytes long, expected {expected}")]
    WrongSize {
        /// What it has to be.
        expected: u64,
        /// What it is at this source.
        got: u64,
    },
    /// The server ignores ranges, and reading past what is not wanted would be too much.
    #[error("the server ignores ranges: asked for bytes {asked}, got the whole file")]
    NoRanges {
        /// As in the request.
        asked: String,
    },
    /// Another file stands under the URL since the attempt began.
    #[error("the file changed during the transfer: ETag {was} became {is}")]
    Changed {
        /// First seen.
        was: String,
        /// Seen now.
        is: String,
    },
    /// What came is not the file that was wanted; said by whoever read it.
    #[error("{why}")]
    Garbage {
        /// In words.
        why: String,
    },
    /// Too many windows that differ from the record; said by whoever verified them.
    #[error("{count} windows differ from the signed record")]
    WrongWindows {
        /// How many.
        count: u32,
    },
    /// A local file cannot be used.
    #[error("{why}")]
    File {
        /// In words.
        why: String,
    },
}

impl Fault {
    /// A stable word.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "dns",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::NoAnswer { .. } => "no-answer",
            Self::Transfer { .. } => "transfer",
            Self::Stalled { .. } => "stalled",
            Self::Status { .. } => "http-status",
            Self::Redirect { .. } => "redirect",
            Self::Encoded { .. } => "content-encoding",
            Self::TooLarge { .. } => "too-large",
            Self::WrongRange { .. } => "wrong-range",
            Self::WrongSize { .. } => "wrong-size",
            Self::NoRanges { .. } => "no-ranges",
            Self::Changed { .. } => "changed",
            Self::Garbage { .. } => "garbage",
            Self::WrongWindows { .. } => "wrong-windows",
            Self::File { .. } => "file",
        }
    }

    /// Whether the same source may well do better in a moment; otherwise the next one is asked at once.
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Dns { .. } | Self::Connect { .. } | Self::NoAnswer { .. } | Self::Transfer { .. } => true,
            Self::Status { status, retry_after: None, .. } => passes(*status),
            _ => false,
        }
    }

    /// Whether the source stands by it: it says the same until somebody changes something there.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Status { status, retry_after: None, .. } => !passes(*status),
            Self::Redirect { .. } | Self::Encoded { .. } | Self::TooLarge { .. } => true,
            _ => false,
        }
    }

    /// When the server wants to be asked again.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A failure to get an answer at all.
    pub(super) fn of_request(error: &reqwest::Error, connect_within: Duration) -> Self {
        let cause = root_cause(error);
        if find::<rustls::Error>(error).is_some() {
            return Self::Tls { cause };
        }
        if error.is_dns() {
            return Self::Dns { cause };
        }
        if error.is_connect() && error.is_timeout() {
            return Self::Connect { cause: format!("no connection within {} s", connect_within.as_secs()) };
        }
        if error.is_connect() { Self::Connect { cause } } else { Self::Transfer { cause } }
    }

    /// A failure in the middle of a body.
    pub(super) fn of_body(error: &reqwest::Error) -> Self {
        Self::Transfer { cause: root_cause(error) }
    }
}

/// A server says so of the moment, not of the file.
const fn passes(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

fn retry_words(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |wait| format!(" (asks to come back in {} s)", wait.as_secs()))
}

/// The innermost cause: the outer layers say "error sending request" and repeat the URL, secrets included.
fn root_cause(error: &reqwest::Error) -> String {
    let mut causes = causes_of(error).map(|cause| cause.to_string()).filter(|words| !words.is_empty());
    let innermost = causes.by_ref().last();
    innermost.map_or_else(|| "the connection failed".to_owned(), |words| words.chars().take(200).collect())
}

fn find<E: StdError + 'static>(error: &reqwest::Error) -> Option<&E> {
    causes_of(error).find_map(|cause| cause.downcast_ref::<E>())
}

/// Causes below `error`, outermost first.
fn causes_of(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |cause| cause_of(*cause))
}

/// The next cause. What an [`std::io::Error`] wraps counts, which `source()` alone steps over.
fn cause_of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    wrapped.map_or_else(|| error.source(), |inner| Some(inner))
}

/// Why something could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// One request to one place.
    #[error("{place}: {fault}")]
    At {
        /// URL or path, without secrets.
        place: String,
        /// What went wrong.
        fault: Fault,
    },
    /// No source of a file was left to try.
    #[error("no source gave the file: {}", list(tried))]
    Exhausted {
        /// Every source with its last fault, in the order of the list.
        tried: Vec<(String, Option<Fault>)>,
        /// The fault that ended the attempt.
        last: Fault,
        /// When the first of the sources wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The attempt has downloaded all it may.
    #[error("the download budget of {limit} bytes is spent, and the file is not complete: {}", list(tried))]
    Budget {
        /// Bytes that one attempt may download.
        limit: u64,
        /// Every source with its last fault, in the order of the list.
        tried: Vec<(String, Option<Fault>)>,
    },
    /// A URL that cannot be used.
    #[error("not a usable URL: {got}: {why}")]
    Address {
        /// As given, without secrets.
        got: String,
        /// What is wrong with it.
        why: String,
    },
    /// An empty list of sources.
    #[error("no URL and no file was given to fetch from")]
    NoSource,
    /// The extra trust anchors cannot be used.
    #[error("server.ca_file {path}: {why}")]
    CaFile {
        /// The file.
        path: String,
        /// Why not.
        why: String,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up the HTTP client: {why}")]
    Setup {
        /// The library's words.
        why: String,
    },
}

impl FetchError {
    /// A stable word: the fault's, or one for what is no fault of a source.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::At { fault, .. } | Self::Exhausted { last: fault, .. } => fault.code(),
            Self::Budget { .. } => "budget",
            Self::Address { .. } => "bad-url",
            Self::NoSource => "no-source",
            Self::CaFile { .. } => "ca-file",
            Self::Setup { .. } => "http-setup",
        }
    }

    /// HTTP status, when a server answered with one that is an error.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::At { fault: Fault::Status { status, .. }, .. } | Self::Exhausted { last: Fault::Status { status, .. }, .. } => {
                Some(*status)
            }
            _ => None,
        }
    }

    /// Whether asking again brings the same until somebody changes something there.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::At { fault, .. } => fault.is_final(),
            Self::Address { .. } => true,
            _ => false,
        }
    }

    /// When the server wants to be asked again.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::At { fault, .. } => fault.retry_after(),
            Self::Exhausted { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn list(tried: &[(String, Option<Fault>)]) -> String {
    let line = |(place, fault): &(String, Option<Fault>)| match fault {
        Some(fault) => format!("{place}: {fault}"),
        None => format!("{place}: not at fault"),
    };
    tried.iter().map(line).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<Duration>) -> Fault {
        Fault::Status { status, expected: "200", retry_after }
    }

    #[test]
    fn a_source_stands_by_what_is_not_of_the_moment() {
        for final_status in [204, 300, 400, 401, 403, 404, 410, 451] {
            assert!(status(final_status, None).is_final(), "{final_status}");
            assert!(!status(final_status, Some(Duration::from_secs(5))).is_final(), "{final_status}: it names a time");
        }
        for of_the_moment in [408, 425, 429, 500, 503, 511] {
            assert!(!status(of_the_moment, None).is_final(), "{of_the_moment}");
        }
        assert!(Fault::TooLarge { cap: 1 }.is_final() && Fault::Redirect { why: String::new() }.is_final());
        assert!(Fault::Encoded { got: "gzip".into() }.is_final());
        for cause in ["a connection", "a name"].map(str::to_owned) {
            assert!(!Fault::Connect { cause: cause.clone() }.is_final() && !Fault::Dns { cause }.is_final());
        }
    }
}
