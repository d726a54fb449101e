//! The end of a kernel's log, kept of a trial that was given up: what a person asks for first, and what the reboot takes away.
//!
//! ```text
//! state_dir/trial.log    ota trial log v1 / attempt ID / from kmsg|pstore / log / LINES
//! ```
//!
//! Whoever gives a slot on trial up keeps what its kernel has said so far ([`keep_running`], from `/dev/kmsg`). Where a trial ended
//! without a word, because the kernel died, the daemon of the old slot looks for what that kernel left in pstore
//! ([`keep_left_behind`]).
//!
//! Promises: one file, of at most [`MAX_BYTES`] and a few lines more, durable and whole, or none; the next one takes its place. Both
//! functions return within [`PATIENCE`], whatever the disk or the kernel does, and what keeps them from their work is a line in the log:
//! the reboot of a bad slot does not wait for its log, and the reason of a rollback is written down before and elsewhere. What is kept
//! is printable ASCII: other bytes become `\xNN`, as `/dev/kmsg` itself has them, so that nothing in it moves a cursor or breaks a document.
//!
//! Never: takes a missing `/dev/kmsg` or an empty pstore for an error; removes what others left in pstore.

mod kmsg;
mod pstore;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use crate::config::Settings;
use crate::durable;

/// Most that is kept of a log: some hundred lines, of which the last ones tell.
pub const MAX_BYTES: usize = 32 * 1024;
/// Longest line that is shown for all of them.
pub const MAX_LINE_CHARS: usize = 200;
/// Time that keeping a log may take.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The kernel makes no longer lines.
const LONGEST_LINE: usize = 1024;
/// Longest header of the file.
const MAX_HEADER_BYTES: usize = 1024;
const FIRST_LINE: &str = "ota trial log v1";

/// What a kernel that dies says about it, the most telling first. Else the last line of one that died has to do.
const TELLING: [&str; 7] = [
    "Kernel panic - not syncing",
    "BUG: ",
    "Oops: ",
    "general protection fault",
    "Out of memory: ",
    "soft lockup",
    "blocked for more than",
];
/// The last line of a panic repeats its first one.
const REPEATED: &str = "---[ end ";

/// What was kept of one kernel's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelLog {
    /// The attempt whose slot it ran.
    pub attempt: String,
    /// Where it was read.
    pub source: Source,
    text: String,
}

/// Where a log was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `/dev/kmsg` of the kernel that ran.
    Kmsg,
    /// pstore: what a kernel that died left there.
    Pstore,
}

impl Source {
    /// The word in the file and in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kmsg => "kmsg",
            Self::Pstore => "pstore",
        }
    }

    fn read(word: &str) -> Option<Self> {
        [Self::Kmsg, Self::Pstore].into_iter().find(|source| source.as_str() == word)
    }
}

impl KernelLog {
    /// The end of a log, made printable; `None` if there is nothing in it.
    fn new(attempt: &str, source: Source, log: &[u8]) -> Option<Self> {
        let text = printable_end(log);
        (!text.is_empty()).then(|| Self { attempt: attempt.to_owned(), source, text })
    }

    /// What was kept last; `None` = nothing.
    ///
    /// # Errors
    /// If the file cannot be read, or is none of ours.
    pub fn load(state_dir: &Path) -> io::Result<Option<Self>> {
        let path = file_in(state_dir);
        let cap = u64::try_from(MAX_BYTES + MAX_HEADER_BYTES).unwrap_or(u64::MAX);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let bytes = match durable::read_capped(&path, cap) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(named(error)),
        };
        let is_none = || io::Error::new(io::ErrorKind::InvalidData, format!("expected a file that begins with {FIRST_LINE:?}"));
        Self::parse(&bytes).ok_or_else(is_none).map_err(named).map(Some)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut parts = text.splitn(5, '\n');
        parts.next().filter(|line| *line == FIRST_LINE)?;
        let attempt = parts.next()?.strip_prefix("attempt ")?;
        let source = Source::read(parts.next()?.strip_prefix("from ")?)?;
        parts.next().filter(|line| *line == "log")?;
        Self::new(attempt, source, parts.next()?.as_bytes())
    }

    fn store(&self, state_dir: &Path) -> io::Result<()> {
        let Self { attempt, source, text } = self;
        let file = format!("{FIRST_LINE}\nattempt {attempt}\nfrom {}\nlog\n{text}", source.as_str());
        durable::replace(&file_in(state_dir), file.as_bytes())
    }

    /// Its lines, oldest first, each `[seconds] words`.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines()
    }

    /// The line that tells most: a panic, or what comes nearest to one, or the last of a kernel that died. Without its time, and short.
    /// `None` of one that lived and said nothing of the kind: its last line tells nothing of why its slot was left.
    pub fn telling_line(&self) -> Option<String> {
        let says = |mark: &str| self.lines().filter(|line| line.contains(mark) && !line.contains(REPEATED)).last();
        let last = || self.lines().last().filter(|_| self.source == Source::Pstore);
        let line = TELLING.into_iter().find_map(says).or_else(last)?;
        Some(without_time(line).chars().take(MAX_LINE_CHARS).collect())
    }
}

