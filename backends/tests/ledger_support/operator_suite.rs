//! What operators do: replay, move the watermark, look into the log.

use backends::BackendError;
use backends::ledger::{Adjustment, Lease, Look, Purpose, WindowRecord, WindowState};
use std::time::Duration;

use backends::Ledger;
use protocol::{Tally, Window, WindowKey, names};

use super::*;

pub(crate) async fn a_replay_is_requested_once_and_then_planned(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    let end = window(1).end();

    let requested = ledger
        .request_pass(end, Purpose::Replay, Some(&audit("replay")))
        .await
        .expect("it is recorded");
    assert_eq!((requested.key(), requested.state), (key(1, 1), WindowState::Requested));
    assert_eq!(requested.window, window(1));
    let again = ledger
        .request_pass(end, Purpose::Replay, Some(&audit("replay")))
        .await
        .expect("it is there");
    assert_eq!(again, requested);
    assert_eq!(ledger.open_windows().await.expect("windows"), [requested]);
    let replays = "SELECT CAST(count(*) AS text) FROM des_audit_log WHERE action = 'replay'";
    assert_eq!(bench.text(replays).await, Some("2".to_owned()), "who asked is written down");
    let again = ledger.request_pass(end, Purpose::Replay, None).await.expect("it is there");
    assert_eq!(again.key(), key(1, 1));
    assert_eq!(bench.text(replays).await, Some("2".to_owned()), "it was said with another one");

    let mut planned = new_window(1, 2);
    planned.revision = 1;
    ledger.add_window(&lease, &planned).await.expect("it is planned");
    let open = ledger.open_windows().await.expect("windows");
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].key(), open[0].state), (key(1, 1), WindowState::Open));
    assert_eq!(ledger.partitions(key(1, 1)).await.expect("partitions").len(), 2);
    let under_way = ledger
        .request_pass(end, Purpose::Replay, Some(&audit("replay")))
        .await
        .expect("it is there");
    assert_eq!(under_way, open[0]);

    for partition in 0..2 {
        accept(&*ledger, &lease, key(1, 1), partition).await;
    }
    let mut commit = commit(1, &lease);
    commit.revision = 1;
    commit.certificate = Some(certificate(1, 1, 1));
    commit.advance_from = None;
    ledger.commit_window(&lease, &commit).await.expect("it is committed");
    let next = ledger
        .request_pass(end, Purpose::Replay, Some(&audit("replay")))
        .await
        .expect("it is recorded");
    assert_eq!(next.key(), key(1, 2));
}

pub(crate) async fn only_a_committed_window_can_be_replayed(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    ready(&*ledger, &lease, 1, 1).await;
    for day in [1, 2] {
        let refused =
            ledger.request_pass(window(day).end(), Purpose::Replay, Some(&audit("replay"))).await;
        assert!(refused.expect_err("nothing is committed").is_not_found());
    }
    assert_eq!(ledger.open_windows().await.expect("windows").len(), 1);
}

pub(crate) async fn a_request_is_not_committed_unplanned(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    ledger
        .request_pass(window(1).end(), Purpose::Replay, Some(&audit("replay")))
        .await
        .expect("it is recorded");
    let mut commit = commit(1, &lease);
    commit.revision = 1;
    commit.certificate = Some(certificate(1, 1, 1));
    commit.advance_from = None;
    let refused = ledger.commit_window(&lease, &commit).await;
    assert!(refused.expect_err("it has no manifests").is_not_found());
}

/// Plans and commits a later pass over a window, whose scan saw so many rows.
async fn pass(ledger: &dyn Ledger, lease: &Lease, key: WindowKey, purpose: Purpose, rows: u64) {
    let day = key.end.seconds_since(at(START)) / 86_400;
    let mut planned = new_window(day, 1);
    planned.revision = key.revision;
    planned.purpose = purpose;
    planned.scanned = tally(rows);
    planned.findings = Some("{\"planned\": \"później\"}".to_owned());
    ledger.add_window(lease, &planned).await.expect("it is planned");
    accept(ledger, lease, key, 0).await;
    let mut commit = commit(day, lease);
    commit.revision = key.revision;
    commit.certificate = Some(certificate(day, key.revision, lease.epoch));
    commit.advance_from = None;
    commit.findings = Some("{\"committed\": true}".to_owned());
    ledger.commit_window(lease, &commit).await.expect("it is committed");
}

