//! Every interleaving of three hosts that each take, renew, reboot and release, over one compare-and-swap register,
//! with lost swaps and lost answers; then with leases that run out at any moment, and with old requests that the
//! network delivers again.
//!
//! What is explored is complete: each host's operation is a read and a swap, anybody may act in between, any answer may
//! be lost (then the host asks again, as it must), and states already seen are not walked twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // tests

use std::collections::HashSet;
use std::rc::Rc;

use locksmith::names::{AttemptId, HostId};
use locksmith::semaphore::queue::Queue;
use locksmith::semaphore::{Answer, Document, Facts, Max, Moment, Mono, Op, Outcome, Phase, Refusal, decide};

/// What may go wrong, and how often.
#[derive(Clone, Copy)]
struct World {
    hosts: usize,
    max: u32,
    /// Answers each host may lose.
    lost_answers: u8,
    /// Leases that may run out.
    expiries: u8,
    /// Old requests that may arrive again.
    ghosts: u8,
}

/// Where a host is. What it knows is what it was answered, not what the store says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Step {
    Take,
    Renew,
    Reboot,
    Release,
    Done,
}

#[derive(Clone)]
struct Host {
    step: Step,
    fence: Option<u64>,
    /// The document it was read upon, while its operation is between read and swap.
    reading: Option<(u64, Rc<Document>)>,
    lost_answers: u8,
    /// Requests it has sent at least once.
    sent: Vec<Step>,
}

#[derive(Clone)]
struct State {
    document: Rc<Document>,
    revision: u64,
    hosts: Vec<Host>,
    expiries: u8,
    ghosts: u8,
}

fn host_id(number: usize) -> HostId {
    HostId::parse(&format!("h{number}")).unwrap()
}

fn attempt(number: usize) -> AttemptId {
    AttemptId::parse(&format!("attempt-{number}")).unwrap()
}

fn now() -> Moment {
    Moment { wall: "2026-01-01T00:00:00Z".parse().unwrap(), mono: Mono::START }
}

fn request(number: usize, step: Step, fence: Option<u64>) -> Op {
    let (id, attempt) = (host_id(number), attempt(number));
    match step {
        Step::Take => Op::Take { id, attempt: Some(attempt), facts: Facts::default() },
        Step::Renew => Op::Renew { id, attempt, fence: fence.unwrap() },
        Step::Reboot => Op::Reboot { id, attempt, fence, facts: Facts::default() },
        Step::Release | Step::Done => Op::Release { id, attempt: Some(attempt), outcome: Some(Outcome::Ok) },
    }
}

impl State {
    fn start(world: World) -> Self {
        let host = Host { step: Step::Take, fence: None, reading: None, lost_answers: world.lost_answers, sent: Vec::new() };
        Self {
            document: Rc::new(Document::new(Max::new(world.max).unwrap())),
            revision: 1,
            hosts: vec![host; world.hosts],
            expiries: world.expiries,
            ghosts: world.ghosts,
        }
    }

    /// Everything that may happen next.
    fn successors(&self) -> Vec<Self> {
        let mut next = Vec::new();
        for number in 0..self.hosts.len() {
            match &self.hosts[number].reading {
                None if self.hosts[number].step == Step::Done => {}
                None => next.push(self.read(number)),
                Some(_) => next.extend(self.swap(number)),
            }
        }
        next.extend(self.expire());
        next.extend(self.haunt());
        next
    }

    fn read(&self, number: usize) -> Self {
        let mut next = self.clone();
        let host = &mut next.hosts[number];
        host.reading = Some((self.revision, self.document.clone()));
        if !host.sent.contains(&host.step) {
            host.sent.push(host.step);
            host.sent.sort_unstable();
        }
        next
    }

