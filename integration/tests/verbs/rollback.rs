//! `updatectl rollback` (design 11.6 and 11.7): back to what was committed before, and not forward again by itself.

use integration::rig::tail;
use serde_json::Value;
use server_mock::{Fault, FaultKind};

use crate::contract::status;
use crate::scene::{Options, Scene, offer, small, words_in};
use crate::stage::{fails, locked, nothing_new, quiet, run, start};

/// 1.0.0 runs from slot a, and its record is known; 2.0.0 and 3.0.0 are published, nothing is offered.
fn adopted(options: &Options) -> Scene {
    let mut scene = quiet(options, |publisher| {
        publisher.publish(&small("2.0.0", 2));
        publisher.publish(&small("3.0.0", 3));
        nothing_new(publisher)
    });
    start(&mut scene);
    let record = scene.publisher.files.join("1.0.0.release");
    run(&scene, &["adopt", record.to_str().unwrap()]);
    scene
}

/// 2.0.0 was committed in slot b after that.
fn updated(options: &Options) -> Scene {
    let scene = adopted(options);
    commit(&scene, "2.0.0");
    scene
}

fn commit(scene: &Scene, version: &str) {
    scene.offer(version);
    run(scene, &["update"]);
    scene.host.wait_committed(version);
}

/// Refused: exit 1, with these words, and no bit of the boot table is another one.
#[track_caller]
fn assert_refused(scene: &Scene, words: &[&str]) {
    let bits = scene.host.boot_bits();
    words_in(&fails(scene, 1, &["rollback"]), words);
    assert_eq!(scene.host.boot_bits(), bits);
}

#[test]
fn design_11_6_a_committed_update_is_rolled_back_to_what_ran_before() {
    let scene = updated(&Options::default());
    let before = scene.host.slot_bytes("root-a");
    run(&scene, &["rollback"]);
    let status = scene.host.wait_committed("1.0.0");
    assert_eq!((&status["booted"]["slot"], &status["attempts"]["committed"]), (&"a".into(), &2.into()), "{status:#}");
    assert!(scene.host.slot_bytes("root-a") == before, "nothing was written to slot a");
    let [a, b] = scene.host.boot_bits();
    assert!(a.2 && a.0 > b.0, "slot a is the next one: {a:?} {b:?}");
    let attempt = scene.attempt("it is in the history", |attempt| attempt["to"] == "1.0.0" && attempt["outcome"] == "committed");
    assert_eq!((&attempt["from"], &attempt["bytes_downloaded"]), (&"2.0.0".into(), &0.into()), "{attempt:#}");
}

#[test]
fn design_11_7_what_was_rolled_back_stays_refused_until_it_is_named() {
    let scene = updated(&Options::default());
    run(&scene, &["rollback"]);
    scene.host.wait_committed("1.0.0");
    scene.mock.clear_recorded();
    for verb in ["check", "update"] {
        run(&scene, &[verb]);
        let now = status(&scene.host, &format!("after a rollback, {verb}"));
        words_in(
            now["summary"].as_str().unwrap(),
            &["2.0.0", "rolled it back", "`updatectl update 2.0.0`", "1.0.0 runs from slot a"],
        );
        assert_eq!(now["state"], "idle", "{now:#}");
    }
    assert!(!scene.mock.recorded().iter().any(|request| request.path.ends_with(".payload")), "nothing was fetched");
    run(&scene, &["update", "2.0.0"]);
    scene.host.wait_committed("2.0.0");
    run(&scene, &["check"]);
    words_in(scene.host.status()["summary"].as_str().unwrap(), &["Up to date", "2.0.0 runs"]);
}

#[test]
fn design_11_7_the_refusal_outlives_a_restart_and_ends_with_a_newer_release() {
    let mut scene = updated(&Options::default());
    run(&scene, &["rollback"]);
    scene.host.wait_committed("1.0.0");
    scene.host.kill();
    scene.host.start();
    scene.host.wait_for("it is up again", |status| status["state"] == "idle");
    run(&scene, &["update"]);
    assert_eq!(scene.host.status()["booted"]["version"], "1.0.0");
    commit(&scene, "3.0.0");
}

#[test]
fn a_slot_that_was_never_committed_is_not_gone_back_to() {
    let scene = adopted(&Options::default());
    assert_refused(&scene, &["slot b", "committed before"]);
}

#[test]
fn a_factory_slot_without_a_record_is_not_gone_back_to() {
    let mut scene = quiet(&Options::default(), crate::scene::next_release);
    start(&mut scene);
    run(&scene, &["update"]);
    scene.host.wait_committed("2.0.0");
    assert_refused(&scene, &["slot a", "committed before"]);
}

