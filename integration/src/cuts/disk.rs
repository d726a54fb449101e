//! A disk as a power cut left it, rebuilt from what it was before and the log of what was written since.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::cut::{Change, Cut, Epoch, SECTOR, Torn, epochs};
use super::log::{Entry, WriteLog};

/// A disk that holds everything written before one epoch of a log, and of that epoch what the cut kept that was looked at last.
#[derive(Debug)]
pub struct Disk {
    file: File,
    log: WriteLog,
    epochs: Vec<Epoch>,
    /// The epoch whose writes are the next.
    at: usize,
    /// Its writes by the bytes they share: those of one group overlap, those of two do not.
    groups: Vec<Group>,
}

/// Writes of an epoch that overlap each other, or one that overlaps none.
#[derive(Debug)]
struct Group {
    /// Their places in the epoch, ascending.
    places: Vec<usize>,
    /// What of them the disk holds, and the bytes that this covered, in the order in which they were.
    held: Vec<(Part, Vec<u8>)>,
}

/// A write that the disk holds: its place in the epoch, and the sectors that it misses.
type Part = (usize, Vec<Range<u64>>);

impl Disk {
    /// The disk of this file, which held these bytes when the log was begun. The file is written to.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn new(file: &Path, log: WriteLog) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(file)?;
        let epochs = epochs(&log.entries);
        let mut disk = Self { file, log, epochs, at: 0, groups: Vec::new() };
        disk.groups = disk.groups_of(0);
        Ok(disk)
    }

    /// Epochs of the log.
    #[must_use]
    pub fn epochs(&self) -> usize {
        self.epochs.len()
    }

    /// Writes of an epoch.
    #[must_use]
    pub fn writes(&self, epoch: usize) -> usize {
        self.epochs.get(epoch).map_or(0, Vec::len)
    }

    /// What each write of this epoch, to which the disk has been advanced, changes of what was there before it; those that touch one of
    /// the `fine` ranges are torn in more ways.
    ///
    /// # Errors
    /// If the file or the log cannot be read or written.
    pub fn changes(&mut self, fine: &[Range<u64>]) -> io::Result<Vec<Change>> {
        let epoch = self.at;
        let mut changes = Vec::new();
        for place in 0..self.writes(epoch) {
            let kept = (0..self.writes(epoch)).map(|other| other < place).collect();
            self.show(&Cut { epoch, kept, torn: None })?;
            let index = self.epochs[epoch][place];
            let (range, new) = (self.range(index), self.bytes_of(index)?);
            let old = self.read(&range)?;
            let sector = usize::try_from(SECTOR).map_err(io::Error::other)?;
            let sectors = (0_u64..).zip(new.chunks(sector).zip(old.chunks(sector)));
            let sectors = sectors.filter(|(_, (new, old))| new != old).map(|(number, _)| number).collect();
            changes.push(Change { sectors, is_fine: fine.iter().any(|fine| meet(fine, &range)) });
        }
        Ok(changes)
    }

    /// Writes down what reached the disk before an epoch. Only forwards.
    ///
    /// # Errors
    /// If the file or the log cannot be read or written.
    pub fn advance_to(&mut self, epoch: usize) -> io::Result<()> {
        while self.at < epoch.min(self.epochs.len()) {
            let all = Cut { epoch: self.at, kept: vec![true; self.writes(self.at)], torn: None };
            self.show(&all)?;
            self.at += 1;
            self.groups = self.groups_of(self.at);
        }
        Ok(())
    }

    /// Shows the disk as this cut leaves it; the disk has to have been advanced to its epoch.
    ///
    /// # Errors
    /// If the file or the log cannot be read or written.
    ///
    /// # Panics
    /// If it is another epoch's.
    pub fn after<T>(&mut self, cut: &Cut, look: impl FnOnce(&Self, &File) -> T) -> io::Result<T> {
        assert_eq!(cut.epoch, self.at, "the disk is at another epoch");
        self.show(cut)?;
        Ok(look(self, &self.file))
    }

    /// Changes only what differs from the cut that was shown last.
    fn show(&mut self, cut: &Cut) -> io::Result<()> {
        let mut groups = std::mem::take(&mut self.groups);
        let done = groups.iter_mut().try_for_each(|group| self.show_group(group, cut));
        self.groups = groups;
        done
    }

    fn show_group(&self, group: &mut Group, cut: &Cut) -> io::Result<()> {
        let missing = |place: usize| match &cut.torn {
            Some(Torn { write, missing }) if *write == place => missing.clone(),
            _ => Vec::new(),
        };
        let wanted = group.places.iter().filter(|place| cut.kept[**place]).map(|place| (*place, missing(*place)));
        let wanted: Vec<Part> = wanted.collect();
        let same = group.held.iter().zip(&wanted).take_while(|((held, _), wanted)| held == *wanted).count();
        for ((place, _), covered) in group.held.drain(same..).rev() {
            self.file.write_all_at(&covered, self.range(self.epochs[cut.epoch][place]).start)?;
        }
        for part in &wanted[same..] {
            let index = self.epochs[cut.epoch][part.0];
            let range = self.range(index);
            let (mut bytes, covered) = (self.bytes_of(index)?, self.read(&range)?);
            for sectors in &part.1 {
                let place = |sector: u64| usize::try_from(sector.saturating_mul(SECTOR)).unwrap_or(usize::MAX).min(bytes.len());
                let gone = place(sectors.start)..place(sectors.end);
                bytes[gone.clone()].copy_from_slice(&covered[gone]);
            }
            self.file.write_all_at(&bytes, range.start)?;
            group.held.push((part.clone(), covered));
        }
        Ok(())
    }

    fn groups_of(&self, epoch: usize) -> Vec<Group> {
        let mut places: Vec<(Range<u64>, usize)> =
            self.epochs.get(epoch).into_iter().flatten().enumerate().map(|(place, index)| (self.range(*index), place)).collect();
        places.sort_by_key(|(range, place)| (range.start, *place));
        let (mut groups, mut end) = (Vec::<Group>::new(), 0);
        for (range, place) in places {
            match groups.last_mut() {
                Some(last) if range.start < end => last.places.push(place),
                _ => groups.push(Group { places: vec![place], held: Vec::new() }),
            }
            end = end.max(range.end);
        }
        groups.iter_mut().for_each(|group| group.places.sort_unstable());
        groups
    }

    /// What the bytes of a range depend on after this cut: the last epoch of which all writes there are, and the writes of the cut. Two cuts
    /// with the same answer have the same bytes there.
    #[must_use]
    pub fn trace(&self, cut: &Cut, range: &Range<u64>) -> Trace {
        let meets = |index: &usize| meet(&self.range(*index), range);
        let torn = |place: usize| cut.torn.as_ref().filter(|torn| torn.write == place).map(|torn| torn.missing.clone());
        let there = self.epochs[cut.epoch].iter().enumerate().filter(|(_, index)| meets(index));
        let (kept, lost): (Vec<_>, Vec<_>) = there.partition(|(place, _)| cut.kept[*place]);
        let kept: Vec<_> = kept.into_iter().map(|(place, index)| (*index, torn(place))).collect();
        // As before the first write of the next epoch.
        if !kept.is_empty() && lost.is_empty() && kept.iter().all(|(_, torn)| torn.is_none()) {
            return Trace { whole: Some(cut.epoch), kept: Vec::new() };
        }
        let whole = (0..cut.epoch).rev().find(|epoch| self.epochs[*epoch].iter().any(meets));
        Trace { whole, kept }
    }

    /// The first write of the log that touches one of these ranges: where on the disk.
    #[must_use]
    pub fn first_write_in(&self, forbidden: &[Range<u64>]) -> Option<Range<u64>> {
        let ranges = (0..self.log.entries.len()).map(|index| self.range(index));
        ranges.into_iter().find(|range| forbidden.iter().any(|forbidden| meet(range, forbidden)))
    }

    /// The cut of an epoch that loses what touches this range, and nothing else.
    #[must_use]
    pub fn all_but(&self, epoch: usize, range: &Range<u64>) -> Cut {
        Cut { epoch, kept: self.epochs[epoch].iter().map(|index| !meet(&self.range(*index), range)).collect(), torn: None }
    }

    fn range(&self, index: usize) -> Range<u64> {
        match self.log.entries[index] {
            Entry::Write { at, length, .. } | Entry::Discard { at, length } => at..at + length,
            Entry::Flush => 0..0,
        }
    }

    fn read(&self, range: &Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    /// What was given up reads as zeros: a disk that keeps it instead is one that the discard has not reached.
    fn bytes_of(&self, index: usize) -> io::Result<Vec<u8>> {
        match self.log.entries[index] {
            Entry::Write { length, data_at, .. } => self.log.data(data_at, length),
            Entry::Discard { length, .. } => Ok(vec![0; usize::try_from(length).map_err(io::Error::other)?]),
            Entry::Flush => Ok(Vec::new()),
        }
    }
}

