//! Servers that lie, stumble or vanish, on the way of the answer and on the way of the payload.

use std::time::Duration;

use integration::rig::{APP_ID, Publisher, Spec};
use serde_json::Value;
use server_mock::{Answer, AnswerKind, Fault, FaultKind, Mock, OfferedPackage, OfferedUpdate, Script};

use crate::scene::{Options, Scene, next_release, offer, says, small};

const MIB: u64 = 1 << 20;
const WINDOW: usize = 256 << 10;

/// 2.0.0 from a mirror and, after it, from the honest server.
fn from_mirror_and_origin(publisher: &Publisher) -> Script {
    publisher.publish(&small("2.0.0", 2));
    Script { codebases: vec!["/mirror/".to_owned(), "/files/".to_owned()], ..offer(publisher, "2.0.0") }
}

fn payload_bytes(publisher: &Publisher, version: &str) -> u64 {
    std::fs::metadata(publisher.files.join(format!("{version}.payload"))).unwrap().len()
}

/// When the server was asked for updates.
fn update_check_times(mock: &Mock) -> Vec<jiff::Timestamp> {
    let recorded = mock.recorded();
    let checks = recorded.iter().filter(|request| request.path.starts_with("/v1/update") && request.body.contains("updatecheck"));
    checks.map(|request| request.at).collect()
}

fn update_checks(mock: &Mock) -> usize {
    update_check_times(mock).len()
}

/// The second check did not come before so many seconds: by the server's clock, which the load of the machine does not touch.
fn assert_first_pause(mock: &Mock, at_least_s: i64) {
    let asked = update_check_times(mock);
    let [first, second, ..] = asked.as_slice() else { panic!("asked only at {asked:?}") };
    let pause = second.duration_since(*first);
    assert!(pause >= jiff::SignedDuration::from_secs(at_least_s), "the server was asked again after {pause}");
}

fn sent(mock: &Mock, path: &str) -> u64 {
    mock.recorded().iter().filter(|request| request.path == path).map(|request| request.bytes_sent).sum()
}

/// The release came through whole.
fn assert_committed(scene: &Scene, image: &[u8]) -> Value {
    let status = scene.host.wait_committed("2.0.0");
    assert_eq!(status["attempts"]["committed"], 1, "{status:#}");
    assert_eq!(status["attempts"]["failed"], 0, "{status:#}");
    assert_eq!(status["last_error"], Value::Null, "{status:#}");
    assert!(scene.host.slot_bytes("root-b").starts_with(image), "slot b is not the signed image");
    scene.assert_slot_a_untouched();
    status
}

/// The attempt failed: said everywhere, to its server as this number, nothing armed, and no window that is neither old nor right.
fn assert_failed(scene: &Scene, (code, number): (&str, u32), words: &[&str], image: &[u8]) {
    let status = scene.host.wait_for(&format!("the attempt failed ({code})"), |status| status["attempts"]["failed"] != 0);
    assert_eq!(status["last_error"]["code"], code, "{status:#}");
    says(&status["last_error"]["message"], words);
    let attempt = scene.attempt("the failure is in the history", |attempt| attempt["outcome"] == "failed");
    says(&attempt["reason"], words);
    says(&attempt["to"], &["2.0.0"]);
    scene.assert_reported(Some(&attempt), &["13/1", &format!("3/0 {number}")], words);
    scene.assert_nothing_armed();
    for (window, (have, want)) in scene.host.slot_bytes("root-b").chunks(WINDOW).zip(image.chunks(WINDOW)).enumerate() {
        assert!(have == want || have.iter().all(|byte| *byte == 0), "window {window} holds what no record says");
    }
}

#[test]
fn a_dishonest_mirror_costs_a_window_not_the_update() {
    let mut image = Vec::new();
    let mut scene = Scene::new(&Options::default(), |publisher| {
        let script = from_mirror_and_origin(publisher);
        image = publisher.publish(&small("2.0.0", 2));
        let offset = payload_bytes(publisher, "2.0.0") / 2;
        script.fault(Fault::on("/mirror/*.payload", FaultKind::FlipByte { offset }))
    });
    scene.start();
    assert_committed(&scene, &image);
    assert!(sent(&scene.mock, "/mirror/2.0.0.payload") > 0, "the mirror was never asked");
    assert!(sent(&scene.mock, "/files/2.0.0.payload") > 0, "the honest server was never asked");
}

