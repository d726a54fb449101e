//! What happened: everything the engine ever hears of.

use manifests::digest::Sha256Digest;
use manifests::release::{Record, SlotName};
use manifests::version::{Sequence, Version};

use crate::engine::cause::Cause;
use crate::engine::effect::GateStage;
use crate::engine::facts::{BootTable, Facts};
use crate::engine::model::{Hold, Progress};
use crate::engine::state::{Claim, Source};
use crate::engine::time::{Mono, Wall};

/// An event. Those that answer an effect carry the attempt they belong to, so that a late answer changes nothing.
#[derive(Clone, Debug)]
pub enum Event {
    /// The daemon started; facts were gathered.
    Started {
        /// The world.
        facts: Box<Facts>,
        /// Attempts that never ended and that the model knows nothing of.
        orphans: Vec<Orphan>,
    },
    /// A timer the engine asked for may be due.
    Woke,
    /// Answer to [`crate::engine::effect::Effect::Check`], with fresh facts.
    Checked {
        /// The world.
        facts: Box<Facts>,
        /// What the server (or the files) said.
        answer: Box<CheckAnswer>,
    },
    /// Something moved in the work under way.
    Progressed {
        /// Whose.
        attempt: String,
        /// How far.
        progress: Progress,
    },
    /// The slot is disarmed and all windows are written and flushed, or not.
    Installed {
        /// Whose.
        attempt: String,
        /// The boot table after disarming, if that happened.
        boot: Option<BootTable>,
        /// The outcome.
        result: Result<Fetched, Fault>,
    },
    /// The slot was read back.
    ReadBack {
        /// Whose.
        attempt: String,
        /// Equal, different (windows), or an error.
        result: Result<Proof, Fault>,
    },
    /// The gates were looked at.
    Gates {
        /// Whose.
        attempt: String,
        /// Which look.
        stage: GateStage,
        /// Every gate with what it said.
        gates: Vec<Gate>,
    },
    /// The lock server answered.
    Lock {
        /// Whose.
        attempt: String,
        /// Granted, or why not.
        result: Result<LockGrant, LockRefusal>,
    },
    /// Drain hooks ended.
    Drained {
        /// Whose.
        attempt: String,
        /// All exited 0, or what did not.
        result: Result<(), Fault>,
    },
    /// The server acknowledged the durable change to `rebooting`.
    RebootAcknowledged {
        /// Whose.
        attempt: String,
        /// Or not.
        result: Result<(), Fault>,
    },
    /// The slot was armed and the marks read back, or not.
    Armed {
        /// Whose.
        attempt: String,
        /// The table afterwards.
        result: Result<BootTable, Fault>,
    },
    /// The reboot command ended, or the reboot did not come.
    Reboot {
        /// Whose.
        attempt: String,
        /// Accepted, or refused.
        result: Result<RebootAccepted, Fault>,
    },
    /// A slot was disarmed and the marks read back, or not.
    Disarmed {
        /// The table afterwards.
        result: Result<BootTable, Fault>,
    },
    /// Undrain hooks ended.
    Undrained {
        /// Whose.
        attempt: String,
    },
    /// Health is being probed, or something else fails than before.
    Probing {
        /// Whose.
        attempt: String,
        /// How far.
        probing: Probing,
    },
    /// Health is known. Absence of a result is `Err`.
    Health {
        /// Whose.
        attempt: String,
        /// Healthy (with warnings), or why not.
        result: Result<Vec<String>, String>,
    },
    /// The running slot was marked good, read back, and the floor raised; or not.
    CommitDone {
        /// Whose.
        attempt: String,
        /// What was found afterwards; an error if it was not marked.
        result: Result<Marked, Fault>,
    },
    /// The running slot was marked bad, or not.
    MarkedBad {
        /// Whose.
        attempt: String,
        /// The table afterwards.
        result: Result<BootTable, Fault>,
    },
    /// How many lock releases still wait: said right after [`Event::Started`], and after every round of delivery.
    Outbox {
        /// Lock releases not delivered yet.
        releases_waiting: u32,
    },
    /// A lock could not be given back; it is tried again.
    ReleaseFailed {
        /// Which group, where, and what was said.
        message: String,
    },
    /// The journal could not be written for so long that what must not stand still goes on without it.
    StandsStill {
        /// Why.
        fault: Fault,
        /// The effects of the present step were held up and never began: no answer to them will come.
        unstarted: bool,
    },
    /// Answer to [`crate::engine::effect::Effect::Look`].
    Looked {
        /// The world.
        facts: Box<Facts>,
    },
    /// Answer to [`crate::engine::effect::Effect::LookToLeave`].
    LookedToLeave {
        /// The world.
        facts: Box<Facts>,
    },
    /// Facts changed under a command (`adopt`, `verify`).
    FactsChanged {
        /// The world.
        facts: Box<Facts>,
    },
}

/// A probe of a slot on trial that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probing {
    /// When it ends, whatever it has found by then.
    pub until: Mono,
    /// What failed in its latest round, in one short line.
    pub failing: Option<String>,
}

