//! `build`: what is made of images, and what is refused before it is.

use std::fs;
use std::process::Command;

use crate::desk::{Desk, SIGNED, build_line, image, messages, small_disk};

#[test]
fn a_release_is_built_verified_and_explained() {
    let desk = Desk::new();
    let built = desk.build("1.0.0", 7, &format!("{SIGNED} --key two.key --channels stable,beta --notes Hello --not-below 3"));
    assert_eq!(
        built,
        "release 1.0.0 of {demo}, sequence 7, for x86_64/generic\n\
         \x20 digest   20911a97db76bb2bd32a9cb510624cc21ca9be5200296dd67ec42a245a36c6b2\n\
         \x20 record   out/1.0.0.release  1020 bytes, signed by 34750f98bd59fcfc, 6a3803d5f059902a\n\
         \x20 payload  out/1.0.0.payload  1.0 MiB, 50.1 % of the images' 2.0 MiB\n"
    );
    assert_eq!(desk.names("out"), ["1.0.0.payload", "1.0.0.release"]);

    let verified = desk.good("verify out/1.0.0.release out/1.0.0.payload --keyring keyring --threshold 2");
    assert_eq!(
        verified,
        "out/1.0.0.release: good\n\
         \x20 release 1.0.0 of {demo}, sequence 7, for x86_64/generic\n\
         \x20 digest 20911a97db76bb2bd32a9cb510624cc21ca9be5200296dd67ec42a245a36c6b2\n\
         \x20 signed by 34750f98bd59fcfc, 6a3803d5f059902a (needed: 2)\n\
         out/1.0.0.payload: good\n\
         \x20 the publisher's own payload; all 9 windows equal the record\n"
    );

    let record = desk.good("inspect out/1.0.0.release");
    assert_eq!(
        record,
        "out/1.0.0.release: release record, NOT VERIFIED (releasectl verify checks signatures)\n\
         \x20 product    {demo}\n\
         \x20 version    1.0.0\n\
         \x20 sequence   7\n\
         \x20 for        x86_64/generic\n\
         \x20 created    2026-01-31T00:00:00Z\n\
         \x20 floor      nothing below sequence 3 afterwards\n\
         \x20 from       any release\n\
         \x20 channels   stable, beta\n\
         \x20 urgent     no\n\
         \x20 revokes    no key\n\
         \x20 digest     20911a97db76bb2bd32a9cb510624cc21ca9be5200296dd67ec42a245a36c6b2\n\
         \x20 payload    frame table a59d029d3172663126d7b61130474ff6f2c103b7fffba1d744d4a0c851a0b598\n\
         \x20 claims to be signed by 34750f98bd59fcfc, 6a3803d5f059902a\n\
         \x20 images\n\
         \x20   root  2.0 MiB (2102152 bytes), 9 windows of 256.0 KiB, table sha256 5a4355ceff182e2e46f8f91d1cce623e8c83731327255f271a5a8d141770a052\n\
         \x20 notes\n\
         \x20   Hello\n"
    );

    let payload = desk.good("inspect out/1.0.0.payload");
    assert_eq!(
        payload,
        "out/1.0.0.payload: payload, NOT VERIFIED (releasectl verify compares it with a record)\n\
         \x20 kind       full: needs no other image\n\
         \x20 size       1.0 MiB (1053708 bytes), 50.1 % of the images' 2.0 MiB\n\
         \x20 table      68 bytes, sha256 a59d029d3172663126d7b61130474ff6f2c103b7fffba1d744d4a0c851a0b598\n\
         \x20 images\n\
         \x20   root  2.0 MiB (2102152 bytes), 9 windows of 256.0 KiB, table sha256 5a4355ceff182e2e46f8f91d1cce623e8c83731327255f271a5a8d141770a052\n\
         \x20 frames\n\
         \x20   0 zero                   1 frame        4 windows     1.0 MiB from    0 bytes    0.0 %\n\
         \x20   1 raw                   2 frames        5 windows     1.0 MiB from    1.0 MiB  100.0 %\n\
         \x20 largest frames, each with its part of the payload\n\
         \x20      1.0 MiB   99.5 %  frame 0: windows 0 to 3 of root, 1.0 MiB at byte 0, 1 raw\n\
         \x20      4.9 KiB    0.5 %  frame 2: window 8 of root, 4.9 KiB at byte 2097152, 1 raw\n"
    );
}

