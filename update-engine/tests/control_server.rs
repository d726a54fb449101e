//! The control socket from outside, byte by byte: addresses, limits, and whoever misbehaves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that is skipped says why"
)]

mod control_fake;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use control_fake::{Documents, Fake, Line, Setup, accepted, read_all, rejected, split};
use serde_json::{Value, json};
use tempfile::TempDir;
use update_engine::control::client::{Client, ClientError};
use update_engine::control::{ControlError, Limits, Server, VERBS};
use update_engine::engine::command::{Command, Rejection};
use update_engine::status::json::{EventKind, EventLine, HistoryEntry, Slot, State, Status, WholeKernelLog, WhyEntry};

fn status() -> Status {
    Status {
        summary: "Nothing to do.".into(),
        slots: vec![Slot { name: "a".into(), booted: true, ..Slot::default() }],
        ..Status::default()
    }
}

fn documents() -> Documents {
    Documents {
        status: status(),
        history: vec![HistoryEntry { attempt: "5d1c".into(), to: "1.1.0".into(), ..HistoryEntry::default() }],
        why: vec![WhyEntry { gate: "pause".into(), ..WhyEntry::default() }],
        kernel_log: Some(WholeKernelLog { attempt: "5d1c".into(), lines: vec!["one".into()], ..WholeKernelLog::default() }),
        config: "state_dir = \"/var/lib/update-engine\"\n".into(),
    }
}

fn fake() -> Fake {
    Setup { documents: documents(), ..Setup::default() }.start()
}

fn with_limits(limits: Limits) -> Fake {
    Setup { documents: documents(), limits, ..Setup::default() }.start()
}

fn on_one_thread<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn body(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

#[test]
fn every_document_is_served_as_it_is() {
    let fake = fake();
    let get = |path: &str| {
        let (code, text) = fake.ask("GET", path, "");
        assert_eq!(code, 200, "{path}: {text}");
        text
    };
    assert_eq!(body(&get("/v1/status")), serde_json::to_value(documents().status).unwrap());
    assert_eq!(body(&get("/v1/history")), serde_json::to_value(documents().history).unwrap());
    assert_eq!(body(&get("/v1/why")), serde_json::to_value(documents().why).unwrap());
    assert_eq!(body(&get("/v1/slots")), serde_json::to_value(documents().status.slots).unwrap());
    assert_eq!(body(&get("/v1/kernel-log")), serde_json::to_value(documents().kernel_log).unwrap());
    assert_eq!(get("/v1/config"), documents().config);
    assert!(get("/metrics").contains("\nupdate_engine_state{state=\"idle\"} 1\n"));
}

#[test]
fn the_status_document_has_the_keys_of_the_contract() {
    let value = serde_json::to_value(Status::default()).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        keys(&value),
        [
            "attempts",
            "booted",
            "check",
            "health_warnings",
            "host",
            "inspection",
            "kernel_log",
            "last_error",
            "limit",
            "mode",
            "pause",
            "progress",
            "reboot",
            "schema",
            "slots",
            "state",
            "summary",
            "target",
            "trial",
            "troubles"
        ]
    );
    assert_eq!(value["schema"], 1);
    assert_eq!(keys(&value["host"]), ["alias", "app_id", "arch", "board", "channel", "id"]);
    assert_eq!(keys(&value["booted"]), ["boot_id", "confirmed", "slot", "version"]);
    assert_eq!(
        keys(&value["check"]),
        ["hold", "last_at", "last_outcome", "last_result", "newest_record_created", "next_at", "server"]
    );
    assert_eq!(keys(&value["reboot"]), ["lock", "strategy", "waiting_for"]);
    assert_eq!(keys(&value["reboot"]["lock"]), ["backend", "group", "held", "holders", "max"]);
    assert_eq!(keys(&value["attempts"]), ["committed", "failed", "rolled_back"]);
    let slot = serde_json::to_value(Slot::default()).unwrap();
    let slot_keys = ["bootable", "booted", "good", "name", "next", "proven", "read_back", "tries_left", "version"];
    assert_eq!(keys(&slot), slot_keys);
}

