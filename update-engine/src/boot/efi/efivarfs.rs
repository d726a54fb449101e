//! The folder in which the kernel shows the firmware's variables.
//!
//! A file is one variable; what is written with one `write(2)` becomes its content, which needs no flush: the call returns when the
//! firmware has stored it. Variables that the kernel does not know from the specification, ours among them, cannot be changed until
//! their file's immutable flag is taken away; it is put back afterwards.
//!
//! A folder of plain files does as well (image mode): there a file system may have no such flag, and a file keeps its length.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::variables::{EntryNumber, GLOBAL_VENDOR, LoadOption, MAX_VARIABLE_BYTES, NON_VOLATILE, OTA_VENDOR, Variable};
use crate::boot::{BootError, held};
use crate::durable;
use crate::slot::ioctl::{Mutability, mutability, set_mutability};

/// Most files looked through: firmware has a few hundred variables.
const MAX_FILES: usize = 8192;
/// Most writes of one variable that a signal cuts off before they begin.
const MAX_INTERRUPTED: usize = 16;

/// The variables that are ever written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ours {
    BootOrder,
    BootNext,
    Memory,
}

impl Ours {
    const fn file_name(self) -> (&'static str, &'static str) {
        match self {
            Self::BootOrder => ("BootOrder", GLOBAL_VENDOR),
            Self::BootNext => ("BootNext", GLOBAL_VENDOR),
            Self::Memory => ("OtaSlots", OTA_VENDOR),
        }
    }
}

/// The folder.
#[derive(Debug)]
pub(super) struct Efivarfs {
    folder: PathBuf,
}

impl Efivarfs {
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn path(&self, variable: Ours) -> PathBuf {
        let (name, vendor) = variable.file_name();
        self.folder.join(format!("{name}-{vendor}"))
    }

    /// One of those that are ever written.
    pub(super) fn read(&self, variable: Ours) -> Result<Option<Variable>, BootError> {
        read(&self.path(variable))
    }

    /// The entry that the firmware says it started; `None` where it does not say.
    pub(super) fn boot_current(&self) -> Result<Option<EntryNumber>, BootError> {
        let path = self.folder.join(format!("BootCurrent-{GLOBAL_VENDOR}"));
        let Some(variable) = read(&path)? else { return Ok(None) };
        let number = EntryNumber::parse(&variable.data);
        number.map(Some).map_err(|error| BootError::Malformed { path, why: error.to_string() })
    }

    /// Every boot entry that can be read as one, by its number.
    pub(super) fn entries(&self) -> Result<Vec<(EntryNumber, LoadOption)>, BootError> {
        let failed = |source| held::io_error("look for boot entries in", &self.folder, source);
        let mut entries = Vec::new();
        for (count, file) in fs::read_dir(&self.folder).map_err(failed)?.enumerate() {
            if count == MAX_FILES {
                let why = format!("expected at most {MAX_FILES} variables, got more");
                return Err(BootError::Malformed { path: self.folder.clone(), why });
            }
            let name = file.map_err(failed)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(GLOBAL_VENDOR)?.strip_suffix('-')?.parse().ok());
            let Some(number) = number else { continue };
            let Some(variable) = read(&self.folder.join(&name))? else { continue };
            // A damaged entry of somebody else is none of ours, and one of ours is missed by its description.
            entries.extend(LoadOption::parse(&variable.data).ok().map(|entry| (number, entry)));
        }
        entries.sort_by_key(|(number, _)| *number);
        Ok(entries)
    }

    /// Gives a variable this content and reads it back.
    pub(super) fn write(&self, variable: Ours, data: &[u8]) -> Result<(), BootError> {
        let path = self.path(variable);
        let attributes = read(&path)?.map_or(NON_VOLATILE, |before| before.attributes);
        let wanted = Variable { attributes, data: data.to_vec() };
        write_once(&path, &wanted.to_bytes()).map_err(|source| held::io_error("write", &path, explained(source)))?;
        compare(&path, Some(&wanted), read(&path)?.as_ref())
    }

    /// Removes `BootNext`, the only variable that ever is.
    pub(super) fn remove_boot_next(&self) -> Result<(), BootError> {
        let path = self.path(Ours::BootNext);
        let failed = |source| held::io_error("remove", &path, explained(source));
        let _unprotected = unprotect(&path).map_err(failed)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => compare(&path, None, read(&path)?.as_ref()),
        }
    }
}

