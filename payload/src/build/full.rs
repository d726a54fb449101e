//! Full payloads: every frame stands alone, as zeros, as stored bytes or as a zstd frame, whatever is smallest.

use std::io::{Read, Seek, Write};

use super::plan::Plan;
use super::{Built, Image, Options, Progress, assemble};
use crate::error::Error;

/// Builds the full payload of `images`, which become the record's images in this order, and writes it to `out` front to back.
/// `spool` is empty and takes the blobs meanwhile. Each byte of an image is read once.
pub fn full<S: Read + Write + Seek, W: Write>(
    images: &[Image<'_>],
    options: &Options,
    spool: &mut S,
    out: &mut W,
    progress: &mut dyn FnMut(Progress),
) -> Result<Built, Error> {
    let plan = Plan::new(images, options.frame_windows)?;
    let leanings = super::lean::Leanings::of(super::corpus::Corpus::new(&[], images)?, options.threads, &mut |_| {})?;
    assemble::payload(images, &[], &plan, Some(&leanings).filter(|_| std::env::var("OWN").is_ok()), options, spool, out, progress)
}
