//! What the program does: wait, look, leave.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::reboot::{RebootMode, reboot};

use super::files::{Left, Trial, TrialError, settings_of_trial};
use crate::boot::{BootState, Standing};
use crate::config::Settings;
use crate::durable;
use crate::engine::event::Fault;
use crate::kernel_log;
use crate::records::Records;
use crate::slot::Mode;
use crate::world::{Ground, World, boot_fault, disk_name, slot_name};

/// So often an attempt is left. A loader that starts it again after that does not obey its marks.
pub(super) const MAX_LEAVES: u32 = 3;
/// So often the reboot command may fail before the kernel is asked.
const MAX_REFUSALS: u32 = 3;

/// How patient it is.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Time between two looks at the boot state.
    pub look_every: Duration,
    /// Time the reboot command has, and then the reboot.
    pub reboot_within: Duration,
}

impl Default for Watch {
    fn default() -> Self {
        Self { look_every: Duration::from_secs(5), reboot_within: Duration::from_secs(90) }
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
    #[error("it cannot be seen whether slot {slot} ({version}) is on trial: {fault}")]
    Blind {
        /// The slot of the trial.
        slot: String,
        /// What it holds.
        version: String,
        /// Why not.
        fault: Fault,
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
/// # Errors
/// If it cannot be seen what is on trial, or the host cannot be rebooted.
pub fn watch(state_dir: &Path, patience: Watch) -> Result<Ended, DeadlineError> {
    let Some(trial) = Trial::load(state_dir)? else { return Ok(Ended::NothingOnTrial) };
    let overdue = Overdue { world: world(state_dir)?, trial, patience };
    loop {
        let seen = overdue.look()?;
        let Some(standing) = seen.standing else { return Ok(Ended::NothingOnTrial) };
        if standing.is_good() {
            return Ok(Ended::Kept(overdue.trial));
        }
        let up = up_for(overdue.settings())?;
        match overdue.trial.deadline.checked_sub(up).filter(|left| !left.is_zero()) {
            Some(left) => sleep(left.min(patience.look_every)),
            None => return overdue.leave(&seen),
        }
    }
}

fn world(state_dir: &Path) -> Result<World, TrialError> {
    let settings = settings_of_trial(state_dir)?;
    Ok(World::new(Arc::new(settings), Records::of(state_dir)))
}

struct Overdue {
    world: World,
    trial: Trial,
    patience: Watch,
}

struct Seen {
    ground: Ground,
    state: BootState,
    /// How the slot of the trial stands, if that is the one that runs.
    standing: Option<Standing>,
}

impl Overdue {
    fn settings(&self) -> &Settings {
        self.world.settings()
    }

    fn look(&self) -> Result<Seen, DeadlineError> {
        let looked = || {
            let ground = self.world.ground()?;
            let state = self.world.boot_control(&ground.disk)?.read().map_err(|error| boot_fault(&error))?;
            let runs = slot_name(ground.running.name()) == Some(self.trial.slot);
            let standing = runs.then(|| state.standing(ground.running.name()).unwrap_or_default());
            Ok(Seen { ground, state, standing })
        };
        looked().map_err(|fault| {
            let (slot, version) = (self.trial.slot.to_string(), self.trial.version.clone());
            DeadlineError::Blind { slot, version, fault }
        })
    }

    /// Counts, marks, keeps the kernel's log, reboots.
    fn leave(self, seen: &Seen) -> Result<Ended, DeadlineError> {
        let Seen { ground, state, standing } = seen;
        let deadline_s = self.trial.deadline.as_secs();
        let why = format!(
            "it was not kept within {deadline_s} s of the start of the host (update-engine-trial left it: its update-engined did not run, \
             or came to no end)"
        );
        let other = disk_name(self.trial.slot.other(), &ground.disk).ok();
        if !other.and_then(|other| state.standing(&other)).is_some_and(Standing::is_bootable) {
            return Ok(self.stays("the other slot cannot be booted, so there is no way back".to_owned()));
        }
        let left = self.count(why)?;
        if left.times > MAX_LEAVES {
            let times = left.times - 1;
            return Ok(self.stays(format!(
                "it was left {times} times, and the loader has started it all the same: it does not obey its marks"
            )));
        }
        if let Err(error) = left.store(&self.settings().state_dir) {
            // What was marked before, and runs, may be marked and started for ever.
            if *standing == Some(Standing::Bad) {
                return Ok(
                    self.stays(format!("it was marked bad before, and how often it is left cannot be written down: {error}"))
                );
            }
            tracing::warn!("{error}");
        }
        tracing::error!("slot {} ({}): {}: marking it bad and rebooting", self.trial.slot, self.trial.version, left.why);
        self.mark_bad(ground);
        kernel_log::keep_running(self.settings(), &self.trial.attempt);
        self.reboot(ground.disk.mode())?;
        Ok(Ended::Left(left))
    }

    fn stays(self, why: String) -> Ended {
        Ended::Stays { trial: self.trial, why }
    }

    fn count(&self, why: String) -> Result<Left, TrialError> {
        let before = Left::load(&self.settings().state_dir)?.filter(|left| left.attempt == self.trial.attempt);
        let times = before.map_or(0, |left| left.times).saturating_add(1);
        Ok(Left { attempt: self.trial.attempt.clone(), times, why })
    }

    /// Where that cannot be done, the loader's tries still bring the other slot back.
    fn mark_bad(&self, ground: &Ground) {
        let control = self.world.boot_control(&ground.disk);
        let marked = control.and_then(|mut control| control.mark_bad(&ground.running).map_err(|error| boot_fault(&error)));
        match marked {
            Ok(_read_back) => {}
            Err(fault) => tracing::error!("slot {} could not be marked bad: {fault}", self.trial.slot),
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
            nix::unistd::sync();
            said = match reboot(RebootMode::RB_AUTOBOOT) {
                Err(error) => format!("{said}; the kernel said: {error}"),
                Ok(never) => match never {},
            };
        }
        Err(DeadlineError::Reboot { slot: self.trial.slot.to_string(), version: self.trial.version.clone(), why: said })
    }

    /// One that hangs may be waiting for a shutdown: it is left alone, and the kernel is asked in the end.
    fn run_command(&self) -> Result<(), String> {
        let command = &self.settings().reboot.command;
        let shown = command.join(" ");
        let (program, arguments) = command.split_first().ok_or_else(|| "[reboot] command is empty".to_owned())?;
        let started = Command::new(program)
            .args(arguments)
            .env("OTA_ATTEMPT", &self.trial.attempt)
            .env("OTA_SLOT", self.trial.slot.as_str())
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

/// `/proc/uptime` counts the time in which a host was suspended, too.
fn up_for(settings: &Settings) -> Result<Duration, DeadlineError> {
    let path = settings.sysroot.join("proc/uptime");
    let text = durable::read_capped(&path, 256).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_else(|error| error.to_string());
    let seconds = text.split_whitespace().next().and_then(|word| word.split('.').next()).and_then(|word| word.parse().ok());
    seconds.map(Duration::from_secs).ok_or_else(|| DeadlineError::Uptime { path: path.display().to_string(), got: text.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::gpt::GptControl;
    use crate::boot::gpt::fixture::DiskBuilder;
    use crate::boot::{BootControl as _, Permit};
    use crate::config::{self, Source};
    use crate::deadline::write_down;
    use crate::kernel_log::KernelLog;
    use crate::slot::rig::{Rig, name, proven};

    const HASTE: Watch = Watch { look_every: Duration::from_millis(5), reboot_within: Duration::from_millis(300) };

    /// A host whose slot b was armed, written down, and started so long ago. Its reboot command leaves a file.
    struct Host {
        rig: Rig,
        settings: Settings,
    }

    impl Host {
        fn on_trial(up_s: u64) -> Self {
            Self::with_command(up_s, &["touch", "DIR/rebooted"])
        }

        fn with_command(up_s: u64, command: &[&str]) -> Self {
            let host = Self::new(Rig::with_slots_of(16), command);
            let (disk, running) = (host.rig.disk(), host.rig.running());
            let mut control = GptControl::new(&disk).unwrap();
            control.mark_good(&running).unwrap();
            control.disarm(&name("b"), &running).unwrap();
            control.arm(proven(&disk, &running), Permit::no_lock_configured(), &running).unwrap();
            host.rig.boot(1);
            host.is_up_for(up_s);
            host
        }

        fn new(rig: Rig, command: &[&str]) -> Self {
            let dir = rig.folder.path().display().to_string();
            let command: Vec<String> = command.iter().map(|word| format!("{:?}", word.replace("DIR", &dir))).collect();
            let text = format!(
                "state_dir = \"{dir}/state\"\nsysroot = \"{dir}\"\nserver.app_id = \"x\"\ndisk.device = \"{dir}/disk.img\"\n\
                 slots.a.root = \"partlabel:root-a\"\nslots.b.root = \"partlabel:root-b\"\nreboot.command = [{}]\n",
                command.join(", ")
            );
            let settings = config::parse(&[Source::new("test", &text)]).unwrap();
            std::fs::create_dir(&settings.state_dir).unwrap();
            let trial = Trial {
                slot: manifests::release::SlotName::B,
                version: "1.1.0".into(),
                attempt: "one".into(),
                deadline: Duration::from_secs(600),
            };
            write_down(&trial, &settings).unwrap();
            Self { rig, settings }
        }

        fn is_up_for(&self, seconds: u64) {
            std::fs::write(self.rig.folder.path().join("proc/uptime"), format!("{seconds}.17 3.00\n")).unwrap();
        }

        fn watch(&self) -> Result<Ended, DeadlineError> {
            watch(&self.settings.state_dir, HASTE)
        }

        fn standing(&self) -> Standing {
            GptControl::new(&self.rig.disk()).unwrap().read().unwrap().standing(&name("b")).unwrap()
        }

        fn rebooted(&self) -> bool {
            self.rig.folder.path().join("rebooted").exists()
        }
    }

    fn left(host: &Host) -> Left {
        match host.watch() {
            Ok(Ended::Left(left)) => left,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn design_11_2_a_slot_that_nobody_keeps_is_marked_bad_and_left_when_its_deadline_has_passed() {
        let host = Host::on_trial(600);
        let left = left(&host);
        assert_eq!((left.times, host.standing(), host.rebooted()), (1, Standing::Bad, true));
        assert_eq!(KernelLog::load(&host.settings.state_dir).unwrap(), None, "this host has no /dev/kmsg");
        assert_eq!(Left::load(&host.settings.state_dir).unwrap(), Some(left));
    }

    #[test]
    fn what_the_kernel_of_a_slot_that_is_left_has_said_is_kept_and_a_full_disk_keeps_nobody_in_it() {
        let host = Host::on_trial(600);
        std::fs::create_dir(host.rig.folder.path().join("dev")).unwrap();
        std::fs::write(host.rig.folder.path().join("dev/kmsg"), "3,1,590000000,-;nvme0: I/O timeout\n").unwrap();
        left(&host);
        let log = KernelLog::load(&host.settings.state_dir).unwrap().unwrap();
        assert_eq!((log.attempt.as_str(), log.telling_line().as_str()), ("one", "nvme0: I/O timeout"));

        let host = Host::on_trial(600);
        std::fs::create_dir_all(host.rig.folder.path().join("dev/kmsg")).unwrap();
        std::fs::create_dir(host.settings.state_dir.join("trial.log.new")).unwrap();
        left(&host);
        assert_eq!((host.standing(), host.rebooted()), (Standing::Bad, true));
    }

    #[test]
    fn it_waits_for_the_deadline_and_ends_as_soon_as_the_slot_is_kept() {
        let host = Host::on_trial(599);
        let before = host.rig.bytes();
        std::thread::scope(|threads| {
            let watching = threads.spawn(|| host.watch());
            sleep(Duration::from_millis(200));
            assert!(!watching.is_finished() && host.rig.bytes() == before, "it did not wait");
            GptControl::new(&host.rig.disk()).unwrap().mark_good(&host.rig.running()).unwrap();
            assert!(matches!(watching.join().unwrap(), Ok(Ended::Kept(trial)) if trial.attempt == "one"));
        });
        assert!(!host.rebooted());
    }

    #[test]
    fn where_the_old_slot_runs_or_nothing_was_written_down_nothing_is_touched() {
        let host = Host::on_trial(100_000);
        let before = host.rig.bytes();
        host.rig.boot(0);
        assert_eq!(host.watch().unwrap(), Ended::NothingOnTrial);
        host.rig.boot(1);
        super::super::forget(&host.settings.state_dir).unwrap();
        assert_eq!(host.watch().unwrap(), Ended::NothingOnTrial);
        assert_eq!((host.rig.bytes() == before, host.rebooted()), (true, false));
    }

    #[test]
    fn p10_a_loader_that_does_not_obey_ends_in_a_host_that_stays() {
        let host = Host::on_trial(600);
        for times in 1..=MAX_LEAVES {
            assert_eq!(left(&host).times, times);
        }
        std::fs::remove_file(host.rig.folder.path().join("rebooted")).unwrap();
        match host.watch().unwrap() {
            Ended::Stays { why, .. } => {
                assert!(why.contains("it was left 3 times, and the loader has started it all the same"), "{why}")
            }
            other => panic!("{other:?}"),
        }
        assert!(!host.rebooted());
    }

    #[test]
    fn without_a_way_back_or_a_count_that_can_be_kept_the_host_stays() {
        let host = Host::on_trial(600);
        // How often it was left cannot be written down: where its tries are counted by the loader it is left all the same, once.
        let in_the_way = host.settings.state_dir.join("trial.left.new");
        std::fs::create_dir(&in_the_way).unwrap();
        assert_eq!(left(&host).times, 1);
        match host.watch().unwrap() {
            Ended::Stays { why, .. } => assert!(why.contains("cannot be written down"), "{why}"),
            other => panic!("{other:?}"),
        }
        std::fs::remove_dir(&in_the_way).unwrap();
        // The old slot has lost its marks; b has rank 1, two tries left, and runs.
        let host = Host::new(Rig::new(&DiskBuilder::new(512).bits(1, 1 << 48 | 2 << 52), 1), &["touch", "DIR/rebooted"]);
        host.is_up_for(600);
        match host.watch().unwrap() {
            Ended::Stays { why, .. } => assert_eq!(why, "the other slot cannot be booted, so there is no way back"),
            other => panic!("{other:?}"),
        }
        assert!(!host.rebooted());
    }

    #[test]
    fn a_host_that_cannot_be_seen_is_not_touched_and_one_that_cannot_reboot_says_so() {
        let host = Host::on_trial(600);
        let before = host.rig.bytes();
        std::fs::write(host.rig.folder.path().join("proc/cmdline"), "quiet\n").unwrap();
        let error = host.watch().unwrap_err().to_string();
        assert!(error.starts_with("it cannot be seen whether slot b (1.1.0) is on trial:"), "{error}");
        assert!(host.rig.bytes() == before);

        for (command, words) in [(["false"], "`false` ended with exit status: 1"), (["/no/such"], "could not be started")] {
            let host = Host::with_command(600, &command);
            let error = host.watch().unwrap_err().to_string();
            assert!(error.contains("and the host cannot be rebooted") && error.contains(words), "{error}");
            assert_eq!(host.standing(), Standing::Bad);
        }
        std::fs::write(host.rig.folder.path().join("proc/uptime"), "soon\n").unwrap();
        host.rig.boot(1);
        let error = host.watch().unwrap_err().to_string();
        assert!(error.ends_with("expected the seconds since the start of the host, got \"soon\\n\""), "{error}");
    }
}
