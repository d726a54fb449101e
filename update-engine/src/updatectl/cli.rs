//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::DEFAULT_PATH;

const EXAMPLES: &str = "\
Examples:
  updatectl status                  what this host does, why, what comes next and when
  updatectl status --watch          the same, redrawn as it changes
  updatectl update                  look for an update, install it, and follow it
  updatectl update --no-reboot      the same, but stop once the other slot is proven
  updatectl why                     what stands between this host and its reboot
  updatectl history --kernel-log    what the kernel of the slot that was given up last has said
  updatectl pause --until 06:00 --reason \"release night\"
  updatectl install ./1.1.0.release ./1.1.0.payload
  updatectl status --json | jq .state

Exit codes:
  0 done · 1 the command failed · 2 bad usage · 40 the daemon is not reachable
  status --exit-code: 0 current · 10 an update is under way · 20 held (paused, gate, server)
                      30 needs attention (failed, rolled back, stale, no key, broken slot)

Reading is for everyone; what changes something is for root.";

/// Shows and steers the updates of this host.
#[derive(Debug, Parser)]
#[command(name = "updatectl", version, after_help = EXAMPLES, max_term_width = 110)]
pub(super) struct Cli {
    /// Configuration that names the daemon's socket.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(super) config: PathBuf,

    /// The daemon's socket, whatever the configuration says.
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,

    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    #[command(flatten)]
    Show(Show),
    #[command(flatten)]
    Act(Act),
}

/// Verbs that show something.
#[derive(Debug, Subcommand)]
pub(super) enum Show {
    /// What this host does, why, what comes next and when.
    Status {
        /// The whole document, for programs.
        #[arg(long)]
        json: bool,
        /// Follow it: redrawn on a terminal, a line for each change otherwise.
        #[arg(long)]
        watch: bool,
        /// Say it by the exit code, too: 0 current, 10 under way, 20 held, 30 needs attention.
        #[arg(long, conflicts_with = "watch")]
        exit_code: bool,
    },
    /// Both slots.
    Slots {
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// What was tried, newest first.
    History {
        /// The kernel's log instead, as the slot that was given up last left it.
        #[arg(long)]
        kernel_log: bool,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// What stands between this host and its reboot, gate by gate.
    Why {
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// The daemon's effective configuration, without credentials.
    Config {
        /// Check the files instead, without the daemon, and show what they come to.
        #[arg(long, conflicts_with = "default")]
        check: bool,
        /// Show the commented default configuration instead.
        #[arg(long)]
        default: bool,
    },
    /// Show the channel, or follow another one from now on.
    Channel {
        /// Its name.
        name: Option<String>,
    },
    /// Show how fast payloads may be downloaded, or change it.
    #[command(
        after_help = "It holds at once, also for a download under way, until the daemon starts anew, by a reboot at the latest.\n\
                            [fetch] max_rate in the configuration lasts."
    )]
    Limit {
        /// "500 KiB/s", "2 MiB/s", "10 Mbit/s", none (as fast as it goes), or default (as the configuration says).
        #[arg(num_args = 0..=2)]
        rate: Vec<String>,
        /// When it ends by itself: 2h, 06:00, "2026-11-22 06:00" or 2026-11-22T06:00:00Z.
        #[arg(long, value_name = "T", requires = "rate")]
        until: Option<String>,
    },
}

/// Verbs that ask for something.
#[derive(Debug, Subcommand)]
pub(super) enum Act {
    /// Ask the server now.
    Check {
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Look for an update, install it, and do what the reboot strategy says.
    #[command(after_help = "A release that was rolled back on this host is not tried again unless its VERSION is named.")]
    Update {
        /// Only this version, even if it was rolled back here before.
        version: Option<String>,
        #[command(flatten)]
        install: InstallArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Take the reboot lock, switch to the proven slot and reboot now.
    #[command(after_help = "Windows are not waited for; the lock and inhibitors are, unless --force is given.")]
    Reboot {
        /// Do not ask for the lock nor heed inhibitors. Recorded in the history.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Boot the other slot next, if it holds an image that was committed before.
    #[command(after_help = "The release that is left is not installed again by itself; `updatectl update VERSION` does.")]
    Rollback {
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Mark the running slot good now.
    Confirm {
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Start nothing and reboot nothing until resumed.
    Pause {
        /// When it ends by itself: 2h, 06:00, "2026-11-22 06:00" or 2026-11-22T06:00:00Z.
        #[arg(long, value_name = "T")]
        until: Option<String>,
        /// Why, for whoever looks later.
        #[arg(long, value_name = "R")]
        reason: Option<String>,
    },
    /// End a pause.
    Resume,
    /// Give up the update under way.
    Cancel,
    /// Read the slots back and compare them with their records.
    Verify {
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Install from files or URLs, without asking a server; the same checks.
    Install {
        /// The release record: a file or URL.
        release: String,
        /// Its full payload: a file or URL. With --delta it may be left out; beside a delta it makes what the delta cannot.
        #[arg(required_unless_present = "delta")]
        payload: Option<String>,
        /// A delta from the release that runs: a file or URL.
        #[arg(long, value_name = "PAYLOAD")]
        delta: Option<String>,
        #[command(flatten)]
        install: InstallArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Name the record of a slot that was written in a factory, after reading the slot back.
    Adopt {
        /// The release record.
        release: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

#[derive(Debug, Args)]
pub(super) struct InstallArgs {
    /// Permit a release older than the newest one committed here (never below the floor). Recorded in the history.
    #[arg(long)]
    pub(super) allow_older: bool,
    /// Stop once the other slot is proven.
    #[arg(long)]
    pub(super) no_reboot: bool,
}

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// Return as soon as the daemon has taken it up.
    #[arg(long)]
    no_wait: bool,
}

/// Whether the daemon's work is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Following {
    ToItsRest,
    Not,
}

impl Act {
    /// What takes its time is followed, unless the person does not want to wait.
    pub(super) fn following(&self) -> Following {
        match self {
            Self::Check { wait }
            | Self::Update { wait, .. }
            | Self::Reboot { wait, .. }
            | Self::Rollback { wait }
            | Self::Confirm { wait }
            | Self::Verify { wait }
            | Self::Install { wait, .. }
            | Self::Adopt { wait, .. }
                if !wait.no_wait =>
            {
                Following::ToItsRest
            }
            _ => Following::Not,
        }
    }
}
