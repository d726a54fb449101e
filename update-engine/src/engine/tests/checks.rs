//! Checks: when they are made, and what becomes of what they bring.

use manifests::version::Sequence;

use crate::engine::cause::Cause;
use crate::engine::command::Command;
use crate::engine::event::{AskAgain, CheckAnswer, Event, Fault, Lack, Offer};
use crate::engine::facts::Content;
use crate::engine::model::{About, CheckOutcome, Hold};
use crate::engine::plan::{Decision, decide};
use crate::engine::policy::MAX_REFUSALS_REPORTED;
use crate::engine::state::{Origin, Request};
use crate::engine::time::{Mono, Now};
use crate::engine::{Effect, Model};

use super::host::{BLANK, Host, NOON, content, digest, facts, fault, list, offer, sequence};

fn now() -> Now {
    Now { wall: NOON, mono: Mono(0), dice: 1 }
}

fn refusal(change: impl FnOnce(&mut Offer)) -> (String, String) {
    let mut offer = offer(2);
    change(&mut offer);
    match decide(&offer, &Request::timer(), &facts(), &Model::default(), &now()) {
        Decision::Refuse(fault) => (fault.code.to_string(), fault.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_offer_that_does_not_fit_is_refused_with_what_was_expected_and_got() {
    type Change = fn(&mut Offer);
    let cases: [(&str, Change, &str); 12] = [
        (
            "version-mismatch",
            |offer| offer.announced_version = Some("9.9.9".into()),
            "the server announced version 9.9.9, but the signed record it names is of version 1.1.0",
        ),
        (
            "wrong-product",
            |offer| offer.record.product = "{other}".into(),
            "release 1.1.0 (sequence 2) is made for product {other}, this host is {demo}",
        ),
        (
            "wrong-arch",
            |offer| offer.record.arch = "aarch64".into(),
            "release 1.1.0 (sequence 2) is made for architecture aarch64, this host is x86_64",
        ),
        (
            "wrong-board",
            |offer| offer.record.board = "other".into(),
            "release 1.1.0 (sequence 2) is made for board other, this host is demo",
        ),
        (
            "wrong-channel",
            |offer| offer.record.channels = vec!["beta".into(), "edge".into()],
            "release 1.1.0 (sequence 2) may be installed from channel beta, edge, this host follows stable",
        ),
        (
            "older-release",
            |offer| offer.record.sequence = Sequence::ZERO,
            "release 1.1.0 (sequence 0) is older than sequence 1, the highest this host has run: `updatectl update 1.1.0 --allow-older` installs it all the same",
        ),
        (
            "sequence-reused",
            |offer| offer.record.sequence = sequence(1),
            "release 1.1.0 (sequence 1) has the sequence of the running release but is another one: a publisher must never use a sequence twice",
        ),
        (
            "source-too-old",
            |offer| offer.record.minimum_source = Some(sequence(2)),
            "release 1.1.0 (sequence 2) can only be installed from sequence 2 up, this host runs 1: an intermediate release comes first",
        ),
        (
            "image-set",
            |offer| offer.record.images[0].name = "rootfs".into(),
            "release 1.1.0 (sequence 2) has the images rootfs for slot b, its slots are configured for root",
        ),
        (
            "image-set",
            |offer| offer.record.images.clear(),
            "release 1.1.0 (sequence 2) has the images none for slot b, its slots are configured for root",
        ),
        (
            "image-too-large",
            |offer| {
                let digests = vec![digest(2); 5];
                offer.record.images[0].table = manifests::release::WindowTable::new((1 << 20) + 1, digests).unwrap();
            },
            "image root of release 1.1.0 (sequence 2) is 1048577 bytes, slot b takes 1048576",
        ),
        (
            "version-mismatch",
            |offer| {
                // The first check that fails gives the reason.
                offer.announced_version = Some("9.9.9".into());
                offer.record.arch = "aarch64".into();
            },
            "the server announced version 9.9.9, but the signed record it names is of version 1.1.0",
        ),
    ];
    for (code, change, message) in cases {
        assert_eq!(refusal(change), (code.to_owned(), message.to_owned()));
    }
}

#[test]
fn a_refused_offer_changes_nothing_on_disk_and_is_told() {
    let mut host = Host::at("checking");
    let mut wrong = offer(2);
    wrong.record.arch = "aarch64".into();
    assert_eq!((host.offered_as(wrong), host.state(), host.last_error()), (list("report refused"), "idle", "wrong-arch"));
    let result = host.engine.model().check.last_result.clone().unwrap();
    assert!(result.starts_with("1.1.0 refused: "), "{result}");
    // The next good answer clears it.
    host.wake();
    host.nothing_new();
    assert_eq!(host.last_error(), "");
}

#[test]
fn whoever_made_a_refused_offer_hears_it_once_for_each_release_and_cause_also_over_a_restart() {
    type Change = fn(&mut Offer);
    let wrong = |number, change: Change| {
        let mut offer = offer(number);
        change(&mut offer);
        offer
    };
    let arch: Change = |offer| offer.record.arch = "aarch64".into();
    let board: Change = |offer| offer.record.board = "other".into();
    let mut host = Host::at("checking");
    let reported = list("report refused");
    let told = |host: &mut Host, offer| {
        let effects = host.offered_as(offer);
        host.wake();
        effects
    };
    assert_eq!(told(&mut host, wrong(2, arch)), reported);
    assert_eq!(told(&mut host, wrong(2, arch)), list(""), "said already");
    assert_eq!(told(&mut host, wrong(2, board)), reported, "another cause");
    assert_eq!(told(&mut host, wrong(3, arch)), reported, "another release");
    host.restart(|_| ());
    host.wake();
    for (number, change) in [(2, arch), (2, board), (3, arch)] {
        assert_eq!(told(&mut host, wrong(number, change)), list(""), "said before the restart");
    }
    // Remembered without end they are not, nor is a server that offers nonsense told more than once a check.
    for number in 10..60 {
        assert_eq!(told(&mut host, wrong(number, arch)), reported);
    }
    assert_eq!(host.engine.model().check.refusals_reported.len(), MAX_REFUSALS_REPORTED);
    assert_eq!(told(&mut host, wrong(59, arch)), list(""));
}

#[test]
fn a_record_that_is_bad_or_never_comes_is_reported_and_what_may_pass_or_is_no_offer_of_a_server_is_not() {
    let again = AskAgain::default;
    let no_record = |lack| CheckAnswer::NoRecord { again: again(), version: "1.1.0".into(), fault: fault("http-404"), lack };
    let bad = || CheckAnswer::BadRecord { again: again(), version: "1.1.0".into(), fault: fault("record-signature") };
    let cases = [
        (bad(), list("report refused")),
        (no_record(Lack::Lasting), list("report refused")),
        (no_record(Lack::Here), list("report refused")),
        (no_record(Lack::Passing), list("")),
        (CheckAnswer::Failed { fault: fault("omaha-xml"), retry_after_s: None }, list("")),
    ];
    for (answer, expected) in cases {
        let mut host = Host::at("checking");
        assert_eq!(host.checked(answer.clone()), expected, "{answer:?}");
        host.wake();
        assert_eq!(host.checked(answer.clone()), list(""), "again: {answer:?}");
    }
    let mut host = Host::at("idle");
    host.order(Command::Install {
        release: "/r".into(),
        payload: Some("/p".into()),
        delta: None,
        allow_older: false,
        no_reboot: false,
    });
    assert_eq!(host.checked(bad()), list(""), "files of a person");
    let mut host = Host::at("idle");
    host.order(Command::Update { version: Some("9.9.9".into()), allow_older: false, no_reboot: true });
    assert_eq!(host.offered(2), list(""), "a person's wish says nothing about the offer");
    assert_eq!(host.engine.model().check.last_outcome, Some(CheckOutcome::Refused));
}

#[test]
fn what_runs_already_is_known_by_its_digest_and_a_factory_slot_by_its_label() {
    let up_to_date = |offer: &Offer, facts: &crate::engine::facts::Facts| {
        decide(offer, &Request::timer(), facts, &Model::default(), &now()) == Decision::UpToDate
    };
    let mut host = facts();
    host.slots.a = content(2);
    assert!(up_to_date(&offer(2), &host));
    // The same label with other content is not the same release.
    let mut other = offer(3);
    other.record.version = offer(2).record.version;
    other.announced_version = None;
    assert!(!up_to_date(&other, &host));
    host.slots.a = Content { version: Some("1.1.0".into()), sequence: None, digest: None };
    assert!(up_to_date(&offer(2), &host));
    host.slots.a.version = Some("1.0.0".into());
    assert!(!up_to_date(&offer(2), &host));
}

#[test]
fn a_factory_slot_without_a_record_is_updated_unless_the_release_wants_a_known_source() {
    let mut host = Host::new();
    host.facts.slots.a = Content { version: Some("1.0.0".into()), sequence: None, digest: None };
    host.start(vec![]);
    host.wake();
    let mut picky = offer(2);
    picky.record.minimum_source = Some(sequence(1));
    assert_eq!((host.offered_as(picky), host.last_error()), (list("report refused"), "source-unknown"));
    host.wake();
    assert_eq!(host.offered(2).last().unwrap(), "install b");
    assert_eq!(host.plan().from_version, "1.0.0");
}

#[test]
fn the_plan_carries_what_the_record_and_the_answer_say() {
    let mut host = Host::at("checking");
    let attempt_of = |effects: Vec<Effect>| match effects.into_iter().next_back() {
        Some(Effect::Install { plan, .. }) => plan,
        other => panic!("{other:?}"),
    };
    let mut offered = offer(2);
    let url = manifests::release::Notes::Url { url: "https://notes.example/1.1.0".into(), sha256: digest(9) };
    offered.record.notes = Some(url);
    let facts = Box::new(host.engine.facts().clone());
    let answer = Box::new(CheckAnswer::Offer { again: AskAgain::default(), offer: Box::new(offered) });
    let plan = attempt_of(host.step_raw(Event::Checked { facts, answer }));
    assert_eq!(plan.notes_url.as_deref(), Some("https://notes.example/1.1.0"));
    assert_eq!((plan.image_bytes, plan.from_version.as_str(), plan.version.as_str()), (8192, "1.0.0", "1.1.0"));
    assert_eq!((plan.source, plan.digest, plan.sequence), (offer(2).source, digest(2), sequence(2)));
    assert_eq!(plan.started_at.0, host.wall);
}

#[test]
fn the_first_check_comes_within_ten_minutes_of_a_boot_and_not_again_after_a_restart_of_the_daemon() {
    let mut host = Host::new();
    let first = host.engine.next_wake().unwrap().0;
    assert!(first - host.mono <= 10 * 60_000);
    host.pass_ms(1000);
    host.restart(|_| ());
    assert_eq!(host.engine.next_wake().unwrap().0, first);
    host.restart(|facts| facts.boot_id = "boot-2".into());
    assert_ne!(host.engine.next_wake().unwrap().0, first);
}

#[test]
fn a_timer_from_a_journal_that_no_rule_would_set_is_set_anew() {
    let mut host = Host::new();
    let mut model = host.engine.model().clone();
    model.check.next.as_mut().unwrap().at = Mono(u64::MAX);
    host = Host::from(model, facts(), host.engine.policy().clone());
    assert!(host.engine.next_wake().unwrap().0 - host.mono <= 10 * 60_000);
}

#[test]
fn a_journal_that_counted_checks_to_the_end_counts_no_further() {
    let mut host = Host::new();
    host.engine.model.check.count = u64::MAX;
    assert_eq!((host.wake(), host.engine.model.check.count), (list("check"), u64::MAX));
}

#[test]
fn a_servers_poll_interval_and_retry_after_are_obeyed_within_their_bounds() {
    let wait_after = |answer: CheckAnswer| {
        let mut host = Host::at("checking");
        host.checked(answer);
        (host.engine.next_wake().unwrap().0 - host.mono) / 60_000
    };
    let no_update = |again| CheckAnswer::NoUpdate { again, hold: None };
    let poll = |seconds| no_update(AskAgain { poll_interval_s: Some(seconds), retry_after_s: None });
    assert!((40..=50).contains(&wait_after(poll(0))), "never more often than configured");
    assert!((108..=132).contains(&wait_after(poll(7200))));
    assert!((216..=264).contains(&wait_after(poll(u64::MAX))), "never more seldom than every four hours");
    let answered = |after| AskAgain { poll_interval_s: Some(7200), retry_after_s: Some(after) };
    let bad_record = |again| CheckAnswer::BadRecord { again, version: "1.1.0".into(), fault: fault("record-signature") };
    assert!((108..=132).contains(&wait_after(no_update(answered(60)))), "the later of the two counts");
    for answer in [no_update, bad_record] {
        assert_eq!(wait_after(answer(answered(20 * 3600))), 20 * 60);
        assert_eq!(wait_after(answer(answered(u64::MAX))), 24 * 60);
    }
    let retry = |retry_after_s| CheckAnswer::Failed { fault: fault("http-503"), retry_after_s };
    assert!((10..=13).contains(&wait_after(retry(None))), "a lost packet is tried again soon");
    assert!((120..=121).contains(&wait_after(retry(Some(7200)))));
    assert_eq!(wait_after(retry(Some(u64::MAX))), 24 * 60, "a typing mistake does not silence a host for a year");
}

#[test]
fn a_person_ignores_the_schedule_but_not_for_the_timer() {
    let mut host = Host::at("checking");
    host.checked(CheckAnswer::Failed { fault: fault("http-503"), retry_after_s: Some(7200) });
    assert_eq!(host.order(Command::Check), list("check for a person"));
}

#[test]
fn a_hold_is_no_error_and_says_since_when() {
    let hold = || Some(Hold { reason: "rollout at 10 %".into(), until: Some("tomorrow".into()), since: None });
    let mut host = Host::at("checking");
    host.checked(CheckAnswer::NoUpdate { again: AskAgain::default(), hold: hold() });
    let first = host.engine.model().check.hold.clone().unwrap();
    assert_eq!((first.since.map(|at| at.0), host.last_error()), (Some(host.wall), ""));
    host.wake();
    host.checked(CheckAnswer::NoUpdate { again: AskAgain::default(), hold: hold() });
    assert_eq!(host.engine.model().check.hold, Some(first));
    host.wake();
    host.nothing_new();
    assert_eq!(host.engine.model().check.hold, None);
}

#[test]
fn a_record_that_was_refused_before_the_engine_saw_it_is_an_error_about_the_offer() {
    let mut host = Host::at("checking");
    host.checked(CheckAnswer::BadRecord {
        again: AskAgain::default(),
        version: "1.1.0".into(),
        fault: fault("record-signature"),
    });
    assert_eq!((host.state(), host.last_error()), ("idle", "record-signature"));
    // A mere lost packet afterwards does hide it; the error of an attempt it does not.
    let mut host = Host::at("failed");
    host.wake();
    host.checked(CheckAnswer::Failed { fault: fault("server-unreachable"), retry_after_s: None });
    assert_eq!(host.last_error(), "download");
}

#[test]
fn an_update_whose_record_cannot_be_had_is_a_failed_check_and_no_alarm() {
    let mut host = Host::at("checking");
    let hold = Some(Hold { reason: "rollout at 10 %".into(), ..Hold::default() });
    host.checked(CheckAnswer::NoUpdate { again: AskAgain::default(), hold });
    let missing = |retry_after_s| CheckAnswer::NoRecord {
        again: AskAgain { poll_interval_s: Some(7200), retry_after_s },
        version: "1.1.0".into(),
        fault: Fault::new(Cause::Http(503), "http://files/: HTTP status 503"),
        lack: Lack::Passing,
    };
    let waits_min = [None, None, Some(20 * 3600)].map(|retry_after_s| {
        host.wake();
        host.checked(missing(retry_after_s));
        (host.engine.next_wake().unwrap().0 - host.mono) / 60_000
    });
    assert!((10..=13).contains(&waits_min[0]) && (20..=25).contains(&waits_min[1]), "as after any error: {waits_min:?}");
    assert_eq!(waits_min[2], 20 * 60);
    let check = &host.engine.model().check;
    assert_eq!((host.state(), check.errors, check.last_outcome), ("idle", 3, Some(CheckOutcome::Failed)));
    assert_eq!((check.reached_at.map(|at| at.0), &check.hold), (Some(host.wall), &None), "the update server has answered");
    let error = host.engine.model().last_error.clone().unwrap();
    let words = "1.1.0 is offered, but its record could not be fetched: http://files/: HTTP status 503";
    assert_eq!((error.code, error.message.as_str(), error.about), (Cause::Http(503), words, About::Check));
}

#[test]
fn an_update_whose_record_no_server_will_ever_give_is_an_error_about_the_offer() {
    let missing = || CheckAnswer::NoRecord {
        again: AskAgain::default(),
        version: "1.1.0".into(),
        fault: Fault::new(Cause::Http(404), "http://files/: HTTP status 404"),
        lack: Lack::Lasting,
    };
    let mut host = Host::at("checking");
    let waits_min = [(); 2].map(|()| {
        host.checked(missing());
        let wait = host.engine.next_wake().unwrap().0 - host.mono;
        host.wake();
        wait / 60_000
    });
    assert!((10..=13).contains(&waits_min[0]) && (20..=25).contains(&waits_min[1]), "as after any error: {waits_min:?}");
    let error = host.engine.model().last_error.clone().unwrap();
    let words = "1.1.0 is offered, but its record could not be fetched: http://files/: HTTP status 404";
    assert_eq!((error.code, error.message.as_str(), error.about), (Cause::Http(404), words, About::Offer));
    host.nothing_new();
    assert_eq!(host.last_error(), "");
}

#[test]
fn a_record_that_is_of_no_use_here_is_a_failed_check_that_needs_attention() {
    let mut host = Host::at("checking");
    let fault = Fault::new(Cause::StateDir, "/state/x.release: No space left on device");
    host.checked(CheckAnswer::NoRecord { again: AskAgain::default(), version: "1.1.0".into(), fault, lack: Lack::Here });
    let error = host.engine.model().last_error.clone().unwrap();
    let words = "1.1.0 is offered, but its record could not be checked and kept here: /state/x.release: No space left on device";
    assert_eq!((error.code, error.message.as_str(), error.about), (Cause::StateDir, words, About::Offer));
    assert_eq!(host.engine.model().check.last_outcome, Some(CheckOutcome::Failed));
}

#[test]
fn an_offer_ends_a_hold_whatever_its_record_is_like() {
    let again = AskAgain::default;
    let offers = [
        CheckAnswer::Offer { again: again(), offer: Box::new(offer(1)) },
        CheckAnswer::BadRecord { again: again(), version: "1.1.0".into(), fault: fault("record-signature") },
        CheckAnswer::NoRecord { again: again(), version: "1.1.0".into(), fault: fault("http-503"), lack: Lack::Passing },
    ];
    for answer in offers {
        let mut host = Host::at("checking");
        let hold = Some(Hold { reason: "rollout at 10 %".into(), ..Hold::default() });
        host.checked(CheckAnswer::NoUpdate { again: again(), hold });
        host.wake();
        host.checked(answer.clone());
        assert_eq!(host.engine.model().check.hold, None, "{answer:?}");
    }
}

#[test]
fn an_answer_that_kills_the_daemon_is_not_asked_for_for_ever() {
    let mut host = Host::new();
    host.order(Command::Check);
    let mut asked = 1;
    while host.restart(|_| ()).contains(&"check for a person".to_owned()) {
        asked += 1;
        assert!(asked < 10);
    }
    assert_eq!(asked, 4);
    // From then on the timer's back-off holds.
    assert!(host.engine.next_wake().unwrap().0 - host.mono > 30 * 60_000);
}

#[test]
fn what_a_restart_finds_under_way_of_the_timer_waits_for_the_timer() {
    let mut host = Host::at("checking");
    let next = host.engine.model().check.next.clone();
    assert_eq!((host.restart(|_| ()), host.state()), (list(""), "idle"));
    assert_eq!(host.engine.model().check.next, next);
}

#[test]
fn a_check_brings_fresh_facts_and_what_nobody_vouches_for_is_disarmed() {
    let mut host = Host::at("checking");
    let mut seen = facts();
    seen.boot.as_mut().unwrap().standing.b = super::host::armed(3);
    let answer = Box::new(CheckAnswer::NoUpdate { again: AskAgain::default(), hold: None });
    assert_eq!(host.step(Event::Checked { facts: Box::new(seen), answer }), list("disarm b"));
    assert_eq!(host.last_error(), "unknown-armed");
    // Looked at again before the answer came: not disarmed twice at once.
    host.wake();
    assert_eq!(host.nothing_new(), list(""));
    host.disarmed(Ok(()));
    assert_eq!(host.engine.facts().boot.as_ref().unwrap().standing.b, BLANK);
}

#[test]
fn the_newest_record_seen_is_remembered_by_sequence_not_by_date() {
    let mut host = Host::at("checking");
    host.offered(2);
    assert_eq!(host.engine.model().check.newest_record.as_ref().unwrap().sequence, sequence(2));
    let request = Request { origin: Origin::Person, check_only: true, ..Request::timer() };
    assert_eq!(request.version, None);
    let mut host = Host::committed_on_b();
    host.wake();
    let mut older = offer(1);
    older.record.created = "2030-01-01T00:00:00Z".parse().unwrap();
    host.offered_as(older);
    assert_eq!(host.engine.model().check.newest_record.as_ref().unwrap().sequence, sequence(2));
}
