use std::num::NonZeroU32;

use super::*;
use crate::keyring::{Keyring, SecretKey};
use crate::version::{Sequence, Version};

fn table(bytes: &[u8]) -> WindowTable {
    let digests = bytes.chunks(256 * 1024).map(Sha256Digest::of).collect();
    WindowTable::new(bytes.len() as u64, digests).unwrap()
}

fn record() -> Record {
    Record {
        product: "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}".into(),
        arch: "x86_64".into(),
        board: "demo".into(),
        version: Version::parse("1.2.0").unwrap(),
        sequence: Sequence::new(12).unwrap(),
        created: "2026-11-22T00:00:00Z".parse().unwrap(),
        not_below: Sequence::new(3).unwrap(),
        minimum_source: None,
        channels: vec!["stable".into()],
        urgent: false,
        revoked_keys: vec![],
        payload_table_sha256: None,
        notes: Some(Notes::Text("Fixes the clock.".into())),
        images: vec![Image { name: "root".into(), slot: None, table: table(&[7; 300 * 1024]), verity: None }],
    }
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn keyring(seeds: &[u8], threshold: u32) -> Keyring {
    let keys = seeds.iter().map(|seed| (format!("{seed}.pub"), key(*seed).public()));
    Keyring::new(keys, NonZeroU32::new(threshold).unwrap(), &[]).unwrap()
}

fn signed(record: &Record, seeds: &[u8]) -> Vec<u8> {
    let mut envelope = Envelope::unsigned(record).unwrap();
    for seed in seeds {
        envelope.sign(&key(*seed)).unwrap();
    }
    envelope.to_bytes()
}

/// Signs a text that `Record` itself would never write.
fn signed_json(json: &str) -> Result<Release, RecordError> {
    let mut envelope = Envelope::unsigned(&record()).unwrap();
    envelope.signed = [record::DOMAIN, json.as_bytes()].concat();
    envelope.sign(&key(1)).unwrap();
    Envelope::parse(&envelope.to_bytes()).unwrap().verify(&keyring(&[1], 1))
}

fn json_of(record: &Record) -> String {
    let signed = record.to_signed_bytes().unwrap();
    String::from_utf8(signed[record::DOMAIN.len()..].to_vec()).unwrap()
}

#[test]
fn a_signed_record_comes_back_whole() {
    let bytes = signed(&record(), &[1, 2]);
    let release = Envelope::parse(&bytes).unwrap().verify(&keyring(&[1, 2, 3], 2)).unwrap();
    assert_eq!(*release.record(), record());
    assert_eq!(release.signers().len(), 2);
    assert_eq!(Envelope::parse(&bytes).unwrap().to_bytes(), bytes);
}

#[test]
fn any_changed_byte_is_refused() {
    let bytes = signed(&record(), &[1]);
    let ring = keyring(&[1], 1);
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            let outcome = Envelope::parse(&changed).and_then(|envelope| envelope.verify(&ring));
            assert!(outcome.is_err(), "byte {at} ^ {flip:#x} passed");
        }
    }
}

#[test]
fn a_surplus_signature_is_all_that_can_change() {
    let bytes = signed(&record(), &[1, 2]);
    let ring = keyring(&[1, 2], 1);
    let original = Envelope::parse(&bytes).unwrap().verify(&ring).unwrap();
    let signatures = 32 + Envelope::parse(&bytes).unwrap().signed.len();
    let mut passed = 0;
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x01;
        let Ok(release) = Envelope::parse(&changed).and_then(|envelope| envelope.verify(&ring)) else { continue };
        let place = at.checked_sub(signatures).expect("a changed byte before the signatures passed");
        assert!(place < 2 * 72 && place % 72 < 8, "byte {at} passed and belongs to no key id");
        assert_eq!((release.record(), release.digest()), (original.record(), original.digest()));
        assert_eq!(release.signers().len(), 1);
        passed += 1;
    }
    assert_eq!(passed, 16, "the eight bytes of either key id");
}

#[test]
fn any_cut_or_appended_byte_is_refused() {
    let bytes = signed(&record(), &[1]);
    for length in 0..bytes.len() {
        assert!(Envelope::parse(&bytes[..length]).is_err(), "cut at {length} passed");
    }
    let longer = [&bytes[..], b"\0"].concat();
    assert!(matches!(Envelope::parse(&longer), Err(RecordError::Length { .. })));
}

