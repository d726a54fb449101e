//! Where the documents of the groups lie: read, and compare-and-swap; and whether it could.
//!
//! Promises every store gives (one suite, `tests/store_conformance.rs`, is run over all of them)
//! - [`Store::swap`] changes a document only if it is still the one that was read, and when it answers
//!   [`Swap::Done`] the change and its history entries are durable, both or neither.
//! - A [`Revision`] rises with every change anywhere in the store and is never given twice, not even to a document that
//!   was deleted and made anew (no ABA).
//! - An error says nothing about whether the change happened: whoever asked must read again.
//! - What cannot be read hides nothing else: an unusable document is its group's trouble, an entry that cannot be read is
//!   counted, and so is a group whose very name cannot be read. While there is one, no group is made: the new one could be it,
//!   and its holders would be forgotten.
//!
//! Never: a lease, a timer, a retry or a decision.

pub mod memory;
pub mod sqlite;

use std::future::Future;

use crate::names::GroupName;
use crate::semaphore::history::Entry;
use crate::semaphore::{Document, DocumentError};

/// Most groups one store lists: beyond it no group is made. Metrics have a line per group.
pub const MAX_GROUPS: usize = 1000;

/// The number of the change that wrote a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// A document as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What it says.
    pub document: Document,
    /// When it was written, in the store's count.
    pub revision: Revision,
}

/// What a swap expects to replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// No document: the group is made.
    Absent,
    /// The document of that revision.
    At(Revision),
}

/// How a swap ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// Durable, as that revision.
    Done(Revision),
    /// Somebody else was first; nothing changed.
    Lost,
}

/// What a swap writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The new document.
    pub document: Document,
    /// History to append with it.
    pub history: Vec<Entry>,
}

/// The groups of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// Their names, in order, at most [`MAX_GROUPS`].
    pub names: Vec<GroupName>,
    /// How many groups beside these have a name that cannot be read.
    pub unreadable: usize,
}

/// What a store remembers of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Newest first.
    pub entries: Vec<Entry>,
    /// How many entries beside these cannot be read: damaged, or of a newer locksmithd.
    pub unreadable: usize,
}

/// Why a store could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is out: disk full, gone, locked, not reachable. Whether a swap happened is unknown.
    #[error("the store {place} is out: {reason}")]
    Unavailable {
        /// Which store.
        place: String,
        /// What it said.
        reason: String,
    },
    /// What lies in it cannot be used.
    #[error("the store {place} has an unusable document for group \"{group}\": {source}")]
    Document {
        /// Which store.
        place: String,
        /// Whose document.
        group: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// A group cannot be made.
    #[error(
        "the store {place} has {unreadable} group(s) whose names cannot be read; a new group could be one of them, and let hosts \
         reboot beside its holders, so none is made"
    )]
    UnreadableNames {
        /// Which store.
        place: String,
        /// How many.
        unreadable: usize,
    },
}

/// A place for documents.
pub trait Store: Send + Sync + 'static {
    /// Reads a group's document.
    fn get(&self, group: &GroupName) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;

    /// Replaces a group's document if it is still the expected one.
    fn swap(&self, group: &GroupName, expected: Expected, write: Write) -> impl Future<Output = Result<Swap, StoreError>> + Send;

    /// All groups there are.
    fn groups(&self) -> impl Future<Output = Result<Groups, StoreError>> + Send;

    /// The newest entries of a group's history that can be read, at most `limit`, and how many among and before them cannot.
    fn history(&self, group: &GroupName, limit: usize) -> impl Future<Output = Result<History, StoreError>> + Send;

    /// Writes as much as the largest change of any group does, durably, and takes it back: what could be rehearsed can be
    /// done. No document, no history and no document's revision is another afterwards.
    fn rehearse(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl<S: Store> Store for std::sync::Arc<S> {
    async fn get(&self, group: &GroupName) -> Result<Option<Stored>, StoreError> {
        self.as_ref().get(group).await
    }

    async fn swap(&self, group: &GroupName, expected: Expected, write: Write) -> Result<Swap, StoreError> {
        self.as_ref().swap(group, expected, write).await
    }

    async fn groups(&self) -> Result<Groups, StoreError> {
        self.as_ref().groups().await
    }

    async fn history(&self, group: &GroupName, limit: usize) -> Result<History, StoreError> {
        self.as_ref().history(group, limit).await
    }

    async fn rehearse(&self) -> Result<(), StoreError> {
        self.as_ref().rehearse().await
    }
}
