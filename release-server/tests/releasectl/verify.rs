//! `verify`: records, keyrings and payloads that are not what they should be.

use std::fs;

use manifests::digest::Sha256Digest;
use manifests::keyring::SecretKey;
use manifests::release::{Envelope, Record};

use crate::desk::{Desk, Run, SIGNED, flip, image};

#[test]
fn whose_a_payload_is_is_said_truly() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    let resigned = |payload_table_sha256| {
        let record = Envelope::parse(&desk.read("out/1.0.0.release")).unwrap().record_untrusted().unwrap();
        let mut envelope = Envelope::unsigned(&Record { payload_table_sha256, ..record }).unwrap();
        envelope.sign(&SecretKey::from_seed(&[1; 32])).unwrap();
        desk.write("out/other.release", envelope.to_bytes());
        desk.good("verify out/other.release out/1.0.0.payload --keyring keyring").lines().last().unwrap().to_owned()
    };
    assert_eq!(resigned(None), "  the record names no payload, and this one fits; all 9 windows equal the record");
    assert_eq!(
        resigned(Some(Sha256Digest::of(b"another"))),
        "  not the payload that the record names, but it fits; all 9 windows equal the record"
    );
}

#[test]
fn a_record_by_another_key_is_refused() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, "--key evil.key --created 2026-01-31T00:00:00Z");
    let run = desk.run("verify out/1.0.0.release out/1.0.0.payload --keyring keyring");
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert!(
        run.stderr.starts_with("error: out/1.0.0.release: expected signatures by 1 distinct trusted key(s), got 0 (signed by "),
        "{}",
        run.stderr
    );
}

#[test]
fn a_keyring_that_cannot_say_yes_is_refused() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    fs::create_dir(desk.path("empty")).unwrap();
    desk.bad(
        "verify out/1.0.0.release --keyring empty",
        1,
        "error: the keyring is empty: expected at least 1 public key file(s) (*.pub)\n\
         hint: put the publisher's NAME.pub into that folder\n",
    );
    desk.bad(
        "verify out/1.0.0.release --keyring keyring --threshold 3",
        1,
        "error: the threshold is 3 but the keyring has only 2 distinct key(s): no record could ever pass\n\
         hint: add public keys to the folder, or lower --threshold\n",
    );
    desk.bad(
        "verify out/1.0.0.release --keyring nowhere",
        1,
        "error: cannot open the keyring folder nowhere: No such file or directory (os error 2)\n",
    );
    desk.write("keyring/broken.pub", "AAAA\n");
    desk.bad(
        "verify out/1.0.0.release --keyring keyring",
        1,
        "error: keyring/broken.pub: expected one line of base64 of 32 bytes (and # comments), got 3 bytes\n\
         hint: a private key is NAME.key, a public key NAME.pub, both as `releasectl key generate` writes them\n",
    );
    let zero = desk.run("verify out/1.0.0.release --keyring keyring --threshold 0");
    assert_eq!((zero.code, zero.stderr.contains("invalid value '0' for '--threshold <N>'")), (2, true));
}

#[test]
fn a_changed_byte_of_a_record_is_refused() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    let length = desk.read("out/1.0.0.release").len() as u64;
    let verify = |expected: &str| {
        let run = desk.run("verify out/1.0.0.release --keyring keyring");
        assert_eq!((run.code, run.stdout.as_str()), (1, ""));
        assert!(run.stderr.starts_with(&format!("error: out/1.0.0.release: {expected}")), "{}", run.stderr);
    };
    for (at, expected) in [
        (0, "not a release record: expected the magic \"OTARECv1\" at byte 0"),
        (8, "the record is "),
        (100, "the signature by key 34750f98bd59fcfc does not verify: the record was changed after signing, or forged"),
        (length - 1, "window table of image \"root\": expected sha256 "),
    ] {
        flip(&desk.path("out/1.0.0.release"), at);
        verify(expected);
        flip(&desk.path("out/1.0.0.release"), at);
    }
    let whole = desk.read("out/1.0.0.release");
    desk.write("out/1.0.0.release", &whole[..whole.len() - 1]);
    verify("the record is ");
    desk.write("out/1.0.0.release", vec![0; 5 << 20]);
    desk.bad(
        "verify out/1.0.0.release --keyring keyring",
        1,
        "error: out/1.0.0.release: expected at most 4325376 bytes, got more\n\
         hint: is it the right file? `releasectl inspect FILE` says what a file is\n",
    );
}

