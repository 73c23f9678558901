//! Lists for people: passes over windows and error rows, the newest first, read page by page.

use backends::ledger::{ErrorQuery, ListedError, ListedPass, PassQuery, ReasonCount, WindowState};
use backends::{BackendError, Ledger, Store};
use protocol::{FailedRow, FailureReason, PartitionId, Receipt, Revision, Timestamp, WindowKey};
use serde::Serialize;

use crate::explain::Partitions;
use crate::held::{HeldWindow, held_windows};
use crate::receipts::MAX_RECEIPT_BYTES;

/// Rows that are read from the ledger at a time.
const PAGE: u32 = 500;

/// One pass over one window, as it stands in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedWindow {
    /// Exclusive lower bound of created_at.
    pub start: Timestamp,
    /// Inclusive upper bound of created_at.
    pub end: Timestamp,
    /// The pass.
    pub revision: u16,
    /// What the pass is for: `scan`, `replay`, `reconcile` or `retry`.
    pub purpose: &'static str,
    /// Where it stands: `requested`, `open`, `held` or `committed`.
    pub state: &'static str,
    /// Since when; null for passes that an older release recorded and did not finish.
    pub since: Option<Timestamp>,
    /// Rows of its manifests.
    pub rows: u64,
    /// Those that failed, in what is accepted so far.
    pub failed: u64,
    /// Failed rows that an operator accepted by releasing it.
    pub released: Option<u64>,
    /// Shards; null before the commit, as are the bytes.
    pub shards: Option<u64>,
    /// Bytes of the files.
    pub bytes_raw: Option<u64>,
    /// Bytes of the shards and big files.
    pub bytes_stored: Option<u64>,
    /// Its partitions by state.
    pub partitions: Partitions,
    /// Object name of the certificate, once committed.
    pub certificate: Option<String>,
}

impl From<ListedPass> for ListedWindow {
    fn from(pass: ListedPass) -> Self {
        let ListedPass { record, since, partitions: counts, .. } = pass;
        let committed = record.state == WindowState::Committed;
        let totals = committed.then_some(record.totals);
        let done = counts.accepted + counts.backing_off;
        Self {
            start: record.window.start(),
            end: record.window.end(),
            revision: record.revision,
            purpose: record.purpose.as_str(),
            state: record.state.as_str(),
            since,
            rows: record.rows.rows,
            failed: totals.map_or(counts.files_failed, |totals| totals.files_failed),
            released: record.released,
            shards: totals.map(|totals| totals.shards),
            bytes_raw: totals.map(|totals| totals.bytes_raw),
            bytes_stored: totals.map(|totals| totals.bytes_stored),
            partitions: Partitions {
                all: counts.all,
                accepted: counts.accepted,
                to_do: counts.all.saturating_sub(done),
                backing_off: counts.backing_off,
            },
            certificate: record.certificate,
        }
    }
}

/// The newest `limit` passes over windows that end at or after `from` and start before `until`
/// (unbounded where `None`). Memory grows with `limit`.
///
/// # Errors
/// When the ledger does not answer.
pub async fn windows(
    ledger: &dyn Ledger,
    (from, until): (Option<Timestamp>, Option<Timestamp>),
    limit: u32,
) -> Result<Vec<ListedWindow>, BackendError> {
    let mut windows: Vec<ListedWindow> = Vec::new();
    let mut before = None;
    let mut left = limit;
    while left > 0 {
        let page = PassQuery { from, until, before, limit: left.min(PAGE) };
        let found = ledger.list_passes(page).await?;
        let Some(last) = found.last() else { break };
        before = Some(last.record.key());
        left = left.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
        windows.extend(found.into_iter().map(ListedWindow::from));
    }
    Ok(windows)
}

