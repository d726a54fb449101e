//! The main job, end to end, with the real programs.
use integration::rig::{Host, Publisher, Setup, Spec, reports};
use server_mock::{Answer, AnswerKind, Mock, OfferedPackage, OfferedUpdate, Script};

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
    mock.set_script(Script::serving(&publisher.files).answer(with_delta("3.0.0", &delta))).unwrap();
    mock.clear_recorded();
    host.start();
    host.wait_for("it is up", |status| status["state"] == "idle");

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
