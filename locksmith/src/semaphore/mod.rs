//! The semaphore of one group, as a pure function: (document, queue, operation, now) → (answer, document, history).
//!
//! Promises
//! - The holders are the only truth: taken places are their number, free places are `max - holders`, never below 0.
//!   There is no second counter that could drift away.
//! - No operation makes the holders exceed the maximum (P5). Only lowering the maximum can leave more holders than it
//!   allows; then they drain, one release after another, and nobody is admitted meanwhile.
//! - Asking again under the attempt that holds a place gives the same grant; releasing twice is the same as once. So a
//!   host whose answer was lost asks again and cannot wait for itself.
//! - A holder in [`Phase::Rebooting`] is never freed by time. A holder in [`Phase::Draining`] is freed by
//!   [`Op::Expire`] only, which [`lease::LeaseWatch`] makes after a whole lease without a sign of life.
//! - A grant without an attempt id (a foreign FleetLock client) is `rebooting` from the start: such a host cannot renew.
//!
//! Never: looks at a clock, rolls dice, does I/O, or answers with a bare yes or no.
//!
//! ```
//! use locksmith::names::{AttemptId, HostId};
//! use locksmith::semaphore::{Answer, Document, Facts, Max, Moment, Mono, Op, Phase, decide, queue::Queue};
//!
//! let now = Moment { wall: "2026-01-01T00:00:00Z".parse()?, mono: Mono::START };
//! let empty = Document::new(Max::new(1)?);
//! let take = |id| {
//!     let id = HostId::parse(id)?;
//!     let attempt = Some(AttemptId::parse(&format!("attempt-of-{id}"))?);
//!     Ok::<_, locksmith::names::NameError>(Op::Take { id, attempt, facts: Facts::default() })
//! };
//! let first = decide(&empty, 1, &Queue::default(), &take("host-a")?, now);
//! assert!(matches!(first.answer, Answer::Granted(ref grant) if grant.phase == Phase::Draining));
//! let full = first.document.ok_or("a grant changes the document")?;
//! let second = decide(&full, 2, &Queue::default(), &take("host-b")?, now);
//! assert!(matches!(second.answer, Answer::Refused(_)));
//! assert!(second.document.is_none(), "a refusal writes nothing");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod history;
pub mod lease;
pub mod queue;
mod refusal;
mod time;

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::names::{AttemptId, HostId, Label, Reason};
use history::{Entry, Event};
use queue::Queue;
pub use refusal::Refusal;
pub use time::{Moment, Mono};

/// The format number written into every document.
pub const DOCUMENT_FORMAT: u32 = 1;

/// Most places a group may have. A document of 1,000 holders is below 1 MiB, what an etcd transaction may carry.
pub const MAX_PLACES: u32 = 1000;

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
    max: Max,
    last_fence: u64,
    holders: Vec<Holder>,
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
    /// How far the host is.
    pub phase: Phase,
    /// When the place was granted (for people: nothing is decided by it).
    pub since: Timestamp,
    /// When the phase began (for people).
    pub phase_since: Timestamp,
    /// How often the grant was renewed; a change is a sign of life.
    pub renewals: u64,
    /// What the host told about itself.
    pub facts: Facts,
    /// The operator who holds the place for the host, if no host asked for it.
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

