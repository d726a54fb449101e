//! The world as the engine wants to know it: slots, boot table, identity, keys, floor, gathered from the machine.
//!
//! Every look starts from nothing: the disk is discovered anew, so that what is written to is what was found a moment ago.
//! All of it blocks; the daemon calls it from a thread for blocking work.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use manifests::keyring::{KeyId, Keyring, PublicKey};
use manifests::limits::{MAX_KEY_FILE_BYTES, MAX_KEYS};
use manifests::release::{Record, SlotName};
use manifests::version::Sequence;

use crate::boot::custom::{Custom, CustomSpec};
use crate::boot::efi::EfiBoot;
use crate::boot::gpt::GptControl;
use crate::boot::grub::{GrubEnv, Spelling};
use crate::boot::pair::{PairControl, PairStore};
use crate::boot::rpi::AutobootFile;
use crate::boot::systemd_boot::Entries;
use crate::boot::uboot::UBootEnv;
use crate::boot::{BootControl, BootError, BootState, Past, Standing, place};
use crate::config::{BootSettings, GrubVariables, Settings};
use crate::deadline;
use crate::durable;
use crate::engine::cause::Cause;
use crate::engine::event::Fault;
use crate::engine::facts::{BootTable, Content, Facts, Floor, FloorFacts, Identity, LastWords, LeftTrial, PerSlot, Trouble};
use crate::engine::policy::millis;
use crate::engine::time::{BootId, Mono};
use crate::floor::{FloorError, FloorFile, load_image_floor};
use crate::kernel_log::{self, KernelLog};
use crate::os_release;
use crate::records::Records;
use crate::slot::{self, Disk, DiskSpec, Location, Mode, RunningSlot, SlotError, SlotSpec};

mod state_folder;
mod units;

pub use state_folder::StateFolder;

/// Longest small file of the system that is read (`os-release`, `machine-id`, `boot_id`).
const MAX_SMALL_FILE_BYTES: u64 = 64 * 1024;

/// Looks at the machine through one configuration.
#[derive(Clone, Debug)]
pub struct World {
    settings: Arc<Settings>,
    records: Records,
    /// Of whoever keeps a journal.
    state_folder: Option<Arc<StateFolder>>,
}

/// The disk and the slot that runs, as found a moment ago.
#[derive(Debug)]
pub struct Ground {
    /// The disk.
    pub disk: Disk,
    /// The slot that runs.
    pub running: RunningSlot,
}

impl World {
    /// A look at the machine these settings describe.
    pub const fn new(settings: Arc<Settings>, records: Records) -> Self {
        Self { settings, records, state_folder: None }
    }

    /// The same, for whoever has a journal in this folder.
    #[must_use]
    pub fn with_journal_in(self, folder: StateFolder) -> Self {
        Self { state_folder: Some(Arc::new(folder)), ..self }
    }

    /// The state that is looked up by its path is that of the journal.
    pub fn state_is_that_of_the_journal(&self) -> Result<(), Fault> {
        self.state_folder.as_ref().map_or(Ok(()), |folder| folder.check())
    }

    /// The same as far as it can be told: one that cannot be looked up is not taken for another.
    pub fn state_is_no_other(&self) -> Result<(), Fault> {
        self.state_is_that_of_the_journal().or_else(|fault| if self.has_left_its_journal() { Err(fault) } else { Ok(()) })
    }

    /// There is a journal whose folder something may be mounted over.
    pub const fn has_journal_in_a_folder(&self) -> bool {
        self.state_folder.is_some()
    }

    /// Something has been seen to be another state than that of the journal.
    pub fn has_left_its_journal(&self) -> bool {
        self.state_folder.as_ref().is_some_and(|folder| folder.was_left())
    }

    /// The settings.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Records of offers and slots.
    pub const fn records(&self) -> &Records {
        &self.records
    }

    /// Finds the disk, its slots and the one that runs.
    pub fn ground(&self) -> Result<Ground, Fault> {
        let disk = find_disk(&self.settings)?;
        let running = running_slot(&disk)?;
        Ok(Ground { disk, running })
    }

    /// The same as far as marks need it: an ESP that is not mounted hides the places of some images, and neither what runs nor how it
    /// stands.
    pub fn ground_for_marks(&self) -> Result<Ground, Fault> {
        self.ground().or_else(|fault| {
            let disk = self.disk_without_esp().ok_or(fault)?;
            let running = running_slot(&disk)?;
            Ok(Ground { disk, running })
        })
    }

    /// Where all images lie on partitions this is the same disk, and no help.
    fn disk_without_esp(&self) -> Option<Disk> {
        let mut settings = Settings::clone(&self.settings);
        for slot in [&mut settings.slots.a, &mut settings.slots.b] {
            slot.images.retain(|_, place| !matches!(place, Location::Esp(_)));
        }
        let is_less = settings.slots != self.settings.slots && !settings.slots.a.images.is_empty();
        is_less.then(|| find_disk(&settings).ok()).flatten()
    }

    /// A host, or an image of one.
    pub fn mode(&self) -> Mode {
        if is_block_device(&self.settings.disk.device) { Mode::Host } else { Mode::Image }
    }

