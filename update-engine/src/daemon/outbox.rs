//! Telling servers what happened, in the background, until they have acknowledged it.
//!
//! Each server has a queue of its own, with its own pause: one that is down holds up nothing that is for another. So a lock goes
//! back to a healthy lock server whatever else waits. In a queue a row that its server does not take steps behind the others;
//! the pause between tries doubles up to an hour. A server that says when it wants to be asked again is not told anything before,
//! not even what is new, for up to a day. Nothing here holds up checks or commits (design 11.8).

use std::collections::HashMap;

use manifests::omaha::Acknowledgement;

use crate::daemon::{Shared, ask, lock};
use crate::engine::cause::Cause;
use crate::engine::effect::Report;
use crate::engine::event::Fault;
use crate::engine::policy::retry_after_ms;
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
    servers: HashMap<Server, Pace>,
}

/// Who is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Server {
    /// The update server.
    Updates,
    /// The lock server with this URL.
    Locks(String),
}

/// How a server is being asked.
#[derive(Default)]
struct Pace {
    in_flight: Option<i64>,
    /// In a row.
    failures: u32,
    /// Our pause after a failure; something new to tell ends it.
    not_before: Option<Mono>,
    /// What the server asked for; nothing ends it sooner.
    asked_until: Option<Mono>,
}

/// A server took what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Acknowledged {
    /// Its `Retry-After`.
    pub(super) retry_after_s: Option<u64>,
}

impl Server {
    fn of(row: &OutboxRow) -> Self {
        match &row.message {
            Message::Report(_) => Self::Updates,
            Message::Release { claim, .. } => Self::Locks(claim.url.clone()),
        }
    }
}

impl Pace {
    fn is_free(&self, now: &Now) -> bool {
        self.in_flight.is_none() && self.free_at() <= now.mono
    }

    fn free_at(&self) -> Mono {
        self.not_before.max(self.asked_until).unwrap_or(Mono(0))
    }

    fn leave_alone(&mut self, retry_after_s: Option<u64>, now: &Now) {
        self.asked_until = retry_after_s.map(|_| now.mono.after(retry_after_ms(retry_after_s)));
    }

    fn slow_down(&mut self, now: &Now) {
        self.failures = self.failures.saturating_add(1);
        let pause_ms = FIRST_PAUSE_MS.saturating_mul(1 << (self.failures - 1).min(20)).min(LONGEST_PAUSE_MS);
        self.not_before = Some(now.mono.after(pause_ms / 2 + now.jitter_ms(pause_ms / 2)));
    }
}

impl Outbox {
    /// Takes over what the journal holds. A new row is tried at once: it says that something changed.
    pub(super) fn refill(&mut self, rows: Vec<OutboxRow>) {
        for row in rows.iter().filter(|row| !self.rows.iter().any(|known| known.id == row.id)) {
            self.servers.entry(Server::of(row)).or_default().not_before = None;
        }
        self.tries.retain(|id, _| rows.iter().any(|row| row.id == *id));
        let is_asked_for = |pace: &Pace| pace.in_flight.is_some() || pace.asked_until.is_some();
        self.servers.retain(|server, pace| is_asked_for(pace) || rows.iter().any(|row| Server::of(row) == *server));
        self.rows = rows;
    }

    /// Adds rows that the journal does not have; the next [`Self::refill`] forgets them.
    pub(super) fn add(&mut self, rows: Vec<OutboxRow>) {
        for row in rows {
            self.servers.entry(Server::of(&row)).or_default().not_before = None;
            self.rows.push(row);
        }
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
        let waits = |row: &OutboxRow| match self.servers.get(&Server::of(row)) {
            Some(Pace { in_flight: Some(_), .. }) => None,
            Some(pace) => Some(pace.free_at()),
            None => Some(Mono(0)),
        };
        self.rows.iter().filter_map(waits).min()
    }

    /// A row to deliver now, if any: one at a time for each server.
    pub(super) fn take(&mut self, now: &Now) -> Option<OutboxRow> {
        let free = |row: &&OutboxRow| self.servers.get(&Server::of(row)).is_none_or(|pace| pace.is_free(now));
        let rank = |row: &&OutboxRow| (self.tries.get(&row.id).copied().unwrap_or(0), row.id);
        let row = self.rows.iter().filter(free).min_by_key(rank)?.clone();
        self.servers.entry(Server::of(&row)).or_default().in_flight = Some(row.id);
        Some(row)
    }

    /// A delivery ended, with or without the server's wish when to be asked again.
    pub(super) fn settle(&mut self, id: i64, delivered: bool, retry_after_s: Option<u64>, now: &Now) {
        let Some(pace) = self.servers.values_mut().find(|pace| pace.in_flight == Some(id)) else { return };
        pace.in_flight = None;
        if delivered {
            *pace = Pace::default();
            self.rows.retain(|row| row.id != id);
            self.tries.remove(&id);
        } else {
            pace.slow_down(now);
            *self.tries.entry(id).or_default() += 1;
        }
        pace.leave_alone(retry_after_s, now);
    }
}

/// Delivers one row.
pub(super) async fn deliver(shared: &Shared, message: &Message, attempt: &str) -> Result<Acknowledged, Fault> {
    match message {
        Message::Release { claim, outcome } => {
            lock::release(shared, attempt, claim, *outcome).await.map(|()| Acknowledged::default())
        }
        Message::Report(report) => post(shared, report).await,
    }
}

