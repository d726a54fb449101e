//! A partition table as firmware sees it: both copies, the bits of each entry, and writing them back.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Error;

const ENTRY: usize = 128;
const ENTRIES: usize = 128;
const ARRAY: usize = ENTRY * ENTRIES;
const ATTRIBUTES: std::ops::Range<usize> = 48..56;

/// A partition as it is in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 0.
    pub index: usize,
    /// Its name.
    pub label: String,
    /// Its GUID, in the usual notation.
    pub guid: String,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
    /// The attribute bits.
    pub bits: u64,
}

impl Entry {
    /// Bits 48 to 51.
    #[must_use]
    pub fn priority(&self) -> u64 {
        self.bits >> 48 & 15
    }

    /// Bits 52 to 55.
    #[must_use]
    pub fn tries(&self) -> u64 {
        self.bits >> 52 & 15
    }

    /// Bit 56.
    #[must_use]
    pub fn successful(&self) -> bool {
        self.bits >> 56 & 1 == 1
    }
}

/// The bits of a slot, put together.
#[must_use]
pub fn bits(priority: u64, tries: u64, successful: bool) -> u64 {
    (priority & 15) << 48 | (tries & 15) << 52 | u64::from(successful) << 56
}

/// One copy of the table, as read.
#[derive(Clone, Debug)]
pub struct Copy {
    /// What is wrong with it, if anything.
    pub fault: Option<String>,
    header: Vec<u8>,
    array: Vec<u8>,
    sector: u64,
}

/// A disk image that is open, with its table.
#[derive(Debug)]
pub struct Gpt {
    file: File,
    path: PathBuf,
    sector: u64,
    primary: Copy,
    backup: Copy,
}

impl Gpt {
    /// Opens an image and takes the table editors' lock on it, until this is dropped.
    ///
    /// # Errors
    /// If the file cannot be used, or neither copy is valid.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(Error::io("open", path))?;
        file.lock().map_err(Error::io("lock", path))?;
        Self::read(file, path)
    }

    fn read(file: File, path: &Path) -> Result<Self, Error> {
        let size = file.metadata().map_err(Error::io("look at", path))?.len();
        let mut faults = String::new();
        for sector in [512, 4096] {
            let primary = read_copy(&file, sector, 1);
            let backup_at = if primary.fault.is_none() { number(&primary.header, 32, 8) } else { size / sector - 1 };
            let backup = read_copy(&file, sector, backup_at);
            if primary.fault.is_none() || backup.fault.is_none() {
                return Ok(Self { file, path: path.to_path_buf(), sector, primary, backup });
            }
            for (name, copy) in [("primary", &primary), ("backup", &backup)] {
                let fault = copy.fault.as_deref().unwrap_or_default();
                faults += &format!("; {sector}-byte sectors, {name}: {fault}");
            }
        }
        Err(Error::Disk(format!("{} has no valid partition table{faults}", path.display())))
    }

    /// Bytes of a sector.
    #[must_use]
    pub fn sector(&self) -> u64 {
        self.sector
    }

    /// The first and the second copy.
    #[must_use]
    pub fn copies(&self) -> [&Copy; 2] {
        [&self.primary, &self.backup]
    }

    fn current(&self) -> &Copy {
        if self.primary.fault.is_none() { &self.primary } else { &self.backup }
    }

    /// All partitions, of the first copy if it is valid, else of the second.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.current().entries()
    }

    /// The partition of that name.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn entry(&self, label: &str) -> Result<Entry, Error> {
        let mut named: Vec<Entry> = self.entries().into_iter().filter(|entry| entry.label == label).collect();
        match (named.pop(), named.len()) {
            (Some(entry), 0) => Ok(entry),
            (_, others) => Err(Error::Disk(format!(
                "{} has {} partitions named \"{label}\", expected one",
                self.path.display(),
                if others == 0 { 0 } else { others + 1 }
            ))),
        }
    }

    /// Gives a partition other attribute bits, in both copies on the disk: backup, flush, primary, flush.
    ///
    /// # Errors
    /// If the disk cannot be written.
    pub fn set_bits(&mut self, index: usize, bits: u64) -> Result<(), Error> {
        let mut array = self.current().array.clone();
        array[index * ENTRY..][ATTRIBUTES].copy_from_slice(&bits.to_le_bytes());
        let (own, other) = (number(&self.current().header, 24, 8), number(&self.current().header, 32, 8));
        let sectors = (ARRAY as u64).div_ceil(self.sector);
        let last = own.max(other);
        for (at, twin, entries) in [(last, 1, last - sectors), (1, last, 2)] {
            let header = header_for(&self.current().header, &array, at, twin, entries);
            self.put(entries * self.sector, &array)?;
            self.put(at * self.sector, &header)?;
            self.file.sync_data().map_err(Error::io("flush", &self.path))?;
        }
        self.primary = read_copy(&self.file, self.sector, 1);
        self.backup = read_copy(&self.file, self.sector, last);
        Ok(())
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, at).map_err(Error::io("write", &self.path))
    }

    /// Bytes of a partition.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn read_partition(&self, entry: &Entry, at: u64, length: usize) -> Result<Vec<u8>, Error> {
        let room = usize::try_from(entry.length.saturating_sub(at)).unwrap_or(length);
        let mut bytes = vec![0; length.min(room)];
        self.file.read_exact_at(&mut bytes, entry.start + at).map_err(Error::io("read", &self.path))?;
        Ok(bytes)
    }

    /// The image's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Copy {
    /// The partitions that it names; none if it is not valid.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        if self.fault.is_some() {
            return Vec::new();
        }
        let used = self.array.chunks_exact(ENTRY).enumerate().filter(|(_, entry)| entry[..16].iter().any(|&byte| byte != 0));
        used.map(|(index, entry)| Entry {
            index,
            label: label(&entry[56..]),
            guid: guid_text(&entry[16..32]),
            start: number(entry, 32, 8) * self.sector,
            length: (number(entry, 40, 8) + 1).saturating_sub(number(entry, 32, 8)) * self.sector,
            bits: number(entry, 48, 8),
        })
        .collect()
    }
}

