//! What a fleet says of itself, waited for.

use std::time::{Duration, Instant};

use crate::process::Running;
use crate::scrape::Scrape;
use crate::setup::Fleet;

/// Everything is told long before, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// Waits until `des explain` says all of this in its first line.
#[track_caller]
pub(crate) fn explained(fleet: &Fleet, process: &mut Running, told: &[&str]) {
    says(fleet, process, 1, told);
}

/// Waits until `des explain` says all of this somewhere.
#[track_caller]
pub(crate) fn mentioned(fleet: &Fleet, process: &mut Running, told: &[&str]) {
    says(fleet, process, usize::MAX, told);
}

#[track_caller]
fn says(fleet: &Fleet, process: &mut Running, lines: usize, told: &[&str]) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let run = fleet.des("explain");
        let text = run.text();
        let said: Vec<_> = text.lines().take(lines).collect();
        if told.iter().all(|text| said.iter().any(|line| line.contains(text))) {
            return;
        }
        assert!(process.is_running(), "it ended too early");
        assert!(Instant::now() < deadline, "{told:?} is not said:\n{run}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until a metric that the process serves is at least this.
#[track_caller]
pub(crate) fn counted(process: &mut Running, key: &str, least: f64) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let scrape = Scrape::of(process);
        if scrape.value(key) >= least {
            return;
        }
        assert!(Instant::now() < deadline, "{key} stays below {least}: {:#?}", scrape.values);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until the worker has nothing to do any more.
#[track_caller]
pub(crate) fn idle(worker: &mut Running) {
    let deadline = Instant::now() + LIMIT;
    while Scrape::of(worker).value("des_worker_slots_busy") > 0.0 {
        assert!(Instant::now() < deadline, "it is busy for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Everything is there, committed once, and so many archived files are counted, each once.
#[track_caller]
pub(crate) fn assert_each_counts_once(fleet: &Fleet, coordinator: &mut Running, files: f64) {
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
    let archived = "des_migration_files_total{result=\"archived\"}";
    assert_eq!(Scrape::of(coordinator).value(archived), files, "a file counts twice");
}
