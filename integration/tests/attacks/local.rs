//! The host itself is wrong: its disk, its folders, its configuration, its journal, a second daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use integration::hostsim::gpt::Gpt;
use integration::hostsim::image::{DiskSpec, PartitionSpec, make_disk, write_slot};
use serde_json::Value;
use server_mock::{Answer, Script};

use crate::scene::{IMAGE_BYTES, Options, Scene, next_release, says, words_in};

/// A daemon that refuses to run says why on standard error and ends with 1.
#[track_caller]
fn assert_refuses_to_run(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    words_in(&said, words);
    assert!(!said.contains("panicked"), "{said}");
}

/// The world is not as it must be: said at once, and what is offered is not installed.
fn assert_blind(scene: &mut Scene, code: &str, words: &[&str]) {
    scene.start();
    let status = scene.host.wait_for(&format!("the trouble is said ({code})"), |status| {
        status["check"]["last_at"] != Value::Null
            && status["troubles"].as_array().is_some_and(|troubles| troubles.iter().any(|trouble| trouble["code"] == code))
    });
    says(&status["summary"], &["Needs attention"]);
    says(&status["summary"], words);
    assert_eq!(scene.host.updatectl(&["status", "--exit-code"]).status.code(), Some(30), "{status:#}");
    let asked = scene.host.updatectl(&["update", "2.0.0"]);
    assert!(!asked.status.success(), "{asked:?}");
    scene.assert_disk_untouched();
}

#[test]
fn a_slot_that_is_not_on_the_disk_is_named() {
    let mut scene = Scene::new(&Options::default(), next_release);
    scene.host.edit_config("partlabel:root-b", "partlabel:root-c");
    assert_blind(&mut scene, "slots", &["root-c", "disk.img"]);
    scene.host.kill();
    scene.host.edit_config("partlabel:root-c", "partlabel:root-b");
    scene.start();
    scene.host.wait_committed("2.0.0");
}

/// Slot b of a disk image, mounted through a loop device by somebody else.
struct MountedSlot {
    device: String,
    at: PathBuf,
}

impl MountedSlot {
    /// None where this is not allowed.
    fn mount(scene: &Scene) -> Option<Self> {
        let entry = Gpt::open(&scene.host.disk()).unwrap().entry("root-b").unwrap();
        let [offset, length] =
            [("--offset", entry.start), ("--sizelimit", entry.length)].map(|(key, value)| format!("{key}={value}"));
        let disk = scene.host.disk();
        let device = run("losetup", &["--find", "--show", &offset, &length, disk.to_str().unwrap()])?.trim().to_owned();
        let slot = Self { device, at: scene.dir().join("mounted") };
        fs::create_dir(&slot.at).unwrap();
        run("mke2fs", &["-q", "-F", &slot.device])?;
        run("mount", &["-o", "ro", &slot.device, slot.at.to_str().unwrap()])?;
        Some(slot)
    }
}

impl Drop for MountedSlot {
    fn drop(&mut self) {
        let _not_mounted = run("umount", &[self.at.to_str().unwrap()]);
        let _not_there = run("losetup", &["-d", &self.device]);
    }
}

/// What it says, if it succeeds.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_slot_that_is_mounted_is_not_written() {
    let mut scene = Scene::new(&Options::default(), next_release);
    let Some(mounted) = MountedSlot::mount(&scene) else {
        println!("skipped: loop devices can be set up and mounted by root only, and not in every container");
        return;
    };
    scene.start();
    let status = scene.host.wait_for("the attempt failed", |status| status["attempts"]["failed"] == 1);
    let at = mounted.at.display().to_string();
    let words = ["refused to open slot b", mounted.device.trim_start_matches("/dev/loop"), "it is mounted at", &at];
    assert_eq!(status["last_error"]["code"], "slots", "{status:#}");
    says(&status["last_error"]["message"], &words);
    says(&status["summary"], &words);
    scene.assert_disk_untouched();
    drop(mounted);
    let updated = scene.host.updatectl(&["update", "2.0.0"]);
    assert!(updated.status.success(), "{updated:?}");
    scene.host.wait_committed("2.0.0");
}

