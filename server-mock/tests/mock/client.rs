//! A client that sees what an HTTP library hides: how a connection ended, and what came before.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use server_mock::{Mock, Script};
use tempfile::TempDir;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Closed,
    Reset,
    /// It is still open and silent.
    Silent,
}

/// All that came over a connection after one request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) ending: Ending,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Sends these bytes and reads until the connection ends or is silent for so long.
pub(crate) fn exchange(addr: SocketAddr, request: &[u8], silence: Duration) -> (Vec<u8>, Ending) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(request).unwrap();
    stream.set_read_timeout(Some(silence)).unwrap();
    let mut all = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    let ending = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break Ending::Closed,
            Ok(read) => all.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break Ending::Reset,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break Ending::Silent,
            Err(error) => panic!("{error}"),
        }
    };
    (all, ending)
}

/// Long enough for a machine under any load; only a test that fails waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One request with `Connection: close`; the headers given are lines without their ends.
pub(crate) fn request(mock: &Mock, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    request_within(PATIENCE, mock, method, path, headers, body)
}

/// The same for an answer that is expected to fall silent.
pub(crate) fn request_within(silence: Duration, mock: &Mock, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    let extra: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n{extra}\r\n",
        mock.addr()
    );
    let (all, ending) = exchange(mock.addr(), &[head.as_bytes(), body].concat(), silence);
    parse(&all, ending)
}

pub(crate) fn get(mock: &Mock, path: &str) -> Answer {
    request(mock, "GET", path, &[], b"")
}

pub(crate) fn get_range(mock: &Mock, path: &str, range: &str) -> Answer {
    request(mock, "GET", path, &[&format!("Range: {range}")], b"")
}

pub(crate) fn post(mock: &Mock, body: &str) -> Answer {
    request(mock, "POST", "/v1/update/", &[], body.as_bytes())
}

pub(crate) fn parse(all: &[u8], ending: Ending) -> Answer {
    let Some(end) = all.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Answer { status: 0, headers: Vec::new(), body: all.to_vec(), ending };
    };
    let head = std::str::from_utf8(&all[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(name, value)| (name.to_owned(), value.to_owned()));
    Answer { status, headers: headers.collect(), body: all[end + 4..].to_vec(), ending }
}

/// Bytes in which every place is told from its neighbours.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

/// A folder with one file of 100,000 bytes, `f.payload`.
pub(crate) fn folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("f.payload"), pattern(100_000)).unwrap();
    dir
}

pub(crate) fn start(script: Script) -> Mock {
    Mock::start(script).unwrap()
}

/// An Omaha request with a ping, a check and an event for each application.
pub(crate) fn check_for(app_ids: &[&str]) -> String {
    let apps: String = app_ids
        .iter()
        .map(|id| format!("<app appid=\"{id}\" version=\"1.0.0\"><ping active=\"1\"/><updatecheck/><event eventtype=\"3\" eventresult=\"2\"/></app>"))
        .collect();
    format!("<request protocol=\"3.0\">{apps}</request>")
}

/// An Omaha request with one event.
pub(crate) fn event_of(app_id: &str) -> String {
    format!("<request protocol=\"3.0\"><app appid=\"{app_id}\"><event eventtype=\"3\" eventresult=\"1\"/></app></request>")
}
