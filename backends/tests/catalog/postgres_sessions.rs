//! PostgreSQL: the promises that concern its sessions, privileges and statements.

use std::time::{Duration, Instant};

use backends::catalog::{LoadCheck, PostgresCatalog};
use backends::{BackendError, Catalog};
use protocol::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::fixture::{Fixture, PATIENCE, Shape, scan, uids, widest, window};
use crate::postgres::{PostgresFixture, names};

#[tokio::test]
async fn a_scan_reads_the_table_once() {
    const ROWS: i64 = 100_000;
    let shape = Shape::default();
    for indexed in [false, true] {
        let fixture = PostgresFixture::create(Shape { indexed, ..shape.clone() }).await;
        fixture.fill(100_000, 30).await;
        fixture.execute("VACUUM ANALYZE files").await;
        let catalog = fixture.open(shape.names()).await.expect("a catalog");
        let figures = "SELECT seq_scan, seq_tup_read, coalesce(idx_scan, 0) \
                       FROM pg_stat_user_tables WHERE relname = 'files'";
        let read = async || -> (i64, i64, i64) {
            let mut connection = fixture.connect().await;
            sqlx::query_as(figures).fetch_one(&mut connection).await.expect("the statistics")
        };
        let before = read().await;
        // All rows without an index; one of them with.
        let (scanned, expected) = if indexed {
            (window("2024-12-01", "2024-12-01T00:00:01Z"), 1)
        } else {
            (window("2024-12-01", "2025-01-01"), 100_000)
        };
        assert_eq!(scan(&*catalog, scanned).await.expect("a scan").len(), expected);
        // The server's process tells its figures at its end.
        let deadline = Instant::now() + PATIENCE;
        let after = loop {
            let after = read().await;
            if after != before || Instant::now() > deadline {
                break after;
            }
            sleep(Duration::from_millis(50)).await;
        };
        let read = (after.0 - before.0, after.1 - before.1);
        assert_eq!(read, if indexed { (0, 0) } else { (1, ROWS) });
        // The planner looks at an index's ends, too, and is counted.
        assert_eq!(after.2 > before.2, indexed);
        fixture.remove().await;
    }
}

/// A view whose rows take for ever to come.
const SLOW_VIEW: &str = "CREATE VIEW slow AS SELECT n::text AS uid, \
    '2024-12-01T12:00:00Z'::timestamptz AS created_at, '/x'::text AS file_location \
    FROM generate_series(1, 1000000) AS n, LATERAL (SELECT pg_sleep(1000), n AS row) AS wait";

#[tokio::test]
async fn a_receiver_that_goes_stops_the_server_too() {
    let fixture = PostgresFixture::empty().await;
    fixture.execute(SLOW_VIEW).await;
    let catalog = fixture.catalog("slow").await;
    let (sender, receiver) = mpsc::channel(1);
    let leave = async {
        sleep(Duration::from_millis(200)).await;
        drop(receiver);
    };
    let scanning = async { tokio::join!(catalog.scan(widest(), sender), leave) };
    let (outcome, ()) = timeout(PATIENCE, scanning).await.expect("an end");
    outcome.expect("no error");
    let running: i64 = fixture
        .value(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active' \
                AND datname = current_database()",
        )
        .await;
    assert_eq!(running, 0, "the transaction is to be over");
    fixture.remove().await;
}

