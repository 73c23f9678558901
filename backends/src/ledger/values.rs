//! What the ledger is told and tells: windows, partitions, the lease, error rows, the audit log.

use std::time::Duration;

use protocol::manifest::RowRange;
use protocol::{
    ArchiveId, FailedRow, NBits, PartitionId, Revision, Tally, Timestamp, Window, WindowKey,
    WorkerId,
};

use super::Purpose;

/// The seed's row: `des_archive_config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatermarkRow {
    /// Everything in `(origin, archived_until]` is settled.
    pub archived_until: Timestamp,
    /// Files younger than this many days are left alone. The row rules; the YAML only seeds it.
    pub lag_days: u32,
}

/// What the ledger knows of the archive: `des_archives`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveRecord {
    /// The archive's id, equal to that in `_des/archive.json`.
    pub archive: ArchiveId,
    /// Bits of the shard index.
    pub n_bits: NBits,
    /// Rows at or below are not covered.
    pub origin: Timestamp,
    /// Where we last put the watermark ourselves. When the watermark differs, somebody moved it
    /// by hand.
    pub settled_until: Timestamp,
}

/// The right to decide, until it expires or a higher epoch takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it.
    pub holder: WorkerId,
    /// Grows with every change of holder.
    pub epoch: u64,
}

/// Who holds the lease, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The last holder; `None` when it was given back.
    pub holder: Option<WorkerId>,
    /// Its epoch.
    pub epoch: u64,
    /// When it ends unless it is renewed.
    pub expires_at: Timestamp,
    /// Since when its holder has had it; `None` where nobody wrote it down.
    pub since: Option<Timestamp>,
}

/// Where one pass over one window stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WindowState {
    /// An operator asked for a replay; nothing is planned yet.
    Requested,
    /// Manifests are durable, partitions are being worked on.
    Open,
    /// Every partition is answered, but more rows failed than is allowed: an operator releases or
    /// retries it.
    Held,
    /// A certificate is durable.
    Committed,
}

impl WindowState {
    /// The text that the tables hold.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Open => "open",
            Self::Held => "held",
            Self::Committed => "committed",
        }
    }

    /// Reads what [`WindowState::as_str`] gives.
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::Requested, Self::Open, Self::Held, Self::Committed]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// One pass over one window: `des_windows`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowRecord {
    /// The window.
    pub window: Window,
    /// The pass.
    pub revision: Revision,
    /// What it is for.
    pub purpose: Purpose,
    /// Where it stands.
    pub state: WindowState,
    /// Rows of all manifests; zero while requested.
    pub rows: Tally,
    /// Shards of earlier revisions that this pass replaces.
    pub replaces: Vec<String>,
    /// What was committed; all zero before that.
    pub totals: WindowTotals,
    /// Object name of the certificate, once committed.
    pub certificate: Option<String>,
    /// What planning a pass with a revision above 0 found, as [`NewWindow::findings`].
    pub findings: Option<String>,
    /// How many failed rows an operator accepted by releasing it.
    pub released: Option<u64>,
    /// Splits of its partitions before an operator last had it tried again.
    pub splits_before: u64,
    /// Since when it has been in its state, but for the commit; `None` where nobody wrote it down.
    pub state_since: Option<Timestamp>,
    /// The most rows that its partitions were cut with, where that is known.
    pub partition_rows: Option<u64>,
}

impl WindowRecord {
    /// End and revision.
    pub const fn key(&self) -> WindowKey {
        WindowKey::new(self.window, self.revision)
    }

    /// The window's end.
    pub const fn window_end(&self) -> Timestamp {
        self.window.end()
    }
}

/// What a committed window holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowTotals {
    /// Files in the archive.
    pub files_archived: u64,
    /// Error rows.
    pub files_failed: u64,
    /// Shards.
    pub shards: u64,
    /// Bytes of the files.
    pub bytes_raw: u64,
    /// Bytes of the shards and big files.
    pub bytes_stored: u64,
}

/// A pass whose manifests are durable, about to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWindow {
    /// The window.
    pub window: Window,
    /// The pass.
    pub revision: Revision,
    /// What it is for.
    pub purpose: Purpose,
    /// What the scan saw, settled before or not.
    pub scanned: Tally,
    /// What planning found, for whoever reports about the pass; not read by the ledger.
    pub findings: Option<String>,
    /// Shards of earlier revisions that this pass replaces.
    pub replaces: Vec<String>,
    /// Its partitions, numbered from 0.
    pub partitions: Vec<NewPartition>,
    /// The most rows that they were cut with; `None` for a pass that was not planned here.
    pub partition_rows: Option<u64>,
    /// How long planning it has taken: it counts as open from when that began.
    pub planned_in: Duration,
}

/// A partition whose manifest is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPartition {
    /// Object name of the manifest.
    pub manifest: String,
    /// Size of the manifest in bytes.
    pub manifest_size: u64,
    /// Rows of the manifest.
    pub rows: Tally,
}

