//! Deltas: `FROM-to-VERSION.payload`, which makes a release of another one that hosts run. No key is needed: hosts compare whatever a delta makes
//! with the record that its publisher has signed.

use std::path::PathBuf;

use manifests::release::{Record, WindowTable};
use payload::build::{Built, Options, Progress};
use payload::format::FrameTable;

use super::Error;
use super::files::{PendingFile, nameless, remove_leftovers};
use super::images::{Opened, Published};

/// A delta longer than this part of the full payload is hardly worth its place, its time and its choice: percent.
pub const MAX_PERCENT_OF_FULL: u64 = 80;

/// Which delta to build.
#[derive(Clone, Debug)]
pub struct DeltaSpec {
    /// The release that hosts run.
    pub from: Published,
    /// The release that it makes.
    pub to: Published,
    /// Folder for the file. It is made if it does not exist.
    pub out_dir: PathBuf,
    /// How to compress.
    pub options: Options,
    /// Write it though it is longer than [`MAX_PERCENT_OF_FULL`].
    pub even_if_large: bool,
}

/// What was built.
#[derive(Debug)]
pub struct BuiltDelta {
    /// `FROM-to-VERSION.payload`.
    pub path: PathBuf,
    /// The release that it leans on.
    pub from: Record,
    /// The release that it makes.
    pub to: Record,
    /// Its frame table.
    pub table: FrameTable,
    /// Bytes of the full payload, where that is there to be compared with.
    pub full_bytes: Option<u64>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The images of a release are compared with its record, or unpacked: bytes done, and all.
    Opening(u64, u64),
    /// It is built.
    Building(Progress),
}

/// Builds a delta. Both sets of images have to be what their records say, and what the delta makes is seen to be what the second one says, window
/// by window, before it gets its name.
pub fn build_delta(spec: &DeltaSpec, progress: &mut dyn FnMut(Step)) -> Result<BuiltDelta, Error> {
    // What the records alone refuse is refused before images are unpacked or read.
    let (from, to) = (spec.from.read_record()?, spec.to.read_record()?);
    refuse_strangers(&from, &to)?;
    let full_bytes = spec.to.full_bytes(&to)?;

    std::fs::create_dir_all(&spec.out_dir).map_err(Error::file("create the folder", &spec.out_dir))?;
    remove_leftovers(&spec.out_dir)?;
    let scratch = spec.out_dir.join("images");
    let threads = spec.options.threads;
    let mut opening = |(done, total)| progress(Step::Opening(done, total));
    let from = Opened::open(&spec.from, from, &scratch, threads, &mut opening)?;
    let to = Opened::open(&spec.to, to, &scratch, threads, &mut opening)?;

    let path = spec.out_dir.join(format!("{}-to-{}.payload", from.record.version, to.record.version));
    let (mut spool, mut file) = (nameless(&path)?, PendingFile::create(&path)?);
    let old: Vec<_> = from.for_payload().into_iter().zip(from.record.images.iter().map(|image| &image.table)).collect();
    let mut tell = |step| progress(Step::Building(step));
    let built = payload::build::delta(&old, &to.for_payload(), &spec.options, &mut spool, file.file(), &mut tell);
    let Built { windows, table } = built.map_err(Error::payload(&path))?;
    expect_tables(&windows, &to.record).map_err(Error::payload(&path))?;

    let bytes = table.header().total_len();
    if let Some(full) = full_bytes.filter(|full| bytes.saturating_mul(100) > full.saturating_mul(MAX_PERCENT_OF_FULL))
        && !spec.even_if_large
    {
        return Err(Error::HardlySmaller { path, bytes, full });
    }
    file.finish()?;
    drop(old);
    Ok(BuiltDelta { path, from: from.record, to: to.record, table, full_bytes })
}

/// Every frame was decoded again when it was made; this is what they make together.
fn expect_tables(made: &[WindowTable], record: &Record) -> Result<(), payload::Error> {
    for (made, image) in made.iter().zip(&record.images) {
        if *made != image.table {
            return Err(payload::Error::SelfCheck { image: image.name.clone(), offset: 0 });
        }
    }
    Ok(())
}

fn refuse_strangers(from: &Record, to: &Record) -> Result<(), Error> {
    let of = |record: &Record| format!("{} for {}/{}", record.product, record.arch, record.board);
    if of(from) != of(to) {
        return Err(Error::Strangers { from: of(from), to: of(to) });
    }
    if from.version == to.version {
        return Err(Error::SameRelease { version: to.version.to_string() });
    }
    match to.minimum_source {
        Some(minimum) if from.sequence < minimum => {
            Err(Error::TooOldToLeanOn { from: from.sequence.get(), minimum: minimum.get() })
        }
        _ => Ok(()),
    }
}
