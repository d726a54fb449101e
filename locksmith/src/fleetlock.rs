//! FleetLock v1 on the wire, and what of ours rides beside it.
//!
//! A host posts to `<base>/v1/pre-reboot` (may I?) and `<base>/v1/steady-state` (I am back) with the header
//! `fleet-lock-protocol: true`:
//!
//! ```text
//! {"client_params": {"id": "…", "group": "…"},                          FleetLock
//!  "ota": {"attempt", "boot_id", "product", "version", "sequence",      ours, ignored by plain servers
//!          "phase": "draining|rebooting", "fence",
//!          "outcome": "ok|rolled-back|aborted", "deadline_s"}}
//! ```
//!
//! | `ota` of a pre-reboot | asks |
//! |---|---|
//! | none, or without `attempt` | FleetLock's recursive lock: held by id, `rebooting` from the start |
//! | `phase` `draining` (or none), no `fence` | for a place, or for the grant whose answer was lost |
//! | `phase` `draining`, `fence` | to renew that grant; never makes a new one |
//! | `phase` `rebooting`, `fence` | to acknowledge, durably, that the host is about to flip and reboot |
//!
//! Exactly 200 is a yes. Ours carries [`GrantBody`] (or [`ReleasedBody`]); every other status carries a
//! [`RefusalBody`]: FleetLock's `kind` and `value`, and beside them who holds, since when, and when to ask again.
//!
//! Promises: reading is bounded by the caller's limit on bytes, refuses what is out of grammar by the field's name, and
//! ignores members it does not know.
//! Never: lets an attempt id into a body that goes to anybody but its owner.

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

use crate::names::{AttemptId, GroupName, HostId, Label, NameError, Tag};
use crate::semaphore::{Facts, Holder, MAX_DEADLINE_S, Op, Outcome, Phase, stands};

/// The header that must be there, so that no stray form or browser takes a lock; operators' changes need it, too.
pub const HEADER: &str = "fleet-lock-protocol";

/// The header's value.
pub const HEADER_VALUE: &str = "true";

/// Path of the question, relative to the base URL.
pub const PRE_REBOOT: &str = "v1/pre-reboot";

/// Path of the release, relative to the base URL.
pub const STEADY_STATE: &str = "v1/steady-state";

/// Largest body read, asked or answered, in bytes: a hundred times the longest legal question.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Largest sequence number: what JSON readers with 53-bit numbers keep exact.
pub const MAX_SEQUENCE: u64 = 1 << 53;

/// Holders listed in a refusal; more are counted in `holders_total`.
pub const LISTED_HOLDERS: usize = 32;

/// A question as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "an object with client_params")]
pub struct Body {
    /// FleetLock's own part.
    pub client_params: ClientParams,
    /// Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ota: Option<Ota>,
}

/// FleetLock's own part of a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "an object with id and group")]
pub struct ClientParams {
    /// Who asks.
    pub id: String,
    /// Of which group.
    pub group: String,
}

/// Our part of a question; every member may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "an object")]
pub struct Ota {
    /// The attempt: a capability, known to its host and the server only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// The boot id at the time of asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The product (application id).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// The version it wants to boot into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// That version's sequence number, at most 2^53.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// `draining` or `rebooting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The grant this is about, where the host has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
    /// `ok`, `rolled-back` or `aborted`; in a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Within how many seconds the host expects to be back; cut to a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
}

/// The yes of a locksmithd to a pre-reboot. For a host without an attempt only `phase` is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantBody {
    /// The attempt that holds the place: the asker's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptId>,
    /// The number of the grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
    /// The phase the holder is in, durably.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// How long a draining holder may be silent, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_s: Option<u64>,
}

/// The answer of a locksmithd to a steady-state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasedBody {
    /// Whether a place became free by it. False is no error: the asker holds none.
    pub released: bool,
}

/// Every answer that is not a yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalBody {
    /// A word of a small set, fit for a metric's label.
    pub kind: String,
    /// A sentence for a person.
    pub value: String,
    /// Who holds the places; at most [`LISTED_HOLDERS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty", serialize_with = "listed")]
    pub holders: Vec<HolderBody>,
    /// How many hold one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holders_total: Option<u64>,
    /// How many may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// The asker's place in the queue; 1 is next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<u64>,
    /// Since when the asker waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Timestamp>,
    /// When to ask again, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

