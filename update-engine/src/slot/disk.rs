//! Finding the slots: from names in a configuration to bytes on one disk.
//!
//! [`Disk::discover`] answers where each image of each slot lies, or why that cannot be told. It promises that the targets it
//! returns exist, belong to the configured disk, and share no byte with each other or with another partition. It only reads.
//!
//! ```no_run
//! # use update_engine::slot::{Disk, DiskSpec, SlotSpec};
//! let spec = DiskSpec {
//!     device: "/dev/vda".into(),
//!     sysroot: "/".into(),
//!     esp: "/efi".into(),
//!     slots: vec![
//!         SlotSpec { name: "a".parse()?, images: vec![("root".into(), "partlabel:root-a".parse()?)] },
//!         SlotSpec { name: "b".parse()?, images: vec![("root".into(), "partlabel:root-b".parse()?)] },
//!     ],
//! };
//! let disk = Disk::discover(&spec)?;
//! let running = disk.running_slot()?;
//! println!("{} runs, {} is next to be written", running.name(), disk.inactive(&running));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use uuid::Uuid;

use super::SlotError;
use super::buffer::{ALIGNMENT, AlignedBuf};
use super::esp::{self, EspPath, Room};
use super::holder;
use super::medium::{Access, Kind, RawFile};
use super::running::{self, RunningSlot};
use super::system::{DeviceId, SystemView};
use crate::boot::gpt::{GptError, Table, TableEntry, TableSource};

/// Longest name of a slot.
const NAME_MAX: usize = 32;
/// A and B: the product's whole idea. Every slot that does not run is *the other one*.
const SLOT_COUNT: usize = 2;

/// The name of a slot: 1 to 32 of `a-z`, `0-9`, `-`, `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotName(String);

impl SlotName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SlotName {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        if text.is_empty() || text.len() > NAME_MAX || !text.bytes().all(allowed) {
            return Err(SlotError::Spec(format!(
                "{text:?} is no name for a slot: expected 1 to {NAME_MAX} of a-z, 0-9, \"-\", \"_\""
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an image of a slot lies, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// The partition of the disk with this name.
    PartLabel(String),
    /// A block device or regular file.
    Path(PathBuf),
    /// A file on the EFI system partition.
    Esp(EspPath),
}

impl FromStr for Location {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        match text.strip_prefix("partlabel:") {
            Some("") => Err(SlotError::Spec("\"partlabel:\" names no partition".to_owned())),
            Some(label) => Ok(Self::PartLabel(label.to_owned())),
            None if text.starts_with('/') => Ok(Self::Path(PathBuf::from(text))),
            None => match text.strip_prefix("esp:") {
                Some(path) => path.parse().map(Self::Esp),
                None => Err(SlotError::Spec(format!(
                    "{text:?} names no target: expected \"partlabel:NAME\", \"esp:/PATH\" with {{slot}} in it, or an absolute path"
                ))),
            },
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PartLabel(label) => write!(f, "partlabel:{label}"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Esp(path) => write!(f, "esp:{path}"),
        }
    }
}

/// A slot as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSpec {
    /// Its name.
    pub name: SlotName,
    /// Where each image of a release goes, by the image's name.
    pub images: Vec<(String, Location)>,
}

/// A disk and its slots as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// A whole disk, or a disk image file.
    pub device: PathBuf,
    /// Where the running system's files are found; `/` on a block device.
    pub sysroot: PathBuf,
    /// Where the EFI system partition is mounted, in the running system.
    pub esp: PathBuf,
    /// The two slots.
    pub slots: Vec<SlotSpec>,
}

/// What the disk is, and so how the running slot is found out (design 11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A block device: facts of this machine decide.
    Host,
    /// A disk image file: files under `sysroot` decide.
    Image,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Image => "image",
        })
    }
}

/// The partition that a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its place in the disk's table, from 0.
    pub index: u32,
    /// Its name.
    pub label: String,
    /// Its own GUID.
    pub unique_guid: Uuid,
}

/// Where the bytes of a target are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A block device.
    Device {
        /// Its node.
        node: PathBuf,
        /// Its number.
        device: DeviceId,
    },
    /// A stretch of a regular file.
    Region {
        /// The file.
        file: PathBuf,
        /// Where the stretch starts.
        offset_bytes: u64,
    },
    /// A file on the EFI system partition, which need not be there yet.
    File {
        /// The file.
        file: PathBuf,
        /// The partition.
        device: DeviceId,
    },
}

impl Place {
    /// The device node or file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Device { node, .. } => node,
            Self::Region { file, .. } | Self::File { file, .. } => file,
        }
    }

    /// The block device that it is, or lies on; `None` for a stretch of a file, which may lie anywhere.
    pub(crate) fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Device { device, .. } | Self::File { device, .. } => Some(*device),
            Self::Region { .. } => None,
        }
    }
}

/// One image's place in one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The slot.
    pub slot: SlotName,
    /// The image.
    pub image: String,
    /// Where.
    pub place: Place,
    /// How large it is; of a file on the EFI system partition, how large it can become.
    pub size_bytes: u64,
    /// The partition, if it is one of the disk.
    pub partition: Option<Partition>,
    /// The device or file as it was found; opening something else there later is an error. A [`Place::File`] has none: it comes and
    /// goes.
    pub(crate) kind: Option<Kind>,
}

