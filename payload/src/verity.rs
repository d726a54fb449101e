//! dm-verity: the tree of hashes over an image, as the kernel reads it (format version 1, SHA-256, blocks of 4096 bytes).
//!
//! ```text
//! superblock   "verity\0\0" · version 1 · hash type 1 · UUID 16 bytes · "sha256" in 32 bytes · data block size u32 · hash block size u32 ·
//!              data blocks u64 · salt size u16 · 6 bytes · salt in 256 bytes; zeros up to 4096 bytes
//! levels       from the top, one block, down to the hashes of the data blocks: 128 hashes of 32 bytes in a block, zeros behind the last
//! ```
//!
//! Each hash is SHA-256 of the salt and a block. The root is the hash of the top block; of an image of one block, that block's own.
//! [`Tree`] makes superblock and levels of a whole image, [`RootOf`] only the root, in a few kilobytes whatever the image's size, and
//! [`Spans`] the root of parts that come in any order: what the kernel will compare at every boot is found out before the first one. Numbers are little endian. `veritysetup` is the oracle of
//! the tests.

use std::io;

use manifests::digest::Sha256Digest;
use sha2::{Digest as _, Sha256};

/// Bytes of a block of data or of hashes.
pub const BLOCK: usize = 4096;
/// Bytes of an image under one block of hashes.
pub const SPAN: usize = BLOCK * HASHES;
/// Longest salt that a superblock has room for.
pub const MAX_SALT: usize = 256;
const HASH: usize = 32;
const HASHES: usize = BLOCK / HASH;

/// Why no tree can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerityError {
    /// The kernel maps whole blocks only.
    #[error("the image has {got} bytes: expected a multiple of {BLOCK}, and not 0")]
    Size {
        /// Its size.
        got: u64,
    },
    /// There is no room for it.
    #[error("the salt has {got} bytes: expected at most {MAX_SALT}")]
    Salt {
        /// Its length.
        got: usize,
    },
    /// A part of the image was not hashed, or hashed twice.
    #[error("the hashes over {got} spans of 512 KiB are not those of the image")]
    Spans {
        /// How many came.
        got: usize,
    },
    /// The image could not be read, or the tree not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The root hash of an image that comes block by block.
#[derive(Debug)]
pub struct RootOf {
    salted: Sha256,
    levels: Vec<Level>,
    /// The last block that came, which is the root's own where there is only one.
    last: [u8; HASH],
    blocks: u64,
}

/// Hashes of one level that do not fill a block yet.
#[derive(Debug)]
struct Level {
    block: Box<[u8; BLOCK]>,
    used: usize,
    /// Blocks that were handed up.
    done: u64,
}

impl RootOf {
    /// Nothing has come yet.
    ///
    /// # Errors
    /// If the salt is too long.
    pub fn new(salt: &[u8]) -> Result<Self, VerityError> {
        if salt.len() > MAX_SALT {
            return Err(VerityError::Salt { got: salt.len() });
        }
        Ok(Self { salted: Sha256::new_with_prefix(salt), levels: Vec::new(), last: [0; HASH], blocks: 0 })
    }

    /// The next block of the image.
    pub fn block(&mut self, block: &[u8; BLOCK]) {
        self.block_into(block, &mut |_, _| {});
    }

    /// The same; every finished block of hashes is handed out with its level, the lowest being 0.
    fn block_into(&mut self, block: &[u8; BLOCK], finished: &mut dyn FnMut(usize, &[u8; BLOCK])) {
        self.blocks += 1;
        self.last = self.hash(block);
        self.add(0, self.last, finished);
    }

    fn add(&mut self, level: usize, hash: [u8; HASH], finished: &mut dyn FnMut(usize, &[u8; BLOCK])) {
        if self.levels.len() == level {
            self.levels.push(Level { block: Box::new([0; BLOCK]), used: 0, done: 0 });
        }
        let known = &mut self.levels[level];
        known.block[known.used * HASH..][..HASH].copy_from_slice(&hash);
        known.used += 1;
        if known.used == HASHES {
            self.finish_block(level, finished);
        }
    }

    fn finish_block(&mut self, level: usize, finished: &mut dyn FnMut(usize, &[u8; BLOCK])) {
        let known = &mut self.levels[level];
        let full = std::mem::replace(&mut known.block, Box::new([0; BLOCK]));
        known.used = 0;
        known.done += 1;
        finished(level, &full);
        let hash = self.hash(&full);
        self.add(level + 1, hash, finished);
    }

    /// The root of everything that came.
    ///
    /// # Errors
    /// If nothing came.
    pub fn finish(self) -> Result<Sha256Digest, VerityError> {
        self.finish_into(&mut |_, _| {})
    }

