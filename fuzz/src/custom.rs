//! What a program that knows the boot loader answers, and the file of what it cannot tell.

use std::os::unix::fs::symlink;
use std::path::Path;

use update_engine::boot::custom::marks::{MAX_BYTES, Mark, Marks, Said};
use update_engine::boot::{BootState, Standing};
use update_engine::slot::SlotName;

use crate::slots::Host;

/// What the program answers with.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/custom-program.sh");
const TRIES: u8 = 3;
const CALLS: [&str; 4] = ["get-primary", "get-state-A", "get-state-B", "get-current"];

/// A byte of flags, then the file, then the answers to each call, each up to a zero byte; one that is not there is a call that fails.
///
/// Flags: 0 slot b runs, 1 there is no file, 2 the host is asked to test itself.
pub fn program(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else { return };
    let is = |bit: u8| flags >> bit & 1 == 1;
    let mut pieces = rest.split(|byte| *byte == 0);
    let file = pieces.next().unwrap_or_default();
    let answers: Vec<&[u8]> = pieces.take(CALLS.len()).collect();
    let marks = check_marks(file);
    // A program takes a thousand times as long as a file.
    if marks.is_none() && !is(1) || answers.is_empty() {
        return;
    }
    let host = Host::new(
        usize::from(is(0)),
        &format!("boot.control = \"custom\"\nboot.custom.program = \"@/program\"\nboot.custom.tries = {TRIES}\n"),
    );
    symlink(Path::new(PROGRAM), host.folder.path().join("program")).expect("room for a link");
    for (call, answer) in CALLS.iter().zip(&answers) {
        host.folder.put(&format!("answers/{call}"), answer);
    }
    if !is(1) {
        host.folder.put("state/boot-marks", file);
    }
    let Some(state) = host.read() else { return };
    let primary = answer(answers[0]);
    let said = [1, 2].map(|call| Said::from_word(&answer(answers[call])).expect("what was taken is an answer"));
    let primary = ["A", "B"].iter().position(|name| *name == primary).expect("what was taken is an answer");
    check_state(&state, marks.filter(|_| !is(1)), primary, said, usize::from(is(0)));
    if is(2) {
        assert!(!host.passes_self_test(), "a program that cannot set anything passes the test");
        assert_eq!(host.read(), Some(state), "a test changes what is said");
    }
}

/// What is written has one form, and reads the same.
fn check_marks(file: &[u8]) -> Option<Marks> {
    let text = std::str::from_utf8(file).ok()?;
    let slots: [SlotName; 2] = ["a", "b"].map(|name| name.parse().expect("a name"));
    let marks = match Marks::parse(text, &slots) {
        Ok(marks) => marks,
        Err(error) => {
            let words = error.to_string();
            assert!(words.chars().count() < 1024 && !words.chars().any(char::is_control), "{words}");
            return None;
        }
    };
    let written = marks.to_text(&slots);
    assert_eq!(Marks::parse(&written, &slots).as_ref(), Ok(&marks));
    assert!(written.len() as u64 <= MAX_BYTES && text.lines().eq(written.lines()), "{text:?} is not {written:?}");
    Some(marks)
}

/// An answer without the blanks around it, and without what moves a cursor.
fn answer(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().replace('\n', "; ").chars().filter(|c| !c.is_control()).collect()
}

/// The table of the boot control's own documentation, line by line.
fn check_state(state: &BootState, marks: Option<Marks>, primary: usize, said: [Said; 2], runs: usize) {
    let standing = |slot: usize| {
        let Some(marks) = marks else { return Standing::Blank };
        let (is_primary, is_good) = (primary == slot, said[slot] == Said::Good);
        if marks.open == Some(slot) && is_primary {
            return Standing::Pending { tries_left: TRIES };
        }
        if marks.open == Some(slot) && runs == slot {
            return Standing::Spent;
        }
        match marks.marks[slot] {
            Mark::Armed { seen } if is_primary && (is_good || seen != Said::Good) => Standing::Pending { tries_left: TRIES },
            Mark::Armed { .. } => Standing::Spent,
            Mark::Good if is_good || runs == slot => Standing::Good,
            Mark::Bad => Standing::Bad,
            Mark::Good | Mark::None => Standing::Blank,
        }
    };
    let found: Vec<Standing> = state.slots.iter().map(|slot| slot.standing).collect();
    assert_eq!(found, [standing(0), standing(1)], "{marks:?} {primary} {said:?} while {runs} runs");
    let next = usize::from(state.next.as_str() == "b");
    // Of a slot that it has given up the program may say that it is next, and means nothing by it.
    let means_nothing = found[primary] == Standing::Spent || said[primary] == Said::Bad && !found[primary].is_on_trial();
    assert!(next == primary || means_nothing, "{next} is next, and the program says {primary}: {marks:?} {said:?}");
}
