//! The payload file, byte by byte.
//!
//! A payload (`VERSION.payload`, `FROM-to-VERSION.payload`) makes the images of one release. Fixed numbers are little endian;
//! `varint` is an unsigned LEB128 number of at most 64 bits in its shortest form.
//!
//! # Header (64 bytes)
//!
//! ```text
//!  0  8  magic "OTAPAYLD"
//!  8  4  format version, 1
//! 12  4  reserved, 0
//! 16  8  T = length of the frame table, 1 to 8 MiB
//! 24  8  length of the whole payload
//! 32 32  SHA-256 of the frame table
//! ```
//!
//! The last field is what a record may name as `payload_table_sha256`: with it a host refuses a foreign payload after 64 bytes.
//!
//! # Frame table (T bytes)
//!
//! ```text
//! varint  number of images, 1 to 16: exactly the images of the record, in its order
//!         for each image
//!           1  length of its name, 1 to 64
//!           …  name, printable ASCII without blanks
//!           1  slot: 0 either, 1 a, 2 b
//!           8  size in bytes
//!           4  window size in bytes: 262144, or 1048576 above 16 GiB
//!          32  SHA-256 of its window table, as the record signs it
//! varint  number of source images, 0 to 16: what the frames of a delta lean on
//!         for each source image the same fields, by the record of the release it belongs to
//! varint  number of frames
//!         for each frame
//!           1       kind
//!           varint  windows it makes, 1 or more
//!           varint  length of its blob
//!           varint  number of extents, at most 512
//!                   for each extent
//!           varint    source: 0 = the image this frame makes, below the frame; n = source image n (counted from 1)
//!           varint    zigzag of (offset - end of the extent before, or - first byte of the frame's output for the first)
//!           varint    length in bytes, 1 or more
//! ```
//!
//! Frames stand in ascending order and make every window of every image exactly once: the first frame starts with window 0 of
//! the first image, each next one where the one before ended, and none reaches over the end of an image. A frame makes at most
//! 1 MiB from at most 4 MiB of extents. All images together have at most 131,072 windows, and so have all source images. The table ends
//! with the last frame: a byte more or less is refused.
//!
//! # Blobs
//!
//! The blobs follow in the order of their frames, without gaps: the first begins at byte 64 + T, and the last ends the file. So
//! any frame can be fetched alone by a range, and a whole payload can be applied as one stream.
//!
//! # Kinds of frame
//!
//! | kind | name | blob | extents | output |
//! | --- | --- | --- | --- | --- |
//! | 0 | zero | none | none | zeros |
//! | 1 | raw | the output | none | the blob |
//! | 2 | zstd | one zstd frame | none | its content |
//! | 3 | copy | none | exactly the output's length | the extents, one after the other |
//! | 4 | zstd with prefix | one zstd frame | 1 or more | its content, decoded with the joined extents as prefix |
//! | 5 | difference | steps (below) | 1 or more | old bytes, each with a difference added, and new ones |
//!
//! The blob of a difference:
//!
//! ```text
//! varint  length of the zstd frame of the steps
//! varint  length of the zstd frame of the differences
//!   …     the steps, decoded at most 1 MiB: for each step
//!           varint  zigzag of the way to go in the joined extents, from where the step before ended, or from their start
//!           varint  A = bytes to take there
//!           varint  N = bytes that are new; A or N is 1 or more
//!   …     the differences: A bytes for each step, which are added to those taken, modulo 256
//!   …     the new bytes: N for each step, decoded with the joined extents as prefix
//! ```
//!
//! The output is, step for step, A bytes taken and changed, then N new ones: exactly as many as the frame makes. A section of no bytes is no zstd frame
//! but nothing. The place of each step lies within the joined extents, also where it takes nothing.
//!
//! A zstd frame states its content size: that of kinds 2 and 4 is the output's, that of a section of kind 5 the length of the section (for the
//! differences the sum of all A, for the new bytes that of all N). Its window is at most 2^23 bytes; it names no dictionary; nothing follows it. A blob is at most 64 KiB longer than its output. Every frame has the shape above whatever its kind, so a
//! reader that meets a kind it does not decode ([`Kind::Unknown`], or one this build lacks) loses that frame only.
//!
//! # Trust
//!
//! None. [`FrameTable::parse`] checks that the payload says it makes the images of a record (sizes, windows and digests of
//! window tables are equal); whether it does is seen window by window in [`crate::window::Verified::check`].

mod cursor;
mod encode;
mod frame;
mod header;
mod parse;
mod table;

pub(crate) use encode::{NewFrame, encode_payload_front, extents_len};
pub use frame::{Extent, Extents, Frame, FrameName, Kind, Source};
pub use header::Header;
pub use table::{FrameTable, ImageEntry, KindTotals};

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
