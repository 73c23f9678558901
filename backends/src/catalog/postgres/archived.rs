//! Marks archived files in a column of the table: one UPDATE a batch.

use async_trait::async_trait;
use protocol::Row;
use sqlx::AssertSqlSafe;

use crate::catalog::names::quote;
use crate::catalog::{ArchivedColumn, CatalogTable, Mark};
use crate::error::{BackendError, Result};

use super::server::{Access, Server};
use super::table::{Column, Table, TimeType};

/// A column of a table in PostgreSQL, over a connection that may write it.
///
/// The value is cast from text to the column's type: boolean, an integer, text, an enum, a time.
pub struct PostgresArchivedColumn {
    server: Server,
    table: String,
    time: TimeType,
    target: String,
    value: String,
    mark_sql: String,
    count_sql: String,
}

impl PostgresArchivedColumn {
    /// Connects and looks the table, the column and the privileges up. `url` is as that of
    /// [`PostgresCatalog::connect`](super::PostgresCatalog::connect), with a role that may UPDATE the
    /// column.
    ///
    /// # Errors
    /// `NotFound` when table or column are missing, with those that exist; `Denied` with the GRANT
    /// that is missing; `Invalid` when the column is one of those that files are told by, or cannot
    /// hold the value.
    pub async fn connect(url: &str, names: CatalogTable, mark: Mark) -> Result<Self> {
        let server = Server::connect(url, Access::Write).await?;
        let table = Table::find(&server, &names).await?;
        let time = table.time_type()?;
        let column = table.column(&server, &mark.column).await?;
        if table.columns().any(|used| used.number == column.number) {
            return Err(BackendError::Invalid {
                what: format!(
                    "files are told by the column `{}` of {}: it cannot say which are archived",
                    column.name, table.name
                ),
            });
        }
        check_privileges(&server, &table, &column).await?;
        check_value(&server, &table, (&column, &mark.value)).await?;
        let target = format!("{}.{} = {}", table.name, column.name, mark.value);
        let (mark_sql, count_sql) = statements(&table, time, &column);
        let table = table.name;
        Ok(Self { server, table, time, target, value: mark.value, mark_sql, count_sql })
    }
}

async fn check_privileges(server: &Server, table: &Table, column: &Column) -> Result<()> {
    let action = format!("checking the privileges on {}", table.name);
    let mut wanted: Vec<(&Column, &str)> = table.columns().map(|read| (read, "SELECT")).collect();
    wanted.extend([(column, "SELECT"), (column, "UPDATE")]);
    for (Column { name, number, .. }, privilege) in wanted {
        let question = sqlx::query_scalar("SELECT has_column_privilege($1::oid, $2, $3)")
            .bind(table.oid)
            .bind(number)
            .bind(privilege)
            .fetch_one(server.pool());
        if !server.quick::<bool>(&action, question).await? {
            let (user, table) = (server.user(), &table.name);
            let column = quote(name);
            return Err(BackendError::Denied {
                what: format!(
                    "{}: the user {user} of sync_archived.url may not {privilege} the column \
                     `{name}` of {table}; GRANT {privilege} ({column}) ON {table} TO {user}",
                    server.name(),
                ),
                cause: format!("no {privilege} privilege").into(),
            });
        }
    }
    Ok(())
}

async fn check_value(
    server: &Server,
    table: &Table,
    (column, value): (&Column, &str),
) -> Result<()> {
    let action = format!("trying the value of {}.{}", table.name, column.name);
    let sql = format!(
        "SELECT CAST($1::text AS {0}) IS NOT DISTINCT FROM CAST($1::text AS {0})",
        column.type_name
    );
    let question = sqlx::query_scalar(AssertSqlSafe(sql)).bind(value).fetch_one(server.pool());
    let answer: Result<bool> = server.quick(&action, question).await;
    match answer {
        Ok(_same) => Ok(()),
        Err(error) if error.is_retryable() => Err(error),
        Err(error) => Err(BackendError::Invalid {
            what: format!(
                "the column `{}` of {} is of type {} and cannot hold `{value}`: {error}",
                column.name, table.name, column.type_name
            ),
        }),
    }
}

/// The UPDATE and its count. `$1` to `$3` are uid, time and location of the rows, `$4` and `$5` their
/// first and last time, `$6` the value.
///
/// Times and uids are compared in their own types, for an index on either; the uid besides as the
/// text that it was read as, for two numbers may be equal and be written differently.
fn statements(table: &Table, time: TimeType, column: &Column) -> (String, String) {
    let (uid, created_at, location) =
        (quote(&table.uid.name), quote(&table.created_at.name), quote(&table.location.name));
    let (marked, from, time) = (quote(&column.name), &table.quoted, time.name());
    let value = format!("CAST($6::text AS {})", column.type_name);
    let rows = format!(
        "unnest($1::text[], $2::text[]::{time}[], $3::text[]) AS k (uid, created_at, location)"
    );
    let condition = format!(
        "t.{created_at} BETWEEN $4::text::{time} AND $5::text::{time} \
         AND t.{created_at} = k.created_at \
         AND t.{uid} = CAST(k.uid AS {uid_type}) AND t.{uid}::text = k.uid \
         AND t.{location}::text IS NOT DISTINCT FROM k.location \
         AND t.{marked} IS DISTINCT FROM {value}",
        uid_type = table.uid.type_name,
    );
    (
        format!("UPDATE {from} AS t SET {marked} = {value} FROM {rows} WHERE {condition}"),
        format!("SELECT count(*) FROM {from} AS t, {rows} WHERE {condition}"),
    )
}

/// Rows, column by column.
struct Columns<'a> {
    uids: Vec<&'a str>,
    times: Vec<String>,
    locations: Vec<Option<&'a str>>,
    first: String,
    last: String,
}

impl<'a> Columns<'a> {
    /// `None` where there are no rows.
    fn of(rows: &'a [Row], time: TimeType) -> Option<Self> {
        let times = rows.iter().map(Row::created_at);
        let (first, last) = (times.clone().min()?, times.clone().max()?);
        Some(Self {
            uids: rows.iter().map(|row| row.uid.as_str()).collect(),
            times: times.map(|at| time.text(at)).collect(),
            locations: rows.iter().map(|row| row.location.as_deref()).collect(),
            first: time.text(first),
            last: time.text(last),
        })
    }
}

#[async_trait]
impl ArchivedColumn for PostgresArchivedColumn {
    fn target(&self) -> &str {
        &self.target
    }

    async fn mark(&self, rows: &[Row]) -> Result<u64> {
        let Some(it) = Columns::of(rows, self.time) else { return Ok(0) };
        let update = sqlx::query(AssertSqlSafe(self.mark_sql.clone()))
            .bind(it.uids)
            .bind(it.times)
            .bind(it.locations)
            .bind(it.first)
            .bind(it.last)
            .bind(&self.value)
            .execute(self.server.pool());
        let done = self.server.quick(&format!("marking rows of {}", self.table), update).await?;
        Ok(done.rows_affected())
    }

    async fn count_unmarked(&self, rows: &[Row]) -> Result<u64> {
        let Some(it) = Columns::of(rows, self.time) else { return Ok(0) };
        let count = sqlx::query_scalar(AssertSqlSafe(self.count_sql.clone()))
            .bind(it.uids)
            .bind(it.times)
            .bind(it.locations)
            .bind(it.first)
            .bind(it.last)
            .bind(&self.value)
            .fetch_one(self.server.pool());
        let action = format!("counting rows of {} that are not marked", self.table);
        let count: i64 = self.server.quick(&action, count).await?;
        Ok(u64::try_from(count).unwrap_or_default())
    }
}
