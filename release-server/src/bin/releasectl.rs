//! `releasectl`: see [`release_server::releasectl`].

use std::process::ExitCode;

fn main() -> ExitCode {
    release_server::releasectl::run(std::env::args_os())
}
