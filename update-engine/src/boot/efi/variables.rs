//! The firmware's variables as bytes (UEFI 2.10, sections 3.1 and 3.3). All numbers are little-endian.
//!
//! ```text
//! a file of efivarfs      attributes u32 · data: 1 byte or more
//! BootOrder               numbers of entries, u16 each, in the order in which the firmware tries them
//! BootNext, BootCurrent   one number of an entry, u16
//! Boot####                attributes u32 (bit 0: active) · length of the paths u16 · description UTF-16, 0 · paths · anything
//! OtaSlots                "OTA1" · bit 0: a slot was armed at some time u8 · open u8: 0 none, 1 first slot, 2 second ·
//!                         mark of the first slot u8 · of the second: 0 none, 1 good, 2 bad, 3 armed · CRC-32 of all before u32
//! ```
//!
//! `OtaSlots` is ours; its slots stand in the order in which they are configured.

use std::fmt;
use std::str::FromStr;

/// Longest variable that is read: more than firmware stores in one.
pub const MAX_VARIABLE_BYTES: usize = 64 * 1024;

/// Vendor of the variables that the specification defines.
pub const GLOBAL_VENDOR: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Our vendor GUID.
pub const OTA_VENDOR: &str = "442a9750-f701-47fa-8e68-dc93dd7daa4e";

/// Kept without power, and there for the system that runs.
pub const NON_VOLATILE: u32 = 7;
const LOAD_OPTION_ACTIVE: u32 = 1;
const MEMORY_MAGIC: &[u8; 4] = b"OTA1";
const MEMORY_BYTES: usize = 12;
const CRC_AT: usize = 8;

/// Why bytes are not the variable that they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VariableError {
    /// Neither attributes nor data.
    #[error("expected 4 bytes of attributes and data behind them, got {got} bytes")]
    Short {
        /// Its length.
        got: usize,
    },
    /// Numbers of entries have two bytes.
    #[error("expected numbers of boot entries of 2 bytes each, got {got} bytes")]
    Order {
        /// Its length.
        got: usize,
    },
    /// One number of an entry.
    #[error("expected the number of one boot entry, 2 bytes, got {got} bytes")]
    Number {
        /// Its length.
        got: usize,
    },
    /// A boot entry that ends too soon.
    #[error("expected a boot entry with {0}, got its end")]
    Entry(&'static str),
    /// Our variable has another length.
    #[error("expected {MEMORY_BYTES} bytes, got {got}")]
    MemoryLength {
        /// Its length.
        got: usize,
    },
    /// Our variable, of another version.
    #[error("expected the form {expected:?}, got {got:?}: it was written by another version", expected = "OTA1")]
    MemoryVersion {
        /// How it begins.
        got: String,
    },
    /// Our variable, damaged.
    #[error("expected the checksum {expected:08x}, got {got:08x}: it is damaged")]
    MemoryChecksum {
        /// Of what stands there.
        expected: u32,
        /// That stands there.
        got: u32,
    },
    /// Our variable, with a value that nobody writes.
    #[error("byte {at}: expected 0 to {most}, got {got}")]
    MemoryValue {
        /// Where.
        at: usize,
        /// Highest that there is.
        most: u8,
        /// What stands there.
        got: u8,
    },
}

/// A variable as efivarfs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Where it is kept and who may read it.
    pub attributes: u32,
    /// At least one byte.
    pub data: Vec<u8>,
}

impl Variable {
    /// From the bytes of its file.
    ///
    /// # Errors
    /// If there are too few.
    pub fn parse(bytes: &[u8]) -> Result<Self, VariableError> {
        match bytes.split_first_chunk() {
            Some((attributes, data)) if !data.is_empty() => {
                Ok(Self { attributes: u32::from_le_bytes(*attributes), data: data.to_vec() })
            }
            _ => Err(VariableError::Short { got: bytes.len() }),
        }
    }

