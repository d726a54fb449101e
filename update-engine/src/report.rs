//! What the update server is told, in its own language: requests, events, and the codes of causes.
//!
//! | report | event type / result | code |
//! | --- | --- | --- |
//! | download started | 13 / 1 | |
//! | download finished | 14 / 1 | |
//! | installed (proven, waiting for the reboot) | 3 / 1 | |
//! | committed (booted and healthy) | 3 / 2, `previousversion` | |
//! | rolled back | 3 / 0 | 44 |
//! | failed | 3 / 0 | by cause, see [`error_code`] |
//! | abandoned (a person, or a newer release) | 3 / 4 | 36 |
//!
//! Each carries `ota_attempt`, and `ota_reason` with the sentence `updatectl` shows. `docs/omaha.md` lists all causes;
//! a test holds it to [`Cause`].

use manifests::omaha::{
    ActionCode, AppRequest, ErrorCode, Event, EventResult, EventType, INSTALL_ON_DEMAND, INSTALL_SCHEDULED, Os, Ping, Request,
};

use crate::engine::cause::Cause;
use crate::engine::effect::{Report, ReportKind};
use crate::engine::facts::Facts;

/// What this program calls itself on the wire.
pub const UPDATER: &str = concat!("ota-update-engine-", env!("CARGO_PKG_VERSION"));

/// Who starts a check, as the server distinguishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// The schedule.
    Schedule,
    /// A person.
    Person,
}

/// The request of a check: ping and update check.
pub fn check_request(facts: &Facts, initiator: Initiator, attempt: Option<&str>) -> Request {
    let mut request = request(facts, initiator, attempt);
    for app in &mut request.apps {
        app.ping = Some(Ping { active: true });
        app.update_check = true;
    }
    request
}

/// The request that carries one report.
pub fn event_request(facts: &Facts, report: &Report) -> Request {
    let mut request = request(facts, Initiator::Schedule, Some(&report.attempt));
    for app in &mut request.apps {
        app.version.clone_from(&report.running_version);
        app.events = vec![event(report)];
    }
    request
}

fn request(facts: &Facts, initiator: Initiator, attempt: Option<&str>) -> Request {
    let running = facts.running_content();
    let version = running.version.unwrap_or_default();
    let identity = &facts.identity;
    let app = AppRequest {
        app_id: identity.app_id.clone(),
        version: version.clone(),
        track: identity.channel.clone(),
        boot_id: format!("{{{}}}", facts.boot_id),
        machine_id: identity.id.clone(),
        machine_alias: identity.alias.clone(),
        board: identity.board.clone(),
        ota_sequence: running.sequence,
        ota_slot: facts.running.map(|slot| slot.to_string()),
        ota_attempt: attempt.map(str::to_owned),
        ..AppRequest::default()
    };
    Request {
        version: UPDATER.to_owned(),
        updater_version: UPDATER.to_owned(),
        install_source: match initiator {
            Initiator::Schedule => INSTALL_SCHEDULED.to_owned(),
            Initiator::Person => INSTALL_ON_DEMAND.to_owned(),
        },
        os: Os { sp: format!("{version}_{}", identity.arch), ..Os::default() },
        apps: vec![app],
        ..Request::default()
    }
}

fn event(report: &Report) -> Event {
    let plain = |kind, result| Event::new(kind, result);
    let code = report.code.as_ref().map_or(ErrorCode::from(ActionCode::Error), error_code);
    let event = match report.kind {
        ReportKind::DownloadStarted => plain(EventType::UpdateDownloadStarted, EventResult::Success),
        ReportKind::DownloadFinished => plain(EventType::UpdateDownloadFinished, EventResult::Success),
        ReportKind::Installed => plain(EventType::UpdateComplete, EventResult::Success),
        ReportKind::Committed => Event {
            previous_version: Some(report.from_version.clone()),
            ..plain(EventType::UpdateComplete, EventResult::SuccessReboot)
        },
        ReportKind::RolledBack | ReportKind::Failed => Event::failure(code),
        ReportKind::Abandoned => Event { error_code: Some(code), ..plain(EventType::UpdateComplete, EventResult::Cancelled) },
    };
    Event { attempt: Some(report.attempt.clone()), reason: report.reason.clone(), ..event }
}