/// A variable that is not there has no file, or, for a moment, one without content.
fn read(path: &Path) -> Result<Option<Variable>, BootError> {
    let cap = u64::try_from(MAX_VARIABLE_BYTES).unwrap_or(u64::MAX);
    match durable::read_capped(path, cap) {
        Ok(bytes) if bytes.is_empty() => Ok(None),
        Ok(bytes) => {
            let variable = Variable::parse(&bytes);
            variable.map(Some).map_err(|error| BootError::Malformed { path: path.to_path_buf(), why: error.to_string() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(held::io_error("read", path, error)),
    }
}

/// One write is one call of the firmware; half a write would be half a variable.
fn write_once(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let _unprotected = unprotect(path)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path)?;
    let written = uninterrupted(|| file.write(bytes))?;
    if written != bytes.len() {
        return Err(io::Error::new(io::ErrorKind::WriteZero, format!("took {written} of {} bytes", bytes.len())));
    }
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    // A plain file that was longer; the kernel has set the length of a variable.
    if file.metadata()?.len() != length {
        file.set_len(length)?;
    }
    Ok(())
}

fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    for _ in 0..MAX_INTERRUPTED {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// A file without its immutable flag, until this is dropped.
struct Unprotected(File);

impl Drop for Unprotected {
    fn drop(&mut self) {
        if let Err(error) = set_mutability(&self.0, Mutability::Immutable) {
            tracing::warn!("the immutable flag of a firmware variable could not be put back: {error}");
        }
    }
}

/// Takes the flag away where there is one.
fn unprotect(path: &Path) -> io::Result<Option<Unprotected>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match mutability(&file) {
        Ok(Mutability::Immutable) => {
            set_mutability(&file, Mutability::Mutable)?;
            Ok(Some(Unprotected(file)))
        }
        Ok(Mutability::Mutable) => Ok(None),
        // Plain files may lie on a file system without such flags; efivarfs has them.
        Err(error) if has(&error, &[Errno::ENOTTY, Errno::EOPNOTSUPP]) => Ok(None),
        Err(error) => Err(error),
    }
}

fn has(error: &io::Error, numbers: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|number| numbers.contains(&Errno::from_raw(number)))
}

/// What an error means where it comes from firmware.
fn explained(error: io::Error) -> io::Error {
    let meaning = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EROFS) => "efivarfs is mounted read-only, or the firmware lets nobody change its variables",
        Some(Errno::ENOSPC) => {
            "the firmware's memory for variables is full; others have to go (crash dumps named dump-type0-… often fill it)"
        }
        Some(Errno::EIO) => "the firmware reports that its memory for variables failed",
        Some(Errno::EINVAL) => "the firmware does not take this variable",
        Some(Errno::EPERM | Errno::EACCES) => {
            "the firmware or the kernel forbids it: it takes root, and no lockdown of the kernel"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{meaning} ({error})"))
}

fn compare(path: &Path, expected: Option<&Variable>, got: Option<&Variable>) -> Result<(), BootError> {
    if expected == got {
        return Ok(());
    }
    let shown = |variable: Option<&Variable>| {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        variable.map_or("none".to_owned(), |v| format!("attributes {} data {}", v.attributes, hex(&v.data)))
    };
    let at = path.display();
    Err(BootError::ReadBack { expected: format!("{at}: {}", shown(expected)), got: shown(got) })
}

#[cfg(test)]
mod tests {
    use super::super::variables::tests::entry;
    use super::*;
    use crate::world::chain;

    fn rig() -> (tempfile::TempDir, Efivarfs) {
        let folder = tempfile::tempdir().unwrap();
        let vars = Efivarfs::new(folder.path().to_path_buf());
        (folder, vars)
    }

    #[test]
    fn a_variable_is_written_with_the_attributes_it_has_and_read_back_whatever_its_length_was() {
        let (_folder, vars) = rig();
        assert_eq!(vars.read(Ours::BootOrder).unwrap(), None);
        vars.write(Ours::BootOrder, &[1, 0, 2, 0]).unwrap();
        let path = vars.path(Ours::BootOrder);
        assert_eq!(fs::read(&path).unwrap(), [7, 0, 0, 0, 1, 0, 2, 0]);
        fs::write(&path, [0x27, 0, 0, 0, 1, 0, 2, 0]).unwrap();
        vars.write(Ours::BootOrder, &[2, 0]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [0x27, 0, 0, 0, 2, 0]);
    }

    #[test]
    fn names_of_files_are_those_of_the_specification_and_of_our_vendor() {
        let (_folder, vars) = rig();
        let name = |variable| vars.path(variable).file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(name(Ours::BootNext), "BootNext-8be4df61-93ca-11d2-aa0d-00e098032b8c");
        assert_eq!(name(Ours::Memory), "OtaSlots-442a9750-f701-47fa-8e68-dc93dd7daa4e");
    }

    #[test]
    fn boot_next_is_removed_and_removing_it_twice_is_fine() {
        let (_folder, vars) = rig();
        vars.write(Ours::BootNext, &[1, 0]).unwrap();
        vars.remove_boot_next().unwrap();
        assert!(!vars.path(Ours::BootNext).exists());
        vars.remove_boot_next().unwrap();
    }

    #[test]
    fn a_file_that_nobody_can_change_is_written_and_removed_and_keeps_its_flag() {
        let (_folder, vars) = rig();
        vars.write(Ours::Memory, b"old").unwrap();
        let file = File::open(vars.path(Ours::Memory)).unwrap();
        if let Err(error) = set_mutability(&file, Mutability::Immutable) {
            println!("skipped: the immutable flag cannot be set here: {error}");
            return;
        }
        assert!(fs::write(vars.path(Ours::Memory), b"x").is_err(), "the flag holds");
        vars.write(Ours::Memory, b"new").unwrap();
        assert_eq!(vars.read(Ours::Memory).unwrap().unwrap().data, b"new");
        assert_eq!(mutability(&file).unwrap(), Mutability::Immutable);
        set_mutability(&file, Mutability::Mutable).unwrap();

        vars.write(Ours::BootNext, &[1, 0]).unwrap();
        set_mutability(&File::open(vars.path(Ours::BootNext)).unwrap(), Mutability::Immutable).unwrap();
        vars.remove_boot_next().unwrap();
        assert!(!vars.path(Ours::BootNext).exists());
    }

    #[test]
    fn entries_are_found_by_their_names_and_what_is_none_is_passed_over() {
        let (folder, vars) = rig();
        let put = |name: &str, data: &[u8]| {
            let variable = Variable { attributes: 7, data: data.to_vec() };
            fs::write(folder.path().join(name), variable.to_bytes()).unwrap();
        };
        put("Boot0010-8be4df61-93ca-11d2-aa0d-00e098032b8c", &entry(false, "two"));
        put("Boot0001-8be4df61-93ca-11d2-aa0d-00e098032b8c", &entry(true, "one"));
        put("Boot0002-8be4df61-93ca-11d2-aa0d-00e098032b8c", b"damaged");
        put("Boot0003-442a9750-f701-47fa-8e68-dc93dd7daa4e", &entry(true, "of another vendor"));
        put("BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c", &[1, 0]);
        fs::write(folder.path().join("Boot0004-8be4df61-93ca-11d2-aa0d-00e098032b8c"), b"").unwrap();
        let found: Vec<_> = vars.entries().unwrap().into_iter().map(|(n, e)| (n.0, e.description, e.is_active)).collect();
        assert_eq!(found, [(1, "one".to_owned(), true), (0x10, "two".to_owned(), false)]);
    }

    #[test]
    fn what_the_system_answers_is_said_in_words_that_fit_firmware() {
        let words = |errno: Errno| explained(io::Error::from_raw_os_error(errno as i32)).to_string();
        assert_eq!(
            words(Errno::EROFS),
            "efivarfs is mounted read-only, or the firmware lets nobody change its variables (Read-only file system (os error 30))"
        );
        assert_eq!(
            words(Errno::ENOSPC),
            "the firmware's memory for variables is full; others have to go (crash dumps named dump-type0-… often fill it) (No space left on device (os error 28))"
        );
        assert_eq!(
            words(Errno::EIO),
            "the firmware reports that its memory for variables failed (Input/output error (os error 5))"
        );
        assert_eq!(words(Errno::EINVAL), "the firmware does not take this variable (Invalid argument (os error 22))");
        assert_eq!(
            words(Errno::EPERM),
            "the firmware or the kernel forbids it: it takes root, and no lockdown of the kernel (Operation not permitted (os error 1))"
        );
        assert_eq!(words(Errno::EBUSY), "Device or resource busy (os error 16)");
    }

    #[test]
    fn a_write_that_fails_says_which_variable() {
        let vars = Efivarfs::new(PathBuf::from("/nowhere/efivars"));
        let error = vars.write(Ours::BootNext, &[1, 0]).unwrap_err();
        assert_eq!(
            chain(&error),
            "cannot write /nowhere/efivars/BootNext-8be4df61-93ca-11d2-aa0d-00e098032b8c: No such file or directory (os error 2)"
        );
        let error = vars.entries().unwrap_err();
        assert_eq!(chain(&error), "cannot look for boot entries in /nowhere/efivars: No such file or directory (os error 2)");
    }

    #[test]
    fn what_reads_back_differently_is_an_error_that_shows_both() {
        let at = Path::new("/v/BootNext-x");
        let (one, two) = (Variable { attributes: 7, data: vec![1, 0] }, Variable { attributes: 7, data: vec![2, 0xAB] });
        compare(at, Some(&one), Some(&one)).unwrap();
        assert_eq!(
            compare(at, Some(&one), Some(&two)).unwrap_err().to_string(),
            "the boot state reads back differently than written: expected /v/BootNext-x: attributes 7 data 0100, got attributes 7 data 02ab (another program writes it, or the medium fails)"
        );
        assert!(
            compare(at, None, Some(&one)).unwrap_err().to_string().contains("expected /v/BootNext-x: none, got attributes 7")
        );
        assert!(compare(at, Some(&one), None).unwrap_err().to_string().contains("got none "));
    }

    #[test]
    fn a_variable_that_is_too_short_or_too_long_is_an_error_with_words() {
        let (_folder, vars) = rig();
        let path = vars.path(Ours::BootNext);
        fs::write(&path, [7, 0, 0, 0]).unwrap();
        let words = chain(&vars.read(Ours::BootNext).unwrap_err());
        assert_eq!(words, format!("{}: expected 4 bytes of attributes and data behind them, got 4 bytes", path.display()));
        fs::write(&path, vec![7; MAX_VARIABLE_BYTES + 1]).unwrap();
        let words = chain(&vars.read(Ours::BootNext).unwrap_err());
        assert_eq!(words, format!("cannot read {}: longer than 65536 bytes", path.display()));
    }

    #[test]
    fn a_write_that_signals_cut_off_is_tried_again_and_not_for_ever() {
        let mut left = 3;
        let mut call = || {
            left -= 1;
            if left > 0 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(6) }
        };
        assert_eq!(uninterrupted(&mut call).unwrap(), 6);
        let error = uninterrupted(|| Err(io::ErrorKind::Interrupted.into())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
}
