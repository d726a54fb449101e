//! Hours of the week, in a time zone: when something else holds than usual.

use std::fmt;
use std::time::Duration;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};

/// Longest stretch: a week.
const MAX_LENGTH: Duration = Duration::from_secs(7 * 86_400);

const DAYS: [(Weekday, &str); 7] = [
    (Weekday::Monday, "Mon"),
    (Weekday::Tuesday, "Tue"),
    (Weekday::Wednesday, "Wed"),
    (Weekday::Thursday, "Thu"),
    (Weekday::Friday, "Fri"),
    (Weekday::Saturday, "Sat"),
    (Weekday::Sunday, "Sun"),
];

/// A stretch of time that begins on some days of the week, at a time of day in a zone, and is always as long: where clocks are put forward or
/// back meanwhile, its end moves with them on the wall, and not in time. A time of day that a clock skips is the moment after the skip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    /// By [`DAYS`].
    days: [bool; 7],
    start: Time,
    length: Duration,
    zone: TimeZone,
    zone_name: String,
}

/// Hours as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoursText<'a> {
    /// `Mon` to `Sun`; none = every day.
    pub days: &'a [String],
    /// `02:00`.
    pub start: &'a str,
    /// `3h`, `90m`, `1h 30m`.
    pub length: &'a str,
    /// `Europe/Berlin`; nothing = UTC.
    pub zone: &'a str,
}

