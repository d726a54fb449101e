//! Small files that must survive a power cut as a whole, and reading with a cap.
//!
//! On vfat a file is three things that lie apart: its name in the folder, where and how long it is (its inode, which stands beside the name,
//! and is written with the file), and its clusters in the table. Between two flushes a disk may keep any of them without the others. So
//! they are flushed one after the other, in an order in which no name ever leads to clusters that are free or another file's:
//!
//! - what is new: the table (with the folder), then the file ([`settle`]);
//! - what goes: the name, and the clusters are freed afterwards, because the file is held open until then ([`remove`], [`rename`]).
//!
//! What a cut between the two leaves is clusters that belong to nobody, which `fsck` saves as a file that nobody removes: so they are freed,
//! durably, at once. A file that is on the medium becomes neither longer nor shorter there: another
//! one takes its place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::sys::statfs::{FsType, MSDOS_SUPER_MAGIC, statfs};

/// Replaces `path` with `bytes`: writes beside it, syncs, renames over it, syncs the folder. Readers see the old or the new
/// file, never a mixture; after a return the new one survives a power cut. What could not be finished takes no room.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a folder"))?;
    let mut name = path.file_name().map(std::ffi::OsStr::to_os_string).unwrap_or_default();
    name.push(".new");
    let beside = folder.join(name);
    write_new(&beside, bytes).and_then(|()| rename(&beside, path)).inspect_err(|_| {
        // It may not be there, or the disk may refuse that, too: then the next one overwrites it.
        let _removed = remove(&beside);
    })
}

/// Makes a file that holds `bytes`, durably, in the place of one that may be there.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    remove(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    settle(&file, path)
}

/// Has a file that is new on the medium with its name, and with the length that it was given since.
pub fn settle(file: &File, path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_folder)?;
    file.sync_all()
}

/// While this is there, the clusters of the file that was at this place are not freed, whatever becomes of its name. `None` = there was
/// none. One that cannot be held must not go: its clusters would be freed with its name.
fn hold(path: &Path) -> io::Result<Option<File>> {
    let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        held => held.map(Some),
    }
}

/// Renames a file, durably, within its folder. On vfat it is the file's inode that says under its new name where its bytes are, so both are
/// synced: the folder first, for two names of the same bytes would lose them with either of the names.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let replaced = hold(to)?;
    fs::rename(from, to)?;
    to.parent().map_or(Ok(()), sync_folder)?;
    File::open(to)?.sync_all()?;
    replaced.map_or(Ok(()), |replaced| free(replaced, to))
}

/// Removes a file, durably; a file that is not there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = hold(path)?;
    match fs::remove_file(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_folder)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    removed.map_or(Ok(()), |removed| free(removed, path))
}

