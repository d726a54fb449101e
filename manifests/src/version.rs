//! Versions (labels for people and Omaha) and sequences (the only order of releases).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits::{MAX_SEQUENCE, MAX_VERSION_CHARS};

/// A version label such as `1.2.0` or `4230.2.4+build-7`. It never orders anything: see [`Sequence`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Version(String);

impl Version {
    /// Accepts 1 to 64 characters of `0-9 A-Z a-z . + - _ ~`, the first a letter or digit, without `..`: a label is also a file name.
    pub fn parse(text: &str) -> Result<Self, VersionError> {
        let head = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        let body = text.bytes().all(|c| c.is_ascii_alphanumeric() || b".+-_~".contains(&c));
        if head && body && text.len() <= MAX_VERSION_CHARS && !text.contains("..") {
            Ok(Self(text.to_owned()))
        } else {
            Err(VersionError { got: text.chars().take(MAX_VERSION_CHARS + 1).collect() })
        }
    }

    /// Label of a release whose version nobody knows.
    pub fn unknown() -> Self {
        Self("unknown".to_owned())
    }

    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no version label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a version of 1 to 64 letters, digits and . + - _ ~ that starts with a letter or digit, got {got:?}")]
pub struct VersionError {
    /// What was given, cut to 65 characters.
    pub got: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Place of a release on the one rising line of its product and board; 0 stands for "before every release".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Default)]
#[serde(transparent)]
pub struct Sequence(u64);

impl Sequence {
    /// Before every release.
    pub const ZERO: Self = Self(0);

    /// `None` above 2^53.
    pub const fn new(value: u64) -> Option<Self> {
        if value <= MAX_SEQUENCE { Some(Self(value)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Sequence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(deserializer)?;
        Self::new(value).ok_or_else(|| de::Error::custom(format!("expected a sequence of at most 2^53, got {value}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_seen_in_the_field_are_versions() {
        for text in ["1", "12.1.0", "1010.5.0+2016-05-27-1832", "3602.2.1-lts", "2026.11~rc1", &"9".repeat(64)] {
            assert_eq!(Version::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn what_could_leave_a_folder_or_a_line_is_no_version() {
        for text in ["", ".", "..", "-1", "1..2", "a/b", "1\n", "1 2", "é", &"9".repeat(65)] {
            assert!(Version::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_sequence_ends_at_two_to_the_53() {
        assert!(Sequence::new(1 << 53).is_some());
        assert!(Sequence::new((1 << 53) + 1).is_none());
        assert!(serde_json::from_str::<Sequence>("9007199254740993").is_err());
        assert!(serde_json::from_str::<Sequence>("-1").is_err());
    }
}
