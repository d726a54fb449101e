//! Power cuts, by the thousand: records two updates of a virtual machine write by write, rebuilds every disk that a cut could have left,
//! looks at each, and starts a sample of them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the terminal is where it is told")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, ValueEnum};
use integration::cuts::campaign::{Campaign, Counts, Seen};
use integration::cuts::check::Different;
use integration::cuts::cut::Cut;
use integration::cuts::recording::{BOOTS, Boot, Recording, Unrecorded};
use integration::vm::{Loader, Parts};
use tokio::signal::unix::{SignalKind, signal};

/// Records two updates, there and back, and tries power cuts at every moment of them.
///
/// Prints a line for each kind of state that a cut leads to, and how often. Of a state in which a promise does not hold it prints what
/// does not, and the command that rebuilds it. Exit codes: 0 every promise holds in every state; 1 not, or it could not be found out; 3 no machine can
/// be had here, and why.
#[derive(Parser)]
#[command(version, about, long_about)]
struct Arguments {
    /// The boot loader of the machine
    #[arg(long, value_enum, default_value = "grub")]
    loader: LoaderName,
    /// States that are rebuilt and looked at, at least; all that are systematic (every prefix, small subsets, omissions) always are
    #[arg(long, default_value_t = 20_000)]
    cuts: usize,
    /// States that are started under the real loader
    #[arg(long, default_value_t = 10)]
    boot: usize,
    /// What random cuts are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for the recording; one of the same programs, kernel and loader that is there already is used again
    #[arg(long, value_name = "DIR")]
    recording: PathBuf,
    /// Rebuilds this state only, starts it, and leaves its disk in the folder of the recording
    #[arg(long, value_name = "BOOT:CUT")]
    replay: Option<String>,
}

/// Where no machine can be had.
const NO_MACHINE: u8 = 3;

#[derive(Clone, Copy, ValueEnum)]
enum LoaderName {
    Grub,
    SystemdBoot,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let loader = match arguments.loader {
        LoaderName::Grub => Loader::GrubBios,
        LoaderName::SystemdBoot => Loader::SystemdBoot,
    };
    if let Err(why) = Parts::find(loader) {
        eprintln!("no virtual machine can be had here: {why}");
        return ExitCode::from(NO_MACHINE);
    }
    let recording = match arguments.replay {
        Some(_) => Recording::open(&arguments.recording).map_err(Unrecorded::Here),
        None => Recording::open_or_make(&arguments.recording, loader),
    };
    let recording = match recording {
        Ok(recording) => recording,
        Err(Unrecorded::Here(why)) => {
            eprintln!("error: nothing can be recorded: {why}");
            return ExitCode::FAILURE;
        }
        Err(Unrecorded::Bad(why)) => {
            println!("BAD  {why}");
            return ExitCode::FAILURE;
        }
    };
    let campaign = match ended_from_outside() {
        Ok(is_over) => Campaign::new(recording, is_over),
        Err(error) => {
            eprintln!("error: signals cannot be waited for: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(why) = campaign.sees_states() {
        println!("partly skipped: nothing is said of the state partition: {why}");
    }
    let outcome = match &arguments.replay {
        Some(name) => replay(&campaign, name, &arguments.recording),
        None => run(&campaign, &arguments),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes true with SIGINT or SIGTERM: what a campaign has mounted and started ends with it.
fn ended_from_outside() -> std::io::Result<Arc<AtomicBool>> {
    let is_over = Arc::new(AtomicBool::new(false));
    let (told, runtime) = (Arc::clone(&is_over), tokio::runtime::Builder::new_current_thread().enable_all().build()?);
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        told.store(true, Ordering::Relaxed);
    });
    Ok(is_over)
}

fn run(campaign: &Campaign, arguments: &Arguments) -> Result<bool, String> {
    let (mut kinds, mut bad) = (BTreeMap::<String, usize>::new(), 0);
    // At once: whatever ends the run later, it is told.
    let mut tell_bad = |boot: Boot, cut: &Cut, why: &str| {
        let recording = arguments.recording.display();
        println!("BAD  {why}\n     cuts --recording {recording} --replay {}:{cut}", boot + 1);
        bad += 1;
    };
    let Counts { cuts, different } = campaign.look_at_all(arguments.cuts, arguments.seed, &mut |boot, cut, seen| match seen {
        Ok(kind) => *kinds.entry(format!("boot {}: {kind}", boot + 1)).or_default() += 1,
        Err(why) => tell_bad(boot, cut, &why),
    })?;
    kinds.iter().for_each(|(kind, count)| println!("{count:>8}  {kind}"));
    let mut faults = [campaign.check_itself(), campaign.check_whole()].map(Result::err).into_iter().flatten().collect::<Vec<_>>();
    if cuts < arguments.cuts {
        faults.push(format!("no more than {cuts} states could be looked at, {} were asked for", arguments.cuts));
    }
    faults.iter().for_each(|why| println!("BAD  {why}"));
    let Different { disks, esps, states, slots } = different;
    println!(
        "{cuts} states, by what was written to them: {disks} disks, {esps} EFI system partitions, {states} state partitions, {slots} slots \
         that may be started"
    );
    let started = campaign.start_some(arguments.boot, arguments.seed, &mut |boot, cut, seen| match seen {
        Ok(kind) => println!("started {}:{cut}: {kind}", boot + 1),
        Err(why) => tell_bad(boot, cut, &why),
    })?;
    let bad = bad + faults.len();
    let unseen = if campaign.sees_states().is_err() { ", no state partition looked at" } else { "" };
    println!("power cuts: {cuts} states looked at, {started} started, {bad} bad (seed {}){unseen}", arguments.seed);
    Ok(bad == 0)
}

fn replay(campaign: &Campaign, name: &str, folder: &Path) -> Result<bool, String> {
    let (boot, cut) = name.split_once(':').ok_or("expected BOOT:CUT, such as 1:12/0110")?;
    let boot = boot.parse::<Boot>().ok().and_then(|boot| boot.checked_sub(1)).filter(|boot| *boot < BOOTS);
    let boot = boot.ok_or_else(|| format!("expected the number of a boot, 1 to {BOOTS}"))?;
    let cut: Cut = cut.parse()?;
    let disk = folder.join("replayed.img");
    let (first, seen) = campaign.rebuild(boot, &cut, &disk)?;
    let rebuilt = tell("rebuilt", seen);
    println!("its disk: {}", disk.display());
    let started = tell("started", campaign.start(boot, &disk, first.as_ref()));
    Ok(rebuilt && started)
}

fn tell(what: &str, seen: Seen) -> bool {
    match &seen {
        Ok(kind) => println!("{what}: {kind}"),
        Err(why) => println!("BAD  {why}"),
    }
    seen.is_ok()
}
