//! The command `releasectl`: arguments in, words and exit codes out, all work in [`crate::publisher`].
//!
//! Data goes to stdout, in one piece when the work is done; messages, warnings and progress to stderr. Exit codes: 0 done,
//! 1 failed (or a fault was found by `verify`), 2 bad usage. A closed pipe is no error.

mod args;
mod hints;
mod inspection;
mod progress;
mod report;
mod words;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::{ContextKind, ContextValue};
use manifests::keyring::{KeyId, SecretKey};
use payload::build::Phase;

use self::args::{BuildArgs, Cli, Command, DeltaArgs, InspectArgs, KeyCommand, SignArgs, VerifyArgs};
use self::progress::Progress;
use crate::publisher::{self, BuildSpec, DeltaSpec, Existing, LeanedOn, Step};

/// Verbs that the interfaces name and this build does not have.
const LATER_VERBS: [&str; 5] = ["publish", "channel", "group", "rollout", "host"];
const LATER_HINT: &str =
    "this build makes releases and deltas as files (releasectl --help); put them where a file server finds them";

/// What a command came to.
struct Outcome {
    /// For stdout.
    text: String,
    /// Everything is as it should be.
    good: bool,
}

impl Outcome {
    const fn good(text: String) -> Self {
        Self { text, good: true }
    }
}

/// Why a command could not be carried out.
enum Failure {
    /// The arguments ask for something that makes no sense: exit 2.
    Usage { message: String, hint: String },
    /// It failed: exit 1.
    Failed(publisher::Error),
}

impl From<publisher::Error> for Failure {
    fn from(error: publisher::Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs the command line `arguments` (the program's name first).
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(usage) => {
            if let Some(verb) = later_verb(&usage) {
                complain(&format!("`releasectl {verb}` is not available in this build"), Some(LATER_HINT));
                return ExitCode::from(2);
            }
            // Help and version go to stdout, the rest to stderr; whether anybody listens changes nothing.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(&cli) {
        Ok(outcome) => finish(&outcome),
        Err(Failure::Usage { message, hint }) => {
            complain(&message, Some(&hint));
            ExitCode::from(2)
        }
        Err(Failure::Failed(error)) => {
            complain(&words::chain(&error), hints::for_error(&error));
            ExitCode::FAILURE
        }
    }
}

/// The verb of a later build that was asked for, if that is what is wrong.
fn later_verb(usage: &clap::Error) -> Option<&'static str> {
    match usage.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(asked)) => LATER_VERBS.into_iter().find(|verb| verb == asked),
        _ => None,
    }
}

fn dispatch(cli: &Cli) -> Result<Outcome, Failure> {
    match &cli.command {
        Command::Key(KeyCommand::Generate(args)) => {
            Ok(Outcome::good(report::key(&publisher::generate_key(&args.out)?, cli.json)))
        }
        Command::Build(args) => build(args, cli.json),
        Command::Delta(args) => delta(args, cli.json),
        Command::Sign(args) => sign(args, cli.json),
        Command::Verify(args) => verify(args, cli.json),
        Command::Inspect(args) => inspect(args, cli.json),
    }
}

fn build(args: &BuildArgs, json: bool) -> Result<Outcome, Failure> {
    let keys = read_keys(&args.keys)?;
    let spec = BuildSpec {
        arch: args.arch.clone(),
        board: args.board.clone(),
        not_below: args.not_below,
        minimum_source: args.minimum_source,
        channels: args.channels.clone(),
        urgent: args.urgent,
        revoked_keys: args.revoked_keys.clone(),
        notes: args.notes()?,
        images: args.images.clone(),
        verity: args.verity.clone(),
        existing: if args.replace { Existing::Replace } else { Existing::Keep },
        drop_signatures: args.drop_signatures,
        options: args.effort.options(),
        ..BuildSpec::new(&args.app, args.version.clone(), args.sequence, args.created()?, &args.out)
    };
    let mut progress = Steps::default();
    let built = publisher::build_release(&spec, &keys, &mut |step| progress.building(step))?;
    drop(progress);
    for other in &built.same_sequence {
        let message =
            format!("{} has the sequence {} as well: hosts that run one refuse the other", other.display(), args.sequence);
        warn(&message, "give each release of a product, architecture and board a --sequence of its own");
    }
    if !built.dropped_signers.is_empty() {
        let record = built.record_path.display();
        let dropped = report::join(&built.dropped_signers);
        warn(
            &format!("{record}: --drop-signatures has dropped the signatures claimed by {dropped}"),
            &format!("{}, with each of these keys that should have signed", sign_command(&built.record_path)),
        );
    }
    warn_of_mended(&built.record_path, &built.mended_signers);
    if built.mended_payload {
        let message = format!(
            "{}: what stood there was not the payload of the record beside it, and was replaced",
            built.payload_path.display()
        );
        warn(&message, "it was damaged, or left by a build that was interrupted; hosts that were given it have refused it");
    }
    let mut signers = built.signers.iter().chain(&built.claimed_signers);
    let is_left = signers.any(|signer| !args.revoked_keys.contains(signer));
    if args.unsigned && !args.revoked_keys.is_empty() && !is_left {
        let record = built.record_path.display();
        warn(
            &format!("{record}: hosts take it only if enough keys sign it that it does not revoke"),
            &format!("{}, with the next key", sign_command(&built.record_path)),
        );
    }
    Ok(Outcome::good(report::built(&built, json)))
}

