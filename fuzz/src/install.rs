//! Installs of a payload that an enemy has made, for a release that is as it should be.
//!
//! Whatever it is: no byte is written that the record does not name, what is there and right stays, an install that ends well has made the
//! images, and one beside which an honest full payload is offered ends well.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use manifests::release::SlotName;
use payload::build;
use payload::format::ImageEntry;
use update_engine::fetch::{Fetcher, Options, Pause, Source, Timing};
use update_engine::install::{self, Base, Decoding, InstallError, Installed, Job, Scan};
use update_engine::slot::{Disk, DiskSpec, InactiveSlot, SlotSpec};

use crate::folder::Folder;
use crate::payload_file::{IMAGES, OLD, RELEASE, entries, whole_file};
use crate::slots::{FIRST_BYTE, disk};

/// What a slot holds before.
const BEFORE: u8 = 0xAA;
const NAMES: [&str; 2] = ["root", "boot"];
const PARTITION_BYTES: [u64; 2] = [304 << 10, 8 << 10];
const WINDOW: usize = 256 << 10;

/// How it is offered, and what the host is like.
struct Scene {
    /// As a delta, beside an honest full payload; or as the full one, and nobody has another.
    is_delta: bool,
    /// The slot that runs is not what a delta leans on.
    is_base_wrong: bool,
    /// The slot holds the first window already.
    is_begun: bool,
}

/// A byte for the scene, then frames and blobs as [`crate::payload_file::decode`] has them.
pub fn hostile(data: &[u8]) {
    let _installed = installed(data);
}

/// Whether such an install ended well; `None` when there is no payload to install.
pub fn installed(data: &[u8]) -> Option<bool> {
    let (scene, data) = data.split_first()?;
    let scene = Scene { is_delta: scene & 1 > 0, is_base_wrong: scene & 2 > 0, is_begun: scene & 4 > 0 };
    let sources: &[ImageEntry] = if scene.is_delta { entries().1 } else { &[] };
    let (_, payload) = whole_file(data, sources)?;

    let host = Host::new(&scene);
    let before = host.disk_bytes();
    let installed = host.install(&scene, &payload);
    let after = host.disk_bytes();
    host.check(&before, &after, installed.is_ok());
    if let (Err(error), true) = (&installed, scene.is_delta) {
        panic!("an honest payload stood by: {error}");
    }
    Some(installed.is_ok())
}

struct Host {
    folder: Folder,
}

impl Host {
    fn new(scene: &Scene) -> Self {
        let folder = Folder::new();
        let mut bytes = TEMPLATE.clone();
        let put = |bytes: &mut [u8], place: Range<usize>, content: &[u8]| {
            bytes[place.start..place.start + content.len()].copy_from_slice(content);
        };
        if !scene.is_base_wrong {
            put(&mut bytes, partition(0, SlotName::A), &OLD);
        }
        if scene.is_begun {
            put(&mut bytes, partition(0, SlotName::B), &IMAGES[0][..WINDOW]);
        }
        folder.put("disk.img", &bytes);
        folder.put("proc/cmdline", b"root=PARTLABEL=root-a");
        folder.put("full.payload", &HONEST);
        Self { folder }
    }

    fn disk_bytes(&self) -> Vec<u8> {
        self.folder.get("disk.img").expect("a disk")
    }

    fn disk(&self) -> Disk {
        let slot = |name: &str| {
            let target = |image: &str| (image.to_owned(), format!("partlabel:{image}-{name}").parse().expect("a partition"));
            SlotSpec { name: name.parse().expect("a slot"), images: NAMES.into_iter().map(target).collect() }
        };
        let spec = DiskSpec {
            device: self.folder.path().join("disk.img"),
            sysroot: self.folder.path().to_path_buf(),
            esp: "/efi".into(),
            slots: vec![slot("a"), slot("b")],
        };
        Disk::discover(&spec).expect("a disk")
    }

