//! What every machine is made of: programs of the system, a kernel, its modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs that make and run machines, and the packages that bring them.
const PROGRAMS: [(&str, &str); 9] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("sgdisk", "gdisk"),
    ("mke2fs", "e2fsprogs"),
    ("mkfs.vfat", "dosfstools"),
    ("mcopy", "mtools"),
    ("grub-mkimage", "grub-common"),
    ("grub-editenv", "grub-common"),
    ("busybox", "busybox-static"),
    ("veritysetup", "cryptsetup-bin"),
];
/// The firmware, and its variables as a new machine has them.
pub(super) const OVMF: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];
/// The loader.
pub(super) const SYSTEMD_BOOT: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
/// Files that do, likewise.
const FILES: [(&str, &str); 4] =
    [("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"), (OVMF[0], "ovmf"), (OVMF[1], "ovmf"), (SYSTEMD_BOOT, "systemd-boot-efi")];
/// The package that depends on the kernel of the day.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// What a guest loads at its start, each with what it needs.
const MODULES: [&str; 7] = ["virtio_pci", "virtio_net", "vfat", "nls_cp437", "nls_ascii", "softdog", "efivarfs"];
/// What its initrd loads before, where the root is behind dm-verity.
const VERITY_MODULES: [&str; 1] = ["dm_verity"];

/// What machines are made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The kernel.
    pub(super) kernel: PathBuf,
    /// Modules, in the order in which they have to be loaded.
    pub(super) modules: Vec<PathBuf>,
    /// The same of what stands before the root, where that is behind dm-verity.
    pub(super) verity_modules: Vec<PathBuf>,
}

impl Parts {
    /// Finds everything, and fetches and unpacks the kernel once.
    ///
    /// # Errors
    /// What is missing, in words for "skipped: …".
    pub fn find() -> Result<Self, String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).collect();
        let is_there = |program: &str| folders.iter().any(|folder| folder.join(program).is_file());
        let missing = PROGRAMS.iter().filter(|(program, _)| !is_there(program));
        let missing = missing.chain(FILES.iter().filter(|(file, _)| !Path::new(file).is_file()));
        let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
        if !missing.is_empty() {
            return Err(format!("these packages are not installed: {}", missing.join(" ")));
        }
        let kernel = unpacked_kernel()?;
        let (kernel, version) = find_kernel(&kernel).ok_or_else(|| format!("there is no kernel in {}", kernel.display()))?;
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

/// The kernel's package, unpacked.
fn unpacked_kernel() -> Result<PathBuf, String> {
    let (folder, _lock) = locked_cache()?;
    let done = folder.join("kernel");
    if done.is_dir() {
        return Ok(done);
    }
    let coming = folder.join("kernel.new");
    let _not_there = fs::remove_dir_all(&coming);
    fs::create_dir_all(&coming).map_err(|error| error.to_string())?;
    let depends = output(Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.ok_or_else(|| format!("the package index knows no {KERNEL_PACKAGE} (`apt-get update`?)"))?;
    output(Command::new("apt-get").args(["download", "-q", package]).current_dir(&coming))?;
    let deb = fs::read_dir(&coming).map_err(|error| error.to_string())?.filter_map(Result::ok).map(|entry| entry.path());
    let deb = deb.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let deb = deb.ok_or_else(|| format!("apt-get brought no {package}"))?;
    output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&coming))?;
    fs::remove_file(deb).map_err(|error| error.to_string())?;
    fs::rename(&coming, &done).map_err(|error| error.to_string())?;
    Ok(done)
}

fn find_kernel(folder: &Path) -> Option<(PathBuf, String)> {
    let names = fs::read_dir(folder.join("boot")).ok()?.filter_map(Result::ok);
    let version = names.filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned())).next()?;
    Some((folder.to_path_buf(), version))
}

/// The files of these modules and of what they need, in the order in which they have to be loaded.
pub(super) fn modules(folder: &Path, version: &str, names: &[&str]) -> Result<Vec<PathBuf>, String> {
    if !folder.join(format!("lib/modules/{version}/modules.dep")).is_file() {
        output(Command::new("/sbin/depmod").arg("-b").arg(folder).arg(version))?;
    }
    let mut modules = Vec::new();
    for name in names {
        let mut show = Command::new("/sbin/modprobe");
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
