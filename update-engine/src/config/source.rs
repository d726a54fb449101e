//! Reading the files, under caps.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::problem::ConfigError;

/// Longest file. A configuration with every key and many words is 10 KiB.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Most files in `config.d`.
pub const MAX_FILES: usize = 256;

/// The text of one file and the name it goes by in messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl Source {
    /// A text that goes by `name`.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

/// `file`, then `config.d/*.toml` beside it in the order of their names.
pub(super) fn read(file: &Path) -> Result<Vec<Source>, ConfigError> {
    let mut sources = vec![read_one(file)?];
    for fragment in fragments(file)? {
        sources.push(read_one(&fragment)?);
    }
    Ok(sources)
}

fn read_one(path: &Path) -> Result<Source, ConfigError> {
    let name = path.display().to_string();
    let refused = |words: String| ConfigError::of_file(name.clone(), words);
    let bytes = read_capped(path).map_err(|error| refused(format!("cannot read the configuration: {error}")))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
        return Err(refused(format!("expected at most {MAX_FILE_BYTES} bytes, got more")));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { name, text }),
        Err(error) => {
            let offset = error.utf8_error().valid_up_to();
            Err(refused(format!("expected UTF-8 text, got something else at byte {offset}")))
        }
    }
}

/// At most one byte more than the cap, so that a longer file shows.
fn read_capped(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn fragments(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let directory = file.parent().unwrap_or(Path::new("")).join("config.d");
    let refused = |words: String| ConfigError::of_file(directory.display().to_string(), words);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(refused(format!("cannot read the folder: {error}"))),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| refused(format!("cannot read the folder: {error}")))?.file_name();
        let name_bytes = name.as_encoded_bytes();
        if !name_bytes.ends_with(b".toml") || name_bytes.starts_with(b".") {
            continue;
        }
        if paths.len() == MAX_FILES {
            return Err(refused(format!("expected at most {MAX_FILES} files, got more")));
        }
        paths.push(directory.join(name));
    }
    paths.sort();
    Ok(paths)
}