/// A holder as others may see it: a tag for its attempt, never the attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderBody {
    /// Who.
    pub id: HostId,
    /// Under which attempt, in short; none for a foreign client or an operator's hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// Since when.
    pub since: Timestamp,
    /// How far; of an operator's hold it says nothing, see [`HolderBody::stands`].
    pub phase: Phase,
    /// Since when in that phase.
    pub phase_since: Timestamp,
    /// The number of its grant.
    pub fence: u64,
    /// What it updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<Label>,
    /// To which version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Label>,
    /// Within how many seconds of rebooting it expects to be back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
    /// The operator who holds the place in the host's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Label>,
}

/// Which of the two questions a body came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// May I reboot?
    PreReboot,
    /// I am back (or never went).
    SteadyState,
}

/// A question that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Of which group.
    pub group: GroupName,
    /// By whom.
    pub id: HostId,
    /// Under which attempt; none for a foreign client.
    pub attempt: Option<AttemptId>,
    /// What of the semaphore.
    pub op: Op,
}

/// Longest piece of a parser's words that is passed on, in characters.
const MAX_WORDS: usize = 200;

/// Why a question was not understood.
#[derive(Debug, thiserror::Error)]
pub enum BadRequest {
    /// Not the JSON of the protocol.
    #[error("the body is not FleetLock's: {}; expected {{\"client_params\": {{\"id\": …, \"group\": …}}}}", cut(.0))]
    Json(serde_json::Error),
    /// A name is out of its grammar.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A member has a value that is none of its words.
    #[error("ota.{member} {found:?}: expected {expected}")]
    Member {
        /// Which member.
        member: &'static str,
        /// What it said.
        found: String,
        /// What it may say.
        expected: &'static str,
    },
}

/// A parser's words, which quote what they were given.
fn cut(error: &serde_json::Error) -> String {
    let words = error.to_string();
    match words.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

impl Request {
    /// Reads a question. The caller has bounded `bytes` by [`MAX_BODY_BYTES`].
    pub fn parse(question: Question, bytes: &[u8]) -> Result<Self, BadRequest> {
        let body: Body = serde_json::from_slice(bytes).map_err(BadRequest::Json)?;
        let id = HostId::parse(&body.client_params.id)?;
        let group = GroupName::parse(&body.client_params.group)?;
        let ota = body.ota.unwrap_or_default();
        let attempt = ota.attempt.as_deref().map(AttemptId::parse).transpose()?;
        let op = match question {
            Question::PreReboot => pre_reboot(&id, attempt.as_ref(), &ota)?,
            Question::SteadyState => {
                let outcome = ota.outcome.as_deref().map(outcome).transpose()?;
                Op::Release { id: id.clone(), attempt: attempt.clone(), outcome }
            }
        };
        Ok(Self { group, id, attempt, op })
    }
}

fn pre_reboot(id: &HostId, attempt: Option<&AttemptId>, ota: &Ota) -> Result<Op, BadRequest> {
    let facts = facts(ota)?;
    let phase = ota.phase.as_deref().map(phase).transpose()?.unwrap_or(Phase::Draining);
    let id = id.clone();
    Ok(match (attempt.cloned(), phase, ota.fence) {
        (None, _, _) => Op::Take { id, attempt: None, facts },
        (Some(attempt), Phase::Draining, None) => Op::Take { id, attempt: Some(attempt), facts },
        (Some(attempt), Phase::Draining, Some(fence)) => Op::Renew { id, attempt, fence },
        (Some(attempt), Phase::Rebooting, fence) => Op::Reboot { id, attempt, fence, facts },
    })
}

fn facts(ota: &Ota) -> Result<Facts, BadRequest> {
    let label = |what, text: &Option<String>| text.as_deref().map(|text| Label::parse(what, text)).transpose();
    if let Some(sequence) = ota.sequence.filter(|sequence| *sequence > MAX_SEQUENCE) {
        return Err(member("sequence", &sequence.to_string(), "a number up to 2^53"));
    }
    Ok(Facts {
        boot_id: label("ota.boot_id", &ota.boot_id)?,
        product: label("ota.product", &ota.product)?,
        version: label("ota.version", &ota.version)?,
        sequence: ota.sequence,
        deadline_s: ota.deadline_s.map(|seconds| seconds.min(MAX_DEADLINE_S)),
    })
}

fn phase(text: &str) -> Result<Phase, BadRequest> {
    match text {
        "draining" => Ok(Phase::Draining),
        "rebooting" => Ok(Phase::Rebooting),
        other => Err(member("phase", other, "draining or rebooting")),
    }
}

fn outcome(text: &str) -> Result<Outcome, BadRequest> {
    match text {
        "ok" => Ok(Outcome::Ok),
        "rolled-back" => Ok(Outcome::RolledBack),
        "aborted" => Ok(Outcome::Aborted),
        other => Err(member("outcome", other, "ok, rolled-back or aborted")),
    }
}

fn member(member: &'static str, found: &str, expected: &'static str) -> BadRequest {
    BadRequest::Member { member, found: found.chars().take(40).collect(), expected }
}

impl HolderBody {
    /// What the place is taken for, in one word: the host's phase, or [`HELD`](crate::semaphore::HELD).
    pub fn stands(&self) -> &'static str {
        stands(self.phase, self.by.as_ref())
    }
}

