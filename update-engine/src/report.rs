//! What the update server is told, in its own language: requests, events, and the codes of causes.
//!
//! | report | event type / result | code |
//! | --- | --- | --- |
//! | download started | 13 / 1 | |
//! | download finished | 14 / 1 | |
//! | installed (proven, waiting for the reboot) | 3 / 1 | |
//! | committed (booted and healthy) | 3 / 2, `previousversion` | |
//! | rolled back | 3 / 0 | 44 |
//! | failed, or refused when it was offered | 3 / 0 | by cause, see [`error_code`] |
//! | abandoned (a person, or a newer release) | 3 / 4 | 36 |
//!
//! Each carries `ota_attempt` (but for an offer that was refused: it never became one), and `ota_reason` with the sentence
//! `updatectl` shows, where there is one; that of a commit has what the wanted health checks found, that of a rollback also has what the kernel of the new slot said last, where that is known.
//! `docs/omaha.md` lists all events and causes; tests hold it to [`ReportKind`] and [`Cause`].

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
    let mut request = request(facts, Initiator::Schedule, attempt_of(report));
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
        boot_id: format!("{{{}}}", facts.boot_id.as_str()),
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

/// A refused offer has none.
fn attempt_of(report: &Report) -> Option<&str> {
    Some(report.attempt.as_str()).filter(|attempt| !attempt.is_empty())
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
    Event { attempt: attempt_of(report).map(str::to_owned), reason: report.reason.clone(), ..event }
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
        Cause::BootControl
        | Cause::BootWeakness
        | Cause::BootRival
        | Cause::TrialUnit
        | Cause::NotAttempted
        | Cause::Disarm
        | Cause::MarkGood => ActionCode::SetBootableFlagError,
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

    /// What stands in a row of the section's table, cell by cell.
    fn cells_of(section: &str) -> Vec<Vec<&'static str>> {
        let (_, section) = DOCS.split_once(section).unwrap();
        let lines = section.lines().take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with('|'));
        lines.skip(2).map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }

    fn report(kind: ReportKind, attempt: &str, code: Option<Cause>) -> Report {
        Report {
            kind,
            attempt: attempt.into(),
            running_version: "1.0.5".into(),
            from_version: "1.0.0".into(),
            to_version: "2.0.0".into(),
            reason: code.as_ref().map(|code| format!("because of {code} & \"more\"")),
            code,
        }
    }

    /// The attributes of the one event, as a server reads them from the request's XML.
    fn sent(report: &Report) -> Vec<(String, String)> {
        let xml = event_request(&crate::engine::tests::host::facts(), report).write();
        assert_eq!(xml.matches("<event ").count(), 1, "{xml}");
        let (_, event) = xml.split_once("<event ").unwrap();
        let (event, _) = event.split_once('>').unwrap();
        let attributes = event.trim_end_matches('/').split("\" ").filter(|part| !part.trim().is_empty());
        let mut sent: Vec<_> = attributes
            .map(|part| {
                let (name, value) = part.split_once("=\"").unwrap();
                (name.trim().to_owned(), value.trim_end_matches('"').to_owned())
            })
            .collect();
        sent.sort();
        let app = &Request::read(xml.as_bytes()).unwrap().apps[0];
        assert_eq!((app.version.as_str(), app.update_check, app.ping.is_none()), ("1.0.5", false, true), "{xml}");
        assert_eq!(app.ota_attempt.as_deref(), attempt_of(report), "{xml}");
        sent
    }

    #[test]
    fn every_report_is_the_event_that_docs_omaha_md_says() {
        use ReportKind::{Abandoned, Committed, DownloadFinished, DownloadStarted, Failed, Installed, RolledBack};
        // In the order of the table: what is reported, of which attempt, and why.
        let reports: [(&str, ReportKind, &str, Option<Cause>); 8] = [
            ("the download begins", DownloadStarted, "id", None),
            ("everything is written", DownloadFinished, "id", None),
            ("proven; waiting for the reboot", Installed, "id", None),
            ("booted, healthy, marked good", Committed, "id", None),
            ("rolled back", RolledBack, "id", Some(Cause::RolledBack)),
            ("failed", Failed, "id", Some(Cause::PayloadMismatch)),
            ("an offer was refused", Failed, "", Some(Cause::WrongBoard)),
            ("given up by a person or for a newer release", Abandoned, "id", Some(Cause::Superseded)),
        ];
        // A new kind does not compile before it has its row here, and so in the document.
        let row_of = |kind| match kind {
            DownloadStarted => 0,
            DownloadFinished => 1,
            Installed => 2,
            Committed => 3,
            RolledBack => 4,
            Failed => 5,
            Abandoned => 7,
        };
        let rows = cells_of("\n## Events\n");
        assert_eq!(rows.len(), reports.len(), "docs/omaha.md: {rows:?}");
        for (index, ((what, kind, attempt, code), row)) in reports.into_iter().zip(&rows).enumerate() {
            let [happened, numbers, also] = row[..] else { panic!("docs/omaha.md: {row:?}") };
            assert_eq!((happened, attempt.is_empty() || row_of(kind) == index), (what, true), "docs/omaha.md");
            let report = report(kind, attempt, code.clone());
            let (event_type, result) = numbers.split_once(" / ").unwrap();
            let mut expected =
                vec![("eventresult".to_owned(), result.to_owned()), ("eventtype".to_owned(), event_type.to_owned())];
            let mut also: Vec<&str> = also.split(", ").filter(|words| !words.is_empty()).collect();
            also.retain(|words| *words != "no `ota_attempt`");
            if !attempt.is_empty() {
                expected.push(("ota_attempt".to_owned(), "id".to_owned()));
            }
            expected.extend(
                report
                    .reason
                    .as_ref()
                    .map(|reason| ("ota_reason".to_owned(), reason.replace('&', "&amp;").replace('"', "&quot;"))),
            );
            expected.extend(also.into_iter().map(|words| match words {
                "`previousversion`" => ("previousversion".to_owned(), "1.0.0".to_owned()),
                "`errorcode` by cause" => ("errorcode".to_owned(), error_code(&code.clone().unwrap()).to_wire().to_string()),
                fixed => {
                    let (name, value) = fixed.trim_matches('`').split_once('=').unwrap();
                    (name.to_owned(), value.trim_matches('"').to_owned())
                }
            }));
            expected.sort();
            assert_eq!(sent(&report), expected, "{what}");
        }
    }

    #[test]
    fn docs_omaha_md_lists_every_cause_in_order() {
        let head =
            ["| cause | meaning | code | update_engine's name | sent |", "| --- | --- | --- | --- | --- |"].map(str::to_owned);
        let row = |cause: &Cause| {
            let code = error_code(cause);
            let sent = if cause.is_reported() { "yes" } else { "no" };
            format!("| `{cause}` | {} | {} | {} | {sent} |", cause.meaning(), code.to_wire(), code.name())
        };
        let http = Cause::Http(404).meaning();
        let http = format!("| `http-NNN` | {http} | 2000 + NNN | OmahaRequestHTTPResponseBase + NNN | yes |");
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
