//! squashfs 4.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::Contents;
use super::reader::{Read, Reader, Unread, index, u16_at, u32_at, u64_at};
use super::walk::{Entries, Inode, Part, Volume, add_part, walk};

const MAGIC: &[u8] = b"hsqs";
const SUPERBLOCK_BYTES: u64 = 96;
/// Bytes of a block of metadata, once it is unpacked.
const METADATA_BYTES: usize = 8192;
/// Most bytes of metadata that are kept: a million inodes take some 64 MiB.
const MAX_METADATA_BYTES: usize = 256 << 20;
/// Most bytes of one structure, which is a directory or the sizes of a file's blocks.
const MAX_STRUCTURE_BYTES: u64 = 64 << 20;
const LONGEST_NAME: usize = 256;
/// What a structure costs of the budget beside its bytes.
const LOOK_COST_BYTES: u64 = 32;
/// In the place of the index of a fragment block.
const NO_FRAGMENT: u32 = u32::MAX;
/// Entries of the table of fragments in one block of metadata, each of them 16 bytes.
const FRAGMENTS_PER_BLOCK: u64 = 512;
/// In the flags: blocks of files are stored as they are.
const DATA_STORED: u16 = 0x2;
/// In the size of a block: it is stored as it is.
const STORED: u32 = 1 << 24;
/// In the size of a block of metadata.
const METADATA_STORED: u16 = 1 << 15;

pub(super) fn is_it(reader: &Reader<'_>) -> bool {
    reader.bytes("superblock", 0, 4).is_ok_and(|bytes| bytes == MAGIC)
}

pub(super) fn read(reader: &Reader<'_>) -> Read<Contents> {
    let disk = Disk::open(reader)?;
    // Only the tails of the files in a fragment block tell how long it is: the first walk is for them.
    walk("squashfs", &disk, reader.size());
    let mut contents = walk("squashfs", &disk, reader.size());
    contents.packed_with = disk.is_packed.get().then(|| disk.codec.name());
    if disk.used < reader.size() {
        contents.free.push(disk.used..reader.size());
    }
    Ok(contents)
}

/// How metadata and files are packed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Codec {
    Gzip,
    Zstd,
    Other(&'static str),
}

impl Codec {
    const fn of(number: u16) -> Self {
        match number {
            1 => Self::Gzip,
            2 => Self::Other("lzma"),
            3 => Self::Other("lzo"),
            4 => Self::Other("xz"),
            5 => Self::Other("lz4"),
            6 => Self::Zstd,
            _ => Self::Other("something unknown"),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Other(name) => name,
        }
    }

    fn unpack(self, packed: &[u8]) -> Read<Vec<u8>> {
        let damaged = || Unread::because("a block of its metadata cannot be unpacked");
        match self {
            Self::Gzip => miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(packed, METADATA_BYTES).map_err(|_| damaged()),
            Self::Zstd => zstd::bulk::decompress(packed, METADATA_BYTES).map_err(|_| damaged()),
            Self::Other(name) => Err(Unread(format!(
                "its directories are compressed with {name}, which is not unpacked here: files are not told apart"
            ))),
        }
    }
}

/// A block of metadata that was unpacked, and where the next one is.
struct Unpacked {
    bytes: Vec<u8>,
    next: u64,
}

struct Disk<'a> {
    reader: &'a Reader<'a>,
    codec: Codec,
    block: u64,
    root: u64,
    used: u64,
    inodes_at: u64,
    directories_at: u64,
    fragments_at: u64,
    fragments: u32,
    metadata: RefCell<HashMap<u64, Rc<Unpacked>>>,
    kept: Cell<usize>,
    /// Longest known end of a tail in each fragment block.
    fragment_ends: RefCell<HashMap<u32, u64>>,
    is_packed: Cell<bool>,
}

/// What an inode says of a file.
struct Found {
    start: u64,
    size: u64,
    fragment: u32,
    tail_at: u64,
    /// Where in the inode the sizes of the blocks begin.
    sizes_at: u64,
}

impl<'a> Disk<'a> {
    fn open(reader: &'a Reader<'a>) -> Read<Self> {
        let bytes = reader.bytes("superblock", 0, SUPERBLOCK_BYTES)?;
        let (block, major) = (u64::from(u32_at(&bytes, 12)?), u16_at(&bytes, 28)?);
        if major != 4 || !(4096..=1 << 20).contains(&block) {
            return Err(Unread(format!(
                "it is a squashfs of version {major}, with blocks of {block} bytes, which is not read here"
            )));
        }
        let codec = Codec::of(u16_at(&bytes, 20)?);
        Ok(Self {
            reader,
            codec,
            block,
            root: u64_at(&bytes, 32)?,
            used: u64_at(&bytes, 40)?,
            inodes_at: u64_at(&bytes, 64)?,
            directories_at: u64_at(&bytes, 72)?,
            fragments_at: u64_at(&bytes, 80)?,
            fragments: u32_at(&bytes, 16)?,
            metadata: RefCell::default(),
            kept: Cell::new(0),
            fragment_ends: RefCell::default(),
            // What the superblock says is believed only of what is not unpacked here.
            is_packed: Cell::new(matches!(codec, Codec::Other(_)) && u16_at(&bytes, 24)? & DATA_STORED == 0),
        })
    }

