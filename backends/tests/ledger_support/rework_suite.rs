//! Partitions that are split, and held windows that go on at an operator's word.

use backends::ledger::{HeldPass, Lease, NewPart, PartitionRecord, Stuck, WindowState, splits};
use backends::{BackendError, Ledger};
use protocol::{Digest, PartitionId, Tally};

use super::*;

/// Halves of partition `number` of [`new_window`], which has `number + 1` rows.
fn halves(number: PartitionId) -> [NewPart; 2] {
    let whole = tally(u64::from(number) + 1);
    let first = Tally { rows: whole.rows.div_ceil(2), digest: Digest(7) };
    let rest = Digest(whole.digest.0.wrapping_sub(first.digest.0));
    let second = Tally { rows: whole.rows - first.rows, digest: rest };
    [NewPart { first_row: 0, rows: first }, NewPart { first_row: first.rows, rows: second }]
}

const WHY: (&str, &str) = ("split", "a part of partition 3: it's „gone“");

pub(crate) async fn a_partition_is_superseded_by_its_parts(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ledger.add_window(&lease, &new_window(1, 5)).await.expect("a window");
    assert!(ledger.set_back(&lease, key(1, 0), 3, &setback(5)).await.expect("an answer"));
    let before = ledger.partitions(key(1, 0)).await.expect("partitions");
    let parts = halves(3);
    assert!(
        ledger.split_partition(&lease, key(1, 0), 3, &parts, WHY).await.expect("an answer"),
        "it is split"
    );

    let after = ledger.partitions(key(1, 0)).await.expect("partitions");
    let numbers: Vec<_> = after.iter().map(|partition| partition.partition).collect();
    assert_eq!(numbers, [0, 1, 2, 4, 5, 6]);
    let expected = parts.iter().zip(5..).map(|(part, partition)| PartitionRecord {
        partition,
        first_row: Some(part.first_row),
        rows: part.rows,
        setbacks: 0,
        attempts: 0,
        interruptions: 0,
        not_before: None,
        trouble: Some((WHY.0.to_owned(), WHY.1.to_owned())),
        first_look: None,
        under_way_by: None,
        ..before[3].clone()
    });
    assert_eq!(after[4..], expected.collect::<Vec<_>>());
    assert_eq!(after[..4], [&before[..3], &before[4..]].concat());
    assert_eq!(after[5].range().map(|range| (range.first, range.rows)), Some((2, 2)));

    // What is superseded takes no receipt and no setback, and is not split again.
    assert!(!ledger.accept(&lease, key(1, 0), 3, &receipt(1, 3)).await.expect("an answer"));
    assert!(!ledger.set_back(&lease, key(1, 0), 3, &setback(6)).await.expect("an answer"));
    assert!(
        !ledger.split_partition(&lease, key(1, 0), 3, &parts, WHY).await.expect("an answer"),
        "it is gone"
    );
    for partition in [0, 1, 2, 4, 5, 6] {
        accept(&*ledger, &lease, key(1, 0), partition).await;
    }
    assert!(
        !ledger.split_partition(&lease, key(1, 0), 5, &parts, WHY).await.expect("an answer"),
        "it has a receipt"
    );
    ledger.commit_window(&lease, &commit(1, &lease)).await.expect("it is committed");
    let again = ledger.split_partition(&lease, key(1, 0), 5, &parts, WHY).await;
    assert_conflict(again, "is committed");
}

