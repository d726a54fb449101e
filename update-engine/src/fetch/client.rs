//! One HTTP client for everything the daemon fetches, and the ways it asks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Certificate, Client, ClientBuilder, Method, Response, StatusCode};

use super::address::{Address, Source};
use super::error::{Fault, FetchError};
use super::limits::{MAX_HEADERS, MAX_OMAHA_BYTES, MAX_REDIRECTS, Patience};
use super::pace::Pace;
use super::range::{check_identity, content_length};
use super::rate::Rate;
use super::retry_after::wait_asked_for;
use super::timing::{SystemTiming, Timing};

/// Longest file of extra trust anchors: a bundle of every public authority is 250 KiB.
const MAX_CA_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// How a [`Fetcher`] is made.
#[derive(Clone)]
pub struct Options {
    /// PEM file of trust anchors beside the system's.
    pub ca_file: Option<PathBuf>,
    /// How long it waits for what.
    pub patience: Patience,
    /// Where waiting and jitter come from.
    pub timing: Arc<dyn Timing>,
}

impl Default for Options {
    fn default() -> Self {
        Self { ca_file: None, patience: Patience::default(), timing: Arc::new(SystemTiming) }
    }
}

/// The daemon's HTTP client. Cheap to clone; all clones share connections.
#[derive(Clone)]
pub struct Fetcher {
    client: Client,
    patience: Patience,
    timing: Arc<dyn Timing>,
    rate: Rate,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// What an update server said, with a status of success.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Its status, 200 to 299.
    pub status: u16,
    /// Its body, at most [`MAX_OMAHA_BYTES`].
    pub bytes: Vec<u8>,
    /// When it wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl Fetcher {
    /// Sets the client up. The proxy variables of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`) are read
    /// here, once.
    pub fn new(options: Options) -> Result<Self, FetchError> {
        // An error means that a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let extra = options.ca_file.map(read_anchors).transpose()?.unwrap_or_default();
        let system = builder(&options.patience).tls_certs_merge(extra.iter().cloned()).build();
        // A machine without a store of authorities may still use http, or https with `ca_file` alone.
        let client = system.or_else(|_no_store| builder(&options.patience).tls_certs_only(extra).build());
        let client = client.map_err(|error| FetchError::Setup { why: error.without_url().to_string() })?;
        Ok(Self { client, patience: options.patience, timing: options.timing, rate: Rate::default() })
    }

    /// How fast payloads may come. Records and answers are small, and wait for nobody.
    pub const fn rate(&self) -> &Rate {
        &self.rate
    }

    /// Sends a request to an update server. Answers that are no success are errors, which carry the server's wish to be asked
    /// later just as successes do.
    pub async fn post_omaha(&self, url: &Address, body: String, headers: &[(&str, &str)]) -> Result<Answer, FetchError> {
        let at = |fault| FetchError::At { place: url.to_string(), fault };
        let headers = omaha_headers(headers).map_err(|why| FetchError::Setup { why })?;
        let mut reply = self.send(Method::POST, url, headers, Some(body)).await.map_err(at)?;
        if !reply.response.status().is_success() {
            return Err(at(reply.status_fault("200")));
        }
        let bytes = self.read_body(&mut reply.response, MAX_OMAHA_BYTES).await.map_err(at)?;
        Ok(Answer { status: reply.response.status().as_u16(), bytes, retry_after: reply.retry_after })
    }

    /// A whole small file, refused when it is longer than `cap` bytes.
    pub async fn get_capped(&self, source: &Source, cap: u64) -> Result<Vec<u8>, FetchError> {
        let got = match source {
            Source::Http(url) => self.get_http(url, cap).await,
            Source::File(file) if file.size() > cap => Err(Fault::TooLarge { cap }),
            Source::File(file) => {
                let whole = usize::try_from(file.size()).unwrap_or(usize::MAX);
                super::file::read_aside(file, 0, whole, Vec::new()).await
            }
        };
        got.map_err(|fault| FetchError::At { place: source.to_string(), fault })
    }

    async fn get_http(&self, url: &Address, cap: u64) -> Result<Vec<u8>, Fault> {
        let mut reply = self.send(Method::GET, url, HeaderMap::new(), None).await?;
        if reply.response.status() != StatusCode::OK {
            return Err(reply.status_fault("200"));
        }
        self.read_body(&mut reply.response, cap).await
    }

