//! What people look through, page by page: passes over windows and error rows.

use std::time::Duration;

use backends::ledger::{
    ErrorQuery, ListedError, ListedPass, NewWindow, PartitionCounts, PassQuery, Purpose,
    ReasonCount, WindowState,
};
use protocol::{FailureReason, WindowKey};

use super::*;

async fn page(
    ledger: &dyn backends::Ledger,
    before: Option<WindowKey>,
    limit: u32,
) -> Vec<ListedPass> {
    let query = PassQuery { before, limit, ..PassQuery::default() };
    ledger.list_passes(query).await.expect("a page")
}

fn keys(passes: &[ListedPass]) -> Vec<WindowKey> {
    passes.iter().map(|pass| pass.record.key()).collect()
}

pub(crate) async fn passes_are_listed_the_newest_first(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    assert_eq!(page(&*ledger, None, 9).await, []);
    let lease = begin(&*ledger).await;
    let began = ledger.now().await.expect("the time");
    for day in 1..=3 {
        settle(&*ledger, &lease, day).await;
    }
    ledger
        .request_pass(window(2).end(), Purpose::Replay, Some(&audit("replay")))
        .await
        .expect("it is requested");
    ledger.add_window(&lease, &new_window(4, 3)).await.expect("it is recorded");
    accept(&*ledger, &lease, key(4, 0), 1).await;
    let mut later = setback(1);
    later.not_before = Some(at("2999-01-01"));
    ledger.set_back(&lease, key(4, 0), 2, &later).await.expect("it is set back");

    let all = page(&*ledger, None, 9).await;
    let expected = [key(4, 0), key(3, 0), key(2, 1), key(2, 0), key(1, 0)];
    assert_eq!(keys(&all), expected);
    let states: Vec<_> = all.iter().map(|pass| pass.record.state).collect();
    assert_eq!(states[..3], [WindowState::Open, WindowState::Committed, WindowState::Requested]);
    let open = PartitionCounts { all: 3, accepted: 1, backing_off: 1, files_failed: 2 };
    assert_eq!(all[0].partitions, open);
    let done = PartitionCounts { all: 2, accepted: 2, backing_off: 0, files_failed: 4 };
    assert_eq!((all[1].partitions, all[2].partitions), (done, PartitionCounts::default()));
    assert_eq!(all[2].planned_at, None, "nobody planned it");
    let now = ledger.now().await.expect("the time");
    for pass in &all {
        let since = pass.since.expect("it is written down");
        assert!(began <= since && since <= now, "{pass:?}");
        assert!(pass.planned_at.is_none_or(|planned| began <= planned && planned <= since));
    }

    // Page by page it is the same list.
    let mut paged = page(&*ledger, None, 2).await;
    while let Some(last) = paged.last() {
        let next = page(&*ledger, Some(last.record.key()), 2).await;
        if next.is_empty() {
            break;
        }
        paged.extend(next);
    }
    assert_eq!(paged, all);
    let query = PassQuery {
        from: Some(window(2).end()),
        until: Some(window(3).end()),
        before: None,
        limit: 9,
    };
    let some = ledger.list_passes(query).await.expect("a page");
    assert_eq!(keys(&some), [key(3, 0), key(2, 1), key(2, 0)]);
    let theirs = bench.ledger_of("invoices", 2).await;
    assert_eq!(page(&*theirs, None, 9).await, []);
}

