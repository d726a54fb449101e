//! The two programs, as a user runs them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const DAEMON: &str = env!("CARGO_BIN_EXE_locksmithd");
const CTL: &str = env!("CARGO_BIN_EXE_locksmithctl");

/// A locksmithd on a port of its own; killed with the test.
struct Daemon {
    child: Child,
    url: String,
}

impl Daemon {
    fn start(dir: &Path, more: &[&str]) -> Self {
        Self::start_telling(dir, more, Stdio::null())
    }

    /// The same, with its messages going to `stderr`.
    fn start_telling(dir: &Path, more: &[&str], stderr: Stdio) -> Self {
        let mut child = Command::new(DAEMON)
            .args(["--listen", "127.0.0.1:0", "--data"])
            .arg(dir)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").expect(&line).to_owned();
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        Self { child, url }
    }

    fn ctl(&self, args: &[&str]) -> Output {
        ctl(&self.url, args)
    }

    /// Standard output of a command that must succeed without a word on standard error.
    fn out(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{args:?}");
        text(&output.stdout)
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn wait(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < Duration::from_secs(15), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ctl(url: &str, args: &[&str]) -> Output {
    ctl_as("ada", url, args)
}

fn ctl_as(user: &str, url: &str, args: &[&str]) -> Output {
    Command::new(CTL)
        .args(args)
        .env("LOCKSMITHCTL_SERVER", url)
        .env("USER", user)
        .env_remove("SUDO_USER")
        .env_remove("LOCKSMITHCTL_TOKEN")
        .env_remove("LOCKSMITHCTL_GROUP")
        .output()
        .unwrap()
}

/// Runs locksmithd where it must refuse to start.
fn daemon_refuses(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(DAEMON).args(args).env("RUST_LOG", "off").output().unwrap();
    assert_eq!(text(&output.stdout), "", "nothing is announced");
    (output.status.code(), text(&output.stderr))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn failure(output: &Output) -> (Option<i32>, String) {
    assert_eq!(text(&output.stdout), "");
    (output.status.code(), text(&output.stderr))
}

/// Times, ports and names of this run, made equal in every run.
fn steady(text: &str, url: &str) -> String {
    let text = text.replace(url, "http://SERVER");
    let words = text.split_inclusive([' ', '\n', ';', ')']).map(|word| {
        let bare = word.trim_end_matches([' ', '\n', ';', ')']);
        let is_time = bare.len() == 20 && bare.starts_with('2') && bare.ends_with('Z');
        if is_time { word.replace(bare, "TIME") } else { word.to_owned() }
    });
    let text: String = words.collect();
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    text.replace(&format!("ada@{}", machine.trim()), "ada@MACHINE")
}

#[test]
fn an_operator_looks_locks_is_refused_changes_the_max_and_unlocks() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"), &[]);
    assert_eq!(daemon.out(&["status"]), "Available: 1\nMax: 1\n");
    assert_eq!(daemon.out(&["lock", "host-a"]), "");
    let again = daemon.ctl(&["lock", "host-a"]);
    assert_eq!((again.status.code(), text(&again.stdout).as_str()), (Some(0), ""), "a holder may lock again");
    assert_eq!(
        steady(&text(&again.stderr), &daemon.url),
        "host-a is held already by you (ada@MACHINE) since TIME in group default\n"
    );
    let expected = "\
Available: 0
Max: 1

MACHINE ID  SINCE  PHASE  VERSION  ATTEMPT
host-a      TIME   held   -        (ada@MACHINE)
";
    let shown = steady(&daemon.out(&["status"]), &daemon.url);
    let squeezed = |text: &str| text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    assert_eq!(squeezed(&shown), squeezed(expected));

    let (code, message) = failure(&daemon.ctl(&["lock", "host-b"]));
    assert_eq!(code, Some(1));
    assert_eq!(
        steady(&message, &daemon.url),
        "error: locking: the lock service at http://SERVER/v1/groups/default/lock refused (423 full): \
         group \"default\" is full: 1 of 1 places taken, by host-a (held by ada@MACHINE since TIME)\n\
         hint: see who holds a place: locksmithctl status default\n"
    );
    assert_eq!(daemon.out(&["set-max", "3"]), "Old-Max: 1\nMax: 3\n");
    assert_eq!(daemon.out(&["lock", "host-b"]), "");
    assert_eq!(daemon.out(&["set-max", "1"]), "Old-Max: 3\nMax: 1\n");
    let drained = daemon.out(&["status"]);
    assert!(drained.starts_with("Available: 0\nMax: 1\nDraining: 2 hold a place, more than the max"), "{drained}");

    assert_eq!(daemon.out(&["set-max", "0"]), "Old-Max: 1\nMax: 0\n");
    let (_, message) = failure(&daemon.ctl(&["lock", "host-c"]));
    assert!(message.ends_with("hint: let N hosts hold a place with: locksmithctl set-max N --group default\n"), "{message}");
    assert_eq!(daemon.out(&["set-max", "1"]), "Old-Max: 0\nMax: 1\n");

    let unlocked = daemon.ctl(&["unlock", "host-a", "--reason", "disk dead, ticket 42"]);
    assert_eq!((unlocked.status.code(), text(&unlocked.stdout).as_str()), (Some(0), ""));
    assert_eq!(
        steady(&text(&unlocked.stderr), &daemon.url),
        "host-a is unlocked in group default; it was held by ada@MACHINE since TIME\n"
    );
    let (code, message) = failure(&daemon.ctl(&["unlock", "host-a"]));
    assert_eq!(code, Some(1));
    assert_eq!(
        steady(&message, &daemon.url),
        "error: unlocking: the lock service at http://SERVER/v1/groups/default/unlock refused (404 no_such_holder): \
         host-a holds no place in group \"default\"\nhint: see who holds a place: locksmithctl status default\n"
    );

    let history = steady(&daemon.out(&["history"]), &daemon.url);
    let rows: Vec<String> = history.lines().map(squeezed).collect();
    assert_eq!(
        rows,
        [
            "TIME EVENT MACHINE ID VERSION ATTEMPT DETAILS",
            "TIME forced-unlock host-a - - by ada@MACHINE; disk dead, ticket 42",
            "TIME max-changed - - - max 0 to 1; by ada@MACHINE",
            "TIME max-changed - - - max 1 to 0; by ada@MACHINE",
            "TIME max-changed - - - max 3 to 1; by ada@MACHINE",
            "TIME held host-b - - by ada@MACHINE",
            "TIME max-changed - - - max 1 to 3; by ada@MACHINE",
            "TIME held host-a - - by ada@MACHINE",
            "TIME created - - - max 1",
        ]
    );
}

#[test]
fn two_operators_do_not_share_a_hold() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &["--group", "web=2"]);
    assert_eq!(daemon.out(&["lock", "h1", "--group", "web"]), "");
    let (code, message) = failure(&ctl_as("ben", &daemon.url, &["lock", "h1", "--group", "web"]));
    assert_eq!(code, Some(1));
    assert_eq!(
        steady(&message, &daemon.url),
        "error: locking: the lock service at http://SERVER/v1/groups/web/lock refused (409 id_in_use): \
         h1 is held by ada@MACHINE in group \"web\" since TIME; lock another id, or end that hold first with: \
         locksmithctl unlock --group web -- h1\n"
    );
    let again = daemon.ctl(&["lock", "h1", "--group", "web"]);
    assert_eq!(again.status.code(), Some(0), "who holds it may ask again");
    assert!(text(&again.stderr).starts_with("h1 is held already by you (ada@"), "{}", text(&again.stderr));
}

#[test]
fn an_operator_whose_name_is_not_in_the_environment_is_a_number_on_a_machine() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &[]);
    let locked = Command::new(CTL)
        .args(["lock", "h1"])
        .env("LOCKSMITHCTL_SERVER", &daemon.url)
        .env("SUDO_USER", "")
        .env_remove("USER")
        .env_remove("LOGNAME")
        .status()
        .unwrap();
    assert!(locked.success());
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let json: serde_json::Value = serde_json::from_str(&daemon.out(&["status", "default", "--json"])).unwrap();
    assert_eq!(json["holders"][0]["by"], format!("uid{uid}@{}", machine.trim()));
}

