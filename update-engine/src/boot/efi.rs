//! Boot control through the firmware's own boot entries.
//!
//! Each slot has an entry (`Boot0003` …), made by whoever installed the host and known by its description. The firmware starts the entry
//! that `BootNext` names, after it removed `BootNext`; without one it walks `BootOrder`. Layouts: [`variables`].
//!
//! **Who counts the tries**: the firmware, by removing `BootNext` before it starts anything: a slot on trial gets one boot. One that does
//! not come up, or whose boot ends in a power cut, is followed by the first of `BootOrder`, which is the slot that ran before. A slot that
//! is good stands in `BootOrder` and is not counted.
//!
//! **What each fact is told by**: what is started, by `BootNext` and `BootOrder` alone. What those cannot tell (armed and tried, bad, ever
//! armed) stands in one variable of ours, `OtaSlots`: a mark for each slot, and which slot is *open*, which is one whose `BootNext` is
//! about to be set or removed.
//!
//! | `BootNext` names it | open | mark | in `BootOrder` | it stands as |
//! |---|---|---|---|---|
//! | yes | yes, or mark *armed* | | | pending, 1 try left |
//! | no | yes, and it runs | | | spent: the change that armed it was cut short after `BootNext` |
//! | no | | armed | | spent: it was tried |
//! | | no, or not running | good | yes | good |
//! | | no, or not running | good | no | blank: the firmware never chooses it (disarming it was cut short, or somebody took it out) |
//! | | no, or not running | bad | | bad |
//! | | no, or not running | none | | blank |
//!
//! Where somebody else set `BootNext`, it says which slot is next, and nothing of how that slot stands.
//!
//! **What is atomic, in which order**: one variable is written by one call of the firmware, which on flash with fault tolerant writes is
//! whole or not at all; each is read back. Several cannot be written at once, so each verb is a few writes, and after a power cut between
//! any two of them the state reads as follows (*before* and *after* mean: as before, as after the verb).
//!
//! | verb | writes in order | reads after each |
//! |---|---|---|
//! | arm b | 1. `BootOrder`: a first · 2. ours: open b, ever armed · 3. `BootNext` = b · 4. ours: b armed | before (a is next from now on) · before · after · after |
//! | mark good b | 1. `BootOrder`: b first · 2. ours: b good | b spent, and next: its trial goes on · after |
//! | mark bad b | 1. ours: b bad · 2. `BootOrder`: a first, without b | b bad, and next again if it was · after |
//! | disarm b | 1. `BootOrder`: a first, without b · 2. ours: b unmarked | before, or after if b was good · after |
//! | disarm b, armed | 1. `BootOrder` · 2. ours: open b, unmarked · 3. no `BootNext` · 4. ours: not open | before · before · after · after |
//!
//! That a slot was ever armed is said from the first write of ours on. One case is told wrongly, on the safe side: a power cut between 3
//! and 4 of *arm*, and then a boot of b that fails, leave b as it stood before it was armed, so that it gets one more try.
//!
//! A variable of ours that is damaged has a wrong checksum and is an error, never a host on which nothing is marked. A foreign entry
//! that stands before those of the slots in `BootOrder` is said as a weakness; each change puts the slot to start first, and the others
//! keep their order.
//!
//! **Never**: writes or removes a `Boot####`, touches any variable but `BootOrder`, `BootNext` and our own, or writes what is there
//! already, because the memory of the firmware wears out: only the self-test rewrites the variable that is ours.

mod control;
mod efivarfs;
mod nvram;
pub mod variables;

pub(crate) use control::EfiBoot;
