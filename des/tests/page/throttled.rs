//! What limits say, and how fast a worker is.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::browser::Browser;
use crate::process::Running;
use crate::setup::Fleet;
use crate::{
    LIMIT, assert_no_sideways_scrolling, assert_quiet, serve_on_an_address, start_worker, tone,
};

/// Freezes the worker while the page says how many files a second it reads; what its row says.
fn freeze_at_a_pace(browser: &Browser, worker: &Running) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        worker.signal(Signal::STOP);
        // What it said before arrives, and the page is told of it.
        std::thread::sleep(Duration::from_millis(2_500));
        let row = browser.text("#workers");
        let pace = row.split(" files/s").next().filter(|before| before.len() < row.len());
        let pace = pace.and_then(|before| before.rsplit(' ').next());
        if pace.is_some_and(|pace| pace.contains(|digit| ('1'..='9').contains(&digit))) {
            return row;
        }
        assert!(Instant::now() < deadline, "it has never any pace: {row}");
        worker.signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(60));
    }
}

#[test]
fn a_throttle_has_a_tone_of_its_own_and_a_worker_its_pace() {
    let mut fleet = Fleet::new(6_000);
    fleet.configure("coordinator", "partition_rows", json!(5_000));
    fleet.configure("worker", "slots", json!(1));
    fleet.configure("worker", "readers", json!(1));
    fleet.configure("throttle", "query", json!("SELECT jobs FROM archive.busy"));
    fleet.configure("throttle", "check_every", json!("1s"));
    fleet.execute("CREATE TABLE archive.busy AS SELECT 5 AS jobs");
    let address = serve_on_an_address(&mut fleet);
    let mut coordinator = fleet.start("coordinator");
    coordinator.told("serving HTTP address=", LIMIT);
    let worker = start_worker(&mut fleet, &address);
    let browser = Browser::start();
    browser.screen(320, 700, true);
    browser.scheme("light");
    browser.open(&format!("http://{address}/"));

    browser.wait_for(&tone("throttled"));
    assert_eq!(browser.text("#tone"), "Waiting");
    let sentence = browser.text("#sentence");
    for told in ["nothing new has been begun since", "answers 5, and more than 0 means wait"] {
        assert!(sentence.contains(told), "{sentence}");
    }
    // As a pause has it, and unlike trouble or work under way: --warn.
    let edge =
        browser.run("return getComputedStyle(document.querySelector('#verdict')).borderLeftColor");
    assert_eq!(edge, "rgb(154, 91, 0)");
    assert_no_sideways_scrolling(&browser);

    fleet.execute("UPDATE archive.busy SET jobs = 0");
    let row = freeze_at_a_pace(&browser, &worker);
    browser.wait_for(&tone("moving"));
    assert!(row.contains("worker-") && row.contains("Partition 0, window to"), "{row}");
    assert_no_sideways_scrolling(&browser);
    // In the middle of it the limit holds again.
    fleet.execute("UPDATE archive.busy SET jobs = 1");
    browser.wait_for(&tone("throttled"));
    worker.signal(Signal::CONT);
    fleet.execute("DELETE FROM archive.busy");
    fleet.wait_until_archived(LIMIT);
    browser.wait_for(&tone("idle"));
    assert_quiet(&browser, "");
}
