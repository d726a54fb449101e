//! A whole host in a folder, a publisher, and the real programs around them.
//!
//! A [`Host`] is a disk image with two slots, a `sysroot`, a state folder and a configuration; `update-engined`, `updatectl` and
//! `hostsim` run on it as they would on a machine. What is not real is the machine's reboot: `hostsim` plays firmware and loader.
//!
//! The programs are those beside the test in the target folder: `cargo build --workspace --bins` makes them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test rig that cannot do its part fails the test, with words"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use manifests::keyring::{PublicKey, SecretKey};
use manifests::omaha::Event;
use manifests::release::{Envelope, Image, Record, SlotName, Verity};
use manifests::version::{Sequence, Version};
use serde_json::Value;
use server_mock::Mock;

use crate::hostsim::content::test_image;
use crate::hostsim::image::{DiskSpec, PartitionSpec, make_disk, write_slot};
use crate::hostsim::{BootPlan, boot, gpt::Gpt, restart::Process};

/// The product every test host runs.
pub const APP_ID: &str = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}";
/// The board every test host is.
pub const BOARD: &str = "test";
/// Longest wait for anything: machines are slow and noisy, and a hang must still end.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A program of this workspace.
///
/// # Panics
/// If it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().find(|folder| folder.join(name).is_file());
    folder.unwrap_or_else(|| panic!("{name} is not built: run `cargo build --workspace --bins` first")).join(name)
}

/// Signs and builds releases into a folder that a server serves.
pub struct Publisher {
    /// Where `V.release` and `V.payload` are written.
    pub files: PathBuf,
    keys: Vec<SecretKey>,
}

/// One image of a release.
#[derive(Clone, Debug)]
pub struct ReleaseImage {
    /// Its name.
    pub name: &'static str,
    /// Only for this slot.
    pub slot: Option<SlotName>,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// A release to publish.
pub struct Spec<'a> {
    /// Label.
    pub version: &'a str,
    /// Place on the line.
    pub sequence: u64,
    /// Bytes of its one image, `root`.
    pub size: u64,
    /// Further lines of the test image's header.
    pub lines: &'a [&'a str],
    /// Its first image has a tree of hashes, whose root the record names.
    pub verity: bool,
    /// Changes to the record before it is signed.
    pub change: &'a dyn Fn(&mut Record),
    /// Which of the publisher's keys sign.
    pub signers: &'a [usize],
}

impl<'a> Spec<'a> {
    /// A plain release.
    #[must_use]
    pub fn new(version: &'a str, sequence: u64) -> Self {
        Self { version, sequence, size: 4 << 20, lines: &[], verity: false, change: &|_| {}, signers: &[0] }
    }
}

impl Publisher {
    /// A publisher with two keys.
    ///
    /// # Panics
    /// If the folder cannot be made.
    #[must_use]
    pub fn new(files: &Path) -> Self {
        fs::create_dir_all(files).unwrap();
        Self { files: files.to_owned(), keys: vec![SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32])] }
    }

    /// Its public keys, in order.
    #[must_use]
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.keys.iter().map(SecretKey::public).collect()
    }

    /// Builds, signs and writes a release; returns its image.
    ///
    /// # Panics
    /// If it cannot be built.
    pub fn publish(&self, spec: &Spec<'_>) -> Vec<u8> {
        let image = image_of(spec);
        self.publish_image(spec, &image);
        image
    }

    /// Builds, signs and writes a release of this image.
    ///
    /// # Panics
    /// If it cannot be built.
    pub fn publish_image(&self, spec: &Spec<'_>, image: &[u8]) {
        self.publish_images(spec, &[ReleaseImage { name: "root", slot: None, bytes: image.to_vec() }]);
    }

    /// The same with several images.
    ///
    /// # Panics
    /// If it cannot be built.
    pub fn publish_images(&self, spec: &Spec<'_>, images: &[ReleaseImage]) {
        let source = |image: &ReleaseImage| u64::try_from(image.bytes.len()).unwrap();
        let sources: Vec<_> = images
            .iter()
            .map(|image| payload::build::Image { name: image.name, slot: image.slot, size: source(image), data: &image.bytes })
            .collect();
        let (mut spool, mut payload) = (std::io::Cursor::new(Vec::new()), Vec::new());
        let options = payload::build::Options { level: 1, ..payload::build::Options::default() };
        let built = payload::build::full(&sources, &options, &mut spool, &mut payload, &mut |_| {}).unwrap();
        let payload_table_sha256 = Some(built.table.header().table_sha256());
        let verity = spec.verity.then(|| verity_of(&images[0].bytes));
        let images = images.iter().zip(built.windows);
        let mut record = Record {
            product: APP_ID.into(),
            arch: "x86_64".into(),
            board: BOARD.into(),
            version: Version::parse(spec.version).unwrap(),
            sequence: Sequence::new(spec.sequence).unwrap(),
            created: jiff::Timestamp::now(),
            not_below: Sequence::ZERO,
            minimum_source: None,
            channels: vec![],
            urgent: false,
            revoked_keys: vec![],
            payload_table_sha256,
            notes: None,
            images: images
                .map(|(image, table)| Image { name: image.name.into(), slot: image.slot, table, verity: None })
                .collect(),
        };
        record.images[0].verity = verity;
        (spec.change)(&mut record);
        let mut envelope = Envelope::unsigned(&record).unwrap();
        for signer in spec.signers {
            envelope.sign(&self.keys[*signer]).unwrap();
        }
        fs::write(self.files.join(format!("{}.release", spec.version)), envelope.to_bytes()).unwrap();
        fs::write(self.files.join(format!("{}.payload", spec.version)), payload).unwrap();
    }

    /// Builds the delta between two releases that were published; its name.
    ///
    /// # Panics
    /// If `releasectl` cannot.
    #[must_use]
    pub fn publish_delta(&self, from: &str, to: &str) -> String {
        let mut command = Command::new(program("releasectl"));
        command.arg("delta").arg("--force").arg("--out").arg(&self.files);
        for (flag, version) in [("--from", from), ("--to", to)] {
            command.arg(flag).arg(self.files.join(format!("{version}.release")));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        format!("{from}-to-{to}.payload")
    }
}

