//! Why something failed, as a closed type: one stable word for each cause, and what it means.
//!
//! The words are a contract. `updatectl status --json` and `history --json`, the journal and the log show them, and
//! `docs/omaha.md` lists them with the number an update server is sent ([`crate::report::error_code`]). A word is never changed;
//! a new cause is a new entry of the one table here, and does not compile before it has its number.
//!
//! ```
//! use update_engine::engine::cause::Cause;
//!
//! assert_eq!(Cause::ReadBack.word(), "read-back");
//! assert_eq!(Cause::read("http-503"), Cause::Http(503));
//! assert_eq!(Cause::read("from-another-daemon").word(), "from-another-daemon");
//! ```

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The one table: entry, word, meaning. `docs/omaha.md` follows its order.
macro_rules! causes {
    ($($cause:ident $word:literal $meaning:literal,)*) => {
        /// Why something failed. Compared by entry, stored and shown by its word.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Cause {
            $(#[doc = concat!("`", $word, "`: ", $meaning, ".")] $cause,)*
            /// `http-NNN`: a server answered with that HTTP status, which is an error.
            Http(u16),
            /// A word that another version of the daemon wrote. Only [`Cause::read`] makes one.
            Other(UnknownWord),
        }

        impl Cause {
            /// Every cause that is one word, in the order of `docs/omaha.md`; [`Cause::Http`] comes after them.
            pub const NAMED: &[Self] = &[$(Self::$cause,)*];

            /// Its stable word.
            pub fn word(&self) -> Cow<'_, str> {
                match self {
                    $(Self::$cause => Cow::Borrowed($word),)*
                    Self::Http(status) => Cow::Owned(format!("{HTTP}{status}")),
                    Self::Other(UnknownWord(word)) => Cow::Borrowed(word),
                }
            }

            /// What it means: the part of a sentence that follows "because".
            pub const fn meaning(&self) -> &'static str {
                match self {
                    $(Self::$cause => $meaning,)*
                    Self::Http(_) => "a server answered with that HTTP status",
                    Self::Other(_) => "another version of this daemon knows what this word means",
                }
            }

            /// The cause a stored word stands for. A word that is not known here is kept as it stands.
            pub fn read(word: &str) -> Self {
                match word {
                    $($word => Self::$cause,)*
                    _ => read_http(word).unwrap_or_else(|| Self::Other(UnknownWord(word.to_owned()))),
                }
            }
        }
    };
}

causes! {
    NoServer "no-server" "no update server is configured",
    ServerUnreachable "server-unreachable" "the update server could not be asked, or its answer did not arrive",
    OmahaEmpty "omaha-empty" "the update server answered with nothing",
    OmahaXml "omaha-xml" "the update server's answer is no XML that can be read",
    OmahaInvalid "omaha-invalid" "the update server's answer lacks what an Omaha answer must have",
    OmahaStatus "omaha-status" "the update server answered that it cannot serve this host",
    RecordFetch "record-fetch" "the record of the release could not be had",
    RecordMalformed "record-malformed" "the record of the release is damaged or breaks a rule of its format",
    RecordUnsigned "record-unsigned" "the record of the release has no signature",
    RecordSignature "record-signature" "the record has a forged signature, or too few by keys this host trusts",
    SignersRevoked "signers-revoked" "the record revokes keys that signed it, and too few others did",
    NoKey "no-key" "the keyring of the running image cannot be used, or has too few keys",
    NoRecord "no-record" "there is no record to read a slot back against",
    VersionMismatch "version-mismatch" "the update server announced another version than the signed record has",
    WrongProduct "wrong-product" "the release is made for another product",
    WrongArch "wrong-arch" "the release is made for another architecture",
    WrongBoard "wrong-board" "the release is made for another board",
    WrongChannel "wrong-channel" "the release must not be installed from the channel this host follows",
    BelowFloor "below-floor" "the release is below the lowest one this host may ever run",
    FloorLost "floor-lost" "the state folder was lost, and with it the lowest release this host may run",
    FloorUnreadable "floor-unreadable" "the lowest release this host may run cannot be read",
    SequenceReused "sequence-reused" "the release has the sequence of the running one, but is another",
    OlderRelease "older-release" "the release is older than the newest one this host has run",
    SourceTooOld "source-too-old" "an intermediate release has to come first",
    SourceUnknown "source-unknown" "it is not known whether an intermediate release has to come first",
    RefusedRelease "refused-release" "the release was given up on this host before",
    OtherVersion "other-version" "a person asked for another version than the update server offers",
    ImageSet "image-set" "the images of the release are not those the slots are configured for",
    ImageTooLarge "image-too-large" "an image of the release does not fit into its slot",
    NoIdentity "no-identity" "the host has no machine id",
    RunningSlotUnknown "running-slot-unknown" "it is not known which slot runs, or the boot table cannot be read",
    RunningSlot "running-slot" "another slot runs than the attempt or the boot table expects",
    Slots "slots" "a slot could not be found, opened or read",
    StateDir "state-dir" "the state folder cannot be read or written",
    Journal "journal" "the journal could not be used as it was and was set aside",
    Stale "stale" "the newest release this host was offered is old, or no update server was reached for long",
    Download "download" "no source gave the whole payload",
    PayloadFormat "payload-format" "what the sources gave is no payload",
    PayloadMismatch "payload-mismatch" "no source has the bytes that were signed",
    Install "install" "the work of writing could not be set up, or broke off",
    DiskWrite "disk-write" "the slot could not be read, written or flushed while it was filled",
    ReadBack "read-back" "the slot cannot be read back, or not as what was signed",
    Lock "lock" "the reboot lock could not be asked for, confirmed or given back",
    LockLost "lock-lost" "the reboot lock was lost while the host was being drained",
    Drain "drain" "a drain hook failed",
    StepBack "step-back" "the reboot has to wait for a gate, the lock or a person",
    BootControl "boot-control" "the boot table could not be read or written, or the slot must not be armed",
    BootWeakness "boot-weakness" "the boot table is damaged in part, or less protected than it should be",
    BootRival "boot-rival" "another program may mark a slot good whatever its health is",
    TrialUnit "trial-unit" "nothing ends the trial of an image whose daemon does not run",
    NotAttempted "not-attempted" "the host was rebooted, and its loader did not try the armed slot",
    UnknownArmed "unknown-armed" "a slot was armed, and nothing here knows by whom",
    Disarm "disarm" "a slot could not be disarmed",
    Reboot "reboot" "the reboot command failed",
    RebootLate "reboot-late" "the reboot was accepted, and has not come",
    RolledBack "rolled-back" "the host went back to the old slot",
    Unhealthy "unhealthy" "the new slot has not shown that it is healthy",
    MarkGood "mark-good" "the new slot is healthy, and could not be marked good",
    Cancelled "cancelled" "it was cancelled",
    Superseded "superseded" "a newer release took its place",
    JournalLost "journal-lost" "the journal that knew the attempt was set aside",
}