    /// `length` bytes of metadata: from byte `offset` of what the block at `at` holds once it is unpacked, and on through the next ones.
    fn structure(&self, mut at: u64, offset: u64, length: u64) -> Read<Vec<u8>> {
        if length > MAX_STRUCTURE_BYTES {
            return Err(Unread(format!("a structure of {length} bytes is longer than what is read")));
        }
        self.reader.spend(length + LOOK_COST_BYTES)?;
        let (mut found, mut offset, length) = (Vec::new(), index(offset), index(length));
        while found.len() < length {
            let block = self.unpacked(at)?;
            let rest = block.bytes.get(offset..).filter(|rest| !rest.is_empty());
            let rest = rest.ok_or_else(|| Unread::because("its metadata ends too early"))?;
            found.extend_from_slice(&rest[..rest.len().min(length - found.len())]);
            (at, offset) = (block.next, 0);
        }
        Ok(found)
    }

    /// A block of metadata: its size, which says whether it is stored as it is, and its bytes.
    fn unpacked(&self, at: u64) -> Read<Rc<Unpacked>> {
        if let Some(known) = self.metadata.borrow().get(&at) {
            return Ok(Rc::clone(known));
        }
        let header = u16_at(&self.reader.bytes("metadata", at, 2)?, 0)?;
        let length = u64::from(header & !METADATA_STORED);
        let bytes = self.reader.bytes("metadata", at + 2, length)?;
        let bytes = if header & METADATA_STORED == 0 { self.codec.unpack(&bytes)? } else { bytes };
        self.kept.set(self.kept.get() + bytes.len());
        if self.kept.get() > MAX_METADATA_BYTES {
            return Err(Unread::because("it has more metadata than is looked at"));
        }
        let block = Rc::new(Unpacked { bytes, next: at + 2 + length });
        self.metadata.borrow_mut().insert(at, Rc::clone(&block));
        Ok(block)
    }

    /// A structure of the table that begins at `table`, by what inodes and directories call it: 48 bits of the place of a block in the
    /// table, 16 of the place in that.
    fn in_table(&self, table: u64, (block, offset): (u64, u64), length: u64) -> Read<Vec<u8>> {
        self.structure(table.saturating_add(block), offset, length)
    }

    fn file(&self, place: (u64, u64), found: &Found) -> Read<Inode> {
        let has_tail = found.fragment != NO_FRAGMENT;
        let blocks = if has_tail { found.size / self.block } else { found.size.div_ceil(self.block) };
        let sizes = self.in_table(self.inodes_at, place, found.sizes_at.saturating_add(blocks.saturating_mul(4)))?;
        let (mut parts, mut plain) = (Vec::new(), true);
        let (mut at, mut start) = (0, found.start);
        for size in sizes.get(index(found.sizes_at)..).unwrap_or_default().as_chunks::<4>().0 {
            let size = u32::from_le_bytes(*size);
            let (is_stored, length) = (size & STORED != 0, u64::from(size & !STORED));
            // A size of zero is a hole.
            plain &= is_stored || length == 0;
            let end = start.saturating_add(length);
            add_part(&mut parts, Part { range: start..end, at: is_stored.then_some(at) })?;
            (at, start) = (at + self.block, end);
        }
        if has_tail {
            let (tail, is_stored) = self.tail(found, at)?;
            plain &= is_stored;
            add_part(&mut parts, tail)?;
        }
        self.is_packed.set(self.is_packed.get() || !plain);
        Ok(Inode::File { size: found.size, parts, plain })
    }

    /// Where a tail is in its fragment block. Of a compressed one it gets its part by length: nobody can tell what belongs to whom there.
    fn tail(&self, found: &Found, at: u64) -> Read<(Part, bool)> {
        let (start, size) = self.fragment(found.fragment)?;
        let (is_stored, stored) = (size & STORED != 0, u64::from(size & !STORED));
        let end = found.tail_at.saturating_add(found.size % self.block);
        if end > self.block {
            return Err(Unread::because("the tail of a file is longer than its block"));
        }
        let mut ends = self.fragment_ends.borrow_mut();
        let whole = ends.entry(found.fragment).or_insert(1);
        *whole = end.max(*whole);
        let scaled = |at: u64| start.saturating_add(if is_stored { at.min(stored) } else { at * stored / *whole });
        Ok((Part { range: scaled(found.tail_at)..scaled(end), at: is_stored.then_some(at) }, is_stored))
    }

