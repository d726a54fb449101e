//! Where programs that run by themselves say what they do: standard error, which a service manager keeps.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts the log of a program; `RUST_LOG` says how much of it is wanted. Once for each process.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
