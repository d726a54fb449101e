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
//! Each carries `ota_attempt`, and `ota_reason` with the sentence `updatectl` shows. `docs/omaha.md` lists all causes.

use manifests::omaha::{
    ActionCode, AppRequest, ErrorCode, Event, EventResult, EventType, INSTALL_ON_DEMAND, INSTALL_SCHEDULED, Os, Ping, Request,
};

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
    let event = match report.kind {
        ReportKind::DownloadStarted => plain(EventType::UpdateDownloadStarted, EventResult::Success),
        ReportKind::DownloadFinished => plain(EventType::UpdateDownloadFinished, EventResult::Success),
        ReportKind::Installed => plain(EventType::UpdateComplete, EventResult::Success),
        ReportKind::Committed => Event {
            previous_version: Some(report.from_version.clone()),
            ..plain(EventType::UpdateComplete, EventResult::SuccessReboot)
        },
        ReportKind::RolledBack | ReportKind::Failed => Event::failure(error_code(report.code.as_deref().unwrap_or_default())),
        ReportKind::Abandoned => Event {
            error_code: Some(error_code(report.code.as_deref().unwrap_or_default())),
            ..plain(EventType::UpdateComplete, EventResult::Cancelled)
        },
    };
    Event { attempt: Some(report.attempt.clone()), reason: report.reason.clone(), ..event }
}

/// Causes and the codes servers know them by. First match wins; `docs/omaha.md` is checked against this table by a test.
pub const CAUSES: &[(&str, ActionCode)] = &[
    ("server-unreachable", ActionCode::OmahaRequestError),
    ("omaha-empty", ActionCode::OmahaRequestEmptyResponseError),
    ("omaha-xml", ActionCode::OmahaRequestXMLParseError),
    ("omaha-invalid", ActionCode::OmahaResponseInvalid),
    ("omaha-status", ActionCode::OmahaResponseInvalid),
    ("record-fetch", ActionCode::DownloadTransferError),
    ("record-malformed", ActionCode::DownloadManifestParseError),
    ("record-unsigned", ActionCode::DownloadMetadataSignatureMissingError),
    ("record-signature", ActionCode::DownloadMetadataSignatureMismatch),
    ("no-key", ActionCode::DownloadPayloadPubKeyVerificationError),
    ("version-mismatch", ActionCode::OmahaResponseInvalid),
    ("wrong-product", ActionCode::OmahaUpdateIgnoredPerPolicy),
    ("wrong-arch", ActionCode::OmahaUpdateIgnoredPerPolicy),
    ("wrong-board", ActionCode::OmahaUpdateIgnoredPerPolicy),
    ("wrong-channel", ActionCode::OmahaUpdateIgnoredPerPolicy),
    ("below-floor", ActionCode::OmahaUpdateIgnoredPerPolicy),
    ("floor-lost", ActionCode::OmahaUpdateIgnoredPerPolicy),
    ("floor-unreadable", ActionCode::OmahaUpdateIgnoredPerPolicy),
    ("sequence-reused", ActionCode::OmahaUpdateIgnoredPerPolicy),
    ("older-release", ActionCode::OmahaUpdateIgnoredPerPolicy),
    ("source-too-old", ActionCode::OmahaUpdateIgnoredPerPolicy),
    ("source-unknown", ActionCode::OmahaUpdateIgnoredPerPolicy),
    ("refused-release", ActionCode::OmahaUpdateIgnoredPerPolicy),
    ("other-version", ActionCode::OmahaUpdateIgnoredPerPolicy),
    ("image-set", ActionCode::DownloadNewPartitionInfoError),
    ("image-too-large", ActionCode::DownloadNewPartitionInfoError),
    ("running-slot-unknown", ActionCode::InstallDeviceOpenError),
    ("running-slot", ActionCode::InstallDeviceOpenError),
    ("slots", ActionCode::InstallDeviceOpenError),
    ("download", ActionCode::DownloadTransferError),
    ("payload-format", ActionCode::DownloadInvalidMetadataMagicString),
    ("payload-mismatch", ActionCode::DownloadOperationHashMismatch),
    ("disk-write", ActionCode::DownloadWriteError),
    ("read-back", ActionCode::NewRootfsVerificationError),
    ("boot-control", ActionCode::SetBootableFlagError),
    ("not-attempted", ActionCode::SetBootableFlagError),
    ("reboot", ActionCode::PostinstallRunnerError),
    ("rolled-back", ActionCode::RollbackError),
    ("unhealthy", ActionCode::RollbackError),
    ("cancelled", ActionCode::OmahaUpdateDeferredPerPolicy),
    ("superseded", ActionCode::OmahaUpdateDeferredPerPolicy),
    ("journal-lost", ActionCode::OmahaUpdateDeferredPerPolicy),
];

/// The code for a cause: `http-503` becomes 2503, other words by [`CAUSES`], anything else 1.
pub fn error_code(cause: &str) -> ErrorCode {
    if let Some(status) = cause.strip_prefix("http-").and_then(|digits| digits.parse().ok()) {
        return ErrorCode::http(status);
    }
    let action = CAUSES.iter().find(|(word, _)| *word == cause).map_or(ActionCode::Error, |(_, action)| *action);
    ErrorCode::from_wire(i32::try_from(action.number()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_have_the_codes_real_servers_know() {
        assert_eq!(error_code("rolled-back").to_wire(), 44);
        assert_eq!(error_code("http-503").to_wire(), 2503);
        assert_eq!(error_code("disk-write").to_wire(), 14);
        assert_eq!(error_code("never heard of").to_wire(), 1);
    }

    #[test]
    fn every_cause_stands_once() {
        for (index, (word, _)) in CAUSES.iter().enumerate() {
            assert!(!CAUSES[..index].iter().any(|(other, _)| other == word), "{word} stands twice");
        }
    }
}
