//! The environment on its medium: lock, find, decide, write the other copy, flush.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::O_NOFOLLOW;

use super::environment::{Environment, EnvironmentError, Layout, Stored, current};
use super::places::{MAX_FILE_BYTES, Place, Places, is_flash};
use super::variables;
use crate::boot::held::{self, Held};
use crate::boot::pair::{Loaded, Pair, PairStore, Rewrite};
use crate::boot::{BootError, Weakness};
use crate::durable;
use crate::slot::SlotName;
use crate::slot::buffer::AlignedBuf;
use crate::slot::medium::{Access, Kind};

/// What `fw_setenv` and libubootenv lock while they read or write an environment.
pub(crate) const LOCK: &str = "/var/lock/fw_printenv.lock";
/// As those make it: any user may read the environment with them.
const LOCK_MODE: u32 = 0o666;

/// U-Boot's environment.
#[derive(Debug)]
pub(crate) struct UBootEnv {
    config: PathBuf,
    lock: PathBuf,
    slots: [SlotName; 2],
    names: [String; 2],
}

impl UBootEnv {
    /// The environment whose places `config` names, and the names of the slots in it. Reads nothing yet.
    pub(crate) fn new(config: PathBuf, slots: [SlotName; 2], names: [String; 2]) -> Self {
        Self { config, lock: PathBuf::from(LOCK), slots, names }
    }

    fn open(&self, access: Access) -> Result<Opened, BootError> {
        let places = places_in(&self.config)?;
        let lock = lock_beside(&self.lock, access)?;
        let mut opened =
            Opened { layout: places.layout(), size_bytes: places.size_bytes, files: Vec::new(), copies: Vec::new(), _lock: lock };
        for place in &places.copies {
            let copy = opened.add(place, access).map_err(|fault| self.or_of_the_config(fault))?;
            opened.copies.push(copy);
        }
        opened.check_apart().map_err(|fault| self.or_of_the_config(fault))?;
        Ok(opened)
    }

    fn or_of_the_config(&self, fault: Fault) -> BootError {
        match fault {
            Fault::Boot(error) => error,
            Fault::Config(why) => self.malformed(why),
        }
    }

    fn malformed(&self, why: String) -> BootError {
        malformed(&self.config, why)
    }

    fn load_from(&self, medium: &impl Medium) -> Result<(Loaded, Found), BootError> {
        let found = Found::read(medium)?;
        let mut loaded = variables::read(&found.stored.environment, &self.slots, &self.names)?;
        loaded.weakness = found.weakness.clone().or_else(|| self.single_weakness(medium));
        Ok((loaded, found))
    }

    fn single_weakness(&self, medium: &impl Medium) -> Option<Weakness> {
        (medium.layout() == Layout::Single).then(|| {
            Weakness::of_the_host(format!(
                "U-Boot's environment has one copy ({}), which a power cut during a change may damage: U-Boot starts with its \
                 compiled-in environment then; a redundant one (in U-Boot's configuration, and two lines in {}) has no such moment",
                medium.name(0),
                self.config.display()
            ))
        })
    }

    fn edit_on(
        &self,
        medium: &impl Medium,
        rewrite: Rewrite,
        decide: &mut dyn FnMut(&Loaded) -> Result<Pair, BootError>,
    ) -> Result<Pair, BootError> {
        let (loaded, found) = self.load_from(medium)?;
        let pair = decide(&loaded)?;
        let mut environment = found.stored.environment.clone();
        variables::write(&mut environment, &pair, &self.names)?;
        let is_as_wanted = environment == found.stored.environment && found.weakness.is_none();
        if rewrite == Rewrite::Always || !is_as_wanted {
            found.replace(medium, environment)?;
        }
        Ok(pair)
    }
}

/// Where the copies lie that this file names.
pub(crate) fn places_in(config: &Path) -> Result<Places, BootError> {
    let bytes = durable::read_capped(config, MAX_FILE_BYTES).map_err(|e| held::io_error("read", config, e))?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| malformed(config, format!("expected text, got something else at byte {}", error.valid_up_to())))?;
    Places::parse(text).map_err(|error| malformed(config, error.to_string()))
}

fn malformed(config: &Path, why: String) -> BootError {
    BootError::Malformed { path: config.to_path_buf(), why }
}

