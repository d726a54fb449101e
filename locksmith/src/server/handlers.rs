//! What is asked over HTTP, step by step: method, token, header, body, words, group, decision.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest as _, Path, Query, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::auth::Role;
use super::group::{GroupHandle, Look, Trouble, Verdict};
use super::metrics::{self, Endpoint, Scraped};
use super::problem::{Kind, Problem};
use super::{Ensured, Shared};
use crate::api::{
    DEFAULT_HISTORY, GroupBody, GroupList, GroupSummary, Held, HistoryBody, Hold, LISTED_WAITERS, MaxChanged, NewGroup, NewMax,
    SCHEMA, Unlock, WaiterBody,
};
use crate::fleetlock::{GrantBody, HEADER, HEADER_VALUE, HolderBody, MAX_BODY_BYTES, Question, ReleasedBody, Request};
use crate::names::{AttemptId, GroupName, HostId, Label, NameError, Reason};
use crate::semaphore::history::MAX_ENTRIES;
use crate::semaphore::{Answer, Granted, Max, MaxError, Op, Phase, UNNAMED};
use crate::store::{Groups, History, Store, StoreError};

/// Longest time a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time the store may take for an answer, however many groups it is about; what was asked may still be decided, and
/// asking again is safe.
const DECISION_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time the metrics wait for the groups: less than Prometheus waits for the metrics.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);

type Answered = Result<Response, Problem>;

/// A group's name as it stands in the path; what cannot be read there is refused like any other name, after the token.
type InPath = Result<Path<String>, PathRejection>;

pub(super) fn router<S: Store>(shared: Arc<Shared<S>>) -> Router {
    Router::new()
        .route("/v1/pre-reboot", post(pre_reboot::<S>).fallback(only_post))
        .route("/v1/steady-state", post(steady_state::<S>).fallback(only_post))
        .route("/v1/groups", get(list_groups::<S>).post(create_group::<S>).fallback(wrong_method))
        .route("/v1/groups/{group}", get(show_group::<S>).fallback(wrong_method))
        .route("/v1/groups/{group}/history", get(show_history::<S>).fallback(wrong_method))
        .route("/v1/groups/{group}/max", put(set_max::<S>).fallback(wrong_method))
        .route("/v1/groups/{group}/lock", post(hold::<S>).fallback(only_post))
        .route("/v1/groups/{group}/unlock", post(unlock::<S>).fallback(only_post))
        .route("/metrics", get(show_metrics::<S>).fallback(wrong_method))
        .route("/healthz", get(healthz::<S>).fallback(wrong_method))
        .fallback(no_such_path)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), count::<S>))
        .with_state(shared)
}

async fn count<S: Store>(State(shared): State<Arc<Shared<S>>>, request: HttpRequest, next: Next) -> Response {
    let endpoint = Endpoint::of(request.uri().path());
    let response = next.run(request).await;
    let kind = response.extensions().get::<Kind>().copied().unwrap_or(Kind::Ok);
    shared.counters.answered(endpoint, kind);
    response
}

async fn only_post() -> Response {
    let problem = Problem::new(Kind::MethodNotAllowed, "required method POST");
    ([(header::ALLOW, "POST")], problem).into_response()
}

async fn wrong_method() -> Problem {
    Problem::new(Kind::MethodNotAllowed, "this path does not take that method; see locksmith's README")
}

async fn no_such_path() -> Problem {
    Problem::new(Kind::NotFound, "no such path; FleetLock is at /v1/pre-reboot and /v1/steady-state")
}

// ---- FleetLock

async fn pre_reboot<S: Store>(State(shared): State<Arc<Shared<S>>>, request: HttpRequest) -> Answered {
    let (asked, verdict) = shared.fleetlock(Question::PreReboot, request).await?;
    match &verdict.answer {
        Answer::Granted(granted) => Ok(Json(shared.grant_body(asked.attempt, granted)).into_response()),
        _ => Err(unexpected(&asked.group, &verdict)),
    }
}

async fn steady_state<S: Store>(State(shared): State<Arc<Shared<S>>>, request: HttpRequest) -> Answered {
    let (asked, verdict) = shared.fleetlock(Question::SteadyState, request).await?;
    match verdict.answer {
        Answer::Released { freed } => Ok(Json(ReleasedBody { released: freed }).into_response()),
        _ => Err(unexpected(&asked.group, &verdict)),
    }
}

