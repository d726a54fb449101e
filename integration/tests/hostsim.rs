//! `hostsim` against the engine's own reading of the same disks, and as the program that a daemon restarts its host with.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use integration::hostsim::gpt::{Gpt, bits};
use integration::hostsim::image::{DiskSpec, PartitionSpec, make_disk, write_slot};
use integration::hostsim::{BootPlan, Booted, Error, boot, content, loader};
use manifests::digest::Sha256Digest;
use update_engine::boot::gpt::{GptControl, Redundancy, parse};
use update_engine::boot::{BootControl, BootError, Permit, Standing};
use update_engine::slot::readback::{Acceptance, prove};
use update_engine::slot::{self, Disk, ImageTable, InactiveSlot, Proven, SlotSpec, VerifiedBytes, Watch};

const MIB: u64 = 1 << 20;

/// A host that is a disk image and a folder.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new(sector: u64) -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        let partitions = ["ESP", "root-a", "root-b", "state"].map(|label| PartitionSpec::new(label, MIB));
        make_disk(&host.image(), &DiskSpec { sector, guid: None, partitions: partitions.to_vec(), first_sector: None }).unwrap();
        host.flash("root-a", "1.0.0");
        host
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    fn sysroot(&self) -> PathBuf {
        self.folder.path().join("sysroot")
    }

    /// Puts a test image into a slot, as a factory does.
    fn flash(&self, label: &str, version: &str) {
        let file = self.folder.path().join("flash");
        std::fs::write(&file, system(version)).unwrap();
        write_slot(&self.image(), label, &file).unwrap();
    }

    fn plan(&self, failing_starts: u32) -> BootPlan {
        let slots = [("a", "root-a"), ("b", "root-b")].map(|(name, label)| (name.to_owned(), label.to_owned()));
        BootPlan { image: self.image(), sysroot: self.sysroot(), slots: slots.to_vec(), failing_starts }
    }

    fn boot(&self) -> Booted {
        boot(&self.plan(0)).unwrap()
    }

    fn shown(&self, path: &str) -> String {
        std::fs::read_to_string(self.sysroot().join(path)).unwrap()
    }

    fn disk(&self) -> Disk {
        let slots = ["a", "b"].map(|name| SlotSpec {
            name: name.parse().unwrap(),
            images: vec![("root".to_owned(), format!("partlabel:root-{name}").parse().unwrap())],
        });
        Disk::discover(&slot::DiskSpec {
            device: self.image(),
            sysroot: self.sysroot(),
            esp: "/efi".into(),
            slots: slots.to_vec(),
        })
        .unwrap()
    }

    /// Installs a version into the slot that does not run, with the engine's own steps.
    fn install(&self, version: &str) -> Proven {
        let (disk, bytes) = (self.disk(), system(version));
        let running = disk.running_slot().unwrap();
        let size = bytes.len() as u64;
        let digests: Vec<Sha256Digest> = bytes.chunks(4096).map(Sha256Digest::of).collect();
        let open = InactiveSlot::open(&disk, disk.inactive(&running), &running, &[("root", size)]).unwrap();
        open.write_window("root", &Verified(&bytes)).unwrap();
        let table = ImageTable::new("root", size, 4096, &digests).unwrap();
        let cancel = false.into();
        let watch = Watch::new(2, &cancel, &|_| {});
        prove(open.finish().unwrap(), [1; 32], &[table], Acceptance::EveryWindow, &watch).unwrap()
    }

    /// Priority, tries, successful of both slots.
    fn bits(&self) -> [(u64, u64, bool); 2] {
        let gpt = Gpt::open(&self.image()).unwrap();
        ["root-a", "root-b"].map(|label| {
            let entry = gpt.entry(label).unwrap();
            (entry.priority(), entry.tries(), entry.successful())
        })
    }
}

struct Verified<'a>(&'a [u8]);

impl VerifiedBytes for Verified<'_> {
    fn image_offset(&self) -> u64 {
        0
    }

    fn bytes(&self) -> &[u8] {
        self.0
    }
}

fn system(version: &str) -> Vec<u8> {
    content::test_image(&[&format!("IMAGE_VERSION={version}"), "FLOOR=4", "KEY.ops.pub=AAAA ops"], 100_001).unwrap()
}

