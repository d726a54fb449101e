//! Everything that touches a slot or the boot table: disarm, write, read back, arm, mark.
//!
//! Each work finds the disk and the running slot anew, and hands on what it earned through [`Tokens`]: a written slot to the
//! read-back, a proven one to the arming. Tokens live in memory only; after a restart they are earned again. No mark is written by a journal
//! that is not that of the state folder any more; where that cannot be told, none that leads on, but every one that leads back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use locksmith::client::RebootAcknowledged;
use manifests::release::{Record, Release, SlotName};

use crate::boot::{BootError, BootState, Permit, Standing};
use crate::daemon::{Shared, ask, blocking, inspect};
use crate::deadline::{self, Trial};
use crate::engine::Event;
use crate::engine::cause::Cause;
use crate::engine::event::{Fault, Marked, Proof};
use crate::engine::facts::BootTable;
use crate::engine::model::Progress;
use crate::engine::state::{Kind, Plan};
use crate::records::RecordsError;
use crate::slot::readback::ImageMismatch;
use crate::slot::readback::{self, Acceptance};
use crate::slot::{ImageTable, ProveError, Proven, Reopened, SlotError, Transfer, Watch, Written};
use crate::status::json::ReadBack;
use crate::world::{Ground, World, boot_fault, boot_table, chain, disk_name, slot_fault};

/// What was earned in this run of the daemon.
#[derive(Default)]
pub(super) struct Tokens {
    inner: Mutex<Earned>,
}

#[derive(Default)]
struct Earned {
    written: Option<(String, Written)>,
    proven: Option<(String, Proven)>,
    acknowledged: Option<(String, RebootAcknowledged)>,
}

impl Tokens {
    /// Lets go of everything that does not belong to the attempt under way.
    pub(super) fn keep_only(&self, attempt: Option<&str>) {
        let mut earned = self.lock();
        if earned.written.as_ref().is_some_and(|(of, _)| Some(of.as_str()) != attempt) {
            earned.written = None;
        }
        if earned.proven.as_ref().is_some_and(|(of, _)| Some(of.as_str()) != attempt) {
            earned.proven = None;
        }
        if earned.acknowledged.as_ref().is_some_and(|(of, _)| Some(of.as_str()) != attempt) {
            earned.acknowledged = None;
        }
    }

    pub(super) fn clear(&self) {
        *self.lock() = Earned::default();
    }

    pub(super) fn put_written(&self, attempt: &str, written: Written) {
        self.lock().written = Some((attempt.to_owned(), written));
    }

    fn take_written(&self, attempt: &str) -> Option<Written> {
        self.lock().written.take_if(|(of, _)| of == attempt).map(|(_, written)| written)
    }

    fn put_proven(&self, attempt: &str, proven: Proven) {
        self.lock().proven = Some((attempt.to_owned(), proven));
    }

    fn take_proven(&self, attempt: &str) -> Option<Proven> {
        self.lock().proven.take_if(|(of, _)| of == attempt).map(|(_, proven)| proven)
    }

    /// What the lock server said last; where it was no acknowledgement, an earlier one counts no more.
    pub(super) fn set_acknowledged(&self, attempt: &str, acknowledged: Option<RebootAcknowledged>) {
        self.lock().acknowledged = acknowledged.map(|acknowledged| (attempt.to_owned(), acknowledged));
    }

    fn take_acknowledged(&self, attempt: &str) -> Option<RebootAcknowledged> {
        self.lock().acknowledged.take_if(|(of, _)| of == attempt).map(|(_, acknowledged)| acknowledged)
    }