/// Holders as they stand in a list: with [`HolderBody::stands`] beside the phase, so that no reader has to know when that says
/// nothing.
pub(crate) fn listed<S: Serializer>(holders: &[HolderBody], list: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Listed<'a> {
        #[serde(flatten)]
        holder: &'a HolderBody,
        stands: &'static str,
    }
    list.collect_seq(holders.iter().map(|holder| Listed { holder, stands: holder.stands() }))
}

impl From<&Holder> for HolderBody {
    fn from(holder: &Holder) -> Self {
        Self {
            id: holder.id.clone(),
            tag: holder.tag(),
            since: holder.since,
            phase: holder.phase,
            phase_since: holder.phase_since,
            fence: holder.fence,
            product: holder.facts.product.clone(),
            version: holder.facts.version.clone(),
            deadline_s: holder.facts.deadline_s,
            by: holder.by.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(question: Question, ota: &str) -> Result<Op, BadRequest> {
        let body = format!(r#"{{"client_params":{{"id":"h","group":"g"}},"ota":{ota}}}"#);
        Request::parse(question, body.as_bytes()).map(|request| request.op)
    }

    fn id() -> HostId {
        HostId::parse("h").unwrap()
    }

    fn attempt() -> AttemptId {
        AttemptId::parse("a-1").unwrap()
    }

    #[test]
    fn a_plain_fleetlock_body_is_a_recursive_lock_by_id() {
        let body = br#"{"client_params":{"id":"h","group":"g"}}"#;
        let request = Request::parse(Question::PreReboot, body).unwrap();
        assert_eq!(request.group.as_str(), "g");
        assert_eq!(request.op, Op::Take { id: id(), attempt: None, facts: Facts::default() });
        let release = Request::parse(Question::SteadyState, body).unwrap();
        assert_eq!(release.op, Op::Release { id: id(), attempt: None, outcome: None });
    }

    #[test]
    fn attempt_phase_and_fence_tell_the_four_questions_apart() {
        let pre = |ota| ask(Question::PreReboot, ota).unwrap();
        let take = Op::Take { id: id(), attempt: Some(attempt()), facts: Facts::default() };
        assert_eq!(pre(r#"{"attempt":"a-1"}"#), take);
        assert_eq!(pre(r#"{"attempt":"a-1","phase":"draining"}"#), take);
        assert_eq!(
            pre(r#"{"attempt":"a-1","phase":"draining","fence":7}"#),
            Op::Renew { id: id(), attempt: attempt(), fence: 7 }
        );
        let facts = Facts { deadline_s: Some(600), ..Facts::default() };
        assert_eq!(
            pre(r#"{"attempt":"a-1","phase":"rebooting","fence":7,"deadline_s":600}"#),
            Op::Reboot { id: id(), attempt: attempt(), fence: Some(7), facts }
        );
        assert!(matches!(pre(r#"{"phase":"rebooting"}"#), Op::Take { attempt: None, .. }));
    }

    #[test]
    fn an_outcome_travels_with_the_release_in_its_three_words() {
        for (word, outcome) in [("ok", Outcome::Ok), ("rolled-back", Outcome::RolledBack), ("aborted", Outcome::Aborted)] {
            let op = ask(Question::SteadyState, &format!(r#"{{"attempt":"a-1","outcome":"{word}"}}"#));
            let expected = Op::Release { id: id(), attempt: Some(attempt()), outcome: Some(outcome) };
            assert_eq!(op.unwrap(), expected);
            assert_eq!(outcome.as_str(), word);
        }
    }

    #[test]
    fn a_list_of_holders_says_what_each_place_is_taken_for() {
        let holder = |by: Option<&str>| HolderBody {
            id: id(),
            tag: None,
            since: Timestamp::UNIX_EPOCH,
            phase: Phase::Rebooting,
            phase_since: Timestamp::UNIX_EPOCH,
            fence: 7,
            product: None,
            version: None,
            deadline_s: None,
            by: by.map(|by| Label::parse("by", by).unwrap()),
        };
        let holders = [holder(None), holder(Some("ada@desk"))];
        let written = listed(&holders, serde_json::value::Serializer).unwrap();
        let words: Vec<_> = written.as_array().unwrap().iter().map(|holder| (&holder["phase"], &holder["stands"])).collect();
        assert_eq!(words, [(&"rebooting".into(), &"rebooting".into()), (&"rebooting".into(), &"held".into())]);
        assert_eq!(serde_json::from_value::<[HolderBody; 2]>(written.clone()).unwrap(), holders);
    }

    #[test]
    fn what_is_out_of_grammar_is_refused_by_the_members_name() {
        let cases = [
            (r#"{"attempt":"a b"}"#, "attempt"),
            (r#"{"attempt":""}"#, "attempt"),
            (r#"{"version":"1\n2"}"#, "ota.version"),
            (r#"{"product":""}"#, "ota.product"),
            (r#"{"phase":"sleeping"}"#, "ota.phase"),
            (r#"{"sequence":9007199254740993}"#, "ota.sequence"),
            (r#"{"sequence":-1}"#, "invalid value: integer `-1`, expected u64"),
            (r#"{"deadline_s":"soon"}"#, "invalid type: string \"soon\", expected u64"),
        ];
        for (ota, named) in cases {
            let error = ask(Question::PreReboot, ota).unwrap_err().to_string();
            assert!(error.contains(named), "{ota}: {error}");
        }
        let error = ask(Question::SteadyState, r#"{"outcome":"fine"}"#).unwrap_err().to_string();
        assert_eq!(error, r#"ota.outcome "fine": expected ok, rolled-back or aborted"#);
    }

    #[test]
    fn bodies_that_are_not_the_protocols_are_refused() {
        let long = format!(r#"{{"client_params":{{"id":"{}","group":"g"}}}}"#, "x".repeat(129));
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        for body in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"client_params":{}}"#,
            r#"{"client_params":{"id":"h"}}"#,
            r#"{"client_params":{"id":"","group":"g"}}"#,
            r#"{"client_params":{"id":"h","group":""}}"#,
            r#"{"client_params":{"id":"h","group":"a/b"}}"#,
            r#"{"client_params":{"id":"h\u0000","group":"g"}}"#,
            r#"{"client_params":{"id":"h","group":"g"}} trailing"#,
            r#"{"client_params":{"id":"h","group":"g"}"#,
            &long,
            &deep,
        ] {
            let parsed = Request::parse(Question::PreReboot, body.as_bytes());
            assert!(parsed.is_err(), "{:.60} was understood", body);
        }
    }

    #[test]
    fn members_it_does_not_know_are_ignored() {
        let op = ask(Question::PreReboot, r#"{"attempt":"a-1","colour":"blue"}"#).unwrap();
        assert!(matches!(op, Op::Take { .. }));
    }

    #[test]
    fn a_deadline_is_cut_to_a_day() {
        let op = ask(Question::PreReboot, r#"{"attempt":"a-1","deadline_s":18446744073709551615}"#);
        let Op::Take { facts, .. } = op.unwrap() else { panic!("not a take") };
        assert_eq!(facts.deadline_s, Some(MAX_DEADLINE_S));
    }
}
