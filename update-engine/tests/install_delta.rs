//! Installs from deltas: what is made of the running slot, and what becomes of an update where that, the delta or the full payload is damaged.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "a test that cannot go on fails")]

mod fetching;
mod installing;

use fetching::{fault, noise};
use installing::{Attempt, Host, Published, Server, Vouched, WINDOW, content};
use manifests::digest::Sha256Digest;
use manifests::release::SlotName;
use payload::format::Kind;
use server_mock::FaultKind;
use update_engine::install::{InstallError, MAX_IN_FLIGHT, Scan};

const WINDOWS: usize = 24;

/// What runs: noise, text and zeros.
fn old() -> Published {
    Published::root(content(WINDOWS * WINDOW, 1), Vouched::Yes)
}

/// The next release: some windows changed a little, one moved, one new.
fn new(old: &Published) -> Published {
    let mut image = old.images[0].2.clone();
    for window in [0, 3, 8, 9, 17] {
        for at in (window * WINDOW + 100..(window + 1) * WINDOW).step_by(9000) {
            image[at] ^= 0x55;
        }
    }
    image.copy_within(0..WINDOW, 20 * WINDOW);
    let fresh = noise(3 * WINDOW).split_off(2 * WINDOW + WINDOW / 2);
    image[12 * WINDOW..12 * WINDOW + fresh.len()].copy_from_slice(&fresh.iter().map(|byte| byte ^ 0x5a).collect::<Vec<_>>());
    Published::root(image, Vouched::Yes)
}

struct Scene {
    host: Host,
    old: Published,
    new: Published,
    delta: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        let old = old();
        let new = new(&old);
        let host = Host::new(&["root"], WINDOWS * WINDOW);
        host.runs("root", 0, &old.images[0].2);
        let delta = new.delta_from(&old);
        Self { host, old, new, delta }
    }

    fn image(&self) -> &[u8] {
        &self.new.images[0].2
    }
}

#[test]
fn a_delta_makes_the_slot_out_of_the_one_that_runs() {
    let scene = Scene::new();
    let (deltas, full) = (Server::of(&scene.delta, []), Server::of(&scene.new.payload, []));
    let installed = Attempt::new(&scene.host, &scene.new, vec![full.source("one")])
        .with_delta(vec![deltas.source("one")], scene.host.base(Some(scene.old.record())))
        .run()
        .unwrap();
    scene.host.assert_is("root", scene.image());
    assert_eq!(full.mock.recorded().len(), 0, "nobody needs the full payload");
    assert!(installed.bytes_downloaded <= scene.delta.len() as u64, "{} of {}", installed.bytes_downloaded, scene.delta.len());
    assert!(scene.delta.len() < scene.new.payload.len() / 4, "{} of {}", scene.delta.len(), scene.new.payload.len());
}

#[test]
fn a_delta_alone_is_enough_also_where_the_record_of_the_running_slot_is_not_known() {
    let scene = Scene::new();
    let deltas = Server::of(&scene.delta, []);
    Attempt::new(&scene.host, &scene.new, vec![]).with_delta(vec![deltas.source("one")], scene.host.base(None)).run().unwrap();
    scene.host.assert_is("root", scene.image());
}

#[test]
fn a_damaged_window_of_the_running_slot_costs_its_own_windows_only() {
    let scene = Scene::new();
    scene.host.runs("root", 8 * WINDOW as u64 + 5, &[0x77]);
    let (deltas, full) = (Server::of(&scene.delta, []), Server::of(&scene.new.payload, []));
    Attempt::new(&scene.host, &scene.new, vec![full.source("one")])
        .with_delta(vec![deltas.source("one")], scene.host.base(Some(scene.old.record())))
        .run()
        .unwrap();
    scene.host.assert_is("root", scene.image());
    let asked = full.bytes_asked("one");
    assert!(asked > 0 && asked < scene.new.payload.len() as u64 / 2, "{asked} of {}", scene.new.payload.len());
}

