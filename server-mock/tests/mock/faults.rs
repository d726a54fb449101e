//! Each fault, seen by a client that looks at the bytes.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::client::{Answer, Ending, folder, get, get_range, pattern, request, request_within, start};
use server_mock::{Fault, FaultKind, Mock, Script};
use tempfile::TempDir;

const FILE: &str = "/files/f.payload";

/// A server with one fault, and its folder.
fn with(fault: Fault) -> (Mock, TempDir) {
    let dir = folder();
    (start(Script::serving(dir.path()).fault(fault)), dir)
}

fn struck(kind: FaultKind) -> (Answer, Mock) {
    let (mock, _dir) = with(Fault::on("*", kind).after_bytes(0));
    (get(&mock, FILE), mock)
}

fn struck_after(kind: FaultKind, bytes: u64) -> (Answer, Mock) {
    let (mock, _dir) = with(Fault::on(FILE, kind).after_bytes(bytes));
    (get(&mock, FILE), mock)
}

/// The record says what a client saw.
fn assert_recorded(mock: &Mock, status: Option<u16>, bytes_sent: u64, fault: &str) {
    let start = Instant::now();
    let last = loop {
        let last = mock.recorded().pop().unwrap();
        if last.finished || fault == "stall" {
            break last;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{last:?}");
        std::thread::yield_now();
    };
    assert_eq!((last.status, last.bytes_sent, last.fault.as_deref()), (status, bytes_sent, Some(fault)));
}

#[test]
fn refuse_closes_without_a_word() {
    let (answer, mock) = struck(FaultKind::Refuse);
    assert_eq!((answer.status, answer.body.len(), answer.ending), (0, 0, Ending::Closed));
    assert_recorded(&mock, None, 0, "refuse");
}

#[test]
fn reset_comes_after_exactly_so_many_bytes() {
    let (answer, mock) = struck_after(FaultKind::Reset, 70_000);
    assert_eq!((answer.status, &answer.body[..], answer.ending), (200, &pattern(70_000)[..], Ending::Reset));
    assert_eq!(answer.headers.iter().find(|(name, _)| name == "Content-Length").unwrap().1, "100000");
    assert_recorded(&mock, Some(200), 70_000, "reset");
}

#[test]
fn stall_keeps_the_connection_open_and_silent() {
    let (mock, _dir) = with(Fault::on(FILE, FaultKind::Stall).after_bytes(5));
    let answer = request_within(Duration::from_secs(1), &mock, "GET", FILE, &[], b"");
    assert_eq!((&answer.body[..], answer.ending), (&pattern(5)[..], Ending::Silent));
    assert_recorded(&mock, Some(200), 5, "stall");
}

#[test]
fn no_answer_is_not_even_a_status() {
    let (mock, _dir) = with(Fault::on(FILE, FaultKind::NoAnswer));
    let answer = request_within(Duration::from_secs(1), &mock, "GET", FILE, &[], b"");
    assert_eq!((answer.status, answer.body.len(), answer.ending), (0, 0, Ending::Silent));
    assert_recorded(&mock, None, 0, "no_answer");
}

#[test]
fn truncate_closes_early() {
    let (answer, mock) = struck_after(FaultKind::Truncate, 99_999);
    assert_eq!((&answer.body[..], answer.ending), (&pattern(99_999)[..], Ending::Closed));
    assert_recorded(&mock, Some(200), 99_999, "truncate");
}

#[test]
fn garbage_has_the_right_length_and_the_wrong_bytes() {
    let (answer, mock) = struck_after(FaultKind::Garbage, 1000);
    assert_eq!(answer.body.len(), 100_000);
    assert_eq!(answer.body[..1000], pattern(1000));
    let same = answer.body[1000..].iter().zip(&pattern(100_000)[1000..]).filter(|(a, b)| a == b).count();
    assert!(same < 2000, "{same} of 99,000 bytes are right");
    assert_recorded(&mock, Some(200), 100_000, "garbage");
}

#[test]
fn a_flipped_byte_is_one_byte_and_only_where_it_is_asked_for() {
    let (mock, _dir) = with(Fault::on("*", FaultKind::FlipByte { offset: 50_000 }).times(1));
    assert_eq!(get_range(&mock, FILE, "bytes=0-49999").body, pattern(50_000));
    let mut wrong = pattern(100_000);
    wrong[50_000] ^= 1;
    assert_eq!(get_range(&mock, FILE, "bytes=40000-").body, wrong[40_000..]);
    assert_recorded(&mock, Some(206), 60_000, "flip_byte");
    assert_eq!(get(&mock, FILE).body, pattern(100_000));
}

#[test]
fn a_wrong_range_is_honest_about_itself() {
    for (range, content_range, start, end) in [
        ("bytes=500-999", "bytes 499-998/100000", 499, 999),
        ("bytes=0-9", "bytes 1-10/100000", 1, 11),
        ("bytes=0-", "bytes 1-99999/100000", 1, 100_000),
    ] {
        let (mock, _dir) = with(Fault::on("*", FaultKind::WrongRange));
        let answer = get_range(&mock, FILE, range);
        assert_eq!((answer.status, answer.header("Content-Range")), (206, Some(content_range)));
        assert_eq!(answer.body, pattern(100_000)[start..end], "{range}");
        // Without a range there is none to get wrong.
        assert_eq!(get(&mock, FILE).status, 200);
    }
}

#[test]
fn a_range_may_be_ignored() {
    let (mock, _dir) = with(Fault::on("*", FaultKind::OkFor206));
    let answer = get_range(&mock, FILE, "bytes=500-999");
    assert_eq!((answer.status, answer.header("Content-Range"), answer.body.len()), (200, None, 100_000));
    assert_recorded(&mock, Some(200), 100_000, "ok_for_206");
}

#[test]
fn a_status_comes_with_its_retry_after() {
    let (answer, mock) = struck(FaultKind::Status { code: 503, retry_after_s: Some(30) });
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("30")));
    assert_recorded(&mock, Some(503), 15, "status");
}

