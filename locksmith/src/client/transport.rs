//! One question, one answer, over HTTP; strict and bounded.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, Url, header};

use super::base_url::{BaseUrl, shown};
use super::meaning::RawAnswer;
use super::{Error, SetupError};
use crate::fleetlock::{HEADER, HEADER_VALUE};

/// What a client is told besides whom to ask.
#[derive(Clone)]
pub(super) struct Limits {
    pub(super) connect: Duration,
    pub(super) total: Duration,
}

/// A token and the only place it may be sent to.
#[derive(Clone)]
pub(super) struct BoundToken {
    pub(super) to: BaseUrl,
    pub(super) token: Token,
}

/// A bearer token: 16 to 256 printable ASCII characters. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// Text that cannot be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token is not one: expected 16 to 256 printable ASCII characters without blanks")]
pub struct TokenError;

impl Token {
    /// Reads a token; blanks and line ends around it are dropped, as a file has them.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if (16..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text.to_owned()));
        }
        Err(TokenError)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The HTTP side of a client.
pub(super) struct Transport {
    limits: Limits,
    token: Option<BoundToken>,
    plain: reqwest::Client,
    /// Made when the first `https` URL is asked: reading the system's roots costs memory and needs them to be there.
    secure: OnceLock<Result<reqwest::Client, String>>,
}

impl Transport {
    pub(super) fn new(limits: Limits, token: Option<BoundToken>) -> Result<Self, SetupError> {
        // reqwest is built without a TLS provider of its own. Where the program has chosen one, that one stays.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let plain = builder(&limits).tls_certs_only([]).build().map_err(|error| SetupError(root_cause(&error)))?;
        Ok(Self { limits, token, plain, secure: OnceLock::new() })
    }

    /// Asks, and reads the answer to its end, which must come within `cap` bytes.
    pub(super) async fn ask(
        &self,
        base: &BaseUrl,
        method: Method,
        path: &[&str],
        body: Option<Vec<u8>>,
        cap: usize,
    ) -> Result<RawAnswer, Error> {
        let url = base.join(path);
        let request = self.request(base, method, url.clone(), body)?;
        let response = request.send().await.map_err(|error| self.unreachable(&url, &error))?;
        self.read(&url, response, cap).await
    }

    fn request(&self, base: &BaseUrl, method: Method, url: Url, body: Option<Vec<u8>>) -> Result<RequestBuilder, Error> {
        let mut request = self.client(base, &url)?.request(method, url).header(HEADER, HEADER_VALUE);
        if let Some(BoundToken { token: Token(token), .. }) = self.token.as_ref().filter(|bound| bound.to.same_origin(base)) {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        Ok(request)
    }

    fn client(&self, base: &BaseUrl, url: &Url) -> Result<&reqwest::Client, Error> {
        if !base.is_https() {
            return Ok(&self.plain);
        }
        let make = || builder(&self.limits).build().map_err(|error| root_cause(&error));
        let made = self.secure.get_or_init(make).as_ref();
        made.map_err(|reason| Error::Unreachable { url: shown(url), reason: reason.clone() })
    }

    async fn read(&self, url: &Url, mut response: Response, cap: usize) -> Result<RawAnswer, Error> {
        let status = response.status().as_u16();
        let bad = |why| Error::BadAnswer { url: shown(url), status, why };
        let text = |name| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        let (content_type, location, retry_after) =
            (text(header::CONTENT_TYPE), text(header::LOCATION), text(header::RETRY_AFTER));
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len().saturating_add(chunk.len()) > cap => {
                    return Err(bad(format!("its body is longer than {cap} bytes")));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(RawAnswer { status, content_type, location, retry_after, body }),
                Err(error) if error.is_timeout() => {
                    let seconds = self.limits.total.as_secs_f32();
                    return Err(bad(format!("its body stopped after {} bytes, {seconds} s in all", body.len())));
                }
                Err(error) => {
                    let (bytes, cause) = (body.len(), root_cause(&error));
                    return Err(bad(format!("its body broke off after {bytes} bytes ({cause})")));
                }
            }
        }
    }

    fn unreachable(&self, url: &Url, error: &reqwest::Error) -> Error {
        let reason = if error.is_timeout() && error.is_connect() {
            format!("no connection within {} s", self.limits.connect.as_secs_f32())
        } else if error.is_timeout() {
            format!("no answer within {} s", self.limits.total.as_secs_f32())
        } else {
            root_cause(error)
        };
        Error::Unreachable { url: shown(url), reason }
    }
}

/// No redirects (a login page is not a lock), no proxy (a middle box must not answer for the lock service), no
/// decompression, no retries behind our back, no idle connections.
fn builder(limits: &Limits) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .http1_only()
        .pool_max_idle_per_host(0)
        .connect_timeout(limits.connect)
        .timeout(limits.total)
        .user_agent(concat!("locksmith/", env!("CARGO_PKG_VERSION")))
}

/// The innermost reason: the outer ones repeat the URL, credentials and all.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
