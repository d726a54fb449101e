//! Omaha answers: the script's, for every application that asked and under the id it sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use manifests::digest::Sha256Digest;
use manifests::omaha::{
    self, AppAnswer, Codebase, Hold, Package, PackageKind, PackageName, Postinstall, Response, STATUS_OK, ServerError, Update,
    UpdateAnswer, Verdict,
};
use manifests::version::Version;

use crate::files::{Measures, Measuring};
use crate::http::Request;
use crate::plan::{Plan, Reply, Segment};
use crate::script::{Answer, AnswerKind, FaultKind, OfferedPackage, OfferedUpdate, Script};
use crate::stage::{Asks, Stage};

const XML: &str = "text/xml";

/// What an answer is made from.
pub(crate) struct Desk<'m> {
    pub(crate) stage: &'m Stage,
    pub(crate) measuring: &'m Measuring,
    pub(crate) addr: SocketAddr,
}

impl Desk<'_> {
    /// The answer to an Omaha request.
    pub(crate) fn reply(&self, request: &Request) -> Reply {
        if request.method != "POST" {
            let mut plan = Plan::text(405, "expected POST for an Omaha request");
            plan.headers.push(("Allow", "POST".to_owned()));
            return Reply::Send(plan);
        }
        let asked = match omaha::Request::read(&request.body) {
            Ok(asked) => asked,
            Err(error) => return Reply::Send(loud(400, format!("cannot read the Omaha request: {error}"))),
        };
        let asks = if asked.apps.iter().any(|app| app.update_check) { Asks::ForUpdate } else { Asks::Nothing };
        let answer = match (self.stage.next_answer(asks), asks) {
            (Some(answer), _) => answer,
            (None, Asks::Nothing) => AnswerKind::Acknowledge.into(),
            (None, Asks::ForUpdate) => {
                return Reply::Send(loud(500, "the script has no [[answers]]: nothing can be said to an update check"));
            }
        };
        match self.plan(&answer, &asked, request) {
            Ok(plan) => deliver(plan, &answer),
            Err(problem) => Reply::Send(loud(500, problem)),
        }
    }

    fn plan(&self, answer: &Answer, asked: &omaha::Request, request: &Request) -> Result<Plan, String> {
        let base = base_url(request, self.addr);
        let verdict = |poll_interval_s, verdict| Some(UpdateAnswer { poll_interval_s, verdict });
        let check = match &answer.kind {
            AnswerKind::Acknowledge => None,
            AnswerKind::Noupdate(no) => {
                let hold = Hold { kind: no.hold.clone(), reason: no.reason.clone(), until: no.until };
                verdict(no.poll_interval_s, Verdict::NoUpdate { hold: Some(hold).filter(|hold| *hold != Hold::default()) })
            }
            AnswerKind::Update(offer) => verdict(offer.poll_interval_s, Verdict::Update(self.update(offer, &base)?)),
            AnswerKind::Error { status, app_status, info, poll_interval_s } => {
                let error = ServerError { status: Some(status.clone()), app_status: app_status.clone(), info: info.clone() };
                verdict(*poll_interval_s, Verdict::ServerError(error))
            }
            other => return plan_without_sense(other, asked, &base),
        };
        Ok(Plan::new(200, XML, vec![Segment::Bytes(response(answer, asked, check.as_ref()).write().into_bytes())]))
    }

    fn update(&self, offer: &OfferedUpdate, base: &str) -> Result<Update, String> {
        let script = self.stage.script();
        let version = Version::parse(&offer.version).map_err(|error| error.to_string())?;
        let mut offered = offer.packages.clone();
        if offered.is_empty() {
            offered.extend(
                [PackageName::payload_of(&version), PackageName::record_of(&version)]
                    .map(|name| OfferedPackage { name: name.as_str().to_owned(), ..OfferedPackage::default() }),
            );
        }
        let packages: Vec<_> =
            (0..).zip(&offered).map(|(index, package)| self.package(&script, package, index)).collect::<Result<_, _>>()?;
        let sha256 = match (&offer.sha256, packages.first().and_then(|first| first.sha256)) {
            (Some(text), _) => text.clone(),
            (None, Some(digest)) => digest.to_base64(),
            (None, None) => return Err("expected the first package to have a sha256".to_owned()),
        };
        let postinstall = Postinstall {
            sha256,
            is_delta_payload: offer.is_delta_payload,
            disable_payload_backoff: true,
            max_failure_count_per_url: offer.max_failure_count_per_url.unwrap_or(Postinstall::DEFAULT_MAX_FAILURE_COUNT_PER_URL),
        };
        let codebases = offer.codebases.as_ref().unwrap_or(&script.codebases);
        let codebases = codebases.iter().map(|codebase| absolute(codebase, base)).collect::<Result<_, _>>()?;
        Ok(Update { codebases, version, packages, postinstall })
    }

    fn package(&self, script: &Script, offered: &OfferedPackage, index: usize) -> Result<Package, String> {
        let measures = self.measures(script, offered)?;
        Ok(Package {
            name: PackageName::parse(&offered.name).map_err(|error| error.to_string())?,
            size_bytes: measures.size_bytes,
            sha1: Some(measures.sha1),
            sha256: Some(measures.sha256),
            required: offered.required.unwrap_or(index == 0 || offered.name.ends_with(".release")),
            kind: if offered.delta { PackageKind::Delta } else { PackageKind::Plain },
        })
    }

    /// What the answer says of a file: what it is, unless the script says otherwise. A file is needed only for what is not said.
    fn measures(&self, script: &Script, offered: &OfferedPackage) -> Result<Measures, String> {
        let sha1 = offered.sha1.as_deref().map(hex::<20>).transpose()?;
        let sha256 = offered.sha256.as_deref().map(hex::<32>).transpose()?.map(Sha256Digest::from_bytes);
        if let (Some(size_bytes), Some(sha1), Some(sha256)) = (offered.size, sha1, sha256) {
            return Ok(Measures { size_bytes, sha1, sha256 });
        }
        let name = offered.file.as_deref().unwrap_or(&offered.name);
        let folder = script.files_dir.as_ref().ok_or("expected files_dir in a script that offers an update")?;
        if !folder.is_dir() {
            return Err(format!("files_dir {}: expected a folder, found none", folder.display()));
        }
        let real = self
            .measuring
            .measure(folder, name)
            .map_err(|error| format!("cannot measure package {name:?} in {}: {error}", folder.display()))?;
        Ok(Measures {
            size_bytes: offered.size.unwrap_or(real.size_bytes),
            sha1: sha1.unwrap_or(real.sha1),
            sha256: sha256.unwrap_or(real.sha256),
        })
    }
}