impl Target {
    /// The bytes of its device or file that it takes.
    pub(crate) fn range(&self) -> Range<u64> {
        let start = match self.place {
            Place::Device { .. } | Place::File { .. } => 0,
            Place::Region { offset_bytes, .. } => offset_bytes,
        };
        start..start + self.size_bytes
    }

    /// Whether what a path names now may be it.
    pub(crate) fn is(&self, found: Kind) -> bool {
        match (&self.place, found) {
            (Place::File { device, .. }, Kind::RegularFile { device: on, .. }) => *device == on,
            _ => self.kind == Some(found),
        }
    }

    /// FAT does not tell small letters from large ones.
    fn shares_bytes_with(&self, other: &Self) -> bool {
        if let (Place::File { file, .. }, Place::File { file: theirs, .. }) = (&self.place, &other.place) {
            return file.as_os_str().eq_ignore_ascii_case(theirs.as_os_str());
        }
        let (ours, theirs) = (self.range(), other.range());
        self.kind.is_some() && self.kind == other.kind && theirs.start < ours.end && ours.start < theirs.end
    }
}

/// What makes a disk *this* disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskIdentity {
    pub(crate) kind: Kind,
    pub(crate) guid: Option<Uuid>,
    pub(crate) sequence: Option<u64>,
}

/// A disk whose slots were found.
#[derive(Clone, Debug)]
pub struct Disk {
    mode: Mode,
    device: PathBuf,
    identity: DiskIdentity,
    sector_size: u64,
    table: Option<Table>,
    targets: Vec<Target>,
    slots: Vec<SlotName>,
    sysroot: PathBuf,
    esp: PathBuf,
    view: SystemView,
}

impl Disk {
    /// Finds the slots of a configuration on this machine.
    ///
    /// # Errors
    /// [`SlotError::Spec`] with words if the configuration does not fit the disk, [`SlotError::Table`] or [`SlotError::Io`] if the
    /// disk cannot be read.
    pub fn discover(spec: &DiskSpec) -> Result<Self, SlotError> {
        Self::discover_in(spec, SystemView::default())
    }

    /// The same where the kernel's views stand elsewhere.
    ///
    /// # Errors
    /// As [`Disk::discover`].
    pub fn discover_in(spec: &DiskSpec, view: SystemView) -> Result<Self, SlotError> {
        check_slots(&spec.slots)?;
        let kind = Kind::of_path(&spec.device).map_err(|e| SlotError::io("look up the disk", &spec.device, e))?;
        let (mode, sequence, sector_size) = match kind {
            Kind::BlockDevice(device) => {
                check_whole_disk(spec, &view, device)?;
                let facts = view.disk_sequence(device).and_then(|number| Ok((number, view.sector_size(device)?)));
                let (number, size) = facts.map_err(|e| SlotError::io("look up the facts of the disk", &spec.device, e))?;
                (Mode::Host, number, Some(size))
            }
            Kind::RegularFile { .. } => (Mode::Image, None, None),
        };
        let table = read_table(&spec.device, sector_size);
        let table = if spec.slots.iter().any(wants_table) { Some(table?) } else { table.ok() };
        let identity = DiskIdentity { kind, guid: table.as_ref().map(Table::disk_guid), sequence };
        let sector_size = table.as_ref().map(Table::sector_size).or(sector_size).unwrap_or(512);
        let disk = Self {
            mode,
            device: spec.device.clone(),
            identity,
            sector_size,
            table,
            targets: Vec::new(),
            slots: spec.slots.iter().map(|slot| slot.name.clone()).collect(),
            sysroot: spec.sysroot.clone(),
            esp: spec.sysroot.join(spec.esp.strip_prefix("/").unwrap_or(&spec.esp)),
            view,
        };
        disk.with_targets(spec)
    }

    fn with_targets(mut self, spec: &DiskSpec) -> Result<Self, SlotError> {
        for slot in &spec.slots {
            for (image, location) in &slot.images {
                let target = self.resolve(&slot.name, image, location)?;
                self.check_apart(&target)?;
                self.targets.push(target);
            }
        }
        Ok(self)
    }

    /// Host or image mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The whole disk's device or file.
    #[must_use]
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// Bytes of a logical sector.
    #[must_use]
    pub fn sector_size(&self) -> u64 {
        self.sector_size
    }

    /// The partition table as it was found; `None` if the slots need none and there is none.
    #[must_use]
    pub fn table(&self) -> Option<&Table> {
        self.table.as_ref()
    }

    /// The names of the slots, as configured.
    #[must_use]
    pub fn slots(&self) -> &[SlotName] {
        &self.slots
    }

    /// All images of all slots.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The images of one slot.
    pub fn targets_of<'a>(&'a self, slot: &'a SlotName) -> impl Iterator<Item = &'a Target> {
        self.targets.iter().filter(move |target| target.slot == *slot)
    }

