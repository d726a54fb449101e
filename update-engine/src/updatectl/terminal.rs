//! Where the words go: colour, symbols and closed pipes.

use std::env;
use std::io::{self, IsTerminal, Write};

use jiff::tz::TimeZone;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Exit;
use super::failure::Failure;
use super::words::printable;

/// How text is dressed.
#[derive(Debug, Clone)]
pub struct Style {
    /// Colours may be used.
    pub colour: bool,
    /// Characters beyond ASCII may be used.
    pub unicode: bool,
    /// Times of day are told in this zone.
    pub zone: TimeZone,
}

/// Meanings that have a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Strong,
    Faint,
    Good,
    Waiting,
    Bad,
}

impl Style {
    /// No colour, ASCII, UTC: the same everywhere.
    pub fn plain() -> Self {
        Self { colour: false, unicode: false, zone: TimeZone::UTC }
    }

    /// Text from outside, without control characters, in the colour of a meaning.
    pub(super) fn paint(&self, paint: Paint, text: &str) -> String {
        let text = printable(text);
        let code = match paint {
            Paint::Plain => return text,
            Paint::Strong => "1",
            Paint::Faint => "2",
            Paint::Good => "32",
            Paint::Waiting => "33",
            Paint::Bad => "1;31",
        };
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
    }
}

/// This process's outputs.
#[derive(Debug)]
pub(super) struct Terminal {
    /// For stdout.
    pub(super) style: Style,
    /// For stderr.
    pub(super) error_style: Style,
    pub(super) draws_output: bool,
    pub(super) draws_messages: bool,
}

impl Terminal {
    pub(super) fn of_this_process() -> Self {
        let wanted = colour_wanted(|name| env::var(name).ok());
        let unicode = is_utf8(|name| env::var(name).ok());
        let (output, messages) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let style = |is_terminal: bool| Style { colour: is_terminal && wanted, unicode, zone: TimeZone::system() };
        Self { style: style(output), error_style: style(messages), draws_output: output, draws_messages: messages }
    }

    /// Data, to stdout.
    pub(super) fn print(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::closed_pipe(),
            _ => Failure::new(format!("cannot write the output: {error}")),
        })
    }

    /// A message, to stderr. Where that is closed, nobody wanted to hear it.
    pub(super) fn say(&self, text: &str) {
        let _closed_pipe = writeln!(io::stderr().lock(), "{text}");
    }

    /// A failure with its hint; its exit code comes back.
    pub(super) fn fail(&self, failure: &Failure) -> Exit {
        let error = self.error_style.paint(Paint::Bad, "error:");
        for (index, line) in failure.message.lines().enumerate() {
            let label = if index == 0 { error.as_str() } else { "      " };
            self.say(&format!("{label} {}", printable(line)));
        }
        if let Some(hint) = &failure.hint {
            self.say(&format!("{} {}", self.error_style.paint(Paint::Strong, "hint:"), printable(hint)));
        }
        failure.exit
    }
}

/// Interrupts by the person, from now on.
pub(super) fn interrupts() -> Result<Signal, Failure> {
    signal(SignalKind::interrupt()).map_err(|error| Failure::new(format!("cannot listen for interrupts: {error}")))
}

/// Colour unless `NO_COLOR` says no (to anything but an empty text) or the terminal is a dumb one.
fn colour_wanted(variable: impl Fn(&str) -> Option<String>) -> bool {
    let no_colour = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = variable("TERM").is_some_and(|value| value == "dumb");
    !no_colour && !dumb
}

/// The first of the locale's variables that is set decides.
fn is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| variable(name).filter(|value| !value.is_empty()));
    set.is_some_and(|value| {
        let value = value.to_ascii_lowercase();
        value.contains("utf-8") || value.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn colour_is_off_where_it_is_not_wanted() {
        assert!(colour_wanted(variables(&[("TERM", "xterm")])));
        assert!(colour_wanted(variables(&[("NO_COLOR", "")])));
        assert!(!colour_wanted(variables(&[("NO_COLOR", "1")])));
        assert!(!colour_wanted(variables(&[("TERM", "dumb")])));
    }

    #[test]
    fn symbols_need_a_locale_that_has_them() {
        assert!(is_utf8(variables(&[("LANG", "de_DE.UTF-8")])));
        assert!(is_utf8(variables(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8")])));
        assert!(!is_utf8(variables(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")])));
        assert!(!is_utf8(variables(&[])));
    }

    #[test]
    fn a_text_from_outside_cannot_move_the_cursor() {
        let style = Style { colour: true, ..Style::plain() };
        assert_eq!(style.paint(Paint::Good, "a\x1b[2Jb\nc"), "\x1b[32ma[2Jb c\x1b[0m");
        assert_eq!(Style::plain().paint(Paint::Bad, "a\rb"), "ab");
    }
}
