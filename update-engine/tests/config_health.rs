//! Health: what is required must be seen to succeed, twice; what is wanted only warns; no answer is no health.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that is skipped says why"
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use update_engine::health::{Health, Probe, Services, probe};
use update_engine::hooks::HookContext;

struct Host {
    folder: TempDir,
    services: Services,
    deadline: Duration,
    settle: Duration,
    built_in: Vec<(String, Result<(), String>)>,
}

impl Host {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            folder,
            services: Services::NotAsked,
            deadline: Duration::from_secs(10),
            settle: Duration::from_millis(200),
            built_in: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Written by another process: see the tests of hooks.
    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut writer =
            Command::new("sh").args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
        writer.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
        path
    }

    fn required(self, name: &str, text: &str) -> Self {
        self.script(&format!("health/required.d/{name}"), text);
        self
    }

    fn wanted(self, name: &str, text: &str) -> Self {
        self.script(&format!("health/wanted.d/{name}"), text);
        self
    }

    /// A `systemctl` that says what it is told to.
    fn systemd(mut self, text: &str) -> Self {
        self.services = Services::Systemd(self.script("systemctl", text));
        self
    }

    fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    fn probe(&self) -> Health {
        let asked = Probe {
            hooks_dir: self.folder.path().to_owned(),
            context: HookContext::default(),
            deadline: self.deadline,
            settle: self.settle,
            hook_timeout: Duration::from_secs(5),
            services: self.services.clone(),
            built_in: self.built_in.clone(),
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(probe(&asked))
    }
}

fn unhealthy(reason: &str, output: &str) -> Health {
    Health::Unhealthy { reason: reason.into(), output: output.into() }
}

const HEALTHY: Health = Health::Healthy { warnings: Vec::new() };
const SHORT: Duration = Duration::from_millis(1500);
/// No busy machine takes so long for what is done at once; what is not takes longer.
const LONG: Duration = Duration::from_secs(30);

fn runs(marker: &Path) -> usize {
    fs::read_to_string(marker).unwrap_or_default().lines().count()
}

#[test]
fn without_hooks_a_daemon_that_is_up_for_the_settle_time_is_healthy() {
    let host = Host::new();
    let started = Instant::now();
    assert_eq!(host.probe(), HEALTHY);
    assert!(started.elapsed() >= host.settle);
}

#[test]
fn required_hooks_are_run_again_after_the_settle_time() {
    let host = Host::new();
    let marker = host.path("runs");
    let host = host.required("web", &format!("echo run >> {}", marker.display()));
    assert_eq!(host.probe(), HEALTHY);
    assert_eq!(runs(&marker), 2);
}

#[test]
fn a_required_hook_that_fails_until_the_deadline_is_unhealthy_with_its_words() {
    let host = Host::new().required("10-ok", "exit 0").required("20-web", "echo port 80 is closed; exit 1").deadline(SHORT);
    assert_eq!(host.probe(), unhealthy("20-web exited with 1: port 80 is closed", "port 80 is closed\n"));
}

#[test]
fn a_required_hook_has_until_the_deadline_to_come_up() {
    let host = Host::new();
    let marker = host.path("runs");
    let text = format!("echo run >> {0}; test $(wc -l < {0}) -ge 3", marker.display());
    let host = host.required("web", &text);
    assert_eq!(host.probe(), HEALTHY);
    assert_eq!(runs(&marker), 4);
}

#[test]
fn a_required_hook_that_fails_after_the_settle_time_is_unhealthy() {
    let host = Host::new();
    let marker = host.path("runs");
    let text = format!("test ! -e {0} && touch {0}", marker.display());
    let host = host.required("flaky", &text).deadline(SHORT);
    // The first failure is the one after the settle time; those of later tries are failures from the start.
    assert!(matches!(host.probe(), Health::Unhealthy { reason, .. } if reason.ends_with("flaky exited with 1")));
}

#[test]
fn a_required_hook_that_hangs_is_unhealthy_by_the_deadline() {
    let host = Host::new().required("hangs", "exec sleep 300").deadline(SHORT);
    let started = Instant::now();
    assert_eq!(host.probe(), unhealthy("hangs was not done in its time and was stopped", ""));
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
}