#[tokio::test]
async fn an_abandoned_scan_stops_the_server_too() {
    let fixture = PostgresFixture::empty().await;
    fixture.execute(SLOW_VIEW).await;
    let catalog = fixture.catalog("slow").await;
    let (sender, _receiver) = mpsc::channel(1);
    let abandoned = timeout(Duration::from_millis(300), catalog.scan(widest(), sender)).await;
    assert!(abandoned.is_err(), "it is still running");
    fixture.until_no_copy_runs().await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_statement_timeout_is_reported_and_explained() {
    let fixture = PostgresFixture::empty().await;
    fixture.execute(SLOW_VIEW).await;
    let database = &fixture.database;
    fixture.execute(&format!("ALTER DATABASE {database} SET statement_timeout = '300ms'")).await;
    let catalog = fixture.catalog("slow").await;
    let report = catalog.inspect().await.expect("a report");
    assert_eq!(report.statement_timeout_millis, Some(300));
    let error = scan(&catalog, widest()).await.expect_err("a timeout");
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().contains("statement_timeout"), "{error}");
    let error = catalog.count(None, None).await.expect_err("a timeout");
    assert!(error.is_retryable() && error.to_string().contains("statement_timeout"), "{error}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_server_that_ends_the_session_is_unavailable() {
    let fixture = PostgresFixture::empty().await;
    fixture.execute(SLOW_VIEW).await;
    let catalog = fixture.catalog("slow").await;
    let (sender, _receiver) = mpsc::channel(1);
    let end_it = async {
        let sql = "SELECT coalesce(bool_or(pg_terminate_backend(pid)), false) \
                   FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active' \
                   AND datname = current_database()";
        while !fixture.value::<bool>(sql).await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let scanning = async { tokio::join!(catalog.scan(widest(), sender), end_it) };
    let (outcome, ()) = timeout(PATIENCE, scanning).await.expect("an end");
    let error = outcome.expect_err("a failure");
    assert!(error.is_retryable(), "{error}");
    fixture.remove().await;
}

#[tokio::test]
async fn privileges_are_reported() {
    let fixture = PostgresFixture::create(Shape { with_size: false, ..Shape::default() }).await;
    let (url, user) = fixture.user().await;
    let catalog = PostgresCatalog::connect(&url, names("files")).await.expect("a catalog");
    let inspected = catalog.inspect().await.expect_err("a refusal");
    let scanned = scan(&catalog, widest()).await.expect_err("a refusal");
    for refusal in [inspected, scanned] {
        assert!(matches!(refusal, BackendError::Denied { .. }), "{refusal}");
        assert!(refusal.to_string().contains("GRANT SELECT"), "{refusal}");
        assert!(!refusal.to_string().contains("secret"), "{refusal}");
    }
    // The columns in use suffice.
    fixture
        .execute(&format!("GRANT SELECT (uid, created_at, file_location) ON files TO {user}"))
        .await;
    assert!(!catalog.inspect().await.expect("a report").writable);
    assert!(uids(&catalog, widest()).await.is_empty());
    fixture.execute(&format!("GRANT DELETE ON files TO {user}")).await;
    assert!(catalog.inspect().await.expect("a report").writable);
    fixture.execute(&format!("DROP OWNED BY {user}")).await;
    fixture.remove().await;
}

#[tokio::test]
async fn sessions_are_named_read_only_and_in_utc() {
    let fixture = PostgresFixture::empty().await;
    // A view that shows the session that reads it.
    fixture
        .execute(
            "CREATE VIEW me AS SELECT concat_ws(' ', current_setting('application_name'), \
               current_setting('transaction_read_only'), current_setting('TimeZone')) AS uid, \
             now() AS created_at, 'x'::text AS file_location",
        )
        .await;
    let catalog = fixture.catalog("me").await;
    assert_eq!(uids(&catalog, widest()).await, ["des on UTC"]);
    let url = fixture.url.replace("postgresql://", "postgresql+psycopg://");
    let catalog = PostgresCatalog::connect(&url, names("me")).await.expect("a catalog");
    assert_eq!(uids(&catalog, widest()).await, ["des on UTC"]);
    fixture.remove().await;
}

#[tokio::test]
async fn the_oldest_open_transaction_of_others_is_found() {
    let fixture = PostgresFixture::create(Shape { with_size: false, ..Shape::default() }).await;
    let catalog = fixture.catalog("files").await;
    assert_eq!(catalog.oldest_transaction().await.expect("an answer"), None);
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    let mut began: Vec<Timestamp> = Vec::new();
    for connection in [&mut first, &mut second] {
        sqlx::raw_sql("BEGIN").execute(&mut *connection).await.expect("a transaction");
        let time: chrono::DateTime<chrono::Utc> =
            sqlx::query_scalar("SELECT now()").fetch_one(connection).await.expect("its time");
        began.push(Timestamp::from_chrono(time).expect("a time"));
    }
    assert_eq!(catalog.oldest_transaction().await.expect("an answer"), Some(began[0]));
    sqlx::raw_sql("ROLLBACK").execute(&mut first).await.expect("its end");
    assert_eq!(catalog.oldest_transaction().await.expect("an answer"), Some(began[1]));
    sqlx::raw_sql("COMMIT").execute(&mut second).await.expect("its end");
    assert_eq!(catalog.oldest_transaction().await.expect("an answer"), None);
    // Our own reading does not hold us up.
    fixture.execute(SLOW_VIEW).await;
    let slow = fixture.catalog("slow").await;
    let (sender, receiver) = mpsc::channel(1);
    let look = async {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' \
                   AND state = 'active' AND datname = current_database()";
        while fixture.value::<i64>(sql).await == 0 {
            sleep(Duration::from_millis(20)).await;
        }
        let oldest = catalog.oldest_transaction().await;
        drop(receiver);
        oldest
    };
    let scanning = async { tokio::join!(slow.scan(widest(), sender), look) };
    let (_, oldest) = timeout(PATIENCE, scanning).await.expect("an end");
    assert_eq!(oldest.expect("an answer"), None);
    drop((first, second));
    fixture.remove().await;
}

/// Whoever may not see when others' transactions began is refused, and not told that there is none.
#[tokio::test]
async fn an_open_transaction_that_is_hidden_is_not_taken_for_none() {
    let fixture = PostgresFixture::create(Shape { with_size: false, ..Shape::default() }).await;
    let (url, user) = fixture.user().await;
    fixture.execute(&format!("GRANT SELECT ON files TO {user}")).await;
    let catalog = PostgresCatalog::connect(&url, names("files")).await.expect("a catalog");
    let mut writing = fixture.connect().await;
    sqlx::raw_sql("BEGIN; INSERT INTO files VALUES ('early', now(), '/x')")
        .execute(&mut writing)
        .await
        .expect("a transaction");
    let refusal = catalog.oldest_transaction().await.expect_err("it is hidden");
    assert!(matches!(refusal, BackendError::Denied { .. }), "{refusal}");
    for told in [&format!("GRANT pg_read_all_stats TO {user}"), "lag_days to 1 or more"] {
        assert!(refusal.to_string().contains(told), "{refusal}");
    }
    // A session of its own user hides nothing, nor does one that may be seen.
    fixture.execute(&format!("GRANT pg_read_all_stats TO {user}")).await;
    let began: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("SELECT now()").fetch_one(&mut writing).await.expect("its time");
    let oldest = catalog.oldest_transaction().await.expect("it is seen");
    assert_eq!(oldest, Timestamp::from_chrono(began));
    drop(writing);
    fixture.execute(&format!("DROP OWNED BY {user}")).await;
    fixture.remove().await;
}

#[tokio::test]
async fn what_prevents_connecting_is_told_apart_and_never_shows_the_password() {
    let fixture = PostgresFixture::empty().await;
    let (_, host) = fixture.url.split_once('@').expect("a URL");
    let connect =
        async |url: &str| PostgresCatalog::connect(url, names("files")).await.err().expect("none");
    let denied = connect(&format!("postgresql://nobody:wrong-secret@{host}")).await;
    assert!(matches!(denied, BackendError::Denied { .. }), "{denied}");
    let absent = connect(&format!("{}_absent", fixture.url)).await;
    assert!(absent.is_not_found(), "{absent}");
    let deaf = connect("postgresql://u:wrong-secret@127.0.0.1:1/d").await;
    assert!(deaf.is_retryable(), "{deaf}");
    let strange = connect("mysql://u:wrong-secret@127.0.0.1:1/d").await;
    assert!(matches!(strange, BackendError::Invalid { .. }), "{strange}");
    for error in [&denied, &deaf, &strange] {
        assert!(!format!("{error} {error:?}").contains("wrong-secret"), "{error:?}");
    }
    assert!(deaf.to_string().contains("127.0.0.1:1/d"), "{deaf}");
    fixture.remove().await;
}

#[tokio::test]
async fn sessions_at_work_are_counted_by_whoever_may_see_them() {
    use sqlx::Executor as _;

    let fixture = PostgresFixture::create(Shape::default()).await;
    let catalog = fixture.open(Shape::default().names()).await.expect("a catalog");
    let mut working = fixture.connect().await;
    working.execute("BEGIN").await.expect("a transaction");
    let active = catalog.measure(LoadCheck::ActiveConnections).await.expect("a number");
    assert!(active >= 1.0, "there is one in a transaction, and {active} were counted");

    let (url, user) = fixture.user().await;
    fixture.execute(&format!("GRANT SELECT ON files TO {user}")).await;
    let unprivileged = PostgresCatalog::connect(&url, names("files")).await.expect("a catalog");
    let refusal = unprivileged.measure(LoadCheck::ActiveConnections).await.expect_err("hidden");
    assert!(matches!(refusal, BackendError::Denied { .. }), "{refusal}");
    assert!(refusal.to_string().contains("GRANT pg_read_all_stats"), "{refusal}");
    fixture.execute(&format!("GRANT pg_read_all_stats TO {user}")).await;
    let active = unprivileged.measure(LoadCheck::ActiveConnections).await.expect("a number");
    assert!(active >= 1.0, "{active}");
    fixture.execute(&format!("DROP OWNED BY {user}")).await;
    drop(working);
    fixture.remove().await;
}

#[tokio::test]
async fn without_a_standby_nobody_knows_its_lag() {
    let fixture = PostgresFixture::create(Shape::default()).await;
    let catalog = fixture.open(Shape::default().names()).await.expect("a catalog");
    let unknown = catalog.measure(LoadCheck::ReplicationLag).await.expect_err("no standby");
    assert!(unknown.to_string().contains("no standby is connected"), "{unknown}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_load_query_that_takes_long_is_ended_by_the_server() {
    let fixture = PostgresFixture::create(Shape::default()).await;
    let catalog = fixture.open(Shape::default().names()).await.expect("a catalog");
    let asking = catalog.measure(LoadCheck::Query("SELECT 1 FROM pg_sleep(1000)"));
    let error = timeout(PATIENCE, asking).await.expect("an end").expect_err("it took long");
    assert!(error.is_retryable() && error.to_string().contains("statement timeout"), "{error}");
    let next = catalog.measure(LoadCheck::Query("SELECT 2")).await;
    assert_eq!(next.expect("the session is in order"), 2.0);
    fixture.remove().await;
}
