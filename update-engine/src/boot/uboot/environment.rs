//! A copy of the environment, as bytes.
//!
//! ```text
//! single       crc u32                 name=value\0name=value\0…\0   the rest: zeros
//! redundant    crc u32   flags u8      name=value\0name=value\0…\0   the rest: zeros
//! ```
//!
//! The CRC (CRC-32 of zlib, in the machine's own byte order) covers everything behind the header, to the end of the copy; **not the flags**.
//! Of two copies whose CRCs are right the one with the higher flags counts, except that 0 is newer than 255; of equals the first
//! (U-Boot's `env/common.c`, libubootenv, `fw_setenv`). Flash chips that are erased to ones have another scheme of flags, which is not
//! used on block devices and in files.

use std::fmt;

/// Longest copy that is read.
pub const MAX_BYTES: usize = 1 << 20;
/// Shortest copy: the longer header, one variable, the end.
pub const MIN_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// What stands before the variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One copy: a CRC.
    Single,
    /// Two copies: a CRC and the flags.
    Redundant,
}

impl Layout {
    const fn header_bytes(self) -> usize {
        match self {
            Self::Single => CRC_BYTES,
            Self::Redundant => CRC_BYTES + 1,
        }
    }
}

/// The variables, in their order.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Environment {
    /// `name=value` each; what has no `=` is kept as it is.
    entries: Vec<Vec<u8>>,
}

/// A copy whose CRC is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Tells the newer of two copies; 0 of a single one.
    pub flags: u8,
    /// What it says.
    pub environment: Environment,
}

/// Why bytes are no copy, or none can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvironmentError {
    /// No copy has this size.
    #[error("expected an environment of {MIN_BYTES} to {MAX_BYTES} bytes, got {got}")]
    Size {
        /// Its length.
        got: usize,
    },
    /// It was never written, or is damaged.
    #[error("expected the CRC {stored:08x} that it was stored with, got {computed:08x}")]
    Crc {
        /// What stands in it.
        stored: u32,
        /// That of its bytes.
        computed: u32,
    },
    /// The variables do not fit.
    #[error("the variables take {got} bytes, expected at most {max}, which is what the environment has room for")]
    Full {
        /// Bytes that are needed.
        got: usize,
        /// Bytes there are.
        max: usize,
    },
}

impl Stored {
    /// Reads a copy.
    ///
    /// # Errors
    /// If its size is not allowed or its CRC is wrong: U-Boot does not take it then, either.
    pub fn parse(bytes: &[u8], layout: Layout) -> Result<Self, EnvironmentError> {
        if !(MIN_BYTES..=MAX_BYTES).contains(&bytes.len()) {
            return Err(EnvironmentError::Size { got: bytes.len() });
        }
        let (header, data) = bytes.split_at(layout.header_bytes());
        let (crc, flags) = header.split_at(CRC_BYTES);
        let stored = u32::from_ne_bytes(<[u8; CRC_BYTES]>::try_from(crc).unwrap_or_default());
        let computed = crc32fast::hash(data);
        if stored != computed {
            return Err(EnvironmentError::Crc { stored, computed });
        }
        Ok(Self { flags: flags.first().copied().unwrap_or_default(), environment: Environment::parse(data) })
    }

    /// The copy as bytes.
    ///
    /// # Errors
    /// If the size is not allowed or the variables do not fit into it.
    pub fn to_bytes(&self, layout: Layout, size_bytes: usize) -> Result<Vec<u8>, EnvironmentError> {
        if !(MIN_BYTES..=MAX_BYTES).contains(&size_bytes) {
            return Err(EnvironmentError::Size { got: size_bytes });
        }
        let data = self.environment.to_bytes(size_bytes - layout.header_bytes())?;
        let mut bytes = crc32fast::hash(&data).to_ne_bytes().to_vec();
        if layout == Layout::Redundant {
            bytes.push(self.flags);
        }
        bytes.extend(data);
        Ok(bytes)
    }
}

