//! What a server answers: written whole for every application, read for one.

use jiff::Timestamp;

use super::error::{Error, excerpt};
use super::event::{ActionCode, ErrorCode};
use super::update::Update;
use super::xml::{DECLARATION, Document, Kind, Node, write_attribute};
use super::{MAX_RESPONSE_BYTES, PROTOCOL, displayable, same_id};

/// The status of everything that went well.
pub const STATUS_OK: &str = "ok";
const STATUS_NO_UPDATE: &str = "noupdate";

const KIND: Kind = Kind { root: "response", max_bytes: MAX_RESPONSE_BYTES };

/// A server's answer to one update check.
///
/// Read with update_engine's rules, and stricter where a host could not act on what it read: the version must be a label, a
/// package name a plain file name, a codebase an absolute http(s) URL, and the answer must be for the application that asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateAnswer {
    /// `PollInterval`: when the server wants to be asked again, in seconds; absent, 0 and unreadable are one. It counts with every verdict.
    pub poll_interval_s: Option<u32>,
    /// The answer itself.
    pub verdict: Verdict,
}

/// What the server says to an update check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to install; with a reason if it is only for now.
    NoUpdate {
        /// Why an update that exists is held back.
        hold: Option<Hold>,
    },
    /// An update to install.
    Update(Update),
    /// The server answered with a status of failure; update_engine reports it as code 34.
    ServerError(ServerError),
}

/// Why an update is held back; rides on `noupdate`, so that other clients see no error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hold {
    /// Ours (`ota_hold`): the rule that holds, a word for programs.
    pub kind: Option<String>,
    /// Ours (`ota_reason`), else Google's `info`: why, for people. Written with at most [`super::MAX_TEXT_CHARS`] characters.
    pub reason: Option<String>,
    /// Ours (`ota_until`): when it is expected to end.
    pub until: Option<Timestamp>,
}

/// A status that is neither `ok` nor `noupdate`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected status \"ok\" or \"noupdate\", got {}", self.words())]
pub struct ServerError {
    /// The `updatecheck` status, if there is an `updatecheck`.
    pub status: Option<String>,
    /// The `app` status, which some servers use for the true reason. For writing, [`AppAnswer::status`] says it.
    pub app_status: Option<String>,
    /// Google's `info`: why, for people.
    pub info: Option<String>,
}

impl UpdateAnswer {
    /// "Nothing to install."
    pub const fn no_update() -> Self {
        Self { poll_interval_s: None, verdict: Verdict::NoUpdate { hold: None } }
    }

    /// Reads the answer for `app_id` out of an answer of at most [`MAX_RESPONSE_BYTES`].
    ///
    /// Ids are compared without braces and without regard to case. An answer without an `<app>` of that id is refused, even
    /// if it has only one: it was made for somebody else.
    pub fn read(body: &[u8], app_id: &str) -> Result<Self, Error> {
        let document = read_document(body)?;
        let app = find_app(&document, app_id)?;
        let Some(check) = app.child("updatecheck") else {
            return match failing_status(app) {
                Some(app_status) => {
                    Ok(Self::refused(None, ServerError { status: None, app_status: Some(app_status), info: None }))
                }
                None => Err(Error::MissingElement { place: app.place(), name: "updatecheck" }),
            };
        };
        let poll_interval_s = check.text("PollInterval").parse().ok().filter(|&seconds| seconds > 0);
        match check.required("status")? {
            STATUS_NO_UPDATE => Ok(Self { poll_interval_s, verdict: Verdict::NoUpdate { hold: Hold::read(check) } }),
            STATUS_OK => Ok(Self { poll_interval_s, verdict: Verdict::Update(Update::read(check)?) }),
            status => Ok(Self::refused(
                poll_interval_s,
                ServerError {
                    status: Some(displayable(status)),
                    app_status: failing_status(app),
                    info: check.non_empty("info").map(displayable),
                },
            )),
        }
    }

    fn refused(poll_interval_s: Option<u32>, error: ServerError) -> Self {
        Self { poll_interval_s, verdict: Verdict::ServerError(error) }
    }

    fn write(&self, out: &mut String) {
        let status = match &self.verdict {
            Verdict::NoUpdate { .. } => STATUS_NO_UPDATE,
            Verdict::Update(_) => STATUS_OK,
            Verdict::ServerError(ServerError { status: Some(status), .. }) => status,
            Verdict::ServerError(_) => return,
        };
        out.push_str("<updatecheck");
        write_attribute(out, "status", status);
        if let Some(seconds) = self.poll_interval_s {
            write_attribute(out, "PollInterval", &seconds.to_string());
        }
        match &self.verdict {
            Verdict::NoUpdate { hold: Some(hold) } => hold.write(out),
            Verdict::ServerError(ServerError { info: Some(info), .. }) => write_attribute(out, "info", &displayable(info)),
            _ => {}
        }
        out.push('>');
        if let Verdict::Update(update) = &self.verdict {
            update.write(out);
        }
        out.push_str("</updatecheck>");
    }
}

impl Hold {
    fn read(check: Node<'_>) -> Option<Self> {
        let text = |name| check.non_empty(name).map(displayable);
        let until = check.non_empty("ota_until").and_then(|text| text.parse().ok());
        let hold = Self { kind: text("ota_hold"), reason: text("ota_reason").or_else(|| text("info")), until };
        (hold != Self::default()).then_some(hold)
    }

    fn write(&self, out: &mut String) {
        if let Some(kind) = &self.kind {
            write_attribute(out, "ota_hold", &displayable(kind));
        }
        if let Some(until) = self.until {
            write_attribute(out, "ota_until", &until.to_string());
        }
        if let Some(reason) = &self.reason {
            write_attribute(out, "ota_reason", &displayable(reason));
        }
    }
}

