//! What the daemon's own boot control makes of the files that a power cut left to the loader, beside the second reading of them
//! ([`super::loader`]).
//!
//! 1. It reads them without an error, and finds nothing weak in how they are stored: no change is ever half there (P1).
//! 2. What it says is next is what the loader takes first, and each slot stands as the loader has it.
//! 3. After the boot that the loader would make of it, the change that the daemon makes next can be made, and the loader takes it as it is
//!    meant: a slot on trial that is marked good is first, with the old one behind it; marked bad, the old one is; and what runs and is
//!    good stands alone once the other slot is disarmed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use manifests::release::SlotName;
use tempfile::TempDir;
use update_engine::boot::{BootControl, BootError, BootState, Standing};
use update_engine::config::{Source, parse};
use update_engine::engine::facts::BootTable;
use update_engine::records::Records;
use update_engine::world::{Ground, World, boot_table, chain};

use super::loader::{Candidate, Folder, candidates, count_try};
use crate::hostsim::image::{DiskSpec, PartitionSpec, make_disk};
use crate::vm::{ENTRY_PREFIX, Loader};

/// A file of the EFI system partition: its path, and what it holds.
pub type EspFile = (String, Vec<u8>);

/// A host for the daemon's boot control, which gets the files of one cut after the other.
#[derive(Debug)]
pub struct Control {
    loader: Loader,
    scratch: TempDir,
}

/// What the daemon may do next.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// The slot that does not run is disarmed.
    Disarm,
    /// The slot that runs is healthy.
    MarkGood,
    /// The slot that runs is not.
    MarkBad,
}

impl Control {
    /// Under this loader, in a folder for nothing else.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn new(loader: Loader, scratch: TempDir) -> Result<Self, String> {
        let partitions = ["root-a", "root-b"].map(|label| PartitionSpec::new(label, 1)).to_vec();
        let spec = DiskSpec { sector: 512, guid: None, partitions, first_sector: None };
        make_disk(&scratch.path().join("disk.img"), &spec).map_err(|error| error.to_string())?;
        Ok(Self { loader, scratch })
    }

    /// The boot table that the daemon finds after the boot that the loader would make of these files.
    ///
    /// # Errors
    /// What does not hold.
    pub fn examine(&self, files: &[EspFile], found: &[Candidate]) -> Result<BootTable, String> {
        let Some(first) = found.first() else { return Err("the loader finds nothing to start".to_owned()) };
        let table = {
            let host = self.host(files, first.slot)?;
            let state = host.read()?;
            check_agrees(&state, &table_of(&state)?, found)?;
            self.boot(&host, first)?;
            table_of(&host.read()?)?
        };
        let changes: &[Change] =
            if first.tries_left.is_some() { &[Change::MarkGood, Change::MarkBad] } else { &[Change::Disarm] };
        changes.iter().try_for_each(|change| self.check_change(*change, files, first))?;
        Ok(table)
    }

    fn boot(&self, host: &Host, first: &Candidate) -> Result<(), String> {
        count_try(self.loader, &host.esp(), first)
            .map_err(|error| format!("the loader cannot count the try of {first:?}: {error}"))
    }

    fn check_change(&self, change: Change, files: &[EspFile], first: &Candidate) -> Result<(), String> {
        let host = self.host(files, first.slot)?;
        self.boot(&host, first)?;
        host.make(change).map_err(|error| format!("{change:?} while {} runs: {}", first.slot, chain(&error)))?;
        let stands = candidates(self.loader, &Folder(&host.esp()))?;
        let stands: Vec<(char, Option<u32>)> = stands.iter().map(|candidate| (candidate.slot, candidate.tries_left)).collect();
        let (own, other) = ((first.slot, None), (other_than(first.slot), None));
        let expected = match change {
            Change::Disarm => stands == [own],
            Change::MarkGood => stands == [own, other],
            // What is given up may stay listed, as one without tries.
            Change::MarkBad => stands == [other] || stands == [other, (first.slot, Some(0))],
        };
        if expected { Ok(()) } else { Err(format!("after {change:?} while {} runs the loader finds {stands:?}", first.slot)) }
    }

    /// A host with a fresh copy of these files, on which this slot runs.
    fn host(&self, files: &[EspFile], running: char) -> Result<Host, String> {
        let root = self.scratch.path().join("host");
        let words = |error: std::io::Error| format!("{}: {error}", root.display());
        if root.exists() {
            fs::remove_dir_all(&root).map_err(words)?;
        }
        let cmdline = format!("root=PARTLABEL=root-{running}").into_bytes();
        let more = [("proc/cmdline".to_owned(), cmdline)];
        let all =
            files.iter().map(|(path, bytes)| (format!("esp/{path}"), bytes)).chain(more.iter().map(|(p, b)| (p.clone(), b)));
        for (path, bytes) in all {
            let path = root.join(path);
            path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, bytes)).map_err(words)?;
        }
        fs::create_dir_all(root.join("state")).map_err(words)?;
        Host::new(root, &self.scratch.path().join("disk.img"), self.loader)
    }
}