#[test]
fn the_command_in_a_refusal_frees_the_holder_whatever_it_and_its_group_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &[]);
    let bin = Path::new(CTL).parent().unwrap().display();
    for (id, group) in [("h1", "default"), ("-rf", "-x"), ("--", "default"), ("it's;$(false)", "default")] {
        if group == "-x" {
            daemon.out(&["group", "create", "--", group]);
        }
        let lock = [&format!("--group={group}"), "--", id];
        let lock: Vec<&str> = ["lock"].into_iter().chain(lock).collect();
        daemon.out(&lock);
        let (_, message) = failure(&ctl_as("ben", &daemon.url, &lock));
        let command = message.trim_end().rsplit_once("with: ").unwrap().1;
        let freed = Command::new("sh")
            .args(["-c", &format!("PATH={bin}:$PATH; {command}")])
            .env("LOCKSMITHCTL_SERVER", &daemon.url)
            .output()
            .unwrap();
        assert_eq!(freed.status.code(), Some(0), "{command}: {}", text(&freed.stderr));
        assert!(text(&freed.stderr).starts_with(&format!("{id} is unlocked in group {group};")), "{command}");
    }
}

#[test]
fn json_is_for_programs() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &["--group", "web=2"]);
    daemon.out(&["lock", "host-a", "--group", "web"]);
    let json = |args: &[&str]| -> serde_json::Value { serde_json::from_str(&daemon.out(args)).unwrap() };
    let web = json(&["status", "web", "--json"]);
    assert_eq!((&web["schema"], &web["group"], &web["max"]), (&1.into(), &"web".into(), &2.into()));
    assert_eq!((&web["available"], &web["holders"][0]["id"]), (&1.into(), &"host-a".into()));
    assert_eq!(web["holders"][0]["stands"], "held", "no program has to know that an operator's hold is no reboot");
    let all = json(&["status", "--json"]);
    assert_eq!(all["groups"].as_array().unwrap().len(), 2);
    assert_eq!(json(&["group", "list", "--json"]), all);
    assert_eq!(json(&["history", "web", "--json"])["entries"][0]["event"], "held");
}

