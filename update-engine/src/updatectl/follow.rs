//! Following the daemon's work until it rests.
//!
//! The event stream is opened before the command is given, so nothing is missed. It ends with the daemon's `done`; where that
//! does not come (the daemon was started again in between, or dropped a slow reader), the status tells whether work rests.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, sleep};

use super::Exit;
use super::failure::Failure;
use super::terminal::{Paint, Terminal, interrupts};
use super::words::{amounts, percent, printable, progress};
use crate::control::client::{Client, ClientError, Events};
use crate::engine::command::Command;
use crate::engine::model::CheckOutcome;
use crate::status::json::{EventKind, EventLine, Inspection, LastError, Phase, Progress, State, Status};

/// Quiet time after which the status is asked whether the work rests.
const QUIET: Duration = Duration::from_secs(5);
/// Time between two tries to reach a daemon that went away.
const RETRY: Duration = Duration::from_millis(300);
/// Tries before a daemon that was about to reboot is taken to do so.
const TRIES_REBOOTING: u32 = 3;
/// Tries before a daemon that went away for another reason is given up: it may be starting again.
const TRIES: u32 = 30;
/// Plain lines come at most this often while nothing else changes.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Gives a command and follows what comes of it.
pub(super) async fn follow(client: &Client, command: &Command, terminal: &Terminal) -> Result<Exit, Failure> {
    let mut interrupts = interrupts()?;
    let events = client.events().await?;
    let accepted = client.act(command).await?;
    terminal.say(&printable(&accepted.message));
    let mut following = Following {
        client,
        terminal,
        events,
        goal: Goal::of(command),
        attempt: accepted.attempt,
        state: State::Idle,
        display: Display::new(terminal),
    };
    tokio::select! {
        end = following.until_rest() => end,
        _ = interrupts.recv() => {
            following.display.close();
            terminal.say("Not following any more; the daemon goes on. `updatectl status --watch` shows it, `updatectl cancel` gives it up.");
            Ok(Exit::INTERRUPTED)
        }
    }
}

/// What has to come of a command for it to have succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Goal {
    /// A verdict about the slots: only its own end counts, the host rests all the while.
    Inspection(Inspection),
    /// This version, on its way or running.
    Version(String),
    /// The release of these files, unless it is refused or cannot be read.
    Files,
    /// No error.
    Rest,
}

impl Goal {
    fn of(command: &Command) -> Self {
        match command {
            Command::Verify => Self::Inspection(Inspection::Verify),
            Command::Adopt { .. } => Self::Inspection(Inspection::Adopt),
            Command::Update { version: Some(version), .. } => Self::Version(version.clone()),
            Command::Install { .. } => Self::Files,
            _ => Self::Rest,
        }
    }

    /// Why it was not reached, although nothing failed.
    fn missed(&self, status: &Status) -> Option<String> {
        let result = status.check.last_result.as_deref().unwrap_or_default();
        let is_missed = match self {
            Self::Version(version) => {
                let target = status.target.as_ref().map(|target| target.version.as_str());
                target != Some(version) && status.booted.version.as_deref() != Some(version)
            }
            Self::Files => {
                let unusable = matches!(status.check.last_outcome, Some(CheckOutcome::Refused | CheckOutcome::Failed));
                status.target.is_none() && unusable
            }
            Self::Inspection(_) | Self::Rest => false,
        };
        let words = if result.is_empty() { "it was not taken up" } else { result };
        is_missed.then(|| match self {
            Self::Version(version) => format!("{version} is not being installed: {words}"),
            _ => words.to_owned(),
        })
    }
}

struct Following<'a> {
    client: &'a Client,
    terminal: &'a Terminal,
    events: Events,
    goal: Goal,
    attempt: Option<String>,
    state: State,
    display: Display,
}

