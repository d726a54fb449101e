//! The documents that the control socket serves and `updatectl --json` prints, as types.
//!
//! Names and meanings are a contract with whoever reads them: keys are only ever added, and a reader ignores those it does not
//! know. A key that can be missing in an older document has a default here. What is not known is `null`, never a guess.
//!
//! ```
//! use update_engine::status::json::{ExitClass, State, Status};
//!
//! let mut status = Status::default();
//! assert_eq!(status.exit_class(), ExitClass::Current);
//! status.state = State::Fetching;
//! assert_eq!(status.exit_class(), ExitClass::UnderWay);
//! ```

use std::num::NonZeroU64;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::model::CheckOutcome;
use crate::fetch::MaxRate;

/// The `schema` of [`Status`]. It changes only if a key is renamed or removed.
pub const SCHEMA: u32 = 1;

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Where the update stands.
    pub state: State,
    /// One sentence: what, why, what next, when.
    pub summary: String,
    /// Who this host is.
    pub host: Host,
    /// What runs.
    pub booted: Booted,
    /// Both slots.
    pub slots: Vec<Slot>,
    /// What is being installed or tried.
    pub target: Option<Target>,
    /// How far the work under way is.
    pub progress: Option<Progress>,
    /// A slot is on trial: what it waits for.
    #[serde(default)]
    pub trial: Option<Trial>,
    /// The slots are being read back because a person asked for it; that goes on beside whatever else is done.
    #[serde(default)]
    pub inspection: Option<Inspecting>,
    /// A host's own disk, or a disk image.
    pub mode: Mode,
    /// Looking for updates.
    pub check: Check,
    /// The reboot into the new slot.
    pub reboot: Reboot,
    /// A person paused this host.
    #[serde(default)]
    pub pause: Option<Pause>,
    /// How fast payloads may be downloaded.
    #[serde(default)]
    pub limit: Limit,
    /// The last thing that went wrong.
    pub last_error: Option<LastError>,
    /// What is kept of the kernel's log of the rollback that `last_error` is about.
    #[serde(default)]
    pub kernel_log: Option<KernelLog>,
    /// How attempts ended.
    pub attempts: Attempts,
    /// What the wanted health checks found of the release that runs, when it was committed: a line each.
    #[serde(default)]
    pub health_warnings: Vec<String>,
    /// What a person has to mend, most important first: no key, state lost, stale, a slot that is broken, …
    #[serde(default)]
    pub troubles: Vec<Trouble>,
}

/// How fast payloads may be downloaded, all of them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limit {
    /// Bytes a second; `null` = as fast as it goes.
    pub max_rate_bytes_per_s: Option<u64>,
    /// Who says so.
    pub by: LimitBy,
    /// When that ends by itself, if a person said so.
    pub until: Option<Timestamp>,
}

/// Who says how fast payloads may be downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitBy {
    /// `[fetch] max_rate`.
    #[default]
    Configuration,
    /// `[fetch] hours`, at this hour.
    Hours,
    /// `updatectl limit`.
    Command,
}

impl Limit {
    /// One sentence.
    pub fn to_words(self) -> String {
        let rate = match self.max_rate_bytes_per_s.and_then(NonZeroU64::new) {
            Some(rate) => format!("At most {} are downloaded", MaxRate(Some(rate))),
            None => "Downloads are as fast as they go".to_owned(),
        };
        match (self.by, self.until) {
            (LimitBy::Configuration, _) => format!("{rate}, as the configuration says."),
            (LimitBy::Hours, _) => format!("{rate}, as the configuration says for these hours."),
            (LimitBy::Command, Some(until)) => format!("{rate}, by `updatectl limit` until {until}."),
            (LimitBy::Command, None) => format!("{rate}, by `updatectl limit` until the daemon starts anew."),
        }
    }
}

/// Where an update stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing under way.
    #[default]
    Idle,
    /// A server is being asked.
    Checking,
    /// An update is known and waits before it is fetched.
    Deferred,
    /// The other slot is being written.
    Fetching,
    /// The other slot is written and being read back.
    Written,
    /// The other slot is proven; gates and lock are next.
    Proven,
    /// The lock is held; the slot is about to be armed.
    Locked,
    /// The next boot starts the new slot.
    Armed,
    /// The new slot runs and has to show that it is healthy.
    Trial,
    /// Healthy; the marks are being made.
    Committed,
    /// The old slot runs again; the failed one is being disarmed.
    RolledBack,
    /// The attempt failed; a pause before the next.
    Failed,
}

