//! Why an install failed.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use manifests::digest::Sha256Digest;

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
    /// A stable word of the cause; an HTTP status that is an error is `http-NNN`.
    pub fn code(&self) -> Cow<'static, str> {
        match self {
            Self::Fetch(error) => fetch_code(error),
            Self::WrongWindow(_) | Self::WrongFrame { .. } => "payload-mismatch".into(),
            Self::Disk(SlotError::Spec(_) | SlotError::Request { .. }) => "image-set".into(),
            Self::Disk(_) => "disk-write".into(),
            Self::Cancelled => "cancelled".into(),
            Self::Decoder(_) | Self::Broken(_) => "install".into(),
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

fn fetch_code(error: &FetchError) -> Cow<'static, str> {
    match (error.status(), error.code()) {
        (Some(status), _) => format!("http-{status}").into(),
        (None, "garbage") => "payload-format".into(),
        (None, "wrong-windows") => "payload-mismatch".into(),
        (None, _) => "download".into(),
    }
}

fn list(tried: &[(String, Option<Fault>)]) -> String {
    let line = |(place, fault): &(String, Option<Fault>)| match fault {
        Some(fault) => format!("{place} ({fault})"),
        None => place.clone(),
    };
    tried.iter().map(line).collect::<Vec<_>>().join(", ")
}
