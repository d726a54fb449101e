//! Is the slot that just booted healthy? The answer decides whether it is marked good or given up.
//!
//! 1. the built-in required checks that the daemon passes in, such as: would this image's keyring accept the next release
//!    (design 11.4);
//! 2. every hook in `health/required.d` (or `health.d/required.d`) exits 0; without such hooks: the daemon is up (it asks), and under systemd no unit has
//!    failed and the system is no longer starting;
//! 3. under systemd `boot-complete.target` is active, wherever something asks for it: what a distribution or a package orders before
//!    it (`Before=boot-complete.target`, `RequiredBy=boot-complete.target`) is a required check, too;
//! 4. the same again after the settle time, and not before the host has been up for its least time;
//! 5. `health/wanted.d` is run; what fails there is a warning, as is what the daemon itself found and only wants to be said.
//!
//! A required check that fails is tried again until the deadline, but for a built-in one that nothing can change: services and mounts
//! need time to come up, and an image that is really bad is still bad then. Promises: an answer comes by the deadline (plus the seconds it takes to kill a hook), and it is
//! *healthy* only if every required check was seen to succeed, twice; once, where nothing that happens later changes what it says
//! ([`BuiltIn::once`]). However long a disk hangs, and however often it is probed, one question of each built-in check waits for it
//! (P10, [`Turn`]). Never: takes a missing answer for health.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::hooks::{self, AfterFailure, HookContext, Program, TimeLimit};

/// Where the checks of a whole boot meet (systemd.special(7)).
const BOOT_COMPLETE: &str = "boot-complete.target";
/// The unit that leaves a slot whose daemon does not: it fails where a slot is overdue and there is no way back.
const OWN_UNIT: &str = "update-engine-trial.service";
/// Most failed units that a reason names.
const MAX_UNITS_NAMED: usize = 10;
/// Time one question to systemd may take.
const SERVICES_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest finding that is shown while it is probed, and kept afterwards: a sentence.
pub const MAX_FINDING_CHARS: usize = 200;

/// How to probe.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Folder of the hooks, with those of health in it.
    pub hooks_dir: PathBuf,
    /// What hooks are told.
    pub context: HookContext,
    /// Time until there must be an answer.
    pub deadline: Duration,
    /// Time between the first success and the second.
    pub settle: Duration,
    /// Time from now on in which it is not kept, however healthy it is: the second success comes no sooner.
    pub kept_after: Duration,
    /// Time each hook has.
    pub hook_timeout: Duration,
    /// Who knows about services.
    pub services: Services,
    /// Built-in required checks, asked in this order.
    pub built_in: Vec<BuiltIn>,
    /// What built-in wanted checks found.
    pub warnings: Vec<String>,
}

/// A required check that the daemon brings along.
#[derive(Clone)]
pub struct BuiltIn {
    name: String,
    check: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Asking again cannot change what it says.
    is_final: bool,
    turn: Turn,
}

/// Whoever asks waits for it: a question that hangs is joined by no other. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<Mutex<()>>);

impl Turn {
    /// Waits until nobody has it.
    pub(crate) async fn take(&self) -> OwnedMutexGuard<()> {
        self.0.clone().lock_owned().await
    }
}

impl BuiltIn {
    /// Asked once, when all before it have succeeded: nothing that happens later changes what it says.
    pub fn once(name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        let said = OnceLock::new();
        let check = Arc::new(move || said.get_or_init(&check).clone());
        Self { name: name.to_owned(), check, is_final: true, turn: Turn::default() }
    }

    /// Asked in each round until the deadline: what it looks for may come late.
    pub fn each_round(name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { name: name.to_owned(), check: Arc::new(check), is_final: false, turn: Turn::default() }
    }

    /// The same, asked in this turn: that of whoever asks the same disk in another probe.
    #[must_use]
    pub fn in_turn(self, turn: &Turn) -> Self {
        Self { turn: turn.clone(), ..self }
    }

    async fn ask(&self, deadline: Instant) -> Result<(), Failure> {
        let check = self.check.clone();
        let answer = async {
            let turn = self.turn.take().await;
            let ask = move || {
                let _until_it_answers = turn;
                check()
            };
            spawn_blocking(ask).await
        };
        let words = match timeout_at(deadline, answer).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(words))) => words,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer by the deadline".to_owned(),
        };
        Err(Failure { is_final: self.is_final, ..Failure::new(format!("{}: {words}", self.name)) })
    }
}

