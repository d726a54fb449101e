//! One sentence that a stranger understands: what, why, what next and when (P14).

use jiff::Timestamp;

use crate::engine::model::About;
use crate::engine::state::{Alarm, ArmedStep, LockedStep, State, Waiting as Step};
use crate::status::view::{self, Input};

/// The sentence.
pub(super) fn summary(input: &Input<'_>) -> String {
    if let Some(trouble) = view::troubles(input).first() {
        return format!("Needs attention: {}.", end(&trouble.message));
    }
    let sentence = by_state(input);
    match &input.engine.model().pause {
        None => sentence,
        Some(pause) => {
            let why = pause.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let until = pause.until.map_or_else(|| "until `updatectl resume`".to_owned(), |until| format!("until {until}"));
            format!("Paused by a person{why} {until}. {sentence}")
        }
    }
}

fn by_state(input: &Input<'_>) -> String {
    match input.state() {
        State::Idle => idle(input),
        State::Checking { .. } => format!("Asking {} for an update.", server(input)),
        State::Deferred { plan, reason, .. } => format!("{} is available and waits: {}.", plan.version, end(reason)),
        State::Fetching { plan, rewrites } => {
            let again = if *rewrites > 0 { " again, because reading it back found differences" } else { "" };
            format!("Writing {} to slot {}{again}{}; then it is read back.", plan.version, plan.slot, done(input))
        }
        State::Written { plan, .. } => format!(
            "Reading {} in slot {} back to prove it{}; then the reboot is prepared.",
            plan.version,
            plan.slot,
            done(input)
        ),
        State::Proven { plan, step } => proven(input, plan.version.as_str(), *step),
        State::Locked { plan, step, .. } => locked(plan.version.as_str(), *step),
        State::Armed { plan, step, .. } => armed(input, plan.version.as_str(), *step),
        State::Trial { plan, verdict: None } => {
            format!(
                "{} runs from slot {} on trial: its health is being checked; if it fails, the host goes back to {}.",
                plan.version, plan.slot, plan.from_version
            )
        }
        State::Trial { plan, verdict: Some(reason) } => {
            format!("{} is unhealthy ({}): going back to {}.", plan.version, end(reason), plan.from_version)
        }
        State::Committed { plan } => format!("{} is healthy: it is being marked good.", plan.version),
        State::RolledBack { plan, why } => format!("{} rolled back to {}: {}.", plan.version, plan.from_version, end(why)),
        State::Failed { plan, code, .. } => failed(input, plan.as_ref().map(|plan| plan.version.as_str()), &code.word()),
    }
}

fn idle(input: &Input<'_>) -> String {
    let model = input.engine.model();
    let runs = running(input);
    let next = next_check(input);
    if let Some(error) = model.last_error.as_ref().filter(|error| error.about != About::Check) {
        return format!("Needs attention: {}; {runs}; {next}.", end(&error.message));
    }
    if let Some(hold) = &model.check.hold {
        let until = hold.until.as_ref().map(|until| format!(" until {until}")).unwrap_or_default();
        return format!("Held by the update server{until} ({}): {runs}; {next}.", end(&hold.reason));
    }
    if let Some(error) = &model.last_error {
        return format!("The last check failed ({}): {runs}; {next}.", end(&error.message));
    }
    match &model.check.last_result {
        None => format!("{}; {next}.", capital(&runs)),
        Some(result) if result == "no update" || result.starts_with("up to date") => format!("Up to date: {runs}; {next}."),
        Some(result) => format!("{}: {runs}; {next}.", capital(end(result))),
    }
}

fn proven(input: &Input<'_>, version: &str, step: Step) -> String {
    match step {
        Step::Person => format!("{version} is written and proven, and waits for `updatectl reboot`."),
        Step::Gates => format!("{version} is written and proven: asking the gates before the reboot."),
        Step::Lock => format!("{version} is written and proven: asking for the reboot lock of group {}.", group(input)),
        Step::GateClosed | Step::LockRefused => {
            format!("{version} is written and proven, and waits to reboot: {}.", reasons(input))
        }
    }
}

