//! Showing what the daemon does: the documents of the control socket and its stream of events.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use manifests::release::SlotName;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::config::Settings;
use crate::control::{ControlHandle, Request};
use crate::daemon::inspect;
use crate::engine::Engine;
use crate::engine::cause::Cause;
use crate::engine::event::Fault;
use crate::engine::facts::PerSlot;
use crate::engine::model::Progress;
use crate::engine::state::{ArmedStep, State, Waiting};
use crate::engine::time::{Mono, Now};
use crate::journal::{Attempt, Journal};
use crate::kernel_log;
use crate::status::json::{
    EventKind, EventLine, HistoryEntry, Inspecting, Inspection, KernelLog, LastError, Limit, Outcome, ReadBack, Status,
    WholeKernelLog, WhyEntry,
};
use crate::status::view;
use crate::status::why::why;

/// Events kept for a reader that is slow; one that falls further behind is dropped.
const EVENT_BACKLOG: usize = 256;

/// What is shown.
pub(super) struct View<'a> {
    pub(super) engine: &'a Engine,
    /// The journal cannot be written.
    pub(super) journal_fault: Option<&'a Fault>,
    /// How long that is borne where somebody waits for this host.
    pub(super) standstill_until: Option<Mono>,
    /// Reports no server has taken yet.
    pub(super) reports_waiting: usize,
    /// How slots were read back in this run of the daemon.
    pub(super) read_back: PerSlot<Option<ReadBack>>,
    /// How fast payloads may come.
    pub(super) limit: Limit,
    pub(super) now: Now,
}

/// Where the control socket's questions go.
pub(super) struct Asked {
    pub(super) commands: mpsc::Sender<Request>,
    pub(super) refresh: mpsc::Sender<oneshot::Sender<()>>,
}

/// Holds the ends of the control socket's documents.
pub(super) struct Publisher {
    status: watch::Sender<Arc<Status>>,
    history: watch::Sender<Arc<Vec<HistoryEntry>>>,
    why: watch::Sender<Arc<Vec<WhyEntry>>>,
    kernel_log: watch::Sender<Arc<Option<WholeKernelLog>>>,
    state_dir: PathBuf,
    events: broadcast::Sender<EventLine>,
    server: String,
    /// A person was told "accepted" at this time, and has not been told how it ended.
    owed: Option<Timestamp>,
    /// The slots are being read back for a person.
    inspection: Option<Inspecting>,
}

impl Publisher {
    pub(super) fn new(engine: &Engine, journal: &Journal, settings: &Settings, asked: Asked, now: Now) -> (Self, ControlHandle) {
        let Asked { commands, refresh } = asked;
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let server = settings.server.url.as_ref().map(ToString::to_string).unwrap_or_default();
        let (status, status_out) = watch::channel(Arc::default());
        let (history, history_out) = watch::channel(Arc::default());
        let (why, why_out) = watch::channel(Arc::default());
        let (kernel_log, kernel_log_out) = watch::channel(Arc::default());
        let (state_dir, events_in) = (settings.state_dir.clone(), events.clone());
        let mut publisher =
            Self { status, history, why, kernel_log, state_dir, events: events_in, server, owed: None, inspection: None };
        publisher.history(journal);
        publisher.publish(
            &View {
                engine,
                journal_fault: None,
                standstill_until: None,
                reports_waiting: 0,
                read_back: PerSlot::default(),
                limit: Limit::default(),
                now,
            },
            engine.model().state.word(),
        );
        let config_text = settings.to_toml().unwrap_or_default().into();
        let (status, history, why, kernel_log) = (status_out, history_out, why_out, kernel_log_out);
        let handle = ControlHandle { status, history, why, kernel_log, config_text, events, commands, refresh };
        (publisher, handle)
    }

    /// A command was accepted: whoever gave it is told how it ends.
    pub(super) fn owe(&mut self, now: &Now) {
        self.owed = Some(now.wall.timestamp());
    }

