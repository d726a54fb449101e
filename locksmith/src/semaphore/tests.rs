use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::lease::LeaseWatch;
use super::queue::{FORGOTTEN_AFTER, MAX_WAITERS};
use super::*;
use crate::names::GroupName;

fn id(text: &str) -> HostId {
    HostId::parse(text).unwrap()
}

fn attempt(text: &str) -> AttemptId {
    AttemptId::parse(text).unwrap()
}

fn operator() -> Label {
    Label::parse("by", "ada@desk").unwrap()
}

fn at(seconds: u64) -> Moment {
    let wall = Timestamp::from_second(1_700_000_000 + i64::try_from(seconds).unwrap()).unwrap();
    Moment { wall, mono: Mono(Duration::from_secs(seconds)) }
}

fn take(host: &str, attempt_id: &str) -> Op {
    Op::Take { id: id(host), attempt: Some(attempt(attempt_id)), facts: Facts::default() }
}

fn take_foreign(host: &str) -> Op {
    Op::Take { id: id(host), attempt: None, facts: Facts::default() }
}

fn reboot(host: &str, attempt_id: &str, fence: Option<u64>) -> Op {
    Op::Reboot { id: id(host), attempt: attempt(attempt_id), fence, facts: Facts::default() }
}

fn renew(host: &str, attempt_id: &str, fence: u64) -> Op {
    Op::Renew { id: id(host), attempt: attempt(attempt_id), fence }
}

fn release(host: &str, attempt_id: &str, outcome: Outcome) -> Op {
    Op::Release { id: id(host), attempt: Some(attempt(attempt_id)), outcome: Some(outcome) }
}

/// A group driven by one operation after another, as a store without faults would.
struct Bench {
    document: Document,
    revision: u64,
    queue: Queue,
    history: Vec<Entry>,
    writes: u64,
}

impl Bench {
    fn new(max: u32) -> Self {
        Self {
            document: Document::new(Max::new(max).unwrap()),
            revision: 1,
            queue: Queue::default(),
            history: Vec::new(),
            writes: 0,
        }
    }

    fn ask_at(&mut self, op: &Op, now: Moment) -> Answer {
        let decision = decide(&self.document, self.revision, &self.queue, op, now);
        if let Some(document) = decision.document {
            assert_ne!(document, self.document, "a write that changes nothing");
            self.document = document;
            self.revision += 1;
            self.writes += 1;
        }
        self.history.extend(decision.history);
        decision.answer
    }

    fn ask(&mut self, op: &Op) -> Answer {
        self.ask_at(op, at(0))
    }

    fn fence(&mut self, op: &Op) -> u64 {
        match self.ask(op) {
            Answer::Granted(grant) => grant.fence,
            other => panic!("expected a grant, got {other:?}"),
        }
    }

