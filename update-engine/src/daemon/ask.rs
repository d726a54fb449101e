//! A check, from the question to a verified offer.

use std::path::Path;
use std::time::Duration;

use manifests::limits::MAX_RECORD_BYTES;
use manifests::omaha::{self, ActionCode, Package, PackageKind, PackageName, Update, UpdateAnswer, Verdict};
use manifests::release::{Envelope, RecordError, Release};
use manifests::version::Version;

use crate::config::Settings;
use crate::daemon::{Shared, blocking, look};
use crate::engine::Event;
use crate::engine::cause::Cause;
use crate::engine::event::{AskAgain, CheckAnswer, Fault, Lack, Offer};
use crate::engine::facts::Facts;
use crate::engine::model::Hold;
use crate::engine::state::{DeltaSource, Origin, Request, Source};
use crate::fetch::{self, Address, FetchError};
use crate::report::{self, Initiator};
use crate::world::chain;

/// Longest time a check may take, with all the servers it asks: each request has a bound of its own, and there may be many.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Looks at the world, asks the server (or reads the files), and verifies the record of what is offered. Nobody is asked while it
/// cannot be written down what this host has committed: a release that it forbids must not be taken.
pub(super) async fn check(shared: Shared, request: Request, channel: Option<String>) -> Event {
    let world = shared.world.clone();
    let looked = shared.looker.look(move || {
        let facts = world.look(channel.as_deref());
        let raised = world.raise_floor(&facts);
        (facts, raised)
    });
    let (facts, raised) = match looked.await {
        Ok(seen) => seen,
        Err(fault) => {
            let facts = Box::new(look::unseen(shared.facts(), fault.clone()));
            return Event::Checked { facts, answer: Box::new(CheckAnswer::Failed { fault, retry_after_s: None }) };
        }
    };
    let asked = async {
        if let Err(fault) = raised {
            let message = format!("the floor of this host could not be raised: {}", fault.message);
            return CheckAnswer::Failed { fault: Fault { message, ..fault }, retry_after_s: None };
        }
        match &request.origin {
            Origin::Files { release, payload, delta } => {
                let delta = delta.clone().map(|delta| DeltaSource { urls: vec![delta], size: 0 });
                from_files(&shared, release, Source { urls: payload.iter().cloned().collect(), size: 0, delta }).await
            }
            Origin::Timer => from_server(&shared, &facts, Initiator::Schedule).await,
            Origin::Person => from_server(&shared, &facts, Initiator::Person).await,
        }
    };
    let answer = tokio::time::timeout(CHECK_TIMEOUT, asked).await.unwrap_or_else(|_too_long| {
        let message = format!("the check was not done in {} minutes", CHECK_TIMEOUT.as_secs() / 60);
        CheckAnswer::Failed { fault: Fault::new(Cause::ServerUnreachable, message), retry_after_s: None }
    });
    Event::Checked { facts: Box::new(facts), answer: Box::new(answer) }
}

/// Looks at the world, and asks nobody.
pub(super) async fn look(shared: Shared, channel: Option<String>) -> Event {
    Event::Looked { facts: Box::new(look::look(&shared, channel).await) }
}

/// The same, before the host is left because it was not seen.
pub(super) async fn look_to_leave(shared: Shared, channel: Option<String>) -> Event {
    Event::LookedToLeave { facts: Box::new(look::look(&shared, channel).await) }
}

async fn from_files(shared: &Shared, release: &str, source: Source) -> CheckAnswer {
    let read = async {
        let record = fetch::Source::open(release).map_err(|error| fetch_fault(Cause::RecordFetch, &error))?;
        shared.fetcher.get_capped(&record, MAX_RECORD_BYTES).await.map_err(|error| fetch_fault(Cause::RecordFetch, &error))
    };
    let bytes = match read.await {
        Ok(bytes) => bytes,
        Err(fault) => return CheckAnswer::Failed { fault, retry_after_s: None },
    };
    match verified(shared, &bytes).await {
        Ok(release) => CheckAnswer::Offer { again: AskAgain::default(), offer: Box::new(offer(&release, None, source)) },
        Err(Unverified::Bad(fault)) => CheckAnswer::BadRecord { again: AskAgain::default(), version: release.to_owned(), fault },
        Err(Unverified::Here(fault)) => CheckAnswer::Failed { fault, retry_after_s: None },
    }
}

