//! Compressed files of an erofs: where their clusters are. What is in those is not looked at.
//!
//! A file is a row of logical clusters, each a block long. Compressed data begin in a *head*, which names the block they are in; the clusters
//! that follow are no heads, and the first of them may say how many blocks the head has (else it has one). A *plain* head is not compressed.

use super::{Disk, Node};
use crate::filesystem::MAX_PIECES;
use crate::filesystem::reader::{Read, Unread, index, u8_at, u16_at, u32_at};
use crate::filesystem::walk::{Part, add_part};

const LAYOUT_FULL: u16 = 1;
const LAYOUT_COMPACT: u16 = 3;

const ADVISE_COMPACT_2_BYTES: u16 = 0x1;
const ADVISE_BIG_CLUSTERS: u16 = 0x2;
const ADVISE_TAIL_INLINE: u16 = 0x8;
const ADVISE_TAIL_ELSEWHERE: u16 = 0x20;
const WHOLE_FILE_ELSEWHERE: u8 = 0x80;

const NO_HEAD: u32 = 2;
/// In the distance of a cluster to its head: it is the number of the head's blocks instead.
const IS_COUNT: u32 = 1 << 11;

/// One logical cluster.
#[derive(Clone, Copy)]
enum Cluster {
    /// Data begin so many bytes into it, and are packed in this block.
    Head {
        begins_at: u32,
        block: u64,
    },
    /// Its head has so many blocks.
    Count(u32),
    Other,
}

/// `u32 place of the tail elsewhere, or u16 unused and u16 bytes of the tail inline; u16 advice, u8 algorithms, u8 bits of a cluster`.
struct Header {
    tail_bytes: u16,
    advice: u16,
    algorithm: u8,
    bits: u8,
}

impl Disk<'_> {
    pub(super) fn packed(&self, node: &Node, layout: u16) -> Read<Vec<Part>> {
        let start = node.end.next_multiple_of(8);
        let bytes = self.reader.bytes("map of a compressed file", start, 8)?;
        let (tail_bytes, advice) = (u16_at(&bytes, 2)?, u16_at(&bytes, 4)?);
        let header = Header { tail_bytes, advice, algorithm: u8_at(&bytes, 6)?, bits: u8_at(&bytes, 7)? };
        if header.bits & WHOLE_FILE_ELSEWHERE != 0 {
            return Ok(Vec::new());
        }
        self.packed_with.set(self.packed_with.get().or(Some(algorithm(header.algorithm))));
        let count = node.size.div_ceil(self.block << (header.bits & 7));
        if index(count) > MAX_PIECES {
            return Err(Unread::because("a file has more clusters than are looked at"));
        }
        let (clusters, end) = match layout {
            LAYOUT_FULL => self.full(start + 16, count)?,
            LAYOUT_COMPACT => self.compact(start + 8, count, &header)?,
            other => return Err(Unread(format!("a file has the layout {other}, which is not known here"))),
        };
        self.clusters_to_parts(node, &clusters, &header, end)
    }

    fn clusters_to_parts(&self, node: &Node, clusters: &[Cluster], header: &Header, end: u64) -> Read<Vec<Part>> {
        let cluster_bytes = self.block << (header.bits & 7);
        let mut heads = Vec::new();
        for (number, at) in (0..).zip(0..clusters.len()) {
            let Some(Cluster::Head { begins_at, block }) = clusters.get(at) else { continue };
            // The end of the file may be marked as if data began there.
            if number * cluster_bytes + u64::from(*begins_at) < node.size {
                let length = match clusters.get(at + 1) {
                    Some(Cluster::Count(blocks)) => u64::from(*blocks) * self.block,
                    _ => cluster_bytes,
                };
                heads.push((*block, length));
            }
        }
        let is_inline = header.advice & ADVISE_TAIL_INLINE != 0 && header.tail_bytes > 0;
        // What is said of the last head is true of none of the blocks then: its data are elsewhere.
        if is_inline || header.advice & ADVISE_TAIL_ELSEWHERE != 0 {
            heads.pop();
        }
        let mut parts = Vec::new();
        for (block, length) in heads {
            let start = block.saturating_mul(self.block);
            add_part(&mut parts, Part { range: start..start.saturating_add(length), at: None })?;
        }
        if is_inline {
            add_part(&mut parts, Part { range: end..end + u64::from(header.tail_bytes), at: None })?;
        }
        Ok(parts)
    }

    /// Eight bytes for each cluster: `u16 type, u16 offset, u32 block`, or `u16 distance to the head, u16 to the next` for one that is none.
    fn full(&self, start: u64, count: u64) -> Read<(Vec<Cluster>, u64)> {
        let bytes = self.reader.bytes("map of a compressed file", start, count.saturating_mul(8))?;
        let cluster = |entry: &[u8; 8]| {
            let kind = u32::from(u16_at(entry, 0)? & 3);
            let (begins_at, block, distance) = (u16_at(entry, 2)?.into(), u32_at(entry, 4)?.into(), u16_at(entry, 4)?.into());
            Ok(if kind == NO_HEAD { of_distance(distance) } else { Cluster::Head { begins_at, block } })
        };
        Ok((bytes.as_chunks::<8>().0.iter().map(cluster).collect::<Read<_>>()?, start + count * 8))
    }

    /// Packs of 2 clusters in 8 bytes up to a place that is a multiple of 32, then, if the header says so, as many packs of 16 clusters in
    /// 32 bytes as there are, then packs of 2 again.
    fn compact(&self, start: u64, count: u64, header: &Header) -> Read<(Vec<Cluster>, u64)> {
        let first = ((32 - start % 32) / 4 % 8).min(count);
        let dense = if header.advice & ADVISE_COMPACT_2_BYTES == 0 { 0 } else { (count - first) / 16 * 16 };
        let rest = count - first - dense;
        let length = (first + rest.next_multiple_of(2)).next_multiple_of(2) * 4 + dense * 2;
        let bytes = self.reader.bytes("map of a compressed file", start, length)?;
        let mut clusters = Vec::new();
        let (head, tail) = bytes.split_at(index(first.next_multiple_of(2) * 4).min(bytes.len()));
        let (middle, tail) = tail.split_at(index(dense * 2).min(tail.len()));
        for (packs, width) in [(head, 8), (middle, 32), (tail, 8)] {
            packs.chunks_exact(width).try_for_each(|pack| unpack(pack, header, self.block_bits, &mut clusters))?;
        }
        clusters.truncate(index(count));
        Ok((clusters, start + length))
    }
}

