//! Boot control through U-Boot's environment.
//!
//! **Who counts the tries**: U-Boot, with the script `dist/u-boot/boot.cmd`: it spends one before it starts a slot on trial, and does not
//! start that slot if the try cannot be saved; a slot that is good is not counted. RAUC's scripts and U-Boot's own `rauc` boot method count
//! good slots as well; [`crate::boot::BootControl::renew`] gives them their tries back. Layout: [`environment`]; where it lies:
//! [`places`]; variables: `uboot/variables.rs`.
//!
//! **What is atomic**: with two copies, every change. The copy that does not count is written whole, in one write, with the next number in
//! its flags, then flushed; until its last byte is there its CRC is wrong, and the other copy counts:
//!
//! ```text
//! 1. the copy that does not count      flush
//! ```
//!
//! With one copy **nothing** is: it is written over in place, and a power cut may leave it damaged. U-Boot takes its compiled-in
//! environment then, and this control refuses to read the damaged one as anything. Hosts of that kind exist and are served; each state that
//! is read names it as a weakness, which no change mends: only U-Boot's own configuration does.
//!
//! **Locks**: that of `fw_setenv` (`/var/lock/fw_printenv.lock`), and `flock` on what holds the environment.
//!
//! **Never**: makes an environment where there is none, erases raw flash (MTD and UBI are refused by name), lifts the write protection of an
//! eMMC boot partition (`force_ro`), changes variables of others or their order.

pub(crate) mod control;
pub mod environment;
pub mod places;
#[cfg(test)]
mod script;
mod variables;

pub(crate) use control::UBootEnv;
pub use environment::{Environment, EnvironmentError, Layout, Stored};
pub use places::{Place, PlaceError, Places};