impl PairStore for UBootEnv {
    fn kind(&self) -> &'static str {
        "u-boot"
    }

    fn load(&self) -> Result<Loaded, BootError> {
        Ok(self.load_from(&self.open(Access::Read)?)?.0)
    }

    fn edit(&self, rewrite: Rewrite, decide: &mut dyn FnMut(&Loaded) -> Result<Pair, BootError>) -> Result<Pair, BootError> {
        self.edit_on(&self.open(Access::Write)?, rewrite, decide)
    }

    fn check_loader(&self) -> Result<(), BootError> {
        let opened = self.open(Access::Read)?;
        let found = Found::read(&opened)?;
        if variables::is_read_by_a_loader(&found.stored.environment) {
            return Ok(());
        }
        Err(BootError::Unsuitable(format!(
            "the environment in {} has neither {} (which `dist/u-boot/boot.cmd` sets) nor BOOT_ORDER (which RAUC's scripts set): does \
             U-Boot read another one, or can it not save this one?",
            opened.name(found.copy),
            variables::CANARY
        )))
    }
}

/// Where the copies are read and written: the devices, or what a test records.
trait Medium {
    fn layout(&self) -> Layout;
    fn size_bytes(&self) -> usize;
    fn read(&self, copy: usize) -> Result<Vec<u8>, BootError>;
    /// All of a copy in one write, which may stay in a cache.
    fn write(&self, copy: usize, bytes: &[u8]) -> io::Result<()>;
    /// Waits until it is on the medium.
    fn flush(&self, copy: usize) -> io::Result<()>;
    fn path(&self, copy: usize) -> &Path;
    /// As messages name it.
    fn name(&self, copy: usize) -> String;
}

/// The copy that counts.
struct Found {
    stored: Stored,
    copy: usize,
    weakness: Option<Weakness>,
}

impl Found {
    fn read(medium: &impl Medium) -> Result<Self, BootError> {
        let first = Stored::parse(&medium.read(0)?, medium.layout());
        if medium.layout() == Layout::Single {
            return match first {
                Ok(stored) => Ok(Self { stored, copy: 0, weakness: None }),
                Err(error) => Err(nothing_whole(medium, &[error])),
            };
        }
        let second = Stored::parse(&medium.read(1)?, medium.layout());
        let flags = [&first, &second].map(|copy| copy.as_ref().ok().map(|stored| stored.flags));
        let weakness = |broken: usize, error: &EnvironmentError| {
            let what = format!("the copy of U-Boot's environment in {} is damaged: {error}", medium.name(broken));
            Some(Weakness::until_next_change(what))
        };
        match (first, second, current(flags)) {
            (Err(first), Err(second), _) => Err(nothing_whole(medium, &[first, second])),
            (Ok(stored), Err(error), _) => Ok(Self { stored, copy: 0, weakness: weakness(1, &error) }),
            (Err(error), Ok(stored), _) => Ok(Self { stored, copy: 1, weakness: weakness(0, &error) }),
            (Ok(_), Ok(stored), Some(1)) => Ok(Self { stored, copy: 1, weakness: None }),
            (Ok(stored), Ok(_), _) => Ok(Self { stored, copy: 0, weakness: None }),
        }
    }

    /// Of two copies the one that does not count is written, and counts when all of it is there.
    fn replace(&self, medium: &impl Medium, environment: Environment) -> Result<(), BootError> {
        let copy = match medium.layout() {
            Layout::Single => 0,
            Layout::Redundant => 1 - self.copy,
        };
        let stored = Stored { flags: self.stored.flags.wrapping_add(1), environment };
        let bytes = stored
            .to_bytes(medium.layout(), medium.size_bytes())
            .map_err(|error| BootError::Malformed { path: medium.path(copy).to_path_buf(), why: error.to_string() })?;
        let written = medium.write(copy, &bytes).and_then(|()| medium.flush(copy));
        written.map_err(|source| held::interrupted(medium.path(copy), source))
    }
}

fn nothing_whole(medium: &impl Medium, errors: &[EnvironmentError]) -> BootError {
    let each: Vec<String> = errors.iter().enumerate().map(|(copy, error)| format!("in {}: {error}", medium.name(copy))).collect();
    let why = format!(
        "no copy of U-Boot's environment is whole, {}. A new one has to name the slot that runs alone, or the other one may be started, which \
         may be half written: in U-Boot `env default -a; setenv BOOT_ORDER NAME; setenv BOOT_NAME_LEFT 3; saveenv`, with the name of the slot \
         that runs for NAME",
        each.join("; ")
    );
    BootError::Malformed { path: medium.path(0).to_path_buf(), why }
}

/// The copies on their devices, locked.
struct Opened {
    layout: Layout,
    size_bytes: usize,
    /// Each device once: a second lock on one would wait for the first.
    files: Vec<Held>,
    copies: Vec<CopyAt>,
    _lock: Option<File>,
}