    /// The second half of a host's operation: the swap is lost, or its answer arrives, or its answer is lost.
    fn swap(&self, number: usize) -> Vec<Self> {
        let host = &self.hosts[number];
        let (revision, document) = host.reading.clone().unwrap();
        let op = request(number, host.step, host.fence);
        let decision = decide(&document, revision, &Queue::default(), &op, now());
        let mut next = self.clone();
        next.hosts[number].reading = None;
        if let Some(document) = decision.document {
            if revision != self.revision {
                return vec![next];
            }
            next.document = Rc::new(document);
            next.revision += 1;
        }
        let mut all = Vec::new();
        if host.lost_answers > 0 {
            let mut lost = next.clone();
            lost.hosts[number].lost_answers -= 1;
            all.push(lost);
        }
        next.hosts[number].hear(&decision.answer);
        all.push(next);
        all
    }

    /// A lease runs out: any draining holder may be the silent one.
    fn expire(&self) -> Vec<Self> {
        if self.expiries == 0 {
            return Vec::new();
        }
        let draining = self.document.holders().iter().filter(|holder| holder.phase == Phase::Draining);
        draining
            .map(|holder| {
                let op = Op::Expire { id: holder.id.clone(), fence: holder.fence, renewals: holder.renewals };
                let mut next = self.apply(&op);
                next.expiries -= 1;
                next
            })
            .collect()
    }

    /// The network delivers a request again that was sent at some time; nobody hears the answer.
    fn haunt(&self) -> Vec<Self> {
        if self.ghosts == 0 {
            return Vec::new();
        }
        let mut all = Vec::new();
        for (number, host) in self.hosts.iter().enumerate() {
            for step in &host.sent {
                if matches!(step, Step::Renew | Step::Reboot) && host.fence.is_none() {
                    continue;
                }
                let mut next = self.apply(&request(number, *step, host.fence));
                next.ghosts -= 1;
                all.push(next);
            }
        }
        all
    }

    fn apply(&self, op: &Op) -> Self {
        let mut next = self.clone();
        let decision = decide(&self.document, self.revision, &Queue::default(), op, now());
        if let Some(document) = decision.document {
            next.document = Rc::new(document);
            next.revision += 1;
        }
        next
    }

    fn check(&self, world: World) {
        let max = usize::try_from(world.max).unwrap();
        let holders = self.document.holders();
        assert!(holders.len() <= max, "P5: {} holders of {max}", holders.len());
        let down = self.hosts.iter().filter(|host| host.is_rebooting()).count();
        assert!(down <= max, "{down} hosts are rebooting of {max}");
        for (number, host) in self.hosts.iter().enumerate() {
            let held = self.document.holder(&host_id(number));
            if host.is_rebooting() {
                let held = held.expect("a host that was told to reboot lost its place");
                assert_eq!(held.phase, Phase::Rebooting);
                assert_eq!(Some(held.fence), host.fence);
            }
            let believes = matches!(host.step, Step::Renew | Step::Reboot);
            if believes && world.expiries == 0 {
                assert_eq!(held.map(|holder| holder.fence), host.fence, "a grant was lost or doubled");
            }
        }
        if self.hosts.iter().all(|host| host.step == Step::Done) {
            let stuck = holders.iter().filter(|holder| holder.phase == Phase::Rebooting).count();
            assert_eq!(stuck, 0, "P6: a host that is done holds a place for ever");
            if world.ghosts == 0 {
                assert_eq!(holders.len(), 0, "P6");
            }
        }
    }

