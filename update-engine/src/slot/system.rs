//! What the kernel says about block devices and mounts: sysfs and proc, read as data.
//!
//! [`SystemView`] holds the roots of both, so that every decision made from them is tested on a folder of files. It reads and
//! never changes anything.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// sysfs states sizes and starts in units of 512 bytes, whatever the disk's sector size.
const SYSFS_SECTOR: u64 = 512;
/// A host with thousands of containers stays below; more is not a mount table.
const MOUNT_TABLE_CAP: u64 = 16 << 20;
/// No attribute file of sysfs is longer than a page.
const ATTRIBUTE_CAP: u64 = 4096;
/// Device mapper on loop on overlay on …: deeper stacks are a loop.
const DEPTH_CAP: u32 = 16;
/// Members of a stack of devices; more than a large array has.
const STACK_CAP: usize = 256;

/// The number of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// The driver's number; 0 for file systems without a device of their own.
    pub major: u64,
    /// The device of the driver.
    pub minor: u64,
}

impl DeviceId {
    /// From a `dev_t` as `stat` gives it.
    #[must_use]
    pub fn from_dev(dev: u64) -> Self {
        Self { major: nix::sys::stat::major(dev), minor: nix::sys::stat::minor(dev) }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for DeviceId {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let parsed = text
            .trim()
            .split_once(':')
            .and_then(|(major, minor)| Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? }));
        parsed.ok_or_else(|| invalid(format!("expected MAJOR:MINOR, got {text:?}")))
    }
}

/// Where the kernel's views are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemView {
    proc: PathBuf,
    sys: PathBuf,
    dev: PathBuf,
}

impl Default for SystemView {
    fn default() -> Self {
        Self::at("/proc", "/sys", "/dev")
    }
}

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The file system's device; its own number for those that have none.
    pub device: DeviceId,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Such as `ext4`.
    pub fs_type: String,
    /// What was mounted, as whoever mounted it said.
    pub source: OsString,
    /// The file system's own options.
    pub options: Vec<u8>,
}

/// One partition that the kernel knows of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionNode {
    pub(crate) device: DeviceId,
    pub(crate) number: u32,
    pub(crate) start_bytes: u64,
    pub(crate) size_bytes: u64,
}

/// A loop device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoopDevice {
    pub(crate) device: DeviceId,
    pub(crate) backing_file: PathBuf,
    pub(crate) offset_bytes: u64,
}

/// Everything a mounted file system rests on: devices, and files behind loop devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    pub(crate) devices: BTreeSet<DeviceId>,
    pub(crate) files: BTreeSet<PathBuf>,
}

