//! Who may decide: taking, losing and checking the lease.

use std::time::Duration;

use backends::ledger::{Lease, WindowState};
use futures::future::join_all;

use super::*;

pub(crate) async fn lease_passes_from_one_to_the_next(bench: &dyn Bench) {
    let (one, two) = (bench.migrated().await, bench.ledger().await);
    assert_eq!(one.lease_status().await.expect("a status"), None);

    let first = take(&*one, "first").await;
    assert_eq!(first, Lease { holder: worker("first"), epoch: 1 });
    let status = two.lease_status().await.expect("a status").expect("a holder");
    assert_eq!((status.holder, status.epoch), (Some(worker("first")), 1));
    assert!(status.expires_at > two.now().await.expect("the time"));
    assert_eq!(two.acquire_lease(&worker("second"), TTL).await.expect("an answer"), None);
    assert_eq!(one.acquire_lease(&worker("first"), TTL).await.expect("an answer"), None);

    assert!(one.renew_lease(&first, TTL * 2).await.expect("an answer"));
    let renewed = two.lease_status().await.expect("a status").expect("a holder");
    assert!(renewed.expires_at > status.expires_at);

    one.release_lease(&first).await.expect("an answer");
    let free = two.lease_status().await.expect("a status").expect("a row");
    assert_eq!((free.holder, free.epoch), (None, 1));
    assert!(!one.renew_lease(&first, TTL).await.expect("an answer"));
    assert_eq!(take(&*two, "second").await, Lease { holder: worker("second"), epoch: 2 });
}

pub(crate) async fn an_expired_lease_is_ours_until_somebody_takes_it(bench: &dyn Bench) {
    let (one, two) = (bench.migrated().await, bench.ledger().await);
    let expired = one.acquire_lease(&worker("first"), Duration::ZERO).await;
    let expired = expired.expect("an answer").expect("it is free");
    one.add_window(&expired, &new_window(1, 1)).await.expect("nobody took it");
    assert!(one.renew_lease(&expired, Duration::ZERO).await.expect("an answer"));

    let again = one.acquire_lease(&worker("first"), Duration::ZERO).await;
    let again = again.expect("an answer").expect("it has expired");
    assert_eq!(again.epoch, 2, "the same holder too begins anew");
    assert!(!one.renew_lease(&expired, TTL).await.expect("an answer"));

    let taken = take(&*two, "second").await;
    assert_eq!(taken.epoch, 3);
    assert!(!one.renew_lease(&again, TTL).await.expect("an answer"));
    one.release_lease(&again).await.expect("it does nothing");
    let status = one.lease_status().await.expect("a status").expect("a holder");
    assert_eq!((status.holder, status.epoch), (Some(worker("second")), 3));
}

pub(crate) async fn of_many_who_want_it_one_gets_it(bench: &dyn Bench) {
    bench.migrated().await;
    let names: Vec<String> = (0..6).map(|number| format!("w{number}")).collect();
    let ledgers = join_all(names.iter().map(|_| bench.ledger())).await;
    for round in 1..=3 {
        let attempts = ledgers.iter().zip(&names).map(|(ledger, name)| async move {
            ledger.acquire_lease(&worker(name), TTL).await.expect("an answer")
        });
        let winners: Vec<Lease> = join_all(attempts).await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(winners[0].epoch, round);
        ledgers[0].release_lease(&winners[0]).await.expect("an answer");
    }
}

pub(crate) async fn a_stale_holder_changes_nothing(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let stale = begin(&*ledger).await;
    settle(&*ledger, &stale, 1).await;
    ready(&*ledger, &stale, 2, 2).await;
    ledger.add_window(&stale, &new_window(3, 2)).await.expect("a window");
    ledger.release_lease(&stale).await.expect("an answer");
    let current = take(&*ledger, "second").await;
    let same_name = Lease { holder: stale.holder.clone(), epoch: current.epoch };
    let same_epoch = Lease { holder: current.holder.clone(), epoch: stale.epoch };

    let before = Snapshot::of(&*ledger).await;
    for lease in [&stale, &same_name, &same_epoch] {
        let words = format!("held by second with epoch {}", current.epoch);
        assert_conflict(ledger.add_window(lease, &new_window(4, 1)).await, &words);
        let accepted = ledger.accept(lease, key(3, 0), 0, &receipt(3, 0)).await;
        assert_conflict(accepted, &words);
        assert_conflict(ledger.set_back(lease, key(3, 0), 0, &setback(1)).await, &words);
        assert_conflict(ledger.reopen(lease, key(2, 0), 0, &setback(1)).await, &words);
        let held = ledger.set_window_state(lease, key(2, 0), WindowState::Held).await;
        assert_conflict(held, &words);
        assert_conflict(ledger.commit_window(lease, &commit(2, lease)).await, &words);
        let mut nothing = commit(3, lease);
        nothing.certificate = None;
        assert_conflict(ledger.commit_window(lease, &nothing).await, &words);
        assert!(!ledger.renew_lease(lease, TTL).await.expect("an answer"));
        ledger.release_lease(lease).await.expect("it does nothing");
    }
    assert_eq!(Snapshot::of(&*ledger).await, before);
    ledger.commit_window(&current, &commit(2, &current)).await.expect("the holder may");
}

pub(crate) async fn an_action_given_up_midway_leaves_no_lock(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    for step in 0..40 {
        let limit = Duration::from_micros(step * 100);
        // Whether it was in time or not is of no interest: it may be dropped at any point.
        let _ = tokio::time::timeout(limit, ledger.renew_lease(&lease, TTL)).await;
        let _ = tokio::time::timeout(limit, ledger.add_window(&lease, &new_window(1, 2))).await;
    }
    let other = bench.ledger().await;
    other.add_window(&lease, &new_window(1, 2)).await.expect("no lock is left");
    ledger.add_window(&lease, &new_window(1, 2)).await.expect("its own connections are in order");
    assert_eq!(ledger.partitions(key(1, 0)).await.expect("an answer").len(), 2);
}
