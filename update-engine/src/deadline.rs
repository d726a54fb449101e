//! The deadline of a trial, kept by a program of its own: `update-engine-trial` (design 11.2).
//!
//! A new image may be so broken that its daemon never starts, ends again and again, or has no configuration it can read. Then nobody in it
//! says that it is unhealthy. This program does, with as little as it can: what it needs to know was written down by the daemon that armed
//! the slot, so that nothing of the new image has to be right but the kernel, the state folder and this program.
//!
//! ```text
//! state_dir/trial         ota trial v1 / slot b / version 1.1.0 / attempt ID / boot ID / deadline SECONDS / end
//! state_dir/trial.toml    the configuration of the daemon that armed it
//! ```
//!
//! Promises: a slot on trial that is not good when its deadline has passed since the host was started is marked bad, that is read back, and
//! the host is rebooted, by the configured command, and by the kernel where that fails ([`FORCE_AFTER`] times). It looks at the boot state
//! and never at the journal. Never: touches a slot that is good, or a host on which no trial was written down; marks a slot that does not
//! run; guesses which slot runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use manifests::release::SlotName;

use crate::durable;
use crate::engine::time::BootId;

/// So often the reboot command may fail before the kernel is asked.
pub const FORCE_AFTER: u32 = 3;
/// Longest file read.
const MAX_BYTES: u64 = 4 * 1024;
/// Longest label of a release.
const MAX_WORD: usize = 128;

/// A trial as it was written down when its slot was armed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The slot.
    pub slot: SlotName,
    /// What it holds.
    pub version: String,
    /// The attempt.
    pub attempt: String,
    /// The boot in which it was armed: nothing is on trial in that one.
    pub armed_in: BootId,
    /// Time since the host was started in which the slot has to be kept.
    pub deadline: Duration,
}

/// Why a trial could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The system said no.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// It is no such file.
    #[error("{path}: line {line}: expected {expected}, got {got:?}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What would be right.
        expected: &'static str,
        /// What stands there.
        got: String,
    },
}

impl Trial {
    /// Reads it; `None` = no slot was armed since the last one was kept or left.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, TrialError> {
        let path = path_in(state_dir);
        match durable::read_capped(&path, MAX_BYTES) {
            Ok(bytes) => Self::parse(&path, &String::from_utf8_lossy(&bytes)).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(TrialError::Io { path, source }),
        }
    }

    /// Writes it down, durably: before the slot is armed.
    pub fn store(&self, state_dir: &Path) -> Result<(), TrialError> {
        let path = path_in(state_dir);
        durable::replace(&path, self.to_text().as_bytes()).map_err(|source| TrialError::Io { path, source })
    }

    /// It is over: kept, left, or taken back.
    pub fn forget(state_dir: &Path) -> Result<(), TrialError> {
        let path = path_in(state_dir);
        durable::remove(&path).map_err(|source| TrialError::Io { path, source })
    }

    fn to_text(&self) -> String {
        let Self { slot, version, attempt, armed_in, deadline } = self;
        format!(
            "ota trial v1\nslot {slot}\nversion {version}\nattempt {attempt}\nboot {}\ndeadline {}\nend\n",
            armed_in.as_str(),
            deadline.as_secs()
        )
    }

    fn parse(path: &Path, text: &str) -> Result<Self, TrialError> {
        let mut lines = Lines { path, lines: text.lines(), line: 0 };
        lines.next("\"ota trial v1\"", |line| (line == "ota trial v1").then_some(()))?;
        let trial = Self {
            slot: lines.next("\"slot a\" or \"slot b\"", |line| match line {
                "slot a" => Some(SlotName::A),
                "slot b" => Some(SlotName::B),
                _ => None,
            })?,
            version: lines.next("\"version LABEL\"", |line| word(line, "version "))?,
            attempt: lines.next("\"attempt ID\"", |line| word(line, "attempt "))?,
            armed_in: lines.next("\"boot ID\"", |line| line.strip_prefix("boot ").map(BootId::new))?,
            deadline: lines.next("\"deadline SECONDS\"", |line| {
                line.strip_prefix("deadline ")?.parse().ok().filter(|&seconds| seconds > 0).map(Duration::from_secs)
            })?,
        };
        lines.next("\"end\"", |line| (line == "end").then_some(()))?;
        Ok(trial)
    }
}

struct Lines<'a> {
    path: &'a Path,
    lines: std::str::Lines<'a>,
    line: usize,
}

impl Lines<'_> {
    fn next<T>(&mut self, expected: &'static str, read: impl Fn(&str) -> Option<T>) -> Result<T, TrialError> {
        self.line += 1;
        let got = self.lines.next().unwrap_or_default();
        read(got).ok_or_else(|| TrialError::Malformed {
            path: self.path.to_path_buf(),
            line: self.line,
            expected,
            got: got.chars().take(80).collect(),
        })
    }
}

fn word(line: &str, prefix: &str) -> Option<String> {
    let word = line.strip_prefix(prefix)?;
    let fits = !word.is_empty() && word.len() <= MAX_WORD && !word.chars().any(char::is_control);
    fits.then(|| word.to_owned())
}

fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join("trial")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial() -> Trial {
        Trial {
            slot: SlotName::B,
            version: "1.1.0".to_owned(),
            attempt: "one".to_owned(),
            armed_in: "boot-1".into(),
            deadline: Duration::from_secs(600),
        }
    }

    #[test]
    fn what_is_written_down_is_read_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Trial::load(dir.path()).unwrap(), None);
        trial().store(dir.path()).unwrap();
        assert_eq!(Trial::load(dir.path()).unwrap(), Some(trial()));
        Trial::forget(dir.path()).unwrap();
        Trial::forget(dir.path()).unwrap();
        assert_eq!(Trial::load(dir.path()).unwrap(), None);
    }

    #[test]
    fn its_form_never_changes() {
        let text = "ota trial v1\nslot b\nversion 1.1.0\nattempt one\nboot boot-1\ndeadline 600\nend\n";
        assert_eq!(trial().to_text(), text);
    }

    #[test]
    fn a_file_that_is_none_is_an_error_with_its_line() {
        let error = |text: &str| Trial::parse(Path::new("trial"), text).unwrap_err().to_string();
        assert_eq!(error(""), "trial: line 1: expected \"ota trial v1\", got \"\"");
        assert_eq!(error("ota trial v1\nslot c\n"), "trial: line 2: expected \"slot a\" or \"slot b\", got \"slot c\"");
        let cut = trial().to_text().replace("end\n", "");
        assert_eq!(error(&cut), "trial: line 7: expected \"end\", got \"\"");
        let never = trial().to_text().replace("600", "0");
        assert_eq!(error(&never), "trial: line 6: expected \"deadline SECONDS\", got \"deadline 0\"");
    }
}