/// Which of two copies counts, by their flags; `None` stands for one whose CRC is wrong.
#[must_use]
pub fn current(flags: [Option<u8>; 2]) -> Option<usize> {
    match flags {
        [None, None] => None,
        [Some(_), None] | [Some(0), Some(u8::MAX)] => Some(0),
        [None, Some(_)] | [Some(u8::MAX), Some(0)] => Some(1),
        [Some(first), Some(second)] => Some(usize::from(second > first)),
    }
}

impl Environment {
    /// What stands up to the first empty entry, or to the end.
    fn parse(data: &[u8]) -> Self {
        let entries = data.split(|&byte| byte == 0).take_while(|entry| !entry.is_empty());
        Self { entries: entries.map(<[u8]>::to_vec).collect() }
    }

    fn to_bytes(&self, room: usize) -> Result<Vec<u8>, EnvironmentError> {
        let mut data = Vec::with_capacity(room);
        for entry in &self.entries {
            data.extend(entry);
            data.push(0);
        }
        let got = data.len() + 1;
        if got > room {
            return Err(EnvironmentError::Full { got, max: room });
        }
        data.resize(room, 0);
        Ok(data)
    }

    /// The value of a variable; of one that stands twice the last, as U-Boot takes it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries.iter().rev().find_map(|entry| value_of(entry, name))
    }

    /// Sets a variable: where it stood, else behind all others. A value ends at its first zero byte, and one that is empty is no
    /// variable to U-Boot.
    pub fn set(&mut self, name: &str, value: &str) {
        let stood = self.entries.iter().position(|entry| value_of(entry, name).is_some());
        self.unset(name);
        let value = value.split('\0').next().unwrap_or_default();
        let at = stood.unwrap_or(self.entries.len());
        self.entries.insert(at, format!("{name}={value}").into_bytes());
    }

    /// Removes a variable.
    pub fn unset(&mut self, name: &str) {
        self.entries.retain(|entry| value_of(entry, name).is_none());
    }
}

