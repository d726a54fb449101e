//! What has to hold of every disk that a power cut leaves.
//!
//! 1. Nothing was written to the partition tables (neither loader needs that), so both copies are as they were made.
//! 2. The loader finds a slot to start, and what it would start is a complete signed image: root, and kernel and command line where those
//!    are files of their own (P1, P2, P4).
//! 3. A slot on trial has a complete good one behind it (P8).
//! 4. No update that was armed, and none that was kept, is lost by a cut that comes later.
//! 5. The state partition: see [`super::state`] (P3, P11).

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use super::cut::Cut;
use super::disk::{Disk, Trace};
use super::fat::Fat;
use super::loader::{Candidate, candidates};
use super::state::{StateMount, StateSeen, check_nothing_is_lost};
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
    /// Digest of its kernel, where that is a file of its own.
    pub kernel: Option<[u8; 32]>,
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
    /// The state partition.
    pub state: Range<u64>,
    /// Both copies of the partition table.
    pub tables: [Range<u64>; 2],
}

/// What the loader would start, and the digest of the kernel it would find.
#[derive(Clone, Debug)]
struct Entry {
    candidate: Candidate,
    kernel: Option<[u8; 32]>,
}

/// How far the update has come, as the loader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    /// The old version starts.
    Before,
    /// The new one is tried.
    Trial,
    /// The new one is kept.
    Kept,
}

/// What was found of a state.
#[derive(Clone, Debug)]
struct Found {
    progress: Progress,
    words: String,
    state: Option<StateSeen>,
}

/// Looks at disks, and remembers what it has seen.
#[derive(Debug)]
pub struct Checker {
    loader: Loader,
    layout: Layout,
    releases: Vec<Signed>,
    roots: HashMap<(usize, Trace), Option<usize>>,
    esps: HashMap<Trace, Result<Vec<Entry>, String>>,
    /// `None` where nothing can be mounted.
    mount: Option<StateMount>,
    states: HashMap<(Trace, Vec<Candidate>), Result<StateSeen, String>>,
    /// What is on the medium for certain before an epoch.
    before: Option<(usize, Found)>,
}

impl Checker {
    /// For disks of this layout that this loader starts, on which only these releases may stand: the old one and the new one.
    #[must_use]
    pub fn new(loader: Loader, layout: Layout, releases: Vec<Signed>, mount: Option<StateMount>) -> Self {
        Self {
            loader,
            layout,
            releases,
            roots: HashMap::new(),
            esps: HashMap::new(),
            mount,
            states: HashMap::new(),
            before: None,
        }
    }

    /// What the machine would do, in a few words that are the same for cuts of one kind.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&mut self, disk: &Disk, cut: &Cut) -> Result<String, String> {
        if self.before.as_ref().is_none_or(|(epoch, _)| *epoch != cut.epoch) {
            let nothing = Cut { epoch: cut.epoch, kept: vec![false; cut.kept.len()], torn: None };
            let found = self.found(disk, &nothing).map_err(|why| format!("before the first write of the epoch: {why}"))?;
            self.before = Some((cut.epoch, found));
        }
        let found = self.found(disk, cut)?;
        let Some((_, before)) = &self.before else { return Ok(found.words) };
        if found.progress < before.progress {
            return Err(format!("what was on the medium is lost: {}, before {}", found.words, before.words));
        }
        if let (Some(before), Some(after)) = (&before.state, &found.state) {
            check_nothing_is_lost(before, after)?;
        }
        Ok(found.words)
    }

    fn found(&mut self, disk: &Disk, cut: &Cut) -> Result<Found, String> {
        if let Some(touched) = self.layout.tables.iter().find(|range| disk.trace(cut, range) != Trace::default()) {
            return Err(format!("bytes {touched:?} of the partition table were written"));
        }
        disk.after(cut, |file| self.look(disk, cut, file)).map_err(|error| error.to_string())?
    }

    fn look(&mut self, disk: &Disk, cut: &Cut, file: &File) -> Result<Found, String> {
        let entries = self.entries_of(disk, cut, file)?;
        let found: Vec<Candidate> = entries.iter().map(|entry| entry.candidate.clone()).collect();
        let (mut words, mut newest) = (Vec::new(), false);
        for (place, entry) in entries.iter().enumerate() {
            let candidate = &entry.candidate;
            match self.release_of(disk, cut, file, entry) {
                Ok(release) => {
                    newest |= place == 0 && release > 0;
                    words.push(describe(candidate, &self.releases[release].version));
                }
                // What comes after a good one is never started.
                Err(_) if place > 0 && found[..place].iter().any(|earlier| earlier.tries_left.is_none()) => break,
                Err(why) => return Err(format!("candidate {} of {}: {why} ({candidate:?})", place + 1, found.len())),
            }
        }
        if found.iter().all(|candidate| candidate.tries_left.is_some()) {
            return Err(format!("nothing good is behind {}", words.join(", ")));
        }
        let progress = match (newest, found[0].tries_left) {
            (false, _) => Progress::Before,
            (true, Some(_)) => Progress::Trial,
            (true, None) => Progress::Kept,
        };
        let state = self.state_of(disk, cut, file, &found)?;
        let at = state.as_ref().map_or_else(String::new, |state| format!("; engine: {}", state.state));
        Ok(Found { progress, words: format!("starts {}{at}", words.join(", then ")), state })
    }

    fn state_of(&mut self, disk: &Disk, cut: &Cut, file: &File, chosen: &[Candidate]) -> Result<Option<StateSeen>, String> {
        let Some(mount) = &self.mount else { return Ok(None) };
        let key = (disk.trace(cut, &self.layout.state), chosen.to_vec());
        if let Some(known) = self.states.get(&key) {
            return known.clone().map(Some);
        }
        let seen = mount.look(file, &self.layout.state, chosen);
        self.states.insert(key, seen.clone());
        seen.map(Some)
    }

    fn entries_of(&mut self, disk: &Disk, cut: &Cut, file: &File) -> Result<Vec<Entry>, String> {
        let key = disk.trace(cut, &self.layout.esp);
        if let Some(known) = self.esps.get(&key) {
            return known.clone();
        }
        let entries = self.read_entries(file);
        self.esps.insert(key, entries.clone());
        entries
    }

    fn read_entries(&self, file: &File) -> Result<Vec<Entry>, String> {
        let esp = Fat::open(file, self.layout.esp.start)?;
        let kernel = |path: &String| -> Result<[u8; 32], String> {
            let bytes = esp.read(path.trim_start_matches('/'))?;
            Ok(bytes.map_or([0; 32], |bytes| Sha256::digest(bytes).into()))
        };
        let entry = |candidate: Candidate| Ok(Entry { kernel: candidate.kernel.as_ref().map(kernel).transpose()?, candidate });
        candidates(self.loader, &esp)?.into_iter().map(entry).collect()
    }

    /// Which of the releases this entry starts, in whole.
    fn release_of(&mut self, disk: &Disk, cut: &Cut, file: &File, entry: &Entry) -> Result<usize, String> {
        let candidate = &entry.candidate;
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
        let index = release.ok_or_else(|| format!("slot {} is no complete signed image", candidate.slot))?;
        let release = &self.releases[index];
        if entry.kernel != release.kernel {
            return Err(format!("{:?} is not the kernel of {}", candidate.kernel, release.version));
        }
        let options = release.options.as_ref().map(|options| options[slot].as_str());
        if candidate.options.as_deref() != options {
            return Err(format!("the command line is not that of {}", release.version));
        }
        Ok(index)
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
