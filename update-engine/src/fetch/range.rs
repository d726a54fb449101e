//! Is an answer the stretch of the file that was asked for? Pure: heads of answers in, a verdict out.

use std::fmt;
use std::ops::Range;

pub use reqwest::StatusCode;
pub use reqwest::header::HeaderMap;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG};

use super::error::Fault;

/// What is asked of one source.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The stretch; its end is clipped to the file's when `size` is unknown.
    pub range: Range<u64>,
    /// Length the file must have.
    pub size: Option<u64>,
    /// First strong ETag this source gave.
    pub etag: Option<&'a str>,
}

/// A body that may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The stretch of the file that the body is.
    pub body: Range<u64>,
    /// Length of the file by this source.
    pub total: Option<u64>,
    /// The file's strong ETag, if it has one.
    pub etag: Option<String>,
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.range.start, self.range.end.saturating_sub(1))
    }
}

impl Asked<'_> {
    /// Judges the head of an answer.
    ///
    /// # Errors
    /// If its body is not what was asked for, or the file is another one than before.
    pub fn judge(&self, status: StatusCode, headers: &HeaderMap) -> Result<Granted, Fault> {
        let etag = strong_etag(headers);
        if let (Some(was), Some(is)) = (self.etag, &etag)
            && was != is
        {
            return Err(Fault::Changed { was: was.to_owned(), is: is.clone() });
        }
        let (body, total) = match status {
            StatusCode::PARTIAL_CONTENT => self.judge_part(headers)?,
            StatusCode::OK => self.judge_whole(headers)?,
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(self.not_satisfiable(headers)),
            other => return Err(self.wrong(format!("HTTP status {}", other.as_u16()))),
        };
        if let (Some(expected), Some(got)) = (self.size, total)
            && expected != got
        {
            return Err(Fault::WrongSize { expected, got });
        }
        Ok(Granted { body, total, etag })
    }

    /// 206: exactly the range, or a first part of it.
    fn judge_part(&self, headers: &HeaderMap) -> Result<(Range<u64>, Option<u64>), Fault> {
        let Some(text) = only_text(headers, &CONTENT_RANGE) else {
            return Err(self.wrong("206 without one Content-Range".to_owned()));
        };
        let Some((part, total)) = parse_content_range(text) else {
            return Err(self.wrong(format!("Content-Range {:?}", text.chars().take(100).collect::<String>())));
        };
        let wanted_end = total.map_or(self.range.end, |total| self.range.end.min(total));
        if part.start != self.range.start || part.end > wanted_end {
            return Err(self.wrong(format!("{}-{}", part.start, part.end.saturating_sub(1))));
        }
        if let Some(length) = content_length(headers)
            && length != part.end - part.start
        {
            return Err(self.wrong(format!("a body of {length} bytes for Content-Range {text:?}")));
        }
        Ok((part, total))
    }

    /// 200: the whole file. Whether what comes before the range may be skipped is the caller's decision.
    fn judge_whole(&self, headers: &HeaderMap) -> Result<(Range<u64>, Option<u64>), Fault> {
        let total = content_length(headers);
        // Without a length the body ends where it ends; the budget bounds it.
        let end = total.or(self.size).unwrap_or(u64::MAX);
        if self.range.start >= end {
            let expected = self.size.unwrap_or(self.range.end);
            return Err(Fault::WrongSize { expected, got: end });
        }
        Ok((0..end, total))
    }

    fn not_satisfiable(&self, headers: &HeaderMap) -> Fault {
        let total = only_text(headers, &CONTENT_RANGE).and_then(|text| digits(text.strip_prefix("bytes */")?));
        match total {
            Some(total) => Fault::WrongSize { expected: self.size.unwrap_or(self.range.end), got: total },
            None => self.wrong("HTTP status 416: no such range".to_owned()),
        }
    }

    fn wrong(&self, got: String) -> Fault {
        Fault::WrongRange { asked: self.to_string(), got }
    }
}