/// The number a server is sent for a cause: update_engine's nearest one. A new cause does not compile before it has its own.
pub fn error_code(cause: &Cause) -> ErrorCode {
    let action = match cause {
        Cause::Http(status) => return ErrorCode::http(*status),
        Cause::Other(_) => ActionCode::Error,
        Cause::NoServer | Cause::ServerUnreachable | Cause::Stale => ActionCode::OmahaRequestError,
        Cause::OmahaEmpty => ActionCode::OmahaRequestEmptyResponseError,
        Cause::OmahaXml => ActionCode::OmahaRequestXMLParseError,
        Cause::OmahaInvalid | Cause::OmahaStatus | Cause::VersionMismatch => ActionCode::OmahaResponseInvalid,
        Cause::RecordFetch | Cause::Download => ActionCode::DownloadTransferError,
        Cause::RecordMalformed => ActionCode::DownloadManifestParseError,
        Cause::RecordUnsigned | Cause::NoRecord => ActionCode::DownloadMetadataSignatureMissingError,
        Cause::RecordSignature | Cause::SignersRevoked => ActionCode::DownloadMetadataSignatureMismatch,
        Cause::NoKey => ActionCode::DownloadPayloadPubKeyVerificationError,
        Cause::WrongProduct
        | Cause::WrongArch
        | Cause::WrongBoard
        | Cause::WrongChannel
        | Cause::BelowFloor
        | Cause::FloorLost
        | Cause::FloorUnreadable
        | Cause::SequenceReused
        | Cause::OlderRelease
        | Cause::SourceTooOld
        | Cause::SourceUnknown
        | Cause::RefusedRelease
        | Cause::OtherVersion
        | Cause::NoIdentity
        | Cause::UnknownArmed => ActionCode::OmahaUpdateIgnoredPerPolicy,
        Cause::ImageSet | Cause::ImageTooLarge => ActionCode::DownloadNewPartitionInfoError,
        Cause::RunningSlotUnknown | Cause::RunningSlot | Cause::Slots => ActionCode::InstallDeviceOpenError,
        Cause::StateDir | Cause::Journal => ActionCode::DownloadStateInitializationError,
        Cause::PayloadFormat => ActionCode::DownloadInvalidMetadataMagicString,
        Cause::PayloadMismatch => ActionCode::DownloadOperationHashMismatch,
        Cause::Install => ActionCode::DownloadOperationExecutionError,
        Cause::DiskWrite => ActionCode::DownloadWriteError,
        Cause::ReadBack => ActionCode::NewRootfsVerificationError,
        Cause::BootControl | Cause::BootWeakness | Cause::NotAttempted | Cause::Disarm | Cause::MarkGood => {
            ActionCode::SetBootableFlagError
        }
        Cause::Reboot | Cause::RebootLate => ActionCode::PostinstallRunnerError,
        Cause::RolledBack | Cause::Unhealthy => ActionCode::RollbackError,
        Cause::Lock
        | Cause::LockLost
        | Cause::Drain
        | Cause::StepBack
        | Cause::Cancelled
        | Cause::Superseded
        | Cause::JournalLost => ActionCode::OmahaUpdateDeferredPerPolicy,
    };
    ErrorCode::from(action)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCS: &str = include_str!("../../docs/omaha.md");

    #[test]
    fn causes_have_the_codes_real_servers_know() {
        let wire = |word| error_code(&Cause::read(word)).to_wire();
        assert_eq!([wire("rolled-back"), wire("http-503"), wire("disk-write"), wire("never-heard-of")], [44, 2503, 14, 1]);
        for cause in Cause::NAMED {
            let action = error_code(cause).action();
            assert!(ActionCode::NAMED.contains(&action) && action != ActionCode::Success, "{cause}: {action:?}");
            assert_ne!(action, ActionCode::Error, "{cause}: the number of what nobody knows");
        }
    }

    #[test]
    fn docs_omaha_md_lists_every_cause_in_order() {
        let head = ["| cause | meaning | code | update_engine's name |".to_owned(), "| --- | --- | --- | --- |".to_owned()];
        let row = |cause: &Cause| {
            let code = error_code(cause);
            format!("| `{cause}` | {} | {} | {} |", cause.meaning(), code.to_wire(), code.name())
        };
        let http = format!("| `http-NNN` | {} | 2000 + NNN | OmahaRequestHTTPResponseBase + NNN |", Cause::Http(404).meaning());
        let expected = head.into_iter().chain(Cause::NAMED.iter().map(row)).chain([http]);
        let (_, section) = DOCS.split_once("\n## Causes and codes\n").unwrap();
        let mut listed = section.lines().take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with('|'));
        for line in expected {
            let found = listed.next();
            assert_eq!(found, Some(line.as_str()), "docs/omaha.md: this line is missing or stands elsewhere:\n{line}\n");
        }
        assert_eq!(listed.next(), None, "docs/omaha.md: no cause has this line");
    }
}
