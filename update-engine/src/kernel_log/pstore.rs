//! pstore: where a kernel that dies leaves the end of its log, in as many files as its store needs.
//!
//! A dump is the files `dmesg-STORE-ID` of one kernel's death, each `TITLE#N PartM`, a line end, and a piece of the log. Part 1 is the end
//! of the log, higher ones come before it; ramoops has a part 1 alone. In `/sys/fs/pstore` a file has the time of its dump; systemd-pstore
//! moves it below `/var/lib/systemd/pstore`, where it has the time of the move. With UEFI the id begins with the seconds since 1970:
//! `SECONDS` 2 digits of the part, 3 of N. Those seconds are of the part, not of the dump: where the firmware is slow to write, the parts of one dump have
//! several, and systemd-pstore puts them into as many folders.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::Settings;

/// Files looked at in all; a store of 64 KiB holds some dozens.
const MAX_FILES: usize = 4096;
/// Files read, the newest.
const MAX_READ: usize = 128;
/// Longest piece of a log.
const MAX_PIECE_BYTES: u64 = 256 * 1024;
/// Folders below each other in which systemd-pstore puts its files: `SECONDS/NUMBER/`.
const MAX_DEPTH: usize = 3;
/// Time in which one dump is written.
const ONE_DUMP: Duration = Duration::from_secs(10);
/// Time in which systemd-pstore moves what it has found in one boot.
const ONE_MOVE: Duration = Duration::from_secs(60);

/// Where a host has pstore.
pub(super) struct Places {
    live: PathBuf,
    archive: PathBuf,
    /// Somebody empties pstore at every boot.
    is_emptied: bool,
}

impl Places {
    pub(super) fn of(settings: &Settings) -> Self {
        let systemd = ["usr/lib/systemd/systemd-pstore", "lib/systemd/systemd-pstore"];
        Self {
            live: settings.under_sysroot("sys/fs/pstore"),
            archive: settings.under_sysroot("var/lib/systemd/pstore"),
            is_emptied: systemd.iter().any(|program| settings.under_sysroot(program).exists()),
        }
    }
}

/// What kernels have left, since some time.
pub(super) struct Left {
    pieces: Vec<Piece>,
}

struct Piece {
    path: PathBuf,
    modified: SystemTime,
    /// Of its name; rises with time where the store counts so.
    id: u64,
    /// The kernel's word and its number: `Panic#1`.
    title: String,
    part: u32,
    log: Vec<u8>,
}

/// Reads what was left since then. What cannot be read, or is no dump of a log, is left out.
pub(super) fn left_since(places: &Places, since: SystemTime) -> Left {
    let newer = |(_, modified): &(PathBuf, SystemTime)| *modified > since;
    let mut found: Vec<_> = dumps_in(&places.live, 0).into_iter().filter(newer).collect();
    let mut moved: Vec<_> = dumps_in(&places.archive, MAX_DEPTH).into_iter().filter(newer).collect();
    moved_at_once(&mut moved);
    found.append(&mut moved);
    found.sort_by_key(|(_, modified)| std::cmp::Reverse(*modified));
    found.truncate(MAX_READ);
    Left { pieces: found.into_iter().filter_map(|(path, modified)| Piece::read(path, modified)).collect() }
}

/// The order in which they were moved in one boot says nothing of the order of the dumps.
fn moved_at_once(moved: &mut [(PathBuf, SystemTime)]) {
    let Some(last) = moved.iter().map(|(_, modified)| *modified).max() else { return };
    for (_, modified) in moved {
        if last.duration_since(*modified).is_ok_and(|before| before <= ONE_MOVE) {
            *modified = last;
        }
    }
}

fn dumps_in(folder: &Path, depth: usize) -> Vec<(PathBuf, SystemTime)> {
    let mut found = Vec::new();
    // A host without pstore has no such folder.
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries.take(MAX_FILES).flatten() {
        let Ok(data) = entry.metadata() else { continue };
        if data.is_dir() && depth > 0 {
            found.append(&mut dumps_in(&entry.path(), depth - 1));
        } else if data.is_file() && is_dump(&entry.file_name().to_string_lossy()) {
            found.extend(data.modified().ok().map(|modified| (entry.path(), modified)));
        }
        if found.len() >= MAX_FILES {
            break;
        }
    }
    found
}

