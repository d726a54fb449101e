//! What `updatectl` shows, word by word: pure functions from documents to text.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that is skipped says why"
)]

use jiff::Timestamp;
use jiff::tz::TimeZone;
use update_engine::engine::model::CheckOutcome;
use update_engine::status::json::{
    Attempts, Booted, Check, GateState, HistoryEntry, Hold, Holder, Host, KernelLog, LastError, Lock, Mode, Outcome, Pause,
    Phase, Progress, ReadBack, Reboot, Slot, State, Status, Target, Trial, Trouble, Waiting, WhyEntry,
};
use update_engine::updatectl::{Style, history, slots, status, why};

fn at(text: &str) -> Timestamp {
    format!("2026-11-21T{text}Z").parse().unwrap()
}

fn now() -> Timestamp {
    at("12:00:00")
}

fn idle() -> Status {
    Status {
        summary: "Up to date: 1.0.0 runs from slot a; the next check is due in 42 minutes.".into(),
        host: Host {
            id: "5d1c0f3e".into(),
            alias: "web-1".into(),
            app_id: "{e962}".into(),
            channel: "stable".into(),
            board: "x1".into(),
            arch: "x86_64".into(),
        },
        booted: Booted { slot: Some("a".into()), version: Some("1.0.0".into()), confirmed: true, boot_id: "9a1b".into() },
        slots: vec![
            Slot {
                name: "a".into(),
                version: Some("1.0.0".into()),
                booted: true,
                next: true,
                bootable: true,
                good: true,
                proven: true,
                ..Slot::default()
            },
            Slot { name: "b".into(), ..Slot::default() },
        ],
        check: Check {
            last_at: Some(at("11:57:00")),
            last_outcome: Some(CheckOutcome::NoUpdate),
            last_result: Some("no update".into()),
            next_at: Some(at("12:42:00")),
            server: "https://updates.example/v1/update/".into(),
            newest_record_created: Some("2026-11-01T00:00:00Z".parse().unwrap()),
            hold: None,
        },
        reboot: Reboot {
            strategy: "immediate".into(),
            lock: Lock { backend: "none".into(), ..Lock::default() },
            ..Reboot::default()
        },
        attempts: Attempts { committed: 3, rolled_back: 1, failed: 0 },
        ..Status::default()
    }
}

fn target() -> Option<Target> {
    Some(Target {
        version: "1.1.0".into(),
        slot: "b".into(),
        attempt: "c0ffee".into(),
        notes_url: Some("https://updates.example/1.1.0.html".into()),
    })
}

fn slot_b(slot: Slot) -> Vec<Slot> {
    vec![idle().slots.remove(0), Slot { name: "b".into(), version: Some("1.1.0".into()), ..slot }]
}

fn fetching() -> Status {
    Status {
        state: State::Fetching,
        summary: "Writing 1.1.0 into slot b: 15 % done, about a minute left; then it is read back.".into(),
        target: target(),
        progress: Some(Progress {
            phase: Phase::Fetching,
            windows_done: 120,
            windows_total: 800,
            bytes_written: 31_500_000,
            bytes_total: 210_000_000,
            bytes_downloaded: 12_000_000,
            bytes_reused: 4_000_000,
            rate_bytes_per_s: 3_100_000,
            eta_s: Some(58),
            trouble: None,
        }),
        ..idle()
    }
}

fn waiting_for_the_lock() -> Status {
    Status {
        state: State::Proven,
        summary: "1.1.0 is proven in slot b and waits for the reboot lock, which web-2 holds.".into(),
        target: target(),
        slots: slot_b(Slot { proven: true, read_back: Some(ReadBack::Direct), ..Slot::default() }),
        reboot: Reboot {
            strategy: "lock".into(),
            waiting_for: vec![
                Waiting {
                    gate: "lock".into(),
                    detail: "held by web-2".into(),
                    since: Some(at("11:48:00")),
                    until: None,
                    retry_at: Some(at("12:01:00")),
                },
                Waiting {
                    gate: "pause".into(),
                    detail: "release night".into(),
                    since: None,
                    until: Some("2026-11-22T06:00:00Z".into()),
                    retry_at: None,
                },
            ],
            lock: Lock {
                backend: "fleetlock".into(),
                group: "web".into(),
                held: false,
                holders: vec![Holder {
                    id: "web-2".into(),
                    since: Some("2026-11-21T11:40:00Z".into()),
                    phase: Some("rebooting".into()),
                }],
                max: Some(1),
            },
        },
        ..idle()
    }
}

