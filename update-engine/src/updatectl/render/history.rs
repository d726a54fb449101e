//! `updatectl history`.

use jiff::Timestamp;

use super::super::terminal::{Paint, Style};
use super::super::words::{absolute, bytes, seconds};
use super::Columns;
use crate::status::json::{HistoryEntry, Outcome, WholeKernelLog};

/// A line for each attempt, newest first, as the daemon lists them.
pub fn history(entries: &[HistoryEntry], now: Timestamp, style: &Style) -> String {
    if entries.is_empty() {
        return "No attempts yet.\n".to_owned();
    }
    let mut columns = Columns::new();
    columns.head(&["STARTED", "FROM", "TO", "SLOT", "OUTCOME", "TOOK", "DOWNLOADED", "REASON"]);
    for entry in entries {
        let until = entry.ended_at.unwrap_or(now);
        let took = u64::try_from(until.as_second().saturating_sub(entry.started_at.as_second())).unwrap_or(0);
        columns.row([
            (Paint::Plain, absolute(entry.started_at, &style.zone)),
            (Paint::Plain, entry.from.clone().unwrap_or_else(|| "-".to_owned())),
            (Paint::Strong, entry.to.clone()),
            (Paint::Plain, entry.slot.clone()),
            (paint(entry.outcome), entry.outcome.as_str().to_owned()),
            (Paint::Plain, seconds(took)),
            (Paint::Plain, bytes(entry.bytes_downloaded)),
            (Paint::Plain, reason(entry)),
        ]);
    }
    columns.text(style)
}

/// Whose log it is and where it was read, then its lines.
pub fn kernel_log(log: Option<&WholeKernelLog>, style: &Style) -> String {
    let Some(log) = log else { return "No kernel log is kept.\n".to_owned() };
    let whose = match &log.version {
        Some(version) => format!("{version} (attempt {})", log.attempt),
        None => format!("attempt {}", log.attempt),
    };
    let end = match log.source.as_str() {
        "kmsg" => "its kernel's log, as it was when the slot was given up",
        "pstore" => "what its kernel left in pstore when it died",
        _ => "its kernel's log",
    };
    let lines = log.lines.iter().map(|line| format!("{}\n", style.paint(Paint::Plain, line)));
    format!("{}: {end}\n", style.paint(Paint::Strong, &whose)) + &lines.collect::<String>()
}

fn paint(outcome: Outcome) -> Paint {
    match outcome {
        Outcome::Running => Paint::Strong,
        Outcome::Committed => Paint::Good,
        Outcome::RolledBack | Outcome::Failed => Paint::Bad,
        Outcome::Abandoned => Paint::Waiting,
    }
}

fn reason(entry: &HistoryEntry) -> String {
    let cause = match (entry.code.as_str(), entry.reason.as_str()) {
        ("", reason) => reason.to_owned(),
        (code, "") => code.to_owned(),
        (code, reason) => format!("{code}: {reason}"),
    };
    match (cause.as_str(), entry.notes.as_slice()) {
        (_, []) => cause,
        ("", notes) => notes.join("; "),
        (_, notes) => format!("{cause} ({})", notes.join("; ")),
    }
}
