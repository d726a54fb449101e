//! Images that the file systems' own tools make, whole and damaged.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::walk::{Entries, Inode, Volume, walk};
use super::*;
use crate::filesystem::reader::{Read, Unread};

/// The same bytes for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut dice = Dice(seed | 1);
    (0..length).map(|_| dice.next().to_le_bytes()[3]).collect()
}

struct Dice(u64);

impl Dice {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        index(self.next() % limit as u64)
    }
}

fn text(seed: u64, length: usize) -> Vec<u8> {
    let words = ["slot ", "window ", "record ", "payload ", "release ", "floor ", "host ", "\n"];
    let mut dice = Dice(seed | 1);
    let mut text: Vec<u8> = Vec::new();
    while text.len() < length {
        text.extend_from_slice(words[dice.below(words.len())].as_bytes());
    }
    text.truncate(length);
    text
}

/// Small and large files, one of many extents, one of holes, a hard link, a link, and a directory of so many names that it needs an index.
fn tree(entries: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    fs::create_dir_all(dir.path().join("usr/share/many")).unwrap();
    write("small", b"hello\n");
    write("empty", b"");
    write("usr/noise", &noise(3, 1_500_003));
    write("usr/text", &text(5, 700_001));
    for entry in 0..entries {
        write(&format!("usr/share/many/a rather long name of an entry, number {entry}"), &text(entry as u64, 100 + entry * 7));
    }
    sparse(&dir.path().join("usr/holes"), 3_000_000, &[700_000, 2_999_000]);
    let pieces: Vec<u64> = (0..400).map(|piece| piece * 16_384).collect();
    sparse(&dir.path().join("usr/pieces"), 7_000_000, &pieces);
    fs::hard_link(dir.path().join("usr/text"), dir.path().join("usr/text too")).unwrap();
    std::os::unix::fs::symlink("usr", dir.path().join("link")).unwrap();
    dir
}

fn sparse(path: &Path, size: u64, places: &[u64]) {
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    places.iter().for_each(|place| file.write_all_at(&noise(*place, 1000), *place).unwrap());
}

/// Has `tool` make an image of a folder, or says why it cannot.
fn image(tool: &str, options: &str, folder: &Path, size: Option<u64>) -> Result<Vec<u8>, String> {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("image");
    let mut command = Command::new(tool);
    let options = options.split_whitespace();
    match tool {
        "mke2fs" => {
            fs::File::create(&file).unwrap().set_len(size.unwrap()).unwrap();
            command.args(["-q", "-F"]).args(options).arg("-d").arg(folder).arg(&file)
        }
        "mksquashfs" => command.arg(folder).arg(&file).args(["-quiet", "-no-progress", "-no-xattrs"]).args(options),
        _ => command.args(options).arg(&file).arg(folder),
    };
    match command.output() {
        Err(error) => Err(format!("{tool} cannot be run: {error}")),
        Ok(output) if !output.status.success() => {
            Err(format!("{tool} does not know these options: {}", String::from_utf8_lossy(&output.stderr)))
        }
        Ok(_) => Ok(fs::read(file).unwrap()),
    }
}

/// Looks at an image of the folder for each case that the tool can make, and says what was left out.
fn each<T: Copy>(tool: &str, folder: &Path, size: Option<u64>, cases: &[(&str, T)], look: impl Fn(&str, T, &[u8])) {
    let (mut looked_at, mut left_out) = (0, None);
    for (options, expected) in cases {
        match image(tool, options, folder, size) {
            Ok(image) => {
                looked_at += 1;
                look(options, *expected, &image);
            }
            Err(why) => left_out = Some(why.replace('\n', " ")),
        }
    }
    if let Some(why) = left_out {
        println!("{}skipped: {why}", if looked_at == 0 { "" } else { "partly " });
    }
}

fn regular_files(folder: &Path, below: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = format!("{below}/{}", entry.file_name().into_string().unwrap());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => regular_files(&entry.path(), &name, found),
            kind if kind.is_file() => drop(found.insert(name, fs::read(entry.path()).unwrap())),
            _ => {}
        }
    }
}

