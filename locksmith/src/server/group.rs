//! The one task that decides for a group.
//!
//! Promises: everything asked at the same time is decided in order and written in one swap, so a thousand contenders
//! cost a few writes and never see a conflict; a swap that another replica won is tried again here, a bounded number of
//! times with jitter; an answer leaves only after what it says is durable. A lease ends only after every renewal that
//! had arrived by then was decided, and a round that failed starts every lease anew: no renewal could be written in it.
//! Never: keeps a document between rounds. The store is asked every time; only the queue and the lease watch live here.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::metrics::GroupCounters;
use super::seldom::Seldom;
use crate::names::{GroupName, HostId};
use crate::semaphore::history::Entry;
use crate::semaphore::lease::LeaseWatch;
use crate::semaphore::queue::{Place, Queue, Waiter};
use crate::semaphore::{Answer, Decided, Document, Folded, Moment, Mono, Op, Refusal, fold};
use crate::store::{Expected, Revision, Store, StoreError, Swap, Write};

/// Questions a group takes in while it writes; beyond it the server says that it is busy.
const INBOX: usize = 2048;

/// Questions decided in one swap. Each may add a history entry, and an etcd transaction has 128 operations.
const BATCH: usize = 100;

/// How often a lost swap is tried again before the host is told that the store is out.
const SWAP_TRIES: u32 = 16;

/// Longest pause between two of them.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The shortest time after which a waiting host is told to ask again. It grows with the queue, so that many who wait
/// cost no more than a few: 10,000 hosts ask about 33 times a second in all.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// The longest.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Waiters ahead that add a second to it.
const AHEAD_PER_SECOND: usize = 33;

/// A way to ask a group.
#[derive(Debug, Clone)]
pub(super) struct GroupHandle {
    inbox: mpsc::Sender<Command>,
    pub(super) counters: Arc<GroupCounters>,
}

/// What a group answers to an operation.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) answer: Answer,
    /// The document it was decided upon.
    pub(super) upon: Arc<Document>,
    /// The asker's place in the queue, if it waits.
    pub(super) place: Option<Place>,
    /// When it may ask again.
    pub(super) retry_after: Duration,
}

/// What a group looks like.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) document: Arc<Document>,
    pub(super) revision: Revision,
    /// The first of those who wait.
    pub(super) waiting: Vec<Waiter>,
    pub(super) waiting_total: usize,
}

/// Why a group could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Trouble {
    #[error("{0}")]
    StoreOut(String),
    #[error("{0}")]
    Unusable(String),
    #[error("the group lost {SWAP_TRIES} swaps in a row to other servers of the same store")]
    Contended,
    #[error("the group was deleted from the store")]
    Gone,
    #[error("the group has {INBOX} questions to answer already")]
    Busy,
}

enum Command {
    Decide { op: Op, reply: oneshot::Sender<Result<Verdict, Trouble>> },
    Look { waiters: usize, reply: oneshot::Sender<Result<Look, Trouble>> },
}

impl GroupHandle {
    /// A handle and the task behind it, which ends when the last handle is dropped and everything asked is answered.
    pub(super) fn new<S: Store>(
        group: GroupName,
        store: Arc<S>,
        lease: Duration,
        started: Instant,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (inbox, commands) = mpsc::channel(INBOX);
        let counters = Arc::new(GroupCounters::default());
        let worker = Worker {
            group,
            store,
            queue: Queue::default(),
            watch: LeaseWatch::new(lease),
            started,
            counters: Arc::clone(&counters),
            wake: Some(started),
            trouble: Seldom::default(),
        };
        (Self { inbox, counters }, worker.run(commands))
    }

    /// Asks for a decision.
    pub(super) async fn decide(&self, op: Op) -> Result<Verdict, Trouble> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Decide { op, reply })?;
        answer.await.unwrap_or(Err(Trouble::Gone))
    }

    /// Looks at the group, naming the first `waiters` of those who wait.
    pub(super) async fn look(&self, waiters: usize) -> Result<Look, Trouble> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Look { waiters, reply })?;
        answer.await.unwrap_or(Err(Trouble::Gone))
    }

    fn send(&self, command: Command) -> Result<(), Trouble> {
        self.inbox.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Trouble::Busy,
            mpsc::error::TrySendError::Closed(_) => Trouble::Gone,
        })
    }
}

