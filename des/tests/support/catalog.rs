//! SQL on the test's SQLite files, from outside of `des`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Connection, Row, SqliteConnection, ValueRef};

/// Rows as texts; NULL is `NULL`.
pub(crate) type Rows = Vec<Vec<String>>;

/// A SQLite file.
pub(crate) struct Sql {
    path: PathBuf,
}

impl Sql {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Runs statements; makes the file where it is not there.
    #[track_caller]
    pub(crate) fn execute(&self, sql: &str) {
        self.with(async |mut connection| {
            sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
            connection.close().await
        });
    }

    /// Inserts rows, as SQL's own kinds of values, in one transaction.
    #[track_caller]
    pub(crate) fn insert(&self, table: &str, rows: &[Vec<Value>]) {
        let Some(width) = rows.first().map(Vec::len) else { return };
        let sql = format!("INSERT INTO {table} VALUES ({})", vec!["?"; width].join(", "));
        self.with(async |mut connection| {
            let mut load = connection.begin().await?;
            for row in rows {
                let mut query = sqlx::query(AssertSqlSafe(sql.clone()));
                for value in row {
                    query = match value {
                        Value::Null => query.bind(None::<String>),
                        Value::Number(number) => query.bind(number.as_i64()),
                        Value::String(text) => query.bind(text.clone()),
                        other => panic!("{other} is no value of a catalog"),
                    };
                }
                query.execute(&mut *load).await?;
            }
            load.commit().await?;
            connection.close().await
        });
    }

    #[track_caller]
    pub(crate) fn query(&self, sql: &str) -> Rows {
        self.with(async |mut connection| {
            let rows =
                sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await?;
            connection.close().await?;
            Ok(rows.iter().map(texts).collect())
        })
    }

    /// The one value that `sql` selects.
    #[track_caller]
    pub(crate) fn value(&self, sql: &str) -> String {
        let rows = self.query(sql);
        match rows.as_slice() {
            [row] if row.len() == 1 => row[0].clone(),
            other => panic!("`{sql}` gives {other:?}"),
        }
    }

    /// The names of all tables.
    pub(crate) fn tables(&self) -> Vec<String> {
        let sql = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name";
        self.query(sql).into_iter().flatten().collect()
    }

    #[track_caller]
    fn with<T>(&self, work: impl AsyncFnOnce(SqliteConnection) -> sqlx::Result<T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done = runtime.expect("a runtime").block_on(async {
            let options = SqliteConnectOptions::new()
                .filename(&self.path)
                .create_if_missing(true)
                .busy_timeout(std::time::Duration::from_secs(20))
                .disable_statement_logging();
            work(options.connect().await?).await
        });
        done.unwrap_or_else(|error| panic!("{}: {error}", self.path.display()))
    }
}

fn texts(row: &sqlx::sqlite::SqliteRow) -> Vec<String> {
    (0..row.columns().len())
        .map(|at| {
            let is_null = row.try_get_raw(at).expect(row.column(at).name()).is_null();
            if is_null {
                return "NULL".to_owned();
            }
            let text = row.try_get_unchecked::<String, _>(at);
            text.unwrap_or_else(|error| panic!("column {}: {error}", row.column(at).name()))
        })
        .collect()
}
