//! Installing from servers that misbehave, and into a slot that fails: what is right is written, what is wrong never is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod fetching;
mod installing;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fetching::{fault, noise};
use installing::{Attempt, Host, OLD, Published, Server, Vouched, WINDOW, content};
use manifests::digest::Sha256Digest;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use payload::format::{FrameTable, Kind};
use server_mock::FaultKind;
use update_engine::engine::cause::Cause;
use update_engine::fetch::Source;
use update_engine::fetch::limits::BUDGET_EXTRA_BYTES;
use update_engine::install::{InstallError, Scan, WrongWindow};

const SIZE: usize = 24 * WINDOW + 777;
const ROOM: usize = 28 * WINDOW;

fn published(vouched: Vouched) -> Published {
    Published::root(content(SIZE, 1), vouched)
}

fn frames(published: &Published) -> FrameTable {
    FrameTable::read(&published.payload, published.payload.len() as u64, published.record()).unwrap()
}

/// A byte in the middle of the blob of the first frame of that kind.
fn byte_in(published: &Published, kind: Kind) -> u64 {
    let blob = frames(published).frames().find(|frame| frame.kind() == kind).unwrap().blob();
    blob.start + (blob.end - blob.start) / 2
}

/// A payload of `other` under the front of `published`: it fits the record by its own account, and every window is wrong.
fn forged(published: &Published, other: &Published) -> Vec<u8> {
    let digest = |release: &Published| release.record().images[0].table.sha256();
    let mut forged = other.payload.clone();
    let (from, to) = (digest(other), digest(published));
    let at = forged.windows(32).position(|bytes| bytes == from.as_bytes()).unwrap();
    forged[at..at + 32].copy_from_slice(to.as_bytes());
    let table = frames(other).header().table_range();
    let range = usize::try_from(table.start).unwrap()..usize::try_from(table.end).unwrap();
    let table_digest = Sha256Digest::of(&forged[range]);
    forged[32..64].copy_from_slice(table_digest.as_bytes());
    forged
}

/// The payload with another kind for its first frame, and a header that fits.
fn with_first_kind(published: &Published, kind: u8) -> Vec<u8> {
    let mut payload = published.payload.clone();
    // One image (1), its name (1 + 4), slot (1), size (8), window size (4), digest (32); no sources (1); number of frames (1).
    payload[64 + 1 + 5 + 1 + 8 + 4 + 32 + 1 + 1] = kind;
    let table = frames(published).header().table_range();
    let range = usize::try_from(table.start).unwrap()..usize::try_from(table.end).unwrap();
    let digest = Sha256Digest::of(&payload[range]);
    payload[32..64].copy_from_slice(digest.as_bytes());
    payload
}

/// An image of the same size whose payload has other frames.
fn another_image() -> Published {
    let mut bytes = content(SIZE, 9);
    bytes.rotate_left(WINDOW);
    Published::root(bytes, Vouched::No)
}

#[test]
fn whatever_one_server_does_another_one_makes_the_slot_whole() {
    let published = published(Vouched::Yes);
    let middle = published.payload.len() as u64 / 2;
    let kinds = [
        FaultKind::Refuse,
        FaultKind::Status { code: 404, retry_after_s: None },
        FaultKind::Status { code: 503, retry_after_s: Some(60) },
        FaultKind::WrongRange,
        FaultKind::OkFor206,
        FaultKind::WrongLength { by: 5 },
        FaultKind::EtagChange,
        FaultKind::Redirect { to: "https://127.0.0.1:1/p".to_owned(), code: 302 },
        FaultKind::GzipEncoded,
        FaultKind::NotHttp,
    ];
    let at_a_place =
        [FaultKind::Reset, FaultKind::Stall, FaultKind::Truncate, FaultKind::Garbage, FaultKind::SlowDrip { bytes_per_s: 500 }];
    let whole = kinds.into_iter().map(|kind| fault("one", kind));
    let placed = at_a_place.into_iter().map(|kind| fault("one", kind).at_offset(middle));
    let host = Host::new(&["root"], ROOM);
    for fault in whole.chain(placed) {
        let case = format!("{fault:?}");
        host.poke("root", 0, &vec![OLD; ROOM]);
        let falls_silent = matches!(fault.kind, FaultKind::Stall | FaultKind::SlowDrip { .. });
        let server = Server::of(&published.payload, [fault]);
        let attempt = Attempt::new(&host, &published, vec![server.source("one"), server.source("two")]);
        let attempt = if falls_silent { attempt.impatient() } else { attempt };
        let installed = attempt.run().unwrap_or_else(|error| panic!("{case}: {error}"));
        host.assert_is("root", &published.images[0].2);
        assert!(installed.bytes_downloaded <= 2 * published.payload.len() as u64 + BUDGET_EXTRA_BYTES, "{case}");
    }
}

