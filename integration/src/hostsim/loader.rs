//! The boot loader: which slot, at what cost, and what comes of it.

use std::path::PathBuf;

use super::content::{Content, content_of};
use super::gpt::{Entry, Gpt, bits};
use super::{Error, sysroot};

/// A machine whose slots never start is switched on this often before that is an error.
const ATTEMPTS_MAX: u32 = 64;

/// A machine to be switched on.
#[derive(Clone, Debug)]
pub struct BootPlan {
    /// Its disk.
    pub image: PathBuf,
    /// The folder that shows what runs.
    pub sysroot: PathBuf,
    /// Its slots: name and partition label.
    pub slots: Vec<(String, String)>,
    /// How many of the next starts fail whatever the slot holds, after the loader spent its try.
    pub failing_starts: u32,
}

/// What runs after a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booted {
    /// The slot's name.
    pub slot: String,
    /// The version that its `os-release` states.
    pub version: String,
    /// The new boot id.
    pub boot_id: String,
    /// What happened, a line for each step.
    pub log: Vec<String>,
}

/// A slot as the loader finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Its partition.
    pub entry: Entry,
}

/// Switches the machine on: loader, kernel, and again after each slot that does not start, until one does.
///
/// # Errors
/// [`Error::NothingBoots`] if none ever does; others if the disk or the folder cannot be used.
pub fn boot(plan: &BootPlan) -> Result<Booted, Error> {
    let mut log = Vec::new();
    let mut failing = plan.failing_starts;
    for _ in 0..ATTEMPTS_MAX {
        let mut gpt = Gpt::open(&plan.image)?;
        let slot = choose(&slots(&gpt, &plan.slots)?)?;
        log.push(format!("loader: {}", words(&slot)));
        spend_try(&mut gpt, &slot.entry)?;
        if failing > 0 {
            failing -= 1;
            log.push(format!("slot {} does not start: told to fail ({failing} more)", slot.name));
            continue;
        }
        match content_of(&gpt, &slot.entry)? {
            Ok(content) => return start(plan, &slot, &content, log),
            Err(why) => log.push(format!("slot {} does not start: {why}", slot.name)),
        }
    }
    Err(Error::NothingBoots { attempts: ATTEMPTS_MAX, log: log.join("\n") })
}

fn start(plan: &BootPlan, slot: &Slot, content: &Content, mut log: Vec<String>) -> Result<Booted, Error> {
    let boot_id = sysroot::show(&plan.sysroot, &slot.entry, content)?;
    let version = content.version().to_owned();
    log.push(format!("slot {} runs version {version}, boot id {boot_id}", slot.name));
    Ok(Booted { slot: slot.name.clone(), version, boot_id, log })
}

/// The slots of a disk, in the order of its table.
///
/// # Errors
/// If a label is not there, or stands twice.
pub fn slots(gpt: &Gpt, names: &[(String, String)]) -> Result<Vec<Slot>, Error> {
    let found = names.iter().map(|(name, label)| Ok(Slot { name: name.clone(), entry: gpt.entry(label)? }));
    let mut slots = found.collect::<Result<Vec<_>, Error>>()?;
    slots.sort_by_key(|slot| slot.entry.index);
    Ok(slots)
}

/// The slot that the loader takes: the highest priority with tries or success, of equals the first; else the first of all.
///
/// # Errors
/// Without any slot.
pub fn choose(slots: &[Slot]) -> Result<Slot, Error> {
    let eligible = slots.iter().filter(|slot| slot.entry.tries() > 0 || slot.entry.successful());
    // `max_by_key` takes the last of equals, so the order is turned.
    let best = eligible.rev().max_by_key(|slot| slot.entry.priority());
    best.or(slots.first()).cloned().ok_or_else(|| Error::Disk("the machine has no slot".to_owned()))
}

/// With tries left one is spent, before the kernel starts.
fn spend_try(gpt: &mut Gpt, entry: &Entry) -> Result<(), Error> {
    if entry.tries() == 0 {
        return Ok(());
    }
    let others = entry.bits & !bits(0, 15, false);
    gpt.set_bits(entry.index, others | bits(0, entry.tries() - 1, false))
}

fn words(slot: &Slot) -> String {
    let entry = &slot.entry;
    let cost = match entry.tries() {
        0 => "no try spent".to_owned(),
        tries => format!("tries {tries} -> {}", tries - 1),
    };
    let good = if entry.successful() { "successful" } else { "not successful" };
    format!("slot {} ({}): priority {}, {good}, {cost}", slot.name, entry.label, entry.priority())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(bits_of: &[u64]) -> String {
        let slot = |(index, &bits): (usize, &u64)| Slot {
            name: format!("{index}"),
            entry: Entry { index, label: String::new(), guid: String::new(), start: 0, length: 0, bits },
        };
        choose(&bits_of.iter().enumerate().map(slot).collect::<Vec<_>>()).unwrap().name
    }

    #[test]
    fn the_loader_follows_its_rule() {
        assert_eq!(choice(&[bits(1, 0, true), bits(2, 3, false)]), "1");
        assert_eq!(choice(&[bits(1, 0, true), bits(2, 0, false)]), "0");
        assert_eq!(choice(&[bits(1, 0, true), bits(1, 0, true)]), "0");
        assert_eq!(choice(&[0, bits(0, 0, true)]), "1");
        assert_eq!(choice(&[0, bits(9, 0, false)]), "0");
    }
}
