//! One recorded update, and all that is done with it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use serde::{Deserialize, Serialize};
use server_mock::{Answer, Mock, Script};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::check::{Checker, Demands, Layout, Signed};
use super::control::Control;
use super::cut::{Cut, Dice, epochs, random, systematic};
use super::disk::Disk;
use super::loader::Progress;
use super::log::WriteLog;
use super::sparse;
use super::state::{StateMount, told_in};
use crate::hostsim::gpt::Gpt;
use crate::rig::{ReleaseImage, program};
use crate::vm::{Flaw, GUEST_PROGRAMS, Loader, Machine, Scene, TOLD_TO_REBOOT, runs};

/// What the machine ran before, and what it is updated to.
const VERSIONS: [&str; 2] = ["1.0.0", "2.0.0"];
/// Boots that a machine may take until it rests.
const MAX_BOOTS: usize = 8;
/// What is said of a recording, beside its disk and its logs.
const FACTS: &str = "recording.json";
/// Boots of a recording.
const BOOTS: usize = 2;
/// How far the update is at the end of each.
const ENDS: [Progress; BOOTS] = [Progress::Trial, Progress::Kept];
/// Draws that may be cuts which are planned already, for each one wanted.
const DRAWS_PER_CUT: usize = 20;
/// Memory that is a file system: rebuilding a disk writes more than it reads.
const FAST: &str = "/dev/shm";
/// Header and entries of a partition table, of which there is one at each end.
const TABLE_BYTES: u64 = 33 * 512;

/// Which boot of the recording a cut is in, from 0.
pub type Boot = usize;

/// A state in which something does not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// In which boot.
    pub boot: Boot,
    /// After which cut.
    pub cut: Cut,
    /// What.
    pub why: String,
}

/// An update from download to commit: the disk before it, and what each of its two boots wrote.
#[derive(Debug)]
pub struct Recording {
    folder: PathBuf,
    facts: Facts,
}

/// What is kept beside the disk and the logs.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    loader: String,
    programs_sha256: String,
    server: SocketAddr,
    releases: Vec<Release>,
    /// Entries of the log of each boot when the machine said that it is told to reboot, and that the update is kept.
    said: [usize; BOOTS],
    /// What the update server took.
    acknowledged: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Release {
    version: String,
    root_length: u64,
    root_sha256: String,
    kernel_sha256: Option<String>,
    options: Option<[String; 2]>,
}

impl Recording {
    /// The recording of a folder. It is made where there is none, and made again where the programs are others than those that were
    /// recorded.
    ///
    /// # Errors
    /// Where machines cannot be had, or the folder holds the recording of another loader.
    pub fn open_or_make(folder: &Path, loader: Loader) -> Result<Self, String> {
        let programs = digest_of_programs().map_err(|error| format!("the programs that are recorded: {error}"))?;
        if folder.join(FACTS).exists() {
            match Self::open(folder) {
                Ok(recording) if recording.facts.loader != loader.name() => {
                    return Err(format!("{} was recorded under {}", folder.display(), recording.facts.loader));
                }
                Ok(recording) if recording.facts.programs_sha256 == programs => return Ok(recording),
                // Other programs, or another version of this one.
                Ok(_) | Err(_) => fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?,
            }
        }
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        record(folder, loader, programs)?;
        Self::open(folder)
    }

    /// The recording of a folder, whatever was recorded.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let file = folder.join(FACTS);
        let text = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let facts: Facts = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(Self { folder: folder.to_owned(), facts })
    }

    fn loader(&self) -> Loader {
        if self.facts.loader == Loader::GrubBios.name() { Loader::GrubBios } else { Loader::SystemdBoot }
    }

    fn log(&self, boot: Boot) -> PathBuf {
        self.folder.join(format!("boot-{}.log", boot + 1))
    }

    fn signed(&self) -> Vec<Signed> {
        let signed = |release: &Release| Signed {
            version: release.version.clone(),
            root: (release.root_length, unhex(&release.root_sha256)),
            kernel: release.kernel_sha256.as_deref().map(unhex),
            options: release.options.clone(),
        };
        self.facts.releases.iter().map(signed).collect()
    }
}

