//! `des workers` and `des top` of a fleet.

use serde_json::json;

use crate::LIMIT;
use crate::setup::Fleet;

#[test]
fn workers_of_a_fleet_are_seen_at_work() {
    let mut fleet = Fleet::new(2_000);
    fleet.configure("coordinator", "partition_rows", json!(20));
    let mut worker = fleet.start("worker");
    // Only then has it read what is written anew now.
    worker.told("serving HTTP address=", LIMIT);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    fleet.configure("http", "listen", json!(address));
    let mut coordinator = fleet.start("coordinator");
    coordinator.run_until(LIMIT, || {
        let run = fleet.des("workers --output json");
        run.code == Some(0) && !run.json()["workers"].as_array().expect("workers").is_empty()
    });
    let told = fleet.json("workers");
    assert_eq!(
        (&told["listening"], told["workers"].as_array().map(Vec::len)),
        (&json!(1), Some(1))
    );
    let shown = fleet.des("top --once").expect(0).text();
    assert!(shown.contains("1 workers listen") && shown.contains("worker-"), "{shown}");
    fleet.wait_until_archived(LIMIT);
    let shown = fleet.des("top --once").expect(0).text();
    assert!(shown.contains("20 missing") && shown.contains("lag          0 s"), "{shown}");
    drop(worker);
}
