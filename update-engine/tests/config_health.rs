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
use tokio::sync::watch;
use update_engine::health::{BuiltIn, Health, Probe, Services, probe};
use update_engine::hooks::HookContext;

struct Host {
    folder: TempDir,
    services: Services,
    deadline: Duration,
    settle: Duration,
    kept_after: Duration,
    built_in: Vec<BuiltIn>,
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
            kept_after: Duration::ZERO,
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

    /// A `systemctl` that says what it is told to, of a system without `boot-complete.target`.
    fn systemd(self, text: &str) -> Self {
        self.systemd_with(&unit("not-found", "inactive", ""), text)
    }

    /// The same, and this of `boot-complete.target`.
    fn systemd_with(mut self, boot_complete: &str, text: &str) -> Self {
        let asked = "show --property=LoadState,ActiveState,RequiredBy,WantedBy boot-complete.target";
        let script = format!("if test \"$*\" = '{asked}'; then {boot_complete}; exit; fi\n{text}");
        self.services = Services::Systemd(self.script("systemctl", &script));
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
            kept_after: self.kept_after,
            hook_timeout: Duration::from_secs(5),
            services: self.services.clone(),
            built_in: self.built_in.clone(),
            warnings: Vec::new(),
        };
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(probe(&asked, &watch::channel(None).0))
    }
}

/// A unit as `systemctl show` tells of it.
fn unit(load: &str, active: &str, wanted_by: &str) -> String {
    format!("printf 'RequiredBy=\\nWantedBy={wanted_by}\\nLoadState={load}\\nActiveState={active}\\n'")
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
fn what_is_healthy_is_not_kept_before_its_time_and_has_to_be_healthy_then() {
    let mut host = Host::new();
    let marker = host.path("runs");
    host = host.required("web", &format!("echo run >> {}", marker.display()));
    host.kept_after = Duration::from_millis(1200);
    let started = Instant::now();
    assert_eq!(host.probe(), HEALTHY);
    assert!(started.elapsed() >= host.kept_after && runs(&marker) == 2);

    // Healthy at once, and no more after a second: it does not recover before the deadline.
    let mut host = Host::new().deadline(Duration::from_secs(3));
    let fails = host.path("fails");
    host = host.required("web", &format!("test ! -e {0} || exit 1; (sleep 0.5; touch {0}) &", fails.display()));
    host.kept_after = Duration::from_millis(1200);
    assert!(matches!(host.probe(), Health::Unhealthy { reason, .. } if reason.ends_with("web exited with 1")));
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
        BuiltIn::once("floor", || Ok(())),
        BuiltIn::once("keyring", || Err("the image's own keys do not accept the release that installed it".into())),
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

/// It ends so where a slot is overdue and there is no way back: that an image was not healthy once is no reason why it never is.
#[test]
fn the_failed_unit_of_an_overdue_trial_says_nothing_of_the_image() {
    let listing = |units: &str| format!("case $1 in is-system-running) echo degraded; exit 1;; *) printf '{units}';; esac");
    let ours = "update-engine-trial.service loaded failed failed\\n";
    assert_eq!(Host::new().systemd(&listing(ours)).probe(), HEALTHY);
    let host = Host::new().systemd(&listing(&format!("{ours}web.service loaded failed failed\\n"))).deadline(SHORT);
    assert!(matches!(host.probe(), Health::Unhealthy { reason, .. } if reason == "failed units: web.service"));
    // A list that could not be had is no such list.
    let broken = format!("case $1 in is-system-running) echo degraded; exit 1;; *) printf '{ours}'; exit 1;; esac");
    let host = Host::new().systemd(&broken).deadline(SHORT);
    assert!(matches!(host.probe(), Health::Unhealthy { reason, .. } if reason == "some units failed"));

    let unit = include_str!("../../dist/systemd/update-engine-trial.service");
    for line in ["RestartPreventExitStatus=3", "SuccessExitStatus=3"] {
        assert!(unit.lines().any(|known| known == line), "{line}");
    }
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
fn a_boot_that_is_not_complete_is_unhealthy_with_hooks_and_without() {
    let not_reached = unit("loaded", "inactive", "update-engined.service");
    let words = "boot-complete.target is not reached (inactive); failed units: check.service";
    let failed = "case $1 in is-system-running) echo running;; *) echo 'check.service loaded failed failed';; esac";
    let host = Host::new().systemd_with(&not_reached, failed).deadline(SHORT);
    assert_eq!(host.probe(), unhealthy(words, "check.service loaded failed failed\n"));
    let host = host.required("web", "exit 0");
    assert_eq!(host.probe(), unhealthy(words, "check.service loaded failed failed\n"));
    // Other units' failures are not asked about where there are hooks, and the target may come.
    let host = Host::new();
    let marker = host.path("asked");
    let (later, now) = (unit("loaded", "activating", "x.service"), unit("loaded", "active", "x.service"));
    let comes = format!("if test -e {0}; then {now}; else touch {0}; {later}; fi", marker.display());
    assert_eq!(host.systemd_with(&comes, "echo degraded; exit 1").required("web", "exit 0").probe(), HEALTHY);
}

#[test]
fn a_boot_complete_target_that_is_active_not_there_or_wanted_by_nobody_passes() {
    for said in [
        unit("loaded", "active", "update-engined.service"),
        unit("not-found", "inactive", "update-engined.service"),
        unit("masked", "inactive", "update-engined.service"),
        unit("loaded", "inactive", ""),
    ] {
        assert_eq!(Host::new().systemd_with(&said, "echo running").probe(), HEALTHY, "{said}");
    }
    let required = "printf 'LoadState=loaded\\nActiveState=failed\\nRequiredBy=x.service\\nWantedBy=\\n'";
    let host = Host::new().systemd_with(required, "echo running").deadline(SHORT);
    assert!(
        matches!(host.probe(), Health::Unhealthy { reason, .. } if reason.starts_with("boot-complete.target is not reached (failed)"))
    );
    let host = Host::new().systemd_with("echo Failed to connect to bus >&2; exit 1", "echo running").deadline(SHORT);
    assert_eq!(
        host.probe(),
        unhealthy("systemd did not say how boot-complete.target is: systemctl exited with 1: Failed to connect to bus", "")
    );
}

#[test]
fn required_hooks_speak_for_themselves_and_systemd_is_not_asked_for_failed_units() {
    let host = Host::new().systemd("echo degraded; exit 1").required("web", "exit 0");
    assert_eq!(host.probe(), HEALTHY);
}

#[test]
fn in_image_mode_nobody_asks_the_machine_that_builds_the_image() {
    assert_eq!(Services::of_host(Path::new("/mnt/image")), Services::NotAsked);
}
