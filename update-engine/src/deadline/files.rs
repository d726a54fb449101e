//! What is written down of a trial. These forms never change (design 11.1): an older program reads them, too.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use manifests::release::SlotName;

use crate::config::trust::Target;
use crate::config::{self, Settings, Source};
use crate::durable;

/// Longest file read.
const MAX_BYTES: u64 = 8 * 1024;
/// Longest configuration read.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;
/// Longest label of a release.
const MAX_WORD: usize = 128;
/// Longest reason.
const MAX_WHY: usize = 1_000;

/// A trial as it was written down when its slot was armed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The slot.
    pub slot: SlotName,
    /// What it holds.
    pub version: String,
    /// The attempt.
    pub attempt: String,
    /// Time since the start of the host in which the slot has to be kept.
    pub deadline: Duration,
}

/// That a slot on trial was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The attempt.
    pub attempt: String,
    /// How often by now. More than once only where the loader starts it again all the same.
    pub times: u32,
    /// Why, in one line.
    pub why: String,
}

/// Why something of a trial could not be read or written.
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
    /// The configuration that was written down is none.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// The configuration cannot be written as text.
    #[error("the configuration cannot be written down: {0}")]
    Unwritable(String),
}

/// Writes down what the program has to know, durably: before the slot is armed.
pub fn write_down(trial: &Trial, settings: &Settings) -> Result<(), TrialError> {
    let state_dir = &settings.state_dir;
    let text = settings.to_toml().map_err(|error| TrialError::Unwritable(error.to_string()))?;
    put(&config_in(state_dir), &text)?;
    // An attempt is known by its id: what is left of an earlier one says nothing of it.
    put(&trial_in(state_dir), &trial.to_text())
}

/// It is over: kept, or taken back.
pub fn forget(state_dir: &Path) -> Result<(), TrialError> {
    [trial_in(state_dir), config_in(state_dir), left_in(state_dir)]
        .into_iter()
        .try_for_each(|path| durable::remove(&path).map_err(|source| TrialError::Io { path, source }))
}

/// The configuration of the daemon that armed the slot, and its keys that are not known here: that daemon may be a newer one, and what it
/// could do besides has nothing to say in a trial.
pub fn settings_of_trial(state_dir: &Path) -> Result<(Settings, Vec<String>), TrialError> {
    let path = config_in(state_dir);
    let text = read(&path, MAX_CONFIG_BYTES)?.ok_or_else(|| TrialError::Io {
        path: path.clone(),
        source: std::io::Error::new(std::io::ErrorKind::NotFound, "not found, though a trial was written down beside it"),
    })?;
    Ok(config::parse_of_another(&Source::new(path.display().to_string(), &text))?)
}

/// What has to be trusted before any of it is believed: it names programs that are run.
pub(super) fn trust_targets(state_dir: &Path) -> [Target; 3] {
    [Target::Folder(state_dir.to_owned()), Target::File(trial_in(state_dir)), Target::File(config_in(state_dir))]
}

impl Trial {
    /// Reads it; `None` = no slot was armed since the last one was kept or taken back.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, TrialError> {
        let path = trial_in(state_dir);
        read(&path, MAX_BYTES)?.map(|text| Self::parse(&path, &text)).transpose()
    }

    /// When it was written down: just before its slot was armed.
    pub fn written_at(state_dir: &Path) -> Option<SystemTime> {
        std::fs::metadata(trial_in(state_dir)).and_then(|data| data.modified()).ok()
    }

    fn to_text(&self) -> String {
        let Self { slot, version, attempt, deadline } = self;
        format!("ota trial v1\nslot {slot}\nversion {version}\nattempt {attempt}\ndeadline {}\nend\n", deadline.as_secs())
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
            version: lines.next("\"version LABEL\"", |line| word(line, "version ", MAX_WORD))?,
            attempt: lines.next("\"attempt ID\"", |line| word(line, "attempt ", MAX_WORD))?,
            deadline: lines.next("\"deadline SECONDS\"", |line| number(line, "deadline ").map(Duration::from_secs))?,
        };
        lines.next("\"end\"", |line| (line == "end").then_some(()))?;
        Ok(trial)
    }
}

