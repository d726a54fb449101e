//! What clients send.

use manifests::omaha::{
    ActionCode, AppRequest, Error, ErrorCode, Event, EventResult, EventType, Flags, INSTALL_ON_DEMAND, Os, Ping, Place, Request,
};

use super::sample;

const FLATCAR: &str = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}";
const PING: Option<Ping> = Some(Ping { active: true });

fn read(name: &str) -> Request {
    Request::read(&sample(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn os(version: &str, platform: &str, sp: &str, arch: &str) -> Os {
    Os { version: version.into(), platform: platform.into(), sp: sp.into(), arch: arch.into() }
}

/// A request of update_engine, whose texts the default has but for these.
fn update_engine(client: &str, sp: &str, app: AppRequest) -> Request {
    let os = Os { sp: sp.into(), ..Os::default() };
    Request { version: client.into(), updater_version: client.into(), os, apps: vec![app], ..Request::default() }
}

/// A Flatcar host of the rendered samples.
fn flatcar_host() -> AppRequest {
    AppRequest {
        app_id: FLATCAR.into(),
        version: "4230.2.4".into(),
        track: "stable".into(),
        boot_id: "{965fb4c5-ad3e-4eb7-a4c2-ca0c0e31ec84}".into(),
        oem: "vmware".into(),
        oem_version: "11.2.5".into(),
        aleph_version: "2905.2.3".into(),
        machine_id: "dbff85b41ae14f41bde761eefbdafaac".into(),
        board: "amd64-usr".into(),
        ..AppRequest::default()
    }
}

fn flatcar(app: AppRequest) -> Request {
    update_engine("update_engine-0.4.10", "4230.2.4_x86_64", app)
}

/// The event that rides in every check: "I run, and before me ran …".
fn booted_after(previous: &str) -> Event {
    Event { previous_version: Some(previous.into()), ..Event::new(EventType::UpdateComplete, EventResult::SuccessReboot) }
}

fn check(events: Vec<Event>) -> AppRequest {
    AppRequest { ping: PING, update_check: true, events, ..flatcar_host() }
}

fn report(event: Event) -> AppRequest {
    AppRequest { events: vec![event], ..flatcar_host() }
}

fn failure(wire: i32) -> Event {
    Event::failure(ErrorCode::from_wire(wire))
}

/// A template of update_engine is read to its meaning, and written back byte for byte.
fn assert_both_ways(name: &str, expected: &Request) {
    assert_eq!(read(name), *expected, "{name}");
    assert_eq!(expected.write().as_bytes(), sample(name), "{name}");
}

#[test]
fn update_engine_checks_are_read_and_written_byte_for_byte() {
    assert_both_ways("req-ue-check-steady.xml", &flatcar(check(vec![booted_after("")])));
    assert_both_ways("req-ue-check-after-update.xml", &flatcar(check(vec![booted_after("4152.2.3")])));
    assert_both_ways("req-ue-check-rollback-detected.xml", &flatcar(check(vec![failure(44)])));
    let on_demand = Request { install_source: INSTALL_ON_DEMAND.into(), ..flatcar(check(vec![booted_after("")])) };
    assert_both_ways("req-ue-check-ondemand.xml", &on_demand);
    assert_both_ways("req-ue-ping-only.xml", &flatcar(AppRequest { ping: PING, ..flatcar_host() }));
}

#[test]
fn update_engine_events_are_read_and_written_byte_for_byte() {
    let complete = Event::new(EventType::UpdateComplete, EventResult::Success);
    assert_both_ways("req-ue-event-update-complete.xml", &flatcar(report(complete)));
    assert_both_ways("req-ue-event-error-hash-selfhosted.xml", &flatcar(report(failure(268_435_466))));
    assert_both_ways("req-ue-event-error-http503-selfhosted.xml", &flatcar(report(failure(268_437_959))));
    assert_both_ways("req-ue-event-error-resumed-transfer.xml", &flatcar(report(failure(1_342_177_289))));
}

#[test]
fn error_codes_of_self_hosted_hosts_lose_their_flags() {
    let code = |name: &str| read(name).apps[0].events[0].error_code.unwrap();
    let hash = code("req-ue-event-error-hash-selfhosted.xml");
    assert_eq!((hash.action(), hash.flags()), (ActionCode::PayloadHashMismatchError, Flags::TEST_OMAHA_URL));
    assert_eq!(code("req-ue-event-error-http503-selfhosted.xml").http_status(), Some(503));
    let resumed = code("req-ue-event-error-resumed-transfer.xml");
    assert_eq!(resumed.describe(), "DownloadTransferError (9; TestOmahaUrl, Resumed)");
}

#[test]
fn captured_requests_of_update_engine_are_read_and_written_byte_for_byte() {
    let looping = AppRequest {
        app_id: "e96281a6-d1af-4bde-9a0a-97b76e56dc57".into(),
        version: "2512.2.0".into(),
        oem: "ami".into(),
        oem_version: "0.1.1-r1".into(),
        aleph_version: "1688.5.3".into(),
        machine_id: "ec22ce10dc18aadd41c80d8f78b341a0".into(),
        ..check(vec![booted_after("2345.3.1")])
    };
    let fresh = AppRequest {
        version: "2191.0.0".into(),
        track: "alpha".into(),
        boot_id: "{90b0e235-2b50-4a0e-9619-bc014ca2fcfd}".into(),
        oem: String::new(),
        oem_version: String::new(),
        aleph_version: "2191.0.0".into(),
        machine_id: "592cfdb69c7f4a29a6b361b60cedd954".into(),
        ..check(vec![booted_after("0.0.0.0")])
    };
    let behind_proxy =
        AppRequest { version: "3602.2.3".into(), boot_id: "{0c288430-2504-4db4-913a-8c3de52afd07}".into(), ..report(failure(5)) };
    // These were sent before update_engine knew an alias, so they are not written back as they came.
    let without_alias = |name: &str, sp: &str, app| {
        assert_eq!(read(name), update_engine("update_engine-0.4.10", sp, app), "{name}");
    };
    without_alias("cap-req-flatcar-130-check.xml", "2512.2.0_x86_64", looping);
    without_alias("cap-req-nebraska-76-check.xml", "2191.0.0_x86_64", fresh);
    let expected = update_engine("update_engine-0.4.10", "3602.2.3_x86_64", behind_proxy);
    assert_both_ways("cap-req-flatcar-1332-postinst-error.xml", &expected);
}

#[test]
fn pings_of_coreos_are_read_even_with_every_field_empty() {
    let ping = AppRequest {
        version: "1068.10.0".into(),
        boot_id: "{21ce47bd-61e2-4256-af83-a35283755aa8}".into(),
        oem: String::new(),
        oem_version: String::new(),
        aleph_version: "1010.5.0".into(),
        machine_id: "d70c8b77c21d40d9bdce828d7dd2eb16".into(),
        ping: PING,
        ..flatcar_host()
    };
    let expected = update_engine("CoreOSUpdateEngine-0.1.0.0", "1068.10.0_x86_64", ping);
    assert_eq!(read("cap-req-coreos-1586-ping.xml"), expected);

    let blank = AppRequest {
        app_id: FLATCAR.into(),
        track: "stable".into(),
        lang: String::new(),
        delta_okay: true,
        ping: PING,
        ..AppRequest::default()
    };
    let request = read("cap-req-coreos-1586-blank-attrs.xml");
    assert_eq!(request, update_engine("CoreOSUpdateEngine-0.1.0.0", "", blank));
    assert_eq!(request.apps[0].machine(), None);
}

#[test]
fn a_check_of_ue_rs_needs_neither_declaration_nor_ping() {
    let version = "3340.0.0+nightly-20220823-2100";
    let app = AppRequest {
        app_id: FLATCAR.into(),
        version: version.into(),
        track: "stable".into(),
        machine_id: "abce671d61774703ac7be60715220bfe".into(),
        lang: String::new(),
        update_check: true,
        ..AppRequest::default()
    };
    let expected = Request {
        install_source: "ondemand".into(),
        ..update_engine("ue-rs-0.0.0", "3340.0.0+nightly-20220823-2100_x86_64", app)
    };
    assert_eq!(read("cap-req-ue-rs-0.0.0.xml"), expected);
}

#[test]
fn requests_of_go_omaha_and_its_kin_are_read() {
    let event = Event::new(EventType::DownloadComplete, EventResult::Error);
    let app = AppRequest {
        app_id: "{27BD862E-8AE8-4886-A055-F7F1A6460627}".into(),
        version: "1.0.0.0".into(),
        lang: String::new(),
        update_check: true,
        events: vec![event],
        ..AppRequest::default()
    };
    let expected = Request {
        install_source: String::new(),
        is_machine: false,
        os: os("Indy", "Chrome OS", "ForcedUpdate_x86_64", ""),
        apps: vec![app],
        ..Request::default()
    };
    assert_eq!(read("req-goomaha-encoder-output.xml"), expected);

    let old_chrome_os = AppRequest {
        app_id: "{87efface-864d-49a5-9bb3-4b050a7c227a}".into(),
        version: "ForcedUpdate".into(),
        board: "amd64-generic".into(),
        events: vec![Event::new(EventType::UpdateComplete, EventResult::Success)],
        ..AppRequest::default()
    };
    let client = "ChromeOSUpdateEngine-0.1.0.0";
    let chrome_os = |app| Request {
        install_source: INSTALL_ON_DEMAND.into(),
        os: os("Indy", "Chrome OS", "ForcedUpdate_x86_64", ""),
        ..update_engine(client, "", app)
    };
    assert_eq!(read("req-cros-event-3-1.xml"), chrome_os(old_chrome_os.clone()));

    let nebraska = AppRequest {
        boot_id: "{7D52A1CC-7066-40F0-91C7-7CB6A871BFDE}".into(),
        machine_id: "{8BDE4C4D-9083-4D61-B41C-3253212C0C37}".into(),
        oem: "ec3000".into(),
        track: "dev-channel".into(),
        ping: PING,
        update_check: true,
        events: vec![booted_after("")],
        ..old_chrome_os
    };
    let request = read("req-nebraska-updater-sample.xml");
    assert_eq!(request, chrome_os(nebraska));
    assert_eq!(request.apps[0].machine(), Some("8BDE4C4D-9083-4D61-B41C-3253212C0C37"));
}

/// A request of Google's updater as its document and the omaha-server project have it.
fn google(app: AppRequest) -> Request {
    Request {
        version: "1.3.23.0".into(),
        install_source: "otherinstallcmd".into(),
        os: os("6.1", "win", "", "x64"),
        apps: vec![app],
        ..Request::default()
    }
}

fn google_events(last: Event) -> Vec<Event> {
    let succeeded = |kind| Event { error_code: Some(ErrorCode::from_wire(0)), ..Event::new(kind, EventResult::Success) };
    vec![succeeded(EventType::NewInstallStarted), succeeded(EventType::DownloadStarted), last]
}

#[test]
fn events_of_google_clients_keep_their_signed_error_codes() {
    let code = ErrorCode::from_wire(-2_147_219_440);
    assert_eq!(code.describe(), "unknown code -2147219440");
    let cancelled = Event { error_code: Some(code), ..Event::new(EventType::InstallComplete, EventResult::Cancelled) };
    let app = |app_id: &str| AppRequest {
        app_id: app_id.into(),
        lang: "en".into(),
        events: google_events(cancelled.clone()),
        ..AppRequest::default()
    };
    let chrome = google(app("{8A69D345-D564-463C-AFF1-A69D9E530F96}"));
    assert_eq!(read("req-google-doc-events.xml"), chrome);
    let omaha_server = google(app("{D0AB2EBC-931B-4013-9FEB-C9C4C2225C8C}"));
    assert_eq!(read("req-omahaserver-event.xml"), omaha_server);
}

#[test]
fn events_of_omaha_server_clients_are_read() {
    let done = |kind| Event { error_code: Some(ErrorCode::from_wire(0)), ..Event::new(kind, EventResult::Success) };
    let app = |version: &str, last| AppRequest {
        app_id: "{D0AB2EBC-931B-4013-9FEB-C9C4C2225C8C}".into(),
        version: version.into(),
        lang: "en".into(),
        events: google_events(done(last)),
        ..AppRequest::default()
    };
    let installed = google(app("", EventType::InstallComplete));
    assert_eq!(read("req-omahaserver-event-install-success.xml"), installed);
    let updated = google(app("0.0.0.1", EventType::UpdateComplete));
    assert_eq!(read("req-omahaserver-event-update-success.xml"), updated);
}

#[test]
fn an_escaped_injection_stays_a_value() {
    let app = AppRequest {
        app_id: "{8A69D345-D564-463C-AFF1-A69D9E530F96}".into(),
        lang: "BadLang_{\"\"'".into(),
        update_check: true,
        ..AppRequest::default()
    };
    let expected = Request {
        updater_version: "StrangeVersion\"#$%{'".into(),
        install_source: "is".into(),
        is_machine: false,
        os: os("9.0", "win", "Service Pack 3", "unknown"),
        apps: vec![app],
        ..Request::default()
    };
    assert_eq!(read("req-google-injection-escaped.xml"), expected);
}

#[test]
fn every_application_of_a_request_is_read() {
    let checked = AppRequest {
        app_id: "{8A69D345-D564-463C-AFF1-A69D9E530F97}".into(),
        lang: "en".into(),
        ping: Some(Ping { active: false }),
        update_check: true,
        ..AppRequest::default()
    };
    let mentioned = AppRequest {
        app_id: "{AD3D0CC0-AD1E-4b1f-B98E-BAA41DCE396D}".into(),
        version: "1.0".into(),
        lang: "en".into(),
        ..AppRequest::default()
    };
    let expected = Request {
        updater_version: "4.3.2.1".into(),
        install_source: "unittest_install".into(),
        os: os("7.0", "win", "Service Pack 2", "x64"),
        apps: vec![checked, mentioned],
        ..Request::default()
    };
    assert_eq!(read("req-google-machine-userid.xml"), expected);
}

#[test]
fn protocol_2_is_refused_by_name() {
    let error = Request::read(&sample("bad-req-protocol-2.xml")).unwrap_err();
    assert_eq!(error, Error::WrongProtocol { expected: "3.0", got: "2.0".into() });
    assert_eq!(error.to_string(), "unsupported protocol: expected \"3.0\", got \"2.0\"");
}

#[test]
fn a_raw_quote_in_an_alias_is_malformed_and_says_where() {
    let error = Request::read(&sample("bad-req-ue-quote-in-alias.xml")).unwrap_err();
    let Error::Malformed { place, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*place, Place { offset: 248, path: "request/app".into() });
    assert!(error.to_string().starts_with("malformed XML at request/app (byte 248): "), "{error}");
    assert_eq!(error.code(), ActionCode::OmahaRequestXMLParseError.into());
}
