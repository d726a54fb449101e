//! Slots on real block devices: loop devices with partitions, as root. Without root or loop devices each test says
//! `skipped: why` and returns.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on has failed")]

#[path = "../src/boot/gpt/fixture.rs"]
#[allow(dead_code, unreachable_pub)]
mod fixture;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use fixture::DiskBuilder;
use manifests::digest::Sha256Digest;
use nix::libc;
use update_engine::boot::gpt::GptControl;
use update_engine::boot::{BootControl, Permit, Standing};
use update_engine::slot::readback::{Acceptance, SlotView, audit, prove};
use update_engine::slot::{
    Disk, DiskSpec, ImageTable, InactiveSlot, Mode, ProveError, Proven, Reopened, RunningSlot, SlotError, SlotName, SlotSpec,
    SystemView, Transfer, VerifiedBytes, Watch, Written,
};

const MIB: usize = 1 << 20;
const SLOT: usize = 4 * MIB;
const WINDOW: usize = 256 << 10;
const IMAGE: usize = 3 * MIB + 12_345;

/// Loop devices are one pool for the whole machine; partitions appear a moment after they were asked for.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A disk image behind a loop device with partition devices. Dropping it detaches exactly that device.
struct LoopDisk {
    folder: tempfile::TempDir,
    device: PathBuf,
    /// None for a second disk of the same test.
    _turn: Option<std::sync::MutexGuard<'static, ()>>,
}

/// A loop disk, or why there is none.
fn loop_disk(sector: usize) -> Result<LoopDisk, String> {
    loop_disk_of(&table(sector))
}

fn loop_disk_of(table: &DiskBuilder) -> Result<LoopDisk, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root for loop devices".to_owned());
    }
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    attach(table, Some(turn))
}

fn attach(table: &DiskBuilder, turn: Option<std::sync::MutexGuard<'static, ()>>) -> Result<LoopDisk, String> {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    std::fs::write(&image, table.build()).unwrap();
    let sector = table.sector.to_string();
    let device = run("losetup", &["--sector-size", &sector, "-f", "--show", image.to_str().unwrap()])?;
    let disk = LoopDisk { folder, device: PathBuf::from(device.trim()), _turn: turn };
    // A kernel that reads no GPT is told the partitions; one that does has them already.
    let told = run("partx", &["--sector-size", &sector, "-a", disk.device.to_str().unwrap()]);
    if !disk.partition(1).exists() {
        return Err(format!("no partition devices: {told:?}"));
    }
    Ok(disk)
}

fn table(sector: usize) -> DiskBuilder {
    let mut disk = DiskBuilder::new(sector);
    disk.partitions[0].1 = SLOT / sector;
    disk.partitions[1].1 = SLOT / sector;
    disk.partitions[2].1 = MIB / sector;
    disk.sectors = (2 * SLOT + 2 * MIB) / sector;
    disk
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let device = self.device.to_str().unwrap();
        let _ = run("partx", &["-d", device]);
        run("losetup", &["-d", device]).unwrap();
    }
}

impl LoopDisk {
    fn partition(&self, number: u32) -> PathBuf {
        PathBuf::from(format!("{}p{number}", self.device.display()))
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    fn number(&self, path: &Path) -> String {
        let rdev = std::fs::metadata(path).unwrap().rdev();
        format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
    }

    fn spec(&self) -> DiskSpec {
        let slot = |name: &str| SlotSpec {
            name: name.parse().unwrap(),
            images: vec![("root".to_owned(), format!("partlabel:root-{name}").parse().unwrap())],
        };
        DiskSpec { device: self.device.clone(), sysroot: "/".into(), esp: "/efi".into(), slots: vec![slot("a"), slot("b")] }
    }

    /// The real sysfs and device nodes, but a proc that says that slot a is the root.
    fn view(&self) -> SystemView {
        let proc = self.folder.path().join("proc");
        std::fs::create_dir_all(proc.join("self")).unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut lines: Vec<String> =
            mounts.lines().filter(|line| line.split(' ').nth(4) != Some("/")).map(str::to_owned).collect();
        lines.push(format!("1 0 {} / / rw - ext4 /dev/root rw", self.number(&self.partition(1))));
        // What is behind the loop device does not lie on it.
        lines.push(format!("2 0 0:99 / {} rw - tmpfs tmpfs rw", self.folder.path().display()));
        std::fs::write(proc.join("self/mountinfo"), lines.join("\n")).unwrap();
        std::fs::copy("/proc/swaps", proc.join("swaps")).unwrap();
        std::fs::write(proc.join("cmdline"), "root=PARTLABEL=root-a").unwrap();
        SystemView::at(proc, "/sys", "/dev")
    }

    fn disk(&self) -> Disk {
        Disk::discover_in(&self.spec(), self.view()).unwrap()
    }

    fn open(&self) -> Result<InactiveSlot, SlotError> {
        let disk = self.disk();
        InactiveSlot::open(&disk, &slot("b"), &disk.running_slot().unwrap(), &[("root", IMAGE as u64)])
    }

    fn written(&self) -> Written {
        let slot = self.open().unwrap();
        for (number, bytes) in image().chunks(WINDOW).enumerate() {
            slot.write_window("root", &Window { offset: (number * WINDOW) as u64, bytes }).unwrap();
        }
        slot.finish().unwrap()
    }
}

fn slot(name: &str) -> SlotName {
    name.parse().unwrap()
}

struct Window<'a> {
    offset: u64,
    bytes: &'a [u8],
}

