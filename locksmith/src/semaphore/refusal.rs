//! Why a group says no, in words that are the same on the wire, in logs and on the terminal.

use std::fmt::Write as _;

use super::queue::Place;
use super::{Document, Holder, UNNAMED};
use crate::names::{GroupName, HostId, Tag};

/// Holders named in a sentence; more are counted.
const NAMED: usize = 3;

/// Why an operation was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All places are taken.
    Full,
    /// Places are free, but as many hosts have waited longer and are expected back.
    Kept,
    /// The id holds a place under another attempt, or under none, or an operator holds one in its name.
    IdInUse(Box<Holder>),
    /// An operator wants to hold the place of a host that holds one itself, or in whose name another operator holds one.
    Occupied(Box<Holder>),
    /// The attempt holds no place (any more).
    NotHeld(Tag),
}

impl Refusal {
    /// One sentence for a person: what is wrong, who, since when, and what to do.
    pub fn sentence(&self, group: &GroupName, document: &Document, place: Option<Place>) -> String {
        match self {
            Self::Full => full(group, document) + &position(place),
            Self::Kept => kept(group, document) + &position(place),
            Self::IdInUse(holder) => id_in_use(group, holder),
            Self::Occupied(holder) => occupied(group, holder),
            Self::NotHeld(tag) => format!(
                "attempt {tag} holds no place in group \"{group}\" (any more): its lease ran out, or an operator freed it; \
                 do not reboot, ask for the lock again"
            ),
        }
    }
}

fn full(group: &GroupName, document: &Document) -> String {
    let max = document.max();
    let holders = document.holders();
    if holders.is_empty() {
        return format!("group \"{group}\" lets no host reboot: its max is {max}");
    }
    let mut text = format!("group \"{group}\" is full: {} of {max} places taken, by ", holders.len());
    for (index, holder) in holders.iter().take(NAMED).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let _ = write!(text, "{comma}{}", describe(holder));
    }
    if let Some(more) = holders.len().checked_sub(NAMED).filter(|more| *more > 0) {
        let _ = write!(text, " and {more} more");
    }
    text
}

fn kept(group: &GroupName, document: &Document) -> String {
    let free = document.free();
    let places = if free == 1 { "place is" } else { "places are" };
    format!("group \"{group}\": {free} {places} free but kept for hosts that have waited longer")
}

fn position(place: Option<Place>) -> String {
    place.map_or_else(String::new, |place| {
        format!("; you are number {} in the queue, waiting since {}", place.number, place.since)
    })
}

fn id_in_use(group: &GroupName, holder: &Holder) -> String {
    let id = &holder.id;
    let unlock = unlock(group, id);
    if let Some(by) = &holder.by {
        return format!(
            "{by} holds the place of {id} in group \"{group}\" since {}: it may not reboot until an operator ends that with: \
             {unlock}",
            holder.since
        );
    }
    let whose = match holder.tag() {
        Some(tag) => format!("under another attempt ({tag})"),
        None => "without an attempt id".to_owned(),
    };
    format!(
        "{id} already holds a place in group \"{group}\" {whose}, {} since {}: two hosts with one id, or a host that lost \
         its state; if that holder is gone for good, an operator frees it with: {unlock}",
        holder.phase, holder.phase_since
    )
}

fn occupied(group: &GroupName, holder: &Holder) -> String {
    let id = &holder.id;
    if let Some(by) = &holder.by {
        let perhaps = if by.as_str() == UNNAMED { " (which may be yours: it was taken without a name)" } else { "" };
        return format!(
            "{id} is held by {by} in group \"{group}\" since {}{perhaps}; lock another id, or end that hold first with: {}",
            holder.since,
            unlock(group, id)
        );
    }
    let version = holder.facts.version.as_ref().map_or_else(String::new, |version| format!(" for {version}"));
    format!(
        "{id} itself holds a place in group \"{group}\"{version} ({} since {}): wait until it is back, or hold under another id; \
         if it is gone for good, free it with: {}",
        holder.phase,
        holder.phase_since,
        unlock(group, id)
    )
}

/// The command that frees a holder, to be copied.
fn unlock(group: &GroupName, id: &HostId) -> String {
    format!("locksmithctl unlock {} -- {}", group.as_option(), id.in_a_shell())
}

fn describe(holder: &Holder) -> String {
    if let Some(by) = &holder.by {
        return format!("{} (held by {by} since {})", holder.id, holder.since);
    }
    let version = holder.facts.version.as_ref().map_or_else(String::new, |version| format!(", version {version}"));
    format!("{} ({} since {}{version})", holder.id, holder.phase, holder.phase_since)
}
