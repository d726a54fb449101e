//! The command `updatectl`: what the daemon does, in words, and a way to tell it what to do.
//!
//! Promises: data on stdout, messages on stderr; exit codes as in [`Exit`]; colour and drawing only on a terminal; a closed pipe
//! ends the output and nothing else; whatever a server or a hook has put into a text cannot move the cursor.
//!
//! Never: looks at disks or the journal. Everything it knows it has from the control socket, but for `config --check`, which
//! reads the configuration files the way the daemon would.

mod cli;
mod config;
mod failure;
mod follow;
mod render;
mod terminal;
mod until;
mod watch;
mod words;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::{DEFAULT_PATH, DEFAULT_SOCKET, socket_of};
use crate::control::client::{Client, ClientError};
use crate::engine::command::Command;
use crate::status::json::{Slot, Status, WholeKernelLog};
use cli::{Act, Cli, Following, Show, Verb};
use failure::Failure;
use terminal::Terminal;

pub use render::{history, kernel_log, slots, status, why};
pub use terminal::Style;

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// Done.
    pub const DONE: Self = Self(0);
    /// The command failed.
    pub const FAILED: Self = Self(1);
    /// Bad usage: what `clap` answers, too.
    pub const USAGE: Self = Self(2);
    /// The daemon is not reachable.
    pub const NOT_REACHABLE: Self = Self(40);
    /// Interrupted by the person (128 + SIGINT), as shells expect it.
    pub const INTERRUPTED: Self = Self(130);
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

/// Runs the command with these arguments, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(message) => {
            // Help that cannot be printed has no reader.
            let _closed_pipe = message.print();
            return if message.use_stderr() { Exit::USAGE } else { Exit::DONE };
        }
    };
    let terminal = Terminal::of_this_process();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return terminal.fail(&Failure::new(format!("cannot start: {error}"))),
    };
    match runtime.block_on(perform(cli, &terminal)) {
        Ok(exit) => exit,
        Err(failure) => terminal.fail(&failure),
    }
}

async fn perform(cli: Cli, terminal: &Terminal) -> Result<Exit, Failure> {
    if let Verb::Show(Show::Config { check, default }) = cli.verb
        && (check || default)
    {
        return config::files(&cli.config, check, terminal);
    }
    let client = Client::new(socket(cli.socket, &cli.config)?)?;
    match cli.verb {
        Verb::Show(verb) => show(&client, verb, terminal).await,
        Verb::Act(verb) => act(&client, verb, terminal).await,
    }
}

/// The socket named on the command line, else the one the configuration names.
fn socket(named: Option<PathBuf>, config: &Path) -> Result<PathBuf, Failure> {
    if let Some(socket) = named {
        return Ok(socket);
    }
    match socket_of(config) {
        Ok(socket) => Ok(socket),
        // A host without a configuration, or one that only root may read, most likely has the socket where it belongs.
        Err(_) if config == Path::new(DEFAULT_PATH) => Ok(PathBuf::from(DEFAULT_SOCKET)),
        Err(error) => Err(Failure::new(error.to_string()).hint("name the daemon's socket with --socket PATH")),
    }
}

async fn show(client: &Client, verb: Show, terminal: &Terminal) -> Result<Exit, Failure> {
    match verb {
        Show::Status { json, watch: true, .. } => watch::watch(client, json, terminal).await,
        Show::Status { json, exit_code, .. } => show_status(client, json, exit_code, terminal).await,
        Show::History { json, kernel_log: true } => show_kernel_log(client, json, terminal).await,
        Show::History { json, .. } => show_list(client, "/v1/history", json, render::history, terminal).await,
        Show::Slots { json } => {
            let render = |slots: &[Slot], _, style: &Style| render::slots(slots, style);
            show_list(client, "/v1/slots", json, render, terminal).await
        }
        Show::Why { json } => show_why(client, json, terminal).await,
        Show::Config { .. } => print(&client.config().await?, terminal),
        Show::Channel { name: None } => {
            let status = client.status().await?;
            print(&format!("{}\n", words::printable(&status.host.channel)), terminal)
        }
        Show::Channel { name: Some(name) } => give(client, &Command::Channel { name }, terminal).await,
        Show::Limit { rate, .. } if rate.is_empty() => print(&format!("{}\n", client.status().await?.limit.to_words()), terminal),
        Show::Limit { rate, until } => {
            // "2 MiB/s" without its quotes is two arguments.
            let rate = rate.join(" ");
            let max_rate = if rate == "default" { None } else { Some(rate) };
            give(client, &Command::Limit { max_rate, until: moment(until)? }, terminal).await
        }
    }
}

fn print(text: &str, terminal: &Terminal) -> Result<Exit, Failure> {
    terminal.print(text).map(|()| Exit::DONE)
}

