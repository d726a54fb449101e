//! What has to hold of every disk that a power cut leaves.
//!
//! 1. The files of the EFI system partition hold what their names say: no two share a cluster, and none lies in clusters that are free.
//!    What is neither boot state nor a slot's is as it was, and nothing else is there (P1: entries of others, loader, its configuration).
//!    No cluster belongs to nobody for longer than a few flushes.
//! 2. The loader finds a slot to start, and what it would start is a complete signed image: root, and kernel and command line where those
//!    are files of their own (P1). It is the slot that is updated, or the one that the update began from.
//! 3. A slot on trial has a complete good one behind it, which is the other one (P8); and no slot that is marked good is anything else
//!    than a complete signed image, whether it would be started or not.
//! 4. No update that was armed, and none that was kept, is lost by a cut that comes later; nor is one of which the machine had said that
//!    it is.
//! 5. The daemon's own reading of the same files: see [`super::control`] (P1).
//! 6. Nothing is armed before the lock service has the host down as one that reboots (P4).
//! 7. The state partition: see [`super::state`] (P3, P4, P7, P11).
//!
//! That nothing was ever written to the partition tables, to the loader's partition and to the slot that runs (P2) is seen in the log alone
//! ([`super::campaign::Campaign::check_whole`]).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use manifests::release::SlotName;
use sha2::{Digest as _, Sha256};
use update_engine::engine::facts::BootTable;

use super::control::{Control, EspFile};
use super::cut::Cut;
use super::disk::{Disk, Trace};
use super::fat::Fat;
use super::loader::{Candidate, Progress, candidates};
use super::state::{StateMount, StateSeen, Step, Unseen, check_agrees, check_is_kept, check_nothing_is_lost};
use crate::vm::{ENTRY_PREFIX, Loader};

/// Read at once.
const PIECE: usize = 1 << 20;
/// Longest file of the ESP that the daemon's boot control is shown: kernels and loaders are none of its business.
const MAX_ESP_FILE: u64 = 64 << 10;

/// Flushes for which clusters of the ESP may belong to nobody.
const MAX_EPOCHS_LOST: usize = 8;

/// What a file is called that is being written: whatever it holds is written again.
const IN_WRITING: &str = ".new";

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
    /// Both copies of the partition table, and the loader's own partition, to which neither loader nor daemon writes here.
    pub fixed: [Range<u64>; 3],
}

/// What the loader has to start first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct First {
    /// `a` or `b`.
    pub slot: char,
    /// How far the update is.
    pub progress: Progress,
}

/// What was looked at: what was written to the disk, to the EFI system partition, to the state partition and to each slot.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// By their [`Disk::trace`]s, of which there are too many to keep.
    disks: HashSet<u64>,
    esps: HashSet<Trace>,
    states: HashSet<Trace>,
    slots: HashSet<(usize, Trace)>,
}

/// How many of each there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Different {
    /// Disks as a whole.
    pub disks: usize,
    /// EFI system partitions.
    pub esps: usize,
    /// State partitions.
    pub states: usize,
    /// Contents of slots that the loader may start.
    pub slots: usize,
}

impl Different {
    /// Of all that looked at one boot.
    #[must_use]
    pub fn of(looked: &[Looked]) -> Self {
        fn count<T: std::hash::Hash + Eq>(sets: impl Iterator<Item = impl IntoIterator<Item = T>>) -> usize {
            sets.flatten().collect::<HashSet<T>>().len()
        }
        Self {
            disks: count(looked.iter().map(|looked| &looked.disks)),
            esps: count(looked.iter().map(|looked| &looked.esps)),
            states: count(looked.iter().map(|looked| &looked.states)),
            slots: count(looked.iter().map(|looked| &looked.slots)),
        }
    }
}

impl std::ops::AddAssign for Different {
    fn add_assign(&mut self, more: Self) {
        self.disks += more.disks;
        self.esps += more.esps;
        self.states += more.states;
        self.slots += more.slots;
    }
}