/// Who this host is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Host {
    /// Machine id.
    pub id: String,
    /// A name for people, or empty.
    pub alias: String,
    /// The product.
    pub app_id: String,
    /// The channel followed.
    pub channel: String,
    /// The board, or empty.
    pub board: String,
    /// The architecture.
    pub arch: String,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Booted {
    /// The slot; `null` when it is not known.
    pub slot: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// It is marked good.
    pub confirmed: bool,
    /// The kernel's boot id.
    pub boot_id: String,
}

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Slot {
    /// `a` or `b`.
    pub name: String,
    /// What is in it, as far as it is known.
    pub version: Option<String>,
    /// It runs.
    pub booted: bool,
    /// The loader starts it next.
    pub next: bool,
    /// The loader may start it.
    pub bootable: bool,
    /// It is marked good.
    pub good: bool,
    /// Boots left before the loader gives it up; 0 for a good one.
    pub tries_left: u8,
    /// It was read back against its record before its first boot.
    pub proven: bool,
    /// How it was read back, where that is known.
    #[serde(default)]
    pub read_back: Option<ReadBack>,
}

/// Where a read-back read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadBack {
    /// The medium.
    Direct,
    /// The page cache, dropped before: the file system refuses direct reads.
    Cached,
}

/// What is being installed or tried.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Target {
    /// Its version.
    pub version: String,
    /// The slot it goes to.
    pub slot: String,
    /// The attempt.
    pub attempt: String,
    /// What changed in it.
    pub notes_url: Option<String>,
}

/// How far the work under way is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Windows known to be right.
    pub windows_done: u64,
    /// Windows of the release.
    pub windows_total: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes of the release.
    pub bytes_total: u64,
    /// Bytes received.
    pub bytes_downloaded: u64,
    /// Bytes that were right in the slot already.
    pub bytes_reused: u64,
    /// Present rate.
    pub rate_bytes_per_s: u64,
    /// Seconds left at this rate.
    pub eta_s: Option<u64>,
    /// Why nothing comes just now, if so: the source and what it did. It is asked again, or another one is.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Hashing what is in the slot already.
    Scanning,
    /// Fetching, verifying and writing.
    #[default]
    Fetching,
    /// Reading back.
    Proving,
}

/// What the settings are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// This machine's own disk.
    #[default]
    Host,
    /// A disk image file.
    Image,
}

/// Looking for updates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Check {
    /// When the last check ended.
    pub last_at: Option<Timestamp>,
    /// What it brought.
    #[serde(default)]
    pub last_outcome: Option<CheckOutcome>,
    /// The same in words.
    pub last_result: Option<String>,
    /// When the next one is due.
    pub next_at: Option<Timestamp>,
    /// The server, without credentials; empty when there is none.
    pub server: String,
    /// When the newest record seen was made.
    pub newest_record_created: Option<Timestamp>,
    /// The server has an update and holds it back.
    #[serde(default)]
    pub hold: Option<Hold>,
}

/// A server said: not now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hold {
    /// Its words.
    pub reason: String,
    /// Until when, as it said.
    pub until: Option<String>,
    /// Since when this host knows.
    pub since: Option<Timestamp>,
}

/// The reboot into the new slot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reboot {
    /// `immediate`, `lock` or `manual`.
    pub strategy: String,
    /// Gates that are closed.
    pub waiting_for: Vec<Waiting>,
    /// The reboot lock.
    pub lock: Lock,
}

/// A person said: start nothing, reboot nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pause {
    /// Why, as far as it was said.
    pub reason: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself; `null`: when somebody resumes.
    pub until: Option<Timestamp>,
}

/// A gate that is closed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Waiting {
    /// `window`, `lock`, `breaker`, `inhibitor`, `users`, `hook` or `pause`.
    pub gate: String,
    /// Who or what, and why.
    pub detail: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Until when, as far as it is known.
    pub until: Option<String>,
    /// When it is asked again.
    #[serde(default)]
    pub retry_at: Option<Timestamp>,
}

