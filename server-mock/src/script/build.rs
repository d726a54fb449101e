//! How tests in Rust build a script; programs read one from TOML.

use std::path::PathBuf;

use super::{Answer, AnswerKind, Break, Fault, FaultKind, NoUpdate, OfferedUpdate, Script, once};

impl Script {
    /// A script that serves this folder.
    pub fn serving(files_dir: impl Into<PathBuf>) -> Self {
        Self { files_dir: Some(files_dir.into()), ..Self::default() }
    }

    /// Adds an answer to update checks.
    #[must_use]
    pub fn answer(mut self, answer: impl Into<Answer>) -> Self {
        self.answers.push(answer.into());
        self
    }

    /// Adds an answer to events and pings.
    #[must_use]
    pub fn event_answer(mut self, answer: impl Into<Answer>) -> Self {
        self.events.push(answer.into());
        self
    }

    /// Adds a fault.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }
}

impl From<AnswerKind> for Answer {
    fn from(kind: AnswerKind) -> Self {
        Self { kind, times: once(), delay_ms: 0, content_type: None, fault: None, app_id: None, more_apps: Vec::new() }
    }
}

impl Answer {
    /// Nothing to install.
    pub fn no_update() -> Self {
        AnswerKind::Noupdate(NoUpdate::default()).into()
    }

    /// Held back by a rule, with its reason.
    pub fn held(rule: &str, reason: &str) -> Self {
        let hold = NoUpdate { hold: Some(rule.to_owned()), reason: Some(reason.to_owned()), ..NoUpdate::default() };
        AnswerKind::Noupdate(hold).into()
    }

    /// `V.payload` and `V.release` as they lie in the folder.
    pub fn update(version: &str) -> Self {
        AnswerKind::Update(OfferedUpdate { version: version.to_owned(), ..OfferedUpdate::default() }).into()
    }

    /// An HTTP status.
    pub fn status(code: u16) -> Self {
        AnswerKind::Status { code, retry_after_s: None, body: String::new() }.into()
    }

    /// This text.
    pub fn raw(body: impl Into<String>) -> Self {
        AnswerKind::Raw { body: body.into() }.into()
    }

    /// So often, before the next answer's turn comes.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// With this fault after so many bytes of the body.
    #[must_use]
    pub fn broken(mut self, kind: FaultKind, after_bytes: u64) -> Self {
        self.fault = Some(Break { kind, after_bytes });
        self
    }
}

impl Fault {
    /// A fault of every answer for these paths.
    pub fn on(path: &str, kind: FaultKind) -> Self {
        Self { path: path.to_owned(), kind, after_bytes: 0, at_offset: None, times: None, skip: 0 }
    }

    /// After so many bytes of the body.
    #[must_use]
    pub fn after_bytes(mut self, bytes: u64) -> Self {
        self.after_bytes = bytes;
        self
    }

    /// At that place of the file.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.at_offset = Some(offset);
        self
    }

    /// So often and never again.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Not for the first so many requests.
    #[must_use]
    pub fn skip(mut self, requests: u32) -> Self {
        self.skip = requests;
        self
    }
}
