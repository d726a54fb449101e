//! Writing the inactive slot: disarm it, open it, and let [`crate::install`] fill it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use manifests::release::{Record, Release};

use crate::daemon::{Shared, ask, blocking, slots};
use crate::decoder::Program;
use crate::engine::cause::Cause;
use crate::engine::effect::Scan;
use crate::engine::event::{Event, Fault, Fetched};
use crate::engine::facts::BootTable;
use crate::engine::model::Progress;
use crate::engine::state::Plan;
use crate::fetch::Source;
use crate::install::{self, Base, Decoding, InstallError, Installed, Job, Phase};
use crate::slot::InactiveSlot;
use crate::world::{chain, disk_name, slot_fault};

/// Disarms the slot, then fetches, verifies and writes.
pub(super) async fn install(shared: Shared, plan: Plan, scan: Scan, cancel: Arc<AtomicBool>) -> Event {
    let attempt = plan.attempt.clone();
    let prepare = {
        let (shared, plan) = (shared.clone(), plan.clone());
        blocking(move || prepare(&shared, &plan)).await
    };
    let (prepared, boot) = match prepare {
        Ok(prepared) => prepared,
        Err(fault) => return Event::Installed { attempt, boot: None, result: Err(fault) },
    };
    let result = fill(&shared, &plan, prepared, scan, cancel).await;
    Event::Installed { attempt, boot: Some(boot), result }
}

struct Prepared {
    slot: InactiveSlot,
    release: Arc<Release>,
    /// What the slot may hold already, in whole or in part, if that is known.
    previous: Option<Record>,
    /// The slot that runs, for a delta to lean on.
    base: Base,
}

/// The record is verified and the slot opened, which changes nothing; only a slot that can be written is disarmed, and nothing is
/// written before it is (R8).
fn prepare(shared: &Shared, plan: &Plan) -> Result<(Prepared, BootTable), Fault> {
    let release = slots::release_of(&shared.world, plan)?;
    shared.world.has_room_for(release.record())?;
    let previous = shared.world.records().slot_may_hold(plan.slot);
    // A proof of the slot holds it open.
    shared.tokens.clear();
    let ground = shared.world.ground()?;
    let name = disk_name(plan.slot, &ground.disk)?;
    let slot = InactiveSlot::open(&ground.disk, &name, &ground.running, &slots::sizes_of(release.record(), plan.slot))
        .map_err(|error| slot_fault(&error))?
        .writing(shared.settings.disk.writes);
    let boot = slots::disarm_before_writing(&shared.world, plan, &ground)?;
    shared.set_read_back(plan.slot, None);
    let running = plan.slot.other();
    let record = shared.world.records().slot_record(running).map(|(record, _)| record);
    let base = Base { disk: ground.disk, slot: running, record };
    Ok((Prepared { slot, release: Arc::new(release), previous, base }, boot))
}

async fn fill(shared: &Shared, plan: &Plan, prepared: Prepared, scan: Scan, cancel: Arc<AtomicBool>) -> Result<Fetched, Fault> {
    let Prepared { slot, release, previous, base } = prepared;
    let scan = match (scan, previous) {
        (Scan::Shared, Some(previous)) => install::Scan::shared(&previous, release.record(), plan.slot),
        (Scan::All, _) | (Scan::Shared, None) => install::Scan::Any,
    };
    let job = Job {
        // A person may have given a delta and nothing else.
        sources: if plan.source.urls.is_empty() && plan.source.delta.is_some() {
            Vec::new()
        } else {
            sources(&plan.source.urls)?
        },
        payload_size: known(plan.source.size),
        // One that cannot be used is none: the full payload is there.
        delta: plan.source.delta.as_ref().and_then(|delta| Some((sources(&delta.urls).ok()?, known(delta.size)))),
        base: Some(base),
        decoding: Decoding::Confined(Program::Own),
        release,
        slot_name: plan.slot,
        slot,
        fetcher: shared.fetcher.clone(),
        scan,
    };
    let tell = shared.progress_of(plan);
    let progress = Arc::new(move |progress: install::Progress| tell(shown(progress)));
    let installed = tokio::select! {
        biased;
        never = shared.limits.keep() => match never {},
        installed = install::run(job, cancel, progress) => installed.map_err(|error| install_fault(&error))?,
    };
    let Installed { written, bytes_downloaded, bytes_reused, .. } = installed;
    shared.tokens.put_written(&plan.attempt, written);
    Ok(Fetched { bytes_downloaded, bytes_reused })
}

const fn known(size: u64) -> Option<u64> {
    if size > 0 { Some(size) } else { None }
}

/// Sources that cannot be used are passed over as long as one is left.
fn sources(urls: &[String]) -> Result<Vec<Source>, Fault> {
    let mut last = Fault::new(Cause::Download, "the answer names no URL for the payload");
    let mut usable = Vec::new();
    for url in urls {
        match Source::open(url) {
            Ok(source) => usable.push(source),
            Err(error) => last = ask::fetch_fault(Cause::Download, &error),
        }
    }
    if usable.is_empty() { Err(last) } else { Ok(usable) }
}

fn install_fault(error: &InstallError) -> Fault {
    Fault::new(error.cause(), chain(error)).not_before(error.retry_after().map(|wait| wait.as_secs()))
}

fn shown(progress: install::Progress) -> Progress {
    Progress {
        phase: match progress.phase {
            Phase::Scanning => "scanning",
            Phase::Fetching => "fetching",
        },
        windows_done: progress.windows_done,
        windows_total: progress.windows_total,
        bytes_written: progress.bytes_written,
        bytes_total: progress.bytes_total,
        bytes_downloaded: progress.bytes_downloaded,
        bytes_reused: progress.bytes_reused,
        rate_bytes_per_s: progress.rate_bytes_per_s,
        eta_s: progress.eta_s,
        trouble: progress.trouble,
    }
}
