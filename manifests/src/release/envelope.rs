//! The file around a record: header, signed part, signatures, window tables.

use crate::digest::Sha256Digest;
use crate::foreign::describe;
use crate::keyring::{KeyId, Keyring, PublicKey, SecretKey, SignatureFault};
use crate::limits::{MAX_RECORD_BYTES, MAX_SIGNATURES, MAX_SIGNED_BYTES, MAX_WINDOWS};
use crate::release::{Record, RecordError};

const MAGIC: &[u8; 8] = b"OTARECv1";
const HEADER_BYTES: u64 = 32;
const SIGNATURE_BYTES: u64 = 72;

/// A record file cut into its parts. Nothing in it is trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    pub(super) signed: Vec<u8>,
    pub(super) signatures: Vec<(KeyId, [u8; 64])>,
    tables: Vec<u8>,
}

/// A record whose signatures were checked against a keyring. [`Envelope::verify`] alone makes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Release {
    record: Record,
    digest: Sha256Digest,
    signers: Vec<KeyId>,
}

impl Release {
    /// What it says.
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// SHA-256 of the signed part: the identity of the release, whoever else signs it later.
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// The distinct trusted keys that signed, at least as many as the threshold.
    pub fn signers(&self) -> &[KeyId] {
        &self.signers
    }
}

impl Envelope {
    /// An envelope without a signature, for the publisher to sign.
    pub fn unsigned(record: &Record) -> Result<Self, RecordError> {
        let signed = record.to_signed_bytes()?;
        let tables: Vec<u8> = record.images.iter().flat_map(|image| image.table.to_bytes()).collect();
        let envelope = Self { signed, signatures: Vec::new(), tables };
        check_caps(&envelope.lengths())?;
        Ok(envelope)
    }

    /// Adds a signature over the signed part. One in the name of this key that does not verify is damaged or forged, and hosts would
    /// refuse the record for it: it goes.
    ///
    /// # Errors
    /// [`RecordError::AlreadySigned`] if the key has truly signed; [`RecordError::TooManySignatures`].
    pub fn sign(&mut self, key: &SecretKey) -> Result<(), RecordError> {
        let public = key.public();
        let id = public.id();
        if self.claimed_signers().any(|claimed| claimed == id) && !self.has_false_signature_of(&public) {
            return Err(RecordError::AlreadySigned { key: id });
        }
        let mut signatures = self.signatures.clone();
        signatures.retain(|(claimed, _)| *claimed != id);
        signatures.push((id, key.sign(&self.signed)));
        self.set_signatures(signatures)
    }

    /// Whether it carries a signature in the name of this key that does not verify: damaged or forged.
    pub fn has_false_signature_of(&self, key: &PublicKey) -> bool {
        let id = key.id();
        self.signatures.iter().any(|(claimed, signature)| *claimed == id && !key.verifies(&self.signed, signature))
    }

    /// Takes over the signatures of `other`, which is the same release, by keys that have not signed here. They are not checked.
    ///
    /// # Errors
    /// [`RecordError::OtherRelease`] if it is another release; [`RecordError::TooManySignatures`].
    pub fn take_signatures(&mut self, other: &Self) -> Result<(), RecordError> {
        let (expected, got) = (self.digest(), other.digest());
        if expected != got {
            return Err(RecordError::OtherRelease { expected, got });
        }
        let mut signatures = self.signatures.clone();
        for signature in &other.signatures {
            if !signatures.iter().any(|(known, _)| *known == signature.0) {
                signatures.push(*signature);
            }
        }
        self.set_signatures(signatures)
    }

    fn set_signatures(&mut self, mut signatures: Vec<(KeyId, [u8; 64])>) -> Result<(), RecordError> {
        check_signature_count(signatures.len())?;
        signatures.sort_by_key(|(id, _)| *id);
        self.signatures = signatures;
        Ok(())
    }

    /// Cuts a file into its parts by the lengths in its header.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let total = length_of(bytes);
        let magic_is_right = bytes.get(..8).is_some_and(|magic| magic == MAGIC);
        if !magic_is_right {
            return Err(RecordError::Magic { got: describe(bytes) });
        }
        if total < HEADER_BYTES {
            return Err(RecordError::Length { expected: HEADER_BYTES, got: total });
        }
        let lengths = [read_u64(bytes, 8), read_u64(bytes, 16), read_u64(bytes, 24)];
        check_caps(&lengths)?;
        let expected = HEADER_BYTES + lengths.iter().sum::<u64>();
        if expected != total {
            return Err(RecordError::Length { expected, got: total });
        }
        let (signed, rest) = split(&bytes[32..], lengths[0]);
        let (signatures, tables) = split(rest, lengths[1]);
        Ok(Self { signed: signed.to_vec(), signatures: read_signatures(signatures), tables: tables.to_vec() })
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for length in self.lengths() {
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        bytes.extend_from_slice(&self.signed);
        for (id, signature) in &self.signatures {
            bytes.extend_from_slice(id.as_bytes());
            bytes.extend_from_slice(signature);
        }
        bytes.extend_from_slice(&self.tables);
        bytes
    }