impl Cause {
    /// It can be the reason of an event that the update server is sent: of an attempt that ended, or of an offer that was
    /// refused. Others are of a check that got no offer, of a step that is taken again, or of what nobody offered.
    pub const fn is_reported(&self) -> bool {
        !matches!(
            self,
            Self::NoServer
                | Self::ServerUnreachable
                | Self::OmahaEmpty
                | Self::OmahaXml
                | Self::OmahaInvalid
                | Self::OmahaStatus
                | Self::NoRecord
                | Self::OtherVersion
                | Self::Journal
                | Self::Stale
                | Self::Lock
                | Self::LockLost
                | Self::Drain
                | Self::StepBack
                | Self::BootWeakness
                | Self::BootRival
                | Self::TrialUnit
                | Self::UnknownArmed
                | Self::Disarm
                | Self::RebootLate
                | Self::Unhealthy
                | Self::MarkGood
        )
    }
}

/// What stands before the status in the word of [`Cause::Http`].
const HTTP: &str = "http-";

/// A word of another version. It cannot be made from a literal: a cause of this version has an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWord(String);

/// Only as it is written: `http-0503` is somebody else's word, and shown as it stands.
fn read_http(word: &str) -> Option<Cause> {
    let cause = Cause::Http(word.strip_prefix(HTTP)?.parse().ok()?);
    (cause.word() == word).then_some(cause)
}

impl fmt::Display for Cause {
    /// The word.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.word())
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.word())
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|word| Self::read(&word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::model::LastError;

    #[test]
    fn every_cause_is_read_back_from_its_word_and_no_two_share_one() {
        for (index, cause) in Cause::NAMED.iter().enumerate() {
            assert_eq!(Cause::read(&cause.word()), *cause);
            assert!(!Cause::NAMED[..index].iter().any(|other| other.word() == cause.word()), "{cause} stands twice");
        }
        for status in [100, 404, 503, u16::MAX] {
            assert_eq!(Cause::read(&Cause::Http(status).word()), Cause::Http(status));
        }
    }

    #[test]
    fn words_and_meanings_have_one_form() {
        for cause in Cause::NAMED {
            let word = cause.word();
            assert!(word.split('-').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase())), "{word}");
            let meaning = cause.meaning();
            assert!(
                meaning.starts_with(|first: char| first.is_ascii_lowercase()) && !meaning.ends_with('.'),
                "{word}: {meaning}"
            );
        }
    }

    #[test]
    fn a_status_counts_only_as_it_is_written() {
        for word in ["http-", "http-+5", "http-0503", "http-65536", "http-503 ", "HTTP-503", "http-5x3"] {
            assert_eq!(Cause::read(word), Cause::Other(UnknownWord(word.to_owned())));
        }
    }

    #[test]
    fn a_word_of_another_daemon_is_kept_as_it_stands_in_the_journal() {
        for word in ["brand-new", "", "Ünknown \"word\""] {
            let json = serde_json::json!({ "code": word, "message": "m", "at": 7, "about": "attempt" });
            let error: LastError = serde_json::from_value(json.clone()).unwrap();
            assert_eq!((error.code.word().as_ref(), error.code.to_string().as_str()), (word, word));
            assert_eq!(serde_json::to_value(&error).unwrap(), json);
        }
    }
}