#[test]
fn two_slots_in_one_place_are_refused() {
    assert_bad_config("partlabel:root-b", "partlabel:root-a", &["slots.b.root", "place of its own", "slots.a.root"]);
}

#[test]
fn a_label_that_two_partitions_have_is_nobodys() {
    let mut scene = Scene::new(&Options::default(), next_release);
    let image = scene.dir().join("image");
    fs::write(&image, scene.host.slot_bytes("root-a")).unwrap();
    let partitions = ["root-a", "root-b", "root-b"].map(|label| PartitionSpec::new(label, 2 * IMAGE_BYTES));
    fs::remove_file(scene.host.disk()).unwrap();
    let spec = DiskSpec { sector: 512, guid: None, partitions: partitions.into(), first_sector: None };
    make_disk(&scene.host.disk(), &spec).unwrap();
    write_slot(&scene.host.disk(), "root-a", &image).unwrap();
    let guid = Gpt::open(&scene.host.disk()).unwrap().entry("root-a").unwrap().guid;
    fs::write(scene.host.dir.join("sysroot/proc/cmdline"), format!("root=PARTUUID={guid}\n")).unwrap();
    let before = fs::read(scene.host.disk()).unwrap();
    scene.host.start();
    let status = scene.host.wait_for("the label is refused", |status| status["check"]["last_at"] != Value::Null);
    says(&status["summary"], &["Needs attention", "slot b", "partitions 2 and 3", "root-b", "expected one"]);
    assert!(fs::read(scene.host.disk()).unwrap() == before, "the disk was written");
}

#[test]
fn a_command_line_that_names_no_slot_stops_everything_but_the_words() {
    let mut scene = Scene::new(&Options::default(), next_release);
    fs::write(scene.host.dir.join("sysroot/proc/cmdline"), "quiet root=PARTUUID=00000000-1111-4222-8333-444444444444\n").unwrap();
    assert_blind(&mut scene, "running-slot-unknown", &["00000000-1111-4222-8333-444444444444"]);
}

#[test]
fn a_disk_that_is_not_there_is_named() {
    let mut scene = Scene::new(&Options::default(), next_release);
    scene.host.edit_config("device = \"", "device = \"/no/such/folder");
    assert_blind(&mut scene, "slots", &["/no/such/folder", "No such file"]);
}

#[test]
fn a_host_without_an_identity_says_so() {
    let mut scene = Scene::new(&Options::default(), next_release);
    fs::write(scene.host.dir.join("sysroot/etc/machine-id"), "\n").unwrap();
    assert_blind(&mut scene, "no-identity", &["etc/machine-id", "expected the machine id"]);
}

/// A file system of its own over the state folder, so that it can be full.
struct SmallFolder(PathBuf);

impl SmallFolder {
    fn mount(path: &Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs"]).arg(path).output().ok()?;
        mounted.status.success().then(|| Self(path.to_owned()))
    }
}

impl Drop for SmallFolder {
    fn drop(&mut self) {
        // As soon as nobody has a file open in it.
        let _unmounted = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn with_a_full_state_folder_nothing_is_done_until_there_is_room() {
    let mut scene = Scene::new(&Options::default(), |publisher| {
        next_release(publisher);
        Script::serving(&publisher.files).answer(Answer::no_update())
    });
    let state = scene.host.dir.join("state");
    let Some(_mounted) = SmallFolder::mount(&state) else {
        println!("skipped: a small file system can be mounted by root only, and not in every container");
        return;
    };
    scene.start();
    scene.host.wait_for("it is up", |status| status["check"]["last_at"] != Value::Null);
    let filler = state.join("filler");
    let mut bytes = 1 << 20;
    while bytes > 0 {
        let more = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&filler)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &vec![1; bytes]));
        bytes = if more.is_err() { bytes / 2 } else { bytes };
    }
    scene.offer("2.0.0");
    let status = scene.host.wait_for("the full folder is said", |status| {
        status["summary"].as_str().is_some_and(|summary| summary.contains("full") || summary.contains("No space"))
    });
    says(&status["summary"], &["Needs attention", "/state"]);
    words_in(&scene.host.log(), &["ERROR", "/state"]);
    scene.assert_disk_untouched();
    fs::remove_file(filler).unwrap();
    scene.host.wait_committed("2.0.0");
    scene.host.kill();
}

