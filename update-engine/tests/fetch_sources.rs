//! One file from several sources: what follows each fault that a server or a network can have.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod fetching;

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fetching::{Bench, block_on, fault, noise};
use server_mock::{Fault, FaultKind};
use update_engine::fetch::{Budget, FetchError, Source, SourceId, Sources};

const SIZE: usize = 300_000;

/// Reads the whole file in pieces of 10,000 bytes, announced as one stretch.
async fn read_all(sources: &mut Sources, size: usize) -> Result<(Vec<u8>, Vec<SourceId>), FetchError> {
    let size = u64::try_from(size).unwrap();
    sources.announce(0..size);
    let (mut whole, mut piece, mut from) = (Vec::new(), Vec::new(), Vec::new());
    for start in (0..size).step_by(10_000) {
        from.push(sources.read(start..size.min(start + 10_000), &mut piece).await?);
        whole.extend_from_slice(&piece);
    }
    Ok((whole, from))
}

fn bench_for(fault: Fault) -> Bench {
    match fault.kind {
        FaultKind::Stall | FaultKind::SlowDrip { .. } => Bench::impatient(SIZE, [fault]),
        _ => Bench::new(SIZE, [fault]),
    }
}

/// Reads the file from the first codebase alone, which has this fault for ever: the error's code, its words, and the requests made.
fn refusal_of(kind: FaultKind) -> (String, String, usize) {
    let bench = bench_for(fault("one", kind));
    let error = block_on(read_all(&mut bench.sources(&["one"]), SIZE)).unwrap_err();
    (error.code().to_owned(), error.to_string(), bench.requests().len())
}

/// Reads the file from two codebases, the first with this fault: it must come whole. Answers the pauses and the faults noted.
fn repaired(fault: Fault) -> (Vec<Duration>, Vec<String>) {
    let bench = bench_for(fault);
    let mut sources = bench.sources(&["one", "two"]);
    let (bytes, _) = block_on(read_all(&mut sources, SIZE)).unwrap();
    assert!(bytes == bench.file, "the bytes are the file's");
    let faults = sources.tried().into_iter().map(|(_, fault)| fault.map_or("-", |fault| fault.code()).to_owned());
    (bench.timing.pauses(), faults.collect())
}

