//! One suite for all stores: what `locksmith::store` promises, each store must keep.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // tests

use std::sync::Arc;

use locksmith::names::{AttemptId, GroupName, HostId};
use locksmith::semaphore::history::{Entry, Event, MAX_ENTRIES};
use locksmith::semaphore::queue::Queue;
use locksmith::semaphore::{Document, Facts, Max, Moment, Mono, Op, decide};
use locksmith::store::memory::MemoryStore;
use locksmith::store::sqlite::SqliteStore;
use locksmith::store::{Expected, History, Revision, Store, Stored, Swap, Write};

fn group(name: &str) -> GroupName {
    GroupName::parse(name).unwrap()
}

fn now() -> Moment {
    Moment { wall: "2026-01-01T00:00:00Z".parse().unwrap(), mono: Mono::START }
}

fn with_max(max: u32) -> Write {
    Write { document: Document::new(Max::new(max).unwrap()), history: Vec::new() }
}

/// A document with one holder, and the history entry of its grant.
fn with_holder(host: &str) -> Write {
    let id = HostId::parse(host).unwrap();
    let attempt = Some(AttemptId::parse(host).unwrap());
    let op = Op::Take { id, attempt, facts: Facts::default() };
    let decision = decide(&Document::new(Max::new(1).unwrap()), 1, &Queue::default(), &op, now());
    Write { document: decision.document.unwrap(), history: decision.history.into_iter().collect() }
}

fn done(swap: Swap) -> Revision {
    match swap {
        Swap::Done(revision) => revision,
        Swap::Lost => panic!("the swap was lost"),
    }
}

async fn make<S: Store>(store: &S, name: &str) -> Revision {
    done(store.swap(&group(name), Expected::Absent, with_max(1)).await.unwrap())
}

async fn an_unknown_group_is_absent_not_an_error<S: Store>(store: S) {
    assert_eq!(store.get(&group("nope")).await.unwrap(), None);
    assert_eq!(store.history(&group("nope"), 10).await.unwrap(), History::default());
    assert_eq!(store.groups().await.unwrap().names, []);
}

async fn what_was_swapped_in_is_read_back<S: Store>(store: S) {
    let first = make(&store, "g").await;
    let write = with_holder("h");
    let second = done(store.swap(&group("g"), Expected::At(first), write.clone()).await.unwrap());
    let expected = Stored { document: write.document, revision: second };
    assert_eq!(store.get(&group("g")).await.unwrap(), Some(expected));
    assert_eq!(store.history(&group("g"), 10).await.unwrap().entries, write.history);
}

async fn a_swap_upon_anything_but_the_newest_revision_is_lost_and_writes_nothing<S: Store>(store: S) {
    let first = make(&store, "g").await;
    let second = done(store.swap(&group("g"), Expected::At(first), with_max(2)).await.unwrap());
    let before = store.get(&group("g")).await.unwrap();
    for stale in [
        Expected::At(first),
        Expected::Absent,
        Expected::At(Revision(second.0 + 1)),
        Expected::At(Revision(0)),
        Expected::At(Revision(u64::MAX)),
    ] {
        let swap = store.swap(&group("g"), stale, with_holder("h")).await.unwrap();
        assert_eq!(swap, Swap::Lost, "{stale:?}");
    }
    assert_eq!(store.get(&group("g")).await.unwrap(), before);
    assert_eq!(store.history(&group("g"), 10).await.unwrap().entries, []);
    let missing = store.swap(&group("other"), Expected::At(second), with_max(1)).await.unwrap();
    assert_eq!(missing, Swap::Lost);
    assert_eq!(store.get(&group("other")).await.unwrap(), None);
}

async fn revisions_rise_over_all_groups<S: Store>(store: S) {
    let a = make(&store, "a").await;
    let b = make(&store, "b").await;
    let c = done(store.swap(&group("a"), Expected::At(a), with_max(3)).await.unwrap());
    assert!(a < b && b < c, "{a:?} {b:?} {c:?}");
}

async fn groups_do_not_touch_each_other_and_are_listed_in_order<S: Store>(store: S) {
    for name in ["web", "db", "A.1-x"] {
        make(&store, name).await;
    }
    let revision = store.get(&group("db")).await.unwrap().unwrap().revision;
    done(store.swap(&group("db"), Expected::At(revision), with_holder("h")).await.unwrap());
    assert_eq!(store.groups().await.unwrap().names, [group("A.1-x"), group("db"), group("web")]);
    let web = store.get(&group("web")).await.unwrap().unwrap();
    assert_eq!(web.document, with_max(1).document);
    assert_eq!(store.history(&group("web"), 10).await.unwrap().entries, []);
}

