//! Reading FAT12, FAT16 and FAT32 as firmware and boot loaders do: what stands in a folder, what a file holds. For disks that were
//! rebuilt after a power cut, of which there are too many to ask a program about each.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// Most folders that are walked through.
const MAX_FOLDERS: usize = 1_000;
/// Longest chain that is followed.
const MAX_CLUSTERS: u64 = 100_000;
const ENTRY: usize = 32;
const LONG_NAME: u8 = 0x0F;
/// In the number of the piece that ends a long name, which stands first.
const LAST_PIECE: u8 = 0x40;
const VOLUME: u8 = 0x08;
const FOLDER: u8 = 0x10;
const DELETED: u8 = 0xE5;

/// A file system on a stretch of a disk.
#[derive(Debug)]
pub struct Fat<'a> {
    disk: &'a File,
    start: u64,
    cluster_bytes: u64,
    /// The first copy of the table, in whole.
    table: Vec<u8>,
    root: Root,
    data_at: u64,
    kind: Kind,
    /// Clusters that there are; the first one has number 2.
    clusters: u32,
}

#[derive(Clone, Copy, Debug)]
enum Root {
    Fixed { at: u64, bytes: u64 },
    Cluster(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fat12,
    Fat16,
    Fat32,
}

/// The path of a file, and what it holds, or why that cannot be read.
pub type Held = (String, Result<Vec<u8>, String>);

/// What stands in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its long name, if it has one; else the short one, in small letters.
    pub name: String,
    /// It is a folder.
    pub is_folder: bool,
    first: u32,
    size: u64,
}

