//! Who among the draining holders has fallen silent (design 11.17).
//!
//! Promises: a holder is named only after this very process has seen the same grant, unrenewed, for a whole lease on
//! its own monotonic clock. Nothing read from the store is compared with a clock, so neither a wrong clock nor a
//! restart can shorten a lease; a restart starts every lease anew, and so does [`LeaseWatch::forget`], which is for times
//! in which no renewal could be written.
//! Never: names a holder that is rebooting.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Document, Mono, Op, Phase};
use crate::names::HostId;

/// How long a draining holder may be silent. A host renews every quarter of it, so three renewals may be lost.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(120);

/// Watches the draining holders of one group.
#[derive(Debug)]
pub struct LeaseWatch {
    lease: Duration,
    seen: BTreeMap<HostId, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    fence: u64,
    renewals: u64,
    first: Mono,
}

impl LeaseWatch {
    /// A watch that has seen nothing yet.
    pub fn new(lease: Duration) -> Self {
        Self { lease, seen: BTreeMap::new() }
    }

    /// The lease it watches by.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Takes note of a document that was just read from, or written to, the store.
    pub fn observe(&mut self, document: &Document, now: Mono) {
        let before = std::mem::take(&mut self.seen);
        for holder in document.holders().iter().filter(|holder| holder.phase == Phase::Draining) {
            let first = before
                .get(&holder.id)
                .filter(|seen| seen.fence == holder.fence && seen.renewals == holder.renewals)
                .map_or(now, |seen| seen.first);
            let seen = Seen { fence: holder.fence, renewals: holder.renewals, first };
            self.seen.insert(holder.id.clone(), seen);
        }
    }

    /// Drops everything that was seen: every lease starts anew with the next document.
    pub fn forget(&mut self) {
        self.seen.clear();
    }

    /// The operations that free those who were silent for the whole lease.
    pub fn expired(&self, now: Mono) -> Vec<Op> {
        let silent = |seen: &Seen| now.since(seen.first) >= self.lease;
        self.seen
            .iter()
            .filter(|(_, seen)| silent(seen))
            .map(|(id, seen)| Op::Expire { id: id.clone(), fence: seen.fence, renewals: seen.renewals })
            .collect()
    }

    /// When to look next; never, while nobody drains.
    pub fn next_expiry(&self) -> Option<Mono> {
        self.seen.values().map(|seen| seen.first.plus(self.lease)).min()
    }
}
