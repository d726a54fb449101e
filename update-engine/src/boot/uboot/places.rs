//! Where the environment lies: `/etc/fw_env.config`, in the form that `fw_setenv` and libubootenv read.
//!
//! ```text
//! # device            offset     size      sector size   sectors
//! /dev/mmcblk0        0x400000   0x20000                          the first copy
//! /dev/mmcblk0       -0x20000    20000     0x200         100      the second, if there is one
//! ```
//!
//! The offset is a number as in C (`0x…` hexadecimal, `0…` octal, else decimal); one below zero counts from the end of a block device. The
//! other numbers are hexadecimal, with `0x` or without. Sector size and number of sectors are for flash and do not matter here. Two lines
//! make the environment redundant, and further ones are not read.
//!
//! Stricter than those tools: a line of which they make nothing, and which they pass over, is an error here, as it would turn two copies
//! into one. So is libubootenv's other form of this file (YAML).

use std::path::{Path, PathBuf};

use super::environment::{Layout, MAX_BYTES, MIN_BYTES};

/// Longest file that is read.
pub const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Copies there are at most.
const MAX_COPIES: usize = 2;
/// Beginnings of the names of flash devices, those with a block device's face (`mtdblock0`) among them: a write of theirs erases
/// what lies around it.
const FLASH: [&str; 2] = ["/dev/mtd", "/dev/ubi"];

/// Where one copy lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A block device or file.
    pub device: PathBuf,
    /// From its start, or if negative from its end, in bytes.
    pub offset: i64,
}

/// Where all copies lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// One or two.
    pub copies: Vec<Place>,
    /// Length of each copy.
    pub size_bytes: usize,
}

/// Why a file does not say where the environment lies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// A line that is neither comment nor place.
    #[error("line {line}: expected DEVICE OFFSET SIZE, got \"{}\"", got.escape_debug())]
    Line {
        /// Counted from 1.
        line: usize,
        /// How it begins.
        got: String,
    },
    /// A number that is none, or out of range.
    #[error("line {line}: expected {expected}, got \"{}\"", got.escape_debug())]
    Value {
        /// Counted from 1.
        line: usize,
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        got: String,
    },
    /// Raw flash.
    #[error("line {line}: {device} is raw flash: expected a block device or a file, as this build does not erase flash")]
    Flash {
        /// Counted from 1.
        line: usize,
        /// Its name.
        device: String,
    },
    /// Copies of two sizes.
    #[error("expected two copies of the same size, got {first:#x} and {second:#x} bytes")]
    Sizes {
        /// Of the first.
        first: usize,
        /// Of the second.
        second: usize,
    },
    /// No line says anything.
    #[error("expected a line DEVICE OFFSET SIZE, got none")]
    Empty,
}

impl Places {
    /// Reads the text of such a file.
    ///
    /// # Errors
    /// If it has no place, or one that this control cannot use.
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        let lines = text.lines().zip(1..).filter(|(line, _)| !is_comment(line));
        let found = lines.take(MAX_COPIES).map(|(line, number)| parse_line(line, number)).collect::<Result<Vec<_>, _>>()?;
        let sizes: Vec<usize> = found.iter().map(|(_, size)| *size).collect();
        match sizes.as_slice() {
            [] => Err(PlaceError::Empty),
            [first, second] if first != second => Err(PlaceError::Sizes { first: *first, second: *second }),
            [size_bytes, ..] => Ok(Self { copies: found.into_iter().map(|(place, _)| place).collect(), size_bytes: *size_bytes }),
        }
    }

    /// What stands before the variables of each copy.
    #[must_use]
    pub fn layout(&self) -> Layout {
        if self.copies.len() < MAX_COPIES { Layout::Single } else { Layout::Redundant }
    }
}

/// Whether a device is flash, by its name.
#[must_use]
pub fn is_flash(device: &Path) -> bool {
    FLASH.iter().any(|flash| device.as_os_str().as_encoded_bytes().starts_with(flash.as_bytes()))
}

fn is_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

fn parse_line(line: &str, number: usize) -> Result<(Place, usize), PlaceError> {
    let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
    let (Some(device), Some(offset), Some(size)) = (words.next(), words.next(), words.next()) else {
        return Err(PlaceError::Line { line: number, got: begin_of(line) });
    };
    let value = |expected, got| PlaceError::Value { line: number, expected, got: begin_of(got) };
    if is_flash(Path::new(device)) {
        return Err(PlaceError::Flash { line: number, device: begin_of(device) });
    }
    if !device.starts_with('/') {
        return Err(value("the absolute path of a block device or file", device));
    }
    let offset = c_integer(offset).ok_or_else(|| value("an offset, such as 0x400000 or -0x20000", offset))?;
    let allowed = |size: &usize| (MIN_BYTES..=MAX_BYTES).contains(size);
    let size = hexadecimal(size)
        .and_then(|size| usize::try_from(size).ok())
        .filter(allowed)
        .ok_or_else(|| value("a size of 10 to 100000 bytes (hexadecimal)", size))?;
    if let Some(word) = words.find(|word| hexadecimal(word).is_none()) {
        return Err(value("a hexadecimal number (sector size, number of sectors)", word));
    }
    Ok((Place { device: PathBuf::from(device), offset }, size))
}

