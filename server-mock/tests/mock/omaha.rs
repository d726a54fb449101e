//! Omaha answers, read with the reader that hosts use.

use std::time::{Duration, Instant};

use manifests::digest::Sha256Digest;
use manifests::omaha::{Acknowledgement, Error, Hold, MAX_RESPONSE_BYTES, PackageKind, Update, UpdateAnswer, Verdict};
use server_mock::{Answer, AnswerKind, FaultKind, Mock, NoUpdate, OfferedPackage, OfferedUpdate, Script};
use tempfile::TempDir;

use crate::client::{Ending, PATIENCE, check_for, event_of, get, post, request, request_within, start};

const APP: &str = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}";

fn answered(mock: &Mock) -> Result<UpdateAnswer, Error> {
    let answer = post(mock, &check_for(&[APP]));
    assert_eq!(answer.status, 200, "{}", answer.text());
    UpdateAnswer::read(&answer.body, APP)
}

fn offered(mock: &Mock) -> Update {
    match answered(mock).unwrap().verdict {
        Verdict::Update(update) => update,
        other => panic!("{other:?}"),
    }
}

/// A folder with the files of 1.1.0.
fn release() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("1.1.0.payload"), "payload").unwrap();
    std::fs::write(dir.path().join("1.1.0.release"), "record").unwrap();
    std::fs::write(dir.path().join("1.0.0-to-1.1.0.payload"), "delta").unwrap();
    dir
}

#[test]
fn an_update_says_what_the_files_are() {
    let dir = release();
    let mock = start(Script::serving(dir.path()).answer(Answer::update("1.1.0")));
    let update = offered(&mock);
    assert_eq!(update.version.as_str(), "1.1.0");
    assert_eq!(update.codebases[0].as_str(), format!("{}/files/", mock.url()));
    let names: Vec<_> =
        update.packages.iter().map(|package| (package.name.as_str(), package.size_bytes, package.required)).collect();
    assert_eq!(names, [("1.1.0.payload", 7, true), ("1.1.0.release", 6, true)]);
    assert_eq!(update.packages[0].sha256, Some(Sha256Digest::of(b"payload")));
    // The SHA-1 of "payload", from coreutils.
    let sha1: String = update.packages[0].sha1.unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sha1, "f07e5a815613c5abeddc4b682247a4c42d8a95df");
    assert_eq!(update.postinstall.digest(), Some(Sha256Digest::of(b"payload")));
    // And the files are where it says.
    let url = update.codebases[0].url_of(&update.packages[1].name);
    assert_eq!(get(&mock, url.strip_prefix(&mock.url()).unwrap()).text(), "record");
}

#[test]
fn a_file_that_changes_is_measured_again() {
    let dir = release();
    let mock = start(Script::serving(dir.path()).answer(Answer::update("1.1.0")));
    assert_eq!(offered(&mock).packages[0].size_bytes, 7);
    std::fs::write(dir.path().join("1.1.0.payload"), "another payload").unwrap();
    assert_eq!(offered(&mock).packages[0].sha256, Some(Sha256Digest::of(b"another payload")));
}

