//! Hooks: small programs of the host's owner that are asked before, during and after an update.
//!
//! They stand in `hooks_dir/{gate,drain,undrain,health/required,health/wanted}.d/` (those of health also in
//! `hooks_dir/health.d/{required,wanted}.d/`: both are one list) and run one after the other in the order of their names, each with the environment `OTA_ATTEMPT OTA_FROM OTA_TO OTA_SLOT` and a plain `PATH`, `/` as its folder,
//! nothing on its input, and a process group of its own. Regular executable files count (or links to such); hidden files and
//! what editors and packages leave behind do not. A folder that does not exist has no hooks.
//!
//! Promises: [`run`] ends, and [`run_until`] soon after it was told to. A hook that is not done in its time, or is no longer wanted,
//! is asked to stop (`TERM` to its group), then killed, with what it started in its group; all of them have the same time. One that
//! leaves something running in the background, even with the pipe open, is not waited for. No zombie stays. At most
//! [`MAX_OUTPUT_BYTES`] of what it said are kept: the beginning and the end.
//!
//! Never: runs a file that somebody other than root could have changed (design 11.16), passes on the daemon's environment, or
//! takes a missing answer for a yes.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::config::trust::{Target, check_trust};

mod transcript;

pub use transcript::MAX_OUTPUT_BYTES;
use transcript::Transcript;

/// Every folder of hooks, below `hooks_dir`.
pub const FOLDERS: [&str; 7] =
    ["gate.d", "drain.d", "undrain.d", REQUIRED_CHECKS[0], REQUIRED_CHECKS[1], WANTED_CHECKS[0], WANTED_CHECKS[1]];
/// Both spellings of the folder of required health checks.
pub const REQUIRED_CHECKS: [&str; 2] = ["health/required.d", "health.d/required.d"];
/// Both spellings of the folder of wanted health checks.
pub const WANTED_CHECKS: [&str; 2] = ["health/wanted.d", "health.d/wanted.d"];
/// Folders with such a name that hold no hooks: the configuration's own by default, and what the health checks lie in.
const OTHER_FOLDERS: [&str; 2] = ["config.d", "health.d"];
/// Most entries of a folder that are looked at for a name that is not known, and most such names.
const MAX_ENTRIES: usize = 4096;
const MAX_UNKNOWN: usize = 16;

/// Exit code of a gate that says *not now*: `EX_TEMPFAIL` of sysexits.
pub const NOT_NOW: i32 = 75;

/// Most hooks in one folder: at a minute each, more would hold an update for an hour.
pub const MAX_HOOKS: usize = 64;

/// Time between asking a hook, and what it started, to stop and killing whoever is left.
const TERM_GRACE: Duration = Duration::from_secs(5);
/// How often it is looked whether what a hook started has ended: nobody tells.
const GROUP_LOOK: Duration = Duration::from_millis(20);
/// Time a killed process has to disappear; one that hangs in the kernel does not, and is left to it.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// Time for the last words after a hook has ended, while something it started holds the pipe open.
const DRAIN_GRACE: Duration = Duration::from_millis(200);
/// Where hooks find programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What hooks are told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookContext {
    /// `OTA_ATTEMPT`: the attempt's id.
    pub attempt: String,
    /// `OTA_FROM`: the version that ran when the attempt began.
    pub from: String,
    /// `OTA_TO`: the version it leads to.
    pub to: String,
    /// `OTA_SLOT`: the slot it leads to.
    pub slot: String,
}

/// What to do with the hooks after one that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// Do not run them.
    Stop,
    /// Run them all the same.
    GoOn,
}

/// How long hooks may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimit {
    /// Each of them.
    pub each: Duration,
    /// All of them together.
    pub until: Option<Instant>,
}

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// It was not done in its time.
    TimedOut,
    /// It was no longer wanted.
    Stopped,
    /// It could not be started.
    NotStarted(String),
}

/// What became of one hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookResult {
    /// Its file name.
    pub name: String,
    /// How it ended.
    pub exit: Exit,
    /// First line it wrote that is not empty, on its output rather than its error output.
    pub first_line: String,
    /// Both outputs as they came, without control characters: the first and the last part where it was long.
    pub output: String,
}

/// What a gate said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateAnswer {
    /// Go on.
    Go,
    /// Wait, and why.
    NotNow {
        /// Words for people.
        reason: String,
    },
}

