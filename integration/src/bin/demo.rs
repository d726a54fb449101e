//! The main job, told on the terminal: a machine with a real boot loader, and what its operator sees.
//!
//! Needs neither root nor a network: the machine is emulated by QEMU, and its servers listen on loopback.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the terminal is where it is told")]
#![allow(clippy::unwrap_used, reason = "a story that goes another way ends there, with words")]

use std::fs;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use clap::Parser;
use integration::rig::program;
use integration::vm::{Flaw, Loader, REBOOTS, Running, Scene};

/// Where no machine can be had.
const NO_MACHINE: u8 = 3;
/// How a guest reaches this host.
const HOST: &str = "10.0.2.2";
/// Lines of a console that tell the story; the rest of it is the kernel's.
const TELLING: [&str; 5] = ["ota: ", "Linux version", "guest: up", "INFO", "WARN"];
/// Columns of a terminal that a line of a console takes at most.
const WIDTH: usize = 150;

/// Tells the story of three releases on a virtual machine with GRUB.
///
/// Exit codes: 0 told; 3 no machine can be had here, and why. A story that goes another way ends with a panic that shows the console.
#[derive(Parser)]
#[command(version, about, long_about)]
struct Arguments {}

fn main() -> ExitCode {
    let Arguments {} = Arguments::parse();
    let began = Instant::now();
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            eprintln!("error: no temporary folder: {error}");
            return ExitCode::FAILURE;
        }
    };
    let lock = Locksmith::start(folder.path());
    let more = format!(
        "{REBOOTS}strategy = \"lock\"\nretry_s = 2\n[reboot.lock]\nbackend = \"fleetlock\"\nurl = \"{}/\"\ngroup = \"default\"\n",
        lock.url.replace("127.0.0.1", HOST)
    );
    chapter("A machine: GRUB, an ESP, slots a and b, a state partition; the factory wrote version 1.0.0 to slot a");
    match Scene::configured(Loader::GrubBios, folder.path(), &more) {
        Ok(scene) => tell(scene, &lock),
        Err(why) => {
            eprintln!("no virtual machine can be had here: {why}");
            return ExitCode::from(NO_MACHINE);
        }
    }
    println!("\nTold in {} s. Nothing is left behind but the kernel in the cache.", began.elapsed().as_secs());
    ExitCode::SUCCESS
}

fn tell(mut scene: Scene, lock: &Locksmith) {
    let mut boot = scene.boot_into("1.0.0", "a");
    show_console(&boot.console());
    shown(&mut boot, "status");

    chapter("Version 2.0.0 is published: check, download, write, prove, lock, arm, reboot");
    scene.publish("2.0.0", 2, Flaw::None);
    ordered(&mut boot, "check");
    let console = boot.wait_off();
    show_console(after(&console, "idle"));

    chapter("GRUB counts a try and starts slot b; it is healthy, and is kept; the lock is given back");
    let mut boot = scene.boot_into("2.0.0", "b");
    show_console(&boot.console());
    lock.show();
    shown(&mut boot, "status");
    guest(&mut boot, "grep ^ota_ /efi/grub/grubenv");

    chapter("The power fails, twice, in ordinary boots: nothing changes");
    boot.power_cut();
    scene.boot("b").power_cut();
    println!("  | (cut, while the kernel starts)");
    let mut boot = scene.boot_into("2.0.0", "b");
    show_console(&boot.console());

    chapter("Somebody changes one byte of a release on the server");
    scene.publish("2.9.0", 3, Flaw::None);
    flip_a_byte(&scene.files().join("2.9.0.release"));
    shown(&mut boot, "check");
    shown(&mut boot, "status");

    chapter("Version 3.0.0 is signed and whole, but its service does not run: it leaves by itself");
    scene.publish("3.0.0", 4, Flaw::Unhealthy);
    ordered(&mut boot, "check");
    boot.wait_off();
    let console = scene.boot("a").wait_off();
    show_console(&console);
    let mut boot = scene.boot_into("2.0.0", "b");
    show_console(&boot.console());
    shown(&mut boot, "status");
    shown(&mut boot, "history");
    lock.show();
}

fn chapter(words: &str) {
    println!("\n== {words} ==");
}

/// A command as the operator types it, and what it says.
fn shown(boot: &mut Running, arguments: &str) {
    println!("host# updatectl {arguments}");
    let (code, text) = boot.updatectl(arguments);
    println!("{}", if std::io::stdout().is_terminal() { text } else { without_colours(&text) });
    if code != 0 {
        println!("(exit code {code})");
    }
}

/// The same of a command that may not come back: where a check of its own is under way, the host may reboot before the command has ended.
fn ordered(boot: &mut Running, arguments: &str) {
    println!("host# updatectl {arguments}");
    boot.order(&format!("updatectl --config /state/config.toml {arguments}"));
}

fn guest(boot: &mut Running, command: &str) {
    println!("host# {command}");
    println!("{}", boot.ask(command).1);
}

fn show_console(console: &str) {
    let text = without_colours(console);
    let telling = text.lines().filter(|line| TELLING.iter().any(|words| line.contains(words)));
    telling.for_each(|line| println!("  | {}", line.chars().take(WIDTH).collect::<String>()));
}

/// Without the sequences by which a terminal is told of colours and places.
fn without_colours(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            // ESC [ parameters letter
            '\u{1b}' => drop(characters.by_ref().skip(1).find(char::is_ascii_alphabetic)),
            '\n' => plain.push('\n'),
            other if other.is_control() => {}
            other => plain.push(other),
        }
    }
    plain
}

/// What was written to the console since these words stood there first.
fn after<'a>(console: &'a str, words: &str) -> &'a str {
    console.split_once(words).map_or(console, |(_, rest)| rest)
}

fn flip_a_byte(file: &Path) {
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 200).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 200).unwrap();
}

/// The reboot coordinator; it ends with this.
struct Locksmith {
    server: Child,
    url: String,
}

impl Locksmith {
    fn start(folder: &Path) -> Self {
        let data = folder.join("locks");
        let mut start = Command::new(program("locksmithd"));
        start.arg("--data").arg(data).args(["--listen", "127.0.0.1:0"]);
        let mut server = start.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let output = server.stdout.take().unwrap();
        let line = BufReader::new(output).lines().map_while(Result::ok).find(|line| line.contains("http://")).unwrap();
        let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
        Self { server, url }
    }

    fn show(&self) {
        println!("$ locksmithctl status");
        let status = Command::new(program("locksmithctl")).args(["--server", &self.url, "status"]).status().unwrap();
        assert!(status.success(), "locksmithctl ended with {status}");
    }
}

impl Drop for Locksmith {
    fn drop(&mut self) {
        let _ended_already = self.server.kill();
        let _reaped = self.server.wait();
    }
}