/// Refuses a body that is not the file as it is stored.
pub(super) fn check_identity(headers: &HeaderMap) -> Result<(), Fault> {
    for value in headers.get_all(CONTENT_ENCODING) {
        let name = value.to_str().unwrap_or("?").trim();
        if !name.is_empty() && !name.eq_ignore_ascii_case("identity") {
            return Err(Fault::Encoded { got: name.chars().take(40).collect() });
        }
    }
    Ok(())
}

/// Length of the body as the server states it.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    only_text(headers, &CONTENT_LENGTH)?.parse().ok()
}

/// An ETag that promises equal bytes; a weak one (`W/…`) promises less and is not used.
fn strong_etag(headers: &HeaderMap) -> Option<String> {
    let text = only_text(headers, &ETAG)?;
    let quoted = text.len() >= 2 && text.starts_with('"') && text.ends_with('"') && text.len() <= 256;
    quoted.then(|| text.to_owned())
}

fn only_text<'h>(headers: &'h HeaderMap, name: &reqwest::header::HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { first.to_str().ok().map(str::trim) }
}

/// `bytes FIRST-LAST/TOTAL`, where TOTAL may be `*`.
fn parse_content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (digits(first)?, digits(last)?);
    let end = last.checked_add(1)?;
    let total = if total == "*" { None } else { Some(digits(total)?) };
    let sound = first < end && total.is_none_or(|total| end <= total);
    sound.then_some((first..end, total))
}

