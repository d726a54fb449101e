//! Boot control through the boot counting of systemd-boot.
//!
//! Each slot has one entry, a text file in `loader/entries` of the partition that the loader reads. Its name says how the slot stands, a
//! line in it which of two good ones is preferred:
//!
//! ```text
//! os-b+3-0.conf    armed: 3 tries left, none made        os-b.conf      good
//! os-b+0-3.conf    all tries spent                       os-b+0-0.conf  marked bad
//! os-b+0-0.off     disarmed: no entry to the loader      (none)         never installed
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
//! the same slot, of which it takes one. The next change removes what is left over. A text is read as the loader
//! reads it, so one that was edited by hand is ours as long as its keys are. What is called like an entry of ours and is none counts as none, though the
//! loader may start it; that is said as a weakness, and it goes with the next change that leaves the other slot good.
//!
//! ```text
//! 1. os-b+0-0.new, its text    flush of file and folder       (no entry to the loader)
//! 2. renamed to its new name   flush of folder, then of file, which is read back
//! 3. the old name removed      flush of the folder
//! ```
//!
//! The loader's own rename is the firmware's. Every name of ours takes two places of 32 bytes in the folder (13 characters of a long name, and a
//! short one), as `.` and `..` do together; so the two do not lie in two sectors, unless others put an odd number of places before them.
//!
//! **What is read back**: the files, past the page cache. The folder itself is read as the kernel has it, after it was flushed.
//!
//! **Never**: touches entries of others, `loader.conf`, or a variable of the firmware. What chooses an entry before the names do (`default`,
//! `default @saved`, `preferred`, and the loader's variables for these, for one boot and for a failure), and what the loader had before ours when it
//! started this host, is found out before a download ([`crate::boot::BootControl::self_test`]).

mod entry;
mod loader;
mod names;
mod store;

pub use entry::{EntryError, EntryText};
pub use names::{Counter, EntryName};
pub(crate) use store::Entries;