#[test]
fn unsigned_wrong_key_too_few_and_one_key_twice_are_told_apart() {
    let verify =
        |bytes: &[u8], seeds: &[u8], threshold| Envelope::parse(bytes).unwrap().verify(&keyring(seeds, threshold)).unwrap_err();
    assert!(matches!(verify(&signed(&record(), &[]), &[1], 1), RecordError::Unsigned { threshold: 1 }));
    let wrong_key = verify(&signed(&record(), &[9]), &[1], 1);
    assert!(matches!(&wrong_key, RecordError::TooFewSignatures { trusted, .. } if trusted.is_empty()));
    assert!(wrong_key.to_string().contains(&key(9).public().id().to_string()), "{wrong_key}");
    assert!(
        matches!(verify(&signed(&record(), &[1]), &[1, 2], 2), RecordError::TooFewSignatures { trusted, .. } if trusted.len() == 1)
    );
    let mut twice = Envelope::unsigned(&record()).unwrap();
    twice.sign(&key(1)).unwrap();
    twice.signatures.push(twice.signatures[0]);
    assert!(matches!(verify(&twice.to_bytes(), &[1, 2], 2), RecordError::TooFewSignatures { trusted, .. } if trusted.len() == 1));
    assert!(matches!(twice.sign(&key(1)), Err(RecordError::AlreadySigned { .. })));
}

#[test]
fn a_record_that_revokes_its_own_signers_is_refused() {
    let verify = |signers: &[u8], revoked: &[u8], trusted: &[u8], threshold| {
        let revoked_keys = revoked.iter().map(|seed| key(*seed).public().id()).collect();
        let bytes = signed(&Record { revoked_keys, ..record() }, signers);
        Envelope::parse(&bytes).unwrap().verify(&keyring(trusted, threshold)).map(|release| release.signers().len())
    };
    let [one, two] = [1, 2].map(|seed| key(seed).public().id());
    assert_eq!(
        verify(&[1], &[1], &[1, 2], 1).unwrap_err().to_string(),
        format!(
            "the record revokes its own signers: expected signatures by 1 distinct key(s) that it does not revoke, got 0 \
             (signed by {one}; revokes {one})"
        )
    );
    let too_few = verify(&[1, 2], &[1], &[1, 2], 2);
    assert!(
        matches!(&too_few, Err(RecordError::RevokesItsSigners { threshold: 2, staying, .. }) if *staying == [two]),
        "{too_few:?}"
    );
    assert!(verify(&[1, 2], &[1, 2], &[1, 2], 1).is_err());
    assert_eq!(verify(&[1, 2], &[1], &[1, 2], 1), Ok(2), "one signer stays");
    assert_eq!(verify(&[1, 2, 3], &[1], &[1, 2, 3], 2), Ok(3));
    assert_eq!(verify(&[1], &[2], &[1, 2], 1), Ok(1), "what it revokes is no signer");
    assert_eq!(verify(&[1, 9], &[1], &[1], 1), Ok(1), "the next key, which the new image brings, has signed, too");
}

#[test]
fn signatures_of_the_same_release_are_taken_over_and_of_another_are_not() {
    let mut ours = Envelope::parse(&signed(&record(), &[1])).unwrap();
    let theirs = Envelope::parse(&signed(&record(), &[1, 2, 3])).unwrap();
    ours.take_signatures(&theirs).unwrap();
    assert_eq!(ours, theirs);
    let another = Envelope::parse(&signed(&Record { urgent: true, ..record() }, &[4])).unwrap();
    assert!(matches!(ours.take_signatures(&another), Err(RecordError::OtherRelease { .. })));
    assert_eq!(ours, theirs);
}

#[test]
fn a_key_replaces_what_was_signed_in_its_name_and_does_not_verify() {
    let whole = Envelope::parse(&signed(&record(), &[1, 2])).unwrap();
    let mut damaged = whole.clone();
    damaged.signatures.iter_mut().filter(|(id, _)| *id == key(2).public().id()).for_each(|(_, signature)| signature[0] ^= 1);
    let forged = damaged.verify(&keyring(&[1, 2], 1));
    assert_eq!(forged, Err(RecordError::Forged { key: key(2).public().id() }));
    let mut twice = damaged.clone();
    twice.signatures.push(whole.signatures.iter().copied().find(|(id, _)| *id == key(2).public().id()).unwrap());
    for mut envelope in [damaged, twice] {
        envelope.sign(&key(2)).unwrap();
        assert_eq!(envelope, whole);
        assert!(matches!(envelope.sign(&key(2)), Err(RecordError::AlreadySigned { .. })));
    }
}

