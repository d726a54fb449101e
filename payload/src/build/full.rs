//! Full payloads: frames that lean on nothing but what the payload has made before them.

use std::io::{Read, Seek, Write};

use super::assemble::{self, Work};
use super::lean::{Leanings, Room};
use super::plan::Plan;
use super::{Built, Image, Options, Progress};
use crate::error::Error;
use crate::limits::MAX_TABLE_BYTES;

/// Bytes that a frame of 1 MiB leans on.
const SIMILAR_BYTES: u64 = 2 << 20;

/// Builds the full payload of `images`, which become the record's images in this order, and writes it to `out` front to back.
/// `spool` is empty and takes the blobs meanwhile. Each byte of an image is read three times, and where frames lean on it.
pub fn full<S: Read + Write + Seek, W: Write>(
    images: &[Image<'_>],
    options: &Options,
    spool: &mut S,
    out: &mut W,
    progress: &mut dyn FnMut(Progress),
) -> Result<Built, Error> {
    full_within(MAX_TABLE_BYTES, images, options, spool, out, progress)
}

/// As [`full`], with a frame table of at most so many bytes.
pub(super) fn full_within<S: Read + Write + Seek, W: Write>(
    table_bytes: u32,
    images: &[Image<'_>],
    options: &Options,
    spool: &mut S,
    out: &mut W,
    progress: &mut dyn FnMut(Progress),
) -> Result<Built, Error> {
    let plan = Plan::new(images, options.frame_windows)?;
    let room = Room { similar_bytes: SIMILAR_BYTES, table_bytes };
    let leanings = Leanings::of(&[], images, &plan, room, options.threads, progress)?;
    assemble::payload(&Work { images, sources: &[], plan: &plan, leanings: &leanings, options }, spool, out, progress)
}
