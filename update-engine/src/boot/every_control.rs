//! The rules of boot control, held against every store that spells a pair, and the partition table, each as the configuration opens it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::custom;
use super::efi::variables::tests::entry;
use super::efi::variables::{GLOBAL_VENDOR, Variable};
use super::grub::Block;
use super::uboot::{Environment, Layout, Stored};
use super::{BootControl, BootError, Permit, Standing};
use crate::config::{Source, parse};
use crate::records::Records;
use crate::slot::rig::{Rig, name, proven};
use crate::world::World;

/// What each is told in the configuration, where `@` is its folder.
const CONTROLS: [(&str, &str); 8] = [
    ("gpt", ""),
    ("grub", "boot.grub.env = \"@/grubenv\""),
    ("grub", "boot.grub = { env = \"@/grubenv\", variables = \"rauc\" }"),
    (
        "systemd-boot",
        "boot.systemd-boot.esp = \"@/esp\"\ndisk.esp = \"/esp\"\n\
         slots.a.entry = \"esp:/ota/{slot}.entry\"\nslots.b.entry = \"esp:/ota/{slot}.entry\"",
    ),
    ("u-boot", "boot.u-boot.config = \"@/fw_env.config\""),
    ("efi", "boot.efi.efivars = \"@/efivars\""),
    (
        "rpi-tryboot",
        "boot.rpi-tryboot.autoboot = \"@/autoboot.txt\"\n\
         reboot.command = [\"systemctl\", \"reboot\", \"--reboot-argument=0 tryboot\"]",
    ),
    ("custom", "boot.custom = { program = \"@/custom/program\", tries = 2 }"),
];

/// A factory disk: slot a runs.
struct Host {
    rig: Rig,
    world: World,
}

impl Host {
    fn new((control, keys): (&str, &str)) -> Self {
        let rig = Rig::with_slots_of(8);
        let folder = rig.folder.path();
        lay_out(folder);
        let text = format!(
            "state_dir = \"@/state\"\nsysroot = \"@\"\nserver.app_id = \"x\"\ndisk.device = \"@/disk.img\"\n\
             slots.a.root = \"partlabel:root-a\"\nslots.b.root = \"partlabel:root-b\"\nboot.control = \"{control}\"\n{keys}\n"
        );
        let settings = parse(&[Source::new("test", text.replace('@', &folder.display().to_string()))]).unwrap();
        let records = Records::open(&settings.state_dir).unwrap();
        Self { world: World::new(Arc::new(settings), records), rig }
    }

    fn control(&self) -> Box<dyn BootControl> {
        self.world.boot_control(&self.rig.disk()).unwrap()
    }

    /// Slot b is started, by a firmware that takes its one try for it.
    fn boot_b(&self) {
        self.rig.boot(1);
        let folder = self.rig.folder.path();
        let _not_there = fs::remove_file(variable(folder, "BootNext"));
        put_variable(folder, "BootCurrent", &[7, 0]);
        put_tree(folder, 1, 3);
    }

    fn arm_b(&self) -> Result<super::BootState, BootError> {
        let (disk, running) = (self.rig.disk(), self.rig.running());
        self.control().arm(proven(&disk, &running), Permit::no_lock_configured(), &running)
    }
}

/// What a factory leaves for each loader.
fn lay_out(folder: &Path) {
    let mut block = Block::empty();
    [("ota_loader", "1"), ("ORDER", "A B"), ("A_OK", "1"), ("A_TRY", "0")]
        .iter()
        .for_each(|(name, value)| block.set(name, value));
    fs::write(folder.join("grubenv"), block.to_bytes().unwrap()).unwrap();

    for below in ["esp/loader/entries", "esp/ota"] {
        fs::create_dir_all(folder.join(below)).unwrap();
    }
    for slot in ["a", "b"] {
        fs::write(folder.join(format!("esp/ota/{slot}.entry")), format!("linux /ota/{slot}.efi\n")).unwrap();
    }
    fs::write(folder.join("esp/loader/entries/os-a.conf"), "sort-key ota\nversion 1\nlinux /ota/a.efi\n").unwrap();

    let mut environment = Environment::default();
    environment.set("ota_loader", "1");
    let bytes = Stored { flags: 0, environment }.to_bytes(Layout::Single, 0x1000).unwrap();
    fs::write(folder.join("uboot.env"), bytes).unwrap();
    fs::write(folder.join("fw_env.config"), format!("{}/uboot.env 0 1000\n", folder.display())).unwrap();

    fs::create_dir(folder.join("efivars")).unwrap();
    for (name, description) in [("Boot0002", "ota-a"), ("Boot0007", "ota-b")] {
        put_variable(folder, name, &entry(true, description));
    }
    put_variable(folder, "BootOrder", &[2, 0, 7, 0]);
    put_variable(folder, "BootCurrent", &[2, 0]);

    fs::write(folder.join("autoboot.txt"), "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n").unwrap();
    put_tree(folder, 0, 2);

    fs::create_dir(folder.join("custom")).unwrap();
    custom::control::tests::lay_out(&folder.join("custom"));
}

