//! The text of an entry: two lines of ours that order the entries, then the slot's own lines as they were signed.

use std::collections::BTreeSet;

/// Longest text of an entry. The loader reads more; nobody writes it.
pub(super) const MAX_BYTES: usize = 16 * 1024;
/// Ours, so that our entries stand beside each other and the version decides between them.
pub(super) const SORT_KEY: &str = "ota";
/// What stands between a key and its value.
const BLANKS: [char; 2] = [' ', '\t'];
/// What ends a line.
const ENDS: [char; 2] = ['\n', '\r'];

/// Keys whose value is a file.
const NAMING: [&str; 5] = ["linux", "uki", "initrd", "devicetree", "devicetree-overlay"];

/// The text of an entry of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryText {
    /// How often a slot was armed when this one was.
    pub armings: u64,
    /// The slot's own lines.
    pub own: String,
}

/// Why a text is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// It is not text, or too long.
    #[error("expected a text of at most {MAX_BYTES} bytes, none of them zero")]
    NoText,
    /// It does not begin with the lines that order the entries.
    #[error("line {line}: expected \"{expected}\", got {got:?}")]
    Line {
        /// From 1.
        line: usize,
        /// What would be right.
        expected: &'static str,
        /// What stands there.
        got: String,
    },
    /// The slot's own lines order the entries, which is ours to do.
    #[error("line {line}: \"{key}\" decides which entry is started, which the boot control does: expected none, got {got:?}")]
    Orders {
        /// From 1.
        line: usize,
        /// The key.
        key: String,
        /// The line.
        got: String,
    },
    /// Nothing is started by it.
    #[error("expected one line \"linux PATH\" (a kernel, also one with all it needs in itself) or \"uki PATH\", got {got}")]
    Starts {
        /// The keys.
        got: String,
    },
    /// The loader does not count the boots of such an entry, and would start an image for ever that does not come up.
    #[error(
        "line {line}: systemd-boot does not count the boots of an \"efi\" entry: expected \"linux PATH\", which starts the same file, got {got:?}"
    )]
    NotCounted {
        /// From 1.
        line: usize,
        /// The line.
        got: String,
    },
}

impl EntryText {
    /// An entry of a slot, whose own lines are these.
    ///
    /// # Errors
    /// If they are no lines of an entry, or order the entries.
    pub fn of(own: &[u8], armings: u64) -> Result<Self, EntryError> {
        let own = text(own)?;
        let mut kinds = BTreeSet::new();
        for (index, line) in own.split(ENDS).enumerate() {
            let Some((key, _)) = key_and_value(line) else { continue };
            kinds.extend(Some(key).filter(|key| matches!(*key, "linux" | "uki")));
            if key == "efi" {
                return Err(EntryError::NotCounted { line: index + 1, got: line.to_owned() });
            }
            if matches!(key, "sort-key" | "version" | "machine-id") {
                return Err(EntryError::Orders { line: index + 1, key: key.to_owned(), got: line.to_owned() });
            }
        }
        // Of two kinds the loader takes neither.
        if kinds.len() != 1 {
            let got = if kinds.is_empty() { "none".to_owned() } else { kinds.into_iter().collect::<Vec<_>>().join(" and ") };
            return Err(EntryError::Starts { got });
        }
        Ok(Self { armings, own: own.to_owned() })
    }

    /// Reads an entry of ours, as the loader does: the lines that order it may stand anywhere, and of two the last one counts. All others are the
    /// slot's own.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, EntryError> {
        let whole = text(bytes)?;
        let (mut key, mut version, mut own) = (None, None, String::new());
        for (index, line) in whole.split_inclusive(ENDS).enumerate() {
            match key_and_value(line) {
                Some(("sort-key", value)) => key = Some((index, line, value)),
                Some(("version", value)) => version = Some((index, line, value)),
                _ => own.push_str(line),
            }
        }
        // Where one is missing, what stands in its place.
        let expected = |found: Option<(usize, &str, &str)>, place: usize, expected: &'static str| {
            let (index, got) =
                found.map_or((place, whole.lines().nth(place).unwrap_or_default()), |(index, line, _)| (index, line));
            EntryError::Line { line: index + 1, expected, got: got.trim_end().to_owned() }
        };
        if key.is_none_or(|(_, _, value)| value != SORT_KEY) {
            return Err(expected(key, 0, "sort-key ota"));
        }
        // No sign: to the loader "+7" is another version than "7".
        let digits = version.map(|(_, _, value)| value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
        let armings = digits.and_then(|digits| digits.parse().ok());
        Self::of(own.as_bytes(), armings.ok_or_else(|| expected(version, 1, "version NUMBER"))?)
    }

    /// The files on the partition that it names.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        let lines = self.own.split(ENDS).filter_map(key_and_value);
        lines.filter(|(key, _)| NAMING.contains(key)).map(|(_, value)| value)
    }

    /// As it is written.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("sort-key {SORT_KEY}\nversion {}\n{}", self.armings, self.own)
    }
}

/// What orders an entry of others; `None` = it comes after all that have a key.
pub(super) fn sort_key(text: &str) -> Option<String> {
    let mut keys = text.split(ENDS).filter_map(key_and_value).filter(|(key, _)| *key == "sort-key");
    keys.next_back().map(|(_, value)| value.to_owned())
}

/// A line as the loader reads it; `None` = it passes it over.
fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_matches(ENDS).trim_matches(BLANKS);
    let (key, value) = line.split_once(BLANKS).filter(|_| !line.starts_with('#'))?;
    let value = value.trim_start_matches(BLANKS);
    Some((key, value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)))
}

