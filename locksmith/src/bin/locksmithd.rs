//! The lock service of a fleet.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use locksmith::names::GroupName;
use locksmith::semaphore::Max;
use locksmith::server::{Ensured, Server, Settings, Tokens};
use locksmith::store::sqlite::{OpenError, SqliteStore};
use locksmith::store::{Groups, Store, StoreError};
use rusqlite::ErrorCode;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

const LONG_ABOUT: &str = "\
The lock service of a fleet: no more hosts of a group reboot at once than its maximum allows.

Hosts ask over HTTP in the FleetLock protocol (update-engined, zincati); operators look and act with locksmithctl. What was \
granted lies in an SQLite file in the data folder and survives a restart or a power cut of this machine. On its first start \
it makes the group \"default\" with a maximum of 1; other groups are made with --group or with locksmithctl.";

const EXAMPLES: &str = "\
Examples:
  locksmithd --data /var/lib/locksmith
      for hosts and operators on this machine (http://127.0.0.1:8085)

  locksmithd --data /var/lib/locksmith --listen 0.0.0.0:8085 --token-file /etc/locksmith/tokens --group web=3 --group db=1
      for a fleet; the file has lines like \"admin TOKEN\" (for operators) and \"host TOKEN\" (for hosts)

  locksmithd --data /tmp/try --listen 127.0.0.1:0
      on any free port; its address is the first line printed

Messages go to standard error; RUST_LOG=debug says more. SIGTERM and SIGINT stop it after the answers under way.";

/// Arguments of locksmithd.
#[derive(Debug, Parser)]
#[command(name = "locksmithd", version, about = "The lock service of a fleet", long_about = LONG_ABOUT, after_help = EXAMPLES)]
struct Args {
    /// Folder for the database; made if missing. One locksmithd per folder
    #[arg(long, value_name = "DIR", required_unless_present = "etcd")]
    data: Option<PathBuf>,

    /// Named in the interfaces; answered by name
    #[arg(long, value_name = "URLS", hide = true, num_args = 0..=1)]
    etcd: Option<Option<String>>,

    /// Address and port to listen on; port 0 takes a free one. Beyond loopback it needs --token-file or --insecure
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8085")]
    listen: SocketAddr,

    /// Make this group unless it exists; a group that exists keeps its maximum (change it with locksmithctl set-max). May
    /// be repeated
    #[arg(long = "group", value_name = "NAME=MAX", value_parser = group_and_max)]
    groups: Vec<(GroupName, Max)>,

    /// File with a "ROLE TOKEN" per line, ROLE being admin or host; then every request needs a token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Listen beyond loopback without tokens: whoever reaches the port may lock, free and change everything
    #[arg(long)]
    insecure: bool,

    /// How long a host that prepares its reboot may be silent before its place is given away. A host that is rebooting is
    /// never freed by time
    #[arg(long = "lease", value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    lease_s: u64,
}

const MAKE_ROOM: &str = "the disk is full: make room on it first; nothing was lost";
const WRITABLE: &str = "the disk is mounted read-only: mount it for writing, or give a --data folder elsewhere";
const RESTORE: &str =
    "nothing was changed; restore the file from a backup, or give an empty --data folder (then no lock is held any more)";

/// What went wrong, and what to do.
struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help on a closed pipe is nobody's failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    start_log();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, hint, code }) => {
            let mut stderr = io::stderr().lock();
            let _ = writeln!(stderr, "error: {message}");
            if let Some(hint) = hint {
                let _ = writeln!(stderr, "hint: {hint}");
            }
            ExitCode::from(code)
        }
    }
}

fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

fn run(args: &Args) -> Result<(), Failure> {
    let (Some(data), None) = (&args.data, &args.etcd) else {
        return Err(Failure {
            message: "--etcd is not available in this build".to_owned(),
            hint: Some("give --data DIR alone: then what was granted lies in an SQLite file there".to_owned()),
            code: 2,
        });
    };
    let tokens = match &args.token_file {
        Some(file) => Some(Tokens::from_file(file).map_err(|error| failed(error.to_string()))?),
        None => None,
    };
    if tokens.is_none() {
        allow_without_tokens(args)?;
    }
    let store = SqliteStore::open(data).map_err(|error| not_opened(&error))?;
    let settings = Settings { lease: Duration::from_secs(args.lease_s), tokens };
    let runtime = tokio::runtime::Runtime::new().map_err(|error| failed(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(serve(args, store, settings))
}

fn allow_without_tokens(args: &Args) -> Result<(), Failure> {
    if args.listen.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    if args.insecure {
        tracing::warn!(listen = %args.listen, "no tokens: whoever reaches this port may lock, free and change everything");
        return Ok(());
    }
    Err(Failure {
        message: format!(
            "--listen {} is not loopback and there is no --token-file: whoever reaches it could free any lock",
            args.listen
        ),
        hint: Some("give --token-file FILE, or say --insecure if the network itself is trusted".to_owned()),
        code: 2,
    })
}

fn not_opened(error: &OpenError) -> Failure {
    let hint = match error {
        OpenError::InUse { .. } => "stop that one first, or give this one a --data folder of its own",
        OpenError::Newer { .. } => "an older locksmithd must not change what a newer one wrote",
        OpenError::Io { source, .. } => io_hint(source.kind()),
        OpenError::Database { source, .. } => database_hint(source.sqlite_error_code()),
        OpenError::Foreign { .. } => RESTORE,
    };
    Failure { hint: Some(hint.to_owned()), ..failed(error.to_string()) }
}

fn io_hint(kind: io::ErrorKind) -> &'static str {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match kind {
        StorageFull | QuotaExceeded => MAKE_ROOM,
        ReadOnlyFilesystem => WRITABLE,
        NotADirectory => "--data takes a folder, and there is a file of that name on the way to it",
        IsADirectory => "there is a folder where one of locksmithd's own files belongs; --data takes a folder of its own",
        NotFound => "the folder is made, but not the one it lies in: make that first",
        _ => "this user must be able to write there",
    }
}

