//! What has to hold of every disk that a power cut leaves.
//!
//! 1. Both copies of the partition table can be read (nothing writes them here).
//! 2. The loader finds a slot to start, and what it would start is a complete signed image: root, and kernel and command line where those
//!    are files of their own (P1, P3, P4).
//! 3. A slot on trial has a complete good one behind it (P8).

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use super::cut::Cut;
use super::disk::{Disk, Trace};
use super::fat::Fat;
use super::loader::{Candidate, candidates};
use crate::vm::Loader;

/// Read at once.
const PIECE: usize = 1 << 20;

/// A release, as it has to stand in a slot.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Its version.
    pub version: String,
    /// Length and digest of its root image.
    pub root: (u64, [u8; 32]),
    /// Its kernel, where that is a file of its own.
    pub kernel: Option<Vec<u8>>,
    /// Its command line in slot a and in slot b, likewise.
    pub options: Option<[String; 2]>,
}

/// Where everything lies on the disk.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The EFI system partition.
    pub esp: Range<u64>,
    /// The slots.
    pub slots: [Range<u64>; 2],
}

/// Looks at disks, and remembers what it has seen.
#[derive(Debug)]
pub struct Checker {
    loader: Loader,
    layout: Layout,
    releases: Vec<Signed>,
    roots: HashMap<(usize, Trace), Option<usize>>,
}

impl Checker {
    /// For disks of this layout that this loader starts, on which only these releases may stand.
    #[must_use]
    pub fn new(loader: Loader, layout: Layout, releases: Vec<Signed>) -> Self {
        Self { loader, layout, releases, roots: HashMap::new() }
    }

    /// What the machine would do, in a few words that are the same for cuts of one kind.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&mut self, disk: &Disk, cut: &Cut) -> Result<String, String> {
        let looked = disk.after(cut, |file| self.look(disk, cut, file));
        looked.map_err(|error| error.to_string())?
    }

    fn look(&mut self, disk: &Disk, cut: &Cut, file: &File) -> Result<String, String> {
        let esp = Fat::open(file, self.layout.esp.start)?;
        let found = candidates(self.loader, &esp)?;
        let mut words = Vec::new();
        for (place, candidate) in found.iter().enumerate() {
            let version = self.version_in(disk, cut, file, &esp, candidate);
            match version {
                Ok(version) => words.push(describe(candidate, &version)),
                // What comes after a good one is never started.
                Err(_) if place > 0 && found[..place].iter().any(|earlier| earlier.tries_left.is_none()) => break,
                Err(why) => return Err(format!("candidate {} of {}: {why} ({candidate:?})", place + 1, found.len())),
            }
        }
        match found.iter().find(|candidate| candidate.tries_left.is_none()) {
            Some(_) => Ok(format!("starts {}", words.join(", then "))),
            None => Err(format!("nothing good is behind {}", words.join(", "))),
        }
    }

    fn version_in(
        &mut self,
        disk: &Disk,
        cut: &Cut,
        file: &File,
        esp: &Fat<'_>,
        candidate: &Candidate,
    ) -> Result<String, String> {
        let slot = usize::from(candidate.slot == 'b');
        let range = self.layout.slots[slot].clone();
        let key = (slot, disk.trace(cut, &range));
        let release = match self.roots.get(&key) {
            Some(known) => *known,
            None => {
                let found = self.release_in(file, range.start)?;
                self.roots.insert(key, found);
                found
            }
        };
        let release = &self.releases[release.ok_or_else(|| format!("slot {} is no complete signed image", candidate.slot))?];
        if let Some(path) = &candidate.kernel {
            let kernel = esp.read(path.trim_start_matches('/'))?;
            if kernel.is_none() || kernel != release.kernel {
                return Err(format!("{path} is not the kernel of {}", release.version));
            }
            let options = release.options.as_ref().map(|options| options[slot].as_str());
            if candidate.options.as_deref() != options {
                return Err(format!("the command line is not that of {}", release.version));
            }
        }
        Ok(release.version.clone())
    }

    fn release_in(&self, file: &File, start: u64) -> Result<Option<usize>, String> {
        for (index, release) in self.releases.iter().enumerate() {
            let (length, digest) = release.root;
            if hash(file, start, length).map_err(|error| error.to_string())? == digest {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }
}

fn describe(candidate: &Candidate, version: &str) -> String {
    let how = match candidate.tries_left {
        None => "good".to_owned(),
        Some(left) => format!("{left} tries left"),
    };
    format!("{} ({version}, {how})", candidate.slot)
}

fn hash(file: &File, start: u64, length: u64) -> std::io::Result<[u8; 32]> {
    let (mut hasher, mut piece, mut done) = (Sha256::new(), vec![0; PIECE], 0);
    while done < length {
        let now = usize::try_from(length - done).unwrap_or(PIECE).min(PIECE);
        file.read_exact_at(&mut piece[..now], start + done)?;
        hasher.update(&piece[..now]);
        done += now as u64;
    }
    Ok(hasher.finalize().into())
}