impl VerifiedBytes for Window<'_> {
    fn image_offset(&self) -> u64 {
        self.offset
    }

    fn bytes(&self) -> &[u8] {
        self.bytes
    }
}

fn image() -> Vec<u8> {
    (0..IMAGE).map(|at| (at / 512 * 7 + at).to_le_bytes()[0]).collect()
}

fn proof(slot: impl update_engine::slot::readback::Provable) -> Result<Proven, ProveError> {
    let digests: Vec<Sha256Digest> = image().chunks(WINDOW).map(Sha256Digest::of).collect();
    let table = ImageTable::new("root", IMAGE as u64, WINDOW as u64, &digests).unwrap();
    let cancel = AtomicBool::new(false);
    prove(slot, [3; 32], &[table], Acceptance::EveryWindow, &Watch::new(2, &cancel, &|_| {}))
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, SlotError>) -> String {
    match outcome.unwrap_err() {
        SlotError::Refused { why, .. } => why,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn write_to(device: &Path) -> std::io::Result<()> {
    let file = File::options().write(true).open(device)?;
    file.write_all_at(&[0xFF; 512], 0)?;
    file.sync_all()
}

/// A file system, mounted until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &Path, at: PathBuf) -> Result<Self, String> {
        std::fs::create_dir_all(&at).unwrap();
        let (device, folder) = (device.to_str().unwrap(), at.to_str().unwrap());
        run("mke2fs", &["-q", "-F", "-b", "4096", device]).and_then(|_| run("mount", &[device, folder])).map(|_| Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[self.0.to_str().unwrap()]).unwrap();
    }
}

/// What is there, or a return from the test with the reason printed.
macro_rules! or_skip {
    ($there:expr) => {
        match $there {
            Ok(there) => there,
            Err(why) => {
                println!("skipped: {why}");
                return;
            }
        }
    };
}

/// The disk, or a return from the test with the reason printed.
macro_rules! disk_or_skip {
    ($sector:expr) => {
        match loop_disk($sector) {
            Ok(disk) => disk,
            Err(why) => {
                println!("skipped: {why}");
                return;
            }
        }
    };
}

#[test]
fn a_slot_goes_from_written_to_proven_to_armed_on_a_block_device() {
    for sector in [512, 4096] {
        let disk = disk_or_skip!(sector);
        let found = disk.disk();
        assert_eq!((found.mode(), found.sector_size()), (Mode::Host, sector as u64));
        let running: RunningSlot = found.running_slot().unwrap();
        assert_eq!((running.name(), found.inactive(&running)), (&slot("a"), &slot("b")));
        let mut control = GptControl::new(&found).unwrap();
        control.self_test().unwrap();
        control.disarm(&slot("b"), &running).unwrap();
        let proven = proof(disk.written()).unwrap();
        assert_eq!(proven.transfer(), Transfer::Direct);
        let state = control.arm(proven, Permit::no_lock_configured(), &running).unwrap();
        assert_eq!(control.active().unwrap(), slot("b"));
        let standings = state.slots.iter().map(|slot| slot.standing).collect::<Vec<_>>();
        assert_eq!(standings, [Standing::Good, Standing::Pending { tries_left: 3 }]);

        let file = std::fs::read(disk.image()).unwrap();
        let table = update_engine::boot::gpt::parse(&file).unwrap();
        let entry = &table.entries()[1];
        let start = usize::try_from(entry.start_bytes).unwrap();
        assert!(file[start..][..IMAGE] == image(), "what was written is in the disk's file");
        assert_eq!(entry.attributes.tries().get(), 3);
        disk.open().unwrap();
    }
}

