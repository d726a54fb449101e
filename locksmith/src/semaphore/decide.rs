//! One decision after another, each a short function of what stands in the document and the queue.
//!
//! An operator's hold (a holder with `by`) is no grant of the host in whose name it is: only [`Op::Free`] ends it, and
//! [`Op::Hold`] confirms it to that operator alone, as two who share a hold would end it for each other; for the same
//! reason the hold of an operator without a name is confirmed to nobody. The host itself
//! is refused the place as in use, by name of the operator, so it does not reboot under a maintenance; its release answers
//! as for one that holds nothing, because foreign clients release at every boot and must not fail on it. The other way
//! round, a place that a host holds is no hold: [`Op::Hold`] refuses it, as that host's release would end it behind the
//! operator's back.

use super::history::{Entry, Event};
use super::queue::Queue;
use super::{Answer, Decision, Document, Facts, Granted, Holder, Max, Moment, Op, Outcome, Phase, Refusal, UNNAMED};
use crate::names::{AttemptId, HostId, Label, Reason};

/// What a decision is made upon.
pub(super) struct On<'a> {
    pub(super) document: &'a Document,
    pub(super) revision: u64,
    pub(super) queue: &'a Queue,
    pub(super) now: Moment,
}

impl On<'_> {
    pub(super) fn decide(&self, op: &Op) -> Decision {
        match op {
            Op::Take { id, attempt, facts } => self.take(id, attempt.as_ref(), facts),
            Op::Renew { id, attempt, fence } => self.renew(id, attempt, *fence),
            Op::Reboot { id, attempt, fence, facts } => self.reboot(id, attempt, *fence, facts),
            Op::Release { id, attempt, outcome } => self.release(id, attempt.as_ref(), *outcome),
            Op::Expire { id, fence, renewals } => self.expire(id, *fence, *renewals),
            Op::Hold { id, by } => self.hold(id, by),
            Op::Free { id, reason, by } => self.free(id, reason.as_ref(), by),
            Op::SetMax { max, by } => self.set_max(*max, by),
        }
    }

    fn take(&self, id: &HostId, attempt: Option<&AttemptId>, facts: &Facts) -> Decision {
        // "Do I hold it?" comes before "is it full?": otherwise a holder whose answer was lost waits for itself.
        match self.document.holder(id) {
            Some(holder) if holder.is_granted_to(attempt) => self.confirm(holder, facts),
            Some(holder) => refused(Refusal::IdInUse(Box::new(holder.clone()))),
            None => match self.room_for(id) {
                Ok(()) => self.admit(id, attempt.cloned(), facts, None),
                Err(refusal) => refused(refusal),
            },
        }
    }

    /// A free place goes to whoever waited longest among those still expected to come back for it.
    fn room_for(&self, id: &HostId) -> Result<(), Refusal> {
        let free = self.document.free();
        if free == 0 {
            return Err(Refusal::Full);
        }
        let waits = |waiter: &HostId| self.document.holder(waiter).is_none();
        if self.queue.expected_before(id, self.now.mono, waits).take(free).count() == free {
            return Err(Refusal::Kept);
        }
        Ok(())
    }

    fn admit(&self, id: &HostId, attempt: Option<AttemptId>, facts: &Facts, by: Option<Label>) -> Decision {
        let fence = self.document.last_fence.max(self.revision).saturating_add(1);
        let phase = if attempt.is_some() { Phase::Draining } else { Phase::Rebooting };
        let holder = Holder {
            id: id.clone(),
            attempt,
            fence,
            phase,
            since: self.now.wall,
            phase_since: self.now.wall,
            renewals: 0,
            facts: facts.clone(),
            by,
        };
        let event = if holder.by.is_some() { Event::Held } else { Event::Granted };
        let entry = Entry::about(event, &holder, self.now.wall);
        let mut document = self.document.clone();
        document.last_fence = fence;
        document.holders.push(holder);
        changed(Answer::Granted(Granted { fence, phase }), document, Some(entry))
    }

    /// The asker holds the place already: the same grant again, and a sign of life.
    fn confirm(&self, holder: &Holder, facts: &Facts) -> Decision {
        let mut now_so = holder.clone();
        now_so.facts.merge(facts);
        if holder.phase == Phase::Draining {
            now_so.renewals = now_so.renewals.saturating_add(1);
        }
        self.replace(holder, now_so, None)
    }

    fn renew(&self, id: &HostId, attempt: &AttemptId, fence: u64) -> Decision {
        match self.granted_to(id, attempt, Some(fence)) {
            Ok(holder) => self.confirm(holder, &Facts::default()),
            Err(refusal) => refused(refusal),
        }
    }

    fn reboot(&self, id: &HostId, attempt: &AttemptId, fence: Option<u64>, facts: &Facts) -> Decision {
        let holder = match self.granted_to(id, attempt, fence) {
            Ok(holder) => holder,
            Err(refusal) => return refused(refusal),
        };
        let mut now_so = holder.clone();
        now_so.facts.merge(facts);
        if holder.phase == Phase::Rebooting {
            return self.replace(holder, now_so, None);
        }
        now_so.phase = Phase::Rebooting;
        now_so.phase_since = self.now.wall;
        let entry = Entry::about(Event::Rebooting, &now_so, self.now.wall);
        self.replace(holder, now_so, Some(entry))
    }

    fn granted_to(&self, id: &HostId, attempt: &AttemptId, fence: Option<u64>) -> Result<&Holder, Refusal> {
        match self.document.holder(id) {
            Some(holder) if !holder.is_granted_to(Some(attempt)) => Err(Refusal::IdInUse(Box::new(holder.clone()))),
            Some(holder) if fence.is_none_or(|fence| fence == holder.fence) => Ok(holder),
            Some(_) | None => Err(Refusal::NotHeld(attempt.tag())),
        }
    }

    fn release(&self, id: &HostId, attempt: Option<&AttemptId>, outcome: Option<Outcome>) -> Decision {
        match self.document.holder(id) {
            Some(holder) if holder.is_granted_to(attempt) => {
                let mut entry = Entry::about(Event::Released, holder, self.now.wall);
                entry.outcome = outcome;
                changed(Answer::Released { freed: true }, self.document.without(id), Some(entry))
            }
            Some(_) | None => unchanged(Answer::Released { freed: false }),
        }
    }

    fn expire(&self, id: &HostId, fence: u64, renewals: u64) -> Decision {
        let silent = |holder: &&Holder| holder.phase == Phase::Draining && holder.fence == fence && holder.renewals == renewals;
        match self.document.holder(id).filter(silent) {
            Some(holder) => {
                let entry = Entry::about(Event::LeaseExpired, holder, self.now.wall);
                changed(Answer::Expired { freed: true }, self.document.without(id), Some(entry))
            }
            None => unchanged(Answer::Expired { freed: false }),
        }
    }

    fn hold(&self, id: &HostId, by: &Label) -> Decision {
        match self.document.holder(id) {
            Some(holder) if holder.by.as_ref() == Some(by) && by.as_str() != UNNAMED => {
                unchanged(Answer::Granted(Granted { fence: holder.fence, phase: holder.phase }))
            }
            Some(holder) => refused(Refusal::Occupied(Box::new(holder.clone()))),
            None if self.document.free() == 0 => refused(Refusal::Full),
            None => self.admit(id, None, &Facts::default(), Some(by.clone())),
        }
    }

    fn free(&self, id: &HostId, reason: Option<&Reason>, by: &Label) -> Decision {
        let Some(holder) = self.document.holder(id) else {
            return unchanged(Answer::Freed(None));
        };
        let mut entry = Entry::about(Event::ForcedUnlock, holder, self.now.wall);
        entry.by = Some(by.clone());
        entry.reason = reason.cloned();
        changed(Answer::Freed(Some(Box::new(holder.clone()))), self.document.without(id), Some(entry))
    }

    fn set_max(&self, new: Max, by: &Label) -> Decision {
        let old = self.document.max;
        let answer = Answer::MaxChanged { old, new };
        if old == new {
            return unchanged(answer);
        }
        let mut document = self.document.clone();
        document.max = new;
        changed(answer, document, Some(Entry::max_changed(old, new, by, self.now.wall)))
    }

    /// Grants what is held, writing only what differs.
    fn replace(&self, was: &Holder, now_so: Holder, entry: Option<Entry>) -> Decision {
        let answer = Answer::Granted(Granted { fence: now_so.fence, phase: now_so.phase });
        if *was == now_so {
            return unchanged(answer);
        }
        let mut document = self.document.clone();
        for holder in &mut document.holders {
            if holder.id == now_so.id {
                *holder = now_so;
                break;
            }
        }
        changed(answer, document, entry)
    }
}

fn refused(refusal: Refusal) -> Decision {
    unchanged(Answer::Refused(refusal))
}

fn unchanged(answer: Answer) -> Decision {
    Decision { answer, document: None, history: None }
}

fn changed(answer: Answer, document: Document, history: Option<Entry>) -> Decision {
    Decision { answer, document: Some(document), history }
}
