//! What the page makes of statuses and answers that no run comes to for certain.

use std::net::TcpStream;

use serde_json::json;

use crate::browser::Browser;
use crate::setup::Fleet;
use crate::{LIMIT, serve_on_an_address};

#[test]
fn the_page_keeps_the_order_and_says_what_it_does_not_know() {
    let mut fleet = Fleet::new(60);
    let address = serve_on_an_address(&mut fleet);
    let mut coordinator = fleet.start("coordinator");
    coordinator.run_until(LIMIT, || TcpStream::connect(&address).is_ok());
    let browser = Browser::start();
    browser.open(&format!("http://{address}/"));
    browser.wait_for("return status !== undefined");
    // From now on the page is shown what is made up here.
    browser.run("source.close()");
    let ids = browser.run(
        "const window = (day) => ({ start: `2024-12-0${day}T00:00:00Z`, revision: 0, \
             end: `2024-12-0${day + 1}T00:00:00Z`, requested: false, held: false, files: 1, \
             files_failed: 0, why_held: null, troubled: null, each_partition: [], \
             partitions: { all: 1, accepted: 0, to_do: 1, backing_off: 0 } }); \
         const told = (days) => show({ ...status, troubles: [], open_windows: days.length, \
             windows: days.map(window) }); \
         const ids = () => [...document.querySelectorAll('#windows > .window')].map((it) => it.id); \
         return [[1, 2], [2, 3], [1, 2, 3], [3]].map((days) => { told(days); return ids(); })",
    );
    let id = |day: u8| format!("window-2024-12-0{}T00:00:00Z-0", day + 1);
    let expected = json!([[id(1), id(2)], [id(2), id(3)], [id(1), id(2), id(3)], [id(3)]]);
    assert_eq!(ids, expected);

    let none = browser.run(
        "const told = (troubles) => { show({ ...status, windows: [], open_windows: 0, troubles }); \
             return document.querySelector('#windows-none').textContent; }; \
         return [told([]), told([{ what: 'ledger', text: 'Connection refused' }])]",
    );
    let unknown = "Unknown while the ledger does not answer.";
    assert_eq!(none, json!(["No window is being worked on.", unknown]));

    let dropped = browser.run(
        "show({ ...status, troubles: [], \
             dropped: [{ end: '2024-12-03T00:00:00Z', reason: '2 shards are damaged' }] }); \
         return document.querySelector('#troubles').innerText",
    );
    let dropped = dropped.as_str().expect("a text");
    assert!(dropped.contains("ends at 3 Dec 2024 00:00 was dropped: 2 shards"), "{dropped}");

    let error = browser.run(
        "asked = 'pause'; \
         window.fetch = async () => new Response('<html>Bad gateway</html>', { status: 502 }); \
         return act().then(() => 'done', (error) => error.message)",
    );
    let error = error.as_str().expect("a text");
    assert!(error.contains("(502)") && error.contains("something in between"), "{error}");
}
