//! The real daemon over a state folder that cannot be used.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails, and one that is skipped says why")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A daemon that is killed when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A tmpfs that is gone when dropped.
struct Tmpfs<'a>(&'a Path);

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg(self.0).status();
    }
}

fn start(dir: &Path) -> Daemon {
    let config = dir.join("config.toml");
    let text = format!(
        "state_dir = \"{0}/state\"\nsocket = \"{0}/control.sock\"\nsysroot = \"{0}\"\nserver.app_id = \"x\"\n\
         disk.device = \"{0}/disk\"\nslots.a.root = \"partlabel:a\"\nslots.b.root = \"partlabel:b\"\n\
         reboot.hooks_dir = \"{0}/hooks\"\nreboot.command = [\"true\"]\n",
        dir.display()
    );
    fs::write(&config, text).unwrap();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_update-engined"));
    Daemon(daemon.arg("--config").arg(&config).stderr(Stdio::null()).spawn().unwrap())
}

/// The status, once it says this of the state folder.
fn status_when(dir: &Path, has_trouble: bool) -> Value {
    let began = Instant::now();
    loop {
        let mut ask = Command::new(env!("CARGO_BIN_EXE_updatectl"));
        let output = ask.arg("--socket").arg(dir.join("control.sock")).args(["status", "--json"]).output().unwrap();
        if let Ok(status) = serde_json::from_slice::<Value>(&output.stdout) {
            let troubles = status["troubles"].as_array().unwrap();
            if troubles.iter().any(|trouble| trouble["code"] == "state-dir") == has_trouble {
                return status;
            }
        }
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(began.elapsed() < Duration::from_secs(30), "state-dir trouble {has_trouble} was never told: {told}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_journal_that_cannot_be_opened_is_said_and_waited_for() {
    let dir = TempDir::new().unwrap();
    let journal = dir.path().join("state/journal.db");
    fs::create_dir_all(&journal).unwrap();
    let _daemon = start(dir.path());
    let status = status_when(dir.path(), true);
    let summary = status["summary"].as_str().unwrap();
    assert!(summary.starts_with("Needs attention: journal") && summary.contains("journal.db"), "{summary}");
    let mut pause = Command::new(env!("CARGO_BIN_EXE_updatectl"));
    let refused = pause.arg("--socket").arg(dir.path().join("control.sock")).arg("pause").output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && words.contains("nothing was done"), "{words}");

    fs::remove_dir(&journal).unwrap();
    status_when(dir.path(), false);
    assert!(journal.is_file());
}

#[test]
fn a_full_disk_at_the_start_is_said_and_waited_for() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs"]).arg(&state).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a full disk needs root and a tmpfs that can be mounted");
        return;
    }
    let _tmpfs = Tmpfs(&state);
    let filler = state.join("filler");
    let full = fs::write(&filler, vec![0; 4 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let _daemon = start(dir.path());
    let status = status_when(dir.path(), true);
    assert!(status["summary"].as_str().unwrap().starts_with("Needs attention:"), "{status}");
    fs::remove_file(&filler).unwrap();
    status_when(dir.path(), false);
}
