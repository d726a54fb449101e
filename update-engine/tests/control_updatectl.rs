//! `updatectl` as a program, against a daemon whose answers are written down here: what it prints, where, and its exit code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that is skipped says why"
)]

mod control_fake;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Output, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use control_fake::{Documents, Fake, Line, Setup, Then, accepted, rejected};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use tempfile::TempDir;
use update_engine::engine::command::{Command, Rejection};
use update_engine::engine::model::CheckOutcome;
use update_engine::status::json::{
    Booted, Check, EventKind, EventLine, GateState, HistoryEntry, Host, Inspection, LastError, Phase, Progress, Reboot, Slot,
    State, Status, Trouble, Waiting, WholeKernelLog, WhyEntry,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_updatectl");

fn process(program: &Path, arguments: &[&str]) -> Process {
    let mut process = Process::new(program);
    process.args(arguments).env_clear().env("TZ", "UTC").env("LC_ALL", "C.UTF-8").env("TERM", "xterm");
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/");
    process
}

/// Runs to the end; a run that has none is killed and so fails its test.
fn finish(process: &mut Process) -> Output {
    let child = process.spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (ended, watchdog) = std::sync::mpsc::channel::<()>();
    let watching = std::thread::spawn(move || {
        if watchdog.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
            kill(pid, Signal::SIGKILL).unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    watching.join().unwrap();
    output
}

/// Everything a run said, with its exit code, and with the fake's folder called `DIR`.
fn transcript(output: &Output, folder: &Path) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&folder.display().to_string(), "DIR");
    let mut transcript = format!("exit {}\n", output.status.code().map_or("by signal".into(), |code| code.to_string()));
    for (prefix, bytes) in [("out", &output.stdout), ("err", &output.stderr)] {
        for line in text(bytes).lines() {
            transcript.push_str(format!("{prefix}: {line}").trim_end());
            transcript.push('\n');
        }
    }
    transcript
}

fn run(fake: &Fake, arguments: &[&str]) -> String {
    let socket = fake.socket().display().to_string();
    let mut all = vec!["--socket", &socket];
    all.extend(arguments);
    let output = finish(&mut process(Path::new(PROGRAM), &all));
    transcript(&output, fake.folder())
}

fn at_state(state: State) -> Status {
    Status {
        state,
        summary: format!("This host is {}.", state.as_str()),
        host: Host { channel: "stable".into(), ..Host::default() },
        reboot: Reboot { strategy: "immediate".into(), ..Reboot::default() },
        ..Status::default()
    }
}

fn event(kind: EventKind, state: State, summary: &str) -> Then {
    Then::Event(Box::new(EventLine {
        kind,
        state,
        summary: summary.into(),
        attempt: Some("5d1c".into()),
        ..EventLine::default()
    }))
}

fn transition(state: State, summary: &str) -> Then {
    event(EventKind::Transition, state, summary)
}

fn done(state: State, summary: &str) -> Then {
    event(EventKind::Done, state, summary)
}

/// The end of a look at the slots.
fn looked(of: Inspection, summary: &str) -> Then {
    Then::Event(Box::new(EventLine {
        kind: EventKind::Done,
        summary: summary.into(),
        inspection: Some(of),
        ..EventLine::default()
    }))
}

fn failed(state: State, code: &str, message: &str) -> Then {
    let error = LastError { code: code.into(), message: message.into(), attention: true, ..LastError::default() };
    let line = EventLine { kind: EventKind::Done, state, error: Some(error), ..EventLine::default() };
    Then::Event(Box::new(line))
}

fn progress(windows_done: u64, phase: Phase) -> Then {
    let progress = Progress {
        phase,
        windows_done,
        windows_total: 800,
        bytes_written: windows_done * 262_144,
        bytes_total: 209_715_200,
        bytes_downloaded: windows_done * 100_000,
        rate_bytes_per_s: 3_100_000,
        eta_s: Some(58),
        ..Progress::default()
    };
    let line = EventLine {
        kind: EventKind::Progress,
        state: State::Fetching,
        progress: Some(progress),
        attempt: Some("5d1c".into()),
        ..EventLine::default()
    };
    Then::Event(Box::new(line))
}

fn scripted(status: Status, lines: Vec<Line>) -> Fake {
    Setup { documents: Documents { status, ..Documents::default() }, script: lines, ..Setup::default() }.start()
}

fn one(answer_then: Vec<Then>) -> Fake {
    let line = Line { answer: accepted(Some("5d1c"), "Looking for an update."), then: answer_then };
    scripted(at_state(State::Idle), vec![line])
}

#[test]
fn status_shows_every_state_and_exits_0_unless_asked_for_the_class() {
    for state in State::ALL {
        let fake = Fake::showing(at_state(state));
        let shown = run(&fake, &["status"]);
        let first = format!("exit 0\nout: This host is {}.\nout:\nout:   host ", state.as_str());
        assert!(shown.starts_with(&first), "{shown}");
        let class = match state {
            State::Idle | State::Checking => 0,
            State::Deferred => 20,
            State::RolledBack | State::Failed => 30,
            _ => 10,
        };
        let asked = run(&fake, &["status", "--exit-code"]);
        assert!(asked.starts_with(&format!("exit {class}\n")), "{state:?}: {asked}");
        assert_eq!(asked.split_once('\n').unwrap().1, shown.split_once('\n').unwrap().1);
    }
}

#[test]
fn status_that_is_held_or_needs_attention_says_so_by_its_exit_code() {
    let waiting = Reboot { waiting_for: vec![Waiting { gate: "pause".into(), ..Waiting::default() }], ..Reboot::default() };
    let held = Fake::showing(Status { reboot: waiting, ..at_state(State::Idle) });
    assert!(run(&held, &["status", "--exit-code"]).starts_with("exit 20\n"));
    let troubled = Fake::showing(Status { troubles: vec![Trouble::default()], ..at_state(State::Idle) });
    assert!(run(&troubled, &["status", "--exit-code", "--json"]).starts_with("exit 30\n"));
}

#[test]
fn json_is_the_daemons_document() {
    let documents = Documents {
        status: at_state(State::Proven),
        history: vec![HistoryEntry { to: "1.1.0".into(), ..HistoryEntry::default() }],
        why: vec![WhyEntry { gate: "lock".into(), state: GateState::Waiting, ..WhyEntry::default() }],
        ..Documents::default()
    };
    let fake = Setup { documents: documents.clone(), ..Setup::default() }.start();
    let json = |verb: &str| -> Value {
        let socket = fake.socket().display().to_string();
        let output = finish(&mut process(Path::new(PROGRAM), &["--socket", &socket, verb, "--json"]));
        assert!(output.status.success() && output.stderr.is_empty());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(json("status"), serde_json::to_value(&documents.status).unwrap());
    assert_eq!(json("history"), serde_json::to_value(&documents.history).unwrap());
    assert_eq!(json("why"), serde_json::to_value(&documents.why).unwrap());
    assert_eq!(json("slots"), serde_json::to_value(&documents.status.slots).unwrap());
}

#[test]
fn lists_in_words() {
    let slot =
        Slot { name: "a".into(), version: Some("1.0.0".into()), booted: true, good: true, bootable: true, ..Slot::default() };
    let documents = Documents {
        status: Status { slots: vec![slot], ..at_state(State::Proven) },
        why: vec![WhyEntry {
            gate: "lock".into(),
            state: GateState::Waiting,
            detail: "held by web-2".into(),
            ..WhyEntry::default()
        }],
        config: "state_dir = \"/var/lib/update-engine\"\n".into(),
        ..Documents::default()
    };
    let fake = Setup { documents, ..Setup::default() }.start();
    assert_eq!(run(&fake, &["history"]), "exit 0\nout: No attempts yet.\n");
    assert_eq!(
        run(&fake, &["slots"]),
        "exit 0\n\
         out: SLOT  VERSION  RUNS  NEXT  BOOTABLE  GOOD  TRIES LEFT  PROVEN\n\
         out: a     1.0.0    yes   no    yes       yes   0           no\n"
    );
    assert_eq!(run(&fake, &["why"]), "exit 0\nout: This host is proven.\nout:\nout: …  lock  waiting  held by web-2\n");
    assert_eq!(run(&fake, &["config"]), "exit 0\nout: state_dir = \"/var/lib/update-engine\"\n");
    assert_eq!(run(&fake, &["channel"]), "exit 0\nout: stable\n");
}

#[test]
fn the_kernels_log_of_the_slot_that_was_given_up_is_shown_whole() {
    let log = WholeKernelLog {
        attempt: "5d1c".into(),
        version: Some("1.1.0".into()),
        source: "pstore".into(),
        line: Some("Kernel panic".into()),
        lines: vec!["[ 1.0] one".into(), "[ 2.0] Kernel\u{1b}[2J panic".into()],
    };
    let documents = Documents { kernel_log: Some(log.clone()), ..Documents::default() };
    let fake = Setup { documents, ..Setup::default() }.start();
    assert_eq!(
        run(&fake, &["history", "--kernel-log"]),
        "exit 0\nout: 1.1.0 (attempt 5d1c): what its kernel left in pstore when it died\nout: [ 1.0] one\nout: [ 2.0] Kernel[2J panic\n"
    );
    let socket = fake.socket().display().to_string();
    let arguments = ["--socket", &socket, "history", "--kernel-log", "--json"];
    let output = finish(&mut process(Path::new(PROGRAM), &arguments));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document, serde_json::to_value(&log).unwrap());
    let none = Setup::default().start();
    assert_eq!(run(&none, &["history", "--kernel-log"]), "exit 0\nout: No kernel log is kept.\n");
}

#[test]
fn a_terminal_without_utf_8_gets_ascii() {
    let why = vec![WhyEntry { gate: "lock".into(), state: GateState::Waiting, ..WhyEntry::default() }];
    let fake = Setup { documents: Documents { why, ..Documents::default() }, ..Setup::default() }.start();
    let socket = fake.socket().display().to_string();
    let output = finish(process(Path::new(PROGRAM), &["--socket", &socket, "why"]).env("LC_ALL", "C"));
    assert!(output.stdout.is_ascii(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn an_update_is_followed_to_its_rest_with_lines_about_its_progress() {
    let fake = one(vec![
        transition(State::Checking, "Asking the server."),
        transition(State::Fetching, "Writing 1.1.0 into slot b."),
        progress(0, Phase::Fetching),
        progress(1, Phase::Fetching),
        progress(400, Phase::Fetching),
        progress(800, Phase::Proving),
        transition(State::Proven, "1.1.0 is proven in slot b."),
        done(State::Proven, "1.1.0 is proven in slot b and waits for `updatectl reboot`."),
    ]);
    assert_eq!(
        run(&fake, &["update", "--no-reboot"]),
        "exit 0\n\
         out: 1.1.0 is proven in slot b and waits for `updatectl reboot`.\n\
         err: Looking for an update.\n\
         err: Asking the server.\n\
         err: Writing 1.1.0 into slot b.\n\
         err: fetching: 0 of 800 windows (0 %), 0 B of 200 MiB, 2.9 MiB/s, 58 s left\n\
         err: fetching: 400 of 800 windows (50 %), 100 MiB of 200 MiB, 2.9 MiB/s, 58 s left\n\
         err: proving: 800 of 800 windows (100 %), 200 MiB of 200 MiB, 2.9 MiB/s, 58 s left\n\
         err: 1.1.0 is proven in slot b.\n"
    );
    assert_eq!(fake.commands(), [Command::Update { version: None, allow_older: false, no_reboot: true }]);
}

#[test]
fn an_attempt_of_somebody_else_does_not_end_ours() {
    let other =
        EventLine { kind: EventKind::Done, attempt: Some("other".into()), summary: "not ours".into(), ..EventLine::default() };
    let fake = one(vec![Then::Event(Box::new(other)), done(State::Idle, "Up to date.")]);
    assert_eq!(run(&fake, &["check"]), "exit 0\nout: Up to date.\nerr: Looking for an update.\n");
}

#[test]
fn a_verdict_about_the_slots_is_waited_for_however_long_the_daemon_is_at_rest() {
    let verdict = EventLine {
        kind: EventKind::Done,
        summary: "slot a differs".into(),
        inspection: Some(Inspection::Verify),
        error: Some(LastError { code: "read-back".into(), message: "slot a differs".into(), ..LastError::default() }),
        ..EventLine::default()
    };
    let of_an_update = done(State::Idle, "Up to date.");
    let quiet = Then::Wait(Duration::from_secs(7));
    let fake = one(vec![of_an_update, quiet, Then::Event(Box::new(verdict.clone()))]);
    let shown = run(&fake, &["verify"]);
    assert!(shown.contains("exit 1\n") && shown.contains("error: read-back: slot a differs"), "{shown}");
    let theirs = EventLine { attempt: Some("theirs".into()), summary: "theirs".into(), error: None, ..verdict.clone() };
    let ours = EventLine { attempt: Some("5d1c".into()), ..verdict.clone() };
    let fake = one(vec![Then::Event(Box::new(theirs)), Then::Event(Box::new(ours))]);
    let shown = run(&fake, &["verify"]);
    assert!(shown.starts_with("exit 1\n") && shown.contains("error: read-back: slot a differs"), "{shown}");
    let fake = one(vec![Then::Event(Box::new(verdict)), done(State::Idle, "Up to date.")]);
    assert_eq!(run(&fake, &["check"]), "exit 0\nout: Up to date.\nerr: Looking for an update.\n");
    let fake = one(vec![Then::Stop]);
    let shown = run(&fake, &["verify"]);
    assert!(shown.starts_with("exit 40\n") && shown.contains("went away before it said what it found"), "{shown}");
}

#[test]
fn a_version_that_was_asked_for_and_is_not_installed_is_a_failure() {
    let passed_over = |outcome, result: &str| Status {
        check: Check { last_outcome: Some(outcome), last_result: Some(result.into()), ..Check::default() },
        booted: Booted { version: Some("1.0.0".into()), ..Booted::default() },
        ..at_state(State::Idle)
    };
    let ends = |status: Status| {
        vec![Line { answer: accepted(None, "Asking."), then: vec![Then::Status(Box::new(status)), done(State::Idle, "Idle.")] }]
    };
    let fake = scripted(at_state(State::Idle), ends(passed_over(CheckOutcome::NoUpdate, "no update")));
    let expected = "exit 1\nerr: Asking.\nerr: error: 1.1.0 is not being installed: no update\nerr: hint: `updatectl status` says what comes next\n";
    assert_eq!(run(&fake, &["update", "1.1.0"]), expected);
    let fake = scripted(at_state(State::Idle), ends(passed_over(CheckOutcome::NoUpdate, "no update")));
    assert_eq!(run(&fake, &["update", "1.0.0"]), "exit 0\nout: Idle.\nerr: Asking.\n");
    let files = TempDir::new().unwrap();
    let file = files.path().join("1").display().to_string();
    fs::write(&file, "x").unwrap();
    let fake = scripted(at_state(State::Idle), ends(passed_over(CheckOutcome::Refused, "1.1.0 refused: too old")));
    let shown = run(&fake, &["install", &file, &file]);
    assert!(shown.starts_with("exit 1\n") && shown.contains("error: 1.1.0 refused: too old"), "{shown}");
}

#[test]
fn an_update_that_fails_exits_1_with_the_reason_and_a_hint() {
    let message = "window 17 of root: expected sha256 aa…, got bb…, from 3 sources";
    let fake = one(vec![transition(State::Fetching, "Writing 1.1.0 into slot b."), failed(State::Failed, "payload", message)]);
    assert_eq!(
        run(&fake, &["update"]),
        "exit 1\n\
         err: Looking for an update.\n\
         err: Writing 1.1.0 into slot b.\n\
         err: error: payload: window 17 of root: expected sha256 aa…, got bb…, from 3 sources\n\
         err: hint: `updatectl status` says what comes next, `updatectl history` what was tried\n"
    );
}

#[test]
fn a_daemon_that_goes_down_because_it_reboots_the_host_is_no_error() {
    let fake = one(vec![
        transition(State::Locked, "The reboot lock is held."),
        transition(State::Armed, "Slot b is armed; rebooting."),
        Then::Wait(Duration::from_millis(100)),
        Then::Stop,
    ]);
    assert_eq!(
        run(&fake, &["reboot"]),
        "exit 0\n\
         out: The daemon went down with the host, which reboots into the new slot now; `updatectl status` tells afterwards how it went.\n\
         err: Looking for an update.\n\
         err: The reboot lock is held.\n\
         err: Slot b is armed; rebooting.\n"
    );
    assert_eq!(fake.commands(), [Command::Reboot { force: false }]);
}

#[test]
fn a_daemon_that_goes_down_for_another_reason_is_one() {
    let fake =
        one(vec![transition(State::Fetching, "Writing 1.1.0 into slot b."), Then::Wait(Duration::from_millis(100)), Then::Stop]);
    assert_eq!(
        run(&fake, &["update"]),
        "exit 40\n\
         err: Looking for an update.\n\
         err: Writing 1.1.0 into slot b.\n\
         err: error: update-engined on DIR/control.sock went away while writing the other slot\n\
         err: hint: it goes on where it was once it runs again; `journalctl -u update-engined` says why it stopped\n"
    );
}

#[test]
fn where_the_end_is_never_told_the_status_tells_it() {
    let fake = one(vec![transition(State::Checking, "Asking the server."), Then::Status(Box::new(at_state(State::Idle)))]);
    let started = Instant::now();
    let shown = run(&fake, &["check"]);
    assert_eq!(shown, "exit 0\nout: This host is idle.\nerr: Looking for an update.\nerr: Asking the server.\n");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn with_no_wait_the_command_returns_at_once() {
    let fake = one(Vec::new());
    let started = Instant::now();
    assert_eq!(run(&fake, &["update", "1.1.0", "--allow-older", "--no-wait"]), "exit 0\nout: Looking for an update.\n");
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(fake.commands(), [Command::Update { version: Some("1.1.0".into()), allow_older: true, no_reboot: false }]);
}

#[test]
fn every_verb_sends_its_command() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(name);
        fs::write(&path, "x").unwrap();
        path.display().to_string()
    };
    let (release, payload) = (file("1.release"), file("1.payload"));
    let url = "https://updates.example/1.payload";
    let cases: Vec<(Vec<&str>, Command)> = vec![
        (vec!["check"], Command::Check),
        (vec!["update"], Command::Update { version: None, allow_older: false, no_reboot: false }),
        (vec!["reboot", "--force"], Command::Reboot { force: true }),
        (vec!["rollback"], Command::Rollback),
        (vec!["confirm"], Command::Confirm),
        (
            vec!["pause", "--until", "2036-01-01T00:00:00Z", "--reason", "release night"],
            Command::Pause { until: Some("2036-01-01T00:00:00Z".parse().unwrap()), reason: Some("release night".into()) },
        ),
        (vec!["pause"], Command::Pause { until: None, reason: None }),
        (vec!["resume"], Command::Resume),
        (vec!["cancel"], Command::Cancel),
        (vec!["verify"], Command::Verify),
        (
            vec!["install", &release, url, "--no-reboot"],
            Command::Install {
                release: release.clone(),
                payload: Some(url.into()),
                delta: None,
                allow_older: false,
                no_reboot: true,
            },
        ),
        (
            vec!["install", &release, &payload],
            Command::Install {
                release: release.clone(),
                payload: Some(payload.clone()),
                delta: None,
                allow_older: false,
                no_reboot: false,
            },
        ),
        (
            vec!["install", &release, "--delta", &payload],
            Command::Install {
                release: release.clone(),
                payload: None,
                delta: Some(payload.clone()),
                allow_older: false,
                no_reboot: false,
            },
        ),
        (
            vec!["install", &release, url, "--delta", &payload],
            Command::Install {
                release: release.clone(),
                payload: Some(url.into()),
                delta: Some(payload.clone()),
                allow_older: false,
                no_reboot: false,
            },
        ),
        (vec!["adopt", &release], Command::Adopt { release: release.clone() }),
        (vec!["channel", "beta"], Command::Channel { name: "beta".into() }),
        (vec!["limit", "2 MiB/s"], Command::Limit { max_rate: Some("2 MiB/s".into()), until: None }),
        (vec!["limit", "2", "MiB/s"], Command::Limit { max_rate: Some("2 MiB/s".into()), until: None }),
        (
            vec!["limit", "none", "--until", "2036-01-01T00:00:00Z"],
            Command::Limit { max_rate: Some("none".into()), until: Some("2036-01-01T00:00:00Z".parse().unwrap()) },
        ),
        (vec!["limit", "default"], Command::Limit { max_rate: None, until: None }),
    ];
    for (arguments, command) in cases {
        let end = match &command {
            Command::Verify => looked(Inspection::Verify, "Done."),
            Command::Adopt { .. } => looked(Inspection::Adopt, "Done."),
            _ => done(State::Idle, "Done."),
        };
        let fake = one(vec![end]);
        let shown = run(&fake, &arguments);
        let followed = "exit 0\nout: Done.\nerr: Looking for an update.\n";
        assert!(shown == followed || shown == "exit 0\nout: Looking for an update.\n", "{arguments:?}: {shown}");
        assert_eq!(fake.commands(), [command]);
    }
}

#[test]
fn a_file_is_named_by_its_absolute_path_and_must_be_there() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("1.release"), "x").unwrap();
    let fake = one(vec![looked(Inspection::Adopt, "Done.")]);
    let socket = fake.socket().display().to_string();
    let arguments = ["--socket", &socket, "adopt", "./1.release"];
    let output = finish(process(Path::new(PROGRAM), &arguments).current_dir(folder.path()));
    assert!(output.status.success());
    let release = folder.path().join("1.release").display().to_string();
    assert_eq!(fake.commands(), [Command::Adopt { release }]);
    let idle = Fake::showing(at_state(State::Idle));
    assert_eq!(
        run(&idle, &["install", "/no/such.release", "/no/such.payload"]),
        "exit 1\nerr: error: cannot read /no/such.release: No such file or directory (os error 2)\n"
    );
    assert_eq!(run(&idle, &["adopt", "/proc"]), "exit 1\nerr: error: /proc: expected a file, got something else\n");
    assert_eq!(idle.commands(), []);
}

#[test]
fn a_rejection_is_told_with_what_to_do() {
    let line = |code: Rejection, message: &str| Line { answer: rejected(code, message), then: Vec::new() };
    let fake = scripted(
        at_state(State::Fetching),
        vec![
            line(Rejection::Busy, "1.1.0 is being written into slot b."),
            line(Rejection::NothingToReboot, "No slot is proven."),
            line(Rejection::NothingToRollBackTo, "Slot b holds 0.9.0, which never ran here healthily."),
        ],
    );
    assert_eq!(
        run(&fake, &["update"]),
        "exit 1\n\
         err: error: 1.1.0 is being written into slot b.\n\
         err: hint: `updatectl status` says what is under way; `updatectl cancel` gives it up\n"
    );
    assert_eq!(
        run(&fake, &["reboot"]),
        "exit 1\n\
         err: error: No slot is proven.\n\
         err: hint: `updatectl update` looks for an update and installs it\n"
    );
    assert_eq!(run(&fake, &["rollback"]), "exit 1\nerr: error: Slot b holds 0.9.0, which never ran here healthily.\n");
}

#[test]
fn a_daemon_that_is_not_there_is_40_for_every_verb_with_how_to_start_it() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("none.sock").display().to_string();
    let verbs: [&[&str]; 8] = [
        &["status"],
        &["status", "--json"],
        &["status", "--watch"],
        &["status", "--exit-code"],
        &["history"],
        &["check"],
        &["config"],
        &["channel"],
    ];
    for verb in verbs {
        let arguments: Vec<&str> = ["--socket", socket.as_str()].iter().chain(verb).copied().collect();
        let output = finish(&mut process(Path::new(PROGRAM), &arguments));
        assert_eq!(
            transcript(&output, folder.path()),
            "exit 40\n\
             err: error: cannot reach update-engined on DIR/none.sock: there is no such socket\n\
             err: hint: start it with `systemctl start update-engined`, or name its socket with --socket PATH\n"
        );
    }
}

