//! The folder that shows what a booted system would show.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Error;
use super::content::Content;
use super::gpt::Entry;

const COMMAND_LINE: &str = "proc/cmdline";
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";
const SHARE: &str = "usr/share/update-engine";

/// Shows a slot as running: command line, a fresh boot id, `os-release`, and the slot's own floor and keys. Returns the boot id.
///
/// # Errors
/// If a file cannot be written.
pub fn show(sysroot: &Path, slot: &Entry, content: &Content) -> Result<String, Error> {
    let boot_id = fresh_id()?;
    let root = (!content.hides_root).then_some(slot.guid.as_str());
    let line = command_line(&fs::read_to_string(sysroot.join(COMMAND_LINE)).unwrap_or_default(), root);
    put(&sysroot.join(COMMAND_LINE), line.as_bytes())?;
    put(&sysroot.join(BOOT_ID), format!("{boot_id}\n").as_bytes())?;
    put(&sysroot.join("etc/os-release"), content.os_release.as_bytes())?;
    let share = sysroot.join(SHARE);
    match &content.floor {
        Some(floor) => put(&share.join("floor"), floor)?,
        None if content.complete => remove_file(&share.join("floor"))?,
        None => {}
    }
    if content.complete || !content.keys.is_empty() {
        show_keys(&share.join("keys"), &content.keys)?;
    }
    Ok(boot_id)
}

fn show_keys(folder: &Path, keys: &[(String, Vec<u8>)]) -> Result<(), Error> {
    if folder.is_dir() {
        fs::remove_dir_all(folder).map_err(Error::io("remove", folder))?;
    }
    fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    keys.iter().try_for_each(|(name, bytes)| put(&folder.join(name), bytes))
}

/// The words of an earlier command line, with this root.
fn command_line(before: &str, guid: Option<&str>) -> String {
    let kept = before.split_ascii_whitespace().filter(|word| !word.starts_with("root="));
    let words: Vec<String> = kept.map(str::to_owned).chain(guid.map(|guid| format!("root=PARTUUID={guid}"))).collect();
    words.join(" ") + "\n"
}

/// The kernel that runs this makes ids of the right kind.
fn fresh_id() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/uuid");
    Ok(fs::read_to_string(path).map_err(Error::io("read", path))?.trim().to_owned())
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::io("write in", folder))?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    // A temporary file is private; what a system shows is for everyone to read.
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).map_err(Error::io("open up", path))?;
    file.persist(path).map_err(|error| Error::io("replace", path)(error.error))?;
    Ok(())
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_keeps_its_other_words() {
        assert_eq!(command_line("quiet root=PARTUUID=1 ro\n", Some("2")), "quiet ro root=PARTUUID=2\n");
        assert_eq!(command_line("", Some("2")), "root=PARTUUID=2\n");
        assert_eq!(command_line("quiet root=PARTUUID=1 ro\n", None), "quiet ro\n");
    }
}
