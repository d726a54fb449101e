//! What to do about an error.

use std::io::{self, ErrorKind};

use manifests::keyring::KeyError;
use manifests::release::RecordError;
use payload::verity::VerityError;

use crate::publisher::{A_DIRECTORY, Error};

/// A hint, where there is one that is more than the error turned round.
pub(super) fn for_error(error: &Error) -> Option<&'static str> {
    match error {
        Error::File { source, .. } => for_io(source),
        Error::KeyExists { .. } => Some("choose another --out; a key that is lost cannot sign what it must revoke"),
        Error::ReleaseExists { .. } => {
            Some("give it a new --version and --sequence, or another --out; --replace if no host has seen the old one")
        }
        Error::UnreadableRecord { .. } => Some(
            "--replace writes it anew, signed by the keys given only; if it is no damage, give a new --version and --sequence, or another --out",
        ),
        Error::Busy { .. } => {
            Some("wait for the releasectl that works there, and look for one that was stopped; is it this script's own `flock`?")
        }
        Error::NotAFile { got: A_DIRECTORY, .. } => Some("give the file itself, such as VERSION.release"),
        Error::NotAFile { .. } => Some("save it to a file first: records and payloads are read more than once"),
        Error::TooLong { .. } => Some("is it the right file? `releasectl inspect FILE` says what a file is"),
        Error::NotAnImage { .. } => {
            Some("give the image itself, such as root=rootfs.ext4; folders are made into images by mke2fs -d")
        }
        Error::NoImageForTree { .. } => Some("--verity NAME takes the name of one --image; without a name it is root"),
        Error::Tree { reason: VerityError::Size { .. }, .. } => {
            Some("the kernel maps whole blocks: make the image a multiple of 4096 bytes long (truncate -s %4096 FILE)")
        }
        Error::NoImages { .. } | Error::NotFull { .. } => {
            Some("give the VERSION.payload that `releasectl build` wrote, or the images themselves")
        }
        Error::LeansOn { .. } => Some("--from OLD.release, and --from-image NAME=FILE if its OLD.payload is not beside it"),
        Error::LeansOnAnother { .. } => Some("`releasectl inspect` shows the digests of the images that it leans on"),
        Error::WrongPayload { .. } => Some("fetch the payload again, or give the images as files"),
        Error::NoSuchImage { .. } | Error::ImageMissing { .. } => {
            Some("`releasectl inspect RELEASE` lists its images; NAME@SLOT=FILE is for one that fits one slot only")
        }
        Error::ImageSize { .. } | Error::AnotherImage { .. } => {
            Some("give the very file that the release was built of; mounted once for writing, an image is another one")
        }
        Error::Strangers { .. } | Error::SameRelease { .. } => {
            Some("is --from the release that hosts run, and --to the one they go to?")
        }
        Error::TooOldToLeanOn { .. } => Some("build the delta to the release that they go to first"),
        Error::HardlySmaller { .. } => Some("hosts take the full payload; --force writes the delta all the same"),
        Error::Tree { .. } | Error::NoDice { .. } => None,
        Error::Key(error) => for_key(error),
        Error::Unfit(error) => for_unfit(error),
        Error::Record { reason: error, .. } => for_record(error),
        Error::Payload { source, .. } => for_payload(source),
        Error::Unknown { .. } => Some("give a VERSION.release or VERSION.payload as `releasectl build` writes them"),
    }
}

fn for_io(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::PermissionDenied => Some("check the owner and the permissions of the file and its folders"),
        kind if is_full(kind) => Some("free some space there"),
        _ => None,
    }
}

fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

const fn for_key(error: &KeyError) -> Option<&'static str> {
    match error {
        KeyError::Malformed { .. } => {
            Some("a private key is NAME.key, a public key NAME.pub, both as `releasectl key generate` writes them")
        }
        KeyError::Public { .. } => Some("sign with NAME.key; NAME.pub goes into the keyring folder of the hosts"),
        KeyError::Private { .. } => Some(
            "put NAME.pub there; who has read that file can sign: `releasectl build --revoke-key ID` makes hosts distrust the key",
        ),
        KeyError::OtherId { .. } => Some("take the file from its owner again; never trust or use one that stays like this"),
        KeyError::Empty { .. } => Some("put the publisher's NAME.pub into that folder"),
        KeyError::AllRevoked { .. } => Some("put the NAME.pub of the publisher's next key into that folder"),
        KeyError::Unreachable { .. } => Some("add public keys to the folder, or lower --threshold"),
        KeyError::NotAPoint { .. } | KeyError::IdClash { .. } | KeyError::TooMany => None,
    }
}

const fn for_unfit(error: &RecordError) -> Option<&'static str> {
    match error {
        RecordError::RevokesItsSigners { .. } => Some(
            "give the next key as well; if that is elsewhere, build it --unsigned, or with the next key, and add the others with `releasectl sign`",
        ),
        RecordError::TooManySignatures { .. } => None,
        error => for_record(error),
    }
}

const fn for_record(error: &RecordError) -> Option<&'static str> {
    match error {
        RecordError::Magic { .. } => Some("is it the right file? `releasectl inspect FILE` says what a file is"),
        RecordError::Unsigned { .. } => Some("sign it: releasectl sign RELEASE --key FILE"),
        RecordError::TooFewSignatures { .. } => {
            Some("add signatures with `releasectl sign`, or check that --keyring is the right folder")
        }
        RecordError::RevokesItsSigners { .. } => {
            Some("let a key sign that stays: a key is revoked by a release that the next keys have signed, too")
        }
        RecordError::TooManySignatures { .. } => Some(
            "`releasectl build --drop-signatures` of the same input makes the record anew, signed by the keys given only: the release stays the same",
        ),
        RecordError::AlreadySigned { .. } => Some("give each key once; a threshold counts distinct keys"),
        RecordError::Forged { .. } | RecordError::Table { .. } | RecordError::Length { .. } => {
            Some("fetch the record again from its publisher; never install one that stays like this")
        }
        _ => None,
    }
}

fn for_payload(error: &payload::Error) -> Option<&'static str> {
    match error {
        payload::Error::Magic { .. } => Some("is it the right file? `releasectl inspect FILE` says what a file is"),
        payload::Error::Foreign { .. } => Some("a payload fits one release only: compare with `releasectl inspect`"),
        payload::Error::Length { .. } | payload::Error::TableDigest { .. } => Some("fetch the payload again"),
        payload::Error::Write { source, .. } if is_full(source.kind()) => {
            Some("free some space there: a build needs about twice the size of its payload")
        }
        payload::Error::SelfCheck { .. } => Some("run a memory test on this machine, and build on another"),
        _ => None,
    }
}
