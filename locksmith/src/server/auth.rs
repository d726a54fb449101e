//! Who may ask what: bearer tokens from a file.
//!
//! ```text
//! # role  token
//! admin   6f1d…      may do everything
//! host    9ab2…      may lock, release and look
//! ```
//!
//! Promises: tokens are kept as digests only, so neither a log nor the time a comparison takes gives one away.
//! Never: lets a request without a known token do anything but ask for `/healthz` and `/metrics`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Largest token file read, in bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// Shortest token taken: 16 characters of base64 are 96 bits.
const MIN_TOKEN_BYTES: usize = 16;

/// Longest.
const MAX_TOKEN_BYTES: usize = 256;

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Lock, release and look.
    Host,
    /// Everything.
    Admin,
}

/// The tokens a server knows.
#[derive(Debug, Clone)]
pub struct Tokens {
    known: Vec<(Role, [u8; 32])>,
}

/// Why a token file was refused. Its tokens are never repeated.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("token file {file}: {source}")]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others may read or change it.
    #[error("token file {file}: others may read or write it (mode {mode:03o}), expected 600 or 640: chmod 600 {file}")]
    Open {
        /// The file.
        file: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A line is not `ROLE TOKEN`.
    #[error("token file {file}, line {line}: {what}")]
    Line {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It is longer than a token file can be.
    #[error("token file {file}: {found} bytes, expected at most {MAX_FILE_BYTES}")]
    TooLong {
        /// The file.
        file: PathBuf,
        /// Its size.
        found: u64,
    },
    /// It has no token at all: nobody could ever ask.
    #[error("token file {file}: no token in it, expected lines of \"admin TOKEN\" or \"host TOKEN\"")]
    Empty {
        /// The file.
        file: PathBuf,
    },
}

impl Tokens {
    /// Reads a token file that only its owner (and group) may read.
    pub fn from_file(file: &Path) -> Result<Self, TokenFileError> {
        let io = |source| TokenFileError::Io { file: file.to_owned(), source };
        let meta = std::fs::metadata(file).map_err(io)?;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o027 != 0 {
            return Err(TokenFileError::Open { file: file.to_owned(), mode });
        }
        if meta.len() > MAX_FILE_BYTES {
            return Err(TokenFileError::TooLong { file: file.to_owned(), found: meta.len() });
        }
        let text = std::fs::read_to_string(file).map_err(io)?;
        let tokens = Self::parse(&text).map_err(|(line, what)| TokenFileError::Line { file: file.to_owned(), line, what })?;
        if tokens.known.is_empty() {
            return Err(TokenFileError::Empty { file: file.to_owned() });
        }
        Ok(tokens)
    }

    fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut known = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            known.push(entry(line).map_err(|what| (index.saturating_add(1), what))?);
        }
        Ok(Self { known })
    }

    /// The role of an `Authorization` header's value.
    pub(super) fn role(&self, header: &str) -> Option<Role> {
        let (scheme, token) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token.trim().as_bytes()).into();
        self.known.iter().find(|(_, known)| *known == digest).map(|(role, _)| *role)
    }
}

fn entry(line: &str) -> Result<(Role, [u8; 32]), &'static str> {
    let mut words = line.split_whitespace();
    let role = match words.next() {
        Some("admin") => Role::Admin,
        Some("host") => Role::Host,
        _ => return Err("unknown role, expected \"admin TOKEN\" or \"host TOKEN\""),
    };
    let token = words.next().ok_or("no token after the role")?;
    if words.next().is_some() {
        return Err("more than a role and a token");
    }
    if !(MIN_TOKEN_BYTES..=MAX_TOKEN_BYTES).contains(&token.len()) {
        return Err("the token has not 16 to 256 characters");
    }
    Ok((role, Sha256::digest(token.as_bytes()).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# who may\n\nadmin 0123456789abcdef\n  host fedcba9876543210  \n";

    fn written(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, file)
    }

    #[test]
    fn a_known_token_has_its_role_and_anything_else_has_none() {
        let (_dir, file) = written(FILE, 0o640);
        let tokens = Tokens::from_file(&file).unwrap();
        assert_eq!(tokens.role("Bearer 0123456789abcdef"), Some(Role::Admin));
        assert_eq!(tokens.role("bearer fedcba9876543210"), Some(Role::Host));
        for unknown in ["", "Bearer", "Bearer ", "Bearer 0123456789abcdeF", "Basic 0123456789abcdef"] {
            assert_eq!(tokens.role(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn a_bad_file_is_refused_by_line_and_without_its_tokens() {
        let cases = [
            ("admin\n", "line 1: no token after the role"),
            ("\nroot 0123456789abcdef\n", "line 2: unknown role"),
            ("admin short-secret\n", "line 1: the token has not 16 to 256"),
            ("host 0123456789abcdef extra\n", "line 1: more than"),
            ("# nothing\n", "no token in it"),
        ];
        for (text, expected) in cases {
            let (_dir, file) = written(text, 0o600);
            let error = Tokens::from_file(&file).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
            assert!(!error.contains("secret") && !error.contains("0123"), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_what_to_do() {
        let (_dir, file) = written(FILE, 0o644);
        let error = Tokens::from_file(&file).unwrap_err().to_string();
        assert!(error.contains("mode 644") && error.contains("chmod 600"), "{error}");
    }
}
