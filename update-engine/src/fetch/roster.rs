//! Whose turn it is: the sources of one file, their faults, and when to give up. Pure: the time and the dice are passed in.

use std::time::{Duration, Instant};

use super::address::Source;
use super::error::{Fault, FetchError};
use super::limits::{
    MAX_FAULTS_PER_SOURCE, MAX_FRUITLESS_FAULTS, MAX_FRUITLESS_LAPS, MAX_SOURCES, MAX_WAIT_IN_ATTEMPT, MAX_WRONG_WINDOWS,
    Patience,
};
use super::timing::Backoff;

/// Times a source may give what is not the file at all before it is dropped: once may be damage on the way.
const MAX_GARBAGE: u32 = 2;

/// Names one source of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct SourceId(usize);

pub(super) struct Entry {
    pub(super) source: Source,
    /// First strong ETag it gave.
    pub(super) etag: Option<String>,
    /// It answered a range with the whole file.
    pub(super) ignores_ranges: bool,
    faults_in_a_row: u32,
    wrong_windows: u32,
    garbage: u32,
    dropped: bool,
    last_fault: Option<Fault>,
    come_back_at: Option<Instant>,
}

/// What follows a fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// Ask the current source (perhaps another one than before), after this pause.
    Ask(Duration),
    /// Nobody is left to ask, or it has been fruitless for too long.
    GiveUp,
}

pub(super) struct Roster {
    entries: Vec<Entry>,
    current: usize,
    faults_allowed: u32,
    fruitless_faults: u32,
    fruitless_laps: u32,
    backoff: Backoff,
}

impl Roster {
    pub(super) fn new(sources: Vec<Source>, patience: &Patience) -> Result<Self, FetchError> {
        let entry = |source| Entry {
            source,
            etag: None,
            ignores_ranges: false,
            faults_in_a_row: 0,
            wrong_windows: 0,
            garbage: 0,
            dropped: false,
            last_fault: None,
            come_back_at: None,
        };
        let entries: Vec<_> = sources.into_iter().take(MAX_SOURCES).map(entry).collect();
        let count = u32::try_from(entries.len()).ok().filter(|count| *count > 0).ok_or(FetchError::NoSource)?;
        Ok(Self {
            entries,
            current: 0,
            // Each of a long list has its turn before the attempt is given up.
            faults_allowed: (MAX_FRUITLESS_FAULTS / count).clamp(1, MAX_FAULTS_PER_SOURCE),
            fruitless_faults: 0,
            fruitless_laps: 0,
            backoff: Backoff::new(patience.first_pause, patience.longest_pause),
        })
    }

    pub(super) const fn current(&self) -> SourceId {
        SourceId(self.current)
    }

    pub(super) fn entry(&mut self) -> &mut Entry {
        // `current` is always the index of an entry: `new` refuses an empty list, and entries are never removed.
        &mut self.entries[self.current]
    }

    /// Wanted bytes arrived from the current source.
    pub(super) fn progress(&mut self) {
        self.entry().faults_in_a_row = 0;
        self.fruitless_faults = 0;
        self.fruitless_laps = 0;
        self.backoff.reset();
    }

    /// The current source failed.
    pub(super) fn fault(&mut self, fault: Fault, now: Instant, dice: f64) -> Turn {
        let faults_allowed = self.faults_allowed;
        let entry = self.entry();
        entry.faults_in_a_row = entry.faults_in_a_row.saturating_add(1);
        entry.come_back_at = fault.retry_after().and_then(|wait| now.checked_add(wait));
        let leave = !fault.is_passing() || entry.faults_in_a_row >= faults_allowed;
        if matches!(fault, Fault::Changed { .. }) {
            entry.etag = None;
        }
        entry.last_fault = Some(fault);
        if leave {
            entry.faults_in_a_row = 0;
        }
        self.fruitless_faults = self.fruitless_faults.saturating_add(1);
        let lapped = leave && self.advance();
        let pause = if !leave || lapped { self.backoff.next(dice) } else { Duration::ZERO };
        let fruitless = self.fruitless_faults >= MAX_FRUITLESS_FAULTS || self.fruitless_laps >= MAX_FRUITLESS_LAPS;
        if fruitless { Turn::GiveUp } else { self.ready(pause, now) }
    }

    /// The current source gave something that is not the file.
    pub(super) fn garbage(&mut self, fault: Fault, now: Instant, dice: f64) -> Turn {
        let entry = self.entry();
        entry.garbage = entry.garbage.saturating_add(1);
        if entry.garbage < MAX_GARBAGE {
            return self.fault(fault, now, dice);
        }
        entry.last_fault = Some(fault);
        self.drop_source(self.current());
        self.ready(Duration::ZERO, now)
    }

    /// A window that came from `id` differs from the record. Says whether that was one too many.
    pub(super) fn wrong_window(&mut self, id: SourceId) -> bool {
        let Some(entry) = self.entries.get_mut(id.0) else { return false };
        entry.wrong_windows = entry.wrong_windows.saturating_add(1);
        entry.last_fault = Some(Fault::WrongWindows { count: entry.wrong_windows });
        let dropped = entry.wrong_windows == MAX_WRONG_WINDOWS;
        if dropped {
            self.drop_source(id);
        }
        dropped
    }

