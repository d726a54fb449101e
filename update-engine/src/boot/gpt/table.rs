//! The GUID partition table as bytes: both copies, checked, and put back unchanged but for what is ours.
//!
//! ```text
//! header, one sector (offsets in bytes, little endian; UEFI 2.10 section 5.3)
//!   0 "EFI PART"   8 revision   12 header size   16 header CRC-32   24 own LBA   32 other copy's LBA
//!  40 first usable LBA   48 last usable LBA   56 disk GUID   72 entries LBA   80 entry count   84 entry size   88 entries CRC-32
//! entry
//!   0 type GUID   16 unique GUID   32 first LBA   40 last LBA (inclusive)   48 attributes   56 name, 36 × UTF-16
//! ```

use std::io;

use uuid::Uuid;

use super::attributes::Attributes;
use super::error::{CopyFault, GptError};

/// The largest array of entries that is read: 8192 entries of 128 bytes. Real disks have 16 KiB.
pub const MAX_ENTRIES_BYTES: u64 = 1 << 20;
/// The sizes of a logical sector in use.
pub const SECTOR_SIZES: [u64; 2] = [512, 4096];

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION_1_0: u32 = 0x0001_0000;
const HEADER_MIN: u32 = 92;
const HEADER_CRC_AT: usize = 16;
const OWN_LBA_AT: usize = 24;
const OTHER_LBA_AT: usize = 32;
const ENTRIES_LBA_AT: usize = 72;
const ENTRIES_CRC_AT: usize = 88;
const ENTRY_MIN: u32 = 128;
const ATTRIBUTES_AT: usize = 48;
const NAME: std::ops::Range<usize> = 56..128;
const PRIMARY_LBA: u64 = 1;
/// Where the primary's entries stand when its header can no longer say so.
const USUAL_ENTRIES_LBA: u64 = 2;

/// Bytes of a disk.
pub trait TableSource {
    /// Size of the disk in bytes.
    fn size_bytes(&self) -> io::Result<u64>;
    /// `length` bytes from `offset`, all of them or an error.
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
}

impl TableSource for [u8] {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(length).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec())
    }
}

/// The fields of a header that decide where things lie.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    header_size: u32,
    own_lba: u64,
    other_lba: u64,
    first_usable: u64,
    last_usable: u64,
    disk_guid: Uuid,
    entries_lba: u64,
    entry_count: u32,
    entry_size: u32,
    entries_crc: u32,
}

/// One valid copy: its header's sector and its entries as they stand on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableCopy {
    header: Header,
    header_sector: Vec<u8>,
    /// Whole sectors, so that bytes between the last entry and the end of its sector are kept.
    entry_sectors: Vec<u8>,
}

/// A used entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// Its place in the table, from 0. Loaders visit entries in this order.
    pub index: u32,
    /// What kind of partition it is.
    pub type_guid: Uuid,
    /// The partition's own GUID (`PARTUUID`).
    pub unique_guid: Uuid,
    /// Where it starts, in bytes from the start of the disk.
    pub start_bytes: u64,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Its name (`PARTLABEL`); characters that are not valid UTF-16 are replaced.
    pub label: String,
    /// Its attribute bits.
    pub attributes: Attributes,
}

/// Both copies of a disk's table, of which at least one is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    sector_size: u64,
    disk_sectors: u64,
    current: TableCopy,
    other: Other,
}

/// Which copy is [`Table::current`], and what became of the other one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Other {
    /// The primary is current, and this is the backup.
    Backup(TableCopy),
    /// The primary is current, the backup is not valid.
    BackupBroken(CopyFault),
    /// The backup is current, because the primary is not valid.
    PrimaryBroken(CopyFault),
}

/// How well a table is protected against the next power cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redundancy {
    /// Both copies are valid and say the same.
    Full,
    /// Both are valid, but their entries differ: a change was cut short. The primary counts.
    CopiesDiffer,
    /// The backup is not valid.
    BackupBroken(CopyFault),
    /// The primary is not valid; the backup counts.
    PrimaryBroken(CopyFault),
}

