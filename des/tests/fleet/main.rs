//! The fleet, end to end: real `des` processes against a private PostgreSQL, a private RabbitMQ
//! and an S3 server over HTTP.
//!
//! `./test` starts the servers. `DES_TEST_FLEET_FILES` sets how many files the runs archive.

mod broker;
mod buckets;
mod encrypted;
mod explain;
mod failing;
mod faults;
mod frozen;
mod jobs;
mod late;
mod lines;
mod mounts;
mod observe;
mod operators;
mod pause;
mod privileges;
mod releases;
mod restored;
mod setup;
mod slow;
mod stalls;
mod stores;
mod strangers;
mod sync;
mod takeover;
mod throttle;
mod tls;
mod told;
mod top;
mod traces;
mod waits;

#[path = "../../../backends/tests/support/s3_server.rs"]
mod s3_server;

#[path = "../../../backends/tests/support/private_postgres.rs"]
mod private_postgres;

#[path = "../../../backends/tests/support/stalling_proxy.rs"]
mod stalling_proxy;

#[path = "../support/process.rs"]
mod process;

#[path = "../support/scrape.rs"]
mod scrape;

#[path = "../support/otlp.rs"]
mod otlp;

#[path = "../support/drill.rs"]
mod drill;

#[path = "../support/blocks.rs"]
mod blocks;

#[expect(dead_code, reason = "the tests of what is installed use all of it")]
#[path = "../install/programs.rs"]
mod programs;

use std::time::Duration;

use rustix::process::Signal;
use setup::{Fleet, files_wanted};

/// Everything here ends long before, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);

/// Past the test harness, which shows only what failing tests print: what was measured on the way.
fn note(text: &str) {
    use std::io::Write as _;
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).expect("stderr");
}

#[test]
fn a_fleet_archives_everything_or_writes_down_why_not() {
    let fleet = Fleet::new(files_wanted(2_000));
    let coordinator = fleet.start("coordinator");
    let workers: Vec<_> = (0..3).map(|_| fleet.start("worker")).collect();
    fleet.wait_until_archived(LIMIT);

    let stats = fleet.json("stats");
    assert_eq!(stats["failed_files"], 20, "{stats}");
    assert_eq!(stats["uncovered_files"], 0, "{stats}");
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    // A window with failed files, replayed: they are known, and nothing else is to be done.
    let before = fleet.objects();
    let replayed = fleet.json(&format!("replay --window {}", fleet.window_end(5)));
    assert_eq!(replayed["windows"], 0, "{replayed}");
    assert_eq!(fleet.objects(), before);
    assert_eq!(fleet.json("stats")["failed_files"], 20);

    // Draining: the workers and the coordinator end by themselves, with exit code 0.
    for process in workers.into_iter().chain([coordinator]) {
        process.signal(Signal::TERM);
        process.end(LIMIT).expect(0);
    }
    fleet.assert_source_untouched();
}

#[test]
fn a_replay_of_a_sound_window_changes_nothing() {
    let mut fleet = Fleet::new(600);
    let _coordinator = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    fleet.wait_until_archived(LIMIT);
    let before = fleet.objects();
    // The request is carried out by the coordinator that leads; this one stands by.
    let replayed = fleet.json(&format!("replay --window {}", fleet.window_end(5)));
    assert_eq!((&replayed["windows"], &replayed["held"]), (&0.into(), &serde_json::Value::Null));
    assert_eq!(fleet.objects(), before);
    // A late row is archived by a replay, as a revision of its own.
    let late = fleet.add_late_file(5);
    let shards = |objects: &std::collections::BTreeMap<String, u64>| {
        objects.keys().filter(|key| key.ends_with(".des")).count()
    };
    fleet.json(&format!("replay --window {}", fleet.window_end(5)));
    assert_eq!(shards(&fleet.objects()), shards(&before) + 1);
    fleet.assert_archived(&late);
    let verified = fleet.json("verify --deep");
    assert_eq!((&verified["damaged"], &verified["missing"]), (&0.into(), &0.into()));
}