/// What the loader would start, and the digest of the kernel it would find.
#[derive(Clone, Debug)]
struct Entry {
    candidate: Candidate,
    kernel: Option<[u8; 32]>,
}

/// What is on the ESP.
#[derive(Clone, Debug)]
struct Esp {
    entries: Vec<Entry>,
    /// Clusters that are taken, and in no file.
    lost: Arc<[u32]>,
    /// What the daemon finds after the boot that the loader would make, or what does not hold of that.
    table: Result<BootTable, String>,
}

/// What one boot of a recording has to keep, whenever it is cut.
#[derive(Clone, Debug, Default)]
pub struct Demands {
    /// Which update it is, from 0: from this release to the next one.
    pub update: usize,
    /// The highest sequence number that was kept before.
    pub highest: u64,
    /// From which epoch on the machine had said how far it is.
    pub said: Vec<(usize, Progress)>,
    /// What the servers have acknowledged, as in [`super::state::Memory::outbox`], and from which epoch on they had.
    pub acknowledged: HashMap<String, usize>,
    /// From which epoch on the lock service knew that the host is about to reboot.
    pub locked: usize,
}

/// What is on the medium for certain before an epoch, as far as it holds: where it does not, the cut that keeps nothing shows it.
#[derive(Debug)]
struct Before {
    epoch: usize,
    progress: Option<Progress>,
    state: Option<StateSeen>,
    /// What no server had been told before, and none was in the epoch.
    untold: HashSet<i64>,
}

/// Looks at disks, and remembers what it has seen.
#[derive(Debug)]
pub struct Checker {
    loader: Loader,
    layout: Layout,
    releases: Vec<Signed>,
    demands: Demands,
    control: Control,
    roots: HashMap<(usize, Trace), Option<usize>>,
    esps: HashMap<Trace, Result<Esp, String>>,
    /// Kernels of releases that were found, and their digests: to compare is ten times as fast as to hash.
    kernels: Vec<(Vec<u8>, [u8; 32])>,
    /// `None` where nothing can be mounted.
    mount: Option<StateMount>,
    states: HashMap<(Trace, String), Result<StateSeen, String>>,
    before: Option<Before>,
    /// Since which epoch a cluster of the ESP was in no file at the beginning of each that was looked at.
    lost: HashMap<u32, usize>,
    disks: HashSet<u64>,
    /// Files of the ESP that stay as they are.
    fixed: Vec<EspFile>,
    /// Why no more can be looked at here.
    broken: Option<String>,
}

/// What the loader would do.
#[derive(Clone, Debug)]
struct Start {
    progress: Progress,
    words: String,
}