#[test]
fn a_running_slot_that_is_something_else_altogether_is_made_up_for_by_the_full_payload() {
    let scene = Scene::new();
    scene.host.runs("root", 0, &noise(WINDOWS * WINDOW));
    let (deltas, full) = (Server::of(&scene.delta, []), Server::of(&scene.new.payload, []));
    let attempt = |record| {
        Attempt::new(&scene.host, &scene.new, vec![full.source("one")])
            .with_delta(vec![deltas.source("one")], scene.host.base(record))
            .scanning(Scan::Any)
    };
    for record in [Some(scene.old.record()), None] {
        scene.host.poke("root", 0, &vec![installing::OLD; WINDOWS * WINDOW]);
        attempt(record).run().unwrap();
        scene.host.assert_is("root", scene.image());
    }
}

/// Nobody knows whether the blob is bad or the running slot another one: the other blob is asked for before either is blamed.
#[test]
fn a_bad_blob_is_asked_for_again_where_the_record_of_the_running_slot_is_not_known() {
    let scene = Scene::new();
    let table = payload::format::FrameTable::read(&scene.delta, scene.delta.len() as u64, scene.new.record()).unwrap();
    let leans = |frame: &payload::format::Frame<'_>| !frame.blob().is_empty() && frame.extents().next().is_some();
    let byte = table.frames().find(leans).unwrap().blob().start + 20;
    let flip = FaultKind::FlipByte { offset: byte };
    // By one of two servers, and once by the only one.
    for (faults, sources) in [(fault("one", flip.clone()), vec!["one", "two"]), (fault("one", flip).times(1), vec!["one"])] {
        scene.host.poke("root", 0, &vec![installing::OLD; WINDOWS * WINDOW]);
        let deltas = Server::of(&scene.delta, [faults]);
        let sources = sources.into_iter().map(|codebase| deltas.source(codebase)).collect();
        Attempt::new(&scene.host, &scene.new, vec![]).with_delta(sources, scene.host.base(None)).run().unwrap();
        scene.host.assert_is("root", scene.image());
    }
    // Where nobody has another, both are possible.
    let always = Server::of(&scene.delta, [fault("one", FaultKind::FlipByte { offset: byte })]);
    scene.host.poke("root", 0, &vec![installing::OLD; WINDOWS * WINDOW]);
    let error = Attempt::new(&scene.host, &scene.new, vec![])
        .with_delta(vec![always.source("one")], scene.host.base(None))
        .run()
        .unwrap_err()
        .to_string();
    assert!(error.contains("slot a, which runs, may not be what it leans on: its record is not known"), "{error}");
}

/// A delta whose frames with a blob are of a kind that nobody knows, as many as this, but for the first ones; the windows of the changed frames.
fn with_unknown_kinds(delta: &[u8], new: &Published, but_first: usize, most: usize) -> (Vec<u8>, Vec<u32>) {
    let read = |delta: &[u8]| payload::format::FrameTable::read(&delta, delta.len() as u64, new.record());
    let unknown = |table: &payload::format::FrameTable| {
        table.frames().filter(|frame| frame.kind() == Kind::Unknown(77)).map(|frame| frame.windows()).collect::<Vec<_>>()
    };
    let table = read(delta).unwrap();
    let keep = table.frames().filter(|frame| !frame.blob().is_empty()).nth(but_first).unwrap().windows().start;
    let (table, mut delta, mut count) = (table.header().table_range(), delta.to_vec(), 0);
    for at in table.start as usize..table.end as usize {
        if count == most || !matches!(delta[at], 3..=5) {
            continue;
        }
        let mut changed = delta.clone();
        changed[at] = 77;
        let digest = Sha256Digest::of(&changed[table.start as usize..table.end as usize]);
        changed[32..64].copy_from_slice(digest.as_bytes());
        let windows = read(&changed).map_or(Vec::new(), |table| unknown(&table));
        if windows.len() > count && windows.iter().all(|windows| windows.start >= keep) {
            (delta, count) = (changed, windows.len());
        }
    }
    let windows = unknown(&read(&delta).unwrap()).into_iter().flatten().collect();
    (delta, windows)
}

