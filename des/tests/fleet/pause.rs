//! Pausing a fleet: what workers hold is finished and accepted, nothing else is begun, a successor
//! finds the same.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::LIMIT;
use crate::broker::{Broker, rabbitmqctl};
use crate::process::Running;
use crate::scrape::Scrape;
use crate::setup::Fleet;

/// For so long nothing may happen that is not to happen.
const WATCHED: Duration = Duration::from_secs(4);

fn number(fleet: &Fleet, sql: &str) -> u64 {
    fleet.try_value(sql).map_or(0, |text| text.parse().expect("a number"))
}

fn unfinished(fleet: &Fleet) -> u64 {
    number(fleet, "SELECT count(*) FROM des_partitions WHERE receipt IS NULL")
}

/// How old what the broker says of unacked messages may be.
const BROKER_COUNTS_WITHIN: Duration = Duration::from_secs(7);

/// Freezes the worker while it holds a task that it has not answered.
fn freeze_at_work(fleet: &Fleet, broker: &Broker, worker: &Running) {
    let deadline = Instant::now() + LIMIT;
    let is_at_work = || unfinished(fleet) > u64::from(broker.waiting("tasks"));
    loop {
        worker.signal(Signal::STOP);
        // What it answered before arrives.
        std::thread::sleep(Duration::from_millis(700));
        if broker.waiting("tasks") > 0 && is_at_work() {
            // On a busy machine an answer is longer on its way: that it holds one is for the broker to say.
            std::thread::sleep(BROKER_COUNTS_WITHIN);
            if broker.unacked("tasks") > 0 && is_at_work() {
                return;
            }
        }
        assert!(Instant::now() < deadline, "it is never at work");
        worker.signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until so many tasks are said to be unacked, by the coordinator and by the broker itself, which
/// counts them every few seconds.
#[track_caller]
fn until_unacked(coordinator: &mut Running, broker: &Broker, tasks: u64) {
    let key = "des_queue_unacked{queue=\"tasks\"}";
    coordinator.told("serving HTTP address=", LIMIT);
    let deadline = Instant::now() + LIMIT;
    loop {
        let said = Scrape::of(coordinator).values.get(key).copied();
        let counted = broker.unacked("tasks");
        if said == Some(tasks as f64) && counted == tasks {
            return;
        }
        let told = format!("{said:?} are said to be unacked, and {counted} are");
        assert!(Instant::now() < deadline, "{told}, and not {tasks}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Nothing is published, nothing planned, nothing finished.
#[track_caller]
fn assert_at_rest(fleet: &Fleet, broker: &Broker) {
    let state = || {
        let windows = number(fleet, "SELECT count(*) FROM des_windows");
        (unfinished(fleet), windows, fleet.shards(), fleet.watermark())
    };
    let (before, deadline) = (state(), Instant::now() + WATCHED);
    while Instant::now() < deadline {
        assert_eq!(broker.waiting("tasks"), 0, "a task was published");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(state(), before);
}

#[test]
fn a_paused_fleet_finishes_what_workers_hold_and_begins_nothing() {
    let mut fleet = Fleet::new(1_000);
    fleet.configure("coordinator", "partition_rows", json!(5));
    fleet.configure("worker", "slots", json!(1));
    let mut coordinator = fleet.start("coordinator");
    coordinator.run_until(LIMIT, || unfinished(&fleet) > 0);
    let broker = Broker::of(&fleet);
    let mut worker = fleet.start("worker");
    coordinator.run_until(LIMIT, || fleet.shards() > 0);
    freeze_at_work(&fleet, &broker, &worker);
    until_unacked(&mut coordinator, &broker, 1);

    let paused = fleet.json("pause --reason backup");
    coordinator.run_until(LIMIT, || broker.waiting("tasks") == 0);
    let left = unfinished(&fleet);
    worker.signal(Signal::CONT);
    coordinator.run_until(LIMIT, || unfinished(&fleet) < left);
    assert_at_rest(&fleet, &broker);
    until_unacked(&mut coordinator, &broker, 0);
    let facts = fleet.json("explain");
    assert_eq!(facts["paused"]["since"], paused["since"], "{facts}");

    // A successor finds it paused, and says so.
    let epoch = fleet.epoch();
    coordinator.signal(Signal::KILL);
    coordinator.end(LIMIT);
    let mut coordinator = fleet.start("coordinator");
    coordinator.run_until(LIMIT, || fleet.epoch() > epoch);
    assert_at_rest(&fleet, &broker);
    // Whoever only wants one run is told, and does not wait.
    let run = fleet.des("migrate --output json").expect(1);
    assert_eq!(run.json()["paused"]["reason"], "backup", "{run}");
    assert!(unfinished(&fleet) > 0, "there is something that could have been done");

    fleet.json("resume --reason done");
    fleet.wait_until_archived(LIMIT);
    assert!(worker.is_running(), "it stayed");
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
    let log = "SELECT string_agg(action || ' ' || reason, ', ' ORDER BY id) FROM des_audit_log \
               WHERE action IN ('pause', 'resume') AND actor LIKE '%@%'";
    assert_eq!(fleet.value(log), "pause backup, resume done");
    coordinator.signal(Signal::TERM);
    coordinator.end(LIMIT).expect(0).says(["paused since", "resumed"]);
}

/// How often either side of a connection has to be heard of, in seconds. Nobody else has it so short, by
/// which this fleet's connections are known.
const HEARTBEAT: u64 = 5;

/// Which connections the fleet has: when each began, and between which ports.
fn connections() -> BTreeSet<String> {
    let told = rabbitmqctl(&["list_connections", "timeout", "connected_at", "name"]);
    let ours = format!("{HEARTBEAT}\t");
    told.lines().filter(|line| line.starts_with(&ours)).map(str::to_owned).collect()
}

/// The fleet's sessions with the database, of which there are some: their processes there, and when each
/// began.
fn sessions(fleet: &Fleet, lately: &str) -> BTreeSet<String> {
    let [role, _] = fleet.secrets();
    let told = fleet.value(&format!(
        "SELECT string_agg(pid || ' since ' || backend_start, ',') FROM pg_stat_activity \
         WHERE usename = '{role}' AND application_name = 'des' {lately}"
    ));
    told.split(',').map(str::to_owned).collect()
}

/// Whoever is not heard of for two heartbeats is put out by the broker: to stay is to be alive. What holds
/// for many of them holds for those of days.
#[test]
fn connections_outlive_a_pause() {
    let mut fleet = Fleet::new(200);
    fleet.configure("coordinator", "partition_rows", json!(5));
    let url = format!("{}?heartbeat={HEARTBEAT}", fleet.broker().0);
    fleet.configure("broker", "url", json!(url));
    // So that some is left when the pause comes.
    fleet.json("init");
    fleet.json("throttle --max-files-per-second 10 --reason drill");
    let mut coordinator = fleet.start("coordinator");
    let mut worker = fleet.start("worker");
    coordinator.run_until(LIMIT, || fleet.shards() > 0);
    fleet.json("pause --reason backup");
    let mut left = unfinished(&fleet);
    coordinator.run_until(LIMIT, || {
        std::thread::sleep(Duration::from_secs(5));
        std::mem::replace(&mut left, unfinished(&fleet)) == left
    });
    assert!(left > 0, "there is something to go on with");
    let (before, epoch) = (connections(), fleet.epoch());
    assert!(before.len() >= 2, "coordinator and worker have some: {before:?}");
    // Those that were of no use for minutes may be closed.
    let with_database = sessions(&fleet, "AND now() - state_change < INTERVAL '1 min'");

    std::thread::sleep(Duration::from_secs(4 * HEARTBEAT));
    assert_eq!((connections(), fleet.epoch()), (before, epoch));
    assert_eq!(unfinished(&fleet), left, "nothing was done meanwhile");
    let then = sessions(&fleet, "");
    assert!(with_database.is_subset(&then), "some ended: {with_database:?}, {then:?}");
    fleet.json("throttle --off --reason done");
    fleet.json("resume --reason done");
    coordinator.run_until(LIMIT, || fleet.is_archived());
    assert!(worker.is_running(), "it stayed");
    assert_eq!(fleet.epoch(), epoch);
    fleet.assert_everything_is_there();
    for it in [coordinator, worker] {
        it.signal(Signal::TERM);
        let run = it.end(LIMIT).expect(0);
        assert!(!run.stderr.contains("no connection; trying for ever"), "{run}");
        assert!(!run.stderr.contains("consuming stopped"), "{run}");
    }
}