#[test]
fn a_drip_takes_its_time() {
    let (mock, _dir) = with(Fault::on("*", FaultKind::SlowDrip { bytes_per_s: 1000 }).after_bytes(99_700));
    let start = Instant::now();
    let answer = get(&mock, FILE);
    assert_eq!(answer.body, pattern(100_000));
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
}

#[test]
fn a_length_may_promise_too_much_or_too_little() {
    let (answer, _mock) = struck(FaultKind::WrongLength { by: 7 });
    assert_eq!((answer.header("Content-Length"), answer.body.len(), answer.ending), (Some("100007"), 100_000, Ending::Closed));
    let (answer, _mock) = struck(FaultKind::WrongLength { by: -7 });
    assert_eq!((answer.header("Content-Length"), answer.body.len()), (Some("99993"), 100_000));
}

#[test]
fn a_tag_may_change_every_time() {
    let (mock, _dir) = with(Fault::on("*", FaultKind::EtagChange));
    let tags = [get(&mock, FILE), get(&mock, FILE)].map(|answer| answer.header("ETag").unwrap().to_owned());
    assert_ne!(tags[0], tags[1]);
}

#[test]
fn a_redirect_may_name_the_file() {
    let (mock, _dir) = with(Fault::on("/files/*", FaultKind::Redirect { to: "/mirror/{name}".into(), code: 307 }));
    let answer = get(&mock, "/files/not-even-there");
    assert_eq!((answer.status, answer.header("Location")), (307, Some("/mirror/not-even-there")));
}

#[test]
fn gzip_is_a_true_gzip_stream() {
    let (answer, mock) = struck(FaultKind::GzipEncoded);
    assert_eq!(answer.header("Content-Encoding"), Some("gzip"));
    assert_eq!(answer.header("Content-Length"), Some(answer.body.len().to_string().as_str()));
    assert_eq!(gunzip_stored(&answer.body), pattern(100_000));
    assert_recorded(&mock, Some(200), 10 + 2 * 5 + 100_000 + 8, "gzip_encoded");
}