#[test]
fn a_program_gets_json() {
    let desk = Desk::new();
    let json = |line: &str| -> serde_json::Value { serde_json::from_str(&desk.good(line)).unwrap() };
    let built = json(&build_line("1.0.0", 7, &format!("{SIGNED} --json")));
    assert_eq!(built["read_back_bytes"], 0, "noise and zeros lean on nothing");
    assert_eq!(built["record"], "out/1.0.0.release");
    assert_eq!(built["payload_bytes"], 1_053_708);
    assert_eq!(built["image_bytes"], 2_102_152);
    let verified = json("verify --json out/1.0.0.release out/1.0.0.payload --keyring keyring");
    assert_eq!((&verified["good"], &verified["record"]["sequence"]), (&true.into(), &7.into()));
    assert_eq!(verified["record"]["digest"], built["digest"]);
    assert_eq!((&verified["payloads"][0]["windows_right"], &verified["payloads"][0]["windows_wrong"]), (&9.into(), &0.into()));
    let record = json("inspect --json out/1.0.0.release");
    assert_eq!(
        (&record["file"], &record["verified"], &record["images"][0]["windows"]),
        (&"record".into(), &false.into(), &9.into())
    );
    let payload = json("inspect --json out/1.0.0.payload");
    assert_eq!((&payload["file"], &payload["frames"][1]["name"]), (&"payload".into(), &"raw".into()));
    assert_eq!(payload["table_sha256"], built["payload_table_sha256"]);
    let signed = json("sign --json out/1.0.0.release --key two.key");
    assert_eq!(
        (&signed["signers"], &signed["claimed_signers"]),
        (&serde_json::json!(["6a3803d5f059902a"]), &serde_json::json!(["34750f98bd59fcfc"]))
    );
    let key = json("key generate --json --out fresh");
    assert_eq!((&key["private"], &key["public"]), (&"fresh.key".into(), &"fresh.pub".into()));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let desk = Desk::new();
    let files = |options: &str| {
        desk.build("1.0.0", 1, &format!("{SIGNED} {options}"));
        (desk.read("out/1.0.0.release"), desk.read("out/1.0.0.payload"))
    };
    let first = files("--threads 1");
    fs::remove_dir_all(desk.path("out")).unwrap();
    assert!(first == files("--threads 4"));
    assert!(first == files("--threads 3"), "and in the place of the old ones");
    let mut epoch = desk.command(&build_line("1.0.0", 1, "--key one.key"));
    assert!(epoch.env("SOURCE_DATE_EPOCH", "1769817600").output().unwrap().status.success());
    assert!(first == (desk.read("out/1.0.0.release"), desk.read("out/1.0.0.payload")), "2026-01-31 by $SOURCE_DATE_EPOCH");
    assert_eq!(desk.names("out"), ["1.0.0.payload", "1.0.0.release"]);
}

#[test]
fn an_architecture_and_a_board_that_are_not_said_are_the_documented_ones_not_the_build_machines() {
    let desk = Desk::new();
    let line =
        |rest: &str| format!("build --app {{demo}} --version 1.0.0 --sequence 1 --image root=root.img --out out {SIGNED} {rest}");
    let built = desk.good(&line(""));
    assert!(built.starts_with("release 1.0.0 of {demo}, sequence 1, for x86_64/generic\n"), "{built}");
    let first = desk.read("out/1.0.0.release");
    fs::remove_dir_all(desk.path("out")).unwrap();
    desk.good(&line("--arch x86_64 --board generic"));
    assert!(first == desk.read("out/1.0.0.release"), "the defaults are these");
    let help = desk.good("build --help").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("the default is the same on every build machine") && help.contains("[default: x86_64]"), "{help}");
}

#[test]
fn levels_change_the_payload_and_not_the_images() {
    let desk = Desk::new();
    let text: String = (0..60_000_u64).map(|n| format!("{} squared is {}\n", n, n * n)).collect();
    desk.write("root.img", text);
    let size = |options: &str| {
        desk.build("1.0.0", 1, &format!("{SIGNED} --replace {options}"));
        desk.good("verify out/1.0.0.release out/1.0.0.payload --keyring keyring");
        desk.read("out/1.0.0.payload").len()
    };
    let (usual, best) = (size(""), size("--best"));
    assert!(best < usual, "{best} {usual}");
    assert_eq!(size("--level 19"), best);
    assert_eq!(size("--level 12"), usual);
}

