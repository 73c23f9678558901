//! Acting without a mouse: every key is pressed as a keyboard does it.

use serde_json::Value;

use crate::browser::Browser;
use crate::setup::Fleet;
use crate::{LIMIT, TOKEN, assert_quiet, serve_on_an_address, tone};

const TAB: char = '\u{E004}';
const ENTER: char = '\u{E007}';
const ESCAPE: char = '\u{E00C}';
/// More stops than the page has.
const STOPS: usize = 60;

fn focused(browser: &Browser, what: &str) -> Value {
    browser.run(&format!("return document.activeElement{what}"))
}

/// Presses Tab until this element has the focus, which can be seen.
#[track_caller]
fn tab_to(browser: &Browser, id_or_name: &str) {
    let mut stops = Vec::new();
    loop {
        browser.press(&[TAB]);
        let stop = [focused(browser, ".id"), focused(browser, ".name ?? null")];
        if stop.iter().any(|it| it == id_or_name) {
            let outline =
                browser.run("return getComputedStyle(document.activeElement).outlineStyle");
            assert_eq!(outline, "solid", "the focus on {id_or_name} is to be seen");
            return;
        }
        stops.push(stop);
        assert!(stops.len() < STOPS, "Tab never comes to {id_or_name}: {stops:?}");
    }
}

#[track_caller]
fn type_text(browser: &Browser, text: &str) {
    browser.press(&text.chars().collect::<Vec<_>>());
}

#[track_caller]
fn until_dialog_is(browser: &Browser, open: bool) {
    browser.wait_for(&format!("return document.querySelector('#dialog').open === {open}"));
}

#[test]
fn keys_alone_pause_and_resume() {
    let mut fleet = Fleet::new(300);
    let address = serve_on_an_address(&mut fleet);
    let mut coordinator = fleet.start("coordinator");
    let open = "SELECT count(*) > 0 FROM des_windows WHERE state = 'open'";
    coordinator.run_until(LIMIT, || fleet.try_value(open).as_deref() == Some("true"));
    let browser = Browser::start();
    browser.screen(1_200, 900, false);
    browser.open(&format!("http://{address}/"));
    browser.wait_for("return !document.querySelector('#actions').hidden");

    // The first stop skips what is above the status; the next one is the first button.
    browser.press(&[TAB]);
    assert_eq!(focused(&browser, ".className"), "skip");
    browser.press(&[ENTER, TAB]);
    assert_eq!(focused(&browser, ".id"), "pause");

    browser.press(&[ENTER]);
    until_dialog_is(&browser, true);
    assert_eq!(focused(&browser, ".name"), "reason", "the first that is asked for");
    // Escape changes its mind, and leads back to where it was.
    type_text(&browser, "a mistake");
    browser.press(&[ESCAPE]);
    until_dialog_is(&browser, false);
    assert_eq!(focused(&browser, ".id"), "pause");
    assert_eq!(fleet.value("SELECT count(*) FROM des_pauses"), "0");

    browser.press(&[ENTER]);
    until_dialog_is(&browser, true);
    assert_eq!(browser.run("return document.querySelector('[name=reason]').value"), "");
    type_text(&browser, "backup of the sources");
    tab_to(&browser, "token");
    type_text(&browser, TOKEN);
    tab_to(&browser, "confirm");
    browser.press(&[ENTER]);
    until_dialog_is(&browser, false);
    browser.wait_for(&tone("paused"));
    let sentence = browser.text("#sentence");
    assert!(sentence.contains("backup of the sources"), "{sentence}");

    // Enter within a line sends what is asked for; the token is known by now.
    tab_to(&browser, "resume");
    browser.press(&[ENTER]);
    until_dialog_is(&browser, true);
    type_text(&browser, "done");
    browser.press(&[ENTER]);
    until_dialog_is(&browser, false);
    let standing = "return document.querySelector('#verdict').dataset.tone !== 'paused'";
    browser.wait_for(standing);
    let log = "SELECT string_agg(action || ' ' || reason, ', ' ORDER BY id) FROM des_audit_log \
               WHERE actor LIKE 'page/token@%'";
    assert_eq!(fleet.value(log), "pause backup of the sources, resume done");
    assert_quiet(&browser, "");
}
