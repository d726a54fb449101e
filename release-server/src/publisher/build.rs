//! Building a release: images become `VERSION.payload`, and a signed `VERSION.release` that names every window of them.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use manifests::digest::Sha256Digest;
use manifests::keyring::{KeyId, SecretKey};
use manifests::release::{DEFAULT_BOARD, Envelope, Image, Notes, Record, SlotName, Verity, WindowTable};
use manifests::version::{Sequence, Version};
use payload::build::{Built, Options, Progress};
use payload::format::FrameTable;

use super::Error;
use super::files::{PendingFile, lock_folder_of, nameless, remove_leftovers};
use super::folder::{Allowed, of_the_same_sequence, put_in_place, ready, refuse_another};
use super::source::{self, Source};

/// An image to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// Name in the record: what the hosts' slots are configured by.
    pub name: String,
    /// Only for this slot; `None` = fits either.
    pub slot: Option<SlotName>,
    /// A regular file or a block device.
    pub path: PathBuf,
}

/// What becomes of files of the same version that stand in the folder already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// They stay: the build is refused, unless it makes the very same release, which keeps the signatures that others have added.
    Keep,
    /// They are replaced, whatever they are, but for the very same release as above. Hosts that have seen another release of that
    /// version refuse the new one.
    Replace,
}

/// What to build. [`BuildSpec::new`] fills in what a first release needs no thought about.
#[derive(Clone, Debug)]
pub struct BuildSpec {
    /// Product: the Omaha app id.
    pub product: String,
    /// Architecture as `uname -m` says it.
    pub arch: String,
    /// Board.
    pub board: String,
    /// Label, and name of the files.
    pub version: Version,
    /// Place on the product's and board's line of releases.
    pub sequence: Sequence,
    /// When it was made; part of the bytes.
    pub created: Timestamp,
    /// Floor that committing it sets.
    pub not_below: Sequence,
    /// Oldest release that may be updated to it directly.
    pub minimum_source: Option<Sequence>,
    /// Channels it may be installed from; empty = any.
    pub channels: Vec<String>,
    /// May supersede a pending update at once.
    pub urgent: bool,
    /// Keys no longer trusted once it is committed.
    pub revoked_keys: Vec<KeyId>,
    /// What changed.
    pub notes: Option<Notes>,
    /// The images, in the order of the record.
    pub images: Vec<ImageFile>,
    /// Name of the image over which a dm-verity tree is made, which is one more image ([`TREE_IMAGE`]). It is made in memory: 1/127 of
    /// the image's size.
    ///
    /// [`TREE_IMAGE`]: super::TREE_IMAGE
    pub verity: Option<String>,
    /// Folder for the two files. It is made if it does not exist.
    pub out_dir: PathBuf,
    /// What becomes of a release of that version that is there already.
    pub existing: Existing,
    /// Of the very same release that is there already, only the signatures by the keys given are left.
    pub drop_signatures: bool,
    /// How to compress.
    pub options: Options,
}

impl BuildSpec {
    /// Architecture of a release that names none, whichever machine builds it: it is part of the signed bytes, and the same input
    /// gives the same bytes.
    pub const DEFAULT_ARCH: &'static str = "x86_64";

    /// A release without images yet: for [`Self::DEFAULT_ARCH`] and [`DEFAULT_BOARD`], any channel, no floor, no notes.
    pub fn new(product: &str, version: Version, sequence: Sequence, created: Timestamp, out_dir: &Path) -> Self {
        Self {
            product: product.to_owned(),
            arch: Self::DEFAULT_ARCH.to_owned(),
            board: DEFAULT_BOARD.to_owned(),
            version,
            sequence,
            created,
            not_below: Sequence::ZERO,
            minimum_source: None,
            channels: Vec::new(),
            urgent: false,
            revoked_keys: Vec::new(),
            notes: None,
            images: Vec::new(),
            verity: None,
            out_dir: out_dir.to_owned(),
            existing: Existing::Keep,
            drop_signatures: false,
            options: Options::default(),
        }
    }

    fn record(&self, images: Vec<Image>, payload_table_sha256: Option<Sha256Digest>) -> Record {
        Record {
            product: self.product.clone(),
            arch: self.arch.clone(),
            board: self.board.clone(),
            version: self.version.clone(),
            sequence: self.sequence,
            created: self.created,
            not_below: self.not_below,
            minimum_source: self.minimum_source,
            channels: self.channels.clone(),
            urgent: self.urgent,
            revoked_keys: self.revoked_keys.clone(),
            payload_table_sha256,
            notes: self.notes.clone(),
            images,
        }
    }
}

fn images_of(sources: &[Source], tables: impl IntoIterator<Item = WindowTable>) -> Vec<Image> {
    sources.iter().zip(tables).map(|(source, table)| source.for_record(table)).collect()
}

