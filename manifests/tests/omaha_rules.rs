//! The rules by which an answer is read, one by one, and what rides beside the dialect.

// The lints know test functions, not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use manifests::digest::Sha256Digest;
use manifests::omaha::{
    AppAnswer, AppRequest, Codebase, Error, ErrorCode, Event, EventResult, EventType, Hold, Os, Package, PackageKind,
    PackageName, Ping, Postinstall, Request, Response, STATUS_OK, ServerError, Update, UpdateAnswer, Verdict,
};
use manifests::version::{Sequence, Version};

const APP: &str = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}";
const URLS: &str = "<urls><url codebase=\"http://a/b\"/><url codebase=\"https://c/\"/></urls>";
const PACKAGE: &str = "<package name=\"f\" size=\"1\"/>";
const ACTION: &str = "<action event=\"postinstall\" sha256=\"s\"/>";

fn in_app(inside: &str) -> String {
    format!("<response protocol=\"3.0\"><app appid=\"{APP}\" status=\"ok\">{inside}</app></response>")
}

fn read(inside: &str) -> Result<UpdateAnswer, Error> {
    UpdateAnswer::read(in_app(inside).as_bytes(), APP)
}

fn manifest(packages: &str, actions: &str) -> String {
    format!("<manifest version=\"1.0\"><packages>{packages}</packages><actions>{actions}</actions></manifest>")
}

fn read_ok(inside: &str) -> Result<UpdateAnswer, Error> {
    read(&format!("<updatecheck status=\"ok\">{inside}</updatecheck>"))
}

fn read_update(inside: &str) -> Update {
    match read_ok(inside).map(|answer| answer.verdict) {
        Ok(Verdict::Update(update)) => update,
        other => panic!("{other:?}"),
    }
}

/// Refused with code 34 and this message, where `@` stands for a place.
fn assert_invalid(result: Result<UpdateAnswer, Error>, message: &str) {
    let error = result.expect_err(message);
    let (before, after) = message.split_once('@').unwrap();
    let text = error.to_string();
    assert!(text.starts_with(before) && text.ends_with(after), "expected {message}, got {text}");
    assert_eq!(error.code().to_wire(), 34, "{text}");
}

#[test]
fn a_check_without_status_or_answer_is_invalid() {
    assert_invalid(read("<updatecheck/>"), "at @: expected attribute \"status\" with a value, got none");
    assert_invalid(read("<updatecheck status=\"\"/>"), "at @: expected attribute \"status\" with a value, got none");
    assert_invalid(read(""), "at @: expected an element <updatecheck>, got none");
}

#[test]
fn every_error_status_is_a_server_error_that_shows_the_apps_status() {
    let body = format!(
        "<response><app appid=\"{APP}\" status=\"error-maxConcurrentUpdatesLimitReached\">\
         <updatecheck status=\"error-internal\" PollInterval=\"3600\"/></app></response>"
    );
    let answer = UpdateAnswer::read(body.as_bytes(), APP).unwrap();
    assert_eq!(answer.poll_interval_s, Some(3600));
    let Verdict::ServerError(error) = answer.verdict else { panic!("no error") };
    assert_eq!(
        error.to_string(),
        "expected status \"ok\" or \"noupdate\", got \"error-internal\" with app status \
         \"error-maxConcurrentUpdatesLimitReached\" (the group's limit of updates at a time is reached)"
    );
    assert_eq!(error.code().to_wire(), 34);

    let unknown = format!("<response><app appid=\"{APP}\" status=\"error-unknownApplication\"/></response>");
    let expected = ServerError { status: None, app_status: Some("error-unknownApplication".into()), info: None };
    let answer = UpdateAnswer::read(unknown.as_bytes(), APP).unwrap();
    assert_eq!(answer.verdict, Verdict::ServerError(expected));
}

#[test]
fn an_ok_or_noupdate_is_not_overruled_by_the_apps_status() {
    let body =
        format!("<response><app appid=\"{APP}\" status=\"restricted\"><updatecheck status=\"noupdate\"/></app></response>");
    assert_eq!(UpdateAnswer::read(body.as_bytes(), APP), Ok(UpdateAnswer::no_update()));
}

