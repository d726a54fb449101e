//! SIGKILL at random moments, with the real programs on real files.
//!
//! After every kill, before anything is started again: the loader's choice is a slot that holds a complete signed image (P1), and
//! the running slot is unchanged (P2). Left alone afterwards, the host reaches the new version, byte for byte (P9, P11).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, with words")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use integration::hostsim::gpt::Gpt;
use integration::hostsim::loader::{choose, slots};
use integration::locksmith::Locksmith;
use integration::rig::{Host, PATIENCE, Publisher, Setup, Spec, tail};
use server_mock::{Answer, Fault, FaultKind, Mock, Script};

/// Kills altogether; the promise is tested with at least 200.
const KILLS: u32 = 210;
/// Kills one host suffers at most before it is left alone.
const KILLS_PER_HOST: u32 = 14;
/// Moments that kills aim at, beside any moment at all.
const AIMS: [&str; 8] = ["checking", "fetching", "written", "locked", "armed", "armed", "trial", "committed"];

/// Dice that can be thrown again: the seed is printed with every failure.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

struct Victim {
    host: Host,
    images: [(&'static str, Vec<u8>); 2],
    daemon_runs: bool,
}

impl Victim {
    fn new(dir: &Path, setup: &Setup<'_>, publisher: &Publisher, images: [Vec<u8>; 2]) -> Self {
        let host = Host::new(dir, publisher, &Spec::new("1.0.0", 1), setup);
        // Programs of the owner that take a moment, so that some kills fall while they run.
        for place in ["drain.d", "health/required.d"] {
            let folder = dir.join("hooks").join(place);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("slow"), "#!/bin/sh\nsleep 0.1\n").unwrap();
            std::fs::set_permissions(folder.join("slow"), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        // The machine's reboot is this test's: a kill must be able to fall between the request and the reboot.
        let config = std::fs::read_to_string(dir.join("config.toml")).unwrap();
        let lines = config.lines().map(|line| match line.starts_with("command = ") {
            true => format!("command = [\"sh\", \"-c\", \"sleep 0.1; touch {}/reboot\"]", dir.display()),
            false => line.to_owned(),
        });
        std::fs::write(dir.join("config.toml"), lines.collect::<Vec<_>>().join("\n")).unwrap();
        let [a, b] = images;
        Self { host, images: [("root-a", a), ("root-b", b)], daemon_runs: false }
    }

    fn start(&mut self) {
        self.host.start();
        self.daemon_runs = true;
    }

    /// Asks for the update as soon as the daemon answers, so that kills do not fall into the wait for the first check.
    fn hurry(&self) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) && self.host.post("/v1/update", &serde_json::json!({})).is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn state(&self) -> Option<String> {
        Some(self.host.get("/v1/status")?["state"].as_str()?.to_owned())
    }

    /// Waits until the daemon is in the state, or it is too late for that.
    fn aim(&self, state: &str) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(600) && self.state().as_deref() != Some(state) && !self.has_asked() {}
    }

    /// Has the daemon asked for the reboot?
    fn has_asked(&self) -> bool {
        self.host.dir.join("reboot").exists()
    }

    fn has_committed(&self) -> bool {
        let status = self.host.get("/v1/status").unwrap_or_default();
        status["booted"]["version"] == "2.0.0" && status["booted"]["confirmed"] == true && status["state"] == "idle"
    }

    fn kill(&mut self) {
        self.host.kill();
        self.daemon_runs = false;
    }

    /// Reboots the machine if that was asked for and the daemon has gone.
    fn reboot_if_asked(&mut self) -> bool {
        if !self.has_asked() {
            return false;
        }
        if self.daemon_runs {
            self.host.kill();
            self.daemon_runs = false;
        }
        std::fs::remove_file(self.host.dir.join("reboot")).unwrap();
        self.host.boot();
        true
    }

    fn running(&self) -> &'static str {
        let line = std::fs::read_to_string(self.host.dir.join("sysroot/proc/cmdline")).unwrap();
        let gpt = Gpt::open(&self.host.disk()).unwrap();
        let runs = |label: &&str| line.to_lowercase().contains(&gpt.entry(label).unwrap().guid.to_lowercase());
        ["root-a", "root-b"].into_iter().find(runs).unwrap()
    }

    fn check(&self, when: &str) {
        let gpt = Gpt::open(&self.host.disk()).unwrap_or_else(|error| panic!("{when}: {error}"));
        let names = [("a".to_owned(), "root-a".to_owned()), ("b".to_owned(), "root-b".to_owned())];
        let chosen = choose(&slots(&gpt, &names).unwrap()).unwrap();
        // An open table is locked against other readers, too.
        drop(gpt);
        let label = if chosen.name == "a" { "root-a" } else { "root-b" };
        assert!(
            self.holds_image(label),
            "{when}: the loader chooses {label}, which is not a complete signed image\n{}",
            tail(&self.host.log(), 40)
        );
        let running = self.running();
        assert!(self.holds_image(running), "{when}: the running slot {running} changed\n{}", tail(&self.host.log(), 40));
    }

    fn holds_image(&self, label: &str) -> bool {
        let (_, image) = self.images.iter().find(|(name, _)| *name == label).unwrap();
        self.host.slot_bytes(label).starts_with(image)
    }

