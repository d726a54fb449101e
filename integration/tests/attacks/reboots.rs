//! From the lock to the commit, and back: what other people's hands do to an update that is ready.

use std::fs;
use std::time::Duration;

use integration::locksmith::Locksmith;
use integration::rig::Spec;
use manifests::keyring::SecretKey;
use serde_json::{Value, json};
use server_mock::{Answer, Fault, FaultKind, Script};

use crate::scene::{IMAGE_BYTES, Options, Scene, next_release, offer, says, small, words_in};

const HOST: &str = "e0f3745b108f471cbd4883c6fbed8cdd";

/// A lock service and a host that needs it.
fn locked_scene(
    strategy: &'static str,
    script: impl FnOnce(&integration::rig::Publisher) -> Script,
) -> (tempfile::TempDir, Locksmith, Scene) {
    let dir = tempfile::tempdir().unwrap();
    let locksmith = Locksmith::start(dir.path(), "127.0.0.1:0");
    let scene = Scene::new(&Options { strategy, extra: locksmith.table(), ..Options::default() }, script);
    (dir, locksmith, scene)
}

/// The attempt ended on the old slot, and it is said everywhere.
fn assert_rolled_back(scene: &Scene, words: &[&str]) {
    let status =
        scene.host.wait_for("it rolled back", |status| status["attempts"]["rolled_back"] == 1 && status["state"] == "idle");
    assert_eq!(status["booted"]["slot"], "a", "{status:#}");
    assert_eq!(status["booted"]["version"], "1.0.0", "{status:#}");
    assert_eq!(status["last_error"]["code"], "rolled-back", "{status:#}");
    says(&status["last_error"]["message"], words);
    says(&status["summary"], &["Needs attention", "2.0.0 rolled back to 1.0.0"]);
    assert_eq!(scene.host.updatectl(&["status", "--exit-code"]).status.code(), Some(30), "{status:#}");
    let attempt = scene.attempt("it is in the history", |attempt| attempt["outcome"] == "rolled-back");
    says(&attempt["reason"], words);
    assert_eq!(attempt["to"], "2.0.0", "{attempt:#}");
    scene.assert_reported(Some(&attempt), &["13/1", "14/1", "3/1", "3/0 44"], words);
    let [a, b] = scene.host.boot_bits();
    assert!(a.0 > b.0 || b == (0, 0, false), "the old slot is the next one: {a:?} {b:?}");
    assert!(!b.2 && b.1 == 0, "the bad slot may start again: {b:?}");
    scene.assert_slot_a_untouched();
}

const SICK: &str = "test \"$OTA_TO\" != 2.0.0 && exit 0; echo the database does not answer; exit 1";

#[test]
fn design_11_7_an_unhealthy_release_goes_back_and_is_not_tried_again_unless_a_person_names_it() {
    let mut scene = Scene::new(&Options::default(), next_release);
    scene.host.hook("health/required.d/10-database", SICK);
    scene.start();
    assert_rolled_back(&scene, &["10-database", "the database does not answer"]);
    scene.mock.clear_recorded();
    let status = scene.host.wait_for("it is passed over", |status| {
        status["check"]["last_result"].as_str().is_some_and(|result| result.contains("2.0.0 refused"))
    });
    says(&status["check"]["last_result"], &["updatectl update 2.0.0"]);
    assert_eq!(scene.host.boot_bits()[1].1, 0, "not tried again");
    assert!(!scene.mock.recorded().iter().any(|request| request.path.ends_with(".payload")), "not fetched again");
    scene.host.hook("health/required.d/10-database", "exit 0");
    let asked = scene.host.updatectl(&["update", "2.0.0"]);
    assert!(asked.status.success(), "{asked:?}");
    scene.host.wait_committed("2.0.0");
}

#[test]
fn design_11_7_a_newer_release_than_the_refused_one_is_tried() {
    let mut scene = Scene::new(&Options::default(), next_release);
    scene.host.hook("health/required.d/10-database", SICK);
    scene.publisher.publish(&small("3.0.0", 3));
    scene.start();
    assert_rolled_back(&scene, &["10-database"]);
    scene.offer("3.0.0");
    scene.host.wait_committed("3.0.0");
}

