//! Throttles: set, replaced and taken back by a word, each change with its audit row; and what a
//! leader waits for.

use std::time::Duration;

use backends::ledger::{LiveLimits, Override, Scope, Throttle, Wait};

use super::pause_suite::word;
use super::*;

fn limits() -> LiveLimits {
    LiveLimits {
        files_per_second: Override::To(100),
        bytes_per_second: Override::Off,
        not_between: Override::To("Mon-Fri 08:00-18:00".to_owned()),
        query: Override::To("SELECT 0".to_owned()),
        max_replication_lag: Override::To(Duration::from_millis(1_500)),
        max_active_connections: Override::To(0),
    }
}

pub(crate) async fn a_throttle_stands_until_it_is_taken_back(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    begin(&*ledger).await;
    assert_eq!(ledger.throttles().await.expect("an answer"), []);
    let none = ledger.end_throttle(Scope::Job, &word("throttle", "why")).await;
    assert_conflict(none, "is not throttled");

    let set = ledger.set_throttle(Scope::Job, &limits(), &word("throttle", "übung")).await;
    let set = set.expect("it is set");
    assert_eq!((set.scope, &set.limits, set.reason.as_str()), (Scope::Job, &limits(), "übung"));
    assert_eq!(ledger.throttles().await.expect("an answer"), [set]);

    let less = LiveLimits {
        bytes_per_second: Override::To(1 << 40),
        query: Override::Off,
        max_replication_lag: Override::Off,
        max_active_connections: Override::Off,
        ..LiveLimits::default()
    };
    let set = ledger.set_throttle(Scope::Job, &less, &word("throttle", "less")).await;
    let set = set.expect("it is set");
    assert_eq!(
        ledger.throttles().await.expect("an answer"),
        std::slice::from_ref(&set),
        "in its place"
    );
    let log = ledger.audit_log(1).await.expect("the log").remove(0).entry;
    let before = "at most 100 files per second, no limit of bytes per second, not between Mon-Fri \
                  08:00-18:00, not while \"SELECT 0\" answers more than 0, at most 1.5 s of \
                  replication lag, at most 0 active connections";
    assert_eq!(log.from.as_deref(), Some(before));
    let after = "at most 1099511627776 bytes per second, no query, at any replication lag, at any \
                 number of active connections";
    assert_eq!(log.to.as_deref(), Some(after));

    let ended = ledger.end_throttle(Scope::Job, &word("throttle", "over")).await;
    assert_eq!(ended.expect("it is taken back"), set);
    assert_eq!(ledger.throttles().await.expect("an answer"), []);
    let log = ledger.audit_log(1).await.expect("the log").remove(0).entry;
    assert_eq!((log.to.as_deref(), log.reason.as_deref()), (Some("as configured"), Some("over")));
}

pub(crate) async fn a_throttle_of_all_jobs_is_every_jobs(bench: &dyn Bench) {
    let files = bench.migrated().await;
    let invoices = bench.ledger_of("invoices", 2).await;
    begin(&*files).await;
    let all = files.set_throttle(Scope::AllJobs, &limits(), &word("throttle", "night")).await;
    let all = all.expect("it is set");
    assert_eq!(invoices.throttles().await.expect("an answer"), std::slice::from_ref(&all));
    let log = invoices.audit_log(1).await.expect("the log");
    assert_eq!(log[0].entry.reason.as_deref(), Some("night"));
    let own = invoices.set_throttle(Scope::Job, &limits(), &word("throttle", "own")).await;
    let own = own.expect("it is set");
    assert_eq!(invoices.throttles().await.expect("an answer"), [own, all.clone()]);
    assert_eq!(files.throttles().await.expect("an answer"), std::slice::from_ref(&all));
    let ended = invoices.end_throttle(Scope::AllJobs, &word("throttle", "day")).await;
    assert_eq!(ended.expect("it is taken back"), all);
    assert_eq!(files.throttles().await.expect("an answer"), []);
}

pub(crate) async fn what_a_leader_waits_for_is_remembered(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    assert_eq!(ledger.wait().await.expect("an answer"), None);
    let noted = async |kind: &str, reason: &str| -> Wait {
        ledger.note_wait(&lease, Some((kind, reason))).await.expect("it is noted");
        let wait = ledger.wait().await.expect("an answer").expect("it waits");
        assert_eq!((wait.kind.as_str(), wait.reason.as_str()), (kind, reason));
        wait
    };
    let first = noted("query", "it answers 3").await;
    let second = noted("query", "it answers 4").await;
    assert_eq!(first.since, second.since, "it still waits for the same");
    let third = noted("business_hours", "until 18:00").await;
    assert!(third.since >= first.since);

    ledger.release_lease(&lease).await.expect("it is given back");
    let next = take(&*ledger, "second").await;
    assert_conflict(ledger.note_wait(&lease, None).await, "no longer ours");
    assert_eq!(ledger.wait().await.expect("an answer"), Some(third));
    ledger.note_wait(&next, None).await.expect("it is noted");
    assert_eq!(ledger.wait().await.expect("an answer"), None);
}

pub(crate) async fn a_ledger_without_the_table_is_not_throttled(bench: &dyn Bench) {
    let ledger = bench.ledger().await;
    assert_eq!(ledger.throttles().await.expect("an answer"), Vec::<Throttle>::new());
    assert_eq!(ledger.wait().await.expect("an answer"), None);
}
