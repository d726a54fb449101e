//! A trouble that lasts, said at once and then ever more seldom.

use std::time::Duration;

use tokio::time::Instant;

/// How long it is not said again after the first time; doubles with every further one.
const PAUSE: Duration = Duration::from_secs(5);

/// The longest such time.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// When to say it. A store that is out for a night must not fill the log with every host's question.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    said: u32,
    quiet_until: Option<Instant>,
}

impl Seldom {
    /// Whether it is time to say it; then it is taken as said.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.quiet_until.is_some_and(|until| now < until) {
            return false;
        }
        let pause = PAUSE.saturating_mul(1 << self.said.min(10)).min(LONGEST_PAUSE);
        self.quiet_until = Some(now + pause);
        self.said = self.said.saturating_add(1);
        true
    }

    /// When it is time again; none while there is no trouble.
    pub(super) fn next(&self) -> Option<Instant> {
        self.quiet_until
    }

    /// The trouble is over: the next one is said at once.
    pub(super) fn over(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_night_of_trouble_is_a_page_of_the_log() {
        let evening = Instant::now();
        let after = |seconds| evening + Duration::from_secs(seconds);
        let mut trouble = Seldom::default();
        let said: Vec<u64> = (0..8 * 60 * 60).filter(|second| trouble.is_due(after(*second))).collect();
        assert_eq!(said[..9], [0, 5, 15, 35, 75, 155, 315, 615, 915]);
        assert_eq!(said.len(), 101);
        let morning = after(8 * 60 * 60);
        assert!(!trouble.is_due(morning) && trouble.next().is_some_and(|next| next > morning));
        trouble.over();
        assert!(trouble.is_due(morning), "another trouble is said at once");
    }
}
