//! The asking side of the control socket, typed.
//!
//! ```no_run
//! # async fn example() -> Result<(), update_engine::control::client::ClientError> {
//! use update_engine::control::client::Client;
//!
//! let client = Client::new("/run/update-engine/control.sock")?;
//! println!("{}", client.status().await?.summary);
//! # Ok(())
//! # }
//! ```

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::engine::command::{Accepted, Command, Rejected, Rejection};
use crate::status::json::{EventLine, HistoryEntry, Slot, Status, WhyEntry};

/// Longest document read: a history of ten thousand attempts is below it.
const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;
/// Longest line of the event stream.
const MAX_LINE_BYTES: usize = 256 * 1024;
/// Time a request has, a little more than the daemon gives itself.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);
/// A quiet event stream says something more often than this.
const QUIET_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no answer, or not the one asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("cannot reach update-engined on {}: {why}", socket.display())]
    NotReachable {
        /// The socket.
        socket: PathBuf,
        /// What the system answered.
        why: String,
    },
    /// The daemon understood, and said no.
    #[error("{rejected}")]
    Rejected {
        /// What it said.
        #[source]
        rejected: Rejected,
    },
    /// The daemon said no before anybody looked at the command.
    #[error("update-engined refused the request ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stable word.
        code: Rejection,
        /// Sentence.
        message: String,
    },
    /// What came is not what the daemon would send.
    #[error("the answer to {asked} on {} is not what update-engined would say: {why}", socket.display())]
    Unexpected {
        /// The socket.
        socket: PathBuf,
        /// Method and path.
        asked: String,
        /// What is wrong with it.
        why: String,
    },
    /// The connection ended before the answer did.
    #[error("update-engined on {} went away in the middle of its answer", socket.display())]
    WentAway {
        /// The socket.
        socket: PathBuf,
    },
}

/// A caller of one daemon.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    socket: PathBuf,
}

/// The event stream of a daemon, from the moment it was asked for.
#[derive(Debug)]
pub struct Events {
    response: Response,
    socket: PathBuf,
    buffer: Vec<u8>,
}