struct Worker<S> {
    group: GroupName,
    store: Arc<S>,
    queue: Queue,
    watch: LeaseWatch,
    started: Instant,
    counters: Arc<GroupCounters>,
    /// When a lease may have run out; never, while nobody drains.
    wake: Option<Instant>,
    /// Rounds that fail, until something is written again.
    trouble: Seldom,
}

/// What a round left in the store.
struct Settled {
    folded: Folded,
    revision: Revision,
    now: Moment,
    /// Whether something was written.
    written: bool,
}

impl<S: Store> Worker<S> {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            let wake = self.wake;
            let alarm = async move {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let mut commands = Vec::new();
            // What was asked comes before the alarm: it may be the renewal of the lease that the alarm is about.
            tokio::select! {
                biased;
                received = inbox.recv_many(&mut commands, BATCH) => if received == 0 { return },
                () = alarm => {}
            }
            let backlog = !inbox.is_empty();
            self.round(commands, backlog).await;
        }
    }

    /// Decides what was asked; with a `backlog`, more was asked already, perhaps renewals, and no lease ends.
    async fn round(&mut self, commands: Vec<Command>, backlog: bool) {
        let heard_until = (!backlog).then(|| self.now().mono);
        let mut asked = Vec::new();
        let mut looks = Vec::new();
        for command in commands {
            match command {
                Command::Decide { op, reply } => asked.push((op, reply)),
                Command::Look { waiters, reply } => looks.push((waiters, reply)),
            }
        }
        let ops: Vec<&Op> = asked.iter().map(|(op, _)| op).collect();
        match self.settle(&ops, heard_until).await {
            Ok(settled) => {
                if settled.written {
                    self.trouble.over();
                }
                self.tell(asked, looks, settled);
            }
            Err(trouble) => {
                self.watch.forget();
                self.note(&trouble);
                for (_, reply) in asked {
                    let _ = reply.send(Err(trouble.clone()));
                }
                for (_, reply) in looks {
                    let _ = reply.send(Err(trouble.clone()));
                }
            }
        }
    }

    /// Says that the group is in trouble, and looks at the leases again, both ever more seldom. That the store is out is
    /// said by the store, once for all groups.
    fn note(&mut self, trouble: &Trouble) {
        self.counters.trouble();
        if self.trouble.is_due(Instant::now()) && !matches!(trouble, Trouble::StoreOut(_)) {
            tracing::error!(group = %self.group, "{trouble}");
        } else {
            tracing::debug!(group = %self.group, "{trouble}");
        }
        self.wake = self.trouble.next();
    }

    /// Decides everything upon one document and writes the result, until no other server interferes. Leases end after
    /// what was asked is decided, and only those that had run out by `heard_until`, when the last of it had arrived:
    /// while the store is slow, renewals wait in the inbox.
    async fn settle(&mut self, ops: &[&Op], heard_until: Option<Mono>) -> Result<Settled, Trouble> {
        for attempt in 0..SWAP_TRIES {
            if attempt > 0 {
                self.counters.conflict();
                tokio::time::sleep(pause(attempt)).await;
            }
            let stored = self.store.get(&self.group).await?.ok_or(Trouble::Gone)?;
            let now = self.now();
            self.watch.observe(&stored.document, now.mono);
            let leases = heard_until.map_or_else(Vec::new, |until| self.watch.expired(until));
            let all = ops.iter().copied().chain(&leases);
            let before = Arc::new(stored.document);
            let folded = fold(&before, stored.revision.0, &self.queue, all, now);
            if !folded.changed {
                self.look_later();
                return Ok(Settled { folded, revision: stored.revision, now, written: false });
            }
            let write = Write { document: folded.document.as_ref().clone(), history: folded.history.clone() };
            let swap = self.store.swap(&self.group, Expected::At(stored.revision), write).await?;
            if let Swap::Done(revision) = swap {
                self.watch.observe(&folded.document, self.now().mono);
                self.look_later();
                return Ok(Settled { folded, revision, now, written: true });
            }
        }
        Err(Trouble::Contended)
    }

    fn look_later(&mut self) {
        self.wake = self.watch.next_expiry().map(|Mono(since_start)| self.started + since_start);
    }

    /// Hands out the answers of a round that is durable.
    fn tell(
        &mut self,
        asked: Vec<(Op, oneshot::Sender<Result<Verdict, Trouble>>)>,
        looks: Vec<(usize, oneshot::Sender<Result<Look, Trouble>>)>,
        settled: Settled,
    ) {
        let Settled { folded, revision, now, written: _ } = settled;
        for entry in &folded.history {
            self.counters.event(entry);
            self.log(entry);
        }
        self.queue.forget_silent(now.mono);
        for ((op, reply), decided) in asked.into_iter().zip(folded.answers) {
            let verdict = self.verdict(&op, decided, now);
            let _ = reply.send(Ok(verdict));
        }
        for (waiters, reply) in looks {
            let look = Look {
                document: Arc::clone(&folded.document),
                revision,
                waiting: self.queue.iter().take(waiters).cloned().collect(),
                waiting_total: self.queue.len(),
            };
            let _ = reply.send(Ok(look));
        }
    }

    fn verdict(&mut self, op: &Op, decided: Decided, now: Moment) -> Verdict {
        let Decided { answer, upon } = decided;
        let mut retry_after = RETRY_AFTER;
        let mut place = None;
        match (op, &answer) {
            (Op::Take { id, attempt, .. }, Answer::Refused(refusal @ (Refusal::Full | Refusal::Kept))) => {
                let ahead = self.queue.place(id).map_or(self.queue.len(), |place| place.number);
                retry_after = retry_after_of(ahead);
                let told = attempt.is_some().then_some(retry_after);
                if self.queue.join(id, told, now) {
                    tracing::info!(group = %self.group, %id, ?refusal, "waits");
                }
                place = self.queue.place(id);
            }
            (
                Op::Take { id, .. } | Op::Hold { id, .. } | Op::Release { id, .. },
                Answer::Granted(_) | Answer::Released { .. },
            ) => self.queue.leave(id),
            _ => {}
        }
        Verdict { answer, upon, place, retry_after }
    }

    fn log(&self, entry: &Entry) {
        let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        tracing::info!(
            group = %self.group,
            id = shown(entry.id.as_ref().map(HostId::to_string)),
            attempt = shown(entry.tag.as_ref().map(ToString::to_string)),
            version = shown(entry.version.as_ref().map(ToString::to_string)),
            outcome = entry.outcome.map_or("-", crate::semaphore::Outcome::as_str),
            by = shown(entry.by.as_ref().map(ToString::to_string)),
            reason = shown(entry.reason.as_ref().map(ToString::to_string)),
            "{}",
            entry.event.as_str(),
        );
    }

    fn now(&self) -> Moment {
        Moment { wall: wall_clock(), mono: Mono(self.started.elapsed()) }
    }
}

