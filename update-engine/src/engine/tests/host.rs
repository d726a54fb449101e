//! One host under test: an engine, its clock, and the world it is told of.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use manifests::digest::Sha256Digest;
use manifests::release::{Image, Record, SlotName, WindowTable};
use manifests::version::{Sequence, Version};

use crate::boot::{Past, Standing};
use crate::engine::cause::Cause;
use crate::engine::command::{Accepted, Command, Rejected};
use crate::engine::event::{
    AskAgain, CheckAnswer, Fault, Fetched, Gate, LockGrant, LockRefusal, Marked, Offer, Orphan, Proof, RebootAccepted,
};
use crate::engine::facts::{BootTable, Content, Facts, Floor, FloorFacts, Identity, PerSlot};
use crate::engine::policy::{LockSettings, Policy, StartedBy, Strategy};
use crate::engine::state::{Plan, Source};
use crate::engine::time::{Mono, Now, Wall};
use crate::engine::{Effect, Engine, Event, Model};

use super::words;
use crate::engine::effect::GateStage;

/// 2026-11-21T12:00:00Z.
pub(crate) const NOON: Wall = Wall(1_795_262_400_000);
/// Tries of a freshly armed slot.
pub(crate) const TRIES: u8 = 3;

pub(crate) const GOOD: Standing = Standing::Good;
pub(crate) const BLANK: Standing = Standing::Blank;
pub(crate) const BAD: Standing = Standing::Bad;
pub(crate) const SPENT: Standing = Standing::Spent;

pub(crate) const fn armed(tries_left: u8) -> Standing {
    Standing::Pending { tries_left }
}

/// Slot a is good, b stands so; the loader goes on with b where it may.
pub(crate) const fn table(b: Standing) -> BootTable {
    let next = if b.is_bootable() { SlotName::B } else { SlotName::A };
    BootTable { standing: PerSlot { a: GOOD, b }, next, past: Past::Armed, tries: TRIES, weakness: None }
}

pub(crate) fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

pub(crate) fn digest(number: u64) -> Sha256Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Sha256Digest::from_bytes(bytes)
}

/// Release `1.N.0` with sequence N+1: 1.0.0 is 1, 1.1.0 is 2.
pub(crate) fn record(number: u64) -> Record {
    let windows = vec![digest(number)];
    Record {
        product: "{demo}".into(),
        arch: "x86_64".into(),
        board: "demo".into(),
        version: Version::parse(&version(number)).unwrap(),
        sequence: sequence(number),
        created: "2026-11-20T12:00:00Z".parse().unwrap(),
        not_below: Sequence::ZERO,
        minimum_source: None,
        channels: vec![],
        urgent: false,
        revoked_keys: vec![],
        payload_table_sha256: None,
        notes: None,
        images: vec![Image {
            name: "root".into(),
            slot: None,
            table: WindowTable::new(4096 * 2, windows).unwrap(),
            verity: None,
        }],
    }
}

pub(crate) fn version(number: u64) -> String {
    format!("1.{}.0", number - 1)
}

pub(crate) fn offer(number: u64) -> Offer {
    let source = Source { urls: vec![format!("http://updates.example/{number}.payload")], size: 4096, delta: None };
    Offer { record: record(number), digest: digest(number), announced_version: Some(version(number)), source }
}

pub(crate) fn content(number: u64) -> Content {
    Content { version: Some(version(number)), sequence: Some(sequence(number)), digest: Some(digest(number)) }
}

/// 1.0.0 runs from slot a, good; slot b is empty.
pub(crate) fn facts() -> Facts {
    Facts {
        image_mode: false,
        identity: Identity {
            id: "4f3c".into(),
            alias: "host-1".into(),
            app_id: "{demo}".into(),
            channel: "stable".into(),
            board: "demo".into(),
            arch: "x86_64".into(),
        },
        boot_id: "boot-1".into(),
        running: Some(SlotName::A),
        boot: Some(BootTable { past: Past::NeverArmed, ..table(BLANK) }),
        slots: PerSlot { a: content(1), b: Content::default() },
        capacity: BTreeMap::from([("root".to_owned(), 1 << 20)]),
        floor: FloorFacts::Known(Floor { floor: Sequence::ZERO, highest: sequence(1) }),
        left: None,
        last_words: None,
        rival: None,
        no_deadline: None,
        trial_ends: None,
        troubles: vec![],
    }
}