#[test]
fn a_second_daemon_on_one_state_folder_ends_and_the_first_goes_on() {
    let scene = Scene::started(|publisher| {
        next_release(publisher);
        Script::serving(&publisher.files).answer(Answer::no_update())
    });
    scene.host.wait_for("the first is up", |status| status["state"] == "idle");
    assert_refuses_to_run(&scene.host.start_in_vain(), &["another update-engined", "state/lock"]);
    scene.assert_disk_untouched();
    scene.offer("2.0.0");
    scene.host.wait_committed("2.0.0");
}

#[test]
fn a_control_socket_that_is_in_use_is_named() {
    let first = Scene::started(|publisher| Script::serving(&publisher.files).answer(Answer::no_update()));
    first.host.wait_for("the first is up", |status| status["state"] == "idle");
    let second = Scene::new(&Options::default(), next_release);
    let path = |scene: &Scene| scene.host.dir.join("control.sock").display().to_string();
    second.host.edit_config(&path(&second), &path(&first));
    assert_refuses_to_run(&second.host.start_in_vain(), &["control socket", &path(&first), "in use"]);
    second.assert_disk_untouched();
    assert!(first.host.get("/v1/status").is_some(), "the first goes on");
}

#[test]
fn an_unreadable_journal_is_set_aside_and_said() {
    let mut scene = Scene::new(&Options::default(), |publisher| {
        next_release(publisher);
        Script::serving(&publisher.files).answer(Answer::no_update())
    });
    let state = scene.host.dir.join("state");
    fs::write(state.join("journal.db"), vec![0xA5; 100_000]).unwrap();
    scene.start();
    let status = scene.host.wait_for("it is up", |status| status["check"]["last_at"] != Value::Null);
    says(&status["summary"], &["Needs attention", "journal was unreadable", "set aside", "journal.db.unreadable-"]);
    scene.assert_disk_untouched();
    scene.offer("2.0.0");
    scene.host.wait_committed("2.0.0");
}

#[test]
fn a_journal_that_is_a_folder_is_named_and_nothing_is_done_until_it_is_gone() {
    let mut scene = Scene::new(&Options::default(), next_release);
    let folder = scene.host.dir.join("state/journal.db");
    fs::create_dir(&folder).unwrap();
    scene.start();
    let status = scene.host.wait_for("the state folder is in trouble", |status| {
        status["troubles"].as_array().is_some_and(|troubles| troubles.iter().any(|trouble| trouble["code"] == "state-dir"))
    });
    says(&status["summary"], &["Needs attention", "journal", "state/journal.db"]);
    assert_eq!(scene.host.updatectl(&["status", "--exit-code"]).status.code(), Some(30), "{status:#}");
    scene.assert_disk_untouched();
    fs::remove_dir(&folder).unwrap();
    scene.host.wait_committed("2.0.0");
}

#[test]
fn design_11_1_a_newer_journal_is_set_aside_and_the_host_goes_on_from_the_boot_table() {
    let mut scene = Scene::started(next_release);
    scene.host.wait_committed("2.0.0");
    scene.host.kill();
    let bits = scene.host.boot_bits();
    {
        let journal = rusqlite::Connection::open(scene.host.dir.join("state/journal.db")).unwrap();
        journal
            .execute_batch("UPDATE meta SET value = 99; DROP TABLE model; CREATE TABLE model (never TEXT, seen TEXT)")
            .unwrap();
    }
    scene.host.start();
    let status = scene.host.wait_for("it is up", |status| status["check"]["last_at"] != Value::Null);
    says(&status["summary"], &["Needs attention", "newer daemon", "schema 99", "journal.db.newer-", "1 attempts"]);
    assert_eq!(status["booted"]["version"], "2.0.0", "{status:#}");
    assert_eq!(status["attempts"]["committed"], 1, "what never changes form was carried over: {status:#}");
    assert_eq!(scene.host.boot_bits(), bits);
    scene.publisher.publish(&crate::scene::small("3.0.0", 3));
    scene.offer("3.0.0");
    scene.host.wait_committed("3.0.0");
}

