//! What happened in a group, for people: who was granted, released, freed by whom and why.
//!
//! Promises: an entry is written in the same transaction as the change it tells of, and holds no attempt id, only its tag.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Holder, Max, Outcome, Phase};
use crate::names::{HostId, Label, Reason, Tag};

/// Most entries kept per group; the oldest go first.
pub const MAX_ENTRIES: usize = 1000;

/// One line of a group's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// What.
    pub event: Event,
    /// Which host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<HostId>,
    /// Under which attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// The number of its grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
    /// How far the host was; none of an operator's hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The version it updates to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Label>,
    /// How its attempt ended, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The maximum before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_max: Option<Max>,
    /// The maximum after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Max>,
    /// The operator who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Label>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// What an [`Entry`] tells of. Written on disk; never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The group was made.
    Created,
    /// A host was granted a place.
    Granted,
    /// An operator took a place in a host's name.
    Held,
    /// A holder went on from draining to rebooting.
    Rebooting,
    /// A holder gave its place back.
    Released,
    /// A draining holder fell silent and was freed.
    LeaseExpired,
    /// An operator freed a holder.
    ForcedUnlock,
    /// An operator changed the maximum.
    MaxChanged,
}

impl Entry {
    /// An entry about a holder.
    pub fn about(event: Event, holder: &Holder, at: Timestamp) -> Self {
        Self {
            id: Some(holder.id.clone()),
            tag: holder.tag(),
            fence: Some(holder.fence),
            phase: holder.by.is_none().then_some(holder.phase),
            version: holder.facts.version.clone(),
            by: holder.by.clone(),
            ..Self::bare(event, at)
        }
    }

    /// The entry of a group that was made.
    pub fn created(max: Max, at: Timestamp) -> Self {
        Self { max: Some(max), ..Self::bare(Event::Created, at) }
    }

    pub(super) fn max_changed(old: Max, new: Max, by: &Label, at: Timestamp) -> Self {
        Self { old_max: Some(old), max: Some(new), by: Some(by.clone()), ..Self::bare(Event::MaxChanged, at) }
    }

    fn bare(event: Event, at: Timestamp) -> Self {
        Self {
            at,
            event,
            id: None,
            tag: None,
            fence: None,
            phase: None,
            version: None,
            outcome: None,
            old_max: None,
            max: None,
            by: None,
            reason: None,
        }
    }
}

impl Event {
    /// The word in JSON and in the command's table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Granted => "granted",
            Self::Held => "held",
            Self::Rebooting => "rebooting",
            Self::Released => "released",
            Self::LeaseExpired => "lease-expired",
            Self::ForcedUnlock => "forced-unlock",
            Self::MaxChanged => "max-changed",
        }
    }
}
