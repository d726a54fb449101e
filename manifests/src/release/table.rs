//! Window tables: one SHA-256 per fixed-size window of a finished image.

use crate::digest::Sha256Digest;
use crate::limits::{LARGE_IMAGE_BYTES, LARGE_WINDOW_BYTES, MAX_WINDOWS, WINDOW_BYTES};
use crate::release::RecordError;

/// Digests of the windows of one image. Window `n` is bytes `n * window_size ..`, the last one may be shorter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WindowTable {
    image_size: u64,
    window_size: u32,
    digests: Vec<Sha256Digest>,
}

impl WindowTable {
    /// A table for an image of `image_size` bytes at the standard window size; refuses a wrong number of digests.
    pub fn new(image_size: u64, digests: Vec<Sha256Digest>) -> Result<Self, RecordError> {
        Self::with_window_size(image_size, Self::standard_window_size(image_size), digests)
    }

    pub(super) fn with_window_size(image_size: u64, window_size: u32, digests: Vec<Sha256Digest>) -> Result<Self, RecordError> {
        let expected = Self::count_for(image_size, window_size);
        let got = u64::try_from(digests.len()).unwrap_or(u64::MAX);
        if image_size == 0 || expected != got || got > MAX_WINDOWS {
            return Err(RecordError::TableLength { expected: expected.saturating_mul(32), got: got.saturating_mul(32) });
        }
        Ok(Self { image_size, window_size, digests })
    }

    /// 256 KiB, or 1 MiB for an image above 16 GiB.
    pub const fn standard_window_size(image_size: u64) -> u32 {
        if image_size > LARGE_IMAGE_BYTES { LARGE_WINDOW_BYTES } else { WINDOW_BYTES }
    }

    /// Windows an image has.
    pub const fn count_for(image_size: u64, window_size: u32) -> u64 {
        image_size.div_ceil(window_size as u64)
    }

    /// Bytes of the image.
    pub const fn image_size(&self) -> u64 {
        self.image_size
    }

    /// Bytes of a window but the last.
    pub const fn window_size(&self) -> u32 {
        self.window_size
    }

    /// Number of windows.
    pub fn count(&self) -> u32 {
        // At most MAX_WINDOWS by construction.
        u32::try_from(self.digests.len()).unwrap_or(u32::MAX)
    }

    /// Digest of window `index`.
    pub fn digest(&self, index: u32) -> Option<Sha256Digest> {
        self.digests.get(usize::try_from(index).ok()?).copied()
    }

    /// All digests in order.
    pub fn digests(&self) -> &[Sha256Digest] {
        &self.digests
    }

    /// Byte offset and length of window `index` in the image.
    pub fn range(&self, index: u32) -> Option<(u64, u32)> {
        let offset = u64::from(index).checked_mul(u64::from(self.window_size))?;
        let left = self.image_size.checked_sub(offset).filter(|left| *left > 0)?;
        Some((offset, u32::try_from(left).map_or(self.window_size, |left| left.min(self.window_size))))
    }

    /// Digest over the table itself, as the signed part names it.
    pub fn sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&self.to_bytes())
    }

    /// 32 bytes a window.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.digests.iter().flat_map(|digest| *digest.as_bytes()).collect()
    }
}