    /// Everything the engine wants to know. What could not be found out is a trouble with words, never a guess.
    pub fn look(&self, channel: Option<&str>) -> Facts {
        let mut troubles = Vec::new();
        let disk = note(find_disk(&self.settings), &mut troubles).or_else(|| self.disk_without_esp());
        let runs = disk.as_ref().and_then(|disk| note(running_slot(disk), &mut troubles));
        let running = runs.as_ref().and_then(|slot| slot_name(slot.name()));
        // The table says whether the loader goes back, also to whoever does not know what runs.
        let boot = disk.as_ref().and_then(|disk| note(self.read_boot(disk), &mut troubles));
        if let Some(disk) = &disk {
            note(state_on_no_slot(&self.settings, disk), &mut troubles);
        }
        // One that cannot be looked up is said by whoever needs what is in it.
        note(self.state_is_no_other(), &mut troubles);
        let identity = self.identity(channel, &mut troubles);
        // A floor that cannot be read hides the revoked keys, too; it is said once, below.
        note(
            self.keyring().map(drop).or_else(|fault| if fault.code == Cause::FloorUnreadable { Ok(()) } else { Err(fault) }),
            &mut troubles,
        );
        let slots = PerSlot { a: self.content(SlotName::A, running), b: self.content(SlotName::B, running) };
        let floor = self.floor(running, boot.as_ref().filter(|_| running.is_some()), &slots, &mut troubles);
        let image_mode = disk.as_ref().map_or_else(|| self.mode(), Disk::mode) == Mode::Image;
        let no_deadline = units::no_deadline(&self.settings);
        let is_kept = !image_mode && no_deadline.is_none();
        Facts {
            image_mode,
            identity,
            boot_id: self.boot_id(&mut troubles),
            running,
            boot,
            slots,
            capacity: disk.as_ref().zip(runs.as_ref()).map(|(disk, running)| capacity(disk, running)).unwrap_or_default(),
            floor,
            left: self.left_trial(),
            last_words: self.last_words(),
            rival: units::rival(&self.settings),
            trial_ends: running
                .filter(|_| is_kept)
                .and_then(|running| trial_ends(&self.settings, running, deadline::suspended_for())),
            no_deadline,
            troubles,
        }
    }

    /// What cannot be read says nothing: the boot table does.
    fn left_trial(&self) -> Option<LeftTrial> {
        match deadline::Left::load(&self.settings.state_dir) {
            Ok(left) => left.map(|left| LeftTrial { attempt: left.attempt, why: left.why }),
            Err(error) => {
                tracing::warn!("{error}");
                None
            }
        }
    }

    fn last_words(&self) -> Option<LastWords> {
        match KernelLog::load(&self.settings.state_dir) {
            Ok(log) => log.and_then(|log| Some(LastWords { line: log.telling_line()?, attempt: log.attempt })),
            Err(error) => {
                tracing::warn!("{error}");
                None
            }
        }
    }

    /// Where the old slot runs again, and the new one was tried: keeps what a kernel that died there may have left.
    pub fn look_for_last_words(&self, facts: Facts) -> Facts {
        let state_dir = &self.settings.state_dir;
        let Ok(Some(trial)) = deadline::Trial::load(state_dir) else { return facts };
        let Some(armed_at) = deadline::Trial::written_at(state_dir) else { return facts };
        let was_tried = facts.standing(trial.slot).is_some_and(|standing| facts.was_tried(standing));
        if facts.running != Some(trial.slot.other()) || !was_tried || facts.state_is_elsewhere().is_some() {
            return facts;
        }
        kernel_log::keep_left_behind(&self.settings, &trial.attempt, armed_at);
        Facts { last_words: self.last_words(), ..facts }
    }

    /// The keys this host trusts: those of the running image, without the ones that committed releases revoked.
    pub fn keyring(&self) -> Result<Keyring, Fault> {
        self.keyring_without(&[])
    }

    /// The same, and without these.
    pub fn keyring_without(&self, also_revoked: &[KeyId]) -> Result<Keyring, Fault> {
        let folder = &self.settings.trust.keyring_dir;
        let file =
            FloorFile::load(&self.settings.state_dir).map_err(|error| Fault::new(Cause::FloorUnreadable, error.to_string()))?;
        let revoked: Vec<KeyId> = file.unwrap_or_default().revoked.iter().chain(also_revoked).copied().collect();
        let threshold = NonZeroU32::new(self.settings.trust.threshold).unwrap_or(NonZeroU32::MIN);
        let keys = read_keys(folder)?;
        Keyring::new(keys, threshold, &revoked)
            .map_err(|error| Fault::new(Cause::NoKey, format!("{}: {error}", folder.display())))
    }

    /// Boot control of a disk.
    pub fn boot_control(&self, disk: &Disk) -> Result<Box<dyn BootControl>, Fault> {
        boot_control(&self.settings, disk).map_err(|error| boot_fault(&error))
    }

    /// What is to be said where the loader started a slot on trial and did not count that boot. Nothing where the marks do not tell:
    /// the Raspberry Pi's firmware takes the flag back by itself, and a program of the integrator's shows no tries that were spent.
    pub fn uncounted_boot(&self, facts: &Facts, slot: SlotName) -> Option<String> {
        let tells = !matches!(self.settings.boot, BootSettings::RpiTryboot(_) | BootSettings::Custom(_));
        let tries = facts.uncounted_boot(slot).filter(|_| tells)?;
        Some(format!(
            "the boot loader started slot {slot} without counting the boot ({tries} of {tries} tries left): it would start a bad image for \
             ever; see docs/integrating.md (if nobody chose it in the boot menu)"
        ))
    }

    fn read_boot(&self, disk: &Disk) -> Result<BootTable, Fault> {
        let state = self.boot_control(disk)?.read().map_err(|error| boot_fault(&error))?;
        boot_table(&state)
    }

    /// Makes the floor file of a host that never had one and was never updated.
    pub fn found_floor(&self, facts: &Facts) -> Result<(), Fault> {
        let fault = |error: FloorError| Fault::new(Cause::StateDir, error.to_string());
        if let Some(trouble) = facts.state_is_elsewhere() {
            return Err(Fault::new(trouble.code.clone(), trouble.message.clone()));
        }
        let none = FloorFile::load(&self.settings.state_dir).map_err(fault)?.is_none();
        match &facts.floor {
            FloorFacts::Known(_) if none && !facts.is_blind() => {
                FloorFile::default().store(&self.settings.state_dir).map_err(fault)
            }
            _ => Ok(()),
        }
    }

