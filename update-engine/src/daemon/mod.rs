//! The daemon: takes an event, steps the engine, journals, runs the effects. The only place where that happens.
//!
//! One task owns engine and journal. Works (a check, an install, a read-back, hooks) run beside it and answer with events; what
//! blocks runs on threads for blocking work. An effect runs only after the journal has committed the step that asked for it: if
//! the journal cannot (a full disk), effects wait, `status` says why, and the commit is tried again.

mod ask;
mod inspect;
mod judge;
mod limit;
mod lock;
mod look;
mod mounts;
mod outbox;
mod publish;
mod reboot;
mod shared;
mod slots;
mod start;
mod waiting;
mod write;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use manifests::release::SlotName;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::control::{ControlHandle, Request};
use crate::engine::cause::Cause;
use crate::engine::command::{Accepted, Command, Rejected, Rejection};
use crate::engine::effect::Row;
use crate::engine::event::{Event, Fault, Gate, Orphan};
use crate::engine::model::Progress;
use crate::engine::state::{Plan, State};
use crate::engine::time::{Mono, Now, Wall};
use crate::engine::{Effect, Engine};
use crate::fetch::Fetcher;
use crate::hooks::{self, Stopper};
use crate::journal::Journal;
use crate::world::World;
use mounts::Mounts;
use outbox::Outbox;
use shared::Shared;
use waiting::Waiting;

pub use start::{StartError, run};

/// How long the works of one run are waited for, all together, before another run begins.
const LET_GO: Duration = Duration::from_secs(30);

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Asked to by a signal.
    Stopped,
    /// The reboot command was accepted, and in image mode nobody will kill this process.
    Rebooting,
    /// This work ended without an answer: it panicked. Half-known state is worse than a new start.
    Broken(&'static str),
}

/// The running daemon.
struct Daemon {
    engine: Engine,
    journal: Journal,
    shared: Shared,
    outbox: Outbox,
    publisher: publish::Publisher,
    commands: mpsc::Receiver<Request>,
    refresh: mpsc::Receiver<oneshot::Sender<()>>,
    events: mpsc::Receiver<Event>,
    settled: mpsc::Receiver<Settled>,
    settler: mpsc::Sender<Settled>,
    works: Vec<Work>,
    waiting: Waiting,
    /// This process has the lock of the state folder.
    has_state_lock: bool,
    looks_at_state_dir: bool,
    /// Where the journal has a folder that something may be mounted over.
    mounts: Option<Mounts>,
    looks_for_its_journal: bool,
    /// Works that may write the boot table, counted when they begin and when they answer.
    table_writes: u64,
    broken: mpsc::UnboundedReceiver<&'static str>,
    breaker: mpsc::UnboundedSender<&'static str>,
    ended: Option<End>,
}

/// Why one run of the loop is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With the daemon.
    Whole(Ended),
    /// The state folder can be used now, is another one by now, or turned out to lie on a slot: everything starts from what is there.
    Anew,
}

/// Something that runs beside the loop.
struct Work {
    attempt: Option<String>,
    cancel: Arc<AtomicBool>,
    /// Of its hooks, as far as they can be stopped.
    hooks: Option<Stopper>,
    /// It changes nothing, and what it has started ends with it.
    only_looks: bool,
    handle: JoinHandle<()>,
}

impl Work {
    fn stop(&self) {
        slots::stop(&self.cancel);
        if let Some(hooks) = &self.hooks {
            hooks.stop();
        }
    }
}

/// Answers that are the daemon's own and none of the engine's.
enum Settled {
    /// A row of the outbox was delivered or not.
    Delivery { id: i64, result: Result<outbox::Acknowledged, Fault> },
    /// An inspection moved on.
    Inspecting { id: String, progress: Progress },
    /// It was looked whether the state folder is still that of the journal.
    SoughtJournal,
    /// The state folder was looked at.
    StateDir { is_usable: bool },
    /// `verify` or `adopt` ended.
    Inspection { id: String, inspection: Box<inspect::Inspection>, table_writes: u64 },
}