/// What was built.
#[derive(Debug)]
pub struct BuiltRelease {
    /// `VERSION.release`.
    pub record_path: PathBuf,
    /// `VERSION.payload`.
    pub payload_path: PathBuf,
    /// Bytes of the record's file.
    pub record_bytes: u64,
    /// What the record says.
    pub record: Record,
    /// Digest that names the release.
    pub digest: Sha256Digest,
    /// The keys given, which have signed it.
    pub signers: Vec<KeyId>,
    /// The other keys whose signatures it carries, taken over from where it stood already. They were not checked.
    pub claimed_signers: Vec<KeyId>,
    /// Keys whose signatures stood there and were dropped, as [`BuildSpec::drop_signatures`] says.
    pub dropped_signers: Vec<KeyId>,
    /// The keys given in whose names false signatures stood there, which are gone: somebody or something changed the file.
    pub mended_signers: Vec<KeyId>,
    /// Beside the record of this very release stood a payload that was not its own, which is gone.
    pub mended_payload: bool,
    /// The record of this very release was there before.
    pub was_there: bool,
    /// Other releases of the folder that have its sequence, as far as they could be read: hosts that run one refuse the other.
    pub same_sequence: Vec<PathBuf>,
    /// The payload's frame table.
    pub table: FrameTable,
}

impl BuiltRelease {
    /// The image with a tree of hashes, and what the kernel has to be told of it.
    pub fn verity(&self) -> Option<(&str, &Verity)> {
        self.record.images.iter().find_map(|image| Some((image.name.as_str(), image.verity.as_ref()?)))
    }
}

/// Builds a release and signs it with `keys` (none: signatures are to be added by [`super::sign_record`]), of which it must not revoke
/// all. What becomes of a release that is there already is for [`BuildSpec::existing`] to say.
pub fn build_release(spec: &BuildSpec, keys: &[SecretKey], progress: &mut dyn FnMut(Progress)) -> Result<BuiltRelease, Error> {
    let sources = source::open(&spec.images, spec.verity.as_deref())?;
    let rehearsed = rehearse(spec, keys, &sources)?;
    let payload_path = spec.out_dir.join(format!("{}.payload", spec.version));
    let record_path = spec.out_dir.join(format!("{}.release", spec.version));
    let allowed = Allowed { existing: spec.existing, drop_signatures: spec.drop_signatures };
    refuse_another(&record_path, &payload_path, &rehearsed, keys, allowed)?;

    std::fs::create_dir_all(&spec.out_dir).map_err(Error::file("create the folder", &spec.out_dir))?;
    // Whoever keeps it locked for longer would be met after minutes of compressing.
    drop(lock_folder_of(&record_path)?);
    remove_leftovers(&spec.out_dir)?;
    let (payload_file, Built { windows, table }) = build_payload(spec, &sources, &payload_path, progress)?;

    let record = spec.record(images_of(&sources, windows), Some(table.header().table_sha256()));
    let envelope = signed(&record, keys).map_err(Error::Unfit)?;
    let (digest, signers) = (envelope.digest(), envelope.claimed_signers().collect());
    let payload_file = ready(payload_file, &record_path, &envelope, spec.existing)?;
    let placed = put_in_place(payload_file, &record_path, envelope, keys, allowed)?;

    Ok(BuiltRelease {
        same_sequence: of_the_same_sequence(&spec.out_dir, &record, digest)?,
        record_path,
        payload_path,
        record_bytes: u64::try_from(placed.bytes.len()).unwrap_or(u64::MAX),
        record,
        digest,
        signers,
        claimed_signers: placed.claimed_signers,
        dropped_signers: placed.dropped_signers,
        mended_signers: placed.mended_signers,
        mended_payload: placed.mended_payload,
        was_there: placed.was_there,
        table,
    })
}

/// Makes and signs the record with tables of nothing, so that a name or a key that does not fit is an error now and not after
/// minutes of compressing.
fn rehearse(spec: &BuildSpec, keys: &[SecretKey], sources: &[Source]) -> Result<Record, Error> {
    let blank = |source: &Source| {
        let windows = WindowTable::count_for(source.size, WindowTable::standard_window_size(source.size));
        let windows = usize::try_from(windows.min(manifests::limits::MAX_WINDOWS + 1)).unwrap_or(usize::MAX);
        WindowTable::new(source.size, vec![Sha256Digest::from_bytes([0; 32]); windows])
    };
    let tables = sources.iter().map(blank).collect::<Result<Vec<_>, _>>().map_err(Error::Unfit)?;
    let record = spec.record(images_of(sources, tables), None);
    signed(&record, keys).map_err(Error::Unfit)?;
    Ok(record)
}

fn signed(record: &Record, keys: &[SecretKey]) -> Result<Envelope, manifests::release::RecordError> {
    let mut envelope = Envelope::unsigned(record)?;
    keys.iter().try_for_each(|key| envelope.sign(key))?;
    // How many signatures hosts ask for is not known here; one at least.
    record.check_signers_stay(envelope.claimed_signers(), NonZeroU32::MIN)?;
    Ok(envelope)
}

fn build_payload(
    spec: &BuildSpec,
    sources: &[Source],
    place: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(PendingFile, Built), Error> {
    let sources: Vec<_> = sources.iter().map(Source::for_payload).collect();
    let mut spool = nameless(place)?;
    let mut file = PendingFile::create(place)?;
    let built =
        payload::build::full(&sources, &spec.options, &mut spool, file.file(), progress).map_err(Error::payload(place))?;
    Ok((file, built))
}