#[test]
fn a_file_server_that_gives_nothing_is_named_while_it_is_asked_again() {
    let mut image = Vec::new();
    let mut scene = Scene::new(&Options::default(), |publisher| {
        image = publisher.publish(&small("2.0.0", 2));
        offer(publisher, "2.0.0").fault(Fault::on("/files/*.payload", FaultKind::Status { code: 503, retry_after_s: None }))
    });
    scene.start();
    let status = scene.host.wait_for("the trouble is said", |status| status["progress"]["trouble"] != Value::Null);
    let words = ["/files/2.0.0.payload", "503"];
    says(&status["progress"]["trouble"], &words);
    says(&status["summary"], &["Writing 2.0.0 to slot b (0 %; nothing comes, trying again: "]);
    says(&status["summary"], &words);
    scene.assert_nothing_armed();
    scene.offer("2.0.0");
    assert_committed(&scene, &image);
}

#[test]
fn when_everyone_lies_the_attempt_fails_and_no_wrong_window_is_written() {
    let mut image = Vec::new();
    let mut scene = Scene::new(&Options::default(), |publisher| {
        let script = from_mirror_and_origin(publisher);
        image = publisher.publish(&small("2.0.0", 2));
        let offset = payload_bytes(publisher, "2.0.0") / 2;
        script.fault(Fault::on("*.payload", FaultKind::FlipByte { offset }))
    });
    scene.start();
    assert_failed(
        &scene,
        ("payload-mismatch", 29),
        &["no source", "image \"root\"", "/mirror/2.0.0.payload", "/files/2.0.0.payload"],
        &image,
    );
}

#[test]
fn a_new_attempt_fetches_only_what_the_failed_one_did_not_write() {
    let mut image = Vec::new();
    let size = 8 * MIB;
    let mut scene = Scene::new(&Options { slot_bytes: size, ..Options::default() }, |publisher| {
        image = publisher.publish(&Spec { size, ..Spec::new("2.0.0", 2) });
        // The frame table comes first in the file; what breaks is the last part of the blobs.
        let offset = payload_bytes(publisher, "2.0.0") / 10 * 8;
        offer(publisher, "2.0.0").fault(Fault::on("*.payload", FaultKind::FlipByte { offset }))
    });
    let payload = payload_bytes(&scene.publisher, "2.0.0");
    scene.start();
    scene.host.wait_for("the attempt failed", |status| status["attempts"]["failed"] != 0);
    let first = sent(&scene.mock, "/files/2.0.0.payload");
    scene.mock.clear_recorded();
    scene.offer("2.0.0");
    let status = scene.host.wait_committed("2.0.0");
    let again = sent(&scene.mock, "/files/2.0.0.payload");
    println!("payload {payload}, first attempt {first}, then {again}");
    assert!(again < payload / 2, "{again} of {payload} bytes were fetched again after {first}");
    assert!(status["attempts"]["failed"].as_u64() >= Some(1) && status["attempts"]["committed"] == 1, "{status:#}");
    assert!(scene.host.slot_bytes("root-b").starts_with(&image), "slot b is not the signed image");
}

#[test]
fn a_truncated_payload_fails_with_the_name_of_who_sent_it() {
    let mut image = Vec::new();
    let mut scene = Scene::new(&Options::default(), |publisher| {
        image = publisher.publish(&small("2.0.0", 2));
        offer(publisher, "2.0.0")
    });
    scene.change_file("2.0.0.payload", |bytes| bytes.truncate(bytes.len() / 2));
    scene.start();
    assert_failed(&scene, ("payload-format", 21), &["payload", "/files/2.0.0.payload"], &image);
    scene.change_file("2.0.0.payload", |bytes| bytes.clear());
    image = scene.publisher.publish(&small("2.0.0", 2));
    scene.host.wait_committed("2.0.0");
    assert!(scene.host.slot_bytes("root-b").starts_with(&image));
}