/// A pack is the bits of its clusters, each a type of two bits above a distance or offset, and the block that the heads in it count from.
fn unpack(pack: &[u8], header: &Header, block_bits: u8, clusters: &mut Vec<Cluster>) -> Read<()> {
    let count = if pack.len() == 8 { 2 } else { 16 };
    let bits = (pack.len() - 4) * 8 / count;
    let low_bits = u32::from(block_bits + (header.bits & 7)).max(12);
    if usize::try_from(low_bits + 2).is_ok_and(|needed| needed > bits) {
        return Err(Unread::because("a compressed file has a map of clusters too large for it"));
    }
    let is_big = header.advice & ADVISE_BIG_CLUSTERS != 0;
    let base = u64::from(u32_at(pack, pack.len() - 4)?);
    // Blocks that the data before a head take, from the base on: where all take one, the base is the block before.
    let mut before = u64::from(!is_big);
    let mut last_was_head = false;
    for cluster in 0..count {
        let at = cluster * bits;
        let value = u32_at(pack, at / 8)? >> (at % 8);
        let (low, kind) = (value & ((1 << low_bits) - 1), value >> low_bits & 3);
        let found = if kind == NO_HEAD { of_distance(low) } else { Cluster::Head { begins_at: low, block: base + before } };
        match found {
            Cluster::Head { .. } => before += 1,
            // The head before was counted as one block, unless it is in the pack before.
            Cluster::Count(blocks) if is_big => before = (before + u64::from(blocks)).saturating_sub(last_was_head.into()),
            _ => {}
        }
        last_was_head = kind != NO_HEAD;
        clusters.push(found);
    }
    Ok(())
}

const fn of_distance(distance: u32) -> Cluster {
    if distance & IS_COUNT == 0 { Cluster::Other } else { Cluster::Count(distance & !IS_COUNT) }
}

const fn algorithm(number: u8) -> &'static str {
    match number & 0xf {
        0 => "lz4",
        1 => "lzma",
        2 => "deflate",
        3 => "zstd",
        _ => "something unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::reader::Reader;

    #[test]
    fn a_file_of_more_clusters_than_are_kept_is_left_alone() {
        let image: &[u8] = include_bytes!("../fixtures/tails.erofs");
        let reader = Reader::new(&image, image.len() as u64);
        let disk = Disk::open(&reader).unwrap();
        // A map that says nothing else: at byte 8 of the image are zeros.
        let refusal = |clusters: u64| {
            let node = Node { layout: LAYOUT_COMPACT, mode: 0, size: clusters * disk.block, field: 0, end: 8 };
            disk.packed(&node, LAYOUT_COMPACT).unwrap_err().0
        };
        assert_eq!(refusal(MAX_PIECES as u64 + 1), "a file has more clusters than are looked at");
        assert_eq!(refusal(u64::MAX / disk.block), "a file has more clusters than are looked at");
        assert!(refusal(MAX_PIECES as u64).ends_with("are not in the image"), "so many are looked for");
        assert_eq!(size_of::<Cluster>() * MAX_PIECES, 64 << 20, "bytes of memory");
    }
}
