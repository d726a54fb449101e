//! The entries on their file system: list, decide, rename.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::entry::{EntryError, EntryText, MAX_BYTES};
use super::names::{EntryName, OFF};
use crate::boot::pair::{Loaded, Pair, PairStore, Rewrite, TRIES};
use crate::boot::{BootError, Standing, Weakness, held};
use crate::durable;
use crate::slot::SlotName;
use crate::slot::medium::{Access, RawFile};

/// Most files in the folder of entries. More than that nobody chooses from.
pub(super) const MAX_ENTRIES: usize = 1_000;
/// Suffix of an entry that is being written.
const COMING: &str = "new";
/// What a rehearsal writes.
const REHEARSAL: &str = "rehearsal\n";

/// The entries of both slots.
#[derive(Debug)]
pub(crate) struct Entries {
    pub(super) esp: PathBuf,
    pub(super) efivars: PathBuf,
    pub(super) prefix: String,
    pub(super) slots: [SlotName; 2],
    /// The files that releases bring for each, on the partition: `/ota/b.efi`.
    files: [Vec<String>; 2],
}

/// A slot's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    name: EntryName,
    /// As its name is spelled: `+3`, `+3-0` and `+03-00` count alike.
    file: String,
    text: EntryText,
}

/// A name of an entry, and how it is spelled.
type Listed = (EntryName, String);

/// What there is of a slot.
#[derive(Clone, Debug, Default)]
struct OfSlot {
    /// The one that the loader would take.
    entry: Option<Found>,
    /// What an interruption left besides: it is removed with the next change.
    left_over: Vec<Listed>,
    /// What is none of ours, though it is called like one, and why. The loader may start it all the same.
    broken: Vec<(Listed, EntryError)>,
}

#[derive(Clone, Debug)]
struct Both(BTreeMap<SlotName, OfSlot>);

impl Entries {
    /// Entries that begin with `prefix` on the partition mounted at `esp`; `efivars` is where the firmware's variables are mounted. Reads
    /// nothing yet.
    pub(crate) const fn new(
        esp: PathBuf,
        efivars: PathBuf,
        prefix: String,
        slots: [SlotName; 2],
        files: [Vec<String>; 2],
    ) -> Self {
        Self { esp, efivars, prefix, slots, files }
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.esp.join("loader/entries")
    }

    fn path(&self, name: &EntryName) -> PathBuf {
        self.folder().join(name.to_string())
    }

    pub(super) fn id(&self, slot: &SlotName) -> String {
        format!("{}-{slot}", self.prefix)
    }

    fn find(&self) -> Result<Both, BootError> {
        let names = self.names()?;
        let mut both = BTreeMap::new();
        for slot in &self.slots {
            let of_slot = names.iter().filter(|(name, _)| name.id == self.id(slot)).cloned();
            both.insert(slot.clone(), self.of_slot(of_slot)?);
        }
        Ok(Both(both))
    }

    /// Of a slot's entries the one that the loader would take; after an interrupted [`Self::replace`] there are two, or an empty one
    /// besides or instead.
    fn of_slot(&self, names: impl Iterator<Item = Listed>) -> Result<OfSlot, BootError> {
        let (mut whole, mut of_slot) = (Vec::new(), OfSlot::default());
        for (name, file) in names {
            let path = self.folder().join(&file);
            let bytes = read(&path)?;
            match EntryText::parse(&bytes) {
                Ok(text) => whole.push(Found { name, file, text }),
                // Nothing is started by an empty one, nor by one that is switched off.
                Err(_) if bytes.is_empty() || !name.is_live() => of_slot.left_over.push((name, file)),
                Err(error) => of_slot.broken.push(((name, file), error)),
            }
        }
        whole.sort_by_key(|Found { name, text, .. }| {
            (name.is_live(), !name.standing().is_out_of_tries(), text.armings, name.standing().is_good())
        });
        of_slot.entry = whole.pop();
        of_slot.left_over.extend(whole.into_iter().map(|Found { name, file, .. }| (name, file)));
        Ok(of_slot)
    }

    /// Names of entries, of ours and of others, in small letters: to FAT and to the loader large ones are the same. One that is no text is
    /// nobody's.
    pub(super) fn names(&self) -> Result<Vec<Listed>, BootError> {
        let folder = self.folder();
        let io = |error| held::io_error("list", &folder, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let listed =
                name.to_str().and_then(|file| Some((file.to_ascii_lowercase().parse::<EntryName>().ok()?, file.to_owned())));
            names.extend(listed.filter(|(name, _)| name.is_live() || name.suffix == OFF));
            if names.len() > MAX_ENTRIES {
                return Err(BootError::Malformed {
                    path: folder,
                    why: format!("expected at most {MAX_ENTRIES} entries, got more"),
                });
            }
        }
        names.sort_by(|(_, first), (_, second)| first.cmp(second));
        Ok(names)
    }

    fn loaded(&self, both: &Both) -> Loaded {
        Loaded { weakness: self.weakness(both), ..self.pair(both).into() }
    }

