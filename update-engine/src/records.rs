//! Release records on disk: the offers that were verified, and what each slot holds.
//!
//! ```text
//! state_dir/offers/SHA256.release    records of offers that passed their signatures, by the digest of their signed part
//! state_dir/slots/a.release          the record of what slot a was read back against
//! state_dir/slots/a.writing          the record of what slot a is, or was last, being written with
//! ```
//!
//! Promises: a slot's record is there only while the slot holds what it says — it is removed, durably, before the first byte of
//! the slot changes, and written after the read-back. Records of offers are verified anew each time they are loaded.

use std::io;
use std::path::{Path, PathBuf};

use manifests::digest::Sha256Digest;
use manifests::keyring::Keyring;
use manifests::limits::MAX_RECORD_BYTES;
use manifests::release::{Envelope, Record, RecordError, Release, SlotName};

use crate::durable;

/// Offers kept beside the newest. One that a slot is written with is kept with the slot.
const MAX_OFFERS: usize = 4;

/// The records of one state folder.
#[derive(Clone, Debug)]
pub struct Records {
    state_dir: PathBuf,
}

/// Why a record could not be kept or loaded.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The system said no.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The record is not, or no longer, to be trusted.
    #[error("{path}: {source}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: RecordError,
    },
    /// The file holds another release than its name says.
    #[error("{path}: expected the record with digest {expected}, got {got}", path = path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// By its name.
        expected: Sha256Digest,
        /// By its content.
        got: Sha256Digest,
    },
}

impl Records {
    /// The records under `state_dir`, as far as they can be read; makes nothing.
    pub fn of(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned() }
    }

    /// The records under `state_dir`; makes the folders.
    pub fn open(state_dir: &Path) -> Result<Self, RecordsError> {
        let records = Self::of(state_dir);
        for folder in ["offers", "slots"] {
            let path = state_dir.join(folder);
            std::fs::create_dir_all(&path).map_err(|source| RecordsError::Io { path, source })?;
        }
        Ok(records)
    }

    /// Keeps the record of an offer, durably, and forgets the oldest ones.
    pub fn keep_offer(&self, digest: Sha256Digest, bytes: &[u8]) -> Result<(), RecordsError> {
        let path = self.offer_path(digest);
        self.forget_old_offers(&path);
        durable::replace(&path, bytes).map_err(|source| RecordsError::Io { path, source })
    }

    /// Loads the record of an offer and verifies it anew.
    pub fn load_offer(&self, digest: Sha256Digest, keyring: &Keyring) -> Result<Release, RecordsError> {
        let path = self.path_of(digest);
        let release = read(&path)?.verify(keyring).map_err(|source| RecordsError::Record { path: path.clone(), source })?;
        if release.digest() != digest {
            return Err(RecordsError::Other { path, expected: digest, got: release.digest() });
        }
        Ok(release)
    }

    /// The slot is about to be written with that offer: what it held is forgotten, and what it becomes is remembered, so that a
    /// later attempt knows what may be in it already.
    pub fn slot_becomes(&self, slot: SlotName, digest: Sha256Digest) -> Result<(), RecordsError> {
        let path = self.writing_path(slot);
        durable::replace(&path, &self.offer_bytes(digest)?).map_err(|source| RecordsError::Io { path, source })?;
        self.slot_changes(slot)
    }

    /// The slot now holds that offer: it was read back against its record.
    pub fn slot_holds(&self, slot: SlotName, digest: Sha256Digest) -> Result<(), RecordsError> {
        self.adopt(slot, &self.offer_bytes(digest)?)
    }

    fn offer_bytes(&self, digest: Sha256Digest) -> Result<Vec<u8>, RecordsError> {
        let path = self.path_of(digest);
        durable::read_capped(&path, MAX_RECORD_BYTES).map_err(|source| RecordsError::Io { path, source })
    }

    /// What may stand in a slot, in whole or in part: what it was read back against, or else what it was last written with.
    pub fn slot_may_hold(&self, slot: SlotName) -> Option<Record> {
        let unfinished = || read(&self.writing_path(slot)).ok()?.record_untrusted().ok();
        self.slot_record(slot).map(|(record, _)| record).or_else(unfinished)
    }

    /// The slot holds what this record says: it was read back against it.
    pub fn adopt(&self, slot: SlotName, bytes: &[u8]) -> Result<(), RecordsError> {
        let path = self.slot_path(slot);
        durable::replace(&path, bytes).map_err(|source| RecordsError::Io { path, source })
    }

    /// The slot no longer holds anything known.
    pub fn slot_changes(&self, slot: SlotName) -> Result<(), RecordsError> {
        let path = self.slot_path(slot);
        durable::remove(&path).map_err(|source| RecordsError::Io { path, source })
    }

    /// What a slot holds, as its record says. The record was verified when the slot was read back, by keys that may have been
    /// replaced since; nobody but root can have changed it.
    pub fn slot_record(&self, slot: SlotName) -> Option<(Record, Sha256Digest)> {
        let envelope = read(&self.slot_path(slot)).ok()?;
        Some((envelope.record_untrusted().ok()?, envelope.digest()))
    }

    /// A slot's record, if it is that of the release that was verified and committed before.
    pub fn committed(&self, slot: SlotName, digest: Sha256Digest) -> Result<Release, RecordsError> {
        let path = self.slot_path(slot);
        read(&path)?.known(digest).map_err(|source| RecordsError::Record { path, source })
    }

    /// Verifies a slot's record with a keyring.
    pub fn verify_slot(&self, slot: SlotName, keyring: &Keyring) -> Result<Release, RecordsError> {
        let path = self.slot_path(slot);
        read(&path)?.verify(keyring).map_err(|source| RecordsError::Record { path, source })
    }

    fn offer_path(&self, digest: Sha256Digest) -> PathBuf {
        self.state_dir.join("offers").join(format!("{digest}.release"))
    }

    /// Where the record of an offer stands: among the offers, or with the slot that is written with it.
    fn path_of(&self, digest: Sha256Digest) -> PathBuf {
        let is_it = |path: &PathBuf| read(path).is_ok_and(|envelope| envelope.digest() == digest);
        let offer = self.offer_path(digest);
        let with_slot = || [SlotName::A, SlotName::B].map(|slot| self.writing_path(slot)).into_iter().find(is_it);
        if offer.exists() { offer } else { with_slot().unwrap_or(offer) }
    }

    fn writing_path(&self, slot: SlotName) -> PathBuf {
        self.state_dir.join("slots").join(format!("{slot}.writing"))
    }

    fn slot_path(&self, slot: SlotName) -> PathBuf {
        self.state_dir.join("slots").join(format!("{slot}.release"))
    }

    /// As far as that works: a file that cannot be removed does no harm.
    fn forget_old_offers(&self, keep: &Path) {
        let Ok(entries) = std::fs::read_dir(self.state_dir.join("offers")) else { return };
        let mut old: Vec<_> = entries.flatten().filter(|entry| entry.path() != keep).collect();
        old.sort_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok());
        let surplus = old.len().saturating_sub(MAX_OFFERS);
        for entry in old.into_iter().take(surplus) {
            let _still_there_or_not = std::fs::remove_file(entry.path());
        }
    }
}