#[test]
fn groups_are_made_listed_and_changed() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &["--group", "web=2"]);
    assert_eq!(daemon.out(&["group", "create", "db", "--max", "1"]), "Group: db\nMax: 1\n");
    assert_eq!(daemon.out(&["group", "set", "db", "--max", "4"]), "Old-Max: 1\nMax: 4\n");
    let expected = "\
GROUP    AVAILABLE  MAX  HOLDERS  WAITING
db       4          4    0        0
default  1          1    0        0
web      2          2    0        0
";
    assert_eq!(daemon.out(&["status"]), expected);
    assert_eq!(daemon.out(&["group", "list"]), expected);
    let (code, message) = failure(&daemon.ctl(&["group", "create", "db"]));
    assert_eq!(code, Some(1));
    assert!(message.contains("exists already, its max is 4"), "{message}");
    assert!(message.contains("hint: change it with: locksmithctl group set --max N db"), "{message}");
    let (code, message) = failure(&daemon.ctl(&["status", "nope"]));
    assert_eq!(code, Some(1));
    assert!(message.contains("unknown group \"nope\"") && message.contains("hint: see the groups"), "{message}");
}

#[test]
fn a_group_that_cannot_be_used_is_listed_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &["--group", "web=2"]);
    let database = dir.path().join("locksmith.sqlite");
    let other_program = rusqlite::Connection::open(&database).unwrap();
    other_program.execute("UPDATE groups SET document = '{\"format\":9}' WHERE name = 'web'", []).unwrap();
    let reason = format!(
        "the store {} has an unusable document for group \"web\": the document has format 9, this locksmith reads up to 1: \
         start the newer locksmithd",
        database.display()
    );
    let expected = format!(
        "\
GROUP    AVAILABLE  MAX  HOLDERS  WAITING
default  1          1    0        0

group web cannot be shown: {reason}
"
    );
    let partly = |args: &[&str]| {
        let output = daemon.ctl(args);
        let told = "error: 1 of 2 groups cannot be shown\nhint: see why with: locksmithctl status web\n";
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), told), "{args:?}");
        text(&output.stdout)
    };
    assert_eq!(partly(&["status"]), expected);
    assert_eq!(partly(&["group", "list"]), expected);
    let json: serde_json::Value = serde_json::from_str(&partly(&["status", "--json"])).unwrap();
    assert_eq!((&json["groups"][0]["group"], &json["troubled"][0]["value"]), (&"default".into(), &reason.clone().into()));
    let (code, message) = failure(&daemon.ctl(&["status", "web"]));
    assert_eq!(code, Some(1));
    assert!(message.contains(&format!("(503 unusable_group): {reason}\nhint: asking again does not help: start")), "{message}");
}

