//! `inspect`: what a file is, without showing what may be a secret.

use crate::desk::{Desk, SIGNED};

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
