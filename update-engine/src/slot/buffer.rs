//! Memory that a disk may read from and write to directly.
//!
//! Direct I/O wants buffers that start on a block boundary. [`AlignedBuf`] is such a buffer with a safe face: it starts on a
//! 4096-byte boundary, is a multiple of 4096 bytes long, is zero when made, and never moves or grows.
//!
//! ```
//! use update_engine::slot::buffer::{ALIGNMENT, AlignedBuf};
//!
//! let buffer = AlignedBuf::zeroed(5000);
//! assert_eq!(buffer.as_slice().len(), 8192);
//! assert_eq!(buffer.as_slice().as_ptr().align_offset(ALIGNMENT), 0);
//! ```

/// The boundary and the unit of every direct transfer, in bytes: the largest logical block in use.
pub const ALIGNMENT: usize = 4096;

/// A reusable buffer that is fit for direct I/O.
pub struct AlignedBuf {
    // One block longer than asked for, so that an aligned start lies inside. It is never resized: that could move it.
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuf {
    /// A zeroed buffer of at least `length_bytes`, rounded up to the next multiple of [`ALIGNMENT`] (at least one block).
    #[must_use]
    pub fn zeroed(length_bytes: usize) -> Self {
        let length = length_bytes.max(1).next_multiple_of(ALIGNMENT);
        let memory = vec![0; length + ALIGNMENT - 1];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start, length }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.length
    }

    /// All of its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    /// All of its bytes, to fill.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }

    /// Copies `bytes` to the front and zeroes what follows, up to `padded` bytes; returns those `padded` bytes.
    ///
    /// What the buffer held before never reaches the disk as padding. `None` if either does not fit.
    pub fn fill_padded(&mut self, bytes: &[u8], padded: usize) -> Option<&[u8]> {
        let target = self.as_mut_slice().get_mut(..padded)?;
        target.get_mut(..bytes.len())?.copy_from_slice(bytes);
        target[bytes.len()..].fill(0);
        Some(target)
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsMut<[u8]> for AlignedBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlignedBuf").field("length", &self.length).finish_non_exhaustive()
    }
}

/// Whether `bytes` may be handed to a direct transfer as they lie in memory.
#[must_use]
pub fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(ALIGNMENT) == 0 && bytes.len().is_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_zero_and_a_multiple_of_a_block_whatever_was_asked() {
        for asked in [0, 1, 511, 4095, 4096, 4097, 262_144, 1_048_577] {
            let mut buffer = AlignedBuf::zeroed(asked);
            assert!(is_aligned(buffer.as_slice()), "asked for {asked}");
            assert!(buffer.capacity() >= asked.max(1));
            assert!(buffer.as_slice().iter().all(|&byte| byte == 0));
            buffer.as_mut_slice().fill(7);
            let moved = buffer;
            assert!(is_aligned(moved.as_slice()), "moving the buffer keeps its place");
        }
    }

    #[test]
    fn padding_is_zero_even_in_a_used_buffer() {
        let mut buffer = AlignedBuf::zeroed(8192);
        buffer.as_mut_slice().fill(0xEE);
        let padded = buffer.fill_padded(b"tail", 4096).unwrap();
        assert_eq!(&padded[..4], b"tail");
        assert_eq!(padded.len(), 4096);
        assert!(padded[4..].iter().all(|&byte| byte == 0));
        assert_eq!(buffer.fill_padded(&[1; 10], 5), None);
        assert_eq!(buffer.fill_padded(&[1; 10], 8193), None);
    }
}
