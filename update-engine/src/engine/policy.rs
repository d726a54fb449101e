//! How often, how long, after what: the rules of time, pure, each with its reason.

use std::time::Duration;

use crate::engine::event::AskAgain;
use crate::engine::time::Now;

/// A server cannot make hosts check more seldom than this (its `Retry-After` can: [`RETRY_AFTER_MAX_MS`]).
pub const POLL_MAX_MS: u64 = 4 * 3_600_000;
/// Longest `Retry-After` obeyed: a typing mistake on a server must not silence a fleet for a year.
pub const RETRY_AFTER_MAX_MS: u64 = 24 * 3_600_000;
/// First pause after a failed attempt; it doubles with each failure of the same release.
pub const FAILED_PAUSE_MS: u64 = 60_000;
/// Longest pause after failures: a mended server or disk is noticed within a day.
pub const FAILED_PAUSE_MAX_MS: u64 = 24 * 3_600_000;
/// Longest wait for the first check after a start, so that a fleet that lost power does not come back as one.
pub const FIRST_CHECK_MAX_MS: u64 = 10 * 60_000;
/// Refusals kept. Old ones are of releases that are long overtaken.
pub const MAX_REFUSALS: u32 = 100;
/// Refused offers remembered as reported. A server that offers more of them in turn is told again, once a check.
pub const MAX_REFUSALS_REPORTED: usize = 16;
/// Boots into a slot that was judged unhealthy after which the host stops rebooting to leave it. No loader has more tries.
pub const MAX_BAD_BOOTS: u32 = 9;
/// Reboots in a row in which the loader never showed the new slot running, after which its release is refused. One may be a power cut.
pub const MAX_NEVER_SHOWN: u32 = 3;
/// Times a proof may fail before the attempt does: the disk does not keep what is written.
pub const MAX_REWRITES: u32 = 2;
/// A newer release may supersede a pending one this often; more would let a stream of releases starve the update.
pub const SUPERSEDE_EVERY_MS: i64 = 24 * 3_600_000;
/// A timer that was read from the journal and is further away was not set by these rules.
pub const LONGEST_WAIT_MS: u64 = FAILED_PAUSE_MAX_MS / 10 * 11;
/// A proof older than this is earned again before arming.
pub const PROOF_MAX_AGE_MS: u64 = 24 * 3_600_000;

/// Longest wait before a world that cannot be seen is looked at again: a device may only be slow to appear.
pub const LOOK_MAX_MS: u64 = 60_000;

/// What the host's configuration says about when and how to reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Gates, then reboot; no lock.
    Immediate,
    /// Gates, then the lock, then reboot.
    Lock,
    /// A person reboots.
    Manual,
}

impl Strategy {
    /// As in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Immediate => "immediate",
            Self::Lock => "lock",
            Self::Manual => "manual",
        }
    }
}

/// Where the reboot lock is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockSettings {
    /// Base URL.
    pub url: String,
    /// Group.
    pub group: String,
    /// Id this host locks under.
    pub id: String,
}

/// Which reboot starts a slot that is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartedBy {
    /// The next one, whoever asks for it.
    AnyReboot,
    /// Only one that passes the loader the argument of the reboot command; every other one starts the old slot.
    OurReboot,
}

/// The settings the engine decides by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Reboot strategy.
    pub strategy: Strategy,
    /// The reboot lock, when there is one.
    pub lock: Option<LockSettings>,
    /// Usual time between two checks.
    pub check_interval: Duration,
    /// Time between two looks at gates that said wait.
    pub gate_retry: Duration,
    /// Time a host that was rebooted into a new slot has to see whether that runs, before it leaves it.
    pub blind: Duration,
    /// Time since boot before which a slot on trial is not kept.
    pub min_uptime: Duration,
    /// `true` when `[server] url` is set; without it nothing is ever asked.
    pub has_server: bool,
    /// Age from which the newest record seen, or the last contact with a server, counts as stale.
    pub stale_after: Duration,
    /// Which reboot starts a slot that is armed.
    pub started_by: StartedBy,
}

impl Policy {
    fn interval_ms(&self) -> u64 {
        millis(self.check_interval).max(1)
    }

    /// Wait before a world that cannot be seen is looked at again.
    pub fn look_ms(&self) -> u64 {
        self.interval_ms().min(LOOK_MAX_MS)
    }

    /// [`Policy::blind`].
    pub fn blind_ms(&self) -> u64 {
        millis(self.blind)
    }

    /// Wait before the first check after a start: anywhere within the interval, at most [`FIRST_CHECK_MAX_MS`].
    pub fn first_check_ms(&self, now: &Now) -> u64 {
        now.jitter_ms(self.interval_ms().min(FIRST_CHECK_MAX_MS))
    }

    /// Wait before the next check after an answer: the server's poll interval counts between ours and [`POLL_MAX_MS`]; ± 10 %;
    /// its `Retry-After` sets a floor.
    pub fn next_check_ms(&self, again: AskAgain, now: &Now) -> u64 {
        let own = self.interval_ms();
        let asked = again.poll_interval_s.map_or(own, |seconds| seconds.saturating_mul(1000));
        spread(asked.clamp(own, POLL_MAX_MS.max(own)), now).max(retry_after_ms(again.retry_after_s))
    }