#[test]
fn an_update_is_armed_by_the_engine_tried_by_the_loader_and_marked_good() {
    for sector in [512, 4096] {
        let host = Host::new(sector);
        let first = host.boot();
        assert_eq!((first.slot.as_str(), first.version.as_str()), ("a", "1.0.0"));
        let running = host.disk().running_slot().unwrap();
        let mut control = GptControl::new(&host.disk()).unwrap();
        control.disarm(&"b".parse().unwrap(), &running).unwrap();
        control.arm(host.install("2.0.0"), Permit::no_lock_configured(), &running).unwrap();
        assert_eq!(host.bits(), [(1, 0, true), (2, 3, false)]);

        let trial = host.boot();
        assert_eq!((trial.slot.as_str(), trial.version.as_str()), ("b", "2.0.0"));
        assert_eq!(host.bits(), [(1, 0, true), (2, 2, false)]);
        assert_ne!(first.boot_id, trial.boot_id);
        assert_eq!(host.shown("proc/sys/kernel/random/boot_id").trim(), trial.boot_id);
        assert_eq!(host.shown("etc/os-release"), "IMAGE_VERSION=2.0.0\n");
        assert_eq!(host.shown("usr/share/update-engine/floor"), "4\n");
        assert_eq!(host.shown("usr/share/update-engine/keys/ops.pub"), "AAAA ops\n");

        let running = host.disk().running_slot().unwrap();
        assert_eq!(running.name().as_str(), "b");
        control.mark_good(&running).unwrap();
        assert_eq!(host.bits(), [(1, 0, true), (2, 0, true)]);
        assert_eq!(host.boot().slot, "b", "a good slot is not counted");
        assert_eq!(host.bits(), [(1, 0, true), (2, 0, true)]);
    }
}

#[test]
fn p8_a_slot_that_does_not_start_is_given_up_after_its_tries() {
    let host = Host::new(512);
    host.boot();
    let running = host.disk().running_slot().unwrap();
    let mut control = GptControl::new(&host.disk()).unwrap();
    control.arm(host.install("2.0.0"), Permit::no_lock_configured(), &running).unwrap();
    let booted = boot(&host.plan(3)).unwrap();
    assert_eq!(booted.slot, "a");
    assert_eq!(host.bits(), [(1, 0, true), (2, 0, false)]);
    let starts = booted.log.iter().filter(|line| line.contains("slot b does not start: told to fail")).count();
    assert_eq!(starts, 3, "{:#?}", booted.log);
    let state = control.read().unwrap();
    assert_eq!(state.slots[1].standing, Standing::Spent);
}

#[test]
fn design_11_18_two_power_cuts_during_the_trial_do_not_roll_back() {
    let host = Host::new(512);
    host.boot();
    let running = host.disk().running_slot().unwrap();
    GptControl::new(&host.disk()).unwrap().arm(host.install("2.0.0"), Permit::no_lock_configured(), &running).unwrap();
    assert_eq!(boot(&host.plan(2)).unwrap().slot, "b");
    assert_eq!(host.bits(), [(1, 0, true), (2, 0, false)]);
    let running = host.disk().running_slot().unwrap();
    GptControl::new(&host.disk()).unwrap().mark_good(&running).unwrap();
    assert_eq!(host.boot().slot, "b");
}

#[test]
fn a_failed_trial_marked_bad_goes_back_at_once() {
    let host = Host::new(512);
    host.boot();
    let running = host.disk().running_slot().unwrap();
    let mut control = GptControl::new(&host.disk()).unwrap();
    control.arm(host.install("2.0.0"), Permit::no_lock_configured(), &running).unwrap();
    assert_eq!(host.boot().slot, "b");
    let running = host.disk().running_slot().unwrap();
    control.mark_bad(&running).unwrap();
    let refused = control.disarm(&"a".parse().unwrap(), &running);
    assert!(matches!(refused, Err(BootError::Refused { .. })), "the way back stays");
    assert_eq!(host.boot().slot, "a");
}

#[test]
fn p1_a_slot_with_half_an_image_is_left_by_the_loader() {
    let host = Host::new(512);
    host.boot();
    let mut gpt = Gpt::open(&host.image()).unwrap();
    let [a, b] = ["root-a", "root-b"].map(|label| gpt.entry(label).unwrap().index);
    gpt.set_bits(a, bits(1, 0, true)).unwrap();
    gpt.set_bits(b, bits(2, 3, false)).unwrap();
    drop(gpt);
    let booted = host.boot();
    assert_eq!(booted.slot, "a");
    assert!(booted.log[1].starts_with("slot b does not start: it holds no system"), "{:#?}", booted.log);
}

#[test]
fn a_host_on_which_nothing_starts_says_what_was_tried() {
    let host = Host::new(512);
    host.flash("root-a", "x\nBOOT=panic");
    match boot(&host.plan(0)).unwrap_err() {
        Error::NothingBoots { attempts: 64, log } => assert!(log.contains("slot a does not start: kernel panic"), "{log}"),
        other => panic!("{other}"),
    }
}

