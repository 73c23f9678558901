//! The commit: all of it or nothing, once, by the right one.

use backends::ledger::{ErrorRow, Purpose, WindowCommit, WindowState};
use futures::future::join;
use protocol::FailureReason;

use super::*;

pub(crate) async fn a_commit_makes_everything_true_at_once(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ready(&*ledger, &lease, 1, 3).await;
    let commit = commit(1, &lease);
    ledger.commit_window(&lease, &commit).await.expect("it is committed");

    assert_eq!(watermark(&*ledger).await, window(1).end());
    let archive = ledger.archive().await.expect("an answer").expect("an archive");
    assert_eq!((archive.settled_until, archive.origin), (window(1).end(), at(START)));
    assert_eq!(ledger.open_windows().await.expect("windows"), []);
    let committed = ledger.committed_windows(None, None, 9).await.expect("windows");
    assert_eq!(committed.len(), 1);
    assert_eq!(committed[0].state, WindowState::Committed);
    assert_eq!(committed[0].certificate, commit.certificate);
    assert_eq!(committed[0].totals, commit.totals);
    let failed = commit.failures[0].clone();
    let errors = ledger.errors(9).await.expect("errors");
    assert_eq!(errors, [ErrorRow { failed, window: key(1, 0), resolved_at: None }]);
    let partitions = ledger.partitions(key(1, 0)).await.expect("partitions");
    assert_eq!(partitions.len(), 3, "they are kept");
    assert_eq!(partitions[2].accepted, Some(receipt(1, 2)));
}

pub(crate) async fn committing_again_changes_nothing(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    settle(&*ledger, &lease, 2).await;
    let before = Snapshot::of(&*ledger).await;
    ledger.commit_window(&lease, &commit(1, &lease)).await.expect("the same certificate");

    let mut other = commit(1, &lease);
    other.certificate = Some(certificate(1, 0, 99));
    assert_conflict(ledger.commit_window(&lease, &other).await, "another certificate");
    other.certificate = None;
    assert_conflict(ledger.commit_window(&lease, &other).await, "another certificate");
    assert_eq!(Snapshot::of(&*ledger).await, before);
}

pub(crate) async fn a_watermark_moved_by_hand_stops_the_commit(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ready(&*ledger, &lease, 1, 1).await;
    for (sql, words) in [
        ("UPDATE des_archive_config SET archived_until = '2024-11-30T00:00:00Z'", "2024-11-30"),
        ("UPDATE des_archive_config SET archived_until = '2024-12-02T00:00:00Z'", "2024-12-02"),
        ("DELETE FROM des_archive_config", "has no row"),
    ] {
        bench.sql(sql).await;
        let before = Snapshot::of(&*ledger).await;
        assert_conflict(ledger.commit_window(&lease, &commit(1, &lease)).await, words);
        assert_eq!(Snapshot::of(&*ledger).await, before);
    }
    let restore = "INSERT INTO des_archive_config VALUES (1, '2024-12-01T00:00:00Z', 7)";
    bench.sql(restore).await;
    ledger.commit_window(&lease, &commit(1, &lease)).await.expect("it is where we left it");
}

pub(crate) async fn a_settled_until_elsewhere_stops_the_commit(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    ready(&*ledger, &lease, 2, 1).await;
    bench.sql("UPDATE des_archive_config SET archived_until = '2024-12-01T00:00:00Z'").await;
    let before = Snapshot::of(&*ledger).await;
    // The watermark is where this commit wants it, but we never left it there.
    let mut from_before = commit(2, &lease);
    from_before.advance_from = Some(at(START));
    let outcome = ledger.commit_window(&lease, &from_before).await;
    assert_conflict(outcome, "settled until 2024-12-02T00:00:00Z");
    assert_eq!(Snapshot::of(&*ledger).await, before);
}

pub(crate) async fn what_was_not_accepted_is_not_committed(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ledger.add_window(&lease, &new_window(1, 2)).await.expect("a window");
    assert!(ledger.accept(&lease, key(1, 0), 0, &receipt(1, 0)).await.expect("an answer"));
    let before = Snapshot::of(&*ledger).await;
    let error = ledger.commit_window(&lease, &commit(1, &lease)).await.expect_err("refused");
    assert!(error.is_conflict(), "{error:?}");
    assert!(error.to_string().contains("partition 1 "), "{error}");
    let unknown = ledger.commit_window(&lease, &commit(2, &lease)).await;
    assert!(unknown.expect_err("it has no manifests").is_not_found());
    assert_eq!(Snapshot::of(&*ledger).await, before);
}

pub(crate) async fn a_commit_that_fails_midway_changes_nothing(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ready(&*ledger, &lease, 1, 1).await;
    let before = Snapshot::of(&*ledger).await;
    bench.sql("ALTER TABLE des_migration_errors RENAME TO hidden").await;
    let outcome = ledger.commit_window(&lease, &commit(1, &lease)).await;
    assert!(outcome.expect_err("error rows have no place").is_not_found());
    bench.sql("ALTER TABLE hidden RENAME TO des_migration_errors").await;
    assert_eq!(Snapshot::of(&*ledger).await, before);
    ledger.commit_window(&lease, &commit(1, &lease)).await.expect("now they have");
}