    /// Raises the stored floor to what the slots that are marked good stand for, wherever a commit was cut short before it did.
    pub fn raise_floor(&self, facts: &Facts) -> Result<(), Fault> {
        let state_dir = &self.settings.state_dir;
        let fault = |error: FloorError| Fault::new(Cause::StateDir, error.to_string());
        // Only who runs can say whether its record still counts.
        if facts.is_blind() || facts.state_is_elsewhere().is_some() {
            return Ok(());
        }
        // Lost, and with it what it said: only `adopt` may begin a new one. One that cannot be read is a trouble of its own, which
        // refuses every offer.
        let Ok(Some(file)) = FloorFile::load(state_dir) else { return Ok(()) };
        let raised = self.raised(&file, facts.boot.as_ref(), &facts.slots).map_err(fault)?;
        if raised == file { Ok(()) } else { raised.store(state_dir).map_err(fault) }
    }

    /// In each boot of a slot that is good: gives back the tries that some loaders take from such a slot, too. Returns the boot table as it
    /// is then; `None` where there is nothing to give back.
    pub fn renew(&self, facts: &Facts) -> Result<Option<BootTable>, Fault> {
        let is_good = |slot: SlotName| facts.standing(slot).is_some_and(Standing::is_good);
        if !facts.running.is_some_and(is_good) {
            return Ok(None);
        }
        let ground = self.ground()?;
        let renewed = self.boot_control(&ground.disk)?.renew(&ground.running);
        renewed.map_err(|error| boot_fault(&error)).and_then(|state| boot_table(&state)).map(Some)
    }

    /// There is room to remember every key that this release revokes.
    pub fn has_room_for(&self, record: &Record) -> Result<(), Fault> {
        let fault = |error: FloorError| Fault::new(Cause::StateDir, format!("{}: {error}", record.version));
        let file = FloorFile::load(&self.settings.state_dir).map_err(fault)?.unwrap_or_default();
        file.raised_by(record).map(drop).map_err(fault)
    }

    /// A slot is good because what it holds was committed.
    fn raised(&self, file: &FloorFile, boot: Option<&BootTable>, slots: &PerSlot<Content>) -> Result<FloorFile, FloorError> {
        let is_good = |slot: &SlotName| boot.is_some_and(|boot| boot.standing.get(*slot).is_good());
        let committed = [SlotName::A, SlotName::B].into_iter().filter(is_good).filter_map(|slot| {
            let (record, digest) = self.records.slot_record(slot)?;
            (slots.get(slot).digest == Some(digest)).then_some(record)
        });
        committed.into_iter().try_fold(file.clone(), |file, record| file.raised_by(&record))
    }

    /// What tells one boot from the next. Without it a reboot could not be told from a restart of the daemon.
    fn boot_id(&self, troubles: &mut Vec<Trouble>) -> BootId {
        let name = "proc/sys/kernel/random/boot_id";
        let id = BootId::new(self.system_file(name).unwrap_or_default());
        if !id.is_known() {
            let path = self.settings.sysroot.join(name);
            let message = format!("{}: expected the id of this boot, found none (is proc mounted?)", path.display());
            troubles.push(Trouble { code: Cause::NoIdentity, message });
        }
        id
    }

    /// Machine id, as servers and the lock know this host.
    pub fn machine_id(&self) -> Option<String> {
        self.system_file("etc/machine-id").filter(|id| !id.is_empty())
    }

    fn identity(&self, channel: Option<&str>, troubles: &mut Vec<Trouble>) -> Identity {
        let server = &self.settings.server;
        let id = self.machine_id().unwrap_or_default();
        if id.is_empty() {
            let path = self.settings.sysroot.join("etc/machine-id");
            troubles.push(Trouble {
                code: Cause::NoIdentity,
                message: format!(
                    "{}: expected the machine id of this host, found none (`systemd-machine-id-setup` makes one)",
                    path.display()
                ),
            });
        }
        Identity {
            id,
            alias: server.alias.clone(),
            app_id: server.app_id.clone(),
            channel: channel.unwrap_or(&server.channel).to_owned(),
            board: server.board.clone(),
            arch: server.arch.clone(),
        }
    }

    /// A slot's content: by its record; the running slot without one by its own `os-release`. Where the running system names
    /// another version than the record, somebody wrote the slot behind our back: then the record counts for nothing.
    fn content(&self, slot: SlotName, running: Option<SlotName>) -> Content {
        let own = if running == Some(slot) { self.os_version() } else { OsVersion::default() };
        match self.records.slot_record(slot) {
            Some((record, digest)) if own.image_version.as_deref().is_none_or(|version| version == record.version.as_str()) => {
                Content { version: Some(record.version.to_string()), sequence: Some(record.sequence), digest: Some(digest) }
            }
            _ => Content { version: own.image_version.or(own.version_id), sequence: None, digest: None },
        }
    }

    /// What the running system calls itself.
    pub fn own_version(&self) -> Option<String> {
        let own = self.os_version();
        own.image_version.or(own.version_id)
    }

    fn os_version(&self) -> OsVersion {
        let text = self.system_file("etc/os-release").or_else(|| self.system_file("usr/lib/os-release")).unwrap_or_default();
        let value = |key| os_release::value(&text, key);
        OsVersion { image_version: value("IMAGE_VERSION"), version_id: value("VERSION_ID") }
    }

