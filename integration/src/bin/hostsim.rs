//! Firmware and boot loader of a disk image; see the library module `integration::hostsim`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use integration::hostsim::gpt::{Gpt, bits};
use integration::hostsim::image::{DiskSpec, PartitionSpec, make_disk, write_slot};
use integration::hostsim::restart::{self, Process};
use integration::hostsim::{BootPlan, Error, boot, content};
use serde_json::json;

/// Plays firmware and boot loader for a host that is a disk image and a folder.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Switch the machine on (or restart it: with --start, as the reboot command of a daemon).
    ///
    /// The loader picks a slot, spends a try, and the folder shows what runs. With --start the command returns at once; in the
    /// background it waits until the program that called it has gone, boots, and becomes the command given.
    Boot(BootArgs),
    /// The background half of `boot --start`.
    #[command(hide = true)]
    BootDetached {
        #[command(flatten)]
        boot: BootArgs,
        /// The process that has to go first.
        #[arg(long)]
        after_pid: i32,
        /// When that process started.
        #[arg(long)]
        after_started: u64,
    },
    /// Make a new disk image: an ESP if wanted, root-a, root-b, state.
    Mkimage(MkimageArgs),
    /// Put an image into a partition.
    WriteSlot {
        /// The disk image.
        #[arg(long)]
        image: PathBuf,
        /// The partition's name.
        #[arg(long)]
        label: String,
        /// The image to put there.
        #[arg(long)]
        from: PathBuf,
    },
    /// Make a small image that stands in for a system in fast tests.
    TestImage {
        /// What it shows as its version.
        #[arg(long)]
        version: String,
        /// Its size, e.g. 4M.
        #[arg(long, value_parser = size)]
        size: u64,
        /// Further lines of its header, e.g. FLOOR=3 or BOOT=panic.
        #[arg(long = "line", value_name = "NAME=VALUE")]
        lines: Vec<String>,
        /// Where to write it.
        #[arg(long)]
        out: PathBuf,
    },
    /// Set the boot bits of a partition.
    SetBits {
        /// The disk image.
        #[arg(long)]
        image: PathBuf,
        /// The partition's name.
        #[arg(long)]
        label: String,
        /// 0 to 15; the highest is booted.
        #[arg(long, value_parser = clap::value_parser!(u64).range(0..=15))]
        priority: u64,
        /// 0 to 15.
        #[arg(long, value_parser = clap::value_parser!(u64).range(0..=15))]
        tries: u64,
        /// Mark it successful.
        #[arg(long)]
        successful: bool,
    },
    /// Show both copies of the partition table and the boot bits.
    Table {
        /// The disk image.
        #[arg(long)]
        image: PathBuf,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct BootArgs {
    /// The disk image.
    #[arg(long)]
    image: PathBuf,
    /// The folder that shows what runs.
    #[arg(long)]
    sysroot: PathBuf,
    /// Slots and their partitions' names.
    #[arg(long, default_value = "a=root-a,b=root-b", value_delimiter = ',', value_parser = pair)]
    slots: Vec<(String, String)>,
    /// Let the next N starts fail after the loader spent its try.
    #[arg(long, value_name = "N", default_value_t = 0)]
    fail_boot: u32,
    /// Where the background half writes the number of the program it becomes.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Where the background half and the program it becomes write their output (appended).
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How long the caller may take to go, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    patience: u64,
    /// Only boot, whatever --start says.
    #[arg(long)]
    no_start: bool,
    /// What the system that came up starts; the rest of the line.
    #[arg(long, num_args = 1.., allow_hyphen_values = true, value_name = "COMMAND")]
    start: Vec<OsString>,
}

#[derive(Args)]
struct MkimageArgs {
    /// The file to make; it must not exist.
    #[arg(long)]
    image: PathBuf,
    /// Bytes of a sector.
    #[arg(long, default_value_t = 512)]
    sector: u64,
    /// Size of an EFI system partition, e.g. 64M; none without.
    #[arg(long, value_parser = size)]
    esp: Option<u64>,
    /// Size of each slot, e.g. 512M.
    #[arg(long, value_parser = size)]
    root: u64,
    /// Size of the state partition; none without.
    #[arg(long, value_parser = size)]
    state: Option<u64>,
    /// The disk's GUID; a fixed one without.
    #[arg(long)]
    disk_guid: Option<String>,
    /// A partition's GUID; one made from its name without.
    #[arg(long = "guid", value_name = "LABEL=GUID", value_parser = pair)]
    guids: Vec<(String, String)>,
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(text) => finish(&text),
        Err(error) => {
            let mut words = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                words += &format!(": {inner}");
                cause = inner.source();
            }
            complain(&words)
        }
    }
}

/// Writes what was done to stdout. A reader that has gone away has seen enough; any other error is one.
fn finish(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => complain(&format!("cannot write to stdout: {error}")),
        _ => ExitCode::SUCCESS,
    }
}

/// If nobody can hear it, there is nobody to tell.
fn complain(words: &str) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "hostsim: {words}");
    ExitCode::FAILURE
}

/// Carries a verb out; the text is for stdout.
fn run(verb: Verb) -> Result<String, Error> {
    match verb {
        Verb::Boot(args) if args.start.is_empty() || args.no_start => play(&args),
        Verb::Boot(args) => restart_in_background(&args),
        Verb::BootDetached { boot, after_pid, after_started } => {
            play_detached(&boot, Process { pid: after_pid, started: after_started })
        }
        Verb::Mkimage(args) => mkimage(&args),
        Verb::WriteSlot { image, label, from } => {
            let bytes = write_slot(&image, &label, &from)?;
            Ok(format!("{label}: {bytes} bytes from {}\n", from.display()))
        }
        Verb::TestImage { version, size, lines, out } => test_image(&version, size, &lines, &out),
        Verb::SetBits { image, label, priority, tries, successful } => {
            let mut gpt = Gpt::open(&image)?;
            let entry = gpt.entry(&label)?;
            let others = entry.bits & !bits(15, 15, true);
            gpt.set_bits(entry.index, others | bits(priority, tries, successful))?;
            Ok(String::new())
        }
        Verb::Table { image, json } => table(&image, json),
    }
}

