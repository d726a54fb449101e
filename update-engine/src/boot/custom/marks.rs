//! The file of what the program cannot tell: `state_dir/boot-marks`.
//!
//! Text, one fact a line, in this order, at most [`MAX_BYTES`]; slots by their names, in the order in which they are configured:
//!
//! ```text
//! ota boot v1
//! primary a                the slot that is started when none is on trial
//! ever-armed yes           or no
//! open none                or a slot that is about to be made primary, or another one instead of it
//! slot a good              none, good, bad, armed good, armed bad: what get-state said when it was armed
//! slot b armed good
//! end
//! ```

use std::fmt::Write as _;
use std::str::Lines;

use crate::slot::SlotName;

/// Longest file that is read.
pub const MAX_BYTES: u64 = 4096;

const FIRST_LINE: &str = "ota boot v1";

/// What `get-state` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The loader may start it.
    Good,
    /// It may not.
    Bad,
}

impl Said {
    /// The program's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
        }
    }

    /// From the program's word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Good, Self::Bad].into_iter().find(|said| said.as_str() == word)
    }
}

/// What is known of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mark {
    /// Nothing, or it was disarmed.
    #[default]
    None,
    /// It showed that it is healthy.
    Good,
    /// It ran, and was judged unhealthy.
    Bad,
    /// It was made primary.
    Armed {
        /// What the program said of it then.
        seen: Said,
    },
}

/// The file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Marks {
    /// The slot, 0 or 1, that is started when none is on trial.
    pub primary: usize,
    /// A slot was armed at some time.
    pub was_armed: bool,
    /// The slot that is about to be made primary, or another one instead of it.
    pub open: Option<usize>,
    /// Of the slots in the order in which they are configured.
    pub marks: [Mark; 2],
}

/// Why text is not such a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}, got {got:?}")]
pub struct MarksError {
    /// From 1.
    pub line: usize,
    /// What would be right.
    pub expected: String,
    /// What stands there.
    pub got: String,
}

impl Marks {
    /// Reads the file of these slots.
    ///
    /// # Errors
    /// If a line is not what it has to be. A file of another version says so in its first line.
    pub fn parse(text: &str, slots: &[SlotName; 2]) -> Result<Self, MarksError> {
        let mut reader = Reader { lines: text.lines(), line: 0, slots };
        reader.exactly(FIRST_LINE, "\"ota boot v1\" (another version of this program wrote it)")?;
        let marks = Self {
            primary: reader.slot("primary ")?,
            was_armed: reader.choice("ever-armed ", &[("yes", true), ("no", false)])?,
            open: reader.open()?,
            marks: [reader.mark(0)?, reader.mark(1)?],
        };
        reader.exactly("end", "\"end\"")?;
        reader.nothing_more()?;
        Ok(marks)
    }

    /// As the file says it.
    #[must_use]
    pub fn to_text(&self, slots: &[SlotName; 2]) -> String {
        let name = |slot: usize| slots[slot.min(1)].as_str();
        let ever = if self.was_armed { "yes" } else { "no" };
        let open = self.open.map_or("none", name);
        let mut text = format!("{FIRST_LINE}\nprimary {}\never-armed {ever}\nopen {open}\n", name(self.primary));
        for (slot, mark) in self.marks.iter().enumerate() {
            // Writing to a text cannot fail.
            let _written = writeln!(text, "slot {} {}", name(slot), mark.as_str());
        }
        text + "end\n"
    }
}

impl Mark {
    const ALL: [Self; 5] = [Self::None, Self::Good, Self::Bad, Self::Armed { seen: Said::Good }, Self::Armed { seen: Said::Bad }];

    const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Armed { seen: Said::Good } => "armed good",
            Self::Armed { seen: Said::Bad } => "armed bad",
        }
    }
}

