//! The one order in which a table is written, so that a reader finds the old table or the new one after any power cut.
//!
//! A disk may lose or reorder any writes since the last flush, and a sector may be torn at 512 bytes. Between two flushes only
//! one copy is ever touched, and only while the other one is valid.

use std::io;
use std::ops::Range;

use super::error::GptError;
use super::table::{Table, TableCopy, TableSource};

/// A disk that a table is written to.
pub trait TableStore: TableSource {
    /// Writes all of `bytes` at `offset`. It may stay in a cache.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Waits until every write before is on the medium.
    fn flush(&self) -> io::Result<()>;
}

/// One step of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes to put at an offset.
    Write {
        /// Where, in bytes from the start of the disk.
        offset: u64,
        /// What: whole sectors.
        bytes: Vec<u8>,
    },
    /// Everything before has to be on the medium before anything after is written.
    Flush,
}

/// The steps from the table as it is on the disk to the one that is wanted; none if they are the same.
///
/// The sectors of the entries in `rewrite` are written even if they do not change (to find out whether the disk can be written).
///
/// # Errors
/// [`GptError::Unrestorable`] if a broken copy has no place to stand.
pub fn plan(before: &Table, after: &Table, rewrite: &[u32]) -> Result<Vec<Step>, GptError> {
    let after = after.with_attributes(&[])?;
    let mut plan = Plan { sector_size: before.sector_size(), rewrite, steps: Vec::new() };
    let (Some(primary), Some(backup)) = (after.primary(), after.backup()) else { return Ok(plan.steps) };
    match before.primary() {
        Some(old) => {
            plan.epoch(before.backup(), backup);
            plan.epoch(Some(old), primary);
        }
        None => {
            let mended = before.with_attributes(&[])?;
            plan.epoch(None, mended.primary().unwrap_or(primary));
            plan.epoch(before.backup(), backup);
            plan.epoch(mended.primary(), primary);
        }
    }
    Ok(plan.steps)
}

/// Carries out the steps. After an error the table reads as before or as after, but which of them is open: read it.
///
/// # Errors
/// Of the first step that fails; nothing after it is done.
pub fn execute(store: &impl TableStore, steps: &[Step]) -> io::Result<()> {
    for step in steps {
        match step {
            Step::Write { offset, bytes } => store.write(*offset, bytes)?,
            Step::Flush => store.flush()?,
        }
    }
    Ok(())
}

struct Plan<'a> {
    sector_size: u64,
    rewrite: &'a [u32],
    steps: Vec<Step>,
}

