//! Boot control on a real disk or image file: lock, read, decide, write in order, read back.

use std::io;
use std::path::PathBuf;

use super::rules::{Changes, SlotEntry, Slots};
use super::table::{Redundancy, Table, TableEntry};
use super::write::{self, TableStore};
use crate::boot::held::{self, Held};
use crate::boot::{BootControl, BootError, BootState, Permit, Standing, Weakness, rules};
use crate::slot::buffer::AlignedBuf;
use crate::slot::disk::DiskIdentity;
use crate::slot::medium::Access;
use crate::slot::{Disk, Proven, RawFile, RunningSlot, SlotName, Target};

/// Of several images in a slot, the one whose partition carries the slot's bits.
const BOOT_IMAGE: &str = "root";

/// Boot control in the attribute bits of the slots' partitions.
///
/// While it reads or changes the table it holds a lock (`flock`) on the whole disk, as `udev` and other careful editors do.
#[derive(Debug)]
pub struct GptControl {
    path: PathBuf,
    identity: DiskIdentity,
    sector_size: u64,
    slots: Vec<SlotEntry>,
    /// The slots' entries as they were found; only their attributes may differ later.
    partitions: Vec<TableEntry>,
}

/// How an edit treats a table that already is as it should be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rewrite {
    IfDifferent,
    Always,
}

impl GptControl {
    /// Boot control for the slots of a disk. Reads nothing yet.
    ///
    /// # Errors
    /// [`BootError::Unsuitable`] if a slot is not a partition of the disk, or it is open which of its images carries the bits.
    pub fn new(disk: &Disk) -> Result<Self, BootError> {
        let entries = disk.table().map(Table::entries).unwrap_or_default();
        let mut slots = Vec::new();
        for name in disk.slots() {
            let target = boot_target(disk, name)?;
            let partition = target.partition.as_ref().ok_or_else(|| {
                BootError::Unsuitable(format!(
                    "slot {name} ({}) is not a partition of {}, so its boot bits have no place in the partition table",
                    target.place.path().display(),
                    disk.device().display()
                ))
            })?;
            slots.push(SlotEntry { name: name.clone(), index: partition.index });
        }
        slots.sort_by_key(|slot| slot.index);
        let is_slot = |entry: &TableEntry| slots.iter().any(|slot| slot.index == entry.index);
        let partitions = entries.into_iter().filter(is_slot).collect();
        Ok(Self {
            path: disk.device().to_path_buf(),
            identity: disk.identity().clone(),
            sector_size: disk.sector_size(),
            slots,
            partitions,
        })
    }

    fn entry(&self, slot: &SlotName) -> Result<&SlotEntry, BootError> {
        let entry = self.slots.iter().find(|entry| entry.name == *slot);
        entry.ok_or_else(|| BootError::Unsuitable(format!("the boot control knows no slot {slot}")))
    }

