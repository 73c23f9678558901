//! The ledger over any database that has a [`Session`]: every action of the port in one bounded
//! transaction.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use protocol::{Job, PartitionId, Timestamp, WindowKey, WorkerId};
use sqlx::migrate::Migrate;
use sqlx::{Database, Pool};

use super::session::{Param, Pooled, Session};
use super::{
    AcceptedReceipt, Adjustment, AdoptedArchive, AdoptedWindow, ArchiveRecord, AuditEntry,
    AuditRecord, ErrorRow, HeldPass, Lease, LeaseStatus, Ledger, Look, NewPart, NewWindow,
    PartitionRecord, Pause, Purpose, Setback, WatermarkRow, WindowCommit, WindowRecord,
    WindowState, adopt, commit, held, lease, looks, operator, parts, pause, watermark, windows,
};
use crate::error::{BackendError, Result};
use crate::sql::sql_error;

/// The longest that an action may take. Its statements are small; a database that needs longer
/// hangs.
pub(super) const ACTION_LIMIT: Duration = Duration::from_secs(30);
/// How long an action waits for a connection: to be free, and to be made.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Error rows that a commit may take a further second for.
const FAILURES_PER_SECOND: usize = 1_000;

/// The ledger of one job in a SQL database.
pub struct SqlLedger<DB: Database> {
    pub(super) writer: Pool<DB>,
    pub(super) reader: Pool<DB>,
    pub(super) job: Job,
    /// The id of the watermark's row.
    pub(super) config_id: i32,
    /// Which database, without a password.
    pub(super) description: String,
}

impl<DB: Database> fmt::Display for SqlLedger<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

impl<DB: Database> fmt::Debug for SqlLedger<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlLedger")
            .field("database", &self.description)
            .field("job", &self.job)
            .field("config_id", &self.config_id)
            .finish_non_exhaustive()
    }
}

impl<DB: Database> SqlLedger<DB> {
    /// Which database, for a person; never a password.
    pub fn describe(&self) -> &str {
        &self.description
    }

    /// Closes the connections in good order, which takes at most ten seconds. Whoever drops the
    /// ledger instead loses nothing.
    pub async fn close(&self) {
        let closing = futures::future::join(self.writer.close(), self.reader.close());
        if tokio::time::timeout(CONNECT_LIMIT, closing).await.is_err() {
            tracing::debug!(ledger = %self.description, "connections did not close in time");
        }
    }

    /// How an error about `action` begins.
    pub(super) fn what(&self, action: &str) -> String {
        format!("the ledger ({}) could not {action}", self.description)
    }

    async fn bounded<T>(
        &self,
        action: &str,
        limit: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, work).await {
            Ok(outcome) => outcome,
            Err(elapsed) => Err(BackendError::Unavailable {
                what: format!(
                    "{} within {} s; check that the database answers",
                    self.what(action),
                    limit.as_secs()
                ),
                cause: elapsed.into(),
            }),
        }
    }
}

impl<DB> SqlLedger<DB>
where
    DB: Database,
    Pooled<DB>: Session,
{
    /// A connection in a transaction that writes.
    async fn begin(&self, action: &str) -> Result<Pooled<DB>> {
        let mut session = self.borrow(&self.writer, action).await?;
        session.in_transaction = true;
        session.execute(Pooled::<DB>::BEGIN, &[]).await?;
        Ok(session)
    }

    /// A connection for single queries.
    pub(super) async fn read(&self, action: &str) -> Result<Pooled<DB>> {
        self.borrow(&self.reader, action).await
    }

    async fn borrow(&self, pool: &Pool<DB>, action: &str) -> Result<Pooled<DB>> {
        let what = self.what(action);
        match pool.acquire().await {
            Ok(connection) => {
                Ok(Pooled { connection, what, in_transaction: false, settled: false })
            }
            Err(error) => Err(sql_error(what, error)),
        }
    }

    pub(super) async fn has_table(&self, table: &str) -> Result<bool> {
        let mut session = self.read("look for its tables").await?;
        let params = [Param::Text(table)];
        let outcome = session.fetch_optional(Pooled::<DB>::TABLE_EXISTS, &params).await;
        match session.finish(outcome).await? {
            Some(row) => Ok(row.number::<i64>("tables")? > 0),
            None => Ok(false),
        }
    }

    /// Takes a missing `table` for an answer, but nothing else that is missing. A table that another
    /// process made meanwhile is looked into once more.
    async fn none_without<T, F>(&self, table: &str, look: impl Fn() -> F) -> Result<Option<T>>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        match look().await {
            Err(error) if error.is_not_found() => match self.has_table(table).await? {
                true => look().await,
                false => Ok(None),
            },
            other => other,
        }
    }
}

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
        audit: &AuditEntry,
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

    async fn pause_status(&self) -> Result<Option<Pause>> {
        let job = &self.job;
        let look =
            || async { query!(self, "ask for a pause", |session| pause::read(session, job)) };
        self.none_without("des_pauses", look).await
    }

    async fn pause(&self, until: Option<Timestamp>, audit: &AuditEntry) -> Result<Pause> {
        transaction!(self, "record a pause", |session| {
            pause::pause(session, &self.job, until, audit)
        })
    }

    async fn resume(&self, audit: &AuditEntry) -> Result<Pause> {
        transaction!(self, "end the pause", |session| pause::resume(session, &self.job, audit))
    }

    async fn end_pause_if_over(&self, actor: &str) -> Result<Option<Pause>> {
        transaction!(self, "end a pause that is over", |session| {
            pause::end_if_over(session, &self.job, actor)
        })
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
}