/// Why hooks were not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HooksError {
    /// The folder cannot be read.
    #[error("cannot read the hooks in {}", folder.display())]
    Io {
        /// The folder.
        folder: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// Somebody else could have changed them.
    #[error("the hooks in {} are not run: {reasons}", folder.display())]
    Untrusted {
        /// The folder.
        folder: PathBuf,
        /// Which, and who.
        reasons: String,
    },
    /// Too many.
    #[error("{}: expected at most {MAX_HOOKS} hooks, got more", folder.display())]
    TooMany {
        /// The folder.
        folder: PathBuf,
    },
}

impl HookResult {
    fn not_started(name: String, why: impl Into<String>) -> Self {
        Self { name, exit: Exit::NotStarted(why.into()), first_line: String::new(), output: String::new() }
    }

    /// It ran and exited 0.
    pub fn is_ok(&self) -> bool {
        self.exit == Exit::Code(0)
    }

    /// What a gate's result means: only exit 0 is a yes.
    pub fn gate(&self) -> GateAnswer {
        match self.exit {
            Exit::Code(0) => GateAnswer::Go,
            Exit::Code(NOT_NOW) if !self.first_line.is_empty() => {
                GateAnswer::NotNow { reason: format!("{}: {}", self.name, self.first_line) }
            }
            Exit::Code(NOT_NOW) => GateAnswer::NotNow { reason: format!("{} says not now, without a reason", self.name) },
            _ => GateAnswer::NotNow { reason: self.words() },
        }
    }

    /// One sentence: which hook, how it ended, what it said first.
    pub fn words(&self) -> String {
        let how = match &self.exit {
            Exit::Code(0) => "succeeded".to_owned(),
            Exit::Code(code) => format!("exited with {code}"),
            Exit::Signal(number) => format!("was ended by signal {number}"),
            Exit::Stopped => "was stopped because it was no longer wanted".to_owned(),
            Exit::TimedOut => "was not done in its time and was stopped".to_owned(),
            Exit::NotStarted(why) => format!("could not be started: {why}"),
        };
        let separator = if self.first_line.is_empty() { "" } else { ": " };
        format!("{} {how}{separator}{}", self.name, self.first_line)
    }
}

impl TimeLimit {
    /// The time of the next hook, if there is any left.
    fn next(self) -> Option<Duration> {
        let left = self.until.map_or(self.each, |until| until.saturating_duration_since(Instant::now()));
        (!left.is_zero()).then_some(left.min(self.each))
    }
}

/// Tells hooks that they are no longer wanted. All clones tell the same ones.
#[derive(Debug, Clone)]
pub struct Stopper(watch::Sender<bool>);