async fn history_is_newest_first_and_bounded<S: Store>(store: S) {
    let mut revision = make(&store, "g").await;
    let number = |entry: &Entry| entry.max.unwrap().get();
    let total = u32::try_from(MAX_ENTRIES).unwrap() + 5;
    // Written by tens, so that the suite's time goes into order and bound, not into flushing.
    let numbers: Vec<u32> = (0..total).map(|n| n % 1000).collect();
    for chunk in numbers.chunks(10) {
        let entry = |n: &u32| Entry::created(Max::new(*n).unwrap(), now().wall);
        let write = Write { history: chunk.iter().map(entry).collect(), ..with_max(1) };
        revision = done(store.swap(&group("g"), Expected::At(revision), write).await.unwrap());
    }
    let all = store.history(&group("g"), usize::MAX).await.unwrap().entries;
    assert_eq!(all.len(), MAX_ENTRIES);
    let expected: Vec<u32> = numbers.iter().rev().take(MAX_ENTRIES).copied().collect();
    assert_eq!(all.iter().map(number).collect::<Vec<_>>(), expected);
    let some = store.history(&group("g"), 3).await.unwrap().entries;
    assert_eq!(some[..], all[..3]);
    assert!(all.iter().all(|entry| entry.event == Event::Created));
}

async fn a_rehearsal_changes_nothing_that_can_be_seen<S: Store>(store: S) {
    store.rehearse().await.unwrap();
    assert_eq!(store.groups().await.unwrap().names, [], "it needs no group");
    let first = make(&store, "g").await;
    let second = done(store.swap(&group("g"), Expected::At(first), with_holder("h")).await.unwrap());
    let seen = async || (store.get(&group("g")).await.unwrap(), store.history(&group("g"), 10).await.unwrap());
    let before = seen().await;
    for _ in 0..3 {
        store.rehearse().await.unwrap();
    }
    assert_eq!(seen().await, before);
    assert_eq!(store.groups().await.unwrap().names, [group("g")]);
    assert!(
        done(store.swap(&group("g"), Expected::At(second), with_max(2)).await.unwrap()) > second,
        "nobody loses a swap to it"
    );
}

async fn of_many_swaps_upon_one_revision_exactly_one_is_done<S: Store>(store: S) {
    let store = Arc::new(store);
    for round in 0..20_u32 {
        let name = format!("g{round}");
        let revision = make(store.as_ref(), &name).await;
        let contenders: Vec<_> = (0..8_u32)
            .map(|n| {
                let (store, group) = (Arc::clone(&store), group(&name));
                tokio::spawn(async move { store.swap(&group, Expected::At(revision), with_max(n)).await.unwrap() })
            })
            .collect();
        let mut winners = Vec::new();
        for (n, contender) in contenders.into_iter().enumerate() {
            if let Swap::Done(_) = contender.await.unwrap() {
                winners.push(u32::try_from(n).unwrap());
            }
        }
        let stored = store.get(&group(&name)).await.unwrap().unwrap();
        assert_eq!(winners, [stored.document.max().get()]);
    }
}

macro_rules! suite {
    ($store:ident, $open:expr; $($test:ident)*) => {
        mod $store {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let dir = tempfile::tempdir().unwrap();
                    let open: fn(&std::path::Path) -> _ = $open;
                    super::$test(open(dir.path())).await;
                }
            )*
        }
    };
}

macro_rules! suites {
    ($($test:ident)*) => {
        suite! { memory, |_| MemoryStore::default(); $($test)* }
        suite! { sqlite, |dir| SqliteStore::open(dir).unwrap(); $($test)* }
    };
}

suites! {
    an_unknown_group_is_absent_not_an_error
    what_was_swapped_in_is_read_back
    a_swap_upon_anything_but_the_newest_revision_is_lost_and_writes_nothing
    revisions_rise_over_all_groups
    groups_do_not_touch_each_other_and_are_listed_in_order
    history_is_newest_first_and_bounded
    a_rehearsal_changes_nothing_that_can_be_seen
    of_many_swaps_upon_one_revision_exactly_one_is_done
}

#[tokio::test]
async fn what_sqlite_answered_is_there_after_it_was_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let first = make(&store, "g").await;
    let write = with_holder("h");
    let revision = done(store.swap(&group("g"), Expected::At(first), write.clone()).await.unwrap());
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let stored = store.get(&group("g")).await.unwrap().unwrap();
    assert_eq!(stored, Stored { document: write.document, revision });
    assert!(make(&store, "next").await > revision, "revisions go on rising");
}

#[tokio::test]
async fn a_group_deleted_and_made_anew_does_not_take_a_swap_meant_for_the_old_one() {
    let store = MemoryStore::default();
    let old = make(&store, "g").await;
    store.delete(&group("g"));
    make(&store, "g").await;
    let swap = store.swap(&group("g"), Expected::At(old), with_holder("h")).await.unwrap();
    assert_eq!(swap, Swap::Lost);
}
