//! A whole Debian with systemd in the slots of a machine, put together as `docs/integrating.md` tells whoever ports a distribution.
//!
//! The base is made once, by debootstrap as root, from the mirror that this host's apt is configured for, and kept beside the kernel: one
//! archive for each set of versions of the packages that are asked for. What nobody reads in an emulated machine (documentation,
//! translations, the database of hardware names) is left out, because the guest hashes its slots.
//!
//! An image is that base and, on top of it, what an integrator adds: a kernel's modules, mounts, an address, the programs with the files of
//! `dist/`, keys, configuration. The root is mounted read-only, `/var` is empty at each boot, the state is a partition of its own.
//!
//! Only what makes it a machine of a test is added besides: the log goes to the console, a service runs commands that come by the second
//! serial line, and systemd has more patience.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use server_mock::{Answer, Mock, Script};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::machine::System;
use super::parts::{Parts, locked_cache, modules, output, tool};
use super::tree::{GUEST_PROGRAMS, MACHINE_ID, bring_stripped, put, script};
use super::{HOST, Loader, Machine, Running, keys_of, runs};
use crate::rig::{APP_ID, BOARD, Publisher, ReleaseImage, Spec, program};

/// A MiB.
const MIB: u64 = 1 << 20;
/// What its partitions and its memory have to hold. The image fills its slot.
const DEBIAN: System = System { slot_bytes: 160 * MIB, memory_mib: 512, updatectl: "updatectl" };

/// Beside the essential packages.
const PACKAGES: [&str; 7] = ["systemd", "systemd-sysv", "udev", "dbus", "kmod", "e2fsprogs", "dosfstools"];
/// Left out of the base. Of what is matched by the last ones, the folders themselves stay.
const LEFT_OUT: [&str; 11] = [
    "./usr/lib/udev/hwdb.bin",
    "./usr/lib/udev/hwdb.d",
    "./usr/lib/x86_64-linux-gnu/gconv",
    "./usr/share/doc/*",
    "./usr/share/info/*",
    "./usr/share/locale/*",
    "./usr/share/man/*",
    "./usr/share/zoneinfo/*",
    "./dev/*",
    "./var/cache/*",
    "./var/lib/apt/lists/*",
];
/// What systemd, udev and mounts load by themselves.
const MODULES: [&str; 9] =
    ["virtio_pci", "virtio_net", "vfat", "nls_cp437", "nls_ascii", "softdog", "efivarfs", "efi_pstore", "autofs4"];

/// What an integrator writes, besides the configuration.
const OF_THE_INTEGRATOR: [(&str, &str); 4] = [
    ("etc/hostname", "guest\n"),
    ("etc/systemd/network/10-host.network", "[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"),
    ("etc/systemd/system.conf.d/10-watchdog.conf", "[Manager]\nRuntimeWatchdogSec=60s\nLogLevel=notice\n"),
    ("etc/modules-load.d/watchdog.conf", "softdog\n"),
];
const FSTAB: &str = "PARTLABEL=state /var/lib/update-engine ext4 defaults 0 2
PARTLABEL=esp /efi vfat umask=0077 0 2
tmpfs /var tmpfs mode=0755 0 0
tmpfs /tmp tmpfs mode=1777 0 0
";
const ENABLED: [&str; 4] = ["systemd-networkd", "update-engined", "update-engine-trial", "vm-agent"];
/// The second updater of the image is apt. What the others are for is not in it.
const MASKED: [&str; 6] = [
    "systemd-bless-boot.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
];

const AGENT_SERVICE: &str = "[Unit]
Description=Commands of the test
[Service]
ExecStart=/usr/libexec/vm-agent
[Install]
WantedBy=multi-user.target
";
const AGENT: &str = r#"#!/bin/sh
export NO_COLOR=1
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
printf '\n@@ 0 @@\n' >&3
while read -r line <&3; do
    sh -c "$line" >&3 2>&1 3>&-
    printf '\n@@ %s @@\n' "$?" >&3
