//! How much of a log had been written at which time: what happens outside a machine that is recorded gets its place among its writes.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jiff::Timestamp;

use super::sparse;

/// A page that is there may hold no more than its first byte.
const PAGE: u64 = 4096;
/// Between two looks at the length of a log.
const EVERY: Duration = Duration::from_millis(2);

/// Looks at a log as long as it is written.
#[derive(Debug)]
pub struct Watch {
    is_over: Arc<AtomicBool>,
    looks: JoinHandle<io::Result<Lengths>>,
}

/// Lengths of a log, in the order of their times.
#[derive(Debug, Default)]
pub struct Lengths(Vec<(Timestamp, u64)>);

impl Watch {
    /// From now on. The log is begun soon, and grows from its beginning to its end.
    #[must_use]
    pub fn of(log: &Path) -> Self {
        let (log, is_over) = (log.to_owned(), Arc::new(AtomicBool::new(false)));
        let (ended, begun) = (Arc::clone(&is_over), Lengths(vec![(Timestamp::now(), 0)]));
        Self { is_over, looks: thread::spawn(move || look(&log, begun, &ended)) }
    }

    /// What was seen until now.
    ///
    /// # Errors
    /// If the log could not be read.
    pub fn end(self) -> io::Result<Lengths> {
        self.is_over.store(true, Ordering::Relaxed);
        self.looks.join().map_err(|_| io::Error::other("the length of a log was lost"))?
    }
}

fn look(log: &Path, mut lengths: Lengths, is_over: &AtomicBool) -> io::Result<Lengths> {
    while !is_over.load(Ordering::Relaxed) {
        thread::sleep(EVERY);
        let length = match File::open(log) {
            Ok(log) => sparse::first_hole(&log)?.saturating_sub(PAGE),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        if lengths.0.last().is_none_or(|(_, last)| length > *last) {
            lengths.0.push((Timestamp::now(), length));
        }
    }
    Ok(lengths)
}

impl Lengths {
    /// So many bytes of the log at least were written at that time; `None` = it was before the log was begun.
    #[must_use]
    pub fn at(&self, time: Timestamp) -> Option<u64> {
        let known = self.0.partition_point(|(then, _)| *then <= time);
        self.0[..known].last().map(|(_, length)| *length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_length_is_never_more_than_what_was_there_at_that_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let before = Timestamp::now();
        thread::sleep(EVERY);
        let watch = Watch::of(&path);
        let mut log = File::create(&path).unwrap();
        log.set_len(1 << 30).unwrap();
        let mut written = Vec::new();
        for _ in 0..20 {
            log.write_all(&[1; 10_000]).unwrap();
            written.push(Timestamp::now());
            thread::sleep(10 * EVERY);
        }
        let lengths = watch.end().unwrap();
        assert_eq!(lengths.at(before), None);
        for (index, time) in written.iter().enumerate() {
            assert!(lengths.at(*time).unwrap() <= 10_000 * (index as u64 + 1), "{index}: {lengths:?}");
        }
        let last = lengths.at(Timestamp::now()).unwrap();
        assert!((200_000 - 2 * PAGE..=200_000).contains(&last), "{lengths:?}");
    }
}
