//! What the program does: wait, look, leave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use manifests::release::SlotName;
use nix::sys::reboot::{RebootMode, reboot};

use super::files::{Left, Trial, TrialError, settings_of_trial, trust_targets};
use super::stuck::{self, Stuck};
use crate::boot::{BootState, Standing};
use crate::config::trust::{Target, check_trust};
use crate::config::{self, BootSettings, RebootPurpose, Settings, USUAL_DEADLINE};
use crate::durable;
use crate::engine::event::Fault;
use crate::kernel_log;
use crate::records::Records;
use crate::slot::Mode;
use crate::world::{Ground, World, boot_fault, chain, disk_name, slot_name};

/// So often an attempt is left, or as often as its loader tries it where that is more. A loader that starts it again after that obeys
/// neither marks nor tries.
pub(super) const MAX_LEAVES: u32 = 3;
/// So often the reboot command may fail before the kernel is asked.
const MAX_REFUSALS: u32 = 3;

/// An attempt that no file names.
const UNKNOWN: &str = "unknown";

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
fn watch_beside(places: &Places, patience: Watch, mut wind: impl FnMut(&Task, bool)) -> Result<Ended, DeadlineError> {
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
            None => return task.end(looked?, patience),
        }
    }
}

/// Says each new obstacle once, not with every look.
#[derive(Default)]
struct OnceEach {
    last: BTreeMap<&'static str, String>,
}

impl OnceEach {
    fn warn(&mut self, words: &str) {
        self.warn_of("look", words);
    }

    fn warn_of(&mut self, subject: &'static str, words: &str) {
        if self.last.get(subject).is_none_or(|last| last != words) {
            tracing::warn!("{words}");
            self.last.insert(subject, words.to_owned());
        }
    }
}

/// What is to be kept in time, as far as it can be known now.
enum Task {
    /// By what the daemon wrote down that armed the slot.
    WrittenDown {
        trial: Trial,
        world: World,
        /// Of the image that runs, which may need more time than the one that armed it gave it.
        own_deadline: Option<Duration>,
    },
    /// Nothing is written down that can be read: by the boot table, and the running image's own configuration.
    Own { world: World },
    /// Not even that can be read.
    Blind { trial: Option<Trial>, why: String },
}

/// What a look has shown.
enum Looked {
    /// The slot that runs is not on trial.
    NothingOnTrial,
    /// It is good.
    Good(Trial),
    /// It is on trial.
    OnTrial { trial: Trial, seen: Box<Seen> },
    /// It is not good, and only what is written down tells whether it is to be left: that may still appear.
    Unclear,
    /// It is on trial, and how it stands cannot be seen.
    Unseen { trial: Trial, why: String },
}

struct Seen {
    ground: Ground,
    state: BootState,
    /// How the slot that runs stands.
    standing: Standing,
}

impl Task {
    fn find(places: &Places, log: &mut OnceEach) -> Self {
        let read = || Trial::load(&places.state_dir).map_err(|error| error.to_string());
        let written = trusted(&trust_targets(&places.state_dir)).and_then(|()| read()).unwrap_or_else(|error| {
            log.warn_of("trial", &error);
            None
        });
        let settings = match &written {
            None => own_settings(&places.config),
            Some(_) => settings_that_armed(&places.state_dir, log).or_else(|error| {
                log.warn_of("settings", &format!("{error}; going by {}", places.config.display()));
                own_settings(&places.config)
            }),
        };
        match (settings, written) {
            (Ok(settings), written) => {
                let world = World::new(Arc::new(settings), Records::of(&places.state_dir));
                match written {
                    Some(trial) => {
                        let own_deadline = own_settings(&places.config).ok().map(|own| own.trial_deadline());
                        Self::WrittenDown { trial, world, own_deadline }
                    }
                    None => Self::Own { world },
                }
            }
            (Err(why), trial) => Self::Blind { trial, why },
        }
    }

