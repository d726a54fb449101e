//! Two updates of a virtual machine, recorded write by write: from slot a to slot b, which was empty, and from there to slot a, which
//! holds what was good before.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use manifests::release::SlotName;
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::check::Signed;
use super::disk::Disk;
use super::lengths::{Lengths, Watch};
use super::loader::Progress;
use super::log::WriteLog;
use super::sparse;
use super::state::{release_told, told_in};
use crate::rig::{ReleaseImage, program, tail};
use crate::vm::{Answered, Ask, Flaw, GUEST_PROGRAMS, Loader, Parts, Running, Scene, TOLD_TO_REBOOT, UP, runs};

/// What the machine runs at first, and what it is updated to, one after the other.
pub const VERSIONS: [&str; UPDATES + 1] = ["1.0.0", "2.0.0", "3.0.0"];
/// Updates of a recording.
pub const UPDATES: usize = 2;
/// Boots of a recording: of each update the one in which it is written, and the one in which it is tried and kept.
pub const BOOTS: usize = 2 * UPDATES;
/// What is said of a recording, beside its disk and its logs.
const FACTS: &str = "recording.json";
/// Memory that is a file system: rebuilding a disk writes more than it reads.
const FAST: &str = "/dev/shm";
/// What a few rebuilt disks may take there.
const FAST_BYTES: u64 = 2 << 30;

/// Which boot of the recording a cut is in, from 0.
pub type Boot = usize;

/// Which update a boot belongs to, from 0. It leads to `VERSIONS[update + 1]`.
#[must_use]
pub const fn update_of(boot: Boot) -> usize {
    boot / 2
}

/// The slot that an update writes.
#[must_use]
pub const fn target_of(update: usize) -> SlotName {
    if update.is_multiple_of(2) { SlotName::B } else { SlotName::A }
}

/// The slot that runs in a boot.
#[must_use]
pub const fn running_in(boot: Boot) -> SlotName {
    // The second boot of an update is the first one of its target, which the first boot of the next update runs as well.
    target_of(boot.div_ceil(2) + 1)
}

/// How far its update is at the end of a boot.
#[must_use]
pub const fn end_of(boot: Boot) -> Progress {
    if boot.is_multiple_of(2) { Progress::Trial } else { Progress::Kept }
}

/// Why there is no recording.
#[derive(Debug)]
pub enum Unrecorded {
    /// It cannot be made here.
    Here(String),
    /// A power cut that came while it was made was one too many.
    Bad(String),
}

impl From<String> for Unrecorded {
    fn from(why: String) -> Self {
        Self::Here(why)
    }
}

/// The disk before the first update, and what each boot wrote.
#[derive(Debug)]
pub struct Recording {
    folder: PathBuf,
    facts: Facts,
}

/// What is kept beside the disk and the logs.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    loader: String,
    sources_sha256: String,
    server: SocketAddr,
    lock: SocketAddr,
    releases: Vec<Release>,
    /// Entries of the log of each boot when the machine said how far its update is: that it is told to reboot, or that it is kept.
    said: Vec<usize>,
    /// What the servers took.
    acknowledged: Vec<Acknowledged>,
    /// The lock service knew that the host was about to reboot, once for each update.
    locked: Vec<Place>,
}

/// Something that a server took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Acknowledged {
    /// As in [`super::state::Memory::outbox`].
    pub report: String,
    /// When.
    pub place: Place,
}

