//! One sentence that a stranger understands: what, why, what next and when (P14).
//!
//! It is made of clauses: what needs a person, a person's pause, and what the present state does. Times of day are UTC, the
//! daemon does not know where its readers sit.

use jiff::Timestamp;

use crate::boot::Standing;
use crate::engine::AfterProof;
use crate::engine::LEFT_BY_A_PERSON;
use crate::engine::cause::Cause;
use crate::engine::event::LockRefusal;
use crate::engine::model::{About, CheckOutcome, LastError, Pause};
use crate::engine::policy::StartedBy;
use crate::engine::state::{
    Alarm, ArmedStep, GivingUp, Kind, LockedStep, Origin, Plan, Request, State, Waiting as Step, WayBack,
};
use crate::engine::time::Mono;
use crate::engine::unseen::{Stays, Unseen};
use crate::status::view::{self, Input};

/// Holders of a lock that are named; the whole list is in the document.
const HOLDERS_NAMED: usize = 3;

/// The sentence.
pub(super) fn summary(input: &Input<'_>) -> String {
    let trouble = view::troubles(input).into_iter().next();
    let state = match (&trouble, input.state()) {
        (Some(_), State::Idle | State::Checking { .. }) if view::forbids_updates(input) => {
            format!("{}{}; {}", running(input), tried(input), until_mended(input))
        }
        _ => by_state(input),
    };
    let clauses = [
        trouble.map(|trouble| format!("needs attention: {}", end(&trouble.message))),
        input.engine.model().pause.as_ref().map(|pause| paused(input, pause)),
        Some(state),
    ];
    format!("{}.", capital(&clauses.into_iter().flatten().collect::<Vec<_>>().join("; ")))
}

fn paused(input: &Input<'_>, pause: &Pause) -> String {
    let why = pause.reason.as_ref().map(|reason| format!(" ({})", end(reason))).unwrap_or_default();
    match pause.until {
        None => format!("paused by a person{why} until `updatectl resume`"),
        Some(until) => format!("paused by a person{why} until {} (`updatectl resume` ends it sooner)", moment(input, until)),
    }
}

fn by_state(input: &Input<'_>) -> String {
    let plan = input.state().plan();
    if let Some((plan, how)) = plan.zip(input.engine.unseen()) {
        return unseen(input, plan, how);
    }
    if let Some((plan, why)) = plan.and_then(|plan| Some((plan, plan.giving_up.as_ref()?))) {
        return giving_up(input, plan, why);
    }
    match input.state() {
        State::Idle => idle(input),
        State::Checking { request } => checking(input, request),
        State::Deferred { plan, .. } if input.engine.model().pause.is_some() => {
            format!("{} is available and is installed after that; {}", plan.version, running(input))
        }
        State::Deferred { plan, reason, .. } => format!("{} is available and waits: {}", plan.version, end(reason)),
        State::Fetching { plan, rewrites } => {
            let again = if *rewrites > 0 { " again, because reading it back found differences" } else { "" };
            let download = plan.source.in_words().map_or_else(String::new, |words| format!(", downloading about {words}"));
            format!(
                "writing {} to slot {}{again}{}{download}; then it is read back to prove it; {} meanwhile",
                plan.version,
                plan.slot,
                done(input),
                running(input)
            )
        }
        State::Written { plan, .. } => {
            let then = match input.engine.after_proof(plan) {
                AfterProof::Person => "it waits for `updatectl reboot`".to_owned(),
                AfterProof::Rest if any_reboot_starts_it(input) => {
                    "it is armed for whoever reboots the host (strategy manual)".to_owned()
                }
                AfterProof::Rest => "it is armed, and waits for `updatectl reboot` (strategy manual)".to_owned(),
                AfterProof::Reboot => format!("comes the reboot (strategy {})", input.engine.policy().strategy.as_str()),
            };
            let (version, slot) = (&plan.version, plan.slot);
            format!("reading {version} in slot {slot} back to prove it{}; then {then}; {} meanwhile", done(input), running(input))
        }
        State::Proven { plan, step } => proven(input, plan, *step),
        State::Locked { plan, step, .. } => locked(input, plan, *step),
        State::Armed { plan, step, .. } => armed(input, plan.version.as_str(), *step),
        State::Trial { .. } | State::Committed { .. } | State::RolledBack { .. } => after_boot(input),
        State::Failed { plan, code, .. } => failed(input, plan.as_ref(), &code.word()),
    }
}

