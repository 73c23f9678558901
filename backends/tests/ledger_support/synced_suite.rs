//! How far the catalog's own column was brought: pass by pass, for each target by itself.

use backends::Ledger;
use backends::ledger::SyncPosition;
use protocol::WindowKey;

use super::*;

async fn to_sync(ledger: &dyn Ledger, target: &str, until: i64) -> Vec<WindowKey> {
    let passes = ledger.passes_to_sync(target, None, window(until).end(), 10).await;
    passes.expect("an answer").iter().map(|pass| pass.key()).collect()
}

pub(crate) async fn passes_are_marked_once_and_from_where_they_were_left(bench: &dyn Bench) {
    const TARGET: &str = "files.archived = true";
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    for day in 1..=4 {
        settle(&*ledger, &lease, day).await;
    }
    ready(&*ledger, &lease, 5, 1).await;
    let keys: Vec<_> = (1..=4).map(|day| key(day, 0)).collect();
    assert_eq!(to_sync(&*ledger, TARGET, 9).await, keys, "what is not committed is not listed");
    assert_eq!(to_sync(&*ledger, TARGET, 3).await, keys[..3], "nor what ends later");
    let page = ledger.passes_to_sync(TARGET, Some(keys[0]), window(9).end(), 2).await;
    let page: Vec<_> = page.expect("an answer").iter().map(|pass| pass.key()).collect();
    assert_eq!(page, keys[1..3]);

    let position = ledger.sync_position(TARGET, keys[1]).await.expect("an answer");
    assert_eq!(position, SyncPosition::default());
    let half = SyncPosition { partitions: 3, marked: 1_000, finished: false };
    ledger.note_synced(TARGET, keys[1], half).await.expect("it is noted");
    assert_eq!(ledger.sync_position(TARGET, keys[1]).await.expect("an answer"), half);
    assert_eq!(to_sync(&*ledger, TARGET, 9).await, keys, "it is not finished");
    let whole = SyncPosition { partitions: 4, marked: 1_200, finished: true };
    ledger.note_synced(TARGET, keys[1], whole).await.expect("it is noted");
    assert_eq!(ledger.sync_position(TARGET, keys[1]).await.expect("an answer"), whole);
    assert_eq!(to_sync(&*ledger, TARGET, 9).await, [keys[0], keys[2], keys[3]]);
    assert_eq!(to_sync(&*ledger, "files.archived = 1", 9).await, keys, "another target");
    let other = bench.ledger_of("invoices", 7).await;
    other.forget_synced(TARGET).await.expect("there is nothing");
    assert_eq!(to_sync(&*ledger, TARGET, 9).await.len(), 3, "another job's");
    ledger.forget_synced(TARGET).await.expect("it is forgotten");
    assert_eq!(to_sync(&*ledger, TARGET, 9).await, keys);
}
