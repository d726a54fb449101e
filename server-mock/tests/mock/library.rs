//! The mock inside a test: record, scripts at run time, ends, and a real HTTP library against it.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use server_mock::{Answer, Error, Fault, FaultKind, MAX_RECORDED_BODY_BYTES, Mock, Recorded, Script};

use crate::client::{PATIENCE, check_for, exchange, folder, get, get_range, parse, pattern, post, request, start};

fn wait_until(mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < Duration::from_secs(5), "it never came true");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn requests_are_recorded_with_what_was_sent() {
    let dir = folder();
    let mock = start(Script::serving(dir.path()).answer(Answer::no_update()));
    request(&mock, "GET", "/files/f.payload?x=1", &["Range: bytes=5-9", "X-Two: a", "x-two: b"], b"");
    post(&mock, &check_for(&["{id}"]));
    wait_until(|| mock.recorded().iter().all(|recorded| recorded.finished));
    let recorded = mock.recorded();
    let first = &recorded[0];
    assert_eq!((first.number, first.method.as_str(), first.path.as_str()), (1, "GET", "/files/f.payload?x=1"));
    assert_eq!((first.range.as_deref(), first.headers["x-two"].as_str()), (Some("bytes=5-9"), "a, b"));
    assert_eq!((first.status, first.bytes_sent, first.fault.as_deref()), (Some(206), 5, None));
    let asked = recorded[1].omaha().unwrap();
    assert_eq!((asked.apps[0].app_id.as_str(), asked.apps[0].update_check), ("{id}", true));
    mock.clear_recorded();
    assert!(mock.recorded().is_empty());
    get(&mock, "/nowhere");
    assert_eq!((mock.recorded()[0].number, mock.recorded()[0].status), (3, Some(404)));
}

#[test]
fn the_record_is_a_json_array_over_http() {
    let mock = start(Script::default());
    request(&mock, "POST", "/nowhere", &["A: b"], b"body");
    let answer = get(&mock, "/_recorded");
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("application/json")));
    let json: Value = serde_json::from_slice(&answer.body).unwrap();
    let first = &json.as_array().unwrap()[0];
    assert_eq!((&first["method"], &first["path"], &first["body"]), (&"POST".into(), &"/nowhere".into(), &"body".into()));
    assert_eq!((&first["headers"]["a"], &first["range"], &first["status"]), (&"b".into(), &Value::Null, &404.into()));
    let typed: Vec<Recorded> = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(typed.len(), 1, "reading the record is not recorded");
    assert_eq!(request(&mock, "DELETE", "/_recorded", &[], b"").status, 200);
    assert_eq!(get(&mock, "/_recorded").text(), "[]");
    assert_eq!(request(&mock, "POST", "/_recorded", &[], b"").status, 405);
}

#[test]
fn what_a_client_did_not_wait_for_is_not_counted_as_sent() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::File::create(dir.path().join("large")).unwrap().set_len(1 << 30).unwrap();
    let mock = start(Script::serving(dir.path()));
    let mut stream = TcpStream::connect(mock.addr()).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /files/large HTTP/1.1\r\n\r\n").unwrap();
    std::io::Read::read_exact(&mut stream, &mut [0; 100_000]).unwrap();
    drop(stream);
    wait_until(|| mock.recorded()[0].finished);
    let sent = mock.recorded()[0].bytes_sent;
    assert!((90_000..64 << 20).contains(&sent), "{sent}");
}

#[test]
fn long_bodies_are_recorded_in_part() {
    let mock = start(Script::default());
    request(&mock, "POST", "/x", &[], &vec![b'a'; MAX_RECORDED_BODY_BYTES + 5]);
    assert_eq!(mock.recorded()[0].body.len(), MAX_RECORDED_BODY_BYTES);
}

#[test]
fn the_oldest_records_go_first_when_there_are_too_many_bytes() {
    let mock = start(Script::default());
    let body = vec![b'a'; MAX_RECORDED_BODY_BYTES];
    let requests = (160 << 20) / body.len();
    for _ in 0..requests {
        request(&mock, "POST", "/x", &[], &body);
    }
    let kept = mock.recorded();
    assert_eq!(kept.last().map(|last| last.number), Some(requests as u64));
    assert!(kept.len() * body.len() <= 128 << 20 && kept.len() > 400, "{} kept", kept.len());
}

