//! Windows, receipts and the like, as a coordinator would hand them over.

use std::time::Duration;

use backends::ledger::{
    AcceptedReceipt, ArchiveRecord, AuditEntry, ErrorRow, Lease, LeaseStatus, NewPartition,
    NewWindow, PartitionRecord, Purpose, Setback, WatermarkRow, WindowCommit, WindowRecord,
    WindowTotals,
};
use backends::{BackendError, Ledger};
use protocol::{
    ContentHash, Digest, FailedRow, FailureReason, Job, NBits, PartitionId, Revision, Tally,
    Timestamp, Window, WindowKey, WorkerId, names,
};

/// Long enough for any test.
pub(crate) const TTL: Duration = Duration::from_secs(600);
/// The watermark that tests begin with.
pub(crate) const START: &str = "2024-12-01";

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().expect("a date")
}

pub(crate) fn job(name: &str) -> Job {
    name.parse().expect("a job's name")
}

pub(crate) fn worker(name: &str) -> WorkerId {
    name.parse().expect("a worker's name")
}

/// The window that ends `day` days after [`START`].
pub(crate) fn window(day: i64) -> Window {
    let end = |day: i64| at(START).saturating_add_micros(day * 86_400_000_000);
    Window::new(end(day - 1), end(day)).expect("a window of a day")
}

pub(crate) fn key(day: i64, revision: Revision) -> WindowKey {
    WindowKey::new(window(day), revision)
}

pub(crate) fn tally(rows: u64) -> Tally {
    Tally { rows, digest: Digest(u128::MAX / 3 + u128::from(rows)) }
}

/// The first pass over the window that ends `day` days after [`START`].
pub(crate) fn new_window(day: i64, partitions: u32) -> NewWindow {
    let partition = |number: PartitionId| NewPartition {
        manifest: names::manifest(key(day, 0), number, ContentHash::of(&number.to_le_bytes())),
        manifest_size: 1_000 + u64::from(number),
        rows: tally(u64::from(number) + 1),
    };
    NewWindow {
        window: window(day),
        revision: 0,
        purpose: Purpose::Scan,
        scanned: Tally::default(),
        findings: None,
        replaces: Vec::new(),
        partitions: (0..partitions).map(partition).collect(),
        partition_rows: Some(50_000),
        planned_in: std::time::Duration::ZERO,
    }
}

pub(crate) fn receipt(day: i64, partition: PartitionId) -> AcceptedReceipt {
    let hash = ContentHash::of(&partition.to_be_bytes());
    AcceptedReceipt {
        receipt: names::receipt(key(day, 0), partition, hash, hash),
        receipt_size: 5_000_000_000,
        files_failed: 2,
    }
}

pub(crate) fn setback(attempts: u32) -> Setback {
    Setback {
        setbacks: attempts + 2,
        attempts,
        interruptions: 1,
        not_before: Some(at("2024-12-03T04:05:06.789012Z")),
        class: "store_unavailable".to_owned(),
        detail: "503 Slow Down, „später“".to_owned(),
        first_look: Some(worker("worker-7")),
    }
}

pub(crate) fn certificate(day: i64, revision: Revision, epoch: u64) -> String {
    names::certificate(key(day, revision), epoch)
}

/// The commit of the first pass over a window, which moves the watermark.
pub(crate) fn commit(day: i64, lease: &Lease) -> WindowCommit {
    WindowCommit {
        window: window(day),
        revision: 0,
        certificate: Some(certificate(day, 0, lease.epoch)),
        totals: WindowTotals {
            files_archived: 10,
            files_failed: 1,
            shards: 3,
            bytes_raw: 6_000_000_000,
            bytes_stored: 5_000_000_000,
        },
        scanned: None,
        findings: None,
        failures: vec![failed("uid-1", FailureReason::Missing)],
        advance_from: Some(window(day).start()),
    }
}

pub(crate) fn failed(uid: &str, reason: FailureReason) -> FailedRow {
    FailedRow {
        uid: uid.to_owned(),
        created_at: at("2024-12-01T10:20:30.123456Z"),
        location: Some(format!("/data/{uid}")),
        reason,
        detail: "No such file or directory (os error 2)".to_owned(),
    }
}

