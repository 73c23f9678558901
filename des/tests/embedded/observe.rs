//! What a continuous run serves over HTTP, also while it waits for its next cycle.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Place, Scrape, get};

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn a_continuous_run_shows_where_it_stands_between_its_cycles() {
    let mut place = Place::new();
    place.fill(8..10, 3);
    place.load();
    let mut running = place.start("migrate --mode continuous --interval 1h --output json");
    let deadline = Instant::now() + LIMIT;
    let scrape = loop {
        let scrape = Scrape::of(&mut running);
        let lag = scrape.values.get("des_watermark_lag_seconds");
        if lag == Some(&0.0) && scrape.value("des_leading") == 0.0 {
            break scrape;
        }
        assert!(Instant::now() < deadline, "it never comes to rest: {:#?}", scrape.values);
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(scrape.value("des_migration_files_total{result=\"archived\"}"), 6.0);
    assert_eq!(scrape.value("des_worker_tasks_total{result=\"done\"}"), 2.0);
    assert_eq!(scrape.value("des_worker_slots"), 0.0, "workers come with the next cycle");
    let roles = ["all", "coordinator", "worker", "leader"];
    let paper = crate::support::of_paper(&roles);
    let unknown: Vec<_> =
        scrape.known.iter().filter(|(name, it)| paper.get(*name) != Some(it)).collect();
    assert!(unknown.is_empty(), "not in the paper: {unknown:#?}");
    for (label, listed) in crate::support::label_values_of_paper() {
        let served = scrape.label_values.get(&label);
        let is_listed = served.is_none_or(|served| served.is_subset(&listed));
        assert!(is_listed, "{label:?} has {served:?}, and in the paper {listed:?}");
    }
    assert_eq!(get(&mut running, "/readyz"), (200, "waiting for the next cycle\n".to_owned()));
    running.signal(Signal::TERM);
    running.end(LIMIT).expect(0);
}

#[test]
fn where_metrics_are_turned_off_the_rest_is_served() {
    let mut place = Place::new();
    place.fill(9..10, 1);
    place.load().set("metrics", serde_json::json!({ "enabled": false }));
    let mut running = place.start("migrate --mode continuous --interval 1h");
    let (status, told) = get(&mut running, "/metrics");
    assert_eq!((status, told.contains("metrics.enabled")), (404, true), "{told}");
    assert_eq!(get(&mut running, "/healthz").0, 200);
    running.signal(Signal::TERM);
    running.end(LIMIT).expect(0);
}