/// A reboot command that did not refuse. Accepted is not rebooted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebootAccepted {
    /// The command has ended.
    Ended,
    /// It has not ended: it may wait in the middle of a shutdown, or hang before one began.
    StillRuns,
}

/// The running slot was marked good.
#[derive(Clone, Debug)]
pub struct Marked {
    /// Fresh facts, with the table that was read back.
    pub facts: Box<Facts>,
    /// Whether the floor was raised as well. One that was not is raised later: what is good stays.
    pub floor: Result<(), Fault>,
}

/// An attempt whose end was never written down, because the journal that knew it was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Attempt id.
    pub attempt: String,
    /// Slot it wrote.
    pub slot: SlotName,
    /// Label it started from.
    pub from_version: String,
    /// Label of the release.
    pub version: Version,
    /// Its place on the line.
    pub sequence: Sequence,
    /// Its identity.
    pub digest: Sha256Digest,
    /// When it began.
    pub started_at: Wall,
    /// The lock it asked for.
    pub claim: Option<Claim>,
}

/// What a check brought.
#[derive(Clone, Debug)]
pub enum CheckAnswer {
    /// Nothing newer.
    NoUpdate {
        /// When to ask again.
        again: AskAgain,
        /// It has one but holds it back.
        hold: Option<Hold>,
    },
    /// A record that was fetched and whose signatures were verified.
    Offer {
        /// When to ask again.
        again: AskAgain,
        /// The offer.
        offer: Box<Offer>,
    },
    /// A record that was fetched, and refused before the engine could look at it (signature, format).
    BadRecord {
        /// When to ask again.
        again: AskAgain,
        /// Version the answer named.
        version: String,
        /// What was wrong.
        fault: Fault,
    },
    /// An update is offered, and its record could not be had, checked or kept: nothing is known of it yet.
    NoRecord {
        /// When to ask again.
        again: AskAgain,
        /// Version the answer named.
        version: String,
        /// Why not.
        fault: Fault,
        /// Whose trouble that is.
        lack: Lack,
    },
    /// No answer, or one that is none.
    Failed {
        /// What was wrong.
        fault: Fault,
        /// The server's `Retry-After`.
        retry_after_s: Option<u64>,
    },
}

/// Whose trouble a record is that could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Of a server that is down, busy or out of reach: it may come by itself.
    Passing,
    /// Every server stands by it (no such file, no right to it): only whoever publishes can mend that.
    Lasting,
    /// It was had, and this host cannot check it, or cannot keep it.
    Here,
}

/// When a server that answered wants to be asked again, in its own words: the later of the two counts, each within its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AskAgain {
    /// Its poll interval.
    pub poll_interval_s: Option<u64>,
    /// Its `Retry-After`.
    pub retry_after_s: Option<u64>,
}

/// A verified record and where its payload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What it says. The daemon keeps the bytes it was read from beside the journal.
    pub record: Record,
    /// Its identity.
    pub digest: Sha256Digest,
    /// Version the answer named, when a server did.
    pub announced_version: Option<String>,
    /// Where the payload is.
    pub source: Source,
}

/// Something that went wrong, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The cause: what is stored, shown and sent is its word.
    pub code: Cause,
    /// What, where, expected, got.
    pub message: String,
    /// How long whoever refused wants not to be asked again, in seconds.
    pub retry_after_s: Option<u64>,
}

impl Fault {
    /// A fault.
    pub fn new(code: Cause, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_s: None }
    }

    /// The same, not to be tried again before so many seconds.
    pub fn not_before(self, retry_after_s: Option<u64>) -> Self {
        Self { retry_after_s, ..self }
    }
}

/// What writing brought.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Fetched {
    /// Bytes received.
    pub bytes_downloaded: u64,
    /// Bytes that were in the slot already.
    pub bytes_reused: u64,
}

/// What a read-back found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Every window and the tail are what was signed.
    Equal,
    /// Some are not.
    Differs {
        /// Which, in words.
        detail: String,
    },
}

/// A gate and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// `pause`, `window`, `inhibitor`, `users`, `hook`, `lock`, `breaker`.
    pub gate: String,
    /// Why it is closed; `None` = open.
    pub closed: Option<String>,
    /// Until when, if known.
    pub until: Option<String>,
}

/// The lock was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockGrant {
    /// Our server's fence; `None` = a plain FleetLock server.
    pub fence: Option<String>,
}

/// The lock was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LockRefusal {
    /// `lock` (full) or `breaker`; other words are shown as they are.
    pub kind: String,
    /// Sentence.
    pub message: String,
    /// Who holds it, as the server says.
    pub holders: Vec<LockHolder>,
    /// Most holders at once.
    pub max: Option<u32>,
    /// When to ask again.
    pub retry_after_s: Option<u64>,
}

/// One holder of the lock, as the server shows it.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct LockHolder {
    /// Host id.
    pub id: String,
    /// Since when.
    pub since: Option<String>,
    /// `draining`, `rebooting`, `overdue`.
    pub phase: Option<String>,
}
