//! The operator's command of the lock service.

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use locksmith::api::{GroupBody, GroupList, HistoryBody, TroubledGroup};
use locksmith::client::{Admin, BaseUrl, Client, Error, Meaning, Options, Token};
use locksmith::names::{GroupName, HostId, MAX_NAME_BYTES, Reason};
use locksmith::semaphore::history::Entry;
use locksmith::semaphore::{MAX_PLACES, Max};
use serde::Serialize;

const LONG_ABOUT: &str = "\
Looks at the reboot locks of a fleet and acts on them, through locksmithd.

A group of hosts has a maximum; as many of its hosts may hold a place, and only a host that holds one reboots for an update. \
A host that is draining (still up, preparing) loses its place when it falls silent; one that is rebooting keeps it until it \
comes back healthy, or until somebody frees it here.";

const EXAMPLES: &str = "\
Examples:
  locksmithctl status                        who holds a place in the only group, or all groups in short
  locksmithctl status web --json             the same for programs
  locksmithctl set-max 3 --group web         let three hosts of web reboot at once
  locksmithctl unlock e0f3745b --reason 'disk dead, ticket 42'
                                             give the place of a host that will not come back to the next
  locksmithctl lock e0f3745b                 hold a place in a host's name, so that nobody else reboots
  locksmithctl history                       who rebooted when, and how it ended

Exit status: 0 done, 1 failed (status and group list: some group cannot be shown), 2 wrong usage.";

/// Arguments of locksmithctl.
#[derive(Debug, Parser)]
#[command(name = "locksmithctl", version, about = "Looks at the reboot locks of a fleet and acts on them", long_about = LONG_ABOUT, after_help = EXAMPLES)]
struct Args {
    /// Where locksmithd is
    #[arg(long, global = true, value_name = "URL", env = "LOCKSMITHCTL_SERVER", default_value = "http://127.0.0.1:8085")]
    server: String,

