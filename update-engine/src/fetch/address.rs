//! URLs as the fetcher takes them: http or https, capped, and never shown with what may be a secret.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use manifests::omaha::{Codebase, PackageName};
use reqwest::Url;

use super::error::{Fault, FetchError};
use super::file::LocalFile;
use super::limits::MAX_URL_BYTES;

/// An http or https URL.
///
/// Shown without user, password, query and fragment: any of them may be a secret (a signed URL carries it in the query).
///
/// ```
/// use update_engine::fetch::Address;
///
/// let address = Address::parse("https://user:secret@cdn.example/1.1.0.payload?signature=abc")?;
/// assert_eq!(address.to_string(), "https://***@cdn.example/1.1.0.payload?…");
/// # Ok::<(), update_engine::fetch::FetchError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// Reads an absolute URL.
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        let refused = |why: String| FetchError::Address { got: shown_text(text), why };
        if text.len() > MAX_URL_BYTES {
            return Err(refused(format!("it is {} bytes long, expected at most {MAX_URL_BYTES}", text.len())));
        }
        let url = Url::parse(text).map_err(|error| refused(error.to_string()))?;
        Self::from_url(url).map_err(refused)
    }

    fn from_url(url: Url) -> Result<Self, String> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("the scheme is {:?}, expected http or https", url.scheme()));
        }
        if url.as_str().len() > MAX_URL_BYTES {
            return Err(format!("it is longer than {MAX_URL_BYTES} bytes"));
        }
        Ok(Self(url))
    }

    /// Where a redirect leads: same scheme only, and never with credentials of the server's choosing.
    pub(super) fn redirected(&self, location: &str) -> Result<Self, Fault> {
        let refused = |why: String| Fault::Redirect { why };
        let mut url = self.0.join(location).map_err(|error| refused(format!("to {:?}: {error}", shown_text(location))))?;
        if url.scheme() != self.0.scheme() {
            let why = format!("from {} to {}: a redirect must keep the scheme", self.0.scheme(), url.scheme());
            return Err(refused(why));
        }
        // Neither fails on a URL with a host, and http and https have one.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_fragment(None);
        Self::from_url(url).map_err(refused)
    }

    /// The URL to ask now, on the way that began at `origin`: the credentials of `origin` go to its own host only.
    pub(super) fn to_request(&self, origin: &Self) -> Url {
        let mut url = self.0.clone();
        if url.origin() == origin.0.origin() {
            let _ = url.set_username(origin.0.username());
            let _ = url.set_password(origin.0.password());
        }
        url.set_fragment(None);
        url
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = &self.0;
        let user = if url.username().is_empty() && url.password().is_none() { "" } else { "***@" };
        write!(f, "{}://{user}{}", url.scheme(), url.host_str().unwrap_or_default())?;
        if let Some(port) = url.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(url.path())?;
        f.write_str(if url.query().is_some() { "?…" } else { "" })
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no URL, short enough for a message and without what stands before an `@` or after a `?`.
fn shown_text(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let text = text.rsplit('@').next().unwrap_or_default();
    text.chars().take(200).flat_map(char::escape_default).collect()
}

/// Where a file may come from.
#[derive(Clone)]
pub enum Source {
    /// A web server.
    Http(Address),
    /// A file of this machine, opened once.
    File(Arc<LocalFile>),
}

impl Source {
    /// An http or https URL, or an absolute path, whose file is opened here and only here.
    pub fn open(text: &str) -> Result<Self, FetchError> {
        if text.starts_with('/') {
            let path = PathBuf::from(text);
            let shown = path.display().to_string();
            let file = LocalFile::open(path).map_err(|fault| FetchError::At { place: shown, fault })?;
            return Ok(Self::File(Arc::new(file)));
        }
        Address::parse(text).map(Self::Http)
    }

    /// A package under every codebase of an Omaha answer, in their order; one that makes no usable URL is passed over, and none left
    /// is an error.
    pub fn of_package(codebases: &[Codebase], name: &PackageName) -> Result<Vec<Self>, FetchError> {
        let mut last = FetchError::NoSource;
        let mut found = Vec::new();
        for codebase in codebases {
            match Address::parse(&codebase.url_of(name)) {
                Ok(address) => found.push(Self::Http(address)),
                Err(error) => last = error,
            }
        }
        if found.is_empty() { Err(last) } else { Ok(found) }
    }
}

impl From<Address> for Source {
    fn from(address: Address) -> Self {
        Self::Http(address)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) => fmt::Display::fmt(address, f),
            Self::File(file) => fmt::Display::fmt(&file.path().display(), f),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn design_11_16_nothing_that_may_be_a_secret_is_shown() {
        let shown = format!("{0} {0:?}", address("https://user:pass@host:8443/a/b?token=abc#frag"));
        assert_eq!(shown, "https://***@host:8443/a/b?… https://***@host:8443/a/b?…");
        for bad in ["ftp://user:pass@host/", "https//user:pass@host/?token=abc", "http://user:pass@ho st/"] {
            let message = Address::parse(bad).unwrap_err().to_string();
            assert!(!message.contains("pass") && !message.contains("token"), "{message}");
        }
    }

    #[test]
    fn only_http_urls_of_a_sane_length_are_addresses() {
        for bad in ["", "host/path", "file:///etc/passwd", "data:,x", "unix:/run/x", "/etc/passwd", "http://"] {
            assert_eq!(Address::parse(bad).unwrap_err().code(), "bad-url", "{bad:?}");
        }
        let long = format!("http://host/{}", "x".repeat(MAX_URL_BYTES));
        assert_eq!(Address::parse(&long).unwrap_err().code(), "bad-url");
    }

    #[test]
    fn every_codebase_gives_a_source_in_order() {
        let codebases = ["http://a/x", "http://b:99999/", "http://b/"].map(|text| Codebase::parse(text).unwrap());
        let name = PackageName::parse("1.0.0+7.payload").unwrap();
        let found = Source::of_package(&codebases, &name).unwrap();
        let shown: Vec<_> = found.iter().map(Source::to_string).collect();
        assert_eq!(shown, ["http://a/x/1.0.0+7.payload", "http://b/1.0.0+7.payload"], "port 99999 makes no URL");
        assert_eq!(Source::of_package(&codebases[1..2], &name).unwrap_err().code(), "bad-url");
        assert_eq!(Source::of_package(&[], &name).unwrap_err().code(), "no-source");
    }

    #[test]
    fn a_redirect_keeps_the_scheme_and_carries_credentials_home_only() {
        let origin = address("http://user:pass@first/a");
        let next = |from: &Address, to: &str| from.redirected(to).map(|address| address.to_request(&origin).to_string());
        assert_eq!(next(&origin, "/b").unwrap(), "http://user:pass@first/b");
        assert_eq!(next(&origin, "http://second/b").unwrap(), "http://second/b");
        assert_eq!(next(&origin, "http://evil:creds@second/b").unwrap(), "http://second/b");
        assert_eq!(next(&origin, "http://first:8080/b").unwrap(), "http://first:8080/b");
        assert_eq!(next(&address("http://second/b"), "http://first/c").unwrap(), "http://user:pass@first/c");
        for bad in ["https://first/b", "ftp://first/b", "file:///etc/passwd", "http://"] {
            assert_eq!(origin.redirected(bad).unwrap_err().code(), "redirect", "{bad}");
        }
        assert_eq!(address("https://first/a").redirected("http://first/a").unwrap_err().code(), "redirect");
    }
}
