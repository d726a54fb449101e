//! ext2, ext3 and ext4.

use std::ops::Range;

use super::reader::{Read, Reader, Unread, index, u8_at, u16_at, u32_at};
use super::walk::{Entries, Gaps, Inode, Part, Volume, add_part, walk};
use super::{Contents, MAX_PIECES};

const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: u64 = 1024;
const MAGIC: u16 = 0xef53;
const ROOT: u64 = 2;

const COMPAT_JOURNAL: u32 = 0x4;
const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
const INCOMPAT_META_BLOCK_GROUPS: u32 = 0x10;
const INCOMPAT_EXTENTS: u32 = 0x40;
const INCOMPAT_64_BIT: u32 = 0x80;
const RO_COMPAT_SPARSE_SUPERBLOCKS: u32 = 0x1;

const GROUP_BLOCKS_UNINITIALISED: u16 = 0x2;

const INODE_EXTENTS: u32 = 0x8_0000;
const INODE_INLINE: u32 = 0x1000_0000;

const EXTENT_MAGIC: u16 = 0xf30a;
/// The kernel's own limit.
const EXTENT_DEPTH: u16 = 5;
/// An extent longer than this is room that was never written to, of that much less.
const EXTENT_WRITTEN: u16 = 0x8000;
/// Most bytes of one directory: room for a quarter of a million long names.
const MAX_DIRECTORY_BYTES: u64 = 64 << 20;
const LONGEST_NAME: usize = 255;
/// Bytes of an entry before its name.
const ENTRY_BYTES: usize = 8;
/// Shortest entry: one letter, and lengths are multiples of four.
const SHORTEST_ENTRY: usize = 12;

pub(super) fn is_it(reader: &Reader<'_>) -> bool {
    reader.bytes("superblock", SUPERBLOCK_AT + 56, 2).is_ok_and(|bytes| u16_at(&bytes, 0) == Ok(MAGIC))
}

pub(super) fn read(reader: &Reader<'_>) -> Read<Contents> {
    let disk = Disk::open(reader)?;
    let mut contents = walk(disk.kind, &disk, reader.size());
    let mut gaps = Gaps::default();
    contents.free = disk.free(&mut gaps);
    contents.gap = contents.gap.or_else(|| gaps.in_words());
    Ok(contents)
}

struct Disk<'a> {
    reader: &'a Reader<'a>,
    kind: &'static str,
    block: u64,
    blocks: u64,
    first_block: u64,
    /// Bytes that a bit of a block bitmap stands for.
    cluster: u64,
    blocks_per_group: u64,
    inodes: u64,
    inodes_per_group: u64,
    inode_size: u64,
    descriptor_size: u64,
    reserved_descriptor_blocks: u64,
    first_meta_group: Option<u64>,
    sparse_superblocks: bool,
}

/// What is needed of a group's descriptor.
struct Group {
    bitmap: u64,
    inode_table: u64,
    flags: u16,
}

impl<'a> Disk<'a> {
    fn open(reader: &'a Reader<'a>) -> Read<Self> {
        let bytes = reader.bytes("superblock", SUPERBLOCK_AT, SUPERBLOCK_BYTES)?;
        let number = |at| u32_at(&bytes, at).map(u64::from);
        let (compat, incompat, ro_compat) = (u32_at(&bytes, 92)?, u32_at(&bytes, 96)?, u32_at(&bytes, 100)?);
        let (log_block, log_cluster) = (number(24)?, number(28)?);
        if log_block > 6 || log_cluster > 20 || incompat & INCOMPAT_JOURNAL_DEVICE != 0 {
            return Err(Unread::because("its superblock is not one of a file system that can be read here"));
        }
        let is_64_bit = incompat & INCOMPAT_64_BIT != 0;
        let block = 1024 << log_block;
        let dynamic = u32_at(&bytes, 76)? > 0;
        let disk = Self {
            reader,
            kind: match (incompat & INCOMPAT_EXTENTS != 0, compat & COMPAT_JOURNAL != 0) {
                (true, _) => "ext4",
                (false, true) => "ext3",
                (false, false) => "ext2",
            },
            block,
            blocks: number(4)? | if is_64_bit { number(0x150)? << 32 } else { 0 },
            first_block: number(20)?,
            cluster: (1024 << log_cluster).max(block),
            blocks_per_group: number(32)?,
            inodes: number(0)?,
            inodes_per_group: number(40)?,
            inode_size: if dynamic { u16_at(&bytes, 88)?.into() } else { 128 },
            descriptor_size: if is_64_bit { u16_at(&bytes, 254)?.into() } else { 32 },
            reserved_descriptor_blocks: u16_at(&bytes, 206)?.into(),
            first_meta_group: if incompat & INCOMPAT_META_BLOCK_GROUPS == 0 { None } else { Some(number(260)?) },
            sparse_superblocks: ro_compat & RO_COMPAT_SPARSE_SUPERBLOCKS != 0,
        };
        let sound = disk.blocks_per_group > 0
            && disk.blocks_per_group <= disk.cluster * 8 * (disk.cluster / block)
            && disk.inodes_per_group > 0
            && (128..=block).contains(&disk.inode_size)
            && (32..=block).contains(&disk.descriptor_size)
            && disk.first_block <= 1;
        if sound { Ok(disk) } else { Err(Unread::because("its superblock holds impossible values")) }
    }