#[test]
fn a_mounted_slot_is_refused_by_the_mount_table_and_by_the_kernel() {
    let disk = disk_or_skip!(512);
    let partition = disk.partition(2);
    let folder = disk.folder.path().join("mnt");
    std::fs::create_dir(&folder).unwrap();
    let (device, at) = (partition.to_str().unwrap(), folder.to_str().unwrap());
    let mounted = run("mke2fs", &["-q", "-F", device]).and_then(|_| run("mount", &[device, at]));
    if let Err(why) = mounted {
        println!("skipped: {why}");
        return;
    }
    let stale = {
        let view = disk.view();
        // A mount table that has lost the mount: only the kernel's own claim is left.
        let path = disk.folder.path().join("proc/self/mountinfo");
        let table = std::fs::read_to_string(&path).unwrap();
        let number = format!(" {} ", disk.number(&partition));
        let kept: Vec<&str> = table.lines().filter(|line| !line.contains(&number)).collect();
        std::fs::write(&path, kept.join("\n")).unwrap();
        Disk::discover_in(&disk.spec(), view).unwrap()
    };
    let by_kernel = InactiveSlot::open(&stale, &slot("b"), &stale.running_slot().unwrap(), &[("root", IMAGE as u64)]);
    let by_table = disk.open();
    run("umount", &[at]).unwrap();
    assert_eq!(refusal(by_table), format!("it is mounted at {at}"));
    assert_eq!(refusal(by_kernel), "something else uses the device (mounted, swap, or held by another program)");
    disk.open().unwrap();
}

#[test]
fn a_slot_in_use_as_swap_or_behind_another_loop_device_is_refused() {
    let disk = disk_or_skip!(512);
    let partition = disk.partition(2);
    let device = partition.to_str().unwrap();
    match run("mkswap", &[device]).and_then(|_| run("swapon", &[device])) {
        Ok(_) => {
            let outcome = disk.open();
            run("swapoff", &[device]).unwrap();
            assert_eq!(refusal(outcome), "it is in use as swap");
        }
        Err(why) => println!("partly skipped: swap: {why}"),
    }
    let second = run("losetup", &["-f", "--show", device]).unwrap();
    let outcome = disk.open();
    run("losetup", &["-d", second.trim()]).unwrap();
    let why = refusal(outcome);
    assert!(why.starts_with("the loop device ") && why.ends_with(" is bound to it"), "{why}");
    disk.open().unwrap();
}

#[test]
fn nobody_else_can_claim_a_slot_that_is_being_written() {
    let disk = disk_or_skip!(512);
    let slot = disk.open().unwrap();
    let claim = File::options().read(true).custom_flags(libc::O_EXCL).open(disk.partition(2));
    assert_eq!(claim.unwrap_err().raw_os_error(), Some(libc::EBUSY));
    let sibling = File::options().read(true).custom_flags(libc::O_EXCL).open(disk.partition(3));
    sibling.unwrap();
    drop(slot);
    File::options().read(true).custom_flags(libc::O_EXCL).open(disk.partition(2)).unwrap();
}

#[test]
fn design_11_9_a_proven_slot_is_read_only_for_everyone_until_it_is_dropped() {
    let disk = disk_or_skip!(512);
    let earlier = File::options().write(true).open(disk.partition(2)).unwrap();
    let written = disk.written();
    earlier.write_all_at(&[0; 512], 0).unwrap();
    earlier.sync_all().unwrap();
    earlier.write_all_at(&image()[..512], 0).unwrap();
    earlier.sync_all().unwrap();
    let proven = proof(written).unwrap();
    let refused = earlier.write_all_at(&[0xFF; 512], 0).and_then(|()| earlier.sync_all());
    assert!(refused.is_err(), "a descriptor that was open before cannot write either");
    assert!(write_to(&disk.partition(2)).is_err(), "nor one that is opened now");
    drop(proven);
    write_to(&disk.partition(2)).unwrap();
}