fn read(path: &Path) -> Result<Envelope, RecordsError> {
    let bytes =
        durable::read_capped(path, MAX_RECORD_BYTES).map_err(|source| RecordsError::Io { path: path.to_owned(), source })?;
    Envelope::parse(&bytes).map_err(|source| RecordsError::Record { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::host::record;

    fn envelope(number: u64) -> Envelope {
        Envelope::unsigned(&record(number)).unwrap()
    }

    #[test]
    fn the_record_a_slot_is_written_with_outlives_any_number_of_offers() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let ours = envelope(2);
        records.keep_offer(ours.digest(), &ours.to_bytes()).unwrap();
        records.slot_becomes(SlotName::B, ours.digest()).unwrap();
        for other in 3..20 {
            let other = envelope(other);
            records.keep_offer(other.digest(), &other.to_bytes()).unwrap();
        }
        assert!(!records.offer_path(ours.digest()).exists(), "the offers are bounded");
        assert_eq!(records.slot_may_hold(SlotName::B), Some(ours.record_untrusted().unwrap()));
        assert_eq!(records.slot_record(SlotName::B), None, "it was not read back");
        records.slot_holds(SlotName::B, ours.digest()).unwrap();
        assert_eq!(records.slot_record(SlotName::B).unwrap().1, ours.digest());
    }

    #[test]
    fn a_slot_that_was_committed_is_known_by_its_digest_alone() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let (held, other) = (envelope(2), envelope(3));
        records.adopt(SlotName::A, &held.to_bytes()).unwrap();
        assert_eq!(records.committed(SlotName::A, held.digest()).unwrap().digest(), held.digest());
        let refusal = records.committed(SlotName::A, other.digest()).unwrap_err().to_string();
        assert!(refusal.contains("another release") && refusal.contains(&other.digest().to_string()), "{refusal}");
    }
}