/// Why nothing is seen is what the trouble before it is about.
fn unseen(input: &Input<'_>, plan: &Plan, unseen: Unseen) -> String {
    let (version, back) = (&plan.version, plan.way_back());
    let blind = format!("the host was rebooted into {version}, and it cannot be seen whether that runs");
    let again = looked_at_again(input);
    match unseen {
        Unseen::Waits => {
            if let State::RolledBack { why, .. } = input.state() {
                let why = end(why);
                return format!(
                    "{version} rolled back to {back} ({why}); its slot is disarmed when it can be seen which slot runs; {again}"
                );
            }
            format!("{version} waits: it goes on when it can be seen which slot runs, and what the boot table says; {again}")
        }
        Unseen::Leaves { at } => {
            // The count of its boots comes first.
            let written = if input.journal_fault.is_some() { ", or when that can be written down" } else { "" };
            let when = format!("{}{written}", at_time(input, at));
            match refused_reboot(input) {
                Some(message) => {
                    format!(
                        "{blind}: it was to reboot, so that the boot loader goes back to {back}, and {message}; it is asked for again {when}, and a person can reboot it, too"
                    )
                }
                None => format!(
                    "{blind}: unless it can, it reboots {when}, so that the boot loader goes back to {back} (`updatectl pause` keeps it as it is)"
                ),
            }
        }
        Unseen::Leaving => leaving(input, plan),
        Unseen::GivenUp { boots } => {
            let lock = lock_to_free(plan);
            format!(
                "{blind}: in {boots} boots it was left for {back}, which did not come, and it is left no more: a person has to see what boots there, and choose slot {} in the boot loader{lock}; {again}",
                plan.slot.other()
            )
        }
        Unseen::Stays(Stays::Paused) => {
            format!(
                "{blind}: it stays as it is while it is paused; after `updatectl resume` it reboots, so that the boot loader goes back to {back}"
            )
        }
        Unseen::Stays(why) => format!("{}{}; {again}", stays(input, plan, why), lock_to_free(plan)),
    }
}

fn stays(input: &Input<'_>, plan: &Plan, why: Stays) -> String {
    let (version, slot, back) = (&plan.version, plan.slot, plan.way_back());
    let blind = format!("the host was rebooted into {version}, and it cannot be seen whether that runs");
    let when_read = format!(
        "it is kept when its boot state can be read (the error says what keeps it from that), or left at the deadline of its trial: \
         update-engine-trial reboots it then, so that the boot loader goes back to {back}, but not where the boot state is the partition \
         table of the disk, without which nothing may boot"
    );
    match (why, input.facts().running) {
        (Stays::NoTable, Some(runs)) if runs == slot => format!("{version} runs from slot {slot}: {when_read}"),
        (Stays::NoTable, Some(runs)) => {
            format!(
                "slot {runs} runs instead of {version}: nothing is taken back before its boot state can be read (the error says why not)"
            )
        }
        (Stays::NoTable, None) => format!("{blind}: {when_read}"),
        (Stays::Kept, _) => {
            format!("{blind}: it is healthy, and a reboot would start it again; the update is done when it is seen")
        }
        (Stays::NoBootId, _) => format!(
            "{blind}: it does not reboot by itself, because without the id of its boot it is not known whether it was rebooted since the slot was armed; a person can reboot it (systemd: `systemctl reboot`), until the boot loader goes back to {back}"
        ),
        (Stays::NotTried, _) if matches!(input.state(), State::Locked { .. }) => format!(
            "{version} was not booted: by the boot table (`updatectl slots`) {back} runs, and a reboot would not help; what was done for its reboot is taken back when it is seen"
        ),
        (Stays::NotTried, _) => {
            format!(
                "{blind}: by the boot table (`updatectl slots`) {back} runs, and a reboot would not help; what was done is taken back when it is seen"
            )
        }
        (Stays::NoWayBack | Stays::Paused, _) => {
            format!(
                "{blind}: slot {} is not good (`updatectl slots`), so there is nothing to go back to by a reboot",
                slot.other()
            )
        }
    }
}

