//! The HTTP client: what it sends to an update server, what it takes from one, whom it trusts, and its proxies.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod fetching;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fetching::{Bench, block_on, fault};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use server_mock::{Answer, AnswerKind, Fault, FaultKind, Mock, Script};
use update_engine::fetch::limits::MAX_OMAHA_BYTES;
use update_engine::fetch::{self, Address, FetchError, Fetcher, Options, Source};

fn post(mock: &Mock, fetcher: &Fetcher) -> Result<fetch::Answer, FetchError> {
    let url = Address::parse(&mock.update_url()).unwrap();
    let body = r#"<?xml version="1.0"?><request protocol="3.0"><app appid="x" version="1"><updatecheck/></app></request>"#;
    block_on(fetcher.post_omaha(&url, body.to_owned(), &[("X-Goog-Update-Interactivity", "bg")]))
}

/// What becomes of this answer to an update check.
fn answered(answer: impl Into<Answer>) -> (Result<fetch::Answer, FetchError>, Mock) {
    let answer = answer.into();
    let falls_silent =
        answer.fault.as_ref().is_some_and(|fault| matches!(fault.kind, FaultKind::Stall | FaultKind::SlowDrip { .. }));
    let bench = if falls_silent { Bench::impatient(10, []) } else { Bench::new(10, []) };
    let mock = Mock::start(Script::default().answer(answer)).unwrap();
    (post(&mock, &bench.fetcher), mock)
}

fn status(code: u16, retry_after_s: Option<u64>) -> Answer {
    AnswerKind::Status { code, retry_after_s, body: "a page".to_owned() }.into()
}

#[test]
fn a_request_to_an_update_server_carries_its_headers_and_the_answer_comes_back() {
    let (answer, mock) = answered(Answer::no_update());
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.retry_after), (200, None));
    assert!(String::from_utf8(answer.bytes).unwrap().contains("noupdate"));
    let request = &mock.recorded()[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/update/"));
    assert_eq!(request.headers["content-type"], "text/xml; charset=utf-8");
    assert_eq!(request.headers["x-goog-update-interactivity"], "bg");
    assert!(request.body.contains("<updatecheck/>"));
}

#[test]
fn a_wish_to_be_asked_later_is_heard_on_success_and_on_errors() {
    let success = answered(status(200, Some(600))).0.unwrap();
    assert_eq!(success.retry_after, Some(Duration::from_secs(600)));
    let error = answered(status(503, Some(600))).0.unwrap_err();
    assert_eq!((error.code(), error.status(), error.retry_after()), ("http-status", Some(503), Some(Duration::from_secs(600))));
    assert!(error.to_string().ends_with("/v1/update/: HTTP status 503 (asks to come back in 600 s), expected 200"), "{error}");
    let silly = answered(status(429, Some(10_000_000))).0.unwrap_err();
    assert_eq!(silly.retry_after(), Some(Duration::from_secs(24 * 3600)));
    assert_eq!(answered(status(500, None)).0.unwrap_err().retry_after(), None);
}

#[test]
fn an_answer_is_capped_whether_or_not_it_states_its_length() {
    let (huge, _mock) = answered(AnswerKind::HugeXml { bytes: MAX_OMAHA_BYTES + 1 });
    assert_eq!(huge.unwrap_err().code(), "too-large");
    assert!(answered(AnswerKind::HugeXml { bytes: MAX_OMAHA_BYTES }).0.is_ok());
    let endless = serve_once(|stream| {
        let chunk = [b"8000\r\n".as_slice(), &[b'x'; 0x8000], b"\r\n"].concat();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(&chunk).is_ok() {}
    });
    let error = block_on(Bench::new(10, []).fetcher.get_capped(&endless, 1_000_000)).unwrap_err();
    assert!(error.to_string().ends_with(": the body is longer than 1000000 bytes"), "{error}");
}

