//! Release records on disk: the offers that were verified, and what each slot holds.
//!
//! ```text
//! state_dir/offers/SHA256.release    records of offers that passed their signatures, by the digest of their signed part
//! state_dir/slots/a.release          the record of what slot a was read back against
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

/// Offers kept beside the one in use.
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
    /// The records under `state_dir`; makes the folders.
    pub fn open(state_dir: &Path) -> Result<Self, RecordsError> {
        let records = Self { state_dir: state_dir.to_owned() };
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
        let path = self.offer_path(digest);
        let release = read(&path)?.verify(keyring).map_err(|source| RecordsError::Record { path: path.clone(), source })?;
        if release.digest() != digest {
            return Err(RecordsError::Other { path, expected: digest, got: release.digest() });
        }
        Ok(release)
    }

    /// The slot now holds that offer: it was read back against its record.
    pub fn slot_holds(&self, slot: SlotName, digest: Sha256Digest) -> Result<(), RecordsError> {
        let from = self.offer_path(digest);
        let bytes = durable::read_capped(&from, MAX_RECORD_BYTES).map_err(|source| RecordsError::Io { path: from, source })?;
        self.adopt(slot, &bytes)
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

    /// Verifies a slot's record with a keyring.
    pub fn verify_slot(&self, slot: SlotName, keyring: &Keyring) -> Result<Release, RecordsError> {
        let path = self.slot_path(slot);
        read(&path)?.verify(keyring).map_err(|source| RecordsError::Record { path, source })
    }

    fn offer_path(&self, digest: Sha256Digest) -> PathBuf {
        self.state_dir.join("offers").join(format!("{digest}.release"))
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
