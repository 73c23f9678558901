//! What only a server can do to a ledger.

use backends::ledger::{ArchiveRecord, PostgresLedger, WatermarkRow};
use backends::{BackendError, Ledger};
use sqlx::Connection;

use super::*;

#[tokio::test]
async fn the_table_of_the_seed_is_adopted() {
    for (created, columns, values) in [
        ("TIMESTAMP WITH TIME ZONE", "", ""),
        ("TIMESTAMP", "", ""),
        ("TIMESTAMPTZ", ", last_updated TIMESTAMPTZ, updated_by VARCHAR(8)", ", now(), 'jan'"),
        ("TIMESTAMP", ", last_updated TIMESTAMP, updated_by TEXT", ", NULL, NULL"),
        ("TIMESTAMPTZ", ", last_updated INTEGER, updated_by BIGINT[]", ", 1, '{2}'"),
    ] {
        let bench = PostgresBench::new().await;
        // An offset of hours and minutes: where the server's zone is Asia/Kolkata, a time without
        // a zone that was read in it would not be the same.
        let seed = format!(
            "CREATE TABLE des_archive_config (id INTEGER PRIMARY KEY, archived_until {created} \
             NOT NULL, lag_days INTEGER NOT NULL{columns}); \
             INSERT INTO des_archive_config VALUES (1, '2024-12-01T00:00:00.25Z', 14{values})"
        );
        setup_suite::adopts(&bench, &seed, "2024-12-01T00:00:00.250Z").await;
        if columns.contains("VARCHAR") || columns.contains("TEXT") {
            let query = "SELECT updated_by FROM des_archive_config \
                         WHERE last_updated > timezone('UTC', now()) - interval '1 hour' \
                         AND last_updated < timezone('UTC', now()) + interval '1 hour'";
            let mut connection = bench.connection().await;
            sqlx::raw_sql("SET TIME ZONE 'UTC'").execute(&mut connection).await.expect("UTC");
            let by: String =
                sqlx::query_scalar(query).fetch_one(&mut connection).await.expect(query);
            assert_eq!(by, "first");
        }
        bench.close().await;
    }
}

#[tokio::test]
async fn a_holder_with_a_long_name_fits_the_users_column() {
    let bench = PostgresBench::new().await;
    bench
        .sql(
            "CREATE TABLE des_archive_config (id INTEGER PRIMARY KEY, archived_until TIMESTAMPTZ \
             NOT NULL, lag_days INTEGER NOT NULL, updated_by VARCHAR(8))",
        )
        .await;
    let ledger = bench.migrated().await;
    register(&*ledger, "a-1").await.expect("the archive is registered");
    let lease = take(&*ledger, "coordinator-on-a-host").await;
    settle(&*ledger, &lease, 1).await;
    let by = bench.text("SELECT updated_by FROM des_archive_config").await;
    assert_eq!(by.as_deref(), Some("coordina"));
    bench.close().await;
}

#[tokio::test]
async fn the_seeds_queries_work_on_the_ledger() {
    let bench = PostgresBench::new().await;
    let ledger = bench.migrated().await;
    begin(&*ledger).await;
    bench.sql("CREATE TABLE files (created_at TIMESTAMPTZ)").await;
    bench.sql("INSERT INTO files VALUES ('2024-12-01T00:00:00Z'), ('2024-12-01T00:00:01Z')").await;
    for query in [
        "SELECT archived_until, lag_days, NOW() - INTERVAL '1 day' * lag_days AS target_cutoff, \
         (NOW() - INTERVAL '1 day' * lag_days) - archived_until AS lag_behind \
         FROM des_archive_config",
        "UPDATE des_archive_config SET archived_until = '2024-11-01' WHERE id = 1",
    ] {
        bench.sql(query).await;
    }
    bench.sql("UPDATE des_archive_config SET archived_until = '2024-12-01T00:00:00Z'").await;
    let pending = "SELECT COUNT(*)::text AS pending FROM files WHERE created_at > (SELECT \
                   archived_until FROM des_archive_config WHERE id = 1) \
                   AND created_at <= NOW() - INTERVAL '7 days'";
    assert_eq!(bench.text(pending).await.as_deref(), Some("1"));
    bench.close().await;
}

#[tokio::test]
async fn a_watermark_that_is_no_date_is_refused() {
    let bench = PostgresBench::new().await;
    let ledger = bench.migrated().await;
    for (id, value) in [(1, "infinity"), (2, "-infinity"), (3, "12024-01-01"), (4, "0044-03-15 BC")]
    {
        bench.sql(&format!("INSERT INTO des_archive_config VALUES ({id}, '{value}', 7)")).await;
        let ledger = bench.ledger_of("files", id).await;
        let error = ledger.watermark().await.expect_err(value);
        assert!(matches!(&error, BackendError::Invalid { .. }), "{value}: {error:?}");
        assert!(error.to_string().contains("archived_until"), "{error}");
    }
    bench.sql("INSERT INTO des_archive_config VALUES (5, '2024-12-01', -1)").await;
    let error = bench.ledger_of("files", 5).await.watermark().await.expect_err("a negative lag");
    assert!(error.to_string().contains("lag_days"), "{error}");
    drop(ledger);
    bench.close().await;
}