    /// Start and size of a fragment block.
    fn fragment(&self, number: u32) -> Read<(u64, u32)> {
        if number >= self.fragments {
            return Err(Unread(format!("a file names fragment block {number} of {}", self.fragments)));
        }
        let number = u64::from(number);
        let pointer = self.fragments_at.saturating_add(number / FRAGMENTS_PER_BLOCK * 8);
        let block = u64_at(&self.reader.bytes("table of fragments", pointer, 8)?, 0)?;
        let entry = self.structure(block, number % FRAGMENTS_PER_BLOCK * 16, 16)?;
        Ok((u64_at(&entry, 0)?, u32_at(&entry, 8)?))
    }

    fn directory(&self, place: (u64, u64), size: u64) -> Read<Inode> {
        // The size counts three bytes for entries that are not stored.
        entries_of(&self.in_table(self.directories_at, place, size.saturating_sub(3))?).map(Inode::Directory)
    }
}

/// `u32 entries - 1, u32 block of the inodes, u32 inode number`, then for each entry `u16 place of the inode, i16 inode number, u16 type,
/// u16 length of the name - 1, name`; and the same again.
fn entries_of(bytes: &[u8]) -> Read<Entries> {
    let (mut entries, mut at) = (Entries::new(LONGEST_NAME), 0);
    while at < bytes.len() {
        let (count, block) = (u32_at(bytes, at)?, u64::from(u32_at(bytes, at + 4)?));
        at += 12;
        for _ in 0..=count {
            let name_at = at + 8;
            let name_end = name_at + usize::from(u16_at(bytes, at + 6)?) + 1;
            let name = bytes.get(name_at..name_end).ok_or_else(|| Unread::because("a directory is cut off"))?;
            entries.add(name, block << 16 | u64::from(u16_at(bytes, at)?))?;
            at = name_end;
        }
    }
    Ok(entries)
}

impl Volume for Disk<'_> {
    fn root(&self) -> u64 {
        self.root
    }

    fn inode(&self, number: u64) -> Read<Inode> {
        let place = (number >> 16, number & 0xffff);
        let bytes = |length| self.in_table(self.inodes_at, place, length);
        match u16_at(&bytes(16)?, 0)? {
            1 => {
                let inode = bytes(32)?;
                let at = (u32_at(&inode, 16)?.into(), u16_at(&inode, 26)?.into());
                self.directory(at, u16_at(&inode, 24)?.into())
            }
            8 => {
                let inode = bytes(40)?;
                let at = (u32_at(&inode, 24)?.into(), u16_at(&inode, 34)?.into());
                self.directory(at, u32_at(&inode, 20)?.into())
            }
            2 => {
                let inode = bytes(32)?;
                let (start, size) = (u32_at(&inode, 16)?.into(), u32_at(&inode, 28)?.into());
                let (fragment, tail_at) = (u32_at(&inode, 20)?, u32_at(&inode, 24)?.into());
                self.file(place, &Found { start, size, fragment, tail_at, sizes_at: 32 })
            }
            9 => {
                let inode = bytes(56)?;
                let (start, size) = (u64_at(&inode, 16)?, u64_at(&inode, 24)?);
                let (fragment, tail_at) = (u32_at(&inode, 44)?, u32_at(&inode, 48)?.into());
                self.file(place, &Found { start, size, fragment, tail_at, sizes_at: 56 })
            }
            _ => Ok(Inode::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of so many names of this length.
    fn directory(entries: u32, length: u16) -> Vec<u8> {
        let head = [entries - 1, 0, 0].map(u32::to_le_bytes).concat();
        let entry = [&[0; 6][..], &(length - 1).to_le_bytes(), &vec![b'n'; length.into()]].concat();
        [head, entry.repeat(entries as usize)].concat()
    }

    #[test]
    fn names_are_as_long_as_the_kernel_takes_them_and_no_longer() {
        let read =
            |entries, length| entries_of(&directory(entries, length)).map(|entries| entries.len()).map_err(|unread| unread.0);
        assert_eq!(read(3, 256), Ok(3));
        assert_eq!(read(3, 257), Err("a directory holds a name of 257 bytes".to_owned()));
        assert_eq!(read(1, u16::MAX), Err("a directory holds a name of 65535 bytes".to_owned()));
        assert_eq!(read((1 << 20) + 1, 1), Err("it has more than 1048576 files".to_owned()));
    }
}
