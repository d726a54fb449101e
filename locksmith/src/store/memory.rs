//! A store for tests.
//!
//! Fault model: it forgets everything with the process, and fails exactly as its script says: each swap and each rehearsal
//! takes the next [`Fault`] off the script, if there is one. Everything hangs while it is told to. It keeps count of what it wrote.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{Expected, Groups, History, MAX_GROUPS, Revision, Store, StoreError, Stored, Swap, Write};
use crate::names::GroupName;
use crate::semaphore::history::{Entry, MAX_ENTRIES};

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
    hanging: watch::Sender<bool>,
}

/// What goes wrong with one swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Somebody else was first, it says; nothing is written.
    Lost,
    /// An error; nothing is written.
    Refused,
    /// An error, but the change is made: the ambiguous case.
    LostAnswer,
    /// Works.
    None,
}

#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    groups: BTreeMap<GroupName, Stored>,
    history: BTreeMap<GroupName, VecDeque<Entry>>,
    script: VecDeque<Fault>,
    down: bool,
}

impl MemoryStore {
    /// Appends faults to the script.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().script.extend(faults);
    }

    /// From now on everything fails, or nothing does.
    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// From now on nothing is answered, or everything is, what was asked meanwhile included.
    pub fn set_hanging(&self, hanging: bool) {
        self.hanging.send_replace(hanging);
    }

    /// How many swaps changed something, and how many rehearsals went well.
    pub fn writes(&self) -> u64 {
        self.lock().revision
    }

    /// Deletes a group, as an operator with a tool of the store's own might.
    pub fn delete(&self, group: &GroupName) {
        let mut inner = self.lock();
        inner.groups.remove(group);
        inner.revision = inner.revision.saturating_add(1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answers(&self) {
        // The sender lives as long as the store.
        let _ = self.hanging.subscribe().wait_for(|hanging| !hanging).await;
    }

    fn up(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.lock();
        if inner.down { Err(out("it is switched off")) } else { Ok(inner) }
    }
}

impl Inner {
    fn swap(&mut self, group: &GroupName, expected: Expected, write: Write) -> Swap {
        let found = self.groups.get(group).map(|stored| stored.revision);
        let as_expected = match expected {
            Expected::Absent => found.is_none() && self.groups.len() < MAX_GROUPS,
            Expected::At(revision) => found == Some(revision),
        };
        if !as_expected {
            return Swap::Lost;
        }
        self.revision = self.revision.saturating_add(1);
        let revision = Revision(self.revision);
        self.groups.insert(group.clone(), Stored { document: write.document, revision });
        let history = self.history.entry(group.clone()).or_default();
        history.extend(write.history);
        let excess = history.len().saturating_sub(MAX_ENTRIES);
        history.drain(..excess);
        Swap::Done(revision)
    }
}

impl Store for MemoryStore {
    async fn get(&self, group: &GroupName) -> Result<Option<Stored>, StoreError> {
        self.answers().await;
        Ok(self.up()?.groups.get(group).cloned())
    }

    async fn swap(&self, group: &GroupName, expected: Expected, write: Write) -> Result<Swap, StoreError> {
        self.answers().await;
        let mut inner = self.up()?;
        match inner.script.pop_front().unwrap_or(Fault::None) {
            Fault::Lost => Ok(Swap::Lost),
            Fault::Refused => Err(out("its script says so")),
            Fault::LostAnswer => {
                inner.swap(group, expected, write);
                Err(out("its script says so, though the change was made"))
            }
            Fault::None => Ok(inner.swap(group, expected, write)),
        }
    }

    async fn groups(&self) -> Result<Groups, StoreError> {
        self.answers().await;
        Ok(Groups { names: self.up()?.groups.keys().take(MAX_GROUPS).cloned().collect(), unreadable: 0 })
    }

    async fn history(&self, group: &GroupName, limit: usize) -> Result<History, StoreError> {
        self.answers().await;
        let inner = self.up()?;
        let entries = inner.history.get(group).into_iter().flatten();
        Ok(History { entries: entries.rev().take(limit).cloned().collect(), unreadable: 0 })
    }

    async fn rehearse(&self) -> Result<(), StoreError> {
        self.answers().await;
        let mut inner = self.up()?;
        match inner.script.pop_front().unwrap_or(Fault::None) {
            Fault::Refused | Fault::LostAnswer => Err(out("its script says so")),
            // There is nobody to lose a rehearsal to.
            Fault::Lost | Fault::None => {
                inner.revision = inner.revision.saturating_add(1);
                Ok(())
            }
        }
    }
}

fn out(reason: &str) -> StoreError {
    StoreError::Unavailable { place: "in memory".to_owned(), reason: reason.to_owned() }
}
