//! A file of this machine as a source.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;

use super::error::Fault;

/// A regular file, opened once and never through a link in the last part of its path; later changes of the path do not matter.
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    path: PathBuf,
    size: u64,
}

impl LocalFile {
    /// Opens the file at an absolute path.
    pub fn open(path: PathBuf) -> Result<Self, Fault> {
        let refused = |why: String| Fault::File { why };
        if !path.is_absolute() {
            return Err(refused("expected an absolute path".to_owned()));
        }
        // Without O_NONBLOCK, opening a pipe would wait for a writer.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path);
        let file = file.map_err(|error| refused(open_words(&error)))?;
        let metadata = file.metadata().map_err(|error| refused(format!("cannot look at it: {error}")))?;
        if !metadata.is_file() {
            return Err(refused("not a regular file".to_owned()));
        }
        Ok(Self { file, path, size: metadata.len() })
    }

    /// Its path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length when it was opened.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends `length` bytes from `offset` to `out`; blocks.
    fn read(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        let start = out.len();
        out.resize(start.saturating_add(length), 0);
        let read = self.file.read_exact_at(out.get_mut(start..).unwrap_or_default(), offset);
        read.map_err(|error| {
            out.truncate(start);
            let why = match error.kind() {
                io::ErrorKind::UnexpectedEof => format!("it became shorter than the {} bytes it had when opened", self.size),
                _ => format!("cannot read {length} bytes at byte {offset}: {error}"),
            };
            Fault::File { why }
        })
    }
}

/// Appends `length` bytes from `offset` to `out` on a thread that may block.
pub(super) async fn read_aside(file: &Arc<LocalFile>, offset: u64, length: usize, mut out: Vec<u8>) -> Result<Vec<u8>, Fault> {
    let file = Arc::clone(file);
    let reading = tokio::task::spawn_blocking(move || file.read(offset, length, &mut out).map(|()| out));
    reading.await.map_err(|error| Fault::File { why: format!("the reading thread died: {error}") })?
}

fn open_words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(nix::libc::ELOOP) => "it is a symbolic link: name the file itself".to_owned(),
        _ => format!("cannot open it: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_at_an_absolute_path_is_opened_and_never_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.0.0.payload");
        std::fs::write(&path, b"0123456789").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();

        assert_eq!(LocalFile::open(path.clone()).unwrap().size(), 10);
        let refusal = |path: &Path| LocalFile::open(path.to_path_buf()).unwrap_err().to_string();
        assert_eq!(refusal(&link), "it is a symbolic link: name the file itself");
        assert_eq!(refusal(&pipe), "not a regular file");
        assert_eq!(refusal(folder.path()), "not a regular file");
        assert_eq!(refusal(Path::new("1.0.0.payload")), "expected an absolute path");
        assert!(refusal(&folder.path().join("none")).starts_with("cannot open it: No such file"));
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_and_leaves_what_was_read_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = LocalFile::open(path.clone()).unwrap();
        let mut out = b"kept".to_vec();
        file.read(2, 3, &mut out).unwrap();
        assert_eq!(out, b"kept234");
        std::fs::write(&path, b"01").unwrap();
        let fault = file.read(2, 3, &mut out).unwrap_err();
        assert_eq!(fault.to_string(), "it became shorter than the 10 bytes it had when opened");
        assert_eq!(out, b"kept234");
    }
}