struct CopyAt {
    file: usize,
    offset: u64,
}

/// Whose fault it is: the system's, or that of the file that names the places.
enum Fault {
    Boot(BootError),
    Config(String),
}

impl Opened {
    fn add(&mut self, place: &Place, access: Access) -> Result<CopyAt, Fault> {
        let io = |source| Fault::Boot(held::io_error("open", &place.device, source));
        let real = std::fs::canonicalize(&place.device).map_err(io)?;
        if is_flash(&real) {
            let (device, real) = (place.device.display(), real.display());
            let why =
                format!("{device} is raw flash ({real}): expected a block device or a file, as this build does not erase flash");
            return Err(Fault::Config(why));
        }
        let kind = Kind::of_path(&place.device).map_err(io)?;
        let known = self.files.iter().position(|file| file.kind() == kind);
        let file = match known {
            Some(file) => file,
            None => {
                self.files.push(held::open(&place.device, access).map_err(Fault::Boot)?);
                self.files.len() - 1
            }
        };
        let length = self.files[file].size_bytes().map_err(io)?;
        let is_device = matches!(kind, Kind::BlockDevice(_));
        let offset = start(place, self.size_bytes, length, is_device).map_err(Fault::Config)?;
        Ok(CopyAt { file, offset })
    }

    /// Copies that share bytes would destroy each other.
    fn check_apart(&self) -> Result<(), Fault> {
        match self.copies.as_slice() {
            [first, second] if first.file == second.file && first.offset.abs_diff(second.offset) < self.size_bytes as u64 => {
                Err(Fault::Config(format!(
                    "expected two copies that lie apart, got {:#x} and {:#x} of {}, with {:#x} bytes each",
                    first.offset,
                    second.offset,
                    self.files[first.file].path().display(),
                    self.size_bytes
                )))
            }
            _ => Ok(()),
        }
    }
}

impl Medium for Opened {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    fn read(&self, copy: usize) -> Result<Vec<u8>, BootError> {
        let CopyAt { file, offset } = self.copies[copy];
        let file = &self.files[file];
        let mut buffer = AlignedBuf::zeroed(self.size_bytes);
        let bytes = &mut buffer.as_mut_slice()[..self.size_bytes];
        file.read_exact_at(bytes, offset).map_err(|source| held::io_error("read", file.path(), source))?;
        Ok(bytes.to_vec())
    }

    fn write(&self, copy: usize, bytes: &[u8]) -> io::Result<()> {
        let CopyAt { file, offset } = self.copies[copy];
        let mut buffer = AlignedBuf::zeroed(bytes.len());
        buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        self.files[file].write_all_at(&buffer.as_slice()[..bytes.len()], offset)
    }

    fn flush(&self, copy: usize) -> io::Result<()> {
        self.files[self.copies[copy].file].flush()
    }

    fn path(&self, copy: usize) -> &Path {
        self.files[self.copies[copy].file].path()
    }

    fn name(&self, copy: usize) -> String {
        format!("{} at {:#x}", self.path(copy).display(), self.copies[copy].offset)
    }
}

/// Where a copy begins on a device or file of this length; else what is wrong with its line.
fn start(place: &Place, size_bytes: usize, length: u64, is_device: bool) -> Result<u64, String> {
    let device = place.device.display();
    if place.offset < 0 && !is_device {
        return Err(format!(
            "{device} is a file, and the offset {} counts from the end of a block device: expected one from the start",
            place.offset
        ));
    }
    let base = if place.offset < 0 { i128::from(length) } else { 0 };
    let offset = base + i128::from(place.offset);
    let end = offset + size_bytes as i128;
    match u64::try_from(offset) {
        Ok(offset) if end <= i128::from(length) => Ok(offset),
        _ => {
            Err(format!("expected {size_bytes:#x} bytes at offset {} of {device}, got an end at {length:#x} bytes", place.offset))
        }
    }
}

/// The lock of `fw_setenv`. Where the folder for it is missing nobody else can hold it.
fn lock_beside(path: &Path, access: Access) -> Result<Option<File>, BootError> {
    let options = |create| {
        let mut options = OpenOptions::new();
        options.write(true).create(create).truncate(false).mode(LOCK_MODE).custom_flags(O_NOFOLLOW);
        options
    };
    // One that another user made in a folder for all cannot be opened for creation.
    let file = match options(false).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => options(true).open(path),
        opened => opened,
    };
    match file {
        Ok(file) => {
            held::lock(&file, path, access)?;
            Ok(Some(file))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(held::io_error("open", path, error)),
    }
}

#[cfg(test)]
mod tests;
