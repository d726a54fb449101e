//! `dist/u-boot/boot.cmd`, run by a real U-Boot: what it starts, and what it leaves, is what the pairs say.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::environment::{Environment, Layout, Stored};
use super::variables::{read, write};
use crate::boot::Standing;
use crate::boot::pair::{Loaded, Pair, TRIES, every_pair};
use crate::slot::SlotName;

const SCRIPT: &str = include_str!("../../../../dist/u-boot/boot.cmd");
/// Debian's package u-boot-qemu.
const U_BOOT: &str = "/usr/lib/u-boot/qemu-x86/u-boot.rom";
const QEMU: &str = "qemu-system-i386";
/// Where in the machine's memory, which is a file, environment and script lie.
const ENVIRONMENT_AT: u64 = 0x300_0000;
const SCRIPT_AT: u64 = 0x310_0000;
const SIZE: usize = 0x1000;
/// That U-Boot has no place of its own for an environment, so it is saved where this reads it: with its checksum, as on a medium.
const SAVES: &str = "env export -c -s 0x1000 0x3000000";
/// A medium that cannot be written.
const DOES_NOT_SAVE: &str = "false";

/// What of `boot.cmd` is left behind in U-Boot's memory, and in no environment that is saved.
const OF_THE_SCRIPT: [&str; 4] = ["ota_start", "ota_left", "ota_order", "ota_get"];

fn slots() -> [SlotName; 2] {
    ["a", "b"].map(|name| name.parse().unwrap())
}

fn names(of_a: &str, of_b: &str) -> [String; 2] {
    [of_a.to_owned(), of_b.to_owned()]
}

fn is_missing() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_qemu = std::env::split_paths(&path).any(|folder| folder.join(QEMU).is_file());
    let missing: Vec<&str> = [(has_qemu, "qemu-system-x86"), (Path::new(U_BOOT).is_file(), "u-boot-qemu")]
        .into_iter()
        .filter_map(|(is_there, package)| (!is_there).then_some(package))
        .collect();
    (!missing.is_empty()).then(|| format!("these packages are not installed: {}", missing.join(" ")))
}

/// The text in the form in which U-Boot sources it: `mkimage -T script -C none`.
fn image(text: &str) -> Vec<u8> {
    let lengths = [u32::try_from(text.len()).unwrap().to_be_bytes(), [0; 4]].concat();
    let data = [&lengths, text.as_bytes()].concat();
    let header = |checksum: u32| {
        let length = u32::try_from(data.len()).unwrap();
        let words = [0x2705_1956, checksum, 0, length, 0, 0, crc32fast::hash(&data)];
        let mut header: Vec<u8> = words.into_iter().flat_map(u32::to_be_bytes).collect();
        // Linux, PowerPC (which nobody asks of a script), a script, not compressed; then 32 bytes for its name.
        header.extend([5, 2, 6, 0]);
        header.resize(64, 0);
        header
    };
    [header(crc32fast::hash(&header(0))), data].concat()
}

/// One start of a machine whose U-Boot runs the script: which slot is started, and the environment that was saved then.
fn boot(environment: &Environment, names: &[String], saveenv: &str) -> (String, Environment) {
    let folder = tempfile::tempdir().unwrap();
    let memory = folder.path().join("memory");
    let mut given = environment.clone();
    for name in names {
        given.set(&format!("ota_boot_{name}"), &format!("echo started {name}; reset"));
    }
    let file = fs::File::create(&memory).unwrap();
    file.set_len(128 << 20).unwrap();
    let bytes = Stored { flags: 0, environment: given }.to_bytes(Layout::Single, SIZE).unwrap();
    file.write_all_at(&bytes, ENVIRONMENT_AT).unwrap();
    file.write_all_at(&image(&SCRIPT.replace("saveenv", saveenv)), SCRIPT_AT).unwrap();

    let console = run(&memory);
    let started = console.lines().find_map(|line| line.trim().strip_prefix("started "));
    let started = started.unwrap_or_else(|| panic!("nothing was started: {console}")).to_owned();
    let saved = fs::File::open(&memory).unwrap();
    let mut bytes = vec![0; SIZE];
    saved.read_exact_at(&mut bytes, ENVIRONMENT_AT).unwrap();
    let mut saved = Stored::parse(&bytes, Layout::Single).unwrap_or_else(|error| panic!("{error}: {console}")).environment;
    for name in OF_THE_SCRIPT {
        assert!(saved.get(name).is_none(), "{name} is saved: {saved:?}");
    }
    names.iter().for_each(|name| saved.unset(&format!("ota_boot_{name}")));
    (started, saved)
}