/// The reboot was asked for, whatever has been seen since.
fn leaving(input: &Input<'_>, plan: &Plan) -> String {
    let (version, back) = (&plan.version, plan.way_back());
    if let Some(message) = late(input) {
        return format!(
            "needs attention: it could not be seen whether {version} runs, and the host should have gone back to {back}: {message}"
        );
    }
    let accepted = accepted(input);
    let waits = input.journal_fault.is_some() && accepted.is_empty();
    let reboots = if waits { "the host reboots as soon as that can be written down" } else { "rebooting" };
    format!("it could not be seen whether {version} runs: {reboots}, so that the boot loader goes back to {back}{accepted}")
}

/// The reboot that was to leave what is not seen was refused: how.
fn refused_reboot<'a>(input: &Input<'a>) -> Option<&'a str> {
    let error = input.engine.model().last_error.as_ref().filter(|_| input.engine.soft().leave_refused)?;
    Some(end(&error.message))
}

/// Who stays keeps the lock, which others may need.
fn lock_to_free(plan: &Plan) -> String {
    let holds = plan.claim.as_ref().is_some_and(|claim| claim.granted);
    if holds { "; it keeps its reboot lock, which `locksmithctl unlock` frees".to_owned() } else { String::new() }
}

/// "looked at again in 60 s (at 12:06 UTC)".
fn looked_at_again(input: &Input<'_>) -> String {
    format!("looked at again {}", input.engine.soft().look_at.map_or_else(|| "now".to_owned(), |at| at_time(input, at)))
}

fn idle(input: &Input<'_>) -> String {
    let model = input.engine.model();
    let runs = running(input);
    let next = next_check(input);
    if let Some(error) = model.last_error.as_ref().filter(|error| error.about != About::Check) {
        return format!("needs attention: {}; {runs}; {}{next}", last_failure(input, error), not_again(input, error));
    }
    if let Some(hold) = &model.check.hold {
        let until = hold.until.as_ref().map(|until| format!(" until {}", moment_text(input, until))).unwrap_or_default();
        return format!("held by the update server{until} ({}); {runs}; {next}", end(&hold.reason));
    }
    if let Some(error) = &model.last_error {
        return format!("the last check failed ({}); {runs}; {next}", end(&error.message));
    }
    let Some(result) = &model.check.last_result else { return format!("{runs}; {}{next}", left_by_a_person(input)) };
    match model.check.last_outcome {
        Some(CheckOutcome::NoUpdate | CheckOutcome::UpToDate) => format!("up to date: {runs}; {next}"),
        Some(CheckOutcome::Available) => {
            format!("{}; {runs}; `updatectl update` installs it now, otherwise the {next}", end(result))
        }
        _ => format!("{}; {runs}; {next}", end(result)),
    }
}

/// An offer that was refused is told with its version.
fn last_failure<'a>(input: &Input<'a>, error: &'a LastError) -> &'a str {
    let (message, check) = (end(&error.message), &input.engine.model().check);
    let result = check.last_result.as_deref().map(end).unwrap_or_default();
    let refused = error.about == About::Offer && check.last_outcome == Some(CheckOutcome::Refused);
    if refused && result.ends_with(message) { result } else { message }
}

/// What went back is not tried again by itself: who reads that it failed wants to know.
fn not_again(input: &Input<'_>, error: &LastError) -> String {
    match input.engine.model().refusals.last() {
        Some(refusal) if error.code == Cause::RolledBack && error.message.starts_with(&refusal.version) => {
            format!("{0} is installed again only by `updatectl update {0}`, a newer release by itself; ", refusal.version)
        }
        _ => String::new(),
    }
}