/// The answers to all applications, those nobody asked for first.
fn response(answer: &Answer, asked: &omaha::Request, check: Option<&UpdateAnswer>) -> Response {
    let status = match &answer.kind {
        AnswerKind::Error { app_status: Some(status), .. } => status,
        _ => STATUS_OK,
    };
    let uninvited = answer.more_apps.iter().map(|app_id| AppAnswer {
        app_id: app_id.clone(),
        status: STATUS_OK.to_owned(),
        ping: false,
        update_check: Some(UpdateAnswer::no_update()),
        events: 0,
    });
    let invited = asked.apps.iter().map(|app| AppAnswer {
        app_id: answer.app_id.as_ref().unwrap_or(&app.app_id).clone(),
        status: status.to_owned(),
        ping: app.ping.is_some(),
        update_check: check.filter(|_| app.update_check).cloned(),
        events: app.events.len(),
    });
    Response { server: "server-mock".to_owned(), apps: uninvited.chain(invited).collect() }
}

/// Answers that say nothing in Omaha's terms, or not in its own words.
fn plan_without_sense(kind: &AnswerKind, asked: &omaha::Request, base: &str) -> Result<Plan, String> {
    let app_id = asked.apps.first().map_or("", |app| app.app_id.as_str());
    Ok(match kind {
        AnswerKind::Status { code, retry_after_s, body } => Plan::status(*code, *retry_after_s, body),
        AnswerKind::Redirect { to, code } => Plan::redirect(*code, to),
        AnswerKind::Raw { body } => {
            let body = body.replace("{app_id}", app_id).replace("{base}", base);
            Plan::new(200, XML, vec![Segment::Bytes(body.into_bytes())])
        }
        AnswerKind::RawFile { file } => {
            let cannot = |error| format!("cannot read {}: {error}", file.display());
            let opened = std::fs::File::open(file).map_err(cannot)?;
            let length = opened.metadata().map_err(cannot)?.len();
            Plan::new(200, XML, vec![Segment::File { file: Arc::new(opened), start: 0, length }])
        }
        AnswerKind::Garbage { bytes } => Plan::new(200, XML, vec![Segment::Noise { length: *bytes }]),
        AnswerKind::HugeXml { bytes } => Plan::new(200, XML, huge_xml(*bytes, app_id)),
        AnswerKind::DeepXml { depth } => {
            let repeat = |pattern: &'static [u8]| Segment::Repeat { pattern, length: depth * pattern.len() as u64 };
            Plan::new(200, XML, vec![repeat(b"<a>"), repeat(b"</a>")])
        }
        AnswerKind::Acknowledge | AnswerKind::Noupdate(_) | AnswerKind::Update(_) | AnswerKind::Error { .. } => {
            return Err("an Omaha answer was planned as something else".to_owned());
        }
    })
}

