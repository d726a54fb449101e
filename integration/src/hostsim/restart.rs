//! Restarting a machine from within: the daemon asks, goes, and is started again by the system that came up.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Error;

const POLL: Duration = Duration::from_millis(10);

/// A process, told apart from a later one with the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in the kernel's ticks.
    pub started: u64,
}

impl Process {
    /// The process with that number, if it runs.
    #[must_use]
    pub fn find(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; the fields behind it are numbers (proc(5)): state is the first of them, the
        // start time the twentieth.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // A first thread that has ended is shown as dead while others still hold the program's files and sockets.
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        let gone = matches!(*fields.first()?, "Z" | "X" | "x") && threads <= 1;
        let started = fields.get(19)?.parse().ok()?;
        (!gone).then_some(Self { pid, started })
    }

    /// The process that started this one.
    #[must_use]
    pub fn parent() -> Option<Self> {
        Self::find(nix::unistd::getppid().as_raw())
    }

    /// Waits until the process is gone; `false` if it still runs after `patience`.
    #[must_use]
    pub fn wait_gone(self, patience: Duration) -> bool {
        let began = Instant::now();
        while Self::find(self.pid) == Some(self) {
            if began.elapsed() > patience {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }
}

/// Starts this program again with `arguments`, in a session of its own and without this one's input and output, and does not wait.
///
/// The new process has to call [`leave_session`] itself. Output goes to the end of `log`, or nowhere.
///
/// # Errors
/// If it cannot be started.
pub fn detach(arguments: &[OsString], log: Option<&Path>) -> Result<u32, Error> {
    let program = std::env::current_exe().map_err(Error::io("find", Path::new("/proc/self/exe")))?;
    let output = || log_output(log);
    let child = Command::new(&program).args(arguments).stdin(Stdio::null()).stdout(output()?).stderr(output()?).spawn();
    Ok(child.map_err(Error::io("run", &program))?.id())
}

fn log_output(log: Option<&Path>) -> Result<Stdio, Error> {
    let Some(path) = log else { return Ok(Stdio::null()) };
    let file = File::options().create(true).append(true).open(path).map_err(Error::io("open", path))?;
    Ok(file.into())
}

/// Leaves the session of whoever started this process, so that a signal to them does not reach it.
///
/// # Errors
/// If this process leads a group of its own.
pub fn leave_session() -> Result<(), Error> {
    let left = nix::unistd::setsid().map(drop).map_err(std::io::Error::from);
    left.map_err(Error::io("leave the session of", Path::new("the old system")))
}

/// Becomes the program that the new system starts; its number is in `pid_file` before it runs.
///
/// # Errors
/// If it cannot be started; otherwise this does not return.
pub fn become_program(command: &[OsString], pid_file: Option<&PathBuf>) -> Result<(), Error> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    if let Some(path) = pid_file {
        let beside = path.with_extension("new");
        std::fs::write(&beside, format!("{}\n", std::process::id())).map_err(Error::io("write", &beside))?;
        std::fs::rename(&beside, path).map_err(Error::io("replace", path))?;
    }
    Err(Error::io("run", Path::new(program))(Command::new(program).args(arguments).exec()))
}
