//! Small files that must survive a power cut as a whole, and reading with a cap.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Replaces `path` with `bytes`: writes beside it, syncs, renames over it, syncs the folder. Readers see the old or the new
/// file, never a mixture; after a return the new one survives a power cut. What could not be finished takes no room.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a folder"))?;
    let mut name = path.file_name().map(std::ffi::OsStr::to_os_string).unwrap_or_default();
    name.push(".new");
    let beside = folder.join(name);
    write_new(&beside, bytes).and_then(|()| rename(&beside, path)).inspect_err(|_| {
        // It may not be there, or the disk may refuse that, too: then the next one overwrites it.
        let _removed = fs::remove_file(&beside);
    })
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Renames a file, durably, within its folder. On vfat it is the file's inode that says under its new name where its bytes are, so both are
/// synced: the folder first, for two names of the same bytes would lose them with either of the names.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    to.parent().map_or(Ok(()), sync_folder)?;
    File::open(to)?.sync_all()
}

/// Removes a file, durably; a file that is not there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_folder),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Reads a file of at most `cap` bytes; a longer one is an error, not a cut.
pub fn read_capped(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(cap.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > cap) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {cap} bytes")));
    }
    Ok(bytes)
}

/// The same error; one that a person can mend with the words for that.
///
/// Linux mounts a FAT read-only from the moment at which it finds damage, such as a file that a power cut left between its folder and the
/// table of clusters; nothing that is written there afterwards gets through, and no later mount mends it.
pub fn in_words(error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(nix::libc::EROFS) {
        return error;
    }
    io::Error::new(
        io::ErrorKind::ReadOnlyFilesystem,
        "its file system is mounted read-only; the kernel does that to a FAT on which it finds damage, as a power cut may leave it \
         (`dmesg`): `umount` it, `fsck.fat -a` its device and mount it again, or reboot a host that checks it before it mounts it",
    )
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_is_mounted_read_only_is_said_with_what_to_do() {
        let words = in_words(io::Error::from_raw_os_error(nix::libc::EROFS));
        assert_eq!(words.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert!(words.to_string().contains("mounted read-only") && words.to_string().contains("fsck.fat -a"), "{words}");
        assert_eq!(in_words(io::Error::from_raw_os_error(nix::libc::ENOSPC)).raw_os_error(), Some(nix::libc::ENOSPC));
    }
}