/// What may be asked of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A host asks for a place, or asks again because it does not know whether it was granted one.
    Take {
        /// Who asks.
        id: HostId,
        /// Under which attempt.
        attempt: Option<AttemptId>,
        /// About itself.
        facts: Facts,
    },
    /// A draining holder shows that it is alive.
    Renew {
        /// Who renews.
        id: HostId,
        /// Under which attempt.
        attempt: AttemptId,
        /// Which grant; a grant that was lost meanwhile is not made anew.
        fence: u64,
    },
    /// A draining holder is about to flip and reboot, and waits for the answer before it does.
    Reboot {
        /// Who is about to reboot.
        id: HostId,
        /// Under which attempt.
        attempt: AttemptId,
        /// Which grant, where the host remembers it.
        fence: Option<u64>,
        /// About itself; `deadline_s` above all.
        facts: Facts,
    },
    /// A host gives its place back, or makes sure that it holds none.
    Release {
        /// Who releases.
        id: HostId,
        /// The attempt that took the place.
        attempt: Option<AttemptId>,
        /// How the attempt ended, if the host says so.
        outcome: Option<Outcome>,
    },
    /// A draining holder showed no sign of life for a whole lease, as [`lease::LeaseWatch`] saw it.
    Expire {
        /// Whose lease ran out.
        id: HostId,
        /// Of which grant.
        fence: u64,
        /// The number of renewals seen all the while; another number means it lives.
        renewals: u64,
    },
    /// An operator takes a place in the name of a host, past the queue but never past the maximum.
    Hold {
        /// In whose name.
        id: HostId,
        /// Who does it.
        by: Label,
    },
    /// An operator frees a holder whatever its attempt and phase.
    Free {
        /// Whom.
        id: HostId,
        /// Why.
        reason: Option<Reason>,
        /// Who does it.
        by: Label,
    },
    /// An operator changes the maximum.
    SetMax {
        /// The new maximum.
        max: Max,
        /// Who does it.
        by: Label,
    },
}

/// The answer to an [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The place is the asker's.
    Granted(Granted),
    /// No, and why.
    Refused(Refusal),
    /// The asker holds no place any more.
    Released {
        /// Whether it held one until now.
        freed: bool,
    },
    /// Whether a silent holder's lease was ended.
    Expired {
        /// False if it lives, went on to reboot or is gone.
        freed: bool,
    },
    /// The holder that an operator freed; none if the host held no place.
    Freed(Option<Box<Holder>>),
    /// The maximum was changed.
    MaxChanged {
        /// Before.
        old: Max,
        /// Now.
        new: Max,
    },
}

/// A place that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The number of the grant; the same for every repetition of the question.
    pub fence: u64,
    /// The phase the holder is in now.
    pub phase: Phase,
}

/// What [`decide`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to answer, **after** `document` is durable.
    pub answer: Answer,
    /// The new document; none if nothing changes.
    pub document: Option<Document>,
    /// What to remember with it.
    pub history: Option<Entry>,
}

/// What [`fold`] decided for several operations that are written as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    /// One answer per operation, in order.
    pub answers: Vec<Decided>,
    /// The document after all of them.
    pub document: Arc<Document>,
    /// Whether it differs from the one given.
    pub changed: bool,
    /// What to remember with it.
    pub history: Vec<Entry>,
}

/// An answer and what it was decided upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The answer.
    pub answer: Answer,
    /// The document in which its reasons stand.
    pub upon: Arc<Document>,
}

/// Decides one operation upon a document read at `revision` (of the store; it only keeps fences rising even after a
/// document was lost and made anew).
pub fn decide(document: &Document, revision: u64, queue: &Queue, op: &Op, now: Moment) -> Decision {
    let on = On { document, revision, queue, now };
    match op {
        Op::Take { id, attempt, facts } => on.take(id, attempt.as_ref(), facts),
        Op::Renew { id, attempt, fence } => on.renew(id, attempt, *fence),
        Op::Reboot { id, attempt, fence, facts } => on.reboot(id, attempt, *fence, facts),
        Op::Release { id, attempt, outcome } => on.release(id, attempt.as_ref(), *outcome),
        Op::Expire { id, fence, renewals } => on.expire(id, *fence, *renewals),
        Op::Hold { id, by } => on.hold(id, by),
        Op::Free { id, reason, by } => on.free(id, reason.as_ref(), by),
        Op::SetMax { max, by } => on.set_max(*max, by),
    }
}