    fn block(&self, what: &str, number: u64) -> Read<Vec<u8>> {
        self.reader.bytes(what, number.saturating_mul(self.block), self.block)
    }

    fn groups(&self) -> u64 {
        let blocks = self.blocks.min(self.reader.size() / self.block);
        blocks.saturating_sub(self.first_block).div_ceil(self.blocks_per_group)
    }

    fn first_block_of(&self, group: u64) -> u64 {
        self.first_block.saturating_add(group.saturating_mul(self.blocks_per_group))
    }

    /// Where the superblock of a group is, if it has one. Clusters begin with block 0, though it may be in the next.
    fn superblock_of(&self, group: u64) -> u64 {
        self.first_block_of(group).max(SUPERBLOCK_AT / self.block)
    }

    /// Groups 0 and 1, and powers of 3, 5 and 7.
    fn has_superblock(&self, group: u64) -> bool {
        let is_power = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        !self.sparse_superblocks || group <= 1 || [3, 5, 7].into_iter().any(is_power)
    }

    fn group(&self, group: u64) -> Read<Group> {
        let per_block = self.block / self.descriptor_size;
        let block = match self.first_meta_group {
            Some(first) if group / per_block >= first => {
                let home = group / per_block * per_block;
                self.superblock_of(home) + u64::from(self.has_superblock(home))
            }
            _ => self.superblock_of(0) + 1 + group / per_block,
        };
        let at = block.saturating_mul(self.block).saturating_add(group % per_block * self.descriptor_size);
        let bytes = self.reader.bytes("group descriptor", at, self.descriptor_size)?;
        let high = |at| if self.descriptor_size >= 64 { u32_at(&bytes, at).map(u64::from) } else { Ok(0) };
        Ok(Group {
            bitmap: u64::from(u32_at(&bytes, 0)?) | high(32)? << 32,
            inode_table: u64::from(u32_at(&bytes, 8)?) | high(40)? << 32,
            flags: u16_at(&bytes, 18)?,
        })
    }

    fn inode_bytes(&self, number: u64) -> Read<Vec<u8>> {
        let Some(zero_based) = number.checked_sub(1).filter(|_| number <= self.inodes) else {
            return Err(Unread(format!("a directory names inode {number}, which does not exist")));
        };
        let table = self.group(zero_based / self.inodes_per_group)?.inode_table;
        let within = (zero_based % self.inodes_per_group).saturating_mul(self.inode_size);
        self.reader.bytes("inode", table.saturating_mul(self.block).saturating_add(within), 128)
    }

    fn parts(&self, inode: &[u8]) -> Read<Vec<Part>> {
        let mut parts = Vec::new();
        let map = inode.get(40..100).unwrap_or_default();
        if u32_at(inode, 32)? & INODE_EXTENTS != 0 {
            self.extents(map, EXTENT_DEPTH, &mut parts)?;
        } else {
            self.block_map(map, &mut parts)?;
        }
        Ok(parts)
    }

    /// ```text
    /// header   u16 magic, u16 entries, u16 most entries, u16 depth, u32 generation
    /// leaf     u32 block of the file, u16 length, u16 and u32 block of the disk
    /// index    u32 block of the file, u32 and u16 block of the disk, u16 unused
    /// ```
    fn extents(&self, node: &[u8], deepest: u16, parts: &mut Vec<Part>) -> Read<()> {
        let depth = u16_at(node, 6)?;
        if u16_at(node, 0)? != EXTENT_MAGIC || depth > deepest {
            return Err(Unread::because("a file's tree of extents is damaged"));
        }
        for entry in (1..=usize::from(u16_at(node, 2)?)).map(|entry| entry * 12) {
            if depth > 0 {
                let child = u64::from(u32_at(node, entry + 4)?) | u64::from(u16_at(node, entry + 8)?) << 32;
                // Depths fall from level to level, and every block read is paid for: a loop ends.
                self.extents(&self.block("extents", child)?, depth - 1, parts)?;
                continue;
            }
            let (first, length) = (u64::from(u32_at(node, entry)?), u16_at(node, entry + 4)?);
            let start = u64::from(u32_at(node, entry + 8)?) | u64::from(u16_at(node, entry + 6)?) << 32;
            let written = length <= EXTENT_WRITTEN;
            let length = if written { length } else { length - EXTENT_WRITTEN };
            add_part(parts, self.part(written.then_some(first), start, length.into()))?;
        }
        Ok(())
    }

