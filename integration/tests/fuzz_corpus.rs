//! The committed seeds of the fuzz targets, replayed under the stable compiler: what a fuzzer once found stays found.
//!
//! The targets are the fuzzer's own (`fuzz/src`), taken in by path, so that this test needs neither a nightly compiler nor libFuzzer.
//! Each seed is also tried with a few changes, the same ones in every run; `FUZZ_ROUNDS=100000` tries more of them.

// The targets are test code that stands outside of test functions: what breaks a promise panics, what makes inputs may be lossy.
#![allow(clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
// Some of what they offer is for the program that makes the seeds.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[path = "../../fuzz/src/autoboot.rs"]
mod autoboot;
#[path = "../../fuzz/src/config.rs"]
mod config;
#[path = "../../fuzz/src/custom.rs"]
mod custom;
#[path = "../../fuzz/src/efi.rs"]
mod efi;
#[path = "../../fuzz/src/fleetlock.rs"]
mod fleetlock;
#[path = "../../fuzz/src/folder.rs"]
mod folder;
#[path = "../../fuzz/src/gpt.rs"]
mod gpt;
#[path = "../../fuzz/src/grub.rs"]
mod grub;
#[path = "../../fuzz/src/host.rs"]
mod host;
#[path = "../../fuzz/src/http.rs"]
mod http;
#[path = "../../fuzz/src/install.rs"]
mod install;
#[path = "../../fuzz/src/keys.rs"]
mod keys;
#[path = "../../fuzz/src/omaha.rs"]
mod omaha;
#[path = "../../fuzz/src/payload_file.rs"]
mod payload_file;
#[path = "../../fuzz/src/record.rs"]
mod record;
#[path = "../../fuzz/src/slots.rs"]
mod slots;
#[path = "../../fuzz/src/systemd_boot.rs"]
mod systemd_boot;
#[path = "../../fuzz/src/trial.rs"]
mod trial;
#[path = "../../fuzz/src/uboot.rs"]
mod uboot;

type Target = fn(&[u8]);

/// Changed inputs tried for each seed.
const ROUNDS: u32 = 40;

const TARGETS: [(&str, Target); 31] = [
    ("autoboot_txt", autoboot::file),
    ("config_toml", config::toml),
    ("control_command", host::command),
    ("custom_program", custom::program),
    ("efi_variables", efi::variables),
    ("fleetlock_answer", fleetlock::answer),
    ("fleetlock_reply", fleetlock::reply),
    ("fleetlock_request", fleetlock::request),
    ("floor_file", host::floor),
    ("gpt", gpt::table),
    ("grub_environment", grub::environment),
    ("host_facts", host::facts),
    ("http_head", http::head),
    ("journal_model", host::model),
    ("journal_rows", host::rows),
    ("kernel_log", trial::kernel_log),
    ("key_file", keys::file),
    ("lock_document", fleetlock::document),
    ("mount_table", host::mounts),
    ("omaha_request", omaha::request),
    ("omaha_response", omaha::response),
    ("payload_blob", payload_file::blob),
    ("payload_decode", payload_file::decode),
    ("payload_frame_table", payload_file::frame_table),
    ("payload_install", install::hostile),
    ("release_edits", record::edits),
    ("release_json", record::json),
    ("release_record", record::file),
    ("systemd_boot_entries", systemd_boot::entries),
    ("trial_files", trial::files),
    ("uboot_environment", uboot::environment),
];

/// One test after the other: a program that one of them starts holds for a moment what the others have open, and the locks on it.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_seed_keeps_the_promises_of_its_target() {
    let _alone = alone();
    let mut replayed = 0;
    for (name, target) in TARGETS {
        let seeds = files_in(&fuzz_folder().join("seeds").join(name));
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for seed in &seeds {
            println!("{}", seed.display());
            target(&fs::read(seed).expect("a readable seed"));
        }
        replayed += seeds.len();
    }
    println!("{replayed} seeds of {} targets replayed", TARGETS.len());
}

