//! Who may steer the server while it runs, and which files a script may name that came over the network.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::http::Request;
use crate::script::{AnswerKind, Script};

/// What tells a request that a web page may have made a browser send: that reaches a loopback address from any site, also under the
/// site's own name once that leads here. Programs name no origin, and ask by address.
pub(crate) fn of_a_web_page(request: &Request) -> Option<String> {
    if let Some(origin) = request.header("origin") {
        return Some(format!("expected no Origin, got {origin:?}: a web page may not steer this server"));
    }
    let hosts = || request.headers.iter().filter(|(name, _)| name == "host").map(|(_, host)| host.as_str());
    if hosts().next().is_none() || !hosts().all(is_address) {
        let got: Vec<&str> = hosts().collect();
        return Some(format!("expected localhost or an address as the one Host, got {got:?}: ask this server by its address"));
    }
    None
}

/// `localhost`, `127.0.0.1` or `[::1]`, with a port or without.
fn is_address(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    };
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_ip = match bracketed {
        Some(name) => name.parse::<Ipv6Addr>().is_ok(),
        None => name.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()),
    };
    port.bytes().all(|digit| digit.is_ascii_digit()) && (is_ip || name.eq_ignore_ascii_case("localhost"))
}

/// How far a script that is put at run time reaches. A program that can reach a loopback address is on this machine already (a web page
/// that could is refused by [`of_a_web_page`]); to anybody else nothing is shown that the script of the start would not have shown.
pub(crate) enum Reach {
    /// Any file that this process can read.
    Anywhere,
    /// Files below this folder; none: no file at all.
    Below(Option<PathBuf>),
}

impl Reach {
    /// For a server that was started with this script and listens there.
    pub(crate) fn new(script: &Script, addr: SocketAddr) -> Self {
        if addr.ip().is_loopback() {
            return Self::Anywhere;
        }
        Self::Below(script.files_dir.as_ref().and_then(|folder| folder.canonicalize().ok()))
    }

    /// Refuses a script that names a file out of reach.
    pub(crate) fn check(&self, script: &Script) -> Result<(), Error> {
        let Self::Below(folder) = self else { return Ok(()) };
        for (key, path) in named_by(script) {
            if !is_below(&path, folder.as_deref()) {
                return Err(Error::OutOfReach { key, path, folder: folder.clone() });
            }
        }
        Ok(())
    }
}

/// Every file a script names, by the key that names it. A package's is only measured, but a digest tells a guess from a miss.
fn named_by(script: &Script) -> Vec<(&'static str, PathBuf)> {
    let mut named: Vec<_> = script.files_dir.iter().map(|folder| ("files_dir", folder.clone())).collect();
    for answer in script.answers.iter().chain(&script.events) {
        match &answer.kind {
            AnswerKind::RawFile { file } => named.push(("raw_file", file.clone())),
            AnswerKind::Update(offer) => {
                let files = offer.packages.iter().filter_map(|package| package.file.as_ref());
                let folder = script.files_dir.clone().unwrap_or_default();
                named.extend(files.map(|file| ("packages.file", folder.join(file))));
            }
            _ => {}
        }
    }
    named
}

/// With every link on the way followed. What does not exist is out of reach, too: it could be made a link later.
fn is_below(path: &Path, folder: Option<&Path>) -> bool {
    folder.is_some_and(|folder| path.canonicalize().is_ok_and(|path| path.starts_with(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_from_a_name() {
        for host in
            ["localhost", "LocalHost:80", "127.0.0.1", "127.0.0.1:8080", "10.1.2.3:80", "[::1]", "[::1]:80", "[fe80::1]:80"]
        {
            assert!(is_address(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "evil.example",
            "evil.example:80",
            "127.0.0.1.evil.example",
            "localhost.evil.example:80",
            "evil.example:127.0.0.1",
            "127.0.0.1:80:80",
            "127.1",
            "[evil.example]",
            "[127.0.0.1]",
            "::1",
            "evil@127.0.0.1:80",
        ] {
            assert!(!is_address(host), "{host}");
        }
    }
}
