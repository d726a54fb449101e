//! The folder that releases are built into: what stands there already, and what a build may put there.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use manifests::digest::Sha256Digest;
use manifests::keyring::{KeyId, SecretKey};
use manifests::release::{Envelope, Record, check_signature_count};

use super::check::{falsely_named, read_envelope};
use super::files::{Met, PendingFile, lock_folder_of, refuse_endless};
use super::{Error, Existing};

/// Entries of the folder that are looked at for another record of the same sequence.
const ENTRIES_LOOKED_AT: usize = 10_000;
/// Records that are read for it.
const RECORDS_READ: usize = 1000;

/// What becomes of what stands in the folder already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    /// Of another release of that version.
    pub(super) existing: Existing,
    /// Whether signatures that others have added to this very release go.
    pub(super) drop_signatures: bool,
}

/// Refuses early what [`ready`] and [`put_in_place`] would refuse after minutes of compressing: a record that already says something
/// else, or has no room for the signatures of `keys`, and what is no file.
pub(super) fn refuse_another(
    record: &Path,
    payload: &Path,
    rehearsed: &Record,
    keys: &[SecretKey],
    allowed: Allowed,
) -> Result<(), Error> {
    if allowed.existing == Existing::Keep && is_there(payload) {
        refuse_endless(payload)?;
    }
    if !is_there(record) {
        return Ok(());
    }
    match look_at(record, rehearsed) {
        Ok(_) if allowed.drop_signatures => Ok(()),
        Ok(there) => {
            let signers: BTreeSet<KeyId> = there.claimed_signers().chain(keys.iter().map(|key| key.public().id())).collect();
            check_signature_count(signers.len()).map_err(Error::record(record))
        }
        Err(_) if allowed.existing == Existing::Replace => Ok(()),
        Err(refused) => Err(refused),
    }
}

/// The record that stands there, if it may be the release that is rehearsed.
fn look_at(record: &Path, rehearsed: &Record) -> Result<Envelope, Error> {
    let envelope = read_envelope(record).map_err(unreadable)?;
    let there = envelope.record_untrusted().map_err(Error::record(record)).map_err(unreadable)?;
    // What only the build finds out is left out of the comparison.
    let same = Record { images: rehearsed.images.clone(), payload_table_sha256: None, ..there } == *rehearsed;
    if same { Ok(envelope) } else { Err(Error::ReleaseExists { path: record.to_owned() }) }
}

/// What is no record stands in the place of one.
fn unreadable(error: Error) -> Error {
    match error {
        Error::Record { path, reason } => Error::UnreadableRecord { path, reason: reason.to_string() },
        Error::TooLong { path, limit } => Error::UnreadableRecord { path, reason: format!("it has more than {limit} bytes") },
        other => other,
    }
}

/// A payload that is durable beside its place, and allowed there.
pub(super) struct ReadyPayload {
    file: PendingFile,
    /// Beside the record of this very release stands something else, which no host takes: damaged, or of a build that was killed.
    mends: bool,
}

/// Makes a payload durable and compares it with what stands in its place, which takes minutes for large images: before
/// [`put_in_place`], so that nobody waits for it who signs. `record` is the place of the record, `envelope` what is to stand there.
pub(super) fn ready(
    mut payload: PendingFile,
    record: &Path,
    envelope: &Envelope,
    existing: Existing,
) -> Result<ReadyPayload, Error> {
    payload.sync()?;
    let is_this_release = || read_envelope(record).is_ok_and(|there| there.digest() == envelope.digest());
    match payload.meets() {
        Ok(Met::Nothing | Met::TheSame) => Ok(ReadyPayload { file: payload, mends: false }),
        Ok(Met::Another) if is_this_release() => Ok(ReadyPayload { file: payload, mends: true }),
        _ if existing == Existing::Replace => Ok(ReadyPayload { file: payload, mends: false }),
        Ok(Met::Another) => Err(Error::ReleaseExists { path: payload.place().to_owned() }),
        Err(error) => Err(error),
    }
}

