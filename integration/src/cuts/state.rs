//! What has to hold of the state partition that a power cut leaves.
//!
//! The file system is checked where it cannot be mounted as it is, and mounted, which replays its journal, as the next boot would; then it is
//! looked at as the daemon looks at it:
//!
//! 1. the floor can be read, and is not below what was on the medium before (P3, P11);
//! 2. the trial that was written down can be read;
//! 3. the daemon's journal opens, and is not set aside;
//! 4. the engine starts from it, and starts from it again as if the power had failed once more: the second start finds what the first one
//!    left and says the same, and neither arms nor reboots before it has looked.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use manifests::release::SlotName;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use update_engine::boot::{Past, Standing};
use update_engine::deadline::{Left, Trial};
use update_engine::engine::facts::{BootTable, Content, Facts, Floor, FloorFacts, Identity, PerSlot};
use update_engine::engine::policy::{Policy, Strategy};
use update_engine::engine::time::{Mono, Now, Wall};
use update_engine::engine::{Effect, Engine, Event, Model};
use update_engine::floor::FloorFile;
use update_engine::journal::Journal;
use update_engine::records::Records;

use super::loader::Candidate;

/// The daemon's folder on the partition.
const FOLDER: &str = "update-engine";
/// Looked at as a whole: is it zero?
const BLOCK: usize = 4096;
/// Most times that a busy partition is unmounted, 10 ms apart.
const UNMOUNTS: u32 = 500;
/// Tries of a freshly armed slot.
const TRIES: u8 = 3;

/// A place to mount state partitions at, one after the other.
#[derive(Debug)]
pub struct StateMount {
    scratch: TempDir,
    file: File,
    device: PathBuf,
}

/// What a state partition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSeen {
    /// The floor; `None` = there is no file of it yet.
    pub floor: Option<Floor>,
    /// The daemon had a journal of its own already.
    pub had_journal: bool,
    /// What the engine is at after its start.
    pub state: String,
}

