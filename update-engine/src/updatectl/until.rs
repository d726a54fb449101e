//! `--until T`: a moment as people write it.

use jiff::civil::{DateTime, Time};
use jiff::{Span, Timestamp, ToSpan, Zoned};

const EXPECTED: &str = "expected a length such as 2h or 90m, a time such as 06:00, \"2026-11-22 06:00\" or 2026-11-22T06:00:00Z";

/// The moment, which must lie ahead.
pub(super) fn parse(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let at = read(text.trim(), now).ok_or_else(|| format!("{EXPECTED}, got \"{}\"", text.escape_debug()))?;
    if at <= now.timestamp() {
        return Err(format!("expected a moment that lies ahead, got {at}"));
    }
    Ok(at)
}

fn read(text: &str, now: &Zoned) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    if let Ok(at) = text.parse::<DateTime>() {
        return at.to_zoned(now.time_zone().clone()).ok().map(|at| at.timestamp());
    }
    if let Ok(time) = text.parse::<Time>() {
        return next(time, now);
    }
    let span = text.parse::<Span>().ok()?;
    now.checked_add(span).ok().map(|at| at.timestamp())
}

/// Today, or tomorrow if it has gone by.
fn next(time: Time, now: &Zoned) -> Option<Timestamp> {
    let today = now.with().time(time).build().ok()?;
    let at = if today > *now { today } else { today.checked_add(1.day()).ok()? };
    Some(at.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        "2026-11-21T12:00:00+00:00[UTC]".parse().unwrap()
    }

    #[test]
    fn lengths_times_of_day_and_moments_are_understood() {
        let cases = [
            ("2h", "2026-11-21T14:00:00Z"),
            ("1h 30m", "2026-11-21T13:30:00Z"),
            ("3 days", "2026-11-24T12:00:00Z"),
            ("18:00", "2026-11-21T18:00:00Z"),
            ("06:00", "2026-11-22T06:00:00Z"),
            ("2026-11-22 06:00", "2026-11-22T06:00:00Z"),
            ("2026-11-22T06:00:00+02:00", "2026-11-22T04:00:00Z"),
            (" 2026-12-01 ", "2026-12-01T00:00:00Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text, &now()).map(|at| at.to_string()), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_or_has_gone_by_is_refused() {
        for text in ["", "soon", "2", "25:00", "2026-13-01"] {
            assert!(parse(text, &now()).unwrap_err().starts_with(EXPECTED), "{text}");
        }
        for text in ["2026-11-21T11:59:59Z", "-2h", "0s"] {
            assert!(parse(text, &now()).unwrap_err().starts_with("expected a moment that lies ahead"), "{text}");
        }
    }
}
