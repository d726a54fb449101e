//! What has to hold of the state partition that a power cut leaves.
//!
//! The file system is checked where it cannot be mounted as it is, as a boot checks it that cannot ask anybody, and mounted, which replays its journal, as the next boot would; then it is looked at as the daemon looks at it:
//!
//! 1. the floor can be read, is not lost, not below what was on the medium before, and not below what was kept ([`check_is_kept`]; P3, P11);
//! 2. what was written down of a trial can be read, and names the slot that is on trial, with what the new image needs to be judged and to
//!    be left: the record of its slot, the configuration that armed it, who the host was ([`check_agrees`]; P8);
//! 3. the daemon's journal opens, and is not set aside;
//! 4. what it remembers is no less than what was on the medium before ([`check_nothing_is_lost`]): attempts, how they ended, what servers
//!    are to be told, what each slot held healthily, what is refused, and how far the attempt under way has come (P7, P11);
//! 5. the engine starts from it, with the boot table as the daemon reads it after the boot that the loader would make, and starts from it
//!    again as if the power had failed once more: the second start finds what the first one left and remembers the same, and neither arms,
//!    disarms, marks bad nor reboots before it has looked;
//! 6. what it is at then is what the loader has it at ([`check_agrees`]).

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use manifests::omaha::{Event as Told, Request};
use manifests::release::SlotName;
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use update_engine::config::{Source, parse};
use update_engine::deadline::{Left, Trial, settings_of_trial};
use update_engine::engine::facts::{BootTable, Content, Facts, Floor, FloorFacts, Identity, PerSlot};
use update_engine::engine::policy::{Policy, StartedBy, Strategy};
use update_engine::engine::state::{Kind, State};
use update_engine::engine::time::{Mono, Now, Wall};
use update_engine::engine::{Effect, Engine, Event, Model};
use update_engine::floor::FloorFile;
use update_engine::journal::{Journal, Message, OutboxRow};
use update_engine::records::Records;
use update_engine::report::event_request;
use update_engine::world::World;

use super::loader::Progress;
use super::sparse;
use crate::vm::MACHINE_ID;

/// The daemon's folder on the partition.
const FOLDER: &str = "update-engine";
/// Most times that a busy partition is unmounted, 10 ms apart.
const UNMOUNTS: u32 = 500;

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
    /// The slot that runs, as the loader would have it.
    pub running: SlotName,
    /// The floor; `None` = there is no file of it yet.
    pub floor: Option<Floor>,
    /// The daemon had a journal of its own already.
    pub had_journal: bool,
    /// What is in that.
    pub memory: Memory,
    /// What lies beside it.
    pub beside: Beside,
    /// What the engine makes of it at its start; `None` = the daemon has no folder yet.
    pub started: Option<Started>,
    /// The file system had to be checked before it could be mounted.
    pub was_checked: bool,
}

/// What the daemon writes beside its journal.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Beside {
    /// The releases of both slots, by their records.
    pub records: [Option<String>; 2],
    /// Slot and attempt that are on trial.
    pub trial: Option<(SlotName, String)>,
    /// The configuration that armed it can be read.
    pub has_settings: bool,
    /// Who this host was when its slot was armed.
    pub identity: Option<String>,
}

/// Why a state partition could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// It is not as it has to be.
    Bad(String),
    /// The machine that looks is at fault: nothing is said of the partition.
    Here(String),
}

/// What an engine is at after its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// What it remembers then.
    pub memory: Memory,
    /// In a few words.
    pub words: String,
    /// All else that it keeps, but times and what it knows of checks.
    pub rest: String,
    /// The release of the attempt under way.
    pub release: Option<String>,
    /// It asks for the health of what runs, or for it to be marked good.
    pub judges: bool,
    /// The attempt is one that the journal did not know.
    pub is_found: bool,
}

/// What a journal remembers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Memory {
    /// All attempts, oldest first, and how each ended.
    pub attempts: Vec<(String, Option<String>)>,
    /// What servers are still to be told, by its key.
    pub outbox: Vec<(i64, String)>,
    /// What each slot was known to hold healthily.
    pub committed: [Option<String>; 2],
    /// Releases that are not installed again.
    pub refused: Vec<String>,
    /// The attempt under way.
    pub plan: Option<String>,
    /// It holds the lock, as far as it knows.
    pub is_locked: bool,
    /// How far the update that is recorded has come.
    pub step: Step,
}

