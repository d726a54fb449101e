//! Writing the inactive slot and proving what was written.

use crate::engine::effect::{Effect, ReportKind, Row, Scan};
use crate::engine::event::{Fault, Fetched, Proof};
use crate::engine::facts::BootTable;
use crate::engine::policy::{MAX_REWRITES, Strategy};
use crate::engine::state::{State, Waiting};
use crate::engine::time::Now;
use crate::engine::{Engine, row};

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
        if boot.is_some() {
            self.facts.boot = boot;
        }
        let State::Fetching { plan, rewrites } = self.model.state.clone() else { return Vec::new() };
        match result {
            Err(fault) => self.fail(&plan, &fault, now),
            Ok(fetched) => {
                let downloaded = row(Row::Downloaded { attempt: plan.attempt.clone(), bytes: fetched.bytes_downloaded });
                let mut effects = vec![downloaded];
                if rewrites == 0 {
                    effects.push(row(Row::Report(self.report(ReportKind::DownloadFinished, &plan, None))));
                }
                self.enter(State::Written { plan: plan.clone(), rewrites });
                effects.push(Effect::ReadBack(plan));
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
            Ok(Proof::Equal) => self.proven(now),
            Ok(Proof::Differs { detail }) if rewrites >= MAX_REWRITES => {
                let message = format!("the disk does not keep what is written to slot {}: {detail}", plan.slot);
                self.fail(&plan, &Fault::new("read-back", message), now)
            }
            Ok(Proof::Differs { .. }) => {
                self.enter(State::Fetching { plan: plan.clone(), rewrites: rewrites + 1 });
                vec![Effect::Install { plan, scan: Scan::All }]
            }
            Err(fault) => self.fail(&plan, &fault, now),
        }
    }

    /// The slot is proven; what comes next is the strategy's.
    fn proven(&mut self, now: &Now) -> Vec<Effect> {
        let State::Written { plan, .. } = self.model.state.clone() else { return Vec::new() };
        // Proof is earned again after each restart; the server is told once.
        let first_time = !plan.reported_installed;
        let mut plan = plan;
        plan.reported_installed = true;
        let mut effects = Vec::new();
        if first_time {
            effects.push(row(Row::Report(self.report(ReportKind::Installed, &plan, None))));
        }
        let waits_for_person =
            !plan.reboot_asked && (plan.no_reboot || (self.policy.strategy == Strategy::Manual && self.policy.lock.is_some()));
        let step = if waits_for_person { Waiting::Person } else { Waiting::Gates };
        self.enter(State::Proven { plan: plan.clone(), step });
        self.soft.proven_at = Some(now.mono);
        if step == Waiting::Gates {
            effects.extend(self.look_at_gates_again(now));
        }
        effects
    }
}
