//! The looks at the world that the engine asks for: one at a time, and not for ever.
//!
//! Promises: however often the engine asks, at most one such look hangs (P10), and each is answered after a few times [`PATIENCE`] at the
//! most. A disk that does not answer is a trouble with words. Never: answers with what was seen before the look was asked for.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::daemon::Shared;
use crate::engine::cause::Cause;
use crate::engine::event::Fault;
use crate::engine::facts::{Facts, Trouble};

/// A look takes milliseconds; a disk that is busy, or repairs a sector, some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks at the world.
#[derive(Debug, Default)]
pub(super) struct Looker {
    /// A look that was given up and has not ended: held while one is waited for.
    hung: Mutex<Option<JoinHandle<()>>>,
}

impl Looker {
    /// The result of looking with `look`, on a thread for blocking work.
    ///
    /// # Errors
    /// If the look does not end in time, or an earlier one still has not ended.
    pub(super) async fn look<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
        self.look_within(PATIENCE, look).await
    }

    async fn look_within<T: Send + 'static>(
        &self,
        patience: Duration,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let mut hung = self.hung.lock().await;
        if let Some(earlier) = hung.as_mut() {
            if timeout(patience, earlier).await.is_err() {
                return Err(no_answer(patience));
            }
            *hung = None;
        }
        let (answer, answered) = tokio::sync::oneshot::channel();
        let mut work = tokio::task::spawn_blocking(move || {
            // Whoever gave it up does not want the answer.
            let _wanted = answer.send(look());
        });
        match timeout(patience, &mut work).await {
            Err(_elapsed) => {
                *hung = Some(work);
                Err(no_answer(patience))
            }
            // A panic in it is one of whoever waits for it.
            Ok(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            Ok(Ok(())) => answered.await.map_err(|_gone| no_answer(patience)),
        }
    }
}

fn no_answer(patience: Duration) -> Fault {
    let message = format!(
        "the disk has not answered for {} s: the slots are being looked at, and that has not ended (`dmesg` may tell why)",
        patience.as_secs()
    );
    Fault::new(Cause::RunningSlotUnknown, message)
}

/// The world as it is now, with what a trial that ended without a word left behind. Who got no answer sees nothing.
pub(super) async fn look(shared: &Shared, channel: Option<String>) -> Facts {
    let world = shared.world.clone();
    let seen = shared.looker.look(move || world.look_for_last_words(world.look(channel.as_deref()))).await;
    seen.unwrap_or_else(|fault| unseen(shared.facts(), fault))
}

/// What was known, of which nothing was seen.
pub(super) fn unseen(known: Facts, fault: Fault) -> Facts {
    let trouble = Trouble { code: fault.code, message: fault.message };
    Facts { running: None, boot: None, troubles: vec![trouble], ..known }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const AT_ONCE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_look_that_hangs_is_given_up_and_joined_by_no_other() {
        let looker = Looker::default();
        let (end, hangs) = mpsc::channel::<()>();
        let hung = looker.look_within(AT_ONCE, move || hangs.recv().is_err()).await.unwrap_err();
        assert!(hung.message.starts_with("the disk has not answered for 0 s"), "{hung}");
        let began = std::sync::Arc::new(std::sync::atomic::AtomicBool::default());
        let begins = began.clone();
        let next = move || begins.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(looker.look_within(AT_ONCE, next.clone()).await.is_err());
        assert!(!began.load(std::sync::atomic::Ordering::Relaxed), "one hangs at a time");
        drop(end);
        looker.look_within(Duration::from_secs(60), next).await.unwrap();
        assert!(began.load(std::sync::atomic::Ordering::Relaxed), "what is answered was seen after it was asked for");
    }

    #[test]
    fn who_got_no_answer_sees_nothing_and_knows_why() {
        let known = crate::engine::tests::host::facts();
        let facts = unseen(known.clone(), no_answer(PATIENCE));
        assert!(facts.is_blind() && facts.troubles[0].message.contains("the disk has not answered for 60 s"));
        assert_eq!((facts.identity, facts.boot_id), (known.identity, known.boot_id));
    }
}