/// Whoever went back wants to know that it lasts.
fn left_by_a_person(input: &Input<'_>) -> String {
    let left = input.engine.model().refusals.last().filter(|refusal| refusal.reason == LEFT_BY_A_PERSON);
    left.map_or_else(String::new, |refusal| {
        format!(
            "{0}, which a person left, comes again only by `updatectl update {0}`, a newer release by itself; ",
            refusal.version
        )
    })
}

/// What the boot table says of a trial of which nothing else is known.
fn tried(input: &Input<'_>) -> String {
    let Some(slot) = input.engine.tried_unseen() else { return String::new() };
    let other = slot.other();
    format!(
        "; by the boot table (`updatectl slots`) slot {slot} was tried and is not good, and slot {other} is: if {slot} runs, a reboot by a person (systemd: `systemctl reboot`) brings {other} back once its tries are spent"
    )
}

/// What is waited for while something forbids every update.
fn until_mended(input: &Input<'_>) -> String {
    let (engine, facts) = (input.engine, input.facts());
    let look = if facts.is_blind() {
        looked_at_again(input)
    } else if engine.policy().has_server {
        format!("looked at again {}", when(input, engine.model().check.next.as_ref()))
    } else {
        "`updatectl verify` looks again".to_owned()
    };
    format!("no update is installed before that is mended; {look}")
}

fn checking(input: &Input<'_>, request: &Request) -> String {
    let what = match (&request.origin, request.check_only) {
        (Origin::Files { release, .. }, _) => format!("reading {}", crate::config::hide_credentials(release)),
        (_, true) => format!("asking {} whether there is an update", server(input)),
        (_, false) => format!("asking {} for an update; one that is new is then installed", server(input)),
    };
    format!("{what}; {}", running(input))
}

fn proven(input: &Input<'_>, plan: &Plan, step: Step) -> String {
    let proven = match plan.kind {
        Kind::Rollback => format!("{} in slot {} is proven, to go back to it", plan.version, plan.slot),
        Kind::Update | Kind::Found => format!("{} is written and proven", plan.version),
    };
    let rests = input.engine.after_proof(plan) == AfterProof::Rest;
    match step {
        Step::Person => format!("{proven}, and waits for `updatectl reboot`"),
        Step::Gates if rests && any_reboot_starts_it(input) => {
            format!("{proven}; asking whether it may be armed now; then it is, for whoever reboots the host")
        }
        Step::Gates if rests => {
            format!("{proven}; asking whether it may be armed now; then it is, and waits for `updatectl reboot`")
        }
        Step::Gates => format!("{proven}; asking whether the host may reboot now; then it does"),
        Step::GateClosed if rests => format!("{proven}, and waits to be armed: {}", reasons(input)),
        Step::Lock => format!("{proven}; asking for the reboot lock of group {}; then the host reboots", group(input)),
        Step::GateClosed | Step::LockRefused => format!("{proven}, and waits to reboot: {}", reasons(input)),
    }
}

fn locked(input: &Input<'_>, plan: &Plan, step: LockedStep) -> String {
    let version = &plan.version;
    if input.engine.after_proof(plan) == AfterProof::Rest {
        let whom = if any_reboot_starts_it(input) { "whoever reboots the host" } else { "`updatectl reboot`" };
        return format!("arming {version} in slot {}; then it waits for {whom}", plan.slot);
    }
    let what = match step {
        LockedStep::Draining => "running the drain hooks; then the slot is armed, and the host reboots",
        LockedStep::GatesAgain => "asking once more whether it may; then the slot is armed, and the host reboots",
        LockedStep::Acknowledging => "telling the lock service so; then the slot is armed, and the host reboots",
        LockedStep::Arming | LockedStep::GivingUp => "arming the slot; then the host reboots",
    };
    format!("about to reboot into {version}: {what}")
}