fn armed() -> Status {
    Status {
        state: State::Armed,
        summary: "1.1.0 starts from slot b at the next reboot, whoever asks for it.".into(),
        target: target(),
        slots: slot_b(Slot { next: true, bootable: true, tries_left: 3, proven: true, ..Slot::default() }),
        reboot: Reboot { strategy: "manual".into(), ..idle().reboot },
        ..idle()
    }
}

fn rolled_back() -> Status {
    Status {
        state: State::RolledBack,
        summary: "1.1.0 did not come up and was rolled back; 1.0.0 runs from slot a and 1.1.0 is not tried again.".into(),
        target: target(),
        slots: slot_b(Slot { proven: true, ..Slot::default() }),
        last_error: Some(LastError {
            code: "rolled-back".into(),
            message: "10-web exited with 1: port 80 is closed".into(),
            at: at("11:55:00"),
            attention: true,
        }),
        attempts: Attempts { committed: 3, rolled_back: 2, failed: 0 },
        ..idle()
    }
}

fn text(document: &Status) -> String {
    status(document, now(), &Style::plain())
}

const REST_OF_IDLE: &str = "\
\x20 check     no update, 3 min ago (2026-11-21 11:57 UTC); next in 42 min (2026-11-21 12:42 UTC)
  server    https://updates.example/v1/update/
  newest    release seen was made 20 days ago (2026-11-01 00:00 UTC)
";

const TARGET: &str = "\
\x20 target    1.1.0 for slot b, attempt c0ffee
  notes     https://updates.example/1.1.0.html
";

const HEAD: &str = "\
\x20 host      web-1 (5d1c0f3e), app {e962}, channel stable, board x1, x86_64
  running   1.0.0 in slot a, confirmed
  slots     a  1.0.0  runs, boots next, good, proven
";

#[test]
fn an_idle_host_in_words() {
    let expected = format!(
        "Up to date: 1.0.0 runs from slot a; the next check is due in 42 minutes.\n\n{HEAD}\
         \x20           b  -      not bootable, not proven\n{REST_OF_IDLE}\
         \x20 reboot    immediate: as soon as the gates are open\n\
         \x20 attempts  3 committed, 1 rolled back, 0 failed\n"
    );
    assert_eq!(text(&idle()), expected);
}

#[test]
fn an_update_under_way_in_words() {
    let expected = format!(
        "Writing 1.1.0 into slot b: 15 % done, about a minute left; then it is read back.\n\n{HEAD}\
         \x20           b  -      not bootable, not proven\n{TARGET}\
         \x20 progress  fetching: 120 of 800 windows (15 %), 33.8 MiB of 200 MiB, 3.8 MiB of it were there already, 2.9 MiB/s, 58 s left\n{REST_OF_IDLE}\
         \x20 reboot    immediate: as soon as the gates are open\n\
         \x20 attempts  3 committed, 1 rolled back, 0 failed\n"
    );
    assert_eq!(text(&fetching()), expected);
}

#[test]
fn a_host_that_waits_for_the_lock_in_words_says_who_since_when_and_until_when() {
    let expected = format!(
        "1.1.0 is proven in slot b and waits for the reboot lock, which web-2 holds.\n\n{HEAD}\
         \x20           b  1.1.0  not bootable, proven\n{TARGET}{REST_OF_IDLE}\
         \x20 reboot    lock: as soon as the gates are open and the lock is held\n\
         \x20 waiting   lock: held by web-2, for 12 min (since 2026-11-21 11:48 UTC), asked again in 1 min (2026-11-21 12:01 UTC)\n\
         \x20           pause: release night, until 2026-11-22 06:00 UTC (in 18 h)\n\
         \x20 lock      group web: not held by this host, 1 of 1 places taken\n\
         \x20           web-2, rebooting, for 20 min (since 2026-11-21 11:40 UTC)\n\
         \x20 attempts  3 committed, 1 rolled back, 0 failed\n"
    );
    assert_eq!(text(&waiting_for_the_lock()), expected);
}

#[test]
fn a_paused_host_in_words_says_why_since_when_and_what_ends_it() {
    let paused =
        |until| Status { pause: Some(Pause { reason: Some("release night".into()), since: at("11:48:00"), until }), ..idle() };
    let since = "\n  paused    release night, for 12 min (since 2026-11-21 11:48 UTC), ";
    let shown = text(&paused(None));
    assert!(shown.contains(&format!("{since}`updatectl resume` ends it\n")), "{shown}");
    let shown = text(&paused(Some(at("13:00:00"))));
    assert!(shown.contains(&format!("{since}ends in 1 h (2026-11-21 13:00 UTC)\n")), "{shown}");
}

