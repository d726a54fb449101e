//! `updatectl slots`.

use super::super::terminal::{Paint, Style};
use super::Columns;
use crate::status::json::{ReadBack, Slot};

/// A line for each slot.
pub fn slots(slots: &[Slot], style: &Style) -> String {
    let mut columns = Columns::new();
    columns.head(&["SLOT", "VERSION", "RUNS", "NEXT", "BOOTABLE", "GOOD", "TRIES LEFT", "PROVEN"]);
    for slot in slots {
        let yes = |is: bool| (if is { Paint::Good } else { Paint::Plain }, (if is { "yes" } else { "no" }).to_owned());
        let cached = if slot.read_back == Some(ReadBack::Cached) { " (cached)" } else { "" };
        let (paint, proven) = yes(slot.proven);
        columns.row([
            (Paint::Strong, slot.name.clone()),
            (Paint::Plain, slot.version.clone().unwrap_or_else(|| "-".to_owned())),
            yes(slot.booted),
            yes(slot.next),
            yes(slot.bootable),
            yes(slot.good),
            (Paint::Plain, slot.tries_left.to_string()),
            (paint, format!("{proven}{cached}")),
        ]);
    }
    columns.text(style)
}
