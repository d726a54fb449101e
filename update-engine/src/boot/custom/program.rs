//! Calls of the program: bounded in time and output, and nothing of it left behind.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::marks::Said;
use crate::boot::BootError;

/// Time that one call has.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// Most output that is an answer.
const MAX_OUTPUT_BYTES: usize = 4096;
/// Most of what it says about an error that is shown.
const MAX_SHOWN_CHARS: usize = 512;
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(2);
/// Time a killed process has to disappear, and its last words to arrive. One that hangs in the kernel is left to it.
const KILL_GRACE: Duration = Duration::from_secs(2);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program, and what it calls the slots.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    /// In the order of the slots.
    names: [String; 2],
    timeout: Duration,
}

/// How a call ended, and what it said.
struct Outcome {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Program {
    pub(super) const fn new(path: PathBuf, names: [String; 2], timeout: Duration) -> Self {
        Self { path, names, timeout }
    }

    /// `get-primary`.
    pub(super) fn primary(&self) -> Result<usize, BootError> {
        let answer = self.answer(&["get-primary"])?;
        self.slot_named(&answer).ok_or_else(|| self.unexpected(&["get-primary"], &self.names.join(" or "), &answer))
    }

    /// `get-state`.
    pub(super) fn state(&self, slot: usize) -> Result<Said, BootError> {
        let arguments = ["get-state", self.names[slot].as_str()];
        let answer = self.answer(&arguments)?;
        Said::from_word(&answer).ok_or_else(|| self.unexpected(&arguments, "good or bad", &answer))
    }

    /// `set-primary`, and asks whether it is.
    pub(super) fn set_primary(&self, slot: usize) -> Result<(), BootError> {
        let arguments = ["set-primary", self.names[slot].as_str()];
        self.answer(&arguments)?;
        let got = self.primary()?;
        if got == slot { Ok(()) } else { Err(self.not_set(&arguments, &format!("get-primary prints {}", self.names[got]))) }
    }

    /// `set-state`, and asks whether it is.
    pub(super) fn set_state(&self, slot: usize, said: Said) -> Result<(), BootError> {
        let arguments = ["set-state", self.names[slot].as_str(), said.as_str()];
        self.answer(&arguments)?;
        let got = self.state(slot)?;
        let words = || format!("get-state {} prints {}", self.names[slot], got.as_str());
        if got == said { Ok(()) } else { Err(self.not_set(&arguments, &words())) }
    }

    /// `get-current`, which need not be there: a program without it fails, or prints nothing.
    pub(super) fn current(&self) -> Result<Option<usize>, BootError> {
        let outcome = self.call(&["get-current"])?;
        let answer = text(&outcome.stdout);
        if !outcome.status.success() || answer.is_empty() {
            return Ok(None);
        }
        let slot = self.slot_named(&answer);
        slot.map(Some).ok_or_else(|| self.unexpected(&["get-current"], &self.names.join(" or "), &answer))
    }

    pub(super) fn name(&self, slot: usize) -> &str {
        &self.names[slot]
    }

