//! What is held up while the journal cannot be written.
//!
//! Effects run only after the journal has the step that asked for them. When it cannot be written they wait here, in their
//! order, and the journal is tried again by the clock. A change of what is wrong is logged, not every try.
//!
//! Where somebody waits for this host (a slot is on trial, a lock is held) it must not wait for ever: after ten minutes the way
//! back goes on without the journal (`Engine::must_not_stand_still`).

use crate::engine::cause::Cause;
use crate::engine::effect::Row;
use crate::engine::event::Fault;
use crate::engine::time::{Mono, Now};
use crate::engine::{Effect, Engine};
use crate::journal::{JournalError, Message, OutboxRow};

/// First time between tries to commit to a journal that cannot be written; it doubles.
const FIRST_RETRY_MS: u64 = 5_000;
/// Longest one.
const LONGEST_RETRY_MS: u64 = 120_000;

/// How long a journal may fail before what must not stand still goes on without it.
const STANDSTILL_MS: u64 = 10 * 60_000;

/// Rows and effects of steps that are not journalled yet.
pub(super) struct Waiting {
    pub(super) rows: Vec<Row>,
    pub(super) effects: Vec<Effect>,
    /// Why they wait.
    pub(super) fault: Option<Fault>,
    /// When the journal is tried again.
    pub(super) retry_at: Option<Mono>,
    /// In a row that failed.
    tries: u32,
    /// How long this is borne.
    pub(super) patience_ms: u64,
    /// Since when the journal cannot be written.
    since: Option<Mono>,
    /// When the engine was last told that this takes too long.
    told_at: Option<Mono>,
    /// Rows whose releases are being delivered without the journal.
    lent: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            effects: Vec::new(),
            fault: None,
            retry_at: None,
            tries: 0,
            patience_ms: STANDSTILL_MS,
            since: None,
            told_at: None,
            lent: 0,
        }
    }
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
        self.since.get_or_insert(now.mono);
        // A command that came in between is a try of its own: whoever asks again and again must not put the next one off.
        if !self.may_commit(now) {
            return;
        }
        let pause_ms = FIRST_RETRY_MS.saturating_mul(1 << self.tries.min(10)).min(LONGEST_RETRY_MS);
        self.tries = self.tries.saturating_add(1);
        self.retry_at = Some(now.mono.after(pause_ms));
    }

    /// The journal was written: the rows that it has now. The effects stay, to be started.
    pub(super) fn written(&mut self) -> Vec<Row> {
        if self.fault.take().is_some() {
            tracing::info!("the journal can be written again");
        }
        self.retry_at = None;
        self.tries = 0;
        self.since = None;
        self.told_at = None;
        self.lent = 0;
        std::mem::take(&mut self.rows)
    }

    /// The journal cannot be written, and has been so for longer than can be borne.
    pub(super) fn is_too_long(&self, now: &Now) -> bool {
        self.since.is_some_and(|since| since.until(now.mono) >= self.patience_ms)
    }

    /// Until when it is borne, where somebody waits for this host.
    pub(super) fn until(&self) -> Option<Mono> {
        self.since.map(|since| since.after(self.patience_ms))
    }

    /// What the engine is to be told of it, once in a while: why, and whether effects of the present step never began. Those are
    /// let go: the engine leaves that step. What it still counts on then waits on.
    pub(super) fn tell(&mut self, now: &Now) -> Option<(Fault, bool)> {
        let told_lately = self.told_at.is_some_and(|at| at.until(now.mono) < STANDSTILL_MS);
        let fault = self.fault.as_ref().filter(|_| self.is_too_long(now) && !told_lately)?;
        let minutes = self.since.map_or(0, |since| since.until(now.mono) / 60_000);
        let message = format!("nothing could be written down for {minutes} minutes ({})", fault.message);
        let fault = Fault::new(fault.code.clone(), message);
        self.told_at = Some(now.mono);
        let unstarted = !self.take_effects(|effect| !Engine::still_counts_on(effect)).is_empty();
        Some((fault, unstarted))
    }

    /// Takes those effects out that are such.
    pub(super) fn take_effects(&mut self, such: impl Fn(&Effect) -> bool) -> Vec<Effect> {
        let (taken, kept) = std::mem::take(&mut self.effects).into_iter().partition(such);
        self.effects = kept;
        taken
    }

    /// Lock releases that wait for the journal and were not lent out yet. They get ids that no row of the journal has: once it
    /// can be written they are delivered once more, which changes nothing.
    pub(super) fn lend_releases(&mut self, now: &Now) -> Vec<OutboxRow> {
        let new = self.rows.iter().enumerate().skip(self.lent);
        let lent = new.filter_map(|(index, row)| match row {
            Row::Release { attempt, claim, outcome } => Some(OutboxRow {
                id: -1 - i64::try_from(index).ok()?,
                attempt: attempt.clone(),
                created_at: now.wall,
                message: Message::Release { claim: claim.clone(), outcome: *outcome },
            }),
            _ => None,
        });
        let lent = lent.collect();
        self.lent = self.rows.len();
        lent
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