/// The reboot lock.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lock {
    /// `none` or `fleetlock`.
    pub backend: String,
    /// The group of hosts that share it.
    pub group: String,
    /// This host holds it.
    pub held: bool,
    /// Who holds it, as the server said last.
    pub holders: Vec<Holder>,
    /// Most holders at once, where the server says it.
    pub max: Option<u32>,
}

/// A holder of the lock, as the server shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Holder {
    /// Its id.
    pub id: String,
    /// Since when.
    #[serde(default)]
    pub since: Option<String>,
    /// `draining`, `rebooting`, `overdue`.
    #[serde(default)]
    pub phase: Option<String>,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LastError {
    /// Stable word of the cause.
    pub code: String,
    /// What, where, expected, got.
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// It calls for a person: an attempt failed or was rolled back and none has begun or succeeded since, or what is under way
    /// cannot go on. A document without this key is read as if it did.
    #[serde(default = "calls_for_a_person")]
    pub attention: bool,
}

fn calls_for_a_person() -> bool {
    true
}

/// How attempts ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attempts {
    /// Healthy and marked good.
    pub committed: u64,
    /// Back on the old slot.
    pub rolled_back: u64,
    /// Given up after an error.
    pub failed: u64,
}

/// Something a person has to mend.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trouble {
    /// Stable word, such as `no-key`, `stale`, `slots`, `floor-lost`.
    pub code: String,
    /// What, where, expected, got, and what to do.
    pub message: String,
}

/// An entry of `GET /v1/history`, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The attempt's id.
    pub attempt: String,
    /// The version that ran when it began.
    pub from: Option<String>,
    /// The version it led to.
    pub to: String,
    /// The release's place on the line.
    pub sequence: u64,
    /// The slot it went to.
    pub slot: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: Outcome,
    /// Stable word of the cause, empty when it was committed.
    pub code: String,
    /// One sentence.
    pub reason: String,
    /// Bytes received for it.
    pub bytes_downloaded: u64,
    /// What was special about it: `--allow-older`, `--force`, a person's pause.
    pub notes: Vec<String>,
    /// What is kept of the log of its slot's kernel: of the last trial that was given up.
    #[serde(default)]
    pub kernel_log: Option<KernelLog>,
}

/// A slot on trial.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trial {
    /// When it is kept at the earliest, if it is healthy, because the host has not been up for long enough.
    pub kept_from: Option<Timestamp>,
    /// When the daemon judges it unhealthy, if it has not shown by then that it is healthy, or when it is left without the daemon, if that
    /// comes first; `null` while neither is known.
    #[serde(default)]
    pub deadline_at: Option<Timestamp>,
    /// What failed in the latest round of its checks, or what keeps it from being marked good, in one short line; `null` while nothing did.
    #[serde(default)]
    pub failing: Option<String>,
    /// Boots that the loader will still give it; `null` where the boot table cannot be read.
    #[serde(default)]
    pub tries_left: Option<u8>,
}

/// What is kept of a kernel's log, for everyone: not more than a line of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KernelLog {
    /// `kmsg`: it ran until the slot was left; `pstore`: it died and left it there.
    pub source: String,
    /// The line that tells most, if one does.
    pub line: Option<String>,
}

/// `GET /v1/kernel-log`: the whole of it, for those who may read a kernel's log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WholeKernelLog {
    /// The attempt whose slot it ran.
    pub attempt: String,
    /// The version, as far as the history still has the attempt.
    pub version: Option<String>,
    /// As in [`KernelLog`].
    pub source: String,
    /// As in [`KernelLog`].
    pub line: Option<String>,
    /// All that is kept, oldest first.
    pub lines: Vec<String>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It has not.
    #[default]
    Running,
    /// Booted, healthy, marked good.
    Committed,
    /// Back on the old slot.
    RolledBack,
    /// An error.
    Failed,
    /// Given up by a person, or overtaken by a newer release.
    Abandoned,
}

/// An entry of `GET /v1/why`: one gate of the chain, in the order they are asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WhyEntry {
    /// Its name.
    pub gate: String,
    /// What it says.
    pub state: GateState,
    /// Why.
    pub detail: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Until when, as far as it is known.
    pub until: Option<String>,
    /// When it is asked again.
    #[serde(default)]
    pub retry_at: Option<Timestamp>,
}

