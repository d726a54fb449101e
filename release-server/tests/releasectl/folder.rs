//! `build` into a folder where something stands already.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use manifests::keyring::SecretKey;
use manifests::release::Envelope;

use crate::desk::{Desk, SIGNED, build_line, flip, image};

#[test]
fn a_release_is_not_replaced_by_another_unasked() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    let files = || (desk.read("out/1.0.0.release"), desk.read("out/1.0.0.payload"));
    let first = files();
    desk.build("1.0.0", 1, SIGNED);
    assert!(first == files(), "the same bytes are no other release");
    let refused = |line: &str, file: &str| {
        let expected =
            "expected no file, or one of the same release, got one of other content: a release is not replaced unasked";
        let hint = "give it a new --version and --sequence, or another --out; --replace if no host has seen the old one";
        desk.bad(line, 1, &format!("error: out/1.0.0.{file}: {expected}\nhint: {hint}\n"));
        assert_eq!(desk.names("out"), ["1.0.0.payload", "1.0.0.release"]);
    };
    refused(&build_line("1.0.0", 2, SIGNED), "release");
    refused(&build_line("1.0.0", 1, &format!("{SIGNED} --urgent")), "release");
    desk.write("root.img", image(5));
    refused(&build_line("1.0.0", 1, SIGNED), "payload");
    assert!(first == files());
    desk.build("1.0.0", 1, &format!("{SIGNED} --replace"));
    assert!(first.0 != desk.read("out/1.0.0.release") && first.1 != desk.read("out/1.0.0.payload"));
}

#[test]
fn a_damaged_record_or_payload_is_not_called_another_release() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    desk.good("sign out/1.0.0.release --key two.key");
    let (record, payload) = (desk.read("out/1.0.0.release"), desk.read("out/1.0.0.payload"));
    let refused = |file: &str, expected: &str, hint: &str| {
        desk.bad(&build_line("1.0.0", 1, SIGNED), 1, &format!("error: out/1.0.0.{file}: {expected}\nhint: {hint}\n"));
    };
    let warning = "warning: out/1.0.0.payload: what stood there was not the payload of the record beside it, and was replaced\n\
                   hint: it was damaged, or left by a build that was interrupted; hosts that were given it have refused it\n";
    let mended = |expected: &str| {
        let built = desk.run(&build_line("1.0.0", 1, SIGNED));
        assert_eq!((built.code, built.stderr.as_str()), (0, expected));
        assert!(record == desk.read("out/1.0.0.release") && payload == desk.read("out/1.0.0.payload"));
    };
    flip(&desk.path("out/1.0.0.payload"), 500_000);
    mended(warning);
    desk.write("out/1.0.0.payload", &payload[..1000]);
    mended(warning);
    fs::remove_file(desk.path("out/1.0.0.payload")).unwrap();
    mended("");

    let expected = "expected no file, or the record of the same release, got one that cannot be read";
    let hint = "--replace writes it anew, signed by the keys given only; if it is no damage, give a new --version and --sequence, or another --out";
    let length = record.len();
    desk.write("out/1.0.0.release", &record[..length - 1]);
    let cut = format!("the record is {} bytes long, expected {length}: it was cut or something was appended", length - 1);
    refused("release", &format!("{expected}: {cut}"), hint);
    desk.write("out/1.0.0.release", "no record");
    let no_record = "not a release record: expected the magic \"OTARECv1\" at byte 0, got a text file";
    refused("release", &format!("{expected}: {no_record}"), hint);
    desk.write("out/1.0.0.release", vec![0; 5 << 20]);
    refused("release", &format!("{expected}: it has more than 4325376 bytes"), hint);
    desk.build("1.0.0", 1, &format!("{SIGNED} --replace"));
    desk.good("verify out/1.0.0.release out/1.0.0.payload --keyring keyring");
}

