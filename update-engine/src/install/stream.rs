//! What an install follows: a delta as long as anybody has it, with the full payload beside it for what that cannot make, window by window; with no delta
//! the full payload.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use manifests::release::Release;

use super::blobs::BlobMemory;
use super::error::InstallError;
use super::front::{Front, Offered};
use super::ground::{Base, Running};
use super::ledger::Ledger;
use super::meter::Meter;
use super::origin::Origins;
use super::pool::Pool;
use super::round::{Round, Stop};
use super::scan::Ahead;
use crate::fetch::{Budget, FetchError};
use crate::slot::InactiveSlot;

/// What an install is made of.
pub(super) struct Install<'a> {
    pub(super) release: &'a Release,
    pub(super) slot: &'a Arc<InactiveSlot>,
    pub(super) base: Option<&'a Base>,
    pub(super) ledger: Ledger,
    pub(super) ahead: Ahead,
    pub(super) delta: Option<Offered>,
    pub(super) full: Option<Offered>,
    pub(super) pool: &'a mut Pool,
    pub(super) meter: &'a Meter,
    /// What came over the network, for all payloads together.
    pub(super) budget: &'a Budget,
    /// Which windows came from where.
    pub(super) origins: Origins,
}

impl Install<'_> {
    /// Makes every window that the ledger misses.
    pub(super) async fn run(&mut self) -> Result<(), InstallError> {
        // As long as all that is missing may be there, nobody is asked for anything.
        while !self.ledger.is_complete() && self.ledger.missing() <= self.ahead.left() {
            self.meter.looking(true);
            let Some((image, windows)) = self.ahead.next().await? else { break };
            self.meter.reused(self.ledger.right(image, windows));
        }
        while !self.ledger.is_complete() {
            match self.round().await? {
                Ended::Done => {}
                Ended::Without(why) => {
                    tracing::warn!(reason = %why, "the delta is of no use: the full payload is fetched");
                    self.delta = None;
                }
                Ended::TableDropped(why) => {
                    tracing::info!(reason = %why, "the frame table is dropped together with the source that gave it");
                }
            }
        }
        Ok(())
    }

    /// Follows one payload as far as it leads.
    async fn round(&mut self) -> Result<Ended, InstallError> {
        let (followed, beside) = match (&mut self.delta, &mut self.full) {
            (Some(delta), full) => (delta, full.as_mut()),
            (None, Some(full)) => (full, None),
            (None, None) => return Err(FetchError::NoSource.into()),
        };
        let record = self.release.record();
        let front = match followed.front(record).await {
            Ok(front) => front,
            Err(error @ InstallError::Fetch(_)) if beside.is_some() => return Ok(Ended::Without(error.to_string())),
            Err(error) => return Err(error),
        };
        let running = match open_running(&front, self.base) {
            Ok(running) => running,
            Err(why) if beside.is_some() => return Ok(Ended::Without(why)),
            Err(why) => return Err(InstallError::NoBase(why)),
        };
        let mut round = Round {
            record,
            slot: self.slot,
            ledger: &mut self.ledger,
            ahead: &mut self.ahead,
            followed,
            beside,
            front: &front,
            running,
            pool: &mut *self.pool,
            meter: self.meter,
            budget: self.budget,
            origins: &mut self.origins,
            busy: BTreeSet::new(),
            in_flight: 0,
            waiting: Vec::new(),
            held: Vec::new(),
            blobs: BlobMemory::default(),
            again: BTreeSet::new(),
            wrong_from: BTreeMap::new(),
            unsound: 0,
            losses: 0,
        };
        let ended = round.run().await;
        let ended = match ended {
            Ok(None) => return Ok(Ended::Done),
            Ok(Some(ended)) => ended,
            Err(error) => return Err(error),
        };
        round.drain().await?;
        match ended {
            Stop::Delta(why) => Ok(Ended::Without(why)),
            // What no source can satisfy may be the table's fault: whoever gave it is not believed again, if the record does not name it.
            Stop::Wrong(failure) => {
                if front.is_vouched || followed.sources.drop_source(front.giver).is_err() {
                    return Err(failure);
                }
                followed.front = None;
                Ok(Ended::TableDropped(failure.to_string()))
            }
        }
    }
}

/// How a payload was followed.
enum Ended {
    /// To its end.
    Done,
    /// The delta is of no use, for this reason.
    Without(String),
    /// Its table is of no use, for this reason, and another source may have a better one.
    TableDropped(String),
}

fn open_running(front: &Front, base: Option<&Base>) -> Result<Option<Arc<Running>>, String> {
    if front.table.sources().is_empty() {
        return Ok(None);
    }
    let base = base.ok_or_else(|| "the slot that runs is not known".to_owned())?;
    Running::open(base, front.table.sources()).map(|running| Some(Arc::new(running)))
}