#[test]
fn a_script_can_be_put_at_run_time() {
    let dir = folder();
    std::fs::write(dir.path().join("script.toml"), "").unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mock = Mock::start_in(Script::default(), listen, dir.path().to_owned()).unwrap();
    assert_eq!(get(&mock, "/files/f.payload").status, 404);
    let put = |script: &str| request(&mock, "PUT", "/_script", &[], script.as_bytes());
    assert_eq!(put("files_dir = \".\"\n[[answers]]\nkind.status = { code = 503 }").status, 200);
    assert_eq!(get(&mock, "/files/f.payload").status, 200);
    assert_eq!(post(&mock, &check_for(&["x"])).status, 503);
    let wrong = put("[[answers]]\nkind = \"nothing\"");
    assert_eq!(wrong.status, 400);
    assert!(wrong.text().contains("unknown variant `nothing`"), "{}", wrong.text());
    assert_eq!(get(&mock, "/files/f.payload").status, 200, "a script that is refused changes nothing");
    mock.set_script(Script::default().answer(Answer::status(502))).unwrap();
    assert_eq!(post(&mock, &check_for(&["x"])).status, 502);
    assert!(mock.set_script(Script::default().answer(Answer::status(502).times(0))).is_err());
}

#[test]
fn a_web_page_can_neither_read_the_record_nor_put_a_script() {
    let mock = Mock::start(Script::default().answer(Answer::status(503))).unwrap();
    let script = b"[[answers]]\nkind.raw_file = { file = \"/etc/hostname\" }\n";
    let sent = |host: &str, method: &str, path: &str, header: &str| {
        let length = if method == "PUT" { script.len() } else { 0 };
        let head = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: {length}\r\n{header}\r\n");
        let (all, ending) = exchange(mock.addr(), &[head.as_bytes(), &script[..length]].concat(), PATIENCE);
        let answer = parse(&all, ending);
        (answer.status, answer.text().to_owned())
    };
    let ours = format!("Host: {}\r\n", mock.addr());
    let evil = format!("Host: evil.example:{}\r\n", mock.addr().port());
    for (method, path) in
        [("PUT", "/_script"), ("GET", "/_recorded"), ("DELETE", "/_recorded"), ("PUT", "http://evil.example/_script")]
    {
        let (status, words) = sent(&ours, method, path, "Origin: http://evil.example\r\n");
        assert_eq!((status, words.contains("expected no Origin, got \"http://evil.example\"")), (403, true), "{words}");
        for host in [evil.as_str(), "", "Host: 127.0.0.1\r\nHost: evil.example\r\n"] {
            let (status, words) = sent(host, method, path, "");
            assert_eq!((status, words.contains("localhost or an address")), (403, true), "{host}: {words}");
        }
    }
    assert_eq!(post(&mock, &check_for(&["x"])).status, 503, "the script is the one it was");
    for host in [ours.as_str(), "Host: localhost:1\r\n", "Host: [::1]\r\n"] {
        assert_eq!(sent(host, "GET", "/_recorded", "").0, 200, "{host}");
    }
    assert_eq!(sent(&ours, "PUT", "/_script", "").0, 200);
}

#[test]
fn who_reaches_the_port_from_elsewhere_reads_only_what_was_served_already() {
    let dir = folder();
    std::fs::write(dir.path().join("answer.xml"), "mine").unwrap();
    let served = dir.path().join("served");
    std::fs::create_dir(&served).unwrap();
    std::fs::write(served.join("answer.xml"), "served").unwrap();
    std::os::unix::fs::symlink("../answer.xml", served.join("link.xml")).unwrap();
    let put = |mock: &Mock, script: &str| {
        let answer = request(mock, "PUT", "/_script", &[], script.as_bytes());
        (answer.status, answer.text().to_owned())
    };
    let raw = |file: &str| format!("[[answers]]\nkind = {{ raw_file = {{ file = \"{file}\" }} }}");
    let start = |script: Script, ip: [u8; 4]| Mock::start_in(script, (ip, 0).into(), dir.path().to_owned()).unwrap();

    let open = start(Script::serving(&served), [0, 0, 0, 0]);
    let measured = "files_dir = \"served\"\n[[answers]]\nkind.update = { version = \"1\", packages = [{ name = \"x\", file = \"/etc/passwd\" }] }";
    for script in [
        measured.to_owned(),
        raw("answer.xml"),
        raw("/etc/passwd"),
        raw("served/link.xml"),
        raw("served/nothing"),
        "files_dir = \"/\"".to_owned(),
    ] {
        let (status, words) = put(&open, &script);
        assert_eq!(status, 403, "{script}: {words}");
        assert!(words.contains("is out of reach") && words.contains("\nhint: start it with --listen 127.0.0.1"), "{words}");
    }
    assert_eq!(put(&open, &format!("files_dir = \"served\"\n{}", raw("served/answer.xml"))).0, 200);
    assert_eq!(post(&open, &check_for(&["x"])).text(), "served");

    let bare = start(Script::default(), [0, 0, 0, 0]);
    assert_eq!(put(&bare, &raw("served/answer.xml")).0, 403);
    assert_eq!(put(&bare, "[[answers]]\nkind.noupdate = {}").0, 200);

    let own = start(Script::serving(&served), [127, 0, 0, 1]);
    assert_eq!(put(&own, &raw("answer.xml")).0, 200);
    assert_eq!(post(&own, &check_for(&["x"])).text(), "mine");
}

