//! Files: read under a cap, written whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Error;

/// Names that are tried for a temporary file: what a killed run has left behind must not stop the next.
const NAMES_TRIED: u32 = 100;

/// Reads a file of at most `limit` bytes.
pub(super) fn read_capped(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    let mut bytes = Vec::new();
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

/// Opens the file of an image and tells its size. A pipe or a terminal is refused before it is opened: that could wait for ever.
pub(super) fn open_image(name: &str, path: &Path) -> Result<(File, u64), Error> {
    let not_an_image = |got| Error::NotAnImage { name: name.to_owned(), path: path.to_owned(), got };
    let kind = std::fs::metadata(path).map_err(Error::file("open", path))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(not_an_image(if kind.is_dir() { "a directory" } else { "a pipe, socket or character device" }));
    }
    let (file, size) = open_sized(path)?;
    if size == 0 {
        return Err(not_an_image("an empty one"));
    }
    Ok((file, size))
}

/// Opens a file and tells its size; of a block device too.
pub(super) fn open_sized(path: &Path) -> Result<(File, u64), Error> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let size = file.seek(SeekFrom::End(0)).map_err(Error::file("find the size of", path))?;
    file.rewind().map_err(Error::file("rewind", path))?;
    Ok((file, size))
}

/// Creates a file that must not exist yet, with these permissions, and makes it durable.
pub(super) fn create_exclusively(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Error> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => Error::KeyExists { path: path.to_owned() },
            _ => Error::File { action: "create", path: path.to_owned(), source },
        })?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::file("write", path))?;
    sync_folder(path)
}

/// A file that is written beside its place and moved there when it is complete and durable. Dropped before that, it is gone.
pub(super) struct PendingFile {
    file: File,
    written_at: PathBuf,
    place: PathBuf,
    finished: bool,
}

impl PendingFile {
    pub(super) fn create(place: &Path) -> Result<Self, Error> {
        let (file, written_at) = create_beside(place, "new")?;
        Ok(Self { file, written_at, place: place.to_owned(), finished: false })
    }

    pub(super) const fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes the bytes durable, still beside their place.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(Error::file("write", &self.place))
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
            // Nothing can be done about a leftover here; the next run takes another name.
            let _ = std::fs::remove_file(&self.written_at);
        }
    }
}

/// Replaces a small file.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut pending = PendingFile::create(path)?;
    pending.file().write_all(bytes).map_err(Error::file("write", path))?;
    pending.finish()
}

/// A file without a name, on the same file system as `place`: it vanishes when the program ends, however that happens.
pub(super) fn nameless(place: &Path) -> Result<File, Error> {
    let (file, path) = create_beside(place, "blobs")?;
    std::fs::remove_file(&path).map_err(Error::file("unlink", &path))?;
    Ok(file)
}

fn create_beside(place: &Path, purpose: &str) -> Result<(File, PathBuf), Error> {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let mut number = 0;
    loop {
        let path = place.with_file_name(format!(".{name}.{purpose}.{}.{number}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < NAMES_TRIED => number += 1,
            Err(source) => return Err(Error::File { action: "create", path, source }),
        }
    }
}

/// A new name is durable only once its folder is.
fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::file("sync the folder", folder))
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
        replace(&place, b"new").unwrap();
        assert_eq!(std::fs::read(&leftover).unwrap(), b"x");
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
