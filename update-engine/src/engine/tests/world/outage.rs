//! A journal that cannot be written for a while: what the daemon does then, in small.

use crate::engine::Engine;
use crate::engine::cause::Cause;
use crate::engine::effect::{Effect, Row};
use crate::engine::event::{Event, Fault};

use super::World;

/// How long the daemon bears it, and how often it tells the engine.
const PATIENCE_MS: u64 = 10 * 60_000;

/// Since when, and what waits for its end.
#[derive(Debug, Default)]
pub(super) struct Outage {
    since: u64,
    told_at: Option<u64>,
    rows: Vec<Row>,
    effects: Vec<Effect>,
    /// Rows whose releases were delivered all the same.
    lent: usize,
    /// The journal cannot be read either: the daemon runs with an empty one.
    blank: bool,
}

impl World {
    pub(super) fn begin_outage(&mut self) {
        self.note(|_| "the journal cannot be written".into());
        self.outage = Some(Outage { since: self.mono, ..Outage::default() });
    }

    /// The daemon starts during an outage; says whether it cannot even read its journal.
    pub(super) fn outage_at_start(&mut self) -> bool {
        if self.outage.is_none() {
            return false;
        }
        let blank = self.dice.one_in(3);
        self.outage = Some(Outage { since: self.mono, blank, ..Outage::default() });
        self.note(|_| format!("a start while the journal cannot be written, or read: {blank}"));
        blank
    }

    /// The journal takes everything that waited; one that could not even be read is read, by a daemon that begins anew.
    pub(super) fn end_outage(&mut self) {
        let Some(outage) = self.outage.take() else { return };
        self.note(|_| "the journal can be written again".into());
        if outage.blank {
            return self.kill();
        }
        let rows: Vec<Effect> = outage.rows.into_iter().map(Effect::Row).collect();
        self.journal(&rows);
        self.check_claims();
        self.start_effects(outage.effects);
    }

    /// Rows and effects of a step that cannot be journalled.
    pub(super) fn hold(&mut self, effects: Vec<Effect>) {
        let Some(outage) = self.outage.as_mut() else { return };
        for effect in effects {
            match effect {
                Effect::Row(row) => outage.rows.push(row),
                other => outage.effects.push(other),
            }
        }
        self.go_on_without_journal();
    }

    fn go_on_without_journal(&mut self) {
        let engine = &self.process.engine;
        let Some(outage) = self.outage.as_mut().filter(|outage| self.mono - outage.since >= PATIENCE_MS) else { return };
        let (go_on, wait) = std::mem::take(&mut outage.effects).into_iter().partition(|effect| engine.cannot_wait(effect));
        outage.effects = wait;
        let releases = outage.rows.iter().skip(outage.lent).filter_map(|row| match row {
            Row::Release { attempt, .. } => Some(attempt.clone()),
            _ => None,
        });
        let releases: Vec<String> = releases.collect();
        outage.lent = outage.rows.len();
        for attempt in releases {
            self.check_lent(&attempt);
            self.holders.remove(&attempt);
        }
        self.start_effects(go_on);
    }

    /// A release that is delivered without the journal is none of a slot that may still be booted.
    fn check_lent(&self, attempt: &str) {
        let Some(known) = self.disk.attempts.get(attempt) else { return };
        let bits = self.disk.bits.get(known.plan.slot);
        let armed = !bits.good && bits.tries > 0;
        assert!(!armed || known.plan.slot == self.running, "P4: the lock is given back while slot {} is armed", known.plan.slot);
    }

    /// Tells the engine when somebody waits for this host and the journal has failed for too long.
    pub(super) fn end_standstill(&mut self) {
        let mono = self.mono;
        let is_due =
            |outage: &&mut Outage| mono - outage.since >= PATIENCE_MS && outage.told_at.is_none_or(|at| mono - at >= PATIENCE_MS);
        if !self.process.engine.must_not_stand_still() {
            return;
        }
        let Some(outage) = self.outage.as_mut().filter(is_due) else { return };
        outage.told_at = Some(mono);
        let (kept, dropped): (Vec<_>, Vec<_>) =
            std::mem::take(&mut outage.effects).into_iter().partition(Engine::still_counts_on);
        outage.effects = kept;
        let fault = Fault::new(Cause::StateDir, "nothing could be written down");
        self.step(Event::StandsStill { fault, unstarted: !dropped.is_empty() });
    }
}
