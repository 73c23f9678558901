//! What a fleet serves over HTTP: every metric of the paper and no other, and right numbers, also
//! after faults and takeovers.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::LIMIT;
use crate::process::Running;
use crate::scrape::{Known, LabelValues, Scrape, get, label_values_of_paper, of_paper};
use crate::setup::Fleet;

/// Scrapes until `told` holds, and gives that scrape.
#[track_caller]
fn scrape_until(process: &mut Running, told: impl Fn(&Scrape) -> bool) -> Scrape {
    let deadline = Instant::now() + LIMIT;
    loop {
        let scrape = Scrape::of(process);
        if told(&scrape) {
            return scrape;
        }
        assert!(Instant::now() < deadline, "it never comes to that: {:#?}", scrape.values);
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[track_caller]
fn assert_as_in_the_paper(process: &mut Running, roles: &[&str]) -> Scrape {
    let paper = of_paper(roles);
    let same = |scrape: &Scrape| scrape.known == paper;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let scrape = Scrape::of(process);
        if same(&scrape) {
            return scrape;
        }
        let only = |a: &Known, b: &Known| -> Vec<String> {
            a.iter()
                .filter(|(name, it)| b.get(*name) != Some(it))
                .map(|it| format!("{it:?}"))
                .collect()
        };
        let (served, written) = (only(&scrape.known, &paper), only(&paper, &scrape.known));
        assert!(
            Instant::now() < deadline,
            "served and not in the paper: {served:#?}\nin the paper and not served: {written:#?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What processes serve together is what the paper lists, label by label.
#[track_caller]
fn assert_labels_have_the_values_of_the_paper(scrapes: [Scrape; 3]) {
    let mut served = LabelValues::new();
    for (label, values) in scrapes.into_iter().flat_map(|it| it.label_values) {
        served.entry(label).or_default().extend(values);
    }
    for (label, listed) in label_values_of_paper() {
        let values = served.remove(&label).unwrap_or_else(|| panic!("{label:?} is not served"));
        assert_eq!(values, listed, "{label:?}: served, and in the paper");
    }
    let not_listed: Vec<_> = served.keys().map(|(name, _)| name.as_str()).collect();
    assert_eq!(not_listed, ["des_errors"], "its reasons are those of error rows");
}

/// Waits until the process leads.
fn wait_for_lead(process: &mut Running) {
    scrape_until(process, |scrape| scrape.value("des_leading") == 1.0);
}

/// The ledger's own count of error rows, reason by reason.
#[track_caller]
fn assert_errors_are_the_ledgers(fleet: &Fleet, scrape: &Scrape) {
    let sql = "SELECT coalesce(json_object_agg(reason, files), '{}') FROM (SELECT reason, \
               count(*) AS files FROM des_migration_errors WHERE resolved_at IS NULL \
               GROUP BY reason) AS by_reason";
    let ledger: Value = serde_json::from_str(&fleet.value(sql)).expect("JSON");
    let mut reasons = 0;
    for (key, value) in &scrape.values {
        let Some(reason) = key.strip_prefix("des_errors{reason=\"") else { continue };
        let reason = reason.trim_end_matches("\"}");
        assert_eq!(*value, ledger[reason].as_f64().unwrap_or(0.0), "{reason}: {ledger}");
        reasons += 1;
    }
    assert!(reasons >= ledger.as_object().expect("an object").len(), "{ledger}");
}

const FILES: [&str; 2] = [
    "des_migration_files_total{result=\"archived\"}",
    "des_migration_files_total{result=\"failed\"}",
];

#[test]
fn every_metric_of_the_paper_is_served_and_no_other() {
    let fleet = Fleet::new(600);
    let mut waiting = fleet.start("worker");
    let (status, why) = get(&mut waiting, "/readyz");
    assert_eq!((status, why.contains("archive")), (503, true), "{why}");
    let mut leader = fleet.start("coordinator");
    wait_for_lead(&mut leader);
    let mut standby = fleet.start("coordinator");
    fleet.wait_until_archived(LIMIT);

    let of_leader = assert_as_in_the_paper(&mut leader, &["all", "coordinator", "leader"]);
    let scrape = &of_leader;
    assert_eq!(FILES.map(|key| scrape.value(key)), [580.0, 20.0]);
    assert_eq!(scrape.value("des_lease_epoch"), fleet.epoch() as f64);
    let scrape = scrape_until(&mut leader, |scrape| {
        scrape.value("des_windows{state=\"open\"}") == 0.0
            && scrape.value("des_watermark_lag_seconds") == 0.0
    });
    assert_errors_are_the_ledgers(&fleet, &scrape);
    assert_eq!(scrape.value("des_errors{reason=\"missing\"}"), 20.0);
    assert_eq!(scrape.value("des_migration_files_pending"), 0.0);
    assert_eq!(scrape.value("des_backlog_seconds"), 0.0);
    assert_eq!(scrape.value("des_queue_consumers{queue=\"tasks\"}"), 1.0);
    assert_eq!(scrape.value("des_queue_ready{queue=\"tasks\"}"), 0.0);
    assert!(scrape.value("des_migration_duration_seconds_count") >= 10.0);
    let stored = fleet.value("SELECT sum(bytes_stored) FROM des_windows");
    let counted = scrape.value("des_migration_bytes_total{kind=\"stored\"}");
    assert_eq!(counted.to_string(), stored);
    let setbacks = fleet.value("SELECT sum(setbacks) FROM des_partitions");
    let files = "des_partition_setbacks_total{class=\"files\",counted=\"nothing\"}";
    assert_eq!(scrape.value(files).to_string(), setbacks, "looks at missing files");

    let of_standby = assert_as_in_the_paper(&mut standby, &["all", "coordinator"]);
    let scrape = &of_standby;
    assert_eq!((scrape.value("des_leading"), scrape.value("des_ready")), (0.0, 1.0));
    assert_eq!(FILES.map(|key| scrape.value(key)), [0.0, 0.0]);
    let (status, told) = get(&mut standby, "/readyz");
    assert_eq!((status, told.starts_with("standing by: coordinator-")), (200, true), "{told}");
    let (status, told) = get(&mut leader, "/readyz");
    assert_eq!((status, told.as_str()), (200, "leading\n"));

    let of_worker = assert_as_in_the_paper(&mut waiting, &["all", "worker"]);
    let scrape = &of_worker;
    assert_eq!(scrape.value("des_worker_slots_busy"), 0.0);
    let accepted = fleet.value("SELECT count(*) + sum(setbacks) FROM des_partitions");
    let done = scrape.value("des_worker_tasks_total{result=\"done\"}");
    assert_eq!(done.to_string(), accepted, "every answer was this worker's");
    assert!(scrape.value("des_source_read_seconds_count") >= 580.0);
    let puts = "des_store_request_seconds_count{operation=\"put\",result=\"ok\"}";
    assert!(scrape.value(puts) >= fleet.shards() as f64);
    assert!(scrape.value("process_resident_memory_bytes") > 1e6);
    assert_eq!(get(&mut waiting, "/healthz").0, 200);
    assert_eq!(get(&mut waiting, "/readyz"), (200, "taking tasks\n".to_owned()));
    assert_eq!(get(&mut waiting, "/elsewhere").0, 404);
    assert_labels_have_the_values_of_the_paper([of_leader, of_standby, of_worker]);
}

#[test]
fn figures_are_right_after_a_takeover_and_a_frozen_leader_shows_none() {
    let fleet = Fleet::new(400);
    let mut leader = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    wait_for_lead(&mut leader);
    fleet.wait_until_archived(LIMIT);
    let lag = |scrape: &Scrape| scrape.values.get("des_watermark_lag_seconds").copied();
    scrape_until(&mut leader, |scrape| lag(scrape) == Some(0.0));
    let mut standby = fleet.start("coordinator");
    scrape_until(&mut standby, |scrape| scrape.value("des_ready") == 1.0);

    leader.signal(Signal::STOP);
    wait_for_lead(&mut standby);
    let scrape = scrape_until(&mut standby, |scrape| lag(scrape) == Some(0.0));
    assert_errors_are_the_ledgers(&fleet, &scrape);
    assert_eq!(scrape.value("des_errors{reason=\"missing\"}"), 20.0);
    assert_eq!(scrape.value("des_lease_epoch"), fleet.epoch() as f64);
    assert_eq!(FILES.map(|key| scrape.value(key)), [0.0, 0.0], "the first one committed them");
    assert_eq!(scrape.value("des_lease_taken_total"), 1.0);

    // Longer than a leader that fails and tries again keeps its figures.
    std::thread::sleep(Duration::from_secs(11));
    leader.signal(Signal::CONT);
    let scrape = Scrape::of(&mut leader);
    assert_eq!((scrape.value("des_leading"), lag(&scrape)), (0.0, None));
    assert!(!scrape.values.contains_key("des_lease_epoch"));
}

#[test]
fn a_held_window_a_pause_and_a_ledger_that_refuses_show() {
    let mut fleet = Fleet::new(0);
    for number in 0..20 {
        fleet.add_file(&format!("sound-{number}"), 6, b"sound");
    }
    for number in 0..12 {
        fleet.add_row(&format!("missing-{number}"), 6, 5);
    }
    let mut coordinator = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    coordinator.run_until(LIMIT, || fleet.is_held_with(12));
    let held = "des_windows{state=\"held\"}";
    let is = |key: &'static str, value: f64| {
        move |scrape: &Scrape| scrape.values.get(key) == Some(&value)
    };
    let scrape = scrape_until(&mut coordinator, is(held, 1.0));
    assert_eq!(scrape.value("des_paused"), 0.0);
    assert!(scrape.value("des_partitions{state=\"accepted\"}") >= 1.0);
    fleet.json("pause --reason backup");
    scrape_until(&mut coordinator, is("des_paused", 1.0));
    fleet.json("resume");
    fleet.json(&format!("release --window {} --reason gone", fleet.window_end(6)));
    scrape_until(&mut coordinator, is("des_errors{reason=\"missing\"}", 12.0));
    let scrape = scrape_until(&mut coordinator, is(held, 0.0));
    assert_eq!(scrape.value("des_paused"), 0.0);

    // Whoever cannot write the ledger says so, and goes on being alive.
    fleet.alter_database("SET default_transaction_read_only = on");
    fleet.end_sessions();
    let deadline = Instant::now() + LIMIT;
    let why = loop {
        let (status, told) = get(&mut coordinator, "/readyz");
        if status == 503 {
            break told;
        }
        assert!(Instant::now() < deadline, "it is always ready: {told}");
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(why.contains("ledger") || why.contains("lease"), "{why}");
    assert_eq!(get(&mut coordinator, "/healthz").0, 200);
    fleet.alter_database("RESET default_transaction_read_only");
    fleet.end_sessions();
    scrape_until(&mut coordinator, |scrape| scrape.value("des_ready") == 1.0);
}

#[test]
fn an_address_that_is_taken_is_refused_and_off_is_off() {
    let mut fleet = Fleet::new(20);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for role in ["coordinator", "worker"] {
        let run = fleet.des_with("http.listen", &address, role).expect(2);
        run.says([address.as_str(), "http.listen", "listen: off"]);
    }
    fleet.configure("http", "listen", json!("off"));
    let coordinator = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    fleet.wait_until_archived(LIMIT);
    coordinator.signal(Signal::TERM);
    let run = coordinator.end(LIMIT).expect(0);
    assert!(!run.stderr.contains("HTTP"), "{run}");
}
