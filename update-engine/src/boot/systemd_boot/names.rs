//! The names of entries, as the Boot Loader Specification has them: `NAME[+LEFT[-DONE]].SUFFIX`.

use std::fmt;
use std::str::FromStr;

use crate::boot::Standing;

/// Suffix of an entry that is none to the loader.
pub(super) const OFF: &str = "off";

/// A name that has nothing to do with counting, or that nobody could have counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected NAME[+LEFT[-DONE]].SUFFIX, got {got:?}")]
pub struct NameError {
    /// The name.
    pub got: String,
}

/// The name of an entry's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryName {
    /// What stays the same however often it is tried, such as `os-b`.
    pub id: String,
    /// How it is counted; `None` = it is not.
    pub counter: Option<Counter>,
    /// Without the dot: `conf` for a text, `off` for one that is none to the loader.
    pub suffix: String,
}

/// `+LEFT[-DONE]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Tries left.
    pub left: u8,
    /// Tries made.
    pub done: u8,
}

impl EntryName {
    /// The name under which a slot's entry stands so; `None` for one that has none.
    #[must_use]
    pub fn standing_so(id: &str, standing: Standing, tries: u8) -> Option<Self> {
        let (counter, suffix) = match standing {
            Standing::Blank => return Some(Self::asleep(id, OFF)),
            Standing::Good => (None, "conf"),
            Standing::Pending { tries_left } => {
                (Some(Counter { left: tries_left, done: tries.saturating_sub(tries_left) }), "conf")
            }
            Standing::Spent => (Some(Counter { left: 0, done: tries }), "conf"),
            Standing::Bad => (Some(Counter { left: 0, done: 0 }), "conf"),
        };
        Some(Self { id: id.to_owned(), counter, suffix: suffix.to_owned() })
    }

    /// A name that is none to the loader. It has a counter because of the "+" in it: what FAT can spell as a short name takes one place in a
    /// folder, and every other name of ours two.
    pub(super) fn asleep(id: &str, suffix: &str) -> Self {
        Self { id: id.to_owned(), counter: Some(Counter { left: 0, done: 0 }), suffix: suffix.to_owned() }
    }

    /// Whether the loader reads it.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.suffix == "conf"
    }

    /// How the slot stands whose entry has this name.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match (self.suffix.as_str(), self.counter) {
            ("conf", None) => Standing::Good,
            ("conf", Some(Counter { left: 0, done: 0 })) => Standing::Bad,
            ("conf", Some(Counter { left: 0, .. })) => Standing::Spent,
            ("conf", Some(Counter { left, .. })) => Standing::Pending { tries_left: left },
            _ => Standing::Blank,
        }
    }
}

impl FromStr for EntryName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let error = || NameError { got: name.to_owned() };
        let (stem, suffix) = name.rsplit_once('.').ok_or_else(error)?;
        // What is no counter belongs to the name, as the loader reads it.
        let counted = stem.rsplit_once('+').and_then(|(id, counter)| Some((id, Counter::parse(counter)?)));
        let (id, counter) = counted.map_or((stem, None), |(id, counter)| (id, Some(counter)));
        if id.is_empty() || suffix.is_empty() {
            return Err(error());
        }
        Ok(Self { id: id.to_owned(), counter, suffix: suffix.to_owned() })
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, counter, suffix } = self;
        match counter {
            None => write!(f, "{id}.{suffix}"),
            Some(Counter { left, done }) => write!(f, "{id}+{left}-{done}.{suffix}"),
        }
    }
}

impl Counter {
    fn parse(text: &str) -> Option<Self> {
        let (left, done) = text.split_once('-').unwrap_or((text, "0"));
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        Some(Self { left: number(left)?, done: number(done)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config;

    fn name(text: &str) -> EntryName {
        text.parse().unwrap()
    }

    #[test]
    fn names_say_how_a_slot_stands() {
        for (text, standing) in [
            ("os-b.conf", Standing::Good),
            ("os-b+3-0.conf", Standing::Pending { tries_left: 3 }),
            ("os-b+3.conf", Standing::Pending { tries_left: 3 }),
            ("os-b+2-1.conf", Standing::Pending { tries_left: 2 }),
            ("os-b+0-3.conf", Standing::Spent),
            ("os-b+0-0.conf", Standing::Bad),
            ("os-b.off", Standing::Blank),
            ("os-b+0-0.off", Standing::Blank),
        ] {
            assert_eq!((name(text).id.as_str(), name(text).standing()), ("os-b", standing), "{text}");
        }
        assert_eq!(name("os-b+x.conf").id, "os-b+x", "no counter");
        assert_eq!(name("os-b+300-0.conf").counter, None, "more than anybody counts");
    }

    #[test]
    fn every_name_of_a_slot_takes_two_places_of_a_fat_folder_one_for_its_long_name_and_one_for_a_short_one() {
        let standings = [Standing::Blank, Standing::Good, Standing::Spent, Standing::Bad, Standing::Pending { tries_left: 3 }];
        let prefixes = ["o", "os", "osx", "a-name-that-is-longer"].map(|prefix| prefix_of(prefix).ok());
        assert_eq!(prefixes[..2], [Some("o".to_owned()), Some("os".to_owned())], "what a configuration may say");
        for id in prefixes.into_iter().flatten().map(|prefix| format!("{prefix}-b")) {
            for standing in standings {
                let name = EntryName::standing_so(&id, standing, 3).unwrap();
                assert_eq!(name.to_string().parse::<EntryName>().unwrap().standing(), standing);
                takes_two_places(&name.to_string());
            }
            takes_two_places(&EntryName::asleep(&id, "new").to_string());
        }
    }

    fn prefix_of(prefix: &str) -> Result<String, config::ConfigError> {
        let slot = |name| format!("[slots.{name}]\nroot = \"partlabel:{name}\"\nentry = \"esp:/ota/{{slot}}.entry\"\n");
        let text = format!(
            "server.app_id = \"x\"\ndisk.device = \"/dev/vda\"\nboot.control = \"systemd-boot\"\nboot.systemd-boot.prefix = \"{prefix}\"\n{}{}",
            slot("a"),
            slot("b")
        );
        let settings = config::parse(&[config::Source::new("config.toml", &text)])?;
        match settings.boot {
            config::BootSettings::SystemdBoot(settings) => Ok(settings.prefix),
            other => panic!("{other:?}"),
        }
    }

    /// A place has room for 13 characters of a long name. None is needed for eight, a dot and three of those that short names have.
    fn takes_two_places(name: &str) {
        let (stem, suffix) = name.rsplit_once('.').unwrap();
        let is_short = stem.len() <= 8 && suffix.len() <= 3 && !name.contains('+');
        assert!(!is_short && name.len() <= 13, "{name}");
    }

    #[test]
    fn what_is_no_name_of_an_entry_is_an_error() {
        for text in ["", "os-b", ".conf", "+3-0.conf", "os-b."] {
            assert_eq!(
                text.parse::<EntryName>().unwrap_err().to_string(),
                format!("expected NAME[+LEFT[-DONE]].SUFFIX, got {text:?}")
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_that_is_written_as_it_was_read_or_an_error(text in "[a-z+0-9.-]{0,20}") {
            if let Ok(name) = text.parse::<EntryName>() {
                prop_assert_eq!(name.to_string().parse::<EntryName>().unwrap(), name);
            }
        }
    }
}
