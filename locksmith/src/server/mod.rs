//! The lock service over HTTP: FleetLock for hosts, `/v1/groups…` for operators.
//!
//! | path | for | answers |
//! |---|---|---|
//! | `POST /v1/pre-reboot`, `POST /v1/steady-state` | hosts | [`crate::fleetlock`] |
//! | `/v1/groups…` | operators | [`crate::api`] |
//! | `GET /metrics` | Prometheus | text, labels bounded |
//! | `GET /healthz` | a supervisor | 200 `ok`, or 503 while the store cannot be read, or written after a change failed |
//!
//! Status codes of a refusal: 423 all places taken (or kept for those who waited longer), 409 another attempt holds the
//! place or the grant is lost, 403 unknown group or not allowed, 401 no token, 400 not understood, 405, 408, 413, and
//! 503 with `Retry-After` while the store is out.
//!
//! Promises: a yes is durable before it is sent; a lost compare-and-swap never reaches a host; bodies, times and
//! connections are bounded; no web page can change anything through somebody's browser.
//! Never: tells an attempt id to anybody.

mod auth;
mod group;
mod handlers;
mod listener;
mod metrics;
mod problem;
mod seldom;
mod watched;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use auth::{Role, TokenFileError, Tokens};

use crate::names::GroupName;
use crate::semaphore::history::Entry;
use crate::semaphore::lease::DEFAULT_LEASE;
use crate::semaphore::{Document, Max};
use crate::store::{Expected, Store, StoreError, Stored, Swap, Write};
use group::GroupHandle;
use listener::Limits;
use metrics::Counters;
use watched::Watched;

/// How long answers under way may take after the server was told to stop.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// What a server is told besides its store.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a draining holder may be silent.
    pub lease: Duration,
    /// Who may ask; without tokens everybody may do everything, which is for loopback only.
    pub tokens: Option<Tokens>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lease: DEFAULT_LEASE, tokens: None }
    }
}

/// The lock service upon a store.
#[derive(Debug)]
pub struct Server<S> {
    shared: Arc<Shared<S>>,
}

/// How [`Server::ensure_group`] found a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It was made.
    Created,
    /// It was there already, with this maximum.
    Exists(Max),
    /// The store has as many groups as it takes.
    TooMany,
}

#[derive(Debug)]
struct Shared<S> {
    store: Arc<Watched<S>>,
    settings: Settings,
    started: Instant,
    groups: RwLock<BTreeMap<GroupName, GroupHandle>>,
    tasks: Mutex<JoinSet<()>>,
    counters: Counters,
}

impl<S: Store> Server<S> {
    /// Starts the tasks of the groups the store has, so that the leases of their draining holders are watched from now
    /// on. Must be called within a tokio runtime.
    pub async fn start(store: S, settings: Settings) -> Result<Self, StoreError> {
        let store = Arc::new(Watched::new(store));
        let names = store.groups().await?.names;
        let shared = Arc::new(Shared {
            store,
            settings,
            started: Instant::now(),
            groups: RwLock::default(),
            tasks: Mutex::default(),
            counters: Counters::default(),
        });
        for name in names {
            shared.adopt(&name);
        }
        Ok(Self { shared })
    }

    /// Makes a group unless it exists; a group that exists keeps its maximum.
    pub async fn ensure_group(&self, name: &GroupName, max: Max) -> Result<Ensured, StoreError> {
        self.shared.ensure_group(name, max).await
    }

    /// The service, to be mounted anywhere.
    pub fn router(&self) -> Router {
        handlers::router(Arc::clone(&self.shared))
    }

    /// Serves until `stop` resolves; then takes no new connections, and gives the answers under way 10 s. When it returns
    /// the groups' tasks have ended and the store is closed, unless an answer took longer.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()> + Send + 'static) {
        let (tell, stopped) = oneshot::channel();
        let stop = async {
            stop.await;
            let _ = tell.send(());
        };
        let serving = listener::serve(listener, self.router(), Limits::default(), stop);
        let too_late = async {
            let _ = stopped.await;
            tokio::time::sleep(STOP_GRACE).await;
        };
        let all = async {
            serving.await;
            self.shared.finish().await;
        };
        tokio::select! {
            () = all => {}
            () = too_late => tracing::warn!("answers were still under way {STOP_GRACE:?} after the stop; leaving"),
        }
    }
}

impl<S: Store> Shared<S> {
    async fn ensure_group(&self, name: &GroupName, max: Max) -> Result<Ensured, StoreError> {
        let document = Document::new(max);
        let history = vec![Entry::created(max, group::wall_clock())];
        let write = Write { document, history };
        if let Swap::Done(_) = self.store.swap(name, Expected::Absent, write).await? {
            self.adopt(name);
            return Ok(Ensured::Created);
        }
        let found = self.store.get(name).await?;
        if found.is_some() {
            self.adopt(name);
        }
        Ok(found.map_or(Ensured::TooMany, |Stored { document, .. }| Ensured::Exists(document.max())))
    }

    /// The handle of a group that is known to exist; its task is started if need be.
    fn adopt(&self, name: &GroupName) -> GroupHandle {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            let store = Arc::clone(&self.store);
            let (handle, task) = GroupHandle::new(name.clone(), store, self.settings.lease, self.started);
            self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
            handle
        };
        groups.entry(name.clone()).or_insert_with(start).clone()
    }

    /// Ends the groups' tasks after what they were asked.
    async fn finish(&self) {
        self.groups.write().unwrap_or_else(PoisonError::into_inner).clear();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
    }

    /// The handle of a group, if it exists; another server of the same store may have made it a moment ago.
    async fn find(&self, name: &GroupName) -> Result<Option<GroupHandle>, StoreError> {
        let known = self.groups.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        match known {
            Some(handle) => Ok(Some(handle)),
            None => Ok(self.store.get(name).await?.map(|_| self.adopt(name))),
        }
    }

    fn handles(&self) -> Vec<(GroupName, GroupHandle)> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.iter().map(|(name, handle)| (name.clone(), handle.clone())).collect()
    }
}
