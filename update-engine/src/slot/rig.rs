//! A disk image with two slots and the files that say which one runs, for tests.

use std::path::PathBuf;

use manifests::digest::Sha256Digest;

use super::readback::{self, Acceptance};
use super::{Disk, DiskSpec, ImageTable, InactiveSlot, Proven, RunningSlot, SlotName, SlotSpec, VerifiedBytes, Watch};
use crate::boot::gpt::fixture::{self, DiskBuilder};
use crate::boot::gpt::parse;

/// The image lies in a folder of its own, which also is its sysroot.
pub(crate) struct Rig {
    pub(crate) folder: tempfile::TempDir,
}

impl Rig {
    /// Writes the disk; the slot with that number in its table runs.
    pub(crate) fn new(disk: &DiskBuilder, running: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("disk.img"), disk.build()).unwrap();
        std::fs::create_dir_all(folder.path().join("proc")).unwrap();
        let rig = Self { folder };
        rig.boot(running);
        rig
    }

    /// A disk whose slots have that many sectors of 512 bytes; slot a runs.
    pub(crate) fn with_slots_of(sectors: usize) -> Self {
        let mut disk = DiskBuilder::new(512);
        disk.partitions[0].1 = sectors;
        disk.partitions[1].1 = sectors;
        disk.sectors = 2 * sectors + 2048;
        Self::new(&disk, 0)
    }

    pub(crate) fn boot(&self, slot: usize) {
        let line = format!("quiet root=PARTUUID={} ro\n", fixture::unique_guid(slot));
        std::fs::write(self.folder.path().join("proc/cmdline"), line).unwrap();
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    pub(crate) fn spec(&self) -> DiskSpec {
        let slot = |name: &str| SlotSpec {
            name: name.parse().unwrap(),
            images: vec![("root".to_owned(), format!("partlabel:root-{name}").parse().unwrap())],
        };
        let sysroot = self.folder.path().to_path_buf();
        DiskSpec { device: self.path(), sysroot, esp: "/efi".into(), slots: vec![slot("a"), slot("b")] }
    }

    pub(crate) fn disk(&self) -> Disk {
        Disk::discover(&self.spec()).unwrap()
    }

    pub(crate) fn running(&self) -> RunningSlot {
        self.disk().running_slot().unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    /// The bytes of the image file that a slot takes.
    pub(crate) fn range_of(&self, slot: usize) -> std::ops::Range<usize> {
        let entry = &parse(&self.bytes()).unwrap().entries()[slot];
        let start = usize::try_from(entry.start_bytes).unwrap();
        start..start + usize::try_from(entry.size_bytes).unwrap()
    }

    /// Changes bytes of a slot behind everyone's back.
    pub(crate) fn poke(&self, slot: usize, offset: usize, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, (self.range_of(slot).start + offset) as u64).unwrap();
    }
}

pub(crate) fn name(text: &str) -> SlotName {
    text.parse().unwrap()
}

/// Bytes that a test vouches for.
pub(crate) struct Window<'a> {
    pub(crate) offset: u64,
    pub(crate) bytes: &'a [u8],
}

impl VerifiedBytes for Window<'_> {
    fn image_offset(&self) -> u64 {
        self.offset
    }

    fn bytes(&self) -> &[u8] {
        self.bytes
    }
}

/// An image of which no two blocks are alike.
pub(crate) fn image(length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[at % 3] ^ 0x5A).collect();
    for (number, block) in bytes.chunks_mut(512).enumerate() {
        let mark = (number as u64).to_le_bytes();
        let length = block.len().min(8);
        block[..length].copy_from_slice(&mark[..length]);
    }
    bytes
}

pub(crate) fn digests(image: &[u8], window: usize) -> Vec<Sha256Digest> {
    image.chunks(window).map(Sha256Digest::of).collect()
}

/// The slot that does not run, proven: whatever it holds counts as committed before.
pub(crate) fn proven(disk: &Disk, running: &RunningSlot) -> Proven {
    let slot = disk.inactive(running).clone();
    let digests = [Sha256Digest::from_bytes([0x11; 32])];
    let table = ImageTable::new("root", 4096, 4096, &digests).unwrap();
    let written = InactiveSlot::open(disk, &slot, running, &[("root", 4096)]).unwrap().finish().unwrap();
    let cancel = false.into();
    let watch = Watch::new(1, &cancel, &|_| {});
    readback::prove(written, [9; 32], &[table], Acceptance::CommittedBefore, &watch).unwrap()
}