    fn finish_into(mut self, finished: &mut dyn FnMut(usize, &[u8; BLOCK])) -> Result<Sha256Digest, VerityError> {
        if self.blocks == 0 {
            return Err(VerityError::Size { got: 0 });
        }
        if self.blocks == 1 {
            return Ok(Sha256Digest::from_bytes(self.last));
        }
        let mut level = 0;
        // A level of one hash is the root's.
        while !(self.levels[level].done == 0 && self.levels[level].used == 1) {
            if self.levels[level].used > 0 {
                self.finish_block(level, finished);
            }
            level += 1;
        }
        let mut root = [0; HASH];
        root.copy_from_slice(&self.levels[level].block[..HASH]);
        Ok(Sha256Digest::from_bytes(root))
    }

    fn hash(&self, block: &[u8; BLOCK]) -> [u8; HASH] {
        self.salted.clone().chain_update(block).finalize().into()
    }
}

/// Hashes an image span by span, in any order and by several threads at once; 32 bytes of each 512 KiB are kept until the root is made.
#[derive(Clone, Debug)]
pub struct Spans {
    salted: Sha256,
    blocks: u64,
}

/// The hash over one span.
pub type SpanHash = [u8; HASH];

impl Spans {
    /// For an image of `size` bytes.
    ///
    /// # Errors
    /// If that is no whole number of blocks, or the salt too long.
    pub fn new(size: u64, salt: &[u8]) -> Result<Self, VerityError> {
        let block = u64::try_from(BLOCK).unwrap_or(u64::MAX);
        if size == 0 || !size.is_multiple_of(block) {
            return Err(VerityError::Size { got: size });
        }
        Ok(Self { salted: RootOf::new(salt)?.salted, blocks: size / block })
    }

    /// The hash over the span of these bytes: [`SPAN`] of them, or what is left at the end of the image.
    #[must_use]
    pub fn over(&self, span: &[u8]) -> SpanHash {
        let mut hashes = [0; BLOCK];
        for (block, hash) in span.chunks(BLOCK).zip(hashes.chunks_mut(HASH)) {
            hash.copy_from_slice(&self.hash(block));
        }
        // An image of one block has no block of hashes.
        if self.blocks == 1 { self.hash(span) } else { self.hash(&hashes) }
    }

    /// The root, from the hashes over all spans in their order.
    ///
    /// # Errors
    /// If their number is another than that of the image's spans.
    pub fn root(self, spans: &[SpanHash]) -> Result<Sha256Digest, VerityError> {
        let per_span = u64::try_from(HASHES).unwrap_or(u64::MAX);
        if spans.len() as u64 != self.blocks.div_ceil(per_span) {
            return Err(VerityError::Spans { got: spans.len() });
        }
        if let ([only], 1) = (spans, self.blocks) {
            return Ok(Sha256Digest::from_bytes(*only));
        }
        let lowest = Level { block: Box::new([0; BLOCK]), used: 0, done: spans.len() as u64 };
        let mut root = RootOf { salted: self.salted, levels: vec![lowest], last: [0; HASH], blocks: self.blocks };
        spans.iter().for_each(|hash| root.add(1, *hash, &mut |_, _| {}));
        root.finish()
    }

    fn hash(&self, block: &[u8]) -> [u8; HASH] {
        self.salted.clone().chain_update(block).finalize().into()
    }
}

/// A whole tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// What the record says.
    pub root: Sha256Digest,
    /// Superblock and levels: the image of the hash partition.
    pub bytes: Vec<u8>,
}

impl Tree {
    /// The tree over an image of `size` bytes. Its UUID, which only names it, is made of the root, so that the same image has the same
    /// tree.
    ///
    /// # Errors
    /// If the image is no whole number of blocks, or cannot be read.
    pub fn of(mut image: impl io::Read, size: u64, salt: &[u8]) -> Result<Self, VerityError> {
        let block = u64::try_from(BLOCK).unwrap_or(u64::MAX);
        if size == 0 || !size.is_multiple_of(block) {
            return Err(VerityError::Size { got: size });
        }
        let mut root = RootOf::new(salt)?;
        let mut levels: Vec<Vec<u8>> = Vec::new();
        let mut keep = |level: usize, block: &[u8; BLOCK]| {
            if levels.len() == level {
                levels.push(Vec::new());
            }
            levels[level].extend_from_slice(block);
        };
        let mut buffer = [0; BLOCK];
        for _ in 0..size / block {
            image.read_exact(&mut buffer)?;
            root.block_into(&buffer, &mut keep);
        }
        let root = root.finish_into(&mut keep)?;
        let mut bytes = superblock(&root, size / block, salt);
        levels.iter().rev().for_each(|level| bytes.extend_from_slice(level));
        Ok(Self { root, bytes })
    }
}

fn superblock(root: &Sha256Digest, data_blocks: u64, salt: &[u8]) -> Vec<u8> {
    let block_size = u32::try_from(BLOCK).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::with_capacity(BLOCK);
    bytes.extend_from_slice(b"verity\0\0");
    bytes.extend_from_slice(&1u32.to_le_bytes());
    bytes.extend_from_slice(&1u32.to_le_bytes());
    bytes.extend_from_slice(&uuid_of(root));
    bytes.extend_from_slice(b"sha256");
    bytes.resize(64, 0);
    bytes.extend_from_slice(&block_size);
    bytes.extend_from_slice(&block_size);
    bytes.extend_from_slice(&data_blocks.to_le_bytes());
    bytes.extend_from_slice(&u16::try_from(salt.len()).unwrap_or(u16::MAX).to_le_bytes());
    bytes.resize(88, 0);
    bytes.extend_from_slice(salt);
    bytes.resize(BLOCK, 0);
    bytes
}