impl<'a> Fat<'a> {
    /// The file system that begins at `start` bytes of a disk.
    ///
    /// # Errors
    /// What is not as it has to be.
    pub fn open(disk: &'a File, start: u64) -> Result<Self, String> {
        let mut boot = [0; 512];
        disk.read_exact_at(&mut boot, start).map_err(|error| error.to_string())?;
        let (short, long) = (
            |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]])),
            |at: usize| u64::from(u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]])),
        );
        let either = |small: u64, large: u64| if small == 0 { large } else { small };
        let (sector, per_cluster, reserved) = (short(11), u64::from(boot[13]), short(14));
        let (fats, root_entries) = (u64::from(boot[16]), short(17));
        let (total, fat_sectors) = (either(short(19), long(32)), either(short(22), long(36)));
        if boot[510..] != [0x55, 0xAA] || sector == 0 || per_cluster == 0 || fats == 0 || fat_sectors == 0 {
            return Err("its first sector is that of no FAT file system".to_owned());
        }
        let root_sectors = (root_entries * ENTRY as u64).div_ceil(sector);
        let before_data = reserved + fats * fat_sectors + root_sectors;
        let clusters = total.saturating_sub(before_data) / per_cluster;
        let kind = match clusters {
            0..4085 => Kind::Fat12,
            4085..65_525 => Kind::Fat16,
            _ => Kind::Fat32,
        };
        let root = match kind {
            Kind::Fat32 => Root::Cluster(u32::try_from(long(44)).map_err(|error| error.to_string())?),
            _ => Root::Fixed { at: start + (reserved + fats * fat_sectors) * sector, bytes: root_sectors * sector },
        };
        let mut table = vec![0; usize::try_from(fat_sectors * sector).map_err(|error| error.to_string())?];
        disk.read_exact_at(&mut table, start + reserved * sector).map_err(|error| error.to_string())?;
        let clusters = u32::try_from(clusters).map_err(|error| error.to_string())?;
        let (cluster_bytes, data_at) = (per_cluster * sector, start + before_data * sector);
        Ok(Self { disk, start, cluster_bytes, table, root, data_at, kind, clusters })
    }

    /// What a file holds; `None` if it is not there.
    ///
    /// # Errors
    /// If its chain of clusters is broken.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(items) = self.list(folder)? else { return Ok(None) };
        let Some(item) = items.into_iter().find(|item| !item.is_folder && item.name.eq_ignore_ascii_case(name)) else {
            return Ok(None);
        };
        self.content(&item).map(Some).map_err(|why| format!("{path}: {why}"))
    }

    fn content(&self, item: &Item) -> Result<Vec<u8>, String> {
        let size = usize::try_from(item.size).unwrap_or(usize::MAX);
        let mut bytes = if size == 0 { Vec::new() } else { self.chain(item.first, size)? };
        if bytes.len() < size {
            return Err(format!("it has {size} bytes by its entry, and {} by its clusters", bytes.len()));
        }
        bytes.truncate(size);
        Ok(bytes)
    }

    /// All files of at most so many bytes, whatever folder they are in. Of two files of one name in a folder the first counts.
    ///
    /// # Errors
    /// If a folder cannot be read, or there are too many of them.
    pub fn walk(&self, most: u64) -> Result<Vec<Held>, String> {
        let mut found = Vec::<Held>::new();
        for (path, item) in self.items()? {
            if !item.is_folder && item.size <= most && !found.iter().any(|(known, _)| *known == path) {
                found.push((path, self.content(&item)));
            }
        }
        Ok(found)
    }

    /// The paths of all files.
    ///
    /// # Errors
    /// If a folder cannot be read, or there are too many of them.
    pub fn paths(&self) -> Result<Vec<String>, String> {
        Ok(self.items()?.into_iter().filter(|(_, item)| !item.is_folder).map(|(path, _)| path).collect())
    }

    /// All that stands in any folder, by its path.
    fn items(&self) -> Result<Vec<(String, Item)>, String> {
        let (mut found, mut folders) = (Vec::new(), vec![String::new()]);
        for _ in 0..MAX_FOLDERS {
            let Some(folder) = folders.pop() else { return Ok(found) };
            for item in self.list(&folder)?.unwrap_or_default() {
                let path = if folder.is_empty() { item.name.clone() } else { format!("{folder}/{}", item.name) };
                if item.is_folder {
                    folders.push(path.clone());
                }
                found.push((path, item));
            }
        }
        Err("its folders have no end".to_owned())
    }

    /// What stands in a folder (`""` = the root); `None` if that is not there.
    ///
    /// # Errors
    /// If a chain of clusters is broken.
    pub fn list(&self, path: &str) -> Result<Option<Vec<Item>>, String> {
        let mut bytes = match self.root {
            Root::Fixed { at, bytes } => self.bytes(at, bytes)?,
            Root::Cluster(first) => self.chain(first, usize::MAX)?,
        };
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let found = items(&bytes).into_iter().find(|item| item.is_folder && item.name.eq_ignore_ascii_case(part));
            let Some(folder) = found else { return Ok(None) };
            bytes = self.chain(folder.first, usize::MAX)?;
        }
        Ok(Some(items(&bytes)))
    }

    /// Checks that every file has its clusters to itself, and that none of them is free: what shares one is overwritten, and what lies in a
    /// free one is, too, by the next file that is made; and whoever removes either has the partition mounted read-only by Linux.
    ///
    /// # Errors
    /// Which file has none of its own.
    pub fn check_clusters(&self) -> Result<(), String> {
        let mut owners = HashMap::<u32, String>::new();
        for (path, item) in self.items()? {
            for cluster in self.clusters_of(&item).map_err(|why| format!("{path}: {why}"))? {
                if let Some(other) = owners.insert(cluster, path.clone()) {
                    return Err(format!("{path} and {other} both lie in cluster {cluster}"));
                }
            }
        }
        Ok(())
    }

    /// The clusters that are taken, and in no file and no folder, ascending: whoever checks the file system makes files of them that nobody
    /// removes.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn lost(&self) -> Result<Vec<u32>, String> {
        let root = if let Root::Cluster(first) = self.root { Some(first) } else { None };
        let firsts = self.items()?.into_iter().map(|(_, item)| item.first).chain(root);
        let mut owned = HashSet::new();
        for first in firsts {
            let mut next = Some(first);
            // One that is there already is in a chain that was followed, or closes a circle.
            while let Some(cluster) = next.filter(|cluster| *cluster >= 2 && owned.insert(*cluster)) {
                next = self.next(cluster)?;
            }
        }
        let is_taken = |cluster: &u32| self.entry(*cluster).map(|value| value != 0);
        let all = (2..self.clusters.saturating_add(2)).filter(|cluster| !owned.contains(cluster));
        all.filter_map(|cluster| is_taken(&cluster).map(|taken| taken.then_some(cluster)).transpose()).collect()
    }

    /// The clusters of a file by its table, as many as its size takes; of a folder, all of them.
    fn clusters_of(&self, item: &Item) -> Result<Vec<u32>, String> {
        let wanted = if item.is_folder { u64::MAX } else { item.size.div_ceil(self.cluster_bytes) };
        let (mut clusters, mut next) = (Vec::new(), (wanted > 0).then_some(item.first));
        while let Some(cluster) = next.filter(|_| (clusters.len() as u64) < wanted) {
            let after = self.entry(cluster)?;
            if cluster < 2 || after == 0 {
                return Err(format!("it lies in cluster {cluster}, which is free"));
            }
            if clusters.len() as u64 > MAX_CLUSTERS {
                return Err("its chain of clusters has no end".to_owned());
            }
            clusters.push(cluster);
            next = self.next(cluster)?;
        }
        if !item.is_folder && (clusters.len() as u64) < wanted {
            return Err(format!("it has {} bytes by its entry, and {} clusters", item.size, clusters.len()));
        }
        Ok(clusters)
    }

    fn bytes(&self, at: u64, length: u64) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; usize::try_from(length).map_err(|error| error.to_string())?];
        self.disk.read_exact_at(&mut bytes, at).map_err(|error| format!("at byte {}: {error}", at - self.start))?;
        Ok(bytes)
    }

    /// As much of a chain as is wanted: firmware and loaders look no further either.
    fn chain(&self, first: u32, wanted: usize) -> Result<Vec<u8>, String> {
        let wanted = u64::try_from(wanted).unwrap_or(u64::MAX).div_ceil(self.cluster_bytes).max(1);
        // Clusters in a row, which are read at once.
        let (mut runs, mut count, mut next) = (Vec::<Range<u32>>::new(), 0, Some(first));
        while let Some(cluster) = next.filter(|_| count < wanted) {
            if cluster < 2 {
                return Err(format!("a chain of clusters leads to number {cluster}"));
            }
            if count >= MAX_CLUSTERS {
                return Err("a chain of clusters has no end".to_owned());
            }
            match runs.last_mut() {
                Some(run) if run.end == cluster => run.end += 1,
                _ => runs.push(cluster..cluster + 1),
            }
            count += 1;
            next = if count < wanted { self.next(cluster)? } else { None };
        }
        let mut bytes = Vec::new();
        for run in runs {
            let at = self.data_at + u64::from(run.start - 2) * self.cluster_bytes;
            bytes.append(&mut self.bytes(at, u64::from(run.end - run.start) * self.cluster_bytes)?);
        }
        Ok(bytes)
    }

    fn next(&self, cluster: u32) -> Result<Option<u32>, String> {
        let end = match self.kind {
            Kind::Fat12 => 0xFF8,
            Kind::Fat16 => 0xFFF8,
            Kind::Fat32 => 0x0FFF_FFF8,
        };
        self.entry(cluster).map(|value| (value < end).then_some(value))
    }

    /// What stands in the table for a cluster: 0 = it is free.
    fn entry(&self, cluster: u32) -> Result<u32, String> {
        let number = usize::try_from(cluster).map_err(|error| error.to_string())?;
        let word = |at: usize, length: usize| -> Result<u32, String> {
            let bytes = self.table.get(at..at + length).ok_or_else(|| format!("there is no cluster {cluster}"))?;
            Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
        };
        match self.kind {
            Kind::Fat12 => Ok(word(number + number / 2, 2)? >> (4 * (cluster & 1)) & 0xFFF),
            Kind::Fat16 => word(number * 2, 2),
            Kind::Fat32 => Ok(word(number * 4, 4)? & 0x0FFF_FFFF),
        }
    }
}