#[test]
fn an_image_that_panics_goes_back_after_its_tries() {
    let mut scene = Scene::new(&Options::default(), |publisher| {
        publisher.publish(&Spec { lines: &["BOOT=panic"], ..small("2.0.0", 2) });
        offer(publisher, "2.0.0")
    });
    scene.start();
    assert_rolled_back(&scene, &["2.0.0", "did not"]);
}

#[test]
fn an_image_from_which_nobody_sees_what_runs_goes_back_after_its_tries() {
    let mut scene = Scene::new(&Options::default(), |publisher| {
        publisher.publish(&Spec { lines: &["ROOT=hidden"], ..small("2.0.0", 2) });
        offer(publisher, "2.0.0")
    });
    // It may be blind for twice that.
    let config = scene.host.dir.join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains("deadline_s = 20\n"), "{text}");
    fs::write(config, text.replace("deadline_s = 20\n", "deadline_s = 2\n")).unwrap();
    scene.start();
    let blind = scene.host.wait_for("it says that it is blind", |status| status["booted"]["slot"] == Value::Null);
    says(&blind["summary"], &["Needs attention", "rebooted into 2.0.0, and it cannot be seen whether that runs"]);
    assert_rolled_back(&scene, &["2.0.0", "did not"]);
}

#[test]
fn design_11_4_an_image_without_the_key_that_signed_it_fails_its_trial() {
    let key_line = |name: &str, seed: u8| {
        format!(
            "KEY.{name}.pub={}",
            SecretKey::from_seed(&[seed; 32]).public().to_text(name).lines().find(|line| !line.starts_with('#')).unwrap()
        )
    };
    let (old, new) = (key_line("ours", 1), key_line("other", 9));
    let options = Options { factory_lines: vec![old], ..Options::default() };
    let mut scene = Scene::new(&options, |publisher| {
        publisher.publish(&Spec { lines: &[&new], ..small("2.0.0", 2) });
        offer(publisher, "2.0.0")
    });
    scene.start();
    assert_rolled_back(&scene, &["keys of the new image", "expected signatures by 1"]);
}

#[test]
fn design_11_16_a_machine_id_that_changed_fails_the_trial() {
    let mut scene = Scene::new(&Options { strategy: "manual", ..Options::default() }, next_release);
    scene.start();
    scene.host.wait_for("it rests armed", |status| status["state"] == "armed");
    let path = scene.host.dir.join("sysroot/etc/machine-id");
    fs::write(&path, "00000000000000000000000000000bad\n").unwrap();
    let asked = scene.host.updatectl(&["reboot", "--no-wait"]);
    assert!(asked.status.success(), "{asked:?}");
    assert_rolled_back(&scene, &["machine-id", HOST, "00000000000000000000000000000bad"]);
}

#[test]
fn design_11_12_manual_without_a_lock_arms_and_any_reboot_activates() {
    let mut scene = Scene::new(&Options { strategy: "manual", ..Options::default() }, next_release);
    scene.start();
    let status = scene.host.wait_for("it rests armed", |status| status["state"] == "armed");
    says(&status["summary"], &["2.0.0 is armed", "next reboot"]);
    assert_eq!(scene.host.boot_bits()[1], (2, 3, false));
    // Somebody reboots the machine.
    scene.host.kill();
    scene.host.boot();
    scene.host.start();
    scene.host.wait_committed("2.0.0");
}

