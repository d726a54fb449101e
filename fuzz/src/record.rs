//! Release records: nothing that was not signed is ever verified, and reading agrees with writing.

use std::num::NonZeroU32;
use std::sync::LazyLock;

use manifests::digest::Sha256Digest;
use manifests::keyring::{KeyId, Keyring, SecretKey};
use manifests::release::{Envelope, Image, Notes, Record, RecordError, SlotName, Verity, WindowTable};
use manifests::version::{Sequence, Version};

/// The line that a signed part begins with, from the format's documentation.
const DOMAIN: &[u8] = b"ota release record v1\n";
/// The header: magic and three lengths.
const HEADER_BYTES: usize = 32;
/// Most windows that the JSON target has tables for.
const MAX_TEST_WINDOWS: usize = 64;

/// The records of [`samples`], signed, as files. Signing is slow.
static SIGNED: LazyLock<Vec<(Record, Envelope)>> =
    LazyLock::new(|| samples().into_iter().map(|record| (record.clone(), signed(&record))).collect());

static KEYRING: LazyLock<Keyring> = LazyLock::new(keyring);

/// Any bytes as a record file.
pub fn file(data: &[u8]) {
    let Ok(envelope) = Envelope::parse(data) else { return };
    assert_eq!(envelope.to_bytes(), data, "a record has one spelling only");
    let untrusted = envelope.record_untrusted();
    if let Ok(record) = &untrusted {
        check_written_again(record);
    }
    match envelope.verify(&KEYRING) {
        Ok(release) => {
            let is_known = SIGNED.iter().any(|(record, _)| record == release.record());
            assert!(is_known, "verified, but never signed: {:?}", release.record());
            assert_eq!(Ok(release.record()), untrusted.as_ref());
            assert_eq!(release.signers().len(), 2);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A true record with edits: pairs of a place and what to do there. What still verifies is the record that was signed.
pub fn edits(data: &[u8]) {
    let Some((which, edits)) = data.split_first() else { return };
    let (record, signed) = &SIGNED[usize::from(*which) % SIGNED.len()];
    let original = signed.to_bytes();
    let mut bytes = original.clone();
    for edit in edits.chunks_exact(4) {
        apply_edit(&mut bytes, edit);
    }
    let Ok(envelope) = Envelope::parse(&bytes) else { return };
    assert_eq!(envelope.to_bytes(), bytes);
    match envelope.verify(&KEYRING) {
        Ok(release) => {
            assert_eq!(release.record(), record, "verified with another meaning");
            assert_eq!(release.digest(), signed.digest());
        }
        Err(_) => assert!(bytes != original, "the record itself must pass"),
    }
    file(&bytes);
}

/// JSON as the signed part of a record that our own keys sign: `@N` stands for the digest of a table of N empty windows, the
/// first byte says how many windows the record's tables have.
pub fn json(data: &[u8]) {
    let Some((&windows, text)) = data.split_first() else { return };
    let tables = vec![0; usize::from(windows) % MAX_TEST_WINDOWS * 32];
    let signed_part = [DOMAIN, &with_digests(text)].concat();
    let Ok(mut envelope) = Envelope::parse(&framed(&signed_part, &[], &tables)) else { return };
    let untrusted = envelope.record_untrusted();
    let Ok(record) = &untrusted else { return };
    check_written_again(record);
    for key in keys() {
        envelope.sign(&key).expect("a key that has not signed yet");
    }
    let revokes_a_signer = keys().iter().any(|key| record.revoked_keys.contains(&key.public().id()));
    match envelope.verify(&KEYRING) {
        Ok(release) => assert!(release.record() == record && !revokes_a_signer),
        Err(error) => assert!(revokes_a_signer && matches!(error, RecordError::RevokesItsSigners { .. }), "{error}"),
    }
}

/// The records that were signed; the seeds of this folder hold them.
pub fn samples() -> Vec<Record> {
    let small = Record {
        product: "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}".into(),
        arch: "x86_64".into(),
        board: "demo".into(),
        version: version("1.0.0"),
        sequence: sequence(1),
        created: "2026-01-01T00:00:00Z".parse().expect("a time"),
        not_below: Sequence::ZERO,
        minimum_source: None,
        channels: Vec::new(),
        urgent: false,
        revoked_keys: Vec::new(),
        payload_table_sha256: None,
        notes: None,
        images: vec![image("root", None, 300_000)],
    };
    let full = Record {
        version: version("1.1.0+7"),
        sequence: sequence(9_000_000_000_000_000),
        not_below: sequence(7),
        minimum_source: Some(sequence(5)),
        channels: vec!["stable".into(), "beta".into()],
        urgent: true,
        revoked_keys: vec![KeyId::from_bytes([1, 2, 3, 4, 5, 6, 7, 8])],
        payload_table_sha256: Some(Sha256Digest::of(b"table")),
        notes: Some(Notes::Url { url: "https://example.org/notes".into(), sha256: Sha256Digest::of(b"notes") }),
        images: vec![
            Image {
                verity: Some(Verity { root_hash: Sha256Digest::of(b"root"), salt: "00ff".into() }),
                ..image("root", None, 1_000_000)
            },
            image("kernel", Some(SlotName::A), 5_000),
            image("kernel", Some(SlotName::B), 5_000),
        ],
        ..small.clone()
    };
    let spoken = Record { sequence: sequence(2), notes: Some(Notes::Text("Fixes \u{1f512}\n".into())), ..small.clone() };
    vec![small, full, spoken]
}

/// A record as its publisher signs it: by both keys of [`keyring`].
pub fn signed(record: &Record) -> Envelope {
    let mut envelope = Envelope::unsigned(record).expect("a sound record");
    for key in keys() {
        envelope.sign(&key).expect("a key that has not signed yet");
    }
    envelope
}

/// Two keys, both of which must have signed.
pub fn keyring() -> Keyring {
    let keys = keys().map(|key| (key.public().id().to_string(), key.public()));
    Keyring::new(keys, NonZeroU32::MIN.saturating_add(1), &[]).expect("two keys for a threshold of two")
}

fn keys() -> [SecretKey; 2] {
    [SecretKey::from_seed(&[7; 32]), SecretKey::from_seed(&[8; 32])]
}

/// An image of zeros.
fn image(name: &str, slot: Option<SlotName>, size: u64) -> Image {
    let count = WindowTable::count_for(size, WindowTable::standard_window_size(size));
    let digests = (0..count).map(|_| Sha256Digest::from_bytes([0; 32])).collect();
    Image { name: name.into(), slot, table: WindowTable::new(size, digests).expect("a table"), verity: None }
}

fn version(text: &str) -> Version {
    Version::parse(text).expect("a version")
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).expect("a sequence")
}

/// Whatever a reader takes, a writer writes, and it reads the same.
fn check_written_again(record: &Record) {
    match Envelope::unsigned(record) {
        Ok(written) => assert_eq!(written.record_untrusted().as_ref(), Ok(record)),
        // Pretty-printed, a record near the cap is longer than it was.
        Err(error) => assert!(matches!(error, RecordError::Cap { part: "signed part", .. }), "{error}"),
    }
}

/// Four bytes: what to do, where (two bytes), with what.
fn apply_edit(bytes: &mut Vec<u8>, edit: &[u8]) {
    let &[what, high, low, value] = edit else { return };
    let at = usize::from(u16::from_be_bytes([high, low])) % (bytes.len() + 1);
    match what % 6 {
        0 if at < bytes.len() => bytes[at] ^= value,
        1 if at < bytes.len() => bytes[at] = value,
        2 => bytes.insert(at, value),
        3 if at < bytes.len() => drop(bytes.remove(at)),
        4 => bytes.truncate(at.max(1)),
        // A signature once more, and its length in the header with it.
        5 => double_a_signature(bytes, usize::from(value)),
        _ => {}
    }
    if bytes.is_empty() {
        bytes.push(value);
    }
}

fn double_a_signature(bytes: &mut Vec<u8>, which: usize) {
    const SIGNATURE_BYTES: usize = 72;
    let length_at = |bytes: &[u8], at: usize| {
        let word = bytes.get(at..at + 8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(word)).ok().filter(|length| *length < 1 << 20)
    };
    let (Some(signed), Some(signatures)) = (length_at(bytes, 8), length_at(bytes, 16)) else { return };
    let count = signatures / SIGNATURE_BYTES;
    if count == 0 {
        return;
    }
    let start = HEADER_BYTES + signed + which % count * SIGNATURE_BYTES;
    let Some(signature) = bytes.get(start..start + SIGNATURE_BYTES).map(<[u8]>::to_vec) else { return };
    let end = HEADER_BYTES + signed + signatures;
    if end > bytes.len() {
        return;
    }
    bytes.splice(end..end, signature);
    let length = u64::try_from(signatures + SIGNATURE_BYTES).expect("below 2^20");
    bytes[16..24].copy_from_slice(&length.to_le_bytes());
}

/// A record file of these parts, by the format's documentation.
fn framed(signed: &[u8], signatures: &[u8], tables: &[u8]) -> Vec<u8> {
    let mut bytes = b"OTARECv1".to_vec();
    for part in [signed, signatures, tables] {
        bytes.extend(u64::try_from(part.len()).expect("a length").to_le_bytes());
    }
    [&bytes, signed, signatures, tables].concat()
}

/// Puts digests in the place of `@N`.
fn with_digests(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.iter().take(2).take_while(|digit| digit.is_ascii_digit()).count();
        let number = std::str::from_utf8(&after[..digits]).ok().and_then(|number| number.parse::<usize>().ok());
        match number {
            Some(windows) if byte == b'@' => {
                out.extend(Sha256Digest::of(&vec![0; windows * 32]).to_string().bytes());
                rest = &after[digits..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}
