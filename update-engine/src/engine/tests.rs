//! Tests of the engine, split by theme. [`host`] is the builder they share; [`world`] is the world of the property test.

mod checks;
mod commands;
mod design;
mod errors;
pub(crate) mod host;
mod killed;
mod lifecycle;
mod property;
mod unseen;
pub(crate) mod words;
mod world;