fn meet(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// See [`Disk::trace`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trace {
    whole: Option<usize>,
    kept: Vec<(usize, Option<Vec<Range<u64>>>)>,
}

#[cfg(test)]
mod tests {
    use super::super::cut::{Dice, random};
    use super::*;

    const LENGTH: u64 = 64 * SECTOR;

    /// What a write fills its sectors with: the next one the same.
    fn byte(number: usize) -> u8 {
        u8::try_from(number / 2).unwrap()
    }

    /// A log of these writes (first sector, sectors), with a flush behind each number of them.
    fn disk(writes: &[(u64, u64)], flush_after: &[usize]) -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().unwrap();
        let (disk, log) = (dir.path().join("disk"), dir.path().join("log"));
        std::fs::write(&disk, vec![0xEE; usize::try_from(LENGTH).unwrap()]).unwrap();
        let sector = |words: &[u64]| {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.resize(512, 0);
            bytes
        };
        let mut bytes = sector(&[0x006a_7366_7773_6872, 1, (writes.len() + flush_after.len()) as u64, 512]);
        for (number, (at, length)) in writes.iter().enumerate() {
            bytes.extend(sector(&[*at, *length, 0, 0]));
            bytes.extend(vec![byte(number); usize::try_from(length * SECTOR).unwrap()]);
            if flush_after.contains(&(number + 1)) {
                bytes.extend(sector(&[0, 0, 1, 0]));
            }
        }
        std::fs::write(&log, bytes).unwrap();
        let disk = Disk::new(&disk, WriteLog::open(&log).unwrap()).unwrap();
        (dir, disk)
    }

    /// What a cut leaves, the plain way: one write after the other on a fresh copy.
    fn plainly(disk: &Disk, writes: &[(u64, u64)], cut: &Cut) -> Vec<u8> {
        let mut bytes = vec![0xEE; usize::try_from(LENGTH).unwrap()];
        let earlier = disk.epochs[..cut.epoch].iter().flatten().map(|index| (*index, None));
        let kept = disk.epochs[cut.epoch].iter().enumerate().filter(|(place, _)| cut.kept[*place]);
        let kept = kept.map(|(place, index)| (*index, cut.torn.as_ref().filter(|torn| torn.write == place)));
        for (index, torn) in earlier.chain(kept) {
            // Entries of the log are writes and flushes.
            let number = disk.log.entries[..index].iter().filter(|entry| **entry != Entry::Flush).count();
            let (at, length) = writes[number];
            for sector in 0..length {
                if !torn.is_some_and(|torn| torn.missing.iter().any(|range| range.contains(&sector))) {
                    let place = usize::try_from((at + sector) * SECTOR).unwrap();
                    bytes[place..place + 512].fill(byte(number));
                }
            }
        }
        bytes
    }

    #[test]
    fn whatever_was_shown_before_a_cut_leaves_what_its_writes_make() {
        let mut dice = Dice::new(3);
        for _ in 0..40 {
            let writes: Vec<(u64, u64)> = (0..12).map(|_| (dice.below(56), 1 + dice.below(8))).collect();
            let (_dir, mut disk) = disk(&writes, &[4]);
            for epoch in 0..2 {
                disk.advance_to(epoch).unwrap();
                let changes = disk.changes(&[]).unwrap();
                for _ in 0..60 {
                    let cut = random(epoch, &changes, &mut dice);
                    let mut got = vec![0; usize::try_from(LENGTH).unwrap()];
                    disk.after(&cut, |_, file| file.read_exact_at(&mut got, 0)).unwrap().unwrap();
                    assert!(got == plainly(&disk, &writes, &cut), "{cut} of {writes:?}");
                }
            }
        }
    }

    #[test]
    fn all_of_an_epoch_is_nothing_of_the_next_one_and_any_other_cut_is_another() {
        let (_dir, disk) = disk(&[(0, 4), (8, 2), (9, 2), (20, 1)], &[2]);
        let all = 0..LENGTH;
        let cut = |epoch, kept: &[bool]| Cut { epoch, kept: kept.to_vec(), torn: None };
        let (one, next) = (cut(0, &[true, true]), cut(1, &[false, false]));
        assert_eq!(disk.trace(&one, &all), disk.trace(&next, &all));
        let torn = Cut { torn: Some(Torn { write: 0, missing: vec![1..2, 3..4] }), ..one.clone() };
        for other in [torn, cut(0, &[true, false]), cut(0, &[false, false]), cut(1, &[true, false]), cut(1, &[true, true])] {
            assert_ne!(disk.trace(&one, &all), disk.trace(&other, &all), "{other}");
        }
        // What was not written there makes no difference there.
        let there = 20 * SECTOR..21 * SECTOR;
        assert_eq!(disk.trace(&cut(1, &[true, false]), &there), disk.trace(&cut(0, &[false, false]), &there));
    }

    #[test]
    fn only_sectors_that_hold_something_else_are_changes() {
        let (_dir, mut disk) = disk(&[(0, 4), (2, 4), (3, 2)], &[]);
        let changes = disk.changes(std::slice::from_ref(&(0..SECTOR))).unwrap();
        assert_eq!(changes[0], Change { sectors: vec![0, 1, 2, 3], is_fine: true });
        assert_eq!(changes[1], Change { sectors: vec![2, 3], is_fine: false }, "two sectors hold the same already");
        assert_eq!(changes[2].sectors, [0, 1]);
    }

    #[test]
    fn a_write_where_none_may_be_is_found() {
        let (_dir, disk) = disk(&[(0, 4), (10, 2)], &[1]);
        assert_eq!(disk.first_write_in(&[4 * SECTOR..10 * SECTOR, 12 * SECTOR..LENGTH]), None);
        assert_eq!(disk.first_write_in(std::slice::from_ref(&(11 * SECTOR..12 * SECTOR))), Some(10 * SECTOR..12 * SECTOR));
    }
}
