//! What the tests of installing share: a disk image with two slots, a signed release, its payload, and servers of it.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod disk;
#[path = "../../src/boot/gpt/fixture.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of the codec")]
mod fixture;

use std::num::NonZeroU32;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use fixture::DiskBuilder;
use manifests::keyring::{Keyring, SecretKey};
use manifests::release::{Envelope, Image, Record, Release, SlotName};
use manifests::version::{Sequence, Version};
use payload::build::{self, Options};
use server_mock::{Fault, Mock, Script};
use update_engine::decoder::Program;
use update_engine::fetch::Source;
use update_engine::install::{self, Base, Decoding, InstallError, Installed, Job, Progress, Scan};
use update_engine::slot::{Disk, DiskSpec, InactiveSlot, SlotSpec};

use crate::fetching::{NoTime, Temper, block_on, fetcher, noise};

/// Bytes of a window, and what a slot holds before anything is written.
pub(crate) const WINDOW: usize = 256 * 1024;
pub(crate) const OLD: u8 = 0xAA;

/// Content of an image: what does not compress, text, and zeros, so that every kind of frame occurs.
pub(crate) fn content(size: usize, seed: u8) -> Vec<u8> {
    let mut bytes = noise(size);
    for (number, window) in bytes.chunks_mut(WINDOW).enumerate() {
        match number % 8 {
            1 | 2 => window.chunks_mut(16).for_each(|piece| {
                let letter = b'a' + piece[0] % 4;
                piece[1..].fill(letter);
            }),
            4..=7 if number >= 8 => window.fill(0),
            _ => {}
        }
        if number % 8 < 4 {
            window[0] = seed;
        }
    }
    bytes
}

/// A release, its payload, and the images it was made of.
pub(crate) struct Published {
    pub(crate) release: Arc<Release>,
    pub(crate) payload: Vec<u8>,
    pub(crate) images: Vec<(String, Option<SlotName>, Vec<u8>)>,
}

/// Whether the record names the digest of its payload's frame table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vouched {
    Yes,
    No,
}

impl Published {
    /// A release of one image, `root`.
    pub(crate) fn root(bytes: Vec<u8>, vouched: Vouched) -> Self {
        Self::of(vec![("root".to_owned(), None, bytes)], vouched)
    }

    pub(crate) fn of(images: Vec<(String, Option<SlotName>, Vec<u8>)>, vouched: Vouched) -> Self {
        let (payload, windows, table_sha256) = build_payload(&images);
        let named = windows.into_iter().zip(&images);
        let record = Record {
            product: "{demo}".to_owned(),
            arch: "x86_64".to_owned(),
            board: "demo".to_owned(),
            version: Version::parse("1.1.0").unwrap(),
            sequence: Sequence::new(2).unwrap(),
            created: "2026-01-01T00:00:00Z".parse().unwrap(),
            not_below: Sequence::ZERO,
            minimum_source: None,
            channels: Vec::new(),
            urgent: false,
            revoked_keys: Vec::new(),
            payload_table_sha256: (vouched == Vouched::Yes).then_some(table_sha256),
            notes: None,
            images: named
                .map(|(table, (name, slot, _))| Image { name: name.clone(), slot: *slot, table, verity: None })
                .collect(),
        };
        Self { release: Arc::new(signed(&record)), payload, images }
    }

    pub(crate) fn record(&self) -> &Record {
        self.release.record()
    }

    /// A delta from `old`.
    pub(crate) fn delta_from(&self, old: &Self) -> Vec<u8> {
        let images = |published: &'_ Self| -> Vec<(String, Option<SlotName>, Vec<u8>)> { published.images.clone() };
        let (old_images, new_images) = (images(old), images(self));
        let image = |(name, slot, data): &'_ (String, Option<SlotName>, Vec<u8>)| {
            (name.clone(), *slot, u64::try_from(data.len()).unwrap())
        };
        let (old_named, new_named): (Vec<_>, Vec<_>) =
            (old_images.iter().map(image).collect(), new_images.iter().map(image).collect());
        let sources: Vec<_> = old_named
            .iter()
            .zip(&old_images)
            .zip(&old.record().images)
            .map(|(((name, slot, size), (_, _, data)), entry)| {
                (build::Image { name, slot: *slot, size: *size, data }, &entry.table)
            })
            .collect();
        let images: Vec<_> = new_named
            .iter()
            .zip(&new_images)
            .map(|((name, slot, size), (_, _, data))| build::Image { name, slot: *slot, size: *size, data })
            .collect();
        let (mut spool, mut file) = (std::io::Cursor::new(Vec::new()), Vec::new());
        let options = Options { level: 3, ..Options::default() };
        build::delta(&sources, &images, &options, &mut spool, &mut file, &mut |_| {}).unwrap();
        file
    }
}

