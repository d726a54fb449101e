//! The folder that releases are built into: what stands there already, and what a build may put there.

use std::io;
use std::path::{Path, PathBuf};

use manifests::digest::Sha256Digest;
use manifests::release::{Envelope, Record};

use super::check::read_envelope;
use super::files::{Met, PendingFile, refuse_endless};
use super::{Error, Existing};

/// Entries of the folder that are looked at for another record of the same sequence.
const ENTRIES_LOOKED_AT: usize = 10_000;
/// Records that are read for it.
const RECORDS_READ: usize = 1000;

/// Refuses early what [`put_in_place`] would refuse after minutes of compressing: a record that already says something else, and
/// what is no file.
pub(super) fn refuse_another(record: &Path, payload: &Path, rehearsed: &Record) -> Result<(), Error> {
    if is_there(payload) {
        refuse_endless(payload)?;
    }
    if !is_there(record) {
        return Ok(());
    }
    let there = read_envelope(record).and_then(|envelope| envelope.record_untrusted().map_err(Error::record(record)));
    let there = match there {
        Ok(there) => there,
        Err(Error::Record { .. } | Error::TooLong { .. }) => return Err(Error::ReleaseExists { path: record.to_owned() }),
        Err(error) => return Err(error),
    };
    // What only the build finds out is left out of the comparison.
    let same = Record { images: rehearsed.images.clone(), payload_table_sha256: None, ..there } == *rehearsed;
    if same { Ok(()) } else { Err(Error::ReleaseExists { path: record.to_owned() }) }
}

/// If the record that stands there is this release already, others may have signed it since: takes over their signatures, and tells
/// whether it is.
pub(super) fn take_signatures(record: &Path, envelope: &mut Envelope) -> Result<bool, Error> {
    match read_envelope(record) {
        Ok(there) if there.digest() == envelope.digest() => {
            envelope.take_signatures(&there).map_err(Error::record(record))?;
            Ok(true)
        }
        // What else stands there is for the others here to judge.
        _ => Ok(false),
    }
}

/// Puts both files in their places. Both are durable, and known to be allowed there, before the first of them is moved; the payload
/// is that first one, so that a record never stands beside a missing payload.
pub(super) fn put_in_place(
    mut payload: PendingFile,
    mut record: PendingFile,
    existing: Existing,
    is_this_release: bool,
) -> Result<(), Error> {
    for (file, may_differ) in [(&mut payload, false), (&mut record, is_this_release)] {
        file.sync()?;
        if existing == Existing::Keep && !may_differ && file.meets()? == Met::Another {
            return Err(Error::ReleaseExists { path: file.place().to_owned() });
        }
    }
    payload.finish()?;
    record.finish()
}

/// Other records of the folder with the same sequence, by the order of their names: hosts that run one of these releases refuse the
/// others. What cannot be read is no release.
pub(super) fn of_the_same_sequence(folder: &Path, record: &Record, digest: Sha256Digest) -> Result<Vec<PathBuf>, Error> {
    let is_record = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "release");
    let entries = std::fs::read_dir(folder).map_err(Error::file("read the folder", folder))?.take(ENTRIES_LOOKED_AT);
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = paths.map_err(Error::file("read the folder", folder))?;
    paths.retain(is_record);
    paths.sort();
    paths.truncate(RECORDS_READ);
    let line = |record: &Record| (record.product.clone(), record.arch.clone(), record.board.clone(), record.sequence);
    let clashes = |path: &PathBuf| {
        let Ok(envelope) = read_envelope(path) else { return false };
        envelope.digest() != digest && envelope.record_untrusted().is_ok_and(|other| line(&other) == line(record))
    };
    paths.retain(clashes);
    Ok(paths)
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