#[test]
fn a_flipped_byte_costs_its_frame_and_is_repaired_from_the_other_source() {
    for kind in [Kind::Raw, Kind::Zstd] {
        let published = published(Vouched::Yes);
        let offset = byte_in(&published, kind);
        let server = Server::of(&published.payload, [fault("one", FaultKind::FlipByte { offset })]);
        let host = Host::new(&["root"], ROOM);
        let attempt = Attempt::new(&host, &published, vec![server.source("one"), server.source("two")]);
        attempt.run().unwrap();
        host.assert_is("root", &published.images[0].2);
        let repair = server.ranges("two");
        let table = frames(&published);
        let harmed = table.frames().find(|frame| frame.blob().contains(&offset)).unwrap().blob();
        assert_eq!(repair, [harmed], "only the harmed frame is asked for");
    }
}

#[test]
fn random_flips_of_a_payload_end_in_the_slot_that_was_signed_or_in_an_error_that_keeps_what_is_right() {
    const ROUNDS: usize = 200;
    let image = content(6 * WINDOW + 777, 1);
    let releases = [Vouched::Yes, Vouched::No].map(|vouched| Published::root(image.clone(), vouched));
    let host = Host::new(&["root"], 8 * WINDOW);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Source::open(path.to_str().unwrap()).unwrap()
    };
    let (mut repaired, mut harmless, mut failed) = (0, 0, 0);
    for (round, dice) in noise(ROUNDS * 32).chunks(32).enumerate() {
        let throw = |at: usize| usize::try_from(u64::from_le_bytes(dice[8 * at..8 * (at + 1)].try_into().unwrap())).unwrap();
        let published = &releases[round % 2];
        let front = usize::try_from(frames(published).header().table_range().end).unwrap();
        let mut harmed = published.payload.clone();
        let flips: Vec<usize> =
            (0..=round % 3).map(|flip| throw(flip) % if round % 4 < 2 { front } else { harmed.len() }).collect();
        flips.iter().for_each(|at| harmed[*at] ^= 1 << (throw(3) % 8));
        let (harmed, honest) = (file("harmed", &harmed), file("honest", &published.payload));
        let has_help = round % 5 == 0;
        let sources = if has_help { vec![harmed, honest.clone()] } else { vec![harmed] };
        host.poke("root", 0, &vec![OLD; 8 * WINDOW]);
        match Attempt::new(&host, published, sources).run() {
            Ok(_) => {
                host.assert_is("root", &image);
                if has_help { repaired += 1 } else { harmless += 1 }
            }
            Err(error) => {
                assert!(!has_help, "round {round}, bytes {flips:?}: an honest source stood by: {error}");
                let expected = [Cause::PayloadMismatch, Cause::PayloadFormat];
                assert!(expected.contains(&error.cause()), "round {round}, bytes {flips:?}: {error}");
                let right = host.right_windows("root", &image);
                let kept: usize = right.iter().map(|window| image.chunks(WINDOW).nth(*window).unwrap().len()).sum();
                failed += 1;
                if round % 3 != 1 {
                    continue;
                }
                let mended = Attempt::new(&host, published, vec![honest]).scanning(Scan::Any).run().unwrap();
                assert_eq!(mended.bytes_reused, kept as u64, "round {round}: what was right is kept");
                host.assert_is("root", &image);
            }
        }
    }
    println!("{ROUNDS} rounds of flips: {repaired} repaired by another source, {harmless} harmless, {failed} ended in an error");
    assert!(repaired == ROUNDS / 5 && failed > ROUNDS / 2);
}