#[test]
fn a_try_that_the_deadline_cuts_short_does_not_hide_why_the_one_before_failed() {
    let host = Host::new();
    let marker = host.path("runs");
    let text = format!("test -e {0} && exec sleep 30; touch {0}; echo no database; exit 1", marker.display());
    let host = host.required("web", &text).deadline(SHORT);
    assert_eq!(host.probe(), unhealthy("web exited with 1: no database", "no database\n"));
}

#[test]
fn many_slow_required_hooks_do_not_outlast_the_deadline() {
    let mut host = Host::new().deadline(Duration::from_secs(1));
    for number in 0..10 {
        host = host.required(&format!("{number}"), "sleep 10");
    }
    let started = Instant::now();
    assert!(matches!(host.probe(), Health::Unhealthy { .. }));
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
}

#[test]
fn a_settle_time_that_no_longer_fits_is_unhealthy() {
    let mut host = Host::new().deadline(SHORT);
    host.settle = Duration::from_secs(60);
    assert_eq!(host.probe(), unhealthy("it was not healthy for 60 s before its deadline", ""));
}

#[test]
fn wanted_hooks_only_warn() {
    let host = Host::new().wanted("dns", "echo no name server; exit 1").wanted("ok", "exit 0");
    assert_eq!(host.probe(), Health::Healthy { warnings: vec!["dns exited with 1: no name server".into()] });
}

#[test]
fn a_required_hook_that_others_can_change_is_unhealthy_and_not_run() {
    let host = Host::new();
    let marker = host.path("runs");
    let host = host.required("open", &format!("echo run >> {}", marker.display())).deadline(SHORT);
    fs::set_permissions(host.path("health/required.d/open"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(host.probe(), Health::Unhealthy { reason, .. } if reason.contains("are not run")));
    assert_eq!(runs(&marker), 0);
}

#[test]
fn design_11_4_a_built_in_check_that_failed_is_unhealthy_at_once() {
    let mut host = Host::new().deadline(Duration::from_secs(300));
    host.built_in = vec![
        ("floor".into(), Ok(())),
        ("keyring".into(), Err("the image's own keys do not accept the release that installed it".into())),
    ];
    let started = Instant::now();
    assert_eq!(host.probe(), unhealthy("keyring: the image's own keys do not accept the release that installed it", ""));
    assert!(started.elapsed() < LONG);
}

#[test]
fn without_hooks_a_running_system_without_failed_units_is_healthy() {
    assert_eq!(Host::new().systemd("echo running").probe(), HEALTHY);
}

#[test]
fn without_hooks_failed_units_are_named() {
    let script = "case $1 in is-system-running) echo degraded; exit 1;; *) echo 'web.service loaded failed failed Web'; echo 'db.service loaded failed failed';; esac";
    let host = Host::new().systemd(script).deadline(SHORT);
    assert!(matches!(host.probe(), Health::Unhealthy { reason, .. } if reason == "failed units: web.service, db.service"));
}

#[test]
fn a_system_that_is_still_starting_is_waited_for() {
    let host = Host::new();
    let marker = host.path("asked");
    let script = format!("if test -e {0}; then echo running; else touch {0}; echo starting; exit 1; fi", marker.display());
    assert_eq!(host.systemd(&script).probe(), HEALTHY);
}

#[test]
fn a_systemctl_that_says_nothing_is_no_health() {
    let host = Host::new().systemd("exit 0").deadline(SHORT);
    assert_eq!(host.probe(), unhealthy("systemd did not say how the system is: systemctl succeeded", ""));
    let mut host = Host::new().deadline(SHORT);
    host.services = Services::Systemd(host.path("no-such-program"));
    assert!(matches!(host.probe(), Health::Unhealthy { reason, .. } if reason.contains("could not be started")));
}

#[test]
fn required_hooks_speak_for_themselves_and_systemd_is_not_asked() {
    let host = Host::new().systemd("echo degraded; exit 1").required("web", "exit 0");
    assert_eq!(host.probe(), HEALTHY);
}

#[test]
fn in_image_mode_nobody_asks_the_machine_that_builds_the_image() {
    assert_eq!(Services::of_host(Path::new("/mnt/image")), Services::NotAsked);
}