    /// The floor as it is stored, or as it will be once it is raised to what was committed. What is wrong with it is added to `troubles`.
    #[must_use]
    pub fn floor(
        &self,
        running: Option<SlotName>,
        boot: Option<&BootTable>,
        slots: &PerSlot<Content>,
        troubles: &mut Vec<Trouble>,
    ) -> FloorFacts {
        let image = match load_image_floor(&self.settings.floor_file()) {
            Ok(image) => image,
            Err(error) => {
                let message = format!("{error}; this file is part of the running image, which is damaged");
                troubles.push(Trouble { code: Cause::FloorUnreadable, message });
                return FloorFacts::Lost { image: Sequence::ZERO };
            }
        };
        match FloorFile::load(&self.settings.state_dir) {
            Ok(Some(file)) => {
                let file = self.raised(&file, boot, slots).unwrap_or(file);
                FloorFacts::Known(Floor { floor: file.floor.floor.max(image), highest: file.floor.highest.max(image) })
            }
            Ok(None) if running.is_some() && boot.is_some_and(|boot| boot.past != Past::Armed) => {
                FloorFacts::Known(Floor { floor: image, highest: image })
            }
            Ok(None) => FloorFacts::Lost { image },
            Err(error) => {
                let message = format!(
                    "{error}; with that file moved away, `updatectl adopt RELEASE` with the record of the running release makes a new one"
                );
                troubles.push(Trouble { code: Cause::FloorUnreadable, message });
                FloorFacts::Lost { image }
            }
        }
    }

    fn system_file(&self, name: &str) -> Option<String> {
        let bytes = durable::read_capped(&self.settings.sysroot.join(name), MAX_SMALL_FILE_BYTES).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }
}

/// Finds the disk and its slots.
pub fn find_disk(settings: &Settings) -> Result<Disk, Fault> {
    let spec = |name: &str, slot: &crate::config::SlotSettings| -> Result<SlotSpec, Fault> {
        let name = name.parse().map_err(|error: SlotError| slot_fault(&error))?;
        Ok(SlotSpec { name, images: slot.images.iter().map(|(image, place)| (image.clone(), place.clone())).collect() })
    };
    let slots = vec![spec("a", &settings.slots.a)?, spec("b", &settings.slots.b)?];
    let disk = &settings.disk;
    let spec = DiskSpec { device: disk.device.clone(), sysroot: settings.sysroot.clone(), esp: disk.esp.clone(), slots };
    Disk::discover(&spec).map_err(|error| slot_fault(&error))
}

/// The state folder has to outlive every change of slots: on one of them it is a [`Cause::StateDir`]. It need not be there yet.
pub fn state_on_no_slot(settings: &Settings, disk: &Disk) -> Result<(), Fault> {
    let folder = &settings.state_dir;
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let Some(target) = disk.holder_of(there).map_err(|error| slot_fault(&error))? else { return Ok(()) };
    let message = format!(
        "state_dir {} lies on slot {} ({}): expected a file system that is on neither slot, because updates replace them and the state has to stay",
        folder.display(),
        target.slot,
        target.place.path().display()
    );
    Err(Fault::new(Cause::StateDir, message))
}

#[derive(Default)]
struct OsVersion {
    image_version: Option<String>,
    version_id: Option<String>,
}

/// Reads every `*.pub` of the keyring folder.
fn read_keys(folder: &Path) -> Result<Vec<(String, PublicKey)>, Fault> {
    let fault = |path: &Path, error: &dyn std::fmt::Display| Fault::new(Cause::NoKey, format!("{}: {error}", path.display()));
    let entries = std::fs::read_dir(folder).map_err(|error| fault(folder, &error))?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| fault(folder, &error))?.path();
        if path.extension().is_some_and(|extension| extension == "pub") {
            paths.push(path);
        }
        if paths.len() > MAX_KEYS {
            return Err(fault(folder, &format!("more than {MAX_KEYS} key files")));
        }
    }
    paths.sort();
    let read = |path: &PathBuf| -> Result<(String, PublicKey), Fault> {
        let bytes = durable::read_capped(path, MAX_KEY_FILE_BYTES).map_err(|error| fault(path, &error))?;
        let name = path.display().to_string();
        let key = PublicKey::parse(&name, &bytes).map_err(|error| Fault::new(Cause::NoKey, error.to_string()))?;
        Ok((name, key))
    };
    paths.iter().map(read).collect()
}

fn running_slot(disk: &Disk) -> Result<RunningSlot, Fault> {
    disk.running_slot().map_err(|error| slot_fault(&error))
}

