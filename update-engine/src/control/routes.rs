//! What each address answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use futures_util::{Stream, StreamExt, stream};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, oneshot, watch};
use tracing::info;

use super::admission::may_act;
use super::metrics;
use super::server::{Limits, Peer};
use super::{ControlHandle, Request, VERBS};
use crate::engine::command::{Command, Rejection};
use crate::status::json::{EventKind, EventLine};

/// A daemon that does not answer within this time shows what it showed last.
const REFRESH_WAIT: Duration = Duration::from_millis(500);

struct App {
    handle: ControlHandle,
    limits: Limits,
    own_uid: u32,
    stopped: watch::Receiver<bool>,
}

type Shared = State<Arc<App>>;

pub(super) fn router(handle: ControlHandle, limits: Limits, own_uid: u32, stopped: watch::Receiver<bool>) -> Router {
    let app = Arc::new(App { handle, limits, own_uid, stopped });
    let mut router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/history", get(history))
        .route("/v1/why", get(why))
        .route("/v1/slots", get(slots))
        .route("/v1/kernel-log", get(kernel_log))
        .route("/v1/config", get(config))
        .route("/v1/events", get(events))
        .route("/metrics", get(metrics_text));
    for verb in VERBS {
        let act = move |state: Shared, peer: ConnectInfo<Peer>, body: Result<Bytes, BytesRejection>| act(verb, state, peer, body);
        router = router.route(&format!("/v1/{verb}"), post(act));
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(limits.request_part_bytes))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), short_enough))
        .with_state(app)
}

/// The body of every answer that is not the one asked for.
pub(super) fn words(code: Rejection, message: &str) -> Value {
    json!({ "code": code, "message": message })
}

fn refuse(status: StatusCode, code: Rejection, message: &str) -> Response {
    (status, Json(words(code, message))).into_response()
}

async fn not_found(uri: Uri) -> Response {
    let verbs = VERBS.join(", ");
    let message = format!(
        "there is nothing at {}; GET /v1/status, history, why, slots, kernel-log, config, events, /metrics; POST /v1/ and one of {verbs}",
        uri.path()
    );
    refuse(StatusCode::NOT_FOUND, Rejection::NotFound, &message)
}

async fn wrong_method(request: HttpRequest) -> Response {
    let expected = if VERBS.iter().any(|verb| request.uri().path() == format!("/v1/{verb}")) { "POST" } else { "GET" };
    let message = format!("{}: expected {expected}, got {}", request.uri().path(), request.method());
    refuse(StatusCode::METHOD_NOT_ALLOWED, Rejection::WrongMethod, &message)
}

/// Refuses a request by what it says of its length, before any of its body is read.
async fn short_enough(State(app): Shared, request: HttpRequest, next: Next) -> Response {
    let limit = app.limits.request_part_bytes;
    let head: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if head + request.uri().path().len() > limit {
        let message = format!("expected a head of at most {limit} bytes, got more");
        return refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Rejection::TooLong, &message);
    }
    if declared_length(request.headers()).is_some_and(|length| length > limit) {
        return too_long(limit);
    }
    next.run(request).await
}

fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_long(limit: usize) -> Response {
    refuse(StatusCode::PAYLOAD_TOO_LARGE, Rejection::TooLong, &format!("expected a body of at most {limit} bytes, got more"))
}

/// Asks the daemon for documents of this moment. One that is busy, or stopping, shows what it showed last.
async fn refresh(app: &App) {
    let (done, is_done) = oneshot::channel();
    if app.handle.refresh.try_send(done).is_ok() {
        let _in_time_or_not = tokio::time::timeout(REFRESH_WAIT, is_done).await;
    }
}

async fn status(State(app): Shared) -> Response {
    refresh(&app).await;
    let status = Arc::clone(&app.handle.status.borrow());
    Json(&*status).into_response()
}

async fn history(State(app): Shared) -> Response {
    let history = Arc::clone(&app.handle.history.borrow());
    Json(&*history).into_response()
}

async fn why(State(app): Shared) -> Response {
    refresh(&app).await;
    let why = Arc::clone(&app.handle.why.borrow());
    Json(&*why).into_response()
}

async fn slots(State(app): Shared) -> Response {
    let status = Arc::clone(&app.handle.status.borrow());
    Json(&status.slots).into_response()
}

