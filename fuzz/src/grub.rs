//! GRUB's environment block: read as GRUB reads it, changed without touching what is not ours, in one sector.

use std::collections::BTreeMap;

use update_engine::boot::BootState;
use update_engine::boot::grub::Block;
use update_engine::boot::grub::block::{BLOCK_BYTES, SECTOR_BYTES};

use crate::slots::{Host, Verb};

const SIGNATURE: &[u8] = b"# GRUB Environment Block\n";
/// Ours, or the canary of either spelling.
const OURS: [&str; 13] = [
    "ota_primary",
    "ota_pending",
    "ota_left",
    "ota_a",
    "ota_b",
    "ota_armed",
    "ota_bad",
    "ORDER",
    "A_OK",
    "A_TRY",
    "B_OK",
    "B_TRY",
    "ours",
];

type Variables = Vec<(Vec<u8>, Vec<u8>)>;

/// A byte of flags, one that picks a verb, then lines of the block.
///
/// Flags: 0 slot b runs, 1 the variables of RAUC, 2 the block gets its signature and its end, 3 a copy that is whole lies beside it.
pub fn environment(data: &[u8]) {
    let Some((&[flags, verb], rest)) = data.split_first_chunk() else { return };
    let is = |bit: u8| flags >> bit & 1 == 1;
    let bytes = if is(2) { framed(rest) } else { rest.to_vec() };
    let block = Block::parse(&bytes);
    if let Ok(block) = &block {
        check_block(&bytes, block);
    }
    if block.is_err() && !is(3) {
        return;
    }
    let variables = if is(1) { "rauc" } else { "ota" };
    let boot = format!("boot.control = \"grub\"\nboot.grub.env = \"@/env/grubenv\"\nboot.grub.variables = \"{variables}\"\n");
    let host = Host::new(usize::from(is(0)), &boot);
    host.folder.put("env/grubenv", &bytes);
    if is(3) {
        host.folder.put("env/grubenv.ota", &framed(b"ota_primary=b\nota_b=good\nota_armed=1\nORDER=B A\nB_OK=1\nB_TRY=0\n"));
    }
    let Some(before) = host.read() else { return };
    if block.is_ok() {
        check_next(&bytes, is(1), &before);
    }
    let Some(change) = host.change(Verb::of(verb), "env") else { return };
    let written = host.folder.get("env/grubenv").expect("the block is still there");
    if Block::parse(&written).is_ok() {
        check_next(&written, is(1), &change.after);
    }
    if block.is_ok() {
        assert_eq!(written[SECTOR_BYTES..], bytes[SECTOR_BYTES..], "more than one sector is changed");
        assert_eq!(of_others(&written), of_others(&bytes), "{:?} changes variables of others", Verb::of(verb));
    }
}

/// The codec against GRUB's own reading, and a change of one variable.
fn check_block(bytes: &[u8], block: &Block) {
    let variables = as_grub_reads(bytes);
    let last: BTreeMap<_, _> = variables.iter().cloned().collect();
    for (name, value) in &last {
        if let Ok(name) = std::str::from_utf8(name) {
            assert_eq!(block.get(name), Some(value.as_slice()), "{name} in {block:?}");
        }
    }
    for name in OURS {
        assert_eq!(block.get(name).is_some(), last.contains_key(name.as_bytes()), "{name} in {block:?}");
    }
    let Ok(written) = block.to_bytes() else { return };
    assert_eq!(Block::parse(&written).as_ref(), Ok(block));
    assert_eq!(as_grub_reads(&written), variables, "written again GRUB reads something else in {block:?}");
    let mut changed = block.clone();
    changed.set("ours", "a\\b\nc");
    let Ok(written) = changed.to_bytes() else { return };
    assert_eq!(written[SECTOR_BYTES..], [b'#'; BLOCK_BYTES - SECTOR_BYTES]);
    let read = as_grub_reads(&written);
    assert_eq!(read.iter().filter(|(name, _)| name == b"ours").collect::<Vec<_>>(), [&(b"ours".to_vec(), b"a\\b\nc".to_vec())]);
    assert_eq!(without_ours(read), without_ours(variables.clone()), "a change of one variable changes another one");
    changed.unset("ours");
    let written = changed.to_bytes().expect("it is shorter");
    assert_eq!(without_ours(as_grub_reads(&written)), without_ours(variables));
}

fn without_ours(variables: Variables) -> Variables {
    variables.into_iter().filter(|(name, _)| name != b"ours").collect()
}

fn of_others(bytes: &[u8]) -> Variables {
    as_grub_reads(bytes).into_iter().filter(|(name, _)| !OURS.iter().any(|ours| ours.as_bytes() == name)).collect()
}

/// What is said to be next is what the loader starts: by `dist/grub/ota.cfg`, or by the script of RAUC.
fn check_next(bytes: &[u8], is_rauc: bool, state: &BootState) {
    let variables: BTreeMap<_, _> = as_grub_reads(bytes).into_iter().collect();
    let value = |name: &str| variables.get(name.as_bytes()).map(|value| String::from_utf8_lossy(value)).unwrap_or_default();
    let next = state.next.as_str();
    if is_rauc {
        let may_start = |slot: &&str| value(&format!("{slot}_OK")) == "1" && value(&format!("{slot}_TRY")) != "1";
        let order = value("ORDER");
        let first = order.split_whitespace().filter(|slot| ["A", "B"].contains(slot)).find(may_start);
        assert!(first.is_none_or(|first| first.to_lowercase() == next), "{first:?} is started: {variables:?} {state:?}");
        return;
    }
    let (pending, left) = (value("ota_pending"), value("ota_left"));
    let is_tried = !pending.is_empty() && matches!(left.as_bytes(), [b'1'..=b'9']);
    let primary = if value("ota_primary") == "b" { "b" } else { "a" };
    assert_eq!(if is_tried { &pending } else { primary }, next, "{variables:?} {state:?}");
}

/// GRUB's walk over a block: a `\` takes the byte behind it along, in comments as well, and names and values end at a zero byte.
fn as_grub_reads(bytes: &[u8]) -> Variables {
    let mut found = Vec::new();
    let mut at = SIGNATURE.len();
    while at < bytes.len() {
        if bytes[at] != b'#' {
            let Some(equals) = bytes[at..].iter().position(|byte| *byte == b'=').map(|equals| at + equals) else { break };
            let name = &bytes[at..equals];
            let Some((value, end)) = value_at(bytes, equals + 1) else { break };
            found.push((as_text(name), as_text(&value)));
            at = end;
        }
        at = value_at(bytes, at).map_or(bytes.len(), |(_, end)| end) + 1;
    }
    found
}

/// What stands up to a line break, without the `\` before each byte, and where that is.
fn value_at(bytes: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let mut value = Vec::new();
    loop {
        match bytes.get(at)? {
            b'\n' => return Some((value, at)),
            b'\\' => {
                value.push(*bytes.get(at + 1)?);
                at += 2;
            }
            plain => {
                value.push(*plain);
                at += 1;
            }
        }
    }
}

fn as_text(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

fn framed(lines: &[u8]) -> Vec<u8> {
    let mut bytes = [SIGNATURE, lines].concat();
    bytes.resize(BLOCK_BYTES, b'#');
    bytes
}
