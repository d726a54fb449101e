//! `status --watch`: redrawn on a terminal, a line for each change otherwise.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::Exit;
use super::failure::Failure;
use super::render;
use super::terminal::{Paint, Terminal, interrupts};
use super::words::{printable, progress};
use crate::control::client::{Client, ClientError, Events};
use crate::status::json::{EventKind, EventLine, Status};

/// Time between two pictures while nothing happens: relative times move on.
const REDRAW: Duration = Duration::from_secs(1);
/// Shortest time between two pictures.
const SHORTEST: Duration = Duration::from_millis(200);
/// Time between two tries to reach a daemon that went away.
const RETRY: Duration = Duration::from_secs(2);
/// Lines about progress come at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Watches until interrupted. A daemon that was never there is an error; one that goes away is waited for.
pub(super) async fn watch(client: &Client, json: bool, terminal: &Terminal) -> Result<Exit, Failure> {
    let mut interrupts = interrupts()?;
    let mut events = client.events().await?;
    let watching = async {
        loop {
            let ended = if terminal.draws_output && !json {
                pictures(client, &mut events, terminal).await
            } else {
                lines(client, &mut events, json, terminal).await
            };
            ended?;
            terminal.say("update-engined went away; waiting for it");
            events = reach_again(client).await;
        }
    };
    tokio::select! {
        end = watching => end,
        _ = interrupts.recv() => Ok(Exit::DONE),
    }
}

async fn reach_again(client: &Client) -> Events {
    loop {
        sleep(RETRY).await;
        if let Ok(events) = client.events().await {
            return events;
        }
    }
}

/// A picture now, after every event, and every second, until the daemon goes away.
async fn pictures(client: &Client, events: &mut Events, terminal: &Terminal) -> Result<(), Failure> {
    loop {
        let status = match client.status().await {
            Ok(status) => status,
            Err(ClientError::NotReachable { .. } | ClientError::WentAway { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        terminal.print(&picture(&status, terminal))?;
        let drawn = Instant::now();
        match tokio::time::timeout(REDRAW, events.next()).await {
            Ok(Ok(Some(_)) | Err(ClientError::Unexpected { .. })) | Err(_) => {}
            Ok(Ok(None) | Err(_)) => return Ok(()),
        }
        // Events that come in a burst are one picture.
        let rest = SHORTEST.saturating_sub(drawn.elapsed());
        let _drained = tokio::time::timeout(rest, drain(events)).await;
    }
}

async fn drain(events: &mut Events) {
    while let Ok(Some(_)) = events.next().await {}
    std::future::pending::<()>().await;
}

/// From the top left, each line cleared to its end, and the rest of the screen cleared: no flicker, whatever wraps.
fn picture(status: &Status, terminal: &Terminal) -> String {
    let text = render::status(status, Timestamp::now(), &terminal.style);
    let lines: Vec<String> = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
    format!("\x1b[H{}\x1b[J", lines.concat())
}

/// A line now and for every event, until the daemon goes away.
async fn lines(client: &Client, events: &mut Events, json: bool, terminal: &Terminal) -> Result<(), Failure> {
    match client.raw("/v1/status").await {
        Ok(document) => terminal.print(&first_line(&document, json, terminal))?,
        Err(ClientError::NotReachable { .. } | ClientError::WentAway { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let mut progress_at = None;
    loop {
        let line = match events.next().await {
            Ok(Some(line)) => line,
            Ok(None) | Err(ClientError::WentAway { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if line.kind == EventKind::Progress {
            if progress_at.is_some_and(|at: Instant| at.elapsed() < PROGRESS_EVERY) {
                continue;
            }
            progress_at = Some(Instant::now());
        }
        if !json {
            terminal.print(&event_line(&line, terminal))?;
            continue;
        }
        match client.raw("/v1/status").await {
            Ok(document) => terminal.print(&format!("{document}\n"))?,
            Err(_) => return Ok(()),
        }
    }
}

fn first_line(document: &Value, json: bool, terminal: &Terminal) -> String {
    if json {
        return format!("{document}\n");
    }
    let word = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default();
    change(Timestamp::now(), word("state"), word("summary"), terminal)
}

fn event_line(line: &EventLine, terminal: &Terminal) -> String {
    let words = match (&line.progress, line.kind) {
        (Some(state), EventKind::Progress) => progress(state),
        _ => line.summary.clone(),
    };
    change(line.at, line.state.as_str(), &words, terminal)
}

fn change(at: Timestamp, state: &str, words: &str, terminal: &Terminal) -> String {
    let time = at.to_zoned(terminal.style.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string();
    let state = terminal.style.paint(Paint::Strong, &format!("{state:<11}"));
    format!("{time}  {state}  {}\n", printable(words))
}
