//! A host of two slots, so that each boot control can be asked and told to change what the fuzzer made of its files.
//!
//! What holds for every boot loader is checked here: what is read back is what was said, done twice is done once, a slot that runs stays
//! bootable unless it is marked bad, and what cannot be done is refused in words and writes nothing. What a loader makes of the files,
//! and what in them belongs to others, each target knows.

use std::cell::Cell;
use std::io::ErrorKind;
use std::sync::{Arc, LazyLock};

use manifests::digest::Sha256Digest;
use update_engine::boot::{BootControl, BootError, BootState, Past, Permit, Standing};
use update_engine::config::{Settings, Source, parse};
use update_engine::records::Records;
use update_engine::slot::readback::{Acceptance, prove};
use update_engine::slot::{ImageTable, InactiveSlot, Proven, SlotName, Watch};
use update_engine::world::{Ground, World, chain};

use crate::folder::Folder;

/// Longest error that still is one line of a log.
const MAX_ERROR_CHARS: usize = 4096;
const SECTOR: usize = 512;
/// Where the first partition of a disk begins.
pub const FIRST_BYTE: u64 = 4096;
/// Bytes of a slot: what is read back has this granularity.
const SLOT_BYTES: u64 = 4096;

thread_local! {
    static CHANGES: Cell<usize> = const { Cell::new(0) };
}

/// Changes that were carried out on this thread so far: a target that is refused everything would keep every promise.
pub fn changes() -> usize {
    CHANGES.get()
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Write what is there.
    SelfTest,
    /// Of the slot that does not run.
    Disarm,
    /// Of the slot that does not run, which was read back.
    Arm,
    /// Of the slot that runs.
    MarkGood,
    /// Of the slot that runs.
    MarkBad,
    /// Of the slot that runs, unless it is good by now.
    MarkBadUnlessGood,
    /// Give the slot that runs its tries back.
    Renew,
}

impl Verb {
    /// The one that a byte picks.
    pub fn of(byte: u8) -> Self {
        const ALL: [Verb; 7] =
            [Verb::SelfTest, Verb::Disarm, Verb::Arm, Verb::MarkGood, Verb::MarkBad, Verb::Renew, Verb::MarkBadUnlessGood];
        ALL[usize::from(byte) % ALL.len()]
    }
}

/// What a change led from and to.
pub struct Change {
    /// As it was read.
    pub before: BootState,
    /// As it was read back.
    pub after: BootState,
}

/// Slots `a` and `b` on a disk image.
pub struct Host {
    /// Its files.
    pub folder: Folder,
    /// Somebody else told the loader what to start in the next boot, and in that one alone.
    pub next_is_asked_for: bool,
    world: World,
    ground: Ground,
}

impl Host {
    /// `[boot]` is what this says, with `@` for the host's folder; slot `a` (0) or `b` (1) runs.
    pub fn new(runs: usize, boot: &str) -> Self {
        let folder = Folder::new();
        folder.put("disk.img", &DISK);
        folder.put("proc/cmdline", [b"root=PARTLABEL=root-a", b"root=PARTLABEL=root-b"][runs]);
        std::fs::create_dir(folder.path().join("state")).expect("room for a folder");
        let settings = settings(&folder, boot);
        let records = Records::of(&settings.state_dir);
        let world = World::new(Arc::new(settings), records);
        // There is no ESP yet: what is written and proven is the root alone.
        let ground = world.ground_for_marks().unwrap_or_else(|fault| panic!("{fault}"));
        Self { folder, next_is_asked_for: false, world, ground }
    }

    fn control(&self) -> Box<dyn BootControl> {
        self.world.boot_control(&self.ground.disk).expect("a boot control")
    }

    /// The slot that runs.
    pub fn running(&self) -> &SlotName {
        self.ground.running.name()
    }

    /// The slot that does not.
    pub fn other(&self) -> &SlotName {
        self.ground.disk.inactive(&self.ground.running)
    }

