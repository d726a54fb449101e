//! A bounded reader over bytes in memory.

use crate::error::Error;
use crate::varint;

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
            return Err(Error::field(what, format!("{count} bytes at byte {} of the frame table", self.at), self.left()));
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
        let start = self.at;
        if let Some(value) = varint::read(|| self.byte(what))? {
            return Ok(value);
        }
        let expected = format!("a varint of at most 64 bits in its shortest form at byte {start} of the frame table");
        let got: String = self.bytes.get(start..self.at).unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect();
        Err(Error::field(what, expected, got))
    }
}