/// How far an update has come, as the journal has it. A release that is healthy only ever goes forward, whenever the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Step {
    /// It has not begun.
    #[default]
    None,
    /// It is fetched.
    Fetching,
    /// It is read back.
    Written,
    /// It was.
    Proven,
    /// It is about to be armed.
    Locked,
    /// The host is about to be rebooted for it.
    Armed,
    /// It runs, and its health is looked at.
    Trial,
    /// It is healthy, and about to be marked good.
    Committed,
    /// It is kept.
    Kept,
    /// It was given up.
    GivenUp,
}

impl Memory {
    /// `earlier` attempts belong to updates that are not looked at.
    fn of(journal: &Journal, model: &Model, earlier: usize) -> Result<Self, String> {
        let words = |error: update_engine::journal::JournalError| error.to_string();
        let attempts = journal.history().map_err(words)?.into_iter().rev().map(|attempt| (attempt.id, attempt.outcome)).collect();
        let outbox = journal.outbox().map_err(words)?.iter().map(|row| (row.id, told_by(row))).collect();
        let committed = [&model.committed.a, &model.committed.b].map(|slot| slot.as_ref().map(|slot| slot.digest.to_string()));
        let refused = model.refusals.iter().map(|refusal| refusal.digest.to_string()).collect();
        let plan = model.state.plan().map(|plan| plan.attempt.clone());
        let is_locked = model.state.plan().and_then(|plan| plan.claim.as_ref()).is_some_and(|claim| claim.granted);
        let mut memory = Self { attempts, outbox, committed, refused, plan, is_locked, step: Step::None };
        memory.step = memory.step_of(&model.state, earlier);
        Ok(memory)
    }

    fn step_of(&self, state: &State, earlier: usize) -> Step {
        let ended = self.attempts.get(earlier..).and_then(<[_]>::last).and_then(|(_, outcome)| outcome.as_deref());
        match (state, ended) {
            (State::Fetching { .. }, _) => Step::Fetching,
            (State::Written { .. }, _) => Step::Written,
            (State::Proven { .. }, _) => Step::Proven,
            (State::Locked { .. }, _) => Step::Locked,
            (State::Armed { .. }, _) => Step::Armed,
            (State::Trial { .. }, _) => Step::Trial,
            (State::Committed { .. }, _) => Step::Committed,
            (State::RolledBack { .. } | State::Failed { .. }, _) => Step::GivenUp,
            (State::Idle | State::Checking { .. } | State::Deferred { .. }, None) => Step::None,
            (State::Idle | State::Checking { .. } | State::Deferred { .. }, Some("committed")) => Step::Kept,
            (State::Idle | State::Checking { .. } | State::Deferred { .. }, Some(_)) => Step::GivenUp,
        }
    }

    fn outcome_of(&self, attempt: &str) -> Option<&str> {
        self.attempts.iter().find(|(id, _)| id == attempt).and_then(|(_, outcome)| outcome.as_deref())
    }
}

/// What an event says to the update server, in one word that is the same on both sides.
fn word_of(event: &Told) -> String {
    format!("{}/{} of {}", event.kind.number(), event.result.number(), event.attempt.as_deref().unwrap_or("none"))
}

/// What a request tells the update server, in the words of [`Memory::outbox`].
#[must_use]
pub fn told_in(body: &str) -> Vec<String> {
    let apps = Request::read(body.as_bytes()).map(|request| request.apps).unwrap_or_default();
    apps.iter().flat_map(|app| &app.events).map(word_of).collect()
}

/// What the lock service is told when a lock is given back, in the words of [`Memory::outbox`].
#[must_use]
pub fn release_told(attempt: &str) -> String {
    format!("release of {attempt}")
}