/// Updates a machine, with a log of each boot.
fn record(folder: &Path, loader: Loader, programs_sha256: String) -> Result<(), String> {
    let mut scene = Scene::for_recording(loader, folder)?;
    fs::copy(scene.machine.disk(), folder.join("base.img")).map_err(|error| error.to_string())?;
    let updated = scene.publish(VERSIONS[1], 2, Flaw::None);
    let releases = [(VERSIONS[0], scene.factory()), (VERSIONS[1], &updated)].map(|(version, images)| release_of(version, images));
    let releases = releases.into_iter().collect::<io::Result<Vec<Release>>>().map_err(|error| error.to_string())?;
    let logs = [1, 2].map(|boot| folder.join(format!("boot-{boot}.log")));
    let mut boot = scene.machine.boot_recorded(&logs[0]);
    boot.wait_for(TOLD_TO_REBOOT);
    let armed = entries_in(&logs[0])?;
    boot.wait_off();
    check_whole(folder, &logs[..1])?;
    let mut boot = scene.machine.boot_recorded(&logs[1]);
    boot.wait_status("2.0.0 is kept", runs(VERSIONS[1], "b"));
    let kept = entries_in(&logs[1])?;
    let (_, fua) = boot.ask("cat /sys/block/nvme0n1/queue/fua");
    if fua.trim() != "1" {
        return Err(format!("the guest's disk does not take FUA ({fua:?}), which is how its log is read"));
    }
    // What was said has to be on the medium: nothing is flushed for the occasion.
    boot.power_cut();
    check_whole(folder, &logs)?;
    let facts = Facts {
        loader: loader.name().to_owned(),
        programs_sha256,
        server: scene.server(),
        releases,
        said: [armed, kept],
        acknowledged: scene.events().iter().flat_map(|body| told_in(body)).collect(),
    };
    let text = serde_json::to_vec_pretty(&facts).map_err(|error| error.to_string())?;
    fs::write(folder.join(FACTS), text).map_err(|error| error.to_string())
}

fn entries_in(log: &Path) -> Result<usize, String> {
    WriteLog::open(log).map(|log| log.entries.len()).map_err(|error| format!("{}: {error}", log.display()))
}