/// The configuration is wrong: the daemon and `updatectl config --check` say where and what was expected.
fn assert_bad_config(from: &str, to: &str, words: &[&str]) {
    let scene = Scene::new(&Options::default(), next_release);
    scene.host.edit_config(from, to);
    let config = fs::read_to_string(scene.host.dir.join("config.toml")).unwrap();
    let line = config.lines().collect::<Vec<_>>().iter().rposition(|line| line.contains(to)).unwrap() + 1;
    let place = format!("config.toml:{line}:");
    let words: Vec<&str> = words.iter().copied().chain([place.as_str(), "expected"]).collect();
    assert_refuses_to_run(&scene.host.start_in_vain(), &words);
    let checked = scene.host.updatectl(&["config", "--check"]);
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    words_in(&String::from_utf8_lossy(&checked.stderr), &words);
    scene.assert_disk_untouched();
}

#[test]
fn an_unknown_key_of_the_configuration_is_named_with_its_line() {
    assert_bad_config("check_interval_s = 1", "check_intervall_s = 1", &["server.check_intervall_s", "check_interval_s"]);
}

#[test]
fn an_unknown_table_of_the_configuration_is_named_with_its_line() {
    assert_bad_config("[health]", "[wealth]", &["wealth", "health"]);
}

#[test]
fn a_key_of_the_wrong_type_is_named_with_its_line() {
    assert_bad_config("check_interval_s = 1", "check_interval_s = \"often\"", &["server.check_interval_s", "often"]);
}

#[test]
fn a_word_that_no_key_takes_is_named_with_its_line() {
    assert_bad_config(
        "strategy = \"immediate\"",
        "strategy = \"whenever\"",
        &["reboot.strategy", "whenever", "immediate", "lock", "manual"],
    );
}

#[test]
fn a_threshold_of_zero_is_refused() {
    assert_bad_config("threshold = 1", "threshold = 0", &["trust.threshold", "0"]);
}

#[test]
fn a_configuration_that_is_no_toml_is_refused_with_its_line() {
    assert_bad_config("[health]", "[health", &[]);
}

/// What is the daemon's to believe may be written by others: it does not run, and names it.
fn assert_distrusts(what: &str, mode: u32) {
    let scene = Scene::new(&Options::default(), next_release);
    scene.host.hook("gate.d/10-ask", "exit 0");
    let path = scene.host.dir.join(what);
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    assert_refuses_to_run(
        &scene.host.start_in_vain(),
        &["refusing to run", path.to_str().unwrap(), &format!("{mode:04o}"), "nobody but its owner"],
    );
    scene.assert_disk_untouched();
}

#[test]
fn design_11_16_a_state_folder_that_others_may_write_is_refused_by_name() {
    assert_distrusts("state", 0o777);
}

#[test]
fn design_11_16_a_configuration_that_others_may_write_is_refused_by_name() {
    assert_distrusts("config.toml", 0o666);
}

#[test]
fn design_11_16_a_hook_that_others_may_write_is_refused_by_name() {
    assert_distrusts("hooks/gate.d/10-ask", 0o777);
}

#[test]
fn design_11_16_a_keyring_that_others_may_write_is_refused_by_name() {
    assert_distrusts("sysroot/usr/share/update-engine/keys", 0o777);
}

#[test]
fn design_11_16_a_key_that_others_may_write_is_refused_by_name() {
    assert_distrusts("sysroot/usr/share/update-engine/keys/0.pub", 0o666);
}
