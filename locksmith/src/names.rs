//! The words that cross the wire, each a type that only its grammar can make.
//!
//! Promises: a value of these types is non-empty, capped in length and free of control characters, so in a log or on a
//! terminal it neither ends a line nor moves the cursor. More than that only some promise:
//!
//! | type | may hold | fit as it is for |
//! |---|---|---|
//! | [`GroupName`] | letters, digits, `.` and `-` | a segment of a URL's path, a metric's label; see [`GroupName::as_last_word`] |
//! | [`AttemptId`], [`Tag`] | the same and `_`; hex digits | the same, but an attempt is never shown |
//! | [`HostId`] | any ASCII to be seen: quotes, `\`, `/`, `$` too | one word of a log line; see [`HostId::in_a_shell`] |
//! | [`Label`], [`Reason`] | any text, blanks and quotes too | a sentence |
//!
//! Into JSON, URLs and quoted log fields they go through writers that escape. Metric labels are never made of hosts' words.
//! Never: trims, lower-cases or repairs what it was given.
//!
//! ```
//! use locksmith::names::{AttemptId, GroupName};
//!
//! assert_eq!(GroupName::parse("web.eu-1")?.as_str(), "web.eu-1");
//! assert!(GroupName::parse("web/eu").is_err());
//! // An attempt id is a capability: printing it shows its tag only.
//! let attempt = AttemptId::parse("5d1c0f3e-secret")?;
//! assert!(!format!("{attempt:?}").contains("secret"));
//! # Ok::<(), locksmith::names::NameError>(())
//! ```

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Longest group name, host id, attempt id or label, in bytes. Machine ids have 32, UUIDs 36; the rest is room
/// for fleets that use host names (253 would be legal DNS, but then 1,000 holders no longer fit one document).
pub const MAX_NAME_BYTES: usize = 128;

/// Longest reason a person gives for an act, in bytes: a sentence and a ticket number.
pub const MAX_REASON_BYTES: usize = 256;

/// Why a word was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {found}: expected {expected}")]
pub struct NameError {
    what: &'static str,
    found: String,
    expected: String,
}

/// The name of a group of hosts that share one semaphore: FleetLock's `^[a-zA-Z0-9.-]+$`, 1 to 128 bytes, and
/// neither `.` nor `..`, which a URL path would swallow.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

/// The id under which a host asks: 1 to 128 printable ASCII characters without blanks. Usually a machine id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostId(String);

/// The id of one update attempt of one host, chosen at random by the host and written down *before* it asks.
///
/// Whoever knows it may release the lock taken under it, so it is a capability: `Debug` shows the [`Tag`] only, and
/// listings never contain it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AttemptId(String);

/// A short name for an attempt, safe to show: the first 8 hex digits of its SHA-256.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

/// A version, product, boot id or name of a person: 1 to 128 bytes without control characters.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// Why a person did something: 1 to 256 bytes without control characters.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reason(String);

impl GroupName {
    /// Reads a group name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let ok = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
        let expected = "letters, digits, '.' and '-'";
        checked("group", text, MAX_NAME_BYTES, ok, expected)?;
        if matches!(text, "." | "..") {
            return Err(refused("group", text, "more than dots".to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The option that names the group in a command for people to copy.
    pub fn as_option(&self) -> String {
        let between = if self.is_like_an_option() { '=' } else { ' ' };
        format!("--group{between}{}", self.0)
    }

    /// The name as the last word of a command for people to copy.
    pub fn as_last_word(&self) -> Cow<'_, str> {
        if self.is_like_an_option() { Cow::Owned(format!("-- {}", self.0)) } else { Cow::Borrowed(&self.0) }
    }

    fn is_like_an_option(&self) -> bool {
        self.0.starts_with('-')
    }
}

impl HostId {
    /// Reads a host id.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let expected = "printable ASCII without blanks";
        checked("id", text, MAX_NAME_BYTES, |byte| byte.is_ascii_graphic(), expected)?;
        Ok(Self(text.to_owned()))
    }
}

impl HostId {
    /// The id as one word of a command for people to copy: hosts choose their ids, and `$(…)` is one. So is `-f`: the word
    /// comes after `--`.
    pub fn in_a_shell(&self) -> Cow<'_, str> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':' | b'@' | b'%' | b'+');
        if self.0.bytes().all(plain) {
            return Cow::Borrowed(&self.0);
        }
        Cow::Owned(format!("'{}'", self.0.replace('\'', r"'\''")))
    }
}

