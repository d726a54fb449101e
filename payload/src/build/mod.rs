//! From images to payloads.
//!
//! Promises: the same images and options give the same bytes, whatever the number of threads; each blob is decoded again and
//! compared before it counts; memory is an index (288 MiB for each GiB of images, and no more than 576 MiB as a rule), 6 MiB for each GiB of
//! source images, and 30 to 45 MiB a thread with its codec. Measured with two threads, on ext4 images of 1 GiB in half use: 398 MiB for a full
//! payload, 395 MiB for a delta.
//!
//! The frame table stands in front of the blobs, and its length is only known after the last blob: blobs go to a *spool* (an
//! unlinked temporary file beside the output, as a rule) and are copied behind the table at the end.

mod assemble;
mod blocks;
mod corpus;
mod delta;
mod difference;
mod encode;
mod full;
mod lean;
mod plan;
mod similar;

use std::num::{NonZeroU32, NonZeroUsize};

pub use delta::delta;
pub use full::full;
use manifests::release::{SlotName, WindowTable};

use crate::format::FrameTable;
use crate::window::ReadAt;

/// An image to be published.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    /// Its name in the record.
    pub name: &'a str,
    /// Only for this slot.
    pub slot: Option<SlotName>,
    /// Bytes.
    pub size: u64,
    /// The bytes.
    pub data: &'a dyn ReadAt,
}

/// How to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// zstd level, 1 to 22.
    pub level: i32,
    /// Threads that compress. They do not change a byte of the payload.
    pub threads: NonZeroUsize,
    /// Windows made by one frame; never more than fit into 1 MiB of output.
    pub frame_windows: NonZeroU32,
}

impl Options {
    /// Level 12: the full payload of a 1 GiB ext4 image in half use has 181.5 MB.
    pub const DEFAULT_LEVEL: i32 = 12;
    /// Level 19: of 48 MiB of the same image, a delta 9 % smaller than that of level 12, in seven times the time. Level 22 gains nothing more: a
    /// frame is smaller than its window.
    pub const BEST_LEVEL: i32 = 19;
}

impl Default for Options {
    fn default() -> Self {
        Self { level: Self::DEFAULT_LEVEL, threads: NonZeroUsize::MIN, frame_windows: NonZeroU32::MIN.saturating_add(3) }
    }
}

/// What a build is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Images are read, to find what is like what.
    Looking,
    /// Frames are made.
    Making,
}

/// How far a build is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Bytes that are read (looking), or of the images that are done (making).
    pub done: u64,
    /// All of these.
    pub total: u64,
    /// Bytes of blobs made of them.
    pub blobs: u64,
}

/// What was built, beside the file.
#[derive(Debug)]
pub struct Built {
    /// The window tables of the images, for the record.
    pub windows: Vec<WindowTable>,
    /// The frame table, as a reader sees it; its header's digest is the record's `payload_table_sha256`.
    pub table: FrameTable,
}

#[cfg(test)]
mod delta_tests;
#[cfg(test)]
mod tests;