    /// As its file holds it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.attributes.to_le_bytes(), self.data.as_slice()].concat()
    }
}

/// The number of a boot entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryNumber(pub u16);

impl EntryNumber {
    /// From the data of `BootNext` or `BootCurrent`.
    ///
    /// # Errors
    /// If it is not one number.
    pub fn parse(data: &[u8]) -> Result<Self, VariableError> {
        let bytes = data.try_into().map_err(|_| VariableError::Number { got: data.len() })?;
        Ok(Self(u16::from_le_bytes(bytes)))
    }

    /// As `BootNext` holds it.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 2] {
        self.0.to_le_bytes()
    }
}

/// As the name of its variable.
impl fmt::Display for EntryNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Boot{:04X}", self.0)
    }
}

/// No name of a boot entry's variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEntry;

impl FromStr for EntryNumber {
    type Err = NoEntry;

    fn from_str(name: &str) -> Result<Self, NoEntry> {
        let digits = name.strip_prefix("Boot").filter(|digits| digits.len() == 4).ok_or(NoEntry)?;
        // `from_str_radix` takes a sign and small letters, which no firmware writes.
        let is_upper_hex = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'));
        let number = u16::from_str_radix(digits, 16).ok().filter(|_| is_upper_hex);
        number.map(Self).ok_or(NoEntry)
    }
}

/// Reads `BootOrder`.
///
/// # Errors
/// If its length is odd.
pub fn parse_order(data: &[u8]) -> Result<Vec<EntryNumber>, VariableError> {
    let (numbers, rest) = data.as_chunks();
    if !rest.is_empty() {
        return Err(VariableError::Order { got: data.len() });
    }
    Ok(numbers.iter().map(|number| EntryNumber(u16::from_le_bytes(*number))).collect())
}

/// Writes `BootOrder`.
#[must_use]
pub fn order_to_bytes(order: &[EntryNumber]) -> Vec<u8> {
    order.iter().flat_map(|number| number.to_bytes()).collect()
}

/// What of a boot entry tells which one it is. The entry itself is never written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOption {
    /// The firmware may start it.
    pub is_active: bool,
    /// For people, and for us.
    pub description: String,
}

impl LoadOption {
    /// Reads the data of a `Boot####`.
    ///
    /// # Errors
    /// If it ends before what it says it has.
    pub fn parse(data: &[u8]) -> Result<Self, VariableError> {
        let (attributes, rest) = data.split_first_chunk().ok_or(VariableError::Entry("attributes"))?;
        let (paths, rest) = rest.split_first_chunk().ok_or(VariableError::Entry("a length of its paths"))?;
        let (units, _odd) = rest.as_chunks();
        let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
        let end = units.iter().position(|&unit| unit == 0).ok_or(VariableError::Entry("a description that ends"))?;
        let behind = rest.len() - 2 * (end + 1);
        if behind < usize::from(u16::from_le_bytes(*paths)) {
            return Err(VariableError::Entry("paths of the length it says"));
        }
        let description = String::from_utf16_lossy(&units[..end]);
        Ok(Self { is_active: u32::from_le_bytes(*attributes) & LOAD_OPTION_ACTIVE != 0, description })
    }
}

/// What is known of one slot, beside what `BootOrder` and `BootNext` tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mark {
    /// Nothing, or it was disarmed.
    #[default]
    None,
    /// It showed that it is healthy.
    Good,
    /// It ran, and was judged unhealthy.
    Bad,
    /// Its one try was given to it, in `BootNext`.
    Armed,
}

/// Our variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Memory {
    /// A slot was armed at some time.
    pub was_armed: bool,
    /// The slot, 0 or 1, whose `BootNext` is about to be set or removed.
    pub open: Option<usize>,
    /// Of the slots in the order in which they are configured.
    pub marks: [Mark; 2],
}

