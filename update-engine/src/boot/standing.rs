//! How a slot stands with its boot loader, in the same words for all of them.

use std::fmt;

/// How a slot stands with the boot loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Standing {
    /// Nothing is marked: a factory disk, or a slot that was disarmed.
    #[default]
    Blank,
    /// Marked good: its boots are not counted.
    Good,
    /// Armed and not yet good: its boots are counted.
    Pending {
        /// Boots the loader will still give it; at least 1.
        tries_left: u8,
    },
    /// It was armed, and the loader has given it all its tries: the last one is running now, or it was given up.
    Spent,
    /// It ran, was judged unhealthy, and was marked bad.
    Bad,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("not marked"),
            Self::Good => f.write_str("good"),
            Self::Pending { tries_left } => write!(f, "armed with {tries_left} tries left"),
            Self::Spent => f.write_str("out of tries"),
            Self::Bad => f.write_str("bad"),
        }
    }
}

impl Standing {
    /// Whether the loader may choose it.
    #[must_use]
    pub const fn is_bootable(self) -> bool {
        matches!(self, Self::Good | Self::Pending { .. })
    }

    /// Whether it is marked good.
    #[must_use]
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Good)
    }

    /// Whether nothing is marked.
    #[must_use]
    pub const fn is_blank(self) -> bool {
        matches!(self, Self::Blank)
    }

    /// Whether it is armed, with tries left.
    #[must_use]
    pub const fn is_pending(self) -> bool {
        matches!(self, Self::Pending { .. })
    }

    /// Whether it was armed, has no try left, and was not disarmed since: its tries were spent, or it was marked bad.
    #[must_use]
    pub const fn is_out_of_tries(self) -> bool {
        matches!(self, Self::Spent | Self::Bad)
    }

    /// Whether it was armed and may be running for that: armed, or on its last try.
    #[must_use]
    pub const fn is_on_trial(self) -> bool {
        matches!(self, Self::Pending { .. } | Self::Spent)
    }

    /// Boots the loader will still give a slot that is not good; else 0.
    #[must_use]
    pub const fn tries_left(self) -> u8 {
        match self {
            Self::Pending { tries_left } => tries_left,
            Self::Blank | Self::Good | Self::Spent | Self::Bad => 0,
        }
    }
}