impl Daemon {
    /// At rest: nothing happens before [`Daemon::run`]. The handle is for the control socket.
    fn new(engine: Engine, journal: Journal, world: World, fetcher: Fetcher) -> (Self, ControlHandle) {
        let (events_in, events) = mpsc::channel(256);
        let (commands_in, commands) = mpsc::channel(64);
        let (refresh_in, refresh) = mpsc::channel(64);
        let (settler, settled) = mpsc::channel(64);
        let (breaker, broken) = mpsc::unbounded_channel();
        let asked = publish::Asked { commands: commands_in, refresh: refresh_in };
        let (publisher, handle) = publish::Publisher::new(&engine, &journal, world.settings(), asked, now());
        let daemon = Self {
            shared: Shared::new(world, fetcher, events_in, engine.facts().clone()),
            engine,
            journal,
            outbox: Outbox::default(),
            publisher,
            commands,
            refresh,
            events,
            settled,
            settler,
            works: Vec::new(),
            waiting: Waiting::default(),
            has_state_lock: false,
            looks_at_state_dir: false,
            mounts: None,
            looks_for_its_journal: false,
            table_writes: 0,
            broken,
            breaker,
            ended: None,
        };
        (daemon, handle)
    }

    async fn run(mut self, orphans: Vec<Orphan>, stop: &mut mpsc::Receiver<()>) -> End {
        let ended = self.go_on(orphans, stop).await;
        if self.shared.world.has_left_its_journal() {
            self.journal.leave();
        }
        ended
    }

    async fn go_on(&mut self, orphans: Vec<Orphan>, stop: &mut mpsc::Receiver<()>) -> End {
        self.refill_outbox();
        let facts = Box::new(self.engine.facts().clone());
        self.step(Event::Started { facts, orphans });
        let mut mounts = self.mounts.take();
        loop {
            if let Some(ended) = self.ended {
                return match ended {
                    End::Anew => self.let_go(LET_GO, stop).await,
                    End::Whole(_) => ended,
                };
            }
            let sleep = self.sleep();
            tokio::select! {
                Some(event) = self.events.recv() => self.step(event),
                Some(settled) = self.settled.recv() => self.settle(settled),
                Some(request) = self.commands.recv() => self.answer(request),
                Some(done) = self.refresh.recv() => self.show_now(done),
                Some(work) = self.broken.recv() => return End::Whole(Ended::Broken(work)),
                () = sleep => self.woke(),
                () = changed(&mut mounts), if !self.looks_for_its_journal => self.look_for_its_journal(),
                _ = stop.recv() => return End::Whole(Ended::Stopped),
            }
        }
    }

    /// Another run begins in this process: whatever still changes the world must not do so beside it. All works are told at once;
    /// what has not ended in time is given up, and hooks are killed with that. Whoever stops the daemon does not wait for them.
    async fn let_go(&mut self, patience: Duration, stop: &mut mpsc::Receiver<()>) -> End {
        self.shared.reboot_command.end();
        let mut works = std::mem::take(&mut self.works);
        for work in &works {
            work.stop();
            if work.only_looks {
                work.handle.abort();
            }
        }
        let all_ended = async {
            for work in &mut works {
                // What it would answer is for nobody.
                let _ended = (&mut work.handle).await;
            }
        };
        let ended = tokio::select! {
            _all_or_too_long = tokio::time::timeout(patience, all_ended) => End::Anew,
            _ = stop.recv() => End::Whole(Ended::Stopped),
        };
        for work in works.into_iter().filter(|work| !work.handle.is_finished()) {
            work.handle.abort();
            let _given_up = work.handle.await;
        }
        ended
    }

    /// One step of the engine, journalled, then its effects.
    fn step(&mut self, event: Event) {
        if self.is_of_another_state(&event) {
            self.ended = Some(End::Anew);
            return;
        }
        let wrote_table = matches!(
            event,
            Event::Installed { .. }
                | Event::Armed { .. }
                | Event::Disarmed { .. }
                | Event::CommitDone { .. }
                | Event::MarkedBad { .. }
        );
        self.table_writes += u64::from(wrote_table);
        let reboot_accepted = matches!(&event, Event::Reboot { result: Ok(_), .. });
        let before = self.engine.model().state.word();
        let effects = self.engine.step(event, &now());
        self.after(before, effects);
        if reboot_accepted && self.engine.facts().image_mode {
            self.ended = Some(End::Whole(Ended::Rebooting));
        }
    }