#[test]
fn a_hold_carries_its_rule_reason_and_end() {
    let hold = |attributes: &str| match read(&format!("<updatecheck status=\"noupdate\" {attributes}/>")).unwrap().verdict {
        Verdict::NoUpdate { hold } => hold,
        other => panic!("{other:?}"),
    };
    let expected = Hold {
        kind: Some("window".into()),
        reason: Some("outside the group's window".into()),
        until: Some("2026-11-22T02:00:00Z".parse().unwrap()),
    };
    let whole = "ota_hold=\"window\" ota_until=\"2026-11-22T02:00:00Z\" ota_reason=\"outside the group's window\" info=\"x\"";
    assert_eq!(hold(whole), Some(expected));
    let google = Hold { reason: Some("rate limit".into()), ..Hold::default() };
    assert_eq!(hold("info=\"rate limit\""), Some(google));
    assert_eq!(hold("ota_until=\"soon\" ota_reason=\"\""), None);
    let clean = Hold { reason: Some("a b c ".into()), ..Hold::default() };
    assert_eq!(hold("ota_reason=\"a&#10;b&#x9B;c&#x7F;\""), Some(clean));
}

#[test]
fn the_poll_interval_is_seconds_or_nothing() {
    for (text, expected) in [("2700", Some(2700)), ("0", None), ("", None), ("-1", None), ("1h", None), ("99999999999", None)] {
        let answer = read(&format!("<updatecheck status=\"noupdate\" PollInterval=\"{text}\"/>")).unwrap();
        assert_eq!(answer.poll_interval_s, expected, "{text:?}");
    }
}

#[test]
fn codebases_keep_their_order_and_get_their_slash() {
    let update = read_update(&format!("{URLS}{}", manifest(PACKAGE, ACTION)));
    let urls: Vec<_> = update.codebases.iter().map(Codebase::as_str).collect();
    assert_eq!(urls, ["http://a/b/", "https://c/"]);
}

#[test]
fn answers_without_usable_codebases_are_invalid() {
    let with = |urls: &str| read_ok(&format!("{urls}{}", manifest(PACKAGE, ACTION)));
    assert_invalid(with(""), "at @: expected an element <urls>, got none");
    assert_invalid(with("<urls/>"), "at @: expected an element <url>, got none");
    assert_invalid(with("<urls><url codebase=\"\"/></urls>"), "at @: expected attribute \"codebase\" with a value, got none");
    for (url, expected) in [
        ("/files/", "an absolute http or https URL"),
        ("ftp://a/", "an absolute http or https URL"),
        ("file:///etc/", "an absolute http or https URL"),
        ("http:///files/", "a URL with a host"),
        ("http://:80/", "a URL with a host"),
        ("http://a/?x=", "a URL without query and fragment"),
        ("http://a/#x", "a URL without query and fragment"),
        ("http://a/ b", "a URL of the characters URLs are made of"),
        ("http://a/b\\c", "a URL of the characters URLs are made of"),
        ("http://ä/", "a URL of the characters URLs are made of"),
    ] {
        let urls = format!("<urls><url codebase=\"http://fine/\"/><url codebase=\"{url}\"/></urls>");
        assert_invalid(with(&urls), &format!("at @: expected \"codebase\" to be {expected}, got {url:?}"));
    }
}

#[test]
fn credentials_in_a_codebase_are_used_and_never_shown() {
    let codebase = Codebase::parse("https://user:secret@updates.example/files/").unwrap();
    assert_eq!(codebase.as_str(), "https://user:secret@updates.example/files/");
    assert_eq!(format!("{codebase:?}"), "Codebase(\"https://***@updates.example/files/\")");
    assert!(Codebase::parse("https://user:secret@/").is_err());
    let error = Codebase::parse("ftp://user:secret@updates.example/").unwrap_err();
    assert_eq!(error.to_string(), "expected an absolute http or https URL, got \"ftp://***@updates.example/\"");
}

