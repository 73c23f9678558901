//! Stores with one thing wrong with them, while a fleet is at work. As long as it lasts nothing is
//! lost or given up, and the reason is told; then everything is archived. What is wrong with a store
//! as a whole, such as a bucket without space, is tried in `outages`.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::LIMIT;
use crate::buckets::{Fault, Requests, Trouble};
use crate::process::Running;
use crate::scrape::Scrape;
use crate::setup::Fleet;
use crate::told::{counted, explained};

/// Setbacks for the store's sake, none of which counts against anything.
const SETBACKS: &str = "des_partition_setbacks_total{class=\"store\",counted=\"nothing\"}";

/// A fleet over a bucket that may treat these requests badly.
fn fleet(requests: Requests) -> (Fleet, Trouble) {
    let (bucket, trouble) = Trouble::with(requests);
    let mut fleet = Fleet::over(bucket, 300);
    fleet.configure("coordinator", "windows_in_flight", json!(1));
    // With the patience of two attempts nothing may be blamed on files.
    fleet.configure("coordinator", "max_attempts", json!(2));
    (fleet, trouble)
}

/// Has a fleet live through a fault of the requests of its workers, of which `des explain` says
/// `told`.
fn outlives(fault: Fault, requests: Requests, told: &[&str]) {
    let (fleet, trouble) = fleet(requests);
    let mut coordinator = fleet.start("coordinator");
    let mut worker = fleet.start("worker");
    coordinator.run_until(LIMIT, || fleet.shards() >= 20);

    trouble.begin(fault);
    explained(&fleet, &mut coordinator, told);
    counted(&mut coordinator, SETBACKS, 2.0);
    let of_worker = Scrape::of(&mut worker);
    assert!(of_worker.value("des_worker_tasks_total{result=\"store\"}") >= 2.0, "{fault:?}");
    assert!(errors(&of_worker) > 0.0, "{fault:?}: requests fail, and no metric tells of it");
    assert!(trouble.met() > 0, "{fault:?}");
    assert!(!fleet.is_archived(), "{fault:?}: it is to be at work");
    assert_nothing_is_lost(&fleet, &mut coordinator);

    trouble.end();
    fleet.wait_until_archived(LIMIT);
    assert_everything_is_archived(&fleet, &mut coordinator);
    for process in [worker, coordinator] {
        process.signal(Signal::TERM);
        process.end(LIMIT).expect(0).says(told);
    }
}

fn errors(scrape: &Scrape) -> f64 {
    let of = |operation| {
        let labels = format!("operation=\"{operation}\",result=\"error\"");
        scrape.value(&format!("des_store_request_seconds_count{{{labels}}}"))
    };
    of("put") + of("get")
}

/// What is committed is whole, and nothing is given up.
#[track_caller]
fn assert_nothing_is_lost(fleet: &Fleet, coordinator: &mut Running) {
    let given_up = "SELECT count(*) FROM des_migration_errors WHERE reason <> 'missing'";
    assert_eq!(fleet.value(given_up), "0");
    assert_eq!(Scrape::of(coordinator).value("des_partitions_given_up_total"), 0.0);
    assert_eq!(Scrape::of(coordinator).value("des_partitions_split_total"), 0.0);
    let counted = "SELECT coalesce(sum(attempts + interruptions), 0) FROM des_partitions";
    assert_eq!(fleet.value(counted), "0", "files' fault?");
}

#[track_caller]
fn assert_everything_is_archived(fleet: &Fleet, coordinator: &mut Running) {
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
    assert_nothing_is_lost(fleet, coordinator);
    // Of what was done twice, or answered twice, each file is counted once.
    let committed = Scrape::of(coordinator);
    let files =
        |result| committed.value(&format!("des_migration_files_total{{result=\"{result}\"}}"));
    assert_eq!((files("archived"), files("failed")), (280.0, 20.0));
    let told = fleet.des("explain").expect(0).text();
    assert!(told.starts_with("Nothing is due"), "{told}");
}

#[test]
fn an_internal_error_is_told_and_waited_out() {
    let fault = Fault::Refused(500, "InternalError");
    outlives(fault, Requests::WRITES_OF_WORKERS, &["500", "InternalError"]);
}