    /// Shows the present state; tells followers when it changed or the work moved on.
    pub(super) fn publish(&mut self, view: &View<'_>, before: &'static str) {
        let status = self.status_of(view);
        // Before the first document there was nothing to compare with; what it tells is known from earlier runs.
        if !self.status.borrow().summary.is_empty() {
            log_news(&self.status.borrow(), &status);
        }
        let moved = status.progress.is_some() && self.status.borrow().progress != status.progress;
        let changed = before != view.engine.model().state.word();
        let line = |kind| EventLine {
            kind,
            at: view.now.wall.timestamp(),
            state: status.state,
            summary: status.summary.clone(),
            progress: status.progress.clone(),
            attempt: status.target.as_ref().map(|target| target.attempt.clone()),
            error: None,
            inspection: None,
        };
        let mut lines = Vec::new();
        if changed {
            lines.push(line(EventKind::Transition));
        } else if moved {
            lines.push(line(EventKind::Progress));
        }
        if let Some(since) = self.owed.filter(|_| rests(view.engine)) {
            self.owed = None;
            lines.push(EventLine { error: error_since(&status, since), ..line(EventKind::Done) });
        }
        self.why.send_replace(Arc::new(why(&self.input(view))));
        self.status.send_replace(Arc::new(status));
        for line in lines {
            // Nobody listening is fine.
            let _listeners = self.events.send(line);
        }
    }

