//! Tests of the engine, split by theme. [`host`] is the builder they share; [`world`] is the world of the property test.

mod checks;
mod commands;
mod design;
mod errors;
mod host;
mod killed;
mod lifecycle;
mod property;
mod words;
mod world;
