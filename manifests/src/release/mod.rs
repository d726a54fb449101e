//! The release record: the one small signed thing that is trusted. Everything else is bytes checked against it.
//!
//! # File `VERSION.release`
//!
//! All numbers little endian.
//!
//! ```text
//!  0  8  magic "OTARECv1"
//!  8  8  S = length of the signed part
//! 16  8  G = length of the signatures, a multiple of 72
//! 24  8  T = length of the window tables, a multiple of 32
//! 32  S  signed part: "ota release record v1\n", then one JSON object (see [`Record`])
//!     G  signatures: key id (8 bytes) and ed25519 signature (64 bytes) over exactly the S bytes above
//!     T  window tables: for each image in the order of the JSON, one SHA-256 per window
//! ```
//!
//! The file ends there: a byte more or less is refused. The tables are bound by `table_sha256` of each image, inside the
//! signed part. The digest that names a release is the SHA-256 of its signed part, so that adding a signature does not change it.
//!
//! # Promises
//!
//! * [`Envelope::parse`] looks at lengths only. [`Envelope::verify`] checks signatures before a byte of JSON is read, and is the
//!   only maker of a [`Release`] that nobody has seen before; [`Envelope::known`] takes one by the digest of an earlier verification.
//! * No changed byte of a record that carries only the signatures it needs passes (test `any_changed_byte_is_refused`). With more
//!   than the threshold, one place is left: a changed key id of a surplus signature makes that signature one by an unknown key, which
//!   is ignored, and so are its other bytes then. What is signed, and with it all that [`Release::record`] says and the digest that
//!   names the release, is the same bytes in every record that passes (test `a_surplus_signature_is_all_that_can_change`).
//! * No record passes that would not pass again once what it revokes is revoked: a host that commits it could not vouch for what it
//!   runs. Signatures by keys that the keyring lacks count here, since the new image brings the next keys
//!   ([`Record::check_signers_stay`]). Such a signature is a claim that anybody on the way can add: against a publisher's mistake this
//!   rule is enough; against an adversary the guard is the new image's health check, which verifies its own record with its own keys.
//!
//! ```
//! # use manifests::{keyring::*, release::*, version::*};
//! # use std::num::NonZeroU32;
//! # let image = WindowTable::new(4096, vec![manifests::digest::Sha256Digest::of(&[0; 4096])])?;
//! # let record = Record {
//! #     product: "{demo}".into(), arch: "x86_64".into(), board: "demo".into(), version: Version::parse("1.0.0")?,
//! #     sequence: Sequence::new(1).unwrap(), created: "2026-01-01T00:00:00Z".parse()?, not_below: Sequence::ZERO,
//! #     minimum_source: None, channels: vec![], urgent: false, revoked_keys: vec![], payload_table_sha256: None, notes: None,
//! #     images: vec![Image { name: "root".into(), slot: None, table: image, verity: None }],
//! # };
//! let key = SecretKey::from_seed(&[7; 32]);
//! let mut envelope = Envelope::unsigned(&record)?;
//! envelope.sign(&key)?;
//! let keyring = Keyring::new([("demo.pub".into(), key.public())], NonZeroU32::MIN, &[])?;
//! let release = Envelope::parse(&envelope.to_bytes())?.verify(&keyring)?;
//! assert_eq!(release.record().version.as_str(), "1.0.0");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod envelope;
mod record;
mod strict_json;
mod table;

pub use envelope::{Envelope, Release, check_signature_count};
pub use record::{DEFAULT_BOARD, Image, Notes, Record, SlotName, Verity};
pub use table::WindowTable;

use crate::digest::Sha256Digest;
use crate::keyring::{KeyId, join};