done
"#;
/// The log of everything on the first serial line.
const LOG_TO_CONSOLE: &str = "[Journal]\nStorage=volatile\nForwardToConsole=yes\nMaxLevelConsole=info\n";

/// An emulated machine on a busy host takes longer than systemd's 90 s to find its own disk.
const PATIENT: &str = "[Manager]\nDefaultTimeoutStartSec=600s\nDefaultDeviceTimeoutSec=600s\n";

/// What one image has that the others have not.
#[derive(Clone, Copy, Debug)]
pub enum Addition<'a> {
    /// A unit of this name and text, enabled.
    Unit(&'a str, &'a str),
    /// A line of fstab.
    Mount(&'a str),
    /// A required health check: a script.
    Check(&'a str),
    /// A file.
    File(&'a str, &'a str),
}

/// A machine that runs Debian 1.0.0 from slot a under systemd-boot, and the server it asks.
pub struct DebianScene {
    /// The machine.
    pub machine: Machine,
    images: Images,
    mock: Mock,
    _dir: TempDir,
}

impl DebianScene {
    /// Makes the machine, switched off. All its images have this table `[health]`, and slot a has these additions.
    ///
    /// # Errors
    /// Where it cannot be had: what is missing, for "skipped: …".
    ///
    /// # Panics
    /// If something of it cannot be made.
    pub fn new(health: &str, additions: &[Addition<'_>]) -> Result<Self, String> {
        let parts = Parts::find(Loader::SystemdBoot)?;
        let base = base()?;
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let publisher = Publisher::new(&dir.path().join("files"));
        let mock = Mock::start(Script::serving(&publisher.files).answer(Answer::no_update())).unwrap();
        let images = Images { parts, base, config: config(&mock, health), publisher };
        let factory = images.of("1.0.0", additions);
        let machine = Machine::with_system(dir.path(), Loader::SystemdBoot, DEBIAN, &factory, None);
        Ok(Self { machine, images, mock, _dir: dir })
    }

    /// Publishes a release whose image has these additions, and offers it from now on.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn publish(&self, version: &str, sequence: u64, additions: &[Addition<'_>]) {
        let publisher = &self.images.publisher;
        publisher.publish_images(&Spec::new(version, sequence), &self.images.of(version, additions));
        self.mock.set_script(Script::serving(&publisher.files).answer(Answer::update(version))).unwrap();
    }

    /// All requests with events that the server took.
    #[must_use]
    pub fn reports(&self) -> String {
        let taken = self.mock.recorded().into_iter().filter(|request| request.status == Some(200));
        taken.map(|request| request.body).filter(|body| body.contains("<event ")).collect::<Vec<_>>().join("\n")
    }

    /// Boots, and waits until the kernel of this slot has control.
    ///
    /// # Panics
    /// If it does not get it.
    pub fn boot(&mut self, slot: &str) -> Running {
        let mut boot = self.machine.boot();
        boot.wait_for(&Loader::SystemdBoot.words_for(slot));
        boot
    }

    /// Boots, and waits until the machine rests in this version.
    ///
    /// # Panics
    /// If it does not.
    pub fn boot_into(&mut self, version: &str, slot: &str) -> Running {
        let mut boot = self.boot(slot);
        // Each question costs the guest as much as the start of a service.
        boot.wait_for(" INFO idle");
        boot.wait_status(&format!("{version} runs from {slot}"), runs(version, slot));
        boot
    }
}

/// Where the daemon of the guest finds everything.
fn config(mock: &Mock, health: &str) -> String {
    let boot = Loader::SystemdBoot.config();
    let server = mock.update_url().replace("127.0.0.1", HOST);
    format!(
        r#"{boot}slots.a.root = "partlabel:root-a"
slots.b.root = "partlabel:root-b"
[server]
url = "{server}"
app_id = "{APP_ID}"
board = "{BOARD}"
check_interval_s = 5
[disk]
device = "/dev/nvme0n1"
[health]
{health}
"#
    )
}

/// What all images of a scene are made of.
struct Images {
    parts: Parts,
    base: PathBuf,
    config: String,
    publisher: Publisher,
}

impl Images {
    fn of(&self, version: &str, additions: &[Addition<'_>]) -> Vec<ReleaseImage> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        self.lay_out(&root, version, additions);
        let file = dir.path().join("image");
        fs::File::create(&file).unwrap().set_len(DEBIAN.slot_bytes).unwrap();
        let mut make = tool("mke2fs");
        make.args(["-q", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-m", "0", "-d"]).arg(&root).arg(&file);
        output(&mut make).unwrap();
        let bytes = fs::read(&file).unwrap();
        let more = Loader::SystemdBoot.more_images(&self.parts, version, &bytes);
        [vec![ReleaseImage { name: "root", slot: None, bytes }], more].concat()
    }

    fn lay_out(&self, root: &Path, version: &str, additions: &[Addition<'_>]) {
        fs::create_dir(root).unwrap();
        output(Command::new("tar").arg("-xpf").arg(&self.base).arg("-C").arg(root).arg("--numeric-owner")).unwrap();
        self.bring_modules(root);
        install(root);
        OF_THE_INTEGRATOR.iter().for_each(|(name, text)| file(root, name, text));
        for (name, text) in keys_of(&self.publisher) {
            file(root, &format!("usr/share/update-engine/keys/{name}"), &text);
        }
        file(root, "etc/update-engine/config.d/10-host.toml", &self.config);
        fs::remove_file(root.join("etc/machine-id")).unwrap();
        file(root, "etc/machine-id", &format!("{MACHINE_ID}\n"));
        let release = fs::read_to_string(root.join("usr/lib/os-release")).unwrap();
        file(root, "usr/lib/os-release", &format!("{release}IMAGE_VERSION={version}\n"));
        fs::create_dir_all(root.join("efi")).unwrap();
        file(root, "etc/systemd/journald.conf.d/10-console.conf", LOG_TO_CONSOLE);
        file(root, "etc/systemd/system.conf.d/20-patient.conf", PATIENT);
        file(root, "etc/systemd/system/vm-agent.service", AGENT_SERVICE);
        program_at(root, "usr/libexec/vm-agent", AGENT);
        let units: Vec<&str> = ENABLED.into_iter().chain(units_of(additions)).collect();
        let mut fstab = FSTAB.to_owned();
        for addition in additions {
            match addition {
                Addition::Unit(name, text) => file(root, &format!("etc/systemd/system/{name}"), text),
                Addition::Mount(line) => fstab.push_str(&format!("{line}\n")),
                Addition::File(name, text) => file(root, name, text),
                Addition::Check(text) => program_at(root, "etc/update-engine/health/required.d/10-check", text),
            }
        }
        file(root, "etc/fstab", &fstab);
        systemctl(root, "enable", &units);
        systemctl(root, "mask", &MASKED);
    }

    /// Where `modprobe` looks for them, with what it has to know of them.
    fn bring_modules(&self, root: &Path) {
        let (kernel, version) = self.parts.kernel_tree();
        let folder = format!("lib/modules/{version}");
        let lists = ["modules.order", "modules.builtin", "modules.builtin.modinfo"].map(|list| kernel.join(&folder).join(list));
        for from in modules(kernel, version, &MODULES).unwrap().iter().chain(&lists) {
            let to = root.join(from.strip_prefix(kernel).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
        output(tool("depmod").arg("-b").arg(root).arg(version)).unwrap();
    }
}

/// What is packaged, as a packager installs it. The programs were built for tests, and are too large for a slot as they are.
fn install(root: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("usr/bin");
    fs::create_dir_all(&bin).unwrap();
    GUEST_PROGRAMS.iter().for_each(|name| bring_stripped(dir.path(), &program(name)));
    let mut install = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/install.sh"));
    output(install.env("DESTDIR", root).env("PREFIX", "/usr").env("BIN_DIR", bin)).unwrap();
}

fn units_of<'a>(additions: &[Addition<'a>]) -> impl Iterator<Item = &'a str> {
    additions.iter().filter_map(|addition| match addition {
        Addition::Unit(name, _) => Some(*name),
        Addition::Mount(_) | Addition::Check(_) | Addition::File(..) => None,
    })
}

fn systemctl(root: &Path, verb: &str, units: &[&str]) {
    output(Command::new("chroot").arg(root).args(["systemctl", "--quiet", verb]).args(units)).unwrap();
}

fn file(root: &Path, name: &str, text: &str) {
    fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
    put(root, name, text);
    fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o644)).unwrap();
}

fn program_at(root: &Path, name: &str, text: &str) {
    fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
    script(root, name, text);
}

/// An archive of the base.
fn base() -> Result<PathBuf, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("a Debian is put together by root only".to_owned());
    }
    let (mirror, codename) = mirror()?;
    let (folder, _lock) = locked_cache()?;
    let made_of = format!("{codename} {LEFT_OUT:?} {}", versions()?);
    let key: String = Sha256::digest(made_of).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let done = folder.join(format!("debian-{codename}-{key}.tar"));
    if !done.is_file() {
        let coming = folder.join("debian.new");
        let _not_there = fs::remove_dir_all(&coming);
        fs::create_dir_all(&coming).map_err(|error| error.to_string())?;
        let (root, archive) = (coming.join("root"), coming.join("tar"));
        bootstrap(&root, &mirror, &codename)?;
        let mut pack = Command::new("tar");
        pack.arg("-cf").arg(&archive).arg("--numeric-owner").args(LEFT_OUT.map(|pattern| format!("--exclude={pattern}")));
        output(pack.arg("-C").arg(root).arg("."))?;
        fs::rename(&archive, &done).and_then(|()| fs::remove_dir_all(&coming)).map_err(|error| error.to_string())?;
    }
    Ok(done)
}

