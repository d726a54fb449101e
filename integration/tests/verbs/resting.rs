//! `status` in every state in which a host can rest, and in those it only passes through.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use integration::locksmith::Locksmith;
use integration::rig::Spec;
use manifests::release::Envelope;
use serde_json::Value;
use server_mock::{Answer, AnswerKind, Fault, FaultKind, NoUpdate, Script};

use crate::contract::status;
use crate::scene::{IMAGE_BYTES, Options, Scene, next_release, offer, says, small, words_in};
use crate::stage::{
    exit_code, fails, is_moment, locked, nothing_new, quiet, quiet_and_started, run, start, started_without_a_server, transcript,
};

#[test]
fn idle_and_never_checked() {
    let scene = quiet_and_started(nothing_new);
    let status = status(&scene.host, "idle, never checked");
    assert_eq!((&status["state"], &status["check"]["last_at"]), (&"idle".into(), &Value::Null), "{status:#}");
    assert!(is_moment(&status["check"]["next_at"]), "{status:#}");
    assert_eq!(exit_code(&scene), 0, "{status:#}");
}

#[test]
fn idle_and_up_to_date() {
    let scene = quiet_and_started(nothing_new);
    run(&scene, &["check"]);
    let status = status(&scene.host, "idle, up to date");
    says(&status["summary"], &["Up to date", "1.0.0 runs from slot a", "next check in"]);
    assert!(is_moment(&status["check"]["last_at"]) && is_moment(&status["check"]["next_at"]), "{status:#}");
    assert_eq!(exit_code(&scene), 0, "{status:#}");
}

#[test]
fn idle_without_a_server() {
    let mut scene = quiet(&Options::default(), nothing_new);
    let config = fs::read_to_string(scene.host.dir.join("config.toml")).unwrap();
    let url = config.lines().find(|line| line.starts_with("url = ")).unwrap();
    scene.host.edit_config(url, "url = \"\"");
    scene.start();
    scene.host.wait_for("it is up", |status| status["state"] == "idle");
    let status = status(&scene.host, "idle, no server");
    says(&status["summary"], &["1.0.0 runs from slot a", "no update server is configured", "updatectl install"]);
    assert_eq!((exit_code(&scene), &status["check"]["next_at"]), (0, &Value::Null), "{status:#}");
}

#[test]
fn idle_after_a_check_that_failed() {
    let scene = quiet_and_started(|publisher| Script::serving(&publisher.files).answer(Answer::status(503)));
    assert_eq!(scene.host.updatectl(&["check"]).status.code(), Some(1));
    let status = status(&scene.host, "idle, the check failed");
    says(&status["summary"], &["check failed", "503", "1.0.0 runs from slot a"]);
    assert!(is_moment(&status["check"]["next_at"]), "{status:#}");
    assert_eq!(exit_code(&scene), 0, "one server that is down is no alarm: {status:#}");
}

#[test]
fn idle_because_the_record_of_an_update_cannot_be_had() {
    let busy = || Fault::on("*.release", FaultKind::Status { code: 503, retry_after_s: Some(20 * 3600) });
    let gone = Fault::on("/mirror/*.release", FaultKind::Status { code: 404, retry_after_s: None });
    let scene = quiet_and_started(|publisher| {
        let codebases = vec!["/mirror/".to_owned(), "/files/".to_owned()];
        Script { codebases, ..next_release(publisher) }.fault(gone).fault(busy())
    });
    let update = scene.host.updatectl(&["update"]);
    assert_eq!(update.status.code(), Some(1), "{}", transcript(&update));
    words_in(&transcript(&update), &["2.0.0 is offered, but its record could not be fetched", "2.0.0.release", "503"]);
    let status = status(&scene.host, "idle, the record could not be fetched");
    says(&status["summary"], &["The last check failed", "2.0.0 is offered", "503", "1.0.0 runs from slot a"]);
    let next_at: jiff::Timestamp = status["check"]["next_at"].as_str().unwrap().parse().unwrap();
    assert!(next_at > jiff::Timestamp::now() + Duration::from_secs(19 * 3600), "Retry-After: {status:#}");
    assert_eq!((&status["check"]["last_outcome"], exit_code(&scene)), (&"failed".into(), 0), "no alarm: {status:#}");
    scene.mock.set_script(next_release(&scene.publisher)).unwrap();
    run(&scene, &["update"]);
    scene.host.wait_committed("2.0.0");
}