impl SystemView {
    /// A view whose proc, sysfs and device nodes stand elsewhere (tests, containers).
    pub fn at(proc: impl Into<PathBuf>, sys: impl Into<PathBuf>, dev: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), sys: sys.into(), dev: dev.into() }
    }

    /// The kernel's command line.
    pub(crate) fn command_line(&self) -> io::Result<String> {
        read_text(&self.proc.join("cmdline"), 64 << 10)
    }

    /// The folder of a block device.
    fn folder(&self, device: DeviceId) -> io::Result<PathBuf> {
        self.sys.join(format!("dev/block/{device}")).canonicalize()
    }

    /// Whether the device is a partition of some disk.
    pub(crate) fn is_partition(&self, device: DeviceId) -> io::Result<bool> {
        Ok(self.folder(device)?.join("partition").exists())
    }

    /// The disk that a partition is part of.
    pub(crate) fn disk_of(&self, partition: DeviceId) -> io::Result<DeviceId> {
        let folder = self.folder(partition)?;
        let parent = folder.parent().ok_or_else(|| invalid("a partition without a disk".to_owned()))?;
        attribute(parent, "dev")?.parse()
    }

    /// The partitions of a disk, in the order of their numbers.
    pub(crate) fn partitions_of(&self, disk: DeviceId) -> io::Result<Vec<PartitionNode>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.folder(disk)?)? {
            let folder = entry?.path();
            if folder.join("partition").exists() {
                found.push(partition_node(&folder)?);
            }
        }
        found.sort_by_key(|node| node.number);
        Ok(found)
    }

    /// Size of a device in bytes.
    pub(crate) fn size_bytes(&self, device: DeviceId) -> io::Result<u64> {
        sectors(&self.folder(device)?, "size")
    }

    /// The number that a disk got when it appeared: another disk at the same place has another one. Absent before Linux 5.15.
    pub(crate) fn disk_sequence(&self, disk: DeviceId) -> io::Result<Option<u64>> {
        let folder = self.folder(disk)?;
        if !folder.join("diskseq").exists() {
            return Ok(None);
        }
        number(&folder, "diskseq").map(Some)
    }

    /// The size of a logical sector of a disk in bytes.
    pub(crate) fn sector_size(&self, disk: DeviceId) -> io::Result<u64> {
        number(&self.folder(disk)?, "queue/logical_block_size")
    }

    /// Whether the kernel refuses writes to the device.
    pub(crate) fn is_read_only(&self, device: DeviceId) -> io::Result<bool> {
        Ok(number(&self.folder(device)?, "ro")? != 0)
    }

    /// The names of what is stacked on a device (device mapper, md).
    pub(crate) fn holders(&self, device: DeviceId) -> io::Result<Vec<String>> {
        let folder = self.folder(device)?.join("holders");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// The device node of a block device.
    pub(crate) fn node(&self, device: DeviceId) -> io::Result<PathBuf> {
        let folder = self.folder(device)?;
        let name = folder.file_name().ok_or_else(|| invalid(format!("device {device} has no name")))?;
        // In a name of sysfs "!" stands for the "/" of a node in a sub-folder.
        Ok(self.dev.join(name.to_string_lossy().replace('!', "/")))
    }

    /// The block device that a path under the device folder names, from sysfs alone.
    fn device_named(&self, path: &Path) -> io::Result<DeviceId> {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let dev = self.dev.canonicalize().unwrap_or_else(|_| self.dev.clone());
        let name = real.strip_prefix(dev).or_else(|_| path.strip_prefix("/dev"));
        let name = name.map_err(|_| invalid(format!("{} is not a device node", path.display())))?;
        let class = self.sys.join("class/block").join(name.to_string_lossy().replace('/', "!"));
        attribute(&class, "dev")?.parse()
    }

    /// All mounted file systems that this process sees.
    pub(crate) fn mounts(&self) -> io::Result<Vec<Mount>> {
        parse_mounts(&read_capped(&self.proc.join("self/mountinfo"), MOUNT_TABLE_CAP)?)
    }

    /// Devices and files in use as swap.
    pub(crate) fn swaps(&self) -> io::Result<Vec<PathBuf>> {
        let path = self.proc.join("swaps");
        if !path.exists() {
            return Ok(Vec::new());
        }
        Ok(parse_swaps(&read_capped(&path, MOUNT_TABLE_CAP)?))
    }

    /// All loop devices that are bound to a file.
    pub(crate) fn loop_devices(&self) -> io::Result<Vec<LoopDevice>> {
        let folder = self.sys.join("block");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let folder = entry?.path();
            if folder.join("loop/backing_file").exists() {
                found.push(LoopDevice {
                    device: attribute(&folder, "dev")?.parse()?,
                    backing_file: PathBuf::from(attribute(&folder, "loop/backing_file")?),
                    offset_bytes: number(&folder, "loop/offset")?,
                });
            }
        }
        Ok(found)
    }

    /// Everything that the file system at `path` rests on. `None` when nothing is mounted there.
    pub(crate) fn lineage_of_mount_point(&self, path: &Path) -> io::Result<Option<Lineage>> {
        let mounts = self.mounts()?;
        let Some(index) = mounts.iter().rposition(|mount| mount.mount_point == path) else { return Ok(None) };
        let mut walk = Walk { view: self, mounts: &mounts, layer: Layer::Lowest, lineage: Lineage::default() };
        walk.mount(index, 0)?;
        Ok(Some(walk.lineage))
    }

    /// Everything that a block device rests on, itself first.
    pub(crate) fn lineage_of_device(&self, device: DeviceId) -> io::Result<Lineage> {
        let mounts = self.mounts()?;
        let mut walk = Walk { view: self, mounts: &mounts, layer: Layer::Written, lineage: Lineage::default() };
        walk.device(device, 0)?;
        Ok(walk.lineage)
    }

    /// Everything that what is written below the folder `path` rests on.
    pub(crate) fn lineage_of_folder(&self, path: &Path) -> io::Result<Lineage> {
        let path = path.canonicalize()?;
        let mounts = self.mounts()?;
        let mut walk = Walk { view: self, mounts: &mounts, layer: Layer::Written, lineage: Lineage::default() };
        walk.path(&path, mounts.len(), 0)?;
        Ok(walk.lineage)
    }
}

