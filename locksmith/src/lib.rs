#![doc = include_str!("../README.md")]

pub mod api;
pub mod client;
pub mod fleetlock;
pub mod names;
pub mod semaphore;
pub mod server;
pub mod store;