/// A target that returns early on everything would keep every promise.
#[test]
fn true_payloads_get_all_the_way_through_their_target() {
    let verified = |name: &str| {
        let seed = fs::read(fuzz_folder().join("seeds/payload_decode").join(name)).expect("a readable seed");
        payload_file::verified_frames(&seed)
    };
    let found = ["made-full", "made-whole", "made-delta", "made-changed", "made-wrong", "made-later"].map(verified);
    assert_eq!(found, [Some(3), Some(2), Some(3), Some(3), Some(1), Some(0)]);
    let installed = |name: &str| {
        let seed = fs::read(fuzz_folder().join("seeds/payload_install").join(name)).expect("a readable seed");
        install::installed(&seed)
    };
    let found =
        ["made-full-full", "made-zeros-full", "made-delta-delta", "made-changed-delta-astray", "made-delta-full"].map(installed);
    assert_eq!(found, [Some(true), Some(false), Some(true), Some(true), None]);
}

/// One that is refused every change, too.
#[test]
fn boot_states_are_changed_by_the_seeds_of_their_targets() {
    let _alone = alone();
    let changed = |name: &str, target: Target| {
        let before = slots::changes();
        let seeds = files_in(&fuzz_folder().join("seeds").join(name));
        let made = seeds.iter().filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("made-")));
        made.for_each(|seed| target(&fs::read(seed).expect("a readable seed")));
        slots::changes() - before
    };
    assert_eq!(changed("grub_environment", grub::environment), 11);
    assert_eq!(changed("uboot_environment", uboot::environment), 11);
    assert_eq!(changed("systemd_boot_entries", systemd_boot::entries), 11);
    assert_eq!(changed("efi_variables", efi::variables), 9);
    assert_eq!(changed("autoboot_txt", autoboot::file), 8);
}

#[test]
fn changed_seeds_keep_them_too() {
    let _alone = alone();
    let rounds = std::env::var("FUZZ_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("FUZZ_ROUNDS: a number"));
    let broken: Vec<PathBuf> = TARGETS.into_iter().filter_map(|(name, target)| first_found(name, target, rounds)).collect();
    assert!(broken.is_empty(), "a promise is broken by each of {broken:?}");
}

/// The first changed seed that breaks a promise, kept in a file.
fn first_found(name: &str, target: Target, rounds: u32) -> Option<PathBuf> {
    let seeds = files_in(&fuzz_folder().join("seeds").join(name));
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|path| fs::read(path).expect("a readable seed")).collect();
    let mut dice = Dice(1);
    for seed in &seeds {
        for _ in 0..rounds {
            let other = &seeds[dice.below(seeds.len())];
            let changed = changed(seed, other, &mut dice);
            if catch_unwind(|| target(&changed)).is_err() {
                let kept = std::env::temp_dir().join(format!("found-{name}"));
                fs::write(&kept, &changed).expect("room for what was found");
                return Some(kept);
            }
        }
    }
    None
}

#[test]
fn every_sample_of_the_field_keeps_the_promises_of_the_omaha_targets() {
    let samples = files_in(&fuzz_folder().join("../manifests/testdata/omaha"));
    assert!(samples.len() > 40, "only {} samples", samples.len());
    for sample in samples {
        println!("{}", sample.display());
        let bytes = fs::read(sample).expect("a readable sample");
        omaha::request(&bytes);
        omaha::response(&bytes);
    }
}

#[test]
fn every_target_of_the_fuzzer_is_replayed_here() {
    let named = |path: PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let programs: BTreeSet<String> = files_in(&fuzz_folder().join("fuzz_targets")).into_iter().filter_map(named).collect();
    let here: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(programs, here);
}

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.sort();
    files
}

/// `seed` with one to four changes: bits, bytes, cuts, repetitions, pieces of another seed.
fn changed(seed: &[u8], other: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let end = at + dice.below((bytes.len() - at).min(16) + 1);
        let piece = &other[dice.below(other.len() + 1)..];
        let piece = &piece[..dice.below(piece.len().min(32) + 1)];
        match dice.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'9'][dice.below(7)],
            2 => drop(bytes.splice(at..end, piece.iter().copied())),
            3 => drop(bytes.drain(at..end)),
            4 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            5 => bytes.insert(at, dice.below(256) as u8),
            _ if dice.below(8) == 0 => bytes.truncate(at),
            _ => {}
        }
    }
    bytes
}

/// Numbers that look random and are the same each time (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }
}
