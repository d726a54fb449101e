//! The state folder as it was opened, and whether its path still leads there.
//!
//! What is mounted over the folder of a daemon that runs hides its journal. Floor, trial and records are looked up by their paths, and are
//! those of the other folder from then on: whoever went by them and by the journal would mix two hosts. Promises: it is noticed before a mark
//! is written, by every look at the world, and by a daemon at rest as soon as it comes. Never: takes a folder for another one because it cannot be looked up.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::cause::Cause;
use crate::engine::event::Fault;

/// A mount may come while the folder is opened, once or twice.
const TRIES: usize = 3;

/// The state folder that the journal lies in.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    /// As long as it is open, no other folder gets its number.
    opened: File,
    was_left: AtomicBool,
}

impl StateFolder {
    /// Opens the folder; the journal is opened afterwards, so that nothing comes between.
    ///
    /// # Errors
    /// If that cannot be done, or if the path leads elsewhere each time: where that is always so, nothing would ever be the same.
    pub fn open(path: &Path) -> io::Result<Self> {
        for _ in 0..TRIES {
            let opened = File::open(path)?;
            if is_same(&opened.metadata()?, &path.metadata()?) {
                return Ok(Self { path: path.to_owned(), opened, was_left: AtomicBool::new(false) });
            }
        }
        Err(io::Error::other("expected the same folder whenever it is looked up, got another one each time"))
    }

    /// # Errors
    /// If the path does not lead to this folder any more, or that cannot be told.
    pub fn check(&self) -> Result<(), Fault> {
        let fault = |why: String| Err(Fault::new(Cause::StateDir, format!("state_dir {}: {why}", self.path.display())));
        let is_there = self.opened.metadata().and_then(|opened| match self.path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            found => found.map(|found| is_same(&opened, &found)),
        });
        match is_there {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.was_left.store(true, Ordering::Relaxed);
                fault("it is another folder than the one in which the journal was opened (was it mounted since?)".to_owned())
            }
            Err(error) => fault(error.to_string()),
        }
    }

    /// Whether some check has found another folder.
    pub fn was_left(&self) -> bool {
        self.was_left.load(Ordering::Relaxed)
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_takes_the_place_of_another_is_told_from_it_and_one_that_cannot_be_looked_up_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let [path, aside] = ["state", "aside"].map(|name| dir.path().join(name));
        assert_eq!(StateFolder::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::create_dir(&path).unwrap();
        let folder = StateFolder::open(&path).unwrap();
        std::fs::write(path.join("journal.db"), "").unwrap();
        folder.check().unwrap();

        // A link to itself.
        std::fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert!(folder.check().is_err() && !folder.was_left());
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        folder.check().unwrap();

        for come in [|path: &Path| std::fs::create_dir(path).unwrap(), |_: &Path| ()] {
            let folder = StateFolder::open(&path).unwrap();
            std::fs::remove_dir_all(&path).unwrap();
            come(&path);
            let fault = folder.check().unwrap_err();
            assert!(fault.message.contains("another folder than the one in which the journal was opened"), "{fault}");
            assert!(folder.was_left());
        }
    }
}