#[test]
fn while_a_groups_name_cannot_be_read_no_group_is_made_and_everybody_is_told() {
    let dir = tempfile::tempdir().unwrap();
    drop(Daemon::start(dir.path(), &["--group", "web=2"]));
    let database = dir.path().join("locksmith.sqlite");
    let other_program = rusqlite::Connection::open(&database).unwrap();
    let rename = |from: &str, to: &str| {
        assert_eq!(other_program.execute("UPDATE groups SET name = ?2 WHERE name = ?1", [from, to]).unwrap(), 1);
    };
    rename("default", "de fault");
    rename("web", "we b");
    let daemon = Daemon::start(dir.path(), &["--group", "web=2"]);
    let output = daemon.ctl(&["status"]);
    let told =
        "error: 2 of 2 groups cannot be shown\nhint: mend the names in locksmithd's database, or restore it from a backup\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), told));
    let shown = "2 group(s) have names that cannot be read, so their hosts are refused; until that is mended no group is made\n";
    assert!(text(&output.stdout).ends_with(shown), "{}", text(&output.stdout));
    let (code, message) = failure(&daemon.ctl(&["group", "create", "--max", "1", "web"]));
    let why = "2 group(s) whose names cannot be read; a new group could be one of them";
    assert!(code == Some(1) && message.contains("(503 unusable_group)") && message.contains(why), "{message}");
    drop(daemon);
    rename("de fault", "default");
    rename("we b", "web");
    let daemon = Daemon::start(dir.path(), &["--group", "web=2"]);
    assert!(daemon.out(&["status"]).contains("web      2"), "{}", daemon.out(&["status"]));
}

#[test]
fn a_first_start_that_failed_is_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    drop(Daemon::start(dir.path(), &["--group", "default=3", "--group", "web=2"]));
    let other_program = rusqlite::Connection::open(dir.path().join("locksmith.sqlite")).unwrap();
    let first: String =
        other_program.query_row("SELECT name FROM groups ORDER BY revision LIMIT 1", [], |row| row.get(0)).unwrap();
    assert_eq!(first, "default", "a start that fails after it made a group has made this one");
    let max: u32 = other_program
        .query_row("SELECT json_extract(document, '$.max') FROM groups WHERE name = 'default'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(max, 3);
}

