//! Making disk images and putting images into their slots, without privileges or other tools.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Error;
use super::gpt::{Gpt, NewEntry, guid_bytes, new_table};

const MIB: u64 = 1 << 20;
/// EFI system partition.
const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// Linux file system data.
const DATA: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

/// A partition of a disk to be made.
#[derive(Clone, Debug)]
pub struct PartitionSpec {
    /// Its name.
    pub label: String,
    /// Its size in bytes; rounded up to whole MiB.
    pub size: u64,
    /// Its GUID; made from its name if there is none.
    pub guid: Option<String>,
}

impl PartitionSpec {
    /// A partition with a GUID made from its name.
    #[must_use]
    pub fn new(label: &str, size: u64) -> Self {
        Self { label: label.to_owned(), size, guid: None }
    }
}

/// A disk to be made.
#[derive(Clone, Debug)]
pub struct DiskSpec {
    /// Bytes of a sector, 512 or 4096.
    pub sector: u64,
    /// Its GUID; a fixed one if there is none.
    pub guid: Option<String>,
    /// Its partitions in their order, of whole MiB each.
    pub partitions: Vec<PartitionSpec>,
    /// Sector where the first one starts; a MiB behind the start if there is none.
    pub first_sector: Option<u64>,
}

/// Makes a new disk image: sparse, all zero but for the two copies of its table. The same specification gives the same bytes.
///
/// # Errors
/// If the file exists, or the specification makes no sense.
pub fn make_disk(path: &Path, spec: &DiskSpec) -> Result<(), Error> {
    if !matches!(spec.sector, 512 | 4096) || spec.partitions.len() > 128 {
        return Err(Error::Disk(format!(
            "sectors of {} bytes and {} partitions: expected 512 or 4096, and at most 128",
            spec.sector,
            spec.partitions.len()
        )));
    }
    let mut entries = Vec::new();
    let mut at = spec.first_sector.map_or(MIB, |sector| sector.saturating_mul(spec.sector));
    for partition in &spec.partitions {
        let end = at + partition.size.max(1).next_multiple_of(MIB);
        entries.push(NewEntry {
            kind: guid_bytes(if partition.label == "ESP" { ESP } else { DATA })?,
            guid: guid_or(partition.guid.as_deref(), &partition.label)?,
            first: at / spec.sector,
            last: end / spec.sector - 1,
            label: partition.label.clone(),
        });
        at = end;
    }
    let size = at + MIB;
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(Error::io("create", path))?;
    file.set_len(size).map_err(Error::io("size", path))?;
    for (at, bytes) in new_table(spec.sector, size / spec.sector, guid_or(spec.guid.as_deref(), "disk")?, &entries) {
        file.write_all_at(&bytes, at).map_err(Error::io("write", path))?;
    }
    file.sync_all().map_err(Error::io("flush", path))
}

/// Puts an image into a partition, and zeroes the first and last MiB of what is left behind it.
///
/// # Errors
/// If it does not fit or cannot be written.
pub fn write_slot(disk: &Path, label: &str, from: &Path) -> Result<u64, Error> {
    let entry = Gpt::open(disk)?.entry(label)?;
    let mut source = File::open(from).map_err(Error::io("open", from))?;
    let size = source.metadata().map_err(Error::io("look at", from))?.len();
    if size > entry.length {
        return Err(Error::Disk(format!("{} has {size} bytes, \"{label}\" has room for {}", from.display(), entry.length)));
    }
    let target = OpenOptions::new().write(true).open(disk).map_err(Error::io("open", disk))?;
    let put = |bytes: &[u8], at: u64| target.write_all_at(bytes, entry.start + at).map_err(Error::io("write", disk));
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let count = source.read(&mut buffer).map_err(Error::io("read", from))?;
        if count == 0 {
            break;
        }
        put(&buffer[..count], at)?;
        at += count as u64;
    }
    for (start, end) in [(at, (at + MIB).min(entry.length)), (at.max(entry.length.saturating_sub(MIB)), entry.length)] {
        put(&vec![0; usize::try_from(end - start).unwrap_or_default()], start)?;
    }
    target.sync_all().map_err(Error::io("flush", disk))?;
    Ok(at)
}

/// A GUID that depends on the name only, so that the same specification gives the same disk.
fn guid_or(given: Option<&str>, name: &str) -> Result<[u8; 16], Error> {
    if let Some(text) = given {
        return guid_bytes(text);
    }
    let digest = Sha256::digest(format!("hostsim partition {name}"));
    let mut guid = [0; 16];
    guid.copy_from_slice(&digest[..16]);
    // Version 4, variant 1: what readers expect to see; on disk the version stands in byte 7.
    guid[7] = guid[7] & 0x0F | 0x40;
    guid[8] = guid[8] & 0x3F | 0x80;
    Ok(guid)
}
