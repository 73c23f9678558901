//! A PostgreSQL that is slow, by way of a line on which everything takes its time.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::LIMIT;
use crate::lines::Line;
use crate::scrape::Scrape;
use crate::setup::Fleet;
use crate::told::mentioned;

/// Has what is started from now on talk to the database over a line; also the URL without it.
fn over_a_line(fleet: &mut Fleet) -> (Arc<Line>, String) {
    let direct = fleet.database_url();
    let (before, rest) = direct.split_once('@').expect("a URL with a user");
    let (host, database) = rest.split_once('/').expect("a URL with a database");
    let (line, address) = Line::to(host.parse().expect("an address"));
    fleet.configure("database", "url", json!(format!("{before}@{address}/{database}")));
    (line, direct)
}

#[test]
fn a_slow_database_costs_time_and_no_lease() {
    let mut fleet = Fleet::new(300);
    // A third of it is how long a renewal may take.
    fleet.configure("coordinator", "lease_ttl", json!("60s"));
    let (line, _direct) = over_a_line(&mut fleet);
    let mut coordinator = fleet.start("coordinator");
    let mut standby = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    coordinator.run_until(LIMIT, || fleet.shards() >= 20);
    let (epoch, watermark) = (fleet.epoch(), fleet.watermark());
    line.delay(Duration::from_millis(150));
    coordinator.run_until(LIMIT, || fleet.watermark() > watermark);
    mentioned(&fleet, &mut coordinator, &["slow       the ledger took "]);
    let slow = Scrape::of(&mut coordinator);
    let of = |bound| {
        let labels = format!("result=\"ok\",le=\"{bound}\"");
        slow.value(&format!("des_ledger_request_seconds_bucket{{{labels}}}"))
    };
    assert!(of("+Inf") > of("0.25"), "no metric tells of it");
    line.delay(Duration::ZERO);
    fleet.wait_until_archived(LIMIT);
    assert_eq!(fleet.epoch(), epoch, "it led all the time");
    assert!(standby.is_running());
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
}

/// Slower than its lease lasts: whoever is faster takes over, and the slow one commits nothing more.
#[test]
fn a_leader_whose_database_is_too_slow_for_its_lease_is_taken_over_from() {
    let mut fleet = Fleet::new(1_000);
    let (line, direct) = over_a_line(&mut fleet);
    let mut slow = fleet.start("coordinator");
    slow.run_until(LIMIT, || {
        fleet.try_value("SELECT epoch > 0 FROM des_lease").as_deref() == Some("true")
    });
    fleet.configure("database", "url", json!(direct));
    let mut standby = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    slow.run_until(LIMIT, || fleet.shards() >= 20);
    let epoch = fleet.epoch();
    line.delay(Duration::from_secs(2));
    standby.run_until(LIMIT, || fleet.epoch() > epoch);
    let leads = fleet.epoch();
    let name = format!("-{}-", standby.pid());
    let facts = fleet.json("explain");
    let holder = facts["lease"]["holder"].as_str().unwrap_or_default();
    assert!(holder.contains(&name), "{name}: {facts:#}");
    fleet.wait_until_archived(LIMIT);
    assert_eq!(fleet.epoch(), leads, "nobody took the lease from the new leader");
    assert_eq!(Scrape::of(&mut slow).value("des_leading"), 0.0);
    assert_eq!(Scrape::of(&mut standby).value("des_leading"), 1.0);
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
    // What it did not commit in time was certified again, and counts.
    line.delay(Duration::ZERO);
    standby.signal(Signal::KILL);
    slow.run_until(LIMIT, || fleet.epoch() > leads);
    slow.signal(Signal::TERM);
    slow.end(LIMIT).expect(0).says(["the lease was not renewed", "the ledger does not answer"]);
}