impl Plan<'_> {
    /// Brings one copy from `old` (unknown when it was not valid) to `new`, and flushes.
    fn epoch(&mut self, old: Option<&TableCopy>, new: &TableCopy) {
        let before = self.steps.len();
        let rewrite = self.rewrite;
        let overlaps = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
        let holds_entry = |sector: &Range<usize>| rewrite.iter().any(|&index| overlaps(&new.entry_range(index), sector));
        self.write_changed(old.map(TableCopy::entry_sectors), new.entry_sectors(), holds_entry);
        self.write_changed(old.map(TableCopy::header_sector), new.header_sector(), |_| !rewrite.is_empty());
        if self.steps.len() > before {
            self.steps.push(Step::Flush);
        }
    }

    /// Writes the sectors that differ from `old`, lie elsewhere than `old`, or are to be rewritten in any case.
    fn write_changed(&mut self, old: Option<(u64, &[u8])>, new: (u64, &[u8]), always: impl Fn(&Range<usize>) -> bool) {
        let (lba, bytes) = new;
        let size = usize::try_from(self.sector_size).unwrap_or(bytes.len());
        let old = old.filter(|(old_lba, old_bytes)| *old_lba == lba && old_bytes.len() == bytes.len());
        for (number, sector) in bytes.chunks(size).enumerate() {
            let range = number * size..number * size + sector.len();
            let is_same = old.is_some_and(|(_, old_bytes)| old_bytes[range.clone()] == *sector);
            if !is_same || always(&range) {
                let offset = lba * self.sector_size + range.start as u64;
                self.steps.push(Step::Write { offset, bytes: sector.to_vec() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::super::attributes::{Attributes, Priority, Tries};
    use super::super::fixture::DiskBuilder;
    use super::super::table::{Redundancy, parse};
    use super::*;

    /// Sectors may be torn at this size, whatever the disk's own.
    const TORN_AT: usize = 512;
    /// Up to this many unflushed pieces all subsets are tried; beyond, every single loss, every prefix, and a fixed sample.
    const EXHAUSTIVE: usize = 10;

    /// Where, and what.
    type Piece = (usize, Vec<u8>);

    /// A disk that remembers its writes between flushes.
    ///
    /// Fault model: when power fails, everything before the last flush is on the medium; of what was written since, any
    /// subset of 512-byte pieces is, in any order.
    struct RecordingDisk {
        base: Vec<u8>,
        epochs: RefCell<Vec<Vec<Piece>>>,
    }

    impl RecordingDisk {
        fn new(base: Vec<u8>) -> Self {
            Self { base, epochs: RefCell::new(vec![Vec::new()]) }
        }

        /// Every state that the disk may be in after a power cut.
        fn crash_states(&self) -> Vec<Vec<u8>> {
            let mut durable = self.base.clone();
            let mut states = vec![durable.clone()];
            for pieces in self.epochs.borrow().iter() {
                for survivors in subsets(pieces.len()) {
                    let mut state = durable.clone();
                    survivors.iter().for_each(|&piece| apply(&mut state, &pieces[piece]));
                    states.push(state);
                }
                pieces.iter().for_each(|piece| apply(&mut durable, piece));
            }
            states
        }

        fn now(&self) -> Vec<u8> {
            let mut disk = self.base.clone();
            self.epochs.borrow().iter().flatten().for_each(|piece| apply(&mut disk, piece));
            disk
        }
    }

    impl TableSource for RecordingDisk {
        fn size_bytes(&self) -> io::Result<u64> {
            Ok(self.base.len() as u64)
        }

        fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
            self.now().as_slice().read(offset, length)
        }
    }

    impl TableStore for RecordingDisk {
        fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            let at = usize::try_from(offset).unwrap();
            let mut epochs = self.epochs.borrow_mut();
            let epoch = epochs.last_mut().unwrap();
            epoch.extend(bytes.chunks(TORN_AT).enumerate().map(|(i, piece)| (at + i * TORN_AT, piece.to_vec())));
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            self.epochs.borrow_mut().push(Vec::new());
            Ok(())
        }
    }

    fn apply(disk: &mut [u8], (at, bytes): &Piece) {
        disk[*at..*at + bytes.len()].copy_from_slice(bytes);
    }

    fn subsets(count: usize) -> Vec<Vec<usize>> {
        if count <= EXHAUSTIVE {
            let pick = |mask: usize| (0..count).filter(|bit| mask >> bit & 1 == 1).collect();
            return (0..1 << count).map(pick).collect();
        }
        let all: Vec<usize> = (0..count).collect();
        let prefixes = (0..=count).map(|end| all[..end].to_vec());
        let without_one = all.iter().map(|lost| all.iter().copied().filter(|piece| piece != lost).collect());
        let only_one = all.iter().map(|&kept| vec![kept]);
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let sample =
            std::iter::repeat_with(|| all.iter().copied().filter(|_| next_random(&mut seed) & 1 == 1).collect::<Vec<_>>());
        let sample: Vec<_> = sample.take(400).collect();
        prefixes.chain(without_one).chain(only_one).chain(sample).collect()
    }

    fn next_random(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed >> 11
    }

    fn armed() -> Attributes {
        Attributes::from_bits(0).with_priority(Priority::new(2).unwrap()).with_tries(Tries::ARMED)
    }

    fn good() -> Attributes {
        Attributes::from_bits(0).with_priority(Priority::LOWEST).with_success()
    }

    /// Both slots change, so that a state which mixes old and new would be seen.
    fn changes() -> [(u32, Attributes); 2] {
        [(0, good()), (1, armed())]
    }

    fn bits(disk: &[u8]) -> Option<Vec<u64>> {
        let table = parse(disk).ok()?;
        Some(table.entries().iter().map(|entry| entry.attributes.to_bits()).collect())
    }

    /// States that read neither as before nor as after.
    fn bad_states(disk: &RecordingDisk) -> (usize, usize) {
        let allowed: BTreeSet<_> = [bits(&disk.base), bits(&disk.now())].into();
        assert!(!allowed.contains(&None));
        let states = disk.crash_states();
        let bad = states.iter().filter(|state| !allowed.contains(&bits(state))).count();
        (bad, states.len())
    }

    fn write_in_order(disk: &RecordingDisk) {
        let before = Table::read_any(disk).unwrap();
        let after = before.with_attributes(&changes()).unwrap();
        execute(disk, &plan(&before, &after, &[]).unwrap()).unwrap();
        let written = Table::read_any(disk).unwrap();
        assert_eq!(written, after);
        assert_eq!(written.redundancy(), Redundancy::Full);
    }

    /// Disks as they may be found: whole, with a broken copy, with copies that differ, of both sector sizes.
    fn disks() -> Vec<(&'static str, Vec<u8>)> {
        let mut found = Vec::new();
        for sector in [512, 4096] {
            let whole = DiskBuilder::new(sector).build();
            let header = sector;
            let backup_header = whole.len() - sector;
            let backup_entries = whole.len() - sector - 16_384;
            let broken = |at: usize| {
                let mut disk = whole.clone();
                disk[at] ^= 1;
                disk
            };
            found.push(("whole", whole.clone()));
            found.push(("primary header broken", broken(header + 30)));
            found.push(("primary entries broken", broken(2 * sector + 48)));
            found.push(("backup header broken", broken(backup_header + 30)));
            found.push(("backup entries broken", broken(backup_entries + 128)));
            let mut wiped = whole.clone();
            wiped[sector..sector * 2 + 16_384].fill(0);
            found.push(("primary wiped", wiped));
            let mut cut_short = whole.clone();
            let newer = DiskBuilder::new(sector).bits(1, 0x003F << 48).build();
            cut_short[backup_entries..].copy_from_slice(&newer[backup_entries..]);
            found.push(("copies differ", cut_short));
            for (name, more) in [("small image on a larger disk", 64), ("disk grown by less than a backup", 3)] {
                let mut grown = whole.clone();
                grown.resize(whole.len() + more * sector, 0);
                found.push((name, grown));
            }
        }
        found
    }

    #[test]
    fn every_crash_state_of_the_ordered_write_reads_as_before_or_as_after() {
        let mut total = 0;
        for (name, base) in disks() {
            let disk = RecordingDisk::new(base);
            write_in_order(&disk);
            let (bad, states) = bad_states(&disk);
            assert_eq!(bad, 0, "{name}: {bad} of {states} states are neither");
            total += states;
        }
        println!("gpt ordered write: {total} crash states of {} disks, 0 bad", disks().len());
        assert!(total > 100);
    }

    /// A planted bug: primary first and no flush in between, as common tools write.
    fn write_carelessly(disk: &RecordingDisk) {
        let before = Table::read_any(disk).unwrap();
        let after = before.with_attributes(&changes()).unwrap();
        for copy in [after.primary().unwrap(), after.backup().unwrap()] {
            for (lba, bytes) in [copy.entry_sectors(), copy.header_sector()] {
                let offset = lba * after.sector_size();
                let size = usize::try_from(after.sector_size()).unwrap();
                for (number, sector) in bytes.chunks(size).enumerate() {
                    let at = offset + (number * size) as u64;
                    if disk.read(at, size).unwrap() != sector {
                        disk.write(at, sector).unwrap();
                    }
                }
            }
        }
        disk.flush().unwrap();
    }

    #[test]
    fn the_same_check_catches_a_writer_without_barriers_and_one_that_mends_nothing() {
        let no_barrier = RecordingDisk::new(DiskBuilder::new(512).build());
        write_carelessly(&no_barrier);
        let (bad, states) = bad_states(&no_barrier);
        println!("gpt planted writer without a barrier: {bad} of {states} crash states bad");
        assert!(bad > 0, "both copies are in flight at once");

        let mut backup_only = DiskBuilder::new(512).build();
        backup_only[512 + 30] ^= 1;
        let backup_first = RecordingDisk::new(backup_only);
        let before = Table::read_any(&backup_first).unwrap();
        let after = before.with_attributes(&changes()).unwrap();
        let steps = plan(&before, &after, &[]).unwrap();
        let first_flush = steps.iter().position(|step| *step == Step::Flush).unwrap();
        execute(&backup_first, &steps[first_flush + 1..]).unwrap();
        assert!(bad_states(&backup_first).0 > 0, "the only valid copy is overwritten first");
    }

    #[test]
    fn only_changed_sectors_are_written_backup_before_primary() {
        let disk = DiskBuilder::new(512).build();
        let before = parse(&disk).unwrap();
        let after = before.with_attributes(&changes()).unwrap();
        let offsets: Vec<_> = plan(&before, &after, &[])
            .unwrap()
            .iter()
            .map(|step| match step {
                Step::Write { offset, bytes } => (*offset / 512, bytes.len()),
                Step::Flush => (0, 0),
            })
            .collect();
        let last = 127;
        assert_eq!(offsets, [(last - 32, 512), (last, 512), (0, 0), (2, 512), (1, 512), (0, 0)]);
        assert_eq!(plan(&after, &after, &[]).unwrap(), []);
    }

    #[test]
    fn a_rewrite_of_an_unchanged_table_touches_the_same_sectors() {
        let disk = DiskBuilder::new(4096).build();
        let before = parse(&disk).unwrap();
        let steps = plan(&before, &before, &[0, 1]).unwrap();
        let store = RecordingDisk::new(disk.clone());
        execute(&store, &steps).unwrap();
        assert_eq!(store.now(), disk);
        assert_eq!(steps.len(), 6, "entries, header, flush, twice: {steps:?}");
    }

    #[test]
    fn a_copy_cut_short_is_brought_into_line_even_if_nothing_else_changes() {
        let (_, disk) = disks().into_iter().find(|(name, _)| *name == "copies differ").unwrap();
        let store = RecordingDisk::new(disk);
        let before = Table::read_any(&store).unwrap();
        assert_eq!(before.redundancy(), Redundancy::CopiesDiffer);
        let same = before.with_attributes(&[]).unwrap();
        execute(&store, &plan(&before, &same, &[]).unwrap()).unwrap();
        assert_eq!(Table::read_any(&store).unwrap().redundancy(), Redundancy::Full);
        assert_eq!(bits(&store.now()), bits(&store.base), "the primary counts");
    }

    #[test]
    fn the_backup_is_brought_to_the_end_of_a_disk_that_is_larger_than_its_table() {
        let small = DiskBuilder::new(512).build();
        let mut grown = small.clone();
        grown.resize(small.len() + 64 * 512, 0);
        let store = RecordingDisk::new(grown.clone());
        let before = Table::read_any(&store).unwrap();
        let Redundancy::BackupBroken(fault) = before.redundancy() else { panic!("{:?}", before.redundancy()) };
        assert_eq!(fault.to_string(), "the primary says it stands in sector 127, but the last sector of the disk is 191");
        execute(&store, &plan(&before, &before, &[]).unwrap()).unwrap();

        let after = Table::read_any(&store).unwrap();
        assert_eq!((after.redundancy(), after.entries()), (Redundancy::Full, before.entries()));
        let mut without_primary = store.now();
        without_primary[512..1024].fill(0);
        assert_eq!(bits(&without_primary), bits(&grown), "found at the end when the primary is lost");
    }

    #[test]
    fn a_partition_where_the_backup_would_go_is_never_written_over() {
        let mut grown = DiskBuilder::new(512).entries(4, 128).build();
        grown.resize(grown.len() + 64 * 512, 0);
        let last = grown.len() / 512 - 1;
        // The third partition reaches, against the rules, past the usable area to the end of the disk.
        grown[1024 + 2 * 128 + 40..][..8].copy_from_slice(&(last as u64).to_le_bytes());
        let entries_crc = crc32fast::hash(&grown[1024..1024 + 4 * 128]);
        grown[512 + 88..512 + 92].copy_from_slice(&entries_crc.to_le_bytes());
        grown[512 + 16..512 + 20].fill(0);
        let header_crc = crc32fast::hash(&grown[512..512 + 92]);
        grown[512 + 16..512 + 20].copy_from_slice(&header_crc.to_le_bytes());
        let table = parse(&grown).unwrap();
        assert_eq!(
            table.with_attributes(&[]).unwrap_err().to_string(),
            "the backup's header and partition 3 both lie on sector 191: a change of the partition table would not be safe; \
             repair the table first"
        );
    }

    #[test]
    fn a_copy_without_a_place_is_refused() {
        let mut disk = DiskBuilder::new(512).build();
        disk.truncate(disk.len() - 512);
        let table = parse(&disk).unwrap();
        assert_eq!(
            table.with_attributes(&[]).unwrap_err().to_string(),
            "the backup copy of the partition table cannot be restored: there is no room for its entries between the usable area and the last sector"
        );
    }
}