/// The dm-verity tree of an image, as the records of this rig name it.
///
/// # Panics
/// If the image is no whole number of blocks.
#[must_use]
pub fn tree_of(image: &[u8]) -> payload::verity::Tree {
    payload::verity::Tree::of(image, u64::try_from(image.len()).unwrap(), &[0xA5; 32]).unwrap()
}

fn verity_of(image: &[u8]) -> Verity {
    Verity { root_hash: tree_of(image).root, salt: "a5".repeat(32) }
}

/// A test image with a header and incompressible noise that differs in part from version to version.
///
/// # Panics
/// If the header does not fit.
#[must_use]
pub fn image_of(spec: &Spec<'_>) -> Vec<u8> {
    let version = format!("IMAGE_VERSION={}", spec.version);
    let lines: Vec<&str> = std::iter::once(version.as_str()).chain(spec.lines.iter().copied()).collect();
    let mut image = test_image(&lines, spec.size).unwrap();
    let mut state = spec.sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for (index, chunk) in image.chunks_mut(64 * 1024).enumerate().skip(1) {
        match index % 4 {
            0 => {}
            // The same in every version.
            1 => chunk.fill(u8::try_from(index % 251).unwrap_or(0)),
            _ => chunk.chunks_mut(8).for_each(|word| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                word.copy_from_slice(&(state >> 8).to_le_bytes()[..word.len()]);
            }),
        }
    }
    image
}

/// How a host is configured.
pub struct Setup<'a> {
    /// The update server.
    pub server: &'a str,
    /// Lines that replace or follow the defaults, e.g. `[reboot.lock]` tables.
    pub extra: &'a str,
    /// `[reboot] strategy`.
    pub strategy: &'a str,
    /// Size of each slot.
    pub slot_bytes: u64,
    /// `[trust] threshold`.
    pub threshold: u32,
    /// Sector where the slots start; a MiB behind the start of the disk if there is none.
    pub first_sector: Option<u64>,
}

impl<'a> Setup<'a> {
    /// Asks `server` about once a second and reboots at once.
    #[must_use]
    pub fn new(server: &'a str) -> Self {
        Self { server, extra: "", strategy: "immediate", slot_bytes: 8 << 20, threshold: 1, first_sector: None }
    }
}

/// A host in a folder.
pub struct Host {
    /// Everything of it.
    pub dir: PathBuf,
    daemon: Option<Child>,
}

