//! Files for what reads files.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

thread_local! {
    /// Folders that this thread has made.
    static MADE: Cell<u64> = const { Cell::new(0) };
}

/// A folder of its own, gone when dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// One that is empty.
    pub fn new() -> Self {
        let number = MADE.replace(MADE.get() + 1);
        let name = format!("fuzz-{}-{:?}-{number}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("room for a folder");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, and makes the folders above it.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("room for a folder");
        fs::write(path, bytes).expect("room for a file");
    }

    /// What a file holds; `None` if it is not there.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.0.join(name)).ok()
    }

    /// All files below a folder of this one, by their names.
    pub fn files(&self, below: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        let mut folders = vec![self.0.join(below)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.expect("a readable folder").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = fs::read(&path).expect("a readable file");
                    files.push((path, bytes));
                }
            }
        }
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