    async fn read_body(&self, response: &mut Response, cap: u64) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        if content_length(response.headers()).is_some_and(|length| length > cap) {
            return Err(Fault::TooLarge { cap });
        }
        let mut pace = Pace::new(&self.patience);
        while let Some(chunk) = pace.chunk(response).await? {
            bytes.extend_from_slice(&chunk);
            if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > cap {
                return Err(Fault::TooLarge { cap });
            }
        }
        Ok(bytes)
    }

    /// One request, redirects followed by our own rules; answers of any status with a body that is not compressed.
    pub(super) async fn send(
        &self,
        method: Method,
        origin: &Address,
        mut headers: HeaderMap,
        body: Option<String>,
    ) -> Result<Reply, Fault> {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut address = origin.clone();
        for _hop in 0..=MAX_REDIRECTS {
            let mut request = self.client.request(method.clone(), address.to_request(origin)).headers(headers.clone());
            if let Some(body) = &body {
                request = request.body(body.clone());
            }
            let response = self.head_of(request).await?;
            match next_hop(&address, &method, &response)? {
                Some(next) => address = next,
                None => {
                    check_identity(response.headers())?;
                    let retry_after = wait_asked_for(response.headers(), self.timing.wall());
                    return Ok(Reply { response, retry_after });
                }
            }
        }
        Err(Fault::Redirect { why: format!("more than {MAX_REDIRECTS} in a row") })
    }

    async fn head_of(&self, request: reqwest::RequestBuilder) -> Result<Response, Fault> {
        let within = self.patience.connect.saturating_add(self.patience.answer);
        match tokio::time::timeout(within, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Fault::of_request(&error, self.patience.connect)),
            Err(_elapsed) => Err(Fault::NoAnswer { within }),
        }
    }

    pub(super) const fn patience(&self) -> &Patience {
        &self.patience
    }

    pub(super) fn timing(&self) -> &dyn Timing {
        &*self.timing
    }
}

/// An answer whose body is still to be read.
pub(super) struct Reply {
    pub(super) response: Response,
    pub(super) retry_after: Option<Duration>,
}

impl Reply {
    pub(super) fn status_fault(&self, expected: &'static str) -> Fault {
        Fault::Status { status: self.response.status().as_u16(), expected, retry_after: self.retry_after }
    }
}

/// Where an answer sends us, or `None` when it is the answer. A POST is repeated as a POST; an answer that would have it become
/// a GET (303) is refused, because an update server does not answer a GET.
fn next_hop(from: &Address, method: &Method, response: &Response) -> Result<Option<Address>, Fault> {
    let status = response.status();
    let followed = matches!(status.as_u16(), 301 | 302 | 307 | 308) || (status == StatusCode::SEE_OTHER && method == Method::GET);
    if !followed {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| Fault::Redirect { why: format!("HTTP status {status} without a Location") })?;
    from.redirected(location).map(Some)
}

fn builder(patience: &Patience) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("update-engine/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .http1_max_headers(MAX_HEADERS)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(patience.connect)
        // An idle daemon holds no connection open, and has no timer for one.
        .pool_idle_timeout(Duration::from_secs(15))
        .pool_max_idle_per_host(1)
}

fn read_anchors(path: PathBuf) -> Result<Vec<Certificate>, FetchError> {
    let refused = |why: String| FetchError::CaFile { path: path.display().to_string(), why };
    let length = std::fs::metadata(&path).map_err(|error| refused(error.to_string()))?.len();
    if length > MAX_CA_FILE_BYTES {
        return Err(refused(format!("it is {length} bytes long, expected at most {MAX_CA_FILE_BYTES}")));
    }
    let pem = std::fs::read(&path).map_err(|error| refused(error.to_string()))?;
    let anchors = Certificate::from_pem_bundle(&pem).map_err(|error| refused(error.to_string()))?;
    if anchors.is_empty() {
        return Err(refused("expected PEM certificates, found none".to_owned()));
    }
    Ok(anchors)
}

fn omaha_headers(pairs: &[(&str, &str)]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/xml; charset=utf-8"));
    for (name, value) in pairs {
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|error| format!("header {name:?}: {error}"))?;
        let value = HeaderValue::from_str(value).map_err(|error| format!("header {name:?}: {error}"))?;
        headers.insert(key, value);
    }
    Ok(headers)
}
