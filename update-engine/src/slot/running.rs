//! Which slot runs: from facts on a host, from the image's own files in image mode, and never by guessing.

use std::path::Path;

use uuid::Uuid;

use super::SlotError;
use super::command_line::{self, Setting};
use super::disk::{Disk, DiskIdentity, Mode, Place, SlotName, Target};
use super::holder::rests_on;
use super::system::read_text;

/// A boot loader passes at most a few KiB.
const COMMAND_LINE_CAP: u64 = 64 << 10;
/// File systems that may be a slot: the root, and `/usr` where that alone is switched.
const SYSTEM_MOUNTS: [&str; 2] = ["/", "/usr"];
/// Word of the kernel's command line that names the slot itself: `dist/grub/ota.cfg` adds it.
const SLOT_WORD: &str = "ota.slot";
/// Words that name such a file system, or the slot.
const HINTS: [&str; 4] = ["root", "mount.usr", "usr", SLOT_WORD];
/// The same for an image, which has one root file system.
const IMAGE_HINTS: [&str; 2] = ["root", SLOT_WORD];

/// The slot that runs now, on one disk.
///
/// Only [`Disk::running_slot`] makes one. In host mode it is the slot on whose partition or file the root (or `/usr`) file system
/// rests, through device mapper, loop files and overlays, and what the kernel's command line says must not contradict. In image
/// mode it is what `root=` in `sysroot/proc/cmdline` says, found in the image's own table, and what `ota.slot=` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningSlot {
    name: SlotName,
    disk: DiskIdentity,
}

impl RunningSlot {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &SlotName {
        &self.name
    }

    /// Whether it was found on that disk.
    pub(crate) fn is_on(&self, disk: &DiskIdentity) -> bool {
        self.disk == *disk
    }
}

pub(super) fn identify(disk: &Disk) -> Result<RunningSlot, SlotError> {
    let name = match disk.mode() {
        Mode::Host => from_facts(disk)?,
        Mode::Image => from_image(disk)?,
    };
    Ok(RunningSlot { name, disk: disk.identity().clone() })
}

fn from_facts(disk: &Disk) -> Result<SlotName, SlotError> {
    let mut found: Vec<(&str, &SlotName)> = Vec::new();
    for mount_point in SYSTEM_MOUNTS {
        let lineage = disk.view().lineage_of_mount_point(Path::new(mount_point));
        let lineage = lineage.map_err(|e| SlotError::io("find out what lies under", Path::new(mount_point), e))?;
        let lineage = lineage.unwrap_or_default();
        found.extend(disk.targets().iter().filter(|t| rests_on(&lineage, t)).map(|t| (mount_point, &t.slot)));
    }
    let Some((mount_point, slot)) = found.first().copied() else {
        return Err(unknown(format!("neither / nor /usr rests on a slot of {}", disk.device().display())));
    };
    if let Some((other_point, other)) = found.iter().find(|(_, name)| *name != slot) {
        return Err(unknown(format!("{mount_point} rests on slot {slot}, but {other_point} on slot {other}")));
    }
    let line = disk.view().command_line().map_err(|e| SlotError::io("read", Path::new("/proc/cmdline"), e))?;
    for hint in hints(&line, &HINTS) {
        if matches!(hint.name, Name::Slot(_)) && target_of(disk, &hint).is_none() {
            return Err(unknown(not_a_slot(disk, &hint, Path::new("/proc/cmdline"))));
        }
        if let Some(target) = target_of(disk, &hint).filter(|target| target.slot != *slot) {
            return Err(unknown(format!(
                "{mount_point} rests on slot {slot}, but the kernel was started with {}={}, slot {}",
                hint.word, hint.value, target.slot
            )));
        }
    }
    Ok(slot.clone())
}

