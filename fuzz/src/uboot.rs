//! U-Boot's environment: read as U-Boot reads it, changed without touching what is not ours; and the file that says where it lies.

use std::collections::BTreeMap;

use update_engine::boot::BootState;
use update_engine::boot::uboot::environment::{MAX_BYTES, MIN_BYTES, current};
use update_engine::boot::uboot::places::is_flash;
use update_engine::boot::uboot::{Layout, Places, Stored};

use crate::slots::{Host, Verb};

/// Bytes between the two copies of the host.
const APART: usize = 8192;
/// What the boot control may change.
const OURS: [&[u8]; 6] = [b"BOOT_ORDER", b"BOOT_A_LEFT", b"BOOT_B_LEFT", b"ota_pending", b"ota_bad", b"ota_armed"];

/// A byte of flags, one that picks a verb, the flags of both copies, zeros behind the variables (in eighths), then the variables. The
/// same bytes are also read as a `fw_env.config`.
///
/// Flags: 0 slot b runs, 1 two copies, 2 and 3 the CRC of the first and the second is wrong, 4 the second has no variables.
pub fn environment(data: &[u8]) {
    places(data);
    let Some((&[bits, verb, first, second, room], variables)) = data.split_first_chunk() else { return };
    let is = |bit: u8| bits >> bit & 1 == 1;
    let layout = if is(1) { Layout::Redundant } else { Layout::Single };
    let mut variables = variables.to_vec();
    variables.resize((variables.len() + 8 * usize::from(room)).clamp(MIN_BYTES, APART - 8), 0);
    let none = vec![0; variables.len()];
    let copies = [copy(layout, first, is(2), &variables), copy(layout, second, is(3), if is(4) { &none } else { &variables })];
    let stored = [Stored::parse(&copies[0], layout).ok(), Stored::parse(&copies[1], layout).ok()];
    let stored = if layout == Layout::Single { [stored[0].clone(), None] } else { stored };
    let counts = counting(&stored);
    for (copy, stored) in copies.iter().zip(&stored) {
        if let Some(stored) = stored {
            check_copy(copy, layout, stored);
        }
    }
    if let Some(counts) = counts {
        on_a_host(usize::from(is(0)), Verb::of(verb), layout, &copies, &stored, counts);
    }
}

fn copy(layout: Layout, flags: u8, is_wrong: bool, variables: &[u8]) -> Vec<u8> {
    let crc = crc32fast::hash(variables) ^ u32::from(is_wrong);
    let flags: &[u8] = if layout == Layout::Redundant { &[flags] } else { &[] };
    [&crc.to_ne_bytes(), flags, variables].concat()
}

/// Of two copies the one with the higher flags, and 0 is higher than 255.
fn counting(stored: &[Option<Stored>; 2]) -> Option<usize> {
    let flags = [0, 1].map(|copy| stored[copy].as_ref().map(|stored| stored.flags));
    let expected = match flags {
        [None, None] => None,
        [Some(_), None] => Some(0),
        [None, Some(_)] => Some(1),
        [Some(255), Some(0)] => Some(1),
        [Some(0), Some(255)] => Some(0),
        [Some(first), Some(second)] => Some(usize::from(second > first)),
    };
    assert_eq!(current(flags), expected, "{flags:?}");
    expected
}

/// The codec, and a change of one variable.
fn check_copy(bytes: &[u8], layout: Layout, stored: &Stored) {
    let variables = as_uboot_reads(bytes, layout);
    let last: BTreeMap<_, _> = variables.iter().filter_map(|entry| named(entry)).collect();
    for (name, value) in last {
        if let Ok(name) = std::str::from_utf8(name) {
            assert_eq!(stored.environment.get(name), Some(value), "{name} in {stored:?}");
        }
    }
    let Ok(written) = stored.to_bytes(layout, bytes.len()) else { return };
    assert_eq!(Stored::parse(&written, layout).as_ref(), Ok(stored));
    assert_eq!((as_uboot_reads(&written, layout), written.len()), (variables.clone(), bytes.len()));
    let mut changed = stored.clone();
    changed.environment.set("ours", "x y");
    let Ok(written) = changed.to_bytes(layout, bytes.len()) else { return };
    let read = as_uboot_reads(&written, layout);
    assert_eq!(
        read.iter().filter_map(|entry| named(entry)).find(|(name, _)| *name == b"ours"),
        Some((&b"ours"[..], &b"x y"[..]))
    );
    let without = |entries: &[Vec<u8>]| entries.iter().filter(|entry| !entry.starts_with(b"ours=")).cloned().collect::<Vec<_>>();
    assert_eq!(without(&read), without(&variables), "a change of one variable changes another one");
}