fn text(bytes: &[u8]) -> Result<&str, EntryError> {
    if bytes.len() > MAX_BYTES {
        return Err(EntryError::NoText);
    }
    // To the loader a zero byte is the end.
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or(EntryError::NoText)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: &str = "title Example 1.1.0\nlinux /ota/b.efi\n";

    #[test]
    fn the_slots_own_lines_stand_behind_those_that_order_the_entries() {
        let entry = EntryText::of(OWN.as_bytes(), 7).unwrap();
        assert_eq!(entry.to_text(), format!("sort-key ota\nversion 7\n{OWN}"));
        assert_eq!(EntryText::parse(entry.to_text().as_bytes()).unwrap(), entry);
    }

    #[test]
    fn what_would_order_the_entries_itself_is_refused() {
        let error = |own: &str| EntryText::of(own.as_bytes(), 1).unwrap_err().to_string();
        assert_eq!(
            error("title x\nversion 9\nlinux /x\n"),
            "line 2: \"version\" decides which entry is started, which the boot control does: expected none, got \"version 9\""
        );
        assert!(error("sort-key zzz\nlinux /x\n").starts_with("line 1: \"sort-key\""));
        let starts = "expected one line \"linux PATH\" (a kernel, also one with all it needs in itself) or \"uki PATH\", got ";
        assert!(error("title x\nefi /x\n").starts_with("line 2: systemd-boot does not count the boots of an \"efi\" entry"));
        assert_eq!(error("title x\n"), format!("{starts}none"));
        assert_eq!(error("linux\n"), format!("{starts}none"), "a key without a value is no line to the loader");
        assert_eq!(error("uki /x\nlinux /x\n"), format!("{starts}linux and uki"));
        assert!(error("title x\rversion 9\nlinux /x\n").starts_with("line 2: \"version\""), "a carriage return ends a line, too");
        assert!(
            error("title\u{a0}x\n\tversion\t9\nlinux /x\n").starts_with("line 2: \"version\""),
            "blanks are what the loader skips"
        );
        assert!(error("linux /x\n\0").contains("none of them zero"));
        assert!(EntryText::of(&[0xFF], 1).is_err() && EntryText::of(&vec![b'\n'; MAX_BYTES + 1], 1).is_err());
    }

    #[test]
    fn an_entry_of_others_is_none_of_ours() {
        let error = |text: &str| EntryText::parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error(OWN), "line 1: expected \"sort-key ota\", got \"title Example 1.1.0\"");
        assert_eq!(error("sort-key debian\nversion 1\n"), "line 1: expected \"sort-key ota\", got \"sort-key debian\"");
        assert_eq!(error("sort-key ota\nversion 6.1\n"), "line 2: expected \"version NUMBER\", got \"version 6.1\"");
        assert_eq!(error("sort-key ota\n"), "line 2: expected \"version NUMBER\", got \"\"");
        assert_eq!(error("sort-key ota\nversion +7\nlinux /x\n"), "line 2: expected \"version NUMBER\", got \"version +7\"");
        let twice = "sort-key ota\nversion 1\nlinux /x\n\nsort-key zz\n";
        assert_eq!(error(twice), "line 5: expected \"sort-key ota\", got \"sort-key zz\"", "the loader takes the last one");
    }

    #[test]
    fn an_entry_that_somebody_edited_is_read_as_the_loader_reads_it() {
        let linux = "title Example 1.1.0\nlinux /ota/b.efi\n";
        for (edited, own) in [
            (format!("# mine\nsort-key ota\nversion 7\n{linux}"), format!("# mine\n{linux}")),
            (format!("{linux}version 7\nsort-key ota\n"), linux.to_owned()),
            (format!("sort-key zz\nversion 1\n{linux}sort-key  ota \n\tversion\t7"), linux.to_owned()),
            (format!("sort-key \"ota\"\nversion 07\nsome thing\n{linux}"), format!("some thing\n{linux}")),
        ] {
            let read = EntryText::parse(edited.as_bytes()).unwrap();
            assert_eq!(read, EntryText { armings: 7, own }, "{edited:?}");
            assert_eq!(EntryText::parse(read.to_text().as_bytes()).unwrap(), read);
        }
        let crlf = "sort-key ota\r\nversion 7\r\nlinux /ota/b.efi\r\n";
        let read = EntryText::parse(crlf.as_bytes()).unwrap();
        assert_eq!((read.armings, read.files().collect::<Vec<_>>()), (7, vec!["/ota/b.efi"]));
        let quoted = EntryText::of(b"#linux /ota/a.efi\nlinux \"/ota/b.efi\"\n", 1).unwrap();
        assert_eq!(quoted.files().collect::<Vec<_>>(), ["/ota/b.efi"]);
        assert_eq!(sort_key("sort-key aa\nlinux /x\nsort-key zz\n").as_deref(), Some("zz"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_entry_that_is_written_as_it_was_read_or_an_error(
            own in "([a-z]{1,6} [ -~]{0,12}\n){0,4}", armings: u64, tail in proptest::collection::vec(any::<u8>(), 0..8)
        ) {
            let bytes = [format!("sort-key ota\nversion {armings}\nlinux /x\n{own}").as_bytes(), &tail].concat();
            if let Ok(entry) = EntryText::parse(&bytes) {
                let written = entry.to_text();
                let orders_again = own.contains("sort-key ") || own.contains("version ") || tail.iter().any(|byte| b"\n\r".contains(byte));
                prop_assert!(orders_again || written.as_bytes() == bytes.as_slice());
                prop_assert_eq!(EntryText::parse(written.as_bytes()), Ok(entry));
            }
        }
    }
}