#[test]
fn a_read_only_flag_left_by_a_killed_proof_is_lifted_for_the_next_write() {
    let disk = disk_or_skip!(512);
    let partition = disk.partition(2);
    run("blockdev", &["--setro", partition.to_str().unwrap()]).unwrap();
    assert!(write_to(&partition).is_err());
    proof(disk.written()).unwrap();
    run("blockdev", &["--setro", partition.to_str().unwrap()]).unwrap();
    let found = disk.disk();
    let running = found.running_slot().unwrap();
    proof(Reopened::open(&found, &slot("b"), &running, &[("root", IMAGE as u64)]).unwrap()).unwrap();
}

#[test]
fn a_proof_reads_the_medium_and_not_the_page_cache() {
    let disk = disk_or_skip!(512);
    let written = disk.written();
    // The page cache of the partition holds the right bytes; under it, the medium changes.
    let mut cached = File::open(disk.partition(2)).unwrap();
    let mut before = vec![0; IMAGE];
    cached.read_exact(&mut before).unwrap();
    let start = update_engine::boot::gpt::parse(&std::fs::read(disk.image()).unwrap()).unwrap().entries()[1].start_bytes;
    let medium = File::options().write(true).open(disk.image()).unwrap();
    medium.write_all_at(&[0xAB; 4096], start + 5 * WINDOW as u64).unwrap();
    medium.sync_all().unwrap();
    let mut after = vec![0; IMAGE];
    cached.seek(SeekFrom::Start(0)).unwrap();
    cached.read_exact(&mut after).unwrap();
    assert!(
        before == after && before == image(),
        "the page cache still shows the old bytes: this is what a plain re-read proves"
    );

    match proof(written).unwrap_err() {
        ProveError::Differs(mismatch) => assert_eq!(mismatch.images()[0].windows, [5]),
        error => panic!("{error}"),
    }
}

#[test]
fn the_whole_disk_shows_what_was_written_through_the_partition() {
    let disk = disk_or_skip!(512);
    let start = update_engine::boot::gpt::parse(&std::fs::read(disk.image()).unwrap()).unwrap().entries()[1].start_bytes;
    // Fills the page cache of the disk's own node with the old bytes.
    let whole = File::open(&disk.device).unwrap();
    let mut bytes = vec![0; IMAGE];
    whole.read_exact_at(&mut bytes, start).unwrap();
    drop(disk.written());
    let digests: Vec<Sha256Digest> = image().chunks(WINDOW).map(Sha256Digest::of).collect();
    let table = ImageTable::new("root", IMAGE as u64, WINDOW as u64, &digests).unwrap();
    let cancel = AtomicBool::new(false);
    let view = SlotView::open(&disk.disk(), &slot("b"), &[("root", IMAGE as u64)]).unwrap();
    assert_eq!(audit(&view, &[table], &Watch::new(2, &cancel, &|_| {})).unwrap(), []);
}

#[test]
fn a_disk_that_was_replaced_under_its_name_is_refused() {
    let disk = disk_or_skip!(512);
    let found = disk.disk();
    let running = found.running_slot().unwrap();
    let device = disk.device.to_str().unwrap();
    run("partx", &["-d", device]).unwrap();
    run("losetup", &["-d", device]).unwrap();
    run("losetup", &[device, disk.image().to_str().unwrap()]).unwrap();
    run("partx", &["-a", device]).unwrap();
    let why = refusal(InactiveSlot::open(&found, &slot("b"), &running, &[("root", IMAGE as u64)]));
    let other_device = "it is another device or file than the one that was found";
    assert!(why == "its disk was replaced by another one" || why == other_device, "{why}");
}

#[test]
fn a_label_that_two_partitions_have_is_refused_whatever_the_size_of_a_sector() {
    for sector in [512, 4096] {
        let mut twice = table(sector);
        twice.partitions[2].0 = "root-b".to_owned();
        let disk = or_skip!(loop_disk_of(&twice));
        let error = Disk::discover_in(&disk.spec(), disk.view()).unwrap_err().to_string();
        let expected =
            format!("slot b: the partitions 2 and 3 of {} are both named \"root-b\"; expected one", disk.device.display());
        assert_eq!(error, expected);
    }
}