fn armed(input: &Input<'_>, version: &str, step: ArmedStep) -> String {
    match step {
        ArmedStep::Resting if !any_reboot_starts_it(input) => format!(
            "{version} is armed, and waits for `updatectl reboot`: a reboot without the argument that [reboot] command passes starts the \
             old slot again, and ends this attempt"
        ),
        ArmedStep::Resting => {
            format!("{version} is armed: the next reboot starts it, whoever reboots the host; `updatectl reboot` does so now")
        }
        ArmedStep::Rebooting => rebooting(input, version),
        ArmedStep::Draining => format!("{version} is armed: running the drain hooks; then the host reboots"),
        ArmedStep::Gates => format!("{version} is armed: asking whether the host may reboot now; then it does"),
        ArmedStep::Lock | ArmedStep::Acknowledging | ArmedStep::GivingUp => {
            format!("{version} is armed: asking for the reboot lock of group {} once more; then the host reboots", group(input))
        }
        ArmedStep::GateClosed | ArmedStep::LockRefused => format!("{version} is armed and waits to reboot: {}", reasons(input)),
    }
}

fn any_reboot_starts_it(input: &Input<'_>) -> bool {
    input.engine.policy().started_by == StartedBy::AnyReboot
}

fn rebooting(input: &Input<'_>, version: &str) -> String {
    if let Some(message) = late(input) {
        return format!("needs attention: the host should have rebooted into {version}: {message}");
    }
    format!("rebooting into {version}{}; then its health is checked", accepted(input))
}

/// What is said of a reboot that was accepted and does not come.
fn late<'a>(input: &Input<'a>) -> Option<&'a str> {
    let error = input.engine.model().last_error.as_ref().filter(|error| error.code == Cause::RebootLate)?;
    input.engine.soft().reboot_is_late.then(|| end(&error.message))
}

/// ": the reboot was accepted at 12:05 UTC".
fn accepted(input: &Input<'_>) -> String {
    let at = input.engine.soft().reboot_accepted_at;
    at.map(|at| format!(": the reboot was accepted at {}", moment(input, at.timestamp()))).unwrap_or_default()
}

/// What is under way cannot go on, and the sentence says why.
pub(super) fn is_stuck(input: &Input<'_>) -> bool {
    let may_be_stuck = match input.state() {
        State::Trial { .. } | State::Committed { .. } | State::RolledBack { .. } => true,
        state => state.plan().is_some_and(|plan| plan.giving_up.is_some()),
    };
    late(input).is_some() || (may_be_stuck && stuck(input).is_some())
}

fn giving_up(input: &Input<'_>, plan: &Plan, why: &GivingUp) -> String {
    let way = if plan.kind == Kind::Rollback { "way back" } else { "update" };
    let (what, then) = match (why.end, plan.kind) {
        (WayBack::Waits, _) => (format!("the reboot into {} has to wait", plan.version), "it is asked for again"),
        (WayBack::Failed, Kind::Rollback) => {
            (format!("the {way} to {} is given up", plan.version), "`updatectl rollback` tries it again")
        }
        (WayBack::Failed, _) if is_refused(input, plan) => {
            (format!("the {way} to {} is given up", plan.version), "the host goes on")
        }
        (WayBack::Failed, _) => (format!("the {way} to {} is given up", plan.version), "it is tried again later"),
        (WayBack::Abandoned, _) => (format!("the {way} to {} is given up", plan.version), "nothing is under way"),
    };
    let undone =
        format!("{what} ({}): taking back what was done for the reboot; then {then}; {}", end(&why.message), running(input));
    match stuck(input) {
        Some((message, again)) => format!("needs attention: {message}; tried again {again}; {undone}"),
        None => undone,
    }
}

/// What happens all the same when the journal cannot be written for long, because somebody waits for this host.
pub(super) fn without_journal(input: &Input<'_>) -> String {
    let Some(until) = input.standstill_until.filter(|_| input.engine.must_not_stand_still()) else { return String::new() };
    let until = input.engine.left_at(&input.now).map_or(until, |left_at| left_at.min(until));
    let what = match input.state() {
        State::Trial { plan, .. } | State::Committed { plan } => {
            let has_way_back = input.facts().standing(plan.slot.other()).is_some_and(Standing::is_bootable);
            if !has_way_back || input.engine.was_bad_before(plan) {
                return String::new();
            }
            format!("the host goes back to {}", plan.way_back())
        }
        _ => "what was done for the reboot is taken back, and the lock given back".to_owned(),
    };
    match input.now.mono.until(until) {
        0 => format!("; as that lasts, {what}"),
        left_ms => format!("; if that lasts until {}, {what}", moment(input, input.now.wall_after(left_ms).timestamp())),
    }
}

