//! "There is an update": what it is, where its files are, and how update_engine would handle them.

use super::error::{Error, excerpt};
use super::package::{Codebase, Package, PackageName};
use super::xml::{Node, write_attribute};
use super::{MAX_CODEBASES, MAX_PACKAGES};
use crate::digest::Sha256Digest;
use crate::version::Version;

/// A release on offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Where its packages are, to be tried in this order; at least one.
    pub codebases: Vec<Codebase>,
    /// The version on offer.
    pub version: Version,
    /// Its files, the payload first; at least one.
    pub packages: Vec<Package>,
    /// How update_engine would handle the payload.
    pub postinstall: Postinstall,
}

/// The `postinstall` action, which carries what update_engine wants to know of the payload (package 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postinstall {
    /// Base64 of the payload's SHA-256. Kept as text, for it is compared as text and some servers send another text; never empty.
    pub sha256: String,
    /// Whether the payload is a delta of update_engine's own kind.
    pub is_delta_payload: bool,
    /// Whether to try again at once after a failure, instead of after days.
    pub disable_payload_backoff: bool,
    /// Failures of one URL after which the next is tried.
    pub max_failure_count_per_url: u32,
}

impl Postinstall {
    /// What counts when the answer does not say.
    pub const DEFAULT_MAX_FAILURE_COUNT_PER_URL: u32 = 10;

    /// For a full payload with that digest, as the public servers of the dialect send it: without back-off.
    pub fn of(payload: Sha256Digest) -> Self {
        Self {
            sha256: payload.to_base64(),
            is_delta_payload: false,
            disable_payload_backoff: true,
            max_failure_count_per_url: Self::DEFAULT_MAX_FAILURE_COUNT_PER_URL,
        }
    }

    /// The payload's digest, if the text is one.
    pub fn digest(&self) -> Option<Sha256Digest> {
        Sha256Digest::from_base64(&self.sha256)
    }
}

impl Update {
    /// The name of the record of this version, whether or not it is listed: a server that lists none is asked for it all the same.
    pub fn record_name(&self) -> PackageName {
        PackageName::record_of(&self.version)
    }

    /// The package of that name.
    pub fn package(&self, name: &PackageName) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == *name)
    }

    /// The package that leads from `running` to this version, if the server has it.
    pub fn delta_from(&self, running: &Version) -> Option<&Package> {
        self.package(&PackageName::delta_of(running, &self.version))
    }

    /// Reads the children of an `updatecheck` with status `ok`.
    pub(super) fn read(check: Node<'_>) -> Result<Self, Error> {
        let codebases = read_codebases(check)?;
        let manifest = choose_manifest(check)?;
        let version = manifest.required("version")?;
        Ok(Self {
            codebases,
            version: Version::parse(version).map_err(|_| manifest.bad_value("version", "a version label"))?,
            packages: read_packages(manifest)?,
            postinstall: Postinstall::read(manifest)?,
        })
    }

    pub(super) fn write(&self, out: &mut String) {
        out.push_str("<urls>");
        for codebase in &self.codebases {
            out.push_str("<url");
            write_attribute(out, "codebase", codebase.as_str());
            out.push_str("></url>");
        }
        out.push_str("</urls><manifest");
        write_attribute(out, "version", self.version.as_str());
        out.push_str("><packages>");
        for package in &self.packages {
            package.write(out);
        }
        out.push_str("</packages><actions>");
        self.postinstall.write(out);
        out.push_str("</actions></manifest>");
    }
}

impl Postinstall {
    fn read(manifest: Node<'_>) -> Result<Self, Error> {
        let actions = manifest.required_child("actions")?;
        let action = actions
            .children("action")
            .find(|action| action.text("event") == "postinstall")
            .ok_or_else(|| Error::MissingElement { place: actions.place(), name: "action event=\"postinstall\"" })?;
        let failures = action.text("MaxFailureCountPerUrl").parse();
        Ok(Self {
            sha256: action.required("sha256")?.to_owned(),
            is_delta_payload: action.text("IsDeltaPayload") == "true",
            disable_payload_backoff: action.text("DisablePayloadBackoff") == "true",
            max_failure_count_per_url: failures.unwrap_or(Self::DEFAULT_MAX_FAILURE_COUNT_PER_URL),
        })
    }

    /// False booleans and defaults are left out, as the servers of the dialect do.
    fn write(&self, out: &mut String) {
        out.push_str("<action");
        write_attribute(out, "event", "postinstall");
        write_attribute(out, "sha256", &self.sha256);
        if self.is_delta_payload {
            write_attribute(out, "IsDeltaPayload", "true");
        }
        if self.disable_payload_backoff {
            write_attribute(out, "DisablePayloadBackoff", "true");
        }
        if self.max_failure_count_per_url != Self::DEFAULT_MAX_FAILURE_COUNT_PER_URL {
            write_attribute(out, "MaxFailureCountPerUrl", &self.max_failure_count_per_url.to_string());
        }
        out.push_str("></action>");
    }
}

fn read_codebases(check: Node<'_>) -> Result<Vec<Codebase>, Error> {
    let urls = check.required_child("urls")?;
    let mut codebases = Vec::new();
    for url in urls.children("url") {
        if codebases.len() == MAX_CODEBASES {
            return Err(Error::OverLimit { place: urls.place(), what: "codebases", limit: MAX_CODEBASES });
        }
        let codebase = Codebase::parse(url.required("codebase")?);
        codebases.push(codebase.map_err(|invalid| Error::BadValue {
            place: url.place(),
            name: "codebase",
            expected: invalid.problem,
            got: invalid.got,
        })?);
    }
    if codebases.is_empty() { Err(Error::MissingElement { place: urls.place(), name: "url" }) } else { Ok(codebases) }
}

/// The manifest to install. A host is sent one. Of several (floors on the way to a target, meant for servers that mirror) it
/// is the one marked `is_target`, else the last that is no floor.
fn choose_manifest(check: Node<'_>) -> Result<Node<'_>, Error> {
    let manifests: Vec<_> = check.children("manifest").collect();
    if let [only] = manifests.as_slice() {
        return Ok(*only);
    }
    let is = |node: &Node<'_>, mark| node.text(mark) == "true";
    let target = manifests.iter().find(|node| is(node, "is_target"));
    match target.or_else(|| manifests.iter().rfind(|node| !is(node, "is_floor"))) {
        Some(node) => Ok(*node),
        None if manifests.is_empty() => Err(Error::MissingElement { place: check.place(), name: "manifest" }),
        None => Err(Error::NoTarget { place: check.place(), count: manifests.len() }),
    }
}

fn read_packages(manifest: Node<'_>) -> Result<Vec<Package>, Error> {
    let parent = manifest.required_child("packages")?;
    let mut packages: Vec<Package> = Vec::new();
    for node in parent.children("package") {
        if packages.len() == MAX_PACKAGES {
            return Err(Error::OverLimit { place: parent.place(), what: "packages", limit: MAX_PACKAGES });
        }
        let package = Package::read(node)?;
        if packages.iter().any(|other| other.name == package.name) {
            let got = excerpt(package.name.as_str());
            return Err(Error::BadValue { place: node.place(), name: "name", expected: "a name of its own", got });
        }
        packages.push(package);
    }
    if packages.is_empty() { Err(Error::MissingElement { place: parent.place(), name: "package" }) } else { Ok(packages) }
}