    /// Which slot runs, from facts; see [`RunningSlot`].
    ///
    /// # Errors
    /// [`SlotError::RunningUnknown`] if that is unknown or two sources disagree. Then nothing may be written or marked.
    pub fn running_slot(&self) -> Result<RunningSlot, SlotError> {
        running::identify(self)
    }

    /// The target on which what is written below `folder` ends up; `None` if it lies on no slot. In image mode the slots are
    /// bytes of a file and hold no folder of this machine: then it is always `None`.
    ///
    /// # Errors
    /// If that cannot be found out.
    pub fn holder_of(&self, folder: &Path) -> Result<Option<&Target>, SlotError> {
        holder::of_folder(self, folder)
    }

    /// The target that takes any of `length` bytes of a block device or file, from `offset` (from its end, if that is negative).
    ///
    /// # Errors
    /// If that cannot be found out.
    pub fn holder_of_bytes(&self, path: &Path, offset: i64, length: u64) -> Result<Option<&Target>, SlotError> {
        holder::of_bytes(self, path, offset, length)
    }

    /// The slot that does not run.
    #[must_use]
    pub fn inactive(&self, running: &RunningSlot) -> &SlotName {
        let other = self.slots.iter().find(|name| *name != running.name());
        // Two slots of different names were checked at discovery, so there is another one.
        other.unwrap_or(&self.slots[0])
    }

    pub(crate) fn identity(&self) -> &DiskIdentity {
        &self.identity
    }

    pub(crate) fn sysroot(&self) -> &Path {
        &self.sysroot
    }

    /// Where the EFI system partition is mounted.
    pub(super) fn esp(&self) -> &Path {
        &self.esp
    }

    pub(crate) fn view(&self) -> &SystemView {
        &self.view
    }

    fn resolve(&self, slot: &SlotName, image: &str, location: &Location) -> Result<Target, SlotError> {
        match location {
            Location::PartLabel(label) => self.resolve_label(slot, image, label),
            Location::Path(path) => self.resolve_path(slot, image, path),
            Location::Esp(path) => self.resolve_esp(slot, image, path),
        }
    }

    fn resolve_esp(&self, slot: &SlotName, image: &str, path: &EspPath) -> Result<Target, SlotError> {
        let file = path.below(&self.esp, slot);
        let device = esp::device_at(&self.esp).map_err(|e| SlotError::io("look up the ESP (disk.esp)", &self.esp, e))?;
        if self.mode == Mode::Host {
            self.check_esp(slot, device)?;
        }
        let room = Room::of(&file, &self.esp).map_err(|e| SlotError::io(format!("look up a file of slot {slot}"), &file, e))?;
        let (slot, image, place) = (slot.clone(), image.to_owned(), Place::File { file, device });
        Ok(Target { slot, image, place, size_bytes: room.size_bytes(), partition: None, kind: None })
    }

    /// A folder of the running slot, or of another disk, must not pass for the ESP where that is not mounted.
    fn check_esp(&self, slot: &SlotName, device: DeviceId) -> Result<(), SlotError> {
        let io_error = |e| SlotError::io("look up the ESP (disk.esp)", &self.esp, e);
        let folder = self.esp.canonicalize().map_err(io_error)?;
        let mounts = self.view.mounts().map_err(io_error)?;
        if !mounts.iter().any(|mount| mount.mount_point == folder && mount.device == device) {
            let why = format!("slot {slot}: nothing is mounted at {} (disk.esp), expected the ESP", self.esp.display());
            return Err(SlotError::Spec(why));
        }
        self.own_partition(slot, &self.esp, device).map(drop)
    }

    fn resolve_label(&self, slot: &SlotName, image: &str, label: &str) -> Result<Target, SlotError> {
        let entries = self.table.as_ref().map(Table::entries).unwrap_or_default();
        let entry = self.only_entry(&entries, slot, label)?;
        self.check_entry(&entries, entry)?;
        let (place, kind) = match self.identity.kind {
            Kind::RegularFile { .. } => {
                (Place::Region { file: self.device.clone(), offset_bytes: entry.start_bytes }, self.identity.kind)
            }
            Kind::BlockDevice(disk) => {
                let device = self.partition_device(disk, entry)?;
                let node =
                    self.view.node(device).map_err(|e| SlotError::io("find the node of a partition of", &self.device, e))?;
                (Place::Device { node, device }, Kind::BlockDevice(device))
            }
        };
        let (slot, image, size_bytes) = (slot.clone(), image.to_owned(), entry.size_bytes);
        Ok(Target { slot, image, place, size_bytes, partition: Some(Partition::from(entry)), kind: Some(kind) })
    }

