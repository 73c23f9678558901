//! The catalog in PostgreSQL.
//!
//! A window is read by one COPY in the binary format, which costs the server least and arrives as
//! a stream: the driver, the decoder and the channel hold a batch, the rest waits in the server.
//! Sessions are read-only and in UTC, and no statement depends on either.

mod archived;
mod copy_format;
mod inspect;
mod load;
mod scan;
mod server;
mod table;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, Utc};
use protocol::{Timestamp, Window};
use tokio::sync::mpsc;

use super::{Catalog, CatalogReport, CatalogTable, LoadCheck, RangeCount, RowBatch, Unplaceable};
use crate::error::{BackendError, Result};

use server::{Access, Server};
use table::Table;

pub use archived::PostgresArchivedColumn;

/// A catalog in a PostgreSQL database.
///
/// Types: the uid is text, varchar, char, uuid, an integer or numeric, and is taken in its text
/// form; `created_at` is timestamptz, timestamp (in UTC) or date (midnight in UTC); the location is
/// text or varchar; the size is an integer or numeric. Domains over those are those.
pub struct PostgresCatalog {
    server: Server,
    names: CatalogTable,
    table: Table,
}

impl PostgresCatalog {
    /// Connects and looks the table up. `url` is `postgresql://`, `postgres://`, or one that
    /// names a driver, such as `postgresql+psycopg://`.
    ///
    /// # Errors
    /// `NotFound` when the table or a column is missing, with those that exist; `Invalid` for
    /// another kind of URL; otherwise what connecting answers.
    pub async fn connect(url: &str, table: CatalogTable) -> Result<Self> {
        let server = Server::connect(url, Access::Read).await?;
        let found = Table::find(&server, &table).await?;
        Ok(Self { server, names: table, table: found })
    }

    fn nonsense(&self, action: &str, answer: &str) -> BackendError {
        BackendError::Failed {
            what: format!("{}: {action}", self.server.name()),
            cause: format!("the answer makes no sense: {answer}").into(),
        }
    }

    fn whole(&self, action: &str, number: i64) -> Result<u64> {
        u64::try_from(number).map_err(|_| self.nonsense(action, &number.to_string()))
    }
}

#[async_trait]
impl Catalog for PostgresCatalog {
    async fn now(&self) -> Result<Timestamp> {
        let action = "reading the clock";
        let question = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(self.server.pool());
        let now: DateTime<Utc> = self.server.quick(action, question).await?;
        Timestamp::from_chrono(now).ok_or_else(|| self.nonsense(action, &now.to_string()))
    }

    async fn oldest_after(&self, after: Option<Timestamp>) -> Result<Option<Timestamp>> {
        let action = format!("looking for the oldest row of {}", self.table.name);
        let sql = self.table.oldest_sql(self.table.time_type()?, after);
        let session = self.server.session().await?;
        let (oldest,): (Option<NaiveDateTime>,) = session.one_row(&action, sql).await?;
        oldest
            .map(|oldest| {
                Timestamp::from_chrono(oldest.and_utc())
                    .ok_or_else(|| self.nonsense(&action, &oldest.to_string()))
            })
            .transpose()
    }

    async fn count(
        &self,
        after: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<RangeCount> {
        let action = format!("counting rows of {}", self.table.name);
        let sql = self.table.count_sql(self.table.time_type()?, after, until);
        let session = self.server.session().await?;
        let (files, bytes): (i64, Option<String>) = session.one_row(&action, sql).await?;
        let bytes = bytes
            .map(|bytes| bytes.parse().map_err(|_| self.nonsense(&action, &bytes)))
            .transpose()?;
        Ok(RangeCount { files: self.whole(&action, files)?, bytes })
    }

    async fn count_files(&self, after: Option<Timestamp>, until: Option<Timestamp>) -> Result<u64> {
        let action = format!("counting rows of {}", self.table.name);
        let sql = self.table.count_files_sql(self.table.time_type()?, after, until);
        let session = self.server.session().await?;
        let (files,): (i64,) = session.one_row(&action, sql).await?;
        self.whole(&action, files)
    }

    async fn unplaceable(&self) -> Result<Unplaceable> {
        let action = format!("counting the rows of {} that no window can hold", self.table.name);
        let sql = self.table.unplaceable_sql(self.table.time_type()?);
        let session = self.server.session().await?;
        let (uid, created_at, range): (i64, i64, i64) = session.one_row(&action, sql).await?;
        Ok(Unplaceable {
            null_uid: self.whole(&action, uid)?,
            null_created_at: self.whole(&action, created_at)?,
            out_of_range: self.whole(&action, range)?,
        })
    }

    async fn scan(&self, window: Window, batches: mpsc::Sender<RowBatch>) -> Result<()> {
        scan::scan(&self.server, &self.table, window, batches).await
    }

    async fn oldest_transaction(&self) -> Result<Option<Timestamp>> {
        inspect::oldest_transaction(&self.server).await
    }

    async fn measure(&self, check: LoadCheck<'_>) -> Result<f64> {
        load::measure(&self.server, check).await
    }

    async fn inspect(&self) -> Result<CatalogReport> {
        // Looked up again: what is inspected is what there is now.
        let table = Table::find(&self.server, &self.names).await?;
        inspect::inspect(&self.server, &table).await
    }
}
