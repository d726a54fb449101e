//! Deltas: every frame leans on the images of the release that a host runs, as far as that makes it shorter.

use std::io::{Read, Seek, Write};
use std::num::NonZeroU32;

use manifests::release::WindowTable;

use super::assemble::{self, Work};
use super::lean::{Leanings, Room};
use super::plan::Plan;
use super::{Built, Image, Options, Progress};
use crate::error::Error;
use crate::format::ImageEntry;
use crate::limits::MAX_TABLE_BYTES;

/// Small frames read few bytes of the sources, and what has to be fetched again comes in small pieces.
const FRAME_WINDOWS: NonZeroU32 = NonZeroU32::MIN;

/// Bytes that a frame of 256 KiB leans on beside what it holds unchanged.
const SIMILAR_BYTES: u64 = 1 << 20;

/// Builds the payload that makes `images` of `sources`, whose window tables these are, and writes it to `out` front to back. `spool` is
/// empty and takes the blobs meanwhile. Sources are read twice as a whole, images three times, and both where frames lean on them.
pub fn delta<S: Read + Write + Seek, W: Write>(
    sources: &[(Image<'_>, &WindowTable)],
    images: &[Image<'_>],
    options: &Options,
    spool: &mut S,
    out: &mut W,
    progress: &mut dyn FnMut(Progress),
) -> Result<Built, Error> {
    delta_within(MAX_TABLE_BYTES, sources, images, options, spool, out, progress)
}

/// As [`delta`], with a frame table of at most so many bytes.
pub(super) fn delta_within<S: Read + Write + Seek, W: Write>(
    table_bytes: u32,
    sources: &[(Image<'_>, &WindowTable)],
    images: &[Image<'_>],
    options: &Options,
    spool: &mut S,
    out: &mut W,
    progress: &mut dyn FnMut(Progress),
) -> Result<Built, Error> {
    let plan = Plan::new(images, FRAME_WINDOWS)?;
    let entries: Vec<ImageEntry> = sources.iter().map(|(image, table)| ImageEntry::new(image, table)).collect();
    let sources: Vec<Image<'_>> = sources.iter().map(|(image, _)| *image).collect();
    let room = Room { similar_bytes: SIMILAR_BYTES, table_bytes };
    let leanings = Leanings::of(&sources, images, &plan, room, options.threads, progress)?;
    assemble::payload(&Work { images, sources: &entries, plan: &plan, leanings: &leanings, options }, spool, out, progress)
}
