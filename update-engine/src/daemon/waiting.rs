//! What is held up while the journal cannot be written.
//!
//! Effects run only after the journal has the step that asked for them. When it cannot be written they wait here, in their
//! order, and the journal is tried again by the clock. A change of what is wrong is logged, not every try.

use crate::engine::Effect;
use crate::engine::cause::Cause;
use crate::engine::effect::Row;
use crate::engine::event::Fault;
use crate::engine::time::{Mono, Now};
use crate::journal::JournalError;

/// Time between tries to commit to a journal that cannot be written.
const JOURNAL_RETRY_MS: u64 = 10_000;

/// Rows and effects of steps that are not journalled yet.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) rows: Vec<Row>,
    pub(super) effects: Vec<Effect>,
    /// Why they wait.
    pub(super) fault: Option<Fault>,
    /// When the journal is tried again.
    pub(super) retry_at: Option<Mono>,
}

/// How much was held at some moment.
#[derive(Clone, Copy)]
pub(super) struct Held {
    rows: usize,
    effects: usize,
}

impl Waiting {
    /// Adds what a step asked for.
    pub(super) fn take_in(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Row(row) => self.rows.push(row),
                other => self.effects.push(other),
            }
        }
    }

    /// Nothing is wrong, or it is time for another try.
    pub(super) fn may_commit(&self, now: &Now) -> bool {
        self.retry_at.is_none_or(|then| then <= now.mono)
    }

    /// The journal could not be written.
    pub(super) fn failed(&mut self, error: &JournalError, now: &Now) {
        let fault = Fault::new(Cause::StateDir, error.to_string());
        if self.fault.as_ref() != Some(&fault) {
            tracing::error!("{error}: nothing is done before it can be written");
        }
        self.fault = Some(fault);
        self.retry_at = Some(now.mono.after(JOURNAL_RETRY_MS));
    }

    /// The journal was written: the rows that it has now. The effects stay, to be started.
    pub(super) fn written(&mut self) -> Vec<Row> {
        if self.fault.take().is_some() {
            tracing::info!("the journal can be written again");
        }
        self.retry_at = None;
        std::mem::take(&mut self.rows)
    }

    /// How much is held now.
    pub(super) const fn held(&self) -> Held {
        Held { rows: self.rows.len(), effects: self.effects.len() }
    }

    /// Lets go of what was added since.
    pub(super) fn forget_since(&mut self, held: Held) {
        self.rows.truncate(held.rows);
        self.effects.truncate(held.effects);
    }
}
