//! Files: found, measured, and answered with ranges, or with the fault that the script has for them.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use manifests::digest::Sha256Digest;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use crate::http::Request;
use crate::plan::{Plan, Reply, Segment};
use crate::script::{Fault, FaultKind, Script};
use crate::stage::Stage;

/// Whether the path is one of the script's own codebases, so that [`reply`] answers it.
pub(crate) fn serves(script: &Script, path: &str) -> bool {
    name_within(script, path).is_some()
}

/// The answer to a request for a file.
pub(crate) fn reply(stage: &Stage, request: &Request) -> Reply {
    if request.method != "GET" && !request.is_head() {
        let mut plan = Plan::text(405, "expected GET or HEAD for a file");
        plan.headers.push(("Allow", "GET, HEAD".to_owned()));
        return Reply::Send(plan);
    }
    let script = stage.script();
    let found = name_within(&script, request.path()).and_then(|name| Found::open(&script, name, request));
    let fault = stage.strike(request.path(), |fault| applies(fault, found.as_ref(), request));
    match (fault, found) {
        (Some(fault), found) => broken(stage, &fault, found, request),
        (None, Some(found)) => Reply::Send(found.plan()),
        (None, None) => Reply::Send(Plan::text(404, format!("no file for {}", request.path()))),
    }
}

/// A file that is there, and the part of it that was asked for.
struct Found {
    file: Arc<File>,
    size: u64,
    tag: String,
    asked: Asked,
}

/// The part of a file a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Whole,
    Range { start: u64, length: u64 },
    OutOfRange,
}

impl Found {
    fn open(script: &Script, name: &str, request: &Request) -> Option<Self> {
        let file = File::open(script.files_dir.as_ref()?.join(relative_path(name)?)).ok()?;
        let metadata = file.metadata().ok().filter(Metadata::is_file)?;
        let size = metadata.len();
        let tag = format!("\"{size:x}-{:x}-{:x}\"", metadata.mtime(), metadata.mtime_nsec());
        let is_current = request.header("if-range").is_none_or(|condition| condition == tag);
        let range = request.header("range").filter(|_| is_current);
        let asked = range.and_then(|range| parse_range(range, size)).unwrap_or(Asked::Whole);
        Some(Self { file: Arc::new(file), size, tag, asked })
    }

    /// First byte and length of what is sent.
    fn extent(&self) -> (u64, u64) {
        match self.asked {
            Asked::Whole => (0, self.size),
            Asked::Range { start, length } => (start, length),
            Asked::OutOfRange => (0, 0),
        }
    }

    fn segment(&self, start: u64, length: u64) -> Segment {
        Segment::File { file: Arc::clone(&self.file), start, length }
    }

    /// The honest answer.
    fn plan(&self) -> Plan {
        let (start, length) = self.extent();
        let mut plan = match self.asked {
            Asked::Whole => Plan::new(200, OCTETS, vec![self.segment(start, length)]),
            Asked::Range { .. } => Plan::new(206, OCTETS, vec![self.segment(start, length)]),
            Asked::OutOfRange => Plan::text(416, "no byte of the file is in that range"),
        };
        plan.headers.push(("Accept-Ranges", "bytes".to_owned()));
        plan.headers.push(("ETag", self.tag.clone()));
        match self.asked {
            Asked::Whole => {}
            Asked::Range { .. } => plan.headers.push(("Content-Range", self.content_range(start, length))),
            Asked::OutOfRange => plan.headers.push(("Content-Range", format!("bytes */{}", self.size))),
        }
        plan
    }

    fn content_range(&self, start: u64, length: u64) -> String {
        format!("bytes {start}-{}/{}", start + length - 1, self.size)
    }

    /// Another range than the one asked for: moved by one byte, or one byte shorter.
    fn wrong_range(mut self) -> Plan {
        let (start, length) = self.extent();
        self.asked = match start.checked_sub(1) {
            Some(start) => Asked::Range { start, length },
            None => Asked::Range { start: 1, length: (self.size - 1).min(length) },
        };
        self.plan()
    }