/// What the kernel could not unpack is of no use here either.
fn is_dump(name: &str) -> bool {
    name.starts_with("dmesg-") && !name.ends_with(".enc.z")
}

impl Piece {
    fn read(path: PathBuf, modified: SystemTime) -> Option<Self> {
        let mut bytes = Vec::new();
        File::open(&path).ok()?.take(MAX_PIECE_BYTES).read_to_end(&mut bytes).ok()?;
        let name = path.file_name()?.to_str()?;
        let id = name.rsplit('-').next().and_then(|id| id.parse().ok()).unwrap_or(0);
        let (title, part, log) = match head(&bytes) {
            Some((title, part, length)) => (title, part, bytes.split_off(length)),
            None => (String::new(), 1, bytes),
        };
        Some(Self { path, modified, id, title, part, log })
    }

    /// The newest of several is of the dump that is wanted.
    fn age(&self) -> (SystemTime, u64, u32, u64) {
        let number = self.title.rsplit('#').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        (self.modified, self.id / 100_000, number, self.id)
    }

    /// When its part was written, by a clock that may never have been set, where the id says so.
    fn written_at(&self) -> Option<Duration> {
        let is_efi = self.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("dmesg-efi"));
        is_efi.then(|| Duration::from_secs(self.id / 100_000))
    }

    fn is_of_one_dump_with(&self, other: &Self) -> bool {
        let is_near = match (self.written_at(), other.written_at()) {
            (Some(one), Some(another)) => one.abs_diff(another) <= ONE_DUMP,
            _ => {
                let apart = self.modified.max(other.modified).duration_since(self.modified.min(other.modified));
                self.path.parent() == other.path.parent() && apart.unwrap_or_default() <= ONE_DUMP
            }
        };
        self.title == other.title && is_near
    }
}

/// `Panic#1 Part3` and its line end: title, part, and how long that is.
fn head(bytes: &[u8]) -> Option<(String, u32, usize)> {
    let end = bytes.iter().take(80).position(|&byte| byte == b'\n')?;
    let (title, part) = std::str::from_utf8(&bytes[..end]).ok()?.trim_end().rsplit_once(" Part")?;
    Some((title.to_owned(), part.parse().ok()?, end + 1))
}

impl Left {
    /// The log of the newest dump, from its highest part down; empty where nothing was left.
    pub(super) fn newest(&self) -> Vec<u8> {
        let mut pieces: Vec<&Piece> = self.pieces.iter().collect();
        pieces.sort_by_key(|piece| std::cmp::Reverse(piece.age()));
        let mut parts: BTreeMap<u32, &Piece> = BTreeMap::new();
        // Firmware may take long for a dump, but not between two of its parts.
        let mut last = pieces.first().copied();
        for piece in pieces {
            if !last.is_some_and(|last| piece.is_of_one_dump_with(last)) {
                continue;
            }
            last = Some(piece);
            // Several deaths of one kind within seconds: of each part the newest.
            let known = parts.entry(piece.part).or_insert(piece);
            if known.age() < piece.age() {
                *known = piece;
            }
        }
        parts.values().rev().flat_map(|piece| lines(&piece.log)).collect()
    }

    /// Makes room in pstore, where nobody else does.
    pub(super) fn clear(&self, places: &Places) {
        if places.is_emptied {
            return;
        }
        for piece in self.pieces.iter().filter(|piece| piece.path.parent() == Some(places.live.as_path())) {
            if let Err(error) = fs::remove_file(&piece.path) {
                tracing::warn!("{}: {error}", piece.path.display());
            }
        }
    }
}

/// Whole lines, without the level that stands before each: "<6>[    1.234567] words".
fn lines(log: &[u8]) -> Vec<u8> {
    let lines = log.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.flat_map(|line| [without_level(line), b"\n"].concat()).collect()
}

