//! How many bytes a second may come: a limit that holds over all transfers of a host, and may change while they run.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes may come early by as much as is allowed in this time: pauses of a network's own length would make the rate ragged.
const BURST: Duration = Duration::from_millis(200);

/// Longest pause before the limit is looked at again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A limit as people write it: `500 KiB/s`, `2 MiB/s`, `10 Mbit/s`; nothing, or `none`, is as fast as it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxRate(pub Option<NonZeroU64>);

/// Units of a rate, and the bits a second of one.
const UNITS: [(&str, u64); 10] = [
    ("GiB/s", 8 << 30),
    ("MiB/s", 8 << 20),
    ("KiB/s", 8 << 10),
    ("GB/s", 8_000_000_000),
    ("MB/s", 8_000_000),
    ("kB/s", 8_000),
    ("B/s", 8),
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1_000),
];

/// Least limit. Below it a transfer is taken for one that stands still.
const LEAST_BYTES_PER_S: u64 = 4096;

impl MaxRate {
    /// As a number, for programs.
    #[must_use]
    pub fn bytes_per_s(self) -> Option<u64> {
        self.0.map(NonZeroU64::get)
    }
}

impl FromStr for MaxRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || text == "none" {
            return Ok(Self(None));
        }
        let wrong = || format!("expected a rate such as \"500 KiB/s\", \"2 MiB/s\" or \"10 Mbit/s\", or \"none\", got {text:?}");
        let (number, bits) =
            UNITS.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?.trim_end(), *bits))).ok_or_else(wrong)?;
        let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
        if !digits(whole) || !digits(tenths) || tenths.len() > 1 {
            return Err(wrong());
        }
        let tenths = whole.parse::<u64>().ok().zip(tenths.parse::<u64>().ok());
        let tenths = tenths.and_then(|(whole, tenths)| whole.checked_mul(10)?.checked_add(tenths)).ok_or_else(wrong)?;
        let bytes =
            tenths.checked_mul(bits / 8).map_or_else(|| tenths.checked_mul(bits).map(|bits| bits / 80), |bytes| Some(bytes / 10));
        let bytes = bytes.ok_or_else(wrong)?;
        if bytes < LEAST_BYTES_PER_S {
            return Err(format!("expected at least {} KiB/s, got {text:?}: nothing would ever arrive", LEAST_BYTES_PER_S / 1024));
        }
        Ok(Self(NonZeroU64::new(bytes)))
    }
}

impl fmt::Display for MaxRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(bytes) = self.0.map(NonZeroU64::get) else { return f.write_str("none") };
        let exact = UNITS.iter().find(|(_, bits)| bits % 8 == 0 && bytes % (bits / 8) == 0);
        match exact {
            Some((unit, bits)) => write!(f, "{} {unit}", bytes / (bits / 8)),
            None => write!(f, "{bytes} B/s"),
        }
    }
}

/// A limit that all its clones share.
#[derive(Clone, Debug, Default)]
pub struct Rate(Arc<Mutex<Bucket>>);

#[derive(Debug, Default)]
struct Bucket {
    /// Bytes a second; none = as fast as it goes.
    limit: Option<NonZeroU64>,
    /// Bytes that came and are not yet allowed.
    owed: f64,
    /// When that was reckoned.
    at: Option<Instant>,
}

impl Rate {
    /// Sets the limit, also for transfers that are under way.
    pub fn set(&self, bytes_per_s: Option<NonZeroU64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).limit = bytes_per_s;
    }

    /// The limit.
    pub fn limit(&self) -> Option<NonZeroU64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).limit
    }

    /// These bytes have come.
    pub(super) fn took(&self, bytes: u64, now: Instant) {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.reckon(now);
        // A rate needs no more than 53 bits.
        #[allow(clippy::cast_precision_loss, reason = "bytes of one chunk")]
        let bytes = bytes as f64;
        bucket.owed += bytes;
    }

    /// How long nothing may come; ask again after that. None = go on.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.reckon(now);
        let per_s = bucket.per_s()?;
        let early = Duration::try_from_secs_f64(bucket.owed / per_s).unwrap_or(LONGEST_PAUSE);
        let pause = early.checked_sub(BURST).filter(|pause| !pause.is_zero())?;
        Some(pause.min(LONGEST_PAUSE))
    }
}