fn told_by(row: &OutboxRow) -> String {
    match &row.message {
        Message::Release { .. } => release_told(&row.attempt),
        Message::Report(report) => told_in(&event_request(&nobody(), report).write()).join(", "),
    }
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
        fs::create_dir(scratch.path().join("mounted")).map_err(words)?;
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

    /// Looks at the partition that lies there on a disk, as this slot finds it, which runs, with this boot table, after so many `earlier`
    /// updates.
    ///
    /// # Errors
    /// What does not hold, or why that cannot be said.
    pub fn look(
        &self,
        disk: &File,
        range: &Range<u64>,
        running: SlotName,
        table: &BootTable,
        earlier: usize,
    ) -> Result<StateSeen, Unseen> {
        let here = |error: &dyn std::fmt::Display| Unseen::Here(format!("state partitions cannot be looked at here: {error}"));
        self.take(disk, range).and_then(|()| self.forget()).map_err(|error| here(&error))?;
        let was_checked = self.mount()?;
        // Also after a panic: the next partition is written where this one is mounted from.
        let seen = catch_unwind(AssertUnwindSafe(|| look_at(&self.point().join(FOLDER), running, table, earlier)));
        self.unmount().map_err(|error| here(&format_args!("{} stays mounted: {error}", self.device.display())))?;
        let seen = seen.unwrap_or_else(|panic| resume_unwind(panic));
        seen.map(|seen| StateSeen { was_checked, ..seen }).map_err(Unseen::Bad)
    }

    /// Whether it had to be checked before: half of a superblock, which is two sectors, can be on the medium, and is mended from a copy.
    fn mount(&self) -> Result<bool, Unseen> {
        let flags = MsFlags::MS_NOATIME | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        // Nothing is to survive here.
        let mounted = || mount(Some(&self.device), &self.point(), Some("ext4"), flags, Some("nobarrier"));
        let Err(before) = mounted() else { return Ok(false) };
        self.check_file_system()
            .map_err(|why| Unseen::Bad(format!("the state partition cannot be mounted ({before}): {why}")))?;
        let after = |error| Unseen::Bad(format!("the state partition cannot be mounted ({before}), nor after e2fsck: {error}"));
        mounted().map(|()| true).map_err(after)
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

    /// As a boot does that cannot ask anybody.
    fn check_file_system(&self) -> Result<(), String> {
        let output = Command::new("e2fsck").arg("-y").arg(&self.device).output().map_err(|error| format!("e2fsck: {error}"))?;
        // 1 and 2: errors were corrected.
        match output.status.code() {
            Some(0..=2) => Ok(()),
            code => Err(format!("e2fsck -y ended with {code:?}: {}", String::from_utf8_lossy(&output.stdout))),
        }
    }

    /// Drops what the kernel remembers of the partition before. It does so by itself at the last close of a device, which an unmount is not
    /// where others have it open: `losetup --find` opens every one.
    fn forget(&self) -> io::Result<()> {
        posix_fadvise(File::open(&self.device)?, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(io::Error::from)
    }

    /// Takes over what is not zero; the rest of the file is given back to the memory that it is.
    fn take(&self, disk: &File, range: &Range<u64>) -> io::Result<()> {
        let length = range.end - range.start;
        self.file.set_len(0)?;
        self.file.set_len(length)?;
        sparse::copy(disk, range, &self.file, 0)
    }
}

impl Drop for StateMount {
    fn drop(&mut self) {
        let _not_mounted = umount2(&self.point(), MntFlags::empty());
        let _gone = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

/// Checks that all earlier updates are kept, and that the floor is at what was kept (P3).
///
/// # Errors
/// What does not hold.
pub fn check_is_kept(seen: &StateSeen, updates: usize, highest: u64) -> Result<(), String> {
    let attempts = &seen.memory.attempts;
    if attempts.get(..updates).is_none_or(|earlier| earlier.iter().any(|(_, outcome)| outcome.as_deref() != Some("committed"))) {
        return Err(format!("expected {updates} updates that were kept, the journal has {attempts:?}"));
    }
    let found = seen.floor.as_ref().map_or(0, |floor| floor.highest.get());
    // Nothing has raised it before the first one is kept.
    if highest > 1 && found < highest {
        return Err(format!("expected the floor to know of sequence {highest}, it knows of {found}"));
    }
    Ok(())
}

/// Compares what a cut left with what was on the medium before the writes it was among. What servers were told (`may_be_gone`) may be gone
/// from what they are still to be told.
///
/// # Errors
/// What was lost.
pub fn check_nothing_is_lost(
    before: &StateSeen,
    after: &StateSeen,
    may_be_gone: &dyn Fn(&(i64, String)) -> bool,
) -> Result<(), String> {
    let floors = |seen: &StateSeen| seen.floor.as_ref().map(|floor| (floor.floor, floor.highest));
    match (floors(before), floors(after)) {
        (Some(before), None) => Err(format!("the floor is gone, which was {before:?}")),
        (Some(before), Some(after)) if after.0 < before.0 || after.1 < before.1 => {
            Err(format!("the floor has sunk from {before:?} to {after:?}"))
        }
        _ if before.had_journal && !after.had_journal => Err("the daemon's journal is gone".to_owned()),
        _ => check_nothing_is_forgotten(&before.memory, &after.memory, may_be_gone)
            .and_then(|()| check_records_are_kept(before, after)),
    }
}

/// A record goes when its slot is written, which only an attempt does that has not proven it yet.
fn check_records_are_kept(before: &StateSeen, after: &StateSeen) -> Result<(), String> {
    let is_proven = before.memory.step >= Step::Proven && before.memory.plan == after.memory.plan;
    let lost = before.beside.records.iter().zip(&after.beside.records).zip([SlotName::A, SlotName::B]);
    for ((before_it, after_it), slot) in lost {
        if before_it.is_some() && before_it != after_it && (is_proven || slot == before.running) {
            return Err(format!("the record of slot {slot} was {before_it:?} and is {after_it:?}"));
        }
    }
    Ok(())
}

fn check_nothing_is_forgotten(
    before: &Memory,
    after: &Memory,
    may_be_gone: &dyn Fn(&(i64, String)) -> bool,
) -> Result<(), String> {
    if let Some((id, outcome)) = before.attempts.iter().find(|(id, outcome)| {
        let is_there = after.attempts.iter().any(|(known, _)| known == id);
        !is_there || outcome.as_deref().is_some_and(|outcome| after.outcome_of(id) != Some(outcome))
    }) {
        return Err(format!("attempt {id} ({outcome:?}) is forgotten, or ended twice: {:?}", after.attempts));
    }
    if after.attempts.get(..before.attempts.len()).is_none_or(|known| known.iter().zip(&before.attempts).any(|(a, b)| a.0 != b.0))
    {
        return Err(format!("the attempts were {:?} and are {:?}", before.attempts, after.attempts));
    }
    let highest = before.outbox.last().map_or(0, |(id, _)| *id);
    if let Some(lost) = before.outbox.iter().find(|row| !after.outbox.contains(row) && !may_be_gone(row)) {
        return Err(format!("no server was ever told {lost:?}, and none will be: {:?}", after.outbox));
    }
    if let Some(new) = after.outbox.iter().find(|row| !before.outbox.contains(row) && row.0 <= highest) {
        return Err(format!("{new:?} is to be told before what was there already: {:?}", before.outbox));
    }
    if let Some(lost) = before.refused.iter().find(|digest| !after.refused.contains(digest)) {
        return Err(format!("release {lost} is refused no more"));
    }
    // A slot leaves it when it is written again, by an attempt that was not known before.
    let is_another = after.attempts.len() > before.attempts.len();
    if !is_another && before.committed.iter().zip(&after.committed).any(|(before, after)| before.is_some() && before != after) {
        return Err(format!("what the slots held healthily was {:?} and is {:?}", before.committed, after.committed));
    }
    if let Some(plan) = before.plan.as_ref().filter(|plan| after.plan.as_ref() != Some(plan) && after.outcome_of(plan).is_none())
    {
        return Err(format!("attempt {plan} was under way and has not ended, and under way is {:?}", after.plan));
    }
    if !is_another && after.step < before.step {
        return Err(format!("the update was at {:?} and is at {:?}", before.step, after.step));
    }
    Ok(())
}

/// Compares what the engine is at after its start with what the loader has started.
///
/// # Errors
/// Where they disagree.
pub fn check_agrees(progress: Progress, seen: &StateSeen) -> Result<(), String> {
    let Some(started) = &seen.started else {
        return if progress == Progress::Before {
            Ok(())
        } else {
            Err(format!("the loader is at {progress:?}, and there is no state"))
        };
    };
    let (step, was) = (started.memory.step, seen.memory.step);
    let agrees = match progress {
        // What was not armed is proven again before anything is done with it, and nothing is judged.
        Progress::Before => step <= Step::Written && was <= Step::Locked && !started.judges,
        // It was written down that it is armed, and that the lock is held, before it was, and the attempt goes on (P4).
        Progress::Trial => {
            (Step::Trial..=Step::Committed).contains(&step) && was >= Step::Locked && seen.memory.is_locked && started.judges
        }
        // It was written down that it is healthy before it was marked good.
        Progress::Kept => (Step::Committed..=Step::Kept).contains(&step) && was >= Step::Committed,
    };
    // The slot of an attempt that is known is never one that was only found.
    if !agrees || started.is_found || seen.memory.attempts.len() != started.memory.attempts.len() {
        let words = &started.words;
        return Err(format!(
            "the loader is at {progress:?}, the journal at {was:?} (lock: {}), the engine after its start at {step:?} ({words})",
            seen.memory.is_locked
        ));
    }
    if progress == Progress::Trial { check_trial(&seen.beside, started) } else { Ok(()) }
}

/// Checks what the new image, and whoever leaves it, needs beside the journal.
fn check_trial(beside: &Beside, started: &Started) -> Result<(), String> {
    let Beside { records, trial, has_settings, identity } = beside;
    let Some((slot, attempt)) = trial else { return Err("a slot is on trial, and none is written down to be".to_owned()) };
    if started.memory.plan.as_ref() != Some(attempt) {
        return Err(format!("attempt {:?} is on trial, and {attempt} is written down to be", started.memory.plan));
    }
    let record = &records[usize::from(*slot == SlotName::B)];
    if *record != started.release {
        return Err(format!("slot {slot} is on trial with {:?}, and its record is {record:?}", started.release));
    }
    if !has_settings {
        return Err("the configuration that armed the slot on trial cannot be read".to_owned());
    }
    match identity.as_deref() {
        Some(MACHINE_ID) => Ok(()),
        other => Err(format!("the host on trial is {MACHINE_ID}, and was written down as {other:?}")),
    }
}

fn look_at(folder: &Path, running: SlotName, table: &BootTable, earlier: usize) -> Result<StateSeen, String> {
    let had_journal = fs::metadata(folder.join("journal.db")).is_ok_and(|data| data.len() > 1);
    if !folder.is_dir() {
        return Ok(StateSeen {
            running,
            floor: None,
            had_journal,
            memory: Memory::default(),
            beside: Beside::default(),
            started: None,
            was_checked: false,
        });
    }
    let floor = FloorFile::load(folder).map_err(|error| format!("floor: {error}"))?.map(|file| file.floor);
    let beside = beside(folder)?;
    Left::load(folder).map_err(|error| format!("trial that was left: {error}"))?;
    let facts = facts(folder, running, table)?;
    let (memory, first) = start(folder, &facts, "1", earlier)?;
    let (found, second) = start(folder, &facts, "2", earlier)?;
    if found != first.memory {
        return Err(format!("what an engine wrote down is not what the next one finds: {:?}, then {found:?}", first.memory));
    }
    if (&first.words, &first.memory, &first.rest) != (&second.words, &second.memory, &second.rest) {
        return Err(format!("a second start finds another state: first {first:?}, then {second:?}"));
    }
    Ok(StateSeen { running, floor, had_journal, memory, beside, started: Some(first), was_checked: false })
}

fn beside(folder: &Path) -> Result<Beside, String> {
    let trial = Trial::load(folder).map_err(|error| format!("trial: {error}"))?;
    let records = Records::of(folder);
    let identity = match fs::read_to_string(folder.join("identity")) {
        Ok(identity) => Some(identity.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("identity: {error}")),
    };
    Ok(Beside {
        records: [SlotName::A, SlotName::B].map(|slot| records.slot_record(slot).map(|(_, digest)| digest.to_string())),
        trial: trial.map(|trial| (trial.slot, trial.attempt)),
        has_settings: settings_of_trial(folder).is_ok(),
        identity,
    })
}

/// Starts an engine from the journal, and writes down what it made of it: what the journal held before, and what it is at.
fn start(folder: &Path, facts: &Facts, boot: &str, earlier: usize) -> Result<(Memory, Started), String> {
    let now = Now { wall: Wall(1_800_000_000_000), mono: Mono(10_000), dice: 7 };
    let (mut journal, model) = Journal::open(folder, now.wall).map_err(|error| format!("journal: {error}"))?;
    if let Some(note) = &model.journal_note {
        return Err(format!("journal: {note}"));
    }
    let found = Memory::of(&journal, &model, earlier)?;
    let orphans = journal.orphans(model.state.plan().map(|plan| plan.attempt.as_str())).map_err(|error| error.to_string())?;
    let facts = Facts { boot_id: format!("cut-{boot}").as_str().into(), ..facts.clone() };
    let mut engine = Engine::new(model, facts.clone(), policy());
    let effects = engine.step(Event::Started { facts: Box::new(facts), orphans }, &now);
    let rows: Vec<_> = effects.iter().filter_map(|effect| if let Effect::Row(row) = effect { Some(row) } else { None }).collect();
    journal.commit(engine.model(), &rows, now.wall).map_err(|error| format!("journal: {error}"))?;
    let rash = |effect: &&Effect| matches!(effect, Effect::Arm(_) | Effect::Reboot(_) | Effect::Disarm(_) | Effect::MarkBad(_));
    if let Some(rash) = effects.iter().find(rash) {
        let words = words(engine.model());
        return Err(format!("the engine starts with {rash:?}, before it has looked at anything: {words}"));
    }
    let started = Started {
        memory: Memory::of(&journal, engine.model(), earlier)?,
        words: words(engine.model()),
        rest: rest(engine.model()),
        release: engine.model().state.plan().map(|plan| plan.digest.to_string()),
        judges: effects.iter().any(|effect| matches!(effect, Effect::Health(_) | Effect::Commit(_))),
        is_found: engine.model().state.plan().is_some_and(|plan| plan.kind == Kind::Found),
    };
    Ok((found, started))
}

fn words(model: &Model) -> String {
    let committed = [&model.committed.a, &model.committed.b].map(|slot| if slot.is_some() { 'c' } else { '-' });
    let refused = model.refusals.len();
    format!("{}, kept {}{}, {refused} refused", model.state.word(), committed[0], committed[1])
}

fn rest(model: &Model) -> String {
    let Model { pause, failures, never_shown, asked_reboot, bad_boots, refusals, ended, committed, warnings, channel, .. } =
        model;
    format!("{:?}", (pause, failures, never_shown, asked_reboot, bad_boots, refusals, ended, committed, warnings, channel))
}

/// What the daemon would find on this disk.
fn facts(folder: &Path, running: SlotName, table: &BootTable) -> Result<Facts, String> {
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
    let at = folder.display();
    let text = format!(
        "state_dir = \"{at}\"\nsysroot = \"{at}/none\"\nserver.app_id = \"x\"\ndisk.device = \"{at}/none\"\n\
         slots.a.root = \"partlabel:root-a\"\nslots.b.root = \"partlabel:root-b\"\n"
    );
    let settings = parse(&[Source::new("cut.toml", text)]).map_err(|problems| format!("{problems:?}"))?;
    let mut troubles = Vec::new();
    let floor = World::new(Arc::new(settings), records).floor(Some(running), Some(table), &slots, &mut troubles);
    if let (FloorFacts::Lost { .. }, _) | (_, [_, ..]) = (&floor, troubles.as_slice()) {
        return Err(format!("the floor is lost: {floor:?} {troubles:?}"));
    }
    Ok(Facts { running: Some(running), boot: Some(table.clone()), slots, floor, ..nobody() })
}

/// A host of which nothing is known.
fn nobody() -> Facts {
    Facts {
        image_mode: false,
        identity: Identity::default(),
        boot_id: "cut".into(),
        running: None,
        boot: None,
        slots: PerSlot::default(),
        capacity: std::collections::BTreeMap::new(),
        floor: FloorFacts::Known(Floor::default()),
        left: None,
        last_words: None,
        rival: None,
        no_deadline: None,
        trial_ends: None,
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
        started_by: StartedBy::AnyReboot,
        min_uptime: Duration::ZERO,
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "a test that cannot be run says so")]
mod tests {
    use std::fs;
    use std::thread::spawn;

    use manifests::version::Sequence;
    use update_engine::boot::{Past, Standing};

    use super::*;
    use crate::cuts::recording::fast_folder;

    /// A partition with the daemon's folder on it, or without.
    fn partition(scratch: &Path, with_folder: bool) -> File {
        let content = scratch.join("content");
        fs::create_dir(&content).unwrap();
        if with_folder {
            fs::create_dir(content.join(FOLDER)).unwrap();
        }
        let image = scratch.join(format!("{with_folder}.img"));
        let made = Command::new("mkfs.ext4").arg("-q").arg("-d").arg(&content).arg(&image).arg("16M").status().unwrap();
        assert!(made.success());
        fs::remove_dir_all(content).unwrap();
        File::open(image).unwrap()
    }

    #[test]
    fn a_partition_is_looked_at_as_it_is_though_others_have_the_device_open() {
        let looks = spawn(|| {
            let scratch = tempfile::tempdir().unwrap();
            let [without, with] = [false, true].map(|with_folder| partition(scratch.path(), with_folder));
            let mount = match StateMount::new(fast_folder().unwrap(), 16 << 20) {
                Ok(mount) => mount,
                Err(why) => {
                    println!("skipped: {why}");
                    return;
                }
            };
            let _open = File::open(&mount.device).unwrap();
            let standing = PerSlot { a: Standing::Good, b: Standing::Bad };
            let table = BootTable { standing, next: SlotName::A, past: Past::NothingMarked, tries: 3, weakness: None };
            for (disk, is_there) in [(&without, false), (&with, true), (&without, false)] {
                let seen = mount.look(disk, &(0..16 << 20), SlotName::A, &table, 0).unwrap();
                assert_eq!(seen.started.is_some(), is_there);
            }
        });
        looks.join().unwrap();
    }

    fn seen(floor: Option<u64>, had_journal: bool) -> StateSeen {
        let floor = floor.map(|floor| Floor { floor: Sequence::ZERO, highest: Sequence::new(floor).unwrap() });
        let (memory, beside) = (Memory::default(), Beside::default());
        StateSeen { running: SlotName::A, floor, had_journal, memory, beside, started: None, was_checked: false }
    }

    fn is_told((_, words): &(i64, String)) -> bool {
        words == "14/1 of one"
    }

    fn compare(before: &StateSeen, after: &StateSeen) -> Result<(), String> {
        check_nothing_is_lost(before, after, &is_told)
    }

    #[test]
    fn a_floor_that_sinks_and_a_journal_that_is_gone_are_found() {
        assert!(compare(&seen(Some(2), true), &seen(Some(2), true)).is_ok());
        assert!(compare(&seen(None, false), &seen(Some(2), true)).is_ok());
        assert!(compare(&seen(Some(2), true), &seen(Some(1), true)).unwrap_err().contains("sunk"));
        assert!(compare(&seen(Some(2), true), &seen(None, true)).unwrap_err().contains("gone"));
        assert!(compare(&seen(Some(2), true), &seen(Some(2), false)).unwrap_err().contains("journal is gone"));
    }

    /// In the middle of an update.
    fn memory() -> Memory {
        Memory {
            attempts: vec![("zero".into(), Some("failed".into())), ("one".into(), None)],
            outbox: vec![(3, "14/1 of one".into()), (4, "3/1 of one".into())],
            committed: [Some("old".into()), None],
            refused: vec!["bad".into()],
            plan: Some("one".into()),
            is_locked: true,
            step: Step::Armed,
        }
    }

    /// What lies beside it.
    fn beside() -> Beside {
        Beside {
            records: [Some("old".into()), Some("new".into())],
            trial: Some((SlotName::B, "one".into())),
            has_settings: true,
            identity: Some(MACHINE_ID.into()),
        }
    }

    /// An engine that started from that.
    fn started(memory: Memory) -> Started {
        Started { memory, words: String::new(), rest: String::new(), release: Some("new".into()), judges: true, is_found: false }
    }

    fn lost(change: impl FnOnce(&mut Memory)) -> String {
        let mut after = memory();
        change(&mut after);
        check_nothing_is_forgotten(&memory(), &after, &is_told).err().unwrap_or_default()
    }

    #[test]
    fn what_goes_forward_loses_nothing() {
        assert_eq!(lost(|_| {}), "");
        assert_eq!(lost(|after| drop(after.outbox.remove(0))), "", "it was acknowledged");
        assert_eq!(lost(|after| after.outbox.push((5, "3/2 of one".into()))), "");
        let kept = |after: &mut Memory| {
            after.attempts[1].1 = Some("committed".into());
            (after.plan, after.step, after.committed[1]) = (None, Step::Kept, Some("new".into()));
        };
        assert_eq!(lost(kept), "");
        let next = |after: &mut Memory| {
            kept(after);
            after.attempts.push(("two".into(), None));
            (after.plan, after.committed[0]) = (Some("two".into()), None);
        };
        assert_eq!(lost(next), "", "the next one writes slot a");
    }

    #[test]
    fn whatever_is_forgotten_is_found() {
        assert!(lost(|after| drop(after.attempts.remove(0))).contains("attempt zero"));
        assert!(lost(|after| after.attempts[0].1 = Some("committed".into())).contains("attempt zero"));
        assert!(lost(|after| after.attempts[0].1 = None).contains("attempt zero"));
        assert!(lost(|after| after.attempts.swap(0, 1)).contains("the attempts were"));
        assert!(lost(|after| drop(after.outbox.remove(1))).contains("no server was ever told (4"));
        assert!(lost(|after| after.outbox.insert(0, (2, "13/1 of one".into()))).contains("before what was there"));
        assert!(lost(|after| after.committed[0] = None).contains("held healthily"));
        assert!(lost(|after| after.refused.clear()).contains("bad is refused no more"));
        assert!(lost(|after| after.plan = None).contains("attempt one was under way"));
        assert!(lost(|after| after.plan = Some("two".into())).contains("attempt one was under way"));
        assert!(lost(|after| after.step = Step::Locked).contains("was at Armed and is at Locked"));
    }

    #[test]
    fn an_engine_that_is_elsewhere_than_the_loader_is_found() {
        let agrees = |progress, was, is, judges| {
            let at = |step| Memory { step, ..memory() };
            let started = Started { judges, ..started(at(is)) };
            check_agrees(progress, &StateSeen { memory: at(was), beside: beside(), started: Some(started), ..seen(None, true) })
                .is_ok()
        };
        assert!(agrees(Progress::Before, Step::Proven, Step::Written, false));
        assert!(agrees(Progress::Before, Step::Locked, Step::Written, false));
        assert!(!agrees(Progress::Before, Step::Armed, Step::Written, false), "armed, and the boot table does not say so");
        assert!(
            !agrees(Progress::Before, Step::Armed, Step::Trial, true) && !agrees(Progress::Before, Step::Kept, Step::Kept, false)
        );
        assert!(
            agrees(Progress::Trial, Step::Locked, Step::Trial, true)
                && agrees(Progress::Trial, Step::Committed, Step::Committed, true)
        );
        assert!(!agrees(Progress::Trial, Step::Proven, Step::Trial, true), "armed before it was written down");
        let unlocked = Memory { is_locked: false, step: Step::Armed, ..memory() };
        let seen_unlocked =
            StateSeen { memory: unlocked, beside: beside(), started: Some(started(memory())), ..seen(None, true) };
        assert!(check_agrees(Progress::Trial, &seen_unlocked).unwrap_err().contains("lock: false"), "armed without the lock");
        assert!(
            !agrees(Progress::Trial, Step::Armed, Step::GivenUp, false)
                && !agrees(Progress::Trial, Step::Kept, Step::Kept, false)
        );
        assert!(
            agrees(Progress::Kept, Step::Committed, Step::Committed, true)
                && agrees(Progress::Kept, Step::Kept, Step::Kept, false)
        );
        assert!(!agrees(Progress::Kept, Step::Trial, Step::Trial, true), "kept before it was written down");
        assert!(
            check_agrees(Progress::Before, &seen(None, false)).is_ok()
                && check_agrees(Progress::Kept, &seen(None, false)).is_err()
        );
    }

    #[test]
    fn a_trial_without_what_the_new_image_needs_is_found() {
        let lacks = |change: &dyn Fn(&mut Beside)| {
            let mut beside = beside();
            change(&mut beside);
            let memory = Memory { step: Step::Trial, ..memory() };
            let seen = StateSeen { memory: memory.clone(), beside, started: Some(started(memory)), ..seen(None, true) };
            check_agrees(Progress::Trial, &seen).err().unwrap_or_default()
        };
        assert_eq!(lacks(&|_| {}), "");
        assert!(lacks(&|beside| beside.trial = None).contains("none is written down"));
        assert!(lacks(&|beside| beside.trial = Some((SlotName::B, "two".into()))).contains("two is written down"));
        assert!(lacks(&|beside| beside.records[1] = None).contains("its record is None"));
        assert!(lacks(&|beside| beside.records[1] = Some("old".into())).contains("its record is Some(\"old\")"));
        assert!(lacks(&|beside| beside.has_settings = false).contains("configuration"));
        assert!(lacks(&|beside| beside.identity = None).contains("written down as None"));
        assert_eq!(lacks(&|beside| beside.records[0] = None), "", "nobody asks for it");
    }

    #[test]
    fn a_record_that_goes_though_its_slot_is_not_written_is_found() {
        let at = |step| StateSeen { memory: Memory { step, ..memory() }, beside: beside(), ..seen(None, true) };
        let lost = |slot: usize, step| {
            let mut after = at(step);
            after.beside.records[slot] = None;
            compare(&at(step), &after).is_err()
        };
        assert!(compare(&at(Step::Armed), &at(Step::Armed)).is_ok());
        assert!(lost(0, Step::None) && lost(0, Step::Armed), "slot a runs");
        assert!(!lost(1, Step::Fetching) && lost(1, Step::Proven) && lost(1, Step::Armed));
    }

    #[test]
    fn an_attempt_that_was_only_found_is_found_out() {
        let with = |is_found, more| {
            let mut memory = Memory { step: Step::Trial, ..memory() };
            memory.attempts.extend(more);
            Started { is_found, ..started(memory) }
        };
        let check = |started| {
            check_agrees(
                Progress::Trial,
                &StateSeen { memory: memory(), beside: beside(), started: Some(started), ..seen(None, true) },
            )
        };
        assert!(check(with(false, None)).is_ok());
        assert!(check(with(true, None)).is_err() && check(with(false, Some(("two".into(), None)))).is_err());
    }
}
