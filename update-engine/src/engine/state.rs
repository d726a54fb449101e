//! The states an update goes through, as data that can be written down.
//!
//! | state | effect running | leaves on → | durable *before* the effect |
//! | --- | --- | --- | --- |
//! | Idle | timer | due → Checking | schedule, last result |
//! | Checking | request | plan → Fetching; none, held, refused → Idle with the reason; error → Idle with back-off | attempt number |
//! | Deferred | timer | allowed → Fetching | plan, reason |
//! | Fetching | disarm the inactive slot, fetch, verify, write | all windows → Written; error → Failed | plan; the slot is disarmed before its first byte |
//! | Written | read-back | equal → Proven; differs → Fetching again (bounded) | writer finished (fsync) |
//! | Proven | gates, then the lock | granted → Locked; refused → wait, with the reason | – (earned again after a restart) |
//! | Locked | drain, acknowledge `rebooting`, arm | done → Armed; gate closed → undrain, release, Proven; error → disarm, undrain, release, Failed | the claim, *before* asking for the lock |
//! | Armed | reboot | new boot: new slot → Trial; old slot, tries spent → RolledBack; old slot, no try spent → Failed. Same boot: gates and lock again | plan, old slot, boot id |
//! | Trial | health | healthy → Committed; not → mark this slot bad, reboot (bounded) | tries are the boot loader's |
//! | Committed | mark good, raise the floor | read back → Idle | outbox rows |
//! | RolledBack | disarm the slot that failed | read back → Idle | outbox rows, refusal |
//! | Failed | timer | pause over → Idle | failures counted |

use manifests::digest::Sha256Digest;
use manifests::release::SlotName;
use manifests::version::{Sequence, Version};
use serde::{Deserialize, Serialize};

use crate::engine::amount::bytes;
use crate::engine::cause::Cause;
use crate::engine::event::Fault;
use crate::engine::time::{BootId, Mono, Wall};

/// Where an update stands. The journal holds it as JSON: names are never changed, fields only added with a default.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Nothing under way.
    #[default]
    Idle,
    /// A server is being asked (or files are being read).
    Checking {
        /// What was asked for.
        request: Request,
    },
    /// An update is known and must wait before it may be fetched.
    Deferred {
        /// What will be fetched.
        plan: Plan,
        /// Why not now.
        reason: String,
        /// When it is looked at again, wall clock, for display.
        until: Option<Wall>,
    },
    /// The inactive slot is being written.
    Fetching {
        /// What is fetched.
        plan: Plan,
        /// Times the proof failed and windows were fetched again.
        #[serde(default)]
        rewrites: u32,
    },
    /// All windows are written and flushed; they are being read back.
    Written {
        /// What was written.
        plan: Plan,
        /// As in `Fetching`.
        #[serde(default)]
        rewrites: u32,
    },
    /// The slot was read back in this run of the daemon; gates and lock are next.
    Proven {
        /// What is proven.
        plan: Plan,
        /// What the reboot waits for.
        step: Waiting,
    },
    /// The reboot lock is held (or not needed) and the slot is about to be armed.
    Locked {
        /// What is about to be armed.
        plan: Plan,
        /// The boot in which this began.
        boot_id: BootId,
        /// How far.
        step: LockedStep,
    },
    /// The boot loader will try the new slot on the next boot.
    Armed {
        /// What is armed.
        plan: Plan,
        /// The slot that ran when it was armed.
        old_slot: SlotName,
        /// The boot in which it was armed.
        boot_id: BootId,
        /// How far towards the reboot.
        step: ArmedStep,
    },
    /// The new slot runs and has to show that it is healthy.
    Trial {
        /// What is on trial.
        plan: Plan,
        /// Set once the slot was judged unhealthy: it is being marked bad.
        #[serde(default)]
        verdict: Option<String>,
    },
    /// Healthy; the marks are being made permanent.
    Committed {
        /// What was committed.
        plan: Plan,
    },
    /// The old slot runs again; the failed one is being disarmed.
    RolledBack {
        /// What did not come up.
        plan: Plan,
        /// Why.
        why: String,
    },
    /// The attempt failed; a pause, then from the start.
    Failed {
        /// What failed, if it got that far.
        plan: Option<Plan>,
        /// Why.
        code: Cause,
        /// Failures of this release in a row.
        failures: u32,
    },
}

