//! Bad input against the real programs: each attack has its own right outcome (refused with the reason, repaired, resumed, tried
//! again with patience; never silence), the words a person needs at night, and a boot table that did not change.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on has failed")]

#[path = "attacks/clock.rs"]
mod clock;
#[path = "attacks/local.rs"]
mod local;
#[path = "attacks/plain_lock.rs"]
mod plain_lock;
#[path = "attacks/reboots.rs"]
mod reboots;
#[path = "attacks/records.rs"]
mod records;
#[path = "attacks/scene.rs"]
mod scene;
#[path = "attacks/transfers.rs"]
mod transfers;
