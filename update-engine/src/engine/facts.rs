//! What the world says, gathered by the daemon: at start, before every check, and after every write to the boot table.
//!
//! Facts are never journalled: after a restart they are looked up again, and where they differ from the journal they win.

use std::collections::BTreeMap;

use manifests::digest::Sha256Digest;
use manifests::release::SlotName;
use manifests::version::Sequence;
use serde::{Deserialize, Serialize};

use crate::boot::{Past, Standing, Weakness};
use crate::engine::cause::Cause;
use crate::engine::event::Fault;
use crate::engine::time::{BootId, Mono};

/// Who this host is, towards servers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Identity {
    /// Machine id.
    pub id: String,
    /// Free name given by a person.
    pub alias: String,
    /// Product: the Omaha app id.
    pub app_id: String,
    /// Channel followed.
    pub channel: String,
    /// Board.
    pub board: String,
    /// `uname -m`.
    pub arch: String,
}

/// Two values, one for each slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PerSlot<T> {
    /// Of slot `a`.
    pub a: T,
    /// Of slot `b`.
    pub b: T,
}

impl<T> PerSlot<T> {
    /// Of that slot.
    pub const fn get(&self, slot: SlotName) -> &T {
        match slot {
            SlotName::A => &self.a,
            SlotName::B => &self.b,
        }
    }

    /// Of that slot, to change.
    pub const fn get_mut(&mut self, slot: SlotName) -> &mut T {
        match slot {
            SlotName::A => &mut self.a,
            SlotName::B => &mut self.b,
        }
    }
}

/// The boot table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootTable {
    /// How both slots stand. On a factory disk, where nothing is marked, the slot that the loader takes counts as good.
    pub standing: PerSlot<Standing>,
    /// The slot the loader chooses next.
    pub next: SlotName,
    /// What was ever marked in it.
    pub past: Past,
    /// Tries a freshly armed slot has.
    pub tries: u8,
    /// What is wrong with how it is stored, though it can be read.
    pub weakness: Option<Weakness>,
}

/// What is in a slot, as far as its record or its own files tell.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Content {
    /// Label.
    pub version: Option<String>,
    /// Place on the line of releases; only a verified record tells it.
    pub sequence: Option<Sequence>,
    /// Release; only a verified record tells it.
    pub digest: Option<Sha256Digest>,
}

/// The floor, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Floor {
    /// Nothing below it is installed, whoever asks.
    pub floor: Sequence,
    /// Highest sequence ever committed: below it only by an explicit `--allow-older`.
    pub highest: Sequence,
}

/// What is known about the floor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FloorFacts {
    /// Read from the state folder and the running image; the higher of each.
    Known(Floor),
    /// Nothing in the state folder, and the boot table shows that this host has been updated before: the state was lost.
    Lost {
        /// The running image's own floor.
        image: Sequence,
    },
}

/// Something about the host that forbids every update until a person mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Why.
    pub code: Cause,
    /// What, where, expected, got, and what to do.
    pub message: String,
}

/// Everything the engine knows of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `true` for a disk image file (tests, building images), `false` for a host's own disk.
    pub image_mode: bool,
    /// Who this host is.
    pub identity: Identity,
    /// Kernel's boot id.
    pub boot_id: BootId,
    /// The slot that runs; `None` = not known, and then nothing is written or marked.
    pub running: Option<SlotName>,
    /// The boot table; `None` = not readable.
    pub boot: Option<BootTable>,
    /// What the slots hold.
    pub slots: PerSlot<Content>,
    /// Images a release must consist of, and how many bytes of them the *inactive* slot takes.
    pub capacity: BTreeMap<String, u64>,
    /// Floor.
    pub floor: FloorFacts,
    /// A trial that was left because its deadline had passed, by the program that keeps it.
    pub left: Option<LeftTrial>,
    /// What the kernel of a slot that was given up said last.
    pub last_words: Option<LastWords>,
    /// Another program may mark slots good whatever their health is: which, and what to do about it.
    pub rival: Option<String>,
    /// Nothing but the daemon ends a trial: why, and what to do about it.
    pub no_deadline: Option<String>,
    /// When the slot that runs is left by the program that keeps the deadline of a trial, unless it is good by then; `None` = nothing of
    /// that slot was written down, that program does not run, or its time is not this machine's.
    pub trial_ends: Option<Mono>,
    /// Reasons not to update, most important first.
    pub troubles: Vec<Trouble>,
}

