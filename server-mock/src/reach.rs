//! Which files a script may name that came over the network.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::script::{AnswerKind, Script};

/// How far a script that is put at run time reaches. Who can reach a loopback address is on this machine already; to anybody else
/// nothing is shown that the script of the start would not have shown.
pub(crate) enum Reach {
    /// Any file that this process can read.
    Anywhere,
    /// Files below this folder; none: no file at all.
    Below(Option<PathBuf>),
}

impl Reach {
    /// For a server that was started with this script and listens there.
    pub(crate) fn new(script: &Script, addr: SocketAddr) -> Self {
        if addr.ip().is_loopback() {
            return Self::Anywhere;
        }
        Self::Below(script.files_dir.as_ref().and_then(|folder| folder.canonicalize().ok()))
    }

    /// Refuses a script that names a file out of reach.
    pub(crate) fn check(&self, script: &Script) -> Result<(), Error> {
        let Self::Below(folder) = self else { return Ok(()) };
        for (key, path) in named_by(script) {
            if !is_below(&path, folder.as_deref()) {
                return Err(Error::OutOfReach { key, path, folder: folder.clone() });
            }
        }
        Ok(())
    }
}

/// Every file a script names, by the key that names it. A package's is only measured, but a digest tells a guess from a miss.
fn named_by(script: &Script) -> Vec<(&'static str, PathBuf)> {
    let mut named: Vec<_> = script.files_dir.iter().map(|folder| ("files_dir", folder.clone())).collect();
    for answer in script.answers.iter().chain(&script.events) {
        match &answer.kind {
            AnswerKind::RawFile { file } => named.push(("raw_file", file.clone())),
            AnswerKind::Update(offer) => {
                let files = offer.packages.iter().filter_map(|package| package.file.as_ref());
                let folder = script.files_dir.clone().unwrap_or_default();
                named.extend(files.map(|file| ("packages.file", folder.join(file))));
            }
            _ => {}
        }
    }
    named
}

/// With every link on the way followed. What does not exist is out of reach, too: it could be made a link later.
fn is_below(path: &Path, folder: Option<&Path>) -> bool {
    folder.is_some_and(|folder| path.canonicalize().is_ok_and(|path| path.starts_with(folder)))
}