#[test]
fn whatever_a_mirror_does_an_honest_server_beside_it_is_enough() {
    let elsewhere = FaultKind::Redirect { to: "/nowhere/{name}".to_owned(), code: 302 };
    let kinds = [
        FaultKind::WrongRange,
        FaultKind::OkFor206,
        FaultKind::GzipEncoded,
        FaultKind::Garbage,
        FaultKind::NotHttp,
        FaultKind::WrongLength { by: 1000 },
        FaultKind::EtagChange,
        FaultKind::Status { code: 404, retry_after_s: None },
        FaultKind::Status { code: 500, retry_after_s: None },
        elsewhere,
    ];
    for kind in kinds {
        let mut image = Vec::new();
        let (name, fault) = (kind.name(), Fault::on("/mirror/*.payload", kind).times(4));
        let mut scene = Scene::new(&Options::default(), |publisher| {
            let script = from_mirror_and_origin(publisher);
            image = publisher.publish(&small("2.0.0", 2));
            script.fault(fault)
        });
        scene.start();
        println!("{name}");
        assert_committed(&scene, &image);
    }
}

#[test]
fn a_server_that_knows_no_ranges_is_good_enough() {
    let mut image = Vec::new();
    let mut scene = Scene::new(&Options::default(), |publisher| {
        image = publisher.publish(&small("2.0.0", 2));
        offer(publisher, "2.0.0").fault(Fault::on("*.payload", FaultKind::OkFor206))
    });
    scene.start();
    assert_committed(&scene, &image);
}

/// Nobody else has the payload, and this goes on for ever.
fn assert_hopeless(kind: FaultKind, code: (&str, u32), words: &[&str]) {
    let mut image = Vec::new();
    let mut scene = Scene::new(&Options::default(), |publisher| {
        image = publisher.publish(&small("2.0.0", 2));
        offer(publisher, "2.0.0").fault(Fault::on("*.payload", kind))
    });
    scene.start();
    let words: Vec<&str> = words.iter().copied().chain(["/files/2.0.0.payload"]).collect();
    assert_failed(&scene, code, &words, &image);
}

#[test]
fn a_server_of_wrong_ranges_is_given_up_with_its_name() {
    assert_hopeless(FaultKind::WrongRange, ("download", 9), &["asked for bytes 0-", "got 1-"]);
}

#[test]
fn a_server_that_compresses_what_must_not_be_is_given_up_with_its_name() {
    assert_hopeless(FaultKind::GzipEncoded, ("download", 9), &["gzip"]);
}

#[test]
fn a_payload_that_is_not_there_is_said_with_its_url() {
    assert_hopeless(FaultKind::Status { code: 404, retry_after_s: None }, ("http-404", 2404), &["404"]);
}

#[test]
fn a_server_that_stumbles_is_asked_again_within_the_attempt() {
    let kinds =
        [FaultKind::Refuse, FaultKind::Reset, FaultKind::Truncate, FaultKind::Status { code: 503, retry_after_s: Some(1) }];
    for kind in kinds {
        let mut image = Vec::new();
        let name = kind.name();
        let mut scene = Scene::new(&Options::default(), |publisher| {
            image = publisher.publish(&small("2.0.0", 2));
            let half = payload_bytes(publisher, "2.0.0") / 2;
            let fault = Fault::on("*.payload", kind).times(1);
            offer(publisher, "2.0.0").fault(if matches!(fault.kind, FaultKind::Reset | FaultKind::Truncate) {
                fault.at_offset(half)
            } else {
                fault
            })
        });
        scene.start();
        println!("{name}");
        assert_committed(&scene, &image);
    }
}

