//! The log that QEMU's `blklogwrites` keeps of what a guest writes (the format of the kernel's `dm-log-writes`, version 1).
//!
//! ```text
//! first sector   magic u64 · version u64 · number of entries u64 · sector size u32
//! each entry     a sector: sector u64 · sectors u64 · flags u64 (1 flush, 2 FUA, 4 discard, 8 mark) · length u64; then the data
//! ```
//! Little endian. A write with FUA is logged as a write and a flush behind it. The number of entries is brought up to date at flushes
//! only: what a guest wrote after its last one, before it was killed, stands behind the entries that are counted.
//!
//! QEMU's NVMe tells Linux that it knows FUA, and then forgets it: no write of such a log has the flag. The writes of a guest that ask for
//! it are those that end a transaction of ext4's journal, and those of its superblock; they are known by their first bytes, and read as if
//! they had it where they come right after a flush, which is where the guest puts them. Beside other writes they are ordinary ones.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;
/// First word of the blocks of ext4's journal that are not copies.
const JOURNAL_MAGIC: u32 = 0xC03B_3998;
/// Second word of those that are written with FUA: the end of a transaction, both kinds of superblock.
const JOURNAL_FUA: [u32; 3] = [2, 3, 4];
/// More entries than any update makes.
const MAX_ENTRIES: u64 = 1_000_000;

/// A log, open for reading the data of its writes.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    /// What was logged, in order.
    pub entries: Vec<Entry>,
}

/// One request of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Bytes were written.
    Write {
        /// Where on the disk, in bytes.
        at: u64,
        /// How many.
        length: u64,
        /// Where they stand in the log.
        data_at: u64,
    },
    /// Bytes were given up: they read as zeros, or as before.
    Discard {
        /// Where on the disk, in bytes.
        at: u64,
        /// How many.
        length: u64,
    },
    /// Everything before is on the medium.
    Flush,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The system's words.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is no log.
    #[error("at byte {at} of the log: expected {expected}, got {got}")]
    Malformed {
        /// Where.
        at: u64,
        /// What would be right.
        expected: &'static str,
        /// What stands there.
        got: u64,
    },
}

impl WriteLog {
    /// Reads the entries of a log, without their data: those that are counted, and those behind them. The log may be written meanwhile.
    ///
    /// # Errors
    /// If it is none, or cut off.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let file = File::open(path)?;
        let [magic, version, count, sector] = words(&file, 0)?;
        let sector = sector & 0xFFFF_FFFF;
        expect(0, "the magic number of a log", magic, magic == MAGIC)?;
        expect(8, "version 1", version, version == 1)?;
        expect(16, "at most a million entries", count, count <= MAX_ENTRIES)?;
        expect(24, "a sector size of 512 or 4096", sector, sector == 512 || sector == 4096)?;
        let (length, mut entries, mut at) = (file.metadata()?.len(), Vec::new(), sector);
        for number in 0..MAX_ENTRIES {
            if number >= count && at + sector > length {
                break;
            }
            let [first, sectors, flags, _] = words(&file, at)?;
            if number >= count && [first, sectors, flags] == [0; 3] {
                break;
            }
            let (place, length) = (first.saturating_mul(sector), sectors.saturating_mul(sector));
            at += sector;
            let is_write = flags & DISCARD == 0 && length > 0;
            let is_forced = flags & FLUSH != 0 || is_write && ends_transaction(&file, at)?;
            match (flags & DISCARD != 0, length) {
                (true, _) => entries.push(Entry::Discard { at: place, length }),
                (false, 0) => {}
                (false, _) => {
                    entries.push(Entry::Write { at: place, length, data_at: at });
                    at = at.saturating_add(length);
                }
            }
            // Such a write forces nothing but itself. Where others are under way it is taken for an ordinary one: a disk that keeps less.
            let is_alone = entries.iter().rev().take_while(|entry| **entry != Entry::Flush).count() == 1;
            if is_forced && (flags & FLUSH != 0 || is_alone) {
                entries.push(Entry::Flush);
            }
        }
        Ok(Self { file, entries })
    }

    /// The same of a guest that never asked for a flush.
    #[must_use]
    pub fn without_flushes(mut self) -> Self {
        self.entries.retain(|entry| *entry != Entry::Flush);
        self
    }

    /// The bytes of a write.
    ///
    /// # Errors
    /// If the log is cut off.
    pub fn data(&self, data_at: u64, length: u64) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, data_at)?;
        Ok(bytes)
    }
}