    /// File with an operator's token, if the server wants one; else $LOCKSMITHCTL_TOKEN
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show who holds a place, since when and how far, and who waits
    Status {
        /// The group; without it the only one, or all in short
        #[arg(value_name = "GROUP", value_parser = GroupName::parse)]
        group: Option<GroupName>,
        /// Print JSON: the group's if one is named, else the list of all groups, however many there are
        #[arg(long)]
        json: bool,
    },
    /// Hold a place in the name of a host; prints nothing when it was taken
    Lock {
        /// The host's id (its machine id)
        #[arg(value_name = "ID", value_parser = HostId::parse)]
        id: HostId,
        #[command(flatten)]
        of: OfGroup,
    },
    /// Free a host's place whatever it is doing; noted in the history
    Unlock {
        /// The holder's id, as status shows it
        #[arg(value_name = "ID", value_parser = HostId::parse)]
        id: HostId,
        #[command(flatten)]
        of: OfGroup,
        /// Why, for the history
        #[arg(long, value_parser = Reason::parse)]
        reason: Option<Reason>,
    },
    /// Change how many hosts may hold a place; fewer than hold one now: nobody is thrown out, nobody new gets in
    SetMax {
        /// The new maximum; 0 lets no host reboot
        #[arg(value_name = "N", value_parser = max)]
        max: Max,
        #[command(flatten)]
        of: OfGroup,
    },
    /// Show what happened, newest first
    History {
        /// The group
        #[arg(value_name = "GROUP", env = "LOCKSMITHCTL_GROUP", default_value = "default", value_parser = GroupName::parse)]
        group: GroupName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make, change and list groups
    #[command(subcommand)]
    Group(GroupVerb),
    /// Named in the interfaces; answered by name
    #[command(hide = true)]
    Pause(Anything),
    /// Named in the interfaces; answered by name
    #[command(hide = true)]
    Resume(Anything),
    /// Named in the interfaces; answered by name
    #[command(hide = true)]
    Forget(Anything),
}

#[derive(Debug, Subcommand)]
enum GroupVerb {
    /// Make a group
    Create {
        /// Its name: letters, digits, '.' and '-'
        #[arg(value_name = "NAME", value_parser = GroupName::parse)]
        name: GroupName,
        /// How many of its hosts may hold a place
        #[arg(long, value_name = "N", default_value = "1", value_parser = max)]
        max: Max,
        #[command(flatten)]
        missing: MissingOfGroup,
    },
    /// Change a group
    Set {
        /// Its name
        #[arg(value_name = "NAME", value_parser = GroupName::parse)]
        name: GroupName,
        /// How many of its hosts may hold a place
        #[arg(long, value_name = "N", value_parser = max, required_unless_present_any = ["parent", "k", "tokens"])]
        max: Option<Max>,
        #[command(flatten)]
        missing: MissingOfGroup,
    },
    /// List all groups
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// The words after a verb that is not there.
#[derive(Debug, clap::Args)]
struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _words: Vec<String>,
}

/// What a group does not have in this build.
#[derive(Debug, clap::Args)]
struct MissingOfGroup {
    /// Named in the interfaces; answered by name
    #[arg(long, hide = true, num_args = 0..=1)]
    parent: Option<Option<String>>,
    /// Named in the interfaces; answered by name
    #[arg(long, hide = true, num_args = 0..=1)]
    k: Option<Option<String>>,
    /// Named in the interfaces; answered by name
    #[arg(long, hide = true, num_args = 0..=1)]
    tokens: Option<Option<String>>,
}

impl MissingOfGroup {
    fn answer(&self) -> Result<(), Failure> {
        let answers = [
            (&self.parent, "--parent", "give each group a --max of its own"),
            (&self.k, "--k", "stop a group whose hosts fail with: locksmithctl set-max 0 --group GROUP"),
            (&self.tokens, "--tokens", "give locksmithd a --token-file; its tokens are good for all groups"),
        ];
        match answers.iter().find(|(given, ..)| given.is_some()) {
            Some((_, option, instead)) => Err(not_in_this_build(option, instead)),
            None => Ok(()),
        }
    }
}

#[derive(Debug, clap::Args)]
struct OfGroup {
    /// The group
    #[arg(long, value_name = "GROUP", env = "LOCKSMITHCTL_GROUP", default_value = "default", value_parser = GroupName::parse)]
    group: GroupName,
}

/// Why a command failed, and what to do.
struct Failure {
    /// What is data all the same, for standard output.
    shown: String,
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
    match run(&args).and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { shown, message, hint, code }) => {
            // Neither is worth hiding the other.
            let _ = print(&shown);
            let mut stderr = io::stderr().lock();
            let _ = writeln!(stderr, "error: {message}");
            if let Some(hint) = hint {
                let _ = writeln!(stderr, "hint: {hint}");
            }
            ExitCode::from(code)
        }
    }
}

fn run(args: &Args) -> Result<String, Failure> {
    let base = BaseUrl::parse(&args.server).map_err(|error| Failure { code: 2, ..failed(error.to_string()) })?;
    let client = client(args, &base)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(format!("cannot start the runtime: {error}")))?;
    let admin = client.admin(&base, operator());
    runtime.block_on(act(&args.verb, &admin))
}

fn client(args: &Args, base: &BaseUrl) -> Result<Client, Failure> {
    let text = match &args.token_file {
        Some(file) => {
            Some(std::fs::read_to_string(file).map_err(|error| failed(format!("token file {}: {error}", file.display())))?)
        }
        None => std::env::var("LOCKSMITHCTL_TOKEN").ok().filter(|text| !text.trim().is_empty()),
    };
    let mut options = Options::default();
    if let Some(text) = text {
        let token = Token::parse(&text).map_err(|error| failed(error.to_string()))?;
        options = options.token(base, token);
    }
    options.build().map_err(|error| failed(error.to_string()))
}

