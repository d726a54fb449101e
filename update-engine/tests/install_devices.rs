//! Installs onto disks that fail: whatever they do, an install that ends well and is proven has made the very image, and one that does not says where.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]
#![allow(clippy::print_stdout, reason = "that it was skipped is said where the others are counted")]

mod fetching;
mod installing;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fetching::fault;
use installing::disk::{Failing, FailingDisk, LOUD_WRITES};
use installing::{Attempt, Host, Published, Server, Vouched, WINDOW, content};
use manifests::digest::Sha256Digest;
use payload::format::{FrameTable, Source};
use server_mock::FaultKind;
use update_engine::engine::cause::Cause;
use update_engine::install::{InstallError, Scan};
use update_engine::slot::readback::{Acceptance, ImageTable, ProveError, Watch, prove};
use update_engine::slot::{Proven, Writes, Written};

/// An image of 15 windows and a part of one, in a slot with 2 MiB and more behind it.
const IMAGE: usize = 15 * WINDOW + 5 * 4096 + 100;
const ROOM: usize = IMAGE + (3 << 20);
/// Of the new image, the window that has a little of many others.
const MIXED: usize = 13;

/// A process that one test starts has, for a moment, the slots open that another one's threads have.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Scene {
    disk: FailingDisk,
    host: Host,
    old: Published,
    new: Published,
    full: Server,
    delta: Server,
    _turn: MutexGuard<'static, ()>,
}

/// With what an install is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Full,
    Delta,
    /// The delta has the full payload beside it.
    Both,
}

impl Scene {
    fn new() -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let old = Published::root(content(IMAGE, 1), Vouched::Yes);
        let mut image = old.images[0].2.clone();
        for window in [0, 2, 3, 9, 15] {
            for at in (window * WINDOW + 100..IMAGE.min((window + 1) * WINDOW)).step_by(9000) {
                image[at] ^= 0x55;
            }
        }
        image.copy_within(0..WINDOW, 11 * WINDOW);
        // A little of many windows, in one.
        for (number, window) in [1, 4, 5, 7, 8, 10].into_iter().enumerate() {
            let (from, to) = (window * WINDOW + 10 * 4096, MIXED * WINDOW + (number + 1) * 8 * 4096);
            image.copy_within(from..from + 4 * 4096, to);
            image[to + 5000] ^= 0x55;
        }
        let new = Published::root(image, Vouched::Yes);
        let host = Host::new(&["root"], ROOM);
        host.runs("root", 0, &old.images[0].2);
        let disk = match FailingDisk::over(&host.path()) {
            Ok(disk) => disk,
            Err(why) => {
                println!("skipped: {why}");
                return None;
            }
        };
        let (full, delta) = (Server::of(&new.payload, []), Server::of(&new.delta_from(&old), []));
        Some(Self { disk, host, old, new, full, delta, _turn: turn })
    }

    fn image(&self) -> &[u8] {
        &self.new.images[0].2
    }

    /// A stretch of slot b, as a stretch of the disk.
    fn in_slot(&self, bytes: Range<usize>) -> Range<u64> {
        let start = self.host.offset("root");
        start + bytes.start as u64..start + bytes.end as u64
    }

    /// A stretch of the slot that runs, as a stretch of the disk.
    fn in_running(&self, bytes: Range<usize>) -> Range<u64> {
        let start = self.host.running_offset("root");
        start + bytes.start as u64..start + bytes.end as u64
    }

    /// Slot b holds nothing of it any more, and from now on just this goes wrong.
    fn set(&self, faults: Vec<(Failing, Range<u64>)>) {
        self.host.poke("root", 0, &vec![installing::OLD; ROOM]);
        self.disk.fails(faults);
    }

    fn install(&self, by: By) -> Result<Written, InstallError> {
        let fulls = if by == By::Delta { vec![] } else { vec![self.full.source("one")] };
        let attempt = Attempt::on(self.host.open_at(self.disk.path(), self.new.record()), &self.new, fulls);
        let base = self.host.base_at(self.disk.path(), Some(self.old.record()));
        let attempt = if by == By::Full { attempt } else { attempt.with_delta(vec![self.delta.source("one")], base) };
        attempt.run().map(|installed| installed.written)
    }

    fn prove(&self, written: Written) -> Result<Proven, ProveError> {
        let digests: Vec<Sha256Digest> = self.image().chunks(WINDOW).map(Sha256Digest::of).collect();
        let table = ImageTable::new("root", IMAGE as u64, WINDOW as u64, &digests).unwrap();
        let never = AtomicBool::new(false);
        prove(written, [3; 32], &[table], Acceptance::EveryWindow, &Watch::new(2, &never, &|_| {}))
    }

    /// Installs and proves. What is proven is the image, to the last byte.
    fn update(&self, by: By) -> Result<(), String> {
        let written = self.install(by).map_err(|error| format!("{:?}: {error}", error.cause()))?;
        let proven = self.prove(written).map_err(|error| format!("not proven: {error}"))?;
        self.disk.fails(vec![]);
        self.host.assert_is("root", self.image());
        drop(proven);
        Ok(())
    }
}

