//! The way to the reboot through other people's hands: gates, the lock, drain hooks.

use std::time::Duration;

use locksmith::client::{BaseUrl, Client, Error, Grant, Meaning, Options, RebootAcknowledged, Ticket, Token};
use locksmith::names::{AttemptId, GroupName, HostId, Label};
use locksmith::semaphore;
use tokio::time::Instant;

use crate::daemon::Shared;
use crate::durable;
use crate::engine::Event;
use crate::engine::cause::Cause;
use crate::engine::effect::{GateStage, LockOutcome};
use crate::engine::event::{Fault, Gate, LockGrant, LockHolder, LockRefusal};
use crate::engine::state::{Claim, Plan};
use crate::hooks::{self, AfterFailure, GateAnswer, HookContext, Stop, Stopper, TimeLimit};
use crate::world::chain;

/// How often a draining host shows that it is alive, when the server did not say.
const RENEW_EVERY: Duration = Duration::from_secs(30);
/// Longest a whole folder of drain hooks may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Looks at the gates: a pause, then `gate.d`. Windows, users and inhibitors of other builds belong here too.
pub(super) async fn gates(shared: Shared, plan: Plan, stage: GateStage, pause: Option<Gate>) -> Event {
    let mut gates = vec![pause.unwrap_or_else(|| open("pause"))];
    let folder = shared.settings.reboot.hooks_dir.join("gate.d");
    let limit = TimeLimit { each: shared.settings.health.hook_timeout, until: None };
    let hook_context = context(&plan);
    let (stopper, mut stop) = hooks::stopper();
    let run = hooks::run_until(&folder, &hook_context, limit, AfterFailure::GoOn, &mut stop);
    // Hooks may take longer than the lease lasts.
    let results = match stage {
        GateStage::BeforeFlip => while_held(&shared, &plan, run, &stopper).await,
        GateStage::BeforeLock | GateStage::BeforeReboot => Ok(run.await),
    };
    match results {
        Err(lost) => gates.push(closed("lock", lost.message)),
        Ok(Ok(results)) => gates.extend(results.iter().map(|result| match result.gate() {
            GateAnswer::Go => open("hook"),
            GateAnswer::NotNow { reason } => closed("hook", reason),
        })),
        Ok(Err(error)) => gates.push(closed("hook", chain(&error))),
    }
    Event::Gates { attempt: plan.attempt, stage, gates }
}

fn open(gate: &str) -> Gate {
    Gate { gate: gate.to_owned(), closed: None, until: None }
}

fn closed(gate: &str, reason: String) -> Gate {
    Gate { gate: gate.to_owned(), closed: Some(reason), until: None }
}

/// What hooks are told.
pub(super) fn context(plan: &Plan) -> HookContext {
    HookContext {
        attempt: plan.attempt.clone(),
        from: plan.from_version.clone(),
        to: plan.version.to_string(),
        slot: plan.slot.to_string(),
    }
}

/// Asks for the lock. Asking again for the same attempt brings the same grant.
pub(super) async fn ask(shared: Shared, plan: Plan) -> Event {
    shared.tokens.set_acknowledged(&plan.attempt, None);
    let result = match ticket(&plan).and_then(|ticket| Ok((client(&shared)?, ticket))) {
        Err(fault) => Err(LockRefusal { kind: "lock".to_owned(), message: fault.message, ..LockRefusal::default() }),
        Ok((client, ticket)) => match client.lock(&ticket, &facts(&shared, &plan)).await {
            Ok(grant) => {
                let fence = grant.fence.map(|fence| fence.to_string());
                shared.remember_grant(grant);
                Ok(LockGrant { fence })
            }
            Err(error) => Err(refusal(&error)),
        },
    };
    Event::Lock { attempt: plan.attempt, result }
}

