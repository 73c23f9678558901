//! The page of a coordinator, end to end: a real fleet, and a real Chromium that looks at it.
//!
//! `./test` starts the servers and finds the browser. `DES_TEST_SCREENSHOTS=docs/images` takes the
//! pictures of docs/page.md.

mod api;
mod browser;
mod held;
mod keys;
mod live;
mod pictures;
mod statuses;
mod throttled;

#[path = "../../../backends/tests/support/s3_server.rs"]
mod s3_server;

#[path = "../support/blocks.rs"]
mod blocks;

#[path = "../support/process.rs"]
mod process;

#[expect(dead_code, reason = "the fleet's own tests use all of it")]
#[path = "../fleet/setup.rs"]
mod setup;

use std::time::Duration;

use browser::Browser;
use process::Running;
use serde_json::{Value, json};
use setup::Fleet;

/// Everything here ends long before, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
/// What whoever acts has to know.
const TOKEN: &str = "a-token-that-nobody-guesses";

/// An address that is free, and stays the same when a coordinator is started again.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

/// The coordinator serves on the address that is returned.
fn serve_on_an_address(fleet: &mut Fleet) -> String {
    let address = free_address();
    fleet.configure("http", "admin_token", json!(TOKEN));
    fleet.configure("http", "listen", json!(address));
    address
}

/// A worker, which has an address of its own.
fn start_worker(fleet: &mut Fleet, address: &str) -> Running {
    fleet.configure("http", "listen", json!("127.0.0.1:0"));
    let mut worker = fleet.start("worker");
    // Only then has it read what is written anew now.
    worker.told("serving HTTP address=", LIMIT);
    fleet.configure("http", "listen", json!(address));
    worker
}

/// The states of all squares, in order.
fn states(browser: &Browser) -> Vec<String> {
    let states = browser.run(
        "return [...document.querySelectorAll('#windows .cell')].map((cell) => cell.dataset.state)",
    );
    let states = states.as_array().expect("a list").iter();
    states.map(|state| state.as_str().expect("a state").to_owned()).collect()
}

/// A script that is true when the page's tone is this.
fn tone(tone: &str) -> String {
    format!("return document.querySelector('#verdict').dataset.tone === {tone:?}")
}

/// The console holds nothing but what the browser says of answers to a wrong token.
#[track_caller]
fn assert_quiet(browser: &Browser, refused: &str) {
    let said = browser.console();
    let said: Vec<_> =
        said.iter().filter(|it| refused.is_empty() || !it.contains(refused)).collect();
    assert!(said.is_empty(), "{said:#?}");
}

/// Nothing reaches beyond the screen.
#[track_caller]
fn assert_no_sideways_scrolling(browser: &Browser) {
    let too_wide = browser.run(
        "const width = document.documentElement.clientWidth; \
         return [document.documentElement.scrollWidth, width, \
             [...document.querySelectorAll('body *')].filter((it) => it.offsetParent \
                 && it.getBoundingClientRect().right > width + 0.5).map((it) => \
                 `${it.tagName} ${it.id} ${it.className}`)]",
    );
    let [scrolls, width, elements] = [&too_wide[0], &too_wide[1], &too_wide[2]];
    assert!(scrolls.as_u64() <= width.as_u64(), "{too_wide}");
    assert_eq!(elements, &Value::Array(Vec::new()), "{too_wide}");
}