pub(crate) async fn a_request_keeps_what_it_is_for(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    let end = window(1).end();
    for (revision, purpose) in (1..).zip([Purpose::Replay, Purpose::Reconcile, Purpose::Retry]) {
        let requested =
            ledger.request_pass(end, purpose, Some(&audit("ask"))).await.expect("a request");
        assert_eq!((requested.key(), requested.purpose), (key(1, revision), purpose));
        let other =
            ledger.request_pass(end, Purpose::Replay, Some(&audit("ask"))).await.expect("it");
        assert_eq!(other, requested, "one at a time");
        pass(&*ledger, &lease, key(1, revision), purpose, 9).await;
    }
    let committed = ledger.committed_windows(None, None, 9).await.expect("windows");
    let purposes: Vec<_> = committed.iter().map(|record| record.purpose).collect();
    let expected = [Purpose::Scan, Purpose::Replay, Purpose::Reconcile, Purpose::Retry];
    assert_eq!(purposes, expected);
    assert_eq!(committed[3].findings.as_deref(), Some("{\"planned\": \"później\"}"));
    for purpose in expected {
        assert_eq!(Purpose::from_text(purpose.as_str()), Some(purpose));
    }
}

pub(crate) async fn a_look_tells_what_the_catalog_had(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    let looks = async || ledger.looks(None, None, 9).await.expect("looks");
    assert_eq!(looks().await, []);
    settle(&*ledger, &lease, 1).await;
    settle(&*ledger, &lease, 2).await;
    let of_scan: Tally = new_window(1, 2).partitions.iter().map(|partition| partition.rows).sum();
    let first = looks().await;
    let seen: Vec<_> =
        first.iter().map(|look| (look.window, look.revision, look.catalog)).collect();
    assert_eq!(seen, [(window(1), 0, Some(of_scan)), (window(2), 0, Some(of_scan))]);
    assert_eq!(ledger.looks(Some(window(1).end()), None, 9).await.expect("looks"), first[1..]);
    assert_eq!(ledger.looks(None, Some(window(1).end()), 9).await.expect("looks"), first[..1]);

    pass(&*ledger, &lease, key(1, 1), Purpose::Replay, 77).await;
    let after = &looks().await[0];
    assert_eq!((after.revision, after.catalog), (1, Some(tally(77))));
    assert_eq!(after.findings.as_deref(), Some("{\"committed\": true}"));

    // A pass that found nothing to pack leaves what it saw, and no record of its own.
    let end = window(1).end();
    ledger.request_pass(end, Purpose::Reconcile, Some(&audit("ask"))).await.expect("a request");
    let mut nothing = commit(1, &lease);
    nothing.revision = 2;
    nothing.certificate = None;
    nothing.advance_from = None;
    nothing.scanned = Some(tally(76));
    nothing.findings = Some("{\"vanished\": 1}".to_owned());
    ledger.commit_window(&lease, &nothing).await.expect("it is noted");
    let Look { revision, catalog, findings, .. } = looks().await.swap_remove(0);
    assert_eq!((revision, catalog, findings), (1, Some(tally(76)), nothing.findings.clone()));
    // One that could not even look leaves only why.
    nothing.scanned = None;
    nothing.findings = Some("{\"why\": \"gone\"}".to_owned());
    let before = looks().await.swap_remove(0).looked_at;
    // A ledger may have times to the millisecond.
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    ledger.commit_window(&lease, &nothing).await.expect("it is noted");
    let Look { catalog, findings, looked_at, .. } = looks().await.swap_remove(0);
    assert_eq!((catalog, findings), (Some(tally(76)), nothing.findings));
    // The window is due again after the others.
    assert!(looked_at > before, "{looked_at} {before}");
    let due = ledger.looks_to_recheck(false, 9).await.expect("looks");
    let due: Vec<_> = due.iter().map(|look| look.window).collect();
    assert_eq!(due, [window(2), window(1)]);
    // What was found can be asked for.
    let found = async |text: &str| -> Vec<_> {
        let looks = ledger.looks_that_found(text, 9).await.expect("looks");
        looks.iter().map(|look| look.window).collect()
    };
    assert_eq!(found("\"why\": \"g").await, [window(1)]);
    assert_eq!(found("\"vanished\"").await, [], "of an earlier pass");
}

pub(crate) async fn a_window_is_rechecked_once(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    for day in 1..=3 {
        settle(&*ledger, &lease, day).await;
    }
    let ends = async |newest: bool, limit| -> Vec<_> {
        let looks = ledger.looks_to_recheck(newest, limit).await.expect("looks");
        looks.iter().map(|look| look.window.end()).collect()
    };
    let end = |day| window(day).end();
    assert_eq!(ends(false, 9).await, [end(1), end(2), end(3)]);
    assert_eq!(ends(true, 2).await, [end(3), end(2)]);
    ledger.note_rechecked(&lease, end(2)).await.expect("it is noted");
    assert_eq!(ends(false, 9).await, [end(1), end(3)]);
    assert!(ledger.looks(None, None, 9).await.expect("looks")[1].rechecked);
    let unknown = ledger.note_rechecked(&lease, end(4)).await;
    assert!(unknown.expect_err("it is not committed").is_not_found());
    let mut stale = lease.clone();
    stale.epoch += 1;
    assert_conflict(ledger.note_rechecked(&stale, end(1)).await, "epoch");
    // A pass over the window does not make it due again.
    ledger.note_rechecked(&lease, end(3)).await.expect("it is noted");
    pass(&*ledger, &lease, key(3, 1), Purpose::Reconcile, 3).await;
    assert_eq!(ends(false, 9).await, [end(1)]);
}

