//! What can go wrong for a publisher.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use manifests::keyring::KeyError;
use manifests::release::RecordError;

/// Why a release could not be made, signed, checked or shown. What to do about it is for the command line to say.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A key of that name exists already.
    #[error("{} exists already: a key is never overwritten", path.display())]
    KeyExists {
        /// The file in the way.
        path: PathBuf,
    },
    /// A release of that version is there and is another one.
    #[error("{}: expected no file, or one of the same release, got one of other content: a release is not replaced unasked", path.display())]
    ReleaseExists {
        /// The file in the way.
        path: PathBuf,
    },
    /// Something stands in the place of the record that is none, or a damaged one.
    #[error("{}: expected no file, or the record of the same release, got one that cannot be read: {reason}", path.display())]
    UnreadableRecord {
        /// The file in the way.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another run changes a record of the folder.
    #[error("{}: another program has locked this folder, for more than {} seconds by now", folder.display(), waited.as_secs())]
    Busy {
        /// The folder.
        folder: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Something that could be waited on for ever, or read for ever.
    #[error("{}: expected a regular file or a block device, got {got}", path.display())]
    NotAFile {
        /// Its path.
        path: PathBuf,
        /// What stands there.
        got: &'static str,
    },
    /// A file is longer than anything of its sort may be.
    #[error("{}: expected at most {limit} bytes, got more", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The cap.
        limit: u64,
    },
    /// An image that is no file with bytes in it.
    #[error("image {name:?}: {}: expected a regular file or a block device with at least one byte, got {got}", path.display())]
    NotAnImage {
        /// Name of the image.
        name: String,
        /// Its file.
        path: PathBuf,
        /// What stands there.
        got: &'static str,
    },
    /// A tree is wanted over an image that is none of the release's.
    #[error("--verity: expected the name of an image that fits either slot, got {name:?}")]
    NoImageForTree {
        /// The name.
        name: String,
    },
    /// No tree of hashes can be made over an image.
    #[error("--verity: {}: {reason}", path.display())]
    Tree {
        /// Its file.
        path: PathBuf,
        /// Why.
        reason: payload::verity::VerityError,
    },
    /// The machine gives no random bytes.
    #[error("cannot get 32 random bytes for a key: {reason}")]
    NoDice {
        /// The system's words.
        reason: String,
    },
    /// A key file or a keyring folder was refused.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The release to be built breaks a rule of records.
    #[error("this release cannot be made: {0}")]
    Unfit(#[source] RecordError),
    /// A record was refused.
    #[error("{}: {reason}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: RecordError,
    },
    /// A payload was refused.
    #[error("{}", path.display())]
    Payload {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<payload::Error>,
    },
    /// A payload that leans on another release, where one is needed that leans on none.
    #[error("{}: expected a full payload, got a delta that leans on an image {source_image:?}", path.display())]
    NotFull {
        /// The file.
        path: PathBuf,
        /// The first image that it leans on.
        source_image: String,
    },
    /// A delta, of which nobody said where the release is that it leans on.
    #[error("{}: expected also the release that it leans on, with {}, got none", path.display(), images.join(", "))]
    LeansOn {
        /// The file.
        path: PathBuf,
        /// Its source images.
        images: Vec<String>,
    },
    /// A delta that leans on another release than the one that was given.
    #[error("{}: it leans on images ({}) that {} does not have", path.display(), images.join(", "), record.display())]
    LeansOnAnother {
        /// The file.
        path: PathBuf,
        /// The record that was given.
        record: PathBuf,
        /// Its source images.
        images: Vec<String>,
    },
    /// A payload that does not make its release.
    #[error("{}: {wrong} windows differ from the record, or cannot be made: {reason}", path.display())]
    WrongPayload {
        /// The file.
        path: PathBuf,
        /// Windows.
        wrong: u64,
        /// What is wrong with the first.
        reason: String,
    },
    /// An image that the release does not have.
    #[error("{}: expected one of its images ({}), got {name}", record.display(), images.join(", "))]
    NoSuchImage {
        /// The record.
        record: PathBuf,
        /// What was given.
        name: String,
        /// What it has.
        images: Vec<String>,
    },
    /// A release of which only the record is there.
    #[error("{}: expected its images as files, or its full payload {}, got neither", record.display(), payload.display())]
    NoImages {
        /// The record.
        record: PathBuf,
        /// Where the payload would be.
        payload: PathBuf,
    },
    /// An image of the release that was not given.
    #[error("{}: expected a file for each of its images, got none for {name}", record.display())]
    ImageMissing {
        /// The record.
        record: PathBuf,
        /// The image.
        name: String,
    },
    /// An image of another length than the release's.
    #[error("image {name}: {}: expected {expected} bytes as the record says, got {got}", path.display())]
    ImageSize {
        /// Its file.
        path: PathBuf,
        /// Its name.
        name: String,
        /// By the record.
        expected: u64,
        /// Of the file.
        got: u64,
    },
    /// An image that is not the release's.
    #[error("image {name} is not the one of {}: {wrong} of {windows} windows differ, the first is window {first}", record.display())]
    AnotherImage {
        /// The record.
        record: PathBuf,
        /// Its name.
        name: String,
        /// Windows that differ.
        wrong: usize,
        /// The first of them.
        first: u32,
        /// All.
        windows: u32,
    },
    /// A delta between releases that never follow each other.
    #[error("expected two releases of one product, architecture and board, got {from} and {to}")]
    Strangers {
        /// Whose the first is.
        from: String,
        /// Whose the second is.
        to: String,
    },
    /// A delta from a release to itself.
    #[error("expected two releases, got {version} twice")]
    SameRelease {
        /// Its version.
        version: String,
    },
    /// A delta that no host could use.
    #[error("hosts that run sequence {from} never go to this release directly: it asks for {minimum} at least (minimum_source)")]
    TooOldToLeanOn {
        /// Sequence of the release that it leans on.
        from: u64,
        /// By the record.
        minimum: u64,
    },
    /// A delta that saves too little.
    #[error(
        "{} is not written: it has {bytes} bytes, {} of the full payload's {full}, and above {} % a delta is not worth it",
        path.display(), at_most_percent(*bytes, *full), super::MAX_PERCENT_OF_FULL
    )]
    HardlySmaller {
        /// Where it would stand.
        path: PathBuf,
        /// Its bytes.
        bytes: u64,
        /// Those of the full payload.
        full: u64,
    },
    /// A file that is neither a record nor a payload.
    #[error("{}: expected a release record (\"OTARECv1\") or a payload (\"OTAPAYLD\"), got {got}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What it is instead, as [`describe`](manifests::foreign::describe) says it.
        got: String,
    },
}

