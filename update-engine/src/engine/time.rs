//! Two clocks that must never be mixed up, and the dice: all given from outside.

use serde::{Deserialize, Serialize};

/// A moment that is nearer is told by the clock alone.
const DAY_S: u64 = 20 * 3600;

/// Wall clock, milliseconds since 1970 UTC. For display, schedules and `created`; it may be wrong by years and may jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wall(pub i64);

impl Wall {
    /// As a timestamp; a clock outside the calendar shows as 1970.
    pub fn timestamp(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

/// Time since boot in milliseconds, suspend included. It never jumps, and means nothing after the next boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(pub u64);

impl Mono {
    /// This much later.
    #[must_use]
    pub const fn after(self, delay_ms: u64) -> Self {
        Self(self.0.saturating_add(delay_ms))
    }

    /// Milliseconds from now to then, 0 when it has passed.
    pub const fn until(self, then: Self) -> u64 {
        then.0.saturating_sub(self.0)
    }
}

/// The kernel's id of one boot, or that it could not be read. Where it is stored the unknown one is an empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(String);

impl BootId {
    /// As it was read; an empty text is the unknown one.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// It was read.
    pub const fn is_known(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether both are of one boot; `None` = one of them is not known, and then nobody can tell.
    pub fn is_same(&self, other: &Self) -> Option<bool> {
        (self.is_known() && other.is_known()).then(|| self == other)
    }

    /// As it was read, for display and for servers; empty when it is not known.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for BootId {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// The moment of a step: both clocks and fresh random bits.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Wall clock.
    pub wall: Wall,
    /// Time since boot.
    pub mono: Mono,
    /// 128 random bits that no other step got: jitter and attempt ids are made of them.
    pub dice: u128,
}

impl Now {
    /// A fresh attempt id (a version 4 UUID).
    pub fn attempt_id(&self) -> String {
        uuid::Builder::from_random_bytes(self.dice.to_le_bytes()).into_uuid().to_string()
    }

    /// A number from 0 to `span_ms`, the same for the same dice.
    pub fn jitter_ms(&self, span_ms: u64) -> u64 {
        // Multiply the low 64 bits into the span: no bias worth naming, no remainder by zero.
        let low = self.dice & u128::from(u64::MAX);
        u64::try_from((low * (u128::from(span_ms) + 1)) >> 64).unwrap_or(span_ms)
    }

    /// "14:02 UTC", with the date where that is not obvious.
    pub fn moment(&self, at: jiff::Timestamp) -> String {
        let is_near = at.as_second().abs_diff(self.wall.timestamp().as_second()) < DAY_S;
        at.strftime(if is_near { "%H:%M UTC" } else { "%Y-%m-%d %H:%M UTC" }).to_string()
    }

    /// This far in the future on the wall clock, for display.
    pub fn wall_after(&self, delay_ms: u64) -> Wall {
        Wall(self.wall.0.saturating_add(i64::try_from(delay_ms).unwrap_or(i64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_in_its_span() {
        let at = |dice| Now { wall: Wall(0), mono: Mono(0), dice };
        assert_eq!(at(0).jitter_ms(100), 0);
        assert_eq!(at(u128::MAX).jitter_ms(100), 100);
        assert_eq!(at(u128::MAX).jitter_ms(0), 0);
        assert_eq!(at(1 << 63).jitter_ms(99), 50);
    }

    #[test]
    fn an_unknown_boot_is_neither_the_same_nor_another_one() {
        let (one, other, unknown) = (BootId::new("5d1c"), BootId::new("77aa"), BootId::default());
        assert_eq!((one.is_same(&one), one.is_same(&other)), (Some(true), Some(false)));
        assert_eq!((one.is_same(&unknown), unknown.is_same(&one), unknown.is_same(&unknown)), (None, None, None));
        assert_eq!(serde_json::to_string(&(one, unknown)).unwrap(), r#"["5d1c",""]"#);
    }

    #[test]
    fn an_attempt_id_is_a_version_4_uuid() {
        let id = Now { wall: Wall(0), mono: Mono(0), dice: 7 }.attempt_id();
        assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 4);
    }
}
