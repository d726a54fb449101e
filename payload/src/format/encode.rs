//! Writing the front of a payload: header and frame table.

use manifests::digest::Sha256Digest;
use manifests::release::SlotName;

use super::frame::{Extent, Kind, Source};
use super::header::{Header, len_u64};
use super::table::{FrameTable, ImageEntry};
use crate::error::Error;
use crate::varint::{push as push_varint, zigzag};

/// A frame to be written.
#[derive(Clone, Debug)]
pub(crate) struct NewFrame {
    pub(crate) kind: Kind,
    /// First byte of its output in its image.
    pub(crate) output_offset: u64,
    pub(crate) windows: u32,
    pub(crate) blob_len: u64,
    pub(crate) extents: Vec<Extent>,
}

/// Header and frame table of a payload, and the table as a reader sees it: what a reader would refuse is not written.
pub(crate) fn encode_payload_front(
    images: &[ImageEntry],
    sources: &[ImageEntry],
    frames: &[NewFrame],
) -> Result<(Vec<u8>, FrameTable), Error> {
    let mut table = Vec::new();
    for list in [images, sources] {
        push_varint(&mut table, count(list.len()));
        list.iter().for_each(|image| push_image(&mut table, image));
    }
    push_varint(&mut table, count(frames.len()));
    frames.iter().for_each(|frame| push_frame(&mut table, frame));

    let header_len = len_u64(&[0; crate::limits::HEADER_BYTES]);
    let blobs = frames.iter().fold(0_u64, |sum, frame| sum.saturating_add(frame.blob_len));
    let total = header_len.saturating_add(len_u64(&table)).saturating_add(blobs);
    let header = Header::new(len_u64(&table), total, Sha256Digest::of(&table))?;
    let front = [&header.to_bytes()[..], &table].concat();
    Ok((front, FrameTable::parse_unbound(header, table)?))
}

fn push_image(table: &mut Vec<u8>, image: &ImageEntry) {
    // A name too long for its length byte is cut here and refused by the reader's check above.
    table.push(u8::try_from(image.name.len()).unwrap_or(u8::MAX));
    table.extend_from_slice(image.name.as_bytes());
    table.push(match image.slot {
        None => 0,
        Some(SlotName::A) => 1,
        Some(SlotName::B) => 2,
    });
    table.extend_from_slice(&image.size.to_le_bytes());
    table.extend_from_slice(&image.window_size.to_le_bytes());
    table.extend_from_slice(image.table_sha256.as_bytes());
}

fn push_frame(table: &mut Vec<u8>, frame: &NewFrame) {
    table.push(frame.kind.number());
    push_varint(table, u64::from(frame.windows));
    push_varint(table, frame.blob_len);
    push_varint(table, count(frame.extents.len()));
    push_extents(table, &frame.extents, frame.output_offset);
}

/// Bytes that extents take in the table, of a frame whose output begins at `output_offset`.
pub(crate) fn extents_len(extents: &[Extent], output_offset: u64) -> usize {
    let mut bytes = Vec::new();
    push_extents(&mut bytes, extents, output_offset);
    bytes.len()
}

fn push_extents(table: &mut Vec<u8>, extents: &[Extent], output_offset: u64) {
    let mut expected = output_offset;
    for extent in extents {
        push_varint(
            table,
            match extent.source {
                Source::Target => 0,
                Source::Image(index) => u64::from(index) + 1,
            },
        );
        push_varint(table, zigzag(extent.offset.wrapping_sub(expected).cast_signed()));
        push_varint(table, extent.length);
        expected = extent.offset.wrapping_add(extent.length);
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
