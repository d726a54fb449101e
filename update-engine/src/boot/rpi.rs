//! Boot control through `autoboot.txt` and the `tryboot` flag of the Raspberry Pi's firmware.
//!
//! **Who counts the tries**: nobody has to. The firmware takes the section `[tryboot]` in one boot only: the one that was asked for with the
//! argument `0 tryboot` of the reboot system call. It clears that flag before it starts anything; a power cut clears it as well. So a slot
//! on trial has one try, every other boot starts the partition of `[all]`, and an armed slot is **not** started by a reboot that does not
//! pass the argument. `[reboot] command` has to:
//!
//! ```toml
//! [reboot]
//! command = ["systemctl", "reboot", "--reboot-argument=0 tryboot"]
//! ```
//!
//! The state's next slot is the one that such a reboot starts. When no slot is armed both sections name the same partition, so that the argument does no harm then.
//!
//! **What is known of a try.** The firmware writes nothing, and says in the device tree how *this* boot came about ([`firmware`]):
//!
//! - The flag was set, and the partition is that of the armed slot: its one try is running. It is [`Standing::Spent`], and the next change
//!   writes that down (`tried`).
//! - Anything else, such as the old slot after a reboot: that the armed slot was tried is **not known**. It may have been tried and have
//!   died before anything in it could write; power may have been cut before the reboot; the reboot may have been without the argument. All
//!   look alike. Such a slot stays [`Standing::Pending`], which is what the file says and what the firmware would do: it is never taken
//!   for good, and never for failed.
//! - There is no such device tree (another machine): as above, also while it runs.
//!
//! **What is atomic**: every change. The file is at most 512 bytes, lies in one sector, and is written in place as one write of the length
//! that it has already, then flushed. One that is shorter is made [`autoboot::FILE_BYTES`] long before that, with comments: what it says
//! is the same with the old length and the new.
//!
//! ```text
//! 1. comments behind a file that is shorter      flush
//! 2. the file, in place                          flush
//! ```
//!
//! **Never**: makes the file, passes the argument, asks the firmware for anything, or makes a change by which the slot that the firmware
//! says it started could be written over: partitions that are configured the wrong way round are found out by that.
//!
//! [`Standing::Spent`]: crate::boot::Standing::Spent
//! [`Standing::Pending`]: crate::boot::Standing::Pending

pub mod autoboot;
mod control;
pub mod firmware;
mod spelling;

pub use autoboot::{Autoboot, AutobootError};
pub(crate) use control::AutobootFile;
pub use firmware::Booted;
