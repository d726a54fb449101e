//! What is written down of a trial, and what its kernel said.

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use update_engine::deadline::{Left, Trial, write_down};
use update_engine::kernel_log::{KernelLog, MAX_BYTES, MAX_LINE_CHARS, PATIENCE, Source, keep_left_behind, keep_running};

use crate::folder::Folder;
use crate::slots::settings;

/// Longest line that a kernel makes.
const LONGEST_LINE: usize = 1024;

/// The same bytes as each of the files that outlive a trial.
pub fn files(data: &[u8]) {
    let folder = Folder::new();
    for name in ["trial", "trial.left", "trial.log"] {
        folder.put(&format!("state/{name}"), data);
    }
    let state_dir = folder.path().join("state");
    match Trial::load(&state_dir) {
        Ok(trial) => check_trial(&folder, &trial.expect("the file is there")),
        Err(error) => check_words(&error.to_string()),
    }
    match Left::load(&state_dir) {
        Ok(left) => check_left(&folder, &left.expect("the file is there")),
        Err(error) => check_words(&error.to_string()),
    }
    match KernelLog::load(&state_dir) {
        Ok(log) => check_log(&log.expect("the file is there")),
        Err(error) => check_words(&error.to_string()),
    }
}

fn check_trial(folder: &Folder, trial: &Trial) {
    for word in [&trial.version, &trial.attempt] {
        assert!((1..=128).contains(&word.len()) && !word.chars().any(char::is_control), "{trial:?}");
    }
    assert!(trial.deadline.as_secs() > 0);
    let settings = settings(folder, "");
    write_down(trial, &settings).expect("what was read can be written");
    assert_eq!(Trial::load(&settings.state_dir).ok(), Some(Some(trial.clone())));
}

/// A reason that is too long may be cut once.
fn check_left(folder: &Folder, left: &Left) {
    let state_dir = folder.path().join("state");
    assert!(left.times > 0 && !left.why.is_empty() && !left.why.chars().any(char::is_control), "{left:?}");
    let mut read = left.clone();
    for _ in 0..2 {
        let before = read.clone();
        before.store(&state_dir).expect("what was read can be written");
        read = Left::load(&state_dir).expect("what was written can be read").expect("the file is there");
        assert!(before.why.starts_with(&read.why) && read == Left { why: read.why.clone(), ..before });
    }
    let stored = read.clone();
    stored.store(&state_dir).expect("what was read can be written");
    assert_eq!(Left::load(&state_dir).ok(), Some(Some(read)), "it is cut again and again");
}

fn check_words(words: &str) {
    assert!(words.chars().count() < 1024, "{words}");
}

/// What is kept is plain text within bounds, and of it one line tells most.
fn check_log(log: &KernelLog) {
    let lines: Vec<&str> = log.lines().collect();
    assert!(!lines.is_empty() && lines.iter().map(|line| line.len() + 1).sum::<usize>() <= MAX_BYTES);
    for line in &lines {
        assert!(line.len() <= LONGEST_LINE && !line.trim().is_empty(), "{line:?}");
        assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
    }
    check_telling(log, &lines);
}

/// Of a kernel that lived, and did not panic, there may be none.
fn check_telling(log: &KernelLog, lines: &[&str]) {
    let panicked = lines.iter().any(|line| line.contains("Kernel panic - not syncing") && !line.contains("---[ end "));
    let Some(telling) = log.telling_line() else {
        return assert!(log.source == Source::Kmsg && !panicked, "nothing of it tells anything: {log:?}");
    };
    assert!((1..=MAX_LINE_CHARS).contains(&telling.len()) && lines.iter().any(|line| line.contains(&telling)), "{telling:?}");
    assert!(!panicked || is_panic(lines, &telling), "{telling:?} is no panic");
}

/// A panic is told before anything else, but for what a line of it has in brackets before its words.
fn is_panic(lines: &[&str], telling: &str) -> bool {
    lines.iter().any(|line| line.contains("Kernel panic - not syncing") && line.contains(telling))
}

