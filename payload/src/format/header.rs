//! The first 64 bytes.

use std::ops::Range;

use manifests::digest::Sha256Digest;
use manifests::foreign::describe;

use crate::error::Error;
use crate::limits::{HEADER_BYTES, MAX_TABLE_BYTES};

const MAGIC: &[u8; 8] = b"OTAPAYLD";
const FORMAT_VERSION: u32 = 1;

/// Where the frame table and the end of a payload are. Claims only, but within the caps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    table_len: u32,
    total_len: u64,
    table_sha256: Sha256Digest,
}

impl Header {
    /// Reads the header from the first bytes of a payload, 64 or more.
    pub fn parse(first: &[u8]) -> Result<Self, Error> {
        if !first.starts_with(MAGIC) {
            return Err(Error::Magic { got: describe(first) });
        }
        let Some(bytes) = first.first_chunk::<HEADER_BYTES>() else {
            return Err(Error::Length { part: "the payload's header", expected: 64, got: len_u64(first) });
        };
        let version = u32_at(bytes, 8);
        if version != FORMAT_VERSION {
            return Err(Error::FormatVersion { got: version });
        }
        let reserved = u32_at(bytes, 12);
        if reserved != 0 {
            return Err(Error::field("header: reserved", 0, reserved));
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(&bytes[32..]);
        Self::new(u64_at(bytes, 16), u64_at(bytes, 24), Sha256Digest::from_bytes(digest))
    }

    pub(super) fn new(table_len: u64, total_len: u64, table_sha256: Sha256Digest) -> Result<Self, Error> {
        let table_len = u32::try_from(table_len)
            .ok()
            .filter(|len| (1..=MAX_TABLE_BYTES).contains(len))
            .ok_or_else(|| Error::field("header: length of the frame table", format!("1 to {MAX_TABLE_BYTES}"), table_len))?;
        let header = Self { table_len, total_len, table_sha256 };
        if total_len < header.table_range().end {
            let expected = format!("at least {}, the end of the frame table", header.table_range().end);
            return Err(Error::field("header: length of the payload", expected, total_len));
        }
        Ok(header)
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&u64::from(self.table_len).to_le_bytes());
        bytes[24..32].copy_from_slice(&self.total_len.to_le_bytes());
        bytes[32..].copy_from_slice(self.table_sha256.as_bytes());
        bytes
    }

    /// The bytes of the file that hold the frame table. Never longer than [`MAX_TABLE_BYTES`].
    pub fn table_range(&self) -> Range<u64> {
        let start = len_u64(&[0; HEADER_BYTES]);
        start..start + u64::from(self.table_len)
    }

    /// Length of the whole file.
    pub const fn total_len(&self) -> u64 {
        self.total_len
    }

    /// Digest of the frame table: what a record names as `payload_table_sha256`.
    pub const fn table_sha256(&self) -> Sha256Digest {
        self.table_sha256
    }

    /// Refuses a payload that is not the publisher's own full payload, as the record names it.
    pub fn require(&self, published: Sha256Digest) -> Result<(), Error> {
        if self.table_sha256 == published {
            return Ok(());
        }
        Err(Error::Foreign {
            what: "sha256 of the frame table".to_owned(),
            expected: published.to_string(),
            got: self.table_sha256.to_string(),
        })
    }
}

pub(super) fn len_u64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