    /// Wait after `errors` failed checks in a row: doubling, at most [`POLL_MAX_MS`]; a server's `Retry-After` sets a floor.
    pub fn check_error_ms(&self, errors: u32, retry_after_s: Option<u64>, now: &Now) -> u64 {
        let own = self.interval_ms();
        // The first error is tried again sooner than a whole interval: most are one lost packet.
        let doubled = (own / 4).max(1).saturating_mul(1 << errors.saturating_sub(1).min(16));
        spread(doubled.min(POLL_MAX_MS.max(own)), now).max(retry_after_ms(retry_after_s))
    }

    /// Wait after the `failures`-th failed attempt of one release; not less than who gave nothing asked for, up to a day.
    pub fn failed_ms(&self, failures: u32, retry_after_s: Option<u64>, now: &Now) -> u64 {
        let first = FAILED_PAUSE_MS.min(self.interval_ms());
        let own = spread(first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(FAILED_PAUSE_MAX_MS), now);
        own.max(retry_after_ms(retry_after_s))
    }

    /// Wait before looking at waiting gates again; the lock server may ask for more.
    pub fn gate_retry_ms(&self, retry_after_s: Option<u64>, now: &Now) -> u64 {
        let own = millis(self.gate_retry).max(1);
        let asked = retry_after_s.map_or(own, |seconds| seconds.saturating_mul(1000));
        spread(asked.clamp(own.min(1000), RETRY_AFTER_MAX_MS), now)
    }
}

/// What a `Retry-After` asks for, as far as it is obeyed; 0 = nothing.
pub fn retry_after_ms(retry_after_s: Option<u64>) -> u64 {
    retry_after_s.unwrap_or(0).saturating_mul(1000).min(RETRY_AFTER_MAX_MS)
}

/// ± 10 %, so that hosts that started together drift apart.
fn spread(base_ms: u64, now: &Now) -> u64 {
    let tenth = base_ms / 10;
    base_ms.saturating_sub(tenth).saturating_add(now.jitter_ms(tenth.saturating_mul(2)))
}

/// Milliseconds of a duration, saturating.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::time::{Mono, Wall};
    use proptest::prelude::{any, prop_assert, proptest};

    fn policy(check_interval_s: u64) -> Policy {
        Policy {
            strategy: Strategy::Immediate,
            lock: None,
            check_interval: Duration::from_secs(check_interval_s),
            gate_retry: Duration::from_secs(60),
            blind: Duration::from_secs(600),
            min_uptime: Duration::ZERO,
            has_server: true,
            stale_after: Duration::from_secs(60 * 86_400),
            started_by: StartedBy::AnyReboot,
        }
    }

    fn now(dice: u128) -> Now {
        Now { wall: Wall(0), mono: Mono(0), dice }
    }

    proptest! {
        #[test]
        fn a_server_can_neither_storm_nor_silence_a_fleet(interval in 1_u64..100_000, poll in any::<u64>(), dice in any::<u128>()) {
            let wait = policy(interval).next_check_ms(AskAgain { poll_interval_s: Some(poll), retry_after_s: None }, &now(dice));
            let own = interval * 1000;
            prop_assert!(wait >= own - own / 10);
            prop_assert!(wait <= POLL_MAX_MS.max(own) * 11 / 10 + 1);
        }

        #[test]
        fn retry_after_is_obeyed_up_to_a_day(errors in 1_u32..100, after in any::<u64>(), dice in any::<u128>()) {
            let wait = policy(2700).check_error_ms(errors, Some(after), &now(dice));
            prop_assert!(wait >= after.saturating_mul(1000).min(RETRY_AFTER_MAX_MS));
            prop_assert!(wait <= RETRY_AFTER_MAX_MS);
            let again = AskAgain { poll_interval_s: None, retry_after_s: Some(after) };
            let wait = policy(2700).next_check_ms(again, &now(dice));
            prop_assert!(wait >= after.saturating_mul(1000).min(RETRY_AFTER_MAX_MS));
            prop_assert!(wait <= RETRY_AFTER_MAX_MS);
        }

        #[test]
        fn pauses_after_failures_grow_to_a_day_and_no_further(failures in 1_u32..1000, dice in any::<u128>()) {
            let wait = policy(2700).failed_ms(failures, None, &now(dice));
            prop_assert!((FAILED_PAUSE_MS * 9 / 10..=FAILED_PAUSE_MAX_MS * 11 / 10).contains(&wait));
        }

        #[test]
        fn gate_looks_are_never_a_storm(after in any::<Option<u64>>(), dice in any::<u128>()) {
            let wait = policy(2700).gate_retry_ms(after, &now(dice));
            prop_assert!(wait <= RETRY_AFTER_MAX_MS * 11 / 10);
        }
    }
}
