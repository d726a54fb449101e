//! Progress on stderr: a bar on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{say, words};

/// Pause between two plain lines: a log of a long build stays short, and a short build says nothing.
const PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    what: &'static str,
    face: Face,
}

enum Face {
    Bar(ProgressBar),
    Lines { said: Instant },
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        let face = if io::stderr().is_terminal() { Face::Bar(bar(what)) } else { Face::Lines { said: Instant::now() } };
        Self { what, face }
    }

    pub(super) fn show(&mut self, done: u64, total: u64, detail: &str) {
        match &mut self.face {
            Face::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(detail.to_owned());
            }
            Face::Lines { said } if said.elapsed() >= PAUSE => {
                *said = Instant::now();
                say(&line(self.what, done, total, detail));
            }
            Face::Lines { .. } => {}
        }
    }
}

/// However the work ends, no half a bar is left on the terminal.
impl Drop for Progress {
    fn drop(&mut self) {
        if let Face::Bar(bar) = &self.face {
            bar.finish_and_clear();
        }
    }
}

/// `building: 48.8 %, 500.0 MiB of 1.0 GiB, 163.8 MiB of payload`
fn line(what: &str, done: u64, total: u64, detail: &str) -> String {
    let (percent, done, total) = (words::percent(done, total), words::size(done), words::size(total));
    let separator = if detail.is_empty() { "" } else { ", " };
    format!("{what}: {percent}, {done} of {total}{separator}{detail}")
}

fn bar(what: &'static str) -> ProgressBar {
    const TEMPLATE: &str = "{prefix} [{wide_bar}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left  {msg}";
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_prefix(what).with_style(style.progress_chars("=> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_says_how_far_it_is() {
        assert_eq!(line("checking", 1 << 20, 4 << 20, ""), "checking: 25.0 %, 1.0 MiB of 4.0 MiB");
        assert_eq!(line("building", 0, 1 << 30, "0 bytes of payload"), "building: 0.0 %, 0 bytes of 1.0 GiB, 0 bytes of payload");
    }
}
