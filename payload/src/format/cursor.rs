//! A bounded reader over bytes in memory, and the varints of the table.

use crate::error::Error;

/// Reads forward through `bytes`; every read names what it was after, so that an error says where the table ended.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(super) const fn position(&self) -> usize {
        self.at
    }

    pub(super) const fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    pub(super) fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(count);
        let found = end.and_then(|end| self.bytes.get(self.at..end));
        let Some(found) = found else {
            return Err(Error::field(format!("frame table: {what}"), format!("{count} bytes at byte {}", self.at), self.left()));
        };
        self.at = self.at.saturating_add(count);
        Ok(found)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(super) fn byte(&mut self, what: &str) -> Result<u8, Error> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(super) fn varint(&mut self, what: &str) -> Result<u64, Error> {
        let mut value = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            value |= bits << shift;
            if byte & 0x80 != 0 {
                continue;
            }
            let overflows = bits << shift >> shift != bits;
            let padded = byte == 0 && shift > 0;
            if overflows || padded {
                break;
            }
            return Ok(value);
        }
        Err(Error::field(format!("frame table: {what}"), "a varint of at most 64 bits in its shortest form", "another"))
    }
}

pub(super) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Small numbers of either sign as small unsigned ones: 0, -1, 1, -2, 2 … become 0, 1, 2, 3, 4 …
pub(super) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

pub(super) const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Option<u64> {
        let mut cursor = Cursor::new(bytes, 0);
        cursor.varint("x").ok().filter(|_| cursor.left() == 0)
    }

    #[test]
    fn a_number_has_one_spelling_only() {
        assert_eq!(read(&[0]), Some(0));
        assert_eq!(read(&[0x80, 0x01]), Some(128));
        assert_eq!(read(&[0x80, 0x00]), None, "padded zero");
        assert_eq!(read(&[0xff, 0x00]), None, "padded 127");
        assert_eq!(read(&[0xff; 9]), None, "no last byte");
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), Some(u64::MAX));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]), None, "65 bits");
        assert_eq!(read(&[0x80; 11]), None, "endless");
    }

    proptest! {
        #[test]
        fn numbers_survive(value in any::<u64>(), signed in any::<i64>()) {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, value);
            prop_assert_eq!(read(&bytes), Some(value));
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }

        #[test]
        fn whatever_is_read_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Some(value) = read(&bytes) {
                let mut again = Vec::new();
                push_varint(&mut again, value);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