    /// A thread that panicked while holding the lock leaves nothing half-done here.
    fn lock(&self) -> std::sync::MutexGuard<'_, Earned> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Names and sizes of the images for a slot, as opening it wants them.
pub(super) fn sizes_of(record: &Record, slot: SlotName) -> Vec<(&str, u64)> {
    record.images_for(slot).map(|(_, image)| (image.name.as_str(), image.table.image_size())).collect()
}

/// Before the first byte of a slot changes: the boot control is known to work, the slot is not bootable, its record is gone.
///
/// A floor is founded before the boot table changes: afterwards nothing tells a host that was never updated from one that lost it.
pub(super) fn disarm_before_writing(world: &World, plan: &Plan, ground: &Ground) -> Result<BootTable, Fault> {
    let slot = disk_name(plan.slot, &ground.disk)?;
    let mut control = world.boot_control(&ground.disk)?;
    control.self_test().map_err(|error| boot_fault(&error))?;
    world.found_floor(&world.look(None))?;
    let state = control.disarm(&slot, &ground.running).map_err(|error| boot_fault(&error))?;
    let becomes = world.records().slot_becomes(plan.slot, plan.digest);
    becomes.map_err(|error| Fault::new(Cause::StateDir, chain(&error)))?;
    boot_table(&state)
}

/// Loads the release of a plan: an update is verified anew; what was committed before is known by its digest, whatever keys are
/// trusted now (design 11.6).
pub(super) fn release_of(world: &World, plan: &Plan) -> Result<Release, Fault> {
    let release = match plan.kind {
        Kind::Update => world.records().load_offer(plan.digest, &world.keyring()?),
        Kind::Rollback | Kind::Found => world.records().committed(plan.slot, plan.digest),
    };
    release.map_err(|error| Fault::new(records_cause(&error), chain(&error)))
}

const fn records_cause(error: &RecordsError) -> Cause {
    match error {
        RecordsError::Io { .. } => Cause::StateDir,
        RecordsError::Record { source, .. } => ask::record_cause(source),
        RecordsError::Other { .. } => Cause::RecordMalformed,
    }
}

/// Reads the slot back, window by window, past the page cache.
pub(super) async fn read_back(shared: Shared, plan: Plan, cancel: Arc<AtomicBool>) -> Event {
    let attempt = plan.attempt.clone();
    let report = shared.progress_of(&plan);
    let result = blocking(move || prove(&shared, &plan, &cancel, &report)).await;
    Event::ReadBack { attempt, result }
}

fn prove(shared: &Shared, plan: &Plan, cancel: &AtomicBool, report: &(dyn Fn(Progress) + Sync)) -> Result<Proof, Fault> {
    let (world, tokens) = (&shared.world, &shared.tokens);
    let release = release_of(world, plan)?;
    let record = release.record();
    let tables = image_tables(record, plan.slot)?;
    let show = |progress: readback::Progress| report(proving(progress));
    let watch = Watch::new(readback::thread_count(), cancel, &show);
    let acceptance = if plan.kind == Kind::Rollback { Acceptance::CommittedBefore } else { Acceptance::EveryWindow };
    let digest = *release.digest().as_bytes();
    // An earlier proof holds the slot open, and whoever asks for a new one has no use for it: it is too old.
    drop(tokens.take_proven(&plan.attempt));
    let proven = match tokens.take_written(&plan.attempt) {
        Some(written) => readback::prove(written, digest, &tables, acceptance, &watch),
        None => {
            let ground = world.ground()?;
            let slot = disk_name(plan.slot, &ground.disk)?;
            let reopened = Reopened::open(&ground.disk, &slot, &ground.running, &sizes_of(record, plan.slot))
                .map_err(|error| slot_fault(&error))?;
            readback::prove(reopened, digest, &tables, acceptance, &watch)
        }
    };
    match proven {
        Ok(proven) => {
            let changed = proven.changed();
            if let Some(detail) = damage(world, plan, changed, record)?.or_else(|| too_much_changed(changed, record, plan.slot)) {
                return Ok(Proof::Differs { detail });
            }
            if plan.kind == Kind::Update {
                world.records().slot_holds(plan.slot, plan.digest).map_err(|error| Fault::new(Cause::StateDir, chain(&error)))?;
            }
            shared.set_read_back(plan.slot, Some(how(proven.transfer())));
            tokens.put_proven(&plan.attempt, proven);
            Ok(Proof::Equal)
        }
        Err(ProveError::Differs(mismatch)) => Ok(Proof::Differs { detail: mismatch.to_string() }),
        Err(error @ ProveError::Verity { .. }) => Err(Fault::new(Cause::RecordMalformed, error.to_string())),
        Err(ProveError::Slot(SlotError::Cancelled)) => Err(Fault::new(Cause::Cancelled, "the read-back was stopped")),
        Err(ProveError::Slot(error)) => Err(Fault::new(Cause::ReadBack, chain(&error))),
    }
}

/// What differs in an image that nothing can have been written to is damage, or somebody's doing.
fn damage(world: &World, plan: &Plan, changed: &[ImageMismatch], record: &Record) -> Result<Option<String>, Fault> {
    if changed.is_empty() {
        return Ok(None);
    }
    let ground = world.ground()?;
    let damaged = changed.iter().find(|image| inspect::is_immutable(&ground, plan.slot, record, image));
    Ok(damaged.map(|image| format!("{} differs, and is one that is never written to", inspect::difference(image, record))))
}

/// A file system that was mounted for writing changes a few windows of a slot that was committed (design 11.6). A slot of which
/// more than a part has changed is another system.
fn too_much_changed(changed: &[ImageMismatch], record: &Record, slot: SlotName) -> Option<String> {
    let changed: u64 = changed.iter().map(|image| u64::try_from(image.windows.len()).unwrap_or(u64::MAX)).sum();
    let total: u64 = record.images_for(slot).map(|(_, image)| u64::from(image.table.count())).sum();
    if changed > 0 {
        tracing::warn!(slot = %slot, changed, total, "windows of a slot that was committed have changed since");
    }
    (changed > total / CHANGED_PART).then(|| format!("{changed} of {total} windows have changed since"))
}

/// One window in so many may have changed in a slot to go back to.
const CHANGED_PART: u64 = 4;

/// What those images have to be.
pub(super) fn image_tables(record: &Record, slot: SlotName) -> Result<Vec<ImageTable<'_>>, Fault> {
    record.images_for(slot).map(|(_, image)| ImageTable::of(image).map_err(|error| slot_fault(&error))).collect()
}

