//! The loop with a real journal, in a world without a disk.

use manifests::keyring::SecretKey;
use manifests::release::SlotName;
use manifests::version::Version;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::publish::Publisher;
use super::*;
use crate::control::ControlHandle;
use crate::engine::Model;
use crate::engine::model::Progress;
use crate::engine::policy::{Policy, Strategy};
use crate::engine::state::{Kind, Target};
use crate::engine::tests::host;
use crate::fetch::{Fetcher, Options};
use crate::world::tests::world_that_trusts;

/// A daemon and the ends that its control socket would hold.
struct Rig {
    daemon: Daemon,
    handle: ControlHandle,
    _dir: TempDir,
}

/// Idle, no server, nothing under way.
fn policy() -> Policy {
    Policy { has_server: false, ..host::policy(Strategy::Immediate, false) }
}

fn rig(model: Model, policy: Policy) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let world = world_that_trusts(dir.path(), &SecretKey::from_seed(&[1; 32]));
    let settings = world.settings().clone();
    let (journal, _) = Journal::open(&settings.state_dir, now().wall).unwrap();
    let (events_in, events) = mpsc::channel(256);
    let (commands_in, commands) = mpsc::channel(64);
    let (settler, settled) = mpsc::channel(64);
    let (breaker, broken) = mpsc::unbounded_channel();
    let fetcher = Fetcher::new(Options::default()).unwrap();
    let shared = Shared::new(world, fetcher, events_in, host::facts());
    let engine = Engine::new(model, host::facts(), policy);
    let (publisher, handle) = Publisher::new(&engine, &journal, &settings, commands_in, now());
    let daemon = Daemon {
        engine,
        journal,
        shared,
        outbox: Outbox::default(),
        publisher,
        commands,
        events,
        settled,
        settler,
        works: Vec::new(),
        waiting: Waiting::default(),
        broken,
        breaker,
        ended: None,
    };
    Rig { daemon, handle, _dir: dir }
}

/// 1.1.0 for slot b.
fn plan() -> Plan {
    let target = Target {
        slot: SlotName::B,
        version: Version::parse("1.1.0").unwrap(),
        sequence: host::sequence(2),
        digest: host::digest(2),
    };
    Plan::without_payload("5d1c".into(), Kind::Update, target, "1.0.0".into(), now().wall)
}

/// Gives a command to a loop that stands still, and returns its answer.
async fn obey(daemon: &mut Daemon, command: Command) -> Result<Accepted, Rejected> {
    let (reply, answer) = oneshot::channel();
    daemon.answer(Request { command, uid: 0, reply });
    answer.await.unwrap()
}

#[tokio::test]
async fn a_command_that_cannot_be_written_down_is_refused_and_leaves_nothing() {
    let Rig { mut daemon, handle, _dir } = rig(Model::default(), policy());
    let pause = || Command::Pause { until: None, reason: None };
    daemon.journal.refuse_writes(true);
    let rejected = obey(&mut daemon, pause()).await.unwrap_err();
    assert_eq!(rejected.code, Rejection::StateDir);
    assert!(rejected.message.contains("nothing was done") && rejected.message.contains("journal.db"), "{}", rejected.message);
    assert_eq!(daemon.engine.model().pause, None);
    assert_eq!(handle.status.borrow().troubles[0].code, "state-dir");

    daemon.journal.refuse_writes(false);
    obey(&mut daemon, pause()).await.unwrap();
    assert!(daemon.engine.model().pause.is_some());
    assert_eq!(handle.status.borrow().troubles, []);
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_is_not_tried_by_every_event() {
    let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    daemon.journal.refuse_writes(true);
    daemon.waiting.rows.push(Row::Open(plan()));
    daemon.step(Event::Woke);
    let first_retry = daemon.waiting.retry_at.unwrap();
    daemon.journal.refuse_writes(false);
    for _ in 0..50 {
        let progress = Progress { phase: "fetching", ..Progress::default() };
        daemon.step(Event::Progressed { attempt: "5d1c".into(), progress });
    }
    assert_eq!((daemon.waiting.retry_at, daemon.waiting.rows.len()), (Some(first_retry), 1));
    daemon.waiting.retry_at = Some(Mono(0));
    daemon.woke();
    assert_eq!((daemon.waiting.fault.clone(), daemon.waiting.rows.len()), (None, 0));
}

/// What the loop ends with; it must not go on.
async fn end_of(daemon: Daemon) -> Ended {
    tokio::time::timeout(Duration::from_secs(20), daemon.run(Vec::new())).await.expect("the loop waits for ever")
}

#[tokio::test]
async fn a_work_that_panics_ends_the_daemon_by_name() {
    let plan = plan();
    let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    daemon.spawn("arming", None, async { blocking(|| panic!("a bug in the boot control")).await });
    assert_eq!(end_of(daemon).await, Ended::Broken("arming"));

    let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    daemon.spawn_slot_work("the read-back", plan, |_, _| async { blocking(|| panic!("a bug in the read-back")).await });
    assert_eq!(end_of(daemon).await, Ended::Broken("the read-back"));

    let Rig { daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    let panics = daemon.must_answer("a delivery", daemon.settler.clone(), async { panic!("a bug in the client") });
    tokio::spawn(panics);
    assert_eq!(end_of(daemon).await, Ended::Broken("a delivery"));
}

#[tokio::test]
async fn a_work_that_answers_ends_nothing() {
    let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    daemon.spawn("disarming", None, async { Event::Woke });
    assert!(matches!(daemon.events.recv().await, Some(Event::Woke)));
    tokio::task::yield_now().await;
    assert!(daemon.broken.try_recv().is_err());
}
