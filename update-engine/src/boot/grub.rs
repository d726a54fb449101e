//! Boot control through GRUB's environment block.
//!
//! **Who counts the tries**: `grub.cfg`, with the snippet `dist/grub/ota.cfg`: it spends one before it starts a slot on trial, and does not
//! start that slot if the try cannot be written. A slot that is good is not counted. Layout: [`block`]; variables: `grub/variables.rs`.
//!
//! **What is atomic**: every change. The file is written in place, as one write of its 1024 bytes of which only the first 512 differ, then
//! flushed: the file system's own structures do not change, and a disk writes 512 bytes as a whole. Truncating the file, or writing
//! another one and renaming it, leaves states on FAT in which there is none. GRUB writes the same two sectors without a flush; if that
//! is lost in a power cut, one try less is counted, which is harmless.
//!
//! ```text
//! 1. the block, in place                                              flush
//! 2. its copy (`copy`), in place: what the loader reads where the block is damaged     flush
//! ```
//!
//! The copy is brought up to date after the block, when a slot becomes primary: read alone it names a slot that was good. A block that is
//! damaged is read from the copy, said as a weakness, and mended by the next change.
//!
//! **Never**: creates the block, changes the length of one that is whole, or touches variables of others.

pub mod block;
mod control;
mod variables;

pub use block::{Block, BlockError};
pub(crate) use control::GrubEnv;
pub(crate) use variables::Spelling;