impl Left {
    /// Reads it; `None` = none was left.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, TrialError> {
        let path = left_in(state_dir);
        read(&path, MAX_BYTES)?.map(|text| Self::parse(&path, &text)).transpose()
    }

    /// Writes it down, durably: before the slot is left.
    pub fn store(&self, state_dir: &Path) -> Result<(), TrialError> {
        put(&left_in(state_dir), &self.to_text())
    }

    fn to_text(&self) -> String {
        let Self { attempt, times, why } = self;
        // One line, however the words of a system's error are made.
        let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WHY).collect();
        format!("ota trial left v1\nattempt {attempt}\ntimes {times}\nwhy {why}\nend\n")
    }

    fn parse(path: &Path, text: &str) -> Result<Self, TrialError> {
        let mut lines = Lines { path, lines: text.lines(), line: 0 };
        lines.next("\"ota trial left v1\"", |line| (line == "ota trial left v1").then_some(()))?;
        let left = Self {
            attempt: lines.next("\"attempt ID\"", |line| word(line, "attempt ", MAX_WORD))?,
            times: lines.next("\"times NUMBER\"", |line| u32::try_from(number(line, "times ")?).ok())?,
            // In characters it is within bounds, so in bytes it is, too.
            why: lines.next("\"why WORDS\"", |line| word(line, "why ", 4 * MAX_WHY))?,
        };
        lines.next("\"end\"", |line| (line == "end").then_some(()))?;
        Ok(left)
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

fn word(line: &str, prefix: &str, most: usize) -> Option<String> {
    let word = line.strip_prefix(prefix)?;
    let fits = !word.is_empty() && word.len() <= most && !word.chars().any(char::is_control);
    fits.then(|| word.to_owned())
}

/// More than 0.
fn number(line: &str, prefix: &str) -> Option<u64> {
    line.strip_prefix(prefix)?.parse().ok().filter(|&number| number > 0)
}

fn read(path: &Path, cap: u64) -> Result<Option<String>, TrialError> {
    match durable::read_capped(path, cap) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TrialError::Io { path: path.to_path_buf(), source }),
    }
}

fn put(path: &Path, text: &str) -> Result<(), TrialError> {
    durable::replace(path, text.as_bytes()).map_err(|source| TrialError::Io { path: path.to_path_buf(), source })
}

fn trial_in(state_dir: &Path) -> PathBuf {
    state_dir.join("trial")
}

fn config_in(state_dir: &Path) -> PathBuf {
    state_dir.join("trial.toml")
}

fn left_in(state_dir: &Path) -> PathBuf {
    state_dir.join("trial.left")
}

#[cfg(test)]
mod tests {
    use manifests::keyring::SecretKey;

    use super::*;
    use crate::world::tests::world_that_trusts;

    fn trial() -> Trial {
        Trial { slot: SlotName::B, version: "1.1.0".to_owned(), attempt: "one".to_owned(), deadline: Duration::from_secs(600) }
    }