impl<S: Store> Shared<S> {
    async fn fleetlock(&self, question: Question, request: HttpRequest) -> Result<(Request, Verdict), Problem> {
        self.allow(request.headers(), Role::Host)?;
        by_no_web_page(request.headers())?;
        let bytes = body(request).await?;
        let asked = Request::parse(question, &bytes).map_err(|error| Problem::new(Kind::BadRequest, error.to_string()))?;
        let group =
            in_time(self.find(&asked.group)).await?.ok_or_else(|| Problem::unknown_group(Kind::UnknownGroup, &asked.group))?;
        let verdict = decide(&group, asked.op.clone()).await?;
        Ok((asked, verdict))
    }

    fn grant_body(&self, attempt: Option<AttemptId>, granted: &Granted) -> GrantBody {
        let phase = Some(granted.phase);
        // Without an attempt there is nothing to renew or to fence: the host hears what a plain server says.
        let Some(attempt) = attempt else {
            return GrantBody { attempt: None, fence: None, phase, lease_s: None };
        };
        let lease_s = (granted.phase == Phase::Draining).then_some(self.settings.lease.as_secs());
        GrantBody { attempt: Some(attempt), fence: Some(granted.fence), phase, lease_s }
    }
}

// ---- Groups

async fn list_groups<S: Store>(State(shared): State<Arc<Shared<S>>>, headers: HeaderMap) -> Answered {
    shared.allow(&headers, Role::Host)?;
    let list = in_time(shared.list()).await?;
    Ok(Json(list).into_response())
}

async fn create_group<S: Store>(State(shared): State<Arc<Shared<S>>>, request: HttpRequest) -> Answered {
    shared.allow(request.headers(), Role::Admin)?;
    by_no_web_page(request.headers())?;
    let new: NewGroup = json(request).await?;
    let name = GroupName::parse(&new.group)?;
    let max = Max::new(new.max)?;
    match in_time(shared.ensure_group(&name, max)).await? {
        Ensured::Created => {
            let look = in_time(shared.adopt(&name).look(LISTED_WAITERS)).await?;
            Ok((StatusCode::CREATED, Json(group_body(&name, &look))).into_response())
        }
        Ensured::Exists(max) => {
            Err(Problem::new(Kind::GroupExists, format!("group \"{name}\" exists already, its max is {max}")))
        }
        Ensured::TooMany => Err(Problem::new(Kind::TooManyGroups, "the store has as many groups as it takes")),
    }
}

async fn show_group<S: Store>(State(shared): State<Arc<Shared<S>>>, group: InPath, headers: HeaderMap) -> Answered {
    shared.allow(&headers, Role::Host)?;
    let (name, handle) = shared.named(group).await?;
    let look = in_time(handle.look(LISTED_WAITERS)).await?;
    Ok(Json(group_body(&name, &look)).into_response())
}

#[derive(Deserialize)]
struct HistoryQuery {
    limit: Option<usize>,
}

