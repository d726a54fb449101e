//! What a kernel needs that does not find its root by itself: one behind dm-verity.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::parts::{Parts, output};
use super::tree::{bring_program, put, script};

/// Opens the slot that the command line names, by the root hash that stands there, and starts what is in it. Where anything of it is not as
/// it was signed, the kernel panics.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin DM_DISABLE_UDEV=1
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /run /new
exec >/dev/ttyS0 2>&1
for module in $(cat /modules-in-order); do insmod /modules/$module; done
for word in $(cat /proc/cmdline); do
    case $word in
    ota.slot=a) data=/dev/nvme0n1p2 tree=/dev/nvme0n1p6 ;;
    ota.slot=b) data=/dev/nvme0n1p3 tree=/dev/nvme0n1p7 ;;
    ota.roothash=*) hash=${word#ota.roothash=} ;;
    esac
done
veritysetup open $data root $tree $hash --panic-on-corruption || exit 1
mount -t ext4 -o ro /dev/mapper/root /new || exit 1
mount --move /dev /new/dev
umount /proc /sys
exec switch_root /new /sbin/init
"#;

/// The archive.
pub(super) fn build(parts: &Parts) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for folder in ["bin", "sbin", "dev", "proc", "sys", "usr/bin", "modules"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "mount", "umount", "mkdir", "cat", "insmod", "switch_root"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    bring_program(&root, Path::new("/usr/sbin/veritysetup"));
    let names = parts.verity_modules.iter().map(|module| {
        let name = module.file_name().unwrap().to_str().unwrap().to_owned();
        fs::copy(module, root.join("modules").join(&name)).unwrap();
        name
    });
    let names: Vec<String> = names.collect();
    put(&root, "modules-in-order", &names.join("\n"));
    script(&root, "init", INIT);
    let archive = dir.path().join("initrd");
    let pack =
        format!("cd '{}' && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 >'{}'", root.display(), archive.display());
    output(Command::new("sh").arg("-c").arg(pack)).unwrap();
    fs::read(archive).unwrap()
}
