//! `updatectl why`.

use jiff::Timestamp;

use super::super::terminal::{Paint, Style};
use super::super::words::{since, until_text, when};
use super::Columns;
use crate::status::json::{GateState, WhyEntry};

/// The sentence, then the chain of gates in the order they are asked.
pub fn why(summary: &str, chain: &[WhyEntry], now: Timestamp, style: &Style) -> String {
    let mut columns = Columns::new();
    for entry in chain {
        let (paint, symbol) = symbol(entry.state, style.unicode);
        columns.row([
            (paint, symbol.to_owned()),
            (Paint::Strong, entry.gate.clone()),
            (paint, word(entry.state).to_owned()),
            (Paint::Plain, detail(entry, now, style)),
        ]);
    }
    let gates =
        if chain.is_empty() { "No gate stands between this host and a reboot now.\n".to_owned() } else { columns.text(style) };
    format!("{}\n\n{gates}", style.paint(Paint::Strong, summary))
}

fn symbol(state: GateState, unicode: bool) -> (Paint, &'static str) {
    match (state, unicode) {
        (GateState::Passed, true) => (Paint::Good, "✓"),
        (GateState::Passed, false) => (Paint::Good, "+"),
        (GateState::Waiting, true) => (Paint::Waiting, "…"),
        (GateState::Waiting, false) => (Paint::Waiting, "~"),
        (GateState::Refused, true) => (Paint::Bad, "✗"),
        (GateState::Refused, false) => (Paint::Bad, "x"),
        (GateState::Pending, true) => (Paint::Faint, "·"),
        (GateState::Pending, false) => (Paint::Faint, "."),
        (GateState::Skipped, true) => (Paint::Faint, "–"),
        (GateState::Skipped, false) => (Paint::Faint, "-"),
    }
}

fn word(state: GateState) -> &'static str {
    match state {
        GateState::Passed => "passed",
        GateState::Waiting => "waiting",
        GateState::Refused => "refused",
        GateState::Pending => "pending",
        GateState::Skipped => "skipped",
    }
}

fn detail(entry: &WhyEntry, now: Timestamp, style: &Style) -> String {
    let since = entry.since.map(|at| since(at, now, &style.zone));
    let until = entry.until.as_ref().map(|text| until_text(text, now, &style.zone));
    let again = entry.retry_at.map(|at| format!("asked again {}", when(at, now, &style.zone)));
    let detail = Some(entry.detail.clone()).filter(|detail| !detail.is_empty());
    [detail, since, until, again].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
