//! `verify` and `adopt`: reading slots back without changing them.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use manifests::release::{Envelope, Image, Record, RecordError, SlotName};

use crate::daemon::{Shared, ask, slots};
use crate::engine::cause::Cause;
use crate::engine::event::Fault;
use crate::engine::facts::{Facts, Floor, FloorFacts};
use crate::engine::model::Progress;
use crate::floor::FloorFile;
use crate::slot::Watch;
use crate::slot::buffer::{ALIGNMENT, AlignedBuf};
use crate::slot::readback::{ImageMismatch, SlotView, audit, thread_count};
use crate::status::json::Inspection as InspectionKind;
use crate::world::{Ground, World, chain, disk_name, slot_fault};

/// Windows that are named one by one.
const WINDOWS_NAMED: usize = 8;

/// What to do.
#[derive(Debug)]
pub(super) enum What {
    /// Read every slot that has a record back.
    Verify {
        /// The slot that is being written just now.
        being_written: Option<SlotName>,
    },
    /// Find the slot that holds what this record says, and keep the record for it.
    Adopt(PathBuf),
}

/// How slots are read here.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    /// Told how far the slot that is being read is.
    pub(super) report: &'a (dyn Fn(Progress) + Sync),
    /// Nobody wants it any more.
    pub(super) cancel: &'a AtomicBool,
}

/// What was found.
pub(super) struct Inspection {
    /// What was asked for.
    pub(super) of: InspectionKind,
    /// The world afterwards.
    pub(super) facts: Box<Facts>,
    /// One sentence for whoever asked.
    pub(super) outcome: Result<String, Fault>,
}

/// What one slot turned out to be.
struct Verdict {
    words: String,
    /// Nothing that is allowed to happen to a slot makes this of it.
    is_wrong: bool,
}

impl What {
    pub(super) const fn kind(&self) -> InspectionKind {
        match self {
            Self::Verify { .. } => InspectionKind::Verify,
            Self::Adopt(_) => InspectionKind::Adopt,
        }
    }

    pub(super) fn announcement(&self) -> String {
        match self {
            Self::Verify { .. } => "reading the slots back".to_owned(),
            Self::Adopt(path) => format!("reading the slots back against {}", path.display()),
        }
    }
}

/// Reads; changes no slot.
pub(super) fn inspect(shared: &Shared, what: What, channel: Option<&str>, reading: Reading<'_>) -> Inspection {
    let of = what.kind();
    let outcome = match what {
        What::Verify { being_written } => verify(&shared.world, being_written, reading),
        What::Adopt(path) => adopt(&shared.world, &path, reading),
    };
    Inspection { of, facts: Box::new(shared.world.look(channel)), outcome }
}

/// Every slot is told of, also the one that cannot be read; one that is wrong makes the whole an error.
fn verify(world: &World, being_written: Option<SlotName>, reading: Reading<'_>) -> Result<String, Fault> {
    let ground = world.ground()?;
    let (mut verdicts, mut read) = (Vec::new(), 0);
    for slot in [SlotName::A, SlotName::B] {
        let verdict = match world.records().slot_record(slot) {
            _ if being_written == Some(slot) => fine(format!("slot {slot} is being written")),
            None => fine(format!("slot {slot} has no record to compare it with")),
            Some((record, digest)) => {
                read += 1;
                let verdict = verdict(&ground, slot, &record, reading);
                // An update may have begun meanwhile: a slot's record goes before its first byte changes.
                let still_holds = world.records().slot_record(slot).is_some_and(|(_, now)| now == digest);
                let overtaken = || fine(format!("slot {slot} ({}) was written meanwhile: it was not compared", record.version));
                if still_holds { verdict } else { overtaken() }
            }
        };
        verdicts.push(verdict);
    }
    let words = verdicts.iter().map(|verdict| verdict.words.as_str()).collect::<Vec<_>>().join("; ");
    if read == 0 {
        return Err(Fault::new(Cause::NoRecord, format!("{words}: `updatectl adopt RELEASE` names the record of a slot")));
    }
    if verdicts.iter().any(|verdict| verdict.is_wrong) { Err(Fault::new(Cause::ReadBack, words)) } else { Ok(words) }
}

const fn fine(words: String) -> Verdict {
    Verdict { words, is_wrong: false }
}