    /// What was taken for the journal is none, because the disk was found only now and the state folder lies on one of its slots; or it is not
    /// that of the state folder any more, because something was mounted there. No answer of a work counts then.
    fn is_of_another_state(&self, event: &Event) -> bool {
        if self.shared.world.has_left_its_journal() {
            return true;
        }
        let (Event::Started { facts, .. }
        | Event::Checked { facts, .. }
        | Event::FactsChanged { facts }
        | Event::Looked { facts }
        | Event::LookedToLeave { facts }) = event
        else {
            return false;
        };
        !self.journal.is_stand_in() && facts.state_is_elsewhere().is_some()
    }

    /// What follows every change of the engine. A journal that cannot be written is tried again by the clock, not by every event.
    fn after(&mut self, before: &'static str, effects: Vec<Effect>) {
        self.waiting.take_in(effects);
        if self.waiting.may_commit(&now()) {
            self.commit();
        }
        if self.waiting.is_too_long(&now()) {
            self.go_on_without_journal();
        }
        self.show(before);
    }

    fn show(&mut self, before: &'static str) {
        self.shared.set_facts(self.engine.facts());
        self.shared.tokens.keep_only(self.engine.model().state.plan().map(|plan| plan.attempt.as_str()));
        self.publish(before);
    }

    /// Journals first; only then do effects run.
    fn commit(&mut self) {
        let rows: Vec<&Row> = self.waiting.rows.iter().collect();
        match self.journal.commit(self.engine.model(), &rows, now().wall) {
            Err(error) => self.waiting.failed(&error, &now()),
            Ok(()) => {
                let rows = self.waiting.written();
                if rows.iter().any(|row| matches!(row, Row::Report(_) | Row::Release { .. })) {
                    self.refill_outbox();
                }
                if !rows.is_empty() {
                    self.publisher.history(&self.journal);
                }
                for effect in std::mem::take(&mut self.waiting.effects) {
                    self.start(effect);
                }
                self.deliver();
            }
        }
    }

    /// The way back of whoever must not stand still. Everything else waits for the journal.
    fn go_on_without_journal(&mut self) {
        for effect in self.waiting.take_effects(|effect| self.engine.cannot_wait(effect)) {
            self.start(effect);
        }
        self.outbox.add(self.waiting.lend_releases(&now()));
        self.deliver();
    }

    /// Tells the engine when the journal has failed for too long and somebody waits for this host.
    fn end_standstill(&mut self) {
        if !self.engine.must_not_stand_still() {
            return;
        }
        if let Some((fault, unstarted)) = self.waiting.tell(&now()) {
            tracing::error!(code = %fault.code, "{fault}: what cannot wait for the journal any longer goes on without it");
            self.step(Event::StandsStill { fault, unstarted });
        }
    }

    fn start(&mut self, effect: Effect) {
        let writes_table = matches!(
            effect,
            Effect::Install { .. } | Effect::Arm(_) | Effect::Disarm(_) | Effect::Commit(_) | Effect::MarkBad(_)
        );
        self.table_writes += u64::from(writes_table);
        let shared = self.shared.clone();
        let channel = self.engine.model().channel.clone();
        match effect {
            Effect::Check(request) => self.spawn("the check", None, ask::check(shared, request, channel)),
            Effect::Look => self.spawn("the look at the world", None, ask::look(shared, channel)),
            Effect::LookToLeave(_) => self.spawn("the last look at the world", None, ask::look_to_leave(shared, channel)),
            Effect::Install { plan, scan } => {
                self.spawn_slot_work("the installation", plan, move |plan, cancel| write::install(shared, plan, scan, cancel))
            }
            Effect::ReadBack(plan) => {
                self.spawn_slot_work("the read-back", plan, move |plan, cancel| slots::read_back(shared, plan, cancel));
            }
            Effect::Gates { plan, stage } => {
                let pause = self.pause_gate();
                self.spawn_for("the look at the gates", &plan.clone(), lock::gates(shared, plan, stage, pause));
            }
            Effect::Lock(plan) => self.spawn_for("asking for the lock", &plan.clone(), lock::ask(shared, plan)),
            Effect::Drain(plan) => self.drain(plan),
            Effect::AcknowledgeReboot(plan) => {
                self.spawn_for("the acknowledgement of the reboot", &plan.clone(), lock::acknowledge(shared, plan));
            }
            Effect::Undrain(plan) => self.spawn("undraining", None, lock::undrain(shared, plan)),
            // Writes to the boot table are never cut off half-way.
            Effect::Arm(plan) => self.spawn("arming", None, slots::arm(shared, plan)),
            Effect::Disarm(slot) => self.spawn("disarming", None, slots::disarm(shared, slot)),
            Effect::Commit(plan) => self.spawn("the commit", None, slots::commit(shared, plan, channel)),
            Effect::MarkBad(plan) => self.spawn("marking the slot bad", None, slots::mark_bad(shared, plan)),
            Effect::Reboot(plan) => self.spawn("the reboot command", None, reboot::reboot(shared, plan)),
            Effect::Health(plan) => {
                let now = now();
                let kept_after_ms = self.engine.kept_from(&now).map_or(0, |at| now.mono.until(at));
                let kept_after = Duration::from_millis(kept_after_ms);
                let uncounted = shared.world.uncounted_boot(self.engine.facts(), plan.slot);
                let warnings = Vec::from_iter(uncounted);
                self.spawn_for("the health check", &plan.clone(), judge::health(shared, plan, kept_after, warnings));
                if let Some(work) = self.works.last_mut() {
                    work.only_looks = true;
                }
            }
            Effect::Stop(attempt) => self.stop(&attempt),
            Effect::Row(row) => self.waiting.rows.push(row),
        }
    }

