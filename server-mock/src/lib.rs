//! A scripted update server that can misbehave on command: Omaha answers and files, with every fault a network has.
//!
//! Fault model: the server speaks HTTP/1.1 over its own sockets, because the faults of interest (a reset after the n-th byte, a
//! length that lies, an answer that is not HTTP) are those that an HTTP library exists to prevent. It can refuse, reset, stall,
//! cut, drip, lie about ranges, lengths, tags, sizes and hashes, send noise, redirect, and be gone for a while. It cannot
//! reorder bytes or break TLS (it has none). Before a reset it waits a moment, so the bytes before it usually arrive; a client
//! that reads slowly may lose some of them, as with a real reset.
//!
//! Promises: it has no rules of its own: it answers what the script says, every application that asked, under the id it
//! sent; a script without answers fails loudly; every request is recorded with what was really sent; memory is bounded.
//!
//! ```
//! use server_mock::{Answer, Mock, Script};
//!
//! let mock = Mock::start(Script::default().answer(Answer::held("window", "outside the group's window")))?;
//! assert!(mock.update_url().starts_with("http://127.0.0.1:"));
//! assert!(mock.recorded().is_empty());
//! mock.stop();
//! # Ok::<(), server_mock::Error>(())
//! ```

mod connection;
mod error;
mod files;
mod http;
mod mock;
mod omaha;
mod plan;
mod reach;
mod record;
mod script;
mod send;
mod stage;

pub use error::Error;
pub use mock::Mock;
pub use record::{MAX_RECORDED, MAX_RECORDED_BODY_BYTES, Recorded};
pub use script::{
    Answer, AnswerKind, Break, Fault, FaultKind, MAX_GENERATED_BYTES, MAX_OUTAGE_S, NoUpdate, OfferedPackage, OfferedUpdate,
    Script,
};