#[test]
fn a_release_that_is_there_already_keeps_the_signatures_others_have_added() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    desk.good("sign out/1.0.0.release --key two.key");
    let (record, payload) = (desk.read("out/1.0.0.release"), desk.read("out/1.0.0.payload"));
    let (one, two) = ("34750f98bd59fcfc", "6a3803d5f059902a");
    for (options, expected) in [
        (SIGNED.to_owned(), format!("signed by {one}; claimed by {two} (not checked)")),
        ("--unsigned --created 2026-01-31T00:00:00Z".to_owned(), format!("claimed by {one}, {two} (not checked)")),
        (format!("{SIGNED} --key two.key"), format!("signed by {one}, {two}")),
    ] {
        let again = desk.build("1.0.0", 1, &options);
        let line = format!("  record   out/1.0.0.release is this release already, {expected}\n");
        assert!(again.contains(&line), "{options}: {again}");
        assert!(record == desk.read("out/1.0.0.release") && payload == desk.read("out/1.0.0.payload"), "{options}");
    }
    fs::set_permissions(desk.path("out/1.0.0.release"), fs::Permissions::from_mode(0o600)).unwrap();
    let third = desk.good(&build_line("1.0.0", 1, "--key evil.key --created 2026-01-31T00:00:00Z --json"));
    let third: serde_json::Value = serde_json::from_str(&third).unwrap();
    let evil = SecretKey::from_seed(&[9; 32]).public().id();
    assert_eq!((&third["was_there"], &third["signers"]), (&true.into(), &serde_json::json!([evil])));
    assert_eq!((&third["claimed_signers"], &third["dropped_signers"]), (&serde_json::json!([one, two]), &serde_json::json!([])));
    assert_eq!(fs::metadata(desk.path("out/1.0.0.release")).unwrap().permissions().mode() & 0o7777, 0o600);
    desk.good("verify out/1.0.0.release out/1.0.0.payload --keyring keyring --threshold 2");
    assert_eq!(desk.names("out"), ["1.0.0.payload", "1.0.0.release"]);
}

#[test]
fn a_damaged_signature_is_mended_by_its_own_key_or_dropped_when_asked() {
    let desk = Desk::new();
    let (one, two) = ("34750f98bd59fcfc", "6a3803d5f059902a");
    desk.build("1.0.0", 1, &format!("{SIGNED} --key two.key"));
    let whole = desk.read("out/1.0.0.release");
    let id: Vec<u8> = (0..two.len()).step_by(2).map(|at| u8::from_str_radix(&two[at..at + 2], 16).unwrap()).collect();
    let at = whole.windows(8).position(|bytes| bytes == id).unwrap() + 8;
    let damage = || flip(&desk.path("out/1.0.0.release"), at as u64);
    let verify = "verify out/1.0.0.release --keyring keyring";
    damage();
    let forged = format!("error: out/1.0.0.release: the signature by key {two} does not verify");
    assert!(desk.run(verify).stderr.starts_with(&forged));

    let kept = desk.build("1.0.0", 1, SIGNED);
    assert!(kept.contains(&format!("signed by {one}; claimed by {two} (not checked)")), "{kept}");
    assert!(desk.run(verify).stderr.starts_with(&forged), "without a hold of the key nobody can tell");

    let warning = format!(
        "warning: out/1.0.0.release: signatures in the name of {two} were false, and were replaced\n\
         hint: the file was damaged or somebody else changed it: find out which before it is published\n"
    );
    let signed = desk.run("sign out/1.0.0.release --key two.key");
    let said = format!("signed by {two}; claimed by {one} (not checked)\n");
    assert!(signed.stdout.ends_with(&said) && signed.stderr == warning, "{}{}", signed.stdout, signed.stderr);
    assert!(desk.read("out/1.0.0.release") == whole);
    damage();
    let built = desk.run(&build_line("1.0.0", 1, &format!("{SIGNED} --key two.key")));
    assert_eq!((built.code, built.stderr), (0, warning));
    assert!(desk.read("out/1.0.0.release") == whole);
    desk.build("1.0.0", 1, &format!("{SIGNED} --replace"));
    assert!(desk.read("out/1.0.0.release") == whole, "this very release is not another one");

    damage();
    let replaced = desk.run(&build_line("1.0.0", 1, &format!("{SIGNED} --drop-signatures")));
    let warning = format!(
        "warning: out/1.0.0.release: --drop-signatures has dropped the signatures claimed by {two}\n\
         hint: releasectl sign out/1.0.0.release --key FILE, with each of these keys that should have signed\n"
    );
    assert_eq!((replaced.code, replaced.stderr), (0, warning));
    assert!(replaced.stdout.contains(&format!("is this release already, signed by {one}\n")), "{}", replaced.stdout);
    desk.good(verify);
}

#[test]
fn a_record_full_of_signatures_is_refused_before_anything_is_built() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, "--unsigned --created 2026-01-31T00:00:00Z");
    let mut full = Envelope::parse(&desk.read("out/1.0.0.release")).unwrap();
    (100..132).for_each(|seed| full.sign(&SecretKey::from_seed(&[seed; 32])).unwrap());
    desk.write("out/1.0.0.release", full.to_bytes());
    fs::remove_file(desk.path("out/1.0.0.payload")).unwrap();
    let refusal = "error: out/1.0.0.release: expected at most 32 signatures, got 33\n\
                   hint: `releasectl build --drop-signatures` of the same input makes the record anew, signed by the keys given only: \
                   the release stays the same\n";
    desk.bad(&build_line("1.0.0", 1, SIGNED), 1, refusal);
    desk.bad("sign out/1.0.0.release --key one.key", 1, refusal);
    assert_eq!(desk.names("out"), ["1.0.0.release"], "no payload was built");
    assert!(desk.read("out/1.0.0.release") == full.to_bytes());
    let replaced = desk.run(&build_line("1.0.0", 1, &format!("{SIGNED} --drop-signatures --json")));
    let replaced: serde_json::Value = serde_json::from_str(&replaced.stdout).unwrap();
    assert_eq!(replaced["dropped_signers"].as_array().unwrap().len(), 32);
    desk.good("verify out/1.0.0.release out/1.0.0.payload --keyring keyring");
}