impl fmt::Debug for BuiltIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuiltIn").field("name", &self.name).field("is_final", &self.is_final).finish_non_exhaustive()
    }
}

/// Who is asked whether the boot is complete, and about failed services where there are no health hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Services {
    /// `systemctl`, here.
    Systemd(PathBuf),
    /// Nobody: systemd does not run this machine, or it is not this machine that is updated.
    NotAsked,
}

/// Whether the new slot is healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Every required check succeeded, and still did after the settle time.
    Healthy {
        /// What the wanted checks found, [`brief`], a few of many.
        warnings: Vec<String>,
    },
    /// Something required did not.
    Unhealthy {
        /// One sentence.
        reason: String,
        /// What the hook that failed had said.
        output: String,
    },
}

impl Services {
    /// systemd, if it is process 1 of the machine that is updated.
    pub fn of_host(sysroot: &Path) -> Self {
        let systemd_runs = sysroot == Path::new("/") && Path::new("/run/systemd/system").is_dir();
        if systemd_runs { Self::Systemd(PathBuf::from("systemctl")) } else { Self::NotAsked }
    }
}

impl Probe {
    fn folders(&self, names: [&str; 2]) -> [PathBuf; 2] {
        names.map(|name| self.hooks_dir.join(name))
    }

    fn time_limit(&self, deadline: Instant) -> TimeLimit {
        TimeLimit { each: self.hook_timeout, until: Some(deadline) }
    }
}

/// Most wanted checks whose findings are kept one by one.
const MAX_WARNINGS: usize = 8;

/// A finding as people are shown it: its first line, not longer than [`MAX_FINDING_CHARS`].
pub fn brief(finding: &str) -> String {
    let line = finding.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let printable = line.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = printable.take(MAX_FINDING_CHARS).collect();
    if line.chars().nth(MAX_FINDING_CHARS).is_some() {
        short.pop();
        short.push('…');
    }
    short
}

/// Probes until there is an answer. `latest` holds what failed in the latest round, [`brief`]; `None` while nothing did.
pub async fn probe(probe: &Probe, latest: &watch::Sender<Option<String>>) -> Health {
    let began = Instant::now();
    let (deadline, kept_from) = (began + probe.deadline, began + probe.kept_after);
    let retry = (probe.deadline / 20).clamp(Duration::from_millis(100), Duration::from_secs(5));
    let mut earlier = None;
    loop {
        let mut failure = match settled(probe, deadline, kept_from, latest).await {
            Ok(()) => return Health::Healthy { warnings: wanted(probe, deadline).await },
            Err(failure) => failure,
        };
        // What was cut short by the deadline says less than what failed by itself before.
        if Instant::now() >= deadline {
            failure = earlier.unwrap_or(failure);
        }
        tell(latest, Some(brief(&failure.reason)));
        let again = Instant::now() + retry;
        if failure.is_final || again >= deadline {
            return Health::Unhealthy { reason: failure.reason, output: failure.output };
        }
        earlier = Some(failure);
        sleep_until(again).await;
    }
}

/// Whoever listens hears only what is new.
fn tell(latest: &watch::Sender<Option<String>>, finding: Option<String>) {
    latest.send_if_modified(|known| {
        let is_new = *known != finding;
        *known = finding;
        is_new
    });
}

struct Failure {
    reason: String,
    output: String,
    /// Trying again cannot change it.
    is_final: bool,
}

impl Failure {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), output: String::new(), is_final: false }
    }
}

/// Healthy now, and still after the settle time, when it may be kept.
async fn settled(
    probe: &Probe,
    deadline: Instant,
    kept_from: Instant,
    latest: &watch::Sender<Option<String>>,
) -> Result<(), Failure> {
    required(probe, deadline).await?;
    tell(latest, None);
    let seen = Instant::now();
    let then = (seen + probe.settle).max(kept_from);
    if then >= deadline {
        let reason = format!("it was not healthy for {} s before its deadline", probe.settle.as_secs());
        return Err(Failure { is_final: true, ..Failure::new(reason) });
    }
    sleep_until(then).await;
    required(probe, deadline).await.map_err(|failure| Failure {
        reason: format!("it was healthy, but not after {} s: {}", then.duration_since(seen).as_secs(), failure.reason),
        ..failure
    })
}

