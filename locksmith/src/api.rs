//! The JSON of locksmithd's own interface, `/v1/groups…`: what `locksmithctl` shows and asks.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/groups` | [`GroupList`] |
//! | `POST /v1/groups` with [`NewGroup`] | 201 [`GroupBody`] |
//! | `GET /v1/groups/G` | [`GroupBody`] |
//! | `GET /v1/groups/G/history?limit=N` | [`HistoryBody`] |
//! | `PUT /v1/groups/G/max` with [`NewMax`] | [`MaxChanged`] |
//! | `POST /v1/groups/G/lock` with [`Hold`] | [`Held`] |
//! | `POST /v1/groups/G/unlock` with [`Unlock`] | [`HolderBody`] of whom it freed |
//!
//! What changes something needs FleetLock's header `fleet-lock-protocol: true`, as hosts send it, and no `Origin`: so that
//! no web page in an operator's browser can ask it.
//!
//! Everything else is answered with FleetLock's `{"kind", "value"}`. Readers must ignore members they do not know.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fleetlock::{HolderBody, listed};
use crate::names::{GroupName, HostId};
use crate::semaphore::history::Entry;

/// The number of this JSON's shape, in every answer.
pub const SCHEMA: u32 = 1;

/// Waiting hosts listed in a group; more are counted in `waiting_total`.
pub const LISTED_WAITERS: usize = 100;

/// History entries answered when no limit is given.
pub const DEFAULT_HISTORY: usize = 100;

/// All groups, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupList {
    /// [`SCHEMA`].
    pub schema: u32,
    /// In order of name.
    pub groups: Vec<GroupSummary>,
    /// Groups that are there but cannot be shown, in order of name; usually none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubled: Vec<TroubledGroup>,
    /// How many groups beside these have a name that cannot be read; usually none. While there is one no group is made.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unreadable: u64,
}

/// A group that cannot be shown, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TroubledGroup {
    /// Its name.
    pub group: GroupName,
    /// What it would be refused with: a word of a small set.
    pub kind: String,
    /// And a sentence for a person.
    pub value: String,
}

/// One group, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSummary {
    /// Its name.
    pub group: GroupName,
    /// How many may hold a place.
    pub max: u32,
    /// How many places are free.
    pub available: u64,
    /// How many hold one.
    pub holders_total: u64,
    /// How many wait for one.
    pub waiting_total: u64,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupBody {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its name.
    pub group: GroupName,
    /// How many may hold a place.
    pub max: u32,
    /// How many places are free.
    pub available: u64,
    /// Who holds one, in the order of their grants. In JSON each has `stands` too, its [`HolderBody::stands`].
    #[serde(serialize_with = "listed")]
    pub holders: Vec<HolderBody>,
    /// Who waits, first come first; at most [`LISTED_WAITERS`].
    pub waiting: Vec<WaiterBody>,
    /// How many wait.
    pub waiting_total: u64,
    /// The number of the last change.
    pub revision: u64,
}

/// A host that waits for a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaiterBody {
    /// Who.
    pub id: HostId,
    /// Since when.
    pub since: Timestamp,
}

/// A group's history, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryBody {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The group.
    pub group: GroupName,
    /// Newest first.
    pub entries: Vec<Entry>,
    /// How many beside these cannot be read; usually none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unreadable: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks so
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Makes a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewGroup {
    /// Its name.
    pub group: String,
    /// How many may hold a place.
    pub max: u32,
}

/// Changes how many may hold a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMax {
    /// The new maximum.
    pub max: u32,
    /// Who changes it, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A maximum that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxChanged {
    /// Before.
    pub old_max: u32,
    /// Now.
    pub max: u32,
}

/// Takes a place in the name of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The host.
    pub id: String,
    /// Who takes it. Who asks again under the same word is told that he holds it; without one, nobody is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A place that is held in the name of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The number of the grant.
    pub fence: u64,
    /// Since when the asker held it already; none if it was taken now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub already_since: Option<Timestamp>,
}

/// Frees a holder, whatever its attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlock {
    /// The holder.
    pub id: String,
    /// Why, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who frees it, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}
