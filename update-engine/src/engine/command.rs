//! What a person may ask of the daemon, over the control socket.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A request by `updatectl`. Which of them need root is the control socket's business; which are possible now is the engine's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Ask the server now.
    Check,
    /// Check, fetch, write and prove; then what the reboot strategy says.
    Update {
        /// Only this version, even if it was refused after a rollback.
        #[serde(default)]
        version: Option<String>,
        /// Permit a release below the highest committed one (never below the floor). Recorded in the history.
        #[serde(default)]
        allow_older: bool,
        /// Stop at `proven`.
        #[serde(default)]
        no_reboot: bool,
    },
    /// Take the lock, flip and reboot now; skips windows, never lock or inhibitors.
    Reboot {
        /// Skip lock and inhibitors too. Recorded in the history.
        #[serde(default)]
        force: bool,
    },
    /// Make the other slot the next one, if it holds an image that was committed before.
    Rollback,
    /// Mark the running slot good now.
    Confirm,
    /// Start nothing and reboot nothing until resumed.
    Pause {
        /// When the pause ends by itself.
        #[serde(default)]
        until: Option<Timestamp>,
        /// Why, for whoever looks later.
        #[serde(default)]
        reason: Option<String>,
    },
    /// End a pause.
    Resume,
    /// Give up the attempt under way, if it is not armed for a reboot that is under way.
    Cancel,
    /// Install from files or URLs without asking the server: the same checks.
    Install {
        /// Absolute path or http(s) URL of the record.
        release: String,
        /// Absolute path or http(s) URL of the full payload. It may be left out where a delta is given.
        #[serde(default)]
        payload: Option<String>,
        /// Absolute path or http(s) URL of a delta from the release that runs.
        #[serde(default)]
        delta: Option<String>,
        /// As in [`Command::Update`].
        #[serde(default)]
        allow_older: bool,
        /// As in [`Command::Update`].
        #[serde(default)]
        no_reboot: bool,
    },
    /// Read back the slots against their records.
    Verify,
    /// Name the record of a factory-written slot, after reading the slot back against it.
    Adopt {
        /// Absolute path of the record.
        release: String,
    },
    /// Follow another channel from now on.
    Channel {
        /// Its name.
        name: String,
    },
    /// Download payloads no faster than this from now on, also one that is under way, until the daemon starts anew.
    Limit {
        /// As [`crate::fetch::MaxRate`] is written: `2 MiB/s`, `none`. Left out = as the configuration says.
        #[serde(default)]
        max_rate: Option<String>,
        /// When that ends by itself.
        #[serde(default)]
        until: Option<Timestamp>,
    },
}

/// The engine took a command up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Attempt the command started or belongs to, if any. Of `verify` and `adopt`: the id that the events of this inspection carry.
    pub attempt: Option<String>,
    /// One sentence: what happens now.
    pub message: String,
}

/// The engine cannot do that now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Rejected {
    /// Stable word for programs, e.g. `busy`, `nothing-to-reboot`.
    pub code: Rejection,
    /// One sentence: why not, and what to do.
    pub message: String,
}

/// Why a command is not taken up, or did not even reach the engine. What fails later has a [`crate::engine::cause::Cause`]; a
/// word that both have means the same. The words are a contract: none is ever changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rejection {
    /// It is for root.
    NotAllowed,
    /// There is nothing at this path.
    NotFound,
    /// The path is asked in another way.
    WrongMethod,
    /// It is no command, or one with fields that do not belong to it.
    BadRequest,
    /// It, or a part of it, is longer than may be.
    TooLong,
    /// Too many ask at once.
    TooManyConnections,
    /// The daemon took it and did not answer in time.
    NoAnswer,
    /// The engine was asked for what the daemon does without it.
    NotHere,
    /// Something else is under way.
    Busy,
    /// The host is paused.
    Paused,
    /// No update server is configured.
    NoServer,
    /// It is not known which slot runs, or the boot table cannot be read.
    RunningSlotUnknown,
    /// No update is ready for a reboot.
    NothingToReboot,
    /// The update is being given up.
    GivingUp,
    /// The running slot is on trial.
    Trial,
    /// The running slot is neither good nor on trial.
    NotOnTrial,
    /// The running slot was judged unhealthy.
    Unhealthy,
    /// The other slot holds nothing that was committed before.
    NothingToRollBackTo,
    /// The other slot's release is below the lowest one this host may ever run.
    BelowFloor,
    /// The lowest release this host may run is not known.
    FloorLost,
    /// The other slot's version is none.
    Version,
    /// The pause would end before it begins.
    Past,
    /// Nothing is under way that could be cancelled.
    NothingToCancel,
    /// It can no longer be cancelled.
    TooLate,
    /// It is no name of a channel.
    Channel,
    /// It cannot be written down: the state folder cannot be written.
    StateDir,
    /// A word of another version of the daemon; its sentence says what it means. Never made here.
    #[serde(other)]
    Unknown,
}

impl Rejected {
    /// A rejection with its sentence.
    pub fn new(code: Rejection, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_rejections_are_those_that_programs_know() {
        let words = [
            (Rejection::NotAllowed, "not-allowed"),
            (Rejection::NotFound, "not-found"),
            (Rejection::WrongMethod, "wrong-method"),
            (Rejection::BadRequest, "bad-request"),
            (Rejection::TooLong, "too-long"),
            (Rejection::TooManyConnections, "too-many-connections"),
            (Rejection::NoAnswer, "no-answer"),
            (Rejection::NotHere, "not-here"),
            (Rejection::Busy, "busy"),
            (Rejection::Paused, "paused"),
            (Rejection::NoServer, "no-server"),
            (Rejection::RunningSlotUnknown, "running-slot-unknown"),
            (Rejection::NothingToReboot, "nothing-to-reboot"),
            (Rejection::GivingUp, "giving-up"),
            (Rejection::Trial, "trial"),
            (Rejection::NotOnTrial, "not-on-trial"),
            (Rejection::Unhealthy, "unhealthy"),
            (Rejection::NothingToRollBackTo, "nothing-to-roll-back-to"),
            (Rejection::BelowFloor, "below-floor"),
            (Rejection::FloorLost, "floor-lost"),
            (Rejection::Version, "version"),
            (Rejection::Past, "past"),
            (Rejection::NothingToCancel, "nothing-to-cancel"),
            (Rejection::TooLate, "too-late"),
            (Rejection::Channel, "channel"),
            (Rejection::StateDir, "state-dir"),
        ];
        for (rejection, word) in words {
            assert_eq!(serde_json::to_value(rejection).unwrap(), word);
            assert_eq!(serde_json::from_value::<Rejection>(word.into()).unwrap(), rejection);
        }
    }

    #[test]
    fn a_rejection_by_another_version_of_the_daemon_can_be_read() {
        let read = |code: &str| serde_json::from_value::<Rejected>(serde_json::json!({ "code": code, "message": "m" })).unwrap();
        assert_eq!(read("brand-new"), Rejected::new(Rejection::Unknown, "m"));
        assert_eq!(read("nothing-to-roll-back-to"), Rejected::new(Rejection::NothingToRollBackTo, "m"));
    }
}