/// Which layer of an overlay is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// The image; layers above it are additions.
    Lowest,
    /// The one that takes what is written.
    Written,
}

/// A walk down a stack of file systems and devices.
struct Walk<'a> {
    view: &'a SystemView,
    mounts: &'a [Mount],
    layer: Layer,
    lineage: Lineage,
}

impl Walk<'_> {
    fn mount(&mut self, index: usize, depth: u32) -> io::Result<()> {
        let mount = &self.mounts[index];
        if mount.device.major != 0 {
            return self.device(mount.device, depth);
        }
        if mount.fs_type == "overlay" {
            // What a layer rests on was mounted before the overlay, which may well hide it (an extension merged over /usr has
            // /usr as its lowest layer).
            let layer = match self.layer {
                Layer::Lowest => lowest_layer(&mount.options),
                Layer::Written => upper_layer(&mount.options).or_else(|| lowest_layer(&mount.options)),
            };
            return match layer {
                Some(layer) => self.path(&layer, index, depth + 1),
                None => Ok(()),
            };
        }
        // A file system on several devices (btrfs) has a number of its own, and names one of its devices as source.
        let source = Path::new(&mount.source);
        if source.is_absolute() && source.starts_with("/dev") {
            return self.device(self.view.device_named(source)?, depth);
        }
        Ok(())
    }

    /// The file system that holds `path`, among the first `before` mounts.
    fn path(&mut self, path: &Path, before: usize, depth: u32) -> io::Result<()> {
        let covering = self.mounts[..before].iter().enumerate().filter(|(_, mount)| path.starts_with(&mount.mount_point));
        let deepest = covering.max_by_key(|(index, mount)| (mount.mount_point.as_os_str().len(), *index));
        match deepest {
            Some((index, _)) => self.mount(index, depth),
            None => Ok(()),
        }
    }

    fn device(&mut self, device: DeviceId, depth: u32) -> io::Result<()> {
        if depth > DEPTH_CAP || self.lineage.devices.len() >= STACK_CAP {
            return Err(invalid(format!(
                "device {device} lies in a stack of more than {DEPTH_CAP} layers or {STACK_CAP} devices"
            )));
        }
        if !self.lineage.devices.insert(device) {
            return Ok(());
        }
        let folder = self.view.folder(device)?;
        if folder.join("slaves").is_dir() {
            for entry in std::fs::read_dir(folder.join("slaves"))? {
                self.device(attribute(&entry?.path(), "dev")?.parse()?, depth + 1)?;
            }
        }
        if folder.join("loop/backing_file").exists() {
            let file = PathBuf::from(attribute(&folder, "loop/backing_file")?);
            self.path(&file, self.mounts.len(), depth + 1)?;
            self.lineage.files.insert(file);
        }
        Ok(())
    }
}

fn partition_node(folder: &Path) -> io::Result<PartitionNode> {
    let partition = number(folder, "partition")?;
    Ok(PartitionNode {
        device: attribute(folder, "dev")?.parse()?,
        number: u32::try_from(partition).map_err(|_| invalid(format!("partition number {partition} is out of range")))?,
        start_bytes: sectors(folder, "start")?,
        size_bytes: sectors(folder, "size")?,
    })
}

