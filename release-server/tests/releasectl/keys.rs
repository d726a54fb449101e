//! `key generate`, and files that are or are not keys.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::desk::{Desk, SIGNED, build_line, small_disk};

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
fn a_private_key_that_others_can_read_is_warned_of() {
    let desk = Desk::new();
    fs::set_permissions(desk.path("one.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let run = desk.run(&build_line("1.0.0", 1, SIGNED));
    assert_eq!(run.code, 0);
    assert_eq!(run.stderr, "warning: one.key: others can read this private key (mode 0644)\nhint: chmod 600 one.key\n");
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
