//! Pauses: one at a time, ended by a word or by time, each change with its audit row.

use backends::ledger::{AuditEntry, Pause, Scope};
use backends::{BackendError, Ledger};
use protocol::Timestamp;

use super::*;

pub(crate) fn word(action: &str, reason: &str) -> AuditEntry {
    AuditEntry {
        actor: "ada@console".to_owned(),
        action: action.to_owned(),
        from: None,
        to: None,
        reason: Some(reason.to_owned()),
    }
}

const LOG: &str = "SELECT count(*) || ' ' || coalesce(max(from_value), '') FROM des_audit_log \
                   WHERE action IN ('pause', 'resume')";

/// Waits, by the database's own clock, until this time is over there.
async fn pass(ledger: &dyn Ledger, until: Timestamp) {
    while ledger.now().await.expect("a time") <= until {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

pub(crate) async fn a_pause_stands_until_it_is_ended(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    assert_eq!(ledger.pause_status().await.expect("an answer"), None);
    assert_conflict(ledger.resume(Scope::Job, &word("resume", "why not")).await, "is not paused");
    let before = ledger.now().await.expect("a time");
    let paused =
        ledger.pause(Scope::Job, None, &word("pause", "übung")).await.expect("it is paused");
    assert!(before <= paused.since && paused.since <= ledger.now().await.expect("a time"));
    assert_eq!((paused.actor.as_str(), paused.reason.as_str()), ("ada@console", "übung"));
    assert_eq!(ledger.pause_status().await.expect("an answer").as_ref(), Some(&paused));
    assert_eq!(ledger.end_pause_if_over("leader").await.expect("an answer"), None);

    let again = ledger.pause(Scope::Job, None, &word("pause", "another")).await;
    assert_conflict(again, "paused since");
    assert_eq!(ledger.pause_status().await.expect("an answer").as_ref(), Some(&paused));
    assert_eq!(bench.text(LOG).await.as_deref(), Some("1 "), "what is refused is not logged");

    // What was begun is accepted and committed, and the pause stays.
    settle(&*ledger, &lease, 1).await;
    ledger.release_lease(&lease).await.expect("it is given back");
    let next = take(&*ledger, "first").await;
    assert!(next.epoch > 0);
    let resumed = ledger.resume(Scope::Job, &word("resume", "over")).await.expect("it is resumed");
    assert_eq!(resumed, paused);
    assert_eq!(ledger.pause_status().await.expect("an answer"), None);
    assert_eq!(bench.text(LOG).await, Some(format!("2 {paused}")));
}

pub(crate) async fn a_pause_ends_with_its_time(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    begin(&*ledger).await;
    let now = ledger.now().await.expect("a time");
    let past =
        ledger.pause(Scope::Job, Some(now), &word("pause", "late")).await.expect_err("it is over");
    assert!(matches!(past, BackendError::Invalid { .. }), "{past:?}");
    let until = now.saturating_add_micros(1_000_000);
    let paused =
        ledger.pause(Scope::Job, Some(until), &word("pause", "soon")).await.expect("it is paused");
    assert_eq!(paused.until, Some(until));
    pass(&*ledger, until).await;
    let over = ledger.end_pause_if_over("leader-1").await.expect("an answer");
    assert_eq!(over.as_ref(), Some(&paused));
    assert!(over.is_some_and(|it| it.is_over(until)));
    assert_eq!(ledger.end_pause_if_over("leader-1").await.expect("an answer"), None);
    let log = ledger.audit_log(1).await.expect("the log");
    assert_eq!((log[0].entry.actor.as_str(), log[0].entry.action.as_str()), ("leader-1", "resume"));

    // One that nobody ended makes room for the next, and the log says so.
    let until = ledger.now().await.expect("a time").saturating_add_micros(500_000);
    ledger.pause(Scope::Job, Some(until), &word("pause", "short")).await.expect("it is paused");
    pass(&*ledger, until).await;
    let next = ledger.pause(Scope::Job, None, &word("pause", "long")).await.expect("it is paused");
    assert_eq!(ledger.pause_status().await.expect("an answer"), Some(next));
    let log = ledger.audit_log(3).await.expect("the log");
    let actions: Vec<_> = log.iter().map(|it| it.entry.action.as_str()).collect();
    assert_eq!(actions, ["pause", "resume", "pause"]);
}

pub(crate) async fn a_ledger_without_the_table_is_not_paused(bench: &dyn Bench) {
    let ledger = bench.ledger().await;
    assert_eq!(ledger.pause_status().await.expect("an answer"), None::<Pause>);
}

pub(crate) async fn a_pause_of_all_jobs_holds_for_each(bench: &dyn Bench) {
    let files = bench.migrated().await;
    let invoices = bench.ledger_of("invoices", 2).await;
    begin(&*files).await;
    let all = files.pause(Scope::AllJobs, None, &word("pause", "move")).await.expect("paused");
    assert_eq!(all.scope, Scope::AllJobs);
    for ledger in [&files, &invoices] {
        assert_eq!(ledger.pause_status().await.expect("an answer").as_ref(), Some(&all));
        let log = ledger.audit_log(1).await.expect("the log");
        assert_eq!(log[0].entry.reason.as_deref(), Some("move"), "both are told");
    }
    let again = invoices.pause(Scope::AllJobs, None, &word("pause", "another")).await;
    assert_conflict(again, "all jobs are paused since");
    assert_conflict(invoices.resume(Scope::Job, &word("resume", "mine")).await, "--all-jobs");

    // Its own pause may stand beside it, and what lasts longer counts.
    let until = invoices.now().await.expect("a time").saturating_add_micros(3_600_000_000);
    let own = invoices.pause(Scope::Job, Some(until), &word("pause", "own")).await.expect("paused");
    assert_eq!(invoices.pause_status().await.expect("an answer").as_ref(), Some(&all));
    let resumed = invoices.resume(Scope::AllJobs, &word("resume", "moved")).await;
    assert_eq!(resumed.expect("it is resumed"), all);
    assert_eq!(files.pause_status().await.expect("an answer"), None);
    assert_eq!(invoices.pause_status().await.expect("an answer").as_ref(), Some(&own));
    let none = files.resume(Scope::AllJobs, &word("resume", "again")).await;
    assert_conflict(none, "all jobs together are not paused");
    let none = invoices.resume(Scope::AllJobs, &word("resume", "again")).await;
    assert_conflict(none, "only job `invoices` is paused since");

    // One whose time is over is ended by whoever leads first, once.
    let until = files.now().await.expect("a time").saturating_add_micros(300_000);
    let short = files.pause(Scope::AllJobs, Some(until), &word("pause", "short")).await;
    let short = short.expect("paused");
    pass(&*files, until).await;
    let ended = invoices.end_pause_if_over("leader-2").await.expect("an answer");
    assert_eq!(ended, Some(short));
    assert_eq!(files.end_pause_if_over("leader-1").await.expect("an answer"), None);
}