#[test]
fn a_server_that_is_gone_mid_way_and_comes_back_is_gone_on_with_where_it_left_off() {
    let mut image = Vec::new();
    let options = Options { slot_bytes: 17 * MIB, ..Options::default() };
    let mut scene = Scene::new(&options, |publisher| {
        image = publisher.publish(&Spec { size: 16 * MIB, ..Spec::new("2.0.0", 2) });
        let half = payload_bytes(publisher, "2.0.0") / 2;
        let gone = Fault::on("*.payload", FaultKind::Outage { seconds: 3 }).times(1);
        offer(publisher, "2.0.0").fault(Fault::on("*.payload", FaultKind::Reset).at_offset(half).times(1)).fault(gone.skip(1))
    });
    scene.start();
    let done = |status: &Value| status["progress"]["windows_done"].as_u64().unwrap_or_default();
    let status = scene.host.wait_for("the outage is said", |status| status["progress"]["trouble"] != Value::Null);
    says(&status["progress"]["trouble"], &["/files/2.0.0.payload"]);
    says(&status["summary"], &["Writing 2.0.0 to slot b", "nothing comes, trying again: ", "/files/2.0.0.payload"]);
    // Frames that were not written yet when the transfer broke off are asked for again, so none may be done.
    assert!(done(&status) < 16 * 4, "mid-way: {status:#}");
    scene.assert_nothing_armed();
    let status = scene.host.status();
    assert_eq!((&status["state"], &status["last_error"]), (&"fetching".into(), &Value::Null), "it waits for it: {status:#}");
    assert_committed(&scene, &image);
    let recorded = scene.mock.recorded();
    let faults: Vec<_> = recorded.iter().filter_map(|request| request.fault.as_deref()).collect();
    assert!(faults.contains(&"reset"), "{faults:?}");
    let (whole, got) = (payload_bytes(&scene.publisher, "2.0.0"), sent(&scene.mock, "/files/2.0.0.payload"));
    println!("payload {whole}, sent {got}, faults {faults:?}");
    assert!(got <= whole + whole / 2, "{got} bytes were sent for a payload of {whole}");
}

#[test]
fn a_payload_of_another_size_than_announced_is_not_fetched_and_both_sizes_are_said() {
    for wrong in [-1000_i64, 1000] {
        let (mut image, mut sizes) = (Vec::new(), [0, 0]);
        let mut scene = Scene::new(&Options::default(), |publisher| {
            image = publisher.publish(&small("2.0.0", 2));
            let size = payload_bytes(publisher, "2.0.0");
            sizes = [size, size.checked_add_signed(wrong).unwrap()];
            let package = OfferedPackage { name: "2.0.0.payload".into(), size: Some(sizes[1]), ..OfferedPackage::default() };
            let update = OfferedUpdate { version: "2.0.0".into(), packages: vec![package], ..OfferedUpdate::default() };
            Script::serving(&publisher.files).answer(Answer::from(AnswerKind::Update(update)))
        });
        scene.start();
        let [is, announced] = sizes.map(|size| size.to_string());
        assert_failed(&scene, ("download", 9), &["/files/2.0.0.payload", &is, &announced], &image);
    }
}

/// An answer that is none is said with its cause, the host stays as it is, and goes on asking.
fn assert_bad_answer(answer: Answer, code: &str, words: &[&str]) {
    let scene = Scene::started(|publisher| {
        publisher.publish(&small("2.0.0", 2));
        Script::serving(&publisher.files).answer(answer)
    });
    let status = scene.host.wait_for(&format!("the answer is no answer ({code})"), |status| {
        status["last_error"]["code"] == code && status["state"] == "idle"
    });
    says(&status["last_error"]["message"], words);
    says(&status["summary"], &["The last check failed", "1.0.0", "next"]);
    says(&status["check"]["last_result"], &["failed"]);
    scene.assert_disk_untouched();
    scene.mock.clear_recorded();
    scene.host.wait("it asks again", || (update_checks(&scene.mock) > 0).then_some(()));
    // A server that is mended is believed again.
    scene.offer("2.0.0");
    scene.host.wait_committed("2.0.0");
}

#[test]
fn an_answer_that_is_not_xml_is_refused() {
    assert_bad_answer(Answer::raw("<response protocol=\"3.0\"><app"), "omaha-xml", &["/v1/update/", "no Omaha answer"]);
}

#[test]
fn an_answer_of_noise_is_refused() {
    assert_bad_answer(AnswerKind::Garbage { bytes: 5000 }.into(), "omaha-xml", &["/v1/update/", "no Omaha answer"]);
}

#[test]
fn a_huge_answer_is_cut_off() {
    assert_bad_answer(AnswerKind::HugeXml { bytes: 64 << 20 }.into(), "server-unreachable", &["/v1/update/", "1048576"]);
}

#[test]
fn a_deep_answer_is_refused() {
    assert_bad_answer(AnswerKind::DeepXml { depth: 5000 }.into(), "omaha-xml", &["/v1/update/", "16 levels of nesting"]);
}

