//! Boot control over any store that spells a [`Pair`]: the rules, the verbs, and the read-back, once for all of them.

use std::fmt;

use super::super::{BootControl, BootError, BootState, Permit, Standing, rules};
use super::Pair;
use crate::slot::disk::DiskIdentity;
use crate::slot::{Disk, Proven, RunningSlot, SlotName};

/// How a change treats a store that already is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rewrite {
    /// It is left alone.
    IfDifferent,
    /// It is written all the same, to find out whether it can be.
    Always,
}

/// What a store says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// The facts.
    pub(crate) pair: Pair,
    /// What the loader makes of them, where it counts also the boots of a slot that is good.
    pub(crate) next: Option<SlotName>,
    /// What is wrong with how they are stored.
    pub(crate) weakness: Option<String>,
}

impl From<Pair> for Loaded {
    fn from(pair: Pair) -> Self {
        Self { pair, next: None, weakness: None }
    }
}

impl Loaded {
    fn state(&self) -> BootState {
        let state = self.pair.state(self.weakness.clone());
        match &self.next {
            Some(next) => BootState { next: next.clone(), ..state },
            None => state,
        }
    }
}

/// Where a loader's facts of two slots are kept.
///
/// It promises that after a power cut at any moment of a change the store reads as before it or as after it (P1).
pub(crate) trait PairStore: Send + fmt::Debug {
    /// As in `[boot] control`.
    fn kind(&self) -> &'static str;

    /// Reads the store, from the medium.
    fn load(&self) -> Result<Loaded, BootError>;

    /// One change: decided from the store as it is while nobody else changes it, written in one ordered write, flushed. The verbs read
    /// it back.
    fn edit(&self, rewrite: Rewrite, decide: &mut dyn FnMut(&Loaded) -> Result<Pair, BootError>) -> Result<Pair, BootError>;

    /// Whether the loader uses this store at all, as far as that can be told from here.
    fn check_loader(&self) -> Result<(), BootError>;
}

/// Boot control through a [`PairStore`].
#[derive(Debug)]
pub(crate) struct PairControl<S> {
    store: S,
    identity: DiskIdentity,
}

impl<S: PairStore> PairControl<S> {
    /// Boot control of this disk's slots. Reads nothing yet.
    pub(crate) fn new(disk: &Disk, store: S) -> Self {
        Self { store, identity: disk.identity().clone() }
    }

    fn running<'a>(&self, running: &'a RunningSlot) -> Result<&'a SlotName, BootError> {
        if running.is_on(&self.identity) {
            return Ok(running.name());
        }
        Err(BootError::Unsuitable(
            "the running slot was found on another disk than the one whose boot state is changed".to_owned(),
        ))
    }

    /// Changes, and reads back what is stored then.
    fn change(
        &self,
        rewrite: Rewrite,
        mut decide: impl FnMut(&Loaded) -> Result<Pair, BootError>,
    ) -> Result<BootState, BootError> {
        let wanted = self.store.edit(rewrite, &mut decide)?;
        let got = self.store.load()?;
        if got.pair == wanted {
            return Ok(got.state());
        }
        Err(BootError::ReadBack { expected: format!("{wanted:?}"), got: format!("{:?}", got.pair) })
    }
}

impl<S: PairStore> BootControl for PairControl<S> {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }

    fn read(&self) -> Result<BootState, BootError> {
        Ok(self.store.load()?.state())
    }

    fn self_test(&mut self) -> Result<BootState, BootError> {
        self.store.check_loader()?;
        self.change(Rewrite::Always, |loaded| Ok(loaded.pair.clone()))
    }

    fn disarm(&mut self, slot: &SlotName, running: &RunningSlot) -> Result<BootState, BootError> {
        let running = self.running(running)?;
        self.change(Rewrite::IfDifferent, |loaded| {
            rules::may_disarm(&loaded.state(), slot, running)?;
            Ok(loaded.pair.clone().disarm(slot, running))
        })
    }

    fn arm(&mut self, proven: Proven, _permit: Permit, running: &RunningSlot) -> Result<BootState, BootError> {
        if !proven.is_on(&self.identity) {
            return Err(BootError::Unsuitable(
                "the slot was proven on another disk than the one whose boot state is changed".to_owned(),
            ));
        }
        let (slot, running) = (proven.slot(), self.running(running)?);
        self.change(Rewrite::IfDifferent, |loaded| {
            rules::may_arm(&loaded.state(), slot, running)?;
            Ok(loaded.pair.clone().arm(slot, running))
        })
    }

    fn mark_good(&mut self, running: &RunningSlot) -> Result<BootState, BootError> {
        let running = self.running(running)?;
        self.change(Rewrite::IfDifferent, |loaded| {
            rules::may_mark_good(&loaded.state(), running)?;
            Ok(loaded.pair.clone().mark_good(running))
        })
    }

    fn mark_bad(&mut self, running: &RunningSlot) -> Result<BootState, BootError> {
        let running = self.running(running)?;
        self.change(Rewrite::IfDifferent, |loaded| {
            rules::may_mark_bad(&loaded.state(), running)?;
            Ok(loaded.pair.clone().mark_bad(running))
        })
    }

    fn renew(&mut self, running: &RunningSlot) -> Result<BootState, BootError> {
        let running = self.running(running)?;
        let is_counted = |loaded: &Loaded| loaded.next.is_some() && loaded.pair.standing(running) == Standing::Good;
        if !is_counted(&self.store.load()?) {
            return self.read();
        }
        self.change(Rewrite::Always, |loaded| Ok(loaded.pair.clone()))
    }
}