/// What a proven slot waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Waiting {
    /// For a person (`manual` with a lock, or `--no-reboot`).
    Person,
    /// Gates are being looked at.
    Gates,
    /// A gate said wait; the time of the next look is known.
    GateClosed,
    /// The lock is being asked for.
    Lock,
    /// The lock was refused; the time of the next try is known.
    LockRefused,
}

/// Steps between the grant and the armed slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockedStep {
    /// Drain hooks run.
    Draining,
    /// Gates are looked at once more: draining took time.
    GatesAgain,
    /// The server is told that the host will reboot, and has to acknowledge it.
    Acknowledging,
    /// The slot is being armed.
    Arming,
    /// Given up: see [`Plan::giving_up`].
    GivingUp,
}

/// Steps between the armed slot and the reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArmedStep {
    /// Any reboot activates it; nobody pushes (`manual` without a lock).
    Resting,
    /// The daemon was started again in the same boot: gates once more.
    Gates,
    /// A gate said wait.
    GateClosed,
    /// The lock once more, under the same attempt.
    Lock,
    /// The lock was refused, or its server is out of reach: it is asked once more before the slot is disarmed.
    LockRefused,
    /// The durable change to `rebooting` once more.
    Acknowledging,
    /// Drain hooks run: the slot was armed without them (`manual`), and now a person wants the reboot.
    Draining,
    /// The reboot command runs, or was accepted.
    Rebooting,
    /// Given up: see [`Plan::giving_up`].
    GivingUp,
}

/// What a check was asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Who asked.
    pub origin: Origin,
    /// Only tell, do not start.
    #[serde(default)]
    pub check_only: bool,
    /// Only this version.
    #[serde(default)]
    pub version: Option<String>,
    /// Below the highest committed sequence is fine (never below the floor).
    #[serde(default)]
    pub allow_older: bool,
    /// Stop at `proven`.
    #[serde(default)]
    pub no_reboot: bool,
}

impl Request {
    /// The timer's own request.
    pub const fn timer() -> Self {
        Self { origin: Origin::Timer, check_only: false, version: None, allow_older: false, no_reboot: false }
    }
}

/// Who asked for a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The schedule.
    Timer,
    /// A person, of the server.
    Person,
    /// A person, from files or URLs, without a server.
    Files {
        /// Path or URL of the record.
        release: String,
        /// Path or URL of the full payload, if one was given.
        payload: Option<String>,
        /// Path or URL of a delta, if one was given.
        #[serde(default)]
        delta: Option<String>,
    },
}

/// Label of what ran, where that had none.
pub(super) const UNKNOWN_VERSION: &str = "unknown";

/// One attempt to bring one release into one slot, and later to boot it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Attempt id: the same in the lock, the events, the history and the hooks.
    pub attempt: String,
    /// What kind of attempt.
    #[serde(default)]
    pub kind: Kind,
    /// Slot that is written.
    pub slot: SlotName,
    /// Label of what ran when it was made.
    pub from_version: String,
    /// Label of the release.
    pub version: Version,
    /// Its place on the line.
    pub sequence: Sequence,
    /// Its identity.
    pub digest: Sha256Digest,
    /// Where its payload is.
    pub source: Source,
    /// Notes, when they are a URL.
    #[serde(default)]
    pub notes_url: Option<String>,
    /// Bytes of all images.
    pub image_bytes: u64,
    /// A person said `--no-reboot`.
    #[serde(default)]
    pub no_reboot: bool,
    /// A person said `updatectl reboot`: the strategy `manual` no longer holds it back.
    #[serde(default)]
    pub reboot_asked: bool,
    /// A person said `reboot --force`: no lock, recorded.
    #[serde(default)]
    pub forced: bool,
    /// A person permitted a release below the highest committed one, recorded.
    #[serde(default)]
    pub allow_older: bool,
    /// The lock that was asked for, written down before it was asked for.
    #[serde(default)]
    pub claim: Option<Claim>,
    /// The server was told that it is installed: a proof that is earned again is not told again.
    #[serde(default)]
    pub reported_installed: bool,
    /// Hooks of `drain.d` were started: giving up has to run `undrain.d`.
    #[serde(default)]
    pub drained: bool,
    /// Set once the way back is taken: disarm, undrain, release, in this order. While an answer that could still change the
    /// world is on its way (lock, acknowledgement, arming), it is waited for first.
    #[serde(default)]
    pub giving_up: Option<GivingUp>,
    /// What the wanted health checks found of it: it is kept all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// When the attempt began.
    pub started_at: Wall,
}