    fn pair(&self, both: &Both) -> Pair {
        let mut pair = Pair::factory(self.slots.clone(), TRIES);
        for (slot, standing) in &mut pair.slots {
            *standing = both.entry(slot).map_or(Standing::Blank, |found| found.name.standing());
            let is_behind =
                |found: &Found| both.entries().any(|(_, other)| other.is_good() && other.text.armings > found.text.armings);
            // The loader would start the other one: somebody else wrote its text.
            if standing.is_pending() && both.entry(slot).is_some_and(is_behind) {
                *standing = Standing::Spent;
            }
        }
        let good = both.entries().filter(|(_, found)| found.is_good());
        if let Some((slot, _)) = good.max_by_key(|(_, found)| found.text.armings) {
            pair.primary = slot.clone();
        } else if let Some((slot, _)) = pair.on_trial() {
            pair.primary = slot.clone();
        }
        pair.was_armed = both.entries().any(|(_, found)| found.text.armings > 1);
        pair
    }

    fn weakness(&self, both: &Both) -> Option<Weakness> {
        let ((_, file), error) = both.0.values().flat_map(|of_slot| &of_slot.broken).next()?;
        let path = self.folder().join(file);
        Some(Weakness::of_a_slot(format!(
            "{} is none of ours, and counts as none here; systemd-boot may start it all the same: {error}. Put it right as that line says, or \
             remove it where the other slot is good",
            path.display()
        )))
    }

    /// Gives a slot's entry the name that says how it stands from now on, and returns the version that it has then; 0 of none.
    fn bring(&self, both: &Both, slot: &SlotName, to: Standing, is_primary: bool) -> Result<u64, BootError> {
        let Some(wanted) = EntryName::standing_so(&self.id(slot), to, TRIES) else { return Ok(0) };
        if let Standing::Pending { .. } = to {
            return self.arm(both, slot, &wanted);
        }
        match both.entry(slot) {
            Some(found) => {
                let highest = both.entries().filter(|(other, _)| *other != slot).map(|(_, other)| other.text.armings).max();
                let mut text = found.text.clone();
                if to.is_good() && is_primary && highest.is_some_and(|highest| highest >= text.armings) {
                    text.armings = highest.unwrap_or_default().saturating_add(1);
                }
                self.replace(both, slot, &wanted, &text).map(|()| text.armings)
            }
            None if to.is_blank() => self.clear(both, slot).map(|()| 0),
            None => Err(BootError::Unsuitable(format!(
                "slot {slot} has no entry {}: the one that started it is none of ours, and cannot be marked",
                self.path(&wanted).display()
            ))),
        }
    }

    fn arm(&self, both: &Both, slot: &SlotName, wanted: &EntryName) -> Result<u64, BootError> {
        let source = self.esp.join(format!("ota/{slot}.entry"));
        let own = read(&source)?;
        let armings = both.entries().map(|(_, found)| found.text.armings).max().unwrap_or(0).max(1).saturating_add(1);
        let text = EntryText::of(&own, armings).map_err(|error| malformed(&source, &error))?;
        self.check_files(slot, &source, &text)?;
        self.free_counted_names(both, slot)?;
        self.replace(&self.find()?, slot, wanted, &text).map(|()| armings)
    }

    /// An entry that starts the other slot's kernel is tried and kept with that, and the next update overwrites it.
    fn check_files(&self, slot: &SlotName, source: &Path, text: &EntryText) -> Result<(), BootError> {
        let others = self.slots.iter().zip(&self.files).filter(|(other, _)| *other != slot).flat_map(|(_, files)| files);
        let others: Vec<&str> = others.map(String::as_str).collect();
        // As FAT compares names, and with the slashes of the loader.
        let is_same = |one: &str, other: &str| one.trim_start_matches('/').eq_ignore_ascii_case(other.trim_start_matches('/'));
        let named = text.files().flat_map(str::split_whitespace).map(|file| file.replace('\\', "/"));
        match named.into_iter().find(|file| others.iter().any(|other| is_same(file, other))) {
            None => Ok(()),
            Some(file) => Err(BootError::Malformed {
                path: source.to_path_buf(),
                why: format!("expected files of slot {slot}, got {file}, which is another slot's"),
            }),
        }
    }

    /// The loader renames what it counts, and starts an image for ever whose next name is taken.
    fn free_counted_names(&self, both: &Both, slot: &SlotName) -> Result<(), BootError> {
        if both.files(slot).all(|(name, _)| !name.is_live() || name.counter.is_none()) {
            return Ok(());
        }
        let Some(found) = both.entry(slot) else { return self.clear(both, slot) };
        self.replace(both, slot, &EntryName::asleep(&self.id(slot), OFF), &found.text)
    }

    /// Puts an entry of this name and text in the place of all that the slot has.
    ///
    /// On vfat a rename makes a directory entry of length 0, and only writing the file's inode says where its bytes are: a name that is
    /// given to the only entry of a slot loses it for a moment, and for good if nothing but the folder is synced. So nothing that is there
    /// is renamed: the new one is whole and on the medium before the old one goes.
    fn replace(&self, both: &Both, slot: &SlotName, wanted: &EntryName, text: &EntryText) -> Result<(), BootError> {
        let file = wanted.to_string();
        if both.entry(slot).is_none_or(|found| found.file != file || found.text != *text) {
            let (coming, text) = (EntryName::asleep(&self.id(slot), COMING), text.to_text());
            self.write(&coming, &text)?;
            self.rename(&coming, wanted)?;
            self.check(wanted, &text)?;
        }
        both.files(slot).filter(|(_, old)| **old != file && !self.is_same(old, &file)).try_for_each(|(_, old)| self.remove(old))
    }

