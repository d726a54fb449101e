//! The walk through the directories of any of the file systems: each inode once, so that loops and hard links end.

use std::collections::HashSet;
use std::ops::Range;

use super::reader::{Read, Unread};
use super::{Contents, File, Folder, MAX_DEPTH, MAX_ENTRIES, MAX_NAMES_BYTES, MAX_PATH_BYTES, MAX_PIECES, Piece};

/// A file system as the walk sees it.
pub(super) trait Volume {
    /// Number of the root directory's inode.
    fn root(&self) -> u64;

    /// What the inode of this number is.
    fn inode(&self, number: u64) -> Read<Inode>;
}

pub(super) enum Inode {
    Directory(Entries),
    /// `plain`: its bytes stand in the image as they are read, but for holes.
    File {
        size: u64,
        parts: Vec<Part>,
        plain: bool,
    },
    /// A link, a device, a socket.
    Other,
}

struct Entry {
    name: String,
    inode: u64,
}

/// What a directory holds: no more than is looked at of a whole image, however much it says.
pub(super) struct Entries {
    list: Vec<Entry>,
    name_bytes: usize,
    longest_name: usize,
}

impl Entries {
    /// None yet, of names of at most so many bytes.
    pub(super) const fn new(longest_name: usize) -> Self {
        Self { list: Vec::new(), name_bytes: 0, longest_name }
    }

    /// Adds one, unless it is the directory itself or the one above.
    pub(super) fn add(&mut self, name: &[u8], inode: u64) -> Read<()> {
        if matches!(name, b"" | b"." | b"..") {
            return Ok(());
        }
        if name.len() > self.longest_name {
            return Err(Unread(format!("a directory holds a name of {} bytes", name.len())));
        }
        let name = String::from_utf8_lossy(name).into_owned();
        self.name_bytes += name.len();
        if self.list.len() >= MAX_ENTRIES {
            return Err(too_many());
        }
        if self.name_bytes > MAX_NAMES_BYTES {
            return Err(names_too_long());
        }
        self.list.push(Entry { name, inode });
        Ok(())
    }

    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.list.len()
    }
}

fn too_many() -> Unread {
    Unread(format!("it has more than {MAX_ENTRIES} files"))
}

fn names_too_long() -> Unread {
    Unread(format!("the names of its files take more than {} MiB", MAX_NAMES_BYTES >> 20))
}

/// Bytes of an image that a file lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) range: Range<u64>,
    /// As [`Piece::at`].
    pub(super) at: Option<u64>,
}

impl Part {
    /// Is `next` the bytes that follow, in the image and in the file?
    fn joins(&self, next: &Self) -> bool {
        let follows = match (self.at, next.at) {
            (None, None) => true,
            (Some(at), Some(next)) => next.checked_sub(at) == Some(self.range.end - self.range.start),
            _ => false,
        };
        follows && self.range.end == next.range.start
    }
}

/// Adds a part to those of a file, with the one before it where they are one.
pub(super) fn add_part(parts: &mut Vec<Part>, part: Part) -> Read<()> {
    if part.range.is_empty() {
        return Ok(());
    }
    if let Some(last) = parts.last_mut().filter(|last| last.joins(&part)) {
        last.range.end = part.range.end;
        return Ok(());
    }
    if parts.len() >= MAX_PIECES {
        return Err(Unread::because("a file lies in more pieces than are looked at"));
    }
    parts.push(part);
    Ok(())
}

/// What could not be read: the first of it, and how much more.
#[derive(Default)]
pub(super) struct Gaps {
    first: Option<Unread>,
    more: u64,
}

impl Gaps {
    pub(super) fn add(&mut self, unread: Unread) {
        match self.first {
            None => self.first = Some(unread),
            Some(_) => self.more += 1,
        }
    }

    pub(super) fn in_words(self) -> Option<String> {
        let Unread(first) = self.first?;
        Some(if self.more == 0 { first } else { format!("{first}; and {} more like it", self.more) })
    }
}

struct Walk {
    folders: Vec<Folder>,
    files: Vec<File>,
    /// Parts of all files.
    parts: usize,
    /// Bytes of all names.
    name_bytes: usize,
    seen: HashSet<u64>,
    waiting: Vec<Waiting>,
    gaps: Gaps,
    /// Bytes of the image.
    end: u64,
}