/// An answer that no Omaha server gave (a proxy's page) is no acknowledgement. One that complains is: it was read.
async fn post(shared: &Shared, report: &Report) -> Result<Acknowledged, Fault> {
    if shared.settings.server.url.is_none() {
        return Ok(Acknowledged::default());
    }
    let address = ask::server(&shared.settings)?;
    let facts = shared.facts();
    let body = report::event_request(&facts, report).write();
    let answer = shared
        .fetcher
        .post_omaha(&address, body, &[])
        .await
        .map_err(|error| ask::fetch_fault(Cause::ServerUnreachable, &error))?;
    let retry_after_s = answer.retry_after.map(|wait| wait.as_secs());
    match Acknowledgement::read(&answer.bytes, &facts.identity.app_id) {
        Ok(_) => Ok(Acknowledged { retry_after_s }),
        Err(error) => Err(Fault::new(Cause::OmahaInvalid, format!("{address}: {error}")).not_before(retry_after_s)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::effect::{LockOutcome, ReportKind};
    use crate::engine::policy::RETRY_AFTER_MAX_MS;
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
        release_to("http://l/", id)
    }

    fn release_to(url: &str, id: i64) -> OutboxRow {
        let claim = Claim { url: url.into(), group: "g".into(), id: "h".into(), fence: None, granted: true };
        OutboxRow { id, attempt: "a".into(), created_at: Wall(0), message: Message::Release { claim, outcome: LockOutcome::Ok } }
    }

    #[test]
    fn each_server_is_told_one_thing_at_a_time_and_none_waits_for_another() {
        let mut outbox = Outbox::default();
        outbox.refill(vec![report(1), report(2), release(3), release(4), release_to("http://m/", 5)]);
        let mut taken = || outbox.take(&now(0)).map(|row| row.id);
        assert_eq!([taken(), taken(), taken(), taken()], [Some(1), Some(3), Some(5), None]);
        assert_eq!(outbox.wake(), None, "every server is being asked");
        outbox.settle(3, true, None, &now(0));
        assert_eq!(outbox.wake(), Some(Mono(0)));
        assert_eq!(outbox.take(&now(0)).unwrap().id, 4);
        assert_eq!(outbox.take(&now(0)), None);
    }

    #[test]
    fn a_release_that_failed_once_goes_before_any_pause_of_the_update_server() {
        let mut outbox = Outbox::default();
        outbox.refill((1..=50).map(report).chain([release(51)]).collect());
        let mut at = 0;
        // The update server is down for hours: its pause has grown to its longest.
        for _ in 0..20 {
            at += LONGEST_PAUSE_MS;
            let id = std::iter::from_fn(|| outbox.take(&now(at))).find(|row| row.id != 51).unwrap().id;
            outbox.settle(id, false, None, &now(at));
        }
        outbox.settle(51, false, None, &now(at));
        let wake = outbox.wake().unwrap().0;
        assert!(wake <= at + FIRST_PAUSE_MS, "the release waits {} ms for another server", wake - at);
        let next = outbox.take(&now(at + FIRST_PAUSE_MS)).unwrap().id;
        assert_eq!(next, 51);
    }

    #[test]
    fn a_server_whose_rows_are_gone_is_forgotten() {
        let mut outbox = Outbox::default();
        outbox.refill(vec![release(1), report(2)]);
        outbox.take(&now(0)).unwrap();
        outbox.settle(1, false, None, &now(0));
        outbox.refill(vec![report(2)]);
        assert_eq!(outbox.wake(), Some(Mono(0)));
        assert!(outbox.servers.len() <= 1);
    }

    #[test]
    fn a_server_that_says_when_to_ask_again_is_told_nothing_before_not_even_what_is_new() {
        for delivered in [true, false] {
            let mut outbox = Outbox::default();
            outbox.refill(vec![report(1), release(2)]);
            assert_eq!(outbox.take(&now(0)).unwrap().id, 1);
            outbox.settle(1, delivered, Some(7200), &now(0));
            // Even when nothing waits for it any more.
            outbox.refill(vec![release(2)]);
            outbox.refill(vec![release(2), report(3)]);
            outbox.add(vec![report(4)]);
            assert_eq!(outbox.take(&now(7_199_999)).map(|row| row.id), Some(2), "another server is not held up by it");
            assert_eq!(outbox.take(&now(7_199_999)), None);
            outbox.settle(2, true, None, &now(7_199_999));
            assert_eq!(outbox.wake(), Some(Mono(7_200_000)));
            assert_eq!(outbox.take(&now(7_200_000)).map(|row| row.id), Some(3));
            outbox.settle(3, true, None, &now(7_200_000));
            assert_eq!(outbox.take(&now(7_200_000)).map(|row| row.id), Some(4), "a wish counts once");
        }
        let mut outbox = Outbox::default();
        outbox.refill(vec![report(1)]);
        outbox.take(&now(0)).unwrap();
        outbox.settle(1, false, Some(u64::MAX), &now(0));
        assert_eq!(outbox.wake(), Some(Mono(RETRY_AFTER_MAX_MS)), "a typing mistake does not silence a host for a year");
    }

    #[test]
    fn a_row_nobody_takes_steps_behind_the_others_and_pauses_grow_to_an_hour() {
        let mut outbox = Outbox::default();
        outbox.refill(vec![report(1), report(2)]);
        assert_eq!(outbox.take(&now(0)).unwrap().id, 1);
        outbox.settle(1, false, None, &now(0));
        assert_eq!(outbox.take(&now(0)), None);
        let mut at = 10_000;
        let mut id = outbox.take(&now(at)).unwrap().id;
        assert_eq!(id, 2);
        for _ in 0..40 {
            outbox.settle(id, false, None, &now(at));
            let wake = outbox.wake().unwrap().0;
            assert!(wake > at && wake <= at + LONGEST_PAUSE_MS);
            at = wake;
            id = outbox.take(&now(at)).unwrap().id;
        }
    }
}