/// What the logs make of the disk before is the disk that the machine had.
fn check_whole(folder: &Path, logs: &[PathBuf]) -> Result<(), String> {
    let words = |error: io::Error| error.to_string();
    let scratch = fast_folder()?;
    let rebuilt = scratch.path().join("disk.img");
    fs::copy(folder.join("base.img"), &rebuilt).map_err(words)?;
    for log in logs {
        let log = WriteLog::open(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let mut disk = Disk::new(&rebuilt, log).map_err(words)?;
        disk.advance_to(disk.epochs()).map_err(words)?;
    }
    let (one, other) = (fs::File::open(&rebuilt).map_err(words)?, fs::File::open(folder.join("disk.img")).map_err(words)?);
    let length = one.metadata().map_err(words)?.len();
    let (mut ours, mut theirs, mut at) = (vec![0; 1 << 20], vec![0; 1 << 20], 0);
    while at < length {
        let now = usize::try_from(length - at).unwrap_or(ours.len()).min(ours.len());
        one.read_exact_at(&mut ours[..now], at).map_err(words)?;
        other.read_exact_at(&mut theirs[..now], at).map_err(words)?;
        if let Some(index) = ours[..now].iter().zip(&theirs[..now]).position(|(ours, theirs)| ours != theirs) {
            return Err(format!("boot {}: its log is not all that it wrote: byte {} differs", logs.len(), at + index as u64));
        }
        at += now as u64;
    }
    Ok(())
}

fn digest_of_programs() -> io::Result<String> {
    let mut hasher = Sha256::new();
    GUEST_PROGRAMS.iter().try_for_each(|name| fs::read(program(name)).map(|bytes| hasher.update(bytes)))?;
    Ok(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn release_of(version: &str, images: &[ReleaseImage]) -> io::Result<Release> {
    let bytes = |name: &'static str| images.iter().filter(move |image| image.name == name).map(|image| &image.bytes);
    let root = bytes("root").next().ok_or(io::ErrorKind::NotFound)?;
    let digest = |bytes: &Vec<u8>| hex(&Sha256::digest(bytes));
    let options = |entry: &Vec<u8>| {
        let text = String::from_utf8_lossy(entry).into_owned();
        text.lines().find_map(|line| line.strip_prefix("options ")).unwrap_or_default().to_owned()
    };
    let options: Vec<String> = bytes("entry").map(options).collect();
    Ok(Release {
        version: version.to_owned(),
        root_length: root.len() as u64,
        root_sha256: digest(root),
        kernel_sha256: bytes("kernel").next().map(digest),
        options: options.try_into().ok(),
    })
}

fn unhex(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.iter_mut().enumerate().for_each(|(index, byte)| {
        *byte = text.get(2 * index..2 * index + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0);
    });
    bytes
}

/// Rebuilds, looks, starts.
#[derive(Debug)]
pub struct Campaign {
    recording: Recording,
    /// Why nothing is said of the state partition.
    blind: Option<String>,
}

/// What was found of one state.
pub type Seen = Result<String, String>;

impl Campaign {
    /// Of a recording.
    #[must_use]
    pub fn new(recording: Recording) -> Self {
        let blind = fast_folder().and_then(|folder| StateMount::new(folder, 1 << 20)).err();
        Self { recording, blind }
    }

    /// Whether state partitions can be looked at here. Where they can, one that cannot be looked at is an error of the run.
    ///
    /// # Errors
    /// Why not, for "partly skipped: …".
    pub fn sees_states(&self) -> Result<(), &str> {
        self.blind.as_deref().map_or(Ok(()), Err)
    }

    /// Checks that the recording is one of an update: with all that was written in its first boot it is armed, with all of the second one
    /// it is kept.
    ///
    /// # Errors
    /// How far it came.
    pub fn check_ends(&self) -> Result<(), String> {
        for (boot, expected) in ENDS.into_iter().enumerate() {
            let (_folder, mut disk) = self.disk_of(boot)?;
            let last = disk.epochs().saturating_sub(1);
            disk.advance_to(last).map_err(|error| error.to_string())?;
            let all = Cut { epoch: last, kept: vec![true; disk.lengths(last).len()], torn: None };
            let got = self.checker(boot)?.progress(&disk, &all);
            if got != Ok(expected) {
                let boot = boot + 1;
                return Err(format!(
                    "the recording is of no update: expected {expected:?} at the end of boot {boot}, got {got:?}"
                ));
            }
        }
        Ok(())
    }

    /// Looks at all systematic cuts, and at random ones until there are `least` in all. Says how many there were.
    ///
    /// # Errors
    /// If a disk cannot be rebuilt.
    pub fn look_at_all(&self, least: usize, seed: u64, tell: &mut dyn FnMut(Boot, &Cut, Seen)) -> Result<usize, String> {
        let mut dice = Dice::new(seed);
        let mut looked_at = 0;
        for boot in 0..BOOTS {
            let missing = least.saturating_sub(looked_at) / (BOOTS - boot);
            let planned = self.planned(boot, missing, &mut dice)?;
            looked_at += planned.iter().map(HashSet::len).sum::<usize>();
            self.look_at_epochs(boot, &planned, tell)?;
        }
        Ok(looked_at)
    }

    /// The cuts of each epoch of a boot: all that are systematic, and drawn ones until there are `least`, no cut twice.
    fn planned(&self, boot: Boot, least: usize, dice: &mut Dice) -> Result<Vec<HashSet<Cut>>, String> {
        let disk = self.disk_of(boot)?.1;
        let mut planned: Vec<HashSet<Cut>> =
            (0..disk.epochs()).map(|epoch| systematic(epoch, &disk.lengths(epoch), dice).into_iter().collect()).collect();
        // An epoch of many writes has more states than one of few.
        let places: Vec<usize> =
            (0..disk.epochs()).flat_map(|epoch| disk.lengths(epoch).into_iter().map(move |_| epoch)).collect();
        let mut count: usize = planned.iter().map(HashSet::len).sum();
        for _ in 0..least.saturating_mul(DRAWS_PER_CUT) {
            if count >= least || places.is_empty() {
                break;
            }
            let epoch = places[usize::try_from(dice.below(places.len() as u64)).unwrap_or(0)];
            count += usize::from(planned[epoch].insert(random(epoch, &disk.lengths(epoch), dice)));
        }
        Ok(planned)
    }

    /// Every processor takes the next epoch that nobody has taken.
    fn look_at_epochs(&self, boot: Boot, planned: &[HashSet<Cut>], tell: &mut dyn FnMut(Boot, &Cut, Seen)) -> Result<(), String> {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let (found, told) = mpsc::channel::<(Cut, Seen)>();
        thread::scope(|scope| {
            let worker = |found: mpsc::Sender<(Cut, Seen)>| scope.spawn(|| self.work(boot, planned, &next, found));
            let running: Vec<_> = (0..workers).map(|_| worker(found.clone())).collect();
            drop(found);
            told.into_iter().for_each(|(cut, seen)| tell(boot, &cut, seen));
            running.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker panicked".to_owned())?)
        })
    }

    fn work(
        &self,
        boot: Boot,
        planned: &[HashSet<Cut>],
        next: &AtomicUsize,
        found: mpsc::Sender<(Cut, Seen)>,
    ) -> Result<(), String> {
        let (_folder, mut disk) = self.disk_of(boot)?;
        let mut checker = self.checker(boot)?;
        loop {
            let epoch = next.fetch_add(1, Ordering::Relaxed);
            let Some(cuts) = planned.get(epoch) else { return Ok(()) };
            disk.advance_to(epoch).map_err(|error| error.to_string())?;
            for cut in cuts {
                let seen = check(&mut checker, &disk, cut);
                found.send((cut.clone(), seen)).map_err(|error| error.to_string())?;
            }
        }
    }

    /// Starts so many states, drawn from both boots, under the real loader.
    ///
    /// # Errors
    /// If a disk cannot be rebuilt.
    pub fn start_some(&self, count: usize, seed: u64, tell: &mut dyn FnMut(Boot, &Cut, Seen)) -> Result<usize, String> {
        let mut dice = Dice::new(seed ^ 0xB007);
        let lengths =
            (0..BOOTS).map(|boot| self.disk_of(boot).map(|(_, disk)| disk.all_lengths())).collect::<Result<Vec<_>, _>>()?;
        let drawn = (0..count).map(|number| {
            let boot = number % BOOTS;
            let epoch = usize::try_from(dice.below(lengths[boot].len().max(1) as u64)).unwrap_or(0);
            (boot, random(epoch, &lengths[boot][epoch], &mut dice))
        });
        let drawn: Vec<(Boot, Cut)> = drawn.collect();
        let _server = self.server()?;
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let (found, told) = mpsc::channel::<(Boot, Cut, Seen)>();
        thread::scope(|scope| {
            let worker = |found: mpsc::Sender<(Boot, Cut, Seen)>| scope.spawn(|| self.start_drawn(&drawn, &next, found));
            let running: Vec<_> = (0..workers).map(|_| worker(found.clone())).collect();
            drop(found);
            told.into_iter().for_each(|(boot, cut, seen)| tell(boot, &cut, seen));
            running.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker panicked".to_owned())?)
        })?;
        Ok(count)
    }

    fn start_drawn(
        &self,
        drawn: &[(Boot, Cut)],
        next: &AtomicUsize,
        found: mpsc::Sender<(Boot, Cut, Seen)>,
    ) -> Result<(), String> {
        let folder = fast_folder()?;
        let disk = folder.path().join("started.img");
        while let Some((boot, cut)) = drawn.get(next.fetch_add(1, Ordering::Relaxed)) {
            let seen = self.rebuild(*boot, cut, &disk)?.and_then(|_| self.start_alone(&disk));
            found.send((*boot, cut.clone(), seen)).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Writes the disk that a cut leaves to a file, and looks at it.
    ///
    /// # Errors
    /// If it cannot be rebuilt.
    pub fn rebuild(&self, boot: Boot, cut: &Cut, to: &Path) -> Result<Seen, String> {
        let (_folder, mut disk) = self.disk_of(boot)?;
        if cut.epoch >= disk.epochs() || cut.kept.len() != disk.lengths(cut.epoch).len() {
            return Err(format!("{cut} is no cut of this recording"));
        }
        let words = |error: io::Error| error.to_string();
        disk.advance_to(cut.epoch).map_err(words)?;
        let seen = check(&mut self.checker(boot)?, &disk, cut);
        disk.after(cut, |file| copy(file, to)).map_err(words)?.map_err(words)?;
        Ok(seen)
    }

    /// Starts the machine with this disk until it rests, with the server it had; the disk is changed by that.
    ///
    /// # Errors
    /// If it does not come to rest, with its console.
    pub fn start(&self, disk: &Path) -> Seen {
        let _server = self.server()?;
        self.start_alone(disk)
    }

    fn start_alone(&self, disk: &Path) -> Seen {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut machine = Machine::with_disk(folder.path(), self.recording.loader(), disk);
        for boots in 1..=MAX_BOOTS {
            let ended = machine.boot().rests_or_reboots(&runs(VERSIONS[1], "b"));
            match ended {
                Ok(true) => return Ok(format!("2.0.0 runs from b after {boots} boots")),
                Ok(false) => {}
                Err(why) => return Err(why),
            }
        }
        Err(format!("it does not rest after {MAX_BOOTS} boots"))
    }

    fn server(&self) -> Result<Mock, String> {
        let script = Script::serving(self.recording.folder.join("files")).answer(Answer::update(VERSIONS[1]));
        Mock::start_on(script, self.recording.facts.server).map_err(|error| error.to_string())
    }

    /// A disk before the first write of a boot; gone with the folder.
    fn disk_of(&self, boot: Boot) -> Result<(TempDir, Disk), String> {
        let words = |error: io::Error| error.to_string();
        let folder = fast_folder()?;
        let file = folder.path().join("disk.img");
        copy(&fs::File::open(self.recording.folder.join("base.img")).map_err(words)?, &file).map_err(words)?;
        for earlier in 0..boot {
            let mut disk = Disk::new(&file, self.log(earlier)?).map_err(words)?;
            disk.advance_to(disk.epochs()).map_err(words)?;
        }
        let disk = Disk::new(&file, self.log(boot)?).map_err(words)?;
        Ok((folder, disk))
    }

    fn log(&self, boot: Boot) -> Result<WriteLog, String> {
        let path = self.recording.log(boot);
        WriteLog::open(&path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// What the machine had said in a boot, by the epochs from which on it had, and what it may have forgotten.
    fn demands(&self, boot: Boot) -> Result<Demands, String> {
        let log = self.log(boot)?;
        let facts = &self.recording.facts;
        let begun = epochs(log.entries.get(..facts.said[boot]).ok_or("the log is shorter than when it was recorded")?).len() - 1;
        // What the first boot has said holds from the beginning of the second one on.
        let earlier = (0..boot).map(|boot| (0, ENDS[boot]));
        Ok(Demands {
            said: earlier.chain([(begun, ENDS[boot])]).collect(),
            acknowledged: facts.acknowledged.iter().cloned().collect(),
        })
    }

    fn checker(&self, boot: Boot) -> Result<Checker, String> {
        let table = Gpt::open(&self.recording.folder.join("base.img")).map_err(|error| error.to_string())?;
        let range = |label: &str| -> Result<Range<u64>, String> {
            let entry = table.entry(label).map_err(|error| error.to_string())?;
            Ok(entry.start..entry.start + entry.length)
        };
        let base = fs::metadata(self.recording.folder.join("base.img")).map_err(|error| error.to_string())?;
        let tables = [0..TABLE_BYTES, base.len() - TABLE_BYTES..base.len()];
        let layout = Layout { esp: range("esp")?, slots: [range("root-a")?, range("root-b")?], state: range("state")?, tables };
        let signed = self.recording.signed();
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
        Ok(Checker::new(control, loader, layout, signed, self.demands(boot)?, mount))
    }
}

/// What is told by a panic is found there, like everything else that does not hold.
fn check(checker: &mut Checker, disk: &Disk, cut: &Cut) -> Seen {
    catch_unwind(AssertUnwindSafe(|| checker.check(disk, cut))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", words.unwrap_or("without words")))
    })
}

fn fast_folder() -> Result<TempDir, String> {
    let made = if Path::new(FAST).is_dir() { tempfile::tempdir_in(FAST) } else { tempfile::tempdir() };
    made.map_err(|error| error.to_string())
}

fn copy(from: &fs::File, to: &Path) -> io::Result<()> {
    let (to, length) = (fs::File::create(to)?, from.metadata()?.len());
    to.set_len(length)?;
    sparse::copy(from, &(0..length), &to, 0)
}
