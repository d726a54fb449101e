//! Entries of systemd-boot: names that say how a slot stands, texts that the loader reads as they are meant, a folder in which only ours
//! change.

use std::collections::BTreeMap;
use std::path::Path;

use update_engine::boot::systemd_boot::{EntryName, EntryText};
use update_engine::boot::{BootState, Standing};

use crate::slots::{Host, Verb};

const FOLDER: &str = "esp/loader/entries";
/// Of a host with this loader.
const CONFIG: &str = "boot.control = \"systemd-boot\"\nboot.systemd-boot.esp = \"@/esp\"\ndisk.esp = \"/esp\"\n\
                      slots.a.entry = \"esp:/ota/{slot}.entry\"\nslots.b.entry = \"esp:/ota/{slot}.entry\"\n";
/// Files made for one host.
const MAX_FILES: usize = 6;
/// Longest name that a file system takes.
const MAX_NAME: usize = 64;

/// A byte of flags, one that picks a verb, then the slot's own entry and names and texts of files, each up to a zero byte.
///
/// Flags: 0 slot b runs, 1 a slot's own entry is the first piece and not a plain one.
pub fn entries(data: &[u8]) {
    let Some((&[flags, verb], rest)) = data.split_first_chunk() else { return };
    let runs = usize::from(flags & 1);
    let mut pieces = rest.split(|byte| *byte == 0);
    let own = pieces.next().unwrap_or_default();
    check_own(own);
    let mut files = BTreeMap::new();
    while let (Some(name), Some(text), true) = (pieces.next(), pieces.next(), files.len() < MAX_FILES) {
        check_text(text);
        let name = String::from_utf8_lossy(name).into_owned();
        check_name(&name);
        if !name.contains('/') && !matches!(name.as_str(), "" | "." | "..") && name.len() <= MAX_NAME {
            files.insert(name, text.to_vec());
        }
    }
    check_text(rest);
    if files.is_empty() {
        return;
    }
    let host = Host::new(runs, CONFIG);
    for slot in ["a", "b"] {
        let plain = format!("title {slot}\nlinux /ota/{slot}.efi\n");
        host.folder.put(&format!("esp/ota/{slot}.entry"), if flags & 2 == 2 { own } else { plain.as_bytes() });
    }
    for (name, text) in &files {
        host.folder.put(&format!("{FOLDER}/{name}"), text);
    }
    let before = host.read();
    let Some(change) = host.change(Verb::of(verb), "esp") else { return };
    assert_eq!(before.as_ref(), Some(&change.before));
    let written: BTreeMap<String, Vec<u8>> =
        host.folder.files(FOLDER).into_iter().map(|(path, text)| (name_of(&path), text)).collect();
    check_next(&written, &change.after);
    let others = |files: &BTreeMap<String, Vec<u8>>| {
        files.iter().filter(|(name, _)| !is_ours(name)).map(|(name, text)| (name.clone(), text.clone())).collect::<Vec<_>>()
    };
    assert_eq!(others(&written), others(&files), "{:?} changes entries of others", Verb::of(verb));
    for slot in [host.running(), host.other()] {
        // What was being written, and is none to the loader, stays until this slot changes.
        let was_coming = |name: &String| name.to_ascii_lowercase().ends_with(".new") && files.contains_key(name);
        let of_slot = |name: &&String| is_ours(name) && id_of(name) == format!("os-{slot}") && !was_coming(name);
        let names: Vec<&String> = written.keys().filter(of_slot).collect();
        assert!(names.len() <= 1, "slot {slot} has {names:?}");
        assert!(names.iter().all(|name| name.len() <= 13 || files.contains_key(*name)), "{names:?} take two directory entries");
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("a file").to_string_lossy().into_owned()
}

fn is_ours(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["os-a", "os-b"].contains(&id_of(&name).as_str()) && [".conf", ".off", ".new"].iter().any(|suffix| name.ends_with(suffix))
}

/// To FAT and to the loader capitals are small letters.
fn id_of(name: &str) -> String {
    name.to_ascii_lowercase().parse::<EntryName>().map(|name| name.id).unwrap_or_default()
}

/// What is written again is the same name; what a standing is called says it.
fn check_name(text: &str) {
    let Ok(name) = text.parse::<EntryName>() else { return };
    let written = name.to_string();
    assert_eq!(written.parse().as_ref(), Ok(&name), "{written}");
    assert!(text.starts_with(&name.id) && text.ends_with(&name.suffix) && name.counter.is_some() | (written == text), "{text}");
    // As the loader reads a counter: the digits behind the last "+".
    let counter = text.strip_suffix(".conf").and_then(|stem| stem.rsplit_once('+')).map(|(_, counter)| counter);
    let left = counter.map(|counter| counter.split_once('-').unwrap_or((counter, "0")).0);
    if let (Some(left), Standing::Pending { tries_left }) = (left, name.standing()) {
        assert_eq!(left.trim_start_matches('0'), tries_left.to_string());
    }
    // What is counted once more is nobody's entry.
    if name.id.contains('+') {
        return;
    }
    for standing in [name.standing(), Standing::Good, Standing::Bad, Standing::Spent, Standing::Blank] {
        let named = EntryName::standing_so(&name.id, standing, 3).expect("every standing has a name");
        assert!(named.standing() == standing && named.id == name.id, "{named}");
        assert_eq!(named.to_string().parse().as_ref(), Ok(&named), "{named}");
    }
}

/// A slot's own lines: with the lines that order the entries before them the loader starts what they say.
fn check_own(own: &[u8]) {
    let Ok(entry) = EntryText::of(own, 7) else { return };
    assert_eq!(entry.own.as_bytes(), own);
    check_as_loader_reads(&entry);
}

fn check_text(text: &[u8]) {
    let entry = match EntryText::parse(text) {
        Ok(entry) => entry,
        Err(error) => return assert!(error.to_string().chars().count() <= 2 * text.len() + 512, "{error}"),
    };
    assert_eq!(EntryText::parse(entry.to_text().as_bytes()).as_ref(), Ok(&entry));
    // Before it is written anew, too, it has what orders it, and last.
    let read = as_loader_reads(text);
    let last = |key: &str| read.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.trim_matches('"').to_owned());
    assert_eq!(last("sort-key").as_deref(), Some("ota"), "{entry:?}");
    assert_eq!(last("version").and_then(|version| version.parse().ok()), Some(entry.armings), "{entry:?}");
    check_as_loader_reads(&entry);
}

