//! The status as Prometheus text. Its labels take their values from fixed sets and from this host's own identity, so the
//! number of series is bounded whatever a server says.

use std::fmt::Write;

use jiff::Timestamp;

use crate::status::json::{State, Status};

/// Every gate there is.
const GATES: [&str; 7] = ["pause", "window", "inhibitor", "users", "hook", "lock", "breaker"];

/// The whole page.
pub(super) fn render(status: &Status, now: Timestamp) -> String {
    let mut page = Page(String::new());
    identity(&mut page, status);
    progress(&mut page, status);
    page.gauge("update_engine_exit_class", "As updatectl status --exit-code: 0 current, 10 under way, 20 held, 30 attention.");
    page.value(&[], u64::from(status.exit_class().code()));
    page.gauge("update_engine_troubles", "Things a person has to mend.");
    page.value(&[], count(status.troubles.len()));
    page.gauge("update_engine_waiting_for", "1 for each closed gate on the way to the reboot.");
    for gate in GATES {
        page.value(&[("gate", gate)], u64::from(status.reboot.waiting_for.iter().any(|waiting| waiting.gate == gate)));
    }
    page.gauge("update_engine_lock_held", "1 while this host holds the reboot lock.");
    page.value(&[], u64::from(status.reboot.lock.held));
    page.counter("update_engine_attempts_total", "Attempts that ended, by how.");
    let ended = status.attempts;
    for (outcome, number) in [("committed", ended.committed), ("rolled-back", ended.rolled_back), ("failed", ended.failed)] {
        page.value(&[("outcome", outcome)], number);
    }
    page.time("update_engine_last_check_timestamp_seconds", "When the last check ended.", status.check.last_at);
    page.time("update_engine_next_check_timestamp_seconds", "When the next check is due.", status.check.next_at);
    let newest = status.check.newest_record_created;
    page.time("update_engine_newest_release_timestamp_seconds", "When the newest release seen was made.", newest);
    page.time("update_engine_scrape_timestamp_seconds", "The host's clock.", Some(now));
    page.0
}

fn identity(page: &mut Page, status: &Status) {
    page.gauge("update_engine_info", "What runs here.");
    let labels = [
        ("app_id", status.host.app_id.as_str()),
        ("channel", &status.host.channel),
        ("board", &status.host.board),
        ("slot", status.booted.slot.as_deref().unwrap_or_default()),
        ("version", status.booted.version.as_deref().unwrap_or_default()),
    ];
    page.value(&labels, 1);
    page.gauge("update_engine_booted_confirmed", "1 if the running slot is marked good.");
    page.value(&[], u64::from(status.booted.confirmed));
    page.gauge("update_engine_state", "1 for the present state.");
    for state in State::ALL {
        page.value(&[("state", state.as_str())], u64::from(status.state == state));
    }
}

fn progress(page: &mut Page, status: &Status) {
    let progress = status.progress.clone().unwrap_or_default();
    let values = [
        ("update_engine_progress_windows_done", "Windows known to be right.", progress.windows_done),
        ("update_engine_progress_windows", "Windows of the release under way.", progress.windows_total),
        ("update_engine_progress_downloaded_bytes", "Bytes received for the attempt under way.", progress.bytes_downloaded),
    ];
    for (name, help, value) in values {
        page.gauge(name, help);
        page.value(&[], value);
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str) {
        self.metric(name, help, "gauge");
    }

    fn counter(&mut self, name: &str, help: &str) {
        self.metric(name, help, "counter");
    }

    fn metric(&mut self, name: &str, help: &str, kind: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A sample of the metric that was declared last.
    fn value(&mut self, labels: &[(&str, &str)], value: u64) {
        let name =
            self.0.trim_end().rsplit("# TYPE ").next().and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_owned();
        let pairs: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
        self.put(format_args!("{name}{labels} {value}\n"));
    }

    /// A time, absent while it is not known.
    fn time(&mut self, name: &str, help: &str, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.gauge(name, help);
            self.put(format_args!("{name} {}\n", at.as_second()));
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _infallible = self.0.write_fmt(text);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::json::{Attempts, Booted, Host, Reboot, Waiting};

    #[test]
    fn the_page_follows_the_status() {
        let status = Status {
            state: State::Proven,
            host: Host { app_id: "{e962}".into(), channel: "sta\"ble\n".into(), ..Host::default() },
            booted: Booted { slot: Some("a".into()), version: Some("1.0.0".into()), confirmed: true, ..Booted::default() },
            reboot: Reboot {
                waiting_for: vec![
                    Waiting { gate: "lock".into(), ..Waiting::default() },
                    Waiting { gate: "made-up-by-a-server".into(), ..Waiting::default() },
                ],
                ..Reboot::default()
            },
            attempts: Attempts { committed: 3, rolled_back: 1, failed: 2 },
            ..Status::default()
        };
        let page = render(&status, Timestamp::from_second(1_800_000_000).unwrap());
        for line in [
            "update_engine_info{app_id=\"{e962}\",channel=\"sta\\\"ble\\n\",board=\"\",slot=\"a\",version=\"1.0.0\"} 1",
            "update_engine_state{state=\"proven\"} 1",
            "update_engine_state{state=\"idle\"} 0",
            "update_engine_exit_class 20",
            "update_engine_waiting_for{gate=\"lock\"} 1",
            "update_engine_waiting_for{gate=\"window\"} 0",
            "update_engine_attempts_total{outcome=\"rolled-back\"} 1",
            "update_engine_scrape_timestamp_seconds 1800000000",
        ] {
            assert!(page.lines().any(|found| found == line), "no line {line:?} in\n{page}");
        }
        assert!(!page.contains("made-up"), "{page}");
        assert!(!page.contains("last_check"), "an unknown time must be absent:\n{page}");
    }

    #[test]
    fn every_sample_has_its_help_and_type_before_it() {
        let page = render(&Status::default(), Timestamp::UNIX_EPOCH);
        let mut declared = "";
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                declared = rest.split(' ').next().unwrap();
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(name, declared);
            }
        }
    }
}