pub(crate) fn audit(action: &str) -> AuditEntry {
    AuditEntry {
        actor: "ada@console".to_owned(),
        action: action.to_owned(),
        from: Some("2024-12-01T00:00:00Z".to_owned()),
        to: None,
        reason: Some("it's a test".to_owned()),
    }
}

pub(crate) fn archive_record(name: &str) -> ArchiveRecord {
    ArchiveRecord {
        archive: name.parse().expect("an archive id"),
        n_bits: NBits::DEFAULT,
        origin: at(START),
        settled_until: at(START),
    }
}

pub(crate) fn watermark_row() -> WatermarkRow {
    WatermarkRow { archived_until: at(START), lag_days: 7 }
}

/// Registers an archive whose watermark is at [`START`], and takes the lease.
pub(crate) async fn begin(ledger: &dyn Ledger) -> Lease {
    register(ledger, "a-1").await.expect("the archive is registered");
    take(ledger, "first").await
}

/// Registers an archive whose watermark is at [`START`].
pub(crate) async fn register(ledger: &dyn Ledger, name: &str) -> Result<(), BackendError> {
    ledger.register(&archive_record(name), watermark_row(), &audit("init")).await
}

/// Accepts the usual receipt of a partition.
pub(crate) async fn accept(
    ledger: &dyn Ledger,
    lease: &Lease,
    key: WindowKey,
    partition: PartitionId,
) {
    let accepted = ledger.accept(lease, key, partition, &receipt(1, partition)).await;
    assert!(accepted.expect("the ledger answers"));
}

/// Takes a lease that is free.
pub(crate) async fn take(ledger: &dyn Ledger, holder: &str) -> Lease {
    let lease = ledger.acquire_lease(&worker(holder), TTL).await.expect("the ledger answers");
    lease.expect("the lease is free")
}

/// Records a window and accepts all its partitions.
pub(crate) async fn ready(ledger: &dyn Ledger, lease: &Lease, day: i64, partitions: u32) {
    ledger.add_window(lease, &new_window(day, partitions)).await.expect("the window is recorded");
    for partition in 0..partitions {
        accept(ledger, lease, key(day, 0), partition).await;
    }
}

/// Records and commits the first pass over a window.
pub(crate) async fn settle(ledger: &dyn Ledger, lease: &Lease, day: i64) {
    ready(ledger, lease, day, 2).await;
    ledger.commit_window(lease, &commit(day, lease)).await.expect("the window is committed");
}

/// The watermark.
pub(crate) async fn watermark(ledger: &dyn Ledger) -> Timestamp {
    let row = ledger.watermark().await.expect("the ledger answers");
    row.expect("there is a watermark").archived_until
}

/// Everything that the ledger tells, to see that nothing changed.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    watermark: Option<WatermarkRow>,
    archive: Option<ArchiveRecord>,
    lease: Option<LeaseStatus>,
    windows: Vec<(WindowRecord, Vec<PartitionRecord>)>,
    errors: Vec<ErrorRow>,
}

impl Snapshot {
    /// Everything but the lease, which an adjustment takes also when it is refused.
    pub(crate) fn without_lease(self) -> Self {
        Self { lease: None, ..self }
    }

    pub(crate) async fn of(ledger: &dyn Ledger) -> Self {
        let mut records = ledger.open_windows().await.expect("open windows");
        records.extend(ledger.committed_windows(None, None, 1_000).await.expect("windows"));
        let mut windows = Vec::new();
        for record in records {
            let partitions = ledger.partitions(record.key()).await.expect("partitions");
            windows.push((record, partitions));
        }
        Self {
            watermark: ledger.watermark().await.expect("the watermark"),
            archive: ledger.archive().await.expect("the archive"),
            lease: ledger.lease_status().await.expect("the lease"),
            windows,
            errors: ledger.errors(1_000_000).await.expect("errors"),
        }
    }
}

/// Asserts that a call was refused because somebody else is in the way.
#[track_caller]
pub(crate) fn assert_conflict<T: std::fmt::Debug>(outcome: Result<T, BackendError>, words: &str) {
    let error = outcome.expect_err("it is refused");
    assert!(error.is_conflict(), "{error:?}");
    assert!(error.to_string().contains(words), "`{words}` is missing in: {error}");
}
