//! `autoboot.txt` on its file system: lock, read, ask the firmware, decide, write in place.

use std::path::PathBuf;

use super::autoboot::{Autoboot, AutobootError, FILE_BYTES, MAX_FILE_BYTES, padded};
use super::firmware::Booted;
use super::spelling;
use crate::boot::held::{self, Held};
use crate::boot::pair::{Loaded, Pair, PairStore, Rewrite};
use crate::boot::{BootError, Standing, Weakness};
use crate::slot::SlotName;
use crate::slot::buffer::AlignedBuf;
use crate::slot::medium::Access;

/// `autoboot.txt`, and what the firmware says of the present boot.
#[derive(Debug)]
pub(crate) struct AutobootFile {
    path: PathBuf,
    root: PathBuf,
    slots: [SlotName; 2],
    partitions: [u32; 2],
}

/// As it was found.
struct Found {
    bytes: Vec<u8>,
    file: Autoboot,
    loaded: Loaded,
    booted: Option<Booted>,
}

impl AutobootFile {
    /// The file at `path`, which names these partitions for the slots; the device tree is looked up below `root`. Reads nothing yet.
    pub(crate) const fn new(path: PathBuf, root: PathBuf, slots: [SlotName; 2], partitions: [u32; 2]) -> Self {
        Self { path, root, slots, partitions }
    }

    fn find(&self, file: &Held) -> Result<Found, BootError> {
        let bytes = read(file)?;
        let parsed = Autoboot::parse(&bytes).map_err(|error| self.malformed(&error))?;
        let booted = Booted::read(&self.root)?;
        let mut pair = spelling::read(&parsed, &self.slots, self.partitions)?;
        if let Some((slot, true)) = self.started(booted) {
            note_try(&mut pair.slots[slot].1);
        }
        let weakness = (!parsed.tryboot_a_b).then(|| {
            Weakness::until_next_change(format!(
                "{} does not say tryboot_a_b=1: a boot with the flag would read tryboot.txt in place of config.txt",
                self.path.display()
            ))
        });
        Ok(Found { bytes, file: parsed, loaded: Loaded { weakness, ..pair.into() }, booted })
    }

    /// The slot that the firmware says it started, and whether that was with the flag.
    fn started(&self, booted: Option<Booted>) -> Option<(usize, bool)> {
        let booted = booted?;
        let slot = self.partitions.iter().position(|partition| *partition == booted.partition)?;
        Some((slot, booted.tryboot))
    }

    /// What runs is neither written over nor armed, whatever the slots are said to be.
    fn check_started(&self, before: &Pair, after: &Pair, booted: Option<Booted>) -> Result<(), BootError> {
        let Some((slot, _)) = self.started(booted) else { return Ok(()) };
        let name = &self.slots[slot];
        let standing = after.standing(name);
        let is_given_up = standing.is_blank() && after.primary != *name;
        let is_armed = standing.is_pending() && !before.standing(name).is_pending();
        if !is_given_up && !is_armed {
            return Ok(());
        }
        Err(BootError::Unsuitable(format!(
            "the firmware started partition {}, which is that of slot {name}: expected the other slot to be disarmed or armed (are the \
             partitions of [boot.rpi-tryboot] the wrong way round?)",
            self.partitions[slot]
        )))
    }

    fn malformed(&self, error: &AutobootError) -> BootError {
        BootError::Malformed { path: self.path.clone(), why: error.to_string() }
    }
}

