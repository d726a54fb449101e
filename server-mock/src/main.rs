//! `server-mock`: the scripted server as a program.

use std::error::Error as _;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use server_mock::{Mock, Script};

/// A scripted Omaha and file server that misbehaves on command.
///
/// The script's schema is in the crate's README. While it runs: GET /_recorded shows the requests as JSON, DELETE /_recorded
/// forgets them, PUT /_script starts over with another script (which may name files anywhere if ADDR is a loopback address, else only
/// below the files_dir of the first script). These are for programs that ask by address: a request with an Origin, or with a name other
/// than localhost as its Host, may come from a web page and is refused.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The script, in TOML
    #[arg(long, value_name = "FILE")]
    script: PathBuf,
    /// The address to listen on; with port 0 a free one is taken, and printed as the first line
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// If nobody can hear it, there is nobody to tell.
fn complain(error: &server_mock::Error) {
    let mut words = format!("server-mock: {error}\n");
    let mut cause = error.source();
    while let Some(inner) = cause {
        words += &format!("  because: {inner}\n");
        cause = inner.source();
    }
    words += &error.hint().map_or_else(String::new, |hint| format!("hint: {hint}\n"));
    let _ = std::io::stderr().write_all(words.as_bytes());
}

fn run(arguments: &Arguments) -> Result<(), server_mock::Error> {
    let script = Script::load(&arguments.script)?;
    let folder = arguments.script.parent().unwrap_or(Path::new("."));
    let mock = Mock::start_in(script, arguments.listen, folder.to_owned())?;
    // Whoever started it may have closed the pipe; it serves all the same.
    let _ = writeln!(std::io::stdout(), "listening on {}", mock.url());
    mock.wait();
    Ok(())
}