const fn how(transfer: Transfer) -> ReadBack {
    match transfer {
        Transfer::Direct => ReadBack::Direct,
        Transfer::Cached => ReadBack::Cached,
    }
}

/// A reading, as progress.
pub(super) fn proving(progress: readback::Progress) -> Progress {
    Progress {
        phase: "proving",
        windows_done: progress.windows_done,
        windows_total: progress.windows_total,
        bytes_total: progress.bytes_total,
        ..Progress::default()
    }
}

/// Arms a proven slot. Without a proof and, where a lock is configured, without its grant there is nothing to call this with.
pub(super) async fn arm(shared: Shared, plan: Plan) -> Event {
    let attempt = plan.attempt.clone();
    let result = blocking(move || {
        let proven = shared.tokens.take_proven(&plan.attempt);
        let proven = proven.ok_or_else(|| {
            Fault::new(Cause::BootControl, "the slot was not read back in this run of the daemon: it is not armed")
        })?;
        let permit = permit(&shared, &plan)?;
        tracing::info!(attempt = plan.attempt, slot = %plan.slot, %permit, "arming");
        let ground = shared.world.ground()?;
        shared.world.state_is_that_of_the_journal()?;
        remember_identity(&shared)?;
        write_trial_down(&shared, &plan)?;
        let armed = shared.world.boot_control(&ground.disk)?.arm(proven, permit, &ground.running);
        table_of(armed)
    })
    .await;
    Event::Armed { attempt, result }
}

