//! The reboot lock: what hosts ask, what servers answer, what a store gives back.

use std::fmt::Debug;

use locksmith::api::{GroupBody, GroupList, Held, HistoryBody, Hold, MaxChanged, NewGroup, NewMax, Unlock};
use locksmith::client::BaseUrl;
use locksmith::client::meaning::{self, RawAnswer, Reading};
use locksmith::fleetlock::{Body, GrantBody, Question, RefusalBody, ReleasedBody, Request};
use locksmith::names::{AttemptId, HostId, Label};
use locksmith::semaphore::queue::Queue;
use locksmith::semaphore::{Answer, Document, Facts, Max, Moment, Mono, Op, UNNAMED, decide};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A question of a host, as the lock server reads it.
pub fn request(data: &[u8]) {
    let asked = Request::parse(Question::PreReboot, data);
    let back = Request::parse(Question::SteadyState, data);
    for request in [&asked, &back].into_iter().flatten() {
        check_names(request);
        check_attempt_is_hidden(request);
    }
    for error in [asked.as_ref().err(), back.as_ref().err()].into_iter().flatten() {
        assert!(error.to_string().chars().count() < 1024, "{error}");
    }
    let Ok(body) = serde_json::from_slice::<Body>(data) else {
        return assert!(asked.is_err() && back.is_err(), "what is no body was understood");
    };
    check_refused_attempt(&body);
    let written = serde_json::to_vec(&body).expect("a body can be written");
    assert_eq!(Request::parse(Question::PreReboot, &written).ok(), asked.ok());
    assert_eq!(Request::parse(Question::SteadyState, &written).ok(), back.ok());
}

/// An answer of a server, or a question of an operator: every body of the two interfaces.
pub fn answer(data: &[u8]) {
    same_again::<GrantBody>(data);
    same_again::<ReleasedBody>(data);
    same_again::<RefusalBody>(data);
    same_again::<GroupList>(data);
    same_again::<GroupBody>(data);
    same_again::<HistoryBody>(data);
    same_again::<MaxChanged>(data);
    same_again::<NewGroup>(data);
    same_again::<NewMax>(data);
    same_again::<Hold>(data);
    same_again::<Held>(data);
    same_again::<Unlock>(data);
    if let Ok(text) = std::str::from_utf8(data) {
        base_url(text);
    }
}

/// An answer as it comes over the wire: two bytes of status, then content type, location, `Retry-After` and body, each of the
/// first three up to a NUL.
pub fn reply(data: &[u8]) {
    let Some((status, rest)) = data.split_first_chunk() else { return };
    let status = u16::from_le_bytes(*status) % 600;
    let mut parts = rest.splitn(4, |byte| *byte == 0);
    let mut header = || parts.next().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).filter(|text| !text.is_empty());
    let (content_type, location, retry_after) = (header(), header(), header());
    let body = parts.next().unwrap_or_default().to_vec();
    let raw = RawAnswer { status, content_type, location, retry_after, body };
    match meaning::read(&raw) {
        Reading::Yes(grant) => check_yes(&raw, &grant),
        Reading::No(no) => {
            assert!(status != 200 && !(300..400).contains(&status), "a refusal with status {status}");
            check_words(&no.body.kind, meaning::MAX_KIND_CHARS);
            check_words(&no.body.value, meaning::MAX_VALUE_CHARS);
            assert!(no.retry_after.is_none_or(|wait| wait.as_secs() <= 24 * 60 * 60));
        }
        Reading::Nonsense(why) => check_words(&why, 2 * meaning::MAX_VALUE_CHARS),
    }
}

/// P4: only a plain 200 is a yes, and never one around a page, a list or an error, whether a byte order mark stands before it
/// or not.
fn check_yes(raw: &RawAnswer, grant: &GrantBody) {
    assert_eq!(raw.status, 200);
    let text = std::str::from_utf8(&raw.body).expect("a yes is text");
    let marked = RawAnswer { body: format!("\u{feff}{text}").into_bytes(), ..raw.clone() };
    assert!(matches!(meaning::read(&marked), Reading::Yes(same) if same == *grant), "a byte order mark changes {text:?}");
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    assert!(!text.starts_with(['<', '[']), "a web page or a list is a yes: {text}");
    if let Ok(serde_json::Value::Object(members)) = serde_json::from_str(text) {
        assert!(members.get("kind").is_none_or(|kind| kind == "success"), "an error is a yes: {text}");
        let fence = members.get("fence");
        assert!(fence.is_none_or(|fence| fence.is_null() || fence.is_u64()), "a broken fence is a yes: {text}");
    }
}

fn check_words(words: &str, most: usize) {
    assert!(words.chars().count() <= most, "{} characters", words.chars().count());
    assert!(!words.chars().any(char::is_control), "{words:?}");
}

