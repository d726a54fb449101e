//! A host, its publisher and its server, and what must not have changed on its disk.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};

use integration::hostsim::gpt::{Gpt, bits};
use integration::rig::{Host, Publisher, Setup, Spec, reports, tail};
use serde_json::Value;
use server_mock::{Answer, Mock, Script};
use tempfile::TempDir;

/// Bytes of the images here: four windows, so that a host costs little.
pub(crate) const IMAGE_BYTES: u64 = 1 << 20;
/// Bytes of a partition table: protective record, header, entries.
const TABLE_BYTES: u64 = 34 * 512;

/// How a host differs from the usual one.
#[derive(Default)]
pub(crate) struct Options {
    /// Lines after the configuration's `[reboot]` table.
    pub(crate) extra: String,
    /// `[reboot] strategy`; empty is `immediate`.
    pub(crate) strategy: &'static str,
    /// `[trust] threshold`; 0 is 1.
    pub(crate) threshold: u32,
    /// Size of each slot; 0 is twice the small image.
    pub(crate) slot_bytes: u64,
    /// Further lines of the factory image's header.
    pub(crate) factory_lines: Vec<String>,
    /// Sector where the slots start.
    pub(crate) first_sector: Option<u64>,
}

/// Everything of one attack.
pub(crate) struct Scene {
    /// The host; it stops before the rest goes.
    pub(crate) host: Host,
    /// Its update server.
    pub(crate) mock: Mock,
    /// Who signs.
    pub(crate) publisher: Publisher,
    before: Disk,
    dir: TempDir,
}

/// What is on a disk.
#[derive(PartialEq, Eq)]
struct Disk {
    tables: [Vec<u8>; 2],
    slot_a: Vec<u8>,
    slot_b: Vec<u8>,
}

impl Disk {
    fn of(host: &Host) -> Self {
        let mut disk = File::open(host.disk()).unwrap();
        let length = disk.metadata().unwrap().len();
        let tables = [0, length - TABLE_BYTES].map(|start| {
            let mut bytes = vec![0; usize::try_from(TABLE_BYTES).unwrap()];
            disk.seek(SeekFrom::Start(start)).unwrap();
            disk.read_exact(&mut bytes).unwrap();
            bytes
        });
        Self { tables, slot_a: host.slot_bytes("root-a"), slot_b: host.slot_bytes("root-b") }
    }
}

/// The first download on a factory disk marks the slot that runs. Here it is marked, so that any change of the table is one too many.
fn mark_running_slot(host: &Host) {
    let mut table = Gpt::open(&host.disk()).unwrap();
    let root_a = table.entry("root-a").unwrap();
    table.set_bits(root_a.index, bits(1, 0, true)).unwrap();
}

/// A small release.
pub(crate) fn small<'a>(version: &'a str, sequence: u64) -> Spec<'a> {
    Spec { size: IMAGE_BYTES, ..Spec::new(version, sequence) }
}

/// Serves the publisher's files and offers this version for ever.
pub(crate) fn offer(publisher: &Publisher, version: &str) -> Script {
    Script::serving(&publisher.files).answer(Answer::update(version))
}

/// Publishes 2.0.0 (sequence 2), and offers it.
pub(crate) fn next_release(publisher: &Publisher) -> Script {
    publisher.publish(&small("2.0.0", 2));
    offer(publisher, "2.0.0")
}

impl Scene {
    /// A host that runs 1.0.0 (sequence 1) from slot a; its daemon does not run yet.
    pub(crate) fn new(options: &Options, script: impl FnOnce(&Publisher) -> Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let publisher = Publisher::new(&dir.path().join("files"));
        let lines: Vec<&str> = options.factory_lines.iter().map(String::as_str).collect();
        let factory = Spec { lines: &lines, ..small("1.0.0", 1) };
        publisher.publish(&factory);
        let mock = Mock::start(script(&publisher)).unwrap();
        let url = mock.update_url();
        let strategy = if options.strategy.is_empty() { "immediate" } else { options.strategy };
        let slot_bytes = if options.slot_bytes == 0 { 2 * IMAGE_BYTES } else { options.slot_bytes };
        let setup = Setup {
            extra: &options.extra,
            strategy,
            threshold: options.threshold.max(1),
            slot_bytes,
            server: &url,
            first_sector: options.first_sector,
        };
        let host = Host::new(&dir.path().join("host"), &publisher, &factory, &setup);
        mark_running_slot(&host);
        Self { before: Disk::of(&host), host, mock, publisher, dir }
    }

    /// The same, with nothing unusual about the host, and its daemon runs.
    pub(crate) fn started(script: impl FnOnce(&Publisher) -> Script) -> Self {
        let mut scene = Self::new(&Options::default(), script);
        scene.start();
        scene
    }

