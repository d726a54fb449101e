//! Files: read under a cap, written whole or not at all.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Error;

/// Names that are tried for a temporary file: what a killed run has left behind must not stop the next.
const NAMES_TRIED: u32 = 100;

/// Longer than any key file, for which a reader wants a byte more than it takes.
const SMALL: usize = 8192;

/// Entries of a folder that are looked at for leftovers.
const ENTRIES_LOOKED_AT: usize = 100_000;

/// What stands where a file should, if it is one.
pub(crate) const A_DIRECTORY: &str = "a directory";

/// Longest wait for another run that changes a record of the same folder. It takes moments, unless that run was stopped.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks whether it is done.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Bytes of two files that are compared at once.
const COMPARED: usize = 256 * 1024;

/// Reads a file of at most `limit` bytes. It may be a pipe, such as `<(…)` of a shell gives.
pub(super) fn read_capped(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    // What may be a private key is read into memory that need not grow: growing would leave a copy that nobody wipes.
    let mut bytes = Vec::with_capacity(SMALL);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::file("read", path))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limit) {
        return Ok(bytes);
    }
    Err(Error::TooLong { path: path.to_owned(), limit })
}

/// Reads a text of at most `limit` bytes.
pub fn read_text(path: &Path, limit: u64) -> Result<String, Error> {
    let bytes = read_capped(path, limit)?;
    let not_text = |error| Error::file("read as UTF-8 text", path)(io::Error::new(io::ErrorKind::InvalidData, error));
    String::from_utf8(bytes).map_err(not_text)
}

/// Opens the file of an image and tells its size.
pub(super) fn open_image(name: &str, path: &Path) -> Result<(File, u64), Error> {
    let not_an_image = |got| Error::NotAnImage { name: name.to_owned(), path: path.to_owned(), got };
    let (file, size) = open_sized(path).map_err(|error| match error {
        Error::NotAFile { got, .. } => not_an_image(got),
        other => other,
    })?;
    if size == 0 {
        return Err(not_an_image("an empty one"));
    }
    Ok((file, size))
}

/// Opens a file and tells its size; of a block device too.
pub(super) fn open_sized(path: &Path) -> Result<(File, u64), Error> {
    refuse_endless(path)?;
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let size = file.seek(SeekFrom::End(0)).map_err(Error::file("find the size of", path))?;
    file.rewind().map_err(Error::file("rewind", path))?;
    Ok((file, size))
}

/// Refuses a pipe or a terminal before it is opened: that could wait for ever.
pub(super) fn refuse_endless(path: &Path) -> Result<(), Error> {
    let kind = std::fs::metadata(path).map_err(Error::file("open", path))?.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    let got = if kind.is_dir() { A_DIRECTORY } else { "a pipe, socket or character device" };
    Err(Error::NotAFile { path: path.to_owned(), got })
}

/// Creates a file that must not exist yet, with these permissions, and makes it durable. If that fails, it is gone.
pub(super) fn create_exclusively(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Error> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => Error::KeyExists { path: path.to_owned() },
            _ => Error::File { action: "create", path: path.to_owned(), source },
        })?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::file("write", path));
    written.and_then(|()| sync_folder(path)).inspect_err(|_| {
        // Half a file would keep the name for ever. We made it a moment ago.
        let _ = std::fs::remove_file(path);
    })
}

/// A file that is written beside its place and moved there when it is complete and durable. Dropped before that, it is gone.
/// As long as it is open it is locked, which tells it from the leftover of a run that was killed.
pub(super) struct PendingFile {
    file: File,
    written_at: PathBuf,
    place: PathBuf,
    finished: bool,
}

/// What stands in the place of a pending file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// Nothing.
    Nothing,
    /// The same bytes.
    TheSame,
    /// Something else.
    Another,
}

impl PendingFile {
    pub(super) fn create(place: &Path) -> Result<Self, Error> {
        let (file, written_at) = create_beside(place, "new")?;
        Ok(Self { file, written_at, place: place.to_owned(), finished: false })
    }

    /// One that takes the place of a file that is there. Where a link leads to that, the link stays; so do the file's permissions, and
    /// its owner where this process may give files away.
    pub(super) fn replacing(path: &Path) -> Result<Self, Error> {
        let place = path.canonicalize().map_err(Error::file("open", path))?;
        let before = std::fs::metadata(&place).map_err(Error::file("look at", &place))?;
        let pending = Self::create(&place)?;
        // Another's file in a folder of ours: it becomes ours, as with any editor that writes beside and renames.
        let _ = std::os::unix::fs::fchown(&pending.file, Some(before.uid()), Some(before.gid()));
        pending.file.set_permissions(before.permissions()).map_err(Error::file("set the permissions of", path))?;
        Ok(pending)
    }