/// The essential packages and ours. What it mounts in there is gone when it ends, however it ends.
fn bootstrap(root: &Path, mirror: &str, codename: &str) -> Result<(), String> {
    let mut make = Command::new("unshare");
    make.args(["--mount", "--propagation", "private", "debootstrap", "--variant=minbase"]);
    make.arg(format!("--include={}", PACKAGES.join(","))).arg(codename).arg(root).arg(mirror);
    // What else programs ask for in an environment is not known in there.
    make.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    output(make.envs(std::env::vars_os().filter(|(name, _)| name.to_string_lossy().to_lowercase().ends_with("_proxy"))))?;
    Ok(())
}

/// Where apt finds the packages of the release of Debian that runs here, and the name of that release.
fn mirror() -> Result<(String, String), String> {
    let release = fs::read_to_string("/etc/os-release").map_err(|error| format!("/etc/os-release: {error}"))?;
    let value = |key: &str| release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let codename = match (value("ID"), value("VERSION_CODENAME")) {
        (Some("debian"), Some(codename)) => codename.to_owned(),
        _ => return Err("this host is no Debian, whose packages a guest is made of".to_owned()),
    };
    let targets =
        output(Command::new("apt-get").args(["indextargets", "--format", "$(CREATED_BY) $(RELEASE) $(COMPONENT) $(SITE)"]))?;
    let wanted = format!("Packages {codename} main ");
    let site = targets.lines().find_map(|line| line.strip_prefix(&wanted));
    site.map(|site| (site.to_owned(), codename.clone())).ok_or_else(|| format!("apt knows no mirror of {codename} main"))
}

/// The packages that are asked for, as the index has them.
fn versions() -> Result<String, String> {
    let shown = output(Command::new("apt-cache").args(["show", "--no-all-versions"]).args(PACKAGES))
        .map_err(|error| format!("{error} (`apt-get update`?)"))?;
    let lines = shown.lines().filter(|line| line.starts_with("Package: ") || line.starts_with("Version: "));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}
