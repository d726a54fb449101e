//! Who waits for a place, first come first served.
//!
//! Promises: a place that becomes free is kept for those who have waited longest, as long as they are expected to come
//! back for it; nobody starves behind hosts that ask more often. A host that stops asking loses first its claim (after
//! twice the time it was told), then its place in the queue, so it delays others for a bounded time only. A foreign client,
//! which asks when it likes or never again, has a place in the queue to show but no claim.
//! Never: is written to the store (a refusal costs no write), or grows past [`MAX_WAITERS`].

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use super::{Moment, Mono};
use crate::names::HostId;

/// Most hosts that are given a place in one group's queue: twice the largest fleet this was measured with. Those
/// beyond it are refused without a place.
pub const MAX_WAITERS: usize = 20_000;

/// How long a host that does not ask again keeps its place in the queue: zincati asks every 300 s plus 10 %, and one
/// question may be lost.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(720);

/// The queue of one group.
#[derive(Debug, Default)]
pub struct Queue {
    order: BTreeMap<u64, Waiter>,
    numbers: HashMap<HostId, u64>,
    next: u64,
    /// Nobody is forgotten before; none while nobody waits.
    forget_at: Option<Mono>,
}

/// A host that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiter {
    /// Who waits.
    pub id: HostId,
    /// Since when (for people).
    pub since: Timestamp,
    last_asked: Mono,
    /// How long after it last asked a free place is kept for it.
    patience: Option<Duration>,
}

impl Waiter {
    fn is_expected(&self, now: Mono) -> bool {
        self.patience.is_some_and(|patience| now.since(self.last_asked) <= patience)
    }
}

/// A host's place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// 1 is the next to be served.
    pub number: usize,
    /// Waiting since (for people).
    pub since: Timestamp,
}

impl Queue {
    /// Notes that a host was refused and waits. `told` is the time after which it was told to ask again; none for a
    /// foreign client, which asks when it likes. Answers whether it is new here.
    pub fn join(&mut self, id: &HostId, told: Option<Duration>, now: Moment) -> bool {
        self.forget_silent(now.mono);
        self.forget_at.get_or_insert(now.mono.plus(FORGOTTEN_AFTER));
        // Twice what it was told, and a little: one late or lost question does not cost the claim.
        let patience = told.map(|told| told.saturating_mul(2).saturating_add(Duration::from_secs(5)));
        if let Some(waiter) = self.numbers.get(id).and_then(|number| self.order.get_mut(number)) {
            waiter.last_asked = now.mono;
            waiter.patience = patience;
            return false;
        }
        if self.order.len() >= MAX_WAITERS {
            return false;
        }
        let number = self.next;
        self.next = self.next.saturating_add(1);
        self.numbers.insert(id.clone(), number);
        self.order.insert(number, Waiter { id: id.clone(), since: now.wall, last_asked: now.mono, patience });
        true
    }

    /// Notes that a host waits no more.
    pub fn leave(&mut self, id: &HostId) {
        if let Some(number) = self.numbers.remove(id) {
            self.order.remove(&number);
        }
    }

    /// Where a host stands; none if it does not wait.
    pub fn place(&self, id: &HostId) -> Option<Place> {
        let number = self.numbers.get(id)?;
        let waiter = self.order.get(number)?;
        Some(Place { number: self.order.range(..number).count().saturating_add(1), since: waiter.since })
    }

    /// Those before a host (before a newcomer: all) that `waits` confirms and that are still expected to come back.
    pub fn expected_before<'a>(
        &'a self,
        id: &HostId,
        now: Mono,
        waits: impl Fn(&HostId) -> bool + 'a,
    ) -> impl Iterator<Item = &'a Waiter> {
        let end = self.numbers.get(id).copied().unwrap_or(u64::MAX);
        self.order.range(..end).map(|(_, waiter)| waiter).filter(move |waiter| waiter.is_expected(now) && waits(&waiter.id))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// All who wait, first come first.
    pub fn iter(&self) -> impl Iterator<Item = &Waiter> {
        self.order.values()
    }

    /// Drops those who have not asked for [`FORGOTTEN_AFTER`].
    pub fn forget_silent(&mut self, now: Mono) {
        // The silent are looked for at most once in the time it takes to be forgotten, not at every question.
        if self.forget_at.is_none_or(|at| now < at) {
            return;
        }
        self.order.retain(|_, waiter| now.since(waiter.last_asked) < FORGOTTEN_AFTER);
        let order = &self.order;
        self.numbers.retain(|_, number| order.contains_key(number));
        self.forget_at = self.order.values().map(|waiter| waiter.last_asked.plus(FORGOTTEN_AFTER)).min();
    }
}