impl PairStore for AutobootFile {
    fn kind(&self) -> &'static str {
        "rpi-tryboot"
    }

    fn load(&self) -> Result<Loaded, BootError> {
        Ok(self.find(&held::open(&self.path, Access::Read)?)?.loaded)
    }

    fn edit(&self, rewrite: Rewrite, decide: &mut dyn FnMut(&Loaded) -> Result<Pair, BootError>) -> Result<Pair, BootError> {
        let file = held::open(&self.path, Access::Write)?;
        let found = self.find(&file)?;
        let pair = decide(&found.loaded)?;
        self.check_started(&found.loaded.pair, &pair, found.booted)?;
        let mut wanted = found.file.clone();
        spelling::write(&mut wanted, &pair, self.partitions);
        if rewrite == Rewrite::Always || wanted != found.file {
            for step in steps(&found.bytes, &wanted).map_err(|error| self.malformed(&error))? {
                write(&file, &step).map_err(|source| held::interrupted(&self.path, source))?;
            }
        }
        Ok(pair)
    }

    fn check_loader(&self) -> Result<(), BootError> {
        let found = self.find(&held::open(&self.path, Access::Read)?)?;
        let Some(booted) = found.booted else { return Ok(()) };
        let path = self.path.display();
        let Some((slot, with_flag)) = self.started(Some(booted)) else {
            let [a, b] = self.partitions;
            return Err(BootError::Unsuitable(format!(
                "the firmware started partition {}, expected {a} (slot {}) or {b} (slot {}): does it read another file than {path}?",
                booted.partition, self.slots[0], self.slots[1]
            )));
        };
        let (name, pair) = (&self.slots[slot], &found.loaded.pair);
        // What was marked bad in this boot is not what the next one starts.
        if with_flag || *name == pair.primary || pair.standing(name) == Standing::Bad {
            return Ok(());
        }
        Err(BootError::Unsuitable(format!(
            "the firmware started partition {} (slot {name}) without the flag, and {path} names slot {}: does it read another file, or was \
             it asked for that partition by its number? A reboot without an argument tells",
            booted.partition, pair.primary
        )))
    }
}

/// The one try of an armed slot is running.
fn note_try(standing: &mut Standing) {
    if standing.is_pending() {
        *standing = Standing::Spent;
    }
}

/// The contents that the file has to have one after the other, each flushed before the next.
fn steps(before: &[u8], wanted: &Autoboot) -> Result<Vec<Vec<u8>>, AutobootError> {
    let length = before.len().max(FILE_BYTES);
    let after = wanted.to_bytes(length)?;
    let grown = if before.len() < length { vec![padded(before, length)?] } else { Vec::new() };
    Ok(grown.into_iter().chain([after]).collect())
}

/// All of the file, from the medium; of one that is too long, as much as tells that.
fn read(file: &Held) -> Result<Vec<u8>, BootError> {
    let io = |source| held::io_error("read", file.path(), source);
    let most = MAX_FILE_BYTES + 1;
    let length = file.size_bytes().map_err(io)?.min(most as u64);
    let length = usize::try_from(length).unwrap_or(most);
    let mut buffer = AlignedBuf::zeroed(most);
    file.read_exact_at(&mut buffer.as_mut_slice()[..length], 0).map_err(io)?;
    Ok(buffer.as_slice()[..length].to_vec())
}

