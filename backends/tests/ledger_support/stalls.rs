//! Leaders that freeze, or lose their network, in the middle of a transaction that has the lease's
//! row locked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::Ledger;
use backends::ledger::PostgresLedger;

use super::*;
use crate::stalling_proxy::{Cut, StallingProxy};

/// Much longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(120);
const SHORT_TTL: Duration = Duration::from_secs(1);

/// The bench's database, by way of a proxy.
fn proxied(bench: &PostgresBench) -> (StallingProxy, String) {
    let (before, rest) = bench.url.split_once('@').expect("a URL with a user");
    let (host, database) = rest.split_once('/').expect("a URL with a database");
    let proxy = StallingProxy::start(host.parse().expect("an address"));
    let url = format!("{before}@{}/{database}", proxy.address);
    (proxy, url)
}

/// Past the test harness, which shows only what failing tests print: what was measured on the way.
fn note(text: &str) {
    use std::io::Write as _;
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).expect("stderr");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_transaction_does_not_keep_the_lease_from_its_successor() {
    for cut in Cut::ALL {
        let bench = PostgresBench::new().await;
        let standby = bench.migrated().await;
        register(&*standby, "a-1").await.expect("the archive is registered");
        let (proxy, url) = proxied(&bench);
        // Its sessions wait for their clients for as long as any: it is the standby that ends them.
        let leader = PostgresLedger::connect(&url, job("files"), 1, TTL).await;
        let leader = Arc::new(leader.expect("it connects"));
        let lease = leader.acquire_lease(&worker("first"), SHORT_TTL).await;
        let lease = lease.expect("an answer").expect("it is free");
        ready(&*leader, &lease, 1, 2).await;

        proxy.stall_at("SET state = 'committed'", cut);
        let committing = {
            let (leader, lease) = (Arc::clone(&leader), lease.clone());
            tokio::spawn(async move { leader.commit_window(&lease, &commit(1, &lease)).await })
        };
        let deadline = Instant::now() + LIMIT;
        while !proxy.is_stalled() {
            assert!(Instant::now() < deadline, "{cut:?}: it never came to that");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let since = Instant::now();
        let taken = loop {
            assert!(Instant::now() < deadline, "{cut:?}: the lease was never taken over");
            // An error is what a coordinator tries again after, too.
            let taken = standby.acquire_lease(&worker("second"), SHORT_TTL).await;
            if let Ok(Some(taken)) = taken {
                break taken;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        note(&format!("{cut:?}: {:?} from the stall to the takeover", since.elapsed()));
        assert_eq!(taken.epoch, lease.epoch + 1);
        proxy.heal();
        let committed = committing.await.expect("no panic");
        committed.expect_err("the transaction was ended");
        assert_eq!(watermark(&*standby).await, at(START));
        let renewed = leader.renew_lease(&lease, TTL).await.expect("connections are replaced");
        assert!(!renewed, "{cut:?}");
        let late = leader.commit_window(&lease, &commit(1, &lease)).await;
        assert_conflict(late, "held by second");
        drop(leader);
        bench.close().await;
    }
}

#[tokio::test]
async fn a_transaction_that_is_under_way_is_not_ended() {
    let bench = PostgresBench::new().await;
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ledger.release_lease(&lease).await.expect("it is given back");
    let mut other = bench.connection().await;
    let busy = "BEGIN; SELECT FROM des_lease FOR UPDATE; SELECT pg_sleep(8); COMMIT";
    let busy = tokio::spawn(async move { sqlx::raw_sql(busy).execute(&mut other).await });
    let begun = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'PgSleep' \
                 AND datname = current_database()";
    while bench.text(begun).await.as_deref() != Some("1") {
        assert!(!busy.is_finished(), "it sleeps for longer than that");
    }
    // The row is waited for, in vain or not; its holder does what it was told, and is left alone.
    let _in_vain = ledger.acquire_lease(&worker("second"), SHORT_TTL).await;
    busy.await.expect("no panic").expect("it was left alone");
    bench.close().await;
}

#[tokio::test]
async fn a_good_lease_is_not_waited_for() {
    let bench = PostgresBench::new().await;
    let ledger = bench.migrated().await;
    begin(&*ledger).await;
    let mut other = bench.connection().await;
    sqlx::raw_sql("BEGIN; SELECT FROM des_lease FOR UPDATE")
        .execute(&mut other)
        .await
        .expect("a lock");
    let refused = ledger.acquire_lease(&worker("second"), TTL).await;
    assert_eq!(refused.expect("an answer, and no error of a lock"), None);
    sqlx::raw_sql("COMMIT").execute(&mut other).await.expect("it was left alone");
    bench.close().await;
}
