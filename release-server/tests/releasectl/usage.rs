//! The command line itself: usage, pipes, help, commands to copy.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use crate::desk::{Desk, SIGNED, build_line, messages};

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    assert!(Command::new("mkfifo").arg(desk.path("pipe")).status().unwrap().success());
    let refusal = |path: &str, got: &str| format!("{path}: expected a regular file or a block device, got {got}\n");
    let hint = "hint: save it to a file first: records and payloads are read more than once\n";
    let pipe = refusal("pipe", "a pipe, socket or character device");
    for line in ["inspect pipe", "verify pipe --keyring keyring", "sign pipe --key one.key"] {
        desk.bad(line, 1, &format!("error: {pipe}{hint}"));
    }
    let itself = "hint: give the file itself, such as VERSION.release\n";
    desk.bad("inspect keyring", 1, &format!("error: {}{itself}", refusal("keyring", "a directory")));
    let run = desk.run("verify out/1.0.0.release pipe --keyring keyring");
    assert_eq!(run.code, 1);
    assert!(run.stdout.ends_with(&format!("pipe: BAD\n  {pipe}  {hint}")), "{}", run.stdout);
    assert!(Command::new("mkfifo").arg(desk.path("keyring/pipe.pub")).status().unwrap().success());
    let run = desk.run("verify out/1.0.0.release --keyring keyring");
    assert_eq!(
        (run.code, run.stderr.starts_with("error: keyring/pipe.pub: expected a regular file")),
        (1, true),
        "{}",
        run.stderr
    );
}

#[test]
fn bad_usage_exits_2_and_says_what_was_expected() {
    let desk = Desk::new();
    let cases = [
        (build_line("1.0.0", 1, "--key one.key --created yesterday"), "expected a time such as 2026-01-31T00:00:00Z"),
        (build_line("../1", 1, SIGNED), "expected a version of 1 to 64 letters"),
        (build_line("1.0.0", 1, "--created 2026-01-31T00:00:00Z"), "<--key <FILE>|--unsigned>"),
        (build_line("1.0.0", 1, &format!("{SIGNED} --unsigned")), "'--key <FILE>' cannot be used with '--unsigned'"),
        (build_line("1.0.0", 1, &format!("{SIGNED} --level 23")), "23 is not in 1..=22"),
        (build_line("1.0.0", 1, &format!("{SIGNED} --level 3 --best")), "cannot be used with"),
        (build_line("1.0.0", 1, &format!("{SIGNED} --threads 0")), "expected a number from 1 to 256"),
        (build_line("1.0.0", 1, &format!("{SIGNED} --revoke-key 12")), "expected the 16 hex digits of a key id"),
        (build_line("1.0.0", 1, &format!("{SIGNED} --notes-url https://a/b")), "--notes-sha256 <HEX>"),
        (
            "build --app a --version 1 --sequence 9007199254740993 --image root=root.img --out out".to_owned(),
            "expected a whole number of at most 2^53",
        ),
        ("publich".to_owned(), "unrecognized subcommand 'publich'"),
        (String::new(), "Usage: releasectl [OPTIONS] <COMMAND>"),
    ];
    for (line, expected) in cases {
        let run = desk.run(&line);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{line}");
        assert!(run.stderr.contains(expected), "{line}: {}", run.stderr);
    }
    assert!(!desk.path("out").exists());
}

#[test]
fn what_comes_later_is_answered_by_name() {
    let desk = Desk::new();
    for line in ["publish --server http://h/ x", "channel", "group list", "rollout --json", "host"] {
        let verb = line.split(' ').next().unwrap();
        desk.bad(
            line,
            2,
            &format!(
                "error: `releasectl {verb}` is not available in this build\n\
                 hint: this build makes releases and deltas as files (releasectl --help); put them where a file server finds them\n"
            ),
        );
    }
}

#[test]
fn commands_to_copy_are_quoted() {
    let desk = Desk::new();
    fs::copy(desk.path("one.key"), desk.path("our own.key")).unwrap();
    fs::set_permissions(desk.path("our own.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let one = "34750f98bd59fcfc";
    let built = desk
        .command(&build_line("1.0.0", 1, &format!("{SIGNED} --key two.key --revoke-key {one}")).replace("--out out", ""))
        .args(["--out", "out of it"])
        .output()
        .unwrap();
    assert!(built.status.success());
    let unsigned =
        build_line("1.0.0", 1, &format!("--unsigned --created 2026-01-31T00:00:00Z --revoke-key {one} --drop-signatures"));
    let again = desk.command(&unsigned.replace("--out out", "")).args(["--out", "out of it"]).output().unwrap();
    let signed = desk.command("sign --key").args(["our own.key", "out of it/1.0.0.release"]).output().unwrap();
    for (output, expected) in [
        (&again, "hint: releasectl sign 'out of it/1.0.0.release' --key FILE, with each of these keys that should have signed\n"),
        (&again, "hint: releasectl sign 'out of it/1.0.0.release' --key FILE, with the next key\n"),
        (&signed, "hint: chmod 600 'our own.key'\n"),
        (&signed, "hint: releasectl sign 'out of it/1.0.0.release' --key FILE, with the next key\n"),
    ] {
        let said = messages(&output.stderr);
        assert!(output.status.success() && said.contains(expected), "{said}");
    }
}

#[test]
fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    for line in ["inspect out/1.0.0.payload", "--help", "--version"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = desk.command(line).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{line}");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = desk.command("inspect out/1.0.0.payload").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stderr, b"error: cannot write to stdout: No space left on device (os error 28)\n");
}

#[test]
fn help_teaches_and_version_is_told() {
    let desk = Desk::new();
    let help = desk.good("--help");
    for expected in ["key", "build", "delta", "sign", "verify", "inspect", "A first release:", "demo.key stays offline"] {
        assert!(help.contains(expected), "{expected}: {help}");
    }
    for later in ["publish", "rollout"] {
        assert!(!help.contains(&format!("  {later} ")), "{later} does not exist yet");
    }
    assert_eq!(desk.good("--version"), format!("releasectl {}\n", env!("CARGO_PKG_VERSION")));
}