    fn only_entry<'a>(&self, entries: &'a [TableEntry], slot: &SlotName, label: &str) -> Result<&'a TableEntry, SlotError> {
        let mut named = entries.iter().filter(|entry| entry.label == label);
        match (named.next(), named.next()) {
            (Some(entry), None) => Ok(entry),
            (Some(first), Some(second)) => Err(SlotError::Spec(format!(
                "slot {slot}: the partitions {} and {} of {} are both named \"{label}\"; expected one",
                first.index + 1,
                second.index + 1,
                self.device.display()
            ))),
            (None, _) => {
                let names: Vec<_> = entries.iter().map(|entry| format!("\"{}\"", entry.label)).collect();
                let names = if names.is_empty() { "no partition".to_owned() } else { names.join(", ") };
                Err(SlotError::Spec(format!(
                    "slot {slot}: {} has no partition named \"{label}\"; it has {names}",
                    self.device.display()
                )))
            }
        }
    }

    /// A partition that shares bytes with another, or with the table itself, must never be written.
    fn check_entry(&self, entries: &[TableEntry], entry: &TableEntry) -> Result<(), SlotError> {
        let range = entry.start_bytes..entry.start_bytes + entry.size_bytes;
        let usable = self.table.as_ref().map(Table::usable_bytes).unwrap_or_default();
        if range.start < usable.start || range.end > usable.end {
            return Err(SlotError::Spec(format!(
                "the partition \"{}\" takes the bytes {range:?} of {}, outside the usable area {usable:?}",
                entry.label,
                self.device.display()
            )));
        }
        for other in entries.iter().filter(|other| other.index != entry.index) {
            let overlap = other.start_bytes < range.end && range.start < other.start_bytes + other.size_bytes;
            let trouble = match (overlap, other.unique_guid == entry.unique_guid) {
                (true, _) => "overlap",
                (false, true) => "have the same GUID",
                (false, false) => continue,
            };
            return Err(SlotError::Spec(format!(
                "the partitions \"{}\" and \"{}\" of {} {trouble}",
                entry.label,
                other.label,
                self.device.display()
            )));
        }
        Ok(())
    }

    /// The kernel's partition with the very place and size that the table states: a name could point anywhere.
    fn partition_device(&self, disk: DeviceId, entry: &TableEntry) -> Result<DeviceId, SlotError> {
        let nodes = self.view.partitions_of(disk).map_err(|e| SlotError::io("list the partitions of", &self.device, e))?;
        let found = nodes.iter().find(|node| node.start_bytes == entry.start_bytes && node.size_bytes == entry.size_bytes);
        found.map(|node| node.device).ok_or_else(|| {
            SlotError::Spec(format!(
                "the kernel knows no partition of {} with the place of \"{}\" (start {}, size {} bytes): has it read this table?",
                self.device.display(),
                entry.label,
                entry.start_bytes,
                entry.size_bytes
            ))
        })
    }

    fn resolve_path(&self, slot: &SlotName, image: &str, path: &Path) -> Result<Target, SlotError> {
        let io_error = |e| SlotError::io(format!("look up the target of slot {slot}"), path, e);
        let kind = Kind::of_path(path).map_err(io_error)?;
        if kind == self.identity.kind {
            return Err(SlotError::Spec(format!("slot {slot}: {} is the whole disk, not a slot", path.display())));
        }
        let (place, size_bytes, partition) = match kind {
            Kind::RegularFile { .. } => {
                let size = std::fs::metadata(path).map_err(io_error)?.len();
                (Place::Region { file: path.to_path_buf(), offset_bytes: 0 }, size, None)
            }
            Kind::BlockDevice(device) => {
                let size = self.view.size_bytes(device).map_err(io_error)?;
                let partition = self.own_partition(slot, path, device)?;
                (Place::Device { node: path.to_path_buf(), device }, size, partition)
            }
        };
        Ok(Target { slot: slot.clone(), image: image.to_owned(), place, size_bytes, partition, kind: Some(kind) })
    }

    /// In host mode a block device must be a partition of the configured disk; the table says which.
    fn own_partition(&self, slot: &SlotName, path: &Path, device: DeviceId) -> Result<Option<Partition>, SlotError> {
        let Kind::BlockDevice(disk) = self.identity.kind else { return Ok(None) };
        let nodes = self.view.partitions_of(disk).map_err(|e| SlotError::io("list the partitions of", &self.device, e))?;
        let node = nodes.iter().find(|node| node.device == device).ok_or_else(|| {
            SlotError::Spec(format!("slot {slot}: {} is not a partition of {}", path.display(), self.device.display()))
        })?;
        let entries = self.table.as_ref().map(Table::entries).unwrap_or_default();
        let entry = entries.iter().find(|e| e.start_bytes == node.start_bytes && e.size_bytes == node.size_bytes);
        entry.map(|entry| self.check_entry(&entries, entry).map(|()| Partition::from(entry))).transpose()
    }

    fn check_apart(&self, target: &Target) -> Result<(), SlotError> {
        match self.targets.iter().find(|other| other.shares_bytes_with(target)) {
            None => Ok(()),
            Some(other) => Err(SlotError::Spec(format!(
                "slot {}, image \"{}\" and slot {}, image \"{}\" are the same bytes of {}",
                other.slot,
                other.image,
                target.slot,
                target.image,
                target.place.path().display()
            ))),
        }
    }
}

impl From<&TableEntry> for Partition {
    fn from(entry: &TableEntry) -> Self {
        Self { index: entry.index, label: entry.label.clone(), unique_guid: entry.unique_guid }
    }
}

fn wants_table(slot: &SlotSpec) -> bool {
    slot.images.iter().any(|(_, location)| matches!(location, Location::PartLabel(_)))
}

