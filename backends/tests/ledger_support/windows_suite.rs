//! Windows and partitions before the commit.

use backends::BackendError;
use backends::ledger::{
    NewWindow, PartitionRecord, Purpose, WindowRecord, WindowState, WindowTotals,
};
use protocol::Tally;

use super::*;

pub(crate) async fn a_window_is_recorded_with_its_partitions(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = take(&*ledger, "first").await;
    let mut new = new_window(1, 3);
    new.replaces = vec!["20241201_7F_a.des".to_owned(), "with \"quotes\", {braces}".to_owned()];
    ledger.add_window(&lease, &new).await.expect("it is recorded");

    let found = ledger.open_windows().await.expect("windows");
    let state_since = found[0].state_since;
    assert!(state_since.is_some_and(|since| since > at("2024-12-20")), "{state_since:?}");
    let expected = WindowRecord {
        window: window(1),
        revision: 0,
        purpose: Purpose::Scan,
        state: WindowState::Open,
        rows: new.partitions.iter().map(|partition| partition.rows).sum(),
        replaces: new.replaces.clone(),
        totals: WindowTotals::default(),
        certificate: None,
        findings: None,
        released: None,
        splits_before: 0,
        state_since,
        partition_rows: Some(50_000),
    };
    assert_eq!(found, [expected]);
    let partitions = ledger.partitions(key(1, 0)).await.expect("partitions");
    let expected: Vec<PartitionRecord> = (0..)
        .zip(&new.partitions)
        .map(|(partition, new)| PartitionRecord {
            partition,
            manifest: new.manifest.clone(),
            manifest_size: new.manifest_size,
            first_row: None,
            rows: new.rows,
            setbacks: 0,
            attempts: 0,
            interruptions: 0,
            not_before: None,
            trouble: None,
            first_look: None,
            under_way_by: None,
            accepted: None,
        })
        .collect();
    assert_eq!(partitions, expected);
    assert_eq!(ledger.partitions(key(1, 1)).await.expect("an answer"), []);
}

pub(crate) async fn recording_a_window_again_changes_nothing(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ready(&*ledger, &lease, 1, 2).await;
    let before = Snapshot::of(&*ledger).await;
    ledger.add_window(&lease, &new_window(1, 2)).await.expect("the same again");

    let others: [fn(&mut NewWindow); 5] = [
        |new| new.partitions[1].manifest.push('x'),
        |new| new.partitions[0].rows.rows += 1,
        |new| new.replaces.push("x.des".to_owned()),
        |new| drop(new.partitions.pop()),
        |new| new.partitions[0].manifest_size += 1,
    ];
    for other in others {
        let mut new = new_window(1, 2);
        other(&mut new);
        assert_conflict(ledger.add_window(&lease, &new).await, "recorded already, open");
    }
    assert_eq!(Snapshot::of(&*ledger).await, before);

    ledger.commit_window(&lease, &commit(1, &lease)).await.expect("it is committed");
    let before = Snapshot::of(&*ledger).await;
    for partitions in [2, 3] {
        let again = ledger.add_window(&lease, &new_window(1, partitions)).await;
        assert_conflict(again, "recorded already, committed");
    }
    assert_eq!(Snapshot::of(&*ledger).await, before);
}

pub(crate) async fn windows_are_listed_in_order(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    for day in [3, 1, 2] {
        ledger.add_window(&lease, &new_window(day, 0)).await.expect("it is recorded");
    }
    let mut second = new_window(1, 1);
    second.revision = 1;
    ledger.add_window(&lease, &second).await.expect("it is recorded");
    let open = ledger.open_windows().await.expect("windows");
    let keys: Vec<_> = open.iter().map(WindowRecord::key).collect();
    assert_eq!(keys, [key(1, 0), key(1, 1), key(2, 0), key(3, 0)]);
    assert_eq!(open[0].rows, Tally::default());

    for day in 1..=3 {
        ledger.commit_window(&lease, &commit(day, &lease)).await.expect("it is committed");
    }
    let end = |day| Some(window(day).end());
    for (after, until, limit, expected) in [
        (None, None, 9, vec![1, 2, 3]),
        (end(1), None, 9, vec![2, 3]),
        (None, end(2), 9, vec![1, 2]),
        (end(1), end(2), 9, vec![2]),
        (None, None, 2, vec![1, 2]),
        (end(3), None, 9, vec![]),
    ] {
        let committed = ledger.committed_windows(after, until, limit).await.expect("windows");
        let ends: Vec<_> = committed.iter().map(|record| record.window).collect();
        let expected: Vec<_> = expected.into_iter().map(window).collect();
        assert_eq!(ends, expected, "{after:?} {until:?} {limit}");
    }
    let open = ledger.open_windows().await.expect("windows");
    assert_eq!(open.iter().map(WindowRecord::key).collect::<Vec<_>>(), [key(1, 1)]);
}

pub(crate) async fn a_receipt_is_accepted_once(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ledger.add_window(&lease, &new_window(1, 2)).await.expect("a window");
    assert!(ledger.accept(&lease, key(1, 0), 1, &receipt(1, 1)).await.expect("an answer"));
    let partitions = ledger.partitions(key(1, 0)).await.expect("partitions");
    assert_eq!(partitions[0].accepted, None);
    assert_eq!(partitions[1].accepted, Some(receipt(1, 1)));

    let before = Snapshot::of(&*ledger).await;
    assert!(ledger.accept(&lease, key(1, 0), 1, &receipt(1, 1)).await.expect("the same again"));
    assert!(!ledger.accept(&lease, key(1, 0), 1, &receipt(1, 0)).await.expect("another one"));
    assert!(!ledger.accept(&lease, key(1, 0), 2, &receipt(1, 2)).await.expect("no partition"));
    assert!(!ledger.accept(&lease, key(2, 0), 1, &receipt(2, 1)).await.expect("no window"));
    assert!(!ledger.set_back(&lease, key(1, 0), 1, &setback(1)).await.expect("it is accepted"));
    assert_eq!(Snapshot::of(&*ledger).await, before);
}