impl Memory {
    /// Reads our variable.
    ///
    /// # Errors
    /// If it is of another version, or damaged.
    pub fn parse(data: &[u8]) -> Result<Self, VariableError> {
        if !data.starts_with(MEMORY_MAGIC) {
            let got = &data[..data.len().min(MEMORY_MAGIC.len())];
            return Err(VariableError::MemoryVersion { got: String::from_utf8_lossy(got).into_owned() });
        }
        let bytes = <[u8; MEMORY_BYTES]>::try_from(data).map_err(|_| VariableError::MemoryLength { got: data.len() })?;
        let [_, _, _, _, armed, open, first, second, crc @ ..] = bytes;
        let (expected, got) = (crc32fast::hash(&bytes[..CRC_AT]), u32::from_le_bytes(crc));
        if got != expected {
            return Err(VariableError::MemoryChecksum { expected, got });
        }
        let value = |at, most, got| if got > most { Err(VariableError::MemoryValue { at, most, got }) } else { Ok(got) };
        Ok(Self {
            was_armed: value(4, 1, armed)? == 1,
            open: usize::from(value(5, 2, open)?).checked_sub(1),
            marks: [Mark::from_byte(value(6, 3, first)?), Mark::from_byte(value(7, 3, second)?)],
        })
    }