#[test]
fn package_names_cannot_leave_their_folder() {
    for name in ["a", "1.0+7~rc.payload", "flatcar production.gz", "ä", &"n".repeat(255)] {
        assert_eq!(PackageName::parse(name).unwrap().as_str(), name);
    }
    for name in ["", ".", "..", "a/b", "/etc/passwd", "..\\x", "a\\b", "a..b", "a\n", "a\0", "\u{7F}", &"n".repeat(256)] {
        assert!(PackageName::parse(name).is_err(), "{name:?}");
    }
    let packages = "<package name=\"f\" size=\"1\"/><package name=\"../../etc/shadow\" size=\"1\"/>";
    assert_invalid(
        read_ok(&format!("{URLS}{}", manifest(packages, ACTION))),
        "at @: expected \"name\" to be a plain file name of at most 255 bytes, got \"../../etc/shadow\"",
    );
}

#[test]
fn packages_need_a_name_of_their_own_and_a_size() {
    let with = |packages: &str| read_ok(&format!("{URLS}{}", manifest(packages, ACTION)));
    assert_invalid(with(""), "at @: expected an element <package>, got none");
    assert_invalid(with("<package size=\"1\"/>"), "at @: expected attribute \"name\" with a value, got none");
    assert_invalid(with("<package name=\"f\"/>"), "at @: expected attribute \"size\" with a value, got none");
    for size in ["0", "-1", "1.5", "many", "18446744073709551616"] {
        let package = format!("<package name=\"f\" size=\"{size}\"/>");
        assert_invalid(with(&package), &format!("at @: expected \"size\" to be a number of bytes above 0, got {size:?}"));
    }
    assert_invalid(with(&PACKAGE.repeat(2)), "at @: expected \"name\" to be a name of its own, got \"f\"");
    let large = format!("<package name=\"f\" size=\"{}\"/>", u64::MAX);
    assert_eq!(read_update(&format!("{URLS}{}", manifest(&large, ACTION))).packages[0].size_bytes, u64::MAX);
}

#[test]
fn an_update_needs_a_postinstall_action_with_a_digest() {
    let with = |actions: &str| read_ok(&format!("{URLS}{}", manifest(PACKAGE, actions)));
    let update_only = "<action event=\"update\" sha256=\"s\"/>";
    assert_invalid(with(update_only), "at @: expected an element <action event=\"postinstall\">, got none");
    assert_invalid(with("<action event=\"postinstall\"/>"), "at @: expected attribute \"sha256\" with a value, got none");
    assert_invalid(read_ok(URLS), "at @: expected an element <manifest>, got none");
}

#[test]
fn the_actions_flags_count_only_if_spelled_exactly() {
    let postinstall = |attributes: &str| {
        let action = format!("<action event=\"postinstall\" sha256=\"s\" {attributes}/>");
        read_update(&format!("{URLS}{}", manifest(PACKAGE, &action))).postinstall
    };
    let plain = Postinstall {
        sha256: "s".into(),
        is_delta_payload: false,
        disable_payload_backoff: false,
        max_failure_count_per_url: 10,
    };
    assert_eq!(postinstall("IsDeltaPayload=\"True\" DisablePayloadBackoff=\"1\" MaxFailureCountPerUrl=\"-1\""), plain);
    assert_eq!(
        postinstall("IsDeltaPayload=\"true\" DisablePayloadBackoff=\"true\" MaxFailureCountPerUrl=\"3\""),
        Postinstall { is_delta_payload: true, disable_payload_backoff: true, max_failure_count_per_url: 3, ..plain }
    );
}

#[test]
fn of_several_manifests_it_is_the_target_else_the_last_that_is_no_floor() {
    let with = |marks: &[&str]| {
        let manifests: String = (1..)
            .zip(marks)
            .map(|(n, mark)| manifest(PACKAGE, ACTION).replace("version=\"1.0\"", &format!("version=\"{n}\" {mark}")))
            .collect();
        read_ok(&format!("{URLS}{manifests}"))
    };
    let chosen = |marks: &[&str]| match with(marks).unwrap().verdict {
        Verdict::Update(update) => update.version.to_string(),
        other => panic!("{other:?}"),
    };
    let (floor, target, none) = ("is_floor=\"true\"", "is_target=\"true\"", "");
    assert_eq!(chosen(&[floor]), "1");
    assert_eq!(chosen(&[floor, target, none]), "2");
    assert_eq!(chosen(&[none, none, floor]), "2");
    assert_eq!(chosen(&[floor, "is_floor=\"true\" is_target=\"true\""]), "2");
    assert_invalid(
        with(&[floor, floor]),
        "at @: expected a manifest with is_target=\"true\" or one that is no floor, got 2 floors",
    );
}