    fn part(&self, first: Option<u64>, start: u64, blocks: u64) -> Part {
        let byte = |block: u64| block.saturating_mul(self.block);
        Part { range: byte(start)..byte(start + blocks), at: first.map(byte) }
    }

    /// Twelve blocks, then one of blocks, one of blocks of blocks, and one of those.
    fn block_map(&self, map: &[u8], parts: &mut Vec<Part>) -> Read<()> {
        let mut at = 0;
        for entry in 0..15 {
            let level = u32::try_from(entry).unwrap_or(0).saturating_sub(11);
            self.mapped(u32_at(map, entry * 4)?, level, &mut at, parts)?;
        }
        Ok(())
    }

    /// `at` is the block of the file; zeros are holes.
    fn mapped(&self, block: u32, level: u32, at: &mut u64, parts: &mut Vec<Part>) -> Read<()> {
        if block == 0 {
            *at += (self.block / 4).pow(level);
            return Ok(());
        }
        if level == 0 {
            add_part(parts, self.part(Some(*at), block.into(), 1))?;
            *at += 1;
            return Ok(());
        }
        let below = self.block("block map", block.into())?;
        for number in below.as_chunks::<4>().0 {
            self.mapped(u32::from_le_bytes(*number), level - 1, at, parts)?;
        }
        Ok(())
    }

    /// Blocks of entries, each within its block: `u32 inode, u16 length, u8 length of the name, u8 type, name`. The inner nodes of a tree
    /// of hashes look like empty blocks.
    fn directory(&self, size: u64, parts: &[Part]) -> Read<Entries> {
        let mut entries = Entries::new(LONGEST_NAME);
        let mut left = size.min(MAX_DIRECTORY_BYTES);
        for part in parts.iter().filter(|part| part.at.is_some()) {
            let (start, end) = (part.range.start, part.range.end.min(part.range.start.saturating_add(left)));
            left -= end - start;
            for block in self.reader.bytes("directory", start, end - start)?.chunks(index(self.block)) {
                entries_of(block, &mut entries)?;
            }
        }
        Ok(entries)
    }

    fn free(&self, gaps: &mut Gaps) -> Vec<Range<u64>> {
        let mut free: Vec<Range<u64>> = Vec::new();
        for group in 0..self.groups() {
            if let Err(unread) = self.free_of(group, &mut free) {
                gaps.add(unread);
                break;
            }
        }
        let end = self.blocks.saturating_mul(self.block);
        if end < self.reader.size() {
            free.push(end.max(free.last().map_or(0, |last| last.end))..self.reader.size());
        }
        free
    }

    fn free_of(&self, group: u64, free: &mut Vec<Range<u64>>) -> Read<()> {
        let start = self.first_block_of(group).saturating_mul(self.block);
        let blocks = self.blocks.saturating_sub(self.first_block_of(group)).min(self.blocks_per_group);
        let end = start.saturating_add(blocks.saturating_mul(self.block)).min(self.reader.size());
        let descriptor = self.group(group)?;
        if descriptor.flags & GROUP_BLOCKS_UNINITIALISED != 0 {
            return add_free(free, start.saturating_add(self.copies(group)).min(end)..end);
        }
        let bitmap = self.block("block bitmap", descriptor.bitmap)?;
        let clusters = (start..end).step_by(index(self.cluster));
        for (bit, at) in clusters.enumerate() {
            if bitmap.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 0) {
                add_free(free, at..end.min(at + self.cluster))?;
            }
        }
        Ok(())
    }

    /// Bytes at the start of a group that copies of the superblock and the descriptors take.
    fn copies(&self, group: u64) -> u64 {
        let superblock = u64::from(self.has_superblock(group));
        let per_block = self.block / self.descriptor_size;
        let descriptors = match self.first_meta_group {
            // The first, the second and the last group of those that a block describes have a copy of it.
            Some(first) if group / per_block >= first => u64::from([0, 1, per_block - 1].contains(&(group % per_block))),
            _ if superblock == 0 => 0,
            Some(first) => first,
            None => self.groups().div_ceil(per_block).saturating_add(self.reserved_descriptor_blocks),
        };
        superblock.saturating_add(descriptors).saturating_mul(self.block)
    }
}

