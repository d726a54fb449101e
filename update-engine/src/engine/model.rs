//! Everything the engine remembers, as the journal holds it.

use std::collections::BTreeMap;

use manifests::digest::Sha256Digest;
use manifests::release::SlotName;
use manifests::version::Sequence;
use serde::{Deserialize, Serialize};

use crate::engine::cause::Cause;
use crate::engine::effect::Outcome;
use crate::engine::event::Gate;
use crate::engine::facts::PerSlot;
use crate::engine::state::{Alarm, State};
use crate::engine::time::{BootId, Wall};

/// How messages of steps that are tried again end.
const SOON: [&str; 2] = [": tried again soon", ", and it is tried again soon"];

/// The engine's memory. Fields are only ever added, each with a default: an older daemon must be able to read what a newer one wrote.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Model {
    /// Where the update stands.
    pub state: State,
    /// The next check.
    pub check: CheckMemory,
    /// Rings when a pause or wait of the present state is over.
    pub alarm: Option<Alarm>,
    /// A person paused this host.
    pub pause: Option<Pause>,
    /// Failed attempts in a row (loop guard).
    pub failures: Option<Failures>,
    /// Reboots for a slot that was not seen to run (loop guard).
    pub never_shown: Option<NeverShown>,
    /// The attempt for which a reboot was asked for, as long as its slot stays armed: also for a daemon that is started before it comes.
    pub asked_reboot: Option<String>,
    /// Boots of a slot that was judged unhealthy (loop guard).
    pub bad_boots: Option<BadBoots>,
    /// Releases that rolled back. Kept in a table of its own that never changes form.
    #[serde(skip)]
    pub refusals: Vec<Refusal>,
    /// The last thing that went wrong.
    pub last_error: Option<LastError>,
    /// How attempts ended.
    pub ended: Ended,
    /// What each slot is known to have held healthily: a slot leaves it when it is written again.
    pub committed: PerSlot<Option<CommittedSlot>>,
    /// What the wanted health checks found of what was committed last.
    pub warnings: Option<Warnings>,
    /// Channel chosen by `updatectl channel`, over the configured one.
    pub channel: Option<String>,
    /// When a pending release was last superseded by a newer one.
    pub superseded_at: Option<Wall>,
    /// Words about the journal itself (set aside, unreadable), until a person has seen an update commit.
    pub journal_note: Option<String>,
}

/// What is remembered of checks.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckMemory {
    /// Checks ever started.
    pub count: u64,
    /// When the next one is due.
    pub next: Option<Alarm>,
    /// When the last one ended.
    pub last_at: Option<Wall>,
    /// What it brought.
    pub last_outcome: Option<CheckOutcome>,
    /// The same in words.
    pub last_result: Option<String>,
    /// Errors in a row.
    pub errors: u32,
    /// A server's hold: why and until when, as it said.
    pub hold: Option<Hold>,
    /// When a server was last reached.
    pub reached_at: Option<Wall>,
    /// When this host began to look for a server; what counts until one was reached.
    pub since: Option<Wall>,
    /// `created` of the newest record seen, by sequence.
    pub newest_record: Option<NewestRecord>,
    /// Refused offers that the update server was told of, the last ones: each is told once.
    pub refusals_reported: Vec<ReportedRefusal>,
}

/// A refused offer that the update server was told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedRefusal {
    /// Digest of its record; its label where there is no record that can be believed.
    pub release: String,
    /// Why it was refused.
    pub code: Cause,
}

/// What a check brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckOutcome {
    /// The server has nothing for this host.
    NoUpdate,
    /// What is offered runs.
    UpToDate,
    /// An update that can be installed.
    Available,
    /// An update that failed before, and is tried again after a pause.
    Paused,
    /// The server has an update and holds it back.
    Held,
    /// What is offered must not be installed.
    Refused,
    /// No answer, or one that cannot be used.
    Failed,
}

/// A server said: not now.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hold {
    /// The server's words.
    pub reason: String,
    /// Until when, as it said.
    pub until: Option<String>,
    /// Since when we know.
    pub since: Option<Wall>,
}

/// The newest record this host has verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewestRecord {
    /// Its place on the line.
    pub sequence: Sequence,
    /// When it was made.
    pub created: jiff::Timestamp,
}

/// A pause by a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When it ends by itself (wall clock: a person named a time of day).
    pub until: Option<jiff::Timestamp>,
    /// Why.
    pub reason: Option<String>,
    /// Since when.
    pub since: Wall,
}