/// Both copies of a table for a disk of `sectors` sectors: bytes and where they go.
#[must_use]
pub fn new_table(sector: u64, sectors: u64, disk_guid: [u8; 16], entries: &[NewEntry]) -> Vec<(u64, Vec<u8>)> {
    let mut array = vec![0; ARRAY];
    for (place, entry) in array.chunks_exact_mut(ENTRY).zip(entries) {
        place[..16].copy_from_slice(&entry.kind);
        place[16..32].copy_from_slice(&entry.guid);
        place[32..40].copy_from_slice(&entry.first.to_le_bytes());
        place[40..48].copy_from_slice(&entry.last.to_le_bytes());
        for (unit, at) in entry.label.encode_utf16().take(36).zip((56..).step_by(2)) {
            place[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
    }
    let array_sectors = (ARRAY as u64).div_ceil(sector);
    let mut blank = vec![0; usize::try_from(sector).unwrap_or(512)];
    blank[..8].copy_from_slice(b"EFI PART");
    blank[8..12].copy_from_slice(&0x0001_0000_u32.to_le_bytes());
    blank[12..16].copy_from_slice(&92_u32.to_le_bytes());
    blank[40..48].copy_from_slice(&(2 + array_sectors).to_le_bytes());
    blank[48..56].copy_from_slice(&(sectors - 2 - array_sectors).to_le_bytes());
    blank[56..72].copy_from_slice(&disk_guid);
    blank[80..84].copy_from_slice(&128_u32.to_le_bytes());
    blank[84..88].copy_from_slice(&128_u32.to_le_bytes());
    let last = sectors - 1;
    let mut pieces = vec![(0, protective_record(sectors))];
    for (at, twin, entries) in [(1, last, 2), (last, 1, last - array_sectors)] {
        pieces.push((at * sector, header_for(&blank, &array, at, twin, entries)));
        pieces.push((entries * sector, array.clone()));
    }
    pieces
}

/// A partition to be made.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Type GUID as on disk.
    pub kind: [u8; 16],
    /// Its own GUID as on disk.
    pub guid: [u8; 16],
    /// First sector.
    pub first: u64,
    /// Last sector.
    pub last: u64,
    /// Its name.
    pub label: String,
}

fn read_copy(file: &File, sector: u64, at: u64) -> Copy {
    let mut copy = Copy { fault: None, header: vec![0; usize::try_from(sector).unwrap_or(512)], array: vec![0; ARRAY], sector };
    copy.fault = fill(file, &mut copy, at).err();
    copy
}

fn fill(file: &File, copy: &mut Copy, at: u64) -> Result<(), String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let place = at.checked_mul(copy.sector).ok_or("lies nowhere")?;
    file.read_exact_at(&mut copy.header, place).map_err(unreadable)?;
    if !copy.header.starts_with(b"EFI PART") {
        return Err("no header".to_owned());
    }
    if number(&copy.header, 12, 4) != 92 {
        return Err("header size is not 92".to_owned());
    }
    if header_sum(&copy.header) != number(&copy.header, 16, 4) {
        return Err("header checksum is wrong".to_owned());
    }
    if number(&copy.header, 24, 8) != at {
        return Err(format!("header belongs to sector {}", number(&copy.header, 24, 8)));
    }
    if (number(&copy.header, 80, 4), number(&copy.header, 84, 4)) != (128, 128) {
        return Err("not 128 entries of 128 bytes".to_owned());
    }
    let entries = number(&copy.header, 72, 8).checked_mul(copy.sector).ok_or("entries lie nowhere")?;
    file.read_exact_at(&mut copy.array, entries).map_err(unreadable)?;
    if u64::from(crc32(&copy.array)) != number(&copy.header, 88, 4) {
        return Err("entries checksum is wrong".to_owned());
    }
    Ok(())
}