    const fn is_written_down(&self) -> bool {
        matches!(self, Self::WrittenDown { .. })
    }

    fn sysroot(&self) -> &Path {
        match self {
            Self::WrittenDown { world, .. } | Self::Own { world } => &world.settings().sysroot,
            Self::Blind { .. } => Path::new("/"),
        }
    }

    /// Since the start of the host.
    fn deadline(&self) -> Option<Duration> {
        match self {
            Self::WrittenDown { trial, own_deadline, .. } => Some(own_deadline.unwrap_or_default().max(trial.deadline)),
            Self::Own { world } => Some(world.settings().trial_deadline()),
            Self::Blind { trial, .. } => trial.as_ref().map(|trial| trial.deadline),
        }
    }

    /// The clock that asks no disk goes from when it is known that this machine is on trial; what cannot be read later does not stop it.
    fn wind(&self, stuck: &Stuck, was_on_trial: bool) {
        match self {
            Self::WrittenDown { world, .. } | Self::Own { world } => {
                stuck.on_trial_until(self.deadline_on(world.mode(), was_on_trial));
            }
            Self::Blind { .. } if was_on_trial => {}
            Self::Blind { .. } => stuck.on_trial_until(None),
        }
    }

    /// By what was written down, or by the boot table once that has said that it is on trial: a host that may as well be in a good slot is
    /// not rebooted because it cannot be seen. An image on a disk of another machine is nothing to reboot this one for.
    fn deadline_on(&self, mode: Mode, was_on_trial: bool) -> Option<Duration> {
        self.deadline().filter(|_| mode == Mode::Host && (was_on_trial || self.is_written_down()))
    }

    fn look(&self) -> Result<Looked, DeadlineError> {
        let blind = |trial: Option<&Trial>, why: String| {
            let what = trial
                .map_or_else(|| "the running slot".to_owned(), |Trial { slot, version, .. }| format!("slot {slot} ({version})"));
            DeadlineError::Blind { what, why }
        };
        match self {
            Self::WrittenDown { trial, world, .. } => {
                let seen = match Seen::of(world) {
                    Ok(seen) => seen,
                    Err(fault) => {
                        let error = blind(Some(trial), fault.to_string());
                        return match runs_unseen(world, trial) {
                            Some(true) => Ok(Looked::Unseen { trial: trial.clone(), why: error.to_string() }),
                            Some(false) => Ok(Looked::NothingOnTrial),
                            None => Err(error),
                        };
                    }
                };
                Ok(match seen.slot() {
                    Some(slot) if slot == trial.slot && seen.standing.is_good() => Looked::Good(trial.clone()),
                    Some(slot) if slot == trial.slot => Looked::OnTrial { trial: trial.clone(), seen: Box::new(seen) },
                    Some(_) | None => Looked::NothingOnTrial,
                })
            }
            Self::Own { world } => {
                let seen = Seen::of(world).map_err(|fault| blind(None, fault.to_string()))?;
                let Some(slot) = seen.slot() else { return Ok(Looked::NothingOnTrial) };
                let trial = Trial {
                    slot,
                    version: world.own_version().unwrap_or_else(|| UNKNOWN.to_owned()),
                    attempt: UNKNOWN.to_owned(),
                    deadline: world.settings().trial_deadline(),
                };
                Ok(match seen.standing {
                    standing if standing.is_on_trial() => Looked::OnTrial { trial, seen: Box::new(seen) },
                    _ if seen.state.running_is_good(seen.ground.running.name()) => Looked::Good(trial),
                    _ => Looked::Unclear,
                })
            }
            Self::Blind { trial, why } => Err(blind(trial.as_ref(), why.clone())),
        }
    }

