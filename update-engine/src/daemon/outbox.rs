//! Telling servers what happened, in the background, until they have acknowledged it.
//!
//! Lock releases go first: other hosts wait for them. A row that a server does not take steps behind the others; the pause
//! between tries doubles up to an hour. Nothing here holds up checks or commits (design 11.8).

use std::collections::HashMap;

use manifests::omaha::Acknowledgement;

use crate::daemon::{Shared, ask, lock};
use crate::engine::cause::Cause;
use crate::engine::effect::Report;
use crate::engine::event::Fault;
use crate::engine::time::{Mono, Now};
use crate::journal::{Message, OutboxRow};
use crate::report;

/// First pause after a failed delivery.
const FIRST_PAUSE_MS: u64 = 5_000;
/// Longest pause.
const LONGEST_PAUSE_MS: u64 = 3_600_000;

/// What waits to be delivered.
#[derive(Default)]
pub(super) struct Outbox {
    rows: Vec<OutboxRow>,
    tries: HashMap<i64, u32>,
    in_flight: Option<i64>,
    failures: u32,
    not_before: Option<Mono>,
}

impl Outbox {
    /// Takes over what the journal holds. New rows are tried at once: they say that something changed.
    pub(super) fn refill(&mut self, rows: Vec<OutboxRow>) {
        let news = rows.iter().any(|row| !self.rows.iter().any(|known| known.id == row.id));
        if news {
            self.not_before = None;
        }
        self.tries.retain(|id, _| rows.iter().any(|row| row.id == *id));
        self.rows = rows;
    }

    /// Lock releases that no server has acknowledged.
    pub(super) fn releases_waiting(&self) -> u32 {
        let releases = self.rows.iter().filter(|row| matches!(row.message, Message::Release { .. })).count();
        u32::try_from(releases).unwrap_or(u32::MAX)
    }

    /// Reports that no server has acknowledged.
    pub(super) fn reports_waiting(&self) -> usize {
        self.rows.iter().filter(|row| matches!(row.message, Message::Report(_))).count()
    }

    /// When there is something to try again.
    pub(super) fn wake(&self) -> Option<Mono> {
        if self.rows.is_empty() || self.in_flight.is_some() { None } else { Some(self.not_before.unwrap_or(Mono(0))) }
    }

    /// The row to deliver now, if any.
    pub(super) fn take(&mut self, now: &Now) -> Option<OutboxRow> {
        if self.in_flight.is_some() || self.not_before.is_some_and(|then| then > now.mono) {
            return None;
        }
        let rank =
            |row: &&OutboxRow| (self.tries.get(&row.id).copied().unwrap_or(0), matches!(row.message, Message::Report(_)), row.id);
        let row = self.rows.iter().min_by_key(rank)?.clone();
        self.in_flight = Some(row.id);
        Some(row)
    }

    /// A delivery ended.
    pub(super) fn settle(&mut self, id: i64, delivered: bool, now: &Now) {
        self.in_flight = None;
        if delivered {
            self.rows.retain(|row| row.id != id);
            self.tries.remove(&id);
            self.failures = 0;
            self.not_before = None;
            return;
        }
        *self.tries.entry(id).or_default() += 1;
        self.failures = self.failures.saturating_add(1);
        let pause_ms = FIRST_PAUSE_MS.saturating_mul(1 << (self.failures - 1).min(20)).min(LONGEST_PAUSE_MS);
        self.not_before = Some(now.mono.after(pause_ms / 2 + now.jitter_ms(pause_ms / 2)));
    }
}

/// Delivers one row.
pub(super) async fn deliver(shared: &Shared, message: &Message, attempt: &str) -> Result<(), Fault> {
    match message {
        Message::Release { claim, outcome } => lock::release(shared, attempt, claim, *outcome).await,
        Message::Report(report) => post(shared, report).await,
    }
}

/// An answer that no Omaha server gave (a proxy's page) is no acknowledgement. One that complains is: it was read.
async fn post(shared: &Shared, report: &Report) -> Result<(), Fault> {
    if shared.settings.server.url.is_none() {
        return Ok(());
    }
    let address = ask::server(&shared.settings)?;
    let facts = shared.facts();
    let body = report::event_request(&facts, report).write();
    let answer = shared
        .fetcher
        .post_omaha(&address, body, &[])
        .await
        .map_err(|error| ask::fetch_fault(Cause::ServerUnreachable, &error))?;
    let read = Acknowledgement::read(&answer.bytes, &facts.identity.app_id);
    read.map(drop).map_err(|error| Fault::new(Cause::OmahaInvalid, format!("{address}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::effect::{LockOutcome, ReportKind};
    use crate::engine::state::Claim;
    use crate::engine::time::Wall;

    fn now(mono: u64) -> Now {
        Now { wall: Wall(0), mono: Mono(mono), dice: 1 << 62 }
    }

    fn report(id: i64) -> OutboxRow {
        let report = Report {
            kind: ReportKind::Installed,
            attempt: "a".into(),
            running_version: "1".into(),
            from_version: "1".into(),
            to_version: "2".into(),
            code: None,
            reason: None,
        };
        OutboxRow { id, attempt: "a".into(), created_at: Wall(0), message: Message::Report(report) }
    }

    fn release(id: i64) -> OutboxRow {
        let claim = Claim { url: "http://l/".into(), group: "g".into(), id: "h".into(), fence: None, granted: true };
        OutboxRow { id, attempt: "a".into(), created_at: Wall(0), message: Message::Release { claim, outcome: LockOutcome::Ok } }
    }

    #[test]
    fn releases_go_before_reports_and_one_at_a_time() {
        let mut outbox = Outbox::default();
        outbox.refill(vec![report(1), release(2)]);
        assert_eq!(outbox.take(&now(0)).unwrap().id, 2);
        assert_eq!(outbox.take(&now(0)), None);
        outbox.settle(2, true, &now(0));
        assert_eq!(outbox.take(&now(0)).unwrap().id, 1);
    }

    #[test]
    fn a_row_nobody_takes_steps_behind_the_others_and_pauses_grow_to_an_hour() {
        let mut outbox = Outbox::default();
        outbox.refill(vec![report(1), report(2)]);
        assert_eq!(outbox.take(&now(0)).unwrap().id, 1);
        outbox.settle(1, false, &now(0));
        assert_eq!(outbox.take(&now(0)), None);
        let mut at = 10_000;
        assert_eq!(outbox.take(&now(at)).unwrap().id, 2);
        for _ in 0..40 {
            let id = outbox.in_flight.unwrap();
            outbox.settle(id, false, &now(at));
            let wake = outbox.wake().unwrap().0;
            assert!(wake > at && wake <= at + LONGEST_PAUSE_MS);
            at = wake;
            assert!(outbox.take(&now(at)).is_some());
        }
    }
}
