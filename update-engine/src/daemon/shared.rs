//! What the daemon's works share: settings, the look at the world, the HTTP client, what was earned.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use locksmith::client::Grant;
use manifests::release::SlotName;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::config::Settings;
use crate::daemon::judge;
use crate::daemon::limit::Limits;
use crate::daemon::look::Looker;
use crate::daemon::reboot::RebootCommand;
use crate::daemon::slots::Tokens;
use crate::engine::Event;
use crate::engine::facts::{Facts, PerSlot};
use crate::engine::model::Progress;
use crate::engine::state::Plan;
use crate::fetch::Fetcher;
use crate::status::json::ReadBack;
use crate::world::World;

/// Progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Cheap to clone; all clones share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) settings: Arc<Settings>,
    pub(super) world: World,
    pub(super) fetcher: Fetcher,
    pub(super) limits: Limits,
    pub(super) tokens: Arc<Tokens>,
    pub(super) events: mpsc::Sender<Event>,
    /// Held by the one work that has the inactive slot in its hands.
    pub(super) slot_turn: Arc<tokio::sync::Mutex<()>>,
    pub(super) reboot_command: Arc<RebootCommand>,
    pub(super) looker: Arc<Looker>,
    pub(super) health_turns: judge::Turns,
    grant: Arc<Mutex<Option<Grant>>>,
    facts: Arc<Mutex<Facts>>,
    read_back: Arc<Mutex<PerSlot<Option<ReadBack>>>>,
}

impl Shared {
    pub(super) fn new(world: World, fetcher: Fetcher, events: mpsc::Sender<Event>, facts: Facts) -> Self {
        Self {
            settings: world.settings().clone(),
            limits: Limits::new(world.settings().fetch.clone(), fetcher.rate().clone()),
            world,
            fetcher,
            tokens: Arc::default(),
            events,
            slot_turn: Arc::default(),
            reboot_command: Arc::default(),
            looker: Arc::default(),
            health_turns: judge::Turns::default(),
            grant: Arc::default(),
            facts: Arc::new(Mutex::new(facts)),
            read_back: Arc::default(),
        }
    }

    /// The world as the engine last saw it.
    pub(super) fn facts(&self) -> Facts {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_facts(&self, facts: &Facts) {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone_from(facts);
    }

    pub(super) fn boot_id(&self) -> String {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).boot_id.as_str().to_owned()
    }

    /// How the slots were read back in this run of the daemon.
    pub(super) fn read_back(&self) -> PerSlot<Option<ReadBack>> {
        *self.read_back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_read_back(&self, slot: SlotName, how: Option<ReadBack>) {
        *self.read_back.lock().unwrap_or_else(PoisonError::into_inner).get_mut(slot) = how;
    }

    /// Keeps what the lock server granted, for renewing it.
    pub(super) fn remember_grant(&self, grant: Grant) {
        *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = Some(grant);
    }

    /// The grant of that attempt, if this run of the daemon got it.
    pub(super) fn grant_of(&self, attempt: &str) -> Option<Grant> {
        let grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        grant.as_ref().filter(|grant| grant.ticket.attempt.as_str() == attempt).cloned()
    }

    /// Tells the engine how far a work is: a few times a second, the last word always, and never waits for it.
    pub(super) fn progress_of(&self, plan: &Plan) -> impl Fn(Progress) + Send + Sync + 'static {
        let attempt = plan.attempt.clone();
        throttled(self.events.clone(), move |progress| Event::Progressed { attempt: attempt.clone(), progress })
    }
}

/// Sends how far something is: a few times a second, the last word always, and never waits for it.
pub(super) fn throttled<T: Send + 'static>(
    sender: mpsc::Sender<T>,
    message: impl Fn(Progress) -> T + Clone + Send + Sync + 'static,
) -> impl Fn(Progress) + Send + Sync + 'static {
    let runtime = Handle::current();
    let latest: Arc<Mutex<Option<Progress>>> = Arc::default();
    move |progress| {
        let waiting = latest.lock().unwrap_or_else(PoisonError::into_inner).replace(progress).is_some();
        if waiting {
            // Whoever put the one before it there will take this one along.
            return;
        }
        let (sender, message, latest) = (sender.clone(), message.clone(), latest.clone());
        runtime.spawn(async move {
            tokio::time::sleep(PROGRESS_EVERY).await;
            let newest = latest.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(progress) = newest {
                let _told_or_ended = sender.send(message(progress)).await;
            }
        });
    }
}
