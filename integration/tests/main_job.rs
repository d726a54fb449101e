//! The main job, end to end, with the real programs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use integration::rig::{Host, Publisher, Setup, Spec, reports};
use server_mock::{Answer, AnswerKind, Fault, FaultKind, Mock, OfferedPackage, OfferedUpdate, Script};

/// An answer with a delta beside the full payload.
fn with_delta(version: &str, delta: &str) -> Answer {
    let package = |name: &str, delta| OfferedPackage { name: name.to_owned(), delta, ..OfferedPackage::default() };
    let packages =
        vec![package(&format!("{version}.payload"), false), package(&format!("{version}.release"), false), package(delta, true)];
    AnswerKind::Update(OfferedUpdate { version: version.to_owned(), packages, ..OfferedUpdate::default() }).into()
}

#[test]
fn the_next_release_comes_as_a_delta_from_the_one_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(&dir.path().join("files"));
    let factory = Spec::new("1.0.0", 1);
    publisher.publish(&factory);
    let image = publisher.publish(&Spec::new("2.0.0", 2));
    let mut next = integration::rig::image_of(&Spec::new("3.0.0", 3));
    // All but the header is what was there before.
    next[64 * 1024..].copy_from_slice(&image[64 * 1024..]);
    next[2 << 20] ^= 1;
    publisher.publish_image(&Spec::new("3.0.0", 3), &next);
    let delta = publisher.publish_delta("2.0.0", "3.0.0");
    let delta_bytes = std::fs::metadata(publisher.files.join(&delta)).unwrap().len();

    let mock = Mock::start(Script::serving(&publisher.files).answer(Answer::update("2.0.0"))).unwrap();
    let url = mock.update_url();
    let setup = Setup { strategy: "manual", ..Setup::new(&url) };
    let mut host = Host::new(&dir.path().join("host"), &publisher, &factory, &Setup::new(&url));
    host.start();
    host.wait_committed("2.0.0");
    host.kill();
    host.configure(&setup);
    host.edit_config("check_interval_s = 1", "check_interval_s = 14400");
    // Its first check may come at once, and is to find nothing.
    mock.set_script(Script::serving(&publisher.files).answer(Answer::no_update())).unwrap();
    host.start();
    host.wait_for("it is up", |status| status["state"] == "idle");
    mock.set_script(Script::serving(&publisher.files).answer(with_delta("3.0.0", &delta))).unwrap();
    mock.clear_recorded();

    let said = host.updatectl(&["check"]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.starts_with("Update to 3.0.0 available; would download ") && said.contains(" (full: 2."), "{said}");
    assert!(host.updatectl(&["update"]).status.success());
    let status = host.wait_for("3.0.0 is written and proven", |status| status["state"] == "armed");
    let downloaded = status["target"]["bytes_downloaded"].as_u64();
    let asked: Vec<String> =
        mock.recorded().into_iter().map(|request| request.path).filter(|path| path.ends_with(".payload")).collect();
    assert!(!asked.is_empty() && asked.iter().all(|path| path.ends_with(&delta)), "{asked:?}");
    assert!(downloaded.is_none_or(|bytes| bytes <= delta_bytes), "{status:#}");
    assert!(host.slot_bytes("root-a").starts_with(&next), "the slot is the signed image");
}

/// A host that runs 1.0.0 and knows its record, and 2.0.0, which differs in some places, as a full payload at two places and as a delta at two.
struct Pair {
    host: Host,
    mock: Mock,
    publisher: Publisher,
    old: Vec<u8>,
    new: Vec<u8>,
    // Gone last: the daemon is ended by what is in it.
    _dir: tempfile::TempDir,
}

const DELTA: &str = "1.0.0-to-2.0.0.payload";

