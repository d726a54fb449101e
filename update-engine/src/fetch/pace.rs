//! A body, chunk by chunk, at no less than the least rate.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use reqwest::Response;

use super::error::Fault;
use super::limits::Patience;

/// Watches that a transfer keeps up a least rate. Only time spent waiting for the network counts: a slow disk is no slow server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    window: Duration,
    floor_bytes: u64,
    waited: Duration,
    got: u64,
}

impl Pace {
    pub(super) const fn new(patience: &Patience) -> Self {
        Self { window: patience.rate_window, floor_bytes: patience.rate_floor_bytes, waited: Duration::ZERO, got: 0 }
    }

    /// The next chunk of the body, `None` at its end.
    pub(super) async fn chunk(&mut self, response: &mut Response) -> Result<Option<Bytes>, Fault> {
        loop {
            let left = self.window.saturating_sub(self.waited);
            let started = Instant::now();
            let chunk = tokio::time::timeout(left, response.chunk()).await;
            let length = match &chunk {
                Ok(Ok(Some(bytes))) => bytes.len(),
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(Fault::of_body(error)),
                Err(_elapsed) => 0,
            };
            self.count(length, started.elapsed())?;
            if let Ok(Ok(bytes)) = chunk {
                return Ok(bytes);
            }
        }
    }

    fn count(&mut self, length: usize, waited: Duration) -> Result<(), Fault> {
        self.got = self.got.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        self.waited = self.waited.saturating_add(waited);
        if self.waited < self.window {
            return Ok(());
        }
        if self.got < self.floor_bytes {
            return Err(Fault::Stalled { got: self.got, floor: self.floor_bytes, window: self.window });
        }
        (self.waited, self.got) = (Duration::ZERO, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn design_11_14_a_rate_below_the_floor_is_noticed_at_the_end_of_a_window() {
        let second = Duration::from_secs(1);
        let mut honest = Pace::new(&Patience::default());
        assert!((0..600).all(|_| honest.count(1024, second).is_ok()));
        let mut slow = Pace::new(&Patience::default());
        assert!((0..59).all(|_| slow.count(1000, second).is_ok()));
        let fault = slow.count(1000, second).unwrap_err();
        assert_eq!(fault.to_string(), "stalled: 60000 bytes in 60 s, expected at least 61440");
    }
}
