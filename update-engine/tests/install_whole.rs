//! Installing from honest sources: the slot becomes the image, byte for byte, and what was there already is kept.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod fetching;
mod installing;

use installing::{Attempt, Host, Published, Server, Vouched, WINDOW, content};
use manifests::release::SlotName;
use update_engine::engine::cause::Cause;
use update_engine::fetch::Source;
use update_engine::install::{MAX_IN_FLIGHT, Phase, Scan};

const SIZE: usize = 24 * WINDOW + 12_345;
const ROOM: usize = 36 * WINDOW;

#[test]
fn a_slot_becomes_the_image_byte_for_byte() {
    for vouched in [Vouched::Yes, Vouched::No] {
        let published = Published::root(content(SIZE, 1), vouched);
        let server = Server::of(&published.payload, []);
        let host = Host::new(&["root"], ROOM);
        let attempt = Attempt::new(&host, &published, vec![server.source("one")]).expecting(published.payload.len());
        let told = std::sync::Arc::clone(&attempt.told);
        let installed = attempt.run().unwrap();
        host.assert_is("root", &published.images[0].2);
        assert_eq!(installed.written.name().as_str(), "b");
        assert_eq!(installed.bytes_written, SIZE as u64);
        assert_eq!(installed.bytes_reused, 0);
        assert_eq!(installed.bytes_downloaded, published.payload.len() as u64, "every byte of the payload once");
        let asked = server.ranges("one");
        assert_eq!(asked.len(), 2, "the front, and the rest as one run: {asked:?}");
        let last = told.lock().unwrap().last().cloned().unwrap();
        assert_eq!((last.phase, last.windows_done, last.windows_total), (Phase::Fetching, 25, 25));
        assert_eq!((last.bytes_written, last.bytes_total), (SIZE as u64, SIZE as u64));
    }
}

#[test]
fn images_of_any_shape_arrive_whole() {
    let one_byte = vec![7];
    let zeros = vec![0; 3 * WINDOW + 5];
    let odd = content(2 * WINDOW + 4095, 3);
    for image in [one_byte, zeros, odd] {
        let published = Published::root(image, Vouched::Yes);
        let server = Server::of(&published.payload, []);
        let host = Host::new(&["root"], ROOM);
        Attempt::new(&host, &published, vec![server.source("one")]).run().unwrap();
        host.assert_is("root", &published.images[0].2);
    }
}

#[test]
fn a_slot_gets_its_own_images_and_not_the_other_slots() {
    let images = vec![
        ("root".to_owned(), None, content(9 * WINDOW, 1)),
        ("kernel".to_owned(), Some(SlotName::A), content(3 * WINDOW + 1, 2)),
        ("kernel".to_owned(), Some(SlotName::B), content(2 * WINDOW + 2, 3)),
        ("verity".to_owned(), None, content(WINDOW / 2, 4)),
    ];
    let published = Published::of(images, Vouched::Yes);
    let server = Server::of(&published.payload, []);
    let host = Host::new(&["root", "kernel", "verity"], 12 * WINDOW);
    let installed = Attempt::new(&host, &published, vec![server.source("one")]).run().unwrap();
    for image in [0, 2, 3] {
        host.assert_is(&published.images[image].0, &published.images[image].2);
    }
    let kernel_a = published.images[1].2.len() as u64;
    let all: usize = published.images.iter().map(|image| image.2.len()).sum();
    assert_eq!(installed.bytes_written, all as u64 - kernel_a);
    assert!(installed.bytes_downloaded < published.payload.len() as u64, "the other slot's kernel is not fetched");
}

#[test]
fn a_local_payload_is_installed_under_the_same_checks() {
    let published = Published::root(content(SIZE, 1), Vouched::No);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.1.0.payload");
    let source = || Source::open(path.to_str().unwrap()).unwrap();
    let host = Host::new(&["root"], ROOM);

    let mut damaged = published.payload.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let error = Attempt::new(&host, &published, vec![source()]).run().unwrap_err();
    assert_eq!(error.cause(), Cause::PayloadMismatch, "{error}");
    assert!(host.right_windows("root", &published.images[0].2).len() < 25);

    std::fs::write(&path, &published.payload).unwrap();
    let installed = Attempt::new(&host, &published, vec![source()]).run().unwrap();
    host.assert_is("root", &published.images[0].2);
    assert_eq!(installed.bytes_downloaded, 0);
}

