//! Installs from deltas: what is made of the running slot, and what becomes of an update where that, the delta or the full payload is damaged.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "a test that cannot go on fails")]

mod fetching;
mod installing;

use fetching::noise;
use installing::{Attempt, Host, Published, Server, Vouched, WINDOW, content};
use update_engine::install::{InstallError, Scan};

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
    attempt(Some(scene.old.record())).run().unwrap();
    scene.host.assert_is("root", scene.image());
    attempt(None).run().unwrap();
    scene.host.assert_is("root", scene.image());
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
        scene.host.poke("root", 0, &vec![installing::OLD; WINDOWS * WINDOW]);
        for window in kept {
            scene.host.poke("root", (window * WINDOW) as u64, &scene.image()[window * WINDOW..][..WINDOW]);
        }
        for (deltas, fulls) in [(true, false), (false, true)] {
            let (delta, full) = (Server::of(&scene.delta, []), Server::of(&scene.new.payload, []));
            let sources = if fulls { vec![full.source("one")] } else { vec![] };
            let mut attempt = Attempt::new(&scene.host, &scene.new, sources).scanning(Scan::Any);
            if deltas {
                attempt = attempt.with_delta(vec![delta.source("one")], scene.host.base(Some(scene.old.record())));
            }
            attempt.run().unwrap();
            scene.host.assert_is("root", scene.image());
        }
    }
}