pub(crate) async fn a_pass_says_since_when_it_is_what_it_is(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ready(&*ledger, &lease, 1, 2).await;
    let pass = async || page(&*ledger, None, 1).await.remove(0);
    let open = pass().await;
    assert_eq!((open.since, open.was_held), (open.planned_at, false));
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    for _again in 0..2 {
        let held = ledger.set_window_state(&lease, key(1, 0), WindowState::Held).await;
        held.expect("it is held");
    }
    let held = pass().await;
    assert!(held.since > open.since && held.was_held, "{held:?}");
    assert_eq!(held.planned_at, open.planned_at);
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    ledger.release_window(key(1, 0), &audit("release")).await.expect("it is let go");
    let released = pass().await;
    assert!(released.since > held.since && released.was_held, "{released:?}");
    let mut failing = commit(1, &lease);
    failing.failures.clear();
    ledger.commit_window(&lease, &failing).await.expect("it is committed");
    let committed = pass().await;
    assert!(committed.since >= released.since && committed.was_held, "{committed:?}");

    // Planning is part of the work: it counts from when that began.
    let slow = NewWindow { planned_in: Duration::from_secs(3_600), ..new_window(2, 1) };
    ledger.add_window(&lease, &slow).await.expect("it is recorded");
    let (slow, now) = (pass().await, ledger.now().await.expect("the time"));
    let began = slow.planned_at.expect("it is written down");
    assert!((3_600..3_700).contains(&now.seconds_since(began)), "{slow:?}");
    assert_eq!((slow.since, slow.was_held), (Some(began), false));
    let pass = async || page(&*ledger, Some(key(2, 0)), 1).await.remove(0);

    // What an older release recorded has no times but that of its commit.
    bench.sql("UPDATE des_windows SET planned_at = NULL, state_since = NULL").await;
    let old = pass().await;
    assert_eq!((old.planned_at, old.since), (None, committed.since));
}

fn uids(listed: &[ListedError]) -> Vec<&str> {
    listed.iter().map(|it| it.row.failed.uid.as_str()).collect()
}

pub(crate) async fn error_rows_are_listed_the_newest_first(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    ready(&*ledger, &lease, 2, 1).await;
    let mut second = commit(2, &lease);
    second.failures = vec![
        failed("uid-2", FailureReason::Missing),
        failed("uid-3", FailureReason::NoPermission),
        failed("uid-4", FailureReason::NoPermission),
    ];
    ledger.commit_window(&lease, &second).await.expect("it is committed");
    bench
        .sql("UPDATE des_migration_errors SET resolved_at = recorded_at WHERE uid = 'uid-3'")
        .await;

    let list = async |query: ErrorQuery, before, limit| {
        ledger.list_errors(query, before, limit).await.expect("a page")
    };
    let unresolved = ErrorQuery::default();
    let all = ErrorQuery { resolved: true, ..unresolved };
    assert_eq!(uids(&list(unresolved, None, 9).await), ["uid-4", "uid-2", "uid-1"]);
    let listed = list(all, None, 9).await;
    assert_eq!(uids(&listed), ["uid-4", "uid-3", "uid-2", "uid-1"]);
    assert_eq!(listed[1].row.resolved_at, Some(listed[1].recorded_at));
    assert_eq!((listed[3].row.window, listed[0].row.window), (key(1, 0), key(2, 0)));
    let first = list(all, None, 3).await;
    assert_eq!(first, listed[..3]);
    assert_eq!(list(all, Some(first[2].number), 3).await, listed[3..]);

    let missing = ErrorQuery { reason: Some(FailureReason::Missing), ..unresolved };
    assert_eq!(uids(&list(missing, None, 9).await), ["uid-2", "uid-1"]);
    let of_first = ErrorQuery { window: Some(window(1).end()), ..missing };
    assert_eq!(uids(&list(of_first, None, 9).await), ["uid-1"]);
    let number = list(missing, None, 1).await[0].number;
    assert_eq!(uids(&list(missing, Some(number), 9).await), ["uid-1"]);

    let count = async |query| ledger.count_reasons(query).await.expect("counts");
    let counted = |reason, unresolved, resolved| ReasonCount { reason, unresolved, resolved };
    let (missing_twice, once) = (FailureReason::Missing, FailureReason::NoPermission);
    assert_eq!(count(unresolved).await, [counted(missing_twice, 2, 0), counted(once, 1, 0)]);
    assert_eq!(count(all).await, [counted(missing_twice, 2, 0), counted(once, 1, 1)]);
    assert_eq!(count(of_first).await, [counted(missing_twice, 1, 0)]);
    let theirs = bench.ledger_of("invoices", 2).await;
    assert_eq!(theirs.list_errors(all, None, 9).await.expect("a page"), []);
}