    /// What tells two states apart. Numbers of revisions and fences do not, only their order does.
    fn key(&self) -> Vec<u8> {
        let mut fences: Vec<u64> = self.document.holders().iter().map(|holder| holder.fence).collect();
        for host in &self.hosts {
            fences.extend(host.fence);
            let read = host.reading.iter().flat_map(|(_, document)| document.holders());
            fences.extend(read.map(|holder| holder.fence));
        }
        fences.sort_unstable();
        fences.dedup();
        let rank = |fence: u64| u8::try_from(fences.binary_search(&fence).unwrap()).unwrap();
        let add_document = |key: &mut Vec<u8>, document: &Document| {
            for holder in document.holders() {
                key.extend([holder.id.as_str().as_bytes()[1], rank(holder.fence), holder.phase as u8]);
            }
            key.push(b'|');
        };
        let mut key = vec![self.expiries, self.ghosts];
        add_document(&mut key, &self.document);
        for host in &self.hosts {
            key.extend([host.step as u8, host.fence.map_or(255, rank), host.lost_answers]);
            // Without ghosts only this of what was sent makes a difference.
            key.push(u8::from(host.sent.contains(&Step::Release)));
            if self.ghosts > 0 {
                key.extend(host.sent.iter().map(|step| *step as u8));
            }
            if let Some((revision, read)) = &host.reading {
                key.extend([b'r', u8::from(*revision == self.revision)]);
                add_document(&mut key, read);
            }
            key.push(b'|');
        }
        key
    }
}

impl Host {
    /// It was told to reboot and has not asked to be released: it may be down.
    fn is_rebooting(&self) -> bool {
        self.step == Step::Release && !self.sent.contains(&Step::Release)
    }

    fn hear(&mut self, answer: &Answer) {
        match (self.step, answer) {
            (Step::Take, Answer::Granted(grant)) => {
                if let Some(fence) = self.fence {
                    assert!(grant.fence >= fence, "fences rise");
                }
                self.fence = Some(grant.fence);
                // Where the first answer was lost and the lease was not: on, whatever the phase.
                self.step = Step::Renew;
            }
            (Step::Renew, Answer::Granted(_)) => self.step = Step::Reboot,
            (Step::Reboot, Answer::Granted(grant)) => {
                assert_eq!(grant.phase, Phase::Rebooting, "acknowledged without the change");
                self.step = Step::Release;
            }
            (Step::Release, Answer::Released { .. }) => self.step = Step::Done,
            (Step::Take, Answer::Refused(Refusal::Full)) => {}
            (Step::Renew | Step::Reboot, Answer::Refused(Refusal::NotHeld(_))) => self.step = Step::Take,
            (step, answer) => panic!("{step:?} was answered {answer:?}"),
        }
    }
}

/// Walks all states of a world; returns how many there are, and how many steps lead between them.
fn explore(world: World) -> (usize, usize) {
    let start = State::start(world);
    let mut seen = HashSet::from([start.key()]);
    let mut todo = vec![start];
    let (mut steps, mut finished) = (0, 0);
    while let Some(state) = todo.pop() {
        state.check(world);
        if state.hosts.iter().all(|host| host.step == Step::Done) {
            finished += 1;
        }
        for next in state.successors() {
            steps += 1;
            if seen.insert(next.key()) {
                todo.push(next);
            }
        }
    }
    assert!(finished > 0, "no interleaving ends");
    println!("{} states, {steps} steps, {finished} ends", seen.len());
    (seen.len(), steps)
}

#[test]
fn three_hosts_with_lost_swaps_and_lost_answers_keep_p5_and_idempotence() {
    for max in [1, 2] {
        let world = World { hosts: 3, max, lost_answers: 1, expiries: 0, ghosts: 0 };
        let (states, _) = explore(world);
        assert!(states > 1000, "only {states} states: the model does not branch");
    }
}

#[test]
fn three_hosts_whose_leases_run_out_at_any_moment_never_flip_without_a_place() {
    for (max, expiries) in [(1, 2), (2, 1)] {
        let world = World { hosts: 3, max, lost_answers: 0, expiries, ghosts: 0 };
        let (states, _) = explore(world);
        assert!(states > 1000, "only {states} states: the model does not branch");
    }
}

#[test]
fn old_requests_that_arrive_again_free_nobody_and_leave_no_place_taken_for_ever() {
    let world = World { hosts: 2, max: 1, lost_answers: 1, expiries: 1, ghosts: 2 };
    let (states, _) = explore(world);
    assert!(states > 1000, "only {states} states: the model does not branch");
}