/// The header of `model`, for another place and other entries.
fn header_for(model: &[u8], array: &[u8], at: u64, twin: u64, entries: u64) -> Vec<u8> {
    let mut header = model.to_vec();
    header[24..32].copy_from_slice(&at.to_le_bytes());
    header[32..40].copy_from_slice(&twin.to_le_bytes());
    header[72..80].copy_from_slice(&entries.to_le_bytes());
    header[88..92].copy_from_slice(&crc32(array).to_le_bytes());
    let sum = u32::try_from(header_sum(&header)).unwrap_or_default();
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    header
}

fn header_sum(header: &[u8]) -> u64 {
    let mut plain = header[..92].to_vec();
    plain[16..20].fill(0);
    u64::from(crc32(&plain))
}

/// A boot record that tells old tools the disk is in use.
fn protective_record(sectors: u64) -> Vec<u8> {
    let mut record = vec![0; 512];
    let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    record[446..458].copy_from_slice(&[0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0]);
    record[458..462].copy_from_slice(&size.to_le_bytes());
    record[510..].copy_from_slice(&[0x55, 0xAA]);
    record
}

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn label(name: &[u8]) -> String {
    let units: Vec<u16> = name.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    let end = units.iter().position(|&unit| unit == 0).unwrap_or(units.len());
    String::from_utf16_lossy(&units[..end])
}

/// A GUID in the usual notation: the first three groups stand byte-swapped on disk.
fn guid_text(bytes: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let digits: String = order.iter().map(|&at| format!("{:02x}", bytes[at])).collect();
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

/// A GUID as it stands on disk, from the usual notation.
///
/// # Errors
/// If it is not one.
pub fn guid_bytes(text: &str) -> Result<[u8; 16], Error> {
    let digits: String = text.chars().filter(|&c| c != '-').collect();
    let dashes: Vec<usize> = text.char_indices().filter(|(_, c)| *c == '-').map(|(at, _)| at).collect();
    let value = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32 && dashes == [8, 13, 18, 23]);
    let plain = value.ok_or_else(|| Error::Disk(format!("{text:?} is no GUID")))?.to_be_bytes();
    Ok([3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map(|at| plain[at]))
}

/// CRC-32 as in ISO 3309.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| sum >> 8 ^ CRC_OF_BYTE[usize::from(sum.to_le_bytes()[0] ^ byte)])
}

const CRC_OF_BYTE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut sum = byte;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xEDB8_8320 } else { sum >> 1 };
            bit += 1;
        }
        table[byte as usize] = sum;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_guid_is_swapped_to_disk_and_back() {
        let text = "7130c94a-213a-4e5a-8e26-6cce9662f132";
        let bytes = guid_bytes(text).unwrap();
        assert_eq!(bytes[..8], [0x4a, 0xc9, 0x30, 0x71, 0x3a, 0x21, 0x5a, 0x4e]);
        assert_eq!(guid_text(&bytes), text);
        for bad in [
            "",
            "7130c94a213a4e5a8e266cce9662f132",
            "7130c94a-213a-4e5a-8e26-6cce9662f13",
            "x130c94a-213a-4e5a-8e26-6cce9662f132",
        ] {
            assert!(guid_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bits_are_put_together_and_taken_apart() {
        let entry =
            Entry { index: 0, label: String::new(), guid: String::new(), start: 0, length: 0, bits: bits(9, 3, true) | 1 << 60 };
        assert_eq!((entry.priority(), entry.tries(), entry.successful()), (9, 3, true));
        assert_eq!(bits(2, 3, false), 0x0032_0000_0000_0000);
    }
}
