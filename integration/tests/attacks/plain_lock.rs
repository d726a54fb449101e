//! A lock service that knows FleetLock and nothing of ours: it says yes with an empty body.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use integration::hostsim::gpt::Gpt;
use serde_json::{Value, json};

use crate::scene::{Options, Scene, next_release};

/// What the server was told, and how the host's disk stood at that moment.
#[derive(Debug)]
struct Heard {
    line: String,
    protocol: Option<String>,
    body: Value,
    /// Priority, tries and success of slot b.
    slot_b: (u64, u64, bool),
}

/// Grants everything to everybody, over one connection for each request, until the test ends.
struct PlainServer {
    address: String,
    heard: Receiver<Heard>,
}

impl PlainServer {
    /// `disk` may come later, but before the first request.
    fn start(disk: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, heard) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A connection that was opened and not used says nothing.
                let Some(heard) = stream.ok().and_then(|stream| answer(stream, &disk)) else { continue };
                if sender.send(heard).is_err() {
                    return;
                }
            }
        });
        Self { address, heard }
    }
}

fn answer(mut stream: TcpStream, disk: &std::path::Path) -> Option<Heard> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let field = |name: &str| {
        let fields = lines.iter().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
    };
    let mut body = vec![0; field("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let entry = Gpt::open(disk).unwrap().entry("root-b").unwrap();
    let heard = Heard {
        line: lines.first()?.clone(),
        protocol: field("fleet-lock-protocol"),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        slot_b: (entry.priority(), entry.tries(), entry.successful()),
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
    Some(heard)
}

#[test]
fn a_plain_fleetlock_server_is_asked_before_the_slot_is_armed_and_told_after_it_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("disk.img");
    let server = PlainServer::start(link.clone());
    let extra = format!(
        "[reboot.lock]\nbackend = \"fleetlock\"\nurl = \"http://{}/locks/\"\ngroup = \"web\"\nid = \"host-7\"\n",
        server.address
    );
    let mut scene = Scene::new(&Options { strategy: "lock", extra, ..Options::default() }, next_release);
    std::os::unix::fs::symlink(scene.host.disk(), link).unwrap();
    scene.start();
    let status = scene.host.wait_committed("2.0.0");
    assert_eq!((&status["attempts"]["committed"], &status["last_error"]), (&json!(1), &Value::Null), "{status:#}");
    let attempt = scene.attempt("it is in the history", |attempt| attempt["outcome"] == "committed");
    let mut heard = Vec::new();
    scene.host.wait("the lock is given back", || {
        heard.extend(server.heard.try_iter());
        heard.iter().any(|heard| heard.line.contains("steady-state")).then_some(())
    });
    let (ask, give) = ("POST /locks/v1/pre-reboot HTTP/1.1", "POST /locks/v1/steady-state HTTP/1.1");
    let lines: Vec<&str> = heard.iter().map(|heard| heard.line.as_str()).collect();
    assert_eq!(lines, [ask, ask, give], "asked, told that the reboot comes, given back: {heard:#?}");
    for heard in &heard {
        assert_eq!(heard.protocol.as_deref(), Some("true"), "{heard:#?}");
        assert_eq!(heard.body["client_params"], json!({ "id": "host-7", "group": "web" }), "{heard:#?}");
        assert_eq!(heard.body["ota"]["attempt"], attempt["attempt"], "what a plain server passes over: {heard:#?}");
    }
    assert_eq!([heard[0].slot_b, heard[1].slot_b], [(0, 0, false); 2], "the lock comes before the flip");
    assert_eq!(heard[2].slot_b, (2, 0, true), "it is given back when the new slot is marked good");
}
