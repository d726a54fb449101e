//! The command line.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use jiff::Timestamp;
use manifests::digest::Sha256Digest;
use manifests::keyring::KeyId;
use manifests::limits::MAX_NOTES_CHARS;
use manifests::release::{DEFAULT_BOARD, Notes, SlotName};
use manifests::version::{Sequence, Version};
use payload::build::Options;

use super::Failure;
use crate::publisher::{self, BuildSpec, ImageFile, Published};

const EXAMPLES: &str = "\
A first release:
  releasectl key generate --out demo
  releasectl build --app '{demo}' --version 1.0.0 --sequence 1 --image root=rootfs.ext4 --key demo.key --out releases
  releasectl verify releases/1.0.0.release releases/1.0.0.payload --keyring .
  releasectl inspect releases/1.0.0.payload

A delta for hosts that run it, once 1.1.0 is built:
  releasectl delta --from releases/1.0.0.release --to releases/1.1.0.release --out releases

demo.pub goes into the keyring folder of the hosts (inside the image); demo.key stays offline.";

const INSPECT_EXAMPLES: &str = "\
What a payload is made of, and its largest frames:
  releasectl inspect releases/1.0.0-to-1.1.0.payload

What it saves, which files its bytes go to, and what would make it smaller:
  releasectl inspect releases/1.0.0-to-1.1.0.payload --release releases/1.1.0.release
  releasectl inspect 1.0.0-to-1.1.0.payload --release 1.1.0.release --image root=rootfs.ext4

The images are read from files, or else out of the full payload beside the record. Files are found in ext2, ext3, ext4, \
squashfs (gzip, zstd) and erofs; the bytes of each frame are shared out over the files in its windows by length.";

/// Makes, signs, checks and explains releases
#[derive(Parser)]
#[command(name = "releasectl", version, after_help = EXAMPLES, max_term_width = 100)]
pub(super) struct Cli {
    /// Print JSON for programs instead of words
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make publisher keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Build and sign a release: writes VERSION.release and VERSION.payload
    ///
    /// The same images, options and time of creation give the same bytes, whenever, wherever and with however many threads.
    Build(Box<BuildArgs>),
    /// Build a delta: writes FROM-to-VERSION.payload, which makes a release of another one that hosts run
    ///
    /// Needs no key: hosts compare what a delta makes with the signed record of the release. The images are read from files, or else out
    /// of the full payload that stands beside each record, and have to be what the records say.
    Delta(Box<DeltaArgs>),
    /// Add a signature to a release record
    ///
    /// The release stays the same release: its digest does not change. Needs no image and no payload, so that it can be done
    /// where the key is, offline.
    Sign(SignArgs),
    /// Check a record, and payloads against it, as a host would
    ///
    /// The record's signatures are verified; then each payload is decoded whole and every window compared with the record. Exits 1 on
    /// any fault.
    Verify(VerifyArgs),
    /// Explain a record or a payload, without trusting it
    ///
    /// With the release that a payload makes: also what it saves, which files its bytes go to, and which images and files are compressed
    /// and make deltas large.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(InspectArgs),
}

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Make an ed25519 key: NAME.key (private, mode 0600) and NAME.pub
    ///
    /// Never overwrites a file.
    Generate(GenerateArgs),
}

#[derive(Args)]
pub(super) struct GenerateArgs {
    /// Path of both files, without .key and .pub
    #[arg(long, value_name = "NAME")]
    pub(super) out: PathBuf,
}

