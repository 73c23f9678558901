//! What the ledger's logic needs of a database: statements with values, rows, transactions.
//!
//! The logic is written once, over [`Session`]; PostgreSQL and SQLite carry it out. SQL that
//! differs between them stands in the constants of their `Session`s, all other SQL beside the
//! logic, with `$1` placeholders, which both read.

use std::future::Future;
use std::time::{Duration, Instant};

use protocol::{Job, Timestamp};
use sqlx::pool::PoolConnection;
use sqlx::{Database, SqlSafeStr};

use super::migrations::Step;
use super::record::Record;
use crate::error::Result;
use crate::metrics::ledger_answered;

/// A value for a placeholder.
#[derive(Clone, Copy, Debug)]
pub enum Param<'a> {
    /// An integer.
    Int(i64),
    /// An integer or NULL.
    OptInt(Option<i64>),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(&'a str),
    /// A text or NULL.
    OptText(Option<&'a str>),
    /// A list of texts: an array, or JSON.
    Texts(&'a [String]),
    /// A time: `timestamptz`, or microseconds.
    Time(Timestamp),
    /// A time or NULL.
    OptTime(Option<Timestamp>),
    /// A time in a column that people read: `timestamptz`, or RFC 3339.
    Date(Timestamp),
}

impl Param<'_> {
    /// A count or a size. Those beyond 2⁶³ do not occur.
    pub(super) fn count(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }

    /// A count or a size, or NULL.
    pub(super) fn opt_count(value: Option<u64>) -> Self {
        Self::OptInt(value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)))
    }
}

/// A connection, usually inside a transaction.
///
/// Its errors name the database and the action.
pub trait Session: Send + Sized {
    /// How a transaction that writes begins.
    const BEGIN: &'static str;
    /// The clock, as column `now`.
    const NOW: &'static str;
    /// Whether table `$1` exists, as column `tables`: 0 or 1.
    const TABLE_EXISTS: &'static str;
    /// The lease row of job `$1`, locked until the transaction ends.
    const LOCK_LEASE: &'static str;
    /// The same row, when nobody else has it locked; no row otherwise. Never waits.
    const TRY_LOCK_LEASE: &'static str;
    /// The watermark row `$1`.
    const WATERMARK: &'static str;
    /// The watermark row `$1`, locked until the transaction ends.
    const LOCK_WATERMARK: &'static str;
    /// Which of the optional columns `last_updated` and `updated_by` the watermark's table has,
    /// as columns `name` and `width` (most characters).
    const WATERMARK_EXTRAS: &'static str;
    /// Taken first by a transaction that migrates.
    const MIGRATION_LOCK: Option<&'static str>;
    /// The migrations, by version.
    const MIGRATIONS: &'static [Step];

    /// What our role lacks to use the tables and, with `upgrade`, to create or upgrade them first:
    /// what to do about each, a statement for PostgreSQL's administrator.
    fn lacks(&mut self, upgrade: bool) -> impl Future<Output = Result<Vec<String>>> + Send;

    /// Ends the transaction of another process that has the job's lease row locked and has been
    /// waiting for its client for at least `stalled`, so that it is rolled back. Returns how many
    /// were ended.
    fn end_stalled(
        &mut self,
        job: &Job,
        stalled: Duration,
    ) -> impl Future<Output = Result<u64>> + Send;

    /// Runs a statement and returns the number of rows it changed.
    fn execute(
        &mut self,
        sql: impl SqlSafeStr + Send,
        params: &[Param<'_>],
    ) -> impl Future<Output = Result<u64>> + Send;

    /// Runs a query and returns all its rows.
    fn fetch(
        &mut self,
        sql: impl SqlSafeStr + Send,
        params: &[Param<'_>],
    ) -> impl Future<Output = Result<Vec<Record>>> + Send;

    /// Runs a query that gives at most one row.
    fn fetch_optional(
        &mut self,
        sql: impl SqlSafeStr + Send,
        params: &[Param<'_>],
    ) -> impl Future<Output = Result<Option<Record>>> + Send {
        async { Ok(self.fetch(sql, params).await?.into_iter().next()) }
    }

    /// The database's clock.
    fn now(&mut self) -> impl Future<Output = Result<Timestamp>> + Send {
        async {
            match self.fetch_optional(Self::NOW, &[]).await? {
                Some(row) => row.time("now"),
                None => Err(super::record::nonsense("the database did not tell the time")),
            }
        }
    }
}

/// A connection of a pool, on loan for one action.
#[derive(Debug)]
pub struct Pooled<DB: Database> {
    pub(super) connection: PoolConnection<DB>,
    /// Names the database and the action, for errors.
    pub(super) what: String,
    /// When the connection was asked for.
    pub(super) began: Instant,
    pub(super) in_transaction: bool,
    /// Whether the connection is known to be between transactions.
    pub(super) settled: bool,
}

impl<DB: Database> Pooled<DB>
where
    Self: Session,
{
    /// Ends the action: commits what went well, takes back what did not, and frees the
    /// connection for the next action when it is in order.
    pub(super) async fn finish<T>(mut self, outcome: Result<T>) -> Result<T> {
        self.settled = match (&outcome, self.in_transaction) {
            (Ok(_), true) => {
                self.execute("COMMIT", &[]).await?;
                true
            }
            (Err(_), true) => self.execute("ROLLBACK", &[]).await.is_ok(),
            (outcome, false) => outcome.is_ok(),
        };
        outcome
    }
}

impl<DB: Database> Drop for Pooled<DB> {
    /// A connection in an unknown state is closed, which also ends its transaction, and never
    /// given to the next action: on one that hangs, that action would hang too.
    fn drop(&mut self) {
        ledger_answered(self.began, self.settled);
        if !self.settled {
            self.connection.close_on_drop();
        }
    }
}
