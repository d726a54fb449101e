//! What is fuzzed, and what must hold: one function a target, bytes in, panic out when a promise is broken.
//!
//! Promises: a target does nothing but call the product's public functions on what it was given (or on what it made of it: a
//! checksum is mended, so that the fuzzer gets behind it), is deterministic, and knows nothing of the fuzzer. So the same
//! functions replay the committed seeds under the stable compiler, in the product's own tests.
//!
//! Never: a target that only asks "does it panic". Each holds what was read against a second opinion: written again it reads the
//! same, an encoder written here from the format's documentation agrees, what verified is what was signed.

#[cfg(feature = "host")]
pub mod autoboot;
#[cfg(feature = "host")]
pub mod config;
#[cfg(feature = "host")]
pub mod custom;
#[cfg(feature = "host")]
pub mod efi;
#[cfg(feature = "lock")]
pub mod fleetlock;
#[cfg(feature = "host")]
pub mod folder;
#[cfg(feature = "host")]
pub mod gpt;
#[cfg(feature = "host")]
pub mod grub;
#[cfg(feature = "host")]
pub mod host;
#[cfg(feature = "host")]
pub mod http;
#[cfg(feature = "host")]
pub mod install;
pub mod keys;
pub mod omaha;
pub mod payload_file;
pub mod record;
#[cfg(feature = "host")]
pub mod slots;
#[cfg(feature = "host")]
pub mod systemd_boot;
#[cfg(feature = "host")]
pub mod trial;
#[cfg(feature = "host")]
pub mod uboot;