    /// What is said of the slots; `None` if that cannot be read.
    pub fn read(&self) -> Option<BootState> {
        let state = self.control().read();
        check_error(state.as_ref().err());
        let is_there = !matches!(&state, Err(BootError::Io { source, .. }) if source.kind() == ErrorKind::NotFound);
        assert!(is_there, "what is there is not found: {state:?}");
        let state = state.ok()?;
        assert_eq!(state.slots.iter().map(|slot| slot.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(state.slots.iter().any(|slot| slot.name == state.next) && state.tries > 0, "{state:?}");
        assert!(state.weakness.as_ref().is_none_or(|weakness| !weakness.to_string().chars().any(char::is_control)), "{state:?}");
        Some(state)
    }

    /// Whether what is there can be written; what keeps it from that is said in words.
    pub fn passes_self_test(&self) -> bool {
        let tested = self.control().self_test();
        check_error(tested.as_ref().err());
        tested.is_ok()
    }

    /// Changes what lies below `stored`; `None` if it is refused.
    pub fn change(&self, verb: Verb, stored: &str) -> Option<Change> {
        let before = self.read()?;
        let files = self.folder.files(stored);
        let mut control = self.control();
        let after = match self.call(control.as_mut(), verb) {
            Ok(after) => after,
            Err(error) => {
                check_error(Some(&error));
                let is_word = !matches!(error, BootError::ReadBack { .. } | BootError::Interrupted { .. } | BootError::Io { .. });
                assert!(is_word, "{verb:?} of {before:?}: {}", chain(&error));
                assert_eq!(self.folder.files(stored), files, "{verb:?} is refused, and yet something is written: {error}");
                return None;
            }
        };
        assert_eq!(self.read().as_ref(), Some(&after), "{verb:?} of {before:?}");
        self.check_meaning(verb, &before, &after);
        let once = self.folder.files(stored);
        if !matches!(verb, Verb::SelfTest | Verb::Renew) {
            let again = self.call(control.as_mut(), verb);
            assert!(again.is_err() || again.is_ok_and(|again| again == after), "{verb:?} done twice is not the same");
            assert!(self.folder.files(stored) == once, "{verb:?} done twice writes twice");
        }
        CHANGES.set(CHANGES.get() + 1);
        Some(Change { before, after })
    }

    fn call(&self, control: &mut dyn BootControl, verb: Verb) -> Result<BootState, BootError> {
        let running = &self.ground.running;
        match verb {
            Verb::SelfTest => control.self_test(),
            Verb::Disarm => control.disarm(self.other(), running),
            Verb::Arm => control.arm(self.proven(), Permit::no_lock_configured(), running),
            Verb::MarkGood => control.mark_good(running),
            Verb::MarkBad => control.mark_bad(running),
            Verb::MarkBadUnlessGood => control.mark_bad_unless_good(running),
            Verb::Renew => control.renew(running),
        }
    }

    fn check_meaning(&self, verb: Verb, before: &BootState, after: &BootState) {
        let (running, other) = (self.running(), self.other());
        let of = |state: &BootState, slot: &SlotName| state.standing(slot).expect("a slot that is there");
        let (own, its) = (of(after, running), of(after, other));
        let what = format!("{verb:?} while {running} runs: {before:?} became {after:?}");
        match verb {
            Verb::SelfTest => assert!(same(before, after), "{what}"),
            Verb::MarkBadUnlessGood if of(before, running).is_good() => {
                assert_eq!((own, its), (of(before, running), of(before, other)), "{what}")
            }
            Verb::Renew => assert_eq!((&before.slots, before.past), (&after.slots, after.past), "{what}"),
            Verb::Disarm => assert!(its.is_blank() && own.is_good() && after.next == *running, "{what}"),
            Verb::Arm => {
                assert!(its.is_pending() && own.is_good() && after.next == *other && after.past == Past::Armed, "{what}");
            }
            Verb::MarkGood => {
                assert!(own.is_good() && its == of(before, other), "{what}");
                let was_on_trial = of(before, running).is_on_trial();
                let is_free = !its.is_pending() && !self.next_is_asked_for;
                assert!(!was_on_trial || !is_free || after.next == *running, "{what}");
            }
            Verb::MarkBad | Verb::MarkBadUnlessGood => {
                assert!(own.is_out_of_tries() && its == of(before, other) && after.next == *other, "{what}")
            }
        }
        assert!(before.past != Past::Armed || after.past == Past::Armed, "{what}");
    }

    /// The slot that does not run, read back: it counts as committed before, whatever it holds.
    fn proven(&self) -> Proven {
        let Ground { disk, running } = &self.ground;
        let slot = InactiveSlot::open(disk, self.other(), running, &[("root", SLOT_BYTES)]).expect("a slot");
        let digests = [Sha256Digest::from_bytes([0x11; 32])];
        let table = ImageTable::new("root", SLOT_BYTES, SLOT_BYTES, &digests).expect("a table");
        let watch = Watch::new(1, &NEVER, &|_| {});
        prove(slot.finish().expect("a slot"), [9; 32], &[table], Acceptance::CommittedBefore, &watch).expect("a proof")
    }
}

static NEVER: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// A configuration whose files lie in this folder.
pub fn settings(folder: &Folder, boot: &str) -> Settings {
    let text = "state_dir = \"@/state\"\nsysroot = \"@\"\nserver.app_id = \"x\"\ndisk.device = \"@/disk.img\"\n\
                slots.a.root = \"partlabel:root-a\"\nslots.b.root = \"partlabel:root-b\"\n";
    let text = format!("{text}{boot}").replace('@', &folder.path().display().to_string());
    parse(&[Source::new("host.toml", text)]).expect("a configuration")
}

/// What was said is what is said; what was wrong with how may be mended, and a good slot has the tries again that the loader took from it.
fn same(before: &BootState, after: &BootState) -> bool {
    let facts = |state: &BootState| (state.slots.clone(), state.past, state.tries);
    let is_next_good = |state: &BootState| state.standing(&state.next).is_some_and(Standing::is_good);
    facts(before) == facts(after) && (before.next == after.next || is_next_good(before) && is_next_good(after))
}

fn check_error(error: Option<&BootError>) {
    let Some(error) = error else { return };
    let words = chain(error);
    assert!(words.chars().count() <= MAX_ERROR_CHARS && !words.chars().any(char::is_control), "{words:?}");
}

/// A disk of both slots.
static DISK: LazyLock<Vec<u8>> = LazyLock::new(|| disk(&[("root-a", SLOT_BYTES), ("root-b", SLOT_BYTES)]));

/// A disk of these partitions, one behind the other from [`FIRST_BYTE`] on: label and length in bytes, a multiple of 4096.
pub fn disk(partitions: &[(&str, u64)]) -> Vec<u8> {
    let sectors = FIRST_BYTE / SECTOR as u64 + partitions.iter().map(|(_, bytes)| bytes / SECTOR as u64).sum::<u64>() + 8;
    let (mut entries, mut first) = (vec![0; 4 * 128], FIRST_BYTE / SECTOR as u64);
    for (number, (label, bytes)) in (0..4_u8).zip(partitions) {
        let label = label.encode_utf16().flat_map(u16::to_le_bytes);
        let end = first + bytes / SECTOR as u64;
        let places = [first, end - 1, 0].map(u64::to_le_bytes).concat();
        let entry: Vec<u8> = [0x22; 16].into_iter().chain([number + 1; 16]).chain(places).chain(label).collect();
        let at = usize::from(number) * 128;
        entries[at..at + entry.len()].copy_from_slice(&entry);
        first = end;
    }
    let mut disk = vec![0; usize::try_from(sectors).expect("a small disk") * SECTOR];
    let mut put = |sector: u64, bytes: &[u8]| {
        let at = sector as usize * SECTOR;
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    };
    for (own, theirs, entries_at) in [(1, sectors - 1, 2), (sectors - 1, 1, sectors - 2)] {
        put(entries_at, &entries);
        put(own, &header([own, theirs, 8, sectors - 3], entries_at, crc32fast::hash(&entries)));
    }
    let last = u32::try_from(sectors - 1).expect("a small disk").to_le_bytes();
    let protective = [0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0];
    put(0, &[&[0; 446][..], &protective, &last, &[0; 48], &[0x55, 0xAA]].concat());
    disk
}

fn header(places: [u64; 4], entries_at: u64, entries_crc: u32) -> Vec<u8> {
    let mut header = b"EFI PART\0\0\x01\0\x5C\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    header.extend(places.map(u64::to_le_bytes).concat());
    header.extend([0xD1; 16]);
    header.extend(entries_at.to_le_bytes());
    header.extend([4, 128, entries_crc].map(u32::to_le_bytes).concat());
    let crc = crc32fast::hash(&header).to_le_bytes();
    header[16..20].copy_from_slice(&crc);
    header
}