fn read(image: &[u8]) -> Result<Contents, String> {
    Contents::read(&image, image.len() as u64)
}

/// What holds of any contents, whatever they were read from.
fn sound(contents: &Contents, image: &[u8]) {
    let size = image.len() as u64;
    let mut end = 0;
    for piece in contents.pieces() {
        assert!(end <= piece.range.start && piece.range.start < piece.range.end && piece.range.end <= size, "{piece:?}");
        assert!(piece.file < contents.len());
        end = piece.range.end;
    }
    let mut at = 0;
    contents.owners(0..size, &mut |_, range| {
        assert!(range.start == at && range.end > at, "{range:?} after {at}");
        at = range.end;
    });
    assert_eq!(at, size);
    for file in (0..contents.len()).take(50) {
        let mut head = [0; 700];
        contents.read_file(&image, file, 0, &mut head).unwrap();
        assert!(contents.path(file).len() < 1 << 20);
    }
}

/// The files of `folder`, but for the names of hard links, are found and are where they are said to be.
fn faithful(contents: &Contents, image: &[u8], folder: &Path, all_of_it: bool) {
    sound(contents, image);
    assert_eq!(contents.gap, None);
    let mut expected = BTreeMap::new();
    regular_files(folder, "", &mut expected);
    let found: BTreeMap<String, u32> = (0..contents.len()).map(|file| (contents.path(file), file)).collect();
    assert_eq!(found.keys().find(|name| !expected.contains_key(*name)), None, "a file that is not there");
    let missing: Vec<_> = expected.keys().filter(|name| !found.contains_key(*name)).collect();
    assert_eq!(missing.len(), 1, "one of two names of a file: {missing:?}");
    assert!(missing[0].starts_with("/usr/text"));
    for (name, file) in &found {
        let bytes = &expected[name];
        assert_eq!(contents.size(*file), bytes.len() as u64, "{name}");
        if all_of_it {
            let mut read = vec![0xee; bytes.len() + 5];
            assert_eq!(contents.read_file(&image, *file, 0, &mut read).unwrap(), bytes.len(), "{name}");
            assert!(read[..bytes.len()] == *bytes, "{name}");
        }
        let mut stored = vec![0; bytes.len()];
        let pieces = contents.pieces().iter().filter(|piece| piece.file == *file);
        for (piece, at) in pieces.filter_map(|piece| Some((piece, index(piece.at?)))) {
            let length = index(piece.range.end - piece.range.start).min(bytes.len() - at);
            let start = index(piece.range.start);
            stored[at..at + length].copy_from_slice(&image[start..start + length]);
            assert!(stored[at..at + length] == bytes[at..at + length], "{name} {piece:?}");
        }
        assert!(!all_of_it || stored == *bytes, "{name}: every byte that is not zero lies in a piece");
    }
}

fn bytes_of(contents: &Contents, name: &str) -> u64 {
    let pieces = contents.pieces().iter().filter(|piece| contents.path(piece.file) == name);
    pieces.map(|piece| piece.range.end - piece.range.start).sum()
}

#[test]
fn of_ext_file_systems_every_byte_of_every_file_is_found() {
    let folder = tree(300);
    let cases = [
        ("-t ext4", "ext4"),
        ("-t ext4 -b 1024", "ext4"),
        ("-t ext4 -O ^64bit,^metadata_csum -I 128", "ext4"),
        ("-t ext4 -O meta_bg,^resize_inode -b 1024", "ext4"),
        ("-t ext4 -O bigalloc -C 16384", "ext4"),
        ("-t ext3", "ext3"),
        ("-t ext2 -b 1024", "ext2"),
    ];
    each("mke2fs", folder.path(), Some(48 << 20), &cases, |options, kind, image| {
        let contents = read(image).unwrap();
        assert_eq!((contents.kind, contents.packed_with), (kind, None));
        faithful(&contents, image, folder.path(), true);
        let mut sums = BTreeMap::new();
        contents.owners(0..48 << 20, &mut |owner, range| {
            let owner = if let Owner::File(_) = owner { Owner::File(0) } else { owner };
            *sums.entry(owner).or_insert(0) += range.end - range.start;
        });
        assert!(sums[&Owner::Free] > 20 << 20 && sums[&Owner::Metadata] < 20 << 20, "{options}: {sums:?}");
        assert!(!sums.contains_key(&Owner::Unknown));
        let of_free_space = |range: &Range<u64>| image[index(range.start)..index(range.end)].iter().all(|byte| *byte == 0);
        assert!(contents.free.iter().all(of_free_space), "{options}: {:?}", contents.free);
    });
}