#[test]
fn what_of_a_history_cannot_be_read_is_counted_and_hides_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &[]);
    daemon.out(&["set-max", "2"]);
    let other_program = rusqlite::Connection::open(dir.path().join("locksmith.sqlite")).unwrap();
    other_program.execute("INSERT INTO history (group_name, entry) VALUES ('default', '{}')", []).unwrap();
    let shown = daemon.out(&["history"]);
    let lines: Vec<&str> = shown.lines().collect();
    let [_, changed, created, unreadable] = lines[..] else { panic!("{shown}") };
    assert!(changed.contains(" max-changed ") && created.contains(" created "), "{shown}");
    assert_eq!(unreadable, "and 1 that cannot be read: damaged, or of a newer locksmithd");
    let json: serde_json::Value = serde_json::from_str(&daemon.out(&["history", "--json"])).unwrap();
    assert_eq!((json["entries"].as_array().map(Vec::len), &json["unreadable"]), (Some(2), &1.into()));
}

#[test]
fn the_group_of_the_environment_is_that_of_every_command_about_one() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &["--group", "web=2"]);
    let in_web = |args: &[&str]| {
        let mut command = Command::new(CTL);
        let command = command.args(args).env("LOCKSMITHCTL_SERVER", &daemon.url).env("LOCKSMITHCTL_GROUP", "web");
        let output = command.output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{args:?}");
        text(&output.stdout)
    };
    in_web(&["lock", "h1"]);
    let events = |args: &[&str]| -> Vec<String> {
        in_web(args).lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect()
    };
    assert_eq!(events(&["history"]), ["held", "created"]);
    assert_eq!(events(&["history", "default"]), ["created"], "a word on the command line counts more");
}

#[test]
fn what_was_granted_survives_a_kill_and_the_group_keeps_its_max() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), &["--group", "web=2"]);
    daemon.out(&["lock", "host-a", "--group", "web"]);
    daemon.out(&["set-max", "5", "--group", "web"]);
    let before = daemon.out(&["status", "web", "--json"]);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    let daemon = Daemon::start(dir.path(), &["--group", "web=2"]);
    assert_eq!(daemon.out(&["status", "web", "--json"]), before);
}

#[test]
fn one_group_that_cannot_be_used_does_not_keep_the_service_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let groups = ["--group", "app=1", "--group", "web=2", "--group", "zoo=3"];
    let mut daemon = Daemon::start(dir.path(), &groups[..4]);
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    let other_program = rusqlite::Connection::open(dir.path().join("locksmith.sqlite")).unwrap();
    other_program.execute("UPDATE groups SET document = '{}' WHERE name = 'web'", []).unwrap();
    drop(other_program);

    let log = dir.path().join("log");
    let stderr = std::fs::File::create(&log).unwrap();
    let daemon = Daemon::start_telling(dir.path(), &groups, stderr.into());
    assert_eq!(daemon.out(&["lock", "h1", "--group", "app"]), "");
    assert_eq!(daemon.out(&["status", "zoo"]), "Available: 3\nMax: 3\n", "one named after it is made all the same");
    let (code, message) = failure(&daemon.ctl(&["lock", "h1", "--group", "web"]));
    assert!(code == Some(1) && message.contains("(503 unusable_group)"), "{message}");
    let log = std::fs::read_to_string(log).unwrap();
    let of_web = |level: &str| -> Vec<&str> {
        log.lines().filter(|line| line.contains(level)).inspect(|line| assert!(line.contains("group=web"), "{log}")).collect()
    };
    assert!(matches!(of_web("ERROR")[..], [line] if line.contains("unusable document for group \"web\"")), "{log}");
    assert!(matches!(of_web("WARN")[..], [line] if line.contains("its --group is left aside")), "{log}");
}

#[test]
fn a_group_too_many_does_not_keep_the_service_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), &[]);
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    let other_program = rusqlite::Connection::open(dir.path().join("locksmith.sqlite")).unwrap();
    let many = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
                INSERT INTO groups SELECT 'g' || i, 1, document FROM groups, n WHERE name = 'default'";
    assert_eq!(other_program.execute(many, []).unwrap(), 999);
    drop(other_program);
    let log = dir.path().join("log");
    let daemon = Daemon::start_telling(dir.path(), &["--group", "web=2"], std::fs::File::create(&log).unwrap().into());
    assert_eq!(daemon.out(&["status", "g1000"]), "Available: 1\nMax: 1\n");
    let log = std::fs::read_to_string(log).unwrap();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(matches!(errors[..], [line] if line.contains("the group is not made") && line.contains("group=web")), "{log}");
}