/// A record that was put in its place.
#[derive(Debug)]
pub(super) struct PlacedRecord {
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    /// The record of this very release was there before.
    pub(super) was_there: bool,
    /// Keys whose signatures were taken over from there, unchecked.
    pub(super) claimed_signers: Vec<KeyId>,
    /// Keys whose signatures stood there and do not any more.
    pub(super) dropped_signers: Vec<KeyId>,
    /// Keys given in whose names false signatures stood there: damaged or forged.
    pub(super) mended_signers: Vec<KeyId>,
    /// What stood in the payload's place was not this release's.
    pub(super) mended_payload: bool,
}

/// Puts both files in their places; the payload first, so that a record never stands beside a missing one. If the record that stands
/// there is this release already, others may have signed it, up to this moment: `allowed` says what becomes of their signatures.
pub(super) fn put_in_place(
    payload: ReadyPayload,
    record: &Path,
    mut envelope: Envelope,
    keys: &[SecretKey],
    allowed: Allowed,
) -> Result<PlacedRecord, Error> {
    let _lock = lock_folder_of(record)?;
    let there = standing(record, envelope.digest(), allowed.existing)?;
    let others = there.as_ref().map_or_else(Vec::new, |there| signers_besides(there, &envelope));
    let mended_signers = there.as_ref().map_or_else(Vec::new, |there| falsely_named(there, keys));
    let (claimed_signers, dropped_signers) = match &there {
        Some(there) if !allowed.drop_signatures => {
            envelope.take_signatures(there).map_err(Error::record(record))?;
            (others, Vec::new())
        }
        _ => (Vec::new(), others),
    };
    let was_there = there.is_some();
    let bytes = envelope.to_bytes();
    let mut record_file = if was_there { PendingFile::replacing(record)? } else { PendingFile::create(record)? };
    record_file.file().write_all(&bytes).map_err(Error::file("write", record))?;
    record_file.sync()?;
    payload.file.finish()?;
    record_file.finish()?;
    Ok(PlacedRecord { bytes, was_there, claimed_signers, dropped_signers, mended_signers, mended_payload: payload.mends })
}

/// The record that stands there, if it is the release of this digest. Any other is refused, or is to be replaced.
fn standing(record: &Path, digest: Sha256Digest, existing: Existing) -> Result<Option<Envelope>, Error> {
    if !is_there(record) {
        return Ok(None);
    }
    match read_envelope(record) {
        Ok(there) if there.digest() == digest => Ok(Some(there)),
        _ if existing == Existing::Replace => Ok(None),
        Ok(_) => Err(Error::ReleaseExists { path: record.to_owned() }),
        Err(error) => Err(unreadable(error)),
    }
}