fn build_payload(
    images: &[(String, Option<SlotName>, Vec<u8>)],
) -> (Vec<u8>, Vec<manifests::release::WindowTable>, manifests::digest::Sha256Digest) {
    let sources: Vec<_> = images
        .iter()
        .map(|(name, slot, data)| build::Image { name, slot: *slot, size: u64::try_from(data.len()).unwrap(), data })
        .collect();
    let (mut spool, mut file) = (std::io::Cursor::new(Vec::new()), Vec::new());
    let options = Options { level: 1, ..Options::default() };
    let built = build::full(&sources, &options, &mut spool, &mut file, &mut |_| {}).unwrap();
    (file, built.windows, built.table.header().table_sha256())
}

fn signed(record: &Record) -> Release {
    let key = SecretKey::from_seed(&[7; 32]);
    let mut envelope = Envelope::unsigned(record).unwrap();
    envelope.sign(&key).unwrap();
    let keyring = Keyring::new([("test.pub".to_owned(), key.public())], NonZeroU32::MIN, &[]).unwrap();
    envelope.verify(&keyring).unwrap()
}

/// A server of one file, `/one/p`, `/two/p` and `/three/p` alike.
pub(crate) struct Server {
    pub(crate) mock: Mock,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn of(payload: &[u8], faults: impl IntoIterator<Item = Fault>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p"), payload).unwrap();
        let script = Script {
            codebases: ["/one/", "/two/", "/three/"].map(str::to_owned).to_vec(),
            faults: faults.into_iter().collect(),
            ..Script::serving(folder.path())
        };
        Self { mock: Mock::start(script).unwrap(), _folder: folder }
    }

    pub(crate) fn source(&self, codebase: &str) -> Source {
        Source::open(&format!("{}/{codebase}/p", self.mock.url())).unwrap()
    }

    /// Bytes asked for under a codebase, by the `Range` headers.
    pub(crate) fn bytes_asked(&self, codebase: &str) -> u64 {
        self.ranges(codebase).iter().map(|range| range.end - range.start).sum()
    }

    pub(crate) fn ranges(&self, codebase: &str) -> Vec<std::ops::Range<u64>> {
        let prefix = format!("/{codebase}/");
        let ours = self.mock.recorded().into_iter().filter(|request| request.path.starts_with(&prefix));
        ours.map(|request| {
            let range = request.range.unwrap();
            let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            first.parse().unwrap()..last.parse::<u64>().unwrap() + 1
        })
        .collect()
    }
}

/// A disk image with slots a (runs) and b, each with room for the images named; b full of [`OLD`].
pub(crate) struct Host {
    folder: tempfile::TempDir,
    names: Vec<String>,
    slot_bytes: usize,
}

impl Host {
    pub(crate) fn new(names: &[&str], slot_bytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = DiskBuilder::new(512);
        let sectors = slot_bytes.div_ceil(4096) * 8;
        let label = |name: &str, slot: &str| (format!("{name}-{slot}"), sectors, 0);
        disk.partitions = names.iter().flat_map(|name| [label(name, "a"), label(name, "b")]).collect();
        disk.sectors = sectors * disk.partitions.len() + 4096;
        std::fs::write(folder.path().join("disk.img"), disk.build()).unwrap();
        std::fs::create_dir_all(folder.path().join("proc")).unwrap();
        let line = format!("root=PARTUUID={}\n", fixture::unique_guid(0));
        std::fs::write(folder.path().join("proc/cmdline"), line).unwrap();
        let host = Self { folder, names: names.iter().map(|name| (*name).to_owned()).collect(), slot_bytes: sectors * 512 };
        for name in &host.names {
            host.poke(name, 0, &vec![OLD; host.slot_bytes]);
        }
        host
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    pub(crate) fn spec(&self, device: PathBuf) -> DiskSpec {
        let images = |slot: &str| {
            self.names.iter().map(|name| (name.clone(), format!("partlabel:{name}-{slot}").parse().unwrap())).collect()
        };
        let slot = |name: &str| SlotSpec { name: name.parse().unwrap(), images: images(name) };
        DiskSpec { device, sysroot: self.folder.path().to_path_buf(), esp: "/efi".into(), slots: vec![slot("a"), slot("b")] }
    }

    /// Slot b, opened for the images of a release.
    pub(crate) fn open(&self, record: &Record) -> InactiveSlot {
        self.open_at(self.path(), record)
    }

    pub(crate) fn open_at(&self, device: PathBuf, record: &Record) -> InactiveSlot {
        let disk = Disk::discover(&self.spec(device)).unwrap();
        let running = disk.running_slot().unwrap();
        let sizes: Vec<_> =
            record.images_for(SlotName::B).map(|(_, image)| (image.name.as_str(), image.table.image_size())).collect();
        InactiveSlot::open(&disk, &"b".parse().unwrap(), &running, &sizes).unwrap()
    }

    /// Where slot b's place for an image is on the disk.
    pub(crate) fn offset(&self, name: &str) -> u64 {
        let index = self.names.iter().position(|known| known == name).unwrap();
        u64::try_from(40 * 512 + (2 * index + 1) * self.slot_bytes).unwrap()
    }

    pub(crate) fn poke(&self, name: &str, at: u64, bytes: &[u8]) {
        let file = std::fs::File::options().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, self.offset(name) + at).unwrap();
    }

