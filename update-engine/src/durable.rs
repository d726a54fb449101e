//! Small files that must survive a power cut as a whole, and reading with a cap.
//!
//! On vfat a file is three things that lie apart: its name in the folder, where and how long it is (its inode, which stands beside the name,
//! and is written with the file), and its clusters in the table. Between two flushes a disk may keep any of them without the others. So
//! they are flushed one after the other, in an order in which no name ever leads to clusters that are free or another file's:
//!
//! - what is new or longer: the table (with the folder), then the file ([`settle`]);
//! - what goes: the name, and the clusters are freed afterwards, because the file is held open until then ([`remove`], [`rename`]).
//!
//! What a cut leaves then is a cluster that belongs to nobody.

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

/// Makes a file that holds `bytes`, durably, in the place of one that may be there.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    remove(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    settle(&file, path)
}

/// Has a file that is new, or has become longer, on the medium with its name.
pub fn settle(file: &File, path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_folder)?;
    file.sync_all()
}

/// While this is there, the clusters of the file that was at this place are not freed, whatever becomes of its name.
fn hold(path: &Path) -> Option<File> {
    let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags).open(path).ok()
}

/// Renames a file, durably, within its folder. On vfat it is the file's inode that says under its new name where its bytes are, so both are
/// synced: the folder first, for two names of the same bytes would lose them with either of the names.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let _replaced = hold(to);
    fs::rename(from, to)?;
    to.parent().map_or(Ok(()), sync_folder)?;
    File::open(to)?.sync_all()
}

/// Removes a file, durably; a file that is not there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    let _removed = hold(path);
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