async fn from_server(shared: &Shared, facts: &Facts, initiator: Initiator) -> CheckAnswer {
    let failed = |fault| CheckAnswer::Failed { fault, retry_after_s: None };
    let address = match server(&shared.settings) {
        Ok(address) => address,
        Err(fault) => return failed(fault),
    };
    let body = report::check_request(facts, initiator, None).write();
    let answer = match shared.fetcher.post_omaha(&address, body, &[]).await {
        Ok(answer) => answer,
        Err(error) => {
            let retry_after_s = error.retry_after().map(|wait| wait.as_secs());
            return CheckAnswer::Failed { fault: fetch_fault(Cause::ServerUnreachable, &error), retry_after_s };
        }
    };
    let retry_after_s = answer.retry_after.map(|wait| wait.as_secs());
    match UpdateAnswer::read(&answer.bytes, &facts.identity.app_id) {
        Err(error) => CheckAnswer::Failed { fault: omaha_fault(&address, &error), retry_after_s },
        Ok(update) => {
            let again = AskAgain { poll_interval_s: update.poll_interval_s.map(u64::from), retry_after_s };
            match update.verdict {
                Verdict::ServerError(error) => {
                    let fault = Fault::new(Cause::OmahaStatus, format!("{address}: {error}"));
                    CheckAnswer::Failed { fault, retry_after_s }
                }
                Verdict::NoUpdate { hold } => CheckAnswer::NoUpdate { again, hold: hold.map(|hold| held(&hold)) },
                Verdict::Update(update) => fetch_offer(shared, facts, &update, again).await,
            }
        }
    }
}

fn held(hold: &omaha::Hold) -> Hold {
    let reason = hold.reason.clone().or_else(|| hold.kind.clone()).unwrap_or_else(|| "no reason given".to_owned());
    Hold { reason, until: hold.until.map(|until| until.to_string()), since: None }
}

/// Fetches the record from the codebases in their order, until one gives a record that verifies. One that is bad tells more
/// than one that could not be had.
async fn fetch_offer(shared: &Shared, facts: &Facts, update: &Update, again: AskAgain) -> CheckAnswer {
    let version = update.version.to_string();
    let record_name = PackageName::record_of(&update.version);
    let mut missing = Fault::new(Cause::RecordFetch, "the answer has no codebase");
    let mut lack = Lack::Lasting;
    let mut busy_s = None;
    let mut bad = None;
    for codebase in &update.codebases {
        let url = codebase.url_of(&record_name);
        let bytes = match fetch_record(shared, &url).await {
            Ok(bytes) => bytes,
            Err(error) => {
                if !error.is_final() {
                    lack = Lack::Passing;
                }
                missing = fetch_fault(Cause::RecordFetch, &error);
                busy_s = busy_s.max(missing.retry_after_s);
                continue;
            }
        };
        match verified(shared, &bytes).await {
            Ok(release) => {
                let offer = offer(&release, Some(version), payload_source(update, facts));
                return CheckAnswer::Offer { again, offer: Box::new(offer) };
            }
            // The next server's record could not be used either.
            Err(Unverified::Here(fault)) => return CheckAnswer::NoRecord { again, version, fault, lack: Lack::Here },
            Err(Unverified::Bad(fault)) => {
                let message = format!("{}: {}", crate::config::hide_credentials(&url), fault.message);
                bad = Some(Fault { message, ..fault });
            }
        }
    }
    match bad {
        Some(fault) => CheckAnswer::BadRecord { again, version, fault },
        None => {
            // Only where nobody gave a record: no server of files may silence the update server.
            let again = AskAgain { retry_after_s: again.retry_after_s.max(busy_s), ..again };
            CheckAnswer::NoRecord { again, version, fault: missing, lack }
        }
    }
}

async fn fetch_record(shared: &Shared, url: &str) -> Result<Vec<u8>, FetchError> {
    let address = Address::parse(url)?;
    shared.fetcher.get_capped(&address.into(), MAX_RECORD_BYTES).await
}

/// Why a record that was had is of no use.
enum Unverified {
    /// It is bad.
    Bad(Fault),
    /// This host cannot check it, or cannot keep it: that says nothing about the record.
    Here(Fault),
}