/// Version 8 (RFC 9562): the bits are the maker's own.
fn uuid_of(root: &Sha256Digest) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&root.as_bytes()[..16]);
    uuid[6] = uuid[6] & 0x0F | 0x80;
    uuid[8] = uuid[8] & 0x3F | 0x80;
    uuid
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn image(blocks: usize) -> Vec<u8> {
        (0..blocks * BLOCK).map(|at| (at / BLOCK * 7 + at % 251) as u8).collect()
    }

    fn root_of(image: &[u8], salt: &[u8]) -> Sha256Digest {
        let mut root = RootOf::new(salt).unwrap();
        image.chunks(BLOCK).for_each(|block| root.block(block.try_into().unwrap()));
        root.finish().unwrap()
    }

    /// One, a few, a level and one more, two levels and one more.
    const SIZES: [usize; 8] = [1, 2, 127, 128, 129, 1_000, 128 * 128, 128 * 128 + 1];

    #[test]
    fn the_root_alone_is_the_trees() {
        for blocks in SIZES {
            let image = image(blocks);
            let tree = Tree::of(image.as_slice(), image.len() as u64, b"salt").unwrap();
            assert_eq!(root_of(&image, b"salt"), tree.root, "{blocks} blocks");
        }
    }

    #[test]
    fn the_root_of_spans_is_the_trees() {
        for blocks in SIZES {
            let image = image(blocks);
            let spans = Spans::new(image.len() as u64, b"salt").unwrap();
            let hashes: Vec<SpanHash> = image.chunks(SPAN).map(|span| spans.over(span)).collect();
            assert!(spans.clone().root(&hashes[1..]).is_err());
            assert_eq!(spans.root(&hashes).unwrap(), root_of(&image, b"salt"), "{blocks} blocks");
        }
        assert!(Spans::new(4097, b"").is_err() && Spans::new(0, b"").is_err());
    }

    #[test]
    fn a_tree_is_the_one_that_veritysetup_makes() {
        let program = ["/usr/sbin/veritysetup", "/sbin/veritysetup"].into_iter().find(|path| std::path::Path::new(path).exists());
        let Some(program) = program else {
            println!("skipped: veritysetup is not installed");
            return;
        };
        for blocks in SIZES {
            for salt in [&b"\x01\x02\x03"[..], &[7; 32], &[]] {
                let dir = tempfile::tempdir().unwrap();
                let (data, hashes) = (dir.path().join("data"), dir.path().join("hashes"));
                let image = image(blocks);
                std::fs::write(&data, &image).unwrap();
                std::fs::write(&hashes, []).unwrap();
                let ours = Tree::of(image.as_slice(), image.len() as u64, salt).unwrap();
                let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                let uuid = hex(&ours.bytes[16..32]);
                let uuid = format!("{}-{}-{}-{}-{}", &uuid[..8], &uuid[8..12], &uuid[12..16], &uuid[16..20], &uuid[20..]);
                let salt_words = if salt.is_empty() { "-".to_owned() } else { hex(salt) };
                let mut format = Command::new(program);
                format.args(["format", "--salt", &salt_words, "--uuid", &uuid]).arg(&data).arg(&hashes);
                let output = format.output().unwrap();
                let words = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let theirs = words.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim();
                assert_eq!(ours.root.to_string(), theirs, "{blocks} blocks");
                let mut expected = std::fs::read(&hashes).unwrap();
                expected.resize(ours.bytes.len().max(expected.len()), 0);
                assert!(expected == ours.bytes, "{blocks} blocks, salt {}", hex(salt));
            }
        }
    }

    #[test]
    fn what_the_kernel_could_not_map_is_refused() {
        let error = |size: u64| Tree::of(io::empty(), size, b"").unwrap_err().to_string();
        assert_eq!(error(0), "the image has 0 bytes: expected a multiple of 4096, and not 0");
        assert_eq!(error(4097), "the image has 4097 bytes: expected a multiple of 4096, and not 0");
        assert_eq!(RootOf::new(&[0; 257]).unwrap_err().to_string(), "the salt has 257 bytes: expected at most 256");
        assert!(RootOf::new(b"").unwrap().finish().is_err());
        assert!(matches!(Tree::of(io::empty(), 4096, b""), Err(VerityError::Io(_))));
    }

    #[test]
    fn any_changed_byte_changes_the_root() {
        let image = image(130);
        let root = root_of(&image, b"salt");
        for at in [0, 4095, 4096, 300_000, image.len() - 1] {
            let mut changed = image.clone();
            changed[at] ^= 1;
            assert_ne!(root_of(&changed, b"salt"), root, "byte {at}");
        }
        assert_ne!(root_of(&image, b"other"), root);
    }
}