    fn install(&self, scene: &Scene, payload: &[u8]) -> Result<Installed, InstallError> {
        self.folder.put("hostile.payload", payload);
        let source = |name: &str| vec![Source::open(self.folder.path().join(name).to_str().expect("a path")).expect("a file")];
        let (full, delta) = match scene.is_delta {
            true => (source("full.payload"), Some((source("hostile.payload"), None))),
            false => (source("hostile.payload"), None),
        };
        let disk = self.disk();
        let running = disk.running_slot().expect("a slot that runs");
        let sizes: Vec<(&str, u64)> =
            RELEASE.record().images.iter().map(|image| (image.name.as_str(), image.table.image_size())).collect();
        let slot = InactiveSlot::open(&disk, &"b".parse().expect("a slot"), &running, &sizes).expect("a slot");
        let job = Job {
            release: Arc::clone(&RELEASE),
            slot_name: SlotName::B,
            slot,
            fetcher: Fetcher::new(Options { timing: Arc::new(NoTime::default()), ..Options::default() }).expect("a client"),
            sources: full,
            payload_size: None,
            delta,
            base: Some(Base { disk, slot: SlotName::A, record: None }),
            // What decodes is the same; a process for each input would be all that is fuzzed.
            decoding: Decoding::Here,
            scan: Scan::Any,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(install::run(job, Arc::default(), Arc::new(|_| {})))
    }

    fn check(&self, before: &[u8], after: &[u8], is_done: bool) {
        let mut checked = 0;
        for (image, bytes) in IMAGES.iter().enumerate() {
            let place = partition(image, SlotName::B);
            assert!(before[checked..place.start] == after[checked..place.start], "a byte outside of the slot changed");
            let (was, is) = (&before[place.clone()], &after[place.clone()]);
            let windows = bytes.chunks(WINDOW).zip(was.chunks(WINDOW)).zip(is.chunks(WINDOW));
            for (number, ((signed, was), is)) in windows.enumerate() {
                let is_right = is[..signed.len()] == *signed;
                let is_as_before = !is_done && is == was && was[..signed.len()] != *signed;
                assert!(is_right || is_as_before, "window {number} of image {image} holds bytes that nobody signed");
            }
            let mut behind = was[bytes.len()..].iter().zip(&is[bytes.len()..]);
            assert!(behind.all(|(was, is)| is == was || *is == 0), "what is behind image {image} is neither as it was nor zero");
            assert!(!is_done || is[bytes.len()..].iter().all(|byte| *byte == 0), "what is behind image {image} is not zero");
            checked = place.end;
        }
        assert!(before[checked..] == after[checked..], "a byte behind the slot changed");
    }
}

/// Where an image of a slot lies on the disk. Both of a slot follow each other.
fn partition(image: usize, slot: SlotName) -> Range<usize> {
    let slot_bytes: u64 = PARTITION_BYTES.iter().sum();
    let first = FIRST_BYTE + if slot == SlotName::B { slot_bytes } else { 0 };
    let start = first + PARTITION_BYTES[..image].iter().sum::<u64>();
    let place = |byte: u64| usize::try_from(byte).expect("a small disk");
    place(start)..place(start + PARTITION_BYTES[image])
}

/// The disk, slot b full of what was before.
static TEMPLATE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let [root, boot] = PARTITION_BYTES;
    let mut bytes = disk(&[("root-a", root), ("boot-a", boot), ("root-b", root), ("boot-b", boot)]);
    for image in 0..NAMES.len() {
        bytes[partition(image, SlotName::B)].fill(BEFORE);
    }
    bytes
});

/// The full payload as a publisher makes it.
static HONEST: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let image = |(name, data): (&'static str, &'static Vec<u8>)| build::Image { name, slot: None, size: data.len() as u64, data };
    let images: Vec<_> = NAMES.into_iter().zip(IMAGES.iter()).map(image).collect();
    let (mut spool, mut out) = (io::Cursor::new(Vec::new()), Vec::new());
    build::full(&images, &build::Options::default(), &mut spool, &mut out, &mut |_| {}).expect("a payload");
    out
});

/// A clock that only moves when it is waited for.
#[derive(Debug)]
struct NoTime {
    start: Instant,
    waited_ms: AtomicU64,
}

impl Default for NoTime {
    fn default() -> Self {
        Self { start: Instant::now(), waited_ms: AtomicU64::new(0) }
    }
}

impl Timing for NoTime {
    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.waited_ms.load(Ordering::Relaxed))
    }

    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn pause(&self, duration: Duration) -> Pause {
        self.waited_ms.fetch_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Box::pin(async {})
    }

    fn dice(&self) -> f64 {
        0.5
    }
}
