//! What a slot shows once it runs: read from the slot's own bytes.

use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use super::Error;
use super::gpt::{Entry, Gpt};

/// The first line of a stand-in for a file system, for fast tests. Lines `NAME=value` follow, and then `END`:
///
/// ```text
/// OTA-TEST-IMAGE
/// IMAGE_VERSION=1.2.3          these go to etc/os-release
/// FLOOR=7                      this is usr/share/update-engine/floor
/// KEY.ops.pub=base64           this is usr/share/update-engine/keys/ops.pub
/// BOOT=panic                   this slot does not start
/// ROOT=hidden                  the command line does not say what runs
/// END
/// ```
pub const HEADER_MAGIC: &str = "OTA-TEST-IMAGE\n";
const HEADER_END: &str = "\nEND\n";
const HEADER_MAX: usize = 64 << 10;
const SHARE: &str = "usr/share/update-engine";

/// Files that a started slot shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// `etc/os-release`.
    pub os_release: String,
    /// `usr/share/update-engine/floor`.
    pub floor: Option<Vec<u8>>,
    /// `usr/share/update-engine/keys/*`, by name.
    pub keys: Vec<(String, Vec<u8>)>,
    /// Whether a missing floor and keyring are really not there (a file system), or are just not told (a stand-in): then what the
    /// folder shows stays.
    pub complete: bool,
    /// The command line does not say what runs.
    pub hides_root: bool,
}

impl Content {
    /// `IMAGE_VERSION`, else `VERSION_ID`, else "unknown".
    #[must_use]
    pub fn version(&self) -> &str {
        let value = |name: &str| {
            let line = self.os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.map(|value| value.trim_matches(['"', '\'']))
        };
        value("IMAGE_VERSION").or_else(|| value("VERSION_ID")).unwrap_or("unknown")
    }
}

/// What the slot shows, or why it does not start.
///
/// # Errors
/// If the image cannot be read at all.
pub fn content_of(gpt: &Gpt, slot: &Entry) -> Result<Result<Content, String>, Error> {
    let head = gpt.read_partition(slot, 0, HEADER_MAX)?;
    if head.starts_with(HEADER_MAGIC.as_bytes()) {
        return Ok(from_header(&head));
    }
    if head.get(1080..1082) == Some(&[0x53, 0xEF]) {
        return from_ext4(gpt.path(), slot.start);
    }
    Ok(Err("it holds no system (neither ext4 nor a test image)".to_owned()))
}

fn from_header(head: &[u8]) -> Result<Content, String> {
    let text = String::from_utf8_lossy(head);
    let end = text.find(HEADER_END).ok_or("its test header has no end")?;
    let mut content = Content::default();
    for line in text[HEADER_MAGIC.len()..].get(..end + 1 - HEADER_MAGIC.len()).unwrap_or_default().lines() {
        let (name, value) = line.split_once('=').ok_or_else(|| format!("its test header has a line {line:?}"))?;
        match (name, name.strip_prefix("KEY.")) {
            ("BOOT", _) => return Err(format!("kernel panic ({value})")),
            ("ROOT", _) => content.hides_root = true,
            ("FLOOR", _) => content.floor = Some(format!("{value}\n").into_bytes()),
            (_, Some(key)) => content.keys.push((key.to_owned(), format!("{value}\n").into_bytes())),
            _ => content.os_release += &format!("{line}\n"),
        }
    }
    Ok(content)
}

/// The header of a test image that shows `lines`.
#[must_use]
pub fn header(lines: &[&str]) -> Vec<u8> {
    format!("{HEADER_MAGIC}{}{HEADER_END}", lines.join("\n")).into_bytes()
}

