//! SHA-256 digests as a type, with the two spellings used on the wire: hex and base64.

use std::fmt;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use crate::limits::{LARGE_WINDOW_BYTES, WINDOW_BYTES};

/// A SHA-256 digest. `Display` is 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// Digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Digest of `bytes`, a window of an image. The same as [`Sha256Digest::of`]; that of a whole window of zeros, of which file
    /// systems have many, is remembered.
    pub fn of_window(bytes: &[u8]) -> Self {
        static ZEROS: [OnceLock<Sha256Digest>; 2] = [const { OnceLock::new() }; 2];
        let known = [WINDOW_BYTES, LARGE_WINDOW_BYTES].into_iter().position(|size| usize::try_from(size) == Ok(bytes.len()));
        match known {
            Some(size) if is_zero(bytes) => *ZEROS[size].get_or_init(|| Self::of(bytes)),
            _ => Self::of(bytes),
        }
    }

    /// Takes 32 bytes that already are a digest.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 hex digits of either case; anything else is `None`.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0_u8; 32];
        decode_hex(text, &mut bytes).then_some(Self(bytes))
    }

    /// Reads standard base64 of exactly 32 bytes (as in the `sha256` attribute of an Omaha action).
    pub fn from_base64(text: &str) -> Option<Self> {
        let bytes = BASE64.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }

    /// Standard base64 with padding.
    pub fn to_base64(&self) -> String {
        BASE64.encode(self.0)
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| de::Error::custom(format!("expected 64 hex digits of a SHA-256, got {text:?}")))
    }
}

/// Whether there is nothing but zeros; the first kilobytes that are something else end the search.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Fills `out` from exactly twice as many hex digits; says whether it could.
pub(crate) fn decode_hex(text: &str, out: &mut [u8]) -> bool {
    if !text.is_ascii() || text.len() != out.len() * 2 {
        return false;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_hex_and_base64() {
        let digest = Sha256Digest::of(b"testing\n");
        assert_eq!(Sha256Digest::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Sha256Digest::from_hex(&digest.to_string().to_uppercase()), Some(digest));
        assert_eq!(Sha256Digest::from_base64(&digest.to_base64()), Some(digest));
    }

    #[test]
    fn a_window_has_the_digest_of_its_bytes_zeros_or_not() {
        for length in [0, 1, 4096, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 1024 * 1024] {
            let mut bytes = vec![0; length];
            assert_eq!(Sha256Digest::of_window(&bytes), Sha256Digest::of(&bytes), "{length} zeros");
            assert_eq!(Sha256Digest::of_window(&bytes), Sha256Digest::of(&bytes), "{length} zeros, again");
            for place in [0, length / 2, length.saturating_sub(1)] {
                let Some(byte) = bytes.get_mut(place) else { continue };
                *byte = 1;
                assert_eq!(Sha256Digest::of_window(&bytes), Sha256Digest::of(&bytes), "{length} bytes, one at {place}");
                bytes[place] = 0;
            }
        }
    }

    #[test]
    fn anything_but_32_bytes_is_no_digest() {
        for text in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(Sha256Digest::from_hex(text), None, "{text:?}");
        }
        assert_eq!(Sha256Digest::from_base64("AAAA"), None);
    }
}
