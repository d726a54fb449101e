//! A slot is left: counted, marked bad, and the host rebooted.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::reboot::{RebootMode, reboot};

use super::files::{Left, Trial, TrialError};
use super::program::{DeadlineError, Ended, Watch};
use super::stuck;
use super::task::{Looked, Seen, Task};
use crate::boot::Standing;
use crate::config::{BootSettings, RebootPurpose, Settings};
use crate::kernel_log;
use crate::slot::Mode;
use crate::world::{Ground, World, boot_fault, disk_name};

/// So often an attempt is left, or as often as its loader tries it where that is more. A loader that starts it again after that obeys
/// neither marks nor tries.
pub(super) const MAX_LEAVES: u32 = 3;
/// So often the reboot command may fail before the kernel is asked.
const MAX_REFUSALS: u32 = 3;

/// The deadline of a trial has passed.
pub(super) fn end(task: Task, looked: Looked, patience: Watch) -> Result<Ended, DeadlineError> {
    let deadline = task.deadline().unwrap_or(patience.without_deadline);
    match (task, looked) {
        (Task::WrittenDown { world, .. }, Looked::OnTrial { trial, seen }) => {
            let trial = Trial { deadline, ..trial };
            Overdue { world, trial, patience, counted: Counted::InStateFolder }.leave(&seen)
        }
        (Task::WrittenDown { world, .. }, Looked::Unseen { trial, why }) => {
            let trial = Trial { deadline, ..trial };
            Overdue { world, trial, patience, counted: Counted::InStateFolder }.leave_unseen(&why)
        }
        (Task::Own { world }, Looked::OnTrial { trial, seen }) => {
            Overdue { world, trial, patience, counted: Counted::ByLoader }.leave(&seen)
        }
        _ => Ok(Ended::NothingOnTrial),
    }
}

/// Who remembers that a slot was left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    /// `trial.left`.
    InStateFolder,
    /// Nothing can be written down: its mark, which ends the trial, and where that fails the loader's tries.
    ByLoader,
}

/// What became of the mark of a slot that is overdue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marked {
    /// It is bad, or it could not be marked.
    BadOrUnmarked,
    /// The daemon has marked it good since it was looked at.
    KeptMeanwhile,
}

struct Overdue {
    world: World,
    trial: Trial,
    patience: Watch,
    counted: Counted,
}

impl Overdue {
    fn settings(&self) -> &Settings {
        self.world.settings()
    }

    /// Counts, marks, keeps the kernel's log, reboots.
    fn leave(self, seen: &Seen) -> Result<Ended, DeadlineError> {
        let Seen { ground, state, standing } = seen;
        let why = self.why("its update-engined did not run, came to no end, or could not mark it good");
        let other = disk_name(self.trial.slot.other(), &ground.disk).ok();
        if !other.and_then(|other| state.standing(&other)).is_some_and(Standing::is_bootable) {
            return Ok(self.stays("the other slot cannot be booted, so there is no way back".to_owned()));
        }
        let left = match self.counted {
            Counted::InStateFolder => match self.count(why, *standing) {
                Ok(left) => left,
                Err(why) => return Ok(self.stays(why)),
            },
            Counted::ByLoader => Left { attempt: self.trial.attempt.clone(), times: 1, why },
        };
        if left.times > self.most_leaves() {
            return Ok(self.was_left_in_vain(&left, "it does not obey its marks"));
        }
        if self.counted == Counted::InStateFolder
            && let Err(error) = left.store(&self.settings().state_dir)
            && let Err(why) = may_leave_uncounted(*standing, "written down", &error)
        {
            return Ok(self.stays(why));
        }
        tracing::error!("slot {} ({}): {}: marking it bad and rebooting", self.trial.slot, self.trial.version, left.why);
        if self.mark_bad(ground) == Marked::KeptMeanwhile {
            return Ok(Ended::Kept(self.trial));
        }
        // A folder that is not mounted lies on the slot that is left.
        if self.counted == Counted::InStateFolder {
            kernel_log::keep_running(self.settings(), &self.trial.attempt);
        }
        self.reboot(ground.disk.mode())?;
        Ok(Ended::Left(left))
    }

    /// Without a mark: the loader counts its tries, and goes back when they are spent.
    fn leave_unseen(self, obstacle: &str) -> Result<Ended, DeadlineError> {
        let why = self.why(obstacle);
        // As if it had been marked bad: a host that cannot count its reboots might reboot for ever.
        let left = match self.count(why, Standing::Bad) {
            Ok(left) => left,
            Err(why) => return Ok(self.stays(why)),
        };
        if left.times > self.most_leaves() {
            let in_vain = format!("its tries have not brought slot {} back", self.trial.slot.other());
            return Ok(self.was_left_in_vain(&left, &in_vain));
        }
        if let Err(error) = left.store(&self.settings().state_dir) {
            return Ok(self.stays(format!("how often it was left cannot be written down: {error}")));
        }
        tracing::error!("slot {} ({}): {}: rebooting", self.trial.slot, self.trial.version, left.why);
        kernel_log::keep_running(self.settings(), &self.trial.attempt);
        self.reboot(self.world.mode())?;
        Ok(Ended::Left(left))
    }