pub(crate) async fn a_setback_is_remembered(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ledger.add_window(&lease, &new_window(1, 2)).await.expect("a window");
    assert!(ledger.set_back(&lease, key(1, 0), 0, &setback(3)).await.expect("an answer"));
    assert!(!ledger.set_back(&lease, key(1, 0), 7, &setback(3)).await.expect("it is gone"));

    let partitions = ledger.partitions(key(1, 0)).await.expect("partitions");
    let (first, expected) = (&partitions[0], setback(3));
    assert_eq!((first.setbacks, first.attempts, first.interruptions), (5, 3, 1));
    assert_eq!(first.first_look, expected.first_look);
    assert_eq!(first.not_before, expected.not_before);
    assert_eq!(first.trouble, Some((expected.class, expected.detail)));
    assert_eq!(partitions[1].trouble, None);

    let mut later = setback(4);
    later.not_before = None;
    later.first_look = None;
    assert!(ledger.set_back(&lease, key(1, 0), 0, &later).await.expect("an answer"));
    let partitions = ledger.partitions(key(1, 0)).await.expect("partitions");
    assert_eq!((partitions[0].attempts, partitions[0].not_before), (4, None));
    assert_eq!(partitions[0].first_look, None);
}

pub(crate) async fn an_accepted_partition_can_be_reopened(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ready(&*ledger, &lease, 1, 2).await;
    ledger.reopen(&lease, key(1, 0), 1, &setback(2)).await.expect("it is reopened");
    let partitions = ledger.partitions(key(1, 0)).await.expect("partitions");
    assert_eq!(partitions[0].accepted, Some(receipt(1, 0)));
    assert_eq!((&partitions[1].accepted, partitions[1].attempts), (&None, 2));
    assert!(ledger.accept(&lease, key(1, 0), 1, &receipt(1, 0)).await.expect("another receipt"));

    ledger.commit_window(&lease, &commit(1, &lease)).await.expect("it is committed");
    let before = Snapshot::of(&*ledger).await;
    assert_conflict(ledger.reopen(&lease, key(1, 0), 1, &setback(2)).await, "is committed");
    let missing = ledger.reopen(&lease, key(9, 0), 1, &setback(2)).await;
    assert!(missing.expect_err("there is no such window").is_not_found());
    assert_eq!(Snapshot::of(&*ledger).await, before);
}

pub(crate) async fn a_window_is_held_and_let_go(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ready(&*ledger, &lease, 1, 1).await;
    for state in [WindowState::Held, WindowState::Held, WindowState::Open] {
        ledger.set_window_state(&lease, key(1, 0), state).await.expect("it changes");
        assert_eq!(ledger.open_windows().await.expect("windows")[0].state, state);
    }
    for state in [WindowState::Committed, WindowState::Requested] {
        let refused = ledger.set_window_state(&lease, key(1, 0), state).await;
        let error = refused.expect_err("not by this call");
        assert!(matches!(error, BackendError::Invalid { .. }), "{error:?}");
    }
    ledger.commit_window(&lease, &commit(1, &lease)).await.expect("it is committed");
    let refused = ledger.set_window_state(&lease, key(1, 0), WindowState::Open).await;
    assert_conflict(refused, "is committed");
    let missing = ledger.set_window_state(&lease, key(2, 0), WindowState::Open).await;
    assert!(missing.expect_err("there is no such window").is_not_found());
}

pub(crate) async fn a_window_may_have_very_many_partitions(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    let new = new_window(1, 1_203);
    ledger.add_window(&lease, &new).await.expect("it is recorded");
    let partitions = ledger.partitions(key(1, 0)).await.expect("partitions");
    assert_eq!(partitions.len(), 1_203);
    for (partition, new) in partitions.iter().zip(&new.partitions) {
        assert_eq!((&partition.manifest, partition.rows), (&new.manifest, new.rows));
    }
}

pub(crate) async fn jobs_do_not_see_each_other(bench: &dyn Bench) {
    let files = bench.migrated().await;
    let invoices = bench.ledger_of("invoices", 2).await;
    let lease = begin(&*files).await;
    settle(&*files, &lease, 1).await;
    ready(&*files, &lease, 2, 1).await;

    assert_eq!(invoices.archive().await.expect("an answer"), None);
    assert_eq!(invoices.watermark().await.expect("an answer"), None);
    assert_eq!(invoices.lease_status().await.expect("an answer"), None);
    assert_eq!(invoices.open_windows().await.expect("an answer"), []);
    assert_eq!(invoices.committed_windows(None, None, 9).await.expect("an answer"), []);
    assert_eq!(invoices.partitions(key(1, 0)).await.expect("an answer"), []);
    assert_eq!(invoices.count_errors().await.expect("an answer"), 0);
    assert_eq!(invoices.errors(9).await.expect("an answer"), []);

    let before = Snapshot::of(&*files).await;
    register(&*invoices, "a-2").await.expect("it has a row of its own");
    let theirs = take(&*invoices, "first").await;
    settle(&*invoices, &theirs, 1).await;
    assert_eq!(Snapshot::of(&*files).await, before);
}
