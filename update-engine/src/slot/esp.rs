//! Files on the EFI system partition that belong to one slot: a kernel, a unified kernel image, a loader's entry (design 11.13).
//!
//! Both slots share that file system, so a file belongs to a slot by its name alone: [`EspPath`] has `{slot}` in it, and the running
//! slot's files are never opened for writing (P2). Unlike a partition, such a file need not be there, and is as long as its image: it
//! is made empty when its slot is opened for writing. Once the slot is disarmed, before which not a byte of it changes, one of another
//! length is made anew; only one that has the length of its image is written in its place.
//!
//! Never: writes to a partition that is not mounted, or is not one of the configured disk.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::fcntl::OFlag;
use nix::sys::statvfs::statvfs;

use super::SlotError;
use super::disk::SlotName;
use super::system::DeviceId;
use crate::durable;

/// What stands for the slot's name.
const SLOT: &str = "{slot}";
/// Longest path, in bytes: a firmware's own paths are short.
const PATH_MAX: usize = 200;
/// What FAT does not take in a name, beside control characters.
const NOT_IN_NAMES: &str = "\"*/:<>?\\|";

/// A path below the mount point of the ESP with `{slot}` in it, such as `/ota/{slot}.efi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EspPath(String);

impl EspPath {
    /// The file of one slot, on the partition.
    pub(crate) fn of(&self, slot: &str) -> String {
        self.0.replace(SLOT, slot)
    }

    /// Whether it lies below this folder of the partition, as FAT compares names.
    pub(crate) fn is_below(&self, folder: &str) -> bool {
        self.0.get(..folder.len()).is_some_and(|start| start.eq_ignore_ascii_case(folder))
            && self.0[folder.len()..].starts_with('/')
    }

    /// The file of one slot, below the folder where the partition is mounted.
    pub(super) fn below(&self, mount_point: &Path, slot: &SlotName) -> PathBuf {
        mount_point.join(self.0.trim_start_matches('/').replace(SLOT, slot.as_str()))
    }
}

impl FromStr for EspPath {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        let spec = |why: &str| Err(SlotError::Spec(format!("\"esp:{}\" names no file: expected {why}", text.escape_debug())));
        if text.len() > PATH_MAX {
            return spec(&format!("at most {PATH_MAX} bytes"));
        }
        let Some(below) = text.strip_prefix('/') else {
            return spec("an absolute path on the ESP, such as \"esp:/ota/{slot}.efi\"");
        };
        let is_name = |name: &str| {
            let fits = |c: char| (c.is_ascii_graphic() || c == ' ') && !NOT_IN_NAMES.contains(c);
            !name.is_empty() && name.chars().all(fits) && !name.ends_with(['.', ' '])
        };
        if !below.split('/').all(is_name) {
            return spec("folders and a file in ASCII, each with a name that FAT takes");
        }
        if !below.contains(SLOT) {
            return spec("\"{slot}\" in it, so that each slot has a file of its own");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for EspPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a file and the partition around it are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// The file's length; 0 if there is none.
    pub(super) length: u64,
    /// Bytes that are taken by it.
    pub(super) taken: u64,
    /// Bytes that nobody has taken.
    pub(super) free: u64,
    /// Files take whole ones of these.
    pub(super) block: u64,
}

impl Room {
    /// Looks it up. Anything but a regular file at that place is an error.
    pub(super) fn of(file: &Path, mount_point: &Path) -> io::Result<Self> {
        let space = statvfs(mount_point)?;
        let block = space.fragment_size().max(1);
        let free = space.blocks_available().saturating_mul(block);
        let length = match std::fs::symlink_metadata(file) {
            Ok(data) if data.is_file() => data.len(),
            Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(Self { length, taken: length.next_multiple_of(block), free, block })
    }

    /// The longest file that could stand there.
    pub(super) const fn size_bytes(self) -> u64 {
        self.taken.saturating_add(self.free)
    }
}

/// The device of the file system that is mounted in that folder. Looking there mounts it where that is done on demand.
pub(super) fn device_at(mount_point: &Path) -> io::Result<DeviceId> {
    // A file system that is mounted on demand appears when its folder is read, not when the folder is asked for its facts.
    std::fs::read_dir(mount_point)?.next().transpose()?;
    Ok(DeviceId::from_dev(std::fs::metadata(mount_point)?.dev()))
}

/// Makes the file, empty, if there is none. What is there stays as it is.
pub(super) fn create(file: &Path) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let flags = (OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW).bits();
    OpenOptions::new().write(true).create(true).truncate(false).custom_flags(flags).open(file).map(drop)
}

/// Makes the file anew, empty, in the place of one that is there.
pub(super) fn make_anew(file: &Path) -> io::Result<()> {
    durable::remove(file)?;
    create(file)
}

/// Gives an empty file its length; it, or one that has that length, is on the medium then, with its name and its place.
pub(super) fn set_length(file: &File, path: &Path, length: u64) -> io::Result<()> {
    if file.metadata()?.len() != length {
        file.set_len(length)?;
    }
    durable::settle(file, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_file_for_each_slot() {
        let path: EspPath = "/ota/{slot}.efi".parse().unwrap();
        let name = |slot: &str| path.below(Path::new("/efi"), &slot.parse().unwrap());
        assert_eq!((name("a"), name("b")), (PathBuf::from("/efi/ota/a.efi"), PathBuf::from("/efi/ota/b.efi")));
        assert_eq!(path.to_string(), "/ota/{slot}.efi");
    }

    #[test]
    fn a_path_that_leaves_the_partition_or_is_the_same_for_both_slots_is_refused() {
        for (text, why) in [
            ("ota/{slot}.efi", "an absolute path"),
            ("/ota/linux.efi", "\"{slot}\" in it"),
            ("/ota/../{slot}.efi", "a name that FAT takes"),
            ("/./{slot}", "a name that FAT takes"),
            ("//{slot}", "a name that FAT takes"),
            ("/{slot}/", "a name that FAT takes"),
            ("/{slot}:x", "a name that FAT takes"),
            ("/{slot}\u{e9}", "a name that FAT takes"),
            ("", "an absolute path"),
        ] {
            let words = text.parse::<EspPath>().unwrap_err().to_string();
            assert!(words.contains(why), "{text:?}: {words}");
        }
        assert!(format!("/{{slot}}{}", "x".repeat(PATH_MAX)).parse::<EspPath>().is_err());
    }

    #[test]
    fn a_file_is_made_once_and_gets_its_length_when_it_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ota/b.efi");
        assert_eq!(Room::of(&file, dir.path()).unwrap().length, 0);
        create(&file).unwrap();
        std::fs::write(&file, b"there").unwrap();
        create(&file).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"there");
        make_anew(&file).unwrap();
        let opened = OpenOptions::new().write(true).open(&file).unwrap();
        for _ in 0..2 {
            set_length(&opened, &file, 30).unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), [0; 30]);
        }
        assert!(Room::of(&file, dir.path()).unwrap().taken >= 512);
    }

    #[test]
    fn a_link_or_a_folder_in_its_place_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("b.efi")).unwrap();
        assert!(Room::of(&dir.path().join("b.efi"), dir.path()).is_err());
        assert!(create(&dir.path().join("b.efi")).is_err());
        std::fs::create_dir(dir.path().join("a.efi")).unwrap();
        assert!(Room::of(&dir.path().join("a.efi"), dir.path()).is_err());
    }
}