#[test]
fn a_changed_payload_is_refused_with_its_place() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    let verify = || desk.run("verify out/1.0.0.release out/1.0.0.payload --keyring keyring");
    let report = |run: &Run| run.stdout.split_once("out/1.0.0.payload: ").unwrap().1.to_owned();

    flip(&desk.path("out/1.0.0.payload"), 64 + 68 + 3 * 256 * 1024 + 5);
    let blob = verify();
    assert_eq!((blob.code, blob.stderr.as_str()), (1, ""));
    assert!(
        report(&blob).starts_with(
            "BAD\n  1 of 9 windows differ from the record, or cannot be made\n  \
             frame 0 (windows 0 to 3 of image \"root\"): 1 of 4 windows differ from the record; window 3: expected sha256 "
        ),
        "{}",
        blob.stdout
    );
    let json: serde_json::Value =
        serde_json::from_str(&desk.run("verify --json out/1.0.0.release out/1.0.0.payload --keyring keyring").stdout).unwrap();
    assert_eq!((&json["good"], &json["payloads"][0]["windows_wrong"]), (&false.into(), &1.into()));

    flip(&desk.path("out/1.0.0.payload"), 64);
    let table = verify();
    assert_eq!(table.code, 1);
    assert!(report(&table).starts_with("BAD\n  out/1.0.0.payload: frame table: expected sha256 "), "{}", table.stdout);
    assert!(report(&table).ends_with("the table was damaged on its way\n  hint: fetch the payload again\n"), "{}", table.stdout);

    let whole = desk.read("out/1.0.0.payload");
    desk.write("out/1.0.0.payload", &whole[..1000]);
    let cut = verify();
    assert_eq!(
        (cut.code, report(&cut).as_str()),
        (
            1,
            "BAD\n  out/1.0.0.payload: the payload is 1000 bytes long, expected 1053708: it was cut or something was appended\n  \
             hint: fetch the payload again\n"
        )
    );
}

#[test]
fn of_several_payloads_each_is_judged() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    desk.write("root.img", image(5));
    desk.build("2.0.0", 2, SIGNED);
    let run = desk.run("verify out/2.0.0.release out/1.0.0.payload out/2.0.0.payload nowhere --keyring keyring");
    assert_eq!((run.code, run.stderr.as_str()), (1, ""));
    let lines: Vec<&str> = run.stdout.lines().skip(4).collect();
    assert_eq!(lines[0], "out/1.0.0.payload: BAD");
    assert!(lines[1].starts_with(
        "  out/1.0.0.payload: the payload was made for another release: sha256 of the window table of image \"root\""
    ));
    assert_eq!(lines[2], "  hint: a payload fits one release only: compare with `releasectl inspect`");
    assert_eq!(&lines[3..5], ["out/2.0.0.payload: good", "  the publisher's own payload; all 9 windows equal the record"]);
    assert_eq!(&lines[5..], ["nowhere: BAD", "  cannot open nowhere: No such file or directory (os error 2)"]);
}

#[test]
fn a_private_key_in_a_keyring_is_said_and_not_trusted() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    fs::copy(desk.path("evil.key"), desk.path("keyring/k.pub")).unwrap();
    let id = SecretKey::from_seed(&[9; 32]).public().id();
    desk.bad(
        "verify out/1.0.0.release --keyring keyring",
        1,
        &format!(
            "error: keyring/k.pub holds a PRIVATE key (id {id}): remove it from the image and revoke it\n\
             hint: put NAME.pub there; who has read that file can sign: `releasectl build --revoke-key ID` makes hosts distrust the key\n"
        ),
    );
    desk.write(
        "keyring/k.pub",
        String::from_utf8(desk.read("keyring/one.pub")).unwrap().replace("34750f98bd59fcfc", &id.to_string()),
    );
    desk.bad(
        "verify out/1.0.0.release --keyring keyring",
        1,
        &format!(
            "error: keyring/k.pub: expected the key {id} that its comment names, got 34750f98bd59fcfc: the comment or the key was changed\n\
             hint: take the file from its owner again; never trust or use one that stays like this\n"
        ),
    );
}
