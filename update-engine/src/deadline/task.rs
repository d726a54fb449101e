//! What is on trial, as far as it can be known: by what was written down, by the boot table, or not at all.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use manifests::release::SlotName;

use super::files::{Trial, settings_of_trial, trust_targets};
use super::program::{DeadlineError, OnceEach, Places};
use super::stuck::Stuck;
use crate::boot::{BootState, Standing};
use crate::config::trust::{Target, check_trust};
use crate::config::{self, BootSettings, Settings};
use crate::engine::event::Fault;
use crate::records::Records;
use crate::slot::Mode;
use crate::world::{Ground, World, boot_fault, chain, slot_name};

/// An attempt that no file names.
pub(super) const UNKNOWN: &str = "unknown";

/// What is to be kept in time, as far as it can be known now.
pub(super) enum Task {
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
pub(super) enum Looked {
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

pub(super) struct Seen {
    pub(super) ground: Ground,
    pub(super) state: BootState,
    /// How the slot that runs stands.
    pub(super) standing: Standing,
}

impl Task {
    pub(super) fn find(places: &Places, log: &mut OnceEach) -> Self {
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

    pub(super) const fn is_written_down(&self) -> bool {
        matches!(self, Self::WrittenDown { .. })
    }

    pub(super) fn sysroot(&self) -> &Path {
        match self {
            Self::WrittenDown { world, .. } | Self::Own { world } => &world.settings().sysroot,
            Self::Blind { .. } => Path::new("/"),
        }
    }

    /// Since the start of the host.
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self {
            Self::WrittenDown { trial, own_deadline, .. } => Some(own_deadline.unwrap_or_default().max(trial.deadline)),
            Self::Own { world } => Some(world.settings().trial_deadline()),
            Self::Blind { trial, .. } => trial.as_ref().map(|trial| trial.deadline),
        }
    }

    /// The clock that asks no disk goes from when it is known that this machine is on trial; what cannot be read later does not stop it.
    pub(super) fn wind(&self, stuck: &Stuck, was_on_trial: bool) {
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
    pub(super) fn deadline_on(&self, mode: Mode, was_on_trial: bool) -> Option<Duration> {
        self.deadline().filter(|_| mode == Mode::Host && (was_on_trial || self.is_written_down()))
    }

    pub(super) fn look(&self) -> Result<Looked, DeadlineError> {
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
