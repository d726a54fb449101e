//! What a boot loader would do with a disk: a second reading of its state, apart from the daemon's own codecs.
//!
//! GRUB with `dist/grub/ota.cfg`, and systemd-boot 252 with boot counting.

use super::fat::Fat;
use crate::vm::Loader;

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
}

/// The slots that this loader would start from this ESP: the first now, each next one if it comes to nothing.
///
/// # Errors
/// If the loader would start nothing, or cannot read its file system.
pub fn candidates(loader: Loader, esp: &Fat<'_>) -> Result<Vec<Candidate>, String> {
    let found = match loader {
        Loader::GrubBios => grub(esp)?,
        Loader::SystemdBoot | Loader::SystemdBootVerity => systemd_boot(esp)?,
    };
    if found.is_empty() { Err("the loader finds nothing to start".to_owned()) } else { Ok(found) }
}

/// Variables of an environment block as GRUB's `load_env` takes them; `None` = it is none to GRUB.
#[derive(Debug, Default)]
struct Env(Vec<(String, String)>);

impl Env {
    fn parse(bytes: Option<&[u8]>) -> Option<Self> {
        let bytes = bytes.filter(|bytes| bytes.len() == 1024 && bytes.starts_with(b"# GRUB Environment Block\n"))?;
        let text = String::from_utf8_lossy(bytes);
        let lines = text.split('\n').filter(|line| !line.starts_with('#'));
        Some(Self(lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()))
    }

    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

fn grub(esp: &Fat<'_>) -> Result<Vec<Candidate>, String> {
    let block = esp.read("grub/grubenv")?;
    let (env, is_copy) = match Env::parse(block.as_deref()) {
        Some(env) => (env, false),
        None => (Env::parse(esp.read("grub/grubenv.ota")?.as_deref()).unwrap_or_default(), true),
    };
    let primary = if env.get("ota_primary") == "b" { 'b' } else { 'a' };
    let other = if primary == 'a' { 'b' } else { 'a' };
    let good = |slot| Candidate { slot, tries_left: None, kernel: None, options: None };
    let left = env.get("ota_left").parse().ok().filter(|left| (1..=9).contains(left));
    let pending = env.get("ota_pending").chars().next().filter(|_| !is_copy);
    Ok(match (pending, left) {
        (Some(slot), Some(left)) => vec![Candidate { tries_left: Some(left), ..good(slot) }, good(primary)],
        _ if env.get(&format!("ota_{other}")) == "good" => vec![good(primary), good(other)],
        _ => vec![good(primary)],
    })
}

struct Entry {
    candidate: Candidate,
    version: u64,
    name: String,
}

/// `Boot Loader Specification`: entries without tries come last; ours have one sort key, so the higher version comes first.
fn systemd_boot(esp: &Fat<'_>) -> Result<Vec<Candidate>, String> {
    let mut entries = Vec::new();
    for item in esp.list("loader/entries")?.unwrap_or_default() {
        let Some(stem) = item.name.strip_suffix(".conf") else { continue };
        let text = esp.read(&format!("loader/entries/{}", item.name))?.unwrap_or_default();
        entries.extend(entry(&item.name, stem, &String::from_utf8_lossy(&text))?);
    }
    entries.sort_by(|one, other| {
        let is_spent = |entry: &Entry| entry.candidate.tries_left == Some(0);
        let key = |entry: &Entry| (is_spent(entry), std::cmp::Reverse(entry.version));
        key(one).cmp(&key(other)).then_with(|| one.name.cmp(&other.name))
    });
    Ok(entries.into_iter().map(|entry| entry.candidate).collect())
}

/// `None` for one that starts nothing: it is passed over.
fn entry(name: &str, stem: &str, text: &str) -> Result<Option<Entry>, String> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).map(str::trim);
    let (id, counter) = stem.split_once('+').map_or((stem, None), |(id, counter)| (id, Some(counter)));
    let slot = id.chars().last().filter(|slot| "ab".contains(*slot)).ok_or_else(|| format!("{name} is of no slot"))?;
    let left = counter.map(|counter| counter.split('-').next().and_then(|left| left.parse().ok()));
    let tries_left = match left {
        Some(None) => return Err(format!("{name} has a counter that is none")),
        Some(left) => left,
        None => None,
    };
    let (kernel, options) = (value("linux").map(str::to_owned), value("options").map(str::to_owned));
    if kernel.is_none() {
        return Ok(None);
    }
    let version = value("version").and_then(|version| version.parse().ok()).unwrap_or(0);
    Ok(Some(Entry { candidate: Candidate { slot, tries_left, kernel, options }, version, name: name.to_owned() }))
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
        assert!(
            Env::parse(Some(&block("")[1..])).is_none() && Env::parse(Some(&[0; 1024])).is_none() && Env::parse(None).is_none()
        );
    }

    #[test]
    fn names_and_texts_of_entries_say_slot_tries_kernel_and_version() {
        let text = "sort-key ota\nversion 7\ntitle x\nlinux /ota/b.efi\noptions root=x ro\n";
        let found = entry("os-b+2-1.conf", "os-b+2-1", text).unwrap().unwrap();
        let expected =
            Candidate { slot: 'b', tries_left: Some(2), kernel: Some("/ota/b.efi".into()), options: Some("root=x ro".into()) };
        assert_eq!((found.candidate, found.version), (expected, 7));
        assert_eq!(entry("os-a.conf", "os-a", text).unwrap().unwrap().candidate.tries_left, None);
        assert!(entry("os-a+x.conf", "os-a+x", text).is_err() && entry("os-c.conf", "os-c", text).is_err());
        assert!(entry("os-a.conf", "os-a", "").unwrap().is_none());
    }
}