#[test]
fn an_update_lies_where_it_is_told_to() {
    let dir = release();
    let packages = vec![
        OfferedPackage {
            name: "1.2.0.payload".into(),
            file: Some("1.1.0.payload".into()),
            size: Some(999),
            sha1: Some("00".repeat(20)),
            ..OfferedPackage::default()
        },
        OfferedPackage { name: "1.0.0-to-1.1.0.payload".into(), delta: true, ..OfferedPackage::default() },
        // A file that is not there needs nothing measured.
        OfferedPackage {
            name: "ghost".into(),
            size: Some(1),
            sha1: Some("11".repeat(20)),
            sha256: Some("22".repeat(32)),
            required: Some(true),
            ..OfferedPackage::default()
        },
    ];
    let offer = OfferedUpdate {
        version: "1.2.0".into(),
        packages,
        codebases: Some(vec!["http://elsewhere.example/x/".into(), "/files/".into()]),
        sha256: Some("no digest".into()),
        is_delta_payload: true,
        max_failure_count_per_url: Some(3),
        poll_interval_s: Some(60),
    };
    let mock = start(Script::serving(dir.path()).answer(AnswerKind::Update(offer)));
    assert_eq!(answered(&mock).unwrap().poll_interval_s, Some(60));
    let update = offered(&mock);
    let first = &update.packages[0];
    assert_eq!((first.size_bytes, first.sha1, first.sha256), (999, Some([0; 20]), Some(Sha256Digest::of(b"payload"))));
    let delta = &update.packages[1];
    assert_eq!((delta.kind, delta.required, delta.size_bytes), (PackageKind::Delta, false, 5));
    assert_eq!(update.packages[2].sha256, Some(Sha256Digest::from_bytes([0x22; 32])));
    assert_eq!(update.codebases[0].as_str(), "http://elsewhere.example/x/");
    assert_eq!((update.postinstall.sha256.as_str(), update.postinstall.max_failure_count_per_url), ("no digest", 3));
    assert!(update.postinstall.is_delta_payload);
}

#[test]
fn an_update_without_its_files_fails_loudly() {
    let dir = release();
    let mock = start(Script::serving(dir.path()).answer(Answer::update("9.9.9")));
    let answer = post(&mock, &check_for(&[APP]));
    assert_eq!(answer.status, 500);
    assert!(answer.text().starts_with("server-mock: cannot measure package \"9.9.9.payload\" in "), "{}", answer.text());
}

#[test]
fn a_hold_has_its_words() {
    let hold = NoUpdate {
        hold: Some("window".into()),
        until: Some("2026-11-22T02:00:00Z".parse().unwrap()),
        reason: Some("outside the group's window".into()),
        poll_interval_s: Some(3600),
    };
    let mock = start(Script::default().answer(AnswerKind::Noupdate(hold.clone())).answer(Answer::no_update()));
    let expected = Hold { kind: hold.hold, reason: hold.reason, until: hold.until };
    let verdict = Verdict::NoUpdate { hold: Some(expected) };
    assert_eq!(answered(&mock), Ok(UpdateAnswer { poll_interval_s: Some(3600), verdict }));
    assert_eq!(answered(&mock), Ok(UpdateAnswer::no_update()));
}

#[test]
fn an_error_has_both_statuses() {
    let kind = AnswerKind::Error {
        status: "error-internal".into(),
        app_status: Some("error-updatesDisabled".into()),
        info: None,
        poll_interval_s: None,
    };
    let Verdict::ServerError(error) = answered(&start(Script::default().answer(kind))).unwrap().verdict else { panic!() };
    assert_eq!((error.status.as_deref(), error.app_status.as_deref()), (Some("error-internal"), Some("error-updatesDisabled")));
}

#[test]
fn every_application_is_answered_under_the_id_it_sent() {
    let mock = start(Script::default().answer(Answer::no_update()));
    let body = post(&mock, &check_for(&["{A-1}", "b &amp; &quot;c&quot;", ""])).body;
    for id in ["{A-1}", "b & \"c\"", ""] {
        assert_eq!(UpdateAnswer::read(&body, id), Ok(UpdateAnswer::no_update()), "{id}");
        assert_eq!(Acknowledgement::read(&body, id).unwrap().events.len(), 1);
    }
    let text = String::from_utf8(body).unwrap();
    assert!(
        text.contains("<app appid=\"{A-1}\" status=\"ok\"><ping status=\"ok\"></ping><updatecheck status=\"noupdate\">"),
        "{text}"
    );
}

#[test]
fn an_answer_may_be_for_others() {
    let other = Answer { app_id: Some("other".into()), more_apps: vec!["first".into()], ..Answer::no_update() };
    let mock = start(Script::default().answer(other));
    let body = post(&mock, &check_for(&[APP])).body;
    let Err(Error::NoSuchApp { got, .. }) = UpdateAnswer::read(&body, APP) else { panic!() };
    assert_eq!(got, ["first", "other"]);
}