    /// The honest answer but for one bit.
    fn flipped(self, offset: u64) -> io::Result<Plan> {
        let (start, length) = self.extent();
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, offset)?;
        let mut plan = self.plan();
        plan.body = vec![
            self.segment(start, offset - start),
            Segment::Bytes(vec![byte[0] ^ 1]),
            self.segment(offset + 1, start + length - offset - 1),
        ];
        Ok(plan)
    }
}

const OCTETS: &str = "application/octet-stream";

/// Whether a fault means anything for this request.
fn applies(fault: &Fault, found: Option<&Found>, request: &Request) -> bool {
    let Some(found) = found else {
        return makes_another_answer(&fault.kind);
    };
    let (start, length) = found.extent();
    match &fault.kind {
        kind if makes_another_answer(kind) => true,
        FaultKind::WrongRange => matches!(found.asked, Asked::Range { .. }) && found.size > 1,
        FaultKind::OkFor206 => matches!(found.asked, Asked::Range { .. }),
        FaultKind::FlipByte { offset } => !request.is_head() && (start..start + length).contains(offset),
        kind if kind.has_place() => !request.is_head() && place(fault, start, length).is_some(),
        _ => found.asked != Asked::OutOfRange,
    }
}

/// Faults that need no file.
fn makes_another_answer(kind: &FaultKind) -> bool {
    matches!(
        kind,
        FaultKind::Refuse
            | FaultKind::NoAnswer
            | FaultKind::Outage { .. }
            | FaultKind::NotHttp
            | FaultKind::Status { .. }
            | FaultKind::Redirect { .. }
    )
}

/// The byte of the body at which a fault strikes, if the body reaches so far.
fn place(fault: &Fault, start: u64, length: u64) -> Option<u64> {
    let at = match fault.at_offset {
        Some(offset) => offset.checked_sub(start)?,
        None => fault.after_bytes,
    };
    (at < length).then_some(at)
}

fn broken(stage: &Stage, fault: &Fault, found: Option<Found>, request: &Request) -> Reply {
    let mut plan = match (&fault.kind, found) {
        (FaultKind::Refuse, _) => return Reply::Refuse,
        (FaultKind::NoAnswer, _) => return Reply::NoAnswer,
        (FaultKind::Outage { seconds }, _) => return Reply::Outage(Duration::from_secs(*seconds)),
        (FaultKind::NotHttp, _) => return Reply::NotHttp,
        (FaultKind::Status { code, retry_after_s }, _) => Plan::status(*code, *retry_after_s, "scripted fault\n"),
        (FaultKind::Redirect { to, code }, _) => {
            let name = request.path().rsplit('/').next().unwrap_or_default();
            Plan::redirect(*code, &to.replace("{name}", name))
        }
        (FaultKind::WrongRange, Some(found)) => found.wrong_range(),
        (FaultKind::OkFor206, Some(found)) => Found { asked: Asked::Whole, ..found }.plan(),
        (FaultKind::EtagChange, Some(found)) => Found { tag: format!("\"changed-{}\"", stage.fresh_tag()), ..found }.plan(),
        (FaultKind::FlipByte { offset }, Some(found)) => match found.flipped(*offset) {
            Ok(plan) => plan,
            Err(error) => Plan::text(500, format!("cannot read the byte to flip: {error}")),
        },
        (kind, Some(found)) => {
            let (start, length) = found.extent();
            found.plan().broken(kind, place(fault, start, length).unwrap_or_default())
        }
        (_, None) => Plan::text(404, format!("no file for {}", request.path())),
    };
    plan.fault = Some(fault.kind.name());
    Reply::Send(plan)
}

/// What a path names within the longest of the script's own codebases that it begins with.
fn name_within<'p>(script: &Script, path: &'p str) -> Option<&'p str> {
    script
        .codebases
        .iter()
        .filter(|base| base.starts_with('/'))
        .filter_map(|base| path.strip_prefix(base.as_str()))
        .min_by_key(|name| name.len())
}