#[test]
fn a_slot_that_is_too_small_for_its_image_is_refused_whatever_the_size_of_a_sector() {
    for sector in [512, 4096] {
        let disk = disk_or_skip!(sector);
        let found = disk.disk();
        let running = found.running_slot().unwrap();
        let open = |length: usize| InactiveSlot::open(&found, &slot("b"), &running, &[("root", length as u64)]);
        let before = std::fs::read(disk.image()).unwrap();
        assert_eq!(refusal(open(SLOT + 1)), format!("the image has {} bytes, the slot has room for {SLOT}", SLOT + 1));
        assert!(std::fs::read(disk.image()).unwrap() == before, "something was written");
        open(SLOT).unwrap();
    }
}

#[test]
fn a_slot_of_another_disk_is_refused_whatever_the_size_of_a_sector() {
    for sector in [512, 4096] {
        let disk = disk_or_skip!(sector);
        let mut theirs = table(sector);
        theirs.partitions[1].0 = "root-c".to_owned();
        let other = or_skip!(attach(&theirs, None));
        let error = |target: &str| {
            let mut spec = disk.spec();
            spec.slots[1].images[0].1 = target.parse().unwrap();
            Disk::discover_in(&spec, disk.view()).unwrap_err().to_string()
        };
        let (device, path) = (disk.device.display(), other.partition(2).display().to_string());
        assert_eq!(error(&path), format!("slot b: {path} is not a partition of {device}"));
        let names = "it has \"root-a\", \"root-b\", \"state\"";
        assert_eq!(error("partlabel:root-c"), format!("slot b: {device} has no partition named \"root-c\"; {names}"));
    }
}

#[test]
fn files_on_an_esp_that_is_not_mounted_or_of_another_disk_are_refused_whatever_the_size_of_a_sector() {
    for sector in [512, 4096] {
        let disk = disk_or_skip!(sector);
        let other = or_skip!(attach(&table(sector), None));
        let found = |esp: &Path| {
            let mut spec = DiskSpec { esp: esp.to_path_buf(), ..disk.spec() };
            for slot in &mut spec.slots {
                slot.images.push(("kernel".to_owned(), "esp:/ota/{slot}.efi".parse().unwrap()));
            }
            Disk::discover_in(&spec, disk.view()).map_err(|error| error.to_string())
        };
        let at = disk.folder.path().join("esp");
        std::fs::create_dir(&at).unwrap();
        let shown = at.display().to_string();
        assert_eq!(found(&at).unwrap_err(), format!("slot a: nothing is mounted at {shown} (disk.esp), expected the ESP"));
        {
            let _theirs = or_skip!(Mounted::new(&other.partition(3), at.clone()));
            assert_eq!(found(&at).unwrap_err(), format!("slot a: {shown} is not a partition of {}", disk.device.display()));
        }
        let _own = or_skip!(Mounted::new(&disk.partition(3), at.clone()));
        let below = at.join("lost+found");
        let words = format!("slot a: nothing is mounted at {} (disk.esp), expected the ESP", below.display());
        assert_eq!(found(&below).unwrap_err(), words);
        let file = found(&at).unwrap().targets_of(&slot("b")).last().unwrap().place.path().to_path_buf();
        assert_eq!(file, at.join("ota/b.efi"));
    }
}

#[test]
fn bytes_of_the_whole_disk_that_lie_in_a_slot_are_told_from_those_between_the_partitions() {
    for sector in [512, 4096] {
        let disk = disk_or_skip!(sector);
        let found = disk.disk();
        let holder =
            |path: &Path, offset: i64| found.holder_of_bytes(path, offset, 0x4000).unwrap().map(|target| target.slot.clone());
        let start = |partition: usize| {
            let table = update_engine::boot::gpt::parse(&std::fs::read(disk.image()).unwrap()).unwrap();
            i64::try_from(table.entries()[partition].start_bytes).unwrap()
        };
        assert_eq!(holder(&disk.device, start(0) - 0x4000), None);
        assert_eq!(holder(&disk.device, start(0) - 0x3FFF), Some(slot("a")));
        assert_eq!(holder(&disk.device, start(2) - 1), Some(slot("b")));
        assert_eq!(holder(&disk.device, start(2)), None);
        assert_eq!(holder(&disk.device, -0x4000), None);
        assert_eq!(holder(&disk.partition(2), 0), Some(slot("b")));
        assert_eq!(holder(&disk.partition(3), -0x4000), None);
        let mounted = or_skip!(Mounted::new(&disk.partition(2), disk.folder.path().join("mnt")));
        let file = mounted.0.join("uboot.env");
        std::fs::write(&file, [0; 16]).unwrap();
        let found = disk.disk();
        let target = found.holder_of_bytes(&file, 0, 16).unwrap().unwrap();
        assert_eq!(target.slot, slot("b"));
    }
}