/// A moment of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// In which boot.
    pub boot: Boot,
    /// So many bytes of the log of that boot, at least, had been written by then.
    pub log_bytes: u64,
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
    /// The recording of a folder. It is made where there is none, and made again where anything that the machine was made of is not what it
    /// was.
    ///
    /// # Errors
    /// Where machines cannot be had, or the folder holds the recording of another loader; or what does not hold.
    pub fn open_or_make(folder: &Path, loader: Loader) -> Result<Self, Unrecorded> {
        let sources = digest_of_sources(loader)?;
        if folder.join(FACTS).exists() {
            match Self::open(folder) {
                Ok(recording) if recording.facts.loader != loader.name() => {
                    let why = format!("{} was recorded under {}", folder.display(), recording.facts.loader);
                    return Err(Unrecorded::Here(why));
                }
                Ok(recording) if recording.facts.sources_sha256 == sources => return Ok(recording),
                // Of other parts, or by another version of this program.
                Ok(_) | Err(_) => fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?,
            }
        }
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        record(folder, loader, sources)?;
        Ok(Self::open(folder)?)
    }

    /// The recording of a folder, whatever was recorded.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let file = folder.join(FACTS);
        let text = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let facts: Facts = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        if facts.said.len() != BOOTS || facts.releases.len() != VERSIONS.len() || facts.locked.len() != UPDATES {
            return Err(format!("{}: expected {BOOTS} boots and {} releases", file.display(), VERSIONS.len()));
        }
        Ok(Self { folder: folder.to_owned(), facts })
    }

    /// The loader of its machine.
    #[must_use]
    pub fn loader(&self) -> Loader {
        if self.facts.loader == Loader::GrubBios.name() { Loader::GrubBios } else { Loader::SystemdBoot }
    }

    /// Where its server listened.
    #[must_use]
    pub const fn server(&self) -> SocketAddr {
        self.facts.server
    }

    /// Where its lock service listened.
    #[must_use]
    pub const fn lock(&self) -> SocketAddr {
        self.facts.lock
    }

    /// When the lock service knew that the host was about to reboot for an update.
    #[must_use]
    pub fn locked(&self, update: usize) -> Place {
        self.facts.locked[update]
    }

    /// What its server gave out.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// The disk before the first boot.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        self.folder.join("base.img")
    }

    /// What its servers took.
    #[must_use]
    pub fn acknowledged(&self) -> &[Acknowledged] {
        &self.facts.acknowledged
    }

    /// What a boot wrote.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log(&self, boot: Boot) -> Result<WriteLog, String> {
        let path = log_in(&self.folder, boot);
        WriteLog::open(&path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Entries of the log of a boot when the machine said that its update is at [`end_of`] it.
    #[must_use]
    pub fn said(&self, boot: Boot) -> usize {
        self.facts.said[boot]
    }

    /// Its releases, in the order of [`VERSIONS`].
    #[must_use]
    pub fn signed(&self) -> Vec<Signed> {
        let signed = |release: &Release| Signed {
            version: release.version.clone(),
            root: (release.root_length, unhex(&release.root_sha256)),
            kernel: release.kernel_sha256.as_deref().map(unhex),
            options: release.options.clone(),
        };
        self.facts.releases.iter().map(signed).collect()
    }

    /// A disk before the first write of a boot; gone with the folder.
    ///
    /// # Errors
    /// If it cannot be rebuilt.
    pub fn disk_of(&self, boot: Boot) -> Result<(TempDir, Disk), String> {
        self.disk_with(boot, self.log(boot)?)
    }

    /// The same of a machine that never asked for a flush in that boot.
    ///
    /// # Errors
    /// If it cannot be rebuilt.
    pub fn disk_without_flushes(&self, boot: Boot) -> Result<(TempDir, Disk), String> {
        self.disk_with(boot, self.log(boot)?.without_flushes())
    }

    fn disk_with(&self, boot: Boot, log: WriteLog) -> Result<(TempDir, Disk), String> {
        let words = |error: io::Error| error.to_string();
        let folder = fast_folder()?;
        let file = folder.path().join("disk.img");
        copy(&fs::File::open(self.base()).map_err(words)?, &file).map_err(words)?;
        for earlier in 0..boot {
            let mut disk = Disk::new(&file, self.log(earlier)?).map_err(words)?;
            disk.advance_to(disk.epochs()).map_err(words)?;
        }
        let disk = Disk::new(&file, log).map_err(words)?;
        Ok((folder, disk))
    }
}