async fn act(verb: &Verb, admin: &Admin<'_>) -> Result<String, Failure> {
    match verb {
        Verb::Status { group, json } => status(admin, group.as_ref(), *json).await,
        Verb::Lock { id, of } => lock(admin, id, &of.group).await,
        Verb::Unlock { id, of, reason } => unlock(admin, id, &of.group, reason.as_ref()).await,
        Verb::SetMax { max, of } => set_max(admin, *max, &of.group).await,
        Verb::Pause(_) => Err(not_in_this_build("pause", "let no more hosts reboot with: locksmithctl set-max 0 --group GROUP")),
        Verb::Resume(_) => Err(not_in_this_build("resume", "let N hosts reboot with: locksmithctl set-max N --group GROUP")),
        Verb::Forget(_) => Err(not_in_this_build("forget", "free a host's place with: locksmithctl unlock --group GROUP -- ID")),
        Verb::History { group, json } => {
            let history = admin.history(group).await.map_err(|error| refused("reading", group, error))?;
            if *json { to_json(&history) } else { Ok(history_text(&history)) }
        }
        Verb::Group(GroupVerb::Create { name, max, missing }) => {
            missing.answer()?;
            let made = admin.create_group(name, *max).await;
            let made = made.map_err(|error| refused("making the group", name, error))?;
            Ok(format!("Group: {}\nMax: {}\n", made.group, made.max))
        }
        Verb::Group(GroupVerb::Set { name, max, missing }) => {
            missing.answer()?;
            let max = max.ok_or_else(|| failed("what to set is missing, expected --max N".to_owned()))?;
            set_max(admin, max, name).await
        }
        Verb::Group(GroupVerb::List { json }) => {
            let list = list(admin).await?;
            show(&list, *json)
        }
    }
}

async fn status(admin: &Admin<'_>, group: Option<&GroupName>, json: bool) -> Result<String, Failure> {
    let group = match group {
        Some(group) => group.clone(),
        None => {
            let list = list(admin).await?;
            match list.groups.as_slice() {
                [only] if list.troubled.is_empty() && list.unreadable == 0 && !json => only.group.clone(),
                _ => return show(&list, json),
            }
        }
    };
    let body = admin.group(&group).await.map_err(|error| refused("reading", &group, error))?;
    if json { to_json(&body) } else { Ok(status_text(&body)) }
}

/// All groups; where one cannot be shown, that is a failure with what can be.
fn show(list: &GroupList, json: bool) -> Result<String, Failure> {
    let shown = if json { to_json(list)? } else { groups_text(list) };
    let how = match list.troubled.first() {
        None if list.unreadable == 0 => return Ok(shown),
        None => "mend the names in locksmithd's database, or restore it from a backup".to_owned(),
        Some(first) => format!("see why with: locksmithctl status {}", first.group.as_last_word()),
    };
    let troubled = u64::try_from(list.troubled.len()).unwrap_or(u64::MAX).saturating_add(list.unreadable);
    let readable = u64::try_from(list.groups.len()).unwrap_or(u64::MAX);
    let message = format!("{troubled} of {} groups cannot be shown", troubled.saturating_add(readable));
    Err(Failure { shown, hint: Some(how), ..failed(message) })
}

async fn list(admin: &Admin<'_>) -> Result<GroupList, Failure> {
    admin.groups().await.map_err(|error| Failure { hint: hint(&error, None), ..failed(error.to_string()) })
}

async fn lock(admin: &Admin<'_>, id: &HostId, group: &GroupName) -> Result<String, Failure> {
    let held = admin.hold(group, id).await.map_err(|error| refused("locking", group, error))?;
    if let Some(since) = held.already_since {
        // It may be another person's under the same name, who would be surprised by an unlock.
        let you = operator().map_or_else(String::new, |by| format!(" ({by})"));
        let _ = writeln!(io::stderr(), "{id} is held already by you{you} since {since} in group {group}");
    }
    Ok(String::new())
}