#[test]
fn events_are_acknowledged_and_take_no_answer_of_a_check() {
    let mock = start(Script::default().answer(Answer::held("a", "1")).answer(Answer::held("b", "2")));
    let acknowledged = Acknowledgement::read(&post(&mock, &event_of(APP)).body, APP).unwrap();
    assert!(acknowledged.is_accepted());
    assert_eq!(acknowledged.events.len(), 1);
    let Verdict::NoUpdate { hold: Some(hold) } = answered(&mock).unwrap().verdict else { panic!() };
    assert_eq!(hold.kind.as_deref(), Some("a"));
}

#[test]
fn events_may_have_answers_of_their_own() {
    let mock = start(Script::default().event_answer(Answer::status(503).times(2)).event_answer(AnswerKind::Acknowledge));
    let statuses: Vec<_> = (0..4).map(|_| post(&mock, &event_of(APP)).status).collect();
    assert_eq!(statuses, [503, 503, 200, 200]);
}

#[test]
fn a_script_without_answers_fails_loudly() {
    let answer = post(&start(Script::default()), &check_for(&[APP]));
    assert_eq!(answer.status, 500);
    assert_eq!(answer.text(), "server-mock: the script has no [[answers]]: nothing can be said to an update check\n");
}

#[test]
fn an_offer_from_a_folder_that_is_not_there_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("no/folder");
    let answer = post(&start(Script::serving(&folder).answer(Answer::update("1.1.0"))), &check_for(&[APP]));
    let expected = format!("server-mock: files_dir {}: expected a folder, found none\n", folder.display());
    assert_eq!((answer.status, answer.text()), (500, expected.as_str()));
}

#[test]
fn a_request_that_cannot_be_read_is_told_why() {
    let mock = start(Script::default().answer(Answer::no_update()));
    let answer = post(&mock, "<request protocol=\"2.0\"/>");
    assert_eq!(
        (answer.status, answer.text()),
        (400, "server-mock: cannot read the Omaha request: unsupported protocol: expected \"3.0\", got \"2.0\"\n")
    );
    assert_eq!(post(&mock, "").status, 400);
    let read = get(&mock, "/v1/update");
    assert_eq!((read.status, read.header("Allow")), (405, Some("POST")));
}

#[test]
fn both_spellings_of_the_path_and_any_others_take_requests() {
    let script = Script { omaha_paths: vec!["/v1/update/secret".into()], ..Script::default() };
    for (script, path, status) in [
        (Script::default(), "/v1/update", 200),
        (Script::default(), "/v1/update/", 200),
        (Script::default(), "/v1/update/secret", 404),
        (script, "/v1/update/secret", 200),
    ] {
        let mock = start(script.answer(Answer::no_update()));
        assert_eq!(request(&mock, "POST", path, &[], check_for(&[APP]).as_bytes()).status, status, "{path}");
    }
}

#[test]
fn a_status_or_redirect_is_what_it_says() {
    let busy = AnswerKind::Status { code: 503, retry_after_s: Some(120), body: "busy".into() };
    let moved = AnswerKind::Redirect { to: "http://elsewhere.example/".into(), code: 301 };
    let mock = start(Script::default().answer(busy).answer(moved));
    let answer = post(&mock, &check_for(&[APP]));
    assert_eq!((answer.status, answer.header("Retry-After"), answer.text()), (503, Some("120"), "busy"));
    let answer = post(&mock, &check_for(&[APP]));
    assert_eq!((answer.status, answer.header("Location")), (301, Some("http://elsewhere.example/")));
}