impl Host {
    /// Makes the host and installs the image of `spec` in slot a, as a factory would: nothing is marked in the boot table.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(dir: &Path, publisher: &Publisher, factory: &Spec<'_>, setup: &Setup<'_>) -> Self {
        let host = Self { dir: dir.to_owned(), daemon: None };
        for folder in ["sysroot/etc", "sysroot/proc", "hooks", "state", "sysroot/usr/share/update-engine/keys"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        fs::write(dir.join("sysroot/etc/machine-id"), "e0f3745b108f471cbd4883c6fbed8cdd\n").unwrap();
        for (index, key) in publisher.public_keys().iter().enumerate() {
            let path = dir.join(format!("sysroot/usr/share/update-engine/keys/{index}.pub"));
            fs::write(path, key.to_text("test")).unwrap();
        }
        let partitions = ["root-a", "root-b"].map(|label| PartitionSpec::new(label, setup.slot_bytes));
        make_disk(
            &host.disk(),
            &DiskSpec { sector: 512, guid: None, partitions: partitions.into(), first_sector: setup.first_sector },
        )
        .unwrap();
        let image = dir.join("factory.img");
        fs::write(&image, image_of(factory)).unwrap();
        write_slot(&host.disk(), "root-a", &image).unwrap();
        fs::remove_file(image).unwrap();
        host.configure(setup);
        host.boot();
        host
    }

