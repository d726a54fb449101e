//! Why a command failed, and what to do about it.

use super::Exit;
use crate::control::client::ClientError;
use crate::engine::command::Rejection;

/// An error with its hint and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) message: String,
    pub(super) hint: Option<String>,
    pub(super) exit: Exit,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: Exit::FAILED }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn usage(mut self) -> Self {
        self.exit = Exit::USAGE;
        self
    }

    pub(super) fn not_reachable(mut self) -> Self {
        self.exit = Exit::NOT_REACHABLE;
        self
    }

    /// Output that nobody reads is no error.
    pub(super) fn closed_pipe() -> Self {
        Self { message: String::new(), hint: None, exit: Exit::DONE }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::NotReachable { why, .. } if why == "permission denied" => {
                Self::new(message).hint("the folder of the socket keeps you out; try again as root").not_reachable()
            }
            ClientError::NotReachable { .. } => Self::new(message)
                .hint("start it with `systemctl start update-engined`, or name its socket with --socket PATH")
                .not_reachable(),
            ClientError::WentAway { .. } => Self::new(message).hint("`journalctl -u update-engined` says why").not_reachable(),
            ClientError::Rejected { rejected } => Self { hint: rejection_hint(rejected.code), ..Self::new(message) },
            ClientError::Refused { message, code, .. } => Self { hint: rejection_hint(code), ..Self::new(message) },
            ClientError::Unexpected { .. } => Self::new(message).hint("are updatectl and update-engined of the same version?"),
        }
    }
}

/// What a person can do about a rejection, where its sentence leaves it open.
fn rejection_hint(code: Rejection) -> Option<String> {
    let hint = match code {
        Rejection::NotAllowed => "try again as root, for example with sudo",
        Rejection::Busy => "`updatectl status` says what is under way; `updatectl cancel` gives it up",
        Rejection::Paused => "`updatectl resume` ends the pause",
        Rejection::NothingToReboot => "`updatectl update` looks for an update and installs it",
        Rejection::NoAnswer => "`updatectl status` says what the daemon does",
        _ => return None,
    };
    Some(hint.to_owned())
}
