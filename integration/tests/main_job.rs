//! The main job, end to end, with the real programs.
use integration::rig::{Host, Publisher, Setup, Spec, reports};
use server_mock::{Answer, Mock, Script};

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
