//! A state that is mounted late: the daemon of an image on trial has begun in the empty folder below.

use std::path::{Path, PathBuf};

use manifests::release::Envelope;
use tokio::net::UnixStream;

use super::*;
use crate::config::Settings;
use crate::daemon::mounts::Mounts;
use crate::daemon::mounts::tests::Mounted;
use crate::deadline::{self, Trial};
use crate::engine::tests::host::record;
use crate::journal::Attempt;
use crate::world::StateFolder;

/// A host that has armed slot b under a lock, and runs it now. Its state lies beside the folder that it is to be mounted at.
struct LateHost {
    rig: slot::rig::Rig,
    settings: Arc<Settings>,
    state: PathBuf,
}

impl LateHost {
    fn new(lock_url: String) -> Self {
        let (rig, key) = (slot::rig::Rig::with_slots_of(16), SecretKey::from_seed(&[1; 32]));
        let folder = rig.folder.path();
        let world = world_that_trusts(folder, &key);
        let mut settings = (**world.settings()).clone();
        settings.health.settle = Duration::ZERO;
        settings.reboot.hooks_dir = folder.join("hooks");
        settings.reboot.command = vec!["touch".into(), folder.join("rebooted").display().to_string()];
        settings.socket = folder.join("socket");
        std::fs::create_dir_all(folder.join("proc/sys/kernel/random")).unwrap();
        std::fs::write(folder.join("proc/sys/kernel/random/boot_id"), "boot-1\n").unwrap();

        let mut envelope = Envelope::unsigned(&record(2)).unwrap();
        envelope.sign(&key).unwrap();
        world.records().keep_offer(envelope.digest(), &envelope.to_bytes()).unwrap();
        world.records().slot_holds(SlotName::B, envelope.digest()).unwrap();
        let plan = Plan { digest: envelope.digest(), ..with_claim(lock_url, true) };
        let trial = Trial {
            slot: plan.slot,
            version: plan.version.to_string(),
            attempt: plan.attempt.clone(),
            deadline: Duration::from_secs(600),
        };
        deadline::write_down(&trial, &settings).unwrap();
        FloorFile::default().store(&settings.state_dir).unwrap();
        let row = Row::Open(plan.clone());
        let state = State::Armed { plan, old_slot: SlotName::A, boot_id: "boot-0".into(), step: ArmedStep::Rebooting };
        let (mut journal, _) = Journal::open(&settings.state_dir, now().wall).unwrap();
        journal.commit(&Model { state, ..Model::default() }, &[&row], now().wall).unwrap();
        drop(journal);

        let (disk, running) = (rig.disk(), rig.running());
        let mut control = GptControl::new(&disk).unwrap();
        control.mark_good(&running).unwrap();
        control.arm(slot::rig::proven(&disk, &running), Permit::no_lock_configured(), &running).unwrap();
        rig.boot(1);
        let state = folder.join("partition");
        std::fs::rename(&settings.state_dir, &state).unwrap();
        Self { rig, settings: Arc::new(settings), state }
    }

    /// What was armed was tried and given up: slot a runs again.
    fn goes_back(&self) {
        let (disk, tried) = (self.rig.disk(), self.rig.running());
        GptControl::new(&disk).unwrap().mark_bad(&tried).unwrap();
        self.rig.boot(0);
    }

    /// The folder below stays, as it does under a mount.
    fn mount(&self) -> PathBuf {
        let below = self.rig.folder.path().join("below");
        std::fs::rename(&self.settings.state_dir, &below).unwrap();
        std::fs::rename(&self.state, &self.settings.state_dir).unwrap();
        below
    }

    fn attempts_in(state_dir: &Path) -> Vec<Attempt> {
        let (journal, _) = Journal::open(state_dir, now().wall).unwrap();
        journal.history().unwrap()
    }