#[test]
fn more_signatures_than_a_record_may_carry_are_refused_and_change_nothing() {
    let seeds: Vec<u8> = (1..=32).collect();
    let full = Envelope::parse(&signed(&record(), &seeds)).unwrap();
    let mut ours = full.clone();
    let expected = Err(RecordError::TooManySignatures { limit: 32, got: 33 });
    assert_eq!(ours.sign(&key(99)), expected);
    assert_eq!(ours, full);
    let mut other = Envelope::parse(&signed(&record(), &[99])).unwrap();
    assert_eq!(other.take_signatures(&full), expected);
    assert_eq!(other.claimed_signers().count(), 1);
}

#[test]
fn duplicate_and_unknown_fields_are_refused_and_extensions_ignored() {
    let json = json_of(&record());
    assert!(signed_json(&json).is_ok());
    let with = |extra: &str| json.replacen("{\n", &format!("{{\n{extra},\n"), 1);
    let duplicate = signed_json(&with("\"sequence\": 99")).unwrap_err().to_string();
    assert!(duplicate.contains("stands twice"), "{duplicate}");
    let unknown = signed_json(&with("\"not_above\": 99")).unwrap_err().to_string();
    assert!(unknown.contains("unknown field `not_above`"), "{unknown}");
    assert!(signed_json(&with("\"x_builder\": \"ci\"")).is_ok());
    assert!(signed_json(&format!("{json} {{}}")).is_err(), "trailing JSON");
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(signed_json(&with(&format!("\"x_deep\": {deep}"))).is_err(), "deep JSON");
}

#[test]
fn impossible_values_are_refused_by_name() {
    type Change<'a> = &'a dyn Fn(&mut Record);
    let cases: [(&str, Change<'_>); 9] = [
        ("sequence", &|r| {
            r.sequence = Sequence::ZERO;
            r.not_below = Sequence::ZERO;
        }),
        ("not_below", &|r| r.not_below = Sequence::new(13).unwrap()),
        ("minimum_source", &|r| r.minimum_source = Sequence::new(12)),
        ("product", &|r| r.product = "a b".into()),
        ("board", &|r| r.board = "../x".into()),
        ("images", &|r| r.images.clear()),
        ("images.name", &|r| r.images.push(r.images[0].clone())),
        ("channels", &|r| r.channels = vec!["c".into(); 65]),
        ("notes.url", &|r| r.notes = Some(Notes::Url { url: "file:///etc/passwd".into(), sha256: Sha256Digest::of(b"") })),
    ];
    for (expected, change) in cases {
        let mut changed = record();
        change(&mut changed);
        match Envelope::unsigned(&changed) {
            Err(RecordError::Field { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn sizes_that_do_not_add_up_are_refused() {
    let json = json_of(&record());
    for size in ["0", "1", "262144", "524289", "18446744073709551615"] {
        let lied = json.replace("\"size\": 307200", &format!("\"size\": {size}"));
        assert!(signed_json(&lied).is_err(), "size {size}");
    }
    for window in ["0", "1", "4096", "1048576", "4294967295"] {
        let lied = json.replace("\"window_size\": 262144", &format!("\"window_size\": {window}"));
        assert!(signed_json(&lied).is_err(), "window_size {window}");
    }
}

#[test]
fn a_signature_made_for_another_purpose_does_not_fit() {
    let mut envelope = Envelope::unsigned(&record()).unwrap();
    envelope.signed = json_of(&record()).into_bytes();
    envelope.sign(&key(1)).unwrap();
    assert_eq!(envelope.verify(&keyring(&[1], 1)), Err(RecordError::Domain));
}

#[test]
fn slot_dependent_images_may_share_a_name() {
    let mut two = record();
    let image = |slot| Image { slot: Some(slot), ..record().images[0].clone() };
    two.images = vec![image(SlotName::A), image(SlotName::B)];
    assert!(Envelope::unsigned(&two).is_ok());
    two.images.push(record().images[0].clone());
    assert!(Envelope::unsigned(&two).is_err());
}

#[test]
fn window_ranges_cover_the_image_once() {
    let table = table(&[1; 600 * 1024]);
    let ranges: Vec<_> = (0..table.count()).filter_map(|n| table.range(n)).collect();
    assert_eq!(ranges, [(0, 262_144), (262_144, 262_144), (524_288, 90_112)]);
    assert_eq!(table.range(3), None);
}

mod arbitrary {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), lengths in any::<[u8; 3]>()) {
            let mut file = b"OTARECv1".to_vec();
            for length in lengths { file.extend_from_slice(&u64::from(length).to_le_bytes()); }
            file.extend_from_slice(&bytes);
            for input in [&bytes, &file] {
                if let Ok(envelope) = Envelope::parse(input) {
                    let _ = envelope.record_untrusted();
                    prop_assert!(envelope.verify(&keyring(&[1], 1)).is_err());
                    prop_assert_eq!(&envelope.to_bytes(), input);
                }
            }
        }
    }
}