#[test]
fn a_version_must_be_a_label() {
    let with =
        |version: &str| read_ok(&format!("{URLS}{}", manifest(PACKAGE, ACTION).replace("\"1.0\"", &format!("\"{version}\""))));
    assert_invalid(with(""), "at @: expected attribute \"version\" with a value, got none");
    assert_invalid(with("../1"), "at @: expected \"version\" to be a version label, got \"../1\"");
}

#[test]
fn the_protocol_may_be_absent_and_its_minor_version_is_not_looked_at() {
    let with = |protocol: &str| {
        let body = in_app("<updatecheck status=\"noupdate\"/>").replace(" protocol=\"3.0\"", protocol);
        UpdateAnswer::read(body.as_bytes(), APP)
    };
    assert_eq!(with(""), Ok(UpdateAnswer::no_update()));
    assert_eq!(with(" protocol=\"3.1\""), Ok(UpdateAnswer::no_update()));
    assert_eq!(with(" protocol=\"2.0\""), Err(Error::WrongProtocol { expected: "3.0", got: "2.0".into() }));
}

#[test]
fn prefixes_of_elements_are_ignored_and_foreign_attributes_are_others() {
    let body = format!(
        "<o:response xmlns:o=\"urn:x\" protocol=\"3.0\"><o:app appid=\"{APP}\"><o:updatecheck o:status=\"error\" \
         status=\"noupdate\"/></o:app></o:response>"
    );
    assert_eq!(UpdateAnswer::read(body.as_bytes(), APP), Ok(UpdateAnswer::no_update()));
}

fn release(version: &str) -> Update {
    let package = |name: &str, required, kind| Package {
        name: PackageName::parse(name).unwrap(),
        size_bytes: 4096,
        sha1: Some([7; 20]),
        sha256: Some(Sha256Digest::of(name.as_bytes())),
        required,
        kind,
    };
    Update {
        codebases: vec![Codebase::parse("https://updates.example/files/").unwrap()],
        version: Version::parse(version).unwrap(),
        packages: vec![
            package(&format!("{version}.payload"), true, PackageKind::Plain),
            package(&format!("{version}.release"), true, PackageKind::Plain),
            package(&format!("1.0.0-to-{version}.payload"), false, PackageKind::Delta),
        ],
        postinstall: Postinstall::of(Sha256Digest::of(format!("{version}.payload").as_bytes())),
    }
}

#[test]
fn an_answer_of_ours_is_laid_out_for_every_reader_of_the_dialect() {
    let answer = UpdateAnswer { poll_interval_s: Some(2700), verdict: Verdict::Update(release("1.1.0")) };
    let app =
        AppAnswer { app_id: APP.into(), status: STATUS_OK.into(), ping: true, update_check: Some(answer.clone()), events: 1 };
    let text = Response { server: "release-server".into(), apps: vec![app] }.write();
    let expected = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<response protocol=\"3.0\" server=\"release-server\">\
         <daystart elapsed_seconds=\"0\"></daystart><app appid=\"{APP}\" status=\"ok\"><ping status=\"ok\"></ping>\
         <updatecheck status=\"ok\" PollInterval=\"2700\"><urls><url codebase=\"https://updates.example/files/\"></url></urls>\
         <manifest version=\"1.1.0\"><packages>\
         <package name=\"1.1.0.payload\" hash=\"BwcHBwcHBwcHBwcHBwcHBwcHBwc=\" \
         hash_sha256=\"{}\" size=\"4096\" required=\"true\"></package>\
         <package name=\"1.1.0.release\" hash=\"BwcHBwcHBwcHBwcHBwcHBwcHBwc=\" \
         hash_sha256=\"{}\" size=\"4096\" required=\"true\"></package>\
         <package name=\"1.0.0-to-1.1.0.payload\" hash=\"BwcHBwcHBwcHBwcHBwcHBwcHBwc=\" \
         hash_sha256=\"{}\" size=\"4096\" required=\"false\" ota_kind=\"delta\"></package>\
         </packages><actions><action event=\"postinstall\" sha256=\"{}\" DisablePayloadBackoff=\"true\"></action></actions>\
         </manifest></updatecheck><event status=\"ok\"></event></app></response>",
        Sha256Digest::of(b"1.1.0.payload"),
        Sha256Digest::of(b"1.1.0.release"),
        Sha256Digest::of(b"1.0.0-to-1.1.0.payload"),
        Sha256Digest::of(b"1.1.0.payload").to_base64(),
    );
    assert_eq!(text, expected);
    assert_eq!(UpdateAnswer::read(text.as_bytes(), APP), Ok(answer));
}