/// A path below the folder, percent-decoded; `None` if it could lead anywhere else.
fn relative_path(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(String::from_utf8(percent_decoded(name)?).ok()?);
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
    (is_below && !path.as_os_str().is_empty() && !name.contains('\0')).then_some(path)
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

/// Reads `bytes=a-b`, `bytes=a-` and `bytes=-n`; anything else, several ranges included, asks for the whole (RFC 9110, 14.2).
fn parse_range(header: &str, size: u64) -> Option<Asked> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first.trim(), last.trim()) {
        ("", suffix) => {
            let suffix: u64 = suffix.parse().ok()?;
            (size.saturating_sub(suffix), if suffix == 0 { 0 } else { size })
        }
        (start, "") => (start.parse().ok()?, size),
        (start, last) => {
            let (start, last): (u64, u64) = (start.parse().ok()?, last.parse().ok()?);
            if last < start {
                return None;
            }
            (start, last.saturating_add(1).min(size))
        }
    };
    Some(if start < end { Asked::Range { start, length: end - start } } else { Asked::OutOfRange })
}

/// Size and hashes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measures {
    pub(crate) size_bytes: u64,
    pub(crate) sha1: [u8; 20],
    pub(crate) sha256: Sha256Digest,
}

/// Measures files, each once as long as it does not change: payloads are large and checks frequent.
#[derive(Default)]
pub(crate) struct Measuring {
    known: Mutex<HashMap<PathBuf, (Stamp, Measures)>>,
}

/// What changes when a file does: size, modification time, inode.
type Stamp = (u64, i64, i64, u64);

impl Measuring {
    /// Size and hashes of that file of the folder.
    pub(crate) fn measure(&self, folder: &Path, name: &str) -> io::Result<Measures> {
        let path = folder.join(name);
        let mut file = File::open(&path)?;
        let metadata = file.metadata()?;
        let stamp = (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, measures)) = known.get(&path)
            && *then == stamp
        {
            return Ok(*measures);
        }
        let measures = measure(&mut file)?;
        known.insert(path, (stamp, measures));
        Ok(measures)
    }
}

fn measure(file: &mut File) -> io::Result<Measures> {
    let (mut sha1, mut sha256, mut size_bytes) = (Sha1::new(), Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => {
                sha1.update(&buffer[..read]);
                sha256.update(&buffer[..read]);
                size_bytes += read as u64;
            }
        }
    }
    Ok(Measures { size_bytes, sha1: sha1.finalize().into(), sha256: Sha256Digest::from_bytes(sha256.finalize().into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let range = |start, length| Some(Asked::Range { start, length });
        for (header, expected) in [
            ("bytes=0-0", range(0, 1)),
            ("bytes=2-5", range(2, 4)),
            ("bytes=2-", range(2, 8)),
            ("bytes=-3", range(7, 3)),
            ("bytes=-30", range(0, 10)),
            ("bytes=5-99", range(5, 5)),
            ("bytes=0-18446744073709551615", range(0, 10)),
            ("bytes=10-", Some(Asked::OutOfRange)),
            ("bytes=10-20", Some(Asked::OutOfRange)),
            ("bytes=-0", Some(Asked::OutOfRange)),
            ("bytes=5-2", None),
            ("bytes=0-1,3-4", None),
            ("bytes=x-", None),
            ("items=0-1", None),
        ] {
            assert_eq!(parse_range(header, 10), expected, "{header}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Some(Asked::OutOfRange));
    }

    #[test]
    fn names_stay_below_the_folder() {
        assert_eq!(relative_path("a%20b/1.0%2B7.payload"), Some(PathBuf::from("a b/1.0+7.payload")));
        for name in ["", "/etc/passwd", "../x", "a/../../x", "%2e%2e/x", "%2Fetc/passwd", "a%", "%zz", "%00"] {
            assert_eq!(relative_path(name).filter(|path| path.to_str() != Some("\0")), None, "{name}");
        }
    }

    #[test]
    fn the_longest_codebase_counts() {
        let script = Script { codebases: vec!["/".into(), "/files/".into(), "http://a/".into()], ..Script::default() };
        assert_eq!(name_within(&script, "/files/a"), Some("a"));
        assert_eq!(name_within(&script, "/other/a"), Some("other/a"));
    }
}