    /// One file under two spellings of its name, which FAT takes for one.
    fn is_same(&self, one: &str, other: &str) -> bool {
        let inode = |file: &str| fs::metadata(self.folder().join(file)).map(|data| (data.dev(), data.ino())).ok();
        one.eq_ignore_ascii_case(other) && inode(one) == inode(other)
    }

    fn clear(&self, both: &Both, slot: &SlotName) -> Result<(), BootError> {
        both.files(slot).try_for_each(|(_, file)| self.remove(file))
    }

    /// Removes what stands beside the entries of slots that do not change; of one that has none and may be running it is all there is.
    fn tidy(&self, both: &Both, pair: &Pair, slot: &SlotName, rewrite: Rewrite) -> Result<(), BootError> {
        let Some(of_slot) = both.0.get(slot) else { return Ok(()) };
        of_slot.left_over.iter().try_for_each(|(_, file)| self.remove(file))?;
        let other_is_good = pair.slots.iter().any(|(other, standing)| other != slot && standing.is_good());
        if rewrite == Rewrite::IfDifferent && other_is_good {
            of_slot.broken.iter().try_for_each(|((_, file), _)| self.remove(file))?;
        }
        Ok(())
    }

    fn write(&self, name: &EntryName, text: &str) -> Result<(), BootError> {
        let path = self.path(name);
        durable::write_new(&path, text.as_bytes()).map_err(|error| held::io_error("write", &path, error))
    }

    /// Reads it back from the medium, while what it replaces is still there.
    fn check(&self, name: &EntryName, text: &str) -> Result<(), BootError> {
        let path = self.path(name);
        let got = read(&path)?;
        if got == text.as_bytes() {
            return Ok(());
        }
        let of = |bytes: &[u8]| format!("{} of {:?}", path.display(), String::from_utf8_lossy(bytes));
        Err(BootError::ReadBack { expected: of(text.as_bytes()), got: of(&got) })
    }

    fn rename(&self, from: &EntryName, to: &EntryName) -> Result<(), BootError> {
        let (from, to) = (self.path(from), self.path(to));
        let renamed = durable::rename(&from, &to);
        renamed.map_err(|source| held::interrupted(&from, source))
    }

    fn remove(&self, file: &str) -> Result<(), BootError> {
        let path = self.folder().join(file);
        durable::remove(&path).map_err(|source| held::interrupted(&path, source))
    }

    /// Whether a file can be written, renamed and read back there, without touching an entry.
    fn rehearse(&self) -> Result<(), BootError> {
        let [before, after] = ["x", "y"].map(|tail| EntryName::asleep(&format!("{}-{tail}", self.prefix), COMING));
        self.write(&before, REHEARSAL)?;
        self.rename(&before, &after)?;
        self.check(&after, REHEARSAL)?;
        self.remove(&after.to_string())
    }

    /// A slot that runs and has none could not be marked, and an update would have nothing to go back to.
    fn check_entries(&self, both: &Both) -> Result<(), BootError> {
        if both.entries().next().is_some() {
            return Ok(());
        }
        let expected: Vec<String> = self.slots.iter().map(|slot| format!("{}.conf", self.id(slot))).collect();
        let broken = self.weakness(both).map(|weakness| format!(" ({weakness})")).unwrap_or_default();
        Err(BootError::Unsuitable(format!(
            "{}: expected an entry {} of the slot that runs, got none{broken}",
            self.folder().display(),
            expected.join(" or ")
        )))
    }
}

impl PairStore for Entries {
    fn kind(&self) -> &'static str {
        "systemd-boot"
    }

    fn load(&self) -> Result<Loaded, BootError> {
        let _held = held::folder(&self.folder(), Access::Read)?;
        Ok(self.loaded(&self.find()?))
    }

    fn edit(&self, rewrite: Rewrite, decide: &mut dyn FnMut(&Loaded) -> Result<Pair, BootError>) -> Result<Pair, BootError> {
        let _held = held::folder(&self.folder(), Access::Write)?;
        let both = self.find()?;
        let before = self.loaded(&both);
        let pair = decide(&before)?;
        if rewrite == Rewrite::Always {
            self.check_entries(&both)?;
            self.rehearse()?;
        }
        let mut slots: Vec<&(SlotName, Standing)> = pair.slots.iter().collect();
        // What there is to go back to comes first.
        slots.sort_by_key(|(_, standing)| !standing.is_good());
        let mut version = 0;
        for (slot, standing) in slots {
            if before.pair.standing(slot) == *standing {
                self.tidy(&both, &pair, slot, rewrite)?;
            } else {
                version = self.bring(&both, slot, *standing, pair.primary == *slot)?.max(version);
            }
        }
        // Of two slots of one version, as they may be made by hand, the preferred one gets the version of an arming.
        Ok(Pair { was_armed: pair.was_armed || version > 1, ..pair })
    }

    fn check_loader(&self) -> Result<(), BootError> {
        self.check_features()?;
        self.check_defaults()?;
        self.check_others()?;
        self.check_order()
    }
}