/// Decides operations one after another, each upon the document the one before left, to be written in one swap.
pub fn fold<'a>(
    document: &Arc<Document>,
    revision: u64,
    queue: &Queue,
    ops: impl IntoIterator<Item = &'a Op>,
    now: Moment,
) -> Folded {
    let mut folded = Folded { answers: Vec::new(), document: Arc::clone(document), changed: false, history: Vec::new() };
    for op in ops {
        let upon = Arc::clone(&folded.document);
        let decision = decide(&upon, revision, queue, op, now);
        folded.answers.push(Decided { answer: decision.answer, upon });
        folded.history.extend(decision.history);
        if let Some(document) = decision.document {
            folded.document = Arc::new(document);
            folded.changed = true;
        }
    }
    folded
}

/// What a decision is made upon.
struct On<'a> {
    document: &'a Document,
    revision: u64,
    queue: &'a Queue,
    now: Moment,
}

impl On<'_> {
    fn take(&self, id: &HostId, attempt: Option<&AttemptId>, facts: &Facts) -> Decision {
        // "Do I hold it?" comes before "is it full?": otherwise a holder whose answer was lost waits for itself.
        match self.document.holder(id) {
            Some(holder) if holder.attempt.as_ref() == attempt => self.confirm(holder, facts),
            Some(holder) => refused(Refusal::IdInUse(Box::new(holder.clone()))),
            None => match self.room_for(id) {
                Ok(()) => self.admit(id, attempt.cloned(), facts, None),
                Err(refusal) => refused(refusal),
            },
        }
    }

    /// A free place goes to whoever waited longest among those still expected to come back for it.
    fn room_for(&self, id: &HostId) -> Result<(), Refusal> {
        let free = self.document.free();
        if free == 0 {
            return Err(Refusal::Full);
        }
        let waits = |waiter: &HostId| self.document.holder(waiter).is_none();
        if self.queue.expected_before(id, self.now.mono, waits).take(free).count() == free {
            return Err(Refusal::Kept);
        }
        Ok(())
    }

    fn admit(&self, id: &HostId, attempt: Option<AttemptId>, facts: &Facts, by: Option<Label>) -> Decision {
        let fence = self.document.last_fence.max(self.revision).saturating_add(1);
        let phase = if attempt.is_some() { Phase::Draining } else { Phase::Rebooting };
        let holder = Holder {
            id: id.clone(),
            attempt,
            fence,
            phase,
            since: self.now.wall,
            phase_since: self.now.wall,
            renewals: 0,
            facts: facts.clone(),
            by,
        };
        let event = if holder.by.is_some() { Event::Held } else { Event::Granted };
        let entry = Entry::about(event, &holder, self.now.wall);
        let mut document = self.document.clone();
        document.last_fence = fence;
        document.holders.push(holder);
        changed(Answer::Granted(Granted { fence, phase }), document, Some(entry))
    }

    /// The asker holds the place already: the same grant again, and a sign of life.
    fn confirm(&self, holder: &Holder, facts: &Facts) -> Decision {
        let mut now_so = holder.clone();
        now_so.facts.merge(facts);
        if holder.phase == Phase::Draining {
            now_so.renewals = now_so.renewals.saturating_add(1);
        }
        self.replace(holder, now_so, None)
    }

    fn renew(&self, id: &HostId, attempt: &AttemptId, fence: u64) -> Decision {
        match self.granted_to(id, attempt, Some(fence)) {
            Ok(holder) => self.confirm(holder, &Facts::default()),
            Err(refusal) => refused(refusal),
        }
    }

    fn reboot(&self, id: &HostId, attempt: &AttemptId, fence: Option<u64>, facts: &Facts) -> Decision {
        let holder = match self.granted_to(id, attempt, fence) {
            Ok(holder) => holder,
            Err(refusal) => return refused(refusal),
        };
        let mut now_so = holder.clone();
        now_so.facts.merge(facts);
        if holder.phase == Phase::Rebooting {
            return self.replace(holder, now_so, None);
        }
        now_so.phase = Phase::Rebooting;
        now_so.phase_since = self.now.wall;
        let entry = Entry::about(Event::Rebooting, &now_so, self.now.wall);
        self.replace(holder, now_so, Some(entry))
    }

    fn granted_to(&self, id: &HostId, attempt: &AttemptId, fence: Option<u64>) -> Result<&Holder, Refusal> {
        match self.document.holder(id) {
            Some(holder) if holder.attempt.as_ref() != Some(attempt) => Err(Refusal::IdInUse(Box::new(holder.clone()))),
            Some(holder) if fence.is_none_or(|fence| fence == holder.fence) => Ok(holder),
            Some(_) | None => Err(Refusal::NotHeld(attempt.tag())),
        }
    }

    fn release(&self, id: &HostId, attempt: Option<&AttemptId>, outcome: Option<Outcome>) -> Decision {
        match self.document.holder(id) {
            Some(holder) if holder.attempt.as_ref() == attempt => {
                let mut entry = Entry::about(Event::Released, holder, self.now.wall);
                entry.outcome = outcome;
                changed(Answer::Released { freed: true }, self.document.without(id), Some(entry))
            }
            Some(_) | None => unchanged(Answer::Released { freed: false }),
        }
    }

    fn expire(&self, id: &HostId, fence: u64, renewals: u64) -> Decision {
        let silent = |holder: &&Holder| holder.phase == Phase::Draining && holder.fence == fence && holder.renewals == renewals;
        match self.document.holder(id).filter(silent) {
            Some(holder) => {
                let entry = Entry::about(Event::LeaseExpired, holder, self.now.wall);
                changed(Answer::Expired { freed: true }, self.document.without(id), Some(entry))
            }
            None => unchanged(Answer::Expired { freed: false }),
        }
    }

    fn hold(&self, id: &HostId, by: &Label) -> Decision {
        match self.document.holder(id) {
            Some(holder) if holder.attempt.is_none() => {
                unchanged(Answer::Granted(Granted { fence: holder.fence, phase: holder.phase }))
            }
            Some(holder) => refused(Refusal::IdInUse(Box::new(holder.clone()))),
            None if self.document.free() == 0 => refused(Refusal::Full),
            None => self.admit(id, None, &Facts::default(), Some(by.clone())),
        }
    }

    fn free(&self, id: &HostId, reason: Option<&Reason>, by: &Label) -> Decision {
        let Some(holder) = self.document.holder(id) else {
            return unchanged(Answer::Freed(None));
        };
        let mut entry = Entry::about(Event::ForcedUnlock, holder, self.now.wall);
        entry.by = Some(by.clone());
        entry.reason = reason.cloned();
        changed(Answer::Freed(Some(Box::new(holder.clone()))), self.document.without(id), Some(entry))
    }

    fn set_max(&self, new: Max, by: &Label) -> Decision {
        let old = self.document.max;
        let answer = Answer::MaxChanged { old, new };
        if old == new {
            return unchanged(answer);
        }
        let mut document = self.document.clone();
        document.max = new;
        changed(answer, document, Some(Entry::max_changed(old, new, by, self.now.wall)))
    }

    /// Grants what is held, writing only what differs.
    fn replace(&self, was: &Holder, now_so: Holder, entry: Option<Entry>) -> Decision {
        let answer = Answer::Granted(Granted { fence: now_so.fence, phase: now_so.phase });
        if *was == now_so {
            return unchanged(answer);
        }
        let mut document = self.document.clone();
        for holder in &mut document.holders {
            if holder.id == now_so.id {
                *holder = now_so;
                break;
            }
        }
        changed(answer, document, entry)
    }
}

fn refused(refusal: Refusal) -> Decision {
    unchanged(Answer::Refused(refusal))
}

fn unchanged(answer: Answer) -> Decision {
    Decision { answer, document: None, history: None }
}

fn changed(answer: Answer, document: Document, history: Option<Entry>) -> Decision {
    Decision { answer, document: Some(document), history }
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

    fn without(&self, id: &HostId) -> Self {
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
    pub fn tag(&self) -> Option<crate::names::Tag> {
        self.attempt.as_ref().map(AttemptId::tag)
    }
}

impl Facts {
    /// Takes over what is told now; what is not told stays.
    fn merge(&mut self, told: &Self) {
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

    fn places(self) -> usize {
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

#[cfg(test)]
mod tests;
