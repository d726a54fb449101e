//! What Prometheus reads. Labels are bounded: groups (made by operators only), and words of this module.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::group::Look;
use super::problem::Kind;
use crate::names::GroupName;
use crate::semaphore::history::{Entry, Event};
use crate::semaphore::{HELD, Outcome, Phase};

/// Which interface was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    PreReboot,
    SteadyState,
    Groups,
    Other,
}

const ENDPOINTS: [Endpoint; 4] = [Endpoint::PreReboot, Endpoint::SteadyState, Endpoint::Groups, Endpoint::Other];

const EVENTS: [Event; 8] = [
    Event::Created,
    Event::Granted,
    Event::Held,
    Event::Rebooting,
    Event::Released,
    Event::LeaseExpired,
    Event::ForcedUnlock,
    Event::MaxChanged,
];

const OUTCOMES: [Option<Outcome>; 4] = [Some(Outcome::Ok), Some(Outcome::RolledBack), Some(Outcome::Aborted), None];

/// Counts of a server.
#[derive(Debug, Default)]
pub(super) struct Counters {
    answers: [[AtomicU64; Kind::ALL.len()]; ENDPOINTS.len()],
}

/// Counts of a group.
#[derive(Debug, Default)]
pub(super) struct GroupCounters {
    events: [AtomicU64; EVENTS.len()],
    releases: [AtomicU64; OUTCOMES.len()],
    conflicts: AtomicU64,
    troubles: AtomicU64,
}

impl Counters {
    pub(super) fn answered(&self, endpoint: Endpoint, kind: Kind) {
        let row = ENDPOINTS.iter().position(|other| *other == endpoint).and_then(|at| self.answers.get(at));
        let column = Kind::ALL.iter().position(|other| *other == kind);
        if let Some(count) = row.zip(column).and_then(|(row, at)| row.get(at)) {
            add(count);
        }
    }
}

impl GroupCounters {
    pub(super) fn event(&self, entry: &Entry) {
        count(&EVENTS, &self.events, &entry.event);
        if entry.event == Event::Released {
            count(&OUTCOMES, &self.releases, &entry.outcome);
        }
    }

    pub(super) fn conflict(&self) {
        add(&self.conflicts);
    }

    pub(super) fn trouble(&self) {
        add(&self.troubles);
    }
}

/// One group as it is scraped; without a look, while its store is out.
pub(super) struct Scraped<'a> {
    pub(super) group: &'a GroupName,
    pub(super) counters: &'a GroupCounters,
    pub(super) look: Option<Look>,
}

/// The text of `/metrics`.
pub(super) fn text(counters: &Counters, groups: &[Scraped<'_>]) -> String {
    let mut page = Page(String::new());
    page.family("locksmith_build_info", "gauge", "The version that runs.");
    page.line("locksmith_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family("locksmith_answers_total", "counter", "Answers by interface and kind.");
    for (endpoint, row) in ENDPOINTS.iter().zip(&counters.answers) {
        for (kind, count) in Kind::ALL.iter().zip(row) {
            let labels = [("endpoint", endpoint.as_str()), ("kind", kind.as_str())];
            page.line_if_any("locksmith_answers_total", &labels, count);
        }
    }
    gauges(&mut page, groups);
    group_counters(&mut page, groups);
    page.0
}

fn gauges(page: &mut Page, groups: &[Scraped<'_>]) {
    let looks = || groups.iter().filter_map(|scraped| Some((scraped.group.as_str(), scraped.look.as_ref()?)));
    page.family("locksmith_group_max", "gauge", "How many hosts of the group may hold a place.");
    for (group, look) in looks() {
        page.line("locksmith_group_max", &[("group", group)], look.document.max().get().into());
    }
    page.family("locksmith_group_holders", "gauge", "How many places are taken: by hosts, by phase, or held by operators.");
    for (group, look) in looks() {
        for phase in [Phase::Draining.as_str(), Phase::Rebooting.as_str(), HELD] {
            let taken = look.document.holders().iter().filter(|holder| holder.stands() == phase).count();
            let labels = [("group", group), ("phase", phase)];
            page.line("locksmith_group_holders", &labels, number(taken));
        }
    }
    page.family("locksmith_group_waiting", "gauge", "How many hosts wait for a place.");
    for (group, look) in looks() {
        page.line("locksmith_group_waiting", &[("group", group)], number(look.waiting_total));
    }
}

fn group_counters(page: &mut Page, groups: &[Scraped<'_>]) {
    page.family("locksmith_events_total", "counter", "What happened in the group since this server started.");
    for scraped in groups {
        for (event, count) in EVENTS.iter().zip(&scraped.counters.events) {
            let labels = [("group", scraped.group.as_str()), ("event", event.as_str())];
            page.line_if_any("locksmith_events_total", &labels, count);
        }
    }
    page.family("locksmith_releases_total", "counter", "Releases by the outcome the host reported.");
    for scraped in groups {
        for (outcome, count) in OUTCOMES.iter().zip(&scraped.counters.releases) {
            let outcome = outcome.map_or("unknown", Outcome::as_str);
            let labels = [("group", scraped.group.as_str()), ("outcome", outcome)];
            page.line_if_any("locksmith_releases_total", &labels, count);
        }
    }
    page.family("locksmith_swap_conflicts_total", "counter", "Swaps lost to another server and tried again.");
    for scraped in groups {
        let conflicts = scraped.counters.conflicts.load(Ordering::Relaxed);
        page.line("locksmith_swap_conflicts_total", &[("group", scraped.group.as_str())], conflicts);
    }
    page.family("locksmith_store_errors_total", "counter", "Rounds in which the store could not be used.");
    for scraped in groups {
        let troubles = scraped.counters.troubles.load(Ordering::Relaxed);
        page.line("locksmith_store_errors_total", &[("group", scraped.group.as_str())], troubles);
    }
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Label values are words of this crate and group names: nothing in them needs escaping.
    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
    }

    fn line_if_any(&mut self, name: &str, labels: &[(&str, &str)], count: &AtomicU64) {
        let value = count.load(Ordering::Relaxed);
        if value > 0 {
            self.line(name, labels, value);
        }
    }
}

impl Endpoint {
    /// The interface a path belongs to.
    pub(super) fn of(path: &str) -> Self {
        match path {
            "/v1/pre-reboot" => Self::PreReboot,
            "/v1/steady-state" => Self::SteadyState,
            path if path.starts_with("/v1/groups") => Self::Groups,
            _ => Self::Other,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::PreReboot => "pre-reboot",
            Self::SteadyState => "steady-state",
            Self::Groups => "groups",
            Self::Other => "other",
        }
    }
}

fn count<T: PartialEq>(words: &[T], counts: &[AtomicU64], word: &T) {
    if let Some(count) = words.iter().position(|other| other == word).and_then(|at| counts.get(at)) {
        add(count);
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn number(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}
