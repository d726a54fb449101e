//! What `updatectl status --json` owes its readers: every key with its type, and one sentence for people.
//!
//! For tests: those of this crate hold the document of every state of the pure engine to it, and those of the whole system,
//! which take this file too, what the real daemon says.

use serde_json::Value;

/// What a value has to be.
#[derive(Clone, Copy, Debug)]
enum Type {
    Text,
    MaybeText,
    Moment,
    MaybeMoment,
    Flag,
    Count,
    MaybeCount,
    List,
    Table,
    MaybeTable,
}

use Type::{Count, Flag, List, MaybeCount, MaybeMoment, MaybeTable, MaybeText, Moment, Table, Text};

const DOCUMENT: [(&str, Type); 40] = [
    ("/schema", Count),
    ("/state", Text),
    ("/summary", Text),
    ("/host/id", Text),
    ("/host/alias", Text),
    ("/host/app_id", Text),
    ("/host/channel", Text),
    ("/host/board", Text),
    ("/host/arch", Text),
    ("/booted/slot", MaybeText),
    ("/booted/version", MaybeText),
    ("/booted/confirmed", Flag),
    ("/booted/boot_id", Text),
    ("/slots", List),
    ("/target", MaybeTable),
    ("/progress", MaybeTable),
    ("/trial", MaybeTable),
    ("/mode", Text),
    ("/check", Table),
    ("/check/last_at", MaybeMoment),
    ("/check/last_outcome", MaybeText),
    ("/check/last_result", MaybeText),
    ("/check/next_at", MaybeMoment),
    ("/check/server", Text),
    ("/check/newest_record_created", MaybeMoment),
    ("/reboot/strategy", Text),
    ("/reboot/waiting_for", List),
    ("/reboot/lock/backend", Text),
    ("/reboot/lock/group", Text),
    ("/reboot/lock/held", Flag),
    ("/reboot/lock/holders", List),
    ("/reboot/lock/max", MaybeCount),
    ("/pause", MaybeTable),
    ("/last_error", MaybeTable),
    ("/kernel_log", MaybeTable),
    ("/attempts/committed", Count),
    ("/attempts/rolled_back", Count),
    ("/attempts/failed", Count),
    ("/health_warnings", List),
    ("/troubles", List),
];

const SLOT: [(&str, Type); 8] = [
    ("/name", Text),
    ("/version", MaybeText),
    ("/booted", Flag),
    ("/next", Flag),
    ("/bootable", Flag),
    ("/good", Flag),
    ("/tries_left", Count),
    ("/proven", Flag),
];

const TARGET: [(&str, Type); 4] = [("/version", Text), ("/slot", Text), ("/attempt", Text), ("/notes_url", MaybeText)];

const PROGRESS: [(&str, Type); 9] = [
    ("/phase", Text),
    ("/windows_done", Count),
    ("/windows_total", Count),
    ("/bytes_written", Count),
    ("/bytes_total", Count),
    ("/bytes_downloaded", Count),
    ("/bytes_reused", Count),
    ("/rate_bytes_per_s", Count),
    ("/eta_s", MaybeCount),
];

const WAITING: [(&str, Type); 5] =
    [("/gate", Text), ("/detail", Text), ("/since", Moment), ("/until", MaybeText), ("/retry_at", Moment)];
const PAUSE: [(&str, Type); 3] = [("/reason", MaybeText), ("/since", Moment), ("/until", MaybeMoment)];
const ERROR: [(&str, Type); 3] = [("/code", Text), ("/message", Text), ("/at", Moment)];
const TRIAL: [(&str, Type); 4] =
    [("/kept_from", MaybeMoment), ("/deadline_at", MaybeMoment), ("/failing", MaybeText), ("/tries_left", MaybeCount)];
const KERNEL_LOG: [(&str, Type); 2] = [("/source", Text), ("/line", MaybeText)];
const TROUBLE: [(&str, Type); 2] = [("/code", Text), ("/message", Text)];

const STATES: [&str; 12] = [
    "idle",
    "checking",
    "deferred",
    "fetching",
    "written",
    "proven",
    "locked",
    "armed",
    "trial",
    "committed",
    "rolled-back",
    "failed",
];
const GATES: [&str; 7] = ["window", "lock", "breaker", "inhibitor", "users", "hook", "pause"];

