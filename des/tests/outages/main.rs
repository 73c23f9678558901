//! Fleets whose servers fail as a whole: PostgreSQL is stopped and started again, RabbitMQ blocks
//! publishers, a bucket has no space. A program of its own, whose tests run one at a time: what they
//! do to the servers that `./test` starts would be felt by every other test.

mod deliveries;
mod servers;

#[expect(dead_code, reason = "the other fleets' tests have other troubles")]
#[path = "../fleet/buckets.rs"]
mod buckets;

#[path = "../fleet/told.rs"]
mod told;

#[expect(dead_code, reason = "the other fleets' tests use more of it")]
#[path = "../fleet/setup.rs"]
mod setup;

#[path = "../../../backends/tests/support/s3_server.rs"]
mod s3_server;

#[path = "../support/process.rs"]
mod process;

#[expect(dead_code, reason = "the other fleets' tests compare it with the paper")]
#[path = "../support/scrape.rs"]
mod scrape;

use std::time::{Duration, Instant};

use buckets::{Fault, Requests, Trouble};
use process::Running;
use rustix::process::Signal;
use scrape::{Scrape, get};
use servers::{Alarm, BrokerNode, DatabaseServer, alone};
use setup::Fleet;
use told::explained;

/// Everything here ends long before, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

/// Waits until the coordinator is not ready, for such a reason, and its metrics say so too.
#[track_caller]
fn not_ready(coordinator: &mut Running, told: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (status, why) = get(coordinator, "/readyz");
        if status == 503 && why.contains(told) && Scrape::of(coordinator).value("des_ready") == 0.0
        {
            return;
        }
        assert!(Instant::now() < deadline, "`{told}` is not what is in the way: {why}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Certificates of committed windows.
fn committed(fleet: &Fleet) -> Vec<String> {
    let all = "SELECT coalesce(string_agg(certificate, ' '), '') FROM des_windows \
               WHERE state = 'committed'";
    fleet.value(all).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_database_server_that_stops_costs_time_and_nothing_else() {
    let _alone = alone();
    let fleet = Fleet::new(2_000);
    let server = DatabaseServer::new();
    let mut coordinator = fleet.start("coordinator");
    let mut standby = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    for mode in ["fast", "immediate"] {
        let shards = fleet.shards();
        coordinator.run_until(LIMIT, || fleet.shards() >= shards + 20);
        assert!(!fleet.is_archived(), "it is to be at work");
        let (watermark, windows) = (fleet.watermark(), committed(&fleet));
        server.stop(mode);
        let told = fleet.des("explain").expect(0).text();
        let begins = "Nothing can move: the ledger does not answer: ";
        assert!(told.starts_with(begins) && told.contains("Connection refused"), "{told}");
        let stats = fleet.des("stats").says(["Connection refused"]);
        assert_eq!(stats.code, Some(1), "{stats}");
        for coordinator in [&mut coordinator, &mut standby] {
            not_ready(coordinator, "Connection refused");
        }
        server.start();
        // What was committed has come through, in a crash as well.
        assert!(fleet.watermark() >= watermark, "{mode}: {} is back", fleet.watermark());
        let now = committed(&fleet);
        assert!(windows.iter().all(|it| now.contains(it)), "{mode}: {windows:?}, and now {now:?}");
        coordinator.run_until(LIMIT, || fleet.watermark() > watermark);
    }
    fleet.wait_until_archived(LIMIT);
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
    for process in [coordinator, standby] {
        process.signal(Signal::TERM);
        process.end(LIMIT).expect(0).says(["trying again", "the ledger (PostgreSQL at "]);
    }
}

#[test]
fn a_broker_whose_node_is_killed_costs_time_and_nothing_else() {
    let _alone = alone();
    let fleet = Fleet::new(1_500);
    let mut coordinator = fleet.start("coordinator");
    let _workers: Vec<_> = (0..2).map(|_| fleet.start("worker")).collect();
    coordinator.run_until(LIMIT, || fleet.shards() >= 20);
    assert!(!fleet.is_archived(), "it is to be at work");
    BrokerNode::new().kill_and_wait_for_another(LIMIT);
    fleet.wait_until_archived(LIMIT);
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
    let attempts = "SELECT count(*) FROM des_partitions WHERE attempts > 0";
    assert_eq!(fleet.value(attempts), "0", "it costs no attempts");
    coordinator.signal(Signal::TERM);
    coordinator.end(LIMIT).expect(0).says(["the connection to RabbitMQ broke"]);
}

#[test]
fn a_broker_that_blocks_publishers_is_told_and_waited_out() {
    let _alone = alone();
    for alarm in [Alarm::MEMORY, Alarm::DISK] {
        let fleet = Fleet::new(300);
        let raised = alarm.raise();
        let mut coordinator = fleet.start("coordinator");
        let told = ["its task waits", "blocks publishers", alarm.told];
        explained(&fleet, &mut coordinator, &told);
        not_ready(&mut coordinator, alarm.told);
        assert!(committed(&fleet).is_empty());
        drop(raised);

        let worker = fleet.start("worker");
        fleet.wait_until_archived(LIMIT);
        fleet.assert_everything_is_there();
        fleet.assert_committed_once();
        let waits = "SELECT count(*) FROM des_partitions WHERE attempts + interruptions > 0";
        assert_eq!(fleet.value(waits), "0", "it costs no attempts");
        worker.signal(Signal::TERM);
        worker.end(LIMIT).expect(0);
        coordinator.signal(Signal::TERM);
        coordinator.end(LIMIT).expect(0).says(["blocks publishers", alarm.told]);
    }
}

#[test]
fn a_bucket_without_space_is_told_and_waited_out() {
    let _alone = alone();
    // As MinIO answers writes when its disks are full.
    let full = Fault::Refused(507, "XMinioStorageFull");
    let (bucket, trouble) = Trouble::with(Requests::writes(&["/"]));
    let mut fleet = Fleet::over(bucket, 600);
    fleet.configure("coordinator", "windows_in_flight", 1.into());
    let mut coordinator = fleet.start("coordinator");
    let mut worker = fleet.start("worker");
    coordinator.run_until(LIMIT, || fleet.shards() >= 20);
    trouble.begin(full);
    explained(&fleet, &mut coordinator, &["507", "XMinioStorageFull"]);
    let (watermark, objects) = (fleet.watermark(), fleet.objects());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(fleet.watermark(), watermark);
    assert_eq!(fleet.objects(), objects, "nothing is half there");
    let verified = fleet.json("verify --deep");
    assert_eq!((&verified["damaged"], &verified["missing"]), (&0.into(), &0.into()), "{verified}");
    let refused = "des_store_request_seconds_count{operation=\"put\",result=\"error\"}";
    let scrapes = [Scrape::of(&mut coordinator), Scrape::of(&mut worker)];
    let counted: f64 = scrapes.iter().filter_map(|it| it.values.get(refused)).sum();
    assert!(counted > 0.0, "no metric tells of it");

    trouble.end();
    fleet.wait_until_archived(LIMIT);
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
    assert_eq!(fleet.value("SELECT sum(attempts) FROM des_partitions"), "0", "files' fault?");
    coordinator.signal(Signal::TERM);
    coordinator.end(LIMIT).expect(0).says(["507", "XMinioStorageFull"]);
    assert!(worker.is_running());
}
