//! What is written is read back the same, and nothing that is read can make a reader panic.

// The lints know test functions, not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use manifests::digest::Sha256Digest;
use manifests::omaha::{
    Acknowledgement, AppAnswer, AppRequest, Codebase, ErrorCode, Event, EventResult, EventType, Hold, Os, Package, PackageKind,
    PackageName, Ping, Postinstall, Request, Response, ServerError, Update, UpdateAnswer, Verdict,
};
use manifests::version::{Sequence, Version};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Values full of what XML, attributes and terminals treat specially, all of it allowed in XML.
fn text() -> impl Strategy<Value = String> {
    let special =
        prop::sample::select(vec!['"', '\'', '<', '>', '&', ';', '#', '\t', '\n', '\r', ' ', 'Ω', '𝄞', '\u{9B}', ']', '-']);
    vec(prop_oneof![3 => special, 1 => prop::char::range('a', 'z'), 1 => prop::char::range('\u{A0}', '\u{D7FF}')], 0..12)
        .prop_map(String::from_iter)
}

fn non_empty() -> impl Strategy<Value = String> {
    text().prop_map(|text| format!("x{text}"))
}

/// Text for people, which is written clean.
fn words() -> impl Strategy<Value = String> {
    non_empty().prop_map(|text| text.chars().filter(|c| !c.is_control()).collect())
}

fn event() -> impl Strategy<Value = Event> {
    let numbers = (any::<u32>(), any::<u32>(), option::of(any::<i32>()));
    (numbers, option::of(text()), option::of(non_empty()), option::of(words())).prop_map(
        |((kind, result, code), previous_version, attempt, reason)| Event {
            kind: EventType::from_number(kind % 1000),
            result: EventResult::from_number(result),
            error_code: code.map(ErrorCode::from_wire),
            previous_version,
            attempt,
            reason,
        },
    )
}

