//! What only a file can do to a ledger.

use backends::ledger::SqliteLedger;
use backends::{BackendError, Ledger};
use futures::future::join_all;
use sqlx::Connection;

use super::*;

#[tokio::test]
async fn the_users_table_is_adopted() {
    for (text, expected, extra) in [
        ("2024-12-01T00:00:00Z", "2024-12-01T00:00:00Z", false),
        ("2024-12-01 00:00:00.250000", "2024-12-01T00:00:00.250Z", false),
        ("2024-12-01 02:00:00+02:00", "2024-12-01T00:00:00Z", true),
        ("2024-12-01", "2024-12-01T00:00:00Z", true),
    ] {
        let bench = SqliteBench::new().await;
        let (columns, values) = match extra {
            true => (", last_updated TIMESTAMP, Updated_By TEXT", ", NULL, NULL"),
            false => ("", ""),
        };
        let seed = format!(
            "CREATE TABLE des_archive_config (id INTEGER PRIMARY KEY, archived_until TIMESTAMP \
             WITH TIME ZONE NOT NULL, lag_days INTEGER NOT NULL{columns}); \
             INSERT INTO des_archive_config VALUES (1, '{text}', 14{values})"
        );
        setup_suite::adopts(&bench, &seed, expected).await;
        let now = "SELECT archived_until FROM des_archive_config";
        assert_eq!(bench.text(now).await.as_deref(), Some("2024-12-02T00:00:00Z"));
        if extra {
            let by = "SELECT updated_by FROM des_archive_config \
                      WHERE unixepoch(last_updated) > unixepoch() - 600";
            assert_eq!(bench.text(by).await.as_deref(), Some("first"));
        }
        bench.close().await;
    }
}

#[tokio::test]
async fn a_watermark_that_is_no_date_is_refused() {
    let bench = SqliteBench::new().await;
    let ledger = bench.migrated().await;
    for value in ["yesterday", "1733011200", ""] {
        bench.sql(&format!("REPLACE INTO des_archive_config VALUES (1, '{value}', 7)")).await;
        let error = ledger.watermark().await.expect_err(value);
        assert!(matches!(&error, BackendError::Invalid { .. }), "{value}: {error:?}");
        assert!(error.to_string().contains("archived_until"), "{error}");
    }
    bench.close().await;
}

#[tokio::test]
async fn a_long_read_does_not_hold_up_a_commit() {
    let bench = SqliteBench::new().await;
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    bench.sql("CREATE TABLE files (uid TEXT); INSERT INTO files VALUES ('uid-1')").await;

    let mut reader = bench.connection().await;
    let mut scan = reader.begin().await.expect("a transaction");
    let rows = "SELECT count(*) FROM files";
    let seen: i64 = sqlx::query_scalar(rows).fetch_one(&mut *scan).await.expect(rows);
    settle(&*ledger, &lease, 1).await;
    let still: i64 = sqlx::query_scalar(rows).fetch_one(&mut *scan).await.expect(rows);
    assert_eq!((seen, still), (1, 1));
    scan.rollback().await.expect("it ends");
    assert_eq!(bench.text("PRAGMA journal_mode").await.as_deref(), Some("wal"));
    bench.close().await;
}

#[tokio::test]
async fn a_file_is_made_only_when_asked_for() {
    let bench = SqliteBench::new().await;
    let missing = SqliteLedger::open(&bench.path(), job("files"), 1, false).await.map(drop);
    assert!(missing.expect_err("there is no file").is_not_found());
    assert!(!bench.path().exists());
    let nowhere = bench.path().join("sub/ledger.db");
    let error = SqliteLedger::open(&nowhere, job("files"), 1, true).await.map(drop);
    let error = error.expect_err("there is no directory");
    assert!(!error.is_retryable(), "{error:?}");

    std::fs::write(bench.path(), "this is no database, although it has some length ".repeat(50))
        .expect("a file");
    let error = SqliteLedger::open(&bench.path(), job("files"), 1, true).await.map(drop);
    let error = error.expect_err("it is something else");
    assert!(matches!(error, BackendError::Invalid { .. }), "{error:?}");
    bench.close().await;
}

/// Many times: connections that close at the same time leave their files behind only now and then.
#[tokio::test]
async fn closing_leaves_one_file() {
    for _ in 0..20 {
        let bench = SqliteBench::new().await;
        let ledger = SqliteLedger::open(&bench.path(), job("files"), 1, true).await;
        let ledger = ledger.expect("the ledger opens");
        ledger.migrate().await.expect("the tables are made");
        let lease = begin(&ledger).await;
        settle(&ledger, &lease, 1).await;
        assert_eq!(watermark(&ledger).await, window(1).end());
        ledger.close().await;
        let directory = bench.path().with_file_name("");
        assert_eq!(std::fs::read_dir(directory).expect("a directory").count(), 1);
        assert!(ledger.renew_lease(&lease, TTL).await.expect_err("it is closed").is_retryable());
        let again = SqliteLedger::open(&bench.path(), job("files"), 1, false).await;
        assert_eq!(watermark(&again.expect("the file is there")).await, window(1).end());
        bench.close().await;
    }
}

#[tokio::test]
async fn many_may_open_a_new_file_at_once() {
    for _ in 0..5 {
        let bench = SqliteBench::new().await;
        let ledgers = join_all((0..4).map(|_| bench.ledger())).await;
        for outcome in join_all(ledgers.iter().map(|ledger| ledger.migrate())).await {
            outcome.expect("each finds or makes the tables");
        }
        bench.close().await;
    }
}

#[tokio::test]
async fn a_writer_elsewhere_is_waited_for() {
    let bench = SqliteBench::new().await;
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    let mut other = bench.connection().await;
    let writing = other.begin_with("BEGIN IMMEDIATE").await.expect("a transaction");
    let renewal = ledger.renew_lease(&lease, TTL);
    let release = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        writing.commit().await.expect("it ends");
    };
    let (renewed, ()) = futures::future::join(renewal, release).await;
    assert!(renewed.expect("it was waited for"));
    bench.close().await;
}