#[test]
fn design_11_12_manual_with_a_lock_rests_unarmed_until_a_person_reboots() {
    let (_data, locksmith, mut scene) = locked_scene("manual", next_release);
    scene.start();
    let status = scene.host.wait_for("it rests proven", |status| {
        status["state"] == "proven" && status["summary"].to_string().contains("updatectl reboot")
    });
    assert_eq!(status["reboot"]["lock"]["held"], false, "{status:#}");
    scene.assert_nothing_armed();
    assert!(!locksmith.says(&["status", "default", "--json"]).contains(HOST), "no place is held");
    let asked = scene.host.updatectl(&["reboot", "--no-wait"]);
    assert!(asked.status.success(), "{asked:?}");
    scene.host.wait_committed("2.0.0");
    scene.host.wait("the place is given back", || (!locksmith.is_held()).then_some(()));
}

#[test]
fn a_full_lock_is_waited_for_with_the_holders_name() {
    let (_data, locksmith, mut scene) = locked_scene("lock", next_release);
    locksmith.ctl(&["lock", "neighbour-17"]);
    scene.start();
    let status = scene.host.wait_for("it waits for the lock", |status| {
        status["state"] == "proven" && status["summary"].to_string().contains("neighbour-17")
    });
    says(&status["summary"], &["2.0.0 is written and proven", "waits to reboot", "lock", "neighbour-17"]);
    assert_eq!(status["reboot"]["lock"]["held"], false, "{status:#}");
    assert_eq!(status["reboot"]["waiting_for"][0]["gate"], "lock", "{status:#}");
    assert_eq!(status["reboot"]["lock"]["holders"][0]["id"], "neighbour-17", "{status:#}");
    assert_eq!(scene.host.updatectl(&["status", "--exit-code"]).status.code(), Some(20), "{status:#}");
    scene.assert_nothing_armed();
    locksmith.ctl(&["unlock", "neighbour-17"]);
    scene.host.wait_committed("2.0.0");
    scene.host.wait("the place is given back", || (!locksmith.is_held()).then_some(()));
}

#[test]
fn a_lock_service_that_is_down_is_waited_for_and_named() {
    let (_data, mut locksmith, mut scene) = locked_scene("lock", next_release);
    locksmith.stop();
    scene.start();
    let status = scene.host.wait_for("it waits for the lock service", |status| {
        status["state"] == "proven" && status["reboot"]["waiting_for"][0]["gate"] == "lock"
    });
    says(&status["summary"], &["2.0.0 is written and proven", "waits to reboot", &locksmith.address]);
    scene.assert_nothing_armed();
    locksmith.start_again();
    scene.host.wait_committed("2.0.0");
    scene.host.wait("the place is given back", || (!locksmith.is_held()).then_some(()));
}

#[test]
fn a_lock_service_that_restarts_meanwhile_forgets_nothing() {
    let (_data, mut locksmith, mut scene) = locked_scene("lock", next_release);
    let held = scene.dir().join("go-on");
    scene.host.hook("drain.d/10-wait", &format!("while ! test -e {}; do sleep 0.1; done", held.display()));
    scene.start();
    scene.host.wait("the place is held", || locksmith.is_held().then_some(()));
    locksmith.stop();
    locksmith.start_again();
    assert!(locksmith.is_held(), "the place is still held");
    fs::write(held, "").unwrap();
    scene.host.wait_committed("2.0.0");
    scene.host.wait("the place is given back", || (!locksmith.is_held()).then_some(()));
}

/// With the lock granted; granted by a service that is gone since; and never granted.
#[test]
fn a_reboot_that_a_person_forces_comes_with_the_lock_without_its_server_and_past_another_holder() {
    for (holder, outage) in [(None, false), (None, true), (Some("another-host"), false)] {
        let (_data, mut locksmith, mut scene) = locked_scene("lock", next_release);
        if let Some(holder) = holder {
            drop(locksmith.says(&["lock", holder]));
        }
        let (draining, drained) = (scene.dir().join("draining"), scene.dir().join("drained"));
        let wait = format!("touch {}; while ! test -e {}; do sleep 0.1; done", draining.display(), drained.display());
        scene.host.hook("drain.d/10-wait", &wait);
        scene.start();
        match holder {
            Some(_) => drop(scene.host.wait_for("the lock is refused", |status| {
                status["reboot"]["lock"]["holders"].as_array().is_some_and(|holders| !holders.is_empty())
            })),
            None => scene.host.wait("it drains", || draining.exists().then_some(())),
        }
        if outage {
            locksmith.stop();
        }
        let forced = scene.host.updatectl(&["reboot", "--force", "--no-wait"]);
        assert!(forced.status.success(), "{holder:?} {outage}: {forced:?}");
        fs::write(&drained, "").unwrap();
        scene.host.wait_committed("2.0.0");
        let attempt = scene.attempt("it is in the history", |attempt| attempt["outcome"] == "committed");
        assert_eq!(attempt["notes"], json!(["reboot forced: lock and inhibitors skipped"]), "{attempt:#}");
        if outage {
            locksmith.start_again();
        }
        if holder.is_none() {
            scene.host.wait("the place is given back", || (!locksmith.is_held()).then_some(()));
        }
    }
}

