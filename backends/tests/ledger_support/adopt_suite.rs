//! Rebuilding a ledger from what certificates prove.

use backends::Ledger;
use backends::ledger::{
    AdoptedArchive, AdoptedWindow, ArchiveRecord, Lease, WatermarkRow, WindowState, WindowTotals,
};
use protocol::{FailedRow, FailureReason, NBits, Revision};

use super::*;

fn adopted(day: i64, revision: Revision, epoch: u64, failures: Vec<FailedRow>) -> AdoptedWindow {
    AdoptedWindow {
        window: window(day),
        revision,
        rows: tally(11),
        replaces: vec!["a shard".to_owned(); usize::from(revision)],
        certificate: certificate(day, revision, epoch),
        certified_at: at("2024-12-24T10:20:30.123456Z"),
        totals: WindowTotals {
            files_archived: 10,
            files_failed: failures.len() as u64,
            shards: 3,
            bytes_raw: 6_000_000_000,
            bytes_stored: 5_000_000_000,
        },
        failures,
        skipped: false,
    }
}

fn archive(settled_until: &str, epoch: u64) -> AdoptedArchive {
    let settled_until = at(settled_until);
    AdoptedArchive {
        record: ArchiveRecord { settled_until, ..archive_record("a-1") },
        watermark_before: None,
        lag_days: 9,
        epoch,
        audit: audit("rebuild-ledger"),
    }
}

async fn seize(ledger: &dyn Ledger) -> Lease {
    ledger.seize_lease(&worker("operator"), TTL).await.expect("a lease")
}

/// uid and whether it is resolved, of every error row.
async fn errors(bench: &dyn Bench) -> String {
    let rows = "SELECT count(*) || ' ' || coalesce(min(uid), '') || ' ' || count(resolved_at) \
                FROM des_migration_errors";
    bench.text(rows).await.expect("a row")
}

pub(crate) async fn an_empty_ledger_takes_up_what_is_certified(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let lease = seize(&*ledger).await;
    let missing = |uid: &str| failed(uid, FailureReason::Missing);
    let passes = [
        adopted(1, 0, 3, vec![missing("uid-1"), missing("uid-2")]),
        adopted(1, 1, 5, vec![missing("uid-2")]),
        adopted(2, 0, 4, Vec::new()),
    ];
    for _once_and_again in 0..2 {
        ledger.adopt_windows(&lease, &passes).await.expect("they are recorded");
        let committed = ledger.committed_windows(None, None, 9).await.expect("windows");
        assert_eq!(committed.len(), 3);
        for (record, pass) in committed.iter().zip(&passes) {
            assert_eq!((record.window, record.revision), (pass.window, pass.revision));
            assert_eq!((record.state, record.rows), (WindowState::Committed, pass.rows));
            assert_eq!((record.totals, &record.replaces), (pass.totals, &pass.replaces));
            assert_eq!(record.certificate.as_ref(), Some(&pass.certificate));
        }
        let looks = ledger.looks(None, None, 9).await.expect("looks");
        let looks: Vec<_> = looks.iter().map(|it| (it.window, it.catalog, it.rechecked)).collect();
        // What the catalog had is what the first pass saw.
        let seen = |day| (window(day), Some(tally(11)), true);
        assert_eq!(looks, [seen(1), seen(2)]);
        // uid-1 was archived by the revision, uid-2 failed again: as their commits leave them.
        assert_eq!(errors(bench).await, "2 uid-1 1");
        let unresolved = ledger.errors(9).await.expect("errors");
        assert_eq!(unresolved.len(), 1);
        assert_eq!((&*unresolved[0].failed.uid, unresolved[0].window), ("uid-2", key(1, 1)));
    }
    // What the first passes saw is known again; nobody is to compare it by himself.
    let looks = ledger.looks(None, None, 9).await.expect("looks");
    let seen: Vec<_> =
        looks.iter().map(|look| (look.window, look.revision, look.catalog)).collect();
    let expected = [(window(1), 1, Some(passes[0].rows)), (window(2), 0, Some(passes[2].rows))];
    assert_eq!(seen, expected);
    assert!(looks.iter().all(|look| look.rechecked));
    assert_eq!(ledger.archive().await.expect("an answer"), None, "it is not usable yet");

    let whole = archive("2024-12-03", 7);
    ledger.adopt_archive(&lease, &whole).await.expect("it is recorded");
    assert_eq!(ledger.archive().await.expect("an answer"), Some(whole.record));
    let row = WatermarkRow { archived_until: at("2024-12-03"), lag_days: 9 };
    assert_eq!(ledger.watermark().await.expect("an answer"), Some(row));
    assert_eq!(take(&*ledger, "next").await.epoch, 8, "above every certificate");
    let log = ledger.audit_log(9).await.expect("the log");
    let log: Vec<_> = log.into_iter().map(|record| record.entry).collect();
    assert_eq!(log, [audit("rebuild-ledger")]);
    let lease = ledger.lease_status().await.expect("a status").expect("a holder");
    let lease = Lease { holder: lease.holder.expect("a holder"), epoch: lease.epoch };
    settle(&*ledger, &lease, 3).await;
    assert_eq!(watermark(&*ledger).await, window(3).end(), "it goes on from there");
}