fn sectors(folder: &Path, name: &str) -> io::Result<u64> {
    let count = number(folder, name)?;
    count
        .checked_mul(SYSFS_SECTOR)
        .ok_or_else(|| invalid(format!("{}: {count} sectors is out of range", folder.join(name).display())))
}

fn number(folder: &Path, name: &str) -> io::Result<u64> {
    let text = attribute(folder, name)?;
    text.parse().map_err(|_| invalid(format!("{}: expected a number, got {text:?}", folder.join(name).display())))
}

fn attribute(folder: &Path, name: &str) -> io::Result<String> {
    Ok(read_text(&folder.join(name), ATTRIBUTE_CAP)?.trim_end_matches('\n').to_owned())
}

/// Reads a small text file; one longer than `cap` bytes is an error.
pub(crate) fn read_text(path: &Path, cap: u64) -> io::Result<String> {
    String::from_utf8(read_capped(path, cap)?).map_err(|_| invalid(format!("{} is not text", path.display())))
}

fn read_capped(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    let name_it = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    File::open(path).map_err(name_it)?.take(cap + 1).read_to_end(&mut bytes).map_err(name_it)?;
    if bytes.len() as u64 > cap {
        return Err(invalid(format!("{} is longer than {cap} bytes", path.display())));
    }
    Ok(bytes)
}

/// Reads a whole mountinfo.
///
/// # Errors
/// If a line is malformed: a mount that is not understood could be a slot's.
pub fn parse_mounts(table: &[u8]) -> io::Result<Vec<Mount>> {
    table.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(parse_mount).collect()
}

/// One line of mountinfo (proc(5)): `id parent major:minor root mount-point options [tags…] - type source super-options`.
fn parse_mount(line: &[u8]) -> io::Result<Mount> {
    let malformed = || invalid(format!("a line of mountinfo is malformed: {:?}", String::from_utf8_lossy(line)));
    let mut fields = line.split(|&byte| byte == b' ');
    let device = fields.nth(2).and_then(|field| std::str::from_utf8(field).ok()).ok_or_else(malformed)?.parse()?;
    let mount_point = fields.nth(1).ok_or_else(malformed)?;
    fields.find(|field| *field == b"-").ok_or_else(malformed)?;
    let fs_type = fields.next().ok_or_else(malformed)?;
    let source = fields.next().ok_or_else(malformed)?;
    let options = fields.next().unwrap_or_default();
    Ok(Mount {
        device,
        mount_point: PathBuf::from(OsString::from_vec(unescape(mount_point))),
        fs_type: String::from_utf8_lossy(fs_type).into_owned(),
        source: OsString::from_vec(unescape(source)),
        options: unescape(options),
    })
}

/// Reads `/proc/swaps`: the devices and files in its first column, below the heading.
pub fn parse_swaps(table: &[u8]) -> Vec<PathBuf> {
    let lines = table.split(|&byte| byte == b'\n').skip(1);
    let names = lines.filter_map(|line| line.split(|&byte| byte == b' ' || byte == b'\t').next());
    names.filter(|name| !name.is_empty()).map(|name| PathBuf::from(OsString::from_vec(unescape(name)))).collect()
}

/// mountinfo writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\').then(|| tail.get(..3).and_then(octal_byte)).flatten();
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    plain
}

fn octal_byte(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    u8::from_str_radix(text, 8).ok()
}

/// The last layer of an overlay's `lowerdir=a:b:c` or `lowerdir+=a,lowerdir+=b`; `\:` is a colon in a name.
fn lowest_layer(options: &[u8]) -> Option<PathBuf> {
    let values = options
        .split(|&byte| byte == b',')
        .filter_map(|option| option.strip_prefix(b"lowerdir=").or_else(|| option.strip_prefix(b"lowerdir+=")));
    let mut layers: Vec<Vec<u8>> = Vec::new();
    for value in values {
        layers.extend(split_layers(value));
    }
    layers.pop().map(|layer| PathBuf::from(OsStr::from_bytes(&layer)))
}

