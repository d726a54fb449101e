//! Whole-system tests, and what they need.

pub mod cuts;
pub mod hostsim;
pub mod locksmith;
pub mod rig;
pub mod vm;
