//! What a script may not say although TOML can spell it.

use manifests::omaha::{MAX_PACKAGES, PackageName};
use manifests::version::Version;

use super::{Answer, AnswerKind, Fault, FaultKind, MAX_GENERATED_BYTES, MAX_OUTAGE_S, OfferedUpdate, Script};
use crate::Error;

impl Script {
    /// Refuses what TOML can spell but the server cannot do, naming the entry.
    pub fn check(&self) -> Result<(), Error> {
        for codebase in &self.codebases {
            check_codebase(codebase).map_err(|problem| problem.at("codebases"))?;
        }
        for path in &self.omaha_paths {
            if !path.starts_with('/') {
                return Err(Problem::expected("a path that starts with /", path).at("omaha_paths"));
            }
        }
        for (list, answers) in [("answers", &self.answers), ("events", &self.events)] {
            for (index, answer) in answers.iter().enumerate() {
                answer.check().map_err(|problem| problem.at(&format!("{list}[{index}]")))?;
            }
        }
        for (index, fault) in self.faults.iter().enumerate() {
            fault.check().map_err(|problem| problem.at(&format!("faults[{index}]")))?;
        }
        Ok(())
    }
}

impl Answer {
    fn check(&self) -> Result<(), Problem> {
        if self.times == 0 {
            return Err(Problem::expected("times of at least 1", 0));
        }
        if self.content_type.as_ref().is_some_and(|text| !is_header_value(text)) {
            return Err(Problem::expected("a content_type without control characters", format!("{:?}", self.content_type)));
        }
        if let Some(fault) = &self.fault {
            if !fault.kind.fits_answers() {
                return Err(Problem::expected("a fault that is not about files", fault.kind.name()));
            }
            check_kind(&fault.kind)?;
            check_after(&fault.kind, fault.after_bytes)?;
        }
        self.kind.check()
    }
}

impl AnswerKind {
    fn check(&self) -> Result<(), Problem> {
        match self {
            Self::Update(update) => update.check(),
            Self::Status { code, .. } => check_code(*code),
            Self::Redirect { to, code } => check_redirect(to, *code),
            Self::Garbage { bytes } | Self::HugeXml { bytes } | Self::DeepXml { depth: bytes }
                if *bytes > MAX_GENERATED_BYTES =>
            {
                Err(Problem::expected(&format!("at most {MAX_GENERATED_BYTES}"), bytes))
            }
            _ => Ok(()),
        }
    }
}

impl OfferedUpdate {
    fn check(&self) -> Result<(), Problem> {
        Version::parse(&self.version).map_err(|error| Problem(error.to_string()))?;
        if self.packages.len() > MAX_PACKAGES {
            return Err(Problem::expected(&format!("at most {MAX_PACKAGES} packages"), self.packages.len()));
        }
        for package in &self.packages {
            PackageName::parse(&package.name).map_err(|error| Problem(error.to_string()))?;
            for (hex, digits) in [(&package.sha1, 40), (&package.sha256, 64)] {
                if let Some(hex) = hex
                    && (hex.len() != digits || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
                {
                    return Err(Problem::expected(
                        &format!("{digits} hex digits for a hash of {:?}", package.name),
                        format!("{hex:?}"),
                    ));
                }
            }
            if package.size == Some(0) {
                return Err(Problem::expected(&format!("a size above 0 for {:?}", package.name), 0));
            }
        }
        for codebase in self.codebases.iter().flatten() {
            check_codebase(codebase)?;
        }
        Ok(())
    }
}

impl Fault {
    fn check(&self) -> Result<(), Problem> {
        check_kind(&self.kind)?;
        check_after(&self.kind, self.after_bytes)?;
        if self.at_offset.is_some() && !self.kind.has_place() {
            return Err(Problem(format!("{} happens to a whole answer and takes no at_offset", self.kind.name())));
        }
        if self.at_offset.is_some() && self.after_bytes > 0 {
            return Err(Problem("expected after_bytes or at_offset, got both".to_owned()));
        }
        Ok(())
    }
}

impl FaultKind {
    /// Whether it means anything for a document that is no file.
    fn fits_answers(&self) -> bool {
        !matches!(
            self,
            Self::WrongRange
                | Self::OkFor206
                | Self::FlipByte { .. }
                | Self::EtagChange
                | Self::Status { .. }
                | Self::Redirect { .. }
        )
    }
}

/// What is wrong with an entry.
struct Problem(String);

impl Problem {
    fn expected(what: &str, got: impl std::fmt::Display) -> Self {
        Self(format!("expected {what}, got {got}"))
    }

    fn at(self, entry: &str) -> Error {
        Error::Script { problem: format!("{entry}: {}", self.0) }
    }
}

fn check_codebase(codebase: &str) -> Result<(), Problem> {
    let is_own = codebase.starts_with('/') && codebase.ends_with('/');
    if is_own || manifests::omaha::Codebase::parse(codebase).is_ok() {
        Ok(())
    } else {
        Err(Problem::expected("a path that starts and ends with /, or an absolute http(s) URL", format!("{codebase:?}")))
    }
}

fn check_kind(kind: &FaultKind) -> Result<(), Problem> {
    match kind {
        FaultKind::Outage { seconds } if *seconds > MAX_OUTAGE_S => {
            Err(Problem::expected(&format!("an outage of at most {MAX_OUTAGE_S} seconds"), seconds))
        }
        FaultKind::SlowDrip { bytes_per_s: 0 } => Err(Problem::expected("bytes_per_s above 0 (a stall sends nothing)", 0)),
        FaultKind::Status { code, .. } => check_code(*code),
        FaultKind::Redirect { to, code } => check_redirect(to, *code),
        _ => Ok(()),
    }
}

fn check_after(kind: &FaultKind, after_bytes: u64) -> Result<(), Problem> {
    if after_bytes > 0 && !kind.has_place() {
        return Err(Problem(format!("{} happens to a whole answer and takes no after_bytes", kind.name())));
    }
    Ok(())
}

fn check_redirect(to: &str, code: u16) -> Result<(), Problem> {
    if !is_header_value(to) || to.is_empty() {
        return Err(Problem::expected("a URL or path to redirect to", format!("{to:?}")));
    }
    if (300..400).contains(&code) { Ok(()) } else { Err(Problem::expected("a code from 300 to 399", code)) }
}

fn check_code(code: u16) -> Result<(), Problem> {
    if (200..600).contains(&code) { Ok(()) } else { Err(Problem::expected("a code from 200 to 599", code)) }
}

fn is_header_value(text: &str) -> bool {
    !text.chars().any(char::is_control)
}
