//! Effects and states as short words, so that whole answers can be compared and read.

use crate::engine::effect::{Effect, GateStage, LockOutcome, ReportKind, Row, Scan};
use crate::engine::state::{ArmedStep, Kind, LockedStep, Origin, State, Waiting};

/// Every state and step there is, in the order an update goes through them.
pub(crate) const EVERY_STATE: [&str; 32] = [
    "idle",
    "checking",
    "deferred",
    "fetching",
    "fetching/again",
    "written",
    "written/rollback",
    "proven/person",
    "proven/gates",
    "proven/gate-closed",
    "proven/lock",
    "proven/lock-refused",
    "proven/cancelled",
    "locked/draining",
    "locked/gates-again",
    "locked/acknowledging",
    "locked/arming",
    "locked/giving-up",
    "armed/resting",
    "armed/gates",
    "armed/gate-closed",
    "armed/draining",
    "armed/lock",
    "armed/lock-refused",
    "armed/acknowledging",
    "armed/rebooting",
    "armed/giving-up",
    "trial",
    "trial/verdict",
    "committed",
    "rolled-back",
    "failed",
];

/// The state and its step. A new step does not compile before it has a word here.
pub(crate) fn state(state: &State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::Checking { .. } => "checking",
        State::Deferred { .. } => "deferred",
        State::Fetching { rewrites: 0, .. } => "fetching",
        State::Fetching { .. } => "fetching/again",
        State::Written { plan, .. } if plan.kind == Kind::Rollback => "written/rollback",
        State::Written { .. } => "written",
        State::Proven { plan, .. } if plan.giving_up.is_some() => "proven/cancelled",
        State::Proven { step, .. } => match step {
            Waiting::Person => "proven/person",
            Waiting::Gates => "proven/gates",
            Waiting::GateClosed => "proven/gate-closed",
            Waiting::Lock => "proven/lock",
            Waiting::LockRefused => "proven/lock-refused",
        },
        State::Locked { step, .. } => match step {
            LockedStep::Draining => "locked/draining",
            LockedStep::GatesAgain => "locked/gates-again",
            LockedStep::Acknowledging => "locked/acknowledging",
            LockedStep::Arming => "locked/arming",
            LockedStep::GivingUp => "locked/giving-up",
        },
        State::Armed { step, .. } => match step {
            ArmedStep::Resting => "armed/resting",
            ArmedStep::Gates => "armed/gates",
            ArmedStep::GateClosed => "armed/gate-closed",
            ArmedStep::Draining => "armed/draining",
            ArmedStep::Lock => "armed/lock",
            ArmedStep::LockRefused => "armed/lock-refused",
            ArmedStep::Acknowledging => "armed/acknowledging",
            ArmedStep::Rebooting => "armed/rebooting",
            ArmedStep::GivingUp => "armed/giving-up",
        },
        State::Trial { verdict: None, .. } => "trial",
        State::Trial { .. } => "trial/verdict",
        State::Committed { .. } => "committed",
        State::RolledBack { .. } => "rolled-back",
        State::Failed { .. } => "failed",
    }
}

/// All effects, in their order.
pub(crate) fn effects(effects: &[Effect]) -> Vec<String> {
    effects.iter().map(effect).collect()
}

fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Check(request) => match request.origin {
            Origin::Timer => "check".to_owned(),
            Origin::Person => "check for a person".to_owned(),
            Origin::Files { .. } => "read files".to_owned(),
        },
        Effect::Look => "look".to_owned(),
        Effect::LookToLeave(_) => "look to leave".to_owned(),
        Effect::Install { plan, scan: Scan::Shared } => format!("install {}", plan.slot),
        Effect::Install { plan, scan: Scan::All } => format!("install {} again", plan.slot),
        Effect::ReadBack(plan) => format!("read back {}", plan.slot),
        Effect::Gates { stage, .. } => match stage {
            GateStage::BeforeLock => "gates before the lock".to_owned(),
            GateStage::BeforeFlip => "gates before the flip".to_owned(),
            GateStage::BeforeReboot => "gates before the reboot".to_owned(),
        },
        Effect::Lock(_) => "lock".to_owned(),
        Effect::Drain(_) => "drain".to_owned(),
        Effect::AcknowledgeReboot(_) => "acknowledge".to_owned(),
        Effect::Arm(plan) => format!("arm {}", plan.slot),
        Effect::Reboot(_) => "reboot".to_owned(),
        Effect::Disarm(slot) => format!("disarm {slot}"),
        Effect::Undrain(_) => "undrain".to_owned(),
        Effect::Health(_) => "health".to_owned(),
        Effect::Commit(_) => "commit".to_owned(),
        Effect::MarkBad(_) => "mark bad".to_owned(),
        Effect::Stop(_) => "stop".to_owned(),
        Effect::Row(row) => words_of(row),
    }
}

fn words_of(row: &Row) -> String {
    match row {
        Row::Open(plan) => format!("open {:?} {}", plan.kind, plan.version).to_lowercase(),
        Row::Update(_) => "update".to_owned(),
        Row::Close { outcome, fault: Some(fault), .. } => format!("close {} {}", outcome.as_str(), fault.code),
        Row::Close { outcome, fault: None, .. } => format!("close {}", outcome.as_str()),
        Row::Downloaded { bytes, .. } => format!("downloaded {bytes}"),
        Row::Report(report) => {
            let kind = match report.kind {
                ReportKind::DownloadStarted => "download started",
                ReportKind::DownloadFinished => "download finished",
                ReportKind::Installed => "installed",
                ReportKind::Committed => "committed",
                ReportKind::RolledBack => "rolled back",
                ReportKind::Failed if report.attempt.is_empty() => "refused",
                ReportKind::Failed => "failed",
                ReportKind::Abandoned => "abandoned",
            };
            format!("report {kind}")
        }
        Row::Release { outcome, .. } => match outcome {
            LockOutcome::Ok => "release ok".to_owned(),
            LockOutcome::RolledBack => "release rolled back".to_owned(),
            LockOutcome::Aborted => "release aborted".to_owned(),
        },
        Row::Refuse(refusal) => format!("refuse {}", refusal.version),
        Row::Forgive(_) => "forgive".to_owned(),
    }
}