fn log_in(folder: &Path, boot: Boot) -> PathBuf {
    folder.join(format!("boot-{}.log", boot + 1))
}

/// Updates a machine twice, with a log of each boot.
fn record(folder: &Path, loader: Loader, sources_sha256: String) -> Result<(), Unrecorded> {
    let mut scene = Scene::for_recording(loader, folder)?;
    fs::copy(scene.machine.disk(), folder.join("base.img")).map_err(|error| error.to_string())?;
    let words = |error: io::Error| error.to_string();
    let mut releases = vec![release_of(VERSIONS[0], scene.factory()).map_err(words)?];
    let (mut said, mut lengths) = (Vec::new(), Vec::new());
    for update in 0..UPDATES {
        let version = VERSIONS[update + 1];
        let images = scene.publish(version, sequence_of(update + 1), Flaw::None);
        releases.push(release_of(version, &images).map_err(words)?);
        let log = log_in(folder, 2 * update);
        let watch = Watch::of(&log);
        let mut boot = scene.machine.boot_recorded(&log);
        check_start(&mut boot, loader, 2 * update)?;
        boot.wait_for(TOLD_TO_REBOOT);
        said.push(entries_in(&log)?);
        boot.wait_off();
        lengths.push(watch.end().map_err(words)?);
        check_whole(folder, 2 * update)?;
        let log = log_in(folder, 2 * update + 1);
        let watch = Watch::of(&log);
        let mut boot = scene.machine.boot_recorded(&log);
        check_start(&mut boot, loader, 2 * update + 1)?;
        boot.wait_status(&format!("{version} is kept"), runs(version, &target_of(update).to_string()));
        said.push(entries_in(&log)?);
        let (_, fua) = boot.ask("cat /sys/block/nvme0n1/queue/fua");
        if fua.trim() != "1" {
            return Err(format!("the guest's disk does not take FUA ({fua:?}), which is how its log is read").into());
        }
        // What was said has to be on the medium: the guest flushes nothing for the occasion.
        boot.power_cut_logged();
        lengths.push(watch.end().map_err(words)?);
        check_whole(folder, 2 * update + 1)?;
    }
    let lock = scene.lock().ok_or_else(|| "a machine that is recorded asks for a lock".to_owned())?;
    let answered = lock.answered();
    let events = scene.events().into_iter().map(|(time, body)| (time, told_in(&body)));
    let released = answered.iter().filter(|yes| yes.ask == Ask::Release).map(|yes| (yes.at, vec![release_told(&yes.attempt)]));
    let told = events.chain(released).flat_map(|(time, reports)| reports.into_iter().map(move |report| (time, report)));
    let acknowledged = told.map(|(time, report)| Acknowledged { report, place: place_of(&lengths, time) }).collect();
    let facts = Facts {
        loader: loader.name().to_owned(),
        sources_sha256,
        server: scene.server(),
        lock: lock.addr(),
        releases,
        said,
        acknowledged,
        locked: locked(&answered, &lengths)?,
    };
    let text = serde_json::to_vec_pretty(&facts).map_err(|error| error.to_string())?;
    Ok(fs::write(folder.join(FACTS), text).map_err(|error| error.to_string())?)
}

/// Before the first boot of the second update the power was cut when the machine had said that it keeps the first one.
fn check_start(running: &mut Running, loader: Loader, boot: Boot) -> Result<(), Unrecorded> {
    running.wait_for(UP);
    let (expected, console) = (running_in(boot), running.console());
    if console.contains(&loader.words_for(&expected.to_string())) {
        return Ok(());
    }
    let number = boot + 1;
    // Loaders draw their menus with control characters.
    let said: String = tail(&console, 60).chars().filter(|character| *character == '\n' || !character.is_control()).collect();
    Err(Unrecorded::Bad(format!(
        "what was on the medium is lost: boot {number} of the recording did not start slot {expected}; the end of its console:\n{said}"
    )))
}

