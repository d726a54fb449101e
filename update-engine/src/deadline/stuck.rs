//! A disk that does not answer holds whoever asks it for ever, this program included. So the clock runs beside it, and asks no disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};
use nix::time::{ClockId, clock_gettime};

/// After the deadline: what leaving a slot takes at most, with every refusal of the reboot command, is over then.
const GRACE: Duration = Duration::from_secs(15 * 60);
/// Between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What is not on the medium by then will not be.
const SYNC_WITHIN: Duration = Duration::from_secs(10);
/// No deadline is known.
const NONE: u64 = u64::MAX;

/// Reboots a host that is still on trial, and still in this program, long after its deadline.
#[derive(Debug)]
pub(super) struct Stuck {
    deadline_s: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    /// When the clock was first looked at, since the start of the host.
    began: Duration,
}

impl Stuck {
    /// Watches the clock from now on, and reboots nothing yet.
    pub(super) fn watch() -> Self {
        let (deadline_s, is_over) = (Arc::new(AtomicU64::new(NONE)), Arc::new(AtomicBool::new(false)));
        let (known, over) = (Arc::clone(&deadline_s), Arc::clone(&is_over));
        // A thread that cannot be started leaves the rest as it is.
        let _started = thread::Builder::new().name("stuck".to_owned()).spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if is_stuck(&known, awake_for()) {
                    reboot_at_once();
                }
                sleep(LOOK_EVERY);
            }
        });
        Self { deadline_s, is_over, began: awake_for() }
    }

    /// The host is on trial until then, as far as is known; `None` = it is not. Whoever starts later has as much time.
    pub(super) fn on_trial_until(&self, deadline: Option<Duration>) {
        let deadline = deadline.map(|deadline| deadline.max(self.began));
        self.deadline_s.store(deadline.map_or(NONE, |deadline| deadline.as_secs()), Ordering::Relaxed);
    }

    /// Until when it is on trial, as far as it was told.
    #[cfg(test)]
    pub(super) fn known(&self) -> Option<Duration> {
        Some(self.deadline_s.load(Ordering::Relaxed)).filter(|known| *known != NONE).map(Duration::from_secs)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn is_stuck(deadline_s: &AtomicU64, awake: Duration) -> bool {
    let deadline_s = deadline_s.load(Ordering::Relaxed);
    deadline_s != NONE && awake.as_secs() > deadline_s.saturating_add(GRACE.as_secs())
}

/// Since the start of the host, without the time in which it was suspended.
fn awake_for() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

/// Time in which the host was suspended since its start.
pub(crate) fn suspended_for() -> Duration {
    let with_it = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    with_it.saturating_sub(awake_for())
}

/// What is in memory goes to the medium, where that answers.
pub(super) fn sync() {
    let (done, is_done) = std::sync::mpsc::channel();
    thread::spawn(move || {
        nix::unistd::sync();
        let _nobody_waits = done.send(());
    });
    let _given_up = is_done.recv_timeout(SYNC_WITHIN);
}

/// The kernel's own way, which asks no device; then the ordinary one.
fn reboot_at_once() {
    tracing::error!("the slot on trial is long overdue, and a disk does not answer: rebooting at once");
    let _not_there = std::fs::write("/proc/sysrq-trigger", "b");
    let _refused = reboot(RebootMode::RB_AUTOBOOT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_on_trial_is_stuck_and_only_long_after_the_deadline() {
        let stuck = Stuck::watch();
        let at = |seconds| is_stuck(&stuck.deadline_s, Duration::from_secs(seconds));
        let (began, late) = (stuck.began.as_secs(), stuck.began.as_secs() + 600);
        assert!(!at(0) && !at(u64::MAX));
        stuck.on_trial_until(Some(Duration::from_secs(late)));
        assert!(!at(late) && !at(late + 900) && at(late + 901));
        stuck.on_trial_until(Some(Duration::ZERO));
        assert!(!at(began + 900) && at(began + 901), "who starts after the deadline has as much time");
        stuck.on_trial_until(None);
        assert!(!at(u64::MAX - 1));
    }

    #[test]
    fn a_machine_that_was_never_suspended_was_awake_since_its_start() {
        assert!(awake_for() > Duration::ZERO && suspended_for() < awake_for());
        sync();
    }
}