/// The kernel's records as `/dev/kmsg` gives them, then what pstore has: ends of names and contents of files, each up to a zero byte.
pub fn kernel_log(data: &[u8]) {
    let folder = Folder::new();
    let settings = settings(&folder, "");
    std::fs::create_dir(&settings.state_dir).expect("room for a folder");
    let mut pieces = data.split(|byte| *byte == 0);
    let records = pieces.next().unwrap_or_default();
    folder.put("dev/kmsg", records);
    if !is_done_in_time(|| keep_running(&settings, "one")) {
        return;
    }
    let log = KernelLog::load(&settings.state_dir).expect("what was kept can be read");
    check_kept(log.as_ref(), &lines_of_records(records));
    let mut dumps = BTreeSet::new();
    while let (Some(name), Some(dump), true) = (pieces.next(), pieces.next(), dumps.len() < 4) {
        let name: String =
            name.iter().take(24).filter(|byte| byte.is_ascii_graphic() && **byte != b'/').map(|byte| char::from(*byte)).collect();
        folder.put(&format!("sys/fs/pstore/dmesg-{name}"), dump);
        dumps.insert(dump);
    }
    folder.put("sys/fs/pstore/console-ramoops-0", b"of others\n");
    if !is_done_in_time(|| keep_left_behind(&settings, "two", SystemTime::UNIX_EPOCH)) {
        return;
    }
    let left = KernelLog::load(&settings.state_dir).expect("what was kept can be read");
    match left.filter(|left| left.attempt == "two") {
        Some(left) => {
            assert_eq!(left.source, Source::Pstore);
            check_log(&left);
            let said: BTreeSet<String> =
                dumps.iter().flat_map(|dump| dump.split(|byte| *byte == b'\n')).flat_map(both_forms).collect();
            assert!(left.lines().all(|line| said.contains(line)), "a line that no kernel said: {left:?}");
        }
        None => assert_eq!(KernelLog::load(&settings.state_dir).ok(), Some(log), "what was kept is lost"),
    }
    assert!(folder.get("sys/fs/pstore/console-ramoops-0").is_some(), "what is no dump of a log is removed");
}

/// On a host that is too busy, what is not kept in time is given up, as it should be.
fn is_done_in_time(keep: impl FnOnce()) -> bool {
    let began = Instant::now();
    keep();
    began.elapsed() < PATIENCE
}

/// What is kept is the end of what was said, as much as fits.
fn check_kept(log: Option<&KernelLog>, said: &[String]) {
    let Some(log) = log else { return assert!(said.is_empty(), "{said:?} is not kept") };
    assert_eq!((log.attempt.as_str(), log.source), ("one", Source::Kmsg));
    check_log(log);
    let kept: Vec<&str> = log.lines().collect();
    assert!(said.len() >= kept.len() && said[said.len() - kept.len()..].iter().eq(kept.iter()), "{kept:?} of {said:?}");
    let length = |lines: &[String]| lines.iter().map(|line| line.len() + 1).sum::<usize>();
    let next = said.len() - kept.len();
    assert!(next == 0 || length(&said[next - 1..]) > MAX_BYTES, "more would have fitted");
}

/// `PRIORITY,SEQUENCE,MICROSECONDS,…;WORDS` each; what has another form is no record.
fn lines_of_records(records: &[u8]) -> Vec<String> {
    let line = |record: &[u8]| {
        let semicolon = record.iter().position(|byte| *byte == b';')?;
        let head = std::str::from_utf8(&record[..semicolon]).ok()?;
        let numbers: Vec<u64> = head.split(',').take(3).map(str::parse).collect::<Result<_, _>>().ok()?;
        let [_, _, at_us] = numbers[..] else { return None };
        let time = format!("[{:>5}.{:06}] ", at_us / 1_000_000, at_us % 1_000_000);
        Some(plain(&[time.as_bytes(), &record[semicolon + 1..]].concat()))
    };
    records.split(|byte| *byte == b'\n').filter_map(line).filter(|line| !line.is_empty()).collect()
}

/// A line of a dump with its level and without it.
fn both_forms(line: &[u8]) -> [String; 2] {
    let rest = line.strip_prefix(b"<").and_then(|rest| {
        let end = rest.iter().position(|byte| *byte == b'>')?;
        rest[..end].iter().all(u8::is_ascii_digit).then(|| &rest[end + 1..])
    });
    [plain(line), plain(rest.unwrap_or(line))]
}

/// Printable, without blanks at the end.
fn plain(line: &[u8]) -> String {
    let mut text = String::new();
    for byte in line.iter().take(LONGEST_LINE).filter(|byte| **byte != b'\r') {
        match byte {
            b'\t' => text.push(' '),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text.truncate(LONGEST_LINE);
    text.trim_end().to_owned()
}
