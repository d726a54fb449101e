//! Writing the inactive slot and proving what was written.

use crate::boot::Standing;
use crate::engine::cause::Cause;
use crate::engine::effect::{Effect, ReportKind, Row, Scan};
use crate::engine::event::{Fault, Fetched, Proof};
use crate::engine::facts::BootTable;
use crate::engine::policy::{MAX_REWRITES, Strategy};
use crate::engine::standstill::burdens_others;
use crate::engine::state::{Kind, Plan, State, Waiting, WayBack};
use crate::engine::time::Now;
use crate::engine::{Engine, row};

/// Where a proven slot goes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterProof {
    /// Nowhere: a person has to say `reboot`.
    Person,
    /// It is armed, and waits for whoever reboots the host.
    Rest,
    /// It is armed, and the host reboots.
    Reboot,
}

impl Engine {
    pub(super) fn on_installed(
        &mut self,
        attempt: &str,
        boot: Option<BootTable>,
        result: Result<Fetched, Fault>,
        now: &Now,
    ) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        let State::Fetching { plan, rewrites } = self.model.state.clone() else { return Vec::new() };
        let untouched = self.soft.before_writing.take();
        if boot.is_some() {
            self.facts.boot = boot;
        } else if untouched.is_some() {
            // The slot could not be opened: it is what it was.
            *self.model.committed.get_mut(plan.slot) = untouched;
        }
        match result {
            Err(fault) => self.give_up(plan, fault, WayBack::Failed, now),
            Ok(fetched) => {
                let downloaded = row(Row::Downloaded { attempt: plan.attempt.clone(), bytes: fetched.bytes_downloaded });
                let mut effects = vec![downloaded];
                if rewrites == 0 {
                    effects.push(row(Row::Report(self.report(ReportKind::DownloadFinished, &plan, None))));
                }
                self.enter(State::Written { plan, rewrites });
                effects.extend(self.resume_written());
                effects
            }
        }
    }

    pub(super) fn on_read_back(&mut self, attempt: &str, result: Result<Proof, Fault>, now: &Now) -> Vec<Effect> {
        if !self.is_current(attempt) {
            return Vec::new();
        }
        let State::Written { plan, rewrites } = self.model.state.clone() else { return Vec::new() };
        match result {
            Ok(Proof::Equal) => self.proven(plan, now),
            Ok(Proof::Differs { detail }) => self.proof_differs(plan, rewrites, &detail, now),
            Err(fault) => self.give_up(plan, fault, WayBack::Failed, now),
        }
    }

    /// What was written is written again, a few times. What was not written by this attempt cannot be: there is no payload.
    fn proof_differs(&mut self, plan: Plan, rewrites: u32, detail: &str, now: &Now) -> Vec<Effect> {
        let message = match plan.kind {
            Kind::Update if rewrites < MAX_REWRITES => {
                self.enter(State::Fetching { plan: plan.clone(), rewrites: rewrites + 1 });
                return self.write_again(plan);
            }
            Kind::Update => format!("the disk does not keep what is written to slot {}: {detail}", plan.slot),
            Kind::Rollback | Kind::Found => {
                format!("slot {} no longer holds {} as it was committed: {detail}", plan.slot, plan.version)
            }
        };
        self.give_up(plan, Fault::new(Cause::ReadBack, message), WayBack::Failed, now)
    }

    /// Nobody waits for a download: after a restart the lock may be held, and the host drained.
    pub(super) fn write_again(&mut self, plan: Plan) -> Vec<Effect> {
        let mut effects = vec![Effect::Install { plan: plan.clone(), scan: Scan::All }];
        if burdens_others(&plan) {
            effects.extend(self.unburden(plan));
        }
        effects
    }

    /// Reads the slot back; one that is armed without that having been done in this run is disarmed first.
    pub(super) fn resume_written(&mut self) -> Vec<Effect> {
        let State::Written { plan, .. } = self.model.state.clone() else { return Vec::new() };
        if self.soft.disarming || self.facts.standing(plan.slot).is_some_and(Standing::is_pending) {
            return self.disarm(plan.slot);
        }
        vec![Effect::ReadBack(plan)]
    }

    /// The slot is proven; what comes next is the strategy's.
    fn proven(&mut self, mut plan: Plan, now: &Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        // Proof is earned again after each restart; the server is told once.
        if !std::mem::replace(&mut plan.reported_installed, true) {
            effects.push(row(Row::Report(self.report(ReportKind::Installed, &plan, None))));
        }
        let step = if self.waits_for_person(&plan) { Waiting::Person } else { Waiting::Gates };
        self.enter(State::Proven { plan: plan.clone(), step });
        self.soft.proven_at = Some(now.mono);
        if step == Waiting::Gates {
            effects.extend(self.look_at_gates_again(now));
        } else if plan.claim.is_some() || plan.drained {
            let fault = Fault::new(Cause::StepBack, "a person has to ask for the reboot");
            effects.extend(self.give_up(plan, fault, WayBack::Waits, now));
        }
        effects
    }

    /// What comes of the plan's slot once it is proven.
    pub fn after_proof(&self, plan: &Plan) -> AfterProof {
        if self.waits_for_person(plan) {
            AfterProof::Person
        } else if self.rests_when_armed(plan) {
            AfterProof::Rest
        } else {
            AfterProof::Reboot
        }
    }

    /// `--no-reboot`, or `manual` with a lock: nothing goes on by itself.
    pub(super) fn waits_for_person(&self, plan: &Plan) -> bool {
        !plan.reboot_asked && (plan.no_reboot || (self.policy.strategy == Strategy::Manual && self.policy.lock.is_some()))
    }
}