/// What is wrong with hours: which of their keys, and words.
pub type Wrong = (&'static str, String);

impl Hours {
    /// Reads them.
    pub fn parse(text: &HoursText<'_>) -> Result<Self, Wrong> {
        let mut days = [text.days.is_empty(); 7];
        for day in text.days {
            let known = DAYS.iter().position(|(_, name)| name.eq_ignore_ascii_case(day));
            let at = known.ok_or_else(|| ("days", format!("expected Mon, Tue, Wed, Thu, Fri, Sat or Sun, got {day:?}")))?;
            if let Some(is_one) = days.get_mut(at) {
                *is_one = true;
            }
        }
        let start = time_of_day(text.start)
            .ok_or_else(|| ("start", format!("expected a time of day such as \"02:00\", got {:?}", text.start)))?;
        let length = text.length.parse::<SignedDuration>().ok().and_then(|length| Duration::try_from(length).ok());
        let length = length.filter(|length| !length.is_zero() && *length <= MAX_LENGTH).ok_or_else(|| {
            ("length", format!("expected a time such as \"3h\" or \"1h 30m\", at most a week, got {:?}", text.length))
        })?;
        let zone_name = if text.zone.is_empty() { "UTC" } else { text.zone };
        let zone = TimeZone::get(zone_name)
            .map_err(|_unknown| ("zone", format!("expected a time zone such as \"Europe/Berlin\", got {zone_name:?}")))?;
        Ok(Self { days, start, length, zone, zone_name: zone_name.to_owned() })
    }

    /// Whether `now` is in them.
    pub fn contain(&self, now: Timestamp) -> bool {
        let today = now.to_zoned(self.zone.clone()).date();
        let days_back = 1 + i64::try_from(self.length.as_secs().div_ceil(86_400)).unwrap_or(7);
        (0..=days_back).any(|back| {
            let begins = today.checked_sub(back.days()).ok().filter(|day| self.is_one(day.weekday()));
            let begins = begins.and_then(|day| self.zone.to_ambiguous_timestamp(day.to_datetime(self.start)).compatible().ok());
            begins.is_some_and(|begins| begins <= now && now.duration_since(begins).unsigned_abs() < self.length)
        })
    }

    fn is_one(&self, day: Weekday) -> bool {
        DAYS.iter().zip(self.days).any(|((weekday, _), is_one)| *weekday == day && is_one)
    }

    /// The days as they are written; none = every day.
    pub fn days(&self) -> Vec<String> {
        let some = self.days != [true; 7];
        let named = DAYS.iter().zip(self.days).filter(|(_, is_one)| some && *is_one);
        named.map(|((_, name), _)| (*name).to_owned()).collect()
    }

    /// When they begin, as it is written.
    pub fn start(&self) -> String {
        format!("{:02}:{:02}", self.start.hour(), self.start.minute())
    }

    /// How long they are, as it is written.
    pub fn length(&self) -> String {
        let seconds = self.length.as_secs();
        let parts = [(seconds / 3600, "h"), (seconds % 3600 / 60, "m"), (seconds % 60, "s")];
        let parts: Vec<String> =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
        parts.join(" ")
    }

    /// The zone, as it is written.
    pub fn zone(&self) -> &str {
        &self.zone_name
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.days();
        let days = if days.is_empty() { "every day".to_owned() } else { days.join(", ") };
        write!(f, "{days} from {} for {} ({})", self.start(), self.length(), self.zone_name)
    }
}

/// `HH:MM`, 24 hours.
fn time_of_day(text: &str) -> Option<Time> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str| {
        let are_digits = (1..=2).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
        are_digits.then(|| digits.parse::<i8>().ok()).flatten()
    };
    Time::new(number(hours)?, number(minutes).filter(|_| minutes.len() == 2)?, 0, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(days: &[&str], start: &str, length: &str, zone: &str) -> Result<Hours, Wrong> {
        let days: Vec<String> = days.iter().map(|day| (*day).to_owned()).collect();
        Hours::parse(&HoursText { days: &days, start, length, zone })
    }

    fn is_in(hours: &Hours, at: &str) -> bool {
        hours.contain(at.parse().unwrap())
    }

    #[test]
    fn hours_begin_on_their_days_and_last_into_the_next_ones() {
        // 2026-11-23 is a Monday.
        let nightly = hours(&["mon", "Wed"], "22:00", "3h", "").unwrap();
        for (at, expected) in [
            ("2026-11-23T21:59:59Z", false),
            ("2026-11-23T22:00:00Z", true),
            ("2026-11-24T00:59:59Z", true),
            ("2026-11-24T01:00:00Z", false),
            ("2026-11-24T22:30:00Z", false),
            ("2026-11-25T23:00:00Z", true),
            ("2026-11-26T00:30:00Z", true),
        ] {
            assert_eq!(is_in(&nightly, at), expected, "{at}");
        }
        let long = hours(&["Fri"], "18:00", "2d 15h", "UTC");
        assert!(long.is_err(), "days are not always 24 hours: {long:?}");
        let weekend = hours(&["Fri"], "18:00", "63h", "UTC").unwrap();
        assert!(is_in(&weekend, "2026-11-23T08:59:00Z") && !is_in(&weekend, "2026-11-23T09:00:00Z"));
        let always = hours(&[], "00:00", "24h", "UTC").unwrap();
        assert!((0..200).all(|hour| always.contain(Timestamp::from_second(1_790_000_000 + hour * 3_600).unwrap())));
    }

    #[test]
    fn a_zone_and_its_summer_time_count() {
        let berlin = hours(&[], "02:30", "1h", "Europe/Berlin").unwrap();
        assert!(is_in(&berlin, "2026-01-10T01:30:00Z") && !is_in(&berlin, "2026-01-10T02:30:00Z"), "winter: UTC+1");
        assert!(is_in(&berlin, "2026-07-10T00:30:00Z") && !is_in(&berlin, "2026-07-10T01:30:00Z"), "summer: UTC+2");
        // On 2026-03-29 the clock goes from 02:00 to 03:00: 02:30 is 03:30.
        assert!(is_in(&berlin, "2026-03-29T01:30:00Z") && !is_in(&berlin, "2026-03-29T02:30:00Z"));
        // On 2026-10-25 it goes from 03:00 back to 02:00: the first of the two, and for one hour.
        assert!(is_in(&berlin, "2026-10-25T00:30:00Z") && !is_in(&berlin, "2026-10-25T01:30:00Z"));
    }

    #[test]
    fn hours_are_written_as_they_are_read() {
        let read = hours(&["sun", "Mon"], "2:05", "1h 30m", "Europe/Berlin").unwrap();
        assert_eq!(read.to_string(), "Mon, Sun from 02:05 for 1h 30m (Europe/Berlin)");
        let again = HoursText { days: &read.days(), start: &read.start(), length: &read.length(), zone: read.zone() };
        assert_eq!(Hours::parse(&again), Ok(read));
        assert_eq!(hours(&[], "0:00", "90m", "").unwrap().to_string(), "every day from 00:00 for 1h 30m (UTC)");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (wrong, key) in [
            (hours(&["Monday"], "02:00", "3h", ""), "days"),
            (hours(&[], "24:00", "3h", ""), "start"),
            (hours(&[], "2", "3h", ""), "start"),
            (hours(&[], "02:0", "3h", ""), "start"),
            (hours(&[], "+2:00", "3h", ""), "start"),
            (hours(&[], "02:00", "0h", ""), "length"),
            (hours(&[], "02:00", "-1h", ""), "length"),
            (hours(&[], "02:00", "169h", ""), "length"),
            (hours(&[], "02:00", "long", ""), "length"),
            (hours(&[], "02:00", "3h", "Mars/Olympus"), "zone"),
        ] {
            assert_eq!(wrong.unwrap_err().0, key);
        }
    }
}
