//! The variables on the machine: entries found by their descriptions, one change as its writes in order.

use std::path::PathBuf;

use super::efivarfs::{Efivarfs, Ours};
use super::nvram::{Nvram, Step};
use super::variables::{EntryNumber, LoadOption, Memory, VariableError, order_to_bytes, parse_order};
use crate::boot::pair::{Loaded, Pair, PairStore, Rewrite};
use crate::boot::{BootError, held};
use crate::slot::SlotName;
use crate::slot::medium::Access;

/// Most entries that an error names.
const MAX_SHOWN: usize = 8;

/// The firmware's boot entries of two slots.
#[derive(Debug)]
pub(crate) struct EfiBoot {
    vars: Efivarfs,
    /// Descriptions of the entries, in the order of the slots.
    descriptions: [String; 2],
    slots: [SlotName; 2],
    running: Option<SlotName>,
}

impl EfiBoot {
    /// Variables in this folder; the slot that runs, if that is known. Reads nothing yet.
    pub(crate) const fn new(folder: PathBuf, descriptions: [String; 2], slots: [SlotName; 2], running: Option<SlotName>) -> Self {
        Self { vars: Efivarfs::new(folder), descriptions, slots, running }
    }

    fn nvram(&self) -> Result<Nvram, BootError> {
        let entries = self.vars.entries()?;
        let malformed = |variable: Ours, error: VariableError, hint: &str| BootError::Malformed {
            path: self.vars.path(variable),
            why: format!("{error}{hint}"),
        };
        let order = match self.vars.read(Ours::BootOrder)? {
            Some(order) => parse_order(&order.data).map_err(|error| malformed(Ours::BootOrder, error, ""))?,
            None => Vec::new(),
        };
        let next = match self.vars.read(Ours::BootNext)? {
            Some(next) => Some(EntryNumber::parse(&next.data).map_err(|error| malformed(Ours::BootNext, error, ""))?),
            None => None,
        };
        const HINT: &str = " (`chattr -i` and `rm` of it begin anew, with nothing marked)";
        let memory = match self.vars.read(Ours::Memory)? {
            Some(memory) => Some(Memory::parse(&memory.data).map_err(|error| malformed(Ours::Memory, error, HINT))?),
            None => None,
        };
        Ok(Nvram { entries: [self.entry(0, &entries)?, self.entry(1, &entries)?], order, next, memory })
    }

