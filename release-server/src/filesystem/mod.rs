//! Which bytes of an image belong to which file: readers of ext2, ext3, ext4, squashfs and erofs that never write.
//!
//! Best effort, for explaining: what cannot be read is said in words ([`Contents::gap`], or the error of [`Contents::read`]) and costs nothing
//! but detail. Nothing in an image is trusted. Memory and time are bounded by the caps here and by the reader's budget, loops end, and no
//! bytes make it panic.
//!
//! Promises: the ranges of [`Contents::pieces`] are ascending and disjoint and lie inside of the image; where a piece says at which byte of its
//! file it stands, the image holds the file's very bytes there.

mod erofs;
mod ext4;
mod reader;
mod squashfs;
#[cfg(test)]
mod tests;
mod walk;

use std::io;
use std::ops::Range;

use payload::window::ReadAt;

use self::reader::{Reader, index};
use self::walk::Part;

/// Most files and directories of one image.
const MAX_ENTRIES: usize = 1 << 20;
/// Most pieces that files lie in, and most runs of free space, of one image.
const MAX_PIECES: usize = 1 << 22;
/// Most bytes of all names of one image: a million entries have some 20 MiB.
const MAX_NAMES_BYTES: usize = 64 << 20;
/// Longest path; Linux opens none that is longer.
const MAX_PATH_BYTES: usize = 4096;
/// Deepest directory. The kernel's longest path has room for twice as many, of one letter each.
const MAX_DEPTH: u16 = 1024;

/// What a part of an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The file of this index.
    File(u32),
    /// Directories, inodes, maps, journal: what is in use and no file's.
    Metadata,
    /// In no use.
    Free,
    /// It was not found out.
    Unknown,
}

/// A part of a file, where it stands in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Bytes of the image. The last ones of a file's last piece may be no bytes of it: blocks are whole.
    pub(crate) range: Range<u64>,
    /// Index of the file.
    pub(crate) file: u32,
    /// Byte of the file that stands first in the range; none where it is compressed, or room that was never written to.
    pub(crate) at: Option<u64>,
}

#[derive(Debug)]
struct File {
    folder: u32,
    name: String,
    size: u64,
    /// Its bytes stand in the image as they are read, but for holes.
    plain: bool,
    /// Where it lies, by the place in it: all of it, also what it shares with other files.
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Folder {
    parent: u32,
    name: String,
    /// Bytes of its path.
    path_bytes: usize,
}

/// What is in an image.
#[derive(Debug)]
pub(crate) struct Contents {
    /// `ext4`, `squashfs` and so on.
    pub(crate) kind: &'static str,
    /// The file system stores files compressed: with this, where it says.
    pub(crate) packed_with: Option<&'static str>,
    /// What could not be read, if not everything could.
    pub(crate) gap: Option<String>,
    folders: Vec<Folder>,
    files: Vec<File>,
    /// Whose the bytes of the image are; of those that several share, the first one's.
    pieces: Vec<Piece>,
    /// Ascending and disjoint.
    free: Vec<Range<u64>>,
}

impl Contents {
    /// Reads the structures of an image of `size` bytes; or says why that cannot be.
    pub(crate) fn read(data: &dyn ReadAt, size: u64) -> Result<Self, String> {
        let reader = Reader::new(data, size);
        let found = if ext4::is_it(&reader) {
            ext4::read(&reader)
        } else if squashfs::is_it(&reader) {
            squashfs::read(&reader)
        } else if erofs::is_it(&reader) {
            erofs::read(&reader)
        } else {
            return Err("no file system that can be read here (ext2, ext3, ext4, squashfs, erofs)".to_owned());
        };
        found.map_err(|unread| unread.0)
    }

    /// All pieces that files lie in, in the order of the image.
    #[cfg(test)]
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Number of files.
    #[cfg(test)]
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.files.len()).unwrap_or(u32::MAX)
    }

    /// Where a file is, from the root of its file system: `/boot/vmlinuz`.
    pub(crate) fn path(&self, file: u32) -> String {
        let Some(file) = self.files.get(index(file.into())) else { return String::new() };
        let mut names = vec![file.name.as_str()];
        let mut at = file.folder;
        // The root is its own parent.
        while let Some(folder) = self.folders.get(index(at.into())).filter(|folder| folder.parent != at) {
            names.push(&folder.name);
            at = folder.parent;
        }
        names.iter().rev().flat_map(|name| ["/", name]).collect()
    }

    /// Bytes of a file.
    #[cfg(test)]
    pub(crate) fn size(&self, file: u32) -> u64 {
        self.files.get(index(file.into())).map_or(0, |file| file.size)
    }

    /// Whose the bytes of a range are, part by part, in order and without a hole.
    pub(crate) fn owners(&self, range: Range<u64>, tell: &mut dyn FnMut(Owner, Range<u64>)) {
        let mut at = range.start;
        let first = self.pieces.partition_point(|piece| piece.range.end <= at);
        for piece in self.pieces[first..].iter().take_while(|piece| piece.range.start < range.end) {
            self.of_no_file(at..piece.range.start, tell);
            at = at.max(piece.range.start);
            let end = piece.range.end.min(range.end);
            tell(Owner::File(piece.file), at..end);
            at = end;
        }
        self.of_no_file(at..range.end, tell);
    }

    fn of_no_file(&self, range: Range<u64>, tell: &mut dyn FnMut(Owner, Range<u64>)) {
        let used = if self.gap.is_some() { Owner::Unknown } else { Owner::Metadata };
        let mut say = |owner, range: Range<u64>| {
            if !range.is_empty() {
                tell(owner, range);
            }
        };
        let mut at = range.start;
        let first = self.free.partition_point(|free| free.end <= at);
        for free in self.free[first..].iter().take_while(|free| free.start < range.end) {
            let end = free.end.min(range.end);
            say(used, at..free.start);
            say(Owner::Free, at.max(free.start)..end);
            at = at.max(end);
        }
        say(used, at..range.end);
    }

    /// Reads bytes of a file as they stand in the image, and zeros for its holes. Fewer than `buffer` holds at its end; none of a file
    /// that is stored compressed.
    pub(crate) fn read_file(&self, image: &dyn ReadAt, file: u32, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(entry) = self.files.get(index(file.into())).filter(|entry| entry.plain) else { return Ok(0) };
        let length = entry.size.saturating_sub(offset).min(u64::try_from(buffer.len()).unwrap_or(u64::MAX));
        let (buffer, end) = (&mut buffer[..index(length)], offset.saturating_add(length));
        buffer.fill(0);
        // The part before may reach into what is asked for.
        let first = entry.parts.partition_point(|part| part.at <= Some(offset)).saturating_sub(1);
        for part in entry.parts[first..].iter().take_while(|part| part.at.is_none_or(|at| at < end)) {
            let Some(at) = part.at else { continue };
            let (from, to) = (at.max(offset), at.saturating_add(part.range.end - part.range.start).min(end));
            if from < to {
                let filled = &mut buffer[index(from - offset)..index(to - offset)];
                image.read_exact_at(filled, part.range.start + (from - at))?;
            }
        }
        Ok(buffer.len())
    }
}
