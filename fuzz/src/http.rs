//! What a file server says of the stretch of a file that it sends.

use std::time::Duration;

use update_engine::fetch::range::{Asked, Granted, HeaderMap, StatusCode};
use update_engine::fetch::retry_after::wait_asked_for;

const NAMES: [&str; 7] =
    ["content-range", "content-length", "content-encoding", "etag", "retry-after", "x-retry-after", "last-modified"];

/// A head of an answer: a byte that picks the status, three numbers (start, length and size of the file; the last may be
/// unknown), then lines of a byte that picks the name, and the value.
pub fn head(data: &[u8]) {
    let Some((&[pick, known], rest)) = data.split_first_chunk() else { return };
    let Some((numbers, rest)) = rest.split_first_chunk::<12>() else { return };
    let number = |at: usize| u64::from(u32::from_le_bytes([numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]]));
    let status = [StatusCode::PARTIAL_CONTENT, StatusCode::OK, StatusCode::RANGE_NOT_SATISFIABLE, StatusCode::NO_CONTENT];
    let status = status[usize::from(pick) % status.len()];
    let range = number(0)..number(0) + number(4).max(1);
    let size = (known & 1 == 1).then(|| number(8));
    let etag = (known & 2 == 2).then_some("\"one\"");
    let headers = headers(rest);
    if let Some(wait) = wait_asked_for(&headers, "2026-01-01T00:00:00Z".parse().expect("a time")) {
        assert!(wait <= Duration::from_secs(24 * 60 * 60), "{wait:?}");
    }
    let asked = Asked { range, size, etag };
    match asked.judge(status, &headers) {
        Ok(granted) => check(&asked, status, &headers, &granted),
        Err(fault) => assert!(fault.to_string().chars().count() < 1024, "{fault}"),
    }
}

/// What is taken is what was asked for, or the whole file, and nothing of what else was said contradicts it.
fn check(asked: &Asked<'_>, status: StatusCode, headers: &HeaderMap, granted: &Granted) {
    let Granted { body, total, .. } = granted;
    assert!(body.start < body.end, "an empty stretch is taken: {body:?}");
    assert!(total.is_none_or(|total| body.end <= total), "{body:?} of {total:?}");
    assert!(asked.size.is_none() || total.is_none() || *total == asked.size, "another size is taken");
    if status == StatusCode::PARTIAL_CONTENT {
        assert!(body.start == asked.range.start && body.end <= asked.range.end, "{body:?} for {:?}", asked.range);
        let said: Vec<_> = headers.get_all("content-range").iter().collect();
        let total = total.map_or_else(|| "*".to_owned(), |total| total.to_string());
        let expected = format!("bytes {}-{}/{total}", body.start, body.end - 1);
        let [said] = said[..] else { panic!("{} Content-Range are taken", said.len()) };
        let plain = |text: &str| text.replace([' ', '\t'], "");
        // Leading zeros are digits, too.
        let without_zeros =
            |text: &str| text.split(['-', '/']).map(|part| part.trim_start_matches('0').to_owned()).collect::<Vec<_>>();
        let said = plain(said.to_str().expect("text"));
        assert_eq!(without_zeros(said.trim_start_matches("bytes")), without_zeros(plain(&expected).trim_start_matches("bytes")));
    } else {
        assert!(status == StatusCode::OK && body.start == 0 && body.end > asked.range.start, "{status} {body:?}");
    }
}

fn headers(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(8) {
        let Some((pick, value)) = line.split_first() else { continue };
        let Ok(value) = std::str::from_utf8(value).unwrap_or_default().parse() else { continue };
        headers.append(NAMES[usize::from(*pick) % NAMES.len()], value);
    }
    headers
}