async fn show_status(client: &Client, json: bool, exit_code: bool, terminal: &Terminal) -> Result<Exit, Failure> {
    let document = client.raw("/v1/status").await?;
    let status: Status = typed(client, "/v1/status", document.clone())?;
    let text = if json { pretty(&document) } else { render::status(&status, Timestamp::now(), &terminal.style) };
    let exit = if exit_code { Exit(status.exit_class().code()) } else { Exit::DONE };
    // The exit code is the answer; that nobody reads the words changes nothing about it.
    match terminal.print(&text) {
        Err(failure) if failure != Failure::closed_pipe() => Err(failure),
        _ => Ok(exit),
    }
}

async fn show_list<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    json: bool,
    render: impl Fn(&[T], Timestamp, &Style) -> String,
    terminal: &Terminal,
) -> Result<Exit, Failure> {
    let document = client.raw(path).await?;
    if json {
        return print(&pretty(&document), terminal);
    }
    let entries: Vec<T> = typed(client, path, document)?;
    print(&render(&entries, Timestamp::now(), &terminal.style), terminal)
}

async fn show_kernel_log(client: &Client, json: bool, terminal: &Terminal) -> Result<Exit, Failure> {
    let path = "/v1/kernel-log";
    let document = client.raw(path).await?;
    if json {
        return print(&pretty(&document), terminal);
    }
    let log: Option<WholeKernelLog> = typed(client, path, document)?;
    print(&render::kernel_log(log.as_ref(), &terminal.style), terminal)
}

async fn show_why(client: &Client, json: bool, terminal: &Terminal) -> Result<Exit, Failure> {
    if json {
        return print(&pretty(&client.raw("/v1/why").await?), terminal);
    }
    let (status, chain) = (client.status().await?, client.why().await?);
    print(&render::why(&status.summary, &chain, Timestamp::now(), &terminal.style), terminal)
}

fn typed<T: DeserializeOwned>(client: &Client, path: &str, document: Value) -> Result<T, Failure> {
    serde_json::from_value(document).map_err(|error| {
        let (socket, asked) = (client.socket().to_owned(), path.to_owned());
        Failure::from(ClientError::Unexpected { socket, asked, why: error.to_string() })
    })
}

fn pretty(document: &Value) -> String {
    format!("{document:#}\n")
}

async fn act(client: &Client, verb: Act, terminal: &Terminal) -> Result<Exit, Failure> {
    let following = verb.following();
    let command = command(verb)?;
    match following {
        Following::ToItsRest => follow::follow(client, &command, terminal).await,
        Following::Not => give(client, &command, terminal).await,
    }
}

async fn give(client: &Client, command: &Command, terminal: &Terminal) -> Result<Exit, Failure> {
    let accepted = client.act(command).await?;
    print(&format!("{}\n", words::printable(&accepted.message)), terminal)
}

fn command(verb: Act) -> Result<Command, Failure> {
    Ok(match verb {
        Act::Check { .. } => Command::Check,
        Act::Update { version, install, .. } => {
            Command::Update { version, allow_older: install.allow_older, no_reboot: install.no_reboot }
        }
        Act::Reboot { force, .. } => Command::Reboot { force },
        Act::Rollback { .. } => Command::Rollback,
        Act::Confirm { .. } => Command::Confirm,
        Act::Pause { until, reason } => Command::Pause { until: moment(until)?, reason },
        Act::Resume => Command::Resume,
        Act::Cancel => Command::Cancel,
        Act::Verify { .. } => Command::Verify,
        Act::Install { release, payload, delta, install, .. } => Command::Install {
            release: source(&release)?,
            payload: payload.as_deref().map(source).transpose()?,
            delta: delta.as_deref().map(source).transpose()?,
            allow_older: install.allow_older,
            no_reboot: install.no_reboot,
        },
        Act::Adopt { release, .. } => Command::Adopt { release: file(&release)? },
    })
}

fn moment(until: Option<String>) -> Result<Option<Timestamp>, Failure> {
    let at = until.map(|text| until::parse(&text, &jiff::Zoned::now())).transpose();
    at.map_err(|words| Failure::new(format!("--until: {words}")).usage())
}

/// A URL as it is; a file by its absolute path, because the daemon stands in another folder.
fn source(text: &str) -> Result<String, Failure> {
    if text.starts_with("http://") || text.starts_with("https://") { Ok(text.to_owned()) } else { file(text) }
}

fn file(text: &str) -> Result<String, Failure> {
    let absolute = std::path::absolute(text).map_err(|error| Failure::new(format!("cannot find {text}: {error}")))?;
    match std::fs::metadata(&absolute) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(Failure::new(format!("{}: expected a file, got something else", absolute.display()))),
        Err(error) => return Err(Failure::new(format!("cannot read {}: {error}", absolute.display()))),
    }
    absolute
        .into_os_string()
        .into_string()
        .map_err(|path| Failure::new(format!("{}: expected a path of UTF-8 text", path.to_string_lossy())))
}