/// The folder of an overlay's `upperdir=a`; one that cannot be written has none.
fn upper_layer(options: &[u8]) -> Option<PathBuf> {
    let value = options.split(|&byte| byte == b',').find_map(|option| option.strip_prefix(b"upperdir="))?;
    split_layers(value).pop().map(|layer| PathBuf::from(OsStr::from_bytes(&layer)))
}

fn split_layers(value: &[u8]) -> Vec<Vec<u8>> {
    let mut layers = vec![Vec::new()];
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        match (byte, layers.last_mut()) {
            (b':', _) => layers.push(Vec::new()),
            (b'\\', Some(layer)) => layer.extend(bytes.next()),
            (other, Some(layer)) => layer.push(other),
            (_, None) => {}
        }
    }
    layers.retain(|layer| !layer.is_empty());
    layers
}

fn invalid(words: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words)
}

/// A machine made of files, for tests.
#[cfg(test)]
pub(crate) mod fake {
    use super::*;

    /// A sysfs and proc in a temporary folder.
    ///
    /// It answers from what was written and nothing else: no udev, no size but the one given, and device nodes are plain files.
    pub(crate) struct FakeSystem {
        pub(crate) folder: tempfile::TempDir,
        pub(crate) mounts: String,
    }

    impl FakeSystem {
        pub(crate) fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for path in ["proc/self", "sys/dev/block", "sys/class/block", "sys/block", "sys/devices", "dev"] {
                std::fs::create_dir_all(folder.path().join(path)).unwrap();
            }
            Self { folder, mounts: String::new() }
        }

        pub(crate) fn view(&self) -> SystemView {
            let root = self.folder.path();
            std::fs::write(root.join("proc/self/mountinfo"), &self.mounts).unwrap();
            SystemView::at(root.join("proc"), root.join("sys"), root.join("dev"))
        }

        fn place(&self, name: &str, id: &str, folder: &Path) {
            std::fs::create_dir_all(folder.join("holders")).unwrap();
            std::fs::create_dir_all(folder.join("slaves")).unwrap();
            std::fs::write(folder.join("dev"), format!("{id}\n")).unwrap();
            std::fs::write(folder.join("ro"), "0\n").unwrap();
            let root = self.folder.path();
            std::os::unix::fs::symlink(folder, root.join(format!("sys/dev/block/{id}"))).unwrap();
            std::os::unix::fs::symlink(folder, root.join(format!("sys/class/block/{name}"))).unwrap();
            std::fs::write(root.join("dev").join(name), b"").unwrap();
        }

        /// A whole disk of `size` bytes with sectors of `sector` bytes.
        pub(crate) fn disk(&self, name: &str, id: &str, size: u64, sector: u64) -> PathBuf {
            let folder = self.folder.path().join("sys/devices").join(name);
            self.place(name, id, &folder);
            std::fs::create_dir_all(folder.join("queue")).unwrap();
            std::fs::write(folder.join("queue/logical_block_size"), format!("{sector}\n")).unwrap();
            std::fs::write(folder.join("size"), format!("{}\n", size / SYSFS_SECTOR)).unwrap();
            std::fs::write(folder.join("diskseq"), "9\n").unwrap();
            std::os::unix::fs::symlink(&folder, self.folder.path().join("sys/block").join(name)).unwrap();
            folder
        }

        /// A partition of a disk.
        pub(crate) fn partition(&self, disk: &str, number: u32, id: &str, start: u64, size: u64) {
            let name = format!("{disk}{number}");
            let folder = self.folder.path().join("sys/devices").join(disk).join(&name);
            self.place(&name, id, &folder);
            std::fs::write(folder.join("partition"), format!("{number}\n")).unwrap();
            std::fs::write(folder.join("start"), format!("{}\n", start / SYSFS_SECTOR)).unwrap();
            std::fs::write(folder.join("size"), format!("{}\n", size / SYSFS_SECTOR)).unwrap();
        }

