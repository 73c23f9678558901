//! Making, adopting and registering; what is there before anything is.

use backends::BackendError;
use backends::ledger::{ArchiveRecord, WatermarkRow};
use futures::future::{join, join_all};
use protocol::NBits;

use super::*;

pub(crate) async fn an_empty_database_becomes_a_ledger(bench: &dyn Bench) {
    let ledger = bench.ledger().await;
    let pending = ledger.pending_migrations().await.expect("an answer");
    assert_eq!(pending[..3], ["0001 ledger", "0002 split", "0003 revisions"]);
    assert_eq!(ledger.watermark().await.expect("an answer"), None);
    assert_eq!(ledger.archive().await.expect("an answer"), None);
    ledger.now().await.expect("the time needs no table");
    assert_eq!(ledger.missing_privileges().await.expect("an answer"), Vec::<String>::new());
    let missing = ledger.open_windows().await.expect_err("there is no table");
    assert!(missing.is_not_found(), "{missing:?}");

    ledger.migrate().await.expect("the tables are made");
    assert_eq!(ledger.pending_migrations().await.expect("an answer"), Vec::<String>::new());
    assert_eq!(ledger.watermark().await.expect("an answer"), None);
    assert_eq!(ledger.archive().await.expect("an answer"), None);
    begin(&*ledger).await;
    assert_eq!(ledger.missing_privileges().await.expect("an answer"), Vec::<String>::new());
    let before = Snapshot::of(&*ledger).await;
    ledger.migrate().await.expect("again");
    assert_eq!(Snapshot::of(&*ledger).await, before);
    let other = "SELECT CAST(count(*) AS text) FROM _des_migrations";
    assert_eq!(bench.text(other).await, Some(pending.len().to_string()));
}

pub(crate) async fn many_may_migrate_at_once(bench: &dyn Bench) {
    let ledgers = join_all((0..5).map(|_| bench.ledger())).await;
    for outcome in join_all(ledgers.iter().map(|ledger| ledger.migrate())).await {
        outcome.expect("each finds or makes the tables");
    }
    begin(&*ledgers[0]).await;
}

pub(crate) async fn the_printed_sql_leaves_nothing_pending(bench: &dyn Bench) {
    let ledger = bench.ledger().await;
    bench.sql(&bench.script()).await;
    assert_eq!(ledger.pending_migrations().await.expect("an answer"), Vec::<String>::new());
    ledger.migrate().await.expect("there is nothing to do");
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    // Again: either it does nothing, or it is refused as a whole, since SQLite cannot add a column
    // "if it is not there".
    if let Err(refused) = bench.try_sql(&bench.script()).await {
        assert!(refused.to_string().contains("duplicate column name"), "{refused}");
    }
    assert_eq!(watermark(&*ledger).await, window(1).end());
    assert_eq!(ledger.pending_migrations().await.expect("an answer"), Vec::<String>::new());
}

pub(crate) async fn tables_of_another_release_are_refused(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    bench
        .sql(
            "INSERT INTO _des_migrations (version, description, success, checksum, \
               execution_time) SELECT 9999, 'from the future', success, checksum, 0 \
               FROM _des_migrations WHERE version = 1",
        )
        .await;
    for outcome in [ledger.migrate().await, ledger.pending_migrations().await.map(drop)] {
        let error = outcome.expect_err("it is refused");
        assert!(matches!(&error, BackendError::Invalid { .. }), "{error:?}");
        assert!(error.to_string().contains("9999"), "{error}");
    }
}

/// Adopts a watermark's table that the user made, and moves the watermark in it.
pub(crate) async fn adopts(bench: &dyn Bench, seed: &str, expected: &str) {
    bench.sql(seed).await;
    let ledger = bench.ledger().await;
    let row = WatermarkRow { archived_until: at(expected), lag_days: 14 };
    assert_eq!(ledger.watermark().await.expect("an answer"), Some(row), "{seed}");
    ledger.migrate().await.expect("it is adopted");
    assert_eq!(ledger.watermark().await.expect("an answer"), Some(row), "{seed}");

    let record = ArchiveRecord {
        origin: at(expected),
        settled_until: at(expected),
        ..archive_record("a-1")
    };
    let elsewhere = WatermarkRow { archived_until: at("2024-10-01"), lag_days: 7 };
    let refused = ledger.register(&record, elsewhere, &audit("init")).await;
    assert_conflict(refused, expected);
    assert_eq!(ledger.archive().await.expect("an answer"), None);
    let same = WatermarkRow { archived_until: at(expected), lag_days: 7 };
    ledger.register(&record, same, &audit("init")).await.expect("it is where we want it");
    assert_eq!(ledger.watermark().await.expect("an answer"), Some(row), "its lag rules");

    let lease = take(&*ledger, "first").await;
    ready(&*ledger, &lease, 1, 1).await;
    let mut commit = commit(1, &lease);
    commit.advance_from = Some(at(expected));
    ledger.commit_window(&lease, &commit).await.expect("it is committed");
    assert_eq!(watermark(&*ledger).await, window(1).end(), "{seed}");
}