impl Checker {
    /// For disks of this layout that this loader starts, on which only these releases may stand, and which began as `base`.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn new(
        control: Control,
        loader: Loader,
        layout: Layout,
        releases: Vec<Signed>,
        demands: Demands,
        mount: Option<StateMount>,
        base: &File,
    ) -> Result<Self, String> {
        let mut fixed = Vec::new();
        for (path, bytes) in Fat::open(base, layout.esp.start)?.walk(u64::MAX)? {
            if !changes(&path) {
                fixed.push((path, bytes?));
            }
        }
        Ok(Self {
            loader,
            layout,
            releases,
            demands,
            control,
            roots: HashMap::new(),
            esps: HashMap::new(),
            kernels: Vec::new(),
            mount,
            states: HashMap::new(),
            before: None,
            lost: HashMap::new(),
            disks: HashSet::new(),
            fixed,
            broken: None,
        })
    }

    /// Why nothing can be looked at here any more: what was said of the last cut is no finding.
    #[must_use]
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// What the machine would do, in a few words that are the same for cuts of one kind.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&mut self, disk: &mut Disk, cut: &Cut) -> Result<String, String> {
        if self.before.as_ref().is_none_or(|before| before.epoch != cut.epoch) {
            self.before = Some(self.look_before(disk, cut)?);
        }
        let mut hasher = DefaultHasher::new();
        disk.trace(cut, &(0..u64::MAX)).hash(&mut hasher);
        self.disks.insert(hasher.finish());
        disk.after(cut, |disk, file| self.look(disk, cut, file)).map_err(|error| error.to_string())?
    }

    /// What was looked at.
    #[must_use]
    pub fn into_looked(self) -> Looked {
        Looked {
            disks: self.disks,
            esps: self.esps.into_keys().collect(),
            states: self.states.into_keys().map(|(trace, _)| trace).collect(),
            slots: self.roots.into_keys().collect(),
        }
    }

    /// What the loader starts first after a cut.
    ///
    /// # Errors
    /// What does not hold.
    pub fn first(&mut self, disk: &mut Disk, cut: &Cut) -> Result<First, String> {
        let seen = disk.after(cut, |disk, file| {
            let progress = self.start(disk, cut, file)?.progress;
            let first = self.esp_of(disk, cut, file)?.entries.first().map(|entry| entry.candidate.slot);
            first.map(|slot| First { slot, progress }).ok_or_else(|| "nothing".to_owned())
        });
        seen.map_err(|error| error.to_string())?
    }

    /// How far the update has come after a cut, as the loader sees it.
    ///
    /// # Errors
    /// What does not hold.
    pub fn progress(&mut self, disk: &mut Disk, cut: &Cut) -> Result<Progress, String> {
        let start = disk.after(cut, |disk, file| self.start(disk, cut, file)).map_err(|error| error.to_string())?;
        start.map(|start| start.progress)
    }

    fn look_before(&mut self, disk: &mut Disk, cut: &Cut) -> Result<Before, String> {
        let words = |error: std::io::Error| error.to_string();
        let that = |kept| Cut { epoch: cut.epoch, kept: vec![kept; cut.kept.len()], torn: None };
        let (nothing, all) = (that(false), that(true));
        let before = disk.after(&nothing, |disk, file| {
            self.note_lost(disk, &nothing, file);
            let progress = self.start(disk, &nothing, file).ok().map(|start| start.progress);
            (progress, self.state_of(disk, &nothing, file).ok().flatten())
        });
        let after = disk.after(&all, |disk, file| self.state_of(disk, &all, file).ok().flatten()).map_err(words)?;
        let (progress, state) = before.map_err(words)?;
        let rows = |seen: &Option<StateSeen>| -> HashSet<i64> {
            seen.iter().flat_map(|seen| &seen.memory.outbox).map(|(id, _)| *id).collect()
        };
        let untold = rows(&state).intersection(&rows(&after)).copied().collect();
        Ok(Before { epoch: cut.epoch, progress, state, untold })
    }

    fn look(&mut self, disk: &Disk, cut: &Cut, file: &File) -> Result<String, String> {
        let Start { progress, words } = self.start(disk, cut, file)?;
        let before = self.before.as_ref().and_then(|before| before.progress);
        if let Some(before) = before.filter(|before| progress < *before) {
            return Err(format!("what was on the medium is lost: it was at {before:?}, and {words}"));
        }
        if progress > Progress::Before && cut.epoch < self.demands.locked {
            return Err(format!("the lock service did not know yet that the host reboots, and {words}"));
        }
        let said = self.said(cut.epoch);
        if let Some(said) = said.filter(|said| progress < *said) {
            return Err(format!("what the machine had said is lost: it was at {said:?}, and {words}"));
        }
        self.esp_of(disk, cut, file)?.table.map_err(|why| format!("boot control: {why}; {words}"))?;
        self.check_lost(cut.epoch)?;
        let Some(state) = self.state_of(disk, cut, file)? else { return Ok(words) };
        if let Some(Before { state: Some(before), untold, .. }) = &self.before {
            check_nothing_is_lost(before, &state, &|(id, words)| {
                !untold.contains(id) && self.demands.acknowledged.get(words).is_some_and(|from| cut.epoch >= *from)
            })?;
        }
        // The floor rises once a slot is marked good, and before anything is said of that.
        let highest = self.demands.highest + u64::from(said == Some(Progress::Kept));
        check_is_kept(&state, self.demands.update, highest)?;
        let least = match said {
            None | Some(Progress::Before) => Step::None,
            Some(Progress::Trial) => Step::Armed,
            Some(Progress::Kept) => Step::Kept,
        };
        if state.memory.step < least {
            return Err(format!("the machine had said that it is at {least:?}, its journal is at {:?}", state.memory.step));
        }
        check_agrees(progress, &state)?;
        let engine = state.started.map_or_else(|| "no state yet".to_owned(), |started| started.words);
        let checked = if state.was_checked { "; state partition after e2fsck -y" } else { "" };
        Ok(format!("{words}; engine: {engine}{checked}"))
    }

    fn note_lost(&mut self, disk: &Disk, nothing: &Cut, file: &File) {
        let lost = self.esp_of(disk, nothing, file).map(|esp| esp.lost).unwrap_or_default();
        self.lost.retain(|cluster, _| lost.binary_search(cluster).is_ok());
        lost.iter().for_each(|cluster| {
            self.lost.entry(*cluster).or_insert(nothing.epoch);
        });
    }

    /// Clusters belong to nobody between the flush after which no name leads to them any more, or none does yet, and the one that follows it
    /// at once; of others on the same disk a few may come between.
    fn check_lost(&self, epoch: usize) -> Result<(), String> {
        match self.lost.iter().filter(|(_, since)| epoch - **since > MAX_EPOCHS_LOST).min() {
            Some((cluster, since)) => {
                Err(format!("cluster {cluster} is in no file of the ESP, and was in none since epoch {since}"))
            }
            None => Ok(()),
        }
    }

    fn said(&self, epoch: usize) -> Option<Progress> {
        self.demands.said.iter().filter(|(from, _)| *from <= epoch).map(|(_, progress)| *progress).max()
    }

    fn start(&mut self, disk: &Disk, cut: &Cut, file: &File) -> Result<Start, String> {
        let entries = self.esp_of(disk, cut, file)?.entries;
        let mut found = Vec::new();
        for entry in entries {
            let release = self.release_of(disk, cut, file, &entry);
            found.push((entry.candidate, release));
        }
        judge(&found, &self.releases, self.demands.update)
    }

    fn state_of(&mut self, disk: &Disk, cut: &Cut, file: &File) -> Result<Option<StateSeen>, String> {
        let Esp { entries, table, .. } = self.esp_of(disk, cut, file)?;
        let (Some(mount), Some(first), Ok(table)) = (&self.mount, entries.first(), table) else { return Ok(None) };
        let running = if first.candidate.slot == 'b' { SlotName::B } else { SlotName::A };
        let key = (disk.trace(cut, &self.layout.state), format!("{running} {table:?}"));
        if let Some(known) = self.states.get(&key) {
            return known.clone().map(Some);
        }
        let seen = match mount.look(file, &self.layout.state, running, &table, self.demands.update) {
            Ok(seen) => Ok(seen),
            Err(Unseen::Bad(why)) => Err(why),
            Err(Unseen::Here(why)) => {
                self.broken = Some(why.clone());
                return Err(why);
            }
        };
        self.states.insert(key, seen.clone());
        seen.map(Some)
    }

    fn esp_of(&mut self, disk: &Disk, cut: &Cut, file: &File) -> Result<Esp, String> {
        let key = disk.trace(cut, &self.layout.esp);
        if let Some(known) = self.esps.get(&key) {
            return known.clone();
        }
        let esp = self.read_esp(file);
        self.esps.insert(key, esp.clone());
        esp
    }

    fn read_esp(&mut self, file: &File) -> Result<Esp, String> {
        let esp = Fat::open(file, self.layout.esp.start)?;
        esp.check_clusters()?;
        self.check_fixed(&esp)?;
        let found = candidates(self.loader, &esp)?;
        let table = files_of(&esp).and_then(|files| self.control.examine(&files, &found));
        let mut kernel = |path: &String| -> Result<[u8; 32], String> {
            let bytes = esp.read(path.trim_start_matches('/'))?;
            Ok(bytes.map_or([0; 32], |bytes| self.digest_of_kernel(bytes)))
        };
        let entry =
            |candidate: Candidate| Ok(Entry { kernel: candidate.kernel.as_ref().map(&mut kernel).transpose()?, candidate });
        Ok(Esp { entries: found.into_iter().map(entry).collect::<Result<_, String>>()?, lost: esp.lost()?.into(), table })
    }

    fn check_fixed(&self, esp: &Fat<'_>) -> Result<(), String> {
        for (path, bytes) in &self.fixed {
            match esp.read(path)? {
                None => return Err(format!("{path} is gone, which is none of ours")),
                Some(found) if found != *bytes => return Err(format!("{path} was changed, which is none of ours")),
                Some(_) => {}
            }
        }
        let is_known = |path: &String| changes(path) || self.fixed.iter().any(|(known, _)| known == path);
        match esp.paths()?.iter().find(|path| !is_known(path)) {
            Some(path) => Err(format!("{path} was not there, and is none of ours")),
            None => Ok(()),
        }
    }

    fn digest_of_kernel(&mut self, bytes: Vec<u8>) -> [u8; 32] {
        if let Some((_, digest)) = self.kernels.iter().find(|(known, _)| *known == bytes) {
            return *digest;
        }
        let digest = Sha256::digest(&bytes).into();
        if self.releases.iter().any(|release| release.kernel == Some(digest)) {
            self.kernels.push((bytes, digest));
        }
        digest
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

/// A file of the ESP that the update or the boot loader may change: boot state, and what belongs to a slot. And what `fsck.fat -a` makes of
/// clusters that were in no file any more.
fn changes(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let is_found = path.starts_with("fsck") && path.ends_with(".rec");
    is_found || ["grub/grubenv", "ota/", &format!("loader/entries/{ENTRY_PREFIX}-")].iter().any(|ours| path.starts_with(ours))
}

/// What the loader makes of these candidates, each with the release that it starts in whole, or why it starts none, in this update.
fn judge(found: &[(Candidate, Result<usize, String>)], releases: &[Signed], update: usize) -> Result<Start, String> {
    let mut words = Vec::new();
    let is_safe = |earlier: &[(Candidate, Result<usize, String>)]| {
        let first = earlier.first().map(|(first, _)| first);
        // What is good is never left by itself, and what is on trial only for the other slot.
        let ends = |candidate: &Candidate| {
            candidate.tries_left.is_none()
                && first.is_some_and(|first| first.tries_left.is_none() || first.slot != candidate.slot)
        };
        earlier.iter().any(|(candidate, release)| release.is_ok() && ends(candidate))
    };
    for (place, (candidate, release)) in found.iter().enumerate() {
        match release {
            Ok(release) => words.push(describe(candidate, &releases[*release].version)),
            // What comes after is never started; but a slot that is marked good is one, or the next fault starts it.
            Err(_) if is_safe(&found[..place]) && candidate.tries_left.is_some() => {}
            Err(why) => return Err(format!("candidate {} of {}: {why} ({candidate:?})", place + 1, found.len())),
        }
    }
    if !is_safe(found) {
        return Err(format!("nothing good of the other slot is behind {}", words.join(", ")));
    }
    let progress = match found.first() {
        Some((first, Ok(release))) if *release == update + 1 && first.tries_left.is_none() => Progress::Kept,
        Some((_, Ok(release))) if *release == update + 1 => Progress::Trial,
        Some((first, Ok(release))) if *release == update && first.tries_left.is_none() => Progress::Before,
        _ => return Err(format!("the loader starts neither what is updated nor what it is updated to: {}", words.join(", "))),
    };
    Ok(Start { progress, words: format!("starts {}", words.join(", then ")) })
}

/// The files of an ESP that the daemon's boot control may read.
fn files_of(esp: &Fat<'_>) -> Result<Vec<EspFile>, String> {
    let held = |(path, bytes): (String, Result<Vec<u8>, String>)| match bytes {
        Ok(bytes) => Ok((path, bytes)),
        // What was being written is overwritten, and never read.
        Err(_) if path.ends_with(IN_WRITING) => Ok((path, Vec::new())),
        Err(why) => Err(format!("{path}: {why}")),
    };
    esp.walk(MAX_ESP_FILE)?.into_iter().map(held).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn release(version: &str) -> Signed {
        Signed { version: version.to_owned(), root: (0, [0; 32]), kernel: None, options: None }
    }

    /// In the update from 1.0.0 to 2.0.0, the second one of three releases.
    fn judged(found: &[(char, Option<u32>, Option<usize>)]) -> Result<Progress, String> {
        let one = |(slot, tries_left, release): &(char, Option<u32>, Option<usize>)| {
            let candidate = Candidate { slot: *slot, tries_left: *tries_left, kernel: None, options: None, entry: None };
            (candidate, release.ok_or_else(|| format!("slot {slot} is no complete signed image")))
        };
        let found: Vec<_> = found.iter().map(one).collect();
        judge(&found, &["0.0.0", "1.0.0", "2.0.0"].map(release), 1).map(|start| start.progress)
    }

    const OLDER: (char, Option<u32>, Option<usize>) = ('b', None, Some(0));
    const OLD: (char, Option<u32>, Option<usize>) = ('a', None, Some(1));
    const NEW: (char, Option<u32>, Option<usize>) = ('b', None, Some(2));
    const TRIED: (char, Option<u32>, Option<usize>) = ('b', Some(3), Some(2));

    #[test]
    fn what_is_started_says_how_far_an_update_is() {
        assert_eq!(judged(&[OLD]), Ok(Progress::Before));
        assert_eq!(judged(&[OLD, OLDER]), Ok(Progress::Before));
        assert_eq!(judged(&[OLD, ('b', Some(0), None)]), Ok(Progress::Before), "what is behind a good one is never started");
        assert_eq!(judged(&[TRIED, OLD]), Ok(Progress::Trial));
        assert_eq!(judged(&[TRIED, NEW, OLD]), Ok(Progress::Trial), "one entry is put in the place of the other");
        assert_eq!(judged(&[NEW, OLD]), Ok(Progress::Kept));
    }

    #[test]
    fn a_slot_that_is_marked_good_is_one_wherever_it_stands() {
        assert!(judged(&[OLD, ('b', None, None)]).unwrap_err().contains("slot b is no complete signed image"));
    }

    #[test]
    fn nothing_older_is_started_than_what_is_updated() {
        assert!(judged(&[OLDER, OLD]).unwrap_err().contains("neither"));
        assert!(judged(&[('a', Some(2), Some(1)), OLDER]).unwrap_err().contains("neither"), "what ran was good");
    }

    #[test]
    fn behind_a_slot_on_trial_the_other_one_is_good_and_complete() {
        for missing in [&[TRIED][..], &[TRIED, NEW], &[TRIED, ('a', Some(1), Some(1))]] {
            assert!(judged(missing).unwrap_err().contains("nothing good of the other slot"), "{missing:?}");
        }
        let broken = ('a', None, None);
        for incomplete in [&[TRIED, broken][..], &[TRIED, NEW, broken], &[('b', Some(3), None), OLD], &[broken]] {
            assert!(judged(incomplete).unwrap_err().contains("no complete signed image"), "{incomplete:?}");
        }
        assert!(judged(&[]).is_err());
    }
}