#[test]
fn an_armed_host_in_words() {
    let expected = format!(
        "1.1.0 starts from slot b at the next reboot, whoever asks for it.\n\n{HEAD}\
         \x20           b  1.1.0  boots next, armed with 3 tries left, proven\n{TARGET}{REST_OF_IDLE}\
         \x20 reboot    manual: by a person: `updatectl reboot` starts the new slot\n\
         \x20 attempts  3 committed, 1 rolled back, 0 failed\n"
    );
    assert_eq!(text(&armed()), expected);
}

#[test]
fn a_rollback_in_words_comes_with_a_hint() {
    let expected = format!(
        "1.1.0 did not come up and was rolled back; 1.0.0 runs from slot a and 1.1.0 is not tried again.\n\n{HEAD}\
         \x20           b  1.1.0  not bootable, proven\n{TARGET}{REST_OF_IDLE}\
         \x20 reboot    immediate: as soon as the gates are open\n\
         \x20 error     rolled-back, 5 min ago (2026-11-21 11:55 UTC): 10-web exited with 1: port 80 is closed\n\
         \x20           hint: `updatectl history` has the reason; `updatectl update VERSION` tries that version again\n\
         \x20 attempts  3 committed, 2 rolled back, 0 failed\n"
    );
    assert_eq!(text(&rolled_back()), expected);
}

#[test]
fn what_is_not_known_is_called_so_and_what_a_server_says_cannot_move_the_cursor() {
    let hold = Hold { reason: "paused\x1b[2J\r\nhere".into(), until: Some("next week".into()), since: Some(at("11:00:00")) };
    let document = Status {
        summary: "Not known.\x07".into(),
        host: Host { alias: String::new(), board: String::new(), ..idle().host },
        mode: Mode::Image,
        check: Check { hold: Some(hold), ..Check::default() },
        reboot: idle().reboot,
        troubles: vec![
            Trouble { code: "no-key".into(), message: "no key in /keys; put the publisher's *.pub there".into() },
            Trouble { code: "stale".into(), message: "the newest release seen is 61 days old".into() },
        ],
        health_warnings: vec!["20-disk exited with 1: 3 % left".into()],
        ..Status::default()
    };
    assert_eq!(
        text(&document),
        "Not known.\n\n\
         \x20 host      5d1c0f3e, app {e962}, channel stable, x86_64, a disk image\n\
         \x20 running   an unknown version in an unknown slot, not confirmed yet\n\
         \x20 check     not yet\n\
         \x20           held by the server: paused[2J here, for 1 h (since 2026-11-21 11:00 UTC), until next week\n\
         \x20 server    none; releases come by `updatectl install`\n\
         \x20 reboot    immediate: as soon as the gates are open\n\
         \x20 trouble   no-key: no key in /keys; put the publisher's *.pub there\n\
         \x20           stale: the newest release seen is 61 days old\n\
         \x20 warning   wanted health check: 20-disk exited with 1: 3 % left\n\
         \x20 attempts  0 committed, 0 rolled back, 0 failed\n"
    );
}

#[test]
fn a_slot_on_trial_counts_its_tries() {
    let trial = |tries_left| {
        let slot = Slot { booted: true, next: true, bootable: true, tries_left, proven: true, ..Slot::default() };
        text(&Status { slots: slot_b(slot), ..idle() })
    };
    assert!(trial(2).contains("b  1.1.0  runs, boots next, on trial with 2 tries left, proven\n"));
    assert!(trial(1).contains("b  1.1.0  runs, boots next, on trial with 1 try left, proven\n"));
    let slot = Slot { booted: true, proven: true, ..Slot::default() };
    let last = text(&Status { slots: slot_b(slot), trial: Some(Trial::default()), ..idle() });
    assert!(last.contains("b  1.1.0  runs, on trial with no try left, not bootable, proven\n"), "{last}");
}

#[test]
fn the_words_are_the_same_with_colour_and_without() {
    let colourful = Style { colour: true, ..Style::plain() };
    for document in [idle(), fetching(), waiting_for_the_lock(), armed(), rolled_back()] {
        let painted = status(&document, now(), &colourful);
        assert!(painted.contains("\x1b["));
        assert_eq!(without_colour(&painted), text(&document));
    }
}

fn without_colour(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').unwrap().1)
}

#[test]
fn the_sentences_colour_tells_how_it_stands() {
    let colourful = Style { colour: true, ..Style::plain() };
    let colour = |document: &Status| status(document, now(), &colourful).split('m').next().unwrap().to_owned();
    assert_eq!(colour(&idle()), "\x1b[32");
    assert_eq!(colour(&fetching()), "\x1b[1");
    assert_eq!(colour(&waiting_for_the_lock()), "\x1b[33");
    assert_eq!(colour(&rolled_back()), "\x1b[1;31");
}