impl Volume for Disk<'_> {
    fn root(&self) -> u64 {
        ROOT
    }

    fn inode(&self, number: u64) -> Read<Inode> {
        let inode = self.inode_bytes(number)?;
        let size = u64::from(u32_at(&inode, 4)?) | u64::from(u32_at(&inode, 108)?) << 32;
        let is_inline = u32_at(&inode, 32)? & INODE_INLINE != 0;
        match u16_at(&inode, 0)? >> 12 {
            0x4 if is_inline => Err(Unread::because("a directory is stored within its inode")),
            0x4 => Ok(Inode::Directory(self.directory(size, &self.parts(&inode)?)?)),
            0x8 if is_inline => Ok(Inode::File { size, parts: Vec::new(), plain: false }),
            0x8 => Ok(Inode::File { size, parts: self.parts(&inode)?, plain: true }),
            _ => Ok(Inode::Other),
        }
    }
}

fn entries_of(block: &[u8], entries: &mut Entries) -> Read<()> {
    let damaged = || Unread::because("a directory is damaged");
    let mut at = 0;
    while at + ENTRY_BYTES <= block.len() {
        // In blocks of 64 KiB a length that does not fit into its field.
        let length = match u16_at(block, at + 4)? {
            0 | 0xffff if block.len() > 0xffff => block.len() - at,
            length => usize::from(length),
        };
        let name_bytes = usize::from(u8_at(block, at + 6)?);
        // A name that reached into the next entry would make a small directory one of millions of long names.
        if length < SHORTEST_ENTRY.max(ENTRY_BYTES + name_bytes) {
            return Err(damaged());
        }
        let inode = u64::from(u32_at(block, at)?);
        let name = block.get(at + ENTRY_BYTES..at + ENTRY_BYTES + name_bytes).ok_or_else(damaged)?;
        if inode != 0 {
            entries.add(name, inode)?;
        }
        at += length;
    }
    Ok(())
}

fn add_free(free: &mut Vec<Range<u64>>, range: Range<u64>) -> Read<()> {
    if range.is_empty() {
        return Ok(());
    }
    if let Some(last) = free.last_mut().filter(|last| last.end == range.start) {
        last.end = range.end;
        return Ok(());
    }
    if free.len() >= MAX_PIECES {
        return Err(Unread::because("its free space lies in more pieces than are looked at"));
    }
    free.push(range);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::MAX_ENTRIES;

    fn entry(inode: u32, length: u16, name: &[u8]) -> Vec<u8> {
        let name_bytes = u8::try_from(name.len()).unwrap();
        let mut entry = [&inode.to_le_bytes()[..], &length.to_le_bytes(), &[name_bytes, 1], name].concat();
        entry.resize(usize::from(length).max(entry.len()), 0);
        entry
    }

    fn read(block: &[u8]) -> Result<usize, String> {
        let mut entries = Entries::new(LONGEST_NAME);
        entries_of(block, &mut entries).map(|()| entries.len()).map_err(|unread| unread.0)
    }

    #[test]
    fn entries_of_a_directory_lie_one_behind_the_other() {
        let (long, damaged) = (entry(12, 264, &[b'n'; 255]), Err("a directory is damaged".to_owned()));
        assert_eq!(read(&[entry(2, 12, b"."), entry(2, 12, b".."), long.clone()].concat()), Ok(1));
        let mut overlapping = long.clone();
        // Eight bytes on, so says the length, begins the next entry, which lies in the name of this one.
        overlapping[4..6].copy_from_slice(&8_u16.to_le_bytes());
        assert_eq!(read(&overlapping), damaged);
        overlapping[4..6].copy_from_slice(&260_u16.to_le_bytes());
        assert_eq!(read(&overlapping), damaged);
        assert_eq!(read(&long[..200]), damaged, "the name is cut off");
        assert_eq!(read(&[0; 1024]), damaged);
    }

    #[test]
    fn a_directory_of_ever_more_entries_is_left_alone() {
        let (mut entries, block) = (Entries::new(LONGEST_NAME), entry(12, 12, b"n").repeat(341));
        let refused = (0..=MAX_ENTRIES).find_map(|_| entries_of(&block, &mut entries).err());
        assert_eq!(refused, Some(Unread::because("it has more than 1048576 files")));
        assert_eq!(entries.len(), MAX_ENTRIES);
    }
}
