//! What every machine is made of: programs of the system, a kernel, its modules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Loader;

/// A program or a file, and the package that brings it.
type Needed = (&'static str, &'static str);

/// The firmware, and its variables as a new machine has them.
pub(super) const OVMF: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];
/// The loader.
pub(super) const SYSTEMD_BOOT: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
/// What makes a kernel a program of the firmware.
pub(super) const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// What makes and runs every machine.
const OF_ALL: [Needed; 11] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("taskset", "util-linux"),
    ("setpriv", "util-linux"),
    ("sgdisk", "gdisk"),
    ("mke2fs", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("mkfs.vfat", "dosfstools"),
    ("mcopy", "mtools"),
    ("busybox", "busybox-static"),
    ("modprobe", "kmod"),
    ("strip", "binutils"),
];
const OF_GRUB: [Needed; 3] =
    [("grub-mkimage", "grub-common"), ("grub-editenv", "grub-common"), ("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin")];
const OF_SYSTEMD_BOOT: [Needed; 3] = [(OVMF[0], "ovmf"), (OVMF[1], "ovmf"), (SYSTEMD_BOOT, "systemd-boot-efi")];
const OF_VERITY: [Needed; 3] = [("veritysetup", "cryptsetup-bin"), ("objcopy", "binutils"), (STUB, "systemd-boot-efi")];
/// What a guest loads at its start, each with what it needs.
const MODULES: [&str; 7] = ["virtio_pci", "virtio_net", "vfat", "nls_cp437", "nls_ascii", "softdog", "efivarfs"];
/// What its initrd loads before, where the root is behind dm-verity.
const VERITY_MODULES: [&str; 1] = ["dm_verity"];

/// What every kernel is told, besides where its root is. It measures the speed of its TSC while it starts, and is wrong by a factor of eight
/// where this machine holds QEMU up just then: deadlines passed before anything could be kept. So its clock is a timer whose speed is known.
pub(super) const KERNEL_OPTIONS: &str = "console=ttyS0 panic=-1 fsck.repair=yes nokaslr mitigations=off random.trust_cpu=on cryptomgr.notests \
tsc=unstable no_timer_check init=/sbin/init";

/// What machines are made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The kernel.
    pub(crate) kernel: PathBuf,
    /// Modules, in the order in which they have to be loaded.
    pub(super) modules: Vec<PathBuf>,
    /// The same of what stands before the root, where that is behind dm-verity.
    pub(super) verity_modules: Vec<PathBuf>,
}

impl Parts {
    /// Finds everything that machines with this loader are made of.
    ///
    /// # Errors
    /// What is missing, in words for "skipped: …".
    pub fn find(loader: Loader) -> Result<Self, String> {
        let missing: BTreeSet<&str> = needed(loader).filter(|(part, _)| !is_there(part)).map(|(_, package)| package).collect();
        if !missing.is_empty() {
            return Err(format!("these packages are not installed: {}", Vec::from_iter(missing).join(" ")));
        }
        let kernel = cache().join("kernel");
        let (kernel, version) = find_kernel(&kernel)
            .ok_or_else(|| format!("there is no kernel in {} (`make deps` fetches one)", kernel.display()))?;
        let verity_modules = modules(&kernel, &version, &VERITY_MODULES)?;
        let modules = modules(&kernel, &version, &MODULES)?;
        Ok(Self { kernel: kernel.join(format!("boot/vmlinuz-{version}")), modules, verity_modules })
    }

    /// The folder with `lib/modules/VERSION`, and that version.
    pub(super) fn kernel_tree(&self) -> (&Path, &str) {
        let version = self.kernel.file_name().and_then(|name| name.to_str()?.strip_prefix("vmlinuz-")).unwrap();
        (self.kernel.ancestors().nth(2).unwrap(), version)
    }
}

fn needed(loader: Loader) -> impl Iterator<Item = Needed> {
    let own: &[&[Needed]] = match loader {
        Loader::GrubBios => &[&OF_GRUB],
        Loader::SystemdBoot => &[&OF_SYSTEMD_BOOT],
        Loader::SystemdBootVerity => &[&OF_SYSTEMD_BOOT, &OF_VERITY],
    };
    OF_ALL.into_iter().chain(own.concat())
}

fn is_there(part: &str) -> bool {
    if part.starts_with('/') { Path::new(part).is_file() } else { found(part).is_some() }
}

/// Where a program is: also in the folders that only root looks in.
fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// One of the programs of [`needed`], with no arguments yet.
pub(super) fn tool(program: &str) -> Command {
    Command::new(found(program).unwrap_or_else(|| program.into()))
}

/// A folder that outlives the test.
fn cache() -> PathBuf {
    let base = std::env::var_os("CACHE").map(PathBuf::from).or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        base.map(|base| base.join("ota-update-engine"))
    });
    base.unwrap_or_else(std::env::temp_dir).join("vm")
}

/// That folder, and its lock. Several tests may need a thing at once: the first makes it.
pub(super) fn locked_cache() -> Result<(PathBuf, fs::File), String> {
    let folder = cache();
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let lock = fs::File::create(folder.join("lock")).map_err(|error| format!("{}: {error}", folder.display()))?;
    lock.lock().map_err(|error| error.to_string())?;
    Ok((folder, lock))
}

fn find_kernel(folder: &Path) -> Option<(PathBuf, String)> {
    let names = fs::read_dir(folder.join("boot")).ok()?.filter_map(Result::ok);
    let version = names.filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned())).next()?;
    Some((folder.to_path_buf(), version))
}

/// The files of these modules and of what they need, in the order in which they have to be loaded.
pub(super) fn modules(folder: &Path, version: &str, names: &[&str]) -> Result<Vec<PathBuf>, String> {
    let mut modules = Vec::new();
    for name in names {
        let mut show = tool("modprobe");
        let shown = output(show.arg("-d").arg(folder).args(["-S", version, "--show-depends", name]))?;
        let paths = shown.lines().filter_map(|line| line.trim().strip_prefix("insmod ")).map(|path| PathBuf::from(path.trim()));
        for path in paths {
            if !modules.contains(&path) {
                modules.push(path);
            }
        }
    }
    Ok(modules)
}

/// What a program said, or why it failed.
pub(super) fn output(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{program} ended with {}: {words}", output.status))
}
