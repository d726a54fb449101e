//! Why an install failed.

use std::fmt;
use std::time::Duration;

use manifests::digest::Sha256Digest;

use crate::decoder::DecoderError;
use crate::engine::cause::Cause;
use crate::fetch::{Fault, FetchError};
use crate::slot::SlotError;

/// Why an install failed. The slot holds nothing wrong: windows that were not reached hold what they held before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The payload, or a part of it, could not be had from anyone.
    #[error("the payload cannot be fetched: {0}")]
    Fetch(#[from] FetchError),
    /// No source has the right bytes for a window.
    #[error("{0}")]
    WrongWindow(Box<WrongWindow>),
    /// No source has a blob that decodes.
    #[error("no source has a blob that makes image {image:?} at byte {offset}: {reason}; tried {}", list(tried))]
    WrongFrame {
        /// The image.
        image: String,
        /// First byte of the frame's output in the image.
        offset: u64,
        /// The decoder's words.
        reason: String,
        /// Every source with its last fault.
        tried: Vec<(String, Option<Fault>)>,
    },
    /// The payload leans on the running slot, that is not what it leans on, and nobody offers one that leans on nothing.
    #[error("the delta cannot be used, and no full payload is offered: {0}")]
    NoBase(String),
    /// What was written does not read back, again and again.
    #[error(
        "window {window} of image {image:?} was written and verified, and reads back as something else, again and again: the medium of the slot fails"
    )]
    Fading {
        /// The image.
        image: String,
        /// The window.
        window: u32,
    },
    /// No confined process can be had that decodes the payload.
    #[error(transparent)]
    NotDecoded(DecoderError),
    /// The decoder cannot be set up.
    #[error("the payload cannot be decoded: {0}")]
    Decoder(#[source] payload::Error),
    /// The slot could not be read, written or flushed.
    #[error(transparent)]
    Disk(SlotError),
    /// The caller cancelled it.
    #[error("the install was cancelled")]
    Cancelled,
    /// A thread could not be started, or died.
    #[error("the install broke: {0}")]
    Broken(&'static str),
}

/// A window that no source has right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongWindow {
    /// The image.
    pub image: String,
    /// The window.
    pub window: u32,
    /// First byte of the window in the image.
    pub offset: u64,
    /// By the record.
    pub expected: Sha256Digest,
    /// Of the bytes that came last.
    pub got: Sha256Digest,
    /// Every source with its last fault.
    pub tried: Vec<(String, Option<Fault>)>,
}

impl fmt::Display for WrongWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, window, offset, expected, got, tried } = self;
        write!(f, "no source has the right bytes for window {window} of image {image:?} (at byte {offset}): ")?;
        write!(f, "expected sha256 {expected}, got {got}; tried {}", list(tried))
    }
}

impl InstallError {
    /// The cause, as the attempt that fails by it has it.
    pub const fn cause(&self) -> Cause {
        match self {
            Self::Fetch(error) => fetch_cause(error),
            Self::WrongWindow(_) | Self::WrongFrame { .. } | Self::NoBase(_) => Cause::PayloadMismatch,
            Self::Disk(SlotError::Spec(_) | SlotError::Request { .. }) => Cause::ImageSet,
            Self::Disk(_) | Self::Fading { .. } => Cause::DiskWrite,
            Self::Cancelled => Cause::Cancelled,
            Self::NotDecoded(_) | Self::Decoder(_) | Self::Broken(_) => Cause::Install,
        }
    }

    /// When the servers want to be asked again.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Fetch(error) => error.retry_after(),
            _ => None,
        }
    }
}

const fn fetch_cause(error: &FetchError) -> Cause {
    let (FetchError::At { fault, .. } | FetchError::Exhausted { last: fault, .. }) = error else { return Cause::Download };
    match fault {
        Fault::Status { status, .. } => Cause::Http(*status),
        Fault::Garbage { .. } => Cause::PayloadFormat,
        Fault::WrongWindows { .. } => Cause::PayloadMismatch,
        _ => Cause::Download,
    }
}

fn list(tried: &[(String, Option<Fault>)]) -> String {
    let line = |(place, fault): &(String, Option<Fault>)| match fault {
        Some(fault) => format!("{place} ({fault})"),
        None => place.clone(),
    };
    tried.iter().map(line).collect::<Vec<_>>().join(", ")
}