/// The boot control that the settings name.
fn boot_control(settings: &Settings, disk: &Disk) -> Result<Box<dyn BootControl>, BootError> {
    // What is not known is a trouble of its own, which whoever needs it meets.
    let running = || disk.running_slot().ok().map(|slot| slot.name().clone());
    place::on_no_slot(&settings.boot, disk)?;
    Ok(match &settings.boot {
        BootSettings::Gpt => Box::new(GptControl::new(disk)?),
        BootSettings::Grub(grub) => {
            let spelling = match &grub.variables {
                GrubVariables::Ota => Spelling::Ota,
                GrubVariables::Rauc(names) => Spelling::Rauc { names: [names.a.clone(), names.b.clone()] },
            };
            paired(disk, GrubEnv::new(grub.env.clone(), grub.copy.clone(), spelling, slot_pair(disk)?))
        }
        BootSettings::SystemdBoot(loader) => {
            let efivars = PathBuf::from("/sys/firmware/efi/efivars");
            let files = [("a", &settings.slots.a), ("b", &settings.slots.b)].map(|(slot, of_slot)| {
                let on_esp = of_slot.images.values().filter_map(|place| match place {
                    Location::Esp(path) => Some(path.of(slot)),
                    Location::PartLabel(_) | Location::Path(_) => None,
                });
                on_esp.collect()
            });
            paired(disk, Entries::new(loader.esp.clone(), efivars, loader.prefix.clone(), slot_pair(disk)?, files))
        }
        BootSettings::UBoot(loader) => {
            let names = [loader.names.a.clone(), loader.names.b.clone()];
            paired(disk, UBootEnv::new(loader.config.clone(), slot_pair(disk)?, names))
        }
        BootSettings::RpiTryboot(rpi) => {
            let root = settings.sysroot.clone();
            paired(disk, AutobootFile::new(rpi.autoboot.clone(), root, slot_pair(disk)?, [rpi.a, rpi.b]))
        }
        BootSettings::Efi(efi) => {
            let descriptions = [efi.names.a.clone(), efi.names.b.clone()];
            paired(disk, EfiBoot::new(efi.efivars.clone(), descriptions, slot_pair(disk)?, running()))
        }
        BootSettings::Custom(custom) => {
            let spec = CustomSpec {
                path: custom.program.clone(),
                names: [custom.names.a.clone(), custom.names.b.clone()],
                tries: custom.tries,
                state_dir: settings.state_dir.clone(),
            };
            paired(disk, Custom::new(spec, slot_pair(disk)?, running().as_ref()))
        }
    })
}

fn paired(disk: &Disk, store: impl PairStore + 'static) -> Box<dyn BootControl> {
    Box::new(PairControl::new(disk, store))
}

/// Both slots, in the order in which they are configured.
fn slot_pair(disk: &Disk) -> Result<[slot::SlotName; 2], BootError> {
    let slots = <[slot::SlotName; 2]>::try_from(disk.slots().to_vec());
    slots.map_err(|slots| BootError::Unsuitable(format!("expected two slots, got {}", slots.len())))
}

/// The boot state as the engine sees it.
pub fn boot_table(state: &BootState) -> Result<BootTable, Fault> {
    let next = slot_name(&state.next);
    let next = next.ok_or_else(|| Fault::new(Cause::BootControl, "the boot table names no slot"))?;
    let standing = |slot: SlotName| {
        let known = state.slots.iter().find(|known| known.name.as_str() == slot.as_str()).map(|known| known.standing);
        // Where nothing is marked, what the loader takes counts as good.
        let is_factory = state.past == Past::NothingMarked && slot == next;
        if is_factory { Standing::Good } else { known.unwrap_or_default() }
    };
    let standing = PerSlot { a: standing(SlotName::A), b: standing(SlotName::B) };
    Ok(BootTable { standing, next, past: state.past, tries: state.tries, weakness: state.weakness.clone() })
}

/// The images of the slot that does not run, and the bytes each place takes.
fn capacity(disk: &Disk, running: &RunningSlot) -> BTreeMap<String, u64> {
    let inactive = disk.inactive(running);
    disk.targets_of(inactive).map(|target| (target.image.clone(), target.size_bytes)).collect()
}

/// `a` or `b` as a record spells it.
pub fn slot_name(name: &slot::SlotName) -> Option<SlotName> {
    [SlotName::A, SlotName::B].into_iter().find(|slot| slot.as_str() == name.as_str())
}

/// `a` or `b` as the disk spells it.
pub fn disk_name(slot: SlotName, disk: &Disk) -> Result<slot::SlotName, Fault> {
    let found = disk.slots().iter().find(|name| name.as_str() == slot.as_str());
    found.cloned().ok_or_else(|| Fault::new(Cause::Slots, format!("the disk has no slot {slot}")))
}

/// A slot's error, chained, as a fault.
pub fn slot_fault(error: &SlotError) -> Fault {
    let cause = match error {
        SlotError::RunningUnknown(_) => Cause::RunningSlotUnknown,
        _ => Cause::Slots,
    };
    Fault::new(cause, chain(error))
}

/// A boot control's error, chained, as a fault.
pub fn boot_fault(error: &BootError) -> Fault {
    Fault::new(Cause::BootControl, chain(error))
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        cause = next.source();
    }
    words
}

/// Keeps what could not be found out, with what a person can do about it.
fn note<T>(result: Result<T, Fault>, troubles: &mut Vec<Trouble>) -> Option<T> {
    let keep = |fault: Fault| {
        let message = match remedy(&fault.code) {
            Some(remedy) => format!("{}; {remedy}", fault.message),
            None => fault.message,
        };
        troubles.push(Trouble { code: fault.code, message });
    };
    result.map_err(keep).ok()
}

/// What to do, where the message itself leaves that open.
const fn remedy(cause: &Cause) -> Option<&'static str> {
    match cause {
        Cause::NoKey => {
            Some("the running image has to bring the publisher's public keys (*.pub) there, or nothing can be verified")
        }
        Cause::Slots => Some("[disk] and [slots] of the configuration have to name what is there"),
        Cause::RunningSlotUnknown => Some("boot one of the slots, or mend [disk] and [slots] of the configuration"),
        Cause::BootControl => Some("the boot table, or what the configuration says of it, has to be mended by hand"),
        _ => None,
    }
}

/// As [`deadline`] goes by it: the longer one of both images' deadlines, and the time in which the host was suspended does not count.
fn trial_ends(settings: &Settings, running: SlotName, suspended: Duration) -> Option<Mono> {
    let trial = deadline::Trial::load(&settings.state_dir).ok()?.filter(|trial| trial.slot == running)?;
    let deadline = trial.deadline.max(settings.trial_deadline());
    Some(Mono(millis(deadline.saturating_add(suspended))))
}

fn is_block_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|data| data.file_type().is_block_device())
}

#[cfg(test)]
pub(crate) mod tests {
    use manifests::keyring::SecretKey;
    use manifests::release::Envelope;