/// A test image of `size` bytes that shows `lines`; the same lines give the same bytes, other lines give others throughout.
///
/// Behind the header stand blocks of noise, of text, and of zeros, so that all ways of packing have something to do.
///
/// # Errors
/// If the header does not fit.
pub fn test_image(lines: &[&str], size: u64) -> Result<Vec<u8>, Error> {
    let header = header(lines);
    let length = usize::try_from(size).unwrap_or_default();
    if header.len() > HEADER_MAX || header.len() > length {
        return Err(Error::Disk(format!("a header of {} bytes does not fit an image of {size}", header.len())));
    }
    let mut seed = Sha256::digest(&header);
    let mut bytes = header;
    while bytes.len() < length {
        match bytes.len() / 4096 % 4 {
            1 => bytes.resize(bytes.len().next_multiple_of(4096).max(bytes.len() + 1), 0),
            2 => bytes.extend(format!("line {} of a file that repeats itself\n", bytes.len() / 64).bytes()),
            _ => {
                seed = Sha256::digest(seed);
                bytes.extend(seed);
            }
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// A file system shows its files, read with `debugfs` from e2fsprogs: nothing is mounted.
fn from_ext4(disk: &Path, offset: u64) -> Result<Result<Content, String>, Error> {
    let folder = tempfile::tempdir().map_err(Error::io("make a folder in", &std::env::temp_dir()))?;
    let disk = disk.canonicalize().map_err(Error::io("find", disk))?;
    let device = format!("{}?offset={offset}", disk.display());
    let debugfs = |request: &str| {
        let output = Command::new("debugfs").args(["-R", request, &device]).current_dir(folder.path()).output();
        output.map_err(Error::io("run", Path::new("debugfs")))
    };
    // A link is not followed by `dump`: most systems have the file itself in usr/lib.
    for (from, to) in [("/usr/lib/os-release", "os-release.lib"), ("/etc/os-release", "os-release.etc")] {
        let stat = debugfs(&format!("stat {from}"))?;
        if String::from_utf8_lossy(&stat.stdout).contains("Type: regular") {
            debugfs(&format!("dump {from} {to}"))?;
        }
    }
    debugfs(&format!("dump /{SHARE}/floor floor"))?;
    debugfs(&format!("rdump /{SHARE}/keys ."))?;
    let read = |name: &str| std::fs::read(folder.path().join(name)).ok();
    let os_release = read("os-release.etc").or_else(|| read("os-release.lib"));
    let Some(os_release) = os_release else { return Ok(Err("its file system has no os-release".to_owned())) };
    let keys = files_in(&folder.path().join("keys"))?;
    let floor = read("floor");
    Ok(Ok(Content {
        os_release: String::from_utf8_lossy(&os_release).into_owned(),
        floor,
        keys,
        complete: true,
        hides_root: false,
    }))
}

fn files_in(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut files = Vec::new();
    if !folder.is_dir() {
        return Ok(files);
    }
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
            files.push((name.to_string_lossy().into_owned(), bytes));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_header_shows_what_it_says() {
        let header = header(&["IMAGE_VERSION=1.2.3", "NAME=Demo", "FLOOR=7", "KEY.ops.pub=AAAA ops"]);
        let content = from_header(&header).unwrap();
        assert_eq!(content.os_release, "IMAGE_VERSION=1.2.3\nNAME=Demo\n");
        assert_eq!(content.version(), "1.2.3");
        assert_eq!(content.floor.as_deref(), Some(b"7\n".as_slice()));
        assert_eq!(content.keys, [("ops.pub".to_owned(), b"AAAA ops\n".to_vec())]);
        assert_eq!(Content { os_release: "VERSION_ID=\"12\"\n".to_owned(), ..Content::default() }.version(), "12");
    }

    #[test]
    fn a_header_that_is_cut_or_panics_does_not_start() {
        assert_eq!(from_header(b"OTA-TEST-IMAGE\nIMAGE_VERSION=1\n"), Err("its test header has no end".to_owned()));
        assert_eq!(from_header(&header(&["BOOT=panic"])), Err("kernel panic (panic)".to_owned()));
        assert_eq!(from_header(&header(&["rubbish"])), Err("its test header has a line \"rubbish\"".to_owned()));
        assert_eq!(from_header(b"OTA-TEST-IMAGE\nEND\n").unwrap().version(), "unknown");
    }
}
