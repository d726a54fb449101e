//! Which slot holds something: what a folder's files end up on, or bytes of a device.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::SlotError;
use super::disk::{Disk, Mode, Place, Target};
use super::medium::Kind;
use super::system::{DeviceId, Lineage};

/// The target that what is written below `folder` ends up on. In image mode the slots hold no folder of this machine.
pub(super) fn of_folder<'a>(disk: &'a Disk, folder: &Path) -> Result<Option<&'a Target>, SlotError> {
    if disk.mode() == Mode::Image {
        return Ok(None);
    }
    let lineage = disk.view().lineage_of_folder(folder);
    let lineage = lineage.map_err(|e| SlotError::io("find out what lies under", folder, e))?;
    Ok(disk.targets().iter().find(|target| rests_on(&lineage, target)))
}

/// The target that takes any of `length` bytes of a block device or file, from `offset`, which counts from its end if it is negative.
pub(super) fn of_bytes<'a>(disk: &'a Disk, path: &Path, offset: i64, length: u64) -> Result<Option<&'a Target>, SlotError> {
    let io_error = |e| SlotError::io("find out what lies under", path, e);
    match Kind::of_path(path).map_err(io_error)? {
        kind @ Kind::RegularFile { .. } => {
            let size = std::fs::metadata(path).map_err(io_error)?.len();
            let bytes = stretch(offset, length, size);
            let takes = |target: &&Target| {
                matches!(target.place, Place::Region { .. }) && target.is(kind) && overlap(&target.range(), &bytes)
            };
            disk.targets().iter().find(takes).map_or_else(|| of_folder(disk, path), |target| Ok(Some(target)))
        }
        Kind::BlockDevice(device) => of_device(disk, device, offset, length).map_err(io_error),
    }
}

fn of_device(disk: &Disk, device: DeviceId, offset: i64, length: u64) -> io::Result<Option<&Target>> {
    let lineage = disk.view().lineage_of_device(device)?;
    if let Some(target) = disk.targets().iter().find(|target| rests_on(&lineage, target)) {
        return Ok(Some(target));
    }
    let bytes = stretch(offset, length, disk.view().size_bytes(device)?);
    let nodes = disk.view().partitions_of(device)?;
    let touched =
        nodes.iter().filter(|node| overlap(&(node.start_bytes..node.start_bytes.saturating_add(node.size_bytes)), &bytes));
    let touched: Vec<DeviceId> = touched.map(|node| node.device).collect();
    let is_touched = |target: &&Target| matches!(&target.place, Place::Device { device, .. } if touched.contains(device));
    Ok(disk.targets().iter().find(is_touched))
}

fn stretch(offset: i64, length: u64, size: u64) -> Range<u64> {
    let start = if offset < 0 { size.saturating_sub(offset.unsigned_abs()) } else { offset.unsigned_abs() };
    start..start.saturating_add(length)
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Whether a file system with this lineage rests on a target.
pub(super) fn rests_on(lineage: &Lineage, target: &Target) -> bool {
    match &target.place {
        Place::Device { device, .. } => lineage.devices.contains(device),
        Place::Region { .. } => {
            let same = |file: &PathBuf| Kind::of_path(file).is_ok_and(|kind| target.is(kind));
            lineage.files.iter().any(same)
        }
        // What a host runs from is never a file beside others on the ESP.
        Place::File { .. } => false,
    }
}