/// Learns that hooks are no longer wanted.
#[derive(Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Both ends.
#[must_use]
pub fn stopper() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// They are no longer wanted.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    fn is_told(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends when it is told; never if nobody is left who could.
    async fn told(&mut self) {
        if self.0.wait_for(|told| *told).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Runs the hooks of a folder. The results are those of the hooks whose turn came, in order.
pub async fn run(
    folder: &Path,
    context: &HookContext,
    limit: TimeLimit,
    after_failure: AfterFailure,
) -> Result<Vec<HookResult>, HooksError> {
    let (_nobody_stops, mut stop) = stopper();
    run_until(folder, context, limit, after_failure, &mut stop).await
}

/// Runs the hooks of a folder until they are no longer wanted: none begins then, and the one that runs is [`Exit::Stopped`].
pub async fn run_until(
    folder: &Path,
    context: &HookContext,
    limit: TimeLimit,
    after_failure: AfterFailure,
    stop: &mut Stop,
) -> Result<Vec<HookResult>, HooksError> {
    Ok(run_each(list(folder)?, context, limit, after_failure, stop).await)
}

/// Runs the hooks of several folders as those of one.
pub async fn run_merged(
    folders: &[PathBuf],
    context: &HookContext,
    limit: TimeLimit,
    after_failure: AfterFailure,
) -> Result<Vec<HookResult>, HooksError> {
    let (_nobody_stops, mut stop) = stopper();
    Ok(run_each(list_merged(folders)?, context, limit, after_failure, &mut stop).await)
}

async fn run_each(
    hooks: Vec<PathBuf>,
    context: &HookContext,
    limit: TimeLimit,
    after_failure: AfterFailure,
    stop: &mut Stop,
) -> Vec<HookResult> {
    let mut results = Vec::new();
    for path in hooks {
        let program = Program::hook(&path, context);
        let result = match limit.next() {
            _ if stop.is_told() => HookResult { exit: Exit::Stopped, ..HookResult::not_started(program.name, "") },
            Some(timeout) => run_program_until(program, timeout, stop).await,
            None => HookResult::not_started(program.name, "no time was left"),
        };
        let is_last = result.exit == Exit::Stopped || (after_failure == AfterFailure::Stop && !result.is_ok());
        results.push(result);
        if is_last {
            break;
        }
    }
    results
}

/// The hooks of several folders in the order of their names, whichever they lie in. A file that is met twice under one name, because one
/// folder or file is a link to the other, is one hook.
pub fn list_merged(folders: &[PathBuf]) -> Result<Vec<PathBuf>, HooksError> {
    let mut hooks = Vec::new();
    for folder in folders {
        hooks.extend(list(folder)?);
    }
    hooks.sort_by(|one, other| one.file_name().cmp(&other.file_name()).then_with(|| one.cmp(other)));
    let mut known = BTreeSet::new();
    hooks.retain(|hook| known.insert((hook.file_name().map(ToOwned::to_owned), file_of(hook))));
    match folders.last() {
        Some(folder) if hooks.len() > MAX_HOOKS => Err(HooksError::TooMany { folder: folder.clone() }),
        _ => Ok(hooks),
    }
}

fn file_of(hook: &Path) -> Option<(u64, u64)> {
    fs::metadata(hook).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Folders that look as if they held hooks and are called like none: a slip in a name must not pass for having no checks.
pub fn unknown_folders(hooks_dir: &Path) -> Vec<PathBuf> {
    let mut unknown: Vec<PathBuf> =
        ["", "health", "health.d"].into_iter().flat_map(|parent| unknown_in(hooks_dir, parent)).collect();
    unknown.sort();
    unknown.truncate(MAX_UNKNOWN);
    unknown
}

fn unknown_in(hooks_dir: &Path, parent: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(hooks_dir.join(parent)) else { return Vec::new() };
    let names = entries.take(MAX_ENTRIES).flatten().map(|entry| Path::new(parent).join(entry.file_name()));
    let is_known = |name: &Path| FOLDERS.iter().chain(&OTHER_FOLDERS).any(|known| Path::new(known) == name);
    let unknown = names.filter(|name| name.extension().is_some_and(|end| end == "d") && !is_known(name));
    unknown.map(|name| hooks_dir.join(name)).filter(|path| path.is_dir()).collect()
}

/// The hooks of a folder in the order of their names, after looking at who could have changed them.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>, HooksError> {
    let failed = |source| HooksError::Io { folder: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    trust(folder)?;
    let mut hooks = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if !is_hook(&path) {
            continue;
        }
        if hooks.len() == MAX_HOOKS {
            return Err(HooksError::TooMany { folder: folder.to_owned() });
        }
        hooks.push(path);
    }
    hooks.sort();
    Ok(hooks)
}

fn trust(folder: &Path) -> Result<(), HooksError> {
    let targets = [Target::FolderAndFiles(folder.to_owned())];
    check_trust(&targets, geteuid().as_raw()).map_err(|errors| {
        let reasons = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        HooksError::Untrusted { folder: folder.to_owned(), reasons }
    })
}

fn is_hook(path: &Path) -> bool {
    const ANY_EXECUTE: u32 = 0o111;
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let executable =
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & ANY_EXECUTE != 0);
    executable && !is_left_over(&name)
}

/// Hidden files, and the names under which editors and package managers keep other versions of a file.
fn is_left_over(name: &str) -> bool {
    const ENDS: [&str; 12] =
        ["~", "#", ".bak", ".orig", ".rej", ".swp", ".tmp", ".rpmnew", ".rpmsave", ".rpmorig", ".pacnew", ".pacsave"];
    name.starts_with(['.', '#']) || name.contains(".dpkg-") || ENDS.iter().any(|end| name.ends_with(end))
}

/// A program to run like a hook.
pub(crate) struct Program {
    name: String,
    command: Command,
}

impl Program {
    fn hook(path: &Path, context: &HookContext) -> Self {
        let mut program = Self::new(path, &[]);
        program
            .command
            .env("OTA_ATTEMPT", &context.attempt)
            .env("OTA_FROM", &context.from)
            .env("OTA_TO", &context.to)
            .env("OTA_SLOT", &context.slot);
        program
    }

    pub(crate) fn new(path: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(path);
        command.args(arguments).env_clear().env("PATH", PATH).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { name, command }
    }
}

