//! Slots: where they are, which one runs, writing the other one, and proving what was written.
//!
//! The way through this room is one-directional, and each step can only be taken with what the step before it made:
//!
//! ```text
//! DiskSpec ─► Disk ─► RunningSlot
//!               └───► InactiveSlot ─► Written ─► Proven ─► (boot::BootControl::arm)
//! ```
//!
//! It promises
//! - that the running slot is never opened for writing (P2): [`InactiveSlot::open`] wants a [`RunningSlot`], and nothing but
//!   [`Disk::running_slot`] makes one, from facts of the machine;
//! - that nothing is written that was not verified: a writer takes [`VerifiedBytes`] only;
//! - that a [`Proven`] slot was read back whole, from the medium and not from memory (P4), and has not been open to anyone since.
//!
//! It creates no file but a slot's own on the EFI system partition ([`esp`]), never writes outside the bytes of a slot, and never guesses: a label that stands
//! twice, a running slot that two sources name differently, a device that is mounted, are errors with words.
//!
//! Two modes exist (design 11.11): a block device as `[disk] device` is *host* mode, a regular file is *image* mode, where slots are
//! regions of that file and the running slot is what `sysroot/proc/cmdline` says.

pub(crate) mod aio;
pub mod buffer;
pub mod command_line;
pub mod disk;
mod error;
pub mod esp;
mod holder;
pub(crate) mod ioctl;
pub(crate) mod medium;
mod open;
pub mod readback;
#[cfg(test)]
pub(crate) mod rig;
mod running;
mod sweep;
pub mod system;
pub mod writer;

pub use disk::{Disk, DiskSpec, Location, Mode, Partition, Place, SlotName, SlotSpec, Target};
pub use error::SlotError;
pub use esp::EspPath;
pub(crate) use medium::RawFile;
pub use medium::Transfer;
pub use readback::{ImageTable, Mismatch, ProveError, Proven, Watch};
pub use running::RunningSlot;
pub use system::{DeviceId, SystemView};
pub use writer::{InactiveSlot, Reopened, VerifiedBytes, Writes, Written};
