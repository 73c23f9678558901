//! The port over any database that has a [`Session`]: every action in one bounded transaction.

use std::time::Duration;

use async_trait::async_trait;
use protocol::{PartitionId, Timestamp, WindowKey, WorkerId};
use sqlx::Database;
use sqlx::migrate::Migrate;

use super::session::{Pooled, Session};
use super::sql_ledger::{ACTION_LIMIT, SqlLedger};
use super::{
    AcceptedReceipt, Adjustment, AdoptedArchive, AdoptedWindow, ArchiveRecord, AuditEntry,
    AuditRecord, ErrorQuery, ErrorRow, HeldPass, Lease, LeaseStatus, Ledger, ListedError,
    ListedPass, LiveLimits, Look, NewPart, NewWindow, PartitionRecord, PassQuery, Pause, Purpose,
    ReasonCount, Scope, Setback, Stuck, SyncPosition, Throttle, Wait, WatermarkRow, WindowCommit,
    WindowRecord, WindowState, adopt, commit, held, lease, listing, looks, operator, parts, pause,
    synced, throttle, watermark, windows,
};
use crate::error::{BackendError, Result};

/// Error rows that a commit may take a further second for.
const FAILURES_PER_SECOND: usize = 1_000;

/// One action in one transaction, which ends as the action does.
macro_rules! transaction {
    ($ledger:ident, $action:literal, |$session:ident| $work:expr) => {
        transaction!($ledger, $action, ACTION_LIMIT, |$session| $work)
    };
    ($ledger:ident, $action:literal, $limit:expr, |$session:ident| $work:expr) => {{
        let work = async {
            let mut pooled = $ledger.begin($action).await?;
            let $session = &mut pooled;
            let outcome = $work.await;
            pooled.finish(outcome).await
        };
        $ledger.bounded($action, $limit, work).await
    }};
}

/// One query.
macro_rules! query {
    ($ledger:ident, $action:literal, |$session:ident| $work:expr) => {{
        let work = async {
            let mut pooled = $ledger.read($action).await?;
            let $session = &mut pooled;
            let outcome = $work.await;
            pooled.finish(outcome).await
        };
        $ledger.bounded($action, ACTION_LIMIT, work).await
    }};
}

