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
    /// A file that is neither a record nor a payload.
    #[error("{}: expected a release record (\"OTARECv1\") or a payload (\"OTAPAYLD\"), got {got}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What it is instead, as [`describe`](manifests::foreign::describe) says it.
        got: String,
    },
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
