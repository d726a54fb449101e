//! The files of a release as an answer names them, and the places to fetch them from.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::error::Error;
use super::xml::{Node, write_attribute};
use crate::digest::Sha256Digest;
use crate::version::Version;

/// The name of a file, and nothing but a name: it cannot leave a folder or change the URL it is put behind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackageName(String);

impl PackageName {
    /// Longest name, in bytes: what file systems take.
    pub const MAX_BYTES: usize = 255;

    /// Refuses what is empty, too long, or holds `/`, `\`, `..` or a control character.
    pub fn parse(text: &str) -> Result<Self, InvalidPackageName> {
        let is_plain = |c: char| !c.is_control() && c != '/' && c != '\\';
        if !text.is_empty() && text.len() <= Self::MAX_BYTES && text != "." && !text.contains("..") && text.chars().all(is_plain)
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidPackageName { got: super::error::excerpt(text) })
        }
    }

    /// `V.release`, the record of that version.
    pub fn record_of(version: &Version) -> Self {
        Self(format!("{version}.release"))
    }

    /// `V.payload`, the full payload of that version.
    pub fn payload_of(version: &Version) -> Self {
        Self(format!("{version}.payload"))
    }

    /// `FROM-to-V.payload`, the delta between two versions.
    pub fn delta_of(from: &Version, to: &Version) -> Self {
        Self(format!("{from}-to-{to}.payload"))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no [`PackageName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a file name of 1 to 255 bytes without '/', '\\', '..' and control characters, got {got:?}")]
pub struct InvalidPackageName {
    /// What was given, cut short.
    pub got: String,
}

/// A place to fetch packages from: an absolute http or https URL that ends in `/`.
///
/// It may hold credentials, so `Debug` does not show them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Codebase(String);

impl Codebase {
    /// Longest codebase, in bytes: what servers commonly take as a request line, less the name.
    pub const MAX_BYTES: usize = 4096;

    /// Accepts an absolute http or https URL without query or fragment; a missing final `/` is added, as update_engine does.
    pub fn parse(text: &str) -> Result<Self, InvalidCodebase> {
        let invalid = |problem| InvalidCodebase { problem, got: super::error::excerpt(&redacted(text)) };
        let rest = strip_scheme(text).ok_or_else(|| invalid("an absolute http or https URL"))?;
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        if host.is_empty() || host.starts_with(':') {
            return Err(invalid("a URL with a host"));
        }
        if text.contains(['?', '#']) {
            return Err(invalid("a URL without query and fragment"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains(['"', '<', '>', '\\', '^', '`', '{', '|', '}']) {
            return Err(invalid("a URL of the characters URLs are made of"));
        }
        if text.len() >= Self::MAX_BYTES {
            return Err(invalid("a URL of less than 4096 bytes"));
        }
        Ok(Self(if text.ends_with('/') { text.to_owned() } else { format!("{text}/") }))
    }

    /// The URL of a package here. The name is percent-encoded where a URL demands it.
    ///
    /// ```
    /// use manifests::omaha::{Codebase, PackageName};
    /// let base = Codebase::parse("https://updates.example/stable")?;
    /// let name = PackageName::parse("1.0.0+7 a?.payload")?;
    /// assert_eq!(base.url_of(&name), "https://updates.example/stable/1.0.0+7%20a%3F.payload");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn url_of(&self, name: &PackageName) -> String {
        let mut url = self.0.clone();
        for byte in name.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) {
                url.push(char::from(byte));
            } else {
                url.push_str(&format!("%{byte:02X}"));
            }
        }
        url
    }

    /// The URL as it is used, credentials included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URL as it may be shown: credentials are replaced by `***`.
    pub fn redacted(&self) -> String {
        redacted(&self.0)
    }
}

impl fmt::Debug for Codebase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Codebase").field(&self.redacted()).finish()
    }
}

/// A text that is no [`Codebase`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {problem}, got {got:?}")]
pub struct InvalidCodebase {
    /// What was expected.
    pub problem: &'static str,
    /// What was given, cut short and without credentials.
    pub got: String,
}

/// What stands behind `http://` or `https://`.
fn strip_scheme(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")).then_some(rest)
}

/// A URL with `***` in place of user and password.
fn redacted(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{path}"),
        None => url.to_owned(),
    }
}

/// A file of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name, to be resolved against every codebase in order.
    pub name: PackageName,
    /// Its size; never 0.
    pub size_bytes: u64,
    /// `hash`: base64 of its SHA-1. One that cannot be read counts as not given, as nothing rests on it.
    pub sha1: Option<[u8; 20]>,
    /// `hash_sha256`: hex. One that cannot be read counts as not given, as nothing rests on it.
    pub sha256: Option<Sha256Digest>,
    /// Whether a host needs it to update.
    pub required: bool,
    /// Ours (`ota_kind`): what it is.
    pub kind: PackageKind,
}

/// What a package is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackageKind {
    /// Nothing said: a payload, a record, or something for others.
    Plain,
    /// The difference from an older version.
    Delta,
}

impl Package {
    pub(super) fn read(node: Node<'_>) -> Result<Self, Error> {
        let name = PackageName::parse(node.required("name")?)
            .map_err(|_| node.bad_value("name", "a plain file name of at most 255 bytes"))?;
        let size_bytes = node.required("size")?.parse().ok().filter(|&size| size > 0);
        Ok(Self {
            name,
            size_bytes: size_bytes.ok_or_else(|| node.bad_value("size", "a number of bytes above 0"))?,
            sha1: BASE64_STANDARD.decode(node.text("hash")).ok().and_then(|bytes| bytes.try_into().ok()),
            sha256: Sha256Digest::from_hex(node.text("hash_sha256")),
            required: node.text("required") == "true",
            kind: if node.text("ota_kind") == "delta" { PackageKind::Delta } else { PackageKind::Plain },
        })
    }

    pub(super) fn write(&self, out: &mut String) {
        out.push_str("<package");
        write_attribute(out, "name", self.name.as_str());
        if let Some(sha1) = self.sha1 {
            write_attribute(out, "hash", &BASE64_STANDARD.encode(sha1));
        }
        if let Some(sha256) = self.sha256 {
            write_attribute(out, "hash_sha256", &sha256.to_string());
        }
        write_attribute(out, "size", &self.size_bytes.to_string());
        write_attribute(out, "required", if self.required { "true" } else { "false" });
        if self.kind == PackageKind::Delta {
            write_attribute(out, "ota_kind", "delta");
        }
        out.push_str("></package>");
    }
}
