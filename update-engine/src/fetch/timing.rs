//! Time and chance as a transfer sees them, given from outside so that tests wait for nothing.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A pause under way.
pub type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where waiting, the wall clock and jitter come from.
pub trait Timing: Send + Sync {
    /// A clock that never jumps.
    fn now(&self) -> Instant;
    /// The wall clock; used only to read a `Retry-After` that is a date.
    fn wall(&self) -> Timestamp;
    /// Ends after `duration`.
    fn pause(&self, duration: Duration) -> Pause;
    /// A fresh number from 0 up to, but not including, 1.
    fn dice(&self) -> f64;
}

/// The machine's own clocks and random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemTiming;

impl Timing for SystemTiming {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn pause(&self, duration: Duration) -> Pause {
        Box::pin(tokio::time::sleep(duration))
    }

    fn dice(&self) -> f64 {
        // Without random numbers (an early boot), every host waits the mean: jitter is a courtesy, not a promise.
        getrandom::u32().map_or(0.5, |bits| f64::from(bits) / (f64::from(u32::MAX) + 1.0))
    }
}

/// Pauses that double from one to the next, each anywhere between half and one and a half of its nominal length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    step: u32,
}

impl Backoff {
    pub(super) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, step: 0 }
    }

    pub(super) fn next(&mut self, dice: f64) -> Duration {
        let nominal = self.first.saturating_mul(2_u32.saturating_pow(self.step)).min(self.longest);
        self.step = self.step.saturating_add(1);
        nominal.mul_f64(0.5 + dice.clamp(0.0, 1.0))
    }

    pub(super) const fn reset(&mut self) {
        self.step = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let pauses: Vec<_> = (0..7).map(|_| backoff.next(0.5).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        for _ in 0..100 {
            assert_eq!(backoff.next(0.5).as_secs(), 30);
        }
        backoff.reset();
        assert_eq!(backoff.next(0.0), Duration::from_millis(500));
        assert_eq!(backoff.next(0.999), Duration::from_millis(2998));
    }

    #[test]
    fn dice_of_the_system_stay_below_one() {
        assert!((0..1000).map(|_| SystemTiming.dice()).all(|number| (0.0..1.0).contains(&number)));
    }
}