    fn refusal(&mut self, op: &Op) -> Refusal {
        match self.ask(op) {
            Answer::Refused(refusal) => refusal,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn holders(&self) -> Vec<&str> {
        self.document.holders().iter().map(|holder| holder.id.as_str()).collect()
    }
}

#[test]
fn a_holder_that_asks_again_under_its_attempt_gets_the_same_grant_even_when_the_group_is_full() {
    let mut bench = Bench::new(1);
    let first = bench.fence(&take("a", "a1"));
    assert_eq!(bench.fence(&take("a", "a1")), first);
    assert_eq!(bench.holders(), ["a"]);
}

#[test]
fn a_second_attempt_under_the_same_id_is_refused_with_words_while_the_first_is_held() {
    let mut bench = Bench::new(2);
    bench.fence(&take("a", "a1"));
    let refusal = bench.refusal(&take("a", "a2"));
    let words = refusal.sentence(&GroupName::parse("g").unwrap(), &bench.document, None);
    assert!(words.contains("two hosts with one id"), "{words}");
    assert!(words.contains(attempt("a1").tag().as_str()), "{words}");
    assert!(!words.contains("a1 "), "an attempt id is a capability: {words}");
    assert_eq!(bench.holders(), ["a"]);
}

#[test]
fn a_foreign_client_is_rebooting_from_the_start_and_recursive_by_id() {
    let mut bench = Bench::new(1);
    let fence = bench.fence(&take_foreign("z"));
    assert_eq!(bench.fence(&take_foreign("z")), fence);
    assert_eq!(bench.document.holders()[0].phase, Phase::Rebooting);
    assert_eq!(bench.writes, 1, "a recursive lock writes nothing");
    let op = Op::Release { id: id("z"), attempt: None, outcome: None };
    assert_eq!(bench.ask(&op), Answer::Released { freed: true });
    assert_eq!(bench.ask(&op), Answer::Released { freed: false });
}

#[test]
fn ids_with_and_without_an_attempt_do_not_share_a_place() {
    let mut bench = Bench::new(2);
    bench.fence(&take("a", "a1"));
    assert!(matches!(bench.refusal(&take_foreign("a")), Refusal::IdInUse(_)));
    bench.fence(&take_foreign("z"));
    assert!(matches!(bench.refusal(&take("z", "z1")), Refusal::IdInUse(_)));
}

#[test]
fn a_release_needs_the_attempt_that_took_the_place_and_otherwise_writes_nothing() {
    let mut bench = Bench::new(1);
    bench.fence(&take("a", "a2"));
    let writes = bench.writes;
    for stranger in [
        release("a", "a1", Outcome::Ok),
        release("b", "a2", Outcome::Ok),
        Op::Release { id: id("a"), attempt: None, outcome: None },
    ] {
        assert_eq!(bench.ask(&stranger), Answer::Released { freed: false });
    }
    assert_eq!(bench.writes, writes);
    assert_eq!(bench.holders(), ["a"]);
    assert_eq!(bench.ask(&release("a", "a2", Outcome::RolledBack)), Answer::Released { freed: true });
    assert_eq!(bench.history.last().unwrap().outcome, Some(Outcome::RolledBack));
}

#[test]
fn rebooting_is_granted_only_to_the_grant_that_is_held() {
    let mut bench = Bench::new(1);
    assert!(matches!(bench.refusal(&reboot("a", "a1", None)), Refusal::NotHeld(_)));
    let fence = bench.fence(&take("a", "a1"));
    assert!(matches!(bench.refusal(&reboot("a", "a1", Some(fence + 1))), Refusal::NotHeld(_)));
    assert!(matches!(bench.refusal(&reboot("a", "a2", Some(fence))), Refusal::IdInUse(_)));
    assert_eq!(bench.fence(&reboot("a", "a1", Some(fence))), fence);
    assert_eq!(bench.document.holders()[0].phase, Phase::Rebooting);
}

#[test]
fn a_late_renewal_or_question_never_takes_a_rebooting_holder_back_to_draining() {
    let mut bench = Bench::new(1);
    let fence = bench.fence(&take("a", "a1"));
    bench.fence(&reboot("a", "a1", Some(fence)));
    let writes = bench.writes;
    for late in [renew("a", "a1", fence), take("a", "a1"), reboot("a", "a1", Some(fence))] {
        let Answer::Granted(grant) = bench.ask(&late) else { panic!("refused") };
        assert_eq!(grant.phase, Phase::Rebooting);
    }
    assert_eq!(bench.writes, writes);
}

#[test]
fn a_lost_grant_is_not_renewed_into_a_new_one() {
    let mut bench = Bench::new(1);
    let fence = bench.fence(&take("a", "a1"));
    bench.ask(&Op::Expire { id: id("a"), fence, renewals: 0 });
    assert!(matches!(bench.refusal(&renew("a", "a1", fence)), Refusal::NotHeld(_)));
    let again = bench.fence(&take("a", "a1"));
    assert!(again > fence, "a new grant has a higher fence");
    assert!(matches!(bench.refusal(&renew("a", "a1", fence)), Refusal::NotHeld(_)));
}

#[test]
fn only_a_draining_holder_without_a_sign_of_life_expires() {
    let mut bench = Bench::new(1);
    let fence = bench.fence(&take("a", "a1"));
    bench.fence(&renew("a", "a1", fence));
    let old_news = Op::Expire { id: id("a"), fence, renewals: 0 };
    assert_eq!(bench.ask(&old_news), Answer::Expired { freed: false });
    bench.fence(&reboot("a", "a1", Some(fence)));
    for renewals in 0..3 {
        let op = Op::Expire { id: id("a"), fence, renewals };
        assert_eq!(bench.ask(&op), Answer::Expired { freed: false });
    }
    assert_eq!(bench.holders(), ["a"]);
}

#[test]
fn fences_rise_with_every_grant_even_after_the_document_was_lost() {
    let mut bench = Bench::new(1);
    let mut last = 0;
    for round in 0..5 {
        if round == 3 {
            bench.document = Document::new(Max::new(1).unwrap());
            bench.revision += 1;
        }
        let fence = bench.fence(&take("a", "a1"));
        assert!(fence > last, "fence {fence} after {last}");
        last = fence;
        bench.ask(&release("a", "a1", Outcome::Ok));
    }
}

#[test]
fn lowering_the_maximum_below_the_holders_drains_and_admits_nobody_meanwhile() {
    let mut bench = Bench::new(3);
    for host in ["a", "b", "c"] {
        bench.fence(&take(host, host));
    }
    let op = Op::SetMax { max: Max::new(1).unwrap(), by: operator() };
    bench.ask(&op);
    assert_eq!((bench.holders().len(), bench.document.free()), (3, 0));
    for host in ["a", "b", "c"] {
        assert_eq!(bench.refusal(&take("d", "d")), Refusal::Full);
        bench.ask(&release(host, host, Outcome::Ok));
    }
    bench.fence(&take("d", "d"));
}

#[test]
fn a_maximum_of_zero_lets_nobody_in_and_says_so() {
    let mut bench = Bench::new(0);
    let words = bench.refusal(&take("a", "a")).sentence(&GroupName::parse("g").unwrap(), &bench.document, None);
    assert_eq!(words, "group \"g\" lets no host reboot: its max is 0");
    assert!(Max::new(1001).is_err());
}

#[test]
fn an_operators_hold_passes_the_queue_but_not_the_maximum() {
    let mut bench = Bench::new(1);
    bench.queue.join(&id("waiting"), Some(Duration::from_secs(30)), at(0));
    let hold = |host: &str| Op::Hold { id: id(host), by: operator() };
    bench.fence(&hold("a"));
    bench.fence(&hold("a"));
    assert_eq!(bench.refusal(&hold("b")), Refusal::Full);
    assert_eq!(bench.document.holders()[0].by, Some(operator()));
}

#[test]
fn an_operators_hold_is_neither_the_hosts_to_use_nor_to_end() {
    let mut bench = Bench::new(2);
    let hold = Op::Hold { id: id("a"), by: operator() };
    let fence = bench.fence(&hold);
    for host in [take_foreign("a"), take("a", "a1"), reboot("a", "a1", Some(fence)), renew("a", "a1", fence)] {
        let words = bench.refusal(&host).sentence(&GroupName::parse("g").unwrap(), &bench.document, None);
        assert_eq!(
            words,
            "ada@desk holds the place of a in group \"g\" since 2023-11-14T22:13:20Z: it may not reboot until an operator \
             ends that with: locksmithctl unlock --group g -- a",
            "{host:?}"
        );
    }
    for back in [Op::Release { id: id("a"), attempt: None, outcome: None }, release("a", "a1", Outcome::Ok)] {
        assert_eq!(bench.ask(&back), Answer::Released { freed: false });
    }
    assert_eq!((bench.writes, bench.fence(&hold)), (1, fence), "and the operator may hold it again");
    let free = Op::Free { id: id("a"), reason: None, by: operator() };
    assert!(matches!(bench.ask(&free), Answer::Freed(Some(_))));
    bench.fence(&take_foreign("a"));
}

#[test]
fn a_command_in_a_refusal_is_safe_to_copy_whatever_a_host_calls_itself() {
    let mut bench = Bench::new(2);
    for (host, group, command) in
        [("$(reboot)", "g", "locksmithctl unlock --group g -- '$(reboot)'"), ("-h", "-g", "locksmithctl unlock --group=-g -- -h")]
    {
        bench.fence(&take_foreign(host));
        let words = bench.refusal(&take(host, "r1")).sentence(&GroupName::parse(group).unwrap(), &bench.document, None);
        assert!(words.ends_with(command), "{words}");
    }
}

#[test]
fn a_place_that_a_foreign_client_holds_is_no_operators_hold() {
    let mut bench = Bench::new(2);
    bench.fence(&take_foreign("z"));
    let refusal = bench.refusal(&Op::Hold { id: id("z"), by: operator() });
    assert!(matches!(refusal, Refusal::Occupied(ref holder) if holder.by.is_none()), "{refusal:?}");
}

#[test]
fn an_operators_hold_is_no_other_operators() {
    let mut bench = Bench::new(3);
    let ben = Label::parse("by", "ben@desk").unwrap();
    let fence = bench.fence(&Op::Hold { id: id("a"), by: operator() });
    let refusal = bench.refusal(&Op::Hold { id: id("a"), by: ben });
    assert_eq!(
        refusal.sentence(&GroupName::parse("g").unwrap(), &bench.document, None),
        "a is held by ada@desk in group \"g\" since 2023-11-14T22:13:20Z; lock another id, or end that hold first with: \
         locksmithctl unlock --group g -- a"
    );
    assert_eq!(bench.document.holders()[0].by, Some(operator()));
    assert_eq!(bench.fence(&Op::Hold { id: id("a"), by: operator() }), fence, "its own operator asks again");
}

#[test]
fn a_hold_of_an_operator_without_a_name_is_confirmed_to_nobody() {
    let mut bench = Bench::new(2);
    let hold = |by: &str| Op::Hold { id: id("a"), by: Label::parse("by", by).unwrap() };
    bench.fence(&hold(UNNAMED));
    for by in [UNNAMED, "ada@desk"] {
        let refusal = bench.refusal(&hold(by));
        assert_eq!(
            refusal.sentence(&GroupName::parse("g").unwrap(), &bench.document, None),
            "a is held by an operator in group \"g\" since 2023-11-14T22:13:20Z (which may be yours: it was \
             taken without a name); lock another id, or end that hold first with: \
             locksmithctl unlock --group g -- a"
        );
    }
    assert_eq!(bench.holders(), ["a"]);
}

#[test]
fn an_operator_is_told_to_wait_for_a_host_that_updates_and_to_break_its_lock_only_if_it_is_gone() {
    let mut bench = Bench::new(1);
    let version = Some(Label::parse("version", "2.0").unwrap());
    let facts = Facts { version, ..Facts::default() };
    bench.fence(&Op::Take { id: id("a"), attempt: Some(attempt("a1")), facts });
    let words = |bench: &mut Bench| {
        let refusal = bench.refusal(&Op::Hold { id: id("a"), by: operator() });
        refusal.sentence(&GroupName::parse("g").unwrap(), &bench.document, None)
    };
    assert_eq!(
        words(&mut bench),
        "a itself holds a place in group \"g\" for 2.0 (draining since 2023-11-14T22:13:20Z): wait until it is back, or hold \
         under another id; if it is gone for good, free it with: locksmithctl unlock --group g -- a"
    );
    bench.ask_at(&reboot("a", "a1", None), at(60));
    assert!(words(&mut bench).contains("(rebooting since 2023-11-14T22:14:20Z)"));
}

#[test]
fn an_operators_hold_reads_as_a_hold_and_not_as_a_reboot() {
    let mut bench = Bench::new(1);
    bench.fence(&Op::Hold { id: id("a"), by: operator() });
    let words = bench.refusal(&take("b", "b1")).sentence(&GroupName::parse("g").unwrap(), &bench.document, None);
    assert_eq!(words, "group \"g\" is full: 1 of 1 places taken, by a (held by ada@desk since 2023-11-14T22:13:20Z)");
    assert_eq!(bench.document.holders()[0].stands(), HELD);
    bench.ask(&Op::Free { id: id("a"), reason: None, by: operator() });
    bench.fence(&take_foreign("a"));
    bench.ask(&Op::Free { id: id("a"), reason: None, by: operator() });
    let phases: Vec<Option<Phase>> = bench.history.iter().map(|entry| entry.phase).collect();
    let rebooting = Some(Phase::Rebooting);
    assert_eq!(phases, [None, None, rebooting, rebooting], "a hold has no phase in the history either");
}

#[test]
fn a_freed_place_is_kept_for_whoever_waited_longest_until_its_patience_ends() {
    let told = Some(Duration::from_secs(30));
    let mut bench = Bench::new(1);
    bench.queue.join(&id("early"), told, at(0));
    bench.queue.join(&id("late"), told, at(1));
    assert_eq!(bench.ask_at(&take("late", "l"), at(2)), Answer::Refused(Refusal::Kept));
    assert_eq!(bench.ask_at(&take("new", "n"), at(2)), Answer::Refused(Refusal::Kept));
    // 65 s is the patience: at 66 the claim of the silent one has ended, its place in the queue has not.
    assert!(matches!(bench.ask_at(&take("late", "l"), at(66)), Answer::Granted(_)));
    assert_eq!(bench.queue.place(&id("early")).unwrap().number, 1);
}

#[test]
fn a_foreign_client_has_a_place_in_the_queue_but_keeps_nobody_out() {
    let mut bench = Bench::new(1);
    bench.queue.join(&id("zincati"), None, at(0));
    assert_eq!(bench.queue.place(&id("zincati")).unwrap().number, 1);
    assert!(matches!(bench.ask_at(&take("new", "n"), at(1)), Answer::Granted(_)));
}

#[test]
fn two_free_places_are_given_past_one_waiter() {
    let mut bench = Bench::new(2);
    bench.queue.join(&id("early"), Some(Duration::from_secs(30)), at(0));
    bench.fence(&take("new", "n"));
    assert_eq!(bench.refusal(&take("newer", "n2")), Refusal::Kept);
    bench.fence(&take("early", "e"));
}

#[test]
fn the_queue_counts_places_forgets_the_silent_and_is_bounded() {
    let mut queue = Queue::default();
    for number in 0..MAX_WAITERS + 10 {
        queue.join(&id(&format!("h{number}")), None, at(0));
    }
    assert_eq!(queue.len(), MAX_WAITERS);
    assert_eq!(queue.place(&id("h2")).unwrap().number, 3);
    assert_eq!(queue.place(&id(&format!("h{MAX_WAITERS}"))), None);
    queue.leave(&id("h0"));
    assert_eq!(queue.place(&id("h2")).unwrap().number, 2);
    let later = at(FORGOTTEN_AFTER.as_secs());
    queue.join(&id("h5"), None, later);
    assert_eq!(queue.len(), 1, "those who fell silent are gone, one that asks now starts anew");
    assert_eq!(queue.place(&id("h5")).unwrap().since, later.wall);
}

#[test]
fn design_11_17_a_lease_ends_only_after_it_was_seen_unrenewed_for_its_whole_length() {
    let mut bench = Bench::new(2);
    let fence = bench.fence(&take("a", "a1"));
    let mut watch = LeaseWatch::new(Duration::from_secs(120));
    // A document whose holder is years old says nothing: only what this process saw counts.
    watch.observe(&bench.document, at(1000).mono);
    assert_eq!(watch.expired(at(1119).mono), []);
    assert_eq!(watch.next_expiry(), Some(at(1120).mono));
    // Another host's grant changes the document, not the lease.
    bench.fence(&take("b", "b1"));
    watch.observe(&bench.document, at(1100).mono);
    assert_eq!(watch.expired(at(1120).mono), [Op::Expire { id: id("a"), fence, renewals: 0 }]);
    // A renewal starts it anew.
    bench.fence(&renew("a", "a1", fence));
    watch.observe(&bench.document, at(1120).mono);
    assert_eq!(watch.expired(at(1219).mono), []);
    // A rebooting holder is not watched at all.
    bench.fence(&reboot("a", "a1", None));
    bench.fence(&reboot("b", "b1", None));
    watch.observe(&bench.document, at(1221).mono);
    assert_eq!((watch.expired(at(1_000_000).mono), watch.next_expiry()), (Vec::new(), None));
}

#[test]
fn a_document_survives_being_written_down_and_one_of_a_newer_format_is_refused() {
    let mut bench = Bench::new(2);
    bench.fence(&take("a", "a1"));
    bench.fence(&take_foreign("z"));
    let text = bench.document.to_json().unwrap();
    assert_eq!(Document::from_json(&text).unwrap(), bench.document);
    let newer = r#"{"format":2,"max":1,"breaker":{}}"#;
    assert!(matches!(Document::from_json(newer), Err(DocumentError::Newer { found: 2 })));
}

#[test]
fn a_document_that_contradicts_itself_is_refused() {
    let holder = r#"{"id":"a","attempt":null,"fence":7,"phase":"rebooting","since":"2026-01-01T00:00:00Z",
        "phase_since":"2026-01-01T00:00:00Z","renewals":0,"facts":{},"by":null}"#;
    let document = |last: u64, holders: &str| {
        Document::from_json(&format!(r#"{{"format":1,"max":1,"last_fence":{last},"holders":[{holders}]}}"#))
    };
    assert!(document(7, holder).is_ok());
    let twice = document(7, &format!("{holder},{holder}")).unwrap_err().to_string();
    assert!(twice.contains("a holds two places"), "{twice}");
    let fence = document(6, holder).unwrap_err().to_string();
    assert!(fence.contains("a has fence 7"), "{fence}");
    for bad in ["", "[]", "{}", r#"{"format":1}"#, r#"{"format":1,"max":1001,"last_fence":0,"holders":[]}"#] {
        assert!(matches!(Document::from_json(bad), Err(DocumentError::Malformed(_))), "{bad}");
    }
}

#[test]
fn sentences_name_who_since_when_and_the_place_in_the_queue() {
    let mut bench = Bench::new(1);
    let version = Some(Label::parse("version", "1.2.0").unwrap());
    let facts = Facts { version, ..Facts::default() };
    bench.fence(&Op::Take { id: id("a"), attempt: Some(attempt("a1")), facts });
    bench.queue.join(&id("b"), None, at(60));
    let words =
        bench.refusal(&take("b", "b1")).sentence(&GroupName::parse("web").unwrap(), &bench.document, bench.queue.place(&id("b")));
    assert_eq!(
        words,
        "group \"web\" is full: 1 of 1 places taken, by a (draining since 2023-11-14T22:13:20Z, version 1.2.0); \
         you are number 1 in the queue, waiting since 2023-11-14T22:14:20Z"
    );
}

#[test]
fn folding_decides_each_operation_upon_what_the_one_before_left() {
    let document = Arc::new(Document::new(Max::new(1).unwrap()));
    let ops = [take("a", "a1"), take("b", "b1"), release("a", "a1", Outcome::Ok), take("b", "b1")];
    let folded = fold(&document, 1, &Queue::default(), &ops, at(0));
    let shape: Vec<&str> = folded
        .answers
        .iter()
        .map(|decided| match decided.answer {
            Answer::Granted(_) => "granted",
            Answer::Refused(_) => "refused",
            Answer::Released { freed: true } => "freed",
            _ => "other",
        })
        .collect();
    assert_eq!(shape, ["granted", "refused", "freed", "granted"]);
    assert_eq!(folded.answers[1].upon.holders()[0].id, id("a"), "the refusal's reasons are those of its moment");
    assert_eq!(folded.history.len(), 3);
    let fences: Vec<u64> = folded.history.iter().filter_map(|entry| entry.fence).collect();
    assert!(fences[2] > fences[0], "two grants of one swap have two fences: {fences:?}");
}

fn any_op() -> impl Strategy<Value = Op> {
    let one_of = |number: u64| if number.is_multiple_of(2) { operator() } else { Label::parse("by", "ben@desk").unwrap() };
    let host = prop::sample::select(vec!["a", "b", "c", "d"]);
    let which = prop::sample::select(vec!["1", "2"]);
    (host, which, 0..11_u32, 0..4_u64).prop_map(move |(host, which, kind, number)| {
        let name = format!("{host}{which}");
        match kind {
            0 | 1 => take(host, &name),
            2 => take_foreign(host),
            3 => renew(host, &name, number + 2),
            4 => reboot(host, &name, None),
            5 => release(host, &name, Outcome::Ok),
            6 => Op::Release { id: id(host), attempt: None, outcome: None },
            7 => Op::Expire { id: id(host), fence: number + 2, renewals: number % 2 },
            8 => Op::Hold { id: id(host), by: one_of(number) },
            9 => Op::Free { id: id(host), reason: None, by: operator() },
            _ => Op::SetMax { max: Max::new(u32::try_from(number).unwrap()).unwrap(), by: operator() },
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// P5, and every answer is true of the document it leaves behind.
    #[test]
    fn holders_exceed_the_maximum_only_after_it_was_lowered(
        max in 0..4_u32,
        ops in prop::collection::vec(any_op(), 1..60),
    ) {
        let mut bench = Bench::new(max);
        let mut fences: BTreeMap<String, u64> = BTreeMap::new();
        for op in &ops {
            let before = bench.document.holders().len();
            let held_by_operator = |document: &Document| -> Vec<(HostId, Label)> {
                document.holders().iter().filter_map(|holder| Some((holder.id.clone(), holder.by.clone()?))).collect()
            };
            let maintained = held_by_operator(&bench.document);
            let answer = bench.ask(op);
            let (held, max) = (bench.document.holders().len(), bench.document.max().places());
            prop_assert!(held <= max.max(before), "{held} holders of {max}, {before} before {op:?}");
            prop_assert_eq!(bench.document.free(), max.saturating_sub(held));
            if let (Answer::Granted(grant), Op::Take { id, attempt, .. }) = (&answer, op) {
                let holder = bench.document.holder(id).unwrap();
                prop_assert_eq!((&holder.attempt, holder.fence), (attempt, grant.fence));
                let key = format!("{id} {}", holder.fence);
                prop_assert!(fences.insert(key, grant.fence).is_none_or(|fence| fence == grant.fence));
            }
            if let (Answer::Granted(_), Op::Hold { id, by }) = (&answer, op) {
                prop_assert_eq!(bench.document.holder(id).and_then(|holder| holder.by.as_ref()), Some(by));
            }
            if let Answer::Released { .. } = &answer
                && let Op::Release { id, attempt, .. } = op
            {
                let still = bench.document.holder(id).is_some_and(|holder| holder.is_granted_to(attempt.as_ref()));
                prop_assert!(!still, "released but still holding");
            }
            if !matches!(op, Op::Free { .. }) {
                let now = held_by_operator(&bench.document);
                prop_assert!(maintained.iter().all(|hold| now.contains(hold)), "{op:?} ended an operator's hold");
            }
        }
    }

    /// Any operation asked twice in a row leaves the holders it left the first time.
    #[test]
    fn every_operation_is_idempotent(
        ops in prop::collection::vec(any_op(), 1..30),
        last in any_op(),
    ) {
        let mut bench = Bench::new(2);
        for op in &ops {
            bench.ask(op);
        }
        let first = bench.ask(&last);
        let holders = |bench: &Bench| -> Vec<(HostId, u64, Phase)> {
            bench.document.holders().iter().map(|h| (h.id.clone(), h.fence, h.phase)).collect()
        };
        let once = holders(&bench);
        let second = bench.ask(&last);
        prop_assert_eq!(once, holders(&bench));
        if matches!(last, Op::Take { .. } | Op::Renew { .. } | Op::Reboot { .. }) {
            prop_assert_eq!(first, second);
        }
    }
}