async fn required(probe: &Probe, deadline: Instant) -> Result<(), Failure> {
    for check in &probe.built_in {
        check.ask(deadline).await?;
    }
    hooks_or_units(probe, deadline).await?;
    boot_complete(&probe.services, deadline).await
}

async fn hooks_or_units(probe: &Probe, deadline: Instant) -> Result<(), Failure> {
    let folders = probe.folders(hooks::REQUIRED_CHECKS);
    if hooks::list_merged(&folders).map_err(|error| Failure::new(error.to_string()))?.is_empty() {
        return services(&probe.services, deadline).await;
    }
    let results = hooks::run_merged(&folders, &probe.context, probe.time_limit(deadline), AfterFailure::Stop)
        .await
        .map_err(|error| Failure::new(error.to_string()))?;
    match results.into_iter().find(|result| !result.is_ok()) {
        Some(result) => Err(Failure { output: result.output.clone(), ..Failure::new(result.words()) }),
        None => Ok(()),
    }
}

async fn services(services: &Services, deadline: Instant) -> Result<(), Failure> {
    let Services::Systemd(systemctl) = services else {
        return Ok(());
    };
    let timeout = time_to_answer(deadline);
    let state = hooks::run_program(Program::new(systemctl, &["is-system-running"]), timeout).await;
    match state.first_line.as_str() {
        "running" if state.is_ok() => Ok(()),
        "degraded" => match FailedUnits::ask(systemctl, timeout).await {
            FailedUnits { others, own: true, .. } if others.is_empty() => Ok(()),
            failed => {
                let reason = failed.words().unwrap_or_else(|| "some units failed".to_owned());
                Err(Failure { output: failed.output, ..Failure::new(reason) })
            }
        },
        "initializing" | "starting" => Err(Failure::new("the system has not finished starting")),
        "" => Err(Failure::new(format!("systemd did not say how the system is: {}", state.words()))),
        other => Err(Failure::new(format!("systemd says the system is \"{other}\""))),
    }
}

/// The target is active, or nothing here asks for it: a system without it, or where nobody pulls it in, has no say by it.
async fn boot_complete(services: &Services, deadline: Instant) -> Result<(), Failure> {
    let Services::Systemd(systemctl) = services else {
        return Ok(());
    };
    let timeout = time_to_answer(deadline);
    // `is-active` answers "inactive" for a unit that does not exist, too.
    let asked = ["show", "--property=LoadState,ActiveState,RequiredBy,WantedBy", BOOT_COMPLETE];
    let said = hooks::run_program(Program::new(systemctl, &asked), timeout).await;
    let value = |key: &str| said.output.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let is_asked_for = ["RequiredBy", "WantedBy"].into_iter().any(|key| value(key).is_some_and(|units| !units.is_empty()));
    match (value("LoadState"), value("ActiveState")) {
        (Some("not-found" | "masked"), _) | (Some(_), Some("active")) => Ok(()),
        (Some("loaded"), Some(_)) if !is_asked_for => Ok(()),
        (Some(_), Some(state)) => {
            let failed = FailedUnits::ask(systemctl, timeout).await;
            let units = failed.words().map(|units| format!("; {units}")).unwrap_or_default();
            let output = failed.output;
            Err(Failure { output, ..Failure::new(format!("{BOOT_COMPLETE} is not reached ({state}){units}")) })
        }
        _ => Err(Failure::new(format!("systemd did not say how {BOOT_COMPLETE} is: {}", said.words()))),
    }
}

/// What systemd says has failed.
struct FailedUnits {
    /// Our own, which may fail because an earlier probe did: then it says nothing of the image.
    own: bool,
    others: Vec<String>,
    /// The whole list.
    output: String,
}

impl FailedUnits {
    async fn ask(systemctl: &Path, timeout: Duration) -> Self {
        let arguments = ["list-units", "--failed", "--plain", "--no-legend", "--no-pager"];
        let list = hooks::run_program(Program::new(systemctl, &arguments), timeout).await;
        let units = list.output.lines().filter_map(|line| line.split_whitespace().next());
        let (own, others): (Vec<&str>, Vec<&str>) = units.partition(|unit| *unit == OWN_UNIT);
        Self {
            own: list.is_ok() && !own.is_empty(),
            others: others.into_iter().map(str::to_owned).collect(),
            output: list.output,
        }
    }