/// Failed attempts in a row, until a release commits or a newer one than all that failed is offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// The release that failed last.
    pub digest: Sha256Digest,
    /// Highest sequence among those that failed: a server that alternates between two of them gains nothing.
    #[serde(default)]
    pub sequence: Sequence,
    /// How many.
    pub count: u32,
    /// The timer tries none of them before.
    #[serde(default)]
    pub retry: Option<Alarm>,
}

/// Reboots in a row that were to start a new slot, after which the old one ran and no try was spent: the loader does not read this boot
/// table, or it counts no tries and the image died before anything of it could write. Both look the same, and must not go on for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeverShown {
    /// Highest sequence among them, as in [`Failures`]: a server that alternates between two releases gains nothing.
    pub sequence: Sequence,
    /// How many.
    pub count: u32,
}

/// Boots in which a slot that was judged unhealthy still ran: a loader that ignores its marks must not make a host reboot for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadBoots {
    /// The attempt on trial.
    pub attempt: String,
    /// The boot that was counted last.
    pub boot_id: BootId,
    /// How many.
    pub count: u32,
}

/// A release that rolled back on this host: not installed again by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The release.
    pub digest: Sha256Digest,
    /// Its place on the line: a newer sequence is free to try.
    pub sequence: Sequence,
    /// Its label.
    pub version: String,
    /// Why it was given up.
    pub reason: String,
    /// When.
    pub at: Wall,
}

/// What the wanted health checks found of what a slot holds, when it was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warnings {
    /// The slot.
    pub slot: SlotName,
    /// A line each.
    pub found: Vec<String>,
}

/// The last thing that went wrong, for `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// Why.
    pub code: Cause,
    /// Sentence.
    pub message: String,
    /// When.
    pub at: Wall,
    /// What it is about: a success of the same kind clears it.
    #[serde(default)]
    pub about: About,
}

impl LastError {
    /// The message as far as it does not say that something is tried again soon: whoever knows when says that.
    pub fn what(&self) -> &str {
        SOON.iter().find_map(|soon| self.message.strip_suffix(soon)).unwrap_or(&self.message)
    }
}

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    /// Asking the server; the next good answer clears it.
    #[default]
    Check,
    /// A record that must not be installed, or that no server will ever give; the next good answer clears it.
    Offer,
    /// An attempt; the next committed one clears it.
    Attempt,
}

/// How attempts ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ended {
    /// Committed.
    pub committed: u64,
    /// Rolled back.
    pub rolled_back: u64,
    /// Failed.
    pub failed: u64,
}

/// A release that was committed in a slot and has not been overwritten since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedSlot {
    /// The release.
    pub digest: Sha256Digest,
    /// Its place on the line.
    pub sequence: Sequence,
    /// Its label.
    pub version: String,
}

impl Pause {
    /// As a gate: closed, and until when.
    pub fn gate(&self) -> Gate {
        let closed = match &self.reason {
            Some(reason) => format!("this host is paused: {reason}"),
            None => "this host is paused".to_owned(),
        };
        Gate { gate: "pause".to_owned(), closed: Some(closed), until: self.until.map(|until| until.to_string()) }
    }
}

impl Ended {
    /// One more that ended so; those that were abandoned are in the history alone.
    pub fn count(&mut self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Committed => &mut self.committed,
            Outcome::RolledBack => &mut self.rolled_back,
            Outcome::Failed => &mut self.failed,
            Outcome::Abandoned => return,
        };
        *counter = counter.saturating_add(1);
    }
}

impl Model {
    /// The refusal that stands against a release.
    pub fn refusal_of(&self, digest: Sha256Digest) -> Option<&Refusal> {
        self.refusals.iter().find(|refusal| refusal.digest == digest)
    }
}

/// Progress of the work under way; never journalled.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Progress {
    /// `scanning`, `fetching` or `proving`.
    pub phase: &'static str,
    /// Windows known to be right.
    pub windows_done: u64,
    /// Windows of the release.
    pub windows_total: u64,
    /// Bytes written in this run.
    pub bytes_written: u64,
    /// Bytes of the release.
    pub bytes_total: u64,
    /// Bytes received in this run.
    pub bytes_downloaded: u64,
    /// Bytes that were right in the slot already.
    pub bytes_reused: u64,
    /// Present rate of whatever is counted in this phase.
    pub rate_bytes_per_s: u64,
    /// Seconds left at this rate.
    pub eta_s: Option<u64>,
    /// Why nothing comes just now, if so: the source and what it did.
    pub trouble: Option<String>,
}

/// Labels of a map, joined, for messages.
pub(crate) fn names<V>(map: &BTreeMap<String, V>) -> String {
    if map.is_empty() {
        return "none".to_owned();
    }
    map.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}