/// Parses the table of a whole disk given as bytes, finding out its size of sectors.
///
/// # Errors
/// See [`Table::read_any`].
pub fn parse(disk: &[u8]) -> Result<Table, GptError> {
    Table::read_any(disk)
}

impl Table {
    /// Reads the table of a disk whose sector size the table itself has to tell (an image file).
    ///
    /// # Errors
    /// [`GptError::NoValidCopy`] with the faults for 512-byte sectors if there is no table of either size.
    pub fn read_any(source: &(impl TableSource + ?Sized)) -> Result<Self, GptError> {
        let [small, large] = SECTOR_SIZES.map(|sector_size| Self::read(source, sector_size));
        match (small, large) {
            (Ok(_), Ok(_)) => Err(GptError::TwoSectorSizes),
            (Ok(table), Err(_)) | (Err(_), Ok(table)) => Ok(table),
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// Reads the table of a disk with sectors of `sector_size` bytes: the primary if it is valid, else the backup.
    ///
    /// # Errors
    /// If the disk cannot be read, is too small, or has no valid copy.
    pub fn read(source: &(impl TableSource + ?Sized), sector_size: u64) -> Result<Self, GptError> {
        let size_bytes = source.size_bytes().map_err(|source| GptError::Read { offset: 0, length: 0, source })?;
        let disk_sectors = size_bytes / sector_size;
        // Protective MBR, two headers, and at least one sector of entries for each.
        if disk_sectors < 6 || !SECTOR_SIZES.contains(&sector_size) {
            return Err(GptError::DiskSize { size_bytes, sector_size });
        }
        let disk = Geometry { sector_size, disk_sectors };
        let primary = TableCopy::read(source, disk, PRIMARY_LBA);
        let backup = Self::read_backup(source, disk, primary.as_ref().ok());
        let (current, other) = match (primary, backup) {
            (Ok(primary), Ok(backup)) => (primary, Other::Backup(backup)),
            (Ok(primary), Err(fault)) => (primary, Other::BackupBroken(fault)),
            (Err(fault), Ok(backup)) => (backup, Other::PrimaryBroken(fault)),
            (Err(primary), Err(backup)) => return Err(GptError::NoValidCopy { primary, backup }),
        };
        Ok(Self { sector_size, disk_sectors, current, other })
    }

    /// The backup counts only in the last sector: there every reader looks that has no primary, whatever the primary said.
    /// It stands elsewhere where a small image was put on a larger disk, or a disk has grown.
    fn read_backup(
        source: &(impl TableSource + ?Sized),
        disk: Geometry,
        primary: Option<&TableCopy>,
    ) -> Result<TableCopy, CopyFault> {
        let last_lba = disk.last_lba();
        let Some(primary) = primary else { return TableCopy::read(source, disk, last_lba) };
        if primary.header.other_lba != last_lba {
            return Err(CopyFault::NotAtTheEnd { says: primary.header.other_lba, last_lba });
        }
        let backup = TableCopy::read(source, disk, last_lba)?;
        let (ours, theirs) = (&primary.header, &backup.header);
        if ours.disk_guid != theirs.disk_guid {
            return Err(CopyFault::Foreign(theirs.disk_guid));
        }
        if (ours.entry_count, ours.entry_size) != (theirs.entry_count, theirs.entry_size) {
            return Err(CopyFault::EntryShape { count: theirs.entry_count, size: theirs.entry_size });
        }
        if (ours.first_usable, ours.last_usable) != (theirs.first_usable, theirs.last_usable) {
            return Err(CopyFault::Layout("its usable area is another than the primary's"));
        }
        Ok(backup)
    }

    /// Bytes of a logical sector.
    #[must_use]
    pub fn sector_size(&self) -> u64 {
        self.sector_size
    }

    /// The disk's own GUID.
    #[must_use]
    pub fn disk_guid(&self) -> Uuid {
        self.current.header.disk_guid
    }

    /// The bytes of the disk that partitions may take.
    #[must_use]
    pub fn usable_bytes(&self) -> std::ops::Range<u64> {
        let header = &self.current.header;
        header.first_usable * self.sector_size..(header.last_usable + 1) * self.sector_size
    }

    /// How well the table is protected.
    #[must_use]
    pub fn redundancy(&self) -> Redundancy {
        match &self.other {
            Other::Backup(backup) if backup.entry_sectors == self.current.entry_sectors => Redundancy::Full,
            Other::Backup(_) => Redundancy::CopiesDiffer,
            Other::BackupBroken(fault) => Redundancy::BackupBroken(fault.clone()),
            Other::PrimaryBroken(fault) => Redundancy::PrimaryBroken(fault.clone()),
        }
    }

    /// All used entries in the order of the table.
    #[must_use]
    pub fn entries(&self) -> Vec<TableEntry> {
        let size = self.current.entry_bytes();
        let array = self.current.entry_sectors.chunks_exact(size).zip(0..self.current.header.entry_count);
        array.filter_map(|(bytes, index)| self.entry_from(bytes, index)).collect()
    }

    fn entry_from(&self, bytes: &[u8], index: u32) -> Option<TableEntry> {
        let type_guid = guid_at(bytes, 0);
        let (first, last) = (u64_at(bytes, 32), u64_at(bytes, 40));
        if type_guid.is_nil() || last < first || last >= self.disk_sectors {
            return None;
        }
        Some(TableEntry {
            index,
            type_guid,
            unique_guid: guid_at(bytes, 16),
            start_bytes: first * self.sector_size,
            size_bytes: (last - first + 1) * self.sector_size,
            label: label_from(&bytes[NAME]),
            attributes: Attributes::from_bits(u64_at(bytes, ATTRIBUTES_AT)),
        })
    }

    /// The attributes of an entry, used or not.
    ///
    /// # Errors
    /// [`GptError::NoEntry`].
    pub fn attributes(&self, index: u32) -> Result<Attributes, GptError> {
        let at = self.attributes_at(index)?;
        Ok(Attributes::from_bits(u64_at(&self.current.entry_sectors, at)))
    }

    /// The table with other attributes for one entry, in memory: both copies, valid and equal. Nothing reaches the disk.
    ///
    /// # Errors
    /// [`GptError::NoEntry`], or [`GptError::Unrestorable`] if a broken copy has no place to stand.
    pub fn with_attributes(&self, changes: &[(u32, Attributes)]) -> Result<Self, GptError> {
        let mut current = self.current.clone();
        for &(index, attributes) in changes {
            let at = self.attributes_at(index)?;
            current.entry_sectors[at..at + 8].copy_from_slice(&attributes.to_bits().to_le_bytes());
        }
        let (primary, backup) = self.pair(current)?;
        Ok(Self { current: primary, other: Other::Backup(backup), ..*self })
    }

    fn attributes_at(&self, index: u32) -> Result<usize, GptError> {
        let header = &self.current.header;
        let place = usize::try_from(index).ok().and_then(|index| index.checked_mul(self.current.entry_bytes()));
        match place {
            Some(at) if index < header.entry_count => Ok(at + ATTRIBUTES_AT),
            _ => Err(GptError::NoEntry(index)),
        }
    }

    /// The primary and the backup that both carry the entries of `current`, each where it can be written without the other.
    fn pair(&self, current: TableCopy) -> Result<(TableCopy, TableCopy), GptError> {
        let (primary, backup) = self.places(&current)?;
        self.check_apart(&primary, &backup)?;
        Ok((primary, backup))
    }

    /// A copy that is valid stays where it is; one that is not is made anew where every reader looks for it.
    fn places(&self, current: &TableCopy) -> Result<(TableCopy, TableCopy), GptError> {
        let header = &current.header;
        let array_sectors = current.array_sectors(self.sector_size);
        match &self.other {
            Other::Backup(backup) => {
                let (entries_lba, other_lba) = (backup.header.entries_lba, backup.header.other_lba);
                let backup = current.standing_at(backup.header.own_lba, other_lba, entries_lba);
                Ok((current.standing_at(header.own_lba, header.other_lba, header.entries_lba), backup))
            }
            Other::BackupBroken(_) => {
                let last_lba = self.disk_sectors - 1;
                let entries_lba = last_lba.checked_sub(array_sectors).filter(|&lba| lba > header.last_usable);
                let entries_lba = entries_lba.ok_or_else(|| no_room("backup", "between the usable area and the last sector"))?;
                let backup = current.standing_at(last_lba, PRIMARY_LBA, entries_lba);
                Ok((current.standing_at(header.own_lba, last_lba, header.entries_lba), backup))
            }
            Other::PrimaryBroken(_) => {
                if USUAL_ENTRIES_LBA + array_sectors > header.first_usable {
                    return Err(no_room("primary", "between its header and the usable area"));
                }
                let primary = current.standing_at(PRIMARY_LBA, header.own_lba, USUAL_ENTRIES_LBA);
                Ok((primary, current.standing_at(header.own_lba, PRIMARY_LBA, header.entries_lba)))
            }
        }
    }

    /// One copy is written while the other has to stay valid, and no partition may be touched: no two of them share a sector.
    fn check_apart(&self, primary: &TableCopy, backup: &TableCopy) -> Result<(), GptError> {
        let mut taken = Vec::new();
        for (copy, words) in [
            (primary, ["the primary's header", "the primary's entries"]),
            (backup, ["the backup's header", "the backup's entries"]),
        ] {
            let entries = copy.header.entries_lba;
            taken.push((copy.header.own_lba..copy.header.own_lba + 1, words[0].to_owned()));
            taken.push((entries..entries + copy.array_sectors(self.sector_size), words[1].to_owned()));
        }
        for entry in self.entries() {
            let start = entry.start_bytes / self.sector_size;
            taken.push((start..start + entry.size_bytes / self.sector_size, format!("partition {}", entry.index + 1)));
        }
        // Partitions among themselves are not ours to judge: they come after the four ranges of the table.
        for (at, (range, name)) in taken.iter().enumerate().take(4) {
            for (other_range, other_name) in &taken[at + 1..] {
                if range.start < other_range.end && other_range.start < range.end {
                    let sector = range.start.max(other_range.start);
                    return Err(GptError::Overlap { one: name.clone(), other: other_name.clone(), sector });
                }
            }
        }
        Ok(())
    }

    /// The primary copy, if it is valid.
    pub(super) fn primary(&self) -> Option<&TableCopy> {
        (!matches!(self.other, Other::PrimaryBroken(_))).then_some(&self.current)
    }

    /// The backup copy, if it is valid.
    pub(super) fn backup(&self) -> Option<&TableCopy> {
        match &self.other {
            Other::Backup(backup) => Some(backup),
            Other::BackupBroken(_) => None,
            Other::PrimaryBroken(_) => Some(&self.current),
        }
    }
}

#[derive(Clone, Copy)]
struct Geometry {
    sector_size: u64,
    disk_sectors: u64,
}

impl Geometry {
    /// The last sector, where the backup's header belongs.
    fn last_lba(self) -> u64 {
        self.disk_sectors - 1
    }
}

impl TableCopy {
    fn read(source: &(impl TableSource + ?Sized), disk: Geometry, lba: u64) -> Result<Self, CopyFault> {
        let header_sector = read_sectors(source, disk, lba, 1)?;
        let header = Header::parse(&header_sector, lba)?;
        header.check_layout(disk)?;
        let count = header.entries_bytes().div_ceil(disk.sector_size);
        let entry_sectors = read_sectors(source, disk, header.entries_lba, count)?;
        let copy = Self { header, header_sector, entry_sectors };
        let got = copy.entries_checksum();
        if got != copy.header.entries_crc {
            return Err(CopyFault::EntriesChecksum { expected: copy.header.entries_crc, got });
        }
        Ok(copy)
    }

    /// This copy's entries and identity, with a header for another place.
    fn standing_at(&self, own_lba: u64, other_lba: u64, entries_lba: u64) -> Self {
        let entries_crc = self.entries_checksum();
        let mut header_sector = self.header_sector.clone();
        put_u64(&mut header_sector, OWN_LBA_AT, own_lba);
        put_u64(&mut header_sector, OTHER_LBA_AT, other_lba);
        put_u64(&mut header_sector, ENTRIES_LBA_AT, entries_lba);
        put_u32(&mut header_sector, ENTRIES_CRC_AT, entries_crc);
        let crc = header_checksum(&header_sector, self.header.header_size);
        put_u32(&mut header_sector, HEADER_CRC_AT, crc);
        let header = Header { own_lba, other_lba, entries_lba, entries_crc, ..self.header.clone() };
        Self { header, header_sector, entry_sectors: self.entry_sectors.clone() }
    }

    fn entries_checksum(&self) -> u32 {
        let length = usize::try_from(self.header.entries_bytes()).unwrap_or(usize::MAX);
        crc32fast::hash(self.entry_sectors.get(..length).unwrap_or(&self.entry_sectors))
    }

    fn array_sectors(&self, sector_size: u64) -> u64 {
        self.entry_sectors.len() as u64 / sector_size
    }

    fn entry_bytes(&self) -> usize {
        usize::try_from(self.header.entry_size).unwrap_or(usize::MAX)
    }

    /// The sector of the header: its number and bytes.
    pub(super) fn header_sector(&self) -> (u64, &[u8]) {
        (self.header.own_lba, &self.header_sector)
    }

    /// The sectors of the entries: the number of the first, and their bytes.
    pub(super) fn entry_sectors(&self) -> (u64, &[u8]) {
        (self.header.entries_lba, &self.entry_sectors)
    }

    /// The byte range of an entry within [`TableCopy::entry_sectors`].
    pub(super) fn entry_range(&self, index: u32) -> std::ops::Range<usize> {
        let size = self.entry_bytes();
        let start = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(size);
        start..start.saturating_add(size)
    }
}

impl Header {
    fn parse(sector: &[u8], stands: u64) -> Result<Self, CopyFault> {
        if !sector.starts_with(SIGNATURE) {
            return Err(CopyFault::Signature);
        }
        let revision = u32_at(sector, 8);
        if revision != REVISION_1_0 {
            return Err(CopyFault::Revision(revision));
        }
        let header_size = u32_at(sector, 12);
        if header_size < HEADER_MIN || u64::from(header_size) > sector.len() as u64 {
            return Err(CopyFault::HeaderSize(header_size));
        }
        let (expected, got) = (u32_at(sector, HEADER_CRC_AT), header_checksum(sector, header_size));
        if expected != got {
            return Err(CopyFault::HeaderChecksum { expected, got });
        }
        let own_lba = u64_at(sector, OWN_LBA_AT);
        if own_lba != stands {
            return Err(CopyFault::Place { says: own_lba, stands });
        }
        let header = Self {
            header_size,
            own_lba,
            other_lba: u64_at(sector, OTHER_LBA_AT),
            first_usable: u64_at(sector, 40),
            last_usable: u64_at(sector, 48),
            disk_guid: guid_at(sector, 56),
            entries_lba: u64_at(sector, ENTRIES_LBA_AT),
            entry_count: u32_at(sector, 80),
            entry_size: u32_at(sector, 84),
            entries_crc: u32_at(sector, ENTRIES_CRC_AT),
        };
        header.check_entry_shape()?;
        Ok(header)
    }

    fn check_entry_shape(&self) -> Result<(), CopyFault> {
        let (count, size) = (self.entry_count, self.entry_size);
        let shape = size >= ENTRY_MIN && size.is_power_of_two() && count > 0;
        if shape && self.entries_bytes() <= MAX_ENTRIES_BYTES {
            return Ok(());
        }
        Err(CopyFault::EntryShape { count, size })
    }

    /// Writing the array must never reach a header or a partition.
    fn check_layout(&self, disk: Geometry) -> Result<(), CopyFault> {
        let sectors = self.entries_bytes().div_ceil(disk.sector_size);
        let end = self.entries_lba.checked_add(sectors).filter(|&end| end <= disk.disk_sectors);
        let end = end.ok_or(CopyFault::Layout("the entries reach past the end of the disk"))?;
        if self.first_usable > self.last_usable || self.last_usable >= disk.disk_sectors {
            return Err(CopyFault::Layout("the usable area is empty or reaches past the end of the disk"));
        }
        if (self.first_usable..=self.last_usable).contains(&self.own_lba) {
            return Err(CopyFault::Layout("the header lies in the usable area"));
        }
        if self.entries_lba < 2 || self.own_lba >= self.entries_lba && self.own_lba < end {
            return Err(CopyFault::Layout("the entries lie over a header or the boot sector"));
        }
        if self.other_lba >= self.entries_lba && self.other_lba < end {
            return Err(CopyFault::Layout("the entries lie over the other copy's header"));
        }
        if self.entries_lba <= self.last_usable && end > self.first_usable {
            return Err(CopyFault::Layout("the entries lie in the usable area"));
        }
        Ok(())
    }

    fn entries_bytes(&self) -> u64 {
        u64::from(self.entry_count) * u64::from(self.entry_size)
    }
}

fn no_room(copy: &'static str, place: &str) -> GptError {
    GptError::Unrestorable { copy, why: format!("there is no room for its entries {place}") }
}

fn read_sectors(source: &(impl TableSource + ?Sized), disk: Geometry, lba: u64, count: u64) -> Result<Vec<u8>, CopyFault> {
    let outside = || CopyFault::Unreadable(format!("sector {lba} is past the end of the disk"));
    let end = lba.checked_add(count).filter(|&end| end <= disk.disk_sectors).ok_or_else(outside)?;
    let length = usize::try_from((end - lba) * disk.sector_size).map_err(|_| outside())?;
    source.read(lba * disk.sector_size, length).map_err(|error| CopyFault::Unreadable(error.to_string()))
}

/// CRC-32 of the header with its own field taken as zero.
fn header_checksum(sector: &[u8], header_size: u32) -> u32 {
    let length = usize::try_from(header_size).unwrap_or(usize::MAX).min(sector.len());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sector[..HEADER_CRC_AT]);
    hasher.update(&[0; 4]);
    hasher.update(&sector[HEADER_CRC_AT + 4..length]);
    hasher.finalize()
}

fn label_from(name: &[u8]) -> String {
    let units = name.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|&unit| unit != 0).collect();
    String::from_utf16_lossy(&units)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// The first three fields of a GUID on disk are little endian.
fn guid_at(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes_le(array_at(bytes, at))
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::attributes::{Priority, Tries};
    use super::super::fixture::{self, DiskBuilder};
    use super::*;

    #[test]
    fn a_disk_of_either_sector_size_is_read_whole() {
        for sector in [512, 4096] {
            let disk = DiskBuilder::new(sector).bits(1, 0x0123_8000_0000_0004).build();
            let table = parse(&disk).unwrap();
            assert_eq!(table.sector_size(), sector as u64);
            assert_eq!(table.disk_guid(), fixture::disk_guid());
            assert_eq!(table.redundancy(), Redundancy::Full);
            let entries = table.entries();
            let labels: Vec<_> = entries.iter().map(|entry| entry.label.as_str()).collect();
            assert_eq!(labels, ["root-a", "root-b", "state"]);
            assert_eq!(
                entries[1],
                TableEntry {
                    index: 1,
                    type_guid: fixture::type_guid(),
                    unique_guid: fixture::unique_guid(1),
                    start_bytes: 48 * sector as u64,
                    size_bytes: 8 * sector as u64,
                    label: "root-b".to_owned(),
                    attributes: Attributes::from_bits(0x0123_8000_0000_0004),
                }
            );
        }
    }

    #[test]
    fn entry_size_and_count_come_from_the_header() {
        for (count, size) in [(4, 128), (200, 128), (3, 512), (16, 1024)] {
            let disk = DiskBuilder::new(512).entries(count, size).build();
            let table = parse(&disk).unwrap();
            assert_eq!(table.entries().len(), 3, "{count} entries of {size}");
            assert!(matches!(table.attributes(u32::try_from(count).unwrap()), Err(GptError::NoEntry(_))));
            let changed = table.with_attributes(&[(2, Attributes::from_bits(7))]).unwrap();
            assert_eq!(changed.entries()[2].attributes.to_bits(), 7);
        }
    }

    #[test]
    fn the_backup_counts_when_the_primary_is_broken_and_the_other_way_round() {
        let disk = DiskBuilder::new(512).bits(0, 1 << 56).build();
        let last = disk.len() - 512;
        for (broken, from) in [(512 + 20, "primary"), (1024 + 48, "primary"), (last + 20, "backup"), (last - 32 * 512, "backup")]
        {
            let mut disk = disk.clone();
            disk[broken] ^= 0x40;
            let table = parse(&disk).unwrap();
            assert_eq!(table.attributes(0).unwrap().to_bits(), 1 << 56);
            let redundancy = table.redundancy();
            match from {
                "primary" => assert!(matches!(redundancy, Redundancy::PrimaryBroken(_)), "{redundancy:?}"),
                _ => assert!(matches!(redundancy, Redundancy::BackupBroken(_)), "{redundancy:?}"),
            }
        }
    }

    #[test]
    fn each_fault_has_its_words() {
        let good = DiskBuilder::new(512).build();
        let words = |change: &dyn Fn(&mut [u8])| {
            let mut disk = good.clone();
            change(&mut disk[512..1024]);
            let crc = header_checksum(&disk[512..1024], 92);
            put_u32(&mut disk[512..1024], HEADER_CRC_AT, crc);
            match parse(&disk).unwrap().redundancy() {
                Redundancy::PrimaryBroken(fault) => fault.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(words(&|header| header[0] = b'e'), "no \"EFI PART\" signature");
        assert_eq!(words(&|header| put_u32(header, 8, 0x0002_0000)), "revision 0x20000, expected 0x10000");
        assert_eq!(words(&|header| put_u32(header, 12, 513)), "header of 513 bytes, expected 92 up to a sector");
        assert_eq!(words(&|header| put_u64(header, OWN_LBA_AT, 9)), "header says it stands in sector 9, but stands in 1");
        assert_eq!(
            words(&|header| put_u32(header, 84, 100)),
            "128 entries of 100 bytes: expected a size of 128 × 2^n and at most 1048576 bytes in all"
        );
        assert!(words(&|header| put_u32(header, 80, u32::MAX)).starts_with("4294967295 entries of 128 bytes"));
        assert_eq!(words(&|header| put_u64(header, ENTRIES_LBA_AT, u64::MAX)), "the entries reach past the end of the disk");
        assert_eq!(words(&|header| put_u64(header, ENTRIES_LBA_AT, 1)), "the entries lie over a header or the boot sector");
        assert_eq!(words(&|header| put_u64(header, ENTRIES_LBA_AT, 40)), "the entries lie in the usable area");
        assert_eq!(words(&|header| put_u64(header, 40, 0)), "the header lies in the usable area");
        assert_eq!(
            words(&|header| put_u64(header, 48, u64::MAX)),
            "the usable area is empty or reaches past the end of the disk"
        );
        assert!(words(&|header| put_u32(header, ENTRIES_CRC_AT, 5)).contains("entries checksum"));
    }

    #[test]
    fn a_backup_of_another_disk_is_not_taken_for_ours() {
        let mut disk = DiskBuilder::new(512).build();
        let last = disk.len() - 512;
        disk[last + 56] ^= 0xFF;
        let crc = header_checksum(&disk[last..], 92);
        put_u32(&mut disk[last..], HEADER_CRC_AT, crc);
        let table = parse(&disk).unwrap();
        assert!(matches!(table.redundancy(), Redundancy::BackupBroken(CopyFault::Foreign(_))));
    }

    #[test]
    fn disks_without_a_table_say_why() {
        assert_eq!(
            parse(&[]).unwrap_err().to_string(),
            "0 bytes is not the size of a disk with sectors of 512 bytes and a partition table"
        );
        let blank = parse(&vec![0; 65_536]).unwrap_err().to_string();
        assert!(blank.starts_with("neither copy of the GUID partition table is valid"), "{blank}");
    }

    #[test]
    fn a_label_ends_at_its_first_nul_and_garbage_in_it_is_harmless() {
        assert_eq!(label_from(&[b'a', 0, 0, 0, b'b', 0]), "a");
        assert_eq!(label_from(&[0x00, 0xD8, b'b', 0]), "\u{FFFD}b");
    }

    fn put_back(table: &Table, disk: &mut [u8]) {
        for copy in [table.primary().unwrap(), table.backup().unwrap()] {
            for (lba, bytes) in [copy.header_sector(), copy.entry_sectors()] {
                let at = usize::try_from(lba * table.sector_size()).unwrap();
                disk[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }

    proptest! {
        #[test]
        fn encoding_again_is_stable_and_only_our_bits_change(
            large: bool, bits in proptest::array::uniform3(any::<u64>()), priority in 0u8..16, tries in 0u8..16
        ) {
            let builder = bits.iter().enumerate().fold(
                DiskBuilder::new(if large { 4096 } else { 512 }), |builder, (index, bits)| builder.bits(index, *bits));
            let disk = builder.build();
            let table = parse(&disk).unwrap();
            let mut same = disk.clone();
            put_back(&table.with_attributes(&[]).unwrap(), &mut same);
            prop_assert!(same == disk, "rewriting an unchanged table changed bytes");

            let wanted = table.attributes(1).unwrap()
                .with_priority(Priority::new(priority).unwrap()).with_tries(Tries::new(tries).unwrap()).with_success();
            let changed = table.with_attributes(&[(1, wanted)]).unwrap();
            let mut new = disk.clone();
            put_back(&changed, &mut new);
            prop_assert_eq!(&parse(&new).unwrap(), &changed);
            let mut entries = table.entries();
            entries[1].attributes = wanted;
            prop_assert_eq!(parse(&new).unwrap().entries(), entries);
        }

        #[test]
        fn damage_anywhere_gives_an_error_or_a_table_but_never_a_panic(
            large: bool, cut in 0usize..=128 * 512, flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40)
        ) {
            let mut disk = DiskBuilder::new(if large { 4096 } else { 512 }).build();
            for (place, value) in flips {
                let at = place.index(8192.min(disk.len()));
                disk[at] = value;
            }
            disk.truncate(cut * if large { 8 } else { 1 });
            if let Ok(table) = parse(&disk) {
                let _ = table.entries();
                let _ = table.with_attributes(&[(0, Attributes::from_bits(0))]);
            }
        }

        #[test]
        fn a_header_with_any_numbers_and_a_right_checksum_never_panics(
            fields in proptest::collection::vec((8usize..92, any::<u8>()), 1..24), backup: bool
        ) {
            let mut disk = DiskBuilder::new(512).build();
            let start = if backup { disk.len() - 512 } else { 512 };
            let header = &mut disk[start..start + 512];
            for (at, value) in fields {
                header[at] = value;
            }
            let size = u32_at(header, 12).clamp(92, 512);
            let crc = header_checksum(header, size);
            put_u32(header, HEADER_CRC_AT, crc);
            if let Ok(table) = parse(&disk) {
                let _ = table.entries();
                let _ = table.with_attributes(&[(127, Attributes::from_bits(1))]);
            }
        }
    }
}
