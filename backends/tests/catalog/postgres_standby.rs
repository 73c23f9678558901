//! PostgreSQL: how far a real standby is behind, asked of the primary and of the standby.

use std::time::Instant;

use backends::Catalog;
use backends::catalog::{LoadCheck, PostgresCatalog};
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;

use crate::fixture::PATIENCE;
use crate::postgres::names;
use crate::private_postgres::{NEW_DATA, PrivatePostgres};

/// The standby tells of itself every second, and not every ten.
const SETTINGS: &str = "wal_receiver_status_interval = 1s\nmax_wal_senders = 4\n";
const HBA: &str = "host all,replication all 127.0.0.1/32 scram-sha-256\n";

async fn execute(server: &PrivatePostgres, sql: &'static str) {
    let mut connection = PgConnection::connect(&server.url()).await.expect("connected");
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap_or_else(|why| panic!("{sql}: {why}"));
}

async fn open(server: &PrivatePostgres) -> PostgresCatalog {
    PostgresCatalog::connect(&server.url(), names("files")).await.expect("a catalog")
}

/// Writes until both say what they should; what they said.
async fn written_until(
    primary: &PrivatePostgres,
    catalogs: [&PostgresCatalog; 2],
    done: impl Fn(f64) -> bool,
) -> [f64; 2] {
    let deadline = Instant::now() + PATIENCE;
    loop {
        execute(primary, "INSERT INTO files SELECT 'more', now(), '/x'").await;
        let mut told = [0.0; 2];
        let mut all = true;
        for (told, catalog) in told.iter_mut().zip(catalogs) {
            match catalog.measure(LoadCheck::ReplicationLag).await {
                Ok(seconds) => *told = seconds,
                // While it catches up nobody knows, which counts as a reason to wait.
                Err(unknown) => {
                    assert!(unknown.to_string().contains("standby"), "{unknown}");
                    all = false;
                }
            }
        }
        if all && told.iter().all(|seconds| done(*seconds)) {
            return told;
        }
        assert!(Instant::now() < deadline, "it never came to that: {told:?}");
        sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn the_lag_of_a_standby_grows_while_it_replays_nothing_and_falls_again() {
    let primary = PrivatePostgres::start(NEW_DATA, SETTINGS, HBA, &[]);
    execute(&primary, "CREATE TABLE files (uid text, created_at timestamptz, file_location text)")
        .await;
    let copy = format!(
        "\"$BIN/pg_basebackup\" -D data -R -c fast -X stream --no-sync -d '{}'",
        primary.url()
    );
    let standby = PrivatePostgres::start(&copy, SETTINGS, "", &[]);
    let (of_primary, of_standby) = (open(&primary).await, open(&standby).await);
    let both = [&of_primary, &of_standby];
    written_until(&primary, both, |seconds| seconds < 1.0).await;
    // One that has replayed no transaction does not know how far it is behind.
    let deadline = Instant::now() + PATIENCE;
    while of_standby.count_files(None, None).await.expect("a count") == 0 {
        assert!(Instant::now() < deadline, "it replays nothing");
        sleep(std::time::Duration::from_millis(50)).await;
    }

    execute(&standby, "SELECT pg_wal_replay_pause()").await;
    let before = written_until(&primary, both, |seconds| seconds > 1.5).await;
    let after = written_until(&primary, both, |seconds| seconds > 3.0).await;
    assert!(after[0] > before[0] && after[1] > before[1], "{before:?} {after:?}");

    execute(&standby, "SELECT pg_wal_replay_resume()").await;
    written_until(&primary, both, |seconds| seconds < 1.0).await;
}
