use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::*;
use crate::boot::gpt::fixture::DiskBuilder;
use crate::boot::pair::{PairControl, TRIES, every_pair};
use crate::boot::{BootControl, Standing};
use crate::slot::rig::Rig as DiskRig;

const SIZE: usize = 0x1000;
/// A disk writes this much as a whole.
const SECTOR: usize = 512;

fn name(text: &str) -> SlotName {
    text.parse().unwrap()
}

fn slots() -> [SlotName; 2] {
    ["a", "b"].map(name)
}

fn names() -> [String; 2] {
    ["A".to_owned(), "B".to_owned()]
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    let mut environment = Environment::default();
    variables.iter().for_each(|(name, value)| environment.set(name, value));
    environment
}

/// An environment in a file of its own, and the file that names its places.
struct Rig {
    folder: tempfile::TempDir,
    env: UBootEnv,
}

impl Rig {
    /// With the lines `CONFIG`, in which `ENV` stands for the file of the environment.
    fn new(config: &str, bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("uboot.env");
        std::fs::write(&path, bytes).unwrap();
        let config = config.replace("ENV", path.to_str().unwrap());
        std::fs::write(folder.path().join("fw_env.config"), config).unwrap();
        let mut env = UBootEnv::new(folder.path().join("fw_env.config"), slots(), names());
        env.lock = folder.path().join("fw_printenv.lock");
        Self { folder, env }
    }

    fn redundant(first: Option<(u8, &Environment)>, second: Option<(u8, &Environment)>) -> Self {
        let copy = |copy: Option<(u8, &Environment)>| match copy {
            Some((flags, environment)) => {
                Stored { flags, environment: environment.clone() }.to_bytes(Layout::Redundant, SIZE).unwrap()
            }
            None => vec![0xFF; SIZE],
        };
        Self::new("# both\nENV 0x0 1000\nENV 0x1000 0x1000\n", &[copy(first), copy(second)].concat())
    }

    fn single(environment: &Environment) -> Self {
        let bytes = Stored { flags: 0, environment: environment.clone() }.to_bytes(Layout::Single, SIZE).unwrap();
        Self::new("ENV 0x200 1000\n", &[vec![0xEE; 0x200], bytes, vec![0xEE; 0x200]].concat())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path("uboot.env")).unwrap()
    }

    fn change(&self, verb: impl Fn(Pair) -> Pair) -> Result<Pair, String> {
        self.env.edit(Rewrite::IfDifferent, &mut |loaded| Ok(verb(loaded.pair.clone()))).map_err(|error| error.to_string())
    }

    fn pair(&self) -> Pair {
        self.env.load().unwrap().pair
    }

    fn words(&self) -> String {
        self.env.load().unwrap_err().to_string()
    }

    fn error_with(config: &str) -> String {
        let rig = Self::new(config, &vec![0; 2 * SIZE]);
        rig.words().replace(rig.folder.path().to_str().unwrap(), "/dir")
    }
}

#[test]
fn an_update_walks_through_both_copies_by_turns() {
    let rig = Rig::redundant(Some((254, &environment(&[("bootdelay", "2")]))), None);
    let (a, b) = (name("a"), name("b"));
    rig.change(|pair| pair.disarm(&b, &a)).unwrap();
    rig.change(|pair| pair.arm(&b, &a)).unwrap();
    assert_eq!(rig.pair().next(), &b);
    rig.change(|pair| pair.boot().1).unwrap();
    assert_eq!(rig.pair().standing(&b), Standing::Pending { tries_left: 2 });
    rig.change(|pair| pair.mark_good(&b)).unwrap();
    assert_eq!((rig.pair().next(), rig.pair().standing(&b)), (&b, Standing::Good));
    let copies = rig.bytes();
    let flags = [0, SIZE].map(|at| Stored::parse(&copies[at..at + SIZE], Layout::Redundant).unwrap().flags);
    assert_eq!(flags, [2, 1], "255 and 0 came before");
    rig.change(|pair| pair.mark_good(&b)).unwrap();
    assert_eq!(rig.bytes(), copies, "done twice is done once");
}

