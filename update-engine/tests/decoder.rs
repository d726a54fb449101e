//! The confined process that decodes blobs: that it decodes, what it may do, and what becomes of whoever meets a bad one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use payload::apply::{Blobs as _, Refusal};
use payload::format::Kind;
use update_engine::decoder::{Confined, Program};

fn start() -> Confined {
    Confined::start(Program::At(env!("CARGO_BIN_EXE_update-engined").into())).unwrap()
}

/// Decodes a blob that leans on these bytes.
fn decode(process: &mut Confined, kind: Kind, blob: &[u8], leans_on: &[u8], out: &mut [u8]) -> Result<(), Refusal> {
    process.lean_on(0, leans_on)?;
    process.decode(kind, blob, leans_on.len(), out)
}

/// Processes that this thread has started.
fn children() -> Vec<i32> {
    let path = format!("/proc/self/task/{}/children", nix::unistd::gettid());
    fs::read_to_string(path).unwrap().split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// A zstd frame of one stored block.
fn stored(content: &[u8]) -> Vec<u8> {
    let block = u32::try_from(content.len()).unwrap() << 3 | 1;
    [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, u8::try_from(content.len()).unwrap()][..], &block.to_le_bytes()[..3], content].concat()
}

#[test]
fn blobs_are_decoded_and_refused_in_words() {
    let mut process = start();
    for content in [&b"a"[..], b"some bytes", &[7; 255]] {
        let mut out = vec![0; content.len()];
        decode(&mut process, Kind::Zstd, &stored(content), b"", &mut out).unwrap();
        assert_eq!(out, content);
        decode(&mut process, Kind::ZstdPrefix, &stored(content), b"leans on", &mut out).unwrap();
    }
    let mut out = vec![0; 9];
    let refusal = decode(&mut process, Kind::Zstd, &stored(b"some bytes"), b"", &mut out).unwrap_err().to_string();
    assert_eq!(refusal, "blob: expected one that decodes, got zstd content size: expected 9, got 10");
    let refusal = decode(&mut process, Kind::Copy, b"", b"", &mut out).unwrap_err().to_string();
    assert!(refusal.ends_with("kind of frame: expected one with a codec, got 3 (copy)"), "{refusal}");
    // The longest of each, and one byte more.
    let (mut out, leans_on, blob) = (vec![0; 1 << 20], vec![0; 4 << 20], vec![0; (1 << 20) + (64 << 10)]);
    assert!(decode(&mut process, Kind::Zstd, &blob, &leans_on, &mut out).unwrap_err().got.contains("zstd frame"));
    for (blob, leans_on) in [(blob.len() + 1, 0), (0, leans_on.len() + 1)] {
        let refusal = decode(&mut process, Kind::Zstd, &vec![0; blob], &vec![0; leans_on], &mut out).unwrap_err().to_string();
        assert!(refusal.contains("bytes to lean on: expected at most 4194304") || refusal.contains("request"), "{refusal}");
    }
    decode(&mut process, Kind::Zstd, &stored(b"some bytes"), b"", &mut out[..10]).unwrap();
}

#[test]
fn the_process_has_no_files_no_rights_and_few_calls() {
    let mut process = start();
    let [pid] = children()[..] else { panic!("one process decodes") };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2".to_owned(), "1".to_owned()));
    if nix::unistd::geteuid().is_root() {
        assert!(!field("Uid:").split_whitespace().any(|id| id == "0"), "{}", field("Uid:"));
        assert!(!field("Gid:").split_whitespace().any(|id| id == "0"), "{}", field("Gid:"));
        assert_eq!((field("Groups:"), field("CapEff:")), (String::new(), "0000000000000000".to_owned()));
        let mut open: Vec<PathBuf> =
            fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|fd| fs::read_link(fd.unwrap().path()).unwrap()).collect();
        open.sort();
        let is_harmless = |path: &Path| {
            let name = path.display().to_string();
            name.starts_with("socket:") || name.starts_with("/memfd:update-engine-decoder") || name == "/dev/null"
        };
        assert!(open.iter().all(|path| is_harmless(path)), "{open:?}");
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    assert!(limits.lines().any(|line| line.starts_with("Max open files            0")), "{limits}");
    decode(&mut process, Kind::Zstd, &stored(b"x"), b"", &mut [0]).unwrap();
    drop(process);
    assert!(children().is_empty(), "it goes with whoever has started it");
}