    fn why(&self, obstacle: &str) -> String {
        let deadline_s = self.trial.deadline.as_secs();
        format!("it was not kept within {deadline_s} s of the start of the host (update-engine-trial left it: {obstacle})")
    }

    /// A slot that was left without a mark is started again until its last try is spent.
    fn most_leaves(&self) -> u32 {
        match &self.settings().boot {
            BootSettings::Custom(custom) => MAX_LEAVES.max(custom.tries.into()),
            _ => MAX_LEAVES,
        }
    }

    fn was_left_in_vain(self, left: &Left, why: &str) -> Ended {
        let times = left.times - 1;
        self.stays(format!("it was left {times} times, and the loader has started it all the same: {why}"))
    }

    fn stays(self, why: String) -> Ended {
        Ended::Stays { trial: self.trial, why }
    }

    /// One more than is written down; an error in words is why the host stays.
    fn count(&self, why: String, standing: Standing) -> Result<Left, String> {
        let before = match Left::load(&self.settings().state_dir) {
            Ok(before) => before.filter(|left| left.attempt == self.trial.attempt),
            Err(error) => may_leave_uncounted(standing, "read", &error).map(|()| None)?,
        };
        let times = before.map_or(0, |left| left.times).saturating_add(1);
        Ok(Left { attempt: self.trial.attempt.clone(), times, why })
    }

    /// Where that cannot be done, the loader's tries still bring the other slot back.
    fn mark_bad(&self, ground: &Ground) -> Marked {
        let control = || self.world.boot_control(&ground.disk);
        let marked =
            control().and_then(|mut control| control.mark_bad_unless_good(&ground.running).map_err(|error| boot_fault(&error)));
        let state = match marked {
            Ok(state) => Some(state),
            Err(fault) => {
                tracing::error!("slot {} could not be marked bad: {fault}", self.trial.slot);
                // It may be good all the same: what failed is what stands beside the mark, such as a copy of it.
                control().ok().and_then(|control| control.read().ok())
            }
        };
        match state.and_then(|state| state.standing(ground.running.name())) {
            Some(Standing::Good) => Marked::KeptMeanwhile,
            _ => Marked::BadOrUnmarked,
        }
    }

    /// By the command of the configuration. The kernel itself is asked on a host only: in image mode this machine is not the one.
    fn reboot(&self, mode: Mode) -> Result<(), DeadlineError> {
        let mut said = String::new();
        for _ in 0..MAX_REFUSALS {
            match self.run_command() {
                Ok(()) if mode == Mode::Image => return Ok(()),
                // A shutdown ends this program, too.
                Ok(()) => {
                    sleep(self.patience.reboot_within);
                    said =
                        format!("the reboot was accepted, and did not come within {} s", self.patience.reboot_within.as_secs());
                }
                Err(why) => said = why,
            }
            tracing::error!("{said}");
        }
        if mode == Mode::Host {
            tracing::error!("asking the kernel to reboot at once");
            stuck::sync();
            said = match reboot(RebootMode::RB_AUTOBOOT) {
                Err(error) => format!("{said}; the kernel said: {error}"),
                Ok(never) => match never {},
            };
        }
        Err(DeadlineError::Reboot { slot: self.trial.slot.to_string(), version: self.trial.version.clone(), why: said })
    }

    /// One that hangs may be waiting for a shutdown: it is left alone, and the kernel is asked in the end.
    fn run_command(&self) -> Result<(), String> {
        let command = self.settings().reboot_command(RebootPurpose::Leave);
        let shown = command.join(" ");
        let (program, arguments) = command.split_first().ok_or_else(|| "[reboot] command is empty".to_owned())?;
        let started = Command::new(program)
            .args(arguments)
            .env("OTA_ATTEMPT", &self.trial.attempt)
            .env("OTA_SLOT", self.trial.slot.as_str())
            .env("OTA_REBOOT", RebootPurpose::Leave.as_str())
            .stdin(Stdio::null())
            .spawn();
        let mut child = started.map_err(|error| format!("`{shown}` could not be started: {error}"))?;
        let began = Instant::now();
        while began.elapsed() < self.patience.reboot_within {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    sleep(self.patience.look_every);
                    return Err(format!("the reboot was refused: `{shown}` ended with {status}"));
                }
                Ok(None) => sleep(Duration::from_millis(100)),
                Err(error) => return Err(format!("it cannot be learned how `{shown}` ended: {error}")),
            }
        }
        Err(format!("`{shown}` has not ended within {} s", self.patience.reboot_within.as_secs()))
    }
}

/// A slot that was marked bad before, and runs, may be marked and started for ever: then a count that fails keeps the host in it.
fn may_leave_uncounted(standing: Standing, action: &str, error: &TrialError) -> Result<(), String> {
    if standing == Standing::Bad {
        return Err(format!("it was marked bad before, and how often it was left cannot be {action}: {error}"));
    }
    tracing::warn!("{error}");
    Ok(())
}
