//! Documents in words. Pure: a document, the present moment and a style make a text.

mod history;
mod slots;
mod status;
mod why;

pub use history::{history, kernel_log};
pub use slots::slots;
pub use status::status;
pub use why::why;

use super::terminal::{Paint, Style};
use super::words::printable;

/// Columns as wide as their widest cell, two blanks between them, nothing after the last.
struct Columns {
    rows: Vec<Vec<(Paint, String)>>,
}

impl Columns {
    fn new() -> Self {
        Self { rows: Vec::new() }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = (Paint, String)>) {
        self.rows.push(cells.into_iter().map(|(paint, text)| (paint, printable(&text))).collect());
    }

    fn head(&mut self, titles: &[&str]) {
        self.row(titles.iter().map(|title| (Paint::Faint, (*title).to_owned())));
    }

    fn text(&self, style: &Style) -> String {
        let widest = |column: usize| {
            let lengths = self.rows.iter().filter_map(|row| row.get(column)).map(|(_, text)| text.chars().count());
            lengths.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.rows.iter().map(Vec::len).max().unwrap_or(0)).map(widest).collect();
        self.rows.iter().map(|row| line(row, &widths, style)).collect()
    }
}

fn line(row: &[(Paint, String)], widths: &[usize], style: &Style) -> String {
    let last = row.iter().rposition(|(_, text)| !text.is_empty()).unwrap_or(0);
    let mut line = String::new();
    for (column, (paint, text)) in row.iter().enumerate().take(last + 1) {
        line.push_str(&style.paint(*paint, text));
        if column < last {
            let gap = widths.get(column).copied().unwrap_or(0).saturating_sub(text.chars().count()) + 2;
            line.push_str(&" ".repeat(gap));
        }
    }
    line.push('\n');
    line
}