#[test]
fn variables_of_others_and_what_stands_around_the_environment_stay() {
    let others = environment(&[("zz", "1"), ("bootcmd", "run distro_bootcmd"), ("arch", "arm")]);
    let rig = Rig::single(&others);
    let (a, b) = (name("a"), name("b"));
    rig.change(|pair| pair.arm(&b, &a)).unwrap();
    let bytes = rig.bytes();
    assert_eq!(bytes.len(), SIZE + 0x400);
    assert!(bytes[..0x200].iter().chain(&bytes[0x200 + SIZE..]).all(|&byte| byte == 0xEE));
    let text = String::from_utf8_lossy(&bytes[0x204..0x260]).into_owned();
    assert!(text.starts_with("zz=1\0bootcmd=run distro_bootcmd\0arch=arm\0BOOT_A_LEFT=3\0BOOT_B_LEFT=3\0"), "{text:?}");
}

#[test]
fn a_single_copy_is_always_named_as_a_weakness() {
    let rig = Rig::single(&environment(&[("arch", "arm")]));
    rig.change(|pair| pair.mark_good(&name("a"))).unwrap();
    let weakness = rig.env.load().unwrap().weakness.unwrap().to_string();
    assert_eq!(
        weakness.replace(rig.folder.path().to_str().unwrap(), "/dir"),
        "U-Boot's environment has one copy (/dir/uboot.env at 0x200), which a power cut during a change may damage: U-Boot starts with \
         its compiled-in environment then; a redundant one (in U-Boot's configuration, and two lines in /dir/fw_env.config) has no such \
         moment; updates go on, and none of them changes that"
    );
}

#[test]
fn a_damaged_copy_is_named_and_mended_by_the_next_change_even_if_nothing_else_changes() {
    let whole = environment(&[("arch", "arm")]);
    for (copies, damaged) in [([Some((7, &whole)), None], "0x1000"), ([None, Some((7, &whole))], "0x0")] {
        let [first, second] = copies;
        let rig = Rig::redundant(first, second);
        let weakness = rig.env.load().unwrap().weakness.unwrap().to_string();
        assert_eq!(
            weakness.replace(rig.folder.path().to_str().unwrap(), "/dir"),
            format!(
                "the copy of U-Boot's environment in /dir/uboot.env at {damaged} is damaged: expected the CRC ffffffff that it was \
                 stored with, got {:08x}: further damage may leave this host without a boot table; the next update mends it, or says why \
                 it cannot",
                crc32fast::hash(&vec![0xFF; SIZE - 5])
            )
        );
        rig.change(|pair| pair).unwrap();
        assert_eq!(rig.env.load().unwrap().weakness, None);
    }
}

#[test]
fn an_environment_without_a_whole_copy_is_refused_with_words_and_stays() {
    let rig = Rig::redundant(None, None);
    let crc = format!("{:08x}", crc32fast::hash(&vec![0xFF; SIZE - 5]));
    let damaged = format!("expected the CRC ffffffff that it was stored with, got {crc}");
    let expected = format!(
        "/dir/uboot.env: no copy of U-Boot's environment is whole, in /dir/uboot.env at 0x0: {damaged}; in /dir/uboot.env at 0x1000: \
         {damaged}. A new one has to name the slot that runs alone, or the other one may be started, which may be half written: in U-Boot \
         `env default -a; setenv BOOT_ORDER NAME; setenv BOOT_NAME_LEFT 3; saveenv`, with the name of the slot that runs for NAME"
    );
    assert_eq!(rig.words().replace(rig.folder.path().to_str().unwrap(), "/dir"), expected);
    rig.change(|pair| pair).unwrap_err();
    assert_eq!(rig.bytes(), vec![0xFF; 2 * SIZE]);
}