    /// The one entry that the firmware may start and that has a slot's description.
    fn entry(&self, slot: usize, entries: &[(EntryNumber, LoadOption)]) -> Result<EntryNumber, BootError> {
        let (name, wanted) = (&self.slots[slot], &self.descriptions[slot]);
        let found: Vec<_> = entries.iter().filter(|(_, entry)| entry.description == *wanted).collect();
        match found.as_slice() {
            [(number, entry)] if entry.is_active => Ok(*number),
            [(number, _)] => Err(BootError::Unsuitable(format!(
                "the firmware's entry {number} \"{wanted}\" of slot {name} is not active, so that it is never started (`efibootmgr --active --bootnum {:04X}`)",
                number.0
            ))),
            [] => Err(BootError::Unsuitable(format!(
                "expected a boot entry of the firmware with the description \"{wanted}\" for slot {name}, found none (`efibootmgr --create --label {wanted} …` makes one); there are {}",
                shown(entries)
            ))),
            several => Err(BootError::Unsuitable(format!(
                "expected one boot entry of the firmware with the description \"{wanted}\" for slot {name}, found {}: {}",
                several.len(),
                several.iter().take(MAX_SHOWN).map(|(number, _)| number.to_string()).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    fn take(&self, step: &Step) -> Result<(), BootError> {
        match step {
            Step::Order(order) => self.vars.write(Ours::BootOrder, &order_to_bytes(order)),
            Step::Next(number) => self.vars.write(Ours::BootNext, &number.to_bytes()),
            Step::RemoveNext => self.vars.remove_boot_next(),
            Step::Memory(memory) => self.vars.write(Ours::Memory, &memory.to_bytes()),
        }
    }
}

impl PairStore for EfiBoot {
    fn kind(&self) -> &'static str {
        "efi"
    }

    fn load(&self) -> Result<Loaded, BootError> {
        let _held = held::folder(self.vars.folder(), Access::Read)?;
        Ok(self.nvram()?.read(&self.slots, self.running.as_ref()))
    }

    fn edit(&self, rewrite: Rewrite, decide: &mut dyn FnMut(&Loaded) -> Result<Pair, BootError>) -> Result<Pair, BootError> {
        let _held = held::folder(self.vars.folder(), Access::Write)?;
        let nvram = self.nvram()?;
        let pair = decide(&nvram.read(&self.slots, self.running.as_ref()))?;
        let steps = match rewrite {
            Rewrite::IfDifferent => nvram.steps_to(&pair),
            // Firmware that takes one variable takes the others, and those that are not ours wear out for nothing.
            Rewrite::Always => vec![Step::Memory(nvram.memory())],
        };
        steps.iter().try_for_each(|step| self.take(step))?;
        Ok(pair)
    }

    /// The firmware says which entry it started: another one, and it would not go by what is written here.
    fn check_loader(&self) -> Result<(), BootError> {
        let nvram = self.nvram()?;
        let Some(current) = self.vars.boot_current()? else { return Ok(()) };
        let started = nvram.slot_of(current).map(|slot| &self.slots[slot]);
        match (started, &self.running) {
            (None, _) => Err(BootError::Unsuitable(format!(
                "the firmware started {current}, which is the entry of neither slot: does this host boot through something else?"
            ))),
            (Some(started), Some(running)) if started != running => Err(BootError::Unsuitable(format!(
                "the firmware started {current}, the entry of slot {started}, and slot {running} runs: does that entry start the wrong slot, or was slot {running} started by kexec?"
            ))),
            _ => Ok(()),
        }
    }
}

fn shown(entries: &[(EntryNumber, LoadOption)]) -> String {
    let mut shown: Vec<String> =
        entries.iter().take(MAX_SHOWN).map(|(number, entry)| format!("{number} {:?}", entry.description)).collect();
    match entries.len() {
        0 => shown.push("none at all".to_owned()),
        all if all > MAX_SHOWN => shown.push(format!("{} more", all - MAX_SHOWN)),
        _ => {}
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::nvram::tests::firmware_starts;
    use super::super::variables::tests::entry;
    use super::super::variables::{GLOBAL_VENDOR, Mark, Variable};
    use super::*;
    use crate::boot::pair::PairControl;
    use crate::boot::{BootControl as _, Permit, Standing};
    use crate::slot::rig::{Rig, name, proven};
    use crate::world::chain;

    /// A host whose efivarfs is a folder of plain files.
    struct Host {
        disk: Rig,
        vars: tempfile::TempDir,
        running: &'static str,
    }

    const A: EntryNumber = EntryNumber(2);
    const B: EntryNumber = EntryNumber(7);
    const USB: EntryNumber = EntryNumber(0);

    impl Host {
        fn new() -> Self {
            let host = Self { disk: Rig::with_slots_of(8), vars: tempfile::tempdir().unwrap(), running: "a" };
            host.put("Boot0002", &entry(true, "ota-a"));
            host.put("Boot0007", &entry(true, "ota-b"));
            host.put("Boot0000", &entry(true, "UEFI: USB stick"));
            host.put("BootOrder", &order_to_bytes(&[A, B, USB]));
            host.put("BootCurrent", &A.to_bytes());
            host.put("SecureBoot", &[1]);
            host
        }

        fn put(&self, name: &str, data: &[u8]) {
            let variable = Variable { attributes: 7, data: data.to_vec() };
            fs::write(self.vars.path().join(format!("{name}-{GLOBAL_VENDOR}")), variable.to_bytes()).unwrap();
        }

        fn store(&self) -> EfiBoot {
            let slots = [name("a"), name("b")];
            let descriptions = ["ota-a", "ota-b"].map(str::to_owned);
            EfiBoot::new(self.vars.path().to_path_buf(), descriptions, slots, Some(name(self.running)))
        }

        fn control(&self) -> PairControl<EfiBoot> {
            PairControl::new(&self.disk.disk(), self.store())
        }

        fn change(&self, verb: impl Fn(Pair) -> Pair) -> Result<Pair, BootError> {
            self.store().edit(Rewrite::IfDifferent, &mut |loaded| Ok(verb(loaded.pair.clone())))
        }

        /// What the firmware does, on the files.
        fn boots(&mut self, broken: &[EntryNumber]) -> &'static str {
            let mut nvram = self.store().nvram().unwrap();
            let started = firmware_starts(&mut nvram, |number| number != USB && !broken.contains(&number)).unwrap();
            let _gone = fs::remove_file(self.vars.path().join(format!("BootNext-{GLOBAL_VENDOR}")));
            self.put("BootCurrent", &started.to_bytes());
            self.running = if started == A { "a" } else { "b" };
            self.disk.boot(usize::from(started == B));
            self.running
        }

        fn files(&self) -> Vec<(String, Vec<u8>)> {
            let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
            let mut files: Vec<_> = fs::read_dir(self.vars.path()).unwrap().map(|entry| read(entry.unwrap())).collect();
            files.sort();
            files
        }

        fn words(&self) -> String {
            chain(&self.store().load().unwrap_err())
        }
    }

    #[test]
    fn a_whole_update_walks_through_the_variables() {
        let mut host = Host::new();
        let (disk, running) = (host.disk.disk(), host.disk.running());
        let mut control = host.control();
        assert_eq!((control.kind(), control.active().unwrap()), ("efi", name("a")));
        control.self_test().unwrap();
        control.disarm(&name("b"), &running).unwrap();
        let armed = control.arm(proven(&disk, &running), Permit::no_lock_configured(), &running).unwrap();
        assert_eq!((armed.next, armed.tries), (name("b"), 1));
        assert!(matches!(control.mark_good(&running), Err(BootError::Refused { .. })), "R1");

        assert_eq!(host.boots(&[]), "b");
        let mut control = host.control();
        let trial = control.read().unwrap();
        assert_eq!((trial.standing(&name("b")), &trial.next), (Some(Standing::Spent), &name("a")));
        let good = control.mark_good(&host.disk.running()).unwrap();
        assert_eq!((good.standing(&name("b")), &good.next, &good.weakness), (Some(Standing::Good), &name("b"), &None));
        for _ in 0..3 {
            assert_eq!(host.boots(&[]), "b", "an ordinary boot costs nothing");
        }
        assert_eq!(host.boots(&[B]), "a", "one that cannot be started is passed over");
    }

    #[test]
    fn an_update_that_does_not_come_up_is_followed_by_what_ran_before() {
        let mut host = Host::new();
        let (a, b) = (name("a"), name("b"));
        host.change(|pair| pair.disarm(&b, &a)).unwrap();
        host.change(|pair| pair.arm(&b, &a)).unwrap();
        assert_eq!((host.boots(&[]), host.boots(&[])), ("b", "a"), "it hung, and somebody pressed the button");
        let loaded = host.store().load().unwrap();
        assert_eq!((loaded.pair.standing(&b), loaded.pair.next()), (Standing::Spent, &a));
        host.change(|pair| pair.arm(&b, &a)).unwrap();
        assert_eq!((host.boots(&[B]), host.boots(&[])), ("a", "a"), "it could not be started at all");
    }

    #[test]
    fn the_variables_of_others_stay_byte_for_byte_and_the_self_test_writes_ours_alone() {
        let mut host = Host::new();
        let foreign = |host: &Host| -> Vec<_> {
            let ours = |name: &str| ["BootOrder", "BootNext", "BootCurrent", "OtaSlots"].iter().any(|own| name.starts_with(own));
            host.files().into_iter().filter(|(name, _)| !ours(name)).collect()
        };
        let (before, others) = (host.files(), foreign(&host));
        host.control().self_test().unwrap();
        let new: Vec<_> = host.files().into_iter().filter(|file| !before.contains(file)).map(|(name, _)| name).collect();
        assert_eq!(new, ["OtaSlots-442a9750-f701-47fa-8e68-dc93dd7daa4e"]);
        let (a, b) = (name("a"), name("b"));
        host.change(|pair| pair.arm(&b, &a)).unwrap();
        host.boots(&[]);
        host.change(|pair| pair.mark_good(&b)).unwrap();
        host.change(|pair| pair.mark_bad(&b)).unwrap();
        assert_eq!(foreign(&host), others);
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let host = Host::new();
        let (a, b) = (name("a"), name("b"));
        host.change(|pair| pair.arm(&b, &a)).unwrap();
        let written = |host: &Host| -> Vec<_> {
            let time = |entry: fs::DirEntry| entry.metadata().unwrap().modified().unwrap();
            fs::read_dir(host.vars.path()).unwrap().map(|entry| time(entry.unwrap())).collect()
        };
        let before = written(&host);
        std::thread::sleep(std::time::Duration::from_millis(20));
        host.change(|pair| pair.arm(&b, &a)).unwrap();
        assert_eq!(written(&host), before);
    }

    #[test]
    fn every_prefix_of_every_write_to_the_files_is_read_as_the_plan_says() {
        let (a, b) = (name("a"), name("b"));
        type Verb<'a> = &'a dyn Fn(Pair) -> Pair;
        let verbs: [(Verb<'_>, Verb<'_>); 3] = [
            (&|pair| pair.disarm(&b, &a), &|pair| pair.arm(&b, &a)),
            (&|pair| pair.arm(&b, &a), &|pair| pair.disarm(&b, &a)),
            (&|pair| pair.arm(&b, &a).mark_good(&b), &|pair| pair.mark_bad(&b)),
        ];
        for (first, second) in verbs {
            for end in 0.. {
                let host = Host::new();
                host.change(first).unwrap();
                let store = host.store();
                let nvram = store.nvram().unwrap();
                let before = store.load().unwrap().pair;
                let steps = nvram.steps_to(&second(before.clone()));
                if end > steps.len() {
                    break;
                }
                steps[..end].iter().for_each(|step| store.take(step).unwrap());
                let read = store.load().unwrap().pair;
                let after = second(before.clone());
                for (slot, standing) in &read.slots {
                    assert!([before.standing(slot), after.standing(slot)].contains(standing), "{end} of {steps:?}");
                }
                host.change(second).unwrap();
                assert_eq!(store.load().unwrap().pair, after, "{end} of {steps:?}");
            }
        }
    }

    #[test]
    fn entries_that_are_missing_double_or_inactive_are_refused_with_words() {
        let host = Host::new();
        host.put("Boot0007", &entry(false, "ota-b"));
        assert_eq!(
            host.words(),
            "the firmware's entry Boot0007 \"ota-b\" of slot b is not active, so that it is never started (`efibootmgr --active --bootnum 0007`)"
        );
        host.put("Boot0007", &entry(true, "ota-a"));
        assert_eq!(
            host.words(),
            "expected one boot entry of the firmware with the description \"ota-a\" for slot a, found 2: Boot0002, Boot0007"
        );
        host.put("Boot0007", &entry(true, "ota-B"));
        assert_eq!(
            host.words(),
            "expected a boot entry of the firmware with the description \"ota-b\" for slot b, found none (`efibootmgr --create --label ota-b …` makes one); there are Boot0000 \"UEFI: USB stick\", Boot0002 \"ota-a\", Boot0007 \"ota-B\""
        );
        let before = host.files();
        assert!(host.change(|pair| pair.arm(&name("b"), &name("a"))).is_err());
        assert_eq!(host.files(), before);
        for number in 0x20..0x30 {
            host.put(&EntryNumber(number).to_string(), &entry(true, "disk"));
        }
        assert!(host.words().ends_with("Boot0024 \"disk\", 11 more"), "{}", host.words());
    }

    #[test]
    fn variables_that_make_no_sense_are_errors_with_words() {
        let host = Host::new();
        let at = |name: &str| host.vars.path().join(format!("{name}-{GLOBAL_VENDOR}")).display().to_string();
        host.put("BootNext", &[1, 2, 3]);
        assert_eq!(host.words(), format!("{}: expected the number of one boot entry, 2 bytes, got 3 bytes", at("BootNext")));
        host.put("BootOrder", &[1]);
        assert_eq!(host.words(), format!("{}: expected numbers of boot entries of 2 bytes each, got 1 bytes", at("BootOrder")));
        let host = Host::new();
        host.control().self_test().unwrap();
        let path = host.store().vars.path(Ours::Memory);
        let mut bytes = fs::read(&path).unwrap();
        bytes[4 + 7] ^= 1;
        fs::write(&path, bytes).unwrap();
        let words = host.words();
        assert!(words.starts_with(&format!("{}: expected the checksum ", path.display())), "{words}");
        assert!(words.ends_with("it is damaged (`chattr -i` and `rm` of it begin anew, with nothing marked)"), "{words}");
    }

    #[test]
    fn firmware_that_started_something_else_is_found_out_before_a_download() {
        let mut host = Host::new();
        let words = |host: &Host| host.control().self_test().unwrap_err().to_string();
        host.put("BootCurrent", &USB.to_bytes());
        assert_eq!(
            words(&host),
            "the firmware started Boot0000, which is the entry of neither slot: does this host boot through something else?"
        );
        host.put("BootCurrent", &A.to_bytes());
        host.running = "b";
        assert_eq!(
            words(&host),
            "the firmware started Boot0002, the entry of slot a, and slot b runs: does that entry start the wrong slot, or was slot b started by kexec?"
        );
        host.put("BootCurrent", &[2]);
        assert!(words(&host).ends_with("expected the number of one boot entry, 2 bytes, got 1 bytes"));
        fs::remove_file(host.vars.path().join(format!("BootCurrent-{GLOBAL_VENDOR}"))).unwrap();
        host.control().self_test().unwrap();
        let gone = host.vars.path().to_path_buf();
        let store = host.store();
        drop(host);
        let words = chain(&store.load().unwrap_err());
        assert_eq!(words, format!("cannot open {}: No such file or directory (os error 2)", gone.display()));
    }

    #[test]
    fn a_fresh_board_without_an_order_gets_one() {
        let host = Host::new();
        fs::remove_file(host.store().vars.path(Ours::BootOrder)).unwrap();
        let (a, b) = (name("a"), name("b"));
        host.change(|pair| pair.disarm(&b, &a)).unwrap();
        let nvram = host.store().nvram().unwrap();
        assert_eq!((&nvram.order, nvram.memory().marks), (&vec![A], [Mark::Good, Mark::None]));
    }
}