    /// Writes an image to slot a, which runs.
    pub(crate) fn runs(&self, name: &str, at: u64, bytes: &[u8]) {
        let file = std::fs::File::options().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, self.running_offset(name) + at).unwrap();
    }

    /// Where slot a's place for an image is on the disk.
    pub(crate) fn running_offset(&self, name: &str) -> u64 {
        self.offset(name) - u64::try_from(self.slot_bytes).unwrap()
    }

    /// What a delta leans on; the record of slot a is known or not.
    pub(crate) fn base(&self, record: Option<&Record>) -> Base {
        self.base_at(self.path(), record)
    }

    pub(crate) fn base_at(&self, device: PathBuf, record: Option<&Record>) -> Base {
        Base { disk: Disk::discover(&self.spec(device)).unwrap(), slot: SlotName::A, record: record.cloned() }
    }

    /// All bytes of slot b's partition for an image.
    pub(crate) fn slot(&self, name: &str) -> Vec<u8> {
        let mut bytes = vec![0; self.slot_bytes];
        std::fs::File::open(self.path()).unwrap().read_exact_at(&mut bytes, self.offset(name)).unwrap();
        bytes
    }

    /// Windows of the slot that hold the image's bytes. Every other one must hold what was there before: nothing wrong is
    /// ever written.
    pub(crate) fn right_windows(&self, name: &str, image: &[u8]) -> Vec<usize> {
        let (slot, untouched) = (self.slot(name), vec![OLD; WINDOW]);
        let windows = image.chunks(WINDOW).zip(slot.chunks(WINDOW)).enumerate();
        windows
            .filter_map(|(number, (expected, got))| {
                let got = &got[..expected.len()];
                let right = got == expected;
                assert!(right || *got == untouched[..got.len()], "window {number} holds bytes that nobody signed");
                right.then_some(number)
            })
            .collect()
    }

    /// Asserts that slot b is that image, byte for byte, with zeros at both ends of what follows.
    pub(crate) fn assert_is(&self, name: &str, image: &[u8]) {
        let slot = self.slot(name);
        assert!(slot[..image.len()] == *image, "slot b is not the image {name}");
        let tail = &slot[image.len()..];
        let end = tail.len().min(1 << 20);
        let zeros = vec![0; end];
        assert!(tail[..end] == zeros && tail[tail.len() - end..] == zeros, "the tail of {name} is not zero");
    }
}

/// An install of a release, as the daemon would start it.
pub(crate) struct Attempt {
    pub(crate) job: Job,
    pub(crate) cancel: Arc<AtomicBool>,
    pub(crate) told: Arc<Mutex<Vec<Progress>>>,
    pub(crate) timing: Arc<NoTime>,
    cancel_at: Option<u64>,
}

impl Attempt {
    pub(crate) fn new(host: &Host, published: &Published, sources: Vec<Source>) -> Self {
        Self::on(host.open(published.record()), published, sources)
    }

    pub(crate) fn on(slot: InactiveSlot, published: &Published, sources: Vec<Source>) -> Self {
        let timing = NoTime::shared();
        let job = Job {
            release: Arc::clone(&published.release),
            slot_name: SlotName::B,
            slot,
            fetcher: fetcher(Arc::clone(&timing), Temper::Patient),
            sources,
            payload_size: None,
            delta: None,
            base: None,
            decoding: Decoding::Confined(Program::At(env!("CARGO_BIN_EXE_update-engined").into())),
            scan: Scan::Any,
        };
        Self { job, cancel: Arc::default(), told: Arc::default(), timing, cancel_at: None }
    }

    pub(crate) fn scanning(mut self, scan: Scan) -> Self {
        self.job.scan = scan;
        self
    }

    /// Offers a delta as well.
    pub(crate) fn with_delta(mut self, sources: Vec<Source>, base: Base) -> Self {
        self.job.delta = Some((sources, None));
        self.job.base = Some(base);
        self
    }

    pub(crate) fn expecting(mut self, payload_size: usize) -> Self {
        self.job.payload_size = Some(u64::try_from(payload_size).unwrap());
        self
    }

    /// Takes a silent server for stalled.
    pub(crate) fn impatient(mut self) -> Self {
        self.job.fetcher = fetcher(Arc::clone(&self.timing), Temper::Impatient);
        self
    }

    /// Cancels once so many bytes are written.
    pub(crate) fn cancelled_at(mut self, bytes_written: u64) -> Self {
        self.cancel_at = Some(bytes_written);
        self
    }

    pub(crate) fn run(self) -> Result<Installed, InstallError> {
        let (told, cancel, cancel_at) = (Arc::clone(&self.told), Arc::clone(&self.cancel), self.cancel_at);
        let note = move |progress: Progress| {
            if cancel_at.is_some_and(|at| progress.bytes_written >= at) {
                cancel.store(true, Ordering::Relaxed);
            }
            told.lock().unwrap().push(progress);
        };
        block_on(install::run(self.job, self.cancel, Arc::new(note)))
    }
}
