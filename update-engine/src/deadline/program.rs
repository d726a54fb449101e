//! What the program does: wait, look, leave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::files::{Left, Trial, TrialError};
use super::leave;
use super::stuck::{self, Stuck};
use super::task::{Looked, Task};
use crate::config::USUAL_DEADLINE;
use crate::durable;

/// Where it finds what it has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The state folder, where the trial was written down.
    pub state_dir: PathBuf,
    /// The running image's own configuration: for an image that does not see that folder.
    pub config: PathBuf,
}

/// How patient it is.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Time between two looks at the boot state.
    pub look_every: Duration,
    /// Time the reboot command has, and then the reboot.
    pub reboot_within: Duration,
    /// Time since the start of the host after which it ends, where no file says a deadline.
    pub without_deadline: Duration,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            look_every: Duration::from_secs(5),
            reboot_within: Duration::from_secs(90),
            without_deadline: USUAL_DEADLINE.saturating_mul(2),
        }
    }
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is on trial here.
    NothingOnTrial,
    /// The slot was kept.
    Kept(Trial),
    /// The slot was left: the reboot was accepted.
    Left(Left),
    /// It is overdue, and the host stays in it.
    Stays {
        /// What is on trial.
        trial: Trial,
        /// Why it is not left.
        why: String,
    },
}

/// Why it ended without having done its work. Trying again may help.
#[derive(Debug, thiserror::Error)]
pub enum DeadlineError {
    /// A file of the trial.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// Which slot runs, or how it stands, is not known.
    #[error("it cannot be seen whether {what} is on trial: {why}")]
    Blind {
        /// The slot of the trial, as far as that is known.
        what: String,
        /// Why not.
        why: String,
    },
    /// Time since the start of the host.
    #[error("{path}: expected the seconds since the start of the host, got {got:?}")]
    Uptime {
        /// The file.
        path: String,
        /// What stands there.
        got: String,
    },
    /// Neither the command nor the kernel rebooted the host.
    #[error("slot {slot} ({version}) was not kept in time, and the host cannot be rebooted: {why}")]
    Reboot {
        /// The slot of the trial.
        slot: String,
        /// What it holds.
        version: String,
        /// What was said.
        why: String,
    },
}

/// Waits until the slot on trial is kept, or leaves it when its deadline has passed.
///
/// All that it goes by is read anew for every look: a state folder may be mounted late, and a disk may appear late.
///
/// # Errors
/// If the deadline has passed and it cannot be seen what is on trial, or the host cannot be rebooted.
pub fn watch(places: &Places, patience: Watch) -> Result<Ended, DeadlineError> {
    let stuck = Stuck::watch();
    watch_beside(places, patience, |task, was_on_trial| task.wind(&stuck, was_on_trial))
}

/// The clock is wound before each look, which may never end, and again as soon as one has shown that it is on trial: the next may be the one
/// that does not end.
pub(super) fn watch_beside(places: &Places, patience: Watch, mut wind: impl FnMut(&Task, bool)) -> Result<Ended, DeadlineError> {
    let mut log = OnceEach::default();
    let mut was_on_trial = false;
    loop {
        let task = Task::find(places, &mut log);
        wind(&task, was_on_trial);
        let looked = task.look();
        match &looked {
            Ok(Looked::NothingOnTrial) => return Ok(Ended::NothingOnTrial),
            Ok(Looked::Good(trial)) if task.is_written_down() || was_on_trial => return Ok(Ended::Kept(trial.clone())),
            Ok(Looked::Good(_)) => return Ok(Ended::NothingOnTrial),
            Ok(Looked::OnTrial { .. }) => {
                was_on_trial = true;
                wind(&task, was_on_trial);
            }
            Ok(Looked::Unclear) => {}
            Ok(Looked::Unseen { why, .. }) => log.warn(why),
            Err(error) => log.warn(&error.to_string()),
        }
        let deadline = task.deadline().unwrap_or(patience.without_deadline);
        match deadline.checked_sub(up_for(task.sysroot())?).filter(|left| !left.is_zero()) {
            Some(left) => sleep(left.min(patience.look_every)),
            None => return leave::end(task, looked?, patience),
        }
    }
}

/// Says each new obstacle once, not with every look.
#[derive(Default)]
pub(super) struct OnceEach {
    last: BTreeMap<&'static str, String>,
}

impl OnceEach {
    fn warn(&mut self, words: &str) {
        self.warn_of("look", words);
    }

    pub(super) fn warn_of(&mut self, subject: &'static str, words: &str) {
        if self.last.get(subject).is_none_or(|last| last != words) {
            tracing::warn!("{words}");
            self.last.insert(subject, words.to_owned());
        }
    }
}

/// `/proc/uptime` counts the time in which a host was suspended, too, in which nothing could be kept.
fn up_for(sysroot: &Path) -> Result<Duration, DeadlineError> {
    let path = sysroot.join("proc/uptime");
    let text = durable::read_capped(&path, 256).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_else(|error| error.to_string());
    let seconds = text.split_whitespace().next().and_then(|word| word.split('.').next()).and_then(|word| word.parse().ok());
    let up = seconds.map(|seconds| Duration::from_secs(seconds).saturating_sub(stuck::suspended_for()));
    up.ok_or_else(|| DeadlineError::Uptime { path: path.display().to_string(), got: text.clone() })
}
