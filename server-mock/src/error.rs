//! What can go wrong with the mock itself.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

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