#[test]
fn a_fleet_restores_what_is_damaged_and_finds_what_is_late() {
    let mut fleet = Fleet::new(600);
    let coordinator = fleet.start("coordinator");
    let _workers = [fleet.start("worker"), fleet.start("worker")];
    fleet.wait_until_archived(LIMIT);
    let late = fleet.add_late_file(5);
    // Whoever leads next counts the rows of windows that were committed lately, first of all.
    coordinator.signal(Signal::TERM);
    coordinator.end(LIMIT).expect(0);
    let mut coordinator = fleet.start("coordinator");
    let reconciled = "SELECT count(*) FROM des_windows WHERE revision > 0 AND state = 'committed'";
    coordinator.run_until(LIMIT, || fleet.value(reconciled) == "1");
    fleet.assert_archived(&late);

    let before = fleet.objects();
    let names: Vec<&String> = before.keys().collect();
    let shards = names.iter().filter(|key| key.ends_with(".des")).step_by(25);
    let big_files = names.iter().filter(|key| key.contains("_bigFiles/"));
    let damaged: Vec<&String> = shards.chain(big_files).copied().collect();
    assert!(damaged.len() > 5, "{damaged:?}");
    fleet.damage(&damaged);
    let all = format!("--from {} --to {}", fleet.window_end(0), fleet.window_end(10));
    let replayed = fleet.json(&format!("replay {all} --reason drill"));
    assert_eq!(replayed["found"]["objects_restored"], damaged.len(), "{replayed}");
    assert_eq!((&replayed["windows"], &replayed["held"]), (&0.into(), &serde_json::Value::Null));
    assert_eq!(fleet.objects(), before);
    let verified = fleet.json("verify --deep");
    assert_eq!((&verified["damaged"], &verified["missing"]), (&0.into(), &0.into()));
    // The missing files are still missing, and say so.
    let retried = fleet.json("retry-failed --all --reason drill");
    assert_eq!((&retried["still_failed"], &retried["files_archived"]), (&20.into(), &0.into()));
    let audit = "SELECT count(DISTINCT action) FROM des_audit_log WHERE reason = 'drill'";
    assert_eq!(fleet.value(audit), "2");
}

#[test]
fn killed_workers_and_coordinators_lose_nothing() {
    let fleet = Fleet::new(files_wanted(2_000));
    let mut coordinator = fleet.start("coordinator");
    let mut workers: Vec<_> = (0..3).map(|_| fleet.start("worker")).collect();

    coordinator.run_until(LIMIT, || fleet.shards() >= 20);
    let victim = workers.remove(0);
    victim.signal(Signal::KILL);
    victim.end(LIMIT);
    workers.push(fleet.start("worker"));
    let then = fleet.shards();
    coordinator.run_until(LIMIT, || fleet.shards() >= then + 20);
    coordinator.signal(Signal::KILL);
    coordinator.end(LIMIT);

    let _coordinator = fleet.start("coordinator");
    fleet.wait_until_archived(LIMIT);
    assert_eq!(fleet.json("stats")["failed_files"], 20);
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
}

#[test]
fn a_standby_takes_over_and_one_coordinator_leads() {
    let fleet = Fleet::new(800);
    let first = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    fleet.wait_until_archived(LIMIT);
    let _standby = fleet.start("coordinator");
    let epoch = fleet.epoch();
    first.signal(Signal::KILL);
    first.end(LIMIT);
    // The standby moves the epoch on and replays at our word.
    fleet.json(&format!("replay --window {}", fleet.window_end(3)));
    assert!(fleet.epoch() > epoch);
}

#[test]
fn what_cannot_be_reached_is_named() {
    let fleet = Fleet::new(20);
    for (key, value, told) in [
        ("broker.url", "amqp://des:wrong@127.0.0.1:1/%2f", "127.0.0.1:1"),
        ("database.url", "postgresql://des:wrong@127.0.0.1:1/files", "127.0.0.1:1"),
        ("store.endpoint", "http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("database.table_name", "no_such_table", "no_such_table"),
        ("database.location_column", "no_such_column", "no_such_column"),
    ] {
        let run = fleet.des_with(key, value, "coordinator");
        assert_ne!(run.code, Some(0), "{run}");
        let run = run.says([told]);
        assert!(!run.stderr.contains("wrong"), "a password is said:\n{run}");
    }
    assert!(fleet.objects().is_empty(), "nothing was to change");
    let check = fleet.json("migrate --check");
    let findings = check["findings"].as_array().expect("findings");
    assert!(findings.iter().any(|it| it["what"] == "broker" && it["verdict"] == "ok"), "{check}");
}