#[test]
fn a_build_that_does_not_fit_on_the_disk_says_how_much_it_needs() {
    let desk = Desk::new();
    let _disk = match small_disk(&desk.path("full"), 512) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    desk.bad(
        &build_line("1.0.0", 1, SIGNED).replace("--out out", "--out full"),
        1,
        "error: full/1.0.0.payload: cannot write the payload: blobs to the spool: No space left on device (os error 28)\n\
         hint: free some space there: a build needs about twice the size of its payload\n",
    );
    assert!(desk.names("full").is_empty());
}

#[test]
fn an_image_must_be_a_file_with_bytes_in_it() {
    let desk = Desk::new();
    let line = |image: &str| format!("build --app a --version 1 --sequence 1 --image {image} {SIGNED} --out out");
    desk.bad(&line("root=nowhere.img"), 1, "error: cannot open nowhere.img: No such file or directory (os error 2)\n");
    let hint = "hint: give the image itself, such as root=rootfs.ext4; folders are made into images by mke2fs -d\n";
    let refusal = |path: &str, got: &str| {
        let expected = "expected a regular file or a block device with at least one byte, got";
        desk.bad(&line(&format!("root={path}")), 1, &format!("error: image \"root\": {path}: {expected} {got}\n{hint}"));
    };
    refusal("keyring", "a directory");
    desk.write("empty.img", "");
    refusal("empty.img", "an empty one");
    refusal("/dev/zero", "a pipe, socket or character device");
    assert!(Command::new("mkfifo").arg(desk.path("pipe")).status().unwrap().success());
    refusal("pipe", "a pipe, socket or character device");
    for image in ["root.img", "=root.img", "root=", "@a=root.img", "root@c=root.img"] {
        let run = desk.run(&line(image));
        assert_eq!(run.code, 2);
        let expected = format!(
            "error: invalid value '{image}' for '--image <NAME[@SLOT]=FILE>': expected NAME=FILE or NAME@SLOT=FILE, such as root=rootfs.ext4 or kernel@a=a.efi\n"
        );
        assert!(run.stderr.starts_with(&expected), "{}", run.stderr);
    }
    assert!(!desk.path("out").exists(), "nothing is made for a release that cannot be");
}

#[test]
fn an_image_may_be_for_one_slot_only() {
    let desk = Desk::new();
    desk.write("a.entry", "root=a");
    desk.write("b.entry", "root=b, of other length");
    let images = "--image root=root.img --image entry@a=a.entry --image entry@b=b.entry";
    desk.good(&format!("build --app a --version 1 --sequence 1 {images} {SIGNED} --out out"));
    let shown: serde_json::Value = serde_json::from_str(&desk.good("inspect --json out/1.release")).unwrap();
    let images = shown["images"].as_array().unwrap();
    let named: Vec<_> = images.iter().map(|image| (image["name"].as_str().unwrap(), image["slot"].as_str())).collect();
    assert_eq!(named, [("root", None), ("entry", Some("a")), ("entry", Some("b"))]);
    desk.good("verify out/1.release out/1.payload --keyring keyring");
    let twice = "--image root=root.img --image root@a=a.entry";
    let run = desk.run(&format!("build --app a --version 2 --sequence 2 {twice} {SIGNED} --out out"));
    assert!(run.code == 1 && run.stderr.contains("names that are distinct for each slot"), "{}", run.stderr);
}

#[test]
fn a_tree_of_hashes_is_one_more_image_and_its_root_is_in_the_record() {
    let desk = Desk::new();
    let whole = [image(1), vec![0; 4096 - image(1).len() % 4096]].concat();
    desk.write("whole.img", &whole);
    let line = |version: u32, rest: &str| {
        format!("build --app a --version {version} --sequence {version} --image root=whole.img {SIGNED} --out out {rest}")
    };
    let said = desk.good(&line(1, "--verity"));
    let json: serde_json::Value = serde_json::from_str(&desk.good(&line(2, "--verity root --json"))).unwrap();
    let root = json["verity"]["root_hash"].as_str().unwrap();
    assert!(said.contains(&format!("verity   root hash of root: {root}")), "{said}");
    let salt: Vec<u8> = manifests::digest::Sha256Digest::of(&whole).as_bytes().to_vec();
    let tree = payload::verity::Tree::of(whole.as_slice(), whole.len() as u64, &salt).unwrap();
    assert_eq!(tree.root.to_string(), root);
    let shown: serde_json::Value = serde_json::from_str(&desk.good("inspect --json out/1.release")).unwrap();
    assert_eq!(shown["images"][1]["name"], "verity");
    assert_eq!(shown["images"][1]["size"], tree.bytes.len());
    desk.good("verify out/1.release out/1.payload --keyring keyring");
    assert_eq!(desk.run(&line(3, "--verity usr")).code, 1);
    desk.write("whole.img", &whole[1..]);
    let refused = desk.run(&line(3, "--verity"));
    assert!(refused.code == 1 && refused.stderr.contains("expected a multiple of 4096"), "{}", refused.stderr);
}