pub(crate) async fn what_is_not_exactly_the_partition_does_not_supersede_it(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ledger.add_window(&lease, &new_window(1, 5)).await.expect("a window");
    let before = Snapshot::of(&*ledger).await;
    let others: [fn(&mut [NewPart; 2]); 6] = [
        |parts| parts[0].rows.rows -= 1,
        |parts| parts[1].rows.digest.0 ^= 1,
        |parts| parts[0].first_row = 1,
        |parts| parts[1].first_row += 1,
        |parts| parts.reverse(),
        |parts| {
            parts[1] = NewPart { first_row: 4, rows: parts[0].rows + parts[1].rows };
            parts[0] = NewPart { first_row: 4, rows: Tally::default() };
        },
    ];
    for other in others {
        let mut parts = halves(3);
        other(&mut parts);
        let refused = ledger.split_partition(&lease, key(1, 0), 3, &parts, WHY).await;
        let error = refused.expect_err("it is refused");
        assert!(matches!(error, BackendError::Invalid { .. }), "{error:?}");
    }
    let stale = Lease { epoch: lease.epoch + 1, ..lease };
    let refused = ledger.split_partition(&stale, key(1, 0), 3, &halves(3), WHY).await;
    assert_conflict(refused, "no longer ours");
    assert_eq!(Snapshot::of(&*ledger).await, before);
}

pub(crate) async fn numbers_are_never_used_twice(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ledger.add_window(&lease, &new_window(1, 8)).await.expect("a window");
    // Always the last one: its number is free afterwards, and must not come again.
    for last in [7, 9, 11] {
        let partitions = ledger.partitions(key(1, 0)).await.expect("partitions");
        let whole = partitions.last().expect("the last one");
        assert_eq!(whole.partition, last);
        let first_row = whole.first_row.unwrap_or(0);
        let one = Tally { rows: 1, digest: Digest(1) };
        let rest = Digest(whole.rows.digest.0.wrapping_sub(1));
        let rest = Tally { rows: whole.rows.rows - 1, digest: rest };
        let parts =
            [NewPart { first_row, rows: one }, NewPart { first_row: first_row + 1, rows: rest }];
        let split = ledger.split_partition(&lease, key(1, 0), last, &parts, WHY).await;
        assert!(split.expect("an answer"));
    }
    let partitions = ledger.partitions(key(1, 0)).await.expect("partitions");
    let numbers: Vec<_> = partitions.iter().map(|partition| partition.partition).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 13]);
}

/// The window that ends `day` days after the start: held, with failed rows in two of its three
/// partitions.
async fn hold(ledger: &dyn Ledger, lease: &Lease, day: i64) {
    ledger.add_window(lease, &new_window(day, 3)).await.expect("a window");
    for partition in 0..3 {
        assert!(ledger.set_back(lease, key(day, 0), partition, &setback(1)).await.expect("it is"));
        let mut accepted = receipt(day, partition);
        accepted.files_failed = u64::from(partition);
        assert!(ledger.accept(lease, key(day, 0), partition, &accepted).await.expect("it is"));
    }
    ledger.set_window_state(lease, key(day, 0), WindowState::Held).await.expect("it is held");
}

pub(crate) async fn a_held_window_is_released_with_what_failed(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    hold(&*ledger, &lease, 1).await;
    let before = ledger.partitions(key(1, 0)).await.expect("partitions");
    let released = ledger.release_window(key(1, 0), &audit("release")).await.expect("it is");
    let expected = HeldPass { window: key(1, 0), rows: 6, files_failed: 3, partitions: 2 };
    assert_eq!(released, expected);
    let open = ledger.open_windows().await.expect("windows");
    assert_eq!((open[0].state, open[0].released), (WindowState::Open, Some(3)));
    assert_eq!(ledger.partitions(key(1, 0)).await.expect("partitions"), before);
    let log = "SELECT actor || ' ' || reason FROM des_audit_log WHERE action = 'release'";
    assert_eq!(bench.text(log).await.as_deref(), Some("ada@console it's a test"));
    // A leader that does not know yet would hold it for the same failures once more.
    let hold = ledger.set_window_state(&lease, key(1, 0), WindowState::Held).await;
    assert_conflict(hold, "was let go by an operator");
    ledger.commit_window(&lease, &commit(1, &lease)).await.expect("whoever leads commits it");
}