    fn slot_named(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// What it prints when it succeeds.
    fn answer(&self, arguments: &[&str]) -> Result<String, BootError> {
        let outcome = self.call(arguments)?;
        if outcome.status.success() {
            return Ok(text(&outcome.stdout));
        }
        let how = match (outcome.status.code(), outcome.status.signal()) {
            (Some(code), _) => format!("exited with {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        };
        Err(self.failed(arguments, how, &outcome.stderr))
    }

    fn call(&self, arguments: &[&str]) -> Result<Outcome, BootError> {
        let mut command = Command::new(&self.path);
        command.args(arguments).env_clear().env("PATH", PATH).current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |error: io::Error| self.failed(arguments, format!("could not be started: {error}"), &[]);
        let mut child = command.spawn().map_err(failed)?;
        let (stdout, stderr) = (listen(child.stdout.take()), listen(child.stderr.take()));
        let in_time = wait(&child, Instant::now() + self.timeout);
        let status = kill(&mut child);
        let until = Instant::now() + KILL_GRACE;
        let (stdout, stderr) = (heard(&stdout, until), heard(&stderr, until));
        match (in_time, status) {
            (true, Some(status)) if stdout.len() <= MAX_OUTPUT_BYTES => Ok(Outcome { status, stdout, stderr }),
            (true, Some(_)) => Err(self.failed(arguments, format!("printed more than {MAX_OUTPUT_BYTES} bytes"), &stderr)),
            _ => {
                let how = format!("was not done after {} seconds and was stopped", self.timeout.as_secs());
                Err(self.failed(arguments, how, &stderr))
            }
        }
    }

    fn unexpected(&self, arguments: &[&str], expected: &str, got: &str) -> BootError {
        let got: String = got.chars().take(MAX_SHOWN_CHARS).collect();
        self.failed(arguments, format!("was expected to print {expected}, and printed {got:?}"), &[])
    }

    fn not_set(&self, arguments: &[&str], got: &str) -> BootError {
        self.failed(arguments, format!("succeeded, and then {got}"), &[])
    }

    fn failed(&self, arguments: &[&str], how: String, stderr: &[u8]) -> BootError {
        let said: String = text(stderr).chars().take(MAX_SHOWN_CHARS).collect();
        let why = if said.is_empty() { how } else { format!("{how}: {said}") };
        BootError::Program { call: format!("{} {}", self.path.display(), arguments.join(" ")), why }
    }
}

/// Waits until it has ended, and leaves it a zombie, so that its process group cannot become somebody else's meanwhile.
fn wait(child: &Child, until: Instant) -> bool {
    let Ok(id) = i32::try_from(child.id()) else { return false };
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    loop {
        match waitid(Id::Pid(Pid::from_raw(id)), flags) {
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::EINTR) if Instant::now() < until => thread::sleep(LOOK),
            Ok(WaitStatus::StillAlive) | Err(_) => return false,
            Ok(_) => return true,
        }
    }
}

/// Ends what it left running in its group, and itself; its status, unless it hangs in the kernel.
fn kill(child: &mut Child) -> Option<ExitStatus> {
    if let Ok(id) = i32::try_from(child.id()) {
        // An error means that nobody is left to be killed.
        let _nobody_left = killpg(Pid::from_raw(id), Signal::SIGKILL);
    }
    let until = Instant::now() + KILL_GRACE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => thread::sleep(LOOK),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Reads to the end, and keeps one byte more than an answer may have.
fn listen(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut pipe) = pipe {
            let cap = u64::try_from(MAX_OUTPUT_BYTES + 1).unwrap_or(u64::MAX);
            // What cannot be read is not there.
            let _error = pipe.by_ref().take(cap).read_to_end(&mut kept);
            // Whoever prints more is not held up until it is killed.
            let _error = io::copy(&mut pipe, &mut io::sink());
        }
        // Nobody listens any more when something outside of the group held the pipe open.
        let _nobody = sender.send(kept);
    });
    receiver
}

fn heard(receiver: &Receiver<Vec<u8>>, until: Instant) -> Vec<u8> {
    receiver.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap_or_default()
}

/// One line that may stand on a terminal, without the blanks around it.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.trim().replace('\n', "; ");
    line.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    /// Writes a program from another process: one that this process had open for writing could not be started while any test forks.
    pub(crate) fn script(folder: &Path, body: &str) -> PathBuf {
        let (text, path) = (folder.join("program.txt"), folder.join("program"));
        std::fs::write(&text, format!("#!/bin/sh\n{body}\n")).unwrap();
        let install = Command::new("install").arg("-m755").args([&text, &path]).status().unwrap();
        assert!(install.success());
        path
    }

    fn program(folder: &Path, body: &str) -> Program {
        Program::new(script(folder, body), ["A", "B"].map(str::to_owned), Duration::from_secs(5))
    }

    /// The words of what a program with this body makes of a call.
    fn words<T: std::fmt::Debug>(body: &str, call: impl Fn(&Program) -> Result<T, BootError>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let error = call(&program(folder.path(), body)).unwrap_err().to_string();
        error.replace(&folder.path().display().to_string(), "")
    }

