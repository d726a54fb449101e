//! `autoboot.txt`: what the firmware takes from it, and what a change leaves of it.

use update_engine::boot::BootState;
use update_engine::boot::rpi::autoboot::{FILE_BYTES, MAX_FILE_BYTES, padded};
use update_engine::boot::rpi::{Autoboot, Booted};

use crate::slots::{Host, Verb};

/// Numbers of the partitions of both slots.
const PARTITIONS: [u32; 2] = [2, 3];

/// What the firmware takes from a file: a setting of `[all]` counts in every boot, one of `[tryboot]` in a boot with the flag.
#[derive(Debug, Default, PartialEq)]
struct Taken {
    partition: Option<u32>,
    tryboot_partition: Option<u32>,
    tryboot_a_b: bool,
    /// Lines that say something else, each with its filter.
    others: Vec<(String, String)>,
}

/// A byte of flags, one that picks a verb, one that says what the firmware started, then the file.
///
/// Flags: 0 slot b runs, 1 the firmware says what it started, 2 with the flag.
pub fn file(data: &[u8]) {
    let Some((&[flags, verb, started], bytes)) = data.split_first_chunk() else { return };
    let is = |bit: u8| flags >> bit & 1 == 1;
    let file = match Autoboot::parse(bytes) {
        Ok(file) => file,
        Err(error) => {
            let words = error.to_string();
            return assert!(words.chars().count() < 512 && !words.chars().any(char::is_control), "{words}");
        }
    };
    check_file(bytes, &file);
    let host = Host::new(
        usize::from(is(0)),
        "boot.control = \"rpi-tryboot\"\nboot.rpi-tryboot.autoboot = \"@/first/autoboot.txt\"\n\
         reboot.command = [\"systemctl\", \"reboot\", \"--reboot-argument=0 tryboot\"]\n",
    );
    host.folder.put("first/autoboot.txt", bytes);
    if is(1) {
        let said = Booted { tryboot: is(2), partition: u32::from(started) };
        for (name, number) in [("tryboot", u32::from(said.tryboot)), ("partition", said.partition)] {
            host.folder.put(&format!("proc/device-tree/chosen/bootloader/{name}"), &number.to_be_bytes());
        }
        assert_eq!(Booted::read(host.folder.path()).ok(), Some(Some(said)));
    }
    let Some(before) = host.read() else { return };
    check_pending(bytes, &before);
    let Some(change) = host.change(Verb::of(verb), "first") else { return };
    let written = host.folder.get("first/autoboot.txt").expect("the file is still there");
    check_pending(&written, &change.after);
    if written == bytes {
        return;
    }
    assert!(written.len() == bytes.len().max(FILE_BYTES), "the file takes another length than it has to");
    let (was, now) = (taken(bytes), taken(&written));
    assert_eq!(now.others, was.others, "{:?} changes lines of others", Verb::of(verb));
    let is_of = |partition: Option<u32>, slot: &str| partition == Some(PARTITIONS[usize::from(slot == "b")]);
    assert!(now.tryboot_a_b && is_of(now.tryboot_partition, change.after.next.as_str()), "{now:?} {:?}", change.after);
}

/// A slot on trial is what a reboot with the argument starts.
fn check_pending(bytes: &[u8], state: &BootState) {
    let Some(slot) = state.slots.iter().find(|slot| slot.standing.is_pending()) else { return };
    let number = PARTITIONS[usize::from(slot.name.as_str() == "b")];
    assert_eq!(taken(bytes).tryboot_partition, Some(number), "{state:?}");
}

/// The codec against a reading of its own; written and made longer it says the same.
fn check_file(bytes: &[u8], file: &Autoboot) {
    let was = taken(bytes);
    let of = |file: &Autoboot| (file.partition, file.tryboot_partition, file.tryboot_a_b);
    assert_eq!(of(file), (was.partition, was.tryboot_partition, was.tryboot_a_b));
    for length in [FILE_BYTES, bytes.len().max(FILE_BYTES), MAX_FILE_BYTES] {
        if let Ok(longer) = padded(bytes, length) {
            assert_eq!((longer.len(), Autoboot::parse(&longer).as_ref(), taken(&longer)), (length, Ok(file), taken(bytes)));
            assert!(longer.starts_with(said(bytes)), "what was said is changed");
        }
        let Ok(written) = file.to_bytes(length) else { continue };
        assert_eq!((written.len(), Autoboot::parse(&written).as_ref()), (length, Ok(file)));
        let now = taken(&written);
        assert_eq!(
            (now.partition, now.tryboot_partition, now.tryboot_a_b, &now.others),
            (was.partition, was.tryboot_partition, was.tryboot_a_b, &was.others)
        );
        assert!(
            written
                .split(|byte| *byte == b'\n')
                .all(|line| line.len() < 100 || bytes.windows(line.len()).any(|there| there == line))
        );
    }
    let mut changed = file.clone();
    (changed.partition, changed.tryboot_partition) = (Some(2), Some(3));
    changed.marks = "a=good b=pending".to_owned();
    if let Ok(written) = changed.to_bytes(MAX_FILE_BYTES) {
        let now = taken(&written);
        assert_eq!((now.partition, now.tryboot_partition, now.tryboot_a_b), (Some(2), Some(3), file.tryboot_a_b));
        assert_eq!(now.others, was.others, "a change of the settings changes lines of others");
    }
}

fn taken(bytes: &[u8]) -> Taken {
    let text = String::from_utf8_lossy(said(bytes)).into_owned();
    let (mut taken, mut filter) = (Taken::default(), "[all]".to_owned());
    for line in text.lines().map(str::trim).filter(|line| !line.trim_matches('#').is_empty() && !line.starts_with("#ota ")) {
        let setting = line.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
        match (setting, filter.as_str()) {
            _ if line.starts_with('[') => filter = line.to_owned(),
            (Some(("boot_partition", number)), "[all]" | "[tryboot]") => {
                taken.tryboot_partition = number.parse().ok();
                taken.partition = if filter == "[all]" { number.parse().ok() } else { taken.partition };
            }
            (Some(("tryboot_a_b", value)), "[all]" | "[tryboot]") => taken.tryboot_a_b = value == "1",
            _ => taken.others.push((filter.clone(), line.to_owned())),
        }
    }
    taken
}

/// Without the zeros of a file that grew.
fn said(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}