#[test]
fn sigterm_and_sigint_stop_it_with_success_and_release_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["TERM", "INT"] {
        let mut daemon = Daemon::start(dir.path(), &[]);
        daemon.signal(name);
        assert_eq!(daemon.wait(), Some(0), "{name}");
    }
}

#[test]
fn a_second_locksmithd_on_the_same_folder_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &[]);
    let folder = dir.path().to_str().unwrap();
    let (code, message) = daemon_refuses(&["--data", folder, "--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(1));
    assert_eq!(
        message,
        format!(
            "error: data folder {folder}: another locksmithd (process {}) is running on it\n\
             hint: stop that one first, or give this one a --data folder of its own\n",
            daemon.child.id()
        )
    );
}

#[test]
fn beyond_loopback_it_wants_tokens_or_the_word_insecure() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data");
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8085"] {
        let (code, message) = daemon_refuses(&["--data", folder.to_str().unwrap(), "--listen", listen]);
        assert_eq!(code, Some(2), "{listen}");
        assert!(message.contains(listen) && message.contains("hint: give --token-file FILE"), "{message}");
    }
    assert!(!folder.exists(), "nothing was made");
    let mut child = Command::new(DAEMON)
        .args(["--listen", "0.0.0.0:0", "--insecure", "--data"])
        .arg(&folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.starts_with("listening on http://0.0.0.0:"), "{line}");
}

#[test]
fn a_port_that_is_taken_and_a_folder_that_cannot_be_made_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let (code, message) = daemon_refuses(&["--data", dir.path().to_str().unwrap(), "--listen", &listen]);
    assert_eq!(code, Some(1));
    assert!(message.starts_with(&format!("error: cannot listen on {listen}: Address already in use")), "{message}");
    let (code, message) = daemon_refuses(&["--data", "/nonexistent/deep/data", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(1));
    assert!(message.contains("data folder /nonexistent/deep/data: cannot make it: No such file"), "{message}");
    assert!(message.contains("hint: the folder is made, but not the one it lies in"), "{message}");
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("data")] {
        let (code, message) = daemon_refuses(&["--data", path.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
        assert_eq!(code, Some(1));
        assert!(message.contains("Not a directory") && message.contains("hint: --data takes a folder"), "{message}");
    }
}

#[test]
fn a_token_file_guards_the_operators_acts() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, "admin admin-token-0123456\n").unwrap();
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
    let own = dir.path().join("own");
    std::fs::write(&own, "admin-token-0123456\n").unwrap();
    let daemon = Daemon::start(&dir.path().join("data"), &["--token-file", tokens.to_str().unwrap()]);
    let (code, message) = failure(&daemon.ctl(&["status"]));
    assert_eq!(code, Some(1));
    assert!(message.contains("401 unauthorized") && message.contains("hint: give an admin's token"), "{message}");
    assert_eq!(daemon.out(&["--token-file", own.to_str().unwrap(), "status"]), "Available: 1\nMax: 1\n");
}

#[test]
fn nobody_there_is_said_with_the_url_and_a_hint() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let (code, message) = failure(&ctl(&url, &["status"]));
    assert_eq!(code, Some(1));
    assert_eq!(
        message,
        format!(
            "error: the lock service cannot be reached at {url}/v1/groups: Connection refused (os error 111)\n\
             hint: is locksmithd running there? Another one: --server URL or $LOCKSMITHCTL_SERVER\n"
        )
    );
}

