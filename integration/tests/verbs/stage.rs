//! Hosts that do nothing by themselves, so that what a verb does is the verb's.

use std::fs;
use std::process::Output;

use integration::locksmith::Locksmith;
use integration::rig::Publisher;
use serde_json::Value;
use server_mock::{Answer, Script};

use crate::scene::{Options, Scene, next_release};

/// A host that asks nobody by itself for the length of a test.
pub(crate) fn quiet(options: &Options, script: impl FnOnce(&Publisher) -> Script) -> Scene {
    let scene = Scene::new(options, script);
    scene.host.edit_config("check_interval_s = 1", "check_interval_s = 14400");
    scene
}

/// The same, with nothing unusual about it, and its daemon runs.
pub(crate) fn quiet_and_started(script: impl FnOnce(&Publisher) -> Script) -> Scene {
    let mut scene = quiet(&Options::default(), script);
    start(&mut scene);
    scene
}

/// A host that is up, has the release's files at hand, and no update server in its configuration.
pub(crate) fn started_without_a_server(script: impl FnOnce(&Publisher) -> Script) -> Scene {
    let mut scene = quiet(&Options::default(), script);
    let config = fs::read_to_string(scene.host.dir.join("config.toml")).unwrap();
    let url = config.lines().find(|line| line.starts_with("url = ")).unwrap();
    scene.host.edit_config(url, "url = \"\"");
    scene.start();
    scene.host.wait_for("it is up", |status| status["state"] == "idle");
    scene
}

/// Starts the daemon, once more if the dice put its first check into the next moments (they do so once in ten times).
pub(crate) fn start(scene: &mut Scene) {
    for _ in 0..20 {
        scene.start();
        let status = scene.host.status();
        let next = status["check"]["next_at"].as_str().map(|at| at.parse::<jiff::Timestamp>().unwrap());
        if next.is_none_or(|at| at.as_second() - jiff::Timestamp::now().as_second() > 60) {
            return;
        }
        scene.host.kill();
        fs::remove_dir_all(scene.host.dir.join("state")).unwrap();
    }
    panic!("the first check is always within a minute of the start");
}

/// A server that has nothing.
pub(crate) fn nothing_new(publisher: &Publisher) -> Script {
    Script::serving(&publisher.files).answer(Answer::no_update())
}

/// A lock service, and a quiet host that needs it and is offered 2.0.0; its daemon does not run yet.
pub(crate) fn locked(strategy: &'static str) -> (tempfile::TempDir, Locksmith, Scene) {
    let dir = tempfile::tempdir().unwrap();
    let locksmith = Locksmith::start(dir.path(), "127.0.0.1:0");
    let scene = quiet(&Options { strategy, extra: locksmith.table(), ..Options::default() }, next_release);
    scene.host.edit_config("retry_s = 1", "retry_s = 600");
    (dir, locksmith, scene)
}

/// `updatectl status --exit-code`.
pub(crate) fn exit_code(scene: &Scene) -> i32 {
    scene.host.updatectl(&["status", "--exit-code"]).status.code().unwrap()
}

pub(crate) fn is_moment(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok())
}

/// Runs `updatectl`, which has to succeed: what it printed.
#[track_caller]
pub(crate) fn run(scene: &Scene, arguments: &[&str]) -> String {
    let output = scene.host.updatectl(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", transcript(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `updatectl`, which has to fail with this exit code: its message and its hint.
#[track_caller]
pub(crate) fn fails(scene: &Scene, code: i32, arguments: &[&str]) -> String {
    let output = scene.host.updatectl(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", transcript(&output));
    assert!(output.stdout.is_empty(), "{arguments:?} printed data and failed: {}", transcript(&output));
    let said = String::from_utf8(output.stderr).unwrap();
    println!("{}: {}", arguments.join(" "), said.trim_end());
    assert!(said.contains("error: ") && !said.contains("panicked"), "{arguments:?}: {said}");
    said
}

/// Everything a command said, and how it ended.
pub(crate) fn transcript(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\nout: {}\nerr: {}", output.status, text(&output.stdout), text(&output.stderr))
}