fn check_slots(slots: &[SlotSpec]) -> Result<(), SlotError> {
    let spec = |words: String| Err(SlotError::Spec(words));
    let [first, second] = slots else {
        return spec(format!("expected {SLOT_COUNT} slots, got {}", slots.len()));
    };
    if first.name == second.name {
        return spec(format!("two slots are named {}", first.name));
    }
    let names = |slot: &SlotSpec| {
        let mut names: Vec<String> = slot.images.iter().map(|(image, _)| image.clone()).collect();
        names.sort();
        names
    };
    let (ours, theirs) = (names(first), names(second));
    if ours.is_empty() {
        return spec(format!("slot {} has no image", first.name));
    }
    if ours.windows(2).any(|pair| pair[0] == pair[1]) {
        return spec(format!("slot {} names an image twice: {}", first.name, ours.join(", ")));
    }
    if ours != theirs {
        return spec(format!(
            "the slots have different images: {} has {}; {} has {}",
            first.name,
            ours.join(", "),
            second.name,
            theirs.join(", ")
        ));
    }
    Ok(())
}

fn check_whole_disk(spec: &DiskSpec, view: &SystemView, device: DeviceId) -> Result<(), SlotError> {
    if spec.sysroot != Path::new("/") {
        return Err(SlotError::Spec(format!(
            "{} is a block device, so sysroot has to be \"/\", got {}",
            spec.device.display(),
            spec.sysroot.display()
        )));
    }
    match view.is_partition(device) {
        Ok(false) => Ok(()),
        Ok(true) => Err(SlotError::Spec(format!("{} is a partition, expected a whole disk", spec.device.display()))),
        Err(error) => Err(SlotError::io("look up the facts of the disk", &spec.device, error)),
    }
}

pub(super) fn read_table(device: &Path, sector_size: Option<u64>) -> Result<Table, SlotError> {
    let file = RawFile::open(device, Access::Read).map_err(|e| SlotError::io("open the disk", device, e))?;
    file.try_direct();
    let table = match sector_size {
        Some(size) => Table::read(&file, size),
        None => Table::read_any(&file),
    };
    table.map_err(|source: GptError| SlotError::Table { path: device.to_path_buf(), source })
}

impl TableSource for RawFile {
    fn size_bytes(&self) -> io::Result<u64> {
        RawFile::size_bytes(self)
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let block = ALIGNMENT as u64;
        let start = offset - offset % block;
        let size = RawFile::size_bytes(self)?;
        let end = offset.checked_add(length as u64).filter(|&end| end <= size).ok_or(io::ErrorKind::UnexpectedEof)?;
        let span = usize::try_from(end.next_multiple_of(block).min(size) - start).map_err(io::Error::other)?;
        let skip = usize::try_from(offset - start).map_err(io::Error::other)?;
        let mut buffer = AlignedBuf::zeroed(span);
        self.read_exact_at(&mut buffer.as_mut_slice()[..span], start)?;
        Ok(buffer.as_slice()[skip..skip + length].to_vec())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::system::fake::FakeSystem;
    use super::*;
    use crate::boot::gpt::fixture::{self, DiskBuilder};

    const MIB: u64 = 1 << 20;

    fn spec(device: &Path, sysroot: &Path, a: &str, b: &str) -> DiskSpec {
        let slot = |name: &str, location: &str| SlotSpec {
            name: name.parse().unwrap(),
            images: vec![("root".to_owned(), location.parse().unwrap())],
        };
        let (device, sysroot, esp) = (device.to_path_buf(), sysroot.to_path_buf(), "/efi".into());
        DiskSpec { device, sysroot, esp, slots: vec![slot("a", a), slot("b", b)] }
    }

    /// An image file, and a sysroot whose kernel was started with `cmdline`.
    struct Image {
        folder: tempfile::TempDir,
    }

    impl Image {
        fn new(disk: &DiskBuilder, cmdline: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("disk.img"), disk.build()).unwrap();
            std::fs::create_dir_all(folder.path().join("proc")).unwrap();
            std::fs::write(folder.path().join("proc/cmdline"), cmdline).unwrap();
            Self { folder }
        }

        fn discover(&self, a: &str, b: &str) -> Result<Disk, SlotError> {
            Disk::discover(&spec(&self.folder.path().join("disk.img"), self.folder.path(), a, b))
        }

        fn running(&self) -> Result<String, String> {
            let disk = self.discover("partlabel:root-a", "partlabel:root-b").unwrap();
            disk.running_slot().map(|slot| slot.name().to_string()).map_err(|error| error.to_string())
        }
    }

    fn error(disk: Result<Disk, SlotError>) -> String {
        disk.map(drop).unwrap_err().to_string()
    }