#[test]
fn who_builds_and_who_signs_wait_for_each_other() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    let (one, two, evil) = ([1; 32], [2; 32], [9; 32]);
    let signed = |seeds: &[[u8; 32]]| {
        let mut envelope = Envelope::parse(&desk.read("out/1.0.0.release")).unwrap();
        seeds.iter().for_each(|seed| envelope.sign(&SecretKey::from_seed(seed)).unwrap());
        envelope.to_bytes()
    };
    for line in [build_line("1.0.0", 1, SIGNED), "sign out/1.0.0.release --key evil.key".to_owned()] {
        let folder = fs::File::open(desk.path("out")).unwrap();
        folder.lock().unwrap();
        let mut child = desk.command(&line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Time enough for what does not wait; a machine that is too slow for that sees no fault.
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert!(child.try_wait().unwrap().is_none(), "{line}: it did not wait");
        if line.starts_with("build") {
            desk.write("out/1.0.0.release", signed(&[two]));
        }
        drop(folder);
        assert!(child.wait().unwrap().success(), "{line}");
    }
    desk.good("verify out/1.0.0.release --keyring keyring --threshold 2");
    let claimed: Vec<_> = Envelope::parse(&desk.read("out/1.0.0.release")).unwrap().claimed_signers().collect();
    let mut expected = [one, two, evil].map(|seed| SecretKey::from_seed(&seed).public().id());
    expected.sort();
    assert_eq!(claimed, expected);
    assert_eq!(desk.names("out"), ["1.0.0.payload", "1.0.0.release"]);
}

#[test]
fn what_stands_in_the_place_of_a_release_is_called_what_it_is() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("out/5.release")).unwrap();
    let directory = |file: &str| {
        let expected = "expected a regular file or a block device, got a directory";
        format!("error: out/5.{file}: {expected}\nhint: give the file itself, such as VERSION.release\n")
    };
    desk.bad(&build_line("5", 1, SIGNED), 1, &directory("release"));
    fs::remove_dir(desk.path("out/5.release")).unwrap();
    fs::create_dir(desk.path("out/5.payload")).unwrap();
    desk.bad(&build_line("5", 1, SIGNED), 1, &directory("payload"));
    fs::remove_dir(desk.path("out/5.payload")).unwrap();
    std::os::unix::fs::symlink("nowhere", desk.path("out/5.release")).unwrap();
    desk.bad(&build_line("5", 1, SIGNED), 1, "error: cannot open out/5.release: No such file or directory (os error 2)\n");
}

#[test]
fn a_sequence_that_another_release_of_the_folder_has_is_warned_of() {
    let desk = Desk::new();
    desk.build("1.0.0", 7, SIGNED);
    desk.build("2.0.0", 7, &format!("{SIGNED} --board other"));
    desk.build("3.0.0", 8, SIGNED);
    fs::copy(desk.path("out/1.0.0.release"), desk.path("out/latest.release")).unwrap();
    desk.build("1.0.0", 7, SIGNED);
    desk.write("out/broken.release", "no record");
    fs::create_dir(desk.path("out/folder.release")).unwrap();
    let run = desk.run(&build_line("1.0.1", 7, SIGNED));
    let warning = |file: &str| {
        format!(
            "warning: out/{file}.release has the sequence 7 as well: hosts that run one refuse the other\n\
             hint: give each release of a product, architecture and board a --sequence of its own\n"
        )
    };
    assert_eq!((run.code, run.stderr), (0, warning("1.0.0") + &warning("latest")));
    let json = desk.run(&build_line("1.0.1", 7, &format!("{SIGNED} --json")));
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["same_sequence"], serde_json::json!(["out/1.0.0.release", "out/latest.release"]));
}

#[test]
fn what_a_killed_build_left_is_removed_by_the_next() {
    let desk = Desk::new();
    fs::create_dir(desk.path("out")).unwrap();
    for name in [".1.0.0.payload.new.4194305.0", ".0.9.release.new.4194305.1"] {
        desk.write(&format!("out/{name}"), "half");
    }
    desk.build("1.0.0", 1, SIGNED);
    assert_eq!(desk.names("out"), ["1.0.0.payload", "1.0.0.release"]);
}
