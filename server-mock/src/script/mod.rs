//! The script: what to answer and what to break, in TOML or built in a test.

mod build;
mod check;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;

use crate::Error;

/// Largest body that is made up (garbage, giant XML): more only costs time.
pub const MAX_GENERATED_BYTES: u64 = 4 << 30;
/// Longest a fault may keep the listener closed, in seconds: a test that waits longer has hung.
pub const MAX_OUTAGE_S: u64 = 3600;

/// Everything the server does. The README shows each key in TOML.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Folder that `/files/` and the like serve; none serves nothing. In a script file it may be relative to the file's folder.
    pub files_dir: Option<PathBuf>,
    /// Where the files are, in the order answers list them: path prefixes of this server, or absolute URLs elsewhere.
    pub codebases: Vec<String>,
    /// Paths that take Omaha requests.
    pub omaha_paths: Vec<String>,
    /// Answers to requests with an update check, played in order; the last one goes on for ever. With none, they get a 500.
    pub answers: Vec<Answer>,
    /// The same for requests without one (events, pings). With none, they are acknowledged.
    pub events: Vec<Answer>,
    /// What goes wrong with files; the first that applies to a request is used.
    pub faults: Vec<Fault>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            files_dir: None,
            codebases: vec!["/files/".to_owned()],
            omaha_paths: vec!["/v1/update".to_owned(), "/v1/update/".to_owned()],
            answers: Vec::new(),
            events: Vec::new(),
            faults: Vec::new(),
        }
    }
}

/// One answer to an Omaha request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// What is answered.
    pub kind: AnswerKind,
    /// How often, before the next answer's turn comes.
    #[serde(default = "once")]
    pub times: u32,
    /// Wait before answering.
    #[serde(default)]
    pub delay_ms: u64,
    /// Instead of `text/xml`.
    pub content_type: Option<String>,
    /// What goes wrong on the way.
    pub fault: Option<Break>,
    /// Answer for this application instead of the one that asked.
    pub app_id: Option<String>,
    /// Applications nobody asked for, answered first.
    #[serde(default)]
    pub more_apps: Vec<String>,
}

const fn once() -> u32 {
    1
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AnswerKind {
    /// Only acknowledges pings and events.
    Acknowledge,
    /// Nothing to install.
    Noupdate(NoUpdate),
    /// An update.
    Update(OfferedUpdate),
    /// A status of failure.
    Error {
        /// Of the `updatecheck`.
        status: String,
        /// Of the `app`; `ok` if not given.
        app_status: Option<String>,
        /// Google's free text.
        info: Option<String>,
        /// Seconds until the next check.
        poll_interval_s: Option<u32>,
    },
    /// An HTTP status.
    Status {
        /// Its number.
        code: u16,
        /// `Retry-After`.
        retry_after_s: Option<u64>,
        /// What is said.
        #[serde(default)]
        body: String,
    },
    /// A redirect.
    Redirect {
        /// URL or path.
        to: String,
        /// Its number.
        #[serde(default = "found")]
        code: u16,
    },
    /// This text; `{app_id}` and `{base}` (`http://host:port` of this server) are filled in.
    Raw {
        /// The text.
        body: String,
    },
    /// The bytes of this file as they are.
    RawFile {
        /// In a script file it may be relative to the file's folder.
        file: PathBuf,
    },
    /// Bytes that mean nothing.
    Garbage {
        /// How many.
        bytes: u64,
    },
    /// A well-formed answer of this many bytes, made up as it is sent.
    HugeXml {
        /// How many.
        bytes: u64,
    },
    /// Elements within elements.
    DeepXml {
        /// How many.
        depth: u64,
    },
}

const fn found() -> u16 {
    302
}

/// Nothing to install; with any of `hold`, `until` and `reason` it is a hold.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoUpdate {
    /// The rule that holds (`ota_hold`).
    pub hold: Option<String>,
    /// When it ends (`ota_until`), RFC 3339.
    pub until: Option<Timestamp>,
    /// Why (`ota_reason`).
    pub reason: Option<String>,
    /// Seconds until the next check.
    pub poll_interval_s: Option<u32>,
}

/// An update on offer. What is not said is measured on the files, so a lie has to be told.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OfferedUpdate {
    /// Its version.
    pub version: String,
    /// Its files; with none, `V.payload` and `V.release`.
    pub packages: Vec<OfferedPackage>,
    /// Instead of the script's.
    pub codebases: Option<Vec<String>>,
    /// The `sha256` of the postinstall action, as text; measured on the first package if not given.
    pub sha256: Option<String>,
    /// `IsDeltaPayload`.
    pub is_delta_payload: bool,
    /// `MaxFailureCountPerUrl`.
    pub max_failure_count_per_url: Option<u32>,
    /// Seconds until the next check.
    pub poll_interval_s: Option<u32>,
}