fn locked(version: &str, step: LockedStep) -> String {
    let what = match step {
        LockedStep::Draining => "running the drain hooks",
        LockedStep::GatesAgain => "looking at the gates once more",
        LockedStep::Acknowledging => "telling the lock server that this host will reboot",
        LockedStep::Arming => "arming the slot",
        LockedStep::GivingUp => return format!("Giving up on {version}: disarming, undraining, giving the lock back."),
    };
    format!("About to reboot into {version}: {what}.")
}

fn armed(input: &Input<'_>, version: &str, step: ArmedStep) -> String {
    match step {
        ArmedStep::Resting => {
            format!("{version} is armed: the next reboot starts it; nothing here reboots the host (strategy manual).")
        }
        ArmedStep::Rebooting => match input.engine.soft().reboot_accepted_at {
            Some(at) => format!("Rebooting into {version}: the reboot was accepted at {}.", clock(at.timestamp())),
            None => format!("Rebooting into {version}."),
        },
        ArmedStep::Draining => format!("{version} is armed: running the drain hooks before the reboot."),
        ArmedStep::Gates | ArmedStep::Lock | ArmedStep::Acknowledging => {
            format!("{version} is armed: asking gates and lock again before the reboot.")
        }
        ArmedStep::GateClosed | ArmedStep::LockRefused => format!("{version} is armed and waits to reboot: {}.", reasons(input)),
        ArmedStep::GivingUp => format!("Giving up on {version}: disarming, undraining, giving the lock back."),
    }
}

fn failed(input: &Input<'_>, version: Option<&str>, code: &str) -> String {
    let model = input.engine.model();
    let what = model.last_error.as_ref().map_or(code, |error| end(&error.message));
    let version = version.map(|version| format!(" to {version}")).unwrap_or_default();
    format!("The update{version} failed ({what}); {}; tried again {}.", running(input), when(input, model.alarm.as_ref()))
}

fn reasons(input: &Input<'_>) -> String {
    let reasons: Vec<String> =
        view::waiting_for(input).iter().map(|waiting| format!("{}: {}", waiting.gate, end(&waiting.detail))).collect();
    format!("{}; asked again {}", reasons.join("; "), when(input, input.engine.model().alarm.as_ref()))
}

fn running(input: &Input<'_>) -> String {
    let content = input.facts().running_content();
    match (content.version, input.facts().running) {
        (Some(version), Some(slot)) => format!("{version} runs from slot {slot}"),
        (None, Some(slot)) => format!("a system without a version runs from slot {slot}"),
        (_, None) => "it is not known which slot runs".to_owned(),
    }
}

fn next_check(input: &Input<'_>) -> String {
    if !input.engine.policy().has_server {
        return "no update server is configured".to_owned();
    }
    format!("next check {}", when(input, input.engine.model().check.next.as_ref()))
}

/// "in 41 min (at 14:02 UTC)".
fn when(input: &Input<'_>, alarm: Option<&Alarm>) -> String {
    let Some(alarm) = alarm.filter(|alarm| alarm.boot_id == input.facts().boot_id) else { return "now".to_owned() };
    let wait_s = input.now.mono.until(alarm.at).div_ceil(1000);
    let span = match wait_s {
        0 => return "now".to_owned(),
        1..120 => format!("{wait_s} s"),
        120..7200 => format!("{} min", wait_s / 60),
        _ => format!("{} h", wait_s / 3600),
    };
    let at = input.now.wall_after(wait_s.saturating_mul(1000)).timestamp();
    format!("in {span} (at {})", clock(at))
}

fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M UTC").to_string()
}

fn done(input: &Input<'_>) -> String {
    match &input.engine.soft().progress {
        Some(progress) if progress.windows_total > 0 => {
            format!(" ({} %)", progress.windows_done.saturating_mul(100) / progress.windows_total)
        }
        _ => String::new(),
    }
}

fn server<'a>(input: &Input<'a>) -> &'a str {
    if input.server.is_empty() { "the update server" } else { input.server }
}

fn group(input: &Input<'_>) -> String {
    input.engine.policy().lock.as_ref().map(|lock| lock.group.clone()).unwrap_or_default()
}

/// Messages become parts of sentences: no full stop at their end.
fn end(text: &str) -> &str {
    text.trim_end_matches(['.', ' ', '\n'])
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}