#[derive(Args)]
#[command(group = ArgGroup::new("signing").required(true))]
pub(super) struct BuildArgs {
    /// Product: the Omaha app id
    #[arg(long, value_name = "ID")]
    pub(super) app: String,
    /// Label of the release, and name of its files
    #[arg(long, value_parser = parse_version)]
    pub(super) version: Version,
    /// Place in the one rising line of releases of this product and board; it alone orders releases
    #[arg(long, value_name = "N", value_parser = parse_sequence)]
    pub(super) sequence: Sequence,
    /// An image: NAME=FILE, such as root=rootfs.ext4 (a regular file or a block device), or NAME@SLOT=FILE for one that fits only slot a
    /// or b, because it names the slot's partition (kernel@a=a.efi); may be given several times
    #[arg(long = "image", value_name = "NAME[@SLOT]=FILE", required = true, value_parser = parse_image)]
    pub(super) images: Vec<ImageFile>,
    /// Private key to sign with; may be given several times
    #[arg(long = "key", value_name = "FILE", group = "signing")]
    pub(super) keys: Vec<PathBuf>,
    /// Do not sign: no host takes the release until `releasectl sign` has added enough signatures
    #[arg(long, group = "signing")]
    pub(super) unsigned: bool,
    /// Folder for VERSION.release and VERSION.payload
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Replace another release of that version that is there, which is refused without this
    #[arg(long)]
    pub(super) replace: bool,
    /// Of this very release that is there already, keep only the signatures by the keys given
    #[arg(long)]
    pub(super) drop_signatures: bool,
    /// Architecture of the images, as `uname -m` says it on the hosts; the default is the same on every build machine
    #[arg(long, default_value = BuildSpec::DEFAULT_ARCH)]
    pub(super) arch: String,
    /// Board the images are for
    #[arg(long, default_value = DEFAULT_BOARD)]
    pub(super) board: String,
    /// Floor: once this release is committed on a host, nothing with a lower sequence is installed there any more
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse_sequence)]
    pub(super) not_below: Sequence,
    /// Oldest release that may be updated to this one directly
    #[arg(long, value_name = "N", value_parser = parse_sequence)]
    pub(super) minimum_source: Option<Sequence>,
    /// Channels it may be installed from, separated by commas [default: any]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(super) channels: Vec<String>,
    /// What changed, for people; @FILE reads it from a file
    #[arg(long, value_name = "TEXT|@FILE")]
    notes: Option<String>,
    /// Where the text of what changed is
    #[arg(long, value_name = "URL", requires = "notes_sha256", conflicts_with = "notes")]
    notes_url: Option<String>,
    /// SHA-256 of the text at that URL
    #[arg(long, value_name = "HEX", requires = "notes_url", value_parser = parse_digest)]
    notes_sha256: Option<Sha256Digest>,
    /// When it was made, RFC 3339 [default: $SOURCE_DATE_EPOCH]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    created: Option<Timestamp>,
    /// Hosts may take it in the place of a pending update without waiting a day
    #[arg(long)]
    pub(super) urgent: bool,
    /// Key (16 hex digits) that hosts stop trusting once they have committed this release, which a key that stays must sign, too; may be
    /// given several times
    #[arg(long = "revoke-key", value_name = "ID", value_parser = parse_key_id)]
    pub(super) revoked_keys: Vec<KeyId>,
    #[command(flatten)]
    pub(super) effort: Effort,
    /// Make a dm-verity tree over an image, and add it as the image `verity`; its root hash, for the kernel's command line, is printed
    /// and part of the record. The same image always has the same tree
    #[arg(long, num_args = 0..=1, value_name = "NAME", default_missing_value = "root")]
    pub(super) verity: Option<String>,
}

#[derive(Args)]
pub(super) struct DeltaArgs {
    /// Record of the release that hosts run
    #[arg(long, value_name = "OLD.release")]
    from: PathBuf,
    /// An image of it: NAME=FILE, or NAME@SLOT=FILE; give all of them, or none
    #[arg(long = "from-image", value_name = "NAME[@SLOT]=FILE", value_parser = parse_image, conflicts_with = "from_payload")]
    from_images: Vec<ImageFile>,
    /// Its full payload [default: the OLD.payload beside the record]
    #[arg(long, value_name = "FILE")]
    from_payload: Option<PathBuf>,
    /// Record of the release that is made
    #[arg(long, value_name = "NEW.release")]
    to: PathBuf,
    /// An image of it: NAME=FILE, or NAME@SLOT=FILE; give all of them, or none
    #[arg(long = "to-image", value_name = "NAME[@SLOT]=FILE", value_parser = parse_image)]
    to_images: Vec<ImageFile>,
    /// Its full payload, with whose size the delta's is compared as well [default: the NEW.payload beside the record]
    #[arg(long, value_name = "FILE")]
    to_payload: Option<PathBuf>,
    /// Folder for the delta
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Write it even if it has more than 80 % of the full payload's bytes
    #[arg(long)]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) effort: Effort,
}