impl AttemptId {
    /// Reads an attempt id: 1 to 128 letters, digits, `.`, `_` and `-`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let ok = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let expected = "letters, digits, '.', '_' and '-'";
        // The text of a refused attempt id is not repeated: it may be one character away from a real one.
        checked("attempt", text, MAX_NAME_BYTES, ok, expected)
            .map_err(|error| NameError { found: format!("of {} bytes", text.len()), ..error })?;
        Ok(Self(text.to_owned()))
    }

    /// A new random attempt id (a version 4 UUID), or the reason why the system has no randomness.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0_u8; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()))
    }

    /// The short name that may be shown.
    pub fn tag(&self) -> Tag {
        let digest = Sha256::digest(self.0.as_bytes());
        Tag(digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Label {
    /// Reads a label; `what` names the field in the error.
    pub fn parse(what: &'static str, text: &str) -> Result<Self, NameError> {
        checked_text(what, text, MAX_NAME_BYTES)?;
        Ok(Self(text.to_owned()))
    }
}

impl Reason {
    /// Reads a reason.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        checked_text("reason", text, MAX_REASON_BYTES)?;
        Ok(Self(text.to_owned()))
    }
}

impl From<Uuid> for AttemptId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid.to_string())
    }
}

fn checked(what: &'static str, text: &str, max: usize, ok: impl Fn(u8) -> bool, expected: &str) -> Result<(), NameError> {
    if (1..=max).contains(&text.len()) && text.bytes().all(ok) {
        return Ok(());
    }
    Err(refused(what, text, format!("1 to {max} characters: {expected}")))
}

fn checked_text(what: &'static str, text: &str, max: usize) -> Result<(), NameError> {
    if (1..=max).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(refused(what, text, format!("1 to {max} bytes without control characters")))
}

fn refused(what: &'static str, text: &str, expected: String) -> NameError {
    let found = match text.char_indices().nth(40) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
        None => format!("{text:?}"),
    };
    NameError { what, found, expected }
}

/// What all names can do: be read as text, written and read by serde, shown.
macro_rules! as_text {
    ($name:ident, $parse:expr) => {
        impl $name {
            /// The text as it came.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                let parse: fn(&str) -> Result<$name, NameError> = $parse;
                parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

/// Names that may be shown whole.
macro_rules! shown {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

as_text!(GroupName, GroupName::parse);
as_text!(HostId, HostId::parse);
as_text!(AttemptId, AttemptId::parse);
as_text!(Label, |text| Label::parse("label", text));
as_text!(Reason, Reason::parse);
as_text!(Tag, Tag::parse);
shown!(GroupName);
shown!(HostId);
shown!(Label);
shown!(Reason);
shown!(Tag);

impl Tag {
    /// Reads a tag: 8 hex digits.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self(text.to_owned()));
        }
        Err(refused("tag", text, "8 hex digits".to_owned()))
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt #{}", self.tag())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_names_follow_the_protocols_pattern_and_survive_a_url_path() {
        for good in ["default", "a", "web.eu-1", "0", &"g".repeat(128)] {
            assert_eq!(GroupName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a b", "a/b", "a%2Fb", "ä", "a\n", &"g".repeat(129)] {
            assert!(GroupName::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_refused_name_is_shown_quoted_and_cut() {
        let error = GroupName::parse("a\u{1b}[2J").unwrap_err().to_string();
        assert_eq!(error, r#"group "a\u{1b}[2J": expected 1 to 128 characters: letters, digits, '.' and '-'"#);
        let error = HostId::parse(&"x".repeat(5000)).unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn an_attempt_id_never_shows_itself() {
        let attempt = AttemptId::parse("b7c2-very-secret").unwrap();
        assert!(!format!("{attempt:?}").contains("secret"));
        assert_eq!(attempt.tag().as_str().len(), 8);
        let refused = AttemptId::parse("very secret").unwrap_err().to_string();
        assert!(!refused.contains("secret"), "{refused}");
    }

    #[test]
    fn random_attempts_differ_and_follow_their_own_grammar() {
        let (one, two) = (AttemptId::random().unwrap(), AttemptId::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(AttemptId::parse(one.as_str()).unwrap(), one);
    }

    #[test]
    fn a_host_id_in_a_command_to_copy_is_one_harmless_word() {
        for (id, word) in [
            ("e0f3745b", "e0f3745b"),
            ("web-1.example:8080", "web-1.example:8080"),
            ("$(reboot)", "'$(reboot)'"),
            ("a;b", "'a;b'"),
            ("it's", r"'it'\''s'"),
            (r"\", r"'\'"),
            ("~root", "'~root'"),
        ] {
            assert_eq!(HostId::parse(id).unwrap().in_a_shell(), word);
        }
    }

    #[test]
    fn a_group_in_a_command_to_copy_is_never_taken_for_an_option() {
        for (name, option, word) in [("web", "--group web", "web"), ("-x", "--group=-x", "-- -x")] {
            let group = GroupName::parse(name).unwrap();
            assert_eq!((group.as_option().as_str(), group.as_last_word().as_ref()), (option, word));
        }
    }

    #[test]
    fn names_read_by_serde_are_checked_too() {
        assert!(serde_json::from_str::<GroupName>(r#""a/b""#).is_err());
        assert!(serde_json::from_str::<Label>(r#""1.0\n""#).is_err());
        assert_eq!(serde_json::from_str::<HostId>(r#""h1""#).unwrap().as_str(), "h1");
    }
}
