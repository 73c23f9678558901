//! Windows with trouble: one that is held, one whose files are gone for everybody, and a standby.

use serde_json::json;

use crate::browser::Browser;
use crate::setup::Fleet;
use crate::{
    LIMIT, assert_no_sideways_scrolling, assert_quiet, free_address, pictures, start_worker,
    states, tone,
};

#[test]
fn a_held_window_is_shown_with_what_to_do_also_on_a_phone_and_by_a_standby() {
    let mut fleet = Fleet::new(0);
    let markup = "<img src=x onerror=alert(1)>";
    for number in 0..40 {
        fleet.add_file(&format!("sound-{number}"), 6, b"sound");
    }
    for number in 0..12 {
        fleet.add_row(&format!("{markup}-{number}"), 6, 5);
        fleet.add_row(&format!("gone-{number}"), 7, 5);
    }
    fleet.configure("coordinator", "partition_rows", json!(13));
    let address = free_address();
    // No token.
    fleet.configure("http", "listen", json!(address));
    let _worker = start_worker(&mut fleet, &address);
    let mut coordinator = fleet.start("coordinator");
    coordinator.run_until(LIMIT, || fleet.is_held_with(12));
    let browser = Browser::start();
    browser.screen(320, 700, true);
    browser.open(&format!("http://{address}/"));

    browser.wait_for(&tone("held"));
    let sentence = browser.text("#verdict");
    assert!(sentence.contains("12 of its 52 files failed"), "{sentence}");
    assert!(
        sentence.contains(&format!("des retry --window {}", fleet.window_end(6))),
        "{sentence}"
    );
    let listed = format!("des errors --held --window {}", fleet.window_end(6));
    assert!(sentence.contains(&listed), "{sentence}");
    browser.wait_for("return document.querySelectorAll('[data-state=retrying]').length > 0");
    let states = states(&browser);
    assert_eq!(states.len(), 5, "four partitions, and one of the other window: {states:?}");
    assert!(states.iter().any(|it| it == "accepted_with_failures"), "{states:?}");
    let told = browser.run(
        "return document.querySelector('#windows [data-state=retrying]').getAttribute('aria-label')",
    );
    let told = told.as_str().expect("a label");
    assert!(told.contains("source: ") && told.contains("again from"), "{told}");
    assert!(browser.text("#windows").contains("held"));
    assert!(browser.run("return document.querySelector('#actions').hidden").as_bool().expect("is"));
    assert_no_sideways_scrolling(&browser);
    assert_whole_words(&browser);
    pictures::take(&browser, "page-phone.png");

    // Paused as well, and on a wide screen in dark colours.
    fleet.json("pause --reason backup");
    browser.wait_for(&tone("paused"));
    browser.screen(1_200, 900, false);
    browser.scheme("dark");
    let ground = browser.run("return getComputedStyle(document.body).backgroundColor");
    assert_eq!(ground, "rgb(14, 19, 26)");
    browser.wait_for("return document.querySelector('#audit').innerText.includes('backup')");
    assert!(browser.text("#windows").contains("held"));
    pictures::take(&browser, "page-dark.png");
    browser.scheme("light");
    browser.screen(320, 700, true);
    fleet.json("resume");
    browser.wait_for(&tone("held"));

    // What others wrote stays text.
    fleet.json(&format!("pause --reason {}", markup.replace(' ', "/")));
    browser.wait_for(&tone("paused"));
    let text = browser.text("#sentence");
    assert!(text.contains("<img/src=x/onerror=alert(1)>"), "{text}");
    assert_eq!(browser.run("return document.images.length"), 0);
    assert_no_sideways_scrolling(&browser);

    // A standby shows what the ledger knows, and who leads.
    let other = free_address();
    fleet.configure("http", "listen", json!(other));
    let mut standby = fleet.start("coordinator");
    standby.told("standing by: ", LIMIT);
    browser.open(&format!("http://{other}/"));
    browser.wait_for(&tone("paused"));
    let role = browser.text("#role");
    assert!(role.starts_with("Standing by · coordinator-") && role.ends_with(" leads"), "{role}");
    assert!(browser.text("#workers").contains("coordinator that leads"));
    assert_no_sideways_scrolling(&browser);
    assert_quiet(&browser, "");
}

/// The heads of rows and columns end their lines between words: no word has more boxes than one.
#[track_caller]
fn assert_whole_words(browser: &Browser) {
    let broken = browser.run(
        "const broken = []; let words = 0; \
         for (const head of document.querySelectorAll('th')) { \
             const text = head.firstChild; \
             for (const word of text.data.matchAll(/\\S+/g)) { \
                 const range = document.createRange(); \
                 range.setStart(text, word.index); \
                 range.setEnd(text, word.index + word[0].length); \
                 words += 1; \
                 if (range.getClientRects().length > 1) broken.push(word[0]); \
             } \
         } \
         return { words, broken }",
    );
    assert!(broken["words"].as_u64() > Some(10), "{broken}");
    assert_eq!(broken["broken"], json!([]), "words are broken");
}
