//! The daemon of a host.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use update_engine::config::{self, DEFAULT_PATH};
use update_engine::daemon::{self, Ended};
use update_engine::{decoder, memory};

/// Keeps this host up to date: asks the update server, writes signed images to the inactive slot, proves them, takes the reboot
/// lock, flips, reboots, checks health, and commits or goes back.
///
/// Look at it with `updatectl status`. It logs to standard error; `RUST_LOG=debug` says more.
#[derive(Parser)]
#[command(version, about, long_about)]
struct Arguments {
    /// Configuration; `config.d/*.toml` beside it is merged over it.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
}

fn main() -> ExitCode {
    memory::give_back();
    if std::env::args_os().nth(1).is_some_and(|argument| argument == decoder::ARGUMENT) {
        return decoder::run();
    }
    let arguments = Arguments::parse();
    update_engine::log::start();
    let loaded = match config::load(&arguments.config) {
        Ok(loaded) => loaded,
        Err(error) => {
            report(&error);
            tracing::error!(
                "hint: `updatectl config --check --config {}` says the same without starting the daemon",
                arguments.config.display()
            );
            return ExitCode::FAILURE;
        }
    };
    // One thread for the loop and its waiting works; what blocks or computes has threads of its own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().thread_keep_alive(std::time::Duration::from_secs(5)).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            report(&error);
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(daemon::run(loaded)) {
        Ok(Ended::Stopped) => {
            tracing::info!("stopped; what was under way is taken up at the next start");
            ExitCode::SUCCESS
        }
        Ok(Ended::Rebooting) => {
            tracing::info!("the reboot was accepted; ending");
            ExitCode::SUCCESS
        }
        Ok(Ended::Broken(work)) => {
            tracing::error!(
                "{work} panicked (the lines above say where): ending, so that a new start takes up what was under way"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    };
    // Threads in the middle of a write are not waited for: everything here survives being cut off.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    code
}

fn report(error: &dyn std::error::Error) {
    tracing::error!("{error}");
    let mut cause = error.source();
    while let Some(next) = cause {
        tracing::error!("  because: {next}");
        cause = next.source();
    }
}
