//! Throttling a fleet: it waits while the source database says so, tells it everywhere, and goes on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::LIMIT;
use crate::broker::Broker;
use crate::process::Running;
use crate::scrape::{Scrape, get};
use crate::setup::Fleet;

/// For so long nothing may happen that is not to happen.
const WATCHED: Duration = Duration::from_secs(3);

fn unfinished(fleet: &Fleet) -> u64 {
    let sql = "SELECT count(*) FROM des_partitions WHERE receipt IS NULL";
    fleet.try_value(sql).map_or(0, |text| text.parse().expect("a number"))
}

/// Waits until `explain` says that somebody leads and that a reason of this kind holds; gives what
/// it says.
#[track_caller]
fn until_throttled(fleet: &Fleet, coordinator: &mut Running, kind: &str) -> Value {
    let mut facts = Value::Null;
    coordinator.run_until(LIMIT, || {
        facts = fleet.json("explain");
        let nobody = facts["explanation"].as_str().is_none_or(|it| it.contains("nobody leads"));
        !nobody && facts["throttled"]["kind"] == kind
    });
    facts
}

/// Nothing is published, planned or finished.
#[track_caller]
fn assert_at_rest(fleet: &Fleet, broker: &Broker) {
    let windows = "SELECT count(*) FROM des_windows";
    let state = || (unfinished(fleet), fleet.try_value(windows), fleet.shards(), fleet.watermark());
    let (before, deadline) = (state(), Instant::now() + WATCHED);
    while Instant::now() < deadline {
        assert_eq!(broker.waiting("tasks"), 0, "a task was published");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(state(), before);
}

/// Waits until the metric says so of this reason, and of no other.
#[track_caller]
fn until_measured(coordinator: &mut Running, kind: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let scrape = Scrape::of(coordinator);
        let holds = |(key, value): (&String, &f64)| {
            (key.starts_with("des_throttled{") && *value == 1.0).then(|| key.clone())
        };
        let holding: Vec<_> = scrape.values.iter().filter_map(holds).collect();
        if holding == [format!("des_throttled{{reason=\"{kind}\"}}")] {
            return;
        }
        assert!(Instant::now() < deadline, "{kind} does not hold, but {holding:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_fleet_waits_while_the_source_database_is_busy() {
    let mut fleet = Fleet::new(600);
    fleet.configure("coordinator", "partition_rows", json!(5));
    fleet.configure("worker", "slots", json!(1));
    let section = json!({"query": "SELECT jobs FROM archive.busy", "check_every": "1s"});
    for (key, value) in section.as_object().expect("keys") {
        fleet.configure("throttle", key, value.clone());
    }
    let mut coordinator = fleet.start("coordinator");
    let mut worker = fleet.start("worker");

    // The table is not there: what cannot be asked counts as wait.
    let facts = until_throttled(&fleet, &mut coordinator, "check_failed");
    let sentence = facts["explanation"].as_str().expect("a sentence");
    assert!(sentence.contains("counts as wait") && sentence.contains("archive.busy"), "{sentence}");
    until_measured(&mut coordinator, "check_failed");
    let broker = Broker::of(&fleet);
    assert_at_rest(&fleet, &broker);
    assert_eq!(fleet.shards(), 0);

    fleet.execute("CREATE TABLE archive.busy AS SELECT 5 AS jobs");
    let facts = until_throttled(&fleet, &mut coordinator, "query");
    let reason = facts["throttled"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("answers 5, and more than 0 means wait"), "{reason}");
    until_measured(&mut coordinator, "query");
    let (status, told) = get(&mut coordinator, "/api/status");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(
        (status, &told["tone"], &told["throttled"]),
        (200, &json!("throttled"), &facts["throttled"])
    );
    assert_eq!(told["explanation"], facts["explanation"], "the same words");
    assert_eq!(get(&mut coordinator, "/readyz").0, 200, "it does its work, which is to wait");

    fleet.execute("UPDATE archive.busy SET jobs = 0");
    coordinator.run_until(LIMIT, || fleet.shards() > 10);
    // In the middle: what is in the queue is taken back, what a worker holds is finished.
    fleet.execute("UPDATE archive.busy SET jobs = 1");
    until_throttled(&fleet, &mut coordinator, "query");
    let left = || (unfinished(&fleet), fleet.shards());
    let mut before = left();
    let deadline = Instant::now() + LIMIT;
    loop {
        std::thread::sleep(Duration::from_secs(2));
        let now = left();
        if now == before {
            break;
        }
        assert!(Instant::now() < deadline, "it never comes to rest: {now:?}");
        before = now;
    }
    assert!(before.0 > 0, "there is something that could have been done");
    assert_at_rest(&fleet, &broker);

    fleet.execute("DELETE FROM archive.busy");
    fleet.wait_until_archived(LIMIT);
    assert!(worker.is_running(), "it stayed");
    assert_eq!(fleet.json("explain")["throttled"], json!(null));
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
    fleet.assert_source_untouched();
}

#[test]
fn a_live_rate_spaces_tasks_out_until_it_is_taken_back() {
    let mut fleet = Fleet::new(400);
    fleet.configure("coordinator", "partition_rows", json!(10));
    fleet.json("init");
    fleet.json("throttle --max-files-per-second 5 --reason month-end");
    let mut coordinator = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    let facts = until_throttled(&fleet, &mut coordinator, "files_per_second");
    let sentence = facts["explanation"].as_str().expect("a sentence");
    let told = "max_files_per_second lets at most 5 files per second begin";
    assert!(sentence.ends_with(told) && sentence.contains(" of "), "{sentence}");
    until_measured(&mut coordinator, "files_per_second");
    let published = |coordinator: &mut Running| {
        let scrape = Scrape::of(coordinator);
        scrape.values.get("des_tasks_published_total").copied().unwrap_or_default()
    };
    let (before, began) = (published(&mut coordinator), Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    let (more, seconds) = (published(&mut coordinator) - before, began.elapsed().as_secs_f64());
    // A window's partitions have at most ten files each; those of fewer are paid off sooner.
    let least = fleet.value("SELECT min(row_count) FROM des_partitions WHERE row_count > 0");
    let least: f64 = least.parse().expect("a number");
    assert!(
        more <= (seconds + 1.0) * 5.0 / least + 1.0,
        "{more} tasks of {least} files in {seconds} s"
    );

    fleet.json("throttle --off --reason over");
    fleet.wait_until_archived(LIMIT);
    fleet.assert_everything_is_there();
    let log = "SELECT string_agg(reason || ': ' || to_value, ', ' ORDER BY id) FROM des_audit_log \
               WHERE action = 'throttle' AND actor LIKE '%@%'";
    let expected = "month-end: at most 5 files per second, over: as configured";
    assert_eq!(fleet.value(log), expected);
}
