//! erofs.

use std::cell::Cell;

use super::Contents;
use super::reader::{Read, Reader, Unread, index, u8_at, u16_at, u32_at, u64_at};
use super::walk::{Entries, Inode, Part, Volume, add_part, walk};

mod packed;

const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: u64 = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
const INCOMPAT_FRAGMENTS: u32 = 0x20;
/// Those of the features that change where things are and that are known here; later ones may move what is read.
const INCOMPAT_KNOWN: u32 = 0x7f;
/// Where a chunk would be, in the place of a hole.
const HOLE: u32 = u32::MAX;
/// Most bytes of one directory.
const MAX_DIRECTORY_BYTES: u64 = 64 << 20;
const LONGEST_NAME: usize = 255;

pub(super) fn is_it(reader: &Reader<'_>) -> bool {
    reader.bytes("superblock", SUPERBLOCK_AT, 4).is_ok_and(|bytes| u32_at(&bytes, 0) == Ok(MAGIC))
}

pub(super) fn read(reader: &Reader<'_>) -> Read<Contents> {
    let disk = Disk::open(reader)?;
    let mut contents = walk("erofs", &disk, reader.size());
    contents.packed_with = disk.packed_with.get();
    let used = disk.blocks.saturating_mul(disk.block);
    if used < reader.size() {
        contents.free.push(used..reader.size());
    }
    Ok(contents)
}

struct Disk<'a> {
    reader: &'a Reader<'a>,
    block: u64,
    block_bits: u8,
    blocks: u64,
    inodes_at: u64,
    root: u64,
    /// The file that holds the tails of others.
    tails: Option<u64>,
    packed_with: Cell<Option<&'static str>>,
}

/// What is needed of an inode.
struct Node {
    layout: u16,
    mode: u16,
    size: u64,
    /// Block or kind of chunks, by the layout.
    field: u32,
    /// Where inode and attributes end in the image.
    end: u64,
}

impl<'a> Disk<'a> {
    fn open(reader: &'a Reader<'a>) -> Read<Self> {
        let bytes = reader.bytes("superblock", SUPERBLOCK_AT, SUPERBLOCK_BYTES)?;
        let (block_bits, incompat) = (u8_at(&bytes, 12)?, u32_at(&bytes, 80)?);
        if !(9..=16).contains(&block_bits) || incompat & !INCOMPAT_KNOWN != 0 || u8_at(&bytes, 90)? != 0 {
            return Err(Unread(format!("it is an erofs of a kind that is not read here (features {incompat:#x})")));
        }
        let has_tails = incompat & INCOMPAT_FRAGMENTS != 0;
        let tails = u64_at(&bytes, 96)?;
        Ok(Self {
            reader,
            block: 1 << block_bits,
            block_bits,
            blocks: u32_at(&bytes, 36)?.into(),
            inodes_at: u64::from(u32_at(&bytes, 40)?) << block_bits,
            root: u16_at(&bytes, 14)?.into(),
            tails: (has_tails && tails != 0).then_some(tails),
            packed_with: Cell::new(None),
        })
    }

    /// `u16 format` (bit 0: 64 bytes instead of 32, then three bits of layout), `u16 attributes, u16 mode`, and by its length the rest.
    fn node(&self, number: u64) -> Read<Node> {
        let start = self.inodes_at.saturating_add(number.saturating_mul(32));
        let format = u16_at(&self.reader.bytes("inode", start, 32)?, 0)?;
        let length = if format & 1 == 0 { 32 } else { 64 };
        let bytes = self.reader.bytes("inode", start, length)?;
        let attributes = match u16_at(&bytes, 2)? {
            0 => 0,
            count => 12 + (u64::from(count) - 1) * 4,
        };
        Ok(Node {
            layout: format >> 1 & 7,
            mode: u16_at(&bytes, 4)?,
            size: if format & 1 == 0 { u32_at(&bytes, 8)?.into() } else { u64_at(&bytes, 8)? },
            field: u32_at(&bytes, 16)?,
            end: start + length + attributes,
        })
    }

    fn parts(&self, node: &Node) -> Read<Vec<Part>> {
        match node.layout {
            0 => self.flat(node, node.size.div_ceil(self.block)),
            2 => self.flat(node, node.size.div_ceil(self.block).saturating_sub(1)),
            4 => self.chunks(node),
            layout => self.packed(node, layout),
        }
    }

    /// Block after block, of which `blocks` stand together; the tail that is left follows the inode.
    fn flat(&self, node: &Node, blocks: u64) -> Read<Vec<Part>> {
        let start = u64::from(node.field) * self.block;
        let length = blocks.saturating_mul(self.block);
        let mut parts = Vec::new();
        add_part(&mut parts, Part { range: start..start.saturating_add(length), at: Some(0) })?;
        if let Some(tail) = node.size.checked_sub(length).filter(|tail| *tail > 0) {
            add_part(&mut parts, Part { range: node.end..node.end.saturating_add(tail), at: Some(length) })?;
        }
        Ok(parts)
    }

