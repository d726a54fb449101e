//! Boot control over any store that spells a [`Pair`]: the rules, the verbs, and the read-back, once for all of them.

use std::fmt;

use super::super::{BootControl, BootError, BootState, Permit, Standing, Weakness, rules};
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
    pub(crate) weakness: Option<Weakness>,
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

    /// Whether the loader may have counted the boot of this running slot, although it is good: as the preferred one, or as the one that it
    /// fell back to.
    fn is_counted(&self, loaded: &Loaded, _running: &SlotName) -> bool {
        loaded.next.is_some()
    }

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
        Err(BootError::ReadBack { expected: wanted.to_string(), got: got.pair.to_string() })
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

    fn mark_bad_unless_good(&mut self, running: &RunningSlot) -> Result<BootState, BootError> {
        let running = self.running(running)?;
        self.change(Rewrite::IfDifferent, |loaded| {
            if loaded.pair.standing(running).is_good() {
                return Ok(loaded.pair.clone());
            }
            rules::may_mark_bad(&loaded.state(), running)?;
            Ok(loaded.pair.clone().mark_bad(running))
        })
    }

    fn renew(&mut self, running: &RunningSlot) -> Result<BootState, BootError> {
        let running = self.running(running)?;
        let loaded = self.store.load()?;
        if loaded.pair.standing(running) != Standing::Good || !self.store.is_counted(&loaded, running) {
            return Ok(loaded.state());
        }
        self.change(Rewrite::Always, |loaded| Ok(loaded.pair.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::boot::Past;
    use crate::boot::gpt::fixture::DiskBuilder;
    use crate::boot::grub::{Block, GrubEnv, Spelling};
    use crate::slot::rig::{Rig, name, proven};

    /// A host whose slots GRUB starts.
    struct Host {
        rig: Rig,
        env: PathBuf,
        spelling: Spelling,
    }

    impl Host {
        fn new(spelling: Spelling) -> Self {
            let rig = Rig::new(&DiskBuilder::new(512), 0);
            let env = rig.folder.path().join("grubenv");
            let host = Self { rig, env, spelling };
            host.put(&[("ota_loader", "1"), ("ORDER", "A B"), ("A_OK", "1"), ("A_TRY", "0")]);
            host
        }

        fn put(&self, variables: &[(&str, &str)]) {
            let mut block = std::fs::read(&self.env).map_or_else(|_| Block::empty(), |bytes| Block::parse(&bytes).unwrap());
            variables.iter().for_each(|(name, value)| block.set(name, value));
            std::fs::write(&self.env, block.to_bytes().unwrap()).unwrap();
        }

        fn control(&self) -> PairControl<GrubEnv> {
            let copy = self.rig.folder.path().join("grubenv.ota");
            let store = GrubEnv::new(self.env.clone(), copy, self.spelling.clone(), ["a", "b"].map(name));
            PairControl::new(&self.rig.disk(), store)
        }

        fn running(&self) -> RunningSlot {
            self.rig.running()
        }

        fn arm_b(&self) -> Result<BootState, BootError> {
            let (disk, running) = (self.rig.disk(), self.running());
            self.control().arm(proven(&disk, &running), Permit::no_lock_configured(), &running)
        }
    }

    fn rauc() -> Spelling {
        Spelling::Rauc { names: ["A".to_owned(), "B".to_owned()] }
    }

    #[test]
    fn rules_r1_r3_r6_and_r8_hold_whatever_the_store() {
        let host = Host::new(Spelling::Ota);
        assert_eq!(host.control().read().unwrap().past, Past::NothingMarked);
        host.control().self_test().unwrap();
        let fenced = host.control().disarm(&name("b"), &host.running()).unwrap();
        assert_eq!((fenced.standing(&name("a")), fenced.next.as_str()), (Some(Standing::Good), "a"));
        let armed = host.arm_b().unwrap();
        assert_eq!((armed.standing(&name("b")), armed.next.as_str()), (Some(Standing::Pending { tries_left: 3 }), "b"));
        assert!(matches!(host.control().mark_good(&host.running()), Err(BootError::Refused { verb: "mark good", .. })));
        assert!(matches!(host.control().disarm(&name("a"), &host.running()), Err(BootError::Refused { verb: "disarm", .. })));

        // The loader starts it.
        host.put(&[("ota_left", "2")]);
        host.rig.boot(1);
        assert!(matches!(host.control().disarm(&name("a"), &host.running()), Err(BootError::Refused { verb: "disarm", .. })));
        let good = host.control().mark_good(&host.running()).unwrap();
        assert_eq!((good.standing(&name("b")), good.next.as_str(), good.past), (Some(Standing::Good), "b", Past::Armed));
        assert_eq!(host.control().mark_good(&host.running()).unwrap(), good, "R7");
    }

    #[test]
    fn a_trial_that_is_marked_bad_leaves_the_old_slot_and_nothing_is_marked_bad_without_one() {
        let host = Host::new(Spelling::Ota);
        assert!(matches!(host.control().mark_bad(&host.running()), Err(BootError::Refused { verb: "mark bad", .. })));
        host.arm_b().unwrap();
        host.put(&[("ota_left", "2")]);
        host.rig.boot(1);
        let bad = host.control().mark_bad(&host.running()).unwrap();
        assert_eq!((bad.standing(&name("b")), bad.next.as_str()), (Some(Standing::Bad), "a"));
    }

    #[test]
    fn what_was_marked_good_meanwhile_is_not_marked_bad_for_being_late() {
        let host = Host::new(Spelling::Ota);
        host.arm_b().unwrap();
        host.put(&[("ota_left", "2")]);
        host.rig.boot(1);
        let late = host.control().mark_bad_unless_good(&host.running()).unwrap();
        assert_eq!((late.standing(&name("b")), late.next.as_str()), (Some(Standing::Bad), "a"));
        let good = host.control().mark_good(&host.running()).unwrap();
        assert_eq!(host.control().mark_bad_unless_good(&host.running()).unwrap(), good);
        assert_eq!(good.standing(&name("b")), Some(Standing::Good));
    }

    #[test]
    fn the_boots_of_a_good_slot_that_a_loader_counts_are_given_back_in_each_boot() {
        let host = Host::new(rauc());
        host.arm_b().unwrap();
        // As RAUC's script does it, in every boot.
        host.put(&[("B_TRY", "1")]);
        host.rig.boot(1);
        host.control().mark_good(&host.running()).unwrap();
        host.put(&[("B_TRY", "1")]);
        assert_eq!(host.control().read().unwrap().next.as_str(), "a", "it would start the other one");
        let renewed = host.control().renew(&host.running()).unwrap();
        assert_eq!((renewed.standing(&name("b")), renewed.next.as_str()), (Some(Standing::Good), "b"));
        let bytes = std::fs::read(&host.env).unwrap();
        host.control().renew(&host.running()).unwrap();
        assert!(std::fs::read(&host.env).unwrap() == bytes);
        // The preferred slot was cut off in a boot, and the other one was counted as what is fallen back to: with both tries taken, the next
        // boot would start neither.
        host.put(&[("B_TRY", "1"), ("A_TRY", "1")]);
        host.rig.boot(0);
        let renewed = host.control().renew(&host.running()).unwrap();
        assert_eq!((renewed.standing(&name("a")), renewed.next.as_str()), (Some(Standing::Good), "b"));
        let text = String::from_utf8_lossy(&std::fs::read(&host.env).unwrap()).into_owned();
        assert!(text.contains("A_TRY=0") && text.contains("B_TRY=0"), "{text}");
        // A slot on trial is given nothing.
        let host = Host::new(rauc());
        host.arm_b().unwrap();
        host.put(&[("B_TRY", "1")]);
        host.rig.boot(1);
        assert_eq!(host.control().renew(&host.running()).unwrap().standing(&name("b")), Some(Standing::Spent));
    }

    #[test]
    fn a_slot_of_another_disk_is_refused() {
        let (host, other) = (Host::new(Spelling::Ota), Host::new(Spelling::Ota));
        let (disk, running) = (other.rig.disk(), other.running());
        for refused in [
            host.control().disarm(&name("b"), &running),
            host.control().mark_good(&running),
            host.control().arm(proven(&disk, &running), Permit::no_lock_configured(), &host.running()),
        ] {
            assert!(refused.unwrap_err().to_string().contains("on another disk"));
        }
    }
}
