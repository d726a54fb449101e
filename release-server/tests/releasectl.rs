//! `releasectl` as a person meets it: whole transcripts of the program, good and bad.

// The helpers here are tests too: an unwrap that fails is a test that fails.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use manifests::digest::Sha256Digest;
use manifests::keyring::SecretKey;
use manifests::release::{Envelope, Record};
use tempfile::TempDir;

const WINDOW: usize = 256 * 1024;

/// A folder with keys `one`, `two` and `evil`, a keyring of the first two, and an image of 9 windows.
struct Desk {
    dir: TempDir,
}

struct Run {
    stdout: String,
    stderr: String,
    code: i32,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(desk.path("keyring")).unwrap();
        for (name, seed) in [("one", 1), ("two", 2), ("evil", 9)] {
            let key = SecretKey::from_seed(&[seed; 32]);
            desk.write(&format!("{name}.key"), key.to_text(name));
            fs::set_permissions(desk.path(&format!("{name}.key")), fs::Permissions::from_mode(0o600)).unwrap();
            if name != "evil" {
                desk.write(&format!("keyring/{name}.pub"), key.public().to_text(name));
            }
        }
        desk.write("root.img", image(1));
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_releasectl"));
        command.args(line.split_whitespace()).current_dir(self.dir.path()).env_remove("SOURCE_DATE_EPOCH");
        command
    }

    fn run(&self, line: &str) -> Run {
        let output = self.command(line).output().unwrap();
        Run {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: messages(&output.stderr),
            code: output.status.code().unwrap(),
        }
    }

    /// Runs a line that must succeed without a word on stderr.
    fn good(&self, line: &str) -> String {
        let run = self.run(line);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{line}");
        run.stdout
    }

    /// Runs a line that must fail with exactly this exit code and these words, and nothing on stdout.
    fn bad(&self, line: &str, code: i32, stderr: &str) {
        let run = self.run(line);
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (code, "", stderr), "{line}");
    }

    fn build(&self, version: &str, sequence: u32, rest: &str) -> String {
        self.good(&build_line(version, sequence, rest))
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.path(folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// What stderr says besides progress, of which a slow machine shows more than a fast one.
fn messages(stderr: &[u8]) -> String {
    let is_progress = |line: &&str| line.starts_with("building: ") || line.starts_with("checking: ");
    std::str::from_utf8(stderr).unwrap().split_inclusive('\n').filter(|line| !is_progress(line)).collect()
}

fn build_line(version: &str, sequence: u32, rest: &str) -> String {
    format!("build --app {{demo}} --version {version} --sequence {sequence} --image root=root.img --arch x86_64 --out out {rest}")
}

const SIGNED: &str = "--key one.key --created 2026-01-31T00:00:00Z";

/// 1 MiB of noise, 1 MiB of zeros, a little more noise: no byte of its payload depends on how zstd compresses.
fn image(seed: u64) -> Vec<u8> {
    [noise(seed, 4 * WINDOW), vec![0; 4 * WINDOW], noise(seed + 1, 5000)].concat()
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x01], at).unwrap();
}

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
         \x20   1 raw                   2 frames        5 windows     1.0 MiB from    1.0 MiB  100.0 %\n"
    );
}

#[test]
fn a_program_gets_json() {
    let desk = Desk::new();
    let json = |line: &str| -> serde_json::Value { serde_json::from_str(&desk.good(line)).unwrap() };
    let built = json(&build_line("1.0.0", 7, &format!("{SIGNED} --json")));
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
fn a_key_is_made_once_and_only_its_owner_can_read_it() {
    let desk = Desk::new();
    let made = desk.good("key generate --out fresh");
    let id = made.lines().next().unwrap().strip_prefix("key ").unwrap().to_owned();
    assert_eq!(
        made,
        format!(
            "key {id}\n  fresh.key  private, mode 0600: keep it offline\n  fresh.pub  public: goes into the keyring folder of the hosts\n"
        )
    );
    let mode = |name: &str| fs::metadata(desk.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("fresh.key"), mode("fresh.pub") & 0o400), (0o600, 0o400));
    assert!(String::from_utf8(desk.read("fresh.pub")).unwrap().starts_with(&format!("# ed25519 public key, id {id}: fresh\n")));

    let before = (desk.read("fresh.key"), desk.read("fresh.pub"));
    let hint = "hint: choose another --out; a key that is lost cannot sign what it must revoke\n";
    desk.bad("key generate --out fresh", 1, &format!("error: fresh.pub exists already: a key is never overwritten\n{hint}"));
    fs::remove_file(desk.path("fresh.pub")).unwrap();
    desk.bad("key generate --out fresh", 1, &format!("error: fresh.key exists already: a key is never overwritten\n{hint}"));
    assert!(desk.read("fresh.key") == before.0 && !desk.path("fresh.pub").exists());
    assert_ne!(desk.good("key generate --out other").lines().next(), Some(format!("key {id}").as_str()));

    desk.bad("key generate --out ..", 1, "error: cannot make a key named ..: expected the name of a file\n");
    desk.bad(
        "key generate --out no/such/folder",
        1,
        "error: cannot create no/such/folder.key: No such file or directory (os error 2)\n",
    );
}

