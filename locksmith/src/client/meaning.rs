//! What an answer means. Pure: status and bytes in, yes or no or nonsense out.
//!
//! Promises
//! - Exactly 200 can be a yes. 202 ("reserved, not yet drained"), 204 and redirects are none.
//! - A 200 is no yes if its body is a web page or a list, is broken, or says in FleetLock's own words that it is an error;
//!   whatever invisible characters stand before it. Behind a character that is to be seen, anything is plain text.
//! - A 200 whose body is empty, plain text, or JSON without `fence` is the yes of a plain server.
//! - Words of a server are cut and freed of control characters before anybody sees them.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fleetlock::{GrantBody, HolderBody, RefusalBody};

/// Longest `value` kept, in characters: three holders with long names fit.
pub const MAX_VALUE_CHARS: usize = 2048;

/// Longest `kind` kept.
pub const MAX_KIND_CHARS: usize = 64;

/// Longest piece of an unreadable answer that is shown.
const MAX_EXCERPT_CHARS: usize = 120;

/// Longest time a server may tell a host to stay away (a day).
const MAX_RETRY_AFTER_S: u64 = 24 * 60 * 60;

/// An answer as it came.
#[derive(Debug, Clone, Default)]
pub struct RawAnswer {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Location`.
    pub location: Option<String>,
    /// `Retry-After`.
    pub retry_after: Option<String>,
    /// The body, whole.
    pub body: Vec<u8>,
}

/// What it means.
#[derive(Debug)]
pub enum Reading {
    /// Yes; with the members of ours, as far as they are there.
    Yes(GrantBody),
    /// No.
    No(Box<No>),
    /// Nothing a lock service says.
    Nonsense(String),
}

/// A refusal as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct No {
    /// What the server said, its words cut and cleaned.
    pub body: RefusalBody,
    /// What that means.
    pub meaning: Meaning,
    /// How long it wants not to be asked, at most a day.
    pub retry_after: Option<Duration>,
}

/// What a refusal means for whoever asked, whichever server it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Meaning {
    /// All places are taken or kept for others: wait.
    Full,
    /// Somebody else changed the group at the same time: ask again soon.
    Conflict,
    /// The place is reserved but not granted yet: ask again.
    Pending,
    /// The id holds a place under another attempt (two hosts with one id, or lost state), or an operator holds one in
    /// its name. A person must look.
    IdInUse,
    /// The asker (or, for an operator, the host asked about) holds no place: do not reboot, ask anew.
    NotHeld,
    /// The group does not exist there.
    UnknownGroup,
    /// No token, a wrong one, or one without the right.
    NotAllowed,
    /// Asked too often.
    RateLimited,
    /// The server does not understand the question.
    NotUnderstood,
    /// The server or its store is in trouble.
    ServerTrouble,
    /// None of these.
    Other,
}

/// Reads an answer.
pub fn read(raw: &RawAnswer) -> Reading {
    match raw.status {
        200 => read_yes(raw),
        300..=399 => Reading::Nonsense(redirect(raw)),
        _ => read_no(raw),
    }
}

fn read_yes(raw: &RawAnswer) -> Reading {
    let Ok(text) = std::str::from_utf8(&raw.body) else {
        return Reading::Nonsense("its body is not text".to_owned());
    };
    let text = bare(text);
    let html = raw.content_type.as_deref().is_some_and(|value| value.to_ascii_lowercase().contains("html"));
    // What is invisible before a page or a list makes no plain text of it.
    match text.chars().find(|c| !is_invisible(*c)) {
        _ if html => Reading::Nonsense(format!("its body is a web page: {}", excerpt(text))),
        Some('<') => Reading::Nonsense(format!("its body is a web page: {}", excerpt(text))),
        // Not left to the parser, which fills the members of a grant from a list, too.
        Some('[') => Reading::Nonsense(format!("its body is a list: {}", excerpt(text))),
        Some('{') => read_object(text),
        _ => Reading::Yes(GrantBody { attempt: None, fence: None, phase: None, lease_s: None }),
    }
}

fn read_object(text: &str) -> Reading {
    if let Some(error) = error_in_a_yes(text) {
        return Reading::Nonsense(error);
    }
    match serde_json::from_str(text) {
        Ok(grant) => Reading::Yes(grant),
        // The parser's words quote the body.
        Err(error) => Reading::Nonsense(format!("its body is broken ({}): {}", excerpt(&error.to_string()), excerpt(text))),
    }
}

/// A status of 200 around a body of an error: at least one server does that with kinds it has no status for. The
/// only kind that goes with a yes is `success`.
fn error_in_a_yes(text: &str) -> Option<String> {
    // Not through a type of ours: whatever else is odd about the body, its kind counts.
    let body: serde_json::Value = serde_json::from_str(text).ok()?;
    let kind = body.get("kind").filter(|kind| *kind != "success")?;
    let words = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let value = body.get("value").map(words).unwrap_or_default();
    Some(format!("its body is an error, {}: {}", clean(&words(kind), MAX_KIND_CHARS), clean(&value, MAX_VALUE_CHARS)))
}

fn read_no(raw: &RawAnswer) -> Reading {
    let text = String::from_utf8_lossy(&raw.body);
    let text = bare(&text);
    let Ok(short) = serde_json::from_str::<KindAndValue>(text) else {
        return Reading::Nonsense(format!("its body is not FleetLock's: {}", excerpt(text)));
    };
    let mut body = serde_json::from_str::<RefusalBody>(text).unwrap_or_else(|_| short.into());
    body.kind = clean(&body.kind, MAX_KIND_CHARS);
    body.value = clean(&body.value, MAX_VALUE_CHARS);
    let header = raw.retry_after.as_deref().and_then(|value| value.trim().parse().ok());
    let seconds = body.retry_after_s.or(header);
    let retry_after = seconds.map(|seconds| Duration::from_secs(seconds.min(MAX_RETRY_AFTER_S)));
    let meaning = meaning(raw.status, &body.kind, &body.value);
    Reading::No(Box::new(No { body, meaning, retry_after }))
}

/// The kinds are those of locksmithd and of the FleetLock servers in use (airlock, poseidon's, heathcliff26's, knubbis).
fn meaning(status: u16, kind: &str, value: &str) -> Meaning {
    match (status, kind) {
        (_, "failed_lock") if value.contains("conflict") => Meaning::Conflict,
        (_, "full" | "queued" | "failed_lock" | "failed_lock_semaphore_full" | "lock_held" | "locked" | "all_slots_full") => {
            Meaning::Full
        }
        (_, "id_in_use") => Meaning::IdInUse,
        (_, "not_held" | "no_such_holder") => Meaning::NotHeld,
        (_, "unknown_group") => Meaning::UnknownGroup,
        (202, _) => Meaning::Pending,
        (423, _) => Meaning::Full,
        (401 | 403, _) => Meaning::NotAllowed,
        (409, _) => Meaning::Conflict,
        (429, _) => Meaning::RateLimited,
        (400..=422, _) => Meaning::NotUnderstood,
        (500..=599, _) => Meaning::ServerTrouble,
        _ => Meaning::Other,
    }
}

fn redirect(raw: &RawAnswer) -> String {
    let to = raw.location.as_deref().map_or_else(String::new, |to| format!(" to {}", excerpt(to)));
    format!("it redirects{to}; a lock service never does, so this is a proxy, a login page or a wrong URL")
}

#[derive(Deserialize)]
struct KindAndValue {
    kind: String,
    value: String,
}

impl From<KindAndValue> for RefusalBody {
    fn from(KindAndValue { kind, value }: KindAndValue) -> Self {
        Self {
            kind,
            value,
            holders: Vec::<HolderBody>::new(),
            holders_total: None,
            max: None,
            place: None,
            waiting_since: None::<Timestamp>,
            retry_after_s: None,
        }
    }
}

/// A body without blanks and byte order marks around it.
fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// White space, control characters, and what Unicode shows as nothing: its property `Default_Ignorable_Code_Point`, and the
/// annotation marks.
fn is_invisible(c: char) -> bool {
    let ignorable = matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    );
    ignorable || c.is_whitespace() || c.is_control()
}

/// A server's words, cut and without control characters.
fn clean(text: &str, max: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(max).collect::<String>().trim().to_owned()
}

fn excerpt(text: &str) -> String {
    match clean(text, MAX_EXCERPT_CHARS) {
        cut if cut.is_empty() => "(empty)".to_owned(),
        cut if text.chars().count() > MAX_EXCERPT_CHARS => format!("{cut}…"),
        cut => cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> RawAnswer {
        RawAnswer { status, content_type: None, location: None, retry_after: None, body: body.as_bytes().to_vec() }
    }

    fn no(raw: &RawAnswer) -> No {
        match read(raw) {
            Reading::No(no) => *no,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn nonsense(raw: &RawAnswer) -> String {
        match read(raw) {
            Reading::Nonsense(why) => why,
            other => panic!("expected nonsense, got {other:?}"),
        }
    }

    #[test]
    fn a_plain_servers_yes_is_empty_text_or_json_without_a_fence() {
        for body in [
            "",
            "obtained reboot lease",
            "✓ [ok]",
            "\u{feff}→ <granted>",
            "{}",
            "{\"kind\":\"success\",\"value\":\"done\"}",
            "\n",
            "\u{feff}{}",
            "\u{feff}ok\n",
        ] {
            match read(&answer(200, body)) {
                Reading::Yes(grant) => assert_eq!((grant.attempt, grant.fence), (None, None), "{body}"),
                other => panic!("{body}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_200_that_is_a_page_broken_or_an_error_is_no_yes() {
        for html in ["text/html; charset=utf-8", "Text/HTML", "application/XHTML+xml"] {
            let mut page = answer(200, "Please log in");
            page.content_type = Some(html.to_owned());
            assert!(nonsense(&page).contains("web page"), "{html}");
        }
        for (body, expected) in [
            ("<!DOCTYPE html><title>Login</title>", "web page"),
            ("{\"attempt\": \"a\", \"fence\": ", "broken"),
            ("\u{feff}<!DOCTYPE html><title>Login</title>", "web page"),
            (" \u{feff} \u{200b}<html>", "web page"),
            ("[]", "a list"),
            ("[\"a\", 1]", "a list"),
            ("\u{feff}[]", "a list"),
            ("\u{0}\u{200b}\u{2060}\u{ad}\u{3164}\u{fe0f}\u{fffb}\u{e0020}[]", "a list"),
            ("\u{feff}{\"kind\":\"other\",\"value\":\"message\"}", "an error, other: message"),
            ("\u{200b}{\"fence\":1}", "broken"),
            ("{\"attempt\":\"a\",\"fence\":\"seven\"}", "broken"),
            ("{\"attempt\":\"a\",\"fence\":-1}", "broken"),
            ("{\"attempt\":\"not an attempt\",\"fence\":1}", "broken"),
            ("{\"kind\":\"other\",\"value\":\"message\"}", "an error, other: message"),
            ("{\"kind\":\"other\",\"value\":\"m\",\"value\":\"message\"}", "an error, other: message"),
            ("{\"kind\":7}", "an error, 7: "),
        ] {
            let why = nonsense(&answer(200, body));
            assert!(why.contains(expected), "{body}: {why}");
        }
        let mut binary = answer(200, "");
        binary.body = vec![0x1f, 0x8b, 0x08, 0xff];
        assert!(nonsense(&binary).contains("not text"));
    }

    #[test]
    fn a_refusal_behind_a_byte_order_mark_is_a_refusal() {
        assert_eq!(no(&answer(423, "\u{feff}{\"kind\":\"full\",\"value\":\"v\"}")).meaning, Meaning::Full);
    }

    #[test]
    fn no_other_status_is_ever_a_yes() {
        let ours = "{\"attempt\":\"a\",\"fence\":1,\"phase\":\"draining\"}";
        for status in (100..600).filter(|status| *status != 200) {
            for body in [ours, "", "ok"] {
                let reading = read(&answer(status, body));
                assert!(!matches!(reading, Reading::Yes(_)), "{status} {body}");
            }
        }
    }

    #[test]
    fn a_redirect_says_where_to_and_that_it_is_not_followed() {
        let mut raw = answer(302, "");
        raw.location = Some("https://login.example/\u{1b}[31m".to_owned());
        let why = nonsense(&raw);
        assert!(why.contains("https://login.example/ [31m"), "{why}");
        assert!(!why.contains('\u{1b}'), "{why}");
    }

    #[test]
    fn retry_after_comes_from_body_or_header_and_is_cut_to_a_day() {
        let mut raw = answer(423, "{\"kind\":\"full\",\"value\":\"v\"}");
        assert_eq!(no(&raw).retry_after, None);
        raw.retry_after = Some("17".to_owned());
        assert_eq!(no(&raw).retry_after, Some(Duration::from_secs(17)));
        raw.retry_after = Some("99999999999".to_owned());
        assert_eq!(no(&raw).retry_after, Some(Duration::from_secs(86_400)));
        raw.retry_after = Some("Fri, 31 Dec 1999 23:59:59 GMT".to_owned());
        assert_eq!(no(&raw).retry_after, None);
        raw.body = b"{\"kind\":\"full\",\"value\":\"v\",\"retry_after_s\":5}".to_vec();
        assert_eq!(no(&raw).retry_after, Some(Duration::from_secs(5)));
    }

    #[test]
    fn members_of_another_shape_cost_themselves_not_the_refusal() {
        let read = no(&answer(423, "{\"kind\":\"full\",\"value\":\"v\",\"holders\":[\"a\"]}"));
        assert_eq!((read.body.kind.as_str(), read.body.holders.len()), ("full", 0));
    }

    #[test]
    fn words_of_a_server_are_cut_and_cleaned() {
        let body = format!("{{\"kind\":\"k\\u001b\",\"value\":\"a\\nb{}\"}}", "x".repeat(10_000));
        let read = no(&answer(500, &body));
        assert_eq!(read.body.kind, "k");
        assert!(read.body.value.starts_with("a bx") && read.body.value.len() <= MAX_VALUE_CHARS);
    }

    /// Origin of the samples: `testdata/README.md`.
    #[test]
    fn every_error_body_of_real_servers_is_read_to_its_meaning() {
        let expected = |id: &str| match id {
            "FE01" | "FE02" | "FE11" | "FE13" | "FE17" => Some(Meaning::Full),
            "FE03" => Some(Meaning::Conflict),
            "FE04" | "FE06" | "FE10" => Some(Meaning::ServerTrouble),
            "FE05" => Some(Meaning::UnknownGroup),
            "FE07" | "FE08" | "FE09" | "FE16" => Some(Meaning::NotUnderstood),
            "FE14" => Some(Meaning::NotAllowed),
            "FE15" => Some(Meaning::RateLimited),
            "FE18" => Some(Meaning::Pending),
            _ => None,
        };
        let samples: serde_json::Value =
            serde_json::from_str(include_str!("../../testdata/fleetlock_error_bodies.json")).unwrap();
        let cases = samples["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 18);
        for case in cases {
            let id = case["id"].as_str().unwrap();
            // The protocol's own example travels with any error status, the unit test's body with none.
            let status = case["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(500);
            let text = case["body_text"].as_str().map_or_else(|| case["body"].to_string(), str::to_owned);
            let raw = answer(status, &text);
            let body: KindAndValue = serde_json::from_str(&text).unwrap();
            if id == "FE12" {
                assert_eq!(nonsense(&raw), "its body is an error, other: message");
                continue;
            }
            let read = no(&raw);
            assert_eq!(Some(read.meaning), expected(id), "{id}");
            assert_eq!((&read.body.kind, &read.body.value), (&body.kind, &body.value), "{id}");
        }
    }
}