    fn spawn(&mut self, name: &'static str, attempt: Option<String>, work: impl Future<Output = Event> + Send + 'static) {
        let events = self.shared.events.clone();
        let handle = tokio::spawn(self.must_answer(name, events, work));
        self.keep(attempt, Arc::default(), handle);
    }

    /// Until it has ended, so that it can be stopped.
    fn keep(&mut self, attempt: Option<String>, cancel: Arc<AtomicBool>, handle: JoinHandle<()>) {
        self.works.retain(|work| !work.handle.is_finished());
        self.works.push(Work { attempt, cancel, hooks: None, only_looks: false, handle });
    }

    fn drain(&mut self, plan: Plan) {
        let (stopper, stop) = hooks::stopper();
        self.spawn_for("draining", &plan.clone(), lock::drain(self.shared.clone(), plan, stopper.clone(), stop));
        if let Some(work) = self.works.last_mut() {
            work.hooks = Some(stopper);
        }
    }

    fn spawn_for(&mut self, name: &'static str, plan: &Plan, work: impl Future<Output = Event> + Send + 'static) {
        self.spawn(name, Some(plan.attempt.clone()), work);
    }

    /// Works on the inactive slot run one after the other: one that was stopped must have let go before the next begins.
    fn spawn_slot_work<F>(
        &mut self,
        name: &'static str,
        plan: Plan,
        work: impl FnOnce(Plan, Arc<AtomicBool>) -> F + Send + 'static,
    ) where
        F: Future<Output = Event> + Send + 'static,
    {
        let attempt = plan.attempt.clone();
        let turn = self.shared.slot_turn.clone();
        let cancel = Arc::<AtomicBool>::default();
        let events = self.shared.events.clone();
        let flag = cancel.clone();
        let work = async move {
            let _turn = turn.lock_owned().await;
            work(plan, flag).await
        };
        let handle = tokio::spawn(self.must_answer(name, events, work));
        self.keep(Some(attempt), cancel, handle);
    }