    use super::*;
    use crate::engine::tests::host;

    /// A host without a disk, whose image brings one key.
    pub(crate) fn world_that_trusts(dir: &Path, key: &SecretKey) -> World {
        let world = world(dir);
        let keys = &world.settings().trust.keyring_dir;
        std::fs::create_dir_all(keys).unwrap();
        std::fs::write(keys.join("one.pub"), key.public().to_text("one")).unwrap();
        world
    }

    /// A host whose disk, if it has one, is that of a [`crate::slot::rig::Rig`] in this folder.
    pub(crate) fn world(dir: &Path) -> World {
        let text = format!(
            "state_dir = \"{0}/state\"\nsysroot = \"{0}\"\nserver.app_id = \"x\"\ndisk.device = \"{0}/disk.img\"\nslots.a.root = \"partlabel:root-a\"\nslots.b.root = \"partlabel:root-b\"\n",
            dir.display()
        );
        let settings = crate::config::parse(&[crate::config::Source::new("test", &text)]).unwrap();
        let records = Records::open(&settings.state_dir).unwrap();
        World::new(Arc::new(settings), records)
    }

    /// As little as it takes, where `@` is the folder of the host.
    pub(super) const SYSTEMD_BOOT: &str = "boot.control = \"systemd-boot\"\nboot.systemd-boot.esp = \"@/efi\"\n\
                                slots.a.entry = \"esp:/ota/{slot}.entry\"\nslots.b.entry = \"esp:/ota/{slot}.entry\"";

    fn floor(world: &World, table: &BootTable) -> (FloorFacts, Vec<Trouble>) {
        let mut troubles = Vec::new();
        let floor = world.floor(Some(SlotName::A), Some(table), &PerSlot::default(), &mut troubles);
        (floor, troubles)
    }

    #[test]
    fn design_11_3_a_missing_floor_is_0_only_on_a_host_that_was_never_updated() {
        let dir = tempfile::tempdir().unwrap();
        let world = world(dir.path());
        let fresh = FloorFacts::Known(Floor::default());
        let table = |past| BootTable { past, ..host::table(host::BLANK) };
        assert_eq!(floor(&world, &table(Past::NothingMarked)).0, fresh);
        assert_eq!(floor(&world, &table(Past::NeverArmed)).0, fresh);
        assert_eq!(floor(&world, &table(Past::Armed)).0, FloorFacts::Lost { image: Sequence::ZERO });
    }

    /// Records of 1.1.0 in both slots, a raising the floor to 1 and b to 2; a is good, b has these marks.
    fn with_records(world: &World, b: Standing) -> Facts {
        let mut facts = host::facts();
        for (slot, number) in [(SlotName::A, 1), (SlotName::B, 2)] {
            let mut record = host::record(number);
            record.not_below = record.sequence;
            record.revoked_keys = vec![KeyId::from_bytes([u8::try_from(number).unwrap(); 8])];
            let envelope = Envelope::unsigned(&record).unwrap();
            world.records().adopt(slot, &envelope.to_bytes()).unwrap();
            facts.slots.get_mut(slot).digest = Some(envelope.digest());
        }
        facts.boot.as_mut().unwrap().standing = PerSlot { a: host::GOOD, b };
        facts
    }

    #[test]
    fn design_11_3_a_commit_that_was_cut_short_after_the_marks_raises_the_floor_at_the_next_start() {
        for (b, stands, revoked) in [(host::GOOD, 2, 2), (host::armed(2), 1, 1), (host::SPENT, 1, 1)] {
            let dir = tempfile::tempdir().unwrap();
            let world = world(dir.path());
            let mut facts = with_records(&world, b);
            FloorFile::default().store(&world.settings().state_dir).unwrap();
            let at = Sequence::new(stands).unwrap();
            let raised = Floor { floor: at, highest: at };
            // Whatever is stored, it counts from now on.
            let counts = world.floor(Some(SlotName::A), facts.boot.as_ref(), &facts.slots, &mut Vec::new());
            assert_eq!(counts, FloorFacts::Known(raised.clone()), "{b:?}");
            world.raise_floor(&facts).unwrap();
            let file = FloorFile::load(&world.settings().state_dir).unwrap().unwrap();
            assert_eq!((&file.floor, file.revoked.len()), (&raised, revoked), "{b:?}");
            world.raise_floor(&facts).unwrap();
            assert_eq!(FloorFile::load(&world.settings().state_dir).unwrap(), Some(file));
            // A slot that names itself otherwise than its record does stands for nothing.
            facts.slots = PerSlot::default();
            FloorFile::default().store(&world.settings().state_dir).unwrap();
            world.raise_floor(&facts).unwrap();
            assert_eq!(FloorFile::load(&world.settings().state_dir).unwrap(), Some(FloorFile::default()));
        }
    }

    #[test]
    fn a_floor_that_was_lost_is_not_begun_anew_by_raising_it() {
        let dir = tempfile::tempdir().unwrap();
        let world = world(dir.path());
        let facts = with_records(&world, host::BLANK);
        world.raise_floor(&facts).unwrap();
        assert_eq!(FloorFile::load(&world.settings().state_dir).unwrap(), None);
        // On a slot nothing is written.
        FloorFile::default().store(&world.settings().state_dir).unwrap();
        let on_a_slot = Trouble { code: Cause::StateDir, message: "state_dir lies on slot b".into() };
        let facts = Facts { troubles: vec![on_a_slot], ..facts };
        world.raise_floor(&facts).unwrap();
        assert_eq!(FloorFile::load(&world.settings().state_dir).unwrap(), Some(FloorFile::default()));
        std::fs::remove_file(world.settings().state_dir.join("floor")).unwrap();
        assert_eq!(world.found_floor(&facts).unwrap_err().message, "state_dir lies on slot b");
        assert_eq!(FloorFile::load(&world.settings().state_dir).unwrap(), None);
    }

