//! What servers answer.

use manifests::digest::Sha256Digest;
use manifests::omaha::{
    Acknowledgement, ActionCode, Codebase, Error, Package, PackageKind, PackageName, Place, Postinstall, ServerError, Update,
    UpdateAnswer, Verdict,
};
use manifests::version::Version;

use super::sample;

const FLATCAR: &str = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}";

fn read(name: &str, app_id: &str) -> Result<UpdateAnswer, Error> {
    UpdateAnswer::read(&sample(name), app_id)
}

fn read_update(name: &str, app_id: &str) -> Update {
    match read(name, app_id) {
        Ok(UpdateAnswer { poll_interval_s: None, verdict: Verdict::Update(update) }) => update,
        other => panic!("{name}: {other:?}"),
    }
}

fn acknowledgement(name: &str, app_id: &str) -> Acknowledgement {
    Acknowledgement::read(&sample(name), app_id).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn update(codebases: &[&str], version: &str, packages: Vec<Package>, sha256: &str) -> Update {
    Update {
        codebases: codebases.iter().map(|url| Codebase::parse(url).unwrap()).collect(),
        version: Version::parse(version).unwrap(),
        packages,
        postinstall: Postinstall {
            sha256: sha256.into(),
            is_delta_payload: false,
            disable_payload_backoff: false,
            max_failure_count_per_url: 10,
        },
    }
}

/// A package without readable hashes.
fn plain(name: &str, size_bytes: u64, required: bool) -> Package {
    let name = PackageName::parse(name).unwrap();
    Package { name, size_bytes, sha1: None, sha256: None, required, kind: PackageKind::Plain }
}

/// A package with a hash, given in hex as the sample's base64 decodes.
fn hashed(name: &str, size_bytes: u64, required: bool, sha1_hex: &str) -> Package {
    let mut sha1 = [0; 20];
    for (index, byte) in sha1.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&sha1_hex[index * 2..index * 2 + 2], 16).unwrap();
    }
    Package { sha1: Some(sha1), ..plain(name, size_bytes, required) }
}

#[test]
fn a_noupdate_is_no_update_and_no_hold() {
    for (name, app_id) in [
        ("resp-noupdate-minimal.xml", FLATCAR),
        ("resp-noupdate-daystart-unknown-attr.xml", "foo"),
        ("resp-cros-eol-attr.xml", "foo"),
        ("resp-nebraska-noupdate-empty-urls.xml", FLATCAR),
        ("cap-resp-coreupdate-noupdate.xml", FLATCAR),
    ] {
        assert_eq!(read(name, app_id), Ok(UpdateAnswer::no_update()), "{name}");
    }
}

#[test]
fn an_answer_of_the_public_server_is_read_whole() {
    let mut expected = update(
        &["https://update.release.flatcar-linux.net/amd64-usr/3374.2.5/"],
        "3374.2.5",
        vec![hashed("flatcar_production_update.gz", 364_314_900, true, "aae3d2f313d50b0fc75022197ca0f896df641ebf")],
        "WR2cXX1kIaie+ElHh6ZxYVSOlOD2Ko/JQHvndGNhcMI=",
    );
    expected.postinstall.disable_payload_backoff = true;
    assert_eq!(read_update("resp-nebraska-3374.xml", FLATCAR), expected);
    let digest = "591d9c5d7d6421a89ef8494787a67161548e94e0f62a8fc9407be774636170c2";
    assert_eq!(expected.postinstall.digest(), Sha256Digest::from_hex(digest));
}

#[test]
fn an_answer_of_a_home_made_server_is_read_whole() {
    let mut expected = update(
        &["http://127.0.0.1:2080/3815.2.5/"],
        "3815.2.5",
        vec![hashed("flatcar_production_update.gz", 457_969_692, false, "93d3f9df339165bd461ed4faefa2af46e960fd03")],
        "D/X52lyISgHNO8GFWg5ZO4XDrbAs5Sk95fJ8WJi64yo=",
    );
    expected.postinstall.disable_payload_backoff = true;
    assert_eq!(read_update("cap-resp-flatcar-1629-update.xml", FLATCAR), expected);
}