async fn unlock(admin: &Admin<'_>, id: &HostId, group: &GroupName, reason: Option<&Reason>) -> Result<String, Failure> {
    let reason = reason.map(|reason| reason.as_str().to_owned());
    let freed = admin.unlock(group, id, reason).await.map_err(|error| refused("unlocking", group, error))?;
    // The original prints nothing on success; what was interrupted is a message, not data.
    let was = match &freed.by {
        Some(by) => format!("held by {by} since {}", freed.since),
        None => format!("{} since {}", freed.phase, freed.phase_since),
    };
    let _ = writeln!(io::stderr(), "{id} is unlocked in group {group}; it was {was}");
    Ok(String::new())
}

async fn set_max(admin: &Admin<'_>, max: Max, group: &GroupName) -> Result<String, Failure> {
    let changed = admin.set_max(group, max).await.map_err(|error| refused("setting the max", group, error))?;
    Ok(format!("Old-Max: {}\nMax: {}\n", changed.old_max, changed.max))
}

// ---- Words

fn status_text(group: &GroupBody) -> String {
    let mut text = format!("Available: {}\nMax: {}\n", group.available, group.max);
    let holders = group.holders.len();
    if usize::try_from(group.max).is_ok_and(|max| holders > max) {
        text += &format!("Draining: {holders} hold a place, more than the max; nobody is admitted until fewer do\n");
    }
    if !group.holders.is_empty() {
        let rows = group.holders.iter().map(|holder| {
            let whose = holder.tag.as_ref().map(ToString::to_string);
            let by = holder.by.as_ref().map(|by| format!("({by})"));
            vec![
                holder.id.to_string(),
                holder.since.to_string(),
                holder.stands().to_owned(),
                holder.version.as_ref().map_or_else(dash, ToString::to_string),
                whose.or(by).unwrap_or_else(dash),
            ]
        });
        text += "\n";
        text += &table(&["MACHINE ID", "SINCE", "PHASE", "VERSION", "ATTEMPT"], rows);
    }
    if !group.waiting.is_empty() {
        let rows =
            group.waiting.iter().enumerate().map(|(index, waiter)| {
                vec![waiter.id.to_string(), waiter.since.to_string(), index.saturating_add(1).to_string()]
            });
        text += "\n";
        text += &table(&["WAITING", "SINCE", "PLACE"], rows);
        let listed = u64::try_from(group.waiting.len()).unwrap_or(u64::MAX);
        if let Some(more) = group.waiting_total.checked_sub(listed).filter(|more| *more > 0) {
            text += &format!("and {more} more\n");
        }
    }
    text
}

fn groups_text(list: &GroupList) -> String {
    let rows = list.groups.iter().map(|group| {
        vec![
            group.group.to_string(),
            group.available.to_string(),
            group.max.to_string(),
            group.holders_total.to_string(),
            group.waiting_total.to_string(),
        ]
    });
    let mut text = table(&["GROUP", "AVAILABLE", "MAX", "HOLDERS", "WAITING"], rows);
    for TroubledGroup { group, value, .. } in &list.troubled {
        text += &format!("\ngroup {group} cannot be shown: {value}\n");
    }
    if list.unreadable > 0 {
        let count = list.unreadable;
        text += &format!(
            "\n{count} group(s) have names that cannot be read, so their hosts are refused; until that is mended no group is made\n"
        );
    }
    text
}

fn history_text(history: &HistoryBody) -> String {
    let rows = history.entries.iter().map(|entry| {
        vec![
            entry.at.to_string(),
            entry.event.as_str().to_owned(),
            entry.id.as_ref().map_or_else(dash, ToString::to_string),
            entry.version.as_ref().map_or_else(dash, ToString::to_string),
            entry.tag.as_ref().map_or_else(dash, ToString::to_string),
            details(entry),
        ]
    });
    let mut text = table(&["TIME", "EVENT", "MACHINE ID", "VERSION", "ATTEMPT", "DETAILS"], rows);
    if history.unreadable > 0 {
        text += &format!("and {} that cannot be read: damaged, or of a newer locksmithd\n", history.unreadable);
    }
    text
}

