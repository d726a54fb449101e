//! `config --check` and `config --default`: the files, without the daemon.

use std::path::Path;

use nix::unistd::geteuid;

use super::Exit;
use super::failure::Failure;
use super::terminal::Terminal;
use crate::config::trust::{TrustError, check_trust};
use crate::config::{COMMENTED_DEFAULT, Loaded, load};

pub(super) fn files(config: &Path, check: bool, terminal: &Terminal) -> Result<Exit, Failure> {
    if !check {
        terminal.print(COMMENTED_DEFAULT)?;
        return Ok(Exit::DONE);
    }
    let Loaded { settings, files } = load(config)
        .map_err(|error| Failure::new(error.to_string()).hint("`updatectl config --default` shows every key with its default"))?;
    let targets = settings.trust_targets(&files);
    check_trust(&targets, geteuid().as_raw()).map_err(|errors| untrusted(&errors))?;
    let names: Vec<String> = files.iter().map(|file| format!("# from {}\n", file.display())).collect();
    let text = settings.to_toml().map_err(|error| Failure::new(format!("cannot write the settings down: {error}")))?;
    terminal.print(&format!("{}{text}", names.concat()))?;
    Ok(Exit::DONE)
}

fn untrusted(errors: &[TrustError]) -> Failure {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Failure::new(lines.join("\n")).hint("the daemon refuses what others could change: chown root, chmod go-w")
}
