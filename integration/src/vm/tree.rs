//! The root file system of a guest, and the image that is made of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::SLOT_BYTES;
use super::parts::{KERNEL_OPTIONS, Parts, output, tool};
use crate::rig::{Publisher, program};

/// The programs of this workspace that are in an image.
pub const GUEST_PROGRAMS: [&str; 3] = ["update-engined", "updatectl", "update-engine-trial"];
/// Who every guest is.
pub(crate) const MACHINE_ID: &str = "e0f3745b108f471cbd4883c6fbed8cdd";

/// What is wrong with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// Its health check fails.
    Unhealthy,
    /// Its kernel panics as soon as it is up.
    Panics,
    /// It has no init.
    NoInit,
    /// It comes up, its daemon never starts, and its watchdog resets it.
    Hangs,
    /// Its kernel stands still as soon as it is up, and nothing in the machine resets it.
    LocksUp,
    /// It comes up and goes on, and there is no daemon in it.
    NoDaemon,
    /// It comes up, and does not see the state partition: it has its configuration from elsewhere, and a deadline of 15 s in it.
    NoState,
}

/// What the guest's first process does. The log of the daemon goes to the first serial line, the test's commands come by the second.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin HOME=/
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /run/update-engine
exec </dev/ttyS0 >/dev/ttyS0 2>&1
for module in $(cat /etc/modules-in-order); do insmod /lib/modules/$module; done
mount -t ext4 /dev/nvme0n1p4 /state || { e2fsck -y /dev/nvme0n1p4; mount -t ext4 /dev/nvme0n1p4 /state; }
fsck.fat -a /dev/nvme0n1p1
mount -t vfat -o umask=022 /dev/nvme0n1p1 /efi
[ -d /sys/firmware/efi ] && mount -t efivarfs efivarfs /sys/firmware/efi/efivars
ifconfig lo up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
route add default gw 10.0.2.2
echo "guest: up, $(cat /proc/cmdline)"
[ -x /etc/early ] && /etc/early
update-engine-trial --config /state/config.toml --state-dir /state/update-engine &
update-engined --config /state/config.toml &
stty -F /dev/ttyS1 raw -echo
# Not in this shell: whoever is orphaned becomes its child, and a child that ends while it reads has it forget what it has read of a line.
agent() {
    exec 3<>/dev/ttyS1
    printf '\n@@ 0 @@\n' >&3
    while read -r line <&3; do
        sh -c "$line" >&3 2>&1 3>&-
        printf '\n@@ %s @@\n' "$?" >&3
    done
}
agent &
while :; do
    wait
    sleep 1
done
"#;

/// Nobody tells the watchdog that it is alive.
const HANGS: &str = "#!/bin/sh
rmmod softdog
insmod /lib/modules/softdog.ko soft_margin=5
exec 3>/dev/watchdog
while :; do sleep 60; done
";

/// A kernel that panics and is not to start again stands still. Without the module there is no watchdog either.
const LOCKS_UP: &str = "#!/bin/sh
rmmod softdog
echo 0 > /proc/sys/kernel/panic
echo c > /proc/sysrq-trigger
";

/// What is there instead of the state cannot be written.
const NO_STATE: &str = "#!/bin/sh
cp /state/config.toml /run/config.toml
umount /state
mount -t tmpfs state /state
sed 's/^deadline_s = .*/deadline_s = 15/' /run/config.toml >/state/config.toml
mount -o remount,ro /state
";

/// The keys that the image trusts.
#[must_use]
pub fn keys_of(publisher: &Publisher) -> Vec<(String, String)> {
    let keys = publisher.public_keys();
    keys.iter().enumerate().map(|(index, key)| (format!("{index}.pub"), key.to_text("test"))).collect()
}

/// The bytes of a slot that runs this version.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn image(parts: &Parts, version: &str, keys: &[(String, String)], flaw: Flaw) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    lay_out(&root, parts, version, keys, flaw);
    let file = dir.path().join("image");
    fs::File::create(&file).unwrap().set_len(SLOT_BYTES).unwrap();
    let mut make = tool("mke2fs");
    make.args(["-q", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-E", "root_owner=0:0", "-d"]).arg(&root).arg(&file);
    output(&mut make).unwrap();
    give_to_root(&file, &root);
    fs::read(file).unwrap()
}

/// In an ext4 image that somebody else made of this folder, everything belongs to whoever made it, and the daemon reads no such files.
pub(super) fn give_to_root(image: &Path, folder: &Path) {
    if nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let orders = dir.path().join("orders");
    let names = files_below(folder).into_iter().map(|file| file.strip_prefix(folder).unwrap().display().to_string());
    fs::write(&orders, names.map(|name| format!("sif \"/{name}\" uid 0\nsif \"/{name}\" gid 0\n")).collect::<String>()).unwrap();
    output(tool("debugfs").arg("-w").arg("-f").arg(&orders).arg(image)).unwrap();
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_below(&entry.path()));
        }
        files.push(entry.path());
    }
    files
}

