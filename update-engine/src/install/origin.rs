//! Which windows came from where: a line for each frame that was made otherwise than planned, and the sums at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use super::front::Role;
use super::ledger::Amount;

/// Where the windows of a frame came from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Origin {
    /// A blob of this payload, from this source.
    Blob(Role, String),
    /// No blob: the payload's table says that they are zeros, or that they stand elsewhere.
    Table(Role),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(Role::Full, source) => write!(f, "the full payload from {source}"),
            Self::Blob(Role::Delta, source) => write!(f, "the delta from {source}"),
            Self::Table(Role::Full) => f.write_str("the full payload's zeros and copies"),
            Self::Table(Role::Delta) => f.write_str("copies of the running slot, and zeros"),
        }
    }
}

/// The sums.
#[derive(Default, Debug)]
pub(super) struct Origins(BTreeMap<Origin, Amount>);

impl Origins {
    /// Windows were made.
    pub(super) fn made(&mut self, origin: Origin, amount: Amount) {
        if amount.windows > 0 {
            *self.0.entry(origin).or_default() += amount;
        }
    }

    /// `4 windows (1048576 bytes) by …, 2 windows (…) by …`; nothing, if nothing was made.
    pub(super) fn in_words(&self) -> String {
        let line = |(origin, amount): (&Origin, &Amount)| {
            let windows = if amount.windows == 1 { "window" } else { "windows" };
            format!("{} {windows} ({} bytes) by {origin}", amount.windows, amount.bytes)
        };
        self.0.iter().map(line).collect::<Vec<_>>().join(", ")
    }
}

/// `window 8`, or `windows 8 to 11`.
pub(super) fn windows_in_words(windows: &Range<u32>) -> String {
    let last = windows.end.saturating_sub(1);
    if windows.start == last { format!("window {last}") } else { format!("windows {} to {last}", windows.start) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_told_by_origin() {
        let mut origins = Origins::default();
        let amount = |windows| Amount { windows, bytes: windows * 10 };
        assert_eq!(origins.in_words(), "");
        origins.made(Origin::Table(Role::Delta), amount(0));
        origins.made(Origin::Blob(Role::Full, "http://one/p".to_owned()), amount(1));
        origins.made(Origin::Blob(Role::Delta, "http://one/d".to_owned()), amount(3));
        origins.made(Origin::Blob(Role::Delta, "http://one/d".to_owned()), amount(4));
        assert_eq!(
            origins.in_words(),
            "1 window (10 bytes) by the full payload from http://one/p, 7 windows (70 bytes) by the delta from http://one/d"
        );
        assert_eq!(
            (windows_in_words(&(8..9)), windows_in_words(&(8..12))),
            ("window 8".to_owned(), "windows 8 to 11".to_owned())
        );
    }
}
