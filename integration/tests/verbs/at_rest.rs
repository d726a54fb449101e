//! A daemon with nothing to do wakes up for nothing and holds nothing.

use std::fs;
use std::sync::PoisonError;
use std::time::Duration;

use crate::scene::next_release;
use crate::stage::{nothing_new, quiet_and_started, run};
use crate::state_dir::ONE_AT_A_TIME;

/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(10);
/// Context switches of all its threads in that time: a handful, so that not even one timer that rings twice a second hides in it.
const SWITCHES_MAX: u64 = 8;
/// Memory that it holds: of a release build as promised, of a build for tests what its larger program makes of that.
const RESIDENT_MAX_KIB: u64 = if cfg!(debug_assertions) { 40 << 10 } else { 15 << 10 };

/// What the kernel counts of a process.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    switches: u64,
    threads: usize,
    files: usize,
    resident_kib: u64,
}

fn counts(pid: i32) -> Counts {
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    let threads: Vec<String> = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("status")).ok())
        .collect();
    let whole = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    Counts {
        // Those that it was forced to as well: a thread that spins is not at rest.
        switches: ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]
            .iter()
            .flat_map(|name| threads.iter().map(move |thread| field(thread, name)))
            .sum(),
        threads: threads.len(),
        files: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
        resident_kib: field(&whole, "VmRSS:"),
    }
}

/// Threads that waited for work have gone, and connections are closed.
fn settled(pid: i32) -> Counts {
    let mut before = counts(pid);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_secs(6));
        let now = counts(pid);
        if (now.threads, now.files) == (before.threads, before.files) {
            return now;
        }
        before = now;
    }
    panic!("its threads and files never stay the same: {before:?}");
}

fn assert_rests(pid: i32, what: &str) -> Counts {
    let _nobody_mounts = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = settled(pid);
    std::thread::sleep(WATCHED);
    let after = counts(pid);
    let switches = after.switches.saturating_sub(before.switches);
    println!("{what}: {switches} context switches in {} s, {after:?}", WATCHED.as_secs());
    assert!(switches <= SWITCHES_MAX, "{what}: {switches} context switches: {before:?} {after:?}");
    assert!(after.resident_kib <= RESIDENT_MAX_KIB, "{what}: more than {RESIDENT_MAX_KIB} KiB: {after:?}");
    assert!(after.files <= before.files && after.threads <= before.threads, "{what}: {before:?} {after:?}");
    after
}

#[test]
fn an_idle_daemon_sleeps() {
    let scene = quiet_and_started(nothing_new);
    let pid = scene.host.daemon_pid().unwrap();
    let fresh = assert_rests(pid, "fresh");
    for _ in 0..20 {
        run(&scene, &["check"]);
        run(&scene, &["status"]);
        run(&scene, &["verify", "--no-wait"]);
    }
    let later = assert_rests(pid, "after 60 commands");
    // One connection that is kept for the next check.
    assert!(later.files <= fresh.files + 1, "open files grew: {fresh:?} {later:?}");
}

#[test]
fn a_daemon_that_has_updated_sleeps() {
    let scene = quiet_and_started(next_release);
    run(&scene, &["update"]);
    scene.host.wait_committed("2.0.0");
    assert_rests(scene.host.daemon_pid().unwrap(), "after an update");
}

#[test]
fn a_daemon_that_waits_for_a_person_sleeps() {
    let scene = quiet_and_started(next_release);
    run(&scene, &["update", "--no-reboot"]);
    assert_rests(scene.host.daemon_pid().unwrap(), "proven, waiting for a person");
}