#[tokio::test]
async fn the_zone_of_server_and_url_do_not_matter() {
    let bench = PostgresBench::new().await;
    bench.migrated().await;
    let url = format!("{}?options=-c%20TimeZone%3DAmerica%2FNew_York", bench.url);
    let ledger = PostgresLedger::connect(&url, job("files"), 1, TTL).await.expect("it connects");
    let lease = begin(&ledger).await;
    settle(&ledger, &lease, 1).await;
    let shown = "SELECT to_char(archived_until AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') \
                 FROM des_archive_config";
    assert_eq!(bench.text(shown).await.as_deref(), Some("2024-12-02 00:00:00"));
    bench.close().await;
}

#[tokio::test]
async fn every_form_of_the_url_is_read() {
    let bench = PostgresBench::new().await;
    let rest = bench.url.split_once("://").expect("a URL").1;
    for scheme in ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg"] {
        let url = format!("{scheme}://{rest}");
        let ledger = PostgresLedger::connect(&url, job("files"), 1, TTL).await.expect(scheme);
        let place = rest.split_once('@').expect("a URL with a user").1;
        assert_eq!(ledger.describe(), format!("PostgreSQL at {place}"));
        assert_eq!(ledger.to_string(), ledger.describe());
    }
    bench.close().await;
}

#[tokio::test]
async fn what_is_in_the_way_of_a_connection_is_told_apart() {
    let bench = PostgresBench::new().await;
    let (before, database) = bench.url.rsplit_once('/').expect("a URL with a database");
    let (user, place) = before.rsplit_once('@').expect("a URL with a user");
    let connect = async |url: String| {
        let error = PostgresLedger::connect(&url, job("files"), 1, TTL).await.map(drop);
        let error = error.expect_err("it cannot connect");
        let password = user.rsplit_once(':').expect("a password").1;
        assert!(!format!("{error} {error:?}").contains(password), "{error:?}");
        error
    };
    let missing = connect(format!("{before}/{database}_not")).await;
    assert!(missing.is_not_found(), "{missing:?}");
    assert!(missing.to_string().contains(place), "{missing}");
    let denied = connect(format!("{user}x@{place}/{database}")).await;
    assert!(matches!(denied, BackendError::Denied { .. }), "{denied:?}");
    let refused = connect(format!("{user}@127.0.0.1:1/{database}")).await;
    assert!(refused.is_retryable(), "{refused:?}");
    assert!(refused.to_string().contains("127.0.0.1:1"), "{refused}");
    let invalid = connect(format!("mysql{}", &bench.url)).await;
    assert!(matches!(invalid, BackendError::Invalid { .. }), "{invalid:?}");
    bench.close().await;
}

#[tokio::test]
async fn lost_connections_are_replaced() {
    let bench = PostgresBench::new().await;
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    for _ in 0..3 {
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'",
            bench.name()
        );
        bench.as_admin(&end).await;
        assert!(ledger.renew_lease(&lease, TTL).await.expect("a new connection is made"));
    }
    bench.close().await;
}

#[tokio::test]
async fn a_lock_that_another_holds_gives_an_error_and_no_hang() {
    let bench = PostgresBench::new().await;
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    let mut other = bench.connection().await;
    let mut transaction = other.begin().await.expect("a transaction");
    let lock = "SELECT 1 FROM des_lease FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut *transaction).await.expect("a lock");
    let error = ledger.renew_lease(&lease, TTL).await.expect_err("it is locked");
    assert!(error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("prolong the lease"), "{error}");
    assert!(ledger.lease_status().await.expect("reading goes on").is_some());
    transaction.rollback().await.expect("it ends");
    assert!(ledger.renew_lease(&lease, TTL).await.expect("it is free"));
    bench.close().await;
}

#[tokio::test]
async fn a_read_only_server_is_unavailable() {
    let bench = PostgresBench::new().await;
    bench.migrated().await;
    let read_only =
        format!("ALTER DATABASE {} SET default_transaction_read_only = on", bench.name());
    bench.as_admin(&read_only).await;
    let ledger = bench.ledger().await;
    let error = ledger.acquire_lease(&worker("first"), TTL).await.expect_err("it is read-only");
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(ledger.watermark().await.expect("reading goes on"), None);
    bench.close().await;
}

