//! Any sequence of events, faults and commands: what must never happen does not, and when faults stop the host arrives.
//!
//! `OTA_SEED=17 cargo test -p update-engine promise -- --nocapture` replays one sequence and prints it; `OTA_SEQUENCES` runs more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use super::world::{Trace, World};

/// Sequences run by default.
const SEQUENCES: u64 = 20_000;
/// Turns of a sequence before the faults stop.
const TURNS: u64 = 120;

/// One sequence; in how many boots the host was left because nothing was seen from there.
fn play(seed: u64, trace: Option<Trace>) -> u64 {
    let mut world = World::new(seed, trace);
    let turns = TURNS / 2 + world.dice.below(TURNS);
    for _ in 0..turns {
        world.turn();
    }
    world.check_rate();
    world.calm();
    world.left_unseen()
}

/// Plays a sequence aloud; what it panicked with, if it did.
fn replay(seed: u64) -> Option<String> {
    let trace = Trace::default();
    let panic = catch_unwind(AssertUnwindSafe(|| play(seed, Some(trace.clone())))).err();
    println!("seed {seed}:\n  {}", trace.borrow().join("\n  "));
    panic.map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_else(|| format!("{:?}", panic.downcast_ref::<&str>())))
}

#[test]
fn whatever_happens_no_promise_is_broken_and_when_faults_stop_the_host_arrives() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("OTA_SEED") {
        assert_eq!(replay(seed), None, "OTA_SEED={seed}");
        return;
    }
    let count = number("OTA_SEQUENCES").unwrap_or(SEQUENCES);
    let next = AtomicU64::new(0);
    let (failed, left_unseen) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
    let work = || {
        while failed.load(Ordering::Relaxed) == u64::MAX {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return;
            }
            match catch_unwind(|| play(seed, None)) {
                Ok(left) => left_unseen.fetch_add(left, Ordering::Relaxed),
                Err(_) => failed.fetch_min(seed, Ordering::Relaxed),
            };
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let seed = failed.into_inner();
    if seed != u64::MAX {
        panic!("OTA_SEED={seed}: {}", replay(seed).unwrap_or_default());
    }
    let left_unseen = left_unseen.into_inner();
    assert!(count < SEQUENCES || left_unseen > 0, "no host was ever left unseen: the worlds lost that");
    println!("engine property: {count} sequences, 0 failures; left unseen in {left_unseen} boots");
}
