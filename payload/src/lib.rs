//! Images to payloads to images.
//!
//! A payload is a *recipe* for the windows of a release's images. It needs no trust: whatever a recipe makes is compared with
//! the digests of the signed record before anybody may write it.
//!
//! | module | does |
//! | --- | --- |
//! | [`mod@format`] | the file byte by byte: header, frame table, blobs |
//! | [`build`] | images → payload, in parallel, the same bytes whatever the number of threads |
//! | [`apply`] | blobs → bytes: which frames are needed, which ranges to fetch, one decoder per thread |
//! | [`window`] | bytes → [`window::Verified`]: the only door through which output leaves, and only if the record names it |
//! | [`verity`] | the tree of hashes that the kernel compares an image with at every boot |
//! | [`limits`] | every cap on a payload, each with its reason |
//!
//! # Promises
//!
//! * A [`window::Verified`] exists only if each of its windows has the digest that a [`manifests::release::Release`] signs, and
//!   its bytes cannot be changed afterwards.
//! * Memory is bounded by [`limits`], whatever a payload claims: lengths are checked before anything is allocated.
//! * Parsers and decoders return errors for any bytes; they never panic.
//!
//! Never: network, database, clock. Files are seen through [`window::ReadAt`], [`std::io::Read`] and [`std::io::Write`].
//!
//! ```
//! # use manifests::{keyring::*, release::*, version::*};
//! use payload::{apply::{Decoder, NoSources}, build, format::FrameTable, window::Verified};
//!
//! // The publisher's side: an image becomes a payload and a signed record.
//! let image = vec![7_u8; 600_000];
//! let source = build::Image { name: "root", slot: None, size: 600_000, data: &image };
//! let (mut spool, mut file) = (std::io::Cursor::new(Vec::new()), Vec::new());
//! let mut built = build::full(&[source], &build::Options::default(), &mut spool, &mut file, &mut |_| {})?;
//! # let record = Record {
//! #     product: "demo".into(), arch: "x86_64".into(), board: "demo".into(), version: Version::parse("1.0.0")?,
//! #     sequence: Sequence::new(1).unwrap(), created: "2026-01-01T00:00:00Z".parse()?, not_below: Sequence::ZERO,
//! #     minimum_source: None, channels: vec![], urgent: false, revoked_keys: vec![], notes: None,
//! #     payload_table_sha256: Some(built.table.header().table_sha256()),
//! #     images: vec![manifests::release::Image { name: "root".into(), slot: None, table: built.windows.remove(0), verity: None }],
//! # };
//! # let key = SecretKey::from_seed(&[7; 32]);
//! # let mut envelope = Envelope::unsigned(&record)?;
//! # envelope.sign(&key)?;
//! # let release = envelope.verify(&Keyring::new([("demo".into(), key.public())], std::num::NonZeroU32::MIN, &[])?)?;
//!
//! // The host's side: each frame alone, into a buffer of its own, through the one door.
//! let table = FrameTable::read(&file, u64::try_from(file.len())?, release.record())?;
//! let mut decoder = Decoder::new()?;
//! for frame in table.frames() {
//!     let blob = frame.blob();
//!     let blob = &file[usize::try_from(blob.start)?..usize::try_from(blob.end)?];
//!     let mut buffer = vec![0; frame.output_len()];
//!     decoder.decode(&frame, blob, &NoSources, &mut buffer)?;
//!     let verified = Verified::check(&release, frame.image(), frame.windows(), buffer).map_err(|wrong| wrong.to_string())?;
//!     let offset = usize::try_from(verified.image_offset())?;
//!     assert_eq!(verified.bytes(), &image[offset..offset + verified.bytes().len()]);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// Tests count in usize and offsets in u64; on the 64-bit machines they run on, neither is cut.
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

pub mod apply;
pub mod build;
#[cfg(test)]
mod edits;
mod error;
pub mod format;
pub mod limits;
mod parallel;
#[cfg(test)]
mod testing;
mod varint;
pub mod verity;
pub mod window;

pub use error::Error;
