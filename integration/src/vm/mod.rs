//! Virtual machines with real firmware, real boot loaders and a real kernel, on disk images that plain files and no privileges make.
//!
//! A [`Machine`] is a disk and its firmware. [`Machine::boot`] starts it under QEMU's own emulation (no KVM is asked for); a guest that
//! reboots ends that boot, and the next one is started by the test, which sees by that how often the machine came up and from where.
//! [`Running::power_cut`] kills it as it stands.
//!
//! What runs in it is Debian's cloud kernel, a small root file system (or a whole Debian: [`DebianScene`]), and the programs of this
//! workspace as they were built. The guest talks to servers of the test at [`HOST`]; a test talks to it through [`Running::ask`], which runs a command there.
//!
//! What is needed is installed and fetched by `integration/deps.sh`, made once where it has to be made, and kept in a folder of its own;
//! where something is missing, [`Parts::find`] says what, and the test is skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test rig that cannot do its part fails the test, with words"
)]

mod debian;
mod disk;
mod initrd;
mod lock;
mod machine;
mod parts;
mod scene;
mod tree;

pub use debian::{Addition, DebianScene};
pub(crate) use disk::ENTRY_PREFIX;
pub use disk::{Loader, SLOT_BYTES};
pub use lock::{Answered, Ask, LockService};
pub use machine::{Machine, Running};
pub use parts::Parts;
pub use scene::{REBOOTS, Scene, TOLD_TO_REBOOT, UP, runs};
pub(crate) use tree::MACHINE_ID;
pub use tree::{Flaw, GUEST_PROGRAMS, image, keys_of};

/// The address at which a guest finds the servers of its test.
pub const HOST: &str = "10.0.2.2";