#[test]
fn a_stopped_server_is_gone_at_once_whatever_it_was_doing() {
    let dir = folder();
    let slow = Fault::on("*", FaultKind::SlowDrip { bytes_per_s: 1 });
    let mock = start(Script::serving(dir.path()).fault(slow).answer(Answer { delay_ms: 60_000, ..Answer::no_update() }));
    let addr = mock.addr();
    let mut idle = TcpStream::connect(addr).unwrap();
    let mut dripping = TcpStream::connect(addr).unwrap();
    let mut delayed = TcpStream::connect(addr).unwrap();
    std::io::Write::write_all(&mut dripping, b"GET /files/f.payload HTTP/1.1\r\n\r\n").unwrap();
    let check = check_for(&["x"]);
    let post = format!("POST /v1/update HTTP/1.1\r\nContent-Length: {}\r\n\r\n{check}", check.len());
    std::io::Write::write_all(&mut delayed, post.as_bytes()).unwrap();
    wait_until(|| mock.recorded().len() == 2);
    let start = Instant::now();
    mock.stop();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    for stream in [&mut idle, &mut dripping, &mut delayed] {
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let ended = std::io::Read::read_to_end(stream, &mut Vec::new());
        assert!(ended.is_ok_and(|read| read < 1000));
    }
    assert!(TcpStream::connect(addr).is_err());
    // Its address is free again.
    let again = Mock::start_on(Script::default(), addr).unwrap();
    let taken = Mock::start_on(Script::default(), again.addr()).err();
    assert!(matches!(taken, Some(Error::Listen { .. })), "{taken:?}");
}

#[test]
fn a_hundred_connections_are_served_side_by_side() {
    let dir = folder();
    let mock = start(Script::serving(dir.path()));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..100_u64)
            .map(|n| {
                let mock = &mock;
                scope.spawn(move || get_range(mock, "/files/f.payload", &format!("bytes={n}-")).body.len())
            })
            .collect();
        for (n, client) in clients.into_iter().enumerate() {
            assert_eq!(client.join().unwrap(), 100_000 - n);
        }
    });
    assert_eq!(mock.recorded().len(), 100);
}

fn http_client() -> reqwest::Client {
    // Another test may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

#[tokio::test]
async fn it_works_inside_an_async_runtime_with_a_real_client() {
    let dir = folder();
    let mock = start(Script::serving(dir.path()).answer(Answer::no_update()));
    let client = http_client();
    let file = format!("{}/files/f.payload", mock.url());
    let ranged = client.get(&file).header("Range", "bytes=10-19").send().await.unwrap();
    assert_eq!(ranged.status(), 206);
    assert_eq!(ranged.bytes().await.unwrap(), pattern(100)[10..20]);
    let checked = client.post(mock.update_url()).body(check_for(&["x"])).send().await.unwrap();
    assert_eq!(checked.headers()["content-type"], "text/xml");
    assert!(checked.text().await.unwrap().contains("noupdate"));
    assert_eq!(client.head(&file).send().await.unwrap().headers()["content-length"], "100000");
    let recorded: Vec<Recorded> = client.get(format!("{}/_recorded", mock.url())).send().await.unwrap().json().await.unwrap();
    assert_eq!(recorded.len(), 3);
}

#[tokio::test]
async fn a_real_client_sees_every_fault_as_an_error_or_another_status() {
    let dir = folder();
    let client = http_client();
    for kind in [FaultKind::Refuse, FaultKind::Reset, FaultKind::Truncate, FaultKind::NotHttp, FaultKind::WrongLength { by: 5 }] {
        let mock = start(Script::serving(dir.path()).fault(Fault::on("*", kind.clone())));
        let seen = async { client.get(format!("{}/files/f.payload", mock.url())).send().await?.bytes().await }.await;
        assert!(seen.is_err(), "{}", kind.name());
    }
    let loops = FaultKind::Redirect { to: "/files/{name}".into(), code: 302 };
    let mock = start(Script::serving(dir.path()).fault(Fault::on("*", loops)));
    let seen = client.get(format!("{}/files/f.payload", mock.url())).send().await.unwrap_err();
    assert!(seen.is_redirect(), "{seen}");
}