async fn kernel_log(State(app): Shared, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    if !may_act(peer.uid, app.own_uid) {
        let message = format!("the kernel's log is for root: expected uid 0{}, got uid {}", or_own(app.own_uid), peer.uid);
        return refuse(StatusCode::FORBIDDEN, Rejection::NotAllowed, &message);
    }
    let log = Arc::clone(&app.handle.kernel_log.borrow());
    Json(&*log).into_response()
}

async fn config(State(app): Shared) -> Response {
    ([(header::CONTENT_TYPE, "application/toml")], app.handle.config_text.to_string()).into_response()
}

async fn metrics_text(State(app): Shared) -> Response {
    refresh(&app).await;
    let status = Arc::clone(&app.handle.status.borrow());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render(&status, Timestamp::now())).into_response()
}

async fn events(State(app): Shared) -> Response {
    let lines = lines(app.handle.events.subscribe());
    let mut stopped = app.stopped.clone();
    // However the wait ends, the daemon is stopping.
    let stopped = async move { stopped.wait_for(|stopped| *stopped).await.is_ok() };
    let keep_alive = KeepAlive::new().interval(app.limits.keep_alive);
    Sse::new(lines.take_until(Box::pin(stopped))).keep_alive(keep_alive).into_response()
}

/// Ends when the reader has fallen behind: what it missed cannot be made up for, and it can ask for the status.
fn lines(receiver: broadcast::Receiver<EventLine>) -> impl Stream<Item = Result<Event, axum::Error>> {
    stream::unfold(receiver, |mut receiver| async move {
        match receiver.recv().await {
            Ok(line) => Some((event(&line), receiver)),
            Err(RecvError::Lagged(_) | RecvError::Closed) => None,
        }
    })
}

fn event(line: &EventLine) -> Result<Event, axum::Error> {
    let kind = match line.kind {
        EventKind::Transition => "transition",
        EventKind::Progress => "progress",
        EventKind::Message => "message",
        EventKind::Done => "done",
    };
    Event::default().event(kind).json_data(line)
}

async fn act(
    verb: &str,
    State(app): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    if !may_act(peer.uid, app.own_uid) {
        let message = format!("{verb} is for root: expected uid 0{}, got uid {}", or_own(app.own_uid), peer.uid);
        return refuse(StatusCode::FORBIDDEN, Rejection::NotAllowed, &message);
    }
    let body = match body {
        Ok(body) => body,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => return too_long(app.limits.request_part_bytes),
        Err(rejection) => return refuse(rejection.status(), Rejection::BadRequest, &rejection.body_text()),
    };
    match command(verb, &body) {
        Ok(command) => pass_on(&app, command, peer.uid).await,
        Err(message) => refuse(StatusCode::BAD_REQUEST, Rejection::BadRequest, &message),
    }
}

fn or_own(own_uid: u32) -> String {
    if own_uid == 0 { String::new() } else { format!(" or {own_uid}") }
}

async fn pass_on(app: &App, command: Command, uid: u32) -> Response {
    info!(uid, ?command, "a person asks");
    let (reply, answer) = oneshot::channel();
    match app.handle.commands.try_send(Request { command, uid, reply }) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => return busy("too many commands wait for an answer; try again in a moment"),
        Err(TrySendError::Closed(_)) => return busy("the daemon is stopping"),
    }
    match tokio::time::timeout(app.limits.reply, answer).await {
        Ok(Ok(Ok(accepted))) => (StatusCode::ACCEPTED, Json(accepted)).into_response(),
        Ok(Ok(Err(rejected))) => (status_of(rejected.code), Json(rejected)).into_response(),
        Ok(Err(_)) => busy("the daemon is stopping"),
        Err(_) => {
            let message = format!("no answer within {} s; what was asked for may still happen", app.limits.reply.as_secs());
            refuse(StatusCode::GATEWAY_TIMEOUT, Rejection::NoAnswer, &message)
        }
    }
}

/// What could be done if the host were well is no conflict.
const fn status_of(code: Rejection) -> StatusCode {
    match code {
        Rejection::StateDir => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::CONFLICT,
    }
}

fn busy(message: &str) -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, Rejection::Busy, message)
}

