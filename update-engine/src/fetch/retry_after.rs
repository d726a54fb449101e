//! When a server wants to be asked again.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{HeaderMap, HeaderName, RETRY_AFTER};

use super::limits::MAX_RETRY_AFTER;

/// Google's spelling, sent by Omaha servers and obeyed on errors too.
const X_RETRY_AFTER: HeaderName = HeaderName::from_static("x-retry-after");

/// The longest wait that `Retry-After` or `X-Retry-After` asks for, at most 24 h. Seconds or an HTTP date; a date in the past is
/// no wait, and what is neither is not obeyed.
#[must_use]
pub fn wait_asked_for(headers: &HeaderMap, wall: Timestamp) -> Option<Duration> {
    let values = headers.get_all(RETRY_AFTER).iter().chain(headers.get_all(X_RETRY_AFTER));
    values.filter_map(|value| parse(value.to_str().ok()?.trim(), wall)).max().map(|wait| wait.min(MAX_RETRY_AFTER))
}

fn parse(text: &str, wall: Timestamp) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a wait all the same: the cap takes care of it.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let then = DateTimeParser::new().parse_timestamp(text).ok()?;
    let seconds = then.as_second().saturating_sub(wall.as_second());
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(pairs: &[(&'static str, &str)]) -> Option<u64> {
        let headers = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
        let wall = "2026-03-01T12:00:00Z".parse().unwrap();
        wait_asked_for(&headers, wall).map(|wait| wait.as_secs())
    }

    #[test]
    fn seconds_and_http_dates_are_read_and_capped_at_a_day() {
        assert_eq!(wait(&[("retry-after", "120")]), Some(120));
        assert_eq!(wait(&[("retry-after", " 7 ")]), Some(7));
        assert_eq!(wait(&[("retry-after", "Sun, 01 Mar 2026 12:01:30 GMT")]), Some(90));
        assert_eq!(wait(&[("retry-after", "99999999")]), Some(86_400));
        assert_eq!(wait(&[("retry-after", "99999999999999999999999999")]), Some(86_400));
        assert_eq!(wait(&[("retry-after", "Sun, 01 Mar 2099 12:01:30 GMT")]), Some(86_400));
    }

    #[test]
    fn the_longer_of_both_spellings_holds() {
        assert_eq!(wait(&[("x-retry-after", "300")]), Some(300));
        assert_eq!(wait(&[("retry-after", "10"), ("x-retry-after", "300")]), Some(300));
        assert_eq!(wait(&[("retry-after", "soon"), ("x-retry-after", "5")]), Some(5));
    }

    #[test]
    fn a_past_date_is_no_wait_and_nonsense_is_not_obeyed() {
        assert_eq!(wait(&[("retry-after", "Sun, 01 Mar 2015 12:01:30 GMT")]), Some(0));
        for nonsense in ["", "soon", "-5", "1.5", "0x10", "Sun, 99 Mar 2026 12:01:30 GMT"] {
            assert_eq!(wait(&[("retry-after", nonsense)]), None, "{nonsense:?}");
        }
        assert_eq!(wait(&[]), None);
    }
}