/// As `strtoll` with base 0.
fn c_integer(word: &str) -> Option<i64> {
    let (sign, digits) = word.strip_prefix('-').map_or((1, word), |digits| (-1, digits));
    let magnitude = if let Some(digits) = hexadecimal_digits(digits) {
        number(digits, 16)
    } else {
        number(digits, if digits.starts_with('0') { 8 } else { 10 })
    };
    i64::try_from(magnitude?).ok()?.checked_mul(sign)
}

fn hexadecimal(word: &str) -> Option<u64> {
    number(hexadecimal_digits(word).unwrap_or(word), 16)
}

fn hexadecimal_digits(word: &str) -> Option<&str> {
    word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"))
}

/// Digits only: no sign.
fn number(digits: &str, radix: u32) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, radix).ok())?
}

/// As much as a message shows.
fn begin_of(text: &str) -> String {
    text.trim().chars().take(48).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(device: &str, offset: i64) -> Place {
        Place { device: PathBuf::from(device), offset }
    }

    fn error(text: &str) -> String {
        Places::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn two_lines_are_two_copies_and_comments_count_nothing() {
        let text = "# device offset size\n\n  # more\n/dev/mmcblk0\t0x400000  0x20000\n/dev/mmcblk0 -0x20000 20000 0x200 100 # end\nnot read\n";
        let places = Places::parse(text).unwrap();
        assert_eq!(places.copies, [place("/dev/mmcblk0", 0x40_0000), place("/dev/mmcblk0", -0x2_0000)]);
        assert_eq!((places.size_bytes, places.layout()), (0x2_0000, Layout::Redundant));
        let single = Places::parse("/boot/uboot.env 0 4000").unwrap();
        assert_eq!((single.copies, single.size_bytes), (vec![place("/boot/uboot.env", 0)], 0x4000));
        assert_eq!(Places::parse("/boot/uboot.env 0 4000").unwrap().layout(), Layout::Single);
    }

    #[test]
    fn an_offset_is_a_number_as_in_c_and_a_size_is_hexadecimal() {
        for (word, offset) in
            [("16384", 0x4000), ("0x4000", 0x4000), ("0X4000", 0x4000), ("040000", 0x4000), ("-16", -16), ("0", 0)]
        {
            assert_eq!(Places::parse(&format!("/x {word} 4000")).unwrap().copies[0].offset, offset, "{word}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_line() {
        assert_eq!(error(""), "expected a line DEVICE OFFSET SIZE, got none");
        assert_eq!(error("# nothing\n"), "expected a line DEVICE OFFSET SIZE, got none");
        assert_eq!(error("uboot:\n  size : 0x4000\n"), "line 1: expected DEVICE OFFSET SIZE, got \"uboot:\"");
        assert_eq!(error("# x\n/dev/sda 0x4000\n"), "line 2: expected DEVICE OFFSET SIZE, got \"/dev/sda 0x4000\"");
        assert_eq!(
            error("/dev/sda 0 4000\n/dev/sda 0x4000 # 4000\n"),
            "line 2: expected DEVICE OFFSET SIZE, got \"/dev/sda 0x4000 # 4000\""
        );
        for device in ["/dev/mtd1", "/dev/mtdblock0", "/dev/ubi0_0", "/dev/ubi0:env", "/dev/mtd0:env"] {
            assert_eq!(
                error(&format!("{device} 0 4000")),
                format!("line 1: {device} is raw flash: expected a block device or a file, as this build does not erase flash")
            );
        }
        assert_eq!(error("uboot.env 0 4000"), "line 1: expected the absolute path of a block device or file, got \"uboot.env\"");
        for offset in ["4k", "0x", "+5", "--5", "09", "99999999999999999999", "0x8000000000000000"] {
            assert_eq!(
                error(&format!("/x {offset} 4000")),
                format!("line 1: expected an offset, such as 0x400000 or -0x20000, got \"{offset}\"")
            );
        }
        for size in ["0", "f", "100001", "-4000", "4k", "fffffffffffffffffff"] {
            assert_eq!(
                error(&format!("/x 0 {size}")),
                format!("line 1: expected a size of 10 to 100000 bytes (hexadecimal), got \"{size}\"")
            );
        }
        assert_eq!(
            error("/x 0 4000 512k"),
            "line 1: expected a hexadecimal number (sector size, number of sectors), got \"512k\""
        );
        assert_eq!(error("/x 0 4000\n/x 0x4000 2000"), "expected two copies of the same size, got 0x4000 and 0x2000 bytes");
    }

    proptest! {
        #[test]
        fn any_text_is_places_or_an_error(text in "([ -~]{0,30}\n){0,4}", device in "/[a-z/]{1,12}", offset: i64, size in 16_u32..0x10_0000) {
            let _any = Places::parse(&text);
            prop_assume!(offset != i64::MIN);
            let places = Places::parse(&format!("{device} {offset} {size:x}")).map(|places| (places.copies, places.size_bytes));
            if !is_flash(Path::new(&device)) {
                prop_assert_eq!(places, Ok((vec![place(&device, offset)], usize::try_from(size).unwrap())));
            }
        }
    }
}