/// An error row: a file of the catalog that is not in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedFailure {
    /// The file's key.
    pub uid: String,
    /// The row's created_at.
    pub created_at: Timestamp,
    /// Where the file was looked for.
    pub location: Option<String>,
    /// Why it failed.
    pub reason: FailureReason,
    /// What the system said.
    pub detail: String,
    /// End of the window.
    pub window: Timestamp,
    /// The pass that recorded it.
    pub revision: u16,
    /// When that was.
    pub recorded_at: Timestamp,
    /// When a later pass settled it; null while it is not in the archive.
    pub resolved_at: Option<Timestamp>,
}

impl From<ListedError> for ListedFailure {
    fn from(listed: ListedError) -> Self {
        let ListedError { recorded_at, row, .. } = listed;
        let WindowKey { end, revision } = row.window;
        let failed = row.failed;
        Self {
            uid: failed.uid,
            created_at: failed.created_at,
            location: failed.location,
            reason: failed.reason,
            detail: failed.detail,
            window: end,
            revision,
            recorded_at,
            resolved_at: row.resolved_at,
        }
    }
}

/// Hands over the error rows that `query` asks for, those recorded last first, at most `limit`, until
/// `visit` says false. Memory does not grow with their number.
///
/// # Errors
/// When the ledger does not answer.
pub async fn errors(
    ledger: &dyn Ledger,
    query: ErrorQuery,
    limit: u64,
    visit: &mut (dyn FnMut(ListedFailure) -> bool + Send),
) -> Result<(), BackendError> {
    let mut before = None;
    let mut left = limit;
    while left > 0 {
        let page = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let found = ledger.list_errors(query, before, page).await?;
        let Some(last) = found.last() else { break };
        before = Some(last.number);
        left = left.saturating_sub(found.len() as u64);
        for listed in found {
            if !visit(listed.into()) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A file that failed in a window that is held. It becomes an error row when the window is released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldFailure {
    /// The row, and why.
    #[serde(flatten)]
    pub failed: FailedRow,
    /// End of the window.
    pub window: Timestamp,
    /// The pass.
    pub revision: Revision,
    /// The partition.
    pub partition: PartitionId,
}

/// Hands over the files that failed in held windows, or in the one that ends at `window`, from the receipts
/// that were accepted, until `visit` says false. Memory: one receipt.
///
/// # Errors
/// When ledger or store do not answer, or a receipt is gone or damaged.
pub async fn failed_in_held_windows(
    store: &Store,
    ledger: &dyn Ledger,
    window: Option<Timestamp>,
    visit: &mut (dyn FnMut(HeldFailure) -> bool + Send),
) -> Result<(), BackendError> {
    let held = held_windows(ledger).await?;
    let asked = held.iter().filter(|it| !it.stuck && window.is_none_or(|end| end == it.end));
    for key in asked.map(HeldWindow::key) {
        for partition in ledger.partitions(key).await? {
            let Some(accepted) = partition.accepted.filter(|it| it.files_failed > 0) else {
                continue;
            };
            let bytes = store.get(&accepted.receipt, MAX_RECEIPT_BYTES).await?;
            let receipt = Receipt::decode(&bytes).map_err(|error| BackendError::Invalid {
                what: format!("the receipt {}: {error}", accepted.receipt),
            })?;
            let WindowKey { end: window, revision } = key;
            let partition = receipt.partition;
            for failed in receipt.failures {
                if !visit(HeldFailure { failed, window, revision, partition }) {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Error rows of one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ReasonFacts {
    /// The reason.
    pub reason: FailureReason,
    /// Files that are not in the archive.
    pub files: u64,
    /// Files that a later pass settled; counted where they were asked for.
    pub resolved: u64,
}

/// Error rows by reason, the most frequent first.
///
/// # Errors
/// When the ledger does not answer.
pub async fn reasons(
    ledger: &dyn Ledger,
    query: ErrorQuery,
) -> Result<Vec<ReasonFacts>, BackendError> {
    let counts = ledger.count_reasons(query).await?;
    let facts = |it: ReasonCount| ReasonFacts {
        reason: it.reason,
        files: it.unresolved,
        resolved: it.resolved,
    };
    Ok(counts.into_iter().map(facts).collect())
}
