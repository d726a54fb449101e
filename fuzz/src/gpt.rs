//! Partition tables: a table that was read is written back without touching anything else, and at no moment is it lost.

use std::cell::RefCell;
use std::io;

use update_engine::boot::gpt::table::{TableEntry, TableSource};
use update_engine::boot::gpt::write::{Step, TableStore, execute, plan};
use update_engine::boot::gpt::{Attributes, Table, parse};

/// Sectors of the disk: room for both copies of a table with few entries, and for partitions.
const SECTORS: usize = 64;
const HEADER_BYTES: usize = 92;

/// A disk out of a few bytes: one that says which checksums are right, another that says how the copies relate, then both
/// headers, then the entries.
pub fn table(data: &[u8]) {
    let _ = parse(data).map(|table| table.entries());
    let Some(disk) = disk_from(data) else { return };
    let Ok(table) = parse(&disk) else { return };
    check_entries(&table, disk.len() as u64);
    let Ok(mended) = table.with_attributes(&[]) else { return };
    check_change(&disk, &table, &mended);
    for entry in table.entries().iter().take(2) {
        let bits = entry.attributes.to_bits() ^ 0x01ff_0000_0000_0000;
        let changed = table.with_attributes(&[(entry.index, Attributes::from_bits(bits))]).expect("an entry that is there");
        check_change(&disk, &table, &changed);
        let others =
            |entries: Vec<TableEntry>| entries.into_iter().filter(|other| other.index != entry.index).collect::<Vec<_>>();
        assert_eq!(others(changed.entries()), others(table.entries()), "only our bits change");
        assert_eq!(changed.attributes(entry.index).expect("an entry that is there").to_bits(), bits);
    }
}

/// Writes `after` over `before`, step by step, and looks at the disk after each of them.
fn check_change(disk: &[u8], before: &Table, after: &Table) {
    let steps = plan(before, after, &[]).expect("what can be changed can be written");
    let store = Memory(RefCell::new(disk.to_vec()));
    for step in &steps {
        if let Step::Write { offset, bytes } = step {
            check_place(before, *offset, bytes.len() as u64);
        }
        execute(&store, std::slice::from_ref(step)).expect("the place is on the disk");
        let read = parse(&store.0.borrow()).expect("one whole copy is valid at every moment");
        let seen = read.entries();
        assert!(seen == before.entries() || seen == after.entries(), "neither the table before nor the one after");
    }
    let read = parse(&store.0.borrow()).expect("the table that was written");
    assert_eq!(read.entries(), after.entries());
    assert_eq!((read.disk_guid(), read.sector_size()), (before.disk_guid(), before.sector_size()));
    assert_eq!(plan(&read, after, &[]).expect("it was written once"), [], "done twice is the same as done once");
}

/// P2: nothing of a change lies in the boot sector or where partitions may be.
fn check_place(table: &Table, offset: u64, length: u64) {
    let usable = table.usable_bytes();
    assert!(offset >= table.sector_size(), "a write into the boot sector");
    assert!(offset + length <= usable.start || offset >= usable.end, "a write at {offset} into {usable:?}");
}

fn check_entries(table: &Table, disk_bytes: u64) {
    let usable = table.usable_bytes();
    assert!(usable.start < usable.end && usable.end <= disk_bytes);
    for entry in table.entries() {
        assert!(entry.start_bytes.checked_add(entry.size_bytes).is_some_and(|end| end <= disk_bytes), "{entry:?}");
        assert_eq!(table.attributes(entry.index).expect("a listed entry"), entry.attributes);
    }
}

/// Bits of the first byte: 0 sectors of 4096 bytes, 1 and 2 right header checksums (primary, backup), 3 and 4 right entry
/// checksums, 5 the backup's entries are the primary's, 6 the backup's header is made from the primary's.
fn disk_from(data: &[u8]) -> Option<Vec<u8>> {
    let (&[flags, primary_at, backup_at], rest) = data.split_first_chunk()?;
    let (primary, rest) = rest.split_first_chunk::<HEADER_BYTES>()?;
    let (backup, entries) = rest.split_first_chunk::<HEADER_BYTES>()?;
    let is = |bit: u8| flags >> bit & 1 == 1;
    let sector = if is(0) { 4096 } else { 512 };
    let mut disk = vec![0; SECTORS * sector];
    let half = entries.len() / 2;
    let (ours, theirs) = if is(5) { (entries, entries) } else { entries.split_at(half) };
    put(&mut disk, usize::from(primary_at) % SECTORS * sector, ours);
    put(&mut disk, usize::from(backup_at) % SECTORS * sector, theirs);
    put(&mut disk, sector, primary);
    let last = (SECTORS - 1) * sector;
    put(&mut disk, last, if is(6) { primary } else { backup });
    if is(6) {
        disk[last + 24..last + 32].copy_from_slice(&(SECTORS as u64 - 1).to_le_bytes());
        disk[last + 32..last + 40].copy_from_slice(&1_u64.to_le_bytes());
        disk[last + 72..last + 80].copy_from_slice(&(u64::from(backup_at) % SECTORS as u64).to_le_bytes());
    }
    for (at, header_bit, entries_bit) in [(sector, 1, 3), (last, 2, 4)] {
        if is(entries_bit) {
            mend_entries(&mut disk, at, sector);
        }
        if is(header_bit) {
            mend_header(&mut disk, at, sector);
        }
    }
    Some(disk)
}

fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
    let length = bytes.len().min(disk.len().saturating_sub(at));
    disk[at..at + length].copy_from_slice(&bytes[..length]);
}

fn mend_entries(disk: &mut [u8], header: usize, sector: usize) {
    let start = u64_at(disk, header + 72).checked_mul(sector as u64);
    let length = u64::from(u32_at(disk, header + 80)) * u64::from(u32_at(disk, header + 84));
    let range = start.and_then(|start| Some(usize::try_from(start).ok()?..usize::try_from(start.checked_add(length)?).ok()?));
    let Some(crc) = range.and_then(|range| disk.get(range)).map(crc32fast::hash) else { return };
    disk[header + 88..header + 92].copy_from_slice(&crc.to_le_bytes());
}

fn mend_header(disk: &mut [u8], at: usize, sector: usize) {
    let size = usize::try_from(u32_at(disk, at + 12)).expect("32 bits").clamp(HEADER_BYTES, sector);
    disk[at + 16..at + 20].fill(0);
    let crc = crc32fast::hash(&disk[at..at + size]);
    disk[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
}

fn u32_at(disk: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(disk[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(disk: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(disk[at..at + 8].try_into().expect("eight bytes"))
}

/// A disk in memory.
struct Memory(RefCell<Vec<u8>>);

impl TableSource for Memory {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.0.borrow().len() as u64)
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.0.borrow().as_slice().read(offset, length)
    }
}

impl TableStore for Memory {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let mut disk = self.0.borrow_mut();
        let place = disk.get_mut(at..at + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
