//! Deltas: every frame leans on the images of the release that a host runs, as far as that makes it shorter.

use std::io::{Read, Seek, Write};
use std::num::NonZeroU32;

use manifests::release::WindowTable;

use super::corpus::Corpus;
use super::lean::Leanings;
use super::plan::Plan;
use super::{Built, Image, Options, Progress, assemble};
use crate::error::Error;
use crate::format::ImageEntry;

/// Builds the payload that makes `images` of `sources`, whose window tables these are, and writes it to `out` front to back. `spool` is
/// empty and takes the blobs meanwhile. Sources are read twice as a whole, and where frames lean on them.
pub fn delta<S: Read + Write + Seek, W: Write>(
    sources: &[(Image<'_>, &WindowTable)],
    images: &[Image<'_>],
    options: &Options,
    spool: &mut S,
    out: &mut W,
    progress: &mut dyn FnMut(Progress),
) -> Result<Built, Error> {
    // Small frames lean on as few bytes as frames can, and what is changed is fetched again in small pieces. Measured, they are as short.
    let plan = Plan::new(images, std::env::var("FW").ok().and_then(|v| v.parse().ok()).unwrap_or(NonZeroU32::MIN))?;
    let entries: Vec<ImageEntry> = sources.iter().map(|(image, table)| ImageEntry::new(image, table)).collect();
    let sources: Vec<Image<'_>> = sources.iter().map(|(image, _)| *image).collect();
    let leanings = Leanings::of(Corpus::new(&sources, if std::env::var("OWN").is_ok() { images } else { &[] })?, options.threads, &mut |_| {})?;
    assemble::payload(images, &entries, &plan, Some(&leanings), options, spool, out, progress)
}