struct Reader<'a> {
    lines: Lines<'a>,
    line: usize,
    slots: &'a [SlotName; 2],
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> &'a str {
        self.line += 1;
        self.lines.next().unwrap_or_default()
    }

    fn wrong<T>(&self, expected: impl Into<String>, got: &str) -> Result<T, MarksError> {
        const MAX_SHOWN: usize = 64;
        Err(MarksError { line: self.line, expected: expected.into(), got: got.chars().take(MAX_SHOWN).collect() })
    }

    fn exactly(&mut self, text: &str, expected: &str) -> Result<(), MarksError> {
        let got = self.next();
        if got == text { Ok(()) } else { self.wrong(expected, got) }
    }

    fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Result<T, MarksError> {
        let got = self.next();
        let found = choices.iter().find(|(word, _)| got.strip_prefix(key) == Some(*word));
        match found {
            Some((_, value)) => Ok(*value),
            None => {
                let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{key}{word}\"")).collect();
                self.wrong(words.join(" or "), got)
            }
        }
    }

    fn slot(&mut self, key: &str) -> Result<usize, MarksError> {
        let [first, second] = self.slots;
        self.choice(key, &[(first.as_str(), 0), (second.as_str(), 1)])
    }

    fn open(&mut self) -> Result<Option<usize>, MarksError> {
        let [first, second] = self.slots;
        self.choice("open ", &[("none", None), (first.as_str(), Some(0)), (second.as_str(), Some(1))])
    }

    fn mark(&mut self, slot: usize) -> Result<Mark, MarksError> {
        let key = format!("slot {} ", self.slots[slot]);
        self.choice(&key, &Mark::ALL.map(|mark| (mark.as_str(), mark)))
    }

    fn nothing_more(&mut self) -> Result<(), MarksError> {
        match self.lines.next() {
            None => Ok(()),
            Some(more) => {
                self.line += 1;
                self.wrong("nothing behind \"end\"", more)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slots() -> [SlotName; 2] {
        ["a", "b"].map(|name| name.parse().unwrap())
    }

    const TEXT: &str = "ota boot v1\nprimary a\never-armed yes\nopen none\nslot a good\nslot b armed good\nend\n";

    #[test]
    fn the_file_has_one_form_for_ever() {
        let marks = Marks { primary: 0, was_armed: true, open: None, marks: [Mark::Good, Mark::Armed { seen: Said::Good }] };
        assert_eq!(marks.to_text(&slots()), TEXT);
        assert_eq!(Marks::parse(TEXT, &slots()), Ok(marks));
    }

    #[test]
    fn every_line_that_is_wrong_is_refused_with_its_number() {
        let error = |text: &str| Marks::parse(text, &slots()).unwrap_err().to_string();
        let changed = |from: &str, to: &str| error(&TEXT.replace(from, to));
        assert_eq!(
            changed("v1", "v2"),
            "line 1: expected \"ota boot v1\" (another version of this program wrote it), got \"ota boot v2\""
        );
        assert_eq!(changed("primary a", "primary c"), "line 2: expected \"primary a\" or \"primary b\", got \"primary c\"");
        assert_eq!(changed("yes", "YES"), "line 3: expected \"ever-armed yes\" or \"ever-armed no\", got \"ever-armed YES\"");
        assert_eq!(changed("open none", "open"), "line 4: expected \"open none\" or \"open a\" or \"open b\", got \"open\"");
        assert_eq!(
            changed("slot a good", "slot b good"),
            "line 5: expected \"slot a none\" or \"slot a good\" or \"slot a bad\" or \"slot a armed good\" or \"slot a armed bad\", got \"slot b good\""
        );
        assert_eq!(changed("end\n", ""), "line 7: expected \"end\", got \"\"");
        assert_eq!(changed("end\n", "end\nmore\n"), "line 8: expected nothing behind \"end\", got \"more\"");
        assert_eq!(error(""), "line 1: expected \"ota boot v1\" (another version of this program wrote it), got \"\"");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            primary in 0_usize..2, was_armed: bool, open in proptest::option::of(0_usize..2), first in 0_usize..5, second in 0_usize..5
        ) {
            let marks = Marks { primary, was_armed, open, marks: [Mark::ALL[first], Mark::ALL[second]] };
            let text = marks.to_text(&slots());
            prop_assert!(u64::try_from(text.len()).unwrap() <= MAX_BYTES);
            prop_assert_eq!(Marks::parse(&text, &slots()), Ok(marks));
        }

        #[test]
        fn any_text_is_read_or_an_error(text in "[ -~\n]{0,200}") {
            if let Ok(marks) = Marks::parse(&text, &slots()) {
                prop_assert_eq!(Marks::parse(&marks.to_text(&slots()), &slots()), Ok(marks));
            }
        }
    }
}