    /// A folder for whatever else an attack needs.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Starts the daemon. What is on the disk now is what must not change.
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same, with further variables in the daemon's environment.
    pub(crate) fn start_with(&mut self, environment: &[(&str, &std::ffi::OsStr)]) {
        self.before = Disk::of(&self.host);
        self.host.start_with(environment);
    }

    /// Offers another release from now on.
    pub(crate) fn offer(&self, version: &str) {
        self.mock.set_script(offer(&self.publisher, version)).unwrap();
    }

    /// The offer is refused: with this code and these words, as something that needs a person, and nothing on the disk changed.
    pub(crate) fn assert_refused(&self, code: &str, words: &[&str]) -> Value {
        let status = self.host.wait_for(&format!("the offer is refused ({code})"), |status| {
            status["last_error"]["code"] == code && status["state"] == "idle"
        });
        says(&status["last_error"]["message"], words);
        says(&status["summary"], words);
        says(&status["summary"], &["Needs attention"]);
        let log = self.host.log();
        let line = log
            .lines()
            .find(|line| line.contains("WARN") && line.contains(code))
            .unwrap_or_else(|| panic!("the log does not say {code}:\n{log}"));
        words_in(line, words);
        assert_eq!(self.host.updatectl(&["status", "--exit-code"]).status.code(), Some(30), "{status:#}");
        assert_eq!(status["target"], Value::Null, "{status:#}");
        self.assert_disk_untouched();
        status
    }

    /// The offer is refused as a matter of course: no alarm, but said.
    pub(crate) fn assert_passed_over(&self, words: &[&str]) -> Value {
        let status = self.host.wait_for("the offer is passed over", |status| {
            status["state"] == "idle"
                && status["check"]["last_result"].as_str().is_some_and(|result| words.iter().all(|word| result.contains(word)))
        });
        assert_eq!(status["check"]["last_outcome"], "refused", "{status:#}");
        assert_eq!(status["last_error"], Value::Null, "{status:#}");
        says(&status["summary"], words);
        status
    }

    /// Not a byte of the table, of slot a or of slot b is another one.
    pub(crate) fn assert_disk_untouched(&self) {
        let now = Disk::of(&self.host);
        self.assert_table_and_slot_a(&now);
        assert!(now.slot_b == self.before.slot_b, "slot b was written\n{}", tail(&self.host.log(), 40));
    }

    /// Slot b may have been written, but nothing was armed and slot a is what it was.
    pub(crate) fn assert_nothing_armed(&self) {
        self.assert_table_and_slot_a(&Disk::of(&self.host));
    }

    fn assert_table_and_slot_a(&self, now: &Disk) {
        assert_eq!(self.host.boot_bits()[1].0, 0, "slot b is armed\n{}", tail(&self.host.log(), 40));
        assert!(
            now.tables == self.before.tables,
            "the partition table changed: boot bits {:?}\n{}",
            self.host.boot_bits(),
            tail(&self.host.log(), 40)
        );
        assert!(now.slot_a == self.before.slot_a, "the running slot was written\n{}", tail(&self.host.log(), 40));
    }

    /// The running slot is what it was, whatever became of the table.
    pub(crate) fn assert_slot_a_untouched(&self) {
        assert!(self.host.slot_bytes("root-a") == self.before.slot_a, "slot a was written\n{}", tail(&self.host.log(), 40));
    }

    /// The last attempt, newest first, once `wanted` of it holds.
    pub(crate) fn attempt(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.host.wait(what, || {
            let history = self.host.get("/v1/history")?;
            let attempts = history.as_array().or_else(|| history["attempts"].as_array())?;
            attempts.first().filter(|attempt| wanted(attempt)).cloned()
        })
    }

    /// What the server is told of an attempt, from its first word to its last: `type/result`, code, and the reason at the end.
    pub(crate) fn assert_reported(&self, attempt: Option<&Value>, expected: &[&str], reason: &[&str]) {
        let id = attempt.map(|attempt| attempt["attempt"].as_str().unwrap());
        let told = self.host.wait(&format!("the server was told {expected:?}"), || {
            Some(reports(&self.mock, id)).filter(|told| told.len() >= expected.len())
        });
        let words: Vec<&str> = told.iter().map(|(words, _)| words.as_str()).collect();
        assert_eq!(words, expected);
        words_in(told.last().and_then(|(_, event)| event.reason.as_deref()).unwrap_or_default(), reason);
    }

    /// Replaces a published file.
    pub(crate) fn change_file(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.publisher.files.join(name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }
}

/// The text has all these words.
#[track_caller]
pub(crate) fn says(text: &Value, words: &[&str]) {
    let text = text.as_str().unwrap_or_default();
    words_in(text, words);
}

/// The text has all these words.
#[track_caller]
pub(crate) fn words_in(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "expected {word:?} in: {text}");
    }
}