impl ServerError {
    /// The code update_engine reports for it.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::from(ActionCode::OmahaResponseInvalid)
    }

    /// What is known to be meant, for people: servers of the dialect send a hold as an error and put the reason in the app's status.
    pub fn explanation(&self) -> Option<&'static str> {
        [&self.app_status, &self.status].into_iter().flatten().find_map(|status| {
            Some(match status.as_str() {
                "error-unknownApplication" | "error-unknownApplicationOrGroup" => {
                    "the server does not know this application or channel"
                }
                "error-invalidAppId" => "the server does not take this application id",
                "error-invalidVersion" => "the server cannot read the version that runs here",
                "error-noPackageFound" => "the channel has no release",
                "error-instanceRegistrationFailed" => "the server could not register this host",
                "error-maxUpdatesPerPeriodLimitReached" => "the group's limit of updates in a period is reached",
                "error-maxConcurrentUpdatesLimitReached" => "the group's limit of updates at a time is reached",
                "error-maxTimedOutUpdatesLimitReached" => "too many hosts of the group did not finish their update",
                "error-updatesDisabled" => "updates are switched off for this group",
                "error-updateInProgressOnInstance" => "the server believes that this host is updating already",
                "error-couldNotCheckUpdatesStats" | "error-failedToRetrieveUpdatePackageInfo" => {
                    "the server could not look up the update"
                }
                "error-hwnotsupported" => "the release does not support this hardware",
                "error-osnotsupported" => "the release does not support this system",
                "restricted" => "the server does not serve this application here",
                _ => return None,
            })
        })
    }

    fn words(&self) -> String {
        let mut words = match &self.status {
            Some(status) => format!("{status:?}"),
            None => "no updatecheck".to_owned(),
        };
        if let Some(app_status) = &self.app_status {
            words.push_str(&format!(" with app status {app_status:?}"));
        }
        if let Some(text) = self.info.as_deref().or_else(|| self.explanation()) {
            words.push_str(&format!(" ({text})"));
        }
        words
    }
}

/// A server's answer to events or a ping.
///
/// update_engine takes any answer for success. A host that must not lose a report needs to know that an Omaha server, not a
/// proxy's error page, has seen it: then this can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The `app` status; `ok` if the server gives none.
    pub app_status: String,
    /// The status of each event, in order. Some servers acknowledge none.
    pub events: Vec<String>,
}

impl Acknowledgement {
    /// Reads the acknowledgement for `app_id`, which is found as [`UpdateAnswer::read`] finds it.
    pub fn read(body: &[u8], app_id: &str) -> Result<Self, Error> {
        let document = read_document(body)?;
        let app = find_app(&document, app_id)?;
        Ok(Self {
            app_status: displayable(app.non_empty("status").unwrap_or(STATUS_OK)),
            events: app.children("event").map(|event| displayable(event.text("status"))).collect(),
        })
    }

    /// Whether the server complains of nothing.
    pub fn is_accepted(&self) -> bool {
        self.app_status == STATUS_OK && self.events.iter().all(|status| status == STATUS_OK)
    }
}

/// An answer to write: one entry for every application of the request, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The server's name.
    pub server: String,
    /// The answers.
    pub apps: Vec<AppAnswer>,
}

/// The answer for one application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppAnswer {
    /// The application's id exactly as the request has it.
    pub app_id: String,
    /// The status of the application: [`STATUS_OK`], or why it cannot be served.
    pub status: String,
    /// Whether a ping is acknowledged.
    pub ping: bool,
    /// The answer to its update check, if it made one.
    pub update_check: Option<UpdateAnswer>,
    /// How many events are acknowledged.
    pub events: usize,
}

impl Response {
    /// The answer as servers of the dialect send it.
    pub fn write(&self) -> String {
        let mut out = DECLARATION.to_owned();
        out.push_str("<response");
        write_attribute(&mut out, "protocol", PROTOCOL);
        write_attribute(&mut out, "server", &self.server);
        out.push_str("><daystart elapsed_seconds=\"0\"></daystart>");
        for app in &self.apps {
            app.write(&mut out);
        }
        out.push_str("</response>");
        out
    }
}

impl AppAnswer {
    fn write(&self, out: &mut String) {
        out.push_str("<app");
        write_attribute(out, "appid", &self.app_id);
        write_attribute(out, "status", &self.status);
        out.push('>');
        if self.ping {
            out.push_str("<ping status=\"ok\"></ping>");
        }
        if let Some(answer) = &self.update_check {
            answer.write(out);
        }
        for _ in 0..self.events {
            out.push_str("<event status=\"ok\"></event>");
        }
        out.push_str("</app>");
    }
}

/// The document, if it is an answer in a protocol of this kind. Servers may leave the protocol out; update_engine never looks.
fn read_document(body: &[u8]) -> Result<Document, Error> {
    let document = Document::read(body, KIND)?;
    match document.root().non_empty("protocol") {
        Some(protocol) if !protocol.starts_with("3.") => Err(Error::WrongProtocol { expected: PROTOCOL, got: excerpt(protocol) }),
        _ => Ok(document),
    }
}

fn find_app<'d>(document: &'d Document, app_id: &str) -> Result<Node<'d>, Error> {
    const MOST_NAMED: usize = 8;
    let apps = || document.root().children("app");
    apps().find(|app| same_id(app.text("appid"), app_id)).ok_or_else(|| Error::NoSuchApp {
        wanted: excerpt(app_id),
        got: apps().take(MOST_NAMED).map(|app| excerpt(app.text("appid"))).collect(),
    })
}

/// The app's status unless it is `ok` or absent.
fn failing_status(app: Node<'_>) -> Option<String> {
    app.non_empty("status").filter(|&status| status != STATUS_OK).map(displayable)
}