pub(crate) fn policy(strategy: Strategy, with_lock: bool) -> Policy {
    let lock = LockSettings { url: "http://locks.example/".into(), group: "default".into(), id: "4f3c".into() };
    Policy {
        strategy,
        lock: with_lock.then_some(lock),
        check_interval: Duration::from_secs(2700),
        gate_retry: Duration::from_secs(60),
        blind: Duration::from_secs(600),
        min_uptime: Duration::ZERO,
        has_server: true,
        stale_after: Duration::from_secs(60 * 86_400),
        started_by: StartedBy::AnyReboot,
    }
}

/// A fault by its cause's word.
pub(crate) fn fault(word: &str) -> Fault {
    let cause = Cause::read(word);
    assert!(!matches!(cause, Cause::Other(_)), "{word} is no cause");
    Fault::new(cause, format!("it broke: {word}"))
}

pub(crate) fn closed(gate: &str) -> Gate {
    Gate { gate: gate.into(), closed: Some(format!("{gate} says no")), until: None }
}

/// A host, driven by events.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) facts: Facts,
    pub(crate) mono: u64,
    pub(crate) wall: i64,
    dice: u128,
}

impl Host {
    /// Strategy `lock`, started and idle.
    pub(crate) fn new() -> Self {
        Self::with(policy(Strategy::Lock, true))
    }

    /// Started and idle.
    pub(crate) fn with(policy: Policy) -> Self {
        Self::from(Model::default(), facts(), policy)
    }

    /// Started with a journal and a world.
    pub(crate) fn from(model: Model, facts: Facts, policy: Policy) -> Self {
        let engine = Engine::new(model, facts.clone(), policy);
        let mut host = Self { engine, facts, mono: 1_000_000, wall: NOON.0, dice: 7 };
        let _effects = host.start(vec![]);
        host
    }

    pub(crate) fn now(&mut self) -> Now {
        // A fixed stride through the dice: tests must not depend on luck.
        self.dice = self.dice.wrapping_mul(0x5851_F42D_4C95_7F2D_1405_7B7E_F767_814F).wrapping_add(1);
        Now { wall: Wall(self.wall), mono: Mono(self.mono), dice: self.dice }
    }

    /// The start of the daemon with the present facts.
    pub(crate) fn start(&mut self, orphans: Vec<Orphan>) -> Vec<String> {
        let facts = Box::new(self.facts.clone());
        self.step(Event::Started { facts, orphans })
    }

    /// Kills the daemon and starts it again: only what the journal holds is left, and the facts as the world is now.
    pub(crate) fn restart(&mut self, change: impl FnOnce(&mut Facts)) -> Vec<String> {
        let json = serde_json::to_string(self.engine.model()).unwrap();
        let mut model: Model = serde_json::from_str(&json).unwrap();
        model.refusals.clone_from(&self.engine.model().refusals);
        self.facts = self.engine.facts().clone();
        change(&mut self.facts);
        self.engine = Engine::new(model, self.facts.clone(), self.engine.policy().clone());
        self.start(vec![])
    }

    /// One step; the effects in words.
    pub(crate) fn step(&mut self, event: Event) -> Vec<String> {
        words::effects(&self.step_raw(event))
    }

    pub(crate) fn step_raw(&mut self, event: Event) -> Vec<Effect> {
        let now = self.now();
        self.engine.step(event, &now)
    }

    pub(crate) fn command(&mut self, command: Command) -> (Result<Accepted, Rejected>, Vec<String>) {
        let now = self.now();
        let (answer, effects) = self.engine.command(command, &now);
        (answer, words::effects(&effects))
    }

    /// A command that must be accepted.
    pub(crate) fn order(&mut self, command: Command) -> Vec<String> {
        let (answer, effects) = self.command(command);
        answer.unwrap();
        effects
    }

    /// What a person is told.
    pub(crate) fn answer(&mut self, command: Command) -> String {
        self.command(command).0.unwrap().message
    }

    /// The code of a refusal.
    pub(crate) fn refused(&mut self, command: Command) -> String {
        let (answer, effects) = self.command(command);
        assert_eq!(effects, Vec::<String>::new());
        serde_json::to_value(answer.unwrap_err().code).unwrap().as_str().unwrap().to_owned()
    }