fn place_of(lengths: &[Lengths], time: Timestamp) -> Place {
    let place = lengths.iter().enumerate().rev().find_map(|(boot, lengths)| Some(Place { boot, log_bytes: lengths.at(time)? }));
    place.unwrap_or_default()
}

/// When the service had a host of each update down as one that is about to reboot, for the first time.
fn locked(answered: &[Answered], lengths: &[Lengths]) -> Result<Vec<Place>, String> {
    let mut known = answered.iter().filter(|yes| yes.ask == Ask::Reboot).map(|yes| place_of(lengths, yes.at));
    let in_boot = |boot: Boot| known.find(|place| place.boot == boot);
    let locked: Option<Vec<Place>> = (0..UPDATES).map(|update| 2 * update).map(in_boot).collect();
    locked.ok_or_else(|| format!("expected the lock service to be told of each reboot, it was asked {answered:?}"))
}

/// The sequence number of `VERSIONS[index]`.
#[must_use]
pub const fn sequence_of(index: usize) -> u64 {
    index as u64 + 1
}

fn entries_in(log: &Path) -> Result<usize, String> {
    WriteLog::open(log).map(|log| log.entries.len()).map_err(|error| format!("{}: {error}", log.display()))
}

/// What the logs up to that of this boot make of the disk before is the disk that the machine has.
fn check_whole(folder: &Path, boot: Boot) -> Result<(), String> {
    let words = |error: io::Error| error.to_string();
    let rebuilt = folder.join("rebuilt.img");
    copy(&fs::File::open(folder.join("base.img")).map_err(words)?, &rebuilt).map_err(words)?;
    for log in (0..=boot).map(|boot| log_in(folder, boot)) {
        let log = WriteLog::open(&log).map_err(|error| format!("{}: {error}", log.display()))?;
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
        if ours[..now] != theirs[..now] {
            let same = ours[..now].iter().zip(&theirs[..now]).take_while(|(ours, theirs)| ours == theirs).count();
            return Err(format!("boot {}: its log is not all that it wrote: byte {} differs", boot + 1, at + same as u64));
        }
        at += now as u64;
    }
    fs::remove_file(&rebuilt).map_err(words)
}

/// What a recording depends on: the guest's programs, this one (which holds the loader's script and the guest's configuration), the
/// kernel and the loader.
fn digest_of_sources(loader: Loader) -> Result<String, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let parts = Parts::find(loader)?;
    let files = GUEST_PROGRAMS.iter().map(|name| program(name)).chain([own, parts.kernel.clone()]).chain(loader.files());
    let mut hasher = Sha256::new();
    for file in files {
        hasher.update(fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?);
    }
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

/// A folder for disks that are rebuilt: in memory, where there is room enough.
///
/// # Errors
/// If none can be made.
pub fn fast_folder() -> Result<TempDir, String> {
    let room = statvfs(FAST).map_or(0, |space| space.blocks_available().saturating_mul(space.fragment_size()));
    let made = if room >= FAST_BYTES { tempfile::tempdir_in(FAST) } else { tempfile::tempdir() };
    made.map_err(|error| error.to_string())
}

/// A copy of a disk, in which what is zero takes no room.
///
/// # Errors
/// If one of them cannot be read or written.
pub fn copy(from: &fs::File, to: &Path) -> io::Result<()> {
    let (to, length) = (fs::File::create(to)?, from.metadata()?.len());
    to.set_len(length)?;
    sparse::copy(from, &(0..length), &to, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boots_of_two_updates_run_a_b_b_a() {
        let of_boot = |boot| (running_in(boot), update_of(boot), target_of(update_of(boot)), end_of(boot));
        let (a, b) = (SlotName::A, SlotName::B);
        let expected =
            [(a, 0, b, Progress::Trial), (b, 0, b, Progress::Kept), (b, 1, a, Progress::Trial), (a, 1, a, Progress::Kept)];
        assert_eq!([0, 1, 2, 3].map(of_boot), expected);
    }
}