/// How hard to compress.
#[derive(Args)]
pub(super) struct Effort {
    /// zstd level, 1 to 22
    #[arg(long, value_name = "N", default_value_t = Options::DEFAULT_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// The smallest payload, at about ten times the time (level 19)
    #[arg(long, conflicts_with = "level")]
    best: bool,
    /// Threads that compress [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<NonZeroUsize>,
}

#[derive(Args)]
pub(super) struct SignArgs {
    /// The record
    #[arg(value_name = "RELEASE")]
    pub(super) release: PathBuf,
    /// Private key to sign with; may be given several times
    #[arg(long = "key", value_name = "FILE", required = true)]
    pub(super) keys: Vec<PathBuf>,
}

#[derive(Args)]
pub(super) struct VerifyArgs {
    /// The record
    #[arg(value_name = "RELEASE")]
    pub(super) release: PathBuf,
    /// Payloads that should make its images
    #[arg(value_name = "PAYLOAD")]
    pub(super) payloads: Vec<PathBuf>,
    /// Folder of the trusted public keys (*.pub)
    #[arg(long, value_name = "DIR")]
    pub(super) keyring: PathBuf,
    /// Number of distinct trusted keys that must have signed
    #[arg(long, value_name = "N", default_value = "1")]
    pub(super) threshold: NonZeroU32,
    /// Record of the release that a delta leans on
    #[arg(long, value_name = "OLD.release")]
    from: Option<PathBuf>,
    /// An image of it: NAME=FILE, or NAME@SLOT=FILE; give all of them, or none
    #[arg(long = "from-image", value_name = "NAME[@SLOT]=FILE", value_parser = parse_image, requires = "from", conflicts_with = "from_payload")]
    from_images: Vec<ImageFile>,
    /// Its full payload [default: the OLD.payload beside the record]
    #[arg(long, value_name = "FILE", requires = "from")]
    from_payload: Option<PathBuf>,
    /// Threads that decode [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<NonZeroUsize>,
}

#[derive(Args)]
pub(super) struct InspectArgs {
    /// A record or a payload
    pub(super) file: PathBuf,
    /// Record of the release that the payload makes
    #[arg(long, value_name = "RELEASE")]
    release: Option<PathBuf>,
    /// An image of that release: NAME=FILE, or NAME@SLOT=FILE; give all of them, or none
    #[arg(long = "image", value_name = "NAME[@SLOT]=FILE", value_parser = parse_image, requires = "release")]
    images: Vec<ImageFile>,
    /// Its full payload, with whose size the payload's is compared [default: the VERSION.payload beside the record]
    #[arg(long, value_name = "FILE", requires = "release")]
    full_payload: Option<PathBuf>,
    /// Most frames and files to name
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    top: u16,
    /// Threads that read images [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = parse_threads, requires = "release")]
    threads: Option<NonZeroUsize>,
}

impl Effort {
    pub(super) fn options(&self) -> Options {
        let level = if self.best { Options::BEST_LEVEL } else { self.level };
        Options { level, threads: threads(self.threads), ..Options::default() }
    }
}

impl DeltaArgs {
    pub(super) fn from(&self) -> Published {
        Published { record: self.from.clone(), images: self.from_images.clone(), payload: self.from_payload.clone() }
    }

    pub(super) fn to(&self) -> Published {
        Published { record: self.to.clone(), images: self.to_images.clone(), payload: self.to_payload.clone() }
    }
}