#[test]
fn a_file_name_may_hold_an_equals_sign() {
    let desk = Desk::new();
    desk.write("a=b.img", image(1));
    desk.good(&format!("build --app a --version 1 --sequence 1 --image root=a=b.img {SIGNED} --out out"));
}

#[test]
fn a_release_that_breaks_a_rule_is_refused_before_it_is_built() {
    let desk = Desk::new();
    let cases = [
        ("--sequence 0", "sequence: expected a number from 1 up, got 0"),
        ("--not-below 2", "not_below: expected at most its own sequence 1, got 2"),
        ("--minimum-source 1", "minimum_source: expected a sequence below its own 1, got 1"),
        ("--board a/b", "board: expected 1 to 64 printable ASCII characters without spaces, quotes, slashes or <>&, got \"a/b\""),
        ("--image root=root.img", "images.name: expected names that are distinct for each slot, got \"root\" twice"),
        (
            "--image a/b=root.img",
            "images.name: expected 1 to 64 printable ASCII characters without spaces, quotes, slashes or <>&, got \"a/b\"",
        ),
    ];
    for (options, expected) in cases {
        let sequence = if options.contains("--sequence") { "" } else { "--sequence 1" };
        let line = format!("build --app a --version 1 {sequence} --image root=root.img {SIGNED} --out out {options}");
        desk.bad(&line, 1, &format!("error: this release cannot be made: {expected}\n"));
    }
    assert!(!desk.path("out").exists());
}

#[test]
fn the_time_of_creation_is_never_guessed() {
    let desk = Desk::new();
    let line = build_line("1.0.0", 1, "--key one.key");
    desk.bad(
        &line,
        2,
        "error: the time of creation is part of the signed bytes: expected --created TIME or $SOURCE_DATE_EPOCH, got neither\n\
         hint: --created 2026-01-31T00:00:00Z, or export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)\n",
    );
    let output = desk.command(&line).env("SOURCE_DATE_EPOCH", "soon").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stderr.starts_with(b"error: $SOURCE_DATE_EPOCH: expected seconds since 1970, got \"soon\"\n"));
}

#[test]
fn notes_come_from_a_file_or_are_elsewhere_and_cannot_steer_the_terminal() {
    let desk = Desk::new();
    desk.write("notes.txt", "Fixes the clock.\n\u{1b}[2J\n");
    desk.build("1.0.0", 1, &format!("{SIGNED} --notes @notes.txt"));
    assert!(desk.good("inspect out/1.0.0.release").ends_with("  notes\n    Fixes the clock.\n    \u{fffd}[2J\n"));
    let digest = "ab".repeat(32);
    desk.build("1.0.1", 2, &format!("{SIGNED} --notes-url https://example.net/1.0.1 --notes-sha256 {digest}"));
    assert!(
        desk.good("inspect out/1.0.1.release").ends_with(&format!("  notes      https://example.net/1.0.1 (sha256 {digest})\n"))
    );
    desk.write("long.txt", "x".repeat(70_000));
    desk.bad(
        &build_line("1.0.2", 3, &format!("{SIGNED} --notes @long.txt")),
        1,
        "error: long.txt: expected at most 65536 bytes, got more\n\
         hint: is it the right file? `releasectl inspect FILE` says what a file is\n",
    );
}

#[test]
fn a_failed_build_leaves_the_old_release_and_no_litter() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    let before = (desk.read("out/1.0.0.release"), desk.read("out/1.0.0.payload"));
    // The disk is "full" for any file above 512 KiB.
    let script = format!(
        "ulimit -f 512; trap '' XFSZ; exec \"$0\" {}",
        build_line("1.0.0", 2, &format!("{SIGNED} --replace")).replace("{demo}", "demo")
    );
    let output = Command::new("bash")
        .args(["-c", &script, env!("CARGO_BIN_EXE_releasectl")])
        .current_dir(desk.dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        messages(&output.stderr),
        "error: out/1.0.0.payload: cannot write the payload: blobs to the spool: File too large (os error 27)\n"
    );
    assert!(before == (desk.read("out/1.0.0.release"), desk.read("out/1.0.0.payload")));
    assert_eq!(desk.names("out"), ["1.0.0.payload", "1.0.0.release"]);
}
