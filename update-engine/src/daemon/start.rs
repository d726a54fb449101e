//! Everything between the command line and the loop.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::config::trust::check_trust;
use crate::config::{self, Loaded, Settings};
use crate::control;
use crate::daemon::mounts::Mounts;
use crate::daemon::{Daemon, End, Ended, blocking, now, signals};
use crate::engine::cause::Cause;
use crate::engine::event::Orphan;
use crate::engine::facts::Facts;
use crate::engine::policy::{LockSettings, Policy, StartedBy, Strategy};
use crate::engine::{Engine, Model};
use crate::fetch::{Fetcher, Options};
use crate::hooks;
use crate::journal::{Journal, JournalError};
use crate::records::{Records, RecordsError};
use crate::world::{self, StateFolder, World};

/// A daemon that is going down lets go of its lock within this time.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something that must be root's alone is not.
    #[error("refusing to run: {0}")]
    Trust(String),
    /// The state folder cannot be used, which a daemon that runs says and waits for.
    #[error("state folder {path}: {source}", path = path.display())]
    StateDir {
        /// The folder or a file in it.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The state folder lies on a slot, because nothing else is mounted there or by a wrong setting: nothing is written to it.
    #[error("{0}")]
    StateOnSlot(String),
    /// Another daemon has the state folder.
    #[error("another update-engined is using {path}: two daemons on one disk would undo each other's work", path = path.display())]
    Running {
        /// The lock file.
        path: PathBuf,
    },
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The records cannot be used.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The HTTP client cannot be set up.
    #[error(transparent)]
    Fetch(#[from] crate::fetch::FetchError),
    /// The control socket cannot be used.
    #[error(transparent)]
    Control(#[from] control::ControlError),
}

/// Runs the daemon until it is stopped or the host reboots.
///
/// A state folder that cannot be used (full, read-only, not mounted, on a slot) is no reason to be silent: the daemon says so in `status`,
/// begins nothing, and leaves a slot that is on trial after a while; once the folder can be used, everything starts anew. So it does when
/// another folder takes its place, as when the state is mounted late: by the journal of the one before nothing is kept, armed or marked.
pub async fn run(loaded: Loaded) -> Result<Ended, StartError> {
    let settings = Arc::new(loaded.settings);
    let Ok(mut stop) = signals() else { return Ok(Ended::Stopped) };
    for folder in hooks::unknown_folders(&settings.reboot.hooks_dir) {
        let known = hooks::FOLDERS.join(", ");
        tracing::warn!(folder = %folder.display(), "nothing in it is run: no folder of hooks is called so, expected one of {known}");
    }
    loop {
        if let End::Whole(ended) = run_once(settings.clone(), &loaded.files, &mut stop).await? {
            return Ok(ended);
        }
        tracing::info!(state_dir = %settings.state_dir.display(), "starting anew, from what the state folder is now");
    }
}

pub(super) async fn run_once(
    settings: Arc<Settings>,
    files: &[PathBuf],
    asked: &mut mpsc::Receiver<()>,
) -> Result<End, StartError> {
    let made = make_state_dir(&settings);
    trust(&settings, files)?;
    let held = match made {
        Ok(()) => hold_state_dir(&settings.state_dir).await,
        Err(error) => Err(error),
    };
    let (State { records, journal, model, orphans }, held) = match held {
        Ok(held) => (State::open(&settings.state_dir).or_else(|error| State::without(&settings.state_dir, &error))?, Some(held)),
        Err(error @ (StartError::StateDir { .. } | StartError::StateOnSlot(_))) => {
            (State::without(&settings.state_dir, &error)?, None)
        }
        Err(error) => return Err(error),
    };
    let (folder, only_one) = held.unzip();
    let world = World::new(settings.clone(), records);
    let world = match folder {
        Some(folder) if !journal.is_stand_in() => world.with_journal_in(folder),
        _ => world,
    };
    // From before the first look on, which sees what was mounted until then.
    let mounts = world.has_journal_in_a_folder().then(Mounts::watch);
    let channel = model.channel.clone();
    let (look, looking) = (world.clone(), world.clone());
    let can_write = !journal.is_stand_in();
    let facts = blocking(move || {
        let facts = looking.look(channel.as_deref());
        if can_write { looking.look_for_last_words(facts) } else { facts }
    })
    .await;
    let facts = give_tries_back(&world, facts).await;
    if can_write {
        let first_facts = facts.clone();
        let founded = move || look.found_floor(&first_facts).and_then(|()| look.raise_floor(&first_facts));
        if let Err(fault) = blocking(founded).await {
            tracing::error!(code = %fault.code, "{fault}");
        }
    }
    let fetcher = Fetcher::new(Options { ca_file: settings.server.ca_file.clone(), ..Options::default() })?;
    let policy = policy(&settings, world.machine_id());
    let (mut daemon, handle) = Daemon::new(Engine::new(model, facts, policy), journal, world, fetcher);
    daemon.has_state_lock = only_one.is_some();
    daemon.mounts = mounts;
    let socket = control::Server::bind(&settings.socket)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(socket.serve(handle, control::Limits::default(), async move {
        // The sender is dropped when the loop has ended.
        let _ended = stopped.await;
    }));
    tracing::info!(socket = %settings.socket.display(), "update-engined {} is up", env!("CARGO_PKG_VERSION"));
    let ended = daemon.run(orphans, asked).await;
    drop(stop);
    close(serving).await;
    drop(only_one);
    Ok(ended)
}

/// What is known of the world once the running slot, if it is good, has its tries back: the boot table is another one then.
async fn give_tries_back(world: &World, mut facts: Facts) -> Facts {
    let (world, seen) = (world.clone(), facts.clone());
    match blocking(move || world.renew(&seen)).await {
        Ok(renewed) => facts.boot = renewed.or(facts.boot),
        Err(fault) => tracing::error!(code = %fault.code, "the tries of the running slot could not be given back: {fault}"),
    }
    facts
}

/// The socket is gone afterwards: another run opens it anew.
async fn close(mut serving: JoinHandle<()>) {
    if tokio::time::timeout(Duration::from_secs(1), &mut serving).await.is_err() {
        serving.abort();
        // Its end is that of a task that was told to end.
        let _aborted = serving.await;
    }
}

/// What the state folder holds.
struct State {
    records: Records,
    journal: Journal,
    model: Model,
    orphans: Vec<Orphan>,
}

impl State {
    fn open(state_dir: &Path) -> Result<Self, StartError> {
        let records = Records::open(state_dir)?;
        let (journal, model) = Journal::open(state_dir, now().wall)?;
        let orphans = journal.orphans(model.state.plan().map(|plan| plan.attempt.as_str()))?;
        Ok(Self { records, journal, model, orphans })
    }

    /// As little as there is while the folder cannot be used. The boot table still tells whether the running slot is on trial.
    fn without(state_dir: &Path, error: &StartError) -> Result<Self, StartError> {
        let reason = world::chain(error);
        let journal = Journal::stand_in(state_dir, reason)?;
        Ok(Self { records: Records::of(state_dir), journal, model: Model::default(), orphans: Vec::new() })
    }
}

/// Whether a new start would get further: the state folder can be used now, or another daemon has it, which a start refuses.
/// What another daemon has is not opened; opening may set a journal aside and reads all of it, so it is none of the loop's work.
pub(super) async fn can_start_anew(settings: Arc<Settings>, has_state_lock: bool) -> bool {
    let opened = move || {
        make_state_dir(&settings)?;
        let _folder = open_state_dir(&settings.state_dir)?;
        let _only_one = if has_state_lock { None } else { Some(try_lock_state_dir(&settings.state_dir)?) };
        State::open(&settings.state_dir).map(drop)
    };
    matches!(blocking(opened).await, Ok(()) | Err(StartError::Running { .. }))
}

fn policy(settings: &Settings, machine_id: Option<String>) -> Policy {
    let lock = settings.reboot.lock.as_ref().map(|lock| LockSettings {
        url: lock.url.expose().to_string(),
        group: lock.group.clone(),
        id: lock.id.clone().or(machine_id).unwrap_or_default(),
    });
    Policy {
        strategy: match settings.reboot.strategy {
            config::Strategy::Immediate => Strategy::Immediate,
            config::Strategy::Lock => Strategy::Lock,
            config::Strategy::Manual => Strategy::Manual,
        },
        lock,
        check_interval: settings.server.check_interval,
        gate_retry: settings.reboot.retry,
        blind: settings.trial_deadline(),
        min_uptime: settings.min_uptime(),
        has_server: settings.server.url.is_some(),
        stale_after: settings.trust.stale_after,
        started_by: if settings.boot.needs_flag() { StartedBy::OurReboot } else { StartedBy::AnyReboot },
    }
}

/// Before anything is written there. A disk that cannot be found now is said, and this asked again, by every look at the world.
fn refuse_state_on_slot(settings: &Settings) -> Result<(), StartError> {
    match world::find_disk(settings).and_then(|disk| world::state_on_no_slot(settings, &disk)) {
        Err(fault) if fault.code == Cause::StateDir => Err(StartError::StateOnSlot(fault.message)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn make_state_dir(settings: &Settings) -> Result<(), StartError> {
    refuse_state_on_slot(settings)?;
    let path = &settings.state_dir;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StartError::StateDir { path: path.to_owned(), source })
}

/// Design 11.16: what the daemon believes must be root's alone. All that is wrong is named at once.
fn trust(settings: &Settings, files: &[PathBuf]) -> Result<(), StartError> {
    let words = |error: &crate::config::trust::TrustError| world::chain(error);
    check_trust(&settings.trust_targets(files), nix::unistd::geteuid().as_raw())
        .map_err(|problems| StartError::Trust(problems.iter().map(words).collect::<Vec<_>>().join("; ")))
}

/// The folder itself before anything in it: what is mounted there from now on is noticed.
async fn hold_state_dir(state_dir: &Path) -> Result<(StateFolder, File), StartError> {
    let folder = open_state_dir(state_dir)?;
    Ok((folder, lock_state_dir(state_dir).await?))
}

fn open_state_dir(state_dir: &Path) -> Result<StateFolder, StartError> {
    StateFolder::open(state_dir).map_err(|source| StartError::StateDir { path: state_dir.to_owned(), source })
}

/// One daemon for one state folder.
async fn lock_state_dir(state_dir: &Path) -> Result<File, StartError> {
    let began = Instant::now();
    loop {
        match try_lock_state_dir(state_dir) {
            Err(StartError::Running { .. }) if began.elapsed() < LOCK_WAIT => tokio::time::sleep(Duration::from_millis(50)).await,
            tried => return tried,
        }
    }
}

/// The lock goes with the process, however it ends.
fn try_lock_state_dir(state_dir: &Path) -> Result<File, StartError> {
    let path = state_dir.join("lock");
    let io = |source| StartError::StateDir { path: path.clone(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Running { path }),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

#[cfg(test)]
mod tests {
    use manifests::keyring::SecretKey;

    use super::*;
    use crate::boot::grub::Block;
    use crate::slot::rig::Rig;
    use crate::world::tests::world_that_trusts;

    /// RAUC's script has counted the boot of the only slot that is good, and would start none in the next one.
    #[tokio::test]
    async fn the_engine_begins_with_the_boot_table_as_it_is_after_a_good_slot_got_its_try_back() {
        let rig = Rig::with_slots_of(8);
        let folder = rig.folder.path();
        let mut block = Block::empty();
        [("ORDER", "A B"), ("A_OK", "1"), ("A_TRY", "1"), ("B_OK", "0"), ("B_TRY", "0")]
            .iter()
            .for_each(|(name, value)| block.set(name, value));
        std::fs::write(folder.join("grubenv"), block.to_bytes().unwrap()).unwrap();
        let text = "state_dir = \"@/state\"\nsysroot = \"@\"\nserver.app_id = \"x\"\ndisk.device = \"@/disk.img\"\n\
                    slots.a.root = \"partlabel:root-a\"\nslots.b.root = \"partlabel:root-b\"\nboot.control = \"grub\"\n\
                    boot.grub = { env = \"@/grubenv\", variables = \"rauc\" }\n";
        let source = config::Source::new("test", text.replace('@', &folder.display().to_string()));
        let settings = config::parse(&[source]).unwrap();
        let records = Records::open(&settings.state_dir).unwrap();
        let world = World::new(Arc::new(settings), records);
        let seen = world.look(None);
        assert!(seen.boot.as_ref().unwrap().weakness.is_some(), "{:?}", seen.boot);
        let facts = give_tries_back(&world, seen).await;
        assert_eq!(facts.boot.as_ref().unwrap().weakness, None);
        assert_eq!(facts.boot, world.look(None).boot);
    }

    #[tokio::test]
    async fn a_state_folder_that_another_daemon_has_is_not_opened_by_one_that_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let settings = world_that_trusts(dir.path(), &SecretKey::from_seed(&[1; 32])).settings().clone();
        let journal = settings.state_dir.join("journal.db");
        let damaged = vec![0xA5; 10_000];
        std::fs::write(&journal, &damaged).unwrap();
        let theirs = lock_state_dir(&settings.state_dir).await.unwrap();
        assert!(can_start_anew(settings.clone(), false).await, "a new start refuses, and says who has it");
        assert_eq!(std::fs::read(&journal).unwrap(), damaged, "their journal was set aside");
        drop(theirs);

        assert!(can_start_anew(settings.clone(), false).await);
        assert_ne!(std::fs::read(&journal).unwrap(), damaged);
        // Its own lock is not in its way, and is not left behind.
        let ours = lock_state_dir(&settings.state_dir).await.unwrap();
        std::fs::remove_file(&journal).unwrap();
        std::fs::create_dir(&journal).unwrap();
        assert!(!can_start_anew(settings.clone(), true).await, "it cannot be used yet");
        std::fs::remove_dir(&journal).unwrap();
        assert!(can_start_anew(settings, true).await);
        drop(ours);
    }
}