    /// Lets the host run until it has committed the new version.
    fn leave_alone(&mut self, when: &str) {
        let began = Instant::now();
        if !self.daemon_runs {
            self.start();
        }
        loop {
            if self.reboot_if_asked() {
                self.start();
            }
            if self.has_committed() {
                break;
            }
            let status = || self.host.get("/v1/status").unwrap_or_default();
            assert!(
                began.elapsed() < PATIENCE,
                "{when}: never committed\nstatus: {:#}\n{}",
                status(),
                tail(&self.host.log(), 60)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        self.check(when);
        assert_eq!(self.running(), "root-b", "{when}");
        assert!(self.holds_image("root-b"), "{when}: the slot is not the signed image");
    }
}

#[test]
fn killed_at_random_moments_a_host_never_loses_its_way() {
    let seed =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    println!("SEED={seed}");
    let mut dice = Dice(seed);
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(&dir.path().join("files"));
    let images = [publisher.publish(&Spec::new("1.0.0", 1)), publisher.publish(&Spec { size: 7 << 20, ..Spec::new("2.0.0", 2) })];
    let mock = Mock::start(Script::serving(&publisher.files).answer(Answer::update("2.0.0"))).unwrap();
    let locksmith = Locksmith::start(&dir.path().join("locks"), "127.0.0.1:0");
    let (url, lock) = (mock.update_url(), locksmith.table());
    let setup = Setup { extra: &lock, strategy: "lock", ..Setup::new(&url) };
    let (mut kills, mut states) = (0, std::collections::BTreeMap::<String, u32>::new());
    for number in 0.. {
        if kills >= KILLS {
            break;
        }
        let mut victim = Victim::new(&dir.path().join(format!("host{number}")), &setup, &publisher, images.clone());
        for _ in 0..KILLS_PER_HOST {
            victim.start();
            victim.hurry();
            let aim = usize::try_from(dice.below(11)).unwrap();
            match AIMS.get(aim) {
                Some(state) => victim.aim(state),
                None => std::thread::sleep(Duration::from_millis(dice.below(400))),
            }
            std::thread::sleep(Duration::from_millis(dice.below(30)));
            if victim.has_committed() {
                // What comes now is the life of a host that is done: the next one has more to lose.
                break;
            }
            let unknown = || if victim.has_asked() { "rebooting" } else { "starting" }.to_owned();
            let state = victim.state().unwrap_or_else(unknown);
            victim.kill();
            *states.entry(state.clone()).or_default() += 1;
            kills += 1;
            let when = format!("SEED={seed} host {number}, kill {kills} (while {state})");
            victim.check(&when);
            victim.reboot_if_asked();
        }
        victim.leave_alone(&format!("SEED={seed} host {number} after its kills"));
        assert!(!locksmith.is_held(), "SEED={seed} host {number}: committed, but the reboot lock is still held");
    }
    println!("{kills} kills, by the state last seen: {states:?}");
    assert!(kills >= 200);
    // Kills that all fall into the same moments would show nothing: each part of the way was really hit.
    for part in [&["checking"][..], &["fetching"], &["written", "proven"], &["locked"], &["armed"], &["trial", "committed"]] {
        let hits: u32 = part.iter().filter_map(|state| states.get(*state)).sum();
        assert!(hits >= 2, "only {hits} kills in {part:?}: {states:?}");
    }
}

#[test]
fn after_a_kill_at_90_percent_only_what_is_missing_is_downloaded_again() {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(&dir.path().join("files"));
    let size = 64 * MIB;
    let factory = Spec { size, ..Spec::new("1.0.0", 1) };
    let first = publisher.publish(&factory);
    let image = publisher.publish(&Spec { size, ..Spec::new("2.0.0", 2) });
    let payload_bytes = std::fs::metadata(publisher.files.join("2.0.0.payload")).unwrap().len();
    let offer = Script::serving(&publisher.files).answer(Answer::update("2.0.0"));
    let stall = Fault::on("*2.0.0.payload", FaultKind::Stall).at_offset(payload_bytes / 10 * 9);
    let mock = Mock::start(offer.clone().fault(stall)).unwrap();
    let url = mock.update_url();
    let setup = Setup { slot_bytes: size + MIB, ..Setup::new(&url) };
    let mut host = Host::new(&dir.path().join("host"), &publisher, &factory, &setup);
    host.start();
    host.wait_for("nine tenths are written", |status| {
        status["progress"]["bytes_downloaded"].as_u64().unwrap_or(0) >= payload_bytes / 100 * 85
    });
    std::thread::sleep(Duration::from_millis(300));
    host.kill();
    let sent_first: u64 = payload_bytes_sent(&mock);
    let missing = missing_windows(&host.slot_bytes("root-b"), &image);
    assert_eq!(host.boot_bits()[1], (0, 0, false), "a half-written slot cannot be booted");
    mock.clear_recorded();
    mock.set_script(offer).unwrap();
    host.start();
    host.wait_committed("2.0.0");
    let sent_again = payload_bytes_sent(&mock);
    let frame = MIB + 64 * 1024;
    let needed_at_most = missing.div_ceil(4).saturating_mul(frame) + MIB;
    println!("payload {payload_bytes}, before the kill {sent_first}, missing windows {missing}, after it {sent_again}");
    assert!(sent_again <= needed_at_most, "{sent_again} bytes again for {missing} missing windows");
    assert!(
        sent_first + sent_again <= payload_bytes + 16 * frame + 2 * MIB,
        "more than 16 frames in flight were lost: {sent_first} + {sent_again} of {payload_bytes}"
    );
    assert!(host.slot_bytes("root-b").starts_with(&image) && host.slot_bytes("root-a").starts_with(&first));
}

fn payload_bytes_sent(mock: &Mock) -> u64 {
    mock.recorded().iter().filter(|request| request.path.ends_with(".payload")).map(|request| request.bytes_sent).sum()
}

fn missing_windows(slot: &[u8], image: &[u8]) -> u64 {
    let window = 256 * 1024;
    let differs = slot.chunks(window).zip(image.chunks(window)).filter(|(have, want)| !have.starts_with(want));
    u64::try_from(differs.count()).unwrap()
}