#[test]
fn packages_behind_the_first_are_read_with_their_hashes() {
    let with_sha256 = |package, hex| Package { sha256: Sha256Digest::from_hex(hex), ..package };
    let mut expected = update(
        &["https://update.release.flatcar-linux.net/amd64-usr/3732.0.0/"],
        "3732.0.0",
        vec![
            hashed("flatcar_production_update.gz", 382_137_917, true, "23a0c63403ab2515313db0ae2f0f802137e254ca"),
            with_sha256(
                hashed("oem-azure.gz", 40_897_503, false, "c1ea71c0457d2f6492d65ff2704652a963377437"),
                "3aed3129de50b959a97e4913ba485bd60e72d2bb6aa377d5ed404103f0680043",
            ),
            with_sha256(
                hashed("oem-qemu.gz", 2282, false, "fb4ea259623a81a4a57081d5ee98c8109ac4f420"),
                "8ab630ee4079ecd5f8f512c05b44fec5e4f8db844db916c67c8d54a575cfe506",
            ),
        ],
        "stLG3U/o4Ar8TMHFwT/RWB0iNkaWOO6QtLrq6+AHBbA=",
    );
    expected.postinstall.disable_payload_backoff = true;
    assert_eq!(read_update("resp-nebraska-oem-packages.xml", FLATCAR), expected);
}

#[test]
fn a_minimal_update_is_accepted_though_its_digests_are_none() {
    let expected = update(&["http://missing/field/test/"], "1.0.0.0", vec![plain("f", 587, false)], "lkq34j5345");
    assert_eq!(read_update("resp-minimal-update.xml", "xyz"), expected);
    assert_eq!(expected.postinstall.digest(), None);
}

#[test]
fn answers_in_the_dialect_of_chrome_os_are_read() {
    let mut cohorts = update(&["http://code/base/"], "1.2.3.4", vec![plain("file.signed", 123, false)], "not-used");
    cohorts.postinstall.is_delta_payload = true;
    assert_eq!(read_update("resp-cros-cohorts-deadline.xml", "test-app-id"), cohorts);

    let name = "chromeos_10323.46.0-10323.52.0_caroline_beta-channel_delta_mp.bin-f5c4e5e263c4c119d7d22e0f18a586e5.signed";
    let sha256 = "90e36210059057b5320633a814170a0f3d0e914c74c91b881b3b1ee0eeab983b";
    let package = Package {
        sha256: Sha256Digest::from_hex(sha256),
        ..hashed(name, 29_981_022, true, "803d56f9d3d988d121cf77f7a1d0ad7cbf35622f")
    };
    let mut caroline = update(
        &[
            "http://dl.google.com/chromeos/caroline/10323.52.0/beta-channel/",
            "https://dl.google.com/chromeos/caroline/10323.52.0/beta-channel/",
        ],
        "10323.52.0",
        vec![package],
        "kONiEAWQV7UyBjOoFBcKDz0OkUx0yRuIGzse4O6rmDs=",
    );
    caroline.postinstall.is_delta_payload = true;
    let app_id = "{C166AF52-7EE9-4F08-AAA7-B4B895A9F336}";
    assert_eq!(read_update("resp-cros-sample-v3-sha256.xml", app_id), caroline);
    assert_eq!(caroline.postinstall.digest(), Sha256Digest::from_hex(sha256));
}

#[test]
fn of_several_manifests_the_target_is_taken() {
    let codebases = ["https://update.release.flatcar-linux.net/amd64-usr/"];
    let package = plain("flatcar_production_update.gz", 542_373_876, true);
    let expected = update(&codebases, "4.0.0", vec![package], "sha256_4_0_0");
    assert_eq!(read_update("resp-multi-manifest-floors.xml", FLATCAR), expected);
}

#[test]
fn of_several_applications_ours_is_taken() {
    let name = "resp-omahaserver-update-check-postitive-critical.xml";
    assert_eq!(read(name, "{430FD4D0-B729-4F61-AA34-91526481799D}"), Ok(UpdateAnswer::no_update()));
    let error = read(name, "{D0AB2EBC-931B-4013-9FEB-C9C4C2225C8C}").unwrap_err();
    let place = Place { offset: 490, path: "response/app[2]/updatecheck/manifest".into() };
    assert_eq!(error, Error::MissingElement { place, name: "actions" });
    assert_eq!(error.code(), ActionCode::OmahaResponseInvalid.into());
}

#[test]
fn an_answer_for_another_application_is_refused_naming_both() {
    let error = read("cap-resp-coreupdate-noupdate.xml", "{0ther}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "no answer for application \"{0ther}\": expected an <app> with that appid, got \"e96281a6-d1af-4bde-9a0a-97b76e56dc57\""
    );
    assert_eq!(error.code(), ActionCode::OmahaResponseInvalid.into());
}

