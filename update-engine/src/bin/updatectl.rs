//! The host's command: see `updatectl --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    update_engine::updatectl::run(std::env::args_os()).into()
}