/// `a` as a part of `b` in tenths of a percent, rounded up: what is above a limit is said to be above it.
fn at_most_percent(a: u64, b: u64) -> String {
    let tenths = (u128::from(a) * 1000).div_ceil(u128::from(b.max(1)));
    format!("{}.{} %", tenths / 10, tenths % 10)
}

impl Error {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    pub(crate) fn record(path: impl Into<PathBuf>) -> impl FnOnce(RecordError) -> Self {
        let path = path.into();
        move |reason| Self::Record { path, reason }
    }

    pub(crate) fn payload(path: impl Into<PathBuf>) -> impl FnOnce(payload::Error) -> Self {
        let path = path.into();
        move |source| Self::Payload { path, source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_that_is_refused_is_said_to_be_above_the_limit() {
        let said = |bytes, full| Error::HardlySmaller { path: "D".into(), bytes, full }.to_string();
        let words = "bytes, 80.1 % of the full payload's 1000000, and above 80 % a delta is not worth it";
        assert_eq!(said(800_001, 1_000_000), format!("D is not written: it has 800001 {words}"));
        assert!(said(2_359_296, 2_000_000).contains(" 118.0 % of "), "{}", said(2_359_296, 2_000_000));
        assert!(said(u64::MAX, 0).contains(" % of the full payload's 0,"));
    }
}
