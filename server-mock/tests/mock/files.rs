//! Files as an honest server serves them.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::client::{Ending, PATIENCE, exchange, folder, get, get_range, parse, pattern, request, start};
use server_mock::Script;

#[test]
fn a_whole_file_comes_with_its_length_and_tag() {
    let dir = folder();
    let mock = start(Script::serving(dir.path()));
    let answer = get(&mock, "/files/f.payload");
    assert_eq!((answer.status, &answer.body, answer.ending), (200, &pattern(100_000), Ending::Closed));
    let header = |name: &str| answer.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(header("Content-Length"), Some("100000"));
    assert_eq!(header("Accept-Ranges"), Some("bytes"));
    assert_eq!(header("Content-Type"), Some("application/octet-stream"));
    assert!(header("ETag").unwrap().starts_with("\"186a0-"));
    assert_eq!(header("Content-Range"), None);
}

#[test]
fn a_range_comes_as_206_with_its_place() {
    let dir = folder();
    let mock = start(Script::serving(dir.path()));
    for (range, start, end) in
        [("bytes=0-0", 0, 1), ("bytes=500-999", 500, 1000), ("bytes=99990-", 99_990, 100_000), ("bytes=-10", 99_990, 100_000)]
    {
        let answer = get_range(&mock, "/files/f.payload", range);
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.body, pattern(100_000)[start..end], "{range}");
        assert_eq!(answer.header("Content-Range"), Some(format!("bytes {start}-{}/100000", end - 1).as_str()));
        assert_eq!(answer.header("Content-Length"), Some((end - start).to_string().as_str()));
    }
}

#[test]
fn a_range_outside_the_file_is_416_and_several_ranges_are_the_whole() {
    let dir = folder();
    let mock = start(Script::serving(dir.path()));
    let outside = get_range(&mock, "/files/f.payload", "bytes=100000-");
    assert_eq!((outside.status, outside.header("Content-Range")), (416, Some("bytes */100000")));
    assert_eq!(get_range(&mock, "/files/f.payload", "bytes=0-1,4-5").status, 200);
}

#[test]
fn if_range_with_another_tag_gives_the_whole() {
    let dir = folder();
    let mock = start(Script::serving(dir.path()));
    let tag = get(&mock, "/files/f.payload").header("ETag").unwrap().to_owned();
    let with =
        |tag: &str| request(&mock, "GET", "/files/f.payload", &["Range: bytes=0-9", &format!("If-Range: {tag}")], b"").status;
    assert_eq!(with(&tag), 206);
    assert_eq!(with("\"other\""), 200);
    std::fs::write(dir.path().join("f.payload"), "changed").unwrap();
    assert_eq!(with(&tag), 200);
}

#[test]
fn head_has_the_headers_and_no_body() {
    let dir = folder();
    let mock = start(Script::serving(dir.path()));
    let answer = request(&mock, "HEAD", "/files/f.payload", &["Range: bytes=0-99"], b"");
    assert_eq!((answer.status, answer.body.len(), answer.header("Content-Length")), (206, 0, Some("100")));
}

#[test]
fn what_is_not_there_is_404_and_what_is_not_reading_is_405() {
    let dir = folder();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/a b"), "x").unwrap();
    let mock = start(Script::serving(dir.path().join("sub")));
    assert_eq!(get(&mock, "/files/a%20b").text(), "x");
    for path in ["/files/none", "/files/", "/files/../f.payload", "/files/%2e%2e/f.payload", "/nowhere", "/"] {
        assert_eq!(get(&mock, path).status, 404, "{path}");
    }
    let written = request(&mock, "PUT", "/files/a%20b", &[], b"y");
    assert_eq!((written.status, written.header("Allow")), (405, Some("GET, HEAD")));
    // The folder itself is no file either, and one without a folder has none.
    assert_eq!(get(&start(Script::default()), "/files/f.payload").status, 404);
}

#[test]
fn every_codebase_of_its_own_serves_the_folder() {
    let dir = folder();
    let mock = start(Script {
        codebases: vec!["/files/".into(), "/mirror/".into(), "http://elsewhere/".into()],
        ..Script::serving(dir.path())
    });
    for path in ["/files/f.payload", "/mirror/f.payload", "/mirror/f.payload?token=1", "http://proxied.example/files/f.payload"] {
        assert_eq!(get(&mock, path).body.len(), 100_000, "{path}");
    }
}

#[test]
fn a_connection_takes_one_request_after_another() {
    let dir = folder();
    let mock = start(Script::serving(dir.path()));
    let mut stream = TcpStream::connect(mock.addr()).unwrap();
    for start in [0, 10, 20] {
        // Two at once: the second waits in the server's buffer.
        for _ in 0..2 {
            let range = format!("GET /files/f.payload HTTP/1.1\r\nHost: h\r\nRange: bytes={start}-{}\r\n\r\n", start + 9);
            stream.write_all(range.as_bytes()).unwrap();
        }
        for _ in 0..2 {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let mut body = [0; 10];
            stream.read_exact(&mut body).unwrap();
            assert_eq!(body, pattern(100)[start..start + 10]);
        }
    }
    assert_eq!(mock.recorded().len(), 6);
}

#[test]
fn offsets_beyond_4_gib_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("large")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", 5 << 30).unwrap();
    let mock = start(Script::serving(dir.path()));
    let answer = get_range(&mock, "/files/large", "bytes=5368709120-");
    assert_eq!((answer.status, answer.text()), (206, "end"));
    assert_eq!(answer.header("Content-Range"), Some("bytes 5368709120-5368709122/5368709123"));
}

#[test]
fn what_is_no_request_is_answered_with_a_reason() {
    let mock = start(Script::default());
    let answer_to = |bytes: &[u8]| {
        let (all, ending) = exchange(mock.addr(), bytes, PATIENCE);
        parse(&all, ending)
    };
    let nonsense = answer_to(b"nonsense\r\n\r\n");
    assert_eq!((nonsense.status, nonsense.text()), (400, "expected an HTTP/1.1 request\n"));
    let long = answer_to(format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(70_000)).as_bytes());
    assert_eq!(long.status, 431);
    let many = answer_to(format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101)).as_bytes());
    assert_eq!(many.status, 431);
    let heavy = answer_to(b"POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n");
    assert_eq!((heavy.status, heavy.text()), (413, "expected a request body of at most 16 MiB\n"));
    assert_eq!(answer_to(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n").status, 400);
    assert!(mock.recorded().is_empty());
}

#[test]
fn chunked_bodies_and_expectations_are_read() {
    let mock = start(Script::default());
    let chunked = b"POST /v1/update HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n";
    exchange(mock.addr(), chunked, PATIENCE);
    assert_eq!(mock.recorded()[0].body, "abcde");
    let expecting = b"POST /v1/update HTTP/1.1\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi";
    let (all, _) = exchange(mock.addr(), expecting, PATIENCE);
    assert!(all.starts_with(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 "));
    assert_eq!(mock.recorded()[1].body, "hi");
}