fn lay_out(root: &Path, parts: &Parts, version: &str, keys: &[(String, String)], flaw: Flaw) {
    let folders = [
        "bin",
        "sbin",
        "boot",
        "dev",
        "proc",
        "sys",
        "run",
        "state",
        "efi",
        "tmp",
        "usr/bin",
        "lib64",
        "etc/update-engine",
        "usr/share/update-engine/keys",
        "lib/modules",
    ];
    folders.iter().for_each(|folder| fs::create_dir_all(root.join(folder)).unwrap());
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let applets = output(Command::new("busybox").arg("--list")).unwrap();
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let missing = (flaw == Flaw::NoDaemon).then_some("update-engined");
    GUEST_PROGRAMS.iter().filter(|name| Some(**name) != missing).for_each(|name| bring_program(root, &program(name)));
    ["/sbin/e2fsck", "/usr/sbin/fsck.fat"].iter().for_each(|checks| bring_program(root, Path::new(checks)));
    fs::copy(&parts.kernel, root.join("boot/vmlinuz")).unwrap();
    let names = parts.modules.iter().map(|module| {
        let name = module.file_name().unwrap().to_str().unwrap().to_owned();
        fs::copy(module, root.join("lib/modules").join(&name)).unwrap();
        name
    });
    let names: Vec<String> = names.collect();
    put(root, "etc/modules-in-order", &names.join("\n"));
    let slot_cfg = format!("linux16 /boot/vmlinuz root=PARTUUID=$ota_partuuid ro $ota_args loglevel=5 {KERNEL_OPTIONS}\n");
    put(root, "boot/slot.cfg", &slot_cfg);
    put(root, "etc/machine-id", &format!("{MACHINE_ID}\n"));
    put(root, "etc/os-release", &format!("ID=test\nIMAGE_VERSION={version}\n"));
    keys.iter().for_each(|(name, text)| put(root, &format!("usr/share/update-engine/keys/{name}"), text));
    if flaw != Flaw::NoInit {
        script(root, "sbin/init", INIT);
    }
    match flaw {
        Flaw::None | Flaw::NoInit | Flaw::NoDaemon => {}
        Flaw::Unhealthy => {
            fs::create_dir_all(root.join("etc/update-engine/health/required.d")).unwrap();
            script(root, "etc/update-engine/health/required.d/10-service", "#!/bin/sh\necho the service is down\nexit 1\n");
        }
        Flaw::Panics => script(root, "etc/early", "#!/bin/sh\necho c > /proc/sysrq-trigger\n"),
        Flaw::Hangs => script(root, "etc/early", HANGS),
        Flaw::LocksUp => script(root, "etc/early", LOCKS_UP),
        Flaw::NoState => script(root, "etc/early", NO_STATE),
    }
}

/// A program without what only a debugger reads.
pub(super) fn bring_stripped(root: &Path, from: &Path) {
    static STRIPPED: Mutex<BTreeMap<PathBuf, Arc<Vec<u8>>>> = Mutex::new(BTreeMap::new());
    let strip = || {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("stripped");
        output(Command::new("strip").arg("-o").arg(&to).arg(from)).unwrap();
        Arc::new(fs::read(to).unwrap())
    };
    // It takes seconds, and every image has the same.
    let bytes = Arc::clone(STRIPPED.lock().unwrap().entry(from.to_owned()).or_insert_with(strip));
    let to = root.join("usr/bin").join(from.file_name().unwrap());
    fs::write(&to, &*bytes).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The same, and the libraries it is linked with.
pub(super) fn bring_program(root: &Path, from: &Path) {
    bring_stripped(root, from);
    let libraries = output(Command::new("ldd").arg(from)).unwrap();
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    for path in paths {
        let to = root.join(path.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&path, to).unwrap();
    }
}

pub(super) fn put(root: &Path, name: &str, text: &str) {
    fs::write(root.join(name), text).unwrap();
}

pub(super) fn script(root: &Path, name: &str, text: &str) {
    put(root, name, text);
    fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}