/// The first boots of a slot.
fn after_boot(input: &Input<'_>) -> String {
    let stuck = stuck(input);
    if let (State::Trial { plan, verdict: Some(reason) }, Some(message)) = (input.state(), late(input)) {
        let (version, reason, from) = (&plan.version, end(reason), plan.way_back());
        return format!(
            "needs attention: {version} is unhealthy ({reason}) and the host should have gone back to {from}: {message}"
        );
    }
    match (input.state(), stuck) {
        (State::Trial { plan, verdict: Some(reason) }, Some((message, again))) => format!(
            "needs attention: {} is unhealthy ({}) and cannot be left: {message}; tried again {again}; {}",
            plan.version,
            end(reason),
            running(input)
        ),
        (State::Trial { .. }, Some((message, _))) if input.journal_fault.is_some() => {
            format!("needs attention: {message}; {}", running(input))
        }
        (State::Trial { .. }, Some((message, again))) => {
            format!("needs attention: {message}; its health is checked again {again}; {}", running(input))
        }
        (State::Committed { plan }, Some((message, again))) => {
            let left = input.engine.left_at(&input.now).map(|at| left_unless_good(input, plan, at));
            format!("needs attention: {message}; tried again {again}{}; {}", left.unwrap_or_default(), running(input))
        }
        (_, Some((message, again))) => format!("needs attention: {message}; tried again {again}; {}", running(input)),
        (State::Trial { plan, verdict: Some(reason) }, None)
            if input.journal_fault.is_some() && input.engine.was_bad_before(plan) =>
        {
            let (version, reason) = (&plan.version, end(reason));
            format!(
                "{version} is unhealthy ({reason}), was marked bad before, and is not left while that lasts: its boots cannot be \
                 counted; a person can reboot the host (systemd: `systemctl reboot`)"
            )
        }
        (State::Trial { plan, verdict: Some(reason) }, None) => {
            let (version, reason, from) = (&plan.version, end(reason), plan.way_back());
            format!("{version} is unhealthy ({reason}): rebooting, going back to {from}{}", accepted(input))
        }
        (State::Trial { plan, verdict: None }, None) if input.journal_fault.is_some() => {
            format!("{} runs from slot {} on trial, and cannot be kept while that lasts", plan.version, plan.slot)
        }
        (State::Committed { plan }, None) if input.journal_fault.is_some() => {
            format!("{} runs from slot {}, healthy, and cannot be kept while that lasts", plan.version, plan.slot)
        }
        (State::Trial { plan, .. }, None) => on_trial(input, plan),
        (State::RolledBack { plan, why }, None) => format!(
            "{} rolled back to {} ({}); its slot is being disarmed, then the host rests",
            plan.version,
            plan.way_back(),
            end(why)
        ),
        (state, None) => {
            let version = state.plan().map(|plan| plan.version.to_string()).unwrap_or_default();
            format!("{version} is healthy: it is being marked good; then the update is done")
        }
    }
}

/// What follows where it cannot be marked good for so long. Then it can most likely not be marked bad either, and only the loader's count
/// brings the other slot back, unless any reboot does that does not ask for this one.
fn left_unless_good(input: &Input<'_>, plan: &Plan, at: Mono) -> String {
    let (at, slot, back) = (moment(input, input.wall_at(at)), plan.slot, plan.way_back());
    let once = match (input.engine.policy().started_by, tries(input, plan)) {
        (StartedBy::OurReboot, _) => String::new(),
        (StartedBy::AnyReboot, None) => format!(" once slot {slot} can be marked bad"),
        (StartedBy::AnyReboot, Some(tries)) => format!(" once slot {slot} can be marked bad, or its tries are spent ({tries})"),
    };
    format!(", and if it is not good by {at}, update-engine-trial reboots the host, which goes back to {back}{once}")
}

