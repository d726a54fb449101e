//! Small stores of boot state, opened and locked against others who change them.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::BootError;
use crate::slot::medium::{Access, RawFile};

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
    let file = RawFile::open(path, access).map_err(|source| io_error("open", path, source))?;
    lock(&file, access)?;
    file.try_direct();
    Ok(Held(file))
}

pub(crate) fn io_error(action: &'static str, path: &Path, source: io::Error) -> BootError {
    BootError::Io { action, path: path.to_path_buf(), source }
}

fn lock(file: &RawFile, access: Access) -> Result<(), BootError> {
    match access {
        Access::Write | Access::WriteExclusive => wait_for_lock(file.file(), file.path()),
        Access::Read | Access::ReadExclusive => wait(|| file.file().try_lock_shared(), file.path()),
    }
}

/// Waits a bounded time for the lock of whoever changes what `file` is: a file or a folder. It ends with the file.
pub(crate) fn wait_for_lock(file: &File, path: &Path) -> Result<(), BootError> {
    wait(|| file.try_lock(), path)
}

fn wait(attempt: impl Fn() -> Result<(), TryLockError>, path: &Path) -> Result<(), BootError> {
    let began = Instant::now();
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_WAIT => thread::sleep(LOCK_POLL),
            Err(TryLockError::WouldBlock) => {
                return Err(BootError::Busy { path: path.to_path_buf(), waited_s: LOCK_WAIT.as_secs() });
            }
            Err(TryLockError::Error(error)) => return Err(io_error("lock", path, error)),
        }
    }
}