#[test]
fn places_that_cannot_be_used_are_named_with_the_file_that_names_them() {
    assert_eq!(Rig::error_with("# none"), "/dir/fw_env.config: expected a line DEVICE OFFSET SIZE, got none");
    assert_eq!(
        Rig::error_with("ENV 0 1000\nENV 800 1000\n"),
        "/dir/fw_env.config: expected two copies that lie apart, got 0x0 and 0x320 of /dir/uboot.env, with 0x1000 bytes each"
    );
    assert_eq!(
        Rig::error_with("ENV 0x1001 1000\n"),
        "/dir/fw_env.config: expected 0x1000 bytes at offset 4097 of /dir/uboot.env, got an end at 0x2000 bytes"
    );
    assert_eq!(
        Rig::error_with("ENV -0x1000 1000\n"),
        "/dir/fw_env.config: /dir/uboot.env is a file, and the offset -4096 counts from the end of a block device: expected one from the \
         start"
    );
    assert_eq!(
        Rig::error_with("/dev/mtd0 0 1000\n"),
        "/dir/fw_env.config: line 1: /dev/mtd0 is raw flash: expected a block device or a file, as this build does not erase flash"
    );
    assert_eq!(Rig::error_with("/dev/null 0 1000\n"), "cannot open /dev/null");
    assert_eq!(Rig::error_with("ENV.none 0 1000\n"), "cannot open /dir/uboot.env.none");
    let rig = Rig::new("", b"");
    std::fs::write(rig.path("fw_env.config"), b"ab\xFF").unwrap();
    assert!(rig.words().ends_with("fw_env.config: expected text, got something else at byte 2"), "{}", rig.words());
    std::fs::write(rig.path("fw_env.config"), vec![b'#'; 64 * 1024 + 1]).unwrap();
    assert!(rig.words().starts_with("cannot read "), "{}", rig.words());
    std::fs::remove_file(rig.path("fw_env.config")).unwrap();
    assert!(rig.words().starts_with("cannot read "), "{}", rig.words());
}

#[test]
fn an_offset_below_zero_counts_from_the_end_of_a_device() {
    let place = |offset| Place { device: "/dev/mmcblk0".into(), offset };
    assert_eq!(start(&place(-0x2000), 0x1000, 0x10_0000, true), Ok(0xF_E000));
    assert_eq!(start(&place(-0x1000), 0x1000, 0x10_0000, true), Ok(0xF_F000));
    for offset in [-0xFFF, -0x10_0001, i64::MIN, 0xF_F001, i64::MAX] {
        assert_eq!(
            start(&place(offset), 0x1000, 0x10_0000, true).unwrap_err(),
            format!("expected 0x1000 bytes at offset {offset} of /dev/mmcblk0, got an end at 0x100000 bytes")
        );
    }
}

#[test]
fn variables_that_do_not_fit_are_refused_and_nothing_is_written() {
    let long = "x".repeat(SIZE - 30);
    let rig = Rig::redundant(Some((1, &environment(&[("long", &long)]))), None);
    let before = rig.bytes();
    let error = rig.change(|pair| pair.arm(&name("b"), &name("a"))).unwrap_err();
    assert!(error.contains("expected at most 4091, which is what the environment has room for"), "{error}");
    assert_eq!(rig.bytes(), before);
}

#[test]
fn the_lock_of_fw_setenv_is_waited_for_and_a_missing_folder_is_none() {
    let mut rig = Rig::redundant(Some((1, &environment(&[]))), None);
    let other = File::create(&rig.env.lock).unwrap();
    other.lock().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.change(|pair| pair.mark_good(&name("a"))).unwrap());
        thread::sleep(Duration::from_millis(200));
        assert!(!waiting.is_finished(), "the lock is honoured");
        other.unlock().unwrap();
        waiting.join().unwrap();
    });
    rig.env.lock = rig.path("missing/fw_printenv.lock");
    rig.env.load().unwrap();
    rig.env.lock = rig.path("link");
    symlink(rig.path("elsewhere"), &rig.env.lock).unwrap();
    assert_eq!(rig.words(), format!("cannot open {}", rig.env.lock.display()));
    assert!(!rig.path("elsewhere").exists(), "a link is not followed");
    assert_eq!(UBootEnv::new(PathBuf::new(), slots(), names()).lock, Path::new("/var/lock/fw_printenv.lock"));
}

#[test]
fn a_device_that_holds_both_copies_by_two_names_is_locked_once() {
    let bytes = Stored { flags: 1, environment: environment(&[]) }.to_bytes(Layout::Redundant, SIZE).unwrap();
    let rig = Rig::new("ENV 0 1000\nENV.link 0x1000 1000\n", &[bytes, vec![0; SIZE]].concat());
    symlink(rig.path("uboot.env"), rig.path("uboot.env.link")).unwrap();
    rig.change(|pair| pair.mark_good(&name("a"))).unwrap();
    assert_eq!(rig.env.load().unwrap().weakness, None);
}