pub(crate) async fn a_held_window_is_tried_again(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    hold(&*ledger, &lease, 1).await;
    let before = ledger.partitions(key(1, 0)).await.expect("partitions");
    ledger.retry_window(key(1, 0), &audit("retry")).await.expect("it is");
    let open = ledger.open_windows().await.expect("windows");
    assert_eq!((open[0].state, open[0].released), (WindowState::Open, None));
    assert_eq!(open[0].splits_before, 0);
    let after = ledger.partitions(key(1, 0)).await.expect("partitions");
    assert_eq!(after[0], before[0], "what has no failed rows stays accepted");
    for (after, before) in after.iter().zip(&before).skip(1) {
        let expected = PartitionRecord {
            setbacks: before.setbacks + 1,
            attempts: 0,
            interruptions: 0,
            not_before: None,
            trouble: None,
            first_look: None,
            under_way_by: None,
            accepted: None,
            ..before.clone()
        };
        assert_eq!(*after, expected);
    }
    assert_conflict(ledger.commit_window(&lease, &commit(1, &lease)).await, "partition 1 ");
    let log = "SELECT CAST(count(*) AS text) FROM des_audit_log WHERE action = 'retry'";
    assert_eq!(bench.text(log).await.as_deref(), Some("1"));
}

pub(crate) async fn only_a_held_window_is_released_or_tried_again(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    ready(&*ledger, &lease, 2, 2).await;
    hold(&*ledger, &lease, 3).await;
    ledger.release_window(key(3, 0), &audit("release")).await.expect("it is");
    let before = Snapshot::of(&*ledger).await;
    for (day, state) in [(1, "committed"), (2, "open"), (3, "open"), (4, "not in the ledger")] {
        let told = format!("is {state}, not held");
        assert_conflict(ledger.release_window(key(day, 0), &audit("release")).await, &told);
        assert_conflict(ledger.retry_window(key(day, 0), &audit("retry")).await, &told);
    }
    assert_eq!(Snapshot::of(&*ledger).await, before);
    let log = "SELECT CAST(count(*) AS text) FROM des_audit_log WHERE action <> 'init'";
    assert_eq!(bench.text(log).await.as_deref(), Some("1"));
}

pub(crate) async fn a_window_that_is_tried_again_may_be_split_anew(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ledger.add_window(&lease, &new_window(1, 4)).await.expect("a window");
    assert!(ledger.split_partition(&lease, key(1, 0), 3, &halves(3), WHY).await.expect("it is"));
    let partitions = ledger.partitions(key(1, 0)).await.expect("partitions");
    assert_eq!(splits(&partitions), 1);
    for partition in partitions {
        let mut accepted = receipt(1, partition.partition);
        accepted.files_failed = 1;
        let accepted = ledger.accept(&lease, key(1, 0), partition.partition, &accepted).await;
        assert!(accepted.expect("an answer"));
    }
    ledger.set_window_state(&lease, key(1, 0), WindowState::Held).await.expect("it is held");
    ledger.retry_window(key(1, 0), &audit("retry")).await.expect("it is");
    let open = ledger.open_windows().await.expect("windows");
    assert_eq!(open[0].splits_before, 1);
}