#[test]
fn a_disk_whose_partitions_the_kernel_does_not_know_says_so() {
    let disk = disk_or_skip!(512);
    run("partx", &["-d", "--nr", "2", disk.device.to_str().unwrap()]).unwrap();
    let error = Disk::discover_in(&disk.spec(), disk.view()).unwrap_err().to_string();
    assert!(error.contains("the kernel knows no partition of") && error.contains("\"root-b\""), "{error}");
}

#[test]
fn design_11_11_a_block_device_wants_the_real_root_and_facts_that_name_a_slot() {
    let disk = disk_or_skip!(512);
    let elsewhere = DiskSpec { sysroot: "/tmp".into(), ..disk.spec() };
    let error = Disk::discover(&elsewhere).unwrap_err().to_string();
    assert!(error.ends_with("is a block device, so sysroot has to be \"/\", got /tmp"), "{error}");
    let partition = DiskSpec { device: disk.partition(1), ..disk.spec() };
    assert!(Disk::discover(&partition).unwrap_err().to_string().ends_with("is a partition, expected a whole disk"));
    // The machine that runs this test does not run from the loop device.
    let error = Disk::discover(&disk.spec()).unwrap().running_slot().unwrap_err().to_string();
    assert!(error.starts_with("cannot tell which slot runs: neither / nor /usr rests on a slot of"), "{error}");
}

#[test]
fn slots_named_by_device_nodes_are_the_partitions_they_are() {
    let disk = disk_or_skip!(512);
    let by_path = |number: u32| disk.partition(number).to_str().unwrap().parse().unwrap();
    let mut spec = disk.spec();
    spec.slots[0].images[0].1 = by_path(1);
    spec.slots[1].images[0].1 = by_path(2);
    let found = Disk::discover_in(&spec, disk.view()).unwrap();
    assert_eq!(found.targets()[1].partition.as_ref().unwrap().label, "root-b");
    GptControl::new(&found).unwrap().self_test().unwrap();
    assert_eq!(found.running_slot().unwrap().name(), &slot("a"));
}

#[test]
fn an_image_file_whose_slot_is_mounted_through_a_loop_device_is_refused() {
    let disk = disk_or_skip!(512);
    let sysroot = disk.folder.path().join("sysroot");
    std::fs::create_dir_all(sysroot.join("proc")).unwrap();
    std::fs::write(sysroot.join("proc/cmdline"), "root=PARTLABEL=root-a").unwrap();
    let spec = DiskSpec { device: disk.image(), sysroot, ..disk.spec() };
    let found = Disk::discover(&spec).unwrap();
    assert_eq!(found.mode(), Mode::Image);
    let running = found.running_slot().unwrap();
    let open = || InactiveSlot::open(&found, &slot("b"), &running, &[("root", IMAGE as u64)]);
    open().unwrap();

    let folder = disk.folder.path().join("mnt");
    std::fs::create_dir(&folder).unwrap();
    let (partition, at) = (disk.partition(2), folder.to_str().unwrap());
    let device = partition.to_str().unwrap();
    let mounted = run("mke2fs", &["-q", "-F", device]).and_then(|_| run("mount", &[device, at]));
    if let Err(why) = mounted {
        println!("skipped: {why}");
        return;
    }
    let outcome = open();
    run("umount", &[at]).unwrap();
    let why = refusal(outcome);
    assert!(why.starts_with("the loop device ") && why.ends_with(&format!("shows it, and it is mounted at {at}")), "{why}");
}

/// A file system on a medium that has less room than it says, mounted; writes are accepted and fail when they are flushed.
struct LyingMedium {
    folder: tempfile::TempDir,
    device: String,
    _turn: std::sync::MutexGuard<'static, ()>,
}