#[test]
fn idle_because_the_record_of_an_update_will_never_come() {
    let never = [
        Fault::on("*.release", FaultKind::Status { code: 404, retry_after_s: None }),
        Fault::on("*.release", FaultKind::Redirect { to: "/files/2.0.0.release".into(), code: 302 }),
    ];
    for fault in never {
        let scene = quiet_and_started(|publisher| next_release(publisher).fault(fault));
        assert_eq!(scene.host.updatectl(&["update"]).status.code(), Some(1));
        let status = status(&scene.host, "idle, the record will never come");
        let words = ["Needs attention: 2.0.0 is offered, but its record could not be fetched: ", "2.0.0.release", "1.0.0 runs"];
        says(&status["summary"], &words);
        assert!(is_moment(&status["check"]["next_at"]), "it goes on asking: {status:#}");
        assert_eq!((&status["check"]["last_outcome"], exit_code(&scene)), (&"failed".into(), 30), "{status:#}");
        scene.mock.set_script(next_release(&scene.publisher)).unwrap();
        run(&scene, &["update"]);
        scene.host.wait_committed("2.0.0");
        assert_eq!(exit_code(&scene), 0);
    }
}

/// From now on the record of 2.0.0 cannot be kept: root may write where nobody else may, but not over a folder.
fn keep_no_record(scene: &Scene) -> PathBuf {
    let record = fs::read(scene.publisher.files.join("2.0.0.release")).unwrap();
    let digest = Envelope::parse(&record).unwrap().digest();
    let in_its_place = scene.host.dir.join(format!("state/offers/{digest}.release"));
    fs::create_dir_all(in_its_place.join("full")).unwrap();
    in_its_place
}

#[test]
fn a_record_from_a_file_that_cannot_be_kept_is_no_success_without_a_server_either() {
    let scene = started_without_a_server(next_release);
    keep_no_record(&scene);
    let files = ["release", "payload"].map(|kind| scene.publisher.files.join(format!("2.0.0.{kind}")).display().to_string());
    words_in(&fails(&scene, 1, &["install", &files[0], &files[1]]), &["failed: ", "state/offers"]);
}

#[test]
fn idle_because_the_record_of_an_update_cannot_be_kept() {
    let scene = quiet_and_started(next_release);
    let in_its_place = keep_no_record(&scene);
    assert_eq!(scene.host.updatectl(&["update"]).status.code(), Some(1));
    let status = status(&scene.host, "idle, the record could not be kept");
    let words = ["Needs attention: 2.0.0 is offered, but its record could not be checked and kept here: ", "state/offers"];
    says(&status["summary"], &words);
    assert!(!status["summary"].as_str().unwrap().contains("refused"), "{status:#}");
    assert_eq!((&status["last_error"]["code"], exit_code(&scene)), (&"state-dir".into(), 30), "{status:#}");
    assert_eq!(status["check"]["last_outcome"], "failed", "{status:#}");
    fs::remove_dir_all(in_its_place).unwrap();
    run(&scene, &["update"]);
    scene.host.wait_committed("2.0.0");
}

#[test]
fn idle_and_not_silenced_by_a_busy_mirror_when_another_gave_the_record() {
    let busy = Fault::on("/mirror/*.release", FaultKind::Status { code: 503, retry_after_s: Some(20 * 3600) });
    let scene = quiet_and_started(|publisher| {
        let codebases = vec!["/mirror/".to_owned(), "/files/".to_owned()];
        Script { codebases, ..next_release(publisher) }.fault(busy)
    });
    run(&scene, &["check"]);
    assert!(scene.mock.recorded().iter().any(|request| request.path == "/mirror/2.0.0.release"), "the mirror was not asked");
    let status = status(&scene.host, "idle, a mirror was busy");
    assert_eq!(status["check"]["last_outcome"], "available", "{status:#}");
    let next_at: jiff::Timestamp = status["check"]["next_at"].as_str().unwrap().parse().unwrap();
    assert!(next_at < jiff::Timestamp::now() + Duration::from_secs(5 * 3600), "a mirror's Retry-After: {status:#}");
}

#[test]
fn idle_because_the_server_holds_the_update_back() {
    let until = jiff::Timestamp::now() + Duration::from_secs(7200);
    let scene = quiet_and_started(|publisher| {
        let hold = NoUpdate {
            hold: Some("window".into()),
            until: Some(until),
            reason: Some("outside the group's window".into()),
            poll_interval_s: None,
        };
        Script::serving(&publisher.files).answer(Answer::from(AnswerKind::Noupdate(hold)))
    });
    run(&scene, &["check"]);
    let status = status(&scene.host, "idle, held by the server");
    says(&status["summary"], &["Held by the update server", "outside the group's window", "1.0.0 runs from slot a"]);
    assert!(is_moment(&status["check"]["hold"]["until"]), "{status:#}");
    assert_eq!(exit_code(&scene), 20, "{status:#}");
}

