//! Local trust (design 11.16): what the daemon believes must belong to root, and nobody else may be able to change it.
//!
//! A path is trusted when every step on the way to it is: each folder and each symbolic link belongs to root (or to the
//! daemon's own uid, for tests and image mode), each folder is writable by its owner alone (or has the sticky bit, which keeps
//! others from replacing what is not theirs), and the file itself is writable by its owner alone. Once that holds, nobody but
//! root can make it false, so looking first and opening later leaves no gap.
//!
//! What does not exist is no problem of trust; the folders above it are looked at all the same.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Most symbolic links followed on the way to one path: the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Most files looked at in one folder.
const MAX_ENTRIES: usize = 4096;

/// Something that must be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A file.
    File(PathBuf),
    /// A folder, whatever is in it.
    Folder(PathBuf),
    /// A folder and every entry in it.
    FolderAndFiles(PathBuf),
}

/// Why something is not trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// It belongs to somebody else.
    #[error("{}{}: expected it to belong to root (uid 0){}, got uid {got}", path.display(), via(path, asked), or_own(*own_uid))]
    Owner {
        /// What.
        path: PathBuf,
        /// On the way to what.
        asked: PathBuf,
        /// Its owner.
        got: u32,
        /// The daemon's uid.
        own_uid: u32,
    },
    /// Others may write it.
    #[error("{}{}: expected nobody but its owner to be able to write it, got mode {mode:04o}", path.display(), via(path, asked))]
    Writable {
        /// What.
        path: PathBuf,
        /// On the way to what.
        asked: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is something else.
    #[error("{}: expected a {expected}, got something else", path.display())]
    Kind {
        /// What.
        path: PathBuf,
        /// "file" or "folder".
        expected: &'static str,
    },
    /// Too many links or entries.
    #[error("{}: expected at most {limit} {what}, got more", path.display())]
    TooMany {
        /// What.
        path: PathBuf,
        /// Of what.
        what: &'static str,
        /// The cap.
        limit: usize,
    },
    /// It cannot be looked at.
    #[error("{}: cannot look at who may change it", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
}

fn via(path: &Path, asked: &Path) -> String {
    if path == asked { String::new() } else { format!(" (on the way to {})", asked.display()) }
}

fn or_own(own_uid: u32) -> String {
    if own_uid == 0 { String::new() } else { format!(" or to uid {own_uid}") }
}

/// Looks at all targets; every problem is answered, not only the first.
pub fn check_trust(targets: &[Target], own_uid: u32) -> Result<(), Vec<TrustError>> {
    let errors: Vec<TrustError> = targets.iter().flat_map(|target| check_target(target, own_uid)).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn check_target(target: &Target, own_uid: u32) -> Vec<TrustError> {
    match target {
        Target::File(path) => check_path(path, Kind::File, own_uid).err().into_iter().collect(),
        Target::Folder(path) => check_path(path, Kind::Folder, own_uid).err().into_iter().collect(),
        Target::FolderAndFiles(path) => match check_path(path, Kind::Folder, own_uid) {
            Ok(Found::Yes) => check_entries(path, own_uid),
            Ok(Found::No) => Vec::new(),
            Err(error) => vec![error],
        },
    }
}

fn check_entries(folder: &Path, own_uid: u32) -> Vec<TrustError> {
    let failed = |source| vec![TrustError::Io { path: folder.to_owned(), source }];
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(source) => return failed(source),
    };
    let mut errors = Vec::new();
    for (index, entry) in entries.enumerate() {
        if index == MAX_ENTRIES {
            errors.push(TrustError::TooMany { path: folder.to_owned(), what: "entries", limit: MAX_ENTRIES });
            break;
        }
        match entry {
            Ok(entry) => errors.extend(check_path(&entry.path(), Kind::Any, own_uid).err()),
            Err(source) => return failed(source),
        }
    }
    errors
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
    Any,
}

enum Found {
    Yes,
    No,
}

/// Walks from the root, following links by itself so that each of them is looked at.
fn check_path(asked: &Path, kind: Kind, own_uid: u32) -> Result<Found, TrustError> {
    let walk = Walk { asked, own_uid };
    let mut ahead = steps(asked);
    let mut here = PathBuf::from("/");
    let mut links = 0;
    let mut last = walk.look(&here)?;
    while let Some(step) = ahead.pop() {
        walk.folder(&here, last.as_ref())?;
        let next = if step == ".." { parent(&here) } else { here.join(&step) };
        let Some(metadata) = walk.look(&next)? else {
            return Ok(Found::No);
        };
        walk.owner(&next, &metadata)?;
        if metadata.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(TrustError::TooMany { path: asked.to_owned(), what: "symbolic links", limit: MAX_LINKS });
            }
            let target = fs::read_link(&next).map_err(|source| TrustError::Io { path: next.clone(), source })?;
            if target.is_absolute() {
                here = PathBuf::from("/");
                last = walk.look(&here)?;
            }
            ahead.extend(steps(&target));
        } else {
            here = next;
            last = Some(metadata);
        }
    }
    match last {
        Some(metadata) => walk.end(&here, &metadata, kind).map(|()| Found::Yes),
        None => Ok(Found::No),
    }
}

/// The steps of a path, last one first.
fn steps(path: &Path) -> Vec<OsString> {
    let step = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(step).collect()
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

struct Walk<'a> {
    asked: &'a Path,
    own_uid: u32,
}

impl Walk<'_> {
    fn look(&self, path: &Path) -> Result<Option<Metadata>, TrustError> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(TrustError::Io { path: path.to_owned(), source }),
        }
    }

    fn owner(&self, path: &Path, metadata: &Metadata) -> Result<(), TrustError> {
        let got = metadata.uid();
        if got == 0 || got == self.own_uid {
            return Ok(());
        }
        Err(TrustError::Owner { path: path.to_owned(), asked: self.asked.to_owned(), got, own_uid: self.own_uid })
    }

    /// A folder on the way.
    fn folder(&self, path: &Path, metadata: Option<&Metadata>) -> Result<(), TrustError> {
        const STICKY: u32 = 0o1000;
        match metadata {
            Some(metadata) if metadata.mode() & STICKY == 0 => self.unshared(path, metadata),
            _ => Ok(()),
        }
    }

    fn unshared(&self, path: &Path, metadata: &Metadata) -> Result<(), TrustError> {
        const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
        if metadata.mode() & GROUP_OR_OTHERS_WRITE == 0 {
            return Ok(());
        }
        let mode = metadata.mode() & 0o7777;
        Err(TrustError::Writable { path: path.to_owned(), asked: self.asked.to_owned(), mode })
    }

    /// What the path leads to. Here the sticky bit helps nobody: others could add files of their own.
    fn end(&self, path: &Path, metadata: &Metadata, kind: Kind) -> Result<(), TrustError> {
        let expected = match kind {
            Kind::File if !metadata.is_file() => Some("file"),
            Kind::Folder if !metadata.is_dir() => Some("folder"),
            _ => None,
        };
        if let Some(expected) = expected {
            return Err(TrustError::Kind { path: self.asked.to_owned(), expected });
        }
        self.unshared(path, metadata)
    }
}