    /// A list of places, of 4 bytes each, or of 8 where they name a device as well.
    fn chunks(&self, node: &Node) -> Read<Vec<Part>> {
        let with_device = node.field & 0x20 != 0;
        let chunk = self.block << (node.field & 0x1f);
        let width: u64 = if with_device { 8 } else { 4 };
        let count = node.size.div_ceil(chunk);
        let list = self.reader.bytes("list of chunks", node.end.next_multiple_of(width), count.saturating_mul(width))?;
        let mut parts = Vec::new();
        for (number, entry) in (0..count).zip(list.chunks(index(width))) {
            let (device, place) = if with_device { (u16_at(entry, 2)?, u32_at(entry, 4)?) } else { (0, u32_at(entry, 0)?) };
            if place == HOLE || device != 0 {
                continue;
            }
            let at = number * chunk;
            let start = u64::from(place) * self.block;
            let length = chunk.min(node.size - at).next_multiple_of(self.block);
            add_part(&mut parts, Part { range: start..start.saturating_add(length), at: Some(at) })?;
        }
        Ok(parts)
    }

    /// Blocks of entries `u64 inode, u16 place of the name, u8 type, u8 unused`, then the names; the first name tells how many there are.
    fn directory(&self, node: &Node) -> Read<Inode> {
        let mut entries = Entries::new(LONGEST_NAME);
        let mut left = node.size.min(MAX_DIRECTORY_BYTES);
        for part in self.parts(node)? {
            if part.at.is_none() {
                return Err(Unread::because("a directory is compressed"));
            }
            let length = left.min(part.range.end - part.range.start);
            left -= length;
            for block in self.reader.bytes("directory", part.range.start, length)?.chunks(index(self.block)) {
                entries_of(block, &mut entries)?;
            }
        }
        Ok(Inode::Directory(entries))
    }
}

impl Volume for Disk<'_> {
    fn root(&self) -> u64 {
        self.root
    }

    fn inode(&self, number: u64) -> Read<Inode> {
        let node = self.node(number)?;
        match node.mode >> 12 {
            0x4 => match (self.directory(&node)?, self.tails) {
                (Inode::Directory(mut entries), Some(tails)) if number == self.root => {
                    entries.add(b"(tails of files)", tails)?;
                    Ok(Inode::Directory(entries))
                }
                (directory, _) => Ok(directory),
            },
            0x8 => Ok(Inode::File { size: node.size, parts: self.parts(&node)?, plain: !matches!(node.layout, 1 | 3) }),
            _ => Ok(Inode::Other),
        }
    }
}

fn entries_of(block: &[u8], entries: &mut Entries) -> Read<()> {
    let damaged = || Unread::because("a directory is damaged");
    let names_at = usize::from(u16_at(block, 8)?);
    let place = |entry: usize| u16_at(block, entry * 12 + 8).map(usize::from);
    let count = names_at / 12;
    for entry in 0..count {
        let end = if entry + 1 < count { place(entry + 1)? } else { block.len() };
        let name = block.get(place(entry)?..end).ok_or_else(damaged)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        entries.add(name, u64_at(block, entry * 12)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::MAX_NAMES_BYTES;

    /// A block of a directory that holds one name.
    fn block(name: &[u8]) -> Vec<u8> {
        [&7_u64.to_le_bytes()[..], &12_u16.to_le_bytes(), &[1, 0], name].concat()
    }

    #[test]
    fn a_name_longer_than_any_is_refused() {
        let read = |length| entries_of(&block(&vec![b'n'; length]), &mut Entries::new(LONGEST_NAME));
        assert_eq!(read(255), Ok(()));
        assert_eq!(read(256), Err(Unread::because("a directory holds a name of 256 bytes")));
        assert_eq!(read(65_000), Err(Unread::because("a directory holds a name of 65000 bytes")));
    }

    #[test]
    fn of_a_directory_of_ever_more_names_so_many_bytes_are_kept() {
        // What is no text becomes three times as long.
        let (mut entries, block) = (Entries::new(LONGEST_NAME), block(&[0xff; 255]));
        let refused = (0..MAX_NAMES_BYTES).find_map(|_| entries_of(&block, &mut entries).err());
        assert_eq!(refused, Some(Unread::because("the names of its files take more than 64 MiB")));
        assert_eq!(entries.len(), MAX_NAMES_BYTES / (255 * 3));
    }
}
