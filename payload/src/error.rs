//! What can be wrong with a payload, and with making one.

use std::io;

use manifests::digest::Sha256Digest;

use crate::format::{FrameName, Kind};

/// Why a payload was refused, could not be applied, or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a payload at all.
    #[error("not a payload: expected the magic \"OTAPAYLD\" at byte 0, got {got}")]
    Magic {
        /// What it is instead, as [`describe`](manifests::foreign::describe) says it.
        got: String,
    },
    /// A later format.
    #[error("payload format version {got}: this build reads version 1 only")]
    FormatVersion {
        /// What the header says.
        got: u32,
    },
    /// Shorter than its header says, or longer.
    #[error("{part} is {got} bytes long, expected {expected}: it was cut or something was appended")]
    Length {
        /// The payload, or its frame table.
        part: &'static str,
        /// Length by the header.
        expected: u64,
        /// Length found.
        got: u64,
    },
    /// The frame table is not the one the header was made for.
    #[error("frame table: expected sha256 {expected}, got {got}: the table was damaged on its way")]
    TableDigest {
        /// By the header.
        expected: Sha256Digest,
        /// Of the bytes.
        got: Sha256Digest,
    },
    /// A field has an impossible value.
    #[error("{what}: expected {expected}, got {got}")]
    Field {
        /// Which field, of which image or frame.
        what: String,
        /// What would be right.
        expected: String,
        /// What stands there.
        got: String,
    },
    /// A sound payload, but not for this release.
    #[error("the payload was made for another release: {what}: expected {expected} as in the record, got {got}")]
    Foreign {
        /// What differs.
        what: String,
        /// By the record.
        expected: String,
        /// By the payload.
        got: String,
    },
    /// A frame of a kind that this build does not decode. Only this frame is lost: another payload may make its windows.
    #[error("{frame}: frame kind {kind} is not available in this build")]
    NotAvailable {
        /// The frame.
        frame: FrameName,
        /// Its kind.
        kind: Kind,
    },
    /// A blob that does not make its frame's output.
    #[error("{frame}: {what}: expected {expected}, got {got}")]
    Blob {
        /// The frame.
        frame: FrameName,
        /// What about it.
        what: String,
        /// What would be right.
        expected: String,
        /// What was found.
        got: String,
    },
    /// Bytes that a frame leans on could not be read.
    #[error("{frame}: cannot read {length} bytes at byte {offset} of {origin}")]
    Source {
        /// The frame.
        frame: FrameName,
        /// Which source, in words.
        origin: String,
        /// Where in it.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An image or payload file could not be read.
    #[error("{what}: cannot read {length} bytes at byte {offset}")]
    Read {
        /// The image or payload.
        what: String,
        /// Where.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The payload could not be written.
    #[error("cannot write the payload: {step}")]
    Write {
        /// What was being written.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A codec could not be set up: memory is short, or a level is out of range.
    #[error("zstd: {reason}")]
    Codec {
        /// The library's words.
        reason: String,
    },
    /// What was just compressed does not decompress to what it was made from: faulty memory, or a fault of the codec.
    #[error("{image}: the blob made for byte {offset} does not decode to the image; nothing was published (faulty memory?)")]
    SelfCheck {
        /// The image.
        image: String,
        /// First byte of the frame.
        offset: u64,
    },
}

impl Error {
    pub(crate) fn field(what: impl Into<String>, expected: impl ToString, got: impl ToString) -> Self {
        Self::Field { what: what.into(), expected: expected.to_string(), got: got.to_string() }
    }

    /// Says where a field stands that has an impossible value.
    pub(crate) fn at(self, place: impl std::fmt::Display) -> Self {
        match self {
            Self::Field { what, expected, got } => Self::Field { what: format!("{place}: {what}"), expected, got },
            other => other,
        }
    }

    /// What is wrong, and by what cause, on one line.
    pub(crate) fn with_cause(&self) -> String {
        std::error::Error::source(self).map_or_else(|| self.to_string(), |cause| format!("{self}: {cause}"))
    }

    pub(crate) fn codec(reason: impl Into<String>) -> Self {
        Self::Codec { reason: reason.into() }
    }
}
