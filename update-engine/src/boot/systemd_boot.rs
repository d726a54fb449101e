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
//! **What is atomic**: nothing has to be. On vfat a rename is not: it makes a directory entry of length 0, and the file's inode, written
//! later, says where the bytes are (a machine that was switched off right after a commit had lost its entry so). Therefore the new entry is
//! whole and on the medium before the old one is removed, and a cut between leaves an empty one, which the loader passes over, or two of
//! the same slot, of which it takes one. The next change removes what is left over. What is called like an entry of ours and is none counts
//! as none, is said as a weakness, and goes with the next change that leaves the other slot good.
//!
//! ```text
//! 1. os-b.new, its text        flush of file and folder       (no entry to the loader)
//! 2. renamed to its new name   flush of folder, then of file
//! 3. the old name removed      flush of the folder
//! ```
//!
//! The loader's own rename is the firmware's: names of up to 13 characters keep it within one sector of the folder.
//!
//! **Never**: touches entries of others, `loader.conf`, or a variable of the firmware. What chooses an entry before the names do (`default`,
//! `default @saved`, `preferred`, and the loader's variables for these and for one boot) is found out before a download
//! ([`crate::boot::BootControl::self_test`]).

mod entry;
mod loader;
mod names;
mod store;

pub use entry::{EntryError, EntryText};
pub use names::{Counter, EntryName};
pub(crate) use store::Entries;