#[async_trait]
impl<DB> Ledger for SqlLedger<DB>
where
    DB: Database,
    Pooled<DB>: Session,
    DB::Connection: Migrate,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    async fn migrate(&self) -> Result<()> {
        self.bounded("create or upgrade its tables", ACTION_LIMIT, self.run_migrations()).await
    }

    async fn pending_migrations(&self) -> Result<Vec<String>> {
        self.bounded("list what was migrated", ACTION_LIMIT, self.read_pending()).await
    }

    async fn missing_privileges(&self) -> Result<Vec<String>> {
        let upgrade = match self.pending_migrations().await {
            Ok(pending) => !pending.is_empty(),
            // Then that is what is missing first.
            Err(BackendError::Denied { .. }) => false,
            Err(error) => return Err(error),
        };
        query!(self, "ask for its privileges", |session| session.lacks(upgrade))
    }

    async fn now(&self) -> Result<Timestamp> {
        query!(self, "tell the time", |session| session.now())
    }

    async fn watermark(&self) -> Result<Option<WatermarkRow>> {
        let id = self.config_id;
        let look =
            || async { query!(self, "read the watermark", |session| watermark::read(session, id)) };
        self.none_without("des_archive_config", look).await
    }

    async fn archive(&self) -> Result<Option<ArchiveRecord>> {
        let job = &self.job;
        let look = || async {
            query!(self, "read the archive's record", |session| watermark::archive(session, job))
        };
        self.none_without("des_archives", look).await
    }

    async fn register(
        &self,
        record: &ArchiveRecord,
        watermark: WatermarkRow,
        audit: &AuditEntry,
    ) -> Result<()> {
        let place = (&self.job, self.config_id);
        transaction!(self, "register the archive", |session| {
            watermark::register(session, place, record, watermark, audit)
        })
    }

    async fn acquire_lease(&self, holder: &WorkerId, ttl: Duration) -> Result<Option<Lease>> {
        transaction!(self, "take the lease", |session| lease::acquire(
            session, &self.job, holder, ttl
        ))
    }

    async fn seize_lease(&self, holder: &WorkerId, ttl: Duration) -> Result<Lease> {
        transaction!(self, "seize the lease", |session| lease::seize(
            session, &self.job, holder, ttl
        ))
    }

    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        transaction!(self, "prolong the lease", |session| lease::renew(
            session, &self.job, lease, ttl
        ))
    }

    async fn release_lease(&self, lease: &Lease) -> Result<()> {
        transaction!(self, "give the lease back", |session| lease::release(
            session, &self.job, lease
        ))
    }

    async fn lease_status(&self) -> Result<Option<LeaseStatus>> {
        query!(self, "read the lease", |session| lease::status(session, &self.job))
    }

    async fn add_window(&self, lease: &Lease, window: &NewWindow) -> Result<()> {
        transaction!(self, "record a window", |session| {
            windows::add(session, &self.job, lease, window)
        })
    }

    async fn plan_again(&self, lease: &Lease, window: &NewWindow) -> Result<()> {
        transaction!(self, "record a window's plan anew", |session| {
            windows::plan_again(session, &self.job, lease, window)
        })
    }

    async fn open_windows(&self) -> Result<Vec<WindowRecord>> {
        query!(self, "list open windows", |session| windows::open(session, &self.job))
    }

    async fn committed_windows(
        &self,
        after: Option<Timestamp>,
        until: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<WindowRecord>> {
        query!(self, "list committed windows", |session| {
            windows::committed(session, &self.job, (after, until), limit)
        })
    }

    async fn partitions(&self, window: WindowKey) -> Result<Vec<PartitionRecord>> {
        query!(self, "list a window's partitions", |session| {
            windows::partitions(session, &self.job, window)
        })
    }

    async fn accept(
        &self,
        lease: &Lease,
        window: WindowKey,
        partition: PartitionId,
        receipt: &AcceptedReceipt,
    ) -> Result<bool> {
        transaction!(self, "record an accepted receipt", |session| {
            windows::accept(session, &self.job, lease, (window, partition), receipt)
        })
    }

    async fn set_back(
        &self,
        lease: &Lease,
        window: WindowKey,
        partition: PartitionId,
        setback: &Setback,
    ) -> Result<bool> {
        transaction!(self, "record a setback", |session| {
            windows::set_back(session, &self.job, lease, (window, partition), setback)
        })
    }

    async fn note_trouble(
        &self,
        lease: &Lease,
        window: WindowKey,
        partition: PartitionId,
        trouble: (&str, &str),
    ) -> Result<()> {
        transaction!(self, "record what a partition waits for", |session| {
            parts::note_trouble(session, &self.job, lease, (window, partition), trouble)
        })
    }

    async fn note_under_way(
        &self,
        lease: &Lease,
        partitions: &[(WindowKey, PartitionId)],
    ) -> Result<()> {
        transaction!(self, "record what is worked on", |session| {
            parts::note_under_way(session, &self.job, lease, partitions)
        })
    }

    async fn clear_under_way(&self, lease: &Lease) -> Result<()> {
        transaction!(self, "record that nothing is worked on", |session| {
            parts::clear_under_way(session, &self.job, lease)
        })
    }

    async fn reopen(
        &self,
        lease: &Lease,
        window: WindowKey,
        partition: PartitionId,
        setback: &Setback,
    ) -> Result<()> {
        transaction!(self, "reopen a partition", |session| {
            windows::reopen(session, &self.job, lease, (window, partition), setback)
        })
    }

    async fn split_partition(
        &self,
        lease: &Lease,
        window: WindowKey,
        partition: PartitionId,
        into: &[NewPart; 2],
        trouble: (&str, &str),
    ) -> Result<bool> {
        transaction!(self, "split a partition", |session| {
            parts::split(session, &self.job, lease, (window, partition), into, trouble)
        })
    }

    async fn set_window_state(
        &self,
        lease: &Lease,
        window: WindowKey,
        state: WindowState,
    ) -> Result<()> {
        transaction!(self, "change a window's state", |session| {
            windows::set_state(session, &self.job, lease, window, state)
        })
    }

    async fn commit_window(&self, lease: &Lease, window: &WindowCommit) -> Result<()> {
        let place = (&self.job, self.config_id);
        let extra = u32::try_from(window.failures.len() / FAILURES_PER_SECOND).unwrap_or(u32::MAX);
        let limit = ACTION_LIMIT + Duration::from_secs(extra.into());
        transaction!(self, "commit a window", limit, |session| {
            commit::commit(session, place, lease, window)
        })
    }

    async fn request_pass(
        &self,
        end: Timestamp,
        purpose: Purpose,
        audit: Option<&AuditEntry>,
    ) -> Result<WindowRecord> {
        transaction!(self, "record a request for another pass", |session| {
            operator::request_pass(session, &self.job, (end, purpose), audit)
        })
    }

    async fn looks(
        &self,
        after: Option<Timestamp>,
        until: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<Look>> {
        query!(self, "list looks at windows", |session| {
            looks::between(session, &self.job, (after, until), limit)
        })
    }

    async fn looks_to_recheck(&self, newest: bool, limit: u32) -> Result<Vec<Look>> {
        query!(self, "list windows to be looked at again", |session| {
            looks::to_recheck(session, &self.job, newest, limit)
        })
    }

    async fn looks_that_found(&self, text: &str, limit: u32) -> Result<Vec<Look>> {
        query!(self, "list looks by what was found", |session| {
            looks::that_found(session, &self.job, text, limit)
        })
    }

    async fn note_rechecked(&self, lease: &Lease, end: Timestamp) -> Result<()> {
        transaction!(self, "note a look at a window", |session| {
            looks::note_rechecked(session, &self.job, lease, end)
        })
    }

    async fn windows_with_errors(&self) -> Result<Vec<Timestamp>> {
        query!(self, "list windows with error rows", |session| {
            operator::windows_with_errors(session, &self.job)
        })
    }

    async fn count_errors_of(&self, end: Timestamp) -> Result<u64> {
        query!(self, "count a window's error rows", |session| {
            operator::count_errors_of(session, &self.job, end)
        })
    }

    async fn release_window(&self, window: WindowKey, audit: &AuditEntry) -> Result<HeldPass> {
        transaction!(self, "release a held window", |session| {
            held::release(session, &self.job, window, audit)
        })
    }

    async fn retry_window(&self, window: WindowKey, audit: &AuditEntry) -> Result<HeldPass> {
        transaction!(self, "have a held window tried again", |session| {
            held::retry(session, &self.job, window, audit)
        })
    }

    async fn adjust(&self, lease: &Lease, adjustment: &Adjustment) -> Result<()> {
        let place = (&self.job, self.config_id);
        transaction!(self, "move the watermark", |session| {
            operator::adjust(session, place, lease, adjustment)
        })
    }

    async fn adopt_windows(&self, lease: &Lease, adopted: &[AdoptedWindow]) -> Result<()> {
        let failures: usize = adopted.iter().map(|pass| pass.failures.len()).sum();
        let extra = u32::try_from(failures / FAILURES_PER_SECOND).unwrap_or(u32::MAX);
        let limit = ACTION_LIMIT + Duration::from_secs(extra.into());
        transaction!(self, "record certified windows", limit, |session| {
            adopt::adopt_windows(session, &self.job, lease, adopted)
        })
    }

    async fn adopt_archive(&self, lease: &Lease, adopted: &AdoptedArchive) -> Result<()> {
        let place = (&self.job, self.config_id);
        transaction!(self, "record the archive again", |session| {
            adopt::adopt_archive(session, place, lease, adopted)
        })
    }

    async fn note_stuck(&self, lease: &Lease, stuck: Option<&Stuck>) -> Result<()> {
        transaction!(self, "record what the watermark cannot pass", |session| {
            watermark::note_stuck(session, &self.job, lease, stuck)
        })
    }

    async fn stuck(&self) -> Result<Option<Stuck>> {
        query!(self, "read what the watermark cannot pass", |session| {
            watermark::stuck(session, &self.job)
        })
    }

    async fn pause_status(&self) -> Result<Option<Pause>> {
        let job = &self.job;
        let look =
            || async { query!(self, "ask for a pause", |session| pause::read(session, job)) };
        self.none_without("des_pauses", look).await
    }

    async fn pause(
        &self,
        scope: Scope,
        until: Option<Timestamp>,
        audit: &AuditEntry,
    ) -> Result<Pause> {
        transaction!(self, "record a pause", |session| {
            pause::pause(session, &self.job, (scope, until), audit)
        })
    }

    async fn resume(&self, scope: Scope, audit: &AuditEntry) -> Result<Pause> {
        transaction!(self, "end the pause", |session| {
            pause::resume(session, &self.job, scope, audit)
        })
    }

    async fn end_pause_if_over(&self, actor: &str) -> Result<Option<Pause>> {
        transaction!(self, "end a pause that is over", |session| {
            pause::end_if_over(session, &self.job, actor)
        })
    }

    async fn passes_to_sync(
        &self,
        target: &str,
        after: Option<WindowKey>,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<WindowRecord>> {
        query!(self, "list passes whose files are not marked", |session| {
            synced::passes_to_sync(session, &self.job, target, (after, until), limit)
        })
    }

    async fn sync_position(&self, target: &str, window: WindowKey) -> Result<SyncPosition> {
        query!(self, "ask how far a pass is marked", |session| {
            synced::position(session, &self.job, target, window)
        })
    }

    async fn note_synced(
        &self,
        target: &str,
        window: WindowKey,
        position: SyncPosition,
    ) -> Result<()> {
        transaction!(self, "note how far a pass is marked", |session| {
            synced::note(session, &self.job, target, (window, position))
        })
    }

    async fn forget_synced(&self, target: &str) -> Result<()> {
        transaction!(self, "forget how far passes are marked", |session| {
            synced::forget(session, &self.job, target)
        })
    }

    async fn throttles(&self) -> Result<Vec<Throttle>> {
        let job = &self.job;
        let look = || async {
            let found = query!(self, "ask for throttles", |session| throttle::read(session, job));
            found.map(Some)
        };
        Ok(self.none_without("des_throttles", look).await?.unwrap_or_default())
    }

    async fn set_throttle(
        &self,
        scope: Scope,
        limits: &LiveLimits,
        audit: &AuditEntry,
    ) -> Result<Throttle> {
        transaction!(self, "set a throttle", |session| {
            throttle::set(session, &self.job, (scope, limits), audit)
        })
    }

    async fn end_throttle(&self, scope: Scope, audit: &AuditEntry) -> Result<Throttle> {
        transaction!(self, "take a throttle back", |session| {
            throttle::end(session, &self.job, scope, audit)
        })
    }

    async fn note_wait(&self, lease: &Lease, wait: Option<(&str, &str)>) -> Result<()> {
        transaction!(self, "record what is waited for", |session| {
            throttle::note_wait(session, &self.job, lease, wait)
        })
    }

    async fn wait(&self) -> Result<Option<Wait>> {
        let job = &self.job;
        let asked =
            query!(self, "read what is waited for", |session| throttle::wait_of(session, job));
        match asked {
            // Tables of before this release, of which nobody waited for anything.
            Err(error) if error.is_not_found() => Ok(None),
            asked => asked,
        }
    }

    async fn audit_log(&self, limit: u32) -> Result<Vec<AuditRecord>> {
        query!(self, "read the audit log", |session| operator::audit_log(session, &self.job, limit))
    }

    async fn record_audit(&self, entry: &AuditEntry) -> Result<()> {
        transaction!(self, "append to the audit log", |session| {
            operator::append_audit(session, &self.job, entry)
        })
    }

    async fn count_errors(&self) -> Result<u64> {
        query!(self, "count error rows", |session| operator::count_errors(session, &self.job))
    }

    async fn errors_by_reason(&self) -> Result<Vec<(String, u64)>> {
        query!(self, "count error rows by reason", |session| {
            operator::errors_by_reason(session, &self.job)
        })
    }

    async fn errors(&self, limit: u32) -> Result<Vec<ErrorRow>> {
        query!(self, "list error rows", |session| operator::errors(session, &self.job, limit))
    }

    async fn list_passes(&self, query: PassQuery) -> Result<Vec<ListedPass>> {
        query!(self, "list windows", |session| listing::passes(session, &self.job, query))
    }

    async fn list_errors(
        &self,
        query: ErrorQuery,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<ListedError>> {
        query!(self, "list error rows", |session| {
            listing::errors(session, &self.job, &query, (before, limit))
        })
    }

    async fn count_reasons(&self, query: ErrorQuery) -> Result<Vec<ReasonCount>> {
        query!(self, "count error rows by reason", |session| {
            listing::reasons(session, &self.job, &query)
        })
    }
}
