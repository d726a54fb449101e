//! Scripts in TOML: what the README shows works, and what makes no sense is refused with its place.

use std::path::Path;

use server_mock::{Answer, AnswerKind, Break, Error, Fault, FaultKind, NoUpdate, OfferedPackage, OfferedUpdate, Script};

fn parse(text: &str) -> Result<Script, Error> {
    Script::parse(text, Path::new("/base"))
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn an_empty_script_is_the_default() {
    let script = parse("").unwrap();
    assert_eq!(script, Script::default());
    assert_eq!(
        (script.codebases, script.omaha_paths),
        (vec!["/files/".to_owned()], vec!["/v1/update".into(), "/v1/update/".into()])
    );
}

#[test]
fn every_key_is_read() {
    let script = parse(
        r#"
        files_dir = "release"
        codebases = ["/files/", "https://mirror.example/x/"]
        omaha_paths = ["/omaha"]

        [[answers]]
        kind.noupdate = { hold = "window", until = "2026-11-22T02:00:00Z", reason = "why", poll_interval_s = 60 }
        times = 2
        delay_ms = 5
        content_type = "text/html"
        fault = { kind = "stall", after_bytes = 10 }
        app_id = "other"
        more_apps = ["first"]

        [[answers]]
        kind.update.version = "1.1.0"
        kind.update.packages = [{ name = "a", file = "b", size = 1, sha1 = "0000000000000000000000000000000000000000", required = false, delta = true }]
        kind.update.codebases = ["/files/"]
        kind.update.sha256 = "x"
        kind.update.is_delta_payload = true
        kind.update.max_failure_count_per_url = 3
        kind.update.poll_interval_s = 5

        [[answers]]
        kind = { raw_file = { file = "answer.xml" } }

        [[events]]
        kind = "acknowledge"

        [[faults]]
        path = "/files/*"
        kind = { status = { code = 503, retry_after_s = 5 } }
        times = 3
        skip = 1

        [[faults]]
        path = "*"
        kind = "reset"
        at_offset = 100
        "#,
    )
    .unwrap();
    let held = NoUpdate {
        hold: Some("window".into()),
        until: Some("2026-11-22T02:00:00Z".parse().unwrap()),
        reason: Some("why".into()),
        poll_interval_s: Some(60),
    };
    let held = Answer {
        kind: AnswerKind::Noupdate(held),
        times: 2,
        delay_ms: 5,
        content_type: Some("text/html".into()),
        fault: Some(Break { kind: FaultKind::Stall, after_bytes: 10 }),
        app_id: Some("other".into()),
        more_apps: vec!["first".into()],
    };
    let package = OfferedPackage {
        name: "a".into(),
        file: Some("b".into()),
        size: Some(1),
        sha1: Some("0".repeat(40)),
        sha256: None,
        required: Some(false),
        delta: true,
    };
    let update = OfferedUpdate {
        version: "1.1.0".into(),
        packages: vec![package],
        codebases: Some(vec!["/files/".into()]),
        sha256: Some("x".into()),
        is_delta_payload: true,
        max_failure_count_per_url: Some(3),
        poll_interval_s: Some(5),
    };
    let expected = Script {
        files_dir: Some("/base/release".into()),
        codebases: vec!["/files/".into(), "https://mirror.example/x/".into()],
        omaha_paths: vec!["/omaha".into()],
        answers: vec![held, AnswerKind::Update(update).into(), AnswerKind::RawFile { file: "/base/answer.xml".into() }.into()],
        events: vec![AnswerKind::Acknowledge.into()],
        faults: vec![
            Fault::on("/files/*", FaultKind::Status { code: 503, retry_after_s: Some(5) }).times(3).skip(1),
            Fault::on("*", FaultKind::Reset).at_offset(100),
        ],
    };
    assert_eq!(script, expected);
}

#[test]
fn every_kind_has_its_spelling() {
    for kind in [
        "\"acknowledge\"",
        "{ noupdate = {} }",
        "{ update = { version = \"1\" } }",
        "{ error = { status = \"error-internal\", app_status = \"x\", info = \"y\" } }",
        "{ status = { code = 503, retry_after_s = 1, body = \"b\" } }",
        "{ redirect = { to = \"/\" } }",
        "{ raw = { body = \"\" } }",
        "{ raw_file = { file = \"f\" } }",
        "{ garbage = { bytes = 1 } }",
        "{ huge_xml = { bytes = 1 } }",
        "{ deep_xml = { depth = 1 } }",
    ] {
        parse(&format!("[[answers]]\nkind = {kind}")).unwrap_or_else(|error| panic!("{kind}: {error}"));
    }
    for kind in [
        "\"refuse\"",
        "\"no_answer\"",
        "{ outage = { seconds = 1 } }",
        "\"reset\"",
        "\"stall\"",
        "\"truncate\"",
        "\"wrong_range\"",
        "\"ok_for_206\"",
        "\"garbage\"",
        "{ flip_byte = { offset = 1 } }",
        "{ status = { code = 503 } }",
        "{ slow_drip = { bytes_per_s = 1 } }",
        "{ wrong_length = { by = -1 } }",
        "\"etag_change\"",
        "{ redirect = { to = \"/{name}\", code = 307 } }",
        "\"gzip_encoded\"",
        "\"not_http\"",
    ] {
        let script = parse(&format!("[[faults]]\npath = \"*\"\nkind = {kind}")).unwrap_or_else(|error| panic!("{kind}: {error}"));
        let name = script.faults[0].kind.name();
        assert!(kind.contains(name), "{kind}");
        assert!(include_str!("../../README.md").contains(name), "the README does not explain {name}");
    }
}

#[test]
fn the_readmes_script_is_one() {
    let readme = include_str!("../../README.md");
    let scripts: Vec<_> = readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!scripts.is_empty());
    for script in scripts {
        parse(script).unwrap_or_else(|error| panic!("{script}\n{error}"));
    }
    for kind in ["noupdate", "update", "error", "status", "redirect", "raw", "raw_file", "garbage", "huge_xml", "deep_xml"] {
        assert!(readme.contains(&format!("`{kind}")), "the README does not explain {kind}");
    }
}

