//! Checking releases the way a host does, and adding signatures.

use std::num::NonZeroUsize;
use std::path::Path;

use manifests::keyring::{KeyId, Keyring, SecretKey};
use manifests::limits::MAX_RECORD_BYTES;
use manifests::release::{Envelope, Record, Release};
use payload::apply::{Fault, NoSources};
use payload::format::FrameTable;

use super::Error;
use super::files::{open_sized, read_capped, replace};

/// Verifies a record file against a keyring.
pub fn check_record(path: &Path, keyring: &Keyring) -> Result<Release, Error> {
    read_envelope(path)?.verify(keyring).map_err(Error::record(path))
}

/// Adds signatures to a record file and returns what was signed and by whom, all signers counted. The release keeps its digest. A
/// file that no host would read is not signed.
pub fn sign_record(path: &Path, keys: &[SecretKey]) -> Result<(Record, Vec<KeyId>), Error> {
    let mut envelope = read_envelope(path)?;
    let record = envelope.record_untrusted().map_err(Error::record(path))?;
    keys.iter().try_for_each(|key| envelope.sign(key)).map_err(Error::record(path))?;
    replace(path, &envelope.to_bytes())?;
    Ok((record, envelope.claimed_signers().collect()))
}

/// What became of a payload.
#[derive(Debug)]
pub struct CheckedPayload {
    /// Windows that equal the record.
    pub right: u64,
    /// Windows that do not, or could not be made.
    pub wrong: u64,
    /// The first faulty frames.
    pub faults: Vec<Fault>,
    /// It is the very payload the record names, not just one that fits.
    pub is_the_publishers: bool,
}

/// Decodes a whole payload file and compares every window with the release. `progress` gets bytes done of all images' bytes.
pub fn check_payload(
    release: &Release,
    path: &Path,
    threads: NonZeroUsize,
    progress: &mut dyn FnMut((u64, u64)),
) -> Result<CheckedPayload, Error> {
    let (file, length) = open_sized(path)?;
    let table = FrameTable::read(&file, length, release.record()).map_err(Error::payload(path))?;
    let total = table.images().iter().map(|image| image.size).sum();
    let checked = payload::apply::check(release, &table, &file, &NoSources, threads, &mut |done| progress((done, total)))
        .map_err(Error::payload(path))?;
    let is_the_publishers = release.record().payload_table_sha256 == Some(table.header().table_sha256());
    Ok(CheckedPayload { right: checked.right, wrong: checked.wrong, faults: checked.faults, is_the_publishers })
}

pub(super) fn read_envelope(path: &Path) -> Result<Envelope, Error> {
    Envelope::parse(&read_capped(path, MAX_RECORD_BYTES)?).map_err(Error::record(path))
}
