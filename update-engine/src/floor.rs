//! The floor: the small file that keeps a host from ever going back below it, whatever happens to the journal.
//!
//! `state_dir/floor`, text, one fact a line, in this order. Its form never changes: a daemon of any age can read it.
//!
//! ```text
//! ota floor v1
//! floor 3
//! highest 12
//! revoked 0123456789abcdef
//! end
//! ```
//!
//! Promises: it only ever rises ([`FloorFile::raised_by`]); it is replaced as a whole (written beside, synced, renamed, folder
//! synced); an unreadable file is an error, never floor 0.

use std::path::{Path, PathBuf};

use manifests::keyring::KeyId;
use manifests::release::Record;
use manifests::version::Sequence;

use crate::durable;
use crate::engine::facts::Floor;

/// Most revoked keys kept. None is ever dropped: a release whose revocations have no room is not installed.
const MAX_REVOKED: usize = 1024;
/// Longest file read.
const MAX_BYTES: u64 = 64 * 1024;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FloorFile {
    /// Floor and highest sequence.
    pub floor: Floor,
    /// Keys that committed releases revoked.
    pub revoked: Vec<KeyId>,
}

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// The system said no.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// It is not a floor file.
    #[error("{path}: line {line}: expected {expected}, got {got:?}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What would be right.
        expected: &'static str,
        /// What stands there.
        got: String,
    },
    /// More revoked keys than it may name.
    #[error(
        "the release revokes {new} keys that are not revoked yet, and there is room for {room}: {MAX_REVOKED} are kept, and none is ever forgotten"
    )]
    Full {
        /// Keys to be added.
        new: usize,
        /// How many could be.
        room: usize,
    },
}

impl FloorFile {
    /// Reads the file; `None` = there is none.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, FloorError> {
        let path = path_in(state_dir);
        match durable::read_capped(&path, MAX_BYTES) {
            Ok(bytes) => Self::parse(&path, &String::from_utf8_lossy(&bytes)).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FloorError::Io { path, source }),
        }
    }

    /// Replaces the file, durably.
    pub fn store(&self, state_dir: &Path) -> Result<(), FloorError> {
        let path = path_in(state_dir);
        durable::replace(&path, self.to_text().as_bytes()).map_err(|source| FloorError::Io { path, source })
    }

    /// What committing `record` makes of it. Nothing ever sinks.
    ///
    /// # Errors
    /// [`FloorError::Full`] if it cannot remember all the keys that the record revokes.
    pub fn raised_by(&self, record: &Record) -> Result<Self, FloorError> {
        let mut revoked = self.revoked.clone();
        for key in &record.revoked_keys {
            if !revoked.contains(key) {
                revoked.push(*key);
            }
        }
        if revoked.len() > MAX_REVOKED {
            let room = MAX_REVOKED.saturating_sub(self.revoked.len());
            return Err(FloorError::Full { new: revoked.len() - self.revoked.len(), room });
        }
        let floor = Floor { floor: self.floor.floor.max(record.not_below), highest: self.floor.highest.max(record.sequence) };
        Ok(Self { floor, revoked })
    }

    fn to_text(&self) -> String {
        let revoked: String = self.revoked.iter().map(|key| format!("revoked {key}\n")).collect();
        format!("ota floor v1\nfloor {}\nhighest {}\n{revoked}end\n", self.floor.floor, self.floor.highest)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, FloorError> {
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let mut file = Self::default();
        expect(path, lines.next(), "\"ota floor v1\"", |line| (line == "ota floor v1").then_some(()))?;
        file.floor.floor = expect(path, lines.next(), "\"floor NUMBER\"", |line| sequence(line, "floor "))?;
        file.floor.highest = expect(path, lines.next(), "\"highest NUMBER\"", |line| sequence(line, "highest "))?;
        for _ in 0..=MAX_REVOKED {
            let key = |line: &str| match line {
                "end" => Some(None),
                _ => line.strip_prefix("revoked ").and_then(KeyId::from_hex).map(Some),
            };
            match expect(path, lines.next(), "\"revoked KEYID\" or \"end\"", key)? {
                Some(key) => file.revoked.push(key),
                None => return expect_nothing(path, lines.next()).map(|()| file),
            }
        }
        Err(malformed(path, MAX_REVOKED + 4, "\"end\"", "too many revoked keys"))
    }
}

