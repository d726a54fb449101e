//! Key files and keyring folders on disk.

use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use manifests::keyring::{KeyError, KeyId, Keyring, PublicKey, SecretKey};
use manifests::limits::{MAX_KEY_FILE_BYTES, MAX_KEYS};
use zeroize::Zeroizing;

use super::Error;
use super::files::{create_exclusively, read_capped, refuse_endless};

/// A pair of key files that was just made.
#[derive(Debug)]
pub struct GeneratedKey {
    /// Id that records name the key by.
    pub id: KeyId,
    /// `NAME.key`: stays with the publisher, offline.
    pub private: PathBuf,
    /// `NAME.pub`: goes into the keyring folder of the hosts.
    pub public: PathBuf,
}

/// Makes a key and writes `NAME.key` (mode 0600) and `NAME.pub`. Files that exist are never touched.
pub fn generate_key(name: &Path) -> Result<GeneratedKey, Error> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|error| Error::NoDice { reason: error.to_string() })?;
    let key = SecretKey::from_seed(&seed);
    let (private, public) = (with_ending(name, ".key")?, with_ending(name, ".pub")?);
    if public.symlink_metadata().is_ok() {
        return Err(Error::KeyExists { path: public });
    }
    let comment = name.file_name().unwrap_or_default().to_string_lossy();
    create_exclusively(&private, 0o600, key.to_text(&comment).as_bytes())?;
    if let Err(error) = create_exclusively(&public, 0o644, key.public().to_text(&comment).as_bytes()) {
        // Half a pair is of no use, and would stand in the way of the next try. We made this file a moment ago.
        let _ = std::fs::remove_file(&private);
        return Err(error);
    }
    Ok(GeneratedKey { id: key.public().id(), private, public })
}

fn with_ending(name: &Path, ending: &str) -> Result<PathBuf, Error> {
    let no_name =
        || Error::file("make a key named", name)(io::Error::new(io::ErrorKind::InvalidInput, "expected the name of a file"));
    let mut file_name = name.file_name().ok_or_else(no_name)?.to_owned();
    file_name.push(ending);
    Ok(name.with_file_name(file_name))
}

/// A private key, and whether its file was kept as it should be.
pub struct LoadedKey {
    /// The key.
    pub key: SecretKey,
    /// Permissions of the file when others may read or write it: reason for a warning.
    pub exposed_mode: Option<u32>,
}

/// Reads a `*.key` file. The bytes that were read are wiped.
pub fn read_secret_key(path: &Path) -> Result<LoadedKey, Error> {
    let bytes = Zeroizing::new(read_capped(path, MAX_KEY_FILE_BYTES)?);
    let key = SecretKey::parse(&path.display().to_string(), &bytes)?;
    let mode = std::fs::metadata(path).map_err(Error::file("look at", path))?.permissions().mode() & 0o777;
    Ok(LoadedKey { key, exposed_mode: Some(mode).filter(|mode| mode & 0o077 != 0) })
}

/// Reads every `*.pub` file of a folder.
pub fn read_keyring(folder: &Path, threshold: NonZeroU32) -> Result<Keyring, Error> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::file("open the keyring folder", folder))? {
        let path = entry.map_err(Error::file("read the keyring folder", folder))?.path();
        if path.extension().is_some_and(|extension| extension == "pub") {
            paths.push(path);
        }
        if paths.len() > MAX_KEYS {
            return Err(KeyError::TooMany.into());
        }
    }
    // The order of a folder is an accident; errors should name the same file each time.
    paths.sort();
    let keys = paths.iter().map(|path| read_public_key(path)).collect::<Result<Vec<_>, _>>()?;
    Ok(Keyring::new(keys, threshold, &[])?)
}

fn read_public_key(path: &Path) -> Result<(String, PublicKey), Error> {
    refuse_endless(path)?;
    let name = path.display().to_string();
    let key = PublicKey::parse(&name, &read_capped(path, MAX_KEY_FILE_BYTES)?)?;
    Ok((name, key))
}
