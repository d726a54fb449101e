//! Boot control: which slot the boot loader starts next, and what it is told about each.
//!
//! [`BootControl`] is one trait for all boot loaders; each backend is a codec and one ordered write. It promises
//! - that after a power cut at any moment the boot state reads as before a change or as after it (P1);
//! - that a slot is armed only with a [`Proven`] slot and a [`Permit`] (P4), and in one write (R3), but with [`efi`] and [`custom`], where
//!   a few change in an order of which every moment is told as before or as after;
//! - that the slot that runs is never disarmed (R6): it can be booted again after every change but [`BootControl::mark_bad`], which
//!   leaves another one to boot;
//! - that every change is read back from the medium before it is reported, and that doing it again changes nothing (R7).
//!
//! It never tells good from bad itself, and never touches a slot's bytes. A running slot that is not known cannot be expressed:
//! every change wants a [`RunningSlot`] (R2).

pub mod custom;
pub mod efi;
#[cfg(test)]
mod every_control;
pub mod gpt;
pub mod grub;
mod held;
pub(crate) mod pair;
pub(crate) mod place;
pub mod rpi;
pub(crate) mod rules;
mod standing;
pub mod systemd_boot;
pub mod uboot;
mod weakness;

use std::fmt;
use std::io;
use std::path::PathBuf;

use locksmith::client::RebootAcknowledged;

pub use standing::Standing;
pub use weakness::Weakness;

use crate::slot::{Proven, RunningSlot, SlotError, SlotName};

/// What a boot loader knows of one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotBoot {
    /// The slot.
    pub name: SlotName,
    /// How it stands.
    pub standing: Standing,
}

/// What a boot loader knows of all slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootState {
    /// The slots in the order in which the loader looks at them.
    pub slots: Vec<SlotBoot>,
    /// The slot that the loader would start now.
    pub next: SlotName,
    /// What was ever marked.
    pub past: Past,
    /// Boots that the loader gives to a slot that was just armed.
    pub tries: u8,
    /// What is wrong with how the state is stored, if anything.
    pub weakness: Option<Weakness>,
}

/// What was ever marked: tells a host that was never updated from one that lost its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// Nothing: a factory disk.
    NothingMarked,
    /// Something, and nothing of it tells that a slot was ever armed.
    NeverArmed,
    /// A slot was armed at some time.
    Armed,
}

impl BootState {
    /// How a slot stands; `None` if the loader does not know it.
    #[must_use]
    pub fn standing(&self, name: &SlotName) -> Option<Standing> {
        self.slots.iter().find(|slot| slot.name == *name).map(|slot| slot.standing)
    }

    /// Whether the running slot counts as good: it is marked good, or nothing is marked at all (a factory disk).
    ///
    /// With another slot bootable, a blank running slot is one whose marks were taken away: it is on its way out, and no factory disk.
    #[must_use]
    pub fn running_is_good(&self, running: &SlotName) -> bool {
        let others_bootable = self.slots.iter().any(|slot| slot.name != *running && slot.standing.is_bootable());
        self.standing(running).is_some_and(|standing| standing.is_good() || standing.is_blank() && !others_bootable)
    }
}

/// The right to arm a slot.
///
/// It says why arming is allowed now, and is used up by arming.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    basis: Basis,
}

#[derive(Debug, PartialEq, Eq)]
enum Basis {
    Lock(RebootAcknowledged),
    NoLockConfigured,
    Forced { attempt: String },
}

impl Permit {
    /// The reboot lock is held, and its server has acknowledged the step to `rebooting`.
    #[must_use]
    pub fn from_lock(acknowledged: RebootAcknowledged) -> Self {
        Self { basis: Basis::Lock(acknowledged) }
    }

    /// The configuration names no reboot lock.
    ///
    /// Only the code that reads the configuration's `[reboot.lock]` may call this, and only if there is none.
    #[must_use]
    pub fn no_lock_configured() -> Self {
        Self { basis: Basis::NoLockConfigured }
    }

    /// A person with root's rights said `updatectl reboot --force`; the history says so.
    ///
    /// Only the code that took up that command may call this.
    #[must_use]
    pub fn forced_by_person(attempt: String) -> Self {
        Self { basis: Basis::Forced { attempt } }
    }
}

impl fmt::Display for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.basis {
            Basis::Lock(acknowledged) => {
                write!(f, "reboot lock held for attempt {}", acknowledged.grant().ticket.attempt.tag())
            }
            Basis::NoLockConfigured => f.write_str("no reboot lock configured"),
            Basis::Forced { attempt } => write!(f, "forced by a person, without the reboot lock, for attempt {attempt}"),
        }
    }
}