/// What U-Boot says until it resets the machine. What is typed before it listens is lost: that is empty lines.
fn run(memory: &Path) -> String {
    let backend = format!("memory-backend-file,id=ram,size=128M,share=on,mem-path={}", memory.display());
    let mut qemu = Command::new("timeout")
        .args(["120", QEMU, "-machine", "q35,memory-backend=ram", "-m", "128", "-object", &backend, "-bios", U_BOOT])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none", "-no-reboot"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let typed = format!("{}env import -c {ENVIRONMENT_AT:#x} {SIZE:#x}; source {SCRIPT_AT:#x}\n", "\n".repeat(64));
    let mut keyboard = qemu.stdin.take().unwrap();
    keyboard.write_all(typed.as_bytes()).unwrap();
    let output = qemu.wait_with_output().unwrap();
    drop(keyboard);
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{console}{}", String::from_utf8_lossy(&output.stderr));
    console
}

/// How a disk is, on which this pair was written; the loader has said already that it is there.
fn written(pair: &Pair, names: &[String; 2]) -> Environment {
    let mut environment = Environment::default();
    environment.set("ota_loader", "1");
    environment.set("ota_names", &names.join(" "));
    write(&mut environment, pair, names).unwrap();
    environment
}

#[test]
fn the_script_starts_what_every_pair_says_and_spends_tries_whatever_the_slots_are_called() {
    if let Some(why) = is_missing() {
        return println!("skipped: {why}");
    }
    for pair in every_pair(TRIES) {
        for names in [names("A", "B"), names("system0", "system1")] {
            let environment = written(&pair, &names);
            let (started, after) = boot(&environment, &names, SAVES);
            let (slot, expected) = pair.clone().boot();
            let started = slots()[names.iter().position(|name| *name == started).unwrap()].clone();
            assert_eq!(started, slot, "{environment:?}");
            assert_eq!(read(&after, &slots(), &names).unwrap(), Loaded::from(expected), "{environment:?}");
        }
    }
}

#[test]
fn a_try_that_cannot_be_saved_is_not_made() {
    if let Some(why) = is_missing() {
        return println!("skipped: {why}");
    }
    let (names, [a, b]) = (names("one", "two"), slots());
    let armed = written(&Pair::factory(slots(), TRIES).arm(&b, &a), &names);
    let (started, after) = boot(&armed, &names, DOES_NOT_SAVE);
    assert_eq!((started.as_str(), after), ("one", armed));
}

#[test]
fn on_a_factory_disk_the_script_starts_the_first_slot_and_says_that_it_is_there() {
    if let Some(why) = is_missing() {
        return println!("skipped: {why}");
    }
    for (names, said) in [(names("A", "B"), None), (names("one", "two"), Some("one two"))] {
        let mut environment = Environment::default();
        said.into_iter().for_each(|said| environment.set("ota_names", said));
        let (started, after) = boot(&environment, &names, SAVES);
        assert_eq!((&started, after.get("ota_loader")), (&names[0], Some(b"1".as_slice())));
        let pair = read(&after, &slots(), &names).unwrap().pair;
        assert!(pair.slots.iter().all(|(_, standing)| *standing == Standing::Blank), "{pair}");
    }
}