    /// As our variable holds it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; MEMORY_BYTES] {
        let open = match self.open {
            None => 0,
            Some(0) => 1,
            Some(_) => 2,
        };
        let mut bytes = [0; MEMORY_BYTES];
        bytes[..4].copy_from_slice(MEMORY_MAGIC);
        bytes[4..CRC_AT].copy_from_slice(&[u8::from(self.was_armed), open, self.marks[0].to_byte(), self.marks[1].to_byte()]);
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

impl Mark {
    const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Good,
            2 => Self::Bad,
            3 => Self::Armed,
            _ => Self::None,
        }
    }

    const fn to_byte(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Good => 1,
            Self::Bad => 2,
            Self::Armed => 3,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of an entry as firmware tools write it: a path to a file on a partition.
    pub(crate) fn entry(is_active: bool, description: &str) -> Vec<u8> {
        let paths = [4, 4, 6, 0, b'\\', 0, 0x7F, 0xFF, 4, 0];
        let mut data = u32::from(is_active).to_le_bytes().to_vec();
        data.extend(u16::try_from(paths.len()).unwrap().to_le_bytes());
        data.extend(description.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
        data.extend(paths);
        data.extend(b"o\0d");
        data
    }

    #[test]
    fn an_entry_is_known_by_its_description_and_whether_it_is_active() {
        for (is_active, description) in [(true, "ota-a"), (false, "Zwölf \u{1F980}"), (true, "")] {
            let read = LoadOption::parse(&entry(is_active, description)).unwrap();
            assert_eq!(read, LoadOption { is_active, description: description.to_owned() });
        }
        // Other attributes: an entry that is hidden and active.
        let mut hidden = entry(true, "x");
        hidden[0] |= 8;
        assert!(LoadOption::parse(&hidden).unwrap().is_active);
    }

    #[test]
    fn an_entry_that_ends_too_soon_is_an_error_that_says_where() {
        let whole = entry(true, "ab");
        let error = |length: usize| LoadOption::parse(&whole[..length]).unwrap_err().to_string();
        assert_eq!(error(3), "expected a boot entry with attributes, got its end");
        assert_eq!(error(5), "expected a boot entry with a length of its paths, got its end");
        assert_eq!(error(11), "expected a boot entry with a description that ends, got its end");
        assert_eq!(error(15), "expected a boot entry with paths of the length it says, got its end");
        LoadOption::parse(&whole[..22]).unwrap();
    }

    #[test]
    fn names_of_entries_are_boot_and_four_large_digits() {
        assert_eq!("Boot00AF".parse(), Ok(EntryNumber(0xAF)));
        assert_eq!(EntryNumber(0xAF).to_string(), "Boot00AF");
        for name in ["BootNext", "Boot00af", "Boot+0AF", "Boot0", "Boot00000", "boot0000", "", "Key0000"] {
            assert_eq!(name.parse::<EntryNumber>(), Err(NoEntry), "{name}");
        }
    }

    #[test]
    fn numbers_of_another_length_are_errors_with_words() {
        assert_eq!(
            parse_order(&[1, 0, 2]).unwrap_err().to_string(),
            "expected numbers of boot entries of 2 bytes each, got 3 bytes"
        );
        assert_eq!(parse_order(&[]).unwrap(), []);
        assert_eq!(
            EntryNumber::parse(&[1]).unwrap_err().to_string(),
            "expected the number of one boot entry, 2 bytes, got 1 bytes"
        );
        assert_eq!(
            Variable::parse(&[7, 0, 0, 0]).unwrap_err().to_string(),
            "expected 4 bytes of attributes and data behind them, got 4 bytes"
        );
    }

    #[test]
    fn our_variable_has_one_form_for_ever() {
        let memory = Memory { was_armed: true, open: Some(1), marks: [Mark::Good, Mark::Armed] };
        let bytes = memory.to_bytes();
        assert_eq!(bytes[..8], *b"OTA1\x01\x02\x01\x03");
        assert_eq!(bytes[8..], crc32fast::hash(b"OTA1\x01\x02\x01\x03").to_le_bytes());
    }

    #[test]
    fn our_variable_damaged_or_of_another_version_is_an_error_with_words() {
        let whole = Memory::default().to_bytes();
        let error = |bytes: &[u8]| Memory::parse(bytes).unwrap_err().to_string();
        assert_eq!(error(b"OTA2....later"), "expected the form \"OTA1\", got \"OTA2\": it was written by another version");
        assert_eq!(error(b""), "expected the form \"OTA1\", got \"\": it was written by another version");
        assert_eq!(error(&whole[..11]), "expected 12 bytes, got 11");
        for at in 4..12 {
            for bit in 0..8 {
                let mut damaged = whole;
                damaged[at] ^= 1 << bit;
                assert!(error(&damaged).ends_with("it is damaged"), "byte {at}, bit {bit}");
            }
        }
        let mut unknown = whole;
        unknown[7] = 4;
        let crc = crc32fast::hash(&unknown[..8]).to_le_bytes();
        unknown[8..].copy_from_slice(&crc);
        assert_eq!(error(&unknown), "byte 7: expected 0 to 3, got 4");
    }

    fn any_mark() -> impl Strategy<Value = Mark> {
        (0_u8..4).prop_map(Mark::from_byte)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            was_armed: bool, open in proptest::option::of(0_usize..2), first in any_mark(), second in any_mark(),
            numbers in proptest::collection::vec(any::<u16>(), 0..20), attributes: u32
        ) {
            let memory = Memory { was_armed, open, marks: [first, second] };
            prop_assert_eq!(Memory::parse(&memory.to_bytes()), Ok(memory));
            let order: Vec<EntryNumber> = numbers.into_iter().map(EntryNumber).collect();
            prop_assert_eq!(parse_order(&order_to_bytes(&order)), Ok(order));
            let variable = Variable { attributes, data: memory.to_bytes().to_vec() };
            prop_assert_eq!(Variable::parse(&variable.to_bytes()), Ok(variable));
        }

        #[test]
        fn any_bytes_are_read_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _any_answer = (LoadOption::parse(&bytes), parse_order(&bytes), EntryNumber::parse(&bytes));
            if let Ok(memory) = Memory::parse(&bytes) {
                prop_assert_eq!(memory.to_bytes().to_vec(), bytes.clone());
            }
            if let Ok(variable) = Variable::parse(&bytes) {
                prop_assert_eq!(variable.to_bytes(), bytes);
            }
        }
    }
}