#[test]
fn a_signature_is_added_without_changing_the_release() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, "--unsigned --created 2026-01-31T00:00:00Z");
    let verify = "verify out/1.0.0.release --keyring keyring --threshold 2";
    desk.bad(
        verify,
        1,
        "error: out/1.0.0.release: the record carries no signature: expected 2 by distinct trusted keys\n\
         hint: sign it: releasectl sign RELEASE --key FILE\n",
    );
    let first = desk.good("sign out/1.0.0.release --key one.key");
    assert_eq!(
        first,
        "release 1.0.0 of {demo}, sequence 1, for x86_64/generic\n  record   out/1.0.0.release  signed by 34750f98bd59fcfc\n"
    );
    desk.bad(
        verify,
        1,
        "error: out/1.0.0.release: expected signatures by 2 distinct trusted key(s), got 1 \
         (signed by 34750f98bd59fcfc; trusted here 34750f98bd59fcfc, 6a3803d5f059902a)\n\
         hint: add signatures with `releasectl sign`, or check that --keyring is the right folder\n",
    );
    let once = desk.read("out/1.0.0.release");
    desk.bad(
        "sign out/1.0.0.release --key one.key",
        1,
        "error: out/1.0.0.release: key 34750f98bd59fcfc has signed this record already: a second signature by it would not count\n\
         hint: give each key once; a threshold counts distinct keys\n",
    );
    assert!(desk.read("out/1.0.0.release") == once);
    desk.good("sign out/1.0.0.release --key two.key");
    desk.good(verify);

    let signed_late = desk.read("out/1.0.0.release");
    desk.build("1.0.0", 1, &format!("{SIGNED} --key two.key"));
    assert!(desk.read("out/1.0.0.release") == signed_late, "signed late or at once, the record is the same");
}

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

/// A folder of so many KiB, as a file system of its own, or why that cannot be had.
fn small_disk(folder: &Path, kib: u32) -> Result<SmallDisk, &'static str> {
    fs::create_dir(folder).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]).arg(folder).stderr(Stdio::null());
    if mount.status().is_ok_and(|status| status.success()) {
        return Ok(SmallDisk(folder.to_owned()));
    }
    Err("a full disk needs root and a tmpfs that can be mounted")
}

struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_key_that_does_not_fit_on_the_disk_leaves_no_half_file() {
    let desk = Desk::new();
    let _disk = match small_disk(&desk.path("full"), 8) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    for (filling, file) in [(8192, "k.key"), (4096, "k.pub")] {
        desk.write("full/filling", vec![1; filling]);
        let expected = "No space left on device (os error 28)\nhint: free some space there\n";
        desk.bad("key generate --out full/k", 1, &format!("error: cannot write full/{file}: {expected}"));
        assert_eq!(desk.names("full"), ["filling"]);
    }
    fs::remove_file(desk.path("full/filling")).unwrap();
    desk.good("key generate --out full/k");
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
fn what_a_killed_build_left_is_removed_by_the_next() {
    let desk = Desk::new();
    fs::create_dir(desk.path("out")).unwrap();
    for name in [".1.0.0.payload.new.4194305.0", ".0.9.release.new.4194305.1"] {
        desk.write(&format!("out/{name}"), "half");
    }
    desk.build("1.0.0", 1, SIGNED);
    assert_eq!(desk.names("out"), ["1.0.0.payload", "1.0.0.release"]);
}

#[test]
fn a_signature_is_written_through_a_link_and_keeps_the_permissions() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, "--unsigned --created 2026-01-31T00:00:00Z");
    fs::set_permissions(desk.path("out/1.0.0.release"), fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink("out/1.0.0.release", desk.path("latest.release")).unwrap();
    desk.good("sign latest.release --key one.key");
    assert!(desk.path("latest.release").symlink_metadata().unwrap().is_symlink());
    assert_eq!(fs::metadata(desk.path("out/1.0.0.release")).unwrap().permissions().mode() & 0o7777, 0o600);
    desk.good("verify out/1.0.0.release --keyring keyring");
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    assert!(Command::new("mkfifo").arg(desk.path("pipe")).status().unwrap().success());
    let refusal = |path: &str, got: &str| format!("{path}: expected a regular file or a block device, got {got}\n");
    let hint = "hint: save it to a file first: records and payloads are read more than once\n";
    let pipe = refusal("pipe", "a pipe, socket or character device");
    for line in ["inspect pipe", "verify pipe --keyring keyring", "sign pipe --key one.key"] {
        desk.bad(line, 1, &format!("error: {pipe}{hint}"));
    }
    let itself = "hint: give the file itself, such as VERSION.release\n";
    desk.bad("inspect keyring", 1, &format!("error: {}{itself}", refusal("keyring", "a directory")));
    let run = desk.run("verify out/1.0.0.release pipe --keyring keyring");
    assert_eq!(run.code, 1);
    assert!(run.stdout.ends_with(&format!("pipe: BAD\n  {pipe}  {hint}")), "{}", run.stdout);
    assert!(Command::new("mkfifo").arg(desk.path("keyring/pipe.pub")).status().unwrap().success());
    let run = desk.run("verify out/1.0.0.release --keyring keyring");
    assert_eq!(
        (run.code, run.stderr.starts_with("error: keyring/pipe.pub: expected a regular file")),
        (1, true),
        "{}",
        run.stderr
    );
}

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
fn one_key_twice_is_refused_before_anything_is_built() {
    let desk = Desk::new();
    desk.bad(
        &build_line("1.0.0", 1, &format!("{SIGNED} --key one.key")),
        1,
        "error: this release cannot be made: key 34750f98bd59fcfc has signed this record already: \
         a second signature by it would not count\n\
         hint: give each key once; a threshold counts distinct keys\n",
    );
    assert!(!desk.path("out").exists());
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
             frame 0 (windows 0 to 3 of image \"root\"): image 0: 1 of 4 windows differ from the record; window 3: expected sha256 "
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
    for image in ["root.img", "=root.img", "root="] {
        let run = desk.run(&line(image));
        assert_eq!(run.code, 2);
        let expected =
            format!("error: invalid value '{image}' for '--image <NAME=FILE>': expected NAME=FILE, such as root=rootfs.ext4\n");
        assert!(run.stderr.starts_with(&expected), "{}", run.stderr);
    }
    assert!(!desk.path("out").exists(), "nothing is made for a release that cannot be");
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
fn bad_usage_exits_2_and_says_what_was_expected() {
    let desk = Desk::new();
    let cases = [
        (build_line("1.0.0", 1, "--key one.key --created yesterday"), "expected a time such as 2026-01-31T00:00:00Z"),
        (build_line("../1", 1, SIGNED), "expected a version of 1 to 64 letters"),
        (build_line("1.0.0", 1, "--created 2026-01-31T00:00:00Z"), "<--key <FILE>|--unsigned>"),
        (build_line("1.0.0", 1, &format!("{SIGNED} --unsigned")), "'--key <FILE>' cannot be used with '--unsigned'"),
        (build_line("1.0.0", 1, &format!("{SIGNED} --level 23")), "23 is not in 1..=22"),
        (build_line("1.0.0", 1, &format!("{SIGNED} --level 3 --best")), "cannot be used with"),
        (build_line("1.0.0", 1, &format!("{SIGNED} --threads 0")), "expected a number from 1 to 256"),
        (build_line("1.0.0", 1, &format!("{SIGNED} --revoke-key 12")), "expected the 16 hex digits of a key id"),
        (build_line("1.0.0", 1, &format!("{SIGNED} --notes-url https://a/b")), "--notes-sha256 <HEX>"),
        (
            "build --app a --version 1 --sequence 9007199254740993 --image root=root.img --out out".to_owned(),
            "expected a whole number of at most 2^53",
        ),
        ("publich".to_owned(), "unrecognized subcommand 'publich'"),
        (String::new(), "Usage: releasectl [OPTIONS] <COMMAND>"),
    ];
    for (line, expected) in cases {
        let run = desk.run(&line);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{line}");
        assert!(run.stderr.contains(expected), "{line}: {}", run.stderr);
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
fn what_comes_later_is_answered_by_name() {
    let desk = Desk::new();
    for line in ["delta --from a.release", "publish --server http://h/ x", "channel", "group list", "rollout --json", "host"] {
        let verb = line.split(' ').next().unwrap();
        desk.bad(
            line,
            2,
            &format!(
                "error: `releasectl {verb}` is not available in this build\n\
                 hint: this build makes full releases as files (releasectl --help); put them where a file server finds them\n"
            ),
        );
    }
    for verity in ["--verity", "--verity tree.img"] {
        desk.bad(
            &build_line("1.0.0", 1, &format!("{SIGNED} {verity}")),
            2,
            "error: --verity is not available in this build\n\
             hint: build without it: every window of the image is signed and proven all the same\n",
        );
    }
}

#[test]
fn a_private_key_that_others_can_read_is_warned_of() {
    let desk = Desk::new();
    fs::set_permissions(desk.path("one.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let run = desk.run(&build_line("1.0.0", 1, SIGNED));
    assert_eq!(run.code, 0);
    assert_eq!(run.stderr, "warning: one.key: others can read this private key (mode 0644)\nhint: chmod 600 one.key\n");
}

#[test]
fn commands_to_copy_are_quoted() {
    let desk = Desk::new();
    fs::copy(desk.path("one.key"), desk.path("our own.key")).unwrap();
    fs::set_permissions(desk.path("our own.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let one = "34750f98bd59fcfc";
    let built = desk
        .command(&build_line("1.0.0", 1, &format!("{SIGNED} --key two.key --revoke-key {one}")).replace("--out out", ""))
        .args(["--out", "out of it"])
        .output()
        .unwrap();
    assert!(built.status.success());
    let unsigned =
        build_line("1.0.0", 1, &format!("--unsigned --created 2026-01-31T00:00:00Z --revoke-key {one} --drop-signatures"));
    let again = desk.command(&unsigned.replace("--out out", "")).args(["--out", "out of it"]).output().unwrap();
    let signed = desk.command("sign --key").args(["our own.key", "out of it/1.0.0.release"]).output().unwrap();
    for (output, expected) in [
        (&again, "hint: releasectl sign 'out of it/1.0.0.release' --key FILE, with each of these keys that should have signed\n"),
        (&again, "hint: releasectl sign 'out of it/1.0.0.release' --key FILE, with the next key\n"),
        (&signed, "hint: chmod 600 'our own.key'\n"),
        (&signed, "hint: releasectl sign 'out of it/1.0.0.release' --key FILE, with the next key\n"),
    ] {
        let said = messages(&output.stderr);
        assert!(output.status.success() && said.contains(expected), "{said}");
    }
}

#[test]
fn a_file_that_is_no_key_is_refused() {
    let desk = Desk::new();
    let hint = "hint: a private key is NAME.key, a public key NAME.pub, both as `releasectl key generate` writes them\n";
    desk.write("not.key", "hello\n");
    fs::set_permissions(desk.path("not.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let line = |key: &str| build_line("1.0.0", 1, &format!("--key {key} --created 2026-01-31T00:00:00Z"));
    let expected = "expected one line of base64 of 32 bytes (and # comments), got";
    desk.bad(&line("not.key"), 1, &format!("error: not.key: {expected} a line that is no base64\n{hint}"));
    desk.bad(&line("nowhere.key"), 1, "error: cannot open nowhere.key: No such file or directory (os error 2)\n");
    desk.bad(
        &line("root.img"),
        1,
        "error: root.img: expected at most 4096 bytes, got more\n\
         hint: is it the right file? `releasectl inspect FILE` says what a file is\n",
    );
}

#[test]
fn a_public_key_signs_nothing() {
    let desk = Desk::new();
    fs::copy(desk.path("keyring/one.pub"), desk.path("a.pub")).unwrap();
    fs::set_permissions(desk.path("a.pub"), fs::Permissions::from_mode(0o600)).unwrap();
    let refusal = "error: a.pub: expected a private key (NAME.key), got a public one\n\
                   hint: sign with NAME.key; NAME.pub goes into the keyring folder of the hosts\n";
    desk.bad(&build_line("1.0.0", 1, "--key a.pub --created 2026-01-31T00:00:00Z"), 1, refusal);
    assert!(!desk.path("out").exists());
    desk.build("1.0.0", 1, SIGNED);
    let before = desk.read("out/1.0.0.release");
    desk.bad("sign out/1.0.0.release --key a.pub", 1, refusal);
    assert!(before == desk.read("out/1.0.0.release"));
}

#[test]
fn a_release_that_revokes_all_its_signers_is_not_built_and_does_not_verify() {
    let desk = Desk::new();
    let (one, two) = ("34750f98bd59fcfc", "6a3803d5f059902a");
    let words = format!(
        "the record revokes its own signers: expected signatures by 1 distinct key(s) that it does not revoke, got 0 \
         (signed by {one}; revokes {one})"
    );
    let hint = "hint: let a key sign that stays: a key is revoked by a release that the next keys have signed, too\n";
    desk.bad(
        &build_line("1.0.0", 1, &format!("{SIGNED} --revoke-key {one}")),
        1,
        &format!(
            "error: this release cannot be made: {words}\nhint: give the next key as well; if that is elsewhere, build it --unsigned, \
             or with the next key, and add the others with `releasectl sign`\n"
        ),
    );
    assert!(!desk.path("out").exists());

    let sign_it = "hint: releasectl sign out/1.0.0.release --key FILE, with the next key\n";
    let unsigned = desk.run(&build_line("1.0.0", 1, &format!("--unsigned --created 2026-01-31T00:00:00Z --revoke-key {one}")));
    let expected =
        format!("warning: out/1.0.0.release: hosts take it only if enough keys sign it that it does not revoke\n{sign_it}");
    assert_eq!((unsigned.code, unsigned.stderr), (0, expected));
    let signed = desk.run("sign out/1.0.0.release --key one.key");
    assert_eq!((signed.code, signed.stderr), (0, format!("warning: out/1.0.0.release: {words}\n{sign_it}")));
    let verify = "verify out/1.0.0.release --keyring keyring";
    desk.bad(verify, 1, &format!("error: out/1.0.0.release: {words}\n{hint}"));

    desk.good("sign out/1.0.0.release --key two.key");
    assert!(desk.good(verify).contains(&format!("signed by {one}, {two} (needed: 1)")));
    desk.bad(
        &format!("{verify} --threshold 2"),
        1,
        &format!(
            "error: out/1.0.0.release: the record revokes its own signers: expected signatures by 2 distinct key(s) that it does \
             not revoke, got 1 (signed by {one}, {two}; revokes {one})\n{hint}"
        ),
    );
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
fn a_foreign_file_is_not_explained() {
    let desk = Desk::new();
    let expected = "expected a release record (\"OTARECv1\") or a payload (\"OTAPAYLD\"), got";
    let hint = "hint: give a VERSION.release or VERSION.payload as `releasectl build` writes them\n";
    desk.write("noise", [0; 9]);
    desk.bad("inspect noise", 1, &format!("error: noise: {expected} a file that begins with \"{}\"\n{hint}", "\\0".repeat(4)));
    desk.write("empty", "");
    desk.bad("inspect empty", 1, &format!("error: empty: {expected} an empty file\n{hint}"));
    desk.write("short", "OTAPAYLD");
    desk.bad("inspect short", 1, "error: short: the payload's header is 8 bytes long, expected 64: it was cut or something was appended\nhint: fetch the payload again\n");
}

#[test]
fn of_a_private_key_in_the_place_of_a_record_or_payload_nothing_is_shown() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    let bare = String::from_utf8(desk.read("one.key")).unwrap().lines().nth(1).unwrap().to_owned();
    desk.write("bare", &bare);
    for line in [
        "inspect bare",
        "verify bare --keyring keyring",
        "sign bare --key one.key",
        "verify out/1.0.0.release bare --keyring keyring",
        "verify --json out/1.0.0.release bare --keyring keyring",
    ] {
        let run = desk.run(line);
        let said = run.stdout + &run.stderr;
        assert_eq!(run.code, 1, "{line}");
        assert!(said.contains("got a text file") && !said.contains(&bare[..4]), "{line}: {said}");
    }
}

#[test]
fn a_release_is_not_signed_if_no_host_would_read_it() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, "--unsigned --created 2026-01-31T00:00:00Z");
    let last = desk.read("out/1.0.0.release").len() as u64 - 1;
    flip(&desk.path("out/1.0.0.release"), last);
    let before = desk.read("out/1.0.0.release");
    let run = desk.run("sign out/1.0.0.release --key one.key");
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.starts_with("error: out/1.0.0.release: window table of image \"root\": expected sha256"),
        "{}",
        run.stderr
    );
    assert!(desk.read("out/1.0.0.release") == before);
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

#[test]
fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    for line in ["inspect out/1.0.0.payload", "--help", "--version"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = desk.command(line).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{line}");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = desk.command("inspect out/1.0.0.payload").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stderr, b"error: cannot write to stdout: No space left on device (os error 28)\n");
}

#[test]
fn help_teaches_and_version_is_told() {
    let desk = Desk::new();
    let help = desk.good("--help");
    for expected in ["key", "build", "sign", "verify", "inspect", "A first release:", "demo.key stays offline"] {
        assert!(help.contains(expected), "{expected}: {help}");
    }
    for later in ["delta", "publish", "rollout"] {
        assert!(!help.contains(&format!("  {later} ")), "{later} does not exist yet");
    }
    assert_eq!(desk.good("--version"), format!("releasectl {}\n", env!("CARGO_PKG_VERSION")));
}
