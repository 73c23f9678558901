//! The coordinator's own tables, beside the watermark: what is planned, accepted and committed.
//!
//! The ledger and the bucket are the truth. The watermark, the lease and everything else here
//! live in one database, so that one transaction can check the lease and move the watermark.
//! Every instance speaks for one job.

use std::time::Duration;

use async_trait::async_trait;
use protocol::{PartitionId, Timestamp, WindowKey, WorkerId};

use crate::error::Result;

mod adopt;
mod commit;
mod held;
mod lease;
mod listing;
mod looks;
mod migrations;
mod operator;
mod parts;
mod pause;
mod port;
pub mod postgres;
mod record;
mod scope;
mod session;
mod sql_ledger;
pub mod sqlite;
mod synced;
mod throttle;
mod values;
mod watermark;
mod windows;

pub use adopt::{AdoptedArchive, AdoptedWindow};
pub use listing::{ErrorQuery, ListedError, ListedPass, PartitionCounts, PassQuery, ReasonCount};
pub use looks::{Look, Purpose};
pub use pause::Pause;
pub use postgres::PostgresLedger;
pub use scope::Scope;
pub use sql_ledger::SqlLedger;
pub use sqlite::SqliteLedger;
pub use synced::SyncPosition;
pub use throttle::{LiveLimits, Override, Throttle, Wait};
pub use values::{
    AcceptedReceipt, Adjustment, ArchiveRecord, AuditEntry, AuditRecord, ErrorRow, HeldPass, Lease,
    LeaseStatus, NewPart, NewPartition, NewWindow, PartitionRecord, Setback, Stuck, WatermarkRow,
    WindowCommit, WindowRecord, WindowState, WindowTotals, splits,
};

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

    /// Records an open window's plan anew, in one transaction: its partitions, and what became of
    /// them, are forgotten, and these are recorded for it.
    ///
    /// # Errors
    /// [`Conflict`](crate::BackendError::Conflict) when it is committed;
    /// [`NotFound`](crate::BackendError::NotFound) when it is not in the ledger.
    async fn plan_again(&self, lease: &Lease, window: &NewWindow) -> Result<()>;

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

    /// Records what is being waited for with a partition, which costs it nothing: class and detail,
    /// as of a setback. Nothing happens to one that has an accepted receipt, or is gone.
    async fn note_trouble(
        &self,
        lease: &Lease,
        window: WindowKey,
        partition: PartitionId,
        trouble: (&str, &str),
    ) -> Result<()>;

    /// Records that the lease's holder works on these partitions itself, so that its successor knows
    /// what it died over. A setback, or an accepted receipt, ends that for a partition.
    async fn note_under_way(
        &self,
        lease: &Lease,
        partitions: &[(WindowKey, PartitionId)],
    ) -> Result<()>;

    /// Records that the lease's holder stops working without having died over anything.
    async fn clear_under_way(&self, lease: &Lease) -> Result<()>;

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
    /// instead, whatever its purpose. `None` for the audit log where another request of the same act
    /// has left its entry there.
    ///
    /// # Errors
    /// [`NotFound`](crate::BackendError::NotFound) when no committed window has this end.
    async fn request_pass(
        &self,
        end: Timestamp,
        purpose: Purpose,
        audit: Option<&AuditEntry>,
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
    /// committed last first, or those first that were looked at longest ago, at most `limit`.
    async fn looks_to_recheck(&self, newest: bool, limit: u32) -> Result<Vec<Look>>;

    /// Looks at committed windows whose last pass left findings that contain `text`, by end, at most
    /// `limit`. `text` holds neither `%` nor `_`.
    async fn looks_that_found(&self, text: &str, limit: u32) -> Result<Vec<Look>>;

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

    /// The pause that holds the job back, its own or that of all jobs, whichever lasts longer; also
    /// one whose time is over and that nobody ended yet. `None` when there is none (also when the
    /// table is missing).
    async fn pause_status(&self) -> Result<Option<Pause>>;

    /// Records a pause at an operator's word, who and why being those of `audit`, and writes the
    /// audit row. The lease stays with whoever has it.
    ///
    /// # Errors
    /// [`Conflict`](crate::BackendError::Conflict) with the pause of this scope that stands already;
    /// [`Invalid`](crate::BackendError::Invalid) when `until` is not ahead of the database's clock.
    async fn pause(
        &self,
        scope: Scope,
        until: Option<Timestamp>,
        audit: &AuditEntry,
    ) -> Result<Pause>;

    /// Ends the pause of this scope at an operator's word and returns it. Writes the audit row.
    ///
    /// # Errors
    /// [`Conflict`](crate::BackendError::Conflict) when there is none.
    async fn resume(&self, scope: Scope, audit: &AuditEntry) -> Result<Pause>;

    /// Ends pauses whose time is over, the job's and that of all jobs, and returns the one that
    /// lasted longest; `None` when there is none such. The audit rows name `actor`.
    async fn end_pause_if_over(&self, actor: &str) -> Result<Option<Pause>>;
    /// The throttles that operators set: the job's own, then that of all jobs. Empty when there is
    /// none (also when the table is missing).
    async fn throttles(&self) -> Result<Vec<Throttle>>;

    /// Sets a throttle at an operator's word, in the place of the one of this scope that stands; who
    /// and why are those of `audit`. Writes the audit row, with the limits before and after.
    async fn set_throttle(
        &self,
        scope: Scope,
        limits: &LiveLimits,
        audit: &AuditEntry,
    ) -> Result<Throttle>;

    /// Takes the throttle of this scope back and returns it. Writes the audit row.
    ///
    /// # Errors
    /// [`Conflict`](crate::BackendError::Conflict) when there is none.
    async fn end_throttle(&self, scope: Scope, audit: &AuditEntry) -> Result<Throttle>;

    /// Records what the lease's holder waits for at an operator's wish, kind and reason, or that it
    /// waits for nothing. It has waited since the kind was another.
    async fn note_wait(&self, lease: &Lease, wait: Option<(&str, &str)>) -> Result<()>;

    /// What was recorded last of what a leader waits for. Nothing is known of it when nobody leads.
    async fn wait(&self) -> Result<Option<Wait>>;

    /// Committed passes with a certificate over windows that end at or before `until`, whose files
    /// are not all marked for `target` yet; those after `after`, by end and revision, at most
    /// `limit`.
    async fn passes_to_sync(
        &self,
        target: &str,
        after: Option<WindowKey>,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<WindowRecord>>;

    /// How far the files of one pass are marked for `target`.
    async fn sync_position(&self, target: &str, window: WindowKey) -> Result<SyncPosition>;

    /// Notes how far the files of one pass are marked for `target`.
    async fn note_synced(
        &self,
        target: &str,
        window: WindowKey,
        position: SyncPosition,
    ) -> Result<()>;

    /// Forgets how far all passes are marked for `target`.
    async fn forget_synced(&self, target: &str) -> Result<()>;

    /// Records over which window the watermark cannot move for now, or a pass over which window below
    /// it cannot be planned, and why; or that there is none.
    async fn note_stuck(&self, lease: &Lease, stuck: Option<&Stuck>) -> Result<()>;

    /// What was recorded last by [`note_stuck`](Self::note_stuck), while the watermark has not passed
    /// the window, or a pass over it is not committed.
    async fn stuck(&self) -> Result<Option<Stuck>>;

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

    /// A page of passes over windows, whatever their state, the newest first: by end and revision
    /// from above.
    async fn list_passes(&self, query: PassQuery) -> Result<Vec<ListedPass>>;

    /// A page of error rows, those recorded last first: at most `limit` with a number below
    /// `before`.
    async fn list_errors(
        &self,
        query: ErrorQuery,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<ListedError>>;

    /// Number of error rows by reason, the most frequent first.
    async fn count_reasons(&self, query: ErrorQuery) -> Result<Vec<ReasonCount>>;
}