#[test]
fn raw_answers_are_sent_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("answer.xml"), "<{app_id}>").unwrap();
    let mock = start(
        Script::default()
            .answer(Answer::raw("<a b=\"{app_id}\" c=\"{base}\"/>"))
            .answer(AnswerKind::RawFile { file: dir.path().join("answer.xml") })
            .answer(Answer { content_type: Some("text/html".into()), ..Answer::raw("") }),
    );
    assert_eq!(post(&mock, &check_for(&[APP])).text(), format!("<a b=\"{APP}\" c=\"{}\"/>", mock.url()));
    assert_eq!(post(&mock, &check_for(&[APP])).text(), "<{app_id}>");
    let empty = post(&mock, &check_for(&[APP]));
    assert_eq!((empty.header("Content-Type"), empty.body.len()), (Some("text/html"), 0));
}

#[test]
fn garbage_giant_and_deep_answers_are_made_up() {
    let mock = start(
        Script::default()
            .answer(AnswerKind::Garbage { bytes: 5000 })
            .answer(AnswerKind::HugeXml { bytes: 3_000_001 })
            .answer(AnswerKind::HugeXml { bytes: 2000 })
            .answer(AnswerKind::DeepXml { depth: 1000 }),
    );
    let garbage = post(&mock, &check_for(&[APP]));
    assert_eq!(garbage.body.len(), 5000);
    assert!(matches!(UpdateAnswer::read(&garbage.body, APP), Err(Error::NotUtf8 { .. } | Error::Malformed { .. })));
    let huge = post(&mock, &check_for(&[APP])).body;
    assert_eq!(
        UpdateAnswer::read(&huge, APP),
        Err(Error::TooLarge { expected: "response", limit: MAX_RESPONSE_BYTES, got: 3_000_001 })
    );
    // It is refused for nothing but its size.
    let small = post(&mock, &check_for(&[APP])).body;
    assert_eq!((small.len(), UpdateAnswer::read(&small, APP)), (2000, Ok(UpdateAnswer::no_update())));
    let deep = post(&mock, &check_for(&[APP])).body;
    assert!(matches!(UpdateAnswer::read(&deep, APP), Err(Error::OverLimit { what: "levels of nesting", .. })));
}

#[test]
fn answers_break_on_their_way_as_files_do() {
    let script = |kind, after| Script::default().answer(Answer::raw("0123456789").broken(kind, after));
    let broken = |kind, after| {
        let is_silent = matches!(kind, FaultKind::Stall | FaultKind::NoAnswer);
        let silence = if is_silent { Duration::from_secs(1) } else { PATIENCE };
        let check = check_for(&[APP]);
        let answer = request_within(silence, &start(script(kind, after)), "POST", "/v1/update/", &[], check.as_bytes());
        (answer.status, answer.body, answer.ending)
    };
    assert_eq!(broken(FaultKind::Truncate, 4), (200, b"0123".to_vec(), Ending::Closed));
    assert_eq!(broken(FaultKind::Reset, 4), (200, b"0123".to_vec(), Ending::Reset));
    assert_eq!(broken(FaultKind::Stall, 0), (200, Vec::new(), Ending::Silent));
    assert_eq!(broken(FaultKind::NoAnswer, 0), (0, Vec::new(), Ending::Silent));
    assert_eq!(broken(FaultKind::Refuse, 0), (0, Vec::new(), Ending::Closed));
    let (status, body, ending) = broken(FaultKind::Garbage, 4);
    assert_eq!((status, &body[..4], body.len(), ending), (200, &b"0123"[..], 10, Ending::Closed));
    let start = Instant::now();
    assert_eq!(broken(FaultKind::SlowDrip { bytes_per_s: 20 }, 4), (200, b"0123456789".to_vec(), Ending::Closed));
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn an_answer_may_take_its_time() {
    let mock = start(Script::default().answer(Answer { delay_ms: 200, ..Answer::no_update() }));
    let start = Instant::now();
    assert_eq!(answered(&mock), Ok(UpdateAnswer::no_update()));
    assert!(start.elapsed() >= Duration::from_millis(200));
}
