//! The reboot command.
//!
//! Promises: however often the reboot is asked for, one run of the daemon has at most one command that hangs (P10): it is waited for
//! again instead of being joined by another. One that is no longer wanted is ended, with what it started in its process group, before
//! anything is taken back. Never: takes a command that hangs or is killed for a refusal, because it may be waiting in the middle of a
//! shutdown, or have been ended by one (design 11.10).

use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::config::RebootPurpose;
use crate::daemon::{Shared, blocking};
use crate::engine::Event;
use crate::engine::cause::Cause;
use crate::engine::event::{Fault, RebootAccepted};
use crate::engine::state::Plan;
use crate::kernel_log;

/// Time the reboot command has: it only asks the system for a reboot.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Runs the configured reboot command. Accepted is not rebooted: the engine waits for the new boot.
///
/// Whoever leaves a slot on trial keeps its kernel's log before. The old slot may be running only where that is seen.
pub(super) async fn reboot(shared: Shared, plan: Plan) -> Event {
    let purpose = if shared.facts().running == Some(plan.slot.other()) { RebootPurpose::Start } else { RebootPurpose::Leave };
    if purpose == RebootPurpose::Leave {
        let (settings, attempt) = (shared.settings.clone(), plan.attempt.clone());
        blocking(move || kernel_log::keep_running(&settings, &attempt)).await;
    }
    let command = shared.settings.reboot_command(purpose);
    let result = shared.reboot_command.run(&command, purpose, &plan, TIMEOUT).await;
    Event::Reboot { attempt: plan.attempt, result }
}

/// The command that was started last, as long as it has not ended.
#[derive(Debug, Default)]
pub(super) struct RebootCommand {
    /// Held while it is waited for.
    turn: Mutex<Option<Running>>,
    /// Whose it is, and its process group; for whoever ends it, also while it is waited for.
    group: SyncMutex<Option<(String, Pid)>>,
}

#[derive(Debug)]
struct Running {
    attempt: String,
    child: Child,
}

impl RebootCommand {
    async fn run(
        &self,
        command: &[String],
        purpose: RebootPurpose,
        plan: &Plan,
        patience: Duration,
    ) -> Result<RebootAccepted, Fault> {
        let shown = command.join(" ");
        let mut last = self.turn.lock().await;
        let mut running = match last.take().and_then(|running| self.still_for(running, plan)) {
            Some(running) => running,
            None => self.start(command, purpose, plan)?,
        };
        let waited = timeout(patience, running.child.wait()).await;
        if waited.is_ok() {
            self.forget();
        }
        match waited {
            Err(_elapsed) => {
                tracing::warn!(attempt = %plan.attempt, "`{shown}` has not ended within {} s", patience.as_secs());
                *last = Some(running);
                Ok(RebootAccepted::StillRuns)
            }
            Ok(Err(error)) => Err(Fault::new(Cause::Reboot, format!("it cannot be learned how `{shown}` ended: {error}"))),
            Ok(Ok(status)) if is_refusal(status) => {
                Err(Fault::new(Cause::Reboot, format!("the reboot was refused: `{shown}` ended with {status}")))
            }
            Ok(Ok(_accepted)) => Ok(RebootAccepted::Ended),
        }
    }

    /// Ends the command of an attempt that has not ended by itself: nobody wants its reboot any more. It is over when this returns,
    /// but for what hangs in the kernel.
    pub(super) fn end_for(&self, attempt: &str) {
        let is_its = self.group().as_ref().is_some_and(|(of, _)| of == attempt);
        if is_its {
            self.end();
        }
    }

    /// Ends the command, whosever it is.
    pub(super) fn end(&self) {
        let Some((attempt, group)) = self.group().take() else { return };
        tracing::warn!(attempt, "the reboot command has not ended and is no longer wanted: it is killed");
        // An error means that nobody is left in the group.
        let _nobody_left = killpg(group, Signal::SIGKILL);
        if let Ok(mut last) = self.turn.try_lock() {
            // Whoever is dropped is asked how it ended by the runtime.
            *last = None;
        }
    }

    fn start(&self, command: &[String], purpose: RebootPurpose, plan: &Plan) -> Result<Running, Fault> {
        let running = Running::start(command, purpose, plan)?;
        let group = running.child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        *self.group() = group.map(|group| (plan.attempt.clone(), group));
        Ok(running)
    }

    /// It has not ended, and is of this attempt. Nobody wants a reboot of another one any more.
    fn still_for(&self, mut running: Running, plan: &Plan) -> Option<Running> {
        if !matches!(running.child.try_wait(), Ok(None)) {
            self.forget();
            return None;
        }
        if running.attempt == plan.attempt {
            return Some(running);
        }
        self.end();
        None
    }

    /// Its end was learned: its id may be somebody else's from now on.
    fn forget(&self) {
        *self.group() = None;
    }

    /// A thread that panicked while holding the lock leaves nothing half-done here.
    fn group(&self) -> std::sync::MutexGuard<'_, Option<(String, Pid)>> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn start(command: &[String], purpose: RebootPurpose, plan: &Plan) -> Result<Self, Fault> {
        let fault = |message| Fault::new(Cause::Reboot, message);
        let (program, arguments) = command.split_first().ok_or_else(|| fault("[reboot] command is empty".to_owned()))?;
        // The command's output would outlive the daemon in image mode: it goes where the daemon's own goes.
        let started = Command::new(program)
            .args(arguments)
            .env("OTA_ATTEMPT", &plan.attempt)
            .env("OTA_SLOT", plan.slot.as_str())
            .env("OTA_REBOOT", purpose.as_str())
            .stdin(Stdio::null())
            .process_group(0)
            .spawn();
        let child = started.map_err(|error| fault(format!("`{}` could not be started: {error}", command.join(" "))))?;
        Ok(Self { attempt: plan.attempt.clone(), child })
    }
}

