//! `releasectl` as a person meets it: whole transcripts of the program, good and bad.

// The helpers here are tests too: an unwrap that fails is a test that fails.
#![allow(clippy::unwrap_used)]

#[path = "releasectl/build.rs"]
mod build;
#[path = "releasectl/delta.rs"]
mod delta;
#[path = "releasectl/desk.rs"]
mod desk;
#[path = "releasectl/explain.rs"]
mod explain;
#[path = "releasectl/folder.rs"]
mod folder;
#[path = "releasectl/inspect.rs"]
mod inspect;
#[path = "releasectl/keys.rs"]
mod keys;
#[path = "releasectl/sign.rs"]
mod sign;
#[path = "releasectl/usage.rs"]
mod usage;
#[path = "releasectl/verify.rs"]
mod verify;