/// Both read the same tables, choose the same slots, and take each other's copies for valid.
#[test]
fn two_independent_readers_agree_on_every_table() {
    let mut seed = 7_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for sector in [512, 4096] {
        let host = Host::new(sector);
        host.boot();
        let mut control = GptControl::new(&host.disk()).unwrap();
        for _ in 0..50 {
            let mut gpt = Gpt::open(&host.image()).unwrap();
            for label in ["root-a", "root-b"] {
                let wanted = bits(random(4) * 5, random(4), random(2) == 1) | random(1 << 48) | random(128) << 57;
                let index = gpt.entry(label).unwrap().index;
                gpt.set_bits(index, wanted).unwrap();
            }
            let slots = loader::slots(&gpt, &host.plan(0).slots).unwrap();
            let choice = loader::choose(&slots).unwrap().name;
            let before = gpt.entries();
            drop(gpt);
            let table = parse(&std::fs::read(host.image()).unwrap()).unwrap();
            assert_eq!(table.redundancy(), Redundancy::Full);
            let ours: Vec<_> = table.entries().iter().map(|e| (e.label.clone(), e.attributes.to_bits())).collect();
            let theirs: Vec<_> = before.iter().map(|e| (e.label.clone(), e.bits)).collect();
            assert_eq!(ours, theirs);
            assert_eq!(control.active().unwrap().as_str(), choice);
            control.self_test().unwrap();
            let gpt = Gpt::open(&host.image()).unwrap();
            assert!(gpt.copies().iter().all(|copy| copy.fault.is_none()));
            assert_eq!(gpt.entries(), before);
        }
    }
}

#[test]
fn a_table_with_a_broken_copy_boots_and_is_mended_by_spending_a_try() {
    let host = Host::new(512);
    let mut gpt = Gpt::open(&host.image()).unwrap();
    let index = gpt.entry("root-a").unwrap().index;
    gpt.set_bits(index, bits(1, 5, false)).unwrap();
    drop(gpt);
    let mut bytes = std::fs::read(host.image()).unwrap();
    bytes[512..520].fill(0);
    std::fs::write(host.image(), bytes).unwrap();
    assert_eq!(host.boot().slot, "a");
    let gpt = Gpt::open(&host.image()).unwrap();
    assert!(gpt.copies().iter().all(|copy| copy.fault.is_none()));
    assert_eq!(gpt.entry("root-a").unwrap().tries(), 4);
}

fn has(program: &str) -> bool {
    Command::new(program).arg("-V").output().is_ok()
}

#[test]
fn a_file_system_in_a_slot_shows_its_own_files() {
    if !has("mke2fs") || !has("debugfs") {
        println!("skipped: mke2fs and debugfs (e2fsprogs) are not installed");
        return;
    }
    let host = Host::new(512);
    let tree = host.folder.path().join("tree");
    for folder in ["etc", "usr/lib", "usr/share/update-engine/keys"] {
        std::fs::create_dir_all(tree.join(folder)).unwrap();
    }
    std::fs::write(tree.join("usr/lib/os-release"), "ID=demo\nIMAGE_VERSION=\"3.1\"\n").unwrap();
    std::os::unix::fs::symlink("../usr/lib/os-release", tree.join("etc/os-release")).unwrap();
    std::fs::write(tree.join("usr/share/update-engine/keys/a.pub"), "key a\n").unwrap();
    let file = host.folder.path().join("fs");
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&file).arg("1M").status().unwrap();
    assert!(made.success());
    write_slot(&host.image(), "root-a", &file).unwrap();
    // What an earlier system showed and this one does not have must go.
    std::fs::create_dir_all(host.sysroot().join("usr/share/update-engine/keys")).unwrap();
    std::fs::write(host.sysroot().join("usr/share/update-engine/keys/old.pub"), "old").unwrap();
    std::fs::write(host.sysroot().join("usr/share/update-engine/floor"), "9").unwrap();
    let booted = host.boot();
    assert_eq!(booted.version, "3.1");
    assert_eq!(host.shown("etc/os-release"), "ID=demo\nIMAGE_VERSION=\"3.1\"\n");
    assert_eq!(host.shown("usr/share/update-engine/keys/a.pub"), "key a\n");
    assert!(!host.sysroot().join("usr/share/update-engine/keys/old.pub").exists());
    assert!(!host.sysroot().join("usr/share/update-engine/floor").exists());
}