#[test]
fn a_frame_of_a_kind_that_this_build_lacks_costs_its_own_windows_and_nobody_is_blamed() {
    let scene = Scene::new();
    let (delta, windows) = with_unknown_kinds(&scene.delta, &scene.new, 0, 1);
    let (deltas, full) = (Server::of(&delta, []), Server::of(&scene.new.payload, []));
    let attempt = |fulls| {
        scene.host.poke("root", 0, &vec![installing::OLD; WINDOWS * WINDOW]);
        Attempt::new(&scene.host, &scene.new, fulls)
            .with_delta(vec![deltas.source("one")], scene.host.base(Some(scene.old.record())))
    };
    attempt(vec![full.source("one")]).run().unwrap();
    scene.host.assert_is("root", scene.image());
    let asked = full.bytes_asked("one");
    assert!(asked > 0 && asked < scene.new.payload.len() as u64 / 2, "{asked} for windows {windows:?}");
    let error = attempt(vec![]).run().unwrap_err().to_string();
    assert!(
        error.starts_with("the delta cannot be used, and no full payload is offered: frame ") && error.contains("77"),
        "{error}"
    );
}

/// What the full payload makes leans on a window that the delta has still to make: that one is made first, however late it turned out wrong. Of frames that are
/// fetched before what they lean on, memory would have no bound; `Round::make_again` asserts that there are none.
#[test]
fn out_of_turn_the_lowest_frame_is_made_first() {
    let noise = noise(WINDOW);
    let like = |number: usize| {
        let change = move |(at, byte): (usize, &u8)| if at % 4096 == number * 128 { byte ^ 0x5a } else { *byte };
        noise.iter().enumerate().map(change).collect::<Vec<u8>>()
    };
    // More frames of the full payload than may be under way at once.
    let windows = 5 * MAX_IN_FLIGHT;
    let old = Published::root(vec![1; windows * WINDOW], Vouched::Yes);
    let new = Published::root((0..windows).flat_map(like).collect(), Vouched::Yes);
    let table = payload::format::FrameTable::read(&new.payload, new.payload.len() as u64, new.record()).unwrap();
    let first = table.frame_of(0, 0).unwrap().windows();
    let leans = |frame: &payload::format::Frame<'_>| frame.needs().flatten().any(|window| first.contains(&window));
    let leaning = table.frames().filter(leans).count();
    assert!(leaning > MAX_IN_FLIGHT, "{leaning} frames of the full payload lean on windows {first:?}");
    let (delta, unknown) = with_unknown_kinds(&new.delta_from(&old), &new, 1, 60);
    assert!(unknown.len() > windows / 2, "{unknown:?}");
    let host = Host::new(&["root"], windows * WINDOW);
    host.runs("root", 0, &old.images[0].2);
    let table = payload::format::FrameTable::read(&delta, delta.len() as u64, new.record()).unwrap();
    let byte = table.frames().find(|frame| !frame.blob().is_empty()).unwrap().blob().start + 20;
    let deltas = Server::of(&delta, [fault("one", FaultKind::FlipByte { offset: byte })]);
    let full = Server::of(&new.payload, []);
    Attempt::new(&host, &new, vec![full.source("one")])
        .with_delta(vec![deltas.source("one"), deltas.source("two")], host.base(Some(old.record())))
        .run()
        .unwrap();
    host.assert_is("root", &new.images[0].2);
}

#[test]
fn a_delta_from_another_release_is_not_followed() {
    let scene = Scene::new();
    let (deltas, full) = (Server::of(&scene.delta, []), Server::of(&scene.new.payload, []));
    let attempt = |sources| {
        Attempt::new(&scene.host, &scene.new, sources)
            .with_delta(vec![deltas.source("one")], scene.host.base(Some(scene.new.record())))
    };
    attempt(vec![full.source("one")]).run().unwrap();
    scene.host.assert_is("root", scene.image());
    scene.host.poke("root", 0, &[installing::OLD; WINDOW]);
    let error = attempt(vec![]).run().unwrap_err();
    assert!(matches!(error, InstallError::NoBase(_)), "{error}");
    assert!(error.to_string().contains("another image \"root\" than that of release 1.1.0"), "{error}");
}

#[test]
fn a_damaged_delta_is_made_up_for_by_its_other_source_or_by_the_full_payload() {
    let scene = Scene::new();
    let table = payload::format::FrameTable::read(&scene.delta, scene.delta.len() as u64, scene.new.record()).unwrap();
    for frame in table.frames().filter(|frame| !frame.blob().is_empty()) {
        let mut damaged = scene.delta.clone();
        damaged[frame.blob().start as usize + 20] ^= 0x10;
        let (bad, good, full) = (Server::of(&damaged, []), Server::of(&scene.delta, []), Server::of(&scene.new.payload, []));
        let attempt = |deltas, fulls| {
            Attempt::new(&scene.host, &scene.new, fulls).with_delta(deltas, scene.host.base(Some(scene.old.record())))
        };
        attempt(vec![bad.source("one"), good.source("two")], vec![]).run().unwrap();
        scene.host.assert_is("root", scene.image());
        scene.host.poke("root", 0, &vec![installing::OLD; WINDOWS * WINDOW]);
        attempt(vec![bad.source("one")], vec![full.source("one")]).run().unwrap();
        scene.host.assert_is("root", scene.image());
        scene.host.poke("root", 0, &vec![installing::OLD; WINDOWS * WINDOW]);
    }
}