    /// Waits until `status` says this.
    async fn says(&self, words: &str) {
        let asked = std::time::Instant::now();
        loop {
            let said = self.status().await.unwrap_or_else(|error| error.to_string());
            if said.contains(words) {
                return;
            }
            assert!(asked.elapsed() < Duration::from_secs(20), "not within 20 s: {words}: {said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn status(&self) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(&self.settings.socket).await?;
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

#[tokio::test]
async fn an_attempt_whose_state_is_mounted_under_a_running_daemon_is_kept_and_gives_its_lock_back() {
    let (url, mut asked) = lock_server().await;
    let host = LateHost::new(url);
    let (stop, mut stopped) = mpsc::channel(1);
    let mounted = async {
        host.says("state of the host: slot b was armed by a host whose state is not what is mounted at").await;
        host.mount()
    };
    let first = tokio::time::timeout(Duration::from_secs(20), start::run_once(host.settings.clone(), &[], &mut stopped));
    let (ended, below) = tokio::join!(first, mounted);
    assert_eq!(ended.expect("it goes on by the journal below the mount").unwrap(), End::Anew);

    let until_kept = async {
        let request =
            tokio::time::timeout(Duration::from_secs(20), asked.recv()).await.expect("the lock is not given back").unwrap();
        assert!(
            request.starts_with("POST /v1/steady-state") && request.contains(r#""attempt":"5d1c","outcome":"ok""#),
            "{request}"
        );
        stop.send(()).await.unwrap();
    };
    let (ended, ()) = tokio::join!(start::run_once(host.settings.clone(), &[], &mut stopped), until_kept);
    assert_eq!(ended.unwrap(), End::Whole(Ended::Stopped));
    let known = LateHost::attempts_in(&host.settings.state_dir);
    assert!(matches!(known.as_slice(), [kept] if kept.id == "5d1c" && kept.outcome.as_deref() == Some("committed")), "{known:?}");
    let hidden = LateHost::attempts_in(&below);
    assert!(matches!(hidden.as_slice(), [found] if found.kind == "found" && found.outcome.is_none()), "{hidden:?}");
    assert!(!host.rig.folder.path().join("rebooted").exists());
}

#[tokio::test]
async fn a_daemon_at_rest_that_has_no_server_begins_anew_when_its_state_is_mounted() {
    let (url, mut asked) = lock_server().await;
    let host = LateHost::new(url);
    host.goes_back();
    let state_dir = host.settings.state_dir.clone();
    let (stop, mut stopped) = mpsc::channel(1);
    let mounted = async {
        host.says(r#""state":"idle""#).await;
        Mounted::over(&state_dir, &host.state)
    };
    let first = tokio::time::timeout(Duration::from_secs(20), start::run_once(host.settings.clone(), &[], &mut stopped));
    let (ended, Some(_mounted)) = tokio::join!(first, mounted) else { return };
    assert_eq!(ended.expect("it rests on the journal below the mount").unwrap(), End::Anew);

    let until_given_back = async {
        let request =
            tokio::time::timeout(Duration::from_secs(20), asked.recv()).await.expect("the lock is not given back").unwrap();
        assert!(request.starts_with("POST /v1/steady-state") && request.contains(r#""attempt":"5d1c""#), "{request}");
        stop.send(()).await.unwrap();
    };
    let (ended, ()) = tokio::join!(start::run_once(host.settings.clone(), &[], &mut stopped), until_given_back);
    assert_eq!(ended.unwrap(), End::Whole(Ended::Stopped));
    let known = LateHost::attempts_in(&state_dir);
    assert!(
        matches!(known.as_slice(), [tried] if tried.id == "5d1c" && tried.outcome.as_deref() == Some("rolled-back")),
        "{known:?}"
    );
}

/// A daemon with a journal that something can be mounted over.
fn daemon_with_a_folder() -> super::Rig {
    let mut rig = rig(Model::default(), policy());
    let world = rig.daemon.shared.world.clone();
    let folder = StateFolder::open(&world.settings().state_dir).unwrap();
    rig.daemon.shared.world = world.with_journal_in(folder);
    rig
}

/// Takes the place of its state folder, as a mount does.
fn put_another_folder_there(rig: &super::Rig) {
    let state_dir = &rig.daemon.shared.settings.state_dir;
    std::fs::rename(state_dir, rig._dir.path().join("below")).unwrap();
    std::fs::create_dir(state_dir).unwrap();
}

#[tokio::test]
async fn no_command_is_taken_up_by_a_journal_that_something_was_mounted_over() {
    let pause = || Command::Pause { until: None, reason: Some("do not touch".into()) };
    let adopt = || Command::Adopt { release: "/x.release".into() };
    for command in [pause, || Command::Verify, adopt] {
        let mut rig = daemon_with_a_folder();
        rig.daemon.step(Event::Woke);
        put_another_folder_there(&rig);
        let before = rig.daemon.engine.model().clone();
        let rejected = obey(&mut rig.daemon, command()).await.unwrap_err();
        assert_eq!((rejected.code, rig.daemon.ended), (Rejection::StateDir, Some(End::Anew)));
        assert!(rejected.message.ends_with("nothing was done, give the command once more"), "{}", rejected.message);
        assert!(*rig.daemon.engine.model() == before && rig.daemon.works.is_empty());
    }
}

#[tokio::test]
async fn a_command_is_taken_up_though_the_state_folder_cannot_be_looked_up_as_long_as_it_can_be_written_down() {
    let mut rig = daemon_with_a_folder();
    let state_dir = rig.daemon.shared.settings.state_dir.clone();
    std::fs::rename(&state_dir, rig._dir.path().join("aside")).unwrap();
    // A link to itself.
    std::os::unix::fs::symlink(&state_dir, &state_dir).unwrap();
    obey(&mut rig.daemon, Command::Pause { until: None, reason: None }).await.unwrap();
    assert_eq!(rig.daemon.ended, None);
}

#[tokio::test]
async fn a_change_of_what_is_mounted_ends_the_rest_of_a_daemon_only_where_its_state_is_another_now() {
    let mut rig = daemon_with_a_folder();
    let mut mounts = Mounts::supposed(Duration::from_millis(20));
    for _ in 0..3 {
        mounts.changed().await;
        rig.daemon.look_for_its_journal();
        until(&mut rig.daemon, "it has looked", |daemon| !daemon.looks_for_its_journal).await;
        assert_eq!(rig.daemon.ended, None);
    }
    put_another_folder_there(&rig);
    rig.daemon.mounts = Some(mounts);
    assert_eq!(end_of(rig.daemon).await, End::Anew);
}

/// To SQLite, which goes by the number of the inode alone, the journal is where it was.
#[tokio::test]
async fn whoever_leaves_a_journal_takes_no_log_away_from_the_one_that_was_mounted_over_it() {
    let mut rig = daemon_with_a_folder();
    obey(&mut rig.daemon, Command::Pause { until: None, reason: None }).await.unwrap();
    put_another_folder_there(&rig);
    let state_dir = rig.daemon.shared.settings.state_dir.clone();
    std::fs::hard_link(rig._dir.path().join("below/journal.db"), state_dir.join("journal.db")).unwrap();
    std::fs::write(state_dir.join("journal.db-wal"), "theirs").unwrap();
    rig.daemon.mounts = Some(Mounts::supposed(Duration::from_millis(20)));
    assert_eq!(end_of(rig.daemon).await, End::Anew);
    assert_eq!(std::fs::read_to_string(state_dir.join("journal.db-wal")).unwrap(), "theirs");
}