/// Digits only: `parse` alone would take a plus sign.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ASKED: Asked<'_> = Asked { range: 100..200, size: Some(1000), etag: None };

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let name = reqwest::header::HeaderName::from_static;
        pairs.iter().map(|(key, value)| (name(key), value.parse().unwrap())).collect()
    }

    fn part(pairs: &[(&'static str, &str)]) -> Result<Granted, Fault> {
        ASKED.judge(StatusCode::PARTIAL_CONTENT, &headers(pairs))
    }

    #[test]
    fn the_range_asked_for_or_a_first_part_of_it_is_taken() {
        let granted = part(&[("content-range", "bytes 100-199/1000"), ("content-length", "100")]).unwrap();
        assert_eq!(granted, Granted { body: 100..200, total: Some(1000), etag: None });
        assert_eq!(part(&[("content-range", "bytes 100-149/1000")]).unwrap().body, 100..150);
        assert_eq!(part(&[("content-range", "bytes 100-199/*")]).unwrap().total, None);
    }

    #[test]
    fn any_other_range_is_wrong() {
        for value in [
            "bytes 0-99/1000",
            "bytes 99-199/1000",
            "bytes 101-199/1000",
            "bytes 100-200/1000",
            "bytes 100-99/1000",
            "bytes 100-199/150",
            "bytes 100-199/+1000",
            "bytes 100-199",
            "bytes */1000",
            "lines 100-199/1000",
            "bytes 100-18446744073709551615/*",
            "100-199/1000",
            "",
        ] {
            assert_eq!(part(&[("content-range", value)]).unwrap_err().code(), "wrong-range", "{value:?}");
        }
        assert_eq!(part(&[]).unwrap_err().code(), "wrong-range");
        let twice = [("content-range", "bytes 100-199/1000"), ("content-range", "bytes 100-199/1000")];
        let mut both = HeaderMap::new();
        for (_, value) in twice {
            both.append(CONTENT_RANGE, value.parse().unwrap());
        }
        assert_eq!(ASKED.judge(StatusCode::PARTIAL_CONTENT, &both).unwrap_err().code(), "wrong-range");
        let length = part(&[("content-range", "bytes 100-199/1000"), ("content-length", "99")]);
        assert_eq!(length.unwrap_err().code(), "wrong-range");
    }

    #[test]
    fn a_file_of_another_size_is_wrong_however_it_is_told() {
        let expected = "the file is 999 bytes long, expected 1000";
        assert_eq!(part(&[("content-range", "bytes 100-199/999")]).unwrap_err().to_string(), expected);
        let whole = ASKED.judge(StatusCode::OK, &headers(&[("content-length", "999")]));
        assert_eq!(whole.unwrap_err().to_string(), expected);
        let none = ASKED.judge(StatusCode::RANGE_NOT_SATISFIABLE, &headers(&[("content-range", "bytes */999")]));
        assert_eq!(none.unwrap_err().to_string(), expected);
        let silent = ASKED.judge(StatusCode::RANGE_NOT_SATISFIABLE, &headers(&[]));
        assert_eq!(silent.unwrap_err().to_string(), "asked for bytes 100-199, got HTTP status 416: no such range");
    }

    #[test]
    fn a_whole_file_begins_at_zero() {
        let whole = ASKED.judge(StatusCode::OK, &headers(&[("content-length", "1000")])).unwrap();
        assert_eq!(whole.body, 0..1000);
        assert_eq!(ASKED.judge(StatusCode::OK, &headers(&[])).unwrap().body, 0..1000, "chunked: the expected size stands");
        let unknown = Asked { range: 0..64, size: None, etag: None };
        assert_eq!(unknown.judge(StatusCode::OK, &headers(&[("content-length", "10")])).unwrap().body, 0..10);
        assert_eq!(unknown.judge(StatusCode::OK, &headers(&[])).unwrap().body, 0..u64::MAX);
    }

    #[test]
    fn the_end_of_a_file_of_unknown_size_clips_the_range() {
        let unknown = Asked { range: 0..65_536, size: None, etag: None };
        let short = unknown.judge(StatusCode::PARTIAL_CONTENT, &headers(&[("content-range", "bytes 0-999/1000")])).unwrap();
        assert_eq!((short.body, short.total), (0..1000, Some(1000)));
    }

    #[test]
    fn a_changed_strong_etag_is_another_file_and_a_weak_one_says_nothing() {
        let asked = Asked { etag: Some("\"a\""), ..ASKED };
        let judge =
            |etag| asked.judge(StatusCode::PARTIAL_CONTENT, &headers(&[("content-range", "bytes 100-199/1000"), ("etag", etag)]));
        assert_eq!(judge("\"a\"").unwrap().etag.as_deref(), Some("\"a\""));
        assert_eq!(judge("\"b\"").unwrap_err().to_string(), "the file changed during the transfer: ETag \"a\" became \"b\"");
        assert_eq!(judge("W/\"b\"").unwrap().etag, None);
        assert_eq!(judge("b").unwrap().etag, None);
    }

    #[test]
    fn design_11_14_a_compressed_body_is_refused_by_name() {
        assert_eq!(check_identity(&headers(&[])), Ok(()));
        assert_eq!(check_identity(&headers(&[("content-encoding", "identity")])), Ok(()));
        for name in ["gzip", "br", "identity, gzip"] {
            let message = check_identity(&headers(&[("content-encoding", name)])).unwrap_err().to_string();
            assert!(message.contains(&format!("{name:?}")), "{message}");
        }
    }

    #[test]
    fn any_other_status_is_an_error() {
        for status in [201, 204, 304] {
            let fault = ASKED.judge(StatusCode::from_u16(status).unwrap(), &HeaderMap::new()).unwrap_err();
            assert_eq!(fault.code(), "wrong-range", "{status}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_server_says_a_body_that_is_taken_leads_to_the_range(
            status in prop_oneof![Just(200_u16), Just(206), Just(416)],
            first in 0..300_u64, last in 0..300_u64, total in prop_oneof![Just("*".to_owned()), (0..300_u64).prop_map(|n| n.to_string())],
            length in proptest::option::of(0..300_u64), size in proptest::option::of(150..250_u64),
        ) {
            let mut pairs = vec![("content-range", format!("bytes {first}-{last}/{total}"))];
            pairs.extend(length.map(|length| ("content-length", length.to_string())));
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let asked = Asked { range: 100..200, size, etag: None };
            if let Ok(granted) = asked.judge(StatusCode::from_u16(status).unwrap(), &headers(&pairs)) {
                prop_assert!(granted.body.start == 100 || (status == 200 && granted.body.start == 0));
                prop_assert!(granted.body.end > 100);
                prop_assert!(status == 200 || granted.body.end <= 200);
                prop_assert!(granted.total.is_none_or(|total| size.is_none_or(|size| size == total) && granted.body.end <= total));
            }
        }
    }
}
