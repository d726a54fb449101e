//! Checking releases the way a host does, and adding signatures.

use std::num::NonZeroUsize;
use std::path::Path;

use manifests::keyring::{KeyId, Keyring, SecretKey};
use manifests::limits::MAX_RECORD_BYTES;
use manifests::release::{Envelope, Record, Release};
use payload::apply::{Fault, Keep, NoSources, Sources};
use payload::format::FrameTable;

use super::Error;
use super::files::{lock_folder_of, open_sized, read_capped, refuse_endless, replace, scratch_beside};
use super::images::{LeanedOn, SourceImages, label};

/// Verifies a record file against a keyring.
pub fn check_record(path: &Path, keyring: &Keyring) -> Result<Release, Error> {
    read_envelope(path)?.verify(keyring).map_err(Error::record(path))
}

/// What was signed.
#[derive(Debug)]
pub struct SignedRecord {
    /// What the record says.
    pub record: Record,
    /// The keys that have signed now.
    pub signers: Vec<KeyId>,
    /// The other keys whose signatures it carries. They were not checked.
    pub claimed_signers: Vec<KeyId>,
    /// The keys in whose names it carried false signatures, which are gone: somebody or something changed the file.
    pub mended_signers: Vec<KeyId>,
}

/// Adds signatures to a record file. The release keeps its digest, and the file the signatures it has, but for those in the name of
/// one of `keys` that do not verify. A file that no host would read is not signed.
pub fn sign_record(path: &Path, keys: &[SecretKey]) -> Result<SignedRecord, Error> {
    refuse_endless(path)?;
    let _lock = lock_folder_of(path)?;
    let mut envelope = read_envelope(path)?;
    let record = envelope.record_untrusted().map_err(Error::record(path))?;
    let mended_signers = falsely_named(&envelope, keys);
    keys.iter().try_for_each(|key| envelope.sign(key)).map_err(Error::record(path))?;
    replace(path, &envelope.to_bytes())?;
    let ids: Vec<KeyId> = keys.iter().map(|key| key.public().id()).collect();
    let (signers, claimed_signers) = envelope.claimed_signers().partition(|signer| ids.contains(signer));
    Ok(SignedRecord { record, signers, claimed_signers, mended_signers })
}

/// The keys in whose names it carries a signature that is not theirs.
pub(super) fn falsely_named(envelope: &Envelope, keys: &[SecretKey]) -> Vec<KeyId> {
    let public = keys.iter().map(SecretKey::public);
    public.filter(|key| envelope.has_false_signature_of(key)).map(|key| key.id()).collect()
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
    /// Whose it is.
    pub origin: PayloadOrigin,
}

/// Whose payload it is, by what the record says of the publisher's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadOrigin {
    /// The very payload that the record names.
    Publisher,
    /// The record names another.
    SomebodyElse,
    /// The record names none.
    Unknown,
}

/// Decodes a whole payload file and compares every window with the release. A delta is made of `source`, the release that it leans on.
/// `progress` gets bytes done of all images' bytes.
pub fn check_payload(
    release: &Release,
    path: &Path,
    source: Option<&mut LeanedOn>,
    threads: NonZeroUsize,
    progress: &mut dyn FnMut((u64, u64)),
) -> Result<CheckedPayload, Error> {
    let (file, length) = open_sized(path)?;
    let table = FrameTable::read(&file, length, release.record()).map_err(Error::payload(path))?;
    let scratch = scratch_beside(path)?;
    let sources: &(dyn Sources + Sync) = match source {
        _ if table.sources().is_empty() => &NoSources,
        None => return Err(Error::LeansOn { path: path.to_owned(), images: names(&table) }),
        Some(source) => {
            let (opened, record) = source.open(path, threads, progress)?;
            let missing = || Error::LeansOnAnother { path: path.to_owned(), record: record.to_owned(), images: names(&table) };
            &SourceImages::of(table.sources(), opened).ok_or_else(missing)?
        }
    };
    let total = table.images().iter().map(|image| image.size).sum();
    let made = (&scratch, Keep::LeanedOn);
    let checked =
        payload::apply::check(release.record(), &table, &file, sources, made, threads, &mut |done| progress((done, total)))
            .map_err(Error::payload(path))?;
    let origin = match release.record().payload_table_sha256 {
        None => PayloadOrigin::Unknown,
        Some(named) if named == table.header().table_sha256() => PayloadOrigin::Publisher,
        Some(_) => PayloadOrigin::SomebodyElse,
    };
    Ok(CheckedPayload { right: checked.right, wrong: checked.wrong, faults: checked.faults, origin })
}

fn names(table: &FrameTable) -> Vec<String> {
    table.sources().iter().map(|image| label(&image.name, image.slot)).collect()
}

pub(super) fn read_envelope(path: &Path) -> Result<Envelope, Error> {
    refuse_endless(path)?;
    Envelope::parse(&read_capped(path, MAX_RECORD_BYTES)?).map_err(Error::record(path))
}