    #[test]
    fn what_is_written_down_is_read_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let settings = world_that_trusts(dir.path(), &SecretKey::from_seed(&[1; 32])).settings().clone();
        let state_dir = &settings.state_dir;
        assert_eq!((Trial::load(state_dir).unwrap(), Left::load(state_dir).unwrap()), (None, None));
        assert!(settings_of_trial(state_dir).unwrap_err().to_string().contains("trial.toml: not found, though"));
        write_down(&trial(), &settings).unwrap();
        let left = Left { attempt: "one".into(), times: 2, why: "nobody\nkept it".into() };
        left.store(state_dir).unwrap();
        assert_eq!(Trial::load(state_dir).unwrap(), Some(trial()));
        assert_eq!(settings_of_trial(state_dir).unwrap(), ((*settings).clone(), vec![]));
        assert_eq!(Left::load(state_dir).unwrap(), Some(Left { why: "nobody kept it".into(), ..left }));
        for _ in 0..2 {
            forget(state_dir).unwrap();
            assert_eq!((Trial::load(state_dir).unwrap(), Left::load(state_dir).unwrap()), (None, None));
        }
    }

    #[test]
    fn their_forms_never_change() {
        assert_eq!(trial().to_text(), "ota trial v1\nslot b\nversion 1.1.0\nattempt one\ndeadline 600\nend\n");
        let left = Left { attempt: "one".into(), times: 1, why: "late".into() };
        assert_eq!(left.to_text(), "ota trial left v1\nattempt one\ntimes 1\nwhy late\nend\n");
    }

    #[test]
    fn a_file_that_is_none_is_an_error_with_its_line() {
        let error = |text: &str| Trial::parse(Path::new("trial"), text).unwrap_err().to_string();
        assert_eq!(error(""), "trial: line 1: expected \"ota trial v1\", got \"\"");
        assert_eq!(error("ota trial v1\nslot c\n"), "trial: line 2: expected \"slot a\" or \"slot b\", got \"slot c\"");
        let cut = trial().to_text().replace("end\n", "");
        assert_eq!(error(&cut), "trial: line 6: expected \"end\", got \"\"");
        let never = trial().to_text().replace("600", "0");
        assert_eq!(error(&never), "trial: line 5: expected \"deadline SECONDS\", got \"deadline 0\"");
        let left = |text: &str| Left::parse(Path::new("left"), text).unwrap_err().to_string();
        assert_eq!(
            left("ota trial left v1\nattempt x\ntimes many\n"),
            "left: line 3: expected \"times NUMBER\", got \"times many\""
        );
    }

    #[test]
    fn the_longest_reason_can_be_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let left = Left { attempt: "one".into(), times: 1, why: "\u{1F980}".repeat(2 * MAX_WHY) };
        left.store(dir.path()).unwrap();
        assert_eq!(Left::load(dir.path()).unwrap().unwrap().why.chars().count(), MAX_WHY);
    }

    #[test]
    fn keys_and_tables_of_a_newer_daemon_are_left_out_and_named_and_nothing_else_is_forgiven() {
        let dir = tempfile::tempdir().unwrap();
        let settings = world_that_trusts(dir.path(), &SecretKey::from_seed(&[1; 32])).settings().clone();
        let state_dir = &settings.state_dir;
        write_down(&trial(), &settings).unwrap();
        let plain = std::fs::read_to_string(config_in(state_dir)).unwrap();
        let newer =
            plain.replace("[health]\n", "[health]\npatience = \"long\"\n").replace("[boot]\n", "[boot]\nweather = [1, 2]\n");
        std::fs::write(config_in(state_dir), format!("mood = 1\n{newer}\n[moon.phase]\nfull = true\n[boot.moon]\na = 1\n"))
            .unwrap();
        let (read, mut ignored) = settings_of_trial(state_dir).unwrap();
        ignored.sort();
        assert_eq!(read, *settings);
        assert_eq!(ignored, ["boot.moon", "boot.weather", "health.patience", "mood", "moon"]);

        for (from, to, words) in [
            ("deadline_s = 300", "deadline_s = \"long\"", "health.deadline_s: expected a whole number, 0 or more, got \"long\""),
            ("deadline_s = 300", "deadline_s = 0", "health.deadline_s: expected 1 to 86400 seconds, got 0"),
            ("control = \"gpt\"", "control = \"moon\"", "boot.control: expected one of gpt, grub"),
            ("[health]", "[health", "not valid TOML"),
        ] {
            assert_eq!(plain.matches(from).count(), 1, "{from}");
            std::fs::write(config_in(state_dir), format!("mood = 1\n{}", plain.replace(from, to))).unwrap();
            let error = settings_of_trial(state_dir).unwrap_err().to_string();
            assert!(error.contains(words), "{to}: {error}");
        }
    }
}