/// What a gate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateState {
    /// It was asked and is open.
    Passed,
    /// It was asked and will open by itself.
    Waiting,
    /// It was asked and stays closed until a person acts.
    Refused,
    /// Its turn has not come.
    #[default]
    Pending,
    /// It does not apply here, or a person skipped it.
    Skipped,
}

/// A line of `GET /v1/events`.
///
/// Everything that is accepted from a person ends in exactly one [`EventKind::Done`]: with `error` if it failed, without if it
/// is done or rests (waits for a gate, for a person, or for the reboot).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventLine {
    /// What kind of event.
    pub kind: EventKind,
    /// When.
    pub at: Timestamp,
    /// The state after it.
    pub state: State,
    /// One sentence.
    pub summary: String,
    /// How far the work is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The attempt it belongs to; with `inspection`, the id of that inspection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<LastError>,
    /// This tells of a look at the slots, and of no update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspection: Option<Inspection>,
}

/// A look at the slots that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspecting {
    /// The id its events carry.
    pub id: String,
    /// What it is.
    pub of: Inspection,
    /// How far the slot that is being read is.
    pub progress: Option<Progress>,
}

/// A look at the slots that changes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inspection {
    /// `updatectl verify`.
    Verify,
    /// `updatectl adopt`.
    Adopt,
}

/// What kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The state changed.
    Transition,
    /// The work moved on.
    Progress,
    /// Something worth telling.
    #[default]
    Message,
    /// What a person asked for has ended or rests.
    Done,
}

/// What `updatectl status --exit-code` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExitClass {
    /// 0: up to date, or nothing known to do.
    Current,
    /// 10: an update is under way, waits for its reboot, or is in trial.
    UnderWay,
    /// 20: something holds it: a pause, a gate, the server.
    Held,
    /// 30: a person has to look.
    Attention,
}

impl Default for Status {
    /// An idle host of which nothing is known.
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            state: State::default(),
            summary: String::new(),
            host: Host::default(),
            booted: Booted::default(),
            slots: Vec::new(),
            target: None,
            progress: None,
            trial: None,
            inspection: None,
            mode: Mode::default(),
            check: Check::default(),
            reboot: Reboot::default(),
            pause: None,
            limit: Limit::default(),
            last_error: None,
            kernel_log: None,
            attempts: Attempts::default(),
            health_warnings: Vec::new(),
            troubles: Vec::new(),
        }
    }
}

impl Status {
    /// The exit class: what needs a person comes before what waits, and that before what runs.
    ///
    /// Asking the server every hour is no update, so *checking* counts as *idle*.
    pub fn exit_class(&self) -> ExitClass {
        let at_rest = matches!(self.state, State::Idle | State::Checking);
        let last_failed = self.last_error.as_ref().is_some_and(|error| error.attention);
        let gave_up = matches!(self.state, State::Failed | State::RolledBack);
        if gave_up || !self.troubles.is_empty() || last_failed {
            return ExitClass::Attention;
        }
        let held_by_server = at_rest && self.check.hold.is_some();
        let held_by_person = self.state == State::Deferred || self.pause.is_some();
        if held_by_person || held_by_server || !self.reboot.waiting_for.is_empty() {
            return ExitClass::Held;
        }
        if at_rest { ExitClass::Current } else { ExitClass::UnderWay }
    }
}

impl ExitClass {
    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Current => 0,
            Self::UnderWay => 10,
            Self::Held => 20,
            Self::Attention => 30,
        }
    }
}

impl State {
    /// All states, in the order an update goes through them.
    pub const ALL: [Self; 12] = [
        Self::Idle,
        Self::Checking,
        Self::Deferred,
        Self::Fetching,
        Self::Written,
        Self::Proven,
        Self::Locked,
        Self::Armed,
        Self::Trial,
        Self::Committed,
        Self::RolledBack,
        Self::Failed,
    ];

    /// The word in the document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Checking => "checking",
            Self::Deferred => "deferred",
            Self::Fetching => "fetching",
            Self::Written => "written",
            Self::Proven => "proven",
            Self::Locked => "locked",
            Self::Armed => "armed",
            Self::Trial => "trial",
            Self::Committed => "committed",
            Self::RolledBack => "rolled-back",
            Self::Failed => "failed",
        }
    }
}

impl Phase {
    /// The word in the document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scanning => "scanning",
            Self::Fetching => "fetching",
            Self::Proving => "proving",
        }
    }
}