fn database_hint(code: Option<ErrorCode>) -> &'static str {
    match code {
        Some(ErrorCode::DiskFull) => MAKE_ROOM,
        Some(ErrorCode::ReadOnly) => WRITABLE,
        Some(ErrorCode::SystemIoFailure) => "the disk is full or failing: the kernel's log says more; nothing was changed",
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => "this user must be able to read and write it",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another program has it open: close that first",
        _ => RESTORE,
    }
}

async fn serve(args: &Args, store: SqliteStore, settings: Settings) -> Result<(), Failure> {
    let listener = TcpListener::bind(args.listen).await.map_err(|error| Failure {
        hint: Some("another program may use the port; --listen takes another one".to_owned()),
        ..failed(format!("cannot listen on {}: {error}", args.listen))
    })?;
    let address = listener.local_addr().map_err(|error| failed(format!("cannot listen: {error}")))?;
    let store_failed = |error: StoreError| failed(error.to_string());
    let first_start = store.groups().await.map_err(store_failed)? == Groups::default();
    let server = Server::start(store, settings).await.map_err(store_failed)?;
    make_groups(args, &server, first_start).await?;
    let stop = stop_signal().map_err(|error| failed(format!("cannot wait for signals: {error}")))?;
    announce(address);
    server.serve(listener, stop).await;
    tracing::info!("stopped");
    Ok(())
}

/// Makes the groups that are asked for; on the first start `default` before all others, so that a start which fails half-way is a first
/// one again.
async fn make_groups<S: Store>(args: &Args, server: &Server<S>, first_start: bool) -> Result<(), Failure> {
    let default = GroupName::parse("default").map_err(|error| failed(error.to_string()))?;
    if first_start && args.groups.iter().all(|(name, _)| *name != default) {
        make_group(server, &default, Max::new(1).map_err(|error| failed(error.to_string()))?).await?;
    }
    let (first, others): (Vec<_>, Vec<_>) = args.groups.iter().partition(|(name, _)| *name == default);
    for (name, max) in first.into_iter().chain(others) {
        make_group(server, name, *max).await?;
    }
    Ok(())
}

/// What is one group's trouble is not the others': their hosts need the service.
async fn make_group<S: Store>(server: &Server<S>, name: &GroupName, max: Max) -> Result<(), Failure> {
    match server.ensure_group(name, max).await {
        Ok(Ensured::Created) => tracing::info!(group = %name, %max, "group made"),
        Ok(Ensured::Exists(found)) if found == max => {}
        Ok(Ensured::Exists(found)) => tracing::warn!(
            group = %name, max = %found, asked = %max,
            "the group exists with another max, which it keeps; change it with: locksmithctl set-max {max} {}",
            name.as_option()
        ),
        Ok(Ensured::TooMany) => tracing::error!(group = %name, "the group is not made: the store has as many as it takes"),
        // The group's own task says what is wrong with it.
        Err(StoreError::Document { .. }) => {
            tracing::warn!(group = %name, "the group cannot be used, so its --group is left aside; the others are served");
        }
        Err(error @ StoreError::UnreadableNames { .. }) => tracing::error!(group = %name, "the group is not made: {error}"),
        Err(error @ StoreError::Unavailable { .. }) => return Err(failed(error.to_string())),
    }
    Ok(())
}

/// The first line of standard output, for whoever started us with port 0.
fn announce(address: SocketAddr) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "listening on http://{address}").and_then(|()| stdout.flush());
    tracing::info!(%address, "listening");
}

fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    })
}

fn group_and_max(text: &str) -> Result<(GroupName, Max), String> {
    let (name, max) = text.split_once('=').ok_or("expected NAME=MAX, for example web=3")?;
    let name = GroupName::parse(name).map_err(|error| error.to_string())?;
    let number = max.parse().map_err(|_| format!("max {max:?}: expected a number from 0 to 1000"))?;
    let max = Max::new(number).map_err(|error| error.to_string())?;
    Ok((name, max))
}

fn failed(message: String) -> Failure {
    Failure { message, hint: None, code: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_takes_nothing_is_no_reason_to_restore_a_backup() {
        let open = |code| {
            let source = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            not_opened(&OpenError::Database { file: "db".into(), source }).hint.unwrap()
        };
        assert_eq!(open(rusqlite::ffi::SQLITE_FULL), MAKE_ROOM);
        assert_eq!(open(rusqlite::ffi::SQLITE_READONLY), WRITABLE);
        assert_eq!(open(rusqlite::ffi::SQLITE_NOTADB), RESTORE);
        assert_eq!(open(rusqlite::ffi::SQLITE_CORRUPT), RESTORE);
        let io = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            not_opened(&OpenError::Io { dir: "data".into(), what: "cannot make it", source }).hint.unwrap()
        };
        let (enospc, erofs, eacces) = (28, 30, 13);
        assert_eq!((io(enospc).as_str(), io(erofs).as_str()), (MAKE_ROOM, WRITABLE));
        assert_eq!(io(eacces), "this user must be able to write there");
    }
}
