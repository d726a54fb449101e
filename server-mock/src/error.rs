//! What can go wrong with the mock itself.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Why a script was refused or the server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The script file could not be read.
    #[error("cannot read script {}", .file.display())]
    ReadScript {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A script makes no sense.
    #[error("script: {problem}")]
    Script {
        /// Where, what was expected, what was found.
        problem: String,
    },
    /// A script file makes no sense.
    #[error("script {}: {problem}", .file.display())]
    ScriptFile {
        /// The file.
        file: PathBuf,
        /// Where, what was expected, what was found.
        problem: String,
    },
    /// A script from the network names a file it may not have shown.
    #[error(
        "script: {key}: {} is out of reach: this server does not listen on a loopback address, so that a script that is put at run \
         time may only name {}",
        .path.display(), reach(.folder.as_deref())
    )]
    OutOfReach {
        /// `files_dir`, `raw_file` or `packages.file`.
        key: &'static str,
        /// What it names.
        path: PathBuf,
        /// The folder it would have to be in.
        folder: Option<PathBuf>,
    },
    /// The address could not be listened on.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The server's thread could not be started.
    #[error("cannot start the server's thread")]
    Thread(#[source] io::Error),
}

fn reach(folder: Option<&Path>) -> String {
    folder.map_or_else(
        || "no file (the script it was started with has no files_dir)".to_owned(),
        |folder| format!("files below {}", folder.display()),
    )
}

impl Error {
    /// What to do about it, where that is more than the error turned round.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::ReadScript { .. } => Some("a script is a file in TOML; an empty one will do to begin with"),
            Self::Script { .. } | Self::ScriptFile { .. } => {
                Some("the README of server-mock lists every key and kind with an example")
            }
            Self::OutOfReach { .. } => {
                Some("start it with --listen 127.0.0.1:PORT, or put the file below the files_dir of the first script")
            }
            Self::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => Some("another program listens there; with port 0 a free port is taken and printed"),
                io::ErrorKind::PermissionDenied => Some("ports below 1024 are for root; take a higher one"),
                io::ErrorKind::AddrNotAvailable => Some("the address has to be one of this machine's, such as 127.0.0.1"),
                _ => None,
            },
            Self::Thread(_) => None,
        }
    }
}
