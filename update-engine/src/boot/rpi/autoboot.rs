//! `autoboot.txt`, as bytes.
//!
//! ```text
//! …                       lines of others, with the filters they stand behind
//! [all]
//! tryboot_a_b=1           with the flag, too, config.txt is read, and not tryboot.txt
//! boot_partition=2        what is started
//! [tryboot]
//! boot_partition=3        what is started in a boot with the flag
//! #ota a=good b=pending   what the firmware does not have to know
//! ####…                   comments up to the length of the file
//! ```
//!
//! The firmware reads 512 bytes, takes settings in their order, so that a later one counts, and knows three filters: `[all]`, which holds
//! before any other, `[none]`, and `[tryboot]` (Raspberry Pi documentation, `autoboot.txt`). What stands behind another filter is an
//! error here, as it is not known when that would count.

/// Most that the firmware reads.
pub const MAX_FILE_BYTES: usize = 512;
/// Length that a shorter file is given: leaves the firmware room for an end of its own.
pub const FILE_BYTES: usize = 496;
/// Length of a line of comments: the firmware's lines have an end somewhere.
const COMMENT_BYTES: usize = 64;
const MARKS: &str = "#ota ";

/// When a line counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    All,
    Tryboot,
    None,
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Autoboot {
    /// The partition that is started.
    pub partition: Option<u32>,
    /// The one that is started in a boot with the flag.
    pub tryboot_partition: Option<u32>,
    /// Whether with the flag, too, `config.txt` is read.
    pub tryboot_a_b: bool,
    /// Ours, for the slots.
    pub marks: String,
    others: Vec<(Filter, String)>,
}

/// Why bytes are no such file, or cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AutobootError {
    /// The firmware does not read all of it.
    #[error("expected at most {MAX_FILE_BYTES} bytes, which is what the firmware reads, got {got}")]
    TooLong {
        /// Its length.
        got: usize,
    },
    /// Not text.
    #[error("expected text, got something else at byte {at}")]
    NotText {
        /// Where.
        at: usize,
    },
    /// A line that cannot be understood.
    #[error("line {line}: expected {expected}, got \"{}\"", got.escape_debug())]
    Line {
        /// Counted from 1.
        line: usize,
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        got: String,
    },
    /// No room for what has to be said.
    #[error("the lines take {got} bytes, expected at most {max}: lines of others have to be removed")]
    Full {
        /// Bytes that are needed.
        got: usize,
        /// Bytes there are.
        max: usize,
    },
}

impl Autoboot {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is longer than the firmware reads, or it is not clear what the firmware makes of it.
    pub fn parse(bytes: &[u8]) -> Result<Self, AutobootError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(AutobootError::TooLong { got: bytes.len() });
        }
        let text = std::str::from_utf8(said(bytes)).map_err(|error| AutobootError::NotText { at: error.valid_up_to() })?;
        if let Some(at) = text.find('\0') {
            return Err(AutobootError::NotText { at });
        }
        let none = String::new();
        let mut read = Self { partition: None, tryboot_partition: None, tryboot_a_b: false, marks: none, others: Vec::new() };
        let mut filter = Filter::All;
        for (line, number) in text.lines().zip(1..) {
            read.take(line.trim(), &mut filter).map_err(|expected| AutobootError::Line {
                line: number,
                expected,
                got: line.trim().chars().take(32).collect(),
            })?;
        }
        Ok(read)
    }

    fn take(&mut self, line: &str, filter: &mut Filter) -> Result<(), &'static str> {
        if let Some(marks) = line.strip_prefix(MARKS) {
            self.marks = marks.to_owned();
            return Ok(());
        }
        if line.bytes().all(|byte| byte == b'#') {
            return Ok(());
        }
        if line.starts_with('[') {
            *filter = filter_of(line).ok_or("[all], [none] or [tryboot]")?;
            return Ok(());
        }
        match (line.split_once('=').map(|(key, value)| (key.trim(), value.trim())), *filter) {
            (Some(("boot_partition", value)), Filter::All | Filter::Tryboot) => {
                let number = value.parse().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()));
                let number = Some(number.ok_or("boot_partition=NUMBER")?);
                self.tryboot_partition = number;
                if *filter == Filter::All {
                    self.partition = number;
                }
            }
            (Some(("tryboot_a_b", value)), Filter::All | Filter::Tryboot) => {
                self.tryboot_a_b = match value {
                    "0" => false,
                    "1" => true,
                    _ => return Err("tryboot_a_b=0 or tryboot_a_b=1"),
                };
            }
            _ => self.others.push((*filter, line.to_owned())),
        }
        Ok(())
    }

    /// The file as bytes, of exactly this length.
    ///
    /// # Errors
    /// If what has to be said does not fit.
    pub fn to_bytes(&self, length: usize) -> Result<Vec<u8>, AutobootError> {
        let mut text = String::new();
        let mut behind = Filter::All;
        for (filter, line) in &self.others {
            if *filter != behind {
                text.push_str(name_of(*filter));
                behind = *filter;
            }
            text.push_str(line);
            text.push('\n');
        }
        text.push_str("[all]\n");
        if self.tryboot_a_b {
            text.push_str("tryboot_a_b=1\n");
        }
        text.extend(self.partition.map(setting));
        if self.tryboot_partition != self.partition {
            text.push_str("[tryboot]\n");
            text.extend(self.tryboot_partition.map(setting));
        }
        if !self.marks.is_empty() {
            text.push_str(MARKS);
            text.push_str(&self.marks);
            text.push('\n');
        }
        padded(text.as_bytes(), length)
    }
}