/// Why a record was refused. Every message says what was expected and what was got.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a record at all.
    #[error("not a release record: expected the magic \"OTARECv1\" at byte 0, got {got}")]
    Magic {
        /// What it is instead, as [`describe`](crate::foreign::describe) says it.
        got: String,
    },
    /// Shorter than its header says, or longer.
    #[error("the record is {got} bytes long, expected {expected}: it was cut or something was appended")]
    Length {
        /// Length by the header.
        expected: u64,
        /// Length of the bytes.
        got: u64,
    },
    /// It is not the release that was expected.
    #[error("it is another release: expected the digest {expected}, got {got}")]
    OtherRelease {
        /// As it is remembered.
        expected: Sha256Digest,
        /// Of its signed part.
        got: Sha256Digest,
    },
    /// A length in the header is out of bounds.
    #[error("{part}: expected at most {limit} bytes{unit}, got {got}")]
    Cap {
        /// Which part.
        part: &'static str,
        /// The cap.
        limit: u64,
        /// A rule on multiples, or nothing.
        unit: &'static str,
        /// The header's number.
        got: u64,
    },
    /// More signatures than a record may carry.
    #[error("expected at most {limit} signatures, got {got}")]
    TooManySignatures {
        /// The cap.
        limit: u64,
        /// How many there would be.
        got: u64,
    },
    /// Nobody signed.
    #[error("the record carries no signature: expected {threshold} by distinct trusted keys")]
    Unsigned {
        /// How many are needed.
        threshold: u32,
    },
    /// A signature of a trusted key does not fit the bytes.
    #[error("the signature by key {key} does not verify: the record was changed after signing, or forged")]
    Forged {
        /// The key it claims.
        key: KeyId,
    },
    /// Too few distinct trusted keys signed.
    #[error("expected signatures by {threshold} distinct trusted key(s), got {} (signed by {}; trusted here {})", trusted.len(), join(signed_by), join(keyring))]
    TooFewSignatures {
        /// How many are needed.
        threshold: u32,
        /// Trusted keys whose signatures verified.
        trusted: Vec<KeyId>,
        /// Every key id the record names.
        signed_by: Vec<KeyId>,
        /// The keyring's ids.
        keyring: Vec<KeyId>,
    },
    /// Once it is committed, its own signatures do not suffice any more.
    #[error("the record revokes its own signers: expected signatures by {threshold} distinct key(s) that it does not revoke, got {} (signed by {}; revokes {})", staying.len(), join(signed_by), join(revokes))]
    RevokesItsSigners {
        /// How many are needed.
        threshold: u32,
        /// Keys that signed and that it does not revoke.
        staying: Vec<KeyId>,
        /// Every key id that signed.
        signed_by: Vec<KeyId>,
        /// Every key id it revokes.
        revokes: Vec<KeyId>,
    },
    /// The signed part does not start with the domain separation line.
    #[error("the signed part does not start with \"ota release record v1\": it was signed for another purpose")]
    Domain,
    /// The signed JSON is not a record.
    #[error("signed JSON: {reason}")]
    Json {
        /// Line, column and expectation.
        reason: String,
    },
    /// A field of the record has an impossible value.
    #[error("{field}: expected {expected}, got {got}")]
    Field {
        /// Path of the field.
        field: String,
        /// What would be right.
        expected: String,
        /// What stands there.
        got: String,
    },
    /// The window tables do not add up to the images.
    #[error("window tables: the images need {expected} bytes, the record has {got}")]
    TableLength {
        /// By the images' sizes.
        expected: u64,
        /// By the header.
        got: u64,
    },
    /// A window table is not the one that was signed.
    #[error("window table of image {image:?}: expected sha256 {expected}, got {got}")]
    Table {
        /// The image.
        image: String,
        /// As signed.
        expected: Sha256Digest,
        /// As found.
        got: Sha256Digest,
    },
    /// A key signed twice.
    #[error("key {key} has signed this record already: a second signature by it would not count")]
    AlreadySigned {
        /// The key.
        key: KeyId,
    },
}

#[cfg(test)]
mod tests;