#[test]
fn after_a_rollback_the_line_that_tells_most_of_its_kernels_log_is_shown() {
    let log = KernelLog { source: "pstore".into(), line: Some("Kernel panic - not syncing: no init found\u{1b}[2J".into()) };
    let page = text(&Status { kernel_log: Some(log), ..rolled_back() });
    let expected = "  kernel    Kernel panic - not syncing: no init found[2J (`updatectl history --kernel-log` has all of it)\n";
    assert!(page.contains(expected), "{page}");
    assert!(!text(&rolled_back()).contains("  kernel "));
}

#[test]
fn slots_are_a_table() {
    let mut document = armed().slots;
    document[1].read_back = Some(ReadBack::Cached);
    assert_eq!(
        slots(&document, &Style::plain()),
        "SLOT  VERSION  RUNS  NEXT  BOOTABLE  GOOD  TRIES LEFT  PROVEN\n\
         a     1.0.0    yes   yes   yes       yes   0           yes\n\
         b     1.1.0    no    yes   yes       no    3           yes (cached)\n"
    );
}

fn entry() -> HistoryEntry {
    HistoryEntry {
        attempt: "c0ffee".into(),
        from: Some("1.0.0".into()),
        to: "1.1.0".into(),
        sequence: 7,
        slot: "b".into(),
        started_at: at("11:00:00"),
        ended_at: Some(at("11:12:30")),
        outcome: Outcome::Committed,
        bytes_downloaded: 26_700_000,
        ..HistoryEntry::default()
    }
}

#[test]
fn history_is_a_table_with_reasons_and_what_was_special() {
    let entries = [
        HistoryEntry { outcome: Outcome::Running, ended_at: None, from: None, ..entry() },
        HistoryEntry {
            outcome: Outcome::RolledBack,
            code: "health".into(),
            reason: "10-web exited with 1".into(),
            notes: vec!["--allow-older by uid 0".into()],
            ..entry()
        },
        entry(),
    ];
    assert_eq!(
        history(&entries, now(), &Style::plain()),
        "STARTED               FROM   TO     SLOT  OUTCOME      TOOK    DOWNLOADED  REASON\n\
         2026-11-21 11:00 UTC  -      1.1.0  b     running      1 h     25.4 MiB\n\
         2026-11-21 11:00 UTC  1.0.0  1.1.0  b     rolled-back  12 min  25.4 MiB    health: 10-web exited with 1 (--allow-older by uid 0)\n\
         2026-11-21 11:00 UTC  1.0.0  1.1.0  b     committed    12 min  25.4 MiB\n"
    );
    assert_eq!(history(&[], now(), &Style::plain()), "No attempts yet.\n");
}

fn chain() -> Vec<WhyEntry> {
    let gate =
        |gate: &str, state, detail: &str| WhyEntry { gate: gate.into(), state, detail: detail.into(), ..WhyEntry::default() };
    vec![
        gate("pause", GateState::Passed, "nobody has paused this host"),
        gate("window", GateState::Skipped, "none configured"),
        WhyEntry { since: Some(at("11:50:00")), ..gate("hook", GateState::Refused, "10-backup: backup runs") },
        WhyEntry {
            since: Some(at("11:48:00")),
            until: Some("2026-11-21T12:01:00Z".into()),
            ..gate("lock", GateState::Waiting, "held by web-2")
        },
        gate("breaker", GateState::Pending, ""),
    ]
}

#[test]
fn why_is_the_chain_of_gates_with_symbols_that_the_terminal_has() {
    let expected = "1.1.0 waits.\n\n\
        +  pause    passed   nobody has paused this host\n\
        -  window   skipped  none configured\n\
        x  hook     refused  10-backup: backup runs, for 10 min (since 2026-11-21 11:50 UTC)\n\
        ~  lock     waiting  held by web-2, for 12 min (since 2026-11-21 11:48 UTC), until 2026-11-21 12:01 UTC (in 1 min)\n\
        .  breaker  pending\n";
    assert_eq!(why("1.1.0 waits.", &chain(), now(), &Style::plain()), expected);
    let unicode = Style { unicode: true, ..Style::plain() };
    let symbols = |text: String| text.lines().skip(2).filter_map(|line| line.chars().next()).collect::<String>();
    assert_eq!(symbols(why("1.1.0 waits.", &chain(), now(), &unicode)), "✓–✗…·");
    assert_eq!(why("Idle.", &[], now(), &Style::plain()), "Idle.\n\nNo gate stands between this host and a reboot now.\n");
}

#[test]
fn times_are_told_in_the_readers_zone() {
    let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let text = status(&idle(), now(), &Style { zone: berlin, ..Style::plain() });
    assert!(text.contains("next in 42 min (2026-11-21 13:42 CET)"), "{text}");
}
