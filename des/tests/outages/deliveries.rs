//! A task that takes longer than the broker lets a worker hold a delivery: RabbitMQ 3.10 closes the
//! channel and hands the task to another worker, while the first one goes on with it.

use rustix::process::Signal;
use serde_json::json;

use super::LIMIT;
use crate::buckets::{Fault, Requests, Trouble};
use crate::servers::{ShortPatience, alone};
use crate::setup::Fleet;
use crate::told::{assert_each_counts_once, counted, idle, mentioned};

#[test]
fn a_task_that_outlives_its_delivery_comes_back_and_counts_once() {
    let _alone = alone();
    let (bucket, trouble) = Trouble::with(Requests::WRITES_OF_SHARDS);
    let mut fleet = Fleet::over(bucket, 300);
    fleet.configure("coordinator", "windows_in_flight", json!(1));
    fleet.configure("worker", "slots", json!(1));
    // Longer than any other task takes, also on a busy machine.
    let patience = ShortPatience::of_millis(20_000);
    let mut coordinator = fleet.start("coordinator");
    let mut slow = fleet.start("worker");
    coordinator.run_until(LIMIT, || fleet.shards() >= 20);
    trouble.begin(Fault::Hang);
    coordinator.run_until(LIMIT, || trouble.met() > 0);

    // Whoever gets the task next does not know what became of the first one, and says so. Then it is
    // asked to do it, and is no faster.
    let mut other = fleet.start("worker");
    let interrupted =
        "des_partition_setbacks_total{class=\"interrupted\",counted=\"interruption\"}";
    counted(&mut coordinator, interrupted, 1.0);
    let told = "interrupted: a worker ended, or lost its connection";
    mentioned(&fleet, &mut coordinator, &[told]);
    assert!(!fleet.is_archived(), "nothing commits without it");
    trouble.end();
    fleet.wait_until_archived(LIMIT);
    // Both answer; one of them, for what the other one has done.
    [&mut slow, &mut other].into_iter().for_each(idle);
    assert_each_counts_once(&fleet, &mut coordinator, 280.0);
    let shards = fleet.contents(".des");
    fleet.json(&format!("replay --window {}", fleet.window_end(5)));
    assert_eq!(fleet.contents(".des"), shards);
    drop(patience);
    for process in [slow, other] {
        process.signal(Signal::TERM);
        process.end(LIMIT).expect(0);
    }
    coordinator.signal(Signal::TERM);
    coordinator.end(LIMIT).expect(0).says(["class=\"interrupted\"", "lost its connection"]);
}