pub(crate) async fn of_two_coordinators_one_commits(bench: &dyn Bench) {
    let (one, two) = (bench.migrated().await, bench.ledger().await);
    let lease = begin(&*one).await;
    for day in 1..=6 {
        ready(&*one, &lease, day, 1).await;
        let mut other = commit(day, &lease);
        other.certificate = Some(certificate(day, 0, 99));
        let first = commit(day, &lease);
        let outcomes = match day % 2 {
            0 => join(one.commit_window(&lease, &first), two.commit_window(&lease, &other)).await,
            _ => join(two.commit_window(&lease, &first), one.commit_window(&lease, &other)).await,
        };
        let winner = match outcomes {
            (Ok(()), Err(error)) if error.is_conflict() => first.certificate,
            (Err(error), Ok(())) if error.is_conflict() => other.certificate,
            outcomes => panic!("exactly one commits: {outcomes:?}"),
        };
        let committed = one.committed_windows(Some(window(day).start()), None, 9).await;
        assert_eq!(committed.expect("windows")[0].certificate, winner);
        assert_eq!(watermark(&*one).await, window(day).end());
        assert_eq!(one.count_errors().await.expect("a count"), u64::try_from(day).expect("days"));
    }
}

pub(crate) async fn a_successor_and_its_predecessor_do_not_both_commit(bench: &dyn Bench) {
    let (one, two) = (bench.migrated().await, bench.ledger().await);
    begin(&*one).await;
    for day in 1..=4 {
        let held = one.lease_status().await.expect("a status").expect("a holder");
        let lease =
            backends::ledger::Lease { holder: held.holder.expect("a holder"), epoch: held.epoch };
        ready(&*one, &lease, day, 1).await;
        // The old one's lease ends while it is about to commit.
        assert!(one.renew_lease(&lease, std::time::Duration::ZERO).await.expect("an answer"));
        let old = commit(day, &lease);
        let (committed, taken) =
            join(one.commit_window(&lease, &old), two.acquire_lease(&worker("next"), TTL)).await;
        let next = taken.expect("an answer").expect("it has expired");
        match committed {
            Ok(()) => assert_eq!(watermark(&*two).await, window(day).end()),
            Err(error) => {
                assert!(error.is_conflict(), "{error:?}");
                assert_eq!(watermark(&*two).await, window(day).start());
                two.commit_window(&next, &commit(day, &next)).await.expect("the new one may");
            }
        }
        assert_conflict(one.commit_window(&lease, &old).await, "no longer ours");
    }
}

pub(crate) async fn a_later_revision_leaves_the_watermark(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    settle(&*ledger, &lease, 2).await;
    let revision = pass_again(&*ledger, &lease, 1, 1, Vec::new()).await;
    assert_eq!(watermark(&*ledger).await, window(2).end());
    let archive = ledger.archive().await.expect("an answer").expect("an archive");
    assert_eq!(archive.settled_until, window(2).end());
    let committed = ledger.committed_windows(None, None, 9).await.expect("windows");
    let keys: Vec<_> = committed.iter().map(|record| record.key()).collect();
    assert_eq!(keys, [key(1, 0), key(1, 1), key(2, 0)]);
    assert_eq!(committed[1].certificate, revision.certificate);
}

pub(crate) async fn a_pass_with_nothing_to_do_leaves_no_record(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    let before = Snapshot::of(&*ledger).await;
    let nothing = WindowCommit {
        revision: 1,
        certificate: None,
        failures: Vec::new(),
        advance_from: None,
        ..commit(1, &lease)
    };

    ledger
        .request_pass(window(1).end(), Purpose::Replay, Some(&audit("replay")))
        .await
        .expect("it is requested");
    ledger.commit_window(&lease, &nothing).await.expect("a request");
    assert_eq!(Snapshot::of(&*ledger).await, before);
    ledger.commit_window(&lease, &nothing).await.expect("once more");

    let mut planned = new_window(1, 2);
    planned.revision = 1;
    ledger.add_window(&lease, &planned).await.expect("it is planned");
    ledger.commit_window(&lease, &nothing).await.expect("a plan");
    assert_eq!(ledger.partitions(key(1, 1)).await.expect("partitions"), []);
    assert_eq!(Snapshot::of(&*ledger).await, before);
}

/// Records and commits a later pass over a window, with one partition.
async fn pass_again(
    ledger: &dyn backends::Ledger,
    lease: &backends::ledger::Lease,
    day: i64,
    revision: u16,
    failures: Vec<protocol::FailedRow>,
) -> WindowCommit {
    let mut planned = new_window(day, 1);
    planned.revision = revision;
    ledger.add_window(lease, &planned).await.expect("it is planned");
    let place = key(day, revision);
    assert!(ledger.accept(lease, place, 0, &receipt(day, 0)).await.expect("an answer"));
    let commit = WindowCommit {
        revision,
        certificate: Some(certificate(day, revision, lease.epoch)),
        failures,
        advance_from: None,
        ..commit(day, lease)
    };
    ledger.commit_window(lease, &commit).await.expect("it is committed");
    commit
}

