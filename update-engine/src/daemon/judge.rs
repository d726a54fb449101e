//! Is the slot that just booted healthy? The built-in checks, then the host owner's.

use std::time::Duration;

use manifests::release::SlotName;
use tokio::sync::watch;

use crate::boot::Standing;
use crate::daemon::{Shared, lock, now};
use crate::deadline::Trial;
use crate::durable;
use crate::engine::Event;
use crate::engine::event::Probing;
use crate::engine::facts::{Facts, FloorFacts};
use crate::engine::policy::millis;
use crate::engine::state::{Kind, Plan};
use crate::floor::FloorFile;
use crate::health::{self, BuiltIn, Health, Probe, Services, Turn};
use crate::world::{World, chain};

/// Probes health within its deadline. A slot that is healthy sooner is kept after that time. What is known to be wrong with it, and no
/// reason to leave it, is said with what the host owner's wanted checks find.
pub(super) async fn health(shared: Shared, plan: Plan, kept_after: Duration, warnings: Vec<String>) -> Event {
    let settings = &shared.settings;
    let probe = Probe {
        hooks_dir: settings.reboot.hooks_dir.clone(),
        context: lock::context(&plan),
        deadline: settings.health.deadline,
        settle: settings.health.settle,
        kept_after,
        hook_timeout: settings.health.hook_timeout,
        services: Services::of_host(&settings.sysroot),
        built_in: built_in(&shared, &plan),
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

/// How many built-in checks there are.
const CHECKS: usize = 4;

/// Of the built-in checks, one each, for all trials that this run of the daemon probes.
pub(super) type Turns = [Turn; CHECKS];

fn built_in(shared: &Shared, plan: &Plan) -> Vec<BuiltIn> {
    let (world, slot, kind, facts) = (shared.world.clone(), plan.slot, plan.kind, shared.facts());
    let [keyed, identified, grounded] = [world.clone(), world.clone(), world.clone()];
    // As many as there are turns: one without a turn would not be asked.
    let checks: [BuiltIn; CHECKS] = [
        // A mount may come late, of the state as well as of the ESP. The next two look into the state, too, so it is asked first.
        BuiltIn::each_round("state of the host", move || state(&world, slot, kind, &facts)),
        BuiltIn::once("keys of the new image", move || keys(&keyed, slot, kind)),
        BuiltIn::once("identity of the host", move || identity(&identified)),
        BuiltIn::each_round("slots of the host", move || grounded.ground().map(drop).map_err(|fault| fault.message)),
    ];
    checks.into_iter().zip(&shared.health_turns).map(|(check, turn)| check.in_turn(turn)).collect()
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

/// Whoever armed the slot had a floor, and wrote the trial down before. Where neither is there, and the boot table says that something was
/// armed, this image does not see the state of its host: kept, it would never know its floor again, nor end the attempt, nor give its lock
/// back. A journal alone may be lost (design 11.1). Where no other slot can be booted there is nothing to go back to, and what armed this one
/// may have been the factory, which has no state: leaving it would only spend its tries.
fn state(world: &World, slot: SlotName, kind: Kind, facts: &Facts) -> Result<(), String> {
    // The daemon begins anew with what is there now: it says nothing of this trial.
    world.state_is_that_of_the_journal().map_err(|fault| fault.message)?;
    let folder = &world.settings().state_dir;
    let has_way_back = facts.standing(slot.other()).is_some_and(Standing::is_bootable);
    let is_missing = || matches!((FloorFile::load(folder), Trial::load(folder)), (Ok(None), Ok(None)));
    if kind != Kind::Found || !has_way_back || !matches!(facts.floor, FloorFacts::Lost { .. }) || !is_missing() {
        return Ok(());
    }
    Err(format!(
        "slot {slot} was armed by a host whose state is not what is mounted at {}: expected the floor and the trial that were written down \
         there, found neither; the image has to mount the same file system there as the other slot does",
        folder.display()
    ))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use manifests::keyring::SecretKey;
    use manifests::version::{Sequence, Version};

    use super::*;
    use crate::config::{Source, parse};
    use crate::deadline;
    use crate::engine::facts::Floor;
    use crate::engine::state::Target;
    use crate::engine::tests::host;
    use crate::engine::time::Wall;
    use crate::fetch::{Fetcher, Options};
    use crate::slot::rig::Rig;
    use crate::world::tests::{world, world_that_trusts};

    /// Slot a is good, b is on trial, and no floor is there.
    fn lost() -> Facts {
        Facts { boot: Some(host::table(host::armed(2))), floor: FloorFacts::Lost { image: Sequence::ZERO }, ..host::facts() }
    }

    fn shared(world: &World, facts: Facts, deadline: Duration) -> (Shared, tokio::sync::mpsc::Receiver<Event>) {
        let (events, told) = tokio::sync::mpsc::channel(16);
        let mut shared = Shared::new(world.clone(), Fetcher::new(Options::default()).unwrap(), events, facts);
        let mut settings = (**world.settings()).clone();
        settings.health.deadline = deadline;
        settings.health.settle = Duration::ZERO;
        shared.settings = Arc::new(settings);
        (shared, told)
    }

    /// Whether slot b is kept by this deadline, or why not.
    async fn judged(world: &World, kind: Kind, facts: Facts, deadline: Duration) -> Result<Vec<String>, String> {
        let (shared, told) = shared(world, facts, deadline);
        judged_by(shared, told, kind).await
    }

    async fn judged_by(shared: Shared, mut told: tokio::sync::mpsc::Receiver<Event>, kind: Kind) -> Result<Vec<String>, String> {
        let target = Target {
            slot: SlotName::B,
            version: Version::parse("1.1.0").unwrap(),
            sequence: host::sequence(2),
            digest: host::digest(2),
        };
        let plan = Plan::without_payload("one".into(), kind, target, "1.0.0".into(), Wall(0));
        let telling = tokio::spawn(async move { while told.recv().await.is_some() {} });
        let event = health(shared, plan, Duration::ZERO, Vec::new()).await;
        telling.await.unwrap();
        match event {
            Event::Health { result, .. } => result,
            other => panic!("{other:?}"),
        }
    }

    /// Why an image without any key is not kept: what its state does not fail by, that ends it at once.
    async fn unhealthy(world: &World, kind: Kind, facts: Facts, deadline: Duration) -> String {
        judged(world, kind, facts, deadline).await.unwrap_err()
    }

    /// Waited for to its end: of a machine that does much else one round still comes to an end in it.
    const SHORT: Duration = Duration::from_secs(2);
    const LONG: Duration = Duration::from_secs(60);

    fn is_of_state(reason: &str) -> bool {
        assert!(reason.starts_with("state of the host") || reason.starts_with("keys of the new image"), "{reason}");
        reason.starts_with("state of the host")
    }

    #[tokio::test]
    async fn an_image_that_does_not_mount_the_state_of_its_host_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let world = world(dir.path());
        let state_dir = world.settings().state_dir.clone();
        assert_eq!(
            unhealthy(&world, Kind::Found, lost(), SHORT).await,
            format!(
                "state of the host: slot b was armed by a host whose state is not what is mounted at {}: expected the floor and the trial \
                 that were written down there, found neither; the image has to mount the same file system there as the other slot does",
                state_dir.display()
            )
        );

        // Design 11.1: a journal that was lost says nothing of the rest, nor does a disk as from the factory.
        let others = |reason: String| assert!(!is_of_state(&reason), "{reason}");
        let known = Facts { floor: FloorFacts::Known(Floor::default()), ..lost() };
        others(unhealthy(&world, Kind::Found, known, LONG).await);
        others(unhealthy(&world, Kind::Update, lost(), LONG).await);
        write_down(&world);
        others(unhealthy(&world, Kind::Found, lost(), LONG).await);
        deadline::forget(&state_dir).unwrap();
        // One that cannot be read is there.
        std::fs::write(state_dir.join("floor"), "nonsense").unwrap();
        others(unhealthy(&world, Kind::Found, lost(), LONG).await);
    }

    fn write_down(world: &World) {
        let trial =
            Trial { slot: SlotName::B, version: "1.1.0".into(), attempt: "one".into(), deadline: Duration::from_secs(600) };
        deadline::write_down(&trial, world.settings()).unwrap();
    }

    #[tokio::test]
    async fn the_first_image_on_trial_by_the_marks_of_its_factory_is_kept_without_a_state_where_nothing_else_can_be_booted() {
        let dir = tempfile::tempdir().unwrap();
        let world = world(dir.path());
        for other in [host::BLANK, host::SPENT, host::BAD, host::armed(1)] {
            let mut facts = lost();
            facts.boot.as_mut().unwrap().standing.a = other;
            let deadline = if other.is_bootable() { SHORT } else { LONG };
            let reason = unhealthy(&world, Kind::Found, facts, deadline).await;
            assert_eq!(is_of_state(&reason), other.is_bootable(), "{other}: {reason}");
        }
    }

    #[tokio::test]
    async fn a_state_whose_mount_comes_late_is_waited_for_until_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let world = world(dir.path());
        let mounted = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            write_down(&world);
        };
        let (reason, ()) = tokio::join!(unhealthy(&world, Kind::Found, lost(), LONG), mounted);
        assert!(!is_of_state(&reason), "{reason}");
    }

    #[tokio::test]
    async fn an_esp_whose_mount_comes_late_is_waited_for_until_the_deadline() {
        let rig = Rig::with_slots_of(16);
        rig.boot(1);
        let plain = world_that_trusts(rig.folder.path(), &SecretKey::from_seed(&[1; 32]));
        let on_esp = "slots.a.kernel = \"esp:/ota/{slot}.efi\"\nslots.b.kernel = \"esp:/ota/{slot}.efi\"\ndisk.esp = \"/efi\"";
        let usual = Source::new("usual", plain.settings().to_toml().unwrap());
        let settings = parse(&[usual, Source::new("esp", on_esp)]).unwrap();
        let world = World::new(Arc::new(settings), plain.records().clone());
        let known = Facts { floor: FloorFacts::Known(Floor::default()), ..lost() };
        let reason = judged(&world, Kind::Found, known.clone(), SHORT).await.unwrap_err();
        assert!(reason.starts_with("slots of the host: "), "{reason}");
        let mounted = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            std::fs::create_dir(rig.folder.path().join("efi")).unwrap();
        };
        let (result, ()) = tokio::join!(judged(&world, Kind::Found, known, LONG), mounted);
        assert_eq!(result, Ok(Vec::new()));
    }

    #[tokio::test]
    async fn a_question_of_an_earlier_probe_that_hangs_is_joined_by_no_other_and_holds_up_no_other_check() {
        let rig = Rig::with_slots_of(16);
        let world = world_that_trusts(rig.folder.path(), &SecretKey::from_seed(&[1; 32]));
        let known = Facts { floor: FloorFacts::Known(Floor::default()), ..lost() };
        let checks = ["state of the host", "keys of the new image", "identity of the host", "slots of the host"];
        let mut judgements = tokio::task::JoinSet::new();
        for (turn, check) in checks.into_iter().enumerate() {
            let (shared, told) = shared(&world, known.clone(), SHORT);
            assert_eq!(shared.health_turns.len(), checks.len());
            let hangs = shared.health_turns[turn].take().await;
            judgements.spawn(async move {
                let judged = judged_by(shared, told, Kind::Found).await;
                drop(hangs);
                (check, judged)
            });
        }
        while let Some(judged) = judgements.join_next().await {
            let (check, judged) = judged.unwrap();
            assert_eq!(judged, Err(format!("{check}: no answer by the deadline")));
        }
    }
}