/// Design 11.6: a file system that was mounted for writing changes a few windows, which is reported and no error. On an image
/// that nothing can have been written to it is one.
fn verdict(ground: &Ground, slot: SlotName, record: &Record, reading: Reading<'_>) -> Verdict {
    let wrong = |words: String| Verdict { words: format!("slot {slot} ({}) {words}", record.version), is_wrong: true };
    let differing = match differing(ground, slot, record, reading) {
        Ok(differing) => differing,
        Err(fault) => return wrong(format!("cannot be read back: {}", fault.message)),
    };
    if differing.is_empty() {
        return fine(format!("slot {slot} is {} as its record says", record.version));
    }
    let words = differing.iter().map(|image| difference(image, record)).collect::<Vec<_>>().join(", ");
    match differing.iter().find(|image| is_immutable(ground, slot, record, image)) {
        Some(image) => wrong(format!("differs from its record: {words}; image {} is never written to", image.image)),
        None => Verdict {
            words: format!(
                "slot {slot} ({}) differs from its record: {words} (a file system that was mounted for writing changes a few)",
                record.version
            ),
            is_wrong: false,
        },
    }
}

/// `image root in 3 of 8 windows (windows 2, 5, 7)`.
pub(super) fn difference(image: &ImageMismatch, record: &Record) -> String {
    let of = record.images.iter().find(|known| known.name == image.image).map_or(0, |known| known.table.digests().len());
    let mut named: Vec<String> = image.windows.iter().take(WINDOWS_NAMED).map(u64::to_string).collect();
    let more = if image.windows.len() > WINDOWS_NAMED { ", …" } else { "" };
    let windows = match named.len() {
        0 => None,
        1 => Some(format!("in 1 of {of} windows (window {})", named.remove(0))),
        _ => Some(format!("in {} of {of} windows (windows {}{more})", image.windows.len(), named.join(", "))),
    };
    let tail = image.tail.then(|| "behind its end, where zeros are expected".to_owned());
    format!("image {} {}", image.image, [windows, tail].into_iter().flatten().collect::<Vec<_>>().join(" and "))
}

/// The image has a verity tree, or its file system cannot be written at all.
pub(super) fn is_immutable(ground: &Ground, slot: SlotName, record: &Record, differing: &ImageMismatch) -> bool {
    let image = record.images_for(slot).find(|(_, image)| image.name == differing.image);
    image.is_some_and(|(_, image)| {
        !differing.windows.is_empty() && (image.verity.is_some() || has_read_only_file_system(ground, slot, record, image))
    })
}

/// By what stands in the slot now. Where that itself was changed, it is not known.
fn has_read_only_file_system(ground: &Ground, slot: SlotName, record: &Record, image: &Image) -> bool {
    let look = || {
        let view = SlotView::open(&ground.disk, &disk_name(slot, &ground.disk).ok()?, &slots::sizes_of(record, slot)).ok()?;
        let length = usize::try_from(image.table.image_size()).unwrap_or(ALIGNMENT).min(ALIGNMENT);
        let mut buffer = AlignedBuf::zeroed(ALIGNMENT);
        view.read_at(&image.name, 0, &mut buffer, length).ok().map(is_read_only_file_system)
    };
    look().unwrap_or(false)
}

/// squashfs has its magic at the start, EROFS 1024 bytes behind it (both little-endian; Linux `uapi/linux/magic.h`).
fn is_read_only_file_system(start: &[u8]) -> bool {
    start.starts_with(b"hsqs") || start.get(1024..1028) == Some(&0xE0F5_E1E2_u32.to_le_bytes())
}

