//! Numbered pieces of work on several threads, results taken in order, memory bounded.

use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::error::Error;

/// Results that a thread may have ready beside the one it works on.
const AHEAD: usize = 2;

/// Runs `work` for each of `0..count` on `threads` threads, each with a state of its own, and hands the results to `consume` on
/// this thread in ascending order. Piece `n` is always worked on by thread `n mod threads`, and no thread is more than three
/// pieces ahead, so at most `3 * threads` results exist at once. The first error ends it.
pub(crate) fn ordered<S, T: Send>(
    count: u64,
    threads: NonZeroUsize,
    state: impl Fn() -> Result<S, Error> + Sync,
    work: impl Fn(&mut S, u64) -> Result<T, Error> + Sync,
    mut consume: impl FnMut(u64, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let (state, work) = (&state, &work);
    thread::scope(|scope| {
        let results: Vec<Receiver<Result<T, Error>>> = (0_u64..)
            .take(threads.get())
            .map(|first| {
                let (sender, receiver) = sync_channel(AHEAD);
                scope.spawn(move || run_every(first, threads.get(), count, state, work, &sender));
                receiver
            })
            .collect();
        for (index, thread) in (0..count).zip(results.iter().cycle()) {
            // A thread that hung up without a result has panicked; the scope passes that on when it is left.
            let Ok(result) = thread.recv() else { return Err(Error::codec("a worker thread ended early")) };
            consume(index, result?)?;
        }
        Ok(())
    })
}

fn run_every<S, T>(
    first: u64,
    step: usize,
    count: u64,
    state: &impl Fn() -> Result<S, Error>,
    work: &impl Fn(&mut S, u64) -> Result<T, Error>,
    results: &SyncSender<Result<T, Error>>,
) {
    let mut state = match state() {
        Ok(state) => state,
        Err(error) => {
            // A receiver that is gone means that another piece has failed already.
            let _ = results.send(Err(error));
            return;
        }
    };
    for index in (first..count).step_by(step) {
        let result = work(&mut state, index);
        let failed = result.is_err();
        if results.send(result).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn results_come_in_order_from_any_number_of_threads() {
        for count in [1, 2, 7, 64] {
            let mut got = Vec::new();
            let consume = |index, square| {
                got.push((index, square));
                Ok(())
            };
            ordered(50, threads(count), || Ok(()), |(), index| Ok(index * index), consume).unwrap();
            assert_eq!(got, (0..50).map(|index| (index, index * index)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_error_ends_it_and_no_thread_runs_far_ahead() {
        let started = AtomicU64::new(0);
        let work = |(): &mut (), index: u64| {
            started.fetch_add(1, Ordering::Relaxed);
            if index == 5 { Err(Error::codec("five")) } else { Ok(index) }
        };
        let mut seen = Vec::new();
        let consume = |index, _| {
            seen.push(index);
            Ok(())
        };
        let error = ordered(1_000_000, threads(3), || Ok(()), work, consume).unwrap_err();
        assert_eq!(error.to_string(), "zstd: five");
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        assert!(started.load(Ordering::Relaxed) <= 5 + 3 * 4);
    }

    #[test]
    fn an_error_of_the_consumer_ends_it() {
        let error = ordered(1_000_000, threads(2), || Ok(()), |(), _| Ok(()), |_, ()| Err(Error::codec("full"))).unwrap_err();
        assert_eq!(error.to_string(), "zstd: full");
    }
}