#[test]
fn a_loader_that_has_not_saved_here_is_found_out_before_a_download() {
    let rig = Rig::single(&environment(&[("arch", "arm")]));
    let error = rig.env.check_loader().unwrap_err().to_string();
    assert_eq!(
        error.replace(rig.folder.path().to_str().unwrap(), "/dir"),
        "the environment in /dir/uboot.env at 0x200 has neither ota_loader (which `dist/u-boot/boot.cmd` sets) nor BOOT_ORDER (which \
         RAUC's scripts set): does U-Boot read another one, or can it not save this one?"
    );
    Rig::single(&environment(&[("ota_loader", "1")])).env.check_loader().unwrap();
    Rig::single(&environment(&[("BOOT_ORDER", "A B")])).env.check_loader().unwrap();
}

#[test]
fn a_good_slot_gets_back_the_tries_that_raucs_scripts_took_and_a_loader_of_ours_costs_no_write() {
    let disk_rig = DiskRig::new(&DiskBuilder::new(512), 0);
    let (disk, running) = (disk_rig.disk(), disk_rig.running());
    let counted = environment(&[("BOOT_ORDER", "A B"), ("BOOT_A_LEFT", "0"), ("BOOT_B_LEFT", "3")]);
    let rig = Rig::redundant(Some((1, &counted)), Some((0, &counted)));
    let store = UBootEnv { lock: rig.env.lock.clone(), ..UBootEnv::new(rig.path("fw_env.config"), slots(), names()) };
    let mut control = PairControl::new(&disk, store);
    assert_eq!((control.kind(), control.active().unwrap()), ("u-boot", name("b")));
    let renewed = control.renew(&running).unwrap();
    assert_eq!((renewed.next, renewed.slots[0].standing), (name("a"), Standing::Good));
    let bytes = rig.bytes();
    control.renew(&running).unwrap();
    assert_eq!(rig.bytes(), bytes);

    control.disarm(&name("b"), &running).unwrap();
    let tested = control.self_test().unwrap();
    assert_eq!((tested.standing(&name("b")), tested.next, tested.weakness), (Some(Standing::Blank), name("a"), None));
    assert!(matches!(control.mark_bad(&running), Err(BootError::Refused { .. })), "nothing else could be started");
}

/// Two copies that remember what was written to them since the last flush.
///
/// Fault model: when power fails, of what was not flushed any subset of 512-byte pieces is on the medium.
struct Recording {
    base: [Vec<u8>; 2],
    layout: Layout,
    written: RefCell<Vec<(usize, Vec<u8>)>>,
    flushes: RefCell<Vec<usize>>,
}

impl Recording {
    fn new(layout: Layout, base: [Vec<u8>; 2]) -> Self {
        Self { base, layout, written: RefCell::default(), flushes: RefCell::default() }
    }

    /// Every state after a power cut during the one write of a change.
    fn crash_states(&self) -> Vec<[Vec<u8>; 2]> {
        let written = self.written.borrow();
        let [(copy, bytes)] = written.as_slice() else { panic!("{} writes, expected one", written.len()) };
        let pieces = bytes.len().div_ceil(SECTOR);
        (0..1_u32 << pieces)
            .map(|survivors| {
                let mut state = self.base.clone();
                for piece in (0..pieces).filter(|piece| survivors >> piece & 1 == 1) {
                    let range = piece * SECTOR..bytes.len().min((piece + 1) * SECTOR);
                    state[*copy][range.clone()].copy_from_slice(&bytes[range]);
                }
                state
            })
            .collect()
    }
}

impl Medium for Recording {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn size_bytes(&self) -> usize {
        self.base[0].len()
    }

    fn read(&self, copy: usize) -> Result<Vec<u8>, BootError> {
        Ok(self.base[copy].clone())
    }

    fn write(&self, copy: usize, bytes: &[u8]) -> io::Result<()> {
        self.written.borrow_mut().push((copy, bytes.to_vec()));
        Ok(())
    }

    fn flush(&self, copy: usize) -> io::Result<()> {
        self.flushes.borrow_mut().push(copy);
        Ok(())
    }

    fn path(&self, _copy: usize) -> &Path {
        Path::new("/dev/recording")
    }