#[test]
fn a_store_that_asks_to_slow_down_is_told_and_waited_out() {
    let fault = Fault::Refused(503, "SlowDown");
    outlives(fault, Requests::WRITES_OF_WORKERS, &["503", "SlowDown"]);
}

#[test]
fn a_store_that_refuses_is_told_and_waited_out() {
    let fault = Fault::Refused(403, "AccessDenied");
    outlives(fault, Requests::WRITES_OF_WORKERS, &["403", "AccessDenied"]);
}

#[test]
fn answers_to_writes_that_are_lost_are_told_and_waited_out() {
    let told = &["cannot write", "connection closed"];
    outlives(Fault::AnswerLost, Requests::WRITES_OF_WORKERS, told);
}

#[test]
fn bodies_that_break_off_are_told_and_waited_out() {
    let told = &["cannot read _des/manifests/"];
    outlives(Fault::BodyCut, Requests::READS_OF_MANIFESTS, told);
}

/// It takes the minute that an answer may take.
#[test]
fn a_connection_that_hangs_is_told_and_waited_out() {
    let told = &["cannot write", "no answer within 60 s"];
    outlives(Fault::Hang, Requests::WRITES_OF_WORKERS, told);
}

#[test]
fn a_slow_connection_costs_time_and_nothing_else() {
    const SLOW: Duration = Duration::from_secs(3);
    let (fleet, trouble) = fleet(Requests::WRITES_OF_WORKERS);
    let mut coordinator = fleet.start("coordinator");
    let mut worker = fleet.start("worker");
    coordinator.run_until(LIMIT, || fleet.shards() >= 20);
    trouble.begin(Fault::Slow(SLOW));
    let watermark = fleet.watermark();
    coordinator.run_until(LIMIT, || trouble.met() > 0);
    explained(&fleet, &mut coordinator, &["The watermark is moving"]);
    coordinator.run_until(LIMIT, || fleet.watermark() > watermark);
    // Which the worker's metrics tell: so many of its writes take longer than half a second.
    let slow = |scrape: &Scrape| {
        let of = |bound| {
            let labels = format!("operation=\"put\",result=\"ok\",le=\"{bound}\"");
            scrape.value(&format!("des_store_request_seconds_bucket{{{labels}}}"))
        };
        of("+Inf") - of("0.5")
    };
    assert!(slow(&Scrape::of(&mut worker)) > 0.0, "no metric tells of it");
    assert_nothing_is_lost(&fleet, &mut coordinator);
    trouble.end();
    fleet.wait_until_archived(LIMIT);
    assert_everything_is_archived(&fleet, &mut coordinator);
    assert_eq!(Scrape::of(&mut coordinator).value(SETBACKS), 0.0, "slow is no trouble");
}

/// The certificate is there, and the window not committed: it is certified again, by a leader of a
/// later epoch, and counts once.
#[test]
fn certificates_of_which_the_answer_is_lost_or_refused_are_told_and_written_again() {
    for (fault, told) in [
        (Fault::AnswerLost, "connection closed"),
        (Fault::Refused(500, "InternalError"), "InternalError"),
    ] {
        let (fleet, trouble) = fleet(Requests::WRITES_OF_CERTIFICATES);
        let mut coordinator = fleet.start("coordinator");
        let _worker = fleet.start("worker");
        coordinator.run_until(LIMIT, || fleet.shards() >= 20);
        trouble.begin(fault);
        coordinator.run_until(LIMIT, || trouble.met() > 0);
        let watermark = fleet.watermark();
        explained(&fleet, &mut coordinator, &["_des/certificates/", told]);
        assert_eq!(fleet.watermark(), watermark, "{fault:?}");
        assert_nothing_is_lost(&fleet, &mut coordinator);
        trouble.end();
        fleet.wait_until_archived(LIMIT);
        assert_everything_is_archived(&fleet, &mut coordinator);
        coordinator.signal(Signal::TERM);
        coordinator.end(LIMIT).expect(0).says(["_des/certificates/", told]);
    }
}
