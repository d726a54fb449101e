//! What can be wrong with a partition table, in words.

use std::io;

use uuid::Uuid;

use super::table::MAX_ENTRIES_BYTES;

/// Why a disk's partition table cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GptError {
    /// The disk could not be read.
    #[error("cannot read {length} bytes at offset {offset}")]
    Read {
        /// Where, in bytes.
        offset: u64,
        /// How much.
        length: usize,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// Too small, or its size is not a multiple of its sectors.
    #[error("{size_bytes} bytes is not the size of a disk with sectors of {sector_size} bytes and a partition table")]
    DiskSize {
        /// Size of the disk.
        size_bytes: u64,
        /// Size of a sector.
        sector_size: u64,
    },
    /// Neither copy is valid.
    #[error("neither copy of the GUID partition table is valid (primary: {primary}; backup: {backup})")]
    NoValidCopy {
        /// What is wrong with the first.
        primary: CopyFault,
        /// What is wrong with the second.
        backup: CopyFault,
    },
    /// Valid tables for both sizes of a sector: one of them is a leftover.
    #[error("the disk holds a valid partition table for sectors of 512 bytes and another for 4096: one is a leftover, remove it")]
    TwoSectorSizes,
    /// A broken copy cannot be made from the other.
    #[error("the {copy} copy of the partition table cannot be restored: {why}")]
    Unrestorable {
        /// "primary" or "backup".
        copy: &'static str,
        /// Why.
        why: String,
    },
    /// Two things on the disk share a sector, so one copy cannot be written while the other stays valid, or not without
    /// touching a partition.
    #[error(
        "{one} and {other} both lie on sector {sector}: a change of the partition table would not be safe; repair the table first"
    )]
    Overlap {
        /// Part of the table.
        one: String,
        /// Another part of it, or a partition.
        other: String,
        /// The first sector they share.
        sector: u64,
    },
    /// An entry that is not in the table.
    #[error("the partition table has no entry {0}")]
    NoEntry(u32),
}

/// What is wrong with one copy of the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CopyFault {
    /// Not a header at all.
    #[error("no \"EFI PART\" signature")]
    Signature,
    /// A revision of the format that is not known to keep the layout.
    #[error("revision {0:#x}, expected 0x10000")]
    Revision(u32),
    /// A header size that cannot be.
    #[error("header of {0} bytes, expected 92 up to a sector")]
    HeaderSize(u32),
    /// The header's checksum disagrees.
    #[error("header checksum {got:#010x}, expected {expected:#010x}")]
    HeaderChecksum {
        /// As stated.
        expected: u32,
        /// As computed.
        got: u32,
    },
    /// A header that belongs somewhere else.
    #[error("header says it stands in sector {says}, but stands in {stands}")]
    Place {
        /// As stated.
        says: u64,
        /// Where it was read.
        stands: u64,
    },
    /// The primary says that the backup is not in the last sector, where it is looked for when the primary is lost.
    #[error("the primary says it stands in sector {says}, but the last sector of the disk is {last_lba}")]
    NotAtTheEnd {
        /// As the primary states.
        says: u64,
        /// Where it belongs.
        last_lba: u64,
    },
    /// Entry size or count that cannot be, or too much.
    #[error("{count} entries of {size} bytes: expected a size of 128 × 2^n and at most {MAX_ENTRIES_BYTES} bytes in all")]
    EntryShape {
        /// Number of entries.
        count: u32,
        /// Bytes of one.
        size: u32,
    },
    /// The array of entries or the usable area lies where it cannot.
    #[error("{0}")]
    Layout(&'static str),
    /// The entries' checksum disagrees.
    #[error("entries checksum {got:#010x}, expected {expected:#010x}")]
    EntriesChecksum {
        /// As stated.
        expected: u32,
        /// As computed.
        got: u32,
    },
    /// A valid copy of another disk's table.
    #[error("it is a copy of another table (disk GUID {0})")]
    Foreign(Uuid),
    /// Its sectors cannot be read.
    #[error("its sectors cannot be read: {0}")]
    Unreadable(String),
}
