//! The README's tour is true: its blocks are run as they stand there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use integration::rig::{program, tail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use update_engine::config::{Source, parse};

/// A tour of five minutes that takes longer than two for a program has hung.
const PATIENCE: Duration = Duration::from_secs(120);
/// Programs that the tour calls, beside those of any Debian.
const TOOLS: [&str; 2] = ["mke2fs", "debugfs"];

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap()
}

/// What stands under a heading of the second level.
fn chapter<'a>(text: &'a str, title: &str) -> &'a str {
    let start = text.find(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no chapter {title:?}"));
    let rest = &text[start + 4..];
    rest.split("\n## ").next().unwrap()
}

/// The fenced blocks of a language, in order.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    text.split(&format!("```{language}\n")).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// A port that was free a moment ago.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The tour as it runs: its shell, and the daemon that a played reboot has started in a session of its own.
struct Tour {
    shell: Child,
    folder: PathBuf,
}

impl Drop for Tour {
    fn drop(&mut self) {
        let daemon = fs::read_to_string(self.folder.join("daemon.pid")).ok().and_then(|pid| pid.trim().parse::<i32>().ok());
        let is_ours = |pid: &i32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                line.windows(self.folder.as_os_str().len()).any(|part| part == self.folder.as_os_str().as_encoded_bytes())
            })
        };
        if let Some(pid) = daemon.filter(is_ours) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = killpg(Pid::from_raw(i32::try_from(self.shell.id()).unwrap()), Signal::SIGKILL);
        let _ = self.shell.wait();
    }
}

#[test]
fn the_tour_can_be_pasted_block_after_block() {
    let missing = TOOLS.iter().find(|tool| Command::new(tool).arg("-V").env("PATH", search_path()).output().is_err());
    if let Some(tool) = missing {
        println!("skipped: {tool} (e2fsprogs) is not installed");
        return;
    }
    let readme = readme();
    let tour = chapter(&readme, "A tour in five minutes");
    let blocks = blocks(tour, "sh");
    let (build, rest) = blocks.split_first().unwrap();
    assert!(build.starts_with("make build\n") && build.contains("export PATH=\"$PWD/target/debug:$PATH"), "{build}");
    assert!(rest.len() >= 6, "the tour has lost a block");
    assert!(!tour.contains("--board") && !tour.contains("board ="), "the tour shows that both defaults agree");
    let folder = tempfile::tempdir().unwrap();
    let script = format!("set -eu\numask 022\n{}", rest.concat());
    let (server, locks) = (free_address(), free_address());
    let script = script.replace("127.0.0.1:8080", &server).replace("127.0.0.1:8085", &locks);
    fs::write(folder.path().join("tour.sh"), script).unwrap();

    let log = fs::File::create(folder.path().join("tour.log")).unwrap();
    let shell = Command::new("bash")
        .arg("tour.sh")
        .current_dir(folder.path())
        .env("PATH", search_path())
        .env("LOCKSMITHCTL_SERVER", format!("http://{locks}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap();
    let mut running = Tour { shell, folder: folder.path().to_owned() };
    let said = || fs::read_to_string(folder.path().join("tour.log")).unwrap();
    let began = Instant::now();
    let ended = loop {
        if let Some(status) = running.shell.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < PATIENCE, "the tour goes on and on:\n{}", tail(&said(), 60));
        std::thread::sleep(Duration::from_millis(50));
    };
    let said = said();
    assert!(ended.success(), "{}", tail(&said, 60));
    for expected in [
        "files/1.1.0.payload: good",
        "slot a holds 1.0.0 (sequence 1); its record is kept",
        "1.1.0 runs from slot b",
        "committed",
        "going back to 1.0.0 in slot a",
        "1 committed, 0 rolled back, 0 failed",
    ] {
        assert!(said.contains(expected), "{expected:?} was not said:\n{}", tail(&said, 150));
    }
}

/// The programs of this workspace, then what an administrator has.
fn search_path() -> String {
    let programs = program("update-engined");
    format!("{}:{}:/usr/sbin:/sbin", programs.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default())
}

#[test]
fn the_configuration_of_a_real_host_is_one() {
    let readme = readme();
    let blocks = blocks(chapter(&readme, "On a real host"), "toml");
    assert_eq!(blocks.len(), 1);
    let settings = parse(&[Source::new("README.md", blocks[0])]).unwrap();
    assert_eq!(settings.server.board, "generic");
    assert!(settings.reboot.lock.is_some());
}

#[test]
fn every_test_that_stands_for_a_promise_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("docs/testing.md")).unwrap();
    let promises = chapter(&text, "By promise");
    let mut sources = String::new();
    for folder in ["integration", "locksmith", "manifests", "payload", "update-engine"] {
        collect(&root.join(folder), &mut sources);
    }
    for number in 1..=14 {
        assert!(promises.contains(&format!("| P{number} |")), "P{number} is not told of");
    }
    let mut seen = 0;
    for name in promises.split('`').skip(1).step_by(2) {
        let there = match name {
            "cargo test NAME" | "make bench" => true,
            path if path.contains('/') => root.join(path).is_file(),
            test => has_test(&sources, test),
        };
        assert!(there, "docs/testing.md names {name}, which is not there");
        seen += 1;
    }
    assert!(seen > 40, "only {seen} names were found");
}

/// A function of that name is there, and an attribute above it makes it a test.
fn has_test(sources: &str, name: &str) -> bool {
    sources.match_indices(&format!("fn {name}(")).any(|(at, _)| {
        let above = sources[..at].rsplit('\n').skip(1);
        above.take_while(|line| line.trim_start().starts_with("#[")).any(|line| line.contains("test]") || line.contains("test("))
    })
}

#[test]
fn a_helper_a_field_or_a_comment_is_no_test() {
    let is_test = |source: &str| has_test(source, "it_holds");
    assert!(is_test("#[test]\nfn it_holds() {}") && is_test("mod a {\n    #[tokio::test]\n    async fn it_holds() {}"));
    assert!(is_test("#[tokio::test(flavor = \"multi_thread\")]\n#[ignore = \"why\"]\nasync fn it_holds() {}"));
    for none in ["fn it_holds() {}", "#[test]\nfn other() { it_holds(); }", "it_holds: bool,", "// it_holds: was here", ""] {
        assert!(!is_test(none), "{none}");
    }
}

/// All Rust below a folder, one after the other.
fn collect(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, text);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            *text += &fs::read_to_string(&path).unwrap();
        }
    }
}

#[test]
fn every_file_the_readme_and_the_documents_link_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let documents = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let markdown = documents.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let mut seen = 0;
    for document in markdown.chain([root.join("README.md")]) {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.contains(char::is_whitespace) {
                continue;
            }
            assert!(document.parent().unwrap().join(path).exists(), "{}: {link}", document.display());
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} links were found");
}
