//! Rows that appear below a time at which a window could have been cut: with no lag, open
//! transactions are waited for.

use rustix::process::Signal;
use serde_json::json;

use crate::LIMIT;
use crate::explain::explained;
use crate::setup::Fleet;

const UNTIL: &str = "SELECT archived_until > %::timestamptz FROM des_archive_config";
const CUT_OVER: &str = "SELECT count(*) FROM des_windows WHERE window_end >= %::timestamptz";

/// A question about a time.
fn asked(fleet: &Fleet, question: &str, time: &str) -> String {
    fleet.value(&question.replace('%', &format!("'{time}'")))
}

#[test]
fn with_no_lag_no_window_is_cut_over_a_transaction_that_is_open_or_hidden() {
    let mut fleet = Fleet::new(10);
    fleet.configure("database", "lag_days", json!(0));
    fleet.configure("coordinator", "window_span", json!("1s"));
    // Nothing that was cut too early is to be mended by a later look.
    fleet.configure("coordinator", "recheck_after", json!(0));
    let role = fleet.broker().1;
    fleet.administer(&format!("GRANT pg_read_all_stats TO {role}"));
    let mut coordinator = fleet.start("coordinator");
    let worker = fleet.start("worker");
    let last = fleet.window_end(10);
    coordinator.run_until(LIMIT, || {
        fleet.try_value("SELECT 1 FROM des_archives").is_some()
            && asked(&fleet, UNTIL, &last) == "true"
    });

    // A row that nobody sees yet, and a younger one that everybody sees.
    let (early, writing) = fleet.begin_with_file("early", &fleet.database_url());
    let (after, committed) = fleet.begin_with_file("after", &fleet.database_url());
    fleet.commit(committed);
    let facts = explained(&fleet, &["a transaction that has been open", "keep lag_days"]);
    assert!(facts["watermark"]["open_transaction"].is_string(), "{facts:#}");
    let human = fleet.des("explain").expect(0).text();
    assert!(human.contains("waits      no window reaches over"), "{human}");
    assert_eq!(asked(&fleet, CUT_OVER, &early.created_at), "0", "a window holds it already");
    let check = fleet.des("coordinator --check").expect(0).text();
    assert!(check.contains("open transactions are seen"), "{check}");
    fleet.commit(writing);
    coordinator.run_until(LIMIT, || asked(&fleet, UNTIL, &after.created_at) == "true");
    [&early, &after].into_iter().for_each(|made| fleet.assert_archived(made));

    // Whoever may not see such a transaction does not take it for none.
    fleet.administer(&format!("REVOKE pg_read_all_stats FROM {role}"));
    let (hidden, writing) = fleet.begin_with_file("hidden", &fleet.admin_url());
    let cure = format!("GRANT pg_read_all_stats TO {role}");
    explained(&fleet, &["cannot pass the window", &cure]);
    let check = fleet.des("coordinator --check").expect(1).text();
    assert!(check.contains(&cure), "{check}");
    assert_eq!(asked(&fleet, CUT_OVER, &hidden.created_at), "0", "a window holds it already");
    fleet.administer(&cure);
    explained(&fleet, &["a transaction that has been open"]);
    fleet.commit(writing);
    coordinator.run_until(LIMIT, || asked(&fleet, UNTIL, &hidden.created_at) == "true");
    fleet.assert_archived(&hidden);

    let later = fleet.value("SELECT count(*) FROM des_windows WHERE revision > 0");
    assert_eq!(later, "0", "each was in its window's first pass");
    for process in [worker, coordinator] {
        process.signal(Signal::TERM);
        process.end(LIMIT).expect(0);
    }
}
