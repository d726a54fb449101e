//! Keeps the deadline of a trial, whatever becomes of the daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use update_engine::config::DEFAULT_PATH;
use update_engine::deadline::{Ended, Places, Watch, watch};

/// Leaves a new image that is not kept in time.
///
/// Started at every boot beside update-engined, and apart from it. Where the running slot is on trial and is not good when its deadline
/// has passed, it is marked bad and the host rebooted into the other one. In a slot that is good it ends at once.
///
/// What is on trial stands in the state folder. Where that cannot be read, the boot table and the image's own configuration say it.
///
/// Exit codes: 0 nothing to do, kept, or left; 1 it could not do its work (starting it again may help); 3 the slot is overdue and there is
/// no way back.
#[derive(Parser)]
#[command(version, about, long_about)]
struct Arguments {
    /// The state folder of update-engined.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/update-engine")]
    state_dir: PathBuf,
    /// Configuration of update-engined, for an image that does not see its state folder.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    update_engine::log::start();
    let places = Places { state_dir: arguments.state_dir, config: arguments.config };
    match watch(&places, Watch::default()) {
        Ok(Ended::NothingOnTrial) => tracing::info!("nothing is on trial here"),
        Ok(Ended::Kept(trial)) => tracing::info!("slot {} ({}) was kept", trial.slot, trial.version),
        Ok(Ended::Left(left)) => tracing::info!("the slot is left (attempt {}): the host reboots", left.attempt),
        Ok(Ended::Stays { trial, why }) => {
            tracing::error!("slot {} ({}) was not kept in time, and the host stays in it: {why}", trial.slot, trial.version);
            return ExitCode::from(3);
        }
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