fn write(file: &Held, bytes: &[u8]) -> std::io::Result<()> {
    let mut buffer = AlignedBuf::zeroed(bytes.len());
    buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    file.write_all_at(&buffer.as_slice()[..bytes.len()], 0)?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::BootControl;
    use crate::boot::gpt::fixture::DiskBuilder;
    use crate::boot::pair::{PairControl, every_pair};
    use crate::slot::rig::Rig as DiskRig;

    const DOCUMENTED: &str = "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n";
    const PARTITIONS: [u32; 2] = [2, 3];

    struct Rig {
        folder: tempfile::TempDir,
        file: AutobootFile,
    }

    impl Rig {
        fn new(text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("autoboot.txt");
            std::fs::write(&path, text).unwrap();
            let root = folder.path().join("root");
            let file = AutobootFile::new(path, root, ["a", "b"].map(name), PARTITIONS);
            Self { folder, file }
        }

        /// The device tree of a boot.
        fn booted(&self, tryboot: u32, partition: u32) {
            let folder = self.folder.path().join("root/proc/device-tree/chosen/bootloader");
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("tryboot"), tryboot.to_be_bytes()).unwrap();
            std::fs::write(folder.join("partition"), partition.to_be_bytes()).unwrap();
        }

        /// What the firmware does with a reboot.
        fn boot(&self, tryboot: bool) -> u32 {
            let file = Autoboot::parse(&self.bytes()).unwrap();
            let partition = if tryboot { file.tryboot_partition } else { file.partition }.unwrap();
            self.booted(u32::from(tryboot), partition);
            partition
        }

        fn bytes(&self) -> Vec<u8> {
            std::fs::read(self.folder.path().join("autoboot.txt")).unwrap()
        }

        fn change(&self, verb: impl Fn(Pair) -> Pair) -> Result<Pair, String> {
            let edited = self.file.edit(Rewrite::IfDifferent, &mut |loaded| Ok(verb(loaded.pair.clone())));
            edited.map_err(|error| self.words(&error))
        }

        fn pair(&self) -> Pair {
            self.file.load().unwrap().pair
        }

        fn check(&self) -> Result<(), String> {
            self.file.check_loader().map_err(|error| self.words(&error))
        }

        fn words(&self, error: &BootError) -> String {
            error.to_string().replace(self.folder.path().to_str().unwrap(), "/dir")
        }
    }

    fn name(text: &str) -> SlotName {
        text.parse().unwrap()
    }

    #[test]
    fn an_update_that_is_tried_and_healthy_is_started_from_then_on() {
        let rig = Rig::new(DOCUMENTED);
        let (a, b) = (name("a"), name("b"));
        rig.booted(0, 2);
        rig.change(|pair| pair.disarm(&b, &a)).unwrap();
        assert_eq!(rig.boot(true), 2, "a slot that is being written is not started by the flag, either");
        rig.booted(0, 2);
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        assert_eq!((rig.pair().standing(&b), rig.pair().next()), (Standing::Pending { tries_left: 1 }, &b));
        assert_eq!(rig.boot(true), 3);
        assert_eq!((rig.pair().standing(&b), rig.pair().next()), (Standing::Spent, &a), "its one try is running");
        rig.change(|pair| pair.mark_good(&b)).unwrap();
        assert_eq!((rig.boot(false), rig.pair().standing(&b)), (3, Standing::Good));
        assert_eq!(rig.boot(true), 3, "nothing is armed");
    }

    #[test]
    fn an_armed_slot_is_not_started_by_a_reboot_without_the_argument_and_is_not_taken_for_tried() {
        let rig = Rig::new(DOCUMENTED);
        let (a, b) = (name("a"), name("b"));
        rig.booted(0, 2);
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        assert_eq!(rig.boot(false), 2);
        assert_eq!(rig.pair().standing(&b), Standing::Pending { tries_left: 1 });
    }

    #[test]
    fn what_was_written_down_while_it_was_tried_is_known_in_later_boots() {
        let rig = Rig::new(DOCUMENTED);
        let (a, b) = (name("a"), name("b"));
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        rig.boot(true);
        rig.change(|pair| pair).unwrap();
        assert_eq!(rig.boot(false), 2);
        assert_eq!(rig.pair().standing(&b), Standing::Spent);
        assert_eq!(rig.boot(true), 2, "it has no second try");
        rig.booted(1, 3);
        rig.change(|pair| pair.mark_bad(&b)).unwrap();
        rig.boot(false);
        assert_eq!((rig.pair().standing(&b), rig.pair().next()), (Standing::Bad, &a));
    }

    #[test]
    fn without_a_device_tree_a_slot_on_trial_stays_what_the_file_says() {
        let rig = Rig::new(DOCUMENTED);
        rig.change(|pair| pair.arm(&name("b"), &name("a"))).unwrap();
        assert_eq!(rig.pair().standing(&name("b")), Standing::Pending { tries_left: 1 });
        rig.check().unwrap();
    }

    #[test]
    fn partitions_that_are_configured_the_wrong_way_round_are_found_out_before_a_byte_is_written() {
        let rig = Rig::new(DOCUMENTED);
        let (a, b) = (name("a"), name("b"));
        // Partition 2 was started, which the configuration calls that of slot a; and the disk says that slot b runs.
        rig.booted(0, 2);
        let refused = "the firmware started partition 2, which is that of slot a: expected the other slot to be disarmed or armed (are the \
                       partitions of [boot.rpi-tryboot] the wrong way round?)";
        assert_eq!(rig.change(|pair| pair.disarm(&a, &b)).unwrap_err(), refused);
        assert_eq!(rig.change(|pair| pair.arm(&a, &b)).unwrap_err(), refused);
        assert_eq!(rig.bytes(), DOCUMENTED.as_bytes());
        rig.change(|pair| pair).unwrap();
    }

    #[test]
    fn a_firmware_that_starts_something_else_is_found_out_before_a_download() {
        let rig = Rig::new(DOCUMENTED);
        rig.booted(0, 1);
        assert_eq!(
            rig.check().unwrap_err(),
            "the firmware started partition 1, expected 2 (slot a) or 3 (slot b): does it read another file than /dir/autoboot.txt?"
        );
        rig.booted(0, 3);
        assert_eq!(
            rig.check().unwrap_err(),
            "the firmware started partition 3 (slot b) without the flag, and /dir/autoboot.txt names slot a: does it read another file, or \
             was it asked for that partition by its number? A reboot without an argument tells"
        );
        rig.booted(1, 3);
        rig.check().unwrap();
        rig.booted(0, 2);
        rig.check().unwrap();
        let both_good = |pair: Pair| pair.mark_good(&name("a")).mark_good(&name("b"));
        rig.change(|pair| both_good(pair).mark_bad(&name("a"))).unwrap();
        rig.check().unwrap();
    }

    #[test]
    fn a_file_without_tryboot_a_b_is_a_weakness_that_any_change_mends() {
        let rig = Rig::new("boot_partition=2\n");
        let weakness = rig.file.load().unwrap().weakness.unwrap().to_string();
        assert!(
            weakness.contains(
                "/autoboot.txt does not say tryboot_a_b=1: a boot with the flag would read tryboot.txt in place of config.txt"
            ),
            "{weakness}"
        );
        rig.change(|pair| pair).unwrap();
        assert_eq!(rig.file.load().unwrap().weakness, None);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_with_words_and_stays() {
        let long = format!("{DOCUMENTED}# {}\n", "x".repeat(440));
        let cases = [
            ("[pi5]\n", "/dir/autoboot.txt: line 1: expected [all], [none] or [tryboot], got \"[pi5]\""),
            ("", "autoboot.txt: expected boot_partition=2 (slot a) or 3 (slot b) in [all], got none"),
            (
                long.as_str(),
                "/dir/autoboot.txt: the lines take 545 bytes, expected at most 507: lines of others have to be removed",
            ),
        ];
        for (text, words) in cases {
            let rig = Rig::new(text);
            assert_eq!(rig.change(|pair| pair.arm(&name("b"), &name("a"))).unwrap_err(), words);
            assert_eq!(rig.bytes(), text.as_bytes());
        }
        let rig = Rig::new(&"#".repeat(4000));
        let words = rig.change(|pair| pair).unwrap_err();
        assert_eq!(words, "/dir/autoboot.txt: expected at most 512 bytes, which is what the firmware reads, got 513");
        std::fs::remove_file(rig.folder.path().join("autoboot.txt")).unwrap();
        assert_eq!(rig.change(|pair| pair).unwrap_err(), "cannot open /dir/autoboot.txt");
        assert!(!rig.folder.path().join("autoboot.txt").exists(), "it is never made");
    }

    #[test]
    fn a_change_keeps_the_length_of_the_file_and_doing_it_again_changes_nothing() {
        let rig = Rig::new(DOCUMENTED);
        let (a, b) = (name("a"), name("b"));
        let mut length = None;
        for _ in 0..3 {
            rig.change(|pair| pair.arm(&b, &a)).unwrap();
            let armed = rig.bytes();
            rig.change(|pair| pair.arm(&b, &a)).unwrap();
            assert_eq!(rig.bytes(), armed);
            rig.change(|pair| pair.disarm(&b, &a)).unwrap();
            assert_eq!(*length.get_or_insert(armed.len()), rig.bytes().len());
        }
        assert_eq!(length, Some(FILE_BYTES));
    }

    #[test]
    fn the_self_test_says_what_the_firmware_started_and_a_trial_ends_well() {
        let rig = Rig::new(DOCUMENTED);
        let (a, b) = (name("a"), name("b"));
        let disk_rig = DiskRig::new(&DiskBuilder::new(512), 1);
        let store = AutobootFile::new(rig.file.path.clone(), rig.file.root.clone(), rig.file.slots.clone(), PARTITIONS);
        let mut control = PairControl::new(&disk_rig.disk(), store);
        rig.booted(0, 4);
        assert!(
            control.self_test().unwrap_err().to_string().starts_with("the firmware started partition 4, expected 2 (slot a)")
        );
        assert_eq!(rig.bytes(), DOCUMENTED.as_bytes());
        rig.booted(0, 2);
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        rig.boot(true);
        let trial = control.self_test().unwrap();
        assert_eq!((control.kind(), trial.tries, trial.standing(&b)), ("rpi-tryboot", 1, Some(Standing::Spent)));
        assert_eq!(trial, control.read().unwrap());
        let good = control.mark_good(&disk_rig.running()).unwrap();
        assert_eq!((good.next, control.renew(&disk_rig.running()).unwrap().standing(&b)), (b, Some(Standing::Good)));
    }

    /// Every state after a power cut: each write is one sector, which is there or not; the length of a file that grows is recorded
    /// elsewhere, before it or after it, and what was never written is zero.
    fn crash_states(before: &[u8], steps: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut durable = before.to_vec();
        let mut states = vec![durable.clone()];
        for step in steps {
            assert!(step.len() <= MAX_FILE_BYTES && step.len() >= durable.len());
            states.push(step[..durable.len()].to_vec());
            durable.resize(step.len(), 0);
            states.push(durable);
            durable = step.clone();
            states.push(durable.clone());
        }
        states
    }

    /// Bad states, and all.
    fn bad_states(steps: impl Fn(&[u8], &Autoboot) -> Vec<Vec<u8>>) -> (usize, usize) {
        let slots = ["a", "b"].map(name);
        let read = |bytes: &[u8]| {
            let file = Autoboot::parse(bytes).ok()?;
            let started = (file.partition, file.tryboot_partition);
            Some((spelling::read(&file, &slots, PARTITIONS).ok()?, started))
        };
        let pairs = every_pair(spelling::TRIES);
        let (mut bad, mut all) = (0, 0);
        for before in &pairs {
            for after in &pairs {
                let mut file = Autoboot::parse(b"# note\n").unwrap();
                spelling::write(&mut file, before, PARTITIONS);
                let full = file.to_bytes(FILE_BYTES).unwrap();
                let short = full[..=full.windows(3).position(|three| three == b"\n##").unwrap()].to_vec();
                for bytes in [full, short] {
                    spelling::write(&mut file, after, PARTITIONS);
                    let states = crash_states(&bytes, &steps(&bytes, &file));
                    let allowed = [read(&bytes), read(states.last().unwrap())];
                    assert_eq!(allowed[1].as_ref().map(|(pair, _)| pair), Some(after));
                    bad += states.iter().filter(|state| !allowed.contains(&read(state))).count();
                    all += states.len();
                }
            }
        }
        (bad, all)
    }

    #[test]
    fn p1_every_crash_state_reads_as_before_or_as_after() {
        let (bad, all) = bad_states(|before, wanted| steps(before, wanted).unwrap());
        println!("autoboot.txt: {all} crash states, {bad} bad");
        assert_eq!(bad, 0);
        assert!(all > 1000, "{all}");
    }

    #[test]
    fn the_same_check_catches_a_writer_that_grows_the_file_and_changes_it_at_once() {
        let (bad, all) = bad_states(|before, wanted| vec![wanted.to_bytes(before.len().max(FILE_BYTES)).unwrap()]);
        println!("autoboot.txt, planted writer: {bad} of {all} crash states bad");
        assert!(bad > 0);
    }

    #[test]
    fn a_change_of_a_short_file_is_written_as_planned() {
        let rig = Rig::new(DOCUMENTED);
        let (a, b) = (name("a"), name("b"));
        let mut wanted = Autoboot::parse(DOCUMENTED.as_bytes()).unwrap();
        spelling::write(&mut wanted, &rig.pair().arm(&b, &a), PARTITIONS);
        let planned = steps(DOCUMENTED.as_bytes(), &wanted).unwrap();
        assert_eq!(planned.len(), 2);
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        assert_eq!(rig.bytes(), *planned.last().unwrap());
    }
}