        /// Stacks `upper` (already placed) on `lower`, as device mapper does.
        pub(crate) fn stack(&self, upper: &str, lower: &str) {
            let class = self.folder.path().join("sys/class/block");
            let lower_folder = class.join(lower).canonicalize().unwrap();
            let upper_folder = class.join(upper).canonicalize().unwrap();
            std::os::unix::fs::symlink(&lower_folder, upper_folder.join("slaves").join(lower)).unwrap();
            std::os::unix::fs::symlink(&upper_folder, lower_folder.join("holders").join(upper)).unwrap();
        }

        /// Binds the disk `name` to a file, as a loop device.
        pub(crate) fn bind(&self, name: &str, file: &str) {
            let folder = self.folder.path().join("sys/devices").join(name).join("loop");
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("backing_file"), format!("{file}\n")).unwrap();
            std::fs::write(folder.join("offset"), "0\n").unwrap();
        }

        pub(crate) fn mount(&mut self, id: &str, at: &str, fs: &str, source: &str, options: &str) {
            use std::fmt::Write as _;
            let number = self.mounts.lines().count() + 20;
            writeln!(self.mounts, "{number} 1 {id} / {at} rw,relatime shared:1 - {fs} {source} {options}").unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::FakeSystem;
    use super::*;

    fn ids(texts: &[&str]) -> BTreeSet<DeviceId> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn lineage(system: &FakeSystem, path: &str) -> Lineage {
        system.view().lineage_of_mount_point(Path::new(path)).unwrap().unwrap()
    }

    #[test]
    fn a_plain_root_rests_on_its_partition() {
        let mut system = FakeSystem::new();
        system.disk("vda", "254:0", 1 << 30, 512);
        system.partition("vda", 2, "254:2", 1 << 20, 1 << 28);
        system.mount("254:2", "/", "ext4", "/dev/root", "rw");
        assert_eq!(lineage(&system, "/").devices, ids(&["254:2"]));
        let view = system.view();
        assert_eq!(view.disk_of("254:2".parse().unwrap()).unwrap(), "254:0".parse().unwrap());
        assert!(view.is_partition("254:2".parse().unwrap()).unwrap());
        assert!(!view.is_partition("254:0".parse().unwrap()).unwrap());
        assert_eq!(view.lineage_of_mount_point(Path::new("/usr")).unwrap(), None);
    }

    #[test]
    fn a_root_on_device_mapper_rests_on_the_partitions_under_it() {
        let mut system = FakeSystem::new();
        system.disk("vda", "254:0", 1 << 30, 512);
        system.partition("vda", 2, "254:2", 1 << 20, 1 << 28);
        system.disk("dm-0", "253:0", 1 << 28, 512);
        system.stack("dm-0", "vda2");
        system.mount("253:0", "/", "ext4", "/dev/mapper/root", "ro");
        assert_eq!(lineage(&system, "/").devices, ids(&["253:0", "254:2"]));
        assert_eq!(system.view().holders("254:2".parse().unwrap()).unwrap(), ["dm-0"]);
    }

    #[test]
    fn a_root_in_a_loop_file_rests_on_that_file_and_its_disk() {
        let mut system = FakeSystem::new();
        system.disk("vda", "254:0", 1 << 30, 512);
        system.partition("vda", 3, "254:3", 1 << 20, 1 << 28);
        system.disk("loop0", "7:0", 1 << 28, 512);
        system.bind("loop0", "/run/initramfs/live/slots/a.img");
        system.mount("254:3", "/run/initramfs/live", "ext4", "/dev/vda3", "rw");
        system.mount("7:0", "/", "squashfs", "/dev/loop0", "ro");
        let found = lineage(&system, "/");
        assert_eq!(found.devices, ids(&["7:0", "254:3"]));
        assert_eq!(found.files, BTreeSet::from([PathBuf::from("/run/initramfs/live/slots/a.img")]));
    }

    #[test]
    fn an_overlay_rests_on_its_lowest_layer_even_when_it_hides_it() {
        let mut system = FakeSystem::new();
        system.disk("vda", "254:0", 1 << 30, 512);
        system.partition("vda", 2, "254:2", 1 << 20, 1 << 28);
        system.partition("vda", 4, "254:4", 1 << 29, 1 << 28);
        system.mount("254:4", "/", "ext4", "/dev/vda4", "rw");
        system.mount("254:2", "/usr", "ext4", "/dev/vda2", "ro");
        system.mount("0:60", "/usr", "overlay", "sysext", "ro,lowerdir=/run/ext\\134:1/usr:/usr,upperdir=/var/x");
        assert_eq!(lineage(&system, "/usr").devices, ids(&["254:2"]));
        system.mount("0:61", "/opt", "overlay", "o", "ro,lowerdir+=/run/x,lowerdir+=/srv");
        assert_eq!(lineage(&system, "/opt").devices, ids(&["254:4"]));
    }

    #[test]
    fn what_is_written_to_an_overlay_rests_on_its_upper_layer() {
        let mut system = FakeSystem::new();
        let root = system.folder.path().join("state");
        std::fs::create_dir_all(root.join("var")).unwrap();
        let at = root.to_str().unwrap().to_owned();
        system.disk("vda", "254:0", 1 << 30, 512);
        system.partition("vda", 2, "254:2", 1 << 20, 1 << 28);
        system.partition("vda", 4, "254:4", 1 << 29, 1 << 28);
        system.mount("254:2", "/", "ext4", "/dev/vda2", "ro");
        system.mount("254:4", "/upper", "ext4", "/dev/vda4", "rw");
        let folder = |system: &FakeSystem| system.view().lineage_of_folder(&root.join("var")).unwrap().devices;
        assert_eq!(folder(&system), ids(&["254:2"]), "on the root");
        system.mount("0:60", &at, "overlay", "o", "rw,lowerdir=/usr,upperdir=/upper/x,workdir=/upper/y");
        assert_eq!(folder(&system), ids(&["254:4"]), "on an overlay");
        system.mount("0:61", &at, "overlay", "o", "ro,lowerdir=/upper:/usr");
        assert_eq!(folder(&system), ids(&["254:2"]), "on one that cannot be written");
        system.mount("0:62", &at, "tmpfs", "tmpfs", "rw");
        assert_eq!(folder(&system), ids(&[]), "in memory");
        assert!(system.view().lineage_of_folder(&root.join("none")).is_err());
    }

    #[test]
    fn a_file_system_of_many_devices_is_found_by_its_source() {
        let mut system = FakeSystem::new();
        system.disk("vda", "254:0", 1 << 30, 512);
        system.partition("vda", 2, "254:2", 1 << 20, 1 << 28);
        system.mount("0:33", "/", "btrfs", "/dev/vda2", "rw,subvol=/root");
        assert_eq!(lineage(&system, "/").devices, ids(&["254:2"]));
        system.mount("0:34", "/tmp", "tmpfs", "tmpfs", "rw");
        assert_eq!(lineage(&system, "/tmp"), Lineage::default());
    }

    #[test]
    fn a_ring_of_devices_ends() {
        let mut system = FakeSystem::new();
        system.disk("dm-0", "253:0", 1 << 28, 512);
        system.disk("dm-1", "253:1", 1 << 28, 512);
        system.stack("dm-0", "dm-1");
        system.stack("dm-1", "dm-0");
        system.mount("253:0", "/", "ext4", "/dev/mapper/root", "rw");
        assert_eq!(lineage(&system, "/").devices, ids(&["253:0", "253:1"]));
    }

    #[test]
    fn escapes_and_malformed_lines_are_told_apart() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root\\134x rw,errors=continue";
        let mount = parse_mount(line).unwrap();
        assert_eq!(mount.mount_point, Path::new("/mnt 2"));
        assert_eq!(mount.source, "/dev/root\\x");
        for bad in [&b"36 35"[..], b"36 35 x:0 / / rw - ext4 a b", b"36 35 98:0 / / rw ext4 a b", b"\xff\xfe - - - -"] {
            assert!(parse_mount(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn this_machine_is_readable() {
        let view = SystemView::default();
        assert!(view.mounts().unwrap().iter().any(|mount| mount.mount_point == Path::new("/")));
        view.swaps().unwrap();
        view.loop_devices().unwrap();
    }
}
