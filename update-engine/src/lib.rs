//! The host's side of an update: a pure engine, and the adapters that carry out what it decides.
//!
//! ```text
//!  fetch ─► install (decode, verify) ─► slot::writer ─► slot::readback ─► boot (arm) ─► reboot ─► health ─► boot (mark good)
//!                                └────────────── engine::step says which, when and why ──────────────┘
//!                                     journal keeps it · report tells the server · status tells people
//! ```
//!
//! * [`engine`] owns no clock, no dice and no I/O: `(model, event, now) → (model, effects)`.
//! * The daemon (`daemon`) is the only place that runs effects.
//! * [`deadline`] leaves a slot on trial whose daemon does not; [`kernel_log`] keeps what the kernel of a slot that is left said last.

pub mod boot;
pub mod config;
pub mod control;
pub mod daemon;
pub mod deadline;
pub mod decoder;
pub mod durable;
pub mod engine;
pub mod fetch;
pub mod floor;
pub mod health;
pub mod hooks;
pub mod hours;
pub mod install;
pub mod journal;
pub mod kernel_log;
pub mod log;
pub mod memory;
pub mod os_release;
pub mod records;
pub mod report;
pub mod slot;
pub mod status;
pub mod updatectl;
pub mod world;