/// Places of a slot: windows that are written whole, the last one, and the space behind the image.
fn places() -> Vec<Range<usize>> {
    let blocks = |at: usize| at..at + 4096;
    vec![
        blocks(0),
        blocks(WINDOW),
        blocks(3 * WINDOW + 12 * 4096),
        blocks(9 * WINDOW - 4096),
        blocks(11 * WINDOW),
        blocks(IMAGE / 4096 * 4096),
        blocks(IMAGE.next_multiple_of(4096) + (512 << 10)),
        ROOM - 4096..ROOM,
    ]
}

#[test]
fn a_disk_that_fails_nothing_takes_an_image_by_any_payload() {
    let Some(scene) = Scene::new() else { return };
    for by in [By::Full, By::Delta, By::Both] {
        scene.set(vec![]);
        assert_eq!(scene.update(by), Ok(()), "{by:?}");
        assert_eq!(scene.disk.struck(), 0);
    }
}

#[test]
fn a_write_that_fails_anywhere_ends_the_install_with_the_place_and_never_in_success() {
    let Some(scene) = Scene::new() else { return };
    for (place, by) in places().into_iter().flat_map(|place| [By::Full, By::Delta, By::Both].map(|by| (place.clone(), by))) {
        for fault in LOUD_WRITES {
            scene.set(vec![(fault, scene.in_slot(place.clone()))]);
            let error = scene.install(by).expect_err("a write failed");
            assert_eq!(error.cause(), Cause::DiskWrite, "{fault:?} at {place:?} by {by:?}: {error}");
            assert!(scene.disk.struck() > 0, "{fault:?} at {place:?} by {by:?}");
            let words = error.to_string();
            let what = if fault == Failing::Flush { "flush" } else { "cannot write slot b, image \"root\", at offset " };
            assert!(words.contains(what), "{fault:?} at {place:?} by {by:?}: {words}");
            if let Some((_, offset)) = words.split_once("at offset ") {
                let offset: usize = offset.split(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse().unwrap();
                // A transfer is a frame of 1 MiB at most.
                assert!(offset <= place.start && place.start - offset < 1 << 20, "{fault:?} at {place:?} by {by:?}: {words}");
            }
        }
    }
}

/// What is the same in the slot already is not written: a disk that fails all writes there is none the wiser.
#[test]
fn where_only_what_changed_is_written_nothing_else_is() {
    let Some(scene) = Scene::new() else { return };
    let (old, new) = (&scene.old.images[0].2, scene.image());
    let same = |block: &usize| old[block * 4096..(block + 1) * 4096] == new[block * 4096..(block + 1) * 4096];
    let unchanged: Vec<_> = (0..IMAGE / 4096).filter(same).map(|block| scene.in_slot(block * 4096..(block + 1) * 4096)).collect();
    assert!(unchanged.len() > 500, "{}", unchanged.len());
    for (writes, is_well) in [(Writes::Changed, true), (Writes::All, false)] {
        scene.set(unchanged.iter().map(|place| (Failing::Write, place.clone())).collect());
        scene.host.poke("root", 0, old);
        let slot = scene.host.open_at(scene.disk.path(), scene.new.record()).writing(writes);
        let installed = Attempt::on(slot, &scene.new, vec![scene.full.source("one")]).run();
        assert_eq!(installed.is_ok(), is_well, "{writes:?}: {:?}", installed.err());
        assert_eq!(scene.disk.struck() == 0, is_well, "{writes:?}");
        if let Ok(installed) = installed {
            drop(scene.prove(installed.written).unwrap());
            scene.host.assert_is("root", new);
        }
    }
}

/// A write is under way when the delta ends, and fails only then: nobody forgets it, though the disk would take it the next time.
#[test]
fn a_write_that_fails_while_the_delta_is_given_up_ends_the_install() {
    let Some(scene) = Scene::new() else { return };
    let delta = scene.new.delta_from(&scene.old);
    let table = FrameTable::read(&delta, delta.len() as u64, scene.new.record()).unwrap();
    let first = table.frames().find(|frame| !frame.blob().is_empty()).unwrap();
    let ends = Server::of(&delta, [fault("one", FaultKind::Truncate).at_offset(first.blob().end)]);
    let place = first.image_offset() as usize;
    scene.set(vec![(Failing::LateWrite, scene.in_slot(place..place + 4096))]);
    let slot = scene.host.open_at(scene.disk.path(), scene.new.record());
    let base = scene.host.base_at(scene.disk.path(), Some(scene.old.record()));
    let attempt = Attempt::on(slot, &scene.new, vec![scene.full.source("one")]).with_delta(vec![ends.source("one")], base);
    let error = attempt.run().expect_err("a write failed");
    assert_eq!(error.cause(), Cause::DiskWrite, "{error}");
    assert_eq!(scene.disk.struck(), 1);
}

/// Cancels an install by the delta as soon as the disk is slow; the error, and how many reads began from then on.
fn cancelled_when_slow(scene: &Scene, delta: &Server) -> (InstallError, u64) {
    let slot = scene.host.open_at(scene.disk.path(), scene.new.record());
    let base = scene.host.base_at(scene.disk.path(), Some(scene.old.record()));
    let attempt = Attempt::on(slot, &scene.new, vec![]).with_delta(vec![delta.source("one")], base).scanning(Scan::Any);
    let cancel = Arc::clone(&attempt.cancel);
    std::thread::scope(|scope| {
        let canceller = scope.spawn(move || {
            while scene.disk.struck() == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            cancel.store(true, Ordering::Relaxed);
            scene.disk.reads()[0]
        });
        let error = attempt.run().expect_err("it is cancelled");
        let [asked, answered] = scene.disk.reads();
        assert_eq!(asked, answered, "a read is under way");
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(scene.disk.reads(), [asked, answered], "it is over, and something reads on");
        (error, asked - canceller.join().unwrap())
    })
}

/// Whoever reads the disk when an install is cancelled: it is waited for, and does not go on.
#[test]
fn a_cancelled_install_waits_for_the_disk_and_reads_nothing_more() {
    let Some(scene) = Scene::new() else { return };
    let delta = scene.new.delta_from(&scene.old);
    let table = FrameTable::read(&delta, delta.len() as u64, scene.new.record()).unwrap();
    // Every read of the slot that runs is slow: those of the threads that make frames.
    let running = vec![(Failing::LateRead, scene.in_running(0..IMAGE))];
    scene.set(running.clone());
    let (error, reads) = cancelled_when_slow(&scene, &scene.delta);
    assert_eq!(error.cause(), Cause::Cancelled, "{error}");
    // 16 reads of each of two threads are under way together; and one of more than 128 KiB is several requests of the kernel.
    assert!(reads <= 2 * (16 + 2), "{reads}");
    // And those that find out whose fault a bad blob is: what the one frame leans on that is missing is quick, the rest of its windows is not.
    let frame = table.frame_of(0, MIXED as u32).unwrap();
    let flip = FaultKind::FlipByte { offset: frame.blob().start + 20 };
    let bad = Server::of(&delta, [fault("one", flip)]);
    let leant_on = |block: usize| {
        let bytes = (block * 4096) as u64..((block + 1) * 4096) as u64;
        frame.extents().any(|extent| {
            extent.source != Source::Target && extent.offset < bytes.end && bytes.start < extent.offset + extent.length
        })
    };
    let is_hashed = |block: usize| {
        let window = (block * 4096 / WINDOW) as u64;
        frame.extents().any(|extent| {
            (extent.offset / WINDOW as u64..(extent.offset + extent.length).div_ceil(WINDOW as u64)).contains(&window)
        })
    };
    let slow: Vec<usize> = (0..IMAGE / 4096).filter(|block| !leant_on(*block) && is_hashed(*block)).collect();
    let windows: BTreeSet<usize> = slow.iter().map(|block| block * 4096 / WINDOW).collect();
    assert!(windows.len() > 3, "{windows:?}");
    scene.host.poke("root", 0, scene.image());
    scene.host.poke("root", (MIXED * WINDOW) as u64, &[installing::OLD; WINDOW]);
    scene
        .disk
        .fails(slow.into_iter().map(|block| (Failing::LateRead, scene.in_running(block * 4096..(block + 1) * 4096))).collect());
    let (error, reads) = cancelled_when_slow(&scene, &bad);
    assert_eq!(error.cause(), Cause::Cancelled, "{error}");
    assert!(reads <= 3, "{reads} for one window of {}", windows.len());
}

#[test]
fn a_write_that_is_lost_or_changed_is_found_by_reading_back() {
    let Some(scene) = Scene::new() else { return };
    for (place, by) in places().into_iter().flat_map(|place| [By::Full, By::Both].map(|by| (place.clone(), by))) {
        for fault in [Failing::LostWrite, Failing::WrongWrite] {
            scene.set(vec![(fault, scene.in_slot(place.clone()))]);
            let Err(why) = scene.update(by) else { panic!("{fault:?} at {place:?} by {by:?} was proven") };
            let is_named = why.starts_with("not proven: slot b is not what the release says: image \"root\"")
                || why.contains("reads back as something else, again and again");
            assert!(is_named, "{fault:?} at {place:?} by {by:?}: {why}");
        }
    }
}

#[test]
fn a_place_that_cannot_be_read_until_it_is_written_is_written_anew() {
    let Some(scene) = Scene::new() else { return };
    for place in places() {
        scene.set(vec![(Failing::Read, scene.in_slot(place.clone()))]);
        assert_eq!(scene.update(By::Both), Ok(()), "{place:?}");
    }
}

/// One bad block of a slot that holds the image already: what was fetched before is not fetched again for it.
#[test]
fn a_place_that_cannot_be_read_costs_no_more_than_what_is_read_with_it() {
    let Some(scene) = Scene::new() else { return };
    for place in [0..4096, 9 * WINDOW..9 * WINDOW + 512, 15 * WINDOW..15 * WINDOW + 4096] {
        scene.set(vec![(Failing::Read, scene.in_slot(place.clone()))]);
        scene.host.poke("root", 0, scene.image());
        let slot = scene.host.open_at(scene.disk.path(), scene.new.record());
        let installed = Attempt::on(slot, &scene.new, vec![scene.full.source("one")]).run().unwrap();
        assert!(installed.bytes_reused >= (IMAGE - (1 << 20)) as u64, "{place:?}: {} of {IMAGE}", installed.bytes_reused);
        drop(scene.prove(installed.written).unwrap());
        scene.host.assert_is("root", scene.image());
    }
}

#[test]
fn a_slot_that_cannot_be_read_back_is_not_proven() {
    let Some(scene) = Scene::new() else { return };
    for place in places() {
        scene.set(vec![]);
        let written = scene.install(By::Both).unwrap();
        for fault in [Failing::ReadForEver, Failing::WrongRead] {
            scene.disk.fails(vec![(fault, scene.in_slot(place.clone()))]);
        }
        let words = scene.prove(written).expect_err("it cannot be read").to_string();
        assert!(words.contains("slot b"), "{place:?}: {words}");
    }
}

#[test]
fn a_running_slot_that_cannot_be_read_costs_its_own_windows_and_without_the_full_payload_is_named() {
    let Some(scene) = Scene::new() else { return };
    for (window, fault) in
        (0..16).step_by(3).flat_map(|window| [Failing::ReadForEver, Failing::WrongRead].map(|fault| (window, fault)))
    {
        let place = scene.in_running(window * WINDOW..window * WINDOW + 4096);
        scene.set(vec![(fault, place.clone())]);
        assert_eq!(scene.update(By::Both), Ok(()), "{fault:?} in window {window}");
        scene.set(vec![(fault, place)]);
        match scene.update(By::Delta) {
            Ok(()) => assert_eq!(scene.disk.struck(), 0, "nothing leans on window {window}"),
            Err(why) => assert!(why.contains("image \"root\"") && why.contains("slot a"), "{fault:?} in window {window}: {why}"),
        }
    }
}

/// Whatever goes wrong where, and how much of it.
#[test]
fn whatever_a_disk_does_what_is_proven_is_the_image() {
    let Some(scene) = Scene::new() else { return };
    let mut dice: u64 = 0x5eed;
    let mut roll = |below: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % below
    };
    let kinds = [
        Failing::Write,
        Failing::Room,
        Failing::LostWrite,
        Failing::WrongWrite,
        Failing::Read,
        Failing::ReadForEver,
        Failing::WrongRead,
        Failing::Flush,
    ];
    let (mut well, mut badly) = (0, 0);
    for round in 0..60 {
        let faults: Vec<_> = (0..1 + roll(3))
            .map(|_| {
                let (kind, at, length) = (kinds[roll(kinds.len())], roll(ROOM / 512) * 512, 512 << roll(12));
                let bytes = at..ROOM.min(at + length);
                (kind, if roll(4) == 0 { scene.in_running(bytes) } else { scene.in_slot(bytes) })
            })
            .collect();
        scene.set(faults.clone());
        let by = [By::Full, By::Delta, By::Both][roll(3)];
        match scene.update(by) {
            Ok(()) => well += 1,
            Err(why) => {
                assert!(scene.disk.struck() > 0, "round {round} by {by:?} with {faults:?}: {why}");
                badly += 1;
            }
        }
    }
    assert!(well > 5 && badly > 5, "{well} ended well, {badly} badly");
}
