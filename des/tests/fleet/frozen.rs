//! Processes that are frozen over what others go on with: a worker in the middle of an upload, beside
//! a garbage collection, and a leader whose outcomes are lost meanwhile.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::LIMIT;
use crate::broker::Broker;
use crate::buckets::{Fault, Requests, Trouble};
use crate::scrape::Scrape;
use crate::setup::Fleet;
use crate::told::{assert_each_counts_once, counted, explained, idle};

fn accepted_receipts(fleet: &Fleet) -> Vec<String> {
    let all = fleet.value("SELECT string_agg(receipt, ' ') FROM des_partitions");
    all.split(' ').map(str::to_owned).collect()
}

/// Collects garbage as soon as nothing of it is young any more; what was done.
fn collect_garbage(fleet: &Fleet) -> Value {
    let deadline = std::time::Instant::now() + LIMIT;
    while fleet.json("gc --dry-run")["kept_young"]["objects"] != 0 {
        assert!(std::time::Instant::now() < deadline, "it stays young");
    }
    fleet.json("gc --reason drill")
}

#[test]
fn a_collection_beside_a_worker_that_is_frozen_in_an_upload_takes_nothing_from_it() {
    let (bucket, trouble) = Trouble::with(Requests::WRITES_OF_SHARDS);
    let mut fleet = Fleet::over(bucket, 300);
    fleet.configure("coordinator", "windows_in_flight", json!(1));
    fleet.configure("coordinator", "gc_grace", json!("1s"));
    fleet.configure("worker", "slots", json!(1));
    let mut coordinator = fleet.start("coordinator");
    let mut frozen = fleet.start("worker");
    coordinator.run_until(LIMIT, || fleet.shards() >= 40);
    // One of its uploads hangs, and the others are there: nothing names them yet.
    trouble.begin(Fault::FirstHangs);
    coordinator.run_until(LIMIT, || trouble.met() > 3);
    frozen.signal(Signal::STOP);
    let (before, watermark) = (fleet.objects(), fleet.watermark());
    let collected = collect_garbage(&fleet);
    let (after, receipts) = (fleet.objects(), accepted_receipts(&fleet));
    for gone in before.keys().filter(|key| !after.contains_key(*key)) {
        // A first look at files that are missing, in whose place a second one was accepted.
        let is_named = receipts.iter().any(|receipt| gone.ends_with(receipt));
        assert!(gone.contains("/_des/receipts/") && !is_named, "{gone} is gone: {collected}");
    }
    assert_eq!(fleet.watermark(), watermark, "its window is open");

    // Another one does what it had begun, once nothing is heard of it any more. Before or after, the
    // broker hands over what the frozen one held.
    let mut other = fleet.start("worker");
    counted(&mut other, "des_worker_tasks_total{result=\"interrupted\"}", 1.0);
    fleet.wait_until_archived(LIMIT);
    let shards = fleet.contents(".des");
    let collected = collect_garbage(&fleet);
    assert_eq!(collected["shards"]["objects"], 0, "{collected}");
    fleet.assert_everything_is_there();

    // Now it goes on where it was, with a task that others have done.
    frozen.signal(Signal::CONT);
    trouble.end();
    idle(&mut frozen);
    let collected = collect_garbage(&fleet);
    assert_eq!(collected["shards"]["objects"], 0, "{collected}");
    assert_eq!(fleet.contents(".des"), shards, "the same bytes under the same names");
    assert_each_counts_once(&fleet, &mut coordinator, 280.0);
    assert!(frozen.is_running());
}

/// Outcomes are lost while nobody takes them: their leader wakes up in time, or when its lease has
/// expired.
#[test]
fn outcomes_that_are_lost_under_a_frozen_leader_are_asked_for_again() {
    for lease_ttl in ["3600s", "2s"] {
        let mut fleet = Fleet::new(300);
        // More outcomes than a leader takes at a time.
        fleet.configure("coordinator", "partition_rows", json!(1));
        fleet.configure("coordinator", "windows_in_flight", json!(10));
        fleet.configure("coordinator", "lease_ttl", json!(lease_ttl));
        fleet.configure("worker", "slots", json!(4));
        let broker = Broker::of(&fleet);
        let mut leader = fleet.start("coordinator");
        // Everything is planned and published, and nothing is under way in the ledger.
        let planned = "SELECT count(*) FROM des_windows WHERE row_count > 0";
        leader.run_until(LIMIT, || fleet.try_value(planned).as_deref() == Some("10"));
        leader.run_until(LIMIT, || broker.waiting("tasks") == 300);
        let watermark = fleet.watermark();
        let published = Scrape::of(&mut leader).value("des_tasks_published_total");

        leader.signal(Signal::STOP);
        let mut worker = fleet.start("worker");
        worker.run_until(LIMIT, || broker.waiting("tasks") == 0);
        worker.run_until(LIMIT, || broker.waiting("outcomes") > 0);
        if lease_ttl == "2s" {
            explained(&fleet, &mut worker, &["nobody leads: the lease of coordinator-", "expired"]);
        }
        assert!(broker.purge("outcomes") > 0);
        assert_eq!(fleet.watermark(), watermark);
        leader.signal(Signal::CONT);

        fleet.wait_until_archived(LIMIT);
        fleet.assert_everything_is_there();
        fleet.assert_tables_say_so();
        fleet.assert_committed_once();
        let scrape = Scrape::of(&mut leader);
        assert!(scrape.value("des_tasks_published_total") > published, "some were asked for again");
        let files = scrape.value("des_migration_files_total{result=\"archived\"}");
        assert_eq!(files, 280.0, "each is counted once");
        leader.signal(Signal::TERM);
        let leader = leader.end(LIMIT).expect(0);
        if lease_ttl == "3600s" {
            leader.says(["no sign of life: publishing again"]);
        }
    }
}
