//! What an attempt may download: one budget for all its payloads, and of it a share for each (design 11.14).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number of bytes that all its clones spend together.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Account>);

#[derive(Debug)]
struct Account {
    limit: AtomicU64,
    spent: AtomicU64,
}

impl Budget {
    /// At most so many bytes.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        Self(Arc::new(Account { limit: AtomicU64::new(limit_bytes), spent: AtomicU64::new(0) }))
    }

    /// From now on at most so many bytes, what was spent before included.
    pub fn set_limit(&self, bytes: u64) {
        self.0.limit.store(bytes, Ordering::Relaxed);
    }

    /// Most bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.0.limit.load(Ordering::Relaxed)
    }

    /// Bytes that were downloaded, by whomever, wasted ones included.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.0.spent.load(Ordering::Relaxed)
    }

    /// These bytes have come. False once more has come than may.
    pub(super) fn spend(&self, bytes: u64) -> bool {
        let before = self.0.spent.fetch_add(bytes, Ordering::Relaxed);
        before.saturating_add(bytes) <= self.limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_share_a_budget_spend_it_together() {
        let one = Budget::new(100);
        let other = one.clone();
        assert!(one.spend(60) && other.spend(40));
        assert!(!one.spend(1), "all of it is spent");
        assert_eq!((other.spent(), other.limit()), (101, 100));
        other.set_limit(200);
        assert!(one.spend(99) && !one.spend(1));
    }
}