fn app_request() -> impl Strategy<Value = AppRequest> {
    let texts = prop::array::uniform12(text());
    let ours = (option::of(0..=1_u64 << 53), option::of(non_empty()), option::of(non_empty()));
    (texts, ours, any::<bool>(), option::of(any::<bool>()), any::<bool>(), vec(event(), 0..4)).prop_map(
        |(texts, (sequence, ota_slot, ota_attempt), delta_okay, ping, update_check, events)| {
            let [
                app_id,
                version,
                track,
                boot_id,
                oem,
                oem_version,
                aleph_version,
                machine_id,
                machine_alias,
                lang,
                board,
                hardware_class,
            ] = texts;
            AppRequest {
                app_id,
                version,
                track,
                boot_id,
                oem,
                oem_version,
                aleph_version,
                machine_id,
                machine_alias,
                lang,
                board,
                hardware_class,
                delta_okay,
                ota_sequence: sequence.and_then(Sequence::new),
                ota_slot,
                ota_attempt,
                ping: ping.map(|active| Ping { active }),
                update_check,
                events,
            }
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    (prop::array::uniform7(text()), any::<bool>(), vec(app_request(), 0..3)).prop_map(|(texts, is_machine, apps)| {
        let [version, updater_version, install_source, os_version, platform, sp, arch] = texts;
        let os = Os { version: os_version, platform, sp, arch };
        Request { protocol: "3.0".into(), version, updater_version, install_source, is_machine, os, apps }
    })
}

fn label() -> impl Strategy<Value = Version> {
    "[0-9a-z][0-9A-Za-z+~_-]{0,20}".prop_map(|text| Version::parse(&text).unwrap())
}

fn package() -> impl Strategy<Value = Package> {
    let name = non_empty().prop_map(|text| text.replace(|c: char| c.is_control(), "_"));
    (name, 1..=u64::MAX, option::of(any::<[u8; 20]>()), option::of(any::<[u8; 32]>()), any::<bool>(), any::<bool>()).prop_map(
        |(name, size_bytes, sha1, sha256, required, is_delta)| Package {
            name: PackageName::parse(&name).unwrap(),
            size_bytes,
            sha1,
            sha256: sha256.map(Sha256Digest::from_bytes),
            required,
            kind: if is_delta { PackageKind::Delta } else { PackageKind::Plain },
        },
    )
}

/// One manifest per client, its packages with names of their own.
fn update() -> impl Strategy<Value = Update> {
    let codebase = "https?://[a-z.]{1,10}(:[0-9]{1,4})?(/[a-z~%&=+-]{0,9}){0,3}".prop_map(|url| Codebase::parse(&url).unwrap());
    let postinstall = (non_empty(), any::<bool>(), any::<bool>(), any::<u32>());
    (vec(codebase, 1..4), label(), vec(package(), 1..5), postinstall).prop_map(|(codebases, version, mut packages, action)| {
        for (index, package) in packages.iter_mut().enumerate() {
            package.name = PackageName::parse(&format!("{index}{}", package.name.as_str())).unwrap();
        }
        let (sha256, is_delta_payload, disable_payload_backoff, max_failure_count_per_url) = action;
        let postinstall = Postinstall { sha256, is_delta_payload, disable_payload_backoff, max_failure_count_per_url };
        Update { codebases, version, packages, postinstall }
    })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let until = option::of(0..4_000_000_000_i64);
    let hold = (option::of(words()), option::of(words()), until).prop_map(|(kind, reason, until)| {
        let until = until.map(|second| jiff::Timestamp::from_second(second).unwrap());
        Some(Hold { kind, reason, until }).filter(|hold| *hold != Hold::default())
    });
    let error = (words(), option::of(words())).prop_map(|(status, info)| ServerError {
        status: Some(format!("error-{status}")),
        app_status: None,
        info,
    });
    prop_oneof![
        hold.prop_map(|hold| Verdict::NoUpdate { hold }),
        update().prop_map(Verdict::Update),
        error.prop_map(Verdict::ServerError),
    ]
}

fn app_answer() -> impl Strategy<Value = AppAnswer> {
    let check = option::of((option::of(1..=u32::MAX), verdict()))
        .prop_map(|check| check.map(|(poll_interval_s, verdict)| UpdateAnswer { poll_interval_s, verdict }));
    (non_empty(), any::<bool>(), check, 0..4_usize).prop_map(|(app_id, ping, update_check, events)| AppAnswer {
        app_id,
        status: "ok".into(),
        ping,
        update_check,
        events,
    })
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_was_written(request in request()) {
        prop_assert_eq!(Request::read(request.write().as_bytes()), Ok(request));
    }

    #[test]
    fn every_application_finds_its_own_answer(mut apps in vec(app_answer(), 1..4), server in text()) {
        for (index, app) in apps.iter_mut().enumerate() {
            app.app_id = format!("{index}{}", app.app_id);
        }
        let body = Response { server, apps: apps.clone() }.write();
        for app in apps {
            let events = Acknowledgement::read(body.as_bytes(), &app.app_id).unwrap();
            prop_assert_eq!(events.events.len(), app.events);
            prop_assert!(events.is_accepted());
            match app.update_check {
                Some(answer) => prop_assert_eq!(UpdateAnswer::read(body.as_bytes(), &app.app_id), Ok(answer)),
                None => prop_assert!(UpdateAnswer::read(body.as_bytes(), &app.app_id).is_err()),
            }
        }
    }

    #[test]
    fn values_xml_cannot_carry_are_written_as_something_it_can(alias in ".*", reason in any::<String>()) {
        let event = Event { reason: Some(format!("x{reason}")), ..Event::new(EventType::UpdateComplete, EventResult::Error) };
        let app = AppRequest { machine_alias: alias.clone(), events: vec![event], ..AppRequest::default() };
        let body = Request { apps: vec![app], ..Request::default() }.write();
        let read = Request::read(body.as_bytes()).unwrap();
        let allowed = |c: char| matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{FFFE}' | '\u{FFFF}'));
        let expected: String = alias.chars().map(|c| if allowed(c) { c } else { '\u{FFFD}' }).collect();
        prop_assert_eq!(&read.apps[0].machine_alias, &expected);
        prop_assert!(read.apps[0].events[0].reason.as_ref().unwrap().chars().all(|c| !c.is_control()));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = (Request::read(&bytes), UpdateAnswer::read(&bytes, "x"), Acknowledgement::read(&bytes, "x"));
    }

    #[test]
    fn a_soup_of_markup_never_panics(words in vec(prop::sample::select(vec![
        "<", ">", "/", "</", "/>", "<!", "<!--", "-->", "<![CDATA[", "]]>", "<?", "?>", "<!DOCTYPE", "[", "]", "&", ";", "&#", "x",
        "\"", "'", "=", " ", "\n", "response", "request", "app", " appid=\"x\"", "updatecheck", " status=\"ok\"", "<response>",
        "<app appid=\"x\">", "</app>", "</response>", "\u{FEFF}", "ä", "<a>", "</a>", "<?xml version=\"1.0\"?>", "\0",
    ]), 0..60)) {
        let body = words.concat();
        let _ = (Request::read(body.as_bytes()), UpdateAnswer::read(body.as_bytes(), "x"));
    }

    #[test]
    fn one_changed_byte_of_an_answer_is_read_or_refused(app in app_answer(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let app_id = app.app_id.clone();
        let mut body = Response { server: "s".into(), apps: vec![app] }.write().into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        let _ = UpdateAnswer::read(&body, &app_id);
    }

    #[test]
    fn an_answer_cut_short_is_refused(app in app_answer(), at in any::<prop::sample::Index>()) {
        let app_id = app.app_id.clone();
        let body = Response { server: "s".into(), apps: vec![app] }.write().into_bytes();
        let cut = &body[..at.index(body.len())];
        let error = UpdateAnswer::read(cut, &app_id).unwrap_err();
        prop_assert!(matches!(error.code().to_wire(), 30 | 31), "{}", error);
    }
}