/// Keeps the end of the running kernel's log, as that of this attempt.
pub fn keep_running(settings: &Settings, attempt: &str) {
    let (kmsg, state_dir, attempt) = (settings.under_sysroot("dev/kmsg"), settings.state_dir.clone(), attempt.to_owned());
    within_patience(move || {
        let log = kmsg::end_of(&kmsg).map_err(|error| named(&kmsg, &error))?;
        match log.and_then(|log| KernelLog::new(&attempt, Source::Kmsg, &log)) {
            Some(log) => log.store(&state_dir).map_err(|error| named(&file_in(&state_dir), &error)),
            None => Ok(()),
        }
    });
}

/// Keeps what a kernel that died on trial has left in pstore since the slot was armed, as that of this attempt.
///
/// Where systemd-pstore is, it empties pstore, and what it has put aside is read. Where it is not, nobody else does, and a pstore that is
/// full records nothing more: then what was kept is removed there. A dump tells its time by the clock of the kernel that died: where
/// that was behind the arming (a host without a clock of its own), it is taken for an older one, and stays.
pub fn keep_left_behind(settings: &Settings, attempt: &str, armed_at: SystemTime) {
    let places = pstore::Places::of(settings);
    let (state_dir, attempt) = (settings.state_dir.clone(), attempt.to_owned());
    within_patience(move || {
        let since = kept_at(&state_dir, &attempt).map_or(armed_at, |at| at.max(armed_at));
        let left = pstore::left_since(&places, since);
        if let Some(log) = KernelLog::new(&attempt, Source::Pstore, &left.newest()) {
            log.store(&state_dir).map_err(|error| named(&file_in(&state_dir), &error))?;
            left.clear(&places);
        }
        Ok(())
    });
}

/// When a log of this attempt was kept.
fn kept_at(state_dir: &Path, attempt: &str) -> Option<SystemTime> {
    KernelLog::load(state_dir).ok().flatten().filter(|log| log.attempt == attempt)?;
    fs::metadata(file_in(state_dir)).and_then(|data| data.modified()).ok()
}

/// On a thread of its own: a disk that hangs holds up nobody longer than that. What it still does then ends with the process.
fn within_patience(work: impl FnOnce() -> Result<(), String> + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let started = std::thread::Builder::new().name("kernel log".to_owned()).spawn(move || {
        // Whoever has lost patience does not listen.
        let _heard = done.send(work());
    });
    let ended = match started {
        Ok(_thread) => is_done.recv_timeout(PATIENCE).unwrap_or_else(|error| Err(error.to_string())),
        Err(error) => Err(error.to_string()),
    };
    if let Err(words) = ended {
        tracing::warn!("the kernel's log is not kept: {words}");
    }
}