/// Runs one program to its end, or to the end of its time.
pub(crate) async fn run_program(program: Program, timeout: Duration) -> HookResult {
    let (_nobody_stops, mut stop) = stopper();
    run_program_until(program, timeout, &mut stop).await
}

async fn run_program_until(program: Program, timeout: Duration, stop: &mut Stop) -> HookResult {
    let Program { name, mut command } = program;
    let deadline = Instant::now() + timeout;
    let mut running = match command.spawn().and_then(Running::new) {
        Ok(running) => running,
        Err(error) => return HookResult::not_started(name, error.to_string()),
    };
    let exit = running.finish(deadline, stop).await;
    running.last_words(Instant::now() + DRAIN_GRACE).await;
    let (first_line, output) = running.transcript.finish();
    HookResult { name, exit, first_line, output }
}

/// A started program and what it has said.
struct Running {
    child: Child,
    group: Group,
    pipes: [Option<Pipe>; 2],
    transcript: Transcript,
}

type Pipe = Box<dyn AsyncRead + Send + Unpin>;

impl Running {
    fn new(mut child: Child) -> io::Result<Self> {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).ok_or_else(|| io::Error::other("it has no process id"))?;
        let stdout = child.stdout.take().map(|pipe| Box::new(pipe) as Pipe);
        let stderr = child.stderr.take().map(|pipe| Box::new(pipe) as Pipe);
        Ok(Self { child, group: Group::new(id), pipes: [stdout, stderr], transcript: Transcript::default() })
    }

    async fn finish(&mut self, deadline: Instant, stop: &mut Stop) -> Exit {
        let cut_off = tokio::select! {
            exit = self.until_exit(deadline) => match exit {
                Some(exit) => {
                    self.group.leave_alone();
                    return exit;
                }
                None => Exit::TimedOut,
            },
            () = stop.told() => Exit::Stopped,
        };
        self.group.signal(Signal::SIGTERM);
        self.until_group_ended(Instant::now() + TERM_GRACE).await;
        self.group.signal(Signal::SIGKILL);
        self.until_exit(Instant::now() + KILL_GRACE).await;
        self.group.leave_alone();
        cut_off
    }

    /// Listens until the program has ended or time is up.
    async fn until_exit(&mut self, until: Instant) -> Option<Exit> {
        let [stdout, stderr] = &mut self.pipes;
        let (mut out, mut err) = ([0_u8; 4096], [0_u8; 4096]);
        loop {
            tokio::select! {
                status = self.child.wait() => return Some(exit_of(status)),
                read = read(stdout, &mut out) => self.transcript.output(read),
                read = read(stderr, &mut err) => self.transcript.error_output(read),
                () = sleep_until(until) => return None,
            }
        }
    }

    /// Listens until the program and all that it started in its group have ended, or time is up: a shell ends at once when it is
    /// asked to, what it had under way may need its time.
    async fn until_group_ended(&mut self, until: Instant) {
        self.until_exit(until).await;
        while self.group.is_there() && Instant::now() < until {
            let next_look = until.min(Instant::now() + GROUP_LOOK);
            self.last_words(next_look).await;
            sleep_until(next_look).await;
        }
        if !self.group.is_there() {
            self.group.leave_alone();
        }
    }

    /// Listens until both pipes are closed or time is up.
    async fn last_words(&mut self, until: Instant) {
        let [stdout, stderr] = &mut self.pipes;
        let (mut out, mut err) = ([0_u8; 4096], [0_u8; 4096]);
        while stdout.is_some() || stderr.is_some() {
            tokio::select! {
                read = read(stdout, &mut out) => self.transcript.output(read),
                read = read(stderr, &mut err) => self.transcript.error_output(read),
                () = sleep_until(until) => return,
            }
        }
    }
}

/// What came through a pipe; once it is closed, it is taken out and nothing ever comes.
async fn read<'a>(pipe: &mut Option<Pipe>, buffer: &'a mut [u8]) -> &'a [u8] {
    if let Some(open) = pipe {
        if let Ok(length @ 1..) = open.read(buffer).await {
            return &buffer[..length];
        }
        *pipe = None;
        return &[];
    }
    std::future::pending().await
}

fn exit_of(status: io::Result<ExitStatus>) -> Exit {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::NotStarted(format!("it ended in an unknown way: {status}")),
        },
        Err(error) => Exit::NotStarted(format!("its end cannot be learned: {error}")),
    }
}