    #[test]
    fn the_boot_table_is_read_where_nobody_knows_what_runs_and_what_is_not_known_is_said() {
        let rig = crate::slot::rig::Rig::with_slots_of(8);
        let world = world(rig.folder.path());
        assert!(world.look(None).running.is_some());
        std::fs::write(rig.folder.path().join("proc/cmdline"), "quiet\n").unwrap();
        let facts = world.look(None);
        assert_eq!((facts.running, facts.boot.is_some(), facts.is_blind()), (None, true, true));
        assert_eq!(facts.boot_id, BootId::default());
        let troubles = |code| facts.troubles.iter().filter(|trouble| trouble.code == code).count();
        assert_eq!((troubles(Cause::RunningSlotUnknown), troubles(Cause::BootControl)), (1, 0), "{:?}", facts.troubles);
        assert!(facts.troubles.iter().any(|trouble| trouble.message.contains("expected the id of this boot")));
    }

    const PANIC: &str = "Panic#1 Part1\n<0>[    2.0] Kernel panic - not syncing: no init found\n";

    /// A host whose slot b was armed; the rig's slot a runs.
    fn armed_host() -> (crate::slot::rig::Rig, World) {
        let rig = crate::slot::rig::Rig::with_slots_of(16);
        let world = world(rig.folder.path());
        let (disk, running) = (rig.disk(), rig.running());
        let mut control = GptControl::new(&disk).unwrap();
        control.mark_good(&running).unwrap();
        control.disarm(&crate::slot::rig::name("b"), &running).unwrap();
        let trial = deadline::Trial {
            slot: SlotName::B,
            version: "1.1.0".into(),
            attempt: "one".into(),
            deadline: std::time::Duration::from_secs(600),
        };
        deadline::write_down(&trial, world.settings()).unwrap();
        let permit = crate::boot::Permit::no_lock_configured();
        control.arm(crate::slot::rig::proven(&disk, &running), permit, &running).unwrap();
        std::fs::create_dir_all(rig.folder.path().join("sys/fs/pstore")).unwrap();
        std::fs::write(rig.folder.path().join("sys/fs/pstore/dmesg-efi-170000000001001"), PANIC).unwrap();
        (rig, world)
    }

    #[test]
    fn where_a_trial_ended_without_a_word_the_old_slot_finds_what_its_kernel_left() {
        let (rig, world) = armed_host();
        let said = |facts: Facts| facts.last_words.map(|words| (words.attempt, words.line));
        assert_eq!(said(world.look_for_last_words(world.look(None))), None, "it was not tried yet");

        rig.boot(1);
        let disk = rig.disk();
        GptControl::new(&disk).unwrap().mark_bad(&rig.running()).unwrap();
        assert_eq!(said(world.look_for_last_words(world.look(None))), None, "it runs: this is no end");

        rig.boot(0);
        let expected = Some(("one".to_owned(), "Kernel panic - not syncing: no init found".to_owned()));
        for _ in 0..2 {
            assert_eq!(said(world.look_for_last_words(world.look(None))), expected);
        }
        // It is known from then on, whatever becomes of the files.
        deadline::forget(&world.settings().state_dir).unwrap();
        assert_eq!(said(world.look_for_last_words(world.look(None))), expected);
    }

    #[test]
    fn the_end_of_a_trial_is_the_later_one_of_both_images_and_time_asleep_does_not_count() {
        let (rig, world) = armed_host();
        let none = Duration::ZERO;
        let ends = |slot, suspended| trial_ends(world.settings(), slot, suspended);
        // 600 s were written down, and are twice the usual deadline.
        assert_eq!(ends(SlotName::B, none), Some(Mono(600_000)));
        assert_eq!(ends(SlotName::B, Duration::from_secs(50)), Some(Mono(650_000)));
        assert_eq!(ends(SlotName::A, none), None, "it is not on trial");
        let mut slower = Settings::clone(world.settings());
        slower.health.deadline = Duration::from_secs(900);
        assert_eq!(trial_ends(&slower, SlotName::B, none), Some(Mono(1_800_000)));
        rig.boot(1);
        assert_eq!(world.look(None).trial_ends, None, "this machine is not the one");
        deadline::forget(&world.settings().state_dir).unwrap();
        assert_eq!(ends(SlotName::B, none), None);
    }

    /// A new image whose ESP is not mounted has to be seen, to be left.
    #[test]
    fn an_esp_that_is_missing_hides_neither_what_runs_nor_how_it_stands() {
        let rig = crate::slot::rig::Rig::with_slots_of(16);
        let plain = world(rig.folder.path());
        rig.boot(1);
        let on_esp =
            "slots.a.kernel = \"esp:/ota/{slot}.efi\"\nslots.b.kernel = \"esp:/ota/{slot}.efi\"\ndisk.esp = \"/no/such/folder\"";
        let usual = crate::config::Source::new("usual", plain.settings().to_toml().unwrap());
        let settings = crate::config::parse(&[usual, crate::config::Source::new("esp", on_esp)]).unwrap();
        let seeing = World::new(Arc::new(settings), plain.records().clone());
        assert_eq!(seeing.ground().unwrap_err().code, Cause::Slots);
        assert_eq!(slot_name(seeing.ground_for_marks().unwrap().running.name()), Some(SlotName::B));
        let facts = seeing.look(None);
        assert!(facts.running == Some(SlotName::B) && facts.boot.is_some(), "{facts:?}");
        let trouble = facts.troubles.iter().find(|trouble| trouble.code == Cause::Slots).unwrap();
        assert!(trouble.message.contains("no/such/folder"), "{}", trouble.message);
        // Where nothing is hidden, a disk that cannot be seen is an error like any other.
        let elsewhere = crate::config::Source::new("elsewhere", "slots.b.root = \"partlabel:nowhere\"");
        let usual = crate::config::Source::new("usual", plain.settings().to_toml().unwrap());
        let settings = crate::config::parse(&[usual, elsewhere]).unwrap();
        let blind = World::new(Arc::new(settings), plain.records().clone());
        assert!(blind.ground_for_marks().unwrap_err().message.contains("nowhere") && blind.look(None).running.is_none());
    }