    #[test]
    fn slots_of_an_image_are_regions_of_it() {
        for sector in [512, 4096] {
            let image = Image::new(&DiskBuilder::new(sector), "");
            let disk = image.discover("partlabel:root-a", "partlabel:root-b").unwrap();
            assert_eq!((disk.mode(), disk.sector_size()), (Mode::Image, sector as u64));
            let entry = &disk.table().unwrap().entries()[1];
            let target = disk.targets_of(&disk.slots()[1]).next().unwrap();
            assert_eq!(target.place, Place::Region { file: disk.device().to_path_buf(), offset_bytes: entry.start_bytes });
            assert_eq!(target.size_bytes, entry.size_bytes);
            assert_eq!(
                target.partition,
                Some(Partition { index: 1, label: "root-b".to_owned(), unique_guid: fixture::unique_guid(1) })
            );
        }
    }

    #[test]
    fn a_label_that_is_missing_or_stands_twice_is_an_error() {
        let image = Image::new(&DiskBuilder::new(512), "");
        let path = image.folder.path().join("disk.img").display().to_string();
        assert_eq!(
            error(image.discover("partlabel:root-a", "partlabel:root-c")),
            format!("slot b: {path} has no partition named \"root-c\"; it has \"root-a\", \"root-b\", \"state\"")
        );
        assert_eq!(
            error(image.discover("partlabel:root-a", "partlabel:root-a")),
            format!("slot a, image \"root\" and slot b, image \"root\" are the same bytes of {path}")
        );
        let mut twice = DiskBuilder::new(512);
        twice.partitions[2].0 = "root-b".to_owned();
        let words = error(Image::new(&twice, "").discover("partlabel:root-a", "partlabel:root-b"));
        assert!(words.starts_with("slot b: the partitions 2 and 3 of ") && words.ends_with("; expected one"), "{words}");
    }

    #[test]
    fn partitions_that_overlap_or_leave_the_usable_area_are_errors() {
        let base = DiskBuilder::new(512);
        let damage = |at: usize, value: u64| {
            let mut disk = base.build();
            disk[1024 + at..1024 + at + 8].copy_from_slice(&value.to_le_bytes());
            let crc = crc32fast::hash(&disk[1024..1024 + 16_384]);
            disk[512 + 88..512 + 92].copy_from_slice(&crc.to_le_bytes());
            let mut header = disk[512..512 + 92].to_vec();
            header[16..20].fill(0);
            disk[512 + 16..512 + 20].copy_from_slice(&crc32fast::hash(&header).to_le_bytes());
            let image = Image::new(&base, "");
            std::fs::write(image.folder.path().join("disk.img"), disk).unwrap();
            error(image.discover("partlabel:root-a", "partlabel:root-b"))
        };
        let overlap = damage(40, 52);
        assert!(
            overlap.starts_with("the partitions \"root-a\" and \"root-b\" of ") && overlap.ends_with(" overlap"),
            "{overlap}"
        );
        assert!(damage(32, 10).contains("outside the usable area"));
    }

    #[test]
    fn specifications_that_cannot_be_right_say_why() {
        let image = Image::new(&DiskBuilder::new(512), "");
        let device = image.folder.path().join("disk.img");
        let mut one = spec(&device, image.folder.path(), "partlabel:root-a", "partlabel:root-b");
        one.slots.pop();
        assert_eq!(error(Disk::discover(&one)), "expected 2 slots, got 1");
        let mut same = spec(&device, image.folder.path(), "partlabel:root-a", "partlabel:root-b");
        same.slots[1].name = same.slots[0].name.clone();
        assert_eq!(error(Disk::discover(&same)), "two slots are named a");
        let mut uneven = spec(&device, image.folder.path(), "partlabel:root-a", "partlabel:root-b");
        uneven.slots[1].images[0].0 = "usr".to_owned();
        assert_eq!(error(Disk::discover(&uneven)), "the slots have different images: a has root; b has usr");
        assert!("root-a".parse::<Location>().unwrap_err().to_string().contains("expected \"partlabel:NAME\""));
        assert!("esp:/EFI/x".parse::<Location>().unwrap_err().to_string().contains("\"{slot}\" in it"));
        assert!("partlabel:".parse::<Location>().is_err());
        for name in ["", "A", "a/b", "über", &"x".repeat(33)] {
            assert!(name.parse::<SlotName>().is_err(), "{name}");
        }
    }

    #[test]
    fn slots_may_be_files_and_then_need_no_table() {
        let image = Image::new(&DiskBuilder::new(512), "root=/slots/a");
        let folder = image.folder.path();
        std::fs::write(folder.join("disk.img"), [0; 8192]).unwrap();
        let paths = ["a", "b"].map(|slot| folder.join(slot));
        paths.iter().for_each(|path| std::fs::write(path, [0; 8192]).unwrap());
        let [a, b] = paths.each_ref().map(|path| path.display().to_string());
        let disk = image.discover(&a, &b).unwrap();
        assert_eq!(disk.targets()[1].size_bytes, 8192);
        assert!(disk.table().is_none());
        std::fs::write(folder.join("proc/cmdline"), format!("root={a}")).unwrap();
        assert_eq!(disk.running_slot().unwrap().name().as_str(), "a");
        let link = folder.join("link");
        std::os::unix::fs::symlink(&paths[0], &link).unwrap();
        assert!(error(image.discover(&a, &link.display().to_string())).contains("are the same bytes"));
        assert!(error(image.discover(&a, &folder.join("disk.img").display().to_string())).contains("is the whole disk"));
        assert!(error(image.discover(&a, "/no/such/file")).starts_with("cannot look up the target of slot b"));
        assert!(error(image.discover(&a, "partlabel:root-b")).starts_with("cannot read the partition table"));
    }