#[test]
fn idle_because_the_offer_was_refused() {
    let scene = quiet_and_started(|publisher| {
        publisher.publish(&Spec { change: &|record| record.board = "toaster".into(), ..small("2.0.0", 2) });
        offer(publisher, "2.0.0")
    });
    assert_eq!(scene.host.updatectl(&["check"]).status.code(), Some(1));
    let status = status(&scene.host, "idle, the offer was refused");
    says(&status["summary"], &["Needs attention", "board toaster", "1.0.0 runs from slot a"]);
    assert_eq!(exit_code(&scene), 30, "{status:#}");
}

#[test]
fn idle_and_only_told_of_an_update() {
    let scene = quiet_and_started(next_release);
    run(&scene, &["check"]);
    let status = status(&scene.host, "idle, an update is known");
    says(&status["summary"], &["2.0.0", "1.0.0 runs from slot a"]);
}

#[test]
fn paused_without_an_end() {
    let scene = quiet_and_started(nothing_new);
    run(&scene, &["pause", "--reason", "release night"]);
    let status = status(&scene.host, "idle, paused");
    says(&status["summary"], &["Paused", "release night", "updatectl resume", "1.0.0 runs from slot a"]);
    assert_eq!(status["pause"]["reason"], "release night", "{status:#}");
    assert!(is_moment(&status["pause"]["since"]) && status["pause"]["until"].is_null(), "{status:#}");
    assert_eq!(exit_code(&scene), 20, "{status:#}");
}

#[test]
fn deferred_by_a_pause_that_ends() {
    let mut scene = Scene::new(&Options::default(), next_release);
    scene.mock.set_script(nothing_new(&scene.publisher)).unwrap();
    scene.start();
    scene.host.wait_for("it is up", |status| status["check"]["last_at"] != Value::Null);
    run(&scene, &["pause", "--until", "2h", "--reason", "release night"]);
    scene.offer("2.0.0");
    scene.host.wait_for("the update waits", |status| status["state"] == "deferred");
    let status = status(&scene.host, "deferred, paused until");
    says(&status["summary"], &["Paused", "release night", "2.0.0", "until", "updatectl resume"]);
    assert_eq!(status["target"]["version"], "2.0.0", "{status:#}");
    assert!(is_moment(&status["pause"]["until"]), "{status:#}");
    assert_eq!(exit_code(&scene), 20, "{status:#}");
}

#[test]
fn proven_and_waiting_for_the_lock() {
    let (_data, locksmith, mut scene) = locked("lock");
    locksmith.ctl(&["lock", "neighbour-17"]);
    start(&mut scene);
    run(&scene, &["update"]);
    let status = status(&scene.host, "proven, waiting for the lock");
    assert_eq!(status["state"], "proven", "{status:#}");
    says(&status["summary"], &["2.0.0", "waits", "lock", "neighbour-17", "asked again in"]);
    let gate = &status["reboot"]["waiting_for"][0];
    assert_eq!(gate["gate"], "lock", "{status:#}");
    assert!(is_moment(&gate["since"]) && is_moment(&gate["retry_at"]), "{status:#}");
    assert_eq!(exit_code(&scene), 20, "{status:#}");
}

#[test]
fn proven_and_waiting_for_a_lock_service_that_is_down() {
    let (_data, mut locksmith, mut scene) = locked("lock");
    locksmith.stop();
    start(&mut scene);
    run(&scene, &["update"]);
    let status = status(&scene.host, "proven, the lock service is down");
    says(&status["summary"], &["2.0.0", "waits", &locksmith.address, "asked again in"]);
    assert_eq!(exit_code(&scene), 20, "{status:#}");
}

#[test]
fn proven_and_waiting_for_a_person() {
    let (_data, _locksmith, mut scene) = locked("manual");
    start(&mut scene);
    run(&scene, &["update"]);
    let status = status(&scene.host, "proven, waiting for a person");
    says(&status["summary"], &["2.0.0", "waits", "`updatectl reboot`"]);
    assert_eq!(exit_code(&scene), 10, "{status:#}");
}

#[test]
fn proven_and_waiting_for_a_hook() {
    let mut scene = quiet(&Options::default(), next_release);
    scene.host.edit_config("retry_s = 1", "retry_s = 600");
    scene.host.hook("gate.d/10-backup", "echo the nightly backup runs; exit 75");
    start(&mut scene);
    run(&scene, &["update"]);
    let status = status(&scene.host, "proven, a hook says not now");
    says(&status["summary"], &["2.0.0", "waits", "the nightly backup runs", "asked again in"]);
    assert!(is_moment(&status["reboot"]["waiting_for"][0]["retry_at"]), "{status:#}");
    assert_eq!(exit_code(&scene), 20, "{status:#}");
}