impl Following<'_> {
    async fn until_rest(&mut self) -> Result<Exit, Failure> {
        loop {
            match tokio::time::timeout(QUIET, self.events.next()).await {
                Ok(Ok(Some(line))) => {
                    if let Some(end) = self.event(line).await {
                        return end;
                    }
                }
                Ok(Ok(None) | Err(ClientError::WentAway { .. })) => {
                    if let Some(end) = self.reach_again().await {
                        return end;
                    }
                }
                Ok(Err(error)) => return Err(self.give_up(error.into())),
                Err(_quiet) if matches!(self.goal, Goal::Inspection(_)) => {}
                Err(_quiet) => {
                    if let Ok(status) = self.client.status().await
                        && rests(&status)
                    {
                        return self.end_with(&status);
                    }
                }
            }
        }
    }

    /// `Some` once this was the last one.
    async fn event(&mut self, line: EventLine) -> Option<Result<Exit, Failure>> {
        if !self.is_ours(&line) {
            return None;
        }
        self.state = line.state;
        if let Some(progress) = &line.progress {
            self.display.progress(progress, self.terminal);
        }
        match line.kind {
            EventKind::Progress => None,
            EventKind::Transition | EventKind::Message => {
                self.display.line(&line.summary, self.terminal);
                None
            }
            EventKind::Done => Some(self.end_if_reached(&line).await),
        }
    }

    fn is_ours(&self, line: &EventLine) -> bool {
        let of_another = matches!((&self.attempt, &line.attempt), (Some(ours), Some(theirs)) if ours != theirs);
        match &self.goal {
            Goal::Inspection(ours) => line.inspection == Some(*ours) && !of_another,
            _ => line.inspection.is_none() && !of_another,
        }
    }

    /// It is done; was it what was asked for?
    async fn end_if_reached(&mut self, line: &EventLine) -> Result<Exit, Failure> {
        let asks = line.error.is_none() && matches!(self.goal, Goal::Version(_) | Goal::Files);
        let status = if asks { self.client.status().await.ok() } else { None };
        match status.and_then(|status| self.goal.missed(&status)) {
            Some(words) => Err(self.miss(words)),
            None => self.end(line.error.as_ref(), &line.summary),
        }
    }

    /// The stream has ended: is the daemon rebooting, gone, or there again?
    async fn reach_again(&mut self) -> Option<Result<Exit, Failure>> {
        if matches!(self.goal, Goal::Inspection(_)) {
            let socket = self.client.socket().display();
            let failure = Failure::new(format!("update-engined on {socket} went away before it said what it found"));
            return Some(Err(failure
                .hint("run the command again; `journalctl -u update-engined` says why it stopped")
                .not_reachable()));
        }
        let rebooting = self.state == State::Armed;
        let tries = if rebooting { TRIES_REBOOTING } else { TRIES };
        for _ in 0..tries {
            if let Ok(events) = self.client.events().await
                && let Ok(status) = self.client.status().await
            {
                self.events = events;
                self.state = status.state;
                return rests(&status).then(|| self.end_with(&status));
            }
            sleep(RETRY).await;
        }
        self.display.close();
        if rebooting {
            let words = "The daemon went down with the host, which reboots into the new slot now; `updatectl status` tells afterwards how it went.\n";
            return Some(self.terminal.print(words).map(|()| Exit::DONE));
        }
        let socket = self.client.socket().display();
        let failure = Failure::new(format!("update-engined on {socket} went away while {}", doing(self.state)))
            .hint("it goes on where it was once it runs again; `journalctl -u update-engined` says why it stopped")
            .not_reachable();
        Some(Err(failure))
    }

    fn end_with(&mut self, status: &Status) -> Result<Exit, Failure> {
        let gave_up = matches!(status.state, State::Failed | State::RolledBack);
        let error = status.last_error.as_ref().filter(|error| gave_up || (status.state == State::Idle && error.attention));
        match self.goal.missed(status).filter(|_| error.is_none()) {
            Some(words) => Err(self.miss(words)),
            None => self.end(error, &status.summary),
        }
    }

    fn end(&mut self, error: Option<&LastError>, summary: &str) -> Result<Exit, Failure> {
        self.display.close();
        match error {
            Some(error) => {
                let failure = Failure::new(format!("{}: {}", error.code, error.message));
                Err(failure.hint("`updatectl status` says what comes next, `updatectl history` what was tried"))
            }
            None => self.terminal.print(&format!("{}\n", printable(summary))).map(|()| Exit::DONE),
        }
    }

    fn miss(&mut self, words: String) -> Failure {
        self.display.close();
        Failure::new(words).hint("`updatectl status` says what comes next")
    }

    fn give_up(&mut self, failure: Failure) -> Failure {
        self.display.close();
        failure
    }
}

