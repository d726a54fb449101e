//! The disk of a machine: a partition table, the partition that firmware and loader read, two slots and the state.
//!
//! ```text
//! 1 esp       FAT: the loader, its configuration, its state; the kernels, where the loader finds them nowhere else
//! 2 root-a    3 root-b    the slots
//! 4 state     ext4: the daemon's state and configuration
//! 5 bios      GRUB's own code, where it is started by a BIOS
//! 6 verity-a  7 verity-b  the hash trees of the slots, where the root is behind dm-verity
//! ```

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use manifests::release::SlotName;

use super::initrd;
use super::parts::{KERNEL_OPTIONS, OVMF, Parts, STUB, SYSTEMD_BOOT, output, tool};
use super::tree::give_to_root;
use crate::hostsim::gpt::Gpt;
use crate::rig::{ReleaseImage, tree_of};

/// Room of each slot, where the system is a small one.
pub const SLOT_BYTES: u64 = 96 << 20;
const ESP_BYTES: u64 = 64 << 20;
const STATE_BYTES: u64 = 16 << 20;
const MIB: u64 = 1 << 20;

/// Who starts the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// GRUB, started by a BIOS.
    GrubBios,
    /// systemd-boot, started by UEFI firmware. The kernel and the entry of a slot are files on the ESP.
    SystemdBoot,
    /// The same, with an initrd that opens the root by dm-verity: hash trees have partitions of their own, entries the root hash. The kernel is
    /// a unified image.
    SystemdBootVerity,
}

impl Loader {
    /// Its name in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GrubBios => "grub",
            Self::SystemdBoot | Self::SystemdBootVerity => "systemd-boot",
        }
    }

    /// The images of a release besides `root`, which holds all of it under GRUB.
    #[must_use]
    pub fn more_images(self, parts: &Parts, version: &str, root: &[u8]) -> Vec<ReleaseImage> {
        if self == Self::GrubBios {
            return Vec::new();
        }
        let image = |name, slot, bytes| ReleaseImage { name, slot, bytes };
        let tree = (self == Self::SystemdBootVerity).then(|| tree_of(root));
        let hash = tree.as_ref().map(|tree| tree.root.to_string());
        let entry = |slot| image("entry", Some(slot), entry(version, slot, hash.as_deref()).into_bytes());
        let mut kernel = fs::read(&parts.kernel).unwrap();
        kernel.resize(kernel.len() + padding(version), 0);
        let kernel = image("kernel", None, if self == Self::SystemdBootVerity { unified(&kernel, version) } else { kernel });
        let mut images = vec![kernel, entry(SlotName::A), entry(SlotName::B)];
        if let Some(tree) = tree {
            images.push(image("verity", None, tree.bytes));
            images.push(image("initrd", None, initrd::build(parts)));
        }
        images
    }

    /// What it writes on the console before the kernel of a slot has control, or the kernel first of all.
    #[must_use]
    pub fn words_for(self, slot: &str) -> String {
        match self {
            Self::GrubBios => format!("ota: starting slot {slot}"),
            Self::SystemdBoot | Self::SystemdBootVerity => format!("ota.slot={slot}"),
        }
    }

    /// What a disk with it is made of, besides the parts that every loader needs.
    #[must_use]
    pub fn files(self) -> Vec<PathBuf> {
        let files: &[&str] = match self {
            Self::GrubBios => &["/usr/lib/grub/i386-pc/boot.img", "/usr/lib/grub/i386-pc/kernel.img"],
            Self::SystemdBoot | Self::SystemdBootVerity => &[SYSTEMD_BOOT, OVMF[0], OVMF[1]],
        };
        files.iter().map(PathBuf::from).collect()
    }

    /// The lines of a configuration that are its own.
    #[must_use]
    pub fn config(self) -> String {
        let files = |names: &[&str]| -> String {
            let lines =
                names.iter().flat_map(|name| ["a", "b"].map(|slot| (slot, if *name == "kernel" { "efi" } else { name }, name)));
            lines.map(|(slot, suffix, name)| format!("slots.{slot}.{name} = \"esp:/ota/{{slot}}.{suffix}\"\n")).collect()
        };
        let control = format!("boot.control = \"{}\"\n", self.name());
        let entries = format!("boot.systemd-boot.prefix = \"{ENTRY_PREFIX}\"\n");
        match self {
            Self::GrubBios => control + "boot.grub.env = \"/efi/grub/grubenv\"\n",
            Self::SystemdBoot => control + &entries + &files(&["kernel", "entry"]),
            Self::SystemdBootVerity => {
                let trees = "slots.a.verity = \"partlabel:verity-a\"\nslots.b.verity = \"partlabel:verity-b\"\n";
                control + &entries + trees + &files(&["kernel", "initrd", "entry"])
            }
        }
    }
}

/// What is behind a kernel, and nobody reads: the file that holds it becomes longer and shorter from one version to the next.
fn padding(version: &str) -> usize {
    match version {
        "1.0.0" => 8 << 10,
        "2.0.0" => 16 << 10,
        _ => 0,
    }
}