fn variable(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("efivars/{name}-{GLOBAL_VENDOR}"))
}

fn put_variable(folder: &Path, name: &str, data: &[u8]) {
    fs::write(variable(folder, name), Variable { attributes: 7, data: data.to_vec() }.to_bytes()).unwrap();
}

/// What the firmware of a Raspberry Pi says of a boot.
fn put_tree(folder: &Path, tryboot: u32, partition: u32) {
    let chosen = folder.join("proc/device-tree/chosen/bootloader");
    fs::create_dir_all(&chosen).unwrap();
    fs::write(chosen.join("tryboot"), tryboot.to_be_bytes()).unwrap();
    fs::write(chosen.join("partition"), partition.to_be_bytes()).unwrap();
}

fn is_refused<T: std::fmt::Debug>(result: Result<T, BootError>, wanted: &str) -> bool {
    matches!(&result, Err(BootError::Refused { verb, .. }) if *verb == wanted)
}

#[test]
fn rules_r1_r6_r7_and_r8_hold_for_every_control() {
    let (a, b) = (name("a"), name("b"));
    for of in CONTROLS {
        let host = Host::new(of);
        let runs_a = host.rig.running();
        let fenced = host.control().disarm(&b, &runs_a).unwrap();
        assert_eq!((fenced.standing(&a), fenced.standing(&b)), (Some(Standing::Good), Some(Standing::Blank)), "R8: {of:?}");
        assert_eq!(host.control().disarm(&b, &runs_a).unwrap(), fenced, "R7: {of:?}");
        let armed = host.arm_b().unwrap();
        assert!(armed.standing(&b).is_some_and(Standing::is_pending) && armed.next == b, "{of:?}: {armed:?}");
        assert!(armed.standing(&a).is_some_and(Standing::is_good), "R6: {of:?}");
        assert_eq!(host.arm_b().unwrap(), armed, "R7: {of:?}");
        assert!(is_refused(host.control().mark_good(&runs_a), "mark good"), "R1: {of:?}");
        assert!(is_refused(host.control().disarm(&a, &runs_a), "disarm"), "R6: {of:?}");
        assert_eq!(host.control().read().unwrap(), armed, "what is refused changes nothing: {of:?}");

        // What other loaders take of its tries changes nothing here.
        host.boot_b();
        let runs_b = host.rig.running();
        assert!(is_refused(host.control().disarm(&a, &runs_b), "disarm"), "R6: {of:?}");
        let kept = host.control().mark_good(&runs_b).unwrap();
        assert_eq!((kept.standing(&a), kept.standing(&b)), (Some(Standing::Good), Some(Standing::Good)), "{of:?}");
        assert_eq!(kept.next, b, "{of:?}");
        assert_eq!(host.control().mark_good(&runs_b).unwrap(), kept, "R7: {of:?}");
        let left = host.control().mark_bad(&runs_b).unwrap();
        assert_eq!((left.standing(&b), &left.next), (Some(Standing::Bad), &a), "{of:?}");
        assert_eq!(host.control().mark_bad(&runs_b).unwrap(), left, "R7: {of:?}");
    }
}

/// RAUC's script counts the boot of the only slot that is good, and would start none in the next one.
#[test]
fn the_boot_table_is_known_as_it_is_after_a_good_slot_got_its_try_back() {
    let host = Host::new(CONTROLS[2]);
    let env = host.rig.folder.path().join("grubenv");
    let mut block = Block::parse(&fs::read(&env).unwrap()).unwrap();
    block.set("A_TRY", "1");
    fs::write(&env, block.to_bytes().unwrap()).unwrap();
    let facts = host.world.look(None);
    assert!(facts.boot.as_ref().unwrap().weakness.is_some());
    let renewed = host.world.renew(&facts).unwrap().unwrap();
    assert_eq!((renewed.weakness.as_ref(), renewed.next.to_string()), (None, "a".to_owned()));
    assert_eq!(Some(renewed), host.world.look(None).boot);
}