    pub(super) const fn file(&mut self) -> &mut File {
        &mut self.file
    }

    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// Makes the bytes durable, still beside their place.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(Error::file("write", &self.place))
    }

    /// Compares with what stands in its place.
    pub(super) fn meets(&mut self) -> Result<Met, Error> {
        if self.place.symlink_metadata().is_err() {
            return Ok(Met::Nothing);
        }
        let (there, _) = open_sized(&self.place)?;
        self.file.rewind().map_err(Error::file("rewind", &self.written_at))?;
        let same = same_bytes(&self.file, there).map_err(Error::file("compare with", &self.place))?;
        Ok(if same { Met::TheSame } else { Met::Another })
    }

    /// Makes the bytes durable and puts them in their place, instead of what may have been there.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.sync()?;
        std::fs::rename(&self.written_at, &self.place).map_err(Error::file("put a new file at", &self.place))?;
        self.finished = true;
        sync_folder(&self.place)
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing can be done about a leftover here; the next run removes it.
            let _ = std::fs::remove_file(&self.written_at);
        }
    }
}

fn same_bytes(one: impl io::Read, other: impl io::Read) -> io::Result<bool> {
    let (mut one, mut other) = (BufReader::with_capacity(COMPARED, one), BufReader::with_capacity(COMPARED, other));
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 {
            return Ok(left.len() == right.len());
        }
        if left[..length] != right[..length] {
            return Ok(false);
        }
        one.consume(length);
        other.consume(length);
    }
}

/// Replaces the bytes of a small file as [`PendingFile::replacing`] does.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut pending = PendingFile::replacing(path)?;
    pending.file().write_all(bytes).map_err(Error::file("write", path))?;
    pending.finish()
}

/// Keeps other runs from changing a record as long as the answer is held: between the reading of a record and the renaming of the
/// changed one into its place, nobody adds what would be lost. Where the file system has no locks, nothing is kept away.
pub(super) fn lock_folder_of(record: &Path) -> Result<File, Error> {
    // A link leads to the folder that is written to.
    let place = record.canonicalize().unwrap_or_else(|_| record.to_owned());
    lock(folder_of(&place), PATIENCE)
}