impl Client {
    /// A caller of the daemon on this socket. Asks nothing yet.
    pub fn new(socket: impl Into<PathBuf>) -> Result<Self, ClientError> {
        let socket = socket.into();
        // The HTTP client wants to know a TLS library even where it will never use it; a second installation changes nothing.
        let _first_or_not = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .unix_socket(socket.as_path())
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| ClientError::NotReachable { socket: socket.clone(), why: deepest(&error) })?;
        Ok(Self { http, socket })
    }

    /// The socket this asks.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.document("/v1/status").await
    }

    /// `GET /v1/history`.
    pub async fn history(&self) -> Result<Vec<HistoryEntry>, ClientError> {
        self.document("/v1/history").await
    }

    /// `GET /v1/why`.
    pub async fn why(&self) -> Result<Vec<WhyEntry>, ClientError> {
        self.document("/v1/why").await
    }

    /// `GET /v1/slots`.
    pub async fn slots(&self) -> Result<Vec<Slot>, ClientError> {
        self.document("/v1/slots").await
    }

    /// A document as it is, with whatever keys this version does not know.
    pub async fn raw(&self, path: &str) -> Result<Value, ClientError> {
        self.document(path).await
    }

    /// `GET /v1/config`: TOML.
    pub async fn config(&self) -> Result<String, ClientError> {
        let path = "/v1/config";
        let bytes = self.bytes(self.ask(Method::GET, path, None).await?, path).await?;
        String::from_utf8(bytes).map_err(|_| self.unexpected(path, "it is no text"))
    }

    /// `GET /v1/events`: everything from now on.
    pub async fn events(&self) -> Result<Events, ClientError> {
        let response = self.ask(Method::GET, "/v1/events", None).await?;
        Ok(Events { response, socket: self.socket.clone(), buffer: Vec::new() })
    }

    /// `POST /v1/VERB`.
    pub async fn act(&self, command: &Command) -> Result<Accepted, ClientError> {
        let mut fields = serde_json::to_value(command).map_err(|error| self.unexpected("a command", &error.to_string()))?;
        let verb = fields.as_object_mut().and_then(|fields| fields.remove("command"));
        let path = format!("/v1/{}", verb.as_ref().and_then(Value::as_str).unwrap_or_default());
        let response = self.ask(Method::POST, &path, Some(fields)).await?;
        self.parse(response, &path).await
    }

    async fn document<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self.ask(Method::GET, path, None).await?;
        self.parse(response, path).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Response, ClientError> {
        let mut request = self.http.request(method, format!("http://localhost{path}"));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = match tokio::time::timeout(REQUEST_TIMEOUT, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_connect() => return Err(self.not_reachable(&error)),
            Ok(Err(_)) => return Err(ClientError::WentAway { socket: self.socket.clone() }),
            Err(_) => {
                let why = format!("no answer within {} s", REQUEST_TIMEOUT.as_secs());
                return Err(ClientError::NotReachable { socket: self.socket.clone(), why });
            }
        };
        match response.status() {
            StatusCode::OK | StatusCode::ACCEPTED => Ok(response),
            status => Err(self.refusal(status, response, path).await),
        }
    }

    async fn refusal(&self, status: StatusCode, response: Response, path: &str) -> ClientError {
        match self.parse::<Rejected>(response, path).await {
            Ok(rejected) if status == StatusCode::CONFLICT => ClientError::Rejected { rejected },
            Ok(Rejected { code, message }) => ClientError::Refused { status: status.as_u16(), code, message },
            Err(error) => error,
        }
    }

    async fn parse<T: DeserializeOwned>(&self, response: Response, path: &str) -> Result<T, ClientError> {
        let bytes = self.bytes(response, path).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.unexpected(path, &error.to_string()))
    }

    async fn bytes(&self, mut response: Response, path: &str) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        let read = async {
            while let Some(chunk) = response.chunk().await.map_err(|_| self.went_away())? {
                if bytes.len() + chunk.len() > MAX_DOCUMENT_BYTES {
                    return Err(self.unexpected(path, &format!("it is longer than {MAX_DOCUMENT_BYTES} bytes")));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(())
        };
        tokio::time::timeout(REQUEST_TIMEOUT, read).await.map_err(|_| self.went_away())??;
        Ok(bytes)
    }

    fn went_away(&self) -> ClientError {
        ClientError::WentAway { socket: self.socket.clone() }
    }

    fn unexpected(&self, asked: &str, why: &str) -> ClientError {
        ClientError::Unexpected { socket: self.socket.clone(), asked: asked.to_owned(), why: why.to_owned() }
    }

    fn not_reachable(&self, error: &reqwest::Error) -> ClientError {
        ClientError::NotReachable { socket: self.socket.clone(), why: deepest(error) }
    }
}

impl Events {
    /// The next event; `None` once the daemon has ended the stream.
    pub async fn next(&mut self) -> Result<Option<EventLine>, ClientError> {
        loop {
            if let Some(line) = self.take_line() {
                if let Some(data) = line.strip_prefix(b"data:") {
                    return self.parse(data).map(Some);
                }
                continue;
            }
            let went_away = || ClientError::WentAway { socket: self.socket.clone() };
            let read = tokio::time::timeout(QUIET_TIMEOUT, self.response.chunk()).await.map_err(|_| went_away())?;
            match read {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) => return Ok(None),
                Err(_) => return Err(went_away()),
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(self.unexpected("an event is too long"));
            }
        }
    }

    /// The daemon writes each event's data on one line, so a line is an event, a name or a comment.
    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.buffer.iter().position(|&byte| byte == b'\n')?;
        let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    fn parse(&self, data: &[u8]) -> Result<EventLine, ClientError> {
        serde_json::from_slice(data).map_err(|error| self.unexpected(&error.to_string()))
    }

    fn unexpected(&self, why: &str) -> ClientError {
        ClientError::Unexpected { socket: self.socket.clone(), asked: "/v1/events".to_owned(), why: why.to_owned() }
    }
}

/// The system's own words at the bottom of a chain of errors.
fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::NotFound) => "there is no such socket".to_owned(),
        Some(io::ErrorKind::ConnectionRefused) => "nobody listens there".to_owned(),
        Some(io::ErrorKind::PermissionDenied) => "permission denied".to_owned(),
        _ => cause.to_string(),
    }
}