/// Nothing more happens by itself soon.
fn rests(status: &Status) -> bool {
    let at_rest = matches!(status.state, State::Idle | State::Deferred | State::Failed | State::RolledBack);
    let waits = matches!(status.state, State::Proven | State::Armed)
        && (!status.reboot.waiting_for.is_empty() || status.reboot.strategy == "manual");
    status.progress.is_none() && (at_rest || waits)
}

fn doing(state: State) -> &'static str {
    match state {
        State::Idle | State::Deferred | State::Failed | State::RolledBack => "nothing was under way",
        State::Checking => "asking the server",
        State::Fetching => "writing the other slot",
        State::Written => "reading the other slot back",
        State::Proven | State::Locked => "preparing the reboot",
        State::Armed => "rebooting",
        State::Trial | State::Committed => "trying the new slot",
    }
}

/// How progress is shown.
enum Display {
    Bar(ProgressBar),
    Plain { shown: Option<(Phase, u64, Instant)> },
}

impl Display {
    fn new(terminal: &Terminal) -> Self {
        if !terminal.draws_messages {
            return Self::Plain { shown: None };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let blocks = if terminal.error_style.unicode { "━╸ " } else { "=> " };
        if let Ok(style) = ProgressStyle::with_template("{prefix:>9} [{bar:30}] {percent:>3} % {msg}") {
            bar.set_style(style.progress_chars(blocks));
        }
        Self::Bar(bar)
    }

    fn progress(&mut self, state: &Progress, terminal: &Terminal) {
        match self {
            Self::Bar(bar) => {
                if bar.is_hidden() {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                }
                bar.set_length(state.windows_total);
                bar.set_position(state.windows_done);
                bar.set_prefix(state.phase.as_str());
                bar.set_message(amounts(state));
            }
            Self::Plain { shown } => {
                let step = percent(state) / 10;
                let is_news =
                    shown.is_none_or(|(phase, last, at)| phase != state.phase || last != step || at.elapsed() >= PLAIN_EVERY);
                if is_news {
                    *shown = Some((state.phase, step, Instant::now()));
                    terminal.say(&progress(state));
                }
            }
        }
    }

    fn line(&self, text: &str, terminal: &Terminal) {
        let text = terminal.error_style.paint(Paint::Plain, text);
        match self {
            Self::Bar(bar) => bar.suspend(|| terminal.say(&text)),
            Self::Plain { .. } => terminal.say(&text),
        }
    }

    fn close(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::json::{Reboot, Waiting};

    #[test]
    fn work_rests_where_nothing_happens_by_itself() {
        let waiting = Reboot { waiting_for: vec![Waiting::default()], ..Reboot::default() };
        let manual = Reboot { strategy: "manual".into(), ..Reboot::default() };
        for state in State::ALL {
            let status = Status { state, ..Status::default() };
            let alone = matches!(state, State::Idle | State::Deferred | State::Failed | State::RolledBack);
            let stops = alone || matches!(state, State::Proven | State::Armed);
            assert_eq!(rests(&status), alone, "{state:?}");
            assert_eq!(rests(&Status { reboot: waiting.clone(), ..status.clone() }), stops, "{state:?} at a gate");
            assert_eq!(rests(&Status { reboot: manual.clone(), ..status.clone() }), stops, "{state:?}, manual");
            let busy = Status { progress: Some(Progress::default()), reboot: waiting.clone(), ..status };
            assert!(!rests(&busy), "{state:?} with progress");
        }
    }
}