fn lying_medium() -> Result<LyingMedium, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root for loop devices".to_owned());
    }
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let [memory, mounted] = ["memory", "mounted"].map(|name| folder.path().join(name));
    std::fs::create_dir(&memory).unwrap();
    std::fs::create_dir(&mounted).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=2M", "tmpfs", memory.to_str().unwrap()])?;
    let backing = memory.join("backing");
    File::create(&backing).unwrap().set_len(64 * MIB as u64).unwrap();
    let device = run("losetup", &["-f", "--show", backing.to_str().unwrap()]).map(|name| name.trim().to_owned());
    let medium = LyingMedium { folder, device: device.unwrap_or_default(), _turn: turn };
    run("mke2fs", &["-q", "-F", "-N", "64", &medium.device])?;
    run("mount", &[&medium.device, mounted.to_str().unwrap()])?;
    Ok(medium)
}

impl Drop for LyingMedium {
    fn drop(&mut self) {
        let _ = run("umount", &[self.folder.path().join("mounted").to_str().unwrap()]);
        let _ = run("losetup", &["-d", &self.device]);
        let _ = run("umount", &[self.folder.path().join("memory").to_str().unwrap()]);
    }
}

/// Slot b of a disk on it, open for writing. An odd start: it is written through the page cache, which takes everything.
fn slot_on(medium: &LyingMedium) -> InactiveSlot {
    let folder = medium.folder.path().join("mounted");
    let mut builder = table(512);
    builder.first = 35;
    let file = File::create(folder.join("disk.img")).unwrap();
    let bytes = builder.build();
    file.set_len(bytes.len() as u64).unwrap();
    for (number, block) in bytes.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|&byte| byte != 0)) {
        file.write_all_at(block, number as u64 * 4096).unwrap();
    }
    file.sync_all().unwrap();
    std::fs::create_dir(folder.join("proc")).unwrap();
    std::fs::write(folder.join("proc/cmdline"), "root=PARTLABEL=root-a").unwrap();
    let by_label = |name: &str| SlotSpec {
        name: name.parse().unwrap(),
        images: vec![("root".to_owned(), format!("partlabel:root-{name}").parse().unwrap())],
    };
    let spec = DiskSpec {
        device: folder.join("disk.img"),
        sysroot: folder.clone(),
        esp: "/efi".into(),
        slots: vec![by_label("a"), by_label("b")],
    };
    let disk = Disk::discover(&spec).unwrap();
    let open = InactiveSlot::open(&disk, &slot("b"), &disk.running_slot().unwrap(), &[("root", IMAGE as u64)]).unwrap();
    assert_eq!(open.transfer(), Transfer::Cached);
    open
}

#[test]
fn a_failed_flush_means_starting_over_and_never_a_written_slot() {
    let medium = match lying_medium() {
        Ok(medium) => medium,
        Err(why) => {
            println!("skipped: {why}");
            return;
        }
    };
    let open = slot_on(&medium);
    let image = image();
    let window = Window { offset: 0, bytes: &image[..IMAGE / 4096 * 4096] };
    open.write_window("root", &window).unwrap();
    let lost = open.flush().unwrap_err();
    assert!(matches!(lost, SlotError::FlushLost { .. }), "{lost:?}");
    // The kernel reports a lost write once; after that every answer has to come from us.
    assert!(matches!(open.write_window("root", &window), Err(SlotError::FlushLost { .. })));
    assert!(matches!(open.flush(), Err(SlotError::FlushLost { .. })));
    let words = open.finish().unwrap_err().to_string();
    assert!(words.ends_with("counts as lost, so the slot has to be started over"), "{words}");
}

/// What nobody flushed is not known to be lost.
#[test]
fn a_slot_is_flushed_before_it_counts_as_written() {
    let medium = match lying_medium() {
        Ok(medium) => medium,
        Err(why) => {
            println!("skipped: {why}");
            return;
        }
    };
    let open = slot_on(&medium);
    let image = image();
    open.write_window("root", &Window { offset: 0, bytes: &image[..IMAGE / 4096 * 4096] }).unwrap();
    let lost = open.finish().unwrap_err();
    assert!(matches!(lost, SlotError::FlushLost { .. }), "{lost:?}");
}
