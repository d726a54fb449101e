//! `verify` and `adopt`: reading slots back without changing them.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use manifests::release::{Envelope, Record, RecordError, SlotName};

use crate::daemon::{Shared, ask, slots};
use crate::engine::cause::Cause;
use crate::engine::event::Fault;
use crate::engine::facts::{Facts, Floor, FloorFacts};
use crate::floor::FloorFile;
use crate::slot::Watch;
use crate::slot::readback::{SlotView, scan};
use crate::world::{Ground, World, chain, disk_name, slot_fault};

/// What to do.
pub(super) enum What {
    /// Read every slot that has a record back.
    Verify,
    /// Find the slot that holds what this record says, and keep the record for it.
    Adopt(PathBuf),
}

/// What was found.
pub(super) struct Inspection {
    /// The world afterwards.
    pub(super) facts: Box<Facts>,
    /// One sentence for whoever asked.
    pub(super) outcome: Result<String, Fault>,
}

/// How much of a slot differs from its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Differing {
    /// Windows that differ.
    windows: u64,
    /// Windows there are.
    of: u64,
}

impl What {
    pub(super) fn announcement(&self) -> String {
        match self {
            Self::Verify => "reading the slots back".to_owned(),
            Self::Adopt(path) => format!("reading the slots back against {}", path.display()),
        }
    }
}

/// Reads; changes no slot.
pub(super) fn inspect(shared: &Shared, what: What, channel: Option<&str>) -> Inspection {
    let outcome = match what {
        What::Verify => verify(&shared.world),
        What::Adopt(path) => adopt(&shared.world, &path),
    };
    Inspection { facts: Box::new(shared.world.look(channel)), outcome }
}

fn verify(world: &World) -> Result<String, Fault> {
    let mut found = Vec::new();
    let ground = world.ground()?;
    for slot in [SlotName::A, SlotName::B] {
        if let Some((record, _)) = world.records().slot_record(slot) {
            found.push((slot, differing(&ground, slot, &record)?));
        }
    }
    let words = found.iter().map(|(slot, differing)| match differing.windows {
        0 => format!("slot {slot} is what its record says"),
        windows => format!(
            "slot {slot} differs from its record in {windows} of {} windows (a file system mounted for writing changes a few)",
            differing.of
        ),
    });
    let words = words.collect::<Vec<_>>().join("; ");
    if words.is_empty() {
        Err(Fault::new(Cause::NoRecord, "no slot has a record: `updatectl adopt RELEASE` names one"))
    } else {
        Ok(words)
    }
}

/// The record must verify with this image's keys, and a slot must hold exactly what it says.
fn adopt(world: &World, path: &std::path::Path) -> Result<String, Fault> {
    let mut found = Vec::new();
    let bytes = ask::read_record(path)?;
    let fault = |error: RecordError| Fault::new(ask::record_cause(&error), format!("{}: {error}", path.display()));
    let keyring = world.keyring()?;
    let release = Envelope::parse(&bytes).and_then(|envelope| envelope.verify(&keyring)).map_err(fault)?;
    let record = release.record();
    let ground = world.ground()?;
    let running = ground.running.name().as_str().to_owned();
    let order = if running == "a" { [SlotName::A, SlotName::B] } else { [SlotName::B, SlotName::A] };
    for slot in order {
        let Ok(differing) = differing(&ground, slot, record) else { continue };
        found.push((slot, differing));
        if differing.windows == 0 {
            world.records().adopt(slot, &bytes).map_err(|error| Fault::new(Cause::StateDir, chain(&error)))?;
            if slot.as_str() == running {
                found_floor_by(world, record)?;
            }
            return Ok(format!("slot {slot} holds {} (sequence {})", record.version, record.sequence));
        }
    }
    let words =
        found.iter().map(|(slot, differing)| format!("slot {slot} differs in {} of {} windows", differing.windows, differing.of));
    Err(Fault::new(Cause::ReadBack, format!("no slot holds {}: {}", record.version, words.collect::<Vec<_>>().join(", "))))
}

/// A host that lost its floor begins a new one with what it runs. One that has a floor keeps it.
fn found_floor_by(world: &World, record: &Record) -> Result<(), Fault> {
    let state_dir = &world.settings().state_dir;
    let fault = |error: crate::floor::FloorError| Fault::new(Cause::StateDir, error.to_string());
    let before = FloorFile::load(state_dir).map_err(fault)?;
    let image = match world.look(None).floor {
        FloorFacts::Known(floor) => floor.floor,
        FloorFacts::Lost { image } => image,
    };
    let base = before.unwrap_or(FloorFile { floor: Floor { floor: image, highest: image }, revoked: Vec::new() });
    base.raised_by(record).store(state_dir).map_err(fault)
}

fn differing(ground: &Ground, slot: SlotName, record: &Record) -> Result<Differing, Fault> {
    let name = disk_name(slot, &ground.disk)?;
    let view = SlotView::open(&ground.disk, &name, &slots::sizes_of(record, slot)).map_err(|error| slot_fault(&error))?;
    let digests = slots::digests_of(record, slot);
    let (never, silent) = (AtomicBool::new(false), |_| {});
    let mut sum = Differing { windows: 0, of: 0 };
    for table in slots::image_tables(record, &digests)? {
        let equal = scan(&view, &table, None, &Watch::new(2, &never, &silent)).map_err(|error| slot_fault(&error))?;
        sum.of += table.windows();
        sum.windows += table.windows().saturating_sub(u64::try_from(equal.len()).unwrap_or(u64::MAX));
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use manifests::keyring::SecretKey;

    use super::*;
    use crate::engine::tests::host::record;
    use crate::world::tests::world_that_trusts;

    #[test]
    fn adopt_says_what_is_wrong_with_a_record() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        let world = world_that_trusts(dir.path(), &ours);
        let unsigned = Envelope::unsigned(&record(2)).unwrap();
        let signed_by = |key| {
            let mut envelope = unsigned.clone();
            envelope.sign(key).unwrap();
            envelope.to_bytes()
        };
        let file = dir.path().join("2.release");
        for (bytes, cause) in [
            (b"no record".to_vec(), Cause::RecordMalformed),
            (unsigned.to_bytes(), Cause::RecordUnsigned),
            (signed_by(&theirs), Cause::RecordSignature),
            (signed_by(&ours), Cause::Slots),
        ] {
            std::fs::write(&file, bytes).unwrap();
            assert_eq!(adopt(&world, &file).unwrap_err().code, cause);
        }
        assert_eq!(adopt(&world, &dir.path().join("none")).unwrap_err().code, Cause::RecordFetch);
    }
}