/// Lets go of a file that was at this place, and whose name is gone from the medium: on vfat the table says only now that its clusters are
/// free, and is flushed with the folder. Others keep that in a journal. Whoever has the file open beside this must call it last.
pub(crate) fn free<T>(held: T, path: &Path) -> io::Result<()> {
    drop(held);
    let folder = path.parent().unwrap_or(path);
    if statfs(folder)?.filesystem_type() == MSDOS_SUPER_MAGIC { sync_folder(folder) } else { Ok(()) }
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

/// The same error of this path; one that a person can mend with the words for that.
pub fn in_words(error: io::Error, path: &Path) -> io::Error {
    if error.raw_os_error() != Some(nix::libc::EROFS) {
        return error;
    }
    let meaning = match path.metadata() {
        Ok(found) if found.file_type().is_block_device() => "the device takes no writes",
        _ => of_read_only(path.ancestors().find_map(|place| statfs(place).ok()).map(|found| found.filesystem_type())),
    };
    io::Error::new(error.kind(), format!("{meaning} ({error})"))
}

/// Linux mounts a FAT read-only from the moment at which it finds damage, such as a file that a power cut left between its folder and the
/// table of clusters; nothing that is written there afterwards gets through, and no later mount mends it.
fn of_read_only(kind: Option<FsType>) -> &'static str {
    if kind == Some(MSDOS_SUPER_MAGIC) {
        "its file system is mounted read-only: either `fstab` has `ro` for it, or the kernel has found damage on this FAT, as a power cut \
         may leave it (`dmesg`): then `umount` it, `fsck.fat -a` its device and mount it again, or reboot a host that checks it before it \
         mounts it"
    } else {
        "its file system is mounted read-only: remount it read-write (`mount -o remount,rw`), and look into `fstab` and `dmesg` for why it is not"
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use nix::sys::statfs::EXT4_SUPER_MAGIC;
    use tempfile::TempDir;

    use super::*;

    /// A file system that writes nothing by itself: what is not asked for stays in memory, and is not in its image.
    struct Medium {
        dir: TempDir,
        device: String,
    }

    impl Medium {
        /// # Errors
        /// Where none can be made, why.
        fn new() -> Result<Self, String> {
            let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
            let image = dir.path().join("image");
            File::create(&image).and_then(|file| file.set_len(32 << 20)).map_err(|error| error.to_string())?;
            run("mke2fs", &["-q", "-t", "ext4", &image.display().to_string()])?;
            mount(&image, &dir.path().join("live")).map(|device| Self { dir, device })
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("live").join(name)
        }

        /// What a file holds after a power cut at this moment.
        fn after_a_cut(&self, name: &str) -> Option<Vec<u8>> {
            let cut = tempfile::tempdir().unwrap();
            let image = cut.path().join("image");
            fs::copy(self.dir.path().join("image"), &image).unwrap();
            let device = mount(&image, &cut.path().join("live")).unwrap();
            let held = fs::read(cut.path().join("live").join(name)).ok();
            unmount(&cut.path().join("live"), &device);
            held
        }
    }

    impl Drop for Medium {
        fn drop(&mut self) {
            unmount(&self.dir.path().join("live"), &self.device);
        }
    }

    fn run(program: &str, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program);
        command.args(words).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        let output = command.output().map_err(|error| format!("{program}: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(format!("{program}: {}", text(&output.stderr))) }
    }

    fn mount(image: &Path, at: &Path) -> Result<String, String> {
        fs::create_dir(at).map_err(|error| error.to_string())?;
        let device = run("losetup", &["--find", "--show", &image.display().to_string()])?;
        let options = "commit=600,data=writeback,noauto_da_alloc";
        let mounted = run("mount", &["-t", "ext4", "-o", options, &device, &at.display().to_string()]);
        mounted.map(|_| device.clone()).inspect_err(|_| drop(run("losetup", &["--detach", &device])))
    }

    fn unmount(at: &Path, device: &str) {
        run("umount", &[&at.display().to_string()]).unwrap();
        run("losetup", &["--detach", device]).unwrap();
    }

    #[test]
    fn what_is_replaced_renamed_or_removed_is_so_after_a_power_cut() {
        let medium = match Medium::new() {
            Ok(medium) => medium,
            Err(why) => return println!("skipped: {why}"),
        };
        let (file, other) = (medium.path("file"), medium.path("other"));
        fs::write(medium.path("unasked"), b"bytes").unwrap();
        assert_eq!(medium.after_a_cut("unasked"), None, "this medium keeps what nobody asked for");
        for bytes in [&b"old"[..], b"new, and longer"] {
            replace(&file, bytes).unwrap();
            assert_eq!(medium.after_a_cut("file").as_deref(), Some(bytes));
        }
        write_new(&other, b"other").unwrap();
        assert_eq!(medium.after_a_cut("other").as_deref(), Some(&b"other"[..]));
        rename(&other, &file).unwrap();
        assert_eq!((medium.after_a_cut("file").as_deref(), medium.after_a_cut("other")), (Some(&b"other"[..]), None));
        remove(&file).unwrap();
        assert_eq!(medium.after_a_cut("file"), None);
        let grown = OpenOptions::new().write(true).create_new(true).open(&file).unwrap();
        grown.set_len(5000).unwrap();
        settle(&grown, &file).unwrap();
        assert_eq!(medium.after_a_cut("file").map(|bytes| bytes.len()), Some(5000));
    }

    /// In a process of its own, in which no file can be opened any more.
    #[test]
    fn a_file_that_cannot_be_held_is_neither_removed_nor_replaced() {
        const NAME: &str = "durable::tests::a_file_that_cannot_be_held_is_neither_removed_nor_replaced";
        const FOLDER: &str = "OTA_TEST_FOLDER";
        let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
            let dir = tempfile::tempdir().unwrap();
            let mut again = Command::new("sh");
            again.args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\" --nocapture"]).arg(std::env::current_exe().unwrap());
            let output = again.arg(NAME).env(FOLDER, dir.path()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
            return;
        };
        let [old, new] = ["old", "new"].map(|name| folder.join(name));
        fs::write(&old, "old").unwrap();
        fs::write(&new, "new").unwrap();
        let mut open = Vec::new();
        let full = loop {
            match File::open(&old) {
                Ok(file) => open.push(file),
                Err(error) => break error.raw_os_error(),
            }
        };
        let errors = [remove(&old), rename(&new, &old)].map(|done| done.unwrap_err().raw_os_error());
        drop(open);
        assert_eq!((errors, full), ([full, full], Some(nix::libc::EMFILE)));
        assert_eq!([&old, &new].map(|path| fs::read(path).unwrap()), [b"old", b"new"]);
        remove(&folder.join("none")).unwrap();
    }

    #[test]
    fn a_file_system_that_is_mounted_read_only_is_said_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        // What is to be made is not there yet.
        for path in [dir.path().to_owned(), dir.path().join("folder/file")] {
            let words = in_words(io::Error::from_raw_os_error(nix::libc::EROFS), &path);
            assert_eq!(words.kind(), io::ErrorKind::ReadOnlyFilesystem);
            assert_eq!(
                words.to_string(),
                "its file system is mounted read-only: remount it read-write (`mount -o remount,rw`), and look into `fstab` and `dmesg` \
                 for why it is not (Read-only file system (os error 30))"
            );
            let full = in_words(io::Error::from_raw_os_error(nix::libc::ENOSPC), &path);
            assert_eq!(full.raw_os_error(), Some(nix::libc::ENOSPC));
        }
        for other in [None, Some(EXT4_SUPER_MAGIC)] {
            assert!(!of_read_only(other).contains("FAT"));
        }
        let words = of_read_only(Some(MSDOS_SUPER_MAGIC));
        assert!(words.contains("mounted read-only") && words.contains("`ro`") && words.contains("fsck.fat -a"), "{words}");
    }
}