    #[test]
    fn design_11_11_the_running_slot_of_an_image_is_what_its_command_line_says() {
        let guid = |index| fixture::unique_guid(index).to_string();
        for (cmdline, slot) in [
            (format!("root=PARTUUID={}", guid(0)), "a"),
            (format!("ro root=PARTUUID={} quiet\n", guid(1).to_uppercase()), "b"),
            ("root=PARTLABEL=root-b".to_owned(), "b"),
            (format!("root=PARTLABEL=root-b root=PARTUUID={} -- root=PARTLABEL=root-a", guid(1)), "b"),
            ("quiet ota.slot=b".to_owned(), "b"),
            ("root=PARTLABEL=root-a ota.slot=a -- ota.slot=b".to_owned(), "a"),
        ] {
            assert_eq!(Image::new(&DiskBuilder::new(512), &cmdline).running().as_deref(), Ok(slot), "{cmdline}");
        }
    }

    #[test]
    fn a_running_slot_that_is_unknown_or_contradicted_is_never_guessed() {
        let guid = |index| fixture::unique_guid(index).to_string();
        for (cmdline, words) in [
            ("quiet".to_owned(), "has no root="),
            ("-- root=PARTLABEL=root-a".to_owned(), "has no root="),
            (format!("root=PARTUUID={}", uuid::Uuid::nil()), "which is no slot of"),
            (format!("root=PARTUUID={}", guid(2)), "which is the partition \"state\" of"),
            ("root=PARTUUID=".to_owned(), "which is no slot of"),
            ("root=PARTLABEL=ROOT-A".to_owned(), "which is no slot of"),
            ("root=/dev/vda2".to_owned(), "which is no slot of"),
            ("root=PARTLABEL=root-a root=PARTLABEL=root-b".to_owned(), "(slot a) and root=PARTLABEL=root-b (slot b)"),
            ("root=PARTLABEL=root-a ota.slot=b".to_owned(), "says root=PARTLABEL=root-a (slot a) and ota.slot=b (slot b)"),
            ("ota.slot=A".to_owned(), "says ota.slot=A, which is no slot of"),
            ("root=PARTUUID= ota.slot=a".to_owned(), "says root=PARTUUID=, which is no slot of"),
        ] {
            let error = Image::new(&DiskBuilder::new(512), &cmdline).running().unwrap_err();
            assert!(error.starts_with("cannot tell which slot runs: ") && error.contains(words), "{cmdline}: {error}");
        }
        let image = Image::new(&DiskBuilder::new(512), "");
        std::fs::remove_file(image.folder.path().join("proc/cmdline")).unwrap();
        assert!(image.running().is_err());
    }

    /// A disk found on a made-up host: `vda` with the slots as partitions 1 and 2.
    ///
    /// A device node cannot be made without privileges, so the disk itself is put together here; everything after its discovery
    /// is the code under test.
    pub(crate) fn host(system: &FakeSystem) -> Disk {
        system.disk("vda", "254:0", 64 * MIB, 512);
        system.partition("vda", 1, "254:1", MIB, 8 * MIB);
        system.partition("vda", 2, "254:2", 9 * MIB, 8 * MIB);
        system.partition("vda", 3, "254:3", 17 * MIB, 8 * MIB);
        std::fs::write(system.folder.path().join("proc/cmdline"), "quiet").unwrap();
        let target = |slot: &str, index: u32| {
            let device = DeviceId { major: 254, minor: u64::from(index) + 1 };
            Target {
                slot: slot.parse().unwrap(),
                image: "root".to_owned(),
                place: Place::Device { node: format!("/dev/vda{}", index + 1).into(), device },
                size_bytes: 8 * MIB,
                partition: Some(Partition {
                    index,
                    label: format!("root-{slot}"),
                    unique_guid: fixture::unique_guid(index as usize),
                }),
                kind: Some(Kind::BlockDevice(device)),
            }
        };
        let table = crate::boot::gpt::parse(&DiskBuilder::new(512).build()).unwrap();
        Disk {
            mode: Mode::Host,
            device: "/dev/vda".into(),
            identity: DiskIdentity {
                kind: Kind::BlockDevice(DeviceId { major: 254, minor: 0 }),
                guid: Some(table.disk_guid()),
                sequence: Some(9),
            },
            sector_size: 512,
            table: Some(table),
            targets: vec![target("a", 0), target("b", 1)],
            slots: vec!["a".parse().unwrap(), "b".parse().unwrap()],
            sysroot: "/".into(),
            esp: "/efi".into(),
            view: system.view(),
        }
    }

