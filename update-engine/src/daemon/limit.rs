//! How fast payloads may come: what the configuration says at this hour, unless a person said otherwise.
//!
//! What a person says is not written down: a limit that was forgotten ends with the daemon, at the latest by the next reboot.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::config::FetchSettings;
use crate::engine::command::{Accepted, Rejected, Rejection};
use crate::fetch::{MaxRate, Rate};
use crate::status::json::{Limit, LimitBy};

/// How often it is looked whether another limit holds by now.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Cheap to clone; all clones share.
#[derive(Clone)]
pub(super) struct Limits {
    configured: Arc<FetchSettings>,
    rate: Rate,
    by_person: Arc<Mutex<Option<ByPerson>>>,
}

#[derive(Clone, Copy)]
struct ByPerson {
    max_rate: MaxRate,
    until: Option<Timestamp>,
}

impl Limits {
    pub(super) fn new(configured: FetchSettings, rate: Rate) -> Self {
        Self { configured: Arc::new(configured), rate, by_person: Arc::default() }
    }

    /// What a person says: a rate, or nothing for what the configuration says. It holds at once, also for what is under way.
    pub(super) fn command(&self, max_rate: Option<&str>, until: Option<Timestamp>, now: Timestamp) -> Result<Accepted, Rejected> {
        let by_person = match max_rate {
            None if until.is_some() => {
                return Err(Rejected::new(Rejection::BadRequest, "limit: a time needs a rate that holds until then"));
            }
            None => None,
            Some(_) if until.is_some_and(|until| until <= now) => {
                return Err(Rejected::new(Rejection::Past, "the limit would end before it begins"));
            }
            Some(text) => {
                let max_rate =
                    text.parse().map_err(|words: String| Rejected::new(Rejection::BadRequest, format!("limit: {words}")))?;
                Some(ByPerson { max_rate, until })
            }
        };
        *self.by_person.lock().unwrap_or_else(PoisonError::into_inner) = by_person;
        self.apply(now);
        Ok(Accepted { attempt: None, message: self.at(now).to_words() })
    }

    /// The limit of this moment.
    pub(super) fn at(&self, now: Timestamp) -> Limit {
        let by_person = *self.by_person.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ByPerson { max_rate, until }) = by_person.filter(|said| said.until.is_none_or(|until| now < until)) {
            return Limit { max_rate_bytes_per_s: max_rate.bytes_per_s(), by: LimitBy::Command, until };
        }
        let (max_rate, is_by_hours) = self.configured.max_rate_at(now);
        let by = if is_by_hours { LimitBy::Hours } else { LimitBy::Configuration };
        Limit { max_rate_bytes_per_s: max_rate.bytes_per_s(), by, until: None }
    }

    /// Sets the limit of this moment, and sets it anew as hours change and times end.
    pub(super) async fn keep(&self) -> Infallible {
        loop {
            self.apply(Timestamp::now());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn apply(&self, now: Timestamp) {
        self.rate.set(self.at(now).max_rate_bytes_per_s.and_then(std::num::NonZeroU64::new));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(fetch: &str) -> Limits {
        let host = "[server]\napp_id = \"{demo}\"\n[disk]\ndevice = \"/dev/vda\"\n\
                    [slots.a]\nroot = \"partlabel:a\"\n[slots.b]\nroot = \"partlabel:b\"\n";
        let settings = crate::config::parse(&[crate::config::Source::new("config.toml", format!("{host}{fetch}"))]).unwrap();
        Limits::new(settings.fetch, Rate::default())
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const HOURS: &str = "[fetch]\nmax_rate = \"2 MiB/s\"\nhours = [{ start = \"08:00\", length = \"10h\", zone = \"UTC\", max_rate = \"200 KiB/s\" }]\n";

    #[test]
    fn a_person_is_obeyed_before_the_hours_and_the_hours_before_the_rest() {
        let limits = limits(HOURS);
        let (night, day) = (at("2026-11-23T03:00:00Z"), at("2026-11-23T09:00:00Z"));
        assert_eq!(limits.at(night).to_words(), "At most 2 MiB/s are downloaded, as the configuration says.");
        assert_eq!(limits.at(day).to_words(), "At most 200 KiB/s are downloaded, as the configuration says for these hours.");
        let said = limits.command(Some("10 Mbit/s"), Some(at("2026-11-23T12:00:00Z")), day).unwrap();
        assert_eq!(said.message, "At most 1250 kB/s are downloaded, by `updatectl limit` until 2026-11-23T12:00:00Z.");
        assert_eq!(limits.rate.limit().unwrap().get(), 1_250_000, "it holds at once");
        assert_eq!(limits.at(at("2026-11-23T12:00:00Z")).by, LimitBy::Hours, "its time is over");
        assert_eq!(
            limits.command(Some("none"), None, day).unwrap().message,
            "Downloads are as fast as they go, by `updatectl limit` until the daemon starts anew."
        );
        assert_eq!(limits.rate.limit(), None);
        assert_eq!(limits.command(None, None, day).unwrap().message, limits.at(day).to_words());
        assert_eq!(limits.rate.limit().unwrap().get(), 200 << 10);
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_changes_nothing() {
        let limits = limits("");
        let now = at("2026-11-23T09:00:00Z");
        for (max_rate, until, code, words) in [
            (Some("fast"), None, Rejection::BadRequest, "limit: expected a rate such as \"500 KiB/s\""),
            (Some("1 B/s"), None, Rejection::BadRequest, "limit: expected at least 4 KiB/s"),
            (Some("1 MiB/s"), Some(now), Rejection::Past, "the limit would end before it begins"),
            (None, Some(at("2027-01-01T00:00:00Z")), Rejection::BadRequest, "limit: a time needs a rate"),
        ] {
            let refused = limits.command(max_rate, until, now).unwrap_err();
            assert_eq!(refused.code, code);
            assert!(refused.message.starts_with(words), "{}", refused.message);
        }
        assert_eq!(limits.at(now), Limit::default());
        assert_eq!(limits.at(now).to_words(), "Downloads are as fast as they go, as the configuration says.");
    }
}