/// A good answer, then elements nobody knows until the length is reached.
fn huge_xml(bytes: u64, app_id: &str) -> Vec<Segment> {
    const FILLER: &[u8] = b"<filler></filler>";
    const TAIL: &[u8] = b"</response>";
    let app = AppAnswer {
        app_id: app_id.to_owned(),
        status: STATUS_OK.to_owned(),
        ping: false,
        update_check: Some(UpdateAnswer::no_update()),
        events: 0,
    };
    let whole = Response { server: "server-mock".to_owned(), apps: vec![app] }.write();
    let head = whole.strip_suffix("</response>").unwrap_or(&whole).as_bytes().to_vec();
    let room = bytes.saturating_sub((head.len() + TAIL.len()) as u64);
    let filler = room - room % FILLER.len() as u64;
    vec![
        Segment::Bytes(head),
        Segment::Repeat { pattern: FILLER, length: filler },
        Segment::Repeat { pattern: b" ", length: room - filler },
        Segment::Bytes(TAIL.to_vec()),
    ]
}

/// The plan with what the script does to it on the way.
fn deliver(mut plan: Plan, answer: &Answer) -> Reply {
    if let Some(content_type) = &answer.content_type {
        plan.headers.retain(|(name, _)| *name != "Content-Type");
        plan.headers.push(("Content-Type", content_type.clone()));
    }
    plan.delay = Duration::from_millis(answer.delay_ms);
    match answer.fault.as_ref().map(|fault| (&fault.kind, fault.after_bytes)) {
        None => Reply::Send(plan),
        Some((FaultKind::Refuse, _)) => Reply::Refuse,
        Some((FaultKind::NoAnswer, _)) => Reply::NoAnswer,
        Some((FaultKind::NotHttp, _)) => Reply::NotHttp,
        Some((FaultKind::Outage { seconds }, _)) => Reply::Outage(Duration::from_secs(*seconds)),
        Some((kind, after_bytes)) => Reply::Send(plan.broken(kind, after_bytes)),
    }
}

/// An answer nobody scripted: a mistake of the test, said where both sides see it.
fn loud(status: u16, problem: impl Into<String>) -> Plan {
    let problem = problem.into();
    tracing::error!(status, "{problem}");
    Plan::text(status, format!("server-mock: {problem}"))
}

/// A codebase of the script as an absolute URL.
fn absolute(codebase: &str, base: &str) -> Result<Codebase, String> {
    let url = if codebase.starts_with('/') { format!("{base}{codebase}") } else { codebase.to_owned() };
    Codebase::parse(&url).map_err(|error| error.to_string())
}

/// How the client reached this server, so that it does so again; the address it listens on if it does not say.
fn base_url(request: &Request, addr: SocketAddr) -> String {
    let named = request.header("host").map(|host| format!("http://{host}"));
    named.filter(|url| Codebase::parse(url).is_ok()).unwrap_or_else(|| format!("http://{addr}"))
}

fn hex<const N: usize>(digits: &str) -> Result<[u8; N], String> {
    let bad = || format!("expected {} hex digits, got {digits:?}", N * 2);
    let mut bytes = [0; N];
    if digits.len() != N * 2 || !digits.is_ascii() {
        return Err(bad());
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[index * 2..index * 2 + 2], 16).map_err(|_| bad())?;
    }
    Ok(bytes)
}