/// A package on offer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OfferedPackage {
    /// Its name.
    pub name: String,
    /// The file that is measured, if it has another name.
    pub file: Option<String>,
    /// Says this size instead of the file's.
    pub size: Option<u64>,
    /// Says this SHA-1 (40 hex digits) instead of the file's.
    pub sha1: Option<String>,
    /// Says this SHA-256 (64 hex digits) instead of the file's.
    pub sha256: Option<String>,
    /// `required`; the first package and every record are, unless said otherwise.
    pub required: Option<bool>,
    /// `ota_kind="delta"`.
    pub delta: bool,
}

/// What goes wrong with an Omaha answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Break {
    /// What.
    pub kind: FaultKind,
    /// Bytes of the body that are sent unharmed first.
    #[serde(default)]
    pub after_bytes: u64,
}

/// What goes wrong with a file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Paths it applies to; `*` stands for any characters, `?` for one.
    pub path: String,
    /// What.
    pub kind: FaultKind,
    /// Bytes of the body that are sent unharmed first. A shorter body is not harmed.
    #[serde(default)]
    pub after_bytes: u64,
    /// The same as a place in the file: only an answer that reaches beyond it is harmed, there.
    pub at_offset: Option<u64>,
    /// How often it happens; for ever if not given.
    pub times: Option<u32>,
    /// Requests it would apply to that are let through first.
    #[serde(default)]
    pub skip: u32,
}

/// What can go wrong.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// The connection is closed without an answer.
    Refuse,
    /// Nothing comes, not even a status, and the connection stays open.
    NoAnswer,
    /// The connection is closed without an answer, all others are cut off, and none is taken for so long.
    Outage {
        /// How long.
        seconds: u64,
    },
    /// The connection is reset.
    Reset,
    /// Nothing more comes after the head and the place in the body, and the connection stays open.
    Stall,
    /// The connection is closed before the body is whole.
    Truncate,
    /// A range other than the one asked for, honestly labelled.
    WrongRange,
    /// The whole file with status 200, as if no range had been asked for.
    #[serde(rename = "ok_for_206")]
    OkFor206,
    /// What follows is noise.
    Garbage,
    /// One bit of the file is wrong.
    FlipByte {
        /// Which byte of the file.
        offset: u64,
    },
    /// An HTTP status instead of the file.
    Status {
        /// Its number.
        code: u16,
        /// `Retry-After`.
        retry_after_s: Option<u64>,
    },
    /// What follows comes slowly.
    SlowDrip {
        /// How slowly.
        bytes_per_s: u64,
    },
    /// `Content-Length` is wrong by so much; the connection is closed after the body.
    WrongLength {
        /// Added to the length.
        by: i64,
    },
    /// The entity tag is another one every time.
    EtagChange,
    /// A redirect; `{name}` is the file's name.
    Redirect {
        /// URL or path.
        to: String,
        /// Its number.
        #[serde(default = "found")]
        code: u16,
    },
    /// The same bytes under `Content-Encoding: gzip`.
    GzipEncoded,
    /// An answer that is not HTTP.
    NotHttp,
}

impl FaultKind {
    /// Its name, as scripts spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::NoAnswer => "no_answer",
            Self::Outage { .. } => "outage",
            Self::Reset => "reset",
            Self::Stall => "stall",
            Self::Truncate => "truncate",
            Self::WrongRange => "wrong_range",
            Self::OkFor206 => "ok_for_206",
            Self::Garbage => "garbage",
            Self::FlipByte { .. } => "flip_byte",
            Self::Status { .. } => "status",
            Self::SlowDrip { .. } => "slow_drip",
            Self::WrongLength { .. } => "wrong_length",
            Self::EtagChange => "etag_change",
            Self::Redirect { .. } => "redirect",
            Self::GzipEncoded => "gzip_encoded",
            Self::NotHttp => "not_http",
        }
    }

    /// Whether it strikes at a place in the body, so that bytes before it arrive.
    pub(crate) fn has_place(&self) -> bool {
        matches!(self, Self::Reset | Self::Stall | Self::Truncate | Self::Garbage | Self::SlowDrip { .. })
    }
}

impl Script {
    /// Reads a script file; paths in it may be relative to its folder.
    pub fn load(file: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(file).map_err(|source| Error::ReadScript { file: file.to_owned(), source })?;
        Self::parse(&text, file.parent().unwrap_or(Path::new("."))).map_err(|error| match error {
            Error::Script { problem } => Error::ScriptFile { file: file.to_owned(), problem },
            other => other,
        })
    }

    /// Reads a script; paths in it may be relative to `folder`.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, Error> {
        let mut script: Self = toml::from_str(text).map_err(|error| Error::Script { problem: error.to_string() })?;
        script.files_dir = script.files_dir.map(|dir| folder.join(dir));
        for answer in script.answers.iter_mut().chain(&mut script.events) {
            if let AnswerKind::RawFile { file } = &mut answer.kind {
                *file = folder.join(&*file);
            }
        }
        script.check()?;
        Ok(script)
    }
}
