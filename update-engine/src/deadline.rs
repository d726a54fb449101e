//! The deadline of a trial, kept by a program of its own: `update-engine-trial` (design 11.2).
//!
//! A new image may be so broken that its daemon never starts, ends again and again, or has no configuration it can read. Then nobody in it
//! says that it is unhealthy. This program does, with as little as it can: what it needs to know was written down by the daemon that armed
//! the slot, so that nothing of the new image has to be right but the kernel, the mounts and this program.
//!
//! ```text
//! state_dir/trial         ota trial v1 / slot b / version 1.1.0 / attempt ID / deadline SECONDS / end
//! state_dir/trial.toml    the configuration of the daemon that armed it
//! state_dir/trial.left    ota trial left v1 / attempt ID / times N / why WORDS / end
//! ```
//!
//! An image that does not see that folder (not mounted, not readable, empty) is kept in time all the same: by the boot table, its own
//! configuration, and twice its `health.deadline_s`. All that it can leave behind then is the mark of the slot. An image that sees that folder
//! and cannot read its boot state (the ESP is not mounted, a tool of the loader is missing) is left without a mark: the loader's tries bring
//! the old slot back. Not so where the boot state is the partition table, without which nothing may boot.
//!
//! Promises: a slot on trial that is not good when its deadline has passed since the host was started is marked bad, that is read back, and
//! the host is rebooted, by the configured command, and by the kernel where that fails. It goes by the boot state and never by the
//! journal. The reason is written down for the daemon of the old slot, and so is how often an attempt was left: a loader that does not
//! obey its marks ends in a host that stays (`MAX_LEAVES`, or the tries of its configuration), not in one that reboots for ever.
//!
//! An image that needs more time than the one before it says so in its own `health.deadline_s`: the longer of both deadlines holds. The time
//! in which a host was suspended does not count. A disk that answers no more ends in a reboot 15 minutes later, by a clock that asks no disk:
//! from when it was seen, in this boot, that the host is on trial. One that has not answered before may be that of a host in a good slot, which
//! may do its work all the same, or be checked for long by `fsck` behind an automount: it is left to a watchdog.
//!
//! What the kernel has said so far is kept beside the reason ([`crate::kernel_log`]), as far as that can be done in a moment.
//!
//! Never: touches a slot that is good, or one that is on trial neither by what was written down nor by the boot table; marks a slot that
//! does not run; leaves a slot of which it is known that no other can be booted; guesses which slot runs; writes into a state folder in which it found no trial;
//! believes what others than root could have written (design 11.16): then it goes by the image's own configuration, as if nothing was there.

mod files;
mod leave;
mod program;
mod stuck;
mod task;
#[cfg(test)]
mod tests;

pub use files::{Left, Trial, TrialError, forget, settings_of_trial, write_down};
pub(crate) use stuck::suspended_for;

pub use program::{DeadlineError, Ended, Places, Watch, watch};