#[test]
fn proven_and_paused() {
    let scene = quiet_and_started(next_release);
    run(&scene, &["update", "--no-reboot"]);
    run(&scene, &["pause"]);
    let status = status(&scene.host, "proven, paused");
    says(&status["summary"], &["Paused", "2.0.0", "updatectl resume"]);
    assert_eq!((&status["state"], exit_code(&scene)), (&"proven".into(), 20), "{status:#}");
}

#[test]
fn armed_and_resting() {
    let mut scene = quiet(&Options { strategy: "manual", ..Options::default() }, next_release);
    start(&mut scene);
    run(&scene, &["update"]);
    let status = status(&scene.host, "armed, resting");
    assert_eq!(status["state"], "armed", "{status:#}");
    says(&status["summary"], &["2.0.0", "next reboot", "`updatectl reboot`"]);
    assert_eq!(exit_code(&scene), 10, "{status:#}");
}

#[test]
fn rolled_back() {
    let mut scene = quiet(&Options::default(), next_release);
    scene.host.hook("health/required.d/10-database", "test \"$OTA_TO\" != 2.0.0 && exit 0; echo the database is down; exit 1");
    start(&mut scene);
    run(&scene, &["update"]);
    scene.host.wait_for("it rolled back", |status| status["attempts"]["rolled_back"] == 1 && status["state"] == "idle");
    let status = status(&scene.host, "rolled back");
    says(
        &status["summary"],
        &["Needs attention", "2.0.0 rolled back to 1.0.0", "the database is down", "`updatectl update 2.0.0`"],
    );
    assert_eq!(exit_code(&scene), 30, "{status:#}");
}

#[test]
fn failed_and_waiting_to_try_again() {
    let scene = quiet_and_started(next_release);
    scene.change_file("2.0.0.payload", |bytes| bytes.iter_mut().skip(5000).for_each(|byte| *byte ^= 0x55));
    assert_eq!(scene.host.updatectl(&["update"]).status.code(), Some(1));
    let status = status(&scene.host, "failed, trying again later");
    assert_eq!(status["state"], "failed", "{status:#}");
    says(&status["summary"], &["The update to 2.0.0 failed", "1.0.0 runs from slot a", "tried again in"]);
    assert!(is_moment(&status["check"]["next_at"]) && is_moment(&status["last_error"]["at"]), "{status:#}");
    assert_eq!((&status["attempts"]["failed"], exit_code(&scene)), (&1.into(), 30), "{status:#}");
}

#[test]
fn without_a_key() {
    let mut scene = quiet(&Options::default(), next_release);
    fs::remove_dir_all(scene.host.dir.join("sysroot/usr/share/update-engine/keys")).unwrap();
    start(&mut scene);
    let before = status(&scene.host, "no keyring");
    says(&before["summary"], &["Needs attention", "usr/share/update-engine/keys", "1.0.0 runs from slot a"]);
    assert_eq!(exit_code(&scene), 30, "{before:#}");
    scene.host.kill();
    fs::create_dir_all(scene.host.dir.join("sysroot/usr/share/update-engine/keys")).unwrap();
    scene.host.start();
    scene.host.wait_for("it is up", |status| status["state"] == "idle");
    let after = status(&scene.host, "an empty keyring");
    assert_eq!(exit_code(&scene), 30, "{after:#}");
    assert_eq!(after["troubles"][0]["code"], "no-key", "{after:#}");
}

#[test]
fn with_the_floor_lost() {
    let mut scene = Scene::started(next_release);
    scene.host.wait_committed("2.0.0");
    scene.host.kill();
    fs::remove_dir_all(scene.host.dir.join("state")).unwrap();
    scene.host.edit_config("check_interval_s = 1", "check_interval_s = 14400");
    start(&mut scene);
    let status = status(&scene.host, "floor lost");
    says(&status["summary"], &["Needs attention", "state folder", "`updatectl adopt RELEASE`", "2.0.0 runs from slot b"]);
    assert_eq!(exit_code(&scene), 30, "{status:#}");
}

#[test]
fn with_stale_news() {
    let scene = quiet_and_started(|publisher| {
        publisher
            .publish(&Spec { change: &|record| record.created = "2001-01-01T00:00:00Z".parse().unwrap(), ..small("2.0.0", 2) });
        offer(publisher, "2.0.0")
    });
    run(&scene, &["update"]);
    scene.host.wait_committed("2.0.0");
    let status = status(&scene.host, "stale");
    says(&status["summary"], &["Needs attention", "days old", "2.0.0 runs from slot b", "next check"]);
    assert_eq!(exit_code(&scene), 30, "{status:#}");
}