    fn name(&self, copy: usize) -> String {
        format!("copy {copy}")
    }
}

/// An environment that reaches into its last sector, so that each write differs in many.
fn long_environment(pair: &Pair) -> Environment {
    let mut environment = environment(&[("ota_a_first", "1"), ("long", &"x".repeat(2200)), ("last", "1")]);
    variables::write(&mut environment, pair, &names()).unwrap();
    environment
}

fn stored(layout: Layout, flags: u8, pair: &Pair) -> Vec<u8> {
    Stored { flags, environment: long_environment(pair) }.to_bytes(layout, 2560).unwrap()
}

#[test]
fn p1_every_crash_state_of_a_redundant_change_reads_as_before_or_as_after() {
    let env = UBootEnv::new(PathBuf::new(), slots(), names());
    let (pairs, mut total) = (every_pair(TRIES), 0);
    for (index, before) in pairs.iter().enumerate() {
        let older = &pairs[(index + 5) % pairs.len()];
        let after = &pairs[(index + 11) % pairs.len()];
        let layout = Layout::Redundant;
        let current = |flags| stored(layout, flags, before);
        let bases = [
            [current(7), stored(layout, 6, older)],
            [stored(layout, 6, older), current(7)],
            [current(7), vec![0xFF; 2560]],
            [vec![0; 2560], current(7)],
            [current(255), stored(layout, 254, older)],
            [stored(layout, 255, older), current(0)],
            [current(9), stored(layout, 9, older)],
        ];
        for base in bases {
            let medium = Recording::new(layout, base);
            assert_eq!(env.load_from(&medium).unwrap().0.pair, *before);
            env.edit_on(&medium, Rewrite::Always, &mut |_| Ok(after.clone())).unwrap();
            assert_eq!(*medium.flushes.borrow(), [medium.written.borrow()[0].0]);
            let states = medium.crash_states();
            total += states.len();
            for state in &states {
                let read = env.load_from(&Recording::new(layout, state.clone())).unwrap().0.pair;
                assert!(read == *before || read == *after, "{before:?} to {after:?} came to {read:?}");
            }
            let last = Recording::new(layout, states.last().unwrap().clone());
            assert_eq!(env.load_from(&last).unwrap().0, Loaded::from(after.clone()));
        }
    }
    println!("u-boot redundant: {total} crash states, 0 bad");
    assert!(total > 4000, "{total}");
}

#[test]
fn the_same_check_catches_a_writer_of_the_copy_that_counts() {
    let env = UBootEnv::new(PathBuf::new(), slots(), names());
    let (before, after) = (Pair::factory(slots(), TRIES), Pair::factory(slots(), TRIES).arm(&name("b"), &name("a")));
    let older = before.clone().mark_good(&name("b"));
    let medium = Recording::new(Layout::Redundant, [stored(Layout::Redundant, 7, &before), stored(Layout::Redundant, 6, &older)]);
    medium.write(0, &stored(Layout::Redundant, 8, &after)).unwrap();
    let read: Vec<Pair> = medium
        .crash_states()
        .into_iter()
        .map(|state| env.load_from(&Recording::new(Layout::Redundant, state)).unwrap().0.pair)
        .collect();
    assert!(read.contains(&older), "neither before nor after");
}

#[test]
fn a_single_copy_that_is_cut_short_is_damaged_and_never_read_as_anything_else() {
    let env = UBootEnv::new(PathBuf::new(), slots(), names());
    let pairs = every_pair(TRIES);
    let mut damaged = BTreeSet::new();
    for (index, before) in pairs.iter().enumerate() {
        let after = &pairs[(index + 11) % pairs.len()];
        let medium = Recording::new(Layout::Single, [stored(Layout::Single, 0, before), Vec::new()]);
        env.edit_on(&medium, Rewrite::Always, &mut |_| Ok(after.clone())).unwrap();
        for (number, state) in medium.crash_states().into_iter().enumerate() {
            match env.load_from(&Recording::new(Layout::Single, state)) {
                Ok((read, _)) => assert!(read.pair == *before || read.pair == *after),
                Err(error) => {
                    assert!(error.to_string().contains("no copy of U-Boot's environment is whole"), "{error}");
                    damaged.insert((index, number));
                }
            }
        }
    }
    assert!(!damaged.is_empty(), "then it would not be a weakness");
}