/// Which release in which slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Slot.
    pub slot: SlotName,
    /// Label.
    pub version: Version,
    /// Place on the line.
    pub sequence: Sequence,
    /// Identity.
    pub digest: Sha256Digest,
}

impl Plan {
    /// A plan for a slot that needs no payload: it holds its release already.
    pub fn without_payload(attempt: String, kind: Kind, target: Target, from_version: String, started_at: Wall) -> Self {
        Self {
            attempt,
            kind,
            slot: target.slot,
            from_version,
            version: target.version,
            sequence: target.sequence,
            digest: target.digest,
            source: Source::default(),
            notes_url: None,
            image_bytes: 0,
            no_reboot: false,
            reboot_asked: false,
            forced: false,
            allow_older: false,
            claim: None,
            reported_installed: true,
            drained: false,
            giving_up: None,
            warnings: Vec::new(),
            started_at,
        }
    }

    /// What a host on trial goes back to, as it is called.
    pub fn way_back(&self) -> String {
        let is_known = self.from_version != UNKNOWN_VERSION;
        if is_known { self.from_version.clone() } else { format!("slot {}", self.slot.other()) }
    }

    /// What is left of it when the attempt has ended: its lock is given back, nothing of it is to be done any more.
    #[must_use]
    pub fn ended(&self) -> Self {
        Self { claim: None, drained: false, giving_up: None, ..self.clone() }
    }
}

/// Why the way back is taken, and where it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivingUp {
    /// Why.
    pub code: Cause,
    /// Sentence.
    pub message: String,
    /// How long whoever refused wants not to be asked again, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// Where it ends.
    pub end: WayBack,
    /// The slot may be armed: it is disarmed first.
    #[serde(default)]
    pub disarm: bool,
}

impl GivingUp {
    /// The way back because of a fault.
    pub fn over(fault: Fault, end: WayBack, slot: SlotMayBe) -> Self {
        let Fault { code, message, retry_after_s } = fault;
        Self { code, message, retry_after_s, end, disarm: slot == SlotMayBe::Armed }
    }

    /// As what the slot counts on this way.
    pub const fn slot(&self) -> SlotMayBe {
        SlotMayBe::armed_if(self.disarm)
    }

    /// The fault it was because of.
    pub fn fault(&self) -> Fault {
        Fault::new(self.code.clone(), self.message.clone()).not_before(self.retry_after_s)
    }
}

/// What the slot may be when the way back is taken: one that may be armed is disarmed before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotMayBe {
    /// It may be armed.
    Armed,
    /// The boot table was read, or nothing can have changed it since: it is not armed.
    NotArmed,
}

impl SlotMayBe {
    /// By what is known of it.
    pub const fn armed_if(known: bool) -> Self {
        if known { Self::Armed } else { Self::NotArmed }
    }
}

/// Where the way back ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WayBack {
    /// The attempt failed.
    Failed,
    /// A person or a newer release ended it.
    Abandoned,
    /// The attempt goes on: the proven slot waits for gates and lock again.
    Waits,
}

