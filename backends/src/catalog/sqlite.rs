//! The catalog in a SQLite file.
//!
//! SQLite has no type for times: what `created_at` holds is found out by looking at every row once
//! (the form), and bounds are written in the same form, so that comparing is comparing times and an
//! index is of use. The file is opened read-only, anew for every operation.

mod detect;
mod form;
mod rows;
mod scan;
mod session;
mod table;

use std::path::Path;
use std::time::SystemTime;

use async_trait::async_trait;
use protocol::{Row, Timestamp, Window};
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnectOptions};
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};
use tokio::sync::{RwLock, mpsc};

use super::batch::LAST_PLACEABLE;
use super::{Catalog, CatalogReport, CatalogTable, RangeCount, Unplaceable};
use crate::error::{BackendError, Result};

use detect::{Detected, detect};
use form::{Stored, TimeForm, Unit};
use session::Session;
use table::Table;

/// The largest size that is summed (8 PiB): what is larger is no file's, and SQLite refuses to sum
/// beyond 64 bits.
const LARGEST_SIZE: i64 = 1 << 53;

/// A catalog in a SQLite file.
///
/// The uid and the location are taken in their text form. `created_at` holds texts of one form, in
/// UTC, or integers since 1970 of one unit (seconds, milliseconds or microseconds, told by their
/// magnitude). The size holds integers.
pub struct SqliteCatalog {
    options: SqliteConnectOptions,
    names: CatalogTable,
    database: String,
    table: Table,
    /// `None` while the rows do not tell.
    form: RwLock<Option<TimeForm>>,
}

impl SqliteCatalog {
    /// Opens the file, looks the table up and reads it once for the form of `created_at`.
    ///
    /// # Errors
    /// `NotFound` when the file, the table or a column is missing, with those that exist; `Invalid`
    /// when the file is no database or the values of `created_at` are not of one form.
    pub async fn open(path: &Path, table: CatalogTable) -> Result<Self> {
        let database = format!("the catalog in {}", path.display());
        if !path.is_file() {
            return Err(BackendError::NotFound {
                what: format!("{database}: there is no such file"),
            });
        }
        // A relative path that begins with `file:` would be a URI to SQLite.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let options = session::options(&absolute);
        let mut session = Session::open(&options, &database).await?;
        let found = Table::find(&mut session.connection, &database, &table).await?;
        let detected = detect(&mut session.connection, &found).await?;
        session.close().await;
        let form = RwLock::new(known(detected));
        Ok(Self { options, names: table, database, table: found, form })
    }

    async fn session(&self) -> Result<Session> {
        Session::open(&self.options, &self.database).await
    }

    /// The form, looked for again while the rows did not tell: in the transaction that then relies
    /// on it.
    async fn form(&self, connection: &mut SqliteConnection) -> Result<TimeForm> {
        let known_form = *self.form.read().await;
        if let Some(form) = known_form {
            return Ok(form);
        }
        let detected = detect(connection, &self.table).await?;
        *self.form.write().await = known(detected);
        Ok(match detected {
            Detected::Form(form) => form,
            Detected::OnlyZeroes => TimeForm::Integer(Unit::Seconds),
            Detected::Nothing => TimeForm::OF_AN_EMPTY_TABLE,
        })
    }