/// The daemon's own look at a folder.
struct Host {
    root: PathBuf,
    world: World,
    ground: Ground,
}

impl Host {
    fn new(root: PathBuf, disk: &Path, loader: Loader) -> Result<Self, String> {
        let (name, at) = (loader.name(), root.display());
        let place = match loader {
            Loader::GrubBios => format!("boot.grub.env = \"{at}/esp/grub/grubenv\"\n"),
            Loader::SystemdBoot | Loader::SystemdBootVerity => format!(
                "boot.systemd-boot.esp = \"{at}/esp\"\nboot.systemd-boot.prefix = \"{ENTRY_PREFIX}\"\ndisk.esp = \"/esp\"\n\
                 slots.a.entry = \"esp:/ota/{{slot}}.entry\"\nslots.b.entry = \"esp:/ota/{{slot}}.entry\"\n"
            ),
        };
        let text = format!(
            "state_dir = \"{at}/state\"\nsysroot = \"{at}\"\nserver.app_id = \"x\"\ndisk.device = \"{}\"\n\
             slots.a.root = \"partlabel:root-a\"\nslots.b.root = \"partlabel:root-b\"\nboot.control = \"{name}\"\n{place}",
            disk.display()
        );
        let settings = parse(&[Source::new("cut.toml", text)]).map_err(|problems| format!("{problems:?}"))?;
        let records = Records::of(&settings.state_dir);
        let world = World::new(Arc::new(settings), records);
        let ground = world.ground_for_marks().map_err(|fault| fault.to_string())?;
        Ok(Self { root, world, ground })
    }

    fn esp(&self) -> PathBuf {
        self.root.join("esp")
    }

    fn control(&self) -> Result<Box<dyn BootControl>, String> {
        self.world.boot_control(&self.ground.disk).map_err(|fault| fault.to_string())
    }

    fn read(&self) -> Result<BootState, String> {
        self.control()?.read().map_err(|error| format!("the daemon cannot read it: {}", chain(&error)))
    }

    fn make(&self, change: Change) -> Result<BootState, BootError> {
        let Ground { disk, running } = &self.ground;
        let mut control = self.control().map_err(BootError::Unsuitable)?;
        match change {
            Change::Disarm => control.disarm(disk.inactive(running), running),
            Change::MarkGood => control.mark_good(running),
            Change::MarkBad => control.mark_bad(running),
        }
    }
}

fn table_of(state: &BootState) -> Result<BootTable, String> {
    boot_table(state).map_err(|fault| fault.to_string())
}

fn check_agrees(state: &BootState, table: &BootTable, found: &[Candidate]) -> Result<(), String> {
    if let Some(weakness) = &state.weakness {
        return Err(format!("the daemon finds it weak: {weakness}"));
    }
    let first = found.first().map(|first| first.slot);
    if first != Some(letter(table.next)) {
        return Err(format!("the daemon says that {} is next, the loader takes {first:?}", letter(table.next)));
    }
    [SlotName::A, SlotName::B].into_iter().try_for_each(|name| {
        let standing = *table.standing.get(name);
        let mut its = found.iter().filter(|candidate| candidate.slot == letter(name)).peekable();
        // While one entry is put in the place of another, both are there, and either says where the change leads.
        let agrees =
            if its.peek().is_none() { !standing.is_bootable() } else { its.any(|candidate| stands(candidate, standing)) };
        let all: Vec<_> = found.iter().map(|candidate| (candidate.slot, candidate.tries_left)).collect();
        if agrees {
            Ok(())
        } else {
            Err(format!("the daemon says that {} is {standing:?}, the loader finds {all:?}", letter(name)))
        }
    })
}

fn stands(candidate: &Candidate, standing: Standing) -> bool {
    match candidate.tries_left {
        None => standing.is_good(),
        Some(0) => standing.is_out_of_tries(),
        Some(left) => standing.is_pending() && u32::from(standing.tries_left()) == left,
    }
}