pub(crate) async fn error_rows_are_kept_until_a_later_pass_settles_them(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    ready(&*ledger, &lease, 2, 1).await;
    let mut second = commit(2, &lease);
    second.failures = vec![
        failed("uid-2", FailureReason::Missing),
        failed("uid-3", FailureReason::NoPermission),
        failed("uid-3", FailureReason::NoPermission),
        failed("uid-4", FailureReason::NoLocation),
    ];
    second.failures[3].location = None;
    ledger.commit_window(&lease, &second).await.expect("it is committed");
    assert_eq!(ledger.count_errors().await.expect("a count"), 5);

    // uid-2 is archived by the second pass; uid-3 (there twice) and uid-4 fail again.
    let again = vec![
        failed("uid-3", FailureReason::SizeMismatch),
        failed("uid-3", FailureReason::SizeMismatch),
        second.failures[3].clone(),
    ];
    pass_again(&*ledger, &lease, 2, 1, again.clone()).await;
    let errors = ledger.errors(9).await.expect("errors");
    let mut expected = vec![(failed("uid-1", FailureReason::Missing), key(1, 0))];
    expected.extend(again.into_iter().map(|failed| (failed, key(2, 1))));
    let found: Vec<_> = errors.into_iter().map(|row| (row.failed, row.window)).collect();
    assert_eq!(found, expected);
    assert_eq!(ledger.count_errors().await.expect("a count"), 4);
    let by_reason = ledger.errors_by_reason().await.expect("counts");
    let by_reason: Vec<_> = by_reason.iter().map(|(reason, files)| (&**reason, *files)).collect();
    assert_eq!(by_reason, [("size_mismatch", 2), ("missing", 1), ("no_location", 1)]);
    let resolved = "SELECT uid FROM des_migration_errors WHERE resolved_at IS NOT NULL";
    assert_eq!(bench.text(resolved).await, Some("uid-2".to_owned()));

    pass_again(&*ledger, &lease, 2, 2, Vec::new()).await;
    assert_eq!(ledger.count_errors().await.expect("a count"), 1);
    assert_eq!(ledger.errors(9).await.expect("errors")[0].window, key(1, 0));
}

pub(crate) async fn many_error_rows_are_recorded_in_order(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ready(&*ledger, &lease, 1, 1).await;
    let mut commit = commit(1, &lease);
    commit.failures = (0..20_001)
        .map(|number| failed(&format!("uid-{number:05}"), FailureReason::Missing))
        .collect();
    ledger.commit_window(&lease, &commit).await.expect("it is committed");
    assert_eq!(ledger.count_errors().await.expect("a count"), 20_001);
    let listed = ledger.errors(700).await.expect("errors");
    let listed: Vec<_> = listed.into_iter().map(|row| row.failed).collect();
    assert_eq!(listed, commit.failures[..700]);

    pass_again(&*ledger, &lease, 1, 1, commit.failures.split_off(1)).await;
    assert_eq!(ledger.count_errors().await.expect("a count"), 20_000);
}

pub(crate) async fn every_reason_and_odd_text_reads_back(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ready(&*ledger, &lease, 1, 1).await;
    let mut commit = commit(1, &lease);
    commit.failures = [
        FailureReason::Missing,
        FailureReason::NoPermission,
        FailureReason::IsDirectory,
        FailureReason::NotRegular,
        FailureReason::OutsideRoots,
        FailureReason::InvalidLocation,
        FailureReason::SizeMismatch,
        FailureReason::Changed,
        FailureReason::NoLocation,
        FailureReason::LocationTooLong,
        FailureReason::UidTooLong,
        FailureReason::TooManyParts,
        FailureReason::Unreadable,
        FailureReason::GaveUp,
    ]
    .map(|reason| failed(&format!("Zażółć 'gęślą' \"jaźń\" $1 {reason} 🗄"), reason))
    .to_vec();
    commit.failures[0].uid = "u".repeat(65_535);
    commit.failures[1].created_at = at("0001-01-01T00:00:00.000001Z");
    commit.failures[2].created_at = at("9999-12-31T23:59:59.999999Z");
    commit.failures[3].created_at = at("1969-12-31T23:59:59.999999Z");
    ledger.commit_window(&lease, &commit).await.expect("it is committed");
    let errors = ledger.errors(99).await.expect("errors");
    let errors: Vec<_> = errors.into_iter().map(|row| row.failed).collect();
    assert_eq!(errors, commit.failures);

    // PostgreSQL cannot hold NUL; a commit must not hang on such a row for ever.
    ready(&*ledger, &lease, 2, 1).await;
    let mut second = self::commit(2, &lease);
    second.failures = vec![failed("with\0nul", FailureReason::InvalidLocation)];
    ledger.commit_window(&lease, &second).await.expect("it is committed");
    assert_eq!(ledger.count_errors().await.expect("a count"), 15);
}
