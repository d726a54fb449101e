//! Hooks as real programs: what they are told, what is kept of what they say, and that nothing they do holds the daemon up.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that is skipped says why"
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use update_engine::hooks::{
    AfterFailure, Exit, GateAnswer, HookContext, HookResult, HooksError, MAX_HOOKS, MAX_OUTPUT_BYTES, TimeLimit, run,
};

/// No busy machine takes so long for what is done at once; what is not takes longer.
const LONG: Duration = Duration::from_secs(30);

struct Hooks {
    folder: TempDir,
}

impl Hooks {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        self.script_with_mode(name, text, 0o755)
    }

    /// Written by another process: a file that this one has open for writing while a neighbour forks cannot be executed.
    fn script_with_mode(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        let mut writer = Command::new("sh")
            .args(["-c", "cat > \"$0\" && chmod \"$1\" \"$0\""])
            .arg(&path)
            .arg(format!("{mode:o}"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writer.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
        path
    }

    fn run(&self) -> Result<Vec<HookResult>, HooksError> {
        self.run_each(Duration::from_secs(20))
    }

    fn run_each(&self, each: Duration) -> Result<Vec<HookResult>, HooksError> {
        self.run_with(TimeLimit { each, until: None }, AfterFailure::GoOn)
    }

    fn run_with(&self, limit: TimeLimit, after: AfterFailure) -> Result<Vec<HookResult>, HooksError> {
        on_one_thread(run(self.folder.path(), &context(), limit, after))
    }
}

/// The daemon's kind of runtime.
fn on_one_thread<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn context() -> HookContext {
    HookContext { attempt: "5d1c".into(), from: "1.0.0".into(), to: "1.1.0".into(), slot: "b".into() }
}

fn names(results: &[HookResult]) -> Vec<&str> {
    results.iter().map(|result| result.name.as_str()).collect()
}

#[test]
fn a_folder_that_does_not_exist_has_no_hooks() {
    let hooks = Hooks::new();
    let none = on_one_thread(run(
        &hooks.path("gate.d"),
        &context(),
        TimeLimit { each: Duration::from_secs(1), until: None },
        AfterFailure::Stop,
    ));
    assert_eq!(none.unwrap(), []);
}

#[test]
fn hooks_run_in_order_of_name_and_only_what_is_a_hook_runs() {
    let hooks = Hooks::new();
    for name in ["20-second", "10-first", "30-third.sh", "10-first~", ".hidden", "40.dpkg-old"] {
        hooks.script(name, "exit 0");
    }
    hooks.script_with_mode("50-not-executable", "exit 0", 0o644);
    fs::create_dir(hooks.path("60-folder")).unwrap();
    symlink("10-first", hooks.path("70-link")).unwrap();
    symlink("nowhere", hooks.path("80-broken-link")).unwrap();
    assert_eq!(names(&hooks.run().unwrap()), ["10-first", "20-second", "30-third.sh", "70-link"]);
}

#[test]
fn a_hook_is_told_of_the_attempt_and_sees_nothing_of_the_daemon() {
    let hooks = Hooks::new();
    hooks.script("env", "/usr/bin/env | sort; pwd; cat; ps -o pgid= -p $$ | tr -d ' ' > /dev/null");
    let result = hooks.run().unwrap().remove(0);
    let lines: Vec<&str> = result.output.lines().filter(|line| !line.starts_with("_=") && !line.starts_with("SHLVL")).collect();
    assert_eq!(
        lines,
        [
            "OTA_ATTEMPT=5d1c",
            "OTA_FROM=1.0.0",
            "OTA_SLOT=b",
            "OTA_TO=1.1.0",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PWD=/",
            "/",
        ]
    );
}

#[test]
fn a_gate_that_exits_75_says_not_now_with_its_first_line() {
    let hooks = Hooks::new();
    hooks.script("backup", "echo warming up >&2; echo; echo backup runs until 03:00; echo more; exit 75");
    let result = hooks.run().unwrap().remove(0);
    assert_eq!(result.exit, Exit::Code(75));
    assert_eq!(result.gate(), GateAnswer::NotNow { reason: "backup: backup runs until 03:00".into() });
}

#[test]
fn after_a_failure_the_others_run_or_do_not_as_asked() {
    let hooks = Hooks::new();
    hooks.script("1", "exit 0");
    hooks.script("2", "exit 3");
    hooks.script("3", "kill -9 $$");
    let limit = TimeLimit { each: Duration::from_secs(20), until: None };
    let exits = |after| hooks.run_with(limit, after).unwrap().into_iter().map(|result| result.exit).collect::<Vec<_>>();
    assert_eq!(exits(AfterFailure::GoOn), [Exit::Code(0), Exit::Code(3), Exit::Signal(9)]);
    assert_eq!(exits(AfterFailure::Stop), [Exit::Code(0), Exit::Code(3)]);
}

#[test]
fn a_hook_that_cannot_be_started_is_a_result_and_not_a_panic() {
    let hooks = Hooks::new();
    let path = hooks.script("bad", "");
    let status = Command::new("sh").args(["-c", "printf '#!/no/such/shell\\n' > \"$0\""]).arg(&path).status().unwrap();
    assert!(status.success());
    let result = hooks.run().unwrap().remove(0);
    assert_eq!(result.exit, Exit::NotStarted("No such file or directory (os error 2)".into()));
    assert!(matches!(result.gate(), GateAnswer::NotNow { .. }));
}

#[test]
fn a_hook_that_does_not_end_is_stopped_and_its_last_words_are_kept() {
    let hooks = Hooks::new();
    hooks.script("slow", "exec 2>/dev/null; trap 'echo asked to stop; exit 0' TERM; echo started; while :; do sleep 0.1; done");
    let started = Instant::now();
    let result = hooks.run_each(Duration::from_millis(300)).unwrap().remove(0);
    assert_eq!(result.exit, Exit::TimedOut);
    assert_eq!(result.output, "started\nasked to stop\n");
    // One that has to be killed takes five seconds more.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn a_hook_that_ignores_being_asked_is_killed_with_everything_in_its_group() {
    let hooks = Hooks::new();
    let marker = hooks.path("alive");
    let text = format!(
        "trap '' TERM; (while :; do date > {marker}; sleep 0.05; done) & echo started; while :; do sleep 0.1; done",
        marker = marker.display()
    );
    hooks.script("stubborn", &text);
    let started = Instant::now();
    let result = hooks.run_each(Duration::from_millis(300)).unwrap().remove(0);
    assert_eq!(result.exit, Exit::TimedOut);
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
    fs::remove_file(&marker).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!marker.exists(), "a child of the hook still runs");
}