fn delta(args: &DeltaArgs, json: bool) -> Result<Outcome, Failure> {
    let spec = DeltaSpec {
        from: args.from(),
        to: args.to(),
        out_dir: args.out.clone(),
        options: args.effort.options(),
        even_if_large: args.force,
    };
    let mut progress = Steps::default();
    let built = publisher::build_delta(&spec, &mut |step| match step {
        Step::Opening(done, total) => progress.at("reading").show(done, total, ""),
        Step::Building(step) => progress.building(step),
    })?;
    drop(progress);
    if built.full_bytes.is_none() {
        let message =
            format!("the full payload of {} is not there: it was not seen whether the delta is worth it", built.to.version);
        warn(&message, "give it with --to-payload FILE");
    }
    Ok(Outcome::good(report::delta(&built, json)))
}

/// One bar after the other.
#[derive(Default)]
struct Steps {
    current: Option<(&'static str, Progress)>,
}

impl Steps {
    fn at(&mut self, what: &'static str) -> &mut Progress {
        if self.current.as_ref().is_some_and(|(current, _)| *current != what) {
            self.current = None;
        }
        &mut self.current.get_or_insert_with(|| (what, Progress::new(what))).1
    }

    fn building(&mut self, step: payload::build::Progress) {
        match step.phase {
            Phase::Looking => self.at("looking for what is alike").show(step.done, step.total, ""),
            Phase::Making => {
                self.at("building").show(step.done, step.total, &format!("{} of payload", words::size(step.blobs)));
            }
        }
    }
}

fn sign(args: &SignArgs, json: bool) -> Result<Outcome, Failure> {
    let keys = read_keys(&args.keys)?;
    let signed = publisher::sign_record(&args.release, &keys)?;
    warn_of_mended(&args.release, &signed.mended_signers);
    let signers = signed.signers.iter().chain(&signed.claimed_signers).copied();
    if let Err(error) = signed.record.check_signers_stay(signers, NonZeroU32::MIN) {
        let path = args.release.display();
        warn(&format!("{path}: {error}"), &format!("{}, with the next key", sign_command(&args.release)));
    }
    Ok(Outcome::good(report::signed(&args.release, &signed, json)))
}

/// The owner of a key is the only one who can tell what was signed in his name.
fn warn_of_mended(record: &Path, mended: &[KeyId]) {
    if !mended.is_empty() {
        let message =
            format!("{}: signatures in the name of {} were false, and were replaced", record.display(), report::join(mended));
        warn(&message, "the file was damaged or somebody else changed it: find out which before it is published");
    }
}

/// What adds a signature to a record, but for the key.
fn sign_command(record: &Path) -> String {
    format!("releasectl sign {} --key FILE", words::shell_word(record))
}

fn verify(args: &VerifyArgs, json: bool) -> Result<Outcome, Failure> {
    let keyring = publisher::read_keyring(&args.keyring, args.threshold)?;
    let release = publisher::check_record(&args.release, &keyring)?;
    let mut source = args.source().map(LeanedOn::new);
    let mut checked = Vec::new();
    for path in &args.payloads {
        let mut progress = Progress::new("checking");
        let result = publisher::check_payload(&release, path, source.as_mut(), args.threads(), &mut |(done, total)| {
            progress.show(done, total, "")
        });
        checked.push((path.clone(), result));
    }
    let report = report::Verification::new(&args.release, &release, keyring.threshold(), checked);
    Ok(Outcome { good: report.good(), text: if json { report.to_json() } else { report.to_words() } })
}

fn inspect(args: &InspectArgs, json: bool) -> Result<Outcome, Failure> {
    let found = match args.published() {
        None => publisher::inspect(&args.file, args.top())?,
        Some(published) => {
            let mut progress = Progress::new("reading");
            let mut show = |(done, total)| progress.show(done, total, "");
            publisher::explain(&args.file, &published, args.top(), args.threads(), &mut show)?
        }
    };
    Ok(Outcome::good(inspection::inspection(&args.file, &found, json)))
}

fn read_keys(paths: &[PathBuf]) -> Result<Vec<SecretKey>, Failure> {
    let mut keys = Vec::new();
    for path in paths {
        let loaded = publisher::read_secret_key(path)?;
        if let Some(mode) = loaded.exposed_mode {
            warn(
                &format!("{}: others can read this private key (mode {mode:04o})", path.display()),
                &format!("chmod 600 {}", words::shell_word(path)),
            );
        }
        keys.push(loaded.key);
    }
    Ok(keys)
}

/// Writes what was found to stdout. A reader that has gone away has seen enough; any other error is one.
fn finish(outcome: &Outcome) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(outcome.text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to stdout: {error}"), None);
            ExitCode::FAILURE
        }
        _ if outcome.good => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn complain(message: &str, hint: Option<&str>) {
    say(&format!("error: {message}"));
    if let Some(hint) = hint {
        say(&format!("hint: {hint}"));
    }
}

fn warn(message: &str, hint: &str) {
    say(&format!("warning: {message}\nhint: {hint}"));
}

/// One message on stderr. If nobody can hear it, there is nobody to tell.
fn say(message: &str) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// JSON on one line for each object: for programs, and `jq` makes it pretty.
fn json_line(value: &serde_json::Value) -> String {
    format!("{value}\n")
}
