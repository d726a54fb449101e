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
        /// Absolute path or http(s) URL of the payload.
        payload: String,
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
}

/// The engine took a command up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Attempt the command started or belongs to, if any.
    pub attempt: Option<String>,
    /// One sentence: what happens now.
    pub message: String,
}

/// The engine cannot do that now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Rejected {
    /// Stable word for programs, e.g. `busy`, `nothing-to-reboot`.
    pub code: String,
    /// One sentence: why not, and what to do.
    pub message: String,
}
