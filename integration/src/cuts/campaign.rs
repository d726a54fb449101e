//! All that is done with a recording: its disks are rebuilt, looked at, started.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use manifests::release::SlotName;
use server_mock::{Answer, Mock, Script};

use super::check::{Checker, Demands, Different, First, Layout, Looked};
use super::control::Control;
use super::cut::{Change, Cut, Dice, epochs, random, systematic};
use super::disk::Disk;
use super::loader::Progress;
use super::log::{Entry, WriteLog};
use super::recording::{
    BOOTS, Boot, Place, Recording, UPDATES, VERSIONS, copy, end_of, fast_folder, running_in, sequence_of, target_of, update_of,
};
use super::state::StateMount;
use crate::hostsim::gpt::Gpt;
use crate::vm::{LockService, Machine, runs};

/// Draws that may be cuts which are planned already, for each one wanted.
const DRAWS_PER_CUT: usize = 20;
/// How much more often a write is drawn that changes what is read after a cut, than one of a slot that is not started yet.
const WEIGHT_OF_FINE: usize = 8;
/// Random cuts of each boot, at least: among them are those of a torn write beside one that is lost.
const RANDOM_CUTS: usize = 250;
/// Boot sector, header and entries of the partition table; at the end of the disk there is no boot sector.
const TABLE_BYTES: [u64; 2] = [34 * 512, 33 * 512];

/// Rebuilds, looks, starts.
#[derive(Debug)]
pub struct Campaign {
    recording: Recording,
    /// Why nothing is said of the state partition.
    blind: Option<String>,
    /// Somebody wants it to end.
    is_over: Arc<AtomicBool>,
}

/// What was found of one state.
pub type Seen = Result<String, String>;

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Cuts.
    pub cuts: usize,
    /// What differs between them: what was written to each part of the disk.
    pub different: Different,
}

/// The cuts of each epoch of a boot.
type Planned = Vec<HashSet<Cut>>;

impl Campaign {
    /// Of a recording. It ends, with an error, soon after `is_over` has become true.
    #[must_use]
    pub fn new(recording: Recording, is_over: Arc<AtomicBool>) -> Self {
        let blind = fast_folder().and_then(|folder| StateMount::new(folder, 1 << 20)).err();
        Self { recording, blind, is_over }
    }

    /// Whether state partitions can be looked at here. Where they can, one that cannot be looked at is an error of the run.
    ///
    /// # Errors
    /// Why not, for "partly skipped: …".
    pub fn sees_states(&self) -> Result<(), &str> {
        self.blind.as_deref().map_or(Ok(()), Err)
    }

    /// Checks that the recording is one of two updates: with all that was written in its first boot each is armed, with all of its second
    /// one it is kept; and that nothing was ever written to the partition tables, to the loader's partition and to the slot that ran (P2).
    ///
    /// # Errors
    /// What does not hold.
    pub fn check_whole(&self) -> Result<(), String> {
        let layout = self.layout()?;
        for boot in 0..BOOTS {
            let (_folder, mut disk) = self.recording.disk_of(boot)?;
            let own = layout.slots[usize::from(running_in(boot) == SlotName::B)].clone();
            let forbidden = [layout.fixed.as_slice(), &[own]].concat();
            if let Some(touched) = disk.first_write_in(&forbidden) {
                let boot = boot + 1;
                return Err(format!(
                    "boot {boot}: a partition table, the loader or the slot that ran was written at {touched:?}"
                ));
            }
            let last = disk.epochs().saturating_sub(1);
            disk.advance_to(last).map_err(|error| error.to_string())?;
            let all = Cut { epoch: last, kept: vec![true; disk.writes(last)], torn: None };
            let (got, expected) = (self.checker(boot)?.progress(&mut disk, &all), end_of(boot));
            if got != Ok(expected) {
                let boot = boot + 1;
                return Err(format!(
                    "the recording is of no update: expected {expected:?} at the end of boot {boot}, got {got:?}"
                ));
            }
        }
        Ok(())
    }

