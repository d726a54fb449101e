//! Numbers and times the way people say them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub(super) use crate::engine::amount::bytes;
use crate::status::json::{Phase, Progress};

/// One line without control characters: what a server or a hook said must not move the cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c == '\n' || c == '\t' { ' ' } else { c }).filter(|c| !c.is_control()).collect()
}

/// A length of time, its two largest units at most: `58 s`, `12 min`, `2 h 5 min`, `3 days`.
pub(super) fn seconds(count: u64) -> String {
    let (minutes, hours, days) = (count / 60, count / 3600, count / 86_400);
    match () {
        () if count < 60 => format!("{count} s"),
        () if minutes < 60 => format!("{minutes} min"),
        () if hours < 10 && minutes % 60 != 0 => format!("{hours} h {} min", minutes % 60),
        () if hours < 48 => format!("{hours} h"),
        () => format!("{days} days"),
    }
}

/// How far from now: `in 12 min`, `3 min ago`, `now`.
pub(super) fn relative(at: Timestamp, now: Timestamp) -> String {
    let distance = at.as_second().abs_diff(now.as_second());
    match () {
        () if distance == 0 => "now".to_owned(),
        () if at > now => format!("in {}", seconds(distance)),
        () => format!("{} ago", seconds(distance)),
    }
}

/// `2026-11-21 12:00 UTC`.
pub(super) fn absolute(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M %Z").to_string()
}

/// Both: `in 12 min (2026-11-21 12:00 UTC)`.
pub(super) fn when(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    format!("{} ({})", relative(at, now), absolute(at, zone))
}

/// How long something has lasted: `for 12 min (since 2026-11-21 11:48 UTC)`.
pub(super) fn since(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let lasted = u64::try_from(now.as_second().saturating_sub(at.as_second())).unwrap_or(0);
    format!("for {} (since {})", seconds(lasted), absolute(at, zone))
}

/// As [`since`], of a time that somebody else wrote; as it is where it is none.
pub(super) fn since_text(text: &str, now: Timestamp, zone: &TimeZone) -> String {
    text.parse().map_or_else(|_| format!("since {}", printable(text)), |at| since(at, now, zone))
}

/// When something ends: `until 2026-11-22 06:00 UTC (in 18 h)`; as it was written where that is no time.
pub(super) fn until_text(text: &str, now: Timestamp, zone: &TimeZone) -> String {
    text.parse().map_or_else(
        |_| format!("until {}", printable(text)),
        |at| format!("until {} ({})", absolute(at, zone), relative(at, now)),
    )
}

/// `fetching: 120 of 800 windows (15 %), 31.5 MiB of 210 MiB, 3.1 MiB/s, 58 s left`.
pub(super) fn progress(progress: &Progress) -> String {
    format!(
        "{}: {} of {} windows ({} %), {}",
        progress.phase.as_str(),
        progress.windows_done,
        progress.windows_total,
        percent(progress),
        amounts(progress)
    )
}

/// Part of [`progress`] beside a bar: bytes, rate and time left.
pub(super) fn amounts(progress: &Progress) -> String {
    let mut words = format!("{} of {}", bytes(bytes_done(progress)), bytes(progress.bytes_total));
    if progress.bytes_reused > 0 {
        words.push_str(&format!(", {} of it were there already", bytes(progress.bytes_reused)));
    }
    if progress.rate_bytes_per_s > 0 {
        words.push_str(&format!(", {}/s", bytes(progress.rate_bytes_per_s)));
    }
    if let Some(eta_s) = progress.eta_s {
        words.push_str(&format!(", {} left", seconds(eta_s)));
    }
    if let Some(trouble) = &progress.trouble {
        words.push_str(&format!("; nothing comes, trying again: {}", printable(trouble)));
    }
    words
}

/// Bytes that are right in the slot; where nothing is written, bytes looked at.
fn bytes_done(progress: &Progress) -> u64 {
    match (progress.phase, progress.windows_total) {
        (Phase::Fetching, _) | (_, 0) => progress.bytes_written.saturating_add(progress.bytes_reused).min(progress.bytes_total),
        (_, total) => {
            let looked_at = u128::from(progress.bytes_total) * u128::from(progress.windows_done) / u128::from(total);
            u64::try_from(looked_at).unwrap_or(progress.bytes_total)
        }
    }
}

/// Whole per cent of the windows; 100 only when all are done.
pub(super) fn percent(progress: &Progress) -> u64 {
    match progress.windows_total {
        0 => 0,
        total => u64::try_from(u128::from(progress.windows_done) * 100 / u128::from(total)).unwrap_or(100).min(100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_at_most_two_units() {
        let cases = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (7500, "2 h 5 min"),
            (36_060, "10 h"),
            (172_799, "47 h"),
            (172_800, "2 days"),
        ];
        for (count, expected) in cases {
            assert_eq!(seconds(count), expected);
        }
    }

    #[test]
    fn moments_are_told_from_now_and_by_the_clock() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let later: Timestamp = "2026-11-21T12:42:30Z".parse().unwrap();
        assert_eq!(when(later, now, &TimeZone::UTC), "in 42 min (2026-11-21 12:42 UTC)");
        assert_eq!(when(now, later, &TimeZone::UTC), "42 min ago (2026-11-21 12:00 UTC)");
        assert_eq!(relative(now, now), "now");
        assert_eq!(since(now, later, &TimeZone::UTC), "for 42 min (since 2026-11-21 12:00 UTC)");
        assert_eq!(since(later, now, &TimeZone::UTC), "for 0 s (since 2026-11-21 12:42 UTC)");
        assert_eq!(since_text("2026-11-21T12:00:00Z", later, &TimeZone::UTC), "for 42 min (since 2026-11-21 12:00 UTC)");
        assert_eq!(since_text("last week", later, &TimeZone::UTC), "since last week");
        assert_eq!(until_text("2026-11-21T12:42:30Z", now, &TimeZone::UTC), "until 2026-11-21 12:42 UTC (in 42 min)");
        assert_eq!(until_text("after the\nholidays", now, &TimeZone::UTC), "until after the holidays");
    }

    #[test]
    fn progress_reads_as_a_sentence() {
        let state = Progress {
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
        };
        assert_eq!(
            progress(&state),
            "fetching: 120 of 800 windows (15 %), 33.8 MiB of 200 MiB, 3.8 MiB of it were there already, 2.9 MiB/s, 58 s left"
        );
        let proving = Progress {
            phase: Phase::Proving,
            bytes_written: 0,
            bytes_reused: 0,
            rate_bytes_per_s: 0,
            eta_s: None,
            ..state.clone()
        };
        assert_eq!(progress(&proving), "proving: 120 of 800 windows (15 %), 30.0 MiB of 200 MiB");
        let silent = Progress { trouble: Some("http://h/1.payload: status 503".into()), eta_s: None, ..state };
        assert!(progress(&silent).ends_with(", 2.9 MiB/s; nothing comes, trying again: http://h/1.payload: status 503"));
        assert_eq!(progress(&Progress::default()), "fetching: 0 of 0 windows (0 %), 0 B of 0 B");
    }
}
