//! The bits of a partition entry that a boot loader reads: one type per field.

/// Highest value of a four-bit field.
const FIELD_MAX: u8 = 15;
const PRIORITY_SHIFT: u32 = 48;
const TRIES_SHIFT: u32 = 52;
const SUCCESSFUL: u64 = 1 << 56;
const FIELD_MASK: u64 = 0xF;

/// How eager the loader is to boot a slot: the highest wins, 0 is last. At most 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    /// Never chosen before another slot.
    pub const ZERO: Self = Self(0);
    /// The lowest priority of a slot that should be found.
    pub const LOWEST: Self = Self(1);
    /// The lowest priority of an armed slot, so that the fallback can stay at 1.
    pub const LOWEST_ARMED: Self = Self(2);
    /// The highest there is.
    pub const MAX: Self = Self(FIELD_MAX);

    /// `None` above 15.
    #[must_use]
    pub fn new(value: u8) -> Option<Self> {
        (value <= FIELD_MAX).then_some(Self(value))
    }

    /// The number, 0 to 15.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

/// How often the loader may still try a slot that is not successful. At most 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tries(u8);

impl Tries {
    /// No try left.
    pub const ZERO: Self = Self(0);
    /// What an armed slot gets: two innocent power cuts during the trial do not roll back (design 11.18).
    pub const ARMED: Self = Self(3);

    /// `None` above 15.
    #[must_use]
    pub fn new(value: u8) -> Option<Self> {
        (value <= FIELD_MAX).then_some(Self(value))
    }

    /// The number, 0 to 15.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

/// The attributes of an entry. Setting a field keeps every other bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    /// From the 64 bits as they stand in the entry.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The 64 bits as they stand in the entry.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The priority.
    #[must_use]
    pub fn priority(self) -> Priority {
        Priority(self.nibble(PRIORITY_SHIFT))
    }

    /// The tries left.
    #[must_use]
    pub fn tries(self) -> Tries {
        Tries(self.nibble(TRIES_SHIFT))
    }

    /// Whether the slot was booted and found good.
    #[must_use]
    pub fn successful(self) -> bool {
        self.0 & SUCCESSFUL != 0
    }

    /// The same with another priority.
    #[must_use]
    pub fn with_priority(self, priority: Priority) -> Self {
        self.with_nibble(PRIORITY_SHIFT, priority.0)
    }

    /// The same with another number of tries.
    #[must_use]
    pub fn with_tries(self, tries: Tries) -> Self {
        self.with_nibble(TRIES_SHIFT, tries.0)
    }

    /// The same, marked successful.
    #[must_use]
    pub fn with_success(self) -> Self {
        Self(self.0 | SUCCESSFUL)
    }

    /// The same, not marked successful.
    #[must_use]
    pub fn without_success(self) -> Self {
        Self(self.0 & !SUCCESSFUL)
    }

    /// Whether priority, tries and successful are all zero: a factory disk, or a slot that was disarmed.
    #[must_use]
    pub fn is_blank(self) -> bool {
        self.priority() == Priority::ZERO && self.tries() == Tries::ZERO && !self.successful()
    }

    fn nibble(self, shift: u32) -> u8 {
        // Four bits always fit; the alternative of the conversion is never taken.
        u8::try_from(self.0 >> shift & FIELD_MASK).unwrap_or(FIELD_MAX)
    }

    fn with_nibble(self, shift: u32, value: u8) -> Self {
        Self(self.0 & !(FIELD_MASK << shift) | u64::from(value) << shift)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_lie_where_the_loaders_read_them() {
        let armed = Attributes::from_bits(0).with_priority(Priority::MAX).with_tries(Tries::ARMED);
        assert_eq!(armed.to_bits(), 0x003F_0000_0000_0000);
        assert_eq!(armed.with_success().to_bits(), 0x013F_0000_0000_0000);
        assert_eq!(Priority::new(16), None);
        assert_eq!(Tries::new(16), None);
    }

    proptest! {
        #[test]
        fn setting_one_field_keeps_every_other_bit(bits: u64, priority in 0u8..16, tries in 0u8..16) {
            let before = Attributes::from_bits(bits);
            let after = before
                .with_priority(Priority::new(priority).unwrap())
                .with_tries(Tries::new(tries).unwrap());
            prop_assert_eq!(after.priority().get(), priority);
            prop_assert_eq!(after.tries().get(), tries);
            prop_assert_eq!(after.successful(), before.successful());
            let ours = 0x00FF_u64 << 48;
            prop_assert_eq!(after.to_bits() & !ours, bits & !ours);
            prop_assert_eq!(before.with_success().without_success().to_bits(), bits & !(1 << 56));
        }
    }
}