/// A kernel as a program of the firmware: the stub of systemd, which starts what is in its sections. The command line and the initrd are the
/// entry's.
fn unified(kernel: &[u8], version: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    fs::write(file("linux"), kernel).unwrap();
    fs::write(file("osrel"), format!("ID=guest\nIMAGE_VERSION={version}\n")).unwrap();
    let mut join = tool("objcopy");
    for (section, address) in [("osrel", "0x20000"), ("linux", "0x2000000")] {
        join.arg(format!("--add-section=.{section}={}", file(section).display()));
        join.arg(format!("--change-section-vma=.{section}={address}"));
    }
    output(join.args([Path::new(STUB), &file("unified.efi")])).unwrap();
    fs::read(file("unified.efi")).unwrap()
}

/// How the names of entries begin under systemd-boot.
pub(crate) const ENTRY_PREFIX: &str = "os";

/// Identities of the root partitions: the kernel's command line names them, and it is part of what is signed.
const ROOT_GUIDS: [(&str, &str); 2] =
    [("root-a", "7c1a5a0e-6f5e-4f7a-9c37-0d3f5b1f000a"), ("root-b", "7c1a5a0e-6f5e-4f7a-9c37-0d3f5b1f000b")];

/// A slot's entry, as its publisher writes it. Its command line is shown by the kernel (level 5), which says what was started.
fn entry(version: &str, slot: SlotName, root_hash: Option<&str>) -> String {
    let (_, guid) = ROOT_GUIDS[usize::from(slot == SlotName::B)];
    let (initrd, root) = match root_hash {
        None => (String::new(), format!("root=PARTUUID={guid} ro")),
        Some(hash) => (format!("initrd /ota/{slot}.initrd\n"), format!("ota.roothash={hash}")),
    };
    format!("title {version}\nlinux /ota/{slot}.efi\n{initrd}options ota.slot={slot} {root} loglevel=6 {KERNEL_OPTIONS}\n")
}

/// What GRUB needs before it finds its modules' configuration.
const EARLY_CFG: &str = "search --no-floppy --set=root --label ESP\nset prefix=($root)/grub\nconfigfile ($root)/grub/grub.cfg\n";
const GRUB_CFG: &str = "serial --unit=0 --speed=115200\nterminal_output serial\nset ota_part_a=gpt2\nset ota_part_b=gpt3\n\
source $prefix/ota.cfg\n";
const GRUB_MODULES: [&str; 20] = [
    "biosdisk",
    "part_gpt",
    "fat",
    "ext2",
    "search",
    "search_label",
    "normal",
    "test",
    "loadenv",
    "configfile",
    "linux",
    "linux16",
    "echo",
    "boot",
    "serial",
    "terminal",
    "regexp",
    "probe",
    "sleep",
    "reboot",
];
/// The snippet that is packaged.
const OTA_CFG: &str = include_str!("../../../dist/grub/ota.cfg");

/// Makes a disk whose slot a holds this image; the state partition holds this configuration, if it is kept there.
pub(super) fn make(disk: &Path, loader: Loader, slot_bytes: u64, slot_a: &[ReleaseImage], config: Option<&str>) {
    let dir = tempfile::tempdir().unwrap();
    partition(disk, loader, slot_bytes);
    let table = Gpt::open(disk).unwrap();
    let put = |label: &str, bytes: &[u8]| {
        let at = table.entry(label).unwrap().start;
        File::options().write(true).open(disk).unwrap().write_all_at(bytes, at).unwrap();
    };
    put("root-a", image_of(slot_a, "root"));
    put("state", &state(dir.path(), config));
    match loader {
        Loader::GrubBios => {
            put("esp", &esp_of_grub(dir.path()));
            let core = grub_core(dir.path());
            put("bios", &core);
            install_boot_sector(disk, table.entry("bios").unwrap().start / 512, core.len() / 512);
        }
        Loader::SystemdBoot => put("esp", &esp_of_systemd_boot(dir.path(), slot_a, &[])),
        Loader::SystemdBootVerity => {
            put("verity-a", image_of(slot_a, "verity"));
            put("esp", &esp_of_systemd_boot(dir.path(), slot_a, &[("ota/a.initrd", image_of(slot_a, "initrd"))]));
        }
    }
}

/// The bytes that slot a gets of this image.
fn image_of<'a>(images: &'a [ReleaseImage], name: &str) -> &'a [u8] {
    let image = images.iter().find(|image| image.name == name && image.slot.is_none_or(|only| only == SlotName::A));
    &image.unwrap().bytes
}