#[tokio::test]
async fn a_user_without_the_right_to_create_uses_the_tables() {
    let bench = PostgresBench::new().await;
    let role = format!("{}_role", bench.name());
    bench.as_admin(&format!("CREATE ROLE {role} LOGIN PASSWORD 'plain'")).await;
    let (before, database) = bench.url.rsplit_once('/').expect("a URL with a database");
    let place = before.rsplit_once('@').expect("a URL with a user").1;
    let url = format!("postgresql://{role}:plain@{place}/{database}");
    let ledger = PostgresLedger::connect(&url, job("files"), 1, TTL).await.expect("it connects");
    let error = ledger.migrate().await.expect_err("it may not create tables");
    assert!(matches!(error, BackendError::Denied { .. }), "{error:?}");

    bench.migrated().await;
    bench
        .sql(&format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON des_archive_config, des_archives, des_lease, \
             des_windows, des_partitions, des_passes, des_looks, des_migration_errors TO {role}; \
             GRANT SELECT ON _des_migrations TO {role}; GRANT SELECT, INSERT ON des_audit_log TO \
             {role}; GRANT SELECT, INSERT, DELETE ON des_pauses, des_throttles TO {role}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON des_synced TO {role}"
        ))
        .await;
    ledger.migrate().await.expect("there is nothing to do");
    let lease = begin(&ledger).await;
    settle(&ledger, &lease, 1).await;
    drop(ledger);
    bench.sql(&format!("DROP OWNED BY {role}")).await;
    bench.as_admin(&format!("DROP ROLE {role}")).await;
    bench.close().await;
}

#[tokio::test]
async fn commits_are_durable_where_the_servers_default_is_not() {
    let bench = PostgresBench::new().await;
    let name = bench.name();
    bench.as_admin(&format!("ALTER DATABASE {name} SET synchronous_commit = off")).await;
    bench.sql(
        "CREATE TABLE seen (setting TEXT); \
         CREATE TABLE des_archive_config (id INTEGER PRIMARY KEY, archived_until TIMESTAMPTZ NOT \
         NULL, lag_days INTEGER NOT NULL); \
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen \
         VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$; \
         CREATE TRIGGER see BEFORE INSERT ON des_archive_config FOR EACH ROW EXECUTE FUNCTION see()",
    )
    .await;
    let ledger = bench.migrated().await;
    let record: ArchiveRecord = archive_record("a-1");
    let row: WatermarkRow = watermark_row();
    ledger.register(&record, row, &audit("init")).await.expect("it is registered");
    assert_eq!(bench.text("SELECT setting FROM seen").await.as_deref(), Some("on"));
    bench.close().await;
}

#[tokio::test]
async fn a_role_learns_which_grants_it_lacks() {
    let bench = PostgresBench::new().await;
    let role = format!("{}_reader", bench.name());
    bench.as_admin(&format!("CREATE ROLE {role} LOGIN PASSWORD 'x'")).await;
    let (_admin, host) = bench.url.rsplit_once('@').expect("a URL with a user");
    let url = format!("postgresql://{role}:x@{host}");
    let ledger = PostgresLedger::connect(&url, job("files"), 1, TTL).await.expect("it connects");
    let lacks = || async { ledger.missing_privileges().await.expect("an answer") };

    assert_eq!(lacks().await, [format!("GRANT CREATE ON SCHEMA public TO {role}")]);
    ledger.migrate().await.expect_err("it may not make tables");
    assert!(!ledger.pending_migrations().await.expect("an answer").is_empty());

    bench.migrated().await;
    let grants = lacks().await;
    for grant in ["SELECT ON _des_migrations", "UPDATE ON des_lease", "DELETE ON des_windows"] {
        assert!(grants.contains(&format!("GRANT {grant} TO {role}")), "{grant} in {grants:?}");
    }
    for forbidden in ["UPDATE ON des_audit_log", "DELETE ON des_archive_config", "CREATE"] {
        assert!(!grants.iter().any(|it| it.contains(forbidden)), "{forbidden} in {grants:?}");
    }
    bench.sql(&grants.join(";")).await;
    assert_eq!(lacks().await, Vec::<String>::new());

    // These are enough for everything but the first row of the watermark.
    let row = format!("INSERT INTO des_archive_config VALUES (1, '{START}', 7)");
    bench.sql(&row).await;
    let lease = begin(&ledger).await;
    settle(&ledger, &lease, 1).await;
    assert_eq!(watermark(&ledger).await, window(1).end());

    bench.sql("DELETE FROM _des_migrations").await;
    let owner = format!("ALTER TABLE des_windows OWNER TO {role}");
    assert!(lacks().await.contains(&owner), "upgrading a table takes its owner");
    drop(ledger);
    bench.sql(&format!("DROP OWNED BY {role}")).await;
    bench.close().await;
    let admin = PostgresBench::new().await;
    admin.as_admin(&format!("DROP ROLE {role}")).await;
    admin.close().await;
}
