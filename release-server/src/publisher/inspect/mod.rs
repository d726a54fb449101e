//! A record or a payload explained, without trusting it.

use std::path::Path;

use manifests::digest::Sha256Digest;
use manifests::foreign::{HEAD_BYTES, describe};
use manifests::keyring::KeyId;
use manifests::release::{Notes, Record, SlotName, Verity};
use payload::format::{Frame, FrameTable, ImageEntry};
use payload::window::ReadAt as _;
use serde::Serialize;

use super::Error;
use super::check::read_envelope;
use super::files::open_sized;

mod advice;
mod explain;
mod inside;

pub use advice::{Packed, Warning};
pub use explain::{Explanation, ImageContents, OtherFiles, Share, What, explain};

/// What a file says of itself. Nothing in it was verified.
#[derive(Debug, Serialize)]
#[serde(tag = "file", rename_all = "lowercase")]
pub enum Inspection {
    /// A release record.
    Record(Box<RecordSummary>),
    /// A payload.
    Payload(Box<PayloadSummary>),
}

/// What a record claims.
#[derive(Debug, Serialize)]
pub struct RecordSummary {
    /// Always false: signatures were not looked at.
    pub verified: bool,
    /// Digest that names the release.
    pub digest: Sha256Digest,
    /// Product.
    pub product: String,
    /// Version label.
    pub version: String,
    /// Sequence.
    pub sequence: u64,
    /// Architecture.
    pub arch: String,
    /// Board.
    pub board: String,
    /// RFC 3339.
    pub created: String,
    /// Floor it sets.
    pub not_below: u64,
    /// Oldest release it may follow.
    pub minimum_source: Option<u64>,
    /// Channels; empty = any.
    pub channels: Vec<String>,
    /// Urgent.
    pub urgent: bool,
    /// Keys it revokes.
    pub revoked_keys: Vec<KeyId>,
    /// Digest of the publisher's own payload's frame table.
    pub payload_table_sha256: Option<Sha256Digest>,
    /// Keys that claim to have signed.
    pub claimed_signers: Vec<KeyId>,
    /// Notes.
    pub notes: Option<Notes>,
    /// Images.
    pub images: Vec<ImageSummary>,
}

/// An image, as a record or a payload describes it.
#[derive(Debug, Serialize)]
pub struct ImageSummary {
    /// Name.
    pub name: String,
    /// Only for this slot.
    pub slot: Option<SlotName>,
    /// Bytes.
    pub size: u64,
    /// Bytes of a window.
    pub window_size: u32,
    /// Number of windows.
    pub windows: u64,
    /// Digest of the window table.
    pub table_sha256: Sha256Digest,
    /// What the kernel has to be told of its tree of hashes. A payload says nothing of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verity: Option<Verity>,
}

/// What a payload claims.
#[derive(Debug, Serialize)]
pub struct PayloadSummary {
    /// Always false: nothing was decoded or compared.
    pub verified: bool,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of the images it makes.
    pub image_bytes: u64,
    /// Bytes of its frame table.
    pub table_bytes: u64,
    /// Digest of its frame table.
    pub table_sha256: Sha256Digest,
    /// Images it makes.
    pub images: Vec<ImageSummary>,
    /// Images it leans on; empty for a full payload.
    pub sources: Vec<ImageSummary>,
    /// Sums by kind of frame.
    pub frames: Vec<KindSummary>,
    /// The frames that take most bytes of it, most first.
    pub largest: Vec<FrameSummary>,
    /// Where its bytes go, if the release it makes was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<Explanation>,
}

/// All frames of one kind.
#[derive(Debug, Serialize)]
pub struct KindSummary {
    /// Number of the kind in the format.
    pub kind: u8,
    /// Its name.
    pub name: &'static str,
    /// Frames.
    pub frames: u64,
    /// Windows they make.
    pub windows: u64,
    /// Bytes of images they make.
    pub output_bytes: u64,
    /// Bytes of the payload they take.
    pub blob_bytes: u64,
}

/// One frame.
#[derive(Debug, Serialize)]
pub struct FrameSummary {
    /// Place in the frame table.
    pub frame: u32,
    /// Image that it makes a part of.
    pub image: String,
    /// Only for this slot.
    pub slot: Option<SlotName>,
    /// First window it makes.
    pub first_window: u32,
    /// Windows it makes.
    pub windows: u32,
    /// Byte of the image that they begin at.
    pub offset: u64,
    /// Number of its kind in the format.
    pub kind: u8,
    /// Name of that.
    pub name: &'static str,
    /// Bytes of the image it makes.
    pub output_bytes: u64,
    /// Bytes of the payload it takes.
    pub blob_bytes: u64,
    /// What most of these go to, if the release was given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Share>,
}