async fn show_history<S: Store>(
    State(shared): State<Arc<Shared<S>>>,
    group: InPath,
    headers: HeaderMap,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Answered {
    shared.allow(&headers, Role::Host)?;
    let Query(query) = query.map_err(|error| Problem::new(Kind::BadRequest, error.body_text()))?;
    let (name, _) = shared.named(group).await?;
    let limit = query.limit.unwrap_or(DEFAULT_HISTORY).min(MAX_ENTRIES);
    let History { entries, unreadable } = in_time(shared.store.history(&name, limit)).await?;
    Ok(Json(HistoryBody { schema: SCHEMA, group: name, entries, unreadable: number(unreadable) }).into_response())
}

async fn set_max<S: Store>(State(shared): State<Arc<Shared<S>>>, group: InPath, request: HttpRequest) -> Answered {
    let (name, handle, new) = shared.act::<NewMax>(group, request).await?;
    let op = Op::SetMax { max: Max::new(new.max)?, by: operator(new.by.as_deref())? };
    let verdict = decide(&handle, op).await?;
    match verdict.answer {
        Answer::MaxChanged { old, new } => Ok(Json(MaxChanged { old_max: old.get(), max: new.get() }).into_response()),
        _ => Err(unexpected(&name, &verdict)),
    }
}

async fn hold<S: Store>(State(shared): State<Arc<Shared<S>>>, group: InPath, request: HttpRequest) -> Answered {
    let (name, handle, asked) = shared.act::<Hold>(group, request).await?;
    let id = HostId::parse(&asked.id)?;
    let op = Op::Hold { id: id.clone(), by: operator(asked.by.as_deref())? };
    let verdict = decide(&handle, op).await?;
    match verdict.answer {
        Answer::Granted(Granted { fence, .. }) => {
            let already_since = verdict.upon.holder(&id).map(|holder| holder.since);
            Ok(Json(Held { fence, already_since }).into_response())
        }
        _ => Err(unexpected(&name, &verdict)),
    }
}

async fn unlock<S: Store>(State(shared): State<Arc<Shared<S>>>, group: InPath, request: HttpRequest) -> Answered {
    let (name, handle, asked) = shared.act::<Unlock>(group, request).await?;
    let id = HostId::parse(&asked.id)?;
    let reason = asked.reason.as_deref().map(Reason::parse).transpose()?;
    let op = Op::Free { id: id.clone(), reason, by: operator(asked.by.as_deref())? };
    let verdict = decide(&handle, op).await?;
    match &verdict.answer {
        Answer::Freed(Some(holder)) => Ok(Json(HolderBody::from(holder.as_ref())).into_response()),
        Answer::Freed(None) => {
            let value = format!("{id} holds no place in group \"{name}\"");
            Err(Problem::new(Kind::NoSuchHolder, value))
        }
        _ => Err(unexpected(&name, &verdict)),
    }
}

impl<S: Store> Shared<S> {
    /// All groups: one that cannot be shown hides no other.
    async fn list(&self) -> Result<GroupList, Problem> {
        let Groups { names, unreadable } = self.store.groups().await?;
        let unreadable = number(unreadable);
        let mut list = GroupList { schema: SCHEMA, groups: Vec::new(), troubled: Vec::new(), unreadable };
        for name in names {
            match self.adopt(&name).look(0).await {
                Ok(look) => list.groups.push(summary(&name, &look)),
                Err(trouble) => list.troubled.push(Problem::from(trouble).of_group(name)),
            }
        }
        Ok(list)
    }

    /// What an operator asks of a group.
    async fn act<T: DeserializeOwned>(
        &self,
        group: InPath,
        request: HttpRequest,
    ) -> Result<(GroupName, GroupHandle, T), Problem> {
        self.allow(request.headers(), Role::Admin)?;
        by_no_web_page(request.headers())?;
        let asked = json(request).await?;
        let (name, handle) = self.named(group).await?;
        Ok((name, handle, asked))
    }

    async fn named(&self, group: InPath) -> Result<(GroupName, GroupHandle), Problem> {
        let unreadable = |error: PathRejection| Problem::new(Kind::BadRequest, format!("the path: {}", error.body_text()));
        let Path(group) = group.map_err(unreadable)?;
        let name = GroupName::parse(&group)?;
        match in_time(self.find(&name)).await? {
            Some(handle) => Ok((name, handle)),
            None => Err(Problem::unknown_group(Kind::NoSuchGroup, &name)),
        }
    }

    fn allow(&self, headers: &HeaderMap, needed: Role) -> Result<(), Problem> {
        let Some(tokens) = &self.settings.tokens else { return Ok(()) };
        let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match header.and_then(|header| tokens.role(header)) {
            Some(role) if role == needed || role == Role::Admin => Ok(()),
            Some(_) => Err(Problem::new(Kind::Forbidden, "this token is a host's; an admin's is needed")),
            None if header.is_some() => Err(Problem::new(Kind::Unauthorized, "the token is not one of this server's")),
            None => {
                let value = "a token is needed: Authorization: Bearer TOKEN";
                Err(Problem::new(Kind::Unauthorized, value))
            }
        }
    }
}

/// Refuses what a web page in somebody's browser can ask of a server on his machine or in his network: no page may add
/// a header to what it asks of a server that does not allow it, and this one never does. A page whose own name was made to
/// lead here may add it, but its browser says where the page came from; programs do not.
fn by_no_web_page(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.get(HEADER).is_none_or(|value| value != HEADER_VALUE) {
        let value = format!("missing required header {HEADER}: {HEADER_VALUE}");
        return Err(Problem::new(Kind::MissingHeader, value));
    }
    if headers.contains_key(header::ORIGIN) {
        return Err(Problem::new(Kind::Forbidden, "a web page asked this (it has an Origin header); only programs may"));
    }
    Ok(())
}

fn summary(name: &GroupName, look: &Look) -> GroupSummary {
    GroupSummary {
        group: name.clone(),
        max: look.document.max().get(),
        available: number(look.document.free()),
        holders_total: number(look.document.holders().len()),
        waiting_total: number(look.waiting_total),
    }
}

fn group_body(name: &GroupName, look: &Look) -> GroupBody {
    GroupBody {
        schema: SCHEMA,
        group: name.clone(),
        max: look.document.max().get(),
        available: number(look.document.free()),
        holders: look.document.holders().iter().map(HolderBody::from).collect(),
        waiting: look.waiting.iter().map(|waiter| WaiterBody { id: waiter.id.clone(), since: waiter.since }).collect(),
        waiting_total: number(look.waiting_total),
        revision: look.revision.0,
    }
}

fn number(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

fn operator(by: Option<&str>) -> Result<Label, Problem> {
    Ok(Label::parse("by", by.unwrap_or(UNNAMED))?)
}

// ---- Service

async fn show_metrics<S: Store>(State(shared): State<Arc<Shared<S>>>) -> Response {
    let handles = shared.handles();
    let deadline = Instant::now() + SCRAPE_TIMEOUT;
    let mut scraped = Vec::new();
    for (group, handle) in &handles {
        let look = look_until(deadline, handle).await;
        scraped.push(Scraped { group, counters: &handle.counters, look });
    }
    let text = metrics::text(&shared.counters, &scraped);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// A look at a group, unless it does not come in time; after the deadline the group is not even asked.
async fn look_until(deadline: Instant, handle: &GroupHandle) -> Option<Look> {
    if Instant::now() >= deadline {
        return None;
    }
    tokio::time::timeout_at(deadline, handle.look(0)).await.ok()?.ok()
}

async fn healthz<S: Store>(State(shared): State<Arc<Shared<S>>>) -> Answered {
    in_time(shared.store.check()).await?;
    Ok("ok\n".into_response())
}

// ---- Bounded reading and waiting

async fn body(request: HttpRequest) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await;
    match read {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let value = format!("the body is longer than {MAX_BODY_BYTES} bytes");
            Err(Problem::new(Kind::TooLarge, value))
        }
        Ok(Err(error)) => Err(Problem::new(Kind::BadRequest, error.body_text())),
        Err(_) => {
            let value = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            Err(Problem::new(Kind::Timeout, value))
        }
    }
}

async fn json<T: DeserializeOwned>(request: HttpRequest) -> Result<T, Problem> {
    let bytes = body(request).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Problem::new(Kind::BadRequest, format!("the body is not what was expected: {error}")))
}