#[test]
fn a_slot_that_was_overwritten_is_not_gone_back_to() {
    let scene = updated(&Options::default());
    let drip = Fault::on("*.payload", FaultKind::SlowDrip { bytes_per_s: 1000 }).after_bytes(100_000);
    scene.mock.set_script(offer(&scene.publisher, "3.0.0").fault(drip)).unwrap();
    run(&scene, &["update", "--no-wait"]);
    scene.host.wait_for("slot a is being written", |status| status["state"] == "fetching" && status["progress"] != Value::Null);
    assert_refused(&scene, &["under way", "updatectl cancel"]);
    run(&scene, &["cancel"]);
    scene.host.wait_for("it was given up", |status| status["state"] == "idle");
    assert_refused(&scene, &["slot a", "committed before"]);
}

#[test]
fn a_paused_host_is_not_rolled_back() {
    let scene = updated(&Options::default());
    run(&scene, &["pause"]);
    assert_refused(&scene, &["paused", "updatectl resume"]);
    run(&scene, &["resume"]);
    run(&scene, &["rollback"]);
    scene.host.wait_committed("1.0.0");
}

#[test]
fn a_slot_that_was_damaged_since_is_reported_and_gone_back_to_all_the_same() {
    let scene = updated(&Options::default());
    crate::verify::change_byte(&scene.host, "root-a", 300_000);
    run(&scene, &["rollback"]);
    let status = scene.host.wait_committed("1.0.0");
    assert_eq!(status["booted"]["slot"], "a", "a root that was mounted for writing differs in a few windows: {status:#}");
}

#[test]
fn under_manual_a_rollback_arms_and_rests() {
    let mut scene = adopted(&Options { strategy: "manual", ..Options::default() });
    scene.offer("2.0.0");
    run(&scene, &["update"]);
    run(&scene, &["reboot"]);
    scene.host.wait_committed("2.0.0");
    run(&scene, &["rollback"]);
    let now = status(&scene.host, "armed for a rollback");
    assert_eq!((&now["state"], &now["target"]["version"]), (&"armed".into(), &"1.0.0".into()), "{now:#}");
    assert_eq!(now["slots"][0]["next"], true, "{now:#}");
    // Somebody reboots the machine.
    scene.host.kill();
    scene.host.boot();
    scene.host.start();
    scene.host.wait_committed("1.0.0");
}

#[test]
fn a_rollback_takes_the_lock_like_every_reboot() {
    let (_data, locksmith, mut scene) = locked("lock");
    start(&mut scene);
    let record = scene.publisher.files.join("1.0.0.release");
    run(&scene, &["adopt", record.to_str().unwrap()]);
    run(&scene, &["update"]);
    scene.host.wait_committed("2.0.0");
    scene.host.wait("the place is given back", || (!locksmith.is_held()).then_some(()));
    locksmith.ctl(&["lock", "neighbour-17"]);
    run(&scene, &["rollback"]);
    let now = status(&scene.host, "a rollback that waits for the lock");
    assert_eq!(now["reboot"]["waiting_for"][0]["gate"], "lock", "{now:#}");
    assert!(scene.host.boot_bits()[1].2, "2.0.0 is still the next one");
    locksmith.ctl(&["unlock", "neighbour-17"]);
    run(&scene, &["reboot"]);
    scene.host.wait_committed("1.0.0");
    scene.host.wait("the place is given back", || (!locksmith.is_held()).then_some(()));
}

#[test]
fn a_rollback_whose_reboot_is_refused_fails_with_the_reason_and_changes_nothing() {
    let mut scene = updated(&Options::default());
    scene.host.kill();
    let config = std::fs::read_to_string(scene.host.dir.join("config.toml")).unwrap();
    let command = config.lines().find(|line| line.starts_with("command = ")).unwrap();
    scene.host.edit_config(command, "command = [\"sh\", \"-c\", \"exit 1\"]");
    scene.host.start();
    scene.host.wait_for("it is up again", |status| status["state"] == "idle");
    words_in(&fails(&scene, 1, &["rollback"]), &["the reboot was refused"]);
    let now = status(&scene.host, "a rollback that failed");
    words_in(now["summary"].as_str().unwrap(), &["1.0.0 failed", "2.0.0 runs from slot b", "`updatectl rollback`"]);
    assert_eq!(now["booted"]["version"], "2.0.0", "{now:#}");
    let [a, b] = scene.host.boot_bits();
    assert!(b.2 && (a.0 < b.0 || a.1 == 0 && !a.2), "2.0.0 is the next one: {a:?} {b:?}\n{}", tail(&scene.host.log(), 30));
    assert!(now["last_error"] != Value::Null, "{now:#}");
}
