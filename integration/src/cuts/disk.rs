//! A disk as a power cut left it, rebuilt from what it was before and the log of what was written since.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::cut::{Cut, Epoch, SECTOR, epochs};
use super::log::{Entry, WriteLog};

/// A disk that holds everything written before one epoch of a log.
#[derive(Debug)]
pub struct Disk {
    file: File,
    log: WriteLog,
    epochs: Vec<Epoch>,
    /// The epoch whose writes are the next.
    at: usize,
}

/// Bytes that a write covered, for undoing it.
struct Covered {
    at: u64,
    bytes: Vec<u8>,
}

impl Disk {
    /// The disk of this file, which held these bytes when the log was begun. The file is written to.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn new(file: &Path, log: WriteLog) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(file)?;
        let epochs = epochs(&log.entries);
        Ok(Self { file, log, epochs, at: 0 })
    }

    /// Epochs of the log.
    #[must_use]
    pub fn epochs(&self) -> usize {
        self.epochs.len()
    }

    /// Lengths of the writes of an epoch, in bytes.
    #[must_use]
    pub fn lengths(&self, epoch: usize) -> Vec<u64> {
        self.epochs[epoch].iter().map(|index| self.range(*index)).map(|range| range.end - range.start).collect()
    }

    /// The same of every epoch.
    #[must_use]
    pub fn all_lengths(&self) -> Vec<Vec<u64>> {
        (0..self.epochs()).map(|epoch| self.lengths(epoch)).collect()
    }

    /// Writes down what reached the disk before an epoch. Only forwards.
    ///
    /// # Errors
    /// If the file or the log cannot be read or written.
    pub fn advance_to(&mut self, epoch: usize) -> io::Result<()> {
        while self.at < epoch.min(self.epochs.len()) {
            for index in self.epochs[self.at].clone() {
                self.apply(index, u64::MAX)?;
            }
            self.at += 1;
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
    pub fn after<T>(&self, cut: &Cut, look: impl FnOnce(&File) -> T) -> io::Result<T> {
        assert_eq!(cut.epoch, self.at, "the disk is at another epoch");
        let mut covered = Vec::new();
        for (place, index) in self.epochs[cut.epoch].iter().enumerate() {
            if cut.kept[place] {
                let most = cut.torn.filter(|(torn, _)| *torn == place).map_or(u64::MAX, |(_, sectors)| sectors * SECTOR);
                covered.push(self.cover(*index)?);
                self.apply(*index, most)?;
            }
        }
        let seen = look(&self.file);
        for Covered { at, bytes } in covered.into_iter().rev() {
            self.file.write_all_at(&bytes, at)?;
        }
        Ok(seen)
    }

    /// What the bytes of a range depend on after this cut: the last epoch that wrote there before, and the writes of the cut that did. Two
    /// cuts with the same answer have the same bytes there.
    #[must_use]
    pub fn trace(&self, cut: &Cut, range: &Range<u64>) -> Trace {
        let meets = |index: &usize| {
            let written = self.range(*index);
            written.start < range.end && range.start < written.end
        };
        let before = (0..cut.epoch).rev().find(|epoch| self.epochs[*epoch].iter().any(meets));
        let kept = self.epochs[cut.epoch].iter().enumerate().filter(|(place, index)| cut.kept[*place] && meets(index));
        let torn = |place: usize| cut.torn.filter(|(torn, _)| *torn == place).map(|(_, sectors)| sectors);
        Trace { before, kept: kept.map(|(place, index)| (*index, torn(place))).collect() }
    }

    fn range(&self, index: usize) -> Range<u64> {
        match self.log.entries[index] {
            Entry::Write { at, length, .. } | Entry::Discard { at, length } => at..at + length,
            Entry::Flush => 0..0,
        }
    }

    fn cover(&self, index: usize) -> io::Result<Covered> {
        let range = self.range(index);
        let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, range.start)?;
        Ok(Covered { at: range.start, bytes })
    }

    /// What was given up reads as zeros: a disk that keeps it instead is one that the discard has not reached.
    fn apply(&self, index: usize, most: u64) -> io::Result<()> {
        match self.log.entries[index] {
            Entry::Write { at, length, data_at } => self.file.write_all_at(&self.log.data(data_at, length.min(most))?, at),
            Entry::Discard { at, length } => {
                let zeros = vec![0; usize::try_from(length.min(most)).map_err(io::Error::other)?];
                self.file.write_all_at(&zeros, at)
            }
            Entry::Flush => Ok(()),
        }
    }
}

/// See [`Disk::trace`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trace {
    before: Option<usize>,
    kept: Vec<(usize, Option<u64>)>,
}