#[test]
fn bytes_damaged_once_on_their_way_are_fetched_once_more_from_the_same_source() {
    let published = published(Vouched::Yes);
    let offset = byte_in(&published, Kind::Raw);
    let server = Server::of(&published.payload, [fault("one", FaultKind::FlipByte { offset }).times(1)]);
    let host = Host::new(&["root"], ROOM);
    Attempt::new(&host, &published, vec![server.source("one")]).run().unwrap();
    host.assert_is("root", &published.images[0].2);
}

#[test]
fn a_byte_that_is_wrong_everywhere_ends_the_install_with_image_window_offset_and_digests() {
    let published = published(Vouched::Yes);
    let offset = byte_in(&published, Kind::Raw);
    let faults = ["one", "two"].map(|codebase| fault(codebase, FaultKind::FlipByte { offset }));
    let server = Server::of(&published.payload, faults);
    let host = Host::new(&["root"], ROOM);
    let error = Attempt::new(&host, &published, vec![server.source("one"), server.source("two")]).run().unwrap_err();
    let right = host.right_windows("root", &published.images[0].2);
    let InstallError::WrongWindow(wrong) = &error else { panic!("{error}") };
    let WrongWindow { image, window, offset, expected, got, tried } = wrong.as_ref();
    assert_eq!((image.as_str(), *offset, tried.len()), ("root", u64::from(*window) * WINDOW as u64, 2));
    assert_eq!(Some(*expected), published.record().images[0].table.digest(*window));
    assert_eq!(right, (0..25).filter(|number| *number != *window as usize).collect::<Vec<_>>(), "all others are written");
    assert_eq!(error.cause(), Cause::PayloadMismatch);
    let start = format!(
        "no source has the right bytes for window {window} of image \"root\" (at byte {offset}): expected sha256 {expected}, got {got}; tried http://"
    );
    assert!(error.to_string().starts_with(&start), "{error}");
    assert!(error.to_string().contains("/one/p (2 windows differ from the signed record)"), "{error}");
}

#[test]
fn design_11_15_when_every_server_lies_not_one_wrong_byte_reaches_the_slot() {
    for vouched in [Vouched::Yes, Vouched::No] {
        let published = published(vouched);
        let front = frames(&published).header().table_range().end;
        let faults = ["one", "two"].map(|codebase| fault(codebase, FaultKind::Garbage).at_offset(front + 1000));
        let server = Server::of(&published.payload, faults);
        let host = Host::new(&["root"], ROOM);
        let error = Attempt::new(&host, &published, vec![server.source("one"), server.source("two")]).run().unwrap_err();
        assert_eq!(error.cause(), Cause::PayloadMismatch, "{error}");
        host.right_windows("root", &published.images[0].2);
    }
}

#[test]
fn design_11_14_a_source_of_noise_is_dropped_and_the_download_stays_within_its_budget() {
    let published = published(Vouched::Yes);
    let front = frames(&published).header().table_range().end;
    let server = Server::of(&published.payload, [fault("one", FaultKind::Garbage).at_offset(front)]);
    let host = Host::new(&["root"], ROOM);
    let installed = Attempt::new(&host, &published, vec![server.source("one"), server.source("two")]).run().unwrap();
    host.assert_is("root", &published.images[0].2);
    assert!(installed.bytes_downloaded < 2 * published.payload.len() as u64 + (1 << 20), "{}", installed.bytes_downloaded);
}

#[test]
fn a_frame_table_that_the_record_does_not_name_is_refused_before_a_frame_is_read() {
    let published = published(Vouched::Yes);
    let other = another_image();
    let liar = Server::of(&forged(&published, &other), []);
    let honest = Server::of(&published.payload, []);
    let host = Host::new(&["root"], ROOM);
    Attempt::new(&host, &published, vec![liar.source("one"), honest.source("one")]).run().unwrap();
    host.assert_is("root", &published.images[0].2);
    assert_eq!(liar.ranges("one"), std::iter::once(0..65_536).collect::<Vec<_>>());

    host.poke("root", 0, &[installing::OLD; WINDOW]);
    let error = Attempt::new(&host, &published, vec![liar.source("one")]).run().unwrap_err();
    assert_eq!(error.cause(), Cause::PayloadFormat);
    assert!(error.to_string().contains("another payload than the record names: expected frame table sha256"), "{error}");
}