impl BuildArgs {
    /// `--created`, else `$SOURCE_DATE_EPOCH`. The clock is never asked: two builds would differ.
    pub(super) fn created(&self) -> Result<Timestamp, Failure> {
        if let Some(created) = self.created {
            return Ok(created);
        }
        let epoch = std::env::var("SOURCE_DATE_EPOCH").map_err(|_| Failure::Usage {
            message:
                "the time of creation is part of the signed bytes: expected --created TIME or $SOURCE_DATE_EPOCH, got neither"
                    .to_owned(),
            hint: "--created 2026-01-31T00:00:00Z, or export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)".to_owned(),
        })?;
        let time = epoch.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        time.ok_or_else(|| Failure::Usage {
            message: format!("$SOURCE_DATE_EPOCH: expected seconds since 1970, got {epoch:?}"),
            hint: "export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct), or --created 2026-01-31T00:00:00Z".to_owned(),
        })
    }

    pub(super) fn notes(&self) -> Result<Option<Notes>, publisher::Error> {
        if let (Some(url), Some(sha256)) = (&self.notes_url, self.notes_sha256) {
            return Ok(Some(Notes::Url { url: url.clone(), sha256 }));
        }
        let Some(notes) = &self.notes else { return Ok(None) };
        let text = match notes.strip_prefix('@') {
            // Four bytes are the longest character; the record's own limit counts characters.
            Some(path) => publisher::read_text(path.as_ref(), u64::try_from(MAX_NOTES_CHARS * 4).unwrap_or(u64::MAX))?,
            None => notes.clone(),
        };
        Ok(Some(Notes::Text(text)))
    }
}

impl VerifyArgs {
    /// What deltas lean on.
    pub(super) fn source(&self) -> Option<Published> {
        let record = self.from.clone()?;
        Some(Published { record, images: self.from_images.clone(), payload: self.from_payload.clone() })
    }

    pub(super) fn threads(&self) -> NonZeroUsize {
        threads(self.threads)
    }
}

impl InspectArgs {
    /// The release that the payload makes.
    pub(super) fn published(&self) -> Option<Published> {
        let record = self.release.clone()?;
        Some(Published { record, images: self.images.clone(), payload: self.full_payload.clone() })
    }

    pub(super) fn top(&self) -> usize {
        self.top.into()
    }

    pub(super) fn threads(&self) -> NonZeroUsize {
        threads(self.threads)
    }
}

fn threads(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    asked.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

fn parse_version(text: &str) -> Result<Version, String> {
    Version::parse(text).map_err(|error| error.to_string())
}

fn parse_sequence(text: &str) -> Result<Sequence, String> {
    let number = text.parse().ok().and_then(Sequence::new);
    number.ok_or_else(|| "expected a whole number of at most 2^53".to_owned())
}

fn parse_image(text: &str) -> Result<ImageFile, String> {
    let expected = || "expected NAME=FILE or NAME@SLOT=FILE, such as root=rootfs.ext4 or kernel@a=a.efi".to_owned();
    let (image, path) = text.split_once('=').filter(|(_, path)| !path.is_empty()).ok_or_else(expected)?;
    let (name, slot) = match image.rsplit_once('@') {
        None => (image, None),
        Some((name, "a")) => (name, Some(SlotName::A)),
        Some((name, "b")) => (name, Some(SlotName::B)),
        Some(_) => return Err(expected()),
    };
    if name.is_empty() {
        return Err(expected());
    }
    Ok(ImageFile { name: name.to_owned(), slot, path: PathBuf::from(path) })
}

fn parse_key_id(text: &str) -> Result<KeyId, String> {
    KeyId::from_hex(text)
        .ok_or_else(|| "expected the 16 hex digits of a key id, as in the first line of its .pub file".to_owned())
}

fn parse_digest(text: &str) -> Result<Sha256Digest, String> {
    Sha256Digest::from_hex(text).ok_or_else(|| "expected the 64 hex digits of a SHA-256".to_owned())
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "expected a time such as 2026-01-31T00:00:00Z".to_owned())
}

fn parse_threads(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok().filter(|threads: &NonZeroUsize| threads.get() <= 256);
    number.ok_or_else(|| "expected a number from 1 to 256".to_owned())
}