#[test]
fn what_toml_cannot_fit_is_refused_with_line_key_and_expectation() {
    for (text, parts) in [
        ("file_dir = \"x\"", ["line 1, column 1", "unknown field `file_dir`, expected one of `files_dir`"]),
        (
            "\n\n[[answers]]\nkind.noupdate = {}\ntime = 2",
            ["line 5, column 1", "unknown field `time`, expected one of `kind`, `times`"],
        ),
        ("[[answers]]\nkind.noupdate = { holds = 1 }", ["line 2, column 19", "unknown field `holds`, expected one of `hold`"]),
        ("[[answers]]\nkind = \"noupdates\"", ["line 2, column 8", "unknown variant `noupdates`, expected one of `acknowledge`"]),
        ("[[answers]]\ntimes = 2", ["line 1, column 1", "missing field `kind`"]),
        ("[[answers]]\nkind.status = {}", ["line 2, column", "missing field `code`"]),
        ("[[answers]]\nkind.status = { code = \"x\" }", ["line 2, column 24", "invalid type: string \"x\", expected u16"]),
        ("[[answers]]\nkind.noupdate = { until = \"soon\" }", ["line 2, column 27", "soon"]),
        (
            "[[faults]]\npath = \"*\"\nkind = { flip_byte = { at = 1 } }",
            ["line 3, column 24", "unexpected keys in table: at, available keys: offset"],
        ),
        ("files_dir = ", ["line 1, column", "expected"]),
    ] {
        let message = refused(text);
        for part in parts {
            assert!(message.contains(part), "{text}\n{message}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_entry() {
    let answer = |rest: &str| format!("[[answers]]\nkind.noupdate = {{}}\n[[answers]]\n{rest}");
    let fault = |rest: &str| format!("[[faults]]\npath = \"*\"\n{rest}");
    for (text, expected) in [
        (
            "codebases = [\"files\"]".to_owned(),
            "script: codebases: expected a path that starts and ends with /, or an absolute http(s) URL, got \"files\"",
        ),
        ("omaha_paths = [\"omaha\"]".to_owned(), "script: omaha_paths: expected a path that starts with /, got omaha"),
        (answer("kind.noupdate = {}\ntimes = 0"), "script: answers[1]: expected times of at least 1, got 0"),
        (
            answer("kind.update = { version = \"../1\" }"),
            "script: answers[1]: expected a version of 1 to 64 letters, digits and . + - _ ~ that starts with a letter or digit, got \"../1\"",
        ),
        (
            answer("kind.update = { version = \"1\", packages = [{ name = \"a/b\" }] }"),
            "script: answers[1]: expected a file name of 1 to 255 bytes without '/', '\\', '..' and control characters, got \"a/b\"",
        ),
        (
            answer("kind.update = { version = \"1\", packages = [{ name = \"a\", sha256 = \"xy\" }] }"),
            "script: answers[1]: expected 64 hex digits for a hash of \"a\", got \"xy\"",
        ),
        (answer("kind.status = { code = 99 }"), "script: answers[1]: expected a code from 200 to 599, got 99"),
        (answer("kind.redirect = { to = \"/\", code = 200 }"), "script: answers[1]: expected a code from 300 to 399, got 200"),
        (answer("kind.garbage = { bytes = 4294967297 }"), "script: answers[1]: expected at most 4294967296, got 4294967297"),
        (
            answer("kind.noupdate = {}\nfault.kind = \"wrong_range\""),
            "script: answers[1]: expected a fault that is not about files, got wrong_range",
        ),
        (
            fault("kind = \"refuse\"\nafter_bytes = 1"),
            "script: faults[0]: refuse happens to a whole answer and takes no after_bytes",
        ),
        (fault("kind = \"refuse\"\nat_offset = 1"), "script: faults[0]: refuse happens to a whole answer and takes no at_offset"),
        (
            fault("kind = \"reset\"\nat_offset = 1\nafter_bytes = 1"),
            "script: faults[0]: expected after_bytes or at_offset, got both",
        ),
        (
            fault("kind.slow_drip = { bytes_per_s = 0 }"),
            "script: faults[0]: expected bytes_per_s above 0 (a stall sends nothing), got 0",
        ),
        (fault("kind.outage = { seconds = 3601 }"), "script: faults[0]: expected an outage of at most 3600 seconds, got 3601"),
        (fault("kind.redirect = { to = \"a\\nb\" }"), "script: faults[0]: expected a URL or path to redirect to, got \"a\\nb\""),
    ] {
        assert_eq!(refused(&text), expected);
    }
}

#[test]
fn a_script_file_is_named_in_its_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("script.toml");
    let missing = Script::load(&file).unwrap_err();
    assert_eq!(missing.to_string(), format!("cannot read script {}", file.display()));
    std::fs::write(&file, "x = 1").unwrap();
    let wrong = Script::load(&file).unwrap_err().to_string();
    assert!(wrong.starts_with(&format!("script {}: TOML parse error at line 1", file.display())), "{wrong}");
    std::fs::write(&file, "files_dir = \"release\"").unwrap();
    assert_eq!(Script::load(&file).unwrap().files_dir, Some(dir.path().join("release")));
}