#[test]
fn of_a_squashfs_files_are_told_apart_and_those_stored_are_found_byte_by_byte() {
    let folder = tree(300);
    let cases = [
        ("-comp gzip", Some("gzip")),
        ("-comp zstd -b 1M", Some("zstd")),
        ("-comp gzip -noI -noD -noF", None),
        ("-comp zstd -noD -noF", None),
        ("-comp gzip -no-fragments", Some("gzip")),
    ];
    each("mksquashfs", folder.path(), None, &cases, |options, packed_with, image| {
        let contents = read(image).unwrap();
        assert_eq!((contents.kind, contents.packed_with), ("squashfs", packed_with), "{options}");
        faithful(&contents, image, folder.path(), packed_with.is_none());
        let files: u64 = contents.pieces().iter().map(|piece| piece.range.end - piece.range.start).sum();
        assert!(files * 10 > image.len() as u64 * 9, "{options}: {files} of {}", image.len());
        assert!((1_480_000..1_510_000).contains(&bytes_of(&contents, "/usr/noise")), "{options}");
    });
}

#[test]
fn a_squashfs_of_another_codec_is_not_told_apart_and_says_why() {
    let folder = tree(1);
    let image = match image("mksquashfs", "-comp xz", folder.path(), None) {
        Ok(image) => image,
        Err(why) => return println!("skipped: {why}"),
    };
    let contents = read(&image).unwrap();
    assert_eq!((contents.len(), contents.packed_with), (0, Some("xz")));
    assert_eq!(
        contents.gap.as_deref(),
        Some("its directories are compressed with xz, which is not unpacked here: files are not told apart")
    );
}

#[test]
fn of_an_erofs_files_are_told_apart_and_those_stored_are_found_byte_by_byte() {
    let folder = tree(300);
    let cases = [
        ("", None),
        ("--chunksize=65536", None),
        ("-Eforce-inode-extended", None),
        ("-zlz4", Some("lz4")),
        ("-zlz4hc -C65536", Some("lz4")),
        ("-zlz4 -Elegacy-compress", Some("lz4")),
        ("-zlz4 -C65536 -Eztailpacking", Some("lz4")),
    ];
    each("mkfs.erofs", folder.path(), None, &cases, |options, packed_with, image| {
        let contents = read(image).unwrap();
        assert_eq!((contents.kind, contents.packed_with), ("erofs", packed_with), "{options}");
        faithful(&contents, image, folder.path(), packed_with.is_none());
        let files: u64 = contents.pieces().iter().map(|piece| piece.range.end - piece.range.start).sum();
        assert!(files * 100 > image.len() as u64 * 95, "{options}: {files} of {}", image.len());
        let noise = bytes_of(&contents, "/usr/noise");
        assert!((1_499_000..1_515_000).contains(&noise), "{options}: {noise}");
    });
}

#[test]
fn an_erofs_whose_files_share_tails_is_told_apart() {
    let cases = [
        (&include_bytes!("fixtures/tails.erofs")[..], "lz4", [4096, 16_384]),
        (include_bytes!("fixtures/all-tails.erofs"), "zstd", [0, 0]),
    ];
    for (image, packed_with, [noise, texts]) in cases {
        let contents = read(image).unwrap();
        assert_eq!((contents.kind, contents.packed_with, contents.gap.as_deref()), ("erofs", Some(packed_with), None));
        sound(&contents, image);
        let mut names: Vec<String> = (0..contents.len()).map(|file| contents.path(file)).collect();
        names.sort();
        assert_eq!(names, ["/(tails of files)", "/small", "/usr/noise", "/usr/same text", "/usr/text"]);
        let bytes = |name| bytes_of(&contents, name);
        assert_eq!([bytes("/small"), bytes("/usr/noise"), bytes("/usr/text") + bytes("/usr/same text")], [0, noise, texts]);
        assert!(bytes("/(tails of files)") > 12_001 - noise);
        damaged(image.to_vec());
    }
}