    #[test]
    fn a_trial_whose_boot_nobody_counted_is_said_where_the_marks_tell() {
        let dir = tempfile::tempdir().unwrap();
        let plain = world(dir.path());
        let said = |control: &str, b: Standing, running: SlotName| {
            let usual = crate::config::Source::new("usual", plain.settings().to_toml().unwrap());
            let boot = crate::config::Source::new("boot", control.replace('@', &dir.path().display().to_string()));
            let settings = crate::config::parse(&[usual, boot]).unwrap();
            let world = World::new(Arc::new(settings), plain.records.clone());
            let facts = Facts { running: Some(running), boot: Some(host::table(b)), ..host::facts() };
            world.uncounted_boot(&facts, SlotName::B)
        };
        let gpt = "boot.control = \"gpt\"";
        let words = said(gpt, host::armed(host::TRIES), SlotName::B).unwrap();
        assert!(words.starts_with("the boot loader started slot b without counting the boot (3 of 3 tries left)"), "{words}");
        assert_eq!(crate::health::brief(&words), words, "it is shown whole");
        for control in [gpt, "boot.control = \"grub\"", SYSTEMD_BOOT, "boot.control = \"efi\""] {
            assert!(said(control, host::armed(host::TRIES), SlotName::B).is_some(), "{control}");
            for counted in [host::armed(host::TRIES - 1), host::SPENT, host::GOOD, host::BAD, host::BLANK] {
                assert_eq!(said(control, counted, SlotName::B), None, "{control}: {counted:?}");
            }
            assert_eq!(said(control, host::armed(host::TRIES), SlotName::A), None, "it does not run");
        }
        let rpi = "boot.control = \"rpi-tryboot\"\nreboot.command = [\"systemctl\", \"reboot\", \"--reboot-argument=0 tryboot\"]";
        for control in [rpi, "boot.control = \"custom\"\nboot.custom.program = \"/p\""] {
            assert_eq!(said(control, host::armed(host::TRIES), SlotName::B), None, "{control}");
        }
    }

    #[test]
    fn the_boot_control_that_is_configured_is_the_one_that_is_opened() {
        let rig = crate::slot::rig::Rig::with_slots_of(8);
        let plain = world(rig.folder.path());
        let disk = rig.disk();
        for (kind, more) in [("gpt", ""), ("grub", ""), ("efi", ""), ("custom", "boot.custom.program = \"/p\"\n")] {
            let usual = crate::config::Source::new("usual", plain.settings().to_toml().unwrap());
            let boot = crate::config::Source::new("boot", format!("boot.control = \"{kind}\"\n{more}"));
            let sources = [usual, boot];
            let settings = crate::config::parse(&sources).unwrap();
            let world = World::new(Arc::new(settings), plain.records.clone());
            assert_eq!(world.boot_control(&disk).unwrap().kind(), kind);
        }
    }

    #[test]
    fn a_private_key_in_the_keyring_is_a_trouble_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let (one, leaked) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        let world = world_that_trusts(dir.path(), &one);
        std::fs::write(world.settings().trust.keyring_dir.join("k.pub"), &*leaked.to_text("two")).unwrap();
        let troubles = world.look(None).troubles;
        let trouble = troubles.iter().find(|trouble| trouble.code == Cause::NoKey).unwrap_or_else(|| panic!("{troubles:?}"));
        let words = format!("k.pub holds a PRIVATE key (id {}): remove it from the image and revoke it", leaked.public().id());
        assert!(trouble.message.contains(&words), "{}", trouble.message);
    }

    #[test]
    fn design_11_3_the_effective_floor_is_the_higher_of_image_and_state() {
        let dir = tempfile::tempdir().unwrap();
        let world = world(dir.path());
        let share = dir.path().join("usr/share/update-engine");
        std::fs::create_dir_all(&share).unwrap();
        std::fs::write(share.join("floor"), "7\n").unwrap();
        let at = |n| Sequence::new(n).unwrap();
        let stored = |floor, highest| FloorFile { floor: Floor { floor: at(floor), highest: at(highest) }, revoked: vec![] };
        stored(3, 5).store(&world.settings().state_dir).unwrap();
        assert_eq!(floor(&world, &host::table(host::BLANK)).0, FloorFacts::Known(Floor { floor: at(7), highest: at(7) }));
        stored(9, 12).store(&world.settings().state_dir).unwrap();
        assert_eq!(floor(&world, &host::table(host::BLANK)).0, FloorFacts::Known(Floor { floor: at(9), highest: at(12) }));
    }

    #[test]
    fn an_unreadable_floor_is_a_trouble_and_never_0() {
        let dir = tempfile::tempdir().unwrap();
        let world = world(dir.path());
        std::fs::write(world.settings().state_dir.join("floor"), "ota floor v1\nfloor x\n").unwrap();
        let (facts, troubles) = floor(&world, &host::table(host::BLANK));
        assert_eq!(facts, FloorFacts::Lost { image: Sequence::ZERO });
        assert!(troubles[0].message.contains("line 2: expected \"floor NUMBER\""), "{troubles:?}");
    }
}