#[test]
fn what_is_not_there_and_what_is_asked_wrongly_is_told_in_json() {
    let fake = fake();
    let (code, text) = fake.ask("GET", "/v2/status", "");
    assert_eq!((code, &body(&text)["code"]), (404, &json!("not-found")));
    let (code, text) = fake.ask("POST", "/v1/explode", "");
    assert_eq!((code, &body(&text)["code"]), (404, &json!("not-found")));
    let (code, text) = fake.ask("POST", "/v1/status", "");
    assert_eq!((code, body(&text)), (405, json!({"code": "wrong-method", "message": "/v1/status: expected GET, got POST"})));
    let (code, text) = fake.ask("GET", "/v1/update", "");
    assert_eq!((code, body(&text)), (405, json!({"code": "wrong-method", "message": "/v1/update: expected POST, got GET"})));
    let (code, text) = fake.ask("POST", "/v1/check", "{\"fast\": true}");
    assert_eq!((code, body(&text)), (400, json!({"code": "bad-request", "message": "unknown field `fast`"})));
}

#[test]
fn a_command_reaches_the_engine_and_its_answer_comes_back() {
    let fake = Setup {
        script: vec![
            Line { answer: accepted(Some("5d1c"), "Looking for an update."), then: Vec::new() },
            Line { answer: rejected(Rejection::Busy, "An update is under way."), then: Vec::new() },
        ],
        ..Setup::default()
    }
    .start();
    let (code, text) = fake.ask("POST", "/v1/update", r#"{"version": "1.1.0"}"#);
    assert_eq!((code, body(&text)), (202, json!({"attempt": "5d1c", "message": "Looking for an update."})));
    let (code, text) = fake.ask("POST", "/v1/check", "");
    assert_eq!((code, body(&text)), (409, json!({"code": "busy", "message": "An update is under way."})));
    let update = Command::Update { version: Some("1.1.0".into()), allow_older: false, no_reboot: false };
    assert_eq!(fake.commands(), [update, Command::Check]);
}

#[test]
fn every_verb_has_its_address() {
    let script = VERBS.iter().map(|verb| Line { answer: accepted(None, verb), then: Vec::new() }).collect();
    let fake = Setup { script, ..Setup::default() }.start();
    for verb in VERBS {
        let fields = match verb {
            "install" => r#"{"release": "/r", "payload": "/p"}"#,
            "adopt" => r#"{"release": "/r"}"#,
            "channel" => r#"{"name": "beta"}"#,
            _ => "",
        };
        let (code, text) = fake.ask("POST", &format!("/v1/{verb}"), fields);
        assert_eq!((code, &body(&text)["message"]), (202, &json!(verb)));
    }
}

#[test]
fn an_engine_that_does_not_answer_is_told_of_in_time() {
    let limits = Limits { reply: Duration::from_millis(200), ..Limits::default() };
    let fake = Setup { limits, silent: true, ..Setup::default() }.start();
    let (code, text) = fake.ask("POST", "/v1/check", "");
    assert_eq!((code, &body(&text)["code"]), (504, &json!("no-answer")));
}

#[test]
fn a_full_queue_is_told_of_at_once() {
    let limits = Limits { reply: Duration::from_secs(1), ..Limits::default() };
    let fake = Setup { limits, deaf: true, ..Setup::default() }.start();
    let mut first = fake.connect();
    first.write_all(b"POST /v1/check HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let (code, text) = fake.ask("POST", "/v1/check", "");
    assert_eq!((code, &body(&text)["code"]), (503, &json!("busy")));
}

#[test]
fn a_body_that_is_too_long_is_refused_whether_or_not_it_says_so() {
    let fake = fake();
    let announced = fake.talk(b"POST /v1/check HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 65537\r\n\r\n");
    assert_eq!(split(&announced).0, 413, "{announced}");
    let mut chunked = b"POST /v1/check HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..80 {
        chunked.extend_from_slice(b"400\r\n");
        chunked.extend_from_slice(&[b' '; 1024]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let (code, text) = split(&fake.talk(&chunked));
    assert_eq!((code, &body(&text)["message"]), (413, &json!("expected a body of at most 65536 bytes, got more")));
    assert_eq!(fake.commands(), []);
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let fake = fake();
    let request = format!("GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: {}\r\n\r\n", "a".repeat(66_000));
    assert_eq!(split(&fake.talk(request.as_bytes())).0, 431);
    let endless = format!("GET /v1/status HTTP/1.1\r\nhost: x\r\nx-long: {}", "a".repeat(4_000_000));
    let answer = fake.talk(endless.as_bytes());
    assert!(answer.is_empty() || split(&answer).0 == 431, "{answer}");
}

#[test]
fn garbage_ends_its_own_connection_and_nothing_else() {
    let fake = fake();
    for garbage in [b"\x00\xff\x13\x37\r\n\r\n".as_slice(), b"HELO example\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]
    {
        let mut stream = fake.connect();
        stream.write_all(garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = read_all(&mut stream);
        assert!(answer.is_empty() || split(&answer).0 == 400, "{answer}");
    }
    assert_eq!(fake.ask("GET", "/v1/status", "").0, 200);
}

#[test]
fn the_sixty_fifth_connection_is_told_to_come_back() {
    let fake = fake();
    let mut held: Vec<UnixStream> = (0..64).map(|_| fake.connect()).collect();
    // The first of them is in: it is answered.
    held[0].write_all(b"GET /v1/slots HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut start = [0; 12];
    held[0].read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let (code, text) = split(&fake.talk(b""));
    assert_eq!(code, 503);
    assert_eq!(
        body(&text),
        json!({
            "code": "too-many-connections",
            "message": "there are 64 connections already, the most there may be; try again later"
        })
    );
    held.pop();
    let in_again = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        fake.ask("GET", "/v1/status", "").0 == 200
    });
    assert!(in_again, "the place was not given back");
}

fn impatient() -> Limits {
    Limits { stalled: Duration::from_millis(400), keep_alive: Duration::from_millis(100), ..Limits::default() }
}

/// How long it took until the server closed the connection.
fn closed_after(stream: &mut UnixStream) -> Duration {
    let started = Instant::now();
    read_all(stream);
    started.elapsed()
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let fake = with_limits(impatient());
    let took = closed_after(&mut fake.connect());
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_request_that_drips_is_closed() {
    let fake = with_limits(impatient());
    let mut stream = fake.connect();
    let started = Instant::now();
    let request = b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\nx-slow: ".iter().chain(std::iter::repeat_n(&b'a', 2_000));
    for byte in request {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // All of it would take 100 seconds.
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(read_all(&mut stream), "");
}

fn event(summary: &str) -> EventLine {
    EventLine { kind: EventKind::Message, summary: summary.into(), ..EventLine::default() }
}

fn subscribe(fake: &Fake) -> UnixStream {
    let mut stream = fake.connect();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    stream
}

#[test]
fn a_quiet_event_stream_stays_open_by_its_comments() {
    let fake = with_limits(impatient());
    let mut stream = subscribe(&fake);
    stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    let mut text = String::new();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1200) {
        let mut chunk = [0; 256];
        match stream.read(&mut chunk) {
            Ok(length @ 1..) => text.push_str(&String::from_utf8_lossy(&chunk[..length])),
            other => panic!("closed after {:?}: {other:?}", started.elapsed()),
        }
    }
    assert!(text.matches("\n:").count() >= 3, "{text}");
}

#[test]
fn an_event_is_a_named_line_of_json() {
    let fake = fake();
    let mut stream = subscribe(&fake);
    let line = EventLine { kind: EventKind::Transition, state: State::Fetching, ..event("Fetching 1.1.0.") };
    fake.events.send(line.clone()).unwrap();
    let mut text = String::new();
    while !text.contains("\n\n") {
        let mut chunk = [0; 256];
        let length = stream.read(&mut chunk).unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    assert!(text.contains("event: transition\n"), "{text}");
    assert_eq!(serde_json::from_str::<EventLine>(data).unwrap(), line);
}

#[test]
fn a_reader_that_does_not_read_is_dropped_and_its_place_is_free_again() {
    let limits = Limits { connections: 1, reserved: 0, ..impatient() };
    let fake = with_limits(limits);
    let mut stalled = subscribe(&fake);
    let long = "x".repeat(10_000);
    let started = Instant::now();
    // Room for another one is the proof: there is one place only.
    while fake.ask("GET", "/v1/status", "").0 != 200 {
        for _ in 0..16 {
            // An error means that the reader has been dropped already.
            let _nobody_listens = fake.events.send(event(&long));
        }
        assert!(started.elapsed() < Duration::from_secs(10), "still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    read_all(&mut stalled);
}

#[test]
fn a_reader_that_fell_behind_is_told_by_the_end_of_the_stream() {
    let fake = Setup { event_capacity: 8, ..Setup::default() }.start();
    on_one_thread(async {
        let client = Client::new(fake.socket()).unwrap();
        let mut events = client.events().await.unwrap();
        // More and faster than the server can send.
        for number in 0..1000 {
            // An error means that the server has ended the stream already.
            let _nobody_listens = fake.events.send(event(&number.to_string()));
        }
        let mut seen = 0;
        while let Some(_line) = events.next().await.unwrap() {
            seen += 1;
        }
        assert!(seen < 1000, "all {seen} came");
    });
}

#[test]
fn the_socket_is_for_everyone_and_its_folder_is_made() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("run/update-engine/control.sock");
    on_one_thread(async {
        let server = Server::bind(&path).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o666);
        drop(server);
        assert!(!path.exists(), "the socket stayed behind");
    });
}

#[test]
fn a_socket_that_a_dead_daemon_left_behind_is_replaced() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    on_one_thread(async { Server::bind(&path).map(drop).unwrap() });
}

#[test]
fn a_socket_that_a_daemon_answers_on_is_not_replaced() {
    let fake = fake();
    let error = on_one_thread(async { Server::bind(fake.socket()).unwrap_err() });
    assert!(matches!(error, ControlError::InUse { .. }), "{error}");
    assert!(error.to_string().ends_with("is in use: another update-engined answers on it"), "{error}");
    assert_eq!(fake.ask("GET", "/v1/status", "").0, 200);
}

#[test]
fn a_file_in_the_place_of_the_socket_is_not_replaced() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("control.sock");
    fs::write(&path, "precious").unwrap();
    let error = on_one_thread(async { Server::bind(&path).unwrap_err() });
    assert!(matches!(error, ControlError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_socket_that_another_daemon_has_put_there_since_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("control.sock");
    on_one_thread(async {
        let first = Server::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Server::bind(&path).unwrap();
        drop(first);
        assert!(path.exists(), "the first took the second's socket away");
    });
}

#[test]
fn a_daemon_that_stops_ends_its_event_streams() {
    let mut fake = fake();
    let mut stream = subscribe(&fake);
    let started = Instant::now();
    fake.stop();
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    read_all(&mut stream);
    assert!(!fake.socket().exists());
}

#[test]
fn the_client_reads_what_the_server_writes() {
    let line = Line { answer: rejected(Rejection::Paused, "This host is paused."), then: Vec::new() };
    let fake = Setup { documents: documents(), script: vec![line], ..Setup::default() }.start();
    on_one_thread(async {
        let client = Client::new(fake.socket()).unwrap();
        assert_eq!(client.status().await.unwrap(), documents().status);
        assert_eq!(client.history().await.unwrap(), documents().history);
        assert_eq!(client.why().await.unwrap(), documents().why);
        assert_eq!(client.slots().await.unwrap(), documents().status.slots);
        assert_eq!(client.config().await.unwrap(), documents().config);
        let mut events = client.events().await.unwrap();
        fake.events.send(event("one")).unwrap();
        fake.events.send(event("two")).unwrap();
        assert_eq!(events.next().await.unwrap(), Some(event("one")));
        assert_eq!(events.next().await.unwrap(), Some(event("two")));
        let error = client.act(&Command::Check).await.unwrap_err();
        assert!(matches!(&error, ClientError::Rejected { rejected } if rejected.code == Rejection::Paused), "{error}");
    });
}

#[test]
fn the_client_tells_why_nobody_answers() {
    let folder = TempDir::new().unwrap();
    let words = |path: &Path| {
        let error = on_one_thread(async { Client::new(path).unwrap().status().await.unwrap_err() });
        assert!(matches!(error, ClientError::NotReachable { .. }), "{error:?}");
        error.to_string().replace(&folder.path().display().to_string(), "")
    };
    let none = folder.path().join("none.sock");
    assert_eq!(words(&none), "cannot reach update-engined on /none.sock: there is no such socket");
    let dead = folder.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    assert_eq!(words(&dead), "cannot reach update-engined on /dead.sock: nobody listens there");
}

/// A server that sends these bytes, whatever is asked.
fn impostor(folder: &TempDir, bytes: &'static [u8]) -> std::path::PathBuf {
    let path = folder.path().join(format!("{}.sock", bytes.len()));
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 1024];
            let _any = stream.read(&mut request);
            let _gone = stream.write_all(bytes);
        }
    });
    path
}

#[test]
fn the_client_believes_nothing_that_is_not_what_a_daemon_says() {
    let folder = TempDir::new().unwrap();
    let error = |bytes| {
        let path = impostor(&folder, bytes);
        on_one_thread(async { Client::new(&path).unwrap().status().await.unwrap_err() })
    };
    assert!(matches!(error(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nnothing"), ClientError::Unexpected { .. }));
    assert!(matches!(error(b"HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\n{}"), ClientError::Unexpected { .. }));
    assert!(matches!(error(b"HTTP/1.1 200 OK\r\ncontent-length: 70\r\n\r\n{"), ClientError::WentAway { .. }));
    assert!(matches!(error(b"SSH-2.0-OpenSSH_9.7\r\n"), ClientError::WentAway { .. }));
    assert!(matches!(error(b""), ClientError::WentAway { .. }));
}
