//! Is the slot that just booted healthy? The built-in checks, then the host owner's.

use std::time::Duration;

use manifests::release::SlotName;
use tokio::sync::watch;

use crate::daemon::{Shared, blocking, lock, now};
use crate::durable;
use crate::engine::Event;
use crate::engine::event::Probing;
use crate::engine::policy::millis;
use crate::engine::state::{Kind, Plan};
use crate::health::{self, Health, Probe, Services};
use crate::world::{World, chain};

/// Probes health within its deadline. A slot that is healthy sooner is kept after that time. What is known to be wrong with it, and no
/// reason to leave it, is said with what the host owner's wanted checks find.
pub(super) async fn health(shared: Shared, plan: Plan, kept_after: Duration, warnings: Vec<String>) -> Event {
    let (world, slot, kind) = (shared.world.clone(), plan.slot, plan.kind);
    let built_in = blocking(move || {
        vec![
            ("keys of the new image".to_owned(), keys(&world, slot, kind)),
            ("identity of the host".to_owned(), identity(&world)),
            ("slots of the host".to_owned(), world.ground().map(drop).map_err(|fault| fault.message)),
        ]
    })
    .await;
    let settings = &shared.settings;
    let probe = Probe {
        hooks_dir: settings.reboot.hooks_dir.clone(),
        context: lock::context(&plan),
        deadline: settings.health.deadline,
        settle: settings.health.settle,
        kept_after,
        hook_timeout: settings.health.hook_timeout,
        services: Services::of_host(&settings.sysroot),
        built_in,
        warnings,
    };
    let result = match probe_and_tell(&shared, &plan, &probe).await {
        Health::Healthy { warnings } => {
            for warning in &warnings {
                tracing::warn!(attempt = %plan.attempt, "health (wanted): {warning}");
            }
            Ok(warnings)
        }
        Health::Unhealthy { reason, output } => {
            tracing::warn!(attempt = %plan.attempt, %output, "unhealthy: {reason}");
            Err(reason)
        }
    };
    Event::Health { attempt: plan.attempt, result }
}

/// The engine hears when the probe ends, and what fails meanwhile.
pub(super) async fn probe_and_tell(shared: &Shared, plan: &Plan, probe: &Probe) -> Health {
    let until = now().mono.after(millis(probe.deadline));
    let (latest, mut findings) = watch::channel(None);
    // Its end of the channel goes with it, and that ends the telling.
    let probing = async move { health::probe(probe, &latest).await };
    let telling = async {
        loop {
            let probing = Probing { until, failing: findings.borrow_and_update().clone() };
            let told = shared.events.send(Event::Probing { attempt: plan.attempt.clone(), probing }).await;
            if told.is_err() || findings.changed().await.is_err() {
                break;
            }
        }
    };
    let (health, ()) = tokio::join!(probing, telling);
    health
}

/// Design 11.4: an image whose own keys do not verify the record that installed it could never be updated again.
fn keys(world: &World, slot: SlotName, kind: Kind) -> Result<(), String> {
    if kind == Kind::Found && world.records().slot_record(slot).is_none() {
        // Nobody knows what it was signed with; without a key of its own it could never be updated again, either.
        return world.keyring().map(drop).map_err(|fault| fault.message);
    }
    // As it will be once this release is committed: what it revokes no longer counts.
    let revokes = world.records().slot_record(slot).map(|(record, _)| record.revoked_keys).unwrap_or_default();
    let keyring = world.keyring_without(&revokes).map_err(|fault| fault.message)?;
    world.records().verify_slot(slot, &keyring).map(drop).map_err(|error| chain(&error))
}

/// Design 11.16: the new image must still be the same host to its servers.
fn identity(world: &World) -> Result<(), String> {
    let path = world.settings().state_dir.join("identity");
    let before = match durable::read_capped(&path, 256) {
        Ok(before) => before,
        // A host that was updated by an older daemon, or confirmed by a person, has none.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let (before, now) = (String::from_utf8_lossy(&before).trim().to_owned(), world.machine_id().unwrap_or_default());
    if before == now {
        Ok(())
    } else {
        Err(format!("etc/machine-id was {before:?} when the slot was armed and is {now:?} now: it has to persist across slots"))
    }
}