impl StateMount {
    /// For partitions of so many bytes, in a folder for nothing else. The thread gets a mount namespace of its own: what others copy of
    /// theirs would keep a partition mounted that is not any more.
    ///
    /// # Errors
    /// Where nothing can be mounted: why, for "partly skipped: …".
    pub fn new(scratch: TempDir, length: u64) -> Result<Self, String> {
        let words = |error: io::Error| error.to_string();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>))
            .map_err(|error| format!("no mount namespace: {error}"))?;
        let path = scratch.path().join("state.img");
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(words)?;
        file.set_len(length).map_err(words)?;
        std::fs::create_dir(scratch.path().join("mounted")).map_err(words)?;
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&path).output().map_err(words)?;
        if !output.status.success() {
            return Err(format!("no loop device: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        let device = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        Ok(Self { scratch, file, device })
    }

    fn point(&self) -> PathBuf {
        self.scratch.path().join("mounted")
    }

    /// Looks at the partition that lies there on a disk, which the loader would start so.
    ///
    /// # Errors
    /// What does not hold.
    pub fn look(&self, disk: &File, range: &Range<u64>, chosen: &[Candidate]) -> Result<StateSeen, String> {
        self.take(disk, range).map_err(|error| format!("state partition: {error}"))?;
        let flags = MsFlags::MS_NOATIME | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let mounted = || mount(Some(&self.device), &self.point(), Some("ext4"), flags, None::<&str>);
        mounted().or_else(|_| {
            self.mend()?;
            mounted().map_err(|error| format!("the state partition cannot be mounted, and e2fsck does not help: {error}"))
        })?;
        let seen = look_at(&self.point().join(FOLDER), chosen);
        self.unmount().map_err(|error| format!("the state partition stays mounted: {error}"))?;
        seen
    }

    /// A program that another thread starts holds our files open until it has become itself.
    fn unmount(&self) -> nix::Result<()> {
        for _ in 1..UNMOUNTS {
            match umount2(&self.point(), MntFlags::empty()) {
                Err(Errno::EBUSY) => std::thread::sleep(Duration::from_millis(10)),
                ended => return ended,
            }
        }
        umount2(&self.point(), MntFlags::empty())
    }

    /// As every host does before it mounts one: half of a superblock, which is two sectors, can be on the medium, and is mended from a copy.
    fn mend(&self) -> Result<(), String> {
        let output = Command::new("e2fsck").arg("-y").arg(&self.device).output().map_err(|error| format!("e2fsck: {error}"))?;
        // 1 and 2: errors were corrected.
        match output.status.code() {
            Some(0..=2) => Ok(()),
            code => Err(format!("e2fsck ended with {code:?}: {}", String::from_utf8_lossy(&output.stdout))),
        }
    }

    /// Takes over what is not zero; the rest of the file is given back to the memory that it is.
    fn take(&self, disk: &File, range: &Range<u64>) -> io::Result<()> {
        let length = range.end - range.start;
        self.file.set_len(0)?;
        self.file.set_len(length)?;
        let (mut piece, zeros) = (vec![0; 1 << 20], [0; BLOCK]);
        let mut at = range.start;
        while at < range.end {
            let now = usize::try_from(range.end - at).unwrap_or(piece.len()).min(piece.len());
            disk.read_exact_at(&mut piece[..now], at)?;
            let blocks = piece[..now].chunks(BLOCK).enumerate().filter(|(_, block)| **block != zeros[..block.len()]);
            for (index, block) in blocks {
                self.file.write_all_at(block, at - range.start + (index * BLOCK) as u64)?;
            }
            at += now as u64;
        }
        Ok(())
    }
}

impl Drop for StateMount {
    fn drop(&mut self) {
        let _not_mounted = umount2(&self.point(), MntFlags::empty());
        let _gone = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

/// Compares what a cut left with what was on the medium before the writes it was among.
///
/// # Errors
/// What was lost.
pub fn check_nothing_is_lost(before: &StateSeen, after: &StateSeen) -> Result<(), String> {
    let floors = |seen: &StateSeen| seen.floor.as_ref().map(|floor| (floor.floor, floor.highest));
    match (floors(before), floors(after)) {
        (Some(before), None) => Err(format!("the floor is gone, which was {before:?}")),
        (Some(before), Some(after)) if after.0 < before.0 || after.1 < before.1 => {
            Err(format!("the floor has sunk from {before:?} to {after:?}"))
        }
        _ if before.had_journal && !after.had_journal => Err("the daemon's journal is gone".to_owned()),
        _ => Ok(()),
    }
}

fn look_at(folder: &Path, chosen: &[Candidate]) -> Result<StateSeen, String> {
    let had_journal = std::fs::metadata(folder.join("journal.db")).is_ok_and(|data| data.len() > 1);
    if !folder.is_dir() {
        return Ok(StateSeen { floor: None, had_journal, state: "no state yet".to_owned() });
    }
    let floor = FloorFile::load(folder).map_err(|error| format!("floor: {error}"))?.map(|file| file.floor);
    Trial::load(folder).map_err(|error| format!("trial: {error}"))?;
    Left::load(folder).map_err(|error| format!("trial that was left: {error}"))?;
    let facts = facts(folder, chosen, floor.as_ref());
    let first = start(folder, &facts, "1")?;
    let second = start(folder, &facts, "2")?;
    if first != second {
        return Err(format!("a second start finds another state: first {first}, then {second}"));
    }
    Ok(StateSeen { floor, had_journal, state: first })
}

/// Starts an engine from the journal, writes down what it made of it, and says in a few words what it is at and what it does.
fn start(folder: &Path, facts: &Facts, boot: &str) -> Result<String, String> {
    let now = Now { wall: Wall(1_800_000_000_000), mono: Mono(10_000), dice: 7 };
    let (mut journal, model) = Journal::open(folder, now.wall).map_err(|error| format!("journal: {error}"))?;
    if let Some(note) = &model.journal_note {
        return Err(format!("journal: {note}"));
    }
    let orphans = journal.orphans(model.state.plan().map(|plan| plan.attempt.as_str())).map_err(|error| error.to_string())?;
    let facts = Facts { boot_id: format!("cut-{boot}").as_str().into(), ..facts.clone() };
    let mut engine = Engine::new(model, facts.clone(), policy());
    let effects = engine.step(Event::Started { facts: Box::new(facts), orphans }, &now);
    let rows: Vec<_> = effects.iter().filter_map(|effect| if let Effect::Row(row) = effect { Some(row) } else { None }).collect();
    journal.commit(engine.model(), &rows, now.wall).map_err(|error| format!("journal: {error}"))?;
    if effects.iter().any(|effect| matches!(effect, Effect::Arm(_) | Effect::Reboot(_))) {
        return Err(format!(
            "the engine starts with arming or rebooting, before it has looked at anything: {}",
            words(engine.model())
        ));
    }
    Ok(words(engine.model()))
}

fn words(model: &Model) -> String {
    let committed = [&model.committed.a, &model.committed.b].map(|slot| if slot.is_some() { 'c' } else { '-' });
    let refused = model.refusals.len();
    let state = serde_json::to_value(&model.state).unwrap_or_default();
    let state = state["state"].as_str().unwrap_or("?");
    format!("{state}, kept {}{}, {refused} refused", committed[0], committed[1])
}

/// What the daemon would find on this disk after the boot that the loader would make of it.
fn facts(folder: &Path, chosen: &[Candidate], floor: Option<&Floor>) -> Facts {
    let slot = |letter: char| if letter == 'b' { SlotName::B } else { SlotName::A };
    let mut standing = PerSlot { a: Standing::Blank, b: Standing::Blank };
    for candidate in chosen {
        // The loader counts the boot it makes; those after it are not started.
        let is_first = chosen.first().is_some_and(|first| first.slot == candidate.slot);
        *standing.get_mut(slot(candidate.slot)) = match candidate.tries_left.map(|left| left.saturating_sub(u32::from(is_first)))
        {
            None => Standing::Good,
            Some(0) => Standing::Spent,
            Some(left) => Standing::Pending { tries_left: u8::try_from(left).unwrap_or(TRIES) },
        };
    }
    let running = chosen.first().map(|first| slot(first.slot));
    let was_armed = standing.b != Standing::Blank;
    let past = if was_armed { Past::Armed } else { Past::NeverArmed };
    let next = running.unwrap_or(SlotName::A);
    let records = Records::of(folder);
    let content = |name: SlotName| {
        let record = records.slot_record(name);
        record.map_or_else(Content::default, |(record, digest)| Content {
            version: Some(record.version.to_string()),
            sequence: Some(record.sequence),
            digest: Some(digest),
        })
    };
    let slots = PerSlot { a: content(SlotName::A), b: content(SlotName::B) };
    let floor = match floor {
        Some(floor) => FloorFacts::Known(floor.clone()),
        None if was_armed => FloorFacts::Lost { image: manifests::version::Sequence::ZERO },
        None => FloorFacts::Known(Floor::default()),
    };
    let boot = Some(BootTable { standing, next, past, tries: TRIES, weakness: None });
    Facts {
        image_mode: false,
        identity: Identity::default(),
        boot_id: "cut".into(),
        running,
        boot,
        slots,
        capacity: std::collections::BTreeMap::new(),
        floor,
        left: None,
        last_words: None,
        rival: None,
        troubles: Vec::new(),
    }
}

const fn policy() -> Policy {
    Policy {
        strategy: Strategy::Immediate,
        lock: None,
        check_interval: Duration::from_secs(3600),
        gate_retry: Duration::from_secs(60),
        blind: Duration::from_secs(600),
        has_server: true,
        stale_after: Duration::from_secs(60 * 86_400),
        min_uptime: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use manifests::version::Sequence;

    use super::*;

    fn seen(floor: Option<u64>, had_journal: bool) -> StateSeen {
        let floor = floor.map(|floor| Floor { floor: Sequence::ZERO, highest: Sequence::new(floor).unwrap() });
        StateSeen { floor, had_journal, state: String::new() }
    }

    #[test]
    fn a_floor_that_sinks_and_a_journal_that_is_gone_are_found() {
        assert!(check_nothing_is_lost(&seen(Some(2), true), &seen(Some(2), true)).is_ok());
        assert!(check_nothing_is_lost(&seen(None, false), &seen(Some(2), true)).is_ok());
        assert!(check_nothing_is_lost(&seen(Some(2), true), &seen(Some(1), true)).unwrap_err().contains("sunk"));
        assert!(check_nothing_is_lost(&seen(Some(2), true), &seen(None, true)).unwrap_err().contains("gone"));
        assert!(check_nothing_is_lost(&seen(Some(2), true), &seen(Some(2), false)).unwrap_err().contains("journal is gone"));
    }
}