    /// "failed units: a, b", if there are any.
    fn words(&self) -> Option<String> {
        let named = &self.others[..self.others.len().min(MAX_UNITS_NAMED)];
        (!named.is_empty()).then(|| format!("failed units: {}", named.join(", ")))
    }
}

fn time_to_answer(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).min(SERVICES_TIMEOUT)
}

async fn wanted(probe: &Probe, deadline: Instant) -> Vec<String> {
    let folders = probe.folders(hooks::WANTED_CHECKS);
    let hooks = match hooks::run_merged(&folders, &probe.context, probe.time_limit(deadline), AfterFailure::GoOn).await {
        Ok(results) => results.iter().filter(|result| !result.is_ok()).map(hooks::HookResult::words).collect(),
        Err(error) => vec![error.to_string()],
    };
    bounded(&[probe.warnings.clone(), hooks].concat())
}

/// They are kept with the attempt and sent to the update server: few, and short.
fn bounded(found: &[String]) -> Vec<String> {
    let mut warnings: Vec<String> = found.iter().take(MAX_WARNINGS).map(|finding| brief(finding)).collect();
    let more = found.len().saturating_sub(MAX_WARNINGS);
    if more > 0 {
        warnings.push(format!("and {more} more"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// By another process: a file that this one has open for writing while a neighbour forks cannot be executed.
    fn write_program(path: &Path, script: &str) {
        let text = format!("#!/bin/sh\n{script}\n");
        let writes = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let written = std::process::Command::new("sh").args(["-c", writes]).arg(path).arg(text).status().unwrap();
        assert!(written.success());
    }

    /// A host with one required check, this script.
    fn asking(folder: &Path, script: &str) -> Probe {
        let checks = folder.join("health/required.d");
        std::fs::create_dir_all(&checks).unwrap();
        let check = checks.join("10-service");
        write_program(&check, script);
        Probe {
            hooks_dir: folder.to_owned(),
            context: HookContext::default(),
            deadline: Duration::from_secs(30),
            settle: Duration::from_millis(100),
            kept_after: Duration::ZERO,
            hook_timeout: Duration::from_secs(10),
            services: Services::NotAsked,
            built_in: Vec::new(),
            warnings: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_fails_is_told_while_it_is_probed_and_taken_back_when_it_is_mended() {
        let folder = tempfile::tempdir().unwrap();
        let mended = folder.path().join("mended");
        let asked = asking(folder.path(), &format!("test -e {} && exit 0; echo the service is down; exit 1", mended.display()));
        let (latest, mut seen) = watch::channel(None);
        let mend = async {
            let failing = |finding: &Option<String>| finding.is_some();
            let words = seen.wait_for(failing).await.unwrap().clone();
            std::fs::write(&mended, "").unwrap();
            words
        };
        let (health, words) = tokio::join!(probe(&asked, &latest), mend);
        assert_eq!(words.as_deref(), Some("10-service exited with 1: the service is down"));
        assert_eq!((health, latest.borrow().clone()), (Health::Healthy { warnings: Vec::new() }, None));
    }

    #[tokio::test]
    async fn checks_in_the_other_spelling_count_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let asked = Probe { deadline: Duration::from_millis(500), ..asking(folder.path(), "exit 0") };
        for (name, script) in [("required.d/20-net", "echo no route; exit 1"), ("wanted.d/20-disk", "echo full; exit 1")] {
            let path = folder.path().join("health.d").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_program(&path, script);
        }
        let Health::Unhealthy { reason, .. } = probe(&asked, &watch::channel(None).0).await else { panic!("healthy") };
        assert_eq!(reason, "20-net exited with 1: no route");
        std::fs::remove_file(folder.path().join("health.d/required.d/20-net")).unwrap();
        let asked = Probe { deadline: Duration::from_secs(30), ..asked };
        let warnings = vec!["20-disk exited with 1: full".to_owned()];
        assert_eq!(probe(&asked, &watch::channel(None).0).await, Health::Healthy { warnings });
    }

    #[tokio::test]
    async fn what_the_daemon_itself_found_only_warns() {
        let folder = tempfile::tempdir().unwrap();
        let asked = Probe { warnings: vec!["nobody counts".to_owned()], ..asking(folder.path(), "exit 0") };
        let health = probe(&asked, &watch::channel(None).0).await;
        assert_eq!(health, Health::Healthy { warnings: vec!["nobody counts".to_owned()] });
    }

    #[tokio::test]
    async fn a_built_in_check_is_asked_in_its_turn_and_again_only_if_that_may_help() {
        let folder = tempfile::tempdir().unwrap();
        let asks = Arc::new(AtomicU32::new(0));
        let (late, counted) = (asks.clone(), Arc::new(AtomicU32::new(0)));
        let counts = counted.clone();
        let built_in = vec![
            BuiltIn::each_round("state", move || match late.fetch_add(1, Ordering::Relaxed) {
                0 => Err("not mounted".to_owned()),
                _ => Ok(()),
            }),
            BuiltIn::once("keys", move || {
                counts.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }),
        ];
        let asked = Probe { deadline: Duration::from_secs(4), built_in, ..asking(folder.path(), "exit 0") };
        assert_eq!(probe(&asked, &watch::channel(None).0).await, Health::Healthy { warnings: Vec::new() });
        // Before and after the settle time; what is asked once was not asked before the state was seen.
        assert_eq!((asks.load(Ordering::Relaxed), counted.load(Ordering::Relaxed)), (3, 1));

        let unhealthy = |health| match health {
            Health::Unhealthy { reason, .. } => reason,
            Health::Healthy { .. } => panic!("healthy"),
        };
        let (latest, began) = (watch::channel(None).0, Instant::now());
        let built_in = vec![BuiltIn::once("keys", || Err("none".to_owned()))];
        assert_eq!(unhealthy(probe(&Probe { built_in, ..asked.clone() }, &latest).await), "keys: none");
        assert!(began.elapsed() < asked.deadline);
        let built_in = vec![BuiltIn::each_round("disk", || {
            std::thread::sleep(Duration::from_secs(2));
            Ok(())
        })];
        let held = Probe { deadline: Duration::from_millis(300), built_in, ..asked };
        assert_eq!(unhealthy(probe(&held, &latest).await), "disk: no answer by the deadline");
    }

    #[tokio::test]
    async fn a_built_in_check_that_never_answers_is_asked_once_however_often_it_is_probed() {
        let folder = tempfile::tempdir().unwrap();
        let (turn, begun) = (Turn::default(), Arc::new(AtomicU32::new(0)));
        let (answer, hangs) = std::sync::mpsc::channel::<()>();
        let hangs = Arc::new(std::sync::Mutex::new(hangs));
        let asked = asking(folder.path(), "exit 0");
        let within = |deadline: Duration| {
            let (begins, hangs) = (begun.clone(), hangs.clone());
            let disk = BuiltIn::each_round("disk", move || {
                begins.fetch_add(1, Ordering::Relaxed);
                hangs.lock().unwrap().recv().map_or(Ok(()), |()| Err("it was told something".to_owned()))
            });
            Probe { deadline, built_in: vec![disk.in_turn(&turn)], ..asked.clone() }
        };
        for _ in 0..2 {
            match probe(&within(Duration::from_millis(500)), &watch::channel(None).0).await {
                Health::Unhealthy { reason, .. } => assert_eq!(reason, "disk: no answer by the deadline"),
                Health::Healthy { .. } => panic!("healthy"),
            }
        }
        drop(answer);
        let health = probe(&within(Duration::from_secs(30)), &watch::channel(None).0).await;
        assert_eq!(health, Health::Healthy { warnings: Vec::new() });
        // One that hung, and both of the last probe.
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn of_many_wanted_checks_that_fail_a_few_are_kept() {
        let found: Vec<String> = (0..20).map(|number| format!("check {number} failed\nat length")).collect();
        let kept = bounded(&found);
        assert_eq!((kept.len(), kept[0].as_str(), kept[8].as_str()), (9, "check 0 failed", "and 12 more"));
    }

    #[test]
    fn a_finding_is_shown_as_one_short_line() {
        assert_eq!(brief("\n nginx is\tdown \nand more"), "nginx is down");
        let long = brief(&"ä".repeat(1000));
        assert_eq!((long.chars().count(), long.ends_with("ä…")), (MAX_FINDING_CHARS, true));
    }
}
