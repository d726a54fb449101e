//! What a boot loader would do with a disk: a second reading of its state, apart from the daemon's own codecs.
//!
//! GRUB with `dist/grub/ota.cfg`, and systemd-boot 252 with boot counting.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::path::Path;

use super::fat::Fat;
use crate::vm::{ENTRY_PREFIX, Loader};

const ENTRIES: &str = "loader/entries";
const BLOCK: &str = "grub/grubenv";

/// How far an update has come, as the loader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// The old version starts.
    Before,
    /// The new one is tried.
    Trial,
    /// The new one is kept.
    Kept,
}

/// What lists and reads files of an EFI system partition.
pub trait Files {
    /// Names of the files in a folder; none if that is not there.
    ///
    /// # Errors
    /// If it cannot be read.
    fn names(&self, folder: &str) -> Result<Vec<String>, String>;

    /// What a file holds; `None` if it is not there.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, String>;
}

impl Files for Fat<'_> {
    fn names(&self, folder: &str) -> Result<Vec<String>, String> {
        let items = self.list(folder)?.unwrap_or_default();
        Ok(items.into_iter().filter(|item| !item.is_folder).map(|item| item.name).collect())
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        Fat::read(self, path)
    }
}

/// Files that stand in a folder.
#[derive(Clone, Copy, Debug)]
pub struct Folder<'a>(pub &'a Path);

impl Files for Folder<'_> {
    fn names(&self, folder: &str) -> Result<Vec<String>, String> {
        let path = self.0.join(folder);
        let words = |error: io::Error| format!("{}: {error}", path.display());
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(words)?,
        };
        entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).map_err(words)).collect()
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        match fs::read(self.0.join(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{path}: {error}")),
        }
    }
}

/// A slot that the loader would start, in the order in which it would.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// `a` or `b`.
    pub slot: char,
    /// Boots that are counted against it; `None` = it is good.
    pub tries_left: Option<u32>,
    /// The file of its kernel on the ESP; `None` = in the slot itself.
    pub kernel: Option<String>,
    /// What the kernel is told, where that is on the ESP as well.
    pub options: Option<String>,
    /// The name of its entry, where it has one of its own.
    pub entry: Option<String>,
}

/// The slots that this loader would start from this ESP: the first now, each next one if it comes to nothing. What comes behind an entry
/// of somebody else is none of ours any more.
///
/// # Errors
/// If the loader would start nothing of ours, or cannot read its file system.
pub fn candidates(loader: Loader, esp: &dyn Files) -> Result<Vec<Candidate>, String> {
    let found = match loader {
        Loader::GrubBios => grub(esp)?,
        Loader::SystemdBoot | Loader::SystemdBootVerity => systemd_boot(esp)?,
    };
    if found.is_empty() { Err("the loader finds nothing to start".to_owned()) } else { Ok(found) }
}

/// Does to the files in a folder what the loader does before it starts this candidate, its first: it counts the try.
///
/// # Errors
/// If they cannot be changed.
pub fn count_try(loader: Loader, esp: &Path, first: &Candidate) -> io::Result<()> {
    let Some(left) = first.tries_left else { return Ok(()) };
    match (loader, &first.entry) {
        (Loader::GrubBios, _) => {
            let path = esp.join(BLOCK);
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            fs::write(&path, text.replace(&format!("ota_left={left}\n"), &format!("ota_left={}\n", left.saturating_sub(1))))
        }
        (_, Some(name)) => {
            let counted = after_a_try(name).ok_or(io::ErrorKind::InvalidInput)?;
            fs::rename(esp.join(ENTRIES).join(name), esp.join(ENTRIES).join(counted))
        }
        (_, None) => Ok(()),
    }
}

/// `ID+LEFT[-DONE].conf` with one try less.
fn after_a_try(name: &str) -> Option<String> {
    let (id, counter) = name.strip_suffix(".conf")?.split_once('+')?;
    let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
    let (left, done): (u32, u32) = (left.parse().ok()?, done.parse().ok()?);
    Some(format!("{id}+{}-{}.conf", left.saturating_sub(1), done + 1))
}

/// Variables of an environment block as GRUB's `load_env` takes them; `None` = it is none to GRUB.
#[derive(Debug)]
struct Env(Vec<(String, String)>);

impl Env {
    fn parse(bytes: Option<&[u8]>) -> Option<Self> {
        let bytes = bytes.filter(|bytes| bytes.starts_with(b"# GRUB Environment Block\n"))?;
        let text = String::from_utf8_lossy(bytes);
        let lines = text.split('\n').filter(|line| !line.starts_with('#'));
        Some(Self(lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()))
    }