    /// The deadline has passed.
    fn end(self, looked: Looked, patience: Watch) -> Result<Ended, DeadlineError> {
        let deadline = self.deadline().unwrap_or(patience.without_deadline);
        match (self, looked) {
            (Self::WrittenDown { world, .. }, Looked::OnTrial { trial, seen }) => {
                let trial = Trial { deadline, ..trial };
                Overdue { world, trial, patience, counted: Counted::InStateFolder }.leave(&seen)
            }
            (Self::WrittenDown { world, .. }, Looked::Unseen { trial, why }) => {
                let trial = Trial { deadline, ..trial };
                Overdue { world, trial, patience, counted: Counted::InStateFolder }.leave_unseen(&why)
            }
            (Self::Own { world }, Looked::OnTrial { trial, seen }) => {
                Overdue { world, trial, patience, counted: Counted::ByLoader }.leave(&seen)
            }
            _ => Ok(Ended::NothingOnTrial),
        }
    }
}

impl Seen {
    fn of(world: &World) -> Result<Self, Fault> {
        let ground = world.ground_for_marks()?;
        let state = world.boot_control(&ground.disk)?.read().map_err(|error| boot_fault(&error))?;
        let standing = state.standing(ground.running.name()).unwrap_or_default();
        Ok(Self { ground, state, standing })
    }

    fn slot(&self) -> Option<SlotName> {
        slot_name(self.ground.running.name())
    }
}

/// Whether the slot of a trial runs, where its boot state cannot be read: a new image may not mount the ESP, or lack the loader's tools.
/// `None` = that is not known, or another boot may find nothing to start: a partition table that cannot be read.
fn runs_unseen(world: &World, trial: &Trial) -> Option<bool> {
    match world.ground_for_marks() {
        Ok(ground) if slot_name(ground.running.name()) != Some(trial.slot) => Some(false),
        Ok(_) => (world.settings().boot != BootSettings::Gpt).then_some(true),
        // One that is called otherwise may be called so by its own making.
        Err(_) if world.settings().boot == BootSettings::Gpt => None,
        Err(_) => world.own_version().filter(|own| *own == trial.version).map(|_| true),
    }
}

/// As the daemon reads it, and of nobody else's making: it names programs that are run.
fn own_settings(config: &Path) -> Result<Settings, String> {
    let loaded = config::load(config).map_err(|error| error.to_string())?;
    let targets: Vec<Target> = loaded.files.into_iter().map(Target::File).collect();
    trusted(&targets)?;
    of_trusted_program(loaded.settings)
}

/// Those of the daemon that armed the slot, whose file is trusted.
fn settings_that_armed(state_dir: &Path, log: &mut OnceEach) -> Result<Settings, String> {
    let (settings, ignored) = settings_of_trial(state_dir).map_err(|error| error.to_string())?;
    if !ignored.is_empty() {
        let passed_over = "of the configuration that armed the slot this program does not know, and passes over";
        log.warn_of("settings", &format!("{passed_over}: {}", ignored.join(", ")));
    }
    of_trusted_program(settings)
}

fn of_trusted_program(settings: Settings) -> Result<Settings, String> {
    if let BootSettings::Custom(custom) = &settings.boot {
        trusted(&[Target::File(custom.program.clone())])?;
    }
    Ok(settings)
}