/// Distinct keys that claim to have signed `there` and have not signed `here`.
fn signers_besides(there: &Envelope, here: &Envelope) -> Vec<KeyId> {
    let claimed: BTreeSet<KeyId> = there.claimed_signers().collect();
    claimed.into_iter().filter(|claimed| here.claimed_signers().all(|signer| signer != *claimed)).collect()
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

#[cfg(test)]
mod tests {
    use manifests::release::{Image, WindowTable};
    use manifests::version::{Sequence, Version};

    use super::*;
    use crate::publisher::sign_record;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn id(seed: u8) -> KeyId {
        key(seed).public().id()
    }

    fn envelope(signers: &[u8]) -> Envelope {
        let table = WindowTable::new(4096, vec![Sha256Digest::of(&[0; 4096])]).unwrap();
        let mut envelope = Envelope::unsigned(&Record {
            product: "{demo}".into(),
            arch: "x86_64".into(),
            board: "demo".into(),
            version: Version::parse("1.0.0").unwrap(),
            sequence: Sequence::new(1).unwrap(),
            created: "2026-01-31T00:00:00Z".parse().unwrap(),
            not_below: Sequence::ZERO,
            minimum_source: None,
            channels: vec![],
            urgent: false,
            revoked_keys: vec![],
            payload_table_sha256: None,
            notes: None,
            images: vec![Image { name: "root".into(), slot: None, table, verity: None }],
        })
        .unwrap();
        signers.iter().for_each(|seed| envelope.sign(&key(*seed)).unwrap());
        envelope
    }

    /// A record signed by the first key, and its payload, both in their places; and the same payload made anew.
    fn standing_release(folder: &Path) -> (PathBuf, PendingFile) {
        let (record, payload) = (folder.join("1.0.0.release"), folder.join("1.0.0.payload"));
        std::fs::write(&record, envelope(&[1]).to_bytes()).unwrap();
        std::fs::write(&payload, "payload").unwrap();
        let mut again = PendingFile::create(&payload).unwrap();
        again.file().write_all(b"payload").unwrap();
        (record, again)
    }

    const KEEP: Allowed = Allowed { existing: Existing::Keep, drop_signatures: false };

    #[test]
    fn a_signature_that_is_added_while_the_payload_is_compared_stays() {
        for existing in [Existing::Keep, Existing::Replace] {
            let dir = tempfile::tempdir().unwrap();
            let (record, payload) = standing_release(dir.path());
            let payload = ready(payload, &record, &envelope(&[1]), existing).unwrap();
            sign_record(&record, &[key(2)]).unwrap();
            let allowed = Allowed { existing, ..KEEP };
            let placed = put_in_place(payload, &record, envelope(&[1]), &[key(1)], allowed).unwrap();
            assert_eq!((placed.was_there, placed.claimed_signers, placed.dropped_signers), (true, vec![id(2)], vec![]));
            assert_eq!(read_envelope(&record).unwrap(), envelope(&[1, 2]), "{existing:?}");
        }
    }

    #[test]
    fn a_record_whose_signatures_are_dropped_tells_whose_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let (record, payload) = standing_release(dir.path());
        let payload = ready(payload, &record, &envelope(&[1]), Existing::Keep).unwrap();
        sign_record(&record, &[key(2)]).unwrap();
        let allowed = Allowed { drop_signatures: true, ..KEEP };
        let placed = put_in_place(payload, &record, envelope(&[1]), &[key(1)], allowed).unwrap();
        assert_eq!((placed.was_there, placed.claimed_signers, placed.dropped_signers), (true, vec![], vec![id(2)]));
        assert_eq!(read_envelope(&record).unwrap(), envelope(&[1]));
    }

    #[test]
    fn another_release_that_appears_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (record, payload) = standing_release(dir.path());
        let payload = ready(payload, &record, &envelope(&[1]), Existing::Keep).unwrap();
        let other = Record { urgent: true, ..envelope(&[]).record_untrusted().unwrap() };
        let other = Envelope::unsigned(&other).unwrap().to_bytes();
        std::fs::write(&record, &other).unwrap();
        let refused = put_in_place(payload, &record, envelope(&[1]), &[key(1)], KEEP).unwrap_err();
        assert!(matches!(refused, Error::ReleaseExists { .. }), "{refused}");
        assert_eq!(std::fs::read(&record).unwrap(), other);
    }

    #[test]
    fn a_payload_that_is_not_its_records_is_replaced_and_one_that_may_be_another_releases_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (record, payload) = standing_release(dir.path());
        let place = payload.place().to_owned();
        std::fs::write(&place, "half of a pay").unwrap();
        let payload = ready(payload, &record, &envelope(&[1]), Existing::Keep).unwrap();
        let placed = put_in_place(payload, &record, envelope(&[1]), &[key(1)], KEEP).unwrap();
        assert_eq!((placed.mended_payload, std::fs::read(&place).unwrap()), (true, b"payload".to_vec()));

        std::fs::remove_file(&record).unwrap();
        std::fs::write(&place, "of another release").unwrap();
        let payload = PendingFile::create(&place).unwrap();
        let refused = ready(payload, &record, &envelope(&[1]), Existing::Keep).err().unwrap();
        assert!(matches!(refused, Error::ReleaseExists { .. }), "{refused}");
    }
}