#[test]
fn an_answer_with_entities_is_refused() {
    let bomb = "<?xml version=\"1.0\"?><!DOCTYPE r [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><response protocol=\"3.0\">&b;</response>";
    assert_bad_answer(Answer::raw(bomb), "omaha-xml", &["/v1/update/", "no Omaha answer", "DOCTYPE"]);
}

#[test]
fn an_empty_answer_is_refused() {
    assert_bad_answer(Answer::raw(""), "omaha-empty", &["/v1/update/", "empty"]);
}

#[test]
fn retry_after_of_a_failing_server_is_honoured() {
    let busy = AnswerKind::Status { code: 503, retry_after_s: Some(5), body: "busy".into() };
    let scene = Scene::started(|publisher| {
        let script = next_release(publisher);
        Script { answers: vec![Answer::from(busy), Answer::update("2.0.0")], ..script }
    });
    let status = scene.host.wait_for("the server is busy", |status| status["last_error"]["code"] == "http-503");
    says(&status["summary"], &["The last check failed", "503", "/v1/update/", "next check"]);
    scene.host.wait_committed("2.0.0");
    assert_first_pause(&scene.mock, 5);
}

#[test]
fn retry_after_of_an_answer_is_honoured_whatever_its_poll_interval() {
    let body = format!(
        "<response protocol=\"3.0\"><app appid=\"{APP_ID}\" status=\"ok\"><updatecheck status=\"noupdate\" PollInterval=\"1\"/></app></response>"
    );
    let later = AnswerKind::Status { code: 200, retry_after_s: Some(5), body };
    let scene = Scene::started(|publisher| {
        let script = next_release(publisher);
        Script { answers: vec![Answer::from(later), Answer::update("2.0.0")], ..script }
    });
    scene.host.wait_committed("2.0.0");
    assert_first_pause(&scene.mock, 5);
}

#[test]
fn a_mirror_without_the_record_does_not_hide_that_another_has_a_bad_one() {
    let scene = Scene::started(|publisher| {
        let bad = Fault::on("/mirror/*.release", FaultKind::FlipByte { offset: 40 });
        let gone = Fault::on("/files/*.release", FaultKind::Status { code: 503, retry_after_s: None });
        from_mirror_and_origin(publisher).fault(bad).fault(gone)
    });
    scene.assert_refused("record-signature", &["/mirror/2.0.0.release"]);
}

#[test]
fn a_failing_server_is_asked_ever_more_seldom() {
    let scene = Scene::started(|publisher| {
        publisher.publish(&small("2.0.0", 2));
        Script::serving(&publisher.files).answer(Answer::status(503))
    });
    scene.host.wait_for("the server fails", |status| status["last_error"]["code"] == "http-503");
    std::thread::sleep(Duration::from_secs(6));
    let asked = update_checks(&scene.mock);
    // After 0.25, 0.5, 1, 2 and 4 seconds, each a tenth more or less.
    assert!((2..=7).contains(&asked), "{asked} requests in six seconds");
    scene.assert_disk_untouched();
}

#[test]
fn an_interval_of_one_second_is_one_request_a_second_whatever_the_answer() {
    for answer in [Answer::no_update(), Answer::held("window", "not before Tuesday"), Answer::update("0.9.0")] {
        let scene = Scene::started(|publisher| {
            publisher.publish(&Spec { signers: &[], ..small("0.9.0", 2) });
            Script::serving(&publisher.files).answer(answer)
        });
        scene.host.wait_for("the first check ended", |status| status["check"]["last_at"] != Value::Null);
        let before = update_checks(&scene.mock);
        std::thread::sleep(Duration::from_secs(3));
        let asked = update_checks(&scene.mock) - before;
        assert!((1..=4).contains(&asked), "{asked} requests in three seconds");
    }
}

#[test]
fn a_server_that_is_down_is_said_and_found_again() {
    let mut scene = Scene::new(&Options::default(), next_release);
    scene.mock.go_away(Duration::from_secs(3));
    scene.start();
    let status = scene.host.wait_for("the outage is said", |status| status["last_error"]["code"] == "server-unreachable");
    says(&status["summary"], &["The last check failed", &scene.mock.url(), "1.0.0", "next check"]);
    scene.assert_disk_untouched();
    scene.host.wait_committed("2.0.0");
}
