//! Power cuts, exactly: two whole updates are recorded write by write, and every disk that a cut at any moment could have left is rebuilt
//! and looked at.

pub mod campaign;
pub mod check;
pub mod control;
pub mod cut;
pub mod disk;
pub mod fat;
pub mod lengths;
pub mod loader;
pub mod log;
pub mod recording;
pub mod sparse;
pub mod state;