const fn letter(name: SlotName) -> char {
    match name {
        SlotName::A => 'a',
        SlotName::B => 'b',
    }
}

const fn other_than(slot: char) -> char {
    if slot == 'a' { 'b' } else { 'a' }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(loader: Loader) -> Control {
        Control::new(loader, tempfile::tempdir().unwrap()).unwrap()
    }

    fn block(lines: &str) -> EspFile {
        let mut bytes = format!("# GRUB Environment Block\n{lines}").into_bytes();
        bytes.resize(1024, b'#');
        ("grub/grubenv".to_owned(), bytes)
    }

    fn entries(of: &[(&str, u32)]) -> Vec<EspFile> {
        let text = |version| format!("sort-key ota\nversion {version}\ntitle x\nlinux /ota/x.efi\n").into_bytes();
        of.iter().map(|(name, version)| (format!("loader/entries/{name}"), text(version))).collect()
    }

    fn candidate(slot: char, tries_left: Option<u32>) -> Candidate {
        Candidate { slot, tries_left, kernel: None, options: None, entry: None }
    }

    /// The candidates that the checker's own reading finds.
    fn examine(loader: Loader, files: &[EspFile]) -> Result<BootTable, String> {
        let control = control(loader);
        let host = control.host(files, 'a').unwrap();
        let found = candidates(loader, &Folder(&host.esp())).unwrap();
        control.examine(files, &found)
    }

    #[test]
    fn the_states_of_an_update_are_read_alike_and_can_be_changed() {
        let pending = |tries_left| Standing::Pending { tries_left };
        for (lines, next, b) in [
            ("", SlotName::A, Standing::Blank),
            ("ota_primary=a\nota_a=good\n", SlotName::A, Standing::Blank),
            ("ota_primary=a\nota_pending=b\nota_left=3\nota_armed=1\nota_a=good\n", SlotName::B, pending(2)),
            ("ota_primary=a\nota_pending=b\nota_left=1\nota_armed=1\nota_a=good\n", SlotName::A, Standing::Spent),
            ("ota_primary=b\nota_armed=1\nota_b=good\nota_a=good\n", SlotName::B, Standing::Good),
        ] {
            let table = examine(Loader::GrubBios, &[block(lines)]).unwrap_or_else(|why| panic!("{lines}: {why}"));
            assert_eq!((table.next, table.standing.b), (next, b), "{lines}");
        }
        for (of, next, b) in [
            (&[("os-a.conf", 1)][..], SlotName::A, Standing::Blank),
            (&[("os-a.conf", 1), ("os-b+3.conf", 2)], SlotName::B, pending(2)),
            (&[("os-a.conf", 1), ("os-b+1-2.conf", 2)], SlotName::A, Standing::Spent),
            // The name it had on trial is still there.
            (&[("os-a.conf", 1), ("os-b+2-1.conf", 2), ("os-b.conf", 2)], SlotName::B, Standing::Good),
            (&[("os-a.conf", 1), ("os-b.conf", 2)], SlotName::B, Standing::Good),
        ] {
            let table = examine(Loader::SystemdBoot, &entries(of)).unwrap_or_else(|why| panic!("{of:?}: {why}"));
            assert_eq!((table.next, table.standing.b), (next, b), "{of:?}");
        }
    }

    #[test]
    fn a_block_that_is_damaged_is_found_whether_its_copy_helps_or_not() {
        let copy = ("grub/grubenv.ota".to_owned(), block("ota_primary=a\nota_a=good\n").1);
        let damaged = ("grub/grubenv".to_owned(), Vec::new());
        let why = examine(Loader::GrubBios, &[damaged.clone(), copy]).unwrap_err();
        assert!(why.contains("finds it weak"), "{why}");
        let why = examine(Loader::GrubBios, &[damaged]).unwrap_err();
        assert!(why.contains("cannot read it"), "{why}");
    }

    #[test]
    fn a_reading_that_differs_from_the_loaders_is_found() {
        let control = control(Loader::GrubBios);
        let files = [block("ota_primary=a\nota_pending=b\nota_left=3\nota_armed=1\nota_a=good\n")];
        let why = |found: &[Candidate]| control.examine(&files, found).unwrap_err();
        assert!(why(&[candidate('a', None)]).contains("b is next"));
        assert!(why(&[candidate('b', Some(2)), candidate('a', None)]).contains("b is Pending"));
        assert!(why(&[candidate('b', Some(3))]).contains("a is Good"));
        assert!(why(&[]).contains("nothing to start"));
    }
}