/// The wall clock in whole seconds: nobody at a terminal wants nanoseconds.
pub(super) fn wall_clock() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } => Self::StoreOut(error.to_string()),
            StoreError::Document { .. } | StoreError::UnreadableNames { .. } => Self::Unusable(error.to_string()),
        }
    }
}

fn retry_after_of(ahead: usize) -> Duration {
    let seconds = u64::try_from(ahead / AHEAD_PER_SECOND).unwrap_or(u64::MAX);
    RETRY_AFTER.saturating_add(Duration::from_secs(seconds)).min(LONGEST_RETRY_AFTER)
}

/// A pause that doubles with every try and is cut by dice, so that servers that collided do not collide again.
fn pause(attempt: u32) -> Duration {
    let longest = Duration::from_millis(2).saturating_mul(1 << attempt.min(10)).min(LONGEST_PAUSE);
    let mut dice = [0_u8; 1];
    // Without dice the pause is whole: slower, not wrong.
    let share = getrandom::fill(&mut dice).map_or(255, |()| dice[0]);
    longest.saturating_mul(u32::from(share)) / 255
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::watched::Watched;
    use super::*;
    use crate::names::AttemptId;
    use crate::semaphore::{Facts, Max};
    use crate::store::memory::{Fault, MemoryStore};

    const LEASE: Duration = Duration::from_millis(400);

    /// Longer than the lease.
    const LONG: Duration = Duration::from_millis(600);

    /// A group whose host has just been granted a place, and its renewal.
    async fn granted() -> (GroupHandle, Arc<MemoryStore>, Op) {
        let store = Arc::new(MemoryStore::default());
        let (handle, renew) = granted_on(Arc::clone(&store)).await;
        (handle, store, renew)
    }

    async fn granted_on<S: Store>(store: Arc<S>) -> (GroupHandle, Op) {
        let group = GroupName::parse("web").unwrap();
        let document = Document::new(Max::new(1).unwrap());
        store.swap(&group, Expected::Absent, Write { document, history: Vec::new() }).await.unwrap();
        let (handle, task) = GroupHandle::new(group, store, LEASE, Instant::now());
        tokio::spawn(task);
        let (id, attempt) = (HostId::parse("host-a").unwrap(), AttemptId::parse("attempt-a").unwrap());
        let take = Op::Take { id: id.clone(), attempt: Some(attempt.clone()), facts: Facts::default() };
        let Answer::Granted(grant) = handle.decide(take).await.unwrap().answer else { panic!("not granted") };
        (handle, Op::Renew { id, attempt, fence: grant.fence })
    }

    async fn holders(handle: &GroupHandle) -> usize {
        handle.look(0).await.unwrap().document.holders().len()
    }

    #[tokio::test]
    async fn design_11_17_a_time_in_which_no_renewal_could_be_written_counts_for_no_lease() {
        let (handle, store, renew) = granted().await;
        store.script([Fault::Refused]);
        assert!(matches!(handle.decide(renew.clone()).await, Err(Trouble::StoreOut(_))));
        // The next look at the leases after a failure is seconds away: the first good round is somebody else's.
        tokio::time::sleep(LONG).await;
        assert_eq!(holders(&handle).await, 1);
        assert!(matches!(handle.decide(renew).await.unwrap().answer, Answer::Granted(_)));
        tokio::time::sleep(LONG).await;
        assert_eq!(holders(&handle).await, 0, "one that is silent while the store works is freed");
    }

    /// What is logged, as text.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        /// Keeps what this thread logs while the answer lives.
        fn listen(&self) -> tracing::subscriber::DefaultGuard {
            let log = self.clone();
            let format = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone());
            tracing::subscriber::set_default(format.finish())
        }

        fn errors(&self) -> usize {
            let log = self.0.lock().unwrap();
            String::from_utf8_lossy(&log).lines().filter(|line| line.contains("ERROR")).count()
        }
    }

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_store_that_can_be_read_but_not_written_does_not_fill_the_log() {
        let log = Log::default();
        let _listening = log.listen();
        let store = Arc::new(MemoryStore::default());
        let watched = Arc::new(Watched::new(Arc::clone(&store)));
        let (handle, renew) = granted_on(Arc::clone(&watched)).await;
        let fail = async || {
            store.script([Fault::Refused; 2]);
            assert!(matches!(handle.decide(renew.clone()).await, Err(Trouble::StoreOut(_))));
            assert!(watched.check().await.is_err(), "a supervisor asks");
        };
        for _ in 0..5 {
            fail().await;
            assert_eq!(holders(&handle).await, 1);
        }
        watched.check().await.unwrap();
        fail().await;
        assert_eq!(log.errors(), 1, "neither a look in between nor a supervisor begins a new trouble, nor a rehearsal ends one");
        assert!(matches!(handle.decide(renew.clone()).await.unwrap().answer, Answer::Granted(_)));
        fail().await;
        assert_eq!(log.errors(), 2, "a trouble after something was written is a new one");
    }

    #[tokio::test]
    async fn a_renewal_that_waited_for_a_slow_store_comes_before_the_end_of_its_lease() {
        for others in [0, BATCH + BATCH / 2] {
            let (handle, store, renew) = granted().await;
            store.set_hanging(true);
            let stuck = tokio::spawn({
                let handle = handle.clone();
                async move { holders(&handle).await }
            });
            tokio::time::sleep(LEASE / 4).await;
            let mut before = Vec::new();
            for _ in 0..others {
                let (reply, answer) = oneshot::channel();
                handle.send(Command::Look { waiters: 0, reply }).unwrap();
                before.push(answer);
            }
            let (reply, renewed) = oneshot::channel();
            handle.send(Command::Decide { op: renew, reply }).unwrap();
            tokio::time::sleep(LONG).await;
            store.set_hanging(false);
            assert!(matches!(renewed.await.unwrap().unwrap().answer, Answer::Granted(_)), "{others} questions before it");
            assert_eq!(stuck.await.unwrap(), 1);
            for answer in before {
                assert_eq!(answer.await.unwrap().unwrap().document.holders().len(), 1);
            }
        }
    }
}
