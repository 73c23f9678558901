//! What a window costs PostgreSQL's write-ahead log. In a binary of its own, since the server has
//! one log and tests that run beside this one would write to it.

use std::str::FromStr;
use std::time::Duration;

use backends::Ledger;
use backends::ledger::{
    AcceptedReceipt, ArchiveRecord, AuditEntry, Lease, NewPartition, NewWindow, PostgresLedger,
    Purpose, WatermarkRow, WindowCommit, WindowTotals,
};
use protocol::{ContentHash, Digest, NBits, Tally, Timestamp, Window, WindowKey, names};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions};

const PARTITIONS: u32 = 64;
/// For a window of 64 partitions, from its record to its commit.
const LIMIT_BYTES: i64 = 64 * 1024;
const DAY_MICROS: i64 = 86_400_000_000;

#[tokio::test]
async fn a_window_of_64_partitions_costs_little_log() {
    let server = std::env::var("DES_TEST_POSTGRES_URL")
        .expect("DES_TEST_POSTGRES_URL is not set: run ./test, which starts a server");
    let name = format!("des_test_{}", uuid::Uuid::new_v4().simple());
    let options = PgConnectOptions::from_str(&server).expect("the test server's URL");
    let mut admin = options.connect().await.expect("the test server answers");
    run(&mut admin, format!("CREATE DATABASE {name}")).await;
    let (base, _database) = server.rsplit_once('/').expect("a URL with a database");

    let job = "files".parse().expect("a job");
    let url = format!("{base}/{name}");
    let ledger = PostgresLedger::connect(&url, job, 1, Duration::from_secs(600))
        .await
        .expect("the ledger connects");
    let (lease, start) = begin(&ledger).await;
    let mut costs = Vec::new();
    for day in 0..5 {
        let before = position(&mut admin).await;
        let from = start.saturating_add_micros(day * DAY_MICROS);
        let to = from.saturating_add_micros(DAY_MICROS);
        settle(&ledger, &lease, Window::new(from, to).expect("a day")).await;
        costs.push(position(&mut admin).await - before);
    }
    // One at least meets no checkpoint, after which pages are logged whole.
    let usual = costs.iter().min().copied().unwrap_or(i64::MAX);
    assert!(usual <= LIMIT_BYTES, "bytes per window: {costs:?}");
    drop(ledger);
    run(&mut admin, format!("DROP DATABASE {name} WITH (FORCE)")).await;
}

async fn run(connection: &mut PgConnection, statement: String) {
    let shown = statement.clone();
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.expect(&shown);
}

async fn position(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint")
        .fetch_one(connection)
        .await
        .expect("the log's position")
}

async fn begin(ledger: &PostgresLedger) -> (Lease, Timestamp) {
    let start: Timestamp = "2024-12-01".parse().expect("a date");
    ledger.migrate().await.expect("the tables are made");
    let record = ArchiveRecord {
        archive: "a-1".parse().expect("an archive id"),
        n_bits: NBits::DEFAULT,
        origin: start,
        settled_until: start,
    };
    let watermark = WatermarkRow { archived_until: start, lag_days: 7 };
    let audit = AuditEntry {
        actor: "test".to_owned(),
        action: "init".to_owned(),
        from: None,
        to: None,
        reason: None,
    };
    ledger.register(&record, watermark, &audit).await.expect("it is registered");
    let holder = "coordinator-1".parse().expect("a holder");
    let lease = ledger.acquire_lease(&holder, Duration::from_secs(600)).await;
    (lease.expect("the ledger answers").expect("the lease is free"), start)
}

async fn settle(ledger: &PostgresLedger, lease: &Lease, window: Window) {
    let key = WindowKey::new(window, 0);
    let hash = ContentHash::of(key.to_string().as_bytes());
    let partitions = (0..PARTITIONS).map(|partition| NewPartition {
        manifest: names::manifest(key, partition, hash),
        manifest_size: 5_000_000,
        rows: Tally { rows: 50_000, digest: Digest(u128::MAX / 7 - u128::from(partition)) },
    });
    let partitions = partitions.collect();
    let new = NewWindow {
        window,
        revision: 0,
        purpose: Purpose::Scan,
        scanned: Tally::default(),
        findings: None,
        replaces: Vec::new(),
        partitions,
        partition_rows: Some(50_000),
        planned_in: std::time::Duration::ZERO,
    };
    ledger.add_window(lease, &new).await.expect("it is recorded");
    for partition in 0..PARTITIONS {
        let receipt = AcceptedReceipt {
            receipt: names::receipt(key, partition, hash, hash),
            receipt_size: 90_000,
            files_failed: 0,
        };
        assert!(ledger.accept(lease, key, partition, &receipt).await.expect("it is accepted"));
    }
    let commit = WindowCommit {
        window,
        revision: 0,
        certificate: Some(names::certificate(key, lease.epoch)),
        totals: WindowTotals { files_archived: 3_200_000, ..WindowTotals::default() },
        scanned: None,
        findings: None,
        failures: Vec::new(),
        advance_from: Some(window.start()),
    };
    ledger.commit_window(lease, &commit).await.expect("it is committed");
}
