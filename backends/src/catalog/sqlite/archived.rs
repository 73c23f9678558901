//! Marks archived files in a column of the table: one transaction a batch, a statement a row.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use protocol::Row;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, Statement, TransactionBehavior};

use crate::catalog::names::quote;
use crate::catalog::{ArchivedColumn, CatalogTable, Mark};
use crate::error::{BackendError, Result};

use super::SqliteCatalog;
use super::session::{BUSY_LIMIT, Session};
use super::table::{Column, Table};

/// A column of a table in a SQLite file, which is opened for writing, anew for every batch.
///
/// A value is an integer where it reads as one, `true` and `false` are 1 and 0, and everything is a
/// text in a column that is declared to hold texts.
pub struct SqliteArchivedColumn {
    catalog: SqliteCatalog,
    target: String,
    value: Value,
    mark_sql: String,
    count_sql: String,
}

impl SqliteArchivedColumn {
    /// Opens the file and looks the table and the column up.
    ///
    /// # Errors
    /// As [`SqliteCatalog::open`]; `Invalid` when the column is one of those that files are told by.
    pub async fn open(path: &Path, names: CatalogTable, mark: Mark) -> Result<Self> {
        let catalog = SqliteCatalog::open(path, names.clone()).await?;
        let column = mark.column.clone();
        let column: Column = catalog
            .read(Default::default(), move |opened, session: &Session| {
                Table::column(&session.connection, (&opened.file.database, &names), &column)
            })
            .await?;
        let table = &catalog.opened.table;
        let (name, from) = (quote(&column.name), table.from.clone());
        let marked = format!("{from}.{name}");
        let used =
            [Some(&table.uid), Some(&table.created_at), Some(&table.location), table.size.as_ref()];
        if used.into_iter().flatten().any(|used| *used == marked) {
            return Err(BackendError::Invalid {
                what: format!(
                    "files are told by the column {name} of {from}: it cannot say which are archived"
                ),
            });
        }
        let value = value_for(&column.declared, &mark.value);
        let target = format!("{}.{} = {}", from.trim_matches('"'), column.name, mark.value);
        let (mark_sql, count_sql) = statements(table, &name);
        Ok(Self { catalog, target, value, mark_sql, count_sql })
    }

    /// Runs `sql` for each of the rows in one transaction; the sum of what `work` makes of it.
    async fn each(
        &self,
        (action, writes): (&'static str, bool),
        sql: &str,
        rows: &[Row],
        work: fn(&mut Statement<'_>, [Value; 4]) -> rusqlite::Result<usize>,
    ) -> Result<u64> {
        let opened = Arc::clone(&self.catalog.opened);
        let (sql, value, rows) = (sql.to_owned(), self.value.clone(), rows.to_vec());
        let done = tokio::task::spawn_blocking(move || {
            let doing = format!("{action} of {}", opened.table.from);
            let failed = |error| opened.table.failed(&doing, error);
            let (access, behavior) = match writes {
                true => (OpenFlags::SQLITE_OPEN_READ_WRITE, TransactionBehavior::Immediate),
                false => (OpenFlags::SQLITE_OPEN_READ_ONLY, TransactionBehavior::Deferred),
            };
            let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let mut connection =
                Connection::open_with_flags(&opened.file.path, flags).map_err(failed)?;
            connection.busy_timeout(BUSY_LIMIT).map_err(failed)?;
            let transaction = connection.transaction_with_behavior(behavior).map_err(failed)?;
            let form = opened.form(&transaction)?;
            let mut sum = 0;
            let mut statement = transaction.prepare(&sql).map_err(failed)?;
            for row in rows {
                let time = form.bound(row.created_at()).into();
                let location = row.location.map_or(Value::Null, Value::Text);
                let values = [value.clone(), Value::Text(row.uid), time, location];
                sum += work(&mut statement, values).map_err(failed)?;
            }
            drop(statement);
            transaction.commit().map_err(failed)?;
            Ok(sum as u64)
        });
        done.await.unwrap_or_else(|error| {
            Err(BackendError::Failed {
                what: format!("{}: {action}", self.catalog.opened.file.database),
                cause: error.into(),
            })
        })
    }
}

fn value_for(declared: &str, text: &str) -> Value {
    // https://www.sqlite.org/datatype3.html#determination_of_column_affinity
    let declared = declared.to_ascii_uppercase();
    let holds_texts = !declared.contains("INT")
        && ["CHAR", "CLOB", "TEXT"].iter().any(|kind| declared.contains(kind));
    match text {
        _ if holds_texts => Value::Text(text.to_owned()),
        "true" => Value::Integer(1),
        "false" => Value::Integer(0),
        text => text.parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Integer),
    }
}

/// The UPDATE and its count. `?1` is the value, `?2` to `?4` are uid, time and location of a row.
///
/// The uid is compared as the text that it is read as, and before that in every form that it could be
/// stored in, for an index on it.
fn statements(table: &Table, name: &str) -> (String, String) {
    let Table { uid, created_at, location, from, .. } = table;
    let condition = format!(
        "{uid} IN (?2, CAST(?2 AS NUMERIC), CAST(?2 AS BLOB)) AND CAST({uid} AS TEXT) = ?2 \
         AND {created_at} = ?3 AND CAST({location} AS TEXT) IS ?4 AND {from}.{name} IS NOT ?1"
    );
    (
        format!("UPDATE {from} SET {name} = ?1 WHERE {condition}"),
        format!("SELECT count(*) FROM {from} WHERE {condition}"),
    )
}

#[async_trait]
impl ArchivedColumn for SqliteArchivedColumn {
    fn target(&self) -> &str {
        &self.target
    }

    async fn mark(&self, rows: &[Row]) -> Result<u64> {
        let set = |update: &mut Statement<'_>, values: [Value; 4]| update.execute(values);
        self.each(("marking rows", true), &self.mark_sql, rows, set).await
    }

    async fn count_unmarked(&self, rows: &[Row]) -> Result<u64> {
        let count = |count: &mut Statement<'_>, values: [Value; 4]| {
            count.query_row(values, |row| row.get::<_, u32>(0)).map(|count| count as usize)
        };
        self.each(("counting rows", false), &self.count_sql, rows, count).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_of_the_columns_kind() {
        let integer = Value::Integer;
        let text = |text: &str| Value::Text(text.to_owned());
        for (declared, value, expected) in [
            ("BOOLEAN", "true", integer(1)),
            ("boolean", "false", integer(0)),
            ("INTEGER", "7", integer(7)),
            ("", "1", integer(1)),
            ("TEXT", "true", text("true")),
            ("VARCHAR(9)", "1", text("1")),
            ("", "archived", text("archived")),
        ] {
            assert_eq!(value_for(declared, value), expected, "{declared} {value}");
        }
    }
}
