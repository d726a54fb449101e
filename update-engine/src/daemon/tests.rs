//! The loop with a real journal, in a world without a disk.

mod late_state;
mod loader;

use std::os::unix::fs::PermissionsExt as _;

use locksmith::client::{BaseUrl, Grant, Ticket};
use locksmith::names::{AttemptId, GroupName, HostId};
use manifests::keyring::SecretKey;
use manifests::release::SlotName;
use manifests::version::Version;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, oneshot};

use super::*;
use crate::boot::gpt::GptControl;
use crate::boot::{BootControl as _, Permit};
use crate::config;
use crate::control::ControlHandle;
use crate::engine::Model;
use crate::engine::cause::Cause;
use crate::engine::effect::{GateStage, LockOutcome, Scan};
use crate::engine::event::{LockGrant, RebootAccepted};
use crate::engine::facts::{Facts, Trouble};
use crate::engine::model::Progress;
use crate::engine::policy::{Policy, Strategy};
use crate::engine::state::{ArmedStep, Claim, GivingUp, Kind, LockedStep, Target, Waiting as Step, WayBack};
use crate::engine::tests::host;
use crate::fetch::{Fetcher, Options};
use crate::floor::FloorFile;
use crate::health::{Probe, Services};
use crate::journal::Message;
use crate::kernel_log::{self, KernelLog};
use crate::slot;
use crate::status::json::{EventKind, EventLine, Inspecting, Inspection, LastError};
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
    rig_in(model, host::facts(), policy)
}

/// Its reboot command leaves a file `rebooted` in its folder.
fn rig_in(model: Model, facts: Facts, policy: Policy) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let world = world_that_trusts(dir.path(), &SecretKey::from_seed(&[1; 32]));
    let settings = world.settings().clone();
    let (journal, _) = Journal::open(&settings.state_dir, now().wall).unwrap();
    let fetcher = Fetcher::new(Options::default()).unwrap();
    let (mut daemon, handle) = Daemon::new(Engine::new(model, facts, policy), journal, world, fetcher);
    let mut changed = (*settings).clone();
    changed.reboot.command = vec!["touch".into(), dir.path().join("rebooted").display().to_string()];
    changed.reboot.hooks_dir = dir.path().join("hooks");
    daemon.shared.settings = Arc::new(changed);
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
async fn whoever_looks_sees_this_moment_and_not_the_last_change() {
    let Rig { mut daemon, handle, _dir } = rig(Model::default(), policy());
    daemon.step(Event::Woke);
    let before = handle.status.borrow().clone();
    let (done, shown) = oneshot::channel();
    handle.refresh.try_send(done).unwrap();
    let asked = daemon.refresh.recv().await.unwrap();
    daemon.show_now(asked);
    shown.await.unwrap();
    assert!(!Arc::ptr_eq(&before, &handle.status.borrow()), "the same document");
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

#[tokio::test]
async fn only_the_reboot_that_starts_a_slot_asks_the_firmware_for_it() {
    let rpi = config::RpiTrybootSettings { autoboot: "/no/such/autoboot.txt".into(), a: 2, b: 3 };
    for (boot, running, said) in [
        (config::BootSettings::RpiTryboot(rpi.clone()), Some(SlotName::A), "0 tryboot for start\n"),
        (config::BootSettings::RpiTryboot(rpi.clone()), Some(SlotName::B), "0 for leave\n"),
        (config::BootSettings::RpiTryboot(rpi), None, "0 for leave\n"),
        (config::BootSettings::Gpt, Some(SlotName::B), "0 tryboot for leave\n"),
    ] {
        let Rig { mut daemon, handle: _handle, _dir: dir } =
            rig_in(Model::default(), Facts { running, ..host::facts() }, policy());
        let file = dir.path().join("rebooted");
        let script = format!("echo '0 tryboot' for $OTA_REBOOT > {}", file.display());
        let mut settings = (*daemon.shared.settings).clone();
        settings.boot = boot;
        settings.reboot.command = vec!["sh".into(), "-c".into(), script];
        daemon.shared.settings = Arc::new(settings);
        let event = reboot::reboot(daemon.shared.clone(), plan()).await;
        assert!(matches!(event, Event::Reboot { result: Ok(RebootAccepted::Ended), .. }), "{event:?}");
        assert_eq!(std::fs::read_to_string(file).unwrap(), said);
    }
}

/// A lock server that takes every release; what it was sent.
async fn lock_server() -> (String, mpsc::Receiver<String>) {
    lock_server_that("200 OK", "{\"released\":true}").await
}

/// A lock server that answers everything with this.
async fn lock_server_that(status: &'static str, body: &'static str) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
            while !String::from_utf8_lossy(&request).ends_with('}') {
                let length = stream.read(&mut chunk).await.unwrap();
                request.extend_from_slice(&chunk[..length]);
            }
            let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            sender.send(String::from_utf8(request).unwrap()).await.unwrap();
        }
    });
    (url, receiver)
}