/// Only a command that ends by itself and says so.
fn is_refusal(status: ExitStatus) -> bool {
    status.code().is_some_and(|code| code != 0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use manifests::release::SlotName;
    use manifests::version::Version;

    use super::*;
    use crate::engine::state::{Kind, Target};
    use crate::engine::tests::host;
    use crate::engine::time::Wall;

    const MOMENT: Duration = Duration::from_millis(400);
    const LONG: Duration = Duration::from_secs(20);

    fn plan(attempt: &str) -> Plan {
        let version = Version::parse("1.1.0").unwrap();
        let target = Target { slot: SlotName::B, version, sequence: host::sequence(2), digest: host::digest(2) };
        Plan::without_payload(attempt.into(), Kind::Update, target, "1.0.0".into(), Wall(0))
    }

    /// Hangs until there is a file `go`, then fails; leaves a line in `began` for every start.
    fn hanging(dir: &Path) -> Vec<String> {
        let dir = dir.display();
        let script = format!(
            "echo $OTA_ATTEMPT $OTA_SLOT $OTA_REBOOT >> {dir}/began; while [ -d {dir} ] && [ ! -e {dir}/go ]; do sleep 0.02; done; exit 3"
        );
        vec!["sh".into(), "-c".into(), script]
    }

    async fn began(dir: &Path, lines: usize) -> Vec<String> {
        let asked = Instant::now();
        loop {
            let text = std::fs::read_to_string(dir.join("began")).unwrap_or_default();
            let begun: Vec<String> = text.lines().map(str::to_owned).collect();
            if begun.len() >= lines {
                return begun;
            }
            assert!(asked.elapsed() < LONG, "only {begun:?} began");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_no_refusal_and_is_not_joined_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let (command, reboots) = (hanging(dir.path()), RebootCommand::default());
        for _ in 0..4 {
            assert_eq!(reboots.run(&command, RebootPurpose::Start, &plan("5d1c"), MOMENT).await, Ok(RebootAccepted::StillRuns));
            assert_eq!(began(dir.path(), 1).await, ["5d1c b start"]);
        }
        std::fs::write(dir.path().join("go"), "").unwrap();
        for starts in [1, 2] {
            let refused = reboots.run(&command, RebootPurpose::Start, &plan("5d1c"), LONG).await.unwrap_err();
            assert!(refused.message.ends_with("ended with exit status: 3"), "{refused}");
            assert_eq!(began(dir.path(), starts).await.len(), starts, "one that has ended is started again");
        }
    }

    async fn until_gone(id: &str) {
        let asked = Instant::now();
        let stat = Path::new("/proc").join(id).join("stat");
        // One that has ended and was not asked how by whoever inherited it is gone as well.
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(asked.elapsed() < LONG, "it goes on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A command that hangs in something it has started; its own id and that of what it started.
    async fn hanging_in_another(dir: &Path) -> (Vec<String>, impl AsyncFn() -> Vec<String>) {
        let began = dir.join("ids");
        let script = format!("sleep 600 & echo $$ $! > {}; wait", began.display());
        let ids = async move || {
            let asked = Instant::now();
            loop {
                let text = std::fs::read_to_string(&began).unwrap_or_default();
                let ids: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
                if ids.len() == 2 {
                    return ids;
                }
                assert!(asked.elapsed() < LONG, "it has not begun");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        (vec!["sh".into(), "-c".into(), script], ids)
    }

    #[tokio::test]
    async fn a_command_that_hangs_for_an_attempt_that_is_over_is_ended_and_says_nothing_of_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let reboots = RebootCommand::default();
        let (command, ids) = hanging_in_another(dir.path()).await;
        assert_eq!(reboots.run(&command, RebootPurpose::Start, &plan("old"), MOMENT).await, Ok(RebootAccepted::StillRuns));
        let ids = ids().await;
        assert_eq!(reboots.run(&["true".to_owned()], RebootPurpose::Start, &plan("new"), LONG).await, Ok(RebootAccepted::Ended));
        for id in ids {
            until_gone(&id).await;
        }
    }

    #[tokio::test]
    async fn a_command_that_is_no_longer_wanted_is_ended_with_what_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let reboots = RebootCommand::default();
        let (command, ids) = hanging_in_another(dir.path()).await;
        assert_eq!(reboots.run(&command, RebootPurpose::Start, &plan("5d1c"), MOMENT).await, Ok(RebootAccepted::StillRuns));
        let ids = ids().await;
        reboots.end_for("another");
        assert!(Path::new("/proc").join(&ids[1]).exists(), "it is not the one that was meant");
        reboots.end_for("5d1c");
        for id in ids {
            until_gone(&id).await;
        }
        reboots.end_for("5d1c");
        assert!(reboots.group().is_none() && reboots.turn.lock().await.is_none());
    }

    #[tokio::test]
    async fn what_cannot_be_started_or_fails_is_named() {
        let reboots = RebootCommand::default();
        let cases: [(&[&str], &str); 3] = [
            (&[], "[reboot] command is empty"),
            (&["/no/such/program", "now"], "`/no/such/program now` could not be started: No such file"),
            (&["false"], "the reboot was refused: `false` ended with exit status: 1"),
        ];
        for (command, words) in cases {
            let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
            let fault = reboots.run(&command, RebootPurpose::Start, &plan("5d1c"), LONG).await.unwrap_err();
            assert!(fault.message.starts_with(words) && fault.code == Cause::Reboot, "{fault}");
        }
    }
}
