//! Whole-system tests, and what they need.

pub mod hostsim;
pub mod locksmith;
pub mod rig;
pub mod cuts;
pub mod vm;