fn play(args: &BootArgs) -> Result<String, Error> {
    let plan = BootPlan {
        image: args.image.clone(),
        sysroot: args.sysroot.clone(),
        slots: args.slots.clone(),
        failing_starts: args.fail_boot,
    };
    Ok(boot(&plan)?.log.iter().map(|line| format!("hostsim: {line}\n")).collect())
}

fn restart_in_background(args: &BootArgs) -> Result<String, Error> {
    let after = Process::parent().ok_or_else(|| Error::Disk("the program that called has gone already".to_owned()))?;
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // The global shape of the line is known: the verb comes first, everything behind it is passed on.
    arguments[0] = "boot-detached".into();
    let own = [("--after-pid", after.pid.to_string()), ("--after-started", after.started.to_string())];
    let own = own.iter().flat_map(|(name, value)| [OsString::from(name), OsString::from(value)]);
    arguments.splice(1..1, own);
    let pid = restart::detach(&arguments, args.log.as_deref())?;
    Ok(format!("hostsim: restart accepted; process {pid} boots once process {} has gone\n", after.pid))
}

fn play_detached(args: &BootArgs, after: Process) -> Result<String, Error> {
    restart::leave_session()?;
    if !after.wait_gone(Duration::from_secs(args.patience)) {
        return Err(Error::Disk(format!("process {} still runs after {} s: not booted", after.pid, args.patience)));
    }
    // Before it becomes another program: that one's output follows. Whoever read the log may be gone; the machine boots all the same.
    let _ = io::stdout().lock().write_all(play(args)?.as_bytes());
    restart::become_program(&args.start, args.pid_file.as_ref())?;
    Ok(String::new())
}

fn mkimage(args: &MkimageArgs) -> Result<String, Error> {
    let slots = ["root-a", "root-b"].map(|label| Some((label, args.root)));
    let sizes = [args.esp.map(|size| ("ESP", size)), slots[0], slots[1], args.state.map(|size| ("state", size))];
    let guid = |label: &str| args.guids.iter().find(|(name, _)| name == label).map(|(_, guid)| guid.clone());
    let partitions = sizes.into_iter().flatten();
    let partitions = partitions.map(|(label, size)| PartitionSpec { guid: guid(label), ..PartitionSpec::new(label, size) });
    let spec =
        DiskSpec { sector: args.sector, guid: args.disk_guid.clone(), partitions: partitions.collect(), first_sector: None };
    if let Some((name, _)) = args.guids.iter().find(|(name, _)| !spec.partitions.iter().any(|p| p.label == *name)) {
        return Err(Error::Disk(format!("--guid names \"{name}\", but there is no such partition")));
    }
    make_disk(&args.image, &spec)?;
    table(&args.image, false)
}

fn test_image(version: &str, size: u64, lines: &[String], out: &Path) -> Result<String, Error> {
    let first = format!("IMAGE_VERSION={version}");
    let lines: Vec<&str> = std::iter::once(first.as_str()).chain(lines.iter().map(String::as_str)).collect();
    let bytes = content::test_image(&lines, size)?;
    std::fs::write(out, bytes).map_err(|source| Error::Io { action: "write", path: out.to_path_buf(), source })?;
    Ok(String::new())
}

fn table(image: &Path, as_json: bool) -> Result<String, Error> {
    let gpt = Gpt::open(image)?;
    let copies = ["primary", "backup"].into_iter().zip(gpt.copies());
    if as_json {
        let copies = copies.map(|(name, copy)| {
            let entries = copy.entries();
            let entries = entries.iter().map(|entry| {
                json!({
                    "number": entry.index + 1, "label": entry.label, "guid": entry.guid, "start": entry.start,
                    "length": entry.length, "priority": entry.priority(), "tries": entry.tries(), "successful": entry.successful(),
                })
            });
            let entries: Vec<_> = entries.collect();
            (name.to_owned(), json!({ "valid": copy.fault.is_none(), "fault": copy.fault, "partitions": entries }))
        });
        let copies: serde_json::Map<_, _> = copies.collect();
        return Ok(format!("{}\n", json!({ "sector": gpt.sector(), "copies": copies })));
    }
    let mut text = String::new();
    for (name, copy) in copies {
        text += &format!("{name} copy: {}\n", copy.fault.as_deref().unwrap_or("valid"));
        for entry in copy.entries() {
            // Writing to a text does not fail.
            let _ = writeln!(
                text,
                "  {:>2}  {:<10} {}  start {:>12}  length {:>12}  P{} T{} S{}",
                entry.index + 1,
                entry.label,
                entry.guid,
                entry.start,
                entry.length,
                entry.priority(),
                entry.tries(),
                u8::from(entry.successful())
            );
        }
    }
    Ok(text)
}

/// `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("expected NAME=VALUE, got {text:?}"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Bytes, or with K, M or G behind the number.
fn size(text: &str) -> Result<u64, String> {
    let unit = match text.chars().last() {
        Some('K') => 1 << 10,
        Some('M') => 1 << 20,
        Some('G') => 1 << 30,
        _ => 1,
    };
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    number.filter(|&size| size > 0).ok_or_else(|| format!("expected a size like 512M, got {text:?}"))
}
