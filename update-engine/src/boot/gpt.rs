//! Boot control in the attribute bits of GPT partition entries (ChromeOS, CoreOS, Flatcar).
//!
//! ```text
//! entry, bytes 48..56, little endian:   bits 48-51 priority · 52-55 tries · 56 successful · all others not ours, kept
//! armed  = highest priority, tries n, not successful        the loader spends a try at each boot
//! good   = successful, tries 0                              not counted any more
//! bad    = priority 0, tries 0, not successful              never chosen
//! ```
//!
//! **Who counts the tries**: the boot loader; it picks the highest priority among slots with tries left or marked successful (the
//! first in the table wins a tie), and writes the table back when it spends a try.
//!
//! **What is atomic**: a whole change of the table. A disk has two copies, and a reader takes the primary if it is valid, else the
//! backup. [`write::plan`] puts every change in this order, and only sectors that change are written:
//!
//! ```text
//! 1. primary, from the backup   (only if the primary is not valid)   flush
//! 2. backup: entries, header                                         flush
//! 3. primary: entries, header                                        flush
//! ```
//!
//! At every moment one whole copy is valid, so that after a power cut at any point the table reads as before or as after the
//! change, never as something else. A copy counts as valid when the checksums of its header and of its entries agree.
//!
//! The codec ([`Table`]) is pure; fields that it does not know are kept byte for byte. It takes sectors of 512 and 4096 bytes, any
//! size and count of entries that the header states (up to [`table::MAX_ENTRIES_BYTES`]).

pub mod attributes;
mod control;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
mod rules;
pub mod table;
pub mod write;

pub use attributes::{Attributes, Priority, Tries};
pub use control::GptControl;
pub use error::{CopyFault, GptError};
pub use table::{Redundancy, Table, TableEntry, TableSource, parse};