#[test]
fn an_honest_server_is_asked_once() {
    let bench = Bench::new(SIZE, []);
    let mut sources = bench.sources(&["one", "two"]);
    let (bytes, _) = block_on(read_all(&mut sources, SIZE)).unwrap();
    assert!(bytes == bench.file);
    assert_eq!(bench.requests(), ["one bytes=0-299999"]);
    assert_eq!(sources.downloaded(), 300_000);
    let headers = &bench.mock.recorded()[0].headers;
    assert_eq!(headers["user-agent"], format!("update-engine/{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(headers["accept-encoding"], "identity");
    assert!(!headers.contains_key("referer") && !headers.contains_key("authorization"), "{headers:?}");
}

#[test]
fn passing_faults_are_waited_out_at_the_same_source() {
    let first_pause = vec![Duration::from_secs(1)];
    let status = FaultKind::Status { code: 503, retry_after_s: None };
    for (kind, code) in [(FaultKind::Refuse, "transfer"), (FaultKind::NotHttp, "transfer"), (status, "http-status")] {
        let name = kind.name();
        let (pauses, faults) = repaired(fault("one", kind).times(1));
        assert_eq!((pauses, faults), (first_pause.clone(), vec![code.to_owned(), "-".to_owned()]), "{name}");
    }
    for kind in [FaultKind::Reset, FaultKind::Truncate] {
        let name = kind.name();
        let (pauses, faults) = repaired(fault("one", kind).after_bytes(120_000).times(1));
        assert_eq!((pauses, faults), (first_pause.clone(), vec!["transfer".to_owned(), "-".to_owned()]), "{name}");
    }
}

#[test]
fn faults_that_would_come_again_lead_to_the_next_source_at_once() {
    let redirect = |to: &str| FaultKind::Redirect { to: to.to_owned(), code: 302 };
    let cases = [
        (FaultKind::WrongRange, "wrong-range"),
        (FaultKind::WrongLength { by: 7 }, "wrong-range"),
        (FaultKind::WrongLength { by: -7 }, "wrong-range"),
        (FaultKind::GzipEncoded, "content-encoding"),
        (FaultKind::Status { code: 404, retry_after_s: None }, "http-status"),
        (FaultKind::Status { code: 503, retry_after_s: Some(30) }, "http-status"),
        (redirect("https://127.0.0.1:1/file"), "redirect"),
        (redirect("ftp://127.0.0.1:1/file"), "redirect"),
        (redirect("/one/file"), "redirect"),
        (FaultKind::Stall, "stalled"),
        (FaultKind::SlowDrip { bytes_per_s: 1000 }, "stalled"),
    ];
    for (kind, code) in cases {
        let case = format!("{kind:?}");
        let (pauses, faults) = repaired(fault("one", kind));
        assert_eq!(pauses, [], "{case}");
        assert_eq!(faults, [code, "-"], "{case}");
    }
}

#[test]
fn every_fault_that_lasts_ends_in_words_after_a_bounded_number_of_requests() {
    let expectations = [
        (FaultKind::Refuse, "transfer", "the transfer broke off: connection closed before message completed", 24),
        (FaultKind::NotHttp, "transfer", "the transfer broke off: ", 24),
        (FaultKind::Reset, "transfer", "the transfer broke off: ", 24),
        (FaultKind::Truncate, "transfer", "the transfer broke off: ", 24),
        (FaultKind::Stall, "stalled", "stalled: 0 bytes in 0 s, expected at least 1000", 3),
        (FaultKind::WrongRange, "wrong-range", "asked for bytes 0-299999, got 1-299999", 3),
        (FaultKind::GzipEncoded, "content-encoding", "Content-Encoding \"gzip\", expected none", 3),
        (FaultKind::Status { code: 500, retry_after_s: None }, "http-status", "HTTP status 500, expected 206 or 200", 24),
        (FaultKind::Status { code: 404, retry_after_s: None }, "http-status", "HTTP status 404, expected 206 or 200", 3),
    ];
    for (kind, code, words, requests) in expectations {
        let name = kind.name();
        let got = refusal_of(kind);
        assert!(got.1.contains(words) && got.1.contains("/one/file: "), "{name}: {}", got.1);
        assert_eq!((got.0.as_str(), got.2), (code, requests), "{name}");
    }
}

#[test]
fn a_cut_transfer_goes_on_where_it_stopped() {
    let bench = Bench::new(SIZE, [fault("one", FaultKind::Truncate).after_bytes(100_000).times(2)]);
    let mut sources = bench.sources(&["one"]);
    let (bytes, _) = block_on(read_all(&mut sources, SIZE)).unwrap();
    assert!(bytes == bench.file);
    assert_eq!(bench.requests(), ["one bytes=0-299999", "one bytes=100000-299999", "one bytes=200000-299999"]);
    assert_eq!(sources.downloaded(), 300_000, "no byte twice");
    assert_eq!(bench.timing.pauses(), [Duration::from_secs(1); 2], "progress resets the pauses");
    let tag = &bench.mock.recorded()[1].headers["if-range"];
    assert!(tag.starts_with('"'), "{tag}");
}

#[test]
fn a_server_that_cuts_every_answer_short_serves_the_file_all_the_same() {
    let bench = Bench::new(SIZE, [fault("one", FaultKind::Truncate).after_bytes(70_000)]);
    let (bytes, _) = block_on(read_all(&mut bench.sources(&["one"]), SIZE)).unwrap();
    assert!(bytes == bench.file);
}

#[test]
fn a_piece_comes_from_one_source_only() {
    let faults = [fault("one", FaultKind::Truncate).after_bytes(105_000).times(1), fault("one", FaultKind::Refuse)];
    let bench = Bench::new(SIZE, faults);
    let mut sources = bench.sources(&["one", "two"]);
    let (bytes, from) = block_on(read_all(&mut sources, SIZE)).unwrap();
    assert!(bytes == bench.file);
    let asked_second = bench.requests().into_iter().find(|request| request.starts_with("two")).unwrap();
    assert_eq!(asked_second, "two bytes=100000-299999", "the piece that was begun is fetched again whole");
    assert_eq!(from.iter().filter(|id| **id == from[0]).count(), 10);
}

#[test]
fn a_file_that_changes_during_the_transfer_is_noticed() {
    let cut = fault("one", FaultKind::Truncate).after_bytes(100_000).times(1);
    let (pauses, faults) = repaired(cut.clone());
    assert_eq!((pauses.len(), faults[0].as_str()), (1, "transfer"));

    let bench = Bench::new(SIZE, [fault("one", FaultKind::EtagChange)]);
    let mut sources = bench.sources(&["one", "two"]);
    let mut piece = Vec::new();
    block_on(async {
        sources.read(0..1000, &mut piece).await.unwrap();
        sources.read(200_000..201_000, &mut piece).await.unwrap();
    });
    assert!(piece == bench.file[200_000..201_000]);
    let first = sources.tried()[0].1.clone().unwrap();
    assert_eq!(first.to_string(), "the file changed during the transfer: ETag \"changed-1\" became \"changed-2\"");
}

#[test]
fn a_file_of_another_size_is_refused() {
    let bench = Bench::new(SIZE, []);
    let mut sources = bench.sources(&["one"]);
    sources.expect_size(Some(300_001));
    let error = block_on(sources.read(0..10, &mut Vec::new())).unwrap_err();
    assert_eq!(error.code(), "wrong-size");
    assert!(error.to_string().contains("the file is 300000 bytes long, expected 300001"), "{error}");
    let mut unknown = bench.sources(&["one"]);
    unknown.expect_size(None);
    let error = block_on(unknown.read(299_000..301_000, &mut Vec::new())).unwrap_err();
    assert!(error.to_string().contains("the file is 300000 bytes long, expected 301000"), "{error}");
}

#[test]
fn a_range_answered_with_the_whole_file_is_read_past_when_that_is_short() {
    let (pauses, faults) = repaired(fault("one", FaultKind::OkFor206));
    assert_eq!((pauses, faults), (vec![], vec!["-".to_owned(), "-".to_owned()]));
    let bench = Bench::new(SIZE, [fault("one", FaultKind::OkFor206)]);
    let mut sources = bench.sources(&["one"]);
    let mut piece = Vec::new();
    block_on(async {
        for start in [50_000_u64, 200_000] {
            sources.read(start..start + 1000, &mut piece).await.unwrap();
            assert!(piece == bench.file[usize::try_from(start).unwrap()..][..1000]);
        }
    });
    assert_eq!(bench.requests(), ["one bytes=50000-50999"], "the second piece comes out of the same body");
}

#[test]
fn a_server_that_ignores_ranges_is_left_when_much_would_be_thrown_away_unless_nobody_does_better() {
    let size = 3_000_000;
    let all = |codebases: &[&str]| codebases.iter().map(|codebase| fault(codebase, FaultKind::OkFor206)).collect::<Vec<_>>();
    let read = |bench: &Bench| {
        let mut sources = bench.sources(&["one", "two"]);
        let mut piece = Vec::new();
        block_on(sources.read(2_500_000..2_501_000, &mut piece)).unwrap();
        assert!(piece == bench.file[2_500_000..2_501_000]);
        sources.downloaded()
    };
    let one = Bench::new(size, all(&["one"]));
    assert!(read(&one) < 700_000);
    assert_eq!(one.requests(), ["one bytes=2500000-2500999", "two bytes=2500000-2500999"]);
    let both = Bench::new(size, all(&["one", "two"]));
    assert!(read(&both) >= 2_501_000);
}

#[test]
fn near_pieces_come_out_of_one_body_and_far_ones_are_asked_for() {
    let bench = Bench::new(SIZE, []);
    let mut sources = bench.sources(&["one"]);
    let mut piece = Vec::new();
    block_on(async {
        sources.announce(0..SIZE as u64);
        for start in [0_u64, 12_000, 100_000] {
            sources.read(start..start + 1000, &mut piece).await.unwrap();
            assert!(piece == bench.file[usize::try_from(start).unwrap()..][..1000]);
        }
    });
    assert_eq!(bench.requests(), ["one bytes=0-299999", "one bytes=100000-299999"]);
}

#[test]
fn design_11_14_a_redirect_within_the_scheme_is_followed_and_credentials_stay_at_home() {
    let elsewhere = Bench::new(SIZE, []);
    let to = format!("{}/two/file", elsewhere.mock.url()).replace("127.0.0.1", "localhost");
    let bench = Bench::new(SIZE, [fault("one", FaultKind::Redirect { to, code: 307 })]);
    let secret = bench.address("/one/file").to_string().replace("http://", "http://user:secret@");
    let mut sources = Sources::new(bench.fetcher.clone(), vec![Source::open(&secret).unwrap()], Budget::new(1 << 20)).unwrap();
    let mut piece = Vec::new();
    block_on(sources.read(1000..2000, &mut piece)).unwrap();
    assert!(piece == bench.file[1000..2000]);
    assert_eq!(bench.mock.recorded()[0].headers["authorization"], "Basic dXNlcjpzZWNyZXQ=");
    assert!(!elsewhere.mock.recorded()[0].headers.contains_key("authorization"));
    assert_eq!(elsewhere.mock.recorded()[0].range.as_deref(), Some("bytes=1000-1999"));
    assert!(!format!("{sources:?} {:?}", sources.tried()).contains("secret"));
}

#[test]
fn what_keeps_bytes_from_coming_is_told_until_they_come() {
    let bench = Bench::new(SIZE, [fault("one", FaultKind::Status { code: 503, retry_after_s: None }).times(2)]);
    let mut sources = bench.sources(&["one"]);
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    sources.on_trouble(move |trouble| listener.lock().unwrap().push(trouble));
    block_on(sources.read(0..1000, &mut Vec::new())).unwrap();
    block_on(sources.read(1000..2000, &mut Vec::new())).unwrap();
    let told = told.lock().unwrap();
    let [Some(first), Some(second), None] = &told[..] else { panic!("{told:?}") };
    assert!(first == second && first.starts_with(&bench.address("/one/file").to_string()) && first.contains("503"), "{first}");
}

#[test]
fn what_comes_for_all_files_together_keeps_to_the_rate_and_to_another_one_at_once() {
    let bench = Bench::new(SIZE, []);
    let (mut one, mut two) = (bench.sources(&["one"]), bench.sources(&["two"]));
    let paused = || bench.timing.pauses().iter().sum::<Duration>().as_secs_f64();
    let read = |sources: &mut Sources, range| block_on(sources.read(range, &mut Vec::new())).unwrap();
    read(&mut one, 0..100_000);
    assert_eq!(paused(), 0.0, "without a limit");
    bench.fetcher.rate().set(NonZeroU64::new(50_000));
    read(&mut one, 100_000..200_000);
    read(&mut two, 0..100_000);
    // 200,000 bytes at 50,000 a second, of which a fifth of a second's may come early. What comes beyond a piece in its last chunk is paid for, too.
    let took = paused();
    assert!((3.8..=10.0).contains(&took), "{took}");
    bench.fetcher.rate().set(None);
    read(&mut two, 100_000..SIZE as u64);
    assert!(paused() <= took + 1.0, "the limit was lifted: {}", paused());
}

#[test]
fn design_11_14_redirects_end_after_five() {
    let bench = Bench::new(SIZE, [fault("one", FaultKind::Redirect { to: "/one/file".to_owned(), code: 302 })]);
    let error = block_on(bench.fetcher.get_capped(&bench.source("one"), 1 << 20)).unwrap_err();
    assert!(error.to_string().ends_with("/one/file: redirect refused: more than 5 in a row"), "{error}");
    assert_eq!(bench.requests().len(), 6);
}

#[test]
fn design_11_14_an_attempt_downloads_no_more_than_its_budget() {
    let bench = Bench::new(SIZE, []);
    let mut sources = bench.sources(&["one", "two"]);
    sources.budget().set_limit(450_000);
    let error = block_on(async {
        loop {
            let id = match sources.read(0..100_000, &mut Vec::new()).await {
                Ok(id) => id,
                Err(error) => return error,
            };
            sources.wrong_window(id);
        }
    });
    assert_eq!(error.code(), "budget");
    assert!(error.to_string().starts_with("the download budget of 450000 bytes is spent"), "{error}");
    assert!(error.to_string().contains("/one/file: 4 windows differ from the signed record"), "{error}");
    assert!(sources.downloaded() < 900_000, "what was under way when it ran out is all that is above it");
}

#[test]
fn design_11_14_payloads_of_an_attempt_share_its_budget_and_none_takes_more_than_its_share() {
    let bench = Bench::new(SIZE, []);
    let budget = Budget::new(500_000);
    let offered = |codebase| Sources::new(bench.fetcher.clone(), vec![bench.source(codebase)], budget.clone()).unwrap();
    let (mut delta, mut full) = (offered("one"), offered("two"));
    delta.limit_share(250_000);
    delta.limit_share(400_000);
    let spent = |sources: &mut Sources| {
        block_on(async {
            loop {
                if let Err(error) = sources.read(0..100_000, &mut Vec::new()).await {
                    return error.to_string();
                }
            }
        })
    };
    let error = spent(&mut delta);
    assert!(error.starts_with("the download budget of 250000 bytes is spent"), "{error}");
    let left = budget.limit() - budget.spent();
    let error = spent(&mut full);
    assert!(error.starts_with("the download budget of 500000 bytes is spent"), "{error}");
    assert_eq!(delta.downloaded() + full.downloaded(), budget.spent());
    assert!(full.downloaded() > left && full.downloaded() <= left + 100_000, "{left} were left, {} came", full.downloaded());
}

#[test]
fn design_11_14_a_source_with_eight_wrong_windows_is_dropped_and_the_next_one_goes_on() {
    let bench = Bench::new(SIZE, []);
    let mut sources = bench.sources(&["one", "two"]);
    let mut piece = Vec::new();
    block_on(async {
        sources.announce(0..SIZE as u64);
        let first = sources.read(0..1000, &mut piece).await.unwrap();
        let dropped: Vec<_> = (0..8).map(|_| sources.wrong_window(first)).collect();
        assert_eq!(dropped.iter().filter(|dropped| **dropped).count(), 1);
        assert!(sources.is_dropped(first));
        let second = sources.read(1000..2000, &mut piece).await.unwrap();
        assert_ne!(first, second);
        assert!(piece == bench.file[1000..2000]);
        assert_eq!(sources.drop_source(second).unwrap_err().code(), "wrong-windows", "nobody is left");
    });
}

#[test]
fn what_is_not_the_file_goes_to_the_next_source_and_the_second_time_for_good() {
    let bench = Bench::new(SIZE, []);
    let mut sources = bench.sources(&["one", "two"]);
    block_on(async {
        for expected in ["one", "two", "one", "two"] {
            let error = sources.read(0..64, &mut Vec::new()).await.err().map(|error| error.to_string());
            assert_eq!(error, None);
            assert!(bench.requests().last().unwrap().starts_with(expected), "{:?}", bench.requests());
            if let Err(error) = sources.garbage("not a payload: a login page".to_owned()).await {
                assert_eq!((expected, error.code(), bench.requests().len()), ("two", "garbage", 4));
                assert_eq!(error.to_string().matches("not a payload: a login page").count(), 2, "{error}");
                return;
            }
        }
        panic!("both sources were asked for ever");
    });
}

#[test]
fn a_wait_asked_for_is_kept_when_nobody_else_is_left_and_named_when_it_is_too_long() {
    let soon = FaultKind::Status { code: 503, retry_after_s: Some(120) };
    let bench = Bench::new(SIZE, [fault("one", soon).times(1)]);
    let (bytes, _) = block_on(read_all(&mut bench.sources(&["one"]), SIZE)).unwrap();
    assert!(bytes == bench.file);
    assert_eq!(bench.timing.pauses(), [Duration::from_secs(120)]);

    let late = FaultKind::Status { code: 503, retry_after_s: Some(7200) };
    let bench = Bench::new(SIZE, [fault("one", late)]);
    let error = block_on(read_all(&mut bench.sources(&["one"]), SIZE)).unwrap_err();
    assert_eq!((error.code(), error.status(), error.retry_after()), ("http-status", Some(503), Some(Duration::from_secs(7200))));
    assert_eq!(bench.requests().len(), 1);
}

#[test]
fn nobody_listening_is_told_as_such() {
    let bench = Bench::new(SIZE, []);
    let address = bench.address("/one/file");
    let fetcher = bench.fetcher.clone();
    drop(bench);
    let mut sources = Sources::new(fetcher, vec![address.into()], Budget::new(1 << 20)).unwrap();
    let error = block_on(sources.read(0..10, &mut Vec::new())).unwrap_err();
    assert_eq!(error.code(), "connect");
    assert!(error.to_string().contains("cannot connect: Connection refused"), "{error}");
}

#[test]
fn a_local_file_is_a_source_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.0.0.payload");
    let bytes = noise(3_000_000);
    std::fs::write(&path, &bytes).unwrap();
    let bench = Bench::new(1000, []);
    let open = || Source::open(path.to_str().unwrap()).unwrap();
    let mut sources = Sources::new(bench.fetcher.clone(), vec![open()], Budget::new(0)).unwrap();
    block_on(async {
        let mut piece = Vec::new();
        sources.read(10..2_500_000, &mut piece).await.unwrap();
        assert!(piece == bytes[10..2_500_000]);
        let error = sources.read(2_999_999..3_000_001, &mut piece).await.unwrap_err();
        assert!(error.to_string().contains("the file is 3000000 bytes long, expected 3000001"), "{error}");
        assert_eq!(bench.fetcher.get_capped(&open(), 3_000_000).await.unwrap().len(), 3_000_000);
        assert_eq!(bench.fetcher.get_capped(&open(), 2_999_999).await.unwrap_err().code(), "too-large");
    });
    assert_eq!(sources.downloaded(), 0, "nothing came over the network");
    assert_eq!(
        Source::open("/nowhere/file").unwrap_err().to_string(),
        "/nowhere/file: cannot open it: No such file or directory (os error 2)"
    );
}

#[test]
fn a_read_that_was_dropped_half_way_harms_nothing() {
    let bench = Bench::new(SIZE, [fault("one", FaultKind::Stall).after_bytes(50_000).times(1)]);
    let mut sources = bench.sources(&["one"]);
    let mut piece = Vec::new();
    block_on(async {
        sources.announce(0..SIZE as u64);
        let cancelled = tokio::time::timeout(Duration::from_millis(20), sources.read(0..100_000, &mut piece)).await;
        assert!(cancelled.is_err(), "the server stalls");
        sources.read(0..100_000, &mut piece).await.unwrap();
    });
    assert!(piece == bench.file[..100_000]);
}

#[test]
fn a_whole_file_of_unknown_length_is_read_from_its_start() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        use std::io::{BufRead, BufReader, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let head = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).count();
        assert!(head > 1);
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap();
        stream.write_all(&noise(100_000)).unwrap();
    });
    let bench = Bench::new(0, []);
    let mut sources = Sources::new(bench.fetcher.clone(), vec![Source::open(&url).unwrap()], Budget::new(1 << 20)).unwrap();
    let mut piece = Vec::new();
    block_on(async {
        for range in [0..64, 64..2000, 50_000..100_000] {
            sources.read(range.clone(), &mut piece).await.unwrap();
            assert!(piece == noise(100_000)[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]);
        }
    });
    server.join().unwrap();
}

#[test]
fn a_piece_is_begun_anew_when_the_only_source_changes_its_file() {
    let bench = Bench::new(
        SIZE,
        [fault("one", FaultKind::Truncate).after_bytes(5000).times(1), fault("one", FaultKind::EtagChange).times(1)],
    );
    let mut sources = bench.sources(&["one"]);
    let mut piece = Vec::new();
    block_on(sources.read(0..10_000, &mut piece)).unwrap();
    assert!(piece == bench.file[..10_000]);
    assert_eq!(bench.requests(), ["one bytes=0-9999", "one bytes=5000-9999", "one bytes=0-9999"]);
}
