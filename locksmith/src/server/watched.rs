//! A store that remembers whether the last change it was asked for could be made, and says in the log when it is out.
//!
//! Promises: while the last change failed, [`Watched::check`] answers only after one was made or rehearsed, so a service that
//! cannot grant or free anything is never called healthy, and is called so again by itself once it can. Whoever asks, and
//! however often, the log says seldom that the store is out, until a change is made again.
//! Never: writes to a store whose last change went well, or changes what a document says.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::seldom::Seldom;
use crate::names::GroupName;
use crate::store::{Expected, History, Store, StoreError, Stored, Swap, Write};

/// A store, and how its last change went.
#[derive(Debug)]
pub(super) struct Watched<S> {
    store: S,
    /// A disk that is full can be read all the same.
    changes_fail: AtomicBool,
    trouble: Mutex<Seldom>,
}

impl<S: Store> Watched<S> {
    pub(super) fn new(store: S) -> Self {
        Self { store, changes_fail: AtomicBool::new(false), trouble: Mutex::default() }
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
        if self.changes_fail.load(Ordering::Relaxed) {
            self.rehearse().await?;
        }
        Ok(())
    }
}

impl<S: Store> Store for Watched<S> {
    async fn get(&self, group: &GroupName) -> Result<Option<Stored>, StoreError> {
        self.noted(self.store.get(group).await)
    }

    async fn swap(&self, group: &GroupName, expected: Expected, write: Write) -> Result<Swap, StoreError> {
        let swap = self.noted(self.store.swap(group, expected, write).await);
        match swap {
            Ok(Swap::Done(_)) => {
                self.changes_fail.store(false, Ordering::Relaxed);
                self.trouble.lock().unwrap_or_else(PoisonError::into_inner).over();
            }
            Err(StoreError::Unavailable { .. }) => self.changes_fail.store(true, Ordering::Relaxed),
            Ok(Swap::Lost) | Err(StoreError::Document { .. }) => {}
        }
        swap
    }

    async fn groups(&self) -> Result<Vec<GroupName>, StoreError> {
        self.noted(self.store.groups().await)
    }

    async fn history(&self, group: &GroupName, limit: usize) -> Result<History, StoreError> {
        self.noted(self.store.history(group, limit).await)
    }

    /// Ends no trouble in the log: that a change can be made is known when one is.
    async fn rehearse(&self) -> Result<(), StoreError> {
        let rehearsed = self.noted(self.store.rehearse().await);
        if rehearsed.is_ok() {
            self.changes_fail.store(false, Ordering::Relaxed);
        }
        rehearsed
    }
}
