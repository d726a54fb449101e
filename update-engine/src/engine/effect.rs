//! What is to be done: everything the engine ever asks of the daemon.
//!
//! Effects come in two kinds. *Rows* ([`Effect::Row`]) are written in the same journal transaction as the step that asked for
//! them. The others run after that transaction, may be killed at any moment, and are safe to run again.

use manifests::release::SlotName;
use serde::{Deserialize, Serialize};

use crate::engine::cause::Cause;
use crate::engine::event::Fault;
use crate::engine::model::Refusal;
use crate::engine::state::{Claim, Plan, Request};

/// An effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Look at the world again, then ask the server (or read the files): answers [`crate::engine::event::Event::Checked`].
    Check(Request),
    /// Look at the world again, which could not be seen: answers [`crate::engine::event::Event::Looked`].
    Look,
    /// Look at the world once more, which could not be seen, before the host is left for that: answers
    /// [`crate::engine::event::Event::LookedToLeave`].
    LookToLeave(Plan),
    /// Disarm the inactive slot, then fetch, verify and write: answers `Installed`.
    Install {
        /// What.
        plan: Plan,
        /// Windows may be in the slot already.
        scan: Scan,
    },
    /// Read the slot back: answers `ReadBack`.
    ReadBack(Plan),
    /// Look at the gates: answers `Gates`.
    Gates {
        /// Whose.
        plan: Plan,
        /// Which look.
        stage: GateStage,
    },
    /// Ask for the lock: answers `Lock`.
    Lock(Plan),
    /// Run `drain.d`, renewing the lock meanwhile: answers `Drained`.
    Drain(Plan),
    /// Tell the lock server `rebooting` and wait for its acknowledgement: answers `RebootAcknowledged`.
    AcknowledgeReboot(Plan),
    /// Arm the slot: answers `Armed`.
    Arm(Plan),
    /// Reboot: answers `Reboot`.
    Reboot(Plan),
    /// Make a slot not bootable: answers `Disarmed`.
    Disarm(SlotName),
    /// Run `undrain.d`: answers `Undrained`.
    Undrain(Plan),
    /// Probe health: answers `Health`.
    Health(Plan),
    /// Mark the running slot good, then raise the floor: answers `CommitDone`.
    Commit(Plan),
    /// Mark the running slot bad: answers `MarkedBad`.
    MarkBad(Plan),
    /// Stop the work under way for this attempt as soon as it can be stopped. Nothing answers this; the work itself still does.
    Stop(String),
    /// Part of the step's transaction.
    Row(Row),
}

/// Whether windows of the inactive slot are hashed before anything is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// The slot is new to this release: only windows that its last record shares are looked at.
    Shared,
    /// This attempt wrote to it before: every window is looked at.
    All,
}

/// Which look at the gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateStage {
    /// Before the lock is asked for.
    BeforeLock,
    /// With the lock held, just before the flip.
    BeforeFlip,
    /// Armed already, before the reboot.
    BeforeReboot,
}

/// Rows written with the step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// An attempt began.
    Open(Plan),
    /// Something about an open attempt changed (its claim, a recorded permission).
    Update(Plan),
    /// An attempt ended, exactly once.
    Close {
        /// Which.
        attempt: String,
        /// How.
        outcome: Outcome,
        /// Why, unless it was committed.
        fault: Option<Fault>,
    },
    /// What an attempt downloaded.
    Downloaded {
        /// Which.
        attempt: String,
        /// Bytes, added to what was counted before.
        bytes: u64,
    },
    /// An event for the update server.
    Report(Report),
    /// A lock to be given back, until the server has acknowledged it.
    Release {
        /// Attempt it was taken for.
        attempt: String,
        /// What to release, and where.
        claim: Claim,
        /// What to say of the attempt.
        outcome: LockOutcome,
    },
    /// A release is not to be installed again by itself.
    Refuse(Refusal),
    /// A refusal is lifted.
    Forgive(manifests::digest::Sha256Digest),
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Booted, healthy, marked good.
    Committed,
    /// Back on the old slot.
    RolledBack,
    /// An error.
    Failed,
    /// Given up by a person, or overtaken by a newer release.
    Abandoned,
}

impl Outcome {
    /// The word in history.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled-back",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// What a released lock says of the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockOutcome {
    /// Rebooted and healthy.
    Ok,
    /// Came back on the old slot.
    RolledBack,
    /// Never rebooted for it.
    Aborted,
}

/// An event for the update server; [`crate::report`] has the table of what each becomes on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which.
    pub kind: ReportKind,
    /// Attempt; empty for an offer that was refused, and so never became one.
    pub attempt: String,
    /// Version the host ran when it was made.
    pub running_version: String,
    /// Version the attempt started from.
    pub from_version: String,
    /// Version of the release.
    pub to_version: String,
    /// Why, for what did not succeed.
    #[serde(default)]
    pub code: Option<Cause>,
    /// Sentence.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Kinds of report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReportKind {
    /// The download began.
    DownloadStarted,
    /// Everything is written.
    DownloadFinished,
    /// Proven; waiting for the reboot.
    Installed,
    /// Booted and healthy.
    Committed,
    /// Back on the old slot.
    RolledBack,
    /// Failed, or refused when it was offered.
    Failed,
    /// Given up.
    Abandoned,
}
