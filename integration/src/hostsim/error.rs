//! What can go wrong between the power button and a running system.

use std::io;
use std::path::{Path, PathBuf};

/// Why something could not be played.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The disk image or a request about it makes no sense.
    #[error("{0}")]
    Disk(String),
    /// No slot started, however often the power was switched on.
    #[error("no slot starts after {attempts} attempts:\n{log}")]
    NothingBoots {
        /// How often it was tried.
        attempts: u32,
        /// What happened each time.
        log: String,
    },
}

impl Error {
    /// For `map_err`: what was tried on which file.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