#[test]
fn headers_without_end_are_refused() {
    let many = serve_once(|stream| {
        let fields: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n").as_bytes());
    });
    let endless = serve_once(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    for source in [many, endless] {
        let error = block_on(Bench::new(10, []).fetcher.get_capped(&source, 1000)).unwrap_err();
        assert_eq!(error.code(), "transfer", "{error}");
    }
}

#[test]
fn a_broken_answer_is_an_error_that_names_the_server_and_the_cause() {
    let cases = [
        (FaultKind::Refuse, 0, "transfer"),
        (FaultKind::Truncate, 5, "transfer"),
        (FaultKind::NotHttp, 0, "transfer"),
        (FaultKind::GzipEncoded, 0, "content-encoding"),
        (FaultKind::Stall, 5, "stalled"),
        (FaultKind::SlowDrip { bytes_per_s: 50 }, 0, "stalled"),
    ];
    for (kind, after, code) in cases {
        let case = format!("{kind:?}");
        let (answer, mock) = answered(Answer::no_update().broken(kind, after));
        let error = answer.unwrap_err();
        assert_eq!(error.code(), code, "{case}");
        assert!(error.to_string().starts_with(&mock.update_url()), "{case}: {error}");
    }
}

#[test]
fn an_update_check_follows_a_redirect_as_the_same_request_or_not_at_all() {
    for code in [301, 302, 307, 308] {
        let home = Mock::start(Script::default().answer(Answer::no_update())).unwrap();
        let (answer, _mock) = answered(AnswerKind::Redirect { to: home.update_url(), code });
        assert_eq!(answer.unwrap().status, 200);
        let request = &home.recorded()[0];
        assert_eq!(request.method, "POST");
        assert!(request.body.contains("<updatecheck/>"));
    }
    let other_method = answered(AnswerKind::Redirect { to: "/elsewhere".to_owned(), code: 303 }).0.unwrap_err();
    assert_eq!(other_method.status(), Some(303));
    let other_scheme = answered(AnswerKind::Redirect { to: "https://127.0.0.1/".to_owned(), code: 307 }).0.unwrap_err();
    assert!(other_scheme.to_string().ends_with("from http to https: a redirect must keep the scheme"), "{other_scheme}");
}

#[test]
fn a_small_file_comes_whole_or_not_at_all() {
    let bench = Bench::new(5000, []);
    let source = bench.source("one");
    assert!(block_on(bench.fetcher.get_capped(&source, 5000)).unwrap() == bench.file);
    assert_eq!(block_on(bench.fetcher.get_capped(&source, 4999)).unwrap_err().code(), "too-large");
    let missing = block_on(bench.fetcher.get_capped(&bench.address("/one/none").into(), 5000)).unwrap_err();
    assert_eq!((missing.code(), missing.status()), ("http-status", Some(404)));
    let cut = Bench::new(5000, [fault("one", FaultKind::Truncate).after_bytes(4000)]);
    assert_eq!(block_on(cut.fetcher.get_capped(&cut.source("one"), 5000)).unwrap_err().code(), "transfer");
    let short = Bench::new(5000, [Fault::on("/one/*", FaultKind::WrongLength { by: -1000 })]);
    let error = block_on(short.fetcher.get_capped(&short.source("one"), 5000)).map(|bytes| bytes.len());
    assert_eq!(error.unwrap(), 4000, "a length that lies downwards cuts the file; whoever reads it sees that");
}

#[test]
fn a_server_is_trusted_by_the_extra_authority_only_where_that_is_configured() {
    let server = TlsServer::start(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let trusting = Options { ca_file: Some(testdata("ca.pem")), ..Options::default() };
    let got = block_on(Fetcher::new(trusting).unwrap().get_capped(&server.source("localhost"), 10));
    assert_eq!(got.unwrap(), b"ok");
    let stranger = block_on(Fetcher::new(Options::default()).unwrap().get_capped(&server.source("localhost"), 10)).unwrap_err();
    assert_eq!(stranger.code(), "tls");
    assert!(stranger.to_string().contains("UnknownIssuer"), "{stranger}");
}

#[test]
fn design_11_14_a_redirect_never_leaves_https() {
    let server = TlsServer::start(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/file\r\nContent-Length: 0\r\n\r\n");
    let trusting = Options { ca_file: Some(testdata("ca.pem")), ..Options::default() };
    let error = block_on(Fetcher::new(trusting).unwrap().get_capped(&server.source("127.0.0.1"), 10)).unwrap_err();
    assert!(error.to_string().ends_with("redirect refused: from https to http: a redirect must keep the scheme"), "{error}");
}

#[test]
fn a_file_of_authorities_that_cannot_be_used_is_named() {
    let message = |path: PathBuf| Fetcher::new(Options { ca_file: Some(path), ..Options::default() }).unwrap_err().to_string();
    assert!(message("/nowhere/ca.pem".into()).starts_with("server.ca_file /nowhere/ca.pem: No such file"));
    let key = message(testdata("server.key"));
    assert!(key.ends_with("server.key: expected PEM certificates, found none"), "{key}");
}

#[test]
fn the_proxy_of_the_environment_is_used_unless_the_host_is_exempt() {
    let proxy = Bench::new(100, []);
    let url = proxy.mock.url();
    fetch_in_a_child("http://updates.invalid/one/file", "fetched", &[("HTTP_PROXY", &url), ("NO_PROXY", "")]);
    let request = &proxy.mock.recorded()[0];
    assert_eq!(request.path, "http://updates.invalid/one/file", "a proxy gets the whole URL");
    fetch_in_a_child("http://updates.invalid/one/file", "dns", &[("HTTP_PROXY", &url), ("NO_PROXY", "updates.invalid")]);
    assert_eq!(proxy.mock.recorded().len(), 1);
}

#[test]
fn a_machine_without_authorities_speaks_http_and_trusts_nobody_over_https() {
    let none = [("SSL_CERT_FILE", "/nowhere"), ("SSL_CERT_DIR", "/nowhere")];
    let plain = Bench::new(100, []);
    fetch_in_a_child(&plain.address("/one/file").to_string(), "fetched", &none);
    let server = TlsServer::start(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    fetch_in_a_child(&server.source("localhost").to_string(), "tls", &none);
}

/// Fetches in a process with these variables, since proxies and authorities are taken from there.
fn fetch_in_a_child(url: &str, expected: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "child_that_fetches_with_an_environment_of_its_own"]);
    command.env("TEST_URL", url).env("TEST_EXPECTED", expected).envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "run by other tests in a process of its own"]
fn child_that_fetches_with_an_environment_of_its_own() {
    let source = Source::open(&std::env::var("TEST_URL").unwrap()).unwrap();
    let got = block_on(Fetcher::new(Options::default()).unwrap().get_capped(&source, 1000));
    assert_eq!(got.as_ref().map_or_else(FetchError::code, |_| "fetched"), std::env::var("TEST_EXPECTED").unwrap(), "{got:?}");
}

/// Answers one connection like this, after the request's head has come.
fn serve_once(answer: impl FnOnce(&mut TcpStream) + Send + 'static) -> Source {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        answer(&mut stream);
    });
    Address::parse(&url).unwrap().into()
}

fn read_head(stream: &mut impl Read) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
}

/// A TLS server that gives every connection the same answer.
struct TlsServer {
    port: u16,
}

impl TlsServer {
    fn start(answer: &'static [u8]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificate = CertificateDer::from_pem_file(testdata("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(testdata("server.key")).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut tls = rustls::StreamOwned::new(connection, stream.unwrap());
                read_head(&mut tls);
                // A client that refuses the certificate hangs up.
                let _ = tls.write_all(answer).and_then(|()| tls.flush());
            }
        });
        Self { port }
    }

    fn source(&self, host: &str) -> Source {
        Address::parse(&format!("https://{host}:{}/file", self.port)).unwrap().into()
    }
}

fn testdata(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "testdata", "tls", name].iter().collect()
}