#[test]
fn bad_usage_is_2_and_says_how_it_is_meant() {
    let folder = TempDir::new().unwrap();
    let usages: [&[&str]; 6] = [
        &[],
        &["explode"],
        &["status", "--loud"],
        &["install", "only-one"],
        &["pause", "--until", "soon"],
        &["status", "--watch", "--exit-code"],
    ];
    for usage in usages {
        let output = finish(&mut process(Path::new(PROGRAM), usage));
        let shown = transcript(&output, folder.path());
        assert!(shown.starts_with("exit 2\nerr: "), "{usage:?}: {shown}");
    }
    let output = finish(&mut process(Path::new(PROGRAM), &["pause", "--until", "soon"]));
    assert_eq!(
        transcript(&output, folder.path()),
        "exit 2\nerr: error: --until: expected a length such as 2h or 90m, a time such as 06:00, \"2026-11-22 06:00\" or 2026-11-22T06:00:00Z, got \"soon\"\n"
    );
}

#[test]
fn help_teaches_and_version_tells() {
    let output = finish(&mut process(Path::new(PROGRAM), &["--help"]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(text.starts_with("Shows and steers the updates of this host"), "{text}");
    assert!(text.contains("Examples:\n  updatectl status ") && text.contains("Exit codes:\n"), "{text}");
    let verbs = [
        "status", "check", "update", "reboot", "rollback", "confirm", "history", "why", "pause", "resume", "verify", "install",
        "adopt", "cancel", "channel", "config", "slots",
    ];
    for verb in verbs {
        assert!(text.contains(&format!("\n  {verb} ")), "{verb} is missing in\n{text}");
    }
    let output = finish(&mut process(Path::new(PROGRAM), &["--version"]));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("updatectl {}\n", env!("CARGO_PKG_VERSION")));
}

/// A place that every user may enter, with the program in it.
fn public_copy() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("updatectl");
    // By another process: a file that this one has open for writing while a neighbour forks cannot be executed.
    assert!(Process::new("cp").arg(PROGRAM).arg(&program).status().unwrap().success());
    (folder, program)
}