    /// One row of figures over the rows in a range.
    async fn figures(
        &self,
        action: &str,
        sql: String,
        after: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<Vec<Option<i64>>> {
        let mut session = self.session().await?;
        let form = self.form(&mut session.connection).await?;
        let until = until.unwrap_or(LAST_PLACEABLE).min(LAST_PLACEABLE);
        let query = sqlx::query(AssertSqlSafe(sql));
        let query = bind(query, form.bound(after.unwrap_or(Timestamp::MIN)));
        let query = bind(query, form.bound(until));
        let row = query
            .fetch_one(&mut session.connection)
            .await
            .map_err(|error| self.table.failed(action, error))?;
        session.close().await;
        (0..row.len())
            .map(|index| row.try_get(index).map_err(|error| self.table.failed(action, error)))
            .collect()
    }

    /// Checks that the size column holds integers or NULLs only.
    async fn check_sizes(&self, connection: &mut SqliteConnection, table: &Table) -> Result<()> {
        let Some(size) = &table.size else { return Ok(()) };
        let sql = format!(
            "SELECT quote({}), quote({size}) FROM {} \
             WHERE typeof({size}) NOT IN ('integer', 'null') LIMIT 1",
            table.uid, table.from
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .fetch_optional(connection)
            .await
            .map_err(|error| table.failed("looking at the sizes", error))?;
        row.map_or(Ok(()), |row| {
            Err(BackendError::Invalid {
                what: format!(
                    "{}: the size of the row with uid {} is {}, not an integer; correct the row, \
                     or configure no size column",
                    self.database,
                    rows::shown(&row, 0),
                    rows::shown(&row, 1)
                ),
            })
        })
    }
}

const fn known(detected: Detected) -> Option<TimeForm> {
    match detected {
        Detected::Form(form) => Some(form),
        Detected::OnlyZeroes | Detected::Nothing => None,
    }
}

type SqliteQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

fn bind(query: SqliteQuery<'_>, value: Stored) -> SqliteQuery<'_> {
    match value {
        Stored::Text(text) => query.bind(text),
        Stored::Integer(value) => query.bind(value),
    }
}

#[async_trait]
impl Catalog for SqliteCatalog {
    /// The process's own clock: SQLite has no other.
    async fn now(&self) -> Result<Timestamp> {
        Timestamp::from_chrono(SystemTime::now().into()).ok_or_else(|| BackendError::Invalid {
            what: "this machine's clock stands outside the years 0001 to 9999".to_owned(),
        })
    }

    async fn oldest_after(&self, after: Option<Timestamp>) -> Result<Option<Timestamp>> {
        let action = format!("looking for the oldest row of {}", self.table.from);
        let mut session = self.session().await?;
        let form = self.form(&mut session.connection).await?;
        let Table { uid, created_at, from, .. } = &self.table;
        let sql = format!(
            "SELECT {created_at}, quote({uid}) FROM {from} WHERE {} AND {uid} IS NOT NULL \
             ORDER BY {created_at} LIMIT 1",
            self.table.in_range()
        );
        let query = sqlx::query(AssertSqlSafe(sql));
        let query = bind(query, form.bound(after.unwrap_or(Timestamp::MIN)));
        let query = bind(query, form.bound(LAST_PLACEABLE));
        let row = query
            .fetch_optional(&mut session.connection)
            .await
            .map_err(|error| self.table.failed(&action, error))?;
        session.close().await;
        row.map(|row| {
            scan::time(&row, 0, form).map_err(|found| BackendError::Invalid {
                what: format!(
                    "{}: {action}: the created_at of the row with uid {} is {found}, which is no \
                     date of the form that the table is in ({form}); correct the row",
                    self.database,
                    rows::shown(&row, 1)
                ),
            })
        })
        .transpose()
    }

    async fn count(
        &self,
        after: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<RangeCount> {
        let action = format!("counting rows of {}", self.table.from);
        let bytes = self.table.size.as_ref().map_or("NULL".to_owned(), |size| {
            format!(
                "coalesce(sum({size}) FILTER (WHERE typeof({size}) = 'integer' \
                 AND {size} BETWEEN 0 AND {LARGEST_SIZE}), 0)"
            )
        });
        let sql = format!(
            "SELECT count(*), {bytes} FROM {} WHERE {} AND {} IS NOT NULL",
            self.table.from,
            self.table.in_range(),
            self.table.uid
        );
        let figures = self.figures(&action, sql, after, until).await?;
        let figure = |index: usize| figures.get(index).copied().flatten();
        let whole = |number: i64| u64::try_from(number).unwrap_or_default();
        Ok(RangeCount {
            files: figure(0).map(whole).unwrap_or_default(),
            bytes: figure(1).map(whole),
        })
    }

    async fn unplaceable(&self) -> Result<Unplaceable> {
        let action = format!("counting the rows of {} that no window can hold", self.table.from);
        let Table { uid, created_at, from, .. } = &self.table;
        let sql = format!(
            "SELECT count(*) FILTER (WHERE {uid} IS NULL), \
             count(*) FILTER (WHERE {uid} IS NOT NULL AND {created_at} IS NULL), \
             count(*) FILTER (WHERE {uid} IS NOT NULL AND NOT ({})) FROM {from}",
            self.table.in_range()
        );
        let figures = self.figures(&action, sql, None, None).await?;
        let figure = |index: usize| {
            let number = figures.get(index).copied().flatten();
            number.and_then(|number| u64::try_from(number).ok()).unwrap_or_default()
        };
        Ok(Unplaceable { null_uid: figure(0), null_created_at: figure(1), out_of_range: figure(2) })
    }

    async fn scan(&self, window: Window, batches: mpsc::Sender<Vec<Row>>) -> Result<()> {
        let mut session = self.session().await?;
        let form = self.form(&mut session.connection).await?;
        let outcome = scan::scan(&mut session.connection, &self.table, form, window, batches).await;
        session.close().await;
        outcome
    }

    /// SQLite cannot say.
    async fn oldest_transaction(&self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    /// Reads the whole table, for the form.
    async fn inspect(&self) -> Result<CatalogReport> {
        let mut session = self.session().await?;
        let connection = &mut session.connection;
        let table = Table::find(connection, &self.database, &self.names).await?;
        let detected = detect(connection, &table).await?;
        self.check_sizes(connection, &table).await?;
        let version: String = sqlx::query_scalar("SELECT sqlite_version()")
            .fetch_one(connection)
            .await
            .map_err(|error| self.table.failed("reading SQLite's version", error))?;
        session.close().await;
        *self.form.write().await = known(detected);
        let form = match detected {
            Detected::Form(form) => format!("as {form}"),
            Detected::OnlyZeroes | Detected::Nothing => {
                "without rows that tell their form".to_owned()
            }
        };
        Ok(CatalogReport {
            server: format!("SQLite {version}"),
            uid_type: table.uid_type,
            created_at_type: format!("{}, {form}", table.created_at_type),
            created_at_indexed: table.created_at_indexed,
            writable: false,
            statement_timeout_millis: None,
        })
    }
}