#[test]
fn wrong_usage_exits_2_and_says_what_was_expected() {
    let cases: [(&[&str], &str); 8] = [
        (&[], "Usage:"),
        (&["group", "set", "web"], "--max <N>"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (&["set-max", "many"], "expected a number from 0 to 1000"),
        (&["set-max", "1001"], "max 1001: expected 0 to 1000"),
        (&["lock", "a b"], "printable ASCII without blanks"),
        (&["status", "a/b"], "letters, digits, '.' and '-'"),
        (&["--server", "localhost:8085", "status"], "expected http://HOST[:PORT]/"),
    ];
    for (args, expected) in cases {
        let output = ctl("http://127.0.0.1:9", args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let message = text(&output.stderr);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
    for args in [&["--data", "/tmp/x", "--group", "web"][..], &["--data", "/tmp/x", "--lease", "0"], &[]] {
        assert_eq!(daemon_refuses(args).0, Some(2), "{args:?}");
    }
}

#[test]
fn what_the_interfaces_name_and_this_build_has_not_is_refused_by_name() {
    for args in
        [&["--etcd", "http://127.0.0.1:2379"][..], &["--data", "/nonexistent/x", "--etcd=http://h:1,http://i:1"], &["--etcd"]]
    {
        let expected = "error: --etcd is not available in this build\n\
                        hint: give --data DIR alone: then what was granted lies in an SQLite file there\n";
        assert_eq!(daemon_refuses(args), (Some(2), expected.to_owned()), "{args:?}");
    }
    let cases: [(&[&str], &str, &str); 4] = [
        (&["pause", "web"], "pause", "set-max 0"),
        (&["resume", "web"], "resume", "set-max N"),
        (&["forget", "host-a", "--group", "web"], "forget", "unlock --group GROUP -- ID"),
        (&["pause"], "pause", "set-max 0"),
    ];
    for (args, name, instead) in cases {
        let (code, message) = failure(&ctl("http://127.0.0.1:9", args));
        assert_eq!(code, Some(2), "{args:?}");
        assert!(message.starts_with(&format!("error: {name} is not available in this build\nhint: ")), "{message}");
        assert!(message.contains(instead), "{message}");
    }
    let options: [(&[&str], &str); 6] = [
        (&["group", "create", "web", "--parent", "eu"], "--parent"),
        (&["group", "create", "web", "--max", "2", "--k=3"], "--k"),
        (&["group", "create", "web", "--tokens"], "--tokens"),
        (&["group", "set", "web", "--parent", "eu"], "--parent"),
        (&["group", "set", "web", "--max", "2", "--k", "3"], "--k"),
        (&["group", "set", "web", "--tokens=/x"], "--tokens"),
    ];
    for (args, name) in options {
        let (code, message) = failure(&ctl("http://127.0.0.1:9", args));
        assert_eq!(code, Some(2), "{args:?}");
        assert!(message.starts_with(&format!("error: {name} is not available in this build\nhint: ")), "{message}");
    }
    for args in [&["--help"][..], &["group", "create", "--help"], &["group", "set", "--help"]] {
        let help = text(&ctl("http://127.0.0.1:9", args).stdout);
        assert!(!help.contains("pause") && !help.contains("--parent"), "nobody is sent to what is not there: {help}");
    }
}

#[test]
fn help_teaches_and_version_is_one_line() {
    for program in [DAEMON, CTL] {
        let help = Command::new(program).arg("--help").output().unwrap();
        assert_eq!(help.status.code(), Some(0));
        assert!(text(&help.stdout).contains("Examples:"), "{program}");
        let version = Command::new(program).arg("--version").output().unwrap();
        assert_eq!(text(&version.stdout).lines().count(), 1);
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), &[]);
    for args in [&["status"][..], &["history"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = Command::new(CTL)
            .args(args)
            .env("LOCKSMITHCTL_SERVER", &daemon.url)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let status = child.wait().unwrap();
        let mut message = String::new();
        child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
        assert_eq!((status.code(), message.as_str()), (Some(0), ""), "{args:?}");
    }
}