pub(crate) async fn an_open_window_is_planned_again(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    ready(&*ledger, &lease, 2, 4).await;
    ledger.add_window(&lease, &new_window(3, 2)).await.expect("a window");
    let other = ledger.partitions(key(3, 0)).await.expect("partitions");
    let mut new = new_window(2, 3);
    new.partitions[0].manifest = new.partitions[1].manifest.clone();
    ledger.plan_again(&lease, &new).await.expect("it is open");
    ledger.plan_again(&lease, &new).await.expect("again");
    let partitions = ledger.partitions(key(2, 0)).await.expect("partitions");
    let manifests = partitions.iter().map(|partition| &partition.manifest);
    assert!(manifests.eq(new.partitions.iter().map(|partition| &partition.manifest)));
    assert!(partitions.iter().all(|it| it.accepted.is_none() && it.setbacks == 0));
    assert_eq!(ledger.partitions(key(3, 0)).await.expect("partitions"), other);

    let before = Snapshot::of(&*ledger).await;
    assert_conflict(ledger.plan_again(&lease, &new_window(1, 1)).await, "is committed");
    let unknown = ledger.plan_again(&lease, &new_window(4, 1)).await.expect_err("there is none");
    assert!(unknown.is_not_found(), "{unknown:?}");
    let stale = Lease { epoch: lease.epoch + 1, ..lease };
    assert_conflict(ledger.plan_again(&stale, &new).await, "no longer ours");
    assert_eq!(Snapshot::of(&*ledger).await, before);
}

pub(crate) async fn what_a_partition_waits_for_is_remembered(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ledger.add_window(&lease, &new_window(1, 3)).await.expect("a window");
    accept(&*ledger, &lease, key(1, 0), 0).await;
    let note = ("reading", "it's a file");
    for partition in [0, 1, 9] {
        let noted = ledger.note_trouble(&lease, key(1, 0), partition, note).await;
        noted.expect("it is no error, whatever became of the partition");
    }
    let all: Vec<_> = (0..3).map(|partition| (key(1, 0), partition)).collect();
    ledger.note_under_way(&lease, &all).await.expect("it is noted");
    let partitions = ledger.partitions(key(1, 0)).await.expect("partitions");
    let troubles: Vec<_> = partitions.iter().map(|it| it.trouble.is_some()).collect();
    assert_eq!(troubles, [false, true, false]);
    assert_eq!((partitions[1].setbacks, partitions[1].not_before), (0, None));
    let by: Vec<_> = partitions.iter().map(|it| it.under_way_by.clone()).collect();
    assert_eq!(by, [None, Some(lease.holder.clone()), Some(lease.holder.clone())]);

    // A setback is its end, and so is giving up the work in good order.
    assert!(ledger.set_back(&lease, key(1, 0), 1, &setback(1)).await.expect("an answer"));
    let partitions = ledger.partitions(key(1, 0)).await.expect("partitions");
    assert_eq!((partitions[1].under_way_by.as_ref(), partitions[2].setbacks), (None, 0));
    assert_eq!(partitions[2].under_way_by, Some(lease.holder.clone()));
    ledger.clear_under_way(&lease).await.expect("it is noted");
    let partitions = ledger.partitions(key(1, 0)).await.expect("partitions");
    assert!(partitions.iter().all(|it| it.under_way_by.is_none()));

    let stale = Lease { epoch: lease.epoch + 1, ..lease };
    let noted = ledger.note_trouble(&stale, key(1, 0), 1, note).await;
    assert_conflict(noted, "no longer ours");
    assert_conflict(ledger.note_under_way(&stale, &all).await, "no longer ours");
    assert_conflict(ledger.clear_under_way(&stale).await, "no longer ours");
}

pub(crate) async fn what_the_watermark_cannot_pass_is_remembered(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    let stuck = Stuck { end: window(1).end(), reason: "it's gone".to_owned() };
    ledger.note_stuck(&lease, Some(&stuck)).await.expect("it is noted");
    assert_eq!(ledger.stuck().await.expect("an answer"), Some(stuck.clone()));
    ledger.note_stuck(&lease, None).await.expect("it is noted");
    assert_eq!(ledger.stuck().await.expect("an answer"), None);
    ledger.note_stuck(&lease, Some(&stuck)).await.expect("it is noted");
    settle(&*ledger, &lease, 1).await;
    assert_eq!(ledger.stuck().await.expect("an answer"), None, "the watermark passed it");
    let stale = Lease { epoch: lease.epoch + 1, ..lease };
    assert_conflict(ledger.note_stuck(&stale, None).await, "no longer ours");
}
