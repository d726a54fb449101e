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

/// One sequence.
fn play(seed: u64, trace: Option<Trace>) {
    let mut world = World::new(seed, trace);
    let turns = TURNS / 2 + world.dice.below(TURNS);
    for _ in 0..turns {
        world.turn();
    }
    world.check_rate();
    world.calm();
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
    let failed = AtomicU64::new(u64::MAX);
    let work = || {
        while failed.load(Ordering::Relaxed) == u64::MAX {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return;
            }
            if catch_unwind(|| play(seed, None)).is_err() {
                failed.fetch_min(seed, Ordering::Relaxed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let seed = failed.into_inner();
    if seed != u64::MAX {
        panic!("OTA_SEED={seed}: {}", replay(seed).unwrap_or_default());
    }
    println!("engine property: {count} sequences, 0 failures");
}