#[test]
fn a_damaged_full_payload_beside_a_damaged_running_slot_is_named() {
    let scene = Scene::new();
    scene.host.runs("root", 8 * WINDOW as u64 + 5, &[0x77]);
    let table =
        payload::format::FrameTable::read(&scene.new.payload, scene.new.payload.len() as u64, scene.new.record()).unwrap();
    let mut damaged = scene.new.payload.clone();
    damaged[table.frame_of(0, 8).unwrap().blob().start as usize + 20] ^= 0x10;
    let (deltas, full) = (Server::of(&scene.delta, []), Server::of(&damaged, []));
    let error = Attempt::new(&scene.host, &scene.new, vec![full.source("one")])
        .with_delta(vec![deltas.source("one")], scene.host.base(Some(scene.old.record())))
        .run()
        .unwrap_err();
    assert!(matches!(error, InstallError::WrongWindow(_) | InstallError::WrongFrame { .. }), "{error}");
    // Nothing wrong was written.
    scene.host.right_windows("root", scene.image());
}

#[test]
fn what_a_killed_install_left_is_kept_and_only_the_rest_is_fetched() {
    let scene = Scene::new();
    for kept in [vec![0, 1, 2, 3], vec![20], vec![5, 9, 13], (0..WINDOWS).step_by(2).collect::<Vec<_>>()] {
        for (deltas, fulls) in [(true, false), (false, true)] {
            scene.host.poke("root", 0, &vec![installing::OLD; WINDOWS * WINDOW]);
            for window in &kept {
                scene.host.poke("root", (window * WINDOW) as u64, &scene.image()[window * WINDOW..][..WINDOW]);
            }
            let (delta, full) = (Server::of(&scene.delta, []), Server::of(&scene.new.payload, []));
            let sources = if fulls { vec![full.source("one")] } else { vec![] };
            let mut attempt = Attempt::new(&scene.host, &scene.new, sources).scanning(Scan::Any);
            if deltas {
                attempt = attempt.with_delta(vec![delta.source("one")], scene.host.base(Some(scene.old.record())));
            }
            let installed = attempt.run().unwrap();
            scene.host.assert_is("root", scene.image());
            assert!(installed.bytes_reused >= (kept.len() * WINDOW) as u64, "{kept:?}: {}", installed.bytes_reused);
            // Of the full payload: its front, the frames that make what is missing, and what lies near is read along.
            let table = payload::format::FrameTable::read(&scene.new.payload, scene.new.payload.len() as u64, scene.new.record())
                .unwrap();
            let is_needed = |frame: &payload::format::Frame<'_>| frame.windows().any(|window| !kept.contains(&(window as usize)));
            let needed: u64 =
                table.frames().filter(is_needed).map(|frame| frame.blob().end - frame.blob().start + (16 << 10)).sum();
            let asked = full.bytes_asked("one");
            assert!(!fulls || asked <= needed + (64 << 10), "{kept:?}: {asked}, needed {needed}");
        }
    }
}

/// What is known of the slot by now is coalesced like all else: one request for the front, and one for the rest.
#[test]
fn after_a_break_what_is_left_is_asked_for_in_one_request() {
    let scene = Scene::new();
    let full = Server::of(&scene.new.payload, []);
    scene.host.poke("root", 0, &vec![installing::OLD; WINDOWS * WINDOW]);
    scene.host.poke("root", 0, &scene.image()[..8 * WINDOW]);
    let scan = Scan::shared(scene.new.record(), scene.new.record(), SlotName::B);
    Attempt::new(&scene.host, &scene.new, vec![full.source("one")]).scanning(scan).run().unwrap();
    scene.host.assert_is("root", scene.image());
    assert!(full.ranges("one").len() <= 2, "{:?}", full.ranges("one"));
}