#[test]
fn an_unhealthy_release_gives_its_lock_back_with_the_outcome() {
    let (_data, locksmith, mut scene) = locked_scene("lock", next_release);
    scene.host.hook("health/required.d/10-database", SICK);
    scene.start();
    assert_rolled_back(&scene, &["10-database", "the database does not answer"]);
    scene.host.wait("the place is given back", || (!locksmith.is_held()).then_some(()));
    let history = locksmith.says(&["history", "default"]);
    assert!(history.contains("rolled back") || history.contains("rolled-back") || history.contains("rolled_back"), "{history}");
    assert!(history.contains(&HOST[..8]), "{history}");
}

#[test]
fn design_11_10_a_reboot_that_is_refused_is_undone_to_the_last_step() {
    let (_data, locksmith, mut scene) = locked_scene("lock", next_release);
    let undrained = scene.dir().join("undrained");
    scene.host.hook("undrain.d/10-mark", &format!("echo \"$OTA_TO\" >> {}", undrained.display()));
    let config = fs::read_to_string(scene.host.dir.join("config.toml")).unwrap();
    let command = config.lines().find(|line| line.starts_with("command = ")).unwrap();
    scene.host.edit_config(command, "command = [\"sh\", \"-c\", \"exit 1\"]");
    scene.start();
    let status = scene.host.wait_for("the attempt failed", |status| status["attempts"]["failed"] != 0);
    assert_eq!(status["last_error"]["code"], "reboot", "{status:#}");
    says(&status["last_error"]["message"], &["the reboot was refused", "exit 1"]);
    let attempt = scene.attempt("the failure is in the history", |attempt| attempt["outcome"] == "failed");
    says(&attempt["reason"], &["the reboot was refused"]);
    scene.assert_reported(Some(&attempt), &["13/1", "14/1", "3/1", "3/0 5"], &["the reboot was refused"]);
    assert_eq!(fs::read_to_string(undrained).unwrap().lines().next(), Some("2.0.0"));
    scene.host.kill();
    scene.host.edit_config("check_interval_s = 1", "check_interval_s = 3600");
    scene.host.start();
    scene.host.wait("the place is given back", || (!locksmith.is_held()).then_some(()));
    scene.host.wait("the slot is disarmed", || (scene.host.boot_bits()[1].0 == 0).then_some(()));
    scene.assert_slot_a_untouched();
}

#[test]
fn a_cancelled_download_leaves_nothing_armed_and_says_who_ended_it() {
    let mut scene = Scene::new(&Options { slot_bytes: 9 * IMAGE_BYTES, ..Options::default() }, |publisher| {
        publisher.publish(&Spec { size: 8 * IMAGE_BYTES, ..Spec::new("2.0.0", 2) });
        offer(publisher, "2.0.0").fault(Fault::on("*.payload", FaultKind::SlowDrip { bytes_per_s: 200_000 }).after_bytes(500_000))
    });
    scene.start();
    scene.host.wait_for("it is being fetched", |status| {
        status["state"] == "fetching" && status["progress"]["bytes_downloaded"].as_u64() > Some(0)
    });
    let cancelled = scene.host.updatectl(&["cancel"]);
    assert!(cancelled.status.success(), "{cancelled:?}");
    let attempt = scene.attempt("it is in the history", |attempt| attempt["outcome"] == "abandoned");
    assert_eq!(attempt["code"], "cancelled", "{attempt:#}");
    says(&attempt["reason"], &["person"]);
    scene.assert_reported(Some(&attempt), &["13/1", "3/4 36"], &["person"]);
    scene.assert_nothing_armed();
}