#[test]
fn what_is_in_the_slot_already_is_not_fetched_again() {
    let image = content(SIZE, 1);
    let published = Published::root(image.clone(), Vouched::Yes);
    let server = Server::of(&published.payload, []);
    let host = Host::new(&["root"], ROOM);
    host.poke("root", 0, &image);
    host.poke("root", 13 * WINDOW as u64 + 5, b"damaged");
    let attempt = Attempt::new(&host, &published, vec![server.source("one")]).scanning(Scan::Any);
    let told = std::sync::Arc::clone(&attempt.told);
    let installed = attempt.run().unwrap();
    host.assert_is("root", &image);
    assert_eq!(installed.bytes_written, WINDOW as u64);
    assert_eq!(installed.bytes_reused, (SIZE - WINDOW) as u64);
    let told = told.lock().unwrap();
    assert!(told.iter().any(|progress| progress.phase == Phase::Scanning && progress.windows_done == 24));
    assert_eq!(told.last().unwrap().windows_done, 25);
}

#[test]
fn a_slot_that_is_right_already_costs_no_request() {
    let image = content(SIZE, 1);
    let published = Published::root(image.clone(), Vouched::Yes);
    let server = Server::of(&published.payload, []);
    let host = Host::new(&["root"], ROOM);
    host.poke("root", 0, &image);
    let installed = Attempt::new(&host, &published, vec![server.source("one")]).scanning(Scan::Any).run().unwrap();
    host.assert_is("root", &image);
    assert_eq!((installed.bytes_written, installed.bytes_downloaded), (0, 0));
    assert_eq!(server.mock.recorded().len(), 0);
}

#[test]
fn only_windows_that_the_previous_release_shares_are_looked_at() {
    let old = content(SIZE, 1);
    let mut new = old.clone();
    for window in [0, 7, 20, 24] {
        new[window * WINDOW] ^= 0xFF;
    }
    let (previous, published) = (Published::root(old.clone(), Vouched::No), Published::root(new.clone(), Vouched::No));
    let server = Server::of(&published.payload, []);
    let host = Host::new(&["root"], ROOM);
    host.poke("root", 0, &old);
    host.poke("root", 3 * WINDOW as u64, b"mounted read-write since");
    let scan = Scan::shared(previous.record(), published.record(), SlotName::B);
    let Scan::Candidates(candidates) = &scan else { panic!("{scan:?}") };
    assert_eq!((candidates[0].0, candidates[0].1.len()), (0, 21));
    let installed = Attempt::new(&host, &published, vec![server.source("one")]).scanning(scan).run().unwrap();
    host.assert_is("root", &new);
    assert_eq!(installed.bytes_reused, 20 * WINDOW as u64, "the damaged one is found out");
}

#[test]
fn after_a_stop_half_way_only_what_is_missing_is_asked_for_again() {
    let image = content(120 * WINDOW, 1);
    let published = Published::root(image.clone(), Vouched::Yes);
    let server = Server::of(&published.payload, []);
    let host = Host::new(&["root"], 128 * WINDOW);
    for share in [1, 5, 9] {
        host.poke("root", 0, &vec![installing::OLD; 128 * WINDOW]);
        let at = (image.len() * share / 10) as u64;
        let stopped = Attempt::new(&host, &published, vec![server.source("one")]).cancelled_at(at).run();
        assert_eq!(stopped.unwrap_err().cause(), Cause::Cancelled);
        let right = host.right_windows("root", &image);
        let ahead = (right.len() * WINDOW) as u64 - at;
        assert!(ahead <= (MAX_IN_FLIGHT * 4 * WINDOW) as u64, "no more than what was in flight: {ahead} bytes");

        server.mock.clear_recorded();
        Attempt::new(&host, &published, vec![server.source("one")]).scanning(Scan::Any).run().unwrap();
        host.assert_is("root", &image);
        let frames =
            payload::format::FrameTable::read(&published.payload, published.payload.len() as u64, published.record()).unwrap();
        let is_missing = |frame: &payload::format::Frame<'_>| frame.windows().any(|window| !right.contains(&(window as usize)));
        let missing: u64 = frames.frames().filter(is_missing).map(|frame| frame.blob().end - frame.blob().start).sum();
        let frame_max = frames.frames().map(|frame| frame.blob().end - frame.blob().start).max().unwrap();
        let front = 64 * 1024;
        let asked = server.bytes_asked("one");
        assert!(asked <= missing + front, "asked for {asked}, missing {missing}: nothing else is asked for");
        assert!(asked <= missing + MAX_IN_FLIGHT as u64 * frame_max);
    }
}