const NOBODY: u32 = 65_534;

#[test]
fn others_may_read_and_not_act() {
    if !geteuid().is_root() {
        println!("skipped: becoming another user needs root");
        return;
    }
    let (_folder, program) = public_copy();
    let fake = Fake::showing(at_state(State::Idle));
    let socket = fake.socket().display().to_string();
    let as_nobody = |arguments: &[&str]| {
        let all: Vec<&str> = ["--socket", socket.as_str()].iter().chain(arguments).copied().collect();
        transcript(&finish(process(&program, &all).uid(NOBODY).gid(NOBODY)), fake.folder())
    };
    assert!(as_nobody(&["status"]).starts_with("exit 0\nout: This host is idle.\n"));
    assert_eq!(as_nobody(&["slots", "--json"]), "exit 0\nout: []\n");
    for verb in ["check", "update", "reboot", "rollback", "confirm", "pause", "resume", "cancel", "verify"] {
        assert_eq!(
            as_nobody(&[verb]),
            format!(
                "exit 1\n\
                 err: error: {verb} is for root: expected uid 0, got uid 65534\n\
                 err: hint: try again as root, for example with sudo\n"
            )
        );
    }
    assert_eq!(fake.commands(), []);
}

/// A child that is killed when the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_ninth_connection_of_one_user_is_told_why() {
    if !geteuid().is_root() {
        println!("skipped: becoming another user needs root");
        return;
    }
    let (_folder, program) = public_copy();
    let fake = Fake::showing(at_state(State::Idle));
    let socket = fake.socket().display().to_string();
    let watch = ["--socket", socket.as_str(), "status", "--watch"];
    let watchers: Vec<Running> = (0..7)
        .map(|_| {
            let mut child = process(&program, &watch).uid(NOBODY).gid(NOBODY).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            Running(child)
        })
        .collect();
    // The server has seen by now that the connections for the first lines are closed.
    std::thread::sleep(Duration::from_millis(300));
    // The eighth is this one's event stream, the ninth asks for its first line.
    let output = finish(process(&program, &watch).uid(NOBODY).gid(NOBODY));
    assert_eq!(
        transcript(&output, fake.folder()),
        "exit 1\n\
         err: error: uid 65534 has 8 connections already, the most one user may have; close some\n"
    );
    assert!(run(&fake, &["status"]).starts_with("exit 0\n"), "root is locked out");
    drop(watchers);
}