/// Reads what a record or payload file says, whichever it is. Of a payload, at most `most` frames are named.
pub fn inspect(path: &Path, most: usize) -> Result<Inspection, Error> {
    let (file, length) = open_sized(path)?;
    let mut head = [0; HEAD_BYTES];
    let head = &mut head[..usize::try_from(length).map_or(HEAD_BYTES, |length| length.min(HEAD_BYTES))];
    file.read_exact_at(head, 0).map_err(Error::file("read", path))?;
    match head.get(..8) {
        Some(b"OTARECv1") => {
            let envelope = read_envelope(path)?;
            let record = envelope.record_untrusted().map_err(Error::record(path))?;
            Ok(Inspection::Record(Box::new(summarise_record(record, envelope.digest(), envelope.claimed_signers().collect()))))
        }
        Some(b"OTAPAYLD") => {
            let table = FrameTable::read_unbound(&file, length).map_err(Error::payload(path))?;
            Ok(Inspection::Payload(Box::new(summarise_payload(&table, most))))
        }
        _ => Err(Error::Unknown { path: path.to_owned(), got: describe(head) }),
    }
}

fn summarise_record(record: Record, digest: Sha256Digest, claimed_signers: Vec<KeyId>) -> RecordSummary {
    let image = |image: &manifests::release::Image| ImageSummary {
        name: image.name.clone(),
        slot: image.slot,
        size: image.table.image_size(),
        window_size: image.table.window_size(),
        windows: u64::from(image.table.count()),
        table_sha256: image.table.sha256(),
        verity: image.verity.clone(),
    };
    RecordSummary {
        verified: false,
        digest,
        images: record.images.iter().map(image).collect(),
        product: record.product,
        version: record.version.to_string(),
        sequence: record.sequence.get(),
        arch: record.arch,
        board: record.board,
        created: record.created.to_string(),
        not_below: record.not_below.get(),
        minimum_source: record.minimum_source.map(manifests::version::Sequence::get),
        channels: record.channels,
        urgent: record.urgent,
        revoked_keys: record.revoked_keys,
        payload_table_sha256: record.payload_table_sha256,
        claimed_signers,
        notes: record.notes,
    }
}

fn summarise_payload(table: &FrameTable, most: usize) -> PayloadSummary {
    let header = table.header();
    let table_range = header.table_range();
    let frames = table.totals().into_iter().map(|(kind, totals)| KindSummary {
        kind: kind.number(),
        name: kind.name(),
        frames: totals.frames,
        windows: totals.windows,
        output_bytes: totals.output_bytes,
        blob_bytes: totals.blob_bytes,
    });
    PayloadSummary {
        verified: false,
        size: header.total_len(),
        image_bytes: table.images().iter().map(|image| image.size).sum(),
        table_bytes: table_range.end - table_range.start,
        table_sha256: header.table_sha256(),
        images: table.images().iter().map(summarise_entry).collect(),
        sources: table.sources().iter().map(summarise_entry).collect(),
        frames: frames.collect(),
        largest: largest_frames(table, most).iter().map(|frame| summarise_frame(table, frame)).collect(),
        release: None,
    }
}

/// The frames that take most bytes of the payload, most first; of equals the first.
fn largest_frames(table: &FrameTable, most: usize) -> Vec<Frame<'_>> {
    let bytes = |frame: &Frame<'_>| frame.blob().end - frame.blob().start;
    let mut frames: Vec<Frame<'_>> = table.frames().filter(|frame| bytes(frame) > 0).collect();
    frames.sort_by_key(|frame| (std::cmp::Reverse(bytes(frame)), frame.index()));
    frames.truncate(most);
    frames
}

fn summarise_frame(table: &FrameTable, frame: &Frame<'_>) -> FrameSummary {
    let image = table.images().get(frame.image());
    let windows = frame.windows();
    FrameSummary {
        frame: frame.index(),
        image: image.map_or_else(String::new, |image| image.name.clone()),
        slot: image.and_then(|image| image.slot),
        first_window: windows.start,
        windows: windows.end - windows.start,
        offset: frame.image_offset(),
        kind: frame.kind().number(),
        name: frame.kind().name(),
        output_bytes: u64::try_from(frame.output_len()).unwrap_or(u64::MAX),
        blob_bytes: frame.blob().end - frame.blob().start,
        files: Vec::new(),
    }
}

fn summarise_entry(image: &ImageEntry) -> ImageSummary {
    ImageSummary {
        name: image.name.clone(),
        slot: image.slot,
        size: image.size,
        window_size: image.window_size,
        windows: image.window_count(),
        table_sha256: image.table_sha256,
        verity: None,
    }
}