/// Kinds of attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A release is fetched and written.
    #[default]
    Update,
    /// Back to what the other slot still holds.
    Rollback,
    /// The host was found on trial in a slot whose attempt this journal does not know.
    Found,
}

/// Where a payload is.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Source {
    /// URLs or absolute paths of the full payload, in the order to try.
    pub urls: Vec<String>,
    /// Length that was announced; 0 = not known (files).
    #[serde(default)]
    pub size: u64,
    /// Where a delta from the release that runs is, when one is offered.
    #[serde(default)]
    pub delta: Option<DeltaSource>,
}

impl Source {
    /// How much is downloaded when all goes well and the slot holds nothing of it yet: `12.7 MiB (full: 231 MiB)`, as far as the server said it.
    pub fn in_words(&self) -> Option<String> {
        let full = (self.size > 0).then(|| bytes(self.size));
        let delta = self.delta.as_ref().filter(|delta| delta.size > 0).map(|delta| bytes(delta.size));
        match (delta, full) {
            (Some(delta), Some(full)) => Some(format!("{delta} (full: {full})")),
            (delta, full) => delta.or(full),
        }
    }
}

/// Where a delta is.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeltaSource {
    /// URLs or absolute paths, in the order to try.
    pub urls: Vec<String>,
    /// Length that was announced; 0 = not known.
    #[serde(default)]
    pub size: u64,
}

/// A lock that was asked for: what releasing it needs, whatever the configuration says by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Base URL of the lock server.
    pub url: String,
    /// Group.
    pub group: String,
    /// Id this host locks under.
    pub id: String,
    /// Our server's fence; `None` = not granted yet, or a plain FleetLock server.
    #[serde(default)]
    pub fence: Option<String>,
    /// A grant was seen.
    #[serde(default)]
    pub granted: bool,
}

impl State {
    /// The plan under way.
    pub const fn plan(&self) -> Option<&Plan> {
        match self {
            Self::Deferred { plan, .. }
            | Self::Fetching { plan, .. }
            | Self::Written { plan, .. }
            | Self::Proven { plan, .. }
            | Self::Locked { plan, .. }
            | Self::Armed { plan, .. }
            | Self::Trial { plan, .. }
            | Self::Committed { plan }
            | Self::RolledBack { plan, .. } => Some(plan),
            Self::Failed { plan, .. } => plan.as_ref(),
            Self::Idle | Self::Checking { .. } => None,
        }
    }

    /// The plan under way, to change.
    pub const fn plan_mut(&mut self) -> Option<&mut Plan> {
        match self {
            Self::Deferred { plan, .. }
            | Self::Fetching { plan, .. }
            | Self::Written { plan, .. }
            | Self::Proven { plan, .. }
            | Self::Locked { plan, .. }
            | Self::Armed { plan, .. }
            | Self::Trial { plan, .. }
            | Self::Committed { plan }
            | Self::RolledBack { plan, .. } => Some(plan),
            Self::Failed { plan, .. } => plan.as_mut(),
            Self::Idle | Self::Checking { .. } => None,
        }
    }

    /// The word for it in `status`.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Checking { .. } => "checking",
            Self::Deferred { .. } => "deferred",
            Self::Fetching { .. } => "fetching",
            Self::Written { .. } => "written",
            Self::Proven { .. } => "proven",
            Self::Locked { .. } => "locked",
            Self::Armed { .. } => "armed",
            Self::Trial { .. } => "trial",
            Self::Committed { .. } => "committed",
            Self::RolledBack { .. } => "rolled-back",
            Self::Failed { .. } => "failed",
        }
    }
}

/// A timer that survives a restart of the daemon, but not a reboot: [`Mono`] means nothing in another boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Boot it was set in.
    pub boot_id: BootId,
    /// When it rings.
    pub at: Mono,
    /// The same on the wall clock of the moment it was set: part of the form on disk. That clock may have jumped since, so nobody is shown it.
    pub at_wall: Wall,
}