#[test]
fn watching_prints_a_line_for_each_change_and_survives_the_daemon() {
    let mut fake = Fake::showing(at_state(State::Idle));
    let socket = fake.socket().display().to_string();
    let mut child = Running(process(Path::new(PROGRAM), &["--socket", &socket, "status", "--watch"]).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(|line| line.unwrap()[21..].to_owned());
    assert_eq!(lines.next().unwrap(), "idle         This host is idle.");
    let line = EventLine {
        kind: EventKind::Transition,
        state: State::RolledBack,
        summary: "Back on 1.0.0.".into(),
        ..EventLine::default()
    };
    fake.events.send(line).unwrap();
    assert_eq!(lines.next().unwrap(), "rolled-back  Back on 1.0.0.");
    fake.stop();
    let mut said = String::new();
    BufReader::new(child.0.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "update-engined went away; waiting for it\n");
    kill(Pid::from_raw(i32::try_from(child.0.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}

#[test]
fn watching_as_json_prints_a_document_on_each_line() {
    let fake = Fake::showing(at_state(State::Idle));
    let socket = fake.socket().display().to_string();
    let mut child = Running(process(Path::new(PROGRAM), &["--socket", &socket, "status", "--watch", "--json"]).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Status>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next(), at_state(State::Idle));
    fake.status.send_replace(at_state(State::Checking).into());
    fake.events.send(EventLine::default()).unwrap();
    assert_eq!(next(), at_state(State::Checking));
}

#[test]
fn an_interrupted_follower_says_that_the_daemon_goes_on() {
    let fake = one(vec![transition(State::Fetching, "Writing 1.1.0 into slot b.")]);
    let socket = fake.socket().display().to_string();
    let mut child = Running(process(Path::new(PROGRAM), &["--socket", &socket, "update"]).spawn().unwrap());
    let mut errors = BufReader::new(child.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("Writing") {
        line.clear();
        errors.read_line(&mut line).unwrap();
    }
    kill(Pid::from_raw(i32::try_from(child.0.id()).unwrap()), Signal::SIGINT).unwrap();
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert_eq!(
        rest,
        "Not following any more; the daemon goes on. `updatectl status --watch` shows it, `updatectl cancel` gives it up.\n"
    );
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
}

#[test]
fn a_closed_pipe_is_no_panic_and_no_error() {
    let fake = Fake::showing(at_state(State::Failed));
    let socket = fake.socket().display().to_string();
    let run = |arguments: &[&str]| {
        let all: Vec<&str> = ["--socket", socket.as_str()].iter().chain(arguments).copied().collect();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        transcript(&finish(process(Path::new(PROGRAM), &all).stdout(writer)), fake.folder())
    };
    assert_eq!(run(&["status"]), "exit 0\n");
    assert_eq!(run(&["status", "--exit-code"]), "exit 30\n");
    assert_eq!(run(&["history"]), "exit 0\n");
    assert_eq!(run(&["--help"]), "exit 0\n");
}

/// Runs on a terminal of its own, as `script` makes one; what the terminal was sent. `None` where there is no `script`.
fn on_a_terminal(fake: &Fake, arguments: &str, no_colour: bool) -> Option<String> {
    let command = format!("{PROGRAM} --socket {} {arguments}", fake.socket().display());
    let mut script = process(Path::new("script"), &["-qec", &command, "/dev/null"]);
    script.env("PATH", "/usr/bin:/bin").env("SHELL", "/bin/sh");
    if no_colour {
        script.env("NO_COLOR", "1");
    }
    if Process::new("script").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        println!("skipped: there is no program `script` to make a terminal with");
        return None;
    }
    Some(String::from_utf8_lossy(&finish(&mut script).stdout).replace('\r', ""))
}

#[test]
fn a_terminal_gets_colour_unless_it_is_not_wanted() {
    let fake = Fake::showing(at_state(State::Idle));
    let Some(colourful) = on_a_terminal(&fake, "status", false) else { return };
    assert!(colourful.starts_with("\x1b[32mThis host is idle.\x1b[0m\n\n"), "{colourful:?}");
    let plain = on_a_terminal(&fake, "status", true).unwrap();
    assert!(plain.starts_with("This host is idle.\n\n") && !plain.contains('\x1b'), "{plain:?}");
}

#[test]
fn a_terminal_gets_a_bar_that_is_gone_in_the_end() {
    let fake = one(vec![
        transition(State::Fetching, "Writing 1.1.0 into slot b."),
        progress(400, Phase::Fetching),
        Then::Wait(Duration::from_millis(300)),
        progress(800, Phase::Proving),
        Then::Wait(Duration::from_millis(300)),
        done(State::Proven, "1.1.0 is proven."),
    ]);
    let Some(shown) = on_a_terminal(&fake, "update", false) else { return };
    assert!(shown.starts_with("Looking for an update.\nWriting 1.1.0 into slot b.\n"), "{shown:?}");
    assert!(shown.contains(" fetching [━") && shown.contains("]  50 % 100 MiB of 200 MiB, 2.9 MiB/s, 58 s left"), "{shown:?}");
    assert!(shown.contains("  proving [━") && shown.contains("] 100 % 200 MiB of 200 MiB"), "{shown:?}");
    let last = shown.trim_end().rsplit('\x1b').next().unwrap();
    assert!(last.ends_with("1.1.0 is proven."), "{shown:?}");
}

#[test]
fn a_terminal_gets_a_picture_that_is_drawn_again_in_place() {
    let fake = Fake::showing(at_state(State::Idle));
    let status = fake.status.clone();
    let events = fake.events.clone();
    let changing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        status.send_replace(at_state(State::Fetching).into());
        let _nobody_yet = events.send(EventLine::default());
    });
    let Some(shown) = on_a_terminal(&fake, "status --watch & sleep 2; kill -INT $!; wait $!", false) else { return };
    changing.join().unwrap();
    let pictures: Vec<&str> = shown.split("\x1b[H").skip(1).collect();
    assert!(pictures.len() >= 2, "{shown:?}");
    assert!(pictures[0].starts_with("\x1b[32mThis host is idle.\x1b[0m\x1b[K\n\x1b[K\n"), "{shown:?}");
    assert!(pictures.last().unwrap().starts_with("\x1b[1mThis host is fetching.\x1b[0m\x1b[K\n"), "{shown:?}");
    assert!(pictures.iter().all(|picture| picture.contains("\x1b[J")), "{shown:?}");
}

const CONFIG: &str = "[server]\napp_id = \"{e962}\"\nurl = \"http://me:secret@h/\"\n[disk]\ndevice = \"/dev/vda\"\n[slots]\na.root = \"partlabel:root-a\"\nb.root = \"partlabel:root-b\"\n";

/// Runs with a configuration of these words.
fn with_config(text: &str, arguments: &[&str]) -> String {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("config.toml");
    fs::File::create(&path).unwrap().write_all(text.replace("DIR", &folder.path().display().to_string()).as_bytes()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let path = path.display().to_string();
    let all: Vec<&str> = ["--config", path.as_str()].iter().chain(arguments).copied().collect();
    transcript(&finish(&mut process(Path::new(PROGRAM), &all)), folder.path())
}

#[test]
fn config_check_shows_what_the_files_come_to_without_credentials_and_without_a_daemon() {
    let shown = with_config(CONFIG, &["config", "--check"]);
    assert!(shown.starts_with("exit 0\nout: # from DIR/config.toml\nout: state_dir = \"/var/lib/update-engine\"\n"), "{shown}");
    assert!(shown.contains("out: url = \"http://***@h/\"\n") && !shown.contains("secret"), "{shown}");
}

#[test]
fn config_check_names_what_is_wrong() {
    assert_eq!(
        with_config(&CONFIG.replace("app_id", "app"), &["config", "--check"]),
        "exit 1\n\
         err: error: DIR/config.toml:2:1: server.app: unknown key, expected one of url, app_id, alias, channel, board, arch, check_interval_s, ca_file\n\
         err: hint: `updatectl config --default` shows every key with its default\n"
    );
    assert_eq!(
        with_config("trust.threshold = 0", &["config", "--check"]).lines().take(4).collect::<Vec<_>>().join("\n"),
        "exit 1\n\
         err: error: DIR/config.toml: server.app_id: expected the product's id, such as \"{e96281a6-…}\", got nothing\n\
         err:        DIR/config.toml:1:19: trust.threshold: expected 1 to 64 keys, got 0\n\
         err:        DIR/config.toml: disk.device: expected the disk that carries the slots, such as \"/dev/vda\", got nothing"
    );
}

#[test]
fn config_default_shows_the_packaged_file() {
    let shown = with_config(CONFIG, &["config", "--default"]);
    assert!(shown.starts_with("exit 0\nout: # Configuration of update-engined and updatectl.\n"), "{shown}");
}

#[test]
fn the_socket_comes_from_the_configuration() {
    let shown = with_config("socket = \"DIR/other.sock\"", &["status"]);
    assert!(shown.starts_with("exit 40\nerr: error: cannot reach update-engined on DIR/other.sock"), "{shown}");
    let folder = TempDir::new().unwrap();
    let output = finish(&mut process(Path::new(PROGRAM), &["--config", "/no/such/config.toml", "status"]));
    assert_eq!(
        transcript(&output, folder.path()),
        "exit 1\n\
         err: error: /no/such/config.toml: cannot read the configuration: No such file or directory (os error 2)\n\
         err: hint: name the daemon's socket with --socket PATH\n"
    );
}