/// Parts of a sentence that say what comes next, or what the reader can do about it.
const NEXT: [&str; 13] = [
    "next check",
    "checked again",
    "tried again",
    "asked again",
    "looked at again",
    "`updatectl ",
    "; then ",
    ", then ",
    "is then installed",
    "next reboot",
    "otherwise",
    "going back",
    "no update server is configured",
];

/// All keys are there, each of its type, and the summary is a sentence.
pub(crate) fn assert_contract(status: &Value) {
    assert_keys(status, &DOCUMENT, status);
    assert_eq!(status["schema"], 1, "{status:#}");
    assert_one_of(status, "state", &STATES);
    assert_one_of(status, "mode", &["host", "image"]);
    assert_eq!(status["slots"].as_array().unwrap().len(), 2, "{status:#}");
    let lists = [("slots", &SLOT[..]), ("troubles", &TROUBLE[..])];
    for (key, keys) in lists {
        status[key].as_array().unwrap().iter().for_each(|entry| assert_keys(entry, keys, status));
    }
    for waiting in status["reboot"]["waiting_for"].as_array().unwrap() {
        assert_keys(waiting, &WAITING, status);
        assert_one_of(waiting, "gate", &GATES);
    }
    let tables = [
        ("target", &TARGET[..]),
        ("progress", &PROGRESS[..]),
        ("trial", &TRIAL[..]),
        ("pause", &PAUSE[..]),
        ("last_error", &ERROR[..]),
        ("kernel_log", &KERNEL_LOG[..]),
    ];
    for (key, keys) in tables {
        if !status[key].is_null() {
            assert_keys(&status[key], keys, status);
        }
    }
    assert_sentence(status["summary"].as_str().unwrap());
}

fn assert_keys(value: &Value, keys: &[(&str, Type)], document: &Value) {
    for (key, expected) in keys {
        let got = value.pointer(key).unwrap_or_else(|| panic!("{key} is missing in {document:#}"));
        assert!(expected.fits(got), "{key}: expected {expected:?}, got {got} in {document:#}");
    }
}

fn assert_one_of(value: &Value, key: &str, allowed: &[&str]) {
    let word = value[key].as_str().unwrap_or_default();
    assert!(allowed.contains(&word), "{key}: expected one of {allowed:?}, got {word:?}");
}

impl Type {
    fn fits(self, value: &Value) -> bool {
        let moment = |value: &Value| value.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok());
        match self {
            Text => value.is_string(),
            MaybeText => value.is_string() || value.is_null(),
            Moment => moment(value),
            MaybeMoment => moment(value) || value.is_null(),
            Flag => value.is_boolean(),
            Count => value.is_u64(),
            MaybeCount => value.is_u64() || value.is_null(),
            List => value.is_array(),
            Table => value.is_object(),
            MaybeTable => value.is_object() || value.is_null(),
        }
    }
}

/// One line, begun and ended as a sentence, in words, with what comes next.
fn assert_sentence(sentence: &str) {
    let first = sentence.chars().next().unwrap_or_default();
    assert!(first.is_uppercase() || first.is_ascii_digit(), "how it begins: {sentence}");
    assert!(sentence.ends_with('.') && !sentence.ends_with(".."), "how it ends: {sentence}");
    assert!(!sentence.chars().any(char::is_control), "a line: {sentence:?}");
    for debris in ["{", "}", "Some(", "None", "Err(", "Ok(", "::", "  ", ". .", "..", ";;", "; .", ": .", "()", "\"\"", "null"] {
        assert!(!sentence.contains(debris), "{debris:?} in: {sentence}");
    }
    for word in ["rolled-back", "giving-up", "gate-closed", "lock-refused", "(code", "deferred"] {
        assert!(!sentence.contains(word), "the name of a state in: {sentence}");
    }
    // Files are named as they are.
    let words: Vec<&str> = sentence.split(' ').filter(|word| !word.contains('/')).collect();
    let sentence_without_paths = words.join(" ");
    let digits: Vec<&str> = sentence_without_paths.split(|c: char| !c.is_ascii_digit()).collect();
    assert!(!digits.iter().any(|run| run.len() >= 9), "a time or id that is not for people in: {sentence}");
    assert!(NEXT.iter().any(|next| sentence.contains(next)), "nothing about what comes next in: {sentence}");
}
