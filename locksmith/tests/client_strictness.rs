//! The client against servers that are no lock services, or bad ones.
//!
//! Fault model of the double: it speaks raw TCP, answers every connection with the next of the bytes it was given, then
//! closes, or holds the connection open without a word; it keeps what it was sent. With nothing left to say it refuses
//! connections.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use locksmith::client::{BaseUrl, Client, Error, Grant, Meaning, Options, Released, Ticket, Token};
use locksmith::names::{AttemptId, GroupName, HostId};
use locksmith::semaphore::{Facts, Outcome, Phase};

/// What the double does with one connection.
enum Reply {
    /// Reads the request, says this, closes.
    Say(Vec<u8>),
    /// Reads the request, says this, and goes on being silent until the client leaves.
    SayAndHang(Vec<u8>),
    /// Reads the request, says this, then floods until the client leaves.
    Flood(Vec<u8>),
}

struct Double {
    address: SocketAddr,
    heard: Receiver<String>,
    over: Arc<AtomicBool>,
}

impl Double {
    fn with(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, heard) = channel();
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        std::thread::spawn(move || {
            for reply in replies {
                let (mut stream, _) = listener.accept().unwrap();
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
                let _ = tell.send(read_request(&mut stream));
                answer(&mut stream, reply);
            }
        });
        Self { address, heard, over }
    }

    fn saying(replies: &[&str]) -> Self {
        Self::with(replies.iter().map(|text| Reply::Say(text.as_bytes().to_vec())).collect())
    }

    fn heard(&self) -> String {
        self.heard.recv_timeout(Duration::from_secs(5)).unwrap()
    }

    fn ticket(&self) -> Ticket {
        ticket(&format!("http://{}/locks", self.address))
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        // Ends the thread that may wait for a connection nobody makes; not joined, as it may be writing to a client
        // whose runtime has stopped with the test.
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0);
            if body.len() >= length {
                return text;
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return text,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

fn answer(stream: &mut TcpStream, reply: Reply) {
    match reply {
        Reply::Say(bytes) => {
            let _ = stream.write_all(&bytes);
        }
        Reply::SayAndHang(bytes) => {
            let _ = stream.write_all(&bytes);
            let _ = stream.read(&mut [0; 1]);
        }
        Reply::Flood(bytes) => {
            let _ = stream.write_all(&bytes);
            while stream.write_all(&[b'x'; 16 * 1024]).is_ok() {}
        }
    }
}

fn ticket(url: &str) -> Ticket {
    Ticket {
        base_url: BaseUrl::parse(url).unwrap(),
        group: GroupName::parse("web").unwrap(),
        id: HostId::parse("host-a").unwrap(),
        attempt: AttemptId::parse("attempt-1").unwrap(),
    }
}

fn client() -> Client {
    Options::default().timeouts(Duration::from_millis(500), Duration::from_millis(800)).build().unwrap()
}

fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

fn granted(body: &str) -> String {
    response("200 OK", "content-type: application/json\r\n", body)
}

const OURS: &str = r#"{"attempt":"attempt-1","fence":7,"phase":"draining","lease_s":120}"#;

async fn lock(double: &Double) -> Result<Grant, Error> {
    client().lock(&double.ticket(), &Facts::default()).await
}

/// The error's sentence, after making sure that it says where.
fn sentence(double: &Double, error: &Error) -> String {
    let text = error.to_string();
    let url = format!("http://{}/locks/v1/", double.address);
    assert!(text.contains(&url), "it does not say where: {text}");
    text
}

#[tokio::test]
async fn a_200_with_a_fence_is_a_grant_of_a_locksmithd() {
    let double = Double::saying(&[&granted(OURS)]);
    let grant = lock(&double).await.unwrap();
    assert_eq!((grant.fence, grant.phase), (Some(7), Some(Phase::Draining)));
    assert_eq!(grant.renew_every(), Some(Duration::from_secs(30)));
    let heard = double.heard();
    assert!(heard.starts_with("POST /locks/v1/pre-reboot HTTP/1.1\r\n"), "{heard}");
    assert!(heard.contains("fleet-lock-protocol: true\r\n"), "{heard}");
    assert!(!heard.to_ascii_lowercase().contains("accept-encoding"), "{heard}");
    let body: serde_json::Value = serde_json::from_str(heard.split_once("\r\n\r\n").unwrap().1).unwrap();
    let expected = serde_json::json!({
        "client_params": {"id": "host-a", "group": "web"},
        "ota": {"attempt": "attempt-1", "phase": "draining"},
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_200_without_a_fence_is_a_plain_server_with_nothing_to_renew() {
    let double = Double::saying(&[&granted(""), &granted("obtained reboot lease"), &granted("steady-state confirmed")]);
    let grant = lock(&double).await.unwrap();
    assert_eq!((grant.fence, grant.phase, grant.renew_every()), (None, None, None));
    client().renew(&grant).await.unwrap();
    // The second connection is the question before the reboot: renewing asked nothing.
    client().set_phase_rebooting(&grant, Some(Duration::from_secs(600))).await.unwrap();
    assert_eq!(client().release(&grant.ticket, Outcome::Ok).await.unwrap(), Released::Acknowledged);
    let heard = [double.heard(), double.heard(), double.heard()];
    assert!(heard[1].contains(r#""phase":"rebooting""#) && heard[1].contains(r#""deadline_s":600"#));
    assert!(heard[2].starts_with("POST /locks/v1/steady-state "), "{}", heard[2]);
    assert!(heard[2].contains(r#""outcome":"ok""#), "{}", heard[2]);
}

#[tokio::test]
async fn a_202_or_204_is_no_grant() {
    let waiting = r#"{"kind":"waiting_for_node_drain","value":"reserved, not yet drained"}"#;
    let double = Double::saying(&[
        &response("202 Accepted", "", waiting),
        &response("202 Accepted", "", OURS),
        "HTTP/1.1 204 No Content\r\n\r\n",
    ]);
    match lock(&double).await.unwrap_err() {
        Error::Refused(refused) => assert_eq!(refused.meaning, Meaning::Pending),
        other => panic!("{other}"),
    }
    for status in [202, 204] {
        match lock(&double).await.unwrap_err() {
            Error::BadAnswer { status: found, .. } => assert_eq!(found, status),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_redirect_to_a_200_is_not_followed() {
    let target = Double::saying(&[&granted(OURS)]);
    let location = format!("location: http://{}/login\r\n", target.address);
    let replies: Vec<String> = ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
        .iter()
        .map(|status| response(status, &location, ""))
        .collect();
    let double = Double::saying(&replies.iter().map(String::as_str).collect::<Vec<_>>());
    for _ in 0..5 {
        let error = lock(&double).await.unwrap_err();
        let text = sentence(&double, &error);
        assert!(text.contains("/login") && text.contains("wrong URL"), "{text}");
    }
    assert!(target.heard.try_recv().is_err(), "the redirect was followed");
}

#[tokio::test]
async fn a_login_page_with_status_200_is_no_grant() {
    let page = "<html><form>Please log in</form></html>";
    let double = Double::saying(&[&response("200 OK", "content-type: text/html\r\n", page)]);
    let text = sentence(&double, &lock(&double).await.unwrap_err());
    assert!(text.contains("web page"), "{text}");
}

#[tokio::test]
async fn a_truncated_answer_is_no_grant() {
    let cut = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{OURS}", OURS.len() + 10);
    let half = granted(&OURS[..OURS.len() / 2]);
    let double = Double::saying(&[&cut, &half]);
    let text = sentence(&double, &lock(&double).await.unwrap_err());
    assert!(text.contains("broke off after"), "{text}");
    let text = sentence(&double, &lock(&double).await.unwrap_err());
    assert!(text.contains("its body is broken"), "{text}");
}

#[tokio::test]
async fn a_huge_answer_is_cut_off_not_swallowed() {
    let announced = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".to_vec();
    let endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let double = Double::with(vec![Reply::Flood(announced), Reply::Flood(endless)]);
    for _ in 0..2 {
        let text = sentence(&double, &lock(&double).await.unwrap_err());
        assert!(text.contains("longer than 65536 bytes"), "{text}");
    }
}

#[tokio::test]
async fn sixty_four_kibibytes_are_read_and_not_one_byte_more() {
    let double = Double::saying(&[&granted(&"x".repeat(64 * 1024)), &granted(&"x".repeat(64 * 1024 + 1))]);
    assert_eq!(lock(&double).await.unwrap().fence, None);
    let text = sentence(&double, &lock(&double).await.unwrap_err());
    assert!(text.contains("longer than 65536 bytes"), "{text}");
}

#[tokio::test]
async fn garbage_is_no_grant() {
    let double = Double::saying(&[
        &granted("{\"attempt\": }"),
        &granted("{\"attempt\":\"attempt-1\",\"fence\":\"7\"}"),
        &granted("{\"fence\":7}"),
        &granted("{\"attempt\":\"attempt-2\",\"fence\":7}"),
        &granted("{\"kind\":\"other\",\"value\":\"message\"}"),
        &response("502 Bad Gateway", "content-type: text/html\r\n", "<html>nginx</html>"),
        &response("500 Oops", "", "[[[["),
    ]);
    for _ in 0..7 {
        let error = lock(&double).await.unwrap_err();
        assert!(matches!(error, Error::BadAnswer { .. }), "{error}");
        sentence(&double, &error);
    }
    let text = Double::saying(&["SSH-2.0-OpenSSH_9.2\r\n"]);
    let error = lock(&text).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    sentence(&text, &error);
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 70\r\n\r\n{".to_vec();
    let double = Double::with(vec![Reply::SayAndHang(Vec::new()), Reply::SayAndHang(head)]);
    let started = Instant::now();
    let error = lock(&double).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(sentence(&double, &error).contains("no answer within 0.8 s"), "{error}");
    let error = lock(&double).await.unwrap_err();
    assert!(matches!(error, Error::BadAnswer { .. }), "{error}");
    assert!(sentence(&double, &error).contains("its body stopped after 1 bytes"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn nobody_there_says_so_and_where() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = client().lock(&ticket(&format!("http://{free}")), &Facts::default()).await.unwrap_err();
    let expected =
        format!("the lock service cannot be reached at http://{free}/v1/pre-reboot: Connection refused (os error 111)");
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_refusal_carries_who_holds_since_when_and_when_to_ask_again() {
    let body = r#"{"kind":"full","value":"group \"web\" is full","holders":[{"id":"host-b","tag":"0011aabb",
        "since":"2026-01-01T00:00:00Z","phase":"rebooting","phase_since":"2026-01-01T00:01:00Z","fence":3,
        "version":"1.2.0"}],"holders_total":1,"max":1,"place":2,"waiting_since":"2026-01-01T00:02:00Z","retry_after_s":30}"#;
    let double = Double::saying(&[&response("423 Locked", "", body)]);
    let Error::Refused(refused) = lock(&double).await.unwrap_err() else { panic!("not refused") };
    assert_eq!((refused.meaning, refused.place, refused.max), (Meaning::Full, Some(2), Some(1)));
    assert_eq!(refused.retry_after, Some(Duration::from_secs(30)));
    assert_eq!(refused.holders[0].id.as_str(), "host-b");
    assert_eq!(refused.holders[0].phase, Phase::Rebooting);
    let expected =
        format!("the lock service at http://{}/locks/v1/pre-reboot refused (423 full): group \"web\" is full", double.address);
    assert_eq!(refused.to_string(), expected);
}

#[tokio::test]
async fn the_flip_waits_for_an_acknowledgement_of_this_very_grant() {
    let held =
        |double: &Double| Grant { ticket: double.ticket(), fence: Some(7), phase: Some(Phase::Draining), lease_s: Some(120) };
    let double = Double::saying(&[
        &granted(OURS),
        &granted(""),
        &granted(r#"{"attempt":"attempt-1","fence":8,"phase":"rebooting"}"#),
        &granted(r#"{"attempt":"attempt-1","fence":7}"#),
        &granted(r#"{"attempt":"attempt-1","fence":7,"phase":"rebooting"}"#),
    ]);
    for why in ["does not acknowledge", "another grant", "another grant", "does not acknowledge"] {
        let error = client().set_phase_rebooting(&held(&double), None).await.unwrap_err();
        assert!(sentence(&double, &error).contains(why), "{why}: {error}");
        assert!(double.heard().contains(r#""fence":7"#));
    }
    let acknowledged = client().set_phase_rebooting(&held(&double), None).await.unwrap();
    let grant = acknowledged.grant();
    assert_eq!((grant.phase, grant.renew_every()), (Some(Phase::Rebooting), None));
}

#[tokio::test]
async fn a_token_goes_to_its_own_server_and_to_no_other() {
    let token = Token::parse("0123456789abcdef").unwrap();
    let (mine, other) = (Double::saying(&[&granted(OURS)]), Double::saying(&[&granted(OURS)]));
    let base = BaseUrl::parse(&format!("http://{}/elsewhere", mine.address)).unwrap();
    let client = Options::default().token(&base, token).build().unwrap();
    client.lock(&mine.ticket(), &Facts::default()).await.unwrap();
    client.lock(&other.ticket(), &Facts::default()).await.unwrap();
    assert!(mine.heard().contains("authorization: Bearer 0123456789abcdef\r\n"));
    assert!(!other.heard().contains("authorization"));
}

#[tokio::test]
async fn credentials_in_a_url_are_sent_and_never_shown() {
    let refusal = r#"{"kind":"unauthorized_request","value":"who are you"}"#;
    let double = Double::saying(&[&response("401 Unauthorized", "", refusal)]);
    let url = format!("http://ada:hunter2@{}/locks", double.address);
    let error = client().lock(&ticket(&url), &Facts::default()).await.unwrap_err();
    assert!(double.heard().contains("authorization: Basic YWRhOmh1bnRlcjI=\r\n"));
    let text = sentence(&double, &error);
    assert!(!text.contains("hunter2") && !format!("{error:?}").contains("hunter2"), "{text}");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://ada:hunter2@{free}/");
    let error = client().lock(&ticket(&url), &Facts::default()).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}

#[tokio::test]
async fn https_to_a_server_without_tls_fails_with_a_reason() {
    let double = Double::saying(&["HTTP/1.1 400 Bad Request\r\n\r\n"]);
    let url = format!("https://{}/", double.address);
    let error = client().lock(&ticket(&url), &Facts::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[test]
fn a_ticket_and_a_grant_survive_being_written_down() {
    let grant =
        Grant { ticket: ticket("http://host:8085/locks"), fence: Some(7), phase: Some(Phase::Draining), lease_s: Some(120) };
    let text = serde_json::to_string(&grant).unwrap();
    assert_eq!(serde_json::from_str::<Grant>(&text).unwrap(), grant);
    let expected = r#"{"base_url":"http://host:8085/locks/","group":"web","id":"host-a","attempt":"attempt-1","fence":7,"phase":"draining","lease_s":120}"#;
    assert_eq!(text, expected);
    let ticket_only = serde_json::to_string(&grant.ticket).unwrap();
    assert_eq!(serde_json::from_str::<Ticket>(&ticket_only).unwrap(), grant.ticket);
}