pub(crate) async fn an_archive_is_registered_once(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let record = archive_record("a-1");
    for _ in 0..2 {
        let registered = ledger.register(&record, watermark_row(), &audit("init")).await;
        registered.expect("the same again");
        assert_eq!(ledger.archive().await.expect("an answer").as_ref(), Some(&record));
        assert_eq!(ledger.watermark().await.expect("an answer"), Some(watermark_row()));
    }
    let log = "SELECT CAST(count(*) AS text) FROM des_audit_log WHERE action = 'init'";
    assert_eq!(bench.text(log).await, Some("1".to_owned()));

    let before = Snapshot::of(&*ledger).await;
    let bits = NBits::new(6).expect("6 bits");
    for other in [
        archive_record("a-2"),
        ArchiveRecord { n_bits: bits, ..record.clone() },
        ArchiveRecord { origin: at("2024-11-01"), ..record.clone() },
    ] {
        let refused = ledger.register(&other, watermark_row(), &audit("init")).await;
        assert_conflict(refused, "archive `a-1`");
    }
    let second_job = bench.ledger_of("invoices", 1).await;
    assert_conflict(register(&*second_job, "a-3").await, "another job uses");
    assert_eq!(second_job.archive().await.expect("an answer"), None);
    assert_eq!(Snapshot::of(&*ledger).await, before);
}

pub(crate) async fn of_two_archives_one_is_registered(bench: &dyn Bench) {
    bench.migrated().await;
    for round in 1..=4 {
        let name = format!("job-{round}");
        let (one, two) = join(bench.ledger_of(&name, round), bench.ledger_of(&name, round)).await;
        let (first, second) = (archive_record("a-1"), archive_record("a-2"));
        let (init, row) = (audit("init"), watermark_row());
        let outcomes =
            join(one.register(&first, row, &init), two.register(&second, row, &init)).await;
        let winner = match outcomes {
            (Ok(()), Err(error)) if error.is_conflict() => first,
            (Err(error), Ok(())) if error.is_conflict() => second,
            outcomes => panic!("exactly one is registered: {outcomes:?}"),
        };
        assert_eq!(one.archive().await.expect("an answer"), Some(winner));

        let third = bench.ledger_of(&format!("again-{round}"), 100 + round).await;
        let fourth = bench.ledger_of(&format!("again-{round}"), 100 + round).await;
        let record = archive_record("a-1");
        let outcomes =
            join(third.register(&record, row, &init), fourth.register(&record, row, &init)).await;
        assert!(matches!(outcomes, (Ok(()), Ok(()))), "the same twice: {outcomes:?}");
    }
}

pub(crate) async fn times_are_exact_to_the_microsecond(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    for (config, time) in (1..).zip([
        "2024-12-01T00:00:00.123456Z",
        "2024-12-01T00:00:00.000001Z",
        "1969-12-31T23:59:59.999999Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
    ]) {
        let ledger = bench.ledger_of(&format!("job-{config}"), config).await;
        let record =
            ArchiveRecord { origin: at(time), settled_until: at(time), ..archive_record("a-1") };
        let row = WatermarkRow { archived_until: at(time), lag_days: 7 };
        ledger.register(&record, row, &audit("init")).await.expect("it is registered");
        assert_eq!(ledger.archive().await.expect("an answer"), Some(record), "{time}");
        assert_eq!(ledger.watermark().await.expect("an answer"), Some(row), "{time}");
    }
    let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let ours = ours.expect("after 1970").as_secs().cast_signed();
    let theirs = ledger.now().await.expect("the time").as_micros() / 1_000_000;
    assert!((theirs - ours).abs() < 60, "the database is on this machine: {theirs} {ours}");
}