#[test]
fn what_is_no_file_system_is_said_so() {
    let refusal = "no file system that can be read here (ext2, ext3, ext4, squashfs, erofs)";
    for image in [vec![], vec![0; 10], vec![0; 5000], noise(1, 9000)] {
        assert_eq!(read(&image).unwrap_err(), refusal);
    }
}

/// However an image is damaged, reading it ends, and what is found keeps its promises.
#[test]
fn no_damage_makes_it_panic_or_go_on_for_ever() {
    let folder = tree(40);
    fs::remove_file(folder.path().join("usr/noise")).unwrap();
    let cases = ["-t ext4 -b 1024 -N 64", "-t ext2 -b 1024 -N 64"].map(|options| (options, ()));
    each("mke2fs", folder.path(), Some(3 << 20), &cases, |_, (), image| damaged(image.to_vec()));
    let cases = ["-comp gzip", "-comp zstd -noI -noF"].map(|options| (options, ()));
    each("mksquashfs", folder.path(), None, &cases, |_, (), image| damaged(image.to_vec()));
    let cases = ["", "-zlz4hc -C65536 -Eztailpacking", "-zlz4 -Elegacy-compress"].map(|options| (options, ()));
    each("mkfs.erofs", folder.path(), None, &cases, |_, (), image| damaged(image.to_vec()));
}

fn damaged(mut image: Vec<u8>) {
    let mut dice = Dice(0x5eed);
    let contents = read(&image).unwrap();
    // Structures are what is no file's; half of the damage is in the first of them.
    let mut structures: Vec<usize> = Vec::new();
    contents.owners(0..image.len() as u64, &mut |owner, range| {
        if owner == Owner::Metadata {
            structures.extend((index(range.start)..index(range.end)).filter(|at| image[*at] != 0));
        }
    });
    for round in 0..1500 {
        let mut before = Vec::new();
        for _ in 0..=dice.below(3) {
            let at = if round % 2 == 0 { dice.below(structures.len().min(400)) } else { dice.below(structures.len()) };
            let at = structures[at];
            before.push((at, image[at]));
            image[at] = [0, 0xff, image[at] ^ 1 << dice.below(8), dice.next().to_le_bytes()[0]][dice.below(4)];
        }
        if let Ok(contents) = read(&image) {
            sound(&contents, &image);
        }
        before.into_iter().rev().for_each(|(at, byte)| image[at] = byte);
    }
    for _ in 0..300 {
        let cut = &image[..dice.below(image.len())];
        if let Ok(contents) = read(cut) {
            sound(&contents, cut);
        }
    }
}

/// Directories that all hold each other, but for some that cannot be read.
struct Strange {
    entries: u64,
}

impl Volume for Strange {
    fn root(&self) -> u64 {
        0
    }

    fn inode(&self, number: u64) -> Read<Inode> {
        if number % 7 == 6 {
            return Err(Unread(format!("inode {number}")));
        }
        let mut entries = Entries::new(255);
        (0..self.entries).try_for_each(|entry| entries.add(entry.to_string().as_bytes(), entry))?;
        Ok(Inode::Directory(entries))
    }
}

#[test]
fn a_walk_in_circles_ends() {
    let contents = walk("strange", &Strange { entries: 100 }, 0);
    assert_eq!((contents.folders.len(), contents.gap.as_deref()), (86, Some("inode 6; and 13 more like it")));
    let contents = walk("strange", &Strange { entries: MAX_ENTRIES as u64 + 2 }, 0);
    assert_eq!(contents.gap.unwrap(), "it has more than 1048576 files");
}

/// A directory in a directory, for ever, by names of this length.
struct Deep(usize);

impl Volume for Deep {
    fn root(&self) -> u64 {
        1
    }