/// Reads a gzip stream of uncompressed blocks (RFC 1951, 3.2.4; RFC 1952).
fn gunzip_stored(stream: &[u8]) -> Vec<u8> {
    assert_eq!(stream[..4], [0x1F, 0x8B, 8, 0]);
    let (mut rest, mut out) = (&stream[10..], Vec::new());
    loop {
        let (is_last, length) = (rest[0] == 1, u16::from_le_bytes([rest[1], rest[2]]));
        assert_eq!(u16::from_le_bytes([rest[3], rest[4]]), !length);
        let (block, after) = rest[5..].split_at(usize::from(length));
        out.extend_from_slice(block);
        rest = after;
        if is_last {
            break;
        }
    }
    assert_eq!(rest[..4], crc32fast::hash(&out).to_le_bytes());
    assert_eq!(rest[4..], u32::try_from(out.len()).unwrap().to_le_bytes());
    out
}

#[test]
fn an_answer_may_not_be_http() {
    let (answer, mock) = struck(FaultKind::NotHttp);
    assert_eq!((answer.status, answer.body.len(), answer.ending), (0, 512, Ending::Closed));
    assert_recorded(&mock, None, 512, "not_http");
}

#[test]
fn an_outage_ends_by_itself_on_the_same_address() {
    let (mock, _dir) = with(Fault::on("*", FaultKind::Outage { seconds: 1 }).times(1));
    let start = Instant::now();
    assert_eq!(get(&mock, FILE).status, 0);
    while TcpStream::connect(mock.addr()).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(start.elapsed() >= Duration::from_millis(1000), "{:?}", start.elapsed());
    assert_eq!(get(&mock, FILE).body.len(), 100_000);
    let first = &mock.recorded()[0];
    assert_eq!((first.status, first.fault.as_deref()), (None, Some("outage")));
}

#[test]
fn an_outage_cuts_off_what_is_under_way() {
    let (mock, _dir) = with(Fault::on("*", FaultKind::Stall).after_bytes(5));
    std::thread::scope(|scope| {
        let client = scope.spawn(|| get(&mock, FILE));
        while mock.recorded().is_empty() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(100));
        mock.go_away(Duration::from_secs(2));
        assert!(TcpStream::connect(mock.addr()).is_err());
        assert_ne!(client.join().unwrap().ending, Ending::Silent);
    });
}

#[test]
fn faults_strike_one_codebase_and_leave_the_other_alone() {
    let dir = folder();
    let script = Script { codebases: vec!["/files/".into(), "/mirror/".into()], ..Script::serving(dir.path()) };
    let mock = start(script.fault(Fault::on("/files/*", FaultKind::Status { code: 404, retry_after_s: None })));
    assert_eq!((get(&mock, FILE).status, get(&mock, "/mirror/f.payload").status), (404, 200));
}

#[test]
fn a_fault_at_an_offset_strikes_the_range_that_has_it() {
    let (mock, _dir) = with(Fault::on("*", FaultKind::Truncate).at_offset(60_000).skip(1).times(1));
    assert_eq!(get_range(&mock, FILE, "bytes=0-59999").body.len(), 60_000);
    assert_eq!(get_range(&mock, FILE, "bytes=60001-").body.len(), 39_999);
    assert_eq!(get_range(&mock, FILE, "bytes=50000-").body.len(), 50_000, "the first is let through");
    assert_eq!(get_range(&mock, FILE, "bytes=50000-").body.len(), 10_000);
    assert_eq!(get_range(&mock, FILE, "bytes=50000-").body.len(), 50_000, "it is used up");
}

#[test]
fn a_body_shorter_than_the_place_is_not_harmed() {
    let (mock, _dir) = with(Fault::on("*", FaultKind::Reset).after_bytes(1000));
    let answer = get_range(&mock, FILE, "bytes=0-999");
    assert_eq!((answer.body.len(), answer.ending), (1000, Ending::Closed));
    let head = request(&mock, "HEAD", FILE, &[], b"");
    assert_eq!((head.status, head.ending), (200, Ending::Closed));
    assert!(mock.recorded().iter().all(|recorded| recorded.fault.is_none()));
}

#[test]
fn the_first_fault_that_applies_is_used() {
    let dir = folder();
    let status = |code| FaultKind::Status { code, retry_after_s: None };
    let script = Script::serving(dir.path())
        .fault(Fault::on("*.payload", status(500)).times(1))
        .fault(Fault::on("*", status(502)).times(1));
    let mock = start(script);
    let seen: Vec<_> = (0..3).map(|_| get(&mock, FILE).status).collect();
    assert_eq!(seen, [500, 502, 200]);
}