fn without_level(line: &[u8]) -> &[u8] {
    let end = line.iter().take(5).position(|&byte| byte == b'>');
    match end {
        Some(end @ 2..) if line[0] == b'<' && line[1..end].iter().all(u8::is_ascii_digit) => &line[end + 1..],
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with nothing but these places. Times are seconds after the arming.
    struct Host {
        folder: tempfile::TempDir,
        places: Places,
    }

    const ARMED_AT: SystemTime = SystemTime::UNIX_EPOCH;

    impl Host {
        fn new(is_emptied: bool) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let places = Places { live: folder.path().join("pstore"), archive: folder.path().join("archive"), is_emptied };
            for folder in [&places.live, &places.archive] {
                fs::create_dir(folder).unwrap();
            }
            Self { folder, places }
        }

        fn put(&self, name: &str, at_s: u64, text: &str) -> &Self {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(ARMED_AT + Duration::from_secs(at_s)).unwrap();
            self
        }

        fn newest_since(&self, since_s: u64) -> String {
            String::from_utf8(left_since(&self.places, ARMED_AT + Duration::from_secs(since_s)).newest()).unwrap()
        }
    }

    const PANIC: &str =
        "Panic#1 Part1\n<0>[    2.5] Kernel panic - not syncing: no init\n<0>[    2.6] ---[ end Kernel panic ]---\n";
    const PANICKED: &str = "[    2.5] Kernel panic - not syncing: no init\n[    2.6] ---[ end Kernel panic ]---\n";

    #[test]
    fn the_parts_of_a_dump_are_put_together_from_the_highest_down() {
        let host = Host::new(false);
        host.put("pstore/dmesg-efi-170000000001001", 100, PANIC);
        host.put("pstore/dmesg-efi-170000000002001", 101, "Panic#1 Part2\n<6>[    1.0] two\n<4>[    2.0] three\n");
        host.put("pstore/dmesg-efi-170000000003001", 101, "Panic#1 Part3\n<5>[    0.0] one\n");
        host.put("pstore/console-ramoops-0", 200, "everything else");
        host.put("pstore/dmesg-efi-170000000004001.enc.z", 200, "packed");
        assert_eq!(host.newest_since(0), format!("[    0.0] one\n[    1.0] two\n[    2.0] three\n{PANICKED}"));
    }

    #[test]
    fn of_several_dumps_the_newest_counts_and_what_is_older_than_the_arming_does_not() {
        let host = Host::new(false);
        host.put("pstore/dmesg-ramoops-0", 300, PANIC);
        host.put("pstore/dmesg-ramoops-1", 100, "Panic#1 Part1\n<0>[    9.0] of the first try\n");
        host.put("pstore/dmesg-ramoops-2", 299, "Oops#1 Part1\n<0>[    2.0] BUG: before the panic\n");
        assert_eq!(host.newest_since(0), PANICKED);
        assert_eq!(host.newest_since(300), "");
        // An oops and the panic it leads to may be of the same second.
        host.put("pstore/dmesg-efi-170000000009001", 400, "Oops#1 Part9\n<0>[    2.0] BUG: before the panic\n");
        host.put("pstore/dmesg-efi-170000000001002", 400, "Panic#2 Part1\n<0>[    2.5] Fatal exception\n");
        assert_eq!(host.newest_since(0), "[    2.5] Fatal exception\n");
    }

    #[test]
    fn what_systemd_has_moved_is_found_and_the_order_of_moving_says_nothing() {
        let host = Host::new(true);
        // The newest dump is moved first.
        host.put("archive/1700000050/001/dmesg-efi-170000005002001", 500, "Panic#1 Part2\n<6>[    1.0] two\n");
        host.put("archive/1700000050/001/dmesg-efi-170000005001001", 500, PANIC);
        host.put("archive/1700000050/001/dmesg.txt", 502, "all of it");
        host.put("archive/1700000000/001/dmesg-efi-170000000001001", 501, "Panic#1 Part1\n<0>[    9.0] of the first try\n");
        assert_eq!(host.newest_since(400), format!("[    1.0] two\n{PANICKED}"));
    }

    #[test]
    fn a_dump_that_took_the_firmware_longer_than_two_dumps_lie_apart_is_one_dump_all_the_same() {
        // By a clock that was set, and by one that never was.
        for clock in [1_700_000_000, 90] {
            let host = Host::new(true);
            for part in 1..=12 {
                let second = clock + 2 * part;
                let text = if part == 1 { &PANIC["Panic#1 Part1\n".len()..] } else { &format!("<6>[   {part}.0] line\n") };
                let name = format!("archive/{second}/001/dmesg-efi-{second}{part:02}001");
                host.put(&name, 500, &format!("Panic#1 Part{part}\n{text}"));
            }
            // One of a boot before.
            let second = clock - 60;
            host.put(&format!("archive/{second}/001/dmesg-efi-{second}01001"), 500, "Panic#1 Part1\n<0>[    9.0] before\n");
            let newest = host.newest_since(400);
            assert!(newest.starts_with("[   12.0] line\n") && newest.ends_with(PANICKED), "{clock}: {newest}");
            assert_eq!(newest.lines().filter(|line| line.ends_with("line")).count(), 11, "{clock}: {newest}");
        }
    }

    #[test]
    fn a_dump_that_took_the_firmware_some_seconds_is_one_dump() {
        let host = Host::new(true);
        for (part, second, text) in
            [(1, 40, &PANIC["Panic#1 Part1\n".len()..]), (2, 41, "<6>[    1.0] two\n"), (3, 43, "<5>[    0.0] one\n")]
        {
            let name = format!("archive/17000000{second}/001/dmesg-efi-17000000{second}0{part}001");
            host.put(&name, 500, &format!("Panic#1 Part{part}\n{text}"));
        }
        assert_eq!(host.newest_since(400), format!("[    0.0] one\n[    1.0] two\n{PANICKED}"));
    }

    #[test]
    fn only_what_was_kept_is_removed_and_only_where_nobody_else_does_that() {
        for is_emptied in [false, true] {
            let host = Host::new(is_emptied);
            host.put("pstore/dmesg-ramoops-0", 100, PANIC).put("pstore/dmesg-ramoops-1", 10, PANIC);
            host.put("pstore/console-ramoops-0", 100, "more").put("archive/dmesg-ramoops-0", 100, PANIC);
            let left = left_since(&host.places, ARMED_AT + Duration::from_secs(50));
            left.clear(&host.places);
            let is_there = |name: &str| host.folder.path().join(name).exists();
            assert_eq!(is_there("pstore/dmesg-ramoops-0"), is_emptied);
            for other in ["pstore/dmesg-ramoops-1", "pstore/console-ramoops-0", "archive/dmesg-ramoops-0"] {
                assert!(is_there(other), "{other}");
            }
        }
    }

    #[test]
    fn folders_that_are_not_there_files_of_any_bytes_and_links_are_no_trouble() {
        let host = Host::new(false);
        fs::remove_dir(&host.places.archive).unwrap();
        assert_eq!(host.newest_since(0), "");
        fs::write(host.places.live.join("dmesg-erst-1"), [0xFF, b'\n', 0x00, b'<', b'>', b'\n', b'<']).unwrap();
        std::os::unix::fs::symlink("/dev/zero", host.places.live.join("dmesg-erst-2")).unwrap();
        let left = left_since(&host.places, ARMED_AT);
        assert_eq!(left.newest(), [0xFF, b'\n', 0x00, b'<', b'>', b'\n', b'<', b'\n']);
    }

    #[test]
    fn an_endless_heap_of_files_is_read_within_bounds() {
        let host = Host::new(false);
        for number in 0..2 * MAX_READ {
            host.put(&format!("pstore/dmesg-ramoops-{number}"), 100 + u64::try_from(number).unwrap(), PANIC);
        }
        assert_eq!(left_since(&host.places, ARMED_AT).pieces.len(), MAX_READ);
        assert_eq!(host.newest_since(0), PANICKED);
    }
}
