//! One connection: requests in, plans out, until either side has had enough.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::Error;
use crate::files;
use crate::http::{NoRequest, Request, Requests};
use crate::mock::Shared;
use crate::omaha::Desk;
use crate::plan::{End, Plan, Reply, Segment};
use crate::reach::of_a_web_page;
use crate::record::Progress;
use crate::script::Script;
use crate::send::Sender;

/// Where the record is read and cleared.
const RECORDED_PATH: &str = "/_recorded";
/// Where the script is put.
const SCRIPT_PATH: &str = "/_script";

/// Serves the connection to its end.
pub(crate) fn serve(stream: &TcpStream, shared: &Shared) {
    // Answers are written in whole pieces; waiting to fill packets would only slow small ones down.
    let _ = stream.set_nodelay(true);
    let mut requests = Requests::new(stream);
    loop {
        let request = match requests.next() {
            Ok(request) => request,
            Err(NoRequest::Closed) => return,
            Err(NoRequest::Bad(status, problem)) => return turn_away(stream, shared, status, problem),
        };
        if !answer(stream, shared, &request) {
            return;
        }
    }
}

/// Answers one request; true if the connection can take another.
fn answer(stream: &TcpStream, shared: &Shared, request: &Request) -> bool {
    if let Some(plan) = control(shared, request) {
        let sender = Sender { stream, progress: &Progress::default(), stop: &shared.stop };
        return sender.send(&plan, request).unwrap_or(false);
    }
    let progress = shared.recorder.record(request);
    let keep_alive = carry_out(&reply(shared, request), stream, shared, request, &progress);
    progress.finish();
    keep_alive
}

/// What the script says to a request.
fn reply(shared: &Shared, request: &Request) -> Reply {
    let script = shared.stage.script();
    if script.omaha_paths.iter().any(|path| path == request.path()) {
        Desk { stage: &shared.stage, measuring: &shared.measuring, addr: shared.addr }.reply(request)
    } else if files::serves(&script, request.path()) {
        files::reply(&shared.stage, request)
    } else {
        Reply::Send(Plan::text(404, format!("the script has nothing at {}", request.path())))
    }
}

fn carry_out(reply: &Reply, stream: &TcpStream, shared: &Shared, request: &Request, progress: &Arc<Progress>) -> bool {
    let sender = Sender { stream, progress, stop: &shared.stop };
    match reply {
        Reply::Send(plan) => {
            let keep_alive = sender.send(plan, request).unwrap_or(false);
            if !keep_alive && plan.end == End::Close {
                sender.close();
            }
            keep_alive
        }
        Reply::Refuse => {
            progress.strike("refuse");
            sender.close();
            false
        }
        Reply::NoAnswer => {
            progress.strike("no_answer");
            sender.stall();
            false
        }
        Reply::Outage(length) => {
            progress.strike("outage");
            shared.begin_outage(*length);
            false
        }
        Reply::NotHttp => {
            // The client may be gone; the connection ends either way.
            let _ = sender.send_noise();
            sender.close();
            false
        }
    }
}

/// The answer to a request for the mock itself, which is neither scripted nor recorded.
fn control(shared: &Shared, request: &Request) -> Option<Plan> {
    if ![RECORDED_PATH, SCRIPT_PATH].contains(&request.path()) {
        return None;
    }
    if let Some(problem) = of_a_web_page(request) {
        return Some(Plan::text(403, problem));
    }
    Some(match (request.path(), request.method.as_str()) {
        (RECORDED_PATH, "GET") => match serde_json::to_vec(&shared.recorder.all()) {
            Ok(json) => Plan::new(200, "application/json", vec![Segment::Bytes(json)]),
            Err(error) => Plan::text(500, error.to_string()),
        },
        (RECORDED_PATH, "DELETE") => {
            shared.recorder.clear();
            Plan::text(200, "forgotten")
        }
        (SCRIPT_PATH, "PUT") => {
            let text = String::from_utf8_lossy(&request.body);
            let script = Script::parse(&text, &shared.folder).and_then(|script| shared.reach.check(&script).map(|()| script));
            match script {
                Ok(script) => {
                    shared.stage.set(script);
                    Plan::text(200, "from the start")
                }
                Err(error) => {
                    let status = if matches!(error, Error::OutOfReach { .. }) { 403 } else { 400 };
                    let hint = error.hint().map_or_else(String::new, |hint| format!("\nhint: {hint}"));
                    Plan::text(status, format!("{error}{hint}"))
                }
            }
        }
        (path, method) => {
            Plan::text(405, format!("expected GET or DELETE {RECORDED_PATH}, or PUT {SCRIPT_PATH}, got {method} {path}"))
        }
    })
}

/// Answers what could not be read as a request.
fn turn_away(stream: &TcpStream, shared: &Shared, status: u16, problem: &'static str) {
    let sender = Sender { stream, progress: &Progress::default(), stop: &shared.stop };
    let nobody =
        Request { method: String::new(), target: String::new(), headers: Vec::new(), body: Vec::new(), keep_alive: false };
    let plan = Plan { delay: Duration::ZERO, ..Plan::text(status, problem) };
    if sender.send(&plan, &nobody).is_ok() {
        sender.close();
    }
}