fn run(program: &str, rig: &Rig, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).arg("-c").arg(rig.path("fw_env.config")).args(arguments).output().ok()?;
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn libubootenv_reads_what_is_written_here_and_the_other_way_round() {
    let start = environment(&[("arch", "arm"), ("bootcmd", "a=b; c"), ("BOOT_ORDER", "A B")]);
    let redundant = |flags| Rig::redundant(Some((flags, &start)), None);
    if run("fw_printenv", &redundant(1), &["arch"]).is_none() {
        println!("skipped: fw_printenv is not installed (Debian's libubootenv-tool), so nothing is compared with it");
        return;
    }
    let (a, b) = (name("a"), name("b"));
    for rig in [Rig::single(&start), redundant(1), redundant(253), Rig::redundant(Some((0, &start)), Some((255, &start)))] {
        // Changes by turns; `fw_printenv` sees ours, we see those of `fw_setenv`.
        for round in 0..4 {
            rig.change(|pair| pair.disarm(&b, &a)).unwrap();
            rig.change(|pair| pair.arm(&b, &a)).unwrap();
            let listed = run("fw_printenv", &rig, &[]).unwrap();
            let mut lines: Vec<&str> = listed.lines().filter(|line| !line.starts_with("Environment ")).collect();
            lines.sort_unstable();
            let expected = [
                "BOOT_A_LEFT=3",
                "BOOT_B_LEFT=3",
                "BOOT_ORDER=B A",
                "arch=arm",
                "bootcmd=a=b; c",
                "ota_armed=1",
                "ota_pending=B",
            ];
            assert_eq!(
                lines.iter().filter(|line| !line.starts_with("round")).collect::<Vec<_>>(),
                expected.iter().collect::<Vec<_>>()
            );
            run("fw_setenv", &rig, &["BOOT_B_LEFT", "2"]).unwrap();
            run("fw_setenv", &rig, &["round", &round.to_string()]).unwrap();
            assert_eq!(rig.pair().standing(&b), Standing::Pending { tries_left: 2 }, "round {round}");
            rig.change(|pair| pair.mark_bad(&b)).unwrap();
            assert_eq!(run("fw_printenv", &rig, &["-n", "ota_bad"]).unwrap().lines().last(), Some("B"));
            assert_eq!(run("fw_printenv", &rig, &["-n", "round"]).unwrap().lines().last(), Some(round.to_string().as_str()));
        }
    }
}

/// A block device over a file, for as long as it lives.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        output.status.success().then(|| Self(String::from_utf8(output.stdout).unwrap().trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").args(["--detach", &self.0]).status().unwrap();
        assert!(detached.success(), "{} stays attached", self.0);
    }
}

#[test]
fn a_block_device_with_a_copy_at_its_end_is_read_as_libubootenv_reads_it() {
    let start = environment(&[("BOOT_ORDER", "A B")]);
    let copy = Stored { flags: 4, environment: start }.to_bytes(Layout::Redundant, SIZE).unwrap();
    let rig = Rig::new("", &[vec![0; SIZE], copy, vec![0; 6 * SIZE]].concat());
    let Some(device) = Loop::over(&rig.path("uboot.env")) else {
        println!("skipped: a block device over a file cannot be made here (losetup, as root)");
        return;
    };
    std::fs::write(rig.path("fw_env.config"), format!("{0} 0x1000 1000\n{0} -0x2000 1000\n", device.0)).unwrap();
    rig.change(|pair| pair.arm(&name("b"), &name("a"))).unwrap();
    assert_eq!(rig.env.load().unwrap().weakness, None);
    let at_the_end = Stored::parse(&std::fs::read(&device.0).unwrap()[6 * SIZE..7 * SIZE], Layout::Redundant).unwrap();
    assert_eq!((at_the_end.flags, at_the_end.environment.get("ota_pending")), (5, Some(b"B".as_slice())));
    match run("fw_printenv", &rig, &["-n", "ota_pending"]) {
        Some(printed) => assert_eq!(printed.lines().last(), Some("B")),
        None => println!("skipped: fw_printenv is not installed (Debian's libubootenv-tool), so nothing is compared with it"),
    }
}
