//! Two clocks, two types: what is shown to people and what durations are measured with never mix.

use std::time::Duration;

use jiff::Timestamp;

/// A reading of a monotonic clock: the time since the process started. It never jumps and means nothing elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mono(pub Duration);

/// The present, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// For people and history; nothing is decided by it.
    pub wall: Timestamp,
    /// For leases and waiting.
    pub mono: Mono,
}

impl Mono {
    /// The start of the process.
    pub const START: Self = Self(Duration::ZERO);

    /// The time since `earlier`, or zero.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// That much later.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}
