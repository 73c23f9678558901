//! A fleet with something going wrong on purpose: leaders that freeze, queues that repeat, lose and
//! hold what nobody can read, a database that refuses.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::broker::Broker;
use crate::process::Running;
use crate::scrape::get;
use crate::setup::Fleet;
use crate::told::explained;
use crate::{LIMIT, note};

/// The coordinator that holds the lease, and the other one.
fn by_lease(fleet: &Fleet, coordinators: Vec<Running>) -> (Running, Vec<Running>) {
    let holder = fleet.value("SELECT holder FROM des_lease");
    let (mut leading, standing_by): (Vec<_>, Vec<_>) =
        coordinators.into_iter().partition(|it| holder.contains(&format!("-{}-", it.pid())));
    (leading.pop().expect("one of them leads"), standing_by)
}

/// Waits until the process says on `/readyz` that it cannot do its work, and all of this.
#[track_caller]
fn not_ready(process: &mut Running, told: &[&str]) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (status, why) = get(process, "/readyz");
        if status == 503 && told.iter().all(|text| why.contains(text)) {
            return;
        }
        assert!(Instant::now() < deadline, "{told:?} is not said: {status} {why}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn two_coordinators(fleet: &Fleet) -> (Running, Vec<Running>) {
    let mut first = fleet.start("coordinator");
    first.run_until(LIMIT, || fleet.try_value("SELECT epoch FROM des_lease").is_some());
    let second = fleet.start("coordinator");
    first.run_until(LIMIT, || fleet.epoch() > 0);
    by_lease(fleet, vec![first, second])
}

#[test]
fn a_frozen_leader_loses_the_lease_and_commits_nothing_more() {
    let fleet = Fleet::new(1_500);
    let (mut frozen, mut others) = two_coordinators(&fleet);
    let _workers: Vec<_> = (0..2).map(|_| fleet.start("worker")).collect();
    let mut standby = others.pop().expect("it stands by");
    frozen.run_until(LIMIT, || fleet.shards() >= 20);

    let epoch = fleet.epoch();
    let since = Instant::now();
    frozen.signal(Signal::STOP);
    standby.run_until(LIMIT, || fleet.epoch() > epoch);
    note(&format!("a standby leads {:?} after its leader froze", since.elapsed()));
    let (watermark, leads) = (fleet.watermark(), fleet.epoch());
    frozen.signal(Signal::CONT);
    fleet.wait_until_archived(LIMIT);

    assert!(frozen.is_running(), "it stands by again");
    assert!(fleet.watermark() > watermark);
    assert_eq!(fleet.epoch(), leads, "nobody took the lease from the new leader");
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();

    standby.signal(Signal::KILL);
    frozen.run_until(LIMIT, || fleet.epoch() > leads);
    fleet.json(&format!("replay --window {}", fleet.window_end(3)));
}

#[test]
fn a_leader_that_is_stopped_hands_over_at_once() {
    let mut fleet = Fleet::new(400);
    // What waits for it to expire waits longer than this test does.
    fleet.configure("coordinator", "lease_ttl", json!("3600s"));
    let (leading, mut others) = two_coordinators(&fleet);
    let mut standby = others.pop().expect("it stands by");
    let _worker = fleet.start("worker");
    standby.run_until(LIMIT, || fleet.shards() > 0);
    let epoch = fleet.epoch();
    let since = Instant::now();
    leading.signal(Signal::TERM);
    standby.run_until(LIMIT, || fleet.epoch() > epoch);
    note(&format!("a standby leads {:?} after its leader was told to stop", since.elapsed()));
    leading.end(LIMIT).expect(0);
    fleet.wait_until_archived(LIMIT);
    fleet.assert_everything_is_there();
    fleet.assert_committed_once();
}

#[test]
fn messages_that_come_three_times_change_nothing() {
    let fleet = Fleet::new(1_000);
    let broker = Broker::of(&fleet);
    let repeating = broker.repeat_everything(2);
    let _coordinator = fleet.start("coordinator");
    let _workers: Vec<_> = (0..2).map(|_| fleet.start("worker")).collect();
    fleet.wait_until_archived(LIMIT);
    let repeated = repeating.stop();
    assert!(repeated >= 40, "tasks and outcomes of ten windows, and only {repeated} were repeated");
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
}

#[test]
fn a_queue_that_is_emptied_costs_time_and_nothing_else() {
    let fleet = Fleet::new(1_000);
    let broker = Broker::of(&fleet);
    let mut coordinator = fleet.start("coordinator");
    // Nobody takes the tasks yet.
    coordinator.run_until(LIMIT, || broker.waiting("tasks") > 0);
    assert!(broker.purge("tasks") > 0);
    let _workers: Vec<_> = (0..2).map(|_| fleet.start("worker")).collect();
    coordinator.run_until(LIMIT, || fleet.shards() > 0);
    broker.purge("outcomes");
    broker.delete("tasks");
    fleet.wait_until_archived(LIMIT);
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
}

#[test]
fn what_nobody_can_read_is_kept_as_a_dead_letter() {
    let fleet = Fleet::new(300);
    let broker = Broker::of(&fleet);
    let mut coordinator = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    // Before it leads it empties the queue of tasks, which would be the end of these.
    coordinator.run_until(LIMIT, || fleet.shards() > 0);
    for lane in ["tasks", "outcomes"] {
        broker.publish(lane, "des.task.v1", b"{ this is no message");
        broker.publish(lane, "des.task.v1", b"{\"version\": 99}");
    }
    coordinator.run_until(LIMIT, || broker.waiting("dead") == 4);
    let reasons = broker.dead_letter_reasons();
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    assert!(reasons.iter().all(|(from, why)| !why.is_empty() && !from.is_empty()), "{reasons:?}");
    fleet.wait_until_archived(LIMIT);
    fleet.assert_everything_is_there();
}

#[test]
fn a_database_that_refuses_for_a_while_costs_time_and_nothing_else() {
    let fleet = Fleet::new(1_500);
    let mut coordinator = fleet.start("coordinator");
    let _workers: Vec<_> = (0..2).map(|_| fleet.start("worker")).collect();
    coordinator.run_until(LIMIT, || fleet.shards() >= 20);
    let moved = |coordinator: &mut Running, fleet: &Fleet| {
        let before = fleet.watermark();
        coordinator.run_until(LIMIT, || fleet.watermark() > before || fleet.is_archived());
    };
    fleet.end_sessions();
    moved(&mut coordinator, &fleet);

    fleet.alter_database("SET default_transaction_read_only = on");
    fleet.end_sessions();
    std::thread::sleep(Duration::from_secs(2));
    fleet.alter_database("RESET default_transaction_read_only");
    fleet.end_sessions();
    moved(&mut coordinator, &fleet);

    fleet.alter_database("CONNECTION LIMIT 0");
    fleet.end_sessions();
    explained(&fleet, &mut coordinator, &["too many connections"]);
    not_ready(&mut coordinator, &["too many connections"]);
    fleet.alter_database("CONNECTION LIMIT -1");
    fleet.wait_until_archived(LIMIT);
    assert!(coordinator.is_running());
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
}
