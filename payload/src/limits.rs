//! Every cap on a payload, in one place, each with its reason. A reader refuses what exceeds one, however honest it looks.

/// Bytes of the fixed header: the first range a host asks for.
pub const HEADER_BYTES: usize = 64;

/// Most output of one frame. One output buffer of this size is all that decoding needs beside prefix and blob; measured on a
/// 1 GiB ext4 image, frames of 1 MiB make full payloads 5 % smaller than frames of 256 KiB.
pub const MAX_OUTPUT_BYTES: u32 = 1024 * 1024;

/// Most bytes of source that one frame reads. Measured: more than 1 MiB of well-chosen prefix gains nothing on deltas; 4 MiB
/// gains 3 % on full payloads that lean on their own earlier windows.
pub const MAX_PREFIX_BYTES: u64 = 4 * 1024 * 1024;

/// Most bytes that a blob may be longer than the output it makes: stored content plus the framing of any codec.
pub const MAX_BLOB_EXCESS_BYTES: u32 = 64 * 1024;

/// Most bytes of the steps of a difference, decoded: a step takes 3 and makes 1 or more, but one that makes so few is not worth it.
pub const MAX_STEPS_BYTES: usize = 1024 * 1024;

/// Most extents of one frame: 4 MiB of prefix in pieces of 16 KiB is 256; twice that leaves room for unaligned edges.
pub const MAX_EXTENTS: u16 = 512;

/// Largest zstd window, as a power of two. 8 MiB covers the largest prefix and output together.
pub const MAX_ZSTD_WINDOW_LOG: u32 = 23;

/// Longest frame table. With the most windows a record may have (131,072) it leaves 64 bytes a window: a frame of a full payload
/// takes 4 to 8, one of a delta about 7 and 4 more for each extent. A builder gives each frame its share, so that the largest images fit.
pub const MAX_TABLE_BYTES: u32 = 8 * 1024 * 1024;