#[test]
fn a_process_that_ends_costs_the_blob_and_is_started_again() {
    let mut process = start();
    for _ in 0..3 {
        let [pid] = children()[..] else { panic!("one process decodes") };
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        let refusal = decode(&mut process, Kind::Zstd, &stored(b"x"), b"", &mut [0]).unwrap_err().to_string();
        assert!(refusal.contains("one that ends the process that decodes it") && refusal.contains("SIGKILL"), "{refusal}");
        let mut out = [0];
        decode(&mut process, Kind::Zstd, &stored(b"x"), b"", &mut out).unwrap();
        assert_eq!(&out, b"x");
    }
    assert!(process.take_failure().is_none());
}

/// A program that says this instead of decoding.
fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_process_that_says_nothing_or_drips_is_given_up_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let drips = "printf R >&0; printf '\\001\\377\\003' >&0; while printf x >&0; do sleep 0.05; done";
    for (name, text) in [("silent", "printf R >&0; exec sleep 100"), ("drips", drips)] {
        let program = Program::At(script(folder.path(), name, text));
        let mut process = Confined::new(program).waiting(Duration::from_secs(1), Arc::default());
        let started = Instant::now();
        let refusal = decode(&mut process, Kind::Zstd, &stored(b"x"), b"", &mut [0]).unwrap_err().to_string();
        assert!(refusal.contains("no whole answer within 1 s"), "{name}: {refusal}");
        // Its patience is a second; what it drips would last for a minute.
        assert!(started.elapsed() < Duration::from_secs(20), "{name}: {:?}", started.elapsed());
        assert!(children().is_empty(), "{name} is ended");
    }
}

#[test]
fn an_answer_that_nobody_wants_any_more_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let program = Program::At(script(folder.path(), "silent", "printf R >&0; exec sleep 100"));
    let mut process = Confined::new(program).stopped_by(Arc::clone(&stop));
    process.lean_on(0, b"").unwrap();
    assert!(process.begin(Kind::Zstd, &stored(b"x"), 0, 1).unwrap());
    stop.store(true, Ordering::Relaxed);
    let refusal = process.finish(&mut [0]).unwrap_err().to_string();
    assert!(refusal.contains("its answer is not wanted any more"), "{refusal}");
}

#[test]
fn a_process_that_refused_a_blob_decodes_no_other() {
    let mut process = start();
    let before = children();
    decode(&mut process, Kind::Zstd, b"no frame", b"", &mut [0]).unwrap_err();
    assert!(children().is_empty());
    decode(&mut process, Kind::Zstd, &stored(b"x"), b"", &mut [0]).unwrap();
    assert!(children().len() == 1 && children() != before);
    process.distrust();
    assert!(children().is_empty());
    decode(&mut process, Kind::Zstd, &stored(b"x"), b"", &mut [0]).unwrap();
}

#[test]
fn a_program_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| script(folder.path(), name, text);
    let why = |path: PathBuf| {
        let error = Confined::start(Program::At(path)).err().unwrap();
        format!("{error}: {}", std::error::Error::source(&error).unwrap())
    };
    assert!(why(folder.path().join("none")).contains("a new process: No such file"));
    assert!(why(script("ends", "exit 3")).contains("it ends before it is confined: unexpected end of file; exit status: 3"));
    assert!(why(script("cannot", "printf 'E\\003\\000why' >&0; sleep 5")).contains("it cannot confine itself: why"));
    assert!(why(script("talks", "printf x >&0; sleep 5")).contains("it answers something else"));

    // One that says it is ready, and then anything at all.
    let mut liar =
        Confined::start(Program::At(script("lies", "printf R >&0; sleep 0.2; printf '\\007\\377\\377' >&0; sleep 9"))).unwrap();
    let refusal = decode(&mut liar, Kind::Zstd, &stored(b"x"), b"", &mut [0]).unwrap_err().to_string();
    assert!(refusal.contains("an answer that is none"), "{refusal}");
    let mut talker =
        Confined::start(Program::At(script("shouts", "printf R >&0; sleep 0.2; printf '\\001\\004\\000a\\033[m' >&0; sleep 9")))
            .unwrap();
    let refusal = decode(&mut talker, Kind::Zstd, &stored(b"x"), b"", &mut [0]).unwrap_err().to_string();
    assert!(refusal.ends_with("got a?[m"), "{refusal}");
}
