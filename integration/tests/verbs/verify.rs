//! `updatectl verify`: what the slots hold, against their records.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use integration::hostsim::gpt::Gpt;
use integration::rig::{Host, Spec};
use serde_json::Value;

use crate::scene::{Options, Scene, next_release, offer, small, words_in};
use crate::stage::{fails, nothing_new, quiet, quiet_and_started, run, start};

/// Changes one byte of a slot, behind everybody's back.
pub(crate) fn change_byte(host: &Host, label: &str, at: u64) {
    let entry = Gpt::open(&host.disk()).unwrap().entry(label).unwrap();
    let disk = File::options().read(true).write(true).open(host.disk()).unwrap();
    let mut byte = [0];
    disk.read_exact_at(&mut byte, entry.start + at).unwrap();
    disk.write_all_at(&[byte[0] ^ 0x40], entry.start + at).unwrap();
}

/// 1.0.0 in slot a, adopted; the release of `spec` in slot b, running.
fn both_known(spec: &Spec<'_>) -> Scene {
    let mut scene = quiet(&Options::default(), |publisher| {
        publisher.publish(spec);
        offer(publisher, spec.version)
    });
    start(&mut scene);
    let record = scene.publisher.files.join("1.0.0.release");
    run(&scene, &["adopt", record.to_str().unwrap()]);
    run(&scene, &["update"]);
    scene.host.wait_committed(spec.version);
    scene
}

#[test]
fn slots_that_are_as_their_records_say() {
    let scene = both_known(&small("2.0.0", 2));
    let said = run(&scene, &["verify"]);
    println!("verify: {said}");
    words_in(&said, &["slot a is 1.0.0 as its record says", "slot b is 2.0.0 as its record says"]);
}

#[test]
fn a_changed_byte_of_the_running_slot_is_named_by_image_and_window() {
    let scene = both_known(&small("2.0.0", 2));
    change_byte(&scene.host, "root-b", 600_000);
    let said = run(&scene, &["verify"]);
    println!("verify: {said}");
    words_in(
        &said,
        &[
            "slot a is 1.0.0 as its record says",
            "slot b (2.0.0) differs",
            "image root in 1 of 4 windows (window 2)",
            "mounted for writing",
        ],
    );
}

#[test]
fn changed_bytes_of_the_other_slot_are_named_by_image_and_windows() {
    let scene = both_known(&small("2.0.0", 2));
    for at in [10, 300_000, 300_001] {
        change_byte(&scene.host, "root-a", at);
    }
    let said = run(&scene, &["verify"]);
    println!("verify: {said}");
    words_in(
        &said,
        &["slot a (1.0.0) differs", "image root in 2 of 4 windows (windows 0, 1)", "slot b is 2.0.0 as its record says"],
    );
}

#[test]
fn bytes_behind_the_image_are_told_of() {
    let scene = both_known(&small("2.0.0", 2));
    change_byte(&scene.host, "root-b", crate::scene::IMAGE_BYTES + 5000);
    words_in(&run(&scene, &["verify"]), &["slot b (2.0.0) differs", "image root behind its end, where zeros are expected"]);
}

#[test]
fn design_11_6_a_changed_byte_under_verity_is_an_error() {
    let scene = both_known(&Spec { verity: true, ..small("2.0.0", 2) });
    run(&scene, &["verify"]);
    change_byte(&scene.host, "root-b", 600_000);
    let said = fails(&scene, 1, &["verify"]);
    words_in(
        &said,
        &[
            "read-back",
            "slot b (2.0.0) differs",
            "image root in 1 of 4 windows (window 2)",
            "never written to",
            "slot a is 1.0.0",
        ],
    );
}

#[test]
fn a_slot_without_a_record_is_said_to_have_none() {
    let scene = quiet_and_started(|publisher| {
        publisher.publish(&small("2.0.0", 2));
        offer(publisher, "2.0.0")
    });
    words_in(&fails(&scene, 1, &["verify"]), &["no-record", "slot a has no record", "slot b has no record", "updatectl adopt"]);
    run(&scene, &["update"]);
    scene.host.wait_committed("2.0.0");
    let said = run(&scene, &["verify"]);
    println!("verify: {said}");
    words_in(&said, &["slot a has no record to compare it with", "slot b is 2.0.0 as its record says"]);
}

/// The file system of the tests lets files be read past the page cache, which not every one does.
fn reads_direct(host: &Host) -> bool {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options().read(true).custom_flags(nix::libc::O_DIRECT).open(host.disk()).is_ok()
}

#[test]
fn a_slot_that_only_the_page_cache_can_read_is_proven_and_says_so() {
    // No direct transfer begins at sector 35: memory pages do not fit it.
    for (first_sector, how) in [(Some(35), "cached"), (None, "direct")] {
        let mut scene = quiet(&Options { first_sector, ..Options::default() }, next_release);
        if how == "direct" && !reads_direct(&scene.host) {
            println!("partly skipped: the file system of the temporary folder has no direct reads");
            continue;
        }
        start(&mut scene);
        run(&scene, &["update", "--no-reboot"]);
        let status = scene.host.status();
        assert_eq!(status["slots"][1]["read_back"], how, "{status:#}");
        assert_eq!(status["slots"][1]["proven"], true, "{status:#}");
        assert_eq!(status["slots"][0]["read_back"], Value::Null, "nobody read slot a: {status:#}");
        let slots = run(&scene, &["slots"]);
        println!("{slots}");
        let line = slots.lines().find(|line| line.trim_start().starts_with("b ")).unwrap();
        assert_eq!(line.ends_with("yes (cached)"), how == "cached", "{slots}");
        run(&scene, &["reboot"]);
        scene.host.wait_committed("2.0.0");
        words_in(&run(&scene, &["verify"]), &["slot b is 2.0.0 as its record says"]);
    }
}

#[test]
fn a_slot_that_cannot_be_found_is_an_error() {
    let mut scene = quiet(&Options::default(), nothing_new);
    scene.host.edit_config("partlabel:root-b", "partlabel:root-c");
    scene.start();
    scene.host.wait_for("it is up", |status| status["state"] == "idle");
    words_in(&fails(&scene, 1, &["verify"]), &["slots", "root-c"]);
}