/// The command that a verb and the fields in its body make.
fn command(verb: &str, body: &[u8]) -> Result<Command, String> {
    let mut fields = fields(body)?;
    let given: BTreeSet<String> = fields.keys().cloned().collect();
    if given.contains("command") {
        return Err("unknown field `command`: the path says the verb".to_owned());
    }
    fields.insert("command".to_owned(), verb.into());
    let command: Command = serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())?;
    // A variant without fields lets unknown ones pass; written down again, it shows which were understood.
    let understood = serde_json::to_value(&command).map_err(|error| error.to_string())?;
    match given.iter().find(|field| understood.get(field.as_str()).is_none()) {
        Some(field) => Err(format!("unknown field `{field}`")),
        None => Ok(command),
    }
}

fn fields(body: &[u8]) -> Result<Map<String, Value>, String> {
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err("expected a JSON object, got another kind of value".to_owned()),
        Err(error) => Err(format!("expected a JSON object: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernels_log_is_shown_to_whoever_may_act_and_to_nobody_else() {
        let log = crate::status::json::WholeKernelLog { attempt: "5d1c".into(), ..Default::default() };
        let handle = ControlHandle {
            status: watch::channel(Arc::default()).1,
            history: watch::channel(Arc::default()).1,
            why: watch::channel(Arc::default()).1,
            kernel_log: watch::channel(Arc::new(Some(log))).1,
            config_text: "".into(),
            events: broadcast::channel(1).0,
            commands: tokio::sync::mpsc::channel(1).0,
            refresh: tokio::sync::mpsc::channel(1).0,
        };
        let app = Arc::new(App { handle, limits: Limits::default(), own_uid: 7, stopped: watch::channel(false).1 });
        for (uid, expected) in [(0, 200), (7, 200), (1000, 403)] {
            let answer = kernel_log(State(Arc::clone(&app)), ConnectInfo(Peer { uid })).await;
            assert_eq!(answer.status(), expected, "{uid}");
        }
    }

    #[test]
    fn a_verb_and_its_fields_make_a_command() {
        assert_eq!(command("check", b""), Ok(Command::Check));
        assert_eq!(command("check", b" {} \n"), Ok(Command::Check));
        let update = Command::Update { version: Some("1.1.0".into()), allow_older: false, no_reboot: true };
        assert_eq!(command("update", br#"{"version": "1.1.0", "no_reboot": true}"#), Ok(update));
        assert_eq!(command("channel", br#"{"name": "beta"}"#), Ok(Command::Channel { name: "beta".into() }));
    }

    #[test]
    fn every_verb_is_a_command() {
        for verb in VERBS {
            let words = command(verb, br#"{"name": "x", "release": "/r", "payload": "/p"}"#).err().unwrap_or_default();
            assert!(!words.contains("unknown variant"), "{verb}: {words}");
        }
    }

    #[test]
    fn docs_interfaces_md_lists_all_that_can_be_asked() {
        let docs = include_str!("../../../docs/interfaces.md");
        assert!(docs.contains(&format!("`POST /v1/{{{}}}`", VERBS.join(","))), "{VERBS:?}");
        for path in ["status", "history", "why", "slots", "kernel-log", "config", "events"] {
            assert!(docs.contains(&format!("`GET /v1/{path}`")), "{path}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused_with_words() {
        let cases: [(&str, &[u8], &str); 8] = [
            ("check", b"[]", "expected a JSON object, got another kind of value"),
            ("check", b"{", "expected a JSON object: EOF while parsing an object at line 1 column 1"),
            ("check", b"{\"fast\": true}", "unknown field `fast`"),
            ("check", b"{\"command\": \"reboot\"}", "unknown field `command`: the path says the verb"),
            ("update", b"{\"versoin\": \"1\"}", "unknown field `versoin`, expected one of `version`, `allow_older`, `no_reboot`"),
            ("update", b"{\"no_reboot\": 1}", "invalid type: integer `1`, expected a boolean"),
            ("install", b"{\"payload\": \"/p\"}", "missing field `release`"),
            ("channel", b"", "missing field `name`"),
        ];
        for (verb, body, expected) in cases {
            assert_eq!(command(verb, body), Err(expected.to_owned()), "{verb} {}", String::from_utf8_lossy(body));
        }
    }
}