/// Why a boot state could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The store could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The disk or file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// A write or flush failed half-way: the state is as before or as after, and has to be read to know.
    #[error("the change of the boot state on {} was cut short; it reads as before or as after", path.display())]
    Interrupted {
        /// The disk or file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// Another program holds the store.
    #[error("{} is being changed by another program for more than {waited_s} seconds (`fuser` or `lslocks` shows which)", path.display())]
    Busy {
        /// The disk or file.
        path: PathBuf,
        /// How long was waited.
        waited_s: u64,
    },
    /// The partition table is not usable.
    #[error("the partition table of {} is not usable", path.display())]
    Table {
        /// The disk.
        path: PathBuf,
        /// Why.
        #[source]
        source: gpt::GptError,
    },
    /// A file of the boot loader is not what it has to be.
    #[error("{}: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected, and what it is.
        why: String,
    },
    /// A program that knows the boot loader did not do what it has to.
    #[error("`{call}` {why}")]
    Program {
        /// The program and its arguments.
        call: String,
        /// How it ended, what it said.
        why: String,
    },
    /// The disk could not be opened.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The slots cannot be controlled this way.
    #[error("{0}")]
    Unsuitable(String),
    /// The disk is not the one that the slots were found on.
    #[error("{} changed since its slots were found: {why}", path.display())]
    Changed {
        /// The disk.
        path: PathBuf,
        /// What is different.
        why: String,
    },
    /// A rule forbids the change; nothing was written.
    #[error("refused to {verb} slot {slot}: {why}")]
    Refused {
        /// What was asked for.
        verb: &'static str,
        /// Of which slot.
        slot: SlotName,
        /// Why not.
        why: String,
    },
    /// What was read back is not what was written.
    #[error(
        "the boot state reads back differently than written: expected {expected}, got {got} (another program writes it, or the medium fails)"
    )]
    ReadBack {
        /// What was written.
        expected: String,
        /// What was read.
        got: String,
    },
}

/// Control over what the boot loader starts next.
///
/// Every change is idempotent, is read back after it was written, and returns the state that was read back.
pub trait BootControl: Send {
    /// The name of the kind of boot control, as in `[boot] control`.
    fn kind(&self) -> &'static str;

    /// Reads the state. Changes nothing.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read(&self) -> Result<BootState, BootError>;

    /// The slot that the loader would start now. Changes nothing.
    ///
    /// # Errors
    /// If the state cannot be read.
    fn active(&self) -> Result<SlotName, BootError> {
        Ok(self.read()?.next)
    }

    /// Writes the state as it is and reads it back: finds out before an update whether it could be changed at all.
    ///
    /// # Errors
    /// If it cannot be read, written, or reads back differently.
    fn self_test(&mut self) -> Result<BootState, BootError>;

    /// Makes a slot that does not run impossible to choose, before its first byte is written (R8).
    ///
    /// # Errors
    /// [`BootError::Refused`] for the running slot, or while the running slot is not good: nothing could be booted then.
    fn disarm(&mut self, slot: &SlotName, running: &RunningSlot) -> Result<BootState, BootError>;

    /// Makes a proven slot the next to be tried: at every moment of it the state reads as before or as after.
    ///
    /// # Errors
    /// [`BootError::Refused`] for the running slot, or while the running slot is not good: there would be nothing to go back to.
    fn arm(&mut self, proven: Proven, permit: Permit, running: &RunningSlot) -> Result<BootState, BootError>;

    /// Marks the running slot good: its tries are not counted any more. Its rank stays what arming made it; one that marking it bad
    /// took away is given back. It never makes a slot the loader's choice that was not armed.
    ///
    /// # Errors
    /// [`BootError::Refused`] while another slot is armed, unless the running slot is itself on trial (R1).
    fn mark_good(&mut self, running: &RunningSlot) -> Result<BootState, BootError>;

    /// Marks the running slot bad, so that the next boot takes another one, in a way that is told from a disarmed slot: what was
    /// booted and failed must not be taken for what was never tried.
    ///
    /// # Errors
    /// [`BootError::Refused`] if no other slot is bootable.
    fn mark_bad(&mut self, running: &RunningSlot) -> Result<BootState, BootError>;

    /// [`Self::mark_bad`], unless the running slot is marked good by now: that is decided while nobody else can change it, and the state
    /// that is returned tells which of both it is.
    ///
    /// # Errors
    /// As [`Self::mark_bad`].
    fn mark_bad_unless_good(&mut self, running: &RunningSlot) -> Result<BootState, BootError>;

    /// Gives the running slot back the tries that a loader took which counts the boots of good slots as well (those of RAUC do). Called
    /// in every boot that has come up in a slot that is good; it never changes which slot is good or preferred.
    ///
    /// # Errors
    /// As the other changes.
    fn renew(&mut self, running: &RunningSlot) -> Result<BootState, BootError> {
        // A slot that is good is not counted by most loaders.
        let _not_counted = running;
        self.read()
    }
}