/// Runs `drain.d` until they have ended or are told to stop, and renews the lock meanwhile: one that is lost ends the draining.
pub(super) async fn drain(shared: Shared, plan: Plan, stopper: Stopper, mut stop: Stop) -> Event {
    let folder = shared.settings.reboot.hooks_dir.join("drain.d");
    let limit = TimeLimit { each: shared.settings.health.hook_timeout, until: Some(Instant::now() + DRAIN_TIMEOUT) };
    let hook_context = context(&plan);
    let run = hooks::run_until(&folder, &hook_context, limit, AfterFailure::Stop, &mut stop);
    let ended = while_held(&shared, &plan, run, &stopper).await;
    let result = ended.and_then(|results| {
        let results = results.map_err(|error| Fault::new(Cause::Drain, chain(&error)))?;
        results.iter().find(|result| !result.is_ok()).map_or(Ok(()), |failed| Err(Fault::new(Cause::Drain, failed.words())))
    });
    Event::Drained { attempt: plan.attempt, result }
}

/// Runs hooks to their end. When the lock is lost they are told to stop, and have the time that hooks have for that: what comes
/// next must not meet them.
async fn while_held<T>(shared: &Shared, plan: &Plan, hooks: impl Future<Output = T>, stopper: &Stopper) -> Result<T, Fault> {
    let mut hooks = std::pin::pin!(hooks);
    tokio::select! {
        results = &mut hooks => Ok(results),
        lost = keep_alive(shared, plan) => {
            stopper.stop();
            hooks.await;
            Err(lost)
        }
    }
}

/// Renews the lock for ever; ends only when the server says that it is lost.
async fn keep_alive(shared: &Shared, plan: &Plan) -> Fault {
    let (Some(grant), Ok(client)) = (shared.grant_of(&plan.attempt), client(shared)) else { return std::future::pending().await };
    let every = grant.renew_every().unwrap_or(RENEW_EVERY);
    loop {
        tokio::time::sleep(every).await;
        // A server in trouble, or out of reach, for a moment is no loss; the acknowledgement before the flip decides.
        match client.renew(&grant).await {
            Err(Error::Refused(refused)) if matches!(refused.meaning, Meaning::NotHeld | Meaning::IdInUse) => {
                return Fault::new(Cause::LockLost, format!("the reboot lock was lost while draining: {refused}"));
            }
            Err(error) => tracing::warn!(attempt = %plan.attempt, "the reboot lock could not be renewed, tried again: {error}"),
            Ok(_) => {}
        }
    }
}

/// Runs `undrain.d`; what fails there is logged, nothing else can be done about it.
pub(super) async fn undrain(shared: Shared, plan: Plan) -> Event {
    let folder = shared.settings.reboot.hooks_dir.join("undrain.d");
    let limit = TimeLimit { each: shared.settings.health.hook_timeout, until: None };
    match hooks::run(&folder, &context(&plan), limit, AfterFailure::GoOn).await {
        Ok(results) => {
            for failed in results.iter().filter(|result| !result.is_ok()) {
                tracing::warn!(attempt = %plan.attempt, "undrain hook: {}", failed.words());
            }
        }
        Err(error) => tracing::warn!(attempt = %plan.attempt, "undrain hooks: {}", chain(&error)),
    }
    Event::Undrained { attempt: plan.attempt }
}

/// Tells the lock server that the host reboots now. Only its durable acknowledgement permits the flip.
pub(super) async fn acknowledge(shared: Shared, plan: Plan) -> Event {
    let (acknowledged, result) = match tell_rebooting(&shared, &plan).await {
        Ok(acknowledged) => (Some(acknowledged), Ok(())),
        Err(error) => (None, Err(Fault::new(Cause::Lock, error))),
    };
    shared.tokens.set_acknowledged(&plan.attempt, acknowledged);
    Event::RebootAcknowledged { attempt: plan.attempt, result }
}

async fn tell_rebooting(shared: &Shared, plan: &Plan) -> Result<RebootAcknowledged, String> {
    let ticket = ticket(plan).map_err(|fault| fault.message)?;
    let fence = plan.claim.as_ref().and_then(|claim| claim.fence.as_ref()).and_then(|fence| fence.parse().ok());
    let grant = shared.grant_of(&plan.attempt).unwrap_or(Grant { ticket, fence, phase: None, lease_s: None });
    let client = client(shared).map_err(|fault| fault.message)?;
    // Every try of the loader, each with its health deadline.
    let tries = u32::from(crate::boot::gpt::Tries::ARMED.get());
    let deadline = (shared.settings.health.deadline + BOOT_TIME).saturating_mul(tries);
    client.set_phase_rebooting(&grant, Some(deadline)).await.map_err(|error| error.to_string())
}