    /// Never asks `id` again.
    pub(super) fn drop_source(&mut self, id: SourceId) {
        if let Some(entry) = self.entries.get_mut(id.0) {
            entry.dropped = true;
        }
        if id == self.current() {
            self.advance();
        }
    }

    pub(super) fn is_dropped(&self, id: SourceId) -> bool {
        self.entries.get(id.0).is_none_or(|entry| entry.dropped)
    }

    /// Sources that are still asked.
    pub(super) fn usable(&self) -> impl Iterator<Item = SourceId> + '_ {
        self.entries.iter().enumerate().filter(|(_, entry)| !entry.dropped).map(|(index, _)| SourceId(index))
    }

    /// Turns to the next source that is not in `avoid`, if there is one.
    pub(super) fn turn_from(&mut self, avoid: &[SourceId]) {
        let fine = |index: &usize| !avoid.contains(&SourceId(*index)) && !self.entries[*index].dropped;
        if let Some(index) = self.in_turn().find(fine) {
            self.current = index;
        }
    }

    /// Whether a source is left that may know ranges.
    pub(super) fn someone_may_know_ranges(&self) -> bool {
        self.entries.iter().any(|entry| !entry.dropped && !entry.ignores_ranges)
    }

    /// The source as it is shown.
    pub(super) fn name(&self, id: SourceId) -> String {
        self.entries.get(id.0).map_or_else(String::new, |entry| entry.source.to_string())
    }

    /// The sources with their last faults, for a message.
    pub(super) fn tried(&self) -> Vec<(String, Option<Fault>)> {
        self.entries.iter().map(|entry| (entry.source.to_string(), entry.last_fault.clone())).collect()
    }

    /// The fault to name when giving up: the current source's, else anyone's.
    pub(super) fn last_fault(&self) -> Option<Fault> {
        self.in_turn().find_map(|index| self.entries[index].last_fault.clone())
    }

    /// The shortest wait that a usable source asks for, if all of them ask for one.
    pub(super) fn retry_after(&self, now: Instant) -> Option<Duration> {
        let waits = self.usable().map(|id| self.wait_for(id.0, now));
        waits.min().filter(|wait| !wait.is_zero())
    }

    /// All indices, from the current one round to the one before it.
    fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let (current, count) = (self.current, self.entries.len());
        (0..count).map(move |step| (current + step) % count)
    }

    /// Moves on to the next usable source; says whether that ran past the end of the list.
    fn advance(&mut self) -> bool {
        let before = self.current;
        let next = self.in_turn().skip(1).chain([before]).find(|index| !self.entries[*index].dropped);
        self.current = next.unwrap_or(before);
        let lapped = self.current <= before;
        if lapped {
            self.fruitless_laps = self.fruitless_laps.saturating_add(1);
        }
        lapped
    }

    /// Who may be asked after `pause`: a source that asked to be left alone gives its turn to the next one that did not.
    fn ready(&mut self, pause: Duration, now: Instant) -> Turn {
        let usable = self.in_turn().filter(|index| !self.entries[*index].dropped);
        let soonest = usable.min_by_key(|index| self.wait_for(*index, now));
        let Some(index) = soonest else { return Turn::GiveUp };
        let wait = self.wait_for(index, now);
        self.current = index;
        if wait > MAX_WAIT_IN_ATTEMPT { Turn::GiveUp } else { Turn::Ask(pause.max(wait)) }
    }

    fn wait_for(&self, index: usize, now: Instant) -> Duration {
        let then = self.entries.get(index).and_then(|entry| entry.come_back_at);
        then.map_or(Duration::ZERO, |then| then.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::Address;
    use super::*;

    struct Bench {
        roster: Roster,
        now: Instant,
    }

    impl Bench {
        fn with(sources: usize) -> Self {
            let source = |number| Address::parse(&format!("http://source-{number}/file")).unwrap().into();
            let roster = Roster::new((0..sources).map(source).collect(), &Patience::default()).unwrap();
            Self { roster, now: Instant::now() }
        }

        /// The source asked next and the pause in seconds, or `None` for giving up.
        fn fault(&mut self, fault: Fault) -> Option<(usize, u64)> {
            let turn = self.roster.fault(fault, self.now, 0.5);
            self.told(turn)
        }

        fn told(&self, turn: Turn) -> Option<(usize, u64)> {
            match turn {
                Turn::Ask(pause) => Some((self.roster.current, pause.as_secs())),
                Turn::GiveUp => None,
            }
        }
    }

    fn refused() -> Fault {
        Fault::Connect { cause: "refused".to_owned() }
    }

    fn status(status: u16, retry_after: Option<u64>) -> Fault {
        Fault::Status { status, expected: "200", retry_after: retry_after.map(Duration::from_secs) }
    }

    #[test]
    fn passing_faults_stay_with_a_source_until_the_tenth() {
        let mut bench = Bench::with(2);
        let turns: Vec<_> = (0..10).map(|_| bench.fault(refused()).unwrap()).collect();
        assert_eq!(turns[..9], [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (0, 30), (0, 30), (0, 30), (0, 30)]);
        assert_eq!(turns[9], (1, 0), "the next source is asked at once");
    }

    #[test]
    fn faults_that_would_come_again_go_to_the_next_source_at_once() {
        let size = Fault::WrongSize { expected: 1, got: 2 };
        let garbage = Fault::Garbage { why: "a login page".to_owned() };
        for fault in [status(404, None), status(403, None), size, garbage] {
            assert_eq!(Bench::with(2).fault(fault), Some((1, 0)));
        }
        for fault in [status(500, None), status(503, None), status(429, None), refused()] {
            assert_eq!(Bench::with(2).fault(fault), Some((0, 1)));
        }
    }

    #[test]
    fn past_the_last_source_comes_the_first_again_after_a_pause_but_not_for_ever() {
        let mut bench = Bench::with(2);
        let turns: Vec<_> = (0..6).map(|_| bench.fault(status(404, None))).collect();
        assert_eq!(turns, [Some((1, 0)), Some((0, 1)), Some((1, 0)), Some((0, 2)), Some((1, 0)), None]);
    }

    #[test]
    fn a_dead_network_is_given_up_after_a_bounded_number_of_faults() {
        for sources in 1..=MAX_SOURCES {
            let mut bench = Bench::with(sources);
            let mut asked = std::collections::BTreeSet::from([0]);
            let mut faults = 1;
            while let Some((source, _)) = bench.fault(refused()) {
                asked.insert(source);
                faults += 1;
            }
            assert!(faults <= MAX_FRUITLESS_FAULTS, "{faults}");
            assert_eq!(asked.len(), sources, "each source had its turn");
        }
    }

    #[test]
    fn progress_forgives_everything_that_was_before() {
        let mut bench = Bench::with(1);
        for _ in 0..1000 {
            assert_eq!(bench.fault(refused()), Some((0, 1)));
            bench.roster.progress();
        }
    }

    #[test]
    fn a_source_that_asks_to_be_left_alone_gives_its_turn_away() {
        let mut bench = Bench::with(2);
        assert_eq!(bench.fault(status(503, Some(200))), Some((1, 0)));
        assert_eq!(bench.fault(status(503, Some(100))), Some((1, 100)), "both wait: the sooner one is waited for");
        assert_eq!(bench.roster.retry_after(bench.now), Some(Duration::from_secs(100)));
        bench.now += Duration::from_secs(100);
        assert_eq!(bench.fault(status(404, None)), Some((1, 2)), "the first still wants 100 s");
    }

    #[test]
    fn a_longer_wait_than_an_attempt_lasts_ends_the_attempt() {
        let mut bench = Bench::with(1);
        assert_eq!(bench.fault(status(503, Some(3600))), None);
        assert_eq!(bench.roster.retry_after(bench.now), Some(Duration::from_secs(3600)));
    }

    #[test]
    fn eight_wrong_windows_drop_a_source_for_good() {
        let mut bench = Bench::with(2);
        let first = bench.roster.current();
        let dropped: Vec<_> = (0..8).map(|_| bench.roster.wrong_window(first)).collect();
        assert_eq!(dropped, [false, false, false, false, false, false, false, true]);
        assert!(bench.roster.is_dropped(first));
        assert_eq!(bench.roster.current, 1);
        assert_eq!(bench.fault(status(404, None)), Some((1, 1)), "only the second is left");
        assert_eq!(bench.roster.tried()[0].1.as_ref().unwrap().to_string(), "8 windows differ from the signed record");
    }

    #[test]
    fn what_is_not_the_file_is_asked_for_once_more_and_then_never() {
        let mut bench = Bench::with(1);
        let page = || Fault::Garbage { why: "a login page".to_owned() };
        let turn = bench.roster.garbage(page(), bench.now, 0.5);
        assert_eq!(bench.told(turn), Some((0, 1)));
        bench.roster.progress();
        let turn = bench.roster.garbage(page(), bench.now, 0.5);
        assert_eq!(bench.told(turn), None);
        assert_eq!(bench.roster.usable().count(), 0);
    }

    #[test]
    fn turning_away_prefers_sources_that_were_not_wrong() {
        let mut bench = Bench::with(3);
        let ids: Vec<_> = bench.roster.usable().collect();
        bench.roster.turn_from(&ids[..2]);
        assert_eq!(bench.roster.current(), ids[2]);
        bench.roster.turn_from(&ids);
        assert_eq!(bench.roster.current(), ids[2], "with nobody else, the turn stays");
    }

    #[test]
    fn an_empty_list_is_refused() {
        assert_eq!(Roster::new(Vec::new(), &Patience::default()).err().map(|error| error.code()), Some("no-source"));
    }
}