struct Waiting {
    inode: u64,
    folder: u32,
    depth: u16,
    name: String,
}

/// Visits every inode that can be reached, in an image of `size` bytes.
pub(super) fn walk(kind: &'static str, volume: &dyn Volume, size: u64) -> Contents {
    let root = Waiting { inode: volume.root(), folder: 0, depth: 0, name: String::new() };
    let (folders, files, seen, gaps) = (Vec::new(), Vec::new(), HashSet::new(), Gaps::default());
    let mut walk = Walk { folders, files, parts: 0, name_bytes: 0, seen, waiting: vec![root], gaps, end: size };
    while let Some(next) = walk.waiting.pop() {
        if !walk.seen.insert(next.inode) {
            continue;
        }
        if walk.seen.len() > MAX_ENTRIES {
            walk.gaps.add(too_many());
            break;
        }
        if let Err(unread) = walk.visit(volume, next) {
            walk.gaps.add(unread);
        }
    }
    walk.finish(kind)
}

impl Walk {
    fn visit(&mut self, volume: &dyn Volume, here: Waiting) -> Read<()> {
        match volume.inode(here.inode)? {
            Inode::Other => Ok(()),
            Inode::File { size, parts, plain } => self.file(here, (size, plain), parts),
            Inode::Directory(entries) => self.directory(here, entries),
        }
    }

    fn file(&mut self, here: Waiting, (size, plain): (u64, bool), mut parts: Vec<Part>) -> Read<()> {
        if self.parts + parts.len() > MAX_PIECES {
            return Err(Unread::because("its files lie in more pieces than are looked at"));
        }
        if parts.iter().any(|part| part.range.start > part.range.end || part.range.end > self.end) {
            return Err(Unread::because("a file lies outside of the image"));
        }
        self.parts += parts.len();
        parts.sort_by_key(|part| part.at);
        parts.shrink_to_fit();
        self.files.push(File { folder: here.folder, name: here.name, size, plain, parts });
        Ok(())
    }

    fn directory(&mut self, here: Waiting, entries: Entries) -> Read<()> {
        if here.depth >= MAX_DEPTH {
            return Err(Unread(format!("directories are more than {MAX_DEPTH} deep")));
        }
        if self.waiting.len() + entries.list.len() > MAX_ENTRIES {
            return Err(too_many());
        }
        self.name_bytes = self.name_bytes.saturating_add(entries.name_bytes);
        if self.name_bytes > MAX_NAMES_BYTES {
            return Err(names_too_long());
        }
        let folder = number(self.folders.len());
        let above = self.folders.get(super::index(here.folder.into())).map_or(0, |above| above.path_bytes);
        let path_bytes = if here.depth == 0 { 0 } else { above + 1 + here.name.len() };
        self.folders.push(Folder { parent: here.folder, name: here.name, path_bytes });
        // What waits longest is named last: of hard links, the first of the directory names the file.
        for Entry { name, inode } in entries.list.into_iter().rev() {
            if path_bytes + 1 + name.len() > MAX_PATH_BYTES {
                self.gaps.add(Unread(format!("a path is longer than {MAX_PATH_BYTES} bytes")));
                continue;
            }
            self.waiting.push(Waiting { inode, folder, depth: here.depth + 1, name });
        }
        Ok(())
    }

    fn finish(self, kind: &'static str) -> Contents {
        let Self { folders, files, parts, gaps, .. } = self;
        let mut pieces = Vec::with_capacity(parts);
        for (file, entry) in (0..).zip(&files) {
            pieces.extend(entry.parts.iter().map(|Part { range, at }| Piece { range: range.clone(), file, at: *at }));
        }
        let pieces = disjoint(pieces);
        Contents { kind, packed_with: None, gap: gaps.in_words(), folders, files, pieces, free: Vec::new() }
    }
}

/// Puts the pieces into the order of the image. Bytes that several files share are the first one's.
fn disjoint(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_by_key(|piece| (piece.range.start, piece.file));
    let mut end = 0;
    pieces.retain_mut(|piece| {
        let cut = end.max(piece.range.start) - piece.range.start;
        piece.range.start += cut;
        piece.at = piece.at.map(|at| at.saturating_add(cut));
        end = end.max(piece.range.end);
        piece.range.start < piece.range.end
    });
    pieces
}

/// All counts here are below the caps, which are far below 2^32.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