pub(crate) async fn windows_with_error_rows_are_listed(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    assert_eq!(ledger.windows_with_errors().await.expect("ends"), []);
    settle(&*ledger, &lease, 1).await;
    settle(&*ledger, &lease, 2).await;
    let (first, second) = (window(1).end(), window(2).end());
    assert_eq!(ledger.windows_with_errors().await.expect("ends"), [first, second]);
    assert_eq!(ledger.count_errors_of(first).await.expect("a count"), 1);
    let mut planned = new_window(1, 1);
    planned.revision = 1;
    ledger.add_window(&lease, &planned).await.expect("it is planned");
    accept(&*ledger, &lease, key(1, 1), 0).await;
    let mut clean = commit(1, &lease);
    (clean.revision, clean.advance_from) = (1, None);
    clean.certificate = Some(certificate(1, 1, lease.epoch));
    clean.failures.clear();
    ledger.commit_window(&lease, &clean).await.expect("it is committed");
    assert_eq!(ledger.windows_with_errors().await.expect("ends"), [second]);
    assert_eq!(ledger.count_errors_of(first).await.expect("a count"), 0);
}

fn adjustment(from: &str, to: &str) -> Adjustment {
    Adjustment { from: at(from), to: at(to), skip: None, audit: audit("adjust") }
}

/// Adjusts as an operator does: under a lease that is seized for it.
async fn adjust(ledger: &dyn Ledger, adjustment: &Adjustment) -> Result<(), BackendError> {
    let operator = "operator".parse().expect("a name");
    let lease = ledger.seize_lease(&operator, Duration::from_secs(60)).await.expect("a lease");
    let adjusted = ledger.adjust(&lease, adjustment).await;
    if adjusted.is_err() {
        ledger.release_lease(&lease).await.expect("it is given back");
    }
    adjusted
}

pub(crate) async fn an_adjustment_needs_its_lease(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let leader = begin(&*ledger).await;
    let operator = "operator".parse().expect("a name");
    let lease = ledger.seize_lease(&operator, Duration::from_secs(60)).await.expect("a lease");
    assert_eq!(lease.epoch, leader.epoch + 1);
    assert!(!ledger.renew_lease(&leader, Duration::from_secs(60)).await.expect("an answer"));
    let before = Snapshot::of(&*ledger).await;
    let stale = ledger.adjust(&leader, &adjustment("2024-12-01", "2024-11-20")).await;
    assert_conflict(stale, "held by operator");
    assert_eq!(Snapshot::of(&*ledger).await, before);
    ledger.adjust(&lease, &adjustment("2024-12-01", "2024-11-20")).await.expect("it is moved");
    let status = ledger.lease_status().await.expect("a status").expect("a row");
    assert_eq!((status.holder, status.epoch), (None, lease.epoch));
}

pub(crate) async fn the_watermark_can_be_moved_back(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    settle(&*ledger, &lease, 2).await;
    ready(&*ledger, &lease, 3, 2).await;
    ledger
        .request_pass(window(1).end(), Purpose::Replay, Some(&audit("replay")))
        .await
        .expect("it is recorded");

    adjust(&*ledger, &adjustment("2024-12-03", "2024-12-02")).await.expect("it is moved");
    assert_eq!(watermark(&*ledger).await, at("2024-12-02"));
    let archive = ledger.archive().await.expect("an answer").expect("an archive");
    assert_eq!((archive.settled_until, archive.origin), (at("2024-12-02"), at(START)));
    assert_eq!(ledger.open_windows().await.expect("windows"), []);
    assert_eq!(ledger.partitions(key(3, 0)).await.expect("partitions"), []);
    assert_eq!(ledger.partitions(key(2, 0)).await.expect("partitions").len(), 2);
    let committed = ledger.committed_windows(None, None, 9).await.expect("windows");
    let keys: Vec<_> = committed.iter().map(WindowRecord::key).collect();
    assert_eq!(keys, [key(1, 0), key(2, 0)]);

    let status = ledger.lease_status().await.expect("a status").expect("a row");
    assert_eq!((status.holder, status.epoch), (None, 2));
    assert_conflict(ledger.add_window(&lease, &new_window(3, 1)).await, "held by nobody");
    assert_eq!(take(&*ledger, "second").await.epoch, 3);

    adjust(&*ledger, &adjustment("2024-12-02", "2024-11-20")).await.expect("below the origin");
    let archive = ledger.archive().await.expect("an answer").expect("an archive");
    assert_eq!((archive.settled_until, archive.origin), (at("2024-11-20"), at("2024-11-20")));
    let log = "SELECT actor || ' ' || action || ' ' || from_value || ' ' || reason \
               FROM des_audit_log ORDER BY id DESC LIMIT 1";
    let expected = "ada@console adjust 2024-12-01T00:00:00Z it's a test";
    assert_eq!(bench.text(log).await.as_deref(), Some(expected));
}