impl Pair {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let publisher = Publisher::new(&dir.path().join("files"));
        let factory = Spec::new("1.0.0", 1);
        let old = publisher.publish(&factory);
        let mut new = integration::rig::image_of(&Spec::new("2.0.0", 2));
        new[64 * 1024..].copy_from_slice(&old[64 * 1024..]);
        // In noise, where a little that changed is a difference against what was there.
        for at in [(2 << 20) + 160_000, (3 << 20) + 160_000] {
            new[at..at + 20_000].iter_mut().step_by(40).for_each(|byte| *byte ^= 0x5a);
        }
        publisher.publish_image(&Spec::new("2.0.0", 2), &new);
        assert_eq!(publisher.publish_delta("1.0.0", "2.0.0"), DELTA);
        let mock = Mock::start(Script::serving(&publisher.files).answer(Answer::no_update())).unwrap();
        let url = mock.update_url();
        let setup = Setup { strategy: "manual", ..Setup::new(&url) };
        let mut host = Host::new(&dir.path().join("host"), &publisher, &factory, &setup);
        host.edit_config("check_interval_s = 1", "check_interval_s = 14400");
        host.start();
        host.wait_for("it is up", |status| status["state"] == "idle");
        let record = publisher.files.join("1.0.0.release");
        assert!(host.updatectl(&["adopt", record.to_str().unwrap()]).status.success());
        Self { host, mock, publisher, old, new, _dir: dir }
    }

    /// The middle of the longest blob of a payload: the byte that is flipped, and the windows that it makes.
    fn target(&self, payload: &str) -> (u64, std::ops::Range<u32>) {
        let bytes = std::fs::read(self.publisher.files.join(payload)).unwrap();
        let table = payload::format::FrameTable::read_unbound(&bytes, bytes.len() as u64).unwrap();
        let longest = table.frames().max_by_key(|frame| frame.blob().end - frame.blob().start).unwrap();
        (u64::midpoint(longest.blob().start, longest.blob().end), longest.windows())
    }

    /// Updates with these faults; the slot is the signed image. What the daemon said meanwhile.
    fn update(&self, answer: Answer, faults: Vec<Fault>) -> String {
        self.update_from(&["/one/", "/two/"], answer, faults)
    }

    fn update_from(&self, codebases: &[&str], answer: Answer, faults: Vec<Fault>) -> String {
        let codebases = codebases.iter().map(|codebase| (*codebase).to_owned()).collect();
        let script = Script { codebases, faults, ..Script::serving(&self.publisher.files) };
        self.mock.set_script(script.answer(answer)).unwrap();
        let update = self.host.updatectl(&["update"]);
        assert!(update.status.success(), "{}", String::from_utf8_lossy(&update.stderr));
        self.host.wait_for("2.0.0 is written and proven", |status| status["state"] == "armed");
        assert!(self.host.slot_bytes("root-b").starts_with(&self.new), "the slot is the signed image");
        self.host.log()
    }
}

/// The log says by whom one of these windows was made after all. Others of a frame may have come out right.
fn assert_made_by(log: &str, windows: &std::ops::Range<u32>, origin: &str) {
    let is_told = |window: u32| {
        log.lines().filter(|line| line.contains(" made by ") && line.contains(origin)).any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| words.get(at).and_then(|word| word.parse::<u32>().ok());
            words.iter().enumerate().any(|(at, word)| match *word {
                "window" => number(at + 1) == Some(window),
                "windows" => number(at + 1).zip(number(at + 3)).is_some_and(|(first, last)| (first..=last).contains(&window)),
                _ => false,
            })
        })
    };
    assert!(windows.clone().any(is_told), "expected windows {windows:?} by {origin} in:\n{log}");
}

fn flipped(path: &str, offset: u64) -> Fault {
    Fault::on(path, FaultKind::FlipByte { offset })
}