    /// Time passes until the engine wants to be woken.
    pub(crate) fn wake(&mut self) -> Vec<String> {
        let at = self.engine.next_wake().expect("a time to wake").0;
        self.pass_ms(at.saturating_sub(self.mono));
        self.step(Event::Woke)
    }

    pub(crate) fn pass_ms(&mut self, span_ms: u64) {
        self.mono += span_ms;
        self.wall += i64::try_from(span_ms).unwrap();
    }

    pub(crate) fn state(&self) -> &'static str {
        words::state(&self.engine.model().state)
    }

    pub(crate) fn plan(&self) -> Plan {
        self.engine.model().state.plan().unwrap().clone()
    }

    pub(crate) fn attempt(&self) -> String {
        self.plan().attempt
    }

    /// The word of the error that `status` shows, empty without one.
    pub(crate) fn last_error(&self) -> &str {
        match self.engine.model().last_error.as_ref().map(|error| error.code.word()) {
            Some(Cow::Borrowed(word)) => word,
            Some(Cow::Owned(_)) => "http-NNN",
            None => "",
        }
    }

    // What happens, one line each.

    pub(crate) fn checked(&mut self, answer: CheckAnswer) -> Vec<String> {
        let facts = Box::new(self.engine.facts().clone());
        self.step(Event::Checked { facts, answer: Box::new(answer) })
    }

    pub(crate) fn offered(&mut self, number: u64) -> Vec<String> {
        self.offered_as(offer(number))
    }

    pub(crate) fn offered_as(&mut self, offer: Offer) -> Vec<String> {
        self.checked(CheckAnswer::Offer { again: AskAgain::default(), offer: Box::new(offer) })
    }

    pub(crate) fn nothing_new(&mut self) -> Vec<String> {
        self.checked(CheckAnswer::NoUpdate { again: AskAgain::default(), hold: None })
    }

    pub(crate) fn installed(&mut self, result: Result<(), Fault>) -> Vec<String> {
        let boot = Some(table(BLANK));
        let result = result.map(|()| Fetched { bytes_downloaded: 7, bytes_reused: 1 });
        self.step(Event::Installed { attempt: self.attempt(), boot, result })
    }

    pub(crate) fn read_back(&mut self, result: Result<Proof, Fault>) -> Vec<String> {
        self.step(Event::ReadBack { attempt: self.attempt(), result })
    }

    pub(crate) fn differs(&mut self) -> Vec<String> {
        self.read_back(Ok(Proof::Differs { detail: "window 3 of root".into() }))
    }

    pub(crate) fn gates(&mut self, stage: GateStage, gates: Vec<Gate>) -> Vec<String> {
        self.step(Event::Gates { attempt: self.attempt(), stage, gates })
    }

    pub(crate) fn granted(&mut self) -> Vec<String> {
        self.step(Event::Lock { attempt: self.attempt(), result: Ok(LockGrant { fence: Some("1".into()) }) })
    }

    pub(crate) fn lock_refused(&mut self) -> Vec<String> {
        let refusal = LockRefusal { kind: "lock".into(), message: "held by host-7".into(), ..LockRefusal::default() };
        self.step(Event::Lock { attempt: self.attempt(), result: Err(refusal) })
    }

    pub(crate) fn drained(&mut self, result: Result<(), Fault>) -> Vec<String> {
        self.step(Event::Drained { attempt: self.attempt(), result })
    }

    pub(crate) fn acknowledged(&mut self, result: Result<(), Fault>) -> Vec<String> {
        self.step(Event::RebootAcknowledged { attempt: self.attempt(), result })
    }

    pub(crate) fn armed(&mut self, result: Result<(), Fault>) -> Vec<String> {
        let table = table(armed(TRIES));
        self.step(Event::Armed { attempt: self.attempt(), result: result.map(|()| table) })
    }

    pub(crate) fn reboot(&mut self, result: Result<(), Fault>) -> Vec<String> {
        self.reboot_answered(result.map(|()| RebootAccepted::Ended))
    }

    pub(crate) fn reboot_answered(&mut self, result: Result<RebootAccepted, Fault>) -> Vec<String> {
        self.step(Event::Reboot { attempt: self.attempt(), result })
    }

    pub(crate) fn disarmed(&mut self, result: Result<(), Fault>) -> Vec<String> {
        let table = table(BLANK);
        self.step(Event::Disarmed { result: result.map(|()| table) })
    }

    pub(crate) fn undrained(&mut self) -> Vec<String> {
        self.step(Event::Undrained { attempt: self.attempt() })
    }

    pub(crate) fn health(&mut self, result: Result<(), &str>) -> Vec<String> {
        let result = result.map(|()| vec![]).map_err(str::to_owned);
        self.step(Event::Health { attempt: self.attempt(), result })
    }

    pub(crate) fn marked_bad(&mut self, result: Result<(), Fault>) -> Vec<String> {
        let table = table(BAD);
        self.step(Event::MarkedBad { attempt: self.attempt(), result: result.map(|()| table) })
    }

    pub(crate) fn commit_done(&mut self, result: Result<(), Fault>) -> Vec<String> {
        let mut facts = self.engine.facts().clone();
        facts.boot = Some(table(GOOD));
        self.step(Event::CommitDone {
            attempt: self.attempt(),
            result: result.map(|()| Marked { facts: Box::new(facts), floor: Ok(()) }),
        })
    }

    /// The pending check brings release `number`; the timer's pause after failures is over.
    pub(crate) fn nothing_new_or(&mut self, number: u64) {
        assert_eq!(self.state(), "checking");
        self.offered(number);
        assert_eq!(self.state(), "fetching");
    }

    /// Starts the timer's check beside an update that waits, and nothing else.
    pub(crate) fn check_beside(&mut self) {
        let at = self.engine.model().check.next.clone().unwrap().at.0;
        self.pass_ms(at.saturating_sub(self.mono));
        let effects = self.step(Event::Woke);
        assert!(effects.contains(&"check".to_owned()), "{effects:?}");
        if self.state() == "proven/gates" {
            self.gates(GateStage::BeforeLock, vec![closed("hook")]);
        }
    }

    /// The gates that were closed are looked at again.
    pub(crate) fn wake_gates(&mut self) {
        if self.state() == "proven/gate-closed" {
            self.wake();
        }
    }

    /// Everything goes well from `fetching` to the reboot.
    pub(crate) fn drive_to_armed(&mut self) {
        self.installed(Ok(()));
        self.read_back(Ok(Proof::Equal));
        self.step(Event::Outbox { releases_waiting: 0 });
        self.gates(GateStage::BeforeLock, vec![]);
        self.granted();
        self.drained(Ok(()));
        self.gates(GateStage::BeforeFlip, vec![]);
        self.acknowledged(Ok(()));
        assert_eq!(self.armed(Ok(())), list("reboot"));
    }

    /// Everything goes well from `fetching` on; the effects of the commit.
    pub(crate) fn drive_to_commit(&mut self) -> Vec<String> {
        self.drive_to_armed();
        self.boot_into_b(armed(TRIES - 1));
        self.health(Ok(()));
        self.commit_done(Ok(()))
    }

    /// Everything goes well from `fetching` to the reboot, with the strategy `immediate`.
    pub(crate) fn drive_until_reboot(&mut self) {
        self.installed(Ok(()));
        self.read_back(Ok(Proof::Equal));
        self.gates(GateStage::BeforeLock, vec![]);
        self.drained(Ok(()));
        self.gates(GateStage::BeforeFlip, vec![]);
        assert_eq!(self.armed(Ok(())), list("reboot"));
    }

    /// The host came up again in the new slot.
    pub(crate) fn boot_into_b(&mut self, b: Standing) -> Vec<String> {
        self.restart(|facts| in_new_slot(facts, b))
    }

    /// Drives a fresh host into a state, by events alone.
    pub(crate) fn at(state: &str) -> Self {
        let host = Self::drive(state);
        assert_eq!(host.state(), state, "the driver led elsewhere");
        host
    }

    fn drive(state: &str) -> Self {
        let lock = || Self::new();
        let manual = || Self::with(policy(Strategy::Manual, false));
        match state {
            "idle" => lock(),
            "checking" => lock().then(|host| host.wake()),
            "deferred" => Self::at("checking").then(|host| {
                host.order(Command::Pause { until: None, reason: Some("demo".into()) });
                host.offered(2)
            }),
            "fetching" => Self::at("checking").then(|host| host.offered(2)),
            "fetching/again" => Self::at("written").then(|host| host.differs()),
            "written" => Self::at("fetching").then(|host| host.installed(Ok(()))),
            "written/rollback" => Self::committed_on_b().then(|host| host.order(Command::Rollback)),
            "proven/person" => Self::at("idle").then(|host| {
                host.order(Command::Update { version: None, allow_older: false, no_reboot: true });
                host.offered(2);
                host.installed(Ok(()));
                host.read_back(Ok(Proof::Equal))
            }),
            "proven/gates" => Self::at("written").then(|host| host.read_back(Ok(Proof::Equal))),
            "proven/gate-closed" => Self::at("proven/gates").then(|host| host.gates(GateStage::BeforeLock, vec![closed("hook")])),
            "proven/lock" => Self::at("proven/gates").then(|host| host.gates(GateStage::BeforeLock, vec![])),
            "proven/cancelled" => Self::at("proven/lock").then(|host| host.order(Command::Cancel)),
            "proven/lock-refused" => Self::at("proven/lock").then(|host| host.lock_refused()),
            "locked/draining" => Self::at("proven/lock").then(|host| host.granted()),
            "locked/gates-again" => Self::at("locked/draining").then(|host| host.drained(Ok(()))),
            "locked/acknowledging" => Self::at("locked/gates-again").then(|host| host.gates(GateStage::BeforeFlip, vec![])),
            "locked/arming" => Self::at("locked/acknowledging").then(|host| host.acknowledged(Ok(()))),
            "locked/giving-up" => Self::at("locked/arming").then(|host| host.armed(Err(fault("boot-control")))),
            "armed/rebooting" => Self::at("locked/arming").then(|host| host.armed(Ok(()))),
            "armed/giving-up" => Self::at("armed/rebooting").then(|host| host.reboot(Err(fault("reboot")))),
            "armed/gates" => Self::at("armed/rebooting").then(|host| host.restart(|_| ())),
            "armed/lock" => Self::at("armed/gates").then(|host| host.gates(GateStage::BeforeReboot, vec![])),
            "armed/lock-refused" => Self::at("armed/lock").then(|host| host.lock_refused()),
            "armed/acknowledging" => Self::at("armed/lock").then(|host| host.granted()),
            "armed/resting" => manual().then(|host| {
                host.wake();
                host.offered(2);
                host.installed(Ok(()));
                host.read_back(Ok(Proof::Equal));
                host.gates(GateStage::BeforeLock, vec![]);
                host.armed(Ok(()))
            }),
            "armed/gate-closed" => Self::at("armed/resting").then(|host| {
                host.order(Command::Reboot { force: false });
                host.gates(GateStage::BeforeReboot, vec![closed("hook")])
            }),
            "armed/draining" => Self::at("armed/resting").then(|host| {
                host.order(Command::Reboot { force: false });
                host.gates(GateStage::BeforeReboot, vec![])
            }),
            "trial" => Self::at("armed/rebooting").then(|host| host.boot_into_b(armed(TRIES - 1))),
            "trial/verdict" => Self::at("trial").then(|host| host.health(Err("nginx does not answer"))),
            "committed" => Self::at("trial").then(|host| host.health(Ok(()))),
            "rolled-back" => Self::at("armed/rebooting").then(|host| host.restart(|facts| in_old_slot(facts, SPENT))),
            "failed" => Self::at("fetching").then(|host| host.installed(Err(fault("download")))),
            other => panic!("no way is known to {other}"),
        }
    }

    /// 1.1.0 was committed and runs from slot b, 1.0.0 is still in slot a.
    pub(crate) fn committed_on_b() -> Self {
        Self::at("committed").then(|host| {
            host.commit_done(Ok(()));
            host.step(Event::Outbox { releases_waiting: 0 })
        })
    }

    fn then<T>(mut self, act: impl FnOnce(&mut Self) -> T) -> Self {
        act(&mut self);
        self
    }
}

/// Another boot, of the old slot.
pub(crate) fn in_old_slot(facts: &mut Facts, b: Standing) {
    facts.boot_id = "boot-2".into();
    facts.running = Some(SlotName::A);
    facts.boot = Some(table(b));
}

/// Another boot, of the new slot.
pub(crate) fn in_new_slot(facts: &mut Facts, b: Standing) {
    in_old_slot(facts, b);
    facts.running = Some(SlotName::B);
    facts.slots.b = content(2);
}

/// Expected effects, written in one line.
pub(crate) fn list(words: &str) -> Vec<String> {
    words.split(", ").filter(|word| !word.is_empty()).map(str::to_owned).collect()
}
