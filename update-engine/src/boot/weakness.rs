//! What is wrong with how a boot state is stored, though it can be read, and what becomes of that.

use std::fmt;

/// The next power cut, or the next damage, finds the boot state less protected than it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weakness {
    what: String,
    mended: Mended,
}

/// What mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mended {
    /// Any change of the boot state: the next update.
    ByNextChange,
    /// The same, and whoever brought it about may do so again at each start.
    ForNow,
    /// The same, where the other slot runs and is good; where this one runs, nothing is updated.
    FromTheOtherSlot,
    /// Nothing that is done here.
    ByNoChange,
}

impl Weakness {
    /// Damage that any change of the boot state mends.
    pub fn until_next_change(what: impl Into<String>) -> Self {
        Self { what: what.into(), mended: Mended::ByNextChange }
    }

    /// What any change puts right, and somebody else may put wrong again.
    pub fn that_may_return(what: impl Into<String>) -> Self {
        Self { what: what.into(), mended: Mended::ForNow }
    }

    /// What is wrong with the marks of one slot; `what` says what mends it by hand.
    pub fn of_a_slot(what: impl Into<String>) -> Self {
        Self { what: what.into(), mended: Mended::FromTheOtherSlot }
    }

    /// What lies in how the host was set up; `what` says what would mend it.
    pub fn of_the_host(what: impl Into<String>) -> Self {
        Self { what: what.into(), mended: Mended::ByNoChange }
    }
}

impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, mended } = self;
        f.write_str(what)?;
        f.write_str(match mended {
            Mended::ByNextChange => {
                ": further damage may leave this host without a boot table; the next update mends it, or says why it cannot"
            }
            Mended::ForNow => {
                "; the next update puts that right, and what is said again after a reboot somebody else puts wrong each time"
            }
            Mended::FromTheOtherSlot => {
                "; the next update puts that right where the other slot runs and is good, and nothing is updated where this one runs"
            }
            Mended::ByNoChange => "; updates go on, and none of them changes that",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_says_itself_whether_the_next_update_mends_it() {
        let mends = |weakness: Weakness| weakness.to_string().contains("the next update mends it");
        assert!(mends(Weakness::until_next_change("x")));
        assert!(!mends(Weakness::that_may_return("x")) && !mends(Weakness::of_the_host("x")));
        assert_eq!(Weakness::of_the_host("one copy").to_string(), "one copy; updates go on, and none of them changes that");
    }
}