fn details(entry: &Entry) -> String {
    let mut parts = Vec::new();
    if let Some(outcome) = entry.outcome {
        parts.push(format!("outcome {outcome}"));
    }
    match (entry.old_max, entry.max) {
        (Some(old), Some(new)) => parts.push(format!("max {old} to {new}")),
        (None, Some(max)) => parts.push(format!("max {max}")),
        _ => {}
    }
    if let Some(by) = &entry.by {
        parts.push(format!("by {by}"));
    }
    if let Some(reason) = &entry.reason {
        parts.push(reason.to_string());
    }
    parts.join("; ")
}

/// Columns as wide as their widest cell, without blanks at a line's end.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|cell| (*cell).to_owned()).collect()];
    lines.extend(rows);
    let width =
        |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn dash() -> String {
    "-".to_owned()
}

fn to_json<T: Serialize>(value: &T) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(value).map_err(|error| failed(error.to_string()))?;
    Ok(json + "\n")
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(failed(format!("cannot write to standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

// ---- Failures

fn refused(doing: &str, group: &GroupName, error: Error) -> Failure {
    Failure { hint: hint(&error, Some(group)), ..failed(format!("{doing}: {error}")) }
}

/// The interfaces name it and this build does not have it; `instead` does nearly the same.
fn not_in_this_build(name: &str, instead: &str) -> Failure {
    let message = format!("{name} is not available in this build");
    Failure { hint: Some(instead.to_owned()), code: 2, ..failed(message) }
}

fn hint(error: &Error, group: Option<&GroupName>) -> Option<String> {
    let word = group.map_or(Cow::Borrowed("GROUP"), GroupName::as_last_word);
    let option = group.map_or_else(|| "--group GROUP".to_owned(), GroupName::as_option);
    let refused = match error {
        Error::Unreachable { .. } => {
            return Some("is locksmithd running there? Another one: --server URL or $LOCKSMITHCTL_SERVER".to_owned());
        }
        Error::BadAnswer { .. } => return Some("is --server the URL of a locksmithd?".to_owned()),
        Error::Refused(refused) => refused,
    };
    match (refused.meaning, refused.kind.as_str()) {
        (_, "unusable_group") => {
            let how = "start a locksmithd that can read it, or restore its database from a backup";
            Some(format!("asking again does not help: {how}"))
        }
        (_, "group_exists") => Some(format!("change it with: locksmithctl group set --max N {word}")),
        (Meaning::UnknownGroup, _) => Some("see the groups there are: locksmithctl group list".to_owned()),
        (Meaning::NotAllowed, _) => Some("give an admin's token: --token-file FILE or $LOCKSMITHCTL_TOKEN".to_owned()),
        (Meaning::Full, _) if refused.max == Some(0) => {
            Some(format!("let N hosts hold a place with: locksmithctl set-max N {option}"))
        }
        (Meaning::Full | Meaning::NotHeld, _) => Some(format!("see who holds a place: locksmithctl status {word}")),
        (Meaning::ServerTrouble, _) => Some("locksmithd's log says more; asking again is safe".to_owned()),
        _ => None,
    }
}

/// Who acts: `user@machine`. Without a user in the environment the number of this process's, so that two machines are told
/// apart at least.
fn operator() -> Option<String> {
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter().filter_map(|name| std::env::var(name).ok());
    let numbered = || std::fs::metadata("/proc/self").map(|own| format!("uid{}", own.uid()));
    let user = named.map(|name| graphic(&name)).find(|name| !name.is_empty()).or_else(|| numbered().ok())?;
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(format!("{user}@{}", graphic(&machine)).chars().take(MAX_NAME_BYTES).collect())
}

fn graphic(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).collect()
}

fn max(text: &str) -> Result<Max, String> {
    let number = text.parse().map_err(|_| format!("expected a number from 0 to {MAX_PLACES}"))?;
    Max::new(number).map_err(|error| error.to_string())
}

fn failed(message: String) -> Failure {
    Failure { shown: String::new(), message, hint: None, code: 1 }
}