fn permit(shared: &Shared, plan: &Plan) -> Result<Permit, Fault> {
    let lock_is_configured = shared.settings.reboot.lock.is_some();
    match (&plan.claim, shared.tokens.take_acknowledged(&plan.attempt)) {
        (Some(_), Some(acknowledged)) => Ok(Permit::from_lock(acknowledged)),
        (Some(_), None) if plan.forced => Ok(Permit::forced_by_person(plan.attempt.clone())),
        (Some(_), None) => Err(Fault::new(
            Cause::BootControl,
            "the lock server has not acknowledged the reboot in this run of the daemon: the slot is not armed",
        )),
        (None, _) if !lock_is_configured => Ok(Permit::no_lock_configured()),
        (None, _) if plan.forced => Ok(Permit::forced_by_person(plan.attempt.clone())),
        (None, _) => Err(Fault::new(Cause::BootControl, "a reboot lock is configured and was not taken: the slot is not armed")),
    }
}

/// Who the host was when it armed: a new image that makes another host of it fails its trial (design 11.16).
fn remember_identity(shared: &Shared) -> Result<(), Fault> {
    let id = shared.world.machine_id().unwrap_or_default();
    let path = shared.settings.state_dir.join("identity");
    crate::durable::replace(&path, id.as_bytes())
        .map_err(|error| Fault::new(Cause::StateDir, format!("{}: {error}", path.display())))
}

/// Design 11.2: what keeps the deadline of the trial, should the new image's own daemon not do it.
fn write_trial_down(shared: &Shared, plan: &Plan) -> Result<(), Fault> {
    let settings = &shared.settings;
    let deadline = settings.trial_deadline();
    let trial = Trial { slot: plan.slot, version: plan.version.to_string(), attempt: plan.attempt.clone(), deadline };
    deadline::write_down(&trial, settings).map_err(|error| Fault::new(Cause::StateDir, chain(&error)))
}

/// Where that cannot be done, the marks of the slot say that nothing is on trial.
fn forget_trial(world: &World) {
    if let Err(error) = deadline::forget(&world.settings().state_dir) {
        tracing::warn!("{error}");
    }
}

/// Makes a slot not bootable.
pub(super) async fn disarm(shared: Shared, slot: SlotName) -> Event {
    let result = blocking(move || {
        let ground = shared.world.ground()?;
        shared.world.state_is_no_other()?;
        let name = disk_name(slot, &ground.disk)?;
        let table = table_of(shared.world.boot_control(&ground.disk)?.disarm(&name, &ground.running))?;
        forget_trial(&shared.world);
        Ok(table)
    })
    .await;
    Event::Disarmed { result }
}

/// Marks the running slot bad: the loader's next choice is the old one.
pub(super) async fn mark_bad(shared: Shared, plan: Plan) -> Event {
    let attempt = plan.attempt.clone();
    let result = blocking(move || {
        let ground = runs(shared.world.ground_for_marks()?, &plan)?;
        shared.world.state_is_no_other()?;
        table_of(shared.world.boot_control(&ground.disk)?.mark_bad(&ground.running))
    })
    .await;
    Event::MarkedBad { attempt, result }
}

/// Marks the running slot good, then raises the floor: a host that loses power between the two does both again. The other way
/// round, a slot that could not be marked good would have taken the old one's keys, and the floor below it, away for nothing.
pub(super) async fn commit(shared: Shared, plan: Plan, channel: Option<String>) -> Event {
    let attempt = plan.attempt.clone();
    let result = blocking(move || {
        let ground = running_on(&shared.world, &plan)?;
        shared.world.state_is_that_of_the_journal()?;
        let marked = shared.world.boot_control(&ground.disk)?.mark_good(&ground.running);
        let mut facts = shared.world.look(channel.as_deref());
        match marked {
            Ok(state) => facts.boot = Some(boot_table(&state)?),
            // What was cut short may have been done all the same: the table says.
            Err(error) if facts.standing(plan.slot).is_some_and(Standing::is_good) => tracing::warn!("{}", chain(&error)),
            Err(error) => return Err(boot_fault(&error)),
        }
        forget_trial(&shared.world);
        let floor = shared.world.raise_floor(&facts);
        Ok(Marked { facts: Box::new(facts), floor })
    })
    .await;
    Event::CommitDone { attempt, result }
}

