//! What the loader does with the entries, as far as that can be told from here: whether it counts them, and what it starts before them.

use std::fs;
use std::io;
use std::path::Path;

use super::entry::{SORT_KEY, sort_key};
use super::names::EntryName;
use super::store::{Entries, MAX_ENTRIES, read};
use crate::boot::{BootError, held};
use crate::durable;

/// Longest `loader.conf` that is read.
const MAX_CONF_BYTES: u64 = 64 * 1024;
/// The loader's own variables.
pub(super) const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// Words of `loader.conf` that choose an entry. `default @saved` is what was started last: never one that was just armed.
const CHOOSING: [&str; 2] = ["default", "preferred"];
/// Variables of the loader that choose an entry, and what removes each.
pub(super) const CHOOSING_VARIABLES: [(&str, &str); 4] = [
    ("LoaderEntrySysFail", "`bootctl set-sysfail \"\"`"),
    ("LoaderEntryOneShot", "`bootctl set-oneshot \"\"`"),
    ("LoaderEntryPreferred", "`bootctl set-preferred \"\"`, or `chattr -i` and `rm` of its file among the variables,"),
    ("LoaderEntryDefault", "`bootctl set-default \"\"`"),
];
/// The ids of all entries in the order in which the loader had them when it started this host, wherever it found them.
const ENTRIES: &str = "LoaderEntries";
/// Bits of `LoaderFeatures`: it counts boots (since version 240), and orders entries by their sort-key and version (since 251).
const COUNTS_BOOTS: u64 = 1 << 4;
const KNOWS_SORT_KEYS: u64 = 1 << 8;

impl Entries {
    /// What others told the loader to start comes before what ours are called.
    pub(super) fn check_defaults(&self) -> Result<(), BootError> {
        let conf = self.esp.join("loader/loader.conf");
        let text = match durable::read_capped(&conf, MAX_CONF_BYTES) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(held::io_error("read", &conf, error)),
        };
        let mut lines = text.lines().map(str::split_whitespace);
        let chosen = lines.find_map(|mut words| Some((words.next().filter(|word| CHOOSING.contains(word))?, words.next()?)));
        if let Some((word, value)) = chosen {
            return Err(BootError::Malformed {
                path: conf,
                why: format!(
                    "\"{word} {value}\" comes before the names of the entries: expected no such line, so that they decide (remove it)"
                ),
            });
        }
        CHOOSING_VARIABLES.iter().try_for_each(|(name, remedy)| match self.variable(name)? {
            None => Ok(()),
            Some(_) => Err(BootError::Unsuitable(format!(
                "the firmware's variable {name} comes before the names of the entries: expected none ({remedy} removes it)"
            ))),
        })
    }

    /// What the loader had before ours when it started this host, it has before what is armed now. It knows also the entries and kernel images
    /// of a partition that is not mounted here (XBOOTLDR). Old versions of the loader do not say it.
    pub(super) fn check_order(&self) -> Result<(), BootError> {
        let Some(value) = self.variable(ENTRIES)? else { return Ok(()) };
        let units: Vec<u16> = value.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let first = units.split(|unit| *unit == 0).next().map(String::from_utf16_lossy).unwrap_or_default();
        let id = id_of(&first);
        if first.is_empty() || self.slots.iter().any(|slot| self.id(slot) == id) {
            return Ok(());
        }
        let ours: Vec<String> = self.slots.iter().map(|slot| self.id(slot)).collect();
        Err(BootError::Unsuitable(format!(
            "the first entry that systemd-boot found when it started this host is {first:?} (its variable {ENTRIES}): expected {}, as it may \
             start whatever comes before them. `bootctl list` says where it lies, such as loader/entries or EFI/Linux of an XBOOTLDR partition; \
             remove it, or give it a sort-key behind \"ota\", and reboot",
            ours.join(" or ")
        )))
    }

    /// What the loader puts before ours is started whatever is armed.
    pub(super) fn check_others(&self) -> Result<(), BootError> {
        let unsuitable = |path: &Path, why: &str| {
            BootError::Unsuitable(format!(
                "{}: expected nothing that systemd-boot starts before the entries of the slots, got {why} (remove it, or give it a sort-key \
                 behind \"ota\")",
                path.display()
            ))
        };
        let ours: Vec<String> = self.slots.iter().map(|slot| self.id(slot)).collect();
        for (name, file) in self.names()?.into_iter().filter(|(name, _)| name.is_live() && !ours.contains(&name.id)) {
            let path = self.folder().join(file);
            let bytes = read(&path)?;
            if let Some(key) = sort_key(&String::from_utf8_lossy(&bytes)).filter(|key| key.as_str() <= SORT_KEY) {
                return Err(unsuitable(&path, &format!("an entry with \"sort-key {key}\" (id {})", name.id)));
            }
        }
        // Their order is in themselves, and what they are called there belongs to whoever built them.
        let unified = self.esp.join("EFI/Linux");
        let files = match fs::read_dir(&unified) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            files => files.map_err(|error| held::io_error("list", &unified, error))?,
        };
        for file in files.take(MAX_ENTRIES) {
            let path = file.map_err(|error| held::io_error("list", &unified, error))?.path();
            if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("efi")) {
                return Err(BootError::Unsuitable(format!(
                    "{}: expected no kernel image in this folder, where systemd-boot finds it by itself and may start it before the entries of \
                     the slots (move it, and give it an entry with a sort-key behind \"ota\")",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// A loader that was not systemd-boot, or one that does not count, would start a new slot for ever. One that knows no sort-key starts the
    /// entry whose name comes last, whatever is armed.
    pub(super) fn check_features(&self) -> Result<(), BootError> {
        let features = self.variable("LoaderFeatures")?;
        let bits = features.and_then(|value| value.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes));
        match bits {
            Some(bits) if bits & COUNTS_BOOTS == 0 => {
                Err(BootError::Unsuitable("this systemd-boot does not count boots: expected version 251 or newer".to_owned()))
            }
            Some(bits) if bits & KNOWS_SORT_KEYS == 0 => Err(BootError::Unsuitable(
                "this systemd-boot knows no sort-key, by which entries are ordered: expected version 251 or newer".to_owned(),
            )),
            Some(_) => Ok(()),
            None => Err(BootError::Unsuitable(format!(
                "this host was not started by systemd-boot: {} has no variable LoaderFeatures",
                self.efivars.display()
            ))),
        }
    }

    /// A variable of the loader, without its attributes.
    fn variable(&self, name: &str) -> Result<Option<Vec<u8>>, BootError> {
        let path = self.efivars.join(format!("{name}-{LOADER}"));
        match durable::read_capped(&path, MAX_CONF_BYTES) {
            Ok(bytes) => Ok(bytes.get(4..).map(<[u8]>::to_vec)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(held::io_error("read", &path, error)),
        }
    }
}

/// What stays of an id however often its entry is tried: some versions of the loader have the counter in it, some the suffix.
fn id_of(listed: &str) -> String {
    let listed = listed.to_ascii_lowercase();
    let with_suffix = if listed.ends_with(".conf") { listed } else { format!("{listed}.conf") };
    with_suffix.parse::<EntryName>().map_or(with_suffix, |name| name.id)
}
