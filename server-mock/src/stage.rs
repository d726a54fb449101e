//! Where the play stands: whose turn it is among the answers, and what the faults have done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::script::{Answer, Fault, Script};

/// The script and how far it has been played.
pub(crate) struct Stage {
    state: Mutex<State>,
}

struct State {
    script: Arc<Script>,
    answers: Turn,
    events: Turn,
    /// One for each fault of the script.
    faults: Vec<Count>,
    tags: u64,
}

/// Place in a list of answers.
#[derive(Default)]
struct Turn {
    index: usize,
    played: u32,
}

/// What a fault has met.
#[derive(Clone, Copy, Default)]
struct Count {
    seen: u32,
    struck: u32,
}

/// Which list an Omaha request is answered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// It has an update check.
    ForUpdate,
    /// It only reports or pings.
    Nothing,
}

impl Stage {
    pub(crate) fn new(script: Script) -> Self {
        Self { state: Mutex::new(State::new(script)) }
    }

    /// Starts over with another script.
    pub(crate) fn set(&self, script: Script) {
        *self.lock() = State::new(script);
    }

    pub(crate) fn script(&self) -> Arc<Script> {
        Arc::clone(&self.lock().script)
    }

    /// The answer whose turn it is; none if the list is empty.
    pub(crate) fn next_answer(&self, asks: Asks) -> Option<Answer> {
        let state = &mut *self.lock();
        let (list, turn) = match asks {
            Asks::ForUpdate => (&state.script.answers, &mut state.answers),
            Asks::Nothing => (&state.script.events, &mut state.events),
        };
        let answer = list.get(turn.index)?;
        turn.played = turn.played.saturating_add(1);
        if turn.played >= answer.times && turn.index + 1 < list.len() {
            *turn = Turn { index: turn.index + 1, played: 0 };
        }
        Some(answer.clone())
    }

    /// The first fault for this path that applies and is not used up; it counts as having struck.
    pub(crate) fn strike(&self, path: &str, applies: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let state = &mut *self.lock();
        for (fault, count) in state.script.faults.iter().zip(&mut state.faults) {
            if fault.times.is_some_and(|times| count.struck >= times) || !matches_glob(&fault.path, path) || !applies(fault) {
                continue;
            }
            count.seen = count.seen.saturating_add(1);
            if count.seen > fault.skip {
                count.struck = count.struck.saturating_add(1);
                return Some(fault.clone());
            }
        }
        None
    }

    /// A number never given before.
    pub(crate) fn fresh_tag(&self) -> u64 {
        let mut state = self.lock();
        state.tags += 1;
        state.tags
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(script: Script) -> Self {
        if let Some(folder) = script.files_dir.as_deref().filter(|folder| !folder.is_dir()) {
            let folder = folder.display();
            tracing::warn!(
                "files_dir {folder}: expected a folder, found none: its files are answered with 404, offers of them with 500"
            );
        }
        let faults = vec![Count::default(); script.faults.len()];
        Self { script: Arc::new(script), answers: Turn::default(), events: Turn::default(), faults, tags: 0 }
    }
}

/// Whether `*` (any characters) and `?` (one) in the pattern can be filled so that it is the text.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // After a mismatch, the last star takes one character more.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut retry {
                None => return false,
                Some((star, taken)) => {
                    *taken += 1;
                    (p, t) = (*star + 1, *taken);
                }
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_paths() {
        for (pattern, text) in
            [("*", ""), ("*", "/a/b"), ("/files/*.payload", "/files/1.0.payload"), ("*a*b", "xaxbxb"), ("?", "x")]
        {
            assert!(matches_glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("/files/*", "/mirror/a"), ("a*b", "abc"), ("?", ""), ("/a", "/a/")] {
            assert!(!matches_glob(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn answers_play_in_order_and_the_last_goes_on() {
        let script =
            Script::default().answer(Answer::status(500).times(2)).answer(Answer::no_update()).answer(Answer::status(503));
        let stage = Stage::new(script.clone());
        let played: Vec<_> = (0..6).map(|_| stage.next_answer(Asks::ForUpdate).unwrap().kind).collect();
        let expected: Vec<_> = [0, 0, 1, 2, 2, 2].iter().map(|&index| script.answers[index].kind.clone()).collect();
        assert_eq!(played, expected);
        assert_eq!(stage.next_answer(Asks::Nothing), None);
    }

    #[test]
    fn a_fault_skips_strikes_and_is_used_up() {
        use crate::FaultKind;
        let stage = Stage::new(Script::default().fault(Fault::on("/files/*", FaultKind::Refuse).skip(1).times(2)));
        let struck: Vec<_> = (0..5).map(|_| stage.strike("/files/a", |_| true).is_some()).collect();
        assert_eq!(struck, [false, true, true, false, false]);
        assert_eq!(stage.strike("/other", |_| true), None);
        assert_eq!(stage.strike("/files/a", |_| false), None);
    }
}
