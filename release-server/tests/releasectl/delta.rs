//! `delta`: what is made of two releases, and what is refused.

use std::fs;
use std::num::{NonZeroU32, NonZeroUsize};

use release_server::publisher::{self, LeanedOn, Published};

use crate::desk::{Desk, SIGNED, WINDOW, image, noise};

/// Releases 1.0.0, and 1.1.0 in which little is new.
fn two_releases() -> Desk {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    let mut next = image(1);
    next[3 * WINDOW + 7..3 * WINDOW + 50].fill(7);
    fs::copy(desk.path("root.img"), desk.path("old.img")).unwrap();
    desk.write("root.img", &next);
    desk.build("1.1.0", 2, SIGNED);
    desk
}

const DELTA: &str = "delta --from out/1.0.0.release --to out/1.1.0.release --out out";

#[test]
fn a_delta_is_built_checked_and_explained() {
    let desk = two_releases();
    let said = desk.good(DELTA);
    assert!(
        said.starts_with(
            "delta from 1.0.0 (sequence 1) to 1.1.0 (sequence 2) of {demo}\n  payload  out/1.0.0-to-1.1.0.payload  "
        ),
        "{said}"
    );
    assert!(said.contains(" % of the full payload's 1.0 MiB"), "{said}");
    assert_eq!(desk.names("out"), ["1.0.0-to-1.1.0.payload", "1.0.0.payload", "1.0.0.release", "1.1.0.payload", "1.1.0.release"]);
    let by_payloads = desk.read("out/1.0.0-to-1.1.0.payload");
    assert!(by_payloads.len() < 1000, "{}", by_payloads.len());

    let verify = "verify out/1.1.0.release out/1.0.0-to-1.1.0.payload --keyring keyring";
    let verified = desk.good(&format!("{verify} --from out/1.0.0.release"));
    assert!(
        verified.ends_with("not the payload that the record names, but it fits; all 9 windows equal the record\n"),
        "{verified}"
    );
    desk.good(&format!("{verify} --from out/1.0.0.release --from-image root=old.img"));
    let inspected = desk.good("inspect out/1.0.0-to-1.1.0.payload");
    assert!(inspected.contains("delta: needs 1 source image") && inspected.contains("3 copy"), "{inspected}");

    // The images as files are as good, and the same bytes come of them.
    desk.good(&format!("{DELTA} --from-image root=old.img --to-image root=root.img --threads 3"));
    assert!(desk.read("out/1.0.0-to-1.1.0.payload") == by_payloads);
    let json: serde_json::Value = serde_json::from_str(&desk.good(&format!("{DELTA} --json"))).unwrap();
    assert_eq!((&json["payload_bytes"], &json["read_back_bytes"]), (&by_payloads.len().into(), &0.into()));
    assert_eq!(json["full_bytes"], desk.read("out/1.1.0.payload").len());
}

#[test]
fn a_delta_is_verified_with_what_it_leans_on_only() {
    let desk = two_releases();
    desk.good(DELTA);
    let run = desk.run("verify out/1.1.0.release out/1.0.0-to-1.1.0.payload --keyring keyring");
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("expected also the release that it leans on, with root, got none"), "{}", run.stdout);
    assert!(run.stdout.contains("hint: --from OLD.release"), "{}", run.stdout);
    let run = desk.run("verify out/1.1.0.release out/1.0.0-to-1.1.0.payload --keyring keyring --from out/1.1.0.release");
    assert!(
        run.code == 1 && run.stdout.contains("it leans on images (root) that out/1.1.0.release does not have"),
        "{}",
        run.stdout
    );
}

#[test]
fn several_deltas_are_verified_with_images_that_are_unpacked_once() {
    let desk = two_releases();
    desk.good(DELTA);
    let keyring = publisher::read_keyring(&desk.path("keyring"), NonZeroU32::MIN).unwrap();
    let release = publisher::check_record(&desk.path("out/1.1.0.release"), &keyring).unwrap();
    let published = Published { record: desk.path("out/1.0.0.release"), images: Vec::new(), payload: None };
    let mut source = LeanedOn::new(published);
    let mut check = || {
        let delta = desk.path("out/1.0.0-to-1.1.0.payload");
        let checked = publisher::check_payload(&release, &delta, Some(&mut source), NonZeroUsize::MIN, &mut |_| {}).unwrap();
        assert_eq!((checked.right, checked.wrong), (9, 0));
    };
    check();
    fs::remove_file(desk.path("out/1.0.0.payload")).unwrap();
    check();
}

#[test]
fn an_image_that_is_not_the_releases_is_refused_by_its_windows() {
    let desk = two_releases();
    let mut mounted = desk.read("old.img");
    mounted[WINDOW + 3] ^= 1;
    desk.write("mounted.img", &mounted);
    desk.bad(
        &format!("{DELTA} --from-image root=mounted.img"),
        1,
        "error: image root is not the one of out/1.0.0.release: 1 of 9 windows differ, the first is window 1\n\
         hint: give the very file that the release was built of; mounted once for writing, an image is another one\n",
    );
    mounted.truncate(100);
    desk.write("short.img", &mounted);
    let run = desk.run(&format!("{DELTA} --to-image root=short.img"));
    assert!(run.stderr.contains("image root: short.img: expected 2102152 bytes as the record says, got 100"), "{}", run.stderr);
    let run = desk.run(&format!("{DELTA} --to-image usr=root.img"));
    assert!(run.stderr.contains("expected one of its images (root), got usr"), "{}", run.stderr);
}