/// Design 11.16: root's alone, or why not.
fn trusted(targets: &[Target]) -> Result<(), String> {
    check_trust(targets, nix::unistd::geteuid().as_raw())
        .map_err(|problems| problems.iter().map(|problem| chain(problem)).collect::<Vec<_>>().join("; "))
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

/// `/proc/uptime` counts the time in which a host was suspended, too, in which nothing could be kept.
fn up_for(sysroot: &Path) -> Result<Duration, DeadlineError> {
    let path = sysroot.join("proc/uptime");
    let text = durable::read_capped(&path, 256).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_else(|error| error.to_string());
    let seconds = text.split_whitespace().next().and_then(|word| word.split('.').next()).and_then(|word| word.parse().ok());
    let up = seconds.map(|seconds| Duration::from_secs(seconds).saturating_sub(stuck::suspended_for()));
    up.ok_or_else(|| DeadlineError::Uptime { path: path.display().to_string(), got: text.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::gpt::GptControl;
    use crate::boot::gpt::fixture::DiskBuilder;
    use crate::boot::grub::Block;
    use crate::boot::{BootControl as _, Permit};
    use crate::config::Source;
    use crate::deadline::write_down;
    use crate::kernel_log::KernelLog;
    use crate::slot::rig::{Rig, name, proven};

    const HASTE: Watch = Watch {
        look_every: Duration::from_millis(5),
        reboot_within: Duration::from_millis(300),
        without_deadline: Duration::from_millis(1),
    };

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
            std::fs::write(rig.folder.path().join("config.toml"), text).unwrap();
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
            // In one piece: it may be read at any moment.
            let path = self.rig.folder.path().join("proc/uptime");
            std::fs::write(path.with_extension("new"), format!("{seconds}.17 3.00\n")).unwrap();
            std::fs::rename(path.with_extension("new"), path).unwrap();
        }

        fn watch(&self) -> Result<Ended, DeadlineError> {
            let places =
                Places { state_dir: self.settings.state_dir.clone(), config: self.rig.folder.path().join("config.toml") };
            watch(&places, HASTE)
        }

        /// The state folder is not mounted in this image.
        fn without_state(up_s: u64) -> Self {
            let host = Self::on_trial(up_s);
            std::fs::rename(&host.settings.state_dir, host.unmounted()).unwrap();
            host
        }

        fn unmounted(&self) -> PathBuf {
            self.rig.folder.path().join("unmounted")
        }

        fn mark_good(&self) {
            GptControl::new(&self.rig.disk()).unwrap().mark_good(&self.rig.running()).unwrap();
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
        std::fs::write(host.rig.folder.path().join("dev/kmsg"), "3,1,590000000,-;BUG: nvme0: I/O timeout\n").unwrap();
        left(&host);
        let log = KernelLog::load(&host.settings.state_dir).unwrap().unwrap();
        assert_eq!((log.attempt.as_str(), log.telling_line().as_deref()), ("one", Some("BUG: nvme0: I/O timeout")));

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
            host.mark_good();
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
        assert!(host.rig.bytes() == before);
        host.rig.boot(1);
        host.mark_good();
        super::super::forget(&host.settings.state_dir).unwrap();
        let before = host.rig.bytes();
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
    fn a_count_that_cannot_be_read_keeps_nobody_in_a_slot_on_trial_and_starts_anew() {
        for nonsense in ["", "ota trial left v1\nattempt one\ntimes many\n", "\0\0\0\0"] {
            let host = Host::on_trial(600);
            let file = host.settings.state_dir.join("trial.left");
            std::fs::write(&file, nonsense).unwrap();
            assert_eq!((left(&host).times, host.standing(), host.rebooted()), (1, Standing::Bad, true), "{nonsense:?}");
            assert_eq!(Left::load(&host.settings.state_dir).unwrap().unwrap().times, 1, "{nonsense:?}");
            std::fs::write(&file, nonsense).unwrap();
            match host.watch().unwrap() {
                Ended::Stays { why, .. } => assert!(why.contains("how often it was left cannot be read: "), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_slot_that_is_kept_after_it_was_looked_at_is_not_left() {
        let host = Host::on_trial(600);
        let places = Places { state_dir: host.settings.state_dir.clone(), config: host.rig.folder.path().join("config.toml") };
        let task = Task::find(&places, &mut OnceEach::default());
        let looked = task.look().unwrap();
        assert!(matches!(looked, Looked::OnTrial { .. }));
        host.mark_good();
        assert!(matches!(task.end(looked, HASTE).unwrap(), Ended::Kept(trial) if trial.attempt == "one"));
        assert_eq!((host.standing(), host.rebooted()), (Standing::Good, false));
    }

    #[test]
    fn a_slot_that_is_kept_meanwhile_is_not_left_where_its_mark_cannot_be_put_in_order() {
        let host = Host::on_trial(600);
        let dir = host.rig.folder.path();
        let (file, env, copy) = (host.settings.state_dir.join("trial.toml"), dir.join("grubenv"), dir.join("copy"));
        let grub = format!("control = \"grub\"\n[boot.grub]\nenv = {env:?}\ncopy = {copy:?}\n");
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("control = \"gpt\"\n", &grub)).unwrap();
        // A copy that cannot be written.
        std::fs::create_dir(copy).unwrap();
        let says = |variables: &[(&str, &str)]| {
            let mut block = Block::empty();
            variables.iter().for_each(|(name, value)| block.set(name, value));
            std::fs::write(&env, block.to_bytes().unwrap()).unwrap();
        };
        says(&[("ota_primary", "a"), ("ota_pending", "b"), ("ota_left", "2"), ("ota_a", "good")]);
        let places = Places { state_dir: host.settings.state_dir.clone(), config: dir.join("config.toml") };
        let task = Task::find(&places, &mut OnceEach::default());
        let looked = task.look().unwrap();
        assert!(matches!(looked, Looked::OnTrial { .. }));
        says(&[("ota_primary", "b"), ("ota_a", "good"), ("ota_b", "good")]);
        assert!(matches!(task.end(looked, HASTE).unwrap(), Ended::Kept(trial) if trial.attempt == "one"));
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

    #[test]
    fn an_image_on_trial_that_does_not_see_its_state_is_left_by_its_own_configuration() {
        for obstacle in ["not mounted", "not readable"] {
            let host = Host::without_state(599);
            if obstacle == "not readable" {
                std::fs::write(&host.settings.state_dir, "").unwrap();
            }
            let before = host.rig.bytes();
            std::thread::scope(|threads| {
                let watching = threads.spawn(|| host.watch());
                sleep(Duration::from_millis(100));
                assert!(!watching.is_finished() && host.rig.bytes() == before, "{obstacle}: it did not wait");
                // Twice the usual 300 s: nothing is said in this configuration.
                host.is_up_for(600);
                let ended = watching.join().unwrap().unwrap();
                assert!(matches!(&ended, Ended::Left(left) if left.why.contains("within 600 s")), "{obstacle}: {ended:?}");
            });
            assert_eq!((host.standing(), host.rebooted()), (Standing::Bad, true), "{obstacle}");
            assert!(!host.settings.state_dir.is_dir(), "{obstacle}: something was made where the state is not mounted");
            // Its mark ended the trial: a loader that starts it again is not asked for ever.
            std::fs::remove_file(host.rig.folder.path().join("rebooted")).unwrap();
            assert_eq!(host.watch().unwrap(), Ended::NothingOnTrial, "{obstacle}");
            assert!(!host.rebooted(), "{obstacle}");
        }
    }

    #[test]
    fn without_its_state_it_waits_for_the_marks_of_the_daemon_or_for_a_mount_that_comes_late() {
        let host = Host::without_state(1);
        std::thread::scope(|threads| {
            let watching = threads.spawn(|| host.watch());
            sleep(Duration::from_millis(100));
            assert!(!watching.is_finished());
            host.mark_good();
            assert!(matches!(watching.join().unwrap(), Ok(Ended::Kept(trial)) if trial.attempt == UNKNOWN));
        });
        // What is not on trial by its marks may be so by what was written down.
        for standing in [Standing::Pending { tries_left: 2 }, Standing::Bad] {
            let host = Host::without_state(1);
            if standing == Standing::Bad {
                GptControl::new(&host.rig.disk()).unwrap().mark_bad(&host.rig.running()).unwrap();
            }
            std::thread::scope(|threads| {
                let watching = threads.spawn(|| host.watch());
                sleep(Duration::from_millis(100));
                assert!(!watching.is_finished(), "{standing:?}");
                std::fs::rename(host.unmounted(), &host.settings.state_dir).unwrap();
                sleep(Duration::from_millis(100));
                host.is_up_for(600);
                assert!(matches!(watching.join().unwrap(), Ok(Ended::Left(left)) if left.attempt == "one"), "{standing:?}");
            });
            assert_eq!(Left::load(&host.settings.state_dir).unwrap().unwrap().times, 1);
        }
    }

    #[test]
    fn without_its_state_nothing_is_left_that_is_not_known_to_be_on_trial() {
        let host = Host::without_state(100_000);
        let config = host.rig.folder.path().join("config.toml");
        let (before, text) = (host.rig.bytes(), std::fs::read_to_string(&config).unwrap());
        host.rig.boot(0);
        assert_eq!(host.watch().unwrap(), Ended::NothingOnTrial);
        host.rig.boot(1);
        std::fs::write(&config, text.replace("partlabel:root-b", "partlabel:nowhere")).unwrap();
        let error = host.watch().unwrap_err().to_string();
        assert!(
            error.starts_with("it cannot be seen whether the running slot is on trial: ") && error.contains("nowhere"),
            "{error}"
        );
        std::fs::write(&config, "sysroot = 1\n").unwrap();
        let error = host.watch().unwrap_err().to_string();
        assert!(error.contains("config.toml:1:11: sysroot: expected a text in quotes, got 1"), "{error}");
        std::fs::write(&config, text).unwrap();
        std::fs::set_permissions(&config, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let error = host.watch().unwrap_err().to_string();
        assert!(error.contains("expected nobody but its owner to be able to write it, got mode 0666"), "{error}");
        assert_eq!((host.rig.bytes() == before, host.rebooted()), (true, false));
    }

    /// A new image that does not mount the ESP, or lacks a tool of its loader.
    #[test]
    fn an_image_on_trial_whose_boot_state_cannot_be_read_is_left_without_a_mark_as_often_as_the_loader_may_need() {
        for runs_is_known in [true, false] {
            let host = Host::on_trial(599);
            let dir = host.rig.folder.path();
            let file = host.settings.state_dir.join("trial.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            let missing = format!("control = \"grub\"\n[boot.grub]\nenv = \"{}/efi/grubenv\"\n", dir.display());
            assert_eq!(text.matches("control = \"gpt\"\n").count(), 1);
            std::fs::write(&file, text.replace("control = \"gpt\"\n", &missing)).unwrap();
            if !runs_is_known {
                std::fs::write(dir.join("proc/cmdline"), "quiet\n").unwrap();
                std::fs::create_dir_all(dir.join("etc")).unwrap();
                std::fs::write(dir.join("etc/os-release"), "IMAGE_VERSION=1.1.0\n").unwrap();
            }
            let before = host.rig.bytes();
            std::thread::scope(|threads| {
                let watching = threads.spawn(|| host.watch());
                sleep(Duration::from_millis(100));
                assert!(!watching.is_finished(), "it did not wait");
                host.is_up_for(600);
                let ended = watching.join().unwrap().unwrap();
                let words = if runs_is_known { "grubenv" } else { "expected" };
                assert!(
                    matches!(&ended, Ended::Left(left) if left.times == 1 && left.why.contains("it cannot be seen whether slot b (1.1.0) is on trial: ")),
                    "{words}: {ended:?}"
                );
            });
            assert!(host.rig.bytes() == before && host.rebooted());
            for times in 2..=MAX_LEAVES {
                assert_eq!(left(&host).times, times);
            }
            match host.watch().unwrap() {
                Ended::Stays { why, .. } => assert_eq!(
                    why,
                    "it was left 3 times, and the loader has started it all the same: its tries have not brought slot a back"
                ),
                other => panic!("{other:?}"),
            }
            if runs_is_known {
                host.rig.boot(0);
                assert_eq!(host.watch().unwrap(), Ended::NothingOnTrial);
            } else {
                std::fs::write(dir.join("etc/os-release"), "IMAGE_VERSION=1.0.0\n").unwrap();
                assert!(host.watch().unwrap_err().to_string().starts_with("it cannot be seen whether slot b (1.1.0)"));
            }
        }
    }

    #[test]
    fn design_11_16_what_others_could_have_written_is_not_believed_and_the_image_goes_by_its_own_configuration() {
        for changed in ["state", "state/trial", "state/trial.toml"] {
            let host = Host::on_trial(600);
            let dir = host.rig.folder.path();
            let file = dir.join("state/trial.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            assert_eq!(text.matches("/rebooted").count(), 1);
            std::fs::write(&file, text.replace("/rebooted", "/theirs")).unwrap();
            let mode = |path: &str, mode| {
                std::fs::set_permissions(dir.join(path), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            };
            mode(changed, 0o777);
            assert_eq!(left(&host).attempt, UNKNOWN, "{changed}");
            assert_eq!(
                (host.standing(), host.rebooted(), dir.join("theirs").exists()),
                (Standing::Bad, true, false),
                "{changed}"
            );
            mode(changed, 0o700);
            assert_eq!(left(&host).attempt, "one", "{changed}");
            assert!(dir.join("theirs").exists(), "{changed}");
        }
        // So does the program of its loader.
        let host = Host::on_trial(600);
        let dir = host.rig.folder.path();
        let (file, program) = (host.settings.state_dir.join("trial.toml"), dir.join("program"));
        std::fs::write(&program, format!("#!/bin/sh\ntouch {}/theirs\n", dir.display())).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let custom = format!("control = \"custom\"\n[boot.custom]\nprogram = \"{}\"\n", program.display());
        std::fs::write(&file, text.replace("control = \"gpt\"\n", &custom)).unwrap();
        assert_eq!(left(&host).attempt, "one");
        assert_eq!((host.standing(), dir.join("theirs").exists()), (Standing::Bad, false));
    }

    #[test]
    fn an_image_that_cannot_be_marked_is_left_until_its_loader_has_spent_every_try() {
        let host = Host::on_trial(600);
        let file = host.settings.state_dir.join("trial.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let missing = "control = \"custom\"\n[boot.custom]\nprogram = \"/no/such/program\"\ntries = 5\n";
        assert_eq!(text.matches("control = \"gpt\"\n").count(), 1);
        std::fs::write(&file, text.replace("control = \"gpt\"\n", missing)).unwrap();
        for times in 1..=5 {
            assert_eq!(left(&host).times, times);
        }
        match host.watch().unwrap() {
            Ended::Stays { why, .. } => assert!(why.starts_with("it was left 5 times"), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_who_is_known_to_be_on_trial_is_rebooted_by_the_clock_that_asks_no_disk() {
        let find = |host: &Host| {
            let places =
                Places { state_dir: host.settings.state_dir.clone(), config: host.rig.folder.path().join("config.toml") };
            Task::find(&places, &mut OnceEach::default())
        };
        let deadline = Some(Duration::from_secs(600));
        let written_down = find(&Host::on_trial(1));
        for was_on_trial in [false, true] {
            assert_eq!(written_down.deadline_on(Mode::Host, was_on_trial), deadline);
            assert_eq!(written_down.deadline_on(Mode::Image, was_on_trial), None);
        }
        let own = find(&Host::without_state(1));
        assert!(matches!(own, Task::Own { .. }));
        assert_eq!((own.deadline_on(Mode::Host, false), own.deadline_on(Mode::Host, true)), (None, deadline));
        assert_eq!(own.deadline_on(Mode::Image, true), None);
    }

    #[test]
    fn the_clock_that_asks_no_disk_is_wound_as_soon_as_a_look_has_shown_that_it_is_on_trial() {
        let host = Host::without_state(600);
        let places = Places { state_dir: host.settings.state_dir.clone(), config: host.rig.folder.path().join("config.toml") };
        let mut wound = Vec::new();
        let ended =
            watch_beside(&places, HASTE, |task, was_on_trial| wound.push(task.deadline_on(Mode::Host, was_on_trial))).unwrap();
        assert!(matches!(ended, Ended::Left(_)), "{ended:?}");
        // In the same round: what comes after the look asks the disk as well.
        assert_eq!(wound, [None, Some(Duration::from_secs(600))]);
    }

    #[test]
    fn what_cannot_be_read_any_more_stops_the_clock_only_of_a_host_that_was_not_seen_on_trial() {
        let stuck = Stuck::watch();
        let late = Some(Duration::from_secs(1 << 40));
        stuck.on_trial_until(late);
        let blind = Task::Blind { trial: None, why: "config.toml: not there".to_owned() };
        blind.wind(&stuck, true);
        assert_eq!(stuck.known(), late);
        blind.wind(&stuck, false);
        assert_eq!(stuck.known(), None);
    }

    /// As long as no mark was written, the flag names the slot that is left.
    #[test]
    fn a_slot_that_is_left_is_not_asked_for_by_the_reboot_that_leaves_it() {
        let host = Host::with_command(600, &["sh", "-c", "echo '0 tryboot' for $OTA_REBOOT $OTA_SLOT > DIR/rebooted"]);
        let dir = host.rig.folder.path();
        let file = host.settings.state_dir.join("trial.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let missing =
            format!("control = \"rpi-tryboot\"\n[boot.rpi-tryboot]\nautoboot = \"{}/efi/autoboot.txt\"\n", dir.display());
        assert_eq!(text.matches("control = \"gpt\"\n").count(), 1);
        std::fs::write(&file, text.replace("control = \"gpt\"\n", &missing)).unwrap();
        assert_eq!((left(&host).times, host.standing()), (1, Standing::Pending { tries_left: 3 }), "it was not marked");
        assert_eq!(std::fs::read_to_string(dir.join("rebooted")).unwrap(), "0 for leave b\n");

        // Other loaders know no such argument.
        let host = Host::with_command(600, &["sh", "-c", "echo '0 tryboot' for $OTA_REBOOT $OTA_SLOT > DIR/rebooted"]);
        left(&host);
        let said = std::fs::read_to_string(host.rig.folder.path().join("rebooted")).unwrap();
        assert_eq!((said.as_str(), host.standing()), ("0 tryboot for leave b\n", Standing::Bad));
    }

    #[test]
    fn an_image_that_needs_more_time_than_the_one_that_armed_it_gave_it_has_that_time() {
        let host = Host::on_trial(600);
        let config = host.rig.folder.path().join("config.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, format!("health.deadline_s = 900\n{text}")).unwrap();
        std::thread::scope(|threads| {
            let watching = threads.spawn(|| host.watch());
            sleep(Duration::from_millis(100));
            assert!(!watching.is_finished(), "it did not wait");
            host.is_up_for(1800);
            let ended = watching.join().unwrap().unwrap();
            assert!(matches!(&ended, Ended::Left(left) if left.why.contains("within 1800 s")), "{ended:?}");
        });
        // Less time than was promised is nobody's to give.
        let host = Host::on_trial(599);
        std::fs::write(host.rig.folder.path().join("config.toml"), format!("health.deadline_s = 1\n{text}")).unwrap();
        std::thread::scope(|threads| {
            let watching = threads.spawn(|| host.watch());
            sleep(Duration::from_millis(100));
            assert!(!watching.is_finished(), "it did not wait");
            host.is_up_for(600);
            watching.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_trial_whose_settings_cannot_be_read_is_kept_by_those_of_the_image() {
        let host = Host::on_trial(600);
        std::fs::remove_file(host.settings.state_dir.join("trial.toml")).unwrap();
        assert_eq!((left(&host).attempt.as_str(), host.standing(), host.rebooted()), ("one", Standing::Bad, true));
    }
}