#[test]
fn a_flipped_byte_of_the_running_slot_costs_its_windows_and_the_log_says_who_made_them() {
    let pair = Pair::new();
    let mut damaged = pair.old.clone();
    damaged[(2 << 20) + 170_003] ^= 0x10;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("damaged"), &damaged).unwrap();
    integration::hostsim::image::write_slot(&pair.host.disk(), "root-a", &folder.path().join("damaged")).unwrap();
    let log = pair.update(with_delta("2.0.0", DELTA), vec![]);
    assert!(
        log.contains(
            "it leans on slot a, which runs, and window 8 (at byte 2097152) of image \"root\" there is not what its release says"
        ),
        "{log}"
    );
    assert_made_by(&log, &(8..9), "the full payload from http://");
    assert!(log.contains("every window is right") && log.contains("by the delta from http://"), "{log}");
}

#[test]
fn a_flipped_byte_of_a_delta_is_made_up_for_by_its_other_source_or_by_the_full_payload() {
    let pair = Pair::new();
    let (byte, windows) = pair.target(DELTA);
    let log = pair.update(with_delta("2.0.0", DELTA), vec![flipped(&format!("/one/{DELTA}"), byte)]);
    assert_made_by(&log, &windows, &format!("/two/{DELTA}"));

    let pair = Pair::new();
    let log = pair.update(with_delta("2.0.0", DELTA), vec![flipped(&format!("*/{DELTA}"), byte)]);
    assert_made_by(&log, &windows, "the full payload from http://");
}

#[test]
fn a_flipped_byte_of_the_full_payload_is_made_up_for_by_its_other_source() {
    let pair = Pair::new();
    let (byte, windows) = pair.target("2.0.0.payload");
    let log = pair.update(Answer::update("2.0.0"), vec![flipped("/one/2.0.0.payload", byte)]);
    assert_made_by(&log, &windows, "/two/2.0.0.payload");
}

#[test]
fn a_byte_that_was_flipped_on_its_way_is_fetched_once_more() {
    let pair = Pair::new();
    let (byte, windows) = pair.target(DELTA);
    let faults = vec![flipped(&format!("/one/{DELTA}"), byte).times(1)];
    let log = pair.update_from(&["/one/"], with_delta("2.0.0", DELTA), faults);
    assert_made_by(&log, &windows, &format!("/one/{DELTA}"));
}

#[test]
fn a_signed_release_is_written_proven_armed_booted_and_committed() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(&dir.path().join("files"));
    let factory = Spec::new("1.0.0", 1);
    publisher.publish(&factory);
    let image = publisher.publish(&Spec::new("2.0.0", 2));
    let mock = Mock::start(Script::serving(&publisher.files).answer(Answer::update("2.0.0"))).unwrap();
    let mut host = Host::new(&dir.path().join("host"), &publisher, &factory, &Setup::new(&mock.update_url()));
    host.start();
    let status = host.wait_committed("2.0.0");
    assert_eq!(status["booted"]["slot"], "b", "{status:#}");
    assert_eq!(status["attempts"]["committed"], 1, "{status:#}");
    let written = host.slot_bytes("root-b");
    assert!(written.starts_with(&image), "the slot is the signed image");
    assert!(written[image.len()..].iter().all(|byte| *byte == 0), "the tail is clean");
    assert_eq!(host.boot_bits(), [(1, 0, true), (2, 0, true)]);
    let history = host.get("/v1/history").unwrap();
    let id = history[0]["attempt"].as_str().unwrap().to_owned();
    let told = host.wait("the server was told of the commit", || {
        Some(reports(&mock, Some(&id))).filter(|told| told.last().is_some_and(|(words, _)| words == "3/2"))
    });
    let words: Vec<&str> = told.iter().map(|(words, _)| words.as_str()).collect();
    assert_eq!(words, ["13/1", "14/1", "3/1", "3/2"]);
    let before: Vec<Option<&str>> = told.iter().map(|(_, event)| event.previous_version.as_deref()).collect();
    assert_eq!(before, [None, None, None, Some("1.0.0")]);
    assert!(told.iter().all(|(_, event)| event.reason.is_none()), "{told:?}");
}