impl Found {
    fn is_good(&self) -> bool {
        self.name.standing().is_good()
    }
}

impl Both {
    fn entry(&self, slot: &SlotName) -> Option<&Found> {
        self.0.get(slot)?.entry.as_ref()
    }

    fn entries(&self) -> impl Iterator<Item = (&SlotName, &Found)> {
        self.0.iter().filter_map(|(slot, of_slot)| Some((slot, of_slot.entry.as_ref()?)))
    }

    /// All that there is of a slot.
    fn files(&self, slot: &SlotName) -> impl Iterator<Item = (&EntryName, &String)> {
        self.0.get(slot).into_iter().flat_map(|OfSlot { entry, left_over, broken }| {
            let besides = left_over.iter().chain(broken.iter().map(|(listed, _)| listed)).map(|(name, file)| (name, file));
            besides.chain(entry.iter().map(|found| (&found.name, &found.file)))
        })
    }
}

/// An entry, from the medium.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, BootError> {
    RawFile::read_whole(path, MAX_BYTES).map_err(|error| held::io_error("read", path, error))
}

fn malformed(path: &Path, error: &EntryError) -> BootError {
    BootError::Malformed { path: path.to_path_buf(), why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::loader::{CHOOSING_VARIABLES, LOADER};
    use super::*;

    struct Rig {
        folder: tempfile::TempDir,
        entries: Entries,
    }

    fn name(text: &str) -> SlotName {
        text.parse().unwrap()
    }

    impl Rig {
        /// A factory disk: slot a has an entry, slot b none.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (esp, efivars) = (folder.path().join("esp"), folder.path().join("efivars"));
            for path in ["esp/loader/entries", "esp/ota", "efivars"] {
                fs::create_dir_all(folder.path().join(path)).unwrap();
            }
            for slot in ["a", "b"] {
                fs::write(esp.join(format!("ota/{slot}.entry")), format!("title {slot}\nlinux /ota/{slot}.efi\n")).unwrap();
            }
            let files = ["a", "b"].map(|slot| vec![format!("/ota/{slot}.efi"), format!("/ota/{slot}.entry")]);
            let entries = Entries::new(esp, efivars, "os".to_owned(), ["a", "b"].map(name), files);
            let rig = Self { folder, entries };
            rig.put("os-a.conf", "sort-key ota\nversion 1\ntitle a\nlinux /ota/a.efi\n");
            rig.loader("LoaderFeatures", &0x7FF_u64.to_le_bytes());
            rig
        }

        fn put(&self, entry: &str, text: &str) {
            fs::write(self.entries.folder().join(entry), text).unwrap();
        }

        fn loader(&self, variable: &str, value: &[u8]) {
            let path = self.folder.path().join(format!("efivars/{variable}-{LOADER}"));
            fs::write(path, [&6u32.to_le_bytes(), value].concat()).unwrap();
        }

        fn change(&self, verb: impl Fn(Pair) -> Pair) -> Result<Pair, String> {
            let changed = self.entries.edit(Rewrite::IfDifferent, &mut |loaded| Ok(verb(loaded.pair.clone())));
            let pair = changed.map_err(|error| error.to_string())?;
            assert_eq!(self.entries.load().unwrap().pair, pair, "what is read back");
            Ok(pair)
        }

        /// As the loader does it: spends a try of the entry it starts.
        fn boot(&self) -> String {
            let both = self.entries.find().unwrap();
            let live = both.entries().filter(|(_, found)| found.name.is_live());
            let (slot, found) =
                live.max_by_key(|(_, found)| (!found.name.standing().is_out_of_tries(), found.text.armings)).unwrap();
            if let Standing::Pending { tries_left } = found.name.standing() {
                let left = tries_left - 1;
                let counter = Some(super::super::Counter { left, done: TRIES - left });
                self.entries.rename(&found.name, &EntryName { counter, ..found.name.clone() }).unwrap();
            }
            slot.to_string()
        }

        fn files(&self) -> Vec<String> {
            let names =
                fs::read_dir(self.entries.folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        }
    }

    #[test]
    fn an_update_walks_through_the_names() {
        let rig = Rig::new();
        let (a, b) = (name("a"), name("b"));
        rig.change(|pair| pair.disarm(&b, &a)).unwrap();
        assert_eq!(rig.files(), ["os-a.conf"]);
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        assert_eq!(rig.files(), ["os-a.conf", "os-b+3-0.conf"]);
        assert_eq!(rig.boot(), "b");
        assert_eq!(rig.files(), ["os-a.conf", "os-b+2-1.conf"]);
        rig.change(|pair| pair.mark_good(&b)).unwrap();
        assert_eq!((rig.files(), rig.boot()), (vec!["os-a.conf".to_owned(), "os-b.conf".to_owned()], "b".to_owned()));
        // And back into the first slot.
        rig.change(|pair| pair.disarm(&a, &b)).unwrap();
        rig.change(|pair| pair.arm(&a, &b)).unwrap();
        assert_eq!((rig.files(), rig.boot()), (vec!["os-a+3-0.conf".to_owned(), "os-b.conf".to_owned()], "a".to_owned()));
        let text = fs::read_to_string(rig.entries.folder().join("os-a+2-1.conf")).unwrap();
        assert_eq!(text, "sort-key ota\nversion 3\ntitle a\nlinux /ota/a.efi\n");
    }

    #[test]
    fn a_slot_that_does_not_come_up_is_left_and_one_that_was_marked_bad_is_told_from_it() {
        let rig = Rig::new();
        let (a, b) = (name("a"), name("b"));
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        for _ in 0..TRIES {
            assert_eq!(rig.boot(), "b");
        }
        assert_eq!((rig.boot(), rig.entries.load().unwrap().pair.standing(&b)), ("a".to_owned(), Standing::Spent));
        rig.change(|pair| pair.disarm(&b, &a)).unwrap();
        assert_eq!(rig.files(), ["os-a.conf", "os-b+0-0.off"]);
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        rig.change(|pair| pair.mark_bad(&b)).unwrap();
        assert_eq!((rig.files(), rig.boot()), (vec!["os-a.conf".to_owned(), "os-b+0-0.conf".to_owned()], "a".to_owned()));
    }

    #[test]
    fn a_good_slot_is_armed_again_for_a_rollback() {
        let rig = Rig::new();
        let (a, b) = (name("a"), name("b"));
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        rig.change(|pair| pair.mark_good(&b)).unwrap();
        rig.change(|pair| pair.arm(&a, &b)).unwrap();
        assert_eq!((rig.files(), rig.boot()), (vec!["os-a+3-0.conf".to_owned(), "os-b.conf".to_owned()], "a".to_owned()));
    }

    #[test]
    fn what_is_called_like_an_entry_and_is_none_counts_as_none_is_named_and_goes_with_the_next_change() {
        let rig = Rig::new();
        let (a, b) = (name("a"), name("b"));
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        rig.put("os-b+3-0.conf", "title somebody's\nlinux /x\n");
        let loaded = rig.entries.load().unwrap();
        assert_eq!((loaded.pair.standing(&b), loaded.pair.next()), (Standing::Blank, &a));
        let weakness = loaded.weakness.unwrap().to_string();
        for words in [
            "os-b+3-0.conf is none of ours, and counts as none here; systemd-boot may start it all the same: line 1: expected \"sort-key ota\", \
             got \"title somebody's\". Put it right",
            "where the other slot runs and is good",
        ] {
            assert!(weakness.contains(words), "{weakness}");
        }
        // It may be what runs: a test takes nothing away.
        rig.entries.edit(Rewrite::Always, &mut |loaded| Ok(loaded.pair.clone())).unwrap();
        assert_eq!(rig.files(), ["os-a.conf", "os-b+3-0.conf"]);
        assert!(rig.change(|pair| pair.mark_bad(&b)).unwrap_err().contains("slot b has no entry"));
        assert_eq!(rig.files(), ["os-a.conf", "os-b+3-0.conf"]);
        rig.change(|pair| pair.disarm(&b, &a)).unwrap();
        assert_eq!((rig.files(), rig.entries.load().unwrap().weakness), (vec!["os-a.conf".to_owned()], None));
        rig.put("os-b+0-3.conf", "linux /x\n");
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        assert_eq!(rig.files(), ["os-a.conf", "os-b+3-0.conf"]);
    }

    /// The loader starts it, so it is what counts.
    #[test]
    fn an_entry_that_somebody_edited_or_spelled_in_capitals_is_still_that_of_its_slot() {
        let rig = Rig::new();
        let (a, b) = (name("a"), name("b"));
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        rig.change(|pair| pair.mark_good(&b)).unwrap();
        rig.put("os-b.conf", "# by hand\r\ntitle b\r\nversion 2\r\nsort-key ota\r\nlinux /ota/b.efi\r\n");
        let loaded = rig.entries.load().unwrap();
        assert_eq!((loaded.pair.standing(&b), loaded.pair.next(), loaded.weakness), (Standing::Good, &b, None));
        fs::rename(rig.entries.folder().join("os-b.conf"), rig.entries.folder().join("OS-B.CONF")).unwrap();
        assert_eq!(rig.entries.load().unwrap().pair, loaded.pair);
        rig.change(|pair| pair.disarm(&a, &b)).unwrap();
        rig.change(|pair| pair.arm(&a, &b)).unwrap();
        rig.change(|pair| pair.disarm(&b, &a).mark_good(&a)).unwrap();
        assert_eq!(rig.files(), ["os-a.conf", "os-b+0-0.off"]);
        let text = fs::read_to_string(rig.entries.folder().join("os-b+0-0.off")).unwrap();
        assert!(text.starts_with("sort-key ota\nversion 2\n# by hand\r\n"), "{text:?}");
    }

    /// As on FAT: the new name and the old one are those of one file.
    #[test]
    fn what_has_its_new_name_already_in_other_letters_is_not_removed_by_the_old_one() {
        let rig = Rig::new();
        let folder = rig.entries.folder();
        fs::hard_link(folder.join("os-a.conf"), folder.join("OS-A.conf")).unwrap();
        assert!(rig.entries.is_same("OS-A.conf", "os-a.conf") && !rig.entries.is_same("OS-A.conf", "os-b.conf"));
        fs::remove_file(folder.join("OS-A.conf")).unwrap();
        rig.put("OS-A.conf", "another file\n");
        assert!(!rig.entries.is_same("OS-A.conf", "os-a.conf"));
    }

    #[test]
    fn entries_are_read_from_the_medium_whatever_the_page_cache_holds() {
        use crate::slot::medium::tests::fetched;
        let rig = Rig::new();
        let path = rig.entries.folder().join("os-a.conf");
        fs::File::open(&path).unwrap().sync_all().unwrap();
        let plain = || drop(fs::read(&path).unwrap());
        RawFile::open(&path, Access::Read).unwrap().forget(0, 0);
        if fetched(plain) == 0 {
            println!("skipped: the file system of the temporary folder has no medium behind the page cache");
            return;
        }
        assert_eq!(fetched(plain), 0, "the page cache holds it");
        assert!(fetched(|| drop(rig.entries.load().unwrap())) > 0);
    }

    #[test]
    fn what_reads_back_otherwise_than_it_was_written_is_an_error() {
        let rig = Rig::new();
        let name: EntryName = "os-a.conf".parse().unwrap();
        let error = rig.entries.check(&name, REHEARSAL).unwrap_err();
        assert!(
            matches!(&error, BootError::ReadBack { expected, got } if expected.ends_with("rehearsal\\n\"") && got.contains("sort-key ota"))
        );
    }

    #[test]
    fn a_host_whose_only_entry_is_none_of_ours_keeps_it_and_is_not_updated() {
        let rig = Rig::new();
        let (a, b) = (name("a"), name("b"));
        rig.put("os-a.conf", "title somebody's\nlinux /x\n");
        let tested = rig.entries.edit(Rewrite::Always, &mut |loaded| Ok(loaded.pair.clone())).unwrap_err().to_string();
        assert!(tested.contains("expected an entry os-a.conf or os-b.conf of the slot that runs, got none"), "{tested}");
        assert!(tested.contains("line 1: expected \"sort-key ota\""), "{tested}");
        for refused in [rig.change(|pair| pair.disarm(&b, &a)), rig.change(|pair| pair.arm(&b, &a))] {
            assert!(refused.unwrap_err().contains("slot a has no entry"));
        }
        assert_eq!(rig.files(), ["os-a.conf"]);
    }

    #[test]
    fn a_slot_that_has_only_an_empty_entry_has_none() {
        for file in ["os-b+3-0.conf", "os-b.conf", "os-b+0-0.off"] {
            let rig = Rig::new();
            let (a, b) = (name("a"), name("b"));
            rig.put(file, "");
            assert_eq!(rig.entries.load().unwrap(), Loaded::from(Pair::factory([a.clone(), b.clone()], TRIES).disarm(&b, &a)));
            rig.change(|pair| pair.disarm(&b, &a)).unwrap();
            assert_eq!(rig.files(), ["os-a.conf"], "{file}");
            rig.put(file, "");
            rig.change(|pair| pair.arm(&b, &a)).unwrap();
            assert_eq!((rig.files(), rig.boot()), (vec!["os-a.conf".to_owned(), "os-b+3-0.conf".to_owned()], "b".to_owned()));
        }
    }

    /// The loader renames `+1-2` to `+0-3`, and starts an image for ever whose name is taken.
    #[test]
    fn no_name_that_the_loader_may_need_is_taken_when_a_slot_is_armed() {
        let (a, b) = (name("a"), name("b"));
        let older = "sort-key ota\nversion 1\ntitle b\nlinux /ota/b.efi\n";
        for (old, left) in [
            (["os-b+0-3.conf", "os-b+0-0.off"], vec!["os-a.conf", "os-b+0-0.off"]),
            (["os-b+0-0.conf", "os-b+0-3.conf"], vec!["os-a.conf", "os-b+0-0.off"]),
            (["os-b.conf", "os-b+1-2.conf"], vec!["os-a.conf", "os-b+0-0.off"]),
            (["os-b.conf", "os-b.conf"], vec!["os-a.conf", "os-b.conf"]),
        ] {
            let rig = Rig::new();
            old.iter().for_each(|old| rig.put(old, older));
            rig.entries.free_counted_names(&rig.entries.find().unwrap(), &b).unwrap();
            assert_eq!(rig.files(), left, "{old:?}");
            rig.change(|pair| pair.arm(&b, &a)).unwrap();
            assert_eq!(rig.files(), ["os-a.conf", "os-b+3-0.conf"], "{old:?}");
        }
    }

    /// What is written by hand, or by another program.
    #[test]
    fn a_slot_on_trial_that_another_one_comes_before_is_not_what_is_started_next() {
        let rig = Rig::new();
        rig.put("os-a.conf", "sort-key ota\nversion 9\ntitle a\nlinux /ota/a.efi\n");
        rig.put("os-b+03-0.conf", "sort-key ota\nversion 2\ntitle b\nlinux /ota/b.efi\n");
        let pair = rig.entries.load().unwrap().pair;
        assert_eq!((pair.standing(&name("b")), pair.next(), rig.boot()), (Standing::Spent, &name("a"), "a".to_owned()));
        rig.change(|pair| pair.mark_good(&name("b"))).unwrap();
        assert_eq!((rig.boot(), rig.files()), ("b".to_owned(), vec!["os-a.conf".to_owned(), "os-b.conf".to_owned()]));
    }

    #[test]
    fn a_slot_on_trial_that_has_the_version_of_the_other_one_is_marked_good_and_preferred() {
        let rig = Rig::new();
        rig.put("os-b+2-1.conf", "sort-key ota\nversion 1\ntitle b\nlinux /ota/b.efi\n");
        let good = rig.change(|pair| pair.mark_good(&name("b"))).unwrap();
        assert_eq!((good.next(), good.was_armed, rig.boot()), (&name("b"), true, "b".to_owned()));
    }

    /// A cut between the steps of a change leaves the new entry empty or whole beside the old one. The loader passes an empty one over.
    #[test]
    fn what_an_interrupted_change_leaves_is_what_was_or_what_is_wanted_and_is_cleared_away() {
        let b = name("b");
        let armed = "sort-key ota\nversion 2\ntitle b\nlinux /ota/b.efi\n";
        let older = "sort-key ota\nversion 1\ntitle b\nlinux /ota/b.efi\n";
        let pending = Standing::Pending { tries_left: 2 };
        let cases = [
            ("os-b+2-1.conf", armed, "os-b.new", armed, pending),
            ("os-b+2-1.conf", armed, "os-b.conf", "", pending),
            ("os-b+2-1.conf", armed, "os-b.conf", armed, Standing::Good),
            ("os-b+2-1.conf", armed, "os-b+0-0.conf", armed, pending),
            ("os-b+2-1.conf", armed, "os-b+0-0.off", "", pending),
            ("os-b+2-1.conf", armed, "os-b+0-0.off", armed, pending),
            ("os-b+0-0.off", older, "os-b+2-1.conf", "", Standing::Blank),
            ("os-b+0-0.off", older, "os-b+2-1.conf", armed, pending),
            ("os-b.conf", older, "os-b+2-1.conf", armed, pending),
        ];
        for (old, old_text, new, new_text, expected) in cases {
            let rig = Rig::new();
            rig.put(old, old_text);
            rig.put(new, new_text);
            assert_eq!(rig.entries.load().unwrap().pair.standing(&b), expected, "{old} and {new}");
            rig.entries.edit(Rewrite::IfDifferent, &mut |loaded| Ok(loaded.pair.clone())).unwrap();
            assert_eq!(rig.files().into_iter().filter(|file| file.starts_with("os-b") && !file.ends_with(".new")).count(), 1);
            assert_eq!(rig.entries.load().unwrap().pair.standing(&b), expected, "{old} and {new}, cleared");
            rig.change(|pair| pair.mark_bad(&b)).unwrap();
            assert_eq!(rig.boot(), "a", "{old} and {new}");
        }
    }

    #[test]
    fn what_is_armed_again_as_it_was_is_disarmed_between() {
        let rig = Rig::new();
        let (a, b) = (name("a"), name("b"));
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
        let both = rig.entries.find().unwrap();
        rig.entries.bring(&both, &b, Standing::Pending { tries_left: TRIES }, false).unwrap();
        let text = fs::read_to_string(rig.entries.folder().join("os-b+3-0.conf")).unwrap();
        assert!(text.starts_with("sort-key ota\nversion 3\n"), "{text}");
        assert_eq!(rig.files(), ["os-a.conf", "os-b+3-0.conf"]);
    }

    #[test]
    fn a_default_of_others_and_a_loader_that_does_not_count_are_found_before_a_download() {
        let rig = Rig::new();
        rig.entries.check_loader().unwrap();
        let conf = rig.entries.esp.join("loader/loader.conf");
        fs::write(&conf, "timeout 0\n# default a\ndefault\nconsole-mode default\n").unwrap();
        rig.entries.check_loader().unwrap();
        for line in ["default debian-*", "default @saved", "  preferred\tos-a.conf"] {
            fs::write(&conf, format!("timeout 0\n{line}\n")).unwrap();
            let error = rig.entries.check_loader().unwrap_err().to_string();
            let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(error.contains(&format!("loader.conf: \"{words}\" comes before the names of the entries")), "{error}");
        }
        fs::remove_file(conf).unwrap();
        for (name, remedy) in CHOOSING_VARIABLES {
            let rig = Rig::new();
            rig.loader(name, b"x");
            let error = rig.entries.check_loader().unwrap_err().to_string();
            assert!(error.contains(&format!("{name} comes before the names")) && error.contains(remedy), "{error}");
        }
        let rig = Rig::new();
        rig.loader("LoaderFeatures", &0xF_u64.to_le_bytes());
        assert!(rig.entries.check_loader().unwrap_err().to_string().contains("does not count boots"));
        rig.loader("LoaderFeatures", &0xFF_u64.to_le_bytes());
        assert!(rig.entries.check_loader().unwrap_err().to_string().contains("knows no sort-key"), "systemd-boot 250");
        fs::remove_dir_all(&rig.entries.efivars).unwrap();
        assert!(rig.entries.check_loader().unwrap_err().to_string().contains("was not started by systemd-boot"));
    }

    #[test]
    fn a_running_slot_without_an_entry_is_not_left_without_a_way_back() {
        let rig = Rig::new();
        let (a, b) = (name("a"), name("b"));
        fs::remove_file(rig.entries.folder().join("os-a.conf")).unwrap();
        let error = rig.change(|pair| pair.arm(&b, &a)).unwrap_err();
        assert!(error.starts_with("slot a has no entry ") && rig.files().is_empty(), "{error}");
    }

    /// It would be tried with the kernel that runs now, kept, and lost with the next update.
    #[test]
    fn an_entry_that_names_the_other_slots_files_is_refused_before_anything_changes() {
        let (a, b) = (name("a"), name("b"));
        for line in
            ["linux /ota/a.efi", "linux\t ota/A.EFI ", "linux /ota/b.efi\ninitrd /ota/b.img /ota/a.efi", "uki \\ota\\a.efi"]
        {
            let rig = Rig::new();
            fs::write(rig.entries.esp.join("ota/b.entry"), format!("title b\n{line}\n")).unwrap();
            let error = rig.change(|pair| pair.arm(&b, &a)).unwrap_err();
            assert!(
                error.contains("ota/b.entry: expected files of slot b, got ") && error.ends_with("another slot's"),
                "{error}"
            );
            assert_eq!(rig.files(), ["os-a.conf"]);
        }
        let rig = Rig::new();
        fs::write(rig.entries.esp.join("ota/b.entry"), "linux /ota/b.efi\ninitrd /shared.img\noptions x=/ota/a.efi\n").unwrap();
        rig.change(|pair| pair.arm(&b, &a)).unwrap();
    }

    #[test]
    fn what_the_loader_starts_before_ours_is_found_before_a_download() {
        let rig = Rig::new();
        rig.put("zz.conf", "title z\nsort-key zz\nlinux /z\n");
        rig.put("plain.conf", "title without a key comes last\nlinux /z\n");
        rig.put("debian.off", "sort-key debian\nlinux /z\n");
        rig.entries.check_loader().unwrap();
        for (file, key) in [("debian.conf", "debian"), ("debian.conf", "ota"), ("debian.Conf", "debian")] {
            rig.put(file, &format!("title d\nsort-key zz\n  sort-key\t{key}\nlinux /z\n"));
            let error = rig.entries.check_loader().unwrap_err().to_string();
            assert!(
                error.contains(&format!("{file}: expected nothing")) && error.contains(&format!("\"sort-key {key}\"")),
                "{error}"
            );
            fs::remove_file(rig.entries.folder().join(file)).unwrap();
        }
        fs::create_dir_all(rig.entries.esp.join("EFI/Linux")).unwrap();
        fs::write(rig.entries.esp.join("EFI/Linux/readme.txt"), "").unwrap();
        rig.entries.check_loader().unwrap();
        fs::write(rig.entries.esp.join("EFI/Linux/rescue.EFI"), "").unwrap();
        let error = rig.entries.check_loader().unwrap_err().to_string();
        assert!(error.contains("EFI/Linux/rescue.EFI: expected no kernel image"), "{error}");
    }

    /// It may lie where nothing is mounted here.
    #[test]
    fn what_the_loader_itself_had_before_ours_is_found_before_a_download() {
        let rig = Rig::new();
        let listed = |ids: &[&str]| {
            let units = ids.iter().flat_map(|id| id.encode_utf16().chain([0])).flat_map(u16::to_le_bytes);
            rig.loader("LoaderEntries", &units.collect::<Vec<_>>());
        };
        for first in ["os-a.conf", "os-b", "os-b+3-0.conf", "OS-A.conf"] {
            listed(&[first, "debian.conf", "auto-reboot-to-firmware-setup"]);
            rig.entries.check_loader().unwrap();
        }
        for first in ["debian-6.1+3-0.conf", "rescue.efi", "auto-windows", "os-c.conf"] {
            listed(&[first, "os-a.conf"]);
            let error = rig.entries.check_loader().unwrap_err().to_string();
            assert!(error.contains(&format!("found when it started this host is {first:?}")), "{error}");
            assert!(error.contains("expected os-a or os-b") && error.contains("and reboot"), "{error}");
        }
    }

    #[test]
    fn a_rehearsal_leaves_nothing_behind() {
        let rig = Rig::new();
        rig.entries.edit(Rewrite::Always, &mut |loaded| Ok(loaded.pair.clone())).unwrap();
        assert_eq!(rig.files(), ["os-a.conf"]);
    }

    #[test]
    fn an_entry_without_a_kernel_is_refused_before_anything_changes() {
        let rig = Rig::new();
        let (a, b) = (name("a"), name("b"));
        fs::write(rig.entries.esp.join("ota/b.entry"), "title nothing\n").unwrap();
        let error = rig.change(|pair| pair.arm(&b, &a)).unwrap_err();
        assert!(error.contains("ota/b.entry: expected one line \"linux PATH\"") && error.ends_with("got none"), "{error}");
        assert_eq!(rig.files(), ["os-a.conf"]);
    }
}