/// The record must verify with this image's keys, and a slot must hold exactly what it says.
fn adopt(world: &World, path: &std::path::Path, reading: Reading<'_>) -> Result<String, Fault> {
    let bytes = ask::read_record(path)?;
    let fault = |error: RecordError| Fault::new(ask::record_cause(&error), format!("{}: {error}", path.display()));
    let keyring = world.keyring()?;
    let release = Envelope::parse(&bytes).and_then(|envelope| envelope.verify(&keyring)).map_err(fault)?;
    let record = release.record();
    let ground = world.ground()?;
    let running = ground.running.name().as_str().to_owned();
    let order = if running == "a" { [SlotName::A, SlotName::B] } else { [SlotName::B, SlotName::A] };
    let mut found = Vec::new();
    for slot in order {
        match differing(&ground, slot, record, reading) {
            Err(fault) => found.push(format!("slot {slot} cannot hold it ({})", fault.message)),
            // What lies behind an image is no part of it: a factory need not have made it zero.
            Ok(differing) if differing.iter().all(|image| image.windows.is_empty()) => {
                world.records().adopt(slot, &bytes).map_err(|error| Fault::new(Cause::StateDir, chain(&error)))?;
                if slot.as_str() == running {
                    found_floor_by(world, record)?;
                }
                return Ok(format!("slot {slot} holds {} (sequence {}); its record is kept", record.version, record.sequence));
            }
            Ok(differing) => {
                let words = differing.iter().map(|image| difference(image, record)).collect::<Vec<_>>().join(", ");
                found.push(format!("slot {slot} differs: {words}"));
            }
        }
    }
    Err(Fault::new(Cause::ReadBack, format!("no slot holds {}: {}", record.version, found.join("; "))))
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
    base.raised_by(record).and_then(|raised| raised.store(state_dir)).map_err(fault)
}

/// What of a slot is not as a record says; nothing if all of it is.
fn differing(ground: &Ground, slot: SlotName, record: &Record, reading: Reading<'_>) -> Result<Vec<ImageMismatch>, Fault> {
    let name = disk_name(slot, &ground.disk)?;
    let view = SlotView::open(&ground.disk, &name, &slots::sizes_of(record, slot)).map_err(|error| slot_fault(&error))?;
    let tables = slots::image_tables(record, slot)?;
    let show = |progress| (reading.report)(slots::proving(progress));
    audit(&view, &tables, &Watch::new(thread_count(), reading.cancel, &show)).map_err(|error| slot_fault(&error))
}

#[cfg(test)]
mod tests {
    use manifests::keyring::SecretKey;

    use manifests::release::{Verity, WindowTable};

    use super::*;
    use crate::engine::tests::host::record;
    use crate::slot::rig::{self, Rig};
    use crate::world::tests::{world, world_that_trusts};

    static NEVER: AtomicBool = AtomicBool::new(false);

    fn telling(report: &(dyn Fn(Progress) + Sync)) -> Reading<'_> {
        Reading { report, cancel: &NEVER }
    }

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
            assert_eq!(adopt(&world, &file, telling(&|_| {})).unwrap_err().code, cause);
        }
        assert_eq!(adopt(&world, &dir.path().join("none"), telling(&|_| {})).unwrap_err().code, Cause::RecordFetch);
    }

    #[test]
    fn a_slot_that_an_update_takes_while_it_is_read_is_no_false_alarm() {
        let rig = Rig::with_slots_of(16);
        let world = world(rig.folder.path());
        let image = rig::image(8192);
        let digest = rig::digests(&image, image.len())[0];
        let mut kept = record(2);
        kept.images[0].table = WindowTable::new(8192, vec![digest]).unwrap();
        kept.images[0].verity = Some(Verity { root_hash: digest, salt: String::new() });
        world.records().adopt(SlotName::B, &Envelope::unsigned(&kept).unwrap().to_bytes()).unwrap();
        rig.poke(1, 0, &image);
        let untouched = verify(&world, None, telling(&|_| {})).unwrap();
        assert_eq!(untouched, "slot a has no record to compare it with; slot b is 1.1.0 as its record says");

        rig.poke(1, 4096, &[0xEE]);
        let tampered = verify(&world, None, telling(&|_| {})).unwrap_err();
        assert!(tampered.message.ends_with("(window 0); image root is never written to"), "{}", tampered.message);

        let begins = |_| world.records().slot_changes(SlotName::B).unwrap();
        let overtaken = verify(&world, None, telling(&begins)).unwrap();
        let words = "slot a has no record to compare it with; slot b (1.1.0) was written meanwhile: it was not compared";
        assert_eq!(overtaken, words);
    }

    #[test]
    fn file_systems_that_cannot_be_written_are_known_by_their_magic() {
        let mut erofs = vec![0; 4096];
        assert!(!is_read_only_file_system(&erofs));
        erofs[1024..1028].copy_from_slice(&[0xE2, 0xE1, 0xF5, 0xE0]);
        assert!(is_read_only_file_system(&erofs));
        assert!(is_read_only_file_system(b"hsqs and more"));
        assert!(!is_read_only_file_system(b"hsq"));
    }
}