    /// Runs a work and sends its answer. A work that ends without one would be waited for for ever: then the loop ends.
    fn must_answer<T, F>(&self, name: &'static str, answers: mpsc::Sender<T>, work: F) -> impl Future<Output = ()> + use<T, F>
    where
        F: Future<Output = T>,
    {
        let unanswered = Unanswered { name, breaker: Some(self.breaker.clone()) };
        async move {
            let answer = work.await;
            unanswered.answered();
            // The loop outlives its works; when it has ended nobody wants the answer.
            let _told_or_ended = answers.send(answer).await;
        }
    }

    /// Asks works to stop. They end by themselves soon; what they answer then is for an attempt that is over. A reboot command that
    /// hangs is ended at once: it must not go on beside what is taken back.
    fn stop(&mut self, attempt: &str) {
        self.shared.reboot_command.end_for(attempt);
        for work in self.works.iter().filter(|work| work.attempt.as_deref() == Some(attempt)) {
            work.stop();
        }
    }

    fn pause_gate(&self) -> Option<Gate> {
        let pause = self.engine.model().pause.as_ref()?;
        let reason = pause.reason.clone().unwrap_or_else(|| "no reason given".to_owned());
        Some(Gate { gate: "pause".to_owned(), closed: Some(reason), until: pause.until.map(|until| until.to_string()) })
    }

    fn woke(&mut self) {
        if self.waiting.retry_at.is_some_and(|then| then <= now().mono) {
            if self.journal.is_stand_in() {
                self.look_at_state_dir();
            }
            self.commit();
        }
        self.deliver();
        self.step(Event::Woke);
        self.end_standstill();
    }

    /// Beside the loop: a folder on a file system that hangs must not hold it up.
    fn look_at_state_dir(&mut self) {
        if std::mem::replace(&mut self.looks_at_state_dir, true) {
            return;
        }
        let look = start::can_start_anew(self.shared.settings.clone(), self.has_state_lock);
        let work = async move { Settled::StateDir { is_usable: look.await } };
        let handle = tokio::spawn(self.must_answer("the look at the state folder", self.settler.clone(), work));
        self.keep(None, Arc::default(), handle);
    }

    /// Something was mounted, perhaps over the state folder. Beside the loop, for the same reason; one that hangs is joined by no other.
    fn look_for_its_journal(&mut self) {
        self.looks_for_its_journal = true;
        let world = self.shared.world.clone();
        let work = async move {
            // What it finds is kept by the world, and told by every look.
            let _found = blocking(move || world.state_is_that_of_the_journal()).await;
            Settled::SoughtJournal
        };
        let handle = tokio::spawn(self.must_answer("the look for the journal", self.settler.clone(), work));
        self.keep(None, Arc::default(), handle);
        if let Some(work) = self.works.last_mut() {
            work.only_looks = true;
        }
    }

    fn sleep(&self) -> impl Future<Output = ()> + use<> {
        let wakes = [self.engine.next_wake(), self.waiting.retry_at, self.outbox.wake()];
        let wait_ms = wakes.into_iter().flatten().min().map(|then| now().mono.until(then));
        async move {
            match wait_ms {
                // One millisecond more: the timer must not ring a moment too early and spin.
                Some(wait_ms) => tokio::time::sleep(Duration::from_millis(wait_ms.saturating_add(1))).await,
                None => std::future::pending().await,
            }
        }
    }

    fn refill_outbox(&mut self) {
        match self.journal.outbox() {
            Ok(rows) => self.outbox.refill(rows),
            Err(error) => tracing::error!("{error}"),
        }
        self.tell_engine_of_releases();
    }

    /// The engine asks for no new lock while an old one is not given back.
    fn tell_engine_of_releases(&mut self) {
        let releases_waiting = self.outbox.releases_waiting();
        if releases_waiting != self.engine.soft().releases_waiting {
            self.step(Event::Outbox { releases_waiting });
        }
    }

    fn deliver(&mut self) {
        while let Some(row) = self.outbox.take(&now()) {
            let (shared, settler) = (self.shared.clone(), self.settler.clone());
            let work = async move {
                let result = outbox::deliver(&shared, &row.message, &row.attempt).await;
                Settled::Delivery { id: row.id, result }
            };
            let handle = tokio::spawn(self.must_answer("a delivery", settler, work));
            self.keep(None, Arc::default(), handle);
        }
    }

    fn settle(&mut self, settled: Settled) {
        match settled {
            Settled::SoughtJournal => {
                self.looks_for_its_journal = false;
                if self.shared.world.has_left_its_journal() {
                    self.ended = Some(End::Anew);
                }
            }
            Settled::StateDir { is_usable } => {
                self.looks_at_state_dir = false;
                if is_usable {
                    self.ended = Some(End::Anew);
                }
            }
            Settled::Inspecting { id, progress } => {
                self.publisher.inspection_moved(&id, &progress, &now());
                self.publish(self.engine.model().state.word());
            }
            Settled::Inspection { id, inspection, table_writes } => self.inspected(id, *inspection, table_writes),
            Settled::Delivery { id, result } => {
                if let Err(fault) = &result {
                    tracing::warn!(code = %fault.code, "not delivered, kept for later: {fault}");
                }
                let delivered = result.is_ok() && self.note_delivered(id);
                let retry_after_s = match &result {
                    Ok(acknowledged) => acknowledged.retry_after_s,
                    Err(fault) => fault.retry_after_s,
                };
                self.outbox.settle(id, delivered, retry_after_s, &now());
                if let Err(fault) = result
                    && fault.code == Cause::Lock
                {
                    self.step(Event::ReleaseFailed { message: fault.message });
                }
                self.tell_engine_of_releases();
                self.deliver();
                self.publish(self.engine.model().state.word());
            }
        }
    }

    /// Ids below 1 are no rows of the journal.
    fn note_delivered(&mut self, id: i64) -> bool {
        id < 1 || self.journal.delivered(id).map_err(|error| tracing::error!("{error}")).is_ok()
    }

    fn answer(&mut self, request: Request) {
        tracing::info!(uid = request.uid, "command {:?}", request.command);
        let reply = self.refuse_for_another_state().and_then(|()| match request.command {
            Command::Verify => self.inspect(inspect::What::Verify { being_written: self.being_written() }),
            Command::Adopt { release } => self.inspect(inspect::What::Adopt(release.into())),
            Command::Limit { max_rate, until } => {
                let reply = self.shared.limits.command(max_rate.as_deref(), until, now().wall.timestamp());
                self.publish(self.engine.model().state.word());
                reply
            }
            command => self.obey(command),
        });
        // Whoever asked may have gone.
        let _told_or_gone = request.reply.send(reply);
    }

    /// What would be written to a journal that is hidden by now, nobody would ever know of.
    fn refuse_for_another_state(&mut self) -> Result<(), Rejected> {
        // A folder that cannot be looked up is found out by whoever writes there.
        if self.shared.world.state_is_no_other().is_ok() {
            return Ok(());
        }
        self.ended = Some(End::Anew);
        let message = format!(
            "state_dir {}: something was mounted there a moment ago, and the daemon begins anew with the state that is there now: nothing was \
             done, give the command once more",
            self.shared.settings.state_dir.display()
        );
        Err(Rejected::new(Rejection::StateDir, message))
    }

    /// Answers only after the journal has it: what could not be written down was not taken up.
    fn obey(&mut self, command: Command) -> Result<Accepted, Rejected> {
        let (asked_at, before) = (now(), self.engine.model().state.word());
        let (engine, held) = (self.engine.clone(), self.waiting.held());
        let (reply, effects) = self.engine.command(command, &asked_at);
        let Ok(accepted) = reply else {
            self.after(before, effects);
            return reply;
        };
        self.waiting.take_in(effects);
        self.commit();
        if let Some(fault) = &self.waiting.fault {
            let message = format!("it cannot be written down, so nothing was done ({}): see `updatectl status`", fault.message);
            self.engine = engine;
            self.waiting.forget_since(held);
            self.show(before);
            return Err(Rejected::new(Rejection::StateDir, message));
        }
        self.publisher.owe(&asked_at);
        self.show(before);
        Ok(accepted)
    }

    fn inspect(&mut self, what: inspect::What) -> Result<Accepted, Rejected> {
        let adopts = matches!(what, inspect::What::Adopt(_));
        // What was wrong a while ago may be over: it is tried again now, not at the journal's next time.
        if adopts && self.waiting.fault.is_some() {
            self.commit();
        }
        if let Some(fault) = self.waiting.fault.as_ref().filter(|_| adopts) {
            let message = format!("nothing can be written down ({}): see `updatectl status`", fault.message);
            return Err(Rejected::new(Rejection::StateDir, message));
        }
        let busy = self.engine.model().state.plan().is_some();
        if busy && adopts {
            let message = "an update is under way: wait for it, or `updatectl cancel` first";
            return Err(Rejected::new(Rejection::Busy, message));
        }
        if self.publisher.is_inspecting() {
            let message =
                "the slots are being read back already: `updatectl status` says how far it is, try again when it is over";
            return Err(Rejected::new(Rejection::Busy, message));
        }
        let (id, message) = (now().attempt_id(), what.announcement());
        self.publisher.inspection_began(id.clone(), what.kind());
        self.start_inspection(id.clone(), what);
        self.publish(self.engine.model().state.word());
        Ok(Accepted { attempt: Some(id), message })
    }

    fn start_inspection(&mut self, id: String, what: inspect::What) {
        let (shared, settler, turn) = (self.shared.clone(), self.settler.clone(), self.shared.slot_turn.clone());
        let channel = self.engine.model().channel.clone();
        let (whose, cancel) = (id.clone(), Arc::<AtomicBool>::default());
        let (flag, table_writes) = (cancel.clone(), self.table_writes);
        let report = shared::throttled(settler.clone(), move |progress| Settled::Inspecting { id: whose.clone(), progress });
        let work = async move {
            // What is adopted must be what was read: nobody writes a slot in between.
            let _turn = if matches!(what, inspect::What::Adopt(_)) { Some(turn.lock_owned().await) } else { None };
            let inspection = blocking(move || {
                let reading = inspect::Reading { report: &report, cancel: &flag };
                inspect::inspect(&shared, what, channel.as_deref(), reading)
            });
            Settled::Inspection { id, inspection: Box::new(inspection.await), table_writes }
        };
        let handle = tokio::spawn(self.must_answer("reading the slots back", settler, work));
        self.keep(None, cancel, handle);
    }

    fn being_written(&self) -> Option<SlotName> {
        match &self.engine.model().state {
            State::Fetching { plan, .. } => Some(plan.slot),
            _ => None,
        }
    }

    fn inspected(&mut self, id: String, mut inspection: inspect::Inspection, table_writes: u64) {
        self.publisher.inspected(id, &inspection, &now());
        self.publish(self.engine.model().state.word());
        // The table was written meanwhile: this look may be older than what the engine knows of it.
        if self.table_writes != table_writes {
            inspection.facts.boot = None;
        }
        if self.engine.facts().is_blind() || self.engine.model().state.plan().is_none() {
            self.step(Event::FactsChanged { facts: inspection.facts });
        }
    }

    /// Somebody looks: what is shown is of this moment.
    fn show_now(&mut self, done: oneshot::Sender<()>) {
        self.publish(self.engine.model().state.word());
        // Whoever asked may have gone.
        let _told_or_gone = done.send(());
    }

    fn publish(&mut self, before: &'static str) {
        let view = publish::View {
            engine: &self.engine,
            journal_fault: self.waiting.fault.as_ref(),
            standstill_until: self.waiting.until(),
            reports_waiting: self.outbox.reports_waiting(),
            read_back: self.shared.read_back(),
            limit: self.shared.limits.at(now().wall.timestamp()),
            now: now(),
        };
        self.publisher.publish(&view, before);
        if before != self.engine.model().state.word() {
            log_transition(&self.engine.model().state);
        }
    }
}

fn log_transition(state: &State) {
    match state.plan() {
        Some(plan) if matches!(state, State::Fetching { .. }) => {
            let download = plan.source.in_words().unwrap_or_else(|| "not known".to_owned());
            tracing::info!(attempt = %plan.attempt, version = %plan.version, slot = %plan.slot, download, "{}", state.word());
        }
        Some(plan) => tracing::info!(attempt = %plan.attempt, version = %plan.version, slot = %plan.slot, "{}", state.word()),
        None => tracing::info!("{}", state.word()),
    }
}

/// Nothing ever is, where there is nothing to look for.
async fn changed(mounts: &mut Option<Mounts>) {
    match mounts {
        Some(mounts) => mounts.changed().await,
        None => std::future::pending().await,
    }
}

/// Tells the loop when a work is dropped without its answer.
struct Unanswered {
    name: &'static str,
    breaker: Option<mpsc::UnboundedSender<&'static str>>,
}

impl Unanswered {
    fn answered(mut self) {
        self.breaker = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(breaker) = &self.breaker {
            // A loop that has ended drops its works: then nobody hears it.
            let _told_or_ended = breaker.send(self.name);
        }
    }
}

/// Runs blocking work on a thread of its own. A panic in it is one of whoever waits for it here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Both clocks and fresh dice.
fn now() -> Now {
    let wall = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        let (seconds, nanoseconds) = (u64::try_from(time.tv_sec()).unwrap_or(0), u64::try_from(time.tv_nsec()).unwrap_or(0));
        seconds.saturating_mul(1000) + nanoseconds / 1_000_000
    });
    let mut dice = [0; 16];
    // Without the system's dice the clock still tells two steps apart; nothing secret hangs on it.
    if getrandom::fill(&mut dice).is_err() {
        dice = (u128::from(boot) << 64 | u128::from(wall.unsigned_abs())).to_le_bytes();
    }
    Now { wall: Wall(wall), mono: Mono(boot), dice: u128::from_le_bytes(dice) }
}

/// SIGTERM and SIGINT end the daemon; whatever it was doing is taken up at the next start.
fn signals() -> std::io::Result<mpsc::Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = mpsc::channel(1);
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        let _told_or_ended = sender.send(()).await;
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests;
