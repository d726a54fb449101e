//! `sign`, and signatures that revoke each other.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::desk::{Desk, SIGNED, build_line, flip};

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
