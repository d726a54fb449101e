//! Every verb that acts, once: exit code, what it says, what comes of it.

use std::process::Command;

use integration::rig::{Spec, program};
use serde_json::Value;
use server_mock::{Fault, FaultKind};

use crate::contract::status;
use crate::scene::{IMAGE_BYTES, Options, Scene, next_release, offer, says, small, words_in};
use crate::stage::{exit_code, fails, nothing_new, quiet, quiet_and_started, run, start, started_without_a_server};

/// A document of a verb that shows something.
#[track_caller]
fn json(scene: &Scene, verb: &str) -> Value {
    let text = run(scene, &[verb, "--json"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{verb} --json: {error}: {text}"))
}

fn file(scene: &Scene, name: &str) -> String {
    scene.publisher.files.join(name).display().to_string()
}

#[test]
fn update_installs_and_is_followed_through_the_reboot() {
    let scene = quiet_and_started(next_release);
    run(&scene, &["update"]);
    scene.host.wait_committed("2.0.0");
    assert_eq!(exit_code(&scene), 0);
    words_in(&run(&scene, &["update"]), &["Up to date", "2.0.0 runs from slot b"]);
    let history = json(&scene, "history");
    assert_eq!((&history[0]["to"], &history[0]["outcome"]), (&"2.0.0".into(), &"committed".into()), "{history:#}");
    words_in(&run(&scene, &["history"]), &["1.0.0", "2.0.0", "committed"]);
}

#[test]
fn update_with_no_reboot_stops_at_proven_and_reboot_goes_on() {
    let scene = quiet_and_started(next_release);
    words_in(&fails(&scene, 1, &["reboot"]), &["no update is ready", "updatectl update"]);
    words_in(&run(&scene, &["update", "--no-reboot"]), &["2.0.0 is written and proven", "`updatectl reboot`"]);
    let status = status(&scene.host, "proven by --no-reboot");
    assert_eq!((&status["state"], exit_code(&scene)), (&"proven".into(), 10), "{status:#}");
    scene.assert_nothing_armed();
    run(&scene, &["reboot"]);
    scene.host.wait_committed("2.0.0");
}

#[test]
fn update_to_a_version_that_is_not_offered_fails() {
    let scene = quiet_and_started(next_release);
    words_in(&fails(&scene, 1, &["update", "9.9.9"]), &["9.9.9", "the server offers 2.0.0"]);
    scene.mock.set_script(nothing_new(&scene.publisher)).unwrap();
    words_in(&fails(&scene, 1, &["update", "2.0.0"]), &["2.0.0 is not being installed", "no update"]);
    scene.assert_disk_untouched();
    run(&scene, &["update", "1.0.0"]);
}

#[test]
fn check_tells_and_starts_nothing() {
    let scene = quiet_and_started(next_release);
    words_in(&run(&scene, &["check"]), &["2.0.0", "`updatectl update`"]);
    assert_eq!(scene.host.status()["state"], "idle");
    scene.assert_disk_untouched();
}

#[test]
fn why_names_every_gate() {
    let scene = quiet_and_started(next_release);
    run(&scene, &["update", "--no-reboot"]);
    let chain = json(&scene, "why");
    let gates: Vec<&str> = chain.as_array().unwrap().iter().map(|entry| entry["gate"].as_str().unwrap()).collect();
    assert_eq!(gates, ["host", "server", "release", "write", "proof", "pause", "hooks", "lock", "reboot", "health"]);
    for entry in chain.as_array().unwrap() {
        assert!(["passed", "waiting", "refused", "pending", "skipped"].contains(&entry["state"].as_str().unwrap()), "{entry:#}");
        assert!(!entry["detail"].as_str().unwrap().is_empty(), "{entry:#}");
    }
    let said = run(&scene, &["why"]);
    println!("why: {said}");
    words_in(&said, &["2.0.0 is written and proven", "passed", "refused", "updatectl reboot"]);
}

#[test]
fn slots_says_what_is_where() {
    let scene = quiet_and_started(next_release);
    run(&scene, &["update", "--no-reboot"]);
    let slots = json(&scene, "slots");
    assert_eq!(slots, scene.host.status()["slots"]);
    assert_eq!((&slots[0]["version"], &slots[0]["booted"]), (&"1.0.0".into(), &true.into()), "{slots:#}");
    assert_eq!((&slots[1]["version"], &slots[1]["proven"]), (&"2.0.0".into(), &true.into()), "{slots:#}");
    words_in(&run(&scene, &["slots"]), &["SLOT", "1.0.0", "2.0.0"]);
}

#[test]
fn confirm_ends_a_trial_and_is_idle_on_a_good_slot() {
    let mut scene = quiet(&Options::default(), next_release);
    scene.host.hook("health/required.d/10-wait", "sleep 60");
    start(&mut scene);
    words_in(&run(&scene, &["confirm"]), &["1.0.0 runs from slot a"]);
    run(&scene, &["update", "--no-wait"]);
    scene.host.wait_for("it is on trial", |status| status["state"] == "trial");
    words_in(&fails(&scene, 1, &["cancel"]), &["booted the new slot", "updatectl confirm"]);
    words_in(&fails(&scene, 1, &["rollback"]), &["on trial", "updatectl confirm"]);
    words_in(&fails(&scene, 1, &["update"]), &["trial"]);
    run(&scene, &["confirm"]);
    scene.host.wait_committed("2.0.0");
    assert_eq!(scene.host.boot_bits()[1], (2, 0, true));
}

#[test]
fn a_pause_holds_updates_back_until_it_is_ended() {
    let scene = quiet_and_started(next_release);
    words_in(&run(&scene, &["resume"]), &["not paused"]);
    words_in(&run(&scene, &["pause", "--reason", "release night"]), &["paused until `updatectl resume`"]);
    assert_eq!(exit_code(&scene), 20);
    words_in(&fails(&scene, 1, &["update"]), &["paused", "updatectl resume"]);
    words_in(&fails(&scene, 1, &["install", &file(&scene, "2.0.0.release"), &file(&scene, "2.0.0.payload")]), &["paused"]);
    run(&scene, &["check"]);
    scene.assert_disk_untouched();
    words_in(&run(&scene, &["resume"]), &["resumed"]);
    run(&scene, &["update"]);
    scene.host.wait_committed("2.0.0");
}

#[test]
fn a_pause_with_an_end_ends_by_itself() {
    let mut scene = Scene::new(&Options::default(), nothing_new);
    scene.publisher.publish(&small("2.0.0", 2));
    scene.start();
    scene.host.wait_for("it is up", |status| status["check"]["last_at"] != Value::Null);
    words_in(&fails(&scene, 2, &["pause", "--until", "2001-01-01"]), &["--until", "lies ahead"]);
    words_in(&fails(&scene, 2, &["pause", "--until", "soon"]), &["--until", "expected", "06:00"]);
    words_in(&run(&scene, &["pause", "--until", "8s"]), &["paused until"]);
    scene.offer("2.0.0");
    let status = scene.host.wait_for("the update waits", |status| status["state"] == "deferred");
    says(&status["summary"], &["Paused", "2.0.0"]);
    scene.host.wait_committed("2.0.0");
}

#[test]
fn cancel_ends_a_download_in_the_middle() {
    let mut scene = quiet(&Options { slot_bytes: 9 * IMAGE_BYTES, ..Options::default() }, |publisher| {
        publisher.publish(&Spec { size: 8 * IMAGE_BYTES, ..Spec::new("2.0.0", 2) });
        offer(publisher, "2.0.0").fault(Fault::on("*.payload", FaultKind::SlowDrip { bytes_per_s: 200_000 }).after_bytes(500_000))
    });
    start(&mut scene);
    words_in(&fails(&scene, 1, &["cancel"]), &["nothing is under way"]);
    run(&scene, &["update", "--no-wait"]);
    scene.host.wait_for("it is being fetched", |status| status["progress"]["bytes_downloaded"].as_u64() > Some(0));
    words_in(
        &fails(&scene, 1, &["install", &file(&scene, "1.0.0.release"), &file(&scene, "1.0.0.payload")]),
        &["under way", "updatectl cancel"],
    );
    words_in(&run(&scene, &["verify", "--no-wait"]), &["reading the slots back"]);
    words_in(&run(&scene, &["cancel"]), &["cancelled", "updatectl pause"]);
    let status = scene.host.wait_for("nothing is under way", |status| status["state"] == "idle");
    assert_eq!((&status["target"], &status["progress"]), (&Value::Null, &Value::Null), "{status:#}");
    let attempt = scene.attempt("it is in the history", |attempt| attempt["outcome"] == "abandoned");
    assert_eq!((&attempt["code"], &attempt["to"]), (&"cancelled".into(), &"2.0.0".into()), "{attempt:#}");
    crate::contract::status(&scene.host, "idle, cancelled");
    scene.assert_nothing_armed();
}

#[test]
fn install_takes_files_by_relative_paths_and_needs_no_server() {
    let scene = started_without_a_server(next_release);
    for verb in ["check", "update"] {
        words_in(&fails(&scene, 1, &[verb]), &["no update server is configured", "updatectl install RELEASE PAYLOAD"]);
    }
    let mut install = Command::new(program("updatectl"));
    install.arg("--config").arg(scene.host.dir.join("config.toml")).args(["install", "./2.0.0.release", "2.0.0.payload"]);
    let output = install.current_dir(&scene.publisher.files).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    scene.host.wait_committed("2.0.0");
    assert!(scene.mock.recorded().is_empty(), "no server was asked");
}

#[test]
fn install_takes_a_delta_alone_and_says_what_is_missing_where_it_cannot_be_used() {
    let scene = started_without_a_server(|publisher| {
        publisher.publish(&small("1.0.0", 1));
        publisher.publish(&small("2.0.0", 2));
        publisher.publish(&small("3.0.0", 3));
        let _here_and_there = ["1.0.0", "2.0.0"].map(|from| publisher.publish_delta(from, "3.0.0"));
        nothing_new(publisher)
    });
    let file = |name: &str| file(&scene, name);
    let install = |delta: &str| vec!["install".to_owned(), file("3.0.0.release"), "--delta".to_owned(), file(delta)];
    let arguments = install("2.0.0-to-3.0.0.payload");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    words_in(&fails(&scene, 1, &arguments), &["the delta cannot be used, and no full payload is offered"]);
    scene.assert_nothing_armed();
    // Whoever takes a delta for the payload is told what it is.
    let payload = file("1.0.0-to-3.0.0.payload");
    words_in(&fails(&scene, 1, &["install", &file("3.0.0.release"), &payload]), &["another payload than the record names"]);
    let arguments = install("1.0.0-to-3.0.0.payload");
    run(&scene, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    scene.host.wait_committed("3.0.0");
}

#[test]
fn limit_is_shown_and_obeyed_by_what_is_under_way() {
    let scene = quiet_and_started(next_release);
    assert_eq!(run(&scene, &["limit"]), "Downloads are as fast as they go, as the configuration says.\n");
    words_in(&fails(&scene, 1, &["limit", "fast"]), &["expected a rate such as", "got \"fast\""]);
    words_in(&run(&scene, &["limit", "4", "KiB/s"]), &["At most 4 KiB/s", "by `updatectl limit` until the daemon starts anew"]);
    run(&scene, &["update", "--no-wait"]);
    // A minute and more at this rate.
    let status = scene.host.wait_for("it is being fetched", |status| status["progress"]["bytes_downloaded"].as_u64() > Some(0));
    assert_eq!(status["limit"], serde_json::json!({ "max_rate_bytes_per_s": 4096, "by": "command", "until": null }));
    words_in(&run(&scene, &["status"]), &["limit     At most 4 KiB/s are downloaded"]);
    words_in(&run(&scene, &["limit", "none"]), &["as fast as they go"]);
    scene.host.wait_committed("2.0.0");
}

#[test]
fn install_takes_urls() {
    let scene = quiet_and_started(|publisher| {
        publisher.publish(&small("2.0.0", 2));
        nothing_new(publisher)
    });
    let url = |name: &str| format!("{}files/{name}", scene.mock.url().trim_end_matches('/').to_owned() + "/");
    run(&scene, &["install", &url("2.0.0.release"), &url("2.0.0.payload")]);
    scene.host.wait_committed("2.0.0");
}

#[test]
fn install_checks_files_as_it_checks_servers() {
    let scene = quiet_and_started(|publisher| {
        publisher.publish(&Spec { signers: &[], ..small("2.0.0", 2) });
        publisher.publish(&Spec { change: &|record| record.board = "toaster".into(), ..small("3.0.0", 3) });
        publisher.publish(&small("4.0.0", 4));
        nothing_new(publisher)
    });
    let install = |version: &str, words: &[&str]| {
        let files = [file(&scene, &format!("{version}.release")), file(&scene, &format!("{version}.payload"))];
        words_in(&fails(&scene, 1, &["install", &files[0], &files[1]]), words);
    };
    install("2.0.0", &["record-unsigned"]);
    install("3.0.0", &["wrong-board", "toaster"]);
    install("5.0.0", &["cannot read", "5.0.0.release", "No such file"]);
    scene.assert_disk_untouched();
    scene.change_file("4.0.0.payload", |bytes| bytes.iter_mut().skip(5000).for_each(|byte| *byte ^= 0x55));
    install("4.0.0", &["payload"]);
    scene.assert_nothing_armed();
}

#[test]
fn install_of_an_older_release_fails_unless_it_is_permitted() {
    let scene = quiet_and_started(|publisher| {
        publisher.publish(&small("2.0.0", 2));
        publisher.publish(&small("3.0.0", 3));
        offer(publisher, "3.0.0")
    });
    run(&scene, &["update"]);
    scene.host.wait_committed("3.0.0");
    let files = [file(&scene, "2.0.0.release"), file(&scene, "2.0.0.payload")];
    words_in(&fails(&scene, 1, &["install", &files[0], &files[1]]), &["2.0.0", "older than sequence 3", "--allow-older"]);
    assert_eq!(scene.host.status()["booted"]["version"], "3.0.0");
    run(&scene, &["install", &files[0], &files[1], "--allow-older"]);
    scene.host.wait_committed("2.0.0");
}

#[test]
fn adopt_names_the_record_of_the_slot_that_holds_it_and_of_no_other() {
    let scene = quiet_and_started(|publisher| {
        publisher.publish(&small("2.0.0", 2));
        publisher.publish(&Spec { size: 3 * IMAGE_BYTES, ..small("3.0.0", 3) });
        publisher.publish(&Spec { signers: &[], ..small("4.0.0", 4) });
        nothing_new(publisher)
    });
    words_in(
        &fails(&scene, 1, &["adopt", &file(&scene, "2.0.0.release")]),
        &["no slot holds 2.0.0", "slot a differs", "windows"],
    );
    words_in(&fails(&scene, 1, &["adopt", &file(&scene, "3.0.0.release")]), &["no slot holds 3.0.0", "slot a cannot hold it"]);
    words_in(&fails(&scene, 1, &["adopt", &file(&scene, "4.0.0.release")]), &["record", "4.0.0.release"]);
    words_in(&fails(&scene, 1, &["adopt", "/no/such.release"]), &["/no/such.release", "No such file"]);
    assert_eq!(scene.host.status()["slots"][0]["proven"], false);
    words_in(&run(&scene, &["adopt", &file(&scene, "1.0.0.release")]), &["slot a holds 1.0.0 (sequence 1)"]);
    assert_eq!(scene.host.status()["slots"][0]["proven"], true);
    scene.assert_disk_untouched();
}

#[test]
fn channel_is_shown_and_followed_from_the_next_check_on() {
    let mut scene = quiet_and_started(nothing_new);
    assert_eq!(run(&scene, &["channel"]), "stable\n");
    words_in(&run(&scene, &["channel", "beta"]), &["beta", "next check"]);
    words_in(&fails(&scene, 1, &["channel", "be ta"]), &["channel", "be ta", "expected"]);
    run(&scene, &["check"]);
    let asked = scene.mock.recorded().into_iter().rfind(|request| request.body.contains("<updatecheck")).unwrap();
    words_in(&asked.body, &["track=\"beta\""]);
    scene.host.kill();
    scene.host.start();
    scene.host.wait_for("it is up again", |status| status["state"] == "idle");
    assert_eq!(run(&scene, &["channel"]), "beta\n");
    assert_eq!(scene.host.status()["host"]["channel"], "beta");
}

#[test]
fn config_is_the_daemons_and_config_check_is_the_files() {
    let scene = quiet_and_started(nothing_new);
    let shown = run(&scene, &["config"]);
    words_in(&shown, &["check_interval_s = 14400", "strategy = \"immediate\""]);
    scene.host.edit_config("check_interval_s = 14400", "check_interval_s = 7200");
    words_in(&run(&scene, &["config", "--check"]), &["# from ", "config.toml", "check_interval_s = 7200"]);
    assert_eq!(run(&scene, &["config"]), shown, "the daemon still runs with what it read");
    scene.host.edit_config("check_interval_s = 7200", "check_intervall_s = 7200");
    words_in(&fails(&scene, 1, &["config", "--check"]), &["config.toml", "check_intervall_s", "expected"]);
    words_in(&run(&scene, &["status"]), &["1.0.0 runs from slot a"]);
}

#[test]
fn no_reader_is_no_error() {
    let scene = quiet_and_started(nothing_new);
    let command =
        format!("{} --config {}/config.toml status --json | true", program("updatectl").display(), scene.host.dir.display());
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &command]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