    fn running<'a>(&self, running: &'a RunningSlot) -> Result<&'a SlotName, BootError> {
        if running.is_on(&self.identity) {
            return Ok(running.name());
        }
        Err(self.changed("the running slot was found on another disk"))
    }

    fn open(&self, access: Access) -> Result<Held, BootError> {
        let file = held::open(&self.path, access)?;
        if file.kind() != self.identity.kind {
            return Err(self.changed("it is another device or file"));
        }
        Ok(file)
    }

    fn table(&self, file: &RawFile) -> Result<Table, BootError> {
        let table = Table::read(file, self.sector_size).map_err(|e| self.unusable(e))?;
        if Some(table.disk_guid()) != self.identity.guid {
            return Err(self.changed("it has another GUID"));
        }
        let entries = table.entries();
        for found in &self.partitions {
            let same = |now: &TableEntry| TableEntry { attributes: found.attributes, ..now.clone() } == *found;
            if !entries.iter().any(same) {
                return Err(self.changed(&format!("partition {} (\"{}\") is another one", found.index + 1, found.label)));
            }
        }
        Ok(table)
    }

    fn slots_in<'a>(&'a self, table: &'a Table) -> Slots<'a> {
        Slots { table, slots: &self.slots }
    }

    fn state(&self, table: &Table) -> Result<BootState, BootError> {
        let state = self.slots_in(table).state(&[]).map_err(|e| self.unusable(e))?;
        Ok(BootState { weakness: weakness(table), ..state })
    }

    /// One change: decided from the table as it is, written in order, and read back from the medium.
    fn edit(
        &self,
        rewrite: Rewrite,
        decide: impl FnOnce(&BootState, Slots<'_>) -> Result<Changes, BootError>,
    ) -> Result<BootState, BootError> {
        let file = self.open(Access::Write)?;
        let before = self.table(&file)?;
        let changes = decide(&self.state(&before)?, self.slots_in(&before))?;
        let after = before.with_attributes(&changes).map_err(|e| self.unusable(e))?;
        let rewritten: Vec<u32> = match rewrite {
            Rewrite::IfDifferent => Vec::new(),
            Rewrite::Always => self.slots.iter().map(|slot| slot.index).collect(),
        };
        let steps = write::plan(&before, &after, &rewritten).map_err(|e| self.unusable(e))?;
        let interrupted = |source| BootError::Interrupted { path: self.path.clone(), source };
        write::execute(&*file, &steps).map_err(interrupted)?;
        self.read_back(&file, &after)
    }

    fn read_back(&self, file: &RawFile, expected: &Table) -> Result<BootState, BootError> {
        let got = self.table(file)?;
        if got == *expected {
            return self.state(&got);
        }
        let words = |table: &Table| self.state(table).map(|state| format!("{state:?}"));
        Err(BootError::ReadBack { expected: words(expected)?, got: words(&got)? })
    }

    fn unusable(&self, source: super::GptError) -> BootError {
        BootError::Table { path: self.path.clone(), source }
    }

    fn changed(&self, why: &str) -> BootError {
        BootError::Changed { path: self.path.clone(), why: why.to_owned() }
    }
}

impl BootControl for GptControl {
    fn kind(&self) -> &'static str {
        "gpt"
    }

    fn read(&self) -> Result<BootState, BootError> {
        let file = self.open(Access::Read)?;
        self.state(&self.table(&file)?)
    }

    fn self_test(&mut self) -> Result<BootState, BootError> {
        self.edit(Rewrite::Always, |_, _| Ok(Vec::new()))
    }

    fn disarm(&mut self, slot: &SlotName, running: &RunningSlot) -> Result<BootState, BootError> {
        let running = self.running(running)?;
        self.edit(Rewrite::IfDifferent, |state, slots| {
            rules::may_disarm(state, slot, running)?;
            slots.disarm(self.entry(slot)?, self.entry(running)?).map_err(|e| self.unusable(e))
        })
    }

    fn arm(&mut self, proven: Proven, _permit: Permit, running: &RunningSlot) -> Result<BootState, BootError> {
        if !proven.is_on(&self.identity) {
            return Err(self.changed("the slot was proven on another disk"));
        }
        let (slot, running) = (proven.slot(), self.running(running)?);
        self.edit(Rewrite::IfDifferent, |state, slots| {
            rules::may_arm(state, slot, running)?;
            slots.arm(self.entry(slot)?, self.entry(running)?).map_err(|e| self.unusable(e))
        })
    }

    fn mark_good(&mut self, running: &RunningSlot) -> Result<BootState, BootError> {
        let running = self.running(running)?;
        self.edit(Rewrite::IfDifferent, |state, slots| {
            rules::may_mark_good(state, running)?;
            slots.mark_good(self.entry(running)?).map_err(|e| self.unusable(e))
        })
    }

    fn mark_bad(&mut self, running: &RunningSlot) -> Result<BootState, BootError> {
        let running = self.running(running)?;
        self.edit(Rewrite::IfDifferent, |state, slots| {
            rules::may_mark_bad(state, running)?;
            slots.mark_bad(self.entry(running)?).map_err(|e| self.unusable(e))
        })
    }

    fn mark_bad_unless_good(&mut self, running: &RunningSlot) -> Result<BootState, BootError> {
        let running = self.running(running)?;
        self.edit(Rewrite::IfDifferent, |state, slots| {
            if state.standing(running).is_some_and(Standing::is_good) {
                return Ok(Vec::new());
            }
            rules::may_mark_bad(state, running)?;
            slots.mark_bad(self.entry(running)?).map_err(|e| self.unusable(e))
        })
    }
}