#[test]
fn a_forged_frame_table_is_dropped_with_its_giver_when_the_record_names_none() {
    let published = published(Vouched::No);
    let other = another_image();
    let liar = Server::of(&forged(&published, &other), []);
    let honest = Server::of(&published.payload, []);
    let host = Host::new(&["root"], ROOM);
    let attempt = Attempt::new(&host, &published, vec![liar.source("one"), honest.source("one")]);
    assert_eq!(attempt.run().unwrap().bytes_written, SIZE as u64);
    host.assert_is("root", &published.images[0].2);

    host.poke("root", 0, &vec![OLD; ROOM]);
    let error = Attempt::new(&host, &published, vec![liar.source("one")]).run().unwrap_err();
    assert_eq!(error.cause(), Cause::PayloadMismatch, "{error}");
    let right = host.right_windows("root", &published.images[0].2);
    assert!(right.len() < 25, "windows both images share may be right: {right:?}");
}

#[test]
fn a_forged_frame_table_is_dropped_when_its_giver_is_gone_and_nobody_elses_file_fits_it() {
    let published = published(Vouched::No);
    let forged = forged(&published, &another_image());
    assert_ne!(forged.len(), published.payload.len());
    let gone = fault("one", FaultKind::Status { code: 404, retry_after_s: None }).skip(1);
    let liar = Server::of(&forged, [gone]);
    let honest = Server::of(&published.payload, []);
    let host = Host::new(&["root"], ROOM);
    Attempt::new(&host, &published, vec![liar.source("one"), honest.source("one")]).run().unwrap();
    host.assert_is("root", &published.images[0].2);
}

#[test]
fn a_kind_of_frame_that_this_build_does_not_know_is_refused_before_anything_is_written() {
    let published = published(Vouched::No);
    let later = Server::of(&with_first_kind(&published, 9), []);
    let host = Host::new(&["root"], ROOM);
    let error = Attempt::new(&host, &published, vec![later.source("one")]).run().unwrap_err();
    assert_eq!(error.cause(), Cause::PayloadFormat);
    assert!(error.to_string().contains("frame kind 9 (unknown) is not available in this build"), "{error}");
    assert_eq!(host.right_windows("root", &published.images[0].2), [0_usize; 0]);

    let honest = Server::of(&published.payload, []);
    Attempt::new(&host, &published, vec![later.source("one"), honest.source("one")]).run().unwrap();
    host.assert_is("root", &published.images[0].2);
}

