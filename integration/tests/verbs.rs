//! Every verb of `updatectl` against the real daemon: exit code, `--json`, and the words a person reads at night.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on has failed")]

#[path = "verbs/acting.rs"]
mod acting;
#[path = "verbs/at_rest.rs"]
mod at_rest;
#[path = "verbs/contract.rs"]
mod contract;
#[path = "verbs/resting.rs"]
mod resting;
#[path = "verbs/rollback.rs"]
mod rollback;
#[path = "attacks/scene.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod scene;
#[path = "verbs/stage.rs"]
mod stage;
#[path = "verbs/state_dir.rs"]
mod state_dir;
#[path = "verbs/unreachable.rs"]
mod unreachable;
#[path = "verbs/verify.rs"]
mod verify;