    #[test]
    fn answers_are_read_without_the_blanks_around_them() {
        let folder = tempfile::tempdir().unwrap();
        let body = "case \"$1 $2\" in 'get-primary ') echo '  B ';; 'get-state A') printf good;; 'get-state B') echo bad;; esac";
        let program = program(folder.path(), body);
        assert_eq!(program.primary().unwrap(), 1);
        assert_eq!((program.state(0).unwrap(), program.state(1).unwrap()), (Said::Good, Said::Bad));
        assert_eq!(program.current().unwrap(), None, "it prints nothing");
    }

    #[test]
    fn an_answer_that_is_none_is_an_error_that_shows_it() {
        assert_eq!(words("echo C", Program::primary), "`/program get-primary` was expected to print A or B, and printed \"C\"");
        assert_eq!(words("true", |p| p.state(1)), "`/program get-state B` was expected to print good or bad, and printed \"\"");
        assert_eq!(words("echo a", Program::current), "`/program get-current` was expected to print A or B, and printed \"a\"");
    }

    #[test]
    fn a_failure_shows_how_it_ended_and_what_it_said() {
        assert_eq!(
            words("echo no device >&2; printf '\\033[2Jreally\\n' >&2; exit 3", |p| p.set_primary(1)),
            "`/program set-primary B` exited with 3: no device; [2Jreally"
        );
        assert_eq!(words("kill -SEGV $$", |p| p.set_state(0, Said::Bad)), "`/program set-state A bad` was ended by signal 11");
        assert_eq!(words("echo usage; exit 1", Program::primary), "`/program get-primary` exited with 1");
        let missing = Program::new(PathBuf::from("/nowhere/program"), ["A", "B"].map(str::to_owned), TIMEOUT);
        assert_eq!(
            missing.primary().unwrap_err().to_string(),
            "`/nowhere/program get-primary` could not be started: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_change_that_did_not_take_is_an_error() {
        assert_eq!(
            words("case $1 in get-primary) echo A;; esac", |p| p.set_primary(1)),
            "`/program set-primary B` succeeded, and then get-primary prints A"
        );
        assert_eq!(
            words("case $1 in get-state) echo good;; esac", |p| p.set_state(1, Said::Bad)),
            "`/program set-state B bad` succeeded, and then get-state B prints good"
        );
    }

    #[test]
    fn a_program_without_get_current_is_fine() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(program(folder.path(), "echo unknown verb; exit 1").current().unwrap(), None);
    }

    #[test]
    fn more_output_than_an_answer_has_is_an_error_and_holds_nobody_up() {
        assert_eq!(words("head -c 1000000 /dev/zero", Program::primary), "`/program get-primary` printed more than 4096 bytes");
    }

    #[test]
    fn a_program_that_is_not_done_in_its_time_is_stopped_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("alive");
        let body = format!("(sleep 2; echo still here > {}) & echo waiting >&2; sleep 60", mark.display());
        let mut program = program(folder.path(), &body);
        program.timeout = Duration::from_millis(500);
        let began = Instant::now();
        let words = program.primary().unwrap_err().to_string();
        assert!(began.elapsed() < Duration::from_secs(30));
        assert!(words.ends_with("get-primary` was not done after 0 seconds and was stopped: waiting"), "{words}");
        thread::sleep(Duration::from_millis(2500));
        assert!(!mark.exists(), "what it started goes on");
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let began = Instant::now();
        assert_eq!(program(folder.path(), "sleep 60 & echo B").primary().unwrap(), 1);
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn nothing_of_the_daemons_environment_reaches_it() {
        let folder = tempfile::tempdir().unwrap();
        let body = "[ \"$(env | grep -cvE '^(PATH|PWD|SHLVL|_)=')\" = 0 ] && [ \"$(pwd)\" = / ] && echo A";
        assert_eq!(program(folder.path(), body).primary().unwrap(), 0);
    }
}
