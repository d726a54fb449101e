//! `hostsim`: firmware and boot loader of a disk image, for hosts that exist as a file and a folder only.
//!
//! A host of this kind is a disk image with two slots and a `sysroot` folder that shows what a booted system would show. `hostsim`
//! plays what lies between: it picks a slot by the bits in the partition table, spends a try, starts it (or finds that it does
//! not start), and rewrites the folder: command line, boot id, `os-release`, and the slot's own keys and floor.
//!
//! It is written without a line of `update_engine`, so that a mistake in how the engine reads or writes a table is not made
//! twice. Its loader's rule is the one of `gptprio`:
//!
//! ```text
//! among slots with tries left or marked successful: the highest priority, of equals the first in the table
//! with tries left one is spent, and the table written back: backup, flush, primary, flush
//! with no such slot: the first in the table
//! ```
//!
//! What a slot holds decides whether it starts: an ext4 file system shows its own files; a small plain header
//! ([`content::HEADER_MAGIC`]) stands in for one in fast tests; anything else does not start, as a half-written slot would not.

pub mod content;
pub mod error;
pub mod gpt;
pub mod image;
pub mod loader;
pub mod restart;
pub mod sysroot;

pub use error::Error;
pub use loader::{BootPlan, Booted, boot};