/// One partition of an uncommitted window: `des_partitions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRecord {
    /// Its number.
    pub partition: PartitionId,
    /// Object name of the manifest.
    pub manifest: String,
    /// Size of the manifest in bytes.
    pub manifest_size: u64,
    /// The first of the manifest's rows that it holds, for a part of a partition that was split;
    /// `None` for one that holds all of them.
    pub first_row: Option<u64>,
    /// Its rows.
    pub rows: Tally,
    /// Answers without an accepted receipt, whatever the reason.
    pub setbacks: u32,
    /// Those of them that count against its rows: trouble that the rows may be the cause of.
    pub attempts: u32,
    /// Times the broker delivered its task twice.
    pub interruptions: u32,
    /// Not to be published before this time.
    pub not_before: Option<Timestamp>,
    /// The last trouble: class and detail.
    pub trouble: Option<(String, String)>,
    /// The worker whose receipt had files that deserve a second look.
    pub first_look: Option<WorkerId>,
    /// The process that works on it, where nobody else tells when that ends.
    pub under_way_by: Option<WorkerId>,
    /// What was accepted for it.
    pub accepted: Option<AcceptedReceipt>,
}

impl PartitionRecord {
    /// Which rows of the manifest it holds; `None`: all of them.
    pub fn range(&self) -> Option<RowRange> {
        self.first_row.map(|first| RowRange { first, rows: self.rows.rows })
    }
}

/// A part of a partition that is to be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewPart {
    /// The first of the manifest's rows that it holds.
    pub first_row: u64,
    /// Its rows.
    pub rows: Tally,
}

/// How often partitions of a window were split: each time two numbers came and one went.
pub fn splits<'a>(partitions: impl IntoIterator<Item = &'a PartitionRecord>) -> u64 {
    let (count, end) = partitions.into_iter().fold((0, 0), |(count, end), partition| {
        (count + 1, u64::from(partition.partition).saturating_add(1).max(end))
    });
    end.saturating_sub(count)
}

/// A window over which the watermark cannot move: a certified one that it was moved back over, or
/// a new one that cannot be planned for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Its end.
    pub end: Timestamp,
    /// Why, for a person.
    pub reason: String,
}

/// A held window that an operator lets go, or has tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldPass {
    /// Its end and revision.
    pub window: WindowKey,
    /// Its rows.
    pub rows: u64,
    /// Those that failed.
    pub files_failed: u64,
    /// Partitions with failed rows.
    pub partitions: u32,
}

/// A receipt that was read, checked and accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedReceipt {
    /// Object name.
    pub receipt: String,
    /// Size in bytes.
    pub receipt_size: u64,
    /// Rows that failed.
    pub files_failed: u64,
}

/// A partition's attempt that ended without a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setback {
    /// Setbacks from now on, this one included.
    pub setbacks: u32,
    /// Attempts from now on.
    pub attempts: u32,
    /// Interruptions from now on.
    pub interruptions: u32,
    /// Not to be published before this time.
    pub not_before: Option<Timestamp>,
    /// Class of the trouble.
    pub class: String,
    /// What was said, for a person.
    pub detail: String,
    /// The worker whose receipt had files that deserve a second look, from now on.
    pub first_look: Option<WorkerId>,
}

/// What becomes true when a window commits, all of it in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowCommit {
    /// The window.
    pub window: Window,
    /// The pass.
    pub revision: Revision,
    /// Object name of the certificate; `None` for a replay that found nothing to do, whose
    /// record is deleted.
    pub certificate: Option<String>,
    /// What the scan saw, for a pass without a certificate; one with a certificate has it from
    /// its plan.
    pub scanned: Option<Tally>,
    /// What the pass found, for whoever reports about it; not read by the ledger.
    pub findings: Option<String>,
    /// What the window holds.
    pub totals: WindowTotals,
    /// Error rows to be recorded.
    pub failures: Vec<FailedRow>,
    /// Move the watermark from exactly here to the window's end; `None` leaves it alone.
    pub advance_from: Option<Timestamp>,
}

/// A row of the append-only audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Who: a holder of the lease, or an operator's user and host.
    pub actor: String,
    /// What: `init`, `adjust`, `replay`, …
    pub action: String,
    /// Before, where it was a change.
    pub from: Option<String>,
    /// After.
    pub to: Option<String>,
    /// Why, in the operator's words.
    pub reason: Option<String>,
}

/// An [`AuditEntry`] that was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// When, by the database's clock.
    pub at: Timestamp,
    /// What.
    pub entry: AuditEntry,
}

/// How an operator moves the watermark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjustment {
    /// The watermark before, which must still be there.
    pub from: Timestamp,
    /// The watermark after.
    pub to: Timestamp,
    /// The stretch that is skipped when moving forward, and the object name of the certificate
    /// that says so, already durable.
    pub skip: Option<(Window, String)>,
    /// The audit row.
    pub audit: AuditEntry,
}

/// A row of `des_migration_errors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorRow {
    /// The row that failed.
    pub failed: FailedRow,
    /// The window and revision in which it was recorded.
    pub window: WindowKey,
    /// When a later revision archived it after all.
    pub resolved_at: Option<Timestamp>,
}