#[test]
fn disks_made_here_are_right_in_the_eyes_of_other_tools() {
    if !has("sgdisk") {
        println!("skipped: sgdisk (gdisk) is not installed");
        return;
    }
    let host = Host::new(512);
    let verdict = Command::new("sgdisk").arg("-v").arg(host.image()).output().unwrap();
    let verdict = String::from_utf8_lossy(&verdict.stdout).into_owned();
    assert!(verdict.contains("No problems found"), "{verdict}");
    host.boot();
    let running = host.disk().running_slot().unwrap();
    GptControl::new(&host.disk()).unwrap().arm(host.install("2.0.0"), Permit::no_lock_configured(), &running).unwrap();
    let verdict = Command::new("sgdisk").args(["-v", "-i", "3"]).arg(host.image()).output().unwrap();
    let verdict = String::from_utf8_lossy(&verdict.stdout).into_owned();
    assert!(verdict.contains("No problems found") && verdict.contains("Attribute flags: 0032000000000000"), "{verdict}");
}

fn hostsim(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hostsim")).args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn the_same_request_makes_the_same_disk_and_never_over_another() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let path = folder.path().join(name);
        let answer =
            hostsim(&["mkimage", "--image", path.to_str().unwrap(), "--root", "1M", "--state", "1M", "--sector", "4096"]);
        (answer, std::fs::read(path).unwrap())
    };
    let ((made, words), first) = make("one");
    assert!(made && words.starts_with("primary copy: valid"), "{words}");
    assert!(first == make("two").1);
    let ((made, words), _) = make("one");
    assert!(!made && words.contains("cannot create") && words.contains("File exists"), "{words}");
}

#[test]
fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
    let host = Host::new(512);
    let (image, sysroot) = (host.image(), host.sysroot());
    let table = ["table", "--image", image.to_str().unwrap()];
    let json = ["table", "--json", "--image", image.to_str().unwrap()];
    let boot = ["boot", "--image", image.to_str().unwrap(), "--sysroot", sysroot.to_str().unwrap()];
    for arguments in [&table[..], &json, &boot] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_hostsim")).args(arguments).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{arguments:?}");
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hostsim")).args(table).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stderr, b"hostsim: cannot write to stdout: No space left on device (os error 28)\n");
}

fn wait_for(path: &Path) -> String {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        if let Ok(text) = std::fs::read_to_string(path)
            && text.ends_with('\n')
        {
            return text;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} was not written in time", path.display());
}

#[test]
fn as_reboot_command_it_answers_at_once_boots_after_its_caller_went_and_becomes_the_next_daemon() {
    let host = Host::new(512);
    let path = |name: &str| host.folder.path().join(name).display().to_string();
    // The old daemon asks for the restart and then takes its time to go.
    let script = format!(
        "{} boot --image {} --sysroot {} --pid-file {} --log {} --start sh -c 'echo pid $$ > {}; cp {}/proc/cmdline {}' \
         && test ! -e {}/proc/cmdline && sleep 0.4 && test ! -e {}/proc/cmdline && echo went-last > {}",
        env!("CARGO_BIN_EXE_hostsim"),
        path("disk.img"),
        path("sysroot"),
        path("pid"),
        path("log"),
        path("new"),
        path("sysroot"),
        path("seen"),
        path("sysroot"),
        path("sysroot"),
        path("old"),
    );
    let old = Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(old.success(), "the command returned 0 and nothing was booted while its caller ran");
    let new = wait_for(Path::new(&path("new")));
    assert_eq!(format!("pid {}", wait_for(Path::new(&path("pid")))), new, "the number in the file is the new daemon's");
    assert!(wait_for(Path::new(&path("seen"))).starts_with("root=PARTUUID="), "it starts on the booted system");
    assert_eq!(wait_for(Path::new(&path("old"))), "went-last\n");
    assert!(wait_for(Path::new(&path("log"))).contains("slot a runs version 1.0.0"));
}

#[test]
fn a_caller_that_does_not_go_is_not_booted_over() {
    let host = Host::new(512);
    let path = |name: &str| host.folder.path().join(name).display().to_string();
    let (image, sysroot, log, pid) = (path("disk.img"), path("sysroot"), path("log"), path("pid"));
    let (accepted, words) = hostsim(&[
        "boot",
        "--image",
        &image,
        "--sysroot",
        &sysroot,
        "--log",
        &log,
        "--pid-file",
        &pid,
        "--patience",
        "0",
        "--start",
        "true",
    ]);
    assert!(accepted, "{words}");
    let log = wait_for(Path::new(&log));
    assert!(log.contains("still runs after 0 s: not booted"), "{log}");
    assert!(!Path::new(&sysroot).join("proc/cmdline").exists() && !Path::new(&pid).exists());
}