/// A group's document as a store gives it back, and every operation upon it.
pub fn document(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(document) = Document::from_json(text) else { return };
    check_stored(&document);
    let known =
        document.holders().first().map(|holder| (holder.id.clone(), holder.attempt.clone(), holder.fence, holder.by.clone()));
    let stranger = (HostId::parse("stranger").expect("an id"), AttemptId::parse("a-1").ok(), 1, None);
    for (id, attempt, fence, holds) in known.into_iter().chain([stranger]) {
        let by = Label::parse("by", "operator").expect("a label");
        let facts = Facts::default();
        let mut ops = vec![
            Op::Take { id: id.clone(), attempt: None, facts: facts.clone() },
            Op::Take { id: id.clone(), attempt: attempt.clone(), facts: facts.clone() },
            Op::Release { id: id.clone(), attempt: attempt.clone(), outcome: None },
            Op::Expire { id: id.clone(), fence, renewals: 0 },
            Op::Hold { id: id.clone(), by: by.clone() },
            Op::Hold { id: id.clone(), by: Label::parse("by", UNNAMED).expect("a label") },
            Op::Free { id: id.clone(), reason: None, by: by.clone() },
            Op::SetMax { max: Max::new(1).expect("a maximum"), by },
        ];
        ops.extend(holds.map(|by| Op::Hold { id: id.clone(), by }));
        if let Some(attempt) = attempt {
            ops.push(Op::Renew { id: id.clone(), attempt: attempt.clone(), fence });
            ops.push(Op::Reboot { id, attempt, fence: Some(fence), facts });
        }
        ops.iter().for_each(|op| check_decision(&document, op));
    }
}

/// P5 at one step: nobody is granted a place that is not free, and what is written can be read.
fn check_decision(document: &Document, op: &Op) {
    let now = Moment { wall: "2026-01-01T00:00:00Z".parse().expect("a time"), mono: Mono::START };
    let decision = decide(document, 7, &Queue::default(), op, now);
    check_hold(document, decision.document.as_ref().unwrap_or(document), op, &decision.answer);
    let Some(after) = &decision.document else { return };
    check_stored(after);
    let most = usize::try_from(after.max().get()).expect("at most 1,000").max(document.holders().len());
    assert!(after.holders().len() <= most, "{op:?}: {} hold a place of {most}", after.holders().len());
    if after.holders().len() > document.holders().len() {
        assert!(document.free() > 0 && matches!(decision.answer, Answer::Granted(_)), "{op:?}: {:?}", decision.answer);
    }
}

/// A hold is granted to one operator, and to no host; one without a name is confirmed to nobody.
fn check_hold(before: &Document, after: &Document, op: &Op, answer: &Answer) {
    let Answer::Granted(_) = answer else { return };
    let held_by = |id: &HostId| after.holder(id).expect("who was granted a place holds it").by.as_ref();
    match op {
        Op::Hold { id, by } => {
            assert_eq!(held_by(id), Some(by));
            assert!(by.as_str() != UNNAMED || before.holder(id).is_none(), "{op:?} is confirmed");
        }
        Op::Take { id, .. } | Op::Renew { id, .. } | Op::Reboot { id, .. } => assert_eq!(held_by(id), None, "{op:?}"),
        _ => panic!("{op:?} was granted a place"),
    }
}

fn check_stored(document: &Document) {
    let written = document.to_json().expect("a document can be written");
    assert_eq!(Document::from_json(&written).as_ref().ok(), Some(document), "{written}");
}

fn check_names(request: &Request) {
    assert!(!request.group.as_str().contains(['/', '%']) && !matches!(request.group.as_str(), "." | ".."));
    for name in [request.group.as_str(), request.id.as_str()] {
        assert!((1..=128).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
    }
}

/// An attempt id is a capability: no message shows it.
fn check_attempt_is_hidden(request: &Request) {
    let Some(attempt) = &request.attempt else { return };
    let secret = serde_json::to_value(attempt).expect("a text");
    let secret = secret.as_str().expect("a text");
    // Shorter ones may stand in another word by chance; names and labels are the asker's own business.
    let others = Request { attempt: None, op: without_attempt(request), ..request.clone() };
    if secret.len() >= 16 && !format!("{others:?}").contains(secret) {
        let shown = format!("{request:?}");
        assert!(!shown.contains(secret), "{shown} shows the attempt");
    }
}

/// The operation as a foreign client would ask for it.
fn without_attempt(request: &Request) -> Op {
    let id = request.id.clone();
    match &request.op {
        Op::Take { facts, .. } | Op::Reboot { facts, .. } => Op::Take { id, attempt: None, facts: facts.clone() },
        _ => Op::Release { id, attempt: None, outcome: None },
    }
}

/// What is said of an attempt id that is none does not depend on what it is, but for its length.
fn check_refused_attempt(body: &Body) {
    let Some(text) = body.ota.as_ref().and_then(|ota| ota.attempt.as_deref()) else { return };
    let Err(error) = AttemptId::parse(text) else { return };
    let blank = AttemptId::parse(&" ".repeat(text.len())).expect_err("blanks are no attempt id");
    assert_eq!(error.to_string(), blank.to_string());
}

fn same_again<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) {
    let Ok(body) = serde_json::from_slice::<T>(data) else { return };
    let written = serde_json::to_vec(&body).expect("what was read can be written");
    let again = serde_json::from_slice::<T>(&written);
    assert_eq!(again.as_ref().ok(), Some(&body), "{}", String::from_utf8_lossy(&written));
}

fn base_url(text: &str) {
    let Ok(url) = BaseUrl::parse(text) else { return };
    let shown = url.to_string();
    let authority = shown.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
    assert!(!authority.contains('@'), "{shown}");
    assert!(shown.ends_with('/') && shown.starts_with("http"), "{shown}");
    let stored = String::from(url.clone());
    assert_eq!(BaseUrl::parse(&stored).ok(), Some(url));
}