fn named(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn file_in(state_dir: &Path) -> PathBuf {
    state_dir.join("trial.log")
}

/// Whole lines from the end, as many as fit, without empty ones.
fn printable_end(log: &[u8]) -> String {
    let mut lines = Vec::new();
    let mut length = 0;
    for line in log.rsplit(|&byte| byte == b'\n') {
        let line = printable(line);
        let line = line.trim_end();
        if line.is_empty() {
            continue;
        }
        length += line.len() + 1;
        if length > MAX_BYTES {
            break;
        }
        lines.push(line.to_owned());
    }
    lines.iter().rev().map(|line| format!("{line}\n")).collect()
}

fn printable(line: &[u8]) -> String {
    let mut text = String::new();
    for &byte in line.iter().take(LONGEST_LINE) {
        match byte {
            b'\t' => text.push(' '),
            b'\r' => {}
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.truncate(LONGEST_LINE);
    text
}

/// "[    1.234567] [    T1] words" → "words".
fn without_time(line: &str) -> &str {
    let mut words = line.trim_start();
    while let Some((_, rest)) = words.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        words = rest.trim_start();
    }
    if words.is_empty() { line } else { words }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Instant;

    use super::*;

    const RECORDS: &str = "6,1,1000000,-;e1000: link is up\n0,2,2000000,-;Kernel panic - not syncing: VFS: Unable to mount root fs\n\
                           0,3,2000001,-;---[ end Kernel panic - not syncing: VFS: Unable to mount root fs ]---\n";
    const PANIC: &str = "Kernel panic - not syncing: VFS: Unable to mount root fs";

    /// A host whose files lie below a folder of their own.
    struct Host {
        folder: tempfile::TempDir,
        settings: Settings,
    }

    impl Host {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let settings = (**crate::world::tests::world(folder.path()).settings()).clone();
            Self { folder, settings }
        }

        fn put(&self, name: &str, text: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }

        fn kept(&self) -> Option<KernelLog> {
            KernelLog::load(&self.settings.state_dir).unwrap()
        }
    }

    fn log(text: &str) -> KernelLog {
        KernelLog::new("one", Source::Kmsg, text.as_bytes()).unwrap()
    }

    #[test]
    fn the_running_kernels_log_is_kept_with_whose_it_is_and_the_next_one_takes_its_place() {
        let host = Host::new();
        keep_running(&host.settings, "one");
        assert_eq!(host.kept(), None, "a host without a /dev/kmsg has nothing to keep");
        host.put("dev/kmsg", RECORDS);
        keep_running(&host.settings, "one");
        let kept = host.kept().unwrap();
        assert_eq!((kept.attempt.as_str(), kept.source, kept.telling_line().as_deref()), ("one", Source::Kmsg, Some(PANIC)));
        assert_eq!(kept.lines().next(), Some("[    1.000000] e1000: link is up"));
        host.put("dev/kmsg", "6,1,0,-;only this\n");
        keep_running(&host.settings, "two");
        assert_eq!(
            host.kept(),
            Some(KernelLog { attempt: "two".into(), source: Source::Kmsg, text: "[    0.000000] only this\n".into() })
        );
    }

    #[test]
    fn what_a_dead_kernel_left_is_kept_once_and_nothing_that_is_older() {
        let host = Host::new();
        let path = host.put("sys/fs/pstore/dmesg-ramoops-0", "Panic#1 Part1\n<0>[    2.0] Kernel panic - not syncing: no init\n");
        let now = SystemTime::now();
        keep_left_behind(&host.settings, "one", now + Duration::from_secs(60));
        assert!(host.kept().is_none() && path.exists());
        keep_left_behind(&host.settings, "one", now - Duration::from_secs(60));
        let kept = host.kept().unwrap();
        assert_eq!((kept.source, kept.telling_line().as_deref()), (Source::Pstore, Some("Kernel panic - not syncing: no init")));
        assert!(!path.exists(), "nobody else empties pstore here");

        // What the slot itself said in the end is newer than a dump of an earlier try.
        let path = host.put("sys/fs/pstore/dmesg-ramoops-1", "Panic#1 Part1\n<0>[    2.0] of an earlier try\n");
        File::options().write(true).open(&path).unwrap().set_modified(now - Duration::from_secs(30)).unwrap();
        keep_left_behind(&host.settings, "one", now - Duration::from_secs(60));
        assert_eq!(host.kept(), Some(kept));
        assert!(path.exists());
        // Of another attempt it is not known.
        keep_left_behind(&host.settings, "two", now - Duration::from_secs(60));
        assert_eq!(host.kept().unwrap().attempt, "two");
    }

    #[test]
    fn the_line_that_tells_most_is_a_panic_or_comes_near_to_one_or_is_the_last_of_one_that_died() {
        let cases = [
            (
                "[ 1.0] BUG: unable to handle page fault\n[ 1.1][  T1] Kernel panic - not syncing: Fatal exception\n[ 1.2] ---[ end Kernel panic - not syncing: Fatal exception ]---\n",
                "Kernel panic - not syncing: Fatal exception",
            ),
            ("[ 1.0] BUG: unable to handle page fault\n[ 1.1] Call Trace:\n", "BUG: unable to handle page fault"),
            (
                "[ 1.0] Out of memory: Killed process 7 (nginx)\n[ 2.0] eth0: link is up\n",
                "Out of memory: Killed process 7 (nginx)",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(log(text).telling_line().as_deref(), Some(expected), "{text}");
        }
        let quiet = [("[ 1.0] eth0: link is up\n[ 2.0] [drm] ready\n", "ready"), ("[ 1.0]\n", "[ 1.0]")];
        for (text, last) in quiet {
            assert_eq!(log(text).telling_line(), None, "it lived: {text}");
            let died = KernelLog { source: Source::Pstore, ..log(text) };
            assert_eq!(died.telling_line().as_deref(), Some(last), "{text}");
        }
        let long = log(&format!("[ 1.0] BUG: {}", "x".repeat(5000))).telling_line().unwrap();
        assert_eq!(long.chars().count(), MAX_LINE_CHARS);
    }

    #[test]
    fn whatever_a_kernel_or_its_store_says_what_is_kept_is_plain_text_within_bounds() {
        let log =
            KernelLog::new("one", Source::Pstore, b"\x1b[2Jred\x07\tblue\r\n\xff\xe2\x80\xae\xef\xbf\xbe\n\n  \n\0\n").unwrap();
        assert_eq!(log.lines().collect::<Vec<_>>(), ["\\x1b[2Jred\\x07 blue", "\\xff\\xe2\\x80\\xae\\xef\\xbf\\xbe", "\\x00"]);
        assert_eq!(KernelLog::new("one", Source::Pstore, b"\n \n\t\n"), None);

        let host = Host::new();
        let many: String = (0..10_000).map(|number| format!("[ 1.0] line {number}\n")).collect();
        for text in [many.as_bytes(), &[0xFF; 100_000]] {
            let log = KernelLog::new("one", Source::Kmsg, text).unwrap();
            assert!(log.text.len() <= MAX_BYTES && log.text.is_ascii());
            log.store(&host.settings.state_dir).unwrap();
            assert_eq!(host.kept(), Some(log));
        }
        let log = KernelLog::new("one", Source::Kmsg, many.as_bytes()).unwrap();
        assert!(
            log.text.len() > MAX_BYTES / 2 && log.text.ends_with("[ 1.0] line 9999\n") && log.text.starts_with("[ 1.0] line ")
        );
    }

    #[test]
    fn its_form_never_changes_and_a_file_that_is_none_is_an_error_that_names_it() {
        let host = Host::new();
        log("[    1.000000] words").store(&host.settings.state_dir).unwrap();
        let path = host.settings.state_dir.join("trial.log");
        assert_eq!(fs::read_to_string(&path).unwrap(), "ota trial log v1\nattempt one\nfrom kmsg\nlog\n[    1.000000] words\n");
        for text in [
            "",
            "ota trial log v2\n",
            "ota trial log v1\nattempt one\nfrom the sky\nlog\nx\n",
            "ota trial log v1\nattempt one\nfrom kmsg\nlog\n",
        ] {
            fs::write(&path, text).unwrap();
            let error = KernelLog::load(&host.settings.state_dir).unwrap_err().to_string();
            assert!(error.contains("trial.log: expected a file that begins with \"ota trial log v1\""), "{error}");
        }
        fs::write(&path, vec![b'x'; 2 * MAX_BYTES]).unwrap();
        assert!(KernelLog::load(&host.settings.state_dir).is_err());
    }

    #[test]
    fn a_log_that_cannot_be_written_and_one_that_hangs_hold_nobody_up() {
        let host = Host::new();
        host.put("dev/kmsg", RECORDS);
        fs::create_dir(host.settings.state_dir.join("trial.log")).unwrap();
        let began = Instant::now();
        keep_running(&host.settings, "one");
        assert!(!host.settings.state_dir.join("trial.log.new").exists(), "what was not finished takes no room");
        within_patience(|| {
            std::thread::sleep(60 * PATIENCE);
            Ok(())
        });
        assert!(began.elapsed() < 10 * PATIENCE, "{:?}", began.elapsed());
    }
}
