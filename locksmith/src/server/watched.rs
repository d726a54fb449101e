//! A store that remembers whether the last change it was asked for could be made, and says in the log when it is out.
//!
//! Promises: while the last change failed, [`Watched::check`] answers only after one was made or rehearsed, so a service that
//! cannot grant or free anything is never called healthy, and is called so again by itself once it can. Whoever asks, and
//! however often, the log says seldom that the store is out, until a change is made again.
//! Never: writes to a store whose last change went well, or changes what a document says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::seldom::Seldom;
use crate::names::GroupName;
use crate::store::{Expected, Groups, History, Store, StoreError, Stored, Swap, Write};

/// A store, and how its last change went.
#[derive(Debug)]
pub(super) struct Watched<S> {
    store: S,
    /// How many changes failed: a disk that is full can be read all the same.
    failures: AtomicU64,
    /// How many of them had failed before something was changed or rehearsed that could be: all, where changes go well.
    made_good: AtomicU64,
    trouble: Mutex<Seldom>,
}

impl<S: Store> Watched<S> {
    pub(super) fn new(store: S) -> Self {
        Self { store, failures: AtomicU64::new(0), made_good: AtomicU64::new(0), trouble: Mutex::default() }
    }

    /// Says, now and then, that the store is out. What can be read says nothing to the contrary: a full disk can be.
    fn noted<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error @ StoreError::Unavailable { .. }) = &answer {
            let due = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).is_due(Instant::now());
            if due { tracing::error!("{error}") } else { tracing::debug!("{error}") }
        }
        answer
    }

    /// Reads from the store, and where the last change failed, rehearses one.
    pub(super) async fn check(&self) -> Result<(), StoreError> {
        self.groups().await?;
        if self.made_good.load(Ordering::Relaxed) < self.failures.load(Ordering::Relaxed) {
            self.rehearse().await?;
        }
        Ok(())
    }

    /// What began after these failures went well. It says nothing of one that came meanwhile.
    fn makes_good(&self, failures: u64) {
        self.made_good.fetch_max(failures, Ordering::Relaxed);
    }
}

impl<S: Store> Store for Watched<S> {
    async fn get(&self, group: &GroupName) -> Result<Option<Stored>, StoreError> {
        self.noted(self.store.get(group).await)
    }

    async fn swap(&self, group: &GroupName, expected: Expected, write: Write) -> Result<Swap, StoreError> {
        let failures = self.failures.load(Ordering::Relaxed);
        let swap = self.noted(self.store.swap(group, expected, write).await);
        match swap {
            Ok(Swap::Done(_)) => {
                self.makes_good(failures);
                self.trouble.lock().unwrap_or_else(PoisonError::into_inner).over();
            }
            Err(StoreError::Unavailable { .. }) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Swap::Lost) | Err(StoreError::Document { .. } | StoreError::UnreadableNames { .. }) => {}
        }
        swap
    }

    async fn groups(&self) -> Result<Groups, StoreError> {
        self.noted(self.store.groups().await)
    }

    async fn history(&self, group: &GroupName, limit: usize) -> Result<History, StoreError> {
        self.noted(self.store.history(group, limit).await)
    }

    /// Ends no trouble in the log: that a change can be made is known when one is.
    async fn rehearse(&self) -> Result<(), StoreError> {
        let failures = self.failures.load(Ordering::Relaxed);
        let rehearsed = self.noted(self.store.rehearse().await);
        if rehearsed.is_ok() {
            self.makes_good(failures);
        }
        rehearsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semaphore::{Document, Max};
    use crate::store::memory::{Fault, MemoryStore};

    #[tokio::test]
    async fn a_rehearsal_makes_no_failure_good_that_came_meanwhile() {
        let watched = Watched::new(MemoryStore::default());
        let fail = async || {
            watched.store.script([Fault::Refused]);
            let write = Write { document: Document::new(Max::new(1).unwrap()), history: Vec::new() };
            watched.swap(&GroupName::parse("web").unwrap(), Expected::Absent, write).await.unwrap_err();
        };
        let is_well = async || {
            watched.store.script([Fault::Refused]);
            let well = watched.check().await.is_ok();
            watched.store.script([Fault::None; 2]);
            well
        };
        fail().await;
        let began = watched.failures.load(Ordering::Relaxed);
        fail().await;
        watched.makes_good(began);
        assert!(!is_well().await, "the second failure is younger than what went well");
        watched.check().await.unwrap();
        assert!(is_well().await, "a rehearsal after both: no other is needed");
    }
}