/// What fails, where something does; until when it may; and what follows.
fn on_trial(input: &Input<'_>, plan: &Plan) -> String {
    let (version, slot) = (&plan.version, plan.slot);
    let probing = input.engine.soft().probing.as_ref();
    let has_way_back = input.facts().standing(slot.other()).is_some_and(Standing::is_bootable);
    let otherwise = if has_way_back {
        format!("otherwise the host goes back to {}", plan.way_back())
    } else {
        format!("otherwise it stays all the same, because slot {} cannot be booted", slot.other())
    };
    let runs = format!(
        "{version} runs from slot {slot} on trial{}",
        tries(input, plan).map_or_else(String::new, |tries| format!(" ({tries})"))
    );
    let ends = view::trial_ends(input);
    if let Some((until, failing)) = ends.zip(probing.and_then(|probing| probing.failing.as_ref())) {
        let by = moment(input, input.wall_at(until));
        return format!("{runs} and is not healthy yet ({}): if it is healthy by {by} it is kept, {otherwise}", end(failing));
    }
    let (kept, at) = (not_before(input), ends.map(|at| format!(" {}", at_time(input, at))));
    let at = at.filter(|_| has_way_back).unwrap_or_default();
    format!("{runs}: its health is being checked; if it is healthy it is kept{kept}, {otherwise}{at}")
}

/// Boots that the loader will still give to a slot on trial, where that is known.
pub(super) fn tries(input: &Input<'_>, plan: &Plan) -> Option<String> {
    match input.facts().standing(plan.slot)? {
        Standing::Pending { tries_left: 1 } => Some("1 try left".to_owned()),
        Standing::Pending { tries_left } => Some(format!("{tries_left} tries left")),
        Standing::Spent => Some("its last try".to_owned()),
        Standing::Blank | Standing::Good | Standing::Bad => None,
    }
}

/// What a slot that is healthy has to wait for.
fn not_before(input: &Input<'_>) -> String {
    let Some(at) = input.engine.kept_from(&input.now) else { return String::new() };
    let uptime_s = input.engine.policy().min_uptime.as_secs();
    format!(" {}, when the host will have been up for {uptime_s} s", at_time(input, at))
}

/// A step that failed and is tried again: what failed, and when.
fn stuck<'a>(input: &Input<'a>) -> Option<(&'a str, String)> {
    let model = input.engine.model();
    let alarm = model.alarm.as_ref().filter(|_| input.engine.soft().reboot_accepted_at.is_none())?;
    let error = model.last_error.as_ref().filter(|error| error.about == About::Attempt)?;
    Some((end(error.what()), when(input, Some(alarm))))
}

fn failed(input: &Input<'_>, plan: Option<&Plan>, code: &str) -> String {
    let model = input.engine.model();
    let what = model.last_error.as_ref().map_or(code, |error| end(&error.message));
    match plan {
        Some(plan) if plan.kind == Kind::Rollback => {
            format!("the way back to {} failed ({what}); {}; `updatectl rollback` tries it again", plan.version, running(input))
        }
        _ => {
            let version = plan.map(|plan| format!(" to {}", plan.version)).unwrap_or_default();
            let again = when(input, model.alarm.as_ref());
            let next =
                if plan.is_some_and(|plan| is_refused(input, plan)) { "the server is asked again" } else { "it is tried again" };
            format!("the update{version} failed ({what}); {}; {next} {again}", running(input))
        }
    }
}

fn is_refused(input: &Input<'_>, plan: &Plan) -> bool {
    input.engine.model().refusal_of(plan.digest).is_some()
}

fn reasons(input: &Input<'_>) -> String {
    let again = when(input, input.engine.model().alarm.as_ref());
    let paused = input.engine.model().pause.is_some();
    let closed = input.engine.soft().closed.iter().filter(|(gate, _)| !paused || gate.gate != "pause");
    let mut reasons: Vec<String> = closed
        .map(|(gate, _)| {
            let detail = end(gate.closed.as_deref().unwrap_or_default());
            if gate.gate == "hook" { format!("hook {detail}") } else { format!("{}: {detail}", gate.gate) }
        })
        .collect();
    reasons.extend(input.engine.soft().lock_refusal.as_ref().map(|(refusal, _)| lock_reason(input, refusal)));
    if reasons.is_empty() { "the pause has to end".to_owned() } else { format!("{}; asked again {again}", reasons.join("; ")) }
}