#[test]
fn what_is_no_payload_or_another_release_s_is_named() {
    let published = published(Vouched::No);
    let host = Host::new(&["root"], ROOM);
    let other = Published::root(content(SIZE + WINDOW, 1), Vouched::No);
    let mut later = published.payload.clone();
    later[8] = 2;
    let mut damaged = published.payload.clone();
    damaged[70] ^= 1;
    let cases = [
        (
            b"<html>Please log in</html> to the network of this hotel, and be welcome".to_vec(),
            "not a payload: expected the magic",
        ),
        (other.payload.clone(), "the payload was made for another release: size of image \"root\""),
        (later, "payload format version 2"),
        (damaged, "frame table: expected sha256"),
    ];
    for (bytes, words) in cases {
        let server = Server::of(&bytes, []);
        let error = Attempt::new(&host, &published, vec![server.source("one")]).run().unwrap_err();
        assert_eq!(error.cause(), Cause::PayloadFormat, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(host.right_windows("root", &published.images[0].2), [0_usize; 0]);
    }
}

#[test]
fn a_payload_of_another_length_than_announced_is_refused() {
    let published = published(Vouched::No);
    let host = Host::new(&["root"], ROOM);
    let short = Server::of(&published.payload[..published.payload.len() - 100], []);
    let error = Attempt::new(&host, &published, vec![short.source("one")]).run().unwrap_err();
    assert_eq!(error.cause(), Cause::Download, "{error}");
    assert!(error.to_string().contains(&format!("expected {}", published.payload.len())), "{error}");
    let server = Server::of(&published.payload, []);
    let attempt = Attempt::new(&host, &published, vec![server.source("one")]).expecting(published.payload.len() + 1);
    let error = attempt.run().unwrap_err();
    assert!(error.to_string().contains("bytes long, expected"), "{error}");
}

#[test]
fn nobody_there_is_an_error_that_names_the_server() {
    let published = published(Vouched::Yes);
    let server = Server::of(&published.payload, []);
    let source = server.source("one");
    drop(server);
    let error = Attempt::new(&Host::new(&["root"], ROOM), &published, vec![source]).run().unwrap_err();
    assert_eq!(error.cause(), Cause::Download);
    assert!(error.to_string().contains("/one/p: cannot connect: "), "{error}");
    let host = Host::new(&["root"], ROOM);
    let gone = Server::of(&published.payload, [fault("one", FaultKind::Status { code: 410, retry_after_s: None })]);
    assert_eq!(Attempt::new(&host, &published, vec![gone.source("one")]).run().unwrap_err().cause(), Cause::Http(410));
}

#[test]
fn a_server_that_comes_back_is_waited_for_and_nothing_is_fetched_twice() {
    let published = published(Vouched::Yes);
    let middle = published.payload.len() as u64 / 2;
    let faults = [fault("one", FaultKind::Reset).at_offset(middle).times(1), fault("one", FaultKind::Refuse).skip(1).times(3)];
    let server = Server::of(&published.payload, faults);
    let host = Host::new(&["root"], ROOM);
    let attempt = Attempt::new(&host, &published, vec![server.source("one")]);
    let timing = Arc::clone(&attempt.timing);
    let installed = attempt.run().unwrap();
    host.assert_is("root", &published.images[0].2);
    assert_eq!(timing.pauses().len(), 4);
    assert!(installed.bytes_downloaded <= published.payload.len() as u64 + (1 << 20));
}

#[test]
fn cancelling_ends_a_wait_for_a_silent_server_at_once_and_lets_go_of_the_slot() {
    let published = published(Vouched::Yes);
    let middle = published.payload.len() as u64 / 2;
    let server = Server::of(&published.payload, [fault("one", FaultKind::Stall).at_offset(middle)]);
    let host = Host::new(&["root"], ROOM);
    let attempt = Attempt::new(&host, &published, vec![server.source("one")]);
    let cancel = Arc::clone(&attempt.cancel);
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        cancel.store(true, Ordering::Relaxed);
        Instant::now()
    });
    let error = attempt.run().unwrap_err();
    let took = canceller.join().unwrap().elapsed();
    assert_eq!(error.cause(), Cause::Cancelled);
    assert!(took < Duration::from_secs(1), "{took:?}");
    drop(host.open(published.record()));
}

#[test]
fn cancelling_ends_a_scan() {
    let published = published(Vouched::Yes);
    let host = Host::new(&["root"], ROOM);
    let server = Server::of(&published.payload, []);
    let attempt = Attempt::new(&host, &published, vec![server.source("one")]).scanning(Scan::Any);
    attempt.cancel.store(true, Ordering::Relaxed);
    assert_eq!(attempt.run().unwrap_err().cause(), Cause::Cancelled);
    assert_eq!(server.mock.recorded().len(), 0);
}

#[test]
fn a_slot_that_does_not_take_a_write_ends_the_install_at_once() {
    let published = published(Vouched::Yes);
    let host = Host::new(&["root"], ROOM);
    // Memory that can be sealed against writes, in the place of a disk that fails them.
    let memory = memfd_create(c"disk", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&memory));
    std::fs::copy(host.path(), &path).unwrap();
    let slot = host.open_at(path.into(), published.record());
    fcntl(&memory, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();

    // The server falls silent for ever after the first frames: the failure of the slot must not wait for it.
    let middle = published.payload.len() as u64 / 2;
    let server = Server::of(&published.payload, [fault("one", FaultKind::Stall).at_offset(middle)]);
    let attempt = Attempt::on(slot, &published, vec![server.source("one")]);
    let started = Instant::now();
    let error = attempt.run().unwrap_err();
    assert_eq!(error.cause(), Cause::DiskWrite);
    assert_eq!(error.to_string(), "cannot write slot b, image \"root\", at offset 0");
    // A server that says nothing is given up after a minute.
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn no_source_at_all_is_an_error() {
    let published = published(Vouched::Yes);
    let error = Attempt::new(&Host::new(&["root"], ROOM), &published, Vec::new()).run().unwrap_err();
    assert_eq!(error.to_string(), "the payload cannot be fetched: no URL and no file was given to fetch from");
}