/// Checks a record's signatures with this image's keys, and keeps its bytes for the attempt.
async fn verified(shared: &Shared, bytes: &[u8]) -> Result<Release, Unverified> {
    let (world, bytes) = (shared.world.clone(), bytes.to_vec());
    let bad = |error: RecordError| Unverified::Bad(record_fault(&error));
    blocking(move || {
        let keyring = world.keyring().map_err(Unverified::Here)?;
        let envelope = Envelope::parse(&bytes).map_err(bad)?;
        let release = envelope.verify(&keyring).map_err(bad)?;
        world.has_room_for(release.record()).map_err(Unverified::Here)?;
        let keep = world.records().keep_offer(release.digest(), &bytes);
        keep.map_err(|error| Unverified::Here(Fault::new(Cause::StateDir, chain(&error))))?;
        Ok(release)
    })
    .await
}

fn offer(release: &Release, announced_version: Option<String>, source: Source) -> Offer {
    Offer { record: release.record().clone(), digest: release.digest(), announced_version, source }
}

/// The full payload: by its name if the answer lists it, else the first package, as update_engine takes it, but neither a record nor a delta.
fn payload_source(update: &Update, facts: &Facts) -> Source {
    let by_name = update.package(&PackageName::payload_of(&update.version));
    let may_be_one = |package: &&Package| package.kind != PackageKind::Delta && !package.name.as_str().ends_with(".release");
    let full = by_name.or_else(|| update.packages.iter().find(may_be_one));
    let (urls, size) = full.map_or_else(Default::default, |package| (urls_of(update, package), package.size_bytes));
    Source { urls, size, delta: delta_source(update, facts) }
}

/// The delta from the version that runs, if the answer lists one.
fn delta_source(update: &Update, facts: &Facts) -> Option<DeltaSource> {
    let running = Version::parse(&facts.running_content().version?).ok()?;
    let package = update.delta_from(&running)?;
    Some(DeltaSource { urls: urls_of(update, package), size: package.size_bytes })
}

fn urls_of(update: &Update, package: &Package) -> Vec<String> {
    update.codebases.iter().map(|codebase| codebase.url_of(&package.name)).collect()
}

/// The update server's address.
pub(super) fn server(settings: &Settings) -> Result<Address, Fault> {
    let url = settings
        .server
        .url
        .as_ref()
        .ok_or_else(|| Fault::new(Cause::NoServer, "no update server is configured ([server] url)"))?;
    Address::parse(url.expose().as_str()).map_err(|error| fetch_fault(Cause::ServerUnreachable, &error))
}

/// A server's error status says more than that something could not be had.
pub(super) fn fetch_fault(cause: Cause, error: &FetchError) -> Fault {
    Fault::new(error.status().map_or(cause, Cause::Http), error.to_string())
        .not_before(error.retry_after().map(|wait| wait.as_secs()))
}

fn omaha_fault(address: &Address, error: &omaha::Error) -> Fault {
    let cause = match error.code().action() {
        ActionCode::OmahaRequestEmptyResponseError => Cause::OmahaEmpty,
        ActionCode::OmahaRequestXMLParseError => Cause::OmahaXml,
        _ => Cause::OmahaInvalid,
    };
    Fault::new(cause, format!("{address}: the answer is no Omaha answer: {}", chain(error)))
}

fn record_fault(error: &RecordError) -> Fault {
    Fault::new(record_cause(error), error.to_string())
}

/// What is wrong with a record, wherever it was read.
pub(super) const fn record_cause(error: &RecordError) -> Cause {
    match error {
        RecordError::Unsigned { .. } => Cause::RecordUnsigned,
        RecordError::Forged { .. } | RecordError::TooFewSignatures { .. } => Cause::RecordSignature,
        RecordError::RevokesItsSigners { .. } => Cause::SignersRevoked,
        _ => Cause::RecordMalformed,
    }
}

/// Reads a record for `adopt` from an absolute path.
pub(super) fn read_record(path: &Path) -> Result<Vec<u8>, Fault> {
    crate::durable::read_capped(path, MAX_RECORD_BYTES)
        .map_err(|error| Fault::new(Cause::RecordFetch, format!("{}: {error}", path.display())))
}
