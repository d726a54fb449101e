//! The mock, seen from outside: by a client that looks at bytes, by an HTTP library, and as a program.

// The lints know test functions, not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod client;
mod faults;
mod files;
mod library;
mod omaha;
mod program;
mod scripts;