/// The process group of a program, killed when the program is given up halfway.
struct Group(Option<Pid>);

impl Group {
    fn new(id: i32) -> Self {
        Self(Some(Pid::from_raw(id)))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // An error means that nobody is left in the group, which is what the signal is for.
            let _nobody_left = killpg(group, signal);
        }
    }

    /// Somebody is in it, or has ended and nobody has asked how.
    fn is_there(&self) -> bool {
        self.0.is_some_and(|group| killpg(group, None) != Err(Errno::ESRCH))
    }

    fn leave_alone(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit: Exit, first_line: &str) -> HookResult {
        HookResult { name: "10-backup".into(), exit, first_line: first_line.into(), output: String::new() }
    }

    #[test]
    fn only_exit_zero_opens_a_gate() {
        let not_now = |reason: &str| GateAnswer::NotNow { reason: reason.into() };
        assert_eq!(result(Exit::Code(0), "fine").gate(), GateAnswer::Go);
        assert_eq!(result(Exit::Code(75), "backup runs until 3").gate(), not_now("10-backup: backup runs until 3"));
        assert_eq!(result(Exit::Code(75), "").gate(), not_now("10-backup says not now, without a reason"));
        assert_eq!(result(Exit::Code(1), "oops").gate(), not_now("10-backup exited with 1: oops"));
        assert_eq!(result(Exit::Signal(9), "").gate(), not_now("10-backup was ended by signal 9"));
        assert_eq!(result(Exit::TimedOut, "").gate(), not_now("10-backup was not done in its time and was stopped"));
        assert_eq!(
            result(Exit::NotStarted("No such file".into()), "").gate(),
            not_now("10-backup could not be started: No such file")
        );
    }

    fn hook(folder: &Path, name: &str) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn health_checks_of_both_spellings_are_one_list_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let folders = REQUIRED_CHECKS.map(|name| dir.path().join(name));
        assert_eq!(list_merged(&folders).unwrap(), Vec::<PathBuf>::new());
        let expected = [
            hook(&folders[1], "10-disk"),
            // Two files of one name are two checks.
            hook(&folders[0], "20-net"),
            hook(&folders[1], "20-net"),
            hook(&folders[0], "30-service"),
        ];
        assert_eq!(list_merged(&folders).unwrap(), expected);
        // One file that is linked into the other folder is one.
        std::os::unix::fs::symlink(&expected[3], folders[1].join("30-service")).unwrap();
        assert_eq!(list_merged(&folders).unwrap().len(), 4);
        // Where one spelling is a link to the other, nothing runs twice.
        let dir = tempfile::tempdir().unwrap();
        let folders = WANTED_CHECKS.map(|name| dir.path().join(name));
        hook(&folders[0], "10-disk");
        std::os::unix::fs::symlink("health", dir.path().join("health.d")).unwrap();
        assert_eq!(list_merged(&folders).unwrap().len(), 1);
        // Together they are not more than those of one folder.
        let dir = tempfile::tempdir().unwrap();
        let folders = WANTED_CHECKS.map(|name| dir.path().join(name));
        for number in 0..=MAX_HOOKS {
            hook(&folders[number % 2], &format!("{number}"));
        }
        assert!(matches!(list_merged(&folders), Err(HooksError::TooMany { .. })));
    }

    #[test]
    fn a_folder_whose_name_is_a_slip_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for name in FOLDERS.iter().chain(&OTHER_FOLDERS) {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        assert_eq!(unknown_folders(dir.path()), Vec::<PathBuf>::new());
        let slips = ["drains.d", "health/want.d", "health.d/require.d", "required.d"].map(|name| dir.path().join(name));
        for slip in &slips {
            fs::create_dir_all(slip).unwrap();
        }
        fs::create_dir_all(dir.path().join("keys")).unwrap();
        fs::write(dir.path().join("notes.d"), "no folder").unwrap();
        assert_eq!(unknown_folders(dir.path()), slips);
        assert_eq!(unknown_folders(&dir.path().join("none")), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_editors_and_packages_leave_behind_is_no_hook() {
        for name in ["a~", "#a#", ".a", "a.bak", "a.orig", "a.rej", ".a.swp", "a.dpkg-dist", "a.rpmnew", "a.pacsave"] {
            assert!(is_left_over(name), "{name}");
        }
        for name in ["10-drain", "drain.sh", "20_check.py", "backup"] {
            assert!(!is_left_over(name), "{name}");
        }
    }
}