    fn running_on(mut system: FakeSystem, cmdline: &str, mounts: &[(&str, &str, &str, &str)]) -> Result<String, String> {
        for (id, at, fs, options) in mounts {
            system.mount(id, at, fs, "/dev/x", options);
        }
        let disk = host(&system);
        std::fs::write(system.folder.path().join("proc/cmdline"), cmdline).unwrap();
        disk.running_slot().map(|slot| slot.name().to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn on_a_host_the_mounted_root_decides() {
        let root_b = [("254:2", "/", "ext4", "rw")];
        assert_eq!(running_on(FakeSystem::new(), "quiet", &root_b).as_deref(), Ok("b"));
        assert_eq!(running_on(FakeSystem::new(), "root=PARTLABEL=root-b", &root_b).as_deref(), Ok("b"));
        assert_eq!(running_on(FakeSystem::new(), "root=LABEL=ROOT", &root_b).as_deref(), Ok("b"));
        assert_eq!(running_on(FakeSystem::new(), "root=LABEL=ROOT ota.slot=b", &root_b).as_deref(), Ok("b"));
        let usr_a = [("254:3", "/", "ext4", "rw"), ("254:1", "/usr", "ext4", "ro")];
        assert_eq!(running_on(FakeSystem::new(), "root=LABEL=ROOT", &usr_a).as_deref(), Ok("a"));
        let usr_line = format!("root=LABEL=ROOT mount.usr=PARTUUID={}", fixture::unique_guid(0));
        assert_eq!(running_on(FakeSystem::new(), &usr_line, &usr_a).as_deref(), Ok("a"));
    }

    #[test]
    fn on_a_host_a_slot_may_be_a_file_behind_the_root() {
        let mut system = FakeSystem::new();
        let files = ["a.img", "b.img"].map(|name| system.folder.path().join(name));
        files.iter().for_each(|file| std::fs::write(file, [0; 8192]).unwrap());
        system.disk("loop0", "7:0", 8192, 512);
        system.bind("loop0", files[1].to_str().unwrap());
        let live = system.folder.path().display().to_string();
        system.mount("254:3", &live, "ext4", "/dev/vda3", "rw");
        system.mount("7:0", "/", "squashfs", "/dev/loop0", "ro");
        let mut disk = host(&system);
        for (target, file) in disk.targets.iter_mut().zip(&files) {
            target.kind = Some(Kind::of_path(file).unwrap());
            target.place = Place::Region { file: file.clone(), offset_bytes: 0 };
            target.partition = None;
        }
        assert_eq!(disk.running_slot().unwrap().name().as_str(), "b");
    }

    #[test]
    fn on_a_host_a_hint_that_contradicts_the_facts_is_an_error() {
        let root_b = [("254:2", "/", "ext4", "rw")];
        let error = running_on(FakeSystem::new(), "root=PARTLABEL=root-a", &root_b).unwrap_err();
        assert_eq!(
            error,
            "cannot tell which slot runs: / rests on slot b, but the kernel was started with root=PARTLABEL=root-a, slot a"
        );
        let error = running_on(FakeSystem::new(), "root=PARTLABEL=root-b ota.slot=a", &root_b).unwrap_err();
        assert_eq!(error, "cannot tell which slot runs: / rests on slot b, but the kernel was started with ota.slot=a, slot a");
    }

    #[test]
    fn on_a_host_facts_that_name_no_slot_or_two_are_errors() {
        let elsewhere = running_on(FakeSystem::new(), "root=PARTLABEL=root-a ota.slot=a", &[("254:3", "/", "ext4", "rw")]);
        assert_eq!(elsewhere.unwrap_err(), "cannot tell which slot runs: neither / nor /usr rests on a slot of /dev/vda");
        let both = running_on(FakeSystem::new(), "", &[("254:1", "/", "ext4", "rw"), ("254:2", "/usr", "ext4", "ro")]);
        assert_eq!(both.unwrap_err(), "cannot tell which slot runs: / rests on slot a, but /usr on slot b");
    }

    #[test]
    fn on_a_host_partitions_are_found_by_place_and_size() {
        let system = FakeSystem::new();
        let disk = host(&system);
        let entry = TableEntry {
            index: 1,
            type_guid: fixture::type_guid(),
            unique_guid: fixture::unique_guid(1),
            start_bytes: 9 * MIB,
            size_bytes: 8 * MIB,
            label: "root-b".to_owned(),
            attributes: crate::boot::gpt::Attributes::from_bits(0),
        };
        let whole = DeviceId { major: 254, minor: 0 };
        assert_eq!(disk.partition_device(whole, &entry).unwrap(), DeviceId { major: 254, minor: 2 });
        let moved = TableEntry { start_bytes: 10 * MIB, ..entry };
        let error = disk.partition_device(whole, &moved).unwrap_err().to_string();
        assert!(error.contains("knows no partition of /dev/vda with the place of \"root-b\""), "{error}");
    }

    #[test]
    fn on_a_host_a_slot_of_another_disk_is_refused() {
        let system = FakeSystem::new();
        let disk = host(&system);
        system.disk("vdb", "254:16", 64 * MIB, 512);
        system.partition("vdb", 1, "254:17", MIB, 8 * MIB);
        let other = DeviceId { major: 254, minor: 17 };
        let error = disk.own_partition(&disk.slots[0], Path::new("/dev/vdb1"), other).unwrap_err().to_string();
        assert_eq!(error, "slot a: /dev/vdb1 is not a partition of /dev/vda");
    }
}