fn value_of<'a>(entry: &'a [u8], name: &str) -> Option<&'a [u8]> {
    entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| String::from_utf8_lossy(entry))).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let mut environment = Environment::default();
        variables.iter().for_each(|(name, value)| environment.set(name, value));
        environment
    }

    #[test]
    fn a_copy_is_laid_out_as_u_boot_has_it() {
        let stored = Stored { flags: 7, environment: environment(&[("a", "1"), ("b", "x y")]) };
        let data = b"a=1\0b=x y\0\0\0\0\0\0";
        let redundant = stored.to_bytes(Layout::Redundant, 20).unwrap();
        assert_eq!((redundant[4], &redundant[5..]), (7, data.as_slice()));
        assert_eq!(redundant[..4], crc32fast::hash(data).to_ne_bytes());
        let single = stored.to_bytes(Layout::Single, 19).unwrap();
        assert_eq!((&single[..4], &single[4..]), (&redundant[..4], data.as_slice()));
        assert_eq!(Stored::parse(&redundant, Layout::Redundant).unwrap(), stored);
        assert_eq!(Stored::parse(&single, Layout::Single).unwrap(), Stored { flags: 0, ..stored });
    }

    #[test]
    fn one_changed_byte_is_no_copy_any_more_unless_it_is_the_flags() {
        let bytes = Stored { flags: 7, environment: environment(&[("a", "1")]) }.to_bytes(Layout::Redundant, 32).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Stored::parse(&damaged, Layout::Redundant).is_ok(), at == 4, "byte {at}");
        }
    }

    #[test]
    fn errors_say_what_was_expected() {
        let error = |bytes: &[u8]| Stored::parse(bytes, Layout::Redundant).unwrap_err().to_string();
        assert_eq!(error(&[0; 15]), "expected an environment of 16 to 1048576 bytes, got 15");
        assert_eq!(error(&vec![0; MAX_BYTES + 1]), "expected an environment of 16 to 1048576 bytes, got 1048577");
        assert_eq!(error(&[0xFF; 16]), "expected the CRC ffffffff that it was stored with, got 9dd2f96c");
        let stored = Stored { flags: 0, environment: environment(&[("name", "value")]) };
        assert_eq!(
            stored.to_bytes(Layout::Redundant, 16).unwrap_err().to_string(),
            "the variables take 12 bytes, expected at most 11, which is what the environment has room for"
        );
        assert_eq!(stored.to_bytes(Layout::Redundant, 17).unwrap().len(), 17);
        let error = stored.to_bytes(Layout::Single, 4).unwrap_err().to_string();
        assert_eq!(error, "expected an environment of 16 to 1048576 bytes, got 4");
    }

    #[test]
    fn the_newer_copy_counts_also_where_the_flags_begin_anew() {
        let cases = [
            ([None, None], None),
            ([Some(9), None], Some(0)),
            ([None, Some(0)], Some(1)),
            ([Some(3), Some(4)], Some(1)),
            ([Some(4), Some(3)], Some(0)),
            ([Some(4), Some(4)], Some(0)),
            ([Some(255), Some(0)], Some(1)),
            ([Some(0), Some(255)], Some(0)),
            ([Some(255), Some(1)], Some(0)),
            ([Some(254), Some(255)], Some(1)),
        ];
        for (flags, expected) in cases {
            assert_eq!(current(flags), expected, "{flags:?}");
        }
    }

    #[test]
    fn the_copy_written_last_counts_after_any_number_of_changes() {
        for start in 0..=255 {
            let mut flags = [Some(start), None];
            for _ in 0..600 {
                let now = current(flags).unwrap();
                flags[1 - now] = Some(flags[now].unwrap().wrapping_add(1));
                assert_eq!(current(flags), Some(1 - now), "{flags:?}");
            }
        }
    }

    #[test]
    fn a_variable_is_set_where_it_stood_and_what_is_unknown_stays_in_its_order() {
        let mut environment = Environment::parse(b"z=1\0odd\0a=1\0BOOT=x\0a=2\0\0garbage");
        assert_eq!((environment.get("a"), environment.get("odd"), environment.get("BOO")), (Some(b"2".as_slice()), None, None));
        environment.set("a", "3");
        environment.set("new", "n");
        assert_eq!(environment.to_bytes(32).unwrap(), b"z=1\0odd\0a=3\0BOOT=x\0new=n\0\0\0\0\0\0\0\0");
        environment.unset("z");
        assert_eq!(environment.get("z"), None);
    }

    #[test]
    fn variables_up_to_the_last_byte_are_read_as_u_boot_reads_them() {
        assert_eq!(Environment::parse(b"a=1\0b=2"), environment(&[("a", "1"), ("b", "2")]));
        assert_eq!(Environment::parse(b""), Environment::default());
        assert_eq!(format!("{:?}", environment(&[("a", "1")])), "[\"a=1\"]");
    }

    proptest! {
        #[test]
        fn what_is_set_is_read_again_and_what_others_set_stays(
            others in proptest::collection::vec(("[a-z_]{1,8}", "[ -~]{1,20}"), 0..8), value in "[ -~]{1,20}", flags: u8
        ) {
            let mut environment = Environment::default();
            others.iter().for_each(|(name, value)| environment.set(name, value));
            environment.set("OURS", &value);
            let stored = Stored { flags, environment };
            let bytes = stored.to_bytes(Layout::Redundant, 4096).unwrap();
            let read = Stored::parse(&bytes, Layout::Redundant).unwrap();
            prop_assert_eq!(&read, &stored);
            prop_assert_eq!(read.environment.get("OURS"), Some(value.as_bytes()));
            let last: std::collections::BTreeMap<_, _> = others.into_iter().collect();
            for (name, value) in last {
                prop_assert_eq!(read.environment.get(&name), Some(value.as_bytes()));
            }
        }

        #[test]
        fn any_bytes_with_a_right_crc_are_read_and_written_again(data in proptest::collection::vec(any::<u8>(), 12..400)) {
            let bytes = [crc32fast::hash(&data).to_ne_bytes().to_vec(), data].concat();
            let stored = Stored::parse(&bytes, Layout::Single).unwrap();
            if let Ok(written) = stored.to_bytes(Layout::Single, bytes.len()) {
                prop_assert_eq!(Stored::parse(&written, Layout::Single).unwrap(), stored);
            }
        }
    }
}
