//! The coordinator's own tables, beside the watermark: what is planned, accepted and committed.
//!
//! The ledger and the bucket are the truth. The watermark, the lease and everything else here
//! live in one database, so that one transaction can check the lease and move the watermark.
//! Every instance speaks for one job.

use std::time::Duration;

use async_trait::async_trait;
use protocol::manifest::RowRange;
use protocol::{
    ArchiveId, FailedRow, NBits, PartitionId, Revision, Tally, Timestamp, Window, WindowKey,
    WorkerId,
};

use crate::error::Result;

mod adopt;
mod commit;
mod held;
mod lease;
mod looks;
mod migrations;
mod operator;
mod parts;
mod pause;
pub mod postgres;
mod record;
mod session;
mod sql_ledger;
pub mod sqlite;
mod watermark;
mod windows;

pub use adopt::{AdoptedArchive, AdoptedWindow};
pub use looks::{Look, Purpose};
pub use pause::Pause;
pub use postgres::PostgresLedger;
pub use sql_ledger::SqlLedger;
pub use sqlite::SqliteLedger;

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

/// The coordinator's memory.
///
/// Every change that is made under the lease names it, and fails with
/// [`Conflict`](crate::BackendError::Conflict) when the lease row no longer has this holder and
/// epoch; nothing is changed then.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Creates or upgrades our tables. A `des_archive_config` that exists, as the seed creates
    /// it or with more columns, is adopted as it stands. Safe to call from several processes.
    async fn migrate(&self) -> Result<()>;

    /// What [`Ledger::migrate`] has not done yet: descriptions of pending migrations.
    async fn pending_migrations(&self) -> Result<Vec<String>>;

    /// What our role lacks to create or upgrade our tables, where that is pending, and to use
    /// them: what to do about each, such as the GRANT to run. Empty when nothing. Changes nothing.
    async fn missing_privileges(&self) -> Result<Vec<String>>;

    /// The database's clock.
    async fn now(&self) -> Result<Timestamp>;

    /// The watermark row; `None` when there is none yet (also when the table is missing).
    async fn watermark(&self) -> Result<Option<WatermarkRow>>;

    /// The archive's record; `None` when `init` was never run (also when the table is missing).
    async fn archive(&self) -> Result<Option<ArchiveRecord>>;

    /// Records the archive, and the watermark row where there is none, in one transaction.
    ///
    /// # Errors
    /// [`Conflict`](crate::BackendError::Conflict) when the job has another archive already, or
    /// the watermark row is there and differs from `watermark.archived_until`.
    async fn register(
        &self,
        record: &ArchiveRecord,
        watermark: WatermarkRow,
        audit: &AuditEntry,
    ) -> Result<()>;

    /// Takes the lease for `ttl` when it is free, expired or given back; the epoch grows by one.
    /// `None` when another holds it.
    async fn acquire_lease(&self, holder: &WorkerId, ttl: Duration) -> Result<Option<Lease>>;

    /// Takes the lease for `ttl` from whoever holds it, at an operator's word; the epoch grows by
    /// one, and what the former holder still tries is refused.
    async fn seize_lease(&self, holder: &WorkerId, ttl: Duration) -> Result<Lease>;

    /// Prolongs the lease to `ttl` from now. False when it is no longer ours.
    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool>;

    /// Gives the lease back; does nothing when it is no longer ours.
    async fn release_lease(&self, lease: &Lease) -> Result<()>;

    /// Who holds the lease; `None` when nobody ever did.
    async fn lease_status(&self) -> Result<Option<LeaseStatus>>;

    /// Records a window and its partitions in one transaction, state `Open`. A `Requested`
    /// record of the same end and revision becomes this one. Doing it again with the same
    /// values changes nothing; a committed window is refused.
    async fn add_window(&self, lease: &Lease, window: &NewWindow) -> Result<()>;

    /// Windows that are not committed, by end and revision.
    async fn open_windows(&self) -> Result<Vec<WindowRecord>>;

    /// Committed passes whose end lies in `(after, until]` (unbounded where `None`), by end and
    /// revision, at most `limit`.
    async fn committed_windows(
        &self,
        after: Option<Timestamp>,
        until: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<WindowRecord>>;

    /// A window's partitions, by number; also of a committed window.
    async fn partitions(&self, window: WindowKey) -> Result<Vec<PartitionRecord>>;

    /// Records that a partition's receipt was accepted. Accepting the same receipt again changes
    /// nothing; another receipt for an accepted partition is refused: false.
    async fn accept(
        &self,
        lease: &Lease,
        window: WindowKey,
        partition: PartitionId,
        receipt: &AcceptedReceipt,
    ) -> Result<bool>;

    /// Records a setback of a partition that has no accepted receipt. False when it has one, or
    /// is gone.
    async fn set_back(
        &self,
        lease: &Lease,
        window: WindowKey,
        partition: PartitionId,
        setback: &Setback,
    ) -> Result<bool>;

    /// Takes back what was accepted for a partition of an uncommitted window, because an object
    /// that its receipt names is gone or damaged.
    async fn reopen(
        &self,
        lease: &Lease,
        window: WindowKey,
        partition: PartitionId,
        setback: &Setback,
    ) -> Result<()>;

    /// Replaces a partition of an uncommitted window that has no accepted receipt by its parts, in
    /// order, under the next free numbers; numbers are never used twice. `trouble` (class and
    /// detail) is what is recorded of why. False when the partition has a receipt, or is gone.
    ///
    /// # Errors
    /// [`Invalid`](crate::BackendError::Invalid) when the parts are not exactly the partition's
    /// rows.
    async fn split_partition(
        &self,
        lease: &Lease,
        window: WindowKey,
        partition: PartitionId,
        parts: &[NewPart; 2],
        trouble: (&str, &str),
    ) -> Result<bool>;

    /// Changes an uncommitted window's state between `Open` and `Held`.
    async fn set_window_state(
        &self,
        lease: &Lease,
        window: WindowKey,
        state: WindowState,
    ) -> Result<()>;

    /// Commits a window: locks the lease row, checks holder and epoch, moves watermark and
    /// `settled_until` by compare-and-set, records error rows, marks the window committed. One
    /// transaction. After an ambiguous failure the caller reads the window again; committing the
    /// same window with the same certificate a second time is `Ok` and changes nothing.
    ///
    /// # Errors
    /// [`Conflict`](crate::BackendError::Conflict) when the lease is lost or the watermark is not
    /// where it should be.
    async fn commit_window(&self, lease: &Lease, commit: &WindowCommit) -> Result<()>;

    /// Asks for another pass over the window that ends at `end`: records the next revision as
    /// `Requested` and returns it; an uncommitted later revision that is already there is returned
    /// instead, whatever its purpose.
    ///
    /// # Errors
    /// [`NotFound`](crate::BackendError::NotFound) when no committed window has this end.
    async fn request_pass(
        &self,
        end: Timestamp,
        purpose: Purpose,
        audit: &AuditEntry,
    ) -> Result<WindowRecord>;

    /// Looks at committed windows whose end lies in `(after, until]` (unbounded where `None`), by
    /// end, at most `limit`.
    async fn looks(
        &self,
        after: Option<Timestamp>,
        until: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<Look>>;

    /// Looks at windows that were not compared with the catalog since their last commit: those
    /// committed last first, or those committed first, at most `limit`.
    async fn looks_to_recheck(&self, newest: bool, limit: u32) -> Result<Vec<Look>>;

    /// Notes that a committed window was compared with the catalog, which had exactly the rows
    /// that were written down for it.
    async fn note_rechecked(&self, lease: &Lease, end: Timestamp) -> Result<()>;

    /// Ends of windows that have unresolved error rows, in order.
    async fn windows_with_errors(&self) -> Result<Vec<Timestamp>>;

    /// Number of unresolved error rows of the window that ends at `end`.
    async fn count_errors_of(&self, end: Timestamp) -> Result<u64>;

    /// Lets a held window go at an operator's word: it is open again, and commits with as many
    /// failed rows as it has now. Writes the audit row.
    ///
    /// # Errors
    /// [`Conflict`](crate::BackendError::Conflict) when the window is not held.
    async fn release_window(&self, window: WindowKey, audit: &AuditEntry) -> Result<HeldPass>;

    /// Has a held window's failed rows read again at an operator's word: it is open again, and
    /// what was accepted for partitions with failed rows is taken back, with everything that counts
    /// against them. Writes the audit row.
    ///
    /// # Errors
    /// [`Conflict`](crate::BackendError::Conflict) when the window is not held.
    async fn retry_window(&self, window: WindowKey, audit: &AuditEntry) -> Result<HeldPass>;

    /// Moves the watermark at an operator's word, under a lease that was seized for it and that
    /// nobody holds afterwards: drops every uncommitted window, moves watermark and
    /// `settled_until`, lowers the origin when moving below it, records the skip
    /// certificate as a committed window of zero rows when there is one, writes the audit row.
    /// One transaction.
    ///
    /// # Errors
    /// [`Conflict`](crate::BackendError::Conflict) when the watermark is not at `from`.
    async fn adjust(&self, lease: &Lease, adjustment: &Adjustment) -> Result<()>;

    /// Records passes that certificates prove as committed, with their error rows as their commits
    /// would have left them, when given in order of window end and revision. An uncommitted record
    /// of the same pass is replaced; one with the same certificate stays as it is. One transaction.
    ///
    /// # Errors
    /// [`Conflict`](crate::BackendError::Conflict) when a pass is committed with another
    /// certificate.
    async fn adopt_windows(&self, lease: &Lease, adopted: &[AdoptedWindow]) -> Result<()>;

    /// Records the archive, sets origin, watermark and `settled_until`, drops every uncommitted
    /// window, writes the audit row, and gives the lease back with an epoch that is at least
    /// `adopted.epoch`. One transaction, the last of a rebuilding.
    ///
    /// # Errors
    /// [`Conflict`](crate::BackendError::Conflict) when the job has another archive, or the
    /// watermark is not where it was.
    async fn adopt_archive(&self, lease: &Lease, adopted: &AdoptedArchive) -> Result<()>;

    /// The pause that stands, also one whose time is over and that nobody ended yet; `None` when
    /// there is none (also when the table is missing).
    async fn pause_status(&self) -> Result<Option<Pause>>;

    /// Records a pause at an operator's word, who and why being those of `audit`, and writes the
    /// audit row. The lease stays with whoever has it.
    ///
    /// # Errors
    /// [`Conflict`](crate::BackendError::Conflict) with the pause that stands already;
    /// [`Invalid`](crate::BackendError::Invalid) when `until` is not ahead of the database's clock.
    async fn pause(&self, until: Option<Timestamp>, audit: &AuditEntry) -> Result<Pause>;

    /// Ends the pause at an operator's word and returns it. Writes the audit row.
    ///
    /// # Errors
    /// [`Conflict`](crate::BackendError::Conflict) when there is none.
    async fn resume(&self, audit: &AuditEntry) -> Result<Pause>;

    /// Ends a pause whose time is over and returns it; `None` when there is none such. The audit
    /// row names `actor`.
    async fn end_pause_if_over(&self, actor: &str) -> Result<Option<Pause>>;

    /// The newest entries of the audit log, newest first, at most `limit`.
    async fn audit_log(&self, limit: u32) -> Result<Vec<AuditRecord>>;

    /// Appends to the audit log.
    async fn record_audit(&self, entry: &AuditEntry) -> Result<()>;

    /// Number of unresolved error rows.
    async fn count_errors(&self) -> Result<u64>;

    /// Number of unresolved error rows by reason, the most frequent first.
    async fn errors_by_reason(&self) -> Result<Vec<(String, u64)>>;

    /// Unresolved error rows in the order they were recorded, at most `limit`.
    async fn errors(&self, limit: u32) -> Result<Vec<ErrorRow>>;
}