#[test]
fn answers_to_events_are_acknowledgements_and_no_update_answers() {
    let ok = |events: usize| Acknowledgement { app_status: "ok".into(), events: vec!["ok".into(); events] };
    for (name, app_id, events) in [
        ("cap-resp-coreroller-50-event.xml", FLATCAR, 1),
        ("cap-resp-nebraska-228-event.xml", FLATCAR, 1),
        ("resp-omahaserver-event.xml", "{D0AB2EBC-931B-4013-9FEB-C9C4C2225C8C}", 3),
        ("cap-resp-coreupdate-noupdate.xml", FLATCAR, 0),
    ] {
        assert_eq!(acknowledgement(name, app_id), ok(events), "{name}");
        assert!(ok(events).is_accepted());
    }
    let error = read("cap-resp-nebraska-228-event.xml", FLATCAR).unwrap_err();
    let place = Place { offset: 84, path: "response/app".into() };
    assert_eq!(error, Error::MissingElement { place, name: "updatecheck" });
    assert_eq!(error.code(), ActionCode::OmahaResponseInvalid.into());
}

#[test]
fn an_unknown_status_is_a_server_error_with_code_34() {
    let answer = read("bad-resp-updatecheck-unknown-status.xml", "foo").unwrap();
    let expected = ServerError { status: Some("InvalidStatusTest".into()), app_status: None, info: None };
    assert_eq!(answer, UpdateAnswer { poll_interval_s: None, verdict: Verdict::ServerError(expected.clone()) });
    assert_eq!(expected.code().to_wire(), 34);
    assert_eq!(expected.to_string(), "expected status \"ok\" or \"noupdate\", got \"InvalidStatusTest\"");
}

#[test]
fn an_empty_answer_is_code_30() {
    let error = read("bad-resp-empty.xml", FLATCAR).unwrap_err();
    assert_eq!(error, Error::Empty { expected: "response" });
    assert_eq!(error.code().to_wire(), 30);
    assert_eq!(error.to_string(), "empty document: expected an Omaha response, got 0 bytes");
}

#[test]
fn a_stray_quote_is_malformed_with_code_31() {
    let error = read("bad-resp-stray-quote-unclosed.xml", FLATCAR).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
    assert_eq!(error.code().to_wire(), 31);
}

#[test]
fn fragments_are_no_answers() {
    for (name, root) in [("frag-package-metadata-cdata.xml", "Package"), ("frag-urls-bad-attr.xml", "urls")] {
        let error = read(name, FLATCAR).unwrap_err();
        assert_eq!(error, Error::WrongRoot { expected: "response", got: root.into() }, "{name}");
    }
}

/// An update whose parts are given as text.
fn answer_with(urls: &str, packages: &str) -> Result<UpdateAnswer, Error> {
    let body = format!(
        "<response protocol=\"3.0\"><app appid=\"x\" status=\"ok\"><updatecheck status=\"ok\">{urls}<manifest version=\"1\">\
         <packages>{packages}</packages><actions><action event=\"postinstall\" sha256=\"a\"/></actions></manifest>\
         </updatecheck></app></response>"
    );
    UpdateAnswer::read(body.as_bytes(), "x")
}

#[test]
fn fragments_inside_an_answer_are_judged_by_its_rules() {
    let fragment = |name: &str| String::from_utf8(sample(name)).unwrap();
    let package = fragment("frag-package-metadata-cdata.xml").replace("Package", "package");
    let urls = "<urls><url codebase=\"http://a\"/></urls>";
    let nameless = answer_with(urls, &package).unwrap_err();
    assert!(matches!(nameless, Error::MissingAttribute { name: "name", .. }), "{nameless:?}");
    let sizeless = answer_with(urls, &package.replace("name=\"\"", "name=\"n\"")).unwrap_err();
    assert!(matches!(sizeless, Error::MissingAttribute { name: "size", .. }), "{sizeless:?}");
    let whole = package.replace("name=\"\"", "name=\"n\"").replace("size=\"\"", "size=\"1\"");
    let expected = update(&["http://a/"], "1", vec![plain("n", 1, false)], "a");
    assert_eq!(answer_with(urls, &whole).unwrap().verdict, Verdict::Update(expected));

    let codeless = answer_with(&fragment("frag-urls-bad-attr.xml"), &whole).unwrap_err();
    assert!(matches!(codeless, Error::MissingAttribute { name: "codebase", .. }), "{codeless:?}");
    assert_eq!(codeless.code().to_wire(), 34);
}
