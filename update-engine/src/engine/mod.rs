//! The pure engine.

pub mod command;