    /// Checks that what looks at disks finds what cannot be missed: a disk that lost, in the boots in which a slot is armed, all that was
    /// written to that slot, to the state, or to the loader's files, of a machine that never asked for a flush.
    ///
    /// # Errors
    /// What is not found.
    pub fn check_itself(&self) -> Result<(), String> {
        let layout = self.layout()?;
        for boot in (0..BOOTS).filter(|boot| end_of(*boot) == Progress::Trial) {
            let target = layout.slots[usize::from(target_of(update_of(boot)) == SlotName::B)].clone();
            let state = self.blind.is_none().then(|| ("the state partition", layout.state.clone()));
            // Without a look at the state nobody knows that it is behind.
            let esp = self.blind.is_none().then(|| ("the EFI system partition", layout.esp.clone()));
            for (what, lost) in [Some(("the slot that is armed", target)), state, esp].into_iter().flatten() {
                let (_folder, mut disk) = self.recording.disk_without_flushes(boot)?;
                let cut = disk.all_but(0, &lost);
                let mut checker = self.checker(boot)?;
                match check(&mut checker, &mut disk, &cut) {
                    Err(_) if checker.broken().is_none() => {}
                    other => {
                        let boot = boot + 1;
                        return Err(format!(
                            "the checker is blind: of boot {boot} all was lost that was written to {what}: {other:?}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks at all systematic cuts, and at random ones until there are `least` in all.
    ///
    /// # Errors
    /// If a disk cannot be rebuilt.
    pub fn look_at_all(&self, least: usize, seed: u64, tell: &mut dyn FnMut(Boot, &Cut, Seen)) -> Result<Counts, String> {
        let mut dice = Dice::new(seed);
        let mut counts = Counts::default();
        for boot in 0..BOOTS {
            let missing = least.saturating_sub(counts.cuts) / (BOOTS - boot);
            let planned = self.planned(boot, missing, &mut dice)?;
            counts.cuts += planned.iter().map(HashSet::len).sum::<usize>();
            counts.different += self.look_at_epochs(boot, &planned, tell)?;
        }
        Ok(counts)
    }

    /// What the writes of each epoch of a boot change.
    fn changes(&self, boot: Boot) -> Result<Vec<Vec<Change>>, String> {
        let (_folder, mut disk) = self.recording.disk_of(boot)?;
        let layout = self.layout()?;
        let fine = [layout.esp, layout.state];
        let changes = |epoch| disk.advance_to(epoch).and_then(|()| disk.changes(&fine)).map_err(|error| error.to_string());
        (0..disk_epochs(&self.recording, boot)?).map(changes).collect()
    }

    /// The cuts of each epoch of a boot: all that are systematic, and drawn ones until there are `least`, no cut twice.
    fn planned(&self, boot: Boot, least: usize, dice: &mut Dice) -> Result<Planned, String> {
        let changes = self.changes(boot)?;
        let all = |(epoch, writes): (usize, &Vec<Change>)| systematic(epoch, writes, dice).into_iter().collect();
        let mut planned: Planned = changes.iter().enumerate().map(all).collect();
        let places = places_of(&changes);
        let mut count: usize = planned.iter().map(HashSet::len).sum();
        let least = least.max(count + RANDOM_CUTS);
        for _ in 0..least.saturating_sub(count).saturating_mul(DRAWS_PER_CUT) {
            if count >= least || places.is_empty() {
                break;
            }
            let epoch = draw(&places, dice);
            count += usize::from(planned[epoch].insert(random(epoch, &changes[epoch], dice)));
        }
        Ok(planned)
    }

    /// Every processor takes the next epoch that nobody has taken.
    fn look_at_epochs(&self, boot: Boot, planned: &Planned, tell: &mut dyn FnMut(Boot, &Cut, Seen)) -> Result<Different, String> {
        let next = AtomicUsize::new(0);
        let (found, told) = mpsc::channel::<(Cut, Seen)>();
        thread::scope(|scope| {
            let worker = |found: mpsc::Sender<(Cut, Seen)>| scope.spawn(|| self.work(boot, planned, &next, found));
            let running: Vec<_> = (0..workers()).map(|_| worker(found.clone())).collect();
            drop(found);
            told.into_iter().for_each(|(cut, seen)| tell(boot, &cut, seen));
            let looked = running.into_iter().map(|worker| worker.join().map_err(|_| "a worker panicked".to_owned())?);
            looked.collect::<Result<Vec<Looked>, String>>().map(|looked| Different::of(&looked))
        })
    }

    fn work(
        &self,
        boot: Boot,
        planned: &Planned,
        next: &AtomicUsize,
        found: mpsc::Sender<(Cut, Seen)>,
    ) -> Result<Looked, String> {
        let (_folder, mut disk) = self.recording.disk_of(boot)?;
        let mut checker = self.checker(boot)?;
        while let Some(cuts) = planned.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(epoch) = cuts.iter().next().map(|cut| cut.epoch) else { continue };
            disk.advance_to(epoch).map_err(|error| error.to_string())?;
            // Neighbours differ in few writes, and only those are written.
            let mut cuts: Vec<&Cut> = cuts.iter().collect();
            cuts.sort_unstable_by(|one, other| one.kept.cmp(&other.kept));
            for cut in cuts {
                self.check_wanted()?;
                let seen = check(&mut checker, &mut disk, cut);
                if let Some(why) = checker.broken() {
                    return Err(why.to_owned());
                }
                found.send((cut.clone(), seen)).map_err(|error| error.to_string())?;
            }
        }
        Ok(checker.into_looked())
    }

    fn check_wanted(&self) -> Result<(), String> {
        if self.is_over.load(Ordering::Relaxed) { Err("it was ended from outside".to_owned()) } else { Ok(()) }
    }

    /// Starts so many states, drawn from all boots, no cut twice, under the real loader. Says how many of them were: one in which something
    /// does not hold is not.
    ///
    /// # Errors
    /// If a disk cannot be rebuilt, or there are not so many.
    pub fn start_some(&self, count: usize, seed: u64, tell: &mut dyn FnMut(Boot, &Cut, Seen)) -> Result<usize, String> {
        let mut dice = Dice::new(seed ^ 0xB007);
        let mut drawn: Vec<(Boot, Cut)> = Vec::new();
        for boot in 0..BOOTS {
            let wanted = (count + BOOTS - 1 - boot) / BOOTS;
            drawn.extend(self.draw_starts(boot, wanted, &mut dice)?.into_iter().map(|cut| (boot, cut)));
        }
        let started = AtomicUsize::new(0);
        // All starts of one update ask the same servers, of which one offers that.
        for update in 0..UPDATES {
            let drawn: Vec<_> = drawn.iter().filter(|(boot, _)| update_of(*boot) == update).cloned().collect();
            let _servers = self.servers(update)?;
            let next = AtomicUsize::new(0);
            let (found, told) = mpsc::channel::<(Boot, Cut, Seen)>();
            thread::scope(|scope| {
                let worker =
                    |found: mpsc::Sender<(Boot, Cut, Seen)>| scope.spawn(|| self.start_drawn(&drawn, &next, &started, found));
                let running: Vec<_> = (0..workers()).map(|_| worker(found.clone())).collect();
                drop(found);
                told.into_iter().for_each(|(boot, cut, seen)| tell(boot, &cut, seen));
                running.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker panicked".to_owned())?)
            })?;
        }
        Ok(started.into_inner())
    }

    fn draw_starts(&self, boot: Boot, count: usize, dice: &mut Dice) -> Result<HashSet<Cut>, String> {
        let changes = self.changes(boot)?;
        let places = places_of(&changes);
        let mut drawn = HashSet::new();
        for _ in 0..count * DRAWS_PER_CUT {
            if drawn.len() < count && !places.is_empty() {
                let epoch = draw(&places, dice);
                drawn.insert(random(epoch, &changes[epoch], dice));
            }
        }
        if drawn.len() < count {
            return Err(format!("boot {} has no more than {} states to start, {count} were asked for", boot + 1, drawn.len()));
        }
        Ok(drawn)
    }

    fn start_drawn(
        &self,
        drawn: &[(Boot, Cut)],
        next: &AtomicUsize,
        started: &AtomicUsize,
        found: mpsc::Sender<(Boot, Cut, Seen)>,
    ) -> Result<(), String> {
        let folder = fast_folder()?;
        let disk = folder.path().join("started.img");
        while let Some((boot, cut)) = drawn.get(next.fetch_add(1, Ordering::Relaxed)) {
            self.check_wanted()?;
            let (first, seen) = self.rebuild(*boot, cut, &disk)?;
            let seen = seen.and_then(|_| {
                started.fetch_add(1, Ordering::Relaxed);
                self.start_alone(*boot, &disk, first.as_ref())
            });
            found.send((*boot, cut.clone(), seen)).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Writes the disk that a cut leaves to a file, and looks at it: what the loader has to start, and what was found.
    ///
    /// # Errors
    /// If it cannot be rebuilt.
    pub fn rebuild(&self, boot: Boot, cut: &Cut, to: &Path) -> Result<(Option<First>, Seen), String> {
        let (_folder, mut disk) = self.recording.disk_of(boot)?;
        if cut.epoch >= disk.epochs() || cut.kept.len() != disk.writes(cut.epoch) {
            return Err(format!("{cut} is no cut of this recording"));
        }
        let words = |error: io::Error| error.to_string();
        disk.advance_to(cut.epoch).map_err(words)?;
        let mut checker = self.checker(boot)?;
        let seen = check(&mut checker, &mut disk, cut);
        if let Some(why) = checker.broken() {
            return Err(why.to_owned());
        }
        let first = checker.first(&mut disk, cut).ok();
        disk.after(cut, |_, file| copy(file, to)).map_err(words)?.map_err(words)?;
        Ok((first, seen))
    }

    /// Starts the machine with this disk until it rests, with the servers it had; the disk is changed by that.
    ///
    /// # Errors
    /// If it does not do what it has to, with its console.
    pub fn start(&self, boot: Boot, disk: &Path, first: Option<&First>) -> Seen {
        let _servers = self.servers(update_of(boot))?;
        self.start_alone(boot, disk, first)
    }

    /// The loader has to start the slot that the second reading of its files found, and the update that was cut has to be there after no
    /// more boots than that leaves.
    fn start_alone(&self, boot: Boot, disk: &Path, first: Option<&First>) -> Seen {
        let Some(First { slot, progress }) = first else { return Err("nobody knows what the loader starts".to_owned()) };
        let most = if *progress == Progress::Before { 2 } else { 1 };
        let (version, target) = (VERSIONS[update_of(boot) + 1], target_of(update_of(boot)).to_string());
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let loader = self.recording.loader();
        let mut machine = Machine::with_disk(folder.path(), loader, disk);
        for boots in 1..=most {
            let wants = runs(version, &target);
            let running = machine.boot();
            let (rests, console) = running.rests_or_reboots(&wants, &self.is_over)?;
            let started: Vec<&str> = ["a", "b"].into_iter().filter(|slot| console.contains(&loader.words_for(slot))).collect();
            let expected = if boots == 1 { slot.to_string() } else { target.clone() };
            if started != [expected.as_str()] {
                return Err(format!("boot {boots}: expected the loader to start {expected}, it started {started:?}:\n{console}"));
            }
            if rests {
                return Ok(format!("{version} runs from {target} after {boots} boots"));
            }
        }
        Err(format!("{version} does not run from {target} after {most} boots"))
    }

    fn servers(&self, update: usize) -> Result<(Mock, LockService), String> {
        let script = Script::serving(self.recording.files()).answer(Answer::update(VERSIONS[update + 1]));
        let mock = Mock::start_on(script, self.recording.server()).map_err(|error| error.to_string())?;
        let lock = self.recording.lock();
        Ok((mock, LockService::start(lock).map_err(|error| format!("a lock service at {lock}: {error}"))?))
    }

    /// What the machine had said in a boot, by the epochs from which on it had, and what it may have forgotten.
    fn demands(&self, boot: Boot) -> Result<Demands, String> {
        let log = self.recording.log(boot)?;
        let said = log.entries.get(..self.recording.said(boot)).ok_or("the log is shorter than when it was recorded")?;
        let begun = epochs(said).len() - 1;
        // What the first boot of an update has said holds from the beginning of its second one on.
        let earlier = (2 * update_of(boot)..boot).map(|boot| (0, end_of(boot)));
        Ok(Demands {
            update: update_of(boot),
            highest: sequence_of(update_of(boot)),
            said: earlier.chain([(begun, end_of(boot))]).collect(),
            acknowledged: self.acknowledged(boot, &log),
            locked: epoch_of(self.recording.locked(update_of(boot)), boot, &log),
        })
    }

    /// What the servers have acknowledged until the end of a boot, by the epoch from which on they had. What one took twice counts from the
    /// first time on.
    fn acknowledged(&self, boot: Boot, log: &WriteLog) -> HashMap<String, usize> {
        let mut acknowledged = HashMap::new();
        for known in self.recording.acknowledged().iter().filter(|known| known.place.boot <= boot) {
            acknowledged.entry(known.report.clone()).or_insert_with(|| epoch_of(known.place, boot, log));
        }
        acknowledged
    }

    fn layout(&self) -> Result<Layout, String> {
        let base = self.recording.base();
        let table = Gpt::open(&base).map_err(|error| error.to_string())?;
        let range = |label: &str| -> Result<Range<u64>, String> {
            let entry = table.entry(label).map_err(|error| error.to_string())?;
            Ok(entry.start..entry.start + entry.length)
        };
        let length = fs::metadata(&base).map_err(|error| error.to_string())?.len();
        let fixed = [0..TABLE_BYTES[0], length - TABLE_BYTES[1]..length, range("bios")?];
        Ok(Layout { esp: range("esp")?, slots: [range("root-a")?, range("root-b")?], state: range("state")?, fixed })
    }

    fn checker(&self, boot: Boot) -> Result<Checker, String> {
        let layout = self.layout()?;
        let length = layout.state.end - layout.state.start;
        let mount = match &self.blind {
            None => Some(
                StateMount::new(fast_folder()?, length)
                    .map_err(|why| format!("state partitions cannot be seen any more: {why}"))?,
            ),
            Some(_) => None,
        };
        let loader = self.recording.loader();
        let control = Control::new(loader, fast_folder()?)?;
        let base = fs::File::open(self.recording.base()).map_err(|error| error.to_string())?;
        Checker::new(control, loader, layout, self.recording.signed(), self.demands(boot)?, mount, &base)
    }
}

/// The epoch of a boot at this moment of the recording, or its first one.
fn epoch_of(place: Place, boot: Boot, log: &WriteLog) -> usize {
    let is_before = |entry: &Entry| !matches!(entry, Entry::Write { data_at, length, .. } if data_at + length > place.log_bytes);
    let before = log.entries.iter().take_while(|entry| is_before(entry)).count();
    if place.boot < boot { 0 } else { epochs(&log.entries[..before]).len() - 1 }
}

fn disk_epochs(recording: &Recording, boot: Boot) -> Result<usize, String> {
    Ok(epochs(&recording.log(boot)?.entries).len())
}

/// Every epoch as often as it has to be drawn: by what its writes change.
fn places_of(changes: &[Vec<Change>]) -> Vec<usize> {
    let weight = |writes: &Vec<Change>| writes.iter().map(|write| if write.is_fine { WEIGHT_OF_FINE } else { 1 }).sum::<usize>();
    changes.iter().enumerate().flat_map(|(epoch, writes)| std::iter::repeat_n(epoch, weight(writes))).collect()
}

fn draw(places: &[usize], dice: &mut Dice) -> usize {
    places[usize::try_from(dice.below(places.len() as u64)).unwrap_or(0)]
}

fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// What is told by a panic is found there, like everything else that does not hold.
fn check(checker: &mut Checker, disk: &mut Disk, cut: &Cut) -> Seen {
    catch_unwind(AssertUnwindSafe(|| checker.check(disk, cut))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", words.unwrap_or("without words")))
    })
}
