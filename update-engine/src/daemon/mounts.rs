//! Tells when something was mounted: nothing else tells a daemon at rest that its state folder is hidden by now.
//!
//! Promises: whatever is mounted or unmounted, where this process sees it, is told once, also what came while nobody asked; several changes
//! may be told as one. As long as nothing is mounted nobody wakes up. Where the table of mounts cannot be watched (no `proc`), it is said to
//! have changed every minute.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// The mounts that this process sees. The kernel marks it as a priority event when they change (proc_pid_mountinfo(5), since Linux 2.6.30).
const TABLE: &str = "/proc/self/mountinfo";

/// Two looks take microseconds; a wake-up in so long is none to speak of.
const EVERY: Duration = Duration::from_secs(60);

/// Changes of what is mounted, from when it was made.
#[derive(Debug)]
pub(super) enum Mounts {
    /// The kernel tells.
    Told(AsyncFd<File>),
    /// It is taken for changed whenever this rings.
    Supposed(Interval),
}

impl Mounts {
    /// Those that this process sees.
    pub(super) fn watch() -> Self {
        Self::watch_or_suppose(Path::new(TABLE), EVERY)
    }

    fn watch_or_suppose(table: &Path, every: Duration) -> Self {
        watched(table).map_or_else(
            |error| {
                tracing::warn!("{}: {error}: a state folder that is mounted late is noticed within a minute", table.display());
                Self::supposed(every)
            },
            Self::Told,
        )
    }

    pub(super) fn supposed(every: Duration) -> Self {
        let mut interval = interval_at(Instant::now() + every, every);
        // Who comes late is told once.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self::Supposed(interval)
    }

    /// Waits for the next change. Dropped before it has answered, it has missed none.
    pub(super) async fn changed(&mut self) {
        match self {
            Self::Supposed(interval) => {
                interval.tick().await;
            }
            Self::Told(table) => match table.ready(Interest::PRIORITY).await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime is going down.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[allow(deprecated, reason = "what takes its place is unsafe, for what has another descriptor later: a file never has")]
fn watched(table: &Path) -> io::Result<AsyncFd<File>> {
    AsyncFd::with_interest(File::open(table)?, Interest::PRIORITY)
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::*;

    /// A folder at the place of another, until it is dropped.
    pub(in crate::daemon) struct Mounted(PathBuf);

    impl Mounted {
        /// `None` = nothing can be mounted here; that is said.
        pub(in crate::daemon) fn over(below: &Path, folder: &Path) -> Option<Self> {
            let nothing = None::<&str>;
            match mount(Some(folder), below, nothing, MsFlags::MS_BIND, nothing) {
                Ok(()) => Some(Self(below.to_owned())),
                Err(error) => {
                    println!("skipped: nothing can be mounted here (as root): {error}");
                    None
                }
            }
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
        }
    }

    async fn is_told(mounts: &mut Mounts, within: Duration) -> bool {
        tokio::time::timeout(within, mounts.changed()).await.is_ok()
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn what_is_mounted_and_unmounted_is_told_also_when_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let [below, folder] = ["below", "folder"].map(|name| dir.path().join(name));
        std::fs::create_dir(&below).unwrap();
        std::fs::create_dir(&folder).unwrap();
        let mut mounts = Mounts::watch();
        assert!(matches!(mounts, Mounts::Told(_)), "{mounts:?}");
        let Some(mounted) = Mounted::over(&below, &folder) else { return };
        assert!(is_told(&mut mounts, LONG).await);
        // Not by that one alone: others may mount as well.
        drop(mounted);
        assert!(is_told(&mut mounts, LONG).await);
    }

    #[tokio::test]
    async fn a_table_that_cannot_be_watched_is_taken_for_changed_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        for table in [plain, dir.path().join("none")] {
            let mut mounts = Mounts::watch_or_suppose(&table, Duration::from_millis(20));
            for _ in 0..3 {
                assert!(is_told(&mut mounts, LONG).await);
            }
        }
    }
}