impl Bucket {
    #[allow(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
    fn per_s(&self) -> Option<f64> {
        self.limit.map(|limit| limit.get() as f64)
    }

    fn reckon(&mut self, now: Instant) {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        // Without a limit nothing is owed.
        self.owed = self.per_s().map_or(0.0, |per_s| (self.owed - per_s * passed.as_secs_f64()).max(0.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    /// Seconds that `bytes` take in chunks of 16 KiB.
    fn takes(rate: &Rate, bytes: u64, start: Instant) -> f64 {
        let mut now = start;
        for _ in 0..bytes / (16 * KIB) {
            rate.took(16 * KIB, now);
            while let Some(pause) = rate.pause(now) {
                assert!(pause <= LONGEST_PAUSE);
                now += pause;
            }
        }
        (now - start).as_secs_f64()
    }

    #[test]
    fn bytes_come_no_faster_than_they_may() {
        let (rate, start) = (Rate::default(), Instant::now());
        assert_eq!(takes(&rate, 1 << 30, start), 0.0, "without a limit");
        rate.set(NonZeroU64::new(1 << 20));
        let took = takes(&rate, 20 << 20, start);
        assert!((19.5..=20.0).contains(&took), "{took}");
        // Two that share a limit are no faster than one.
        let (first, second) = (rate.clone(), rate);
        let later = start + Duration::from_secs(60);
        let took = takes(&first, 5 << 20, later)
            + takes(&second, 5 << 20, later + Duration::from_secs_f64(takes(&first, 0, later) + 4.8));
        assert!((9.0..=10.2).contains(&took), "{took}");
    }

    #[test]
    fn a_limit_that_changes_holds_at_once() {
        let (rate, start) = (Rate::default(), Instant::now());
        rate.set(NonZeroU64::new(1));
        rate.took(1 << 20, start);
        assert_eq!(rate.pause(start), Some(LONGEST_PAUSE), "in steps, and not in twelve days");
        rate.set(NonZeroU64::new(1 << 30));
        assert_eq!(rate.pause(start), None);
        rate.set(None);
        assert_eq!((rate.pause(start), rate.limit()), (None, None));
    }

    #[test]
    fn a_limit_is_read_as_it_is_written() {
        for (text, bytes, written) in [
            ("", 0, "none"),
            ("none", 0, "none"),
            ("500 KiB/s", 512_000, "500 KiB/s"),
            ("2MiB/s", 2 << 20, "2 MiB/s"),
            ("1.5 MiB/s", 3 << 19, "1536 KiB/s"),
            ("10 Mbit/s", 1_250_000, "1250 kB/s"),
            ("4096 B/s", 4096, "4 KiB/s"),
            ("5001 B/s", 5001, "5001 B/s"),
        ] {
            let limit: MaxRate = text.parse().unwrap();
            assert_eq!((limit.0.map_or(0, NonZeroU64::get), limit.to_string().as_str()), (bytes, written));
            assert_eq!(written.parse(), Ok(limit));
        }
        for text in [
            "2",
            "fast",
            "-1 MiB/s",
            "1. MiB/s",
            ".5 MiB/s",
            "1.25 MiB/s",
            "0 MiB/s",
            "1 kbit/s",
            "MiB/s",
            "99999999999999999999 B/s",
        ] {
            assert!(text.parse::<MaxRate>().unwrap_err().starts_with("expected "), "{text}");
        }
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
        let (rate, start) = (Rate::default(), Instant::now());
        rate.set(NonZeroU64::new(1 << 20));
        rate.took(1, start);
        let later = start + Duration::from_secs(3600);
        let took = takes(&rate, 10 << 20, later);
        assert!((9.5..=10.0).contains(&took), "{took}");
    }
}