/// Reads the running image's own floor file: one number and a newline; none = 0.
pub fn load_image_floor(path: &Path) -> Result<Sequence, FloorError> {
    let bytes = match durable::read_capped(path, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Sequence::ZERO),
        Err(source) => return Err(FloorError::Io { path: path.to_owned(), source }),
    };
    let text = String::from_utf8_lossy(&bytes);
    let number = text.trim().parse().ok().and_then(Sequence::new);
    number.ok_or_else(|| malformed(path, 1, "a sequence number", text.trim()))
}

fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join("floor")
}

fn expect<T>(
    path: &Path,
    line: Option<(usize, &str)>,
    expected: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T, FloorError> {
    let (number, text) = line.unwrap_or((0, ""));
    read(text).ok_or_else(|| malformed(path, number, expected, text))
}

fn expect_nothing(path: &Path, line: Option<(usize, &str)>) -> Result<(), FloorError> {
    line.map_or(Ok(()), |(number, text)| Err(malformed(path, number, "nothing after \"end\"", text)))
}

fn malformed(path: &Path, line: usize, expected: &'static str, got: &str) -> FloorError {
    FloorError::Malformed { path: path.to_owned(), line, expected, got: got.chars().take(80).collect() }
}

fn sequence(line: &str, prefix: &str) -> Option<Sequence> {
    Sequence::new(line.strip_prefix(prefix)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor(floor: u64, highest: u64) -> FloorFile {
        let at = |n| Sequence::new(n).unwrap();
        FloorFile { floor: Floor { floor: at(floor), highest: at(highest) }, revoked: vec![KeyId::from_bytes([7; 8])] }
    }

    #[test]
    fn the_file_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(FloorFile::load(dir.path()).unwrap(), None);
        floor(3, 12).store(dir.path()).unwrap();
        assert_eq!(FloorFile::load(dir.path()).unwrap(), Some(floor(3, 12)));
    }

    #[test]
    fn a_cut_or_foreign_file_is_an_error_and_never_floor_0() {
        let dir = tempfile::tempdir().unwrap();
        let text = floor(3, 12).to_text();
        for length in 0..text.len() - 1 {
            std::fs::write(dir.path().join("floor"), &text[..length]).unwrap();
            let error = FloorFile::load(dir.path()).expect_err(&text[..length]).to_string();
            assert!(error.contains("floor: line"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_no_floor_file_says_where_and_what_was_expected() {
        let cases: [(&[u8], &str); 8] = [
            (b"ota floor v2\n", "line 1: expected \"ota floor v1\", got \"ota floor v2\""),
            (b"ota floor v1\nhighest 3\n", "line 2: expected \"floor NUMBER\", got \"highest 3\""),
            (b"ota floor v1\nfloor -1\n", "line 2: expected \"floor NUMBER\", got \"floor -1\""),
            (b"ota floor v1\nfloor 9007199254740993\n", "line 2: expected \"floor NUMBER\", got \"floor 9007199254740993\""),
            (
                b"ota floor v1\nfloor 3\nhighest 12\nrevoked x\nend\n",
                "line 4: expected \"revoked KEYID\" or \"end\", got \"revoked x\"",
            ),
            (b"ota floor v1\nfloor 3\nhighest 12\nend\nfloor 0\n", "line 5: expected nothing after \"end\", got \"floor 0\""),
            (b"\xFF\xFE\x00", "line 1: expected \"ota floor v1\", got \"\u{fffd}\u{fffd}\\0\""),
            (b"", "line 0: expected \"ota floor v1\", got \"\""),
        ];
        for (bytes, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("floor"), bytes).unwrap();
            let error = FloorFile::load(dir.path()).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{error}");
        }
    }

    #[test]
    fn a_floor_that_cannot_be_read_is_an_error_and_never_floor_0() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("floor")).unwrap();
        assert!(matches!(FloorFile::load(dir.path()), Err(FloorError::Io { .. })));
        assert!(matches!(load_image_floor(&dir.path().join("floor")), Err(FloorError::Io { .. })));
        let long = tempfile::tempdir().unwrap();
        std::fs::write(long.path().join("floor"), vec![b'1'; 64 * 1024 + 1]).unwrap();
        assert!(matches!(FloorFile::load(long.path()), Err(FloorError::Io { .. })));
        // No state folder is no floor file: whether that may be so, the boot table tells.
        assert_eq!(FloorFile::load(&dir.path().join("nowhere")).unwrap(), None);
    }

    fn record(sequence: u64, not_below: u64, revoked: &[u8]) -> Record {
        let mut record = crate::engine::tests::host::record(sequence);
        record.not_below = Sequence::new(not_below).unwrap();
        record.revoked_keys = revoked.iter().map(|byte| KeyId::from_bytes([*byte; 8])).collect();
        record
    }

    #[test]
    fn design_11_3_a_commit_raises_the_floor_and_nothing_sinks_it() {
        let raised = floor(3, 12).raised_by(&record(14, 5, &[])).unwrap();
        assert_eq!(raised.floor, floor(5, 14).floor);
        assert_eq!(raised.raised_by(&record(4, 1, &[])).unwrap(), raised);
    }

    #[test]
    fn design_11_4_revoked_keys_are_remembered_beside_the_floor_and_none_is_ever_dropped() {
        let key = |byte| KeyId::from_bytes([byte; 8]);
        let raised = floor(3, 12).raised_by(&record(14, 5, &[7, 8, 8])).unwrap();
        assert_eq!(raised.revoked, [key(7), key(8)]);
        let dir = tempfile::tempdir().unwrap();
        raised.store(dir.path()).unwrap();
        assert_eq!(FloorFile::load(dir.path()).unwrap(), Some(raised));
        let numbered = |number: usize| KeyId::from_bytes(u64::try_from(number + 1_000_000).unwrap().to_be_bytes());
        let nearly_full = FloorFile { revoked: (1..MAX_REVOKED).map(numbered).collect(), ..floor(3, 12) };
        let full = nearly_full.raised_by(&record(14, 5, &[9])).unwrap();
        assert_eq!((full.revoked.len(), full.revoked.last()), (MAX_REVOKED, Some(&key(9))));
        full.store(dir.path()).unwrap();
        assert_eq!(FloorFile::load(dir.path()).unwrap(), Some(full.clone()));
        assert_eq!(full.raised_by(&record(15, 5, &[9])).unwrap().revoked, full.revoked, "nothing new");
        let error = full.raised_by(&record(15, 5, &[9, 10, 11])).unwrap_err().to_string();
        assert!(error.starts_with("the release revokes 2 keys that are not revoked yet, and there is room for 0"), "{error}");
    }

    #[test]
    fn a_floor_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        floor(3, 12).store(dir.path()).unwrap();
        // What a power cut left beside it is never read.
        std::fs::write(dir.path().join("floor.new"), b"ota floor v1\nfloor 0\n").unwrap();
        assert_eq!(FloorFile::load(dir.path()).unwrap(), Some(floor(3, 12)));
        floor(4, 13).store(dir.path()).unwrap();
        assert_eq!(FloorFile::load(dir.path()).unwrap(), Some(floor(4, 13)));
        assert!(!dir.path().join("floor.new").exists());
    }

    #[test]
    fn the_image_floor_is_one_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floor");
        assert_eq!(load_image_floor(&path).unwrap(), Sequence::ZERO);
        std::fs::write(&path, "17\n").unwrap();
        assert_eq!(load_image_floor(&path).unwrap().get(), 17);
        std::fs::write(&path, "seventeen").unwrap();
        assert!(load_image_floor(&path).is_err());
    }
}
