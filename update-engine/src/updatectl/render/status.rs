//! `updatectl status`.

use jiff::Timestamp;

use super::super::terminal::{Paint, Style};
use super::super::words::{printable, progress, since, since_text, until_text, when};
use crate::engine::cause::Cause;
use crate::status::json::{Check, ExitClass, LastError, Limit, LimitBy, Lock, Mode, Slot, State, Status, Waiting};

/// The sentence, then what it stands on.
pub fn status(status: &Status, now: Timestamp, style: &Style) -> String {
    let mut page = Page { style, now, text: String::new() };
    let paint = match status.exit_class() {
        ExitClass::Current => Paint::Good,
        ExitClass::UnderWay => Paint::Strong,
        ExitClass::Held => Paint::Waiting,
        ExitClass::Attention => Paint::Bad,
    };
    page.text.push_str(&format!("{}\n\n", style.paint(paint, &status.summary)));
    page.host(status);
    page.running(status);
    for (index, slot) in status.slots.iter().enumerate() {
        page.slot(if index == 0 { "slots" } else { "" }, slot, status);
    }
    page.target(status);
    page.limit(status.limit);
    page.check(&status.check);
    page.pause(status);
    page.reboot(status);
    page.lock(&status.reboot.lock);
    for (index, trouble) in status.troubles.iter().enumerate() {
        let label = if index == 0 { "trouble" } else { "" };
        page.row(label, &format!("{} {}", style.paint(Paint::Bad, &format!("{}:", trouble.code)), printable(&trouble.message)));
    }
    for (index, warning) in status.health_warnings.iter().enumerate() {
        let words = format!("{} {}", style.paint(Paint::Waiting, "wanted health check:"), printable(warning));
        page.row(if index == 0 { "warning" } else { "" }, &words);
    }
    page.error(status);
    let ended = status.attempts;
    page.row("attempts", &format!("{} committed, {} rolled back, {} failed", ended.committed, ended.rolled_back, ended.failed));
    page.text
}

struct Page<'a> {
    style: &'a Style,
    now: Timestamp,
    text: String,
}

