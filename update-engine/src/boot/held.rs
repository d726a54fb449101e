//! Small stores of boot state, opened and locked against others who change them.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::BootError;
use crate::durable;
use crate::slot::medium::{Access, Kind, RawFile};

/// udev holds the lock of a disk for an instant; a program that holds one longer is named as the reason.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// A store that nobody else who asks for its lock changes. The lock ends with it.
#[derive(Debug)]
pub(crate) struct Held(RawFile);

impl Deref for Held {
    type Target = RawFile;

    fn deref(&self) -> &RawFile {
        &self.0
    }
}

/// Opens a store and waits a bounded time for its lock (`flock`). Transfers go past the page cache where that is possible.
pub(crate) fn open(path: &Path, access: Access) -> Result<Held, BootError> {
    let began = Instant::now();
    loop {
        let file = RawFile::open(path, access).map_err(|source| io_error("open", path, source))?;
        lock(file.file(), path, access)?;
        // Whoever had the lock before may have put another file in its place.
        if Kind::of_path(path).map_err(|source| io_error("look up", path, source))? == file.kind() {
            file.try_direct();
            return Ok(Held(file));
        }
        if began.elapsed() >= LOCK_WAIT {
            return Err(BootError::Busy { path: path.to_path_buf(), waited_s: LOCK_WAIT.as_secs() });
        }
    }
}

/// A folder whose files nobody else who asks for its lock changes. The lock ends with it.
#[derive(Debug)]
pub(crate) struct HeldFolder {
    _locked: File,
}

/// Waits a bounded time for the lock (`flock`) of a folder: for stores of several files, or of one that is replaced.
pub(crate) fn folder(path: &Path, access: Access) -> Result<HeldFolder, BootError> {
    let folder = File::open(path).map_err(|source| io_error("open", path, source))?;
    lock(&folder, path, access)?;
    Ok(HeldFolder { _locked: folder })
}

pub(crate) fn io_error(action: &'static str, path: &Path, source: io::Error) -> BootError {
    BootError::Io { action, path: path.to_path_buf(), source: durable::in_words(source, path) }
}

/// A write, a rename or a flush failed half-way.
pub(crate) fn interrupted(path: &Path, source: io::Error) -> BootError {
    BootError::Interrupted { path: path.to_path_buf(), source: durable::in_words(source, path) }
}

/// Waits a bounded time for the lock (`flock`) of an open file: shared for reading, else exclusive.
pub(crate) fn lock(file: &File, path: &Path, access: Access) -> Result<(), BootError> {
    let began = Instant::now();
    loop {
        let attempt = match access {
            Access::Write | Access::WriteExclusive => file.try_lock(),
            Access::Read | Access::ReadExclusive => file.try_lock_shared(),
        };
        match attempt {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_WAIT => thread::sleep(LOCK_POLL),
            Err(TryLockError::WouldBlock) => {
                return Err(BootError::Busy { path: path.to_path_buf(), waited_s: LOCK_WAIT.as_secs() });
            }
            Err(TryLockError::Error(error)) => return Err(io_error("lock", path, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_replaced_while_its_lock_is_waited_for_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        std::fs::write(&path, "old").unwrap();
        let held = open(&path, Access::Write).unwrap();
        let waiting = thread::scope(|scope| {
            let waiting = scope.spawn(|| open(&path, Access::Write).unwrap().size_bytes().unwrap());
            // Long enough for it to wait for the old one.
            thread::sleep(10 * LOCK_POLL);
            durable::replace(&path, b"the new one").unwrap();
            drop(held);
            waiting.join().unwrap()
        });
        assert_eq!(waiting, 11);
    }
}