    fn get(&self, name: &str) -> &str {
        self.0.iter().rfind(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

fn grub(esp: &dyn Files) -> Result<Vec<Candidate>, String> {
    let block = esp.read(BLOCK)?;
    // Where neither can be read, any slot is started that starts.
    let any = || Env(["ota_a", "ota_b"].map(|name| (name.to_owned(), "good".to_owned())).to_vec());
    let (env, is_copy) = match Env::parse(block.as_deref()) {
        Some(env) => (env, false),
        None => (Env::parse(esp.read("grub/grubenv.ota")?.as_deref()).unwrap_or_else(any), true),
    };
    let primary = if env.get("ota_primary") == "b" { 'b' } else { 'a' };
    let other = if primary == 'a' { 'b' } else { 'a' };
    let good = |slot| Candidate { slot, tries_left: None, kernel: None, options: None, entry: None };
    let left = env.get("ota_left").parse().ok().filter(|left| (1..=9).contains(left));
    let pending = env.get("ota_pending").chars().next().filter(|_| !is_copy);
    Ok(match (pending, left) {
        (Some(slot), Some(left)) => vec![Candidate { tries_left: Some(left), ..good(slot) }, good(primary)],
        _ if env.get(&format!("ota_{other}")) == "good" => vec![good(primary), good(other)],
        _ => vec![good(primary)],
    })
}

struct Entry {
    /// `None` = it is somebody else's.
    candidate: Option<Candidate>,
    sort_key: Option<String>,
    version: u64,
    name: String,
}

/// `Boot Loader Specification`: entries without tries come last, those without a sort key behind those with one; ours have one sort key,
/// so the higher version comes first, and of equal ones the name that sorts last.
fn systemd_boot(esp: &dyn Files) -> Result<Vec<Candidate>, String> {
    let mut entries = Vec::new();
    for name in esp.names(ENTRIES)? {
        // Whatever letters it has.
        let halves = name.len().checked_sub(5).and_then(|at| name.split_at_checked(at));
        let Some((stem, _)) = halves.filter(|(_, suffix)| suffix.eq_ignore_ascii_case(".conf")) else { continue };
        let text = esp.read(&format!("{ENTRIES}/{name}"))?.unwrap_or_default();
        entries.extend(entry(&name, stem, &String::from_utf8_lossy(&text))?);
    }
    entries.sort_by(|one, other| {
        let is_spent = |entry: &Entry| entry.candidate.as_ref().is_some_and(|candidate| candidate.tries_left == Some(0));
        let key = |entry: &Entry| (is_spent(entry), entry.sort_key.is_none(), entry.sort_key.clone(), Reverse(entry.version));
        key(one).cmp(&key(other)).then_with(|| Reverse(rank(&one.name)).cmp(&Reverse(rank(&other.name))))
    });
    match entries.first() {
        Some(Entry { candidate: None, name, .. }) => Err(format!("the loader would start {name}, which is of no slot")),
        _ => Ok(entries.into_iter().map_while(|entry| entry.candidate).collect()),
    }
}

/// Of two names that begin alike the one that goes on with a number counts as newer.
fn rank(name: &str) -> (&str, bool, &str) {
    let (id, rest) = name.find(['+', '.']).map_or((name, ""), |at| name.split_at(at));
    (id, rest.starts_with('+'), rest)
}

/// `None` for one that starts nothing: it is passed over.
fn entry(name: &str, stem: &str, text: &str) -> Result<Option<Entry>, String> {
    // Either sign ends a line, and the last value counts.
    let lines = || text.split(['\n', '\r']).map(str::trim);
    let value = |key: &str| lines().rev().find_map(|line| line.strip_prefix(key)?.strip_prefix([' ', '\t'])).map(str::trim);
    let (kernel, options) = (value("linux").map(str::to_owned), value("options").map(str::to_owned));
    if kernel.is_none() {
        return Ok(None);
    }
    let version = value("version").and_then(|version| version.parse().ok()).unwrap_or(0);
    let (id, counter) = stem.split_once('+').map_or((stem, None), |(id, counter)| (id, Some(counter)));
    // All others are somebody else's.
    let slot = ['a', 'b'].into_iter().find(|slot| id == format!("{ENTRY_PREFIX}-{slot}"));
    let left = counter.map(|counter| counter.split('-').next().and_then(|left| left.parse().ok()));
    let tries_left = match left {
        Some(None) if slot.is_some() => return Err(format!("{name} has a counter that is none")),
        left => left.flatten(),
    };
    let candidate = slot.map(|slot| Candidate { slot, tries_left, kernel, options, entry: Some(name.to_owned()) });
    Ok(Some(Entry { candidate, sort_key: value("sort-key").map(str::to_owned), version, name: name.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(lines: &str) -> Vec<u8> {
        let mut bytes = format!("# GRUB Environment Block\n{lines}").into_bytes();
        bytes.resize(1024, b'#');
        bytes
    }

    #[test]
    fn a_block_is_what_grub_takes_for_one() {
        let env = Env::parse(Some(&block("ota_primary=b\nota_left=3\n"))).unwrap();
        assert_eq!((env.get("ota_primary"), env.get("ota_left"), env.get("ota_pending")), ("b", "3", ""));
        assert_eq!(Env::parse(Some(&block("ota_a=x\nota_a=good\n"))).unwrap().get("ota_a"), "good", "the last one counts");
        assert!(
            Env::parse(Some(&block("")[1..])).is_none() && Env::parse(Some(&[0; 1024])).is_none() && Env::parse(None).is_none()
        );
    }

    #[test]
    fn without_a_block_its_copy_counts_and_without_both_any_slot() {
        let esp = tempfile::tempdir().unwrap();
        fs::create_dir(esp.path().join("grub")).unwrap();
        let slots = || -> Vec<(char, Option<u32>)> {
            let found = candidates(Loader::GrubBios, &Folder(esp.path())).unwrap();
            found.into_iter().map(|candidate| (candidate.slot, candidate.tries_left)).collect()
        };
        assert_eq!(slots(), [('a', None), ('b', None)]);
        fs::write(esp.path().join("grub/grubenv.ota"), block("ota_primary=b\nota_pending=a\nota_left=3\n")).unwrap();
        assert_eq!(slots(), [('b', None)], "no slot is tried by its copy");
    }

    #[test]
    fn names_and_texts_of_entries_say_slot_tries_kernel_and_version() {
        let text = "sort-key ota\nversion 7\ntitle x\nlinux /ota/b.efi\noptions root=x ro\n";
        let found = entry("os-b+2-1.conf", "os-b+2-1", text).unwrap().unwrap();
        let expected = Candidate {
            slot: 'b',
            tries_left: Some(2),
            kernel: Some("/ota/b.efi".into()),
            options: Some("root=x ro".into()),
            entry: Some("os-b+2-1.conf".into()),
        };
        assert_eq!((found.candidate, found.version), (Some(expected), 7));
        assert_eq!(entry("os-a.conf", "os-a", text).unwrap().unwrap().candidate.unwrap().tries_left, None);
        assert!(entry("os-a+x.conf", "os-a+x", text).is_err());
        assert!(entry("os-a.conf", "os-a", "").unwrap().is_none());
        for foreign in ["os-c", "other-a", "other-a+x", "b"] {
            assert_eq!(entry("x", foreign, text).unwrap().unwrap().candidate, None, "{foreign}");
        }
    }

    /// An ESP with these entries, each of which starts a kernel.
    fn esp(entries: &[(&str, &str)]) -> tempfile::TempDir {
        let esp = tempfile::tempdir().unwrap();
        fs::create_dir_all(esp.path().join(ENTRIES)).unwrap();
        for (name, lines) in entries {
            fs::write(esp.path().join(ENTRIES).join(name), format!("{lines}linux /x\n")).unwrap();
        }
        esp
    }

    fn order(entries: &[(&str, &str)]) -> Result<Vec<(char, Option<u32>)>, String> {
        let found = candidates(Loader::SystemdBoot, &Folder(esp(entries).path()))?;
        Ok(found.into_iter().map(|candidate| (candidate.slot, candidate.tries_left)).collect())
    }

    #[test]
    fn entries_of_others_are_no_candidates_and_none_may_come_first() {
        let ours = [("os-a.conf", "sort-key ota\nversion 1\n"), ("os-b+3.conf", "sort-key ota\nversion 2\n")];
        let behind = [("other-1.conf", "sort-key zz\nversion 9\n"), ("other-2.conf", ""), ("other-3.off", "sort-key a\n")];
        assert_eq!(order(&[&ours[..], &behind].concat()).unwrap(), [('b', Some(3)), ('a', None)]);
        assert!(
            order(&[&ours[..], &[("other.conf", "sort-key aa\n")]].concat()).unwrap_err().contains("other.conf, which is of no")
        );
        let between = [ours[0], ("other.conf", "sort-key zz\n"), ("os-b+0-3.conf", "sort-key ota\nversion 2\n")];
        assert_eq!(order(&between).unwrap(), [('a', None)], "behind one of somebody else nothing of ours is started");
        assert!(order(&[]).unwrap_err().contains("nothing to start"));
    }

    #[test]
    fn a_try_is_counted_in_the_name_or_in_the_block() {
        let entries = esp(&[("os-b+3.conf", "")]);
        for expected in ["os-b+2-1.conf", "os-b+1-2.conf", "os-b+0-3.conf"] {
            let found = candidates(Loader::SystemdBoot, &Folder(entries.path())).unwrap();
            count_try(Loader::SystemdBoot, entries.path(), &found[0]).unwrap();
            assert_eq!(Folder(entries.path()).names(ENTRIES).unwrap(), [expected]);
        }
        let esp = tempfile::tempdir().unwrap();
        fs::create_dir(esp.path().join("grub")).unwrap();
        fs::write(esp.path().join(BLOCK), block("ota_pending=b\nota_left=1\n")).unwrap();
        let first = candidates(Loader::GrubBios, &Folder(esp.path())).unwrap().remove(0);
        assert_eq!((first.slot, first.tries_left), ('b', Some(1)));
        count_try(Loader::GrubBios, esp.path(), &first).unwrap();
        let first = candidates(Loader::GrubBios, &Folder(esp.path())).unwrap().remove(0);
        assert_eq!((first.slot, first.tries_left), ('a', None));
    }
}