/// Nothing but the number of armings decides which of our entries is started, and something is.
fn check_as_loader_reads(entry: &EntryText) {
    let read = as_loader_reads(entry.to_text().as_bytes());
    let all = |key: &str| read.iter().filter(|(known, _)| known == key).map(|(_, value)| value.as_str()).collect::<Vec<_>>();
    assert_eq!(all("sort-key"), ["ota"], "{entry:?}");
    assert_eq!(all("version"), [entry.armings.to_string()], "{entry:?}");
    assert!(all("machine-id").is_empty(), "{entry:?}");
    let started = ["linux", "efi", "uki"].map(|key| all(key).len());
    assert_eq!(started.iter().filter(|count| **count > 0).count(), 1, "of several kinds the loader takes none: {entry:?}");
}

/// Keys and values as systemd-boot reads them: up to a zero byte; lines end at CR, too; blanks are spaces and tabs; what has no value is
/// passed over.
fn as_loader_reads(text: &[u8]) -> Vec<(String, String)> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let blank = |byte: &u8| b" \t".contains(byte);
    let mut found = Vec::new();
    for line in text.split(|byte| b"\r\n".contains(byte)) {
        let start = line.iter().position(|byte| !blank(byte)).unwrap_or(line.len());
        let end = line.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
        let line = &line[start..end];
        let Some(key) = line.iter().position(blank) else { continue };
        if !line.starts_with(b"#") {
            let word = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let value = line[key..].iter().position(|byte| !blank(byte)).map_or(line.len(), |at| key + at);
            found.push((word(&line[..key]), word(&line[value..])));
        }
    }
    found
}

/// Of ours the loader starts the one with tries left, or without a counter, and the highest version; where two have that, it is not said.
fn check_next(files: &BTreeMap<String, Vec<u8>>, state: &BootState) {
    let mut live: Vec<(bool, u64, &str)> = Vec::new();
    for (name, text) in files.iter().filter(|(name, _)| is_ours(name) && name.to_ascii_lowercase().ends_with(".conf")) {
        let Ok(entry) = EntryText::parse(text) else { continue };
        let has_tries = !name.contains("+0-") && !name.contains("+00");
        live.push((has_tries, entry.armings, if id_of(name) == "os-b" { "b" } else { "a" }));
    }
    live.sort_unstable();
    let Some((has_tries, armings, started)) = live.pop() else { return };
    if live.last().is_none_or(|second| (second.0, second.1) < (has_tries, armings)) {
        assert!(!has_tries || started == state.next.as_str(), "{started} is started: {:?} {state:?}", files.keys());
    }
}