#[test]
fn what_a_hook_started_has_as_long_to_stop_as_the_hook_itself() {
    let hooks = Hooks::new();
    // A shell without a trap ends at once; its helper needs a second to save something.
    let text =
        "exec 2>/dev/null; (trap 'sleep 1; echo saved; exit 0' TERM; while :; do sleep 0.1; done) & echo started; sleep 30";
    hooks.script("with-helper", text);
    let started = Instant::now();
    let result = hooks.run_each(Duration::from_millis(300)).unwrap().remove(0);
    assert_eq!((result.exit, result.output.as_str()), (Exit::TimedOut, "started\nsaved\n"));
    assert!(started.elapsed() < Duration::from_secs(5), "nobody was left to wait for: {:?}", started.elapsed());
}

#[test]
fn a_helper_that_ignores_being_asked_is_killed_when_its_time_is_over() {
    let hooks = Hooks::new();
    hooks.script("with-helper", "(trap '' TERM; while :; do sleep 0.1; done) & echo started; sleep 30");
    let started = Instant::now();
    let result = hooks.run_each(Duration::from_millis(300)).unwrap().remove(0);
    assert_eq!((result.exit, result.output.as_str()), (Exit::TimedOut, "started\n"));
    assert!((Duration::from_secs(5)..LONG).contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[test]
fn a_child_left_in_the_background_with_the_pipe_open_holds_nobody_up() {
    let hooks = Hooks::new();
    hooks.script("forks", "sleep 300 & echo $!; exit 0");
    let started = Instant::now();
    let result = hooks.run().unwrap().remove(0);
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
    assert_eq!(result.exit, Exit::Code(0));
    let child: i32 = result.first_line.parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::SIGKILL).unwrap();
}

#[test]
fn of_a_huge_output_the_beginning_and_the_end_are_kept() {
    let hooks = Hooks::new();
    hooks.script("loud", "echo first; head -c 8000000 /dev/zero | tr '\\0' x; echo; echo last");
    let result = hooks.run().unwrap().remove(0);
    assert_eq!(result.exit, Exit::Code(0));
    assert_eq!(result.first_line, "first");
    assert!(result.output.starts_with("first\nxxx") && result.output.ends_with("xxx\nlast\n"));
    assert!(result.output.contains("bytes left out]"));
    assert!(result.output.len() <= MAX_OUTPUT_BYTES + 64, "{}", result.output.len());
}

#[test]
fn a_hook_that_never_stops_talking_is_stopped_all_the_same() {
    let hooks = Hooks::new();
    hooks.script("babbler", "yes");
    let result = hooks.run_each(Duration::from_millis(300)).unwrap().remove(0);
    assert_eq!((result.exit, result.first_line.as_str()), (Exit::TimedOut, "y"));
}

#[test]
fn when_the_time_for_all_is_spent_the_rest_is_not_started() {
    let hooks = Hooks::new();
    hooks.script("1", "sleep 30");
    hooks.script("2", "exit 0");
    let results = on_one_thread(async {
        let until = tokio::time::Instant::now() + Duration::from_millis(200);
        let limit = TimeLimit { each: Duration::from_secs(20), until: Some(until) };
        run(hooks.folder.path(), &context(), limit, AfterFailure::GoOn).await.unwrap()
    });
    let exits: Vec<&Exit> = results.iter().map(|result| &result.exit).collect();
    assert_eq!(exits, [&Exit::TimedOut, &Exit::NotStarted("no time was left".into())]);
}

#[test]
fn no_zombie_and_no_process_stays_when_a_hook_is_given_up_halfway() {
    let hooks = Hooks::new();
    let pid_file = hooks.path("pid");
    hooks.script("long", &format!("echo $$ > {}; exec sleep 30", pid_file.display()));
    on_one_thread(async {
        let limit = TimeLimit { each: Duration::from_secs(30), until: None };
        let context = context();
        let running = run(hooks.folder.path(), &context, limit, AfterFailure::Stop);
        let given_up = tokio::time::timeout(Duration::from_millis(500), running).await;
        assert!(given_up.is_err());
        let pid = fs::read_to_string(&pid_file).unwrap();
        let process = format!("/proc/{}", pid.trim());
        for _ in 0..100 {
            if !Path::new(&process).exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{process} is still there: {}", fs::read_to_string(format!("{process}/status")).unwrap_or_default());
    });
}

#[test]
fn design_11_16_hooks_that_others_can_change_are_not_run() {
    let hooks = Hooks::new();
    hooks.script("1-good", "exit 0");
    hooks.script_with_mode("2-open", "exit 0", 0o777);
    let error = hooks.run().unwrap_err().to_string();
    let folder = hooks.folder.path().display().to_string();
    assert_eq!(
        error,
        format!(
            "the hooks in {folder} are not run: {folder}/2-open: expected nobody but its owner to be able to write it, got mode 0777"
        )
    );
}

#[test]
fn too_many_hooks_are_refused() {
    let hooks = Hooks::new();
    let first = hooks.script("000", "exit 0");
    for number in 1..=MAX_HOOKS {
        fs::hard_link(&first, hooks.path(&format!("{number:03}"))).unwrap();
    }
    assert!(hooks.run().unwrap_err().to_string().ends_with("expected at most 64 hooks, got more"));
}
