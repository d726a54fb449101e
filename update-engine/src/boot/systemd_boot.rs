//! Boot control through the boot counting of systemd-boot.
//!
//! Each slot has one entry, a text file in `loader/entries` of the partition that the loader reads. Its name says how the slot stands, a
//! line in it which of two good ones is preferred:
//!
//! ```text
//! os-b+3-0.conf    armed: 3 tries left, none made        os-b.conf      good
//! os-b+0-3.conf    all tries spent                       os-b+0-0.conf  marked bad
//! os-b.off         disarmed: no entry to the loader      (none)         never installed
//!
//! sort-key ota     the same in both, so that the version decides
//! version 7        counts the armings: the one that was armed last is preferred
//! title …          the rest is the slot's own file, as it was signed and proven: ota/b.entry
//! ```
//!
//! **Who counts the tries**: the loader, by renaming `+3-0` to `+2-1` before it starts the kernel. One without tries is put last, and
//! started only if there is no other. An entry without `+` is not counted.
//!
//! **What is atomic**: every change, as one rename within a folder. On FAT that holds as long as old and new name lie in one sector of the
//! folder (a name of up to 13 characters takes 64 bytes, so names are kept as short as that, and the folder small). The text of an entry
//! is written beside it and flushed before the rename that makes it an entry.
//!
//! ```text
//! arm: 1. os-b.new, its text   flush     2. rename to os-b+3-0.conf   flush of the folder     3. os-b.off removed
//! all others: one rename       flush of the folder
//! ```
//!
//! **Never**: touches entries of others, `loader.conf`, or a variable of the firmware. A `default` of others that would be started
//! instead is found out before a download ([`crate::boot::BootControl::self_test`]).

mod entry;
mod names;
mod store;

pub use entry::{EntryError, EntryText};
pub use names::{Counter, EntryName};
pub(crate) use store::Entries;
