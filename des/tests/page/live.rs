//! A run as the page shows it, from before there are workers to after the coordinator was killed.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::browser::Browser;
use crate::process::Running;
use crate::setup::Fleet;
use crate::{
    LIMIT, TOKEN, assert_no_sideways_scrolling, assert_quiet, pictures, serve_on_an_address,
    start_worker, states, tone,
};

const TAB: char = '\u{E004}';
const RIGHT: char = '\u{E014}';
const END: char = '\u{E010}';
const ESCAPE: char = '\u{E00C}';

fn count(browser: &Browser, state: &str) -> usize {
    states(browser).iter().filter(|it| *it == state).count()
}

/// Freezes the worker while the page shows that it works on something.
fn freeze_at_work(browser: &Browser, worker: &Running) {
    let deadline = Instant::now() + LIMIT;
    loop {
        worker.signal(Signal::STOP);
        // What it said before arrives, and the page is told of it.
        std::thread::sleep(Duration::from_millis(2_500));
        if count(browser, "running") > 0 && count(browser, "published") > 0 {
            return;
        }
        assert!(Instant::now() < deadline, "it is never at work: {}", browser.text("body"));
        worker.signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(150));
    }
}

fn act(browser: &Browser, what: &str, reason: &str, token: &str) {
    browser.fill("[name=reason]", reason);
    browser.fill("[name=token]", token);
    browser.click("#confirm");
    assert!(!reason.is_empty(), "{what}");
}

#[test]
fn a_run_is_shown_live_and_paused_and_resumed_from_the_page() {
    let mut fleet = Fleet::new(3_000);
    fleet.configure("coordinator", "partition_rows", json!(12));
    fleet.configure("coordinator", "windows_in_flight", json!(3));
    let address = serve_on_an_address(&mut fleet);
    let mut coordinator = fleet.start("coordinator");
    let all = "SELECT count(*) >= 3 FROM des_windows WHERE state = 'open'";
    coordinator.run_until(LIMIT, || fleet.try_value(all).as_deref() == Some("true"));
    let browser = Browser::start();
    browser.screen(1_200, 900, false);
    browser.open(&format!("http://{address}/?job=default"));

    // Nobody works yet.
    browser.wait_for("return document.querySelectorAll('#windows .cell').length > 40");
    browser.wait_for("return document.querySelector('#sentence').innerText.includes('no worker')");
    browser.wait_for(&tone("trouble"));
    browser.wait_for(
        "return new Set([...document.querySelectorAll('#windows .cell')].map((it) => \
        it.dataset.state)).size === 1",
    );
    assert_eq!(states(&browser)[0], "published");
    assert_eq!(browser.text("#connection"), "Live");
    // Where there are several jobs, the status is only found by its job.
    let json = browser.run("return document.querySelector('#json').href");
    assert_eq!(json, format!("http://{address}/api/status?job=default"));
    assert!(browser.text("#role").starts_with("Leading"), "{}", browser.text("#role"));
    browser.run("window.here = true");

    // Somebody does.
    let worker = start_worker(&mut fleet, &address);
    browser.wait_for(&tone("moving"));
    coordinator.run_until(LIMIT, || fleet.shards() > 30);
    freeze_at_work(&browser, &worker);
    assert!(count(&browser, "accepted") > 0, "{:?}", states(&browser));
    let shown = browser.text("#workers");
    assert!(shown.contains("worker-") && shown.contains("Partition"), "{shown}");
    assert!(browser.text("#backlog").contains("Partitions to do"));
    a_keyboard_reaches_the_squares(&browser);
    pictures::take(&browser, "page-desktop.png");

    // Paused, with a wrong token at first, which changes nothing.
    browser.click("#pause");
    act(&browser, "pause", "backup of <b>the sources</b>", "a-token-that-somebody-guessed");
    browser.wait_for("return !document.querySelector('#dialog-error').hidden");
    assert!(browser.text("#dialog-error").contains("not the admin token"));
    assert_eq!(fleet.value("SELECT count(*) FROM des_pauses"), "0");
    act(&browser, "pause", "backup of <b>the sources</b>", TOKEN);
    browser.wait_for("return !document.querySelector('#dialog').open");
    browser.wait_for(&tone("paused"));
    let sentence = browser.text("#sentence");
    assert!(sentence.contains("page/token@") && sentence.contains("<b>the sources"), "{sentence}");
    worker.signal(Signal::CONT);
    browser.wait_for("return document.querySelectorAll('[data-state=running]').length === 0");
    assert!(!browser.run("return document.querySelector('#resume').hidden").as_bool().expect("is"));

    // Throttled meanwhile, and not any more.
    browser.click("#throttle");
    browser.fill("[name=max_files_per_second]", "100000");
    act(&browser, "throttle", "month end", TOKEN);
    browser.wait_for("return !document.querySelector('#dialog').open");
    assert!(browser.text("#done").contains("at most 100000 files per second"));
    assert_eq!(fleet.value("SELECT files_per_second FROM des_throttles"), "100000");

    // Resumed, to the end. The token is not asked for again.
    browser.click("#resume");
    browser.fill("[name=reason]", "done");
    browser.click("#confirm");
    browser.wait_for("return !document.querySelector('#dialog').open");
    fleet.wait_until_archived(LIMIT);
    browser.wait_for(&tone("idle"));
    assert!(browser.text("#throughput").contains("3,000 files accepted"));
    assert!(browser.text("#errors").contains("missing"));
    browser.click("#replay");
    browser.fill("[name=window]", &fleet.window_end(5));
    act(&browser, "replay", "drill", TOKEN);
    browser.wait_for("return !document.querySelector('#dialog').open");
    let log = "SELECT string_agg(action || ' ' || reason, ', ' ORDER BY id) FROM des_audit_log \
               WHERE actor LIKE 'page/token@%'";
    let expected =
        "pause backup of <b>the sources</b>, throttle month end, resume done, replay drill";
    assert_eq!(fleet.value(log), expected);
    browser.wait_for("return document.querySelector('#audit').innerText.includes('drill')");
    assert_eq!(browser.run("return window.here"), true, "it was never loaded anew");
    assert_quiet(&browser, "401");

    // The coordinator is gone, and comes back.
    coordinator.signal(Signal::KILL);
    coordinator.end(LIMIT);
    browser.wait_for("return document.body.classList.contains('stale')");
    assert!(browser.text("#lost").starts_with("Connection lost."));
    let _coordinator = fleet.start("coordinator");
    browser.wait_for("return !document.body.classList.contains('stale')");
    browser.wait_for(&tone("idle"));
    assert_eq!(browser.run("return window.here"), true);
    browser.screen(320, 700, true);
    assert_no_sideways_scrolling(&browser);
}