    fn inode(&self, number: u64) -> Read<Inode> {
        let mut entries = Entries::new(255);
        entries.add(&vec![b'n'; self.0], number + 1)?;
        Ok(Inode::Directory(entries))
    }
}

#[test]
fn a_walk_into_the_deep_ends() {
    let contents = walk("deep", &Deep(2), 0);
    assert_eq!((contents.folders.len(), contents.gap.unwrap().as_str()), (1024, "directories are more than 1024 deep"));
    let contents = walk("deep", &Deep(255), 0);
    assert_eq!((contents.folders.len(), contents.gap.as_deref()), (17, Some("a path is longer than 4096 bytes")));
    assert_eq!(contents.folders[16].path_bytes, 4096);
}

/// A thousand directories of a thousand long names each.
struct Wordy;

impl Volume for Wordy {
    fn root(&self) -> u64 {
        0
    }

    fn inode(&self, number: u64) -> Read<Inode> {
        if number > 1000 {
            return Ok(Inode::Other);
        }
        let mut entries = Entries::new(255);
        (1..=1000).try_for_each(|entry| entries.add(&[b'n'; 255], number * 1000 + entry))?;
        Ok(Inode::Directory(entries))
    }
}

#[test]
fn of_all_names_so_many_bytes_are_kept() {
    let contents = walk("wordy", &Wordy, 0);
    assert_eq!(contents.gap.unwrap(), "the names of its files take more than 64 MiB; and 737 more like it");
    assert_eq!(contents.folders.len(), MAX_NAMES_BYTES / 255_000);
}

/// Two files that lie in the same bytes, and a third one that holds half of them twice.
struct Sharing;

impl Volume for Sharing {
    fn root(&self) -> u64 {
        0
    }

    fn inode(&self, number: u64) -> Read<Inode> {
        let part = |range: Range<u64>, at| Part { range, at: Some(at) };
        let parts = match number {
            0 => {
                let mut entries = Entries::new(255);
                (1..=3).try_for_each(|file| entries.add(file.to_string().as_bytes(), file))?;
                return Ok(Inode::Directory(entries));
            }
            3 => vec![part(100..200, 100), part(100..200, 0)],
            _ => vec![part(0..200, 0)],
        };
        Ok(Inode::File { size: 200, parts, plain: true })
    }
}

#[test]
fn what_files_share_is_read_of_each_and_counted_once() {
    let image = noise(5, 200);
    let contents = walk("sharing", &Sharing, 200);
    sound(&contents, &image);
    let read = |file| {
        let mut read = vec![0xee; 300];
        assert_eq!(contents.read_file(&image, file, 0, &mut read).unwrap(), 200);
        read.truncate(200);
        read
    };
    assert!(read(0) == image && read(1) == image && read(2) == [&image[100..], &image[100..]].concat());
    let mut tail = [0; 50];
    assert_eq!((contents.read_file(&image, 1, 170, &mut tail).unwrap(), &tail[..30]), (30, &image[170..]));
    assert_eq!(contents.pieces(), [Piece { range: 0..200, file: 0, at: Some(0) }]);
}

#[test]
fn files_of_the_same_content_are_read_each() {
    let folder = tempfile::tempdir().unwrap();
    let content = noise(8, 300_000);
    for name in ["one", "two", "three"] {
        fs::write(folder.path().join(name), &content).unwrap();
    }
    fs::write(folder.path().join("repeated"), [&content[..65_536], &content[..65_536]].concat()).unwrap();
    let look = |options: &str, (), image: &[u8]| {
        assert!(image.len() < 600_000, "{options}: the tool stores them once: {}", image.len());
        let contents = read(image).unwrap();
        sound(&contents, image);
        for file in 0..contents.len() {
            let mut bytes = vec![0; index(contents.size(file))];
            contents.read_file(&image, file, 0, &mut bytes).unwrap();
            assert!(
                bytes == fs::read(folder.path().join(&contents.path(file)[1..])).unwrap(),
                "{options} {}",
                contents.path(file)
            );
        }
    };
    each("mksquashfs", folder.path(), None, &[("-comp gzip -noI -noD -noF", ())], look);
    each("mkfs.erofs", folder.path(), None, &[("--chunksize=65536", ())], look);
}