pub(crate) async fn the_watermark_can_skip_forward(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = begin(&*ledger).await;
    settle(&*ledger, &lease, 1).await;
    let mut skip = adjustment("2024-12-02", "2024-12-10");
    let certificate = names::certificate(key(9, 0), 2);
    let stretch = Window::new(skip.from, skip.to).expect("a window");
    skip.skip = Some((stretch, certificate.clone()));
    adjust(&*ledger, &skip).await.expect("it is moved");

    assert_eq!(watermark(&*ledger).await, at("2024-12-10"));
    let archive = ledger.archive().await.expect("an answer").expect("an archive");
    assert_eq!((archive.settled_until, archive.origin), (at("2024-12-10"), at(START)));
    let committed = ledger.committed_windows(None, None, 9).await.expect("windows");
    assert_eq!(committed.len(), 2);
    let skipped = &committed[1];
    assert_eq!((skipped.window.start(), skipped.window.end()), (skip.from, skip.to));
    assert_eq!((skipped.rows.rows, &skipped.certificate), (0, &Some(certificate.clone())));

    let without = adjustment("2024-12-10", "2024-12-12");
    adjust(&*ledger, &without).await.expect("over what is settled already");
    assert_eq!(watermark(&*ledger).await, at("2024-12-12"));
    assert_eq!(ledger.committed_windows(None, None, 9).await.expect("windows").len(), 2);

    // A certificate for another end, or for a window that is recorded already.
    let before = Snapshot::of(&*ledger).await.without_lease();
    for (to, certificate) in [("2024-12-13", certificate), ("2024-12-13", "x".to_owned())] {
        let mut wrong = adjustment("2024-12-12", to);
        let stretch = Window::new(wrong.from, wrong.to).expect("a window");
        wrong.skip = Some((stretch, certificate));
        let error = adjust(&*ledger, &wrong).await.expect_err("it is refused");
        assert!(matches!(error, BackendError::Invalid { .. }), "{error:?}");
    }
    // One over a window that is committed: what it holds is not skipped.
    let mut over = adjustment("2024-12-12", "2024-12-13");
    let stretch = Window::new(at("2024-12-09"), over.to).expect("a window");
    over.skip = Some((stretch, names::certificate(key(12, 0), 9)));
    let error = adjust(&*ledger, &over).await.expect_err("it is refused").to_string();
    assert!(error.contains("committed window that ends at 2024-12-10"), "{error}");
    assert_eq!(Snapshot::of(&*ledger).await.without_lease(), before);
}

pub(crate) async fn an_adjustment_from_elsewhere_changes_nothing(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let unregistered = adjust(&*ledger, &adjustment("2024-12-01", "2024-12-02")).await;
    assert_conflict(unregistered, "has no row");
    let lease = begin(&*ledger).await;
    ready(&*ledger, &lease, 1, 1).await;
    let before = Snapshot::of(&*ledger).await.without_lease();
    let refused = adjust(&*ledger, &adjustment("2024-12-02", "2024-11-01")).await;
    assert_conflict(refused, "is at 2024-12-01");
    assert_eq!(Snapshot::of(&*ledger).await.without_lease(), before);
    let log = "SELECT CAST(count(*) AS text) FROM des_audit_log WHERE action = 'adjust'";
    assert_eq!(bench.text(log).await, Some("0".to_owned()));
}

pub(crate) async fn the_audit_log_only_grows(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let mut entry = audit("pause");
    entry.from = None;
    entry.reason = None;
    ledger.record_audit(&entry).await.expect("it is recorded");
    ledger.record_audit(&audit("resume")).await.expect("it is recorded");
    for forbidden in [
        "UPDATE des_audit_log SET actor = 'nobody'",
        "DELETE FROM des_audit_log",
        "DELETE FROM des_audit_log WHERE action = 'pause'",
        bench.replacing_audit_rows(),
    ] {
        let error = bench.try_sql(forbidden).await.expect_err(forbidden);
        assert!(error.to_string().contains("append-only"), "{error}");
    }
    let log = "SELECT min(action) || ' ' || max(action) || ' ' || count(*) || ' ' || min(job) \
               || ' ' || count(from_value) FROM des_audit_log";
    assert_eq!(bench.text(log).await.as_deref(), Some("pause resume 2 files 1"));
}