/// One stop for the tab key, arrows within, and a text at each that stays until Escape.
#[track_caller]
fn a_keyboard_reaches_the_squares(browser: &Browser) {
    browser.run("document.querySelector('#main').focus()");
    let focused = |what: &str| browser.run(&format!("return document.activeElement{what}"));
    let mut stops = Vec::new();
    while focused(".className") != "cell" {
        browser.press(&[TAB]);
        stops.push(focused(".id"));
        assert!(stops.len() < 10, "{stops:?}");
    }
    let outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(outline, "solid", "the focus is to be seen");
    let first = browser.text("#tip");
    assert!(first.starts_with("Partition 0: "), "{first}");
    browser.press(&[RIGHT]);
    let second = browser.text("#tip");
    assert!(second.starts_with("Partition 1: "), "{second}");
    assert!(focused(".getAttribute('aria-label')").as_str().expect("a label").contains("files"));
    browser.press(&[END]);
    assert_ne!(browser.text("#tip"), second);
    browser.press(&[ESCAPE]);
    assert!(browser.run("return document.querySelector('#tip').hidden").as_bool().expect("is"));
    let cell = focused(".className");
    browser.press(&[TAB]);
    let next = "#windows .window:nth-child(2) .cell[tabindex='0']";
    let there = format!(" === document.querySelector({next:?})");
    assert_eq!((cell, focused(&there)), (json!("cell"), json!(true)), "the next window");
    browser.run("document.activeElement.blur(); window.scrollTo(0, 0)");
}