impl Page<'_> {
    /// A label, and a value that has been cleaned already.
    fn row(&mut self, label: &str, value: &str) {
        let gap = " ".repeat(10_usize.saturating_sub(label.len()));
        self.text.push_str(&format!("  {}{gap}{value}\n", self.style.paint(Paint::Faint, label)));
    }

    fn when(&self, at: Timestamp) -> String {
        when(at, self.now, &self.style.zone)
    }

    fn host(&mut self, status: &Status) {
        let host = &status.host;
        let name = match (host.alias.as_str(), host.id.as_str()) {
            (alias, "") => alias.to_owned(),
            ("", id) => id.to_owned(),
            (alias, id) => format!("{alias} ({id})"),
        };
        let labelled = [("app", &host.app_id), ("channel", &host.channel), ("board", &host.board), ("", &host.arch)];
        let known = labelled.iter().filter(|(_, value)| !value.is_empty());
        let mut words: Vec<String> = Some(name).filter(|name| !name.is_empty()).into_iter().collect();
        words.extend(known.map(|(label, value)| format!("{label} {value}").trim_start().to_owned()));
        if status.mode == Mode::Image {
            words.push("a disk image".to_owned());
        }
        self.row("host", &printable(&words.join(", ")));
    }

    fn running(&mut self, status: &Status) {
        let booted = &status.booted;
        let version = self.style.paint(Paint::Strong, booted.version.as_deref().unwrap_or("an unknown version"));
        let place = booted.slot.as_ref().map_or("an unknown slot".to_owned(), |slot| format!("slot {}", printable(slot)));
        let confirmed = if booted.confirmed {
            self.style.paint(Paint::Good, "confirmed")
        } else {
            self.style.paint(Paint::Waiting, "not confirmed yet")
        };
        self.row("running", &format!("{version} in {place}, {confirmed}"));
    }

    fn slot(&mut self, label: &str, slot: &Slot, status: &Status) {
        let version = slot.version.as_deref().unwrap_or("-");
        let on_trial = status.trial.is_some() && slot.booted;
        let width = status.slots.iter().map(|slot| slot.version.as_deref().unwrap_or("-").chars().count()).max().unwrap_or(0);
        self.row(label, &printable(&format!("{}  {version:<width$}  {}", slot.name, marks(slot, on_trial).join(", "))));
    }

    fn target(&mut self, status: &Status) {
        if let Some(target) = &status.target {
            let words = format!("for slot {}, attempt {}", target.slot, target.attempt);
            self.row("target", &format!("{} {}", self.style.paint(Paint::Strong, &target.version), printable(&words)));
            if let Some(url) = &target.notes_url {
                self.row("notes", &printable(url));
            }
        }
        if let Some(state) = &status.progress {
            self.row("progress", &progress(state));
        }
    }

    /// Where downloads are slower than they could be, or somebody said that they may not be.
    fn limit(&mut self, limit: Limit) {
        if limit.max_rate_bytes_per_s.is_some() || limit.by == LimitBy::Command {
            self.row("limit", &limit.to_words());
        }
    }

    fn check(&mut self, check: &Check) {
        let result = check.last_result.as_deref().unwrap_or("no result");
        let last = match check.last_at {
            Some(at) => format!("{}, {}", printable(result), self.when(at)),
            None => "not yet".to_owned(),
        };
        let next = check.next_at.map_or(String::new(), |at| format!("; next {}", self.when(at)));
        self.row("check", &format!("{last}{next}"));
        if let Some(hold) = &check.hold {
            let words = self.style.paint(Paint::Waiting, &format!("held by the server: {}", hold.reason));
            self.row("", &format!("{words}{}", self.span(hold.since, hold.until.as_deref())));
        }
        self.row("server", if check.server.is_empty() { "none; releases come by `updatectl install`" } else { &check.server });
        if let Some(at) = check.newest_record_created {
            self.row("newest", &format!("release seen was made {}", self.when(at)));
        }
    }

    /// `, for … (since …), until …`, as far as it is known.
    fn span(&self, from: Option<Timestamp>, to: Option<&str>) -> String {
        let from = from.map_or(String::new(), |at| format!(", {}", since(at, self.now, &self.style.zone)));
        let to = to.map_or(String::new(), |text| format!(", {}", until_text(text, self.now, &self.style.zone)));
        format!("{from}{to}")
    }

    fn pause(&mut self, status: &Status) {
        let Some(pause) = &status.pause else { return };
        let reason = self.style.paint(Paint::Waiting, pause.reason.as_deref().unwrap_or("no reason given"));
        let until = pause.until.map_or("`updatectl resume` ends it".to_owned(), |at| format!("ends {}", self.when(at)));
        self.row("paused", &format!("{reason}, {}, {until}", since(pause.since, self.now, &self.style.zone)));
    }

    fn reboot(&mut self, status: &Status) {
        self.row("reboot", &strategy(status));
        for (index, waiting) in status.reboot.waiting_for.iter().enumerate() {
            self.waiting(if index == 0 { "waiting" } else { "" }, waiting);
        }
    }

    fn waiting(&mut self, label: &str, waiting: &Waiting) {
        let gate = self.style.paint(Paint::Waiting, &format!("{}:", waiting.gate));
        let span = self.span(waiting.since, waiting.until.as_deref());
        let again = waiting.retry_at.map_or(String::new(), |at| format!(", asked again {}", self.when(at)));
        self.row(label, &format!("{gate} {}{span}{again}", printable(&waiting.detail)));
    }

    fn lock(&mut self, lock: &Lock) {
        if lock.backend == "none" || lock.backend.is_empty() {
            return;
        }
        let mut words = format!("group {}: ", printable(&lock.group));
        words.push_str(if lock.held { "held by this host" } else { "not held by this host" });
        if let Some(max) = lock.max {
            words.push_str(&format!(", {} of {max} places taken", lock.holders.len()));
        }
        self.row("lock", &words);
        for holder in &lock.holders {
            let phase = holder.phase.as_ref().map_or(String::new(), |phase| format!(", {phase}"));
            let zone = &self.style.zone;
            let since = holder.since.as_ref().map_or(String::new(), |text| format!(", {}", since_text(text, self.now, zone)));
            self.row("", &printable(&format!("{}{phase}{since}", holder.id)));
        }
    }

    fn error(&mut self, status: &Status) {
        let Some(error) = &status.last_error else { return };
        let paint = if error.attention { Paint::Bad } else { Paint::Waiting };
        let code = self.style.paint(paint, &error.code);
        self.row("error", &format!("{code}, {}: {}", self.when(error.at), printable(&error.message)));
        if let Some(hint) = hint(status, error) {
            self.row("", &format!("hint: {hint}"));
        }
        match status.kernel_log.as_ref().map(|log| log.line.as_deref()) {
            Some(Some(line)) => {
                self.row("kernel", &format!("{} (`updatectl history --kernel-log` has all of it)", printable(line)))
            }
            Some(None) => self.row("kernel", "its log names no trouble (`updatectl history --kernel-log` shows it)"),
            None => {}
        }
    }
}

fn marks(slot: &Slot, on_trial: bool) -> Vec<String> {
    let mut marks = Vec::new();
    let mut mark = |is: bool, word: &str| {
        if is {
            marks.push(word.to_owned());
        }
    };
    mark(slot.booted, "runs");
    mark(slot.next, "boots next");
    // The loader has given it all its tries, or it was marked bad: it is not started again.
    mark(!slot.bootable && on_trial, "on trial with no try left");
    mark(!slot.bootable, "not bootable");
    mark(slot.bootable && slot.good, "good");
    let pending = if slot.booted { "on trial" } else { "armed" };
    let tries = if slot.tries_left == 1 { "1 try".to_owned() } else { format!("{} tries", slot.tries_left) };
    mark(slot.bootable && !slot.good, &format!("{pending} with {tries} left"));
    mark(slot.proven, "proven");
    mark(!slot.proven, "not proven");
    marks
}

fn strategy(status: &Status) -> String {
    let has_lock = !matches!(status.reboot.lock.backend.as_str(), "" | "none");
    let meaning = match (status.reboot.strategy.as_str(), has_lock) {
        ("immediate", _) => "as soon as the gates are open",
        ("lock", _) => "as soon as the gates are open and the lock is held",
        ("manual", false) => "by a person: `updatectl reboot` starts the new slot",
        ("manual", true) => "by a person, with `updatectl reboot`",
        _ => return printable(&status.reboot.strategy),
    };
    format!("{}: {meaning}", printable(&status.reboot.strategy))
}

fn hint(status: &Status, error: &LastError) -> Option<String> {
    let rolled_back = status.state == State::RolledBack || Cause::read(&error.code) == Cause::RolledBack;
    match (rolled_back, error.attention) {
        (true, _) => Some("`updatectl history` has the reason; `updatectl update VERSION` tries that version again".to_owned()),
        (false, true) => Some("`updatectl history` has the attempts; `updatectl update` tries again now".to_owned()),
        (false, false) => None,
    }
}
