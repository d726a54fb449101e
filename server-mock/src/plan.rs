//! What will be sent, as data: decided first, sent afterwards, so that each fault is a change of the plan.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use crate::script::FaultKind;

/// What happens to a request.
#[derive(Debug)]
pub(crate) enum Reply {
    /// This is sent.
    Send(Plan),
    /// The connection is closed without a word.
    Refuse,
    /// The connection stays open without a word.
    NoAnswer,
    /// The connection is closed without a word, and the server is gone for so long.
    Outage(Duration),
    /// Something that is not HTTP is sent.
    NotHttp,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) status: u16,
    /// Without `Content-Length` and `Connection`, which are made from the rest.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<Segment>,
    /// What follows the body slowly.
    pub(crate) drip: Option<Drip>,
    /// What `Content-Length` says.
    pub(crate) declared_length: u64,
    /// What becomes of the connection.
    pub(crate) end: End,
    /// Wait before anything is sent.
    pub(crate) delay: Duration,
    /// The fault that struck, for the record.
    pub(crate) fault: Option<&'static str>,
}

/// What comes slowly, and how slowly.
#[derive(Debug)]
pub(crate) struct Drip {
    pub(crate) body: Vec<Segment>,
    pub(crate) bytes_per_s: u64,
}

/// A part of a body, made while it is sent.
#[derive(Debug, Clone)]
pub(crate) enum Segment {
    Bytes(Vec<u8>),
    File {
        file: Arc<File>,
        start: u64,
        length: u64,
    },
    /// A pattern over and over, cut at that length.
    Repeat {
        pattern: &'static [u8],
        length: u64,
    },
    /// Bytes that mean nothing; the same at every run.
    Noise {
        length: u64,
    },
    /// The segments inside as a gzip stream of uncompressed blocks.
    Gzip(Vec<Segment>),
}

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It stays for the next request, if the client likes.
    KeepAlive,
    Close,
    Reset,
    /// It stays, and nothing ever comes.
    Stall,
}

impl Plan {
    /// An answer without faults.
    pub(crate) fn new(status: u16, content_type: &str, body: Vec<Segment>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type", content_type.to_owned())],
            declared_length: length_of(&body),
            body,
            drip: None,
            end: End::KeepAlive,
            delay: Duration::ZERO,
            fault: None,
        }
    }

    /// A line of text.
    pub(crate) fn text(status: u16, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.push('\n');
        Self::new(status, "text/plain; charset=utf-8", vec![Segment::Bytes(text.into_bytes())])
    }

    /// An HTTP status that a script asks for.
    pub(crate) fn status(code: u16, retry_after_s: Option<u64>, body: &str) -> Self {
        let mut plan = Self::new(code, "text/plain; charset=utf-8", vec![Segment::Bytes(body.as_bytes().to_vec())]);
        plan.headers.extend(retry_after_s.map(|seconds| ("Retry-After", seconds.to_string())));
        plan
    }

    /// A redirect.
    pub(crate) fn redirect(code: u16, to: &str) -> Self {
        let mut plan = Self::text(code, "elsewhere");
        plan.headers.push(("Location", to.to_owned()));
        plan
    }

    /// The plan with that fault, at that byte of the body where it has a place. Faults that make another answer are not its
    /// business.
    pub(crate) fn broken(mut self, kind: &FaultKind, at: u64) -> Self {
        self.fault = Some(kind.name());
        match kind {
            FaultKind::Reset => self.cut(at, End::Reset),
            FaultKind::Stall => self.cut(at, End::Stall),
            FaultKind::Truncate => self.cut(at, End::Close),
            FaultKind::Garbage => {
                let rest = self.split_off(at);
                self.body.push(Segment::Noise { length: length_of(&rest) });
            }
            FaultKind::SlowDrip { bytes_per_s } => {
                let rest = self.split_off(at);
                self.drip = Some(Drip { body: rest, bytes_per_s: *bytes_per_s });
            }
            FaultKind::WrongLength { by } => {
                self.declared_length = self.declared_length.saturating_add_signed(*by);
                self.end = End::Close;
            }
            FaultKind::GzipEncoded => {
                self.body = vec![Segment::Gzip(std::mem::take(&mut self.body))];
                self.declared_length = length_of(&self.body);
                self.headers.push(("Content-Encoding", "gzip".to_owned()));
            }
            _ => {}
        }
        self
    }

    fn cut(&mut self, at: u64, end: End) {
        self.split_off(at);
        self.end = end;
    }

    fn split_off(&mut self, at: u64) -> Vec<Segment> {
        let (before, after) = split(std::mem::take(&mut self.body), at);
        self.body = before;
        after
    }
}

impl Segment {
    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } | Self::Repeat { length, .. } | Self::Noise { length } => *length,
            Self::Gzip(inner) => gzip_length(length_of(inner)),
        }
    }

    /// The first `at` bytes, and the rest. A gzip stream is not split: it is made last.
    fn split(self, at: u64) -> (Self, Self) {
        match self {
            Self::Bytes(mut bytes) => {
                let rest = bytes.split_off(usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len()));
                (Self::Bytes(bytes), Self::Bytes(rest))
            }
            Self::File { file, start, length } => (
                Self::File { file: Arc::clone(&file), start, length: at },
                Self::File { file, start: start + at, length: length - at },
            ),
            // The rest of a pattern begins with the pattern again; nobody reads it for its sense.
            Self::Repeat { pattern, length } => {
                (Self::Repeat { pattern, length: at }, Self::Repeat { pattern, length: length - at })
            }
            Self::Noise { length } => (Self::Noise { length: at }, Self::Noise { length: length - at }),
            Self::Gzip(inner) => (Self::Gzip(inner), Self::Bytes(Vec::new())),
        }
    }
}

/// Bytes of a body.
pub(crate) fn length_of(body: &[Segment]) -> u64 {
    body.iter().map(Segment::length).sum()
}

/// Splits a body at a byte.
fn split(body: Vec<Segment>, at: u64) -> (Vec<Segment>, Vec<Segment>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut left = at;
    for segment in body {
        let length = segment.length();
        if left >= length {
            left -= length;
            before.push(segment);
        } else {
            let (head, tail) = segment.split(left);
            left = 0;
            before.push(head);
            after.push(tail);
        }
    }
    (before, after)
}

/// Payload of one uncompressed deflate block.
pub(crate) const GZIP_BLOCK_BYTES: u64 = 65_535;

/// Header and trailer of gzip, and five bytes a block (at least one block).
fn gzip_length(inner: u64) -> u64 {
    10 + 5 * inner.div_ceil(GZIP_BLOCK_BYTES).max(1) + inner + 8
}