/// What one boot may take before the daemon runs.
const BOOT_TIME: Duration = Duration::from_secs(300);

/// Gives a lock back for an attempt that has ended. A server that says that nothing is held there (or that it has no such group,
/// in which nothing can be held) has said what was wanted of it.
pub(super) async fn release(shared: &Shared, attempt: &str, claim: &Claim, outcome: LockOutcome) -> Result<(), Fault> {
    let ticket = ticket_of(attempt, claim)?;
    let outcome = match outcome {
        LockOutcome::Ok => semaphore::Outcome::Ok,
        LockOutcome::RolledBack => semaphore::Outcome::RolledBack,
        LockOutcome::Aborted => semaphore::Outcome::Aborted,
    };
    match client(shared)?.release(&ticket, outcome).await {
        Ok(_) => Ok(()),
        Err(Error::Refused(refused)) if matches!(refused.meaning, Meaning::NotHeld | Meaning::UnknownGroup) => {
            tracing::info!(attempt, "nothing to give back: {refused}");
            Ok(())
        }
        Err(error) => {
            let fault = Fault::new(Cause::Lock, format!("group {}: {error}", claim.group));
            Err(fault.not_before(error.retry_after().map(|wait| wait.as_secs())))
        }
    }
}

fn refusal(error: &Error) -> LockRefusal {
    let Error::Refused(refused) = error else {
        return LockRefusal { kind: "lock".to_owned(), message: error.to_string(), ..LockRefusal::default() };
    };
    let holder = |holder: &locksmith::fleetlock::HolderBody| LockHolder {
        id: holder.id.as_str().to_owned(),
        since: Some(holder.since.to_string()),
        phase: Some(holder.stands().to_owned()),
    };
    let place = refused.place.map(|place| format!(" (place {place} in the queue)")).unwrap_or_default();
    LockRefusal {
        kind: "lock".to_owned(),
        message: format!("{refused}{place}"),
        holders: refused.holders.iter().map(holder).collect(),
        max: refused.max,
        retry_after_s: refused.retry_after.map(|wait| wait.as_secs()),
    }
}

fn facts(shared: &Shared, plan: &Plan) -> semaphore::Facts {
    semaphore::Facts {
        boot_id: label(&shared.boot_id()),
        product: label(&shared.settings.server.app_id),
        version: label(plan.version.as_str()),
        sequence: Some(plan.sequence.get()),
        ..semaphore::Facts::default()
    }
}

fn label(text: &str) -> Option<Label> {
    Label::parse("fact", text).ok()
}

fn ticket(plan: &Plan) -> Result<Ticket, Fault> {
    let claim = plan.claim.as_ref().ok_or_else(|| Fault::new(Cause::Lock, "the attempt has no claim to the lock"))?;
    ticket_of(&plan.attempt, claim)
}

fn ticket_of(attempt: &str, claim: &Claim) -> Result<Ticket, Fault> {
    let fault = |error: &dyn std::fmt::Display| Fault::new(Cause::Lock, format!("the lock cannot be asked for: {error}"));
    Ok(Ticket {
        base_url: BaseUrl::parse(&claim.url).map_err(|error| fault(&error))?,
        group: GroupName::parse(&claim.group).map_err(|error| fault(&error))?,
        id: HostId::parse(&claim.id).map_err(|error| fault(&error))?,
        attempt: AttemptId::parse(attempt).map_err(|error| fault(&error))?,
    })
}

fn client(shared: &Shared) -> Result<Client, Fault> {
    let fault = |error: &dyn std::fmt::Display| Fault::new(Cause::Lock, error.to_string());
    let mut options = Options::default();
    if let Some(lock) = &shared.settings.reboot.lock
        && let Some(file) = &lock.token_file
    {
        let bytes = durable::read_capped(file, 4096).map_err(|error| fault(&format!("{}: {error}", file.display())))?;
        let token = Token::parse(String::from_utf8_lossy(&bytes).trim()).map_err(|error| fault(&error))?;
        let base = BaseUrl::parse(lock.url.expose().as_str()).map_err(|error| fault(&error))?;
        options = options.token(&base, token);
    }
    options.build().map_err(|error| fault(&error))
}