fn words(file: &File, at: u64) -> std::io::Result<[u64; 4]> {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, at)?;
    let word = |index: usize| bytes[index * 8..][..8].try_into().map(u64::from_le_bytes).unwrap_or_default();
    Ok([word(0), word(1), word(2), word(3)])
}

fn ends_transaction(file: &File, data_at: u64) -> std::io::Result<bool> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, data_at)?;
    let word = |index: usize| bytes[index * 4..][..4].try_into().map(u32::from_be_bytes).unwrap_or_default();
    Ok(word(0) == JOURNAL_MAGIC && JOURNAL_FUA.contains(&word(1)))
}

const fn expect(at: u64, expected: &'static str, got: u64, holds: bool) -> Result<(), LogError> {
    if holds { Ok(()) } else { Err(LogError::Malformed { at, expected, got }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(words: &[u64]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(512, 0);
        bytes
    }

    fn log(entries: &[(&[u64], usize)]) -> tempfile::NamedTempFile {
        let mut bytes = sector(&[MAGIC, 1, entries.len() as u64, 512]);
        for (words, data) in entries {
            bytes.extend(sector(words));
            bytes.extend(vec![7; *data]);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn writes_flushes_and_discards_are_told_apart() {
        let file = log(&[(&[8, 2, 0, 0], 1024), (&[0, 0, FLUSH, 0], 0), (&[16, 4, DISCARD, 0], 0), (&[9, 1, 3, 0], 512)]);
        let log = WriteLog::open(file.path()).unwrap();
        let expected = [
            Entry::Write { at: 4096, length: 1024, data_at: 1024 },
            Entry::Flush,
            Entry::Discard { at: 8192, length: 2048 },
            Entry::Write { at: 4608, length: 512, data_at: 3584 },
            Entry::Flush,
        ];
        assert_eq!(log.entries, expected);
        assert_eq!(log.data(1024, 1024).unwrap(), vec![7; 1024]);
    }

    #[test]
    fn what_was_written_after_the_last_flush_stands_behind_what_is_counted() {
        let file = log(&[(&[8, 1, 0, 0], 512), (&[0, 0, FLUSH, 0], 0)]);
        let mut bytes = std::fs::read(file.path()).unwrap();
        bytes.extend(sector(&[9, 1, 0, 0]));
        bytes.extend([7; 512]);
        bytes.extend([0; 4096]);
        std::fs::write(file.path(), bytes).unwrap();
        let entries = WriteLog::open(file.path()).unwrap().entries;
        assert_eq!(entries[1..], [Entry::Flush, Entry::Write { at: 4608, length: 512, data_at: 2560 }]);
    }

    #[test]
    fn what_ends_a_transaction_is_on_the_medium() {
        for (kind, is_forced) in [(1_u32, false), (2, true), (4, true), (5, false)] {
            let file = log(&[(&[8, 1, 0, 0], 512), (&[9, 1, 0, 0], 512)]);
            let mut bytes = std::fs::read(file.path()).unwrap();
            bytes[1024..1032].copy_from_slice(&[JOURNAL_MAGIC.to_be_bytes(), kind.to_be_bytes()].concat());
            std::fs::write(file.path(), bytes).unwrap();
            let entries = WriteLog::open(file.path()).unwrap().entries;
            assert_eq!((entries.len() == 3, entries[1] == Entry::Flush), (is_forced, is_forced), "{kind}");
        }
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), sector(&[MAGIC + 1, 1, 0, 512])).unwrap();
        assert!(
            WriteLog::open(file.path()).unwrap_err().to_string().starts_with("at byte 0 of the log: expected the magic number")
        );
        std::fs::write(file.path(), sector(&[MAGIC, 1, 3, 512])).unwrap();
        assert!(matches!(WriteLog::open(file.path()), Err(LogError::Io(_))), "cut off");
    }
}