fn setting(partition: u32) -> String {
    format!("boot_partition={partition}\n")
}

/// A file that says the same and has this length.
///
/// # Errors
/// If it is longer already.
pub fn padded(bytes: &[u8], length: usize) -> Result<Vec<u8>, AutobootError> {
    let mut padded = said(bytes).to_vec();
    if !padded.is_empty() && padded.len() < length && padded.last() != Some(&b'\n') {
        padded.push(b'\n');
    }
    if padded.len() > length || length > MAX_FILE_BYTES {
        return Err(AutobootError::Full { got: padded.len(), max: length.min(MAX_FILE_BYTES) });
    }
    let said = padded.len();
    padded.resize(length, b'#');
    for (at, byte) in padded[said..].iter_mut().enumerate() {
        if (at + 1) % COMMENT_BYTES == 0 {
            *byte = b'\n';
        }
    }
    if let Some(last) = padded[said..].last_mut() {
        *last = b'\n';
    }
    Ok(padded)
}

/// Without the zeros that stand where a file grew and nothing was written.
fn said(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

fn filter_of(line: &str) -> Option<Filter> {
    [Filter::All, Filter::Tryboot, Filter::None].into_iter().find(|filter| name_of(*filter).trim_end() == line)
}

const fn name_of(filter: Filter) -> &'static str {
    match filter {
        Filter::All => "[all]\n",
        Filter::Tryboot => "[tryboot]\n",
        Filter::None => "[none]\n",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DOCUMENTED: &str = "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n";

    fn read(text: &str) -> Autoboot {
        Autoboot::parse(text.as_bytes()).unwrap()
    }

    fn written(file: &Autoboot) -> String {
        String::from_utf8(file.to_bytes(FILE_BYTES).unwrap()).unwrap()
    }

    fn partitions(text: &str) -> (Option<u32>, Option<u32>) {
        let file = read(text);
        (file.partition, file.tryboot_partition)
    }

    fn error(bytes: &[u8]) -> String {
        Autoboot::parse(bytes).unwrap_err().to_string()
    }

    #[test]
    fn the_documented_file_is_read_and_written_with_comments_behind_it() {
        let file = read(DOCUMENTED);
        assert_eq!((file.partition, file.tryboot_partition, file.tryboot_a_b), (Some(2), Some(3), true));
        let text = written(&file);
        assert_eq!(text.len(), FILE_BYTES);
        let comments = text.strip_prefix(DOCUMENTED).unwrap();
        assert!(comments.lines().all(|line| line.bytes().all(|byte| byte == b'#') && line.len() < 64), "{comments}");
        assert!(text.ends_with('\n'));
        assert_eq!(read(&text), file);
    }

    #[test]
    fn a_later_setting_counts_and_each_filter_holds_until_the_next() {
        assert_eq!(partitions(""), (None, None));
        assert_eq!(partitions("boot_partition=2"), (Some(2), Some(2)));
        assert_eq!(partitions(" boot_partition = 2 \r\n[tryboot]\r\nboot_partition=3\r\n"), (Some(2), Some(3)));
        assert_eq!(partitions("[tryboot]\nboot_partition=3\n[all]\nboot_partition=2\n"), (Some(2), Some(2)));
        assert_eq!(partitions("boot_partition=2\n[none]\nboot_partition=4\n[tryboot]\n[all]\n"), (Some(2), Some(2)));
        assert_eq!(partitions("[tryboot]\nboot_partition=3\n"), (None, Some(3)));
        assert!(read("[tryboot]\ntryboot_a_b=1").tryboot_a_b && !read("tryboot_a_b=1\ntryboot_a_b=0").tryboot_a_b);
    }

    #[test]
    fn lines_of_others_stay_behind_their_filters_and_before_ours() {
        let file = read(
            "# note\nx=1\n[none]\nboot_partition=9\n[tryboot]\n# try\nboot_partition=3\n[all]\nboot_partition=2\n#ota a=good\n",
        );
        let text = written(&file);
        let ours = "[all]\nboot_partition=2\n#ota a=good\n";
        assert!(text.starts_with(&format!("# note\nx=1\n[none]\nboot_partition=9\n[tryboot]\n# try\n{ours}###")), "{text}");
        assert_eq!((read(&text), written(&read(&text))), (file, text));
    }

    #[test]
    fn a_file_that_grew_and_was_not_written_says_what_it_said() {
        for said in [DOCUMENTED, "boot_partition=2", ""] {
            let mut grown = said.as_bytes().to_vec();
            grown.resize(FILE_BYTES, 0);
            assert_eq!(Autoboot::parse(&grown).unwrap(), read(said));
            let padded = padded(said.as_bytes(), FILE_BYTES).unwrap();
            assert_eq!((padded.len(), Autoboot::parse(&padded).unwrap()), (FILE_BYTES, read(said)));
            assert!(padded.starts_with(said.as_bytes()));
        }
    }

    #[test]
    fn what_the_firmware_may_understand_otherwise_is_an_error() {
        assert_eq!(error(&[b'#'; 513]), "expected at most 512 bytes, which is what the firmware reads, got 513");
        assert_eq!(error(b"ab\xFF"), "expected text, got something else at byte 2");
        assert_eq!(error(b"ab\0\0c"), "expected text, got something else at byte 2");
        assert_eq!(error(b"[all]\n[pi4]\n"), "line 2: expected [all], [none] or [tryboot], got \"[pi4]\"");
        for value in ["", "two", "-1", "+2", "4294967296"] {
            assert_eq!(
                error(format!("\nboot_partition={value}").as_bytes()),
                format!("line 2: expected boot_partition=NUMBER, got \"boot_partition={value}\"")
            );
        }
        assert_eq!(error(b"tryboot_a_b=yes"), "line 1: expected tryboot_a_b=0 or tryboot_a_b=1, got \"tryboot_a_b=yes\"");
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let file = read(&format!("# {}\n{DOCUMENTED}", "x".repeat(300)));
        let got = 303 + DOCUMENTED.len();
        assert_eq!(file.to_bytes(got).unwrap().len(), got);
        assert_eq!(
            file.to_bytes(got - 1).unwrap_err().to_string(),
            format!("the lines take {got} bytes, expected at most {}: lines of others have to be removed", got - 1)
        );
        assert_eq!(
            file.to_bytes(513).unwrap_err().to_string(),
            format!("the lines take {got} bytes, expected at most 512: lines of others have to be removed")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_file_or_an_error_and_what_is_written_says_the_same(
            text in "((\\[(all|none|tryboot)\\]|boot_partition=[0-9]{1,2}|tryboot_a_b=[01]|#ota [a-z=]{1,8}|[ -~]{0,12})\n){0,10}"
        ) {
            if let Ok(file) = Autoboot::parse(text.as_bytes()) {
                let bytes = file.to_bytes(FILE_BYTES).unwrap();
                prop_assert_eq!(bytes.len(), FILE_BYTES);
                let again = Autoboot::parse(&bytes).unwrap();
                prop_assert_eq!(again.to_bytes(FILE_BYTES).unwrap(), bytes);
                // A partition for the flag alone cannot be taken back by saying nothing.
                prop_assert_eq!(&again, &file);
            }
        }

        #[test]
        fn any_bytes_are_a_file_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..520)) {
            let _any = Autoboot::parse(&bytes);
        }
    }
}
