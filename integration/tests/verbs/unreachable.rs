//! `updatectl` without a daemon to talk to: what, where, and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use integration::rig::program;

use crate::scene::{Options, words_in};
use crate::stage::{nothing_new, quiet, quiet_and_started, run, transcript};

const VERBS: [&[&str]; 15] = [
    &["status"],
    &["status", "--json"],
    &["status", "--exit-code"],
    &["why"],
    &["slots"],
    &["history"],
    &["check"],
    &["update"],
    &["reboot"],
    &["rollback"],
    &["confirm"],
    &["pause"],
    &["verify"],
    &["channel"],
    &["config"],
];

#[track_caller]
fn assert_not_reachable(output: &Output, words: &[&str]) {
    let said = transcript(output);
    assert_eq!(output.status.code(), Some(40), "{said}");
    assert!(output.stdout.is_empty(), "{said}");
    words_in(&said, words);
    words_in(&said, &["error: cannot reach update-engined", "control.sock", "hint: "]);
}

#[test]
fn a_socket_that_is_not_there_is_40_for_every_verb() {
    let scene = quiet(&Options::default(), nothing_new);
    for verb in VERBS {
        let output = scene.host.updatectl(verb);
        assert_not_reachable(&output, &["there is no such socket", "systemctl start update-engined", "--socket PATH"]);
    }
    println!("no socket: {}", transcript(&scene.host.updatectl(&["status"])));
}

#[test]
fn the_socket_of_a_dead_daemon_is_40_for_every_verb() {
    let mut scene = quiet_and_started(nothing_new);
    scene.host.kill();
    assert!(scene.host.dir.join("control.sock").exists(), "a daemon that was killed leaves its socket behind");
    for verb in VERBS {
        assert_not_reachable(&scene.host.updatectl(verb), &["nobody listens there", "systemctl start update-engined"]);
    }
    println!("dead daemon: {}", transcript(&scene.host.updatectl(&["status"])));
}

#[test]
fn a_daemon_that_comes_back_on_the_socket_of_a_dead_one_is_reached() {
    let mut scene = quiet_and_started(nothing_new);
    scene.host.kill();
    scene.host.start();
    scene.host.wait_for("it is up again", |status| status["state"] == "idle");
    run(&scene, &["status"]);
}

/// `updatectl` as somebody who is not root; a copy of it, because the folder it was built in may be root's alone.
fn as_nobody(dir: &Path, arguments: &[&str]) -> Option<Output> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become somebody else");
        return None;
    }
    let copy = dir.join("updatectl");
    if !copy.exists() {
        fs::copy(program("updatectl"), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    }
    Some(Command::new(copy).args(arguments).uid(65534).gid(65534).output().unwrap())
}

fn root_only(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_socket_that_may_not_be_reached_is_40_with_the_reason() {
    let scene = quiet_and_started(nothing_new);
    let public = tempfile::tempdir().unwrap();
    fs::set_permissions(public.path(), fs::Permissions::from_mode(0o755)).unwrap();
    root_only(scene.dir());
    let socket = scene.host.dir.join("control.sock").display().to_string();
    let Some(output) = as_nobody(public.path(), &["--socket", &socket, "status"]) else { return };
    println!("no permission: {}", transcript(&output));
    assert_not_reachable(&output, &["permission denied", "try again as root"]);
}

#[test]
fn a_configuration_that_may_not_be_read_says_so_and_how_to_do_without() {
    let scene = quiet_and_started(nothing_new);
    let public = tempfile::tempdir().unwrap();
    fs::set_permissions(public.path(), fs::Permissions::from_mode(0o755)).unwrap();
    root_only(scene.dir());
    let config = scene.host.dir.join("config.toml").display().to_string();
    let Some(output) = as_nobody(public.path(), &["--config", &config, "status"]) else { return };
    let said = transcript(&output);
    println!("no permission: {said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    words_in(&said, &["config.toml", "ermission denied", "--socket PATH"]);
}

#[test]
fn others_may_read_and_are_told_that_acting_is_for_root() {
    let mut scene = quiet(&Options::default(), nothing_new);
    let public = tempfile::tempdir().unwrap();
    fs::set_permissions(public.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = public.path().join("control.sock").display().to_string();
    scene.host.edit_config(&format!("{}/control.sock", scene.host.dir.display()), &socket);
    scene.start();
    scene.host.wait("it is up", || Path::new(&socket).exists().then_some(()));
    let Some(output) = as_nobody(public.path(), &["--socket", &socket, "status"]) else { return };
    assert_eq!(output.status.code(), Some(0), "{}", transcript(&output));
    for verb in ["check", "update", "pause", "rollback", "cancel", "verify"] {
        let output = as_nobody(public.path(), &["--socket", &socket, verb]).unwrap();
        let said = transcript(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        words_in(&said, &[verb, "is for root", "65534", "sudo"]);
    }
}