    /// Writes the configuration.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn configure(&self, setup: &Setup<'_>) {
        let dir = self.dir.display();
        let (hostsim, daemon) = (program("hostsim"), program("update-engined"));
        let Setup { server, extra, strategy, threshold, .. } = setup;
        let text = format!(
            r#"state_dir = "{dir}/state"
socket = "{dir}/control.sock"
sysroot = "{dir}/sysroot"
[server]
url = "{server}"
app_id = "{APP_ID}"
board = "{BOARD}"
arch = "x86_64"
check_interval_s = 1
[trust]
threshold = {threshold}
[disk]
device = "{dir}/disk.img"
[slots.a]
root = "partlabel:root-a"
[slots.b]
root = "partlabel:root-b"
[health]
deadline_s = 20
settle_s = 0
[reboot]
strategy = "{strategy}"
retry_s = 1
hooks_dir = "{dir}/hooks"
command = ["{}", "boot", "--image", "{dir}/disk.img", "--sysroot", "{dir}/sysroot", "--pid-file", "{dir}/daemon.pid", "--log", "{dir}/daemon.log", "--start", "{}", "--config", "{dir}/config.toml"]
{extra}
"#,
            hostsim.display(),
            daemon.display(),
        );
        fs::write(self.dir.join("config.toml"), text).unwrap();
    }

    /// The disk image.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.img")
    }

    /// Plays firmware and loader once.
    ///
    /// # Panics
    /// If no slot starts.
    pub fn boot(&self) {
        let slots = vec![("a".to_owned(), "root-a".to_owned()), ("b".to_owned(), "root-b".to_owned())];
        boot(&BootPlan { image: self.disk(), sysroot: self.dir.join("sysroot"), slots, failing_starts: 0 }).unwrap();
    }

    /// Starts the daemon.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts the daemon with further variables in its environment, which it hands on through a reboot.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_with(&mut self, environment: &[(&str, &std::ffi::OsStr)]) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("daemon.log")).unwrap();
        let child = Command::new(program("update-engined"))
            .arg("--config")
            .arg(self.dir.join("config.toml"))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        fs::write(self.dir.join("daemon.pid"), child.id().to_string()).unwrap();
        self.daemon = Some(child);
    }

    /// Runs a daemon that is not meant to live: what it said, and how it ended.
    ///
    /// # Panics
    /// If it cannot be started, or lives on.
    #[must_use]
    pub fn start_in_vain(&self) -> Output {
        let mut command = Command::new(program("update-engined"));
        command
            .arg("--config")
            .arg(self.dir.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(25));
        }
        let lives_on = child.try_wait().unwrap().is_none();
        if lives_on {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        assert!(!lives_on, "the daemon lives on: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Changes the configuration's text.
    ///
    /// # Panics
    /// If it cannot be read or written, or if nothing changes.
    pub fn edit_config(&self, from: &str, to: &str) {
        let path = self.dir.join("config.toml");
        let before = fs::read_to_string(&path).unwrap();
        let after = before.replace(from, to);
        assert_ne!(before, after, "{from:?} does not stand in the configuration");
        fs::write(path, after).unwrap();
    }

    /// The daemon that runs now, started here or by a reboot.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<i32> {
        fs::read_to_string(self.dir.join("daemon.pid")).ok()?.trim().parse().ok()
    }

    /// Kills the daemon at once, wherever it is, and waits until its socket is free.
    ///
    /// # Panics
    /// If it lives on.
    pub fn kill(&mut self) {
        use nix::sys::signal::{Signal, kill};
        if let Some(process) = self.daemon_pid().filter(|pid| is_ours(*pid)).and_then(Process::find) {
            // It may have ended by itself.
            let _gone = kill(nix::unistd::Pid::from_raw(process.pid), Signal::SIGKILL);
            // One that a reboot started is nobody's child here.
            assert!(process.wait_gone(PATIENCE), "process {} outlives SIGKILL", process.pid);
        }
        if let Some(mut child) = self.daemon.take() {
            let _reaped = child.wait();
        }
    }

    /// What the log says.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default()
    }

    /// `GET path` on the control socket.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Value> {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).map(|(_, body)| body)
    }

    /// `POST path` on the control socket: status and answer.
    #[must_use]
    pub fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.http(&format!("{head}{body}"))
    }

    fn http(&self, request: &str) -> Option<(u16, Value)> {
        let mut stream = UnixStream::connect(self.dir.join("control.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let start = answer.find(['{', '['])?;
        let end = answer.rfind(['}', ']'])?;
        Some((status, serde_json::from_str(answer.get(start..=end)?).ok()?))
    }

    /// The status, once the daemon answers.
    ///
    /// # Panics
    /// If it does not answer in time.
    #[must_use]
    pub fn status(&self) -> Value {
        self.wait("the daemon answers", || self.get("/v1/status"))
    }

    /// Waits until `probe` has an answer.
    ///
    /// # Panics
    /// If it has none in time: with the log's end.
    pub fn wait<T>(&self, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(answer) = probe() {
                return answer;
            }
            if began.elapsed() > PATIENCE {
                let status = self.get("/v1/status").unwrap_or_default();
                panic!(
                    "waited {} s in vain until {what}\nstatus: {status:#}\nlog:\n{}",
                    PATIENCE.as_secs(),
                    tail(&self.log(), 60)
                );
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// Waits until the status is as wanted.
    ///
    /// # Panics
    /// If it never is.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait(what, || self.get("/v1/status").filter(|status| wanted(status)))
    }

    /// Waits until the host runs `version`, confirmed, and rests.
    ///
    /// # Panics
    /// If it never does.
    pub fn wait_committed(&self, version: &str) -> Value {
        self.wait_for(&format!("{version} is committed"), |status| {
            status["booted"]["version"] == version && status["booted"]["confirmed"] == true && status["state"] == "idle"
        })
    }

    /// Runs `updatectl` on this host.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn updatectl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("updatectl"));
        command.arg("--config").arg(self.dir.join("config.toml")).args(arguments).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// The bytes of a slot.
    ///
    /// # Panics
    /// If the disk cannot be read.
    #[must_use]
    pub fn slot_bytes(&self, label: &str) -> Vec<u8> {
        let gpt = Gpt::open(&self.disk()).unwrap();
        let entry = gpt.entry(label).unwrap();
        gpt.read_partition(&entry, 0, usize::try_from(entry.length).unwrap()).unwrap()
    }

    /// Boot bits of both slots: priority, tries, successful.
    ///
    /// # Panics
    /// If the disk cannot be read.
    #[must_use]
    pub fn boot_bits(&self) -> [(u64, u64, bool); 2] {
        let gpt = Gpt::open(&self.disk()).unwrap();
        ["root-a", "root-b"].map(|label| {
            let entry = gpt.entry(label).unwrap();
            (entry.priority(), entry.tries(), entry.successful())
        })
    }

    /// Installs a hook.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn hook(&self, path: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.dir.join("hooks").join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a host reported of an attempt (of none: of refused offers), in the order this server took it: type, result and error
/// code as in `3/0 29`, and the whole event.
///
/// # Panics
/// If a host sent what is no request.
#[must_use]
pub fn reports(mock: &Mock, attempt: Option<&str>) -> Vec<(String, Event)> {
    let taken = mock.recorded().into_iter().filter(|request| request.status == Some(200) && request.body.contains("<event "));
    let events = taken.flat_map(|request| request.omaha().unwrap().apps).flat_map(|app| app.events);
    let of_attempt = events.filter(|event| event.attempt.as_deref() == attempt);
    of_attempt
        .map(|event| {
            let code = event.error_code.map(|code| format!(" {code}")).unwrap_or_default();
            (format!("{}/{}{code}", event.kind.number(), event.result.number()), event)
        })
        .collect()
}

/// A pid file may be stale: only a process that is one of our programs is killed.
fn is_ours(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().starts_with("update-engine") || name.trim() == "hostsim"
}

/// The last lines of a text.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