async fn decide(group: &GroupHandle, op: Op) -> Result<Verdict, Problem> {
    in_time(group.decide(op)).await
}

async fn in_time<T, E: Into<Problem>>(answer: impl Future<Output = Result<T, E>>) -> Result<T, Problem> {
    match tokio::time::timeout(DECISION_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => {
            let value = format!(
                "the store did not answer within {} s; it may still do what was asked, and asking again is safe",
                DECISION_TIMEOUT.as_secs()
            );
            Err(Problem::new(Kind::StoreOut, value))
        }
    }
}

/// A refusal in its words; any other answer does not belong to the question.
fn unexpected(group: &GroupName, verdict: &Verdict) -> Problem {
    match &verdict.answer {
        Answer::Refused(refusal) => Problem::refused(group, refusal, verdict),
        other => {
            tracing::error!(%group, ?other, "an answer that does not belong to its question");
            Problem::new(Kind::StoreOut, "the server cannot answer this; its log says more")
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Trouble::from(error).into()
    }
}

impl From<NameError> for Problem {
    fn from(error: NameError) -> Self {
        Self::new(Kind::BadRequest, error.to_string())
    }
}

impl From<MaxError> for Problem {
    fn from(error: MaxError) -> Self {
        Self::new(Kind::BadRequest, error.to_string())
    }
}