    /// Shows the attempts.
    pub(super) fn history(&mut self, journal: &Journal) {
        match journal.history() {
            Ok(attempts) => {
                let mut entries: Vec<HistoryEntry> = attempts.into_iter().map(entry).collect();
                self.kernel_log.send_replace(Arc::new(self.add_kernel_log(&mut entries)));
                self.history.send_replace(Arc::new(entries));
            }
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Whose trial it was is told with that; the whole log comes back.
    fn add_kernel_log(&self, entries: &mut [HistoryEntry]) -> Option<WholeKernelLog> {
        let log = kernel_log::KernelLog::load(&self.state_dir).map_err(|error| tracing::warn!("{error}")).ok().flatten()?;
        let (source, line) = (log.source.as_str().to_owned(), log.telling_line());
        let entry = entries.iter_mut().find(|entry| entry.attempt == log.attempt);
        let version = entry.map(|entry| {
            entry.kernel_log = Some(KernelLog { source: source.clone(), line: line.clone() });
            entry.to.clone()
        });
        let lines = log.lines().map(str::to_owned).collect();
        Some(WholeKernelLog { attempt: log.attempt, version, source, line, lines })
    }

    /// Where the last thing that went wrong is a rollback: what is kept of that one, and of no earlier one.
    fn kernel_log_of_rollback(&self, status: &Status) -> Option<KernelLog> {
        status.last_error.as_ref().filter(|error| Cause::read(&error.code) == Cause::RolledBack)?;
        let history = self.history.borrow();
        history.iter().find(|entry| entry.outcome == Outcome::RolledBack)?.kernel_log.clone()
    }

    /// The slots are being read back for a person.
    pub(super) fn inspection_began(&mut self, id: String, of: Inspection) {
        self.inspection = Some(Inspecting { id, of, progress: None });
    }

    /// An inspection is not over.
    pub(super) const fn is_inspecting(&self) -> bool {
        self.inspection.is_some()
    }

    /// Tells whoever asked for an inspection how far it is.
    pub(super) fn inspection_moved(&mut self, id: &str, progress: &Progress, now: &Now) {
        let state = self.status.borrow().state;
        let Some(inspection) = self.inspection.as_mut().filter(|inspection| inspection.id == id) else { return };
        inspection.progress = Some(view::progress(progress));
        let line = EventLine {
            kind: EventKind::Progress,
            at: now.wall.timestamp(),
            state,
            summary: words_of(inspection),
            progress: inspection.progress.clone(),
            attempt: Some(id.to_owned()),
            error: None,
            inspection: Some(inspection.of),
        };
        // Nobody listening is fine.
        let _listeners = self.events.send(line);
    }

    /// Tells whoever asked what `verify` or `adopt` found.
    pub(super) fn inspected(&mut self, id: String, inspection: &inspect::Inspection, now: &Now) {
        self.inspection = None;
        let at = now.wall.timestamp();
        let state = self.status.borrow().state;
        let error =
            |fault: &Fault| LastError { code: fault.code.to_string(), message: fault.message.clone(), at, attention: true };
        let (summary, error) = match &inspection.outcome {
            Ok(words) => (words.clone(), None),
            Err(fault) => (fault.message.clone(), Some(error(fault))),
        };
        let (attempt, inspection) = (Some(id), Some(inspection.of));
        let line = EventLine { kind: EventKind::Done, at, state, summary, progress: None, attempt, error, inspection };
        // Nobody listening is fine.
        let _listeners = self.events.send(line);
    }

    fn status_of(&self, view: &View<'_>) -> Status {
        let mut status = view::status(&self.input(view));
        if let Some(inspection) = &self.inspection {
            status.summary = format!("{} {}", words_of(inspection), status.summary);
            status.inspection = Some(inspection.clone());
        }
        status.kernel_log = self.kernel_log_of_rollback(&status);
        status.limit = view.limit;
        for slot in &mut status.slots {
            let name = if slot.name == "a" { SlotName::A } else { SlotName::B };
            slot.read_back = *view.read_back.get(name);
        }
        status
    }

    fn input<'a>(&'a self, view: &View<'a>) -> view::Input<'a> {
        view::Input {
            engine: view.engine,
            server: &self.server,
            journal_fault: view.journal_fault,
            standstill_until: view.standstill_until,
            reports_waiting: view.reports_waiting,
            now: view.now,
        }
    }
}

fn words_of(inspection: &Inspecting) -> String {
    let known = inspection.progress.as_ref().filter(|progress| progress.windows_total > 0);
    let percent = known.map(|progress| progress.windows_done.saturating_mul(100) / progress.windows_total);
    let done = percent.map(|percent| format!(" ({percent} % of a slot)")).unwrap_or_default();
    format!("Reading the slots back as a person asked{done}.")
}

/// What a person finds in the log alone: every new error, and what a check brought when it brought something new.
fn log_news(before: &Status, now: &Status) {
    let words = |status: &Status| status.last_error.as_ref().map(|error| (error.code.clone(), error.message.clone()));
    if let Some((code, message)) = words(now).filter(|error| words(before).as_ref() != Some(error)) {
        tracing::warn!(%code, "{message}");
    }
    if let Some(result) = now.check.last_result.as_ref().filter(|result| before.check.last_result.as_ref() != Some(*result)) {
        tracing::info!("check: {result}");
    }
    for trouble in now.troubles.iter().filter(|trouble| !before.troubles.contains(trouble)) {
        tracing::warn!(code = %trouble.code, "{}", trouble.message);
    }
}

/// Nothing moves before time passes, a person acts, or the host reboots.
fn rests(engine: &Engine) -> bool {
    match &engine.model().state {
        State::Idle | State::Deferred { .. } | State::Failed { .. } => engine.soft().background_check.is_none(),
        State::Proven { step, .. } => {
            matches!(step, Waiting::Person | Waiting::GateClosed | Waiting::LockRefused)
                && engine.soft().background_check.is_none()
        }
        State::Armed { step, .. } => match step {
            ArmedStep::Resting | ArmedStep::GateClosed | ArmedStep::LockRefused => true,
            ArmedStep::Rebooting => engine.soft().reboot_accepted_at.is_some(),
            _ => false,
        },
        _ => false,
    }
}

fn error_since(status: &Status, since: Timestamp) -> Option<LastError> {
    status.last_error.clone().filter(|error| error.at >= since)
}

fn entry(attempt: Attempt) -> HistoryEntry {
    HistoryEntry {
        attempt: attempt.id,
        from: Some(attempt.from_version).filter(|version| version != "unknown"),
        to: attempt.to_version,
        sequence: attempt.to_sequence,
        slot: attempt.slot,
        started_at: attempt.started_at.timestamp(),
        ended_at: attempt.ended_at.map(crate::engine::time::Wall::timestamp),
        outcome: match attempt.outcome.as_deref() {
            Some("committed") => Outcome::Committed,
            Some("rolled-back") => Outcome::RolledBack,
            Some("failed") => Outcome::Failed,
            Some(_) => Outcome::Abandoned,
            None => Outcome::Running,
        },
        code: attempt.code,
        reason: attempt.reason,
        bytes_downloaded: attempt.bytes_downloaded,
        notes: Some(attempt.notes).filter(|notes| !notes.is_empty()).into_iter().collect(),
        kernel_log: None,
    }
}
