//! What can go wrong with a slot, in words: what, where, expected, got.

use std::io;
use std::path::{Path, PathBuf};

use super::disk::SlotName;
use crate::boot::gpt::GptError;

/// Why a slot could not be found, opened, written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// A system call on a file or device failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb phrase.
        action: String,
        /// On which file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// A transfer at a place in a slot failed.
    #[error("cannot {action} slot {slot}, image \"{image}\", at offset {offset}")]
    Transfer {
        /// "read" or "write".
        action: &'static str,
        /// The slot.
        slot: SlotName,
        /// The image of the slot.
        image: String,
        /// Where, in bytes from the start of the image.
        offset: u64,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// A flush failed: the system may have dropped any write since the last good one.
    #[error(
        "cannot flush slot {slot}, image \"{image}\": every write since the last flush counts as lost, so the slot has to be started over"
    )]
    FlushLost {
        /// The slot.
        slot: SlotName,
        /// The image of the slot.
        image: String,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The disk's partition table cannot be read.
    #[error("cannot read the partition table of {}", path.display())]
    Table {
        /// The disk.
        path: PathBuf,
        /// Why.
        #[source]
        source: GptError,
    },
    /// The configuration of the disk or a slot cannot be right.
    #[error("{0}")]
    Spec(String),
    /// Which slot runs is unknown or told differently by two sources; nothing may be written or marked then.
    #[error("cannot tell which slot runs: {0}")]
    RunningUnknown(String),
    /// A slot must not be opened for writing.
    #[error("refused to open slot {slot}, image \"{image}\" ({}): {why}", path.display())]
    Refused {
        /// The slot.
        slot: SlotName,
        /// The image of the slot.
        image: String,
        /// Its device or file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A request that does not fit the slot: its caller is wrong, nothing was done.
    #[error("slot {slot}, image \"{image}\": {why}")]
    Request {
        /// The slot.
        slot: SlotName,
        /// The image of the slot.
        image: String,
        /// What does not fit.
        why: String,
    },
    /// The caller cancelled the work.
    #[error("cancelled")]
    Cancelled,
}

impl SlotError {
    /// An [`SlotError::Io`].
    pub(crate) fn io(action: impl Into<String>, path: &Path, source: io::Error) -> Self {
        Self::Io { action: action.into(), path: path.to_path_buf(), source }
    }
}
