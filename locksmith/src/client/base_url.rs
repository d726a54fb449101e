//! Where a lock service is.

use std::fmt;

use reqwest::Url;
use serde::{Deserialize, Serialize};

/// Longest URL taken, in bytes.
const MAX_URL_BYTES: usize = 1024;

/// The base URL of a lock service: `http` or `https`, with or without a path, with or without a final slash.
///
/// `http://host:8085`, `http://host:8085/` and `https://host/locks` are all good: paths are appended to the whole of it,
/// never put in the place of its last segment. A `user:password@` in it is sent as basic authentication, stored with it
/// (serde), and never shown (`Display`, `Debug`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BaseUrl(Url);

/// Why a URL cannot be a base URL. Never repeats a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("lock service URL {shown}: {what}, expected http://HOST[:PORT]/ or https://HOST[:PORT]/")]
pub struct BaseUrlError {
    shown: String,
    what: String,
}

impl BaseUrl {
    /// Reads a base URL.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        let too_long = |length| refused("(too long to show)", format!("{length} bytes, at most {MAX_URL_BYTES} are taken"));
        if text.len() > MAX_URL_BYTES {
            return Err(too_long(text.len()));
        }
        // Until it is parsed nobody knows which part would be a password, so an unreadable one is not shown.
        let mut url = Url::parse(text).map_err(|error| refused("(unreadable)", error.to_string()))?;
        let shown = shown(&url);
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refused(&shown, format!("scheme \"{}\"", url.scheme())));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refused(&shown, "it has a query or a fragment".to_owned()));
        }
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        // Escaped it is longer, and as it is stored it must be readable again.
        if url.as_str().len() > MAX_URL_BYTES {
            return Err(too_long(url.as_str().len()));
        }
        Ok(Self(url))
    }

    /// Whether it is `https`.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    pub(super) fn has_credentials(&self) -> bool {
        !self.0.username().is_empty() || self.0.password().is_some()
    }

    pub(super) fn same_origin(&self, other: &Self) -> bool {
        self.0.origin() == other.0.origin()
    }

    /// The URL of a path below it. Segments are escaped, so none can leave it.
    pub(super) fn join(&self, path: &[&str]) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

/// A URL as it may be shown.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // An http URL can do without both; where it cannot, there is nothing to hide.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

fn refused(shown: &str, what: String) -> BaseUrlError {
    BaseUrlError { shown: shown.to_owned(), what }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", shown(&self.0))
    }
}

impl TryFrom<String> for BaseUrl {
    type Error = BaseUrlError;
    fn try_from(text: String) -> Result<Self, BaseUrlError> {
        Self::parse(&text)
    }
}

impl From<BaseUrl> for String {
    fn from(url: BaseUrl) -> String {
        url.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_appended_whether_or_not_the_base_ends_in_a_slash() {
        let cases = [
            ("http://h:8085", "http://h:8085/v1/pre-reboot"),
            ("http://h:8085/", "http://h:8085/v1/pre-reboot"),
            ("https://h/locks", "https://h/locks/v1/pre-reboot"),
            ("https://h/locks/", "https://h/locks/v1/pre-reboot"),
            ("http://[::1]:1/a/b", "http://[::1]:1/a/b/v1/pre-reboot"),
        ];
        for (base, expected) in cases {
            let base = BaseUrl::parse(base).unwrap();
            assert_eq!(base.join(&["v1", "pre-reboot"]).as_str(), expected);
        }
    }

    #[test]
    fn a_segment_cannot_leave_the_base() {
        let base = BaseUrl::parse("http://h/locks").unwrap();
        assert_eq!(base.join(&["a/b?c#d"]).as_str(), "http://h/locks/a%2Fb%3Fc%23d");
    }

    #[test]
    fn what_cannot_be_a_base_is_refused() {
        let long = format!("http://h/{}", "x".repeat(2000));
        // Fits as it is written, and not as it is stored: each space takes three bytes then.
        let grows = format!("http://h/{}x", " ".repeat(1000));
        for bad in ["", "h:8085", "ftp://h/", "http://", "http://h/?q=1", "http://h/#f", "unix:///x", &long, &grows] {
            assert!(BaseUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_stored_but_never_shown() {
        let base = BaseUrl::parse("https://ada:hunter2@h/locks").unwrap();
        assert_eq!(base.to_string(), "https://h/locks/");
        assert!(!format!("{base:?}").contains("hunter2"));
        let stored = serde_json::to_string(&base).unwrap();
        assert_eq!(serde_json::from_str::<BaseUrl>(&stored).unwrap(), base);
        for bad in ["ftp://ada:hunter2@h/", "http://ada:hunter2@h/?x", "http://ada:hunter2@:x"] {
            let error = BaseUrl::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