fn lock(folder: &Path, patience: Duration) -> Result<File, Error> {
    let file = File::open(folder).map_err(Error::file("open the folder", folder))?;
    let started = Instant::now();
    while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        if started.elapsed() >= patience {
            return Err(Error::Busy { folder: folder.to_owned(), waited: patience });
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(file)
}

/// A file without a name, on the same file system as `place`: it vanishes when the program ends, however that happens.
pub(super) fn nameless(place: &Path) -> Result<File, Error> {
    let (file, path) = create_beside(place, "blobs")?;
    std::fs::remove_file(&path).map_err(Error::file("unlink", &path))?;
    Ok(file)
}

/// A file without a name for what is unpacked: beside `place`, or where that cannot be, in the folder for temporary files.
pub(super) fn scratch_beside(place: &Path) -> Result<File, Error> {
    nameless(place).or_else(|_cannot_be_written| nameless(&std::env::temp_dir().join("payload")))
}

fn create_beside(place: &Path, purpose: &str) -> Result<(File, PathBuf), Error> {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let mut number = 0;
    loop {
        let path = place.with_file_name(format!(".{name}.{purpose}.{}.{number}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) if is_kept(&file) => return Ok((file, path)),
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists || number >= NAMES_TRIED => {
                return Err(Error::File { action: "create", path, source });
            }
            _ => number += 1,
        }
    }
}

/// Locks a new file against [`remove_leftovers`] of another run; false if that was quicker. Where the file system has no locks,
/// nothing is ever taken for a leftover.
fn is_kept(file: &File) -> bool {
    let locked = !matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    locked && file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

/// Removes what builds that were killed have left in a folder: files named as [`PendingFile`] names them that nobody has locked.
pub(super) fn remove_leftovers(folder: &Path) -> Result<(), Error> {
    let unreadable = || Error::file("read the folder", folder);
    for entry in std::fs::read_dir(folder).map_err(unreadable())?.take(ENTRIES_LOOKED_AT) {
        let entry = entry.map_err(unreadable())?;
        let is_ours =
            entry.file_name().to_str().is_some_and(is_pending_name) && entry.file_type().is_ok_and(|kind| kind.is_file());
        // What cannot be opened belongs to somebody else, and is for them to remove.
        if is_ours
            && let Ok(file) = OpenOptions::new().read(true).write(true).open(entry.path())
            && file.try_lock().is_ok()
        {
            std::fs::remove_file(entry.path()).map_err(Error::file("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// `.NAME.release.new.PID.N`, and the like of payloads and of their blobs.
fn is_pending_name(name: &str) -> bool {
    let is_number = |part: Option<&str>| part.is_some_and(|part| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit()));
    let mut parts = name.rsplit('.');
    is_number(parts.next())
        && is_number(parts.next())
        && matches!(parts.next(), Some("new" | "blobs"))
        && matches!(parts.next(), Some("release" | "payload"))
        && name.starts_with('.')
}

/// A new name is durable only once its folder is.
fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = folder_of(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::file("sync the folder", folder))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_pending_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a.release");
        std::fs::write(&place, "old").unwrap();
        let mut dropped = PendingFile::create(&place).unwrap();
        dropped.file().write_all(b"half").unwrap();
        assert_eq!(names(dir.path()).len(), 2);
        drop(dropped);
        assert_eq!((names(dir.path()), std::fs::read(&place).unwrap()), (vec!["a.release".to_owned()], b"old".to_vec()));
        replace(&place, b"new").unwrap();
        assert_eq!((names(dir.path()), std::fs::read(&place).unwrap()), (vec!["a.release".to_owned()], b"new".to_vec()));
    }

    #[test]
    fn leftovers_of_a_killed_run_do_not_stop_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a");
        let leftover = dir.path().join(format!(".a.new.{}.0", std::process::id()));
        std::fs::write(&leftover, "x").unwrap();
        std::fs::write(&place, "old").unwrap();
        replace(&place, b"new").unwrap();
        assert_eq!((std::fs::read(&leftover).unwrap(), std::fs::read(&place).unwrap()), (b"x".to_vec(), b"new".to_vec()));
    }

    #[test]
    fn leftovers_that_nobody_writes_any_more_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(dir.path().join(name), "x").unwrap();
        let kept =
            [".1.0.payload.new.77", ".1.0.payload.old.77.0", ".hidden", ".x.new.77.0", "1.0.payload.new.77.0", "1.0.release"];
        kept.iter().for_each(|name| write(name));
        [".1.0.payload.new.77.0", ".1.0.payload.blobs.77.12", ".2.release.new.1.1"].iter().for_each(|name| write(name));
        let pending = PendingFile::create(&dir.path().join("3.payload")).unwrap();
        let mut expected: Vec<String> = kept.iter().map(|name| (*name).to_owned()).collect();
        expected.push(pending.written_at.file_name().unwrap().to_str().unwrap().to_owned());
        expected.sort();
        remove_leftovers(dir.path()).unwrap();
        assert_eq!(names(dir.path()), expected);
        pending.finish().unwrap();
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_link_and_its_permissions() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("there/a.release"), dir.path().join("a.release"));
        std::fs::create_dir(dir.path().join("there")).unwrap();
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("there/a.release", &link).unwrap();
        replace(&link, b"new").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        let mode = file.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((std::fs::read(&file).unwrap(), mode), (b"new".to_vec(), 0o640));
        assert_eq!(names(&dir.path().join("there")), ["a.release"]);
    }

    #[test]
    fn files_are_the_same_by_their_bytes() {
        for (one, other, same) in [("", "", true), ("a", "a", true), ("a", "b", false), ("a", "ab", false), ("ab", "a", false)] {
            assert_eq!(same_bytes(one.as_bytes(), other.as_bytes()).unwrap(), same, "{one:?} {other:?}");
        }
    }

    #[test]
    fn a_folder_is_locked_by_one_at_a_time_and_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("a.release");
        let held = lock_folder_of(&record).unwrap();
        let refused = lock(dir.path(), Duration::from_millis(50)).unwrap_err();
        assert!(matches!(refused, Error::Busy { .. }), "{refused}");
        drop(held);
        // A program that another test is starting at this moment may hold a copy of the lock until its `exec`.
        lock(dir.path(), Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_link_locks_the_folder_that_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("there")).unwrap();
        std::fs::write(dir.path().join("there/a.release"), "x").unwrap();
        std::os::unix::fs::symlink("there/a.release", dir.path().join("latest.release")).unwrap();
        let _held = lock_folder_of(&dir.path().join("latest.release")).unwrap();
        assert!(lock(&dir.path().join("there"), Duration::ZERO).is_err());
        lock(dir.path(), Duration::ZERO).unwrap();
    }

    #[test]
    fn a_nameless_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = nameless(&dir.path().join("a")).unwrap();
        file.write_all(b"x").unwrap();
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_file_above_its_cap_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, [1; 10]).unwrap();
        assert_eq!(read_capped(&path, 10).unwrap().len(), 10);
        assert!(matches!(read_capped(&path, 9), Err(Error::TooLong { limit: 9, .. })));
        assert!(matches!(read_capped(Path::new("/dev/zero"), 100), Err(Error::TooLong { .. })));
    }
}