#[test]
fn with_a_journal_that_was_set_aside() {
    let mut scene = quiet(&Options::default(), nothing_new);
    fs::write(scene.host.dir.join("state/journal.db"), vec![0xA5; 10_000]).unwrap();
    scene.start();
    scene.host.wait_for("it is up", |status| status["state"] == "idle");
    let status = status(&scene.host, "journal set aside");
    says(&status["summary"], &["Needs attention", "journal", "set aside", "1.0.0 runs from slot a"]);
    assert_eq!(exit_code(&scene), 30, "{status:#}");
}

#[test]
fn with_a_damaged_copy_of_the_partition_table_until_an_update_mends_it() {
    let mut scene = quiet(&Options::default(), next_release);
    let disk = File::options().write(true).open(scene.host.disk()).unwrap();
    disk.write_all_at(&[0; 512], disk.metadata().unwrap().len() - 512).unwrap();
    start(&mut scene);
    let damaged = status(&scene.host, "the backup partition table is damaged");
    let words =
        ["Needs attention: the backup partition table is not valid", "EFI PART", "the next update mends it", "1.0.0 runs"];
    says(&damaged["summary"], &words);
    says(&damaged["summary"], &["; next check in "]);
    assert_eq!((&damaged["troubles"][0]["code"], exit_code(&scene)), (&"boot-weakness".into(), 30), "{damaged:#}");
    run(&scene, &["update"]);
    scene.host.wait_committed("2.0.0");
    let mended = status(&scene.host, "an update has mended the partition table");
    assert_eq!((&mended["troubles"], exit_code(&scene)), (&serde_json::json!([]), 0), "{mended:#}");
}

#[test]
fn with_a_slot_that_is_not_there() {
    let mut scene = quiet(&Options::default(), nothing_new);
    scene.host.edit_config("partlabel:root-b", "partlabel:root-c");
    start(&mut scene);
    let status = status(&scene.host, "a slot is missing");
    says(&status["summary"], &["Needs attention", "root-c"]);
    assert_eq!(exit_code(&scene), 30, "{status:#}");
}

#[test]
fn on_the_way_every_state_has_its_sentence() {
    let options = Options { slot_bytes: 9 * IMAGE_BYTES, ..Options::default() };
    let (_data, locksmith) = {
        let dir = tempfile::tempdir().unwrap();
        let locksmith = Locksmith::start(dir.path(), "127.0.0.1:0");
        (dir, locksmith)
    };
    let options = Options { strategy: "lock", extra: locksmith.table(), ..options };
    let mut scene = quiet(&options, |publisher| {
        publisher.publish(&Spec { size: 8 * IMAGE_BYTES, ..Spec::new("2.0.0", 2) });
        offer(publisher, "2.0.0")
            .fault(Fault::on("*.payload", FaultKind::SlowDrip { bytes_per_s: 4_000_000 }).after_bytes(100_000))
    });
    for (hook, mark) in [("drain.d/10-wait", "drained"), ("health/required.d/10-wait", "healthy")] {
        let mark = scene.dir().join(mark);
        scene.host.hook(hook, &format!("while ! test -e {}; do sleep 0.1; done", mark.display()));
    }
    start(&mut scene);
    run(&scene, &["update", "--no-wait"]);
    scene.host.wait_for("it is being fetched", |status| {
        status["state"] == "fetching" && status["progress"]["bytes_downloaded"].as_u64() > Some(0)
    });
    let fetching = status(&scene.host, "fetching");
    assert_eq!(exit_code(&scene), 10, "{fetching:#}");
    scene.host.wait_for("it drains", |status| status["state"] == "locked");
    let locked = status(&scene.host, "locked");
    assert_eq!((&locked["reboot"]["lock"]["held"], exit_code(&scene)), (&true.into(), 10), "{locked:#}");
    fs::write(scene.dir().join("drained"), "").unwrap();
    scene.host.wait_for("it is on trial", |status| status["state"] == "trial");
    let trial = status(&scene.host, "trial");
    says(&trial["summary"], &["2.0.0 runs from slot b", "1.0.0"]);
    assert_eq!((&trial["booted"]["confirmed"], exit_code(&scene)), (&false.into(), 10), "{trial:#}");
    fs::write(scene.dir().join("healthy"), "").unwrap();
    scene.host.wait_committed("2.0.0");
    let committed = status(&scene.host, "committed, idle again");
    assert_eq!(exit_code(&scene), 0, "{committed:#}");
}