impl Outcome {
    /// The word in the document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Committed => "committed",
            Self::RolledBack => "rolled-back",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> Reboot {
        Reboot { waiting_for: vec![Waiting { gate: "lock".into(), ..Waiting::default() }], ..Reboot::default() }
    }

    fn last_error(attention: bool) -> Option<LastError> {
        Some(LastError { code: "network".into(), attention, ..LastError::default() })
    }

    #[test]
    fn each_state_has_its_exit_class_alone_and_with_what_can_come_along() {
        use ExitClass::{Attention, Current, Held, UnderWay};
        // state, alone, with a closed gate, with an error that calls for a person, with trouble
        let table = [
            (State::Idle, Current, Held, Attention, Attention),
            (State::Checking, Current, Held, Attention, Attention),
            (State::Deferred, Held, Held, Attention, Attention),
            (State::Fetching, UnderWay, Held, Attention, Attention),
            (State::Written, UnderWay, Held, Attention, Attention),
            (State::Proven, UnderWay, Held, Attention, Attention),
            (State::Locked, UnderWay, Held, Attention, Attention),
            (State::Armed, UnderWay, Held, Attention, Attention),
            (State::Trial, UnderWay, Held, Attention, Attention),
            (State::Committed, UnderWay, Held, Attention, Attention),
            (State::RolledBack, Attention, Attention, Attention, Attention),
            (State::Failed, Attention, Attention, Attention, Attention),
        ];
        assert_eq!(table.map(|row| row.0), State::ALL);
        for (state, alone, gate, failure, trouble) in table {
            let status = Status { state, ..Status::default() };
            assert_eq!(status.exit_class(), alone, "{state:?}");
            assert_eq!(Status { reboot: waiting(), ..status.clone() }.exit_class(), gate, "{state:?} with a gate");
            let failed = Status { last_error: last_error(true), ..status.clone() };
            assert_eq!(failed.exit_class(), failure, "{state:?} after a failure");
            let troubled = Status { troubles: vec![Trouble::default()], reboot: waiting(), ..status };
            assert_eq!(troubled.exit_class(), trouble, "{state:?} with trouble");
        }
    }

    #[test]
    fn an_error_that_calls_for_nobody_changes_no_exit_class() {
        let status = Status { last_error: last_error(false), ..Status::default() };
        assert_eq!(status.exit_class(), ExitClass::Current);
    }

    #[test]
    fn a_servers_hold_counts_as_held_while_nothing_is_under_way() {
        let check = Check { hold: Some(Hold::default()), ..Check::default() };
        let status = Status { check, ..Status::default() };
        assert_eq!(status.exit_class(), ExitClass::Held);
        assert_eq!(Status { state: State::Fetching, ..status }.exit_class(), ExitClass::UnderWay);
    }

    #[test]
    fn a_paused_host_is_held_whatever_it_does_but_for_what_needs_a_person() {
        for state in State::ALL {
            let paused = Status { state, pause: Some(Pause::default()), ..Status::default() };
            let gave_up = matches!(state, State::Failed | State::RolledBack);
            assert_eq!(paused.exit_class(), if gave_up { ExitClass::Attention } else { ExitClass::Held }, "{state:?}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        use ExitClass::{Attention, Current, Held, UnderWay};
        assert_eq!([Current, UnderWay, Held, Attention].map(ExitClass::code), [0, 10, 20, 30]);
    }

    #[test]
    fn words_and_json_are_the_same_for_every_state() {
        for state in State::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for outcome in [Outcome::Running, Outcome::Committed, Outcome::RolledBack, Outcome::Failed, Outcome::Abandoned] {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
        for phase in [Phase::Scanning, Phase::Fetching, Phase::Proving] {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
        }
    }

    #[test]
    fn a_document_with_keys_of_a_later_version_and_without_the_added_ones_can_be_read() {
        let mut value = serde_json::to_value(Status { last_error: last_error(false), ..Status::default() }).unwrap();
        let object = value.as_object_mut().unwrap();
        object.remove("troubles");
        object.remove("pause");
        object.remove("inspection");
        object.insert("novelty".into(), true.into());
        object["last_error"].as_object_mut().unwrap().remove("attention");
        let status: Status = serde_json::from_value(value).unwrap();
        assert_eq!(status, Status { last_error: last_error(true), ..Status::default() });
    }
}