#[test]
fn the_files_of_a_release_are_found_by_their_names() {
    let update = release("1.1.0");
    assert_eq!(update.record_name().as_str(), "1.1.0.release");
    assert_eq!(update.package(&update.record_name()), Some(&update.packages[1]));
    assert_eq!(update.delta_from(&Version::parse("1.0.0").unwrap()), Some(&update.packages[2]));
    assert_eq!(update.delta_from(&Version::parse("0.9.0").unwrap()), None);
    let payload = PackageName::payload_of(&update.version);
    assert_eq!(update.codebases[0].url_of(&payload), "https://updates.example/files/1.1.0.payload");
}

#[test]
fn a_request_of_ours_has_its_attributes_behind_update_engines() {
    let event = Event {
        error_code: Some(ErrorCode::from_wire(9)),
        attempt: Some("a-1".into()),
        reason: Some("connection \"reset\"".into()),
        ..Event::new(EventType::UpdateComplete, EventResult::Error)
    };
    let app = AppRequest {
        app_id: APP.into(),
        version: "1.0.0".into(),
        track: "stable".into(),
        ota_sequence: Sequence::new(41),
        ota_slot: Some("a".into()),
        ota_attempt: Some("a-1".into()),
        ping: Some(Ping { active: true }),
        update_check: true,
        events: vec![event],
        ..AppRequest::default()
    };
    let request = Request {
        version: "update-engine-0.1.0".into(),
        updater_version: "update-engine-0.1.0".into(),
        os: Os { sp: "1.0.0_x86_64".into(), ..Os::default() },
        apps: vec![app],
        ..Request::default()
    };
    let expected = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<request protocol=\"3.0\" version=\"update-engine-0.1.0\" \
         updaterversion=\"update-engine-0.1.0\" installsource=\"scheduler\" ismachine=\"1\">\n    \
         <os version=\"Chateau\" platform=\"CoreOS\" sp=\"1.0.0_x86_64\"></os>\n    \
         <app appid=\"{APP}\" version=\"1.0.0\" track=\"stable\" bootid=\"\" oem=\"\" oemversion=\"\" alephversion=\"\" \
         machineid=\"\" machinealias=\"\" lang=\"en-US\" board=\"\" hardware_class=\"\" delta_okay=\"false\" \
         ota_sequence=\"41\" ota_slot=\"a\" ota_attempt=\"a-1\" >\n        <ping active=\"1\"></ping>\n        \
         <updatecheck></updatecheck>\n        <event eventtype=\"3\" eventresult=\"0\" errorcode=\"9\" ota_attempt=\"a-1\" \
         ota_reason=\"connection &quot;reset&quot;\"></event>\n    </app>\n</request>\n"
    );
    assert_eq!(request.write(), expected);
    assert_eq!(Request::read(expected.as_bytes()), Ok(request));
}

#[test]
fn numbers_in_a_request_must_be_numbers() {
    let read = |app: &str| Request::read(format!("<request protocol=\"3.0\">{app}</request>").as_bytes());
    for (app, name) in [
        ("<app><event eventtype=\"x\"/></app>", "eventtype"),
        ("<app><event eventresult=\"-1\"/></app>", "eventresult"),
        ("<app><event errorcode=\"4294967296\"/></app>", "errorcode"),
        ("<app ota_sequence=\"9007199254740993\"/>", "ota_sequence"),
    ] {
        let error = read(app).unwrap_err();
        assert!(matches!(&error, Error::BadValue { name: found, .. } if *found == name), "{app}: {error:?}");
    }
    let bare = read("<app><event errorcode=\"\"/></app>").unwrap();
    assert_eq!(bare.apps[0].events, [Event::new(EventType::Unknown, EventResult::Error)]);
}