/// R4: only the slot that is really running, and that this plan is about, is marked.
fn running_on(world: &World, plan: &Plan) -> Result<Ground, Fault> {
    runs(world.ground()?, plan)
}

fn runs(ground: Ground, plan: &Plan) -> Result<Ground, Fault> {
    if ground.running.name().as_str() == plan.slot.as_str() {
        return Ok(ground);
    }
    Err(Fault::new(Cause::RunningSlot, format!("slot {} runs, expected slot {}", ground.running.name(), plan.slot)))
}

fn table_of(result: Result<BootState, BootError>) -> Result<BootTable, Fault> {
    result.map_err(|error| boot_fault(&error)).and_then(|state| boot_table(&state))
}

/// Stops blocking work that looks at the flag.
pub(super) fn stop(cancel: &AtomicBool) {
    cancel.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use manifests::digest::Sha256Digest;
    use manifests::keyring::{KeyId, SecretKey};
    use manifests::release::{Envelope, WindowTable};
    use sha2::Digest as _;

    use super::*;
    use crate::boot::gpt::fixture::{DiskBuilder, unique_guid};
    use crate::daemon::write;
    use crate::engine::effect::Scan;
    use crate::engine::event::CheckAnswer;
    use crate::engine::state::{Claim, Origin, Request, Target};
    use crate::engine::tests::host::{facts, record};
    use crate::engine::time::Wall;
    use crate::fetch::{Fetcher, Options};
    use crate::floor::FloorFile;
    use crate::slot::InactiveSlot;
    use crate::world::StateFolder;

    const WINDOW: usize = 256 << 10;
    use crate::world::tests::world_that_trusts;

    /// A disk image whose slot b holds this image of a release, and the plan that says so.
    fn host_with(dir: &std::path::Path, image: &[u8]) -> (Shared, Plan) {
        let key = SecretKey::from_seed(&[1; 32]);
        let world = world_that_trusts(dir, &key);
        let mut disk = DiskBuilder::new(512);
        let slot_sectors = image.len().div_ceil(4096) * 8;
        disk.sectors = 2 * slot_sectors + 256;
        disk.partitions = ["root-a", "root-b"].map(|label| (label.to_owned(), slot_sectors, 0)).to_vec();
        let mut bytes = disk.build();
        bytes[(disk.first + slot_sectors) * 512..][..image.len()].copy_from_slice(image);
        std::fs::write(&world.settings().disk.device, bytes).unwrap();
        std::fs::create_dir_all(dir.join("proc")).unwrap();
        std::fs::write(dir.join("proc/cmdline"), format!("root=PARTUUID={}\n", unique_guid(0))).unwrap();
        let mut record = record(2);
        let windows = image.chunks(WINDOW).map(|window| Sha256Digest::from_bytes(sha2::Sha256::digest(window).into()));
        record.images[0].table = WindowTable::new(u64::try_from(image.len()).unwrap(), windows.collect()).unwrap();
        let mut envelope = Envelope::unsigned(&record).unwrap();
        envelope.sign(&key).unwrap();
        world.records().keep_offer(envelope.digest(), &envelope.to_bytes()).unwrap();
        let target = Target { slot: SlotName::B, version: record.version, sequence: record.sequence, digest: envelope.digest() };
        let plan = Plan::without_payload("one".into(), Kind::Update, target, "1.0.0".into(), Wall(0));
        let (events, _) = tokio::sync::mpsc::channel(1);
        (Shared::new(world, Fetcher::new(Options::default()).unwrap(), events, facts()), plan)
    }

    #[test]
    fn design_11_9_a_proof_that_grew_too_old_is_earned_again_in_the_same_run() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, plan) = host_with(dir.path(), &[0; 8192]);
        let ground = shared.world.ground().unwrap();
        let slot = disk_name(plan.slot, &ground.disk).unwrap();
        let written = InactiveSlot::open(&ground.disk, &slot, &ground.running, &[("root", 8192)]).unwrap().finish().unwrap();
        shared.tokens.put_written(&plan.attempt, written);
        for _ in 0..3 {
            assert_eq!(prove(&shared, &plan, &AtomicBool::default(), &|_| {}).unwrap(), Proof::Equal);
        }
        assert!(shared.tokens.take_proven(&plan.attempt).is_some());
    }

    #[test]
    fn design_11_6_a_slot_whose_file_system_cannot_be_written_to_is_no_way_back_when_anything_differs() {
        for (magic, may_differ) in [(&b"hsqs"[..], false), (b"data", true)] {
            let dir = tempfile::tempdir().unwrap();
            let mut image = vec![7; 8 * WINDOW];
            image[..4].copy_from_slice(magic);
            let (shared, plan) = host_with(dir.path(), &image);
            let plan = Plan { kind: Kind::Rollback, ..plan };
            shared.world.records().slot_holds(plan.slot, plan.digest).unwrap();
            let proof = || prove(&shared, &plan, &AtomicBool::default(), &|_| {}).unwrap();
            assert_eq!(proof(), Proof::Equal);

            let device = &shared.world.settings().disk.device;
            let mut disk = std::fs::read(device).unwrap();
            let last = disk.windows(4).rposition(|bytes| bytes == [7; 4]).unwrap();
            disk[last] = 8;
            std::fs::write(device, disk).unwrap();
            match proof() {
                Proof::Equal => assert!(may_differ),
                Proof::Differs { detail } => {
                    assert!(!may_differ);
                    assert_eq!(detail, "image root in 1 of 8 windows (window 7) differs, and is one that is never written to");
                }
            }
        }
    }

    #[test]
    fn under_a_lock_only_its_servers_acknowledgement_or_a_person_permits_to_arm() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, plan) = host_with(dir.path(), &[0; 8192]);
        assert_eq!(permit(&shared, &plan), Ok(Permit::no_lock_configured()));
        let claim = Claim { url: "http://l/".into(), group: "g".into(), id: "h".into(), fence: Some("1".into()), granted: true };
        let locked = Plan { claim: Some(claim), ..plan };
        let refused = permit(&shared, &locked).unwrap_err();
        assert!(refused.message.starts_with("the lock server has not acknowledged the reboot"), "{refused}");
        let forced = Plan { forced: true, ..locked };
        assert_eq!(permit(&shared, &forced), Ok(Permit::forced_by_person("one".into())));
    }

    #[tokio::test]
    async fn a_slot_that_was_marked_good_says_so_though_its_floor_cannot_be_raised() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, plan) = host_with(dir.path(), &[0; 8192]);
        let plan = Plan { slot: SlotName::A, ..plan };
        shared.world.records().slot_holds(plan.slot, plan.digest).unwrap();
        let state_dir = &shared.world.settings().state_dir;
        FloorFile::default().store(state_dir).unwrap();
        let in_the_way = state_dir.join("floor.new");
        std::fs::create_dir(&in_the_way).unwrap();
        let marked = async || match commit(shared.clone(), plan.clone(), None).await {
            Event::CommitDone { result, .. } => result.unwrap(),
            other => panic!("{other:?}"),
        };
        let cut_short = marked().await;
        assert!(cut_short.facts.standing(plan.slot).unwrap().is_good());
        assert_eq!(cut_short.floor.unwrap_err().code, Cause::StateDir);

        std::fs::remove_dir(in_the_way).unwrap();
        marked().await.floor.unwrap();
        assert_eq!(FloorFile::load(state_dir).unwrap().unwrap().floor.highest, plan.sequence);
    }

    #[tokio::test]
    async fn a_state_that_cannot_be_looked_up_keeps_no_slot_armed_and_none_on_trial_from_being_marked_bad() {
        let dir = tempfile::tempdir().unwrap();
        let (mut shared, plan) = host_with(dir.path(), &[0; 8192]);
        let state_dir = shared.settings.state_dir.clone();
        shared.world = shared.world.clone().with_journal_in(StateFolder::open(&state_dir).unwrap());
        let boot =
            |slot| std::fs::write(dir.path().join("proc/cmdline"), format!("root=PARTUUID={}\n", unique_guid(slot))).unwrap();
        let prove = || assert_eq!(prove(&shared, &plan, &AtomicBool::default(), &|_| {}).unwrap(), Proof::Equal);
        let keep = async || match commit(shared.clone(), Plan { slot: SlotName::A, ..plan.clone() }, None).await {
            Event::CommitDone { result, .. } => result.map(drop),
            other => panic!("{other:?}"),
        };
        let arm = async || match arm(shared.clone(), plan.clone()).await {
            Event::Armed { result, .. } => result.map(drop),
            other => panic!("{other:?}"),
        };
        keep().await.unwrap();
        prove();
        arm().await.unwrap();
        prove();

        std::fs::rename(&state_dir, dir.path().join("aside")).unwrap();
        // A link to itself.
        std::os::unix::fs::symlink(&state_dir, &state_dir).unwrap();
        for fault in [arm().await.unwrap_err(), keep().await.unwrap_err()] {
            assert!(fault.code == Cause::StateDir && fault.message.contains("Too many levels of symbolic links"), "{fault}");
        }
        boot(1);
        let Event::MarkedBad { result, .. } = mark_bad(shared.clone(), plan.clone()).await else { panic!("no mark") };
        assert_eq!(result.unwrap().standing.b, Standing::Bad);
        boot(0);
        let Event::Disarmed { result } = disarm(shared.clone(), SlotName::B).await else { panic!("no disarming") };
        assert_eq!(result.unwrap().standing.b, Standing::Blank);
        assert!(!shared.world.has_left_its_journal());
    }

    #[tokio::test]
    async fn no_mark_is_written_by_a_journal_that_something_was_mounted_over() {
        let dir = tempfile::tempdir().unwrap();
        let (mut shared, plan) = host_with(dir.path(), &[0; 8192]);
        let state_dir = shared.settings.state_dir.clone();
        shared.world = shared.world.clone().with_journal_in(StateFolder::open(&state_dir).unwrap());
        let runs = Plan { slot: SlotName::A, ..plan.clone() };
        assert_eq!(prove(&shared, &plan, &AtomicBool::default(), &|_| {}).unwrap(), Proof::Equal);
        let disk = || std::fs::read(&shared.settings.disk.device).unwrap();
        let before = disk();
        std::fs::rename(&state_dir, dir.path().join("below")).unwrap();
        std::fs::create_dir(&state_dir).unwrap();
        let refused = [
            match arm(shared.clone(), plan.clone()).await {
                Event::Armed { result, .. } => result.unwrap_err(),
                other => panic!("{other:?}"),
            },
            match commit(shared.clone(), runs.clone(), None).await {
                Event::CommitDone { result, .. } => result.unwrap_err(),
                other => panic!("{other:?}"),
            },
            match mark_bad(shared.clone(), runs).await {
                Event::MarkedBad { result, .. } => result.unwrap_err(),
                other => panic!("{other:?}"),
            },
            match disarm(shared.clone(), SlotName::B).await {
                Event::Disarmed { result } => result.unwrap_err(),
                other => panic!("{other:?}"),
            },
            disarm_before_writing(&shared.world, &plan, &shared.world.ground().unwrap()).unwrap_err(),
        ];
        for fault in refused {
            assert!(fault.code == Cause::StateDir && fault.message.contains("another folder"), "{fault}");
        }
        assert!(disk() == before && shared.world.has_left_its_journal());
    }

    /// What comes of a check of this record, read from a file.
    async fn checked(shared: &Shared, dir: &std::path::Path, record: &Record) -> CheckAnswer {
        let mut envelope = Envelope::unsigned(record).unwrap();
        envelope.sign(&SecretKey::from_seed(&[1; 32])).unwrap();
        let release = dir.join("new.release");
        std::fs::write(&release, envelope.to_bytes()).unwrap();
        let origin = Origin::Files { release: release.display().to_string(), payload: Some("/none".into()), delta: None };
        match ask::check(shared.clone(), Request { origin, ..Request::timer() }, None).await {
            Event::Checked { answer, .. } => *answer,
            other => panic!("{other:?}"),
        }
    }

    fn failed(answer: CheckAnswer) -> Fault {
        match answer {
            CheckAnswer::Failed { fault, .. } => fault,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_release_whose_revocations_cannot_all_be_remembered_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, plan) = host_with(dir.path(), &[0; 8192]);
        let mut record = record(3);
        record.revoked_keys = vec![KeyId::from_bytes([9; 8])];
        assert!(matches!(checked(&shared, dir.path(), &record).await, CheckAnswer::Offer { .. }));
        let revoked = (0..1024_u64).map(|number| KeyId::from_bytes(number.to_be_bytes())).collect();
        FloorFile { revoked, ..FloorFile::default() }.store(&shared.world.settings().state_dir).unwrap();
        let fault = failed(checked(&shared, dir.path(), &record).await);
        assert_eq!(fault.code, Cause::StateDir);
        assert!(fault.message.starts_with("1.2.0: the release revokes 1 keys"), "{fault}");

        // Nor is one written that was offered while there was room.
        let mut envelope = Envelope::unsigned(&record).unwrap();
        envelope.sign(&SecretKey::from_seed(&[1; 32])).unwrap();
        let plan = Plan { digest: envelope.digest(), ..plan };
        let disk = std::fs::read(&shared.world.settings().disk.device).unwrap();
        match write::install(shared.clone(), plan, Scan::All, Arc::default()).await {
            Event::Installed { boot: None, result: Err(same), .. } => assert_eq!(same, fault),
            other => panic!("{other:?}"),
        }
        assert!(disk == std::fs::read(&shared.world.settings().disk.device).unwrap());
    }

    #[tokio::test]
    async fn nothing_is_asked_for_while_the_floor_cannot_be_raised() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, plan) = host_with(dir.path(), &[0; 8192]);
        // A factory disk: slot a counts as good.
        shared.world.records().slot_holds(SlotName::A, plan.digest).unwrap();
        let state_dir = &shared.world.settings().state_dir;
        FloorFile::default().store(state_dir).unwrap();
        let in_the_way = state_dir.join("floor.new");
        std::fs::create_dir(&in_the_way).unwrap();
        let fault = failed(checked(&shared, dir.path(), &record(3)).await);
        assert!(fault.message.starts_with("the floor of this host could not be raised:"), "{fault}");
        std::fs::remove_dir(in_the_way).unwrap();
        assert!(matches!(checked(&shared, dir.path(), &record(3)).await, CheckAnswer::Offer { .. }));
        assert_eq!(FloorFile::load(state_dir).unwrap().unwrap().floor.highest, plan.sequence);
    }

    #[test]
    fn a_kept_record_that_cannot_be_used_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        let world = world_that_trusts(dir.path(), &ours);
        let mut envelope = Envelope::unsigned(&record(2)).unwrap();
        let held = envelope.record_untrusted().unwrap();
        let target = Target { slot: SlotName::B, version: held.version, sequence: held.sequence, digest: envelope.digest() };
        let plan = Plan::without_payload("one".into(), Kind::Update, target, "1.0.0".into(), Wall(0));
        let cause = || release_of(&world, &plan).unwrap_err().code;
        let keep = |envelope: &Envelope| world.records().keep_offer(plan.digest, &envelope.to_bytes()).unwrap();
        assert_eq!(cause(), Cause::StateDir, "it is gone");
        keep(&envelope);
        assert_eq!(cause(), Cause::RecordUnsigned);
        envelope.sign(&theirs).unwrap();
        keep(&envelope);
        assert_eq!(cause(), Cause::RecordSignature, "its key is no longer trusted");
        let mut other = Envelope::unsigned(&record(3)).unwrap();
        other.sign(&ours).unwrap();
        keep(&other);
        assert_eq!(cause(), Cause::RecordMalformed, "it is another one");
    }
}
