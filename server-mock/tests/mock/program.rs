//! The program `server-mock`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use crate::client::folder;

/// Ends the program with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_server-mock"))
}

fn ended(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = program().args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn it_prints_its_address_first_and_serves_files_beside_its_script() {
    let dir = folder();
    let script = dir.path().join("script.toml");
    std::fs::write(&script, "files_dir = \".\"\n[[answers]]\nkind.noupdate = {}\n").unwrap();
    let child = program()
        .arg("--script")
        .arg(&script)
        .args(["--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut running = Running(child.unwrap());
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addr = line.trim_end().strip_prefix("listening on http://127.0.0.1:").unwrap().parse::<u16>().unwrap();
    let request = b"GET /files/f.payload HTTP/1.1\r\nConnection: close\r\n\r\n";
    let (all, _) = crate::client::exchange(([127, 0, 0, 1], addr).into(), request, std::time::Duration::from_secs(2));
    assert!(all.starts_with(b"HTTP/1.1 200 OK\r\n"));
    // The pipe is closed by now, and it lives.
    assert!(running.0.try_wait().unwrap().is_none());
}

#[test]
fn a_bad_script_ends_it_with_its_place() {
    let dir = folder();
    let script = dir.path().join("script.toml");
    let path = script.to_str().unwrap();
    let (code, stdout, stderr) = ended(&["--script", path]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(
        stderr,
        format!(
            "server-mock: cannot read script {path}\n  because: No such file or directory (os error 2)\n\
             hint: a script is a file in TOML; an empty one will do to begin with\n"
        )
    );
    std::fs::write(&script, "[[answers]]\nkind.noupdate = {}\ntimes = 0\n").unwrap();
    let (code, _, stderr) = ended(&["--script", path]);
    assert_eq!(
        (code, stderr),
        (
            Some(1),
            format!(
                "server-mock: script {path}: answers[0]: expected times of at least 1, got 0\n\
                 hint: the README of server-mock lists every key and kind with an example\n"
            )
        )
    );
    std::fs::write(&script, "").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, _, stderr) = ended(&["--script", path, "--listen", &taken.local_addr().unwrap().to_string()]);
    assert_eq!(code, Some(1));
    assert!(stderr.ends_with("hint: another program listens there; with port 0 a free port is taken and printed\n"), "{stderr}");
}

#[test]
fn a_folder_that_is_not_there_is_warned_of_at_the_start() {
    let dir = folder();
    let script = dir.path().join("script.toml");
    std::fs::write(&script, "files_dir = \"nowhere\"\n").unwrap();
    let child = program().arg("--script").arg(&script).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut running = Running(child.unwrap());
    let mut line = String::new();
    BufReader::new(running.0.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("WARN") && line.contains("nowhere: expected a folder, found none"), "{line}");
}

#[test]
fn bad_usage_is_exit_code_2_and_help_teaches() {
    assert_eq!(ended(&[]).0, Some(2));
    assert_eq!(ended(&["--script", "x", "--listen", "nowhere"]).0, Some(2));
    let (code, help, _) = ended(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(help.contains("GET /_recorded"), "{help}");
    assert_eq!(ended(&["--version"]).1, format!("server-mock {}\n", env!("CARGO_PKG_VERSION")));
}
