//! The firmware's variables: each is read as the specification has it, and a change writes what the firmware goes by.

use update_engine::boot::BootState;
use update_engine::boot::efi::variables::{
    EntryNumber, GLOBAL_VENDOR, LoadOption, Memory, OTA_VENDOR, Variable, order_to_bytes, parse_order,
};

use crate::slots::{Host, Verb};

/// Entries of slot `a`, of slot `b`, and of others.
const ENTRIES: [u16; 3] = [1, 2, 0x00FF];

/// A byte of flags, one that picks a verb, then pieces with their length before them: `BootOrder`, `BootNext`, our variable, the entries
/// of both slots and of somebody else.
///
/// Flags: 0 slot b runs, 1 our variable gets its checksum, 2 and 3 the entry of slot a and of slot b is a plain one, 4 files are whole
/// pieces, attributes and all.
pub fn variables(data: &[u8]) {
    let Some((&[flags, verb], mut rest)) = data.split_first_chunk() else { return };
    let is = |bit: u8| flags >> bit & 1 == 1;
    check_each(rest);
    let mut piece = || {
        let (length, after) = rest.split_first().unwrap_or((&0, &[]));
        let (piece, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        piece.to_vec()
    };
    let (order, next, mut memory) = (piece(), piece(), piece());
    if let (true, Some((start, _))) = (is(1), memory.split_first_chunk::<8>()) {
        memory = [&start[..], &crc32fast::hash(start).to_le_bytes()].concat();
    }
    let entries = [("ota-a", is(2)), ("ota-b", is(3)), ("", false)].map(|(name, is_plain)| {
        let entry = piece();
        if is_plain { plain_entry(name) } else { entry }
    });
    for bytes in [&order, &next, &memory, &entries[0], &entries[1], &entries[2]] {
        check_each(bytes);
    }
    let mut host = Host::new(usize::from(is(0)), "boot.control = \"efi\"\nboot.efi.efivars = \"@/vars\"\n");
    std::fs::create_dir(host.folder.path().join("vars")).expect("room for a folder");
    let put = |name: &str, data: &[u8]| {
        if !data.is_empty() {
            let attributes: &[u8] = if is(4) { &[] } else { &[7, 0, 0, 0] };
            host.folder.put(&format!("vars/{name}"), &[attributes, data].concat());
        }
    };
    put(&format!("BootOrder-{GLOBAL_VENDOR}"), &order);
    put(&format!("BootNext-{GLOBAL_VENDOR}"), &next);
    put(&format!("OtaSlots-{OTA_VENDOR}"), &memory);
    for (number, entry) in ENTRIES.iter().zip(&entries) {
        put(&format!("Boot{number:04X}-{GLOBAL_VENDOR}"), entry);
    }
    host.next_is_asked_for = boot_next(&host).is_some();
    let Some(before) = host.read() else { return };
    check_next(&host, &before);
    let untouched = |host: &Host| {
        let ours = ["BootOrder-", "BootNext-", "OtaSlots-"];
        let mut files = host.folder.files("vars");
        files.retain(|(path, _)| {
            !ours.iter().any(|name| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)))
        });
        files
    };
    let (others, foreign) = (untouched(&host), foreign(&host));
    let Some(change) = host.change(Verb::of(verb), "vars") else { return };
    check_next(&host, &change.after);
    assert_eq!(untouched(&host), others, "{:?} touches variables of others", Verb::of(verb));
    assert_eq!(self::foreign(&host), foreign, "{:?} changes what others have in BootOrder", Verb::of(verb));
}

/// Any bytes as each kind of variable: written again they are the same.
fn check_each(data: &[u8]) {
    if let Ok(variable) = Variable::parse(data) {
        assert_eq!(variable.to_bytes(), data);
        assert!(!variable.data.is_empty());
    }
    if let Ok(number) = EntryNumber::parse(data) {
        assert_eq!(number.to_bytes(), data);
        assert_eq!(number.to_string().parse(), Ok(number));
    }
    match parse_order(data) {
        Ok(order) => assert_eq!(order_to_bytes(&order), data),
        Err(_) => assert_eq!(data.len() % 2, 1),
    }
    if let Ok(memory) = Memory::parse(data) {
        assert_eq!(memory.to_bytes(), data, "our variable has one spelling");
    }
    if let Ok(Ok(number)) = std::str::from_utf8(data).map(str::parse::<EntryNumber>) {
        assert_eq!(number.to_string().as_bytes(), data, "an entry has one name");
    }
    check_entry(data);
}

/// UEFI 2.10, 3.1.3: attributes, length of the paths, description, paths.
fn check_entry(data: &[u8]) {
    let expected = || {
        let (head, rest) = data.split_first_chunk::<6>()?;
        let units: Vec<u16> = rest.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
        let end = units.iter().position(|unit| *unit == 0)?;
        let paths = rest.get(2 * end + 2..2 * end + 2 + usize::from(u16::from_le_bytes([head[4], head[5]])));
        paths.map(|_| (head[0] & 1 == 1, String::from_utf16_lossy(&units[..end])))
    };
    let found = LoadOption::parse(data).ok().map(|entry| (entry.is_active, entry.description));
    assert_eq!(found, expected());
}

/// What is said to be next is what the firmware starts, as far as that is a slot.
fn check_next(host: &Host, state: &BootState) {
    let slot = |number: EntryNumber| [("a", 0), ("b", 1)].into_iter().find(|(_, entry)| ENTRIES[*entry] == number.0);
    let started = match boot_next(host) {
        Some(number) => slot(number),
        None => boot_order(host).into_iter().find_map(slot),
    };
    assert!(started.is_none_or(|(slot, _)| slot == state.next.as_str()), "{started:?} is started: {state:?}");
}

fn data_of(host: &Host, name: &str) -> Option<Vec<u8>> {
    let bytes = host.folder.get(&format!("vars/{name}-{GLOBAL_VENDOR}"))?;
    bytes.get(4..).map(<[u8]>::to_vec).filter(|data| !data.is_empty())
}

fn boot_next(host: &Host) -> Option<EntryNumber> {
    EntryNumber::parse(&data_of(host, "BootNext")?).ok()
}

fn boot_order(host: &Host) -> Vec<EntryNumber> {
    parse_order(&data_of(host, "BootOrder").unwrap_or_default()).unwrap_or_default()
}

fn foreign(host: &Host) -> Vec<EntryNumber> {
    boot_order(host).into_iter().filter(|number| !ENTRIES[..2].contains(&number.0)).collect()
}

/// An active entry with a path to a file.
pub fn plain_entry(description: &str) -> Vec<u8> {
    let paths = [4, 4, 6, 0, b'\\', 0, 0x7F, 0xFF, 4, 0];
    let description = description.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
    [1, 0, 0, 0, 10, 0].into_iter().chain(description).chain(paths).collect()
}
