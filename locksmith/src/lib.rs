#![doc = include_str!("../README.md")]

pub mod names;
pub mod semaphore;
pub mod store;