/// Runs the loop by hand until this holds.
async fn until(daemon: &mut Daemon, what: &str, holds: impl Fn(&Daemon) -> bool) {
    let going_on = async {
        while !holds(daemon) {
            tokio::select! {
                Some(event) = daemon.events.recv() => daemon.step(event),
                Some(settled) = daemon.settled.recv() => daemon.settle(settled),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), going_on).await.unwrap_or_else(|_| panic!("not within 20 s: {what}"));
}

fn with_claim(url: String, granted: bool) -> Plan {
    let claim = Claim { url, group: "default".into(), id: "4f3c".into(), fence: None, granted };
    Plan { claim: Some(claim), ..plan() }
}

#[tokio::test]
async fn a_lock_goes_back_though_nothing_can_be_written_down() {
    let (url, mut asked) = lock_server().await;
    let asking = State::Proven { plan: with_claim(url, false), step: Step::Lock };
    let Rig { mut daemon, handle: _handle, _dir } =
        rig(Model { state: asking, ..Model::default() }, Policy { has_server: false, ..host::policy(Strategy::Lock, true) });
    daemon.journal.refuse_writes(true);
    daemon.step(Event::Lock { attempt: "5d1c".into(), result: Ok(LockGrant { fence: None }) });
    assert!(matches!(daemon.waiting.effects.as_slice(), [Effect::Drain(_)]), "{:?}", daemon.waiting.effects);
    daemon.woke();
    assert!(matches!(daemon.engine.model().state, State::Locked { step: LockedStep::Draining, .. }), "ten minutes are not over");

    daemon.waiting.patience_ms = 0;
    daemon.woke();
    until(&mut daemon, "undrained and released", |daemon| {
        daemon.engine.model().state.word() != "locked" && daemon.outbox.releases_waiting() == 0
    })
    .await;
    let request = asked.recv().await.unwrap();
    assert!(request.starts_with("POST /v1/steady-state") && request.contains("5d1c"), "{request}");
    assert_eq!(daemon.engine.model().state.plan().unwrap().claim, None);

    // Told once more when it can be written down: the journal has it then, and the server knows it already.
    daemon.journal.refuse_writes(false);
    daemon.waiting.retry_at = Some(Mono(0));
    daemon.woke();
    until(&mut daemon, "released by the journal", |daemon| daemon.outbox.releases_waiting() == 0).await;
    assert!(asked.recv().await.unwrap().contains("5d1c"));
    let rows = daemon.journal.outbox().unwrap();
    assert!(!rows.iter().any(|row| matches!(row.message, Message::Release { .. })), "{rows:?}");
}

#[tokio::test]
async fn a_cancelled_update_whose_step_never_began_gives_its_lock_back() {
    let (url, mut asked) = lock_server().await;
    let mut plan = with_claim(url, true);
    plan.drained = true;
    plan.giving_up = Some(GivingUp {
        code: Cause::Cancelled,
        message: "a person cancelled it".into(),
        end: WayBack::Abandoned,
        disarm: false,
        retry_after_s: None,
    });
    let acknowledging = State::Locked { plan: plan.clone(), boot_id: "boot-1".into(), step: LockedStep::Acknowledging };
    let Rig { mut daemon, handle: _handle, _dir } = rig(
        Model { state: acknowledging, ..Model::default() },
        Policy { has_server: false, ..host::policy(Strategy::Lock, true) },
    );
    daemon.journal.refuse_writes(true);
    daemon.waiting.patience_ms = 0;
    daemon.after("locked", vec![Effect::AcknowledgeReboot(plan)]);
    daemon.woke();
    until(&mut daemon, "abandoned", |daemon| {
        matches!(daemon.engine.model().state, State::Idle) && daemon.outbox.releases_waiting() == 0
    })
    .await;
    assert!(asked.recv().await.unwrap().contains("aborted"));
}

#[tokio::test]
async fn a_trial_that_cannot_be_written_down_ends_in_the_old_slot() {
    let boot = host::table(host::armed(2));
    let facts = Facts { running: Some(SlotName::B), boot: Some(boot), ..host::facts() };
    let armed = State::Armed { plan: plan(), old_slot: SlotName::A, boot_id: "boot-0".into(), step: ArmedStep::Rebooting };
    let Rig { mut daemon, handle, _dir: dir } = rig_in(Model { state: armed, ..Model::default() }, facts.clone(), policy());
    daemon.journal.refuse_writes(true);
    daemon.step(Event::Started { facts: Box::new(facts), orphans: Vec::new() });
    assert!(matches!(daemon.waiting.effects.as_slice(), [Effect::Health(_)]), "{:?}", daemon.waiting.effects);
    assert_eq!(daemon.engine.model().state.word(), "trial");
    assert_eq!(handle.status.borrow().troubles[0].code, "state-dir");

    daemon.waiting.patience_ms = 0;
    daemon.woke();
    // Without a disk the slot cannot be marked; the loader's tries bring the old one back all the same.
    until(&mut daemon, "rebooting", |daemon| daemon.engine.soft().reboot_accepted_at.is_some()).await;
    assert!(dir.path().join("rebooted").exists());
    let error = daemon.engine.model().last_error.clone().unwrap();
    assert!(error.message.contains("nothing could be written down"), "{}", error.message);
}

#[tokio::test]
async fn a_reboot_that_got_lost_is_asked_for_again_though_nothing_can_be_written_down() {
    let rebooting = State::Armed { plan: plan(), old_slot: SlotName::A, boot_id: "boot-1".into(), step: ArmedStep::Rebooting };
    let Rig { mut daemon, handle: _handle, _dir: dir } = rig(Model { state: rebooting, ..Model::default() }, policy());
    let rebooted = dir.path().join("rebooted");
    daemon.step(Event::Reboot { attempt: "5d1c".into(), result: Ok(RebootAccepted::Ended) });
    daemon.journal.refuse_writes(true);
    daemon.waiting.patience_ms = 0;
    daemon.after("armed", vec![Effect::Reboot(plan())]);
    daemon.woke();
    until(&mut daemon, "asked for again", |_| rebooted.exists()).await;
    assert_eq!(daemon.engine.model().state.word(), "armed");
}

#[tokio::test]
async fn a_reboot_command_that_hangs_does_not_outlive_the_wish_to_reboot() {
    let Rig { mut daemon, handle: _handle, _dir: dir } = rig(Model::default(), policy());
    let began = dir.path().join("began");
    let script = format!("echo $$ > {}; sleep 600 & wait", began.display());
    let mut settings = (*daemon.shared.settings).clone();
    settings.reboot.command = vec!["sh".into(), "-c".into(), script];
    daemon.shared.settings = Arc::new(settings);
    daemon.start(Effect::Reboot(plan()));
    let id = || std::fs::read_to_string(&began).unwrap_or_default().trim().to_owned();
    within_20_s("it begins", || !id().is_empty()).await;
    daemon.start(Effect::Stop("another".into()));
    assert!(std::path::Path::new("/proc").join(id()).exists());
    daemon.start(Effect::Stop("5d1c".into()));
    within_20_s("it is ended", || !std::path::Path::new("/proc").join(id()).join("cmdline").exists()).await;
}

async fn within_20_s(what: &str, holds: impl Fn() -> bool) {
    let asked = std::time::Instant::now();
    while !holds() {
        assert!(asked.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_slot_that_nobody_vouches_for_is_disarmed_though_nothing_can_be_written_down() {
    let mut facts = host::facts();
    facts.boot.as_mut().unwrap().standing.b = host::armed(host::TRIES);
    let Rig { mut daemon, handle: _handle, _dir } = rig_in(Model::default(), facts.clone(), policy());
    daemon.journal.refuse_writes(true);
    daemon.step(Event::Started { facts: Box::new(facts), orphans: Vec::new() });
    assert!(matches!(daemon.waiting.effects.as_slice(), [Effect::Disarm(SlotName::B)]), "{:?}", daemon.waiting.effects);
    daemon.waiting.patience_ms = 0;
    daemon.woke();
    assert!(daemon.waiting.effects.is_empty());
    // Without a disk it cannot be; that it was tried is what is asked here.
    until(&mut daemon, "disarmed, or not", |daemon| !daemon.engine.soft().disarming).await;
}

#[tokio::test]
async fn whoever_asks_again_and_again_does_not_put_off_what_the_journal_waits_for() {
    let Rig { mut daemon, handle, _dir } = rig(Model::default(), policy());
    daemon.journal.refuse_writes(true);
    let ask = || Command::Pause { until: None, reason: None };
    obey(&mut daemon, ask()).await.unwrap_err();
    let next_try = daemon.waiting.retry_at.unwrap();
    for _ in 0..20 {
        obey(&mut daemon, ask()).await.unwrap_err();
    }
    assert_eq!(daemon.waiting.retry_at, Some(next_try));
    // What was refused was taken back: there is nothing new to write, and still the journal cannot be written.
    daemon.waiting.retry_at = Some(Mono(0));
    daemon.woke();
    assert_eq!(handle.status.borrow().troubles[0].code, "state-dir");
    assert!(daemon.waiting.fault.is_some());
}

#[tokio::test]
async fn a_check_that_is_held_up_is_not_forgotten_when_the_way_back_is_taken() {
    let asking = State::Proven { plan: with_claim("http://127.0.0.1:1".into(), true), step: Step::Gates };
    let Rig { mut daemon, handle: _handle, _dir } = rig(Model { state: asking, ..Model::default() }, policy());
    daemon.journal.refuse_writes(true);
    daemon.waiting.patience_ms = 0;
    let check = Effect::Check(crate::engine::state::Request::timer());
    daemon.after("proven", vec![check, Effect::Gates { plan: plan(), stage: GateStage::BeforeLock }]);
    daemon.woke();
    assert!(daemon.waiting.effects.iter().any(|effect| matches!(effect, Effect::Check(_))), "{:?}", daemon.waiting.effects);
    assert!(!daemon.waiting.effects.iter().any(|effect| matches!(effect, Effect::Gates { .. })));
}

#[tokio::test]
async fn a_host_that_nobody_waits_for_waits_for_its_journal() {
    let fetching = State::Fetching { plan: plan(), rewrites: 0 };
    let Rig { mut daemon, handle: _handle, _dir } = rig(Model { state: fetching.clone(), ..Model::default() }, policy());
    daemon.journal.refuse_writes(true);
    daemon.waiting.patience_ms = 0;
    daemon.after("fetching", vec![Effect::Install { plan: plan(), scan: Scan::All }]);
    daemon.woke();
    assert_eq!(daemon.engine.model().state, fetching);
    assert_eq!(daemon.waiting.effects.len(), 1);
}

/// What the loop ends with; it must not go on.
async fn end_of(daemon: Daemon) -> End {
    let (_stop, mut nobody_stops) = mpsc::channel(1);
    tokio::time::timeout(Duration::from_secs(20), daemon.run(Vec::new(), &mut nobody_stops))
        .await
        .expect("the loop waits for ever")
}

#[tokio::test]
async fn a_work_that_panics_ends_the_daemon_by_name() {
    let plan = plan();
    let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    daemon.spawn("arming", None, async { blocking(|| panic!("a bug in the boot control")).await });
    assert_eq!(end_of(daemon).await, End::Whole(Ended::Broken("arming")));

    let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    daemon.spawn_slot_work("the read-back", plan, |_, _| async { blocking(|| panic!("a bug in the read-back")).await });
    assert_eq!(end_of(daemon).await, End::Whole(Ended::Broken("the read-back")));

    let Rig { daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    let panics = daemon.must_answer("a delivery", daemon.settler.clone(), async { panic!("a bug in the client") });
    tokio::spawn(panics);
    assert_eq!(end_of(daemon).await, End::Whole(Ended::Broken("a delivery")));
}

#[tokio::test]
async fn a_work_that_answers_ends_nothing() {
    let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    daemon.spawn("disarming", None, async { Event::Woke });
    assert!(matches!(daemon.events.recv().await, Some(Event::Woke)));
    tokio::task::yield_now().await;
    assert!(daemon.broken.try_recv().is_err());
}

#[tokio::test]
async fn a_state_folder_that_can_be_used_again_begins_a_new_run() {
    let Rig { mut daemon, handle, _dir } = rig(Model::default(), policy());
    let settings = daemon.shared.settings.clone();
    let file = settings.state_dir.join("journal.db");
    daemon.journal = Journal::stand_in(&settings.state_dir, "state folder /x: read-only".into()).unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    daemon.step(Event::Started { facts: Box::new(host::facts()), orphans: Vec::new() });
    let trouble = handle.status.borrow().troubles[0].clone();
    assert_eq!(trouble.code, "state-dir");
    assert!(trouble.message.starts_with("state folder /x: read-only"), "{}", trouble.message);

    daemon.waiting.retry_at = Some(Mono(0));
    daemon.woke();
    until(&mut daemon, "looked at", |daemon| !daemon.looks_at_state_dir).await;
    assert_eq!(daemon.ended, None);
    let adopted = obey(&mut daemon, Command::Adopt { release: "/x.release".into() }).await.unwrap_err();
    assert_eq!(adopted.code, Rejection::StateDir, "nothing can be founded there");
    std::fs::remove_dir(&file).unwrap();
    daemon.waiting.retry_at = Some(Mono(0));
    daemon.woke();
    until(&mut daemon, "usable", |daemon| daemon.ended.is_some()).await;
    assert_eq!(daemon.ended, Some(End::Anew));
}

#[tokio::test]
async fn a_record_is_adopted_as_soon_as_the_disk_is_free_again() {
    let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    let adopt = || Command::Adopt { release: "/x.release".into() };
    daemon.journal.refuse_writes(true);
    obey(&mut daemon, Command::Pause { until: None, reason: None }).await.unwrap_err();
    assert_eq!(obey(&mut daemon, adopt()).await.unwrap_err().code, Rejection::StateDir);
    daemon.journal.refuse_writes(false);
    obey(&mut daemon, adopt()).await.unwrap();
}

/// A hook of `undrain.d` that hangs, whatever it is told; the file that holds its id once it runs.
fn hanging_hook(dir: &std::path::Path) -> std::path::PathBuf {
    let (folder, id) = (dir.join("hooks/undrain.d"), dir.join("id"));
    std::fs::create_dir_all(&folder).unwrap();
    let text = format!("#!/bin/sh\ntrap '' TERM\necho $$ > {}\nwhile :; do sleep 0.05; done\n", id.display());
    std::fs::write(folder.join("10-hangs"), text).unwrap();
    std::fs::set_permissions(folder.join("10-hangs"), std::fs::Permissions::from_mode(0o700)).unwrap();
    id
}

#[tokio::test]
async fn no_hook_of_one_run_goes_on_beside_the_next() {
    let Rig { mut daemon, handle: _handle, _dir: dir } = rig(Model::default(), policy());
    let id = hanging_hook(dir.path());
    let runs = || {
        let id = std::fs::read_to_string(&id).unwrap_or_default();
        !id.is_empty() && std::path::Path::new("/proc").join(id.trim()).join("cmdline").exists()
    };
    daemon.start(Effect::Undrain(plan()));
    within_20_s("it begins", runs).await;
    let (_stop, mut nobody_stops) = mpsc::channel(1);
    assert_eq!(daemon.let_go(Duration::from_millis(100), &mut nobody_stops).await, End::Anew);
    within_20_s("it is killed", || !runs()).await;
}

#[tokio::test]
async fn whoever_stops_the_daemon_does_not_wait_for_the_works_of_a_run_that_is_over() {
    let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    for _ in 0..3 {
        daemon.spawn("undraining", None, std::future::pending());
    }
    let (stop, mut stopped) = mpsc::channel(1);
    stop.send(()).await.unwrap();
    let asked = std::time::Instant::now();
    assert_eq!(daemon.let_go(10 * LET_GO, &mut stopped).await, End::Whole(Ended::Stopped));
    assert!(asked.elapsed() < LET_GO, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn works_that_hang_are_waited_for_together_and_not_one_after_the_other() {
    let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    for _ in 0..20 {
        daemon.spawn("undraining", None, std::future::pending());
    }
    let (_stop, mut nobody_stops) = mpsc::channel(1);
    let asked = std::time::Instant::now();
    assert_eq!(daemon.let_go(Duration::from_secs(2), &mut nobody_stops).await, End::Anew);
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn an_inspection_of_one_run_is_told_to_end_before_the_next() {
    let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    obey(&mut daemon, Command::Verify).await.unwrap();
    let cancel = daemon.works.iter().map(|work| work.cancel.clone()).collect::<Vec<_>>();
    assert_eq!(cancel.len(), 1);
    let (_stop, mut nobody_stops) = mpsc::channel(1);
    assert_eq!(daemon.let_go(LET_GO, &mut nobody_stops).await, End::Anew);
    assert!(cancel[0].load(std::sync::atomic::Ordering::Relaxed));
}

#[tokio::test]
async fn a_state_folder_that_turns_out_to_lie_on_a_slot_is_left_alone_from_then_on() {
    let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    let trouble = Trouble { code: Cause::StateDir, message: "state_dir /x lies on slot a".into() };
    let facts = Facts { troubles: vec![trouble], ..host::facts() };
    let before = daemon.engine.model().clone();
    let facts = Box::new(facts);
    let started = Event::Started { facts: facts.clone(), orphans: Vec::new() };
    for event in [started, Event::FactsChanged { facts }] {
        daemon.ended = None;
        daemon.step(event);
        assert_eq!((daemon.ended, daemon.engine.model()), (Some(End::Anew), &before));
    }
}

#[tokio::test]
async fn a_server_that_knows_nothing_of_a_lock_has_taken_it_back_and_one_that_refuses_is_named() {
    let cases = [
        ("404 Not Found", "{\"kind\":\"unknown_group\",\"value\":\"no group default\"}", true),
        ("409 Conflict", "{\"kind\":\"not_held\",\"value\":\"4f3c holds no place\"}", true),
        ("403 Forbidden", "{\"kind\":\"not_allowed\",\"value\":\"no such token\"}", false),
        ("500 Internal Server Error", "{\"kind\":\"store\",\"value\":\"disk full\"}", false),
    ];
    for (status, body, is_taken) in cases {
        let (url, _asked) = lock_server_that(status, body).await;
        let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
        let claim = with_claim(url.clone(), true).claim.unwrap();
        let release = Row::Release { attempt: "5d1c".into(), claim, outcome: LockOutcome::Aborted };
        daemon.after("idle", vec![Effect::Row(release)]);
        until(&mut daemon, status, |daemon| {
            daemon.outbox.releases_waiting() == 0 || daemon.engine.soft().release_trouble.is_some()
        })
        .await;
        assert_eq!(daemon.engine.soft().releases_waiting == 0, is_taken, "{status}");
        if let Some(why) = &daemon.engine.soft().release_trouble {
            assert!(why.contains("group default") && why.contains(&url) && why.contains(&status[..3]), "{why}");
        }
    }
}

#[tokio::test]
async fn a_cancelled_drain_ends_with_its_hooks() {
    let draining = State::Locked { plan: plan(), boot_id: "boot-1".into(), step: LockedStep::Draining };
    let Rig { mut daemon, handle: _handle, _dir: dir } = rig(Model { state: draining, ..Model::default() }, policy());
    let folder = dir.path().join("hooks/drain.d");
    std::fs::create_dir_all(&folder).unwrap();
    // What a hook starts goes with it.
    let began = dir.path().join("began");
    let text = format!("#!/bin/sh\nsleep 600 &\necho $! > {0}.new\nmv {0}.new {0}\nsleep 600\n", began.display());
    std::fs::write(folder.join("10-slow"), text).unwrap();
    std::fs::set_permissions(folder.join("10-slow"), std::fs::Permissions::from_mode(0o700)).unwrap();
    daemon.after("locked", vec![Effect::Drain(plan())]);
    while !began.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    obey(&mut daemon, Command::Cancel).await.unwrap();
    until(&mut daemon, "abandoned", |daemon| matches!(daemon.engine.model().state, State::Idle)).await;
    let helper = std::fs::read_to_string(&began).unwrap();
    let stat = std::path::Path::new("/proc").join(helper.trim()).join("stat");
    // One that has ended and was not asked how by whoever inherited it is gone as well.
    let is_gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    within_20_s("what the hook had started ends", is_gone).await;
}

#[tokio::test]
async fn a_hook_has_its_time_to_stop_when_the_lock_is_lost() {
    let (url, mut asked) = lock_server_that("409 Conflict", "{\"kind\":\"not_held\",\"value\":\"4f3c holds no place\"}").await;
    let Rig { daemon, handle: _handle, _dir: dir } = rig(Model::default(), policy());
    let (shared, plan) = (daemon.shared.clone(), with_claim(url.clone(), true));
    let ticket = Ticket {
        base_url: BaseUrl::parse(&url).unwrap(),
        group: GroupName::parse("default").unwrap(),
        id: HostId::parse("4f3c").unwrap(),
        attempt: AttemptId::parse("5d1c").unwrap(),
    };
    shared.remember_grant(Grant { ticket, fence: Some(1), phase: None, lease_s: Some(4) });
    let tidied = ["drain.d", "gate.d"].map(|name| {
        let (folder, tidied) = (dir.path().join("hooks").join(name), dir.path().join(name));
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!("#!/bin/sh\ntrap 'sleep 1; touch {}; exit 0' TERM\nwhile :; do sleep 0.05; done\n", tidied.display());
        std::fs::write(folder.join("10-slow"), text).unwrap();
        std::fs::set_permissions(folder.join("10-slow"), std::fs::Permissions::from_mode(0o700)).unwrap();
        tidied
    });

    let (stopper, stop) = hooks::stopper();
    let drained = lock::drain(shared.clone(), plan.clone(), stopper, stop).await;
    let Event::Drained { result: Err(fault), .. } = drained else { panic!("{drained:?}") };
    assert_eq!(fault.code, Cause::LockLost);
    assert!(tidied[0].exists(), "the drain hook was killed at once");

    let looked = lock::gates(shared, plan, GateStage::BeforeFlip, None).await;
    let Event::Gates { gates, .. } = looked else { panic!("{looked:?}") };
    let closed: Vec<&str> = gates.iter().filter(|gate| gate.closed.is_some()).map(|gate| gate.gate.as_str()).collect();
    assert_eq!(closed, ["lock"]);
    assert!(tidied[1].exists(), "the gate's hook was killed at once");
    assert!(asked.try_recv().is_ok(), "the lock was never renewed");
}

async fn ask(handle: &ControlHandle, command: Command) -> Result<Accepted, Rejected> {
    let (reply, answer) = oneshot::channel();
    handle.commands.send(Request { command, uid: 0, reply }).await.unwrap();
    answer.await.unwrap()
}

/// The next event of this kind.
async fn event(events: &mut broadcast::Receiver<EventLine>, kind: EventKind) -> EventLine {
    loop {
        let line = tokio::time::timeout(Duration::from_secs(20), events.recv()).await.unwrap().unwrap();
        if line.kind == kind {
            return line;
        }
    }
}

#[tokio::test]
async fn a_look_that_is_older_than_a_write_of_the_boot_table_says_nothing_of_the_table() {
    let Rig { mut daemon, handle: _handle, _dir } = rig(Model::default(), policy());
    let look = || {
        let facts = Facts { boot: Some(host::table(host::BAD)), ..host::facts() };
        inspect::Inspection { of: Inspection::Verify, facts: Box::new(facts), outcome: Ok(String::new()) }
    };
    let stands = |daemon: &Daemon| daemon.engine.facts().standing(SlotName::B);
    let began = daemon.table_writes;
    daemon.start(Effect::Disarm(SlotName::B));
    let between = daemon.table_writes;
    daemon.inspected("over the start".into(), look(), began);
    assert_eq!(stands(&daemon), Some(host::BLANK));
    daemon.step(Event::Disarmed { result: Ok(host::table(host::BLANK)) });
    daemon.inspected("over the end".into(), look(), between);
    assert_eq!(stands(&daemon), Some(host::BLANK));
    let now = daemon.table_writes;
    daemon.inspected("after".into(), look(), now);
    assert_eq!(stands(&daemon), Some(host::BAD));
}

#[tokio::test]
async fn an_inspection_has_an_id_that_its_end_carries_and_that_status_shows_meanwhile() {
    let Rig { daemon, handle, _dir } = rig(Model::default(), policy());
    let mut events = handle.events.subscribe();
    let status = handle.status.clone();
    let asked = handle.clone();
    let (_stop, mut nobody_stops) = mpsc::channel(1);
    let conversation = async move {
        let accepted = ask(&asked, Command::Verify).await.unwrap();
        let shown = status.borrow().inspection.clone();
        let done = event(&mut events, EventKind::Done).await;
        (accepted, shown, done)
    };
    let (accepted, shown, done) = tokio::select! {
        told = conversation => told,
        ended = daemon.run(Vec::new(), &mut nobody_stops) => panic!("the loop ended: {ended:?}"),
    };
    let id = accepted.attempt.unwrap();
    assert_eq!(shown, Some(Inspecting { id: id.clone(), of: Inspection::Verify, progress: None }));
    assert_eq!((done.inspection, done.attempt), (Some(Inspection::Verify), Some(id)));
    let LastError { code, .. } = done.error.unwrap();
    assert_eq!(code, "slots", "there is no disk to look at");
}

#[tokio::test]
async fn one_inspection_at_a_time_is_enough() {
    let Rig { mut daemon, handle, _dir } = rig(Model::default(), policy());
    let first = daemon.inspect(inspect::What::Verify { being_written: None }).unwrap();
    let second = daemon.inspect(inspect::What::Verify { being_written: None }).unwrap_err();
    assert_eq!(second.code, Rejection::Busy);
    // What an earlier one still had to say is not taken for this one's.
    let late = Settled::Inspecting { id: "earlier".into(), progress: Progress { windows_total: 8, ..Progress::default() } };
    daemon.settle(late);
    let status = handle.status.borrow().clone();
    assert_eq!(status.inspection.as_ref().map(|shown| (Some(&shown.id), &shown.progress)), Some((first.attempt.as_ref(), &None)));
    assert!(status.summary.starts_with("Reading the slots back as a person asked. "), "{}", status.summary);
}

const RECORD: &str = "3,1,2000000,-;Kernel panic - not syncing: no init found\n";

#[tokio::test]
async fn the_kernels_log_of_a_slot_that_is_given_up_is_kept_whether_it_could_be_marked_or_not() {
    // It cannot be marked here; on its last try it need not be.
    for standing in [host::armed(2), host::SPENT] {
        let facts = Facts { running: Some(SlotName::B), boot: Some(host::table(standing)), ..host::facts() };
        let trial = State::Trial { plan: plan(), verdict: None };
        let Rig { mut daemon, handle: _handle, _dir: dir } = rig_in(Model { state: trial, ..Model::default() }, facts, policy());
        std::fs::create_dir(dir.path().join("dev")).unwrap();
        std::fs::write(dir.path().join("dev/kmsg"), RECORD).unwrap();
        daemon.step(Event::Health { attempt: "5d1c".into(), result: Err("nginx does not answer".into()) });
        until(&mut daemon, "rebooting", |daemon| daemon.engine.soft().reboot_accepted_at.is_some()).await;
        let log = kept_log(&daemon).unwrap();
        assert_eq!(
            (log.attempt.as_str(), log.telling_line().as_deref()),
            ("5d1c", Some("Kernel panic - not syncing: no init found"))
        );
    }
}

#[tokio::test]
async fn what_fails_in_a_trial_and_until_when_it_may_is_in_the_status_while_it_is_probed() {
    let facts = Facts { running: Some(SlotName::B), boot: Some(host::table(host::armed(2))), ..host::facts() };
    let trial = State::Trial { plan: plan(), verdict: None };
    let Rig { mut daemon, handle, _dir: dir } = rig_in(Model { state: trial, ..Model::default() }, facts, policy());
    let probe = Probe {
        hooks_dir: dir.path().join("hooks"),
        context: hooks::HookContext::default(),
        deadline: Duration::from_secs(300),
        settle: Duration::ZERO,
        kept_after: Duration::ZERO,
        hook_timeout: Duration::from_secs(10),
        services: Services::Systemd(dir.path().join("no systemctl")),
        built_in: Vec::new(),
        warnings: Vec::new(),
    };
    let shared = daemon.shared.clone();
    let work = tokio::spawn(async move { judge::probe_and_tell(&shared, &plan(), &probe).await });
    let shown = || handle.status.borrow().trial.clone().unwrap_or_default();
    until(&mut daemon, "the finding is shown", |_| shown().failing.is_some()).await;
    work.abort();
    assert!(shown().failing.unwrap().starts_with("systemd did not say how the system is"));
    let left_s = shown().deadline_at.unwrap().as_second() - now().wall.timestamp().as_second();
    assert!((200..=300).contains(&left_s), "{left_s} s");
}

#[tokio::test]
async fn a_trial_whose_boot_nobody_counted_is_kept_and_that_stays_in_status_and_history() {
    let rig = slot::rig::Rig::with_slots_of(16);
    let world = world_that_trusts(rig.folder.path(), &SecretKey::from_seed(&[1; 32]));
    let (disk, running) = (rig.disk(), rig.running());
    let mut control = GptControl::new(&disk).unwrap();
    control.mark_good(&running).unwrap();
    FloorFile::default().store(&world.settings().state_dir).unwrap();
    control.arm(slot::rig::proven(&disk, &running), Permit::no_lock_configured(), &running).unwrap();
    // A loader that starts it and leaves the marks as they are.
    rig.boot(1);
    let (facts, mut settings) = (world.look(None), (**world.settings()).clone());
    settings.health.settle = Duration::ZERO;
    settings.reboot.hooks_dir = rig.folder.path().join("hooks");
    let (journal, _) = Journal::open(&settings.state_dir, now().wall).unwrap();
    let engine = Engine::new(Model::default(), facts.clone(), policy());
    let (mut daemon, handle) = Daemon::new(engine, journal, world, Fetcher::new(Options::default()).unwrap());
    daemon.shared.settings = Arc::new(settings);
    daemon.step(Event::Started { facts: Box::new(facts), orphans: Vec::new() });
    until(&mut daemon, "kept", |daemon| matches!(daemon.engine.model().state, State::Idle)).await;
    let words = "the boot loader started slot b without counting the boot (3 of 3 tries left)";
    let warnings = handle.status.borrow().health_warnings.clone();
    assert!(matches!(warnings.as_slice(), [one] if one.starts_with(words)), "{warnings:?}");
    assert_eq!(handle.history.borrow()[0].notes, [format!("wanted health check: {}", warnings[0])]);
}

#[tokio::test]
async fn the_reboot_into_a_new_slot_keeps_no_kernels_log() {
    let rebooting = State::Armed { plan: plan(), old_slot: SlotName::A, boot_id: "boot-1".into(), step: ArmedStep::Rebooting };
    let Rig { mut daemon, handle: _handle, _dir: dir } = rig(Model { state: rebooting, ..Model::default() }, policy());
    std::fs::create_dir(dir.path().join("dev")).unwrap();
    std::fs::write(dir.path().join("dev/kmsg"), RECORD).unwrap();
    daemon.after("armed", vec![Effect::Reboot(plan())]);
    until(&mut daemon, "rebooting", |daemon| daemon.engine.soft().reboot_accepted_at.is_some()).await;
    assert_eq!(kept_log(&daemon), None);
}

fn kept_log(daemon: &Daemon) -> Option<KernelLog> {
    KernelLog::load(&daemon.shared.settings.state_dir).unwrap()
}

#[tokio::test]
async fn after_a_rollback_status_and_history_have_what_its_kernel_said_and_of_no_earlier_one() {
    for (attempt, is_shown) in [("5d1c", true), ("an earlier one", false)] {
        let trial = State::Trial { plan: plan(), verdict: None };
        let Rig { mut daemon, handle, _dir: dir } = rig(Model { state: trial.clone(), ..Model::default() }, policy());
        std::fs::create_dir(dir.path().join("dev")).unwrap();
        std::fs::write(dir.path().join("dev/kmsg"), RECORD).unwrap();
        kernel_log::keep_running(&daemon.shared.settings, attempt);
        let last_words = daemon.shared.world.look(None).last_words;
        let facts = Facts { boot: Some(host::table(host::BAD)), last_words, ..host::facts() };
        daemon.waiting.rows.push(Row::Open(plan()));
        daemon.step(Event::Started { facts: Box::new(facts), orphans: Vec::new() });

        let line = "Kernel panic - not syncing: no init found".to_owned();
        let shown = Some(crate::status::json::KernelLog { source: "kmsg".into(), line: Some(line.clone()) }).filter(|_| is_shown);
        let status = handle.status.borrow().clone();
        assert_eq!((status.state, &status.kernel_log), (crate::status::json::State::RolledBack, &shown));
        assert_eq!(handle.history.borrow()[0].kernel_log, shown);
        let whole = handle.kernel_log.borrow().as_ref().clone().unwrap();
        assert_eq!((whole.attempt.as_str(), whole.version), (attempt, is_shown.then(|| "1.1.0".to_owned())));
        assert_eq!(whole.lines, [format!("[    2.000000] {line}")]);
        let told = daemon.journal.outbox().unwrap().into_iter().find_map(|row| match row.message {
            Message::Report(report) => report.reason,
            Message::Release { .. } => None,
        });
        assert_eq!(told.unwrap().ends_with(&format!("; its kernel said: {line}")), is_shown);
    }
}