/// The target whose partition carries the bits of a slot.
fn boot_target<'a>(disk: &'a Disk, slot: &'a SlotName) -> Result<&'a Target, BootError> {
    let targets: Vec<&Target> = disk.targets_of(slot).collect();
    let root = targets.iter().find(|target| target.image == BOOT_IMAGE);
    match (root, targets.as_slice()) {
        (Some(target), _) => Ok(target),
        (None, [only]) => Ok(only),
        (None, _) => Err(BootError::Unsuitable(format!(
            "slot {slot} has {} images and none is named \"{BOOT_IMAGE}\": it is open which partition carries the boot bits",
            targets.len()
        ))),
    }
}

fn weakness(table: &Table) -> Option<Weakness> {
    let what = match table.redundancy() {
        Redundancy::Full => return None,
        Redundancy::CopiesDiffer => "the two copies of the partition table differ: a change was cut short".to_owned(),
        Redundancy::BackupBroken(fault) => format!("the backup partition table is not valid: {fault}"),
        Redundancy::PrimaryBroken(fault) => format!("the primary partition table is not valid: {fault}"),
    };
    Some(Weakness::until_next_change(what))
}

impl TableStore for RawFile {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut buffer = AlignedBuf::zeroed(bytes.len());
        let aligned = &mut buffer.as_mut_slice()[..bytes.len()];
        aligned.copy_from_slice(bytes);
        self.write_all_at(aligned, offset)
    }

    fn flush(&self) -> io::Result<()> {
        RawFile::flush(self)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::super::fixture::DiskBuilder;
    use super::super::parse;
    use super::*;
    use crate::slot::rig::{Rig, name, proven};
    use crate::slot::{DiskSpec, SlotSpec};

    /// P, T, S of both slots, as any reader sees them.
    fn bits(rig: &Rig) -> [(u8, u8, bool); 2] {
        let table = parse(&rig.bytes()).unwrap();
        [0, 1].map(|index| {
            let attributes = table.attributes(index).unwrap();
            (attributes.priority().get(), attributes.tries().get(), attributes.successful())
        })
    }

    #[test]
    fn a_whole_update_walks_through_the_table() {
        let rig = Rig::new(&DiskBuilder::new(512), 0);
        let disk = rig.disk();
        let running = disk.running_slot().unwrap();
        let mut control = GptControl::new(&disk).unwrap();
        assert_eq!(control.active().unwrap(), name("a"));
        control.self_test().unwrap();
        control.disarm(&name("b"), &running).unwrap();
        assert_eq!(bits(&rig), [(1, 0, true), (0, 0, false)]);

        let armed = control.arm(proven(&disk, &running), Permit::no_lock_configured(), &running).unwrap();
        assert_eq!(bits(&rig), [(1, 0, true), (2, 3, false)]);
        assert_eq!(armed, control.read().unwrap());
        assert_eq!(control.active().unwrap(), name("b"));
        assert!(matches!(control.mark_good(&running), Err(BootError::Refused { .. })), "R1");
        assert_eq!(bits(&rig), [(1, 0, true), (2, 3, false)]);

        rig.boot(1);
        let disk = rig.disk();
        let running = disk.running_slot().unwrap();
        let state = control.mark_good(&running).unwrap();
        assert_eq!(bits(&rig), [(1, 0, true), (2, 0, true)]);
        assert!(state.standing(&name("b")).unwrap().is_good() && state.weakness.is_none());
    }

    #[test]
    fn every_verb_done_twice_leaves_the_same_bytes() {
        for sector in [512, 4096] {
            let rig = Rig::new(&DiskBuilder::new(sector), 0);
            let disk = rig.disk();
            let running = disk.running_slot().unwrap();
            let mut control = GptControl::new(&disk).unwrap();
            control.disarm(&name("b"), &running).unwrap();
            let disarmed = rig.bytes();
            control.disarm(&name("b"), &running).unwrap();
            assert!(disarmed == rig.bytes());
            control.arm(proven(&disk, &running), Permit::no_lock_configured(), &running).unwrap();
            let armed = rig.bytes();
            control.arm(proven(&disk, &running), Permit::no_lock_configured(), &running).unwrap();
            control.self_test().unwrap();
            assert!(armed == rig.bytes());
            rig.boot(1);
            let running = rig.disk().running_slot().unwrap();
            control.mark_bad(&running).unwrap();
            let bad = rig.bytes();
            control.mark_bad(&running).unwrap();
            assert!(bad == rig.bytes());
            assert_eq!(bits(&rig), [(1, 0, true), (1, 0, false)]);
        }
    }

    #[test]
    fn a_refusal_changes_no_byte() {
        let rig = Rig::new(&DiskBuilder::new(512).bits(0, 0x0022 << 48), 0);
        let disk = rig.disk();
        let running = disk.running_slot().unwrap();
        let mut control = GptControl::new(&disk).unwrap();
        let before = rig.bytes();
        let refusals = [
            control.disarm(&name("a"), &running),
            control.disarm(&name("b"), &running),
            control.disarm(&name("c"), &running),
            control.mark_bad(&running),
            control.arm(proven(&disk, &running), Permit::no_lock_configured(), &running),
        ];
        for refusal in refusals {
            assert!(matches!(refusal, Err(BootError::Refused { .. })), "{refusal:?}");
        }
        assert!(before == rig.bytes());
    }

    #[test]
    fn any_change_mends_a_broken_copy_and_reading_names_it() {
        let rig = Rig::new(&DiskBuilder::new(512).bits(0, 0x0101 << 48), 0);
        let disk = rig.disk();
        let mut control = GptControl::new(&disk).unwrap();
        let file = File::options().write(true).open(rig.path()).unwrap();
        for (offset, copy) in [(512, "primary"), (127 * 512, "backup")] {
            file.write_all_at(b"XXXX", offset).unwrap();
            let weakness = control.read().unwrap().weakness.unwrap().to_string();
            assert!(weakness.starts_with(&format!("the {copy} partition table is not valid")), "{weakness}");
            assert_eq!(control.self_test().unwrap().weakness, None);
        }
    }

    #[test]
    fn another_table_on_the_same_disk_is_refused() {
        let rig = Rig::new(&DiskBuilder::new(512), 0);
        let disk = rig.disk();
        let mut control = GptControl::new(&disk).unwrap();
        let mut other = DiskBuilder::new(512);
        other.partitions.remove(0);
        std::fs::write(rig.path(), other.build()).unwrap();
        let error = control.self_test().unwrap_err().to_string();
        assert!(error.ends_with("changed since its slots were found: partition 1 (\"root-a\") is another one"), "{error}");
        assert!(other.build() == rig.bytes());
    }

    #[test]
    fn a_table_that_another_program_holds_is_waited_for() {
        let rig = Rig::new(&DiskBuilder::new(512), 0);
        let mut control = GptControl::new(&rig.disk()).unwrap();
        let other = File::open(rig.path()).unwrap();
        other.lock().unwrap();
        let began = Instant::now();
        let waiting = thread::spawn(move || control.self_test());
        thread::sleep(Duration::from_millis(200));
        assert!(!waiting.is_finished(), "the lock is honoured");
        other.unlock().unwrap();
        waiting.join().unwrap().unwrap();
        assert!(began.elapsed() < held::LOCK_WAIT);
    }

    #[test]
    fn slots_that_are_no_partitions_have_no_boot_bits() {
        let rig = Rig::new(&DiskBuilder::new(512), 0);
        let slots = ["a", "b"].map(|slot| {
            let path = rig.folder.path().join(slot);
            std::fs::write(&path, [0; 8192]).unwrap();
            SlotSpec { name: name(slot), images: vec![("root".to_owned(), crate::slot::Location::Path(path))] }
        });
        let spec = DiskSpec { slots: slots.to_vec(), ..rig.spec() };
        let error = GptControl::new(&Disk::discover(&spec).unwrap()).unwrap_err().to_string();
        assert!(error.contains("is not a partition of"), "{error}");
    }
}
