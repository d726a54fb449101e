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

mod decide;
mod document;
pub mod history;
pub mod lease;
pub mod queue;
mod refusal;
mod time;

use std::sync::Arc;

use crate::names::{AttemptId, HostId, Label, Reason};
use decide::On;
pub(crate) use document::stands;
pub use document::{
    DOCUMENT_FORMAT, Document, DocumentError, Facts, HELD, Holder, MAX_DEADLINE_S, MAX_PLACES, Max, MaxError, Outcome, Phase,
};
use history::Entry;
use queue::Queue;
pub use refusal::Refusal;
pub use time::{Moment, Mono};

/// What an operator is called of whom nothing is known: whoever is called so may be anybody, so a hold of his is confirmed
/// to nobody.
pub const UNNAMED: &str = "an operator";

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
        /// Who does it; the same word is the same operator, who asks again, unless it is [`UNNAMED`].
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
    On { document, revision, queue, now }.decide(op)
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

#[cfg(test)]
mod tests;