/// Who has the lock, where that is known; otherwise the words of the lock service, or of the error.
fn lock_reason(input: &Input<'_>, refusal: &LockRefusal) -> String {
    // Where this host's own id holds the lock, only the service can tell why that does not help it.
    let own_id = input.engine.policy().lock.as_ref().map(|lock| lock.id.as_str());
    let is_own = refusal.holders.iter().any(|holder| Some(holder.id.as_str()) == own_id);
    if refusal.kind != "lock" || refusal.holders.is_empty() || is_own {
        return end(&refusal.message).to_owned();
    }
    let since = |text: &String| format!(" (since {})", moment_text(input, text));
    let named = refusal.holders.iter().take(HOLDERS_NAMED);
    let mut holders: Vec<String> =
        named.map(|holder| format!("{}{}", holder.id, holder.since.as_ref().map(since).unwrap_or_default())).collect();
    let more = refusal.holders.len().saturating_sub(HOLDERS_NAMED);
    if more > 0 {
        holders.push(format!("{more} more"));
    }
    format!("the reboot lock of group {} is held by {}", group(input), holders.join(", "))
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
        return "no update server is configured, releases come by `updatectl install`".to_owned();
    }
    format!("next check {}", when(input, input.engine.model().check.next.as_ref()))
}

/// "in 41 min (at 14:02 UTC)".
fn when(input: &Input<'_>, alarm: Option<&Alarm>) -> String {
    let Some(alarm) = alarm.filter(|alarm| alarm.boot_id == input.facts().boot_id) else { return "now".to_owned() };
    at_time(input, alarm.at)
}

fn at_time(input: &Input<'_>, at: Mono) -> String {
    let wait_s = input.now.mono.until(at).div_ceil(1000);
    let span = match wait_s {
        0 => return "now".to_owned(),
        1..120 => format!("{wait_s} s"),
        120..7200 => format!("{} min", wait_s / 60),
        _ => format!("{} h", wait_s / 3600),
    };
    let at = input.now.wall_after(wait_s.saturating_mul(1000)).timestamp();
    format!("in {span} (at {})", moment(input, at))
}

fn moment(input: &Input<'_>, at: Timestamp) -> String {
    input.now.moment(at)
}

/// A time that somebody else wrote; as it is where it is none.
fn moment_text(input: &Input<'_>, text: &str) -> String {
    text.parse().map_or_else(|_| text.to_owned(), |at| moment(input, at))
}

/// " (25 %, about 3 min left)", or what keeps it from going on.
fn done(input: &Input<'_>) -> String {
    let progress = input.engine.soft().progress.as_ref().filter(|progress| progress.windows_total > 0);
    let Some(progress) = progress else { return String::new() };
    let per_cent = progress.windows_done.saturating_mul(100) / progress.windows_total;
    let left = match progress.eta_s {
        None => String::new(),
        Some(seconds @ 0..120) => format!(", about {seconds} s left"),
        Some(seconds) => format!(", about {} min left", seconds / 60),
    };
    let trouble = progress.trouble.as_deref().map(|trouble| format!("; nothing comes, trying again: {}", end(trouble)));
    let trouble = trouble.unwrap_or_default();
    format!(" ({per_cent} %{left}{trouble})")
}

fn server<'a>(input: &Input<'a>) -> &'a str {
    if input.server.is_empty() { "the update server" } else { input.server }
}

fn group(input: &Input<'_>) -> String {
    input.engine.policy().lock.as_ref().map(|lock| lock.group.clone()).unwrap_or_default()
}

/// Messages become parts of sentences: no full stop at their end.
fn end(text: &str) -> &str {
    text.trim_end_matches(['.', '!', '?', ' ', '\n'])
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}