fn on_a_host(runs: usize, verb: Verb, layout: Layout, copies: &[Vec<u8>; 2], stored: &[Option<Stored>; 2], counts: usize) {
    let size = copies[0].len();
    let mut medium = vec![0xEE; 2 * APART + 16];
    let places: Vec<usize> = if layout == Layout::Redundant { vec![8, APART + 8] } else { vec![8] };
    for (at, copy) in places.iter().zip(copies) {
        medium[*at..*at + size].copy_from_slice(copy);
    }
    let host = Host::new(runs, "boot.control = \"u-boot\"\nboot.u-boot.config = \"@/fw_env.config\"\n");
    let lines = places.iter().map(|at| format!("{}/env/image {at:#x} {size:#x}\n", host.folder.path().display()));
    host.folder.put("fw_env.config", lines.collect::<String>().as_bytes());
    host.folder.put("env/image", &medium);
    let Some(before) = host.read() else { return };
    check_next(&copies[counts], layout, &before);
    let Some(change) = host.change(verb, "env") else { return };
    let written = host.folder.get("env/image").expect("the medium is still there");
    assert_eq!(written.len(), medium.len());
    let outside = |at: usize| !places.iter().any(|place| (*place..*place + size).contains(&at));
    assert!((0..medium.len()).filter(|at| outside(*at)).all(|at| written[at] == medium[at]), "a write beside the copies");
    let after: Vec<&[u8]> = places.iter().map(|at| &written[*at..*at + size]).collect();
    if layout == Layout::Redundant {
        assert_eq!(after[counts], copies[counts], "the copy that counted is written over");
    }
    let read = [0, 1].map(|copy| after.get(copy).and_then(|bytes| Stored::parse(bytes, layout).ok()));
    let now = counting(&read).expect("a copy counts at every moment");
    assert!(now == counts || layout == Layout::Redundant && read[now] != stored[now], "another copy counts, and was not written");
    check_next(after[now], layout, &change.after);
    let others = |bytes: &[u8]| {
        let is_ours = |entry: &Vec<u8>| named(entry).is_some_and(|(name, _)| OURS.contains(&name));
        as_uboot_reads(bytes, layout).into_iter().filter(|entry| !is_ours(entry)).collect::<Vec<_>>()
    };
    assert_eq!(others(after[now]), others(&copies[counts]), "{verb:?} changes variables of others");
}

/// What is said to be next is what `dist/u-boot/boot.cmd` starts: the first of the order that has boots left, else the first.
fn check_next(bytes: &[u8], layout: Layout, state: &BootState) {
    let entries = as_uboot_reads(bytes, layout);
    let variables: BTreeMap<_, _> = entries.iter().filter_map(|entry| named(entry)).collect();
    let value = |name: &str| variables.get(name.as_bytes()).map(|value| String::from_utf8_lossy(value)).unwrap_or_default();
    let order = value("BOOT_ORDER").into_owned();
    // Nothing was ever marked: the script's own order.
    let order = if order.is_empty() { "A B".to_owned() } else { order };
    let slots: Vec<&str> = order.split([' ', '\t', '\n']).filter(|slot| ["A", "B"].contains(slot)).collect();
    let has_left = |slot: &&&str| u32::from_str_radix(&value(&format!("BOOT_{slot}_LEFT")), 16) != Ok(0);
    let started = slots.iter().find(has_left).or(slots.first());
    assert!(started.is_none_or(|slot| slot.to_lowercase() == state.next.as_str()), "{started:?} of {variables:?}: {state:?}");
}

/// `name=value` each, up to an empty one.
fn as_uboot_reads(bytes: &[u8], layout: Layout) -> Vec<Vec<u8>> {
    let data = &bytes[if layout == Layout::Redundant { 5 } else { 4 }..];
    data.split(|byte| *byte == 0).take_while(|entry| !entry.is_empty()).map(<[u8]>::to_vec).collect()
}

fn named(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = entry.iter().position(|byte| *byte == b'=')?;
    Some((&entry[..equals], &entry[equals + 1..]))
}

/// `fw_env.config`: at most two places within bounds, none of them flash, and written again they are the same.
fn places(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let places = match Places::parse(text) {
        Ok(places) => places,
        Err(error) => return assert!(error.to_string().chars().count() < 512, "{error}"),
    };
    assert!((1..=2).contains(&places.copies.len()) && (MIN_BYTES..=MAX_BYTES).contains(&places.size_bytes), "{places:?}");
    assert_eq!(places.layout() == Layout::Redundant, places.copies.len() == 2);
    let line = |place: &update_engine::boot::uboot::Place| {
        assert!(place.device.is_absolute() && !is_flash(&place.device), "{place:?}");
        let sign = if place.offset < 0 { "-" } else { "" };
        format!(
            "\t{}  {sign}{:#x}\t{:x} 0x200 1 # {}\n",
            place.device.display(),
            place.offset.unsigned_abs(),
            places.size_bytes,
            text.len()
        )
    };
    let written: String = places.copies.iter().map(line).collect();
    assert_eq!(Places::parse(&written).as_ref(), Ok(&places), "{written}");
    let octal = |place: &update_engine::boot::uboot::Place| {
        let sign = if place.offset < 0 { "-" } else { "" };
        format!("{} {sign}0{:o} {:#X}\n", place.device.display(), place.offset.unsigned_abs(), places.size_bytes)
    };
    let written: String = places.copies.iter().map(octal).collect();
    assert_eq!(Places::parse(&written).as_ref(), Ok(&places), "{written}");
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(lines.count().min(2), places.copies.len(), "a line is a place");
}