fn from_image(disk: &Disk) -> Result<SlotName, SlotError> {
    let path = disk.sysroot().join("proc/cmdline");
    let line = read_text(&path, COMMAND_LINE_CAP).map_err(|e| unknown(e.to_string()))?;
    let hints = hints(&line, &IMAGE_HINTS);
    let mut slots = Vec::new();
    for hint in &hints {
        let target = target_of(disk, hint).ok_or_else(|| unknown(not_a_slot(disk, hint, &path)))?;
        slots.push((hint, &target.slot));
    }
    let Some((first, slot)) = slots.first() else {
        return Err(unknown(format!("{} has no root= and no ota.slot=", path.display())));
    };
    match slots.iter().find(|(_, other)| other != slot) {
        None => Ok((*slot).clone()),
        Some((second, other)) => Err(unknown(format!(
            "{} says {}={} (slot {slot}) and {}={} (slot {other})",
            path.display(),
            first.word,
            first.value,
            second.word,
            second.value
        ))),
    }
}

fn not_a_slot(disk: &Disk, hint: &Hint<'_>, path: &Path) -> String {
    let said = format!("{} says {}={}", path.display(), hint.word, hint.value);
    let entries = disk.table().map(crate::boot::gpt::Table::entries).unwrap_or_default();
    let named = entries.iter().find(|entry| match hint.name {
        Name::PartUuid(uuid) => entry.unique_guid == uuid,
        Name::PartLabel(label) => entry.label == label,
        Name::Path(_) | Name::Slot(_) | Name::Other => false,
    });
    match named {
        Some(entry) => format!("{said}, which is the partition \"{}\" of {}, not a slot", entry.label, disk.device().display()),
        None => format!("{said}, which is no slot of {}", disk.device().display()),
    }
}

/// A word of the command line that names a file system, or a slot.
struct Hint<'a> {
    word: &'a str,
    value: &'a str,
    name: Name<'a>,
}

enum Name<'a> {
    PartUuid(Uuid),
    PartLabel(&'a str),
    Path(&'a Path),
    Slot(&'a str),
    Other,
}

fn hints<'a>(line: &'a str, words: &[&str]) -> Vec<Hint<'a>> {
    let wanted = command_line::settings(line).into_iter().filter(|setting| words.contains(&setting.word));
    wanted.map(|Setting { word, value }| Hint { word, value, name: name_in(word, value) }).collect()
}

fn name_in<'a>(word: &str, value: &'a str) -> Name<'a> {
    if word == SLOT_WORD {
        return Name::Slot(value);
    }
    if let Some(uuid) = value.strip_prefix("PARTUUID=") {
        return Uuid::try_parse(uuid).map_or(Name::Other, Name::PartUuid);
    }
    if let Some(label) = value.strip_prefix("PARTLABEL=") {
        return Name::PartLabel(label.trim_matches('"'));
    }
    if value.starts_with('/') { Name::Path(Path::new(value)) } else { Name::Other }
}

/// The one target that a hint names. A GUID that two partitions share names none.
fn target_of<'a>(disk: &'a Disk, hint: &Hint<'_>) -> Option<&'a Target> {
    let entries = disk.table().map(crate::boot::gpt::Table::entries).unwrap_or_default();
    let partition = |target: &&Target, wanted: &dyn Fn(&super::Partition) -> bool| target.partition.as_ref().is_some_and(wanted);
    match hint.name {
        Name::PartUuid(uuid) if entries.iter().filter(|entry| entry.unique_guid == uuid).count() == 1 => {
            disk.targets().iter().find(|target| partition(target, &|p| p.unique_guid == uuid))
        }
        Name::PartLabel(label) if entries.iter().filter(|entry| entry.label == label).count() == 1 => {
            disk.targets().iter().find(|target| partition(target, &|p| p.label == label))
        }
        Name::Path(path) => disk.targets().iter().find(|target| is_path_of(path, target)),
        Name::Slot(name) => disk.targets().iter().find(|target| target.slot.as_str() == name),
        Name::PartUuid(_) | Name::PartLabel(_) | Name::Other => None,
    }
}

/// A path names a target only if it is the target's own device or file, not the disk that holds it.
fn is_path_of(path: &Path, target: &Target) -> bool {
    let own = match &target.place {
        Place::Device { .. } => true,
        Place::Region { .. } => target.partition.is_none(),
        Place::File { .. } => false,
    };
    own && (target.place.path() == path || super::medium::Kind::of_path(path).is_ok_and(|kind| target.is(kind)))
}

fn unknown(why: String) -> SlotError {
    SlotError::RunningUnknown(why)
}