pub(crate) async fn an_older_ledger_is_completed(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let old = begin(&*ledger).await;
    settle(&*ledger, &old, 1).await;
    ready(&*ledger, &old, 2, 2).await;
    ledger.add_window(&old, &new_window(3, 2)).await.expect("a window");
    let before = ledger.committed_windows(None, None, 9).await.expect("windows");

    let lease = seize(&*ledger).await;
    let known = AdoptedWindow { certificate: certificate(1, 0, 1), ..adopted(1, 0, 1, Vec::new()) };
    let passes = [known, adopted(1, 1, 8, Vec::new()), adopted(2, 0, 9, Vec::new())];
    ledger.adopt_windows(&lease, &passes).await.expect("they are recorded");
    let mut whole = archive("2024-12-03", 9);
    whole.watermark_before = Some(window(1).end());
    whole.record.origin = at("2024-11-20");
    ledger.adopt_archive(&lease, &whole).await.expect("it is recorded");

    let committed = ledger.committed_windows(None, None, 9).await.expect("windows");
    assert_eq!(committed[..1], before[..], "what it knew stays as it is");
    let keys: Vec<_> = committed.iter().map(|record| record.key()).collect();
    assert_eq!(keys, [key(1, 0), key(1, 1), key(2, 0)]);
    assert_eq!(ledger.open_windows().await.expect("windows"), [], "what was under way is not");
    assert_eq!(ledger.partitions(key(2, 0)).await.expect("partitions"), []);
    assert_eq!(errors(bench).await, "1 uid-1 1", "settled by the revision");
    let row = WatermarkRow { archived_until: at("2024-12-03"), lag_days: 7 };
    assert_eq!(ledger.watermark().await.expect("an answer"), Some(row), "its lag rules");
    assert_eq!(ledger.archive().await.expect("an answer"), Some(whole.record));
    assert_conflict(ledger.commit_window(&old, &commit(2, &old)).await, "no longer ours");
    assert_eq!(take(&*ledger, "next").await.epoch, 10);
}

pub(crate) async fn adopting_needs_its_lease(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let old = begin(&*ledger).await;
    seize(&*ledger).await;
    let before = Snapshot::of(&*ledger).await;
    let passes = [adopted(1, 0, 3, Vec::new())];
    assert_conflict(ledger.adopt_windows(&old, &passes).await, "held by operator");
    let mut whole = archive("2024-12-02", 3);
    whole.watermark_before = Some(at(START));
    assert_conflict(ledger.adopt_archive(&old, &whole).await, "held by operator");
    assert_eq!(Snapshot::of(&*ledger).await, before);
}

pub(crate) async fn adopting_contradicts_nothing(bench: &dyn Bench) {
    let ledger = bench.migrated().await;
    let old = begin(&*ledger).await;
    settle(&*ledger, &old, 1).await;
    let lease = seize(&*ledger).await;
    let before = Snapshot::of(&*ledger).await;
    let passes = [adopted(2, 0, 3, Vec::new()), adopted(1, 0, 3, Vec::new())];
    assert_conflict(ledger.adopt_windows(&lease, &passes).await, "another certificate");
    assert_eq!(Snapshot::of(&*ledger).await, before, "all of it or nothing");

    let mut whole = archive("2024-12-03", 3);
    whole.watermark_before = None;
    assert_conflict(ledger.adopt_archive(&lease, &whole).await, "moved since");
    whole.watermark_before = Some(at(START));
    assert_conflict(ledger.adopt_archive(&lease, &whole).await, "moved since");
    whole.watermark_before = Some(window(1).end());
    whole.record.archive = "a-2".parse().expect("an id");
    assert_conflict(ledger.adopt_archive(&lease, &whole).await, "archive `a-1`");
    whole.record = archive("2024-12-03", 3).record;
    whole.record.n_bits = NBits::new(6).expect("6 bits");
    assert_conflict(ledger.adopt_archive(&lease, &whole).await, "archive `a-1`");
    assert_eq!(Snapshot::of(&*ledger).await, before);
}
