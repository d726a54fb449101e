//! Decoding where nothing can be reached: blobs come from anyone, and codecs are written in C.
//!
//! The daemon starts itself again, as a process that has a socket, a piece of memory that both share, and nothing else: no files, no
//! network, a user of its own, and of the system calls those that reading, writing and memory take (seccomp). What a blob makes of that
//! process is bytes in the shared memory, which the daemon copies into memory of its own *before* it hashes them; so what is verified is what is written,
//! whatever the process does meanwhile.
//!
//! # Protocol
//!
//! Over the socket, numbers little endian. The process says `R` when it is confined, or `E`, two bytes of the length of words, and the words, if it
//! cannot be. Then, for each blob:
//!
//! ```text
//! daemon   1  kind of frame    4  length of the blob    4  of what it leans on    4  of the output
//! process  1  0 done, 1 refused    2  length of the words    …  words, if refused
//! ```
//!
//! A process that has refused a blob, or has made of it what the record does not have, is ended: whatever the blob has done to it, it does to no other.
//!
//! The shared memory holds what a blob leans on at 0, the blob at `BLOB_AT` and the output at `OUTPUT_AT`. Its length is sealed, so that neither side
//! can make the other read beyond its end.
//!
//! # What it costs
//!
//! A copy of each output, and two switches between processes for each frame. Frames that have no codec (zeros, stored bytes, copies) never come here.

mod client;
mod confine;
mod memory;
mod process;

use payload::limits::{MAX_BLOB_EXCESS_BYTES, MAX_OUTPUT_BYTES, MAX_PREFIX_BYTES};

pub use client::{Confined, DecoderError, Program};
pub use process::run;

/// The argument with which the daemon's program becomes the process.
pub const ARGUMENT: &str = "--decode-frames";

/// Where a blob stands in the shared memory: behind the longest prefix.
const BLOB_AT: usize = 4 << 20;
const _: () = assert!(BLOB_AT as u64 == MAX_PREFIX_BYTES, "the longest prefix fits before it");

/// Where the output stands: behind the longest blob.
const OUTPUT_AT: usize = BLOB_AT + MAX_OUTPUT_BYTES as usize + MAX_BLOB_EXCESS_BYTES as usize;

/// Bytes of the shared memory; of these only what is used takes memory.
const SHARED_BYTES: usize = OUTPUT_AT + MAX_OUTPUT_BYTES as usize;

/// What the process says first: that it is confined, or that it cannot be, and why.
const READY: u8 = b'R';
const NOT_READY: u8 = b'E';

/// Longest words of a refusal.
const MAX_WORDS: usize = 1024;

/// What is to be decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Request {
    kind: u8,
    blob: u32,
    leans_on: u32,
    output: u32,
}

impl Request {
    const BYTES: usize = 13;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = self.kind;
        for (place, number) in bytes[1..].chunks_exact_mut(4).zip([self.blob, self.leans_on, self.output]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn of_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { kind: bytes[0], blob: number(1), leans_on: number(5), output: number(9) }
    }
}