/// Some of a long name.
struct Piece {
    number: u8,
    checksum: u8,
    units: [u16; 13],
}

/// The entries of a folder, long names put together.
fn items(folder: &[u8]) -> Vec<Item> {
    let (mut found, mut long) = (Vec::new(), Vec::<Piece>::new());
    for entry in folder.chunks_exact(ENTRY) {
        match (entry[0], entry[11]) {
            (0, _) => break,
            (DELETED, _) => long.clear(),
            (number, LONG_NAME) => long.push(Piece { number, checksum: entry[13], units: units_of(entry) }),
            (_, attributes) if attributes & VOLUME != 0 => long.clear(),
            (_, attributes) => {
                let name = long_name(&mut long, checksum(&entry[..11])).unwrap_or_else(|| short_name(entry));
                let half = |at: usize| u32::from(u16::from_le_bytes([entry[at], entry[at + 1]]));
                let size = u64::from(half(28) | half(30) << 16);
                if name != "." && name != ".." {
                    found.push(Item { name, is_folder: attributes & FOLDER != 0, first: half(26) | half(20) << 16, size });
                }
            }
        }
    }
    found
}

fn units_of(entry: &[u8]) -> [u16; 13] {
    let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
    let mut units = [0; 13];
    units.iter_mut().zip(places).for_each(|(unit, at)| *unit = u16::from_le_bytes([entry[at], entry[at + 1]]));
    units
}

