//! URLs whose credentials are never shown.

use std::fmt;

use reqwest::Url;

/// Longest URL accepted.
const MAX_URL_CHARS: usize = 2048;

/// An `http` or `https` URL with a host. `Display` and `Debug` show it without user, password and query.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl(Url);

impl HttpUrl {
    /// Reads a URL; the error says what was expected, and shows no credentials.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected a URL that starts with http:// or https:// and names a host";
        if text.chars().count() > MAX_URL_CHARS {
            return Err(format!("expected a URL of at most {MAX_URL_CHARS} characters, got more"));
        }
        let refused = || format!("{EXPECTED}, got \"{}\"", hide_credentials(text).escape_debug());
        // The parser drops blanks and line breaks silently; a URL that has some was pasted wrong.
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(refused());
        }
        let url = Url::parse(text).map_err(|_| refused())?;
        let fits = matches!(url.scheme(), "http" | "https") && url.has_host() && url.fragment().is_none();
        if fits { Ok(Self(url)) } else { Err(refused()) }
    }

    /// The URL with everything in it, for the client that asks it.
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By its structure, not by looking for where it ends: a password may hold any character that ends a URL in a text.
        let (scheme, rest) = self.0.as_str().split_once("://").unwrap_or(("", self.0.as_str()));
        let mut shown = String::new();
        push_hidden(&mut shown, rest);
        write!(f, "{scheme}://{shown}")
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpUrl({self})")
    }
}

/// `text` with user, password and query of every URL in it replaced by `***`.
///
/// ```
/// use update_engine::config::hide_credentials;
/// assert_eq!(hide_credentials("GET http://me:pw@host/x?token=1 failed"), "GET http://***@host/x?*** failed");
/// ```
pub fn hide_credentials(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, url) = rest.split_at(start + 3);
        shown.push_str(before);
        let end = url.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`')).unwrap_or(url.len());
        push_hidden(&mut shown, &url[..end]);
        rest = &url[end..];
    }
    shown.push_str(rest);
    shown
}

/// One URL past its `://`.
fn push_hidden(shown: &mut String, url: &str) {
    let authority_end = url.find(['/', '?', '#']).unwrap_or(url.len());
    let (authority, tail) = url.split_at(authority_end);
    // A password with an unescaped slash ends the authority early; what looks like a port then is none.
    let broken_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.bytes().all(|byte| byte.is_ascii_digit()));
    let (authority, tail) = match url.rfind('@') {
        Some(at) if authority.contains('@') => (&authority[authority.rfind('@').unwrap_or(at)..], tail),
        Some(at) if broken_port => (&url[at..], ""),
        _ => (authority, tail),
    };
    if authority.starts_with('@') {
        shown.push_str("***");
    }
    shown.push_str(authority);
    match tail.find('?') {
        Some(question) => {
            shown.push_str(&tail[..question]);
            shown.push_str("?***");
        }
        None => shown.push_str(tail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_display_nor_debug_shows_credentials() {
        let url = HttpUrl::parse("https://me:secret@updates.example:8443/v1/update/?token=secret").unwrap();
        assert_eq!(url.to_string(), "https://***@updates.example:8443/v1/update/?***");
        assert_eq!(format!("{url:?}"), "HttpUrl(https://***@updates.example:8443/v1/update/?***)");
        assert_eq!(url.expose().password(), Some("secret"));
    }

    #[test]
    fn a_password_that_holds_a_quote_is_hidden_whole() {
        for text in ["http://u:p'secret@h/", "http://u'ser:secret@h/x?t=secret", "https://u:`secret@h:1/"] {
            let url = HttpUrl::parse(text).unwrap();
            assert!(!url.to_string().contains("secret") && url.to_string().contains("***@h"), "{url}");
        }
    }

    #[test]
    fn an_error_about_a_url_shows_no_credentials() {
        let error = HttpUrl::parse("ftp://me:secret@host/").unwrap_err();
        assert!(error.contains("ftp://***@host/") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_password_with_an_at_sign_is_hidden_whole() {
        assert_eq!(hide_credentials("http://u:p@ss@h/"), "http://***@h/");
        assert_eq!(hide_credentials("http://u:p/ss@h"), "http://***@h");
    }

    #[test]
    fn what_is_no_web_address_is_refused() {
        for text in ["", "updates.example", "file:///etc/passwd", "https://", "http://h/#part", "http://h/ x", "http:/\n/h"] {
            assert!(HttpUrl::parse(text).is_err(), "{text:?}");
        }
    }
}