#[test]
fn a_paused_host_starts_nothing_and_says_who_paused_it() {
    let mut scene = Scene::new(&Options::default(), |publisher| {
        next_release(publisher);
        Script::serving(&publisher.files).answer(Answer::no_update())
    });
    scene.start();
    scene.host.wait_for("it is up", |status| status["check"]["last_at"] != Value::Null);
    let paused = scene.host.updatectl(&["pause", "--reason", "release night"]);
    assert!(paused.status.success(), "{paused:?}");
    scene.offer("2.0.0");
    let status = scene.host.wait_for("the update waits", |status| status["state"] == "deferred");
    says(&status["summary"], &["Paused by a person", "release night", "updatectl resume", "2.0.0"]);
    assert_eq!(scene.host.updatectl(&["status", "--exit-code"]).status.code(), Some(20), "{status:#}");
    scene.assert_disk_untouched();
    let resumed = scene.host.updatectl(&["resume"]);
    assert!(resumed.status.success(), "{resumed:?}");
    scene.host.wait_committed("2.0.0");
}

#[test]
fn a_gate_hook_that_says_not_now_is_heard_and_quoted() {
    let mut scene = Scene::new(&Options::default(), next_release);
    scene.host.hook("gate.d/10-backup", "echo the nightly backup runs; exit 75");
    scene.start();
    let status = scene
        .host
        .wait_for("it waits", |status| status["state"] == "proven" && status["reboot"]["waiting_for"][0]["gate"] == "hook");
    says(&status["summary"], &["waits to reboot", "the nightly backup runs"]);
    scene.assert_nothing_armed();
    scene.host.hook("gate.d/10-backup", "exit 0");
    scene.host.wait_committed("2.0.0");
}

#[test]
fn design_11_8_a_report_that_cannot_be_delivered_does_not_hold_the_commit_up_and_is_not_lost() {
    let scene = Scene::started(|publisher| next_release(publisher).event_answer(Answer::status(503)));
    let status = scene.host.wait_committed("2.0.0");
    assert_eq!(status["attempts"]["committed"], 1, "{status:#}");
    let attempt = scene.attempt("it is in the history", |attempt| attempt["outcome"] == "committed");
    let id = attempt["attempt"].as_str().unwrap().to_owned();
    let log = scene.host.wait("it is said that it was not delivered", || {
        Some(scene.host.log()).filter(|log| log.contains("not delivered, kept for later"))
    });
    words_in(&log, &["503", "/v1/update/"]);
    scene.mock.clear_recorded();
    scene.mock.set_script(offer(&scene.publisher, "2.0.0")).unwrap();
    let told = |result: u8| {
        let events = scene.mock.recorded().into_iter().filter(|request| request.body.contains("<event "));
        events
            .filter(|request| {
                request.status == Some(200)
                    && request.body.contains("eventtype=\"3\"")
                    && request.body.contains(&format!("eventresult=\"{result}\""))
            })
            .map(|request| request.body)
            .collect::<Vec<_>>()
    };
    scene.host.wait("the commit is reported", || (!told(2).is_empty()).then_some(()));
    std::thread::sleep(Duration::from_millis(1500));
    let commits = told(2);
    assert_eq!(commits.len(), 1, "reported once: {commits:#?}");
    words_in(&commits[0], &[&format!("ota_attempt=\"{id}\""), "previousversion=\"1.0.0\""]);
    for event in scene.mock.recorded().iter().filter(|request| request.body.contains("<event ")) {
        words_in(&event.body, &[&id]);
    }
}
