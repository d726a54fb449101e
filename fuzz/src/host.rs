//! What a host keeps and is told: floor file, journal, commands.

use std::os::unix::ffi::OsStrExt as _;

use serde::Serialize;
use serde::de::DeserializeOwned;
use update_engine::engine::command::Command;
use update_engine::engine::model::Model;
use update_engine::engine::state::Claim;
use update_engine::floor::{FloorFile, load_image_floor};
use update_engine::journal::Message;
use update_engine::os_release;
use update_engine::slot::command_line::{self, Setting};
use update_engine::slot::system::{parse_mounts, parse_swaps};

use crate::folder::Folder;

/// A floor file, and the same bytes as the image's own.
pub fn floor(data: &[u8]) {
    let folder = Folder::new();
    folder.put("floor", data);
    let _ = load_image_floor(&folder.path().join("floor"));
    let Ok(found) = FloorFile::load(folder.path()) else { return };
    let found = found.expect("the file is there");
    found.store(folder.path()).expect("room for a floor file");
    assert_eq!(FloorFile::load(folder.path()).expect("what was stored can be read"), Some(found.clone()));
    for record in crate::record::samples() {
        // A floor that is full of revoked keys takes no more.
        let Ok(raised) = found.raised_by(&record) else { continue };
        assert!(raised.floor.floor >= found.floor.floor.max(record.not_below));
        assert!(raised.floor.highest >= found.floor.highest.max(record.sequence));
        assert!(found.revoked.iter().all(|key| raised.revoked.contains(key)), "a revoked key came back");
    }
}

/// The kernel's table of mounts: where a slot is mounted must never be missed (P2).
pub fn mounts(data: &[u8]) {
    let Ok(found) = parse_mounts(data) else { return };
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    assert_eq!(found.len(), lines.len(), "a line is a mount");
    for (mount, line) in found.iter().zip(lines) {
        let field = line.split(|byte| *byte == b' ').nth(4).expect("what was read has a mount point");
        let said = mount.mount_point.as_os_str().as_encoded_bytes();
        // As the kernel writes it: space, tab, newline and backslash in octal.
        let written: Vec<u8> = said
            .iter()
            .flat_map(|byte| match byte {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
                plain => vec![*plain],
            })
            .collect();
        // Other spellings of the same bytes are none of the kernel's, but are read.
        assert!(written == field || field.contains(&b'\\') || field.contains(&b'\t'), "{:?}", mount.mount_point);
    }
}

/// What else the system's files say of slots: command line, swaps, `os-release`.
pub fn facts(data: &[u8]) {
    swaps(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    kernel_command_line(text);
    for key in ["VERSION_ID", "IMAGE_VERSION"] {
        let value = os_release::value(text, key);
        assert!(value.as_ref().is_none_or(|value| (1..=os_release::MAX_VALUE_CHARS).contains(&value.chars().count())));
        assert!(value.is_none() || text.contains(&format!("{key}=")), "{value:?} out of nothing");
    }
}

/// Each line below the first is a swap, unless its first column is empty; what is named there is written so.
fn swaps(table: &[u8]) {
    let lines: Vec<&[u8]> = table.split(|byte| *byte == b'\n').skip(1).collect();
    let named: Vec<&[u8]> =
        lines.iter().filter_map(|line| line.split(|byte| b" \t".contains(byte)).next()).filter(|name| !name.is_empty()).collect();
    let found = parse_swaps(table);
    assert_eq!(found.len(), named.len(), "a line is a swap");
    for (path, name) in found.iter().zip(named) {
        assert!(path.as_os_str().as_bytes() == name || name.contains(&b'\\'), "{path:?}");
    }
}

/// As the kernel cuts it, character by character.
fn kernel_command_line(line: &str) {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for character in line.chars() {
        quoted ^= character == '"';
        if character.is_ascii_whitespace() && !quoted {
            words.push(std::mem::take(&mut word));
        } else {
            word.push(character);
        }
    }
    words.push(word);
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let found = command_line::settings(line);
    assert_eq!(found.len(), words[..end].iter().filter(|word| word.contains('=')).count(), "{words:?}");
    for (Setting { word, value }, whole) in found.iter().zip(words[..end].iter().filter(|word| word.contains('='))) {
        assert!(whole.contains(&format!("{word}=")) && whole.contains(value) && !word.contains('='), "{whole}");
        // Written with quotes around it, it reads the same, unless a quote is part of it.
        if !value.contains('"') && !word.contains('"') && !word.is_empty() && !word.contains(|c: char| c.is_ascii_whitespace()) {
            let again = format!("{word}=\"{value}\" x=1");
            assert_eq!(command_line::settings(&again)[..], [Setting { word, value }, Setting { word: "x", value: "1" }]);
        }
    }
}

/// What the journal keeps beside the model: messages for servers, and the lock of an attempt.
pub fn rows(data: &[u8]) {
    same_again::<Message>(data);
    same_again::<Claim>(data);
}

/// The engine's memory as a journal gives it back.
pub fn model(data: &[u8]) {
    same_again::<Model>(data);
}

/// A command over the control socket.
pub fn command(data: &[u8]) {
    same_again::<Command>(data);
}

fn same_again<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(data) else { return };
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    let again = serde_json::from_slice::<T>(&written);
    assert_eq!(again.as_ref().ok(), Some(&value), "{}", String::from_utf8_lossy(&written));
}
