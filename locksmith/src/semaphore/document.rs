//! What a group remembers, and how it is written down.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::names::{AttemptId, HostId, Label, Tag};

/// The format number written into every document.
pub const DOCUMENT_FORMAT: u32 = 1;

/// Most places a group may have. A document of 1,000 holders is below 1 MiB, what an etcd transaction may carry.
pub const MAX_PLACES: u32 = 1000;

/// What stands in a phase's stead where people look at an operator's hold: nobody reboots under it.
pub const HELD: &str = "held";

/// Longest time a host may claim it needs for its reboot, in seconds (a day); longer claims are cut to it.
pub const MAX_DEADLINE_S: u64 = 24 * 60 * 60;

/// The maximum of a group: 0 (nobody may reboot) to 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Max(u32);

/// A maximum above [`MAX_PLACES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("max {0}: expected 0 to {MAX_PLACES}")]
pub struct MaxError(u32);

/// What one group remembers: swapped as a whole, by compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    format: u32,
    pub(super) max: Max,
    pub(super) last_fence: u64,
    pub(super) holders: Vec<Holder>,
}

/// A stored document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Written by a newer locksmith; using it would drop what this one does not know.
    #[error("the document has format {found}, this locksmith reads up to {DOCUMENT_FORMAT}: start the newer locksmithd")]
    Newer {
        /// The format number found.
        found: u32,
    },
    /// Not what any locksmith writes.
    #[error("the document is not what locksmith writes: {0}")]
    Malformed(String),
}

/// One taken place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// Who holds it.
    pub id: HostId,
    /// Under which attempt; none for a foreign FleetLock client or an operator's hold.
    pub attempt: Option<AttemptId>,
    /// The number of the grant: rises with every grant of the group.
    pub fence: u64,
    /// How far the host is; of an operator's hold it says nothing, see [`Holder::stands`].
    pub phase: Phase,
    /// When the place was granted (for people: nothing is decided by it).
    pub since: Timestamp,
    /// When the phase began (for people).
    pub phase_since: Timestamp,
    /// How often the grant was renewed; a change is a sign of life.
    pub renewals: u64,
    /// What the host told about itself.
    pub facts: Facts,
    /// The operator who holds the place in the host's name; then only an operator frees it.
    pub by: Option<Label>,
}

/// How far a holder is. Written on the wire and on disk; never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Up, stopping its services, nothing flipped: renews its lease, and may be freed when it falls silent.
    Draining,
    /// Past the point of no return: down or in trial. Only a release or an operator frees it.
    Rebooting,
}

/// How an attempt ended. Written on the wire and on disk; never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The new version runs and is healthy.
    Ok,
    /// The host went back to the old version.
    RolledBack,
    /// The reboot never happened.
    Aborted,
}

/// What a host tells about itself and its attempt; shown to people, decided upon by nothing here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The boot id at the time of asking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<Label>,
    /// The product (application id).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<Label>,
    /// The version it wants to boot into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Label>,
    /// The sequence number of that version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Within how many seconds of rebooting it expects to be back, at most [`MAX_DEADLINE_S`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
}

impl Document {
    /// A group without holders.
    pub fn new(max: Max) -> Self {
        Self { format: DOCUMENT_FORMAT, max, last_fence: 0, holders: Vec::new() }
    }

    /// How many may hold a place.
    pub fn max(&self) -> Max {
        self.max
    }

    /// Who holds one, in the order of their grants.
    pub fn holders(&self) -> &[Holder] {
        &self.holders
    }

    /// The holder of that id.
    pub fn holder(&self, id: &HostId) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.id == *id)
    }

    /// How many places are free: 0 while more hold one than the maximum allows.
    pub fn free(&self) -> usize {
        self.max.places().saturating_sub(self.holders.len())
    }

    pub(super) fn without(&self, id: &HostId) -> Self {
        let mut document = self.clone();
        document.holders.retain(|holder| holder.id != *id);
        document
    }

    /// Reads a stored document; refuses one of a newer format or one that contradicts itself.
    pub fn from_json(text: &str) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        struct FormatOnly {
            format: u32,
        }
        let malformed = |error: serde_json::Error| DocumentError::Malformed(error.to_string());
        let FormatOnly { format } = serde_json::from_str(text).map_err(malformed)?;
        if format > DOCUMENT_FORMAT {
            return Err(DocumentError::Newer { found: format });
        }
        let document: Self = serde_json::from_str(text).map_err(malformed)?;
        document.check()
    }

    /// The document as it is stored.
    pub fn to_json(&self) -> Result<String, DocumentError> {
        serde_json::to_string(self).map_err(|error| DocumentError::Malformed(error.to_string()))
    }

    fn check(self) -> Result<Self, DocumentError> {
        let mut ids: Vec<&HostId> = self.holders.iter().map(|holder| &holder.id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find_map(|pair| (pair[0] == pair[1]).then(|| pair[0].clone())) {
            return Err(DocumentError::Malformed(format!("{twice} holds two places")));
        }
        if let Some(holder) = self.holders.iter().find(|holder| holder.fence > self.last_fence) {
            let (id, fence, last) = (&holder.id, holder.fence, self.last_fence);
            return Err(DocumentError::Malformed(format!("{id} has fence {fence}, the last one given is {last}")));
        }
        Ok(self)
    }
}

impl Holder {
    /// What the holder's attempt is called where people see it.
    pub fn tag(&self) -> Option<Tag> {
        self.attempt.as_ref().map(AttemptId::tag)
    }

    /// What the place is taken for, in one word: the host's phase, or [`HELD`].
    pub fn stands(&self) -> &'static str {
        stands(self.phase, self.by.as_ref())
    }

    /// Whether the place was granted to its host under that attempt (or, to a foreign client, under none). An operator's
    /// hold never was.
    pub fn is_granted_to(&self, attempt: Option<&AttemptId>) -> bool {
        self.by.is_none() && self.attempt.as_ref() == attempt
    }
}

/// What a place of that phase, held `by` an operator or by its host, is taken for.
pub(crate) fn stands(phase: Phase, by: Option<&Label>) -> &'static str {
    if by.is_some() { HELD } else { phase.as_str() }
}

impl Facts {
    /// Takes over what is told now; what is not told stays.
    pub(super) fn merge(&mut self, told: &Self) {
        let Self { boot_id, product, version, sequence, deadline_s } = told;
        merge_one(&mut self.boot_id, boot_id);
        merge_one(&mut self.product, product);
        merge_one(&mut self.version, version);
        merge_one(&mut self.sequence, sequence);
        merge_one(&mut self.deadline_s, deadline_s);
    }
}

fn merge_one<T: Clone>(known: &mut Option<T>, told: &Option<T>) {
    if told.is_some() {
        known.clone_from(told);
    }
}

impl Max {
    /// A maximum of 0 to 1,000 places.
    pub fn new(max: u32) -> Result<Self, MaxError> {
        if max > MAX_PLACES { Err(MaxError(max)) } else { Ok(Self(max)) }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }

    pub(super) fn places(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl TryFrom<u32> for Max {
    type Error = MaxError;
    fn try_from(max: u32) -> Result<Self, MaxError> {
        Self::new(max)
    }
}

impl From<Max> for u32 {
    fn from(max: Max) -> u32 {
        max.0
    }
}

impl std::fmt::Display for Max {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Phase {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Rebooting => "rebooting",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Outcome {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::RolledBack => "rolled-back",
            Self::Aborted => "aborted",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
