//! A folder to work in, `releasectl`, and what it says.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use manifests::keyring::SecretKey;
use tempfile::TempDir;

pub(crate) const WINDOW: usize = 256 * 1024;

/// A folder with keys `one`, `two` and `evil`, a keyring of the first two, and an image of 9 windows.
pub(crate) struct Desk {
    pub(crate) dir: TempDir,
}

pub(crate) struct Run {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: i32,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let desk = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(desk.path("keyring")).unwrap();
        for (name, seed) in [("one", 1), ("two", 2), ("evil", 9)] {
            let key = SecretKey::from_seed(&[seed; 32]);
            desk.write(&format!("{name}.key"), key.to_text(name));
            fs::set_permissions(desk.path(&format!("{name}.key")), fs::Permissions::from_mode(0o600)).unwrap();
            if name != "evil" {
                desk.write(&format!("keyring/{name}.pub"), key.public().to_text(name));
            }
        }
        desk.write("root.img", image(1));
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_releasectl"));
        command.args(line.split_whitespace()).current_dir(self.dir.path()).env_remove("SOURCE_DATE_EPOCH");
        command
    }

    pub(crate) fn run(&self, line: &str) -> Run {
        let output = self.command(line).output().unwrap();
        Run {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: messages(&output.stderr),
            code: output.status.code().unwrap(),
        }
    }

    /// Runs a line that must succeed without a word on stderr.
    pub(crate) fn good(&self, line: &str) -> String {
        let run = self.run(line);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{line}");
        run.stdout
    }

    /// Runs a line that must fail with exactly this exit code and these words, and nothing on stdout.
    pub(crate) fn bad(&self, line: &str, code: i32, stderr: &str) {
        let run = self.run(line);
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (code, "", stderr), "{line}");
    }

    pub(crate) fn build(&self, version: &str, sequence: u32, rest: &str) -> String {
        self.good(&build_line(version, sequence, rest))
    }

    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.path(folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// What stderr says besides progress, of which a slow machine shows more than a fast one.
pub(crate) fn messages(stderr: &[u8]) -> String {
    const STEPS: [&str; 4] = ["building: ", "checking: ", "reading: ", "looking for what is alike: "];
    let is_progress = |line: &&str| STEPS.iter().any(|step| line.starts_with(step));
    std::str::from_utf8(stderr).unwrap().split_inclusive('\n').filter(|line| !is_progress(line)).collect()
}

pub(crate) fn build_line(version: &str, sequence: u32, rest: &str) -> String {
    format!("build --app {{demo}} --version {version} --sequence {sequence} --image root=root.img --arch x86_64 --out out {rest}")
}

pub(crate) const SIGNED: &str = "--key one.key --created 2026-01-31T00:00:00Z";

/// 1 MiB of noise, 1 MiB of zeros, a little more noise: no byte of its payload depends on how zstd compresses.
pub(crate) fn image(seed: u64) -> Vec<u8> {
    [noise(seed, 4 * WINDOW), vec![0; 4 * WINDOW], noise(seed + 1, 5000)].concat()
}

pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

pub(crate) fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x01], at).unwrap();
}

/// A folder of so many KiB, as a file system of its own, or why that cannot be had.
pub(crate) fn small_disk(folder: &Path, kib: u32) -> Result<SmallDisk, &'static str> {
    fs::create_dir(folder).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]).arg(folder).stderr(Stdio::null());
    if mount.status().is_ok_and(|status| status.success()) {
        return Ok(SmallDisk(folder.to_owned()));
    }
    Err("a full disk needs root and a tmpfs that can be mounted")
}

pub(crate) struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