fn partition(disk: &Path, loader: Loader, slot_bytes: u64) {
    let mut sizes = vec![
        ("bios", "ef02", MIB),
        ("esp", "ef00", ESP_BYTES),
        ("root-a", "8304", slot_bytes),
        ("root-b", "8304", slot_bytes),
        ("state", "8300", STATE_BYTES),
    ];
    if loader == Loader::SystemdBootVerity {
        sizes.extend(["verity-a", "verity-b"].map(|label| (label, "830c", MIB)));
    }
    let numbers = [5, 1, 2, 3, 4, 6, 7];
    let total: u64 = sizes.iter().map(|(_, _, size)| size).sum();
    File::create(disk).unwrap().set_len(total + 4 * MIB).unwrap();
    let mut sgdisk = tool("sgdisk");
    for (number, (label, kind, size)) in numbers.iter().zip(&sizes) {
        sgdisk.args([
            "-n",
            &format!("{number}:0:+{}M", size / MIB),
            "-t",
            &format!("{number}:{kind}"),
            "-c",
            &format!("{number}:{label}"),
        ]);
    }
    for (label, guid) in ROOT_GUIDS {
        let at = sizes.iter().position(|(other, _, _)| *other == label).unwrap();
        sgdisk.args(["-u", &format!("{}:{guid}", numbers[at])]);
    }
    output(sgdisk.arg(disk)).unwrap();
}

fn state(dir: &Path, config: Option<&str>) -> Vec<u8> {
    let root = dir.join("state");
    fs::create_dir_all(&root).unwrap();
    if let Some(config) = config {
        fs::write(root.join("config.toml"), config).unwrap();
    }
    let file = sized(dir.join("state.img"), STATE_BYTES);
    output(tool("mke2fs").args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"]).arg(&root).arg(&file)).unwrap();
    give_to_root(&file, &root);
    fs::read(file).unwrap()
}

/// A FAT file system with these files, in these folders.
fn esp_with(dir: &Path, folders: &[&str], files: &[(&str, &[u8])]) -> Vec<u8> {
    let esp = sized(dir.join("esp.img"), ESP_BYTES);
    output(tool("mkfs.vfat").args(["-n", "ESP"]).arg(&esp)).unwrap();
    for folder in folders {
        output(Command::new("mmd").arg("-i").arg(&esp).arg(format!("::/{folder}"))).unwrap();
    }
    for (name, bytes) in files {
        let file = dir.join("file");
        fs::write(&file, bytes).unwrap();
        output(Command::new("mcopy").arg("-i").arg(&esp).arg(file).arg(format!("::/{name}"))).unwrap();
    }
    fs::read(esp).unwrap()
}

fn esp_of_grub(dir: &Path) -> Vec<u8> {
    let env = dir.join("grubenv");
    output(Command::new("grub-editenv").arg(&env).arg("create")).unwrap();
    let env = fs::read(env).unwrap();
    let files: [(&str, &[u8]); 3] =
        [("grub/grub.cfg", GRUB_CFG.as_bytes()), ("grub/ota.cfg", OTA_CFG.as_bytes()), ("grub/grubenv", &env)];
    esp_with(dir, &["grub"], &files)
}

/// The factory's own slot is good, and was never armed.
fn esp_of_systemd_boot(dir: &Path, slot_a: &[ReleaseImage], more: &[(&str, &[u8])]) -> Vec<u8> {
    let loader = fs::read(SYSTEMD_BOOT).unwrap();
    let own = image_of(slot_a, "entry");
    let live = [b"sort-key ota\nversion 1\n", own].concat();
    let name = format!("loader/entries/{ENTRY_PREFIX}-a.conf");
    let files: [(&str, &[u8]); 5] = [
        ("EFI/BOOT/BOOTX64.EFI", &loader),
        ("loader/loader.conf", b"timeout 0\n"),
        (&name, &live),
        ("ota/a.entry", own),
        ("ota/a.efi", image_of(slot_a, "kernel")),
    ];
    esp_with(dir, &["EFI", "EFI/BOOT", "loader", "loader/entries", "ota"], &[&files, more].concat())
}

fn grub_core(dir: &Path) -> Vec<u8> {
    let (early, core) = (dir.join("early.cfg"), dir.join("core.img"));
    fs::write(&early, EARLY_CFG).unwrap();
    let mut make = Command::new("grub-mkimage");
    make.args(["-O", "i386-pc", "-p", "/grub", "-c"]).arg(&early).arg("-o").arg(&core).args(GRUB_MODULES);
    output(&mut make).unwrap();
    let mut core = fs::read(core).unwrap();
    core.resize(core.len().next_multiple_of(512), 0);
    core
}

/// GRUB's first sector, told where the rest is; and the first sector of the rest, told likewise (`grub-install` needs a mounted disk).
fn install_boot_sector(disk: &Path, core_lba: u64, core_sectors: usize) {
    let mut boot = fs::read("/usr/lib/grub/i386-pc/boot.img").unwrap()[..440].to_vec();
    boot[0x5c..0x64].copy_from_slice(&core_lba.to_le_bytes());
    let disk = File::options().write(true).open(disk).unwrap();
    disk.write_all_at(&boot, 0).unwrap();
    let mut list = Vec::new();
    list.write_all(&(core_lba + 1).to_le_bytes()).unwrap();
    list.write_all(&u16::try_from(core_sectors - 1).unwrap().to_le_bytes()).unwrap();
    list.write_all(&0x820u16.to_le_bytes()).unwrap();
    disk.write_all_at(&list, core_lba * 512 + 0x1f4).unwrap();
}

fn sized(path: PathBuf, bytes: u64) -> PathBuf {
    File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}