/// A trial that came to no end by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftTrial {
    /// The attempt.
    pub attempt: String,
    /// Why it was left, in one line.
    pub why: String,
}

/// The line of a kernel's log that tells most of how a trial ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastWords {
    /// The attempt.
    pub attempt: String,
    /// One line, short.
    pub line: String,
}

impl Facts {
    /// It is not known which slot runs, or the boot table cannot be read: nothing is written and nothing is marked.
    pub const fn is_blind(&self) -> bool {
        self.running.is_none() || self.boot.is_none()
    }

    /// The loader has spent a try on a slot that stands so, or it was marked bad while it ran.
    pub fn was_tried(&self, standing: Standing) -> bool {
        let full = self.boot.as_ref().map_or(0, |boot| boot.tries);
        standing.is_out_of_tries() || (standing.is_pending() && standing.tries_left() < full)
    }

    /// The slot runs, and has every try left that it was armed with, which is how many: nobody counted the boot that started it.
    pub fn uncounted_boot(&self, slot: SlotName) -> Option<u8> {
        let full = self.boot.as_ref().map(|boot| boot.tries)?;
        let is_uncounted = self.running == Some(slot) && self.standing(slot) == Some(Standing::Pending { tries_left: full });
        is_uncounted.then_some(full)
    }

    /// The slot that may be written: the one that does not run.
    pub fn target(&self) -> Option<SlotName> {
        self.running.map(SlotName::other)
    }

    /// How a slot stands with the loader, when the table could be read.
    pub fn standing(&self, slot: SlotName) -> Option<Standing> {
        self.boot.as_ref().map(|boot| *boot.standing.get(slot))
    }

    /// Why the slot that runs is neither kept nor updated from, if nothing but a person's hand can have started it: it is not good, the
    /// loader was not told to try it, and would start the other one. What was marked bad was armed once: as long as its record is
    /// known, and not below the floor, it may still show that it is healthy.
    pub fn started_by_hand(&self) -> Option<Fault> {
        let running = self.running?;
        let (standing, other) = (self.standing(running)?, self.standing(running.other())?);
        // Where nothing is marked, the loader may start any slot.
        let nothing_is_marked = self.boot.as_ref()?.past == Past::NothingMarked;
        if !other.is_bootable() || nothing_is_marked {
            return None;
        }
        let why = match standing {
            Standing::Good | Standing::Pending { .. } | Standing::Spent => return None,
            Standing::Bad => self.why_no_second_trial(running)?,
            Standing::Blank => "it was disarmed, or never armed".to_owned(),
        };
        let other = running.other();
        let next = match self.boot.as_ref().and_then(|boot| boot.weakness.as_ref()) {
            None => format!("the next boot starts slot {other}; from there"),
            // What is wrong there may be why it runs.
            Some(weakness) => format!("which slot the next boot starts is not certain ({weakness}). From slot {other}"),
        };
        let message = format!(
            "slot {running} runs, and the boot table did not ask for it ({why}): it is not kept, nothing is updated from it, and {next} \
             `updatectl install RELEASE PAYLOAD` brings what is wanted"
        );
        Some(Fault::new(Cause::RunningSlot, message))
    }

    fn why_no_second_trial(&self, slot: SlotName) -> Option<String> {
        match (self.slots.get(slot).sequence, &self.floor) {
            (None, _) => Some(
                "it was marked bad, and no record says what it holds: `updatectl adopt RELEASE` names it, then its health decides"
                    .to_owned(),
            ),
            (Some(_), FloorFacts::Lost { .. }) => {
                Some("it was marked bad, and the lowest release this host may run is not known: `updatectl adopt RELEASE`".to_owned())
            }
            (Some(sequence), FloorFacts::Known(floor)) if sequence < floor.floor => {
                Some(format!("it was marked bad, and its sequence {sequence} is below the floor {} of this host", floor.floor))
            }
            (Some(_), FloorFacts::Known(_)) => None,
        }
    }

    /// The state folder lies on a slot, or is another one than that of the journal: what is there is not its state, and nothing is written to it.
    pub fn state_is_elsewhere(&self) -> Option<&Trouble> {
        self.troubles.iter().find(|trouble| trouble.code == Cause::StateDir)
    }

    /// What runs.
    pub fn running_content(&self) -> Content {
        self.running.map(|slot| self.slots.get(slot).clone()).unwrap_or_default()
    }
}