/// The pieces stand from the last, which is marked, to the first, and belong to the short name behind them.
fn long_name(pieces: &mut Vec<Piece>, checksum: u8) -> Option<String> {
    let pieces = std::mem::take(pieces);
    let is_whole = !pieces.is_empty()
        && pieces.iter().enumerate().rev().zip(1..).all(|((index, piece), number)| {
            let expected = if index == 0 { number | LAST_PIECE } else { number };
            piece.number == expected && piece.checksum == checksum
        });
    let units: Vec<u16> = pieces.iter().rev().flat_map(|piece| piece.units).take_while(|unit| *unit != 0).collect();
    if is_whole { String::from_utf16(&units).ok() } else { None }
}

/// Of a short name, in the pieces of its long one.
fn checksum(short: &[u8]) -> u8 {
    short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

fn short_name(entry: &[u8]) -> String {
    let part = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_ascii_lowercase();
    let (stem, suffix) = (part(&entry[..8]), part(&entry[8..11]));
    if suffix.is_empty() { stem } else { format!("{stem}.{suffix}") }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_mtools_writes_is_read() {
        let tools = ["/usr/sbin/mkfs.vfat", "/usr/bin/mcopy", "/usr/bin/mmd"];
        if let Some(missing) = tools.iter().find(|tool| !std::path::Path::new(tool).exists()) {
            println!("skipped: there is no {missing}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let run = |program: &str, words: &[&str]| {
            let output = Command::new(program).current_dir(dir.path()).args(words).output().unwrap();
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let content: Vec<u8> = (0..70_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        std::fs::write(dir.path().join("file"), &content).unwrap();
        std::fs::write(dir.path().join("empty"), "").unwrap();
        for (bits, megabytes) in [("12", 2), ("16", 48), ("32", 40)] {
            let image = dir.path().join("fat.img");
            File::create(&image).unwrap().set_len((megabytes << 20) + 4096).unwrap();
            run("/usr/sbin/mkfs.vfat", &["-F", bits, "fat.img"]);
            run("mmd", &["-i", "fat.img", "::/loader", "::/loader/entries"]);
            run("mcopy", &["-i", "fat.img", "file", "::/loader/entries/os-b+3-0.conf"]);
            run("mcopy", &["-i", "fat.img", "empty", "::/loader/entries/a name of more than thirteen.conf"]);
            run("mcopy", &["-i", "fat.img", "file", "::/GRUBENV"]);
            let disk = File::open(&image).unwrap();
            let fat = Fat::open(&disk, 0).unwrap();
            assert_eq!(fat.read("loader/entries/os-b+3-0.conf").unwrap().as_ref(), Some(&content), "FAT{bits}");
            assert_eq!(fat.read("grubenv").unwrap().as_ref(), Some(&content));
            assert_eq!(fat.read("loader/entries/a name of more than thirteen.conf").unwrap(), Some(vec![]));
            assert_eq!((fat.read("loader/none").unwrap(), fat.list("none").unwrap()), (None, None));
            let mut names: Vec<_> = fat.list("loader/entries").unwrap().unwrap().into_iter().map(|item| item.name).collect();
            names.sort();
            assert_eq!(names, ["a name of more than thirteen.conf", "os-b+3-0.conf"]);
            let mut files = fat.walk(70_000).unwrap();
            files.sort();
            let expected = ["grubenv", "loader/entries/a name of more than thirteen.conf", "loader/entries/os-b+3-0.conf"];
            let contents = [content.clone(), vec![], content.clone()].map(Ok);
            assert_eq!(files, expected.map(str::to_owned).into_iter().zip(contents).collect::<Vec<_>>(), "FAT{bits}");
            assert_eq!(fat.walk(69_999).unwrap().len(), 1, "what is too long is left out");
            assert_eq!(fat.check_clusters(), Ok(()), "FAT{bits}");
        }
    }

    #[test]
    fn files_that_share_clusters_and_files_in_free_ones_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("fat.img");
        // FAT12 of 64 sectors: table in sector 1, 16 entries of the root in sector 2, clusters of a sector from sector 3 on.
        let mut bytes = vec![0; 64 * 512];
        (bytes[11..13]).copy_from_slice(&512_u16.to_le_bytes());
        (bytes[13], bytes[14], bytes[16], bytes[17], bytes[19], bytes[22]) = (1, 1, 1, 16, 64, 1);
        bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
        // Clusters 2 → 3, and 4; each ends its chain.
        bytes[512..520].copy_from_slice(&[0xF8, 0xFF, 0xFF, 0x03, 0xF0, 0xFF, 0xFF, 0x0F]);
        let mut put = |entry: usize, name: &[u8; 11], first: u8, size: u16| {
            let at = 2 * 512 + entry * 32;
            bytes[at..at + 11].copy_from_slice(name);
            bytes[at + 26] = first;
            bytes[at + 28..at + 30].copy_from_slice(&size.to_le_bytes());
            std::fs::write(&image, &bytes).unwrap();
            let disk = File::open(&image).unwrap();
            Fat::open(&disk, 0).unwrap().check_clusters()
        };
        assert_eq!(put(0, b"OS-A    CON", 2, 600), Ok(()));
        assert_eq!(put(1, b"OS-B    CON", 4, 512), Ok(()));
        assert!(put(1, b"OS-B    CON", 5, 1).unwrap_err().contains("os-b.con: it lies in cluster 5, which is free"));
        assert!(put(1, b"OS-B    CON", 4, 513).unwrap_err().contains("os-b.con: it has 513 bytes"));
        assert!(put(1, b"OS-B    CON", 3, 1).unwrap_err().contains("os-b.con and os-a.con both lie in cluster 3"));

        let lost = |files: &[(&[u8; 11], u8)]| {
            let mut bytes = std::fs::read(&image).unwrap();
            bytes[2 * 512..3 * 512].fill(0);
            for (entry, (name, first)) in files.iter().enumerate() {
                let at = 2 * 512 + entry * 32;
                bytes[at..at + 11].copy_from_slice(*name);
                bytes[at + 26] = *first;
            }
            std::fs::write(&image, &bytes).unwrap();
            Fat::open(&File::open(&image).unwrap(), 0).unwrap().lost()
        };
        assert_eq!(lost(&[(b"OS-A    CON", 2), (b"OS-B    CON", 4)]), Ok(vec![]));
        assert_eq!(lost(&[(b"OS-A    CON", 2)]), Ok(vec![4]));
        assert_eq!(lost(&[(b"OS-A    CON", 0)]), Ok(vec![2, 3, 4]));
    }

    #[test]
    fn what_is_no_file_system_is_said() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(Fat::open(&file, 0).unwrap_err().contains("no FAT file system"));
    }
}