    /// Key ids it claims to be signed by. A claim only.
    pub fn claimed_signers(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.signatures.iter().map(|(id, _)| *id)
    }

    /// SHA-256 of the signed part.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.signed)
    }

    /// Reads the record without looking at a signature: for showing it, and for making payloads, which need no trust.
    pub fn record_untrusted(&self) -> Result<Record, RecordError> {
        Record::from_signed_bytes(&self.signed, &self.tables)
    }

    /// Checks the signatures over the exact signed bytes, and only then reads them. Refuses what revokes its own signers, too
    /// ([`Record::check_signers_stay`]).
    pub fn verify(&self, keyring: &Keyring) -> Result<Release, RecordError> {
        let threshold = keyring.threshold();
        if self.signatures.is_empty() {
            return Err(RecordError::Unsigned { threshold: threshold.get() });
        }
        let signers = keyring.check(&self.signed, &self.signatures).map_err(|fault| match fault {
            SignatureFault::Forged(key) => RecordError::Forged { key },
            SignatureFault::TooFew { signers } => RecordError::TooFewSignatures {
                threshold: threshold.get(),
                trusted: signers,
                signed_by: self.claimed_signers().collect(),
                keyring: keyring.ids().collect(),
            },
        })?;
        let record = Record::from_signed_bytes(&self.signed, &self.tables)?;
        record.check_signers_stay(self.claimed_signers(), threshold)?;
        Ok(Release { record, digest: self.digest(), signers })
    }

    /// Reads the record of a release that was verified before and is remembered by its digest: equal digests are equal signed
    /// bytes. For a slot that was committed, whose keys may have been replaced since.
    ///
    /// # Errors
    /// [`RecordError::OtherRelease`] if it is another release, else what is wrong with the record.
    pub fn known(&self, digest: Sha256Digest) -> Result<Release, RecordError> {
        let got = self.digest();
        if got != digest {
            return Err(RecordError::OtherRelease { expected: digest, got });
        }
        Ok(Release { record: self.record_untrusted()?, digest, signers: Vec::new() })
    }

    fn lengths(&self) -> [u64; 3] {
        [
            length_of(&self.signed),
            SIGNATURE_BYTES.saturating_mul(self.signatures.iter().fold(0, |n, _| n + 1)),
            length_of(&self.tables),
        ]
    }
}

/// Refuses more signatures than a record may carry.
///
/// # Errors
/// [`RecordError::TooManySignatures`].
pub fn check_signature_count(count: usize) -> Result<(), RecordError> {
    let got = u64::try_from(count).unwrap_or(u64::MAX);
    if got <= MAX_SIGNATURES { Ok(()) } else { Err(RecordError::TooManySignatures { limit: MAX_SIGNATURES, got }) }
}

fn check_caps(lengths: &[u64; 3]) -> Result<(), RecordError> {
    let caps = [
        ("signed part", MAX_SIGNED_BYTES, 1, ""),
        ("signatures", MAX_SIGNATURES * SIGNATURE_BYTES, SIGNATURE_BYTES, ", a multiple of 72"),
        ("window tables", MAX_WINDOWS * 32, 32, ", a multiple of 32"),
    ];
    for ((part, limit, multiple, unit), got) in caps.into_iter().zip(lengths) {
        if *got > limit || got % multiple != 0 {
            return Err(RecordError::Cap { part, limit, unit, got: *got });
        }
    }
    debug_assert!(HEADER_BYTES + lengths.iter().sum::<u64>() <= MAX_RECORD_BYTES);
    Ok(())
}

fn read_signatures(bytes: &[u8]) -> Vec<(KeyId, [u8; 64])> {
    let (chunks, _) = bytes.as_chunks::<72>();
    chunks
        .iter()
        .map(|chunk| {
            let (mut id, mut signature) = ([0; 8], [0; 64]);
            id.copy_from_slice(&chunk[..8]);
            signature.copy_from_slice(&chunk[8..]);
            (KeyId::from_bytes(id), signature)
        })
        .collect()
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn split(bytes: &[u8], at: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len()))
}
