//! The ledger over any database that has a [`Session`]: its connections, and the bounds of what is
//! done on them. What it does stands in `port` and beside it.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use protocol::Job;
use sqlx::{ConnectOptions as _, Database, Pool};

use super::session::{Param, Pooled, Session};
use crate::error::{BackendError, Result};
use crate::metrics::ledger_answered;
use crate::sql::sql_error;

/// The longest that an action may take. Its statements are small; a database that needs longer
/// hangs.
pub(super) const ACTION_LIMIT: Duration = Duration::from_secs(30);
/// How long an action waits for a connection: to be free, and to be made.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long is looked for the reason when that was not enough.
const REASON_LIMIT: Duration = Duration::from_secs(2);

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
        // One after the other: of connections to a SQLite file that close at the same time, each
        // takes another for the last, and none tidies the WAL away.
        let closing = async {
            self.reader.close().await;
            self.writer.close().await;
        };
        if tokio::time::timeout(CONNECT_LIMIT, closing).await.is_err() {
            tracing::debug!(ledger = %self.description, "connections did not close in time");
        }
    }

    /// How an error about `action` begins.
    pub(super) fn what(&self, action: &str) -> String {
        format!("the ledger ({}) could not {action}", self.description)
    }

    pub(super) async fn bounded<T>(
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
    pub(super) async fn begin(&self, action: &str) -> Result<Pooled<DB>> {
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
        let (what, began) = (self.what(action), Instant::now());
        let session = self.acquire(pool, what, began).await;
        if session.is_err() {
            ledger_answered(began, false);
        }
        session
    }

    async fn acquire(&self, pool: &Pool<DB>, what: String, began: Instant) -> Result<Pooled<DB>> {
        match pool.acquire().await {
            Ok(connection) => {
                Ok(Pooled { connection, what, began, in_transaction: false, settled: false })
            }
            // The pool says only that time ran out; a connection of our own says why.
            Err(sqlx::Error::PoolTimedOut) => {
                let connecting = pool.connect_options();
                match tokio::time::timeout(REASON_LIMIT, connecting.connect()).await {
                    Ok(Err(reason)) => Err(sql_error(what, reason)),
                    Ok(Ok(_)) | Err(_) => Err(sql_error(what, sqlx::Error::PoolTimedOut)),
                }
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
    pub(super) async fn none_without<T, F>(
        &self,
        table: &str,
        look: impl Fn() -> F,
    ) -> Result<Option<T>>
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
