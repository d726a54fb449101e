//! A machine, its publisher and its server.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::Path;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use server_mock::{Answer, Mock, Script};
use tempfile::TempDir;

use super::machine::PATIENCE;
use super::{Flaw, HOST, Loader, LockService, Machine, Parts, Running, image, keys_of};
use crate::rig::{APP_ID, BOARD, Publisher, ReleaseImage, Spec};

/// A machine that runs 1.0.0 from slot a, and the server it asks.
pub struct Scene {
    /// The machine.
    pub machine: Machine,
    loader: Loader,
    publisher: Publisher,
    parts: Parts,
    mock: Mock,
    /// Of a machine that is recorded.
    lock: Option<LockService>,
    factory: Vec<ReleaseImage>,
    /// Of a scene that is in no folder of somebody else's.
    _dir: Option<TempDir>,
}

impl Scene {
    /// Makes the machine, switched off.
    ///
    /// # Errors
    /// Where machines cannot be had: what is missing, for "skipped: …".
    ///
    /// # Panics
    /// If something of it cannot be made.
    pub fn new(loader: Loader) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let scene = Self::in_folder(loader, dir.path())?;
        Ok(Self { _dir: Some(dir), ..scene })
    }

    /// The same, with all its files in a folder that stays.
    ///
    /// # Errors
    /// Where machines cannot be had.
    ///
    /// # Panics
    /// If something of it cannot be made.
    pub fn in_folder(loader: Loader, dir: &Path) -> Result<Self, String> {
        Self::configured(loader, dir, REBOOTS)
    }

    /// The same, for a recording of all that is written to its disk: it asks for a lock before it reboots, says that it is told to reboot
    /// some time before it does ([`TOLD_TO_REBOOT`]), and under systemd-boot others have entries as well, behind ours.
    ///
    /// # Errors
    /// Where machines cannot be had.
    ///
    /// # Panics
    /// If something of it cannot be made.
    pub fn for_recording(loader: Loader, dir: &Path) -> Result<Self, String> {
        let mut ports = recorded_ports();
        let lock =
            ports.find_map(|port| LockService::start_on(port).ok()).ok_or("the lock service finds no port that is free")?;
        let more = format!(
            "command = [\"sh\", \"-c\", \"echo {TOLD_TO_REBOOT}; sleep 5; reboot -f\"]\nstrategy = \"lock\"\nretry_s = 2\n[reboot.lock]\n\
             backend = \"fleetlock\"\nurl = \"http://{HOST}:{}/\"\ngroup = \"recorded\"\n",
            lock.addr().port()
        );
        let scene = Self { lock: Some(lock), ..Self::served(loader, dir, &more, ports)? };
        if loader != Loader::GrubBios {
            scene.machine.put_on_esp("loader/entries", &entries_of_others());
        }
        Ok(scene)
    }

    /// The same, with these lines at the end of its configuration: keys of `[reboot]`, and tables.
    ///
    /// # Errors
    /// Where machines cannot be had.
    ///
    /// # Panics
    /// If something of it cannot be made.
    pub fn configured(loader: Loader, dir: &Path, more: &str) -> Result<Self, String> {
        Self::served(loader, dir, more, 0..1)
    }

    /// The same, with a server on one of these ports; 0 is any that is free.
    fn served(loader: Loader, dir: &Path, more: &str, mut ports: Range<u16>) -> Result<Self, String> {
        let parts = Parts::find(loader)?;
        let publisher = Publisher::new(&dir.join("files"));
        let script = Script::serving(&publisher.files).answer(Answer::no_update());
        let start = |port| Mock::start_on(script.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok();
        let mock = ports.find_map(start).ok_or("the server finds no port that is free")?;
        let factory = images(&parts, loader, &publisher, "1.0.0", Flaw::None);
        let machine = Machine::new(dir, loader, &factory, &(config(&mock, loader) + more));
        Ok(Self { machine, loader, publisher, parts, mock, lock: None, factory, _dir: None })
    }

    /// Where the server of the machine listens.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.mock.addr()
    }

    /// The lock service that it asks, if it asks one.
    #[must_use]
    pub const fn lock(&self) -> Option<&LockService> {
        self.lock.as_ref()
    }

    /// What slot a held when the machine was made.
    #[must_use]
    pub fn factory(&self) -> &[ReleaseImage] {
        &self.factory
    }

    /// Publishes a release with this flaw, and offers it from now on. Its images.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn publish(&self, version: &str, sequence: u64, flaw: Flaw) -> Vec<ReleaseImage> {
        let images = images(&self.parts, self.loader, &self.publisher, version, flaw);
        let spec = Spec { verity: self.loader == Loader::SystemdBootVerity, ..Spec::new(version, sequence) };
        self.publisher.publish_images(&spec, &images);
        self.offer(version);
        images
    }

    /// Boots, and waits until the machine rests in this version.
    ///
    /// # Panics
    /// If it does not.
    pub fn boot_into(&mut self, version: &str, slot: &str) -> Running {
        let mut boot = self.boot(slot);
        boot.wait_status(&format!("{version} runs from {slot}"), runs(version, slot));
        boot
    }

    /// Boots, and waits until the loader has chosen this slot.
    ///
    /// # Panics
    /// If it does not.
    pub fn boot(&mut self, slot: &str) -> Running {
        let mut boot = self.machine.boot();
        boot.wait_for(&self.loader.words_for(slot));
        boot
    }

    /// From 1.0.0 in slot a, which is offered this release at once, to the reboot into slot b.
    ///
    /// # Panics
    /// If it does not come to that.
    pub fn update(&mut self, version: &str, sequence: u64, flaw: Flaw) {
        self.publish(version, sequence, flaw);
        self.boot("a").wait_off();
    }

    /// Offers what lies in the folder under this name from now on.
    ///
    /// # Panics
    /// If the server cannot take it.
    pub fn offer(&self, version: &str) {
        self.mock.set_script(Script::serving(&self.publisher.files).answer(Answer::update(version))).unwrap();
    }

    /// Where releases are published.
    #[must_use]
    pub fn files(&self) -> &Path {
        &self.publisher.files
    }

    /// All requests with events that the server took.
    #[must_use]
    pub fn reports(&self) -> String {
        self.events().into_iter().map(|(_, body)| body).collect::<Vec<_>>().join("\n")
    }

    /// Waits until the server has taken a report with these words.
    ///
    /// # Panics
    /// If none comes.
    pub fn wait_report(&self, words: &str) {
        let began = Instant::now();
        while !self.reports().contains(words) {
            assert!(began.elapsed() < PATIENCE, "no report says {words:?}: {}", self.reports());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The same, each for itself, and when it had come.
    #[must_use]
    pub fn events(&self) -> Vec<(Timestamp, String)> {
        let taken = self.mock.recorded().into_iter().filter(|request| request.status == Some(200));
        taken.map(|request| (request.at, request.body)).filter(|(_, body)| body.contains("<event ")).collect()
    }
}

/// Entries that sort behind ours, with names so long that their folder takes several clusters.
fn entries_of_others() -> Vec<(String, String)> {
    let entry = |number| {
        let name = format!("other-{number:02}-of-a-system-that-is-none-of-ours.conf");
        (name, format!("title other {number}\nsort-key zz-other\nversion {number}\nlinux /none/{number}.efi\n"))
    };
    (1..=20).map(entry).collect()
}

fn images(parts: &Parts, loader: Loader, publisher: &Publisher, version: &str, flaw: Flaw) -> Vec<ReleaseImage> {
    let root = image(parts, version, &keys_of(publisher), flaw);
    let more = loader.more_images(parts, version, &root);
    [vec![ReleaseImage { name: "root", slot: None, bytes: root }], more].concat()
}

/// Where the servers of a recording listen, and later those of each disk which is started from it: ports that nobody is given who takes
/// any (`net.ipv4.ip_local_port_range`), and that hardly any other recording takes meanwhile, which is made beside it.
fn recorded_ports() -> Range<u16> {
    let own = u16::try_from(std::process::id() % 490).unwrap_or(0);
    21_000 + 2 * own..22_000
}

/// How a guest reboots.
pub const REBOOTS: &str = "command = [\"reboot\", \"-f\"]\n";

/// What a guest says when its root is there and its daemon is started.
pub const UP: &str = "guest: up";

/// What a guest that is recorded says when it is told to reboot.
pub const TOLD_TO_REBOOT: &str = "guest: told to reboot";

/// Where the daemon of the guest finds everything.
fn config(mock: &Mock, loader: Loader) -> String {
    let boot = loader.config();
    let server = mock.update_url().replace("127.0.0.1", HOST);
    format!(
        r#"state_dir = "/state/update-engine"
{boot}slots.a.root = "partlabel:root-a"
slots.b.root = "partlabel:root-b"
[server]
url = "{server}"
app_id = "{APP_ID}"
board = "{BOARD}"
arch = "x86_64"
check_interval_s = 5
[disk]
device = "/dev/nvme0n1"
[health]
deadline_s = 60
settle_s = 1
min_uptime_s = 0
[reboot]
"#
    )
}

/// The machine rests, and keeps what it runs.
pub fn runs<'a>(version: &'a str, slot: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |status| {
        let booted = &status["booted"];
        status["state"] == "idle" && booted["version"] == version && booted["slot"] == slot && booted["confirmed"] == true
    }
}