#[test]
fn releases_that_never_follow_each_other_have_no_delta() {
    let desk = two_releases();
    let refused = |line: &str, words: &str| {
        let run = desk.run(line);
        assert!(run.code == 1 && run.stderr.contains(words), "{}", run.stderr);
    };
    refused("delta --from out/1.1.0.release --to out/1.1.0.release --out out", "expected two releases, got 1.1.0 twice");
    desk.build("2.0.0", 4, &format!("{SIGNED} --minimum-source 2"));
    refused(
        "delta --from out/1.0.0.release --to out/2.0.0.release --out out",
        "hosts that run sequence 1 never go to this release directly: it asks for 2 at least",
    );
    desk.build("3.0.0", 5, &format!("{SIGNED} --board other"));
    refused(
        "delta --from out/1.0.0.release --to out/3.0.0.release --out out",
        "got {demo} for x86_64/generic and {demo} for x86_64/other",
    );
    desk.good(DELTA);
    // The records say so, whatever has become of the images.
    for version in ["1.0.0", "3.0.0"] {
        fs::rename(desk.path(&format!("out/{version}.payload")), desk.path(&format!("{version}.payload"))).unwrap();
    }
    refused("delta --from out/1.0.0.release --to out/3.0.0.release --out new", "expected two releases of one product");
    assert!(!desk.path("new").exists(), "nothing was begun");
    fs::rename(desk.path("1.0.0.payload"), desk.path("out/1.0.0.payload")).unwrap();
    refused(
        "delta --from out/1.0.0.release --from-payload out/1.0.0-to-1.1.0.payload --to out/1.1.0.release --out out",
        "the payload was made for another release",
    );
}

#[test]
fn a_delta_that_is_hardly_smaller_is_not_written_unless_it_is_wanted() {
    let desk = two_releases();
    desk.write("root.img", noise(77, 9 * WINDOW));
    desk.build("4.0.0", 9, SIGNED);
    let line = "delta --from out/1.0.0.release --to out/4.0.0.release --out deltas";
    let run = desk.run(line);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("deltas/1.0.0-to-4.0.0.payload is not written: it has 2359"), "{}", run.stderr);
    assert!(
        run.stderr.contains("and above 80 % a delta is not worth it\nhint: hosts take the full payload; --force writes"),
        "{}",
        run.stderr
    );
    assert_eq!(desk.names("deltas"), [""; 0]);
    desk.good(&format!("{line} --force"));
    assert_eq!(desk.names("deltas"), ["1.0.0-to-4.0.0.payload"]);

    // Where the full payload is not there, nobody can tell.
    fs::rename(desk.path("out/4.0.0.payload"), desk.path("elsewhere")).unwrap();
    let run = desk.run(&format!("{line} --to-image root=root.img"));
    assert!(run.code == 0 && run.stderr.contains("the full payload of 4.0.0 is not there"), "{}", run.stderr);
    desk.good(&format!("{line} --to-payload elsewhere --force"));
}

#[test]
fn a_delta_is_compared_with_the_full_payload_of_its_release_and_with_nothing_else() {
    let desk = two_releases();
    desk.write("root.img", noise(77, 9 * WINDOW));
    desk.build("4.0.0", 9, SIGNED);
    desk.good("delta --from out/1.0.0.release --to out/4.0.0.release --out deltas --force");
    let line = "delta --from out/1.0.0.release --to out/4.0.0.release --to-image root=root.img --out none";
    desk.bad(
        &format!("{line} --to-payload deltas/1.0.0-to-4.0.0.payload"),
        1,
        "error: deltas/1.0.0-to-4.0.0.payload: expected a full payload, got a delta that leans on an image \"root\"\n\
         hint: give the VERSION.payload that `releasectl build` wrote, or the images themselves\n",
    );
    let run = desk.run(&format!("{line} --to-payload out/1.1.0.payload"));
    let foreign = "error: out/1.1.0.payload: the payload was made for another release: ";
    assert!(run.code == 1 && run.stderr.starts_with(foreign), "{}", run.stderr);
    assert!(!desk.path("none").exists());
}

#[test]
fn a_tree_of_hashes_is_made_of_its_image_where_nobody_gives_it() {
    let desk = Desk::new();
    desk.write("root.img", noise(3, 4 * WINDOW));
    desk.build("1.0.0", 1, &format!("{SIGNED} --verity"));
    fs::copy(desk.path("root.img"), desk.path("old.img")).unwrap();
    let mut next = desk.read("old.img");
    next[5] ^= 1;
    desk.write("root.img", next);
    desk.build("1.1.0", 2, &format!("{SIGNED} --verity"));
    desk.good(&format!("{DELTA} --from-image root=old.img --to-image root=root.img"));
    desk.good("verify out/1.1.0.release out/1.0.0-to-1.1.0.payload --keyring keyring --from out/1.0.0.release");
}
